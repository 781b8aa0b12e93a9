"""The baselines beside every forecast: naive, seasonal naive, seasonal naive with drift, ETS, and a linear window model.

Legend: T steps of the past, K steps of the horizon, m steps of a season, W steps of a window.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from openlstm.data import cut, origins
from openlstm.errors import DataError, missing_extra, source
from openlstm.runtime.model import Forecast
from openlstm.runtime.window import carry

Baseline = Callable[[np.ndarray], Forecast | np.ndarray]
"""past [T] -> the median [K], or a whole `Forecast` where it has a band of its own."""


def naive(past: np.ndarray, horizon: int) -> np.ndarray:
    """The last known value, at every step.

    >>> naive(np.array([1.0, 2.0, np.nan]), 2).tolist()
    [2.0, 2.0]
    """
    return np.full(horizon, carry(past)[-1])


def seasonal_naive(past: np.ndarray, horizon: int, period: int) -> np.ndarray:
    """The last known value of the same season.

    >>> seasonal_naive(np.array([1.0, 2.0, 3.0, np.nan]), 3, 2).tolist()
    [3.0, 2.0, 3.0]
    """
    by_season = carry(_by_season(past, period).T)  # [m, seasons], the newest season last
    last = np.where(np.isnan(by_season[:, -1]), naive(past, 1), by_season[:, -1])
    return last[np.arange(horizon) % period]


def seasonal_drift(past: np.ndarray, horizon: int, period: int) -> np.ndarray:
    """Seasonal naive plus the mean growth per season, as seen over the whole past.

        y(T+k) = y(T+k-jm) + j * mean(y_t - y_(t-m)),   j seasons back to the last known season

    >>> seasonal_drift(np.array([1.0, 5.0, 2.0, 6.0]), 3, 2).tolist()
    [3.0, 7.0, 4.0]
    """
    growth = past[period:] - past[:-period]
    if np.isnan(growth).all():
        what, got = "the past holds no two values one season apart", f"{len(past)} values"
        expected, hint = f"more than {period}", "give a longer past"
        raise DataError.of("seasonal_drift", what, got, expected, hint)
    seasons = 1 + np.arange(horizon) // period
    return seasonal_naive(past, horizon, period) + seasons * np.nanmean(growth)


def ets(past: np.ndarray, horizon: int, period: int) -> np.ndarray:
    """Exponential smoothing with additive trend and season (Holt-Winters), fitted to the past by statsmodels.

    Missing values are interpolated first, since the method needs a full grid.

    Raises:
        MissingExtraError: without statsmodels.
    """
    try:
        from statsmodels.tsa.holtwinters import ExponentialSmoothing
    except ImportError:
        raise missing_extra("ets", "statsmodels", "demo") from None
    steps = np.arange(len(past))
    known = ~np.isnan(past)
    full = np.interp(steps, steps[known], past[known])
    season = {"seasonal": "add", "seasonal_periods": period} if period > 1 else {}
    begin = "heuristic" if len(full) >= 10 + 2 * (period // 2) else "estimated"  # the heuristic asks for so many values
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns when its optimiser stops early; the forecast is used as it is
        fit = ExponentialSmoothing(full, trend="add", initialization_method=begin, **season).fit()
        return np.asarray(fit.forecast(horizon))


@dataclass(frozen=True)
class Ridge:
    """A linear map from a window to the horizon, measured from the last known value, with a penalty on its weights.

    y = anchor + X b + a,   b minimises |Y - X b - a|^2 + alpha s^2 |b|^2,   s^2 the mean square of X

    Through s the penalty asks the same of metres as of millimetres.
    """

    weights: np.ndarray  # [W, K]
    bias: np.ndarray  # [K]

    ALPHAS = tuple(10.0**k for k in range(-2, 5))

    @classmethod
    def fit(cls, known: np.ndarray, window: int, horizon: int) -> Ridge:
        """Fit it to a series; alpha is chosen on the last twelfth (at least two horizons), then all of it is used.

        Raises:
            DataError: if the series is too short, or no stretch of it is fully known.
        """
        edge = len(known) - max(2 * horizon, len(known) // 12)
        early, late = _pairs(known, window, horizon, 0, edge), _pairs(known, window, horizon, edge, len(known))
        if min(len(early[0]), len(late[0])) < 2:
            what, got = "too few stretches without a missing target", f"{len(known)} values, window {window}, horizon {horizon}"
            expected, hint = "at least 2 to fit and 2 to choose alpha", "give a longer past, or a smaller window"
            raise DataError.of("Ridge.fit", what, got, expected, hint)
        errors = [np.mean(np.abs(cls._solve(*early, alpha)._apply(late[0]) - late[1])) for alpha in cls.ALPHAS]
        x, y = _pairs(known, window, horizon, 0, len(known))
        return cls._solve(x, y, cls.ALPHAS[int(np.argmin(errors))])

    @classmethod
    def _solve(cls, x: np.ndarray, y: np.ndarray, alpha: float) -> Ridge:
        s = np.sqrt((x**2).mean()) or 1.0
        mean_x, mean_y = x.mean(0), y.mean(0)
        xc = (x - mean_x) / s
        w = np.linalg.solve(xc.T @ xc + alpha * np.eye(x.shape[1]), xc.T @ (y - mean_y)) / s  # [W, K]
        return cls(w, mean_y - mean_x @ w)

    def _apply(self, x: np.ndarray) -> np.ndarray:
        return x @ self.weights + self.bias

    def predict(self, past: np.ndarray) -> np.ndarray:
        """The horizon [K] after `past`."""
        x = carry(past[-len(self.weights) :])
        return x[-1] + self._apply(x - x[-1])


MOST_PAIRS = 5000  # of the linear model
ETS_PAST = 4000  # steps it is fitted to, at most; its time grows with them
ETS_MOST = (400, 50)  # longest season, most origins
RIDGE_MOST = 4000  # longest window: its matrix is that size squared


def baselines(
    known: np.ndarray, period: int, window: int, horizon: int, origins: int
) -> tuple[dict[str, Baseline], dict[str, str]]:
    """Every baseline by name, ready to be asked at any origin, and why those that are left out are.

    Args:
        known: the series up to the first origin [T]; what has to be fitted once is fitted to this.
        origins: how many forecasts will be asked for; ETS is fitted anew for each.
    """
    out: dict[str, Baseline] = {"naive": lambda past: naive(past, horizon)}
    left_out: dict[str, str] = {}
    if period > 1:
        out["seasonal naive"] = lambda past: seasonal_naive(past, horizon, period)
        if np.isnan(known[period:] - known[:-period]).all():
            left_out["seasonal naive + drift"] = "needs two known values one season apart"
        else:
            out["seasonal naive + drift"] = lambda past: seasonal_drift(past, horizon, period)
    reason = _why_no_ets(known, period, origins)
    if reason is None:
        out["ETS"] = lambda past: ets(past[-ETS_PAST:], horizon, period)
    else:
        left_out["ETS"] = reason
    if window > RIDGE_MOST:
        left_out["ridge window"] = f"would take too long: window {window} (at most {RIDGE_MOST})"
        return out, left_out
    try:
        ridge = Ridge.fit(known, window, horizon)
        out["ridge window"] = ridge.predict
    except DataError:
        left_out["ridge window"] = "too few stretches without a missing value"
    return out, left_out


def _why_no_ets(known: np.ndarray, period: int, origins: int) -> str | None:
    if find_spec("statsmodels") is None:
        return f"needs statsmodels: pip install '{source()}[demo]'"
    if len(known) < 2 * period + 2:
        return "needs two seasons of the past"
    if period > ETS_MOST[0] or origins > ETS_MOST[1]:
        return f"would take too long: season {period} (at most {ETS_MOST[0]}), origins {origins} (at most {ETS_MOST[1]})"
    return None


def _by_season(past: np.ndarray, period: int) -> np.ndarray:
    """The past as rows of whole seasons, the newest last, NaN before its beginning: [seasons, m]."""
    short = -len(past) % period
    return np.concatenate([np.full(short, np.nan), past]).reshape(-1, period)


def _pairs(values: np.ndarray, window: int, horizon: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    at = origins(values, window, horizon, first, last)
    at = at[:: -(-len(at) // MOST_PAIRS) or 1]  # evenly thinned: a long series adds memory, but hardly knowledge
    x, y = cut(values, at, window, horizon)
    whole = ~np.isnan(y).any(axis=1)
    x = carry(x[whole])
    return x - x[:, -1:], y[whole] - x[:, -1:]
