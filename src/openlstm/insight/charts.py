"""What the drawings of diagnostics share: the places that are drawn, axes, lines over lags, marks, tables.

Every drawing takes any number of layers and directions, sizes and lags, and leaves nothing out in silence: what is not drawn
(the units beyond the first hundred or so, the places beyond the eighth) is in the figures that can be downloaded, and the
sentence says so. A value that has no place on a logarithmic axis (0, infinity) stands at its edge, and is named there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from openlstm.insight.display import ALARM, DASHES, SERIES, SHAPES, SOFT, Chart, alt, number, powers
from openlstm.insight.results import by_place

MARGIN = 66  # px of the width for the labels on the left
UNITS = 240  # at most so many units are drawn of all places together
PLACES = len(SERIES)

Curves = dict[str, tuple[Any, Any]]  # name -> lags, values
Row = dict[str, Any]


class Places:
    """Results by the name of the place that they were measured at: the first eight are drawn, the figures hold all.

    Attributes:
        every: all that were measured.
        drawn: those that are drawn, by their labels.
        names: the labels.
        most: how many units of one place are drawn.
    """

    def __init__(self, results: Mapping[str, Any]) -> None:
        self.every = {name: r for name, r in results.items() if r is not None}
        self.drawn = {label(name): r for name, r in list(self.every.items())[:PLACES]}
        self.names = list(self.drawn)
        self.most = UNITS // max(1, len(self.drawn))

    def told(self, said: Callable[[Any], str] = lambda r: r.finding) -> str:
        """The sentences of the places that are drawn, each behind its name where there are several, and how many are left."""
        left = len(self.every) - len(self.drawn)
        rest = f" {left} more places are in the figures only." if left > 1 else " 1 more place is in the figures only."
        texts = {name: said(r).removeprefix(f"{r.name}: ") for name, r in self.drawn.items()}
        return by_place(texts) + (rest if left else "")

    def table(self, **columns: Callable[[Any], Iterable[Any]]) -> dict[str, list[Any]]:
        """The figures: the place, and columns of each result."""
        parts = {name: {c: list(f(r)) for c, f in columns.items()} for name, r in self.every.items()}
        place = [name for name, part in parts.items() for _ in next(iter(part.values()))]
        return {"place": place} | {c: [v for part in parts.values() for v in part[c]] for c in columns}

    def series(self, names: Sequence[str] | None = None) -> tuple[str, ...]:
        """What a legend names, where there are several."""
        names = self.names if names is None else names
        return tuple(names) if len(names) > 1 else ()


def lag_lines(rows: list[Row], names: Sequence[str], y: alt.Y, width: int, lag: int | None = None, **labels: Any) -> Chart:
    """Lines over lags, with a point on each figure, the lag asked for, and a threshold.

    Args:
        labels: title of the axis of lags; level and word of a threshold.
    """
    level, word = labels.get("level"), labels.get("word", "")
    x = lag_axis(max((r["x"] for r in rows), default=2), labels.get("title", "lag, steps"))
    drawn = lines(rows, x, y, names, 20, clip=True)
    if level is not None:
        drawn = rule_across(level, word or f"threshold {number(level)}", SOFT, dash=[3, 3]) + drawn
    return with_lag(drawn, lag, x).properties(width=width - MARGIN, height=240)


def lines(rows: list[Row], x: alt.X, y: alt.Y, names: Sequence[str], size: int, clip: bool = False) -> Chart:
    """Lines with a point on each figure, in the colour, dash and shape of their series."""
    base = alt.Chart(data(rows))
    points = base.mark_point(filled=True, size=size, opacity=0.9 if clip else 1, clip=clip)
    drawn = base.mark_line(clip=True).encode(x, y, color(names), strokeDash=dash(names))
    return drawn + points.encode(x, y, color(names), shape(names), description="d:N")


def line(rows: list[Row], x: alt.X, y: alt.Y, hue: str) -> Chart:
    """One line with large points."""
    base = alt.Chart(data(rows))
    points = base.mark_point(filled=True, size=48, opacity=1, color=hue).encode(x, y, description="d:N")
    return base.mark_line(color=hue).encode(x, y) + points


def bars(rows: list[Row], title: str, width: float, label_limit: int, **axis: Any) -> Chart:
    """A bar for each row: n its name, v its length, t a word at its end."""
    y = alt.Y("n:N", sort=[r["n"] for r in rows], title=None, axis=alt.Axis(grid=False, labelLimit=label_limit))
    x = alt.X("v:Q", title=title, **axis)
    base = alt.Chart(data(rows))
    drawn: Chart = base.mark_bar(color=SERIES[0], height=9).encode(x, y, description="d:N")
    if rows and "t" in rows[0]:
        drawn += base.mark_text(align="left", dx=5, color=SOFT, fontSize=11).encode(x, y, text="t:N")
    return drawn.properties(width=width, height=(22 if rows and "t" in rows[0] else 20) * len(rows))


def lag_axis(top: float, title: str, low: float = 1.0) -> alt.X:
    """Lags on a log axis where there are many, on a plain one where there are few."""
    top = max(top, 2.0)
    if top < 40:
        return alt.X("x:Q", title=title, scale=alt.Scale(domain=[0, top], nice=False), axis=alt.Axis(grid=False, tickMinStep=1))
    scale = alt.Scale(type="log", domain=[min(low, 1.0), top], nice=False)
    return alt.X("x:Q", title=title, scale=scale, axis=alt.Axis(values=decades(1, top), format=",", grid=False))


def with_lag(chart: Chart, lag: int | None, x: alt.X) -> Chart:
    """A line at the lag, where it lies on the axis."""
    domain: Any = x.to_dict()
    if lag is None or lag > domain["scale"]["domain"][1]:
        return chart
    return rule_down(float(lag), "the lag", ALARM, x) + chart


def rule_down(at: float, word: str, hue: str, x: alt.X) -> Chart:
    """A line from top to bottom with a word at its head."""
    base = alt.Chart(data([{"x": at, "t": f"{word}: {at:,.0f}"}]))
    rule = base.mark_rule(color=hue, strokeDash=[5, 3], strokeWidth=1.6).encode(x)
    return rule + base.mark_text(color=hue, baseline="bottom", dy=-4, fontSize=11.5).encode(x, alt.YValue(0), text="t:N")


def rule_across(level: float, word: str, hue: str, **style: Any) -> Chart:
    """A line from left to right, with a word on it where there is one."""
    base = alt.Chart(data([{"v": level, "t": word}]))
    rule: Chart = base.mark_rule(color=hue, strokeDash=style.pop("dash", [5, 3]), **style).encode(alt.Y("v:Q"))
    text = base.mark_text(color=hue, align="left", baseline="bottom", dx=4, dy=-2, fontSize=11.5)
    return rule + text.encode(alt.Y("v:Q"), alt.XValue(0), text="t:N") if word else rule


def curve_rows(curves: Curves, words: str, log: bool = False) -> list[Row]:
    """One row a figure of every curve, from lag 1 on; at most about a hundred of one curve, densest where lags are short.

    Args:
        words: of one figure, of {s} the curve, {x} the lag and {v} the value.
        log: on a log axis what is zero or infinite stands outside: it would be wrong to let the line run along the edge.
    """
    rows = []
    for name, (lags, values) in curves.items():
        for k in thinned(lags, 90 if len(curves) <= 2 else 36):
            v = float(values[k])
            if not math.isnan(v):
                said = words.format(s=name, x=f"{int(lags[k]):,}", v=number(v))
                rows.append({"s": name, "x": int(lags[k]), "v": short(within(v, 1e-300, 1e300) if log else v), "d": said})
    return rows


def thinned(lags: Any, most: int = 90) -> list[int]:
    """Indices of the lags that are drawn: all where they are few, else about evenly on a log axis, the last one always."""
    at = [k for k in range(len(lags)) if lags[k] >= 1]
    if len(at) <= most:
        return at
    return [at[k] for k in sorted({int(round(w)) - 1 for w in np.geomspace(1, len(at), most)})]


def decades(low: float, high: float, dense: bool = True) -> list[float]:
    """1, 2, 5, 10, ... inside a range; powers of ten alone where that would be too many."""
    many = math.log10(max(high, 1.0) / max(low, 1e-9)) > (3.2 if dense else 2.2)
    steps = (1,) if many else (1, 2, 5)
    span = range(math.floor(math.log10(max(low, 1e-9))), math.ceil(math.log10(max(high, 1e-9))) + 1)
    return [s * 10.0**n for n in span for s in steps if low <= s * 10.0**n <= high]


def decade_span(values: Iterable[float], floor: float = 1e-9, ceiling: float = 1e12) -> tuple[float, float]:
    """The decades that hold all positive finite values, at least two, within a range that can still be read."""
    values = [float(v) for v in values]
    good = [v for v in values if math.isfinite(v) and v > 0]
    if not good:
        return 1e-3, 1.0
    low = max(floor, 10.0 ** math.floor(math.log10(min(good))))
    if 0.0 in values:
        low = max(floor, low / 10)  # room for the zeros below the rest
    high = min(ceiling, 10.0 ** math.ceil(math.log10(max(good))))
    low, high = min(low, ceiling / 100), max(high, floor * 100)
    return (low, high) if high / low >= 99 else (high / 100, high)


def span_of(curves: Curves, floor: float = 1e-9) -> tuple[float, float]:
    """`decade_span` of all that some curves hold."""
    return decade_span((v for _, values in curves.values() for v in values), floor)


def log_axis(low: float, high: float, ticks: int = 6) -> dict[str, Any]:
    """Scale and axis of powers of ten."""
    first, last = round(math.log10(low)), round(math.log10(high))
    exponents = range(first, last + 1, max(1, math.ceil((last - first) / ticks)))
    axis = alt.Axis(grid=True, values=[10.0**n for n in exponents], labelExpr=powers(exponents))
    return {"scale": alt.Scale(type="log", domain=[low, high], nice=False), "axis": axis}


def plain_axis(**scale: Any) -> dict[str, Any]:
    """Scale and axis with a handful of ticks."""
    return {"scale": alt.Scale(**scale), "axis": alt.Axis(grid=True, tickCount=5)}


def ends() -> alt.Scale:
    """A circle where a value is, an arrow where it lies beyond the drawing."""
    return alt.Scale(domain=["at", "on"], range=["circle", "triangle-right"])


def within(value: float, low: float, high: float) -> float:
    """The value, or the end of the range beyond which it lies."""
    return min(max(value, low), high)


def evenly(count: int, most: int) -> np.ndarray:
    """At most so many of 0 .. count-1, spread evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)) if count else np.zeros(0, int)


