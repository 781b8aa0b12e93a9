"""A picture with its title, its sentence and its figures: the same object draws in a page, in a notebook and to a file.

A chart is a function of its width, so that a page can hold one drawing for a laptop and one for a phone. Colours are stand-ins
for CSS variables until the last moment: the page decides what they are in light and in dark, and a file gets them by name.
"""

from __future__ import annotations

import csv
import html
import io
import math
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openlstm._files import write_whole
from openlstm.errors import missing_extra

if TYPE_CHECKING:
    import altair as alt
    import vl_convert
else:

    class _OnFirstUse:
        """A library that draws, loaded when something is drawn."""

        def __init__(self, name: str) -> None:
            self.name = name

        def __getattr__(self, attribute: str) -> Any:
            try:
                return getattr(import_module(self.name), attribute)
            except ModuleNotFoundError as error:
                raise missing_extra("xray", str(error.name), "report") from error

    alt, vl_convert = _OnFirstUse("altair"), _OnFirstUse("vl_convert")

WIDE, NARROW = 680, 330  # px, of the whole drawing
SERIES = tuple(f"#0505{k:02d}" for k in range(1, 9))
INK, SOFT, GRID, ALARM, FINE = "#010101", "#020202", "#030303", "#040404", "#060606"
VARIABLES = {INK: "ink", SOFT: "soft", GRID: "grid", ALARM: "alarm", FINE: "fine"}
VARIABLES |= {color: f"s{k}" for k, color in enumerate(SERIES, 1)}
DASHES = ([1, 0], [7, 3], [2, 2], [9, 3, 2, 3], [4, 2], [12, 3], [1, 3], [6, 2, 1, 2])
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")

_THEMES = tomllib.loads(Path(__file__).with_name("themes.toml").read_text(encoding="utf-8"))
LIGHT: dict[str, str] = _THEMES["light"]
DARK: dict[str, str] = _THEMES["dark"]
"""The variables in the two themes: blue against orange, never red against green; series differ in dash and shape too."""

Chart = Any  # altair's own union of chart types
Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Display:
    """One picture: a title, a drawing for any width, the figures behind it, and the sentence it shows.

    data: column -> values, all of equal length; what the CSV and the table behind the picture hold.
    series: what the colours mean, in their order, where there are several.

    In a notebook the object shows itself; `save_png` writes a file; `chart` is the altair chart to go on with.
    """

    title: str
    draw: Callable[[int], Chart]
    data: Columns
    finding: str
    series: tuple[str, ...] = ()

    @property
    def chart(self) -> Chart:
        """The drawing with title, legend and plain colours of its own."""
        return self._coloured(LIGHT)

    def svg(self, width: int = WIDE, name: str = "display") -> str:
        """The drawing as SVG whose colours and font are the page's; `name` keeps its ids apart from others'."""
        return to_svg(self.draw(width), name)

    def csv(self) -> str:
        """The figures, a header and one line a row."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.data)
        writer.writerows([_plain(v) for v in row] for row in zip(*self.data.values(), strict=True))
        return text.getvalue()

    @cached_property
    def rows(self) -> int:
        """How many rows the figures have."""
        return len(next(iter(self.data.values()), ()))

    def legend(self) -> list[dict[str, str]]:
        """color (a CSS variable), dash (an SVG pattern) and label of each series."""
        dashes = (" ".join(map(str, dash)) if dash[1] else "none" for dash in DASHES)
        return [{"color": VARIABLES[c], "dash": d, "label": s} for c, d, s in zip(SERIES, dashes, self.series, strict=False)]

    def save_png(self, path: str | os.PathLike[str], *, scale: float = 2, dark: bool = False) -> None:
        """Write the picture to a file, which is there as a whole or not at all.

        Raises:
            OSError: if the place cannot be written.
        """
        chart = self._coloured(DARK if dark else LIGHT)
        write_whole(path, vl_convert.vegalite_to_png(chart.to_json(validate=False), scale=scale))

    def _repr_html_(self) -> str:
        """For a notebook: the picture on a card of its own, in light or in dark as the reader's system is."""
        name = f"display-{id(self):x}"
        keys = "".join(
            f'<span style="margin-right:1.2em">{_swatch(entry)} {html.escape(entry["label"])}</span>' for entry in self.legend()
        )
        return (
            f"<style>#{name}{{{_variables(LIGHT)};background:var(--card);color:var(--ink);border:1px solid var(--edge);"
            "border-radius:.6em;padding:1em;max-width:44em;font:14px/1.5 system-ui,sans-serif}"
            f"#{name} svg{{max-width:100%;height:auto}}"
            f"@media(prefers-color-scheme:dark){{#{name}{{{_variables(DARK)}}}}}</style>"
            f'<div id="{name}"><b>{html.escape(self.title)}</b><div>{keys}</div>'
            f'<div role="img" aria-label="{html.escape(self.title)}. {html.escape(self.finding)}">{self.svg(name=name)}</div>'
            f"<div>{html.escape(self.finding)}</div></div>"
        )

    def _coloured(self, theme: Mapping[str, str]) -> Chart:
        drawn = self.draw(WIDE).properties(title=self.title).configure(**config(len(self.series) > 1, theme["card"]))
        text = drawn.to_json(validate=False, indent=None)
        for stand_in, variable in VARIABLES.items():
            text = text.replace(stand_in, theme[variable])
        return type(drawn).from_json(text, validate=False)  # a stack of charts has a class of its own


