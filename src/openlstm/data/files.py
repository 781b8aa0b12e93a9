"""Any file or frame as a polars frame, of texts where the file holds no types; an error names file, row and column."""

from __future__ import annotations

import csv
import difflib
import io
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openlstm.data.contents import KINDS, as_utf8, parquet_files, short, unpacked
from openlstm.data.panel import Note
from openlstm.errors import ArgumentError, DataError, OpenLSTMError, message, missing_extra

if TYPE_CHECKING:
    import polars as pl

DELIMITERS = ",;\t| "


@dataclass(frozen=True)
class Table:
    """A table, the name of the file or frame it came from, and how it was read."""

    frame: pl.DataFrame
    name: str
    header: int = 0  # the line of the header in a text file, whose columns are still text; 0 where there are no lines
    kind: str = "CSV"
    encoding: str | None = None
    delimiter: str | None = None
    notes: list[Note] = field(default_factory=list)

    def row(self, index: int) -> str:
        """How a reader finds a row: counted from 1 after the header, and the line in a text file, or the index of a frame.

        >>> import polars as pl
        >>> Table(pl.DataFrame({"a": ["one", "two\\nlines", "three"]}), "a.csv", header=1).row(2)
        'row 3 (line 5)'
        """
        if self.kind == "frame":
            return f"row {index + 1} (index {index})"
        if not self.header:
            return f"row {index + 1}"
        texts = self.frame.head(index).select(find_polars().selectors.string())
        inside = sum(column.str.count_matches("\n", literal=True).sum() for column in texts)
        return f"row {index + 1} (line {self.header + index + 1 + inside})"

    def column(self, name: str) -> pl.Series:
        """One column.

        Raises:
            DataError: if there is none of that name; near names are suggested.
        """
        try:
            return self.frame.get_column(name)
        except find_polars().exceptions.ColumnNotFoundError:
            columns = self.frame.columns
        near = difflib.get_close_matches(name.lower(), [c.lower() for c in columns], 3, 0.6)
        near = [c for c in columns if c.lower() in near]
        hint = f"did you mean {' or '.join(repr(c) for c in near)}?" if near else "name one of the columns above"
        raise DataError.of(self.name, f"there is no column {name!r}", repr(name), f"one of {short(', '.join(columns))}", hint)

    def error(self, index: int, column: str, what: str, got: Any, expected: str, hint: str = "correct this cell") -> DataError:
        """The error for one cell of the table."""
        return DataError.of(f"{self.name}, {self.row(index)}, column {column!r}", what, short(repr(got)), expected, hint)

    def wrong(self, column: str, what: str, got: str, expected: str, hint: str) -> DataError:
        """The error for one column of the table."""
        return DataError.of(f"{self.name}, column {column!r}", what, short(got), expected, hint)


def read_any(data: Any, encoding: str | None = None, delimiter: str | None = None, name: str = "the frame") -> Table:
    """A file by its path, or a frame of pandas, polars or pyarrow, as a table.

    Args:
        name: what errors call a frame.

    Raises:
        DataError: if the file is missing, empty, malformed, of another kind, or has two columns of one name.
        ArgumentError: for an encoding or a delimiter that is none, or anything but a path or a frame.
        MissingExtraError: without the package that reads it.
    """
    if isinstance(data, Table):
        return data
    table = _read_file(Path(data), encoding, delimiter) if isinstance(data, (str, os.PathLike)) else _read_frame(data, name)
    refuse_empty(table)
    return table


def refuse_empty(table: Table) -> None:
    """Refuse a table without rows."""
    if not table.frame.height:
        what, got = "holds no rows", f"columns {short(', '.join(table.frame.columns))}"
        expected, hint = "a header and at least one row", "check that the export was complete"
        raise DataError.of(table.name, what, got, expected, hint)


