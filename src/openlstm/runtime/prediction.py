"""`Prediction`: the quantiles of what follows each series of a panel.

Legend: S series, K steps of the horizon, Q quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from openlstm.data.grid import in_zone, show_times
from openlstm.data.panel import Panel


@dataclass(frozen=True)
class Prediction:
    """The steps that follow each series.

    times: datetime64[us] [S, K].
    levels: the quantiles that are forecast, rising, 0.5 among them.
    values: float64 [S, K, Q] in the unit of the target, rising along the last axis.
    source: whose forecast it is: "LSTM", "seasonal naive", "0.6 LSTM + 0.4 ETS".
    seconds: how long it took, where that was measured.
    zone: in which the times, counted in UTC, are shown; None where they are what clocks show.

    >>> from openlstm.model_file import Step
    >>> panel = Panel.of([[1.0, 2.0]], "2001-01-01", Step(unit="month", count=1))
    >>> p = Prediction.after(panel, (0.1, 0.5, 0.9), np.array([[[1.0, 2.0, 3.0]]]), "naive")
    >>> p.rows()
    [{'time': '2001-03-01', 'forecast': 2.0, 'lower_80': 1.0, 'upper_80': 3.0}]
    """

    target: str
    time: str
    ids: tuple[str, ...]
    keys: tuple[tuple[str, ...], ...]
    times: np.ndarray
    levels: tuple[float, ...]
    values: np.ndarray
    source: str
    seconds: float | None = None
    zone: str | None = None

    @classmethod
    def after(
        cls, panel: Panel, levels: tuple[float, ...], values: np.ndarray, source: str, seconds: float | None = None
    ) -> Prediction:
        """The prediction of `values` [S, K, Q] behind the past of a panel."""
        times = panel.future_times(values.shape[1])
        zone = panel.zone if panel.utc else None
        return cls(panel.target, panel.time, panel.ids, panel.keys, times, levels, values, source, seconds, zone)

    @property
    def median(self) -> np.ndarray:
        """float64 [S, K]."""
        return self.values[..., self.levels.index(0.5)]

    @property
    def bands(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """The lower and the upper end of each band by its share in percent, the widest first: `{80: ([S, K], [S, K])}`."""
        return {share: (self.values[..., low], self.values[..., high]) for share, low, high in bands(self.levels)}

    def columns(self) -> dict[str, np.ndarray]:
        """One array [S * K] for each column: the ids, the time, `forecast`, `lower_80`, `upper_80` and other quantiles."""
        count = self.times.shape[1]
        out: dict[str, np.ndarray] = {
            name: np.repeat(np.array([key[i] for key in self.keys], dtype=object), count) for i, name in enumerate(self.ids)
        }
        out[self.time] = self.times.reshape(-1)
        out["forecast"] = self.median.reshape(-1)
        paired: set[float] = {0.5}
        for share, (low, high) in self.bands.items():
            out[f"lower_{share}"], out[f"upper_{share}"] = low.reshape(-1), high.reshape(-1)
            paired |= {(100 - share) / 200, (100 + share) / 200}
        for k, level in enumerate(self.levels):
            if not any(abs(level - p) < 1e-9 for p in paired):
                out[f"quantile_{level:g}"] = self.values[..., k].reshape(-1)
        return out

    def rows(self) -> list[dict[str, Any]]:
        """One plain dict for each step of each series; times with their distance to UTC where they are known in a zone."""
        columns = {name: a.tolist() for name, a in self.columns().items()}
        times = self.times.reshape(-1)
        columns[self.time] = show_times(times) if self.zone is None else in_zone(times, self.zone)
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def frame(self, like: Any = None) -> Any:
        """The columns as a frame of the kind of `like`: of pandas, polars or pyarrow; of polars if None.

        Raises:
            MissingExtraError: without polars.
        """
        from openlstm.data.files import native_frame

        return native_frame(self.columns(), like, zone=self.zone, utc=self.zone is not None)


def bands(levels: tuple[float, ...]) -> list[tuple[int, int, int]]:
    """The share of each band in percent, and where its two levels stand; the widest first.

    >>> bands((0.025, 0.1, 0.5, 0.9, 0.975))
    [(95, 0, 4), (80, 1, 3)]
    """
    found = []
    for low, level in enumerate(levels):
        high = next((k for k, other in enumerate(levels) if abs(other - (1 - level)) < 1e-9), None)
        if level < 0.5 and high is not None:
            found.append((round(100 * (1 - 2 * level)), low, high))
    return found
