"""Are the arguments of `recur` of one kind and of fitting sizes? One error each, before any memory is read."""

from __future__ import annotations

from typing import Any


def check_recur(cell: Any, x: Any, weights: Any, state: Any, lengths: Any, reset: Any, reset_state: Any) -> None:
    """Raise where an argument does not fit the others."""
