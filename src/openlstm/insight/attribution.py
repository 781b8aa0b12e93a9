"""D9: how much each input of each step contributes to an output: integrated gradients through time, with the gap left over.

    a_ti = (x_ti - x0_ti) * integral_0^1 dF/dx_ti (x0 + s (x - x0)) ds;      sum over t, i of a_ti = F(x) - F(x0)

F is one number for each row, x0 the baseline. The right-hand side is known exactly, so that the error of the integral is
measured and not believed: gap = norm over rows of (sum of a - (F(x) - F(x0))) / norm over rows of (F(x) - F(x0)).

The integral is a sum of Gauss-Legendre rules over pieces of the path. On every piece the same identity holds with F at its two
ends, so the piece with the largest error is known too, and is halved until the gap is small: the saturated gates of a trained
network make the way steep in a few places, where a fixed grid misses them. Every row has pieces of its own; rows that do not
depend on each other are run side by side, each at its own place on its path.

A network that latches jumps on the way, over less than numbers can tell apart. On a piece too short to halve all that is known
is by how much F changed there, and the direction of the gradient, which on both sides of a jump is the same: the change is
shared out in this direction. `jumps` says how much of the whole it is.

Tokens have no values to scale: the path goes through the outputs of `nn.Embedding`, and a token gets the sum over its
embedding. It begins at other tokens of the same row (those 0.38 T steps away), not at zero: no token has an embedding of zero,
and on the way from there a network passes through a region where nothing is as in its text. Measured on a character model over
256 steps, of which it uses 18: from zero 2,000 gradients, and four fifths of the contribution in 177 steps; from other tokens
60 gradients, and 5 steps.

A small attribution at a far lag does not prove that the network ignores it: gradients of recurrent networks favour late steps
(Ismail et al. 2019). What it uses is what the context ablation measures.

Legend: T time, B batch, I inputs.

Source: Sundararajan, Taly & Yan 2017 (integrated gradients, completeness); Erion, Janizek, Sturmfels, Lundberg & Lee 2021
(baselines taken from the data); Ismail, Gunady, Pessoa, Corrada Bravo & Feizi 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from openlstm.errors import ArgumentError, DtypeError, ShapeError, describe, message
from openlstm.insight.follow import repacked
from openlstm.insight.look import RECURRENT, _untouched

NODES = 4
"""Gradients for one piece of the path: exact for polynomials of degree 7."""

NARROW = 2.0**-17
"""A piece this short is not halved again: float32 tells no places within it apart that a steep network would."""

GAP = 0.005
"""Where halving stops: half of what is promised."""

SHIFT = 0.382
"""Of the steps of a row, how many its baseline is away: no simple fraction, so that no period fits."""

Target = int | Callable[[Any], Tensor] | None


@dataclass(frozen=True, eq=False)
class Attribution:
    """What an output is made of.

    Fields:
        values: [T, I], by lag: row k is k steps before the last of each row; mean over rows of the batch, with sign.
        size: [T, I], the same of absolute values: signs of two rows do not cancel here.
        per_row: [B, T, I] in the order of time.
        rest: [B], what inputs without a time axis contribute.
        gap: of all rows; gaps: [B], of each.
        jumps: the part of the change that happened on pieces too short to halve, and went where the gradient points there.
        output, baseline: [B], F(x) and F(x0).
        evaluations: how many gradients it took.
        features: the names of the I inputs.
    """

    values: np.ndarray
    size: np.ndarray
    per_row: np.ndarray
    rest: np.ndarray
    gap: float
    gaps: np.ndarray
    jumps: float
    output: np.ndarray
    baseline: np.ndarray
    evaluations: int
    features: tuple[str, ...]

    @property
    def by_lag(self) -> np.ndarray:
        """[T], the share of each lag in all attributions; sums to 1."""
        return _share(self.size.sum(1))

    @property
    def by_feature(self) -> np.ndarray:
        """[I], the share of each input."""
        return _share(self.size.sum(0))

    @property
    def lag80(self) -> int:
        """The smallest k with four fifths of all attributions in lags 0 .. k."""
        reached = np.flatnonzero(np.cumsum(self.by_lag) >= 0.8)
        return int(reached[0]) if reached.size else len(self.by_lag) - 1

    @property
    def finding(self) -> str:
        """One sentence with the numbers, and what to do where there is something to do."""
        if not self.size.any():
            return f"No input of these {len(self.by_lag)} steps changes the output at all: the network does not read its input."
        lags = "the last step alone carries" if self.lag80 == 0 else f"the last {self.lag80 + 1} steps carry"
        text = f"Of what the inputs contribute, {lags} {np.cumsum(self.by_lag)[self.lag80]:.0%}"
        share = self.by_feature
        if len(share) > 1:
            text += f"; {self.features[int(share.argmax())]} has the largest part, {share.max():.0%}"
            unused = [name for name, s in zip(self.features, share, strict=True) if s < 0.01]
            if unused:
                more = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
                text += f", and {', '.join(unused[:3])}{more} less than 1 %: try without"
        trust = "" if self.gap < 0.01 else ", too large to rely on it: try baseline='shifted' or more steps"
        jumps = f"; {min(self.jumps, 1):.0%} of the change are jumps on the way" if self.jumps > 0.05 else ""
        return f"{text} (completeness gap {self.gap:.2%}{trust}{jumps})."

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, without `per_row`."""
        arrays = {
            name: getattr(self, name).tolist() for name in ("values", "size", "by_lag", "by_feature", "output", "baseline")
        }
        return {
            **arrays,
            "gap": self.gap,
            "jumps": self.jumps,
            "evaluations": self.evaluations,
            "features": list(self.features),
            "lag80": self.lag80,
        }


