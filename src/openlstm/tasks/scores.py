"""What an evaluation found: scores of every forecaster, over all and for each series, and the verdict in words.

Legend: S series, R forecast steps of all series and origins together, O origins, Q quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from openlstm.data.grid import add_steps, show_time
from openlstm.data.panel import Panel
from openlstm.errors import missing_extra
from openlstm.runtime.prediction import bands
from openlstm.tasks import metrics

if TYPE_CHECKING:
    import polars as pl

BEST = "best"
"""The name of the candidate that won on validation."""


class Rows(NamedTuple):
    """One row for each step that is forecast, those of one series together; int64 [R]."""

    series: np.ndarray
    at: np.ndarray  # the position of the step in its series
    origin: np.ndarray  # the position of the first step of its forecast


class Score(NamedTuple):
    """How well one forecaster did: means over the series, None where it cannot be said."""

    name: str
    source: str  # whose forecast it is: `name`, or for "best" what won
    mase: float | None
    rmsse: float | None
    smape: float | None  # in percent
    crps: float | None
    mae: float | None
    rmse: float | None
    coverage: dict[int, float | None]  # by the share of the band in percent, the share of values that it holds
    seconds: float | None  # all its forecasts together


@dataclass(frozen=True)
class Evaluation:
    """Every forecaster over all origins.

    panel: with the truth; `histories` int64 [O, S]: how much of each series the forecasts of an origin see, -1 where a
        series has none.
    model: the forecaster that is judged.
    truth: float64 [R], NaN where missing; forecasts: name -> float64 [R, Q].
    by_series: name -> metric -> float64 [S], NaN where it cannot be said; the metrics are the columns of `frame`.
    unscaled: series whose past before the first origin gives no scale; they are left out of MASE and RMSSE.
    unscored: series without a known value to score; they are left out of everything.
    left_out: why a forecaster has no scores.
    """

    panel: Panel
    model: str
    levels: tuple[float, ...]
    horizon: int
    histories: np.ndarray
    rows: Rows
    truth: np.ndarray
    forecasts: dict[str, np.ndarray]
    by_series: dict[str, dict[str, np.ndarray]]
    sources: dict[str, str]
    seconds: dict[str, float | None]
    outside: tuple[str, ...] = ()  # forecasters that are not in the model file
    left_out: dict[str, str] = field(default_factory=dict)
    unscaled: tuple[str, ...] = ()
    unscored: tuple[str, ...] = ()
    refitted: bool = False

    @property
    def ranked_by(self) -> str:
        """The metric by which forecasters are ranked: "mase", or "mae" where no series has a scale."""
        return "mase" if np.isfinite(self.by_series[self.model]["mase"]).any() else "mae"

    @property
    def scores(self) -> tuple[Score, ...]:
        """Of every forecaster, the smallest error first."""
        found = [self.score(name) for name in self.forecasts]
        return tuple(sorted(found, key=lambda s: (self._error(s), s.name != self.model)))

    def score(self, name: str) -> Score:
        """Of one forecaster."""
        mean = {metric: _mean(of) for metric, of in self.by_series[name].items()}
        coverage = {share: mean.pop(f"coverage_{share}") for share, _, _ in bands(self.levels)}
        return Score(name, self.sources[name], coverage=coverage, seconds=self.seconds[name], **mean)

    def worst(self, count: int = 5) -> list[int]:
        """The series on which the model has the largest errors, by their numbers, the largest first."""
        errors = self.by_series[self.model][self.ranked_by]
        order = np.argsort(-errors, kind="stable")  # NaN comes last
        return [int(s) for s in order[:count] if not np.isnan(errors[s])]

    def wins(self) -> int:
        """On how many series the error of the model is smaller than that of every other forecaster but "best"."""
        own = self.by_series[self.model][self.ranked_by]
        others = [self.by_series[r][self.ranked_by] for r in self._rivals()]
        return int((own < np.min(others, axis=0)).sum()) if others else 0

    def verdict(self) -> str:
        """In plain words, whether the model is worth more than its baselines, and what to use if it is not."""
        own = self.score(self.model)
        others = sorted((self.score(r) for r in self._rivals()), key=self._error)
        error = self._error(own)
        if not others:
            return f"{self.model}: {self._said(own)}. There is no baseline to compare it with."
        first = others[0]
        better = [s for s in others if self._error(s) <= error]
        if not better:
            said = f"{self.model} has a smaller error than every baseline: {self._said(own)}, "
            said += f"{_less(error, self._error(first))} smaller than {first.name}, the best of them."
        else:
            names = ", ".join(s.name for s in better[:3]) + (f" and {len(better) - 3} more" if len(better) > 3 else "")
            said = f"{self.model} LOSES to {names}: the error of {first.name} is {_less(self._error(first), error)} smaller."
            if self._error(first) == error:
                said = f"{self.model} is no better than {names}: {self._said(own)} both."
        scored = len(self.panel) - len(self.unscored)
        if scored > 1:
            said += f" Its error is the smallest on {self.wins():,} of {scored:,} series."
        return " ".join([said, *self._instead(own, first, bool(better))])

    def _instead(self, own: Score, first: Score, lost: bool) -> list[str]:
        """What to serve in the place of the model, one sentence or none."""
        inside = first.name not in self.outside
        chosen = self.score(BEST) if BEST in self.forecasts else None
        if chosen is not None and self._error(chosen) < self._error(own):
            return [f"--use best serves what won on validation, {chosen.source}: {self._said(chosen)} here."]
        if not lost:
            return []
        said = [] if chosen is None else [f"--use best ({chosen.source} won on validation) is no better here."]
        serve = f'"{first.name}"' if " " in first.name else first.name
        return [*said, f"--use {serve} serves {first.name}." if inside else f"{first.name} is not in the model file."]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the forecasts as plain numbers, ready for JSON: no NaN, None where something cannot be said."""
        first, last = self.span()
        origins = (self.histories >= 0).sum(axis=0)
        return {
            "target": self.panel.target,
            "model": self.model,
            "horizon": self.horizon,
            "refitted": self.refitted,
            "held_out": {
                "first": show_time(first),
                "last": show_time(last),
                "steps": len(self.truth),
                "known": int((~np.isnan(self.truth)).sum()),
                "origins": int(origins.max()),
            },
            "series": len(self.panel),
            "scores": [s._asdict() | {"coverage": {str(k): v for k, v in s.coverage.items()}} for s in self.scores],
            "worst": [self._one(s) for s in self.worst()] if len(self.panel) > 1 else [],
            "left_out": self.left_out,
            "without_scale": list(self.unscaled),
            "without_known_value": list(self.unscored),
            "verdict": self.verdict(),
        }

    def span(self) -> tuple[np.datetime64, np.datetime64]:
        """The first and the last time that is scored, over all series."""
        series, first = np.unique(self.rows.series, return_index=True)
        last = np.append(first[1:], len(self.truth)) - 1  # the rows of a series rise
        start, at = self.panel.starts[series], self.rows.at
        begin, end = (
            [add_steps(t, self.panel.step, n) for t, n in zip(start, at[rows], strict=True)] for rows in (first, last)
        )
        return np.min(begin), np.max(end)

    def columns(self) -> dict[str, np.ndarray]:
        """One array for each column, one row for each series and forecaster: the ids, `forecaster`, and every metric."""
        names, count = list(self.forecasts), len(self.panel)
        out: dict[str, np.ndarray] = {
            i: np.repeat(np.array([key[k] for key in self.panel.keys], dtype=object), len(names))
            for k, i in enumerate(self.panel.ids)
        }
        out["forecaster"] = np.tile(np.array(names, dtype=object), count)
        for metric in self.by_series[self.model]:
            out[metric] = np.stack([self.by_series[name][metric] for name in names], axis=1).reshape(-1)
        return out

    def frame(self) -> pl.DataFrame:
        """`columns` as a frame; null where something cannot be said.

        Raises:
            MissingExtraError: without polars.
        """
        try:
            import polars as pl
        except ImportError:
            raise missing_extra("Evaluation.frame", "polars", "data") from None
        return pl.DataFrame({k: v.tolist() if v.dtype == object else v for k, v in self.columns().items()}, nan_to_null=True)

    def _rivals(self) -> list[str]:
        return [name for name in self.forecasts if name not in (self.model, BEST)]

    def _error(self, score: Score) -> float:
        error = getattr(score, self.ranked_by)
        return np.inf if error is None else error

    def _said(self, score: Score) -> str:
        return f"{self.ranked_by.upper()} {figure(self._error(score), self.ranked_by)}"

    def _one(self, series: int) -> dict[str, Any]:
        numbers = {metric: float(of[series]) for metric, of in self.by_series[self.model].items()}
        return {"series": self.panel.name(series), **{k: v if np.isfinite(v) else None for k, v in numbers.items()}}


