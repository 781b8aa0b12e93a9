"""Do `Weights` fit their cell, and each other? One error for each way in which they do not.

Legend: I input size, H hidden size, P projected size, R what is fed back, K columns of w_hh, G gates of a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openlstm import weights as layout
from openlstm._array import Array
from openlstm.cells import Cell, check_traits
from openlstm.engine.like import Like, check_first, check_kind, count, name_of, rows_of, wrong_shape
from openlstm.errors import ArgumentError, DtypeError, OpenLSTMError, ShapeError, describe
from openlstm.reference import Weights


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
            raise no_weights(who, name, w)
        if like is None:
            field, columns = ("w_hh", "K") if w.w_ih is None else ("w_ih", "I")
            like = check_first(who, f"{name}.{field}", getattr(w, field), f"[{rows_of(cell)}, {columns}]")
        hidden, fed_back = check_weights(name, cell, w, like)
        w_ih: Any = w.w_ih
        if n and w_ih is None:
            got, hint = f"{name}.w_ih=None", "only the first layer can be given its sums"
            raise like.error(ArgumentError, f"{name} has no w_ih", got, f"[{rows_of(cell)}, {below}]", hint)
        if n and w_ih.shape[1] != below:
            expected, hint = (w_ih.shape[0], below), f"the layer below puts out {count(below, 'number')} a row"
            raise wrong_shape(f"{name}.w_ih", w_ih, f"[{rows_of(cell)}, {below}]", expected, like, hint)
        below = hidden if len(cell.feeds_back) > 1 else fed_back


def check_weights(name: str, cell: Cell, w: Any, like: Like) -> tuple[int, int]:
    """H and R of weights that fit the cell, whatever I is."""
    if not isinstance(w, Weights):
        raise no_weights(like.who, name, w)
    if not cell.kernel:
        check_traits(cell)
    m, who, sums = cell.cells_per_gate, type(cell).__name__, w.w_ih is None
    unit = len(cell.gates) if m == 1 else sum(layout.gate_rows(cell, m))  # rows of m cells, which share their gates
    if not sums:
        check_kind(name, "w_ih", w.w_ih, like)
    elif m > 1:
        got, hint = f"{name}.w_ih=None, cells_per_gate={m}", "take cells_per_gate=1"
        raise like.error(ArgumentError, f"{who} has no sums to be given: cells share their gates", got, "w_ih [G*H, I]", hint)
    check_kind(name, "w_hh", w.w_hh, like)
    decides, first = ("w_hh", w.w_hh) if sums else ("w_ih", w.w_ih)
    rows = first.shape[0] if first.ndim == 2 else -1
    if rows < 0 or rows % unit:
        gates = ", ".join(cell.gates)
        blocks = count(len(cell.gates), "block")
        hint = f"{type(cell).__name__} has {blocks} of H rows ({gates}); is this the weight of another cell?"
        if m > 1:
            hint = f"every {m} cells share their gates, which have H/{m} rows each, g has H ({gates}); is H a multiple of {m}?"
        got, columns = f"{name}.{decides}: {describe(first)}", "K" if sums else "I"
        raise like.error(ShapeError, f"{name}.{decides} does not fit {who}", got, f"[{rows_of(cell)}, {columns}]", hint)
    hidden = rows // unit * m
    layout.check_recurrence(cell, hidden, 0 if w.w_hr is None else 1)
    if w.w_hr is not None:
        check_kind(name, "w_hr", w.w_hr, like)
        if w.w_hr.ndim != 2 or w.w_hr.shape[1] != hidden:
            p = w.w_hr.shape[0] if w.w_hr.ndim else 0
            hint = "w_hr maps h' of the cell, H wide, to what is fed back"
            raise wrong_shape(f"{name}.w_hr", w.w_hr, "[P, H]", (p, hidden), like, hint)
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
            hint = f"a unit sees the h of its own head alone, {count(columns, 'unit')}"
            others = {"none": "h enters no sum: w_hh is empty", "elementwise": "a unit sees itself alone, by one weight a gate"}
            hint = others.get(cell.recurrence, hint)
        raise wrong_shape(f"{name}.w_hh", w.w_hh, f"[{rows_of(cell)}, {letter}]", (rows, columns), like, hint)
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
            check_kind(name, field, b, like)
            if b.shape != (rows,):
                hint = f"take the bias from the same layer as {decides}"
                raise wrong_shape(f"{name}.{field}", b, f"[{rows_of(cell)}]", (rows,), like, hint)
    _check_peepholes(name, cell, w.w_ch, hidden, like)
    _check_norm(name, cell, w.norm, hidden, like)
    return hidden, fed_back


def no_weights(who: str, name: str, w: Any) -> OpenLSTMError:
    """What was passed instead of `Weights`."""
    hint = "openlstm.weights.collect(state_dict) or Weights(w_ih, w_hh, b_ih, b_hh)"
    return DtypeError.of(who, f"{name} is not Weights", f"{name}: {name_of(w)}", "openlstm.Weights", hint)


def _check_projection(name: str, cell: Cell, w_hr: Array, like: Like) -> None:
    if len(cell.feeds_back) > 1:
        hint = "leave w_hr out, or take cells.Peephole(), which feeds back its output alone"
        what = f"{type(cell).__name__} feeds its gates back and cannot be projected"
        raise like.error(ArgumentError, what, f"{name}.w_hr: {describe(w_hr)}", "w_hr=None", hint)
    if cell.kernel == "gru" and not cell.has_cell:
        hint = "cells.GRU(memory=True) carries the state that the update gate keeps beside its projection"
        got = f"{name}.w_hr: {describe(w_hr)}, {type(cell).__name__}()"
        raise like.error(ArgumentError, "a projected GRU needs its state as a cell", got, "GRU(memory=True)", hint)


def _check_peepholes(name: str, cell: Cell, w_ch: Any, hidden: int, like: Like) -> None:
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
    check_kind(name, "w_ch", w_ch, like)
    if w_ch.shape != (n * hidden,):
        raise wrong_shape(f"{name}.w_ch", w_ch, f"[{n}*H]", (n * hidden,), like, hint)


def _check_norm(name: str, cell: Cell, norm: Any, hidden: int, like: Like) -> None:
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
    check_kind(name, "norm", norm, like)
    if norm.shape != (n,):
        raise wrong_shape(f"{name}.norm", norm, letters, (n,), like, hint)
