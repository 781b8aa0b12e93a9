"""Context ablation: how much context a trained network uses, by its loss with the context cut, shuffled or out of one column.

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

It is the answer of the trained network; a gradient or a retention curve is not (a bit that saturated units hold has a vanishing
gradient).

Source: Khandelwal et al. 2018 ("Sharp nearby, fuzzy far away").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import nn

from openlstm.errors import ArgumentError
from openlstm.insight import charts
from openlstm.insight.display import FINE, SERIES, SOFT, Chart, Display, alt
from openlstm.insight.measure.context_loss import AblationOptions, ContextLoss, Search
from openlstm.insight.results import Asked, Result
from openlstm.insight.words import number
from openlstm.insight.words import steps as _steps

Mode = Literal["cut", "shuffle", "feature"]


@dataclass(frozen=True)
class Ablation(Result):
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
            window = f"a window of {_steps(self.better)}, started empty for each answer"
            less, full = number(self._loss(self.better), 3), number(self.full, 3)
            shown = f"its loss is {less} with these, {full} with {self.contexts[-1]}"
            return f"It does better with {window}, than in a stream that goes on: {shown}."
        if self.uses == self.contexts[-1]:
            longest = f"{_steps(self.uses)}, the longest context"
            return f"Started from an empty state its loss is not the full one before {longest}: keep its state."
        return f"Send {_steps(self.uses)} before trusting a stream that starts empty: from there on its loss is the full one."

    def _loss(self, k: int) -> float:
        return float(self.losses[self.contexts == k][0])

    def _with(self, k: int) -> str:
        T = int(self.contexts[-1])
        text = f"with {_steps(k)} its loss is {number(self._loss(k), 3)}"
        return text if k == T else f"{text}, with {T} it is {number(self.full, 3)}"

    @classmethod
    def displays(cls, found: Mapping[str, Ablation], asked: Asked) -> tuple[Display, ...]:
        """The loss when only the last so many steps are seen."""
        return tuple(_drawn(result, asked.lag) for result in found.values())


def ablation(
    model: nn.Module,
    data: Any,
    loss: Any,
    contexts: Iterable[int] | None = None,
    mode: Mode = "cut",
    *,
    lag: int | None = None,
    options: AblationOptions | None = None,
) -> Ablation:
    """Measure the loss of a trained model with less and less context.

    Args:
        model: takes x and gives outputs; a recurrent layer or a whole model.
        data: (x, ..., target), or in another form that `xray` takes. x is [T, B, ...], [B, T, ...] with batch_first, or a
            PackedSequence; what has its axes is cut with it. A target with T steps is one for every step: then the context ends
            at some steps spread over the second half, and only the output of the last step is handed to the loss, as a sequence
            of one step.
        loss: `loss(model, *data) -> scalar`, or `loss(output, target)`.
        contexts: to measure; by default powers of two and T, and then every context that halving needs to find `uses`.
        mode: "cut", "shuffle" or "feature".
        lag: that is asked about: in mode "cut" the context that ends before it is measured too.
        options: the column, the layout, where rows end.

    Raises:
        ShapeError: if the data are no tuple of sequences.
        ArgumentError: for contexts outside 1 .. T, an unknown mode, lengths that no input holds, a target for every step of
            rows with lengths, or a loss that is not finite.

    >>> import torch
    >>> x = torch.randn(40, 64, 1, generator=torch.Generator().manual_seed(0))
    >>> class Last7(nn.Module):
    ...     def forward(self, x):
    ...         return x[-7:].sum(0)
    >>> ablation(Last7(), (x, x[-7:].sum(0)), lambda m, x, y: (m(x) - y).square().mean()).uses
    7
    """
    options = options or AblationOptions()
    asked = ContextLoss(model, data, loss, mode, options)
    T = asked.longest
    powers = [*(2**n for n in range(T.bit_length()) if 2**n < T), T]
    given = powers if contexts is None else sorted({int(k) for k in contexts})
    if not given or given[0] < 1 or given[-1] > T:
        hint = "name contexts within the sequences"
        raise ArgumentError.of("ablation", "a context outside the sequences", f"{given}", f"1 .. {T}", hint)
    lag = lag if mode == "cut" else None
    found = Search(asked, T, [*given, T, *([] if lag is None or not 1 <= lag < T else [lag])])
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
    return Ablation(mode, ks, losses, found.losses[T], uses, options.feature, nearly, better, lag)


def _from_there(contexts: np.ndarray, losses: np.ndarray, most: float) -> int:
    """The smallest context from which on every loss differs from the last one by at most so much."""
    apart = np.flatnonzero(~(np.abs(losses - losses[-1]) <= most))
    return int(contexts[apart[-1] + 1 if len(apart) else 0])


def _drawn(found: Ablation, lag: int | None) -> Display:

    contexts = np.maximum(found.contexts, 0.5)
    rows = [
        {"x": charts.short(x), "v": charts.short(v), "d": f"the last {int(k):,} steps: loss {charts.number(v)}"}
        for k, x, v in zip(found.contexts, contexts, map(float, found.losses), strict=True)
        if np.isfinite(v)
    ]

    def drawn(width: int) -> Chart:
        x = charts.lag_axis(float(contexts.max(initial=2)), "steps seen", low=float(contexts.min(initial=1)))
        y = alt.Y("v:Q", title="loss", **charts.plain_axis(zero=False, nice=True))
        drawn = charts.rule_across(float(found.full), "", SOFT, dash=[3, 3]) + charts.line(rows, x, y, SERIES[0])
        for word, k in (("used", found.uses), ("better", found.better)):
            if k is not None:
                drawn = charts.rule_down(float(k), word, FINE, x) + drawn
        return charts.with_lag(drawn, lag, x).properties(width=width - charts.MARGIN, height=230)

    table = {"context": found.contexts.tolist(), "loss": found.losses.tolist(), "full": [float(found.full)] * len(found.losses)}
    return Display("What it uses: the loss by context", drawn, table, found.finding)
