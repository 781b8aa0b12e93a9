"""The lecture's section on learning: one LSTM unit, asked to overwrite and keep, finds f=0, i=1 and f=1, i=0 by itself.

The same unit with the same first weights is also trained on a question for which nothing has to be kept.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from openlstm.explain.charts import Figure, Panel, number, panels
from openlstm.insight import retention
from openlstm.lab.arms import Reader
from openlstm.lab.tasks.latch import EARLY, latch_batch
from openlstm.lab.trial import Learner, accuracy_of
from openlstm.nn import LSTM, init, trace

LAG, STEPS, BATCH, RATE, TRIES = 8, 500, 64, 0.05, 6
FRESH = 500
SOLVED = 0.95

Task = Callable[[int, int, torch.Generator], tuple[torch.Tensor, torch.Tensor]]


class Gates(NamedTuple):
    """What the one unit does on fresh sequences, on average.

    at the last mark, and at the steps after it; `kept` is the share of the cell that survives the lag.
    """

    f_mark: float
    i_mark: float
    f_after: float
    i_after: float
    kept: float
    accuracy: float


def newest(lag: int, batch: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """The same sequences with another question, for which nothing has to be kept: the sign at the very last step."""
    x, _ = latch_batch(lag, batch, generator)
    return x, (x[-1, :, 0] > 0).float()


def learning(seed: int) -> tuple[list[Figure], dict[str, Any]]:
    """Gates before and after training: where keeping is needed, and where it is not."""
    begin, needed, tries = _train_until_solved(seed)
    not_needed = _train(copy.deepcopy(begin), newest, seed)
    models = {"before training": begin, "after training on latch": needed, "after training on the newest sign": not_needed}
    look = {name: _gates(m, newest if m is not_needed else latch_batch, seed) for name, m in models.items()}
    before, after, other = look.values()
    facts = {
        "lag": LAG,
        "steps": STEPS,
        "tries": tries,
        "solved": after.accuracy >= SOLVED,
        "before": before,
        "after": after,
        "other": other,
    }
    x = _clear_sequence(seed)
    traces = {name: trace(m.layer, x) for name, m in models.items()}
    first, second, third = models
    marks = [int(t) + 1 for t in torch.nonzero(x[:, 0, 1]).ravel()]
    luck = "at the first attempt" if tries == 1 else f"at attempt {tries}; the attempts before it did not"
    verdict = f"The unit learnt it {luck}." if facts["solved"] else f"None of {tries} attempts learnt it; this is the last one."
    learnt = Figure(
        "Gates before and after training on latch",
        _stack(x, {name: traces[name] for name in (first, second)}, marks),
        f"At the last mark, f goes from {number(before.f_mark)} to {number(after.f_mark)} and i from {number(before.i_mark)} "
        f"to {number(after.i_mark)}: start afresh. After it, f goes from {number(before.f_after)} to {number(after.f_after)} "
        f"and i from {number(before.i_after)} to {number(after.i_after)}: keep. Over the lag of {LAG} steps the cell now keeps "
        f"{number(after.kept)} of itself instead of {number(before.kept)}, and {after.accuracy:.1%} of fresh answers are right "
        f"instead of {before.accuracy:.1%}. {verdict}",
        (first, second),
    )
    free = Figure(
        "The same unit where nothing has to be kept",
        _stack(x, {name: traces[name] for name in (first, third)}, marks),
        f"Asked for the newest sign only, the unit answers {other.accuracy:.1%} right and keeps {number(other.kept)} of its "
        f"cell over {LAG} steps, against {number(after.kept)} where keeping was needed. Its forget gate is at "
        f"{number(other.f_after)}, its input gate at {number(other.i_after)}.",
        (first, third),
    )
    return [learnt, free], facts


def _train_until_solved(seed: int) -> tuple[Reader, Reader, int]:
    """Attempts with different first weights until one answers right: (before, after, attempts)."""
    for attempt in range(TRIES):
        begin = _begin(seed * TRIES + attempt)
        after = _train(copy.deepcopy(begin), latch_batch, seed)
        if _gates(after, latch_batch, seed).accuracy >= SOLVED:
            break
    return begin, after, attempt + 1


def _begin(seed: int) -> Reader:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Reader(init.forget_bias(LSTM(2, 1), 1.0))


def _train(model: Reader, task: Task, seed: int) -> Reader:
    learner, data = Learner(model, RATE), torch.Generator().manual_seed(seed + 1)
    for _ in range(STEPS):
        learner.step(*task(LAG, BATCH, data))
    return model


def _gates(model: Reader, task: Task, seed: int) -> Gates:
    x, answer = task(LAG, FRESH, torch.Generator().manual_seed(seed + 2))
    t = trace(model.layer, x)
    i, f = t["0.i"].numpy(), t["0.f"].numpy()  # [T, B, 1]
    after = slice(EARLY + 1, None)
    return Gates(
        f_mark=float(f[EARLY].mean()),
        i_mark=float(i[EARLY].mean()),
        f_after=float(f[after].mean()),
        i_after=float(i[after].mean()),
        kept=float(retention(f[after], LAG)[LAG, 0]),
        accuracy=accuracy_of(model, x, answer),
    )


def _clear_sequence(seed: int) -> torch.Tensor:
    """Of a hundred fresh sequences the one [T, 1, 2] that the eye can follow best.

    Its last mark turns the sign of the mark before it, and its marked values are the farthest from zero.
    """
    x, _ = latch_batch(LAG, 100, torch.Generator().manual_seed(seed + 3))
    marked = x[..., 1].T.bool()  # [B, T]
    values = x[..., 0].T[marked].view(100, -1)  # [B, marks]
    turned = values[:, -1].sign() != values[:, -2].sign()
    row = int(torch.where(turned, values.abs().amin(1), -1.0).argmax())
    return x[:, row : row + 1]


def _stack(x: torch.Tensor, traces: dict[str, Any], marks: list[int]) -> Any:
    def of(name: str) -> dict[str, np.ndarray]:
        return {key: t[f"0.{name}"][:, 0, 0].numpy() for key, t in traces.items()}

    gate = (-0.06, 1.06)
    rows = [
        Panel("channel 0 (dotted: marked steps)", {"x": x[:, 0, 0].numpy()}, "bar", 54),
        Panel("forget gate f", of("f"), "step", 64, gate),
        Panel("input gate i", of("i"), "step", 64, gate),
        Panel("cell state c", of("c"), "line", 84),
    ]
    return panels(rows, marks=marks)
