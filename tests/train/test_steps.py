"""The callback of every step: what it hears, when, and that it changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import openlstm
from openlstm.errors import TrainingError
from openlstm.insight.watch import Watch
from openlstm.train import Options, Step, train


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = openlstm.LSTM(1, 6, 2, dropout=0.2)
        self.head = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x.transpose(0, 1))[0][-1])


def squares(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return ((model(x) - y) ** 2).sum(), torch.tensor(y.numel())


def data(n: int = 70) -> list[Tensor]:
    x = torch.randn(n, 12, 1, generator=torch.Generator().manual_seed(1))
    return [x, x[:, 0]]


OPTIONS = Options(epochs=3, batch_size=10, least_batches=1, clip=0.05)


def test_it_hears_every_step_between_the_backward_pass_and_the_move() -> None:
    model = Net()
    heard: list[Step] = []
    weights: list[Tensor] = []

    def hear(step: Step) -> None:
        heard.append(step)
        weights.append(model.head.weight.detach().clone())
        assert all(p.grad is not None for p in model.parameters())
        total = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
        assert float(total) == pytest.approx(min(step.norm, 0.05), rel=1e-3)  # clipped already

    train(model, squares, data(), data(20), OPTIONS, each_step=[hear])
    assert [s.number for s in heard] == list(range(21)) and [s.epoch for s in heard] == [1] * 7 + [2] * 7 + [3] * 7
    assert all(s.clip == 0.05 and s.norm > 0 and s.loss > 0 for s in heard)
    assert all(not bool((a == b).all()) for a, b in zip(weights, weights[1:], strict=False))


def test_a_watch_changes_no_bit_of_a_training() -> None:
    plain, watched = Net(), Net()
    watch = Watch(watched, every=5, first=(0, 1, 2), lag=11)
    a = train(plain, squares, data(), data(20), OPTIONS)
    b = train(watched, squares, data(), data(20), OPTIONS, each_step=[watch.on_step])
    assert all(bool((p == q).all()) for p, q in zip(plain.parameters(), watched.parameters(), strict=True))
    assert [e.validation_loss for e in a.epochs] == [e.validation_loss for e in b.epochs]
    assert [g.step for g in watch.of("rnn.1")] == [0, 1, 2, 5, 10, 15, 20]
    assert len(watch.norms) == 21 and watch.clip_rate is not None and watch.clip_rate > 0.5
    assert "clipped at" in watch.finding and "threshold too low" in watch.finding
    assert not watched.rnn._forward_hooks or watch._calls is not None
    watch.close()
    assert not watched.rnn._forward_hooks and not watched.rnn._forward_pre_hooks


def test_numbers_of_steps_have_no_gaps_where_a_table_is_gone_through_several_times() -> None:
    heard: list[int] = []
    options = Options(epochs=2, batch_size=10, least_batches=9)
    train(Net(), squares, data(35), data(20), options, each_step=[lambda s: heard.append(s.number)])
    assert heard == list(range(len(heard))) and len(heard) > 9


def test_a_gradient_that_is_not_finite_ends_the_training_and_says_where() -> None:
    def overflow(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return (torch.sqrt(model(x) * 0).sum() + 1), torch.tensor(1)  # 0 * inf on the way back

    model = Net()
    watch = Watch(model, every=1)
    with pytest.raises(TrainingError) as error:
        train(model, overflow, data(), data(20), OPTIONS, each_step=[watch.on_step])
    assert str(error.value) == (
        "train: the gradient is not finite in epoch 1\n"
        "  got       norm=nan at step 0: rnn.0: dL/dh is nan at step 11, row 0, unit 0\n"
        "  expected  a finite gradient\n"
        "  hint      lower the learning rate, or look for huge values in the data"
    )
    assert watch.bad == "the gradient is nan at step 0 of the training"
    assert watch.snapshots[-1].weight_gradient.first_non_finite is not None
    assert "dL/dh is nan at step 11, row 0, unit 0" in watch.snapshots[-1].weight_gradient.first_non_finite
