"""The long short-term memory: all of it in one base class, and the cells that are used most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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


class Memory(Cell):
    """The long short-term memory, of which every part can be left out (the variants of Greff et al. 2017): written once.

        i = sigmoid(z_i + p_i * c)              without an input gate 1
        f = sigmoid(z_f + p_f * c)              without a forget gate 1, coupled 1 - i
        g = tanh(z_g)                           without input activation z_g
        c' = f * c + i * g                      kept within -clip..clip
        o = sigmoid(z_o + p_o * c')             without an output gate 1
        h' = o * tanh(c')                       without output activation o * c'

    A cell says by its traits what it has; p is 0 for a gate without a peephole.
    """

    gates = saved = ("i", "f", "g", "o")
    has_cell = True
    candidate = "g"
    coupled = False
    squashes_input = True
    squashes_output = True

    def __post_init__(self) -> None:
        check_options(self)

    def forward(self, z: Array, before: State, w_ch: Array | None = None, mask: Array | None = None) -> Step:
        z_of = dict(zip(self.gates, split(z, len(self.gates)), strict=True))  # each [B, H]
        p = self._diagonals(w_ch)
        c: Any = before.c

        def gate(name: str, c: Array) -> Any:
            return sigmoid(z_of[name] + p[name] * c if name in p else z_of[name]) if name in z_of else 1

        i = gate("i", c)
        f = 1 - i if self.coupled else gate("f", c)
        g = tanh(z_of["g"]) if self.squashes_input else z_of["g"]
        g = g if mask is None else g * mask
        c = clamp(f * c + i * g, self.clip)  # from here on c'
        o = gate("o", c)
        h = o * (tanh(c) if self.squashes_output else c)
        named = {"i": i, "f": f, "g": g, "o": o}
        return Step(tuple(named[name] for name in self.saved), h, c)

    def backward(self, inputs: StepInputs, dh: Array, dc: Array | None) -> StepGradients:
        return self._derive(inputs, dh, dc, {})

    def _derive(self, inputs: StepInputs, dh: Array, dc: Any, fed: dict[str, Array]) -> StepGradients:
        """`backward`; `fed` holds what flows into gates beside h' and c' (FGR feeds them back)."""
        s, p = dict(zip(self.saved, inputs.gates, strict=True)), self._diagonals(inputs.w_ch)
        i, g, o = s.get("i", 1), s["g"], s.get("o", 1)
        f = 1 - i if self.coupled else s.get("f", 1)
        c, c_prev, mask = inputs.c, inputs.before.c, inputs.mask
        shown = tanh(c) if self.squashes_output else c
        dz = {}

        def close(name: str, d: Array, u: Array) -> None:
            """At the argument of a gate s that lets u through: d * s' * u."""
            slope = s[name] * (1 - s[name])
            dz[name] = d * slope * u  # in this order: a closed gate must not meet an overflow, 0 * inf is NaN
            if name in fed:
                dz[name] = dz[name] + fed[name] * slope

        if "o" in s:
            close("o", dh, shown)
        seen = dh * o * (1 - shown * shown) if self.squashes_output else dh * o  # what h' shows of c'
        dc = seen if dc is None else dc + seen
        if "o" in p:
            dc = dc + dz["o"] * p["o"]
        dc = stop_at_clip(dc, c, self.clip)
        if "i" in s:
            close("i", dc, g - c_prev if self.coupled else g)
        if "f" in s:
            close("f", dc, c_prev)
        dz["g"] = dc * i * candidate_slope(g, mask) if self.squashes_input else dc * i if mask is None else dc * i * mask
        dc_prev = dc * f
        for name in ("i", "f"):
            if name in p:
                dc_prev = dc_prev + dz[name] * p[name]
        dp = [dz[name] * (c if name == "o" else c_prev) for name in p]
        return StepGradients(concat([dz[name] for name in self.gates]), dc_prev, None, concat(dp) if dp else None)

    def _diagonals(self, w_ch: Array | None) -> dict[str, Array]:
        """The peepholes by gate, each [H]."""
        names = self.peepholes
        return dict(zip(names, split(w_ch, len(names)), strict=True)) if names else {}


