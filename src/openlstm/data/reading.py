"""`read_panel`: from a file or a frame to a `Panel`; gaps become missing values, and everything odd is named with its row.

Legend: S series, N rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, combinations
from typing import Any, NamedTuple

import numpy as np

from openlstm.data.columns import Columns, Format, choose, unread
from openlstm.data.files import Table, read_any
from openlstm.data.grid import (
    DAY,
    HOUR,
    WEEK,
    add_steps,
    count_steps,
    count_words,
    every_of,
    find_step,
    name_step,
    show_time,
    step_of,
)
from openlstm.data.panel import Covariate, Note, Panel
from openlstm.data.rows import Rows, in_one_zone, in_order, no_value, read_rows, resampled
from openlstm.errors import DataError
from openlstm.model_file import Step

MOST_STEPS = 50
"""The most steps of a series for each row of it; where there are more, a date is wrong, or the table is not one series."""

NICE = tuple(
    Step(unit="second", count=c) for c in (1, 5, 10, 15, 30, 60, 300, 600, 900, 1800, HOUR, 3 * HOUR, 6 * HOUR, DAY, WEEK)
)
"""The intervals that an error proposes."""


class Reading(NamedTuple):
    """A panel, the table it was read from, and what was taken for what."""

    panel: Panel
    table: Table
    columns: Columns


def read_panel(
    data: Any,
    columns: Columns | None = None,
    form: Format | None = None,
    *,
    step: Step | None = None,
    categories: Mapping[str, tuple[str, ...]] | None = None,
    future_data: Any = None,
) -> Panel:
    """Read one or many series, with their covariates.

    Rows at the end of a series whose target is missing and whose `future` columns are known are its future.

    Args:
        data: the path of a CSV, Parquet, Arrow or Excel file, a frame of pandas, polars or pyarrow, or a panel, returned as is.
        columns: which column is what.
        form: how it is written, where that is not found by itself, and to which interval it is resampled.
        step: the sampling interval, found in the times if None.
        categories: the categories that a model knows, by the name of the column.
        future_data: as `data`: the rows behind the past, with the time, the ids and the `future` columns.

    Raises:
        DataError: for a file that is no table; a column that is not there; a date or a number that cannot be read; a time that
            comes twice; times on no grid, so far apart that a series would have more than 50 steps a row, or further apart than
            `step`; fewer than three rows; a series in which no value is known; a category that the model does not know.
        ArgumentError: for a format, a zone, an encoding or an interval that is none.

    >>> import polars as pl
    >>> frame = pl.DataFrame({"ds": ["2001-01-06", "2001-01-13", "2001-01-27"], "y": [1.0, 2.0, 4.0]})
    >>> panel = read_panel(frame)
    >>> panel.values.tolist(), panel.notes[0].text
    ([1.0, 2.0, nan, 4.0], '1 step is absent from the table and counts as missing: 2001-01-20')
    """
    if isinstance(data, Panel):
        return data
    return read(data, columns or Columns(), form or Format(), step=step, categories=categories, future_data=future_data).panel


def read(
    data: Any,
    columns: Columns,
    form: Format,
    *,
    step: Step | None = None,
    categories: Mapping[str, tuple[str, ...]] | None = None,
    future_data: Any = None,
) -> Reading:
    """As `read_panel`, with the table and what was taken for what."""
    every = step_of(form.every) if form.every else None
    table = read_any(data, form.encoding, form.delimiter)
    columns = choose(table, columns, form)
    ahead = None if future_data is None else read_any(future_data, form.encoding, form.delimiter, "the frame of the future")
    rows = in_order(read_rows(table, columns, form, categories, ahead))
    if len(rows) < 3 and step is None:
        what, got = "is too short for a series", count_words(len(rows), "row")
        raise DataError.of(table.name, what, got, "at least 3", "give a longer table")
    if np.isnan(rows.values).all():
        raise no_value(table, str(columns.target), len(rows))
    rows = in_one_zone(rows, form, every or step)
    static = tuple(one_value(rows, c) for c in rows.covariates if c.role == "static")
    if every:
        rows = resampled(rows, every, form.aggregate)
    refuse_twice(rows)
    step = step or every or found_step(rows)
    return Reading(on_grid(rows, step, static), table, columns)


def one_value(rows: Rows, covariate: Covariate) -> Covariate:
    """A static covariate as one value for each series."""
    first = np.flatnonzero(rows.begins)
    known = ~np.isnan(covariate.values)
    low = np.minimum.reduceat(np.where(known, covariate.values, np.inf), first)
    high = np.maximum.reduceat(np.where(known, covariate.values, -np.inf), first)
    if (low < high).any():
        s = int(np.argmax(low < high))
        at = int(np.flatnonzero((rows.series == rows.series[first[s]]) & (covariate.values == high[s]))[0])
        one, other = (str(v) if covariate.categories is None else covariate.categories[int(v)] for v in (low[s], high[s]))
        who = f"{rows.tables[0].name}, {rows.row(at)}, column {covariate.name!r}"
        what, got = f"changes within the series {rows.name(int(rows.series[at]))}", f"{other}, in another row {one}"
        hint = f"correct it, or name it as a column that changes: --future {covariate.name} if known ahead, else --past"
        raise DataError.of(who, what, got, "one value for each series", hint)
    values = np.full(len(rows.keys), np.nan)
    values[rows.series[first]] = np.where(np.isinf(low), np.nan, low)
    return Covariate(covariate.name, "static", values, covariate.categories)


def refuse_twice(rows: Rows) -> None:
    """Refuse a time that comes twice in a series: the hour of a clock change, several series, or just twice."""
    twice = np.flatnonzero((rows.times[1:] == rows.times[:-1]) & ~rows.begins[1:])
    if not len(twice):
        return
    first, second = sorted((int(twice[0]), int(twice[0]) + 1), key=lambda k: rows.origin[k])
    shown = show_time(rows.times[first]) + (" in UTC" if rows.utc else "")
    got = f"{shown}, also in {rows.row(first)}; {count_words(len(twice), 'such row')} in all"
    if zone := None if rows.zone else _clock_change(rows, twice):
        what, expected = (
            "comes twice, as the hour does when the clocks go back",
            "times in UTC, or a time zone that tells them apart",
        )
        raise rows.error(second, what, got, expected, f"name the zone of these times: --zone {zone}")
    step = find_step(
        rows.times[keep := np.append(True, np.diff(rows.times) != np.timedelta64(0)) | rows.begins], rows.begins[keep]
    )
    every = every_of(step) if step else "1d"
    hint = f"keep one row for each time, or make one of them: --every {every} --aggregate mean"
    if apart := _columns_apart(rows):
        hint = f"a table of several series has to say which column names them: --series {','.join(apart)}"
    raise rows.error(second, "the same time comes twice", got, "each time once", hint)


def _clock_change(rows: Rows, twice: np.ndarray) -> str | None:
    """A zone in which all times that come twice lie in an hour that does, if there is one."""
    hours = rows.times[twice].astype("datetime64[h]")
    days = hours.astype("datetime64[D]")
    step = find_step(rows.times, rows.begins)
    if step is None or step.unit != "second" or step.count > HOUR or (hours - days > np.timedelta64(3, "h")).any():
        return None
    if ((days.astype(np.int64) + 3) % 7 != 6).any():  # a Sunday
        return None
    months = days.astype("datetime64[M]")
    place = (days - months.astype("datetime64[D]")).astype(np.int64) // 7  # which Sunday of its month
    last = (days + np.timedelta64(7, "D")).astype("datetime64[M]") > months
    month = months.astype(np.int64) % 12 + 1
    for zone, fits in (
        ("Europe/Berlin", (month == 10) & last),
        ("America/New_York", (month == 11) & (place == 0)),
        ("Australia/Sydney", (month == 4) & (place == 0)),
    ):
        if fits.all():
            return zone
    return None


def _columns_apart(rows: Rows) -> tuple[str, ...]:
    """One or two more columns that tell apart the rows of one time, if there are some."""
    import polars as pl

    columns, table = rows.columns, rows.tables[0]
    if columns.wide:
        return ()
    texts = [n for n in unread(table, columns) if table.frame[n].dtype in (pl.String, pl.Categorical, pl.Enum)]
    others = [n for n in unread(table, columns) if n not in texts and table.frame[n].dtype.is_integer()]
    few = [n for n in (*texts, *others) if table.frame[n].n_unique() <= table.frame.height // 2][:8]
    for more in chain(combinations(few, 1), combinations(few, 2)):
        names = [*columns.ids, *more]
        if not table.frame.select(str(columns.time), *names).is_duplicated().any():
            return tuple(names)
    return ()


def found_step(rows: Rows) -> Step:
    """The sampling interval of the rows, in order; refused where it cannot be told."""
    step = find_step(rows.times, rows.begins)
    if step is not None:
        return step
    if rows.begins.all():
        what, got = "has no series of two times", f"{count_words(len(rows.keys), 'series').removesuffix('s')} of one row each"
        raise DataError.of(rows.who, what, got, "at least 3 rows of a series", "give a longer table, or another --series")
    got = f"{show_time(rows.times[0])}, {show_time(rows.times[1])}, ..."
    what, expected = "the times are too far apart", "an interval of at most 1000 years"
    raise DataError.of(rows.who, what, got, expected, "correct the dates")


def on_grid(rows: Rows, step: Step, static: tuple[Covariate, ...]) -> Panel:
    """The rows, in order, as a panel."""
    first = np.flatnonzero(rows.begins)
    keys = tuple(rows.keys[s] for s in rows.series[first])
    static = tuple(Covariate(c.name, c.role, c.values[rows.series[first]], c.categories) for c in static)
    number = np.cumsum(rows.begins) - 1
    counts = np.diff(np.append(first, len(rows)))
    starts = rows.times[first]
    places = count_steps(starts[number], step, rows.times)
    lengths = places[first + counts - 1] + 1
    _refuse_span(rows, step, places, lengths, counts, first)
    _refuse_off_grid(rows, step, add_steps(starts[number], step, places) != rows.times, first, counts)
    _refuse_longer(rows, step, places)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    at = offsets[number] + places

    def spread(values: np.ndarray) -> np.ndarray:
        full = np.full(offsets[-1], np.nan)
        full[at] = values
        return full

    unknown = np.isnan(rows.values)
    known = [~np.isnan(c.values) for c in rows.covariates if c.role == "future"]
    ahead = unknown & (np.any([*known, rows.second], axis=0) if known else rows.second)
    history = np.maximum.reduceat(np.where(ahead, 0, places + 1), first)
    covariates = tuple(Covariate(c.name, c.role, spread(c.values), c.categories) for c in rows.covariates if c.role != "static")
    panel = Panel(
        str(rows.columns.target),
        str(rows.columns.time),
        step,
        keys,
        starts,
        offsets,
        history,
        spread(rows.values),
        rows.ids,
        rows.zone,
        (*covariates, *static),
    )
    present = np.zeros(offsets[-1], bool)
    present[at] = True
    panel = Panel(**{**vars(panel), "notes": (*rows.notes, *_notes(panel, present, rows))})
    return panel.at(history) if (history < lengths).any() else panel


def _refuse_span(
    rows: Rows, step: Step, places: np.ndarray, lengths: np.ndarray, counts: np.ndarray, first: np.ndarray
) -> None:
    """Refuse a series far longer than its rows before it is made; the error names the row beside the widest gap."""
    most = MOST_STEPS * counts
    if len(counts) > 1:  # a series with few rows may be as long as most others
        most = np.maximum(most, 2 * int(np.sort(lengths)[(len(lengths) - 1) // 2]))
    if (lengths <= most).all():
        return
    s = int(np.argmax(lengths > most))
    begin, count = int(first[s]), int(counts[s])
    apart = np.diff(places[begin : begin + count])
    gap = int(np.argmax(apart))
    at, other = (gap, gap + 1) if gap + 1 < count / 2 else (gap + 1, gap)
    times = rows.times[begin : begin + count]
    got = (
        f"{show_time(times[at])}, {name_step(step, int(apart[gap]))} from {show_time(times[other])}; "
        f"a series of {lengths[s]:,} steps out of {count:,} rows"
    )
    expected = f"at most {int(most[s]):,} steps, {MOST_STEPS} for each row"
    hint = f"correct the date, or resample to a longer interval: --every {every_of(_longer(times))} --aggregate mean"
    raise rows.error(begin + at, "lies too far from the other rows", got, expected, hint)


def _refuse_off_grid(rows: Rows, step: Step, off: np.ndarray, first: np.ndarray, counts: np.ndarray) -> None:
    if not off.any():
        return
    s = int(np.searchsorted(first, np.argmax(off), side="right")) - 1
    begin, count = int(first[s]), int(counts[s])
    times, start = rows.times[begin : begin + count], 0
    wrong = np.flatnonzero(off[begin : begin + count])
    middle = times[count // 2]
    elsewhere = np.flatnonzero(add_steps(middle, step, count_steps(np.full(count, middle), step, times)) != times)
    if len(elsewhere) < len(wrong):  # it is the first time that is off
        wrong, start = elsewhere, count // 2
    at = int(wrong[0])
    got = f"{show_time(times[at])}; {len(wrong)} of {count} rows are off"
    expected = f"{show_time(times[start])} plus a whole number of {name_step(step, 2).removeprefix('2 ')}"
    hint = f"resample to equal intervals: --every {every_of(step)} --aggregate mean"
    if rows.zone == "UTC" and step.unit != "second" or step == Step(unit="second", count=DAY) and rows.zone == "UTC":
        hint += "; or name the zone in which these are whole days, as --zone Europe/Berlin"
    elif len(wrong) > count // 2:
        hint = f"resample to equal intervals: --every {every_of(_longer(times))} --aggregate mean"
    raise rows.error(begin + at, f"lies off the grid of {name_step(step)}", got, expected, hint)


def _longer(times: np.ndarray) -> Step:
    """The least usual interval that is no shorter than the median distance."""
    seconds = float(np.median(np.diff(times)) / np.timedelta64(1, "s"))
    if seconds > 7 * DAY:
        return Step(unit="month", count=1 if seconds <= 31 * DAY else 3 if seconds <= 92 * DAY else 12)
    return next((n for n in NICE if n.count >= seconds), NICE[-1])


def _refuse_longer(rows: Rows, step: Step, places: np.ndarray) -> None:
    """Refuse rows that are mostly further apart than a step, as the same dates would be read as another interval."""
    apart, count = np.unique((places[1:] - places[:-1])[~rows.begins[1:]], return_counts=True)
    common = int(apart[np.argmax(count)]) if len(apart) else 1
    if common > 1:
        what, got = f"has a longer interval than {name_step(step)}", f"most rows are {name_step(step, common)} apart"
        told = any(note.kind == "resampled" for note in rows.notes)
        hint = "choose a longer --every" if told else "give data of that interval, or fit a model to these"
        raise DataError.of(rows.who, what, got, f"most rows {name_step(step)} apart", hint)


def _notes(panel: Panel, present: np.ndarray, rows: Rows) -> Iterator[Note]:
    """What is to be known of the steps of a panel, `present` [N] where the table has a row."""
    place = np.arange(len(panel.values)) - np.repeat(panel.offsets[:-1], panel.lengths)
    past = place < np.repeat(panel.history, panel.lengths)
    known = past & ~np.isnan(panel.values)
    if (none := np.flatnonzero(np.add.reduceat(known, panel.offsets[:-1]) == 0)).size:
        who, got = (
            f"{rows.tables[0].name}, {panel.name(int(none[0]))}",
            f"{count_words(len(none), 'series')} in which all is missing",
        )
        hint = "leave out its rows"
        raise DataError.of(who, "holds no known value", got.replace("seriess", "series"), "at least one in each series", hint)
    absent, missing = np.flatnonzero(past & ~present), np.flatnonzero(past & present & np.isnan(panel.values))
    if len(absent):
        are, s = ("is", "s") if len(absent) == 1 else ("are", "")
        text = (
            f"{count_words(len(absent), 'step')} {are} absent from the table and count{s} as missing: {_where(panel, absent)}"
        )
        yield Note("gaps", len(absent), text)
    if len(missing):
        are = "is" if len(missing) == 1 else "are"
        text = f"{count_words(len(missing), 'value')} of {panel.target} {are} missing: {_where(panel, missing)}"
        yield Note("missing", len(missing), text)
    if ahead := int((~past).sum()):
        where = _where(panel, np.flatnonzero(~past))
        text = (
            f"{count_words(ahead, 'step')} behind the last {panel.target} {'is' if ahead == 1 else 'are'} the future: {where}"
        )
        yield Note("future", ahead, text)
    low, high = (
        f.reduceat(np.where(known, panel.values, end), panel.offsets[:-1])
        for f, end in ((np.minimum, np.inf), (np.maximum, -np.inf))
    )
    if (constant := np.flatnonzero((low == high) & (panel.history > 1))).size:
        names = ", ".join(panel.name(int(s)) for s in constant[:4]) + (
            f", and {len(constant) - 4} more" if len(constant) > 4 else ""
        )
        yield Note(
            "constant", len(constant), f"{panel.target} never changes: {names}" if panel.ids else f"{names} never changes"
        )


def _where(panel: Panel, places: np.ndarray, most: int = 4) -> str:
    """The places as runs of times: `1958-05-10, 1958-05-31 to 1958-06-28, and 14 more runs`, by series if there are several."""
    series = np.searchsorted(panel.offsets, places, side="right") - 1
    cuts = np.flatnonzero((np.diff(places) > 1) | (np.diff(series) > 0)) + 1
    begin, end = np.append(0, cuts)[:most], np.append(cuts - 1, len(places) - 1)[:most]
    words, before = [], -1
    for a, b in zip(begin, end, strict=True):
        s = int(series[a])
        one, other = (show_time(t) for t in add_steps(panel.starts[s], panel.step, places[[a, b]] - panel.offsets[s]))
        name = f"{panel.name(s)}: " if panel.ids and s != before else ""
        words.append(name + one + (f" to {other}" if b > a else ""))
        before = s
    more = len(cuts) + 1 - most
    zone = " (in UTC)" if panel.utc else ""
    return ", ".join(words) + (f", and {count_words(more, 'more run')}" if more > 0 else "") + zone
