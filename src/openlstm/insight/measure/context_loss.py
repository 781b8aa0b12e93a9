"""The loss of a model as a function of the context that it sees, and the search for contexts that matter.

Legend: T time, B batch, k context: the last k steps, K kept steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from openlstm.errors import ArgumentError, OpenLSTMError, ShapeError, describe
from openlstm.insight.batches import Layout, batch_first, calling, untouched
from openlstm.nn.batch import formed, leaves, mapped

WITHIN = 0.01
ROUNDING = 4 * float(np.finfo(np.float32).eps)  # of the largest loss: differences below it are none
CHANCE = 3.0  # standard errors by which a shorter context has to be better
FEWEST = 4  # groups of rows by which chance can be told
ENDS = 16  # places at which a network with a target for every step is asked; groups of rows otherwise


@dataclass(frozen=True, eq=False)
class AblationOptions:
    """How a context is taken away.

    Fields:
        feature: the column of x, for mode "feature".
        batch_first: by default that of the first recurrent layer in the model.
        ends: how many steps with a target are asked.
        seed: of the shuffling.
        lengths: [B], where rows end; then they are cut before their own ends. One of the inputs has to hold the same numbers,
            or be packed.
    """

    feature: int | None = None
    batch_first: bool | None = None
    ends: int = ENDS
    seed: int = 0
    lengths: Tensor | None = None


class Search:
    """The losses that are known, and which contexts to ask for next."""

    def __init__(self, asked: ContextLoss, T: int, contexts: Iterable[int]) -> None:
        self.asked, self.T = asked, T
        self.losses: dict[int, float] = {}
        for k in contexts:
            self.ask(k)

    def ask(self, k: int) -> float:
        if k not in self.losses:
            self.losses[k] = self.asked(k)
        return self.losses[k]

    @property
    def full(self) -> float:
        return self.losses[self.T]

    @property
    def same(self) -> float:
        """How far a loss may be from the full one and still be the same."""
        return max(WITHIN * abs(self.full), ROUNDING * max(map(abs, self.losses.values())))

    @property
    def nearly(self) -> float:
        """A hundredth of what the past is worth."""
        return WITHIN * abs(self.ask(1) - self.full)

    def narrow(self, most: float) -> None:
        """Halve between the last context that differs by more and the first that does not, together with the one behind it."""
        holds = self.T
        while True:
            below = max((k for k in self.losses if k < holds and not self._within(k, most)), default=0)
            known = [k for k in self.losses if below < k < holds]
            k = max(known) if known else (below + holds) // 2
            if k == below:
                return
            if all([self._within(k, most), self._within(k + 1, most)]):  # both are asked
                holds = k

    def descend(self) -> None:
        """Where a shorter context is better, halve on both sides of the best one."""
        while True:
            ks = sorted(self.losses)
            at = ks.index(min(ks, key=lambda k: self.losses[k]))
            near = ks[max(at - 1, 0) : at + 2]
            beside = [(a + b) // 2 for a, b in pairwise(near) if b - a > 1]
            if not beside or not self._lower(ks[at]):
                return
            for k in beside:
                self.ask(k)

    def better(self) -> int | None:
        """The context with the smallest loss of those that are better together with the next longer one."""
        firm = [a for a, b in pairwise(sorted(self.losses)) if self._lower(a) and self._lower(b)]
        best = min(firm, key=lambda k: self.losses[k], default=None)
        return best if best is not None and self._beyond_chance(best) else None

    def _within(self, k: int, most: float) -> bool:
        return abs(self.ask(k) - self.full) <= most

    def _lower(self, k: int) -> bool:
        return self.losses[k] < self.full - self.same

    def _beyond_chance(self, k: int) -> bool:
        """Whether a smaller loss is one in nearly all of the data."""
        full, less = self.asked.samples(self.T), self.asked.samples(k)
        if len(full) < FEWEST or len(less) != len(full):
            return False
        gains = full - less
        return bool(gains.mean() > CHANCE * gains.std(ddof=1) / np.sqrt(len(gains)))


class ContextLoss:
    """The loss of a model as a function of the context."""

    def __init__(self, model: nn.Module, data: Any, loss: Any, mode: str, options: AblationOptions) -> None:
        feature, lengths = options.feature, options.lengths
        if mode not in ("cut", "shuffle", "feature"):
            expected = "'cut', 'shuffle' or 'feature'"
            raise ArgumentError.of("ablation", "unknown mode", repr(mode), expected, "use one of these")
        if (mode == "feature") != (feature is not None):
            hint = "name the column: mode='feature', feature=0"
            raise ArgumentError.of("ablation", "which column?", f"mode={mode!r}, feature={feature}", "both or none", hint)
        if isinstance(data, (Tensor, np.ndarray, PackedSequence)) or isinstance(data, (tuple, list)) and len(data) < 2:
            got, hint = f"data: {describe(data)}", "pass (x, target): the loss is called as loss(model, x, target)"
            raise ShapeError.of("ablation", "the data hold no target", got, "(x, ..., target)", hint)
        data, loss, _ = formed(model, data, loss, "ablation")
        first = batch_first(model) if options.batch_first is None else options.batch_first
        self.time = 1 if first else 0
        self.model, self.loss, self.mode, self.feature, self.seed = model, loss, mode, feature, options.seed
        self.inputs, self.target = tuple(data[:-1]), data[-1]
        x = next(iter(leaves(self.inputs)), None)
        if isinstance(x, PackedSequence):
            x, lengths = pad_packed_sequence(x, batch_first=first)
        if not isinstance(x, Tensor) or x.dim() < 2:
            hint = "pass a batch of sequences"
            raise ShapeError.of("ablation", "x is not a batch of sequences", f"x: {describe(x)}", "x: [T, B, ...]", hint)
        self.x, self.lengths = x, None if lengths is None else lengths.cpu()
        T, self.rows = x.shape[self.time], x.shape[1 - self.time]
        self.layout = Layout(self.rows, T, self.time)
        self._expect_lengths()
        self.every = T > 1 and self.layout.timed(self.target) and self._answers_every_step()
        if self.every and self.lengths is not None:
            hint = "give it the target of each row's last step, or rows of one length"
            what = "a target for every step of rows that have lengths"
            raise ArgumentError.of("ablation", what, f"target: {describe(self.target)}", "one target for a row", hint)
        T = T if self.lengths is None else int(self.lengths.max())
        self.longest = max(1, T // 2) if self.every else T
        self.ends = (
            np.unique(np.linspace(self.longest, T, min(options.ends, T - self.longest + 1)).astype(int)) if self.every else [T]
        )

    def __call__(self, k: int) -> float:
        """The loss with a context of k."""
        value = float(np.mean(self._losses([self._part(int(end), k) for end in self.ends])))
        if not np.isfinite(value):
            hint = "look for the first number that is not finite: openlstm.insight.capture_layers"
            raise ArgumentError.of("ablation", "the loss is not finite", f"{value} with context {k}", "a number", hint)
        return value

    def samples(self, k: int) -> np.ndarray:
        """The loss with a context of k in parts of the data: the steps that are asked, or groups of rows.

        Empty where the rows cannot be taken apart: one alone, or a model that takes the whole batch and nothing else.
        """
        if self.every:
            return self._losses([self._part(int(end), k) for end in self.ends])
        whole = self._part(self.longest, k)
        groups = np.array_split(np.arange(self.rows), min(self.rows, ENDS)) if self.rows > 1 else []
        try:
            return self._losses([mapped(whole, lambda a, group=group: self.layout.pick(a, group)) for group in groups])
        except OpenLSTMError:  # the model takes the whole batch or none
            return np.zeros(0)

    def _losses(self, parts: list[tuple[Any, ...]]) -> np.ndarray:
        model = _LastStep(self.model, self.time) if self.every else self.model
        with untouched(self.model), torch.no_grad(), calling("with a shorter context"):
            return np.array([float(self.loss(model, *part)) for part in parts])

    def _answers_every_step(self) -> bool:
        """Whether a step less makes an output of a step less: a target of as many columns as x has steps is none for each."""
        last = _LastStep(self.model, self.time)
        T = self.x.shape[self.time]
        less = mapped((*self.inputs, self.target), lambda a: a.narrow(self.time, 0, T - 1) if self.layout.timed(a) else a)
        with untouched(self.model), torch.no_grad(), suppress(Exception):  # a loss that wants both to have T steps
            self.loss(last, *less)
        return last.steps == T - 1

    def _expect_lengths(self) -> None:
        """Lengths have to be among the inputs, where they can be shortened too."""
        if self.lengths is None:
            return
        told = any(isinstance(a, PackedSequence) or self._is_lengths(a) for a in leaves(self.inputs))
        if not told and bool((self.lengths == self.x.shape[self.time]).all()):
            self.lengths = None  # the model's own business
            return
        got = f"lengths {self.lengths.tolist()[:5]}, x: {describe(self.x)}"
        if not told or len(self.lengths) != self.rows:
            hint = "hand the lengths to the model as an input, or pass a PackedSequence"
            raise ArgumentError.of("ablation", "rows of different lengths", got, "the lengths among the data", hint)
        if self.mode != "cut":
            hint = "use mode='cut', or pass rows of one length"
            raise ArgumentError.of("ablation", f"rows with lengths in mode {self.mode!r}", got, "rows of length T", hint)

    def _is_lengths(self, a: Any) -> bool:
        if self.lengths is None or not isinstance(a, Tensor) or a.is_floating_point() or a.shape != self.lengths.shape:
            return False
        return bool((a.cpu() == self.lengths).all())

    def _part(self, end: int, k: int) -> tuple[Any, ...]:
        """The data of one end: of the longest context before it the last k steps, or the older ones changed; and its target."""
        if self.lengths is not None:
            return *mapped(self.inputs, lambda a: self._of_ends(a, k)), self.target
        target = self.target.narrow(self.time, end - 1, 1) if self.every else self.target
        return *mapped(self.inputs, lambda a: self._before(a, end, k) if self.layout.timed(a) else a), target

    def _before(self, a: Tensor, end: int, k: int) -> Tensor:
        """The steps before an end of what has the axes of x; x alone is shuffled, or loses a column."""
        if self.mode == "cut":
            return a.narrow(self.time, end - k, k)
        whole = a.narrow(self.time, end - self.longest, self.longest)
        if k == self.longest or a is not self.x:
            return whole
        old, new = whole.split([self.longest - k, k], self.time)
        return torch.cat([self._shuffled(old) if self.mode == "shuffle" else self._without(old), new], self.time)

    def _of_ends(self, a: Any, k: int) -> Any:
        """The last k steps of every row before its own end."""
        assert self.lengths is not None
        kept = self.lengths.clamp(max=k)
        if isinstance(a, PackedSequence):
            padded = pad_packed_sequence(a, batch_first=self.time == 1)[0]
            return pack_padded_sequence(self._moved(padded, kept), kept, batch_first=self.time == 1, enforce_sorted=False)
        if self._is_lengths(a):
            return kept.to(a)
        return self._moved(a, kept) if self.layout.timed(a) else a

    def _moved(self, a: Tensor, kept: Tensor) -> Tensor:
        """The last steps of every row at the front, [max kept, B, ..] or [B, max kept, ..]; what is behind them is padding."""
        assert self.lengths is not None
        at = (self.lengths - kept)[:, None] + torch.arange(int(kept.max()))  # [B, K]
        at = at.clamp(max=a.shape[self.time] - 1).to(a.device)
        rows = torch.arange(self.rows, device=a.device)
        return a[rows[:, None], at] if self.time == 1 else a[at.T, rows]

    def _shuffled(self, old: Tensor) -> Tensor:
        order = torch.randperm(old.shape[self.time], generator=torch.Generator().manual_seed(self.seed))
        return old.index_select(self.time, order.to(old.device))

    def _without(self, old: Tensor) -> Tensor:
        if not old.is_floating_point() or not -old.shape[-1] <= int(self.feature or 0) < old.shape[-1]:
            got, hint = f"feature={self.feature}, x: {describe(self.x)}", "name a column of x"
            raise ArgumentError.of("ablation", "no such column", got, f"0 .. {old.shape[-1] - 1}", hint)
        out = old.clone()
        out[..., self.feature] = self.x[..., self.feature].mean()
        return out


class _LastStep(nn.Module):
    """A model whose outputs are those of the last step, still with an axis of time; `steps` is how many it gave last."""

    def __init__(self, model: nn.Module, time: int) -> None:
        super().__init__()
        self.model = model
        self._time = time
        self.steps: int | None = None

    def forward(self, *args: Any, **named: Any) -> Any:
        out = self.model(*args, **named)
        if isinstance(out, tuple):
            return (self._last(out[0]), *out[1:])
        return self._last(out)

    def _last(self, out: Any) -> Any:
        if not isinstance(out, Tensor) or out.dim() <= self._time:
            return out
        self.steps = out.shape[self._time]
        return out.narrow(self._time, out.shape[self._time] - 1, 1)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)
