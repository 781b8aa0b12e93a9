"""One network, one seed: the look before training, the training, the score. What runs in a process of its own.

The protocol is the same for every task and every arm (docs/lab.md): batches of 64 fresh sequences, Adam, the norm of the
gradient clipped at 1, the score on 2,000 fresh sequences; no early stopping and no search.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from openlstm.insight import gradient_share
from openlstm.lab.arms import Reader, build
from openlstm.lab.tasks import TASKS, Task
from openlstm.nn import trace

BATCH, RATE, CLIP, FRESH = 64, 3e-3, 1.0, 2000
REPORT_EVERY = 20  # steps between two reports
PART = 500  # fresh sequences that are scored at once


@dataclass(frozen=True)
class Job:
    """What one process has to do; plain values only."""

    task: str
    size: int
    arm: str
    seed: int
    hidden: int = 32
    steps: int = 1000
    advice: str | None = None  # as in `openlstm.nn.init.apply`: "chrono=120"


class Outcome(NamedTuple):
    """What came of a job.

    share: of the gradient of the answer at the last step that reached the lag, before training.
    curve: the score on the training batch at every 20th step.
    """

    score: float
    share: float
    curve: tuple[float, ...]
    seconds: float


class Learner:
    """A network on its way: model and Adam."""

    def __init__(self, model: Reader, rate: float = RATE, task: Task = TASKS["latch"]) -> None:
        self.model = model
        self.task = task
        self.parameters = list(model.parameters())
        self.adam = torch.optim.Adam(self.parameters, rate, fused=True)  # one pass over all weights instead of ten

    def step(self, x: Tensor, *target: Tensor) -> Tensor:
        """One step of the protocol; what the network answered before it, without gradient."""
        self.adam.zero_grad()
        outputs = self.model(x)
        self.task.loss(outputs, *target).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.adam.step()
        return outputs.detach()


def run(job: Job, tell: Callable[[int, float, float], None] = lambda *_: None) -> Outcome:
    """Do a job; `tell(step, score, share)` every 20 steps, the score being NaN before the first step.

    The outcome depends on the job alone (and on the last bits of the backend), not on the process it runs in.
    """
    begin = time.perf_counter()
    task = TASKS[job.task]
    model = build(job.arm, job.hidden, task.lag(job.size), job.seed, task, job.advice)
    look = task.look(job.size, BATCH, generator(job.seed, 0))
    by_lag = share_by_lag(model, *look, task=task)
    share = float(by_lag[min(task.lag(job.size), len(by_lag) - 1)])
    learner, data = Learner(model, task.rate, task), generator(job.seed, 1)
    curve = []
    tell(0, math.nan, share)
    for step in range(1, job.steps + 1):
        x, *target = task.batch(job.size, BATCH, data)
        outputs = learner.step(x, *target)
        if step % REPORT_EVERY == 0:
            curve.append(task.score(outputs, *target))
            tell(step, curve[-1], share)
    return Outcome(score(model, task, job.size, generator(job.seed, 2)), share, tuple(curve), time.perf_counter() - begin)


def share_by_lag(model: Reader, x: Tensor, *target: Tensor, task: Task = TASKS["latch"]) -> np.ndarray:
    """||dL/ds_{T-k}|| / ||dL/ds_T|| for the loss of the last answer, for k = 0 .. T-1: what training can hear of each lag."""
    t = trace(model.layer, x, loss=lambda out, state: task.look_loss(model.answer(out, state), *target))
    return gradient_share(t["0.dh"], t["0.dc"] if "0.dc" in t else None)


@torch.no_grad()
def score(model: Reader, task: Task, size: int, data: torch.Generator, sequences: int = FRESH) -> float:
    """The share of right answers on fresh sequences, a part of them at a time."""
    right = asked = 0
    for first in range(0, sequences, PART):
        x, *target = task.batch(size, min(PART, sequences - first), data)
        answers = task.right(model(x), *target)
        right, asked = right + int(answers.sum()), asked + answers.numel()
    return right / asked


def accuracy_of(model: Reader, x: Tensor, answer: Tensor) -> float:
    """The share of right answers to a question after a sign."""
    with torch.no_grad():
        return TASKS["latch"].score(model(x), answer)


def generator(seed: int, purpose: int) -> torch.Generator:
    """Independent streams for the look before training (0), training (1) and the fresh sequences (2)."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, purpose]).generate_state(1, np.uint64)[0] >> 1))
