"""D1, gate census: how often every gate of every unit is nearly closed, nearly open, and how undecided it is.

    low_j = share of steps with gate < 0.1;   high_j = share of steps with gate > 0.9
    entropy_j = mean over steps of -p log2 p - (1-p) log2(1-p)       p the gate (1 bit at one half)

A candidate (g, n of a GRU) is no gate but a tanh in -1 .. 1: it is counted by its size |g| (low: nothing to write; high:
saturated), with p = |g|. Steps past a row's length do not count.

Legend: T time, B batch, H hidden size, G gates, n steps of a chunk.

Source: Karpathy, Johnson & Li 2015 (left and right saturation).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from openlstm.engine.scan import Chunk
from openlstm.insight.look import Place
from openlstm.insight.words import percent, plain

BINS = 20


@dataclass(frozen=True)
class Census:
    """The gates of one place.

    Fields:
        gates: their names.
        low, high, mean, entropy: [G, H].
        histogram: [G, 20], the share of all values of all units in each twentieth of 0 .. 1; rows sum to 1.
        steps: how many steps of rows were counted.
    """

    name: str
    gates: tuple[str, ...]
    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    entropy: np.ndarray
    histogram: np.ndarray
    steps: int

    @property
    def finding(self) -> str:
        """One sentence, and what to do where a gate is stuck."""
        if not self.steps:
            return f"{self.name}: no step to count."
        mean = dict(zip(self.gates, self.mean.mean(1), strict=True))
        text = f"{self.name}: on average " + ", ".join(f"{gate} = {m:.2f}" for gate, m in mean.items())
        advice = self.advice
        return f"{text}. {advice}" if advice else f"{text}."

    @property
    def advice(self) -> str:
        """What the gates suggest, "" where nothing stands out."""
        found = []
        for k, gate in enumerate(self.gates):
            stuck = float((self.high[k] > 0.9).mean()), float((self.low[k] > 0.9).mean())
            if gate == "i" and stuck[0] > 0.5:  # an open o or r hides nothing, which is no fault
                found.append(
                    f"Gate {gate} is always open in {percent(stuck[0])} of the units: inputs too large, normalise them."
                )
            if gate in ("i", "o") and stuck[1] > 0.5:
                found.append(f"Gate {gate} is always closed in {percent(stuck[1])} of the units: they do nothing.")
            if gate == "g" and stuck[0] > 0.5:
                found.append(
                    f"The candidate g is saturated in {percent(stuck[0])} of the units: inputs too large, normalise them."
                )
        for gate in ("f", "z"):
            if gate in self.gates and not self.high[self.gates.index(gate)].any():
                found.append(f"Gate {gate} never exceeds 0.9: no long memory in the gates.")
        return " ".join(found)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, ready for JSON."""
        return plain(self)


def census(place: Place) -> Census | None:
    """Count the gates of a place.

    Returns:
        None for a cell without gates (`place.no_gates` says why).

    >>> import openlstm
    >>> from openlstm.insight.look import look
    >>> layer = openlstm.nn.init.forget_bias(openlstm.LSTM(3, 8), 5.0)
    >>> found = census(look(layer, torch.zeros(20, 2, 3)).places[0])
    >>> found.gates, float(found.high[1].min())
    (('i', 'f', 'g', 'o'), 1.0)
    """
    if place.no_gates:
        return None
    counting = Counting(place)
    for part in place.forwards():
        counting.see(part)
    return counting.result()


class Counting:
    """`Census` as a reduction over the chunks of a forward pass."""

    def __init__(self, place: Place) -> None:
        self.place = place
        G, H = len(place.gates), place.units
        self.low, self.high, self.sums, self.bits = torch.zeros(4, G, H, dtype=torch.float64)
        self.histogram = torch.zeros(G, BINS, dtype=torch.float64)
        self.steps = 0

    def see(self, part: Chunk) -> None:
        """One chunk."""
        real = self.place.order(part.t0, part.t1) >= 0  # [n, B]
        self.steps += int(real.sum())
        gates = part.saved.named(self.place.cell)
        ragged = self.place.lengths is not None
        for k, name in enumerate(self.place.gates):
            p = gates[name]
            p = p[real] if ragged else p.flatten(0, 1)  # [n*B, H]
            if name == self.place.cell.candidate:
                p = p.abs()
            self.low[k] += (p < 0.1).sum(0).cpu()
            self.high[k] += (p > 0.9).sum(0).cpu()
            self.sums[k] += p.sum(0).cpu()
            self.bits[k] -= (torch.xlogy(p, p) + torch.xlogy(1 - p, (1 - p).clamp(min=0))).nan_to_num(0).sum(0).cpu()
            bins = (p * BINS).nan_to_num(0).clamp(0, BINS - 1).to(torch.uint8).flatten()
            self.histogram[k] += torch.bincount(bins, minlength=BINS).cpu()

    def result(self) -> Census:
        n = max(self.steps, 1)
        total = self.histogram.sum(1, keepdim=True).clamp(min=1)
        low, high, mean, bits = ((a / n).numpy() for a in (self.low, self.high, self.sums, self.bits))
        histogram = (self.histogram / total).numpy()
        return Census(self.place.name, self.place.gates, low, high, mean, bits / np.log(2), histogram, self.steps)
