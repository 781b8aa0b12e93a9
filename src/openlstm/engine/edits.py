"""A call run with edits: gates, cell states or outputs that are held, scaled or switched off, step by step.

The call runs on the readable reference, and the change is put between the operations of the cell's own `forward`, so that no
equation is written twice and a cell of your own can be edited too.

Legend: T time, B batch, H hidden size, P projected size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from openlstm import cells
from openlstm.call import Call
from openlstm.cells import Cell, State, Step
from openlstm.engine.backends.table import brief
from openlstm.errors import ArgumentError
from openlstm.weights import expand


@dataclass(frozen=True, eq=False)
class Edit:
    """One edit: where, what, and of which units."""

    name: str
    place: int  # number of layer and direction in the order in which they run
    array: str  # the short name: f, c, h
    kind: str  # clamp, scale, freeze
    value: float
    units: tuple[int, ...] | None


def edited(call: Call) -> Call:
    """The same call without edits, of a cell that makes them, and the projection; it counts its steps, so it runs once."""
    begins = _begins(call)
    by_name: dict[str, list[Edit]] = {}
    for edit in call.edits:
        by_name.setdefault(edit.array, []).append(edit)
    weights = expand(call.cell, call.weights)  # what norms fold in is known to the cell's own kind alone
    cell = EditedCell(call.cell.unshared(), by_name, begins.flip(0) if call.reverse else begins, weights.w_hr)
    return call._replace(cell=cell, weights=weights._replace(w_hr=None), edits=())


def refuse_edits(call: Call) -> None:
    """Nobody may take what the weights of an edited call say for what it does.

    Raises:
        ArgumentError: for a call with edits.
    """
    if call.edits:
        what = "an edited layer does not do what its weights say"
        got, expected = "gradients for every step, or a look into the layer, inside an edit", "the layer as it is"
        hint = "ask after the edit; a trace without a loss, the model itself and torch.autograd show what is edited"
        raise ArgumentError.of("edit", what, got, expected, hint)


def _begins(call: Call) -> Tensor:
    """Where the sequence of a row begins, in the order in which it is run: bool [T, B]."""
    x, lengths, reset, reverse = call.x, call.lengths, call.reset, call.reverse
    T, B, _ = x.shape
    first = torch.zeros(B, dtype=torch.int64, device=x.device)
    if reverse:
        first = first + T - 1 if lengths is None else lengths.to(x.device) - 1
    begins = torch.arange(T, device=x.device)[:, None] == first  # [T, B]
    if reset is None:
        return begins
    reset = reset.to(x.device)
    return begins | (torch.cat([reset[1:], torch.zeros_like(reset[:1])]) if reverse else reset)


class EditedCell(Cell):
    """A cell with changes for one run: it counts its steps, so it is made anew for every run.

    A first look at the cell's `forward` tells which of its operations make the gates and the cell state; from then on their
    results are replaced where they arise, and all that follows sees the replacement. The projection is the last operation here,
    so that `h` is what the layer puts out.
    """

    def __init__(self, cell: Cell, changes: dict[str, list[Edit]], begins: Tensor, w_hr: Tensor | None) -> None:
        self.cell = cell
        self.name, self.gates, self.saved, self.has_cell = cell.name, cell.gates, cell.saved, cell.has_cell
        self.states, self.recurrence, self.heads, self.reads_h = cell.states, cell.recurrence, cell.heads, cell.reads_h
        self.separate, self.peepholes, self.feeds_back = cell.separate, cell.peepholes, cell.feeds_back
        self.candidate, self.clip = cell.candidate, cell.clip
        self.changes = changes
        self.begins = begins  # bool [T, B], in the order in which steps are run
        self.w_hr = w_hr  # [P, H]
        self.held: dict[Edit, Tensor] = {}
        self.marks: dict[int, str] | None = None  # number of an operation -> the name of what it makes
        self.steps = 0

    def __call__(self, z: Any, before: State, w_ch: Any = None, mask: Any = None, norm: Any = None) -> Step:
        """Without a look at the shapes: h has P units with a projection."""
        return self.forward(z, before, w_ch, mask, norm)

    def forward(self, z: Any, before: State, w_ch: Any = None, mask: Any = None, norm: Any = None) -> Step:
        inner = [name for name in self.changes if name != "h"]
        if inner and self.marks is None:
            self.marks = self._find(inner, z, before, w_ch, mask, norm)
        if inner:
            with _Between(self._replace) as made:
                step = self.cell(z, before, w_ch, mask, norm)
            made_of = self._named(step, made)
            if any(made.replaced.get(name) is not made_of.get(name) for name in inner):
                raise _cannot(self.cell, "its operations are not the same at every step", inner)
        else:
            step = self.cell(z, before, w_ch, mask, norm)
        h = step.h if self.w_hr is None else step.h @ self.w_hr.T
        if "h" in self.changes:
            H = h.shape[-1] // len(self.feeds_back)
            h = cells.concat([self._change("h", h[:, :H]), h[:, H:]])  # behind h are the gates of a cell that feeds them back
        self.steps += 1
        return step._replace(h=h)

    def _find(self, inner: list[str], *arguments: Any) -> dict[int, str]:
        """Which operations of the cell make what is to be changed."""
        results: list[Any] = []
        with torch.no_grad(), _Between(lambda n, out: results.append(out)) as made:
            step = self.cell(*arguments)
        marks, named = {}, self._named(step, made)
        for name in inner:
            at = next((n for n, out in enumerate(results) if name in named and out is named[name]), None)
            if at is None:
                raise _cannot(self.cell, f"no operation of its forward has {name} as its result", inner)
            marks[at] = name
        return marks

    def _named(self, step: Step, made: _Between) -> dict[str, Any]:
        """The results by name; several states are what the cell put side by side, and each may be changed alone."""
        several = len(self.states) > 1
        parts = next((parts for out, parts in made.joined if several and out is step.c), (step.c,) if not several else ())
        return {**dict(zip(self.saved, step.gates, strict=True)), **dict(zip(self.states, parts, strict=False))}

    def _replace(self, n: int, out: Any) -> Any:
        assert self.marks is not None
        name = self.marks.get(n)
        return None if name is None else (name, self._change(name, out))

    def _change(self, name: str, s: Tensor) -> Tensor:
        for change in self.changes[name]:
            new = s * change.value if change.kind == "scale" else torch.full_like(s, change.value)
            if change.kind == "freeze":
                held = self.held.get(change, s)
                new = self.held[change] = torch.where(self.begins[self.steps][:, None], s, held)
            s = new if change.units is None else torch.where(_mask(change.units, s), new, s)
        return s


class _Between(TorchFunctionMode):
    """Counts torch operations and hands each result to `see`, which gives None, or a name and what to replace it with."""

    def __init__(self, see: Callable[[int, Any], Any]) -> None:
        super().__init__()
        self.see = see
        self.count = 0
        self.joined: list[tuple[Any, tuple[Any, ...]]] = []  # what torch.cat made, and of what
        self.replaced: dict[str, Any] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.cat:
            self.joined.append((out, tuple(args[0])))
        found = self.see(self.count, out)
        self.count += 1
        if found is None:
            return out
        name, out = found
        self.replaced[name] = out
        return out


def _mask(units: tuple[int, ...], like: Tensor) -> Tensor:
    """bool [n], true at the units."""
    mask = torch.zeros(like.shape[-1], dtype=torch.bool, device=like.device)
    mask[list(units)] = True
    return mask


def _cannot(cell: Cell, why: str, inner: list[str]) -> ArgumentError:
    what, hint = (
        f"cannot change {', '.join(inner)} of {brief(cell)}: {why}",
        "edit h, or write the gate as one tensor operation",
    )
    return ArgumentError.of("edit", what, f"cell: {type(cell).__name__}", "gates that forward makes and hands out", hint)
