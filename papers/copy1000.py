"""The copy task at T = 1,000, where Bai, Kolter & Koltun 2018 (table 1) report that the LSTM remembers nothing.

python -m papers.copy1000                       # five networks
python -m papers.copy1000 --save --json FILE    # goes on from papers/results/, writes every number

Ten symbols of eight kinds, a silence, and the ten symbols again. Their LSTM ends at a cross entropy of 0.0204 a step, which is
that of guessing the ten symbols: 10 ln 8 / 1,020. Here the silence grows while the network learns: from one step on, by a third
whenever the symbols come back well enough.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median

import torch
from papers.study import Claim, Learner, Trial, before, generator, median_of, run
from torch import Tensor, nn

from openlstm import LSTM
from openlstm.lab.tasks import Copy
from openlstm.nn import init

T, HIDDEN, BATCH, RATE, STEPS = 1000, 64, 32, 1e-2, 5000
FRESH, BAR = 10_000, 0.002
GROWS, WELL, DONE = 1.33, 0.25, 0.1  # factor of the silence; nats a symbol at which it grows, and at which training ends


class Copier(nn.Module):
    """One layer whose every output is read: x [T, B, 10] -> [T, B, 9]."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.layer = init.chrono(LSTM(10, hidden), T)
        self.head = nn.Linear(hidden, 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0])


def network(seed: int) -> Copier:
    """One layer whose gates begin for a lag of T."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Copier(HIDDEN)


def train(key: str, seed: int) -> Trial:
    """One network, for STEPS steps at most."""
    task, net = Copy(), network(seed)
    look = before(net.layer, task.batch(T, 64, generator(seed, 0))[0], task.lag(T))
    learner, data, curve = Learner(net, RATE), generator(seed, 1), []
    silence, running, steps = 1, 2.0, 0
    while steps < STEPS and not (silence == T and running < DONE):
        x, target = task.batch(silence, BATCH, data)
        loss = task.loss(net(x), target) * (silence + 20) / 10  # a sum over steps: nats for each of the ten symbols
        learner.step(loss, RATE)
        steps, running = steps + 1, 0.95 * running + 0.05 * float(loss.detach())
        if running < WELL and silence < T:
            curve.append((steps, silence))
            silence, running = min(T, max(silence + 1, round(silence * GROWS))), 2 * WELL
    error, fresh = 0.0, generator(seed, 2)
    with torch.no_grad():
        for _ in range(20):
            x, target = task.batch(T, FRESH // 20, fresh)
            error += float(task.loss(net(x), target)) / 20
    more = {"steps": steps, "silence": silence, "grew_at": curve}
    return Trial(seed, error, error <= BAR, steps * BATCH, 0.0, look, more)


CLAIM = Claim(
    "copy1000",
    "copy, T = 1,000",
    "0.0204 (LSTM; GRU 0.0197, TCN 3.5e-5; remembering nothing: 0.0204)",
    f"<= {BAR} on 10,000 fresh sequences, median of 5",
    5,
    "cross entropy",
    Copy().lag(T),
    lambda trials: median(t.value for t in trials) <= BAR,
    median_of,
    f"one layer of {HIDDEN} units (there 50) whose gates begin for a lag of {T} (`init.chrono`); one input a symbol (there a "
    f"number); Adam {RATE}, batches of {BATCH} fresh sequences, gradient norm clipped at 1, at most {STEPS:,} steps; the "
    f"silence grows from 1 to {T} by a factor of {GROWS} whenever a symbol costs less than {WELL} nats (there {T} from "
    f"the beginning).",
)


if __name__ == "__main__":
    run("copy1000", "Bai, Kolter & Koltun 2018, table 1: copy", [CLAIM], train, Path(__file__).parent / "results")
