"""What a network uses, on models whose context is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import openlstm
from openlstm._errors import ArgumentError, ShapeError
from openlstm.insight.ablation import ablation


class Last(nn.Module):
    """The sum of the last `n` steps; of every step with every=True. [T, B, I] -> [B, I] or [T, B, I]."""

    def __init__(self, n: int, every: bool = False) -> None:
        super().__init__()
        self.n, self.every = n, every

    def forward(self, x: Tensor) -> Tensor:
        total = x.cumsum(0)
        if x.shape[0] > self.n:
            total = torch.cat([total[: self.n], total[self.n :] - total[: -self.n]])
        return total if self.every else total[-1]


def error(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return (model(x) - y).square().mean()


def data(T: int = 50, I: int = 2) -> Tensor:  # noqa: E741
    return torch.randn(T, 64, I, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("n", [1, 2, 13, 32, 49])
def test_the_context_of_a_model_is_found_to_the_step(n: int) -> None:
    x = data()
    y = Last(n)(x) + 0.1 * torch.randn(64, 2, generator=torch.Generator().manual_seed(1))
    found = ablation(Last(n), (x, y), error)
    assert found.uses == n and found.full == found.losses[-1] and found.contexts[-1] == 50
    assert found.losses[found.contexts == n] == pytest.approx(found.full, rel=1e-4)
    assert f"{n} step" in found.finding or n == 1
    assert found.to_dict()["uses"] == n


def test_a_target_for_every_step_is_asked_at_many_ends() -> None:
    x = data()
    y = Last(9, every=True)(x)
    assert ablation(Last(9, every=True), (x, y), error).uses == 9
    first = ablation(Last(9, every=True), (x, y), error, contexts=[9, 25]).losses
    np.testing.assert_allclose(first, 0, atol=1e-10)


def test_other_inputs_of_every_step_are_cut_with_x() -> None:
    x, other = data(), data().flip(0)
    model = Last(9)
    y = model(x + other)
    assert ablation(model, (x, other, y), lambda m, x, other, y: (m(x + other) - y).square().mean()).uses == 9


def test_batch_first_is_that_of_the_layer() -> None:
    torch.manual_seed(0)
    layer: Any = nn.LSTM(2, 8, batch_first=True)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = layer

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x)[0][:, -1]

    x = data().transpose(0, 1)
    y = Model()(x).detach()
    found = ablation(Model(), (x, y), error)
    assert 3 < found.uses < 40  # a default LSTM forgets: its own answer of 50 steps needs a few
    time_first = ablation(nn.Sequential(Flip(), Model()), (x.transpose(0, 1), y), error, batch_first=False)
    assert time_first.uses == found.uses


class Flip(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1)


def test_order_that_does_not_matter_is_not_minded() -> None:
    x = data()
    mean = Last(50)
    assert ablation(mean, (x, mean(x)), error, mode="shuffle", contexts=[1, 10, 50]).uses == 1
    near = Last(20)
    assert ablation(near, (x, near(x)), error, mode="shuffle").uses == 20


def test_a_column() -> None:
    class One(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[-6:, :, 0].sum(0) + x[-1, :, 1]

    x = data()
    y = One()(x)
    assert ablation(One(), (x, y), error, mode="feature", feature=0).uses == 6
    assert ablation(One(), (x, y), error, mode="feature", feature=1).uses == 1


def test_the_tail_must_hold() -> None:
    """A context at which the loss is right by accident is not the one that is used."""

    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[-8:].sum(0) if len(x) != 3 else torch.full_like(x[0], 0.0) + Odd.answer

        answer: Tensor

    x = data()
    Odd.answer = x[-8:].sum(0)
    assert ablation(Odd(), (x, Odd.answer), error, contexts=[1, 2, 3, 7, 8, 20, 50]).uses == 8


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(Last(3), nn.Dropout(0.5))
    model.train()
    model[1].eval()
    state = torch.get_rng_state()
    ablation(model, (data(), Last(3)(data())), error)
    assert model.training and not model[1].training and torch.equal(torch.get_rng_state(), state)


def test_refusals() -> None:
    x = data(5)
    with pytest.raises(ArgumentError) as told:
        ablation(Last(2), (x, x[-1]), error, contexts=[0])
    assert str(told.value) == (
        "ablation: a context outside the sequences\n  got       [0]\n  expected  1 .. 5\n"
        "  hint      name contexts within the sequences"
    )
    with pytest.raises(ShapeError, match="hold no target"):
        ablation(Last(2), (x,), error)
    with pytest.raises(ArgumentError, match="unknown mode"):
        ablation(Last(2), (x, x[-1]), error, mode="drop")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="which column"):
        ablation(Last(2), (x, x[-1]), error, mode="feature")
    with pytest.raises(ArgumentError, match="no such column"):
        ablation(Last(2), (x, x[-1]), error, mode="feature", feature=2)
    with pytest.raises(ArgumentError, match="loss is not finite"):
        ablation(Last(2), (x, x[-1]), lambda m, x, y: m(x).sum() * float("nan"))


def test_a_recurrent_layer_uses_what_it_latched() -> None:
    """An LSTM with f = 1 that writes the first step alone uses all of it, whatever its gradient says."""
    layer = openlstm.LSTM(2, 1)
    with torch.no_grad():
        for p in layer.parameters():
            p.zero_()
        layer.weight_ih_l0.copy_(torch.tensor([[0.0, 200.0], [0.0, 0.0], [3.0, 0.0], [0.0, 0.0]]))  # type: ignore[operator]
        layer.bias_ih_l0.copy_(torch.tensor([-100.0, 100.0, 0.0, 100.0]))  # type: ignore[operator]
    x = data(30)
    x[..., 1] = 0.0
    x[4, :, 1] = 1.0

    def loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
        return (model(x)[0][-1] - y).square().mean()

    y = layer(x)[0][-1].detach()
    assert ablation(layer, (x, y), loss).uses == 26
