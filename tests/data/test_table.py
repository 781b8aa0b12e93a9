"""Tables: what is read, and one error for each thing that is wrong, with file, row and column."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from openlstm.data import Table, read_table
from openlstm.errors import ArgumentError, DataError


def csv(tmp_path: Path, text: str, name: str = "a.csv") -> Table:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read_table(tmp_path / name)


def frame(**columns: object) -> Table:
    return Table(pl.DataFrame(columns), "a.parquet")


DAYS = np.array(["2001-03-04", "2001-03-05"], "datetime64[us]")


@pytest.mark.parametrize(
    "written",
    [
        ("2001-03-04", "2001-03-05"),
        ("20010304", "20010305"),
        ("2001/03/04", "2001/03/05"),
        ("04.03.2001", "05.03.2001"),
        ("2001-03-04 00:00:00", "2001-03-05 00:00:00"),
        ("2001-03-04T00:00:00Z", "2001-03-05T00:00:00Z"),
        ("2001-03-04T00:00", "2001-03-05T00:00"),
        ("2001-03-04 00:00:00.000000", "2001-03-05 00:00:00.000000"),
        (" 2001-03-04 ", "2001-03-05"),
    ],
)
def test_dates_are_read_in_every_usual_format(tmp_path: Path, written: tuple[str, str]) -> None:
    table = csv(tmp_path, "t,y\n" + "".join(f"{w},1\n" for w in written))
    assert (table.times("t") == DAYS).all()


def test_dates_of_other_kinds_are_read(tmp_path: Path) -> None:
    for column in (
        [date(2001, 3, 4), date(2001, 3, 5)],
        [datetime(2001, 3, 4), datetime(2001, 3, 5)],
        [20010304, 20010305],
        pl.Series(DAYS).dt.replace_time_zone("Europe/Vienna").dt.offset_by("1h"),  # UTC + 1 in March
    ):
        assert (frame(t=column).times("t") == DAYS).all()
    assert (frame(t=["2001-03", "2001-04"]).times("t") == np.array(["2001-03", "2001-04"], "datetime64[us]")).all()
    assert (frame(t=[199903, 199904]).times("t") == np.array(["1999-03", "1999-04"], "datetime64[us]")).all()
    assert (frame(t=[2001, 2002]).times("t") == np.array(["2001", "2002"], "datetime64[us]")).all()
    assert (frame(t=["03/04/2001", "03/05/2001"]).times("t", "%m/%d/%Y") == DAYS).all()


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_every_usual_separator_is_found(tmp_path: Path, separator: str) -> None:
    table = csv(tmp_path, f"t{separator} y \n20010304{separator}1.5\n20010305{separator}-2e3\n")
    assert table.numbers("y").tolist() == [1.5, -2000.0]


def test_missing_values_are_nan(tmp_path: Path) -> None:
    written = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "3"]
    got = csv(tmp_path, "t,y\n" + "".join(f"1,{w}\n" for w in written)).numbers("y")
    assert np.isnan(got[:-1]).all() and got[-1] == 3
    assert np.isnan(frame(y=[1.0, None, float("nan")]).numbers("y")).tolist() == [False, True, True]


def test_blank_lines_at_the_end_are_no_rows(tmp_path: Path) -> None:
    assert csv(tmp_path, "date,y\n2001-03-04,1\n2001-03-05,\n,\n\n").frame.height == 2


def test_parquet_and_csv_give_the_same(tmp_path: Path) -> None:
    data = pl.DataFrame({"t": [date(2001, 3, 4), date(2001, 3, 5)], "y": [1.5, None]})
    data.write_csv(tmp_path / "a.csv")
    data.write_parquet(tmp_path / "a.parquet")
    a, b = read_table(tmp_path / "a.csv"), read_table(tmp_path / "a.parquet")
    assert (a.times("t") == b.times("t")).all()
    np.testing.assert_array_equal(a.numbers("y"), b.numbers("y"))


def fails(call, text: str) -> None:  # noqa: ANN001
    with pytest.raises(DataError) as e:
        call()
    assert str(e.value) == text


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


def test_an_unreadable_date_names_its_row(tmp_path: Path) -> None:
    table = csv(tmp_path, "t,y\n2001-03-04,1\n2001-02-30,1\n")
    fails(
        lambda: table.times("t"),
        "a.csv, row 2 (line 3), column 't': is not a date that can be read\n  got       '2001-02-30'\n"
        "  expected  a date such as 2001-12-29 or 20011229\n"
        "  hint      correct it, or give --time-format, for example '%d/%m/%Y'",
    )
    fails(
        lambda: frame(t=[20010304, 20011304]).times("t"),
        "a.parquet, row 2, column 't': is not a date that can be read\n  got       20011304\n"
        "  expected  a date such as 2001-12-29 or 20011229\n"
        "  hint      correct it, or give --time-format, for example '%d/%m/%Y'",
    )
    assert "row 1 (line 2)" in str(pytest.raises(DataError, csv(tmp_path, "t,y\n,1\n20010304,1\n").times, "t").value)


@pytest.mark.parametrize(
    ("written", "formats"),
    [
        (["01/01/2001", "03/04/2001", "12/12/2001"], "'%d/%m/%Y' or '%m/%d/%Y'"),
        (["03-04-2001 05:00", "03-04-2001 06:00"], "'%d-%m-%Y %H:%M' or '%m-%d-%Y %H:%M'"),
        (["200101", "200102"], "'%Y%m' or '%y%m%d' or '%d%m%y'"),
    ],
)
def test_what_the_whole_column_leaves_open_is_refused(written: list[str], formats: str) -> None:
    with pytest.raises(DataError) as e:
        frame(t=written).times("t")
    at = next(k for k, text in enumerate(written) if text != "01/01/2001")  # the first that differs
    assert str(e.value) == (
        f"a.parquet, row {at + 1}, column 't': is a date that can be read in more than one way\n  got       {written[at]!r}\n"
        "  expected  dates such as 2001-12-29 or 20011229\n"
        f"  hint      say how they are written: --time-format {formats}"
    )
    for told in formats.replace("'", "").split(" or "):
        assert len(frame(t=written).times("t", told)) == len(written)


@pytest.mark.parametrize(
    ("written", "formats"),
    [
        (["31.12.99", "01.01.00"], "'%d.%m.%y'"),
        (["01-01-20", "01-01-21"], "'%y-%m-%d' or '%d-%m-%y' or '%m-%d-%y'"),
        (["12/31/99", "01/01/00"], "'%m/%d/%y'"),
        (["31.12.99 23:00", "01.01.00 00:00"], "'%d.%m.%y %H:%M'"),
        (["991231", "000101"], "'%y%m%d'"),
        (["311299", "010100"], "'%d%m%y'"),
    ],
)
def test_years_of_two_digits_are_refused_until_the_format_is_told(written: list[str], formats: str) -> None:
    with pytest.raises(DataError) as e:
        frame(t=written).times("t")
    assert "is a date whose year has two digits\n" in str(e.value)
    assert str(e.value).endswith(f"say how they are written: --time-format {formats}")
    told = frame(t=written).times("t", formats.split("'")[1])
    assert ((told >= np.datetime64("1999-12-31")) & (told < np.datetime64("2022"))).all()


@pytest.mark.parametrize("order", ["%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y %H:%M"])
def test_a_day_above_twelve_anywhere_settles_the_order(order: str) -> None:
    days = [date(2001, 3, k) for k in range(1, 32)]
    read = frame(t=[d.strftime(order) for d in days]).times("t")
    assert (read == np.array(days, "datetime64[us]")).all()
    with pytest.raises(DataError, match="more than one way"):
        frame(t=[d.strftime(order) for d in days[:12]]).times("t")


@pytest.mark.parametrize("written", ["0099-12-31", "201-03-04", "1.3.201", "99"])
def test_a_year_that_is_mistyped_is_no_date(written: str) -> None:
    with pytest.raises(DataError, match="row 2, column 't': is not a date that can be read"):
        frame(t=["2001-03-04", written, "2001-03-05"]).times("t")


def test_a_time_format_without_a_year_is_refused() -> None:
    table = frame(t=["01/02", "01/03"])
    for told in ("%m/%d", "%H:%M", "", "%", "abc", "%Q"):
        with pytest.raises(ArgumentError) as e:
            table.times("t", told)
        assert str(e.value) == (
            f"a.parquet, column 't': the format of the dates has no year\n  got       --time-format {told!r}\n"
            "  expected  a format with %Y, or %y for two digits\n"
            "  hint      write the year into the table, since no date is complete without it"
        )
    fails(
        lambda: table.times("t", "%Y-%m-%d"),
        "a.parquet, row 1, column 't': does not fit the format of the dates\n  got       '01/02'\n  expected  %Y-%m-%d\n"
        "  hint      correct it, or give --time-format, for example '%d/%m/%Y'",
    )
    with pytest.raises(ArgumentError, match=r"^--time-format '%Y-%m-%d %H': cannot be read\n  got       Invalid format"):
        frame(t=["2001-01-02 05"]).times("t", "%Y-%m-%d %H")
    with pytest.raises(ArgumentError, match="the name of a time zone cannot be read"):
        frame(t=["2001-01-02 CET"]).times("t", "%Y-%m-%d %Z")
    with pytest.raises(DataError, match="row 2, column 't': is not a date that can be read"):  # %Y is no year of two digits
        frame(t=["2001-12-31", "99-12-31"]).times("t", "%Y-%m-%d")


def test_formats_beyond_the_usual_ones_are_read_when_given() -> None:
    for written, told, day in [
        ("1234567890", "%s", "2009-02-13T23:31:30"),
        ("2001-W05-1", "%G-W%V-%u", "2001-01-29"),
        ("2001-032", "%Y-%j", "2001-02-01"),
        ("Feb 2001", "%b %Y", "2001-02-01"),
        ("2001-02-03T04:05:06+0200", "%Y-%m-%dT%H:%M:%S%z", "2001-02-03T02:05:06"),
    ]:
        assert frame(t=[written]).times("t", told).tolist() == [np.datetime64(day, "us").item()]


def test_local_times_are_not_mixed_with_utc(tmp_path: Path) -> None:
    table = csv(tmp_path, "t,y\n2001-03-04T00:00:00Z,1\n2001-03-04T01:00:00,1\n2001-03-04T02:00:00Z,1\n")
    fails(
        lambda: table.times("t"),
        "a.csv, row 2 (line 3), column 't': is a local time, and others are not\n  got       '2001-03-04T01:00:00'\n"
        "  expected  a time zone in every row, as in row 1 (line 2): 2001-03-04T00:00:00Z, or in none\n"
        "  hint      write all of them in UTC",
    )
    table = frame(t=["2001-03-04T00:00:00Z", "2001-03-04T01:00:00+02:00"])
    fails(
        lambda: table.times("t"),
        "a.parquet, row 2, column 't': is not a time in UTC\n  got       '2001-03-04T01:00:00+02:00'\n"
        "  expected  times in UTC, or without a time zone\n"
        "  hint      write all times in UTC, or give a --time-format with %z, for example '%Y-%m-%dT%H:%M:%S%z'",
    )
    assert len(frame(t=["2001-03-04T00:00:00Z", "2001-03-04T01:00:00 +00:00"]).times("t")) == 2


@pytest.mark.parametrize("header", ["t,y,y", "t,y, y", "y,t,y,", '"y","t",y'])
def test_two_columns_of_one_name_are_refused(tmp_path: Path, header: str) -> None:
    columns = [k + 1 for k, name in enumerate(header.split(",")) if name.strip(' "') == "y"]
    fails(
        lambda: csv(tmp_path, f"{header}\n20010304,1,2\n"),
        f"a.csv: several columns are called 'y'\n  got       columns {columns[0]} and {columns[1]}\n"
        "  expected  a name for each column\n  hint      rename one of them in the first line",
    )


def test_columns_without_a_name_are_left_alone(tmp_path: Path) -> None:
    assert csv(tmp_path, "t,y,,\n20010304,1,,\n").numbers("y").tolist() == [1]


def test_a_row_is_found_by_its_line(tmp_path: Path) -> None:
    text = '\n\nt,y,note\n20010304,1,"two\nlines"\n20010305,x,\n'
    with pytest.raises(DataError) as e:
        csv(tmp_path, text).numbers("y")
    line = int(str(e.value).split("(line ")[1].split(")")[0])
    assert text.splitlines()[line - 1] == "20010305,x,"


def test_a_number_that_is_too_large_names_its_row(tmp_path: Path) -> None:
    assert csv(tmp_path, "t,y\n1,1e100\n2,-1e100\n3,1e-300\n").numbers("y").tolist() == [1e100, -1e100, 1e-300]
    fails(
        lambda: csv(tmp_path, "t,y\n1,1\n2,-1.1e100\n").numbers("y"),
        "a.csv, row 2 (line 3), column 'y': is too large to compute with\n  got       '-1.1e100'\n"
        "  expected  at most 1e+100 in size\n  hint      take another unit",
    )


def test_a_long_cell_is_cut_in_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError) as e:
        csv(tmp_path, f"t,y\n1,{'x' * 5000}\n").numbers("y")
    assert len(str(e.value)) < 400 and "... (5002 characters)" in str(e.value)


def test_a_panic_of_polars_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no Exception, so that nobody catches it by chance."""
    panic = pl.exceptions.PanicException
    assert not issubclass(panic, Exception)

    def fail(*_: object, **__: object) -> None:
        raise panic("assertion failed: range.end <= self.size\nin a crate")

    monkeypatch.setattr(pl, "read_parquet", fail)
    (tmp_path / "a.parquet").write_bytes(b"")
    fails(
        lambda: read_table(tmp_path / "a.parquet"),
        "a.parquet: cannot be read\n  got       assertion failed: range.end <= self.size\n"
        "  expected  a CSV file in UTF-8 or a Parquet file\n  hint      open it in an editor and look at this place",
    )


