"""Forecasters of other packages beside ours in an evaluation, each with a time limit: AutoARIMA and gradient boosting.

Legend: S series, W lags, K steps of the horizon, Q quantiles.
"""

from __future__ import annotations

import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

from openlstm.data.panel import Panel
from openlstm.runtime.prediction import Prediction

LONGEST_SEASON = 60  # of AutoARIMA; one fit with a longer one can take minutes, and cannot be stopped
MOST_ROWS = 30_000  # that gradient boosting learns from
MOST_LAGS = 48

Rival = Callable[[Panel], Prediction]


class Late(Exception):  # noqa: N818  not an error: it becomes a line of the table
    """A rival has used up its time, or has failed."""


class Shape(Protocol):
    """What a rival has to know of the model that it stands beside."""

    @property
    def horizon(self) -> int: ...  # noqa: D102

    @property
    def period(self) -> int: ...  # noqa: D102

    @property
    def window(self) -> int: ...  # noqa: D102

    @property
    def levels(self) -> tuple[float, ...]: ...  # noqa: D102


def rivals(shape: Shape, time_limit: float) -> tuple[dict[str, Rival], dict[str, str]]:
    """Those that are installed, by name, and why others are not asked. Each is fitted at its first call, and again at none.

    A call raises `Late` once its calls have taken longer than the limit together. The limit is looked at between two
    fits: a single fit is not stopped.
    """
    found: dict[str, Rival] = {}
    missing: dict[str, str] = {}
    if find_spec("statsforecast") is None:
        missing["AutoARIMA"] = "not installed: pip install statsforecast"
    elif shape.period > LONGEST_SEASON:
        missing["AutoARIMA"] = f"would take too long: season of {shape.period} steps (at most {LONGEST_SEASON})"
    else:
        found["AutoARIMA"] = AutoArima(shape, time_limit)
    if find_spec("sklearn") is None:
        missing["gradient boosting"] = "not installed: pip install scikit-learn"
    else:
        found["gradient boosting"] = Boosting(shape, time_limit)
    return found, missing


class _Timed(ABC):
    """A rival, and the time that it has left."""

    name = ""

    def __init__(self, shape: Shape, time_limit: float) -> None:
        self.shape, self.limit, self.left, self.begin = shape, time_limit, time_limit, 0.0

    def __call__(self, panel: Panel) -> Prediction:
        self.begin = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of optimisers that stop early; the forecast is used as it is
                values = self._forecast(panel)
        except Late:
            raise
        except Exception as error:  # whatever another package makes of the data: the table says so, and goes on
            raise Late(f"it failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}") from error
        seconds = time.perf_counter() - self.begin
        self.left -= seconds
        return Prediction.after(panel, self.shape.levels, np.sort(values, axis=-1), self.name, seconds)

    def _check(self, done: str) -> None:
        if time.perf_counter() - self.begin > self.left:
            raise Late(f"stopped after {self.limit:g} s: {done}")

    @abstractmethod
    def _forecast(self, panel: Panel) -> np.ndarray:
        """[S, K, Q]"""


class AutoArima(_Timed):
    """statsforecast's AutoARIMA: a model for each series, its orders and coefficients found at the first origin."""

    name = "AutoARIMA"

    def __init__(self, shape: Shape, time_limit: float) -> None:
        super().__init__(shape, time_limit)
        self.fitted: dict[tuple[str, ...], Any] = {}

    def _forecast(self, panel: Panel) -> np.ndarray:
        from statsforecast.models import AutoARIMA  # pyright: ignore[reportMissingImports]

        levels = self.shape.levels
        shares = sorted({round(100 * abs(1 - 2 * q), 6) for q in levels if q != 0.5})
        out = np.empty((len(panel), self.shape.horizon, len(levels)))
        for s in range(len(panel)):
            self._check(f"{s:,} of {len(panel):,} series done")
            past, key = _filled(panel.past(s)), panel.keys[s]
            if key not in self.fitted:
                self.fitted[key] = AutoARIMA(season_length=self.shape.period).fit(past)
            said = self.fitted[key].forward(past, self.shape.horizon, level=shares or None)
            for k, q in enumerate(levels):
                side = f"{'lo' if q < 0.5 else 'hi'}-{round(100 * abs(1 - 2 * q), 6)}"
                column = "mean" if q == 0.5 else next(c for c in said if _same_column(c, side))
                out[s, :, k] = said[column]
        return out


