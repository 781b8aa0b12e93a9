"""Saturation of the gates: how often every gate of every unit is nearly closed, nearly open, and how undecided it is.

    low_j = share of steps with gate < 0.1;   high_j = share of steps with gate > 0.9
    entropy_j = mean over steps of -p log2 p - (1-p) log2(1-p)       p the gate (1 bit at one half)

A candidate (g, n of a GRU) is no gate but a tanh in -1 .. 1: it is counted by its size |g| (low: nothing to write; high:
saturated), with p = |g|. Steps past a row's length do not count.

Legend: T time, B batch, H hidden size, G gates, n steps of a chunk.

Source: Karpathy, Johnson & Li 2015 (left and right saturation).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from openlstm.cells import SLSTM, MinLSTM
from openlstm.insight import charts
from openlstm.insight.display import GRID, Chart, Display, alt
from openlstm.insight.measure.sums import Sums, added
from openlstm.insight.place import Chunk, Place
from openlstm.insight.results import Asked, Result
from openlstm.insight.words import percent

BINS = 20


@dataclass(frozen=True)
class Saturation(Result):
    """The gates of one place.

    Fields:
        gates: their names.
        low, high, mean, entropy: [G, H].
        histogram: [G, 20], the share of all values of all units in each twentieth of 0 .. 1; rows sum to 1.
        steps: how many steps of rows were counted.
        relative: whether i is a weight beside what is held (sLSTM, minLSTM), so that one that is always open tells of no fault.
    """

    name: str
    gates: tuple[str, ...]
    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    entropy: np.ndarray
    histogram: np.ndarray
    steps: int
    relative: bool = False

    def mean_of(self, *names: str) -> float | None:
        """The mean of the first of these gates that there is, over units and steps."""
        at = [self.gates.index(name) for name in names if name in self.gates]
        return float(self.mean[at[0]].mean()) if at else None

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
            if gate == "i" and stuck[0] > 0.5 and not self.relative:  # an open o or r hides nothing, which is no fault
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

    @classmethod
    def displays(cls, found: Mapping[str, Saturation], asked: Asked) -> tuple[Display, ...]:
        """Per gate, how often each unit is closed and how often it is open; below, all values of the gate."""

        places = charts.Places(found)
        gates = list(dict.fromkeys(gate for r in places.drawn.values() for gate in r.gates))
        dots: dict[str, list[Any]] = {gate: [] for gate in gates}
        bins: dict[str, list[Any]] = {gate: [] for gate in gates}
        hidden = False
        for name, r in places.drawn.items():
            for gate, low, high, histogram in zip(r.gates, r.low, r.high, r.histogram, strict=True):
                units = np.sort(np.argsort(high - low, kind="stable")[charts.evenly(len(low), places.most)])
                hidden = hidden or len(units) < len(low)
                for unit in units:
                    said = f"{name}, unit {unit}: {gate} below 0.1 in {low[unit]:.0%}, above 0.9 in {high[unit]:.0%} of steps"
                    dots[gate].append({"s": name, "x": charts.short(low[unit]), "y": charts.short(high[unit]), "d": said})
                edges = np.linspace(0, 1, BINS + 1)
                for (a, b), share in zip(pairwise(edges), histogram / max(histogram.sum(), 1e-300), strict=True):
                    said = f"{name}: {gate} between {a:.2f} and {b:.2f} in {share:.1%} of the steps"
                    bins[gate].append({"s": name, "x": charts.short((a + b) / 2), "v": charts.short(share), "d": said})
        whole = alt.Scale(domain=[0, 1], nice=False)
        color, shape, dash = charts.color(places.names), charts.shape(places.names), charts.dash(places.names)

        def ends(gate: str, side: float, first: bool) -> Chart:
            tick: dict[str, Any] = {"values": [0, 0.5, 1], "format": "%"}
            edge = alt.Chart(charts.data([{"x": 0, "y": 1, "x2": 1, "y2": 0}])).mark_rule(color=GRID, strokeWidth=1.5)
            x = alt.X("x:Q", title="below 0.1", scale=whole, axis=alt.Axis(grid=False, **tick))
            y = alt.Y("y:Q", title="above 0.9" if first else None, scale=whole, axis=alt.Axis(labels=first, **tick))
            points = alt.Chart(charts.data(dots[gate])).mark_point(filled=True, size=26, opacity=0.65)
            drawn = edge.encode(alt.X("x:Q", scale=whole), alt.Y("y:Q", scale=whole), x2="x2:Q", y2="y2:Q")
            title = alt.Title("candidate |g|" if gate == "g" else f"gate {gate}", fontSize=12.5, fontWeight="normal", offset=6)
            return (drawn + points.encode(x, y, color, shape, description="d:N")).properties(
                width=side, height=side, title=title
            )

        def values(gate: str, side: float, first: bool) -> Chart:
            x = alt.X("x:Q", title="value", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(grid=False, values=[0, 0.5, 1]))
            axis = alt.Axis(labels=first, tickCount=3, format="%", grid=False)
            line = alt.Chart(charts.data(bins[gate])).mark_line(interpolate="step", strokeWidth=1.6)
            y = alt.Y("v:Q", title="steps" if first else None, axis=axis)
            return line.encode(x, y, color, strokeDash=dash).properties(width=side, height=54)

        def drawn(width: int) -> Chart:
            columns = min(len(gates), 4 if width >= 500 else 2)
            side = min((width - 62 - 16 * (columns - 1)) / columns, 190)
            both = [(gate, side, k % columns == 0) for k, gate in enumerate(gates)]
            return alt.concat(*(alt.vconcat(ends(*a), values(*a), spacing=12) for a in both), columns=columns, spacing=16)

        table = places.table(
            gate=lambda r: np.repeat(r.gates, r.low.shape[1]),
            unit=lambda r: np.tile(np.arange(r.low.shape[1]), len(r.gates)),
            **{"below_0.1": lambda r: r.low.ravel(), "above_0.9": lambda r: r.high.ravel()},
            mean=lambda r: r.mean.ravel(),
            entropy=lambda r: r.entropy.ravel(),
        )
        more = f" {places.most} units of each place are drawn, spread evenly." if hidden else ""
        return (
            Display("How often each gate is closed, and how often open", drawn, table, places.told() + more, places.series()),
        )


def saturation(place: Place) -> Saturation | None:
    """Count the gates of a place.

    Returns:
        None for a cell without gates (`place.no_gates` says why).

    >>> import openlstm
    >>> from openlstm.insight.capture import capture_layers
    >>> layer = openlstm.nn.init.forget_bias(openlstm.LSTM(3, 8), 5.0)
    >>> found = saturation(capture_layers(layer, torch.zeros(20, 2, 3)).places[0])
    >>> found.gates, float(found.high[1].min())
    (('i', 'f', 'g', 'o'), 1.0)
    """
    if place.no_gates:
        return None
    return added(SaturationSums(place), place.forwards()).result()


class SaturationSums(Sums):
    """`Saturation` as a reduction over the chunks of a forward pass."""

    def __init__(self, place: Place) -> None:
        self.place = place
        G, H = len(place.gates), place.units
        self.low, self.high, self.sums, self.bits = torch.zeros(4, G, H, dtype=torch.float64)
        self.histogram = torch.zeros(G, BINS, dtype=torch.float64)
        self.steps = 0

    def add(self, part: Chunk) -> None:
        """One chunk."""
        self.steps += int((self.place.order(part.t0, part.t1) >= 0).sum())
        gates = part.saved.named(self.place.cell)
        for k, name in enumerate(self.place.gates):
            p = self.place.real(part.t0, gates[name])  # [m, H]
            if name == self.place.cell.candidate:
                p = p.abs()
            self.low[k] += (p < 0.1).sum(0).cpu()
            self.high[k] += (p > 0.9).sum(0).cpu()
            self.sums[k] += p.sum(0).cpu()
            self.bits[k] -= (torch.xlogy(p, p) + torch.xlogy(1 - p, (1 - p).clamp(min=0))).nan_to_num(0).sum(0).cpu()
            bins = (p * BINS).nan_to_num(0).clamp(0, BINS - 1).to(torch.uint8).flatten()
            self.histogram[k] += torch.bincount(bins, minlength=BINS).cpu()

    def result(self) -> Saturation:
        n = max(self.steps, 1)
        total = self.histogram.sum(1, keepdim=True).clamp(min=1)
        low, high, mean, bits = ((a / n).numpy() for a in (self.low, self.high, self.sums, self.bits))
        histogram = (self.histogram / total).numpy()
        counts = (low, high, mean, bits / np.log(2), histogram, self.steps)
        return Saturation(self.place.name, self.place.gates, *counts, isinstance(self.place.cell, (SLSTM, MinLSTM)))
