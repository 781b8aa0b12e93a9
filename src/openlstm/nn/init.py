"""Ways to begin: biases of gates and recurrent matrices that decide before training how long a layer can remember.

Each function writes into a recurrent module that is already there, in every layer and direction of it, and returns that module:
ours with any cell, torch.nn's LSTM, GRU and RNN, and the cells of both. Two biases add up, so that only one may carry a value:
it is written into `bias_ih`, and the whole of `bias_hh` becomes zero. So do the biases of `cells.LayerNormLSTM`'s norms of W x
and W h; without `bias_ih` it is `norm_x_bias` that carries the value.

Legend: H hidden size, R what is fed back, G gates of a cell.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from openlstm import cells, weights
from openlstm.cells import Cell
from openlstm.engine.backends.table import brief
from openlstm.errors import ArgumentError, DtypeError
from openlstm.nn.cell import OneStep
from openlstm.nn.recurrent import Recurrent

M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def forget_bias(module: M, value: float) -> M:
    """Set the bias of the gate that keeps the memory, so that it begins at sigmoid(value): 1 gives 0.73, 3 gives 0.95.

    That is the forget gate; of a GRU the update gate z (h' = (1 - z) n + z h); of CIFG, whose f is 1 - i, the input gate, which
    gets -value, and so of minGRU its gate u. The input gate of minLSTM, whose gates add up to one, gets -value too. Of an sLSTM
    it is the factor sigmoid(z_f) by which the weight of what is held falls.

    Source: Gers, Schmidhuber & Cummins 2000; Jozefowicz, Zaremba & Sutskever 2015.

    Raises:
        ArgumentError: for a module without such a gate, without biases, or with parametrised weights.
        DtypeError: for another kind of module.

    >>> import openlstm
    >>> layer = openlstm.nn.init.forget_bias(openlstm.LSTM(3, 2), 1.0)
    >>> layer.bias_ih_l0[2:4].tolist(), layer.bias_hh_l0.abs().max().item()
    ([1.0, 1.0], 0.0)
    """
    for part in _parts("forget_bias", module):
        gate, sign = part.keeper("forget_bias")
        part.write(gate, sign * value)
        if isinstance(part.cell, cells.MinLSTM):
            part.write("i", -value)
    return module


@torch.no_grad()
def chrono(module: M, lag: int, *, generator: torch.Generator | None = None) -> M:
    """Set the gates for a lag: gates that hold for between one and 2*lag steps, input gates that open as rarely.

        b_f = ln u,  u ~ U(1, 2 lag - 1);   b_i = -b_f

    A unit with f = sigmoid(b_f) keeps its cell for about 1/(1 - f) = 1 + u steps. The T_max of the paper is 2*lag here: half of
    the units then hold for longer than the lag itself, which is what was measured to learn it. Of a GRU the update gate z gets
    b_f; of CIFG the input gate -b_f, since there f = 1 - i; a cell without input gate has nothing to close.

    Args:
        lag: steps over which something has to be kept, >= 1.
        generator: for the draw; the global one if None.

    Source: Tallec & Ollivier 2018, section 3 (LSTM) and equations 10 to 16 (GRU).

    Raises:
        ArgumentError: for a lag below 1, or as `forget_bias`.
        DtypeError: for another kind of module.

    >>> import openlstm
    >>> layer = openlstm.nn.init.chrono(openlstm.LSTM(3, 8), lag=120)
    >>> bool((layer.bias_ih_l0[8:16] <= 5.5).all()), bool((layer.bias_ih_l0[:8] == -layer.bias_ih_l0[8:16]).all())
    (True, True)
    """
    if lag < 1:
        raise ArgumentError.of("chrono", f"lag is {lag}", f"lag: {lag}", "lag >= 1", "count the steps to be bridged")
    for part in _parts("chrono", module):
        gate, sign = part.keeper("chrono")
        units = part.block(part.biases[0], gate)
        b_f = torch.empty_like(units).uniform_(1, 2 * lag - 1, generator=generator).log_()  # [H]
        part.write(gate, sign * b_f)
        if gate == "f" and "i" in part.cell.gates:
            part.write("i", -b_f)
    return module


@torch.no_grad()
def orthogonal(module: M, gain: float = 1.0, *, generator: torch.Generator | None = None) -> M:
    """Make the recurrent matrix of every gate orthogonal (times `gain`), so that it neither shrinks nor stretches what passes.

    With heads that is done for every head by itself; the single weights of `cells.IndRNN` become gain or -gain.

    Source: Saxe, McClelland & Ganguli 2014; for recurrence Henaff, Szlam & LeCun 2016.

    Raises:
        ArgumentError: for parametrised weights, or a cell without a recurrent matrix.
        DtypeError: for another kind of module.

    >>> import torch, openlstm
    >>> w = openlstm.nn.init.orthogonal(torch.nn.RNN(3, 4)).weight_hh_l0
    >>> torch.allclose(w @ w.T, torch.eye(4), atol=1e-5)
    True
    """
    for part in _parts("orthogonal", module):
        if part.w_hh is None:
            hint = "use forget_bias or chrono, which set the gates"
            raise ArgumentError.of(
                "orthogonal", "there is no recurrent matrix", brief(part.cell), "a cell with weight_hh", hint
            )
        for gate in part.cell.gates:
            of_gate = part.block(part.w_hh, gate)  # [H, R], or [H, K] of heads
            for head in (of_gate,) if part.heads == 1 else of_gate.chunk(part.heads):
                nn.init.orthogonal_(head, gain, generator=generator)
    return module


@torch.no_grad()
def slstm(module: M, ratio: float | None = None) -> M:
    """Begin an sLSTM as its authors do: nothing recurrent, forget gates that keep for ever at one end of a head and not at all
    at the other.

        W_hh = 0;   b_f = 5 - 12 (k / (DH - 1))^(0.3 + 1.3 ratio)  for unit k of a head of DH;   other biases 0

    Args:
        ratio: where the layer stands in a stack, from 0 for the lowest to 1 for the highest; if None that of each layer in its
            own module, 0 for a single one.

    Source: Beck et al. 2024, and the code that its authors published.

    Raises:
        ArgumentError: for another cell, a ratio outside 0 .. 1, a module without biases, or with parametrised weights.
        DtypeError: for another kind of module.

    >>> import openlstm
    >>> layer = openlstm.nn.init.slstm(openlstm.LSTM(3, 4, cell=openlstm.cells.SLSTM(heads=2)))
    >>> layer.bias_ih_l0[4:8].tolist(), layer.weight_hh_l0.abs().max().item()
    ([5.0, -7.0, 5.0, -7.0], 0.0)
    """
    if ratio is not None and not 0 <= ratio <= 1:
        hint = "the number of the block by that of the last one: 0 for the lowest"
        raise ArgumentError.of("slstm", f"ratio is {ratio!r}", f"ratio={ratio!r}", "a number from 0 to 1, or None", hint)
    parts = list(_parts("slstm", module))
    layers = len(parts) // (2 if getattr(module, "bidirectional", False) else 1)
    for n, part in enumerate(parts):
        if not isinstance(part.cell, cells.SLSTM):
            hint = "use forget_bias or chrono"
            raise ArgumentError.of("slstm", "the cell is no sLSTM", brief(part.cell), "cells.SLSTM", hint)
        part.keeper("slstm")
        own = n * layers // len(parts) / max(layers - 1, 1) if ratio is None else ratio
        size = part.hidden // part.heads
        k = torch.linspace(0, 1, size, dtype=torch.float64) if size > 1 else torch.zeros(1, dtype=torch.float64)
        part.w_hh.zero_()
        for bias in part.biases:
            bias.zero_()
        part.write("f", (5 - 12 * k ** (0.3 + 1.3 * own)).repeat(part.heads).to(part.w_hh))
    return module


@torch.no_grad()
def identity(module: M, scale: float = 1.0) -> M:
    """Begin a vanilla RNN as a copy of its own state: W_hh = scale * identity, biases 0; with relu the IRNN.

    Of `cells.IndRNN` the single weights become scale.

    Source: Le, Jaitly & Hinton 2015, section 3.

    Raises:
        ArgumentError: for a module with gates, or with parametrised weights.
        DtypeError: for another kind of module.

    >>> import openlstm
    >>> openlstm.nn.init.identity(openlstm.RNN(3, 2, nonlinearity="relu")).weight_hh_l0.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    for part in _parts("identity", module):
        if not isinstance(part.cell, (cells.VanillaRNN, cells.IndRNN)):
            hint = "use chrono or forget_bias, which let the state itself be kept"
            raise ArgumentError.of("identity", "the layer has gates", brief(part.cell), "a vanilla RNN", hint)
        for head in part.w_hh.chunk(part.heads):
            nn.init.eye_(head).mul_(scale)
        for bias in part.biases:
            bias.zero_()
    return module


class Choice(NamedTuple):
    """A way to begin, as text: `chrono=120` has the name chrono and the value 120."""

    name: str
    value: float | None = None

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}={_short(self.value)}"

    @property
    def line(self) -> str:
        """The line of Python that does the same to a layer named `layer`."""
        if self.name == "default":
            return "layer.reset_parameters()"
        return f"openlstm.nn.init.{self.name.replace('-', '_')}(layer{'' if self.value is None else f', {_short(self.value)}'})"


