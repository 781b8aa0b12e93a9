"""The one definition of every cell: its equations, its gates, its paper.

Legend: T time, B batch, I input size, H hidden size, P projected size, R what is fed back (P with a projection, 4H for FGR,
else H), G gates of a cell. `z` is a pre-activation, `i f g o` are activated gates, `h c` is the state, `p` are peepholes, `dX`
is the gradient of the loss with respect to X. The order of gates is i, f, g, o everywhere.

A cell owns only what is different about it: the map from (z, c) to (h', c') and its derivative. The sums

    z = x W_ih^T + b_ih + h W_hh^T + b_hh                                                       # [B, G*H]

the loop over time, lengths, resets, noise and projection belong to `reference.py` and to the engine, which read the traits
below.

A cell of your own needs four lines of traits and `forward`; it runs wherever a cell does, slower, on the reference:

>>> class Leaky(Cell):
...     \"\"\"c' = f c + (1 - f) g;  h' = c'.\"\"\"
...     name, gates, saved, has_cell = "leaky", ("f", "g"), ("f", "g"), True
...     def forward(self, z, before, w_ch=None, mask=None):
...         z_f, z_g = split(z, 2)
...         f, g = sigmoid(z_f), tanh(z_g)
...         c = f * before.c + (1 - f) * g
...         return Step((f, g), c, c)
>>> import numpy as np
>>> Leaky()(np.zeros((1, 2)), State(np.zeros((1, 1)), np.ones((1, 1)))).h.tolist()
[[0.5]]
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np

from openlstm import _array as A
from openlstm._array import Array
from openlstm._array import concat as concat
from openlstm._array import relu as relu
from openlstm._array import sigmoid as sigmoid
from openlstm._array import split as split
from openlstm._array import tanh as tanh
from openlstm._array import where as where
from openlstm.errors import ArgumentError, DtypeError, ShapeError, describe, message

C = TypeVar("C", bound="Cell")


class State(NamedTuple):
    """What a row carries from step to step; `c` is None for a cell without a highway."""

    h: Array  # [B, R]
    c: Array | None = None  # [B, H]


class Step(NamedTuple):
    """What one step of a cell gives: the activated gates that backward needs, the new output and the new cell state."""

    gates: tuple[Array, ...]  # each [B, H], named by Cell.saved
    h: Array  # [B, H], before projection and zoneout; [B, 4H] for FGR
    c: Array | None  # [B, H], before zoneout; None for a cell without a highway


class Around(NamedTuple):
    """One step as its backward sees it."""

    gates: tuple[Array, ...]  # as in Step
    before: Any  # State: h [B, R] as it was fed back, without a mask; c [B, H]
    c: Any  # [B, H], c' as in Step
    h: Array  # h' as in Step
    w_ch: Array | None = None  # [len(peepholes)*H]
    mask: Array | None = None  # [B, H], what the candidate was multiplied with
    z: Array | None = None  # [B, (G+apart)*H], handed over only to a cell that has no backward of its own
    norm: Array | None = None  # weights and biases of what is normalised, see `weights.norm_sizes`


class Flow(NamedTuple):
    """What a step's backward gives."""

    z: Array  # dL/dz [B, (G+apart)*H]
    c: Array | None  # dL/dc [B, H]
    h: Array | None = None  # dL/dh [B, R] that does not pass through the sums, None for zero
    w_ch: Array | None = None  # every row's share of dL/dw_ch [B, len(peepholes)*H]
    norm: Array | None = None  # every row's share of dL/dnorm


