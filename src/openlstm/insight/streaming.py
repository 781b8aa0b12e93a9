"""D11, streaming fidelity: is a step-by-step run the same, how long must it warm up, does the cell drift.

    max_difference   max over the first 1000 steps, rows, units of |h step by step - h of the whole sequence|
    warm_up          after how many steps a run begun with an empty state in the middle of the data stays within 1 % of the run
                     that was there all along: ||h_cold - h_warm|| <= 0.01 ||h_warm||, over all rows
    drift_per_1000   slope of the mean |c| (|h| without a cell) over the second half of the steps, times 1000
    grows            whether it is a reason to reset: over that half |c| rises by more than half of its mean there, and by more
                     than three times what is left around the line. A cell that counts from zero on rises by two thirds

A state that differs need not show in the answer. How much to send is therefore what the loss says where there is one
(`insight.ablation`), and what the slowest state says where there is none: `sending`.

Legend: T time, B batch, n steps of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from openlstm.insight.ablation import Ablation
from openlstm.insight.look import Place
from openlstm.insight.words import number, plain, steps
from openlstm.reference import State

_CLOSE = 0.01
_SINGLE = 1000


@dataclass(frozen=True)
class Streaming:
    """How one place behaves in a stream.

    Fields:
        max_difference: 0 where a stream gives the bits of the whole sequence.
        warm_up: steps; None where it had not warmed up within the data.
        difference: [n], the relative difference of the cold run, step by step.
        drift_per_1000: in units of the cell.
        grows: whether that is large beside the cell itself.
    """

    name: str
    max_difference: float
    warm_up: int | None
    difference: np.ndarray
    drift_per_1000: float
    grows: bool = False

    @property
    def finding(self) -> str:
        """What was measured, and what to do about a cell that grows."""
        same = "a stream gives the very same numbers" if self.max_difference == 0 else ""
        same = same or f"a stream differs by at most {number(self.max_difference)}"
        if self.warm_up is None:
            text = f"begun cold its state has not caught up after {steps(len(self.difference))}"
        else:
            text = f"begun cold its state is within 1 % of a warm one after {steps(self.warm_up)}"
        if self.grows:
            text += f"; the cell still grows at the end of the data, by {number(self.drift_per_1000)} in 1000 steps: look at "
            text += "longer data, or reset it now and then"
        return f"{self.name}: {same}; {text}."

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, ready for JSON."""
        return plain(self)


def sending(found: Iterable[Streaming], used: Ablation | None = None) -> str:
    """What to send to a stream that begins cold, in one sentence.

    Args:
        found: of every place.
        used: what the network uses, if that was measured: then the loss decides, and the answer is that of `Ablation.finding`.

    >>> sending([Streaming("0", 0.0, 12, np.zeros(50), 0.0), Streaming("1", 0.0, 34, np.zeros(50), 0.0)])
    'Send 34 steps before trusting a stream that begins cold: from there on every state is within 1 % of a warm one.'
    """
    if used is not None:
        return used.serving
    waits = [f.warm_up for f in found]
    if not waits:
        return ""
    if None in waits:
        return "Begun cold not every state catches up within these data: keep the states, or send more first."
    most = steps(max(w for w in waits if w is not None))
    return f"Send {most} before trusting a stream that begins cold: from there on every state is within 1 % of a warm one."


def streaming(place: Place) -> Streaming | None:
    """Run a place as a stream and compare.

    Returns:
        None for a reverse direction, which needs the end of the data before it can begin.

    >>> import openlstm
    >>> from openlstm.insight.look import look
    >>> found = streaming(look(openlstm.LSTM(3, 8), torch.randn(200, 2, 3)).places[0])
    >>> found.max_difference, found.warm_up < 60
    (0.0, True)
    """
    if place.reverse:
        return None
    single = iter(place.forwards(1))
    most, half = 0.0, place.steps // 2
    size = torch.zeros(place.steps, dtype=torch.float64)
    cold_runs = iter(_cold(place, half).forwards()) if half else iter(())
    gap, norm = torch.zeros(place.steps - half, dtype=torch.float64), torch.zeros(place.steps - half, dtype=torch.float64)
    cold, cold_at = None, 0
    for part in place.forwards():
        real = place.order(part.t0, part.t1) >= 0  # [n, B]
        count = real.sum(1).clamp(min=1)
        inner = part.saved.h if part.saved.c is None else part.saved.c
        size[part.t0 : part.t1] = ((inner.abs().mean(-1).double() * real).sum(1) / count).cpu()
        for t in range(part.t0, part.t1):
            h = part.saved.h[t - part.t0]
            if t < _SINGLE and h.numel():
                most = max(most, float((next(single).saved.h[0] - h).abs().max()))
            if t < half:
                continue
            if cold is None or t - half >= cold_at + len(cold):
                nxt = next(cold_runs, None)
                if nxt is None:
                    break
                cold, cold_at = nxt.saved.h, nxt.t0
            gap[t - half] = (cold[t - half - cold_at] - h).double().square().sum().sqrt()
            norm[t - half] = h.double().square().sum().sqrt()
    difference = torch.where(norm > 0, gap / norm, 0).numpy()
    far = np.flatnonzero(difference > _CLOSE)
    warm_up = 0 if not len(far) else int(far[-1]) + 1 if far[-1] + 1 < len(difference) else None
    slope, grows = trend(size[half:].numpy())
    return Streaming(place.name, most, warm_up if half else None, difference, slope * 1000, grows)


def _cold(place: Place, t0: int) -> Place:
    """The place from step t0 on, with an empty state."""
    fresh = place.reset_state
    if fresh is not None and fresh.h.dim() == 3:
        fresh = State(*(None if s is None else s[t0:] for s in fresh))
    return replace(
        place,
        x=place.x[t0:],
        state=State(*(None if s is None else torch.zeros_like(s) for s in place.state)),
        lengths=None if place.lengths is None else (place.lengths - t0).clamp(min=0),
        reset=None if place.reset is None else place.reset[t0:],
        reset_state=fresh,
    )


def trend(y: np.ndarray) -> tuple[float, bool]:
    """The slope of a line through y, and whether y rises along it by half of its mean and by more than it scatters."""
    if len(y) < 3:
        return 0.0, False
    t = np.arange(len(y)) - (len(y) - 1) / 2
    slope = float((t * y).sum() / (t * t).sum())
    rise, around = slope * len(y), y - y.mean() - slope * t
    return slope, bool(rise > max(0.5 * y.mean(), 3 * around.std()))
