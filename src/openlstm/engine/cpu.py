"""The native backend on CPU: the functions of `reference.py`, carried out by the compiled kernels.

Arrays are handed over as addresses and strides; what a kernel needs contiguous is made so here. Gates, cell states and large
outputs live in the workspace (`openlstm.set_workspace_limit`).

Of a torch tensor x in bfloat16, where `has_bfloat16`, the products are made in bfloat16: x, y, dx and the matrices of weights
have that type (matrices in float32 are rounded first), everything else is float32: sums, states, gates, biases, the weights'
gradients. Bits then depend on the processor, but on neither the rest of the batch, nor threads, nor a cut of the sequence.

Legend: T time, B batch, I input size, H hidden size, P projected size, R what is fed back (P with a projection, else H),
G gates of a cell.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from openlstm import _array as A
from openlstm._array import Array
from openlstm.cells import LSTM, Cell
from openlstm.engine import threads
from openlstm.errors import ArgumentError, BackendError, ShapeError, describe, message
from openlstm.noise import Noise
from openlstm.reference import Gradients, Run, Saved, State, Weights, _plain, _recurrent
from openlstm.weights import collapse

try:
    from openlstm import _native

    _why_missing = ""
except ImportError as error:
    _native: Any = None
    # the interpreter puts the package's path behind the reason
    _why_missing = "it was not built" if "cannot import name" in str(error) else str(error).split(" (")[0]

KERNELS: frozenset[str] = frozenset() if _why_missing else frozenset(_native.cells())
"""The kernels that this build has: the names that `Cell.kernel` may take."""

PROJECTED = KERNELS - {"fgr"}
"""The kernels that a projection may follow."""

_BFLOAT16 = {
    "": "float32, rounded once",
    "avx512bf16": "AVX512-BF16",
    "amx": "AMX",
    "amxtest": "the tiles of AMX in plain loops",
}

_LARGE = 1 << 16  # bytes from which an output comes from the workspace

_isa_error: str | None = None


def available() -> bool:
    """Whether the compiled extension can be imported."""
    return _native is not None


def missing_reason() -> str:
    """Why the compiled extension could not be imported."""
    return _why_missing


def isas() -> list[str]:
    """The instruction sets that this build has and this processor runs, the best last; `wide` exists for tests."""
    return _native.isas() if available() else []


def isa() -> str:
    """The instruction set in use.

    Raises:
        BackendError: if OPENLSTM_ISA names one that is not available.
    """
    check_isa()
    return _native.isa()


@contextmanager
def use_isa(name: str) -> Iterator[None]:
    """Run with another instruction set, for all threads, until the block ends.

    Raises:
        BackendError: if this build or this processor has it not.
    """
    before = isa()
    if not _native.use_isa(name):
        raise _no_isa("use_isa", name)
    try:
        yield
    finally:
        _native.use_isa(before)


def check_isa() -> None:
    """Raise if OPENLSTM_ISA asks for an instruction set that is not there; another is never taken in silence."""
    if _isa_error is not None:
        raise _no_isa("OPENLSTM_ISA", _isa_error)


def apply(name: str, x: np.ndarray) -> np.ndarray:
    """`exp`, `sigmoid` or `tanh` of an array, as the kernels compute it (within 2 units in the last place)."""
    x = np.ascontiguousarray(x)
    out = np.empty_like(x)
    _native.apply(str(x.dtype), name, _address([], x), _address([], out), x.size)
    return out


def stepper(*arguments: Any) -> Any:
    """The native half of `engine.Stepper`."""
    return _native.Stepper(*arguments)


def has_bfloat16(cell: Cell) -> bool:
    """Whether a cell has kernels that multiply in bfloat16 here; `bfloat16` says which and why."""
    return available() and cell.kernel in KERNELS and _native.has_bfloat16(cell.kernel)


def bfloat16() -> str:
    """What makes the products of layers in bfloat16, and why.

    "AMX"; else "AVX512-BF16" where that is faster than float32; else "float32", whose results are rounded once. It follows from
    the processor, from the instruction set in use and from Linux, which lets a process use AMX or does not: never from a layer
    or its input, so that a row has the same bits in every batch.
    """
    name, why = _native.bfloat16()
    return f"{_BFLOAT16[name]} ({why})"


def bfloat16s() -> list[str]:
    """The kernels for bfloat16 that this build has and this processor runs; `amxtest` exists for tests."""
    return _native.bfloat16s() if available() else []


@contextmanager
def use_bfloat16(name: str) -> Iterator[None]:
    """Multiply in bfloat16 with these kernels, for all threads, until the block ends.

    Raises:
        BackendError: if this build or this processor has them not.
    """
    before = _native.use_bfloat16(name) if name else None
    if before is None:
        hint = "name one of these" if bfloat16s() else "bfloat16 runs as float32 here"
        what = f"the kernels for bfloat16 {name!r} are not available"
        raise BackendError(message("use_bfloat16", what, repr(name), ", ".join(bfloat16s()) or "none", hint))
    try:
        yield
    finally:
        _native.use_bfloat16(before)


def peak(threads: int, seconds: float = 0.1, dtype: str = "float32") -> float:
    """Operations per second of a loop that multiplies and adds in registers: the limit of this machine (also "bfloat16")."""
    if dtype == "bfloat16" and not has_bfloat16(LSTM()):
        raise _no_type("peak(dtype='bfloat16')", dtype)
    return _native.peak(threads, seconds, dtype)


def forward(
    cell: Cell,
    x: Array,
    weights: Weights,
    state: State,
    *,
    lengths: Array | None = None,
    reset: Array | None = None,
    reset_state: State | None = None,
    reverse: bool = False,
    save: bool = False,
    out: Array | None = None,
    noise: Noise | None = None,
    window: tuple[int, int] | None = None,
) -> Run:
    """As `reference.forward`; `out` may be a slice of a larger array whose last axis is contiguous.

    A state of `reset_state` may also be [T, B, .], one for every step and row.
    """
    kept: list[Any] = []  # copies that must live until the kernel is done
    cell, weights, _ = _plain(cell, weights)
    call, (T, B, H, R) = _call(kept, cell, x, weights, state, lengths, reset, reset_state, reverse, noise, window)
    y = empty(x, T, B, R) if out is None else out
    direct = y if _readable(y) else empty(x, T, B, R)
    number = state.h  # of x's type, but where that is bfloat16
    gates = empty(number, T, B, len(cell.saved) * H) if save else None
    c = empty(number, T, B, H) if save and cell.has_cell else None
    m = empty(number, T, B, H) if save and weights.w_hr is not None else None
    h_n, c_n = A.empty(number, B, R), A.empty(number, B, H) if cell.has_cell else None
    call |= {name: _rows(kept, a, window) for name, a in (("y", direct), ("gates", gates), ("c", c), ("m", m)) if a is not None}
    call |= {"h_n": _address(kept, h_n), "c_n": _address(kept, c_n)}
    _native.forward(cell.kernel, _type(cell, x), call)
    if direct is not y:
        y[...] = direct
    return Run(y, State(h_n, c_n), Saved(y, gates, c, m) if save else None)


def step(cell: Cell, x: Array, weights: Weights, state: State) -> State | None:
    """One step of a torch tensor x [B, I], as `plain`."""
    found = plain(cell, x, weights, state)
    return None if found is None else State(found[0], found[2])


def plain(cell: Cell, x: Array, weights: Weights, state: State | None) -> tuple[Array, Any, Any] | None:
    """(y, h_n, c_n) of torch tensors: the same kernel and the same bits as `forward`, with less to say on the way in.

    None where something is not as plain as this takes it; then `forward` runs it, or says what is wrong. `state` is [B, H] or
    [1, B, H], and so are h_n and c_n; without one it is zeros, and they are [1, B, H]. Of a single step x [B, I], which needs a
    state, y is as h_n, which is left out (None).
    """
    w_ih, w_hh, b_ih, b_hh, w_hr, w_ch, norm = weights
    alone = x.dim() == 2
    T, B, inputs = (1, *x.shape) if alone else x.shape
    H, dtype = w_hh.shape[-1], x.dtype
    rows = len(cell.gates) * H
    given = [(x, T * B * inputs), (w_ih, rows * inputs), (w_hh, rows * H)]
    h: Any = None  # 0 for the kernel, which takes it for zeros; and so c, also where the cell has none
    c: Any = None
    if state is not None:
        h = state.h
        given.append((h, B * H))
        if cell.has_cell:
            c = state.c
            given.append((c, B * H))
    if b_ih is not None:
        given += [(b_ih, rows), (b_hh, rows)]
    for a, size in given:  # a kernel reads addresses: what does not fit must not get there
        if (
            a is None
            or a.numel() != size
            or (size and a.data_ptr() == 0)
            or a.dtype is not dtype
            or not a.is_cpu
            or not a.is_contiguous()
            or a.is_neg()
        ):
            return None
    if w_hr is not None or w_ch is not None or norm is not None or cell.cells_per_gate > 1 or len(cell.feeds_back) > 1 or not T:
        return None
    empty_like = sys.modules["torch"].empty_like  # faster than new_empty
    y = empty_like(h) if alone else empty(x, T, B, H)
    h_new = None if alone else x.new_empty(1, B, H) if h is None else empty_like(h)
    c_new = empty_like(y if alone else h_new) if cell.has_cell else None
    call = {
        "steps": T,
        "batch": B,
        "inputs": inputs,
        "hidden": H,
        "last": T,
        "w_ih": w_ih.data_ptr(),
        "w_hh": w_hh.data_ptr(),
        "x": (x.data_ptr(), B * inputs, inputs),
        "y": (y.data_ptr(), B * H, H),
        "threads": threads.current(),
        "has_cell": cell.has_cell,
    }
    if b_ih is not None and b_hh is not None:
        call["b_ih"], call["b_hh"] = b_ih.data_ptr(), b_hh.data_ptr()
    if h is not None:
        call["h0"] = h.data_ptr()
    if c is not None:
        call["c0"] = c.data_ptr()
    if h_new is not None:
        call["h_n"] = h_new.data_ptr()
    if c_new is not None:
        call["c_n"] = c_new.data_ptr()
    if cell.clip is not None:
        call["clip"] = cell.clip
    _native.forward(cell.kernel, "float64" if dtype.itemsize == 8 else "float32", call)
    return y, h_new, c_new


def backward(
    cell: Cell,
    x: Array,
    weights: Weights,
    state: State,
    saved: Saved,
    dy: Array | None,
    dstate: State,
    *,
    lengths: Array | None = None,
    reset: Array | None = None,
    reset_state: State | None = None,
    reverse: bool = False,
    steps: bool = False,
    input_gradient: bool = True,
    noise: Noise | None = None,
    window: tuple[int, int] | None = None,
    later: Gradients | None = None,
) -> Gradients:
    """As `reference.backward`; the arrays of `later` are written to."""
    kept: list[Any] = []
    given, bias, (cell, weights, hidden) = cell, weights.b_ih is not None, _plain(cell, weights)
    call, (T, B, H, R) = _call(kept, cell, x, weights, state, lengths, reset, reset_state, reverse, noise, window)
    dx = empty(x, T, *x.shape[1:]) if input_gradient else None
    number = state.h  # of x's type, but where that is bfloat16
    if later is None:
        db_ih = A.empty(number, weights.w_ih.shape[0]) if weights.norm is None else None
        db_hh = A.empty(number, weights.w_ih.shape[0]) if cell.separate and weights.norm is None else db_ih
        dw = Weights(
            empty(number, *weights.w_ih.shape),
            empty(number, *weights.w_hh.shape),
            db_ih,
            db_hh,
            None if weights.w_hr is None else empty(number, *weights.w_hr.shape),
            None if weights.w_ch is None else A.empty(number, *weights.w_ch.shape),
            None if weights.norm is None else A.empty(number, *weights.norm.shape),
        )
    else:
        dw = later.weights
        db_ih = A.empty(number, weights.w_ih.shape[0]) if dw.b_ih is None and weights.norm is None else dw.b_ih
        db_hh = db_ih if dw.b_hh is None or not cell.separate else dw.b_hh
    start = State(A.empty(number, B, R), A.empty(number, B, H) if cell.has_cell else None)
    along = A.empty(number, B, H) if start.c is None else start.c  # what flows along a highway that is h itself
    dreset = None if later is None else later.reset_state
    if reset_state is not None and dreset is None:
        dreset = State(*(None if a is None else A.zeros(number, *a.shape) for a in reset_state))
    h_steps = empty(number, T, B, R) if steps else None
    c_steps = empty(number, T, B, H) if steps and cell.has_cell else None
    own = {"y": saved.h, "gates": saved.gates, "c": saved.c, "m": saved.m, "dx": dx, "h_steps": h_steps, "c_steps": c_steps}
    call |= {name: _rows(kept, a, window) for name, a in own.items() if a is not None}
    dreset_h, dreset_c = dreset or (None, None)
    whole = {"dy": dy, "dreset_h": dreset_h, "dreset_c": dreset_c}
    call |= {name: _rows(kept, a) for name, a in whole.items() if a is not None}
    flat = {
        "dh_n": dstate.h,
        "dc_n": dstate.c if cell.has_cell else None,
        "dw_ih": dw.w_ih,
        "dw_hh": dw.w_hh,
        "db_ih": db_ih,
        "db_hh": db_hh if cell.separate else None,
    }
    flat |= {"dw_hr": dw.w_hr, "dw_ch": dw.w_ch, "dnorm": dw.norm, "dh0": start.h, "dc0": along}
    call |= {name: _address(kept, a) for name, a in flat.items() if a is not None}
    call["go_on"] = later is not None
    _native.backward(cell.kernel, _type(cell, x), call)
    if weights.b_ih is None:
        dw = dw._replace(b_ih=None, b_hh=None)
    dw = dw._replace(w_hh=_recurrent(cell, dw.w_hh))
    return Gradients(dx, collapse(given, dw, hidden, bias), start, dreset, h_steps, c_steps)


def _call(
    kept: list[Any],
    cell: Cell,
    x: Array,
    weights: Weights,
    state: State,
    lengths: Any,
    reset: Any,
    reset_state: State | None,
    reverse: bool,
    noise: Noise | None,
    window: tuple[int, int] | None,
) -> tuple[dict[str, Any], tuple[int, int, int, int]]:
    """The fields of `Problem` in native/call.hpp, and T (of the window), B, H, R; the weights are those of `_plain`."""
    if _isa_error is not None:
        check_isa()
    T, B, inputs = x.shape
    weights = _factors(kept, weights, x)
    H, R = weights.w_ih.shape[0] // len(cell.gates), weights.w_hh.shape[1]
    if lengths is not None:
        lengths = _integers(kept, lengths, x)
    if reset is not None:
        kept.append(reset := A.as_like(reset, x))
    first, last = window or (0, T)
    call: dict[str, Any] = {
        "steps": T,
        "batch": B,
        "inputs": inputs,
        "hidden": H,
        "projected": R if weights.w_hr is not None else 0,
        "reverse": reverse,
        "first": first,
        "last": last,
        "x": _rows(kept, x),
        "threads": threads.current(),
        "clip": math.inf if cell.clip is None else float(cell.clip),
        "feedback": len(cell.feeds_back),
        "has_cell": cell.has_cell,
    }
    flat = weights._asdict() | {"h0": state.h, "c0": state.c, "lengths": lengths, "reset": reset}
    if noise is not None:
        flat["hidden_mask"] = noise.hidden if noise.training else None
        call |= {"zoneout_h": float(noise.zoneout_h), "zoneout_c": float(noise.zoneout_c), "candidate": float(noise.candidate)}
        call |= {"seed": noise.seed & 0xFFFFFFFFFFFFFFFF, "stream": noise.stream, "training": noise.training}
    call |= {name: _address(kept, a) for name, a in flat.items() if a is not None}
    if reset_state is not None:
        for name, a in zip(("reset_h", "reset_c"), reset_state, strict=True):
            if a is not None:
                call[name] = _rows(kept, _contiguous(kept, a))
    return call, (last - first, B, H, R)


def _factors(kept: list[Any], weights: Weights, x: Array) -> Weights:
    """The weights with matrices of x's type: rounded to bfloat16 where x is."""
    if x.dtype.itemsize > 2:
        return weights
    w_ih, w_hh, w_hr = (w if w is None else w.to(x.dtype) for w in (weights.w_ih, weights.w_hh, weights.w_hr))
    kept += [w_ih, w_hh, w_hr]
    return weights._replace(w_ih=w_ih, w_hh=w_hh, w_hr=w_hr)


