"""What every cell is made of: its state, a step, the traits, and the derivative that torch takes where none is written."""

from __future__ import annotations

import inspect
import keyword
import math
import sys
from abc import ABC, abstractmethod
from collections import namedtuple
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple, NoReturn, TypeVar

import numpy as np

from openlstm import _array as A
from openlstm._array import Array, where
from openlstm.errors import ArgumentError, DtypeError, ShapeError, describe

C = TypeVar("C", bound="Cell")


class State(NamedTuple):
    """What a row carries from step to step; `c` is None for a cell without a highway."""

    h: Array  # [B, R]
    c: Array | None = None  # [B, C], the cell states side by side, in the order of `Cell.states`


_NAMED: dict[
    tuple[str, ...], Any
] = {}  # made with the class of a cell, since a compiled graph can look one up and not make one


def named_states(names: tuple[str, ...]) -> Any:
    """The named tuple of the states of a cell that has several beside h: (h, c, n, m), each [.., H].

    >>> named_states(("c", "n"))(h=1, c=2, n=3)
    States(h=1, c=2, n=3)
    """
    if names not in _NAMED:
        made: Any = namedtuple("States", ("h", *names), module=__name__)
        made.__reduce__ = lambda states: (_states, (names, *states))  # a pickle finds no class that is made here
        _NAMED[names] = made
    return _NAMED[names]


def told_apart(states: Any) -> bool:
    """Whether `states` can be the names of a cell's states beside h."""
    names = isinstance(states, tuple) and all(isinstance(name, str) and name.isidentifier() for name in states)
    if not names or any(name.startswith("_") or keyword.iskeyword(name) for name in states):  # no fields of a named tuple
        return False
    return bool(states) and len({"h", *states}) == 1 + len(states)


def _states(names: tuple[str, ...], *values: Any) -> Any:
    return named_states(names)(*values)


def parted(cell: Cell, state: Any) -> Any:
    """A `State` as it is handed out: with a name for each state where the cell has several beside h."""
    if len(cell.states) == 1 or state.c is None:
        return state
    return named_states(cell.states)(state.h, *A.split(state.c, len(cell.states)))


def joined(cell: Cell, state: Any) -> Any:
    """The way back of `parted`: (h, c, n, m) as a `State` whose c holds c, n and m side by side."""
    if len(cell.states) == 1 or not isinstance(state, tuple) or len(state) != 1 + len(cell.states):
        return state
    return State(state[0], A.concat(list(state[1:])))


class Step(NamedTuple):
    """What one step of a cell gives: the activated gates that backward needs, the new output and the new cell state."""

    gates: tuple[Array, ...]  # each [B, H], named by Cell.saved
    h: Array  # [B, H], before projection and zoneout; [B, 4H] for FGR
    c: Array | None  # [B, C], before zoneout; None for a cell without a highway


class StepInputs(NamedTuple):
    """What the backward of one step reads."""

    gates: tuple[Array, ...]  # as in Step
    before: Any  # State: h [B, R] as it was fed back, without a mask; c [B, C]
    c: Any  # [B, C], c' as in Step
    h: Array  # h' as in Step
    w_ch: Array | None = None  # [len(peepholes)*H]
    mask: Array | None = None  # [B, H], what the candidate was multiplied with
    z: Array | None = None  # [B, (G+separate)*H], handed over only to a cell that has no backward of its own
    norm: Array | None = None  # weights and biases of what is normalised, see `weights.norm_sizes`


class StepGradients(NamedTuple):
    """What a step's backward gives."""

    z: Array  # dL/dz [B, (G+separate)*H]
    c: Array | None  # dL/dc [B, C]
    h: Array | None = None  # dL/dh [B, R] that does not pass through the sums, None for zero
    w_ch: Array | None = None  # every row's share of dL/dw_ch [B, len(peepholes)*H]
    norm: Array | None = None  # every row's share of dL/dnorm