CHOICES: dict[str, bool] = {
    "default": False,
    "forget-bias": True,
    "chrono": True,
    "orthogonal": False,
    "identity": False,
    "slstm": False,
}
"""The names that `parse` knows, and whether they take a value."""


def parse(text: str) -> Choice:
    """Read a way to begin: `default`, `forget-bias=1`, `chrono=120`, `orthogonal`, `identity` or `slstm`.

    Raises:
        ArgumentError: for another name, a missing or unwanted value, or a lag that is no whole number >= 1.

    >>> parse("forget-bias=1"), parse("chrono=120").line
    (Choice(name='forget-bias', value=1.0), 'openlstm.nn.init.chrono(layer, 120)')
    """
    name, equals, rest = text.strip().partition("=")
    if name not in CHOICES or CHOICES[name] != bool(equals):
        known = "default, forget-bias=1, chrono=120, orthogonal, identity or slstm"
        raise ArgumentError.of("init", f"no such way to begin: {text!r}", repr(text), known, "write it as one of these")
    if not equals:
        return Choice(name)
    try:
        value = float(rest)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (name == "chrono" and (value < 1 or value != int(value))):
        wanted = "a whole number of steps, at least 1" if name == "chrono" else "a number"
        raise ArgumentError.of("init", f"{name} needs {wanted}", repr(text), f"{name}=..., {wanted}", f"{name}=1")
    return Choice(name, value)


