"""`LSTMCell`, `GRUCell`, `RNNCell`: one step, for loops that are written by hand.

Legend: B batch, I input size, H hidden size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from openlstm import cells, weights
from openlstm.call import Call
from openlstm.engine.backends.table import brief, choose
from openlstm.engine.run import run, runs_as, straight
from openlstm.errors import ArgumentError, DtypeError, ShapeError, describe
from openlstm.nn import checks
from openlstm.nn.convert import convert, expect
from openlstm.nn.recurrent import VANILLA
from openlstm.reference import State, Weights


class OneStep(nn.Module):
    """What the three share: parameters named as in torch.nn, and the checks."""

    def __init__(
        self, cell: cells.Cell, input_size: int, hidden_size: int, bias: bool, device: Any, dtype: Any, backend: str
    ) -> None:
        super().__init__()
        who = type(self).__name__
        checks.sizes(who, input_size, hidden_size, lowest_size=0)
        checks.flags(who, bias=bias)
        self.cell = cell
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        self.backend = backend
        made = weights.shapes(cell, input_size, hidden_size, bias=bias)
        for name in dict.fromkeys(("weight_ih", "weight_hh", "bias_ih", "bias_hh", *made)):
            size = made.get(name)
            new = None if size is None else nn.Parameter(torch.empty(size, device=device, dtype=dtype))
            self.register_parameter(name, new)
        self._more = len(made) > 2 + 2 * bias or cell.recurrence == "none"  # than torch.nn's cells have, or less
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter from U(-1/sqrt(H), 1/sqrt(H)), in the order and with the bits of torch.nn.

        Norms (`cells.LayerNormLSTM`) begin with weight 1 and bias 0.
        """
        bound = 1.0 / math.sqrt(self.hidden_size) if self.hidden_size else 0.0
        for name, parameter in self.named_parameters():
            if name.startswith("norm_"):
                nn.init.constant_(parameter, float(name.endswith("_weight")))
            else:
                nn.init.uniform_(parameter, -bound, bound)

    def backend_used(self, x: Tensor) -> str:
        """The name of the backend that a call with `x` will run on."""
        return choose(self.backend, self.cell, runs_as(x), type(self).__name__)

    def extra_repr(self) -> str:
        shown = f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")
        usual = self.cell in (cells.LSTM(), cells.GRU(), *VANILLA)
        return shown if usual else f"{shown}, cell={brief(self.cell)}"

    def _weights(self) -> Weights:
        p = self._parameters
        try:
            w = Weights(p["weight_ih"], p["weight_hh"], p["bias_ih"], p["bias_hh"])
        except KeyError:  # a parametrised weight is an attribute and no parameter; attributes cost a microsecond more
            w = Weights(self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        if not self._more:
            return w
        norms = [getattr(self, name) for name in weights.NORMS if hasattr(self, name)]
        norm, w_ch = torch.cat(norms) if norms else None, getattr(self, "weight_ch", None)
        return w._replace(w_hh=w.w_ih[:, :0] if w.w_hh is None else w.w_hh, w_ch=w_ch, norm=norm)

    def _step(self, x: Tensor, w: Weights, state: State) -> State:
        """One step of x [B, I], in the type that x has; without a gradient straight to the kernel."""
        call = Call(self.cell, x, w, state, backend=self.backend, autocast=False)
        done = straight(call) or run(call._replace(x=x.unsqueeze(0)))
        return done.state

    def _input(self, x: Any, weight: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """x, checked, and the shape of a state; what fits at once is let through at once."""
        who = type(self).__name__
        if not (isinstance(x, Tensor) and x.dim() == 2 and x.shape[1] == self.input_size):
            _features(who, x, self.input_size)
        if x.dtype != weight.dtype or x.device != weight.device:
            x = checks.same_as_weights(who, x, weight)
        return x, ((x.shape[0], self.hidden_size) if x.dim() == 2 else (self.hidden_size,))

    def _h_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of h, where that of the other states is `shape`: a cell that feeds its gates back carries them in it."""
        return (*shape[:-1], shape[-1] * len(self.cell.feeds_back))

    def _member(self, name: str, s: Any, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """One of the states, checked."""
        if not (isinstance(s, Tensor) and s.shape == shape and s.dtype == x.dtype and s.device == x.device):
            s = _state(type(self).__name__, name, s, shape, x)
        return s


class LSTMCell(OneStep):
    """One step of an LSTM: torch.nn.LSTMCell's arguments, parameters and numbers; the same kernel as `openlstm.LSTM`.

        i, f, o = sigmoid(z_i), sigmoid(z_f), sigmoid(z_o);  g = tanh(z_g),   z = x W_ih^T + b_ih + h W_hh^T + b_hh
        c' = f * c + i * g
        h' = o * tanh(c')

    Args:
        input_size, hidden_size: I and H.
        bias: whether there are bias_ih and bias_hh.
        device, dtype: of the parameters.
        cell: the recurrence, `openlstm.cells.LSTM()` if None; any with a cell state, your own too.
        backend: "auto", "cpu" or "reference"; a named one is never replaced by another.

    A call `cell(x, (h, c))`: x [B, I], h and c [B, H], or [I] and [H] without a batch; zeros if (h, c) is None.

    Returns:
        (h', c'), shaped as h and c; of a cell with more states a named tuple of all: (h, c, n, m) of `cells.SLSTM`. On CPU the
        same bits as `openlstm.LSTM` gives at that step of a sequence.

    Raises:
        ShapeError, DtypeError: where an argument does not fit; the message says what would.

    Source: Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000.

    >>> import torch, openlstm
    >>> h, c = openlstm.LSTMCell(3, 5)(torch.zeros(2, 3))
    >>> h.shape, c.shape
    (torch.Size([2, 5]), torch.Size([2, 5]))
    >>> step = openlstm.LSTMCell(3, 8, cell=openlstm.cells.SLSTM(heads=2))
    >>> step(torch.zeros(2, 3), step(torch.zeros(2, 3))).n.shape
    torch.Size([2, 8])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        cell: cells.Cell | None = None,
        backend: str = "auto",
    ) -> None:
        cell = cells.LSTM() if cell is None else cell
        checks.cell("LSTMCell", cell, has_cell=True)
        super().__init__(cell, input_size, hidden_size, bias, device, dtype, backend)

    @classmethod
    def from_torch(cls, cell: nn.LSTMCell) -> LSTMCell:
        """The same cell as ours: same arguments, same mode, same Parameter objects.

        Raises:
            DtypeError: for another kind of module.
            ArgumentError: for a subclass, hooks, parametrisations or members of its own, which would be lost.
        """
        expect("LSTMCell.from_torch", cell, nn.LSTMCell)
        return convert("LSTMCell.from_torch", "the cell", cell, LSTMCell)

    def to_torch(self) -> nn.LSTMCell:
        """The same cell as torch.nn's: same arguments, same mode, same Parameter objects.

        Raises:
            ArgumentError: for a backend that is named, or where something would be lost.
        """
        _torch_has("LSTMCell.to_torch", self)
        return convert("LSTMCell.to_torch", "the cell", self, nn.LSTMCell)

    def forward(self, input: Tensor, hx: tuple[Tensor, ...] | None = None) -> tuple[Tensor, Any]:
        """See the class."""
        w = self._weights()
        x, shape = self._input(input, w.w_ih)
        names = self.cell.states
        if hx is None:
            h, c = x.new_zeros(self._h_shape(shape)), x.new_zeros(*shape[:-1], shape[-1] * len(names))
        elif not isinstance(hx, (tuple, list)) or len(hx) != 1 + len(names) or any(s is None for s in hx):
            alone = len(names) == 1
            got, hint = f"hx: {describe(hx)}", "pass both h and c" if alone else f"pass h, {', '.join(names)}"
            expected = f"(h [B, H], {', '.join(f'{name} [B, H]' for name in names)})"
            what = f"hx is not {'a pair ' * alone}(h, {', '.join(names)})"
            raise DtypeError.of("LSTMCell", what, got, expected, hint)
        else:
            h, *others = hx
            h = self._member("h", h, x, self._h_shape(shape))
            others = [self._member(name, s, x, shape) for name, s in zip(names, others, strict=True)]
            c = others[0] if len(others) == 1 else torch.cat(others, -1)
        if x.dim() == 1:
            new = self._step(x.unsqueeze(0), w, State(h.unsqueeze(0), c.unsqueeze(0)))
            new = State(new.h[0], new.c[0])  # type: ignore[index]
        else:
            new = self._step(x, w, State(h, c))
        return (new.h, new.c) if len(names) == 1 else cells.parted(self.cell, new)


