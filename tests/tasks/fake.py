"""A model for tests of evaluations and pictures: plain rules, and a list of the panels that it was shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from openlstm.data.panel import Panel
from openlstm.model_file import Step
from openlstm.runtime.prediction import Prediction

MONTH = Step(unit="month", count=1)
Rule = Callable[[np.ndarray, int], np.ndarray]
"""past [T], horizon -> [K]"""


def carried(past: np.ndarray, horizon: int) -> np.ndarray:
    known = past[~np.isnan(past)]
    return np.full(horizon, known[-1] if len(known) else 0.0)


def zero(past: np.ndarray, horizon: int) -> np.ndarray:
    return np.zeros(horizon)


@dataclass
class Fake:
    """Medians by rule, bands of +-1 and +-2 around them."""

    rules: dict[str, Rule]
    trained: int
    horizon: int = 3
    period: int = 1
    window: int = 4
    levels: tuple[float, ...] = (0.025, 0.1, 0.5, 0.9, 0.975)
    name: str = "LSTM"
    best: str = ""
    shown: list[Panel] = field(default_factory=list)

    def seen(self, panel: Panel) -> np.ndarray:
        return np.full(len(panel), self.trained)

    def candidates(self, panel: Panel) -> dict[str, Prediction]:
        self.shown.append(panel)
        out = {name: self._after(panel, rule, name) for name, rule in self.rules.items()}
        if self.best:
            out["best"] = self._after(panel, self.rules[self.best], self.best)
        return out

    def predict(self, panel: Panel) -> Prediction:
        return self._after(panel, self.rules[self.name], self.name)

    def _after(self, panel: Panel, rule: Rule, source: str) -> Prediction:
        median = np.stack([rule(panel.past(s), self.horizon) for s in range(len(panel))])
        ends = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])[: len(self.levels)]
        return Prediction.after(panel, self.levels, median[..., None] + ends, source, seconds=0.25)


def months(*series: list[float] | np.ndarray) -> Panel:
    return Panel.of([np.asarray(s, dtype=np.float64) for s in series], "2001-01-01", MONTH)
