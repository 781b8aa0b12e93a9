"""The few kinds of picture the lecture needs, drawn with altair.

Every picture is a function of its width, so that a page can hold one for a laptop and one for a phone. Colours are stand-ins
for CSS variables until the last moment: the page decides what they are in light and in dark.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt
import numpy as np

from openlstm.insight.display import DASHES, GRID, INK, SERIES, SOFT, Chart, Display, powers
from openlstm.insight.display import number as number
from openlstm.insight.display import to_svg as to_svg

WIDE, NARROW = 660, 330  # px, of the whole drawing
MARGIN = 66  # px of that for the labels on the left
PHONE = 500  # px; below, a drawing is for a phone
Values = Mapping[str, np.ndarray]  # series -> numbers over time
Point = dict[str, Any]


class Panel(NamedTuple):
    """One row of a stack of drawings that share their time axis.

    kind: "line", "step" (a gate holds its value for the whole step), "bar" (one series, in grey) or "stack" (bars on each
    other, in the colours of the series).
    """

    label: str
    values: Values
    kind: str = "line"
    height: int = 84
    domain: tuple[float, float] | None = None


class Bars(Display):
    """A picture of bars: its legend shows colours, not the dashes of lines."""

    def legend(self) -> list[dict[str, str]]:
        """As that of lines, without their dashes."""
        return [{**entry, "dash": "none"} for entry in super().legend()]


def panels(title: str, finding: str, rows: Sequence[Panel], *, first_step: int = 1, marks: Iterable[float] = ()) -> Display:
    """A stack of panels over time; `marks` are steps with a thin line through all of them."""
    names = _names(rows)
    rules = [{"t": m} for m in marks]

    def draw(width: int) -> Chart:
        span = _span(rows, first_step)
        drawn = [_panel(row, width - MARGIN, names, span, rules, last=row is rows[-1]) for row in rows]
        return alt.vconcat(*drawn, spacing=26)

    return Display(title, draw, _columns({"": rows}, first_step), finding, names)


def side_by_side(title: str, finding: str, columns: Mapping[str, Sequence[Panel]], *, first_step: int = 1) -> Display:
    """Stacks of panels beside each other, row by row on one scale, so that their forms can be compared."""
    rows = [row for stack in columns.values() for row in stack]
    names, leftmost = _names(rows), next(iter(columns))

    def draw(width: int) -> Chart:
        gap, left = (18, 46) if width >= PHONE else (8, 38)
        wide = (width - left - gap * (len(columns) - 1)) / len(columns)
        drawn = []
        for beside in zip(*columns.values(), strict=True):
            last, domain = beside[0] is next(iter(columns.values()))[-1], _domain(beside)
            for name, row in zip(columns, beside, strict=True):
                row = row._replace(domain=domain)
                panel = _panel(row, wide, names, _span(rows, first_step), [], last=last, left=left if name == leftmost else 0)
                if len(drawn) < len(columns):
                    panel = panel.properties(title=alt.Title(name, fontSize=12.5, fontWeight="bold", offset=8, color=INK))
                drawn.append(panel)
        return alt.concat(*drawn, columns=len(columns), bounds="flush", spacing={"row": 38, "column": gap})

    return Display(title, draw, _columns(columns, first_step), finding, names)


def curves(
    title: str,
    finding: str,
    values: Values,
    x: str,
    y: str,
    *,
    log: tuple[float, float] | None = None,
    rule: float | None = None,
    height: int = 270,
) -> Display:
    """Curves over lags; with log=(low, high) on a log axis of that range, which they leave where they go beyond it."""
    names = list(values)
    points = _points(values, 0)
    scale, axis = alt.Scale(nice=True), _y_axis(tickCount=5)
    if log:
        for point in points:
            point["v"] = min(max(point["v"], 1e-300), 1e300)  # 0 and infinity have no place on a log axis
        decades = round(math.log10(log[1] / log[0]))
        exponents = range(round(math.log10(log[0])), round(math.log10(log[1])) + 1, max(1, math.ceil(decades / 7)))
        scale = alt.Scale(type="log", domain=list(log), nice=False)
        axis = _y_axis(values=[10.0**n for n in exponents], labelExpr=powers(exponents))

    def draw(width: int) -> Chart:
        drawn = (
            alt.Chart(_data(points))
            .mark_line(clip=True)
            .encode(
                alt.X("t:Q", title=x, scale=alt.Scale(nice=False), axis=_lag_axis(width)),
                alt.Y("v:Q", title=y, scale=scale, axis=axis),
                _color(names),
                strokeDash=_dash(names),
            )
        )
        if rule is not None:
            drawn = _level(rule, scale) + drawn
        return drawn.properties(width=width - MARGIN, height=height)

    return Display(title, draw, _table(points, series="s", x="t", value="v"), finding, tuple(names))


def over_lags(
    title: str, finding: str, scores: Mapping[str, Mapping[int, Sequence[float]]], x: str, y: str, rule: float
) -> Display:
    """For each series and lag a dot for every repetition, and a line through the means; the lags stand at equal distances."""
    dots = [{"s": s, "t": lag, "v": v} for s, row in scores.items() for lag, column in row.items() for v in column]
    means = [{"s": s, "t": lag, "v": float(np.mean(column))} for s, row in scores.items() for lag, column in row.items()]
    names = list(scores)

    def draw(width: int) -> Chart:
        across = alt.X("t:O", title=x, axis=alt.Axis(labelAngle=0, grid=False), scale=alt.Scale(padding=0.25))
        scale = alt.Scale(domain=[0.4, 1], nice=False)
        up = alt.Y("v:Q", title=y, scale=scale, axis=_y_axis(tickCount=6, format=".0%"))
        line = alt.Chart(_data(means)).mark_line().encode(across, up, _color(names), strokeDash=_dash(names))
        each = alt.Chart(_data(dots)).mark_circle(size=42, opacity=0.6).encode(across, up, _color(names))
        return (_level(rule, scale) + line + each).properties(width=width - MARGIN, height=250)

    return Display(title, draw, _table(dots, series="s", lag="t", value="v"), finding, tuple(names))


def matrices(title: str, finding: str, named: Values) -> Display:
    """Matrices side by side on one logarithmic scale: the stronger the colour, the larger the entry; a hue for + and for -.

    The scale ends at a tenth of the largest entry of the smallest matrix, so that none of them looks empty.
    """
    largest = [float(np.abs(m).max()) for m in named.values()]
    top, least = max(largest), min(largest) / 10
    cells = [
        {"m": name, "r": r, "c": c, "v": float(v), "a": max(abs(float(v)), least), "sign": "+" if v >= 0 else "-"}
        for name, m in named.items()
        for (r, c), v in np.ndenumerate(m)
    ]

    def matrix(name: str, side: float) -> Chart:
        axis = alt.Axis(labels=False, grid=False)
        title = alt.Title(name, fontSize=12.5, fontWeight="normal", offset=6)
        return (
            alt.Chart(_data([cell for cell in cells if cell["m"] == name]), title=title)
            .mark_rect(stroke=GRID, strokeWidth=0.7)
            .encode(
                alt.X("c:O", title=None, axis=axis),
                alt.Y("r:O", title=None, axis=axis),
                alt.Color("sign:N", scale=alt.Scale(domain=["+", "-"], range=list(SERIES[:2])), legend=None),
                fillOpacity=alt.FillOpacity("a:Q", scale=alt.Scale(type="log", domain=[least, top], range=[0, 1]), legend=None),
            )
            .properties(width=side, height=side)
        )

    def draw(width: int) -> Chart:
        columns = len(named) if width >= PHONE else 2
        side = (width - 10) / columns - 16
        return alt.concat(*(matrix(name, side) for name in named), columns=columns, spacing=16)

    return Display(title, draw, _table(cells, matrix="m", row="r", column="c", value="v"), finding)


def over_text(
    title: str,
    finding: str,
    text: Sequence[str],
    values: np.ndarray,
    kinds: Sequence[str],
    names: tuple[str, ...],
    y: str,
    ends: Iterable[int],
) -> Display:
    """A bar between 0 and 1 over every letter of a text, which runs over several lines; a thin line after the letters `ends`.

    kinds: of each letter, one of `names`; it gives the bar its colour.
    """
    bars = [
        {"t": t, "letter": letter, "v": float(v), "s": kind}
        for t, (letter, v, kind) in enumerate(zip(text, values, kinds, strict=True))
    ]
    after = [t + 0.5 for t in ends]

    def line(first: int, count: int, width: float) -> Chart:
        here = _data([bar for bar in bars if first <= bar["t"] < first + count])
        domain = [first - 0.5, first + count - 0.5]
        x = alt.X("t:Q", title=None, axis=None, scale=alt.Scale(domain=domain, nice=False))
        label = y if first == 0 else None
        up = alt.Y("v:Q", title=label, scale=alt.Scale(domain=[0, 1], nice=False), axis=_y_axis(values=[0, 0.5, 1]))
        drawn = alt.Chart(here).mark_bar(width=0.62 * width / count).encode(x, up, _color(names))
        letters = alt.Chart(here).mark_text(fontSize=13, fontWeight="bold", color=INK, dy=13)
        letters = letters.encode(x, alt.Y(value=56), text="letter:N")
        rules = alt.Chart(_data([{"t": t} for t in after if domain[0] < t <= domain[1]]))
        boundary = rules.mark_rule(color=INK, strokeWidth=1.4).encode(x, alt.Y(value=-4), alt.Y2(value=76))
        return (drawn + letters + boundary).properties(width=width, height=56)

    def draw(width: int) -> Chart:
        count = 30 if width >= PHONE else 15
        lines = [line(first, count, width - MARGIN) for first in range(0, len(bars), count)]
        return alt.vconcat(*lines, spacing=34)

    return Bars(title, draw, _table(bars, step="t", letter="letter", kind="s", value="v"), finding, names)


def _panel(
    row: Panel,
    width: float,
    names: Sequence[str],
    span: tuple[int, int],
    rules: list[Point],
    *,
    last: bool,
    left: float = MARGIN,
) -> Chart:
    first, steps = span
    axis = alt.Axis(labels=last, tickMinStep=1, grid=False, tickCount=max(2, min(15, round(width / 34))), labelFlush=False)
    time = alt.Scale(domain=[first - 0.5, steps + 0.5], nice=False, zero=False, padding=0)
    x = alt.X("t:Q", title="step t" if last else None, scale=time, axis=axis)
    scale = alt.Scale(domain=row.domain, nice=False) if row.domain else alt.Scale(nice=True)
    y = alt.Y("v:Q", title=row.label, scale=scale, axis=_y_axis(left, tickCount=3, labels=left > 0))
    base = alt.Chart(_data(_points(row.values, first)))
    thick = max(2.0, 0.5 * width / (steps - first + 1))
    if row.kind == "bar":
        drawn = base.mark_bar(width=thick, color=SOFT).encode(x, y)
    elif row.kind == "stack":
        drawn = base.mark_bar(width=thick).encode(x, y, _color(names))
    else:
        cut = row.domain is not None  # on a scale of its own a line along the edge keeps its whole width
        mark = base.mark_line(interpolate="step" if row.kind == "step" else "linear", clip=cut)
        drawn = mark.encode(x, y, _color(names), strokeDash=_dash(names))
    if rules:
        drawn = alt.Chart(_data(rules)).mark_rule(color=SOFT, strokeDash=[2, 3]).encode(x) + drawn
    return drawn.properties(width=width, height=row.height)


def _names(rows: Sequence[Panel]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for row in rows if row.kind != "bar" for name in row.values))


def _span(rows: Sequence[Panel], first: int) -> tuple[int, int]:
    """The first and the last step."""
    return first, max(len(column) for row in rows for column in row.values.values()) - 1 + first


def _domain(beside: Sequence[Panel]) -> tuple[float, float]:
    """The scale on which panels beside each other are drawn: their own, or one that has room for all of them."""
    if beside[0].domain:
        return beside[0].domain
    values = np.concatenate([column for row in beside for column in row.values.values()])
    room = 0.06 * float(np.ptp(values))
    return float(values.min()) - room, float(values.max()) + room


def _columns(stacks: Mapping[str, Sequence[Panel]], first: int) -> dict[str, list[Any]]:
    """The figures behind panels."""
    points = [
        {**point, "panel": f"{stack}: {row.label}" if stack else row.label}
        for stack, rows in stacks.items()
        for row in rows
        for point in _points(row.values, first)
    ]
    return _table(points, panel="panel", series="s", step="t", value="v")


def _table(points: Sequence[Point], **columns: str) -> dict[str, list[Any]]:
    """Column -> what stands under a key of every point."""
    return {column: [point[key] for point in points] for column, key in columns.items()}


def _points(values: Values, first: int) -> list[Point]:
    return [{"t": k + first, "s": name, "v": float(value)} for name, column in values.items() for k, value in enumerate(column)]


def _data(points: Sequence[Point]) -> alt.Data:
    """Points as one JSON text, which altair hands on as it is instead of copying and checking every number."""
    return alt.Data(values=json.dumps(points), format=alt.JsonDataFormat(type="json"))


def _level(value: float, scale: alt.Scale) -> Chart:
    """A dotted line at a height."""
    return alt.Chart(_data([{"v": value}])).mark_rule(color=SOFT, strokeDash=[2, 3]).encode(alt.Y("v:Q", scale=scale))


def _lag_axis(width: float) -> alt.Axis:
    return alt.Axis(grid=False, tickMinStep=1, tickCount=round(width / 55), labelFlush=False, labelPadding=9)


def _y_axis(left: float = MARGIN, **options: Any) -> alt.Axis:
    """The title lies flat above the axis, where a phone has room for it."""
    flat = {"titleAngle": 0, "titleAlign": "left", "titleAnchor": "start", "titleX": 14 - left if left else 0, "titleY": -10}
    return alt.Axis(titleBaseline="bottom", **flat, **options)


def _color(names: Sequence[str]) -> alt.Color:
    return alt.Color("s:N", title=None, scale=alt.Scale(domain=list(names), range=list(SERIES[: len(names)])))


def _dash(names: Sequence[str]) -> alt.StrokeDash:
    return alt.StrokeDash("s:N", title=None, scale=alt.Scale(domain=list(names), range=list(DASHES[: len(names)])))