class _WithoutCell(OneStep):
    """A step whose state is h alone."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """See the class."""
        w = self._weights()
        x, shape = self._input(input, w.w_ih)
        shape = self._h_shape(shape)
        h = x.new_zeros(shape) if hx is None else self._member("h", hx, x, shape)
        alone = x.dim() == 1
        state = State(h.unsqueeze(0) if alone else h)
        new = self._step(x.unsqueeze(0) if alone else x, w, state)
        return new.h[0] if alone else new.h


class GRUCell(_WithoutCell):
    """One step of a gated recurrent unit: torch.nn.GRUCell's arguments, parameters and numbers.

        r = sigmoid(x W_r + h U_r);  z = sigmoid(x W_z + h U_z);  n = tanh(x W_n + r * (h U_n))      # biases in all four sums
        h' = (1 - z) * n + z * h

    Args as in `LSTMCell`. `cell` is one without a cell state. A call `cell(x, h)`: x [B, I], h [B, H], or [I] and [H]
    without a batch; zeros if h is None.

    Returns:
        h', shaped as h.

    Source: Cho et al. 2014.

    >>> import torch, openlstm
    >>> openlstm.GRUCell(3, 5)(torch.zeros(2, 3)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        cell: cells.Cell | None = None,
        backend: str = "auto",
    ) -> None:
        cell = cells.GRU() if cell is None else cell
        checks.cell("GRUCell", cell, has_cell=False)
        super().__init__(cell, input_size, hidden_size, bias, device, dtype, backend)

    @classmethod
    def from_torch(cls, cell: nn.GRUCell) -> GRUCell:
        """As `LSTMCell.from_torch`."""
        expect("GRUCell.from_torch", cell, nn.GRUCell)
        return convert("GRUCell.from_torch", "the cell", cell, GRUCell)

    def to_torch(self) -> nn.GRUCell:
        """As `LSTMCell.to_torch`."""
        _torch_has("GRUCell.to_torch", self)
        return convert("GRUCell.to_torch", "the cell", self, nn.GRUCell)