@dataclass(frozen=True)
class LSTM(Memory):
    """Long short-term memory with a forget gate and without peepholes (the variant NP of Greff et al. 2017).

        i, f, o = sigmoid(z_i), sigmoid(z_f), sigmoid(z_o);  g = tanh(z_g)
        c' = f * c + i * g                # the highway: with f=1, i=0 kept for ever, with f=0, i=1 started afresh
        h' = o * tanh(c')

    The same equations and the same order of gates as `torch.nn.LSTM`.

    Args:
        clip: keeps c' within -clip..clip; where it does, no gradient passes.
        cells_per_gate: so many neighbouring cells share i, f and o (a memory block), which have H/cells_per_gate rows each.
        heads: so many equal groups of units see the h of their own group alone: `weight_hh` is [4H, H/heads].

    Raises:
        ArgumentError: for a clip that is not above 0, or cells_per_gate or heads that are not integers from 1.

    Source: Hochreiter & Schmidhuber 1997 (the cell, memory blocks), Gers, Schmidhuber & Cummins 2000 (the forget gate, eq.
    1-7); clipping: Sak, Senior & Beaufays 2014.

    >>> import numpy as np
    >>> step = LSTM()(np.array([[-1000.0, 1000.0, 0.3, 0.0]]), State(np.zeros((1, 1)), np.array([[0.7]])))  # i=0, f=1
    >>> float(step.c[0, 0])
    0.7
    """

    clip: float | None = None
    cells_per_gate: int = 1
    heads: int = 1

    name = kernel = "lstm"


@dataclass(frozen=True)
class LSTM1997(Memory):
    """The long short-term memory as it was first: no forget gate, no peepholes, so that the cell only adds up.

        i, o = sigmoid(z_i), sigmoid(z_o);  g = tanh(z_g)
        c' = c + i * g                    # dc'/dc = 1: the constant error carousel
        h' = o * tanh(c')

    (The paper scales its squashing functions differently: g into -2..2 and h into -1..1; that is absorbed by the weights.)

    Args:
        clip, cells_per_gate, heads: as in `LSTM`.

    Source: Hochreiter & Schmidhuber 1997, section 4.

    >>> import numpy as np
    >>> float(LSTM1997()(np.zeros((1, 3)), State(np.zeros((1, 1)), np.full((1, 1), 0.7))).c[0, 0])
    0.7
    """

    clip: float | None = None
    cells_per_gate: int = 1
    heads: int = 1

    name = "lstm1997"
    kernel = "nfg_np"  # the same equations
    gates = saved = ("i", "g", "o")


@dataclass(frozen=True)
class Peephole(Memory):
    """The LSTM whose gates see the cell state (the 'vanilla' LSTM of Greff et al. 2017).

        i = sigmoid(z_i + p_i * c);  f = sigmoid(z_f + p_f * c);  g = tanh(z_g)
        c' = f * c + i * g
        o = sigmoid(z_o + p_o * c')
        h' = o * tanh(c')

    Args:
        clip, heads: as in `LSTM`.

    Source: Gers, Schraudolph & Schmidhuber 2002 (peepholes); Greff, Srivastava, Koutnik, Steunebrink & Schmidhuber 2017.

    >>> import numpy as np
    >>> step = Peephole()(np.zeros((1, 4)), State(np.zeros((1, 1)), np.array([[0.7]])), np.array([-1000.0, 1000.0, 0.0]))
    >>> float(step.c[0, 0])  # the cell itself closes i and opens f
    0.7
    """

    clip: float | None = None
    heads: int = 1

    name = kernel = "peephole"
    peepholes = ("i", "f", "o")
