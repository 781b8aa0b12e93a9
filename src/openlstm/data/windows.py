"""Windows of a series and the targets that follow them.

Legend: N windows, W steps of a window, K steps of the horizon.
"""

from __future__ import annotations

import numpy as np


def windows(values: np.ndarray, window: int, horizon: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Every window whose targets lie in [first, last), with its targets.

    An origin t reads values[t-window : t] and is asked for values[t : t+horizon]. Left out are origins whose window or whose
    targets hold no known value at all.

    Args:
        values: [T], NaN where missing.

    Returns:
        windows [N, W] and targets [N, K], NaN where missing, in the order of time.

    >>> x, y = windows(np.arange(6.0), 2, 1, 2, 5)
    >>> x.tolist(), y.tolist()
    ([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]], [[2.0], [3.0], [4.0]])
    """
    origins = np.arange(max(first, window), last - horizon + 1)
    x = values[origins[:, None] + np.arange(-window, 0)]  # [N, W]
    y = values[origins[:, None] + np.arange(horizon)]  # [N, K]
    usable = ~np.isnan(x).all(axis=1) & ~np.isnan(y).all(axis=1)
    return x[usable], y[usable]
