"""Measures of a forecast, one number for each series, and their mean; steps without a known truth count in none.

Legend: S series, T steps of the past, K steps of the horizon, Q quantiles, m steps of a season.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Mean(NamedTuple):
    """The mean over the series that have a number: NaN where none has; how many have one, and how many have none."""

    value: float
    count: int
    left_out: int


def over_all(each: np.ndarray) -> Mean:
    """The mean of a measure [S] over all series for which it is known.

    >>> over_all(np.array([1.0, np.nan, 3.0]))
    Mean(value=2.0, count=2, left_out=1)
    """
    known = each[~np.isnan(each)]
    return Mean(float(known.mean()) if len(known) else float("nan"), len(known), len(each) - len(known))


def seasonal_scale(past: np.ndarray, period: int, power: int = 1) -> np.ndarray:
    """What one season changes in each past: mean |y_t - y_(t-m)|, the unit of MASE; float64 [S].

    NaN where no two values one season apart are known, or none of them differ: such a series has no MASE.

    Args:
        past: float64 [S, T], NaN where missing.
        power: with 2 the root of the mean square, the unit of RMSSE.

    Source: Hyndman & Koehler 2006, eq. 2, in its seasonal form.

    >>> seasonal_scale(np.array([[1.0, 2.0, 3.0, np.nan, 5.0], [4.0, 4.0, 4.0, 4.0, 4.0]]), 2).tolist()
    [2.0, nan]
    """
    change = np.abs(past[:, period:] - past[:, :-period])
    scale = _mean(change**power) ** (1 / power)
    return np.where(scale > 0, scale, np.nan)


def mae(truth: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    """Mean |error| of each series; [S, K] and [S, K] to [S].

    >>> mae(np.array([[1.0, np.nan, 5.0]]), np.array([[2.0, 2.0, 2.0]])).tolist()
    [2.0]
    """
    return _mean(np.abs(truth - forecast))


def rmse(truth: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    """The root of the mean squared error of each series.

    >>> rmse(np.array([[1.0, np.nan, 9.0]]), np.array([[2.0, 2.0, 2.0]])).tolist()
    [5.0]
    """
    return np.sqrt(_mean((truth - forecast) ** 2))


def mase(truth: np.ndarray, forecast: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Mean |error| in units of `scale` [S], see `seasonal_scale`; 1 is the seasonal naive's error in the past.

    >>> past = np.array([[1.0, 3.0, 5.0]])
    >>> mase(np.array([[7.0, 9.0]]), np.array([[5.0, 5.0]]), seasonal_scale(past, 1)).tolist()
    [1.5]
    """
    return mae(truth, forecast) / scale


