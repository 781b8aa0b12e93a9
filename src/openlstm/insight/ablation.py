"""D4, after training: how much context a network uses, from its loss with the context cut, shuffled or taken out of one column.

Legend: T time, B batch, I input size, k context: the last k steps, k = 1 .. T.

    cut       loss of the network that sees the last k steps alone, from rest: what serving with a window of k costs
    shuffle   loss with the steps before the last k in random order: how far back their order matters
    feature   loss with one column replaced by its mean before the last k: how far back that column matters

    uses = the smallest k from which on   loss(k) - loss(T) <= 0.01 max(loss(T), loss(1) - loss(T))

The tolerance is 1 % of the full loss, or of what the context is worth where the full loss is nearly zero. It is the answer
of the trained network; a gradient or a retention curve is not (a latched bit has a vanishing gradient).

Source: Khandelwal et al. 2018 ("Sharp nearby, fuzzy far away").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from openlstm._errors import ArgumentError, ShapeError, describe, message
from openlstm.insight.look import Loss

Mode = Literal["cut", "shuffle", "feature"]
WITHIN = 0.01
ENDS = 16  # places at which a network with a target for every step is asked


@dataclass(frozen=True)
class Ablation:
    """Loss by context.

    contexts: [n], rising, the last one T. losses: [n]. full: the loss with all of it.
    uses: the smallest context from which on the loss is the full one, within 1 %.
    feature: the column, in mode "feature".
    """

    mode: str
    contexts: np.ndarray
    losses: np.ndarray
    full: float
    uses: int
    feature: int | None = None

    @property
    def finding(self) -> str:
        """One sentence."""
        if self.uses == self.contexts[-1] and len(self.contexts) > 1:
            most = f"all {self.uses} steps it was given, perhaps more"
        else:
            most = "the last step" if self.uses == 1 else f"the last {self.uses} steps"
        if self.mode == "shuffle":
            return f"The network minds the order of {most}."
        if self.mode == "feature":
            return f"The network uses {most} of column {self.feature}."
        window = f": a window of {self.uses} {'step' if self.uses == 1 else 'steps'} gives the same loss, serve with it"
        return f"The network uses {most}{'' if 'perhaps' in most else window}."

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        return {
            "mode": self.mode,
            "feature": self.feature,
            "uses": self.uses,
            "full": self.full,
            "contexts": self.contexts.tolist(),
            "losses": self.losses.tolist(),
            "finding": self.finding,
        }


def ablation(
    model: nn.Module,
    data: tuple[Any, ...] | list[Any],
    loss: Loss,
    contexts: Iterable[int] | None = None,
    mode: Mode = "cut",
    *,
    feature: int | None = None,
    batch_first: bool | None = None,
    ends: int = ENDS,
    seed: int = 0,
) -> Ablation:
    """Measure the loss of a trained model with less and less context.

    Args:
        model: takes x and gives outputs; a recurrent layer or a whole model.
        data: (x, ..., target). x is [T, B, ...], [B, T, ...] with batch_first. A target with T steps is one for every step:
            then the context ends at `ends` steps spread over the second half, and only the output of the last step is handed to
            the loss, as a sequence of one step.
        loss: `loss(model, *data) -> scalar`.
        contexts: to measure; by default powers of two and T, and then every context that halving needs to find `uses`.
        mode: "cut", "shuffle" or "feature".
        feature: the column of x, for mode "feature".
        batch_first: by default that of the first recurrent layer in the model.
        ends: how many steps with a target are asked.
        seed: of the shuffling.

    Raises:
        ShapeError: if the data are no tuple of sequences.
        ArgumentError: for contexts outside 1 .. T, an unknown mode, or a loss that is not finite.

    >>> x = torch.randn(40, 64, 1, generator=torch.Generator().manual_seed(0))
    >>> class Last7(nn.Module):
    ...     def forward(self, x):
    ...         return x[-7:].sum(0)
    >>> ablation(Last7(), (x, x[-7:].sum(0)), lambda m, x, y: (m(x) - y).square().mean()).uses
    7
    """
    asked = _Asked(model, data, loss, mode, feature, batch_first, ends, seed)
    T = asked.longest
    given = sorted(set(int(k) for k in contexts)) if contexts is not None else _powers(T)
    if not given or given[0] < 1 or given[-1] > T:
        hint = "name contexts within the sequences"
        raise ArgumentError(message("ablation", "a context outside the sequences", f"{given}", f"1 .. {T}", hint))
    found = {k: asked(k) for k in sorted({*given, T})}
    if contexts is None:
        _refine(found, asked, T)
    ks = sorted(found)
    return Ablation(mode, np.array(ks), np.array([found[k] for k in ks]), found[T], _uses(found), feature)


def _powers(T: int) -> list[int]:
    return [*(2**n for n in range(T.bit_length()) if 2**n < T), T]


def _uses(found: dict[int, float]) -> int:
    """The smallest context from which on every loss is the full one."""
    ks = sorted(found, reverse=True)
    full, worst = found[ks[0]], found[ks[-1]]
    most = full + WITHIN * max(abs(full), worst - full)
    uses = ks[0]
    for k in ks:
        if not found[k] <= most:
            break
        uses = k
    return uses


def _refine(found: dict[int, float], asked: Callable[[int], float], T: int) -> None:
    """Halve between the last context that does not do and the first that does."""
    while True:
        uses = _uses(found)
        below = max((k for k in found if k < uses), default=0)
        if uses - below <= 1:
            return
        middle = (uses + below) // 2
        found[middle] = asked(middle)


class _Asked:
    """The loss of a model as a function of the context."""

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        loss: Loss,
        mode: str,
        feature: int | None,
        batch_first: bool | None,
        ends: int,
        seed: int,
    ) -> None:
        if mode not in ("cut", "shuffle", "feature"):
            expected = "'cut', 'shuffle' or 'feature'"
            raise ArgumentError(message("ablation", "unknown mode", repr(mode), expected, "use one of these"))
        if (mode == "feature") != (feature is not None):
            hint = "name the column: mode='feature', feature=0"
            raise ArgumentError(message("ablation", "which column?", f"mode={mode!r}, feature={feature}", "both or none", hint))
        if not isinstance(data, (tuple, list)) or len(data) < 2:
            hint = "pass (x, target): the loss is called as loss(model, x, target)"
            raise ShapeError(
                message("ablation", "the data hold no target", f"data: {describe(data)}", "(x, ..., target)", hint)
            )
        x, *rest = (torch.as_tensor(a) if isinstance(a, np.ndarray) else a for a in data)
        if batch_first is None:
            batch_first = next((bool(m.batch_first) for m in model.modules() if hasattr(m, "batch_first")), False)  # type: ignore[arg-type]
        self.time = 1 if batch_first else 0
        if not isinstance(x, Tensor) or x.dim() < 2:
            hint = "pass a batch of sequences"
            raise ShapeError(message("ablation", "x is not a batch of sequences", f"x: {describe(x)}", "x: [T, B, ...]", hint))
        self.model, self.loss, self.mode, self.feature, self.seed = model, loss, mode, feature, seed
        self.x, self.rest = x, rest
        T = x.shape[self.time]
        self.every = isinstance(rest[-1], Tensor) and rest[-1].dim() >= 2 and rest[-1].shape[:2] == x.shape[:2] and T > 1
        self.longest = max(1, T // 2) if self.every else T
        self.ends = np.unique(np.linspace(self.longest, T, min(ends, T - self.longest + 1)).astype(int)) if self.every else [T]

    def __call__(self, k: int) -> float:
        """The loss with a context of k."""
        model = _LastStep(self.model, self.time) if self.every else self.model
        parts = [self._part(int(end), k) for end in self.ends]
        modes = [(m, m.training) for m in self.model.modules()]
        self.model.eval()
        try:
            with torch.no_grad(), torch.random.fork_rng():
                values = [float(self.loss(model, *part)) for part in parts]
        finally:
            for m, training in modes:
                m.training = training
        value = float(np.mean(values))
        if not np.isfinite(value):
            hint = "look for the first number that is not finite: openlstm.insight.look"
            raise ArgumentError(message("ablation", "the loss is not finite", f"{value} with context {k}", "a number", hint))
        return value

    def _part(self, end: int, k: int) -> tuple[Any, ...]:
        """The data of one end: a longest context before it, of which the last k steps are left."""
        start = end - self.longest
        x = self.x.narrow(self.time, start, self.longest)
        if self.mode == "cut":
            x = x.narrow(self.time, self.longest - k, k)
        elif k < self.longest:
            old, new = x.split([self.longest - k, k], self.time)
            x = torch.cat([self._shuffled(old) if self.mode == "shuffle" else self._without(old), new], self.time)
        return x, *(self._of_end(a, end, k, a is self.rest[-1]) for a in self.rest)

    def _of_end(self, a: Any, end: int, k: int, target: bool) -> Any:
        """What stands beside x: of the target the last step, of other sequences the steps that x has."""
        if not isinstance(a, Tensor) or a.dim() < 2 or a.shape[:2] != self.x.shape[:2]:
            return a
        if target:
            return a.narrow(self.time, end - 1, 1) if self.every else a
        steps = k if self.mode == "cut" else self.longest
        return a.narrow(self.time, end - steps, steps)

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
    """A model whose outputs are those of the last step, still with an axis of time."""

    def __init__(self, model: nn.Module, time: int) -> None:
        super().__init__()
        self.model = model
        self._time = time

    def forward(self, *args: Any, **named: Any) -> Any:
        out = self.model(*args, **named)
        if isinstance(out, tuple):
            return (self._last(out[0]), *out[1:])
        return self._last(out)

    def _last(self, out: Any) -> Any:
        return out.narrow(self._time, out.shape[self._time] - 1, 1) if isinstance(out, Tensor) else out

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)
