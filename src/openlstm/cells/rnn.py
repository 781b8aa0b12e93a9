"""The plain recurrence, without a cell state and without gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from openlstm import _array as A
from openlstm._array import Array, relu, tanh, where
from openlstm.cells.base import Cell, State, Step, StepGradients, StepInputs
from openlstm.errors import ArgumentError


@dataclass(frozen=True)
class VanillaRNN(Cell):
    """The recurrence without a highway: every step passes through the fully connected layer.

        h' = tanh(z)    or    h' = relu(z)

    so that dL/dh = W_hh^T diag(1 - h'^2) dL/dh': the product of these Jacobians over the steps is what vanishes or explodes.
    The same equations as `torch.nn.RNN`.

    Args:
        nonlinearity: "tanh" or "relu".

    Raises:
        ArgumentError: for any other non-linearity.

    Source: Elman 1990; relu with identity weights: Le, Jaitly & Hinton 2015; why it forgets: Bengio, Simard & Frasconi 1994.

    >>> import numpy as np
    >>> VanillaRNN("relu")(np.array([[-1.0, 2.0]]), State(np.zeros((1, 2)))).h.tolist()
    [[0.0, 2.0]]
    """

    nonlinearity: Literal["tanh", "relu"] = "tanh"

    name = "rnn"
    gates = ("h",)
    saved = ()
    has_cell = False

    def __post_init__(self) -> None:
        if self.nonlinearity not in ("tanh", "relu"):
            what, got = f"unknown nonlinearity {self.nonlinearity!r}", repr(self.nonlinearity)
            expected, hint = "'tanh' or 'relu'", "pass nonlinearity='tanh'"
            raise ArgumentError.of("VanillaRNN", what, got, expected, hint)

    @property
    def kernel(self) -> str:
        return f"rnn_{self.nonlinearity}"

    def forward(self, z: Array, before: State, w_ch: Array | None = None, mask: Array | None = None) -> Step:
        return Step((), tanh(z) if self.nonlinearity == "tanh" else relu(z), None)

    def backward(self, inputs: StepInputs, dh: Array, dc: Array | None) -> StepGradients:
        h = inputs.h
        if self.nonlinearity == "tanh":
            return StepGradients(dh * (1 - h * h), None)  # [B, H]
        return StepGradients(where(h > 0, dh, A.namespace(dh).zeros_like(dh)), None)  # [B, H]
