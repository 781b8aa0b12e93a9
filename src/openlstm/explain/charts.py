"""The few kinds of chart the lecture needs, drawn with altair, and their way into a page as SVG without scripts.

Every chart is a function of its width, so that a page can hold one for a laptop and one for a phone. Colours are stand-ins for
CSS variables until the last moment: the page decides what they are in light and in dark.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from openlstm._errors import missing_extra

try:
    import altair as alt
    import vl_convert
except ModuleNotFoundError as error:
    raise missing_extra("explain", str(error.name), "report") from error

WIDE, NARROW = 660, 330  # px, of the whole drawing
MARGIN = 66  # px of that for the labels on the left
SERIES = ("#050501", "#050502", "#050503", "#050504", "#050505")
INK, SOFT, GRID = "#010101", "#020202", "#030303"
VARIABLES = {INK: "ink", SOFT: "soft", GRID: "grid", **{color: f"s{k}" for k, color in enumerate(SERIES, 1)}}
DASHES = ([1, 0], [7, 3], [2, 2], [9, 3, 2, 3], [4, 2])

Chart = Any  # altair's own union of chart types
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
        return self.draw(width).properties(title=self.title).configure(**_config(legend=len(self.series) > 1))


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
        axis = _y_axis(values=[10.0**n for n in exponents], labelExpr=_powers(exponents))

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


def to_svg(chart: Chart, name: str) -> str:
    """One drawing as an SVG that takes its colours and its font from the page; `name` keeps its ids apart from others'."""
    svg = vl_convert.vegalite_to_svg(chart.configure(**_config(legend=False)).to_json(validate=False))
    for sentinel, variable in VARIABLES.items():
        svg = svg.replace(sentinel, f"var(--{variable})")
    svg = re.sub(r' font-family="[^"]*"', "", svg)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r' (?:role|aria-[a-z]+|pointer-events|xmlns:xlink)="[^"]*"', "", svg)  # the figure itself says what it shows
    svg = re.sub(r'<path class="background"[^>]*></path>|<path class="foreground"[^>]*></path>', "", svg)
    svg = re.sub(r' class="[^"]*"', "", svg)
    svg = re.sub(r"\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}", svg)  # a hundredth of a pixel is enough
    return re.sub(r'<svg ([^>]*?)width="([\d.]+)" height="[\d.]+"', r'<svg \1style="max-width:\2px"', svg, count=1)


def number(value: float) -> str:
    r"""A number for a sentence, with three digits.

    >>> number(0.7616), number(120.0), number(0.0), number(-4.5)
    ('0.762', '120', '0', '−4.5')
    >>> number(3.14e-8).replace("\N{NO-BREAK SPACE}", " ")
    '3.1 × 10⁻⁸'
    """
    if not math.isfinite(value):
        return "infinity" if value > 0 else str(value)
    size, sign = abs(value), "−" if value < 0 else ""
    if size == 0 or 1e-3 <= size < 1e5:
        return sign + (f"{size:.3g}" if size < 1000 else f"{size:,.0f}")
    exponent = math.floor(math.log10(size))
    return f"{sign}{size / 10.0**exponent:.1f}\u00a0×\u00a010{_superscript(exponent)}"


def _superscript(exponent: int) -> str:
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _powers(exponents: Iterable[int]) -> str:
    """A Vega expression that writes powers of ten as people do: 10⁻³, 1, 1,000."""
    pairs = (f"'{n}': '{'1' if n == 0 else '10' + _superscript(n)}'" for n in exponents)
    return "({" + ", ".join(pairs) + "})[round(log(datum.value) / LN10)]"


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


def _config(legend: bool) -> dict[str, Any]:
    axis = {"labelColor": SOFT, "titleColor": INK, "gridColor": GRID, "domainColor": SOFT, "domain": False, "ticks": False}
    axis |= {"labelFontSize": 12, "titleFontSize": 13, "titleFontWeight": "normal", "labelPadding": 6}
    return {
        "background": "transparent",
        "padding": 2,
        "axis": axis,
        "line": {"strokeWidth": 2.2},
        "legend": {"orient": "top", "labelLimit": 400} if legend else {"disable": True},
        "title": {"color": INK},
        "view": {"stroke": None},
    }
