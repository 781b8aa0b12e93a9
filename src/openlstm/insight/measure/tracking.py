"""What a unit tracks: every unit beside the user's columns, what can be counted or remembered of them, and chance.

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
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from openlstm.errors import ArgumentError
from openlstm.insight import charts
from openlstm.insight.display import Chart, Display
from openlstm.insight.measure import columns as beside
from openlstm.insight.place import Place
from openlstm.insight.results import Asked, Result

SHIFTS = 19
"""Draws of chance: the largest of them is passed once in twenty times where there is nothing."""

_BINS = 1024
_SERIES = 128
_EACH = 3


@dataclass(frozen=True)
class Values:
    """What units do at every step.

    Fields:
        chunks: gives (t0, values [n, B, H]) chunk by chunk, anew at every call.
        shape: (T, B, H).
        real: bool [T, B], false past a row's length; None where there is no padding.
        reverse: whether the values ran from the last step to the first: "before" is then the other way.
        name, state: of the place, and what was looked at there.
    """

    chunks: Callable[[], Iterator[tuple[int, np.ndarray]]]
    shape: tuple[int, int, int]
    real: np.ndarray | None = None
    reverse: bool = False
    name: str = "units"
    state: str = "h"

    @staticmethod
    def of(values: np.ndarray, **about: Any) -> Values:
        """Values [T, B, H] that are there as a whole, and what else is known of them."""
        return Values(lambda: iter([(0, values)]), values.shape, **about)  # type: ignore[arg-type]


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
class Tracking(Result):
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
        raise ArgumentError.of("Tracking.of", what, repr(column), ", ".join(self.columns) or "none", hint)

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

    @classmethod
    def displays(cls, found: Mapping[str, Tracking], asked: Asked) -> tuple[Display, ...]:
        """Which unit follows which column, and how closely."""

        best = [(name, u) for name, r in found.items() for u in r.best if np.isfinite(u.r)]
        best.sort(key=lambda pair: -abs(pair[1].r))
        closest = {u.column: (name, u) for name, u in reversed(best)}  # of each column the first
        rows = []
        for name, u in sorted(closest.values(), key=lambda pair: -abs(pair[1].r))[:24]:
            unit = f"{charts.label(name)}, unit {u.unit}"
            said = f"{unit} follows {u.column}: r = {charts.number(float(u.r))}"
            rows.append({"n": u.column, "v": charts.short(abs(u.r)), "t": unit, "d": said})

        def drawn(width: int) -> Chart:
            labels = 190 if width > 500 else 120
            return charts.bars(rows, "how closely: |r|", width - labels - 100, labels, **charts.plain_axis(domain=[0, 1]))

        table: dict[str, list[Any]] = {"place": [name for name, _ in best]}
        table |= {column: [getattr(u, column) for _, u in best] for column in ("unit", "column", "r", "iou")}
        return (Display("What the units follow", drawn, table, charts.Places(found).told()),)


def tracking(
    place: Place,
    columns: Mapping[str, Any] | None = None,
    *,
    lags: Sequence[int] = beside.LAGS,
    state: str | None = None,
    target: Any = None,
) -> Tracking:
    """Which unit tracks which column.

    Args:
        place: of `capture_layers`.
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
    >>> from openlstm.insight.capture import capture_layers
    >>> place = capture_layers(openlstm.LSTM(1, 4), torch.arange(30.0).reshape(30, 1, 1)).places[0]
    >>> tracking(place, {"ramp": torch.arange(30)}, lags=()).columns
    ('ramp', 'step')
    """
    name = _state(place, state)
    real = beside.as_numpy(place.order(0, place.steps)) >= 0 if place.lengths is not None else None
    if columns is None:
        columns = {f"x{k}": beside.as_numpy(place.x[..., k]) for k in range(place.x.shape[2])}
    units = place.units if name != "h" else place.state.h.shape[1] // len(place.cell.feeds_back)
    shape = (place.steps, place.rows, units)
    values = Values(lambda: ((p.t0, v) for p, v in _chunks(place, name)), shape, real, place.reverse, place.name, name)
    return track(values, columns, lags=lags, target=target)


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
            raise ArgumentError.of("series", f"{place.name}.{name} has no unit {wrong[0]}", got, expected, "count from 0")
        if out is None:
            out = np.zeros((place.steps, place.rows, len(chosen)), values.dtype)
        out[part.t0 : part.t0 + len(values)] = values[:, :, chosen]
    return np.zeros((place.steps, place.rows, len(chosen))) if out is None else out


def track(
    values: Values | np.ndarray,
    columns: Mapping[str, Any] | None = None,
    *,
    lags: Sequence[int] = beside.LAGS,
    target: Any = None,
) -> Tracking:
    """As `tracking`, of arrays: `Values`, or values [T, B, H] as they are.

    >>> values = np.sin(np.arange(200.0)).reshape(100, 2, 1) + np.zeros(3)
    >>> track(values, {"itself": values[..., 0]}, lags=()).of("itself").r > 0.999
    True
    """
    if isinstance(values, np.ndarray):
        values = Values.of(values)
    T, B, H = values.shape
    name, state = values.name, values.state
    real = np.ones((T, B), bool) if values.real is None else values.real
    own = {column: beside.as_column(column, a, T, B, real) for column, a in (columns or {}).items()}
    every = beside.detectors(own, real, lags, values.reverse) if T else own
    names = [column for column, a in every.items() if real.any() and np.ptp(a[real]) > 0]
    given = tuple(column for column in names if column in own)
    gone = tuple(column for column in own if column not in names)
    if not names:
        return Tracking(name, state, (), (), np.zeros((H, 0)), (), (), (), gone)
    table = np.stack([beside.standardised(every[column], real) for column in names], -1)  # [T, B, K]
    sums = _Correlations(values.shape, table, real)
    for t0, part in values.chunks():
        sums.add(t0, part)
    r, chance = sums.correlations()
    pairs = [(int(j), k) for k in range(len(names)) for j in np.argsort(-np.abs(r[:, k]), kind="stable")[:_EACH]]
    pairs.sort(key=lambda pair: -abs(r[pair]))
    kept = list(dict.fromkeys([j for j, k in pairs if j == _first(r, k)] + [j for j, _ in pairs]))[:_SERIES]
    pairs = [pair for pair in pairs if pair[0] in kept]
    steps = np.zeros((T, B, len(kept)), np.float32)
    for t0, part in values.chunks():
        steps[t0 : t0 + len(part)] = part[:, :, kept]
    units = []
    for j, k in pairs:
        column, sign, s = names[k], 1.0 if r[j, k] >= 0 else -1.0, steps[:, :, kept.index(j)]
        on = beside.concept(every[column], real)
        high = sign * s > sums.quantile(j, float(on[real].mean()), sign)
        lit = sign * (np.tanh(s) if state == "c" else s) >= beside.ON
        unit = Unit(j, column, float(r[j, k]), beside.iou(high & real, on), beside.spans(lit & real, on), float(chance[k]))
        units.append((unit, j == _first(r, k)))
    best = tuple(unit for unit, first in units if first)
    near = tuple(unit for unit, first in units if not first)
    tops = list(dict.fromkeys((u.unit, 1.0 if u.r >= 0 else -1.0) for u in best))[:8]
    windows = [w for j, sign in tops for w in _windows(j, sign, steps[:, :, kept.index(j)], real)]
    found = Tracking(name, state, tuple(names), given, r, best, near, tuple(windows), gone)
    if target is None or found.top is None:
        return found
    named = [found.top.column, *(column for column in given if beside.made_of(found.top.column, column))]
    copies = ((column, beside.copy_of(every[column], beside.as_numpy(target), real)) for column in named)
    return replace(found, answer=next((f"{column} is {what}" for column, what in copies if what), ""))


class _Correlations:
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
        values = beside.as_numpy(part.saved.named(place.cell)[name])
        yield part, values[..., : values.shape[2] // len(place.cell.feeds_back)] if name == "h" else values


def _state(place: Place, name: str | None) -> str:
    there = [*place.cell.saved, *(place.cell.states if place.cell.has_cell else ()), "h"]
    if name is None:
        return place.cell.states[0] if place.cell.has_cell else "h"
    if name not in there:
        hint = "leave it out for the cell state"
        raise ArgumentError.of("tracking", f"{place.name} has no {name!r}", repr(name), ", ".join(there), hint)
    return name


def _first(r: np.ndarray, k: int) -> int:
    return int(np.abs(r[:, k]).argmax())


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
