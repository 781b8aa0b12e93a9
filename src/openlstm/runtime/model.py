"""A forecaster loaded from its file, and its stream of single values: numpy and the engine, no torch.

Legend: N windows, H hidden size, K steps of the horizon, Q quantiles.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from openlstm import model_file
from openlstm.data.panel import LARGEST
from openlstm.errors import DataError, ModelFileError, ShapeError, describe
from openlstm.model_file import Header
from openlstm.runtime.network import Network
from openlstm.runtime.window import inputs


class Forecast(NamedTuple):
    """A forecast of K steps in the unit of the target; each is float64 [K], or [N, K] for several windows."""

    median: np.ndarray
    lower: np.ndarray  # the lowest quantile of the model: 10 % of the values are expected below
    upper: np.ndarray  # the highest: 10 % are expected above, so that 80 % lie between


@dataclass(frozen=True)
class Model:
    """A trained forecaster: its header, and the members whose outputs are averaged.

        x, anchor, spread = inputs(window);   h = last output of the recurrent layers;   forecast = anchor + spread * (W h + b)

    Made by `openlstm.load`.
    """

    header: Header
    networks: tuple[Network, ...]
    heads: tuple[tuple[np.ndarray, np.ndarray], ...]  # W [K*Q, H], b [K*Q]

    @property
    def window(self) -> int:
        """How many steps the network reads."""
        return self.header.series.window

    @property
    def horizon(self) -> int:
        """How many steps it forecasts."""
        return self.header.series.horizon

    def predict(self, values: ArrayLike, *, backend: str = "auto") -> Forecast:
        """Forecast the steps that follow `values`.

        Args:
            values: floats [T] or [N, T] in the unit of the target, in time order on the model's sampling interval, T at least
                `window`; NaN where missing. Only the last `window` of them are read.
            backend: "auto", "cpu" or "reference".

        Returns:
            `Forecast`, each member [K], or [N, K] if `values` is [N, T]. A row does not depend on the other rows.

        Raises:
            ShapeError: if `values` has other than one or two axes.
            DataError: if there are too few values, one beyond 1e100, or no known one in the window.
            ModelFileError: if the weights are such that the forecast is not finite.
        """
        return band(self.header, self.quantiles(values, backend=backend))

    def quantiles(self, values: ArrayLike, *, backend: str = "auto") -> np.ndarray:
        """As `predict`, but every quantile of the header: float64 [K, Q] or [N, K, Q], rising along the last axis."""
        rows = _windows(self, values)
        series, count = self.header.series, len(self.header.head.quantiles)
        x, anchor, spread = inputs(rows, series.scale)  # [N, W, I], [N], [N]
        total = np.zeros((len(rows), series.horizon * count))
        for network, (w, b) in zip(self.networks, self.heads, strict=True):
            y, _ = network.run(np.ascontiguousarray(x.swapaxes(0, 1)), backend=backend)  # [W, N, H]
            total += _head(y[-1], w, b)
        out = anchor[:, None, None] + spread[:, None, None] * (total / len(self.networks)).reshape(-1, series.horizon, count)
        if not np.isfinite(out).all():
            what = "the forecast is not finite"
            got = f"a window of size {np.nanmax(np.abs(rows)):.3g} through weights that are too large"
            expected, hint = "finite numbers", "fit the model again"
            raise ModelFileError.of("Model.predict", what, got, expected, hint)
        out = np.sort(out, axis=-1)  # averaged quantiles may still cross by a hair
        return out if np.ndim(values) == 2 else out[0]

    def stream(self, values: ArrayLike | None = None) -> Stream:
        """A stream that takes one value at a time and gives the forecast after it; `values` are what was seen before."""
        return Stream(self, values)


class Stream:
    """The past of one series, as far as the model reads it.

    The inputs of a forecaster are measured from the last known value, so every new value changes all of them: the window is
    run again, and `push` gives the same bits as `Model.predict` on the same values. (`Network.run` carries a state from step
    to step, for models whose inputs stay as they are.)

    Nothing else is kept: `values` is the whole state, and `model.stream(stream.values)` takes it up again.
    """

    def __init__(self, model: Model, values: ArrayLike | None = None) -> None:
        self._model = model
        seen = np.asarray([] if values is None else values, dtype=np.float64)
        if seen.ndim != 1:
            what, got = "values has the wrong number of axes", f"values: {describe(seen)}"
            expected, hint = "[T]", "one stream per series"
            raise ShapeError.of("Model.stream", what, got, expected, hint)
        if (beyond := np.flatnonzero(np.abs(seen) > LARGEST)).size:
            raise _beyond("Model.stream", f"values[{beyond[0]}]", float(seen[beyond[0]]))
        self._values = seen[-model.window :].copy()

    @property
    def values(self) -> np.ndarray:
        """The values seen so far, at most `window` of them, float64 [<= W], NaN where missing."""
        return self._values.copy()

    def push(self, value: float) -> Forecast | None:
        """Take the next value (NaN if it is missing) and forecast what follows; None until the window is full.

        Raises:
            DataError: if the value is beyond 1e100, or no value of the window is known; the stream stays as it was.
        """
        if abs(value) > LARGEST:
            raise _beyond("Stream.push", "the value", float(value))
        values = np.append(self._values, float(value))[-self._model.window :]
        forecast = self._model.predict(values) if len(values) == self._model.window else None
        self._values = values
        return forecast


def load(path: str | os.PathLike[str]) -> Model:
    """Load a model file; needs neither torch nor a table library.

    Raises:
        ModelFileError: if the file is missing, truncated, damaged, foreign or from a newer version.
    """
    header, tensors = model_file.read(path)
    return build(header, tensors)


def build(header: Header, tensors: dict[str, np.ndarray]) -> Model:
    """The model of a header and the tensors it names."""
    networks, heads = [], []
    for member in range(header.network.members):
        start = f"member.{member}."
        own = {name.removeprefix(start): a for name, a in tensors.items() if name.startswith(start)}
        layers = {name.removeprefix("recurrent."): a for name, a in own.items() if name.startswith("recurrent.")}
        networks.append(Network.collect(header.network.recurrence(), layers, header.network.num_layers))
        heads.append((own["head.weight"], own["head.bias"]))
    return Model(header, tuple(networks), tuple(heads))


def band(header: Header, quantiles: np.ndarray) -> Forecast:
    """Median and band out of all quantiles [..., Q]."""
    middle = header.head.quantiles.index(0.5)
    return Forecast(quantiles[..., middle], quantiles[..., 0], quantiles[..., -1])


def _head(h: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    # row by row: a product of matrices may round a row differently in another batch
    return np.stack([w @ row + b for row in h]) if len(h) else np.zeros((0, len(b)))  # [N, K*Q]


def _windows(model: Model, values: ArrayLike) -> np.ndarray:
    rows = np.ascontiguousarray(values, dtype=np.float64)  # sums over a row take its order in memory
    if rows.ndim not in (1, 2):
        what, got = "values has the wrong number of axes", f"values: {describe(rows)}"
        expected, hint = "[T] or [N, T]", "pass one series, or one series per row"
        raise ShapeError.of("Model.predict", what, got, expected, hint)
    rows = np.atleast_2d(rows)
    if rows.shape[1] < model.window:
        what, got = f"{rows.shape[1]} values are too few", f"values: {describe(np.asarray(values))}"
        expected = f"at least {model.window}, the window of the model"
        hint = "pass more of the past; mark what is unknown as NaN"
        raise DataError.of("Model.predict", what, got, expected, hint)
    rows = rows[:, -model.window :]  # [N, W]
    beyond = rows[np.abs(rows) > LARGEST]
    if len(beyond):
        raise _beyond("Model.predict", "a number in values", float(beyond[0]))
    if np.isnan(rows).all(axis=1).any():
        what, got = f"no known value among the last {model.window}", "NaN only"
        expected, hint = "at least one known value", "pass a window that holds a measurement"
        raise DataError.of("Model.predict", what, got, expected, hint)
    return rows


def _beyond(who: str, what: str, value: float) -> DataError:
    expected, hint = (
        f"numbers of at most {LARGEST:g} in size, NaN where missing",
        "replace it, mark it as NaN, or take another unit",
    )
    return DataError.of(who, f"{what} is infinite or too large", repr(value), expected, hint)