class Cell(ABC):
    """A recurrence without its products: what every cell has to say about itself.

    Traits:
        name: the name of the cell.
        gates: the blocks of H rows in `weight_ih`, in the order i, f, g, o without the missing ones.
        saved: the activated gates that a step hands out and backward reads.
        has_cell: whether the state is (h, c) or h alone.
        apart: how many of the last gates want W_ih x + b_ih and W_hh h + b_hh apart, as two blocks at the end of z.
        peepholes: gates that see the cell state through a diagonal, the blocks of `weight_ch`.
        feeds_back: blocks of H that are fed back and carried as h; without a projection R = len(feeds_back) * H.
        candidate: the gate that recurrent dropout acts on, None where there is none.
        clip: the cell state is kept within -clip..clip, None for no bound.
        cells_per_gate: so many neighbouring cells share their gates (a memory block).
        norms: what is normalised over all units of a row, of "x" (the sums of W x), "h" (those of W h) and "c" (the cell
            state): the blocks of `norm`. Sums are handed over raw, by `apart`; b_ih and b_hh come in the biases of `norm`.
    """

    name: str
    gates: tuple[str, ...]
    saved: tuple[str, ...]
    has_cell: bool
    apart: int = 0
    peepholes: tuple[str, ...] = ()
    feeds_back: tuple[str, ...] = ("h",)
    candidate: str | None = None
    clip: float | None = None
    cells_per_gate: int = 1
    norms: tuple[str, ...] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        """Whoever writes `forward` anew has the default `backward`, not that of the cell it was derived from."""
        super().__init_subclass__(**options)
        if "forward" in cls.__dict__ and "backward" not in cls.__dict__:
            cls.backward = Cell.backward

    @property
    def kernel(self) -> str:
        """The name in a table of `native/cells/` of what runs this cell, "" for a user's own, also one derived from ours."""
        return self._kernel if type(self).__module__ == __name__ else ""

    @property
    def _kernel(self) -> str:
        return self.name

    @property
    def derives_itself(self) -> bool:
        """Whether `backward` is written down; if not it differentiates `forward` and needs `Around.z`."""
        return type(self).backward is not Cell.backward

    def unshared(self: C) -> C:
        """The same cell with gates of its own for every unit: what runs on `weights.expand(...)`."""
        return self if self.cells_per_gate == 1 else replace(self, cells_per_gate=1)  # type: ignore[type-var]

    def __call__(
        self, z: Array, before: State, w_ch: Array | None = None, mask: Array | None = None, norm: Array | None = None
    ) -> Step:
        """`forward` with what there is, and for a user's own cell a look at the shapes that come out.

        Raises:
            DtypeError, ShapeError: naming the cell, where it returned something else than its traits promise.
        """
        normed: Any = {} if norm is None else {"norm": norm}  # most cells do not take it
        if self.kernel:
            return self.forward(z, before, w_ch, mask, **normed)
        given = {"w_ch": w_ch, "mask": mask}  # a simple cell may take neither
        step = self.forward(z, before, **{name: a for name, a in given.items() if a is not None}, **normed)
        _check(self, step, z)
        return step

    @abstractmethod
    def forward(self, z: Array, before: State, w_ch: Array | None = None, mask: Array | None = None) -> Step:
        """(z [B, (G+apart)*H], state) -> gates, h' and c'.

        Args:
            z: the sums by gate, then for a gate of `apart` those of x and those of h in two blocks.
            before: what the step begins with, h [B, R] and c [B, H].
            w_ch: [len(peepholes)*H]; given only to a cell with peepholes.
            mask: [B, H], 0 or 1/(1-p); multiplies the candidate after its activation; given only with recurrent dropout.

        A cell with `norms` has a fifth parameter, `norm` [n]: weight and bias of each, one behind the other.
        """

    def backward(self, around: Around, dh: Array, dc: Array | None) -> Flow:
        """(dL/dh', dL/dc') -> the gradients of what the step read.

        h' and c' are independent coordinates of the state: `dc` is what flows along the highway from the next step,
        `dh` what flows through outputs and the next step's sums; the path from c' to h' is added here. This default
        differentiates `forward` with torch.
        """
        return _differentiate(self, around, dh, dc)