def attribution(
    model: nn.Module,
    x: Any,
    target: Target = None,
    *,
    steps: int = 512,
    baseline: float | Tensor | Literal["shifted"] | None = None,
    batch_first: bool | None = None,
    features: Sequence[str] | None = None,
    lengths: Tensor | None = None,
) -> Attribution:
    """Integrated gradients of one output with respect to every input of every step.

    Args:
        model: a recurrent layer or any module that takes `x`; it runs in eval mode and stays as it was, in every respect.
        x: a tensor, a tuple of the model's inputs or a dict of its keywords. Floats [B, T, I] or [T, B, I], [B, T] or [T, B]
            without features ([T, I] of a bare layer is one row), or token ids [B, T], [T, B] or [T] that go to an
            `nn.Embedding`, or a PackedSequence of either. What has an axis of the batch and none of time is counted in `rest`;
            what has neither is held.
        target: which number of the output, for every row: an index on its last axis, or a function of the model's output that
            gives [B]. None: the sum over the last axis; of token models the largest output of each row. Where the output has
            the time axis of `x`, its last step counts.
        steps: the most gradients to take; the path is halved until the gap is below 0.5 % or this is reached.
        baseline: x0 of the first float input: a number, or what broadcasts to it; of the embedding where there are ids alone.
            "shifted": every row begins as itself at other steps. None: zero for floats, "shifted" for embeddings.
        batch_first: the layout of `x`; if None that of the first recurrent layer in the model.
        features: names of the I inputs.
        lengths: [B], where padded rows end; lags count from there. Packed rows have their own.

    Returns:
        An `Attribution`.

    Raises:
        DtypeError: if `model` is no module, or nothing among its inputs is a float or goes to an embedding.
        ShapeError: for an input without a time axis, a baseline or lengths that do not fit, or an output without one number a
            row.
        ArgumentError: for fewer steps than one piece takes, or names that do not fit.

    >>> import openlstm
    >>> a = attribution(openlstm.LSTM(3, 5), torch.ones(7, 2, 3))
    >>> a.values.shape, a.gap < 0.01
    ((7, 3), True)
    """
    if not isinstance(model, nn.Module):
        got = f"model: {type(model).__name__}"
        raise DtypeError(message("attribution", "not a module", got, "a torch.nn.Module", "pass the model or its layer"))
    if isinstance(baseline, str) and baseline != "shifted":
        got, hint = f"baseline={baseline!r}", "0.0 for zero, 'shifted' for the row itself at other steps"
        raise ArgumentError(message("attribution", "no such baseline", got, "a number, a tensor or 'shifted'", hint))
    if steps < NODES:
        got, hint = f"steps={steps}", "one piece of the path takes so many gradients"
        raise ArgumentError(message("attribution", "too few steps", got, f"steps >= {NODES}", hint))
    model = getattr(model, "_orig_mod", model)  # a compiled model does not hear hooks that come later
    names = tuple(x) if isinstance(x, Mapping) else ()
    inputs = x.values() if names else x if isinstance(x, (tuple, list)) and not isinstance(x, PackedSequence) else (x,)
    inputs = tuple(torch.from_numpy(np.ascontiguousarray(a)) if isinstance(a, np.ndarray) else a for a in inputs)
    packs = {k: a for k, a in enumerate(inputs) if isinstance(a, PackedSequence)}
    if batch_first is None:
        batch_first = next((m.batch_first for m in model.modules() if isinstance(m, RECURRENT)), True)
    for k, packed in packs.items():
        padded, lengths = pad_packed_sequence(packed, batch_first=batch_first)
        inputs = (*inputs[:k], padded, *inputs[k + 1 :])
    with _untouched(model), torch.enable_grad():
        model.eval()
        path = _Path(model, names, inputs, target, baseline, _axes(model, inputs, batch_first, lengths), packs)
        pieces, evaluations = _pieces(path, steps)
    return _result(path, pieces, evaluations, features)


