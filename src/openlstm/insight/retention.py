"""How much of a cell state is kept over a lag, and how much of a gradient reaches it.

Legend: T time, B batch, H hidden size, K the longest lag.

    R_j(k) = mean over windows of  f_t f_{t-1} ... f_{t-k+1}      (unit j; the share of c_{t-k} that is still in c_t)
    share(k) = ||dL/ds_{T-k}|| / ||dL/ds_T||,  s = (h, c)

The two are different questions: a network can forget by its gates and still keep what matters by writing it again, and a
gradient can leave the highway through the gates. A share near zero before training means that the lag can hardly be learnt;
a large share only means that it is not ruled out.
"""

from __future__ import annotations

import numpy as np

from openlstm import _array as A
from openlstm._array import Array
from openlstm._errors import ArgumentError, ShapeError, describe, message


def retention(f: Array, max_lag: int | None = None) -> np.ndarray:
    """The share of a cell state that is still there k steps later, for k = 0 .. max_lag and every unit.

    The mean is taken over products, not the product over means: a gate that is open for 19 steps and closed in the 20th has
    a mean of 0.95, which would promise a memory of 13 steps, while no window of 20 keeps anything.

    Args:
        f: forget gates [T, B, H], values in 0 .. 1.
        max_lag: the longest lag K (default T).

    Returns:
        R [K+1, H], float64; R[0] is 1.

    Raises:
        ShapeError: if `f` is not [T, B, H].
        ArgumentError: if max_lag is negative or longer than the sequence.

    >>> retention(np.full((8, 1, 1), 0.5), 3).ravel().tolist()
    [1.0, 0.5, 0.25, 0.125]
    """
    f = np.asarray(A.as_like(f, np.empty(0)), dtype=np.float64)
    if f.ndim != 3:
        hint = "pass one gate of one layer, as in openlstm.trace(layer, x)['0.f']"
        raise ShapeError(message("retention", "f needs three axes", f"f: {describe(f)}", "f: [T, B, H]", hint))
    T, _, H = f.shape
    K = T if max_lag is None else max_lag
    if not 0 <= K <= T:
        hint = "choose a lag within the sequence, or pass a longer one"
        raise ArgumentError(message("retention", "max_lag is outside the sequence", f"max_lag={K}", f"0 .. {T}", hint))
    # ln 0 is -inf and -inf - -inf is NaN, so zeros are counted apart: a window that holds one keeps exactly nothing.
    closed = _running(f == 0)  # [T+1, B, H]
    log_f = _running(np.log(np.where(f == 0, 1.0, f)))  # [T+1, B, H]
    out = np.empty((K + 1, H))
    for k in range(K + 1):
        kept = np.exp(log_f[k:] - log_f[: T + 1 - k])  # [T+1-k, B, H]
        out[k] = np.where(closed[k:] == closed[: T + 1 - k], kept, 0.0).mean((0, 1))
    return out


def half_life(kept: np.ndarray) -> np.ndarray:
    """The lag at which half is left, interpolated in ln R around the crossing.

    Args:
        kept: R [K+1, H] of `retention`.

    Returns:
        [H] in steps; inf where more than half is left at the longest lag.

    >>> round(float(half_life(retention(np.full((20, 1, 1), 0.9)))[0]), 2)
    6.58
    """
    return np.array([_crossing(column) for column in kept.T])


def gradient_share(dh: Array, dc: Array | None = None) -> np.ndarray:
    """How much of the gradient at the last step is still there k steps earlier: share(k) for k = 0 .. T-1.

    Norms are taken over the units of a row and averaged over rows.

    Args:
        dh: dL/dh_t [T, B, H] of a loss on the last step.
        dc: dL/dc_t [T, B, H] along the highway; None for a cell without one.

    Returns:
        [T], float64: 1 at lag 0; zeros everywhere if no gradient arrives at the last step.

    >>> dh = np.array([0.25, 0.5, 1.0]).reshape(3, 1, 1)
    >>> gradient_share(dh).tolist()
    [1.0, 0.5, 0.25]
    """
    squares = _square(dh) if dc is None else _square(dh) + _square(dc)  # [T, B]
    norm = np.sqrt(squares).mean(1)[::-1]  # by lag
    return np.zeros_like(norm) if norm[0] == 0 else norm / norm[0]


def first_below(share: np.ndarray, level: float) -> int | None:
    """The first lag at which a curve is below `level`, None if it never is.

    >>> first_below(np.array([1.0, 0.5, 0.25]), 0.3)
    2
    """
    below = np.flatnonzero(share < level)
    return int(below[0]) if below.size else None


def _running(values: np.ndarray) -> np.ndarray:
    """Sums over time with a zero in front: [T, B, H] -> [T+1, B, H]."""
    sums = np.cumsum(values, 0)
    return np.concatenate([np.zeros_like(sums[:1]), sums])


def _crossing(kept: np.ndarray) -> float:
    k = first_below(kept, 0.5)
    if k is None:
        return float("inf")
    if kept[k] == 0:  # ln 0: the limit of the interpolation is the lag before
        return float(k - 1)
    high, low = np.log(kept[k - 1]), np.log(kept[k])
    return float(k - 1 + (high - np.log(0.5)) / (high - low))


def _square(x: Array) -> np.ndarray:
    return (np.asarray(A.as_like(x, np.empty(0)), dtype=np.float64) ** 2).sum(-1)
