"""The networks that are put side by side: the same task and the same training, only cell and initialisation differ."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from openlstm import cells
from openlstm.lab.tasks import TASKS, Task
from openlstm.nn import GRU, LSTM, RNN, init

Recurrent = LSTM | GRU | RNN
ADVISED = "lstm-advice"


class Arm(NamedTuple):
    """One kind of network: a layer, its options, and how it is initialised, as `openlstm.nn.init.apply` takes it."""

    title: str
    layer: type[Recurrent]
    options: dict[str, Any] = {}
    init: str = ""  # {lag} stands for the lag


ARMS: dict[str, Arm] = {
    "rnn": Arm("RNN, default", RNN),
    "rnn-orthogonal": Arm("RNN, orthogonal", RNN, init="orthogonal"),
    "rnn-identity": Arm("RNN, identity + relu", RNN, {"nonlinearity": "relu"}, "identity"),
    "lstm-1997": Arm("LSTM 1997, no forget gate", LSTM, {"cell": cells.LSTM1997()}),
    "gru": Arm("GRU, default", GRU),
    "lstm": Arm("LSTM, default", LSTM),
    "lstm-forget-1": Arm("LSTM, forget bias 1", LSTM, init="forget-bias=1"),
    "lstm-forget-3": Arm("LSTM, forget bias 3", LSTM, init="forget-bias=3"),
    ADVISED: Arm("LSTM + advice", LSTM),
    "lstm-chrono": Arm("LSTM, gates for the lag (chrono)", LSTM, init="chrono={lag}"),
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
        self.layer, self.task = layer, task
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
        arm = ARMS[name]
        layer = arm.layer(task.inputs, hidden, **arm.options)
        for how in (arm.init.format(lag=lag), advice):
            if how:
                init.apply(layer, how)
        return Reader(layer, task)
