"""The baselines: simple methods that forecast many series at once, each of them kept as arrays in a model file.

Legend: S series, T steps of the past, K steps of the horizon, m steps of a season, W steps of a window, L lags.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar, NamedTuple, Self

import numpy as np

from openlstm.runtime.autoregression import autoregression
from openlstm.runtime.blocks import total
from openlstm.runtime.decoder import each_row
from openlstm.runtime.smoothing import forms, smooth, theta
from openlstm.runtime.window import carry


class Setting(NamedTuple):
    """What is forecast: steps of the horizon, of a season (1 without), and of the window that a linear map may see."""

    horizon: int
    period: int
    window: int


class Unfit(Exception):
    """A baseline cannot be used on these series; the text is the reason, for a table."""


class Baseline(ABC):
    """A method that is fitted to pasts [S, T] and then forecasts these or others [S, K]; float64, NaN where missing.

    A past has its newest step last, and NaN before it begins. A forecast is finite wherever one value is known, knows no other
    series, and no unit: times c for values times c.
    """

    name: ClassVar[str]
    LEAST: ClassVar[int] = 1  # known values that the longest series has to have

    @classmethod
    def fit(cls, past: np.ndarray, setting: Setting) -> Self:
        """Fit it to pasts.

        Raises:
            Unfit: if it cannot be used on them.
        """
        if np.isnan(past).all():
            raise Unfit("no value is known")
        _enough(past, cls.LEAST)
        return cls()

    @abstractmethod
    def forecast(self, past: np.ndarray, setting: Setting) -> np.ndarray:
        """The K steps behind each past."""

    @classmethod
    def shapes(cls, setting: Setting) -> dict[str, tuple[int, ...]]:
        """The shapes of its `arrays`."""
        return {}

    def arrays(self) -> dict[str, np.ndarray]:
        """What a model file keeps of it, float64; see `restore`."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]


@dataclass(frozen=True)
class Naive(Baseline):
    """The last known value, at every step.

    >>> Naive().forecast(np.array([[1.0, 2.0, np.nan]]), Setting(2, 1, 1)).tolist()
    [[2.0, 2.0]]
    """

    name = "naive"

    def forecast(self, past: np.ndarray, setting: Setting) -> np.ndarray:
        """[S, K]."""
        last = carry(past)[:, -1:] if past.shape[1] else np.full((len(past), 1), np.nan)
        return np.repeat(last, setting.horizon, axis=1)


@dataclass(frozen=True)
class SeasonalNaive(Baseline):
    """The last known value of the same season; of a season never known, the last known value.

    >>> SeasonalNaive().forecast(np.array([[1.0, 2.0, 3.0, np.nan]]), Setting(3, 2, 1)).tolist()
    [[3.0, 2.0, 3.0]]
    """

    name = "seasonal_naive"

    @classmethod
    def fit(cls, past: np.ndarray, setting: Setting) -> Self:
        """It needs a season."""
        if setting.period < 2:
            raise Unfit("needs a season of two steps or more")
        return super().fit(past, setting)

    def forecast(self, past: np.ndarray, setting: Setting) -> np.ndarray:
        """[S, K]."""
        m = setting.period
        if np.isnan(past).all():
            return Naive().forecast(past, setting)
        before = np.full((len(past), -past.shape[1] % m), np.nan)
        by_season = np.concatenate([before, past], axis=1).reshape(len(past), -1, m)
        last = carry(by_season.transpose(0, 2, 1))[..., -1]  # [S, m]
        last = np.where(np.isnan(last), Naive().forecast(past, setting)[:, :1], last)
        return last[:, np.arange(setting.horizon) % m]


@dataclass(frozen=True)
class SeasonalDrift(Baseline):
    """Seasonal naive plus the mean growth per season, as seen over the whole past; none where no two values tell.

        y(T+k) = y(T+k-jm) + j * mean(y_t - y_(t-m)),   j seasons back to the last season

    >>> SeasonalDrift().forecast(np.array([[1.0, 5.0, 2.0, 6.0]]), Setting(3, 2, 1)).tolist()
    [[3.0, 7.0, 4.0]]
    """

    name = "seasonal_drift"

    @classmethod
    def fit(cls, past: np.ndarray, setting: Setting) -> Self:
        """It needs two known values one season apart."""
        if setting.period < 2:
            raise Unfit("needs a season of two steps or more")
        if np.isnan(past[:, setting.period :] - past[:, : -setting.period]).all():
            raise Unfit("needs two known values one season apart")
        return cls()

    def forecast(self, past: np.ndarray, setting: Setting) -> np.ndarray:
        """[S, K]."""
        growth = past[:, setting.period :] - past[:, : -setting.period]
        mean = _mean(growth)
        ahead = 1 + np.arange(setting.horizon) // setting.period
        return SeasonalNaive().forecast(past, setting) + ahead * mean[:, None]


