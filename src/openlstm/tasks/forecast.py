"""`Forecaster`: read a window of a series, forecast the whole horizon at once, with an 80 % band.

    x, anchor, spread = inputs(window)               # measured from the last known value in the window's own deviation
    h = last output of the recurrent layers over x   # [N, H]; all that the head sees of the past
    quantiles = anchor + spread * (W h + b)          # [N, K, Q]

There is no path around the recurrent layers: with h = 0 every forecast is the last known value plus a constant.

Legend: N windows, W steps of a window, I input size, H hidden size, K steps of the horizon, Q quantiles.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

import openlstm
from openlstm import model_file
from openlstm.cells import BY_NAME
from openlstm.data import Series, Split, read_series, split_by_time
from openlstm.data.grid import guess_period
from openlstm.data.split import training_steps
from openlstm.engine.threads import torch_aside
from openlstm.errors import ArgumentError
from openlstm.model_file import Head, Header, Network, Step, Training
from openlstm.runtime.model import Model, build
from openlstm.runtime.window import INPUTS
from openlstm.tasks.examples import Examples
from openlstm.tasks.network import ForecastNet, Spec, network
from openlstm.tasks.scoring import Evaluation, Prediction, evaluate, predict, seasonal_error, title
from openlstm.train import History, Options, progress, train

QUANTILES = (0.1, 0.5, 0.9)
"""The median, and the 80 % band around it."""

LONG_ENOUGH = 96  # steps of a window, where neither season nor horizon asks for more

NETWORKS = ("lstm", "rnn_tanh", "rnn_relu")
"""The recurrent layers a forecaster can be trained on, by the names that the model file uses."""

OPTIONS = ("learning_rate", "batch_size", "weight_decay", "clip", "seed")
"""Those of the training that a model file keeps."""

Data = Series | str | os.PathLike[str]


class Forecaster:
    """A forecaster of one series, of `members` networks whose forecasts are averaged.

    Args:
        horizon: how many steps to forecast.
        period: steps in a season; guessed from the sampling interval if None (weekly 52, monthly 12, daily 7, hourly 24).
        window: steps the network reads; if None the longest of two seasons, the horizon, and 96 steps (a quarter of the
            training part where that is less).
        cell: "lstm", "rnn_tanh" or "rnn_relu".
        hidden_size: H of each layer.
        num_layers: recurrent layers on top of each other.
        members: networks that differ in their seed alone.
        init: of the weights, as `nn.init.apply` takes it: "default", "forget-bias=1", "chrono=104", "orthogonal", ...
        options: how to train; member k takes the seed `options.seed + k`.

    After `fit`: `model_` (as `openlstm.load` gives it), `series_`, `split_`, `histories_`.

    >>> import numpy as np
    >>> from openlstm.data import from_arrays
    >>> t = np.arange(120)
    >>> series = from_arrays(np.datetime64("2001-01-01") + t, np.sin(2 * np.pi * t / 7) + 0.1 * t)
    >>> forecaster = Forecaster(7, members=1, hidden_size=8, options=Options(epochs=2)).fit(series, holdout=14, quiet=True)
    >>> forecaster.predict().forecast.median.shape
    (7,)
    """

    def __init__(
        self,
        horizon: int,
        *,
        period: int | None = None,
        window: int | None = None,
        cell: str = "lstm",
        hidden_size: int = 64,
        num_layers: int = 1,
        members: int = 3,
        init: str = "default",
        options: Options | None = None,
    ) -> None:
        sizes = {
            "horizon": horizon,
            "period": period,
            "window": window,
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "members": members,
        }
        for name, value in sizes.items():
            if value is not None and (not isinstance(value, int) or value < 1):
                what, got = f"{name} must be a whole number of at least 1", f"{name}={value!r}"
                expected, hint = "1, 2, 3, ...", f"pass a {name} above zero"
                raise ArgumentError.of("Forecaster", what, got, expected, hint)
        if cell not in NETWORKS:
            raise ArgumentError.of("Forecaster", f"unknown cell {cell!r}", repr(cell), ", ".join(NETWORKS), "use cell='lstm'")
        self.horizon, self.period, self.window, self.cell = horizon, period, window, cell
        self.hidden_size, self.num_layers, self.members, self.init = hidden_size, num_layers, members, init
        Spec(BY_NAME[cell], init=init).build(0)  # what does not fit is told now, not after the data were read
        self.options = options or Options()

    def fit(
        self, data: Data, time: str | None = None, target: str | None = None, *, holdout: int = 0, quiet: bool = False
    ) -> Forecaster:
        """Train on all but the last `holdout` steps; of the rest, the last part chooses the weights.

        Args:
            data: a `Series`, or the path of a CSV or Parquet file together with the columns `time` and `target`.
            holdout: steps at the end that are not looked at, for `evaluate`.
            quiet: show no progress (it goes to standard error).

        Raises:
            DataError: if the file or the series cannot be used, or is too short for window and horizon.
        """
        self.series_ = series = _as_series(data, time, target)
        period = self.period or guess_period(series.step)
        room = training_steps(len(series) - holdout, self.horizon)
        window = self.window or max(2 * period, self.horizon, min(LONG_ENOUGH, room // 4))
        self.split_ = split = split_by_time(series, window=window, horizon=self.horizon, holdout=holdout)
        known = series.values[: split.known]
        task = Examples(known, split, window, self.horizon, period)
        header = self._header(series, split, window, period, task.scale)  # what a file cannot hold is told before the training
        nets: list[ForecastNet] = []
        self.histories_: list[History] = []
        for member in range(self.members):
            net, history = self._fit_member(header, task, member, quiet)
            nets.append(net)
            self.histories_.append(history)
        self.tensors_ = {
            f"member.{k}.{name}": value.detach().cpu().numpy()
            for k, net in enumerate(nets)
            for name, value in net.state_dict().items()
        }
        how = {
            "epochs": tuple(h.best.number for h in self.histories_),
            "validation_loss": tuple(h.best.validation_loss for h in self.histories_),
        }
        self.model_ = build(header.model_copy(update={"training": header.training.model_copy(update=how)}), self.tensors_)
        return self

    def predict(self, data: Data | None = None) -> Prediction:
        """Forecast the steps after the last one of `data`; of the series it was fitted to, held-out steps included, if None."""
        return predict(self._fitted(), self._series(data))

    def evaluate(self, data: Data | None = None) -> Evaluation:
        """Score it beside the baselines on every step of `data` that it has not seen; see `tasks.scoring.evaluate`."""
        return evaluate({title(self.cell): self._fitted()}, self._series(data))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file that `openlstm.load` reads; an existing file is replaced as a whole or not at all."""
        model_file.write(path, self._fitted().header, self.tensors_)

    def _fit_member(self, header: Header, task: Examples, member: int, quiet: bool) -> tuple[ForecastNet, History]:
        options = replace(self.options, seed=self.options.seed + member)
        net, loss = network(header, member=member), task.loss(QUANTILES, options.seed)
        with progress(f"{title(self.cell)} {member + 1} of {self.members}", options.epochs, quiet=quiet) as bar, torch_aside():
            history = train(net, loss, [task.train], [task.validation], options, [bar])
        return net.eval(), history

    def _header(self, series: Series, split: Split, window: int, period: int, scale: float) -> Header:
        """All that is known before the training; how it went is filled in afterwards."""
        options = {name: getattr(self.options, name) for name in OPTIONS}
        try:
            return Header(
                library=openlstm.__version__,
                task="forecast",
                series=model_file.Series(
                    time=series.time_name,
                    target=series.name,
                    step=series.step,
                    period=period,
                    window=window,
                    horizon=self.horizon,
                    scale=scale,
                    seasonal_error=seasonal_error(series.values[: split.known], period),
                ),
                network=Network(
                    cell=self.cell,
                    input_size=INPUTS,
                    hidden_size=self.hidden_size,
                    num_layers=self.num_layers,
                    members=self.members,
                ),
                head=Head(quantiles=QUANTILES),
                training=Training(
                    first=str(series.times[0]),
                    last=str(series.times[split.known - 1]),
                    epochs=(1,) * self.members,
                    validation_loss=(0.0,) * self.members,
                    init=self.init,
                    **options,
                ),
            )
        except ValidationError as e:
            first = e.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            what, got, expected = f"{name} is not what a model file can hold", f"{name}={first['input']!r}", first["msg"]
            if not name:  # what is wrong is not one number alone
                what, got, expected = "the model is not what a file can hold", first["msg"], "a smaller model"
            hint = f"pass another {name}" if name else "pass a smaller hidden_size, num_layers, members or horizon"
            raise ArgumentError.of("Forecaster", what, got, expected, hint) from None

    def _fitted(self) -> Model:
        if "model_" not in vars(self):
            raise ArgumentError.of(
                "Forecaster", "is not fitted yet", "no model", "a call of fit first", "forecaster.fit(series), then this"
            )
        return self.model_

    def _series(self, data: Data | None) -> Series:
        self._fitted()
        own = self.series_
        return own if data is None else _as_series(data, own.time_name, own.name, own.step)


def _as_series(data: Data, time: str | None, target: str | None, step: Step | None = None) -> Series:
    if isinstance(data, Series):
        return data
    if time is None or target is None:
        what, got = "a file needs the names of two columns", f"time={time!r}, target={target!r}"
        expected, hint = "time and target", "fit('data.csv', time='date', target='co2')"
        raise ArgumentError.of("Forecaster", what, got, expected, hint)
    return read_series(Path(data), time, target, step=step)
