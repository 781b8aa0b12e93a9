"""The lecture as one page: every figure is computed when the page is made, and the page needs nothing but itself."""

from __future__ import annotations

import inspect
import os
import platform
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import openlstm
from openlstm import cells
from openlstm._errors import ArgumentError, message, missing_extra
from openlstm._files import writable, write_whole
from openlstm.engine import choose
from openlstm.explain import gates, gradients, learning
from openlstm.explain.charts import NARROW, WIDE, Figure, number, to_svg
from openlstm.explain.formulas import mathml

try:
    import jinja2
    from markupsafe import Markup
except ModuleNotFoundError as error:
    raise missing_extra("explain", str(error.name), "report") from error

TITLE = "What an LSTM is, and why"
SECTIONS: tuple[tuple[str, str, Callable[[int], tuple[Any, dict[str, Any]]]], ...] = (
    ("vanishing", "The vanilla RNN, and why its gradient vanishes", gradients.vanishing),
    ("highway", "The highway and the cell state", gradients.highway),
    ("forget", "The forget gate", lambda seed: gates.forget_gate()),
    ("input", "The input gate", lambda seed: gates.input_gate()),
    ("output", "The output gate", lambda seed: gates.output_gate()),
    ("step", "The overall step", lambda seed: ([], gates.one_step(seed))),
    ("ever", "Kept for ever, and started afresh", gates.for_ever),
    ("learning", "The model learns it from the data, if it is needed", learning.learning),
    ("guarantee", "No guarantee", gradients.no_guarantee),
)
"""(name, heading, the function that computes its figures and facts), in the order of the lecture."""


def write(path: str | os.PathLike[str], *, seed: int = 0, on_progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Compute the lecture and write it as one HTML file that needs no network.

    Args:
        path: where; the file appears only when it is complete.
        seed: of everything drawn at random (weights, inputs).
        on_progress: called with the heading of each section as its computation begins.

    Returns:
        What the page says, as plain text and numbers: path, seconds, and per section its figures' titles and findings.

    Raises:
        ArgumentError: if the place cannot be written, as a folder that does not exist, or the seed is negative.
        MissingExtraError: without altair, vl-convert or jinja2 (when `openlstm.explain` is imported).
    """
    path = Path(path)
    writable(path)
    if seed < 0:
        raise ArgumentError(message("explain", "seed is too small", f"seed={seed}", "at least 0", "pass seed=0 or more"))
    begin = time.perf_counter()
    sections = compute(seed, on_progress)
    html = render(sections, seed)
    write_whole(path, html.encode())
    summary = [
        {"title": s["title"], "figures": [{"title": f.title, "finding": f.finding} for f in s["figures"]]} for s in sections
    ]
    return {"path": str(path), "bytes": len(html.encode()), "seconds": time.perf_counter() - begin, "sections": summary}


def compute(seed: int = 0, on_progress: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """Figures and facts of every section: {"name", "title", "figures": [Figure], "facts": dict}."""
    sections = []
    for name, title, make in SECTIONS:
        if on_progress:
            on_progress(title)
        figures, facts = make(seed)
        figures = [figures] if isinstance(figures, Figure) else figures
        sections.append({"name": name, "title": title, "figures": figures, "facts": facts})
    return sections


def render(sections: list[dict[str, Any]], seed: int) -> str:
    """The page."""
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("openlstm.explain", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters["n"] = number
    env.filters["factor"] = lambda value: f"({number(value)})" if value < 0 else number(value)
    env.globals.update(math=mathml, svg=_svg)
    return env.get_template("page.html.jinja").render(
        title=TITLE,
        sections=sections,
        facts={s["name"]: s["facts"] for s in sections},
        figures={s["name"]: s["figures"] for s in sections},
        source=textwrap.dedent(inspect.getsource(cells.LSTM.forward)),
        seed=seed,
        made=_made(),
    )


def _svg(figure: Figure, name: str) -> dict[str, Markup]:
    """The drawing for a laptop and the one for a phone."""
    return {
        kind: Markup(to_svg(figure.draw(width), f"{name}-{kind}", speaking=False))
        for kind, width in (("wide", WIDE), ("narrow", NARROW))
    }


def _made() -> dict[str, str]:
    backend = choose("auto", cells.LSTM(), np.zeros((1, 1, 1)))
    now = time.strftime("%d %B %Y, %H:%M UTC", time.gmtime())
    return {"version": openlstm.__version__, "when": now, "backend": backend, "machine": platform.machine()}