def apply(module: M, how: str | Choice) -> M:
    """Begin every recurrent layer inside a module in a way that is given as text; what is not recurrent stays as it is.

    Args:
        module: a recurrent module, or one that holds some.
        how: as in `parse`. `default` draws the parameters anew, as the layer does when it is made. In a model of several kinds
            of layers those are left alone that have no such gate (or, for `identity`, have gates; for `slstm`, another cell).

    Raises:
        ArgumentError: as `parse`, as the function of that name, or if there is no recurrent module inside.

    >>> import torch, openlstm
    >>> model = torch.nn.ModuleDict({"lstm": torch.nn.LSTM(3, 2), "head": torch.nn.Linear(2, 1)})
    >>> apply(model, "forget-bias=2")["lstm"].bias_ih_l0[2:4].tolist()
    [2.0, 2.0]
    """
    choice = parse(how) if isinstance(how, str) else how
    found = [m for m in module.modules() if isinstance(m, _KINDS)]
    if not found:
        hint = "pass the model that holds the layer"
        kinds = "a module with an LSTM, GRU or RNN"
        raise ArgumentError.of("init", "no recurrent layer in this module", type(module).__name__, kinds, hint)
    fitting = [layer for layer in found if _takes(choice, _places("init", layer)[0])]
    for layer in fitting or found:  # where none fits, the function says why
        if choice.name == "forget-bias":
            forget_bias(layer, float(choice.value or 0.0))
        elif choice.name == "chrono":
            chrono(layer, int(choice.value or 1))
        elif choice.name == "orthogonal":
            orthogonal(layer)
        elif choice.name == "identity":
            identity(layer)
        elif choice.name == "slstm":
            slstm(layer)
        else:
            layer.reset_parameters()  # type: ignore[operator]
    return module


