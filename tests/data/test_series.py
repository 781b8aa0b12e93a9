"""Series: a regular grid, gaps and missing values named and never filled, splits in the order of time."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openlstm.data import cut, from_arrays, origins, read_series, split_by_time
from openlstm.data.grid import add_steps, guess_period, name_step, show_time, show_times
from openlstm.data.series import Series
from openlstm.errors import DataError
from openlstm.model_file import Step

SECOND = {"minute": 60, "hour": 3600, "day": 86400, "week": 604800}


def weekly(n: int) -> Series:
    return from_arrays(np.datetime64("2001-01-06") + 7 * np.arange(n), np.arange(float(n)))


@given(
    st.sampled_from(
        [("month", 1), ("month", 3), ("month", 12), ("second", 60), ("second", 3600), ("second", 86400), ("second", 604800)]
    ),
    st.integers(0, 400),
    st.data(),
)
def test_any_subset_of_a_grid_gives_the_grid_back(kind: tuple[str, int], first: int, data: st.DataObject) -> None:
    step = Step(unit=kind[0], count=kind[1])  # type: ignore[arg-type]
    grid = add_steps(np.datetime64("1999-03-01", "us") + np.timedelta64(first, "D"), step, np.arange(40))
    hidden = data.draw(st.sets(st.integers(10, 35), max_size=8))
    kept = np.array([k for k in range(40) if k not in hidden])
    order = np.array(data.draw(st.permutations(range(len(kept)))))
    values = np.random.default_rng(0).standard_normal(40)
    series = from_arrays(grid[kept][order], values[kept][order], step=step)
    assert (series.times == grid).all()
    assert (series.values[kept] == values[kept]).all()
    assert set(np.flatnonzero(np.isnan(series.values))) == hidden
    assert from_arrays(grid[kept], values[kept]).step == step  # found without being told


@pytest.mark.parametrize(
    ("times", "step", "period"),
    [
        (["2001-01-31", "2001-02-28", "2001-03-31", "2001-04-30"], ("month", 1), 12),
        (["2001-01", "2001-02", "2001-03", "2001-04"], ("month", 1), 12),
        (["2001-01-01", "2001-04-01", "2001-07-01", "2001-10-01"], ("month", 3), 4),
        (["2001", "2002", "2003", "2004"], ("month", 12), 1),
        (["2001-01-06", "2001-01-13", "2001-01-20"], ("second", 604800), 52),
        (["2001-01-06", "2001-01-07", "2001-01-08"], ("second", 86400), 7),
        (["2001-01-06T00", "2001-01-06T01", "2001-01-06T02"], ("second", 3600), 24),
        (["2001-01-06T00:00", "2001-01-06T00:15", "2001-01-06T00:30"], ("second", 900), 96),
        (["2001-01-06T00:00:00", "2001-01-06T00:00:10", "2001-01-06T00:00:20"], ("second", 10), 360),
    ],
)
def test_the_sampling_interval_is_found(times: list[str], step: tuple[str, int], period: int) -> None:
    found = from_arrays(times, np.arange(float(len(times)))).step
    assert (found.unit, found.count) == step
    assert guess_period(found) == period


def test_months_end_at_their_ends() -> None:
    series = from_arrays(["2001-11-30", "2001-12-31", "2002-01-31"], [1.0, 2.0, 3.0])
    assert [show_time(t) for t in series.future(3)] == ["2002-02-28", "2002-03-31", "2002-04-30"]


def test_notes_say_how_many_and_where(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("t,y\n20010127,4\n20010106,1\n20010113,\n20010120,NA\n20010217,7\n20010224,8\n20010303,9\n")
    series = read_series(tmp_path / "a.csv", "t", "y")
    np.testing.assert_array_equal(series.values, [1, np.nan, np.nan, 4, np.nan, np.nan, 7, 8, 9])
    assert [n.text for n in series.notes] == [
        "the rows were not in the order of time (1 step back); they were sorted",
        "2 steps are absent from the table and count as missing: 2001-02-03 to 2001-02-10",
        "2 values of y are missing: 2001-01-13 to 2001-01-20",
    ]
    assert [(n.kind, n.count) for n in series.notes] == [("order", 1), ("gaps", 2), ("missing", 2)]
    many = from_arrays(np.datetime64("2001-01-01") + np.arange(20), [np.nan if k % 2 else 1.0 for k in range(20)])
    assert many.notes[0].text.endswith("2001-01-02, 2001-01-04, 2001-01-06, 2001-01-08, and 6 more runs")
    assert weekly(5).notes == ()


def fails(path: Path, rows: str, text: str) -> None:
    path.write_text("t,y\n" + rows)
    with pytest.raises(DataError) as e:
        read_series(path, "t", "y")
    assert str(e.value) == text


def test_times_that_are_no_grid_are_refused_with_their_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    fails(
        path,
        "20010101,1\n20010102,2\n20010103,3\n20010102,4\n",
        "a.csv, row 4 (line 5), column 't': the same time comes twice\n"
        "  got       2001-01-02, also in row 2 (line 3); 1 such row in all\n"
        "  expected  each time once\n"
        "  hint      keep one row for each time; a table of several series has to be filtered to one of them",
    )
    fails(
        path,
        "20010106,1\n20010113,2\n20010120,3\n20010126,4\n20010203,5\n",
        "a.csv, row 4 (line 5), column 't': lies off the grid of 1 week\n  got       2001-01-26; 1 of 5 rows are off\n"
        "  expected  2001-01-06 plus a whole number of weeks\n"
        "  hint      resample the table to equal intervals, and leave out what was not measured",
    )
    fails(
        path,
        "20010106,1\n20010113,2\n",
        "a.csv: is too short for a series\n  got       2 rows\n  expected  at least 3\n  hint      give a longer table",
    )
    fails(
        path,
        "20010106,\n20010113,\n20010120,\n",
        "a.csv, column 'y': holds no known value\n  got       3 rows, all missing\n  expected  numbers\n"
        "  hint      choose another column",
    )
    with pytest.raises(DataError) as e:
        from_arrays(["2001"], [1.0, 2.0])
    assert str(e.value) == (
        "from_arrays: times and values do not fit\n  got       [1] and [2]\n  expected  [T] and [T]\n"
        "  hint      pass one time for each value"
    )


def test_the_first_row_is_named_if_it_is_the_one_that_is_off(tmp_path: Path) -> None:
    fails(
        tmp_path / "a.csv",
        "20010103,1\n20010113,2\n20010120,3\n20010127,4\n20010203,5\n",
        "a.csv, row 1 (line 2), column 't': lies off the grid of 1 week\n  got       2001-01-03; 1 of 5 rows are off\n"
        "  expected  2001-01-20 plus a whole number of weeks\n"
        "  hint      resample the table to equal intervals, and leave out what was not measured",
    )


def test_a_given_interval_is_held_to() -> None:
    times = np.datetime64("2001-01-01") + np.arange(10)
    with pytest.raises(DataError, match="lies off the grid of 1 week"):
        from_arrays(times, np.arange(10.0), step=Step(unit="second", count=SECOND["week"]))


STEPS = [("month", 1), ("month", 3), ("second", 60), ("second", 86400), ("second", 604800)]


@given(st.sampled_from(STEPS), st.integers(2, 15), st.sets(st.integers(3, 30), max_size=9))
def test_a_longer_interval_is_refused_and_gaps_are_not(kind: tuple[str, int], factor: int, hidden: set[int]) -> None:
    """Every k-th step of the grid is another interval, whatever is absent besides; k = 1 with gaps is the same."""
    step = Step(unit=kind[0], count=kind[1])  # type: ignore[arg-type]
    kept = np.array([k for k in range(40) if k not in hidden])
    start = np.datetime64("1999-03-31", "us")
    assert from_arrays(add_steps(start, step, kept), np.ones(len(kept)), step=step).step == step
    with pytest.raises(DataError) as e:
        from_arrays(add_steps(start, step, factor * kept), np.ones(len(kept)), step=step)
    assert str(e.value) == (
        f"the arrays, column 'time': has a longer interval than {name_step(step)}\n"
        f"  got       most rows are {name_step(step, factor)} apart\n  expected  most rows {name_step(step)} apart\n"
        "  hint      give data of that interval, or fit a model to these"
    )


def test_a_grid_out_of_proportion_is_refused_before_it_is_made(tmp_path: Path) -> None:
    """One year of 120 seconds is mistyped: a grid of 946 million steps, 7.6 GB an array."""
    seconds = [str(t) for t in np.datetime64("2001-01-01T00:00:00") + np.arange(120)]
    seconds[50] = "2031" + seconds[50][4:]
    (tmp_path / "a.csv").write_text("t,y\n" + "".join(f"{t},{k}\n" for k, t in enumerate(seconds)))
    tracemalloc.start()
    with pytest.raises(DataError) as e:
        read_series(tmp_path / "a.csv", "t", "y")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 10e6
    assert str(e.value) == (
        "a.csv, row 51 (line 52), column 't': lies too far from the other rows\n"
        "  got       2031-01-01 00:00:50, 946684731 seconds from 2001-01-01 00:01:59; "
        "a series of 946,684,851 steps out of 120 rows\n"
        "  expected  at most 6,000 steps, 50 for each row\n"
        "  hint      correct the date, or resample the table to a longer interval"
    )


@pytest.mark.parametrize("at", [0, 17, 39])
@pytest.mark.parametrize("year", ["1000", "9999"])
def test_a_mistyped_year_is_named_wherever_it_stands(tmp_path: Path, at: int, year: str) -> None:
    weeks = [str(t) for t in np.datetime64("2001-01-06") + 7 * np.arange(40)]
    weeks[at] = year + weeks[at][4:]
    (tmp_path / "a.csv").write_text("t,y\n" + "".join(f"{t},{k}\n" for k, t in enumerate(weeks)))
    with pytest.raises(
        DataError, match=rf"a.csv, row {at + 1} \(line {at + 2}\), column 't': lies too far from the other rows"
    ):
        read_series(tmp_path / "a.csv", "t", "y")


@pytest.mark.parametrize("rows", [3, 7, 20])
def test_fifty_steps_a_row_are_allowed_and_one_more_is_not(rows: int) -> None:
    first = np.datetime64("2001-01-01") + np.arange(rows - 1)
    for last, fits in ((50 * rows - 1, True), (50 * rows, False)):
        times = np.append(first, first[0] + last)
        if fits:
            assert len(from_arrays(times, np.ones(rows))) == 50 * rows
        else:
            with pytest.raises(DataError, match=f"a series of {50 * rows + 1:,} steps out of {rows} rows"):
                from_arrays(times, np.ones(rows))


@pytest.mark.parametrize("years", [999, 1100, 4000])
def test_an_interval_of_more_than_a_thousand_years_is_refused(years: int) -> None:
    times = [f"{1000 + k * years}" for k in range(3)]
    if years < 1000:
        assert from_arrays(times, np.ones(3)).step == Step(unit="month", count=12 * years)
    else:
        with pytest.raises(DataError, match="the times are too far apart\n  got       1000-01-01, "):
            from_arrays(times, np.ones(3))


def test_one_column_cannot_be_both() -> None:
    from openlstm.data import Table
    from openlstm.data.series import from_table

    with pytest.raises(DataError) as e:
        from_table(Table(pl.DataFrame({"t": [20010106, 20010113, 20010120]}), "a"), "t", "t")
    assert str(e.value) == (
        "a, column 't': is the column of dates and the column of numbers\n  got       't' twice\n  expected  two columns\n"
        "  hint      name the column of what was measured as the target"
    )


def test_intervals_and_times_are_written_in_words() -> None:
    assert name_step(Step(unit="second", count=SECOND["hour"])) == "1 hour"
    assert name_step(Step(unit="month", count=3), 2) == "2 quarters"
    assert name_step(Step(unit="month", count=2), 4) == "4 steps of 2 months"
    assert show_time(np.datetime64("2001-01-06T10:00:00")) == "2001-01-06 10:00"
    assert show_time(np.datetime64("2001-01-06T00:00:30")) == "2001-01-06 00:00:30"


@given(st.lists(st.integers(0, 4 * 10**12), min_size=1, max_size=5), st.sampled_from([1, 10**6, 60 * 10**6, 86400 * 10**6]))
def test_times_in_words_are_read_back(micros: list[int], unit: int) -> None:
    """All in one form, so that a column of them can be read, and none loses anything."""
    times = np.array([np.datetime64(0, "us") + m // unit * unit for m in micros])
    words = show_times(times)
    assert len({len(w) for w in words}) == 1
    assert (np.array([w.replace(" ", "T") for w in words], "datetime64[us]") == times).all()


def test_splits_are_in_the_order_of_time_and_targets_never_cross_a_cut() -> None:
    series = weekly(400)
    split = split_by_time(series, window=104, horizon=26, holdout=52)
    assert (split.train, split.known, split.total) == (296, 348, 400)
    train = origins(series.values, 104, 26, 104, split.train)
    validation = origins(series.values, 104, 26, split.train, split.known)
    assert train.max() + 26 == split.train  # the last target lies just before the cut
    assert validation.min() == split.train
    assert validation.max() + 26 == split.known


def test_a_series_that_is_too_short_is_refused() -> None:
    with pytest.raises(DataError) as e:
        split_by_time(weekly(300), window=104, horizon=52, holdout=104)
    assert str(e.value) == (
        "column 'value': the series is too short for this horizon\n  got       300 weeks, 104 of them held out\n"
        "  expected  at least 364: window 104 + horizon 52 to train, 104 to validate, 104 held out\n"
        "  hint      give a longer table, or a smaller --horizon, --window or --holdout"
    )
    need = int(str(e.value).split("at least ")[1].split(":")[0])
    assert split_by_time(weekly(need), window=104, horizon=52, holdout=104).train == 156
    with pytest.raises(DataError):
        split_by_time(weekly(need - 1), window=104, horizon=52, holdout=104)


@given(
    st.lists(st.sampled_from([0.0, np.nan]), min_size=1, max_size=25),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 10),
    st.integers(0, 30),
)
def test_origins_are_those_a_loop_would_find(values: list[float], window: int, horizon: int, first: int, last: int) -> None:
    v, last = np.array(values), min(last, len(values))
    slow = [
        t
        for t in range(first, last)
        if t >= window
        and t + horizon <= last
        and not np.isnan(v[t - window : t]).all()
        and not np.isnan(v[t : t + horizon]).all()
    ]
    at = origins(v, window, horizon, first, last)
    assert at.tolist() == slow
    x, y = cut(v, at, window, horizon)
    for k, t in enumerate(slow):
        np.testing.assert_array_equal(x[k], v[t - window : t])
        np.testing.assert_array_equal(y[k], v[t : t + horizon])


def test_the_co2_file_is_read() -> None:
    from importlib.resources import files

    series = read_series(str(files("statsmodels.datasets.co2") / "co2.csv"), "date", "co2")
    assert (len(series), name_step(series.step), show_time(series.times[0]), show_time(series.times[-1])) == (
        2284,
        "1 week",
        "1958-03-29",
        "2001-12-29",
    )
    assert [(n.kind, n.count) for n in series.notes] == [("missing", 59)]
    assert series.notes[0].text.startswith("59 values of co2 are missing: 1958-05-10, 1958-05-31 to 1958-06-28")


def test_polars_and_integer_dates_agree() -> None:
    table = pl.DataFrame({"t": [20010106, 20010113, 20010120], "y": [1, 2, 3]})
    from openlstm.data import Table
    from openlstm.data.series import from_table

    assert from_table(Table(table, "a"), "t", "y").values.tolist() == [1.0, 2.0, 3.0]
