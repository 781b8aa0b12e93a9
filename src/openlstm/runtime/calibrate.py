"""Split conformal correction of quantiles: how far each has to move so that its share of the validation targets lies below.

Legend: n validation windows, S series, K steps of the horizon, Q quantiles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

TAIL = 2
"""So many errors are wanted beyond each corrected quantile; where a step has fewer, those of its neighbours join them."""


class Correction(NamedTuple):
    """What moves the quantiles.

    shift: float64 [K, Q], in units of the series' scale; 0 for the median.
    count: int64 [K, Q], how many errors each rests on.
    enough: bool [K, Q], whether these were enough for the level; where not, the shift is that of the most extreme error.
    """

    shift: np.ndarray
    count: np.ndarray
    enough: np.ndarray

    @property
    def enough_for_all(self) -> tuple[bool, ...]:
        """For each level, whether there were enough at every step."""
        return tuple(bool(e) for e in np.atleast_1d(self.enough.all(axis=0)))


def needed(level: float) -> int:
    """How many errors a level needs at least: with n of them, its quantile has the rank (n + 1) level, rounded outwards.

    >>> [needed(q) for q in (0.1, 0.5, 0.9, 0.975)]
    [9, 1, 9, 39]
    """
    return math.ceil(round(1 / min(level, 1 - level), 9)) - 1


def correct(
    truth: np.ndarray, quantiles: np.ndarray, scale: np.ndarray, levels: Sequence[float], *, windows: int | None = None
) -> Correction:
    """Learn the correction from windows that the model was not fitted to.

    For a level q above the median the shift is the error (truth - quantile) / scale of rank ceil((n + 1) q) among n, below it
    that of rank floor((n + 1) q): if new errors are exchangeable with these, a share of at least q lies below the upper
    quantile, and of at most q below the lower. The median stays.

    A step with fewer than `TAIL` times the errors that a level needs takes those of the steps beside it as well, from both
    sides, in the end those of all steps.

    Args:
        truth: [n, K], NaN where missing.
        quantiles: [n, K, Q], rising.
        scale: [n], the scale of each window's series; windows without one (0, NaN) are left out.
        levels: the Q levels.
        windows: so many of the windows share no target. Errors that overlap say less than their number: each quantile is then
            further from the median, as Student's t with so many values is wider than the normal distribution.

    Source: Vovk, Gammerman & Shafer 2005; Romano, Patterson & Candes 2019 (conformalized quantile regression), each end alone.

    >>> truth, quantiles = np.arange(1.0, 11.0)[:, None], np.zeros((10, 1, 3))
    >>> correct(truth, quantiles, np.ones(10), [0.1, 0.5, 0.9]).shift.tolist()
    [[1.0, 0.0, 10.0]]
    """
    usable = scale > 0  # False where NaN
    steps = truth.shape[1]
    known = (~np.isnan(truth[usable])).sum(0)  # [K]
    shift, count = np.zeros((steps, len(levels))), np.zeros((steps, len(levels)), np.int64)
    for q, level in enumerate(levels):
        errors = (truth[usable] - quantiles[usable, :, q]) / scale[usable, None]  # [n, K]
        for k in range(steps):
            near = _neighbours(known, k, TAIL * needed(level))
            e = errors[:, near]
            e = np.sort(e[~np.isnan(e)])
            count[k, q] = len(e)
            if abs(level - 0.5) > 1e-9 and len(e):
                exact = round((len(e) + 1) * level, 9)  # 10 * 0.9 is not quite 9
                rank = math.ceil(exact) if level > 0.5 else math.floor(exact)
                shift[k, q] = e[min(max(rank, 1), len(e)) - 1]
    if windows is not None:
        middle = int(np.argmin(np.abs(np.asarray(levels) - 0.5)))
        from_median = (quantiles[usable] - quantiles[usable][..., middle : middle + 1]) / scale[usable, None, None]
        away = (from_median.mean(0) if usable.any() else 0.0) + shift
        shift = shift + away * [widening(level, windows) - 1 for level in levels]
    return Correction(shift, count, count >= [needed(level) for level in levels])


def widening(level: float, count: int) -> float:
    """How much further a new value's quantile lies from the mean if mean and deviation come from `count` values only.

    The quantile of Student's t with count - 1 degrees of freedom times sqrt(1 + 1 / count), over that of the normal
    distribution; 1 for the median.

    Source: Fisher & Cornish 1960, for the quantile of t.

    >>> [round(widening(0.9, n), 2) for n in (2, 3, 5, 10, 1000)]
    [2.94, 1.7, 1.31, 1.13, 1.0]
    """
    from statistics import NormalDist  # for those who calibrate: it takes its time to import

    z, n = NormalDist().inv_cdf(level), max(count, 2)
    if abs(level - 0.5) < 1e-9:
        return 1.0
    v = n - 1
    if v <= 2:
        t = math.tan(math.pi * (level - 0.5)) if v == 1 else (2 * level - 1) / math.sqrt(2 * level * (1 - level))
    else:
        t = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    return t / z * math.sqrt(1 + 1 / n)


def at_every_level(points: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Forecasts of single values [S, K] as quantiles [S, K, Q] that all lie there, to be corrected.

    >>> at_every_level(np.array([[5.0]]), [0.1, 0.5, 0.9]).tolist()
    [[[5.0, 5.0, 5.0]]]
    """
    return np.repeat(points[..., None], len(levels), axis=-1)