def native_frame(columns: dict[str, np.ndarray], like: Any, *, zone: str | None = None, utc: bool = False) -> Any:
    """Columns as a frame of the kind of `like`: pandas, polars or pyarrow; polars where `like` is a path.

    Args:
        columns: arrays of one length; datetime64 become datetimes.
        zone: the time zone of the datetimes, and whether they are counted in `utc` or as clocks show them in it.

    >>> native_frame({"y": np.array([1.0, 2.0])}, "a.csv").to_dict(as_series=False)
    {'y': [1.0, 2.0]}
    """
    pl = find_polars()
    frame = pl.DataFrame({name: v.tolist() if v.dtype == object else v for name, v in columns.items()})
    times = pl.selectors.datetime().dt
    if zone is not None and utc:
        frame = frame.with_columns(times.replace_time_zone("UTC").dt.convert_time_zone(zone))
    elif zone is not None:  # a midnight that the clocks leave out becomes the hour at which the day begins
        later = times.offset_by("1h").dt
        told = {"ambiguous": "earliest", "non_existent": "null"}
        frame = frame.with_columns(times.replace_time_zone(zone, **told).fill_null(later.replace_time_zone(zone, **told)))
    module = type(like).__module__.split(".")[0]
    if module == "pandas":
        import pandas

        return pandas.DataFrame({s.name: _to_pandas(s) for s in frame})
    return frame.to_arrow() if module == "pyarrow" else frame


def _to_pandas(series: pl.Series) -> Any:
    """A column for pandas, without pyarrow."""
    import pandas

    if series.dtype == find_polars().String:
        return pandas.Series(series.to_list())
    values = pandas.Series(series.to_numpy())  # a zone is lost here, and what is left is UTC
    zone = getattr(series.dtype, "time_zone", None)
    return values.dt.tz_localize("UTC").dt.tz_convert(zone) if zone else values


def find_polars() -> Any:
    """The module polars.

    Raises:
        MissingExtraError: without it.
    """
    try:
        import polars
    except ImportError:
        raise missing_extra("reading a table", "polars", "data") from None
    return polars


@contextmanager
def reading(who: str, expected: str, hint: str, kind: type[DataError | ArgumentError] = DataError) -> Iterator[None]:
    """Give whatever a library raises on a damaged file our form. A panic of polars is not an Exception."""
    pl = find_polars()
    try:
        yield
    except OpenLSTMError:
        raise
    except (Exception, pl.exceptions.PanicException) as e:
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        reason = re.sub(r"Id\(\d+\)", "Id", reason)  # of a thread of polars, another one each time
        raise kind(message(who, "cannot be read", short(reason), expected, hint)) from None


def reading_parquet(who: str) -> AbstractContextManager[None]:
    """`reading`, of the files of one Parquet table."""
    return reading(who, "whole Parquet files of the same columns", "look whether all belong to one table")


def _read_frame(data: Any, who: str) -> Table:
    """A frame through narwhals. An index of pandas that holds something becomes a column."""
    pl = find_polars()
    try:
        import narwhals
    except ImportError:
        raise missing_extra("reading a frame", "narwhals", "data") from None
    module = type(data).__module__.split(".")[0]
    if module == "pandas":
        data = data.to_frame(data.name if data.name is not None else "value") if type(data).__name__ == "Series" else data
        if data.index.names != [None] or type(data.index).__name__ in ("DatetimeIndex", "PeriodIndex"):
            data = data.reset_index(names="time" if data.index.names == [None] else None)
        data = data.set_axis([str(c) for c in data.columns], axis=1)
    if module in ("pandas", "pyarrow"):  # others hold no name twice
        _refuse_twice(list(data.columns if module == "pandas" else data.column_names), who, "rename one of them")
    try:
        frame = narwhals.from_native(data)
    except TypeError:
        got, expected = type(data).__name__, "a path, or a frame of pandas, polars or pyarrow"
        raise ArgumentError.of("data", "is nothing that can be read", got, expected, "pass a path or a frame") from None
    if isinstance(frame, narwhals.LazyFrame):
        frame = frame.collect()
    columns: list[pl.Series] = []
    plain = module == "pandas" and find_spec("pyarrow") is None
    for name in frame.columns:
        column = frame[name]
        kind = str(column.to_native().dtype) if module == "pandas" else ""
        if kind.startswith("period") or kind == "object" and len({type(v) for v in column.drop_nulls().to_list()}) > 1:
            cells = column.to_native()  # periods, or several types: their texts are read
            texts = [str(v) if known else None for v, known in zip(cells, cells.notna(), strict=True)]
            columns.append(pl.Series(name, texts, pl.String))
        else:
            with reading(f"{who}, column {name!r}", "numbers, texts or dates, of one type", "convert this column"):
                columns.append((_from_pandas(column) if plain else column.to_polars()).alias(name))
    return Table(pl.DataFrame(columns), who, kind="frame")


