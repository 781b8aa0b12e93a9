"""What a layer is made of and what it is given: one error in the house form for everything that does not fit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from openlstm.cells import Cell
from openlstm.engine.backends.table import brief
from openlstm.errors import ArgumentError, DtypeError, describe


def tensor(who: str, name: str, value: Any, hint: str = "use torch.as_tensor") -> None:
    """`value` must be a torch tensor."""
    if not isinstance(value, Tensor):
        short = name.split(",")[0]
        raise DtypeError.of(who, f"{name} is not a tensor", f"{short}: {describe(value)}", "a torch.Tensor", hint)


def same_as_weights(who: str, x: Tensor, weight: Tensor) -> Tensor:
    """`x`, which must have the dtype and device of the weights; under autocast it is converted, as by torch.nn."""
    if x.dtype == weight.dtype and x.device == weight.device:
        dtype(who, x.dtype, f"x: {describe(x)}")
        return x
    if x.is_floating_point() and x.dtype != weight.dtype and torch.is_autocast_enabled(x.device.type):
        return same_as_weights(who, x.to(weight.dtype), weight)
    if x.dtype != weight.dtype:
        name, mine = (str(dtype).removeprefix("torch.") for dtype in (weight.dtype, x.dtype))
        other = f"layer.to({x.dtype})" if x.is_floating_point() else "an embedding or one_hot where x holds tokens"
        hint = f"use x.to({weight.dtype}), or {other}"
        raise DtypeError.of(who, f"x is {mine}, the weights are {name}", f"x: {describe(x)}", name, hint)
    got, hint = f"x: {describe(x)} on {x.device}", f"use x.to({str(weight.device)!r}), or layer.to({str(x.device)!r})"
    raise ArgumentError.of(who, "x and the weights are on different devices", got, str(weight.device), hint)


def dtype(who: str, given: Any, got: str) -> None:
    """`given` must be a type that the layers run: the types that torch.nn's have."""
    if given not in _RUN:
        name = str(given).removeprefix("torch.")
        expected = "float32, float64, bfloat16 or float16"
        hint = "use layer.float() and x.float(); under torch.autocast products are made in bfloat16"
        raise DtypeError.of(who, f"nothing computes in {name}", got, expected, hint)


_RUN = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def same_as_x(who: str, name: str, value: Tensor, x: Tensor) -> Tensor:
    """`value`, which must have the dtype and device of x; under autocast it is converted, as by torch.nn."""
    if value.dtype == x.dtype and value.device == x.device:
        return value
    if value.is_floating_point() and value.dtype != x.dtype and torch.is_autocast_enabled(value.device.type):
        return same_as_x(who, name, value.to(x.dtype), x)
    short = name.split(",")[0]
    got = f"{short}: {describe(value)} on {value.device}, x: {describe(x)} on {x.device}"
    expected, hint = f"{str(x.dtype).removeprefix('torch.')} on {x.device}", f"use {short}.to(x)"
    if x.dtype == torch.bfloat16 and value.dtype == torch.float32:
        hint += "; a layer in float32 under torch.autocast multiplies in bfloat16 and keeps its states in float32"
    raise DtypeError.of(who, f"{name} differs from x in dtype or device", got, expected, hint)


def no_lengths(who: str, lengths: Any, cu_seqlens: Any = None) -> None:
    """A PackedSequence already says how long its rows are."""
    for name, value, form in (("lengths", lengths, "padded"), ("cu_seqlens", cu_seqlens, "packed")):
        if value is not None:
            what, hint = f"{name} with a PackedSequence", f"leave {name} out, or pass the {form} tensor"
            raise ArgumentError.of(who, what, f"{name}: {describe(value)}", "one of the two", hint)


def checkpoint(who: str, every: Any) -> None:
    """A number of steps, or None to keep everything."""
    if every is None or (isinstance(every, int) and not isinstance(every, bool) and every >= 1):
        return
    what, hint = f"checkpoint={every!r} is not a number of steps", "about sqrt(T) keeps least; leave it out to keep every step"
    raise ArgumentError.of(who, what, f"checkpoint={every!r}", "None, or a whole number from 1 to T", hint)


