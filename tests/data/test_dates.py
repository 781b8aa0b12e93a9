"""Dates as programs and people write them: settled by the whole column, zones kept, and one error for each that is none."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest

from openlstm.data.dates import holds_dates, read_times
from openlstm.data.files import Table
from openlstm.errors import ArgumentError, DataError


def column(cells: Any, **options: Any) -> Table:
    return Table(pl.DataFrame({"t": cells}), "a.parquet", kind="Parquet", **options)


def times(cells: Any, *told: Any) -> np.ndarray:
    return read_times(column(cells), "t", *told).values


def fails(call: Callable[[], object], text: str) -> None:
    with pytest.raises(DataError) as e:
        call()
    assert str(e.value) == text


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
        ("2001-03-04", "2001-03-05 00:00"),  # midnight is left out by some
        ("2001-03-04 00:00", "2001-03-05T00:00:00"),
        ("4 Mar 2001", "5 March 2001"),
        ("Mar 4, 2001", "March 5, 2001"),
        ("04-Mar-2001", "05-Mar-2001"),
        ("Mar-4-2001", "Mar-5-2001"),
        ("04MAR2001", "05MAR2001"),
        ("4. March 2001", "5. March 2001"),
        ("2001-03-04 12:00 AM", "2001-03-05 12:00 AM"),
        ("2001030400", "2001030500"),
        ("200103040000", "200103050000"),
        ("20010304000000", "20010305000000"),
        ("983664000", "983750400"),
        ("983664000000", "983750400000"),
        ("983664000000000", "983750400000000"),
        ("983664000000000000", "983750400000000000"),
        ("2001-03-04T02:00:00+02:00", "2001-03-05T01:00:00+0100"),
        ("2001-03-03 19:00:00.000 -05:00", "2001-03-05 00:00:00 UTC"),
        ("2001-03-04 05:30:00+05:30", "2001-03-05 00:00:00+00"),
        ("2001-W09-7", "2001-W10-1"),
    ],
)
def test_dates_are_read_in_every_usual_format(written: tuple[str, str]) -> None:
    assert (times(written) == DAYS).all()
    assert holds_dates(pl.Series(written)) == ("digits" if written[0].isdigit() else "dates")


@pytest.mark.parametrize(
    ("cells", "first"),
    [
        ([date(2001, 3, 4), date(2001, 3, 5)], "2001-03-04"),
        ([datetime(2001, 3, 4), datetime(2001, 3, 5)], "2001-03-04"),
        ([20010304, 20010305], "2001-03-04"),
        (["2001-03", "2001-04"], "2001-03-01"),
        (["2001/03", "2001/04"], "2001-03-01"),
        (["03/2001", "04/2001"], "2001-03-01"),
        ([199903, 199904], "1999-03-01"),
        ([2001, 2002], "2001-01-01"),
        ([2001.0, 2002.0], "2001-01-01"),
        (["2001.0", "2002.0"], "2001-01-01"),
        (["Mar 2001", "April 2001"], "2001-03-01"),
        (["2001 Mar", "2001 Apr"], "2001-03-01"),
        (["2001M03", "2001M4"], "2001-03-01"),
        (["1990Q1", "1990Q2"], "1990-01-01"),
        (["1990-Q4", "1991-Q1"], "1990-10-01"),
        (["Q3 1990", "Q4/1990"], "1990-07-01"),
        (["2015-W01", "2015-W02"], "2014-12-29"),
        (["2015W53", "2016W01"], "2015-12-28"),
        ([1600000000, 1600003600], "2020-09-13T12:26:40"),
        ([1600000000123], "2020-09-13T12:26:40.123"),
        (pl.Series(["2001-03-04"]).cast(pl.Categorical), "2001-03-04"),
    ],
)
def test_dates_of_other_kinds_are_read(cells: Any, first: str) -> None:
    assert times(cells)[0] == np.datetime64(first, "us")
    assert holds_dates(pl.Series(cells))


def test_zones_are_kept_and_told() -> None:
    local = pl.Series([datetime(2001, 7, 1)]).dt.replace_time_zone("Europe/Berlin")
    noon = np.datetime64("2001-06-30T22:00", "us")
    for cells, told, zone in (
        (local, None, "Europe/Berlin"),
        (local, "America/New_York", "America/New_York"),
        (["2001-07-01T00:00:00+02:00"], None, "UTC"),
        (["2001-07-01T00:00:00+02:00"], "Europe/Berlin", "Europe/Berlin"),
        ([993938400], None, "UTC"),
    ):
        read = read_times(column(cells), "t", None, told)
        assert (read.values == noon).all() and read.zone == zone
    assert read_times(column(["2001-07-01"]), "t", None, "Europe/Berlin").zone is None  # it is only told where it is UTC
    with pytest.raises(ArgumentError) as e:
        read_times(column(["2001-07-01"]), "t", None, "Berlin")
    assert str(e.value) == (
        "zone: there is no such time zone\n  got       'Berlin'\n"
        "  expected  a name such as Europe/Berlin, America/New_York or UTC\n  hint      correct --zone"
    )


def test_counts_since_1970_are_noted() -> None:
    table = column([1600000000, 1600003600])
    read_times(table, "t")
    assert [n.text for n in table.notes] == ["t was read as seconds since 1970, in UTC"]


def test_an_unreadable_date_names_its_row() -> None:
    for cells, got in (
        (["2001-03-04", "2001-02-30"], "'2001-02-30'"),
        ([20010304, 20011304], "20011304"),
        (["2001", None], None),
    ):
        fails(
            lambda cells=cells: times(cells),
            f"a.parquet, row 2, column 't': is not a date that can be read\n  got       {got}\n"
            "  expected  a date such as 2001-12-29 or 20011229\n"
            "  hint      correct it, or give --time-format, for example '%d/%m/%Y'",
        )
    with pytest.raises(DataError, match="row 4, "):  # the first row that holds it, and not the first of those that differ
        times(["2001-03-04", "2001-03-04", "2001-03-05", "x", "x"])


@pytest.mark.parametrize(
    ("written", "formats"),
    [
        (["01/01/2001", "03/04/2001", "12/12/2001"], "'%d/%m/%Y' or '%m/%d/%Y'"),
        (["03-04-2001 05:00", "03-04-2001 06:00"], "'%d-%m-%Y %H:%M' or '%m-%d-%Y %H:%M'"),
        (["200101", "200102"], "'%Y%m' or '%y%m%d' or '%d%m%y'"),
    ],
)
def test_what_the_whole_column_leaves_open_is_refused(written: list[str], formats: str) -> None:
    at = next(k for k, text in enumerate(written) if text != "01/01/2001")  # the first that differs
    fails(
        lambda: times(written),
        f"a.parquet, row {at + 1}, column 't': is a date that can be read in more than one way\n  got       {written[at]!r}\n"
        "  expected  dates such as 2001-12-29 or 20011229\n"
        f"  hint      say how they are written: --time-format {formats}",
    )
    for told in formats.replace("'", "").split(" or "):
        assert len(times(written, told)) == len(written)


@pytest.mark.parametrize(
    ("written", "formats"),
    [
        (["31.12.99", "01.01.00"], "'%d.%m.%y'"),
        (["01-01-20", "01-01-21"], "'%y-%m-%d' or '%d-%m-%y' or '%m-%d-%y'"),
        (["12/31/99", "01/01/00"], "'%m/%d/%y'"),
        (["31.12.99 23:00", "01.01.00 00:00"], "'%d.%m.%y %H:%M'"),
        (["991231", "000101"], "'%y%m%d'"),
        (["311299", "010100"], "'%d%m%y'"),
        (["Dec-99", "Jan-00"], "'%B-%y'"),
    ],
)
def test_years_of_two_digits_are_refused_until_the_format_is_told(written: list[str], formats: str) -> None:
    with pytest.raises(DataError) as e:
        times(written)
    assert "is a date whose year has two digits\n" in str(e.value)
    assert str(e.value).endswith(f"say how they are written: --time-format {formats}")
    told = times(written, formats.split("'")[1])
    assert ((told >= np.datetime64("1999-12-01")) & (told < np.datetime64("2022"))).all()


@pytest.mark.parametrize("order", ["%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y %H:%M", "%m/%d/%Y %I:%M %p"])
def test_a_day_above_twelve_anywhere_settles_the_order(order: str) -> None:
    days = [date(2001, 3, k) for k in range(1, 32)]
    assert (times([d.strftime(order) for d in days]) == np.array(days, "datetime64[us]")).all()
    with pytest.raises(DataError, match="more than one way"):
        times([d.strftime(order) for d in days[:12]])


@pytest.mark.parametrize(
    "written", ["0099-12-31", "201-03-04", "1.3.201", "99", "2001-W54-1", "1990Q5", "12:30", "2001-03-04T25:00"]
)
def test_what_is_mistyped_is_no_date(written: str) -> None:
    with pytest.raises(DataError, match="row 2, column 't': is not a date that can be read"):
        times(["2001-03-04", written, "2001-03-05"])


def test_a_time_format_without_a_year_is_refused() -> None:
    table = column(["01/02", "01/03"])
    for told in ("%m/%d", "%H:%M", "", "%", "abc", "%Q"):
        with pytest.raises(ArgumentError) as e:
            read_times(table, "t", told)
        assert str(e.value) == (
            f"a.parquet, column 't': the format of the dates has no year\n  got       --time-format {told!r}\n"
            "  expected  a format with %Y, or %y for two digits\n"
            "  hint      write the year into the table, since no date is complete without it"
        )
    fails(
        lambda: read_times(table, "t", "%Y-%m-%d"),
        "a.parquet, row 1, column 't': does not fit the format of the dates\n  got       '01/02'\n  expected  %Y-%m-%d\n"
        "  hint      correct it, or give --time-format, for example '%d/%m/%Y'",
    )
    with pytest.raises(ArgumentError, match=r"^--time-format '%Y-%m-%d %I': cannot be read\n  got       Invalid format"):
        times(["2001-01-02 05"], "%Y-%m-%d %I")
    with pytest.raises(ArgumentError, match="the name of a time zone cannot be read"):
        times(["2001-01-02 CET"], "%Y-%m-%d %Z")
    with pytest.raises(DataError, match="row 2, column 't': is not a date that can be read"):  # %Y is no year of two digits
        times(["2001-12-31", "99-12-31"], "%Y-%m-%d")


def test_formats_beyond_the_usual_ones_are_read_when_given() -> None:
    for written, told, day in [
        ("1234567890", "%s", "2009-02-13T23:31:30"),
        ("2001-W05-1", "%G-W%V-%u", "2001-01-29"),
        ("2001-032", "%Y-%j", "2001-02-01"),
        ("Feb 2001", "%b %Y", "2001-02-01"),
        ("2001-01-02 05", "%Y-%m-%d %H", "2001-01-02T05:00"),
        ("2001-02-03T04:05:06+0200", "%Y-%m-%dT%H:%M:%S%z", "2001-02-03T02:05:06"),
    ]:
        read = read_times(column([written]), "t", told)
        assert read.values.tolist() == [np.datetime64(day, "us").item()] and read.zone == ("UTC" if "%z" in told else None)


def test_local_times_are_not_mixed_with_utc() -> None:
    cells = ["2001-03-04T00:00:00Z", "2001-03-04T01:00:00", "2001-03-04T02:00:00+01:00"]
    fails(
        lambda: times(cells),
        "a.parquet, row 2, column 't': is a local time, and others are not\n  got       '2001-03-04T01:00:00'\n"
        "  expected  a time zone in every row, as in row 1: 2001-03-04T00:00:00Z, or in none\n"
        "  hint      write all of them in UTC",
    )


def test_columns_of_the_wrong_kind_are_refused() -> None:
    fails(
        lambda: times([1.5]),
        "a.parquet, column 't': is not a column of dates\n  got       Float64\n"
        "  expected  dates, texts or integers YYYYMMDD\n  hint      choose another column",
    )


@pytest.mark.parametrize(
    "cells", [[1.5, 2.5], ["a", "b"], ["1.5", "2"], [1, 2], ["store 1"], [None], [True], [12345, 12346], ["0"]]
)
def test_what_is_no_date_is_not_taken_for_one(cells: list[Any]) -> None:
    assert holds_dates(pl.Series(cells)) is None


def test_a_few_wrong_cells_make_no_column_of_texts() -> None:
    assert holds_dates(pl.Series([f"2001-01-{k:02}" for k in range(1, 20)] + ["2001-02-30"])) == "dates"
    assert holds_dates(pl.Series(["01/02/2001", "02/03/2001"])) == "dates"  # whatever they mean
