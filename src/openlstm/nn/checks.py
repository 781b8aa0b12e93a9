"""What a layer accepts: every input form brought to one, and one error in the house form for everything else.

Nothing here reads values (that would break a compiled graph); checks of values live in `engine/op.py`.

Legend: T time, B batch, I input size, H hidden size, R what is fed back (P with a projection, else H), L layers, D directions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from openlstm import cells
from openlstm._errors import ArgumentError, DtypeError, ShapeError, describe, message
from openlstm.cells import Cell
from openlstm.reference import State


class Form(NamedTuple):
    """The form in which x came: with or without a batch axis, time first or batch first."""

    batched: bool
    batch_first: bool

    @staticmethod
    def of(layer: Any, x: Any) -> Form:
        """The form of `x`, which must be a tensor that fits the layer."""
        who = type(layer).__name__
        tensor(who, "x", x)
        if x.dim() not in (2, 3):
            expected = "[B, T, I], or [T, I] unbatched" if layer.batch_first else "[T, B, I], or [T, I] unbatched"
            hint = (
                f"x[..., None] adds a feature axis for I = {layer.input_size}"
                if x.dim() == 1
                else "flatten the extra axes into B or I"
            )
            raise ShapeError(message(who, f"x has {x.dim()} axes", f"x: {describe(x)}", expected, hint))
        form = Form(x.dim() == 3, layer.batch_first and x.dim() == 3)
        features(who, form, x, layer.input_size)
        return form

    @property
    def letters(self) -> str:
        """The axes of x."""
        return "[T, I]" if not self.batched else "[B, T, I]" if self.batch_first else "[T, B, I]"

    def enter(
        self, layer: Any, x: Tensor, hx: Any, lengths: Any, reset: Any, reset_state: Any
    ) -> tuple[Tensor, State | None, Tensor | None, Tensor | None, State | None]:
        """x [T, B, I], hx ([L*D, B, R], [L*D, B, H]), lengths [B], reset [T, B], reset_state like hx; all checked."""
        who = type(layer).__name__
        weight = layer.weights_of(0).w_ih
        x = same_kind(who, x, weight)
        known = _Known(who, self, x)
        if reset_state is not None and reset is None:
            raise ArgumentError(
                message(
                    who, "reset_state without reset", "reset: None", "both, or neither", "pass reset=, a bool tensor of steps"
                )
            )
        hx = None if hx is None else known.state(layer, "hx", hx)
        reset_state = None if reset_state is None else known.state(layer, "reset_state", reset_state)
        lengths = None if lengths is None else known.lengths(lengths)
        reset = None if reset is None else known.reset(reset)
        if not self.batched:
            x = x.unsqueeze(1)
        elif self.batch_first:
            x = x.transpose(0, 1)
        return x, hx, lengths, reset, reset_state

    def leave(self, y: Tensor) -> Tensor:
        """y [T, B, D*R] in the form of x."""
        return y.squeeze(1) if not self.batched else y.transpose(0, 1) if self.batch_first else y

    def leave_state(self, state: State) -> State:
        """The states [L*D, B, .] without a batch axis where x had none."""
        return state if self.batched else State(*(None if s is None else s.squeeze(1) for s in state))


class _Known(NamedTuple):
    """What x fixes about the other arguments."""

    who: str
    form: Form
    x: Tensor  # in the form in which it came

    @property
    def T(self) -> int:
        return self.x.shape[1] if self.form.batch_first else self.x.shape[0]

    @property
    def B(self) -> int:
        return 1 if not self.form.batched else self.x.shape[0] if self.form.batch_first else self.x.shape[1]

    @property
    def got_x(self) -> str:
        return f"x: {describe(self.x)}  (batch_first={self.form.batch_first}: {self.form.letters})"

    def hint(self, size: int, otherwise: str) -> str:
        """If `size` is the length of the time axis, then batch and time are swapped."""
        if self.form.batched and size == self.T and size != self.B:
            return f"batch and time are swapped: {size} is the time axis of x here; " + (
                "pass batch_first=False to the layer, or x.transpose(0, 1)"
                if self.form.batch_first
                else "pass batch_first=True to the layer, or x.transpose(0, 1)"
            )
        return otherwise

    def state(self, layer: Any, name: str, value: Any) -> State:
        """(h, c), or h alone for a cell without a highway, as `State` with a batch axis."""
        members = self.members(layer.cell, name, value)
        widths = (layer.proj_size or layer.hidden_size, layer.hidden_size)
        rows = layer.num_layers * layer.num_directions
        ready = [self.member(f"{name}: {n}", s, rows, w) for (n, s), w in zip(members, widths)]  # noqa: B905
        return State(*ready)

    def members(self, cell: Cell, name: str, value: Any) -> list[tuple[str, Any]]:
        if not cell.has_cell:
            tensor(self.who, name, value, hint=f"{self.who} has no cell state: pass h0 alone")
            return [("h", value)]
        if not isinstance(value, (tuple, list)) or len(value) != 2 or value[0] is None or value[1] is None:
            raise DtypeError(
                message(
                    self.who,
                    f"{name} is not a pair (h, c)",
                    f"{name}: {describe(value)}",
                    "(h [L*D, B, R], c [L*D, B, H])",
                    "pass both h and c; torch.zeros_like(h) where c begins at zero (without a projection)",
                )
            )
        for n, s in zip("hc", value, strict=True):
            tensor(self.who, f"{name}: {n}", s)
        return list(zip("hc", value, strict=True))

    def member(self, name: str, s: Tensor, rows: int, width: int) -> Tensor:
        expected = [rows, self.B, width] if self.form.batched else [rows, width]
        letters = f"{expected} = " + ("[L*D, B, {}]" if self.form.batched else "[L*D, {}]").format(
            "H" if "c" in name[-1] else "R"
        )
        if s.dim() != len(expected):
            what = f"{name} has {s.dim()} axes, x asks for {len(expected)}"
            hint = (
                "unbatched x takes states without a batch axis"
                if not self.form.batched
                else "states keep the axis of layers: h.unsqueeze(0)"
            )
        elif s.shape[0] != rows:
            what = f"{name} is for {s.shape[0]} layers and directions, expected {rows}"
            swapped = self.form.batched and s.shape[0] == self.B and s.shape[1] == rows
            hint = (
                "its first two axes are swapped; states are [L*D, B, .] also with batch_first"
                if swapped
                else "L*D is num_layers, twice that if bidirectional"
            )
        elif self.form.batched and s.shape[1] != self.B:
            what = f"{name} has {s.shape[1]} rows, x has {self.B}"
            hint = self.hint(s.shape[1], "give one state to each row of x")
        elif s.shape[-1] != width:
            what = f"{name} has {s.shape[-1]} units, expected {width}"
            hint = "h has proj_size units with a projection, c always hidden_size"
        else:
            kind(self.who, name, s, self.x)
            return s if self.form.batched else s.unsqueeze(1)
        raise ShapeError(message(self.who, what, f"{name}: {describe(s)}, {self.got_x}", letters, hint))

    def lengths(self, value: Any) -> Tensor:
        """Integers [B] on the device of x."""
        if not isinstance(value, Tensor):
            value = _listed(self.who, value)
        if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
            raise DtypeError(
                message(self.who, "lengths are not integers", f"lengths: {describe(value)}", "int64 [B]", "use lengths.long()")
            )
        wanted = (self.B,) if self.form.batched else ()
        if tuple(value.shape) != wanted:
            n = value.shape[0] if value.dim() == 1 else -1
            what = f"lengths has shape {list(value.shape)}, x has {self.B} rows"
            hint = self.hint(n, "give one length to each row of x")
            if not self.form.batched:
                hint = "unbatched x takes one number"
            raise ShapeError(
                message(
                    self.who,
                    what,
                    f"lengths: {describe(value)}, {self.got_x}",
                    f"{list(wanted)}" + " = [B]" * len(wanted),
                    hint,
                )
            )
        return value.to(self.x.device, torch.int64).reshape(self.B)

    def reset(self, value: Any) -> Tensor:
        """bool [T, B]."""
        tensor(self.who, "reset", value)
        if value.dtype != torch.bool:
            raise DtypeError(
                message(
                    self.who,
                    "reset is not bool",
                    f"reset: {describe(value)}",
                    "bool, true where a new sequence begins",
                    "use reset.bool()",
                )
            )
        wanted = tuple(self.x.shape[:-1])
        letters = self.form.letters.replace(", I", "")
        if tuple(value.shape) != wanted:
            if self.form.batched and tuple(value.shape) == wanted[::-1]:
                hint = f"batch and time are swapped: reset follows batch_first like x, here {letters}; use reset.T"
            elif value.dim() != len(wanted):
                hint = "reset has one value for each step of each row: the axes of x without the last"
            else:
                hint = "give one value to each step of each row"
            what = f"reset has shape {list(value.shape)}, x has {list(wanted)}"
            raise ShapeError(
                message(self.who, what, f"reset: {describe(value)}, {self.got_x}", f"{list(wanted)} = {letters}", hint)
            )
        if not self.form.batched:
            return value.unsqueeze(1).to(self.x.device)
        return (value.transpose(0, 1) if self.form.batch_first else value).to(self.x.device)


def _listed(who: str, value: Any) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise DtypeError(
            message(
                who,
                "lengths are not integers",
                f"lengths: {describe(value)}",
                "int64 [B]",
                "pass a list of integers or a tensor",
            )
        ) from None


def tensor(who: str, name: str, value: Any, hint: str | None = None) -> None:
    """`value` must be a torch tensor."""
    if not isinstance(value, Tensor):
        fix = hint or f"use torch.as_tensor({name.split()[-1]})"
        raise DtypeError(message(who, f"{name} is not a tensor", f"{name}: {describe(value)}", "a torch.Tensor", fix))


def features(who: str, form: Form, x: Tensor, input_size: int) -> None:
    """The last axis of x must be I."""
    n = x.shape[-1]
    if n == input_size:
        return
    wanted = [*x.shape[:-1], input_size]
    hint = f"make the layer with input_size={n}, or give x {input_size} features"
    if x.shape[-2] == input_size:
        axis = "first" if x.dim() == 2 else "second"
        wanted = [*x.shape[:-2], n, input_size]
        hint = f"the {axis} axis is {input_size}: swap the last two axes, or check batch_first"
    names = form.letters[1:-1].split(", ")
    expected = ", ".join(name if name != "I" else str(size) for name, size in zip(names, wanted, strict=True))
    got = f"x: {describe(x)}  (batch_first={form.batch_first}: {form.letters})"
    raise ShapeError(message(who, f"x has {n} features, expected {input_size}", got, f"[{expected}]", hint))


def same_kind(who: str, x: Tensor, weight: Tensor) -> Tensor:
    """x with the dtype of the weights, which it must already have (except under autocast, as in torch.nn)."""
    if x.dtype == weight.dtype and x.device == weight.device:
        return x
    if x.is_floating_point() and x.dtype != weight.dtype and torch.is_autocast_enabled(x.device.type):
        return same_kind(who, x.to(weight.dtype), weight)
    name = str(weight.dtype).removeprefix("torch.")
    got = f"x: {describe(x)} on {x.device}"
    if x.dtype != weight.dtype:
        hint = f"use x.to(torch.{name})"
        if x.is_floating_point():
            hint += f", or layer.to({x.dtype})"
        else:
            hint += "; tokens need an embedding or one_hot first"
        raise DtypeError(message(who, f"x is {describe(x).split('[')[0]}, the weights are {name}", got, name, hint))
    raise ArgumentError(
        message(who, "x and the weights are on different devices", got, str(weight.device), f"use x.to({str(weight.device)!r})")
    )


def kind(who: str, name: str, value: Tensor, x: Tensor) -> None:
    """`value` must have the dtype and device of x."""
    if value.dtype == x.dtype and value.device == x.device:
        return
    wanted = f"{str(x.dtype).removeprefix('torch.')} on {x.device}"
    short = name.split()[-1]
    raise DtypeError(
        message(
            who, f"{name} is not of the kind of x", f"{name}: {describe(value)} on {value.device}", wanted, f"use {short}.to(x)"
        )
    )


def no_lengths(who: str, lengths: Any) -> None:
    """A PackedSequence already says how long its rows are."""
    if lengths is not None:
        raise ArgumentError(
            message(
                who,
                "lengths with a PackedSequence",
                f"lengths: {describe(lengths)}",
                "one of the two",
                "leave lengths out, or pass the padded tensor",
            )
        )


def sizes(who: str, input_size: Any, hidden_size: Any, num_layers: Any, proj_size: Any) -> None:
    """Constructor arguments that count something."""
    for name, value, least in (
        ("input_size", input_size, 1),
        ("hidden_size", hidden_size, 1),
        ("num_layers", num_layers, 1),
        ("proj_size", proj_size, 0),
    ):
        if not isinstance(value, int) or isinstance(value, bool):
            raise DtypeError(
                message(
                    who,
                    f"{name} is not an integer",
                    f"{name}: {describe(value)}",
                    f"an integer >= {least}",
                    f"use {name}=int(...)",
                )
            )
        if value < least:
            raise ArgumentError(
                message(who, f"{name} is {value}", f"{name}: {value}", f"an integer >= {least}", f"raise {name}")
            )
    if proj_size >= hidden_size:
        raise ArgumentError(
            message(
                who,
                f"proj_size is {proj_size}, hidden_size is {hidden_size}",
                f"proj_size: {proj_size}",
                "proj_size < hidden_size, 0 for no projection",
                "lower proj_size or raise hidden_size",
            )
        )


def flags(who: str, **named: Any) -> None:
    """Constructor arguments that are true or false."""
    for name, value in named.items():
        if not isinstance(value, bool):
            raise DtypeError(
                message(who, f"{name} is not a bool", f"{name}: {describe(value)}", "True or False", f"use {name}=bool(...)")
            )


def rate(who: str, dropout: Any) -> None:
    """A probability."""
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout <= 1:
        raise ArgumentError(
            message(
                who,
                f"dropout is {dropout!r}",
                f"dropout: {describe(dropout)}",
                "a number from 0 to 1",
                "it is the share of outputs set to zero",
            )
        )


def cell_of(who: str, cell: Any, has_cell: bool) -> None:
    """A cell that this layer can run."""
    if cell is None or (isinstance(cell, Cell) and cell in cells.ALL and cell.has_cell == has_cell):
        return
    usable = ", ".join(repr(c) for c in cells.ALL if c.has_cell == has_cell)
    raise ArgumentError(
        message(
            who,
            f"cannot run the cell {cell!r}",
            f"cell: {describe(cell)}",
            usable,
            "openlstm.RNN runs cells without a cell state",
        )
    )
