"""Streams of single values: each new one gives the forecast after it.

Legend: W steps of a window, K steps of the horizon, Q quantiles, I input size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from openlstm.data.grid import add_steps
from openlstm.data.panel import LARGEST, Panel
from openlstm.errors import ArgumentError, DataError, ShapeError, describe
from openlstm.runtime import calibrate, recursive
from openlstm.runtime.prediction import Prediction
from openlstm.runtime.recursive import Begun, Draws, Scaled
from openlstm.runtime.window import Rows, rows


class Stream:
    """The past of one series, as far as the model reads it.

    The inputs of a window are measured from the window itself, so every new value changes all of them: the window is run
    again, and `push` gives the same bits as `Model.predict` on the same values. (`Network.run` carries a state from step to
    step, for models whose inputs stay as they are.)

    Nothing else is kept: `values` and `start` are the whole state, and `model.stream(stream.values, start=stream.start)`
    takes it up again.
    """

    def __init__(self, model: Any, values: ArrayLike | None = None, start: str | np.datetime64 | None = None) -> None:
        if model.header.series.features:
            names = ", ".join(f.name for f in model.header.series.features)
            what, hint = "a stream of values has no place for covariates", "predict with a frame that holds them"
            raise ArgumentError.of("Model.stream", what, f"a model that reads {names}", "a model of the target alone", hint)
        seen = np.asarray([] if values is None else values, dtype=np.float64)
        if seen.ndim != 1:
            what, got = "values has the wrong number of axes", f"values: {describe(seen)}"
            raise ShapeError.of("Model.stream", what, got, "[T]", "one stream per series")
        if (beyond := np.flatnonzero(np.abs(seen) > LARGEST)).size:
            raise too_large("Model.stream", f"values[{beyond[0]}]", float(seen[beyond[0]]))
        self._model, self._most = model, model.header.series.reach
        self._values, self._start = np.zeros(0), None if start is None else np.datetime64(start).astype("datetime64[us]")
        self._keep(seen)

    @property
    def values(self) -> np.ndarray:
        """The values seen so far, as many as the model reads at most, float64, NaN where missing."""
        return self._values.copy()

    @property
    def start(self) -> np.datetime64 | None:
        """The time of the first of `values`; None if it was not given."""
        return self._start

    def push(self, value: float) -> Prediction | None:
        """Take the next value (NaN if it is missing) and forecast what follows; None until the window is full.

        Raises:
            DataError: if the value is beyond 1e100, or no value of the window is known; the stream stays as it was.
        """
        if abs(value) > LARGEST:
            raise too_large("Stream.push", "the value", float(value))
        before = self._values, self._start
        self._keep(np.append(self._values, float(value)))
        if len(self._values) < self._model.window:
            return None
        try:
            return self._model.predict(self._values, start=self._start)
        except Exception:
            self._values, self._start = before
            raise

    def _keep(self, values: np.ndarray) -> None:
        left = max(0, len(values) - self._most)
        self._values = values[left:].copy()
        if self._start is not None and left:
            self._start = add_steps(self._start, self._model.header.series.step, np.array([left]))[0]


class CarriedStream(Stream):
    """The stream of a recursive model: the states of its networks are carried, a new value is one step of them.

    It begins with a full window, its warm-up, whose anchor and spread stay the unit of everything that follows;
    `model.stream(stream.values, start=stream.start)` warms up again, with the newest window.
    Right after the warm-up it forecasts, to the bit, what `Model.predict` does. Networks have been trained over a window and a
    horizon: warm up again where a stream runs much longer, or where the level of the series has changed.
    """

    def __init__(self, model: Any, values: ArrayLike | None = None, start: str | np.datetime64 | None = None) -> None:
        self._members, self._pushed, self._begun = model.members(), 0, list[Begun]()
        super().__init__(model, values, start)
        if len(self._values) >= model.window:
            self._warm_up()

    @property
    def distributions(self) -> list[np.ndarray]:
        """The parameters of the next value by each member, float64 [R], see `recursive.parameters`; none before the warm-up."""
        return [begun.given[0] for begun in self._begun]

    def push(self, value: float, horizon: int = 1) -> Prediction | None:
        """Take the next value (NaN if it is missing) and forecast what follows; None until the window is full.

        Args:
            value: in the unit of the target.
            horizon: how many steps; the first is drawn from its distribution, those behind it need sample paths.

        Raises:
            DataError: if the value is beyond 1e100 or not a count where one is needed, or the first window holds no known
                value; the stream stays as it was.
        """
        self._check_horizon(horizon)
        if abs(value) > LARGEST:
            raise too_large("Stream.push", "the value", float(value))
        before = self._values, self._start
        self._keep(np.append(self._values, float(value)))
        try:
            if self._begun:
                if self._model.header.decoder.distribution == recursive.COUNTS:
                    recursive.check_counts(self._panel())
                self._step(float(value))
            elif len(self._values) >= self._model.window:
                self._warm_up()
        except Exception:
            self._values, self._start = before
            raise
        return self.predict(horizon)

    def predict(self, horizon: int = 1) -> Prediction | None:
        """Forecast the steps behind the last value; None until the window is full."""
        self._check_horizon(horizon)
        if not self._begun:
            return None
        model, header = self._model, self._model.header
        drawn, (table, at) = [], self._table()
        for member, begun, share in zip(
            self._members, self._begun, recursive.shares(header.decoder.paths or 1, len(self._members)), strict=True
        ):
            if share:
                draws = Draws(recursive.generators(header, member.number, self._mark, self._pushed), share, horizon)
                drawn.append(member.follow(begun, table, at, self._scale, draws))
        values = recursive.quantiles(np.concatenate(drawn, axis=1), model.levels)
        if header.forecasters[0].enough:
            shift = model.tensors["calibration.network"][:horizon].astype(np.float64)
            values = calibrate.apply(shift, values, self._scale.spread, model.levels)
        return Prediction.after(self._panel(), model.levels, model.bounded(values, self._panel()), model.source("network"))

    def _warm_up(self) -> None:
        self._model.check(self._panel())
        table, at = self._table()
        seen = recursive.sequence(self._model.header.series, table, at, 1)
        self._scale, self._mark = Scaled(seen.anchor, seen.spread), recursive.mark(seen.x)
        self._last = seen.x[:, -1, 0]
        self._begun = [member.step(seen.x, seen.codes, self._scale.spread) for member in self._members]

    def _step(self, value: float) -> None:
        """One step of each network: it reads the new value."""
        table, at = self._table()
        series = self._model.header.series
        missing = np.isnan(value)
        self._last = self._last if missing else self._scale.of(np.array([value]))
        lags = (self._scale.of(table.values[at - season]) for season in series.seasons)
        own = [self._last, [missing], *(np.where(np.isnan(lag), self._last, lag) for lag in lags)]
        plain, codes = recursive.known(series, table, at, at[:, None])
        x = np.concatenate([np.stack(own, axis=-1)[:, None], plain], axis=-1, dtype=np.float32)
        parts = zip(self._members, self._begun, strict=True)
        self._begun = [member.step(x, codes, self._scale.spread, begun.states) for member, begun in parts]
        self._pushed += 1

    def _panel(self) -> Panel:
        return self._model.panel(self._values, start=self._start)

    def _table(self) -> tuple[Rows, np.ndarray]:
        """The kept values as rows, and the row of the next step [1]."""
        panel = self._panel()
        table = rows(self._model.header.series, panel)
        return table, table.begins + panel.history

    def _check_horizon(self, horizon: int) -> None:
        if not 1 <= horizon <= self._model.horizon:
            what, hint = "forecasts no further than its model", "fit a model of a longer horizon"
            raise ArgumentError.of("Stream.push", what, f"horizon={horizon}", f"1 to {self._model.horizon}", hint)


def too_large(who: str, what: str, value: float) -> DataError:
    """The error for a number beyond 1e100."""
    expected, hint = (
        f"numbers of at most {LARGEST:g} in size, NaN where missing",
        "replace it, mark it as NaN, or take another unit",
    )
    return DataError.of(who, f"{what} is infinite or too large", repr(value), expected, hint)
