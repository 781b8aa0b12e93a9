"""The compiled extension: whether it is there, its instruction sets, and what multiplies bfloat16."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from openlstm.cells import LSTM, Cell
from openlstm.errors import BackendError

try:
    from openlstm import _native as library

    _why_missing = ""
except ImportError as error:
    library: Any = None
    # the interpreter puts the package's path behind the reason
    _why_missing = "it was not built" if "cannot import name" in str(error) else str(error).split(" (")[0]

KERNELS: frozenset[str] = frozenset() if _why_missing else frozenset(library.cells())
"""The kernels that this build has: the names that `Cell.kernel` may take."""

PROJECTED = KERNELS - {"fgr"}
"""The kernels that a projection may follow."""

_BFLOAT16 = {
    "": "float32, rounded once",
    "avx512bf16": "AVX512-BF16",
    "amx": "AMX",
    "amxtest": "the tiles of AMX in plain loops",
}

_isa_error: str | None = None


def available() -> bool:
    """Whether the compiled extension can be imported."""
    return library is not None


def missing_reason() -> str:
    """Why the compiled extension could not be imported."""
    return _why_missing


def isas() -> list[str]:
    """The instruction sets that this build has and this processor runs, the best last; `wide` exists for tests."""
    return library.isas() if available() else []


def isa() -> str:
    """The instruction set in use.

    Raises:
        BackendError: if OPENLSTM_ISA names one that is not available.
    """
    check_isa()
    return library.isa()


@contextmanager
def use_isa(name: str) -> Iterator[None]:
    """Run with another instruction set, for all threads, until the block ends.

    Raises:
        BackendError: if this build or this processor has it not.
    """
    before = isa()
    if not library.use_isa(name):
        raise _no_isa("use_isa", name)
    try:
        yield
    finally:
        library.use_isa(before)


def check_isa() -> None:
    """Raise if OPENLSTM_ISA asks for an instruction set that is not there; another is never taken in silence."""
    if _isa_error is not None:
        raise _no_isa("OPENLSTM_ISA", _isa_error)


def apply(name: str, x: np.ndarray) -> np.ndarray:
    """`exp`, `sigmoid`, `tanh` or `logsigmoid` of an array, as the kernels compute it (within 2 units in the last place)."""
    x = np.ascontiguousarray(x)
    out = np.empty_like(x)
    library.apply(str(x.dtype), name, x.ctypes.data, out.ctypes.data, x.size)
    return out


def stepper(*arguments: Any) -> Any:
    """The native half of `engine.Stepper`."""
    return library.Stepper(*arguments)


def has_bfloat16(cell: Cell) -> bool:
    """Whether a cell has kernels that multiply in bfloat16 here; `bfloat16` says which and why."""
    return available() and cell.kernel in KERNELS and library.has_bfloat16(cell.kernel)


def bfloat16() -> str:
    """What makes the products of layers in bfloat16, and why.

    "AMX"; else "AVX512-BF16" where that is faster than float32; else "float32", whose results are rounded once. It follows from
    the processor, from the instruction set in use and from Linux, which lets a process use AMX or does not: never from a layer
    or its input, so that a row has the same bits in every batch.
    """
    name, why = library.bfloat16()
    return f"{_BFLOAT16[name]} ({why})"


def bfloat16s() -> list[str]:
    """The kernels for bfloat16 that this build has and this processor runs; `amxtest` exists for tests."""
    return library.bfloat16s() if available() else []


@contextmanager
def use_bfloat16(name: str) -> Iterator[None]:
    """Multiply in bfloat16 with these kernels, for all threads, until the block ends.

    Raises:
        BackendError: if this build or this processor has them not.
    """
    before = library.use_bfloat16(name) if name else None
    if before is None:
        hint = "name one of these" if bfloat16s() else "bfloat16 runs as float32 here"
        what = f"the kernels for bfloat16 {name!r} are not available"
        raise BackendError.of("use_bfloat16", what, repr(name), ", ".join(bfloat16s()) or "none", hint)
    try:
        yield
    finally:
        library.use_bfloat16(before)


def peak(threads: int, seconds: float = 0.1, dtype: str = "float32") -> float:
    """Operations per second of a loop that multiplies and adds in registers: the limit of this machine (also "bfloat16")."""
    if dtype == "bfloat16" and not has_bfloat16(LSTM()):
        raise no_type("peak(dtype='bfloat16')", dtype)
    return library.peak(threads, seconds, dtype)


def no_type(got: str, dtype: str) -> BackendError:
    """The error for a type that nothing here multiplies in."""
    what = f"no kernel multiplies in {dtype} here (instruction set {isa()})"
    expected = "float32 or float64; bfloat16 where AMX or AVX512-BF16 multiplies it (see openlstm doctor)"
    return BackendError.of("cpu", what, got, expected, "use float32, as the layers do by themselves")


def _no_isa(who: str, name: str) -> BackendError:
    compiled = library.compiled_isas() if available() else []
    why = "this processor does not run it" if name in compiled else "this build does not have it"
    return BackendError.of(
        who,
        f"the instruction set {name!r} is not available: {why}",
        f"OPENLSTM_ISA={name}" if who == "OPENLSTM_ISA" else repr(name),
        ", ".join(isas()),
        "unset OPENLSTM_ISA, which takes the best one" if who == "OPENLSTM_ISA" else "name one of these",
    )


_wanted = os.environ.get("OPENLSTM_ISA")
if available() and _wanted and not library.use_isa(_wanted):
    _isa_error = _wanted
