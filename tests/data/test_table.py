"""Tables: what is read, and one error for each thing that is wrong, with file, row and column."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from openlstm._errors import DataError
from openlstm.data import Table, read_table


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
def test_dates(tmp_path: Path, written: tuple[str, str]) -> None:
    table = csv(tmp_path, "t,y\n" + "".join(f"{w},1\n" for w in written))
    assert (table.times("t") == DAYS).all()


def test_dates_of_other_kinds(tmp_path: Path) -> None:
    for column in (
        [date(2001, 3, 4), date(2001, 3, 5)],
        [datetime(2001, 3, 4), datetime(2001, 3, 5)],
        [20010304, 20010305],
        pl.Series(DAYS).dt.replace_time_zone("Europe/Vienna").dt.offset_by("1h"),  # UTC + 1 in March
    ):
        assert (frame(t=column).times("t") == DAYS).all()
    assert (frame(t=["2001-03", "2001-04"]).times("t") == np.array(["2001-03", "2001-04"], "datetime64[us]")).all()
    assert (frame(t=[200103, 200104]).times("t") == np.array(["2001-03", "2001-04"], "datetime64[us]")).all()
    assert (frame(t=[2001, 2002]).times("t") == np.array(["2001", "2002"], "datetime64[us]")).all()
    assert (frame(t=["03/04/2001", "03/05/2001"]).times("t", "%m/%d/%Y") == DAYS).all()


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators(tmp_path: Path, separator: str) -> None:
    table = csv(tmp_path, f"t{separator} y \n20010304{separator}1.5\n20010305{separator}-2e3\n")
    assert table.numbers("y").tolist() == [1.5, -2000.0]


def test_missing_values(tmp_path: Path) -> None:
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


def test_a_date_that_can_be_read_in_two_ways_is_refused(tmp_path: Path) -> None:
    table = csv(tmp_path, "t,y\n03/04/2001,1\n")
    with pytest.raises(DataError, match="is not a date that can be read"):
        table.times("t")


def test_text_among_the_numbers_names_its_row(tmp_path: Path) -> None:
    table = csv(tmp_path, "t,y\n20010304,1\n20010305,2o\n")
    fails(
        lambda: table.numbers("y"),
        "a.csv, row 2 (line 3), column 'y': is not a finite number\n  got       '2o'\n"
        "  expected  a number, or nothing where it is missing\n  hint      correct this cell",
    )
    with pytest.raises(DataError, match=r"row 1, column 'y': is not a finite number\n  got       inf"):
        frame(y=[float("inf")]).numbers("y")


def test_columns_of_the_wrong_kind() -> None:
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


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    fails(
        lambda: read_table(tmp_path / "no.csv"),
        "no.csv: there is no such file\n  got       nothing\n  expected  a CSV or Parquet file\n  hint      check the path",
    )
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
