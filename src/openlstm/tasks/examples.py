"""The windows of a series as examples to train on and to look at, with their targets in units of the spread.

Legend: N windows, W steps of a window, I input size, K steps of the horizon.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from openlstm.data import Series, Split, cut, origins
from openlstm.errors import DataError
from openlstm.model_file import Header
from openlstm.runtime.window import SMALLEST, carry, inputs
from openlstm.tasks.network import pinball
from openlstm.tasks.scoring import same_interval


class Examples:
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
                what, got = f"no {name} window holds a known value and a known target", "missing values only"
                expected, hint = "measurements in every part of the series", "give a table with fewer gaps"
                raise DataError.of("Forecaster.fit", what, got, expected, hint)
        self.train, self.validation = torch.from_numpy(train), torch.from_numpy(validation)
        past = known[: split.train]  # scaling is fitted on the training part only
        some = [carry(past[t - window : t]) for t in train[:: max(1, len(train) // 1000)]]
        spread = float(np.mean([np.std(w) for w in some]))
        if spread < SMALLEST and any(np.ptp(w) > 0 for w in some):
            what, got = "the values differ by too little to compute with", f"a mean deviation of {spread:.3g}"
            expected, hint = f"at least {SMALLEST:g}", "take another unit"
            raise DataError.of("Forecaster.fit", what, got, expected, hint)
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

    def loss(self, quantiles: tuple[float, ...], seed: int) -> Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]:
        """The pinball loss over the quantiles, summed over the known targets, as `train` takes it."""
        levels = torch.tensor(quantiles)
        slopes = np.random.default_rng(seed)

        def loss(net: nn.Module, at: Tensor) -> tuple[Tensor, Tensor]:
            past, future = cut(self.known, at.cpu().numpy(), self.window, self.horizon)  # [N, W], [N, K]
            if net.training:
                tilt = slopes.normal(0, self.wobble * self.scale, (len(past), 1)) * self.ramp
                past, future = past + tilt[:, : self.window], future + tilt[:, self.window :]
            x, y = _tensors(past, future, self.scale)
            return pinball(net(x.to(at.device)), y.to(at.device), levels.to(at.device))

        return loss


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
        what, got = "no window of the series holds a known value and a known target", f"{len(series)} steps"
        expected, hint = f"at least {window + horizon}: window {window} + horizon {horizon}", "give a longer table"
        raise DataError.of(f"column {series.name!r}", what, got, expected, hint)
    at = at[np.unique(np.linspace(0, len(at) - 1, min(len(at), most)).round().astype(int))]
    past, future = cut(series.values, at, window, horizon)
    return _tensors(past, future, header.series.scale)


def _tensors(past: np.ndarray, future: np.ndarray, scale: float) -> tuple[Tensor, Tensor]:
    """What the network reads, x [N, W, I], and its targets in units of the spread, y [N, K]."""
    x, anchor, spread = inputs(past, scale)
    return torch.from_numpy(x), torch.from_numpy((future - anchor[:, None]) / spread[:, None]).float()
