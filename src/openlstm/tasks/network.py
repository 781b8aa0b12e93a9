"""The network of a forecaster in torch, and its loss; `runtime.decoder` is the same in numpy.

Legend: N windows, W steps of a window, I input size, H hidden size, K steps of the horizon, Q quantiles, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import numpy as np
import torch
from torch import Tensor, nn

from openlstm.cells import GRU as GRUCell
from openlstm.cells import VanillaRNN
from openlstm.model_file import Header
from openlstm.model_file.header import CONTEXT
from openlstm.nn import GRU, LSTM, RNN, init
from openlstm.runtime.window import Window


class ForecastNet(nn.Module):
    """Recurrent layers over a window, and a decoder on their last h; the quantiles [N, K, Q] in spreads.

    The same seed gives the same weights.
    """

    def __init__(self, header: Header, seed: int) -> None:
        super().__init__()
        series, shape, decoder = header.series, header.network, header.decoder
        self.steps, self.quantiles, self.kind = series.horizon, decoder.quantiles, decoder.kind
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            cell, sizes = shape.recurrence(), (header.inputs, shape.hidden_size, shape.num_layers)
            self.recurrent: nn.Module
            if isinstance(cell, VanillaRNN):
                self.recurrent = RNN(*sizes, nonlinearity=cell.nonlinearity, batch_first=True)
            elif isinstance(cell, GRUCell):
                self.recurrent = GRU(*sizes, batch_first=True)
            else:
                self.recurrent = LSTM(*sizes, batch_first=True, cell=cell)
            if header.training.init != "default":  # which would draw them a second time
                init.apply(self.recurrent, header.training.init)
            self.embed = nn.ParameterDict()
            for k, feature in enumerate(series.features):
                if feature.categories is not None:
                    self.embed[str(k)] = nn.Parameter(0.1 * torch.randn(len(feature.categories) + 1, feature.width))
            self.known = [str(k) for k, f in enumerate(series.features) if f.categories is not None and f.role == "future"]
            K, Q, H, D = self.steps, len(self.quantiles), shape.hidden_size, decoder.width
            if self.kind == "linear":
                self.head = nn.Linear(H, K * Q)
                return
            self.head = nn.Linear(H + CONTEXT, K * D)
            self.ahead = nn.Linear(header.ahead, D, bias=False)
            self.out = nn.Linear(D, Q)
            self.skip = nn.Linear(header.ahead, 1, bias=False)
            with torch.no_grad():  # it begins near the last known season, or at the anchor where there is none
                self.out.weight.mul_(0.3)
                self.skip.weight.zero_()
                if series.lags:
                    self.skip.weight[0, 1] = 1.0

    def forward(
        self,
        x: Tensor,
        ahead: Tensor | None = None,
        context: Tensor | None = None,
        codes: Tensor | None = None,
        ahead_codes: Tensor | None = None,
    ) -> Tensor:
        """The quantiles [N, K, Q] of windows; the arguments are those of `runtime.window.Window`."""
        if codes is not None:
            x = torch.cat([x, *(table[codes[..., k]] for k, table in enumerate(self.embed.values()))], -1)
        h = self.recurrent(x)[0][:, -1]  # [N, H]
        if self.kind == "linear":
            return self.head(h).view(len(x), self.steps, -1)
        assert ahead is not None and context is not None
        if ahead_codes is not None:
            tables = (self.embed[name] for name in self.known)
            ahead = torch.cat([ahead, *(table[ahead_codes[..., k]] for k, table in zip(count(), tables))], -1)  # noqa: B905
        given = self.head(torch.cat([h, context], 1)).view(len(x), self.steps, -1)
        out = self.out(torch.tanh(given + self.ahead(ahead)))  # [N, K, Q]
        return _spread_out(out, self.skip(ahead), self.quantiles.index(0.5))


def _spread_out(out: Tensor, base: Tensor, middle: int) -> Tensor:
    """Quantiles that cannot cross, as `runtime.decoder.spread_out`."""
    steps = nn.functional.softplus(out)
    median = out[..., middle : middle + 1] + base
    above = median + steps[..., middle + 1 :].cumsum(-1)
    below = median - steps[..., :middle].flip(-1).cumsum(-1).flip(-1)
    return torch.cat([below, median, above], -1)


def network(header: Header, tensors: dict[str, np.ndarray] | None = None, member: int = 0) -> ForecastNet:
    """One member of a model file as a torch module: as it was trained, or without tensors as it was before its first step."""
    net = ForecastNet(header, header.training.seed + member)
    if tensors is not None:
        start = f"member.{member}."
        net.load_state_dict({n.removeprefix(start): torch.tensor(a) for n, a in tensors.items() if n.startswith(start)})
    return net.eval()


def arguments(header: Header, window: Window) -> tuple[Tensor, ...]:
    """A window as the arguments of `ForecastNet.forward`, without those that its header does not need."""
    needed: list[np.ndarray] = [window.x]
    if header.decoder.kind != "linear":
        needed += [window.ahead, window.context]
    if any(f.categories is not None for f in header.series.features):
        needed += [window.codes, window.ahead_codes]
    return tuple(torch.from_numpy(np.ascontiguousarray(a)) for a in needed)


def pinball(out: Tensor, y: Tensor, q: Tensor, weight: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """The sum over the known targets of y [N, K], each window with its weight [N, 1], and how many they are; out [N, K, Q]."""
    known = ~y.isnan()
    error = torch.where(known, y, 0.0)[..., None] - out
    return (torch.maximum(q * error, (q - 1) * error).mean(-1) * known * weight).sum(), known.sum()


def quantile_loss(levels: tuple[float, ...]) -> Callable[..., Tensor]:
    """The mean pinball loss of `levels` over the known targets: loss(net, *arguments, y [N, K])."""

    def loss(net: nn.Module, *batch: Tensor) -> Tensor:
        total, known = pinball(net(*batch[:-1]), batch[-1], torch.tensor(levels))
        return total / known.clamp(min=1)

    return loss
