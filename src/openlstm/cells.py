"""The one definition of every cell: its equations, its gates, its paper.

Legend: T time, B batch, I input size, H hidden size, P projected size, R what is fed back (P with a projection, else H),
G gates of a cell. `z` is a pre-activation, `i f g o` are activated gates, `h c` is the state, `dX` is the gradient of the
loss with respect to X. The order of gates is i, f, g, o everywhere.

A cell owns only what is different about it: the map from (z, c) to (h', c') and its derivative. The sums

    z = x W_ih^T + b_ih + h W_hh^T + b_hh                                                       # [B, G*H]

the loop over time, lengths, resets and projection belong to `reference.py` and to the engine, which read the traits below.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from openlstm import _array as A
from openlstm._array import Array
from openlstm._errors import ArgumentError, message


class Step(NamedTuple):
    """What one step of a cell gives: the activated gates that backward needs, the new cell state and the new output."""

    gates: tuple[Array, ...]  # each [B, H], named by Cell.saved
    h: Array  # [B, H], before a projection
    c: Array | None  # [B, H], None for a cell without a highway


class Cell(ABC):
    """A recurrence without its products: what every cell has to say about itself.

    Traits:
        name: the name under which backends know the cell.
        gates: the blocks of H rows in `weight_ih`, in the order i, f, g, o without the missing ones.
        saved: the activated gates that a step hands out and backward reads.
        has_cell: whether the state is (h, c) or h alone.
    """

    name: ClassVar[str]
    gates: ClassVar[tuple[str, ...]]
    saved: ClassVar[tuple[str, ...]]
    has_cell: ClassVar[bool]

    @property
    def kernel(self) -> str:
        """The name of the struct in `native/cells.hpp` that runs this cell; a cell with options names each of them."""
        return self.name

    @abstractmethod
    def forward(self, z: Array, c: Array | None) -> Step:
        """(z [B, G*H], c [B, H]) -> gates, h' and c', each [B, H]."""

    @abstractmethod
    def backward(
        self, gates: tuple[Array, ...], c_prev: Any, c: Any, h: Array, dh: Array, dc: Any
    ) -> tuple[Array, Array | None]:
        """(dL/dh', dL/dc') -> (dL/dz [B, G*H], dL/dc [B, H]).

        h' and c' are independent coordinates of the state: `dc` is what flows along the highway from the next step,
        `dh` what flows through outputs and the next step's sums; the path h' = o tanh(c') is added here.
        """


@dataclass(frozen=True)
class LSTM(Cell):
    """Long short-term memory with a forget gate and without peepholes (the variant NP of Greff et al. 2017).

        i, f, o = sigmoid(z_i), sigmoid(z_f), sigmoid(z_o);  g = tanh(z_g)
        c' = f * c + i * g                # the highway: with f=1, i=0 kept for ever, with f=0, i=1 started afresh
        h' = o * tanh(c')

    The same equations and the same order of gates as `torch.nn.LSTM`.

    Source: Hochreiter & Schmidhuber 1997 (the cell), Gers, Schmidhuber & Cummins 2000 (the forget gate, eq. 1-7).

    >>> import numpy as np
    >>> step = LSTM().forward(np.array([[-1000.0, 1000.0, 0.3, 0.0]]), np.array([[0.7]]))  # i=0, f=1
    >>> float(step.c[0, 0])
    0.7
    """

    name: ClassVar[str] = "lstm"
    gates: ClassVar[tuple[str, ...]] = ("i", "f", "g", "o")
    saved: ClassVar[tuple[str, ...]] = ("i", "f", "g", "o")
    has_cell: ClassVar[bool] = True

    def forward(self, z: Array, c: Array | None) -> Step:
        z_i, z_f, z_g, z_o = A.split(z, 4)  # each [B, H]
        i, f, o = A.sigmoid(z_i), A.sigmoid(z_f), A.sigmoid(z_o)
        g = A.tanh(z_g)
        c_new = f * c + i * g
        h_new = o * A.tanh(c_new)
        return Step((i, f, g, o), h_new, c_new)

    def backward(
        self, gates: tuple[Array, ...], c_prev: Any, c: Any, h: Array, dh: Array, dc: Any
    ) -> tuple[Array, Array | None]:
        i, f, g, o = gates
        tanh_c = A.tanh(c)
        dc = dc + dh * o * (1 - tanh_c * tanh_c)  # the highway, and what h' shows of it
        dz_i = dc * g * i * (1 - i)
        dz_f = dc * (f * (1 - f)) * c_prev  # in this order: a closed gate must not meet an overflow, 0 * inf is NaN
        dz_g = dc * i * (1 - g * g)
        dz_o = dh * tanh_c * o * (1 - o)
        return A.concat([dz_i, dz_f, dz_g, dz_o]), dc * f  # [B, 4H], [B, H]


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
    >>> VanillaRNN("relu").forward(np.array([[-1.0, 2.0]]), None).h.tolist()
    [[0.0, 2.0]]
    """

    nonlinearity: Literal["tanh", "relu"] = "tanh"

    name: ClassVar[str] = "rnn"
    gates: ClassVar[tuple[str, ...]] = ("h",)
    saved: ClassVar[tuple[str, ...]] = ()
    has_cell: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.nonlinearity not in ("tanh", "relu"):
            raise ArgumentError(
                message(
                    "VanillaRNN",
                    f"unknown nonlinearity {self.nonlinearity!r}",
                    repr(self.nonlinearity),
                    "'tanh' or 'relu'",
                    "pass nonlinearity='tanh'",
                )
            )

    @property
    def kernel(self) -> str:
        return f"rnn_{self.nonlinearity}"

    def forward(self, z: Array, c: Array | None) -> Step:
        return Step((), A.tanh(z) if self.nonlinearity == "tanh" else A.relu(z), None)

    def backward(
        self, gates: tuple[Array, ...], c_prev: Any, c: Any, h: Array, dh: Array, dc: Any
    ) -> tuple[Array, Array | None]:
        if self.nonlinearity == "tanh":
            return dh * (1 - h * h), None  # [B, H]
        return A.where(h > 0, dh, A.namespace(dh).zeros_like(dh)), None  # [B, H]


ALL: tuple[Cell, ...] = (LSTM(), VanillaRNN("tanh"), VanillaRNN("relu"))
"""Every cell this package ships, once each: the conformance suite runs over this list."""
