"""Submodules that are imported on first use, so that every name `openlstm.x.y` works in a fresh interpreter."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


def submodule(package: str, name: str) -> ModuleType | None:
    """The submodule of a package, None if there is no such public one; for its `__getattr__`.

    >>> submodule("openlstm", "weights").__name__
    'openlstm.weights'
    """
    if name.startswith("_") or find_spec(f"{package}.{name}") is None:
        return None
    return import_module(f"{package}.{name}")
