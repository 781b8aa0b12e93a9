"""Weights that are rounded once for inference: to 8 bits for steps and sequences, to bfloat16 for steps.

Legend: T time, B batch, I input size, H hidden size, P projected size, R what is fed back (P with a projection, else H).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from openlstm._array import Array
from openlstm.call import Call
from openlstm.cells import Cell
from openlstm.engine import native, threads
from openlstm.engine.backends import cpu
from openlstm.engine.backends.table import brief
from openlstm.engine.check import check_finite, check_lengths_in_range
from openlstm.errors import ArgumentError, BackendError, DtypeError, describe
from openlstm.reference import State, Weights
from openlstm.weights import fed_back_size, hidden_size

WEIGHTS = ("float32", "bfloat16", "int8")
"""What `weights=` may be."""

MATRICES = ("w_ih", "w_hh", "w_hr")
"""What of `Weights` is rounded."""

LONGEST = (2**31 - 1) // 127**2
"""Numbers that a sum of products of 8 bits can hold in 32 bits, whatever they are."""

LARGEST = 1e30
"""A weight beyond it would make a sum infinite that is not."""

_LEAST = np.float32(2.0**-100) / np.float32(127)


def rounded(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of w, float32 [N, K], in 8 bits: q int8 [N, K] and scales float32 [N], w about scale * q.

        scale = max |w| / 127, rounded up to 17 bits, at least 2^-100 / 127;  q = w / scale, to the nearest, ties to even

    What was rounded once is rounded to the same numbers again: scale * q is exact.

    >>> q, scale = rounded(np.array([[0.3, -1.27, 0.126]], np.float32))
    >>> q.tolist(), (scale[:, None] * q).round(2).astype(str).tolist()
    ([[30, -127, 13]], [['0.3', '-1.27', '0.13']])
    """
    scale = np.maximum(abs(w).max(1) / np.float32(127), _LEAST)
    scale = ((scale.view(np.int32) + 0x7F) & ~0x7F).view(np.float32)
    return np.rint(w * (np.float32(1) / scale)[:, None]).astype(np.int8), scale


