"""Windows of a series and the targets that follow them, cut on demand so that a long series needs no more memory.

Legend: T steps of the series, N origins, W steps of a window, K steps of the horizon.
"""

from __future__ import annotations

import numpy as np


def origins(values: np.ndarray, window: int, horizon: int, first: int, last: int) -> np.ndarray:
    """Every origin t whose targets values[t : t+K] lie in [first, last) and whose window values[t-W : t] lies in the series.

    Left out are origins whose window or whose targets hold no known value at all.

    Args:
        values: [T], NaN where missing.

    Returns:
        int64 [N], rising.

    >>> origins(np.array([1.0, 2.0, np.nan, np.nan, 5.0, 6.0]), window=2, horizon=1, first=2, last=6).tolist()
    [5]
    """
    at = np.arange(max(first, window), last - horizon + 1)
    known = np.concatenate([[0], np.cumsum(~np.isnan(values))])  # how many are known before each step
    return at[(known[at] > known[at - window]) & (known[at + horizon] > known[at])]


def cut(values: np.ndarray, at: np.ndarray, window: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """The windows [N, W] before the origins `at` [N], and the targets [N, K] from them on; NaN where missing.

    >>> x, y = cut(np.arange(6.0), np.array([2, 3]), window=2, horizon=1)
    >>> x.tolist(), y.tolist()
    ([[0.0, 1.0], [1.0, 2.0]], [[2.0], [3.0]])
    """
    return values[at[:, None] + np.arange(-window, 0)], values[at[:, None] + np.arange(horizon)]
