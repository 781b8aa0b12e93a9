"""`Stepper`: one step at a time with nothing between the caller and the kernel, from weights packed once.

Legend: B batch, I input size, H hidden size, R what is fed back (P with a projection, 4H for FGR, else H), L layers.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

import numpy as np

from openlstm import reference
from openlstm.cells import Cell, parted
from openlstm.engine import native, threads
from openlstm.engine.backends.table import choose
from openlstm.engine.check_weights import check_layers
from openlstm.engine.rounded import check_kind, check_rounded
from openlstm.errors import ArgumentError, BusyError, DtypeError, ShapeError, describe
from openlstm.reference import State, Weights, unshared
from openlstm.weights import cell_size, fed_back_size, hidden_size

WHO = "Stepper"


class Stepper:
    """A stack of layers, step by step: the state lives here, and a step of the kernel allocates nothing.

    It owns a **packed copy** of the weights as they are when it is made: training the layer afterwards does not change it. The
    numbers are those of the layer in eval mode, bit for bit; with weights="int8" those of `openlstm.quantize(layer)`. A step
    that fails leaves the state as it was.

    Args:
        layer: openlstm.LSTM, GRU or RNN in one direction, or whatever has a `cell` and `layers` (`Weights` of arrays of one
            type), such as the network of a loaded model. A layer in a half type is stepped in float32.
        batch: B, the rows of every step.
        backend: "auto", "cpu" or "reference".
        weights: "float32", as they are (also those of a layer in float64); "int8", a scale for each row and numbers from -127
            to 127, x and h rounded alike at every step (docs/int8.md); "bfloat16", matrices, x and h rounded to it, as a layer
            in float32 does under `torch.autocast`. Sums, states and gates are float32 in all of them.

    Attributes:
        step: x [B, I] (or [I] where B = 1), float32 or float64 as the weights, numpy (fastest), a torch tensor or a list ->
            the last layer's h, numpy [B, R]. **The array is the same one at every step**: copy what is to be kept.
        state: h [L, B, R] and c [L, B, H] (None for a cell without one) as copies, of a cell with more states (h, c, n, m);
            assign to go on from elsewhere.

    One stepper is one stream: threads may take turns, each copying what it got before the next one's turn.

    Raises:
        ArgumentError: for a bidirectional layer, zoneout, which the packed step does not know, or another kind of layer; for
            weights in 8 bits of a layer in training mode, or of a cell that has no kernel for them.
        BackendError: for weights in 8 bits or bfloat16 where nothing multiplies them.
        ShapeError, DtypeError: for weights that do not fit the cell or each other; of `step`, for an x that does not fit; for a
            state that does not.
        BusyError: of `step`, `state` and `reset`, while one of them is at work in another thread.
        MemoryError: of `step`, where memory runs out.

    >>> from openlstm.cells import LSTM
    >>> class Net:
    ...     cell, layers = LSTM(), (Weights(np.ones((8, 3), np.float32), np.zeros((8, 2), np.float32)),)
    >>> stepper = Stepper(Net())
    >>> stepper.step(np.ones(3, np.float32)).round(2).astype(str).tolist()
    [['0.7', '0.7']]
    >>> stepper.reset()
    >>> float(stepper.state.c.max())
    0.0
    """

    step: Callable[[Any], np.ndarray]

    def __init__(self, layer: Any, batch: int = 1, *, backend: str = "auto", weights: str = "float32") -> None:
        check_kind(WHO, weights)
        cell, stack = _read(layer)
        check_layers(WHO, cell, stack)
        self._stack = [Weights(*(None if a is None else _numpy(a) for a in unshared(cell, w)[1])) for w in stack]
        self._cell: Cell = cell.unshared()
        self._batch = _whole(batch)
        self._tensors = not self._cell.kernel and hasattr(stack[0].w_hh, "detach")  # a cell of one's own may know torch alone
        first = self._stack[0]
        self._dtype = first.w_hh.dtype
        self._fit = _Fit(self._dtype, self._batch, first.w_hh.shape[0] if first.w_ih is None else first.w_ih.shape[1])
        self._hidden = hidden_size(self._cell, first)
        R = fed_back_size(self._cell, self._hidden, 0 if first.w_hr is None else first.w_hr.shape[0])
        shape = (len(self._stack), batch)
        self._h = np.zeros((*shape, R), self._dtype)
        self._c = np.zeros((*shape, cell_size(self._cell, self._hidden)), self._dtype) if self._cell.has_cell else None
        self._y = np.zeros((batch, R), self._dtype)
        probe = np.empty((1, batch, self._fit.inputs), self._dtype)
        self.backend = choose(backend, self._cell, probe, WHO, first.w_hr is not None)
        if weights != "float32":
            check_rounded(WHO, weights, layer, self._cell, self._stack, self.backend)
        native = self._native(weights) if self.backend == "cpu" else None
        self._turn = threading.Lock() if native is None else native
        self.step = self._by_reference if native is None else native.step

    @property
    def state(self) -> Any:
        """h [L, B, R] and c [L, B, H], and what further states the cell has; copies."""
        with self._alone():
            return parted(self._cell, State(self._h.copy(), None if self._c is None else self._c.copy()))

    @state.setter
    def state(self, value: Any) -> None:
        given = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        found, names = [], ("h", *self._cell.states)
        own = parted(self._cell, State(self._h, self._c))
        if len(given) > len(names):
            what, hint = f"a state of {len(given)} parts", "assign what another stepper's `state`, or the layer, gave"
            raise ShapeError.of(WHO, what, f"state: {describe(value)}", f"({', '.join(names)})", hint)
        for name, mine, its in zip(names, own, given + (None,) * (len(names) - len(given)), strict=True):
            array = None if its is None else _numpy(its)
            if (mine is None or array is None or array.shape != mine.shape) and mine is not array:
                expected = "None" if mine is None else f"{mine.dtype}{list(mine.shape)} = [L, B, .]"
                what, hint = f"state.{name} does not fit", "assign what another stepper's `state`, or the layer, gave"
                raise ShapeError.of(WHO, what, f"{name}: {describe(its)}", expected, hint)
            if mine is not None and array is not None and hasattr(its, "dtype") and not np.can_cast(array.dtype, mine.dtype):
                what, hint = f"state.{name} has another type than the weights", f"convert it to {mine.dtype}"
                raise DtypeError.of(WHO, what, f"{name}: {describe(its)}", str(mine.dtype), hint)
            found.append(array)
        with self._alone():
            for mine, array in zip(own, found, strict=True):
                if mine is not None:
                    mine[...] = array

    def reset(self) -> None:
        """Begin anew from zeros."""
        with self._alone():
            self._h[...] = 0
            if self._c is not None:
                self._c[...] = 0

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No step is at work inside."""
        if not self._turn.acquire(False):
            self._fit.busy()
        try:
            yield
        finally:
            self._turn.release()

    def _native(self, weights: str) -> Any:
        """The native object; it holds its own packed weights, and shares the arrays of the state with this one."""

        layers = []
        for n, w in enumerate(self._stack):
            call: dict[str, Any] = {
                "steps": 1,
                "last": 1,
                "batch": self._batch,
                "inputs": self._fit.inputs if w.w_ih is None else w.w_ih.shape[1],
                "hidden": self._hidden,
                "projected": 0 if w.w_hr is None else w.w_hr.shape[0],
                "feedback": len(self._cell.feeds_back),
                "has_cell": self._cell.has_cell,
                "threads": threads.current(),
                "clip": math.inf if self._cell.clip is None else float(self._cell.clip),
                "recurrent": w.w_hh.shape[1],
                "heads": self._cell.heads,
                "beta": float(getattr(self._cell, "beta", 0.0)),
            }
            given = {**w._asdict(), "h0": self._h[n], "c0": None if self._c is None else self._c[n]}
            layers.append(call | {name: a.ctypes.data for name, a in given.items() if a is not None})
        kept = ((self._h, self._c), self._y, self._y.ctypes.data, self._fit)
        return native.stepper(self._cell.kernel, str(self._dtype) if weights == "float32" else weights, layers, *kept)

    def _by_reference(self, x: Any) -> np.ndarray:
        x = self._fit(x).reshape(self._batch, self._fit.inputs)
        kind = sys.modules["torch"].from_numpy if self._tensors else lambda a: a
        x = kind(x)
        with self._alone():
            states = []
            for n, w in enumerate(self._stack):
                begin = State(kind(self._h[n]), None if self._c is None else kind(self._c[n]))
                w = Weights(*(None if a is None else kind(a) for a in w))
                states.append(reference.step(self._cell, x, begin, w)[0])
                x = states[-1].h[:, : self._hidden] if len(self._cell.feeds_back) > 1 else states[-1].h
            for n, (h, c) in enumerate(states):
                self._h[n] = h
                if self._c is not None:
                    self._c[n] = c
            self._y[...] = self._h[-1]
        return self._y


