"""The gradient of the weights by lag: which steps the gradient of a weight comes from, and where the first NaN is.

The gradient of [W_ih, W_hh] is a sum over steps of outer products; the norm of each, for one row, is exactly

    ||dz_t [x_t, h_{t-1}]^T|| = ||dz_t|| ||[x_t, h_{t-1}]||
    share(k) = sum_b of it at the step k before the row's last / sum_k sum_b

With the sums apart (GRU) dz has a part for x and one for h: sqrt(||dz^x||^2 ||x||^2 + ||dz^h||^2 ||h||^2). What is followed is
what `state_gradient` follows: the gradient that enters at the last step at which the loss reads a row.

Legend: T time, B batch, H hidden size, K lags, n steps of a chunk.

Source: RNNbow (Cashman, Patterson, Mosca & Chang 2017): a gradient itemised by lag before it is summed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from openlstm.insight import charts
from openlstm.insight.display import Chart, Display, alt
from openlstm.insight.finite import bad_chunk, bad_step, bad_weight
from openlstm.insight.measure.jacobians import ChunkSteps
from openlstm.insight.measure.state_gradient import EnteringGradient, LagSums, Probe
from openlstm.insight.measure.sums import added
from openlstm.insight.place import Back, Place
from openlstm.insight.results import Asked, Result
from openlstm.insight.words import percent, steps
from openlstm.reference import unsum


@dataclass(frozen=True)
class WeightGradient(Result):
    """Where the gradient of the weights of one place comes from.

    Fields:
        lags: 0 .. K-1.
        share: [K], sums to 1; zeros if no gradient arrives.
        first_non_finite: "lstm.0: gate o is nan at step 413, row 3, unit 7", or of a gradient; None if all is finite.
    """

    name: str
    lags: np.ndarray
    share: np.ndarray
    first_non_finite: str | None

    def within(self, part: float = 0.9) -> int | None:
        """How many steps before the last it takes to gather this part of the signal; None if there is none."""
        total = np.cumsum(self.share)
        found = np.flatnonzero(total >= part)
        return int(found[0]) + 1 if len(found) else None

    @property
    def finding(self) -> str:
        """One sentence."""
        if self.first_non_finite is not None:
            return f"First number that is not finite: {self.first_non_finite}."
        n = self.within(0.9)
        if n is None:
            return f"{self.name}: no gradient of the loss arrives here."
        near = percent(float(self.share[:n].sum()))
        return f"{self.name}: {near} of the gradient of the weights comes from the last {steps(n)} of {len(self.share)}."

    @classmethod
    def displays(cls, found: Mapping[str, WeightGradient], asked: Asked) -> tuple[Display, ...]:
        """From how far back the gradient of the weights comes, summed up."""

        places = charts.Places(found)
        curves: charts.Curves = {name: (r.lags, np.cumsum(r.share)) for name, r in places.drawn.items()}
        rows = charts.curve_rows(curves, "{s}: {v} of the gradient comes from the last {x} steps")

        def drawn(width: int) -> Chart:
            y = alt.Y("v:Q", title="share, summed up", **charts.plain_axis(domain=[0, 1.001], nice=False))
            return charts.lag_lines(rows, places.names, y, width)

        table = places.table(lag=lambda r: r.lags, share=lambda r: r.share)
        return (Display("From how far back the weights learn", drawn, table, places.told(), places.series()),)


def weight_gradient(place: Place, probe: Probe = "loss") -> WeightGradient:
    """Itemise the gradient of the weights of a place by lag.

    Args:
        place: of `capture_layers`, also one that is not finite (`look(..., finite=False)`).
        probe: as in `state_gradient`.

    >>> import openlstm
    >>> from openlstm.insight.capture import capture_layers
    >>> found = weight_gradient(capture_layers(openlstm.LSTM(3, 8), torch.ones(50, 2, 3)).places[0])
    >>> round(float(found.share.sum()), 6), found.within(0.9) < 10
    (1.0, True)
    """
    sums = WeightGradientSums(place, EnteringGradient(place, probe))
    return added(sums, sums.enters.back()).result()


class WeightGradientSums(LagSums):
    """`WeightGradient` as a reduction over the chunks of the way back."""

    def __init__(self, place: Place, enters: EnteringGradient) -> None:
        super().__init__(place, enters)
        self.forward_bad: str | None = None
        self.backward_bad: str | None = None

    def add(self, part: Back) -> None:
        """One chunk; chunks come from the last that ran to the first."""
        n = part.dh.shape[0]
        self.forward_bad = bad_chunk(self.place, part.t0, part.saved) or self.forward_bad  # the last one found ran first
        if self.backward_bad is None:
            states = self.place.cell.states
            of_c = (None,) if part.dc is None else part.dc.chunk(len(states), -1)
            named = {"dL/dh": part.dh, **{f"dL/d{name}": d for name, d in zip(states, of_c, strict=False)}}
            self.backward_bad = bad_step(self.place, part.t0, named, reversed(self.place.ran(n)))
        lags = self.enters.lags(part.t0, part.t0 + n)
        turn = ChunkSteps.of(self.place, part.t0, part.start, part.saved)
        flow, _ = turn.flow(part.dh, part.dc)
        dz_x, dz_h = unsum(turn.cell, flow.z)
        x, h = self.place.x[part.t0 : part.t0 + n], turn.around.before.h
        product = _squares_seen(dz_h, h, turn.weights.w_hh)  # [n, B]
        if turn.weights.w_ih is not None:
            product = product + _squares(dz_x) * _squares(x)
        self.add_by_lag(self.sums, lags, product.sqrt())

    def result(self) -> WeightGradient:
        total = float(self.sums.sum())
        share = (self.sums / total if np.isfinite(total) and total > 0 else torch.zeros_like(self.sums)).numpy()
        found = bad_weight(self.place) or self.forward_bad or self.backward_bad
        return WeightGradient(self.place.name, np.arange(len(share)), share, found)


def _squares_seen(dz: torch.Tensor, h: torch.Tensor, w_hh: torch.Tensor) -> torch.Tensor:
    """The squares of what a step adds to the gradient of W_hh, which is made of heads: [n, B]."""
    K = w_hh.shape[1]
    if not K:
        return dz.new_zeros(dz.shape[:-1], dtype=torch.float64)
    heads = h.shape[-1] // K
    if heads == 1:
        return _squares(dz) * _squares(h)
    of_dz = _squares(dz.unflatten(-1, (-1, heads, K))).sum(-2)  # [n, B, heads]
    return (of_dz * _squares(h.unflatten(-1, (heads, K)))).sum(-1)


def _squares(a: torch.Tensor) -> torch.Tensor:
    return a.double().square().sum(-1)