def sizes(
    who: str, input_size: Any, hidden_size: Any, num_layers: Any = 1, proj_size: Any = 0, *, lowest_size: int = 1
) -> None:
    """Constructor arguments that count something."""
    least = {"input_size": lowest_size, "hidden_size": lowest_size, "num_layers": 1, "proj_size": 0}
    for (name, lowest), value in zip(least.items(), (input_size, hidden_size, num_layers, proj_size), strict=True):
        got, expected = f"{name}: {describe(value)}", f"an integer >= {lowest}"
        if not isinstance(value, int) or isinstance(value, bool):
            raise DtypeError.of(who, f"{name} is not an integer", got, expected, f"use {name}=int(...)")
        if value < lowest:
            raise ArgumentError.of(who, f"{name} is {value}", got, expected, f"use {name}={lowest} or more")
    if proj_size and proj_size >= hidden_size:
        what, got = f"proj_size is {proj_size}, hidden_size is {hidden_size}", f"proj_size: {proj_size}"
        raise ArgumentError.of(who, what, got, "proj_size < hidden_size", "use proj_size=0 for no projection")


def flags(who: str, **named: Any) -> None:
    """Constructor arguments that are true or false."""
    for name, value in named.items():
        if not isinstance(value, bool):
            got = f"{name}: {describe(value)}"
            raise DtypeError.of(who, f"{name} is not a bool", got, "True or False", f"use {name}=bool(...)")


def rate(who: str, name: str, value: Any) -> None:
    """A probability."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        meaning = "units that keep their old value" if name.startswith("zoneout") else "outputs that is set to zero"
        meaning = "weights that is set to zero" if name == "weight_dropout" else meaning
        got, hint = f"{name}: {describe(value)}", f"it is the share of {meaning}: 0.2 for one in five"
        raise ArgumentError.of(who, f"{name} is {value!r}", got, "a number from 0 to 1", hint)


def noise(who: str, cell: Cell, given: dict[str, Any]) -> None:
    """The regularisers of the recurrence, and whether the cell has what they act on."""
    for name, value in given.items():
        if name.startswith("zoneout") or name.endswith("_dropout"):
            rate(who, name, value)
    if given["zoneout_c"] and not cell.has_cell:
        got, hint = (
            f"zoneout_c: {given['zoneout_c']}, cell: {brief(cell)}",
            "use zoneout_h, which acts on the state that it has",
        )
        raise ArgumentError.of(who, "zoneout_c without a cell state", got, "zoneout_c=0", hint)
    for name in ("hidden_dropout", "weight_dropout"):
        if given[name] and cell.recurrence == "none":
            got, hint = (
                f"{name}: {given[name]}, cell: {brief(cell)}",
                "use input_dropout, or recurrent_dropout on the candidate",
            )
            raise ArgumentError.of(who, f"{name} without a product with h", got, f"{name}=0", hint)
    if given["recurrent_dropout"] and cell.candidate is None:
        got = f"recurrent_dropout: {given['recurrent_dropout']}, cell: {brief(cell)}"
        hint = "use hidden_dropout, which acts on what is fed back"
        raise ArgumentError.of(who, "recurrent_dropout without a candidate", got, "recurrent_dropout=0", hint)


def sums(who: str, cell: Cell, input_size: int, hidden_size: int) -> None:
    """A layer whose first layer is given the sums of its gates, so that it has no weight_ih."""
    gates, m = len(cell.gates), cell.cells_per_gate
    if m > 1:
        got, hint = f"cell: {brief(cell)}", "take cells_per_gate=1, or give every gate the sums of its own"
        raise ArgumentError.of(who, "input_projection=False with gates that cells share", got, "cells_per_gate=1", hint)
    if input_size != gates * hidden_size:
        what = f"input_projection=False needs the sums of {gates} gates of {hidden_size} units, input_size is {input_size}"
        expected = f"input_size={gates * hidden_size}: gates * hidden_size"
        hint = f"x holds what W_ih x would be, gate by gate in the order {', '.join(cell.gates)}"
        raise ArgumentError.of(who, what, f"input_size={input_size}", expected, hint)


def cell(who: str, value: Any, has_cell: bool) -> None:
    """A cell whose state is the one that the layer hands out: (h, c) or h alone."""
    expected = "a cell with a cell state" if has_cell else "a cell without a cell state"
    if not isinstance(value, Cell):
        got, hint = f"cell: {describe(value)}", "use one of openlstm.cells, or a subclass of openlstm.cells.Cell"
        if isinstance(value, type) and issubclass(value, Cell):
            got, hint = f"cell: the class {value.__name__}", f"make one: {value.__name__}()"
        raise DtypeError.of(who, "cell is not a cell", got, expected, hint)
    if value.has_cell != has_cell:
        hint = "openlstm.RNN runs the cells without a cell state" if has_cell else "openlstm.LSTM runs the cells with one"
        raise ArgumentError.of(who, "cannot run this cell", f"cell: {brief(value)}", expected, hint)
