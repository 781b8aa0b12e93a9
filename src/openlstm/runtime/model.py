"""A forecaster loaded from its file: numpy and the engine, no torch.

Legend: S series, T steps of the past, W steps of a window, K steps of the horizon, Q quantiles.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from openlstm import model_file
from openlstm.data.grid import name_step
from openlstm.data.panel import LARGEST, Panel, rows_of
from openlstm.engine.threads import side_by_side
from openlstm.errors import ArgumentError, DataError, ModelFileError, describe
from openlstm.model_file import Header
from openlstm.model_file.header import COUNTS
from openlstm.runtime import calibrate, recursive
from openlstm.runtime.baselines import BY_NAME, Setting, restore
from openlstm.runtime.decoder import decode
from openlstm.runtime.network import Network
from openlstm.runtime.prediction import Prediction
from openlstm.runtime.simulate import Simulation, simulate
from openlstm.runtime.stream import CarriedStream, Stream, too_large
from openlstm.runtime.window import Rows, embedded, measure, rows, windows

BLOCK = 512  # series go through the network at once: what is computed of them stays in the cache
TITLES = {"seasonal_drift": "seasonal naive + drift", "ets": "ETS", "damped_ets": "damped ETS", "theta": "Theta"}
NETWORKS = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "vanilla RNN", "rnn_relu": "vanilla RNN"}


@dataclass(frozen=True)
class Model:
    """A trained forecaster, made by `openlstm.load`: its header, its networks, and the baselines kept beside them."""

    header: Header
    tensors: dict[str, np.ndarray]
    networks: tuple[Network, ...]

    @property
    def window(self) -> int:
        """How many steps the network reads."""
        return self.header.series.window

    @property
    def horizon(self) -> int:
        """How many steps it forecasts."""
        return self.header.series.horizon

    @property
    def period(self) -> int:
        """How many steps a season has."""
        return self.header.series.period

    @property
    def levels(self) -> tuple[float, ...]:
        """The quantiles it forecasts."""
        return self.header.decoder.quantiles

    @property
    def name(self) -> str:
        """What the network is called in a table: LSTM, GRU, vanilla RNN, or the name of its cell."""
        return NETWORKS.get(self.header.network.cell, self.header.network.cell)

    @property
    def names(self) -> dict[str, str]:
        """Everyone who can be asked, by what `use` calls them, and what they are called in a table."""
        own = {"network": self.name, **TITLES}
        return {one.name: own.get(one.name) or one.name.replace("_", " ") for one in self.header.forecasters}

    def predict(
        self, data: Any, *, use: str = "network", start: str | np.datetime64 | None = None, backend: str = "auto"
    ) -> Prediction:
        """Forecast the steps that follow each series.

        Args:
            data: a `Panel`; a path or a frame of pandas, polars or pyarrow with the columns of the training; or floats [T] or
                [S, T] in the unit of the target, in time order on the model's sampling interval, NaN where missing. No more
                than the window, and the lags before it, are read by the network.
            use: "network", "best" (what won on validation, a weighted mean included), or a baseline, by its name in the file
                ("linear_window") or in a table ("linear window").
            start: the time of the first of the values, where `data` is an array; without it the times of the forecast are
                not known (NaT), and a model that reads the calendar refuses.
            backend: "auto", "cpu" or "reference".

        Returns:
            `Prediction`. A series does not depend on the other series.

        Raises:
            ShapeError: if an array has other than one or two axes.
            DataError: if a series holds no known value in the window, or the data are not those of the model.
            ArgumentError: for a `use` that the model does not hold.
            ModelFileError: if the weights are such that the forecast is not finite.
        """
        panel, use = self.panel(data, start=start), self.called(use)
        values = self.quantiles(panel, use=use, backend=backend)
        return Prediction.after(panel, self.levels, values, self.source(use))

    def called(self, use: str) -> str:
        """The name in the file of whom to ask, given by it or as a table calls it; refused where there is none."""
        name = {title: name for name, title in self.names.items()}.get(use, use)
        if name not in self.names:
            expected, hint = " or ".join(self.names), "fit keeps baselines beside the network unless told otherwise"
            raise ArgumentError.of("predict", "the model holds no such forecaster", f"use={use!r}", expected, hint)
        return name

    def source(self, use: str) -> str:
        """Whose forecast `use` is, in words: `LSTM`, `0.6 LSTM + 0.4 ets`."""
        if use != "best":
            return self.names.get(use, use)
        parts = {self.names[one.name]: one.weight for one in self.header.forecasters if one.weight > 0}
        return " + ".join(f"{weight:.2g} {name}" for name, weight in parts.items()) if len(parts) > 1 else next(iter(parts))

    def candidates(self, panel: Panel, *, backend: str = "auto") -> dict[str, Prediction]:
        """The forecasts of everyone in the model, by their names in a table."""
        single: dict[str, np.ndarray] = {}
        found = {}
        for use, name in self.names.items():
            begin = time.perf_counter()
            single[use] = self._mean(single) if use == "best" else self.quantiles(panel, use=use, backend=backend)
            values = self._calibrated(use, single[use], panel) if use == "best" else single[use]
            found[name] = Prediction.after(panel, self.levels, values, self.source(use), time.perf_counter() - begin)
        return found

    def quantiles(self, panel: Panel, *, use: str = "network", backend: str = "auto") -> np.ndarray:
        """As `predict`, of a panel: float64 [S, K, Q], rising along the last axis."""
        use = self.called(use)
        if self.header.decoder.kind == "simulate":
            what, expected = "a simulating model reads no values of its target", "a model that forecasts"
            raise ArgumentError.of("Model.predict", what, "a simulating model", expected, "model.simulate(data)")
        parts = side_by_side(
            lambda first: self._quantiles(panel.only(slice(first, first + BLOCK)), use, backend), range(0, len(panel), BLOCK)
        )
        return np.concatenate([np.zeros((0, self.horizon, len(self.levels))), *parts])

    def _quantiles(self, panel: Panel, use: str, backend: str) -> np.ndarray:
        self.check(panel)
        if use == "best":
            parts = [f.name for f in self.header.forecasters if f.weight > 0]
            values = self._mean({f: self._quantiles(panel, f, backend) for f in parts})
        elif use == "network":
            values = self.raw(panel, backend=backend)
        else:
            start = f"baseline.{use}."
            arrays = {n.removeprefix(start): a for n, a in self.tensors.items() if n.startswith(start)}
            point = restore(use, arrays).forecast(panel.pasts(), self.setting)  # [S, K]
            values = calibrate.at_every_level(point, self.levels)
        return self._calibrated(use, values, panel)

    def _mean(self, found: dict[str, np.ndarray]) -> np.ndarray:
        """The mean of quantiles by the weights that won on validation."""
        weights = {one.name: one.weight for one in self.header.forecasters if one.weight > 0}
        return np.asarray(sum(weight * found[name] for name, weight in weights.items())) / sum(weights.values())

    def _calibrated(self, use: str, values: np.ndarray, panel: Panel) -> np.ndarray:
        if next(one for one in self.header.forecasters if one.name == use).enough:
            shift = self.tensors[f"calibration.{use}"].astype(np.float64)
            values = calibrate.apply(shift, values, self.spread(panel), self.levels)
        return self.bounded(values, panel)

    def bounded(self, values: np.ndarray, panel: Panel) -> np.ndarray:
        """Quantiles [S, K, Q], none below zero for counts, nor where neither series nor training has a value below it."""
        if self.header.decoder.distribution == COUNTS:
            return np.maximum(values, 0)
        if not self.header.series.positive:
            return values
        below = np.diff(np.concatenate([[0], np.cumsum(panel.values < 0)])[panel.offsets]) > 0
        return np.where(below[:, None, None], values, np.maximum(values, 0))

    @property
    def setting(self) -> Setting:
        """What a baseline has to know beside the past."""
        return Setting(self.horizon, self.period, self.window)

    def spread(self, panel: Panel) -> np.ndarray:
        """The spread of the last window of each series, float64 [S]: the unit of the calibration."""
        series = self.header.series
        last = panel.pasts(series.window)
        short = series.window - last.shape[1]
        last = np.pad(last, ((0, 0), (short, 0)), constant_values=np.nan) if short > 0 else last
        return measure(last, series.scale, series.period)[1]

    def raw(self, panel: Panel, *, backend: str = "auto") -> np.ndarray:
        """The quantiles of the networks before calibration, float64 [S, K, Q]."""
        table = rows(self.header.series, panel, last=True)
        out = self.run(table, table.begins + panel.history, backend=backend)
        if not np.isfinite(out).all():
            what, got = "the forecast is not finite", "weights that are too large for these values"
            raise ModelFileError.of("Model.predict", what, got, "finite numbers", "fit the model again")
        return out

    def run(self, table: Rows, at: np.ndarray, *, backend: str = "auto") -> np.ndarray:
        """The mean of the members' quantiles behind the windows that end before the rows `at` [N], float64 [N, K, Q]."""
        decoder, series = self.header.decoder, self.header.series
        if decoder.paths is not None:
            return recursive.quantiles(recursive.paths(self.members(backend), table, at, decoder.paths), self.levels)
        seen = windows(series, table, at)
        total = np.zeros((len(at), series.horizon, len(decoder.quantiles)))
        for member, network in enumerate(self.networks):
            own, embed = self.weights(member)
            roles = [f.role for f in series.features if f.categories is not None]
            known = [table_ for table_, role in zip(embed, roles, strict=True) if role == "future"]
            y, _ = network.run(embedded(seen.x, seen.codes, embed).swapaxes(0, 1), backend=backend)  # [W, N, H]
            total += decode(decoder, own, y[-1], seen.context, embedded(seen.ahead, seen.ahead_codes, known))
        out = seen.anchor[:, None, None] + seen.spread[:, None, None] * (total / len(self.networks))
        return np.sort(out, axis=-1) if decoder.kind == "linear" else out  # whose quantiles may cross by a hair

    def weights(self, member: int) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
        """The tensors of one member by their names in it, and the tables of its embeddings."""
        start = f"member.{member}."
        own = {n.removeprefix(start): a for n, a in self.tensors.items() if n.startswith(start)}
        return own, [own[f"embed.{k}"] for k, f in enumerate(self.header.series.features) if f.categories is not None]

    def members(self, backend: str = "auto") -> list[recursive.Member]:
        """The networks of a recursive or a simulating model with their heads."""
        out = []
        for k, network in enumerate(self.networks):
            own, tables = self.weights(k)
            wide = {name: a.astype(np.float64) for name, a in own.items() if name.startswith(("head", "skip"))}
            out.append(recursive.Member(self.header, k, network, wide, tuple(tables), backend))
        return out

    def panel(
        self,
        data: Any,
        *,
        start: str | np.datetime64 | None = None,
        future_data: Any = None,
        options: Mapping[str, str | None] | None = None,
    ) -> Panel:
        """Data of any kind as a panel of this model's series.

        Args:
            data, start: see `predict`.
            future_data: a path or frame with the covariates known ahead, for the steps behind the past.
            options: how the table is written where it differs from that of the training: the fields of
                `data.Format`, and `time` and `target` for columns of other names.
        """
        series = self.header.series
        if isinstance(data, (np.ndarray, list, tuple)):
            values = rows_of("Model.predict", data)
            if start is None and series.calendar:
                what, got = "the model reads the calendar, and the values have no times", f"values: {describe(values)}"
                hint = "model.predict(values, start='2001-12-29'), with the time of the first value, or pass a frame"
                raise ArgumentError.of("Model.predict", what, got, "the time of the first value", hint)
            begin = np.datetime64("NaT") if start is None else np.datetime64(start)
            return Panel.of(list(values), begin, series.step, target=series.target, time=series.time)
        if isinstance(data, Panel):
            return data
        from openlstm.data.columns import terms  # what reads tables takes long to import
        from openlstm.data.reading import read_panel

        asked = terms(series, options)
        how = {"step": asked.step, "categories": asked.categories, "future_data": future_data}
        return read_panel(data, asked.columns, asked.form, **how)

    def seen(self, panel: Panel) -> np.ndarray:
        """How many steps of each series the model has seen in training, validation included, int64 [S]; 0 of one unknown."""
        training = self.header.training
        if training.series:
            names = json.loads(self.tensors["series.names"].tobytes())
            last = dict(zip(map(tuple, names), self.tensors["series.last"].astype("datetime64[us]"), strict=True))
        else:
            last = {key: np.datetime64(training.last) for key in panel.keys}
        none = np.datetime64("0001-01-01")
        counts = [int(np.searchsorted(panel.times(s), last.get(key, none), side="right")) for s, key in enumerate(panel.keys)]
        return np.array(counts, dtype=np.int64)

    def stream(self, values: ArrayLike | None = None, *, start: str | np.datetime64 | None = None) -> Stream | CarriedStream:
        """A stream that takes one value at a time and gives the forecast after it; `values` are what was seen before.

        Of a recursive model it is a `CarriedStream`, which costs one step of the network for each value.
        """
        if self.header.decoder.kind == "simulate":
            what, hint = "a simulating model reads no values of its target", "model.simulate(data), with its covariates"
            raise ArgumentError.of("Model.stream", what, "a simulating model", "a model that forecasts", hint)
        return (Stream if self.header.decoder.paths is None else CarriedStream)(self, values, start)

    def simulate(self, data: Any, *, backend: str = "auto") -> Simulation:
        """The target of every step of `data` from its covariates, of a model of the decoder `simulate`; values of the target
        are not looked at.

        Args:
            data: a `Panel`, or a path or a frame with the columns of the training.

        Raises:
            ArgumentError: for a model of another decoder.
            DataError: if a covariate is missing where the model has never seen it missing.
        """
        if self.header.decoder.kind != "simulate":
            what, got = "the model reads the past of its target", f"a {self.header.decoder.kind} model"
            hint = "model.predict(data), or fit with decoder='simulate'"
            raise ArgumentError.of("Model.simulate", what, got, "a simulating model", hint)
        panel = self.panel(data)
        self._check_step(panel)
        values, scale = self.simulated(panel, backend=backend), self.header.series.scale
        if self.header.forecasters[0].enough:
            shift = self.tensors["calibration.network"].astype(np.float64)
            values = calibrate.apply(shift, values[:, None], np.full(len(values), scale.floor), self.levels)[:, 0]
        return Simulation(panel, self.levels, values, self.source("network"), self.header.decoder.warmup or 0)

    def simulated(self, panel: Panel, *, backend: str = "auto") -> np.ndarray:
        """The quantiles of every step of a panel before calibration, float64 [N, Q]."""
        values = simulate(self.members(backend), panel)
        if not np.isfinite(values).all():
            what, got = "the simulation is not finite", "weights that are too large"
            raise ModelFileError.of("Model.simulate", what, got, "finite numbers", "fit the model again")
        return values

    def paths(self, data: Any, count: int, *, start: str | np.datetime64 | None = None, backend: str = "auto") -> np.ndarray:
        """Sample paths of a recursive model behind each series, float64 [S, count, K]; their quantiles are the forecast before
        its calibration. The arguments are those of `predict`.

        Raises:
            ArgumentError: for a model of another decoder.
        """
        if self.header.decoder.paths is None:
            what, got = "only a recursive model draws paths", f"a {self.header.decoder.kind} model"
            raise ArgumentError.of("Model.paths", what, got, "a recursive model", "fit with decoder='recursive'")
        if not 1 <= count <= 10**6:
            hint = "leave it near 200; more paths make smoother quantiles"
            raise ArgumentError.of("Model.paths", "so many paths cannot be drawn", f"count={count}", "1 to 1,000,000", hint)
        panel = self.panel(data, start=start)
        self.check(panel)
        table = rows(self.header.series, panel)
        return recursive.paths(self.members(backend), table, table.begins + panel.history, count)

    def check(self, panel: Panel) -> None:
        """Refuse another interval, values that are too large, and a window without a known value."""
        self._check_step(panel)
        series = self.header.series
        if (beyond := np.flatnonzero((panel.values > LARGEST) | (panel.values < -LARGEST))).size:
            raise too_large("Model.predict", "a number in values", float(panel.values[beyond[0]]))
        if self.header.decoder.distribution == COUNTS:
            recursive.check_counts(panel)
        if series.scale.anchor == "last" and (panel.history < series.window).any():  # older models know no shorter window
            s = int(np.argmin(panel.history))
            what, got = f"{panel.history[s]} values are too few", f"series {panel.name(s)}"
            expected = f"at least {series.window}, the window of the model"
            hint = "pass more of the past; mark what is unknown as NaN"
            raise DataError.of("Model.predict", what, got, expected, hint)
        known = ~np.isnan(panel.pasts(series.window)).all(axis=1)
        if not known.all():
            s = int(np.argmin(known))
            what, got = f"no known value among the last {series.window}", f"series {panel.name(s)}"
            expected, hint = "at least one known value", "pass a past that holds a measurement in the window of the model"
            raise DataError.of("Model.predict", what, got, expected, hint)

    def _check_step(self, panel: Panel) -> None:
        if panel.step != self.header.series.step:
            what, got = "has another interval than the model", name_step(panel.step)
            expected, hint = name_step(self.header.series.step), "give data of the model's interval, or fit a model to these"
            raise DataError.of(f"column {panel.target!r}", what, got, expected, hint)


