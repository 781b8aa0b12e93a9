"""Parity, as in Delétang et al. 2023, "Neural networks and the Chomsky hierarchy", table 1.

python -m papers.parity                       # five networks
python -m papers.parity --save --json FILE    # goes on from papers/results/, writes every number

Bits, and after the last of them the question whether the number of ones is odd. Trained on lengths 1 to 40, tested on fresh
sequences of every length from 41 to 500.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
from papers.study import Claim, Learner, Reader, Trial, before, generator, run
from torch import Tensor
from torch.nn import functional as F

from openlstm import LSTM
from openlstm.lab.tasks import Parity

HIDDEN, BATCH, RATE, STEPS = 16, 64, 1e-2, 10_000
LONGEST, LONGER, EACH = 40, range(41, 501), 50
SURE = 1e-3  # training stops when the running loss is below


def batch(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """x [40, B, 1], lengths [B] uniform in 1 .. 40, and whether the number of ones up to there is odd, [B].

    >>> x, lengths, odd = batch(3, torch.Generator().manual_seed(0))
    >>> [int((x[:n, b] > 0).sum()) % 2 for b, n in enumerate(lengths)] == odd.int().tolist()
    True
    """
    x, odd = Parity().batch(LONGEST, rows, generator)
    lengths = torch.randint(1, LONGEST + 1, (rows,), generator=generator)
    return x, lengths, odd[lengths - 1, torch.arange(rows)]


def train(key: str, seed: int) -> Trial:
    """One network until it is sure of itself, then the longer sequences."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Reader(LSTM(1, HIDDEN), 1)
    look = before(net.layer, Parity().batch(LONGEST, 64, generator(seed, 0))[0], LONGEST - 1)
    learner, data, running, steps = Learner(net, RATE), generator(seed, 1), 1.0, 0
    while steps < STEPS and running > SURE:
        x, lengths, target = batch(BATCH, data)
        loss = F.binary_cross_entropy_with_logits(net(x, lengths)[:, 0], target)
        learner.step(loss)
        steps, running = steps + 1, 0.99 * running + 0.01 * float(loss.detach())
    right, fresh = [], generator(seed, 2)
    with torch.no_grad():
        for length in LONGER:
            x, odd = Parity().batch(length, EACH, fresh)
            right.append(int(((net(x)[:, 0] > 0) == (odd[-1] > 0)).sum()) / EACH)
    value = fmean(right)
    more = {"steps": steps, "loss": running, "worst_length": min(right)}
    return Trial(seed, value, value == 1, steps * BATCH, 0.0, look, more)


def shown(trials: Sequence[Trial]) -> str:
    """In the paper's terms, and every network."""
    solved = sum(t.solved for t in trials)
    return f"{max(t.value for t in trials):.1%} by the best, 100 % by {solved} of {len(trials)}"


CLAIM = Claim(
    "parity",
    "parity, trained on lengths 1-40",
    "100.0 % at lengths 41-500 (LSTM, best of its runs; Transformer 52.0)",
    "100 % by every network",
    5,
    "right answers",
    LONGEST - 1,
    lambda trials: all(t.solved for t in trials),
    shown,
    f"one layer of {HIDDEN} units (there 256) that begins as torch.nn.LSTM does; Adam {RATE}, batches of {BATCH} of mixed "
    f"lengths (there 1e-3, 128), at most {STEPS:,} steps, stopped when the running loss is below {SURE}; every network counts "
    f"(there the best of a search); tested on {EACH} fresh sequences of each of the {len(LONGER)} lengths.",
)


if __name__ == "__main__":
    run("parity", "Delétang et al. 2023, table 1: parity", [CLAIM], train, Path(__file__).parent / "results")