def config(legend: bool, background: str = "transparent") -> dict[str, Any]:
    """What all charts have in common."""
    axis = {"labelColor": SOFT, "titleColor": INK, "gridColor": GRID, "domainColor": SOFT, "domain": False, "ticks": False}
    axis |= {"labelFontSize": 12, "titleFontSize": 13, "titleFontWeight": "normal"}
    axis |= {"labelPadding": 6, "labelLimit": 240, "titlePadding": 9}
    return {
        "background": background,
        "padding": 2 if background == "transparent" else 14,
        "axis": axis,
        "header": {"labelColor": INK, "titleColor": INK, "labelFontSize": 12.5},
        "line": {"strokeWidth": 2.2},
        "legend": {"orient": "top", "labelLimit": 400, "labelColor": INK} if legend else {"disable": True},
        "title": {"color": INK, "anchor": "start", "fontWeight": "normal"},
        "view": {"stroke": None},
    }


def to_svg(chart: Chart, name: str, *, speaking: bool = True) -> str:
    """One drawing as an SVG that takes its colours and its font from the page; a mark says its numbers when pointed at."""
    svg = vl_convert.vegalite_to_svg(chart.configure(**config(legend=False)).to_json(validate=False))
    for stand_in, variable in VARIABLES.items():
        svg = svg.replace(stand_in, f"var(--{variable})")
    svg = re.sub(r' font-family="[^"]*"', "", svg)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    # the words of a mark become what the browser shows when it is pointed at; the figure itself says what all of it shows
    if speaking:
        svg = re.sub(r'<path (?=[^>]*role="graphics-symbol")[^>]*?/>', _speaking, svg)
    svg = re.sub(r' (?:role|aria-[a-z]+|pointer-events|xmlns:xlink)="[^"]*"', "", svg)
    svg = re.sub(r'<path class="background"[^>]*></path>|<path class="foreground"[^>]*></path>', "", svg)
    svg = re.sub(r' class="(mark-\w+) role-mark[^"]*"', r' data-mark="\1"', svg)
    svg = re.sub(r' class="[^"]*"', "", svg)
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"\d+\.\d{3,}", _short, tag[0]), svg)
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
    return f"{sign}{size / 10.0**exponent:.1f}\u00a0×\u00a010{superscript(exponent)}"


def superscript(exponent: int) -> str:
    """A whole number as an exponent is written: -3 as ⁻³."""
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def powers(exponents: Iterable[int]) -> str:
    """A Vega expression that writes powers of ten as people do: 10⁻³, 1, 1,000."""
    pairs = (f"'{n}': '{'1' if n == 0 else '10' + superscript(n)}'" for n in exponents)
    return "({" + ", ".join(pairs) + "})[round(log(datum.value) / LN10)]"


def cell(value: Any) -> str:
    """One figure of a table as people read it.

    >>> cell(0.12345), cell(7), cell("lstm.0"), cell(None), cell(float("inf"))
    ('0.123', '7', 'lstm.0', '', 'infinity')
    """
    value = _plain(value)
    return "" if value is None else number(value) if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """A number with the digits it has, a word as it is."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.6g}")
    return int(value) if isinstance(value, np.integer) else value


def _speaking(mark: re.Match[str]) -> str:
    """A mark whose words are its title."""
    words = re.search(r'aria-label="([^"]*)"', mark[0])
    return mark[0] if words is None else f"{mark[0][:-2]}><title>{words[1]}</title></path>"


def _short(digits: re.Match[str]) -> str:
    return f"{float(digits[0]):.2f}"  # a hundredth of a pixel is enough


def _swatch(entry: Mapping[str, str]) -> str:
    return (
        '<svg viewBox="0 0 30 6" width="30" height="6" aria-hidden="true"><line x1="0" x2="30" y1="3" y2="3" '
        f'stroke="var(--{entry["color"]})" stroke-width="2.6" stroke-dasharray="{entry["dash"]}"/></svg>'
    )


def _variables(theme: Mapping[str, str]) -> str:
    return ";".join(f"--{name}:{color}" for name, color in theme.items())
