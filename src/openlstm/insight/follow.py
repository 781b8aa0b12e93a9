"""What of an input arrives at what the loss reads, by whatever way: the whole model is called with its loss, and followed.

    g_bk   = dL/dx of row b, k steps before its last          x: an input of the model with rows and steps; of tokens the first
                                                              floats that come of them, as a rule their embedding
    share  = sum_b ||g_b,lag|| / max over k of sum_b ||g_bk||
    flip   = mean_b ||y_b' - y_b|| / rms_b ||y_b - mean y||   y: what the loss reads; y' where x is mirrored at the lag (`flip`)

Nothing here knows how the model is made: a direction, pooling, attention or a connection around the layers all count, because
dL/dx and y do. Norms are Euclidean over what one row holds, sums over the rows that are longer than the lag; of several inputs
the one with the largest share speaks, and all are flipped together.

Rows end where their output does: at the last step of x that what is read depends on at all. That is found with NaN, which
passes through whatever reads it (packed rows, `lengths=`, an output that is picked at its own step).

A loss that is a sum over steps has a way from every input to the output of the same step, which says nothing of a lag: of such
a loss the last step alone is followed. It is one if the gradient at the last outputs does not turn when the outputs of all
other steps become another one, the most unusual of them; then L above is what is left of it. Pooling inside the loss is none.

Without a loss L = sum_b v_b . y_b, v_b a random unit vector, y what the model gives for a whole row, else its last step.

Legend: T time, B batch.

Source: Bengio, Simard & Frasconi 1994 (gradients over lags); measured in docs/horizon.md.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence
from torch.overrides import TorchFunctionMode

from openlstm.engine.execute import plain_types
from openlstm.errors import describe
from openlstm.insight.flip import Flip, compared, differs
from openlstm.insight.look import Place, _arguments, _Deaf, _untouched
from openlstm.nn.batch import RECURRENT, Loss, leaves, mapped

HALF = (torch.float16, torch.bfloat16)
TURNED = 1e-5  # of the gradient at the last outputs: a loss that is a sum over steps turns it by rounding alone
SAME = 1e-3  # of what is read: two calls that differ by less are the same but for rounding


class Unknown(Exception):
    """Nothing can be said, and why: a sentence without its full stop."""


class Entry(NamedTuple):
    """An input as one call of the model was given it."""

    value: Tensor  # [T, B, ..] or [B, T, ..]
    added: Tensor | None  # zeros that the gradient is taken of
    steps: int | None  # the axis of time, 0 or 1; None where T = B leaves it open


@dataclass
class _Read:
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

    def __call__(self, a: Tensor) -> Tensor:
        """What is read [B, R]."""
        a = self.rows_first(a.detach())
        a = torch.where(self.mask, a, 0) if self.at is None else torch.where(self.here(a), a, 0).sum(1)
        return a.reshape(len(a), -1).double()


class _Run:
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
        self.entries: list[Entry] = []
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
        self.entries.append(Entry(a.detach(), added, steps[0] if len(steps) == 1 else None))
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
        return (
            self.enter(a, of_tokens=True) if packed is None else self.enter_packed(packed._replace(data=a), of_tokens=True).data
        )

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


class _Door:
    """The hook of every module: what goes into the outermost of them, and what comes out."""

    def __init__(self, run: _Run) -> None:
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

    def __reduce__(self) -> Any:
        return _Deaf, ()


class _Tokens(TorchFunctionMode):
    """Follows whole numbers to the first floats that come of them."""

    def __init__(self, run: _Run) -> None:
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


class Followed:
    """A model with its data and its loss, from the inputs to what is read and back.

    Args:
        model, data, loss: as `nn.batch.formed` gives them, two rows or more; without a loss the output itself is read.
        places: what `look` found in it.

    Raises:
        Unknown: where inputs, rows or what is read cannot be told, or nothing arrives.
    """

    def __init__(self, model: nn.Module, data: Any, loss: Loss | None, places: Sequence[Place]) -> None:
        half = any(p.dtype in HALF for p in model.parameters())
        self.model = copy.deepcopy(model).float() if half else model
        self.args, self.named = mapped(_arguments(model, data, loss), lambda a: _own(a, half))
        self.loss, self.places = loss, list(places)
        self.shapes = list(dict.fromkeys((p.steps, p.rows) for p in places))
        self.rows = places[0].rows
        self.decided: list[bool] | None = None
        self.reads: list[_Read] = []
        self.call = 0  # the number of the outermost call whose output is read
        with self._still():
            with torch.enable_grad():
                self._follow()
            self.before = self._read(self._run())
            self._expect_the_same()
            self.ends, self.tells = self._ends()
            self._expect_the_ends_of_layers()

    @property
    def steps(self) -> int:
        """T of the inputs."""
        return self.norms[0].shape[0]

    @property
    def longest(self) -> int:
        """The longest lag that two rows have."""
        return int(self.ends.sort(descending=True).values[1]) - 1

    def share(self, lag: int) -> float:
        """Of the gradient at one lag."""
        return max(float(self._shares(k, lag)[lag]) for k in self._that_differ(lag))

    def shares(self) -> np.ndarray:
        """[longest + 1], for every lag: the best input of each, over the rows that have the longest."""
        found = [self._shares(k, self.longest)[: self.longest + 1] for k in range(len(self.entries))]
        return torch.stack(found).amax(0).cpu().numpy()

    def flip(self, lag: int) -> Flip:
        """The input at the lag mirrored, and what becomes of what is read."""
        kept = self.ends > lag
        with self._still():
            after = self._read(self._run(lambda k, a: self._mirrored(k, a, lag)))
        changed = any(self._differs(k, lag) for k in range(len(self.entries)))
        return compared(self.before[kept], after[kept], lag, changed)

    def depends(self, lag: int) -> bool:
        """Whether what is read can depend on the input at the lag at all; True where that cannot be told."""
        if not self.tells:
            return True
        at = self._steps_first_mask(self.ends - 1 - lag)
        with self._still():
            return bool(self._reached(at)[self.ends > lag].any())

    # the first run

    def _follow(self) -> None:
        run = self._run(gradients=True)
        if not run.entries and (wider := self._padded()):  # rows that the model packs, padded beyond the longest
            self.shapes += wider
            run = self._run(gradients=True)
        self.decided = run.decided
        if not run.entries:
            raise Unknown(self._no_entry())
        steps = self._steps_axes(run)
        value = run.value
        if self.loss is None:
            value = self._probe(run, steps)
        if not isinstance(value, Tensor) or not value.requires_grad:
            raise Unknown("the loss has no gradient: it was detached, or computed from whole numbers")
        if not bool(value.isfinite()):
            raise Unknown(f"the loss is {float(value.detach())}")
        self.call, parts = self._what_is_read(run, value)
        outputs = run.outputs[self.call]
        self.reads = [self._reads(run, steps, k, outputs[k], u) for k, u in parts]
        flows = self._last_steps([u for _, u in parts])
        added = [e.added for e in run.entries if e.added is not None]
        if flows is None:
            found = torch.autograd.grad(value, added, allow_unused=True)
        else:
            found = torch.autograd.grad([outputs[k] for k, _ in parts], added, flows, allow_unused=True)
        self._keep(run.entries, steps, found)
        self.seen_first = torch.cat([read(outputs[read.index]) for read in self.reads], 1)

    def _what_is_read(self, run: _Run, value: Tensor) -> tuple[int, list[tuple[int, Tensor]]]:
        """The last outermost call that the loss reads, and of each of its outputs that it reads the gradient there."""
        for call in reversed(range(len(run.outputs))):
            given = run.outputs[call]
            found = torch.autograd.grad(value, given, retain_graph=True, allow_unused=True) if given else ()
            parts = [(k, u) for k, u in enumerate(found) if u is not None and bool((u != 0).any())]
            if parts:
                if not all(bool(u.isfinite().all()) for _, u in parts):
                    raise Unknown("the gradient of the loss at what the model gives is not finite")
                return call, parts
        raise Unknown("no gradient of the loss arrives at what the model gives")

    def _keep(self, entries: list[Entry], steps: list[int], found: Sequence[Tensor | None]) -> None:
        """The inputs that a gradient comes back to, steps first, and its norms."""
        live = [k for k, g in enumerate(found) if g is not None and bool((g != 0).any())]
        live = [k for k in live if entries[k].value.shape[steps[k]] == entries[live[0]].value.shape[steps[live[0]]]]
        if not live:
            raise Unknown("no gradient of the loss arrives at the inputs: it is zero, or cut on the way (detach, no_grad)")
        self.numbers = {k: n for n, k in enumerate(live)}
        self.axes = [steps[k] for k in live]
        self.entries = [entries[k].value.transpose(0, steps[k]) for k in live]  # [T, B, ..]
        self.norms: list[Tensor] = []
        for k in live:
            g = found[k]
            assert g is not None
            norm = g.transpose(0, steps[k])[..., None].double().flatten(2).norm(dim=2)  # [T, B]
            if not bool(norm.isfinite().all()):
                raise Unknown("the gradient of the loss at the inputs is not finite")
            self.norms.append(norm)

    def _padded(self) -> list[tuple[int, int]]:
        """Steps and rows of the first of the data that has more steps than layers with rows of their own lengths see."""
        found = [
            (steps, rows)
            for place in self.places
            if place.lengths is not None
            for a in _tensors((self.args, self.named))
            if a.dim() > 1
            for steps, rows in (a.shape[:2], (a.shape[1], a.shape[0]))
            if rows == place.rows and steps > place.steps
        ]
        return found[:1]

    def _no_entry(self) -> str:
        T, B = self.shapes[0]
        shown = ", ".join(describe(a) for a in _tensors((self.args, self.named))) or "no tensor"
        return (
            f"no floats with {B} rows and {T} steps, as {self.places[0].name} sees them, are among the data ({shown}) or come "
            "of tokens in them"
        )

    def _steps_axes(self, run: _Run) -> list[int]:
        """The axis of time of every input: by its size, or by what the first step of the first layer depends on."""
        found = [e.steps if e.steps is not None else self._steps_axis(run, e) for e in run.entries]
        known = next((axis for axis in found if axis is not None), None)  # an input that no layer reads lies as the others do
        if known is None:
            shown = describe(run.entries[0].value)
            raise Unknown(f"which axis of {shown} is time cannot be told: there are as many rows as steps")
        return [known if axis is None else axis for axis in found]

    def _steps_axis(self, run: _Run, entry: Entry) -> int | None:
        if run.first is None or not run.first.requires_grad:
            return None
        total = (run.first * _random(run.first)).sum()
        g = torch.autograd.grad(total, entry.added, retain_graph=True, allow_unused=True)[0]  # type: ignore[arg-type]
        if g is None:
            return None
        touched = [int((g != 0).movedim(k, 0).flatten(1).any(1).sum()) for k in (0, 1)]
        return None if touched[0] == touched[1] else int(touched[1] < touched[0])

    def _rows_axis(self, run: _Run, steps: list[int], output: Tensor) -> tuple[tuple[int, int] | None, int]:
        """What the first axis of an output is made of, if it is rows and steps in one, and the axis of rows.

        Where sizes leave several, it is that along which a place depends on one row of the input.
        """
        T, B = self.shapes[0]
        found = [(None, output, k) for k in range(output.dim()) if output.shape[k] == B]
        if output.dim() and output.shape[0] == T * B:
            found += [(flat, output.unflatten(0, flat), k) for flat, k in (((T, B), 1), ((B, T), 0))]
        if len(found) > 1:
            known = [one for one in found if self._one_row(run, steps, one[1].select(one[2], 0))]
            found = known[:1]
        if not found:
            raise Unknown(
                f"{describe(output)}, what the model gives, has no axis of its own for the {B} rows: let the model return its "
                "outputs row by row, and compute the loss from them"
            )
        return found[0][0], found[0][2]

    def _one_row(self, run: _Run, steps: list[int], part: Tensor) -> bool:
        added = [e.added for e in run.entries]
        found = torch.autograd.grad((part * _random(part)).sum(), added, retain_graph=True, allow_unused=True)  # type: ignore[arg-type]
        touched = [(g != 0).movedim(1 - s, 0).flatten(1).any(1) for g, s in zip(found, steps, strict=True) if g is not None]
        return bool(touched) and int(torch.stack(touched).any(0).sum()) == 1

    def _reads(self, run: _Run, steps: list[int], index: int, output: Tensor, u: Tensor) -> _Read:
        """What of one output is read, by the gradient at it."""
        flat, rows = self._rows_axis(run, steps, output)
        sizes = [*(flat or ()), *output.shape[1 if flat else 0 :]]
        long = {T for T, _ in self.shapes}
        axes = [k for k, size in enumerate(sizes) if k != rows and size in long]
        read = _Read(index, flat, rows, axes[0] if axes else None, u)
        read.mask = read.rows_first(u != 0)
        if read.steps is None:
            read.mask = read.mask.any(0).expand_as(read.mask)
            return read
        here = read.mask.flatten(2).any(2) if read.mask.dim() > 2 else read.mask  # [B, T]
        if int(here.sum(1).max()) == 1:
            read.at = _last(here)
        return read

    def _last_steps(self, flows: list[Tensor]) -> list[Tensor] | None:
        """Of a loss that is a sum over steps the gradient at the last outputs alone; None for any other loss."""
        every = [read for read in self.reads if read.steps is not None and read.at is None]
        if not every:
            return None
        for read in every:
            here = read.mask.flatten(2).any(2) if read.mask.dim() > 2 else read.mask
            read.at = _last(here)
        kept = [self._at_last(read, u) for read, u in zip(self.reads, flows, strict=True)]
        if self.loss is not None:
            other = self._run(gradients=True, swap=self._turned)
            given = [other.outputs[self.call][read.index] for read in self.reads]
            found = torch.autograd.grad(other.value, given, allow_unused=True)
            a = torch.cat([u.flatten() for u in kept]).double()
            b = torch.cat(
                [
                    torch.zeros_like(u).flatten() if g is None else self._at_last(read, g).flatten()
                    for read, u, g in zip(self.reads, kept, found, strict=True)
                ]
            ).double()
            scale = float(a @ b / (a @ a))
            if scale <= 0 or float((b - scale * a).norm()) > TURNED * scale * float(a.norm()):
                for read in every:
                    read.at = None
                return None
        return kept

    def _at_last(self, read: _Read, u: Tensor) -> Tensor:
        if read.steps is None or read.at is None:
            return u
        u = read.rows_first(u)
        return read.as_it_was(torch.where(read.here(u), u, 0))

    def _turned(self, call: int, outputs: list[Tensor]) -> list[Tensor]:
        """The outputs that are read, those of all steps but the last replaced by the one farthest from their mean."""
        outputs = list(outputs)
        for read in self.reads:
            if call == self.call and read.steps is not None and read.at is not None:
                a = read.rows_first(outputs[read.index])
                each = a.detach().flatten(0, 1)  # [B * T, ..]
                far = (each - each.mean(0)).reshape(len(each), -1).norm(dim=1).nan_to_num(0, 0, 0)
                outputs[read.index] = read.as_it_was(torch.where(read.here(a), a, each[far.argmax()]))
        return outputs

    def _probe(self, run: _Run, steps: list[int]) -> Tensor:
        """The sum over rows of v . y: of what stands for a whole row, else of the last step."""
        self.call = len(run.outputs) - 1
        parts = []
        for k, out in enumerate(run.outputs[self.call] if run.outputs else ()):
            if out.requires_grad:
                with suppress(Unknown):
                    parts.append((self._reads(run, steps, k, out, torch.ones_like(out)), out))
        whole = [(read, out) for read, out in parts if read.steps is None]
        if not parts:
            raise Unknown("what the model gives has no row for each sequence: pass the loss")
        if not whole and any(p.reverse for p in self.places):
            shown = f"the model has two directions and gives {describe(parts[0][1])}, an output at every step"
            raise Unknown(f"{shown}: which of them are read is not known without the loss")
        ends = self.places[0].ends() - 1
        total = torch.zeros((), device=parts[0][1].device)
        for read, out in whole or parts:
            read.at = None if read.steps is None else ends
            a = read.rows_first(out)
            a = (a if read.at is None else torch.where(read.here(a), a, 0).sum(1)).reshape(self.rows, -1)
            total = total + (_units(a) * a).sum()
        return total

    # later runs

    def _ends(self) -> tuple[Tensor, bool]:
        """How many steps each row has, int64 [B], and whether NaN tells."""
        T = self.steps
        low = torch.zeros(self.rows, dtype=torch.int64, device=self.before.device)
        high = torch.full_like(low, T)
        place = self.places[0]
        own = place.ends().to(low.device) if place.steps == T or place.lengths is not None else high
        try:
            reached = self._reached(self._from(high - 1))
            if bool(reached.all()):
                return high, True
            read = self._reached(self._from(low))
            if not bool(read.any()):
                return own, False  # it takes NaN for something else
            low, high = torch.where(reached, T - 1, low), torch.where(reached, T, T - 1)
            while bool((high - low > 1).any()):
                middle = (low + high) // 2
                reached = self._reached(self._from(middle))
                low, high = torch.where(reached, middle, low), torch.where(reached, high, middle)
        except Exception:  # noqa: BLE001  a model may refuse NaN with whatever error it likes
            return own, False
        return torch.where(read, low + 1, 0), True

    def _expect_the_ends_of_layers(self) -> None:
        """Steps of inputs that are longer than those of the layers are the same steps if their rows end where those do."""
        if any(p.steps == self.steps for p in self.places):
            return
        named = [p for p in self.places if torch.equal(p.ends().to(self.ends.device), self.ends)]
        if not named or not self.tells:
            place = self.places[0]
            raise Unknown(
                f"the rows of the data end elsewhere than those of {place.name}: the longest after {int(self.ends.max())} and "
                f"{int(place.ends().max())} steps, so that the steps of the two are not the same"
            )

    def _from(self, first: Tensor) -> Tensor:
        return torch.arange(self.steps, device=first.device)[:, None] >= first

    def _steps_first_mask(self, at: Tensor) -> Tensor:
        return torch.arange(self.steps, device=at.device)[:, None] == at

    def _reached(self, at: Tensor) -> Tensor:
        """Which rows of what is read are not finite when these steps [T, B] are NaN.

        Of outputs that the loss pools itself it is the gradient that tells: which of them it reads may change with them.
        """

        def nan(k: int, a: Tensor) -> Tensor:
            here = at.transpose(0, self.axes[k])[(...,) + (None,) * (a.dim() - 2)]
            return torch.zeros_like(a).masked_fill(here.to(a.device), torch.nan)

        if all(read.steps is None or read.at is not None for read in self.reads):
            return ~self._read(self._run(nan)).isfinite().all(1)
        run = self._run(nan, gradients=True)
        given = [run.outputs[self.call][read.index] for read in self.reads]
        found = torch.autograd.grad(run.value, given, allow_unused=True)
        lost = [
            ~read.rows_first(g).reshape(self.rows, -1).isfinite().all(1)
            for read, g in zip(self.reads, found, strict=True)
            if g is not None
        ]
        return torch.stack(lost).any(0) if lost else torch.zeros_like(self.before[:, 0], dtype=torch.bool)

    def _mirrored(self, k: int, a: Tensor, lag: int) -> Tensor:
        """What mirrors an input at the lag about its mean over the rows."""
        kept, at = self._rows_and_steps(lag)
        rows = a.transpose(0, self.axes[k])[at, kept]
        added = torch.zeros_like(a)
        added.transpose(0, self.axes[k])[at, kept] = 2 * (rows.mean(0) - rows)
        return added

    def _rows_and_steps(self, lag: int) -> tuple[Tensor, Tensor]:
        kept = (self.ends > lag).nonzero()[:, 0]
        return kept, self.ends[kept] - 1 - lag

    def _differs(self, k: int, lag: int) -> bool:
        kept, at = self._rows_and_steps(lag)
        return differs(self.entries[k][at, kept].reshape(len(kept), -1))

    def _that_differ(self, lag: int) -> list[int]:
        every = list(range(len(self.entries)))
        return [k for k in every if self._differs(k, lag)] or every

    def _shares(self, k: int, lag: int) -> Tensor:
        """[T] of one input, by lag, over the rows that are longer than this one."""
        kept = self.ends > lag
        at = self.ends[kept] - 1 - torch.arange(self.steps, device=kept.device)[:, None]  # [T, rows]
        sums = torch.where(at >= 0, self.norms[k][:, kept].gather(0, at.clamp(min=0)), 0).sum(1)
        most = sums.max()
        return sums / most if most > 0 else sums

    def _expect_the_same(self) -> None:
        a, b = self.before, self.seen_first
        if float((a - b).norm()) > SAME * float(b.norm()):
            raise Unknown("two calls with the same inputs give different outputs: the model keeps a state, or draws at random")

    def _run(self, add: Callable[[int, Tensor], Tensor] | None = None, *, gradients: bool = False, swap: Any = None) -> _Run:
        live = None if add is None else lambda n, a: add(self.numbers[n], a) if n in self.numbers else None
        run = _Run(self.shapes, self.decided, gradients, live, swap)
        door = _Door(run)
        given = leaves((self.args, self.named))
        tokens = any(
            isinstance(a, PackedSequence) or isinstance(a, Tensor) and not a.is_floating_point() and a.dim() > 1 for a in given
        )
        with ExitStack() as stack:
            for m in self.model.modules():
                for handle in (
                    m.register_forward_pre_hook(door, with_kwargs=True),
                    m.register_forward_hook(door, with_kwargs=True),
                ):
                    stack.callback(handle.remove)
            stack.enter_context(torch.set_grad_enabled(gradients))
            if tokens:
                stack.enter_context(_Tokens(run))
            torch.manual_seed(0)
            run.value = (
                self.model(*self.args, **self.named) if self.loss is None else self.loss(self.model, *self.args, **self.named)
            )
        return run

    def _read(self, run: _Run) -> Tensor:
        """What is read [B, R]."""
        return torch.cat([read(run.outputs[self.call][read.index]) for read in self.reads], 1)

    @contextmanager
    def _still(self) -> Iterator[None]:
        with _untouched(self.model), plain_types(self.places[0].x):
            self.model.eval()
            yield


def repacked(packed: PackedSequence, padded: Tensor) -> PackedSequence:
    """Padded steps [T, B, ..], rows in their own order, in the place of those of a packed sequence."""
    order = torch.arange(len(packed.data), device=packed.data.device)
    at, lengths = pad_packed_sequence(packed._replace(data=order))  # [T, B], the place of each step in the data
    real = torch.arange(at.shape[0])[:, None] < lengths
    index = torch.empty_like(order)
    index[at[real.to(at.device)]] = torch.arange(at.numel(), device=at.device).view_as(at)[real.to(at.device)]
    return packed._replace(data=padded.flatten(0, 1)[index])


def _last(here: Tensor) -> Tensor:
    """The last step that is true in each row [B, T] -> [B]; -1 where none is."""
    return torch.where(here, torch.arange(here.shape[1], device=here.device), -1).amax(1)


def _random(like: Tensor) -> Tensor:
    draws = torch.randn(like.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return draws.to(like)


def _units(like: Tensor) -> Tensor:
    """A random unit vector for each row."""
    v = _random(like)
    return v / v.norm(dim=1, keepdim=True)


def _own(a: Any, half: bool) -> Any:
    if isinstance(a, PackedSequence):
        return a._replace(data=_own(a.data, half))
    if not isinstance(a, Tensor):
        return a
    a = a.detach()
    return a.float() if half and a.dtype in HALF else a


def _tensors(value: Any) -> list[Any]:
    found: list[Any] = []
    mapped(value, lambda a: found.append(a.data if isinstance(a, PackedSequence) else a) or a)
    return [a for a in found if isinstance(a, Tensor)]