def test_text_among_the_numbers_names_its_row(tmp_path: Path) -> None:
    table = csv(tmp_path, "t,y\n20010304,1\n20010305,2o\n")
    fails(
        lambda: table.numbers("y"),
        "a.csv, row 2 (line 3), column 'y': is not a finite number\n  got       '2o'\n"
        "  expected  a number, or nothing where it is missing\n  hint      correct this cell",
    )
    with pytest.raises(DataError, match=r"row 1, column 'y': is not a finite number\n  got       inf"):
        frame(y=[float("inf")]).numbers("y")


def test_columns_of_the_wrong_kind_are_refused() -> None:
    table = frame(t=[1.5], y=[date(2001, 3, 4)])
    fails(
        lambda: table.times("t"),
        "a.parquet, column 't': is not a column of dates\n  got       Float64\n"
        "  expected  dates, texts or integers YYYYMMDD\n  hint      choose another column",
    )
    fails(
        lambda: table.numbers("y"),
        "a.parquet, column 'y': is not a column of numbers\n  got       Date\n  expected  numbers\n"
        "  hint      choose another column",
    )


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    fails(
        lambda: read_table(tmp_path / "no.csv"),
        "no.csv: there is no such file\n  got       nothing\n  expected  a CSV or Parquet file\n  hint      check the path",
    )
    for path, got in ((tmp_path, "a folder"), ("/dev/null", "a device or a pipe")):
        with pytest.raises(DataError, match=f": is not a file\n  got       {got}\n"):
            read_table(path)
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    fails(
        lambda: read_table(tmp_path / "a.xlsx"),
        "a.xlsx: is not a table that can be read\n  got       a file ending in '.xlsx'\n"
        "  expected  .csv, .tsv, .txt or .parquet\n  hint      convert it to CSV or Parquet",
    )
    fails(
        lambda: csv(tmp_path, "t,y\n"),
        "a.csv: holds no rows\n  got       columns t, y\n  expected  a header and at least one row\n"
        "  hint      check that the export was complete",
    )
    for name, content in {"b.parquet": b"junk", "c.csv": b"", "d.csv": b"a,b\n\xff\xfe,1\n"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(
            DataError, match=f"{name}: cannot be read\n  got       .+\n  expected  a CSV file in UTF-8 or a Parquet file\n"
        ):
            read_table(tmp_path / name)