def _from_pandas(column: Any) -> pl.Series:
    """A column of pandas without pyarrow, through which polars would go."""
    pl, native = find_polars(), column.to_native()
    if str(native.dtype).startswith("datetime64"):
        if (zone := str(getattr(native.dtype, "tz", ""))) == "":
            return pl.Series(native.to_numpy())
        times = pl.Series(native.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()).dt.replace_time_zone("UTC")
        return times if re.match(r"UTC|[+-]", zone) else times.dt.convert_time_zone(zone)
    if column.dtype.is_numeric():
        return pl.Series(native.to_numpy(dtype=float, na_value=np.nan))
    cells = pl.Series(native.astype(object).where(native.notna(), None).tolist(), strict=True)
    return cells.cast(pl.Categorical) if str(native.dtype) == "category" else cells


def _read_file(path: Path, encoding: str | None, delimiter: str | None) -> Table:
    pl = find_polars()
    name, suffixes = path.name, [s.lower() for s in path.suffixes]
    packed = suffixes.pop() if suffixes and suffixes[-1] in (".gz", ".zst") else None
    kind = KINDS.get(suffixes[-1] if suffixes else "")
    if files := [] if path.is_file() else parquet_files(path):
        with reading_parquet(name):
            return Table(pl.read_parquet(files, hive_partitioning=False), name, kind="Parquet")
    if not path.is_file():
        what = "is not a file" if path.exists() else "there is no such file"
        got = "nothing" if not path.exists() else "a folder" if path.is_dir() else "a device or a pipe"
        raise DataError.of(name, what, got, "a CSV, Parquet, Arrow or Excel file", "check the path")
    if kind is None:
        what, got = "is not a table that can be read", f"a file ending in {path.suffix!r}"
        expected = ".csv, .tsv, .txt, .parquet, .arrow, .feather or .xlsx, or one of them and .gz or .zst"
        raise DataError.of(name, what, got, expected, "convert it to CSV or Parquet")
    expected, hint = f"a whole file of the kind {kind}", "look whether it was written to its end, or export it again"
    with reading(name, expected, hint):
        content = unpacked(path, packed)
    if kind == "CSV":
        return _read_csv(name, content, encoding, delimiter)
    sheets: list[str] = []
    with reading(name, expected, hint):
        if kind == "Parquet":
            frame = pl.read_parquet(content)
        elif kind == "Arrow":
            frame = (pl.read_ipc if content.startswith(b"ARROW1") else pl.read_ipc_stream)(io.BytesIO(content))
        else:
            try:
                import fastexcel
            except ImportError:
                raise missing_extra(f"reading {name}", "fastexcel", "excel") from None
            sheets = fastexcel.read_excel(content).sheet_names
            frame = pl.read_excel(io.BytesIO(content), engine="calamine")
    if kind != "Excel":
        return Table(frame, name, kind=kind)
    note = Note("sheet", len(sheets), f"the first sheet of {len(sheets)} was read: {sheets[0]}")
    return Table(_without_blank_end(frame), name, header=1, kind=kind, notes=[note] if len(sheets) > 1 else [])


