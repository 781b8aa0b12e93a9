"""D10: what a unit tracks: every unit beside the user's columns, what can be counted or remembered of them, and chance.

    r        correlation of unit j with column k over all real steps. `chance` is the largest |r| of any unit where a column is
             moved in time by a random amount in every row, in 19 draws: it keeps what two slow curves have in common anyway
    iou      of a unit above its quantile and a column that is on: |both| / |either|. A column of two values is on where it has
             the larger one, any other in its highest fifth; the unit's quantile is the column's share of steps that are on
    spans    runs of steps over which the column is on: a run is found if the unit is on throughout, and off right before and
             after; found / (runs of the column + runs of the unit - found). A unit is on at tanh(c) >= 0.3, or h >= 0.3

A unit that goes down where the column goes up counts as its negative. What is looked at is the cell state where there is one.
Two passes in chunks of time; what is kept are sums, one histogram for each unit, and the steps of at most 128 units.

Legend: T time, B batch, H hidden size, K columns, n steps of a chunk, m real steps of a chunk, S draws.

Source: Karpathy, Johnson & Li 2015 (units that track quotes and lines); Strobelt, Gehrmann, Pfister & Rush 2018 (LSTMVis: spans
and their threshold); Bau, Zhou, Khosla, Oliva & Torralba 2017 (network dissection: quantile, intersection over union).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from openlstm import _array as A
from openlstm.errors import ArgumentError, ShapeError, describe, message
from openlstm.insight.look import Place

LAGS = (1, 2, 5, 10, 20)
"""How far back a column may be remembered."""

SHIFTS = 19
"""Draws of chance: the largest of them is passed once in twenty times where there is nothing."""

MOVED = 20
"""Steps by which a column may be moved and still be a copy of the target."""

ON = 0.3
TOP = 0.2
_BINS = 1024
_SERIES = 128
_EACH = 3

Chunks = Callable[[], Iterator[tuple[int, np.ndarray]]]
"""What gives (t0, values [n, B, H]) chunk by chunk, anew at every call."""


@dataclass(frozen=True)
class Unit:
    """One unit beside one column."""

    unit: int
    column: str
    r: float
    iou: float
    spans: float
    chance: float

    @property
    def above_chance(self) -> bool:
        """Whether |r| is larger than what the moved columns reach."""
        return abs(self.r) > self.chance


@dataclass(frozen=True)
class Window:
    """Where a unit is strongest: `value` at `step` of `row`; `begin` .. `end` lie around it."""

    unit: int
    row: int
    step: int
    begin: int
    end: int
    value: float


@dataclass(frozen=True, eq=False)
class Tracking:
    """What the units of one place track.

    Fields:
        name: of the place.
        state: c or h, what was looked at.
        columns: the K names, the user's and those derived from them.
        given: how many of them the user gave.
        r: [H, K].
        best: for every column its best unit, the largest |r| first.
        near: the next best units of every column too.
        windows: the strongest steps of the best units.
        left_out: columns that never change.
        answer: of the column that the finding names, or the one it is made of: that it is the target, if it is.
    """

    name: str
    state: str
    columns: tuple[str, ...]
    given: tuple[str, ...]
    r: np.ndarray
    best: tuple[Unit, ...]
    near: tuple[Unit, ...]
    windows: tuple[Window, ...]
    left_out: tuple[str, ...]
    answer: str = ""

    @property
    def top(self) -> Unit | None:
        """The closest pair that is closer than chance."""
        return next((unit for unit in self.best if unit.above_chance), None)

    def of(self, column: str) -> Unit:
        """The best unit of a column.

        Raises:
            ArgumentError: for a column that is not there.
        """
        for unit in self.best:
            if unit.column == column:
                return unit
        hint = "it never changes" if column in self.left_out else "use one of these names"
        what = f"there is no column {column!r}"
        raise ArgumentError(message("Tracking.of", what, repr(column), ", ".join(self.columns) or "none", hint))

    @property
    def finding(self) -> str:
        """One sentence with the numbers, and what to do where there is something to do."""
        if not self.best:
            return f"{self.name}: there is nothing to compare the units with: no column changes."
        top = self.top
        if top is None:
            best = self.best[0]
            return (
                f"{self.name}: no unit tracks a column better than chance; the nearest is unit {best.unit} and {best.column} "
                f"(r = {best.r:.2f}, chance {best.chance:.2f})."
            )
        count = sum(unit.above_chance for unit in self.best)
        text = f"{self.name}: unit {top.unit} tracks {top.column} (r = {top.r:.2f}, chance {top.chance:.2f})"
        if count > 1:
            text += f", the strongest of {count} columns out of {len(self.columns)} that a unit tracks better than chance"
        if self.answer:
            text += f"; {self.answer}, what the network is trained to give"
        elif top.column not in self.given and abs(top.r) > 0.8:
            text += "; the network computes it by itself: where it is known in time, it can be given as an input"
        return text + "."

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return {
            "name": self.name,
            "state": self.state,
            "columns": list(self.columns),
            "given": list(self.given),
            "r": self.r.tolist(),
            "best": [asdict(unit) for unit in self.best],
            "near": [asdict(unit) for unit in self.near],
            "windows": [asdict(window) for window in self.windows],
            "left_out": list(self.left_out),
            "answer": self.answer,
        }


def tracking(
    place: Place,
    columns: Mapping[str, Any] | None = None,
    *,
    lags: Sequence[int] = LAGS,
    state: str | None = None,
    target: Any = None,
) -> Tracking:
    """Which unit tracks which column.

    Args:
        place: of `look`.
        columns: by name, numbers or bools [T, B] (or [T], the same for every row) at the steps that the layer read; the inputs
            of the place if None. Each is also compared as it was `lags` steps before, with its mean over so many steps, and if
            it has two values with the steps since it was last on and with how often it was; and there is a counter of steps.
        lags: of the derived columns; () for the columns alone.
        state: "c", "h" or a gate; the cell state if None and there is one.
        target: what the network is trained to give, [T, B] or [T, B, D], or [B] or [B, D] for the end of the rows: a column
            that is a copy of it, moved by at most 20 steps, is named as such and not recommended as an input.

    Raises:
        ShapeError: for a column of another shape.
        ArgumentError: for a column with a value that is not finite, or an unknown state.

    >>> import torch, openlstm
    >>> from openlstm.insight.look import look
    >>> place = look(openlstm.LSTM(1, 4), torch.arange(30.0).reshape(30, 1, 1)).places[0]
    >>> tracking(place, {"ramp": torch.arange(30)}, lags=()).columns
    ('ramp', 'step')
    """
    name = _state(place, state)
    real = (_numpy(place.order(0, place.steps)) >= 0) if place.lengths is not None else None
    if columns is None:
        columns = {f"x{k}": _numpy(place.x[..., k]) for k in range(place.x.shape[2])}
    return track(
        lambda: ((part.t0, series) for part, series in _chunks(place, name)),
        (place.steps, place.rows, place.units if name != "h" else place.state.h.shape[1] // len(place.cell.feeds_back)),
        columns,
        real=real,
        lags=lags,
        reverse=place.reverse,
        name=place.name,
        state=name,
        target=target,
    )


def series(place: Place, name: str, units: Sequence[int]) -> np.ndarray:
    """What some units of a gate or state do: [T, B, len(units)], 0 past a row's length.

    Raises:
        ArgumentError: for an unknown name or unit.
    """
    name, chosen = _state(place, name), list(units)
    out: np.ndarray | None = None
    for part, values in _chunks(place, name):
        wrong = [unit for unit in chosen if not 0 <= unit < values.shape[2]]
        if wrong:
            got, expected = f"unit {wrong[0]}", f"0 .. {values.shape[2] - 1}"
            raise ArgumentError(message("series", f"{place.name}.{name} has no unit {wrong[0]}", got, expected, "count from 0"))
        if out is None:
            out = np.zeros((place.steps, place.rows, len(chosen)), values.dtype)
        out[part.t0 : part.t0 + len(values)] = values[:, :, chosen]
    return np.zeros((place.steps, place.rows, len(chosen))) if out is None else out


def track(
    chunks: Chunks | np.ndarray,
    shape: tuple[int, int, int] | None = None,
    columns: Mapping[str, Any] | None = None,
    *,
    real: np.ndarray | None = None,
    lags: Sequence[int] = LAGS,
    reverse: bool = False,
    name: str = "units",
    state: str = "h",
    target: Any = None,
) -> Tracking:
    """As `tracking`, of arrays: values [T, B, H] or a function that gives them in chunks, and their shape.

    Args:
        real: bool [T, B], false past a row's length.
        reverse: whether the values ran from the last step to the first: "before" is then the other way.

    >>> values = np.sin(np.arange(200.0)).reshape(100, 2, 1) + np.zeros(3)
    >>> track(values, columns={"itself": values[..., 0]}, lags=()).of("itself").r > 0.999
    True
    """
    if isinstance(chunks, np.ndarray):
        whole = chunks
        shape = whole.shape  # type: ignore[assignment]
        chunks = lambda: iter([(0, whole)])  # noqa: E731
    assert shape is not None
    T, B, _ = shape
    real = np.ones((T, B), bool) if real is None else real
    own = {column: _column(column, a, T, B, real) for column, a in (columns or {}).items()}
    every = detectors(own, real, lags, reverse) if T else own
    names = [column for column, a in every.items() if real.any() and np.ptp(a[real]) > 0]
    given = tuple(column for column in names if column in own)
    gone = tuple(column for column in own if column not in names)
    if not names:
        return Tracking(name, state, (), (), np.zeros((shape[2], 0)), (), (), (), gone)
    table = np.stack([_standard(every[column], real) for column in names], -1)  # [T, B, K]
    sums = _Sums(shape, table, real)
    for t0, values in chunks():
        sums.add(t0, values)
    r, chance = sums.correlations()
    pairs = [(int(j), k) for k in range(len(names)) for j in np.argsort(-np.abs(r[:, k]), kind="stable")[:_EACH]]
    pairs.sort(key=lambda pair: -abs(r[pair]))
    kept = list(dict.fromkeys([j for j, k in pairs if j == _first(r, k)] + [j for j, _ in pairs]))[:_SERIES]
    pairs = [pair for pair in pairs if pair[0] in kept]
    steps = np.zeros((T, B, len(kept)), np.float32)
    for t0, values in chunks():
        steps[t0 : t0 + len(values)] = values[:, :, kept]
    units = []
    for j, k in pairs:
        column, sign, s = names[k], 1.0 if r[j, k] >= 0 else -1.0, steps[:, :, kept.index(j)]
        on = concept(every[column], real)
        high = sign * s > sums.quantile(j, float(on[real].mean()), sign)
        lit = sign * (np.tanh(s) if state == "c" else s) >= ON
        unit = Unit(j, column, float(r[j, k]), iou(high & real, on), spans(lit & real, on), float(chance[k]))
        units.append((unit, j == _first(r, k)))
    best = tuple(unit for unit, first in units if first)
    near = tuple(unit for unit, first in units if not first)
    tops = list(dict.fromkeys((u.unit, 1.0 if u.r >= 0 else -1.0) for u in best))[:8]
    windows = [w for j, sign in tops for w in _windows(j, sign, steps[:, :, kept.index(j)], real)]
    found = Tracking(name, state, tuple(names), given, r, best, near, tuple(windows), gone)
    if target is None or found.top is None:
        return found
    named = [found.top.column, *(column for column in given if _made_of(found.top.column, column))]
    copies = ((column, copy_of(every[column], _numpy(target), real)) for column in named)
    return replace(found, answer=next((f"{column} is {what}" for column, what in copies if what), ""))


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


def _made_of(column: str, name: str) -> bool:
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


class _Sums:
    """What the first pass adds up."""

    def __init__(self, shape: tuple[int, int, int], table: np.ndarray, real: np.ndarray) -> None:
        _, B, H = shape
        self.table, self.real = table, real  # [T, B, K], [T, B]
        ends = real.sum(0)  # [B]
        draw = np.random.default_rng(0)
        low = np.maximum(ends // 20, 1)
        self.shift = (low + draw.random((SHIFTS, B)) * np.maximum(ends - 2 * low, 1)).astype(int)  # [S, B]
        self.ends = np.maximum(ends, 1)
        self.pivot: np.ndarray | None = None
        self.count = 0
        self.sum, self.squares = np.zeros(H), np.zeros(H)
        self.cross = np.zeros((H, table.shape[2]))
        self.moved = np.zeros((H, SHIFTS * table.shape[2]))
        self.histogram = np.zeros((H, _BINS), np.int64)

    def add(self, t0: int, values: np.ndarray) -> None:
        n, _, H = values.shape
        real = self.real[t0 : t0 + n]
        u = values[real].astype(np.float32)  # [m, H]
        if not len(u):
            return
        pivot = self.pivot = u.mean(0) if self.pivot is None else self.pivot
        bins = (u / (1 + np.abs(u)) * 0.5 + 0.5) * (_BINS - 1)  # a cell that counts has no bound
        flat = bins.round().astype(np.int64) + np.arange(H) * _BINS
        self.histogram += np.bincount(flat.ravel(), minlength=H * _BINS).reshape(H, _BINS)
        u = u - pivot
        self.count += len(u)
        self.sum += u.sum(0, dtype=np.float64)
        self.squares += (u.astype(np.float64) ** 2).sum(0)
        self.cross += u.T @ self.table[t0 : t0 + n][real]
        t, b = np.nonzero(real)
        at = (t + t0 - self.shift[:, b]) % self.ends[b]  # [S, m]
        moved = self.table[at, b]  # [S, m, K]
        self.moved += u.T @ moved.transpose(1, 0, 2).reshape(len(u), -1)

    def correlations(self) -> tuple[np.ndarray, np.ndarray]:
        """r [H, K], and for every column the largest |r| that chance reaches."""
        n = max(self.count, 1)
        variance = np.maximum(self.squares / n - (self.sum / n) ** 2, 0)
        level = np.abs(self.pivot if self.pivot is not None else 0) + np.sqrt(self.squares / n)
        still = variance <= (1e-6 * level) ** 2
        scale = np.where(still, 0, 1 / (n * np.sqrt(np.where(still, 1, variance))))[:, None]
        chance = np.abs(self.moved * scale).reshape(len(scale), SHIFTS, -1).max((0, 1))
        return np.clip(self.cross * scale, -1, 1), np.minimum(chance, 1)

    def quantile(self, unit: int, share: float, sign: float) -> float:
        """The level that `sign` times the unit is above at this share of steps."""
        counts = self.histogram[unit] if sign > 0 else self.histogram[unit][::-1]
        above = np.cumsum(counts[::-1])[::-1]  # at or above the bin
        wanted = share * counts.sum()
        border = int(np.argmin(np.abs(np.append(above, 0) - wanted)))
        level = (border - 0.5) / (_BINS - 1) * 2 - 1
        return float(level / max(1 - abs(level), 1e-7))


def _chunks(place: Place, name: str) -> Iterator[tuple[Any, np.ndarray]]:
    for part in place.forwards():
        values = _numpy(part.saved.named(place.cell)[name])
        yield part, values[..., : values.shape[2] // len(place.cell.feeds_back)] if name == "h" else values


def _state(place: Place, name: str | None) -> str:
    there = [*place.cell.saved, *(("c",) if place.cell.has_cell else ()), "h"]
    if name is None:
        return "c" if place.cell.has_cell else "h"
    if name not in there:
        hint = "leave it out for the cell state"
        raise ArgumentError(message("tracking", f"{place.name} has no {name!r}", repr(name), ", ".join(there), hint))
    return name


def _column(name: str, a: Any, T: int, B: int, real: np.ndarray) -> np.ndarray:
    a = _numpy(a)
    shown = f"{name}: {describe(a)}"
    a = np.repeat(a[:, None], B, 1) if a.shape == (T,) else a
    if a.shape != (T, B):
        hint = "its axes are swapped: use .T" if a.shape == (B, T) else "one value for each step that the layer read"
        raise ShapeError(
            message("tracking", f"column {name!r} does not fit", shown, f"[{T}, {B}] = [T, B], or [{T}] = [T]", hint)
        )
    a = a.astype(np.float64)
    bad = ~np.isfinite(a) & real
    if bad.any():
        t, b = np.argwhere(bad)[0]
        what = f"column {name!r} holds {a[t, b]} at step {t}, row {b}"
        raise ArgumentError(message("tracking", what, shown, "finite numbers", "fill or drop what is missing first"))
    return np.where(real, a, 0.0)


def _standard(a: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Mean 0 and variance 1 over the real steps, 0 elsewhere."""
    values = a[real]
    return np.where(real, (a - values.mean()) / values.std(), 0.0).astype(np.float32)