class _Memory(Cell):
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
    coupled: ClassVar[bool] = False
    squashes_input: ClassVar[bool] = True
    squashes_output: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_options(self)

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
        c = _clamp(f * c + i * g, self.clip)  # from here on c'
        o = gate("o", c)
        h = o * (tanh(c) if self.squashes_output else c)
        named = {"i": i, "f": f, "g": g, "o": o}
        return Step(tuple(named[name] for name in self.saved), h, c)

    def backward(self, around: Around, dh: Array, dc: Array | None) -> Flow:
        return self._derive(around, dh, dc, {})

    def _derive(self, around: Around, dh: Array, dc: Any, fed: dict[str, Array]) -> Flow:
        """`backward`; `fed` holds what flows into gates beside h' and c' (FGR feeds them back)."""
        s, p = dict(zip(self.saved, around.gates, strict=True)), self._diagonals(around.w_ch)
        i, g, o = s.get("i", 1), s["g"], s.get("o", 1)
        f = 1 - i if self.coupled else s.get("f", 1)
        c, c_prev, mask = around.c, around.before.c, around.mask
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
        if self.clip is not None:
            dc = where(abs(c) >= self.clip, A.namespace(dc).zeros_like(dc), dc)
        if "i" in s:
            close("i", dc, g - c_prev if self.coupled else g)
        if "f" in s:
            close("f", dc, c_prev)
        dz["g"] = dc * i * _slope(g, mask) if self.squashes_input else dc * i if mask is None else dc * i * mask
        dc_prev = dc * f
        for name in ("i", "f"):
            if name in p:
                dc_prev = dc_prev + dz[name] * p[name]
        dp = [dz[name] * (c if name == "o" else c_prev) for name in p]
        return Flow(concat([dz[name] for name in self.gates]), dc_prev, None, concat(dp) if dp else None)

    def _diagonals(self, w_ch: Array | None) -> dict[str, Array]:
        """The peepholes by gate, each [H]."""
        names = self.peepholes
        return dict(zip(names, split(w_ch, len(names)), strict=True)) if names else {}


@dataclass(frozen=True)
class LSTM(_Memory):
    """Long short-term memory with a forget gate and without peepholes (the variant NP of Greff et al. 2017).

        i, f, o = sigmoid(z_i), sigmoid(z_f), sigmoid(z_o);  g = tanh(z_g)
        c' = f * c + i * g                # the highway: with f=1, i=0 kept for ever, with f=0, i=1 started afresh
        h' = o * tanh(c')

    The same equations and the same order of gates as `torch.nn.LSTM`.

    Args:
        clip: keeps c' within -clip..clip; where it does, no gradient passes.
        cells_per_gate: so many neighbouring cells share i, f and o (a memory block), which have H/cells_per_gate rows each.

    Raises:
        ArgumentError: for a clip that is not above 0, or cells_per_gate that is not an integer from 1.

    Source: Hochreiter & Schmidhuber 1997 (the cell, memory blocks), Gers, Schmidhuber & Cummins 2000 (the forget gate, eq.
    1-7); clipping: Sak, Senior & Beaufays 2014.

    >>> import numpy as np
    >>> step = LSTM()(np.array([[-1000.0, 1000.0, 0.3, 0.0]]), State(np.zeros((1, 1)), np.array([[0.7]])))  # i=0, f=1
    >>> float(step.c[0, 0])
    0.7
    """

    clip: float | None = None
    cells_per_gate: int = 1

    name: ClassVar[str] = "lstm"


@dataclass(frozen=True)
class Peephole(_Memory):
    """The LSTM whose gates see the cell state (the 'vanilla' LSTM of Greff et al. 2017).

        i = sigmoid(z_i + p_i * c);  f = sigmoid(z_f + p_f * c);  g = tanh(z_g)
        c' = f * c + i * g
        o = sigmoid(z_o + p_o * c')
        h' = o * tanh(c')

    Args:
        clip: as in `LSTM`.

    Source: Gers, Schraudolph & Schmidhuber 2002 (peepholes); Greff, Srivastava, Koutnik, Steunebrink & Schmidhuber 2017.

    >>> import numpy as np
    >>> step = Peephole()(np.zeros((1, 4)), State(np.zeros((1, 1)), np.array([[0.7]])), np.array([-1000.0, 1000.0, 0.0]))
    >>> float(step.c[0, 0])  # the cell itself closes i and opens f
    0.7
    """

    clip: float | None = None

    name: ClassVar[str] = "peephole"
    peepholes: ClassVar[tuple[str, ...]] = ("i", "f", "o")


@dataclass(frozen=True)
class _Variant(_Memory):
    """One thing changed in `Peephole`, with or without peepholes."""

    clip: float | None = None
    peephole: bool = True

    @property
    def peepholes(self) -> tuple[str, ...]:
        return tuple(gate for gate in self.gates if gate != "g") if self.peephole else ()

    @property
    def _kernel(self) -> str:
        return self.name if self.peephole else f"{self.name}_np"


