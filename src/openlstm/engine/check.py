"""Are the arguments of `recur`, and the weights of `Stepper`, of one kind and of fitting sizes? One error each, before any
memory is read.

Legend: T time, B batch, I input size, H hidden size, P projected size, R what is fed back (P with a projection, else H; for
FGR the gates too), G gates of a cell. The good case costs a few microseconds; sentences are made only for the bad one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from openlstm import _array as A
from openlstm import weights as layout
from openlstm._array import Array
from openlstm.call import Call
from openlstm.cells import Cell
from openlstm.errors import ArgumentError, DtypeError, OpenLSTMError, ShapeError, describe, message
from openlstm.noise import Noise
from openlstm.reference import State, Weights

WHO = "recur"
TIME_FIRST = "x is [T, B, I], time first: if yours is [B, T, I], swap its first two axes"


def check_call(call: Call, who: str = WHO) -> None:
    """Raise where an argument does not fit the others.

    Args:
        call: `cell` a `Cell`;
            x [T, B, I], floating, a numpy array or a torch tensor; it decides kind, dtype and device of all others;
            `Weights` of w_ih [G*H, I] (None where x [T, B, G*H] is the sums), w_hh [G*H, K] (`weights.recurrent_size`), b_ih
            and b_hh [G*H] or both None (b_ih alone where nothing is fed back), w_hr [P, H] or None, w_ch
            [len(cell.peepholes)*H] where the cell has peepholes, norm (`weights.norm_sizes`) where it normalises;
            `State` of h [B, R] and c [B, C] (None for a cell without one), or None;
            lengths, B integers within 0..T, in a list or an array on any device, or None;
            reset [T, B] of bool, or of 0 and 1 in uint8 or a float type, or None;
            reset_state like the state, or a state for every step, [T, B, .];
            `Noise` with probabilities, and `hidden` [B, R] or None, or None.
        who: whom errors name.

    Raises:
        DtypeError: for a wrong type or element type, or numpy and torch mixed.
        ShapeError: for a wrong number of axes or a wrong size.
        ArgumentError: for a missing or superfluous member, lengths out of range, or arrays on several devices.

    >>> import numpy as np
    >>> from openlstm.cells import LSTM
    >>> w = Weights(np.zeros((8, 3)), np.zeros((8, 2)))
    >>> check_call(Call(LSTM(), np.ones((5, 4, 3)), w, lengths=[5, 0, 1, 5]))
    >>> check_call(Call(LSTM(), np.ones((5, 4, 3)), w, lengths=[5, 0, 1, 6]))
    Traceback (most recent call last):
    openlstm.errors.ArgumentError: recur: lengths[3] is 6, but x has 5 steps
      got       lengths[3] = 6  (x: float64[5, 4, 3], [T, B, I])
      expected  0 <= lengths <= 5
      hint      cut lengths at T, or pad x to the longest row
    """
    cell, x, weights, state = call[:4]
    if not isinstance(cell, Cell):
        got = f"cell: {_name(cell)}"
        raise DtypeError.of(who, "cell is not a cell", got, "one of openlstm.cells", _cell_hint(cell))
    like = _check_x(who, x)
    hidden, fed_back = _check_weights("weights", cell, weights, like)
    size = _Size(x.shape[0], x.shape[1], hidden, fed_back)
    features = weights.w_hh.shape[0] if weights.w_ih is None else weights.w_ih.shape[1]
    if features != x.shape[2]:
        raise _features(x, features, like) if weights.w_ih is not None else _no_sums(cell, x, features, like)
    if state is not None:
        _check_state("state", cell, state, like, size)
    if call.reset_state is not None:
        _check_state("reset_state", cell, call.reset_state, like, size)
    if call.lengths is not None:
        _check_lengths(call.lengths, like, size)
    if call.reset is not None:
        _check_reset(call.reset, like, size)
    if call.noise is not None:
        _check_noise(cell, call.noise, like, size)


def check_lengths_in_range(who: str, lengths: Any, T: int, shown: str = "") -> None:
    """Raise where one of the integers `lengths` [B], an array of either kind, is outside 0..T.

    Args:
        shown: what says how long x is.

    Raises:
        ArgumentError: naming the first.
    """
    if not len(lengths) or (int(lengths.min()) >= 0 and int(lengths.max()) <= T):
        return
    row = next(k for k, n in enumerate(lengths.tolist()) if not 0 <= n <= T)
    bad = int(lengths[row])
    hint = "a row without a step has length 0" if bad < 0 else "cut lengths at T, or pad x to the longest row"
    what, got = f"lengths[{row}] is {bad}, but x has {_count(T, 'step')}", f"lengths[{row}] = {bad}  ({shown or f'T = {T}'})"
    raise ArgumentError.of(who, what, got, f"0 <= lengths <= {T}", hint)


def check_finite(call: Call) -> None:
    """Raise where x, a torch tensor, holds a value that is not finite, past the end of no row.

    Raises:
        ArgumentError: naming step, row and feature of the first.
    """
    x, lengths = call.x, call.lengths
    bad = ~x.isfinite()  # [T, B, I]
    if lengths is not None:  # padding is never read
        bad &= (A.arange(x, x.shape[0])[:, None] < lengths)[..., None]
    if bool(bad.any()):
        t, b, n = bad.nonzero()[0].tolist()
        hint = "fill or mask missing values before the layer, or pass check_finite=False to let them through"
        what = f"x holds {float(x[t, b, n])} at step {t}, row {b}, feature {n}"
        raise ArgumentError.of(call.who, what, "a value that is not finite", "finite values (check_finite=True)", hint)


def check_layers(who: str, cell: Cell, layers: Sequence[Any]) -> None:
    """Raise where the `Weights` of layers on top of each other do not fit the cell or each other.

    Args:
        who: whom the errors name.
        layers: for each of them the weights, as `check_call` wants them; the first w_ih decides kind, dtype and device of all.

    Raises:
        DtypeError, ShapeError, ArgumentError: as `check_call`; also where there is no layer.

    >>> import numpy as np
    >>> from openlstm.cells import LSTM
    >>> w = Weights(np.zeros((8, 2)), np.zeros((8, 2)))
    >>> check_layers("Stepper", LSTM(), [w, w])
    >>> check_layers("Stepper", LSTM(), [w, Weights(np.zeros((8, 3)), np.zeros((8, 2)))])
    Traceback (most recent call last):
    openlstm.errors.ShapeError: Stepper: layers[1].w_ih has shape [8, 3], expected [8, 2]
      got       layers[1].w_ih: float64[8, 3]  (layers[0].w_ih: float64[8, 2], [4*H, I])
      expected  [4*H, 2] = [8, 2]
      hint      the layer below puts out 2 numbers a row
    """
    if not layers:
        got, hint = f"layers: {describe(layers)}", "one `Weights` for each layer, the lowest first"
        raise ArgumentError.of(who, "there is no layer", got, "at least one", hint)
    like, below = None, 0
    for n, w in enumerate(layers):
        name = f"layers[{n}]"
        if not isinstance(w, Weights):
            raise _no_weights(who, name, w)
        if like is None:
            field, columns = ("w_hh", "K") if w.w_ih is None else ("w_ih", "I")
            like = _check_first(who, f"{name}.{field}", getattr(w, field), f"[{_rows(cell)}, {columns}]")
        hidden, fed_back = _check_weights(name, cell, w, like)
        w_ih: Any = w.w_ih
        if n and w_ih is None:
            got, hint = f"{name}.w_ih=None", "only the first layer can be given its sums"
            raise like.error(ArgumentError, f"{name} has no w_ih", got, f"[{_rows(cell)}, {below}]", hint)
        if n and w_ih.shape[1] != below:
            expected, hint = (w_ih.shape[0], below), f"the layer below puts out {_count(below, 'number')} a row"
            raise _shape(f"{name}.w_ih", w_ih, f"[{_rows(cell)}, {below}]", expected, like, hint)
        below = hidden if len(cell.feeds_back) > 1 else fed_back


class _Like(NamedTuple):
    """What all arrays of one call have in common, and the array that decides it."""

    who: str
    name: str
    first: Array
    letters: str
    kind: type
    dtype: Any
    device: Any

    def __str__(self) -> str:
        return f"{self.name}: {describe(self.first)}, {self.letters}"

    def error(self, kind: type[OpenLSTMError], what: str, got: str, expected: str, hint: str) -> OpenLSTMError:
        return kind(message(self.who, what, got, expected, hint))


class _Size(NamedTuple):
    T: int
    B: int
    H: int
    R: int


def _check_x(who: str, x: Any) -> _Like:
    like = _check_first(who, "x", x, "[T, B, I]")
    if x.ndim != 3:
        hint = "add the batch axis: x[:, None, :]" if x.ndim == 2 else "bring x to three axes: time, batch, features"
        raise like.error(ShapeError, f"x has {_axes(x.ndim)}, expected 3", f"x: {describe(x)}", "[T, B, I]", hint)
    return like


def _check_first(who: str, name: str, a: Any, letters: str) -> _Like:
    tensor = A.is_torch(a)
    if not tensor and not isinstance(a, np.ndarray):
        expected = f"a numpy array or a torch tensor {letters}"
        hint = f"convert it: numpy.asarray({name}, dtype=numpy.float32) or torch.tensor({name})"
        raise DtypeError.of(who, f"{name} is not an array", f"{name}: {describe(a)}", expected, hint)
    if not (str(a.dtype) in _TENSORS if tensor else a.dtype.kind == "f"):
        hint = f"convert it: {name}.float()" if tensor else f"convert it: {name}.astype(numpy.float32)"
        got, expected = f"{name}: {describe(a)}", f"float32 or float64 {letters}"
        raise DtypeError.of(who, f"{name} is not floating", got, expected, hint)
    kind = A.namespace(a).Tensor if tensor else np.ndarray
    return _Like(who, name, a, letters, kind, a.dtype, getattr(a, "device", None))


_TENSORS = frozenset({"torch.float32", "torch.float64", "torch.bfloat16", "torch.float16"})


def _no_weights(who: str, name: str, w: Any) -> OpenLSTMError:
    hint = "openlstm.weights.collect(state_dict) or Weights(w_ih, w_hh, b_ih, b_hh)"
    return DtypeError.of(who, f"{name} is not Weights", f"{name}: {_name(w)}", "openlstm.Weights", hint)


def _check_weights(name: str, cell: Cell, w: Any, like: _Like) -> tuple[int, int]:
    """H and R of weights that fit the cell, whatever I is."""
    if not isinstance(w, Weights):
        raise _no_weights(like.who, name, w)
    m, who, sums = cell.cells_per_gate, type(cell).__name__, w.w_ih is None
    unit = len(cell.gates) if m == 1 else sum(layout.gate_rows(cell, m))  # rows of m cells, which share their gates
    if not sums:
        _check_kind(name, "w_ih", w.w_ih, like)
    elif m > 1:
        got, hint = f"{name}.w_ih=None, cells_per_gate={m}", "take cells_per_gate=1"
        raise like.error(ArgumentError, f"{who} has no sums to be given: cells share their gates", got, "w_ih [G*H, I]", hint)
    _check_kind(name, "w_hh", w.w_hh, like)
    decides, first = ("w_hh", w.w_hh) if sums else ("w_ih", w.w_ih)
    rows = first.shape[0] if first.ndim == 2 else -1
    if rows < 0 or rows % unit:
        gates = ", ".join(cell.gates)
        blocks = _count(len(cell.gates), "block")
        hint = f"{type(cell).__name__} has {blocks} of H rows ({gates}); is this the weight of another cell?"
        if m > 1:
            hint = f"every {m} cells share their gates, which have H/{m} rows each, g has H ({gates}); is H a multiple of {m}?"
        got, columns = f"{name}.{decides}: {describe(first)}", "K" if sums else "I"
        raise like.error(ShapeError, f"{name}.{decides} does not fit {who}", got, f"[{_rows(cell)}, {columns}]", hint)
    hidden = rows // unit * m
    layout.check_recurrence(cell, hidden, 0 if w.w_hr is None else 1)
    if w.w_hr is not None:
        _check_kind(name, "w_hr", w.w_hr, like)
        if w.w_hr.ndim != 2 or w.w_hr.shape[1] != hidden:
            p = w.w_hr.shape[0] if w.w_hr.ndim else 0
            hint = "w_hr maps h' of the cell, H wide, to what is fed back"
            raise _shape(f"{name}.w_hr", w.w_hr, "[P, H]", (p, hidden), like, hint)
        _check_projection(name, cell, w.w_hr, like)
    fed_back = layout.fed_back_size(cell, hidden, 0 if w.w_hr is None else w.w_hr.shape[0])
    letter = "P" if w.w_hr is not None else "H" if len(cell.feeds_back) == 1 else f"{len(cell.feeds_back)}*H"
    columns = layout.recurrent_size(cell, fed_back)
    if columns != fed_back:
        letter = f"H/{cell.heads}" if cell.heads > 1 else str(columns)
    if w.w_hh.shape != (rows, columns):
        made = str(rows) if m > 1 else f"{len(cell.gates)} * {hidden}"
        hint = f"w_ih has {made} rows, so H is {hidden}; take w_hh from the same layer"
        if w.w_hr is not None:
            hint = f"with w_hr [P, H] what is fed back is P wide, here {fed_back}; take w_hh from the same layer"
        if columns != fed_back:
            hint = f"a unit sees the h of its own head alone, {_count(columns, 'unit')}"
            others = {"none": "h enters no sum: w_hh is empty", "elementwise": "a unit sees itself alone, by one weight a gate"}
            hint = others.get(cell.recurrence, hint)
        raise _shape(f"{name}.w_hh", w.w_hh, f"[{_rows(cell)}, {letter}]", (rows, columns), like, hint)
    if cell.recurrence == "none" and w.b_hh is not None:
        got, hint = f"{name}.b_hh: {describe(w.b_hh)}", "add it to b_ih"
        raise like.error(ArgumentError, f"{who} has no sums of h that b_hh could be added to", got, "b_hh=None", hint)
    if (w.b_ih is None) != (w.b_hh is None) and cell.recurrence != "none":
        there, missing = ("b_hh", "b_ih") if w.b_ih is None else ("b_ih", "b_hh")
        hint = f"pass zeros for {missing}, or leave out {there}"
        raise like.error(
            ArgumentError, f"{name}.{there} comes without {missing}", f"{missing}=None", "both biases or none", hint
        )
    for field, b in (("b_ih", w.b_ih), ("b_hh", w.b_hh)):
        if b is not None:
            _check_kind(name, field, b, like)
            if b.shape != (rows,):
                hint = f"take the bias from the same layer as {decides}"
                raise _shape(f"{name}.{field}", b, f"[{_rows(cell)}]", (rows,), like, hint)
    _check_peepholes(name, cell, w.w_ch, hidden, like)
    _check_norm(name, cell, w.norm, hidden, like)
    return hidden, fed_back


def _check_projection(name: str, cell: Cell, w_hr: Array, like: _Like) -> None:
    if len(cell.feeds_back) > 1:
        hint = "leave w_hr out, or take cells.Peephole(), which feeds back its output alone"
        what = f"{type(cell).__name__} feeds its gates back and cannot be projected"
        raise like.error(ArgumentError, what, f"{name}.w_hr: {describe(w_hr)}", "w_hr=None", hint)
    if cell.kernel == "gru" and not cell.has_cell:
        hint = "cells.GRU(memory=True) carries the state that the update gate keeps beside its projection"
        got = f"{name}.w_hr: {describe(w_hr)}, {type(cell).__name__}()"
        raise like.error(ArgumentError, "a projected GRU needs its state as a cell", got, "GRU(memory=True)", hint)


def _check_peepholes(name: str, cell: Cell, w_ch: Any, hidden: int, like: _Like) -> None:
    who, n = type(cell).__name__, len(cell.peepholes)
    if n == 0:
        if w_ch is not None:
            got, hint = f"{name}.w_ch: {describe(w_ch)}", "leave w_ch out, or take a cell with peepholes"
            raise like.error(ArgumentError, f"{who} has no peepholes", got, "w_ch=None", hint)
        return
    gates = ", ".join(cell.peepholes)
    hint = f"one weight for each unit of the gates {gates}, one gate after the other"
    if w_ch is None:
        what, expected = f"{who} has peepholes, {name}.w_ch is missing", f"w_ch [{n}*H] = [{n * hidden}]"
        raise like.error(ArgumentError, what, "w_ch=None", expected, hint)
    _check_kind(name, "w_ch", w_ch, like)
    if w_ch.shape != (n * hidden,):
        raise _shape(f"{name}.w_ch", w_ch, f"[{n}*H]", (n * hidden,), like, hint)


def _check_norm(name: str, cell: Cell, norm: Any, hidden: int, like: _Like) -> None:
    who = type(cell).__name__
    if not cell.norms:
        if norm is not None:
            got, hint = f"{name}.norm: {describe(norm)}", "leave norm out, or take cells.LayerNormLSTM()"
            raise like.error(ArgumentError, f"{who} normalises nothing", got, "norm=None", hint)
        return
    sizes = layout.norm_sizes(cell, hidden)
    n = sum(sizes.values())
    letters = f"[{n // hidden}*H]" if hidden else "[0]"
    hint = f"one behind the other: {', '.join(sizes)}; openlstm.weights.collect(state_dict) does it"
    if norm is None:
        what = f"{who} normalises, {name}.norm is missing"
        raise like.error(ArgumentError, what, "norm=None", f"norm {letters} = [{n}]", hint)
    _check_kind(name, "norm", norm, like)
    if norm.shape != (n,):
        raise _shape(f"{name}.norm", norm, letters, (n,), like, hint)


def _check_noise(cell: Cell, noise: Any, like: _Like, size: _Size) -> None:
    if not isinstance(noise, Noise):
        raise like.error(
            DtypeError, "noise is not Noise", f"noise: {_name(noise)}", "openlstm.noise.Noise", "Noise(zoneout_h=0.1, seed=1)"
        )
    for name in ("zoneout_h", "zoneout_c", "candidate"):
        rate = getattr(noise, name)
        if not 0 <= rate <= 1:
            got, hint = f"noise.{name}={rate!r}", f"{name}=0.1 for one in ten"
            raise like.error(ArgumentError, f"noise.{name} is {rate!r}", got, "a probability from 0 to 1", hint)
    if not isinstance(noise.first_row, int) or not 0 <= noise.first_row < 1 << 32:
        got, hint = f"noise.first_row={noise.first_row!r}", "0 where the rows are the whole batch"
        expected = "an integer from 0 to 2^32 - 1"
        raise like.error(ArgumentError, f"noise.first_row is {noise.first_row!r}", got, expected, hint)
    who = type(cell).__name__
    if noise.zoneout_c and not cell.has_cell:
        hint = "zoneout_h acts on the state that it has"
        raise like.error(ArgumentError, f"{who} has no cell state", f"noise.zoneout_c={noise.zoneout_c}", "zoneout_c=0", hint)
    if noise.candidate and cell.candidate is None:
        hint = "noise.hidden masks what is fed back"
        raise like.error(ArgumentError, f"{who} has no candidate", f"noise.candidate={noise.candidate}", "candidate=0", hint)
    if noise.hidden is not None:
        _check_kind("noise", "hidden", noise.hidden, like)
        if noise.hidden.shape != (size.B, size.R):
            raise _shape(
                "noise.hidden", noise.hidden, "[B, R]", (size.B, size.R), like, "one mask for each row, of the width of h"
            )


def _check_state(name: str, cell: Cell, state: Any, like: _Like, size: _Size) -> None:
    if not isinstance(state, State):
        hint = f"{name}=State(h, c)" if cell.has_cell else f"{name}=State(h)"
        raise like.error(DtypeError, f"{name} is not a State", f"{name}: {_name(state)}", "openlstm.reference.State", hint)
    if (state.c is not None) != cell.has_cell:
        who = type(cell).__name__
        if cell.has_cell:
            raise like.error(ArgumentError, f"{name} has no c", "c=None", f"h and c, the state of {who}", f"{name}=State(h, c)")
        got = f"{name}.c: {describe(state.c)}"
        raise like.error(ArgumentError, f"{name} has a c", got, f"h alone, the state of {who}", f"{name}=State(h)")
    members: list[Any] = [("h", state.h, size.R), ("c", state.c, layout.cell_size(cell, size.H))]
    reset_axes = getattr(state.h, "ndim", 0)  # h and c alike
    for letter, member, width in members[: 1 + cell.has_cell]:
        who = f"{name}.{letter}"
        _check_kind(name, letter, member, like)
        if name == "reset_state" and member.shape == (size.T, size.B, width) and member.ndim == reset_axes:
            continue
        if member.shape != (size.B, width):
            blocks = len(cell.feeds_back if letter == "h" else cell.states)
            width_letter = f"{blocks}*H" if blocks > 1 else "P" if width != size.H else "H"
            hint = f"one row for each of the {size.B} rows of x, {width} wide"
            if _swapped(member.shape, (size.T, width), size):
                hint = TIME_FIRST
            elif member.shape == (1, size.B, width):
                hint = f"drop the axis of layers: {who}[0]"
            raise _shape(who, member, f"[B, {width_letter}]", (size.B, width), like, hint)


def _check_lengths(lengths: Any, like: _Like, size: _Size) -> None:
    values = lengths if A.is_torch(lengths) else np.asarray(lengths)  # of either kind, on any device
    expected = f"integers [B] = [{size.B}]"
    integers = str(values.dtype).removeprefix("torch.").startswith(("int", "uint"))
    if not integers and math.prod(values.shape):
        hint = "lengths count steps: pass integers, one for each row"
        raise like.error(DtypeError, "lengths are not integers", f"lengths: {describe(lengths)}", expected, hint)
    if values.shape != (size.B,):
        hint = TIME_FIRST if _swapped(values.shape, (size.T,), size) else f"one length for each of the {size.B} rows of x"
        raise _shape("lengths", values, "[B]", (size.B,), like, hint)
    check_lengths_in_range(like.who, values, size.T, str(like))


def _check_reset(reset: Any, like: _Like, size: _Size) -> None:
    if not isinstance(reset, like.kind):
        raise _kind("reset", reset, like)
    kind = str(reset.dtype).removeprefix("torch.")
    if kind not in ("bool", "uint8") and not kind.startswith(("float", "bfloat")):
        got, expected = f"reset: {describe(reset)}", f"bool [T, B] = [{size.T}, {size.B}]"
        raise like.error(DtypeError, "reset is not a mask", got, expected, "compare first: reset != 0")
    if kind != "bool" and not bool(((reset == 0) | (reset == 1)).all()):
        got, hint = f"reset: {describe(reset)}", "compare first: reset > 0.5"
        raise like.error(ArgumentError, "reset holds more than 0 and 1", got, "0 and 1, or bool", hint)
    if reset.shape != (size.T, size.B):
        hint = "one flag for each step of each row"
        if _swapped(reset.shape, (size.B, size.T), size):
            hint = TIME_FIRST + "; reset is [T, B] too"
        raise _shape("reset", reset, "[T, B]", (size.T, size.B), like, hint)


def _check_kind(owner: str, field: str, a: Any, like: _Like) -> None:
    """The array `owner.field` is of the kind, dtype and device of the first one."""
    if isinstance(a, like.kind) and a.dtype == like.dtype and getattr(a, "device", None) == like.device:
        return
    name = f"{owner}.{field}"
    if not isinstance(a, like.kind):
        raise _kind(name, a, like)
    if a.dtype != like.dtype:
        dtype = str(like.dtype).removeprefix("torch.")
        how = f"{name}.to({like.dtype})" if A.is_torch(a) else f"{name}.astype(numpy.{dtype})"
        hint = f"all arrays of one call have one dtype; convert it: {how}"
        raise like.error(DtypeError, f"{name} is not {dtype}", f"{name}: {describe(a)}  ({like})", dtype, hint)
    hint = f"move it: {name}.to({str(like.device)!r})"
    got = f"{name}: {describe(a)} on {a.device}"
    raise like.error(ArgumentError, f"{name} is on {a.device}", got, f"on {like.device}, as {like.name}", hint)


def _kind(name: str, a: Any, like: _Like) -> OpenLSTMError:
    tensor = like.kind is not np.ndarray
    article = "a torch tensor" if tensor else "a numpy array"
    hint = f"convert it: torch.as_tensor({name})" if tensor else f"convert it: numpy.asarray({name})"
    if a is None:
        hint = f"pass {name}"
    got = f"{name}: {_name(a)}  ({like})"
    return like.error(DtypeError, f"{name} is not {article}, as {like.name} is", got, article, hint)


def _features(x: Array, expected: int, like: _Like) -> OpenLSTMError:
    T, B, got = x.shape
    if B == expected:
        hint = f"the second axis is {expected}: swap the last two axes"
    elif T == expected:
        hint = f"the first axis is {expected}: bring it to the end"
    else:
        hint = f"weights.w_ih takes {_count(expected, 'feature')}: pass x with as many, or weights for {got}"
    what = f"x has {_count(got, 'feature')}, expected {expected}"
    return like.error(ShapeError, what, f"x: {describe(x)}, [T, B, I]", f"[T, B, {expected}]", hint)


def _no_sums(cell: Cell, x: Array, rows: int, like: _Like) -> OpenLSTMError:
    what = f"without w_ih x is the sums of {_count(len(cell.gates), 'gate')}, {rows} numbers, and has {x.shape[2]}"
    hint = f"pass w_ih, or the sums of W x of the gates {', '.join(cell.gates)}, one gate after the other"
    return like.error(ShapeError, what, f"x: {describe(x)}, [T, B, {_rows(cell)}]", f"[T, B, {rows}]", hint)


def _swapped(shape: Any, if_swapped: tuple[int, ...], size: _Size) -> bool:
    """Whether a wrong shape would be right if time and batch were exchanged."""
    return size.T != size.B and tuple(shape) == if_swapped


def _shape(name: str, a: Array, letters: str, expected: tuple[int, ...], like: _Like, hint: str) -> OpenLSTMError:
    what = f"{name} has shape {list(a.shape)}, expected {list(expected)}"
    return like.error(ShapeError, what, f"{name}: {describe(a)}  ({like})", f"{letters} = {list(expected)}", hint)


def _rows(cell: Cell) -> str:
    blocks, m = len(cell.gates), cell.cells_per_gate
    return f"{blocks - 1}*H/{m} + H" if m > 1 else "H" if blocks == 1 else f"{blocks}*H"


def _axes(n: int) -> str:
    return "1 axis" if n == 1 else f"{n} axes"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _name(a: Any) -> str:
    if isinstance(a, type):
        return f"the class {a.__name__}"
    return "None" if a is None else describe(a)


def _cell_hint(cell: Any) -> str:
    if isinstance(cell, type) and issubclass(cell, Cell):
        return f"make one: cells.{cell.__name__}()"
    return "cell=openlstm.cells.LSTM()"
