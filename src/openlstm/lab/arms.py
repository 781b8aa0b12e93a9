"""The networks that are put side by side: the same task and the same training, only the cell and its beginning differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from openlstm import cells
from openlstm.lab.tasks import TASKS, Task
from openlstm.nn import GRU, LSTM, RNN, init

Recurrent = LSTM | GRU | RNN
ADVISED = "lstm-advice"


class Arm(NamedTuple):
    """One way to begin."""

    title: str
    build: Callable[[int, int, int], Recurrent]  # (inputs, hidden size, lag) -> a layer


def _rnn(inputs: int, hidden: int, lag: int) -> Recurrent:
    return RNN(inputs, hidden)


def _rnn_orthogonal(inputs: int, hidden: int, lag: int) -> Recurrent:
    return init.orthogonal(RNN(inputs, hidden))


def _rnn_identity(inputs: int, hidden: int, lag: int) -> Recurrent:
    return init.identity(RNN(inputs, hidden, nonlinearity="relu"))


def _lstm_1997(inputs: int, hidden: int, lag: int) -> Recurrent:
    return LSTM(inputs, hidden, cell=cells.LSTM1997())


def _gru(inputs: int, hidden: int, lag: int) -> Recurrent:
    return GRU(inputs, hidden)


def _lstm(inputs: int, hidden: int, lag: int) -> Recurrent:
    return LSTM(inputs, hidden)


def _lstm_forget_1(inputs: int, hidden: int, lag: int) -> Recurrent:
    return init.forget_bias(LSTM(inputs, hidden), 1.0)


def _lstm_forget_3(inputs: int, hidden: int, lag: int) -> Recurrent:
    return init.forget_bias(LSTM(inputs, hidden), 3.0)


def _lstm_chrono(inputs: int, hidden: int, lag: int) -> Recurrent:
    return init.chrono(LSTM(inputs, hidden), lag)


ARMS: dict[str, Arm] = {
    "rnn": Arm("RNN, default", _rnn),
    "rnn-orthogonal": Arm("RNN, orthogonal", _rnn_orthogonal),
    "rnn-identity": Arm("RNN, identity + relu", _rnn_identity),
    "lstm-1997": Arm("LSTM 1997, no forget gate", _lstm_1997),
    "gru": Arm("GRU, default", _gru),
    "lstm": Arm("LSTM, default", _lstm),
    "lstm-forget-1": Arm("LSTM, forget bias 1", _lstm_forget_1),
    "lstm-forget-3": Arm("LSTM, forget bias 3", _lstm_forget_3),
    ADVISED: Arm("LSTM + advice", _lstm),
    "lstm-chrono": Arm("LSTM, gates for the lag (chrono)", _lstm_chrono),
}
"""Name -> arm, in the order of the table. What the advice is, is measured for each task (`advised.py`)."""

SIDE_BY_SIDE = tuple(name for name in ARMS if name != "lstm-chrono")
"""The arms of an experiment where none are named: all that do not know the lag, and the one that is told it by measurement."""


class Reader(nn.Module):
    """A recurrent layer and a linear layer that reads the answer, from its last h or at every step.

    x [T, B, I] -> [B, O] where a task asks at the last step, [T, B, O] where it asks at every step; with one output, and for
    `latch`, which is the task if none is given, O is left out.
    """

    def __init__(self, layer: Recurrent, task: Task = TASKS["latch"]) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(layer.hidden_size, task.outputs)
        self.every_step = task.where == "every step"

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(*self.layer(x))

    def answer(self, out: Tensor, state: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """What is read from the layer's outputs [T, B, H] and its final state (h, c) or h, h [1, B, H]."""
        return self._head(out) if self.every_step else self.read(state)

    def read(self, state: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """What is read from a final state, as the layer gives it."""
        return self._head((state[0] if isinstance(state, tuple) else state)[-1])

    def _head(self, h: Tensor) -> Tensor:
        y = self.head(h)
        return y[..., 0] if self.head.out_features == 1 else y


def build(name: str, hidden: int, lag: int, seed: int, task: Task = TASKS["latch"], advice: str | None = None) -> Reader:
    """The network of an arm; the same seed gives the same weights, and the global generator is left as it was.

    Args:
        name: of the arm.
        hidden, lag: H, and the lag that gates are set for where an arm sets them.
        seed: of all weights.
        task: for its inputs and outputs.
        advice: what else is done to the layer, before the one that reads it is drawn, as in `openlstm.nn.init.apply`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = ARMS[name].build(task.inputs, hidden, lag)
        if advice is not None:
            init.apply(layer, advice)
        return Reader(layer, task)
