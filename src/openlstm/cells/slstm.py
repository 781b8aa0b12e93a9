"""The sLSTM: exponential gates, a normaliser, and units in heads."""

from __future__ import annotations

from dataclasses import dataclass

from openlstm import _array as A
from openlstm._array import Array, concat, exp, logsigmoid, minimum, sigmoid, split, tanh, where
from openlstm.cells.base import Cell, State, Step, StepGradients, StepInputs, candidate_slope, check_options


@dataclass(frozen=True)
class SLSTM(Cell):
    """The sLSTM: an LSTM whose input gate is exponential, so that what enters can outweigh all that is held.

        l = log sigmoid(z_f)
        m' = max(z_i, l + m)                                  # where n = 0, at the begin of a row's sequence: z_i
        i = exp(z_i - m');  f = exp(l + m - m')               # both at most 1; where n = 0 f is cut at 1, and meets zeros
        g = tanh(z_g);  o = sigmoid(z_o)
        c' = f * c + i * g;  n' = f * n + i                   # n sums the weights of what c sums
        h' = o * c' / n'                                      # so that |h'| <= 1

    m only keeps the exponentials in range: c e^m and n e^m are what the paper sums, and h' does not depend on m. The rule for
    the first step acts on each unit of each row, so that a row reset within a batch does not depend on its batch mates. The
    state is (h, c, n, m). What a step saves is i, f, g, o and s = sigmoid(z_f).

    Zoneout keeps c, n and m of a unit together; an edit of c changes c alone. How much of c a step keeps is f.

    Args:
        heads: so many equal groups of units see the h of their own group alone: `weight_hh` is [4H, H/heads].

    Raises:
        ArgumentError: for heads that are not an integer from 1.

    Source: Beck, Pöppel, Spanring, Auer, Prudnikova, Kopp, Klambauer, Brandstetter & Hochreiter 2024, section 2.2.

    >>> import numpy as np
    >>> z = np.array([[500.0, 0.0, 0.3, 1000.0]])  # o = 1; e^500 outweighs whatever c holds
    >>> step = SLSTM()(z, State(np.zeros((1, 1)), np.array([[-0.9, 1.0, 0.0]])))
    >>> bool(step.h[0, 0] == np.tanh(0.3)), step.c[0, 1:].tolist()  # n' and m'
    (True, [1.0, 500.0])
    """

    heads: int = 1

    name = kernel = "slstm"
    gates = ("i", "f", "g", "o")
    saved = ("i", "f", "g", "o", "s")
    has_cell = True
    states = ("c", "n", "m")
    candidate = "g"

    def __post_init__(self) -> None:
        check_options(self)

    def forward(self, z: Array, before: State, w_ch: Array | None = None, mask: Array | None = None) -> Step:
        z_i, z_f, z_g, z_o = split(z, 4)  # each [B, H]
        c, n, m = split(before.c, 3)
        kept = logsigmoid(z_f) + m
        m = where((n == 0) | ~(z_i < kept), z_i, kept)  # from here on m'; where one of the two is NaN, it stays NaN
        i, f = exp(z_i - m), exp(minimum(kept - m, A.namespace(m).zeros_like(m)))
        g, o = tanh(z_g), sigmoid(z_o)
        g = g if mask is None else g * mask
        c, n = f * c + i * g, f * n + i
        return Step((i, f, g, o, sigmoid(z_f)), o * (c / n), concat([c, n, m]))

    def backward(self, inputs: StepInputs, dh: Array, dc: Array | None) -> StepGradients:
        i, f, g, o, s = inputs.gates
        c, n, _ = split(inputs.before.c, 3)
        c_new, n_new, _ = split(inputs.c, 3)
        zero = A.namespace(dh).zeros_like(dh)
        dc, dn, dm = (zero, zero, zero) if dc is None else split(dc, 3)
        n_new = where(n_new == 0, A.namespace(n_new).ones_like(n_new), n_new)  # past a row's end, where all that is saved is 0
        shown = c_new / n_new
        seen = dh * o / n_new  # what h' shows of c'
        dc, dn = dc + seen, dn - seen * shown
        di, df = g * dc + dn, where((n == 0) & (f == 1), zero, c * dc + n * dn)  # a cut f has no slope
        of_i, of_f = i * di, f * df
        rest = dm - (of_i + of_f)  # what m' gives to the one of its two that it is
        first = i == 1
        dz_i = of_i + where(first, rest, zero)
        dm = of_f + where(first, zero, rest)  # and that of log sigmoid(z_f)
        dz_g = dc * i * candidate_slope(g, inputs.mask)
        dz_o = dh * (o * (1 - o)) * shown
        return StepGradients(concat([dz_i, dm * (1 - s), dz_g, dz_o]), concat([f * dc, f * dn, dm]))
