"""What all layers take as keywords beside torch.nn's arguments, and how `help()` shows it."""

from __future__ import annotations

import inspect
from typing import Any, TypedDict, TypeVar, get_type_hints

C = TypeVar("C", bound=type)


class Options(TypedDict, total=False):
    """What all layers take beside torch.nn's arguments, as keywords; `LSTM` says what each means."""

    input_dropout: float
    hidden_dropout: float
    recurrent_dropout: float
    zoneout_h: float
    zoneout_c: float
    weight_dropout: float
    backend: str
    check_finite: bool
    checkpoint: int | None
    input_projection: bool


DEFAULTS: dict[str, Any] = {
    "input_dropout": 0.0,
    "hidden_dropout": 0.0,
    "recurrent_dropout": 0.0,
    "zoneout_h": 0.0,
    "zoneout_c": 0.0,
    "weight_dropout": 0.0,
    "backend": "auto",
    "check_finite": False,
    "checkpoint": None,
    "input_projection": True,
}
"""The keywords that torch.nn's layers do not have."""


def visible(layer: C) -> C:
    """A class whose `**options` show one by one in `help()`, with the types they have."""
    kinds = {**get_type_hints(layer.__init__), **get_type_hints(Options)}  # type: ignore[misc]
    made = inspect.signature(layer.__init__).parameters.values()  # type: ignore[misc]
    own = [p.replace(annotation=kinds[p.name]) for p in made if p.name not in ("self", "options")]
    keyword = inspect.Parameter.KEYWORD_ONLY
    more = [inspect.Parameter(name, keyword, default=value, annotation=kinds[name]) for name, value in DEFAULTS.items()]
    layer.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined]
    return layer