def load(path: str | os.PathLike[str]) -> Model:
    """Load a model file; needs neither torch nor a table library.

    Raises:
        ModelFileError: if the file is missing, truncated, damaged, foreign or from a newer version.
    """
    header, tensors = model_file.read(path)
    return build(header, tensors, Path(path).name)


def build(header: Header, tensors: dict[str, np.ndarray], name: str = "model") -> Model:
    """The model of a header and the tensors it names; an error calls it `name`.

    Raises:
        ModelFileError: if it holds a baseline that is not known, or one whose arrays are others.
    """
    setting = Setting(header.series.horizon, header.series.period, header.series.window)
    for one in header.forecasters:
        kind = BY_NAME.get(one.name)
        if kind is None and one.name not in ("network", "best"):
            expected, hint = ", ".join(("network", *BY_NAME, "best")), "install the openlstm that wrote it, or fit again"
            raise ModelFileError.of(name, "holds a forecaster that is not known", one.name, expected, hint)
        wanted = kind.shapes(setting) if kind else {}
        if sorted(one.arrays) != sorted(wanted.items()):
            got, expected = (
                ", ".join(f"{array}{list(shape)}" for array, shape in arrays[:5]) or "no array"
                for arrays in (one.arrays, tuple(wanted.items()))
            )
            raise ModelFileError.of(name, f"the arrays of {one.name} are others", got, expected, "fit the model again")
    networks = []
    for member in range(header.network.members):
        start = f"member.{member}.recurrent."
        layers = {name.removeprefix(start): a for name, a in tensors.items() if name.startswith(start)}
        networks.append(Network.collect(header.network.recurrence(), layers, header.network.num_layers))
    return Model(header, tensors, tuple(networks))
