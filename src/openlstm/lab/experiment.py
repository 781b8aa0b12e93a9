"""`latch`: overwrite a sign, then keep it through a lag of distractors; every arm on the same data, step by step side by side.

The protocol is fixed (docs/lab.md): H = 32, batch 64, Adam 3e-3, gradient norm clipped at 1, 1,000 steps, binary cross entropy
on the answer read from the last h, accuracy on 2,000 fresh sequences.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from openlstm._errors import ArgumentError, message
from openlstm.insight import gradient_share
from openlstm.lab.arms import ARMS, Reader, build
from openlstm.lab.sequences import latch_batch
from openlstm.nn import trace

HIDDEN, BATCH, RATE, CLIP, STEPS, FRESH = 32, 64, 3e-3, 1.0, 1000, 2000
REPORT_EVERY = 20  # steps between two calls of on_progress


@dataclass(frozen=True)
class Row:
    """What one arm did, over all seeds.

    accuracy: on fresh sequences after training, one number per seed; 0.5 is guessing.
    share: the share of the gradient that reached the last mark before training, one number per seed.
    """

    arm: str
    title: str
    accuracy: tuple[float, ...]
    share: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Mean, smallest and largest accuracy, the median share, and the numbers of every seed."""
        return {
            "arm": self.arm,
            "title": self.title,
            "accuracy": {"mean": fmean(self.accuracy), "min": min(self.accuracy), "max": max(self.accuracy)},
            "share": median(self.share),
            "per_seed": {"accuracy": list(self.accuracy), "share": list(self.share)},
        }


@dataclass(frozen=True)
class Progress:
    """Where a run stands, for a live table.

    running: arm -> accuracy on the last batches of the current seed, NaN before the first step.
    share: arm -> the share of the gradient before training of the current seed.
    rows: arm -> what is known from finished seeds (none before the first is finished).
    """

    seed: int  # counted from 0
    seeds: int
    step: int
    steps: int
    running: dict[str, float]
    share: dict[str, float]
    rows: dict[str, Row]


@dataclass(frozen=True)
class Result:
    """The table of an experiment."""

    lag: int
    seeds: int
    steps: int
    first_seed: int
    seconds: float
    rows: tuple[Row, ...]

    def __getitem__(self, arm: str) -> Row:
        return next(row for row in self.rows if row.arm == arm)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, ready for JSON."""
        protocol = {"hidden": HIDDEN, "batch": BATCH, "adam": RATE, "clip": CLIP, "fresh_sequences": FRESH}
        head = {k: v for k, v in asdict(self).items() if k != "rows"}
        return {"experiment": "latch", **head, "protocol": protocol, "rows": [row.to_dict() for row in self.rows]}

    def to_markdown(self) -> str:
        """The table as it stands in docs/lab.md."""
        share = f"share of the gradient at lag {self.lag} before training"
        lines = [f"| arm | accuracy, mean of {self.seeds} | smallest - largest | {share} |", "|---|---|---|---|"]
        for row in (r.to_dict() for r in self.rows):
            a = row["accuracy"]
            name = f"`{row['arm']}` {row['title']}"
            lines.append(f"| {name} | {a['mean']:.1%} | {a['min']:.1%} - {a['max']:.1%} | {row['share']:.1e} |")
        return "\n".join(lines)


def latch(
    lag: int = 120,
    seeds: int = 5,
    steps: int = STEPS,
    arms: Iterable[str] = tuple(ARMS),
    seed: int = 0,
    on_progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Train every arm on `latch` and say how often it answers right, beside how much gradient reached the lag before training.

    All arms of a seed see the same sequences. The numbers depend on the arguments alone (and on the last bits of the backend).

    Args:
        lag: steps between the last mark and the answer, at least 1.
        seeds: how many repetitions, at least 1.
        steps: training steps, at least 0.
        arms: names from `ARMS`.
        seed: the first seed; repetition k uses seed + k.
        on_progress: called every 20 steps and at the end of each seed.

    Raises:
        ArgumentError: for an unknown arm, or a number out of range.

    >>> result = latch(lag=3, seeds=1, steps=2, arms=["rnn", "lstm-chrono"])
    >>> [row.arm for row in result.rows]
    ['rnn', 'lstm-chrono']
    """
    arms = tuple(arms)
    _check(lag, seeds, steps, seed, arms)
    begin = time.perf_counter()
    done: dict[str, Row] = {}

    def tell(k: int, step: int, running: dict[str, float], share: dict[str, float]) -> None:
        if on_progress:
            on_progress(Progress(k, seeds, step, steps, running, share, dict(done)))

    for k in range(seeds):
        after, share = _repetition(lag, steps, arms, seed + k, partial(tell, k))
        for arm in arms:
            old = done.get(arm, Row(arm, ARMS[arm].title, (), ()))
            done[arm] = Row(arm, old.title, (*old.accuracy, after[arm]), (*old.share, share[arm]))
        tell(k, steps, after, share)
    return Result(lag, seeds, steps, seed, time.perf_counter() - begin, tuple(done[arm] for arm in arms))