class _Fit(NamedTuple):
    """What an x has to be. (No method of the stepper: the native half holds it, and would so hold its own owner for ever.)"""

    dtype: np.dtype
    batch: int
    inputs: int

    def __call__(self, x: Any) -> np.ndarray:
        """x as a plain array of the right type and size, or the error that says what is wrong with it."""
        if hasattr(x, "detach"):
            x = x.detach().cpu().numpy()
        given = np.asarray(x)
        if given.dtype != self.dtype and isinstance(x, np.ndarray):
            hint = f"use x.astype(np.{self.dtype})"
            raise DtypeError.of(WHO, "x has another type than the weights", f"x: {describe(x)}", str(self.dtype), hint)
        wanted = [(self.batch, self.inputs)] + [(self.inputs,)] * (self.batch == 1)
        if given.shape not in wanted:
            expected = " or ".join(str(list(s)) for s in wanted)
            hint = "one step at a time: x has no time axis" if given.ndim > 2 else "give every row's features of one step"
            raise ShapeError.of(WHO, "x does not fit", f"x: {describe(given)}", f"{expected} = [B, I]", hint)
        return np.ascontiguousarray(given, self.dtype)

    def busy(self) -> NoReturn:
        """The error of a call while another one is at work."""
        what, hint = "used by two calls at once", "one stepper for each stream, or a lock around the calls that share one"
        raise BusyError.of(WHO, what, "a call while another one is at work", "one call at a time", hint)


