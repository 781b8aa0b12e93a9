"""`size="auto"`: window, size and length of the training from the amount of data, and why; nothing is chosen on held-out rows.

Legend: S series, N known steps of all of them, m steps of a season, K steps of the horizon, W steps of a window.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from openlstm.data.grid import DAY, HOUR, WEEK, guess_period, name_step
from openlstm.data.panel import Panel
from openlstm.model_file import Lag, Step

YEARS = 2  # so many have to be seen before the place in the year is an input
LONGEST = 400  # steps of a window of `simulate`, unless asked for
WINDOWS = 30  # of validation, side by side, that are wanted of all series together
MANY = 5000  # known steps of all series together, from which on the network is large
LEAST, LONG = 8, 48  # steps of a window, and of a window of long series where neither season nor horizon asks for more


@dataclass(frozen=True)
class Recipe:
    """What is trained, and how; made by `choose`.

    steps: of the optimiser, each on `batch_size` windows.
    precision: one of `train.options.PRECISIONS`.
    validation: int64 [S], the last steps of each series that the first network is not trained on.
    """

    period: int
    window: int
    lags: tuple[Lag, ...]
    calendar: tuple[str, ...]
    hidden_size: int
    num_layers: int
    width: int
    batch_size: int
    steps: int
    learning_rate: float
    validation: np.ndarray
    precision: str = "float32"

    def simulating(self, panel: Panel, window: int | None = None) -> Recipe:
        """The same for `simulate`: windows of a year (400 steps at most), no lags, smaller batches of many targets each."""
        year = min(round(1 / panel.step.years()), LONGEST)
        W = window or max(self.window, min(year, int(np.median(panel.history)) // 3))
        return replace(self, window=W, lags=(), batch_size=min(self.batch_size, 64))

    def tell(self, panel: Panel, horizon: int) -> list[str]:
        """What was chosen and why, a line each."""
        known, S = int(panel.history.sum()), len(panel)
        windows = int(np.maximum(panel.history - horizon - self.period, 1).sum())
        season = f"season {self.period}" if self.period > 1 else "no season"
        return [
            f"{S:,} series, {known:,} steps, one each {name_step(panel.step).removeprefix('1 ')}; {season}",
            f"the network: {self.num_layers} x {self.hidden_size} units over windows of {self.window} steps",
            f"the training: {self.steps:,} steps of {self.batch_size} windows, out of {windows:,}",
        ]


def choose(panel: Panel, horizon: int, *, period: int | None = None, window: int | None = None) -> Recipe:
    """Window, size and training from the amount of data.

    - season m: as given, or as the sampling interval suggests
    - window: max(2 m, K, 8), or a sixth of the series up to 48 steps; lags reach further back
    - lags: the same place in the last three seasons, and a week before where a day is the season
    - validation: two horizons of each series; of fewer than fifteen series more, up to a quarter of each; one horizon, or
      nothing, of a short one
    - size: 64 units, 500 to 1,000 steps of 256 windows; where fewer than 5,000 steps are known 32 units, 600 steps of 64

    >>> from openlstm.model_file import Step
    >>> recipe = choose(Panel.of([[1.0] * 120], "2001-01-01", Step(unit="month", count=1)), 12)
    >>> recipe.window, len(recipe.lags), recipe.validation.tolist()
    (24, 3, [30])
    """
    step = panel.step
    m = period or guess_period(step)
    week = WEEK // step.count if step.unit == "second" and WEEK % step.count == 0 else 0
    long = int(np.median(panel.history))
    second = week if step.count < DAY and m * step.count == DAY and long >= 3 * week else 0
    W = max(2 * m if m > 1 else 1, horizon, LEAST, min(LONG, long // 6))
    lags = tuple(Lag(season=m, back=back) for back in range(3)) if m > 1 else ()
    lags += (Lag(season=second),) if second else ()
    known = int(panel.history.sum())
    return Recipe(
        period=m,
        window=window or W,
        lags=lags,
        calendar=_calendar(panel.step, long),
        hidden_size=64 if known >= MANY else 32,
        num_layers=1,
        width=24,
        batch_size=256 if known >= MANY else 64,
        steps=int(np.clip(known // 300, 500, 1000)) if known >= MANY else 600,
        learning_rate=3e-3 if known >= MANY else 1e-2,
        validation=_validation(panel.history, horizon, m),
    )


def _validation(history: np.ndarray, horizon: int, period: int) -> np.ndarray:
    """How many steps at the end of each series choose and calibrate, int64 [S]: the fewer series, the more of each."""
    windows = max(2, -(-WINDOWS // max(len(history), 1)))
    enough = lambda left: left >= horizon + max(period + 2, 3)  # noqa: E731
    part = np.minimum(windows * horizon, np.maximum(history // 4, 2 * horizon))
    short = np.where(enough(history - horizon), horizon, 0)
    return np.where(enough(history - part) & (history >= 3 * part), part, short)


def _calendar(step: Step, long: int) -> tuple[str, ...]:
    """What of the calendar the network reads: what has been seen at least twice, and is not the season itself."""
    years = long * step.years()
    if step.unit == "month":
        return ("month",) if years >= YEARS and 12 % step.count == 0 and step.count < 12 else ()
    if step.unit == "business":
        return ("weekday",) + (("yearday",) if years >= YEARS else ())
    parts = ("hour",) if step.count < DAY and DAY % step.count == 0 and step.count >= 60 else ()
    parts += ("weekday",) if step.count <= DAY and long * step.count >= 3 * WEEK and DAY % step.count == 0 else ()
    return parts + (("yearday",) if years >= YEARS and step.count >= HOUR else ())
