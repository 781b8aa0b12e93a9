"""Files and frames: what is read, and one error for each thing that is wrong, with file and line."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import zstandard

from openlstm.data.files import Table, native_frame, read_any
from openlstm.data.numbers import read_numbers
from openlstm.errors import ArgumentError, DataError, MissingExtraError

TEXT = "t,y\n2001-03-04,1.5\n2001-03-05,ü\n"
FRAME = pl.DataFrame({"t": [date(2001, 3, 4), date(2001, 3, 5)], "y": [1.5, None]})


def fails(call: Callable[[], object], text: str) -> None:
    with pytest.raises(DataError) as e:
        call()
    assert str(e.value) == text


def csv(tmp_path: Path, text: str | bytes, name: str = "a.csv", **options: Any) -> Table:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_any(tmp_path / name, **options)


@pytest.mark.parametrize(
    ("content", "told", "found"),
    [
        (TEXT.encode(), None, "utf-8"),
        (b"\xef\xbb\xbf" + TEXT.encode(), None, "utf-8"),
        (TEXT.encode("utf-16"), None, "utf-16"),
        (TEXT.encode("utf-16-le"), None, "utf-16-le"),
        (TEXT.encode("utf-16-be"), None, "utf-16-be"),
        (TEXT.encode("cp1252"), None, "cp1252"),
        (TEXT.encode("latin-1"), "latin-1", "latin-1"),
        (TEXT.encode("mac-roman"), "mac-roman", "mac-roman"),
        (TEXT.encode("utf-16"), "utf-16", "utf-16"),
    ],
)
def test_every_usual_encoding_is_found_or_told(tmp_path: Path, content: bytes, told: str | None, found: str) -> None:
    table = csv(tmp_path, content, encoding=told)
    assert table.frame.rows() == [("2001-03-04", "1.5"), ("2001-03-05", "ü")]
    assert table.encoding == found
    assert [n.text for n in table.notes] == (
        ["line 3 is not UTF-8; the file was read as cp1252 (--encoding names another one)"] if found == "cp1252" else []
    )


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    fails(
        lambda: csv(tmp_path, b"a,b\n1,\0\n" * 3),
        "a.csv: is not a text file\n  got       3 zero bytes in the first 24\n  expected  text\n"
        "  hint      export it again as CSV in UTF-8",
    )
    fails(
        lambda: csv(tmp_path, b"a,b\n1,\x81\n"),
        "a.csv: is written in an encoding that was not found\n  got       bytes in line 2 that are no UTF-8\n"
        "  expected  UTF-8, UTF-16 or cp1252\n  hint      name it: --encoding latin-1, for example",
    )
    fails(
        lambda: csv(tmp_path, b"a,b\n1,\xfc\n", encoding="utf-8"),
        "a.csv: is not written in this encoding\n"
        "  got       'utf-8' codec can't decode byte 0xfc in position 6: invalid start byte\n  expected  utf-8\n"
        "  hint      leave out --encoding, or name another one",
    )
    with pytest.raises(ArgumentError) as e:
        csv(tmp_path, "a\n", encoding="utf-9")
    assert str(e.value) == (
        "a.csv: there is no such encoding\n  got       'utf-9'\n"
        "  expected  an encoding such as utf-8, utf-16, cp1252, latin-1\n  hint      correct --encoding"
    )


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", " "])
@pytest.mark.parametrize("told", [True, False])
def test_every_usual_delimiter_is_found(tmp_path: Path, delimiter: str, told: bool) -> None:
    text = f"t{delimiter}y\n20010304{delimiter}1.5\n20010305{delimiter}-2e3\n"
    table = csv(tmp_path, text, delimiter=delimiter if told else None)
    assert read_numbers(table, "y").tolist() == [1.5, -2000.0] and table.delimiter == delimiter


def test_the_delimiter_is_the_steady_one(tmp_path: Path) -> None:
    assert csv(tmp_path, 't;"a, b, c"\n2001;1,5\n2002;2,25\n').frame.columns == ["t", "a, b, c"]
    assert csv(tmp_path, "day and time,y\n2001-01-01 05:00,1\n").frame.columns == ["day and time", "y"]
    assert csv(tmp_path, "  t     y\n2001   1.5\n2002  -2\n").frame.rows() == [("2001", "1.5"), ("2002", "-2")]
    assert csv(tmp_path, "sep=;\nt;y\n2001;1,5\n").frame.rows() == [("2001", "1,5")]
    assert csv(tmp_path, "y\n1\n2\n").frame.columns == ["y"]
    with pytest.raises(ArgumentError, match="is no delimiter\n  got       ';;'"):
        csv(tmp_path, "t;;y\n", delimiter=";;")


def test_names_and_cells_are_read_without_the_spaces_around_them(tmp_path: Path) -> None:
    assert read_numbers(csv(tmp_path, "t , y \n1, 5 \n"), "y").tolist() == [5]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_end_of_a_line_is_read(tmp_path: Path, end: str) -> None:
    assert csv(tmp_path, f"t,y{end}2001,1{end}2002,2{end}").frame.rows() == [("2001", "1"), ("2002", "2")]


def test_blank_lines_at_the_end_are_no_rows(tmp_path: Path) -> None:
    assert csv(tmp_path, "date,y\n2001-03-04,1\n2001-03-05,\n,\n\n").frame.height == 2


@pytest.mark.parametrize(
    ("text", "line", "what", "got"),
    [
        ("t,y\n1,2\n3,4,5\n6,7\n", 3, "has too many fields", "3: 3,4,5"),
        ("t,y\n1,2\n3\n6,7\n", 3, "has too few fields", "1: 3"),
        ('t,y\n"a\nb",2\n\n3\n', 5, "has too few fields", "1: 3"),
        ("\n\nt,y\n1,2\n1,2,3\n", 5, "has too many fields", "3: 1,2,3"),
    ],
)
def test_a_line_with_more_or_fewer_fields_is_named(tmp_path: Path, text: str, line: int, what: str, got: str) -> None:
    fails(
        lambda: csv(tmp_path, text),
        f"a.csv, line {line}: {what}\n  got       {got}\n  expected  2, as the header has\n"
        "  hint      correct this line; a text that holds ',' has to stand in quotes",
    )


def test_quotes_that_are_left_open_are_named(tmp_path: Path) -> None:
    fails(
        lambda: csv(tmp_path, 't,y\n1,2\n3,"4\n5,6\n'),
        "a.csv, line 3: is not a line of a CSV file\n  got       unexpected end of data\n"
        "  expected  fields, each in quotes or in none\n  hint      close the quotes, or leave them out",
    )


@pytest.mark.parametrize("header", ["t,y,y", "t,y, y", "y,t,y,", '"y","t",y'])
def test_two_columns_of_one_name_are_refused(tmp_path: Path, header: str) -> None:
    columns = [k + 1 for k, name in enumerate(header.split(",")) if name.strip(' "') == "y"]
    row = ",".join("1" for _ in header.split(","))
    fails(
        lambda: csv(tmp_path, f"{header}\n{row}\n"),
        f"a.csv: several columns are called 'y'\n  got       columns {columns[0]} and {columns[1]}\n"
        "  expected  a name for each column\n  hint      rename one of them in the first line",
    )


def test_columns_without_a_name_are_left_alone(tmp_path: Path) -> None:
    assert read_numbers(csv(tmp_path, "t,y,,\n20010304,1,,\n"), "y").tolist() == [1]


def test_a_row_is_found_by_its_line(tmp_path: Path) -> None:
    text = '\n\nt,y,note\n20010304,1,"two\nlines"\n20010305,x,\n'
    with pytest.raises(DataError) as e:
        read_numbers(csv(tmp_path, text), "y")
    line = int(str(e.value).split("(line ")[1].split(")")[0])
    assert text.splitlines()[line - 1] == "20010305,x,"


def test_an_unknown_column_suggests_near_names(tmp_path: Path) -> None:
    table = csv(tmp_path, "Date,co2,wind\n20010304,1,2\n")
    fails(
        lambda: table.column("date"),
        "a.csv: there is no column 'date'\n  got       'date'\n  expected  one of Date, co2, wind\n"
        "  hint      did you mean 'Date'?",
    )
    fails(
        lambda: table.column("xyz"),
        "a.csv: there is no column 'xyz'\n  got       'xyz'\n  expected  one of Date, co2, wind\n"
        "  hint      name one of the columns above",
    )


WRITERS: dict[str, Callable[[Path], Any]] = {
    "a.csv": FRAME.write_csv,
    "a.csv.gz": lambda p: p.write_bytes(gzip.compress(FRAME.write_csv().encode())),
    "a.csv.zst": lambda p: p.write_bytes(zstandard.compress(FRAME.write_csv().encode())),
    "two.csv.zst": lambda p: p.write_bytes(b"".join(map(zstandard.compress, (b"t,y\n2001-03-04,1.5\n", b"2001-03-05,\n")))),
    "a.tsv": lambda p: FRAME.write_csv(p, separator="\t"),
    "a.parquet": FRAME.write_parquet,
    "a.pq": FRAME.write_parquet,
    "a.arrow": FRAME.write_ipc,
    "a.feather": FRAME.write_ipc,
    "stream.arrow": FRAME.write_ipc_stream,
    "A.XLSX": lambda p: FRAME.write_excel(p),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same(tmp_path: Path, name: str) -> None:
    from openlstm.data.dates import read_times

    WRITERS[name](tmp_path / name)
    table = read_any(str(tmp_path / name))
    assert read_times(table, "t").values.astype("datetime64[D]").astype(str).tolist() == ["2001-03-04", "2001-03-05"]
    np.testing.assert_array_equal(read_numbers(table, "y"), [1.5, np.nan])


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in ("a.csv", "a.tsv")])
@pytest.mark.parametrize("kept", [0, 5, 0.5, -1])
def test_a_file_that_was_cut_is_refused(tmp_path: Path, name: str, kept: float) -> None:
    WRITERS[name](tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(len(whole) * kept) if isinstance(kept, float) else kept or None])
    if kept == 0:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError) as e:
        read_any(tmp_path / name)
    assert "cannot be read" in str(e.value) or "is empty" in str(e.value)


def test_an_excel_file_of_several_sheets_is_read_from_the_first(tmp_path: Path) -> None:
    import xlsxwriter

    with xlsxwriter.Workbook(tmp_path / "a.xlsx") as book:
        for sheet, value in (("sales", 5.0), ("other", 7.0)):
            FRAME.with_columns(y=pl.lit(value)).write_excel(book, sheet)
    table = read_any(tmp_path / "a.xlsx")
    assert table.frame["y"].to_list() == [5, 5] and table.row(0) == "row 1 (line 2)"
    assert [n.text for n in table.notes] == ["the first sheet of 2 was read: sales"]


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    fails(
        lambda: read_any(tmp_path / "no.csv"),
        "no.csv: there is no such file\n  got       nothing\n  expected  a CSV, Parquet, Arrow or Excel file\n"
        "  hint      check the path",
    )
    for path, got in ((tmp_path, "a folder"), ("/dev/null", "a device or a pipe")):
        with pytest.raises(DataError, match=f": is not a file\n  got       {got}\n"):
            read_any(path)
    (tmp_path / "a.docx").write_bytes(b"PK")
    fails(
        lambda: read_any(tmp_path / "a.docx"),
        "a.docx: is not a table that can be read\n  got       a file ending in '.docx'\n"
        "  expected  .csv, .tsv, .txt, .parquet, .arrow, .feather or .xlsx, or one of them and .gz or .zst\n"
        "  hint      convert it to CSV or Parquet",
    )
    fails(
        lambda: csv(tmp_path, "t,y\n"),
        "a.csv: holds no rows\n  got       columns t, y\n  expected  a header and at least one row\n"
        "  hint      check that the export was complete",
    )
    fails(
        lambda: csv(tmp_path, "\n \n"),
        "a.csv: is empty\n  got       3 bytes in which nothing stands\n  expected  a header and at least one row\n"
        "  hint      check that the export was complete",
    )
    with pytest.raises(ArgumentError) as e:
        read_any(3)
    assert str(e.value) == (
        "data: is nothing that can be read\n  got       int\n"
        "  expected  a path, or a frame of pandas, polars or pyarrow\n  hint      pass a path or a frame"
    )


def test_a_panic_of_polars_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no Exception, so that nobody catches it by chance."""
    panic = pl.exceptions.PanicException
    assert not issubclass(panic, Exception)

    def fail(*_: object, **__: object) -> None:
        raise panic("assertion failed: range.end <= self.size\nin a crate")

    monkeypatch.setattr(pl, "read_parquet", fail)
    (tmp_path / "a.parquet").write_bytes(b"")
    fails(
        lambda: read_any(tmp_path / "a.parquet"),
        "a.parquet: cannot be read\n  got       assertion failed: range.end <= self.size\n"
        "  expected  a whole file of the kind Parquet\n"
        "  hint      look whether it was written to its end, or export it again",
    )


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [
        ("polars", "a.csv", "data"),
        ("zstandard", "a.csv.zst", "data"),
        ("fastexcel", "A.XLSX", "excel"),
        ("narwhals", "", "data"),
    ],
)
def test_a_package_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, name: str, extra: str
) -> None:
    if name:
        WRITERS[name](tmp_path / name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=f"needs the package {package}") as e:
        read_any(tmp_path / name if name else FRAME)
    assert f"[{extra}]" in str(e.value)