def label(name: str) -> str:
    """A place in words.

    >>> label("0"), label("1_reverse"), label("lstm.0")
    ('layer 0', 'layer 1, backwards', 'lstm.0')
    """
    if name.split("_")[0].isdigit():
        name = f"layer {name}"
    return name.replace("_reverse", ", backwards")


def color(names: Sequence[str]) -> alt.Color:
    """A colour for each series."""
    return alt.Color("s:N", title=None, scale=alt.Scale(domain=list(names), range=list(SERIES[: len(names)])))


def dash(names: Sequence[str]) -> alt.StrokeDash:
    """A dash for each series."""
    return alt.StrokeDash("s:N", title=None, scale=alt.Scale(domain=list(names), range=list(DASHES[: len(names)])))


def shape(names: Sequence[str]) -> alt.Shape:
    """A shape for each series."""
    return alt.Shape("s:N", title=None, scale=alt.Scale(domain=list(names), range=list(SHAPES[: len(names)])))


def data(rows: list[Row]) -> alt.Data:
    """Rows as one JSON text, which altair hands on as it is instead of copying and checking every number."""
    return alt.Data(values=json.dumps(rows), format=alt.JsonDataFormat(type="json"))


def short(value: Any) -> float:
    """Four digits are more than a drawing shows."""
    return float(f"{float(value):.4g}")
