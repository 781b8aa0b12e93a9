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
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from openlstm.errors import OpenLSTMError, describe
from openlstm.insight.batches import HALF, NotMeasurable, arguments, calling, detached, plain_types, untouched
from openlstm.insight.measure.flip import Flip, compared, differs
from openlstm.insight.measure.model_run import ModelInput, ModelRun, ReadOutput, last_true, unit_vectors
from openlstm.insight.place import Place
from openlstm.nn.batch import Loss, leaves

TURNED = 1e-5  # of the gradient at the last outputs: a loss that is a sum over steps turns it by rounding alone
SAME = 1e-3  # of what is read: two calls that differ by less are the same but for rounding


class InputInfluence:
    """A model with its data and its loss, from the inputs to what is read and back.

    Args:
        model, data, loss: as `nn.batch.formed` gives them, two rows or more; without a loss the output itself is read.
        places: what `capture_layers` found in it.

    Raises:
        NotMeasurable: where inputs, rows or what is read cannot be told, or nothing arrives.
    """

    def __init__(self, model: nn.Module, data: Any, loss: Loss | None, places: Sequence[Place]) -> None:
        half = any(p.dtype in HALF for p in model.parameters())
        self.model = copy.deepcopy(model).float() if half else model
        self.args, self.named = detached(arguments(model, data, loss), half)
        self.loss, self.places = loss, list(places)
        self.shapes = list(dict.fromkeys((p.steps, p.rows) for p in places))
        self.rows = places[0].rows
        self.decided: list[bool] | None = None
        self.reads: list[ReadOutput] = []
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
        with self._still():
            return bool(self._reached(self._steps == self.ends - 1 - lag)[self.ends > lag].any())

    # the first run

    def _follow(self) -> None:
        run = self._run(gradients=True)
        if not run.entries and (wider := self._padded()):  # rows that the model packs, padded beyond the longest
            self.shapes += wider
            run = self._run(gradients=True)
        self.decided = run.decided
        if not run.entries:
            raise NotMeasurable(self._no_entry())
        steps = run.steps_axes()
        value = run.value
        if self.loss is None:
            value = self._probe(run, steps)
        if not isinstance(value, Tensor) or not value.requires_grad:
            raise NotMeasurable("the loss has no gradient: it was detached, or computed from whole numbers")
        if not bool(value.isfinite()):
            raise NotMeasurable(f"the loss is {float(value.detach())}")
        self.call, parts = self._what_is_read(run, value)
        outputs = run.outputs[self.call]
        self.reads = [run.read(steps, k, outputs[k], u) for k, u in parts]
        flows = self._last_steps([u for _, u in parts])
        added = [e.added for e in run.entries if e.added is not None]
        if flows is None:
            found = torch.autograd.grad(value, added, allow_unused=True)
        else:
            found = torch.autograd.grad([outputs[k] for k, _ in parts], added, flows, allow_unused=True)
        self._keep(run.entries, steps, found)
        self.seen_first = torch.cat([read(outputs[read.index]) for read in self.reads], 1)

    def _what_is_read(self, run: ModelRun, value: Tensor) -> tuple[int, list[tuple[int, Tensor]]]:
        """The last outermost call that the loss reads, and of each of its outputs that it reads the gradient there."""
        for call in reversed(range(len(run.outputs))):
            given = run.outputs[call]
            found = torch.autograd.grad(value, given, retain_graph=True, allow_unused=True) if given else ()
            parts = [(k, u) for k, u in enumerate(found) if u is not None and bool((u != 0).any())]
            if parts:
                if not all(bool(u.isfinite().all()) for _, u in parts):
                    raise NotMeasurable("the gradient of the loss at what the model gives is not finite")
                return call, parts
        raise NotMeasurable("no gradient of the loss arrives at what the model gives")

    def _keep(self, entries: list[ModelInput], steps: list[int], found: Sequence[Tensor | None]) -> None:
        """The inputs that a gradient comes back to, steps first, and its norms."""
        live = [k for k, g in enumerate(found) if g is not None and bool((g != 0).any())]
        live = [k for k in live if entries[k].value.shape[steps[k]] == entries[live[0]].value.shape[steps[live[0]]]]
        if not live:
            raise NotMeasurable(
                "no gradient of the loss arrives at the inputs: it is zero, or cut on the way (detach, no_grad)"
            )
        self.numbers = {k: n for n, k in enumerate(live)}
        self.axes = [steps[k] for k in live]
        self.entries = [entries[k].value.transpose(0, steps[k]) for k in live]  # [T, B, ..]
        self.norms: list[Tensor] = []
        for k in live:
            g = found[k]
            assert g is not None
            norm = g.transpose(0, steps[k])[..., None].double().flatten(2).norm(dim=2)  # [T, B]
            if not bool(norm.isfinite().all()):
                raise NotMeasurable("the gradient of the loss at the inputs is not finite")
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

    def _last_steps(self, flows: list[Tensor]) -> list[Tensor] | None:
        """Of a loss that is a sum over steps the gradient at the last outputs alone; None for any other loss."""
        every = [read for read in self.reads if read.steps is not None and read.at is None]
        if not every:
            return None
        for read in every:
            read.at = last_true(read.steps_read)
        kept = [self._at_last(read, u) for read, u in zip(self.reads, flows, strict=True)]
        if self.loss is not None:
            other = self._run(gradients=True, swap=self._turned)
            given = [other.outputs[self.call][read.index] for read in self.reads]
            found = torch.autograd.grad(other.value, given, allow_unused=True)
            both = zip(self.reads, kept, found, strict=True)
            moved = [self._at_last(read, torch.zeros_like(u) if g is None else g) for read, u, g in both]
            a, b = (torch.cat([u.flatten() for u in each]).double() for each in (kept, moved))
            scale = float(a @ b / (a @ a))
            if scale <= 0 or float((b - scale * a).norm()) > TURNED * scale * float(a.norm()):
                for read in every:
                    read.at = None
                return None
        return kept

    def _at_last(self, read: ReadOutput, u: Tensor) -> Tensor:
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

    def _probe(self, run: ModelRun, steps: list[int]) -> Tensor:
        """The sum over rows of v . y: of what stands for a whole row, else of the last step."""
        self.call = len(run.outputs) - 1
        parts = []
        for k, out in enumerate(run.outputs[self.call] if run.outputs else ()):
            if out.requires_grad:
                with suppress(NotMeasurable):
                    parts.append((run.read(steps, k, out, torch.ones_like(out)), out))
        whole = [(read, out) for read, out in parts if read.steps is None]
        if not parts:
            raise NotMeasurable("what the model gives has no row for each sequence: pass the loss")
        if not whole and any(p.reverse for p in self.places):
            shown = f"the model has two directions and gives {describe(parts[0][1])}, an output at every step"
            raise NotMeasurable(f"{shown}: which of them are read is not known without the loss")
        ends = self.places[0].ends() - 1
        total = torch.zeros((), device=parts[0][1].device)
        for read, out in whole or parts:
            read.at = None if read.steps is None else ends
            a = read.rows_first(out)
            a = (a if read.at is None else torch.where(read.here(a), a, 0).sum(1)).reshape(self.rows, -1)
            total = total + (unit_vectors(a) * a).sum()
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
            reached = self._reached(self._steps >= high - 1)
            if bool(reached.all()):
                return high, True
            read = self._reached(self._steps >= low)
            if not bool(read.any()):
                return own, False  # it takes NaN for something else
            low, high = torch.where(reached, T - 1, low), torch.where(reached, T, T - 1)
            while bool((high - low > 1).any()):
                middle = (low + high) // 2
                reached = self._reached(self._steps >= middle)
                low, high = torch.where(reached, middle, low), torch.where(reached, high, middle)
        except (OpenLSTMError, RuntimeError):  # a model may refuse NaN
            return own, False
        return torch.where(read, low + 1, 0), True

    def _expect_the_ends_of_layers(self) -> None:
        """Steps of inputs that are longer than those of the layers are the same steps if their rows end where those do."""
        if any(p.steps == self.steps for p in self.places):
            return
        named = [p for p in self.places if torch.equal(p.ends().to(self.ends.device), self.ends)]
        if not named or not self.tells:
            place = self.places[0]
            raise NotMeasurable(
                f"the rows of the data end elsewhere than those of {place.name}: the longest after {int(self.ends.max())} and "
                f"{int(place.ends().max())} steps, so that the steps of the two are not the same"
            )

    @property
    def _steps(self) -> Tensor:
        """0 .. T-1, [T, 1]."""
        return torch.arange(self.steps, device=self.before.device)[:, None]

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
            raise NotMeasurable(
                "two calls with the same inputs give different outputs: the model keeps a state, or draws at random"
            )

    def _run(
        self, add: Callable[[int, Tensor], Tensor] | None = None, *, gradients: bool = False, swap: Any = None
    ) -> ModelRun:
        live = None if add is None else lambda n, a: add(self.numbers[n], a) if n in self.numbers else None
        run = ModelRun(self.shapes, self.decided, gradients, live, swap)
        with run.listening(self.model, (self.args, self.named)), calling("when it is called again"):
            torch.manual_seed(0)
            own = self.model if self.loss is None else partial(self.loss, self.model)
            run.value = own(*self.args, **self.named)
        return run

    def _read(self, run: ModelRun) -> Tensor:
        """What is read [B, R]."""
        return torch.cat([read(run.outputs[self.call][read.index]) for read in self.reads], 1)

    @contextmanager
    def _still(self) -> Iterator[None]:
        with untouched(self.model), plain_types(self.places[0].x):
            yield


def _tensors(value: Any) -> list[Tensor]:
    found = (a.data if isinstance(a, PackedSequence) else a for a in leaves(value))
    return [a for a in found if isinstance(a, Tensor)]