def share_by_lag(model: Reader, x: torch.Tensor, answer: torch.Tensor) -> np.ndarray:
    """||dL/ds_{T-k}|| / ||dL/ds_T|| for the task's own loss, for k = 0 .. T-1: what a training step can hear of each lag."""
    t = trace(model.layer, x, loss=lambda out, state: F.binary_cross_entropy_with_logits(model.read(state), answer))
    return gradient_share(t["0.dh"], t["0.dc"] if "0.dc" in t else None)


def accuracy_of(model: Reader, x: torch.Tensor, answer: torch.Tensor) -> float:
    """The share of right answers. A network that diverged to NaN answers "negative" everywhere, which is guessing."""
    with torch.no_grad():
        return int(((model(x) > 0) == (answer > 0)).sum()) / len(answer)


class Learner:
    """A network on its way: model, Adam, and a running accuracy."""

    def __init__(self, model: Reader, rate: float = RATE) -> None:
        self.model = model
        self.adam = torch.optim.Adam(model.parameters(), rate)
        self.running = math.nan

    def step(self, x: torch.Tensor, answer: torch.Tensor) -> None:
        """One step of the protocol."""
        self.adam.zero_grad()
        logits = self.model(x)
        F.binary_cross_entropy_with_logits(logits, answer).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.adam.step()
        right = float(((logits.detach() > 0) == (answer > 0)).float().mean())
        self.running = right if math.isnan(self.running) else 0.95 * self.running + 0.05 * right


def _repetition(
    lag: int, steps: int, arms: tuple[str, ...], seed: int, tell: Callable[[int, dict[str, float], dict[str, float]], None]
) -> tuple[dict[str, float], dict[str, float]]:
    """One seed: arm -> accuracy after training, arm -> share before; `tell(step, running, share)` every 20 steps."""
    learners = {arm: Learner(build(arm, HIDDEN, lag, seed)) for arm in arms}
    look = latch_batch(lag, BATCH, _generator(seed, 0))
    share = {arm: float(share_by_lag(learner.model, *look)[lag]) for arm, learner in learners.items()}
    data = _generator(seed, 1)
    for step in range(steps):
        if step % REPORT_EVERY == 0:
            tell(step, {arm: learner.running for arm, learner in learners.items()}, share)
        batch = latch_batch(lag, BATCH, data)
        for learner in learners.values():
            learner.step(*batch)
    fresh = latch_batch(lag, FRESH, _generator(seed, 2))
    return {arm: accuracy_of(learner.model, *fresh) for arm, learner in learners.items()}, share


def _generator(seed: int, purpose: int) -> torch.Generator:
    """Independent streams for the look before training (0), training (1) and the fresh sequences (2)."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, purpose]).generate_state(1, np.uint64)[0] >> 1))


def _check(lag: int, seeds: int, steps: int, seed: int, arms: tuple[str, ...]) -> None:
    for name, value, least in (("lag", lag, 1), ("seeds", seeds, 1), ("steps", steps, 0), ("seed", seed, 0)):
        if value < least:
            raise ArgumentError(
                message("latch", f"{name} is too small", f"{name}={value}", f"at least {least}", f"pass {name}={least} or more")
            )
    for arm in arms:
        if arm not in ARMS:
            hint = "use one of these names"
            raise ArgumentError(message("latch", f"unknown arm {arm!r}", repr(arm), ", ".join(ARMS), hint))
    if not arms or len(set(arms)) < len(arms):
        hint = "leave arms out to run all of them"
        raise ArgumentError(message("latch", "arms must be named once each", repr(list(arms)), ", ".join(ARMS), hint))