def apply(shift: np.ndarray, quantiles: np.ndarray, scale: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Move quantiles [S, K, Q] by the `shift` [K, Q] of a correction; [S, K, Q], rising.

    A quantile that would cross the one next to it, on the way to the median, stays there: bands grow by this, never shrink.

    Args:
        scale: [S]; a series without one (0, NaN) is not corrected.

    >>> apply(np.array([[-1.0, 0.0, 2.0]]), np.zeros((1, 1, 3)), np.array([10.0]), [0.1, 0.5, 0.9]).tolist()
    [[[-10.0, 0.0, 20.0]]]
    """
    moved = quantiles + shift * np.where(scale > 0, scale, 0.0)[:, None, None]
    middle = int(np.argmin(np.abs(np.asarray(levels) - 0.5)))
    for q in reversed(range(middle)):
        np.minimum(moved[..., q], moved[..., q + 1], out=moved[..., q])
    for q in range(middle + 1, moved.shape[-1]):
        np.maximum(moved[..., q], moved[..., q - 1], out=moved[..., q])
    return moved


def warning(correction: Correction, levels: Sequence[float]) -> str | None:
    """What to tell where there were too few errors for a level; None where there were enough for all.

    >>> c = correct(np.zeros((3, 2)), np.zeros((3, 2, 3)), np.ones(3), [0.1, 0.5, 0.9])
    >>> warning(c, [0.1, 0.5, 0.9])
    'too few validation errors for the quantiles 0.1, 0.9: 6 of at least 9; the true values may lie beyond them more often'
    """
    short = np.flatnonzero(~correction.enough.all(0)).tolist()
    if not short:
        return None
    names = ", ".join(f"{levels[q]:g}" for q in short)
    word = "quantile" if len(short) == 1 else "quantiles"
    need = max(needed(levels[q]) for q in short)
    return (
        f"too few validation errors for the {word} {names}: {correction.count[:, short].min()} of at least {need}; "
        "the true values may lie beyond them more often"
    )


def _neighbours(known: np.ndarray, step: int, wanted: int) -> slice:
    """The fewest steps around one that hold so many known errors."""
    for reach in range(len(known)):
        near = slice(max(step - reach, 0), step + reach + 1)
        if known[near].sum() >= wanted:
            return near
    return slice(0, len(known))