@dataclass(frozen=True)
class Drift(Baseline):
    """The last known value plus the mean growth per step, that is the line from the first known value to the last.

    >>> Drift().forecast(np.array([[1.0, np.nan, 5.0]]), Setting(2, 1, 1)).tolist()
    [[7.0, 9.0]]
    """

    name = "drift"
    LEAST = 2

    def forecast(self, past: np.ndarray, setting: Setting) -> np.ndarray:
        """[S, K]."""
        known = ~np.isnan(past)
        if not known.any():
            return Naive().forecast(past, setting)
        first, last = np.argmax(known, axis=1), past.shape[1] - 1 - np.argmax(known[:, ::-1], axis=1)
        ends = carry(past)[:, [0, -1]]
        growth = (ends[:, 1] - ends[:, 0]) / np.maximum(last - first, 1)
        since = past.shape[1] - 1 - last  # the line goes on through what is missing at the end
        return ends[:, 1:] + (since[:, None] + 1 + np.arange(setting.horizon)) * growth[:, None]


@dataclass(frozen=True)
class ETS(Baseline):
    """Exponential smoothing: level, trend (damped or not) and season (added or multiplied) as AICc asks; see `smooth`."""

    name = "ets"

    LEAST = 5
    DAMPED: ClassVar[tuple[bool, ...]] = (False, True)

    def forecast(self, past: np.ndarray, setting: Setting) -> np.ndarray:
        """[S, K]."""
        return _or_naive(smooth(past, setting.horizon, forms(setting.period, self.DAMPED)), past, setting)


@dataclass(frozen=True)
class DampedETS(ETS):
    """Exponential smoothing with a damped trend."""

    name = "damped_ets"

    DAMPED: ClassVar[tuple[bool, ...]] = (True,)


@dataclass(frozen=True)
class Theta(Baseline):
    """The Theta method, see `theta`."""

    name = "theta"
    LEAST = 4

    def forecast(self, past: np.ndarray, setting: Setting) -> np.ndarray:
        """[S, K]."""
        return _or_naive(theta(past, setting.horizon, setting.period), past, setting)


@dataclass(frozen=True)
class Autoregression(Baseline):
    """A linear map from the newest values of a series, of its own for each series; see `autoregression`."""

    name = "autoregression"
    LEAST = 10

    def forecast(self, past: np.ndarray, setting: Setting) -> np.ndarray:
        """[S, K]."""
        return _or_naive(autoregression(past, setting.horizon, setting.period), past, setting)


