"""`Part`: a frozen dataclass whose values are held against their types and limits, whether they come from JSON or from Python.

It is what pydantic does, in its words, as far as a header needs it: pydantic takes almost as long to import as numpy, and a
process that only loads a model should not wait for it.
"""

from __future__ import annotations

import dataclasses
import operator
import re
import sys
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Literal, Self, dataclass_transform, get_args, get_origin, get_type_hints

WORDS = {str: "string", int: "integer", float: "number", bool: "boolean"}
LIMITS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "ge": (operator.ge, "Input should be greater than or equal to {bound}"),
    "gt": (operator.gt, "Input should be greater than {bound}"),
    "le": (operator.le, "Input should be less than or equal to {bound}"),
    "lt": (operator.lt, "Input should be less than {bound}"),
    "pattern": (lambda text, bound: re.fullmatch(bound, text), "String should match pattern '{bound}'"),
    "max_length": (lambda text, bound: len(text) <= bound, "String should have at most {bound} characters"),
    "min_items": (lambda items, bound: len(items) >= bound, "Tuple should have at least {bound} item after validation, not 0"),
    "max_items": (
        lambda items, bound: len(items) <= bound,
        "Tuple should have at most {bound} items after validation, not {size}",
    ),
}
"""What a value may be, by the name of the limit, and what is said of another one."""


class Refused(ValueError):
    """A value that the schema does not allow: what it should be, what it is, and the keys that lead to it."""

    def __init__(self, message: str, value: Any, where: tuple[str | int, ...] = ()) -> None:
        super().__init__(f"{'.'.join(map(str, where)) or 'header'}: {message}")
        self.message, self.value, self.where = message, value, where


def limits(**bounds: Any) -> Callable[[Any], None]:
    """The rule that holds a value against some of `LIMITS`."""

    def rule(value: Any) -> None:
        for name, bound in bounds.items():
            fits, text = LIMITS[name]
            if not fits(value, bound):
                raise Refused(text.format(bound=bound, size=len(value) if name == "max_items" else None), value)

    return rule


def limited(*, default: Any = dataclasses.MISSING, **bounds: Any) -> Any:
    """A field within `LIMITS`."""
    return dataclasses.field(default=default, metadata={"rule": limits(**bounds)})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(limited,))
class Part:
    """A part of the header: closed (unknown keys are refused), strict about types, immutable, finite numbers only.

    Its fields are str, int, float, bool, Literal, tuple, other parts, or `X | None`; `Annotated` adds rules, which raise a
    ValueError.

    >>> class Season(Part):
    ...     unit: Literal["day", "week"] = "day"
    ...     count: int = limited(ge=1)
    >>> Season.parse({"unit": "week", "count": 0})
    Traceback (most recent call last):
    openlstm.model_file.schema.Refused: count: Input should be greater than or equal to 1
    """

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(init=False, repr=False, eq=False)(cls)  # one of each for all is there sooner than made ones

    def __init__(self, /, **given: Any) -> None:
        known = _fields(type(self))
        for name, (kind, default, rules) in known.items():
            if name not in given and default is dataclasses.MISSING:
                raise Refused("Field required", given, (name,))
            self.__dict__[name] = _held(name, kind, given.get(name, default), rules)
        for name in (name for name in given if name not in known):
            raise Refused("Extra inputs are not permitted", given[name], (name,))
        try:
            self.check()
        except ValueError as e:
            raise Refused(f"Value error, {e}", self) from None

    @classmethod
    def parse(cls, raw: Any) -> Self:
        """The part that an object of JSON is.

        Raises:
            Refused: where it is none.
        """
        if not isinstance(raw, dict):
            raise Refused("Input should be an object", raw)
        return cls(**raw)

    def __setattr__(self, name: str, value: Any) -> None:
        raise dataclasses.FrozenInstanceError(f"{type(self).__name__}.{name} cannot be changed")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    def __hash__(self) -> int:
        return hash(tuple(self.__dict__.values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"

    def check(self) -> None:
        """Raise a ValueError for values that do not go together."""


@cache
def _fields(cls: type[Part]) -> dict[str, tuple[Any, Any, list[Callable[[Any], object]]]]:
    """The type, the default and the rules of each field."""
    kinds = get_type_hints(cls, include_extras=True)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    return {field.name: (kinds[field.name], field.default, [*field.metadata.values()]) for field in fields}


def _held(place: str | int, kind: Any, value: Any, rules: list[Callable[[Any], object]]) -> Any:
    """The value of a place as its type has it: lists are tuples, whole numbers may be floats, objects parts."""
    try:
        value = _typed(kind, value)
        for rule in rules if value is not None else ():
            rule(value)
        return value
    except Refused as e:
        raise Refused(e.message, e.value, (place, *e.where)) from None
    except ValueError as e:
        raise Refused(f"Value error, {e}", value, (place,)) from None


def _typed(kind: Any, value: Any) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if type(None) in inner:
        return None if value is None else _typed(inner[0], value)
    if origin is Annotated:
        value = _typed(inner[0], value)
        for rule in inner[1:]:
            rule(value)
        return value
    if origin is Literal:
        if all(type(value) is not type(one) or value != one for one in inner):
            words = " or ".join(", ".join(map(repr, some)) for some in (inner[:-1], inner[-1:]) if some)
            raise Refused(f"Input should be {words}", value)
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise Refused("Input should be a valid array", value)
        kinds = inner[:1] * len(value) if inner[-1] is ... else inner
        if len(kinds) != len(value):
            raise Refused(f"Tuple should have {len(kinds)} items, not {len(value)}", value)
        return tuple(_held(k, one, item, []) for k, (one, item) in enumerate(zip(kinds, value, strict=True)))
    if issubclass(kind, Part):
        return value if isinstance(value, kind) else kind.parse(value)
    if not isinstance(value, (int, float) if kind is float else kind) or (type(value) is bool) != (kind is bool):
        raise Refused(f"Input should be a valid {WORDS[kind]}", value)
    if kind is str:
        value.encode()  # half a character is an error
    if kind is float and not abs(value) <= sys.float_info.max:
        raise Refused("Input should be a finite number", value)
    return float(value) if kind is float else value
