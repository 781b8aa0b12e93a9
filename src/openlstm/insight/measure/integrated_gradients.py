"""Integrated gradients along a straight path: the integral of the gradient in intervals, halved where the error is largest.

Legend: T time, B batch, I inputs, s the place on the path, 0 at the baseline and 1 at the inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from openlstm.errors import ArgumentError, DtypeError, ShapeError, describe
from openlstm.insight.batches import Layout, calling, repacked
from openlstm.nn.batch import RECURRENT

NODES = 4
"""Gradients for one interval of the path: exact for polynomials of degree 7."""

NARROW = 2.0**-17
"""An interval this short is not halved again: float32 tells no places within it apart that a steep network would."""

GAP = 0.005
"""Where halving stops: half of what is promised."""

SHIFT = 0.382
"""Of the steps of a row, how many its baseline is away: no simple fraction, so that no period fits."""

Target = int | Callable[[Any], Tensor] | None


class Axes(NamedTuple):
    """Where rows and steps are in the first input, and so in whatever has its axes."""

    layout: Layout
    batch: int | None  # None for one row without a batch axis
    ends: Tensor  # [B], how many steps each row has

    def timed(self, a: Tensor) -> bool:
        """Whether it has the axes of the first input."""
        return a.shape[:1] == (self.layout.steps,) if self.batch is None else self.layout.timed(a)

    def has_rows(self, a: Tensor) -> bool:
        """Whether it has a value for each row."""
        return self.batch is None or self.layout.row_axis(a) is not None

    def first(self, a: Tensor) -> Tensor:
        """With the axis of rows in front: [B, ..], and [B, T, ..] where there are steps."""
        axis = None if self.batch is None else self.layout.row_axis(a)
        return a.unsqueeze(0) if axis is None else a.movedim(axis, 0)

    def spread(self, s: Tensor, like: Tensor) -> Tensor:
        """A number for each row [B] in the shape of `like`."""
        axis = None if self.batch is None else self.layout.row_axis(like)
        return s.to(like.dtype) if axis is None else s.to(like.dtype).view([-1 if k == axis else 1 for k in range(like.dim())])


def axes_of(model: nn.Module, inputs: tuple[Any, ...], batch_first: bool, lengths: Tensor | None) -> Axes:
    """The axes of the first tensor among the inputs.

    Raises:
        DtypeError: if there is none.
        ShapeError: for another number of axes, or lengths that do not fit.
    """
    first = next((a for a in inputs if isinstance(a, Tensor)), None)
    if first is None:
        shown, hint = ", ".join(describe(a) for a in inputs), "turn the numbers into tensors first"
        raise DtypeError.of("attribution", "no tensor among the inputs", shown, "x [B, T, I] or ids [B, T]", hint)
    alone = first.dim() == (2 if isinstance(model, RECURRENT) else 1)
    if not alone and first.dim() not in (2, 3):
        got, hint = f"x: {describe(first)}", "give every step an axis of its own"
        raise ShapeError.of("attribution", "x has no axes of rows and steps", got, "[B, T, I], [B, T] or [T]", hint)
    batch = None if alone else 0 if batch_first else 1
    time = 0 if batch is None else 1 - batch
    B, T = 1 if batch is None else first.shape[batch], first.shape[time]
    ends = torch.full((B,), T) if lengths is None else torch.as_tensor(lengths).cpu()
    if ends.shape != (B,) or ends.is_floating_point() or int(ends.min()) < 1 or int(ends.max()) > T:
        got, expected = f"lengths: {describe(ends)}, x: {describe(first)}", f"[{B}] = [B], whole numbers from 1 to {T}"
        what, hint = "the lengths are not those of the rows", "give one length for each row"
        raise ShapeError.of("attribution", what, got, expected, hint)
    return Axes(Layout(B, T, time), batch, ends.to(first.device))


class StraightPath:
    """F along the straight line from the baseline to the inputs."""

    def __init__(
        self,
        model: nn.Module,
        names: tuple[str, ...],
        inputs: tuple[Any, ...],
        target: Target,
        baseline: Any,
        axes: Axes,
        packs: Mapping[int, PackedSequence],
    ) -> None:
        self.packs = packs  # by the number of the input, which stands padded among the inputs
        self.model, self.names, self.inputs, self.axes, self.target = model, names, inputs, axes, target
        ids = any(isinstance(a, Tensor) and not a.is_floating_point() and a.dtype != torch.bool for a in inputs)
        self.embeddings = [m for m in model.modules() if ids and isinstance(m, nn.Embedding)]
        self.floats = [k for k, a in enumerate(inputs) if isinstance(a, Tensor) and a.is_floating_point() and axes.has_rows(a)]
        outputs: list[Tensor] = []
        with torch.no_grad(), hearing(self.embeddings, lambda e: self._laid_out(e, outputs.append)):
            out = self.call(inputs)
        self.scaled = [axes.has_rows(e) for e in outputs]  # the embedding of a position is the same for all rows
        self.tokens = any(self.scaled)
        self.ends = [inputs[k].detach() for k in self.floats] + [e.detach() for e in outputs if axes.has_rows(e)]
        if not self.ends:
            shown, hint = ", ".join(describe(a) for a in inputs), "pass floats, or ids to a model that uses nn.Embedding"
            expected = "floats, or ids that go to an embedding"
            raise DtypeError.of("attribution", "no input that can be scaled", shown, expected, hint)
        own = isinstance(baseline, (int, float, Tensor))  # it belongs to the first that is scaled
        self.begins = [
            self._start(baseline, a)
            if own and k == 0
            else self._shifted(a)
            if self._moves(baseline, k)
            else torch.zeros_like(a)
            for k, a in enumerate(self.ends)
        ]
        self.choice: Tensor | None = None
        self.output = self.read(out).detach()
        self.baseline = self.value(self.output.new_zeros(axes.layout.rows))
        if not bool((self.output.isfinite() & self.baseline.isfinite()).all()):
            hint = "look at the model and its inputs first: openlstm.insight.capture_layers names the first of them"
            raise ArgumentError.of("attribution", "the output is not finite", "NaN or infinity", "finite numbers", hint)

    def call(self, inputs: Sequence[Any]) -> Any:
        inputs = [self._packed(self.packs[k], a) if k in self.packs else a for k, a in enumerate(inputs)]
        with calling("on the way from the baseline to the inputs"):
            return self.model(**dict(zip(self.names, inputs, strict=True))) if self.names else self.model(*inputs)

    def _packed(self, packed: PackedSequence, padded: Tensor) -> PackedSequence:
        return repacked(packed, padded if self.axes.layout.time == 0 else padded.transpose(0, 1))

    def _laid_out(self, out: Tensor, see: Callable[[Tensor], Tensor | None]) -> Tensor | None:
        """What `see` makes of an embedding; of packed ids it is shown with rows and steps."""
        ids = (p for p in self.packs.values() if not p.data.is_floating_point() and len(p.data) == len(out))
        packed = next(ids, None)
        if packed is None:
            return see(out)
        given = see(pad_packed_sequence(packed._replace(data=out), batch_first=self.axes.batch == 0)[0])
        return None if given is None else self._packed(packed, given).data

    def _moves(self, baseline: Any, k: int) -> bool:
        """Whether the k-th of what is scaled begins as itself at other steps."""
        return self.axes.timed(self.ends[k]) and (isinstance(baseline, str) or (baseline is None and k >= len(self.floats)))

    def _shifted(self, a: Tensor) -> Tensor:
        """Every row turned within its own steps."""
        axes = self.axes
        t, ends = torch.arange(axes.layout.steps, device=a.device), axes.ends.to(a.device)[:, None]
        at = torch.where(t < ends, (t - (SHIFT * ends).round().long().clamp(min=1)) % ends, t)  # [B, T]
        turned = axes.first(a)[torch.arange(axes.layout.rows, device=a.device)[:, None], at]
        return turned[0] if axes.batch is None else turned.movedim(0, axes.batch)

    def _start(self, baseline: Any, like: Tensor) -> Tensor:
        given = torch.as_tensor(baseline, dtype=like.dtype, device=like.device)
        try:
            return given.expand_as(like).clone()
        except RuntimeError:
            got, hint = f"baseline: {describe(given)}, x: {describe(like)}", "a number, or one value for each feature: [I]"
            expected = "what broadcasts to x"
            raise ShapeError.of("attribution", "the baseline does not fit", got, expected, hint) from None

    def value(self, s: Tensor) -> Tensor:
        """F of every row at its own s, [B] -> [B]."""
        with torch.no_grad():
            return self.run(self.at(s))

    def gradients(self, s: Tensor) -> list[Tensor]:
        """dF/dx of every row at its own s, of every input that is scaled."""
        points = [p.requires_grad_() for p in self.at(s)]
        total = self.run(points).sum()
        if not total.requires_grad:
            return [torch.zeros_like(p) for p in points]
        found = torch.autograd.grad(total, points, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(points, found, strict=True)]

    def at(self, s: Tensor) -> list[Tensor]:
        return [torch.lerp(a, b, self.axes.spread(s, a)) for a, b in zip(self.begins, self.ends, strict=True)]

    def run(self, points: list[Tensor]) -> Tensor:
        inputs, coming, scaled = list(self.inputs), iter(points), iter(self.scaled)
        for k in self.floats:
            inputs[k] = next(coming)
        with hearing(self.embeddings, lambda out: self._laid_out(out, lambda out: next(coming) if next(scaled) else out)):
            return self.read(self.call(inputs))

    def read(self, out: Any) -> Tensor:
        """One number of each row, [B]."""
        ax, (B, T, _), shown = self.axes, self.axes.layout, describe(out)
        if callable(self.target):
            o = self.target(out)
            if isinstance(o, Tensor) and o.numel() == B and o.is_floating_point():
                return o.reshape(B)
            got, hint = f"target(output): {describe(o)}", "lambda output: output[:, -1, 3], say"
            raise ShapeError.of("attribution", "the target is not one number for each row", got, f"[{B}] = [B]", hint)
        while isinstance(out, (tuple, list)) and out and not isinstance(out, PackedSequence):
            out = out[0]
        if isinstance(out, PackedSequence):
            out = pad_packed_sequence(out, batch_first=ax.batch == 0)[0]
        if isinstance(out, Tensor) and out.is_floating_point() and out.dim() > 0:
            steps = (T, int(ax.ends.max()))  # a model that packs may give no more than the longest row has
            if ax.batch is None:
                out = out[-1:] if out.dim() > 1 and out.shape[0] == T else out.unsqueeze(0)
            elif out.dim() > 2 - ax.batch and out.shape[ax.layout.time] in steps and out.shape[ax.batch] == B:
                out = out.movedim(ax.batch, 0)[torch.arange(B, device=out.device), ax.ends.to(out.device) - 1]
            if out.shape[0] == B:
                return self.chosen(out.reshape(B, -1) if self.target is None else out)
        what, hint = "no number for each row in the output", "pass target=, a function of the output that gives [B]"
        raise ShapeError.of("attribution", what, f"output: {shown}", f"[{B}, ..] = [B, ..]", hint)

    def chosen(self, o: Tensor) -> Tensor:
        """o [B, ..] -> [B]."""
        if self.target is None and not self.tokens:
            return o.sum(1)
        if self.target is None:
            self.choice = o.argmax(1, keepdim=True) if self.choice is None else self.choice  # the same all along the path
            return o.gather(1, self.choice)[:, 0]
        o = o.unsqueeze(1) if o.dim() == 1 else o
        k = self.target
        if isinstance(k, bool) or not isinstance(k, int) or not -o.shape[-1] <= k < o.shape[-1]:
            got, hint = f"target={k!r}", "an index on the last axis of the output, or a function of the output"
            raise ArgumentError.of("attribution", f"no output {k!r}", got, f"0 .. {o.shape[-1] - 1}", hint)
        return o[..., k].reshape(self.axes.layout.rows, -1).sum(1)


class Interval(NamedTuple):
    """The integral over a part of the path of one row."""

    begin: float
    end: float
    low: float  # F at the begin
    high: float  # F at the end
    parts: list[Tensor]  # of every input that is scaled, in the shape of one row
    error: float  # what the parts add up to, less what F did
    jump: float  # what F did, where the parts were made to add up to it


def intervals(path: StraightPath, steps: int) -> tuple[list[list[Interval]], int]:
    """The path of every row in intervals, the worst of each halved until the errors are small; rows go side by side."""
    B, like = path.axes.layout.rows, path.output
    span = (path.output - path.baseline).double()
    enough = torch.maximum(span.abs(), span.norm() / math.sqrt(max(B, 1))) * GAP
    enough = torch.maximum(enough, 8 * torch.finfo(like.dtype).eps * like.double().abs()).tolist()
    whole = (torch.zeros_like(like), torch.ones_like(like), path.baseline, path.output)
    mine = [[interval] for interval in _integrals(path, *whole)]
    used = NODES
    while used + 2 * NODES <= steps:
        open_rows = [b for b in range(B) if sum(_size(p) for p in mine[b]) > enough[b]]
        wide = {b: [p for p in mine[b] if p.end - p.begin > NARROW and p.error] for b in open_rows}
        worst = {b: max(those, key=_size) for b, those in wide.items() if those}
        if not worst:
            break
        halved = [worst.get(b, mine[b][0]) for b in range(B)]
        begin, end, low, high = (like.new_tensor(values) for values in zip(*(i[:4] for i in halved), strict=True))
        middle = (begin + end) / 2
        value = path.value(middle)
        left, right = _integrals(path, begin, middle, low, value), _integrals(path, middle, end, value, high)
        for b, interval in worst.items():
            mine[b] = [p for p in mine[b] if p is not interval] + [left[b], right[b]]
        used += 2 * NODES
    return mine, used


def _integrals(path: StraightPath, begin: Tensor, end: Tensor, low: Tensor, high: Tensor) -> list[Interval]:
    """One interval of every row, its integral by one rule."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    axes, length = path.axes, end - begin
    total = [torch.zeros_like(a, dtype=torch.float64) for a in path.ends]
    for node, weight in zip(nodes, weights, strict=True):
        for part, g in zip(total, path.gradients(begin + length * (node + 1) / 2), strict=True):
            part += weight / 2 * g
    rows = [
        axes.first(part * axes.spread(length, a) * (b - a)).to(a.dtype)
        for part, a, b in zip(total, path.begins, path.ends, strict=True)
    ]
    sums = sum((r.double().reshape(axes.layout.rows, -1).sum(1) for r in rows), torch.zeros_like(low, dtype=torch.float64))
    error = sums - (high.double() - low.double())
    numbers = torch.stack([begin.double(), end.double(), low.double(), high.double(), error], 1).tolist()
    out = []
    for b, (t0, t1, f0, f1, e) in enumerate(numbers):
        parts, change, jump = [r[b] for r in rows], f1 - f0, 0.0
        if t1 - t0 <= NARROW and change * (change + e) > 0:  # the parts have the sign of the change
            parts, e, jump = [part * (change / (change + e)) for part in parts], 0.0, abs(change)
        out.append(Interval(t0, t1, f0, f1, parts, e, jump))
    return out


def _size(interval: Interval) -> float:
    return math.inf if math.isnan(interval.error) else abs(interval.error)


@contextmanager
def hearing(modules: Sequence[nn.Module], see: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Hand every output of these modules to `see`, and put what it gives in its place."""

    def after(module: nn.Module, args: Any, out: Any) -> Any:
        return see(out)

    hooks = [m.register_forward_hook(after) for m in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
