"""The advice of an experiment: what `openlstm.insight.advise` finds for its LSTM, measured before anything is trained."""

from __future__ import annotations

from typing import Any, NamedTuple

from openlstm.insight.judge.advice import advise
from openlstm.lab.arms import build
from openlstm.lab.tasks import Task
from openlstm.lab.trial import generator

LOOK = 64  # sequences of the look


class Advised(NamedTuple):
    """What to change, as plain values.

    flag: as `openlstm.nn.init.apply` takes it; None where nothing better than the default was found, or nothing is blocked.
    verdict: of the default LSTM at the lag.
    tried: every candidate, with the numbers by which it was judged.
    finding: all of it in a sentence or two.
    """

    lag: int
    verdict: str
    flag: str | None
    line: str | None
    tried: tuple[dict[str, Any], ...]
    finding: str

    def to_list(self) -> list[dict[str, Any]]:
        """The candidates, the recommended one marked."""
        return [{**one, "best": one["flag"] == self.flag} for one in self.tried]


def measure(task: Task, size: int, hidden: int, seed: int) -> Advised:
    """Ask for advice for the default LSTM on a task: one look at its gradient and its forward pass per candidate."""

    def loss(model: Any, x: Any, *target: Any) -> Any:
        return task.look_loss(model(x), *target)

    lag = task.lag(size)
    model = build("lstm", hidden, lag, seed, task)
    found = advise(model, task.look(size, LOOK, generator(seed, 0)), lag=lag, loss=loss)
    best = found.best
    tried = tuple(candidate.to_dict() for candidate in found.tried)
    return Advised(lag, found.verdict.word, best and best.flag, best and best.line, tried, found.finding)