class RNNCell(_WithoutCell):
    """One step of a vanilla RNN: torch.nn.RNNCell's arguments, parameters and numbers.

        h' = tanh(z)  or  relu(z),   z = x W_ih^T + b_ih + h W_hh^T + b_hh

    Args as in `LSTMCell`, and `nonlinearity`: "tanh" or "relu". A call `cell(x, h)` as in `GRUCell`.

    Source: Elman 1990.

    >>> import torch, openlstm
    >>> openlstm.RNNCell(3, 5, nonlinearity="relu")(torch.zeros(2, 3)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        cell: cells.Cell | None = None,
        backend: str = "auto",
    ) -> None:
        if cell is None:
            cell = cells.VanillaRNN(nonlinearity)  # type: ignore[arg-type]
        checks.cell("RNNCell", cell, has_cell=False)
        super().__init__(cell, input_size, hidden_size, bias, device, dtype, backend)
        self.nonlinearity = getattr(cell, "nonlinearity", nonlinearity)

    @classmethod
    def from_torch(cls, cell: nn.RNNCell) -> RNNCell:
        """As `LSTMCell.from_torch`."""
        expect("RNNCell.from_torch", cell, nn.RNNCell)
        return convert("RNNCell.from_torch", "the cell", cell, RNNCell)

    def to_torch(self) -> nn.RNNCell:
        """As `LSTMCell.to_torch`."""
        _torch_has("RNNCell.to_torch", self)
        return convert("RNNCell.to_torch", "the cell", self, nn.RNNCell)

    def extra_repr(self) -> str:
        shown = super().extra_repr()
        return shown if self.nonlinearity == "tanh" else f"{shown}, nonlinearity={self.nonlinearity}"


def _torch_has(who: str, cell: OneStep) -> None:
    """Raise where torch.nn's cell would lack something of ours."""
    known = {LSTMCell: (cells.LSTM(),), GRUCell: (cells.GRU(),), RNNCell: VANILLA}[type(cell)]
    if cell.cell not in known:
        got, expected = f"cell: {brief(cell.cell)}", f"cells.{brief(known[0])}"
        raise ArgumentError.of(who, f"torch.nn has no {brief(cell.cell)}", got, expected, "keep the openlstm cell")
    if cell.backend != "auto":
        hint = "keep the openlstm cell, or set it to its default first"
        got = f"backend={cell.backend!r}"
        raise ArgumentError.of(who, "torch.nn's cell has no such option", got, "the defaults", hint)


def _features(who: str, x: Any, input_size: int) -> None:
    checks.tensor(who, "x", x)
    if x.dim() not in (1, 2):
        layer = who.removesuffix("Cell")
        hint = f"a sequence [T, B, I] goes to openlstm.{layer}" if x.dim() == 3 else "flatten the extra axes into B or I"
        raise ShapeError.of(who, f"x has {x.dim()} axes", f"x: {describe(x)}", "[B, I], or [I] unbatched", hint)
    if x.shape[-1] != input_size:
        wanted = "[B, I]" if x.dim() == 2 else "[I]"
        swapped = x.dim() == 2 and x.shape[0] == input_size
        hint = (
            "its axes are swapped: use x.T"
            if swapped
            else f"make the cell with input_size={x.shape[-1]}, or give x {input_size} features"
        )
        what = f"x has {x.shape[-1]} features, expected {input_size}"
        raise ShapeError.of(who, what, f"x: {describe(x)}", f"{wanted} with I = {input_size}", hint)


def _state(who: str, name: str, s: Any, shape: tuple[int, ...], x: Tensor) -> Tensor:
    checks.tensor(who, name, s)
    if s.shape != shape:
        letters = "[B, H]" if len(shape) == 2 else "[H]"
        what = f"{name} has shape {list(s.shape)}, expected {list(shape)}"
        hint = "h and c have the batch of x and hidden_size units"
        got = f"{name}: {describe(s)}, x: {describe(x)}"
        raise ShapeError.of(who, what, got, f"{list(shape)} = {letters}", hint)
    return checks.same_as_x(who, name, s, x)
