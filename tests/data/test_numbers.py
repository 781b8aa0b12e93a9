"""Numbers as people write them: settled by the whole column, and one error for each cell that is none."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openlstm.data.files import Table
from openlstm.data.numbers import holds_numbers, read_numbers
from openlstm.errors import ArgumentError, DataError


def column(*cells: object) -> Table:
    return Table(pl.DataFrame({"y": cells}, strict=False), "a.csv", header=1)


def fails(call: Callable[[], object], text: str) -> None:
    with pytest.raises(DataError) as e:
        call()
    assert str(e.value) == text


@pytest.mark.parametrize(
    ("written", "read", "note"),
    [
        (["1", "-2.5", "+3", "1e-3", ".5", "4."], [1, -2.5, 3, 0.001, 0.5, 4], None),
        (["1,5", "-2"], [1.5, -2], "a decimal comma"),
        (["0,123"], [0.123], "a decimal comma"),  # no thousands begin with 0
        (["1e5", "2,5e3"], [1e5, 2500], "a decimal comma"),
        (["1.234,56", "7"], [1234.56, 7], "a decimal comma and thousands separators"),
        (["1.234.567"], [1234567], "thousands separators"),
        (["1,234.56", "7"], [1234.56, 7], "thousands separators"),
        (["1,234", "1.5"], [1234, 1.5], "thousands separators"),
        (["1,234,567", "1,234"], [1234567, 1234], "thousands separators"),
        (["1 234", "1\u202f234\u00a0567"], [1234, 1234567], "thousands separators"),
        (["1'234.5", "12"], [1234.5, 12], "thousands separators"),
        (["$1,200.50", "-$3.00", "$ 2"], [1200.5, -3, 2], "thousands separators and currency signs"),
        (["3,50 €", "1.200,00 €"], [3.5, 1200], "a decimal comma and thousands separators and currency signs"),
        (["5 %", "7.5%"], [5, 7.5], "percent signs (5% is 5)"),
        (["(5.00)", "3"], [-5, 3], "parentheses (negative)"),
        (["\u22125", "3"], [-5, 3], None),
        (["true", "False", ""], [1, 0, np.nan], None),
    ],
)
def test_numbers_are_read_as_people_write_them(written: list[str], read: list[float], note: str | None) -> None:
    table = column(*written, None)
    np.testing.assert_array_equal(read_numbers(table, "y"), [*read, np.nan])
    assert [n.text for n in table.notes] == ([f"y was read with {note}"] if note else [])
    assert holds_numbers(table.frame["y"])


@given(
    st.lists(st.floats(-1e6, 1e6).map(lambda v: round(v, 2)), min_size=1, max_size=20),
    st.sampled_from([",.", ".,", " ,", "'."]),
)
def test_what_is_written_with_two_decimals_is_read_back(values: list[float], marks: str) -> None:
    swap = str.maketrans({",": marks[0], ".": marks[1]})
    texts = [f"{v:,.2f}".translate(swap) for v in values]
    assert read_numbers(column(*texts), "y").tolist() == [float(f"{v:.2f}") for v in values]


def test_a_mark_that_the_whole_column_leaves_open_is_refused() -> None:
    table = column("1", "1,234", "-5,678")
    fails(
        lambda: read_numbers(table, "y"),
        "a.csv, row 2 (line 3), column 'y': is a number that can be read in two ways\n  got       '1,234'\n"
        "  expected  1234 or 1.234, settled by another cell of the column\n"
        "  hint      say which mark stands before the decimals: --decimal , or --decimal .",
    )
    assert read_numbers(table, "y", ",").tolist() == [1, 1.234, -5.678]
    assert read_numbers(table, "y", ".").tolist() == [1, 1234, -5678]
    assert read_numbers(column("1.234", "5"), "y", ",").tolist() == [1234, 5]
    with pytest.raises(ArgumentError, match="is no decimal mark\n  got       ';'"):
        read_numbers(table, "y", ";")


def test_percent_stands_in_every_row_or_in_none() -> None:
    fails(
        lambda: read_numbers(column("0.5", "5%"), "y"),
        "a.csv, row 1 (line 2), column 'y': is not in percent, and others are\n  got       '0.5'\n"
        "  expected  percent in every row, as in row 2 (line 3): 5%, or in none\n  hint      write all in one unit",
    )


def test_missing_values_are_nan() -> None:
    written = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "#N/A", "-", ".", "?", " ", "3"]
    got = read_numbers(column(*written), "y")
    assert np.isnan(got[:-1]).all() and got[-1] == 3
    assert np.isnan(read_numbers(column(1.0, None, float("nan")), "y")).tolist() == [False, True, True]


def test_text_among_the_numbers_names_its_row() -> None:
    for cells in (["1", "2o", "3"], ["1,5", "2o", "3"], ["1.234,5", "2o", "1,5"]):
        fails(
            lambda cells=cells: read_numbers(column(*cells), "y"),
            "a.csv, row 2 (line 3), column 'y': is not a finite number\n  got       '2o'\n"
            "  expected  a number, or nothing where it is missing\n  hint      correct this cell",
        )
    for cell in (float("inf"), "inf", "-Infinity", "12,34,567", "1.2.3", "$", "%", "--5", "1,2,3"):
        with pytest.raises(DataError, match=r"row 1 \(line 2\), column 'y': is not a finite number\n  got       "):
            read_numbers(column(cell), "y")


def test_a_number_that_is_too_large_names_its_row() -> None:
    assert read_numbers(column("1e100", "-1e100", "1e-300"), "y").tolist() == [1e100, -1e100, 1e-300]
    fails(
        lambda: read_numbers(column("1", "-1.1e100"), "y"),
        "a.csv, row 2 (line 3), column 'y': is too large to compute with\n  got       '-1.1e100'\n"
        "  expected  at most 1e+100 in size\n  hint      take another unit",
    )


def test_a_long_cell_is_cut_in_an_error() -> None:
    with pytest.raises(DataError) as e:
        read_numbers(column("x" * 5000), "y")
    assert len(str(e.value)) < 400 and "... (5002 characters)" in str(e.value)


def test_columns_of_the_wrong_kind_are_refused() -> None:
    fails(
        lambda: read_numbers(column(date(2001, 3, 4)), "y"),
        "a.csv, column 'y': is not a column of numbers\n  got       Date\n  expected  numbers\n"
        "  hint      choose another column",
    )
    assert read_numbers(column(True, False), "y").tolist() == [1, 0]
    assert np.isnan(read_numbers(column(None, None), "y")).all()


def test_a_few_wrong_cells_make_no_column_of_texts() -> None:
    """Otherwise a column of prices with one typing mistake would be read as categories."""
    assert holds_numbers(column(*"123456789", "x").frame["y"]) and not holds_numbers(column("1", "x").frame["y"])
    assert not holds_numbers(column("", None).frame["y"]) and not holds_numbers(column("a", "b").frame["y"])