@dataclass(frozen=True)
class NIG(_Variant):
    """No input gate: `Peephole` with i = 1.

        f = sigmoid(z_f + p_f * c);  g = tanh(z_g)
        c' = f * c + g
        o = sigmoid(z_o + p_o * c')
        h' = o * tanh(c')

    Args:
        clip: as in `LSTM`.
        peephole: False leaves p out.

    Source: Greff et al. 2017, section III.

    >>> import numpy as np
    >>> float(NIG(peephole=False)(np.zeros((1, 3)), State(np.zeros((1, 1)), np.ones((1, 1)))).c[0, 0])
    0.5
    """

    name: ClassVar[str] = "nig"
    gates: ClassVar[tuple[str, ...]] = ("f", "g", "o")
    saved: ClassVar[tuple[str, ...]] = ("f", "g", "o")


@dataclass(frozen=True)
class NFG(_Variant):
    """No forget gate: `Peephole` with f = 1, so that nothing is ever erased.

        i = sigmoid(z_i + p_i * c);  g = tanh(z_g)
        c' = c + i * g
        o = sigmoid(z_o + p_o * c')
        h' = o * tanh(c')

    Args:
        clip: as in `LSTM`.
        peephole: False leaves p out; then it is `LSTM1997`.

    Source: Greff et al. 2017, section III.

    >>> import numpy as np
    >>> float(NFG(peephole=False)(np.zeros((1, 3)), State(np.zeros((1, 1)), np.ones((1, 1)))).c[0, 0])
    1.0
    """

    name: ClassVar[str] = "nfg"
    gates: ClassVar[tuple[str, ...]] = ("i", "g", "o")
    saved: ClassVar[tuple[str, ...]] = ("i", "g", "o")


@dataclass(frozen=True)
class NOG(_Variant):
    """No output gate: `Peephole` with o = 1, so that the cell is always shown.

        i = sigmoid(z_i + p_i * c);  f = sigmoid(z_f + p_f * c);  g = tanh(z_g)
        c' = f * c + i * g
        h' = tanh(c')

    Args:
        clip: as in `LSTM`.
        peephole: False leaves p out.

    Source: Greff et al. 2017, section III.

    >>> import numpy as np
    >>> step = NOG(peephole=False)(np.zeros((1, 3)), State(np.zeros((1, 1)), np.ones((1, 1))))
    >>> bool(step.h[0, 0] == np.tanh(0.5))
    True
    """

    name: ClassVar[str] = "nog"
    gates: ClassVar[tuple[str, ...]] = ("i", "f", "g")
    saved: ClassVar[tuple[str, ...]] = ("i", "f", "g")


@dataclass(frozen=True)
class NIAF(_Variant):
    """No input activation function: `Peephole` with g = z_g.

        i = sigmoid(z_i + p_i * c);  f = sigmoid(z_f + p_f * c)
        c' = f * c + i * z_g
        o = sigmoid(z_o + p_o * c')
        h' = o * tanh(c')

    Args:
        clip: as in `LSTM`.
        peephole: False leaves p out.

    Source: Greff et al. 2017, section III.

    >>> import numpy as np
    >>> float(NIAF(peephole=False)(np.array([[0.0, 0.0, 8.0, 0.0]]), State(np.zeros((1, 1)), np.zeros((1, 1)))).c[0, 0])
    4.0
    """

    name: ClassVar[str] = "niaf"
    squashes_input: ClassVar[bool] = False


@dataclass(frozen=True)
class NOAF(_Variant):
    """No output activation function: `Peephole` with h' = o * c'.

        i = sigmoid(z_i + p_i * c);  f = sigmoid(z_f + p_f * c);  g = tanh(z_g)
        c' = f * c + i * g
        o = sigmoid(z_o + p_o * c')
        h' = o * c'

    Args:
        clip: as in `LSTM`.
        peephole: False leaves p out.

    Source: Greff et al. 2017, section III.

    >>> import numpy as np
    >>> float(NOAF(peephole=False)(np.zeros((1, 4)), State(np.zeros((1, 1)), np.full((1, 1), 8.0))).h[0, 0])
    2.0
    """

    name: ClassVar[str] = "noaf"
    squashes_output: ClassVar[bool] = False


@dataclass(frozen=True)
class CIFG(_Variant):
    """Coupled input and forget gate: `Peephole` with f = 1 - i, which takes in as much as it lets go.

        i = sigmoid(z_i + p_i * c);  g = tanh(z_g)
        c' = (1 - i) * c + i * g
        o = sigmoid(z_o + p_o * c')
        h' = o * tanh(c')

    Args:
        clip: as in `LSTM`.
        peephole: False leaves p out.

    Source: Greff et al. 2017, section III.

    >>> import numpy as np
    >>> float(CIFG(peephole=False)(np.zeros((1, 3)), State(np.zeros((1, 1)), np.ones((1, 1)))).c[0, 0])
    0.5
    """

    name: ClassVar[str] = "cifg"
    gates: ClassVar[tuple[str, ...]] = ("i", "g", "o")
    saved: ClassVar[tuple[str, ...]] = ("i", "g", "o")
    coupled: ClassVar[bool] = True


