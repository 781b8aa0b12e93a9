"""Tables from CSV and Parquet files, read by polars; every error names the file, the row and the column."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openlstm.data.panel import LARGEST
from openlstm.errors import ArgumentError, DataError, message, missing_extra

if TYPE_CHECKING:
    import polars as pl

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
"""The texts that stand for a missing value in a CSV file."""

DATE_FORMATS = (
    "%Y-%m",
    *map(
        "".join,
        product(
            ("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y")
            + ("%y-%m-%d", "%y/%m/%d", "%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d-%m-%y", "%m-%d-%y"),
            ("", " %H:%M", " %H:%M:%S%.f", "T%H:%M", "T%H:%M:%S%.f"),
        ),
    ),
)
"""The formats of dates that are tried. A column has to fit one of them alone, and none with a year of two digits."""

DIGITS = {8: ("%Y%m%d",), 6: ("%Y%m", "%y%m%d", "%d%m%y", "%m%d%y"), 4: ("%Y",)}
"""The formats of dates that are all digits, by how many there are; the same holds of them."""

UTC, ZONE = r" *(Z|[+-]00:?00)$", r"(\d *Z|:\d\d(\.\d+)? *[+-]\d\d:?\d\d)$"
"""How a text ends that says UTC, and one that names its distance to UTC."""

UNREADABLE = "correct it, or give --time-format, for example '%d/%m/%Y'"

SHOWN = 100  # characters of a cell in an error


@dataclass(frozen=True)
class Table:
    """A table and the name of the file it came from."""

    frame: pl.DataFrame
    name: str
    header: int = 0  # the line of the header in a CSV file, whose columns are still text; 0 where there are no lines

    def row(self, index: int) -> str:
        """How a reader finds a row: counted from 1 after the header, and the line in a text file.

        >>> import polars as pl
        >>> Table(pl.DataFrame({"a": ["one", "two\\nlines", "three"]}), "a.csv", header=1).row(2)
        'row 3 (line 5)'
        """
        if not self.header:
            return f"row {index + 1}"
        inside = sum(column.str.count_matches("\n", literal=True).sum() for column in self.frame.head(index))
        return f"row {index + 1} (line {self.header + index + 1 + inside})"

    def column(self, name: str) -> pl.Series:
        """One column.

        Raises:
            DataError: if there is none of that name; near names are suggested.
        """
        columns = self.frame.columns
        if name in columns:
            return self.frame[name]
        near = difflib.get_close_matches(name.lower(), [c.lower() for c in columns], 3, 0.6)
        near = [c for c in columns if c.lower() in near]
        hint = f"did you mean {' or '.join(repr(c) for c in near)}?" if near else "name one of the columns above"
        raise DataError.of(self.name, f"there is no column {name!r}", repr(name), f"one of {_short(', '.join(columns))}", hint)

    def numbers(self, name: str) -> np.ndarray:
        """A column as float64, NaN where missing.

        Raises:
            DataError: for a text that is not a number, or a number beyond 1e100; names the row.
        """
        import polars as pl

        column = self.column(name)
        if not (
            column.dtype.is_numeric() or column.dtype == pl.String or column.dtype == pl.Boolean or column.dtype == pl.Null
        ):
            what, got = "is not a column of numbers", str(column.dtype)
            expected, hint = "numbers", "choose another column"
            raise DataError.of(f"{self.name}, column {name!r}", what, got, expected, hint)
        text = column.str.strip_chars() if column.dtype == pl.String else column
        numbers = text.cast(pl.Float64, strict=False)
        wrong = (numbers.is_null() & text.is_not_null()) | numbers.is_infinite().fill_null(False)
        if wrong.any():
            at = int(wrong.arg_max() or 0)
            raise self.error(at, name, "is not a finite number", column[at], "a number, or nothing where it is missing")
        out = numbers.fill_null(float("nan")).to_numpy().astype(np.float64)
        if (beyond := np.flatnonzero(np.abs(out) > LARGEST)).size:
            at, expected = int(beyond[0]), f"at most {LARGEST:g} in size"
            raise self.error(at, name, "is too large to compute with", column[at], expected, "take another unit")
        return out

    def times(self, name: str, time_format: str | None = None) -> np.ndarray:
        """A column as datetime64[us], without time zone (a zone is converted to UTC).

        Dates, timestamps, ISO texts, day.month.year, integers YYYYMMDD, YYYYMM and years are read, and 31/12/2001 or 12/31/2001
        where the column holds a day above 12. What the whole column leaves open needs `time_format`, and so do years of two
        digits. Years begin at 1000.

        Args:
            time_format: as of strftime, for example "%d/%m/%Y".

        Raises:
            DataError: for a missing or an unreadable date, or one that can be read in two ways; names the row.
            ArgumentError: for a format that is none, or that has no year.
        """
        import polars as pl

        column = self.column(name)
        if column.dtype == pl.Datetime and column.dtype.time_zone:  # type: ignore[attr-defined]
            column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        if column.dtype in (pl.Date, pl.Datetime):
            parsed = column.cast(pl.Datetime("us"))
        elif column.dtype == pl.String or column.dtype.is_integer():
            text = column.cast(pl.String).str.strip_chars()
            parsed = self._guess(text) if time_format is None else self._as_told(text, time_format)
        else:
            what, got = "is not a column of dates", str(column.dtype)
            expected, hint = "dates, texts or integers YYYYMMDD", "choose another column"
            raise DataError.of(f"{self.name}, column {name!r}", what, got, expected, hint)
        if parsed.null_count():
            at = int(parsed.is_null().arg_max() or 0)
            expected = time_format or "a date such as 2001-12-29 or 20011229"
            raise self.error(at, name, "is not a date that can be read", column[at], expected, UNREADABLE)
        return parsed.to_numpy().astype("datetime64[us]")

    def _guess(self, text: pl.Series) -> pl.Series:
        """Texts as datetimes in the one format that fits the whole column, null where a cell does not fit.

        Raises:
            DataError: if several formats fit and differ, or only one with years of two digits.
        """
        import polars as pl

        text = self._without_zone(text)
        known = text.drop_nulls()
        formats = next((f for n, f in DIGITS.items() if len(known) and known.str.contains(rf"^\d{{{n}}}$").all()), DATE_FORMATS)
        formats = [f for f in formats if _read_as(known.head(20), f).count()]
        readings = {f: _read_as(text, f) for f in formats}
        fewest = min((r.null_count() for r in readings.values()), default=0)
        readings = {f: r for f, r in readings.items() if r.null_count() == fewest}
        if not readings:
            return pl.Series(text.name, [None] * len(text), pl.Datetime("us"))
        best, *others = readings.values()
        differ = [r for r in others if not r.equals(best)]
        short = all("%y" in f for f in readings)
        if differ or short:
            places = (differ[0] != best).fill_null(False) if differ else best.is_not_null()
            raise self.error(
                int(places.arg_max() or 0),
                text.name,
                "is a date whose year has two digits" if short else "is a date that can be read in more than one way",
                text[int(places.arg_max() or 0)],
                "dates such as 2001-12-29 or 20011229",
                "say how they are written: --time-format " + " or ".join(f"'{f}'" for f in readings),
            )
        return best

    def _without_zone(self, text: pl.Series) -> pl.Series:
        """Texts that all say UTC, without these words; other zones need a format, and times without one are not mixed in."""
        zoned = text.str.contains(ZONE)
        if not zoned.any():
            return text
        if not zoned.all():
            at, other = int((~zoned).fill_null(False).arg_max() or 0), int(zoned.arg_max() or 0)
            raise self.error(
                at,
                text.name,
                "is a local time, and others are not",
                text[at],
                f"a time zone in every row, as in {self.row(other)}: {text[other]}, or in none",
                "write all of them in UTC",
            )
        elsewhere = ~text.str.contains(UTC)
        if elsewhere.any():
            at = int(elsewhere.arg_max() or 0)
            hint = "write all times in UTC, or give a --time-format with %z, for example '%Y-%m-%dT%H:%M:%S%z'"
            raise self.error(at, text.name, "is not a time in UTC", text[at], "times in UTC, or without a time zone", hint)
        return text.str.replace(UTC, "")

    def _as_told(self, text: pl.Series, time_format: str) -> pl.Series:
        """Texts as datetimes in a given format, null where a cell does not fit."""
        who = f"{self.name}, column {text.name!r}"
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
        with _polars(f"--time-format {time_format!r}", "as in strftime", "for example '%d/%m/%Y %H:%M'", ArgumentError):
            parsed = _read_as(text, time_format)
        if not parsed.count():
            at = int(text.is_not_null().arg_max() or 0)
            raise self.error(at, text.name, "does not fit the format of the dates", text[at], time_format, UNREADABLE)
        return parsed

    def error(self, index: int, column: str, what: str, got: Any, expected: str, hint: str | None = None) -> DataError:
        """The error for one cell of the table."""
        who = f"{self.name}, {self.row(index)}, column {column!r}"
        return DataError.of(who, what, _short(repr(got)), expected, hint or "correct this cell")


def read_table(path: str | Path) -> Table:
    """Read a CSV file (header in the first line, UTF-8; `,`, `;` or tab between the columns) or a Parquet file.

    Raises:
        DataError: if the file is missing, empty, of another kind, or has two columns of one name.
        MissingExtraError: without polars.
    """
    try:
        import polars as pl
    except ImportError:
        raise missing_extra("read_table", "polars", "data") from None
    path = Path(path)
    kind = path.suffix.lower()
    if not path.is_file():
        what, got = "is not a file", "a folder" if path.is_dir() else "a device or a pipe"
        if not path.exists():
            what, got = "there is no such file", "nothing"
        raise DataError.of(path.name, what, got, "a CSV or Parquet file", "check the path")
    if kind not in (".csv", ".tsv", ".txt", ".parquet", ".pq"):
        what, got = "is not a table that can be read", f"a file ending in {kind!r}"
        expected, hint = ".csv, .tsv, .txt or .parquet", "convert it to CSV or Parquet"
        raise DataError.of(path.name, what, got, expected, hint)
    with _polars(path.name, "a CSV file in UTF-8 or a Parquet file", "open it in an editor and look at this place"):
        table = Table(pl.read_parquet(path), path.name) if kind in (".parquet", ".pq") else _read_csv(path)
    if not table.frame.height:
        what, got = "holds no rows", f"columns {_short(', '.join(table.frame.columns))}"
        expected, hint = "a header and at least one row", "check that the export was complete"
        raise DataError.of(path.name, what, got, expected, hint)
    return table


def _without_blank_end(frame: Any) -> Any:
    """Without the lines at the end in which nothing stands, which editors and spreadsheets leave behind."""
    last = frame.height
    while last and all(value is None for value in frame.row(last - 1)):
        last -= 1
    return frame.head(last)


def _read_csv(path: Path) -> Table:
    import polars as pl

    with open(path, encoding="utf-8-sig") as file:
        line, first = next(((k, text) for k, text in enumerate(file, 1) if text.strip()), (1, ""))
    separator = max(",;\t", key=first.count)  # the first of them where there is only one column
    options: dict[str, Any] = {"infer_schema": False, "separator": separator}
    header = pl.read_csv(path, has_header=False, skip_rows=line - 1, n_rows=1, **options)
    names = [(name or "").strip() for name in header.row(0)]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        places = " and ".join(str(k + 1) for k, name in enumerate(names) if name == twice)
        what, got = f"several columns are called {_short(repr(twice))}", f"columns {places}"
        expected, hint = "a name for each column", "rename one of them in the first line"
        raise DataError.of(path.name, what, got, expected, hint)
    frame = _without_blank_end(pl.read_csv(path, null_values=list(MISSING), **options))
    return Table(frame.rename({c: c.strip() for c in frame.columns}), path.name, line)


def _read_as(text: pl.Series, pattern: str) -> pl.Series:
    """Texts as datetimes without a zone (one that is read is converted to UTC), null where a text does not fit."""

    codes = _codes(pattern)
    if not codes & set("deujDFcvsx+"):  # no day, and polars wants a whole date
        missing = "" if codes & set("mbBh") else "-01"
        text, pattern = text + missing + "-01", pattern + ("-%m" if missing else "") + "-%d"
    parsed = text.str.to_datetime(pattern, strict=False, time_unit="us", exact=True)
    if parsed.dtype.time_zone:  # type: ignore[attr-defined]
        parsed = parsed.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return parsed.set(parsed.dt.year() < 1000, None)  # %Y takes years of one to four digits


def _codes(pattern: str) -> set[str]:
    """The letters after each % of a format."""
    return set(re.findall(r"%[-_0]?(.)", pattern))


@contextmanager
def _polars(who: str, expected: str, hint: str, kind: type[DataError | ArgumentError] = DataError) -> Iterator[None]:
    """Give errors of polars and of the system our form. A panic of polars is not an Exception."""
    import polars as pl

    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, UnicodeDecodeError) as e:
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise kind(message(who, "cannot be read", _short(reason), expected, hint)) from None


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"
