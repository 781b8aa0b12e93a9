"""D8, unit health and capacity: which units do nothing, and how many directions the states really use.

    dead           var over steps and rows of the cell (of h without one) < 1e-6
    closed         o < 0.05 at 95 % of the steps and more: the unit is never shown
    pegged         |c| > 3 at 95 % of the steps and more: tanh(c) is stuck at its end
    never written  i < 0.05 at 95 % of the steps and more (1 - z for a GRU)
    effective rank (sum l)^2 / sum l^2 of the eigenvalues l of cov(h) = (tr C)^2 / ||C||_F^2       (participation ratio)
    importance     what the loss would rise by if the unit's output were zero: exactly by `loss_of`, else to first order,
                   -sum_t dL/dy_t h_t

Legend: T time, B batch, H hidden size, R what is fed back, n steps of a chunk.

Source: participation ratio: Gao & Ganguli 2015; first-order ablation: Molchanov et al. 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openlstm.engine.scan import Chunk
from openlstm.insight.look import Place
from openlstm.insight.words import number, plain, some

_STUCK = 0.95  # of the steps
_TOP = 8


@dataclass(frozen=True)
class Health:
    """The units of one place.

    Fields:
        dead, closed, pegged, never_written: bool [H].
        effective_rank: between 1 and R; 0 where nothing moves.
        importance: [R], to first order; None without a loss.
        top: (unit, rise of the loss without it), the largest rise first; empty without a loss.
        exact: whether `top` was measured by ablation.
    """

    name: str
    dead: np.ndarray
    closed: np.ndarray
    pegged: np.ndarray
    never_written: np.ndarray
    effective_rank: float
    importance: np.ndarray | None
    top: tuple[tuple[int, float], ...]
    exact: bool

    @property
    def finding(self) -> str:
        """One sentence, and what to do about it."""
        H = len(self.dead)
        text = f"{self.name}: effective rank {number(self.effective_rank)} of {H}"
        sick = {"dead": self.dead, "never shown": self.closed, "pegged": self.pegged, "never written": self.never_written}
        found = [f"{some(int(mask.sum()), H)} {name}" for name, mask in sick.items() if mask.any()]
        text += f"; {', '.join(found)}" if found else "; no unit is dead, closed, pegged or unwritten"
        if self.top and self.top[0][1] > 0:
            text += f"; without unit {self.top[0][0]} the loss would rise most"
        need = self.effective_rank * 3
        if H >= 32 and 0 < need < H / 4:
            text += f". {int(2 ** np.ceil(np.log2(max(need, 8))))} units may be enough"
        return text + "."

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, ready for JSON."""
        return plain(self)


def health(place: Place, loss_of: Callable[[int], float] | None = None) -> Health:
    """Look at every unit of a place.

    Args:
        place: of `look`; with a loss there the units are ordered by what they mean for it.
        loss_of: the loss of the model with the output of one unit set to zero, -1 for the loss of the model as it is; then the
            most important units are measured by it.

    >>> import openlstm
    >>> from openlstm.insight.look import look
    >>> layer = openlstm.nn.init.forget_bias(openlstm.LSTM(3, 8), 1.0)
    >>> found = health(look(layer, torch.zeros(20, 2, 3), lambda m, x: m(x)[0].sum()).places[0])
    >>> bool(found.closed.any()), len(found.top)
    (False, 8)
    """
    looking = Examining(place)
    for part in place.forwards():
        looking.see(part)
    return looking.result(loss_of)


class Examining:
    """`Health` as a reduction over the chunks of a forward pass."""

    def __init__(self, place: Place) -> None:
        self.place = place
        H = place.units
        R = self.R = H if len(place.cell.feeds_back) > 1 else place.state.h.shape[1]  # FGR feeds its gates back behind h
        self.n = 0
        self.shift: Any = None  # [H], the first values, so that a small variance around a large mean is not lost
        self.sum, self.squares = torch.zeros(2, H, dtype=torch.float64)
        self.closed, self.pegged, self.unwritten = torch.zeros(3, H, dtype=torch.float64)
        self.h = torch.zeros(R, dtype=torch.float64)
        self.hh = torch.zeros(R, R, dtype=torch.float64)
        self.importance = None if place.dstate is None else torch.zeros(R, dtype=torch.float64)
        self.end: Any = None

    def see(self, part: Chunk) -> None:
        """One chunk."""
        place = self.place
        real = place.order(part.t0, part.t1) >= 0  # [n, B]
        gates = part.saved.named(place.cell)

        def rows(a: Tensor) -> Tensor:
            return a[real] if place.lengths is not None else a.flatten(0, 1)

        h = rows(part.saved.h[..., : self.R])
        inner = h if part.saved.c is None else rows(part.saved.c)
        if not len(h):
            return
        self.n += len(h)
        self.shift = inner[0].double() if self.shift is None else self.shift
        moved = inner.double() - self.shift
        self.sum += moved.sum(0).cpu()
        self.squares += moved.square().sum(0).cpu()
        if part.saved.c is not None:
            self.pegged += (inner.abs() > 3).sum(0).cpu()
        if "o" in gates:
            self.closed += (rows(gates["o"]) < 0.05).sum(0).cpu()
        write = rows(gates["i"]) if "i" in gates else 1 - rows(gates["z"]) if "z" in place.gates else None
        if write is not None:
            self.unwritten += (write < 0.05).sum(0).cpu()
        wide = h.double()
        self.h += wide.sum(0).cpu()
        self.hh += (wide.T @ wide).cpu()
        if self.importance is not None and place.dy is not None:
            self.importance -= (rows(place.dy[part.t0 : part.t1, :, : self.R]) * h).double().sum(0).cpu()
        self.end = part.end

    def result(self, loss_of: Callable[[int], float] | None = None) -> Health:
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
        closed, pegged, unwritten = (
            (a / n >= _STUCK).numpy() & (self.n > 0) for a in (self.closed, self.pegged, self.unwritten)
        )
        dead = (variance < 1e-6).numpy() & (self.shift is not None)
        return Health(self.place.name, dead, closed, pegged, unwritten, rank, importance, top, loss_of is not None)