def pandas_frame() -> pd.DataFrame:
    return pd.DataFrame({
        "t": pd.date_range("2001-01-01", periods=3, tz="Europe/Berlin"),
        "day": pd.date_range("2001-01-01", periods=3),
        "text": ["a", None, "b"],
        "level": pd.Categorical(["x", "y", "x"]),
        "float": [1.0, np.nan, 2.0],
        "count": pd.array([1, None, 2], dtype="Int64"),
        "flag": [True, False, True],
    })  # fmt: skip


@pytest.mark.parametrize("arrow", [True, False])
def test_frames_of_pandas_are_read_with_pyarrow_and_without(monkeypatch: pytest.MonkeyPatch, arrow: bool) -> None:
    if not arrow:
        monkeypatch.setattr("openlstm.data.files.find_spec", lambda name: None)
    read = read_any(pandas_frame()).frame
    assert str(read["t"].dtype) in ("Datetime(time_unit='us', time_zone='Europe/Berlin')",)
    assert read["t"].dt.convert_time_zone("UTC").dt.to_string("%d %H").to_list() == ["31 23", "01 23", "02 23"]
    assert read["day"].dt.to_string("%d").to_list() == ["01", "02", "03"]
    assert read["text"].to_list() == ["a", None, "b"] and read["level"].to_list() == ["x", "y", "x"]
    assert read["level"].dtype == pl.Categorical and read["flag"].to_list() == [True, False, True]
    for name in ("float", "count"):
        np.testing.assert_array_equal(read_numbers(Table(read, "a"), name), [1, np.nan, 2])


