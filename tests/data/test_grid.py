"""The sampling interval: found, named, added to a time and counted back, in windows; business days are a grid of their own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openlstm.data.grid import (
    add_steps,
    count_steps,
    every_of,
    find_step,
    guess_period,
    name_step,
    show_time,
    show_times,
    step_of,
    windows,
)
from openlstm.errors import ArgumentError
from openlstm.model_file import Step

STEPS = [
    Step(unit="month", count=1),
    Step(unit="month", count=3),
    Step(unit="month", count=12),
    Step(unit="second", count=60),
    Step(unit="second", count=3600),
    Step(unit="second", count=86400),
    Step(unit="second", count=604800),
    Step(unit="business", count=1),
]
GRIDS = st.tuples(st.sampled_from(STEPS), st.integers(0, 400))


def grid(step: Step, first: int, count: int = 40) -> np.ndarray:
    start = np.datetime64("1999-03-01", "us") + np.timedelta64(first, "D")
    if step.unit == "business":
        start = np.busday_offset(start.astype("datetime64[D]"), 0, roll="forward").astype("datetime64[us]")
    return add_steps(start, step, np.arange(count))


def begins(*lengths: int) -> np.ndarray:
    out = np.zeros(sum(lengths), bool)
    out[np.cumsum([0, *lengths[:-1]])] = True
    return out


@given(GRIDS, GRIDS)
def test_steps_that_are_added_are_counted_back_for_all_starts_at_once(one: tuple[Step, int], other: tuple[Step, int]) -> None:
    step = one[0]
    a, b = grid(step, one[1]), grid(step, other[1])
    times, starts = np.concatenate([a, b]), np.repeat([a[0], b[0]], 40)
    count = np.tile(np.arange(40), 2)
    assert (count_steps(starts, step, times) == count).all()
    assert (add_steps(starts, step, count) == times).all()


@given(GRIDS, st.sets(st.integers(10, 35), max_size=8))
def test_the_interval_is_found_although_steps_are_absent(kind: tuple[Step, int], hidden: set[int]) -> None:
    times = grid(*kind)[[k for k in range(40) if k not in hidden]]
    assert find_step(times, begins(len(times))) == kind[0]


def test_the_interval_is_the_most_common_one_of_all_series() -> None:
    day = np.datetime64("2001-01-01", "us") + np.arange(5) * np.timedelta64(1, "D")
    times = np.concatenate([day[:1], day[::2], day])
    assert find_step(times, begins(1, 3, 5)) == Step(unit="second", count=86400)
    assert find_step(day[[0, 1, 0]], begins(1, 1, 1)) is None  # no series has two times
    assert find_step(np.array(["1000", "2100"], "datetime64[us]"), begins(2)) is None


@pytest.mark.parametrize(
    ("days", "unit"),
    [
        (["2001-01-04", "2001-01-05", "2001-01-08", "2001-01-09"], "business"),
        (["2001-01-01", "2001-01-02", "2001-01-03", "2001-01-04", "2001-01-05"], "second"),  # no weekend to be seen
        (["2001-01-01", "2001-01-02", "2001-01-05"], "second"),  # a gap, but not over a weekend
        (["2001-01-04", "2001-01-05", "2001-01-07", "2001-01-08", "2001-01-09"], "second"),  # a Sunday
        (["2001-01-05", "2001-01-12", "2001-01-19"], "second"),  # Fridays
    ],
)
def test_days_that_leave_out_every_weekend_are_business_days(days: list[str], unit: str) -> None:
    step = find_step(np.array(days, "datetime64[us]"), begins(len(days)))
    assert step is not None and step.unit == unit


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
    found = find_step(np.array(times, "datetime64[us]"), begins(len(times)))
    assert found is not None and (found.unit, found.count) == step
    assert guess_period(found) == period


def test_months_end_at_their_ends() -> None:
    ends = add_steps(np.datetime64("2001-11-30", "us"), STEPS[0], np.arange(6))
    assert [show_time(t) for t in ends] == ["2001-11-30", "2001-12-31", "2002-01-31", "2002-02-28", "2002-03-31", "2002-04-30"]
    both = add_steps(np.array(["2001-11-30", "2001-11-28"], "datetime64[us]"), STEPS[0], np.array([3, 3]))
    assert [show_time(t) for t in both] == ["2002-02-28", "2002-02-28"]


@pytest.mark.parametrize(
    ("every", "unit", "count"),
    [("15m", "second", 900), ("1h", "second", 3600), ("1D", "second", 86400), ("2w", "second", 1209600)]
    + [("1mo", "month", 1), ("1q", "month", 3), ("1y", "month", 12), ("1b", "business", 1), ("90s", "second", 90)],
)
def test_an_interval_is_written_and_read(every: str, unit: str, count: int) -> None:
    assert step_of(every) == Step(unit=unit, count=count)  # type: ignore[arg-type]
    assert step_of(every_of(step_of(every))) == step_of(every)


@pytest.mark.parametrize("every", ["", "h", "1", "0h", "-1h", "1.5h", "1x", "1 hour", "999999y", "1hh"])
def test_what_is_no_interval_is_refused(every: str) -> None:
    with pytest.raises(ArgumentError) as e:
        step_of(every)
    assert str(e.value) == (
        f"every: is no interval\n  got       {every!r}\n  expected  a number and s, m, h, d, w, mo, q, y or b (business days)\n"
        "  hint      for example --every 15m, or --every 1d"
    )


@given(st.lists(st.integers(-(10**9), 4 * 10**9), min_size=1, max_size=20), st.sampled_from(STEPS))
def test_every_time_lies_in_one_window(seconds: list[int], step: Step) -> None:
    times = np.datetime64(0, "us") + np.array(seconds) * np.timedelta64(1, "s")
    begin = windows(times, step)
    late = add_steps(begin, step, np.ones(len(times), int))
    if step.unit == "business":  # a weekend belongs to the Monday
        times = np.maximum(times, begin)
    assert ((begin <= times) & (times < late)).all()
    assert (windows(begin, step) == begin).all()


def test_windows_begin_where_people_begin_them() -> None:
    time = np.array(["2001-05-19T10:20:30"], "datetime64[us]")  # a Saturday
    found = {every: show_time(windows(time, step_of(every))[0]) for every in ("15m", "6h", "1d", "1w", "1mo", "1q", "1y", "1b")}
    assert found == {
        "15m": "2001-05-19 10:15",
        "6h": "2001-05-19 06:00",
        "1d": "2001-05-19",
        "1w": "2001-05-14",
        "1mo": "2001-05-01",
        "1q": "2001-04-01",
        "1y": "2001-01-01",
        "1b": "2001-05-21",
    }


def test_intervals_and_times_are_written_in_words() -> None:
    assert name_step(STEPS[4]) == "1 hour"
    assert name_step(STEPS[1], 2) == "2 quarters"
    assert name_step(Step(unit="month", count=2), 4) == "4 steps of 2 months"
    assert name_step(STEPS[-1], 5) == "5 business days"
    assert show_time(np.datetime64("2001-01-06T10:00:00")) == "2001-01-06 10:00"
    assert show_time(np.datetime64("2001-01-06T00:00:30")) == "2001-01-06 00:00:30"


@given(st.lists(st.integers(0, 4 * 10**12), min_size=1, max_size=5), st.sampled_from([1, 10**6, 60 * 10**6, 86400 * 10**6]))
def test_times_in_words_are_read_back(micros: list[int], unit: int) -> None:
    """All in one form, so that a column of them can be read, and none loses anything."""
    times = np.array([np.datetime64(0, "us") + m // unit * unit for m in micros])
    words = show_times(times)
    assert len({len(w) for w in words}) == 1
    assert (np.array([w.replace(" ", "T") for w in words], "datetime64[us]") == times).all()
