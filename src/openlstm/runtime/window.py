"""What a forecasting network reads of a panel; training and prediction both come through here.

Legend: S series, M rows, N windows, W steps of a window, K steps of the horizon, P plain inputs, C categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from openlstm.data.grid import add_steps, phase, show_time, wall_clock
from openlstm.data.panel import Covariate, Panel, runs
from openlstm.errors import DataError
from openlstm.model_file import Feature, Lag, Scale, Series

SMALLEST = 1e-100
"""The smallest mean deviation of a series: its square, and sums of it, stay inside float64."""

MOST = 30.0
"""Inputs are cut off beyond so many spreads."""


class Rows(NamedTuple):
    """A panel as rows to cut windows from: of each series as many empty rows as a window reaches back, its steps, and the
    rows of the horizon behind its past.

    values: float64 [M], the target, NaN where missing and where there is no step.
    plain: float32 [M, P], in this order: sine and cosine of each place in the calendar; each covariate that is a number (0
        where missing) and its mark; the marks of the categories.
    codes: int64 [M, C], the categories, from 1; 0 where missing.
    begins: int64 [S], the row of the first step of each series; outside of them where only the last windows are wanted.
    """

    values: np.ndarray
    plain: np.ndarray
    codes: np.ndarray
    begins: np.ndarray


class Window(NamedTuple):
    """Windows as the network reads them, with what turns its outputs into forecasts.

    x: float32 [N, W, I], the value, its mark, the value of each season before, and the plain inputs.
    codes: int64 [N, W, C].
    ahead: float32 [N, K, U], of each step of the horizon: its place in it, each lag and its mark, the plain inputs known ahead.
    ahead_codes: int64 [N, K, C'], the categories known ahead.
    context: float32 [N, 3], of the whole window: the log of its spread beside its size, the share of it that is known, and how
        far its mean is from its anchor.
    anchor, spread: float64 [N].
    """

    x: np.ndarray
    codes: np.ndarray
    ahead: np.ndarray
    ahead_codes: np.ndarray
    context: np.ndarray
    anchor: np.ndarray
    spread: np.ndarray


def rows(series: Series, panel: Panel, *, every: bool = False, ahead: bool = True, last: bool = False) -> Rows:
    """The rows of a panel.

    Args:
        every: all its steps are read, not only those of the last windows.
        ahead: the steps behind the past are read too; where it trains they are not.
        last: only the window behind the past of each series is wanted: rows before those that it reads are left out.

    Raises:
        DataError: if a covariate of the model is not there, is missing where the model has never seen it missing, or is not
            known far enough ahead.
    """
    left_out = np.maximum(panel.history - series.reach, 0) if last else np.zeros(len(panel), np.int64)
    before = np.maximum(series.reach - panel.history, 0) if last else np.full(len(panel), series.reach)
    sizes = before + np.maximum(panel.lengths, panel.history + series.horizon) - left_out
    ends = np.cumsum(sizes)
    begins = ends - sizes + before - left_out
    total = int(ends[-1]) if len(ends) else 0
    kept = panel.lengths - left_out
    step = runs(panel.offsets[:-1] + left_out, kept)  # what is kept of the panel
    at = runs(begins + left_out, kept)  # its rows
    values = np.full(total, np.nan)
    values[at] = panel.values[step]
    plain, marks, codes = _calendar(series, panel, begins, sizes), [], []
    for feature in series.features:
        column = _column(feature, panel)
        full = np.full(total, np.nan)
        if feature.role == "static":
            full = np.repeat(column.values, sizes)
        else:
            full[at] = column.values[step]
        missing = np.isnan(full)
        _check_known(feature, panel, missing, begins, (series.window, series.horizon if ahead else 0), every)
        if feature.categories is None:
            plain.append(np.where(missing, 0, (full - feature.mean) / feature.deviation).clip(-MOST, MOST))
        else:
            codes.append(np.where(missing, 0, full + 1).astype(np.int64))
        if feature.marked:
            (plain if feature.categories is None else marks).append(missing)
    table = np.stack([*plain, *marks], axis=1).astype(np.float32) if plain or marks else np.zeros((total, 0), np.float32)
    return Rows(values, table, np.stack(codes, axis=1) if codes else np.zeros((total, 0), np.int64), begins)


def windows(series: Series, rows: Rows, at: np.ndarray) -> Window:
    """The windows before the rows `at` [N] of the first step that is forecast."""
    W, K, seasons = series.window, series.horizon, series.seasons
    place = at[:, None] + np.arange(-W, 0)  # [N, W]
    values = rows.values[place]
    anchor, spread = measure(values, series.scale, series.period)

    def scaled(v: np.ndarray) -> np.ndarray:
        return ((v - anchor[:, None]) / spread[:, None]).clip(-MOST, MOST)

    missing = np.isnan(values)
    x = np.empty((len(at), W, 2 + len(seasons) + rows.plain.shape[1]), np.float32)
    x[..., 0] = scaled(carry(values))
    x[..., 1] = missing
    if series.scale.anchor == "season":  # before its first known value a window lies at its anchor
        x[..., 0][~np.maximum.accumulate(~missing, axis=1)] = 0
    for k, season in enumerate(seasons, 2):
        found = scaled(rows.values[place - season])
        x[..., k] = np.where(np.isnan(found), 0, found)
    x[..., 2 + len(seasons) :] = rows.plain.take(place, axis=0)
    plain, codes, _ = columns(series, "future")
    step = np.arange(K)
    future = at[:, None] + step  # [N, K]
    ahead = np.empty((len(at), K, 1 + 2 * len(series.lags) + len(plain)), np.float32)
    ahead[..., 0] = (step + 1) / K
    lags: dict[Lag, np.ndarray] = {}
    for k, lag in enumerate(series.lags):
        found = scaled(rows.values[future - lag.season * (step // lag.season + 1 + lag.back)])
        absent = np.isnan(found)
        nearer = next((lags[near] for near in reversed(lags) if near.season == lag.season), next(iter(lags.values()), 0.0))
        ahead[..., 1 + 2 * k] = lags[lag] = np.where(absent, nearer, found)
        ahead[..., 2 + 2 * k] = absent
    ahead[..., 1 + 2 * len(series.lags) :] = rows.plain.take(future, axis=0)[..., plain]
    mean, size = means(values)
    level = np.maximum(size, series.scale.floor)
    context = [np.log(spread / level), 1 - missing.mean(axis=1), ((mean - anchor) / spread).clip(-MOST, MOST)]
    context = np.stack(context, axis=-1).astype(np.float32)
    return Window(x, rows.codes[place], ahead, rows.codes[future][..., codes], context, anchor, spread)


def embedded(x: np.ndarray, codes: np.ndarray, tables: Sequence[np.ndarray]) -> np.ndarray:
    """The inputs x [N, T, I] and behind them, for each of the categories codes [N, T, C], its row of its table."""
    return np.concatenate([x, *(table[codes[..., k]] for k, table in enumerate(tables))], axis=-1) if len(tables) else x


def measure(values: np.ndarray, scale: Scale, period: int) -> tuple[np.ndarray, np.ndarray]:
    """The anchor and the spread of each window [N, W] with at least one known value, float64 [N].

        anchor = mean of the known values of the last season     ("season"; the last known value where that is empty)
        spread = max(standard deviation of the known values, share * their mean size, floor)

    With the anchor "zero", of counts, the spread is max(their mean size, floor). With "all" anchor and spread are those of the
    training part, whatever the window holds. With "last", of models of older versions, the anchor is the last known value, and
    the deviation is that of the values with each gap filled with the last known one.

    >>> measure(np.array([[1.0, np.nan, 3.0, 5.0]]), Scale(floor=0.1), 2)
    (array([4.]), array([1.63299316]))
    """
    if scale.anchor == "all":
        return np.full(len(values), scale.center), np.full(len(values), scale.floor)
    mean, size = means(values)
    if scale.anchor == "zero":
        return np.zeros(len(values)), np.maximum(size, scale.floor)
    filled = carry(values)
    anchor = filled[:, -1].copy()
    if scale.anchor == "last":
        return anchor, np.maximum(filled.std(axis=1), scale.floor)
    season = values[:, -period:]
    some = ~np.isnan(season).all(axis=1)
    anchor[some] = means(season[some])[0]
    deviation = np.sqrt(means((values - mean[:, None]) ** 2)[0])
    return anchor, np.maximum(np.maximum(deviation, scale.share * size), scale.floor)


def means(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of the known values of each row [N, W], and that of their sizes, [N]; of a row the same beside any others."""
    known = ~np.isnan(values)
    full, count = np.where(known, values, 0), known.sum(axis=1)
    return full.sum(axis=1) / count, np.abs(full).sum(axis=1) / count


def carry(values: np.ndarray) -> np.ndarray:
    """Fill each gap along the last axis with the last known value; before the first known value, with that one.

    >>> carry(np.array([np.nan, 1.0, np.nan, 3.0])).tolist()
    [1.0, 1.0, 1.0, 3.0]
    """
    known = ~np.isnan(values)
    if known.all():
        return values
    steps = np.arange(values.shape[-1])
    last = np.maximum.accumulate(np.where(known, steps, -1), axis=-1)
    first = np.argmax(known, axis=-1)[..., None]
    return np.take_along_axis(values, np.where(last < 0, first, last), axis=-1)


def _calendar(series: Series, panel: Panel, begins: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """Sine and cosine of each place in the calendar, float32 [M] each; series that begin together share the work."""
    if not series.calendar:
        return []
    first = np.cumsum(sizes) - sizes - begins  # the step of the first row of each series
    starts, group = np.unique(panel.starts, return_inverse=True)
    low, high = np.full(len(starts), np.iinfo(np.int64).max), np.full(len(starts), np.iinfo(np.int64).min)
    np.minimum.at(low, group, first)
    np.maximum.at(high, group, first + sizes)
    times = add_steps(np.repeat(starts, high - low), series.step, runs(low, high - low))
    times = wall_clock(times, panel.zone) if panel.utc and panel.zone else times
    place = runs((np.cumsum(high - low) - high)[group] + first, sizes)  # of each row among these times
    angles = [2 * np.pi * phase(times, cycle) for cycle in series.calendar]
    return [wave(angle).astype(np.float32)[place] for angle in angles for wave in (np.sin, np.cos)]


def columns(series: Series, role: str) -> tuple[list[int], list[int], np.ndarray]:
    """Which of the plain inputs are of a role (the calendar is known ahead, as "future"), which of the categories, and what
    the plain ones are where nothing is known: 0, or 1 of a mark.
    """
    numbers = [f for f in series.features if f.categories is None]
    categories = [f for f in series.features if f.categories is not None]
    table = [("future", False)] * (2 * len(series.calendar))
    table += [one for f in numbers for one in ((f.role, False), (f.role, True))[: 1 + f.marked]]
    table += [(f.role, True) for f in categories if f.marked]
    plain = [k for k, (own, _) in enumerate(table) if own == role]
    return plain, [k for k, f in enumerate(categories) if f.role == role], np.array([table[k][1] for k in plain], np.float32)


def _column(feature: Feature, panel: Panel) -> Covariate:
    found = next((c for c in panel.covariates if c.name == feature.name), None)
    if found is None or (found.role == "static") != (feature.role == "static"):
        what = f"the model reads a column {feature.name!r}, which was not given"
        got = f"columns {', '.join(c.name for c in panel.covariates) or 'of the target alone'}"
        expected, hint = (
            f"{feature.name!r} as one of the {feature.role} columns",
            "give the table the model was trained on, with all its columns",
        )
        raise DataError.of("predict", what, got, expected, hint)
    return found


def _check_known(
    feature: Feature, panel: Panel, missing: np.ndarray, begins: np.ndarray, around: tuple[int, int], every: bool
) -> None:
    """A covariate has to be there in every step that is read, unless the model has learned what missing means.

    Args:
        around: how many steps are read before the origin, and behind it of what is known ahead.
    """
    if feature.marked:
        return
    before, horizon = around
    origin = begins + panel.history
    start, stop = np.maximum(begins, origin - before), origin + (horizon if feature.role == "future" else 0)
    if every:
        start, stop = begins, begins + panel.lengths
    count = np.concatenate([[0], np.cumsum(missing)])
    wrong = np.flatnonzero(count[stop] > count[start])
    if not len(wrong):
        return
    s = int(wrong[0])
    step = int(start[s] + np.argmax(missing[start[s] : stop[s]]) - begins[s])
    time = show_time(add_steps(panel.starts[s], panel.step, np.array([step]))[0])
    behind = step >= panel.history[s] and not every
    what = f"{feature.name!r} is not known far enough ahead" if behind else f"{feature.name!r} is missing"
    expected = f"a value at each of the {horizon} steps of the horizon" if behind else "a value, as in all rows of the training"
    hint = (
        f"append rows with {feature.name} for the steps to forecast, the target left empty, or give --future-data"
        if behind
        else "fill it, or fit the model with data in which it is missing too"
    )
    raise DataError.of(f"series {panel.name(s)}", what, f"nothing at {time}", expected, hint)
