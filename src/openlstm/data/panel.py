"""`Panel`: one or many series on a grid of one sampling interval, with their covariates; numpy alone.

Legend: S series, T steps of one series, N steps of all series together, K steps of a horizon.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from openlstm.data.grid import DAY, add_steps
from openlstm.errors import ShapeError, describe
from openlstm.model_file import Step

Role = Literal["future", "past", "static"]

LARGEST = 1e100
"""The largest size of a value: its square, and sums of them, stay inside float64."""


class Note(NamedTuple):
    """Something a user should know about the data: what, and how often, where."""

    kind: str  # "missing", "gaps", "order", ...
    count: int
    text: str


@dataclass(frozen=True)
class Covariate:
    """A column beside the target: numbers, or codes of categories.

    role: "future" is known ahead, "past" is known up to now, "static" is one value for each series.
    values: float64 [N] ([S] if static), NaN where missing; with `categories` their positions in it.
    """

    name: str
    role: Role
    values: np.ndarray
    categories: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Panel:
    """Series on grids of one step.

    keys: the values of the id columns `ids` of each series; `((),)` for a series without a name.
    starts: datetime64[us] [S]; wall-clock time, or UTC where `utc`.
    offsets: int64 [S + 1]; series s has the rows offsets[s] to offsets[s + 1] of every array [N].
    history: int64 [S]; so many steps of it are the past. Behind them the target is NaN, and so are covariates of the past.
    values: float64 [N], the target.

    >>> panel = Panel.of([[1.0, 2.0, 3.0], [5.0, 6.0]], start="2001-01-01", step=Step(unit="second", count=86400))
    >>> len(panel), panel.past(1).tolist(), panel.times(1).astype("datetime64[D]").astype(str).tolist()
    (2, [5.0, 6.0], ['2001-01-01', '2001-01-02'])
    """

    target: str
    time: str
    step: Step
    keys: tuple[tuple[str, ...], ...]
    starts: np.ndarray
    offsets: np.ndarray
    history: np.ndarray
    values: np.ndarray
    ids: tuple[str, ...] = ()
    zone: str | None = None
    covariates: tuple[Covariate, ...] = ()
    notes: tuple[Note, ...] = ()

    @classmethod
    def of(
        cls,
        series: list[np.ndarray] | list[list[float]],
        start: str | np.datetime64 | np.ndarray,
        step: Step,
        *,
        keys: list[tuple[str, ...]] | None = None,
        ids: tuple[str, ...] = (),
        target: str = "value",
        time: str = "time",
    ) -> Panel:
        """A panel of arrays, NaN where missing; `start` is one time for all, or one for each."""
        lengths = np.array([len(s) for s in series], dtype=np.int64)
        starts = np.broadcast_to(np.asarray(start, dtype="datetime64[us]"), lengths.shape)
        if keys is None:
            keys = [()] if len(series) == 1 else [(str(s),) for s in range(len(series))]
            ids = ids or (() if len(series) == 1 else ("series",))
        values = np.concatenate([np.asarray(s, dtype=np.float64) for s in series])
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return cls(target, time, step, tuple(keys), starts, offsets, lengths, values, ids)

    def __len__(self) -> int:
        """How many series there are."""
        return len(self.keys)

    @property
    def utc(self) -> bool:
        """Whether the times are counted in UTC: with a zone, where a step is shorter than a day."""
        return self.zone is not None and self.step.unit == "second" and self.step.count < DAY

    @property
    def lengths(self) -> np.ndarray:
        """How many steps each series has, those of its future included, int64 [S]."""
        return np.diff(self.offsets)

    def rows(self, series: int) -> slice:
        """Where the steps of one series lie in the arrays [N]."""
        return slice(int(self.offsets[series]), int(self.offsets[series + 1]))

    def past(self, series: int) -> np.ndarray:
        """The target of the past of one series, float64 [T]."""
        first = int(self.offsets[series])
        return self.values[first : first + int(self.history[series])]

    def times(self, series: int) -> np.ndarray:
        """The times of all its steps, datetime64[us]."""
        return add_steps(self.starts[series], self.step, np.arange(self.lengths[series]))

    def future_times(self, steps: int) -> np.ndarray:
        """The times of the steps behind the past of each series, datetime64[us] [S, steps]."""
        return add_steps(self.starts[:, None], self.step, self.history[:, None] + np.arange(steps))

    def name(self, series: int) -> str:
        """What an error calls a series: `store=3, item=4`; the target where it has no other name."""
        return ", ".join(f"{i}={k}" for i, k in zip(self.ids, self.keys[series], strict=True)) or self.target

    def covariate(self, name: str) -> Covariate:
        """The covariate of that name."""
        return next(c for c in self.covariates if c.name == name)

    def at(self, history: np.ndarray) -> Panel:
        """The panel as it was known when each series had so many steps of past, int64 [S].

        Behind the origin the target and the covariates of the past are NaN. What is known ahead stays.

        >>> panel = Panel.of([[1.0, 2.0, 3.0]], start="2001-01-01", step=Step(unit="month", count=1))
        >>> panel.at(np.array([2])).values.tolist()
        [1.0, 2.0, nan]
        """
        history = np.minimum(np.asarray(history, dtype=np.int64), self.lengths)
        unknown = np.arange(len(self.values)) >= np.repeat(self.offsets[:-1] + history, self.lengths)
        hide = lambda values: np.where(unknown, np.nan, values)  # noqa: E731
        seen = tuple(replace(c, values=hide(c.values)) if c.role == "past" else c for c in self.covariates)
        return replace(self, history=history, values=hide(self.values), covariates=seen)

    def only(self, series: np.ndarray | slice) -> Panel:
        """The panel of some of the series, by their numbers, a mask [S] or a slice of neighbours."""
        chosen = np.arange(len(self))[series]
        sizes = self.lengths[chosen]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        rows = runs(self.offsets[chosen], sizes)
        if isinstance(series, slice) and len(chosen):  # neighbours: what they hold lies in one piece
            rows = slice(self.offsets[chosen[0]], self.offsets[chosen[-1] + 1])
        some = tuple(replace(c, values=c.values[chosen if c.role == "static" else rows]) for c in self.covariates)
        return replace(
            self,
            keys=tuple(map(self.keys.__getitem__, chosen.tolist())),
            starts=self.starts[chosen],
            offsets=offsets,
            history=self.history[chosen],
            values=self.values[rows],
            covariates=some,
        )

    def pasts(self, most: int | None = None) -> np.ndarray:
        """The pasts of all series side by side, the newest step last, float64 [S, T]; NaN before a series begins.

        Args:
            most: at most so many steps of each.

        >>> panel = Panel.of([[1.0, 2.0, 3.0], [5.0, 6.0]], start="2001-01-01", step=Step(unit="month", count=1))
        >>> panel.pasts().tolist()
        [[1.0, 2.0, 3.0], [nan, 5.0, 6.0]]
        """
        steps = int(min(self.history.max(initial=0), most or np.iinfo(np.int64).max))
        out = np.full((len(self), steps), np.nan)
        known = np.minimum(self.history, steps)
        out[np.arange(steps) >= steps - known[:, None]] = self.values[runs(self.offsets[:-1] + self.history - known, known)]
        return out

    def __iter__(self) -> Iterator[Panel]:
        """Each series as a panel of its own."""
        return (self.only(np.array([s])) for s in range(len(self)))


def runs(begins: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """So many whole numbers from each begin on, one run behind the other, int64.

    >>> runs(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    return np.arange(sizes.sum()) + np.repeat(begins - np.cumsum(sizes) + sizes, sizes)


def rows_of(who: str, values: ArrayLike) -> np.ndarray:
    """Floats [T] or [S, T] as float64 [S, T].

    Raises:
        ShapeError: for other axes, or rows of different lengths.

    >>> rows_of("predict", [1, 2]).tolist()
    [[1.0, 2.0]]
    """
    try:
        rows = np.ascontiguousarray(values, dtype=np.float64)
    except ValueError as e:
        what, hint = "the values are no array of numbers", "fill up shorter rows with NaN at the left, or pass a panel"
        raise ShapeError.of(who, what, str(e).split(".")[0], "[T] or [S, T]", hint) from None
    if np.ndim(values) not in (1, 2):
        what, got = "values has the wrong number of axes", f"values: {describe(np.asarray(values, np.float64))}"
        raise ShapeError.of(who, what, got, "[T] or [S, T]", "pass one series, or one series per row")
    return np.atleast_2d(rows)