class _Axes(NamedTuple):
    """Where rows and steps are: in the first input, and so in whatever has its axes."""

    B: int
    T: int
    batch: int | None  # None for one row without a batch axis
    time: int
    ends: Tensor  # [B], how many steps each row has

    def timed(self, a: Tensor) -> bool:
        """Whether it has the axes of the first input."""
        leading = [self.T] if self.batch is None else [self.B, self.T] if self.batch == 0 else [self.T, self.B]
        return list(a.shape[: len(leading)]) == leading

    def row_axis(self, a: Tensor) -> int | None:
        """The axis of rows, None where there is none."""
        if self.timed(a):
            return self.batch
        return next((k for k in (0, 1) if k < a.dim() and a.shape[k] == self.B), None)

    def has_rows(self, a: Tensor) -> bool:
        return self.batch is None or self.row_axis(a) is not None

    def first(self, a: Tensor) -> Tensor:
        """With the axis of rows in front: [B, ..], and [B, T, ..] where there are steps."""
        axis = None if self.batch is None else self.row_axis(a)
        return a.unsqueeze(0) if axis is None else a.movedim(axis, 0)

    def spread(self, s: Tensor, like: Tensor) -> Tensor:
        """A number for each row [B] in the shape of `like`."""
        axis = None if self.batch is None else self.row_axis(like)
        return s.to(like.dtype) if axis is None else s.to(like.dtype).view([-1 if k == axis else 1 for k in range(like.dim())])


def _axes(model: nn.Module, inputs: tuple[Any, ...], batch_first: bool, lengths: Tensor | None) -> _Axes:
    first = next((a for a in inputs if isinstance(a, Tensor)), None)
    if first is None:
        shown, hint = ", ".join(describe(a) for a in inputs), "turn the numbers into tensors first"
        raise DtypeError(message("attribution", "no tensor among the inputs", shown, "x [B, T, I] or ids [B, T]", hint))
    alone = first.dim() == (2 if isinstance(model, RECURRENT) else 1)
    if not alone and first.dim() not in (2, 3):
        got, hint = f"x: {describe(first)}", "give every step an axis of its own"
        raise ShapeError(message("attribution", "x has no axes of rows and steps", got, "[B, T, I], [B, T] or [T]", hint))
    batch = None if alone else 0 if batch_first else 1
    time = 0 if batch is None else 1 - batch
    B, T = 1 if batch is None else first.shape[batch], first.shape[time]
    ends = torch.full((B,), T) if lengths is None else torch.as_tensor(lengths).cpu()
    if ends.shape != (B,) or ends.is_floating_point() or int(ends.min()) < 1 or int(ends.max()) > T:
        got, expected = f"lengths: {describe(ends)}, x: {describe(first)}", f"[{B}] = [B], whole numbers from 1 to {T}"
        what, hint = "the lengths are not those of the rows", "give one length for each row"
        raise ShapeError(message("attribution", what, got, expected, hint))
    return _Axes(B, T, batch, time, ends.to(first.device))


