"""`Forecaster`: read a window of a series, forecast the whole horizon at once, with an 80 % band.

    x, anchor, spread = inputs(window)               # measured from the last known value in the window's own deviation
    h = last output of the recurrent layers over x   # [N, H]; all that the head sees of the past
    quantiles = anchor + spread * (W h + b)          # [N, K, Q]

There is no path around the recurrent layers: with h = 0 every forecast is the last known value plus a constant.

Legend: N windows, W steps of a window, I input size, H hidden size, K steps of the horizon, Q quantiles.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

import openlstm
from openlstm import model_file
from openlstm.cells import BY_NAME, Cell, VanillaRNN
from openlstm.cells import GRU as GRUCell
from openlstm.data import Series, Split, cut, origins, read_series, split_by_time
from openlstm.data.series import guess_period
from openlstm.data.split import training_steps
from openlstm.engine.threads import torch_aside
from openlstm.errors import ArgumentError, DataError
from openlstm.model_file import Head, Header, Network, Step, Training
from openlstm.nn import GRU, LSTM, RNN, init
from openlstm.runtime.model import Model, build
from openlstm.runtime.window import INPUTS, SMALLEST, carry, inputs
from openlstm.tasks.scoring import Evaluation, Prediction, evaluate, predict, same_interval, seasonal_error
from openlstm.train import History, Options, progress, train

QUANTILES = (0.1, 0.5, 0.9)
"""The median, and the 80 % band around it."""

LONG_ENOUGH = 96  # steps of a window, where neither season nor horizon asks for more

NETWORKS = ("lstm", "rnn_tanh", "rnn_relu")
"""The recurrent layers a forecaster can be trained on, by the names that the model file uses."""


class ForecastNet(nn.Module):
    """Recurrent layers, and a linear head on their last h: x [N, W, I] -> [N, K, Q] in units of the spread."""

    def __init__(self, cell: Cell, hidden_size: int, num_layers: int, horizon: int, quantiles: int = len(QUANTILES)) -> None:
        super().__init__()
        self.horizon, self.quantiles = horizon, quantiles
        self.recurrent = _recurrent(cell, hidden_size, num_layers)
        self.head = nn.Linear(hidden_size, horizon * quantiles)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.recurrent(x)  # [N, W, H]
        return self.head(y[:, -1]).view(len(x), self.horizon, self.quantiles)


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
        init: how the weights begin, as `nn.init.apply` takes it: "default", "forget-bias=1", "chrono=104", "orthogonal", ...
        options: how to train; member k takes the seed `options.seed + k`.

    After `fit`: `model_` (as `openlstm.load` gives it), `series_`, `split_`, `histories_`.

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
                raise ArgumentError.of(
                    "Forecaster",
                    f"{name} must be a whole number of at least 1",
                    f"{name}={value!r}",
                    "1, 2, 3, ...",
                    f"pass a {name} above zero",
                )
        if cell not in NETWORKS:
            raise ArgumentError.of("Forecaster", f"unknown cell {cell!r}", repr(cell), ", ".join(NETWORKS), "use cell='lstm'")
        self.horizon, self.period, self.window, self.cell = horizon, period, window, cell
        self.hidden_size, self.num_layers, self.members, self.init = hidden_size, num_layers, members, init
        _begin(BY_NAME[cell], 1, 1, 1, 1, init, 0)  # what does not fit is told now, not after the data were read
        self.options = options or Options()

    def fit(
        self,
        data: Series | str | os.PathLike[str],
        time: str | None = None,
        target: str | None = None,
        *,
        holdout: int = 0,
        quiet: bool = False,
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
        task = _Task(known, split, window, self.horizon, period)
        header = self._header(series, split, window, period, task.scale)  # what a file cannot hold is told before the training
        nets: list[ForecastNet] = []
        self.histories_: list[History] = []
        for member in range(self.members):
            net, history = self._fit_member(task, member, quiet)
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

    def predict(self, data: Series | str | os.PathLike[str] | None = None) -> Prediction:
        """Forecast the steps after the last one of `data`; of the series it was fitted to, held-out steps included, if None."""
        return predict(self._fitted(), self._series(data))

    def evaluate(self, data: Series | str | os.PathLike[str] | None = None) -> Evaluation:
        """Score it beside the baselines on every step of `data` that it has not seen; see `tasks.scoring.evaluate`."""
        return evaluate({_title(self.cell): self._fitted()}, self._series(data))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file that `openlstm.load` reads; an existing file is replaced as a whole or not at all."""
        model_file.write(path, self._fitted().header, self.tensors_)

    def _fit_member(self, task: _Task, member: int, quiet: bool) -> tuple[ForecastNet, History]:
        options = Options(**{**vars(self.options), "seed": self.options.seed + member})
        sizes = (self.hidden_size, self.num_layers, self.horizon, len(QUANTILES))
        net = _begin(BY_NAME[self.cell], *sizes, self.init, options.seed)
        title = f"{_title(self.cell)} {member + 1} of {self.members}"
        with progress(title, options.epochs, quiet=quiet) as bar, torch_aside():
            history = train(net, task.loss(options.seed), [task.train], [task.validation], options, [bar])
        return net.eval(), history

    def _header(self, series: Series, split: Split, window: int, period: int, scale: float) -> Header:
        """All that is known before the training; how it went is filled in afterwards."""
        try:
            network = Network(
                cell=self.cell,  # type: ignore[arg-type]
                input_size=INPUTS,
                hidden_size=self.hidden_size,
                num_layers=self.num_layers,
                members=self.members,
            )
            trained = model_file.Series(
                time=series.time_name,
                target=series.name,
                step=series.step,
                period=period,
                window=window,
                horizon=self.horizon,
                scale=scale,
                seasonal_error=seasonal_error(series.values[: split.known], period),
            )
            training = Training(
                first=str(series.times[0]),
                last=str(series.times[split.known - 1]),
                seed=self.options.seed,
                epochs=(1,) * self.members,
                validation_loss=(0.0,) * self.members,
                learning_rate=self.options.learning_rate,
                batch_size=self.options.batch_size,
                weight_decay=self.options.weight_decay,
                clip=self.options.clip,
                init=self.init,
            )
            return Header(
                library=openlstm.__version__,
                task="forecast",
                series=trained,
                network=network,
                head=Head(quantiles=QUANTILES),
                training=training,
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

    def _series(self, data: Series | str | os.PathLike[str] | None) -> Series:
        self._fitted()
        own = self.series_
        return own if data is None else _as_series(data, own.time_name, own.name, own.step)


class _Task:
    """The windows of one series, and the loss over them.

    scale: the mean deviation within a training window, in the unit of the target; where nothing moves, a millionth of the
        level, or 1 where that is zero too.
    wobble: how much the slope differs from season to season, in scales per season. Training adds random slopes of that
        size to windows and targets alike, since the growth of tomorrow need not be among those seen.
    """

    def __init__(self, known: np.ndarray, split: Split, window: int, horizon: int, period: int) -> None:
        self.known, self.window, self.horizon = known, window, horizon
        train = origins(known, window, horizon, window, split.train)
        validation = origins(known, window, horizon, split.train, split.known)
        for name, at in (("training", train), ("validation", validation)):
            if not len(at):
                raise DataError.of(
                    "Forecaster.fit",
                    f"no {name} window holds a known value and a known target",
                    "missing values only",
                    "measurements in every part of the series",
                    "give a table with fewer gaps",
                )
        self.train, self.validation = torch.from_numpy(train), torch.from_numpy(validation)
        past = known[: split.train]  # scaling is fitted on the training part only
        some = [carry(past[t - window : t]) for t in train[:: max(1, len(train) // 1000)]]
        spread = float(np.mean([np.std(w) for w in some]))
        if spread < SMALLEST and any(np.ptp(w) > 0 for w in some):
            raise DataError.of(
                "Forecaster.fit",
                "the values differ by too little to compute with",
                f"a mean deviation of {spread:.3g}",
                f"at least {SMALLEST:g}",
                "take another unit",
            )
        self.scale = spread or float(np.nanmax(np.abs(past))) / 1e6 or 1.0
        seasons = np.array(
            [
                np.nanmean(part)
                for part in np.split(past, np.arange(len(past) % period, len(past), period))[1:]
                if not np.isnan(part).all()
            ]
        )
        slopes = np.diff(seasons) / self.scale
        self.wobble = float(np.std(slopes)) if len(slopes) > 2 else 0.0
        self.ramp = np.arange(-window + 1, horizon + 1) / period  # seasons since the last step of the window

    def loss(self, seed: int):  # noqa: ANN202
        """The pinball loss over the quantiles, summed over the known targets, as `train` takes it."""
        levels = torch.tensor(QUANTILES)
        slopes = np.random.default_rng(seed)

        def pinball(net: nn.Module, at: Tensor) -> tuple[Tensor, Tensor]:
            past, future = cut(self.known, at.cpu().numpy(), self.window, self.horizon)  # [N, W], [N, K]
            if net.training:
                tilt = slopes.normal(0, self.wobble * self.scale, (len(past), 1)) * self.ramp
                past, future = past + tilt[:, : self.window], future + tilt[:, self.window :]
            x, anchor, spread = inputs(past, self.scale)
            y = torch.from_numpy((future - anchor[:, None]) / spread[:, None]).float().to(at.device)
            return _pinball(net(torch.from_numpy(x).to(at.device)), y, levels.to(at.device))

        return pinball


def network(header: Header, tensors: dict[str, np.ndarray] | None = None, member: int = 0) -> ForecastNet:
    """One member of a model file as a torch module: as it was trained, or without tensors as it was before its first step.

    >>> from openlstm.data import from_arrays
    >>> t = np.arange(90)
    >>> series = from_arrays(np.datetime64("2001-01-01") + t, np.sin(t))
    >>> forecaster = Forecaster(7, members=1, hidden_size=4, options=Options(epochs=1)).fit(series, quiet=True)
    >>> network(forecaster.model_.header, forecaster.tensors_)(torch.zeros(5, 20, 2)).shape
    torch.Size([5, 7, 3])
    """
    shape, series = header.network, header.series
    sizes = (shape.hidden_size, shape.num_layers, series.horizon, len(header.head.quantiles))
    net = _begin(shape.recurrence(), *sizes, header.training.init, header.training.seed + member)
    if tensors is not None:
        start = f"member.{member}."
        net.load_state_dict({n.removeprefix(start): torch.tensor(a) for n, a in tensors.items() if n.startswith(start)})
    return net.eval()


def windows(header: Header, series: Series, most: int = 256) -> tuple[Tensor, Tensor]:
    """Windows of a series as the network sees them, x [N, W, I], and targets as its loss does, y [N, K], NaN where missing.

    At most `most` of them, spread evenly over the series.

    Raises:
        DataError: if there is no window that holds a known value and a known target, or the series has another interval.
    """
    same_interval(header, series)
    window, horizon = header.series.window, header.series.horizon
    at = origins(series.values, window, horizon, window, len(series))
    if not len(at):
        raise DataError.of(
            f"column {series.name!r}",
            "no window of the series holds a known value and a known target",
            f"{len(series)} steps",
            f"at least {window + horizon}: window {window} + horizon {horizon}",
            "give a longer table",
        )
    at = at[np.unique(np.linspace(0, len(at) - 1, min(len(at), most)).round().astype(int))]
    past, future = cut(series.values, at, window, horizon)
    x, anchor, spread = inputs(past, header.series.scale)
    return torch.from_numpy(x), torch.from_numpy((future - anchor[:, None]) / spread[:, None]).float()


def quantile_loss(levels: tuple[float, ...]):  # noqa: ANN201
    """The mean pinball loss of `levels` over the known targets: loss(net, x [N, W, I], y [N, K])."""

    def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        total, known = _pinball(net(x), y, torch.tensor(levels))
        return total / known.clamp(min=1)

    return loss


def _pinball(out: Tensor, y: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """The sum over the known targets of y [N, K], and how many they are; out [N, K, Q]."""
    known = ~y.isnan()
    error = torch.where(known, y, 0.0)[..., None] - out
    return (torch.maximum(q * error, (q - 1) * error).mean(-1) * known).sum(), known.sum()


def _begin(cell: Cell, hidden: int, layers: int, horizon: int, quantiles: int, start: str, seed: int) -> ForecastNet:
    """A network before its first step; the same seed gives the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = ForecastNet(cell, hidden, layers, horizon, quantiles)
        if start != "default":  # which would draw them a second time
            init.apply(net.recurrent, start)
    return net


def _recurrent(cell: Cell, hidden: int, layers: int) -> nn.Module:
    if isinstance(cell, VanillaRNN):
        layer: nn.Module = RNN(INPUTS, hidden, layers, nonlinearity=cell.nonlinearity, batch_first=True)
    elif isinstance(cell, GRUCell):
        layer = GRU(INPUTS, hidden, layers, batch_first=True)
    else:
        layer = LSTM(INPUTS, hidden, layers, batch_first=True, cell=cell)
    return layer


def _as_series(data: Series | str | os.PathLike[str], time: str | None, target: str | None, step: Step | None = None) -> Series:
    if isinstance(data, Series):
        return data
    if time is None or target is None:
        raise ArgumentError.of(
            "Forecaster",
            "a file needs the names of two columns",
            f"time={time!r}, target={target!r}",
            "time and target",
            "fit('data.csv', time='date', target='co2')",
        )
    return read_series(Path(data), time, target, step=step)


def _title(cell: str) -> str:
    return "LSTM" if cell == "lstm" else "vanilla RNN"
