"""The LSTM with layer normalisation inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from openlstm import _array as A
from openlstm._array import Array, concat, sigmoid, split, tanh
from openlstm.cells.base import (
    Cell,
    State,
    Step,
    StepGradients,
    StepInputs,
    candidate_slope,
    check_options,
    clamp,
    stop_at_clip,
)

NORM_EPS = 1e-5
"""What is added to a variance, as in torch.nn.LayerNorm."""


@dataclass(frozen=True)
class LayerNormLSTM(Cell):
    """The LSTM with layer normalisation inside: of the sums of W x, of those of W h, and of the cell state where it is shown.

        N(s; w, b) = w * (s - mean(s)) / sqrt(var(s) + 1e-5) + b              # over all elements of one row's vector
        z = N(x W_ih^T; w_x, b_x) + N(h W_hh^T; w_h, b_h) + b_ih + b_hh       # over 4H elements each, all gates together
        i, f, o = sigmoid(z_i), sigmoid(z_f), sigmoid(z_o);  g = tanh(z_g)
        c' = f * c + i * g                                                    # the highway itself is not normalised
        h' = o * tanh(N(c'; w_c, b_c))                                        # over H elements

    var is the mean of squares, as in `torch.nn.LayerNorm`. In a layer the vectors are `norm_x_weight_l0` and `norm_x_bias_l0`
    [4H], `norm_h_*` [4H], `norm_c_*` [H]; weights begin as 1, biases as 0. Four biases add up, so three of them are redundant
    and have one gradient: b_x, b_h, b_ih, b_hh. All are there, so that weights fit in from anywhere (bias=False leaves out
    b_ih and b_hh), they are added before the first step, and `openlstm.nn.init` writes one and puts 0 into the others. A step
    also saves the raw sums (xi, xf, xg, xo; hi, hf, hg, ho): 12H numbers of gates instead of 4H. With H = 1 the cell is the
    mean of itself, and h' depends on b_c and o alone.

    Args:
        clip: keeps c' within -clip..clip, before it is normalised; where it does, no gradient passes.

    Raises:
        ArgumentError: for a clip that is not above 0.

    Source: Ba, Kiros & Hinton 2016, supplementary material, equations 20-22.

    >>> import numpy as np
    >>> norm = np.repeat([1.0, 0.0, 1.0, 0.0, 1.0, 0.0], [8, 8, 8, 8, 2, 2])
    >>> z, begin = np.zeros((1, 16)), State(np.zeros((1, 2)), np.array([[300.0, 100.0]]))
    >>> step = LayerNormLSTM()(z, begin, norm=norm)  # f = o = 1/2, and what is shown of c has mean 0 and variance 1
    >>> step.c.tolist(), step.h.round(3).tolist()
    ([[150.0, 50.0]], [[0.381, -0.381]])
    """

    clip: float | None = None

    name = kernel = "lstm_ln"
    gates = ("i", "f", "g", "o")
    saved = (*"ifgo", "xi", "xf", "xg", "xo", "hi", "hf", "hg", "ho")
    has_cell = True
    separate = 4
    candidate = "g"
    norms = ("x", "h", "c")

    def __post_init__(self) -> None:
        check_options(self)

    def forward(
        self, z: Array, before: State, w_ch: Array | None = None, mask: Array | None = None, norm: Array | None = None
    ) -> Step:
        x, h = split(z, 2)  # [B, 4H], raw
        w_x, b_x, w_h, b_h, w_c, b_c = self._affine(norm)
        z_i, z_f, z_g, z_o = split(_normal(x)[0] * w_x + _normal(h)[0] * w_h + (b_x + b_h), 4)
        i, f, g, o = sigmoid(z_i), sigmoid(z_f), tanh(z_g), sigmoid(z_o)
        g = g if mask is None else g * mask
        c = clamp(f * before.c + i * g, self.clip)
        return Step((i, f, g, o, *split(x, 4), *split(h, 4)), o * tanh(_normal(c)[0] * w_c + b_c), c)

    def backward(self, inputs: StepInputs, dh: Array, dc: Array | None) -> StepGradients:
        (i, f, g, o), x, h = inputs.gates[:4], concat(list(inputs.gates[4:8])), concat(list(inputs.gates[8:]))
        w_x, _, w_h, _, w_c, b_c = self._affine(inputs.norm)
        (x, r_x), (h, r_h), (c, r_c) = _normal(x), _normal(h), _normal(inputs.c)
        shown = tanh(c * w_c + b_c)
        dn = dh * o * (1 - shown * shown)  # at the argument of tanh
        seen = _through_normal(dn * w_c, c, r_c)
        dc = seen if dc is None else dc + seen
        dc = stop_at_clip(dc, inputs.c, self.clip)
        dz_i = dc * (i * (1 - i)) * g
        dz_f = dc * (f * (1 - f)) * inputs.before.c
        dz_g = dc * i * candidate_slope(g, inputs.mask)
        dz_o = dh * (o * (1 - o)) * shown
        dz = concat([dz_i, dz_f, dz_g, dz_o])  # [B, 4H]
        of_sums = concat([_through_normal(dz * w_x, x, r_x), _through_normal(dz * w_h, h, r_h)])
        return StepGradients(of_sums, dc * f, None, None, concat([dz * x, dz, dz * h, dz, dn * c, dn]))

    @staticmethod
    def _affine(norm: Array) -> tuple[Any, ...]:
        """w_x, b_x, w_h, b_h, w_c, b_c."""
        H = norm.shape[-1] // 18
        ends = (0, 4, 8, 12, 16, 17, 18)
        return tuple(norm[..., a * H : b * H] for a, b in zip(ends, ends[1:], strict=False))


def _normal(s: Array) -> tuple[Any, Any]:
    """(s - mean) / sqrt(var + eps) over the last axis, and 1 / sqrt(var + eps) [..., 1].

    The squares are those of numbers within -1..1, so that none overflows; what they were divided by is a constant.
    """
    d = s - A.mean(s)
    size = A.largest(d)
    u = d / size
    r = 1 / A.namespace(s).sqrt(A.mean(u * u) + NORM_EPS / size / size)
    return u * r, r / size


def _through_normal(dn: Array, n: Array, r: Array) -> Array:
    """dL/ds from dL/dn, where n, r = _normal(s)."""
    return r * (dn - A.mean(dn) - n * A.mean(dn * n))