def test_an_index_of_pandas_that_holds_something_is_a_column() -> None:
    days = pd.date_range("2001-01-01", periods=2)
    assert read_any(pd.DataFrame({"y": [1, 2]}, index=days)).frame.columns == ["time", "y"]
    assert read_any(pd.Series([1, 2], index=days.rename("day"), name="sales")).frame.columns == ["day", "sales"]
    assert read_any(pd.DataFrame({"y": [1, 2]})).frame.columns == ["y"]
    several = pd.MultiIndex.from_product([["a"], days], names=["store", "day"])
    assert read_any(pd.DataFrame({"y": [1, 2]}, index=several)).frame.columns == ["store", "day", "y"]
    periods = read_any(pd.DataFrame({"y": [1, 2]}, index=pd.period_range("2001Q1", periods=2, freq="Q"))).frame
    assert periods["time"].to_list() == ["2001Q1", "2001Q2"]


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow"])
@pytest.mark.parametrize(("zone", "utc"), [(None, False), ("Europe/Berlin", False), ("Europe/Berlin", True)])
def test_a_frame_comes_back_in_the_kind_that_came_in(kind: str, zone: str | None, utc: bool) -> None:
    like = {"pandas": FRAME.to_pandas(), "polars": FRAME, "pyarrow": FRAME.to_arrow()}[kind]
    times = np.array(["2001-07-01T00:00", "2001-07-02T00:00"], "datetime64[us]")
    columns = {"id": np.array(["a", "b"], object), "time": times, "y": np.array([1.0, np.nan])}
    out = native_frame(columns, like, zone=zone, utc=utc)
    assert type(out) is type(like)
    back = read_any(out).frame
    assert back.columns == ["id", "time", "y"] and back["id"].to_list() == ["a", "b"]
    assert getattr(back["time"].dtype, "time_zone", None) == zone
    shown = back["time"].dt.replace_time_zone(None).to_numpy()
    assert (shown == times + np.timedelta64(2 if utc else 0, "h")).all()


def test_a_midnight_that_the_clocks_leave_out_is_the_hour_at_which_the_day_begins() -> None:
    days = np.array(["2018-11-03", "2018-11-04", "2018-11-05"], "datetime64[us]")
    out = native_frame({"t": days}, "a.csv", zone="America/Sao_Paulo")["t"]
    assert out.dt.to_string("%d %H").to_list() == ["03 00", "04 01", "05 00"]


def test_an_error_in_a_frame_names_the_row_and_its_index() -> None:
    fails(
        lambda: read_numbers(read_any(pl.DataFrame({"y": ["1", "x"]})), "y"),
        "the frame, row 2 (index 1), column 'y': is not a finite number\n  got       'x'\n"
        "  expected  a number, or nothing where it is missing\n  hint      correct this cell",
    )
    with pytest.raises(DataError, match=r"row 2 \(index 1\), column 'y': is not a finite number\n  got       'x'"):
        read_numbers(read_any(pd.DataFrame({"y": [1.5, "x", None]})), "y")
    fails(
        lambda: read_any(pd.DataFrame([[1, 2]], columns=["y", "y"])),
        "the frame: several columns are called 'y'\n  got       columns 1 and 2\n  expected  a name for each column\n"
        "  hint      rename one of them",
    )
