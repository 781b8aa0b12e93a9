"""The sampling interval of a series: named, and added to a time; numpy alone."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np

from openlstm.model_file import Step

YEAR, MONTH = 12, 1  # in months
WEEK, DAY, HOUR, MINUTE = 604800, 86400, 3600, 60  # in seconds


def guess_period(step: Step) -> int:
    """The number of steps in the season that a sampling interval suggests.

    Monthly 12, quarterly 4, weekly 52, daily 7, business days 5, hours and minutes: a day, seconds: an hour; otherwise 1,
    which is no season.

    >>> guess_period(Step(unit="second", count=604800)), guess_period(Step(unit="month", count=3))
    (52, 4)
    """
    if step.unit == "business":
        return 5 if step.count == 1 else 1
    if step.unit == "month":
        return YEAR // step.count if YEAR % step.count == 0 else 1
    for interval, season in ((WEEK, 52), (DAY, 7)):
        if step.count == interval:
            return season
    for season in (DAY, HOUR):
        if step.count < season and season % step.count == 0 and (season == HOUR or step.count >= MINUTE):
            return season // step.count
    return 1


def name_step(step: Step, count: int = 1) -> str:
    """So many steps in words.

    >>> name_step(Step(unit="second", count=604800), 52), name_step(Step(unit="second", count=900), 4)
    ('52 weeks', '4 steps of 15 minutes')
    """
    if step.unit == "business":
        return _count(count, "business day") if step.count == 1 else f"{_count(count, 'step')} of {step.count} business days"
    units = (
        (("year", YEAR), ("quarter", 3), ("month", MONTH))
        if step.unit == "month"
        else (("week", WEEK), ("day", DAY), ("hour", HOUR), ("minute", MINUTE), ("second", 1))
    )
    for word, size in units:
        if step.count == size:
            return _count(count, word)
    word, size = next((word, size) for word, size in units if step.count % size == 0)
    return f"{_count(count, 'step')} of {step.count // size} {word}s"


def _count(number: int, word: str) -> str:
    """A number of things: 1 row, 2 rows."""
    return f"{number} {word}{'s' * (number != 1)}"


def add_steps(start: np.datetime64, step: Step, count: np.ndarray) -> np.ndarray:
    """`start` plus so many steps; months keep the day where the month is long enough, else its last day."""
    if step.unit == "business":
        day = start.astype("datetime64[D]")
        return np.busday_offset(day, count * step.count, roll="forward") + (start - day).astype("timedelta64[us]")
    if step.unit == "second":
        return start + (count * step.count).astype("timedelta64[s]")
    month = start.astype("datetime64[M]")
    day = start.astype("datetime64[D]") - month.astype("datetime64[D]")
    months = month + (count * step.count).astype("timedelta64[M]")
    length = (months + np.timedelta64(1, "M")).astype("datetime64[D]") - months.astype("datetime64[D]")
    at_end = day == (month + np.timedelta64(1, "M")).astype("datetime64[D]") - month.astype("datetime64[D]") - 1
    offset = length - 1 if at_end else np.minimum(day, length - 1)  # month ends stay month ends
    rest = start - start.astype("datetime64[D]")
    return months.astype("datetime64[D]") + offset + rest.astype("timedelta64[us]")


def show_time(time: np.datetime64 | np.ndarray) -> str:
    """A datetime64 without the parts that are zero.

    >>> show_time(np.datetime64("2001-12-29T00:00:00.000000")), show_time(np.datetime64("2001-12-29T06:30:00.000000"))
    ('2001-12-29', '2001-12-29 06:30')
    """
    return show_times(np.array([time]))[0]


def show_times(times: np.ndarray) -> list[str]:
    """As `show_time`, all of them in the one form that loses nothing.

    >>> show_times(np.array(["2001-12-29T23:00", "2001-12-30T00:00"], "datetime64[us]"))
    ['2001-12-29 23:00', '2001-12-30 00:00']
    """
    unit = next((u for u in ("D", "m", "s") if (times.astype(f"datetime64[{u}]") == times).all()), "us")
    return [str(time).replace("T", " ") for time in times.astype(f"datetime64[{unit}]")]


def wall_clock(times: np.ndarray, zone: str) -> np.ndarray:
    """Times in UTC as a clock in a zone shows them, datetime64[us].

    >>> show_times(wall_clock(np.array(["2024-03-31T00:30", "2024-03-31T01:30"], "datetime64[us]"), "Europe/Berlin"))
    ['2024-03-31 01:30', '2024-03-31 03:30']
    """
    # clocks change at whole quarters of an hour
    quarters, where = np.unique(times.astype("datetime64[s]").astype(np.int64) // 900, return_inverse=True)
    there = ZoneInfo(zone)
    shifts = [datetime.fromtimestamp(int(q) * 900, UTC).astimezone(there).utcoffset() for q in quarters]
    return times + np.array(shifts, dtype="timedelta64[us]")[where]


def phase(times: np.ndarray, cycle: str) -> np.ndarray:
    """Where in the day, the week or the year a time lies, from 0 to below 1: `hour`, `weekday`, `yearday` or `month`.

    >>> phase(np.array(["2024-01-01T06:00", "2024-07-03"], "datetime64[us]"), "hour").tolist()
    [0.25, 0.0]
    """
    day = times.astype("datetime64[D]")
    if cycle == "hour":
        return (times - day) / np.timedelta64(DAY, "s")
    if cycle == "weekday":
        return (day.astype(np.int64) + 3) % 7 / 7
    if cycle == "month":
        return times.astype("datetime64[M]").astype(np.int64) % 12 / 12
    return (day - day.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64) / 366
