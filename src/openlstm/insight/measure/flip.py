"""The input flip: does a change of one input, `lag` steps back, still move the last state, beside its own spread?

Legend: T time, B batch, I input size, R width of what is read (h_T, or any output).

    x'       = x, but x'_{T-lag} = 2 m - x_{T-lag},   m = the mean of x_{T-lag} over the rows       (all other steps the same)
    signal   = mean_b || h_T(x'_b) - h_T(x_b) ||
    noise    = sqrt( mean_b || h_T(x_b) - mean_b h_T ||^2 )
    ratio    = signal / noise

T-lag is the step that is read `lag` steps before the last one (index T-1-lag, counted from 0), so that lag 0 is the last step.
The mean is taken over the rows at that very step: what is the same in every row there (a marker, a bias column) stays as it
is, and what differs is mirrored to where other rows have it. No labels are needed, no gradient, and no loss.

A gradient says what an infinitely small change would do, this what a change of the size of the data does: a saturated or a
chaotic network has them far apart.

Source: measured on 170 networks against thirteen other rules (docs/horizon.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from openlstm.errors import ArgumentError, ShapeError, describe
from openlstm.insight.results import Result


@dataclass(frozen=True)
class Flip(Result):
    """What a flipped input did to what is read at the end.

    lag: steps back; signal, noise, ratio: as defined above; ratio is 0 where nothing moved, inf where nothing else moves it.
    changed: whether the input at that step differs between the rows at all; if not, there was nothing to flip.
    """

    lag: int
    signal: float
    noise: float
    ratio: float
    changed: bool

    @property
    def finding(self) -> str:
        """One sentence.

        >>> Flip(120, 0.002, 0.5, 0.004, True).finding
        'Flipping the input 120 steps back moves the last state by 0.004 of its own spread.'
        """
        if not self.changed:
            return f"The input {self.lag} steps back is the same in every row, so that there is nothing to flip."
        return f"Flipping the input {self.lag} steps back moves the last state by {self.ratio:.2g} of its own spread."


def flip(run: Callable[[Tensor], Any], x: Tensor, lag: int) -> Flip:
    """Flip the input `lag` steps back and see how far what `run` returns moves.

    Args:
        run: x [T, B, I] -> what is read at the end, [B, ...] (h_T or logits); called twice, without gradients.
        x: the sequences, at least two of them: the spread between rows is the measure.
        lag: 0 .. T-1.

    Raises:
        ShapeError: if x is not [T, B, I] with two rows or more, or `run` does not return one row for each.
        ArgumentError: for a lag outside the sequence.

    >>> x = torch.randn(9, 64, 1, generator=torch.Generator().manual_seed(0))
    >>> flip(lambda x: x.sum(0), x, 5).ratio < 1 < flip(lambda x: x[-6], x, 5).ratio
    True
    """
    if not isinstance(x, Tensor) or x.dim() != 3 or x.shape[1] < 2:
        got, hint = f"x: {describe(x)}", "pass a batch: what a flip moves is compared with how rows differ"
        raise ShapeError.of("flip", "x needs three axes and two rows", got, "x: [T, B >= 2, I]", hint)
    if not 0 <= lag < x.shape[0]:
        got, hint = f"lag={lag}, T={x.shape[0]}", "pass sequences longer than the lag, or ask for a shorter one"
        raise ArgumentError.of("flip", "the lag lies outside the sequences", got, "0 <= lag < T", hint)
    at = x.shape[0] - 1 - lag
    other = x.clone()
    other[at] = 2 * x[at].mean(0) - x[at]
    with torch.no_grad():
        before, after = _rows(run(x), x), _rows(run(other), x)  # [B, R]
    return compared(before, after, lag, differs(x[at]))


def compared(before: Tensor, after: Tensor, lag: int, changed: bool) -> Flip:
    """What a flip made of what is read [B, R], before and after."""
    signal = float((after - before).norm(dim=1).mean())
    noise = float(((before - before.mean(0)) ** 2).sum(1).mean().sqrt())
    ratio = signal / noise if noise else (float("inf") if signal else 0.0)
    return Flip(lag, signal, noise, ratio, changed)


def differs(rows: Tensor) -> bool:
    """Whether rows [B, I] differ by more than rounding."""
    spread = (rows - rows.mean(0)).abs().max()
    return bool(spread > 1e-6 * rows.abs().max())


def _rows(out: Any, x: Tensor) -> Tensor:
    if not isinstance(out, Tensor) or out.dim() == 0 or out.shape[0] != x.shape[1]:
        got, expected = f"run(x): {describe(out)}", f"[{x.shape[1]}, ...], one row for each sequence"
        raise ShapeError.of("flip", "run does not return a row for each sequence", got, expected, "return h_T, [B, H]")
    return out.detach().reshape(len(out), -1).double()
