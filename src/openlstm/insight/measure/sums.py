"""What is added up over the chunks of a pass, so that nothing of the size of all steps is held."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar


class Sums:
    """Shown chunk after chunk, and asked for its result at the end."""

    def add(self, part: Any) -> None:
        """One chunk, in the order in which the pass gives them."""
        raise NotImplementedError


S = TypeVar("S", bound=Sums)


def added(sums: S, parts: Iterable[Any]) -> S:
    """The sums once all chunks of a pass are in them."""
    for part in parts:
        sums.add(part)
    return sums
