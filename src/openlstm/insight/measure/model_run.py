"""One call of a model as a measure needs it: something added to its inputs, its outputs apart from each other, and which part
of an output is read.

Legend: T time, B batch, R what is read of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence
from torch.overrides import TorchFunctionMode

from openlstm.errors import describe
from openlstm.insight.batches import NotMeasurable, repacked
from openlstm.insight.calls import Hook
from openlstm.nn.batch import RECURRENT, leaves, mapped


class ModelInput(NamedTuple):
    """An input as one call of the model was given it."""

    value: Tensor  # [T, B, ..] or [B, T, ..]
    added: Tensor | None  # zeros that the gradient is taken of
    steps: int | None  # the axis of time, 0 or 1; None where T = B leaves it open


@dataclass
class ReadOutput:
    """Which part of one output tensor is read.

    flat: what its first axis is made of, rows and steps in either order; None where they are axes of their own.
    rows, steps: its axes; steps None where it has none.
    mask: what the loss reads of it, rows first, then steps.
    at: the one step that counts in each row [B], -1 for none; None where all that is read counts.
    """

    index: int
    flat: tuple[int, int] | None
    rows: int
    steps: int | None
    mask: Tensor
    at: Tensor | None = None

    def rows_first(self, a: Tensor) -> Tensor:
        """[B, ..], or [B, T, ..] where there are steps."""
        a = a if self.flat is None else a.unflatten(0, self.flat)
        return a.movedim(self.rows, 0) if self.steps is None else a.movedim((self.rows, self.steps), (0, 1))

    def as_it_was(self, a: Tensor) -> Tensor:
        a = a.movedim(0, self.rows) if self.steps is None else a.movedim((0, 1), (self.rows, self.steps))
        return a if self.flat is None else a.flatten(0, 1)

    def here(self, a: Tensor) -> Tensor:
        """Where the step that counts is, to be spread over [B, T, ..]."""
        assert self.at is not None
        here = torch.arange(a.shape[1], device=a.device) == self.at[:, None]
        return here[(...,) + (None,) * (a.dim() - 2)]

    @property
    def steps_read(self) -> Tensor:
        """Which steps are read, bool [B, T]."""
        return self.mask.flatten(2).any(2) if self.mask.dim() > 2 else self.mask

    def __call__(self, a: Tensor) -> Tensor:
        """What is read [B, R]."""
        a = self.rows_first(a.detach())
        a = torch.where(self.mask, a, 0) if self.at is None else torch.where(self.here(a), a, 0).sum(1)
        return a.reshape(len(a), -1).double()


class ModelRun:
    """One call of the model: what it was given, with something added, and what it gave.

    Args:
        add: (number of an input, the input) -> what is added to it; None for nothing.
        swap: the outputs of one outermost call -> what takes their place.
        decided: of every tensor that might be an input whether it is one, as an earlier run found it.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, int]], decided: list[bool] | None, gradients: bool, add: Any = None, swap: Any = None
    ) -> None:
        self.shapes, self.gradients, self.add, self.swap = shapes, gradients, add, swap
        self.known = iter(decided) if decided is not None else None
        self.decided: list[bool] = []
        self.entries: list[ModelInput] = []
        self.outputs: list[list[Tensor]] = []  # of every outermost call, each a tensor that what follows was computed from
        self.tokens: dict[int, tuple[Tensor, PackedSequence | None]] = {}  # by id, and the packed sequence whose data they are
        self.first: Tensor | None = None  # what the first recurrent layer got at its first step
        self.value: Any = None

    def enter(self, a: Tensor, *, of_tokens: bool = False, steps: Sequence[int] = (0, 1)) -> Tensor:
        """Take a float tensor as an input where it is one."""
        steps = [k for k in steps if a.dim() > 1 and (a.shape[k], a.shape[1 - k]) in self.shapes]
        if not steps:
            return a
        own = next(self.known) if self.known is not None else of_tokens or not a.requires_grad
        self.decided.append(own)
        if not own:
            return a
        change = None if self.add is None else self.add(len(self.entries), a)
        a = a if change is None else a + change
        added = torch.zeros_like(a, requires_grad=True) if self.gradients else None
        self.entries.append(ModelInput(a.detach(), added, steps[0] if len(steps) == 1 else None))
        return a if added is None else a + added

    def given(self, a: Any) -> Any:
        """One argument of an outermost call."""
        if isinstance(a, PackedSequence):
            if a.data.is_floating_point():
                return self.enter_packed(a)
            self.tokens[id(a.data)] = (a.data, a)
            return a
        if not isinstance(a, Tensor):
            return a
        if a.is_floating_point():
            return self.enter(a)
        if a.dtype != torch.bool and a.dim() > 1:
            self.tokens[id(a)] = (a, None)
        return a

    def enter_packed(self, packed: PackedSequence, *, of_tokens: bool = False) -> PackedSequence:
        """Take packed floats as an input, laid out in rows and steps meanwhile."""
        padded = pad_packed_sequence(packed)[0]
        entered = self.enter(padded, of_tokens=of_tokens, steps=(0,))
        return packed if entered is padded else repacked(packed, entered)

    def follow(self, a: Any, packed: PackedSequence | None) -> Any:
        """What came of tokens: floats enter, whole numbers are tokens still."""
        if not isinstance(a, Tensor) or a.dtype == torch.bool:
            return a
        if packed is not None and a.shape[:1] != packed.data.shape[:1]:
            packed = None  # the model has laid them out itself
        if not a.is_floating_point():
            if a.dim() != 1 or all(len(a) != rows for _, rows in self.shapes):  # one number a row: a length, or an order
                self.tokens[id(a)] = (a, packed)
            return a
        if packed is None:
            return self.enter(a, of_tokens=True)
        return self.enter_packed(packed._replace(data=a), of_tokens=True).data

    def gave(self, output: Any) -> Any:
        """The output of an outermost call, in copies that do not depend on each other."""
        own: list[Tensor] = []

        def heard(a: Any) -> Any:
            if isinstance(a, PackedSequence):
                own.append(pad_packed_sequence(a)[0])
            elif isinstance(a, Tensor) and a.is_floating_point():
                own.append(a.clone())
            return a

        mapped(output, heard)
        self.outputs.append(own)
        kept = iter(own if self.swap is None else self.swap(len(self.outputs) - 1, own))

        def replaced(a: Any) -> Any:
            if isinstance(a, PackedSequence):
                return repacked(a, next(kept))
            return next(kept) if isinstance(a, Tensor) and a.is_floating_point() else a

        return mapped(output, replaced)

    def steps_axes(self) -> list[int]:
        """The axis of time of every input: by its size, or by what the first step of the first layer depends on."""
        found = [e.steps if e.steps is not None else self._steps_axis(e) for e in self.entries]
        known = next((axis for axis in found if axis is not None), None)  # an input that no layer reads lies as the others do
        if known is None:
            shown = describe(self.entries[0].value)
            raise NotMeasurable(f"which axis of {shown} is time cannot be told: there are as many rows as steps")
        return [known if axis is None else axis for axis in found]

    def _steps_axis(self, entry: ModelInput) -> int | None:
        if self.first is None or not self.first.requires_grad:
            return None
        total = (self.first * random_like(self.first)).sum()
        g = torch.autograd.grad(total, entry.added, retain_graph=True, allow_unused=True)[0]  # type: ignore[arg-type]
        if g is None:
            return None
        touched = [int((g != 0).movedim(k, 0).flatten(1).any(1).sum()) for k in (0, 1)]
        return None if touched[0] == touched[1] else int(touched[1] < touched[0])

    def _rows_axis(self, steps: list[int], output: Tensor) -> tuple[tuple[int, int] | None, int]:
        """What the first axis of an output is made of, if it is rows and steps in one, and the axis of rows.

        Where sizes leave several, it is that along which a place depends on one row of the input.
        """
        T, B = self.shapes[0]
        found = [(None, output, k) for k in range(output.dim()) if output.shape[k] == B]
        if output.dim() and output.shape[0] == T * B:
            found += [(flat, output.unflatten(0, flat), k) for flat, k in (((T, B), 1), ((B, T), 0))]
        if len(found) > 1:
            known = [one for one in found if self._one_row(steps, one[1].select(one[2], 0))]
            found = known[:1]
        if not found:
            raise NotMeasurable(
                f"{describe(output)}, what the model gives, has no axis of its own for the {B} rows: let the model return its "
                "outputs row by row, and compute the loss from them"
            )
        return found[0][0], found[0][2]

    def _one_row(self, steps: list[int], part: Tensor) -> bool:
        added = [e.added for e in self.entries]
        found = torch.autograd.grad((part * random_like(part)).sum(), added, retain_graph=True, allow_unused=True)  # type: ignore[arg-type]
        touched = [(g != 0).movedim(1 - s, 0).flatten(1).any(1) for g, s in zip(found, steps, strict=True) if g is not None]
        return bool(touched) and int(torch.stack(touched).any(0).sum()) == 1

    def read(self, steps: list[int], index: int, output: Tensor, u: Tensor) -> ReadOutput:
        """What of one output is read, by the gradient at it."""
        flat, rows = self._rows_axis(steps, output)
        sizes = [*(flat or ()), *output.shape[1 if flat else 0 :]]
        long = {T for T, _ in self.shapes}
        axes = [k for k, size in enumerate(sizes) if k != rows and size in long]
        read = ReadOutput(index, flat, rows, axes[0] if axes else None, u)
        read.mask = read.rows_first(u != 0)
        if read.steps is None:
            read.mask = read.mask.any(0).expand_as(read.mask)
            return read
        if int(read.steps_read.sum(1).max()) == 1:
            read.at = last_true(read.steps_read)
        return read

    @contextmanager
    def listening(self, model: nn.Module, given: Any) -> Iterator[None]:
        """Around the call of the model or of its loss with these arguments."""
        hook = _OutermostHook(self)
        tokens = any(
            isinstance(a, PackedSequence) or isinstance(a, Tensor) and not a.is_floating_point() and a.dim() > 1
            for a in leaves(given)
        )
        with ExitStack() as stack:
            for handle in (handle for m in model.modules() for handle in hook.on(m)):
                stack.callback(handle.remove)
            stack.enter_context(torch.set_grad_enabled(self.gradients))
            if tokens:
                stack.enter_context(_Tokens(self))
            yield


