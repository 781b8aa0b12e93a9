"""Which backend can run what: a declared table, tested both ways, instead of a failure that is swallowed."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from openlstm import _array as A
from openlstm import reference
from openlstm._errors import ArgumentError, BackendError, describe, message
from openlstm.cells import Cell
from openlstm.engine import cpu, cuda


@dataclass(frozen=True)
class Support:
    """What one backend runs.

    kernels: names of cells (`Cell.kernel`), None for every cell.
    dtypes: names of element types, None for every floating type.
    devices: where the arrays may live, None for everywhere.
    """

    module: ModuleType
    kernels: frozenset[str] | None
    dtypes: frozenset[str] | None
    devices: frozenset[str] | None
    projected: frozenset[str] | None = None  # kernels that may be followed by a projection, None for every cell

    def refusal(self, cell: Cell, x: Any, projection: bool = False) -> str | None:
        """Why this backend cannot run `cell` on `x`, None if it can."""
        if projection and self.projected is not None and cell.kernel not in self.projected:
            return f"it has no projection for {cell!r}"
        if self.kernels is not None and cell.kernel not in self.kernels:
            return f"it has no kernel for {cell!r}; it has {', '.join(sorted(self.kernels))}"
        dtype = str(x.dtype).removeprefix("torch.")
        if self.dtypes is not None and dtype not in self.dtypes:
            return f"it runs {' and '.join(sorted(self.dtypes))}, not {dtype}"
        device = x.device.type if A.is_torch(x) else "cpu"
        if self.devices is not None and device not in self.devices:
            return f"it runs on {', '.join(sorted(self.devices))}, not on {device}"
        return None


SUPPORT: dict[str, Support] = {
    "cpu": Support(
        cpu,
        frozenset({"lstm", "rnn_tanh", "rnn_relu"}),
        frozenset({"float32", "float64"}),
        frozenset({"cpu"}),
        frozenset({"lstm"}),
    ),
    "cuda": Support(
        cuda,
        frozenset({"lstm", "rnn_tanh", "rnn_relu"}),
        frozenset({"float16", "bfloat16", "float32", "float64"}),
        frozenset({"cuda"}),
    ),
    "reference": Support(reference, None, None, None),
}
"""In the order of preference of `backend="auto"`."""

_told = False


def default_backend() -> str:
    """What `backend="auto"` takes for the cells and types that every backend runs."""
    named = os.environ.get("OPENLSTM_BACKEND", "auto")
    return named if named != "auto" else "cpu" if cpu.available() else "reference"


def choose(requested: str, cell: Cell, x: Any, who: str = "recur", projection: bool = False) -> str:
    """The name of the backend that will run `cell` on `x`.

    Args:
        requested: "auto" or a key of `SUPPORT`; the variable OPENLSTM_BACKEND stands in for "auto".
        projection: whether the weights have a projection.

    Raises:
        ArgumentError: for a name that is not in `SUPPORT`.
        BackendError: if the named backend cannot run this; only "auto" may choose another.
    """
    if requested == "auto":
        requested = os.environ.get("OPENLSTM_BACKEND", "auto")
    if requested == "auto":
        if not cpu.available():
            _tell_once()
        for name, support in SUPPORT.items():
            if (name != "cpu" or cpu.available()) and support.refusal(cell, x, projection) is None:
                if name == "cpu":
                    cpu.check_isa()
                return name
    if requested not in SUPPORT:
        expected = "auto, " + ", ".join(SUPPORT)
        raise ArgumentError(
            message(who, f"unknown backend {requested!r}", repr(requested), expected, "use backend='auto', or one of these")
        )
    why = SUPPORT[requested].refusal(cell, x, projection)
    if why is None and requested == "cpu" and not cpu.available():
        why = f"the compiled extension is missing ({cpu.missing_reason()})"
    if why is not None:
        raise BackendError(
            message(
                who,
                f"backend {requested!r} cannot run this: {why}",
                f"x: {describe(x)}, {cell!r}",
                "a backend that can",
                "use backend='auto', which chooses one",
            )
        )
    if requested == "cpu":
        cpu.check_isa()
    return requested


def _tell_once() -> None:
    global _told
    if not _told:
        _told = True
        warnings.warn(
            "openlstm: the compiled extension is missing "
            f"({cpu.missing_reason()}); running the readable reference, which is slower. Reinstall openlstm to build it.",
            RuntimeWarning,
            stacklevel=4,
        )
