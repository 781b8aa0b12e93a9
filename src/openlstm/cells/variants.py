"""The variants of the LSTM that Greff et al. (2017) compare: one part left out or changed each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from openlstm._array import Array, concat, split
from openlstm.cells.base import State, Step, StepGradients, StepInputs
from openlstm.cells.lstm import Memory


def _with_peepholes(name: str) -> Any:
    """A cell's kernel: the one of this name, or `name_np` without peepholes."""
    return property(lambda cell: name if cell.peephole else f"{name}_np")


@dataclass(frozen=True)
class Variant(Memory):
    """One thing changed in `Peephole`, with or without peepholes."""

    clip: float | None = None
    peephole: bool = True
    heads: int = 1

    @property
    def peepholes(self) -> tuple[str, ...]:
        return tuple(gate for gate in self.gates if gate != "g") if self.peephole else ()


@dataclass(frozen=True)
class NIG(Variant):
    """No input gate: `Peephole` with i = 1.

        f = sigmoid(z_f + p_f * c);  g = tanh(z_g)
        c' = f * c + g
        o = sigmoid(z_o + p_o * c')
        h' = o * tanh(c')

    Args:
        clip, heads: as in `LSTM`.
        peephole: False leaves p out.

    Source: Greff et al. 2017, section III.

    >>> import numpy as np
    >>> float(NIG(peephole=False)(np.zeros((1, 3)), State(np.zeros((1, 1)), np.ones((1, 1)))).c[0, 0])
    0.5
    """

    name = "nig"
    kernel = _with_peepholes("nig")
    gates = saved = ("f", "g", "o")


@dataclass(frozen=True)
class NFG(Variant):
    """No forget gate: `Peephole` with f = 1, so that nothing is ever erased.

        i = sigmoid(z_i + p_i * c);  g = tanh(z_g)
        c' = c + i * g
        o = sigmoid(z_o + p_o * c')
        h' = o * tanh(c')

    Args:
        clip, heads: as in `LSTM`.
        peephole: False leaves p out; then it is `LSTM1997`.

    Source: Greff et al. 2017, section III.

    >>> import numpy as np
    >>> float(NFG(peephole=False)(np.zeros((1, 3)), State(np.zeros((1, 1)), np.ones((1, 1)))).c[0, 0])
    1.0
    """

    name = "nfg"
    kernel = _with_peepholes("nfg")
    gates = saved = ("i", "g", "o")


@dataclass(frozen=True)
class NOG(Variant):
    """No output gate: `Peephole` with o = 1, so that the cell is always shown.

        i = sigmoid(z_i + p_i * c);  f = sigmoid(z_f + p_f * c);  g = tanh(z_g)
        c' = f * c + i * g
        h' = tanh(c')

    Args:
        clip, heads: as in `LSTM`.
        peephole: False leaves p out.

    Source: Greff et al. 2017, section III.

    >>> import numpy as np
    >>> step = NOG(peephole=False)(np.zeros((1, 3)), State(np.zeros((1, 1)), np.ones((1, 1))))
    >>> bool(step.h[0, 0] == np.tanh(0.5))
    True
    """

    name = "nog"
    kernel = _with_peepholes("nog")
    gates = saved = ("i", "f", "g")


@dataclass(frozen=True)
class NIAF(Variant):
    """No input activation function: `Peephole` with g = z_g.

        i = sigmoid(z_i + p_i * c);  f = sigmoid(z_f + p_f * c)
        c' = f * c + i * z_g
        o = sigmoid(z_o + p_o * c')
        h' = o * tanh(c')

    Args:
        clip, heads: as in `LSTM`.
        peephole: False leaves p out.

    Source: Greff et al. 2017, section III.

    >>> import numpy as np
    >>> float(NIAF(peephole=False)(np.array([[0.0, 0.0, 8.0, 0.0]]), State(np.zeros((1, 1)), np.zeros((1, 1)))).c[0, 0])
    4.0
    """

    name = "niaf"
    kernel = _with_peepholes("niaf")
    squashes_input = False


@dataclass(frozen=True)
class NOAF(Variant):
    """No output activation function: `Peephole` with h' = o * c'.

        i = sigmoid(z_i + p_i * c);  f = sigmoid(z_f + p_f * c);  g = tanh(z_g)
        c' = f * c + i * g
        o = sigmoid(z_o + p_o * c')
        h' = o * c'

    Args:
        clip, heads: as in `LSTM`.
        peephole: False leaves p out.

    Source: Greff et al. 2017, section III.

    >>> import numpy as np
    >>> float(NOAF(peephole=False)(np.zeros((1, 4)), State(np.zeros((1, 1)), np.full((1, 1), 8.0))).h[0, 0])
    2.0
    """

    name = "noaf"
    kernel = _with_peepholes("noaf")
    squashes_output = False


@dataclass(frozen=True)
class CIFG(Variant):
    """Coupled input and forget gate: `Peephole` with f = 1 - i, which takes in as much as it lets go.

        i = sigmoid(z_i + p_i * c);  g = tanh(z_g)
        c' = (1 - i) * c + i * g
        o = sigmoid(z_o + p_o * c')
        h' = o * tanh(c')

    Args:
        clip, heads: as in `LSTM`.
        peephole: False leaves p out.

    Source: Greff et al. 2017, section III.

    >>> import numpy as np
    >>> float(CIFG(peephole=False)(np.zeros((1, 3)), State(np.zeros((1, 1)), np.ones((1, 1)))).c[0, 0])
    0.5
    """

    name = "cifg"
    kernel = _with_peepholes("cifg")
    gates = saved = ("i", "g", "o")
    coupled = True


@dataclass(frozen=True)
class FGR(Memory):
    """Full gate recurrence: `Peephole` whose gates also see all gates of the step before.

        z_s = W_s x + b_s + R_s h + R_is i + R_fs f + R_os o                                        for s = i, f, o
        z_g = W_g x + b_g + R_g h
        the rest as in `Peephole`

    What is fed back and carried as h is (h, i, f, o), [B, 4H], and `weight_hh` is [4H, 4H]. The candidate does not see the
    gates (nine matrices more than `Peephole`, not twelve): the rows of g do not exist right of column H; what stands there
    counts as 0 and its gradient is 0. It cannot be projected.

    Args:
        clip: as in `LSTM`.

    Source: Hochreiter & Schmidhuber 1997, as in Greff et al. 2017, section III.

    >>> import numpy as np
    >>> FGR()(np.zeros((1, 4)), State(np.zeros((1, 4)), np.zeros((1, 1))), np.zeros(3)).h.tolist()
    [[0.0, 0.5, 0.5, 0.5]]
    """

    clip: float | None = None

    name = kernel = "fgr"
    peepholes = ("i", "f", "o")
    feeds_back = ("h", "i", "f", "o")

    def forward(self, z: Array, before: State, w_ch: Array | None = None, mask: Array | None = None) -> Step:
        step = super().forward(z, before, w_ch, mask)
        i, f, _, o = step.gates
        return step._replace(h=concat([step.h, i, f, o]))

    def backward(self, inputs: StepInputs, dh: Array, dc: Array | None) -> StepGradients:
        dh, di, df, do = split(dh, 4)
        return self._derive(inputs, dh, dc, {"i": di, "f": df, "o": do})