def _read(layer: Any) -> tuple[Cell, list[Weights]]:
    cell = getattr(layer, "cell", None)
    if isinstance(cell, Cell) and hasattr(layer, "layers") and not hasattr(layer, "weights_of"):
        return cell, list(layer.layers)
    if not isinstance(cell, Cell) or not hasattr(layer, "weights_of"):
        hint = "use openlstm.replace(model) for layers of torch.nn"
        got = f"layer: {type(layer).__name__}"
        raise ArgumentError.of(WHO, "cannot step through this", got, "openlstm.LSTM, GRU or RNN", hint)
    for name, why in (
        ("bidirectional", "the other direction begins at the end, which a stream has not"),
        ("zoneout_h", "a packed step has no zoneout"),
        ("zoneout_c", "a packed step has no zoneout"),
    ):
        if getattr(layer, name, 0):
            got = f"{name}={getattr(layer, name)!r}"
            hint = "call the layer itself, one step at a time"
            raise ArgumentError.of(WHO, why, got, f"{name}={0 if name != 'bidirectional' else False}", hint)
    return cell, [layer.weights_of(n) for n in range(layer.num_layers)]


def _numpy(a: Any) -> np.ndarray:
    """As a contiguous array; half types as float32."""
    if hasattr(a, "detach"):
        a = (a.float() if a.dtype.itemsize == 2 else a).detach().cpu().numpy()
    a = np.asarray(a, order="C")
    return a.astype(np.float32) if a.dtype == np.float16 else a


def _whole(batch: Any) -> int:
    if isinstance(batch, int) and not isinstance(batch, bool) and batch >= 1:
        return batch
    hint = "batch=1 for a single stream"
    raise ArgumentError.of(WHO, "batch is not a number of rows", f"batch={batch!r}", "a whole number >= 1", hint)
