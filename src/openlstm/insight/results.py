"""What every diagnostic hands over: numbers with the sentence they come to, as plain data, and as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, cast

import numpy as np

from openlstm.insight.display import Display


@dataclass(frozen=True)
class Asked:
    """What a drawing is told beside its results.

    Fields:
        lag: that was asked about.
        threshold: of the share of the gradient, where one holds for it.
        advice: one more sentence.
    """

    lag: int | None = None
    threshold: float | None = None
    advice: str = ""


class Record:
    """A dataclass of numbers that belong together; `shown` names the properties that stand in the JSON beside the fields."""

    shown: ClassVar[tuple[str, ...]] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, words and lists, ready for JSON; fields that take no part in a comparison are left out."""
        names = (*(f.name for f in fields(cast(Any, self)) if f.compare), *self.shown)
        return {name: plain(getattr(self, name)) for name in names}


class Result(Record):
    """What a diagnostic measured."""

    shown: ClassVar[tuple[str, ...]] = ("finding",)

    @property
    def finding(self) -> str:
        """The sentence that the numbers come to."""
        raise NotImplementedError

    @classmethod
    def displays(cls, found: Mapping[str, Any], asked: Asked) -> tuple[Display, ...]:
        """The pictures of results of this kind, by the name of the place that they were measured at.

        Raises:
            MissingExtraError: without altair or vl-convert.
        """
        raise NotImplementedError


def plain(value: Any) -> Any:
    """Any result as JSON can hold it: arrays as lists, and null for what is not finite, since JSON has no word for it.

    >>> plain({"a": np.array([1.0, np.inf]), "b": (np.float32(2), float("nan"))})
    {'a': [1.0, None], 'b': [2.0, None]}
    """
    if isinstance(value, Record):
        return value.to_dict()
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())  # type: ignore[attr-defined]
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def by_place(said: Mapping[str, str]) -> str:
    r"""Sentences by place in one text: a line each, with the name of the place in front, where there are several.

    >>> by_place({"0": "0: all is well."}), by_place({"a": "well.", "b": "b: not so."})
    ('All is well.', 'a: well.\nb: not so.')
    """
    texts = {name: text.removeprefix(f"{name}: ") for name, text in said.items() if text}
    if len(texts) > 1:
        return "\n".join(f"{name}: {text}" for name, text in texts.items())
    return "".join(text[:1].upper() + text[1:] for text in texts.values())