@dataclass(frozen=True)
class FGR(_Memory):
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

    name: ClassVar[str] = "fgr"
    peepholes: ClassVar[tuple[str, ...]] = ("i", "f", "o")
    feeds_back: ClassVar[tuple[str, ...]] = ("h", "i", "f", "o")

    def forward(self, z: Array, before: State, w_ch: Array | None = None, mask: Array | None = None) -> Step:
        step = super().forward(z, before, w_ch, mask)
        i, f, _, o = step.gates
        return step._replace(h=concat([step.h, i, f, o]))

    def backward(self, around: Around, dh: Array, dc: Array | None) -> Flow:
        dh, di, df, do = split(dh, 4)
        return self._derive(around, dh, dc, {"i": di, "f": df, "o": do})


@dataclass(frozen=True)
class LSTM1997(_Memory):
    """The long short-term memory as it was first: no forget gate, no peepholes, so that the cell only adds up.

        i, o = sigmoid(z_i), sigmoid(z_o);  g = tanh(z_g)
        c' = c + i * g                    # dc'/dc = 1: the constant error carousel
        h' = o * tanh(c')

    (The paper scales its squashing functions differently: g into -2..2 and h into -1..1; that is absorbed by the weights.)

    Args:
        clip, cells_per_gate: as in `LSTM`.

    Source: Hochreiter & Schmidhuber 1997, section 4.

    >>> import numpy as np
    >>> float(LSTM1997()(np.zeros((1, 3)), State(np.zeros((1, 1)), np.full((1, 1), 0.7))).c[0, 0])
    0.7
    """

    clip: float | None = None
    cells_per_gate: int = 1

    name: ClassVar[str] = "lstm1997"
    gates: ClassVar[tuple[str, ...]] = ("i", "g", "o")
    saved: ClassVar[tuple[str, ...]] = ("i", "g", "o")

    @property
    def _kernel(self) -> str:
        return "nfg_np"


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

    name: ClassVar[str] = "lstm_ln"
    gates: ClassVar[tuple[str, ...]] = ("i", "f", "g", "o")
    saved: ClassVar[tuple[str, ...]] = (*"ifgo", "xi", "xf", "xg", "xo", "hi", "hf", "hg", "ho")
    has_cell: ClassVar[bool] = True
    apart: ClassVar[int] = 4
    candidate: ClassVar[str] = "g"
    norms: ClassVar[tuple[str, ...]] = ("x", "h", "c")

    def __post_init__(self) -> None:
        _check_options(self)

    def forward(self, z: Array, before: State, w_ch: Array | None = None, mask: Array | None = None, norm: Any = None) -> Step:
        x, h = split(z, 2)  # [B, 4H], raw
        w_x, b_x, w_h, b_h, w_c, b_c = self._affine(norm)
        z_i, z_f, z_g, z_o = split(_normal(x)[0] * w_x + _normal(h)[0] * w_h + (b_x + b_h), 4)
        i, f, g, o = sigmoid(z_i), sigmoid(z_f), tanh(z_g), sigmoid(z_o)
        g = g if mask is None else g * mask
        c = _clamp(f * before.c + i * g, self.clip)
        return Step((i, f, g, o, *split(x, 4), *split(h, 4)), o * tanh(_normal(c)[0] * w_c + b_c), c)

    def backward(self, around: Around, dh: Array, dc: Array | None) -> Flow:
        (i, f, g, o), x, h = around.gates[:4], concat(list(around.gates[4:8])), concat(list(around.gates[8:]))
        w_x, _, w_h, _, w_c, b_c = self._affine(around.norm)
        (x, r_x), (h, r_h), (c, r_c) = _normal(x), _normal(h), _normal(around.c)
        shown = tanh(c * w_c + b_c)
        dn = dh * o * (1 - shown * shown)  # at the argument of tanh
        seen = _through_normal(dn * w_c, c, r_c)
        dc = seen if dc is None else dc + seen
        if self.clip is not None:
            dc = where(abs(around.c) >= self.clip, A.namespace(dc).zeros_like(dc), dc)
        dz_i = dc * (i * (1 - i)) * g
        dz_f = dc * (f * (1 - f)) * around.before.c
        dz_g = dc * i * _slope(g, around.mask)
        dz_o = dh * (o * (1 - o)) * shown
        dz = concat([dz_i, dz_f, dz_g, dz_o])  # [B, 4H]
        of_sums = concat([_through_normal(dz * w_x, x, r_x), _through_normal(dz * w_h, h, r_h)])
        return Flow(of_sums, dc * f, None, None, concat([dz * x, dz, dz * h, dz, dn * c, dn]))

    @staticmethod
    def _affine(norm: Array) -> tuple[Any, ...]:
        """w_x, b_x, w_h, b_h, w_c, b_c."""
        H = norm.shape[-1] // 18
        ends = (0, 4, 8, 12, 16, 17, 18)
        return tuple(norm[..., a * H : b * H] for a, b in zip(ends, ends[1:], strict=False))


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

    Source: Cho et al. 2014; with r behind the product, as in cuDNN and `torch.nn.GRU`.

    >>> import numpy as np
    >>> float(GRU()(np.array([[0.0, 1000.0, 0.3, 0.0]]), State(np.array([[0.7]]))).h[0, 0])  # z = 1
    0.7
    """

    memory: bool = False

    name: ClassVar[str] = "gru"
    gates: ClassVar[tuple[str, ...]] = ("r", "z", "n")
    saved: ClassVar[tuple[str, ...]] = ("r", "z", "n", "m")
    apart: ClassVar[int] = 1
    candidate: ClassVar[str] = "n"

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

    def backward(self, around: Around, dh: Array, dc: Array | None) -> Flow:
        r, u, n, m = around.gates
        old = around.before.c if self.memory else around.before.h
        d = dh if dc is None else dh + dc  # with a memory h' is c'
        dn = d * (1 - u) * _slope(n, around.mask)  # at the argument of tanh
        dz_r = dn * (r * (1 - r)) * m
        dz_z = d * (u * (1 - u)) * (old - n)
        dz = concat([dz_r, dz_z, dn, dn * r])
        return Flow(dz, d * u) if self.memory else Flow(dz, None, d * u)


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
    >>> VanillaRNN("relu")(np.array([[-1.0, 2.0]]), State(np.zeros((1, 2)))).h.tolist()
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
    def _kernel(self) -> str:
        return f"rnn_{self.nonlinearity}"

    def forward(self, z: Array, before: State, w_ch: Array | None = None, mask: Array | None = None) -> Step:
        return Step((), tanh(z) if self.nonlinearity == "tanh" else relu(z), None)

    def backward(self, around: Around, dh: Array, dc: Array | None) -> Flow:
        h = around.h
        if self.nonlinearity == "tanh":
            return Flow(dh * (1 - h * h), None)  # [B, H]
        return Flow(where(h > 0, dh, A.namespace(dh).zeros_like(dh)), None)  # [B, H]


def _clamp(c: Array, clip: float | None) -> Array:
    """c within -clip..clip; NaN stays NaN, and where a bound is reached no gradient passes."""
    if clip is None:
        return c
    bound = A.namespace(c).ones_like(c) * clip
    return where(c >= bound, bound, where(c <= -bound, -bound, c))


NORM_EPS = 1e-5
"""What is added to a variance, as in torch.nn.LayerNorm."""


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


def _slope(g: Array, mask: Array | None) -> Array:
    """d(mask * tanh(z)) / dz from its value g."""
    if mask is None:
        return 1 - g * g
    tanh_z = g / where(mask == 0, A.namespace(mask).ones_like(mask), mask)
    return mask * (1 - tanh_z * tanh_z)


def _check_options(cell: Cell) -> None:
    who = type(cell).__name__
    clip, m = cell.clip, cell.cells_per_gate
    if clip is not None and (isinstance(clip, bool) or not isinstance(clip, (int, float)) or not 0 < clip < math.inf):
        hint = "the cell is kept within -clip..clip: pass clip=3.0, or None for no bound"
        raise ArgumentError(message(who, f"cannot clip the cell at {clip!r}", f"clip={clip!r}", "a number above 0", hint))
    if isinstance(m, bool) or not isinstance(m, int) or m < 1:
        hint = "so many cells share their gates: 1 for none"
        got = f"cells_per_gate={m!r}"
        raise ArgumentError(message(who, f"no memory block has {m!r} cells", got, "an integer from 1", hint))


def _check(cell: Cell, step: Any, z: Array) -> None:
    """Does what a user's cell returned fit its traits?"""
    who = type(cell).__name__
    if not isinstance(step, Step):
        hint = "return Step((gates named by `saved`), h, c)"
        raise DtypeError(message(who, "forward did not return a Step", describe(step), "openlstm.cells.Step", hint))
    B, H = z.shape[0], z.shape[-1] // (len(cell.gates) + cell.apart)
    if len(step.gates) != len(cell.saved):
        got, expected = f"{len(step.gates)} gates", f"{len(cell.saved)}: {', '.join(cell.saved) or 'none'}"
        hint = "return one array for each name in `saved`"
        raise ShapeError(message(who, "forward returned another number of gates than `saved` names", got, expected, hint))
    arrays = [(f"gates[{k}] ({name})", a, H) for k, (name, a) in enumerate(zip(cell.saved, step.gates, strict=True))]
    arrays.append(("h", step.h, len(cell.feeds_back) * H))
    if cell.has_cell != (step.c is not None):
        what = "forward returned no c" if cell.has_cell else "forward returned a c"
        got, expected = f"c: {describe(step.c)}", f"c: [B, H] = [{B}, {H}]" if cell.has_cell else "c: None"
        raise ShapeError(message(who, what, got, expected, f"the trait has_cell is {cell.has_cell}"))
    arrays += [("c", step.c, H)] if cell.has_cell else []
    for name, a, width in arrays:
        right = describe(z[:, :1]).replace(f"[{B}, 1]", f"[{B}, {width}]")
        if type(a).__module__ != type(z).__module__ or describe(a) != right:
            letters = "[B, H]" if width == H else "[B, R]"
            hint = f"z: {describe(z)} has {z.shape[-1] // H if H else 0} blocks of H = {H}; keep its kind and dtype"
            raise ShapeError(
                message(who, f"forward returned a wrong {name}", f"{name}: {describe(a)}", f"{letters} = {right}", hint)
            )


