"""Series of similar length side by side, each in a unit of its own, and their seasons.

Legend: S series, R series of one block, T steps, m steps of a season. Time comes first in the arrays of a block: each step
works on all series at once, and on each the same, whatever stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

MOST_STEPS = 3000
"""The newest steps that are looked at, at most; of those as many as make `SEASONS` seasons, but at least `FEWEST_STEPS`."""
SEASONS, FEWEST_STEPS = 8, 500
BLOCK = 1024
"""Series of one block."""
NUMBERS = 3_000_000
"""Numbers of one block, at most: so much memory is taken, a few times over."""


@dataclass(frozen=True)
class Block:
    """Series side by side, those that begin first in front; their unit is such that they move by about 1 a step.

    y: [T, R], NaN where missing. first: the step of the first known value [R].
    """

    y: np.ndarray
    first: np.ndarray
    whole: list[bool] = field(init=False)  # [T], whether all that have begun are known
    begun: list[int] = field(init=False)  # [T], how many have begun

    def __post_init__(self) -> None:
        steps = np.arange(len(self.y))
        begun = np.searchsorted(self.first, steps, side="right")
        object.__setattr__(self, "begun", begun.tolist())
        object.__setattr__(self, "whole", ((~np.isnan(self.y)).sum(1) == begun).tolist())

    def only(self, rows: np.ndarray) -> Block:
        """Some of the series."""
        return Block(self.y[:, rows], self.first[rows])


def blocks(past: np.ndarray, period: int, numbers: int) -> Iterator[tuple[np.ndarray, np.ndarray, Block]]:
    """Series with a known value in blocks of similar length: their rows, their units [R], and the block.

    Args:
        numbers: how many numbers are needed for each series; they bound the size of a block.
    """
    past = past[:, -min(max(FEWEST_STEPS, SEASONS * period), MOST_STEPS) :]
    known = ~np.isnan(past)
    some = np.flatnonzero(known.any(1))
    if not len(some):
        return
    first = np.argmax(known, axis=1)
    some = some[np.argsort(first[some], kind="stable")]
    size = max(1, min(BLOCK, NUMBERS // max(numbers, 4 * past.shape[1])))
    for at in range(0, len(some), size):
        rows = some[at : at + size]
        y = past[rows, first[rows[0]] :].T  # [T, R]
        moves = np.abs(y[1:] - y[:-1])
        seen = ~np.isnan(moves)
        move = np.where(seen, moves, 0.0).sum(0) / np.maximum(seen.sum(0), 1)
        move = np.where(move > 0, move, np.nanmax(np.abs(y), axis=0))
        unit = 2.0 ** np.floor(np.log2(np.where(move > 0, move, 1.0)))  # a power of two: nothing is rounded
        yield rows, unit, Block(np.ascontiguousarray(y / unit), first[rows] - first[rows[0]])


def total(x: np.ndarray) -> np.ndarray:
    """The sum over the first axis in the order of time, so that zeros in front change nothing, to the bit."""
    return np.cumsum(x, axis=0)[-1:].sum(0)


def seasons(y: np.ndarray, period: int, product: bool) -> np.ndarray:
    """The seasons of each series, [m, R], the last step's last: the mean distance to (or ratio with) a moving average.

    0 (or 1) for a season without any. For the moving average alone, gaps are bridged by straight lines.
    """
    full = y.copy()
    steps = np.arange(len(y))
    for r in np.flatnonzero(np.isnan(y).any(0)):
        known = np.flatnonzero(~np.isnan(y[:, r]))
        full[known[0] :, r] = np.interp(steps[known[0] :], known, y[known, r])
    half, even = period // 2, period % 2 == 0
    count = len(y) - 2 * half
    neutral = 1.0 if product else 0.0
    if count < period:
        return np.full((period, y.shape[1]), neutral)
    trend = np.zeros((count, y.shape[1]))
    for j in range(2 * half + 1):
        trend += full[j : j + count] * (0.5 if even and j in (0, 2 * half) else 1.0)
    middle = y[half : half + count]
    away = middle / (trend / period) if product else middle - trend / period
    pad = np.full((-len(y) % period + half, y.shape[1]), np.nan)
    away = np.concatenate([pad, away, pad[:half]])
    away = away.reshape(len(away) // period, period, y.shape[1])
    known = ~np.isnan(away)
    number = known.sum(0)
    season = total(np.where(known, away, 0.0)) / np.maximum(number, 1)
    season = np.where(number > 0, season, neutral)
    mean = total(season) / period
    return season / mean if product else season - mean


def seasonal(block: Block, period: int) -> np.ndarray:
    """Whether each series has a season [R]: more than two, and a correlation one season apart that is not by chance (90 %).

    Source: Assimakopoulos & Nikolopoulos 2000; Fiorucci et al. 2016, eq. 11.
    """
    y = block.y
    known = ~np.isnan(y)
    n = known.sum(0)
    if period < 2 or len(y) <= 2 * period:
        return np.zeros(y.shape[1], dtype=bool)
    d = np.where(known, y - total(np.where(known, y, 0.0)) / n, 0.0)
    power = total(d * d)
    power = np.where(power > 0, power, 1.0)
    r = np.array([total(d[lag:] * d[:-lag]) / power for lag in range(1, period + 1)])  # [m, R]
    chance = 1.645 * np.sqrt((1 + 2 * total(np.append(np.zeros((1, y.shape[1])), r[:-1] ** 2, axis=0))) / n)
    return (np.abs(r[-1]) > chance) & (len(y) - block.first > 2 * period) & (n > period)
