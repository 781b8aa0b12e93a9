"""The adding problem at T = 600, where Bai, Kolter & Koltun 2018 (table 1) report that the LSTM learns nothing.

python -m papers.adding600                       # five networks
python -m papers.adding600 --save --json FILE    # goes on from papers/results/, writes every number

Their LSTM ends at a squared error of 0.164; always saying 1 has 0.1667. Here the gates begin for the lag (`init.chrono`).
"""

from __future__ import annotations

import math
from pathlib import Path
from statistics import median

import torch
from papers.study import Claim, Learner, Reader, Trial, before, generator, median_of, run

from openlstm import LSTM
from openlstm.lab.tasks import Adding
from openlstm.nn import init

T, HIDDEN, BATCH, RATE, STEPS = 600, 32, 32, 1e-2, 2500
FRESH, BAR, LOOKS, GOOD = 10_000, 0.01, 100, 2e-3  # every 100 steps the running error is looked at; below GOOD training stops


def network(seed: int) -> Reader:
    """One layer whose gates begin for a lag of T."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Reader(init.chrono(LSTM(2, HIDDEN), T), 1)
        with torch.no_grad():
            net.head.bias.fill_(1.0)  # the mean of the answer
    return net


def train(key: str, seed: int) -> Trial:
    """One network, for STEPS steps at most."""
    task, net = Adding(), network(seed)
    look = before(net.layer, task.batch(T, 64, generator(seed, 0))[0], task.lag(T))
    learner, data, running, steps, curve = Learner(net, RATE), generator(seed, 1), 1 / 6, 0, []
    while steps < STEPS and not (steps % LOOKS == 0 and running < GOOD):
        x, total = task.batch(T, BATCH, data)
        loss = task.loss(net(x), total)
        learner.step(loss, RATE * min(1.0, (steps + 1) / 100) * 0.5 * (1 + math.cos(math.pi * steps / STEPS)))
        steps, running = steps + 1, 0.98 * running + 0.02 * float(loss.detach())
        if steps % LOOKS == 0:
            curve.append(round(running, 5))
    error, fresh = 0.0, generator(seed, 2)
    with torch.no_grad():
        for _ in range(10):
            x, total = task.batch(T, FRESH // 10, fresh)
            error += float(task.loss(net(x), total)) / 10
    return Trial(seed, error, error <= BAR, steps * BATCH, 0.0, look, {"steps": steps, "running_every_100": curve})


CLAIM = Claim(
    "adding600",
    "adding, T = 600",
    "0.164 (LSTM; GRU 5.3e-5, TCN 5.8e-5; always 1: 0.1667)",
    f"<= {BAR} on 10,000 fresh sequences, median of 5",
    5,
    "squared error",
    Adding().lag(T),
    lambda trials: median(t.value for t in trials) <= BAR,
    median_of,
    f"one layer of {HIDDEN} units (there 130) whose gates begin for a lag of {T} (`init.chrono`; there forget bias 1); Adam "
    f"{RATE} along a cosine, batches of {BATCH} fresh sequences (there 50,000 sequences again and again), gradient norm "
    f"clipped at 1, at most {STEPS:,} steps; one mark in each half (there two anywhere).",
)


if __name__ == "__main__":
    run("adding600", "Bai, Kolter & Koltun 2018, table 1: adding", [CLAIM], train, Path(__file__).parent / "results")