class Cell(ABC):
    """A recurrence without its products, and the traits that every cell states.

    Traits:
        name: the name of the cell.
        gates: the blocks of H rows in `weight_ih`, in the order i, f, g, o without the missing ones.
        saved: the activated gates that a step hands out and backward reads.
        has_cell: whether the state is (h, c) or h alone.
        states: what the highway carries beside h, by name, H numbers of each: `State.c` holds them side by side, [B, C] with
            C = len(states) * H, and zeros are the begin of each.
        recurrence: how h enters the sums. "dense": every unit sees all of h. "elementwise": a unit sees itself alone, through
            one number a gate. "none": not at all; there are no weight_hh and bias_hh.
        heads: with a dense recurrence the units are in so many equal groups, and a unit sees the h of its own group alone.
        reads_h: whether a step reads h itself, beside the sums: then a projection, which would give it another width, cannot
            follow.
        separate: how many of the last gates want W_ih x + b_ih and W_hh h + b_hh apart, as two blocks at the end of z.
        peepholes: gates that see the cell state through a diagonal, the blocks of `weight_ch`.
        feeds_back: blocks of H that are fed back and carried as h; without a projection R = len(feeds_back) * H.
        candidate: the gate that recurrent dropout acts on, None where there is none.
        clip: the cell state is kept within -clip..clip, None for no bound.
        cells_per_gate: so many neighbouring cells share their gates (a memory block).
        norms: what is normalised over all units of a row, of "x" (the sums of W x), "h" (those of W h) and "c" (the cell
            state): the blocks of `norm`. Sums are handed over raw, by `separate`; b_ih and b_hh come in the biases of `norm`.
        kernel: the name of its struct in a table of `native/cells/`, "" where there is none and the reference runs it. A class
            has the kernel that it names itself; one derived from it has none, since it may compute something else.
    """

    name: str
    gates: tuple[str, ...]
    saved: tuple[str, ...]
    has_cell: bool
    states: tuple[str, ...] = ("c",)
    recurrence: str = "dense"
    heads: int = 1
    reads_h: bool = False
    separate: int = 0
    peepholes: tuple[str, ...] = ()
    feeds_back: tuple[str, ...] = ("h",)
    candidate: str | None = None
    clip: float | None = None
    cells_per_gate: int = 1
    norms: tuple[str, ...] = ()
    kernel: str = ""

    def __init_subclass__(cls, **options: Any) -> None:
        """A derived class inherits neither the kernel nor, where it writes `forward` anew, the `backward`."""
        super().__init_subclass__(**options)
        if "states" in cls.__dict__ and told_apart(cls.states):
            named_states(cls.states)
        if "kernel" not in cls.__dict__:
            cls.kernel = ""
        if "forward" in cls.__dict__ and "backward" not in cls.__dict__:
            cls.backward = Cell.backward

    @property
    def derives_itself(self) -> bool:
        """Whether `backward` is written down; if not it differentiates `forward` and needs `StepInputs.z`."""
        return type(self).backward is not Cell.backward

    def unshared(self: C) -> C:
        """The same cell with gates of its own for every unit: what runs on `weights.expand(...)`."""
        return self if self.cells_per_gate == 1 else replace(self, cells_per_gate=1)  # type: ignore[type-var]

    def __call__(
        self, z: Array, before: State, w_ch: Array | None = None, mask: Array | None = None, norm: Array | None = None
    ) -> Step:
        """`forward` with what there is; of a user's own cell the shapes that come out are checked.

        Raises:
            DtypeError, ShapeError: naming the cell, where it returned something else than its traits promise.
        """
        given = {"w_ch": w_ch, "mask": mask, "norm": norm}  # a simple cell may take none of them
        given = {name: a for name, a in given.items() if a is not None}
        if self.kernel:
            return self.forward(z, before, **given)
        try:
            step = self.forward(z, before, **given)
        except Exception as error:
            error.add_note(_sizes(self, z, before))
            raise
        check_step(self, step, z)
        return step

    @abstractmethod
    def forward(self, z: Array, before: State, w_ch: Array | None = None, mask: Array | None = None) -> Step:
        """(z [B, (G+separate)*H], state) -> gates, h' and c'.

        Args:
            z: the sums by gate, then for a gate of `separate` those of x and those of h in two blocks.
            before: what the step begins with, h [B, R] and c [B, C].
            w_ch: [len(peepholes)*H]; given only to a cell with peepholes.
            mask: [B, H], 0 or 1/(1-p); multiplies the candidate after its activation; given only with recurrent dropout.

        A cell with `norms` has a fifth parameter, `norm` [n]: weight and bias of each, one behind the other.
        """

    def backward(self, inputs: StepInputs, dh: Array, dc: Array | None) -> StepGradients:
        """(dL/dh', dL/dc') -> the gradients of what the step read.

        h' and c' are independent coordinates of the state: `dc` is what flows along the highway from the next step,
        `dh` what flows through outputs and the next step's sums; the path from c' to h' is added here. This default
        differentiates `forward` with torch.
        """
        return _differentiate(self, inputs, dh, dc)


TRAITS = ("name", "gates", "saved", "has_cell")
"""What every cell has to state; the other traits have a default."""


