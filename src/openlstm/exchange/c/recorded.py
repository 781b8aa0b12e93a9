"""What a header of a model has to give: steps as it reads them, and the answers of the model itself.

Legend: T steps, I numbers of x, O numbers of y.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from openlstm.cells import State
from openlstm.data.panel import Covariate, Panel
from openlstm.engine.stepper import Stepper
from openlstm.model_file import Feature
from openlstm.runtime.model import Model
from openlstm.runtime.network import Network
from openlstm.runtime.window import rows


class Eight(Network):
    """A network whose matrices, x and h are in 8 bits at every step."""

    def run(self, x: np.ndarray, states: Any = None, *, backend: str = "auto") -> tuple[np.ndarray, tuple[State, ...]]:
        """As `Network.run`, from zeros."""
        stepper = Stepper(self, x.shape[1], weights="int8")
        return np.stack([stepper.step(np.ascontiguousarray(row)).copy() for row in x]), ()


def drawn(model: Model, steps: int) -> Panel:
    """One series of random numbers like those of the training, with the columns that the model reads."""
    series, rng = model.header.series, np.random.default_rng(0)
    total = steps + series.horizon
    level, unit = (series.scale.center, series.scale.floor) if series.scale.anchor == "all" else (50.0, 20.0)
    values = (level + unit * rng.standard_normal(total)).astype(np.float32).astype(np.float64)
    panel = Panel.of([values], model.header.training.first, series.step, target=series.target, time=series.time)

    def column(f: Feature) -> Covariate:
        size = 1 if f.role == "static" else total
        own = (
            f.mean + f.deviation * rng.standard_normal(size)
            if f.categories is None
            else rng.integers(0, len(f.categories), size)
        )
        return Covariate(f.name, f.role, own.astype(np.float32).astype(np.float64), f.categories)

    held = tuple(column(f) for f in series.features)
    return replace(panel, covariates=held, keys=(("",) * len(series.ids),), ids=series.ids).at(np.array([steps]))


def inputs(model: Model, panel: Panel) -> np.ndarray:
    """The steps of a panel of one series as a header reads them, float32 [T, I]."""
    series, T = model.header.series, int(panel.history[0])
    simulates = model.header.decoder.kind == "simulate"
    ahead = 0 if simulates else series.horizon
    steps = np.arange(T + ahead)
    table = rows(series, panel, every=simulates, ahead=not simulates)
    waves = table.plain[table.begins[0] + steps, : 2 * len(series.calendar)]

    def known(features: Iterable[Feature]) -> np.ndarray:
        columns = (panel.covariate(f.name).values for f in features)
        found = [np.broadcast_to(a, len(steps)) if len(a) == 1 else a[: len(steps)] for a in columns]
        return np.stack([*waves.T, *found, steps], axis=1)[:, :-1]

    own, future = known(series.features), known(series.of("future"))
    parts = [own[:T]] if simulates else [panel.values[:T, None], own[:T], *(future[k : T + k] for k in range(1, ahead + 1))]
    return np.concatenate(parts, axis=1).astype(np.float32)


def answers(model: Model, panel: Panel) -> np.ndarray:
    """What the header has to give for them, float32 [T, O]; NaN until the window is full."""
    T, W = int(panel.history[0]), model.window
    if model.header.decoder.kind == "simulate":
        return model.simulate(panel).values[:T].astype(np.float32)
    found = np.full((T, model.horizon * len(model.levels)), np.nan, np.float32)
    for t in range(W, T + 1):
        found[t - 1] = model.quantiles(panel.at(np.array([t]))).ravel()
    return found
