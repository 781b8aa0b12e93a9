"""Columns beside the units: what a memory could make of them, where they are on, how well they match, which is the target.

Legend: T time, B batch, D size of a target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from openlstm import _array as A
from openlstm.errors import ArgumentError, ShapeError, describe

LAGS = (1, 2, 5, 10, 20)
"""How far back a column may be remembered."""

MOVED = 20
"""Steps by which a column may be moved and still be a copy of the target."""

ON = 0.3
TOP = 0.2


def copy_of(column: np.ndarray, target: np.ndarray, real: np.ndarray) -> str:
    """Which part of the target a column is, up to a factor and a constant: "the target", "the target 3 steps later", or "".

    Args:
        column: [T, B].
        target: [T, B], [T, B, D], or [B], [B, D] for the end of the rows; a number that is not finite is none.
        real: bool [T, B].

    >>> y = np.random.default_rng(0).normal(size=(30, 4))
    >>> copy_of(2 * y, y, y < 9), copy_of(np.roll(y, 3, 0), y, y < 9), copy_of(y**2, y, y < 9)
    ('the target', 'the target 3 steps before', '')
    """
    T, B = column.shape
    if target.shape[:2] == (T, B):
        steps = target.reshape(T, B, -1)
    elif target.shape[:1] == (B,):  # at the last real step of each row
        flat = target.reshape(B, -1)
        steps = np.full((T, B, flat.shape[1]), np.nan)
        ends = real.sum(0)
        steps[ends[ends > 0] - 1, np.flatnonzero(ends)] = flat[ends > 0]
    else:
        return ""
    for shift in sorted(range(-min(MOVED, T - 1), min(MOVED, T - 1) + 1), key=abs):
        here, there = slice(max(-shift, 0), T - max(shift, 0)), slice(max(shift, 0), T - max(-shift, 0))
        for d in range(steps.shape[2]):
            y = steps[there, :, d]
            both = real[here] & real[there] & np.isfinite(y)
            if _same(column[here][both], y[both]):
                moved = f" {abs(shift)} step{'s' * (abs(shift) != 1)} {'later' if shift > 0 else 'before'}"
                return f"the target{moved if shift else ''}"
    return ""


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether one is the other, up to a factor and a constant; of a few numbers nothing is said."""
    if len(a) < 8:
        return False
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a * a).sum() * (b * b).sum())
    return bool(size > 0 and abs((a * b).sum()) > 0.9999 * size)


def made_of(column: str, name: str) -> bool:
    """Whether a column is one that `detectors` makes of another."""
    return column.startswith((f"{name}, ", f"mean of {name} over ")) or column in (f"steps since {name}", f"count of {name}")


def detectors(
    columns: Mapping[str, np.ndarray], real: np.ndarray, lags: Sequence[int] = LAGS, reverse: bool = False
) -> dict[str, np.ndarray]:
    """The columns, and what a memory could make of them: lags, means, steps since, counts; and a counter of steps.

    Args:
        columns: each [T, B].
        real: bool [T, B].

    >>> on = np.array([0, 1, 0, 0, 1, 0.0])[:, None]
    >>> detectors({"on": on}, on >= 0, lags=(1,))["steps since on"].ravel().tolist()
    [1.0, 0.0, 1.0, 2.0, 0.0, 1.0]
    """
    way = slice(None, None, -1 if reverse else 1)
    number = np.where(real, np.cumsum(real[way], 0)[way] - 1, 0).astype(float)  # 0 at the first real step that ran
    found = dict(columns)
    for name, a in columns.items() if lags else ():
        past = np.where(real, a, 0.0)[way]
        begun = real[way]
        mean = float(a[real].mean()) if real.any() else 0.0
        total = np.concatenate([np.zeros_like(past[:1]), np.cumsum(past, 0)])
        count = np.concatenate([np.zeros_like(past[:1]), np.cumsum(begun, 0)])
        for lag in lags:
            if lag >= len(a):
                continue
            before = np.full_like(past, mean)
            before[lag:] = np.where(begun[:-lag], past[:-lag], mean)
            found[f"{name}, {lag} steps before"] = before[way]
            if lag > 1:
                low = np.maximum(np.arange(1, len(a) + 1) - lag, 0)
                over = (total[1:] - total[low]) / np.maximum(count[1:] - count[low], 1)
                found[f"mean of {name} over {lag} steps"] = over[way]
        if _is_binary(a, real):
            on = concept(a, real)[way]
            steps = np.arange(1, len(a) + 1)[:, None]
            last = np.maximum.accumulate(np.where(on, steps, 0), 0)
            began = np.where(begun.any(0), begun.argmax(0), 0)  # a row that has not begun has counted nothing
            found[f"steps since {name}"] = np.where(begun, steps - np.maximum(last, began), 0.0)[way].astype(float)
            found[f"count of {name}"] = np.cumsum(on, 0)[way].astype(float)
    found["step"] = number
    return found


