"""The native backend on CPU; same functions as `reference.py`."""

from __future__ import annotations


def available() -> bool:
    """Whether the compiled extension can be imported."""
    return False


def missing_reason() -> str:
    """Why the compiled extension could not be imported."""
    return "not built"
