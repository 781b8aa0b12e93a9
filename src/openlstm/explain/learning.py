"""The lecture's figures on learning: an LSTM beside a vanilla RNN at growing lags, and one LSTM unit that finds its gates.

The one unit, asked to overwrite and keep, finds f = 0, i = 1 and f = 1, i = 0 by itself; with the same first weights it is also
trained on a question for which nothing has to be kept.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch

from openlstm.explain.charts import Display, Panel, Values, number, over_lags, panels
from openlstm.explain.gates import Part
from openlstm.insight import gate_retention
from openlstm.lab.arms import Reader, build
from openlstm.lab.tasks.latch import EARLY, latch_batch
from openlstm.lab.trial import Learner, generator, learn
from openlstm.nn import LSTM, Trace, init, trace

LAG, STEPS, BATCH, RATE, TRIES = 8, 500, 64, 0.05, 6
FRESH = 500
SOLVED = 0.95

SIDE_BY_SIDE = {
    "rnn": "vanilla RNN",
    "lstm-forget-1": "LSTM with forget bias 1",
    "lstm-chrono": "LSTM with gates set for the lag",
}
"""Name of an arm of the lab -> what it is called here."""
LAGS, REPEATED, HIDDEN, LAG_STEPS, LAG_RATE = (5, 10, 20, 40, 100), 2, 16, 300, 0.01
LEARNT = 0.9  # of the answers right, in every repetition

Task = Callable[[int, int, torch.Generator], tuple[torch.Tensor, torch.Tensor]]


class Gates(NamedTuple):
    """What the one unit does on the sequence that is drawn.

    at the last mark, and on average at the steps after it; `kept` is the share of the cell that survives the lag. accuracy is
    that of fresh sequences.
    """

    f_mark: float
    i_mark: float
    f_after: float
    i_after: float
    kept: float
    accuracy: float


@cache
def lags(seed: int = 0) -> Part:
    """A vanilla RNN and an LSTM, trained alike on `latch` at a few lags: how often each answers right."""
    scores = {
        name: {lag: [_score(arm, lag, seed + k) for k in range(REPEATED)] for lag in LAGS} for arm, name in SIDE_BY_SIDE.items()
    }
    reach = {name: _reach(row) for name, row in scores.items()}
    facts = {"scores": scores, "reach": reach, "longest": LAGS[-1], "steps": LAG_STEPS, "repeated": REPEATED, "hidden": HIDDEN}
    told = [f"the {name} up to lag {lag}" if lag else f"the {name} at none of these lags" for name, lag in reach.items()]
    finding = (
        f"In each of {REPEATED} repetitions, {LEARNT:.0%} of the answers or more are right for {', '.join(told)}. Dots are "
        "repetitions, the dotted line is guessing."
    )
    title = "Trained side by side: right answers over lag"
    return {"lags": over_lags(title, finding, scores, "lag, in steps", "right answers", 0.5)}, facts


def newest(lag: int, batch: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """The same sequences with another question, for which nothing has to be kept: the sign at the very last step."""
    x, _ = latch_batch(lag, batch, generator)
    return x, (x[-1, :, 0] > 0).float()


def learning(seed: int = 0) -> Part:
    """Gates before and after training: where keeping is needed, and where it is not. The numbers are those of the curves."""
    begin, needed, tries = _train_until_solved(seed)
    not_needed = _train(copy.deepcopy(begin), newest, seed)
    models = {"before training": begin, "after training on latch": needed, "after training on the newest sign": not_needed}
    first, second, third = models
    x = _clear_sequence(seed)
    traces = {name: trace(model.layer, x) for name, model in models.items()}
    right = {name: _accuracy(m, newest if m is not_needed else latch_batch, seed) for name, m in models.items()}
    before, after, other = (_gates(traces[name], right[name]) for name in models)
    facts = {
        "lag": LAG,
        "mark": EARLY + 1,
        "steps": STEPS,
        "tries": tries,
        "solved": after.accuracy >= SOLVED,
        "before": before,
        "after": after,
        "other": other,
    }
    before_it = "the first one did not" if tries == 2 else "those before it did not"
    luck = "at the first attempt" if tries == 1 else f"at attempt {tries}; {before_it}"
    verdict = f"The unit learnt it {luck}." if facts["solved"] else f"None of {tries} attempts learnt it; this is the last one."
    learnt = (
        f"At the last mark, step {EARLY + 1}, f goes from {number(before.f_mark)} to {number(after.f_mark)} and i from "
        f"{number(before.i_mark)} to {number(after.i_mark)}: forget and write. On average over the {LAG} steps after it, f "
        f"goes from {number(before.f_after)} to {number(after.f_after)} and i from {number(before.i_after)} to "
        f"{number(after.i_after)}: keep. Over these steps the cell now keeps {number(after.kept)} of itself instead of "
        f"{number(before.kept)}. Of {FRESH} fresh sequences {after.accuracy:.1%} are answered right instead of "
        f"{before.accuracy:.1%}. {verdict}"
    )
    free = (
        f"Asked for the newest sign only, the unit answers {other.accuracy:.1%} right and keeps {number(other.kept)} of its "
        f"cell over the last {LAG} steps, against {number(after.kept)} where keeping was needed. There its forget gate is at "
        f"{number(other.f_after)} and its input gate at {number(other.i_after)} on average."
    )
    figures = {
        "learnt": _stack("Gates before and after training on latch", learnt, x, {k: traces[k] for k in (first, second)}),
        "free": _stack("The same unit where nothing has to be kept", free, x, {k: traces[k] for k in (first, third)}),
    }
    return figures, facts


def _score(arm: str, lag: int, seed: int) -> float:
    """Right answers on fresh sequences of `latch` after a short training."""
    model = build(arm, HIDDEN, lag, seed)
    learner, data = Learner(model, LAG_RATE), generator(seed, 1)
    for _ in range(LAG_STEPS):
        learn(learner, model, *latch_batch(lag, BATCH, data))
    return _right(model, *latch_batch(lag, 1000, generator(seed, 2)))


@torch.no_grad()
def _right(model: Reader, x: torch.Tensor, answer: torch.Tensor) -> float:
    """The share of right answers to a question after a sign."""
    return model.task.score(model(x), answer)


def _reach(scores: dict[int, list[float]]) -> int:
    """The longest lag up to which every lag was learnt in every repetition; 0 if the shortest was not."""
    reach = 0
    for lag, column in scores.items():
        if min(column) < LEARNT:
            break
        reach = lag
    return reach


def _train_until_solved(seed: int) -> tuple[Reader, Reader, int]:
    """Attempts with different first weights until one answers right: (before, after, attempts)."""
    for attempt in range(TRIES):
        begin = _begin(seed * TRIES + attempt)
        after = _train(copy.deepcopy(begin), latch_batch, seed)
        if _accuracy(after, latch_batch, seed) >= SOLVED:
            break
    return begin, after, attempt + 1


def _begin(seed: int) -> Reader:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Reader(init.forget_bias(LSTM(2, 1), 1.0))


def _train(model: Reader, task: Task, seed: int) -> Reader:
    learner, data = Learner(model, RATE), torch.Generator().manual_seed(seed + 1)
    for _ in range(STEPS):
        learn(learner, model, *task(LAG, BATCH, data))
    return model


def _accuracy(model: Reader, task: Task, seed: int) -> float:
    return _right(model, *task(LAG, FRESH, torch.Generator().manual_seed(seed + 2)))


def _gates(t: Trace, accuracy: float) -> Gates:
    """Of the trace of one sequence."""
    i, f = t["0.i"].numpy(), t["0.f"].numpy()  # [T, 1, 1]
    after = slice(EARLY + 1, None)
    return Gates(
        f_mark=float(f[EARLY, 0, 0]),
        i_mark=float(i[EARLY, 0, 0]),
        f_after=float(f[after].mean()),
        i_after=float(i[after].mean()),
        kept=float(gate_retention(f[after], LAG)[LAG, 0]),
        accuracy=accuracy,
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


def _stack(title: str, finding: str, x: torch.Tensor, traces: dict[str, Trace]) -> Display:
    def of(name: str) -> Values:
        return {key: t[f"0.{name}"][:, 0, 0].numpy() for key, t in traces.items()}

    gate = (-0.06, 1.06)
    rows = [
        Panel("noise (dotted: marked steps)", {"x": x[:, 0, 0].numpy()}, "bar", 54),
        Panel("forget gate f", of("f"), "step", 64, gate),
        Panel("input gate i", of("i"), "step", 64, gate),
        Panel("cell state c", of("c")),
    ]
    marks = [int(t) + 1 for t in torch.nonzero(x[:, 0, 1]).ravel()]
    return panels(title, finding, rows, marks=marks)
