"""`Rows`: a table as arrays, one entry for each row of each series: read, put in order, told in one zone, resampled.

Legend: S series, N rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from openlstm.data.columns import Columns, Format
from openlstm.data.dates import read_times
from openlstm.data.files import Table
from openlstm.data.grid import DAY, count_words, find_step, name_step, windows
from openlstm.data.numbers import holds_numbers, read_numbers
from openlstm.data.panel import Covariate, Note, Role
from openlstm.errors import DataError
from openlstm.model_file import Step

Key = tuple[str, ...]


@dataclass(frozen=True)
class Rows:
    """The rows of one table or two.

    times: datetime64[us] [N]; in UTC where `utc`, else as clocks show them.
    series: int64 [N], the number of the series in `keys`.
    values: float64 [N], the target, NaN where missing.
    covariates: each with values [N], NaN where missing; the static ones too.
    origin: int64 [N], the row of the table; `second` [N], whether it is a row of the second table.
    """

    tables: tuple[Table, ...]
    columns: Columns
    times: np.ndarray
    zone: str | None
    utc: bool
    keys: list[Key]
    series: np.ndarray
    values: np.ndarray
    covariates: tuple[Covariate, ...]
    origin: np.ndarray
    second: np.ndarray
    notes: list[Note] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.times)

    @property
    def begins(self) -> np.ndarray:
        """Whether a series begins in a row, where the rows lie in order, bool [N]."""
        return np.concatenate([[True], self.series[1:] != self.series[:-1]])

    @property
    def who(self) -> str:
        """What an error calls the column of dates."""
        return f"{self.tables[0].name}, column {self.columns.time!r}"

    def take(self, chosen: np.ndarray) -> Rows:
        """Some of the rows, in this order."""
        return replace(
            self,
            times=self.times[chosen],
            series=self.series[chosen],
            values=self.values[chosen],
            covariates=tuple(replace(c, values=c.values[chosen]) for c in self.covariates),
            origin=self.origin[chosen],
            second=self.second[chosen],
        )

    def name(self, series: int) -> str:
        """What an error calls a series: `store=3`; the target where it has no other name."""
        return ", ".join(f"{i}={k}" for i, k in zip(self.ids, self.keys[series], strict=True)) or str(self.columns.target)

    @property
    def ids(self) -> tuple[str, ...]:
        """The names of the columns that name the series."""
        return ("series",) if self.columns.wide else self.columns.ids

    def row(self, at: int) -> str:
        """How a reader finds a row."""
        table = self.tables[int(self.second[at])]
        place = table.row(int(self.origin[at]))
        return f"{table.name}, {place}" if self.second[at] else place

    def error(self, at: int, what: str, got: str, expected: str, hint: str) -> DataError:
        """The error for the time of one row."""
        table = self.tables[int(self.second[at])]
        where = f"{table.name}, {table.row(int(self.origin[at]))}, column {self.columns.time!r}"
        return DataError.of(where, what, got, expected, hint)


def read_rows(
    table: Table, columns: Columns, form: Format, categories: Mapping[str, tuple[str, ...]] | None, ahead: Table | None = None
) -> Rows:
    """The rows of a table, and behind them those of one whose times and covariates are known ahead.

    Raises:
        DataError: for a cell that cannot be read, a series without a name, a category that is not among `categories`.
    """
    first = (_wide if columns.wide else _long)(table, columns, form, categories)
    rows = first if ahead is None else _joined(first, _ahead(ahead, first, form, categories))
    for told in rows.tables:
        rows.notes.extend(told.notes)
    return rows


def _long(table: Table, columns: Columns, form: Format, categories: Mapping[str, tuple[str, ...]] | None) -> Rows:
    """One row for each time and series."""
    times = read_times(table, str(columns.time), form.time_format, form.zone)
    keys, series = read_keys(table, columns.ids)
    named: dict[Role, tuple[str, ...]] = {"future": columns.future, "past": columns.past, "static": columns.static}
    return Rows(
        (table,),
        columns,
        times.values,
        times.zone,
        times.zone is not None,
        keys,
        series,
        read_numbers(table, str(columns.target), form.decimal),
        tuple(read_covariate(table, name, role, form, categories) for role, names in named.items() for name in names),
        np.arange(table.frame.height),
        np.zeros(table.frame.height, bool),
    )


def _wide(table: Table, columns: Columns, form: Format, categories: Mapping[str, tuple[str, ...]] | None) -> Rows:
    """One row for each time, one column for each series; a series begins with its first known value."""
    times = read_times(table, str(columns.time), form.time_format, form.zone)
    covariates = tuple(read_covariate(table, name, "future", form, categories) for name in columns.future)
    names = [name for name in table.frame.columns if name not in (columns.time, *columns.future)]
    empty = [name for name in names if not name and not table.frame[name].count()]
    names = [name for name in names if name not in empty]
    if not names:
        what, got = "has no column of numbers to forecast", ", ".join(table.frame.columns)
        raise DataError.of(table.name, what, got, "a column for each series", "leave out --wide, or name another --time")
    height = table.frame.height
    values = np.stack([read_numbers(table, name, form.decimal) for name in names])
    order = np.argsort(times.values, kind="stable")
    known = ~np.isnan(values[:, order])
    late = np.where(known.any(axis=1), known.argmax(axis=1), height)  # a series without a value is refused later on
    if (none := np.flatnonzero(late == height)).size:
        raise no_value(table, names[int(none[0])], height)
    rank = np.empty(height, np.int64)
    rank[order] = np.arange(height)
    kept = np.flatnonzero((rank >= late[:, None]).reshape(-1))
    at = kept % height
    return Rows(
        (table,),
        columns,
        times.values[at],
        times.zone,
        times.zone is not None,
        [(name,) for name in names],
        kept // height,
        values.reshape(-1)[kept],
        tuple(replace(c, values=c.values[at]) for c in covariates),
        at,
        np.zeros(len(at), bool),
    )


def no_value(table: Table, column: str, rows: int) -> DataError:
    """The error for a column in which no value is known."""
    what, got = "holds no known value", f"{count_words(rows, 'row')}, all missing"
    return table.wrong(column, what, got, "numbers", "choose another column")


def read_keys(table: Table, ids: tuple[str, ...]) -> tuple[list[Key], np.ndarray]:
    """The names of the series in the order in which they first come, and which one each row belongs to, int64 [N]."""
    import polars as pl

    if not ids:
        return [()], np.zeros(table.frame.height, np.int64)
    texts = pl.DataFrame([read_text(table.column(name)).alias(name) for name in ids])
    for name in ids:
        if texts[name].null_count():
            at = int(texts[name].is_null().arg_max() or 0)
            expected, hint = "the name of a series in every row", "fill in this cell, or leave out the row"
            raise table.error(at, name, "names no series", table.frame[name][at], expected, hint)
    once = texts.unique(maintain_order=True).with_row_index("\0series")
    series = texts.join(once, on=ids, how="left", maintain_order="left")["\0series"]
    return once.select(ids).rows(), series.to_numpy().astype(np.int64)


def find_keys(table: Table, ids: tuple[str, ...], known: list[Key]) -> np.ndarray:
    """Which of the known series each row belongs to, int64 [N].

    Raises:
        DataError: for a row of another series.
    """
    keys, series = read_keys(table, ids)
    place = {key: k for k, key in enumerate(known)}
    new = [key not in place for key in keys]
    if any(new):
        at = int(np.flatnonzero(np.array(new)[series])[0])
        got, expected = ", ".join(keys[int(series[at])]), "a series of the first table"
        raise table.error(at, ids[0], "names a series that has no past", got, expected, "leave out its rows")
    return np.array([place[key] for key in keys], dtype=np.int64)[series]


def read_text(column: Any) -> Any:
    """A column as texts, null where nothing stands: whole numbers without decimals, so that 1.0 and 1 are one name."""
    import polars as pl

    if column.dtype.is_float() and (column == column.round()).fill_null(True).all():
        column = column.cast(pl.Int64, strict=False)
    text = column.cast(pl.String).str.strip_chars()
    return text.set(text == "", None)


def read_covariate(
    table: Table, name: str, role: Role, form: Format, categories: Mapping[str, tuple[str, ...]] | None
) -> Covariate:
    """A column as numbers, or as the codes of its texts: positions in `categories`, or in the sorted texts.

    Raises:
        DataError: for a text that is not among the categories; names column, row and value.
    """
    import polars as pl

    column = table.column(name)
    known = None if categories is None else categories.get(name)
    text = column.dtype in (pl.String, pl.Categorical, pl.Enum) and column.count()
    if known is None and (categories is not None or not text or holds_numbers(column, form.decimal)):
        return Covariate(name, role, read_numbers(table, name, form.decimal))
    cells = read_text(column)
    levels = known if known is not None else tuple(cells.unique().drop_nulls().sort())
    codes = cells.cast(pl.Enum(levels), strict=False).to_physical()
    new = codes.is_null() & cells.is_not_null()
    if new.any():
        at = int(new.arg_max() or 0)
        some = ", ".join(levels[:8]) + (", ..." if len(levels) > 8 else "")
        hint = "correct this cell, leave it empty (then it counts as missing), or fit a model to a table that holds it"
        raise table.error(at, name, "is a category that the model does not know", column[at], f"one of {some}", hint)
    return Covariate(name, role, codes.cast(pl.Float64).fill_null(float("nan")).to_numpy().copy(), levels)


def _ahead(table: Table, first: Rows, form: Format, categories: Mapping[str, tuple[str, ...]] | None) -> Rows:
    """The rows of the second table; without ids they hold for every series."""
    columns = first.columns
    times = read_times(table, str(columns.time), form.time_format, form.zone)
    if (times.zone is None) != (first.zone is None):
        what = f"has {'no' if times.zone is None else 'a'} time zone, and the first table has {'one' if first.zone else 'none'}"
        got = f"{times.zone or 'local times'} beside {first.zone or 'local times'}"
        raise table.wrong(str(columns.time), what, got, "times of one kind in both", "write both tables in UTC")
    height, ids = table.frame.height, () if columns.wide else columns.ids
    rows = np.arange(height)
    if ids and not set(ids).isdisjoint(table.frame.columns):
        series = find_keys(table, ids, first.keys)
    else:
        count = len(first.keys)
        series, rows = np.repeat(np.arange(count), height), np.tile(rows, count)
    found = {name: read_covariate(table, name, "future", form, categories) for name in columns.future}
    nothing = np.full(len(rows), np.nan)
    covariates = tuple(
        replace(c, values=found[c.name].values[rows], categories=found[c.name].categories)
        if c.name in found
        else replace(c, values=nothing)
        for c in first.covariates
    )
    return replace(
        first,
        tables=(table,),
        times=times.values[rows],
        series=series,
        values=nothing,
        covariates=covariates,
        origin=rows,
        second=np.ones(len(rows), bool),
    )


def _joined(first: Rows, ahead: Rows) -> Rows:
    """Both; rows of the second table that are no later than the last one of the first are left out, and noted."""
    last = np.full(len(first.keys), np.datetime64("0000", "us"))
    np.maximum.at(last, first.series, first.times)
    later = ahead.times > last[ahead.series]
    if not later.all():
        early = int((~later).sum())
        text = f"left out of {ahead.tables[0].name}: {count_words(early, 'row')} no later than the past"
        first.notes.append(Note("early", early, text))
        ahead = ahead.take(np.flatnonzero(later))
    both = []
    for a, b in zip(first.covariates, ahead.covariates, strict=True):
        levels = a.categories
        if a.role == "future" and (a.categories is None) != (b.categories is None):
            table, of = (ahead.tables[0], b) if b.categories else (first.tables[0], a)
            what, expected = "holds texts, and numbers in the other table", "numbers or texts in both"
            raise table.wrong(a.name, what, ", ".join((of.categories or ())[:5]), expected, "correct this column")
        if a.role == "future" and a.categories != b.categories:
            levels = tuple(sorted({*(a.categories or ()), *(b.categories or ())}))
            a, b = (replace(c, values=_coded(c, levels)) for c in (a, b))
        both.append(replace(a, values=np.concatenate([a.values, b.values]), categories=levels))
    join = lambda name: np.concatenate([getattr(first, name), getattr(ahead, name)])  # noqa: E731
    arrays = {name: join(name) for name in ("times", "series", "values", "origin", "second")}
    return replace(first, tables=(*first.tables, *ahead.tables), covariates=tuple(both), **arrays)


def _coded(covariate: Covariate, levels: tuple[str, ...]) -> np.ndarray:
    """The codes of a covariate among other categories."""
    place = np.array([levels.index(c) for c in covariate.categories or ()] + [np.nan])
    return place[np.where(np.isnan(covariate.values), -1, covariate.values).astype(np.int64)]


def in_order(rows: Rows) -> Rows:
    """The rows series by series in the order of time, with a note if they were not."""
    by_series = np.argsort(rows.series, kind="stable")
    series, times = rows.series[by_series], rows.times[by_series]
    back = int(((np.diff(times) < np.timedelta64(0)) & (series[1:] == series[:-1])).sum())
    if back:
        text = f"the rows were not in the order of time ({count_words(back, 'step')} back); they were sorted"
        rows.notes.append(Note("order", back, text))
        by_series = by_series[np.lexsort((times, series))]
    return rows if (np.diff(by_series) == 1).all() else rows.take(by_series)


def in_one_zone(rows: Rows, form: Format, step: Step | None) -> Rows:
    """The rows, in order, with their times as a panel counts them: steps shorter than a day in UTC where there is a zone.

    The hour that comes twice in autumn is read in the order of the table: the first of two is the earlier.

    Raises:
        DataError: for a local time that the zone leaves out; names the row.
    """
    import polars as pl

    zone = rows.zone or form.zone
    if zone is None:
        return rows
    short = step or find_step(rows.times, rows.begins)
    short = short is not None and short.unit == "second" and short.count < DAY
    if rows.utc and not short:
        times = pl.Series(rows.times).dt.replace_time_zone("UTC").dt.convert_time_zone(zone).dt.replace_time_zone(None)
        return in_order(replace(rows, times=times.to_numpy(), zone=zone, utc=False))
    if rows.utc or not short:
        return replace(rows, zone=zone)
    newest_first = (np.diff(rows.origin) < 0).sum() > len(rows) / 2
    twice = ~rows.begins & (np.diff(rows.times, prepend=rows.times[:1]) == np.timedelta64(0))
    later = np.concatenate([twice[1:], [False]]) if newest_first else twice
    which = pl.Series(np.where(later, "latest", "earliest"))
    times = pl.Series(rows.times).dt.replace_time_zone(zone, ambiguous=which, non_existent="null")
    if times.null_count():
        at = int(times.is_null().arg_max() or 0)
        what, expected = "is a time that the clocks leave out in spring", f"times that exist in {zone}"
        hint = "give the --zone in which the clocks showed it, or correct this cell"
        raise rows.error(at, what, str(rows.times[at].astype("datetime64[s]")).replace("T", " "), expected, hint)
    utc = times.dt.convert_time_zone("UTC").dt.replace_time_zone(None).to_numpy()
    order = np.lexsort((utc, rows.series))
    return replace(rows, times=utc, zone=zone, utc=True).take(order)


def resampled(rows: Rows, step: Step, how: str) -> Rows:
    """One row for each window of a step: the target as told, other numbers by the mean, categories by the last.

    The rows lie in order. A window without rows stays absent.
    """
    import polars as pl

    windowed = windows(rows.times, step)
    new = rows.begins | (np.diff(windowed, prepend=windowed[:1]) != np.timedelta64(0))
    first = np.flatnonzero(new)
    data = {"window": np.cumsum(new), "target": rows.values} | {str(k): c.values for k, c in enumerate(rows.covariates)}
    target = pl.col("target")
    picked = target.drop_nulls() if how in ("first", "last") else target
    made = getattr(picked, how)().cast(pl.Float64)
    steps = [made if how == "count" else pl.when(target.count() > 0).then(made)]
    for k, c in enumerate(rows.covariates):
        column = pl.col(str(k))
        steps.append(column.mean() if c.categories is None and c.role != "static" else column.drop_nulls().last())
    frame = pl.DataFrame(data).with_columns(pl.all().exclude("window").fill_nan(None))
    frame = frame.group_by("window", maintain_order=True).agg(
        step.alias(name) for step, name in zip(steps, frame.columns[1:], strict=True)
    )
    out = [frame[name].fill_null(float("nan")).to_numpy() for name in frame.columns[1:]]
    covariates = tuple(replace(c, values=v) for c, v in zip(rows.covariates, out[1:], strict=True))
    words = f"{rows.columns.target} by the {how}" + (
        ", other numbers by the mean, categories by the last" if covariates else ""
    )
    text = f"resampled to {name_step(step)}, {words}: {len(rows):,} rows became {len(first):,}"
    rows.notes.append(Note("resampled", len(first), text))
    return replace(rows.take(first), times=windowed[first], values=out[0], covariates=covariates)