def check_traits(cell: Cell) -> None:
    """Raise where the traits of a user's cell are missing, of another kind, or contradict each other.

    Raises:
        ArgumentError: naming the cell and the trait.
    """
    who, cls = type(cell).__name__, type(cell)
    missing = [name for name in TRAITS if not hasattr(cell, name)]
    if missing:
        hint = 'in the class: name, gates, saved, has_cell = "mine", ("f", "g"), ("f", "g"), True'
        raise ArgumentError.of(who, "a trait is missing", f"no {', no '.join(missing)}", ", ".join(TRAITS), hint)

    def refuse(trait: str, what: str, expected: str, hint: str) -> NoReturn:
        raise ArgumentError.of(who, what, f"{trait}={getattr(cell, trait)!r}", expected, hint)

    for trait in ("gates", "saved", "peepholes", "feeds_back"):
        names = getattr(cell, trait)
        if not isinstance(names, tuple) or not all(isinstance(n, str) for n in names) or len(set(names)) < len(names):
            refuse(trait, f"{trait} is not a tuple of different names", f'{trait}=("f", "g")', 'one name alone is ("f",)')
    if not cell.gates:
        refuse("gates", "there is no gate", "at least one block of sums", 'a cell without gates has one: gates = ("z",)')
    if not told_apart(cell.states):
        expected, hint = "different names, none of them 'h'", "states = ('c',) for one"
        refuse("states", "the states cannot be told apart", expected, hint)
    if {*cell.saved} & {"h", *(cell.states if cell.has_cell else ())}:
        refuse("saved", "a gate has the name of a state", f"other names than h, {', '.join(cell.states)}", "rename one of them")
    if cell.candidate is not None and not (cell.candidate in cell.gates and cell.candidate in cell.saved):
        expected = f"one of gates and of saved: {', '.join(n for n in cell.gates if n in cell.saved) or 'there is none'}"
        refuse("candidate", "the candidate is not a gate that is saved", expected, "candidate = None for a cell without one")
    wants = {"w_ch": bool(cell.peepholes), "mask": cell.candidate is not None, "norm": bool(cell.norms)}
    lacks = [name for name, wanted in wants.items() if wanted and not {name, "**"} & {*_taken(cls)}]
    if lacks:
        got, expected = f"forward({', '.join(_taken(cls))})", f"forward(self, z, before, ..., {lacks[0]}=None)"
        reason = {"w_ch": "peepholes", "mask": "a candidate, for recurrent dropout", "norm": "norms"}[lacks[0]]
        raise ArgumentError.of(who, f"forward does not take {lacks[0]}", got, expected, f"the traits name {reason}")


@cache
def _taken(cls: type[Cell]) -> tuple[str, ...]:
    """The parameters of a cell's forward, "**" for any by name."""
    given = inspect.signature(cls.forward).parameters.values()
    return tuple("**" if p.kind is p.VAR_KEYWORD else p.name for p in given)


def _sizes(cell: Cell, z: Array, before: Any) -> str:
    """What a step was given, in words, for an error that comes up in it."""
    apart = "" if not cell.separate else f", those of {', '.join(cell.gates[-cell.separate :])} twice (of x, of h)"
    units = z.shape[-1] // (len(cell.gates) + cell.separate)
    words = [f"z {describe(z)}: {', '.join(cell.gates)} side by side{apart}", f"before.h {describe(before.h)}"]
    if before.c is not None:
        words.append(f"before.c {describe(before.c)}: {', '.join(cell.states)} side by side")
    return f"{type(cell).__name__}.forward was given, with H = {units}: {'; '.join(words)}"


def check_step(cell: Cell, step: Any, z: Array) -> None:
    """Raise where what a user's cell returned does not fit its traits."""
    who = type(cell).__name__
    if not isinstance(step, Step):
        hint = "return Step((gates named by `saved`), h, c)"
        raise DtypeError.of(who, "forward did not return a Step", describe(step), "openlstm.cells.Step", hint)
    B, H = z.shape[0], z.shape[-1] // (len(cell.gates) + cell.separate)
    if len(step.gates) != len(cell.saved):
        got, expected = f"{len(step.gates)} gates", f"{len(cell.saved)}: {', '.join(cell.saved) or 'none'}"
        hint = "return one array for each name in `saved`"
        raise ShapeError.of(who, "forward returned another number of gates than `saved` names", got, expected, hint)
    C = "H" if len(cell.states) == 1 else f"{len(cell.states)}*H"
    arrays = [(f"gates[{k}] ({name})", a, H) for k, (name, a) in enumerate(zip(cell.saved, step.gates, strict=True))]
    arrays.append(("h", step.h, len(cell.feeds_back) * H))
    if cell.has_cell != (step.c is not None):
        what = "forward returned no c" if cell.has_cell else "forward returned a c"
        got, expected = f"c: {describe(step.c)}", f"c: [B, {C}] = [{B}, {len(cell.states) * H}]" if cell.has_cell else "c: None"
        raise ShapeError.of(who, what, got, expected, f"the trait has_cell is {cell.has_cell}")
    arrays += [("c", step.c, len(cell.states) * H)] if cell.has_cell else []
    for name, a, width in arrays:  # compared without texts, which torch.compile cannot make of sizes that vary
        alike = all(getattr(a, of, None) == getattr(z, of, None) for of in ("dtype", "device"))
        if type(a).__module__ != type(z).__module__ or not alike or tuple(a.shape) != (B, width):
            right = describe(z[:, :1]).replace(f"[{B}, 1]", f"[{B}, {width}]")
            letters = "[B, H]" if width == H else f"[B, {C}]" if name == "c" else "[B, R]"
            hint = f"z: {describe(z)} has {z.shape[-1] // H if H else 0} blocks of H = {H}; keep its kind and dtype"
            if name == "c" and len(cell.states) > 1:
                hint = f"put the states {', '.join(cell.states)} side by side: concat([{', '.join(cell.states)}])"
            raise ShapeError.of(who, f"forward returned a wrong {name}", f"{name}: {describe(a)}", f"{letters} = {right}", hint)


