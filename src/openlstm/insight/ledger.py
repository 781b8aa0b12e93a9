"""D7, gradient ledger: which steps the learning signal of a weight comes from, and where the first NaN is.

The gradient of [W_ih, W_hh] is a sum over steps of outer products; the norm of each, for one row, is exactly

    ||dz_t [x_t, h_{t-1}]^T|| = ||dz_t|| ||[x_t, h_{t-1}]||
    share(k) = sum_b of it at the step k before the row's last / sum_k sum_b

With the sums apart (GRU) dz has a part for x and one for h: sqrt(||dz^x||^2 ||x||^2 + ||dz^h||^2 ||h||^2). What is followed is
what D3 follows: the gradient that enters at the last step at which the loss reads a row (`reach.py`).

Legend: T time, B batch, H hidden size, K lags, n steps of a chunk.

Source: RNNbow (Cashman, Patterson, Mosca & Chang 2017): a gradient itemised by lag before it is summed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from openlstm.engine.scan import Back
from openlstm.insight.jacobians import Turn
from openlstm.insight.look import Place, bad_weight, first_bad
from openlstm.insight.reach import Enters, Probe
from openlstm.insight.words import percent, plain, steps
from openlstm.reference import unsum


@dataclass(frozen=True)
class Ledger:
    """Where the learning signal of one place comes from.

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
            return f"{self.name}: no learning signal arrives here."
        near = percent(float(self.share[:n].sum()))
        return f"{self.name}: {near} of the learning signal comes from the last {steps(n)} of {len(self.share)}."

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, ready for JSON."""
        return plain(self)


def ledger(place: Place, probe: Probe = "loss") -> Ledger:
    """Itemise the gradient of the weights of a place by lag.

    Args:
        place: of `look`, also one that is not finite (`look(..., finite=False)`).
        probe: as in `reach`.

    >>> import openlstm
    >>> from openlstm.insight.look import look
    >>> found = ledger(look(openlstm.LSTM(3, 8), torch.ones(50, 2, 3)).places[0])
    >>> round(float(found.share.sum()), 6), found.within(0.9) < 10
    (1.0, True)
    """
    booking = Booking(place, probe)
    for part in booking.enters.back():
        booking.see(part)
    return booking.result()


class Booking:
    """`Ledger` as a reduction over the chunks of the way back."""

    def __init__(self, place: Place, probe: Probe = "loss", enters: Enters | None = None) -> None:
        self.place = place
        self.enters = Enters(place, probe) if enters is None else enters
        K = max(int(self.enters.last.max()) + 1, 0) if place.rows else 0
        self.sums = torch.zeros(K, dtype=torch.float64)
        self.forward_bad: str | None = None
        self.backward_bad: str | None = None

    def see(self, part: Back) -> None:
        """One chunk; chunks come from the last that ran to the first."""
        n = part.dh.shape[0]
        self._see_non_finite(part)
        lags = self.enters.lags(part.t0, part.t0 + n)
        turn = Turn.of(self.place, part.t0, part.start, part.saved)
        flow, _ = turn.flow(part.dh, part.dc)
        dz_x, dz_h = unsum(turn.cell, flow.z)
        x, h = self.place.x[part.t0 : part.t0 + n], turn.around.before.h
        product = _squares(dz_x) * _squares(x) + _squares(dz_h) * _squares(h)  # [n, B]
        here = (lags >= 0).cpu()
        self.sums.index_add_(0, lags.cpu()[here], product.sqrt().cpu()[here])

    def _see_non_finite(self, part: Back) -> None:
        found = first_bad(self.place, part.t0, part.saved)
        self.forward_bad = found or self.forward_bad  # chunks come from the end: the last one found is the first that ran
        if self.backward_bad is None:
            self.backward_bad = self._bad_gradient(part)

    def _bad_gradient(self, part: Back) -> str | None:
        named = {"dL/dh": part.dh, "dL/dc": part.dc}
        n = part.dh.shape[0]
        bad = {name: ~a.isfinite().flatten(1).all(1) for name, a in named.items() if a is not None}
        for t in range(n) if self.place.reverse else reversed(range(n)):
            for name, b in bad.items():
                if b[t]:
                    row, unit = (~named[name][t].isfinite()).nonzero()[0].tolist()
                    value = float(named[name][t, row, unit])
                    return f"{self.place.name}: {name} is {value} at step {part.t0 + t}, row {row}, unit {unit}"
        return None

    def result(self) -> Ledger:
        total = float(self.sums.sum())
        share = (self.sums / total if np.isfinite(total) and total > 0 else torch.zeros_like(self.sums)).numpy()
        found = bad_weight(self.place) or self.forward_bad or self.backward_bad
        return Ledger(self.place.name, np.arange(len(share)), share, found)


def _squares(a: torch.Tensor) -> torch.Tensor:
    return a.double().square().sum(-1)