class _OutermostHook(Hook):
    """The hook of every module: what goes into the outermost of them, and what comes out."""

    def __init__(self, run: ModelRun) -> None:
        self.run = run
        self.inside = 0

    def __call__(self, module: nn.Module, args: Any, named: Any, *output: Any) -> Any:
        if output:
            self.inside -= 1
            return None if self.inside else self.run.gave(output[0])
        self.inside += 1
        if self.inside == 1:
            args, named = mapped((args, named), self.run.given)
        if isinstance(module, RECURRENT) and self.run.first is None:
            x = args[0] if args else next(iter(named.values()))
            if isinstance(x, PackedSequence):
                self.run.first = x.data[: int(x.batch_sizes[0])]
            elif x.dim() == 3:
                self.run.first = x[:, 0] if getattr(module, "batch_first", False) else x[0]
        return args, named


class _Tokens(TorchFunctionMode):
    """Follows whole numbers to the first floats that come of them."""

    def __init__(self, run: ModelRun) -> None:
        super().__init__()
        self.run = run

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self.run.tokens:
            return out
        given = [self.run.tokens[id(a)] for a in leaves((args, kwargs or {})) if id(a) in self.run.tokens]
        if not given:
            return out
        packed = next((packed for _, packed in given if packed is not None), None)
        return mapped(out, lambda a: self.run.follow(a, packed))


def last_true(here: Tensor) -> Tensor:
    """The last step that is true in each row [B, T] -> [B]; -1 where none is."""
    return torch.where(here, torch.arange(here.shape[1], device=here.device), -1).amax(1)


def random_like(like: Tensor) -> Tensor:
    """Normal numbers, the same ones at every call."""
    draws = torch.randn(like.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return draws.to(like)


def unit_vectors(like: Tensor) -> Tensor:
    """A random unit vector for each row."""
    v = random_like(like)
    return v / v.norm(dim=1, keepdim=True)
