"""The lecture as one page: every figure is computed when the page is made, and the page needs nothing but itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from openlstm import cells
from openlstm._files import writable, write_whole
from openlstm.engine import choose
from openlstm.engine.threads import torch_aside
from openlstm.errors import ArgumentError
from openlstm.explain import diagram, gates, gradients, learning, sentences, step
from openlstm.explain.charts import NARROW, WIDE, Display, number, to_svg
from openlstm.explain.formulas import equation, inline
from openlstm.insight.report.page import environment, made

TITLE = "What an LSTM is, and why"
SECTIONS: tuple[tuple[str, str, tuple[Callable[[int], gates.Part], ...]], ...] = (
    ("vanishing", "The vanilla RNN, and why its gradient vanishes", (gradients.vanishing,)),
    ("highway", "The layer has to stay: a highway around it", (gates.dropped_layer, gradients.highway, gates.squashed)),
    ("forget", "The forget gate", (gates.forget_gate, gradients.leaking, sentences.forgetting)),
    ("input", "The input gate", (gates.running_sum, gates.input_gate)),
    ("output", "The output gate, and what the three have in common", (gates.output_gate, step.same_form)),
    ("step", "The overall step", (step.one_step, step.old_and_new)),
    ("long", "A longer memory than the vanilla RNN", (learning.lags, gates.for_ever, learning.learning)),
    ("guarantee", "No guarantee", (gradients.no_guarantee,)),
)
"""(name, heading, the functions that compute its figures and facts): one section for each statement of the lecture."""


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
        raise ArgumentError.of("explain", "seed is too small", f"seed={seed}", "at least 0", "pass seed=0 or more")
    begin = time.perf_counter()
    sections = compute(seed, on_progress)
    html = render(sections, seed).encode()
    write_whole(path, html)
    summary = [
        {"title": s["title"], "figures": [{"title": f.title, "finding": f.finding} for f in s["figures"].values()]}
        for s in sections
    ]
    return {"path": str(path), "bytes": len(html), "seconds": time.perf_counter() - begin, "sections": summary}


def compute(seed: int = 0, on_progress: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """Figures and facts of every section.

    Returns:
        For each {"name", "title", "figures": name -> Display, "facts": name of the function -> its numbers}.
    """
    sections = []
    with torch_aside(threads=1):  # networks as small as these gain nothing from a second one
        for name, title, parts in SECTIONS:
            if on_progress:
                on_progress(title)
            figures: dict[str, Display] = {}
            facts = {}
            for part in parts:
                drawn, facts[part.__name__] = part(seed)
                figures |= drawn
            sections.append({"name": name, "title": title, "figures": figures, "facts": facts})
    return sections


def render(sections: list[dict[str, Any]], seed: int) -> str:
    """The page."""
    env = environment("openlstm.explain")
    env.filters["factor"] = lambda value: f"({number(value)})" if value < 0 else number(value)
    env.globals.update(math=equation, m=inline, svg=_svg, rnn=_wiring(diagram.rnn), lstm=_wiring(diagram.lstm))
    return env.get_template("page.html.jinja").render(
        title=TITLE,
        sections=sections,
        figures={name: figure for s in sections for name, figure in s["figures"].items()},
        facts={s["name"]: s["facts"] for s in sections},
        seed=seed,
        made=made() | {"backend": choose("auto", cells.LSTM(), np.zeros((1, 1, 1)))},
    )


def _svg(figure: Display, name: str) -> dict[str, Markup]:
    """The drawing for a laptop and the one for a phone."""
    return {
        kind: Markup(to_svg(figure.draw(width), f"{name}-{kind}", speaking=False))
        for kind, width in (("wide", WIDE), ("narrow", NARROW))
    }


def _wiring(draw: Callable[..., diagram.Wiring]) -> Callable[..., Markup]:
    return lambda *args, **options: Markup(draw(*args, **options).svg)