def fitted(w: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The rows of w, float32 [N, K], on the grid of `rounded`, so that what is lost cancels on rows like those seen.

    Column after column is rounded, and the columns that are left take up what it lost, as far as they go along with it
    (Hassibi & Stork 1993; Frantar et al. 2023, GPTQ). The scales are those of `rounded`: a row's largest weight stays as it is.

    Args:
        w: the weights.
        seen: the mean of r^T r over rows r that are multiplied with them, float64 [K, K].
    """
    q, scale = rounded(w)
    mean = seen.trace() / len(seen)
    if not 0 < mean < np.inf:
        return scale[:, None] * q
    order = np.argsort(-seen.diagonal(), kind="stable")
    damped = seen[np.ix_(order, order)] + 0.01 * mean * np.eye(len(seen))
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T  # its row k: how far the columns from k on go along with k
    steps = w[:, order] / scale[:, None].astype(np.float64)
    top = abs(q[:, order]) == 127
    found = np.where(top, q[:, order], 0).astype(np.float32)
    for k in range(len(seen)):
        found[:, k] = np.where(top[:, k], found[:, k], np.rint(steps[:, k]).clip(-127, 127))
        steps[:, k:] -= np.outer((steps[:, k] - found[:, k]) / upper[k, k], upper[k, k:])
    out = np.empty_like(w)
    out[:, order] = scale[:, None] * found
    return out


class Rounded:
    """A layer in one direction: its matrices in 8 bits, packed for the kernels; biases and peepholes in float32.

    Args:
        cell, weights: of `unshared`, checked by `check_rounded`, contiguous numpy arrays.
    """

    def __init__(self, cell: Cell, weights: Weights) -> None:
        self.cell, self.weights = cell, weights._replace(w_ih=None, w_hh=None, w_hr=None)
        self.hidden = hidden_size(cell, weights)
        self.inputs = weights.w_ih.shape[1]
        self.projected = 0 if weights.w_hr is None else weights.w_hr.shape[0]
        self.fed_back = fed_back_size(cell, self.hidden, self.projected)
        given = {name: a.ctypes.data for name, a in weights._asdict().items() if a is not None}
        native.check_isa()
        self._packed: Any = native.library.Packed(cell.kernel, self._sizes() | given)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights, scales and biases among them."""
        return self._packed.bytes

    def unpacked(self) -> Weights:
        """The weights as they are multiplied: scale * q in float32, numpy."""
        rows = len(self.cell.gates) * self.hidden
        shapes = (rows, self.inputs), (rows, self.fed_back), (self.projected, self.hidden)
        matrices = [np.empty(shape, np.float32) for shape in shapes]
        self._packed.unpack(*(a.ctypes.data for a in matrices))
        if not self.projected:
            matrices[2:] = []
        return self.weights._replace(**dict(zip(MATRICES, matrices, strict=False)))

    def forward(self, call: Call) -> tuple[Array, State]:
        """y [T, B, R] and the last state of a call whose weights these are; tensors in float32 on the CPU."""
        x, state, noise, kept = call.x, call.state, call.noise, []
        if call.check_finite:
            check_finite(call)
        T, B, _ = x.shape
        y = cpu.empty(x, T, B, self.fed_back)
        end = State(x.new_empty(B, self.fed_back), x.new_empty(B, self.hidden) if self.cell.has_cell else None)
        fields = self._sizes() | {"steps": T, "last": T, "batch": B, "reverse": call.reverse}
        cpu.put_rows(kept, fields, None, x=x)
        cpu.put_rows(None, fields, None, y=y)
        cpu.put(kept, fields, h0=state.h, c0=state.c)
        cpu.put(None, fields, h_n=end.h, c_n=end.c)
        if call.lengths is not None:
            # the kernel would read beyond memory
            check_lengths_in_range(call.who, call.lengths, T, f"x: {describe(x)}, [T, B, I]")
            cpu.put(kept, fields, lengths=call.lengths)
        if call.reset is not None:
            cpu.put(kept, fields, reset=call.reset)
        if call.reset_state is not None:
            h, c = call.reset_state
            cpu.put_rows(kept, fields, None, reset_h=h, reset_c=c)
        if noise is not None:
            fields |= {"zoneout_h": noise.zoneout_h, "zoneout_c": noise.zoneout_c, "training": False}
        self._packed.forward(fields)
        return y, end

    def _sizes(self) -> dict[str, Any]:
        return {
            "inputs": self.inputs,
            "hidden": self.hidden,
            "projected": self.projected,
            "feedback": len(self.cell.feeds_back),
            "has_cell": self.cell.has_cell,
            "recurrent": self.fed_back,
            "heads": 1,
            "beta": float(getattr(self.cell, "beta", 0.0)),
            "threads": threads.current(),
            "clip": math.inf if self.cell.clip is None else float(self.cell.clip),
        }


def check_kind(who: str, weights: Any) -> None:
    """Raise where `weights=` names no kind of weights."""
    if weights not in WEIGHTS:
        hint = "'int8' is the smallest and quickest, 'float32' what the layer itself computes"
        raise ArgumentError.of(who, f"unknown weights={weights!r}", f"weights={weights!r}", ", ".join(WEIGHTS), hint)


def check_rounded(who: str, weights: str, layer: Any, cell: Cell, stack: list[Weights], backend: str) -> None:
    """Raise where a layer cannot have weights in 8 bits or bfloat16.

    Args:
        who: whom the errors name.
        weights: "int8" or "bfloat16".
        layer: whose weights they are.
        cell, stack: of its layers and directions, by `unshared`; numpy.
        backend: the one that would run it.

    Raises:
        ArgumentError: for a layer in training mode, a cell without a kernel in 8 bits, weights too many or too large for one.
        DtypeError: for weights in float64.
        BackendError: where no kernel runs, or none that multiplies in bfloat16.
    """
    got = f"weights={weights!r}"
    if weights == "int8" and getattr(layer, "training", False):
        what, hint = "the layer is in training mode", "call layer.eval() first: weights in 8 bits are for inference alone"
        raise ArgumentError.of(who, what, f"{type(layer).__name__} with training=True", "a layer in eval mode", hint)
    if backend != "cpu":
        why = "" if native.available() else f" ({native.missing_reason()})"
        what, hint = f"the backend {backend!r} has no weights of this kind", "use backend='auto' where the extension is built"
        raise BackendError.of(who, what, got, f"the compiled extension{why}", hint)
    if weights == "int8" and not has_int8(cell):
        expected = "LSTM and its variants without FGR, GRU, RNN or JANET, each with heads=1"
        what, hint = f"{brief(cell)} has no kernel in 8 bits", "keep its weights in float32"
        raise ArgumentError.of(who, what, f"cell: {brief(cell)}", expected, hint)
    if stack[0].w_ih is None:
        what, hint = "a layer without input_projection has no weights in 8 bits", "keep its weights in float32"
        raise ArgumentError.of(who, what, "input_projection=False", "input_projection=True", hint)
    if stack[0].w_hh.dtype != np.float32:
        what, hint = f"weights in {stack[0].w_hh.dtype} are not rounded to {weights}", "use layer.float()"
        raise DtypeError.of(who, what, f"w_hh: {describe(stack[0].w_hh)}", "float32", hint)
    if weights == "bfloat16":
        if not native.has_bfloat16(cell):
            raise native.no_type(got, weights)
        return
    for n, w in enumerate(stack):
        for name in MATRICES:
            a = getattr(w, name)
            if a is not None and a.shape[1] > LONGEST:
                what, hint = f"a sum of {a.shape[1]} products in 8 bits can leave 32 bits", "keep its weights in float32"
                raise ArgumentError.of(who, what, f"layers[{n}].{name}: {describe(a)}", f"at most {LONGEST} columns", hint)
            if a is not None and not (abs(a) <= LARGEST).all():
                worst = a[~(abs(a) <= LARGEST)][0]
                what, hint = f"layers[{n}].{name} holds {worst}", "mend the layer: such a weight has no scale of 8 bits"
                raise ArgumentError.of(who, what, f"layers[{n}].{name}: {describe(a)}", "numbers within 1e30", hint)


def has_int8(cell: Cell) -> bool:
    """Whether a cell has kernels in 8 bits: those with a kernel whose whole h, and nothing else, is multiplied as it is."""
    plain = cell.recurrence == "dense" and cell.heads == len(cell.states) == len(cell.feeds_back) == 1
    return cell.kernel in native.KERNELS and plain and not cell.norms
