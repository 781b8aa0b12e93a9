"""D4, after training: how much context a network uses, from its loss with the context cut, shuffled or taken out of one column.

Legend: T time, B batch, I input size, k context: the last k steps, k = 1 .. T.

    cut       loss of the network that sees the last k steps alone, from rest: what serving with a window of k costs
    shuffle   loss with the steps before the last k in random order: how far back their order matters
    feature   loss with one column replaced by its mean before the last k: how far back that column matters

    uses    = the smallest k from which on   |loss(k) - loss(T)| <= max(0.01 |loss(T)|, 4 eps max |loss|)
    nearly  = the smallest k from which on   |loss(k) - loss(T)| <= 0.01 |loss(1) - loss(T)|
    better  = the k with the smallest loss of those that lie below the full one by more than that and by more than chance

The same loss is one within 1 % of the full one, above it or below. Where the full loss is nearly zero 1 % of it would be less
than what float32 can tell: the other term is 4 units in the last place of the largest loss. No larger share of that will do,
since a small part of the answer may lie far back: 10 x[-2] + 0.6 x[-20] without its second term costs a third of a percent of
its square. Such a shorter window, with nearly all of what the past is worth, is told with its loss, and not called the same.

Every longer context that was measured has to hold, the one behind the answer among them, so that one which is right by accident
is not taken. A better one has to be better together with the next longer one that was measured, and by three standard errors of
the difference over groups of rows (or over the steps asked).

It is the answer of the trained network; a gradient or a retention curve is not (a latched bit has a vanishing gradient).

Source: Khandelwal et al. 2018 ("Sharp nearby, fuzzy far away").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from openlstm.errors import ArgumentError, ShapeError, describe, message
from openlstm.insight.words import number
from openlstm.nn.batch import formed, leaves, mapped

Mode = Literal["cut", "shuffle", "feature"]
WITHIN = 0.01
ROUNDING = 4 * float(np.finfo(np.float32).eps)  # of the largest loss: differences below it are none
CHANCE = 3.0  # standard errors by which a shorter context has to be better
FEWEST = 4  # groups of rows by which chance can be told
ENDS = 16  # places at which a network with a target for every step is asked; groups of rows otherwise


@dataclass(frozen=True)
class Ablation:
    """Loss by context.

    contexts: [n], rising, the last one T. losses: [n]. full: the loss with all of it.
    uses: the smallest context from which on the loss is the full one, within 1 % on either side.
    feature: the column, in mode "feature".
    nearly: the smallest context from which on 99 % is there of what the past is worth, loss(1) - full.
    better: in mode "cut" a shorter context with a smaller loss; None where there is none.
    lag: that was asked about.
    """

    mode: str
    contexts: np.ndarray
    losses: np.ndarray
    full: float
    uses: int
    feature: int | None = None
    nearly: int | None = None
    better: int | None = None
    lag: int | None = None

    @property
    def finding(self) -> str:
        """What it uses, and in mode "cut" the losses that say so and the window to serve it with."""
        T = int(self.contexts[-1])
        most = "no more than the last step" if self.uses == 1 else f"the last {self.uses} steps"
        if self.uses == T and len(self.contexts) > 1:
            most = f"{_steps(T)}, the longest context that was measured, perhaps more"
        if self.mode == "shuffle":
            return f"The network minds the order of {most}."
        if self.mode == "feature":
            return f"The network uses {most} of column {self.feature}."
        asked = f" {self.of_lag}" if self.lag is not None else ""
        if self.better is not None:
            less = f"and does better with less: {self._with(self.better)}"
            return f"The network uses {most}, {less}. A window of {_steps(self.better)} is better than all of it.{asked}"
        shown = self.uses if self.uses < T else int(self.contexts[-2]) if len(self.contexts) > 1 else T
        text = f"The network uses {most}: {self._with(shown)}."
        if self.uses < T:
            text += f" A window of {_steps(self.uses)} is enough."
        if self.nearly is not None and 1 < self.nearly <= 0.9 * self.uses:
            text += f" Almost all that the past tells comes from the last {_steps(self.nearly)}: its loss is "
            text += f"{number(self._loss(self.nearly), 3)} with these, {number(self._loss(1), 3)} with 1."
        return text + asked

    @property
    def of_lag(self) -> str:
        """Whether it uses what lies as far back as the lag that was asked about; "" where none was."""
        if self.lag is None:
            return ""
        T = int(self.contexts[-1])
        if self.lag >= T:
            return f"Whether it uses what lies {_steps(self.lag)} back was not measured: the longest context is {T}."
        losses = f"its loss is {number(self._loss(self.lag), 3)} without that, {number(self.full, 3)} with all of it"
        back = f"what lies {_steps(self.lag)} back or farther"
        if self.lag >= self.uses:
            return f"It does not use {back}: {losses}."
        if self.better is not None and self._loss(self.lag) < self.full:
            return f"It uses {back}, to its harm: {losses}."
        return f"It uses {back}: {losses}."

    @property
    def serving(self) -> str:
        """How to begin in the middle of a stream: the same answer as `finding`, for one who keeps a state."""
        if self.better is not None:
            window = f"a window of {_steps(self.better)}, begun anew for each answer"
            shown = (
                f"its loss is {number(self._loss(self.better), 3)} with these, {number(self.full, 3)} with {self.contexts[-1]}"
            )
            return f"It does better with {window}, than in a stream that goes on: {shown}."
        if self.uses == self.contexts[-1]:
            return f"Begun cold its loss is not the full one before {_steps(self.uses)}, the longest context: keep its state."
        return f"Send {_steps(self.uses)} before trusting a stream that begins cold: from there on its loss is the full one."

    def _loss(self, k: int) -> float:
        return float(self.losses[self.contexts == k][0])

    def _with(self, k: int) -> str:
        T = int(self.contexts[-1])
        text = f"with {_steps(k)} its loss is {number(self._loss(k), 3)}"
        return text if k == T else f"{text}, with {T} it is {number(self.full, 3)}"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        return {
            "mode": self.mode,
            "feature": self.feature,
            "uses": self.uses,
            "nearly": self.nearly,
            "better": self.better,
            "lag": self.lag,
            "full": self.full,
            "contexts": self.contexts.tolist(),
            "losses": self.losses.tolist(),
            "finding": self.finding,
        }


def ablation(
    model: nn.Module,
    data: Any,
    loss: Any,
    contexts: Iterable[int] | None = None,
    mode: Mode = "cut",
    *,
    feature: int | None = None,
    batch_first: bool | None = None,
    ends: int = ENDS,
    seed: int = 0,
    lengths: Tensor | None = None,
    lag: int | None = None,
) -> Ablation:
    """Measure the loss of a trained model with less and less context.

    Args:
        model: takes x and gives outputs; a recurrent layer or a whole model.
        data: (x, ..., target), or in another form that `xray` takes. x is [T, B, ...], [B, T, ...] with batch_first, or a
            PackedSequence; what has its axes is cut with it. A target with T steps is one for every step: then the context ends
            at `ends` steps spread over the second half, and only the output of the last step is handed to the loss, as a
            sequence of one step.
        loss: `loss(model, *data) -> scalar`, or `loss(output, target)`.
        contexts: to measure; by default powers of two and T, and then every context that halving needs to find `uses`.
        mode: "cut", "shuffle" or "feature".
        feature: the column of x, for mode "feature".
        batch_first: by default that of the first recurrent layer in the model.
        ends: how many steps with a target are asked.
        seed: of the shuffling.
        lengths: [B], where rows end; then they are cut before their own ends. One of the inputs has to hold the same numbers,
            or be packed.
        lag: that is asked about: in mode "cut" the context that ends before it is measured too.

    Raises:
        ShapeError: if the data are no tuple of sequences.
        ArgumentError: for contexts outside 1 .. T, an unknown mode, lengths that no input holds, a target for every step of
            rows with lengths, or a loss that is not finite.

    >>> x = torch.randn(40, 64, 1, generator=torch.Generator().manual_seed(0))
    >>> class Last7(nn.Module):
    ...     def forward(self, x):
    ...         return x[-7:].sum(0)
    >>> ablation(Last7(), (x, x[-7:].sum(0)), lambda m, x, y: (m(x) - y).square().mean()).uses
    7
    """
    asked = _Asked(model, data, loss, mode, feature, batch_first, ends, seed, lengths)
    T = asked.longest
    given = sorted(set(int(k) for k in contexts)) if contexts is not None else _powers(T)
    if not given or given[0] < 1 or given[-1] > T:
        hint = "name contexts within the sequences"
        raise ArgumentError(message("ablation", "a context outside the sequences", f"{given}", f"1 .. {T}", hint))
    lag = lag if mode == "cut" else None
    found = _Found(asked, T, [*given, T, *([] if lag is None or not 1 <= lag < T else [lag])])
    if contexts is None:
        found.narrow(found.same)
        found.narrow(found.nearly)
        if mode == "cut":
            found.descend()
    ks = np.array(sorted(found.losses))
    losses = np.array([found.losses[k] for k in ks.tolist()])
    uses = _from_there(ks, losses, found.same)
    nearly = _from_there(ks, losses, found.nearly) if losses[0] > losses[-1] and ks[0] == 1 else None
    better = found.better() if mode == "cut" else None
    return Ablation(mode, ks, losses, found.losses[T], uses, feature, nearly, better, lag)


def _powers(T: int) -> list[int]:
    return [*(2**n for n in range(T.bit_length()) if 2**n < T), T]


def _from_there(contexts: np.ndarray, losses: np.ndarray, most: float) -> int:
    """The smallest context from which on every loss differs from the last one by at most so much."""
    apart = np.flatnonzero(~(np.abs(losses - losses[-1]) <= most))
    return int(contexts[apart[-1] + 1 if len(apart) else 0])


def _steps(k: int) -> str:
    return f"{k} step{'s' * (k != 1)}"


class _Found:
    """The losses that are known, and which contexts to ask for next."""

    def __init__(self, asked: _Asked, T: int, contexts: Iterable[int]) -> None:
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


class _Asked:
    """The loss of a model as a function of the context."""

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        loss: Any,
        mode: str,
        feature: int | None,
        batch_first: bool | None,
        ends: int,
        seed: int,
        lengths: Tensor | None,
    ) -> None:
        if mode not in ("cut", "shuffle", "feature"):
            expected = "'cut', 'shuffle' or 'feature'"
            raise ArgumentError(message("ablation", "unknown mode", repr(mode), expected, "use one of these"))
        if (mode == "feature") != (feature is not None):
            hint = "name the column: mode='feature', feature=0"
            raise ArgumentError(message("ablation", "which column?", f"mode={mode!r}, feature={feature}", "both or none", hint))
        if isinstance(data, (Tensor, np.ndarray, PackedSequence)) or isinstance(data, (tuple, list)) and len(data) < 2:
            hint = "pass (x, target): the loss is called as loss(model, x, target)"
            raise ShapeError(
                message("ablation", "the data hold no target", f"data: {describe(data)}", "(x, ..., target)", hint)
            )
        data, loss, _ = formed(model, data, loss, "ablation")
        if batch_first is None:
            batch_first = next((bool(m.batch_first) for m in model.modules() if hasattr(m, "batch_first")), False)  # type: ignore[arg-type]
        self.time = 1 if batch_first else 0
        self.model, self.loss, self.mode, self.feature, self.seed = model, loss, mode, feature, seed
        self.inputs, self.target = tuple(data[:-1]), data[-1]
        first = next(iter(leaves(self.inputs)), None)
        if isinstance(first, PackedSequence):
            x, lengths = pad_packed_sequence(first, batch_first=batch_first)
        else:
            x = first
        if not isinstance(x, Tensor) or x.dim() < 2:
            hint = "pass a batch of sequences"
            raise ShapeError(message("ablation", "x is not a batch of sequences", f"x: {describe(x)}", "x: [T, B, ...]", hint))
        self.x, self.lengths = x, None if lengths is None else lengths.cpu()
        T, self.rows = x.shape[self.time], x.shape[1 - self.time]
        self._expect_lengths()
        self.every = T > 1 and self._has_steps(self.target) and self._answers_every_step()
        if self.every and self.lengths is not None:
            hint = "give it the target of each row's last step, or rows of one length"
            what = "a target for every step of rows that have lengths"
            raise ArgumentError(message("ablation", what, f"target: {describe(self.target)}", "one target for a row", hint))
        T = T if self.lengths is None else int(self.lengths.max())
        self.longest = max(1, T // 2) if self.every else T
        self.ends = np.unique(np.linspace(self.longest, T, min(ends, T - self.longest + 1)).astype(int)) if self.every else [T]

    def __call__(self, k: int) -> float:
        """The loss with a context of k."""
        value = float(np.mean(self._losses([self._part(int(end), k) for end in self.ends])))
        if not np.isfinite(value):
            hint = "look for the first number that is not finite: openlstm.insight.look"
            raise ArgumentError(message("ablation", "the loss is not finite", f"{value} with context {k}", "a number", hint))
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
            return self._losses([mapped(whole, lambda a, group=group: self._of_rows(a, group)) for group in groups])
        except Exception:  # noqa: BLE001  of the user's model, which was not asked for such a call
            return np.zeros(0)

    def _losses(self, parts: list[tuple[Any, ...]]) -> np.ndarray:
        model = _LastStep(self.model, self.time) if self.every else self.model
        with self._quiet():
            return np.array([float(self.loss(model, *part)) for part in parts])

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        modes = [(m, m.training) for m in self.model.modules()]
        self.model.eval()
        try:
            with torch.no_grad(), torch.random.fork_rng():
                yield
        finally:
            for m, training in modes:
                m.training = training

    def _has_steps(self, a: Any) -> bool:
        """Whether it has the axes of x."""
        return isinstance(a, Tensor) and a.dim() >= 2 and a.shape[:2] == self.x.shape[:2]

    def _answers_every_step(self) -> bool:
        """Whether a step less makes an output of a step less: a target of as many columns as x has steps is none for each."""
        heard = _LastStep(self.model, self.time)
        T = self.x.shape[self.time]
        less = mapped((*self.inputs, self.target), lambda a: a.narrow(self.time, 0, T - 1) if self._has_steps(a) else a)
        with self._quiet(), suppress(Exception):  # a loss that wants both to have T steps
            self.loss(heard, *less)
        return heard.steps == T - 1

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
            raise ArgumentError(message("ablation", "rows of different lengths", got, "the lengths among the data", hint))
        if self.mode != "cut":
            hint = "use mode='cut', or pass rows of one length"
            raise ArgumentError(message("ablation", f"rows with lengths in mode {self.mode!r}", got, "rows of length T", hint))

    def _is_lengths(self, a: Any) -> bool:
        if self.lengths is None or not isinstance(a, Tensor) or a.is_floating_point() or a.shape != self.lengths.shape:
            return False
        return bool((a.cpu() == self.lengths).all())

    def _part(self, end: int, k: int) -> tuple[Any, ...]:
        """The data of one end: of the longest context before it the last k steps, or the older ones changed; and its target."""
        if self.lengths is not None:
            return *mapped(self.inputs, lambda a: self._of_ends(a, k)), self.target
        target = self.target.narrow(self.time, end - 1, 1) if self.every else self.target
        return *mapped(self.inputs, lambda a: self._before(a, end, k) if self._has_steps(a) else a), target

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
        return self._moved(a, kept) if self._has_steps(a) else a

    def _moved(self, a: Tensor, kept: Tensor) -> Tensor:
        """The last steps of every row at the front, [max kept, B, ..] or [B, max kept, ..]; what is behind them is padding."""
        assert self.lengths is not None
        at = (self.lengths - kept)[:, None] + torch.arange(int(kept.max()))  # [B, K]
        at = at.clamp(max=a.shape[self.time] - 1).to(a.device)
        rows = torch.arange(self.rows, device=a.device)
        return a[rows[:, None], at] if self.time == 1 else a[at.T, rows]

    def _of_rows(self, a: Any, group: np.ndarray) -> Any:
        """Some rows of what has rows: on the axis that x has them on where it has both axes, else on the first of that size."""
        chosen = torch.from_numpy(group)
        if isinstance(a, PackedSequence):
            padded, lengths = pad_packed_sequence(a)
            return pack_padded_sequence(padded[:, chosen.to(padded.device)], lengths[chosen], enforce_sorted=False)
        if not isinstance(a, Tensor):
            return a
        axes = (1 - self.time, self.time) if a.shape[:1] != (self.rows,) or a.shape[1:2] == (self.rows,) else (0,)
        axis = next((k for k in axes if k < a.dim() and a.shape[k] == self.rows), None)
        return a if axis is None else a.index_select(axis, chosen.to(a.device))

    def _shuffled(self, old: Tensor) -> Tensor:
        order = torch.randperm(old.shape[self.time], generator=torch.Generator().manual_seed(self.seed))
        return old.index_select(self.time, order.to(old.device))

    def _without(self, old: Tensor) -> Tensor:
        if not old.is_floating_point() or not -old.shape[-1] <= int(self.feature or 0) < old.shape[-1]:
            got, hint = f"feature={self.feature}, x: {describe(self.x)}", "name a column of x"
            raise ArgumentError(message("ablation", "no such column", got, f"0 .. {old.shape[-1] - 1}", hint))
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
