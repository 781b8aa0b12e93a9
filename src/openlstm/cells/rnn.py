"""Recurrences without a cell state and without gates: every unit fed back to all, or to itself alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from openlstm import _array as A
from openlstm._array import Array, relu, tanh, where
from openlstm.cells.base import Cell, State, Step, StepGradients, StepInputs, check_options
from openlstm.errors import ArgumentError


class Activation(Cell):
    """h' = tanh(z) or relu(z): what the recurrences without gates share."""

    nonlinearity: str

    gates = ("h",)
    saved = ()
    has_cell = False

    def __post_init__(self) -> None:
        if self.nonlinearity not in ("tanh", "relu"):
            what, got = f"unknown nonlinearity {self.nonlinearity!r}", repr(self.nonlinearity)
            expected, hint = "'tanh' or 'relu'", "pass nonlinearity='tanh'"
            raise ArgumentError.of(type(self).__name__, what, got, expected, hint)
        check_options(self)

    def forward(self, z: Array, before: State, w_ch: Array | None = None, mask: Array | None = None) -> Step:
        return Step((), tanh(z) if self.nonlinearity == "tanh" else relu(z), None)

    def backward(self, inputs: StepInputs, dh: Array, dc: Array | None) -> StepGradients:
        h = inputs.h
        if self.nonlinearity == "tanh":
            return StepGradients(dh * (1 - h * h), None)  # [B, H]
        return StepGradients(where(h > 0, dh, A.namespace(dh).zeros_like(dh)), None)  # [B, H]


@dataclass(frozen=True)
class VanillaRNN(Activation):
    """The recurrence without a highway: every step passes through the fully connected layer.

        h' = tanh(z)    or    h' = relu(z)

    so that dL/dh = W_hh^T diag(1 - h'^2) dL/dh': the product of these Jacobians over the steps is what vanishes or explodes.
    The same equations as `torch.nn.RNN`.

    Args:
        nonlinearity: "tanh" or "relu".
        heads: so many equal groups of units see the h of their own group alone.

    Raises:
        ArgumentError: for any other non-linearity, or heads that are not an integer from 1.

    Source: Elman 1990; relu with identity weights: Le, Jaitly & Hinton 2015; why it forgets: Bengio, Simard & Frasconi 1994.

    >>> import numpy as np
    >>> VanillaRNN("relu")(np.array([[-1.0, 2.0]]), State(np.zeros((1, 2)))).h.tolist()
    [[0.0, 2.0]]
    """

    nonlinearity: Literal["tanh", "relu"] = "tanh"
    heads: int = 1

    name = "rnn"

    @property
    def kernel(self) -> str:
        return f"rnn_{self.nonlinearity}"


@dataclass(frozen=True)
class IndRNN(Activation):
    """The independently recurrent network: a unit sees its own h alone, through one weight.

        h' = tanh(x W^T + b + u * h)    or    h' = relu(x W^T + b + u * h)

    `weight_hh` is u, [H, 1]. With relu a unit with u = 1 keeps what it holds and adds to it; how long a unit remembers is
    decided by its own u alone.

    Args:
        nonlinearity: "tanh" or "relu".

    Raises:
        ArgumentError: for any other non-linearity.

    Source: Li, Li, Cook, Zhu & Gao 2018.

    >>> import torch, openlstm
    >>> layer = openlstm.RNN(3, 2, cell=IndRNN("relu"))
    >>> layer.weight_hh_l0.shape
    torch.Size([2, 1])
    """

    nonlinearity: Literal["tanh", "relu"] = "tanh"

    name = "indrnn"
    recurrence = "elementwise"

    @property
    def kernel(self) -> str:
        return f"indrnn_{self.nonlinearity}"