class _Path:
    """F along the straight line from the baseline to the inputs."""

    def __init__(
        self,
        model: nn.Module,
        names: tuple[str, ...],
        inputs: tuple[Any, ...],
        target: Target,
        baseline: Any,
        axes: _Axes,
        packs: Mapping[int, PackedSequence],
    ) -> None:
        self.packs = packs  # by the number of the input, which stands padded among the inputs
        self.model, self.names, self.inputs, self.axes, self.target = model, names, inputs, axes, target
        ids = any(isinstance(a, Tensor) and not a.is_floating_point() and a.dtype != torch.bool for a in inputs)
        self.embeddings = [m for m in model.modules() if ids and isinstance(m, nn.Embedding)]
        self.floats = [k for k, a in enumerate(inputs) if isinstance(a, Tensor) and a.is_floating_point() and axes.has_rows(a)]
        heard: list[Tensor] = []
        with torch.no_grad(), _embeddings(self.embeddings, lambda e: self._laid_out(e, heard.append)):
            out = self.call(inputs)
        self.scaled = [axes.has_rows(e) for e in heard]  # the embedding of a position is the same for all rows
        self.tokens = any(self.scaled)
        self.ends = [inputs[k].detach() for k in self.floats] + [e.detach() for e in heard if axes.has_rows(e)]
        if not self.ends:
            shown, hint = ", ".join(describe(a) for a in inputs), "pass floats, or ids to a model that uses nn.Embedding"
            expected = "floats, or ids that go to an embedding"
            raise DtypeError(message("attribution", "no input that can be scaled", shown, expected, hint))
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
        self.baseline = self.value(self.output.new_zeros(axes.B))
        if not bool((self.output.isfinite() & self.baseline.isfinite()).all()):
            got, hint = (
                "NaN or infinity",
                "look at the model and its inputs first: openlstm.insight.look names the first of them",
            )
            raise ArgumentError(message("attribution", "the output is not finite", got, "finite numbers", hint))

    def call(self, inputs: Sequence[Any]) -> Any:
        inputs = [self._packed(self.packs[k], a) if k in self.packs else a for k, a in enumerate(inputs)]
        return self.model(**dict(zip(self.names, inputs, strict=True))) if self.names else self.model(*inputs)

    def _packed(self, packed: PackedSequence, padded: Tensor) -> PackedSequence:
        return repacked(packed, padded if self.axes.time == 0 else padded.transpose(0, 1))

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
        t, ends = torch.arange(axes.T, device=a.device), axes.ends.to(a.device)[:, None]
        at = torch.where(t < ends, (t - (SHIFT * ends).round().long().clamp(min=1)) % ends, t)  # [B, T]
        turned = axes.first(a)[torch.arange(axes.B, device=a.device)[:, None], at]
        return turned[0] if axes.batch is None else turned.movedim(0, axes.batch)

    def _start(self, baseline: Any, like: Tensor) -> Tensor:
        given = torch.as_tensor(baseline, dtype=like.dtype, device=like.device)
        try:
            return given.expand_as(like).clone()
        except RuntimeError:
            got, hint = f"baseline: {describe(given)}, x: {describe(like)}", "a number, or one value for each feature: [I]"
            expected = "what broadcasts to x"
            raise ShapeError(message("attribution", "the baseline does not fit", got, expected, hint)) from None

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
        with _embeddings(self.embeddings, lambda out: self._laid_out(out, lambda out: next(coming) if next(scaled) else out)):
            return self.read(self.call(inputs))

    def read(self, out: Any) -> Tensor:
        """One number of each row, [B]."""
        ax, shown = self.axes, describe(out)
        if callable(self.target):
            o = self.target(out)
            if isinstance(o, Tensor) and o.numel() == ax.B and o.is_floating_point():
                return o.reshape(ax.B)
            got, hint = f"target(output): {describe(o)}", "lambda output: output[:, -1, 3], say"
            raise ShapeError(message("attribution", "the target is not one number for each row", got, f"[{ax.B}] = [B]", hint))
        while isinstance(out, (tuple, list)) and out and not isinstance(out, PackedSequence):
            out = out[0]
        if isinstance(out, PackedSequence):
            out = pad_packed_sequence(out, batch_first=ax.batch == 0)[0]
        if isinstance(out, Tensor) and out.is_floating_point() and out.dim() > 0:
            steps = (ax.T, int(ax.ends.max()))  # a model that packs may give no more than the longest row has
            if ax.batch is None:
                out = out[-1:] if out.dim() > 1 and out.shape[0] == ax.T else out.unsqueeze(0)
            elif out.dim() > 2 - ax.batch and out.shape[ax.time] in steps and out.shape[ax.batch] == ax.B:
                out = out.movedim(ax.batch, 0)[torch.arange(ax.B, device=out.device), ax.ends.to(out.device) - 1]
            if out.shape[0] == ax.B:
                return self.chosen(out.reshape(ax.B, -1) if self.target is None else out)
        what, hint = "no number for each row in the output", "pass target=, a function of the output that gives [B]"
        raise ShapeError(message("attribution", what, f"output: {shown}", f"[{ax.B}, ..] = [B, ..]", hint))

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
            raise ArgumentError(message("attribution", f"no output {k!r}", got, f"0 .. {o.shape[-1] - 1}", hint))
        return o[..., k].reshape(self.axes.B, -1).sum(1)


