"""Which backend can run what: a declared table, tested both ways, instead of a failure that is swallowed."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, fields, is_dataclass
from types import ModuleType
from typing import Any

from openlstm import _array as A
from openlstm import reference
from openlstm.call import Call
from openlstm.cells import Cell
from openlstm.engine import native
from openlstm.engine.backends import cpu, cuda
from openlstm.errors import ArgumentError, BackendError, describe


@dataclass(frozen=True)
class Support:
    """What one backend runs.

    kernels: names of cells (`Cell.kernel`), None for every cell, a user's own too.
    dtypes: names of element types, None for every floating type.
    devices: where the arrays may live, None for everywhere.
    projected: kernels that may be followed by a projection, None for every cell.
    clips: whether a cell may clip its cell state.
    noise: whether zoneout, recurrent dropout and locked dropout of what is fed back can act.
    saves: whether gates and cell states can be handed out.

    Every backend runs lengths, resets to zero, to a state for each row and to one for each step, both directions, and memory
    blocks (`weights.expand` turns them into plain weights).
    """

    module: ModuleType
    kernels: frozenset[str] | None
    dtypes: frozenset[str] | None
    devices: frozenset[str] | None
    projected: frozenset[str] | None = None
    clips: bool = True
    noise: bool = True
    saves: bool = True

    def refusal(self, cell: Cell, x: Any, projection: bool = False, noise: bool = False, save: bool = False) -> str | None:
        """Why this backend cannot run `cell` on `x`, None if it can."""
        if self.kernels is not None and cell.kernel not in self.kernels:
            return f"it has no kernel for {brief(cell)}; it has {', '.join(sorted(self.kernels))}"
        if projection and self.projected is not None and cell.kernel not in self.projected:
            return f"it has no projection for {brief(cell)}"
        if not self.clips and cell.clip is not None:
            return f"it does not clip the cell state of {brief(cell)}"
        if noise and not self.noise:
            return "it has neither zoneout nor dropout inside the recurrence"
        dtype = _dtype(x.dtype)
        if self.dtypes is not None and dtype not in self.dtypes:
            return f"it runs {' and '.join(sorted(self.dtypes))}, not {dtype}"
        device = x.device.type if A.is_torch(x) else "cpu"
        if self.devices is not None and device not in self.devices:
            return f"it runs on {', '.join(sorted(self.devices))}, not on {device}"
        if save and not self.saves:
            return "it hands out neither gates nor cell states, which a trace and torch.func need"
        return None


SUPPORT: dict[str, Support] = {
    "cpu": Support(
        cpu,
        frozenset(native.KERNELS),
        frozenset({"float32", "float64"}),
        frozenset({"cpu"}),
        projected=native.PROJECTED,
    ),
    "cuda": Support(
        cuda,
        frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"}),
        frozenset({"float16", "bfloat16", "float32", "float64"}),
        frozenset({"cuda"}),
        projected=frozenset({"lstm"}),
        clips=False,
        noise=False,
        saves=False,
    ),
    "reference": Support(reference, None, None, None),
}
"""In the order of preference of `backend="auto"`."""

_told: set[Any] = set()


def _dtype(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def default_backend() -> str:
    """What `backend="auto"` takes for the cells and types that every backend runs."""
    named = os.environ.get("OPENLSTM_BACKEND", "auto")
    return named if named != "auto" else "cpu" if native.available() else "reference"


def choose(
    requested: str, cell: Cell, x: Any, who: str = "recur", projection: bool = False, noise: bool = False, save: bool = False
) -> str:
    """The name of the backend that will run `cell` on `x`.

    Args:
        requested: "auto" or a key of `SUPPORT`; the variable OPENLSTM_BACKEND stands in for "auto".
        projection: whether the weights have a projection.
        noise: whether noise acts inside the recurrence.
        save: whether gates and cell states are to be handed out.

    Raises:
        ArgumentError: for a name that is not in `SUPPORT`.
        BackendError: if the named backend cannot run this; only "auto" may choose another.
    """
    variable = requested == "auto" and "OPENLSTM_BACKEND" in os.environ
    if variable:
        requested = os.environ["OPENLSTM_BACKEND"]
    if requested == "auto":
        if not native.available():
            _tell_once(
                None,
                f"openlstm: the compiled extension is missing ({native.missing_reason()}); "
                "running the readable reference, which is slower. Reinstall openlstm to build it.",
            )
        for name, support in SUPPORT.items():
            if (name != "cpu" or native.available()) and support.refusal(cell, x, projection, noise, save) is None:
                if name == "cpu":
                    native.check_isa()
                if name == "reference" and cell.kernel not in native.KERNELS and native.available():
                    _tell_slow(cell)
                return name
    if requested not in SUPPORT:
        expected = "auto, " + ", ".join(SUPPORT)
        got, hint = repr(requested), "use backend='auto', or one of these"
        if variable:
            got, hint = f"OPENLSTM_BACKEND={requested}", "unset OPENLSTM_BACKEND, or name one of these"
        raise ArgumentError.of(who, f"unknown backend {requested!r}", got, expected, hint)
    if requested == "cpu" and not native.available():
        why = f"the compiled extension is missing ({native.missing_reason()})"
    else:
        why = SUPPORT[requested].refusal(cell, x, projection, noise, save)
    if why is not None:
        named, hint = f"backend {requested!r}", "use backend='auto', which chooses one"
        if variable:
            named, hint = f"{named}, named by OPENLSTM_BACKEND,", "unset OPENLSTM_BACKEND, which chooses one"
        got = f"x: {describe(x)}, {brief(cell)}"
        raise BackendError.of(who, f"{named} cannot run this: {why}", got, "a backend that can", hint)
    if requested == "cpu":
        native.check_isa()
    return requested


def choose_for(call: Call, who: str, save: bool = False) -> str:
    """`choose` for a call; of a call whose products are made in bfloat16 the other numbers decide."""
    x, state = call.x, call.state
    if state is not None and state.h.dtype != x.dtype:
        x = state.h
    return choose(call.backend, call.cell, x, who, call.weights.w_hr is not None, call.noisy, save)


def takes_kernel(call: Call) -> bool:
    """Whether `choose` says "cpu" of a simple call in float32 or float64 on the CPU, without what its sentences cost.

    Raises:
        BackendError: for an instruction set that was named and is not there.
    """
    if call.backend not in ("auto", "cpu") or b"OPENLSTM_BACKEND" in os.environb or call.cell.kernel not in native.KERNELS:
        return False
    native.check_isa()
    return True


def brief(cell: Cell) -> str:
    """A cell as one would write it, with the options that are not its defaults.

    >>> from openlstm.cells import LSTM
    >>> brief(LSTM(clip=3.0))
    'LSTM(clip=3.0)'
    """
    if not is_dataclass(cell):
        return f"{type(cell).__name__}()"
    own = [f"{f.name}={value!r}" for f in fields(cell) if (value := getattr(cell, f.name)) != f.default]
    return f"{type(cell).__name__}({', '.join(own)})"


def _tell_slow(cell: Cell) -> None:
    name = type(cell).__name__
    _tell_once(type(cell), f"openlstm: {name} has no kernel; running it on the readable reference, which is slower.")


def _tell_once(key: Any, text: str) -> None:
    if key not in _told:
        _told.add(key)
        warnings.warn(text, RuntimeWarning, stacklevel=4)