@dataclass(frozen=True)
class LinearWindow(Baseline):
    """One linear map for all series, from the last W values to the horizon, with a penalty on its weights.

        (y - anchor) / spread = X b + a,   X = (window - anchor) / spread

    where `anchor` is the last known value and `spread` the deviation within the window. b minimises
    |Y - X b - a|^2 + alpha s^2 |b|^2, s^2 the mean square of X.
    """

    weights: np.ndarray  # [W, K]
    bias: np.ndarray  # [K]

    name = "linear_window"

    ALPHAS: ClassVar[tuple[float, ...]] = tuple(10.0**k for k in range(-2, 5))
    MOST_PAIRS: ClassVar[int] = 10_000
    MOST_STEPS: ClassVar[int] = 2000  # of a window: a matrix is that size squared

    @classmethod
    def shapes(cls, setting: Setting) -> dict[str, tuple[int, ...]]:
        """A map from the window to the horizon."""
        return {"weights": (setting.window, setting.horizon), "bias": (setting.horizon,)}

    @classmethod
    def fit(cls, past: np.ndarray, setting: Setting) -> Self:
        """Alpha is chosen on the last twelfth (at least two horizons), then all of it is used."""
        window, horizon = setting.window, setting.horizon
        _enough(past, 2)
        if window > cls.MOST_STEPS:
            raise Unfit(f"would take too long: window {window} (at most {cls.MOST_STEPS})")
        steps = past.shape[1]
        edge = steps - max(2 * horizon, steps // 12)
        early, late = _pairs(past, setting, 0, edge, cls.MOST_PAIRS), _pairs(past, setting, edge, steps, cls.MOST_PAIRS)
        if min(len(early[0]), len(late[0])) < 2:
            raise Unfit("too few stretches without a missing value")
        errors = [np.abs(m._apply(late[0]) - late[1]).mean() for m in cls._solve(*early, cls.ALPHAS)]
        best = cls.ALPHAS[int(np.argmin(errors))]
        return cls._solve(*_pairs(past, setting, 0, steps, cls.MOST_PAIRS), (best,))[0]

    @classmethod
    def _solve(cls, x: np.ndarray, y: np.ndarray, alphas: tuple[float, ...]) -> list[Self]:
        s = np.sqrt((x**2).mean()) or 1.0
        mean_x, mean_y = x.mean(0), y.mean(0)
        xc = (x - mean_x) / s
        size, axes = np.linalg.eigh(xc.T @ xc)
        seen = axes.T @ (xc.T @ (y - mean_y))
        weights = [axes @ (seen / (np.maximum(size, 0) + alpha)[:, None]) / s for alpha in alphas]
        return [cls(w, mean_y - mean_x @ w) for w in weights]

    def _apply(self, x: np.ndarray) -> np.ndarray:
        return each_row(x, self.weights.T) + self.bias

    def forecast(self, past: np.ndarray, setting: Setting) -> np.ndarray:
        """[S, K]; a series that never moved stays where it is."""
        window = len(self.weights)
        if np.isnan(past).all():
            return Naive().forecast(past, setting)
        before = np.full((len(past), max(window - past.shape[1], 0)), np.nan)
        newest = np.concatenate([before, past[:, max(past.shape[1] - window, 0) :]], axis=1)
        x, anchor, spread = _scaled(newest, _step(past))
        return _or_naive(anchor[:, None] + spread[:, None] * self._apply(x), past, setting)


BY_NAME: dict[str, type[Baseline]] = {
    cls.name: cls for cls in (Naive, SeasonalNaive, Drift, SeasonalDrift, ETS, DampedETS, Theta, Autoregression, LinearWindow)
}
"""By the name in a model file."""


def restore(name: str, arrays: dict[str, np.ndarray]) -> Baseline:
    """The baseline whose `arrays` a model file keeps.

    >>> restore("naive", {}) == Naive()
    True
    """
    return BY_NAME[name](**arrays)


def _enough(past: np.ndarray, least: int) -> None:
    if (~np.isnan(past)).sum(1).max(initial=0) < least:
        raise Unfit(f"needs a series with {least} known values")


def _or_naive(forecast: np.ndarray, past: np.ndarray, setting: Setting) -> np.ndarray:
    """The last known value where there is no finite forecast."""
    return np.where(np.isfinite(forecast).all(axis=1, keepdims=True), forecast, Naive().forecast(past, setting))


def _step(past: np.ndarray) -> np.ndarray:
    """The mean size of a step of each series, [S]."""
    return _mean(np.abs(past[:, 1:] - past[:, :-1]))


def _mean(x: np.ndarray) -> np.ndarray:
    """The mean of what is known in each row, 0 where nothing is, [S]; what is missing in front changes no bit."""
    known = ~np.isnan(x)
    return total(np.where(known, x, 0.0).T) / np.maximum(known.sum(1), 1)


def _scaled(windows: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows [N, W] seen from their last known value, in units of their spread; these values and spreads [N].

    The spread is at least a step of the series, so that a window that hardly moves is not blown up.
    """
    x = carry(windows)
    anchor, spread = x[:, -1], np.maximum(x.std(axis=1), step)
    return (x - anchor[:, None]) / np.where(spread > 0, spread, 1.0)[:, None], anchor, spread


def _pairs(past: np.ndarray, setting: Setting, first: int, last: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Scaled windows and what follows each, fully known, within steps `first` to `last`; evenly thinned to `most`."""
    window, horizon = setting.window, setting.horizon
    begin = np.argmax(~np.isnan(past), axis=1)
    low, high = np.maximum(first, begin + window), last - horizon  # [S], origins
    count = np.maximum(high - low + 1, 0)
    ends = np.cumsum(count)
    every = -(-int(ends[-1]) // most) or 1
    number = np.arange(0, ends[-1], every)
    series = np.searchsorted(ends, number, side="right")
    origin = low[series] + number - (ends - count)[series]
    y = past[series[:, None], origin[:, None] + np.arange(horizon)]
    x = past[series[:, None], origin[:, None] + np.arange(-window, 0)]
    whole = ~np.isnan(y).any(1) & ~np.isnan(x).all(1)
    x, anchor, spread = _scaled(x[whole], _step(past)[series[whole]])
    moved = spread > 0
    return x[moved], (y[whole][moved] - anchor[moved, None]) / spread[moved, None]
