"""Progress: what it says is true, a log without a terminal is never silent for long, and quiet is quiet."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torch import Tensor, nn

from openlstm.insight import Watch
from openlstm.train import Epoch, Options, Step, progress, train


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(show: Callable[..., None], clock: Clock, epochs: int, seconds: float = 1.0, steps: int = 10) -> None:
    """One member: so many epochs of 10 steps of 32 windows, each step taking so long."""
    for epoch in range(1, epochs + 1):
        for k in range(steps):
            clock.now += seconds
            show.step(Step((epoch - 1) * steps + k, epoch, 0.5, 1.0, 1.0, 32, steps))  # type: ignore[attr-defined]
        show(Epoch(epoch, 0.5 / epoch, 0.25 / epoch, True, steps * seconds, 32 * steps))


def watch(*horizons: tuple[int, int]) -> Watch:
    """What has seen these horizons: (step, horizon)."""
    return cast(Watch, SimpleNamespace(snapshots=[SimpleNamespace(step=step, horizon=lag) for step, lag in horizons]))


def test_lines_without_a_terminal() -> None:
    out, clock = io.StringIO(), Clock()
    with progress("LSTM", 4, members=2, console=Console(file=out), clock=clock) as show:
        run(show, clock, 1)
        run(show, clock, 2)  # a second member: its epochs begin again
    assert out.getvalue().splitlines() == [
        "LSTM: training, 2 members of at most 4 epochs",
        "LSTM: 1/2, epoch 1/4, 32 windows/s, loss 0.5, norm 1, ≤1:15 left",
        "LSTM: 1/2, epoch 1/4, 32 windows/s, loss 0.5, norm 1, ≤1:10 left",
        "LSTM: 2/2, epoch 1/4, 32 windows/s, loss 0.5, norm 1, ≤0:35 left",
        "LSTM: 2/2, epoch 1/4, 32 windows/s, loss 0.5, norm 1, ≤0:30 left",
        "LSTM: 2/2, epoch 2/4, 32 windows/s, loss 0.5, val 0.25, norm 1, ≤0:25 left",
        "LSTM: 2/2, epoch 2/4, 32 windows/s, loss 0.5, val 0.25, norm 1, ≤0:20 left",
        "LSTM: 2 members, 3 epochs in 0:30, best val 0.125 to 0.25",
    ]


def test_a_member_without_validation_has_no_best_loss() -> None:
    out, clock = io.StringIO(), Clock()
    with progress("fit", 1, members=2, console=Console(file=out), clock=clock) as show:
        show(Epoch(1, 0.5, 0.25, True, 1.0, 32))
        show(Epoch(1, 0.5, float("nan"), True, 1.0, 32))
    assert out.getvalue().splitlines()[-1] == "fit: 2 members, 2 epochs in 0:00, best val 0.25"


@given(st.floats(0.001, 30.0), st.integers(1, 30))
def test_a_log_is_neither_silent_nor_flooded(seconds: float, epochs: int) -> None:
    out, clock, said = io.StringIO(), Clock(), [100.0]
    with progress("LSTM", epochs, console=Console(file=out), clock=clock) as show:
        before = len(out.getvalue())
        for k in range(epochs):
            clock.now += seconds
            show(Epoch(k + 1, 0.5, 0.5, not k, seconds, 320))
            if len(out.getvalue()) > before:
                before = len(out.getvalue())
                said.append(clock.now)
            assert clock.now - said[-1] < 60 + seconds
    assert all(b - a >= 5.0 for a, b in zip(said, said[1:], strict=False))
    assert f"LSTM: {epochs} epoch" in out.getvalue().splitlines()[-1]


LINES = {
    200: "1/5, epoch 12/100, 3,200 windows/s, loss 0.0417, val 0.0208, norm 1, horizon 8 to 40, ≤0:49 left",
    109: "1/5, epoch 12/100, 3,200/s, loss 0.0417, val 0.0208, norm 1, horizon 8 to 40, ≤0:49 left",
    101: "1/5, epoch 12/100, loss 0.0417, val 0.0208, norm 1, horizon 8 to 40, ≤0:49 left",
    92: "1/5, epoch 12/100, loss 0.0417, val 0.0208, horizon 8 to 40, ≤0:49 left",
    84: "1/5, epoch 12/100, loss 0.0417, val 0.0208, ≤0:49 left",
    67: "1/5, epoch 12/100, loss 0.0417, ≤0:49 left",
}


@pytest.mark.parametrize("width", LINES)
def test_a_terminal_shows_one_line_that_fits(width: int) -> None:
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=True, width=width, color_system=None)
    with progress("vanilla RNN", 100, members=5, console=console, clock=clock) as show:
        show.watch = watch((0, 3), (12, 8), (12, 40))
        run(show, clock, 12, 0.01)
        assert show.line() == LINES[width]
    lines = [line.rstrip() for part in out.getvalue().split("\x1b[2K") for line in part.splitlines() if "vanilla" in line]
    assert all(len(line) <= width and "…" not in line for line in lines)
    assert "12 epochs in 0:01, best val 0.0208" in lines[-1] and ("━" in lines[-1]) == (width == 200)


def test_the_share_grows_from_step_to_step_up_to_one() -> None:
    clock, shares = Clock(), [0.0]
    with progress("LSTM", 3, members=2, quiet=True, clock=clock) as show:
        for _ in range(2):
            for epoch in range(1, 4):
                for k in range(7):
                    show.step(Step((epoch - 1) * 7 + k, epoch, 0.5, 1.0, 1.0, 32, 7))
                    shares.append(show.share)
                show(Epoch(epoch, 0.5, 0.5, True, 1.0, 224))
                assert show.share == pytest.approx(shares[-1])
    assert all(a < b for a, b in zip(shares, shares[1:], strict=False)) and shares[-1] == pytest.approx(1.0)
    assert show.examples == 2 * 3 * 224


def test_a_resumed_training_has_its_share_at_once_and_the_speed_of_what_it_did_since() -> None:
    out, clock = io.StringIO(), Clock()
    with progress("fit", 20, members=3, console=Console(file=out), clock=clock) as show:
        show.skip(8, 0.125)  # stopped early
        assert show.share == pytest.approx(1 / 3)
        clock.now += 6.0
        show.step(Step(57, 3, 0.5, 1.0, 1.0, 32, 20))
        assert show.share == pytest.approx((20 + 2.9) / 60)
        for number in (58, 59):
            clock.now += 6.0
            show.step(Step(number, 3, 0.5, 1.0, 1.0, 32, 20))
        show(Epoch(3, 0.5, 0.5, False, 99.0, 640))  # the best is an earlier one, of which nothing is known
        run(show, clock, 1, steps=3)
    assert out.getvalue().splitlines() == [
        "fit: training, 3 members of at most 20 epochs",
        "fit: 2/3, epoch 3/20, 5 windows/s, loss 0.5, norm 1, ≤1:14:12 left",
        "fit: 2/3, epoch 3/20, 5 windows/s, loss 0.5, norm 1, ≤1:14:06 left",
        "fit: 2/3, epoch 3/20, 5 windows/s, loss 0.5, norm 1, ≤1:14:00 left",
        "fit: 3 members, 12 epochs, 2 of them in 0:21, best val 0.125 to 0.25",
    ]


@pytest.mark.parametrize("first", range(12))
def test_a_training_that_goes_on_from_any_step_ends_with_the_share_one(first: int) -> None:
    with progress("fit", 3, members=2, quiet=True, clock=Clock()) as show:
        show.skip(1)
        for number in range(first, 12):
            show.step(Step(number, number // 4 + 1, 0.5, 1.0, 1.0, 32, 4))
            assert show.share == pytest.approx(0.5 + (number + 1) / 24)
            if number % 4 == 3:
                show(Epoch(number // 4 + 1, 0.5, 0.5, True, 1.0, 128))
                assert show.share == pytest.approx(0.5 + (number + 1) / 24)


def test_nothing_is_shown_when_quiet_or_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (True, False):
        with progress("LSTM", 3, quiet=quiet) as show:
            show(Epoch(1, 0.5, 0.5, True, 1.0))
        out, err = capsys.readouterr()
        assert (out, "LSTM" in err) == ("", not quiet)


def test_the_loop_says_how_many_examples_it_learns_from() -> None:
    def squares(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return ((model(x) - y) ** 2).sum(), torch.tensor(y.numel())

    x = torch.ones(70, 1)
    epochs: list[Epoch] = []
    steps: list[Step] = []
    options = Options(epochs=2, batch_size=16, least_batches=1)
    train(nn.Linear(1, 1), squares, [x, x], [x, x], options, [epochs.append], [steps.append])
    assert [e.examples for e in epochs] == [70, 70]
    assert [(s.examples, s.steps) for s in steps[:5]] == [(16, 5)] * 4 + [(6, 5)]