class _Piece(NamedTuple):
    """The integral over a part of the path of one row."""

    begin: float
    end: float
    low: float  # F at the begin
    high: float  # F at the end
    parts: list[Tensor]  # of every input that is scaled, in the shape of one row
    error: float  # what the parts add up to, less what F did
    jump: float  # what F did, where the parts were made to add up to it


def _pieces(path: _Path, steps: int) -> tuple[list[list[_Piece]], int]:
    """The path of every row in pieces, the worst of each halved until the errors are small; rows go side by side."""
    B, like = path.axes.B, path.output
    span = (path.output - path.baseline).double()
    enough = torch.maximum(span.abs(), span.norm() / math.sqrt(max(B, 1))) * GAP
    enough = torch.maximum(enough, 8 * torch.finfo(like.dtype).eps * like.double().abs()).tolist()
    whole = (torch.zeros_like(like), torch.ones_like(like), path.baseline, path.output)
    mine = [[piece] for piece in _cut(path, *whole)]
    used = NODES
    while used + 2 * NODES <= steps:
        open_rows = [b for b in range(B) if sum(_size(p) for p in mine[b]) > enough[b]]
        wide = {b: [p for p in mine[b] if p.end - p.begin > NARROW and p.error] for b in open_rows}
        worst = {b: max(those, key=_size) for b, those in wide.items() if those}
        if not worst:
            break
        begin, end, low, high = (
            like.new_tensor([getattr(worst.get(b, mine[b][0]), k) for b in range(B)]) for k in _Piece._fields[:4]
        )
        middle = (begin + end) / 2
        value = path.value(middle)
        left, right = _cut(path, begin, middle, low, value), _cut(path, middle, end, value, high)
        for b, piece in worst.items():
            mine[b] = [p for p in mine[b] if p is not piece] + [left[b], right[b]]
        used += 2 * NODES
    return mine, used


