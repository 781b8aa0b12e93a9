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
from torch import Tensor, nn

from openlstm.insight import gradient_share
from openlstm.lab.arms import Reader, build
from openlstm.lab.tasks import TASKS
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
    """Adam, or plain gradient descent, with the norm of the gradient clipped; `rate` may be set anew before every step."""

    def __init__(
        self, model: nn.Module, rate: float = RATE, clip: float = CLIP, *, eps: float = 1e-8, plain: bool = False
    ) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        # fused: one pass over all weights instead of ten
        adam = torch.optim.Adam(self.parameters, rate, eps=eps, fused=True)
        self.optimizer = torch.optim.SGD(self.parameters, rate, fused=True) if plain else adam
        self.clip = clip

    def step(self, loss: Tensor, rate: float | None = None) -> None:
        """One step down the gradient of `loss`."""
        if rate is not None:
            self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()


def learn(learner: Learner, model: Reader, x: Tensor, *target: Tensor) -> Tensor:
    """One step of the protocol; what the network answered before it, without gradient."""
    outputs = model(x)
    learner.step(model.task.loss(outputs, *target))
    return outputs.detach()


def run(job: Job, tell: Callable[[int, float, float], None] = lambda *_: None) -> Outcome:
    """Do a job; `tell(step, score, share)` every 20 steps, the score being NaN before the first step.

    The outcome depends on the job alone (and on the last bits of the backend), not on the process it runs in.
    """
    begin = time.perf_counter()
    task = TASKS[job.task]
    model = build(job.arm, job.hidden, task.lag(job.size), job.seed, task, job.advice)
    look = task.look(job.size, BATCH, generator(job.seed, 0))
    by_lag = share_by_lag(model, *look)
    share = float(by_lag[min(task.lag(job.size), len(by_lag) - 1)])
    learner, data = Learner(model, task.rate), generator(job.seed, 1)
    curve = []
    tell(0, math.nan, share)
    for step in range(1, job.steps + 1):
        x, *target = task.batch(job.size, BATCH, data)
        outputs = learn(learner, model, x, *target)
        if step % REPORT_EVERY == 0:
            curve.append(task.score(outputs, *target))
            tell(step, curve[-1], share)
    return Outcome(score(model, job.size, generator(job.seed, 2)), share, tuple(curve), time.perf_counter() - begin)


def share_by_lag(model: Reader, x: Tensor, *target: Tensor) -> np.ndarray:
    """||dL/ds_{T-k}|| / ||dL/ds_T|| for the loss of the last answer, for k = 0 .. T-1: how much of it arrives from each lag."""
    t = trace(model.layer, x, loss=lambda out, state: model.task.look_loss(model.answer(out, state), *target))
    return gradient_share(t["0.dh"], t["0.dc"] if "0.dc" in t else None)


@torch.no_grad()
def score(model: Reader, size: int, data: torch.Generator, sequences: int = FRESH) -> float:
    """The share of right answers on fresh sequences, a part of them at a time."""
    task, right, asked = model.task, 0, 0
    for first in range(0, sequences, PART):
        x, *target = task.batch(size, min(PART, sequences - first), data)
        answers = task.right(model(x), *target)
        right, asked = right + int(answers.sum()), asked + answers.numel()
    return right / asked


def generator(*key: int) -> torch.Generator:
    """A source of randomness of its own for every key.

    In an experiment the key is (seed, purpose): 0 the look before training, 1 training, 2 the fresh sequences.

    >>> float(torch.rand((), generator=generator(0, 1))) == float(torch.rand((), generator=generator(0, 1)))
    True
    """
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
