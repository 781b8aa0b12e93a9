"""A column as times, and its time zone: dates as people and programs write them, settled by the whole column."""

from __future__ import annotations

import re
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from openlstm.data.files import Table, reading
from openlstm.data.numbers import MOST, known_text
from openlstm.data.panel import Note
from openlstm.errors import ArgumentError, OpenLSTMError

if TYPE_CHECKING:
    import polars as pl

CLOCKS = ("", " %H:%M", " %H:%M:%S%.f", " %I:%M %p", " %I:%M:%S %p")
DATES = (
    ("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y")
    + ("%d %B %Y", "%B %d, %Y", "%d-%B-%Y", "%B-%d-%Y", "%d. %B %Y", "%d%B%Y", "%Y-%B-%d")  # %B reads Jan and January
    + ("%y-%m-%d", "%y/%m/%d", "%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d-%m-%y", "%m-%d-%y", "%d-%B-%y", "%d %B %y")
)
MONTHS = ("%Y-%m", "%Y/%m", "%m/%Y", "%m.%Y", "%m-%Y", "%B %Y", "%B-%Y", "%Y %B", "%Y-%B", "%YM%m", "%B-%y", "%B %y")
FORMATS = (*MONTHS, *map("".join, product(DATES, CLOCKS)))
"""The formats of dates that are tried. A column has to fit one of them alone, and none with a year of two digits."""

ISO = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f")

DIGITS = {
    14: ("%Y%m%d%H%M%S",),
    12: ("%Y%m%d%H%M",),
    10: ("%Y%m%d%H",),
    8: ("%Y%m%d",),
    6: ("%Y%m", "%y%m%d", "%d%m%y", "%m%d%y"),
    4: ("%Y",),
}
"""The formats of dates that are all digits, by how many there are; the same holds of them."""

EPOCHS = {"seconds": (1e8, 4e9, 10**6), "milliseconds": (1e11, 4e12, 10**3), "microseconds": (1e14, 4e15, 1)}
"""Whole numbers that count from 1970 on: the least, the largest, microseconds in one. Nanoseconds: as these, times 1000."""

OFFSET = r"(?:(?:\d *|:\d\d(?:\.\d+)?) *(?:Z|UTC|GMT)|:\d\d(?:\.\d+)? *[+-]\d\d(?::?\d\d)?)$"
"""How a text ends that says how far its clock is from UTC."""

QUARTER, QUARTER_FIRST, WEEK = r"^(\d{4})[- ]?[Qq]([1-4])$", r"^[Qq]([1-4])[- /]?(\d{4})$", r"^(\d{4})-?W(\d\d)(?:-?([1-7]))?$"

EXPECTED = "a date such as 2001-12-29 or 20011229"
UNREADABLE = "correct it, or give --time-format, for example '%d/%m/%Y'"


class Times(NamedTuple):
    """A column of times, datetime64[us] [N]: in UTC where `zone` names a time zone, else as clocks show them."""

    values: np.ndarray
    zone: str | None = None


