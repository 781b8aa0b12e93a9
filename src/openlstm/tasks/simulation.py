"""How well a target is told from its covariates: bands that hold on validation steps, and NSE and KGE on unseen ones.

Legend: S series, N steps of all series together, Q quantiles, n validation steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from openlstm.data.panel import Panel
from openlstm.errors import DataError
from openlstm.model_file import Forecaster
from openlstm.runtime import calibrate
from openlstm.runtime.model import Model
from openlstm.runtime.prediction import bands
from openlstm.runtime.simulate import Simulation
from openlstm.tasks import metrics
from openlstm.tasks.choice import Choice


@dataclass(frozen=True)
class Efficiency:
    """The scores of a simulation, float64 [S], NaN of a series without a scored step.

    simulation: every step of every series.
    steps: int64 [S], so many were scored: known, not seen in training, behind the warm-up.
    nse, kge: see `metrics`.
    coverage: of each band, by its share in percent.
    """

    simulation: Simulation
    steps: np.ndarray
    nse: np.ndarray
    kge: np.ndarray
    coverage: dict[int, np.ndarray]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, of each series and the medians over them."""
        panel = self.simulation.panel
        numbers = {"nse": self.nse, "kge": self.kge, **{f"in_{share}": c for share, c in self.coverage.items()}}
        plain = lambda x: None if np.isnan(x) else float(x)  # noqa: E731
        series = [
            {"series": panel.name(s), "steps": int(self.steps[s]), **{n: plain(a[s]) for n, a in numbers.items()}}
            for s in range(len(panel))
        ]
        median = {n: None if np.isnan(a).all() else float(np.nanmedian(a)) for n, a in numbers.items()}
        return {"median": median, "series": series}


def evaluate(model: Model, panel: Panel) -> Efficiency:
    """Score the median on every known step that the model has not seen, and that is behind the warm-up of its series.

    Raises:
        DataError: if there is no such step.
    """
    found = model.simulate(panel)
    first = np.maximum(model.seen(panel), found.warmup)
    truth, values = _by_series(panel, panel.values), _by_series(panel, found.values)
    truth[np.arange(truth.shape[1]) < first[:, None]] = np.nan
    steps = (~np.isnan(truth)).sum(1)
    if not steps.any():
        what, got = "no known step is left to score", f"{int(panel.history.max(initial=0))} steps at most"
        expected = f"steps that were held out, behind the {found.warmup} of the warm-up"
        raise DataError.of("evaluate", what, got, expected, "fit with holdout=..., or groups=...")
    median = values[..., model.levels.index(0.5)]
    nse, kge = metrics.nse(truth, median), metrics.kge(truth, median)
    inside = {share: metrics.coverage(truth, values[..., low], values[..., high]) for share, low, high in bands(model.levels)}
    return Efficiency(found, steps, nse, kge, inside)


def choose(model: Model, panel: Panel, validation: np.ndarray, units: np.ndarray) -> Choice:
    """Calibrate the bands on the last `validation` [S] steps of each series, which the model has not seen.

    Args:
        units: float64 [S], the unit of the error that is kept.
    """
    step = np.arange(len(panel.values)) - np.repeat(panel.offsets[:-1], panel.lengths)
    begin, end = np.repeat(panel.history - validation, panel.lengths), np.repeat(panel.history, panel.lengths)
    late = np.flatnonzero((step >= begin) & (step < end) & ~np.isnan(panel.values))
    if not len(late):
        text = "no series is long enough for validation: bands are not calibrated"
        return Choice((Forecaster(name="network", weight=1.0),), {}, (text,), {})
    found, truth = model.simulated(panel)[late], panel.values[late]
    scale = np.full(len(truth), model.header.series.scale.floor)
    correction = calibrate.correct(truth[:, None], found[:, None], scale, model.levels)
    error = np.abs(truth - found[:, model.levels.index(0.5)]) / np.repeat(units, panel.lengths)[late]
    enough = correction.enough_for_all
    kept = Forecaster(name="network", weight=1.0, error=float(error.mean()), enough=enough)
    warning = calibrate.warning(correction, model.levels)
    tensors = {"calibration.network": correction.shift.astype(np.float32)}
    return Choice((kept,), tensors, (warning,) if warning else (), {})


def _by_series(panel: Panel, values: np.ndarray) -> np.ndarray:
    """What stands one series after the other, [N, ...], side by side, [S, T, ...], NaN behind the end of each."""
    out = np.full((len(panel), int(panel.lengths.max(initial=0)), *values.shape[1:]), np.nan)
    out[np.arange(out.shape[1]) < panel.lengths[:, None]] = values
    return out
