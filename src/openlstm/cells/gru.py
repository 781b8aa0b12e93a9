"""The gated recurrent unit."""

from __future__ import annotations

from dataclasses import dataclass

from openlstm._array import Array, concat, sigmoid, split, tanh
from openlstm.cells.base import Cell, State, Step, StepGradients, StepInputs, candidate_slope, check_options


@dataclass(frozen=True)
class GRU(Cell):
    """The gated recurrent unit: the state itself is the highway.

        r = sigmoid(x W_r + h U_r);  z = sigmoid(x W_z + h U_z)                     # biases in both sums
        n = tanh(x W_n + r * (h U_n))                                               # the two sums are wanted apart
        h' = (1 - z) * n + z * h

    The same equations and the same order of gates as `torch.nn.GRU`. What a step saves is r, z, n and m = h U_n + b.

    Args:
        memory: the unprojected state is carried beside h as a cell, c' = (1 - z) * n + z * c and h' = c'. With a projection,
            where h is only P wide, this is the one that exists; layers choose it by themselves.
        heads: so many equal groups of units see the h of their own group alone: `weight_hh` is [3H, H/heads].

    Raises:
        ArgumentError: for heads that are not an integer from 1.

    Source: Cho et al. 2014; with r behind the product, as in cuDNN and `torch.nn.GRU`.

    >>> import numpy as np
    >>> float(GRU()(np.array([[0.0, 1000.0, 0.3, 0.0]]), State(np.array([[0.7]]))).h[0, 0])  # z = 1
    0.7
    """

    memory: bool = False
    heads: int = 1

    name = kernel = "gru"
    gates = ("r", "z", "n")
    saved = ("r", "z", "n", "m")
    separate = 1
    candidate = "n"

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def has_cell(self) -> bool:
        return self.memory

    def forward(self, z: Array, before: State, w_ch: Array | None = None, mask: Array | None = None) -> Step:
        z_r, z_z, n_x, m = split(z, 4)  # each [B, H]
        r, u = sigmoid(z_r), sigmoid(z_z)
        n = tanh(n_x + r * m)
        n = n if mask is None else n * mask
        new = (1 - u) * n + u * (before.c if self.memory else before.h)
        return Step((r, u, n, m), new, new if self.memory else None)

    def backward(self, inputs: StepInputs, dh: Array, dc: Array | None) -> StepGradients:
        r, u, n, m = inputs.gates
        old = inputs.before.c if self.memory else inputs.before.h
        d = dh if dc is None else dh + dc  # with a memory h' is c'
        dn = d * (1 - u) * candidate_slope(n, inputs.mask)  # at the argument of tanh
        dz_r = dn * (r * (1 - r)) * m
        dz_z = d * (u * (1 - u)) * (old - n)
        dz = concat([dz_r, dz_z, dn, dn * r])
        return StepGradients(dz, d * u) if self.memory else StepGradients(dz, None, d * u)
