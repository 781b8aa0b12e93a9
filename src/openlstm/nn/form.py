"""Every input form of a layer brought to one, and one error in the house form for what does not fit.

Nothing here reads values (that would break a compiled graph); checks of values live in `engine/op.py`.

Legend: T time, B batch, I input size, H hidden size, R what is fed back (P with a projection, else H), L layers, D directions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from openlstm._errors import ArgumentError, DtypeError, ShapeError, describe, message
from openlstm.nn.checks import same_as_weights, same_as_x, tensor
from openlstm.reference import State


class Arguments(NamedTuple):
    """The arguments of a call in the one form that layers run."""

    x: Tensor  # [T, B, I]
    hx: State | None  # h [L*D, B, R], c [L*D, B, H]
    lengths: Tensor | None  # int64 [B]
    reset: Tensor | None  # bool [T, B]
    reset_state: State | None  # as hx


class Form(NamedTuple):
    """The form in which x came: with or without a batch axis, time first or batch first."""

    batched: bool
    batch_first: bool

    @staticmethod
    def of(layer: Any, x: Any) -> Form:
        """The form of `x`, which must be a tensor of two or three axes."""
        who = type(layer).__name__
        tensor(who, "x", x)
        if x.dim() not in (2, 3):
            expected = f"{'[B, T, I]' if layer.batch_first else '[T, B, I]'}, or [T, I] unbatched"
            hint = "use x[..., None] for one feature a step" if x.dim() == 1 else "flatten the extra axes into B or I"
            what = f"x has {x.dim()} {'axis' if x.dim() == 1 else 'axes'}"
            raise ShapeError(message(who, what, f"x: {describe(x)}", expected, hint))
        return Form(x.dim() == 3, layer.batch_first and x.dim() == 3)

    @property
    def letters(self) -> str:
        """The axes of x."""
        return "[T, I]" if not self.batched else "[B, T, I]" if self.batch_first else "[T, B, I]"

    def enter(self, layer: Any, x: Tensor, hx: Any, lengths: Any, reset: Any, reset_state: Any) -> Arguments:
        """The arguments of a call, all checked.

        Raises:
            ShapeError, DtypeError, ArgumentError: where one does not fit.
        """
        who = type(layer).__name__
        _features(who, self, x, layer.input_size)
        x = same_as_weights(who, x, layer.weights_of(0).w_ih)
        known = _Known(who, self, x)
        if reset_state is not None and reset is None:
            what, hint = "reset_state without reset", "pass reset=, a bool tensor that is true where a state begins anew"
            raise ArgumentError(message(who, what, "reset: None", "both, or neither", hint))
        return Arguments(
            x.unsqueeze(1) if not self.batched else x.transpose(0, 1) if self.batch_first else x,
            None if hx is None else known.state(layer, "hx", hx),
            None if lengths is None else known.lengths(lengths),
            None if reset is None else known.reset(reset),
            None if reset_state is None else known.state(layer, "reset_state", reset_state),
        )

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
    def sizes(self) -> tuple[int, int]:
        """T and B."""
        first, *rest = self.x.shape[:-1]
        if not rest:
            return first, 1
        return (rest[0], first) if self.form.batch_first else (first, rest[0])

    def state(self, layer: Any, name: str, value: Any) -> State:
        """(h, c), or h alone for a cell without a highway, as `State` with a batch axis."""
        rows = layer.num_layers * layer.num_directions
        if not layer.cell.has_cell:
            tensor(self.who, name, value, f"{self.who} has no cell state: pass h alone, a tensor")
            return State(self.member(name, "R", value, rows, layer.hidden_size))
        pair = isinstance(value, (tuple, list)) and len(value) == 2 and value[0] is not None and value[1] is not None
        if not pair:
            hint = "pass both; torch.zeros(L*D, B, H) where the cell begins empty"
            expected = "(h [L*D, B, R], c [L*D, B, H])"
            got = f"{name}: {describe(value)}"
            raise DtypeError(message(self.who, f"{name} is not a pair (h, c)", got, expected, hint))
        h, c = value
        h = self.member(f"{name}[0], h,", "R", h, rows, layer.proj_size or layer.hidden_size)
        return State(h, self.member(f"{name}[1], c,", "H", c, rows, layer.hidden_size))

    def member(self, name: str, letter: str, s: Any, rows: int, width: int) -> Tensor:
        """One of h and c, [L*D, B, .]."""
        tensor(self.who, name, s)
        batched, B = self.form.batched, self.sizes[1]
        wanted = [rows, B, width] if batched else [rows, width]
        if s.shape == tuple(wanted):
            same_as_x(self.who, name, s, self.x)
            return s if batched else s.unsqueeze(1)
        if s.dim() != len(wanted):
            what = f"{name} has {s.dim()} axes, expected {len(wanted)}"
            hint = (
                "states keep the axis of layers: unsqueeze(0) adds it"
                if batched
                else "unbatched x takes states without a batch axis"
            )
        elif s.shape[0] != rows:
            what = f"{name} has {s.shape[0]} on its first axis, expected {rows}"
            hint = "give one state to each layer and direction: L*D is num_layers, twice that if bidirectional"
            if batched and tuple(s.shape[:2]) == (B, rows):
                hint = "its first two axes are swapped, use transpose(0, 1): states are [L*D, B, .] also with batch_first"
        elif batched and s.shape[1] != B:
            what = f"{name} has {s.shape[1]} rows, x has {B}"
            hint = self.swapped(s.shape[1]) or "give one state to each row of x"
        else:
            what = f"{name} has {s.shape[-1]} units, expected {width}"
            hint = "h has proj_size units where there is a projection, c always has hidden_size"
        expected = f"{wanted} = {'[L*D, B, ' if batched else '[L*D, '}{letter}]"
        raise ShapeError(message(self.who, what, self.got(name.split(",")[0], s), expected, hint))

    def lengths(self, value: Any) -> Tensor:
        """int64 [B] on the device of x."""
        B = self.sizes[1]
        value = _as_tensor(self.who, value)
        if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
            got = f"lengths: {describe(value)}"
            raise DtypeError(message(self.who, "lengths are not integers", got, "int64 [B]", "use lengths.long()"))
        if tuple(value.shape) == ((B,) if self.form.batched else ()):
            return value.to(self.x.device, torch.int64).reshape(B)
        hint = "give one length to each row of x" if self.form.batched else "unbatched x takes one number"
        hint = (value.dim() == 1 and self.swapped(value.shape[0])) or hint
        what = f"lengths has shape {list(value.shape)}, x has {B} rows"
        expected = f"[{B}] = [B]" if self.form.batched else "[]"
        raise ShapeError(message(self.who, what, self.got("lengths", value), expected, hint))

    def reset(self, value: Any) -> Tensor:
        """bool [T, B] on the device of x."""
        tensor(self.who, "reset", value)
        if value.dtype != torch.bool:
            got, expected = f"reset: {describe(value)}", "bool, true where a new sequence begins"
            raise DtypeError(message(self.who, "reset is not bool", got, expected, "use reset.bool()"))
        wanted = list(self.x.shape[:-1])
        if list(value.shape) == wanted:
            value = value.unsqueeze(1) if not self.form.batched else value.transpose(0, 1) if self.form.batch_first else value
            return value.to(self.x.device)
        letters = self.form.letters.replace(", I", "")
        hint = "give one value to each step of each row: the axes of x without the last"
        if self.form.batched and list(value.shape) == wanted[::-1]:
            hint = f"batch and time are swapped: use reset.T, or check batch_first; reset is {letters} like x"
        what = f"reset has shape {list(value.shape)}, expected {wanted}"
        raise ShapeError(message(self.who, what, self.got("reset", value), f"{wanted} = {letters}", hint))

    def swapped(self, size: int) -> str:
        """The hint that batch and time are swapped, if `size` is the length of x's time axis."""
        T, B = self.sizes
        if not self.form.batched or size != T or size == B:
            return ""
        other = "False" if self.form.batch_first else "True"
        return f"batch and time are swapped: {size} is x's time axis; use batch_first={other}, or x.transpose(0, 1)"

    def got(self, name: str, value: Tensor) -> str:
        return f"{name}: {describe(value)}, {_got_x(self.form, self.x)}"


def _got_x(form: Form, x: Tensor) -> str:
    return f"x: {describe(x)}  (batch_first={form.batch_first}: {form.letters})"


def _features(who: str, form: Form, x: Tensor, input_size: int) -> None:
    """The last axis of x must be I."""
    n = x.shape[-1]
    if n == input_size:
        return
    hint = f"make the layer with input_size={n}, or give x {input_size} features"
    if x.shape[-2] == input_size:
        axis = "second" if form.batched else "first"
        hint = f"the {axis} axis is {input_size}: swap the last two axes, or check batch_first"
    expected = form.letters.replace("I", str(input_size))
    raise ShapeError(message(who, f"x has {n} features, expected {input_size}", _got_x(form, x), expected, hint))


def _as_tensor(who: str, lengths: Any) -> Tensor:
    try:
        return torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError):
        got, hint = f"lengths: {describe(lengths)}", "pass a list of integers or a tensor"
        raise DtypeError(message(who, "lengths are not integers", got, "int64 [B]", hint)) from None
