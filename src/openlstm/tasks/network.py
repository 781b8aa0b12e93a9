"""The network of a forecaster: recurrent layers and a linear head, its loss, and the network that a model file describes.

    h = last output of the recurrent layers over x   # [N, H]; all that the head sees of the past
    quantiles = anchor + spread * (W h + b)          # [N, K, Q]

Legend: N windows, W steps of a window, I input size, H hidden size, K steps of the horizon, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from openlstm.cells import GRU as GRUCell
from openlstm.cells import LSTM as LSTMCell
from openlstm.cells import Cell, VanillaRNN
from openlstm.model_file import Header
from openlstm.nn import GRU, LSTM, RNN, init
from openlstm.runtime.window import INPUTS


class Spec(NamedTuple):
    """What a network is made of, and how its weights are initialised."""

    cell: Cell = LSTMCell()
    hidden_size: int = 1
    num_layers: int = 1
    horizon: int = 1
    quantiles: int = 1
    init: str = "default"  # as `openlstm.nn.init.apply` takes it

    @classmethod
    def of(cls, header: Header) -> Spec:
        """The network of a model file."""
        shape, quantiles = header.network, len(header.head.quantiles)
        sizes = (shape.hidden_size, shape.num_layers, header.series.horizon, quantiles)
        return cls(shape.recurrence(), *sizes, header.training.init)

    def build(self, seed: int) -> ForecastNet:
        """The network before its first step; the same seed gives the same weights."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            net = ForecastNet(self)
            if self.init != "default":  # which would draw them a second time
                init.apply(net.recurrent, self.init)
        return net


class ForecastNet(nn.Module):
    """Recurrent layers, and a linear head on their last h: x [N, W, I] -> [N, K, Q] in units of the spread."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.horizon, self.quantiles = spec.horizon, spec.quantiles
        sizes = (INPUTS, spec.hidden_size, spec.num_layers)
        self.recurrent: nn.Module
        if isinstance(spec.cell, VanillaRNN):
            self.recurrent = RNN(*sizes, nonlinearity=spec.cell.nonlinearity, batch_first=True)
        elif isinstance(spec.cell, GRUCell):
            self.recurrent = GRU(*sizes, batch_first=True)
        else:
            self.recurrent = LSTM(*sizes, batch_first=True, cell=spec.cell)
        self.head = nn.Linear(spec.hidden_size, spec.horizon * spec.quantiles)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.recurrent(x)  # [N, W, H]
        return self.head(y[:, -1]).view(len(x), self.horizon, self.quantiles)


def network(header: Header, tensors: dict[str, np.ndarray] | None = None, member: int = 0) -> ForecastNet:
    """One member of a model file as a torch module: as it was trained, or without tensors as it was before its first step.

    >>> from openlstm.data import from_arrays
    >>> t = np.arange(90)
    >>> series = from_arrays(np.datetime64("2001-01-01") + t, np.sin(t))
    >>> from openlstm import Forecaster
    >>> from openlstm.train import Options
    >>> forecaster = Forecaster(7, members=1, hidden_size=4, options=Options(epochs=1)).fit(series, quiet=True)
    >>> network(forecaster.model_.header, forecaster.tensors_)(torch.zeros(5, 20, 2)).shape
    torch.Size([5, 7, 3])
    """
    net = Spec.of(header).build(header.training.seed + member)
    if tensors is not None:
        start = f"member.{member}."
        net.load_state_dict({n.removeprefix(start): torch.tensor(a) for n, a in tensors.items() if n.startswith(start)})
    return net.eval()


def quantile_loss(levels: tuple[float, ...]) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """The mean pinball loss of `levels` over the known targets: loss(net, x [N, W, I], y [N, K])."""

    def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        total, known = pinball(net(x), y, torch.tensor(levels))
        return total / known.clamp(min=1)

    return loss


def pinball(out: Tensor, y: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """The sum over the known targets of y [N, K], and how many they are; out [N, K, Q]."""
    known = ~y.isnan()
    error = torch.where(known, y, 0.0)[..., None] - out
    return (torch.maximum(q * error, (q - 1) * error).mean(-1) * known).sum(), known.sum()
