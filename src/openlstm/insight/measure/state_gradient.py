"""The gradient of the state by lag: what of a gradient that enters at the last step is still there k steps earlier.

    share(k) = sum_b ||dL/ds_{T-k}|| / sum_b ||dL/ds_T||          s_t = (h_t, c_t) jointly, after step t
    highway(k) = sum_b ||f_{T-1} .. f_{T-k+1} dL/dc_{T-1}|| / sum_b ||dL/ds_{T-k}||        what the gates alone let through

Sums are over the rows that have k steps before their last.
T is, for every row, the last step (in the order in which the direction runs) at which the loss reads the state, and only what
enters there is followed: of a loss at every step the last of them. Norms are Euclidean over the units of a row; the mean is
taken over rows of norms, not the norm of a mean. Without a loss a random unit vector enters h_T of every row.

(h_t, c_t) are independent coordinates: dL/dc_T of a loss that reads h_T alone is zero, and what enters the highway is seen one
step earlier, as dL/dc_{T-1}. For a GRU the state itself is the highway, with z for f, from dL/dh_T on.

A share near zero before training says that the lag is blocked; a large one only that it is not ruled out (docs/horizon.md).

Legend: T time, B batch, H hidden size, R what is fed back, K lags, n steps of a chunk.

Source: Hochreiter 1991; Bengio, Simard & Frasconi 1994; Pascanu, Mikolov & Bengio 2013.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from openlstm.errors import ArgumentError
from openlstm.insight import charts
from openlstm.insight.display import Chart, Display, alt
from openlstm.insight.measure.retention import first_below
from openlstm.insight.measure.sums import Sums, added
from openlstm.insight.place import Back, Place
from openlstm.insight.results import Asked, Result
from openlstm.insight.words import number, steps
from openlstm.reference import State

Probe = Literal["loss", "random"]


@dataclass(frozen=True)
class StateGradient(Result):
    """How far a gradient reaches back in one place.

    Fields:
        lags: 0 .. K-1.
        share: [K], 1 at lag 0; it may grow. Zeros everywhere if no gradient arrives.
        highway: [K], the part of share that the gates alone let through; None for a cell without a highway.
        k10, k1000: the first lag at which share is below 1/10 and 1/1000; None if it never is.
        probe: "loss" or "random".
    """

    name: str
    lags: np.ndarray
    share: np.ndarray
    highway: np.ndarray | None
    k10: int | None
    k1000: int | None
    probe: str

    def at(self, lag: int) -> float:
        """The share at one lag.

        Raises:
            ArgumentError: where no row has so many steps before its last.
        """
        if not 0 <= lag < len(self.share):
            what, hint = f"no row has {lag} steps before its last", "give longer sequences, or ask for a shorter lag"
            raise ArgumentError.of("StateGradient.at", what, f"lag={lag}", f"0 .. {len(self.share) - 1}", hint)
        return float(self.share[lag])

    @property
    def finding(self) -> str:
        """One sentence."""
        if not len(self.share) or not self.share[0]:
            return f"{self.name}: no gradient of the loss arrives here."
        longest, last = len(self.share) - 1, float(self.share[-1])
        if self.k10 is None:
            text = f"{self.name}: the gradient reaches all {steps(longest)} back; {number(last)} of it is left there"
        else:
            text = f"{self.name}: a tenth of the gradient is left after {steps(self.k10)}"
            text += f", a thousandth after {steps(self.k1000)}" if self.k1000 is not None else ""
            text += f", {number(last)} of it after {steps(longest)}"
        if last > 10:
            text += " (it grows on its way back: clip gradients)"
        return text + "."

    @classmethod
    def displays(cls, found: Mapping[str, StateGradient], asked: Asked) -> tuple[Display, ...]:
        """The share of the gradient that comes back so many steps, and the part of it that stayed on the highway."""
        return (_drawn(found, asked),)


def state_gradient(place: Place, probe: Probe = "loss") -> StateGradient:
    """Follow a gradient back through one place.

    Args:
        place: of `capture_layers`.
        probe: "loss" follows the loss that `capture_layers` was given (a random probe if it was given none); "random" a unit
            vector at h_T, the same one at every call.

    >>> import openlstm
    >>> from openlstm.insight.capture import capture_layers
    >>> found = state_gradient(capture_layers(openlstm.LSTM(3, 8), torch.zeros(50, 2, 3)).places[0])
    >>> found.at(0), found.at(20) < 1e-3
    (1.0, True)
    """
    sums = StateGradientSums(place, EnteringGradient(place, probe))
    return added(sums, sums.enters.back()).result()


class EnteringGradient:
    """What of a gradient enters at the last step that the loss reads, row by row."""

    def __init__(self, place: Place, probe: Probe) -> None:
        if probe not in ("loss", "random"):
            raise ArgumentError.of("state_gradient", "unknown probe", repr(probe), "'loss' or 'random'", "leave it out")
        self.place = place
        self.probe = "random" if place.dstate is None else probe
        ends = place.ends()
        zero = torch.zeros_like(place.state.h)
        if self.probe == "random":
            self.last = ends - 1  # [B], its number in the order of the row; -1 for none
            draws = torch.randn(zero.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            self.dh = (draws / draws.norm(dim=1, keepdim=True)).to(zero)
            self.dc: Any = None
            return
        assert place.dstate is not None
        at_end = place.dstate.h if place.dstate.h is not None else zero
        self.dc = place.dstate.c
        reads_end = (at_end != 0).any(1) if self.dc is None else (at_end != 0).any(1) | (self.dc != 0).any(1)
        self.last = torch.where(reads_end, ends - 1, -1)
        self.dh = at_end
        if place.dy is not None:
            order = place.order(0, place.steps)  # [T, B]
            reads = (place.dy != 0).any(2) & (order >= 0)
            self.last = torch.maximum(self.last, torch.where(reads, order, -1).amax(0))
            self.dh = self.dh + torch.where(
                (self.last >= 0)[:, None], place.dy[self.time(), torch.arange(len(ends), device=ends.device)], 0
            )

    def time(self) -> Tensor:
        """The step of x at which it enters [B]; 0 for a row without one."""
        t = self.place.ends() - 1 - self.last if self.place.reverse else self.last
        return torch.where(self.last >= 0, t, 0)

    def dy(self) -> Callable[[int, int], Tensor]:
        """It as dL/dy, chunk by chunk."""
        time = torch.where(self.last >= 0, self.time(), -1)

        def part(t0: int, t1: int) -> Tensor:
            here = torch.arange(t0, t1, device=time.device)[:, None] == time  # [n, B]
            return torch.where(here[..., None], self.dh, 0)

        return part

    def lags(self, t0: int, t1: int) -> Tensor:
        """How far each step lies before the one at which it enters, [n, B]; -1 where it does not."""
        order = self.place.order(t0, t1)
        return torch.where((order >= 0) & (order <= self.last), self.last - order, -1)

    def back(self) -> Any:
        """The way back of what enters."""
        return self.place.backwards(self.dy(), State(None, self.dc))


class LagSums(Sums):
    """A sum for each lag, over the chunks of the way back of a gradient."""

    def __init__(self, place: Place, enters: EnteringGradient) -> None:
        self.place, self.enters = place, enters
        K = max(int(self.enters.last.max()) + 1, 0) if place.rows else 0
        self.sums = torch.zeros(K, dtype=torch.float64)

    def add_by_lag(self, sums: Tensor, lags: Tensor, values: Tensor) -> None:
        """Add numbers [n, B] to the sums of their lags, where they have one."""
        here = (lags >= 0).cpu()
        sums.index_add_(0, lags.cpu()[here], values.cpu()[here])


class StateGradientSums(LagSums):
    """`StateGradient` as a reduction: shown chunk after chunk of the way back, it keeps norms alone."""

    def __init__(self, place: Place, enters: EnteringGradient) -> None:
        super().__init__(place, enters)
        self.along = None if place.no_highway else torch.zeros_like(self.sums)
        self.first = torch.zeros(place.rows, dtype=torch.float64)  # ||dL/ds_T|| of every row
        self.v: Any = None  # [B, H], what is on the highway

    def add(self, part: Back) -> None:
        """One chunk; chunks come from the last that ran to the first."""
        lags = self.enters.lags(part.t0, part.t0 + part.dh.shape[0])  # [n, B]
        squares = part.dh.double().square().sum(-1)
        if part.dc is not None:
            squares = squares + part.dc.double().square().sum(-1)
        norm = squares.sqrt().cpu()  # [n, B]
        self.add_by_lag(self.sums, lags, norm)
        self.first += torch.where(lags.cpu() == 0, norm, 0).sum(0)
        if self.along is not None:
            self._add_highway(part, lags)

    def _add_highway(self, part: Back, lags: Tensor) -> None:
        assert self.along is not None
        kept = self.place.kept(part.saved)
        assert kept is not None
        cut = self.place.cuts(part.t0, part.t0 + kept.shape[0])
        flow, begins = (part.dh, 0) if part.dc is None else (part.dc[..., : self.place.units], 1)
        self.v = torch.zeros_like(flow[0]) if self.v is None else self.v
        n = kept.shape[0]
        on = torch.empty(n, flow.shape[1], dtype=torch.float64)
        for t in reversed(self.place.ran(n)):
            self.v = torch.where((lags[t] <= begins)[:, None], flow[t], self.v)  # enters anew up to there
            on[t] = self.v.double().norm(dim=1).cpu()
            factor = kept[t] if cut is None else kept[t].masked_fill(cut[t][:, None], 0)
            self.v = torch.where((lags[t] >= 0)[:, None], self.v * factor, self.v)
        self.add_by_lag(self.along, lags, on)

    def result(self) -> StateGradient:
        last = self.enters.last.cpu()
        K = len(self.sums)
        base = torch.zeros(K + 1, dtype=torch.float64)
        base.index_add_(0, last[last >= 0], self.first[last >= 0])
        base = base.flip(0).cumsum(0).flip(0)[:K]  # over rows that have lag k
        share = torch.where(base > 0, self.sums / base, 0).numpy()
        highway = None
        if self.along is not None:
            highway = torch.where(self.sums > 0, self.along / self.sums, 0).numpy()
        below = (first_below(share, 0.1), first_below(share, 1e-3)) if K and share[0] else (0, 0)
        return StateGradient(self.place.name, np.arange(K), share, highway, *below, self.enters.probe)


def _drawn(found: Mapping[str, StateGradient], asked: Asked) -> Display:

    places = charts.Places(found)
    several, fits = len(places.drawn) > 1, 2 * len(found) <= charts.PLACES // 2
    curves: charts.Curves = {}
    for name, r in places.drawn.items():
        curves[name if several else "all paths"] = r.lags, r.share
        if r.highway is not None and fits:
            curves[f"{name}, highway alone" if several else "highway alone"] = r.lags, r.share * r.highway
    low, high = charts.span_of(curves, floor=1e-12)
    rows = charts.curve_rows(curves, "{s}, {x} steps back: {v} of the gradient", log=True)

    def drawn(width: int) -> Chart:
        y = alt.Y("v:Q", title="share of the gradient", **charts.log_axis(low, high))
        return charts.lag_lines(rows, list(curves), y, width, asked.lag, level=asked.threshold)

    table = places.table(
        lag=lambda r: r.lags,
        share=lambda r: r.share,
        highway_part_of_it=lambda r: r.lags * np.nan if r.highway is None else r.highway,
    )
    return Display("How much of the gradient comes back", drawn, table, places.told(), places.series(list(curves)))
