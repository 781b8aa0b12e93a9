"""Cells with fewer gates than the LSTM, whose state is h alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from openlstm import _array as A
from openlstm._array import Array, concat, logsigmoid, sigmoid, split, tanh, where
from openlstm.cells.base import Cell, State, Step, StepGradients, StepInputs, candidate_slope, check_options
from openlstm.errors import ArgumentError


@dataclass(frozen=True)
class MinGRU(Cell):
    """The minimal GRU: its gate and its candidate see x alone, so that there is no product with h.

        u = sigmoid(z_u);  g = z_g + 1/2 where z_g >= 0, else sigmoid(z_g),   z = x W_ih^T + b_ih
        h' = (1 - u) * h + u * g

    There are no `weight_hh` and `bias_hh`.

    Source: Feng, Tung, Ahmed, Bengio & Hajimirsadeghi 2024 (in logarithms, with g above 0, appendix B).

    >>> import numpy as np
    >>> MinGRU()(np.array([[0.0, 0.5]]), State(np.array([[3.0]]))).h.tolist()  # u = 1/2, g = 1
    [[2.0]]
    """

    name = kernel = "mingru"
    gates = saved = ("u", "g")
    has_cell = False
    reads_h = True
    recurrence = "none"
    candidate = "g"

    def forward(self, z: Array, before: State, w_ch: Array | None = None, mask: Array | None = None) -> Step:
        z_u, z_g = split(z, 2)  # each [B, H]
        u, g = sigmoid(z_u), _positive(z_g)
        g = g if mask is None else g * mask
        return Step((u, g), (1 - u) * before.h + u * g, None)

    def backward(self, inputs: StepInputs, dh: Array, dc: Array | None) -> StepGradients:
        u, g = inputs.gates
        dz_u = dh * (u * (1 - u)) * (g - inputs.before.h)
        return StepGradients(concat([dz_u, dh * u * _positive_slope(g, inputs.mask)]), None, dh * (1 - u))


@dataclass(frozen=True)
class MinLSTM(Cell):
    """The minimal LSTM: two gates that add up to one, and nothing that sees h.

        p, q = sigmoid(z_i), sigmoid(z_f);  g = z_g + 1/2 where z_g >= 0, else sigmoid(z_g),   z = x W_ih^T + b_ih
        i = p / (p + q);  f = q / (p + q)
        h' = f * h + i * g

    f = sigmoid(log q - log p), so that two closed gates share as any others do. There are no `weight_hh` and `bias_hh`. What a
    step saves is i, f, g, p and q.

    Source: Feng, Tung, Ahmed, Bengio & Hajimirsadeghi 2024 (in logarithms, with g above 0, appendix B).

    >>> import numpy as np
    >>> MinLSTM()(np.array([[-1000.0, -1000.0, 0.5]]), State(np.array([[3.0]]))).h.tolist()  # i = f = 1/2, g = 1
    [[2.0]]
    """

    name = kernel = "minlstm"
    gates = ("i", "f", "g")
    saved = ("i", "f", "g", "p", "q")
    has_cell = False
    reads_h = True
    recurrence = "none"
    candidate = "g"

    def forward(self, z: Array, before: State, w_ch: Array | None = None, mask: Array | None = None) -> Step:
        z_i, z_f, z_g = split(z, 3)  # each [B, H]
        odds = logsigmoid(z_f) - logsigmoid(z_i)
        i, f, g = sigmoid(-odds), sigmoid(odds), _positive(z_g)
        g = g if mask is None else g * mask
        return Step((i, f, g, sigmoid(z_i), sigmoid(z_f)), f * before.h + i * g, None)

    def backward(self, inputs: StepInputs, dh: Array, dc: Array | None) -> StepGradients:
        i, f, g, p, q = inputs.gates
        odds = dh * (i * f) * (inputs.before.h - g)
        dz_g = dh * i * _positive_slope(g, inputs.mask)
        return StepGradients(concat([-odds * (1 - p), odds * (1 - q), dz_g]), None, dh * f)


@dataclass(frozen=True)
class JANET(Cell):
    """Just another network: an LSTM with the forget gate alone, which also says how much enters.

        f = sigmoid(z_f);  i = 1 - sigmoid(z_f - beta);  g = tanh(z_g)
        h' = f * h + i * g

    With beta above 0 f and i add up to more than one, so that the cell takes in somewhat more than it lets go. The state is h
    alone; what a step saves is f, g and i.

    Args:
        beta: a finite number; 0 for i = 1 - f.
        heads: so many equal groups of units see the h of their own group alone.

    Raises:
        ArgumentError: for a beta that is not a finite number, or heads that are not an integer from 1.

    Source: van der Westhuizen & Lasenby 2018.

    >>> import numpy as np
    >>> JANET(beta=0.0)(np.zeros((1, 2)), State(np.array([[0.7]]))).h.tolist()
    [[0.35]]
    """

    beta: float = 1.0
    heads: int = 1

    name = kernel = "janet"
    gates = ("f", "g")
    saved = ("f", "g", "i")
    has_cell = False
    reads_h = True
    candidate = "g"

    def __post_init__(self) -> None:
        check_options(self)
        beta = self.beta
        if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not math.isfinite(beta):
            got, hint = f"beta={beta!r}", "the paper takes beta=1.0; 0.0 makes i = 1 - f"
            raise ArgumentError.of("JANET", "beta is not a finite number", got, "a finite number", hint)

    def forward(self, z: Array, before: State, w_ch: Array | None = None, mask: Array | None = None) -> Step:
        z_f, z_g = split(z, 2)  # each [B, H]
        f, i, g = sigmoid(z_f), sigmoid(self.beta - z_f), tanh(z_g)
        g = g if mask is None else g * mask
        return Step((f, g, i), f * before.h + i * g, None)

    def backward(self, inputs: StepInputs, dh: Array, dc: Array | None) -> StepGradients:
        f, g, i = inputs.gates
        dz_f = dh * (f * (1 - f)) * inputs.before.h - dh * (i * (1 - i)) * g
        return StepGradients(concat([dz_f, dh * i * candidate_slope(g, inputs.mask)]), None, dh * f)


def _positive(z: Array) -> Array:
    """z + 1/2 where z >= 0, else sigmoid(z): above 0, so that its logarithm exists."""
    return where(z >= 0, z + 0.5, sigmoid(z))


def _positive_slope(g: Array, mask: Array | None) -> Array:
    """d(mask * _positive(z)) / dz from its value g."""
    one = A.namespace(g).ones_like(g)
    plain = g if mask is None else g / where(mask == 0, one, mask)
    slope = where(plain >= 0.5, one, plain * (1 - plain))
    return slope if mask is None else mask * slope