def rmsse(truth: np.ndarray, forecast: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The root of the mean squared error in units of `scale` [S], see `seasonal_scale` with power 2.

    >>> past = np.array([[0.0, 3.0, -1.0, 4.0]])  # changes 3, -4, 5
    >>> scale = seasonal_scale(past, 1, power=2)
    >>> (rmsse(np.array([[1.0, 11.0]]), np.array([[2.0, 4.0]]), scale) ** 2 * 50 / 3).round(9).tolist()  # 25 / (50 / 3)
    [25.0]
    """
    return rmse(truth, forecast) / scale


def smape(truth: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    """Mean of 200 |error| / (|truth| + |forecast|), in percent, 0 to 200; 0 where both are zero.

    >>> smape(np.array([[1.0, 0.0, np.nan]]), np.array([[3.0, 0.0, 1.0]])).tolist()
    [50.0]
    """
    size = np.abs(truth) + np.abs(forecast)
    return _mean(200 * np.abs(truth - forecast) / np.where(size == 0, 1.0, size))


def pinball(truth: np.ndarray, quantiles: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """The mean quantile loss of each series at each level: `q (y - f)` where y is above f, else `(1 - q) (f - y)`.

    Args:
        truth: [S, K]
        quantiles: [S, K, Q]
        levels: the Q levels.

    Returns:
        [S, Q]

    >>> pinball(np.array([[4.0, 1.0]]), np.array([[[2.0], [2.0]]]), [0.9]).round(9).tolist()  # 1.8 and 0.1
    [[0.95]]
    """
    error = truth[..., None] - quantiles
    q = np.asarray(levels)
    return _mean(np.maximum(q * error, (q - 1) * error))


def crps(truth: np.ndarray, quantiles: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """The continuous ranked probability score of each series, from its quantiles: 2 times the mean `pinball` over the levels.

    Each level weighs as much as half the way to its neighbours, (q[i+1] - q[i-1]) / 2 with 0 and 1 at the ends; evenly spaced
    levels weigh the same.

    Returns:
        [S]

    >>> truth, quantiles = np.array([[4.0]]), np.array([[[2.0, 3.0, 4.0]]])
    >>> crps(truth, quantiles, [0.25, 0.5, 0.75]).round(9).tolist()  # 2/3 of 0.5 + 0.5 + 0
    [0.666666667]
    >>> crps(truth, quantiles, [0.1, 0.5, 0.9]).round(9).tolist()  # 2 (0.25 0.2 + 0.4 0.5 + 0.25 0) / 0.9
    [0.555555556]
    """
    ends = np.concatenate([[0.0], levels, [1.0]])
    weights = ends[2:] - ends[:-2]
    return 2 * (pinball(truth, quantiles, levels) * weights).sum(-1) / weights.sum()


def coverage(truth: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The share of each series' known truths inside a band, its ends included; [S].

    >>> coverage(np.array([[1.0, 2.0, 9.0, np.nan]]), np.zeros((1, 4)), np.full((1, 4), 2.0)).round(3).tolist()
    [0.667]
    """
    inside = ((low <= truth) & (truth <= high)).astype(np.float64)
    return _mean(np.where(np.isnan(truth + low + high), np.nan, inside))


def nse(truth: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    """Nash-Sutcliffe efficiency: 1 - sum (y - f)^2 / sum (y - mean y)^2; NaN where the truth is constant.

    1 is perfect, 0 is as good as the mean.

    >>> nse(np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 2.0, 2.0]])).tolist()
    [0.5]
    """
    spread = _mean((truth - _mean(truth)[:, None]) ** 2)
    return 1 - _mean((truth - forecast) ** 2) / np.where(spread > 0, spread, np.nan)


def kge(truth: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    """Kling-Gupta efficiency: 1 - sqrt((r - 1)^2 + (a - 1)^2 + (b - 1)^2), 1 is perfect.

    r is the correlation of forecast and truth, a the ratio of their deviations, b that of their means. NaN where the truth has
    the mean zero, or either is constant.

    Source: Gupta, Kling, Yilmaz & Martinez 2009, eq. 9.

    >>> kge(np.array([[1.0, 2.0, 3.0]]), np.array([[2.0, 4.0, 6.0]])).round(9).tolist()  # r = 1, a = b = 2
    [-0.414213562]
    """
    forecast = np.where(np.isnan(truth), np.nan, forecast)
    mean_y, mean_f = _mean(truth), _mean(forecast)
    y, f = truth - mean_y[:, None], forecast - mean_f[:, None]
    deviation_y, deviation_f = np.sqrt(_mean(y**2)), np.sqrt(_mean(f**2))
    known = (deviation_y > 0) & (deviation_f > 0) & (mean_y != 0)
    safe = lambda x: np.where(known, x, np.nan)  # noqa: E731
    r = _mean(y * f) / safe(deviation_y) / safe(deviation_f)
    a, b = deviation_f / safe(deviation_y), mean_f / safe(mean_y)
    return 1 - np.sqrt((r - 1) ** 2 + (a - 1) ** 2 + (b - 1) ** 2)


def _mean(x: np.ndarray) -> np.ndarray:
    """The mean over the steps, axis 1, of what is known; NaN where nothing is."""
    known = ~np.isnan(x)
    count = known.sum(1)
    return np.where(known, x, 0.0).sum(1) / np.where(count, count, np.nan)
