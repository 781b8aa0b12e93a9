"""Which column of a table is what, and how it is written: as told, and found where that leaves no doubt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from openlstm.data.dates import holds_dates
from openlstm.data.files import Table, short
from openlstm.data.numbers import holds_numbers
from openlstm.errors import ArgumentError, DataError
from openlstm.model_file import Series, Step, plain

AGGREGATES = ("mean", "sum", "last", "first", "min", "max", "median", "count")

OURS = r"forecast|(lower|upper)_\d+|quantile_.*"
"""The names of our columns in an output, beside which the ids and the time stand."""


@dataclass(frozen=True)
class Columns:
    """Which column is what.

    time: `ds` if None and there, else the only column that reads as dates.
    target: `y` if None and there, else the only column of numbers that is left.
    ids: the columns that name the series; `unique_id` if none is given and it is there.
    future, past, static: covariates known ahead, known up to now, and of one value for each series.
    wide: whether every other column is a series of its own.
    """

    time: str | None = None
    target: str | None = None
    ids: tuple[str, ...] = ()
    future: tuple[str, ...] = ()
    past: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    wide: bool = False


@dataclass(frozen=True)
class Format:
    """How a table is written, where it is not found by itself, and what is made of it.

    time_format: as of strftime.
    zone: the time zone of local times, or the one to tell times in that are known in UTC.
    decimal: "." or ",".
    every, aggregate: resample to this interval, as "15m", "1h", "1d", "1w", "1mo", "1q", "1y", "1b" (business days), the target
        by mean, sum, last, first, min, max, median or count.
    """

    time_format: str | None = None
    zone: str | None = None
    encoding: str | None = None
    delimiter: str | None = None
    decimal: str | None = None
    every: str | None = None
    aggregate: str = "mean"

    def __post_init__(self) -> None:
        """Refuse an aggregate that is none."""
        if self.aggregate not in AGGREGATES:
            got, expected = repr(self.aggregate), ", ".join(AGGREGATES)
            raise ArgumentError.of("aggregate", "is no way to aggregate", got, expected, "correct --aggregate")


class Terms(NamedTuple):
    """On what terms a model reads a table; `data.read_panel` takes them."""

    columns: Columns
    form: Format
    step: Step
    categories: dict[str, tuple[str, ...]]


def terms(series: Series, options: Mapping[str, str | None] | None = None) -> Terms:
    """The terms of a model: those of its training, but for what is told anew.

    Args:
        options: the fields of `Format`, and `time` and `target` for columns of other names.
    """
    roles = {role: tuple(f.name for f in series.of(role)) for role in ("future", "past", "static")}
    own = plain(series.form)
    wide = own.pop("wide")
    given = {name: value for name, value in (options or {}).items() if value is not None}
    named = {name: given.pop(name, known) for name, known in (("time", series.time), ("target", series.target))}
    columns = Columns(named["time"], None if wide else named["target"], () if wide else series.ids, **roles, wide=wide)
    categories = {f.name: f.categories for f in series.features if f.categories is not None}
    return Terms(columns, Format(**{**own, **given}), series.step, categories)


def choose(table: Table, columns: Columns, form: Format) -> Columns:
    """The columns with what was not named: time, target, ids.

    Raises:
        DataError: for a column that is not there, one named for two things, or one that cannot be found without a name.
        ArgumentError: for a wide table with ids, covariates of one series, or a name among those of the output.
    """
    names = set(table.frame.columns)
    if columns.wide and (columns.ids or columns.static or columns.past):
        got = "--wide with " + ", ".join(
            o for o, given in (("--series", columns.ids), ("--static", columns.static), ("--past", columns.past)) if given
        )
        expected, hint = "a table with a row for each time and series", "leave out --wide, or bring the table into long form"
        raise ArgumentError.of(table.name, "holds a series in each column, which leaves no room for these", got, expected, hint)
    if not columns.wide and not columns.ids and "unique_id" in names - set(_told(columns)):
        columns = replace(columns, ids=("unique_id",))
    for name in _told(columns):
        if name != columns.target or not columns.wide:
            table.column(name)
    _refuse_two_roles(table, columns)
    if columns.time is None:
        columns = replace(columns, time="ds" if "ds" in names - set(_told(columns)) else _find_time(table, columns, form))
    if columns.target is None:
        target = "value" if columns.wide else "y" if "y" in names - set(_told(columns)) else _find_target(table, columns, form)
        columns = replace(columns, target=target)
    for name in (*columns.ids, columns.time):
        if re.fullmatch(OURS, str(name)):
            hint = "rename it in the table"
            raise table.wrong(str(name), "is called as a column of the forecast", repr(name), "another name", hint)
    if columns.ids and columns.time in columns.ids:
        _refuse_two_roles(table, columns)
    return columns


def unread(table: Table, columns: Columns) -> list[str]:
    """The columns of a table that have no part."""
    return [] if columns.wide else [c for c in table.frame.columns if c not in _told(columns)]


def _told(columns: Columns) -> list[str]:
    """Every column that has a part."""
    some = [columns.time, columns.target, *columns.ids, *columns.future, *columns.past, *columns.static]
    return [name for name in some if name is not None]


def _refuse_two_roles(table: Table, columns: Columns) -> None:
    roles = {
        "the column of dates": (columns.time,),
        "the column of numbers": (columns.target,),
        "a name of the series": columns.ids,
        "a covariate known ahead": columns.future,
        "a covariate of the past": columns.past,
        "a static covariate": columns.static,
    }
    told = [(name, role) for role, given in roles.items() for name in given if name is not None]
    for k, (name, role) in enumerate(told):
        if (other := dict(told[:k]).get(name)) is not None:
            hint = "name the column of what was measured as the target" if "numbers" in role else "name each column once"
            what = f"is {other} and {role}" if other != role else f"is {role} twice"
            raise table.wrong(name, what, f"{name!r} twice", "two columns", hint)


def _find_time(table: Table, columns: Columns, form: Format) -> str:
    if table.header and all(re.fullmatch(r"[\d.:,/ T+-]+", name) for name in table.frame.columns):
        got, hint = short(", ".join(table.frame.columns)), "write the names of the columns into the first line"
        raise DataError.of(table.name, "has no header", got, "the names of the columns in the first line", hint)
    left = [name for name in table.frame.columns if name not in _told(columns)]
    kinds = {name: holds_dates(table.frame[name], form.time_format) for name in left}
    found = [n for n in left if kinds[n] == "dates"] or [n for n in left if kinds[n] == "digits"]
    if len(found) == 1:
        return found[0]
    if not found:
        got, hint = short(", ".join(left)) or "no other column", "name it: --time NAME"
        raise DataError.of(table.name, "has no column that reads as dates", got, "a column of dates", hint)
    what, expected = "has several columns that read as dates", "one of them as the time"
    likely = next((name for name in found if re.search("date|time|year|day|month", name.lower())), found[0])
    raise DataError.of(table.name, what, short(", ".join(found)), expected, f"name it: --time {_word(likely)}")


def _find_target(table: Table, columns: Columns, form: Format) -> str:
    left = [name for name in table.frame.columns if name not in _told(columns)]
    found = [name for name in left if holds_numbers(table.frame[name], form.decimal)]
    if len(found) == 1:
        return found[0]
    if not found:
        got, hint = short(", ".join(left)) or "no other column", "name it: --target NAME"
        raise DataError.of(table.name, "has no column of numbers to forecast", got, "a column of numbers", hint)
    hint = f"name it: --target {_word(found[0])}; or --wide if each column is a series"
    got, expected = short(", ".join(found)), "one of them as the target"
    raise DataError.of(table.name, "has several columns of numbers", got, expected, hint)


def _word(name: str) -> str:
    """A name as it is typed in a command line."""
    return name if re.fullmatch(r"[\w.-]+", name) else f"'{name}'"