def _differentiate(cell: Cell, around: Around, dh: Array, dc: Array | None) -> Flow:
    """The vector-Jacobian product of `cell.forward` by torch; for numpy arrays by way of tensors."""
    if not A.is_torch(around.z):
        return _by_tensors(cell, around, dh, dc)
    torch = sys.modules["torch"]
    before = around.before
    each = [None if w is None else w.expand(before.h.shape[0], -1) for w in (around.w_ch, around.norm)]  # every row's share
    given = {"z": around.z, "h": before.h, "c": before.c, "w_ch": each[0], "norm": each[1]}
    names = [name for name, a in given.items() if a is not None]

    def run(*inputs: Array) -> tuple[Array, ...]:
        of = dict(zip(names, inputs, strict=True))
        step = cell(of["z"], State(of["h"], of.get("c")), of.get("w_ch"), around.mask, of.get("norm"))
        return (step.h,) if step.c is None else (step.h, step.c)

    _, pull = torch.func.vjp(run, *(given[name] for name in names))
    flow = dict(zip(names, pull((dh,) if dc is None else (dh, dc)), strict=True))
    return Flow(flow["z"], flow.get("c"), flow["h"], flow.get("w_ch"), flow.get("norm"))


def _by_tensors(cell: Cell, around: Around, dh: Array, dc: Array | None) -> Flow:
    import torch

    def tensor(a: Any) -> Any:
        return None if a is None else torch.from_numpy(np.array(a))

    before = State(*(tensor(a) for a in around.before))
    there = Around((), before, None, *(tensor(a) for a in around[3:]))
    flow = _differentiate(cell, there, tensor(dh), tensor(dc))
    return Flow(*(None if a is None else a.numpy() for a in flow))


ALL: tuple[Cell, ...] = (
    LSTM(),
    Peephole(),
    *(variant(peephole=peephole) for variant in (NIG, NFG, NOG, NIAF, NOAF, CIFG) for peephole in (True, False)),
    FGR(),
    LSTM1997(),
    LayerNormLSTM(),
    GRU(),
    VanillaRNN("tanh"),
    VanillaRNN("relu"),
)
"""Every cell this package ships, once each; the conformance suite runs over this list."""
