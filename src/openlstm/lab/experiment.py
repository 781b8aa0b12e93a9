"""An experiment: one task, several networks and seeds; what was measured before training beside the scores after it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from openlstm.engine.threads import torch_aside
from openlstm.errors import ArgumentError
from openlstm.lab.advised import Advised, measure
from openlstm.lab.arms import ADVISED, ARMS, SIDE_BY_SIDE
from openlstm.lab.jobs import each
from openlstm.lab.tasks import TASKS, Task
from openlstm.lab.trial import BATCH, CLIP, FRESH, Job, Outcome


@dataclass(frozen=True)
class Row:
    """What one arm did, one number per seed that is done.

    title: in the tables; that of the advised arm says what the advice was.
    scores: the share of right answers on fresh sequences, after training.
    shares: the share of the gradient that reached the lag, before training.
    curves: the score on the training batch at every 20th step.
    """

    name: str
    title: str
    scores: tuple[float, ...]
    shares: tuple[float, ...]
    curves: tuple[tuple[float, ...], ...] = ()

    @property
    def mean(self) -> float:
        """Of the scores."""
        return fmean(self.scores)

    @property
    def reaches_before(self) -> float:
        """The share of the gradient that reached the lag before training, median over seeds."""
        return median(self.shares)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON; None for what is not finite."""
        shares = [_finite(share) for share in self.shares]
        return {
            "name": self.name,
            "title": self.title,
            "reaches_before": _finite(self.reaches_before),
            "scores": list(self.scores),
            "mean": self.mean,
            "min": min(self.scores),
            "max": max(self.scores),
            "shares": shares,
        }


@dataclass(frozen=True)
class Running:
    """A network that is learning now."""

    seed: int
    step: int
    score: float  # on its last batch; NaN before the first step
    share: float  # of the gradient, before training


@dataclass(frozen=True)
class Setup:
    """What is run: every arm on a task of a size, once with each seed."""

    task: Task
    size: int
    seeds: range
    steps: int
    arms: tuple[str, ...]  # in the order of the table
    hidden: int

    @property
    def lag(self) -> int:
        """The steps over which something has to be remembered."""
        return self.task.lag(self.size)

    @property
    def networks(self) -> int:
        """How many are trained."""
        return len(self.arms) * len(self.seeds)


@dataclass(frozen=True)
class Progress(Setup):
    """Where a run stands, for a live table.

    done: networks.
    rows: arm -> what is known from the seeds that are done.
    running: arm -> the networks that are learning now.
    """

    done: int
    seconds: float
    rows: dict[str, Row]
    running: dict[str, list[Running]]
    advice: Advised | None


@dataclass(frozen=True)
class Result(Setup):
    """The table of an experiment."""

    seconds: float
    rows: tuple[Row, ...]
    advice: Advised | None = None

    def __getitem__(self, arm: str) -> Row:
        return next(row for row in self.rows if row.name == arm)

    @property
    def best(self) -> Row:
        """The arm with the highest mean score."""
        return max(self.rows, key=lambda row: row.mean)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, ready for JSON."""
        t = self.task
        protocol = {"hidden": self.hidden, "batch": BATCH, "adam": t.rate, "clip": CLIP, "fresh_sequences": FRESH}
        return {
            "experiment": t.name,
            t.size_name: self.size,
            "needed_lag": self.lag,
            "seeds": len(self.seeds),
            "steps": self.steps,
            "first_seed": self.seeds.start,
            "seconds": self.seconds,
            "protocol": protocol,
            "score": t.answer,
            "guessing": t.guessing,
            "arms": [row.to_dict() for row in self.rows],
            "advice": self.advice.to_list() if self.advice else [],
            "published": [p._asdict() for p in t.published],
        }

    def to_markdown(self) -> str:
        """The table as it stands in docs/lab.md."""
        share = f"share of the gradient at lag {self.lag} before training"
        lines = [f"| arm | {self.task.answer}, mean of {len(self.seeds)} | smallest - largest | {share} |", "|---|---|---|---|"]
        for row in self.rows:
            name = f"`{row.name}` {row.title}"
            span = f"{min(row.scores):.1%} - {max(row.scores):.1%}"
            lines.append(f"| {name} | {row.mean:.1%} | {span} | {row.reaches_before:.1e} |")
        return "\n".join(lines)


def run(
    task: str | Task,
    size: int | None = None,
    *,
    seeds: int | range = 1,
    steps: int | None = None,
    arms: Iterable[str] = SIDE_BY_SIDE,
    hidden: int | None = None,
    jobs: int = 1,
    on_progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Train every arm on a task and say how often it answers right, beside how much gradient reached the lag before training.

    All arms of a seed see the same sequences. The numbers depend on the arguments alone (and on the last bits of the backend),
    not on `jobs`.

    Args:
        task: a name from `lab.tasks.TASKS`.
        size: its lag or length; the task's own if None.
        seeds: how many repetitions, with the seeds 0, 1, ...; or the seeds themselves, as range(3, 8).
        steps: training steps, at least 0; the task's own if None.
        arms: names from `ARMS`; "lstm-advice" gets what the X-ray recommends for the default LSTM of the first seed.
        hidden: H; the task's own if None.
        jobs: processes that work at a time. With more than 1, a script needs `if __name__ == "__main__":` around the call.
        on_progress: called every 20 steps of a network and when one is done.

    Raises:
        ArgumentError: for an unknown task or arm, or a number out of range.
        TrainingError: if a network fails; it says which.

    >>> result = run("recall", 3, steps=2, arms=["rnn", "lstm"])
    >>> [row.name for row in result.rows]
    ['rnn', 'lstm']
    """
    task = _task(task) if isinstance(task, str) else task
    size = task.default if size is None else size
    steps = task.steps if steps is None else steps
    hidden = task.hidden if hidden is None else hidden
    arms = tuple(arms)
    seeds = range(seeds) if isinstance(seeds, int) else seeds
    numbers = {"size": size, "seeds": len(seeds), "steps": steps, "seed": seeds.start, "hidden": hidden, "jobs": jobs}
    _check(task, numbers, arms)
    return _Run(Setup(task, size, seeds, steps, arms, hidden), on_progress)(jobs)


