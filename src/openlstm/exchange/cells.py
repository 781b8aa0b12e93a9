"""Cells that other packages have and our kernels have not: other activations, clipped sums, and a reset before the product.

They run on the reference, slower than the others. A reader takes them where no cell of `openlstm.cells` computes the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from openlstm import _array as A
from openlstm._array import Array, exp, maximum, minimum, relu, sigmoid, softplus, split, tanh, where
from openlstm.cells import Cell, State, Step, clamp

ACTIVATIONS = {
    "sigmoid": (),
    "tanh": (),
    "relu": (),
    "softsign": (),
    "softplus": (),
    "affine": (1.0, 0.0),
    "leakyrelu": (0.01,),
    "thresholdedrelu": (1.0,),
    "scaledtanh": (1.0, 1.0),
    "hardsigmoid": (0.2, 0.5),
    "elu": (1.0,),
}
"""The activations by their names in ONNX in small letters, and the numbers that each takes where none are given."""


@dataclass(frozen=True)
class Activation:
    """One of `ACTIVATIONS` with its numbers, a and b.

    >>> import numpy as np
    >>> Activation("hardsigmoid", (0.2, 0.5))(np.array([-9.0, 0.0, 1.0])).tolist()
    [0.0, 0.5, 0.7]
    """

    name: str
    numbers: tuple[float, ...] = ()

    def __call__(self, x: Array) -> Array:
        if self.name in PLAIN:
            return PLAIN[self.name](x)
        a, b = (*self.numbers, 0.0)[:2]
        zero = A.namespace(x).zeros_like(x)
        if self.name == "affine":
            return a * x + b
        if self.name == "scaledtanh":
            return a * tanh(b * x)
        if self.name == "hardsigmoid":
            return minimum(maximum(a * x + b, zero), zero + 1)
        if self.name == "thresholdedrelu":
            return where(x > a, x, zero)
        below = a * x if self.name == "leakyrelu" else a * (exp(minimum(x, zero)) - 1)  # elu
        return where(x < 0, below, x)


def _softsign(x: Array) -> Array:
    return x / (1 + maximum(x, -x))


PLAIN = {"sigmoid": sigmoid, "tanh": tanh, "relu": relu, "softsign": _softsign, "softplus": softplus}

SIGMOID, TANH = Activation("sigmoid"), Activation("tanh")


@dataclass(frozen=True)
class AnyLSTM(Cell):
    """The LSTM with activations of any kind and clipped sums, as ONNX has it.

        i = s(z_i + p_i * c);  f = s(z_f + p_f * c), coupled 1 - i;  g = k(z_g)
        c' = f * c + i * g
        o = s(z_o + p_o * c');  h' = t(c')  * o

    Args:
        activations: s, k and t.
        clip_sums: what s and k are given is kept within -clip_sums..clip_sums.
        coupled: f = 1 - i, whatever z_f is.
        peephole: whether there is p.
    """

    activations: tuple[Activation, Activation, Activation] = (SIGMOID, TANH, TANH)
    clip_sums: float | None = None
    coupled: bool = False
    peephole: bool = False

    name = "lstm_any"
    gates = saved = ("i", "f", "g", "o")
    has_cell = True
    candidate = "g"

    @property
    def peepholes(self) -> tuple[str, ...]:
        return ("i", "f", "o") if self.peephole else ()

    def forward(self, z: Array, before: State, w_ch: Array | None = None, mask: Array | None = None) -> Step:
        s, k, t = self.activations
        z_i, z_f, z_g, z_o = split(z, 4)  # each [B, H]
        c = before.c
        p_i, p_f, p_o = split(w_ch, 3) if self.peephole else (None, None, None)

        def seen(z: Array, p: Array | None, c: Array) -> Array:
            return clamp(z if p is None else z + p * c, self.clip_sums)

        i = s(seen(z_i, p_i, c))
        f = 1 - i if self.coupled else s(seen(z_f, p_f, c))
        g = k(clamp(z_g, self.clip_sums))
        g = g if mask is None else g * mask
        c = f * c + i * g
        o = s(seen(z_o, p_o, c))
        return Step((i, f, g, o), o * t(c), c)


@dataclass(frozen=True)
class AnyGRU(Cell):
    """The GRU with activations of any kind and clipped sums, whose reset acts behind the product with h, or before it.

        r, u = s(z_r), s(z_u)
        n = k(n_x + r * (h U_n^T + b))              or, with `units`,  n = k(n_x + (r * h) U_n^T)
        h' = (1 - u) * n + u * h

    Args:
        activations: s and k.
        clip_sums: what they are given is kept within -clip_sums..clip_sums.
        units: H for a reset before the product, as Cho et al. had it first; 0 for one behind it. Then U_n [H, H] is
            `weight_ch`, row by row, and the rows of n in `weight_hh` are zeros.

    Source: Cho et al. 2014.
    """

    activations: tuple[Activation, Activation] = (SIGMOID, TANH)
    clip_sums: float | None = None
    units: int = 0

    name = "gru_any"
    gates = saved = ("r", "z", "n")
    has_cell = False
    reads_h = True
    candidate = "n"

    @property
    def separate(self) -> int:
        return 0 if self.units else 1

    @property
    def peepholes(self) -> tuple[str, ...]:
        return tuple(f"row {k} of n" for k in range(self.units))

    def forward(self, z: Array, before: State, w_ch: Array | None = None, mask: Array | None = None) -> Step:
        s, k = self.activations
        z_r, z_u, n_x, *m = split(z, 3 + self.separate)  # each [B, H]
        r, u = s(clamp(z_r, self.clip_sums)), s(clamp(z_u, self.clip_sums))
        of_h = r * m[0] if m else (r * before.h) @ A.swap(w_ch.reshape(self.units, self.units))  # type: ignore[union-attr]
        n = k(clamp(n_x + of_h, self.clip_sums))
        n = n if mask is None else n * mask
        return Step((r, u, n), (1 - u) * n + u * before.h, None)


@dataclass(frozen=True)
class AnyRNN(Cell):
    """The recurrence without gates, h' = s(z), with an activation of any kind and clipped sums."""

    activations: tuple[Activation] = (TANH,)
    clip_sums: float | None = None

    name = "rnn_any"
    gates = ("h",)
    saved = ()
    has_cell = False

    def forward(self, z: Array, before: State, w_ch: Array | None = None, mask: Array | None = None) -> Step:
        return Step((), self.activations[0](clamp(z, self.clip_sums)), None)
