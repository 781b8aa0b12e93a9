"""Stability: at what rate the network's own dynamics stretch or shrink a small difference, the Lyapunov exponents.

    Q_{t-1} R_t = J_t^T Q_t          J_t = ds_t / ds_{t-1},  s = (h, c) jointly
    exponent_j = mean over steps and rows of ln |R_t,jj|

The vectors are sent back through the transposed Jacobians, as a gradient is; the exponents are those of the forward direction
(the transposed product has the same singular values). They are made orthogonal every few steps, and the first tenth of the
steps, in which they turn into their directions, does not count. A reset is no step of the dynamics and is left out.

An exponent of -0.1 shrinks a difference, and a gradient, by e in ten steps; above zero both grow. It is the slope of the tail
of ln share(k) (`state_gradient`), not the whole curve: the first steps may fall faster. Whoever differentiates h by h with c
held cannot see the highway, so s is always (h, c).

Legend: T time, B batch, S size of the joint state, N vectors.

Source: Benettin, Galgani, Giorgilli & Strelcyn 1980; for recurrent networks Engelken, Wolf & Abbott 2023; Vogt et al. 2022.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openlstm.errors import ArgumentError
from openlstm.insight import charts
from openlstm.insight.display import SOFT, Chart, Display, alt
from openlstm.insight.measure.jacobians import ChunkSteps
from openlstm.insight.place import Place
from openlstm.insight.results import Asked, Result
from openlstm.insight.words import number, steps
from openlstm.weights import cell_size

_EVERY = 4  # steps between two orthogonalisations
_ROWS = 8  # rows that are followed, the longest


@dataclass(frozen=True)
class Stability(Result):
    """The exponents of one place.

    Fields:
        exponents: [n] per step, the largest first; -inf where a direction is wiped out.
        steps: how many steps of each row they are a mean over, on average.
        feeds_back: whether the outputs of the model can be its next inputs.
    """

    name: str
    exponents: np.ndarray
    steps: float
    feeds_back: bool = False

    @property
    def largest(self) -> float:
        """The first exponent; nan if no step was counted."""
        return float(self.exponents[0]) if len(self.exponents) else float("nan")

    @property
    def finding(self) -> str:
        """One sentence, and what to do about it."""
        top = self.largest
        if np.isnan(top):
            return f"{self.name}: no step to measure a rate on."
        if top == -np.inf:
            return f"{self.name}: every step wipes out all that was there."
        if abs(top) < 1e-3:
            text = "differences neither grow nor shrink, as on a perfect highway"
            return f"{self.name}: largest exponent {number(round(top, 4))}: {text}."
        tenfold = steps(max(1, round(float(np.log(10) / abs(top)))))
        if top > 0:
            free = ", or expect a free run to diverge" if self.feeds_back else ""
            advice = f"clip gradients or lower the learning rate{free}"
            return (
                f"{self.name}: largest exponent {number(top)}: differences and gradients grow tenfold in {tenfold}; {advice}."
            )
        return f"{self.name}: largest exponent {number(top)}: differences and gradients shrink tenfold in {tenfold}."

    @classmethod
    def displays(cls, found: Mapping[str, Stability], asked: Asked) -> tuple[Display, ...]:
        """The exponents, the growth of a small difference per step."""

        places = charts.Places(found)
        rows = []
        for name, r in places.drawn.items():
            for k, v in enumerate(map(float, r.exponents), 1):
                if math.isfinite(v):
                    said = f"{name}, exponent {k}: {charts.number(v)} a step, a factor of {charts.number(math.exp(v))}"
                    rows.append({"s": name, "x": k, "v": charts.short(v), "d": said})

        def drawn(width: int) -> Chart:
            points = alt.Chart(charts.data(rows)).mark_point(filled=True, size=70, opacity=0.9)
            x = alt.X("x:O", title="exponent, the largest first", axis=alt.Axis(labelAngle=0, grid=False))
            y = alt.Y("v:Q", title="growth a step, λ", axis=alt.Axis(grid=True, tickCount=5))
            drawn = points.encode(x, y, charts.color(places.names), charts.shape(places.names), description="d:N")
            zero = charts.rule_across(0.0, "", SOFT, dash=[3, 3])
            return (zero + drawn).properties(width=width - charts.MARGIN, height=200)

        table = places.table(exponent=lambda r: range(1, len(r.exponents) + 1), growth_per_step=lambda r: r.exponents)
        return (Display("Do small differences grow?", drawn, table, places.told(), places.series()),)


def stability(place: Place, exponents: int = 8, *, feeds_back: bool = False) -> Stability:
    """The largest Lyapunov exponents of a place along the data that it saw.

    Args:
        place: of `capture_layers`.
        exponents: how many; at most the size of the joint state.
        feeds_back: whether the outputs of the model can be its next inputs, so that it can run freely.

    Raises:
        ArgumentError: for a number below one.

    >>> import openlstm
    >>> from openlstm.insight.capture import capture_layers
    >>> layer = openlstm.RNN(3, 2, nonlinearity="relu")
    >>> with torch.no_grad():
    ...     _ = layer.weight_hh_l0.copy_(torch.diag(torch.tensor([0.9, 0.5]))), layer.bias_ih_l0.fill_(3.0)
    >>> stability(capture_layers(layer, torch.zeros(100, 2, 3)).places[0]).exponents.round(3).tolist()  # ln 0.9, ln 0.5
    [-0.105, -0.693]
    """
    if exponents < 1:
        raise ArgumentError.of("stability", "at least one exponent", f"exponents={exponents}", ">= 1", "use 8")
    R, has_cell = place.state.h.shape[1], place.cell.has_cell
    S = R + cell_size(place.cell, place.units)
    N = min(exponents, S)
    ends = place.ends()
    rows = torch.argsort(ends, descending=True, stable=True)[:_ROWS]
    rows = rows[ends[rows] > 0]
    if not len(rows):
        return Stability(place.name, np.zeros(0), 0.0, feeds_back)
    skip = ends[rows] // 10
    draws = torch.randn(len(rows), S, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    V = torch.linalg.qr(draws)[0].to(place.x.device)  # [B', S, N]
    sums = torch.zeros(len(rows), N, dtype=torch.float64, device=V.device)
    counted = torch.zeros(len(rows), dtype=torch.float64, device=V.device)
    pending = torch.zeros_like(counted)  # steps since the last orthogonalisation
    done = torch.zeros_like(counted)  # steps of each row
    small = place.some(rows)
    for part in small.again():
        turn = ChunkSteps.of(small, part.t0, part.start, part.saved)
        order = small.order(part.t0, part.t1)
        for k in reversed(place.ran(part.t1 - part.t0)):
            on = order[k] >= 0
            moved = _back(turn.step(k), V, R, has_cell)
            V = torch.where(on[:, None, None], moved, V)
            done, pending = done + on, pending + on
            if bool((pending >= _EVERY).any()) or bool((done == skip).any()) or bool((done == ends[rows]).any()):
                V, length = _orthogonal(V)
                counts = done > skip
                sums += torch.where(counts[:, None], length, 0)
                counted += torch.where(counts, pending, 0)
                pending = torch.zeros_like(pending)
    found = (sums[counted > 0] / counted[counted > 0][:, None]).mean(0).cpu().numpy()
    return Stability(place.name, np.sort(found)[::-1].copy(), float(counted.mean()), feeds_back)


def _back(turn: ChunkSteps, V: Tensor, R: int, has_cell: bool) -> Tensor:
    """J^T V of one step for every row, V [B, S, N]."""
    vectors = V.permute(2, 0, 1).to(turn.around.h.dtype)  # [N, B, S]
    flow = turn.back(vectors[..., :R], vectors[..., R:] if has_cell else None)
    joined = flow.h if flow.c is None else torch.cat([flow.h, flow.c], -1)
    return joined.permute(1, 2, 0).double()


def _orthogonal(V: Tensor) -> tuple[Tensor, Tensor]:
    """V with orthonormal columns, and ln of the length that each column had beside those before it, [B, N]."""
    Q, R = torch.linalg.qr(V)
    return Q, R.diagonal(dim1=-2, dim2=-1).abs().log()
