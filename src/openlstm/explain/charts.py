"""The few kinds of chart the lecture needs, drawn with altair, and their way into a page as SVG without scripts.

Every chart is a function of its width, so that a page can hold one for a laptop and one for a phone. Colours are stand-ins for
CSS variables until the last moment: the page decides what they are in light and in dark.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from openlstm._errors import missing_extra

try:
    import altair as alt
except ModuleNotFoundError as error:
    raise missing_extra("explain", str(error.name), "report") from error

from openlstm.insight.report.display import DASHES, GRID, SERIES, SOFT, VARIABLES, Chart, config, powers
from openlstm.insight.report.display import number as number
from openlstm.insight.report.display import to_svg as to_svg

WIDE, NARROW = 660, 330  # px, of the whole drawing
MARGIN = 66  # px of that for the labels on the left
Values = Mapping[str, np.ndarray]  # series -> numbers over time


class Figure(NamedTuple):
    """One figure of the lecture: a title, a drawing for any width, and the sentence that it shows, with computed numbers."""

    title: str
    draw: Callable[[int], Chart]
    finding: str
    series: tuple[str, ...] = ()  # what the colours mean, if there are several

    def legend(self) -> list[tuple[str, str, str]]:
        """(CSS variable, SVG dash pattern, name) of each series."""
        dashes = (" ".join(map(str, dash)) if dash[1] else "none" for dash in DASHES)
        return [(VARIABLES[c], d, name) for c, d, name in zip(SERIES, dashes, self.series, strict=False)]

    def notebook(self, width: int = WIDE) -> Chart:
        """The drawing with title, legend and colours of its own, for a notebook."""
        return self.draw(width).properties(title=self.title).configure(**config(legend=len(self.series) > 1))


class Panel(NamedTuple):
    """One row of a stack of drawings that share their time axis.

    kind: "line", "step" (a gate holds its value for the whole step) or "bar" (one series, in grey).
    """

    label: str
    values: Values
    kind: str = "line"
    height: int = 84
    domain: tuple[float, float] | None = None


def panels(rows: Sequence[Panel], first_step: int = 1, marks: Iterable[float] = ()) -> Callable[[int], Chart]:
    """A stack of panels over time; `marks` are steps with a thin line through all of them."""
    names = list(dict.fromkeys(name for row in rows if row.kind != "bar" for name in row.values))
    steps = max(len(column) for row in rows for column in row.values.values()) - 1 + first_step
    rules = alt.Chart(_data([{"t": m} for m in marks])).mark_rule(color=SOFT, strokeDash=[2, 3])

    def panel(row: Panel, width: int, last: bool) -> Chart:
        axis = alt.Axis(labels=last, tickMinStep=1, grid=False)
        time = alt.Scale(domain=[first_step - 0.5, steps + 0.5], nice=False)
        x = alt.X("t:Q", title="step t" if last else None, scale=time, axis=axis)
        scale = alt.Scale(domain=row.domain, nice=False) if row.domain else alt.Scale(nice=True)
        y = alt.Y("v:Q", title=row.label, scale=scale, axis=_y_axis(tickCount=3))
        base = alt.Chart(_data(_points(row.values, first_step)))
        if row.kind == "bar":
            drawn = base.mark_bar(width=max(2.0, 0.5 * width / steps), color=SOFT).encode(x, y)
        else:
            mark = base.mark_line(interpolate="step" if row.kind == "step" else "linear", clip=True)
            drawn = mark.encode(x, y, _color(names), strokeDash=_dash(names))
        return (rules.encode(alt.X("t:Q")) + drawn).properties(width=width, height=row.height)

    def draw(width: int) -> Chart:
        drawn = [panel(row, width - MARGIN, row is rows[-1]) for row in rows]
        return alt.vconcat(*drawn, spacing=26)

    return draw


def curves(
    values: Values,
    x: str,
    y: str,
    *,
    log: tuple[float, float] | None = None,
    rule: float | None = None,
    height: int = 270,
) -> Callable[[int], Chart]:
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
                alt.X("t:Q", title=x, scale=alt.Scale(nice=False), axis=alt.Axis(grid=False, tickMinStep=1)),
                alt.Y("v:Q", title=y, scale=scale, axis=axis),
                _color(names),
                strokeDash=_dash(names),
            )
        )
        if rule is not None:
            level = alt.Chart(_data([{"v": rule}])).mark_rule(color=SOFT, strokeDash=[2, 3])
            drawn = level.encode(alt.Y("v:Q")) + drawn
        return drawn.properties(width=width - MARGIN, height=height)

    return draw


def matrices(named: Values) -> Callable[[int], Chart]:
    """Matrices side by side on one scale: the stronger the colour, the larger the entry; one hue for +, one for -."""
    top = max(float(np.abs(m).max()) for m in named.values())

    def matrix(name: str, m: np.ndarray, side: float) -> Chart:
        cells = [
            {"r": r, "c": c, "a": abs(float(m[r, c])) / top, "sign": "+" if m[r, c] >= 0 else "-"}
            for r in range(m.shape[0])
            for c in range(m.shape[1])
        ]
        axis = alt.Axis(labels=False, grid=False)
        title = alt.Title(name, fontSize=12.5, fontWeight="normal", offset=6)
        return (
            alt.Chart(_data(cells), title=title)
            .mark_rect(stroke=GRID, strokeWidth=0.7)
            .encode(
                alt.X("c:O", title=None, axis=axis),
                alt.Y("r:O", title=None, axis=axis),
                alt.Color("sign:N", scale=alt.Scale(domain=["+", "-"], range=list(SERIES[:2])), legend=None),
                fillOpacity=alt.FillOpacity("a:Q", scale=alt.Scale(domain=[0, 1], range=[0, 1]), legend=None),
            )
            .properties(width=side, height=side)
        )

    def draw(width: int) -> Chart:
        columns = len(named) if width >= 500 else 2
        side = (width - 10) / columns - 16
        return alt.concat(*(matrix(name, m, side) for name, m in named.items()), columns=columns, spacing=16)

    return draw


def _points(values: Values, first: int) -> list[dict[str, Any]]:
    return [{"t": k + first, "s": name, "v": float(value)} for name, column in values.items() for k, value in enumerate(column)]


def _data(points: list[dict[str, Any]]) -> alt.Data:
    """Points as one JSON text, which altair hands on as it is instead of copying and checking every number."""
    return alt.Data(values=json.dumps(points), format=alt.JsonDataFormat(type="json"))


def _y_axis(**options: Any) -> alt.Axis:
    """The title lies flat above the axis, where a phone has room for it."""
    flat = {"titleAngle": 0, "titleAlign": "left", "titleAnchor": "start", "titleX": -MARGIN + 14, "titleY": -10}
    return alt.Axis(titleBaseline="bottom", **flat, **options)


def _color(names: Sequence[str]) -> alt.Color:
    return alt.Color("s:N", title=None, scale=alt.Scale(domain=list(names), range=list(SERIES[: len(names)])))


def _dash(names: Sequence[str]) -> alt.StrokeDash:
    return alt.StrokeDash("s:N", title=None, scale=alt.Scale(domain=list(names), range=list(DASHES[: len(names)])))
