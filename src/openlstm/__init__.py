"""openlstm: an LSTM you can see through, at the speed of the hardware."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "LSTM": "nn",
    "RNN": "nn",
    "trace": "nn",
    "nn": "",
    "recur": "engine",
    "cells": "",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: `import openlstm` alone loads neither torch nor a plot library."""
    if name not in _LAZY:
        raise AttributeError(f"module 'openlstm' has no attribute {name!r}")
    home = _LAZY[name]
    value = import_module(f"openlstm.{name}") if not home else getattr(import_module(f"openlstm.{home}"), name)
    globals()[name] = value
    return value
