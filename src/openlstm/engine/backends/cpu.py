"""The native backend on CPU: the functions of `reference.py`, carried out by the compiled kernels.

Arrays are handed over as addresses and strides; what a kernel needs contiguous is made so here. Gates, cell states and large
outputs live in the workspace (`openlstm.set_workspace_limit`).

Of a torch tensor x in bfloat16, where `native.has_bfloat16`, the products are made in bfloat16: x, y, dx and the matrices of
weights have that type (matrices in float32 are rounded first), everything else is float32: sums, states, gates, biases, the
weights' gradients. Bits then depend on the processor, but on neither the rest of the batch, nor threads, nor a cut of the
sequence.

Legend: T time, B batch, I input size, H hidden size, P projected size, R what is fed back (P with a projection, else H), C the
cell states side by side, G gates of a cell.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

from openlstm import _array as A
from openlstm._array import Array
from openlstm.call import Call
from openlstm.cells import Cell
from openlstm.engine import native, threads
from openlstm.engine.check import check_lengths_in_range
from openlstm.errors import BackendError, describe
from openlstm.reference import Gradients, Run, Saved, State, Weights, mask_recurrent, unshared
from openlstm.weights import cell_size, collapse

_LARGE = 1 << 16  # bytes from which an output comes from the workspace


def forward(call: Call, out: Array | None = None) -> Run:
    """As `reference.forward`; `out` may be a slice of a larger array whose last axis is contiguous."""
    kept: list[Any] = []  # copies that must live until the kernel is done
    cell, weights, _ = unshared(call.cell, call.weights)
    fields, (T, B, H, R) = _fields(kept, call, cell, weights)
    C = cell_size(cell, H)
    x, window, save = call.x, call.window, call.save
    y = empty(x, T, B, R) if out is None else out
    direct = y if _readable(y) else empty(x, T, B, R)
    number = call.state.h  # of x's type, but where that is bfloat16
    gates = empty(number, T, B, len(cell.saved) * H) if save else None
    c = empty(number, T, B, C) if save and cell.has_cell else None
    m = empty(number, T, B, H) if save and weights.w_hr is not None else None
    end = State(A.empty(number, B, R), A.empty(number, B, C) if cell.has_cell else None)
    put_rows(None, fields, window, y=direct, gates=gates, c=c, m=m)
    put(None, fields, h_n=end.h, c_n=end.c)
    native.library.forward(cell.kernel, _type(cell, x), fields)
    if direct is not y:
        y[...] = direct
    return Run(y, end, Saved(y, gates, c, m) if save else None)


def forward_simple(call: Call) -> Run | None:
    """`forward` of a call of torch tensors that is `Call.simple`: the same kernel and the same bits, sooner.

    None where an array does not lie as this takes it; then `forward` runs it, or says what is wrong. The state is h [B, H] and
    c [B, C], or [1, B, H] and [1, B, C], and so is the one after the last step; without one it is zeros, and the last has the
    axis in front. Of a single step x [B, I], which needs a state, y is h itself.
    """
    cell, x, (w_ih, w_hh, b_ih, b_hh, *_), state = call[:4]
    alone = x.dim() == 2
    T, B, inputs = (1, *x.shape) if alone else x.shape
    K, dtype, has_cell, fed = w_hh.shape[-1], x.dtype, cell.has_cell, True
    if cell.recurrence == "dense":
        H = K * cell.heads
    else:
        H, fed = w_hh.shape[0] // len(cell.gates), cell.recurrence == "elementwise"
        if fed != K:  # 1 or 0
            return None
    rows, C = len(cell.gates) * H, len(cell.states) * H
    given = [("x", x, T * B * inputs)]
    if w_ih is not None:
        given.append(("w_ih", w_ih, rows * inputs))
    elif inputs != rows:
        return None
    if fed:
        given.append(("w_hh", w_hh, rows * K))
    if state is not None:
        given.append(("h0", state.h, B * H))
        if has_cell:
            given.append(("c0", state.c, B * C))
    if b_ih is not None:
        given.append(("b_ih", b_ih, rows))
        if fed:
            given.append(("b_hh", b_hh, rows))
    fields: dict[str, Any] = {"steps": T, "batch": B, "inputs": inputs, "hidden": H, "last": T, "has_cell": has_cell}
    fields["recurrent"], fields["heads"] = K, cell.heads
    for name, a, size in given:  # a kernel reads addresses: what does not fit must not get there
        if a is None or a.numel() != size or a.dtype is not dtype or not a.is_cpu or not a.is_contiguous() or a.is_neg():
            return None
        fields[name] = address = a.data_ptr()
        if not address:
            return None
    if not T:
        return None
    empty_like = sys.modules["torch"].empty_like  # faster than new_empty
    y = empty_like(call.state.h) if alone else x.new_empty(T, B, H) if 4 * T * B * H < _LARGE else empty(x, T, B, H)
    h = None if alone else x.new_empty(1, B, H) if state is None else empty_like(state.h)
    c = None
    if has_cell:
        begin = y if h is None else h
        c = empty_like(begin) if C == H else x.new_empty(*begin.shape[:-1], C)
    fields["x"] = (fields["x"], B * inputs, inputs)
    fields["y"] = (y.data_ptr(), B * H, H)
    fields["threads"] = threads.current()
    if h is not None:
        fields["h_n"] = h.data_ptr()
    if c is not None:
        fields["c_n"] = c.data_ptr()
    if cell.clip is not None:
        fields["clip"] = cell.clip
    if cell.name == "janet":
        fields["beta"] = float(cell.beta)  # type: ignore[attr-defined]
    native.library.forward(cell.kernel, "float64" if dtype.itemsize == 8 else "float32", fields)
    return Run(y, State(y if h is None else h, c), None)


def backward(
    call: Call,
    saved: Saved,
    dy: Array | None,
    dstate: State,
    *,
    steps: bool = False,
    input_gradient: bool = True,
    later: Gradients | None = None,
) -> Gradients:
    """As `reference.backward`; the arrays of `later` are written to."""
    kept: list[Any] = []
    x, window, fresh = call.x, call.window, call.reset_state
    cell, weights, hidden = unshared(call.cell, call.weights)
    fields, (T, B, H, R) = _fields(kept, call, cell, weights)
    C = cell_size(cell, H)
    dx = empty(x, T, *x.shape[1:]) if input_gradient else None
    number = call.state.h  # of x's type, but where that is bfloat16
    dw = _weight_gradients(number, cell, weights, None if later is None else later.weights)
    start = State(A.empty(number, B, R), A.empty(number, B, C) if cell.has_cell else None)
    along = A.empty(number, B, H) if start.c is None else start.c  # what flows along a highway that is h itself
    dreset = None if later is None else later.reset_state
    if fresh is not None and dreset is None:
        dreset = State(*(None if a is None else A.zeros(number, *a.shape) for a in fresh))
    dreset_h, dreset_c = dreset or (None, None)
    h_steps = empty(number, T, B, R) if steps else None
    c_steps = empty(number, T, B, C) if steps and cell.has_cell else None
    put_rows(kept, fields, window, y=saved.h, gates=saved.gates, c=saved.c, m=saved.m)
    put_rows(kept, fields, None, dy=dy)
    put_rows(None, fields, window, dx=dx, h_steps=h_steps, c_steps=c_steps)
    put_rows(None, fields, None, dreset_h=dreset_h, dreset_c=dreset_c)
    put(kept, fields, dh_n=dstate.h, dc_n=dstate.c if cell.has_cell else None)
    put(None, fields, dh0=start.h, dc0=along, dw_ih=dw.w_ih, dw_hh=dw.w_hh, dw_hr=dw.w_hr, dw_ch=dw.w_ch, dnorm=dw.norm)
    put(None, fields, db_ih=dw.b_ih, db_hh=dw.b_hh if cell.separate else None)
    fields["go_on"] = later is not None
    native.library.backward(cell.kernel, _type(cell, x), fields)
    biases = {name: None for name in ("b_ih", "b_hh") if getattr(weights, name) is None}
    dw = dw._replace(w_hh=mask_recurrent(cell, dw.w_hh), **biases)
    return Gradients(dx, collapse(call.cell, dw, hidden, call.weights.b_ih is not None), start, dreset, h_steps, c_steps)


def _weight_gradients(number: Array, cell: Cell, weights: Weights, later: Weights | None) -> Weights:
    """Memory for the gradients of weights, or that of a later window, which go on; biases also where there are none."""
    made = {} if later is None else later._asdict()
    for name, a in weights._asdict().items():
        if made.get(name) is None and a is not None and not name.startswith("b_"):
            made[name] = (empty if name in ("w_ih", "w_hh", "w_hr") else A.empty)(number, *a.shape)
    if weights.norm is None and made.get("b_ih") is None:
        made["b_ih"] = A.empty(number, weights.w_hh.shape[0])
    if not cell.separate:
        made["b_hh"] = made.get("b_ih")
    elif weights.norm is None and made.get("b_hh") is None:
        made["b_hh"] = A.empty(number, weights.w_hh.shape[0])
    return Weights(**{"w_ih": None, **made})


def _fields(kept: list[Any], call: Call, cell: Cell, weights: Weights) -> tuple[dict[str, Any], tuple[int, int, int, int]]:
    """The fields of `Problem` in native/call.hpp, and T (of the window), B, H, R; cell and weights are those of `unshared`."""
    native.check_isa()
    x, state, lengths, noise = call.x, call.state, call.lengths, call.noise
    T, B, inputs = x.shape
    weights = _factors(kept, weights, x)
    H, R = weights.w_hh.shape[0] // len(cell.gates), state.h.shape[-1]
    first, last = call.window or (0, T)
    fields: dict[str, Any] = {
        "steps": T,
        "batch": B,
        "inputs": inputs,
        "hidden": H,
        "projected": R if weights.w_hr is not None else 0,
        "reverse": call.reverse,
        "first": first,
        "last": last,
        "threads": threads.current(),
        "clip": math.inf if cell.clip is None else float(cell.clip),
        "feedback": len(cell.feeds_back),
        "has_cell": cell.has_cell,
        "recurrent": weights.w_hh.shape[1],
        "heads": cell.heads,
        "beta": float(getattr(cell, "beta", 0.0)),
    }
    put_rows(kept, fields, None, x=x)
    put(kept, fields, **weights._asdict(), h0=state.h, c0=state.c)
    if weights.w_ih is not None and not fields["w_ih"]:  # an empty tensor has no address, and a null would say: x is the sums
        kept.append(somewhere := np.empty(1))
        fields["w_ih"] = somewhere.ctypes.data
    if lengths is not None:
        lengths = A.as_like(lengths, x)
        check_lengths_in_range("cpu", lengths, T)  # the kernel would read beyond memory
        lengths = lengths.long() if A.is_torch(lengths) else lengths.astype(np.int64, copy=False)
        kept.append(lengths)  # made from a list or from other integers, it belongs to nobody else
        put(kept, fields, lengths=lengths)
    if call.reset is not None:
        kept.append(reset := A.as_like(call.reset, x))
        put(kept, fields, reset=reset)
    if noise is not None:
        fields |= {"zoneout_h": float(noise.zoneout_h), "zoneout_c": float(noise.zoneout_c)}
        fields |= {"candidate": float(noise.candidate), "seed": noise.seed & 0xFFFFFFFFFFFFFFFF}
        fields |= {"stream": noise.stream, "first_row": noise.first_row, "training": noise.training}
        put(kept, fields, hidden_mask=noise.hidden if noise.training else None)
    if call.reset_state is not None:
        h, c = (None if a is None else _contiguous(kept, a) for a in call.reset_state)
        put_rows(kept, fields, None, reset_h=h, reset_c=c)
    return fields, (last - first, B, H, R)


def put(kept: list[Any] | None, fields: dict[str, Any], **arrays: Any) -> None:
    """Addresses of arrays whose memory is contiguous, or of such copies; arrays that are None are left out.

    `kept` is None for what the kernel writes: a copy of that would be lost.
    """
    for name, a in arrays.items():
        if a is not None:
            a = _contiguous(kept, a)
            fields[name] = _data(a) if A.is_torch(a) else a.__array_interface__["data"][0]


def put_rows(kept: list[Any] | None, fields: dict[str, Any], window: tuple[int, int] | None, **arrays: Any) -> None:
    """As `put`, with strides, of arrays [T, B, n] or [B, n]."""
    for name, a in arrays.items():
        if a is not None:
            fields[name] = _rows(kept, a, window)


def _factors(kept: list[Any], weights: Weights, x: Array) -> Weights:
    """The weights with matrices of x's type: rounded to bfloat16 where x is."""
    if x.dtype.itemsize > 2:
        return weights
    w_ih, w_hh, w_hr = (w if w is None else w.to(x.dtype) for w in (weights.w_ih, weights.w_hh, weights.w_hr))
    kept += [w_ih, w_hh, w_hr]
    return weights._replace(w_ih=w_ih, w_hh=w_hh, w_hr=w_hr)


