"""Tables from CSV and Parquet files, read by polars; every complaint names the file, the row and the column."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openlstm._errors import DataError, message, missing_extra

if TYPE_CHECKING:
    import polars as pl

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
"""The texts that stand for a missing value in a CSV file."""

DATE_FORMATS = (
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
    "%Y/%m/%d",
    "%Y/%m/%d %H:%M:%S",
    "%d.%m.%Y",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
)
"""The formats of dates that are tried, beside YYYYMMDD, YYYY-MM and YYYY; only those that cannot be misread."""


@dataclass(frozen=True)
class Table:
    """A table and the name of the file it came from."""

    frame: pl.DataFrame
    name: str
    is_text: bool = False  # a CSV file, whose columns are still text

    def row(self, index: int) -> str:
        """How a reader finds a row: counted from 1 after the header, and the line in a text file.

        >>> import polars as pl
        >>> Table(pl.DataFrame({"a": [1]}), "a.csv", is_text=True).row(0)
        'row 1 (line 2)'
        """
        return f"row {index + 1} (line {index + 2})" if self.is_text else f"row {index + 1}"

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
        raise DataError(message(self.name, f"there is no column {name!r}", repr(name), f"one of {', '.join(columns)}", hint))

    def numbers(self, name: str) -> np.ndarray:
        """A column as float64, NaN where missing.

        Raises:
            DataError: for a text that is not a number, or an infinite one; names the row.
        """
        import polars as pl

        column = self.column(name)
        if not (
            column.dtype.is_numeric() or column.dtype == pl.String or column.dtype == pl.Boolean or column.dtype == pl.Null
        ):
            raise DataError(
                message(
                    f"{self.name}, column {name!r}",
                    "is not a column of numbers",
                    str(column.dtype),
                    "numbers",
                    "choose another column",
                )
            )
        text = column.str.strip_chars() if column.dtype == pl.String else column
        numbers = text.cast(pl.Float64, strict=False)
        wrong = (numbers.is_null() & text.is_not_null()) | numbers.is_infinite().fill_null(False)
        if wrong.any():
            at = int(wrong.arg_max() or 0)
            raise self.error(at, name, "is not a finite number", column[at], "a number, or nothing where it is missing")
        return numbers.fill_null(float("nan")).to_numpy().astype(np.float64)

    def times(self, name: str, time_format: str | None = None) -> np.ndarray:
        """A column as datetime64[us], without time zone (a zone is converted to UTC).

        Dates, timestamps, ISO texts, day.month.year, integers YYYYMMDD, YYYY-MM and years are read. A text that can be read
        in two ways, as 03/04/2001, needs `time_format`.

        Args:
            time_format: as of strftime, for example "%d/%m/%Y".

        Raises:
            DataError: for a missing or an unreadable date; names the row.
        """
        import polars as pl

        column = self.column(name)
        if column.dtype == pl.Datetime and column.dtype.time_zone:  # type: ignore[attr-defined]
            column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        if column.dtype in (pl.Date, pl.Datetime):
            parsed = column.cast(pl.Datetime("us"))
        elif column.dtype == pl.String or column.dtype.is_integer():
            parsed = _parse(column.cast(pl.String).str.strip_chars(), time_format)
        else:
            raise DataError(
                message(
                    f"{self.name}, column {name!r}",
                    "is not a column of dates",
                    str(column.dtype),
                    "dates, texts or integers YYYYMMDD",
                    "choose another column",
                )
            )
        if parsed.null_count():
            at = int(parsed.is_null().arg_max() or 0)
            raise self.error(
                at,
                name,
                "is not a date that can be read",
                column[at],
                time_format or "a date such as 2001-12-29 or 20011229",
                "correct it, or give --time-format, for example '%d/%m/%Y'",
            )
        return parsed.to_numpy().astype("datetime64[us]")

    def error(self, index: int, column: str, what: str, got: Any, expected: str, hint: str | None = None) -> DataError:
        """The error for one cell of the table."""
        return DataError(
            message(
                f"{self.name}, {self.row(index)}, column {column!r}", what, repr(got), expected, hint or "correct this cell"
            )
        )


def read_table(path: str | Path) -> Table:
    """Read a CSV file (header in the first line, UTF-8; `,`, `;` or tab between the columns) or a Parquet file.

    Raises:
        DataError: if the file is missing, empty, or of another kind.
        MissingExtraError: without polars.
    """
    try:
        import polars as pl
    except ImportError:
        raise missing_extra("read_table", "polars", "data") from None
    path = Path(path)
    kind = path.suffix.lower()
    if not path.is_file():
        raise DataError(
            message(
                path.name,
                "there is no such file",
                "nothing" if not path.exists() else "a folder",
                "a CSV or Parquet file",
                "check the path",
            )
        )
    if kind not in (".csv", ".tsv", ".txt", ".parquet", ".pq"):
        raise DataError(
            message(
                path.name,
                "is not a table that can be read",
                f"a file ending in {kind!r}",
                ".csv, .tsv, .txt or .parquet",
                "convert it to CSV or Parquet",
            )
        )
    try:
        if kind in (".parquet", ".pq"):
            table = Table(pl.read_parquet(path), path.name)
        else:
            frame = pl.read_csv(path, infer_schema=False, separator=_separator(path), null_values=list(MISSING))
            frame = _without_blank_end(frame)
            table = Table(frame.rename({c: c.strip() for c in frame.columns}), path.name, is_text=True)
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as e:
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise DataError(
            message(
                path.name,
                "cannot be read",
                reason,
                "a CSV file in UTF-8 or a Parquet file",
                "open it in an editor and look at this place",
            )
        ) from None
    if not table.frame.height:
        raise DataError(
            message(
                path.name,
                "holds no rows",
                f"columns {', '.join(table.frame.columns)}",
                "a header and at least one row",
                "check that the export was complete",
            )
        )
    return table


def _without_blank_end(frame: Any) -> Any:
    """Without the lines at the end in which nothing stands, which editors and spreadsheets leave behind."""
    last = frame.height
    while last and all(value is None for value in frame.row(last - 1)):
        last -= 1
    return frame.head(last)


def _separator(path: Path) -> str:
    with open(path, encoding="utf-8-sig") as file:
        header = file.readline()
    return max(",;\t", key=header.count)  # the first of them where there is only one column


def _parse(text: pl.Series, time_format: str | None) -> pl.Series:
    """Texts as datetimes in the one format that fits most of them, null where it does not fit."""
    import polars as pl

    if time_format is not None:
        return _read_as(text, time_format)
    known = text.drop_nulls()
    for digits, pattern in ((8, "%Y%m%d"), (6, "%Y%m"), (4, "%Y")):
        if len(known) and known.str.contains(rf"^\d{{{digits}}}$").all():
            return _read_as(text, pattern)
    if len(known) and known.str.contains(r"^\d{4}-\d{2}$").all():
        return _read_as(text, "%Y-%m")
    text = text.str.replace(r"(Z|[+-]00:?00)$", "")  # UTC said in words; other zones are not guessed
    best = pl.Series(text.name, [None] * len(text), pl.Datetime("us"))
    for pattern in DATE_FORMATS:
        parsed = _read_as(text, pattern)
        if parsed.null_count() < best.null_count():
            best = parsed
    return best


def _read_as(text: pl.Series, pattern: str) -> pl.Series:

    if "%d" not in pattern and "%D" not in pattern and "%F" not in pattern and "%j" not in pattern:  # polars wants a whole date
        missing = "" if "%m" in pattern or "%b" in pattern or "%B" in pattern else "-01"
        text, pattern = text + missing + "-01", pattern + ("-%m" if missing else "") + "-%d"
    return text.str.to_datetime(pattern, strict=False, time_unit="us", exact=True)