def read_times(table: Table, name: str, time_format: str | None = None, zone: str | None = None) -> Times:
    """A column as times.

    Dates, timestamps, ISO texts, day.month.year, names of months, quarters, ISO weeks, integers YYYYMMDD, YYYYMM and years,
    seconds and milliseconds since 1970 are read, and 31/12/2001 or 12/31/2001 where the column holds a day above 12. What the
    whole column leaves open needs `time_format`, and so do years of two digits. Years begin at 1000.

    Args:
        time_format: as of strftime, for example "%d/%m/%Y".
        zone: the zone to tell times in that are known in UTC; local times stay as they are.

    Raises:
        DataError: for a missing or an unreadable date, or one that can be read in two ways; names the row.
        ArgumentError: for a format that is none, or that has no year, or a zone that is none.
    """
    import polars as pl

    if zone is not None:
        check_zone(zone)
    column = table.column(name)
    own = getattr(column.dtype, "time_zone", None)
    if own:
        parsed = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None).cast(pl.Datetime("us"))
        own = own if not re.match(r"UTC|Etc/|[+-]", own) else "UTC"
    elif column.dtype in (pl.Date, pl.Datetime):
        parsed = column.cast(pl.Datetime("us"))
    elif column.dtype in (pl.String, pl.Categorical, pl.Enum) or column.dtype.is_integer() or _whole(column):
        whole = column if column.dtype in (pl.String, pl.Categorical, pl.Enum) else column.cast(pl.Int64)
        cells = pl.DataFrame({name: known_text(whole)})
        once = cells.unique(maintain_order=True)  # a date of many series is read once
        read, own = _Reader(table, name, cells[name]).read(once[name], time_format)
        parsed = read
        if len(once) < len(cells):
            once = once.with_columns(read.alias("\0read"))
            parsed = cells.join(once, on=name, how="left", maintain_order="left", nulls_equal=True)["\0read"]
    else:
        got, expected = str(column.dtype), "dates, texts or integers YYYYMMDD"
        raise table.wrong(name, "is not a column of dates", got, expected, "choose another column")
    if parsed.null_count():
        at = int(parsed.is_null().arg_max() or 0)
        raise table.error(at, name, "is not a date that can be read", column[at], time_format or EXPECTED, UNREADABLE)
    return Times(parsed.to_numpy().astype("datetime64[us]"), (zone or own) if own else None)


def check_zone(zone: str) -> None:
    """Refuse a time zone that is none."""
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(zone)
    except (ValueError, OSError, KeyError):
        expected, hint = "a name such as Europe/Berlin, America/New_York or UTC", "correct --zone"
        raise ArgumentError.of("zone", "there is no such time zone", repr(zone), expected, hint) from None


def holds_dates(column: pl.Series, time_format: str | None = None) -> str | None:
    """Whether a column reads as dates: "dates" by type or text, "digits" where they may be numbers too, None if not."""
    import polars as pl

    if column.dtype in (pl.Date, pl.Datetime):
        return "dates"
    some = column.drop_nulls().head(100).alias("")
    text = column.dtype in (pl.String, pl.Categorical, pl.Enum)
    if not len(some) or not (text or column.dtype.is_integer() or _whole(some)):
        return None
    if text and not (numbers := some.cast(pl.String).cast(pl.Float64, strict=False)).null_count() and not _whole(numbers):
        return None
    digits = not text or some.cast(pl.String).str.contains(r"^\s*\d+(\.0*)?\s*$").all()
    cells = known_text(some if text else some.cast(pl.Int64)).unique(maintain_order=True)
    try:
        read = _Reader(Table(cells.to_frame(), ""), "", cells).read(cells, time_format)[0]
    except OpenLSTMError:  # such as dates that can be read in two ways
        return None if digits else "dates"
    if read.null_count() > (0 if digits else len(read) * (1 - MOST)):
        return None
    return "digits" if digits else "dates"


def _whole(column: pl.Series) -> bool:
    """Whether a column of floats holds whole numbers alone."""
    return column.dtype.is_float() and column.count() > 0 and bool((column == column.round()).fill_null(True).all())


