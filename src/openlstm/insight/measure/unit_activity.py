"""Activity of the units, and capacity: which units do nothing, and how many directions the states really use.

    dead           var over steps and rows of the cell (of h without one) < 1e-6
    never shown    o < 0.05 at 95 % of the steps and more
    saturated      |c| > 3 at 95 % of the steps and more: tanh(c) is stuck at its end
    never written  i < 0.05 at 95 % of the steps and more (1 - z for a GRU)
    effective rank (sum l)^2 / sum l^2 of the eigenvalues l of cov(h) = (tr C)^2 / ||C||_F^2       (participation ratio)
    importance     what the loss would rise by if the unit's output were zero: exactly by `loss_of`, else to first order,
                   -sum_t dL/dy_t h_t

Legend: T time, B batch, H hidden size, R what is fed back, n steps of a chunk.

Source: participation ratio: Gao & Ganguli 2015; first-order ablation: Molchanov et al. 2017.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from openlstm.insight import charts
from openlstm.insight.display import SOFT, Chart, Display, alt
from openlstm.insight.measure.sums import Sums, added
from openlstm.insight.place import Chunk, Place
from openlstm.insight.results import Asked, Result
from openlstm.insight.words import number, some

_STUCK = 0.95  # of the steps
_TOP = 8
_BUSY = {"dead": "moves", "never shown": "is shown", "saturated": "is not saturated", "never written": "is written"}
"""What a unit does that is not idle."""


@dataclass(frozen=True)
class UnitActivity(Result):
    """The units of one place.

    Fields:
        dead: bool [H].
        never_shown, saturated, never_written: bool [H]; None for a cell without o, without a single cell state, without i or z.
        effective_rank: between 1 and R; 0 where nothing moves.
        importance: [R], to first order; None without a loss.
        top: (unit, rise of the loss without it), the largest rise first; empty without a loss.
        exact: whether `top` was measured by ablation.
    """

    name: str
    dead: np.ndarray
    never_shown: np.ndarray | None
    saturated: np.ndarray | None
    never_written: np.ndarray | None
    effective_rank: float
    importance: np.ndarray | None
    top: tuple[tuple[int, float], ...]
    exact: bool

    @property
    def idle(self) -> dict[str, np.ndarray]:
        """The units that do nothing, bool [H], by what they do not do: as far as it can be said of such a cell."""
        masks = (self.dead, self.never_shown, self.saturated, self.never_written)
        return {name: mask for name, mask in zip(_BUSY, masks, strict=True) if mask is not None}

    @property
    def finding(self) -> str:
        """One sentence, and what to do about it."""
        H = len(self.dead)
        text = f"{self.name}: effective rank {number(self.effective_rank)} of {H}"
        found = [f"{some(int(mask.sum()), H)} {name}" for name, mask in self.idle.items() if mask.any()]
        text += "; " + (", ".join(found) or "every unit " + ", ".join(_BUSY[name] for name in self.idle))
        if self.top and self.top[0][1] > 0:
            text += f"; without unit {self.top[0][0]} the loss would rise most"
        need = self.effective_rank * 3
        if H >= 32 and 0 < need < H / 4:
            text += f". {int(2 ** np.ceil(np.log2(max(need, 8))))} units may be enough"
        return text + "."

    @classmethod
    def displays(cls, found: Mapping[str, UnitActivity], asked: Asked) -> tuple[Display, ...]:
        """Units that do nothing with the effective rank, and with a loss the units that matter most."""
        with_loss = {name: r for name, r in found.items() if r.top}
        return (_idle(found), _important(with_loss)) if with_loss else (_idle(found),)


def unit_activity(place: Place, loss_of: Callable[[int], float] | None = None) -> UnitActivity:
    """Look at every unit of a place.

    Args:
        place: of `capture_layers`; with a loss there the units are ordered by what they mean for it.
        loss_of: the loss of the model with the output of one unit set to zero, -1 for the loss of the model as it is; then the
            most important units are measured by it.

    >>> import openlstm
    >>> from openlstm.insight.capture import capture_layers
    >>> layer = openlstm.nn.init.forget_bias(openlstm.LSTM(3, 8), 1.0)
    >>> found = unit_activity(capture_layers(layer, torch.zeros(20, 2, 3), lambda m, x: m(x)[0].sum()).places[0])
    >>> bool(found.never_shown.any()), len(found.top)
    (False, 8)
    """
    return added(UnitActivitySums(place), place.forwards()).result(loss_of)


class UnitActivitySums(Sums):
    """`UnitActivity` as a reduction over the chunks of a forward pass."""

    def __init__(self, place: Place) -> None:
        self.place = place
        H = place.units
        R = self.R = H if len(place.cell.feeds_back) > 1 else place.state.h.shape[1]  # FGR feeds its gates back behind h
        self.n = 0
        self.shift: Any = None  # [H], the first values, so that a small variance around a large mean is not lost
        self.sum, self.squares = torch.zeros(2, H, dtype=torch.float64)
        gates, one_state = place.gates, place.cell.has_cell and len(place.cell.states) == 1  # of several c alone says nothing
        measured = ("o" in gates, one_state, "i" in gates or "z" in gates)
        self.never_shown, self.saturated, self.unwritten = (
            torch.zeros(H, dtype=torch.float64) if m else None for m in measured
        )
        self.h = torch.zeros(R, dtype=torch.float64)
        self.hh = torch.zeros(R, R, dtype=torch.float64)
        self.importance = None if place.dstate is None else torch.zeros(R, dtype=torch.float64)
        self.end: Any = None

    def add(self, part: Chunk) -> None:
        """One chunk."""
        place = self.place
        gates = part.saved.named(place.cell)

        rows = partial(place.real, part.t0)
        h = rows(part.saved.h[..., : self.R])
        inner = h if part.saved.c is None else rows(gates[place.cell.states[0]])
        if not len(h):
            return
        self.n += len(h)
        self.shift = inner[0].double() if self.shift is None else self.shift
        moved = inner.double() - self.shift
        self.sum += moved.sum(0).cpu()
        self.squares += moved.square().sum(0).cpu()
        if self.saturated is not None:
            self.saturated += (inner.abs() > 3).sum(0).cpu()
        if self.never_shown is not None:
            self.never_shown += (rows(gates["o"]) < 0.05).sum(0).cpu()
        if self.unwritten is not None:
            write = rows(gates["i"]) if "i" in gates else 1 - rows(gates["z"])
            self.unwritten += (write < 0.05).sum(0).cpu()
        wide = h.double()
        self.h += wide.sum(0).cpu()
        self.hh += (wide.T @ wide).cpu()
        if self.importance is not None and place.dy is not None:
            self.importance -= (rows(place.dy[part.t0 : part.t1, :, : self.R]) * h).double().sum(0).cpu()
        self.end = part.end

    def result(self, loss_of: Callable[[int], float] | None = None) -> UnitActivity:
        n = max(self.n, 1)
        variance = self.squares / n - (self.sum / n).square()
        covariance = self.hh / n - torch.outer(self.h / n, self.h / n)
        trace, norm = float(covariance.trace()), float(covariance.square().sum())
        rank = trace * trace / norm if trace > 1e-12 else 0.0
        importance, top = None, ()
        if self.importance is not None:
            at_end = None if self.place.dstate is None else self.place.dstate.h
            if at_end is not None and self.end is not None:
                self.importance -= (at_end * self.end.h)[:, : self.R].double().sum(0).cpu()
            importance = self.importance.numpy()
            top = tuple((int(j), float(importance[j])) for j in np.argsort(-importance)[:_TOP])
        if loss_of is not None:
            units = [j for j, _ in top] or list(np.argsort(-covariance.diagonal().numpy())[:_TOP])
            base = loss_of(-1)
            measured = [(int(j), float(loss_of(int(j)) - base)) for j in units]
            top = tuple(sorted(measured, key=lambda item: -item[1]))
        counts = (self.never_shown, self.saturated, self.unwritten)
        never_shown, saturated, unwritten = (None if a is None else (a / n >= _STUCK).numpy() & (self.n > 0) for a in counts)
        dead = (variance < 1e-6).numpy() & (self.shift is not None)
        return UnitActivity(
            self.place.name, dead, never_shown, saturated, unwritten, rank, importance, top, loss_of is not None
        )


def _idle(found: Mapping[str, UnitActivity]) -> Display:
    """Units that do nothing, and how many independent directions the state has."""

    places = charts.Places(found)

    def counts(r: UnitActivity) -> dict[str, float]:
        return {what: int(mask.sum()) for what, mask in r.idle.items()} | {"effective rank": float(r.effective_rank)}

    rows = []
    for name, r in places.drawn.items():
        for what, count in counts(r).items():
            said, share = f"{charts.number(float(count))} of {len(r.dead)}", charts.short(count / max(len(r.dead), 1))
            rows.append({"s": name, "what": what, "v": share, "t": said, "d": f"{name}, {what}: {said}"})

    def drawn(width: int) -> Chart:
        base = alt.Chart(charts.data(rows))
        axis = alt.Axis(format="%", grid=True, tickCount=5)
        x = alt.X("v:Q", title="share of the units", scale=alt.Scale(domain=[0, 1]), axis=axis)
        y = alt.Y("what:N", sort=list(dict.fromkeys(r["what"] for r in rows)), title=None, axis=alt.Axis(grid=False))
        offset = alt.YOffset("s:N", sort=places.names)
        bars = base.mark_bar(height={"band": 0.75}).encode(x, y, charts.color(places.names), yOffset=offset, description="d:N")
        words = base.mark_text(align="left", dx=5, color=SOFT, fontSize=11).encode(x, y, yOffset=offset, text="t:N")
        return (bars + words).properties(width=width - 150, height=max(26, 15 * len(places.names)) * 5)

    table = places.table(what=counts, units=lambda r: counts(r).values(), of=lambda r: [len(r.dead)] * len(counts(r)))
    return Display("Units that do nothing, and the effective rank", drawn, table, places.told(), places.series())


def _important(found: Mapping[str, UnitActivity]) -> Display:
    """The units that matter most, by how much the loss rises without them."""

    rows = []
    for name, r in found.items():
        for unit, rise in r.top[: max(3, 16 // len(found))]:
            if math.isfinite(rise):
                one = f"{name}, unit {unit}"
                rows.append({"n": one, "v": charts.short(rise), "d": f"{one}: the loss rises by {charts.number(float(rise))}"})

    def drawn(width: int) -> Chart:
        axis = alt.Axis(grid=True, tickCount=4)
        return charts.bars(rows, "rise of the loss without it", width - 170, 170, axis=axis)

    table = charts.Places(found).table(unit=lambda r: [u for u, _ in r.top], rise_of_loss=lambda r: [v for _, v in r.top])
    how = "measured" if all(r.exact for r in found.values()) else "to first order"
    best = max(((v, name, unit) for name, r in found.items() for unit, v in r.top if v > 0), default=None)
    rise = "" if best is None else f"the loss would rise by {charts.number(best[0])} ({how})"
    said = "" if best is None else f"Without unit {best[2]} of {best[1]} {rise}."
    return Display("The units that matter most", drawn, table, said)
