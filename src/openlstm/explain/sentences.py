"""The lecture's figure on sentences: an LSTM that has read a stream of strings, and its forget gate over the text.

The strings are those of `lab continual-reber`: nothing says where one ends and the next begins but the letters themselves. The
weights were trained beforehand, since that takes longer than a page may; `tools/sentences.py` trains them again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from openlstm.explain.charts import number, over_text
from openlstm.explain.gates import Part
from openlstm.lab.arms import Reader
from openlstm.lab.tasks.reber import SYMBOLS, ContinualReber, streams
from openlstm.lab.tasks.task import one_hot
from openlstm.lab.trial import Learner, generator
from openlstm.nn import LSTM, init, trace

WEIGHTS = Path(__file__).with_suffix(".safetensors")
TASK = ContinualReber()
HIDDEN, STEPS, RATE, LENGTH, BATCH, SEED = 8, 6000, 0.02, 100, 64, 3
SHOWN, ROWS, LONG = 60, 32, 400  # letters in the figure; streams and letters of each that the numbers are taken from
WARM = 40  # letters until the cells are as full as they become
FIRST, OTHER = "first letter of a sentence", "any other letter"


def forgetting(seed: int = 0) -> Part:
    """The forget gate of the unit that tells the beginnings of strings best, over fresh strings."""
    model = trained()
    symbols, node = streams(LONG, ROWS, generator(seed, 4))  # [T, B], [T + 1, B]
    f = trace(model.layer, one_hot(torch.from_numpy(symbols), len(SYMBOLS)))["0.f"].numpy()[WARM:]
    symbols, first, last = symbols[WARM:], node[WARM:-1] == 0, node[WARM + 1 :] == 0  # of a string
    apart = f[~first].mean(0) - f[first].mean(0)
    unit = int(apart.argmax())
    f = f[..., unit]
    facts = {
        "unit": unit,
        "units": HIDDEN,
        "at_first": float(f[first].mean()),
        "elsewhere": float(f[~first].mean()),
        "strings": int(first.sum()),
        "right": _right(model, seed),
    }
    begin = int(np.flatnonzero(first[:, 0])[0])
    shown = slice(begin, begin + SHOWN)
    letters = [SYMBOLS[s] for s in symbols[shown, 0]]
    kinds = [FIRST if here else OTHER for here in first[shown, 0]]
    finding = (
        f"The forget gate of one of the {HIDDEN} cells, letter by letter; a thin line stands between two sentences. Where a "
        f"new one begins, the gate is at {number(facts['at_first'])} on average, at all other letters at "
        f"{number(facts['elsewhere'])} ({facts['strings']:,} sentences). The network names what may follow at every letter of "
        f"{facts['right']:.1%} of new sentences."
    )
    title = "A forget gate that has learnt where a sentence ends"
    ends = np.flatnonzero(last[shown, 0]).tolist()
    drawn = over_text(title, finding, letters, f[shown, 0], kinds, (OTHER, FIRST), "forget gate f", ends)
    return {"sentences": drawn}, facts


def trained() -> Reader:
    """The network with the weights that ship with the package."""
    model = _fresh()
    model.load_state_dict(load_file(WEIGHTS))
    return model


def train(steps: int = STEPS) -> Reader:
    """Train it again: Adam on fresh streams, its rate falling to zero."""
    model = _fresh()
    learner, data = Learner(model, RATE), generator(SEED, 1)
    for step in range(steps):
        x, *target = TASK.batch(LENGTH, BATCH, data)
        learner.step(TASK.loss(model(x), *target), RATE * (1 - step / steps))
    return model


def _fresh() -> Reader:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return Reader(init.forget_bias(LSTM(len(SYMBOLS), HIDDEN), 1.0), TASK)


@torch.no_grad()
def _right(model: Reader, seed: int) -> float:
    x, *target = TASK.batch(LONG, ROWS, generator(seed, 5))
    return TASK.score(model(x), *target)