def figure(value: float | None, metric: str = "mae") -> str:
    """A metric for a table: three decimals where it has no unit, else four digits.

    >>> figure(0.8, "mase"), figure(12.345, "smape"), figure(123456.0), figure(2.5e9), figure(None)
    ('0.800', '12.35', '123,456', '2.5e+09', '-')
    """
    if value is None or not np.isfinite(value):
        return "-"
    if metric in ("mase", "rmsse", "smape") and abs(value) < 1e4:
        return f"{value:.2f}" if metric == "smape" else f"{value:.3f}"
    if 1e4 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:.4g}" if 1e-4 <= abs(value) < 1e4 else f"{value:.3g}"


def percent(share: float | None) -> str:
    """A share for a table.

    >>> percent(0.814), percent(None)
    ('81 %', '-')
    """
    return "-" if share is None or not np.isfinite(share) else f"{share:.0%}".replace("%", " %")


def shown_bands(levels: tuple[float, ...]) -> list[int]:
    """The shares of at most two bands for a table: the widest, and 80 % or else the narrowest."""
    shares = [share for share, _, _ in bands(levels)]
    return sorted({shares[0], 80 if 80 in shares else shares[-1]}) if shares else []


def _less(small: float, large: float) -> str:
    """By how much the one is smaller than the other.

    >>> _less(0.9, 1.0), _less(0.999, 1.0)
    ('10%', '0.1%')
    """
    share = 1 - small / large if large else 0.0
    return f"{share:.0%}" if share >= 0.0095 else f"{share:.1%}"


def _mean(of: np.ndarray) -> float | None:
    mean = metrics.over_all(of).value
    return mean if np.isfinite(mean) else None