def _read_csv(name: str, content: bytes, encoding: str | None, delimiter: str | None) -> Table:
    pl = find_polars()
    notes: list[Note] = []
    content, encoding = as_utf8(name, content, encoding, notes)
    if content.count(b"\r") > content.count(b"\r\n"):  # lines that end as they did on old machines
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if delimiter is not None and (len(delimiter.encode()) != 1 or delimiter in '"\n\r'):
        raise ArgumentError.of(name, "is no delimiter", repr(delimiter), "one character, such as ';'", "correct --delimiter")
    lines = content[: max(100_000, content.find(b"\n", 100_000))].decode(errors="ignore").split("\n")
    head = [(k, line) for k, line in enumerate(lines, 1) if line.strip()]
    if not head:
        what, got = "is empty", f"{len(content)} bytes in which nothing stands"
        raise DataError.of(name, what, got, "a header and at least one row", "check that the export was complete")
    if told := re.fullmatch(r'"?sep=(.)"?', head[0][1].strip()):  # what Excel writes
        delimiter, head = delimiter or told[1], head[1:] or head
    line, first = head[0]
    found = delimiter or _find_delimiter([text for _, text in head[:100]])
    if found == " " and b"  " in content and b'"' not in content:  # columns set apart by runs of spaces
        content = re.sub(rb"(?m)^ | $", b"", re.sub(rb" +", b" ", content))
    options: dict[str, Any] = {"infer_schema": False, "separator": found}
    names = [n.strip() for n in next(csv.reader([first], delimiter=found), [])]
    _refuse_twice([n for n in names if n], name, "rename one of them in the first line", names)
    for _ in range(line - 1):
        content = content[content.index(b"\n") + 1 :]
    with reading(name, "a whole file of the kind CSV", "open it in an editor and look at this place"):
        try:
            frame = pl.read_csv(content, **options)
        except pl.exceptions.PolarsError:
            _refuse_ragged(name, content, found, line)
            raise
    if content.count(found.encode()) != (frame.width - 1) * (frame.height + 1):  # or delimiters stand inside of quotes
        _refuse_ragged(name, content, found, line)
    frame = frame.rename({c: c.strip() for c in frame.columns})
    return Table(_without_blank_end(frame), name, line, "CSV", encoding, found, notes)


def _find_delimiter(lines: list[str]) -> str:
    """The delimiter that stands equally often in all lines, outside of quotes; else the most frequent one of the header."""
    bare = [re.sub(r'"[^"]*"', "", line.strip()) for line in lines]
    steady = [d for d in DELIMITERS if bare[0].count(d) and all(b.count(d) == bare[0].count(d) for b in bare)]
    if not steady and all(len(b.split()) == len(bare[0].split()) > 1 for b in bare) and not any(d in bare[0] for d in ",;\t|"):
        return " "
    return max([d for d in steady if d != " "] or steady or DELIMITERS[:-1], key=bare[0].count)


def _refuse_ragged(name: str, content: bytes, delimiter: str, header: int) -> None:
    """Refuse a text in which a line has more or fewer fields than the header."""
    text = io.StringIO(content.decode(errors="replace"), newline="")
    rows, before = csv.reader(text, delimiter=delimiter, strict=True), 0
    width = 0
    try:
        for row in rows:
            if not width:
                width = len(row)
            elif row and len(row) != width and any(cell.strip() for cell in row):
                what = "has too many fields" if len(row) > width else "has too few fields"
                got = f"{len(row)}: {delimiter.join(row)}"
                hint = f"correct this line; a text that holds {delimiter!r} has to stand in quotes"
                raise DataError.of(f"{name}, line {header + before}", what, short(got), f"{width}, as the header has", hint)
            before = rows.line_num
    except csv.Error as e:
        who, hint = f"{name}, line {header + before}", "close the quotes, or leave them out"
        raise DataError.of(who, "is not a line of a CSV file", str(e), "fields, each in quotes or in none", hint) from None


def _refuse_twice(names: list[str], who: str, hint: str, places: list[str] | None = None) -> None:
    """Refuse two columns of one name."""
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        where = " and ".join(str(k + 1) for k, name in enumerate(places or names) if name == twice)
        what, got = f"several columns are called {short(repr(twice))}", f"columns {where}"
        raise DataError.of(who, what, got, "a name for each column", hint)


def _without_blank_end(frame: Any) -> Any:
    """Without the lines at the end in which nothing stands, which editors and spreadsheets leave behind."""
    while frame.height and all(value is None for value in frame.row(-1)):
        frame = frame.head(-1)
    return frame