def _differentiate(cell: Cell, inputs: StepInputs, dh: Array, dc: Array | None) -> StepGradients:
    """The vector-Jacobian product of `cell.forward` by torch; for numpy arrays by way of tensors."""
    if not A.is_torch(inputs.z):
        return _by_tensors(cell, inputs, dh, dc)
    torch = sys.modules["torch"]
    before = inputs.before
    each = [None if w is None else w.expand(before.h.shape[0], -1) for w in (inputs.w_ch, inputs.norm)]  # every row's share
    given = {"z": inputs.z, "h": before.h, "c": before.c, "w_ch": each[0], "norm": each[1]}
    names = [name for name, a in given.items() if a is not None]

    def run(*values: Array) -> tuple[Array, ...]:
        of = dict(zip(names, values, strict=True))
        step = cell(of["z"], State(of["h"], of.get("c")), of.get("w_ch"), inputs.mask, of.get("norm"))
        return (step.h,) if step.c is None else (step.h, step.c)

    _, pull = torch.func.vjp(run, *(given[name] for name in names))
    gradients = dict(zip(names, pull((dh,) if dc is None else (dh, dc)), strict=True))
    return StepGradients(gradients["z"], gradients.get("c"), gradients["h"], gradients.get("w_ch"), gradients.get("norm"))


def _by_tensors(cell: Cell, inputs: StepInputs, dh: Array, dc: Array | None) -> StepGradients:
    import torch

    def tensor(a: Any) -> Any:
        return None if a is None else torch.from_numpy(np.array(a))

    before = State(*(tensor(a) for a in inputs.before))
    there = StepInputs((), before, None, *(tensor(a) for a in inputs[3:]))
    gradients = _differentiate(cell, there, tensor(dh), tensor(dc))
    return StepGradients(*(None if a is None else a.numpy() for a in gradients))


def clamp(c: Array, clip: float | None) -> Array:
    """c within -clip..clip; NaN stays NaN, and where a bound is reached no gradient passes."""
    if clip is None:
        return c
    bound = A.namespace(c).ones_like(c) * clip
    return where(c >= bound, bound, where(c <= -bound, -bound, c))


def stop_at_clip(dc: Array, c: Array, clip: float | None) -> Array:
    """dL/dc' without what `clamp` stops: 0 where c' is at a bound."""
    return dc if clip is None else where(abs(c) >= clip, A.namespace(dc).zeros_like(dc), dc)


def candidate_slope(g: Array, mask: Array | None) -> Array:
    """d(mask * tanh(z)) / dz from its value g."""
    if mask is None:
        return 1 - g * g
    tanh_z = g / where(mask == 0, A.namespace(mask).ones_like(mask), mask)
    return mask * (1 - tanh_z * tanh_z)


def check_options(cell: Cell) -> None:
    """Refuse a `clip`, `cells_per_gate` or `heads` that no cell can have."""
    who = type(cell).__name__
    clip, m, heads = cell.clip, cell.cells_per_gate, cell.heads
    if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1:
        got, hint = f"heads={heads!r}", "a unit sees the h of its own head alone: 1 for all of h"
        raise ArgumentError.of(who, f"the units cannot be in {heads!r} heads", got, "an integer from 1", hint)
    if clip is not None and (isinstance(clip, bool) or not isinstance(clip, (int, float)) or not 0 < clip < math.inf):
        hint = "the cell is kept within -clip..clip: pass clip=3.0, or None for no bound"
        raise ArgumentError.of(who, f"cannot clip the cell at {clip!r}", f"clip={clip!r}", "a number above 0", hint)
    if isinstance(m, bool) or not isinstance(m, int) or m < 1:
        hint = "so many cells share their gates: 1 for none"
        got = f"cells_per_gate={m!r}"
        raise ArgumentError.of(who, f"no memory block has {m!r} cells", got, "an integer from 1", hint)
