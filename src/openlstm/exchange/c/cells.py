"""One step of every cell in C: from the sums z to the new state, as the loop over units of `native/cells/` does it.

Legend: H units, S the stride of the rows of z, R what is fed back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from openlstm.cells import Cell
from openlstm.engine import native
from openlstm.engine.backends.table import brief
from openlstm.errors import ArgumentError
from openlstm.reference import Weights


@dataclass(frozen=True)
class Step:
    """One step of a cell.

    before: C in front of the loop over units. lines: of unit j, from z, h, c and p to h and c. after: C behind it.
    """

    lines: tuple[str, ...]
    before: str = ""
    after: str = ""


def number(value: float) -> str:
    """A float of C, in as few digits as name it.

    >>> number(0.1), number(3.0), number(1e30)
    ('0.1f', '3.0f', '1e+30f')
    """
    return f"{np.float32(value)!s}f"


def row(cell: Cell, gate: str) -> int:
    """The row of z with the sums of a gate: gates whose sums of x and h are wanted apart come first, those of h last."""
    order = (*cell.gates[len(cell.gates) - cell.separate :], *cell.gates[: len(cell.gates) - cell.separate])
    return order.index(gate)


def step(cell: Any, who: str) -> Step:
    """The C of a cell.

    Raises:
        ArgumentError: for a cell that is not one of this package.
    """
    if cell.kernel not in native.KERNELS:
        expected = "a cell of openlstm.cells itself: LSTM and its variants, GRU, RNN, SLSTM, JANET, MinGRU, MinLSTM, IndRNN"
        hint = "train one of these; a cell of your own runs where this package does"
        raise ArgumentError.of(who, f"{brief(cell)} has no C", f"cell: {brief(cell)}", expected, hint)
    kernel = cell.kernel
    if kernel.startswith(("rnn", "indrnn")):
        z = f"@fma(p[j], h[j], {_z(cell, 'h')})" if kernel.startswith("indrnn") else _z(cell, "h")
        shown = "@pick(sum < 0.f, 0.f, sum)" if kernel.endswith("relu") else "@tanh(sum)"
        return Step((f"const float sum = {z};", f"h[j] = {shown};"))
    return {"gru": _gru, "slstm": _slstm, "mingru": _mingru, "minlstm": _minlstm, "janet": _janet, "lstm_ln": _layer_norm}.get(
        kernel, _memory
    )(cell)


def more(cell: Any, w: Weights) -> np.ndarray:
    """What a cell reads beside z, `p` in its C: peepholes; the weights of units that see themselves; those of the norms."""
    if cell.recurrence == "elementwise":
        return w.w_hh[:, 0]
    if cell.norms:
        return w.norm  # type: ignore[return-value]
    return np.zeros(0, np.float32) if w.w_ch is None else w.w_ch


def _z(cell: Cell, gate: str) -> str:
    return f"z[{row(cell, gate)} * @stride + j]"


def _clipped(cell: Any, text: str) -> str:
    if cell.clip is None or cell.clip > float(np.finfo(np.float32).max):
        return text
    return f"@clamp({text}, {number(cell.clip)})"


def _memory(cell: Any) -> Step:
    """The LSTM and its variants."""
    at = {gate: k for k, gate in enumerate(cell.peepholes)}

    def gate(name: str, c: str) -> str:
        z = _z(cell, name)
        return f"const float {name} = @sigmoid({f'@fma(p[{at[name]} * @hidden + j], {c}, {z})' if name in at else z});"

    lines = [gate("i", "c[j]")] if "i" in cell.gates else []
    lines += [gate("f", "c[j]")] if "f" in cell.gates else []
    lines.append(f"const float g = {'@tanh(' + _z(cell, 'g') + ')' if cell.squashes_input else _z(cell, 'g')};")
    new = "i * g" if "i" in cell.gates else "g"
    forget = "f" if "f" in cell.gates else "1.f - i" if cell.coupled else ""
    total = f"@fma({forget}, c[j], {new})" if forget else f"c[j] + {new}"
    lines += [f"const float c_new = {_clipped(cell, total)};"]
    lines += [gate("o", "c_new")] if "o" in cell.gates else []
    shown = "@tanh(c_new)" if cell.squashes_output else "c_new"
    lines += ["c[j] = c_new;", f"h[j] = {'o * ' if 'o' in cell.gates else ''}{shown};"]
    lines += [f"h[{k} * @hidden + j] = {gate};" for k, gate in enumerate(cell.feeds_back) if k]
    return Step(tuple(lines))


def _gru(cell: Any) -> Step:
    old = "c[j]" if cell.memory else "h[j]"
    lines = (
        f"const float r = @sigmoid({_z(cell, 'r')}), u = @sigmoid({_z(cell, 'z')});",
        f"const float n = @tanh(@fma(r, z[3 * @stride + j], {_z(cell, 'n')}));",
        f"{'c[j] = ' if cell.memory else ''}h[j] = @fma(u, {old}, @fma(-u, n, n));",
    )
    return Step(lines)


def _slstm(cell: Any) -> Step:
    n, m = "c[@hidden + j]", "c[2 * @hidden + j]"
    lines = (
        f"const float z_i = {_z(cell, 'i')}, kept = @log_sigmoid({_z(cell, 'f')}) + {m}, ahead = z_i - kept;",
        "const float e = @exp(@pick(ahead < 0.f, ahead, -ahead));",
        f"const int first = ({n} == 0.f) | !(ahead < 0.f);",
        "const float i = @pick(first, 1.f + (z_i - z_i), e), f = @pick(ahead < 0.f, 1.f, e);",
        f"const float g = @tanh({_z(cell, 'g')}), o = @sigmoid({_z(cell, 'o')});",
        f"c[j] = @fma(f, c[j], i * g), {n} = @fma(f, {n}, i), {m} = @pick(first, z_i, kept);",
        f"h[j] = o * c[j] / {n};",
    )
    return Step(lines)


def _mingru(cell: Any) -> Step:
    lines = (
        f"const float u = @sigmoid({_z(cell, 'u')}), g = @positive({_z(cell, 'g')});",
        "h[j] = @fma(u, g, @fma(-u, h[j], h[j]));",
    )
    return Step(lines)


def _minlstm(cell: Any) -> Step:
    lines = (
        f"const float odds = @log_sigmoid({_z(cell, 'f')}) - @log_sigmoid({_z(cell, 'i')});",
        f"h[j] = @fma(@sigmoid(odds), h[j], @sigmoid(-odds) * @positive({_z(cell, 'g')}));",
    )
    return Step(lines)


def _janet(cell: Any) -> Step:
    z = _z(cell, "f")
    lines = (f"h[j] = @fma(@sigmoid({z}), h[j], @sigmoid({number(cell.beta)} - {z}) * @tanh({_z(cell, 'g')}));",)
    return Step(lines)


def _layer_norm(cell: Any) -> Step:
    """p: weights and biases of the norms of W x, W h and c, one behind the other; their biases of z are in z already."""
    before = """\
  float mean, scale, mean_h, scale_h;
  @moments(z, 4, @stride, @hidden, &mean, &scale);
  @moments(z + 4 * @stride, 4, @stride, @hidden, &mean_h, &scale_h);
  for (int g = 0; g < 4; g++)
    for (int j = 0; j < @hidden; j++) {
      const int at = g * @stride + j, k = g * @hidden + j;
      const float bias = p[4 * @hidden + k] + p[12 * @hidden + k], of_h = (z[4 * @stride + at] - mean_h) * scale_h;
      z[at] = @fma(of_h, p[8 * @hidden + k], @fma((z[at] - mean) * scale, p[k], bias));
    }
"""
    lines = (
        f"const float i = @sigmoid({_z(cell, 'i')}), f = @sigmoid({_z(cell, 'f')}), g = @tanh({_z(cell, 'g')});",
        f"c[j] = {_clipped(cell, '@fma(f, c[j], i * g)')};",
    )
    after = f"""\
  @moments(c, 1, 0, @hidden, &mean, &scale);
  for (int j = 0; j < @hidden; j++)
    h[j] = @sigmoid({_z(cell, "o")}) * @tanh(@fma((c[j] - mean) * scale, p[16 * @hidden + j], p[17 * @hidden + j]));
"""
    return Step(lines, before, after)