class Boosting(_Timed):
    """scikit-learn's histogram gradient boosting over the lags of the target: one model of all series for each quantile.

    It learns what has to be added to the seasonal naive forecast. Its features are the lags and the last two values of the
    same season, as differences to the last known value; the step ahead; the place in the season. The unit of a series is
    its mean change. Covariates are not read.
    """

    name = "gradient boosting"

    def __init__(self, shape: Shape, time_limit: float) -> None:
        super().__init__(shape, time_limit)
        self.lags = int(min(max(shape.window, shape.period), MOST_LAGS))
        self.models: list[Any] = []

    def _forecast(self, panel: Panel) -> np.ndarray:
        from sklearn.ensemble import HistGradientBoostingRegressor  # pyright: ignore[reportMissingImports]

        horizon, levels = self.shape.horizon, self.shape.levels
        if not self.models:
            x, y = self._examples(panel)
            if len(y) < 20:
                raise Late(f"the series are too short: {len(y)} examples")
            for k, level in enumerate(levels):
                self._check(f"{k} of {len(levels)} quantiles fitted")
                loss: dict[str, Any] = {"loss": "absolute_error"} if level == 0.5 else {"loss": "quantile", "quantile": level}
                self.models.append(HistGradientBoostingRegressor(max_iter=200, random_state=0, **loss).fit(x, y))
        self._check("fitted, no forecast yet")
        series = np.repeat(np.arange(len(panel)), horizon)
        ahead = np.tile(np.arange(1, horizon + 1), len(panel))
        x, base, unit = self._features(panel, panel.pasts(), series, panel.history[series], ahead)
        out = np.stack([base + unit * model.predict(x) for model in self.models], axis=-1)
        return out.reshape(len(panel), horizon, len(levels))

    def _examples(self, panel: Panel) -> tuple[np.ndarray, np.ndarray]:
        """Features and targets of random steps of the past with a known target, at random distances."""
        generator = np.random.default_rng(0)
        pasts = panel.pasts()
        begin = pasts.shape[1] - panel.history
        series, column = np.nonzero(~np.isnan(pasts))
        rounds = int(np.clip(MOST_ROWS // max(len(series), 1), 1, self.shape.horizon))
        chosen = generator.permutation(np.tile(np.arange(len(series)), rounds))[:MOST_ROWS]
        series, at = series[chosen], (column - begin[series])[chosen]
        ahead = generator.integers(1, self.shape.horizon + 1, len(at))
        enough = at - ahead >= min(self.lags, 4)
        series, at, ahead = series[enough], at[enough], ahead[enough]
        x, base, unit = self._features(panel, pasts, series, at - ahead + 1, ahead)
        y = (pasts[series, at + begin[series]] - base) / unit
        usable = np.isfinite(y)
        return x[usable], y[usable]

    def _features(
        self, panel: Panel, pasts: np.ndarray, series: np.ndarray, seen: np.ndarray, ahead: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """[n, W + 4], the seasonal naive forecast [n] and the unit [n] of the step so far `ahead` of `seen` steps."""
        period, before = self.shape.period, max(self.lags, 2 * self.shape.period)
        change = np.abs(np.diff(pasts, axis=1))
        sizes = np.nansum(change, axis=1) / np.maximum((~np.isnan(change)).sum(axis=1), 1)
        unit = np.where(sizes > 0, sizes, 1.0)[series]
        padded = np.concatenate([np.full((len(pasts), before), np.nan), pasts], axis=1)
        end = before + pasts.shape[1] - panel.history[series] + seen  # the column behind the last step that is seen
        window = padded[series[:, None], end[:, None] - np.arange(self.lags, 0, -1)]
        newest = self.lags - 1 - np.argmax(~np.isnan(window[:, ::-1]), axis=1)
        last = window[np.arange(len(window)), newest]
        back = end + ahead - 1 - period * (1 + (ahead - 1) // period)
        base = np.where(np.isnan(padded[series, back]), last, padded[series, back])
        columns = np.column_stack([window, base, padded[series, back - period]])
        return np.column_stack([(columns - last[:, None]) / unit[:, None], ahead, (seen + ahead - 1) % period]), base, unit


def _filled(past: np.ndarray) -> np.ndarray:
    """The past with its missing values interpolated, since the method needs all of them."""
    known = ~np.isnan(past)
    steps = np.arange(len(past))
    return np.interp(steps, steps[known], past[known])


def _same_column(name: str, wanted: str) -> bool:
    """Whether a column is the wanted end of a band, however its share is written: `lo-80` or `lo-80.0`."""
    (side, share), (want, size) = name.partition("-")[::2], wanted.partition("-")[::2]
    return side == want and bool(share) and abs(float(share) - float(size)) < 1e-6