def concept(column: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Where a column is on, bool [T, B]: its larger value if it has two, else its highest fifth; never past a row's end."""
    values = column[real]
    if not values.size:
        return np.zeros_like(real)
    level = values.max() if _is_binary(column, real) else np.quantile(values, 1 - TOP)
    on = column >= level
    return (on if on[real].mean() < 0.5 or _is_binary(column, real) else column > level) & real


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """|a and b| / |a or b|, 0 if both are empty.

    >>> iou(np.array([True, True, False]), np.array([False, True, True]))
    0.3333333333333333
    """
    either = (a | b).sum()
    return float((a & b).sum() / either) if either else 0.0


def spans(unit: np.ndarray, column: np.ndarray) -> float:
    """How well the runs of a unit that is on are those of a column: found / (runs of both - found). Bools [T, B].

    >>> spans(np.array([[1], [1], [0], [1]], bool), np.array([[1], [1], [0], [0]], bool))
    0.5
    """
    mine, theirs = _runs(unit), _runs(column)
    both = len(mine & theirs)  # on throughout and off on both sides: the very same run
    every = len(mine) + len(theirs) - both
    return both / every if every else 0.0


def spanning(values: np.ndarray, row: int, begin: int, end: int, level: float = ON) -> tuple[int, ...]:
    """The units that are on at every step begin .. end-1 of a row, and off right before and after: a query by brushing text.

    Args:
        values: [T, B, H], of h, or tanh of c.

    >>> spanning(np.array([0, 0.9, 0.9, 0])[:, None, None], 0, 1, 3)
    (0,)
    """
    on = values[:, row] >= level  # [T, H]
    found = on[begin:end].all(0)
    for beside in (begin - 1, end):
        if 0 <= beside < len(on):
            found &= ~on[beside]
    return tuple(int(j) for j in np.flatnonzero(found))


def as_column(name: str, a: Any, T: int, B: int, real: np.ndarray) -> np.ndarray:
    """A column of the user as float64 [T, B], 0 past a row's length.

    Raises:
        ShapeError: for another shape.
        ArgumentError: for a value that is not finite.
    """
    a = as_numpy(a)
    shown = f"{name}: {describe(a)}"
    a = np.repeat(a[:, None], B, 1) if a.shape == (T,) else a
    if a.shape != (T, B):
        hint = "its axes are swapped: use .T" if a.shape == (B, T) else "one value for each step that the layer read"
        raise ShapeError.of("tracking", f"column {name!r} does not fit", shown, f"[{T}, {B}] = [T, B], or [{T}] = [T]", hint)
    a = a.astype(np.float64)
    bad = ~np.isfinite(a) & real
    if bad.any():
        t, b = np.argwhere(bad)[0]
        what = f"column {name!r} holds {a[t, b]} at step {t}, row {b}"
        raise ArgumentError.of("tracking", what, shown, "finite numbers", "fill or drop what is missing first")
    return np.where(real, a, 0.0)


def standardised(a: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Mean 0 and variance 1 over the real steps, 0 elsewhere."""
    values = a[real]
    return np.where(real, (a - values.mean()) / values.std(), 0.0).astype(np.float32)


def _is_binary(a: np.ndarray, real: np.ndarray) -> bool:
    values = a[real]
    return bool(values.size) and bool(((values == values.min()) | (values == values.max())).all())


def _runs(on: np.ndarray) -> set[tuple[int, int, int]]:
    """(row, first step, step behind the last) of every run."""
    edge = np.diff(np.pad(on.T.astype(np.int8), ((0, 0), (1, 1))), axis=1)  # [B, T+1]
    rows, begins = np.nonzero(edge == 1)
    _, ends = np.nonzero(edge == -1)
    return set(zip(rows.tolist(), begins.tolist(), ends.tolist(), strict=True))


def as_numpy(a: Any) -> np.ndarray:
    """An array of numpy or torch as one of numpy."""
    return np.asarray(A.as_like(a, np.empty(0)))
