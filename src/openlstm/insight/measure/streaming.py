"""Streaming: is a step-by-step run the same, how long does an empty state matter, does the cell drift.

    max_difference   max over the first 1000 steps, rows, units of |h step by step - h of the whole sequence|
    warm_up          after how many steps a run that starts from an empty state in the middle of the data stays within 1 % of
                     the run over all of them: ||h_empty - h|| <= 0.01 ||h||, over all rows
    drift_per_1000   slope of the mean |c| (|h| without a cell) over the second half of the steps, times 1000
    grows            whether it is a reason to reset: over that half |c| rises by more than half of its mean there, and by more
                     than three times what is left around the line. A cell that counts from zero on rises by two thirds

A state that differs need not show in the answer. How much to send is therefore what the loss says where there is one
(`measure.ablation`), and what the slowest state says where there is none: `steps_to_send`.

Legend: T time, B batch, n steps of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from openlstm.insight import charts
from openlstm.insight.batches import each
from openlstm.insight.display import Chart, Display, alt
from openlstm.insight.measure.ablation import Ablation
from openlstm.insight.place import Place
from openlstm.insight.results import Asked, Result
from openlstm.insight.words import number, steps

_CLOSE = 0.01
_SINGLE = 1000


@dataclass(frozen=True)
class Streaming(Result):
    """How one place behaves in a stream.

    Fields:
        max_difference: 0 where a stream gives the bits of the whole sequence.
        warm_up: steps; None where it had not warmed up within the data.
        difference: [n], of the run from an empty state, relative, step by step.
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
            text = f"started from an empty state it has not caught up after {steps(len(self.difference))}"
        else:
            text = f"started from an empty state it is within 1 % of the run over all steps after {steps(self.warm_up)}"
        if self.grows:
            text += f"; the cell still grows at the end of the data, by {number(self.drift_per_1000)} in 1000 steps: look at "
            text += "longer data, or reset it now and then"
        return f"{self.name}: {same}; {text}."

    @classmethod
    def displays(cls, found: Mapping[str, Streaming], asked: Asked) -> tuple[Display, ...]:
        """How far a run from an empty state is from the run over all steps; and what to send."""
        return (_drawn(found, asked.advice),)


def steps_to_send(found: Iterable[Streaming], used: Ablation | None = None) -> str:
    """What to send to a stream that starts from an empty state, in one sentence.

    Args:
        found: of every place.
        used: what the network uses, if that was measured: then the loss decides, and the answer is that of `Ablation.finding`.

    >>> steps_to_send([Streaming("0", 0.0, 12, np.zeros(50), 0.0), Streaming("1", 0.0, 34, np.zeros(50), 0.0)])
    'Send 34 steps before trusting a stream that starts empty: from there on every state is within 1 % of that of a longer one.'
    """
    if used is not None:
        return used.serving
    waits = [f.warm_up for f in found]
    if not waits:
        return ""
    if None in waits:
        return "Started from an empty state not every layer catches up within these data: keep the states, or send more first."
    most = steps(max(w for w in waits if w is not None))
    from_there = "from there on every state is within 1 % of that of a longer one"
    return f"Send {most} before trusting a stream that starts empty: {from_there}."


def streaming(place: Place) -> Streaming | None:
    """Run a place as a stream and compare.

    Returns:
        None for a reverse direction, which needs the end of the data before it can begin.

    >>> import openlstm
    >>> from openlstm.insight.capture import capture_layers
    >>> found = streaming(capture_layers(openlstm.LSTM(3, 8), torch.randn(200, 2, 3)).places[0])
    >>> found.max_difference, found.warm_up < 60
    (0.0, True)
    """
    if place.reverse:
        return None
    single = iter(place.forwards(1))
    most, half = 0.0, place.steps // 2
    size = torch.zeros(place.steps, dtype=torch.float64)
    late_runs = iter(_from_empty(place, half).forwards()) if half else iter(())
    gap, norm = torch.zeros(place.steps - half, dtype=torch.float64), torch.zeros(place.steps - half, dtype=torch.float64)
    late, late_at = None, 0
    for part in place.forwards():
        real = place.order(part.t0, part.t1) >= 0  # [n, B]
        count = real.sum(1).clamp(min=1)
        inner = part.saved.h if part.saved.c is None else part.saved.c[..., : place.units]
        size[part.t0 : part.t1] = ((inner.abs().mean(-1).double() * real).sum(1) / count).cpu()
        for t in range(part.t0, part.t1):
            h = part.saved.h[t - part.t0]
            if t < _SINGLE and h.numel():
                most = max(most, float((next(single).saved.h[0] - h).abs().max()))
            if t < half:
                continue
            if late is None or t - half >= late_at + len(late):
                nxt = next(late_runs, None)
                if nxt is None:
                    break
                late, late_at = nxt.saved.h, nxt.t0
            gap[t - half] = (late[t - half - late_at] - h).double().square().sum().sqrt()
            norm[t - half] = h.double().square().sum().sqrt()
    difference = torch.where(norm > 0, gap / norm, 0).numpy()
    far = np.flatnonzero(difference > _CLOSE)
    warm_up = 0 if not len(far) else int(far[-1]) + 1 if far[-1] + 1 < len(difference) else None
    slope, grows = trend(size[half:].numpy())
    return Streaming(place.name, most, warm_up if half else None, difference, slope * 1000, grows)


def _from_empty(place: Place, t0: int) -> Place:
    """The place from step t0 on, with an empty state."""
    lengths = None if place.lengths is None else (place.lengths - t0).clamp(min=0)
    empty = each(place.state, torch.zeros_like)
    return place.taking(lambda a: a[t0:], lambda a: a).calling(state=empty, lengths=lengths)


def trend(y: np.ndarray) -> tuple[float, bool]:
    """The slope of a line through y, and whether y rises along it by half of its mean and by more than it scatters."""
    if len(y) < 3:
        return 0.0, False
    t = np.arange(len(y)) - (len(y) - 1) / 2
    slope = float((t * y).sum() / (t * t).sum())
    rise, around = slope * len(y), y - y.mean() - slope * t
    return slope, bool(rise > max(0.5 * y.mean(), 3 * around.std()))


def _drawn(found: Mapping[str, Streaming], advice: str) -> Display:

    places = charts.Places(found)
    curves: charts.Curves = {n: (np.arange(1, len(r.difference) + 1), r.difference) for n, r in places.drawn.items()}
    low, high = charts.span_of(curves)
    rows = charts.curve_rows(curves, "{s}, {x} steps after the start: {v} apart", log=True)

    def drawn(width: int) -> Chart:
        y = alt.Y("v:Q", title="apart, of its size", **charts.log_axis(low, high))
        return charts.lag_lines(rows, places.names, y, width, level=_CLOSE, title="steps since the empty state", word="1 %")

    table = places.table(lag=lambda r: range(1, len(r.difference) + 1), difference=lambda r: r.difference)
    said = places.told() + (advice and ("\n" if len(places.drawn) > 1 else " ") + advice)
    return Display("How long an empty state at the start is felt", drawn, table, said, places.series())
