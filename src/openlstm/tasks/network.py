"""The network of a forecaster in torch, and its loss; `runtime.decoder`, `recursive` and `simulate` are the same in numpy.

Legend: N windows, T steps, I input size, H hidden size, K steps of the horizon, Q quantiles, R parameters of a distribution,
D width.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, NegativeBinomial, Normal, StudentT

from openlstm.cells import GRU as GRUCell
from openlstm.cells import VanillaRNN
from openlstm.model_file import Header
from openlstm.model_file.header import CONTEXT, COUNTS
from openlstm.nn import GRU, LSTM, RNN, init
from openlstm.runtime.recursive import LEAST, TINY, Sequence
from openlstm.runtime.window import Window


class ForecastNet(nn.Module):
    """Recurrent layers over a window, and a decoder on their last h; the quantiles [N, K, Q] in spreads.

    The same seed gives the same weights.
    """

    def __init__(self, header: Header, seed: int) -> None:
        super().__init__()
        series, decoder = header.series, header.decoder
        self.steps, self.quantiles, self.kind = series.horizon, decoder.quantiles, decoder.kind
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.recurrent, self.embed = _recurrent(header), _embeddings(header)
            self.known = [str(k) for k, f in enumerate(series.features) if f.categories is not None and f.role == "future"]
            K, Q, H, D = self.steps, len(self.quantiles), header.network.hidden_size, decoder.width
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
            x = _embedded(x, codes, self.embed)
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


class StepNet(nn.Module):
    """Recurrent layers, and a head on the h of every step: the decoders `recursive` and `simulate`.

    The same seed gives the same weights.
    """

    def __init__(self, header: Header, seed: int) -> None:
        super().__init__()
        self.header, self.own = header, header.of_target
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.recurrent, self.embed = _recurrent(header), _embeddings(header)
            self.head = nn.Linear(header.network.hidden_size, header.decoder_shapes()["head.bias"][0])
            if self.own:
                self.skip = nn.Linear(self.own, 1, bias=False)
                with torch.no_grad():  # it begins near the value a season before, or the last one where there is no season
                    self.skip.weight.zero_()
                    self.skip.weight[0, 2 if header.series.lags else 0] = 1.0

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        """What is known of each step.

        Args:
            x: [N, T, I] without the embeddings.
            rest: the spread [N, 1] where the distribution is that of counts; the categories [N, T, C] where there are any.

        Returns:
            `recursive`: the parameters of the distribution of each step [N, T, R], see `runtime.recursive.parameters`.
            `simulate`: the quantiles of each step in spreads [N, T, Q].
        """
        decoder = self.header.decoder
        full = _embedded(x, rest[-1], self.embed) if self.embed else x
        out = self.head(self.recurrent(full)[0])  # [N, T, R or Q]
        if decoder.kind == "simulate":
            return _spread_out(out, out.new_zeros(()), decoder.quantiles.index(0.5))
        mean = out[..., :1] + self.skip(x[..., : self.own])
        if decoder.distribution == COUNTS:
            mean = rest[0][..., None] * (nn.functional.softplus(mean) + TINY)
        scale = nn.functional.softplus(out[..., 1:2]) + LEAST
        return torch.cat([mean, scale, nn.functional.softplus(out[..., 2:]) + 2], -1)


Net = ForecastNet | StepNet


def make(header: Header, seed: int) -> Net:
    """The network of a header before its first step of training."""
    return (ForecastNet if header.decoder.kind in ("linear", "direct") else StepNet)(header, seed)


def _recurrent(header: Header) -> nn.Module:
    shape = header.network
    cell, sizes = shape.recurrence(), (header.inputs, shape.hidden_size, shape.num_layers)
    if isinstance(cell, VanillaRNN):
        out: nn.Module = RNN(*sizes, nonlinearity=cell.nonlinearity, batch_first=True)
    elif isinstance(cell, GRUCell):
        out = GRU(*sizes, batch_first=True)
    else:
        out = (LSTM if cell.has_cell else RNN)(*sizes, batch_first=True, cell=cell)
    if header.training.init != "default":  # which would draw them a second time
        init.apply(out, header.training.init)
    return out


def _embeddings(header: Header) -> nn.ParameterDict:
    """A table [categories + 1, width] for each category among the features."""
    out = nn.ParameterDict()
    for k, feature in enumerate(header.series.features):
        if feature.categories is not None:
            out[str(k)] = nn.Parameter(0.1 * torch.randn(len(feature.categories) + 1, feature.width))
    return out


def _embedded(x: Tensor, codes: Tensor, embed: nn.ParameterDict) -> Tensor:
    return torch.cat([x, *(table[codes[..., k]] for k, table in enumerate(embed.values()))], -1)


def _spread_out(out: Tensor, base: Tensor, middle: int) -> Tensor:
    """Quantiles that cannot cross, as `runtime.decoder.spread_out`."""
    steps = nn.functional.softplus(out)
    median = out[..., middle : middle + 1] + base
    above = median + steps[..., middle + 1 :].cumsum(-1)
    below = median - steps[..., :middle].flip(-1).cumsum(-1).flip(-1)
    return torch.cat([below, median, above], -1)


def network(header: Header, tensors: dict[str, np.ndarray] | None = None, member: int = 0) -> Net:
    """One member of a model file as a torch module: as it was trained, or without tensors as it was before its first step."""
    net = make(header, header.training.seed + member)
    if tensors is not None:
        start = f"member.{member}."
        net.load_state_dict({n.removeprefix(start): torch.tensor(a) for n, a in tensors.items() if n.startswith(start)})
    return net.eval()


def arguments(header: Header, window: Window | Sequence) -> tuple[Tensor, ...]:
    """A window, or a sequence of steps, as the arguments of `forward`, without those that its header does not need."""
    needed: list[np.ndarray] = [window.x]
    categories = any(f.categories is not None for f in header.series.features)
    if isinstance(window, Window):
        needed += [window.ahead, window.context] if header.decoder.kind == "direct" else []
        needed += [window.codes, window.ahead_codes] if categories else []
    else:
        needed += [window.spread[:, None].astype(np.float32)] if header.decoder.distribution == COUNTS else []
        needed += [window.codes] if categories else []
    return tuple(torch.from_numpy(np.ascontiguousarray(a)) for a in needed)


def pinball(out: Tensor, y: Tensor, q: Tensor, weight: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """The sum over the known targets of y [N, K], each window with its weight [N, 1], and how many they are; out [N, K, Q]."""
    known = ~y.isnan()
    error = torch.where(known, y, 0.0)[..., None] - out
    return (torch.maximum(q * error, (q - 1) * error).mean(-1) * known * weight).sum(), known.sum()


def likelihood(out: Tensor, y: Tensor, distribution: str | None, weight: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """The sum of -log p(y) over the known targets of y [N, T], in nats, and how many they are; out [N, T, R]."""
    known = ~y.isnan()
    mean, scale, free = out[..., 0], out[..., 1], out[..., 2:]
    if distribution == COUNTS:
        of: Distribution = NegativeBinomial(1 / scale, logits=torch.log(mean * scale), validate_args=False)
    elif distribution == "student-t":
        of = StudentT(free[..., 0], mean, scale, validate_args=False)
    else:
        of = Normal(mean, scale, validate_args=False)
    return -(of.log_prob(torch.where(known, y, 0.0)) * known * weight).sum(), known.sum()


def error(header: Header, out: Tensor, y: Tensor, weight: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """What the training makes small: of the recursive decoder `likelihood`, of the others `pinball`."""
    if header.decoder.kind == "recursive":
        return likelihood(out, y, header.decoder.distribution, weight)
    return pinball(out, y, torch.tensor(header.decoder.quantiles), weight)


def weighted_error(header: Header) -> Callable[..., tuple[Tensor, Tensor]]:
    """The loss of a training: of loss(net, *arguments, y, weight) the sum of `error`, and how many targets are known."""

    def loss(net: nn.Module, *batch: Tensor) -> tuple[Tensor, Tensor]:
        return error(header, net(*batch[:-2]), *batch[-2:])

    return loss


def mean_error(header: Header) -> Callable[..., Tensor]:
    """The mean of `error` over the known targets: loss(net, *arguments, y)."""

    def loss(net: nn.Module, *batch: Tensor) -> Tensor:
        total, known = error(header, net(*batch[:-1]), batch[-1])
        return total / known.clamp(min=1)

    return loss
