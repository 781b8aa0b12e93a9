"""One series on a regular grid of time: gaps become missing values, and everything odd is named.

Legend: T steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from openlstm.data.grid import DAY, add_steps, count_words, name_step, show_time
from openlstm.data.panel import Note
from openlstm.data.table import Table, read_table
from openlstm.errors import DataError
from openlstm.model_file import Step

MOST_STEPS = 50
"""The most steps of a grid for each row of the table; where there are more, a date is wrong, or the table is not one series."""


@dataclass(frozen=True)
class Series:
    """Values on a regular grid.

    times: datetime64[us] [T], rising by one `step` each.
    values: float64 [T], NaN where missing.
    """

    name: str  # of the target
    time_name: str
    times: np.ndarray
    values: np.ndarray
    step: Step
    notes: tuple[Note, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def slice(self, start: int, stop: int) -> Series:
        """The steps from `start` up to `stop`, without the notes."""
        return Series(self.name, self.time_name, self.times[start:stop], self.values[start:stop], self.step)

    def future(self, steps: int) -> np.ndarray:
        """The times of the steps that follow the last one, datetime64[us] [steps]."""
        return add_steps(self.times[-1], self.step, np.arange(1, steps + 1))


def read_series(
    path: str | Path, time: str, target: str, *, time_format: str | None = None, step: Step | None = None
) -> Series:
    """Read one series out of a CSV or Parquet file.

    Args:
        path: the file.
        time: the column of dates; integers YYYYMMDD are read too.
        target: the column of numbers.
        time_format: as of strftime, where dates can be read in two ways.
        step: the sampling interval, found in the dates if None.

    Raises:
        DataError: unknown column, unreadable date, text among the numbers, a time that comes twice, times on no grid, or so far
            apart that the grid would have more than 50 steps a row, or further apart than `step`, fewer than three rows, no
            known value.
        ArgumentError: a `time_format` that is none.
    """
    table = read_table(path)
    return from_table(table, time, target, time_format=time_format, step=step)


def from_table(table: Table, time: str, target: str, *, time_format: str | None = None, step: Step | None = None) -> Series:
    """As `read_series`, out of a table."""
    if time == target:
        what, got = "is the column of dates and the column of numbers", f"{time!r} twice"
        expected, hint = "two columns", "name the column of what was measured as the target"
        raise DataError.of(f"{table.name}, column {time!r}", what, got, expected, hint)
    return _regular(table, time, target, table.times(time, time_format), table.numbers(target), step)


def from_arrays(
    times: ArrayLike, values: ArrayLike, *, name: str = "value", time_name: str = "time", step: Step | None = None
) -> Series:
    """A series out of arrays: times (anything numpy reads as datetime64) [T] and floats [T], NaN where missing.

    >>> s = from_arrays(["2001-01-06", "2001-01-13", "2001-01-27"], [1.0, 2.0, 4.0])
    >>> s.values.tolist(), s.notes[0].text
    ([1.0, 2.0, nan, 4.0], '1 step is absent from the table and counts as missing: 2001-01-20')
    """
    import polars as pl

    stamps = np.asarray(times, dtype="datetime64[us]")
    numbers = np.asarray(values, dtype=np.float64)
    if stamps.shape != numbers.shape or stamps.ndim != 1:
        what, got = "times and values do not fit", f"{list(stamps.shape)} and {list(numbers.shape)}"
        expected, hint = "[T] and [T]", "pass one time for each value"
        raise DataError.of("from_arrays", what, got, expected, hint)
    table = Table(pl.DataFrame({time_name: stamps, name: numbers}), "the arrays")
    return from_table(table, time_name, name, step=step)


def _regular(table: Table, time: str, target: str, times: np.ndarray, values: np.ndarray, step: Step | None) -> Series:
    notes: list[Note] = []
    if len(times) < 3:
        what, got = "is too short for a series", count_words(len(times), "row")
        expected, hint = "at least 3", "give a longer table"
        raise DataError.of(table.name, what, got, expected, hint)
    order = np.argsort(times, kind="stable")
    if (order[1:] < order[:-1]).any():
        count = int((np.diff(times) < np.timedelta64(0)).sum())
        text = f"the rows were not in the order of time ({count_words(count, 'step')} back); they were sorted"
        notes.append(Note("order", count, text))
    times, values = times[order], values[order]
    _check_twice(table, time, times, order)
    step = step or _find_step(table, time, times)
    places = _places(table, time, times, order, step)
    _check_interval(table, time, places, step)
    grid = add_steps(times[0], step, np.arange(places[-1] + 1))
    full = np.full(len(grid), np.nan)
    full[places] = values
    absent = np.setdiff1d(np.arange(len(grid)), places)
    if len(absent):
        are, s = ("is", "s") if len(absent) == 1 else ("are", "")
        text = f"{count_words(len(absent), 'step')} {are} absent from the table and count{s} as missing: {_where(grid, absent)}"
        notes.append(Note("gaps", len(absent), text))
    missing = places[np.isnan(values)]
    if len(missing) == len(values):
        what, got = "holds no known value", f"{len(values)} rows, all missing"
        expected, hint = "numbers", "choose another column"
        raise DataError.of(f"{table.name}, column {target!r}", what, got, expected, hint)
    if len(missing):
        are = "is" if len(missing) == 1 else "are"
        text = f"{count_words(len(missing), 'value')} of {target} {are} missing: {_where(grid, missing)}"
        notes.append(Note("missing", len(missing), text))
    return Series(target, time, grid, full, step, tuple(notes))


def _check_twice(table: Table, time: str, times: np.ndarray, order: np.ndarray) -> None:
    twice = np.flatnonzero(np.diff(times) == np.timedelta64(0))
    if len(twice):
        first, second = order[twice[0]], order[twice[0] + 1]
        what, expected = "the same time comes twice", "each time once"
        got = f"{show_time(times[twice[0]])}, also in {table.row(int(first))}; {count_words(len(twice), 'such row')} in all"
        hint = "keep one row for each time; a table of several series has to be filtered to one of them"
        raise DataError.of(f"{table.name}, {table.row(int(second))}, column {time!r}", what, got, expected, hint)


def _find_step(table: Table, time: str, times: np.ndarray) -> Step:
    """The most common distance: calendar months if it is 28 days or more, else seconds."""
    distance, count = np.unique(np.diff(times), return_counts=True)
    common = distance[np.argmax(count)]
    seconds = int(common / np.timedelta64(1, "s"))
    if seconds > 1000 * 365 * DAY:
        what, got = "the times are too far apart", f"{show_time(times[0])}, {show_time(times[1])}, ..."
        expected, hint = "an interval of at most 1000 years", "correct the dates"
        raise DataError.of(f"{table.name}, column {time!r}", what, got, expected, hint)
    if seconds >= 28 * DAY:
        months = np.diff(times.astype("datetime64[M]").astype(int))
        values, count = np.unique(months[months > 0], return_counts=True)
        if len(values) and abs(seconds / DAY / (365.2425 / 12) - values[np.argmax(count)]) < 0.5:
            return Step(unit="month", count=int(values[np.argmax(count)]))
    return Step(unit="second", count=max(seconds, 1))


def _places(table: Table, time: str, times: np.ndarray, order: np.ndarray, step: Step) -> np.ndarray:
    """Where on the grid each time lies, counted in steps from the first."""
    places, off = _on_grid(times, step, 0)
    _check_span(table, time, times, order, step, places)
    if len(off):
        start = 0
        if len(elsewhere := _on_grid(times, step, len(times) // 2)[1]) < len(off):  # it is the first time that is off
            off, start = elsewhere, len(times) // 2
        at = int(off[0])
        what = f"lies off the grid of {name_step(step)}"
        got = f"{show_time(times[at])}; {len(off)} of {len(times)} rows are off"
        expected = f"{show_time(times[start])} plus a whole number of {name_step(step, 2).removeprefix('2 ')}"
        hint = "resample the table to equal intervals, and leave out what was not measured"
        raise DataError.of(f"{table.name}, {table.row(int(order[at]))}, column {time!r}", what, got, expected, hint)
    return places


def _on_grid(times: np.ndarray, step: Step, start: int) -> tuple[np.ndarray, np.ndarray]:
    """The place of each time on the grid through one of them, and which times lie off it."""
    if step.unit == "month":
        months = times.astype("datetime64[M]").astype(int)
        places = np.round((months - months[start]) / step.count).astype(int)
    else:
        places = np.round((times - times[start]) / np.timedelta64(step.count, "s")).astype(int)
    return places, np.flatnonzero(times != add_steps(times[start], step, places))


def _check_span(table: Table, time: str, times: np.ndarray, order: np.ndarray, step: Step, places: np.ndarray) -> None:
    """Refuse a grid far longer than the table before it is made; the error names the row beside the widest gap."""
    steps, most = int(places[-1]) + 1, MOST_STEPS * len(times)
    if steps <= most:
        return
    gap = int(np.argmax(np.diff(places)))
    at, other = (gap, gap + 1) if gap + 1 < len(times) / 2 else (gap + 1, gap)
    raise DataError.of(
        f"{table.name}, {table.row(int(order[at]))}, column {time!r}",
        "lies too far from the other rows",
        f"{show_time(times[at])}, {name_step(step, int(np.diff(places)[gap]))} from {show_time(times[other])}; "
        f"a series of {steps:,} steps out of {len(times):,} rows",
        f"at most {most:,} steps, {MOST_STEPS} for each row",
        "correct the date, or resample the table to a longer interval",
    )


def _check_interval(table: Table, time: str, places: np.ndarray, step: Step) -> None:
    """Refuse rows that are mostly further apart than a step, as the same dates would be read as another interval."""
    apart, count = np.unique(np.diff(places), return_counts=True)
    common = int(apart[np.argmax(count)])
    if common > 1:
        what, got = f"has a longer interval than {name_step(step)}", f"most rows are {name_step(step, common)} apart"
        expected, hint = f"most rows {name_step(step)} apart", "give data of that interval, or fit a model to these"
        raise DataError.of(f"{table.name}, column {time!r}", what, got, expected, hint)


def _where(grid: np.ndarray, places: np.ndarray, most: int = 4) -> str:
    """The places as runs of times: `1958-05-10, 1958-05-31 to 1958-06-28, and 14 more runs`."""
    runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
    words = [show_time(grid[r[0]]) + (f" to {show_time(grid[r[-1]])}" if len(r) > 1 else "") for r in runs[:most]]
    more = len(runs) - most
    return ", ".join(words) + (f", and {count_words(more, 'more run')}" if more > 0 else "")
