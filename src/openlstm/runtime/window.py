"""What a forecasting network sees of a window of values; training and prediction both come through here.

Legend: N windows, W steps of a window, I input size.
"""

from __future__ import annotations

import numpy as np

INPUTS = 2
"""The input size: the value, and whether it is missing."""

SMALLEST = 1e-100
"""The smallest mean deviation of a series: its square, and sums of it, stay inside float64."""


def inputs(values: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn windows into network inputs, measured from each window's last known value, in its own deviation.

        x[w] = ((carried[w] - anchor) / spread, 1 if values[w] is missing else 0)

    where `carried` holds the last known value through a gap (before the first known value: that one), `anchor` is the last
    known value, and `spread` the standard deviation of `carried`, but at least scale / 10. A missing value is thus never
    invented: the network is told that it is missing and since when.

    Args:
        values: [N, W] in the unit of the target, NaN where missing; at least one known value in each row.
        scale: a typical deviation within a window, in the unit of the target.

    Returns:
        x float32 [N, W, I], anchors and spreads float64 [N].

    >>> x, anchor, spread = inputs(np.array([[1.0, np.nan, 3.0, 3.0]]), 2.0)
    >>> x[0].tolist(), anchor.tolist(), spread.tolist()
    ([[-2.0, 0.0], [-2.0, 1.0], [0.0, 0.0], [0.0, 0.0]], [3.0], [1.0])
    """
    missing = np.isnan(values)  # [N, W]
    carried = carry(values)
    anchor = carried[:, -1]  # [N]
    spread = np.maximum(carried.std(axis=1), scale / 10)  # [N]; a window that hardly moves is not blown up
    x = np.stack([(carried - anchor[:, None]) / spread[:, None], missing], axis=-1)  # [N, W, I]
    return x.astype(np.float32), anchor, spread


def carry(values: np.ndarray) -> np.ndarray:
    """Fill each gap along the last axis with the last known value; before the first known value, with that one.

    >>> carry(np.array([np.nan, 1.0, np.nan, 3.0])).tolist()
    [1.0, 1.0, 1.0, 3.0]
    """
    known = ~np.isnan(values)
    steps = np.arange(values.shape[-1])
    last = np.maximum.accumulate(np.where(known, steps, -1), axis=-1)
    first = np.argmax(known, axis=-1)[..., None]
    return np.take_along_axis(values, np.where(last < 0, first, last), axis=-1)