class _Reader:
    """Reads texts of one column; an error names the first row of the column in which the text stands."""

    def __init__(self, table: Table, name: str, cells: pl.Series) -> None:
        self.table, self.name, self.cells = table, name, cells

    def read(self, text: pl.Series, time_format: str | None) -> tuple[pl.Series, str | None]:
        """The texts as datetimes, null where they cannot be read, and "UTC" if that is what they are in."""
        if time_format is not None:
            return self.as_told(text, time_format), "UTC" if "z" in _codes(time_format) else None
        for plain in ISO:  # nothing else is written like these, and most columns are
            if _read_as(text.head(5), plain).count() and (read := _read_as(text, plain)).null_count() == text.null_count():
                return read, None
        text = text.str.replace(r"^(\d+)\.0*$", "$1")  # years as floats
        known = text.drop_nulls()
        if len(known) and known.str.contains(r"^\d{9,19}$").all():
            if (read := _since_1970(text)) is not None:
                return self.epoch(read, text)
        bare, offset = self.without_offset(text.str.replace(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d)", "$1 $2"))
        if bare.str.contains(r"^\d{4}-\d\d-\d\d \d\d:\d\d").any():  # some leave out seconds, or midnight, where they are zero
            bare = bare.str.replace(r"^(\d{4}-\d\d-\d\d)$", "$1 00:00").str.replace(r"^(.{10} \d\d:\d\d)$", "$1:00")
        read = self.guess(_named_parts(bare))
        return (read, None) if offset is None else (read - offset, "UTC")

    def epoch(self, read: tuple[pl.Series, str], text: pl.Series) -> tuple[pl.Series, str | None]:
        self.table.notes.append(Note("time", len(self.cells), f"{self.name} was read as {read[1]} since 1970, in UTC"))
        return read[0], "UTC"

    def without_offset(self, text: pl.Series) -> tuple[pl.Series, pl.Series | None]:
        """Texts without their distance to UTC, and that distance; times with and without one are not mixed."""
        import polars as pl

        zoned = text.str.contains(OFFSET)
        if not zoned.any():
            return text, None
        if not zoned.all():
            at, other = self.at(text, int((~zoned).fill_null(False).arg_max() or 0)), self.at(text, int(zoned.arg_max() or 0))
            expected = f"a time zone in every row, as in {self.table.row(other)}: {self.cells[other]}, or in none"
            raise self.table.error(
                at, self.name, "is a local time, and others are not", self.cells[at], expected, "write all of them in UTC"
            )
        parts = text.str.extract_groups(r"([+-])(\d\d):?(\d\d)?$").struct
        minutes = parts.field("2").cast(pl.Int64) * 60 + parts.field("3").cast(pl.Int64).fill_null(0)
        minutes = pl.select(pl.when(parts.field("1") == "-").then(-minutes).otherwise(minutes).fill_null(0)).to_series()
        if not minutes.is_between(-14 * 60, 14 * 60).all():
            minutes = minutes.set(~minutes.is_between(-14 * 60, 14 * 60), None)  # no date that can be read
        bare = text.str.replace(r" *(?:Z|UTC|GMT|[+-]\d\d(?::?\d\d)?)$", "")
        return bare, (minutes * 60_000_000).cast(pl.Duration("us"))

    def guess(self, text: pl.Series) -> pl.Series:
        """Texts as datetimes in the one format that fits the whole column, null where a cell does not fit.

        Raises:
            DataError: if several formats fit and differ, or only one with years of two digits.
        """
        import polars as pl

        known = text.drop_nulls()
        formats = next((f for n, f in DIGITS.items() if len(known) and known.str.contains(rf"^\d{{{n}}}$").all()), FORMATS)
        if len(known) and known.str.contains(r"^\d{4}-W").all():
            formats = ("%G-W%V-%u",)
        formats = [f for f in formats if _read_as(known.head(20), f).count()]
        readings = {f: _read_as(text, f) for f in formats}
        fewest = min((r.null_count() for r in readings.values()), default=0)
        readings = {f: r for f, r in readings.items() if r.null_count() == fewest}
        if not readings:
            return pl.Series(text.name, [None] * len(text), pl.Datetime("us"))
        best, *others = readings.values()
        differ = [r for r in others if not r.equals(best)]
        two = all("%y" in f for f in readings)
        if differ or two:
            places = (differ[0] != best).fill_null(False) if differ else best.is_not_null()
            at = self.at(text, int(places.arg_max() or 0))
            raise self.table.error(
                at,
                self.name,
                "is a date whose year has two digits" if two else "is a date that can be read in more than one way",
                self.cells[at],
                "dates such as 2001-12-29 or 20011229",
                "say how they are written: --time-format " + " or ".join(f"'{f}'" for f in readings),
            )
        return best

    def as_told(self, text: pl.Series, time_format: str) -> pl.Series:
        """Texts as datetimes in a given format, null where a cell does not fit."""
        who = f"{self.table.name}, column {self.name!r}"
        codes = _codes(time_format)
        if not codes & set("YyGFDcvsx+"):
            raise ArgumentError.of(
                who,
                "the format of the dates has no year",
                f"--time-format {time_format!r}",
                "a format with %Y, or %y for two digits",
                "write the year into the table, since no date is complete without it",
            )
        if "Z" in codes:
            raise ArgumentError.of(
                who,
                "the name of a time zone cannot be read",
                f"--time-format {time_format!r}",
                "%z, a distance to UTC as +0200",
                "write all times in UTC",
            )
        with reading(f"--time-format {time_format!r}", "as in strftime", "for example '%d/%m/%Y %H:%M'", ArgumentError):
            parsed = _read_as(text, time_format)
        if not parsed.count():
            at = self.at(text, int(text.is_not_null().arg_max() or 0))
            what = "does not fit the format of the dates"
            raise self.table.error(at, self.name, what, self.cells[at], time_format, UNREADABLE)
        return parsed

    def at(self, once: pl.Series, place: int) -> int:
        """The first row of the column that holds a text, which stands at `place` among those that differ."""
        seen = self.cells.unique(maintain_order=True)
        return int(self.cells.eq_missing(seen[place]).arg_max() or 0)


def _since_1970(text: pl.Series) -> tuple[pl.Series, str] | None:
    """Whole numbers as a count of time since 1970, where all of them can be, and are no dates written in digits."""
    import polars as pl

    digits = text.drop_nulls().str.len_chars()
    if digits.n_unique() == 1 and digits[0] in (10, 12, 14):
        if not _read_as(text.drop_nulls(), DIGITS[int(digits[0])][0]).null_count():
            return None
    count = text.cast(pl.Int64, strict=False)
    for word, (least, largest, size) in {**EPOCHS, "nanoseconds": (1e17, 4e18, 0)}.items():
        if count.null_count() == text.null_count() and count.is_between(int(least), int(largest)).all():
            return (count * size if size else count // 1000).cast(pl.Datetime("us")), word
    return None


def _named_parts(text: pl.Series) -> pl.Series:
    """Quarters as their first month, ISO weeks as their day."""
    known = text.drop_nulls()
    if not len(known):
        return text
    if known.str.contains(QUARTER_FIRST).any():
        text = text.str.replace(QUARTER_FIRST, "${2}Q$1")
    if text.str.contains(QUARTER).any():
        for quarter, month in (("1", "01"), ("2", "04"), ("3", "07"), ("4", "10")):
            text = text.str.replace(QUARTER.replace("[1-4]", quarter), f"$1-{month}")
    if known.str.contains(WEEK).any():
        text = text.str.replace(WEEK, "$1-W$2-$3").str.replace(r"-$", "-1")
    return text


def _read_as(text: pl.Series, pattern: str) -> pl.Series:
    """Texts as datetimes without a zone (one that is read is converted to UTC), null where a text does not fit."""
    codes = _codes(pattern)
    if not codes & set("deujDFcvsx+"):  # no day, and polars wants a whole date
        missing = "" if codes & set("mbBh") else "-01"
        text, pattern = text + missing + "-01", pattern + ("-%m" if missing else "") + "-%d"
    if "H" in codes and not codes & set("MTRs+c"):  # nor does it take an hour alone
        text, pattern = text + ":00", pattern + ":%M"
    parsed = text.str.to_datetime(pattern, strict=False, time_unit="us", exact=True)
    if parsed.dtype.time_zone:  # type: ignore[attr-defined]
        parsed = parsed.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return parsed.set(parsed.dt.year() < 1000, None)  # %Y takes years of one to four digits


def _codes(pattern: str) -> set[str]:
    """The letters after each % of a format."""
    return set(re.findall(r"%[-_0]?(.)", pattern))
