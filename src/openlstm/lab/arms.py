"""The networks that are put side by side: the same task and the same training, only the beginning differs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from openlstm.nn import LSTM, RNN, init

INPUTS = 2  # the signal and the marker
Recurrent = LSTM | RNN


class Arm(NamedTuple):
    """One way to begin."""

    title: str
    build: Callable[[int, int], Recurrent]  # (hidden size, lag) -> a layer


def _rnn(hidden: int, lag: int) -> Recurrent:
    return RNN(INPUTS, hidden)


def _rnn_orthogonal(hidden: int, lag: int) -> Recurrent:
    return init.orthogonal(RNN(INPUTS, hidden))


def _rnn_identity(hidden: int, lag: int) -> Recurrent:
    return init.identity(RNN(INPUTS, hidden, nonlinearity="relu"))


def _lstm(hidden: int, lag: int) -> Recurrent:
    return LSTM(INPUTS, hidden)


def _lstm_forget_1(hidden: int, lag: int) -> Recurrent:
    return init.forget_bias(LSTM(INPUTS, hidden), 1.0)


def _lstm_forget_3(hidden: int, lag: int) -> Recurrent:
    return init.forget_bias(LSTM(INPUTS, hidden), 3.0)


def _lstm_chrono(hidden: int, lag: int) -> Recurrent:
    return init.chrono(LSTM(INPUTS, hidden), lag)


def _lstm_1997(hidden: int, lag: int) -> Recurrent:
    """The cell of 1997 had no forget gate: f = 1 for ever.

    Weights of f are zero and its bias is so large that sigmoid gives exactly 1. Then sigmoid' = f (1 - f) is exactly 0, and so
    is the gradient of everything that belongs to f: Adam never moves it, and no mask is needed.
    """
    layer = LSTM(INPUTS, hidden)
    f = slice(hidden, 2 * hidden)  # the second block of i, f, g, o
    w = layer.weights_of(0)
    assert w.b_ih is not None and w.b_hh is not None  # bias=True
    with torch.no_grad():
        for p in (w.w_ih, w.w_hh, w.b_hh):
            p[f] = 0.0
        w.b_ih[f] = 1000.0
    return layer


ARMS: dict[str, Arm] = {
    "rnn": Arm("RNN, default", _rnn),
    "rnn-orthogonal": Arm("RNN, orthogonal", _rnn_orthogonal),
    "rnn-identity": Arm("RNN, identity + relu", _rnn_identity),
    "lstm-1997": Arm("LSTM 1997, no forget gate", _lstm_1997),
    "lstm": Arm("LSTM, default", _lstm),
    "lstm-forget-1": Arm("LSTM, forget bias 1", _lstm_forget_1),
    "lstm-forget-3": Arm("LSTM, forget bias 3", _lstm_forget_3),
    "lstm-chrono": Arm("LSTM, gates for the lag (chrono)", _lstm_chrono),
}
"""Name -> arm, in the order of the table; iterating gives the names."""


class Reader(nn.Module):
    """A recurrent layer and a linear layer that reads the answer from its last h.

    x [T, B, 2] -> logits [B]; a positive one says that the sign was positive.
    """

    def __init__(self, layer: Recurrent) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(layer.hidden_size, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self.layer(x)[1])

    def read(self, state: torch.Tensor | tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """The logits [B] of a final state (h, c) or h, as the layer gives it: h [1, B, H]."""
        h = state[0] if isinstance(state, tuple) else state
        return self.head(h[-1])[:, 0]


def build(name: str, hidden: int, lag: int, seed: int) -> Reader:
    """The network of an arm; the same seed gives the same weights, and the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Reader(ARMS[name].build(hidden, lag))
