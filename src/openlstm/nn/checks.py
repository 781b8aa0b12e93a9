"""What a layer is made of and what it is given: one error in the house form for everything that does not fit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from openlstm import cells
from openlstm._errors import ArgumentError, DtypeError, describe, message
from openlstm.cells import Cell


def tensor(who: str, name: str, value: Any, hint: str = "use torch.as_tensor") -> None:
    """`value` must be a torch tensor."""
    if not isinstance(value, Tensor):
        short = name.split(",")[0]
        raise DtypeError(message(who, f"{name} is not a tensor", f"{short}: {describe(value)}", "a torch.Tensor", hint))


def same_as_weights(who: str, x: Tensor, weight: Tensor) -> Tensor:
    """`x`, which must have the dtype and device of the weights; under autocast it is converted, as by torch.nn."""
    if x.dtype == weight.dtype and x.device == weight.device:
        return x
    if x.is_floating_point() and x.dtype != weight.dtype and torch.is_autocast_enabled(x.device.type):
        return same_as_weights(who, x.to(weight.dtype), weight)
    if x.dtype != weight.dtype:
        name, mine = (str(dtype).removeprefix("torch.") for dtype in (weight.dtype, x.dtype))
        other = f"layer.to({x.dtype})" if x.is_floating_point() else "an embedding or one_hot where x holds tokens"
        hint = f"use x.to({weight.dtype}), or {other}"
        raise DtypeError(message(who, f"x is {mine}, the weights are {name}", f"x: {describe(x)}", name, hint))
    got, hint = f"x: {describe(x)} on {x.device}", f"use x.to({str(weight.device)!r}), or layer.to({str(x.device)!r})"
    raise ArgumentError(message(who, "x and the weights are on different devices", got, str(weight.device), hint))


def same_as_x(who: str, name: str, value: Tensor, x: Tensor) -> None:
    """`value` must have the dtype and device of x."""
    if value.dtype == x.dtype and value.device == x.device:
        return
    short = name.split(",")[0]
    got = f"{short}: {describe(value)} on {value.device}, x: {describe(x)} on {x.device}"
    expected = f"{str(x.dtype).removeprefix('torch.')} on {x.device}"
    raise DtypeError(message(who, f"{name} differs from x in dtype or device", got, expected, f"use {short}.to(x)"))


def no_lengths(who: str, lengths: Any) -> None:
    """A PackedSequence already says how long its rows are."""
    if lengths is not None:
        what, hint = "lengths with a PackedSequence", "leave lengths out, or pass the padded tensor"
        raise ArgumentError(message(who, what, f"lengths: {describe(lengths)}", "one of the two", hint))


def sizes(who: str, input_size: Any, hidden_size: Any, num_layers: Any = 1, proj_size: Any = 0) -> None:
    """Constructor arguments that count something."""
    least = {"input_size": 1, "hidden_size": 1, "num_layers": 1, "proj_size": 0}
    for (name, lowest), value in zip(least.items(), (input_size, hidden_size, num_layers, proj_size), strict=True):
        got, expected = f"{name}: {describe(value)}", f"an integer >= {lowest}"
        if not isinstance(value, int) or isinstance(value, bool):
            raise DtypeError(message(who, f"{name} is not an integer", got, expected, f"use {name}=int(...)"))
        if value < lowest:
            raise ArgumentError(message(who, f"{name} is {value}", got, expected, f"use {name}={lowest} or more"))
    if proj_size >= hidden_size:
        what, got = f"proj_size is {proj_size}, hidden_size is {hidden_size}", f"proj_size: {proj_size}"
        raise ArgumentError(message(who, what, got, "proj_size < hidden_size", "use proj_size=0 for no projection"))


def flags(who: str, **named: Any) -> None:
    """Constructor arguments that are true or false."""
    for name, value in named.items():
        if not isinstance(value, bool):
            got = f"{name}: {describe(value)}"
            raise DtypeError(message(who, f"{name} is not a bool", got, "True or False", f"use {name}=bool(...)"))


def rate(who: str, dropout: Any) -> None:
    """A probability."""
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout <= 1:
        got, hint = f"dropout: {describe(dropout)}", "it is the share of outputs that is set to zero: 0.2 for one in five"
        raise ArgumentError(message(who, f"dropout is {dropout!r}", got, "a number from 0 to 1", hint))


def cell(who: str, value: Any) -> None:
    """A cell with a cell state that this package ships."""
    usable = [c for c in cells.ALL if c.has_cell]
    if not (isinstance(value, Cell) and value in usable):
        got, hint = f"cell: {describe(value)}", "openlstm.RNN runs the cells without a cell state"
        raise ArgumentError(message(who, "cannot run this cell", got, ", ".join(map(repr, usable)), hint))
