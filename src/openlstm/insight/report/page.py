"""The page of a report: one HTML file with everything in it, no script that draws, nothing fetched."""

from __future__ import annotations

import base64
import gzip
import platform
import time
from collections.abc import Sequence
from typing import Any

from openlstm import __version__
from openlstm.errors import missing_extra
from openlstm.insight.display import DARK, LIGHT, NARROW, WIDE, Display, cell, number
from openlstm.insight.measure.text import visible
from openlstm.insight.measure.tracked_text import TrackedText
from openlstm.insight.report.section import Section

try:
    import altair  # noqa: F401  missing ones are told before anything is drawn
    import jinja2
    import vl_convert  # noqa: F401
    from markupsafe import Markup
except ModuleNotFoundError as error:
    raise missing_extra("xray", str(error.name), "report") from error

ROWS = 60  # of a table behind a picture; the file to download has them all
PLAIN_CSV = 48_000  # bytes; longer figures are offered compressed, which keeps the page small
LONGEST_CSV = 60_000  # bytes, compressed
LARGEST = 2_000_000  # bytes of a page

MARKS = {"blocked": "■", "not blocked": "●", "no verdict": "○"}
"""A shape beside the word, so that the verdict does not hang on its colour."""


def render(report: Any, sections: Sequence[Section], horizons: Display | None, tried: Display | None) -> str:
    """The page of a report; what its head shows is taken from `report` by the template."""
    template = environment("openlstm.insight.report").get_template("page.html.jinja")
    return template.render(
        report=report,
        mark=MARKS.get(report.word, "●"),
        horizons=figures((horizons,), "horizons")[0] if horizons else None,
        tried=figures((tried,), "advice")[0] if tried else None,
        sections=[{"section": s, "figures": figures(s.displays, s.name), "text": _text(s)} for s in sections],
        made=made(),
    )


def environment(package: str) -> jinja2.Environment:
    """Where the templates of a page are found: in its own package, and what all pages share in this one."""
    env = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package, "."), jinja2.PackageLoader("openlstm.insight.report", ".")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters["n"] = number
    env.globals.update(light=LIGHT, dark=DARK)
    return env


def made() -> dict[str, str]:
    """With what, when and where a page was made."""
    now = time.strftime("%d %B %Y, %H:%M UTC", time.gmtime())
    return {"version": __version__, "when": now, "machine": platform.machine()}


def _text(section: Section) -> dict[str, Any] | None:
    """A text, its tokens as people see them, and what each unit made of them."""
    text = next((r for r in section.results.values() if isinstance(r, TrackedText)), None)
    if text is None:
        return None
    units = [{"label": s.label, "values": s.packed()} for s in text.units]
    first = next(iter(text.units[0].values.values())).tolist() if text.units else [0] * len(text.tokens)
    names = list(dict.fromkeys(n for s in text.units for n in s.values))
    return {"tokens": list(zip(map(visible, text.tokens), first, strict=True)), "units": units, "names": names}


def figures(displays: tuple[Display, ...], name: str) -> list[dict[str, Any]]:
    """What the page needs of each picture: two drawings, its table, and its figures as a file inside the link."""
    out = []
    for k, display in enumerate(displays):
        tag = name if len(displays) == 1 else f"{name}-{k + 1}"
        drawings = {kind: Markup(display.svg(width, f"{tag}-{kind}")) for kind, width in (("wide", WIDE), ("narrow", NARROW))}
        columns = list(display.data.items())
        rows = [[cell(values[r]) for _, values in columns] for r in range(min(display.rows, ROWS))]
        out.append({"display": display, "id": tag, **drawings, "rows": rows, "file": _file(display, tag)})
    return out


def _file(display: Display, tag: str) -> dict[str, Any]:
    """A link that holds the figures; compressed where they are long, and cut where they would make the page large."""
    text = display.csv()
    raw, name, kind = text.encode(), f"{tag}.csv", "text/csv"
    rows = display.rows
    if len(raw) > PLAIN_CSV:
        lines = text.splitlines(keepends=True)
        name, kind = f"{tag}.csv.gz", "application/gzip"
        raw = gzip.compress(text.encode(), mtime=0)
        while len(raw) > LONGEST_CSV:
            rows = int(rows * min(0.9, LONGEST_CSV / len(raw)))
            raw = gzip.compress("".join(lines[: rows + 1]).encode(), mtime=0)
    cut = "" if rows == display.rows else f"the first {rows:,} of {display.rows:,} rows; all of them: Display.csv()"
    return {"name": name, "href": f"data:{kind};base64,{base64.b64encode(raw).decode()}", "cut": cut}
