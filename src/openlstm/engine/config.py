"""What the engine runs on, in words: `openlstm.show_config()`."""

from __future__ import annotations

import platform
import sys
from typing import Any

import numpy as np

from openlstm.engine import native, threads, workspace
from openlstm.engine.backends.table import SUPPORT, default_backend


def config() -> dict[str, Any]:
    """Versions, backend, instruction set, threads and work memory, by name."""
    torch = sys.modules.get("torch")
    return {
        "openlstm": sys.modules["openlstm"].__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": getattr(torch, "__version__", None),
        "backend": default_backend(),
        "backends": [name for name in SUPPORT if name != "cpu" or native.available()],
        "extension": "built" if native.available() else f"missing ({native.missing_reason()})",
        "instruction_set": native.isa() if native.available() else None,
        "instruction_sets": [name for name in native.isas() if name != "wide"],
        "bfloat16": native.bfloat16() if native.available() else None,
        "int8": native.int8() if native.available() else None,
        "threads": threads.get_num_threads(),
        "workspace_limit": workspace.get_workspace_limit(),
    }


def show_config() -> None:
    """Print what the engine runs on, one line each.

    >>> show_config()  # doctest: +ELLIPSIS
    openlstm          ...
    """
    for name, value in config().items():
        text = ", ".join(value) if isinstance(value, list) else "not loaded" if value is None else value
        print(f"{name.replace('_', ' '):<18}{text}")
