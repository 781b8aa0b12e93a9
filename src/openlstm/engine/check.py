"""Are the arguments of `recur` of one kind and of fitting sizes? One error each, before any memory is read.

Legend: T time, B batch, I input size, H hidden size, P projected size, R what is fed back (P with a projection, else H; for
FGR the gates too), G gates of a cell. The good case costs a few microseconds; sentences are made only for the bad one.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from openlstm import _array as A
from openlstm import weights as layout
from openlstm._array import Array
from openlstm.call import Call
from openlstm.cells import Cell
from openlstm.engine.check_weights import check_weights
from openlstm.engine.like import Like, axes, check_first, check_kind, count, name_of, rows_of, wrong_kind, wrong_shape
from openlstm.errors import ArgumentError, DtypeError, OpenLSTMError, ShapeError, describe
from openlstm.noise import Noise
from openlstm.reference import State

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
    >>> from openlstm import Weights
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
        got = f"cell: {name_of(cell)}"
        raise DtypeError.of(who, "cell is not a cell", got, "one of openlstm.cells", _cell_hint(cell))
    like = _check_x(who, x)
    hidden, fed_back = check_weights("weights", cell, weights, like)
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
    what, got = f"lengths[{row}] is {bad}, but x has {count(T, 'step')}", f"lengths[{row}] = {bad}  ({shown or f'T = {T}'})"
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


class _Size(NamedTuple):
    T: int
    B: int
    H: int
    R: int


def _check_x(who: str, x: Any) -> Like:
    like = check_first(who, "x", x, "[T, B, I]")
    if x.ndim != 3:
        hint = "add the batch axis: x[:, None, :]" if x.ndim == 2 else "bring x to three axes: time, batch, features"
        raise like.error(ShapeError, f"x has {axes(x.ndim)}, expected 3", f"x: {describe(x)}", "[T, B, I]", hint)
    return like


def _check_noise(cell: Cell, noise: Any, like: Like, size: _Size) -> None:
    if not isinstance(noise, Noise):
        raise like.error(
            DtypeError, "noise is not Noise", f"noise: {name_of(noise)}", "openlstm.noise.Noise", "Noise(zoneout_h=0.1, seed=1)"
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
        check_kind("noise", "hidden", noise.hidden, like)
        if noise.hidden.shape != (size.B, size.R):
            raise wrong_shape(
                "noise.hidden", noise.hidden, "[B, R]", (size.B, size.R), like, "one mask for each row, of the width of h"
            )


def _check_state(name: str, cell: Cell, state: Any, like: Like, size: _Size) -> None:
    if not isinstance(state, State):
        hint = f"{name}=State(h, c)" if cell.has_cell else f"{name}=State(h)"
        raise like.error(DtypeError, f"{name} is not a State", f"{name}: {name_of(state)}", "openlstm.reference.State", hint)
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
        check_kind(name, letter, member, like)
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
            raise wrong_shape(who, member, f"[B, {width_letter}]", (size.B, width), like, hint)


def _check_lengths(lengths: Any, like: Like, size: _Size) -> None:
    values = lengths if A.is_torch(lengths) else np.asarray(lengths)  # of either kind, on any device
    expected = f"integers [B] = [{size.B}]"
    integers = str(values.dtype).removeprefix("torch.").startswith(("int", "uint"))
    if not integers and math.prod(values.shape):
        hint = "lengths count steps: pass integers, one for each row"
        raise like.error(DtypeError, "lengths are not integers", f"lengths: {describe(lengths)}", expected, hint)
    if values.shape != (size.B,):
        hint = TIME_FIRST if _swapped(values.shape, (size.T,), size) else f"one length for each of the {size.B} rows of x"
        raise wrong_shape("lengths", values, "[B]", (size.B,), like, hint)
    check_lengths_in_range(like.who, values, size.T, str(like))


def _check_reset(reset: Any, like: Like, size: _Size) -> None:
    if not isinstance(reset, like.kind):
        raise wrong_kind("reset", reset, like)
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
        raise wrong_shape("reset", reset, "[T, B]", (size.T, size.B), like, hint)


def _features(x: Array, expected: int, like: Like) -> OpenLSTMError:
    T, B, got = x.shape
    if B == expected:
        hint = f"the second axis is {expected}: swap the last two axes"
    elif T == expected:
        hint = f"the first axis is {expected}: bring it to the end"
    else:
        hint = f"weights.w_ih takes {count(expected, 'feature')}: pass x with as many, or weights for {got}"
    what = f"x has {count(got, 'feature')}, expected {expected}"
    return like.error(ShapeError, what, f"x: {describe(x)}, [T, B, I]", f"[T, B, {expected}]", hint)


def _no_sums(cell: Cell, x: Array, rows: int, like: Like) -> OpenLSTMError:
    what = f"without w_ih x is the sums of {count(len(cell.gates), 'gate')}, {rows} numbers, and has {x.shape[2]}"
    hint = f"pass w_ih, or the sums of W x of the gates {', '.join(cell.gates)}, one gate after the other"
    return like.error(ShapeError, what, f"x: {describe(x)}, [T, B, {rows_of(cell)}]", f"[T, B, {rows}]", hint)


def _swapped(shape: Any, if_swapped: tuple[int, ...], size: _Size) -> bool:
    """Whether a wrong shape would be right if time and batch were exchanged."""
    return size.T != size.B and tuple(shape) == if_swapped


def _cell_hint(cell: Any) -> str:
    if isinstance(cell, type) and issubclass(cell, Cell):
        return f"make one: cells.{cell.__name__}()"
    return "cell=openlstm.cells.LSTM()"
