"""Panels out of tables: a regular grid for each series, gaps and missing values named and never filled, roles of columns."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openlstm.data import Columns, Format, Panel, read_panel
from openlstm.data.grid import add_steps, name_step, show_time
from openlstm.errors import ArgumentError, DataError
from openlstm.model_file import Step

DAY = np.timedelta64(1, "D")
DAILY, HOURLY = Step(unit="second", count=86400), Step(unit="second", count=3600)


def series(times: Any, values: Any, **options: Any) -> Panel:
    frame = pl.DataFrame({"t": np.asarray(times, "datetime64[us]"), "y": np.asarray(values, float)})
    return read_panel(frame, Columns("t", "y"), **options)


def days(count: int, first: str = "2001-01-01") -> np.ndarray:
    return np.datetime64(first, "us") + np.arange(count) * DAY


def csv(path: Path, text: str, *told: Any, **options: Any) -> Panel:
    path.write_text(text)
    return read_panel(path, *told, **options)


def fails(call: Callable[[], object], text: str, kind: type[Exception] = DataError) -> None:
    with pytest.raises(kind) as e:
        call()
    assert str(e.value) == text


STEPS = [("month", 1), ("month", 3), ("month", 12), ("second", 60), ("second", 3600), ("second", 86400), ("second", 604800)]


@given(st.sampled_from(STEPS), st.integers(0, 400), st.data())
def test_any_subset_of_a_grid_gives_the_grid_back(kind: tuple[str, int], first: int, data: st.DataObject) -> None:
    step = Step(unit=kind[0], count=kind[1])  # type: ignore[arg-type]
    grid = add_steps(np.datetime64("1999-03-01", "us") + np.timedelta64(first, "D"), step, np.arange(40))
    hidden = data.draw(st.sets(st.integers(10, 35), max_size=8))
    kept = np.array([k for k in range(40) if k not in hidden])
    order = np.array(data.draw(st.permutations(range(len(kept)))))
    values = np.random.default_rng(0).standard_normal(40)
    panel = series(grid[kept][order], values[kept][order], step=step)
    assert (panel.times(0) == grid).all()
    assert (panel.values[kept] == values[kept]).all()
    assert set(np.flatnonzero(np.isnan(panel.values))) == hidden
    assert series(grid[kept], values[kept]).step == step  # found without being told


def test_notes_say_how_many_and_where(tmp_path: Path) -> None:
    text = "t,y\n20010127,4\n20010106,1\n20010113,\n20010120,NA\n20010217,7\n20010224,8\n20010303,9\n"
    panel = csv(tmp_path / "a.csv", text, Columns("t", "y"))
    np.testing.assert_array_equal(panel.values, [1, np.nan, np.nan, 4, np.nan, np.nan, 7, 8, 9])
    assert [n.text for n in panel.notes] == [
        "the rows were not in the order of time (1 step back); they were sorted",
        "2 steps are absent from the table and count as missing: 2001-02-03 to 2001-02-10",
        "2 values of y are missing: 2001-01-13 to 2001-01-20",
    ]
    assert [(n.kind, n.count) for n in panel.notes] == [("order", 1), ("gaps", 2), ("missing", 2)]
    many = series(days(21), [np.nan if k % 2 else float(k) for k in range(21)])
    assert many.notes[0].text.endswith("2001-01-02, 2001-01-04, 2001-01-06, 2001-01-08, and 6 more runs")
    assert series(days(5), range(5)).notes == ()
    assert [n.text for n in series(days(5), [7, 7, np.nan, 7, 7]).notes][1:] == ["y never changes"]


def test_times_that_are_no_grid_are_refused_with_their_row(tmp_path: Path) -> None:
    def refuses(rows: str, text: str) -> None:
        fails(lambda: csv(tmp_path / "a.csv", "t,y\n" + rows), text)

    refuses(
        "20010101,1\n20010102,2\n20010103,3\n20010102,4\n",
        "a.csv, row 4 (line 5), column 't': the same time comes twice\n"
        "  got       2001-01-02, also in row 2 (line 3); 1 such row in all\n"
        "  expected  each time once\n"
        "  hint      keep one row for each time, or make one of them: --every 1d --aggregate mean",
    )
    refuses(
        "20010106,1\n20010113,2\n20010120,3\n20010126,4\n20010203,5\n",
        "a.csv, row 4 (line 5), column 't': lies off the grid of 1 week\n  got       2001-01-26; 1 of 5 rows are off\n"
        "  expected  2001-01-06 plus a whole number of weeks\n"
        "  hint      resample to equal intervals: --every 1w --aggregate mean",
    )
    refuses(  # it is the first row that is off
        "20010103,1\n20010113,2\n20010120,3\n20010127,4\n20010203,5\n",
        "a.csv, row 1 (line 2), column 't': lies off the grid of 1 week\n  got       2001-01-03; 1 of 5 rows are off\n"
        "  expected  2001-01-20 plus a whole number of weeks\n"
        "  hint      resample to equal intervals: --every 1w --aggregate mean",
    )
    refuses(
        "20010106,1\n20010113,2\n",
        "a.csv: is too short for a series\n  got       2 rows\n  expected  at least 3\n  hint      give a longer table",
    )
    (tmp_path / "a.csv").write_text("t,y\n20010106,\n20010113,\n20010120,\n")
    fails(
        lambda: read_panel(tmp_path / "a.csv", Columns(target="y")),
        "a.csv, column 'y': holds no known value\n  got       3 rows, all missing\n  expected  numbers\n"
        "  hint      choose another column",
    )


def test_ten_rows_are_a_series() -> None:
    assert len(series(days(10), np.arange(10)).values) == 10


def test_irregular_times_are_refused_with_an_interval_that_fits() -> None:
    times = np.datetime64("2001-01-01", "us") + np.cumsum(np.random.default_rng(0).integers(1, 118, 300)) * np.timedelta64(
        1, "s"
    )
    with pytest.raises(DataError) as e:
        series(times, np.arange(300))
    assert str(e.value).endswith("--every 5m --aggregate mean")
    panel = series(times, np.arange(300), form=Format(every="5m"))
    assert panel.step == Step(unit="second", count=300) and panel.lengths[0] == 62


def test_a_given_interval_is_held_to() -> None:
    with pytest.raises(DataError, match="lies off the grid of 1 week"):
        series(days(10), np.arange(10), step=Step(unit="second", count=604800))


@given(st.sampled_from([*STEPS[:2], *STEPS[3:]]), st.integers(2, 15), st.sets(st.integers(3, 30), max_size=9))
def test_a_longer_interval_is_refused_and_gaps_are_not(kind: tuple[str, int], factor: int, hidden: set[int]) -> None:
    """Every k-th step of the grid is another interval, whatever is absent besides; k = 1 with gaps is the same."""
    step = Step(unit=kind[0], count=kind[1])  # type: ignore[arg-type]
    kept = np.array([k for k in range(40) if k not in hidden])
    start = np.datetime64("1999-03-31", "us")
    assert series(add_steps(start, step, kept), np.ones(len(kept)), step=step).step == step
    fails(
        lambda: series(add_steps(start, step, factor * kept), np.ones(len(kept)), step=step),
        f"the frame, column 't': has a longer interval than {name_step(step)}\n"
        f"  got       most rows are {name_step(step, factor)} apart\n  expected  most rows {name_step(step)} apart\n"
        "  hint      give data of that interval, or fit a model to these",
    )


def test_a_grid_out_of_proportion_is_refused_before_it_is_made(tmp_path: Path) -> None:
    """One year of 120 seconds is mistyped: a grid of 946 million steps, 7.6 GB an array."""
    seconds = [str(t) for t in np.datetime64("2001-01-01T00:00:00") + np.arange(120)]
    seconds[50] = "2031" + seconds[50][4:]
    (tmp_path / "a.csv").write_text("t,y\n" + "".join(f"{t},{k}\n" for k, t in enumerate(seconds)))
    tracemalloc.start()
    with pytest.raises(DataError) as e:
        read_panel(tmp_path / "a.csv")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 10e6
    assert str(e.value) == (
        "a.csv, row 51 (line 52), column 't': lies too far from the other rows\n"
        "  got       2031-01-01 00:00:50, 946684731 seconds from 2001-01-01 00:01:59; "
        "a series of 946,684,851 steps out of 120 rows\n"
        "  expected  at most 6,000 steps, 50 for each row\n"
        "  hint      correct the date, or resample to a longer interval: --every 1s --aggregate mean"
    )


@pytest.mark.parametrize("at", [0, 17, 39])
@pytest.mark.parametrize("year", ["1000", "9999"])
@pytest.mark.parametrize("others", [0, 1, 3])
def test_a_mistyped_year_is_named_wherever_it_stands(tmp_path: Path, at: int, year: str, others: int) -> None:
    weeks = [str(t) for t in np.datetime64("2001-01-06") + 7 * np.arange(40)]
    rows = [f"{t},{k},{s}\n" for s in range(others) for k, t in enumerate(weeks)]
    weeks[at] = year + weeks[at][4:]
    rows += [f"{t},{k},9\n" for k, t in enumerate(weeks)]
    at += 40 * others
    with pytest.raises(
        DataError, match=rf"a.csv, row {at + 1} \(line {at + 2}\), column 't': lies too far from the other rows"
    ):
        csv(tmp_path / "a.csv", "t,y,s\n" + "".join(rows), Columns("t", "y", ("s",)))


@pytest.mark.parametrize("rows", [3, 7, 20])
def test_fifty_steps_a_row_are_allowed_and_one_more_is_not(rows: int) -> None:
    first = days(rows - 1)
    for last, fits in ((50 * rows - 1, True), (50 * rows, False)):
        times = np.append(first, first[0] + last * DAY)
        if fits:
            assert len(series(times, np.ones(rows)).values) == 50 * rows
        else:
            with pytest.raises(DataError, match=f"a series of {50 * rows + 1:,} steps out of {rows} rows"):
                series(times, np.ones(rows))


def test_a_series_of_few_rows_may_be_as_long_as_the_others() -> None:
    rare = pl.DataFrame({"t": days(400)[[0, 399]], "y": [1.0, 2.0], "s": ["rare"] * 2})
    often = [pl.DataFrame({"t": days(400), "y": np.arange(400.0), "s": [k] * 400}) for k in "ab"]
    assert read_panel(pl.concat([rare, *often]), Columns("t", "y", ("s",))).lengths.tolist() == [400] * 3


@pytest.mark.parametrize("years", [999, 1100, 4000])
def test_an_interval_of_more_than_a_thousand_years_is_refused(years: int) -> None:
    times = [f"{1000 + k * years}" for k in range(3)]
    if years < 1000:
        assert series(times, np.ones(3)).step == Step(unit="month", count=12 * years)
    else:
        with pytest.raises(DataError, match="the times are too far apart\n  got       1000-01-01, "):
            series(times, np.ones(3))


# Many series


def long(counts: dict[str, int], first: dict[str, str] | None = None) -> pl.DataFrame:
    """A row for each day of each series; the value is the day, counted from 0, plus 100 for each series before it."""
    parts = [
        pl.DataFrame(
            {"store": [s] * n, "day": days(n, (first or {}).get(s, "2001-01-01")), "sales": 100 * k + np.arange(float(n))}
        )
        for k, (s, n) in enumerate(counts.items())
    ]
    return pl.concat(parts)


SALES = Columns("day", "sales", ("store",))


@given(st.dictionaries(st.sampled_from("abcdefg"), st.integers(3, 15), min_size=1), st.randoms())
def test_every_order_of_the_rows_gives_the_same_series(counts: dict[str, int], random: Any) -> None:
    frame = long(counts)
    order = list(range(frame.height))
    random.shuffle(order)
    panel = read_panel(frame[order], SALES)
    assert panel.ids == ("store",) and set(panel.keys) == {(s,) for s in counts}
    for k, s in enumerate(counts):
        at = panel.keys.index((s,))
        assert panel.past(at).tolist() == (100 * k + np.arange(counts[s])).tolist()
        assert (panel.times(at) == days(counts[s])).all()


def test_each_series_begins_and_ends_on_its_own() -> None:
    panel = read_panel(long({"a": 5, "b": 3}, {"b": "2001-01-03"}), SALES)
    assert panel.starts.astype("datetime64[D]").astype(str).tolist() == ["2001-01-01", "2001-01-03"]
    assert panel.lengths.tolist() == [5, 3] and panel.name(1) == "store=b"


def test_several_columns_name_a_series_and_numbers_are_names_too() -> None:
    items = np.tile(np.repeat([7, 8], 3), 2)
    frame = pl.DataFrame(
        {"day": np.tile(days(3), 4), "sales": np.arange(12.0), "store": np.repeat([1.0, 2.0], 6), "item": items}
    )
    panel = read_panel(frame, Columns("day", "sales", ("store", "item")))
    assert panel.keys == (("1", "7"), ("1", "8"), ("2", "7"), ("2", "8")) and panel.name(1) == "store=1, item=8"


def test_gaps_of_many_series_are_named_by_series() -> None:
    frame = long({"a": 6, "b": 6})[[0, 1, 4, 5, 6, 8, 9, 10, 11]]
    assert [n.text for n in read_panel(frame, SALES).notes] == [
        "3 steps are absent from the table and count as missing: store=a: 2001-01-03 to 2001-01-04, store=b: 2001-01-02"
    ]


def test_wide_and_long_tables_give_the_same() -> None:
    tall = long({"a": 6, "b": 4}, {"b": "2001-01-03"})
    wide = tall.pivot("store", index="day", values="sales").sort("day")
    one, other = read_panel(tall, SALES), read_panel(wide, Columns(wide=True))
    assert other.ids == ("series",) and other.target == "value" and other.keys == one.keys
    np.testing.assert_array_equal(one.values, other.values)
    assert (one.starts == other.starts).all() and (one.lengths == other.lengths).all()


def test_what_a_wide_table_has_no_room_for_is_refused(tmp_path: Path) -> None:
    fails(
        lambda: csv(tmp_path / "a.csv", "t,a,b\n2001,1,2\n", Columns(wide=True, ids=("a",), static=("b",))),
        "a.csv: holds a series in each column, which leaves no room for these\n  got       --wide with --series, --static\n"
        "  expected  a table with a row for each time and series\n"
        "  hint      leave out --wide, or bring the table into long form",
        ArgumentError,
    )
    fails(
        lambda: csv(tmp_path / "a.csv", "t,a,b\n2001,1,\n2002,2,\n2003,3,\n", Columns("t", wide=True)),
        "a.csv, column 'b': holds no known value\n  got       3 rows, all missing\n  expected  numbers\n"
        "  hint      choose another column",
    )


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        ("store,t,y", "a table of several series has to say which column names them: --series store"),
        ("store,item,t,y", "a table of several series has to say which column names them: --series store,item"),
    ],
)
def test_several_series_without_a_name_are_told_by_which_column(tmp_path: Path, header: str, hint: str) -> None:
    items = ("",) if "item" not in header else ("x,", "z,")
    rows = [f"{s},{i}{t},1\n" for s in "ab" for i in items for t in (2001, 2002, 2003)]
    with pytest.raises(DataError) as e:
        csv(tmp_path / "a.csv", header + "\n" + "".join(rows), Columns("t", "y"))
    assert "the same time comes twice" in str(e.value) and str(e.value).endswith(hint)


def test_a_series_without_a_value_or_a_name_is_refused(tmp_path: Path) -> None:
    fails(
        lambda: csv(tmp_path / "a.csv", "s,t,y\na,2001,1\na,2002,1\nb,2001,\nb,2002,\n", Columns("t", "y", ("s",))),
        "a.csv, s=b: holds no known value\n  got       1 series in which all is missing\n"
        "  expected  at least one in each series\n  hint      leave out its rows",
    )
    fails(
        lambda: csv(tmp_path / "a.csv", "s,t,y\na,2001,1\n,2002,1\n", Columns("t", "y", ("s",))),
        "a.csv, row 2 (line 3), column 's': names no series\n  got       None\n"
        "  expected  the name of a series in every row\n  hint      fill in this cell, or leave out the row",
    )


# Which column is what


def test_columns_are_found_where_that_leaves_no_doubt(tmp_path: Path) -> None:
    found = csv(tmp_path / "a.csv", "note,day,sales\na,2001-01-01,1\nb,2001-01-02,2\nc,2001-01-03,3\n")
    assert (found.time, found.target, found.ids) == ("day", "sales", ())
    found = csv(tmp_path / "a.csv", "unique_id,ds,y,z,made\n" + "".join(f"a,200{k},1,2,2001-01-01\n" for k in range(3)))
    assert (found.time, found.target, found.ids) == ("ds", "y", ("unique_id",))
    assert csv(tmp_path / "a.csv", "year,sales\n2001,5\n2002,60\n2003,7\n").time == "year"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "made,day,y\n2001-01-01,2001-01-02,1\n",
            "a.csv: has several columns that read as dates\n  got       made, day\n  expected  one of them as the time\n"
            "  hint      name it: --time day",
        ),
        (
            "a,b,y\n1,x,1\n",
            "a.csv: has no column that reads as dates\n  got       a, b, y\n  expected  a column of dates\n"
            "  hint      name it: --time NAME",
        ),
        (
            "t,a b,c\n2001-01-01,1,2\n",
            "a.csv: has several columns of numbers\n  got       a b, c\n  expected  one of them as the target\n"
            "  hint      name it: --target 'a b'; or --wide if each column is a series",
        ),
        (
            "t,b\n2001-01-01,x\n",
            "a.csv: has no column of numbers to forecast\n  got       b\n  expected  a column of numbers\n"
            "  hint      name it: --target NAME",
        ),
        (
            "2001-01-01,5\n2001-01-02,6\n",
            "a.csv: has no header\n  got       2001-01-01, 5\n  expected  the names of the columns in the first line\n"
            "  hint      write the names of the columns into the first line",
        ),
    ],
)
def test_a_column_that_is_not_found_is_asked_for(tmp_path: Path, text: str, error: str) -> None:
    fails(lambda: csv(tmp_path / "a.csv", text), error)


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        (Columns("t", "t"), "column 't': is the column of dates and the column of numbers"),
        (Columns("t", "y", ("y",)), "column 'y': is the column of numbers and a name of the series"),
        (Columns("t", "y", past=("x",), future=("x",)), "column 'x': is a covariate known ahead and a covariate of the past"),
        (Columns("t", "y", static=("x", "x")), "column 'x': is a static covariate twice"),
    ],
)
def test_one_column_cannot_be_two(columns: Columns, what: str) -> None:
    frame = pl.DataFrame({"t": [20010106, 20010113, 20010120], "y": [1, 2, 3], "x": [1, 2, 3]})
    with pytest.raises(DataError, match=f"the frame, {what}\n  got       '.' twice\n  expected  two columns\n"):
        read_panel(frame, columns)


@pytest.mark.parametrize("name", ["forecast", "lower_80", "upper_95", "quantile_0.2"])
def test_a_column_named_as_one_of_ours_is_refused(name: str) -> None:
    frame = long({"a": 3}).rename({"store": name})
    fails(
        lambda: read_panel(frame, Columns("day", "sales", (name,))),
        f"the frame, column {name!r}: is called as a column of the forecast\n  got       {name!r}\n"
        "  expected  another name\n  hint      rename it in the table",
    )
    assert read_panel(frame, Columns("day", "sales")).target == "sales"  # where it has no part it is in nobody's way


# Covariates


def with_covariates() -> pl.DataFrame:
    return long({"a": 4, "b": 4}).with_columns(
        price=pl.Series(np.arange(8.0)), promo=pl.Series(["x", "z", "", "x"] * 2), region=pl.Series(["n"] * 4 + ["s"] * 4)
    )


COVARIATES = Columns("day", "sales", ("store",), future=("price",), past=("promo",), static=("region",))


def test_covariates_are_numbers_or_codes_of_categories() -> None:
    panel = read_panel(with_covariates(), COVARIATES)
    assert panel.covariate("price").values.tolist() == list(range(8)) and panel.covariate("price").categories is None
    promo, region = panel.covariate("promo"), panel.covariate("region")
    np.testing.assert_array_equal(promo.values, [0, 1, np.nan, 0] * 2)
    assert promo.categories == ("x", "z") and promo.role == "past"
    assert region.values.tolist() == [0, 1] and region.categories == ("n", "s") and region.role == "static"


def test_a_categorical_column_holds_categories_whatever_they_look_like() -> None:
    frame = with_covariates().with_columns(price=pl.Series(["1", "2"] * 4).cast(pl.Categorical))
    assert read_panel(frame, COVARIATES).covariate("price").categories == ("1", "2")


def test_the_categories_of_a_model_are_held_to() -> None:
    known = {"promo": ("z", "y", "x"), "region": ("n", "s")}
    assert read_panel(with_covariates(), COVARIATES, categories=known).covariate("promo").values[:2].tolist() == [2, 0]
    fails(
        lambda: read_panel(with_covariates(), COVARIATES, categories={"promo": ("x",), "region": ("n", "s")}),
        "the frame, row 2 (index 1), column 'promo': is a category that the model does not know\n  got       'z'\n"
        "  expected  one of x\n"
        "  hint      correct this cell, leave it empty (then it counts as missing), or fit a model to a table that holds it",
    )
    frame = with_covariates().with_columns(pl.col("price").cast(pl.Int64))
    held = read_panel(frame, COVARIATES, categories={**known, "price": tuple(str(k) for k in range(8))})
    assert held.covariate("price").values.tolist() == list(range(8))  # numbers are categories where the model says so
    with pytest.raises(DataError, match=r"row 1 \(index 0\), column 'promo': is not a finite number"):
        read_panel(with_covariates(), COVARIATES, categories={"region": ("n", "s")})


def test_a_price_that_is_no_number_makes_no_categories() -> None:
    frame = with_covariates().with_columns(price=pl.Series(["1", "2", "3", "4", "5", "6", "7", "8o"]))
    with pytest.raises(DataError, match=r"row 8 \(index 7\), column 'price': is not a finite number\n  got       '8o'"):
        read_panel(frame, COVARIATES)


def test_a_static_covariate_that_changes_is_refused() -> None:
    frame = with_covariates().with_columns(region=pl.Series(["n"] * 5 + ["s"] * 3))
    fails(
        lambda: read_panel(frame, COVARIATES),
        "the frame, row 6 (index 5), column 'region': changes within the series store=b\n"
        "  got       s, in another row n\n  expected  one value for each series\n"
        "  hint      correct it, or name it as a column that changes: --future region if known ahead, else --past",
    )


# The future


def test_rows_of_known_covariates_behind_the_last_value_are_the_future() -> None:
    frame = with_covariates().with_columns(sales=pl.Series([0, None, 2, None, 100, 101, None, None], dtype=pl.Float64))
    panel = read_panel(frame, COVARIATES)
    assert panel.history.tolist() == [3, 2] and panel.lengths.tolist() == [4, 4]
    assert panel.covariate("price").values.tolist() == list(range(8))
    np.testing.assert_array_equal(panel.covariate("promo").values, [0, 1, np.nan, np.nan, 0, 1, np.nan, np.nan])
    assert [n.text for n in panel.notes] == [
        "1 value of sales is missing: store=a: 2001-01-02",
        "3 steps behind the last sales are the future: store=a: 2001-01-04, store=b: 2001-01-03 to 2001-01-04",
    ]
    past = read_panel(frame, Columns("day", "sales", ("store",)))  # nothing is known ahead, so they are missing
    assert past.history.tolist() == [4, 4] and np.isnan(past.values[[1, 3, 6, 7]]).all()


@pytest.mark.parametrize("ids", [True, False])
def test_the_future_may_stand_in_a_table_of_its_own(ids: bool) -> None:
    ahead = pl.DataFrame({"store": ["a", "b"], "day": days(6)[[4, 4]], "price": [50.0, 60.0]})
    if not ids:  # then it holds for every series
        ahead = ahead.drop("store").head(1)
    panel = read_panel(with_covariates(), COVARIATES, future_data=ahead)
    assert panel.history.tolist() == [4, 4] and panel.lengths.tolist() == [5, 5]
    assert panel.covariate("price").values[[4, 9]].tolist() == ([50, 60] if ids else [50, 50])
    assert np.isnan(panel.values[[4, 9]]).all() and panel.covariate("region").values.tolist() == [0, 1]


def test_a_gap_before_the_future_belongs_to_it() -> None:
    """Otherwise the forecast would begin a step too late."""
    ahead = pl.DataFrame({"day": days(6)[[5]], "price": [50.0]})
    panel = read_panel(with_covariates(), COVARIATES, future_data=ahead)
    assert panel.history.tolist() == [4, 4]
    np.testing.assert_array_equal(panel.covariate("price").values[4:6], [np.nan, 50])


def test_the_future_tells_no_target_and_no_past() -> None:
    late = with_covariates().with_columns(day=pl.col("day").dt.offset_by("2d"), price=pl.lit(9.0), sales=pl.lit(1e9))
    panel = read_panel(with_covariates(), COVARIATES, future_data=late)
    assert panel.history.tolist() == [4, 4] and panel.lengths.tolist() == [6, 6]
    assert np.nanmax(panel.values) < 1e9 and panel.covariate("price").values[:6].tolist() == [0, 1, 2, 3, 9, 9]
    assert panel.notes[0].text == "left out of the frame of the future: 4 rows no later than the past"


def test_categories_of_both_tables_are_one_list() -> None:
    columns = Columns("day", "sales", ("store",), future=("promo",))
    ahead = pl.DataFrame({"day": days(6)[[4]], "promo": ["w"]})
    promo = read_panel(with_covariates(), columns, future_data=ahead).covariate("promo")
    assert promo.categories == ("w", "x", "z") and promo.values[[0, 1, 4]].tolist() == [1, 2, 0]


def test_the_future_is_told_in_the_zone_of_the_past() -> None:
    ahead = pl.DataFrame({"day": ["2001-01-05T00:00:00Z"], "price": [50.0]})
    fails(
        lambda: read_panel(with_covariates(), COVARIATES, future_data=ahead),
        "the frame of the future, column 'day': has a time zone, and the first table has none\n"
        "  got       UTC beside local times\n  expected  times of one kind in both\n  hint      write both tables in UTC",
    )


def test_a_series_of_the_future_without_a_past_is_refused() -> None:
    ahead = pl.DataFrame({"store": ["c"], "day": days(6)[[4]], "price": [50.0]})
    fails(
        lambda: read_panel(with_covariates(), COVARIATES, future_data=ahead),
        "the frame of the future, row 1 (index 0), column 'store': names a series that has no past\n  got       'c'\n"
        "  expected  a series of the first table\n  hint      leave out its rows",
    )


# Clocks


def clocks(first: str, last: str, freq: str, zone: str) -> pd.DatetimeIndex:
    return pd.date_range(first, last, freq=freq, tz=zone)


@pytest.mark.parametrize("freq", ["h", "15min"])
@pytest.mark.parametrize(
    ("first", "last", "zone"),
    [
        ("2024-10-26 20:00", "2024-10-27 06:00", "Europe/Berlin"),
        ("2024-11-02 20:00", "2024-11-03 06:00", "America/New_York"),
        ("2024-04-06 20:00", "2024-04-07 06:00", "Australia/Sydney"),
        ("2024-03-30 20:00", "2024-03-31 06:00", "Europe/Berlin"),
    ],
)
@pytest.mark.parametrize("newest_first", [False, True])
def test_both_hours_of_a_clock_change_are_right(freq: str, first: str, last: str, zone: str, newest_first: bool) -> None:
    aware = clocks(first, last, freq, zone)
    local, values = aware.tz_localize(None), np.arange(float(len(aware)))
    order = slice(None, None, -1) if newest_first else slice(None)
    named = read_panel(pd.DataFrame({"ds": local, "y": values})[order], form=Format(zone=zone))
    known = read_panel(pd.DataFrame({"ds": aware, "y": values})[order])
    texts = [t.isoformat() for t in aware]
    offset = read_panel(pd.DataFrame({"ds": texts, "y": values})[order], form=Format(zone=zone))
    for panel in (named, known, offset):
        assert panel.zone == zone and panel.utc
        assert (panel.times(0) == aware.tz_convert("UTC").tz_localize(None).to_numpy()).all()
        assert panel.values.tolist() == values.tolist()
    if first[:7] != "2024-03" and not newest_first:
        with pytest.raises(DataError, match="comes twice, as the hour does when the clocks go back") as e:
            read_panel(pd.DataFrame({"ds": local, "y": values}))
        assert str(e.value).endswith(f"name the zone of these times: --zone {zone}")


def test_a_clock_change_is_named_word_by_word(tmp_path: Path) -> None:
    local = clocks("2024-10-26 23:00", "2024-10-27 04:00", "h", "Europe/Berlin").tz_localize(None)
    fails(
        lambda: csv(tmp_path / "a.csv", "t,y\n" + "".join(f"{t},1\n" for t in local)),
        "a.csv, row 5 (line 6), column 't': comes twice, as the hour does when the clocks go back\n"
        "  got       2024-10-27 02:00, also in row 4 (line 5); 1 such row in all\n"
        "  expected  times in UTC, or a time zone that tells them apart\n"
        "  hint      name the zone of these times: --zone Europe/Berlin",
    )
    text = "t,y\n" + "".join(f"2024-03-31 0{k}:00,1\n" for k in (1, 2, 3))
    fails(
        lambda: csv(tmp_path / "a.csv", text, form=Format(zone="Europe/Berlin")),
        "a.csv, row 2 (line 3), column 't': is a time that the clocks leave out in spring\n  got       2024-03-31 02:00:00\n"
        "  expected  times that exist in Europe/Berlin\n"
        "  hint      give the --zone in which the clocks showed it, or correct this cell",
    )


@pytest.mark.parametrize("freq", ["D", "W", "MS", "B"])
def test_whole_days_in_a_zone_are_counted_by_the_calendar(freq: str) -> None:
    aware = clocks("2024-02-01", "2024-12-01", freq, "Europe/Berlin")
    panel = read_panel(pd.DataFrame({"ds": aware, "y": np.arange(float(len(aware)))}))
    assert panel.zone == "Europe/Berlin" and not panel.utc
    assert (panel.times(0) == aware.tz_localize(None).to_numpy()).all()


def test_whole_days_of_another_zone_say_so(tmp_path: Path) -> None:
    aware = clocks("2024-10-20", "2024-11-05", "D", "Europe/Berlin")
    text = "t,y\n" + "".join(f"{t.isoformat()},1\n" for t in aware)
    with pytest.raises(DataError) as e:
        csv(tmp_path / "a.csv", text)
    assert str(e.value).endswith("or name the zone in which these are whole days, as --zone Europe/Berlin")
    assert csv(tmp_path / "a.csv", text, form=Format(zone="Europe/Berlin")).step == DAILY


# Business days and resampling


def test_business_days_are_a_grid_and_holidays_are_gaps() -> None:
    times = pd.bdate_range("2024-12-16", "2025-01-10").drop("2024-12-25")
    panel = read_panel(pd.DataFrame({"ds": times, "y": np.arange(float(len(times)))}))
    assert panel.step == Step(unit="business", count=1) and panel.lengths[0] == len(times) + 1
    assert [n.text for n in panel.notes] == ["1 step is absent from the table and counts as missing: 2024-12-25"]
    assert show_time(panel.future_times(2)[0, 0]) == "2025-01-13"
    with pytest.raises(DataError, match="lies off the grid of 1 business day"):
        series(days(10), np.arange(10), step=panel.step)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("mean", [1, 3.5, 8]),
        ("sum", [2, 7, 8]),
        ("first", [0, 3, 8]),
        ("last", [2, 4, 8]),
        ("min", [0, 3, 8]),
        ("max", [2, 4, 8]),
        ("median", [1, 3.5, 8]),
        ("count", [2, 2, 1]),
    ],
)
def test_times_are_resampled_by_the_rule_that_is_told(how: str, expected: list[float]) -> None:
    hours = np.array([0, 5, 10, 25, 26, 30, 50, 60]) * np.timedelta64(1, "h")
    frame = pl.DataFrame({
        "ds": np.datetime64("2001-01-01", "us") + hours,
        "y": [0.0, None, 2.0, 3.0, 4.0, None, None, 8.0],
        "price": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, None],
        "promo": ["a", "b", None, "a", "b", "b", "a", "a"],
    })  # fmt: skip
    panel = read_panel(frame, Columns(future=("price", "promo")), Format(every="1d", aggregate=how))
    assert panel.step == DAILY and panel.values.tolist() == expected
    assert panel.covariate("price").values.tolist() == [2, 5, 7] and panel.covariate("promo").values.tolist() == [1, 1, 0]
    assert panel.notes[0].text == (
        f"resampled to 1 day, y by the {how}, other numbers by the mean, categories by the last: 8 rows became 3"
    )


@pytest.mark.parametrize("how", ["sum", "count"])
def test_a_window_without_rows_is_missing(how: str) -> None:
    panel = series(days(6)[[0, 1, 5]], [1, 2, 3], form=Format(every="1d", aggregate=how))
    assert np.isnan(panel.values).tolist() == [False, False, True, True, True, False]
    empty = series(days(3), [1, np.nan, 2], form=Format(every="1d", aggregate="sum"))
    assert np.isnan(empty.values).tolist() == [False, True, False]  # and a sum of nothing is not 0


def test_resampling_happens_within_each_series_and_in_the_zone() -> None:
    panel = read_panel(long({"a": 14, "b": 7}), SALES, Format(every="1w", aggregate="sum"))
    assert panel.values.tolist() == [21, 70, 721] and panel.lengths.tolist() == [2, 1]
    aware = clocks("2024-10-27", "2024-10-28 23:00", "h", "Europe/Berlin")
    whole = read_panel(pd.DataFrame({"ds": aware, "y": 1.0}), form=Format(every="1d", aggregate="count"))
    assert whole.values.tolist() == [25, 24] and whole.zone == "Europe/Berlin" and not whole.utc


def test_an_aggregate_that_is_none_is_refused() -> None:
    fails(
        lambda: Format(aggregate="mode"),
        "aggregate: is no way to aggregate\n  got       'mode'\n"
        "  expected  mean, sum, last, first, min, max, median, count\n  hint      correct --aggregate",
        ArgumentError,
    )


# Kinds of tables


@pytest.mark.parametrize("kind", ["polars", "lazy", "pandas", "pyarrow", "csv", "parquet", "xlsx"])
def test_every_kind_of_table_gives_the_same_panel(tmp_path: Path, kind: str) -> None:
    frame = with_covariates().with_columns(pl.col("day").cast(pl.Date))
    data: Any = {"polars": frame, "lazy": frame.lazy(), "pandas": frame.to_pandas(), "pyarrow": frame.to_arrow()}.get(kind)
    if data is None:
        data = tmp_path / f"a.{kind}"
        {"csv": frame.write_csv, "parquet": frame.write_parquet, "xlsx": frame.write_excel}[kind](data)
    one, other = read_panel(frame, COVARIATES), read_panel(data, COVARIATES)
    assert (one.keys, one.step, one.zone) == (other.keys, other.step, other.zone)
    for a, b in zip(one.covariates, other.covariates, strict=True):
        np.testing.assert_array_equal(a.values, b.values)
        assert (a.name, a.role, a.categories) == (b.name, b.role, b.categories)
    assert (one.values == other.values).all() and (one.starts == other.starts).all()


def test_a_panel_is_a_panel() -> None:
    panel = series(days(5), range(5))
    assert read_panel(panel) is panel


def test_the_co2_file_is_read() -> None:
    from importlib.resources import files

    panel = read_panel(str(files("statsmodels.datasets.co2") / "co2.csv"))
    times = panel.times(0)
    assert (panel.time, panel.target) == ("date", "co2")
    assert (len(times), name_step(panel.step), show_time(times[0]), show_time(times[-1])) == (
        2284,
        "1 week",
        "1958-03-29",
        "2001-12-29",
    )
    assert [(n.kind, n.count) for n in panel.notes] == [("missing", 59)]
    assert panel.notes[0].text.startswith("59 values of co2 are missing: 1958-05-10, 1958-05-31 to 1958-06-28")


def test_a_light_import_reads_no_frame() -> None:
    import subprocess
    import sys

    code = "import sys, openlstm.data; print({'polars', 'pandas', 'narwhals', 'pyarrow'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
