"""Which pictures a section has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from openlstm.insight.report import draw
from openlstm.insight.report.display import Display
from openlstm.insight.report.report import Section


def drawings(section: Section) -> tuple[Display, ...]:
    """The pictures of a section, in the order of the page."""
    return KINDS[section.draw](section)


def _one(section: Section) -> Any:
    return next(iter(section.results.values()))


def _retention(s: Section) -> tuple[Display, ...]:
    with_highway = {k: r for k, r in s.results.items() if r is not None}
    return (draw.half_lives(with_highway, s.lag), draw.kept(with_highway, s.lag)) if with_highway else ()


def _health(s: Section) -> tuple[Display, ...]:
    with_loss = {k: r for k, r in s.results.items() if r.top}
    return (draw.health(s.results), draw.important(with_loss)) if with_loss else (draw.health(s.results),)


KINDS: dict[str, Callable[[Section], tuple[Display, ...]]] = {
    "gates": lambda s: (draw.census(s.results),),
    "retention": _retention,
    "reach": lambda s: (draw.reach(s.results, s.lag, s.extra.get("threshold")),),
    "stability": lambda s: (draw.stability(s.results),),
    "ledger": lambda s: (draw.ledger(s.results),),
    "health": _health,
    "streaming": lambda s: (draw.streaming(s.results),),
    "ablation": lambda s: tuple(draw.ablation(r, s.lag) for r in s.results.values()),
    "needed": lambda s: (draw.needed(_one(s)),),
    "attribution": lambda s: (draw.attribution(_one(s)),),
    "tracking": lambda s: (draw.tracking(s.results),),
    "text": lambda s: (draw.tracking(_one(s).tracked),),
}
"""By the word in `Section.draw`."""