def _takes(choice: Choice, cell: Cell) -> bool:
    """Whether a cell has what the choice sets."""
    if choice.name in ("forget-bias", "chrono"):
        return "f" in cell.gates or isinstance(cell, (cells.GRU, cells.CIFG, cells.MinGRU))
    if choice.name == "orthogonal":
        return cell.recurrence != "none"
    needed = {"identity": (cells.VanillaRNN, cells.IndRNN), "slstm": cells.SLSTM}
    return isinstance(cell, needed.get(choice.name, Cell))


def _short(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


_KINDS = (Recurrent, OneStep, nn.RNNBase, nn.RNNCellBase)


class _Part(NamedTuple):
    """The parameters of one layer in one direction, of whichever kind of module."""

    cell: Cell
    hidden: int
    w_hh: Any  # [G*H, K], None where there is none
    biases: tuple[Tensor, ...]  # [G*H] each, which add up; the first carries values

    @property
    def heads(self) -> int:
        """So many blocks of weights make up the recurrent matrix of a gate."""
        return self.hidden if self.cell.recurrence == "elementwise" else self.cell.heads

    def block(self, array: Tensor, gate: str) -> Tensor:
        """The rows of one gate, as a view."""
        rows = weights.gate_rows(self.cell, self.hidden)
        n = self.cell.gates.index(gate)
        return array[sum(rows[:n]) : sum(rows[: n + 1])]

    def write(self, gate: str, values: Tensor | float) -> None:
        first, *others = self.biases
        self.block(first, gate)[:] = values
        for bias in others:
            bias.zero_()

    def keeper(self, who: str) -> tuple[str, int]:
        """The gate that keeps the memory, and whether it keeps when it is open (1) or when it is closed (-1)."""
        if not self.biases:
            hint = "make the layer with bias=True"
            raise ArgumentError.of(who, "the layer has no biases", "bias: False", "bias: True", hint)
        if "f" in self.cell.gates:
            return "f", 1
        if isinstance(self.cell, cells.GRU):
            return "z", 1
        if isinstance(self.cell, cells.CIFG):
            return "i", -1
        if isinstance(self.cell, cells.MinGRU):
            return "u", -1
        hint = "use a layer of LSTM, CIFG or GRU cells"
        raise ArgumentError.of(who, "the cell has no gate that forgets", brief(self.cell), "a cell with f or z", hint)


def _parts(who: str, module: nn.Module) -> Iterator[_Part]:
    """Every layer and direction of any recurrent module."""
    cell, places = _places(who, module)
    for place in places:
        names = ["weight_hh", "bias_ih", "bias_hh", *(f"norm_{part}_bias" for part in "xh" if part in cell.norms)]
        w_hh, *biases = (_own(who, module, f"{name}{place}") for name in names)
        there = tuple(bias for bias in biases if bias is not None)
        yield _Part(cell, int(module.hidden_size), w_hh, there)  # type: ignore[arg-type]


def _places(who: str, module: Any) -> tuple[Cell, list[str]]:
    """The cell of a recurrent module, and the ends of its parameters' names."""
    if isinstance(module, (Recurrent, OneStep)):
        cell: Cell = module.cell
    elif isinstance(module, (nn.LSTM, nn.LSTMCell)):
        cell = cells.LSTM()
    elif isinstance(module, (nn.GRU, nn.GRUCell)):
        cell = cells.GRU()
    elif isinstance(module, (nn.RNN, nn.RNNCell)):
        cell = cells.VanillaRNN(module.nonlinearity)  # type: ignore[arg-type]
    else:
        hint = "pass the recurrent layer inside the model"
        raise DtypeError.of(who, "not a recurrent module", type(module).__name__, "LSTM, GRU, RNN or one of their cells", hint)
    if isinstance(module, (OneStep, nn.RNNCellBase)):
        return cell, [""]
    layers, directions = range(int(module.num_layers)), range(2 if module.bidirectional else 1)  # type: ignore[arg-type]
    return cell, [weights.suffix(k, d) for k in layers for d in directions]


def _own(who: str, module: nn.Module, name: str) -> Any:
    """A parameter that can be written to; a parametrised one would be computed anew and lose what was written."""
    value = getattr(module, name, None)
    if value is not None and value is not module._parameters.get(name):
        hint = "initialise first, then add the parametrisation"
        raise ArgumentError.of(who, f"{name} is parametrised", "a computed weight", "a plain parameter", hint)
    return value