def _is_binary(a: np.ndarray, real: np.ndarray) -> bool:
    values = a[real]
    return bool(values.size) and bool(((values == values.min()) | (values == values.max())).all())


def _first(r: np.ndarray, k: int) -> int:
    return int(np.abs(r[:, k]).argmax())


def _runs(on: np.ndarray) -> set[tuple[int, int, int]]:
    """(row, first step, step behind the last) of every run."""
    edge = np.diff(np.pad(on.T.astype(np.int8), ((0, 0), (1, 1))), axis=1)  # [B, T+1]
    rows, begins = np.nonzero(edge == 1)
    _, ends = np.nonzero(edge == -1)
    return set(zip(rows.tolist(), begins.tolist(), ends.tolist(), strict=True))


def _windows(unit: int, sign: float, s: np.ndarray, real: np.ndarray, count: int = 3, beside: int = 8) -> list[Window]:
    """The strongest steps that do not lie in each other's window."""
    strength, found = np.where(real, sign * s, -np.inf), []
    for _ in range(count):
        t, b = np.unravel_index(int(strength.argmax()), strength.shape)
        if not np.isfinite(strength[t, b]):
            break
        begin, end = max(int(t) - beside, 0), min(int(t) + beside + 1, int(real[:, b].sum()))
        found.append(Window(unit, int(b), int(t), begin, end, float(s[t, b])))
        strength[begin:end, b] = -np.inf
    return found


def _numpy(a: Any) -> np.ndarray:
    return np.asarray(A.as_like(a, np.empty(0)))
