"""D5, the ladder: the lags that matter, on one axis, each with what it means.

    asked       the lag that is asked about
    needed      the lag that the data ask for, as far as a linear model can tell
    window      how far a gradient goes back: the length of the sequences, or that of truncated backpropagation
    gradient    the longest lag at which the share of the gradient is not below the threshold of `insight.verdict`
    flip        the longest lag at which the input flip is not below it
    used        the context that a trained network uses (`insight.ablation`)

No rung is the verdict and the shortest is not 'the bottleneck': a cell half-life is left out on purpose, since in 69 of 109
networks that learnt it was shorter than the lag that they had learnt (the recurrence writes the cell again); after training the
gradient rung says nothing, since a latched bit has a vanishing gradient.

Source: docs/horizon.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from openlstm.insight.ablation import Ablation
from openlstm.insight.needed import Needed
from openlstm.insight.verdict import LastState, WholeModel


@dataclass(frozen=True)
class Rung:
    """One lag, inf where it lies beyond what was looked at; `beyond` then says where the look ended."""

    name: str
    lag: float
    note: str
    beyond: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON; an infinite lag is None."""
        lag = None if math.isinf(self.lag) else self.lag
        return {"name": self.name, "lag": lag, "beyond": self.beyond, "note": self.note}


@dataclass(frozen=True)
class Ladder:
    """The rungs that are known, in the order above."""

    rungs: tuple[Rung, ...]

    def __getitem__(self, name: str) -> Rung:
        for rung in self.rungs:
            if rung.name == name:
                return rung
        raise KeyError(f"{name!r}; there is {', '.join(r.name for r in self.rungs)}")

    @property
    def finding(self) -> str:
        """One sentence."""
        said = {r.name: _lag(r) for r in self.rungs}
        if not said:
            return "No lag is known."
        text = f"In steps: {', '.join(f'{name} {lag}' for name, lag in said.items())}."
        if "asked" in said and "needed" in said:
            text += f" Lag {said['asked']} is asked about; a linear model finds that the data need lag {said['needed']}, "
            text += "and cannot see a lag that matters only together with another."
        return text

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        return {"rungs": [r.to_dict() for r in self.rungs], "finding": self.finding}


def ladder(
    *,
    lag: int | None = None,
    needed: Needed | None = None,
    window: int | None = None,
    gradient: Rung | None = None,
    flip_lag: Rung | None = None,
    used: Ablation | None = None,
) -> Ladder:
    """Put together what is known; what is None has no rung.

    Args:
        lag: that is asked about.
        needed, used: of the functions of these names.
        window: steps of the sequences, or of truncated backpropagation.
        gradient, flip_lag: of `gradient_rung` and `flip_rung`.

    >>> ladder(lag=120, window=64).finding
    'In steps: asked 120, window 64.'
    """
    rungs: list[Rung] = []
    if lag is not None:
        rungs.append(Rung("asked", lag, "the lag that is asked about"))
    if needed is not None and needed.lag is not None and (lag is None or not needed.own):
        rungs.append(Rung("needed", needed.lag, needed.finding))
    if window is not None:
        rungs.append(Rung("window", window, f"a gradient goes back {window} steps at most"))
    rungs += [rung for rung in (gradient, flip_lag) if rung is not None]
    if used is not None:
        rungs.append(Rung("used", used.uses, f"from {used.uses} steps on the loss is the one with {used.contexts[-1]}"))
    return Ladder(tuple(rungs))


def gradient_rung(seen: LastState | WholeModel) -> Rung:
    """The longest lag that at least the threshold's share of the gradient reaches.

    Args:
        seen: of `insight.verdict.seeing`.
    """
    limit = seen.of.thresholds.share
    shares = seen.shares()
    kept = np.flatnonzero(shares >= limit)
    longest = int(kept[-1]) if kept.size else 0
    end = len(shares) - 1
    note = f"at least {limit:g} of the {seen.of.gradient} reaches lag {longest}"
    return (
        Rung("gradient", math.inf, f"{note}, the longest looked at", end) if longest == end else Rung("gradient", longest, note)
    )


def flip_rung(seen: LastState | WholeModel) -> Rung:
    """The longest lag at which a flipped input still moves what is read, found by doubling and halving.

    Args:
        seen: of `insight.verdict.seeing`.
    """
    limit, end = seen.of.thresholds.flip, seen.longest

    def moves(lag: int) -> bool:
        return seen.flip(lag).ratio >= limit

    if moves(end):
        return Rung("flip", math.inf, f"an input moves {seen.of.read} over {end} steps, the longest looked at", end)
    low, high = 0, 1
    while high < end and moves(high):
        low, high = high, 2 * high
    high = min(high, end)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if moves(middle) else (low, middle)
    return Rung("flip", low, f"an input moves {seen.of.read} by at least {limit:g} of its spread over {low} steps")


def _lag(rung: Rung) -> str:
    return f"more than {rung.beyond}" if math.isinf(rung.lag) else f"{rung.lag:g}"
