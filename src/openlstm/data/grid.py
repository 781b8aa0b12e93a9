"""The sampling interval of series: found, named, added to a time; windows to resample into; numpy alone."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime

import numpy as np

from openlstm.errors import ArgumentError
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
        return (
            count_words(count, "business day")
            if step.count == 1
            else f"{count_words(count, 'step')} of {step.count} business days"
        )
    units = (
        (("year", YEAR), ("quarter", 3), ("month", MONTH))
        if step.unit == "month"
        else (("week", WEEK), ("day", DAY), ("hour", HOUR), ("minute", MINUTE), ("second", 1))
    )
    for word, size in units:
        if step.count == size:
            return count_words(count, word)
    word, size = next((word, size) for word, size in units if step.count % size == 0)
    return f"{count_words(count, 'step')} of {step.count // size} {word}s"


def count_words(number: int, word: str) -> str:
    """A number of things: 1 row, 2 rows."""
    return f"{number} {word}{'s' * (number != 1)}"


def add_steps(start: np.datetime64 | np.ndarray, step: Step, count: np.ndarray) -> np.ndarray:
    """`start` plus so many steps; months keep the day where the month is long enough, else its last day.

    Args:
        start: one time, or an array of them for `count`.

    >>> add_steps(np.datetime64("2001-01-31"), Step(unit="month", count=1), np.arange(2)).astype("datetime64[D]").tolist()
    [datetime.date(2001, 1, 31), datetime.date(2001, 2, 28)]
    """
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
    offset = np.where(at_end, length - 1, np.minimum(day, length - 1))  # month ends stay month ends
    rest = start - start.astype("datetime64[D]")
    return months.astype("datetime64[D]") + offset + rest.astype("timedelta64[us]")


def count_steps(start: np.ndarray, step: Step, times: np.ndarray) -> np.ndarray:
    """How many steps each time lies behind its start, rounded, int64 [N]; the inverse of `add_steps` for times on the grid."""
    if step.unit == "month":
        months = times.astype("datetime64[M]").astype(np.int64) - start.astype("datetime64[M]").astype(np.int64)
        return np.round(months / step.count).astype(np.int64)
    if step.unit == "business":
        days = np.busday_count(start.astype("datetime64[D]"), times.astype("datetime64[D]"))
        return np.round(days / step.count).astype(np.int64)
    return np.round((times - start) / np.timedelta64(step.count, "s")).astype(np.int64)


def find_step(times: np.ndarray, begins: np.ndarray) -> Step | None:
    """The most common distance of series of times one after the other: calendar months if it is 28 days or more, else seconds.

    Daily times are business days where none of them is a Saturday or a Sunday, and a Monday follows on a Friday.

    Args:
        times: datetime64[us] [N], rising in each series.
        begins: whether a series begins there, bool [N].

    Returns:
        None if no series has two times, or if the most common distance is more than 1000 years.

    >>> find_step(np.array(["2001-01-04", "2001-01-05", "2001-01-08", "2001-01-09"], "datetime64[us]"), np.zeros(4, bool))
    Step(unit='business', count=1)
    """
    apart = (times[1:] - times[:-1])[~begins[1:]]
    if not len(apart):
        return None
    common = _most_common(apart)
    seconds = int(common / np.timedelta64(1, "s"))
    if seconds > 1000 * 365 * DAY:
        return None
    if seconds >= 28 * DAY:
        months = times.astype("datetime64[M]").astype(int)
        months = (months[1:] - months[:-1])[~begins[1:]]
        months = _most_common(months[months > 0]) if (months > 0).any() else 0
        if months and abs(seconds / DAY / (365.2425 / 12) - months) < 0.5:
            return Step(unit="month", count=int(months))
    if seconds == DAY:
        days = times.astype("datetime64[D]")
        weekend = (np.diff(days).astype(np.int64) == 3) & (np.busday_count(days[:-1], days[1:]) == 1) & ~begins[1:]
        if weekend.any() and np.is_busday(days).all():
            return Step(unit="business", count=1)
    return Step(unit="second", count=max(seconds, 1))


def _most_common(values: np.ndarray) -> np.ndarray:
    """The most common of the values, the smallest of several."""
    distinct, count = np.unique(values, return_counts=True)
    return distinct[np.argmax(count)]


EVERY = {
    "s": ("second", 1),
    "m": ("second", MINUTE),
    "h": ("second", HOUR),
    "d": ("second", DAY),
    "w": ("second", WEEK),
    "mo": ("month", MONTH),
    "q": ("month", 3),
    "y": ("month", YEAR),
    "b": ("business", 1),
}
"""The units of `--every`."""


def step_of(every: str) -> Step:
    """The interval that `--every` names.

    Raises:
        ArgumentError: if it is none.

    >>> step_of("15m"), step_of("1q")
    (Step(unit='second', count=900), Step(unit='month', count=3))
    """
    found = re.fullmatch(r"([1-9]\d{0,5})(s|mo|m|h|d|w|q|y|b)", every.strip().lower())
    if found is not None:
        unit, size = EVERY[found[2]]
        with suppress(ValueError):
            return Step(unit=unit, count=size * int(found[1]))  # type: ignore[arg-type]
    expected, hint = "a number and s, m, h, d, w, mo, q, y or b (business days)", "for example --every 15m, or --every 1d"
    raise ArgumentError.of("every", "is no interval", repr(every), expected, hint)


def every_of(step: Step) -> str:
    """How `--every` writes a step.

    >>> every_of(Step(unit="second", count=5400)), every_of(Step(unit="month", count=12))
    ('90m', '1y')
    """
    units = [(name, size) for name, (unit, size) in EVERY.items() if unit == step.unit and step.count % size == 0]
    name, size = max(units, key=lambda u: u[1])
    return f"{step.count // size}{name}"


def windows(times: np.ndarray, step: Step) -> np.ndarray:
    """The beginning of the window of one step in which each time lies, datetime64[us] [N].

    Weeks begin on Mondays; months, quarters and years as in the calendar; others at midnight. A weekend belongs to the
    business day that follows it.

    >>> windows(np.array(["2001-01-07T10:20"], "datetime64[us]"), Step(unit="month", count=3))
    array(['2001-01-01T00:00:00.000000'], dtype='datetime64[us]')
    """
    if step.unit == "month":
        months = times.astype("datetime64[M]").astype(np.int64)
        return (months // step.count * step.count).astype("datetime64[M]").astype("datetime64[us]")
    if step.unit == "business":
        first = np.datetime64("1969-12-29", "D")  # a Monday
        days = np.busday_offset(times.astype("datetime64[D]"), 0, roll="forward")
        count = np.busday_count(first, days) // step.count * step.count
        return np.busday_offset(first, count).astype("datetime64[us]")
    begin = np.datetime64("1970-01-05" if step.count % WEEK == 0 else "1970-01-01", "us")
    width = np.timedelta64(step.count, "s")
    return begin + (times - begin) // width * width


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
    from zoneinfo import ZoneInfo

    # clocks change at whole quarters of an hour
    quarters, where = np.unique(times.astype("datetime64[s]").astype(np.int64) // 900, return_inverse=True)
    there = ZoneInfo(zone)
    able = np.clip(quarters, -68_880_000, 281_500_000)  # a datetime has years from 1 to 9999, and so has its zone
    shifts = [datetime.fromtimestamp(int(q) * 900, UTC).astimezone(there).utcoffset() for q in able]
    return times + np.array(shifts, dtype="timedelta64[us]")[where]


def in_zone(times: np.ndarray, zone: str) -> list[str]:
    """Times in UTC as texts in a zone, with their distance to UTC.

    >>> in_zone(np.array(["2024-10-27T00:00", "2024-10-27T01:00"], "datetime64[us]"), "Europe/Berlin")
    ['2024-10-27 02:00+02:00', '2024-10-27 02:00+01:00']
    """
    there = wall_clock(times, zone)
    minutes = ((there - times) // np.timedelta64(1, "m")).astype(int)
    ends = [f"{'-' if m < 0 else '+'}{abs(m) // 60:02d}:{abs(m) % 60:02d}" for m in minutes.tolist()]
    texts = show_times(there)
    midnight = "" if not texts or " " in texts[0] else " 00:00"
    return [f"{text}{midnight}{end}" for text, end in zip(texts, ends, strict=True)]


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
