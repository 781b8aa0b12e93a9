"""Every input form of a layer brought to one, and one error in the house form for what does not fit.

Nothing here reads values (that would break a compiled graph); checks of values live in `engine/check.py`.

Legend: T time, B batch, I input size, H hidden size, R what is fed back (P with a projection, 4H for FGR, else H), C the
cell states side by side, L layers, D directions, N sequences.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from openlstm.errors import ArgumentError, DtypeError, ShapeError, describe
from openlstm.nn.checks import same_as_weights, same_as_x, tensor
from openlstm.reference import State


class Inputs(NamedTuple):
    """The arguments of a call in the one form that layers run."""

    x: Tensor  # [T, B, I]
    hx: State | None  # h [L*D, B, R], c [L*D, B, C]
    lengths: Tensor | None  # int64 [B]
    reset: Tensor | None  # bool [T, B]
    reset_state: State | None  # as hx, or [L*D, T, B, .]


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
            raise ShapeError.of(who, what, f"x: {describe(x)}", expected, hint)
        return Form(x.dim() == 3, layer.batch_first and x.dim() == 3)

    @property
    def letters(self) -> str:
        """The axes of x."""
        return "[T, I]" if not self.batched else "[B, T, I]" if self.batch_first else "[T, B, I]"

    def enter(self, layer: Any, x: Any, hx: Any, lengths: Any, reset: Any, reset_state: Any) -> Inputs:
        """The arguments of a call, all checked.

        Raises:
            ShapeError, DtypeError, ArgumentError: where one does not fit.
        """
        who = type(layer).__name__
        _features(who, self, x, layer.input_size)
        x = same_as_weights(who, x, layer.first_weight)
        known = _Known(who, self, x)
        _together(who, reset, reset_state)
        return Inputs(
            x.unsqueeze(1) if not self.batched else x.transpose(0, 1) if self.batch_first else x,
            None if hx is None else known.state(layer, "hx", hx),
            None if lengths is None else known.lengths(lengths),
            None if reset is None else known.reset(reset),
            None if reset_state is None else known.reset_state(layer, reset_state),
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
    shown: str = ""  # what says how many rows there are, if it is not x

    @property
    def sizes(self) -> tuple[int, int]:
        """T and B."""
        first, *rest = self.x.shape[:-1]
        if not rest:
            return first, 1
        return (rest[0], first) if self.form.batch_first else (first, rest[0])

    def state(self, layer: Any, name: str, value: Any) -> State:
        """(h, c), or h alone for a cell without a highway, as `State` with a batch axis."""
        return _state([self.member(*m) for m in self.members(layer, name, value)])

    def reset_state(self, layer: Any, value: Any) -> State:
        """As `state`; one for all rows is spread over them, one for each step keeps both axes [L*D, T, B, .]."""
        members = self.members(layer, "reset_state", value)
        axes = 1 + self.form.batched + 1  # of a state in the form of hx
        steps = any(isinstance(m[2], Tensor) and m[2].dim() == axes + 1 for m in members)
        found = []
        for m in members:
            s = m[2]
            if isinstance(s, Tensor) and s.dim() == axes + 1:
                s = self.stepwise(*m)
            else:
                if isinstance(s, Tensor) and self.form.batched and s.dim() == 2:
                    s = s.unsqueeze(1).expand(-1, self.sizes[1], -1)
                s = self.member(m[0], m[1], s, m[3], m[4])
                s = s.unsqueeze(1).expand(-1, self.sizes[0], -1, -1) if steps else s
            found.append(s)
        return _state(found)

    def stepwise(self, name: str, letter: str, s: Tensor, rows: int, width: int) -> Tensor:
        """[L*D, T, B, .] of a state for every step, in the form of x."""
        wanted = [rows, *self.x.shape[:-1], width]
        if list(s.shape) != wanted:
            what = f"{name} has shape {list(s.shape)}, expected {wanted}"
            letters = self.form.letters[1:-1].replace("I", letter)
            hint = "a state for every step has the axes of x between those of layers and units"
            raise ShapeError.of(self.who, what, self.got(name.split(",")[0], s), f"{wanted} = [L*D, {letters}]", hint)
        s = same_as_x(self.who, name, s, self.x)
        return s.unsqueeze(2) if not self.form.batched else s.transpose(1, 2) if self.form.batch_first else s

    def members(self, layer: Any, name: str, value: Any) -> list[tuple[str, str, Any, int, int]]:
        """h, c and further states: name, letter of the width, value, L*D, width."""
        rows = layer.num_layers * layer.num_directions
        if not layer.cell.has_cell:
            tensor(self.who, name, value, f"{self.who} has no cell state: pass h alone, a tensor")
            return [(name, "R", value, rows, layer.fed_back_size)]
        names = layer.cell.states
        several = isinstance(value, (tuple, list)) and len(value) == 1 + len(names) and all(s is not None for s in value)
        if not several:
            alone = len(names) == 1
            hint = f"pass {'both' if alone else 'all'}; torch.zeros(L*D, B, H) where the cell begins empty"
            expected = f"(h [L*D, B, R], {', '.join(f'{s} [L*D, B, H]' for s in names)})"
            got, what = f"{name}: {describe(value)}", f"{name} is not {'a pair ' * alone}(h, {', '.join(names)})"
            raise DtypeError.of(self.who, what, got, expected, hint)
        h, *others = value
        return [
            (f"{name}[0], h,", "R", h, rows, layer.fed_back_size),
            *[
                (f"{name}[{k}], {s},", "H", a, rows, layer.hidden_size)
                for k, (s, a) in enumerate(zip(names, others, strict=True), 1)
            ],
        ]

    def member(self, name: str, letter: str, s: Any, rows: int, width: int) -> Tensor:
        """One of h and c, [L*D, B, .]."""
        tensor(self.who, name, s)
        batched, B = self.form.batched, self.sizes[1]
        wanted = [rows, B, width] if batched else [rows, width]
        if s.shape == tuple(wanted):
            s = same_as_x(self.who, name, s, self.x)
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
            what = f"{name} has {s.shape[1]} rows, {'x has' if not self.shown else 'there are'} {B}"
            hint = self.swapped(s.shape[1]) or f"give one state to each {'row of x' if not self.shown else 'sequence'}"
        else:
            what = f"{name} has {s.shape[-1]} units, expected {width}"
            hint = "h has proj_size units where there is a projection, c always has hidden_size"
            if width not in (self.x.shape[-1], s.shape[-1]) and width == 4 * s.shape[-1]:
                hint = "FGR feeds its gates back: h is (h, i, f, o), 4 * hidden_size units; zeros begin with closed gates"
        expected = f"{wanted} = {'[L*D, N, ' if self.shown else '[L*D, B, ' if batched else '[L*D, '}{letter}]"
        raise ShapeError.of(self.who, what, self.got(name.split(",")[0], s), expected, hint)

    def lengths(self, value: Any) -> Tensor:
        """int64 [B] on the device of x."""
        B = self.sizes[1]
        value = _as_tensor(self.who, value)
        if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
            got = f"lengths: {describe(value)}"
            raise DtypeError.of(self.who, "lengths are not integers", got, "int64 [B]", "use lengths.long()")
        _same_device(self.who, "lengths", value, self.x)
        if tuple(value.shape) == ((B,) if self.form.batched else ()):
            return value.to(self.x.device, torch.int64).reshape(B)
        hint = "give one length to each row of x" if self.form.batched else "unbatched x takes one number"
        hint = (value.dim() == 1 and self.swapped(value.shape[0])) or hint
        what = f"lengths has shape {list(value.shape)}, x has {B} rows"
        expected = f"[{B}] = [B]" if self.form.batched else "[]"
        raise ShapeError.of(self.who, what, self.got("lengths", value), expected, hint)

    def reset(self, value: Any) -> Tensor:
        """bool [T, B] on the device of x."""
        tensor(self.who, "reset", value)
        value = mask(self.who, value)
        wanted = list(self.x.shape[:-1])
        if list(value.shape) == wanted:
            value = value.unsqueeze(1) if not self.form.batched else value.transpose(0, 1) if self.form.batch_first else value
            return value.to(self.x.device)
        letters = self.form.letters.replace(", I", "")
        hint = "give one value to each step of each row: the axes of x without the last"
        if self.form.batched and list(value.shape) == wanted[::-1]:
            hint = f"batch and time are swapped: use reset.T, or check batch_first; reset is {letters} like x"
        what = f"reset has shape {list(value.shape)}, expected {wanted}"
        raise ShapeError.of(self.who, what, self.got("reset", value), f"{wanted} = {letters}", hint)

    def swapped(self, size: int) -> str:
        """The hint that batch and time are swapped, if `size` is the length of x's time axis."""
        T, B = self.sizes
        if not self.form.batched or size != T or size == B:
            return ""
        other = "False" if self.form.batch_first else "True"
        return f"batch and time are swapped: {size} is x's time axis; use batch_first={other}, or x.transpose(0, 1)"

    def got(self, name: str, value: Tensor) -> str:
        return f"{name}: {describe(value)}, {self.shown or _got_x(self.form, self.x)}"