def _integers(kept: list[Any], lengths: Any, x: Array) -> Array:
    lengths = A.as_like(lengths, x)
    lengths = lengths.long() if A.is_torch(lengths) else lengths.astype(np.int64, copy=False)
    kept.append(lengths)  # made from a list or from other integers, it belongs to nobody else
    T, B = x.shape[:2]
    if tuple(lengths.shape) != (B,):
        raise ShapeError(
            message("cpu", "lengths has the wrong shape", f"lengths: {describe(lengths)}", f"[{B}] = [B]", "one length per row")
        )
    if len(lengths) and not (0 <= int(lengths.min()) and int(lengths.max()) <= T):  # the kernel would read beyond memory
        raise ArgumentError(
            message("cpu", "lengths outside 0..T", str(lengths.tolist()[:8]), f"0 <= lengths <= {T}", "cut lengths at T")
        )
    return _contiguous(kept, lengths)


def empty(like: Array, *shape: int) -> Array:
    """Memory for an output: from the workspace where it is large, so that its pages have been touched before."""
    size = 1
    for n in shape:
        size *= n
    if 4 * size < _LARGE:
        return A.empty(like, *shape)
    if like.dtype.itemsize == 2:  # bfloat16: two in the place of a float
        block = sys.modules["torch"].from_numpy(_native.empty(((size + 1) // 2,), False))
        return block.view(like.dtype)[:size].view(shape).detach()  # no view to autograd: it may be written to in place
    block = _native.empty(shape, _is_float64(like))
    return sys.modules["torch"].from_numpy(block) if A.is_torch(like) else block


def _type(cell: Cell, x: Array) -> str:
    """The type of the kernels that take x."""
    if x.dtype.itemsize > 2:
        return "float64" if _is_float64(x) else "float32"
    if str(x.dtype) != "torch.bfloat16" or not has_bfloat16(cell):
        raise _no_type(f"x: {describe(x)}", str(x.dtype).removeprefix("torch."))
    return "bfloat16"


def _no_type(got: str, dtype: str) -> BackendError:
    what = f"no kernel multiplies in {dtype} here (instruction set {isa()})"
    expected = "float32 or float64; bfloat16 where AMX or AVX512-BF16 multiplies it (see openlstm doctor)"
    return BackendError(message("cpu", what, got, expected, "use float32, as the layers do by themselves"))


def _is_float64(x: Array) -> bool:
    return x.dtype.itemsize == 8


def _address(kept: list[Any], a: Any) -> int:
    """The address of an array whose memory is contiguous, or of such a copy; 0 of None."""
    if a is None:
        return 0
    a = _contiguous(kept, a)
    return _data(a) if A.is_torch(a) else a.__array_interface__["data"][0]


def _data(a: Any) -> int:
    """The address of a tensor's memory. Some subclasses of Tensor have none, and a kernel would read at 0."""
    address = a.data_ptr()
    if address == 0 and a.numel() > 0:
        raise BackendError(
            message(
                "cpu",
                f"a {type(a).__name__} has no memory of its own",
                f"{type(a).__name__}: {describe(a)}",
                "plain tensors",
                "use backend='reference', which runs on torch's own operations",
            )
        )
    return address


def _rows(kept: list[Any], a: Any, window: tuple[int, int] | None = None) -> tuple[int, int, int]:
    """Address and strides, in elements, of the time and the batch axis, or of a copy whose last axis is contiguous.

    [B, n] is the same at every step.

    Of an array that holds the steps of a window alone, the address at which step 0 would stand.
    """
    if not _readable(a):
        a = _contiguous(kept, a)
    if A.is_torch(a):
        address, step, row, size = _data(a), a.stride(0) if a.dim() == 3 else 0, a.stride(-2), a.element_size()
    else:
        size = a.itemsize
        address = a.__array_interface__["data"][0]
        step, row = a.strides[0] // size if a.ndim == 3 else 0, a.strides[-2] // size
    return address - window[0] * step * size if window and address else address, step, row


def _readable(a: Array) -> bool:
    """Whether a kernel can take the rows of [T, B, n] or [B, n] where they are."""
    if A.is_torch(a):
        return (a.stride(-1) == 1 or a.shape[-1] <= 1) and not a.is_neg()
    return (a.strides[-1] == a.itemsize or a.shape[-1] <= 1) and a.flags.aligned and not any(s % a.itemsize for s in a.strides)


def _contiguous(kept: list[Any], a: Any) -> Any:
    if A.is_torch(a):
        if a.is_contiguous() and not a.is_neg():
            return a
        a = a.resolve_neg().contiguous()
    else:
        if a.flags.c_contiguous and a.flags.aligned:
            return a
        a = np.require(a, requirements=["C", "A"])
    kept.append(a)
    return a


def _no_isa(who: str, name: str) -> BackendError:
    compiled = _native.compiled_isas() if available() else []
    why = "this processor does not run it" if name in compiled else "this build does not have it"
    return BackendError(
        message(
            who,
            f"the instruction set {name!r} is not available: {why}",
            f"OPENLSTM_ISA={name}" if who == "OPENLSTM_ISA" else repr(name),
            ", ".join(isas()),
            "unset OPENLSTM_ISA, which takes the best one" if who == "OPENLSTM_ISA" else "name one of these",
        )
    )


_wanted = os.environ.get("OPENLSTM_ISA")
if available() and _wanted and not _native.use_isa(_wanted):
    _isa_error = _wanted