def _cut(path: _Path, begin: Tensor, end: Tensor, low: Tensor, high: Tensor) -> list[_Piece]:
    """One piece of every row, its integral by one rule."""
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
    sums = sum((r.double().reshape(axes.B, -1).sum(1) for r in rows), torch.zeros_like(low, dtype=torch.float64))
    error = sums - (high.double() - low.double())
    numbers = torch.stack([begin.double(), end.double(), low.double(), high.double(), error], 1).tolist()
    out = []
    for b, (t0, t1, f0, f1, e) in enumerate(numbers):
        parts, change, jump = [r[b] for r in rows], f1 - f0, 0.0
        if t1 - t0 <= NARROW and change * (change + e) > 0:  # the parts have the sign of the change
            parts, e, jump = [part * (change / (change + e)) for part in parts], 0.0, abs(change)
        out.append(_Piece(t0, t1, f0, f1, parts, e, jump))
    return out


def _size(piece: _Piece) -> float:
    return math.inf if math.isnan(piece.error) else abs(piece.error)


def _result(path: _Path, pieces: list[list[_Piece]], evaluations: int, features: Sequence[str] | None) -> Attribution:
    axes, n = path.axes, len(path.floats)
    parts = [
        torch.stack([torch.stack([p.parts[k].double() for p in mine]).sum(0) for mine in pieces]) for k in range(len(path.ends))
    ]  # each [B, ..]
    timed = [
        p.reshape(axes.B, axes.T, -1) if k < n else p.reshape(axes.B, axes.T, -1).sum(2, keepdim=True)  # a token is one input
        for k, (p, end) in enumerate(zip(parts, path.ends, strict=True))
        if axes.timed(end)
    ]
    if not timed:
        shown, hint = ", ".join(describe(a) for a in path.ends), "pass batch_first= if rows and steps are the other way round"
        raise ShapeError(message("attribution", "no input has the axis of steps", shown, f"T = {axes.T} steps", hint))
    per_row = torch.cat(timed, 2).cpu().numpy()  # [B, T, I]
    rest = [p.reshape(axes.B, -1).sum(1).cpu().numpy() for p, e in zip(parts, path.ends, strict=True) if not axes.timed(e)]
    ends = axes.ends.cpu().numpy()[:, None]
    at = ends - 1 - np.arange(ends.max())  # [B, lags]
    by_lag = np.where((at >= 0)[..., None], per_row[np.arange(axes.B)[:, None], at.clip(0)], 0)
    span = (path.output.double() - path.baseline.double()).cpu().numpy()
    error = np.array([sum(p.error for p in mine) for mine in pieces])
    return Attribution(
        values=by_lag.mean(0),
        size=np.abs(by_lag).mean(0),
        per_row=per_row,
        rest=np.sum(rest, 0) if rest else np.zeros(axes.B),
        gap=float(_ratio(np.linalg.norm(error), np.linalg.norm(span))),
        gaps=_ratio(np.abs(error), np.abs(span)),
        jumps=float(_ratio(sum(p.jump for mine in pieces for p in mine), np.abs(span).sum())),
        output=path.output.double().cpu().numpy(),
        baseline=path.baseline.double().cpu().numpy(),
        evaluations=evaluations,
        features=_names(path, per_row.shape[2], features),
    )


def _names(path: _Path, count: int, features: Sequence[str] | None) -> tuple[str, ...]:
    if features is None:
        own = path.tokens and not path.floats
        return ("token" if own else "x",) if count == 1 else tuple(f"{'token' if own else 'x'}{k}" for k in range(count))
    if len(features) != count:
        got, hint = f"features: {len(features)} names", "one name for each feature of x, then one for each embedding"
        raise ArgumentError(message("attribution", "another number of names than inputs", got, f"{count} names", hint))
    return tuple(features)


@contextmanager
def _embeddings(modules: Sequence[nn.Module], see: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Hand every output of these modules to `see`, and put what it gives in its place."""

    def after(module: nn.Module, args: Any, out: Any) -> Any:
        return see(out)

    hooks = [m.register_forward_hook(after) for m in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _share(size: np.ndarray) -> np.ndarray:
    total = size.sum()
    return size / total if total > 0 else np.zeros_like(size)


def _ratio(a: Any, b: Any) -> Any:
    """a / b, 0 / 0 = 0."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.where(a == 0, 0.0, a / np.where(b == 0, 1.0, b)) + np.where((a > 0) & (b == 0), np.inf, 0.0)