def _state(members: list[Tensor]) -> State:
    """h, and the states beside it side by side."""
    h, *others = members
    return State(h, torch.cat(others, -1) if len(others) > 1 else others[0] if others else None)


def mask(who: str, value: Tensor) -> Tensor:
    """A reset as bool; one of numbers must hold 0 and 1 (which a graph does not look at)."""
    if value.dtype == torch.bool:
        return value
    if value.dtype != torch.uint8 and not value.is_floating_point():
        got, expected = f"reset: {describe(value)}", "bool, or 0 and 1 in uint8 or float; 1 where a new sequence begins"
        raise DtypeError.of(who, "reset is not a mask", got, expected, "use reset.bool()")
    watched = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if not watched and not bool(((value == 0) | (value == 1)).all()):
        got = f"reset: {describe(value)}"
        raise ArgumentError.of(who, "reset holds more than 0 and 1", got, "0 and 1, or bool", "compare first: reset > 0.5")
    return value != 0


def enter_sequences(
    layer: Any, x: Any, hx: Any, lengths: Any, reset: Any, reset_state: Any, cu_seqlens: Any
) -> tuple[Inputs, Tensor, Tensor]:
    """A call with cu_seqlens, checked: x [total, I], reset [total], states [L*D, N, .]; each sequence's begin and length [N].

    Raises:
        ShapeError, DtypeError, ArgumentError: where an argument does not fit.
    """
    who = type(layer).__name__
    tensor(who, "x", x)
    if lengths is not None:
        what, hint = "lengths with cu_seqlens", "leave lengths out: cu_seqlens says how long each sequence is"
        raise ArgumentError.of(who, what, f"lengths: {describe(lengths)}", "one of the two", hint)
    if x.dim() != 2:
        hint = "put the sequences one behind the other: torch.cat(sequences)"
        raise ShapeError.of(who, f"x has {x.dim()} axes", f"x: {describe(x)}", "[total, I] with cu_seqlens", hint)
    _features(who, Form(False, False), x, layer.input_size)
    x = same_as_weights(who, x, layer.first_weight)
    total = len(x)
    cu = _as_tensor(who, cu_seqlens, "cu_seqlens")
    got = f"cu_seqlens: {describe(cu)}, x: {describe(x)}"
    if cu.is_floating_point() or cu.is_complex() or cu.dtype == torch.bool:
        raise DtypeError.of(who, "cu_seqlens are not integers", got, "int64 [N+1]", "use cu_seqlens.long()")
    _same_device(who, "cu_seqlens", cu, x)
    if cu.dim() != 1 or not len(cu):
        what, hint = f"cu_seqlens has shape {list(cu.shape)}", "0, then where each sequence ends: N+1 numbers"
        raise ShapeError.of(who, what, got, "[N+1]", hint)
    cu = cu.to(x.device, torch.int64)
    hint = "torch.nn.functional.pad(lengths.cumsum(0), (1, 0)) makes them from lengths"
    if int(cu[0]) != 0 or int(cu[-1]) != total:
        what = f"cu_seqlens go from {int(cu[0])} to {int(cu[-1])}, x has {total} steps"
        raise ArgumentError.of(who, what, got, f"from 0 to {total}", hint)
    real = cu[1:] - cu[:-1]  # [N]
    if bool((real < 0).any()):
        n = int(torch.nonzero(real < 0)[0])
        what = f"cu_seqlens fall from {int(cu[n])} to {int(cu[n + 1])} at {n + 1}"
        raise ArgumentError.of(who, what, got, "numbers that never fall", hint)
    _together(who, reset, reset_state)
    shown = f"cu_seqlens: {len(real)} {'sequence' if len(real) == 1 else 'sequences'}"
    states = _Known(who, Form(True, False), x.new_empty(1, len(real), 1), shown)  # a batch of N rows, as far as states see it
    if reset is not None:
        tensor(who, "reset", reset)
        reset = mask(who, reset)
        if list(reset.shape) != [total]:
            what = f"reset has shape {list(reset.shape)}, expected {[total]}"
            got = f"reset: {describe(reset)}, x: {describe(x)}"
            raise ShapeError.of(who, what, got, f"{[total]} = [total]", "give one value to each step of x [total, I]")
        reset = reset.to(x.device)
    given = () if reset_state is None else reset_state if isinstance(reset_state, (tuple, list)) else (reset_state,)
    for s in given:
        if isinstance(s, Tensor) and s.dim() == 4:
            hint = "pad x and pass lengths to give every reset a state of its own"
            got = f"reset_state: {describe(s)}"
            raise ArgumentError.of(who, "reset_state for every step with cu_seqlens", got, "[L*D, N, .] or [L*D, .]", hint)
    fresh = None if reset_state is None else states.reset_state(layer, reset_state)
    begin = None if hx is None else states.state(layer, "hx", hx)
    return Inputs(x, begin, None, reset, fresh), cu[:-1], real


def _same_device(who: str, name: str, value: Tensor, x: Tensor) -> None:
    """Counts may be on the CPU, or where x is."""
    if value.device.type != "cpu" and value.device != x.device:
        got, hint = f"{name} on {value.device}, x on {x.device}", f"use {name}.to(x.device), or keep them on the CPU"
        expected = "cpu" if x.device.type == "cpu" else f"cpu or {x.device}"
        raise ArgumentError.of(who, f"{name} are on another device", got, expected, hint)


def _together(who: str, reset: Any, reset_state: Any) -> None:
    if reset_state is not None and reset is None:
        what, hint = "reset_state without reset", "pass reset=, a bool tensor that is true where a state begins anew"
        raise ArgumentError.of(who, what, "reset: None", "both, or neither", hint)


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
    raise ShapeError.of(who, f"x has {n} features, expected {input_size}", _got_x(form, x), expected, hint)


def _as_tensor(who: str, value: Any, name: str = "lengths") -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        got, hint = f"{name}: {describe(value)}", "pass a list of integers or a tensor"
        expected = "int64 [B]" if name == "lengths" else "int64 [N+1]"
        raise DtypeError.of(who, f"{name} are not integers", got, expected, hint) from None
