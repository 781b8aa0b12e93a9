"""Submodules that are imported on first use, so that every name `openlstm.x.y` works in a fresh interpreter."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any


def submodule(package: str, name: str) -> ModuleType | None:
    """The submodule of a package, None if there is no such public one; for its `__getattr__`.

    >>> submodule("openlstm", "weights").__name__
    'openlstm.weights'
    """
    if name.startswith("_") or find_spec(f"{package}.{name}") is None:
        return None
    return import_module(f"{package}.{name}")


def on_first_use(package: str, homes: dict[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package: it imports a public name, or a submodule, on first use.

    Args:
        homes: public name -> the submodule that has it.

    >>> on_first_use("openlstm", {"State": "reference"})("State").__name__
    'State'
    """

    def find(name: str) -> Any:
        home = homes.get(name)
        value = submodule(package, name) if home is None else getattr(import_module(f"{package}.{home}"), name)
        if value is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {', '.join(sorted(homes))}")
        setattr(sys.modules[package], name, value)
        return value

    return find