def title(arm: str, advice: Advised | None) -> str:
    """The title of an arm; that of the advised one says what the advice was, once it is known."""
    if arm != ADVISED or advice is None:
        return ARMS[arm].title
    return f"LSTM + advice ({advice.flag or 'nothing to change'})"


class _Run:
    """One call of `run`, with what is known so far."""

    def __init__(self, setup: Setup, on_progress: Callable[[Progress], None] | None) -> None:
        self.setup, self.on_progress = setup, on_progress
        self.begin = time.perf_counter()
        self.advice: Advised | None = None
        self.outcomes: dict[tuple[str, int], Outcome] = {}
        self.running: dict[tuple[str, int], Running] = {}

    def __call__(self, jobs: int) -> Result:
        with torch_aside():
            for job, outcome in each(self.jobs(), min(jobs, self.setup.networks), self.report):
                self.outcomes[job.arm, job.seed] = outcome
                self.running.pop((job.arm, job.seed), None)
                self.tell()
        rows, seconds = tuple(self.rows().values()), time.perf_counter() - self.begin
        return Result(**vars(self.setup), seconds=seconds, rows=rows, advice=self.advice)

    def jobs(self) -> Iterator[Job]:
        """Seed by seed; the advised arm of a seed comes last, so that others learn while the advice is measured."""
        s = self.setup
        for seed in s.seeds:
            for arm in sorted(s.arms, key=lambda arm: arm == ADVISED):
                if arm == ADVISED and self.advice is None:
                    self.advice = measure(s.task, s.size, s.hidden, s.seeds.start)
                advice = self.advice.flag if arm == ADVISED and self.advice else None
                yield Job(s.task.name, s.size, arm, seed, s.hidden, s.steps, advice)

    def report(self, job: Job, step: int, score: float, share: float) -> None:
        self.running[job.arm, job.seed] = Running(job.seed, step, score, share)
        self.tell()

    def tell(self) -> None:
        if self.on_progress is None:
            return
        running = {arm: [now for (name, _), now in sorted(self.running.items()) if name == arm] for arm in self.setup.arms}
        done, seconds = len(self.outcomes), time.perf_counter() - self.begin
        self.on_progress(
            Progress(**vars(self.setup), done=done, seconds=seconds, rows=self.rows(), running=running, advice=self.advice)
        )

    def rows(self) -> dict[str, Row]:
        """Arm -> row, of what is done; seeds in their order, whatever the order in which they ended."""
        rows = {}
        for arm in self.setup.arms:
            done = [self.outcomes[arm, seed] for seed in self.setup.seeds if (arm, seed) in self.outcomes]
            if done:
                scores, shares, curves, _ = zip(*done, strict=True)
                rows[arm] = Row(arm, title(arm, self.advice), scores, shares, curves)
        return rows


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _task(name: str) -> Task:
    if name not in TASKS:
        raise ArgumentError.of("lab", f"unknown task {name!r}", repr(name), ", ".join(TASKS), "use one of these names")
    return TASKS[name]


def _check(task: Task, numbers: dict[str, int], arms: tuple[str, ...]) -> None:
    least = {"size": task.least, "steps": 0, "seed": 0}
    for key, value in numbers.items():
        name, low = task.size_name if key == "size" else key, least.get(key, 1)
        if value < low:
            hint = f"pass {name}={low} or more"
            raise ArgumentError.of(task.name, f"{name} is too small", f"{name}={value}", f"at least {low}", hint)
    for arm in arms:
        if arm not in ARMS:
            hint = "use one of these names"
            raise ArgumentError.of(task.name, f"unknown arm {arm!r}", repr(arm), ", ".join(ARMS), hint)
    if not arms or len(set(arms)) < len(arms):
        hint = "leave arms out to run all of them"
        raise ArgumentError.of(task.name, "arms must be named once each", repr(list(arms)), ", ".join(ARMS), hint)
