"""A text beside the units that read it: which unit tracks what is true of the text, and the text in the colours of each.

Legend: T time, B batch, n tokens shown.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from openlstm.errors import ShapeError
from openlstm.insight.display import Display
from openlstm.insight.measure.text import TokenText
from openlstm.insight.measure.tracking import Tracking, Unit, series
from openlstm.insight.place import Place
from openlstm.insight.results import Asked, Record, Result, by_place

TOKENS = 900  # of the text are shown
UNITS = 14  # can be chosen


@dataclass(frozen=True, eq=False)
class ShownUnit(Record):
    """One unit over the text.

    label: what it tracks and how closely.
    values: gate or state -> [n] whole numbers from -100 to 100, in hundredths of the largest size.
    """

    label: str
    place: str
    unit: int
    values: Mapping[str, np.ndarray] = field(compare=False)

    def packed(self) -> dict[str, str]:
        """The values as base64 of signed bytes, for the page."""
        return {name: base64.b64encode(v.astype(np.int8).tobytes()).decode() for name, v in self.values.items()}


@dataclass(frozen=True, eq=False)
class TrackedText(Result):
    """A text and its units.

    tracked: by place. units: those that can be chosen, the closest first. tokens: [n], the strings of the row shown.
    """

    tracked: Mapping[str, Tracking]
    units: tuple[ShownUnit, ...]
    tokens: tuple[str, ...] = field(compare=False)
    row: int

    @property
    def finding(self) -> str:
        """What the units track, place by place."""
        return by_place({name: t.finding.removeprefix(f"{t.name}: ") for name, t in self.tracked.items()})

    @classmethod
    def displays(cls, found: Mapping[str, TrackedText], asked: Asked) -> tuple[Display, ...]:
        """Which unit follows what in the text."""
        return tuple(display for text in found.values() for display in Tracking.displays(text.tracked, asked))


def track_text(tokens: Any, ids: Any, places: Sequence[Place], rows: Sequence[int] | None = None) -> TrackedText:
    """Track every place of a model over the text it read.

    Args:
        tokens: a `TokenText`, (ids, strings), or the strings alone, which `ids` then pick.
        ids: the first input of the model.
        places: of `capture_layers`.
        rows: which rows of the tokens the model was given, all if None.

    Raises:
        ShapeError: if the text is not the one that the model read.
    """
    first = bool(places[0].module.batch_first)
    if isinstance(tokens, TokenText):
        text = tokens
    elif isinstance(tokens, tuple) and len(tokens) == 2 and not isinstance(tokens[0], str):
        text = TokenText(tokens[0], tokens[1], batch_first=first)
    else:
        text, rows = TokenText(ids, tokens, batch_first=first), None
    if rows is not None:
        text = TokenText(text.ids[:, list(rows)], text.strings, batch_first=False)
    shape = (places[0].steps, places[0].rows)
    if text.ids.shape != shape:
        got, hint = f"ids: {list(text.ids.shape)} as [T, B]", "pass the ids that the model was given"
        raise ShapeError.of("xray", "the tokens are not those that the model read", got, f"[T, B] = {list(shape)}", hint)
    fitting = [p for p in places if (p.steps, p.rows) == shape]
    tracked = {p.name: text.track(p) for p in fitting}
    count = min(TOKENS, int((text.ids[:, 0] >= 0).sum()))
    return TrackedText(tracked, tuple(_shown(fitting, tracked, count)), text.tokens[0][:count], 0)


def _shown(places: Sequence[Place], tracked: Mapping[str, Tracking], count: int) -> list[ShownUnit]:
    """The units that track something, the closest first, and over the text all that the place knows of them."""
    found = [(p, u) for p in places for u in tracked[p.name].best if np.isfinite(u.r)]
    found.sort(key=lambda pair: -abs(pair[1].r))
    chosen = found[:UNITS]
    out: list[ShownUnit] = []
    for place in dict.fromkeys(p for p, _ in chosen):
        mine = [u for p, u in chosen if p is place]
        units = sorted({u.unit for u in mine})
        runs = {n: series(place, n, units)[:count, 0] for n in _names(place)}  # [n, units]
        for u in mine:
            values = {n: _hundredths(a[:, units.index(u.unit)]) for n, a in runs.items()}
            out.append(ShownUnit(_label(u, place.name), place.name, u.unit, values))
    order = {_label(u, p.name): k for k, (p, u) in enumerate(chosen)}
    return sorted(out, key=lambda s: order[s.label])


def _names(place: Place) -> list[str]:
    """What a text can be coloured by: the cell first, then the gates."""
    saved = [n for n in place.cell.saved if n in place.cell.gates]
    return [*(place.cell.states if place.cell.has_cell else ()), "h", *saved]


def _label(u: Unit, place: str) -> str:
    return f"{u.column}: {place}, unit {u.unit} (r = {u.r:.2f})"


def _hundredths(a: np.ndarray) -> np.ndarray:
    top = float(np.abs(a).max(initial=0.0))
    return np.round(100 * a / top).astype(int) if top else np.zeros(len(a), int)
