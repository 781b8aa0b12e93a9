"""The training loop: repeatable, stops early, keeps the best weights, and touches nothing it was not given."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from openlstm.engine import threads
from openlstm.errors import ArgumentError, TrainingError
from openlstm.train import Epoch, Options, progress, train
from openlstm.train.loop import _rate


def squares(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    known = ~y.isnan()
    return (((model(x) - torch.where(known, y, 0.0)) * known) ** 2).sum(), known.sum()


def data(n: int = 200, seed: int = 0) -> list[Tensor]:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    return [x, x @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]]) + 3.0]


def linear(seed: int = 0) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(4, 1)


def test_it_learns_and_keeps_the_best_weights() -> None:
    model, validation = linear(), data(50, 1)
    history = train(model, squares, data(), validation, Options(learning_rate=0.1, weight_decay=0.0))
    error, count = squares(model, *validation)
    assert float((error / count).detach()) == pytest.approx(history.best.validation_loss)
    assert history.best.validation_loss == min(e.validation_loss for e in history.epochs) < 1e-3
    assert [e.is_best for e in history.epochs] == [
        e.validation_loss < min((o.validation_loss for o in history.epochs[:k]), default=math.inf)
        for k, e in enumerate(history.epochs)
    ]


def test_it_stops_when_validation_no_longer_improves() -> None:
    x, y = data()
    history = train(
        linear(), squares, [x, y], [x, -y], Options(epochs=30, learning_rate=0.1, patience=4)
    )  # learning makes it worse
    assert len(history.epochs) == history.best.number + 4 < 30


def test_the_same_seed_gives_the_same_weights_and_the_global_state_is_left_alone() -> None:
    ends = []
    for seed in (7, 7, 8):
        torch.manual_seed(ends.__len__())
        before = torch.random.get_rng_state()
        first = linear()
        model = nn.Sequential(first, nn.Dropout(0.5))
        train(model, squares, data(), data(50, 1), Options(epochs=3, seed=seed))
        assert (torch.random.get_rng_state() == before).all()
        ends.append(first.weight.detach().clone())
    assert (ends[0] == ends[1]).all()
    assert not (ends[0] == ends[2]).all()


def test_targets_that_are_masked_have_no_say() -> None:
    x, y = data()
    holes = y.clone()
    holes[::3] = torch.nan
    keep = ~holes[:, 0].isnan()
    with_holes, without = linear(), linear()
    options = Options(epochs=5, batch_size=1000, least_batches=1)  # one batch, so that both see the same rows at once
    a = train(with_holes, squares, [x, holes], [x, holes], options)
    b = train(without, squares, [x[keep], y[keep]], [x[keep], y[keep]], options)
    torch.testing.assert_close(with_holes.weight, without.weight)
    assert a.best.validation_loss == pytest.approx(b.best.validation_loss)


def test_a_batch_without_targets_is_no_step() -> None:
    model = linear()
    before = model.weight.detach().clone()
    x, y = data()
    train(model, squares, [x, y * torch.nan], [x, y], Options(epochs=2))
    assert (model.weight == before).all()


def test_gradients_are_clipped() -> None:
    seen: list[float] = []

    class Watched(torch.optim.AdamW):
        def step(self, *args: Any, **kwargs: Any) -> Any:
            seen.append(float(torch.stack([p.grad.norm() for g in self.param_groups for p in g["params"]]).norm()))
            return super().step(*args, **kwargs)

    original, torch.optim.AdamW = torch.optim.AdamW, Watched  # type: ignore[misc]
    try:
        x, y = data()
        train(linear(), squares, [x, 1e6 * y], [x, y], Options(epochs=2, clip=0.5, least_batches=1))
    finally:
        torch.optim.AdamW = original  # type: ignore[misc]
    assert len(seen) == 2 * 4 and all(norm == pytest.approx(0.5, rel=1e-3) for norm in seen)


def test_validation_runs_without_dropout_and_without_gradients() -> None:
    modes: list[tuple[bool, bool]] = []

    def watch(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        modes.append((model.training, torch.is_grad_enabled()))
        return squares(model, x, y)

    train(linear(), watch, data(64), data(64), Options(epochs=2, least_batches=1))
    assert modes == [(True, True), (False, False)] * 2


def test_callbacks_hear_every_epoch() -> None:
    heard: list[Epoch] = []
    history = train(linear(), squares, data(), data(50), Options(epochs=3), [heard.append])
    assert tuple(heard) == history.epochs
    assert [e.number for e in heard] == [1, 2, 3]


def test_an_epoch_of_a_long_table_is_a_random_part_of_it() -> None:
    rows: list[Tensor] = []

    def watch(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if model.training:
            rows.append(x[:, 0].detach())
        return squares(model, x, y)

    train(linear(), watch, data(1000), data(50), Options(epochs=2, batch_size=10, most_batches=5))
    assert [len(r) for r in rows] == [10] * 10
    assert len(torch.cat(rows[:5]).unique()) == 50
    assert not set(torch.cat(rows[:5]).tolist()) >= set(torch.cat(rows[5:]).tolist())


def test_a_short_table_is_gone_through_several_times_in_an_epoch() -> None:
    rows: list[Tensor] = []

    def watch(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if model.training:
            rows.append(x[:, 0].detach())
        return squares(model, x, y)

    train(linear(), watch, data(30), data(50), Options(epochs=1, batch_size=10, least_batches=9))
    assert len(rows) == 9
    for k in (0, 3, 6):
        assert len(torch.cat(rows[k : k + 3]).unique()) == 30


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    rates = [_rate(step, 10, 20) for step in range(200)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0, abs=0.01) and rates[-1] < 1e-3
    assert rates.index(max(rates)) == 9
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_progress_is_silent_when_asked_and_never_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (True, False):
        with progress("LSTM", 3, quiet=quiet) as bar:
            train(linear(), squares, data(), data(50), Options(epochs=3), [bar])
        out, err = capsys.readouterr()
        assert out == ""
        assert ("LSTM" in err) is not quiet


def test_a_loss_that_is_not_finite_and_empty_data_are_refused_with_this_text() -> None:
    x, y = data()
    with pytest.raises(TrainingError) as e:
        train(linear(), squares, [x * 1e30, y * 1e30], [x, y])
    assert str(e.value) == (
        "train: the loss is not finite in epoch 1\n"
        "  got       loss=inf at step 0: the loss of row 0 is inf, behind the recurrent layers\n  expected  a finite loss\n"
        "  hint      lower the learning rate, or look for huge values in the data"
    )
    with pytest.raises(ArgumentError) as e:
        train(linear(), squares, [x, y], [x[:0], y[:0]])
    assert str(e.value) == (
        "train: validation holds no example\n  got       0 examples: [0, 4], [0, 1]\n  expected  at least one row\n"
        "  hint      give a longer table, or a smaller window or horizon"
    )
    with pytest.raises(ArgumentError) as e:
        Options(learning_rate=0.0)
    assert str(e.value) == (
        "Options: learning_rate must be above zero\n  got       learning_rate=0.0\n  expected  a number > 0\n"
        "  hint      leave learning_rate out to take its default"
    )
    with pytest.raises(ArgumentError) as e:
        Options(seed=-1)
    assert str(e.value) == (
        "Options: seed must not be negative\n  got       seed=-1\n  expected  a number >= 0\n"
        "  hint      leave seed out to take its default"
    )
    for rate in (1e300, float("inf")):  # torch would raise an error of its own
        with pytest.raises(ArgumentError) as e:
            Options(learning_rate=rate)
        assert str(e.value) == (
            f"Options: learning_rate is too large\n  got       learning_rate={rate!r}\n"
            "  expected  at most 1e+30, usually below 1\n  hint      leave learning_rate out to take its default"
        )


def test_torch_stands_aside_and_comes_back() -> None:
    before = (torch.get_num_threads(), threads.get_num_threads(), threads._chosen)
    try:
        torch.set_num_threads(3)
        threads.set_num_threads(None)
        engine = threads.get_num_threads()
        with pytest.raises(ZeroDivisionError), threads.torch_aside():
            assert (torch.get_num_threads(), threads.get_num_threads()) == (1, engine)
            raise ZeroDivisionError
        with threads.torch_aside(threads=1):
            assert (torch.get_num_threads(), threads.get_num_threads()) == (1, 1)
        assert (torch.get_num_threads(), threads.get_num_threads(), threads._chosen) == (3, engine, None)
    finally:
        torch.set_num_threads(before[0])
        threads.set_num_threads(before[2])