def empty(like: Array, *shape: int) -> Array:
    """Memory for an output: from the workspace where it is large, so that its pages have been touched before."""
    size = 1
    for n in shape:
        size *= n
    if 4 * size < _LARGE:
        return A.empty(like, *shape)
    if like.dtype.itemsize == 2:  # bfloat16: two in the place of a float
        block = sys.modules["torch"].from_numpy(native.library.empty(((size + 1) // 2,), False))
        return block.view(like.dtype)[:size].view(shape).detach()  # no view to autograd: it may be written to in place
    block = native.library.empty(shape, _is_float64(like))
    return sys.modules["torch"].from_numpy(block) if A.is_torch(like) else block


def _type(cell: Cell, x: Array) -> str:
    """The type of the kernels that take x."""
    if x.dtype.itemsize > 2:
        return "float64" if _is_float64(x) else "float32"
    if str(x.dtype) != "torch.bfloat16" or not native.has_bfloat16(cell):
        raise native.no_type(f"x: {describe(x)}", str(x.dtype).removeprefix("torch."))
    return "bfloat16"


def _is_float64(x: Array) -> bool:
    return x.dtype.itemsize == 8


def _data(a: Any) -> int:
    """The address of a tensor's memory. Some subclasses of Tensor have none, and a kernel would read at 0."""
    address = a.data_ptr()
    if address == 0 and a.numel() > 0:
        raise BackendError.of(
            "cpu",
            f"a {type(a).__name__} has no memory of its own",
            f"{type(a).__name__}: {describe(a)}",
            "plain tensors",
            "use backend='reference', which runs on torch's own operations",
        )
    return address


def _rows(kept: list[Any] | None, a: Any, window: tuple[int, int] | None) -> tuple[int, int, int]:
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


def _contiguous(kept: list[Any] | None, a: Any) -> Any:
    if A.is_torch(a):
        if a.is_contiguous() and not a.is_neg():
            return a
        a = a.resolve_neg().contiguous()
    else:
        if a.flags.c_contiguous and a.flags.aligned:
            return a
        a = np.require(a, requirements=["C", "A"])
    assert kept is not None, "what a kernel writes must lie where it is wanted"
    kept.append(a)
    return a
