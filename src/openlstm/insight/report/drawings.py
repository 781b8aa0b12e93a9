"""Which pictures a section has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from openlstm.insight.report import draw
from openlstm.insight.report.display import Display, number
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


def _training(s: Section) -> tuple[Display, ...]:
    watch = _one(s)
    lag = watch.lag if watch.lag is not None else s.lag
    by_place: dict[str, list[Any]] = {}
    for glimpse in watch.glimpses:
        by_place.setdefault(glimpse.name, []).append(glimpse)
    steps = {name: [g.step for g in seen] for name, seen in by_place.items()}

    def over_steps(value: Callable[[Any], float]) -> dict[str, tuple[list[int], list[float]]]:
        return {name: (steps[name], [value(g) for g in seen]) for name, seen in by_place.items()}

    horizon = over_steps(lambda g: float(g.horizon))
    out = [draw.watched(horizon, "How far the gradient comes back", "steps, to a thousandth", watch.finding)]
    if lag is not None and all(lag < len(g.reach.share) for g in watch.glimpses):
        share = over_steps(lambda g: float(g.reach.share[lag]))
        first, last = (sum(v[k] for _, v in share.values()) / len(share) for k in (0, -1))
        said = f"The share at lag {lag:,} goes from {number(first)} to {number(last)}, as a mean over places."
        out.append(draw.watched(share, f"The share of the gradient that reaches lag {lag:,}", "share", said))
    if watch.norms:
        at, norms = zip(*watch.norms, strict=True)
        middle, high = (float(np.percentile(norms, q)) for q in (50, 99))
        clipped = "" if watch.clip is None else f" {np.mean(np.array(norms) > watch.clip):.0%} of them were clipped."
        said = f"Its median is {number(middle)}, its 99th percentile {number(high)}.{clipped}"
        out.append(draw.watched({"norm": (at, norms)}, "The norm of the gradient", "norm", said))
    return tuple(out)


KINDS: dict[str, Callable[[Section], tuple[Display, ...]]] = {
    "gates": lambda s: (draw.census(s.results),),
    "retention": _retention,
    "reach": lambda s: (draw.reach(s.results, s.lag, s.extra.get("threshold")),),
    "stability": lambda s: (draw.stability(s.results),),
    "ledger": lambda s: (draw.ledger(s.results),),
    "health": _health,
    "streaming": lambda s: (draw.streaming(s.results, s.extra.get("advice", "")),),
    "ablation": lambda s: tuple(draw.ablation(r, s.lag) for r in s.results.values()),
    "needed": lambda s: (draw.needed(_one(s)),),
    "attribution": lambda s: (draw.attribution(_one(s)),),
    "tracking": lambda s: (draw.tracking(s.results),),
    "training": _training,
    "text": lambda s: (draw.tracking(_one(s).tracked),),
}
"""By the word in `Section.draw`."""
