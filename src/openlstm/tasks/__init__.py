"""Forecasting: training, prediction, scores and the commands. Prediction and scores need no torch."""

from __future__ import annotations

from types import ModuleType

from openlstm._submodules import submodule


def __getattr__(name: str) -> ModuleType:
    """Import a submodule on first use."""
    found = submodule(__name__, name)
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found
