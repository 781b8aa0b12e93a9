"""What the parts of a header are made of: texts, numbers and shapes within limits, in structs that msgspec reads."""

from __future__ import annotations

import sys
from typing import Annotated, Any, ClassVar, Self

from msgspec import Meta, Struct, ValidationError, structs

MOST = 2**27
"""So many numbers a file holds at most, in all its tensors: 512 MiB."""

LARGEST = sys.float_info.max  # what is at most this is neither infinite nor NaN
Text = Annotated[str, Meta(pattern=r"^[^\ud800-\udfff]*\Z")]  # no half characters: they have no UTF-8
Name = Annotated[Text, Meta(max_length=1000)]
Key = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,99}\Z")]  # part of the name of a tensor
Time = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?)?\Z")]
Finite = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]
Rate = Annotated[float, Meta(gt=0, le=LARGEST)]
Share = Annotated[float, Meta(ge=0, le=1)]
Value = Annotated[float, Meta(ge=-1e100, le=1e100)]  # of a column
Size = Annotated[float, Meta(ge=1e-200, le=1e101)]  # in the unit of the target, whose values are within 1e100
Count = Annotated[int, Meta(ge=0, le=MOST)]
Shape = Annotated[tuple[Annotated[int, Meta(ge=1, le=MOST)], ...], Meta(max_length=4)]
"""What several parts are made of."""


class Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the header: closed (unknown keys are refused), strict about types, immutable, finite numbers only.

    Types and limits are checked by `msgspec.convert`, which `model_file.read` and `write` call; the constructor alone checks
    what must go together.
    """

    later: ClassVar[dict[str, Any]] = {}
    """Values that came after the first files of a version were written, where they change nothing: they are left out then."""

    def changed(self, **values: Any) -> Self:
        """The same part with other values."""
        return structs.replace(self, **values)


def plain(value: Any) -> Any:
    """A part, or what parts are made of, as JSON has it: objects, lists, and texts and numbers of Python's own types.

    >>> plain({"shape": (3, 4), "names": ("a",)})
    {'shape': [3, 4], 'names': ['a']}
    """
    if isinstance(value, Part):
        value = {
            name: one for name, one in structs.asdict(value).items() if name not in value.later or one != value.later[name]
        }
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, str) else float(value) if isinstance(value, float) else value  # not numpy's


def fault(error: ValidationError) -> tuple[str, str]:
    """Where a header is wrong, as `series.features[0].role`, or "" for all of it; and what is wrong there.

    >>> fault(ValidationError("Expected `int` >= 1 - at `$.series.window`"))
    ('series.window', 'Expected `int` >= 1')
    """
    what, _, where = str(error).rpartition(" - at `$")
    return (where.strip(".`"), what) if what else ("", where)
