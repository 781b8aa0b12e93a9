"""Predict a series and score a model beside its baselines; numpy and the runtime, no torch.

Legend: T steps, K steps of the horizon, N origins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from openlstm.data import Series
from openlstm.data.grid import name_step, show_time, show_times
from openlstm.data.split import no_known_value
from openlstm.errors import DataError
from openlstm.model_file import Header
from openlstm.runtime.model import Forecast, Model
from openlstm.tasks.baselines import Baseline, baselines


class Prediction(NamedTuple):
    """The steps that follow a series: times datetime64[us] [K], and the forecast."""

    times: np.ndarray
    forecast: Forecast

    def rows(self) -> list[dict[str, Any]]:
        """One plain dict per step."""
        return [
            {"date": t, "forecast": float(m), "lower_80": float(lo), "upper_80": float(hi)}
            for t, m, lo, hi in zip(show_times(self.times), *self.forecast, strict=True)
        ]


class Score(NamedTuple):
    """How well one forecaster did on the held-out steps; None where it cannot be said."""

    name: str
    mase: float | None  # mean |error| / mean |y_t - y_(t-m)| of the training rows; 1 is the seasonal naive's error there
    rmse: float
    mae: float
    coverage: float | None  # share of the held-out values inside the band


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model and its baselines over rolling origins.

    origins: the index of each origin; the forecasts of one origin never see a value from there on.
    forecasts: name -> forecast of all held-out steps [T'], for drawing; lower and upper are NaN without a band.
    """

    series: Series
    origins: tuple[int, ...]
    scores: tuple[Score, ...]  # the models' last
    forecasts: dict[str, Forecast]
    left_out: dict[str, str]
    models: tuple[str, ...]

    @property
    def first(self) -> int:
        """The index of the first held-out step."""
        return self.origins[0]

    @property
    def last(self) -> int:
        """The index after the last step that was scored."""
        return self.first + len(next(iter(self.forecasts.values())).median)

    def score(self, name: str) -> Score:
        """The score of one forecaster."""
        return next(s for s in self.scores if s.name == name)

    def verdict(self, name: str) -> str:
        """In plain words, whether a model is worth more than its baselines."""
        own = self.score(name)
        rivals = sorted((s for s in self.scores if s.name not in self.models), key=lambda s: s.mae)
        better = [s for s in rivals if s.mae <= own.mae]
        if not better:
            best, less = rivals[0], 1 - own.mae / rivals[0].mae
            return f"{name} has a smaller error than every baseline: {less:.0%} smaller than {best.name}, the best of them."
        best, less = better[0], 1 - better[0].mae / own.mae if own.mae else 0.0
        names = ", ".join(s.name for s in better)
        return f"{name} LOSES to {names}: the error of {best.name} is {less:.0%} smaller. Use {best.name} here."

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, ready for JSON."""
        steps = slice(self.first, self.last)
        return {
            "target": self.series.name,
            "held_out": {
                "first": show_time(self.series.times[self.first]),
                "last": show_time(self.series.times[self.last - 1]),
                "steps": self.last - self.first,
                "known": int((~np.isnan(self.series.values[steps])).sum()),
                "origins": [show_time(self.series.times[o]) for o in self.origins],
            },
            "scores": [s._asdict() for s in self.scores],
            "left_out": self.left_out,
            "verdict": {name: self.verdict(name) for name in self.models},
        }


def title(cell: str) -> str:
    """What a model of a cell, by its name in a model file, is called in a table."""
    return "LSTM" if cell == "lstm" else "vanilla RNN"


def predict(model: Model, series: Series) -> Prediction:
    """The horizon after the last step of a series.

    Raises:
        DataError: if the series is shorter than the window, holds no known value there, or has another interval.
    """
    same_interval(model.header, series)
    _long_enough(model.header, series, len(series))
    return Prediction(series.future(model.horizon), model.predict(series.values))


def evaluate(models: dict[str, Model], series: Series, on_progress: Callable[[str], None] | None = None) -> Evaluation:
    """Score models and baselines on every step of a series that comes after what the models have seen.

    Origins stand one horizon apart; each forecast sees all values before its origin and none after. A missing value counts
    in no score.

    Args:
        models: by the name under which they stand in the table; all of one horizon, trained on the same rows.
        series: with the training rows in front (the baselines are fitted to what comes before the first origin).
        on_progress: called with the name of each forecaster before it runs.

    Raises:
        DataError: if no step comes after the training rows, none of those is known, the window does not fit before them, or the
            series has another interval.
    """
    header = next(iter(models.values())).header
    same_interval(header, series)
    first = _first_unseen(header, series)
    horizon, values = header.series.horizon, series.values
    at = range(first, len(series), horizon)
    if np.isnan(values[first:]).all():
        raise no_known_value(series, len(series) - first)
    rivals, left_out = baselines(values[:first], header.series.period, header.series.window, horizon, len(at))
    rivals |= {name: model.predict for name, model in models.items()}
    forecasts: dict[str, Forecast] = {}
    for name, forecaster in rivals.items():
        if on_progress:
            on_progress(name)
        parts = [_as_forecast(forecaster, values[:origin]) for origin in at]
        if not all(np.isfinite(part.median).all() for part in parts):
            left_out[name] = "its forecast is not finite"
            continue
        forecasts[name] = Forecast(*(np.concatenate(p)[: len(series) - first] for p in zip(*parts, strict=True)))
    unit = header.series.seasonal_error
    scores = tuple(score(name, values[first:], forecast, unit) for name, forecast in forecasts.items())
    return Evaluation(series, tuple(at), scores, forecasts, left_out, tuple(models))


def score(name: str, truth: np.ndarray, forecast: Forecast, unit: float | None) -> Score:
    """MASE, RMSE, MAE and coverage over the known values of `truth` [T'].

    >>> f = Forecast(np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.0, 0.0]), np.array([4.0, 4.0, 4.0]))
    >>> score("x", np.array([1.0, np.nan, 5.0]), f, 2.0)
    Score(name='x', mase=0.5, rmse=1.4142135623730951, mae=1.0, coverage=0.5)
    """
    known = ~np.isnan(truth)
    error = np.abs(forecast.median - truth)[known]
    mae = float(error.mean())
    inside = (forecast.lower <= truth) & (truth <= forecast.upper)
    coverage = None if np.isnan(forecast.lower).any() else float(inside[known].mean())
    return Score(name, None if unit is None else mae / unit, float(np.sqrt((error**2).mean())), mae, coverage)


def same_interval(header: Header, series: Series) -> None:
    """Refuse a series on another interval than the model was trained on.

    Raises:
        DataError: if it is one.
    """
    if series.step != header.series.step:
        what, got = "has another interval than the model", name_step(series.step)
        expected, hint = name_step(header.series.step), "give data of the model's interval, or fit a model to these"
        raise DataError.of(f"column {series.name!r}", what, got, expected, hint)


def seasonal_error(values: np.ndarray, period: int) -> float | None:
    """mean |y_t - y_(t-m)| over the pairs that are both known, the unit of MASE; None if there is none or it is zero.

    Source: Hyndman & Koehler 2006, eq. 2, in its seasonal form.

    >>> seasonal_error(np.array([1.0, 2.0, 3.0, np.nan, 5.0]), 2)
    2.0
    """
    steps = np.abs(values[period:] - values[:-period])
    steps = steps[~np.isnan(steps)]
    return float(steps.mean()) if len(steps) and steps.mean() > 0 else None


def _as_forecast(forecaster: Baseline, past: np.ndarray) -> Forecast:
    out = forecaster(past)
    if isinstance(out, Forecast):
        return out
    nothing = np.full(len(out), np.nan)
    return Forecast(out, nothing, nothing)


def _first_unseen(header: Header, series: Series) -> int:
    seen = np.datetime64(header.training.last)
    first = int(np.searchsorted(series.times, seen, side="right"))
    if first >= len(series):
        what = "there is nothing to evaluate on: the model has seen every row"
        got = f"rows up to {show_time(series.times[-1])}; the model has seen those up to {show_time(seen)}"
        expected, hint = "rows after that", "fit with --holdout, or evaluate on a table that goes further"
        raise DataError.of(f"column {series.name!r}", what, got, expected, hint)
    first = max(first, header.series.window)
    _long_enough(header, series, min(first, len(series) - 1))
    return first


def _long_enough(header: Header, series: Series, past: int) -> None:
    window = header.series.window
    if past < window:
        what = "the series is too short for this model"
        got = f"{name_step(series.step, len(series))} up to {show_time(series.times[-1])}"
        expected = f"at least {window} before the forecast, the window of the model"
        hint = "give a table that goes further back"
        raise DataError.of(f"column {series.name!r}", what, got, expected, hint)
