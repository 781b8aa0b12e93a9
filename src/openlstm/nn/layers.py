"""`LSTM`, `GRU` and `RNN`: torch.nn's layers with the gates open, any cell, ragged batches, resets and noise in the recurrence.

Legend: T time, B batch, I input size, H hidden size, P projected size, R what is fed back (P with a projection, 4H for FGR,
else H), L layers, D directions (1 or 2), G gates of a cell.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

import torch
from torch import nn

from openlstm import cells
from openlstm.cells import Cell
from openlstm.engine.backends.table import brief
from openlstm.errors import ArgumentError
from openlstm.nn import checks
from openlstm.nn.convert import convert, expect
from openlstm.nn.options import DEFAULTS, Options, visible
from openlstm.nn.recurrent import VANILLA, Recurrent


@visible
class LSTM(Recurrent):
    """Long short-term memory over a sequence: torch.nn.LSTM's arguments, parameters, numbers; and what it has not.

        i, f, o = sigmoid(z_i), sigmoid(z_f), sigmoid(z_o);  g = tanh(z_g),   z = x W_ih^T + b_ih + h W_hh^T + b_hh
        c' = f * c + i * g
        h' = o * tanh(c')            with a projection: h' <- h' W_hr^T

    Args:
        input_size, hidden_size: I and H.
        num_layers: layers on top of each other.
        bias: whether there are b_ih and b_hh.
        batch_first: x and outputs are [B, T, .] instead of [T, B, .]; states are not.
        dropout: rate between layers while training.
        bidirectional: a second pass from the last step to the first; outputs side by side.
        proj_size: P, the width h is projected to; 0 for none.
        device, dtype: of the parameters.
        cell: the recurrence, `openlstm.cells.LSTM()` if None; any with a cell state, your own too (on the reference, slower).
            `cells.LSTM(heads=4)` and others have heads: a unit sees the h of its own group alone, `weight_hh` is [4H, H/heads].
        input_dropout: rate on the input of every layer, one mask [B, I] for all steps of a call (locked dropout).
        hidden_dropout: rate on what is fed back, one mask [B, R] for all steps, inside the sums alone: z = .. + (m*h) W_hh^T.
        recurrent_dropout: rate on the candidate g, drawn at every step; what the cell holds is never dropped.
        zoneout_h, zoneout_c: the probability with which a unit keeps its old h or c at a step.
        weight_dropout: rate on the entries of W_hh, one mask for a call (DropConnect).
        backend: "auto", "cpu", "cuda" or "reference"; a named one is never replaced by another.
        check_finite: refuse NaN and infinity in x.
        checkpoint: keep for the backward pass only the state at every so many steps (rounded up to whole blocks of 512 // B),
            1 .. T, and run the steps between again: one more forward pass, the same bits, memory for T/checkpoint states
            instead of T (G + 1) H B numbers.
        input_projection: False if x already holds the sums of W_ih x of the first layer, gate by gate in the order of
            `cell.gates`: input_size is G*H, that layer has no weight_ih, and the gradient of x is that of the sums.

    Dropout acts while training and scales what it keeps by 1/(1-p); zoneout takes its expectation in eval. All masks follow
    torch.manual_seed.

    A call `lstm(x, (h0, c0), lengths=..., reset=..., reset_state=..., cu_seqlens=...)`:
        x: [T, B, I], [B, T, I] with batch_first, [T, I] unbatched, a PackedSequence, or [total, I] with cu_seqlens.
        (h0, c0): [L*D, B, R] and [L*D, B, H] ([L*D, R], [L*D, H] unbatched); zeros if None.
        lengths: integers [B], list or tensor: a ragged batch without packing. Outputs past a row's length are exactly 0,
            x there is never read, h_n and c_n are those at the row's last real step.
        reset: [T, B] ([B, T] with batch_first, [T] unbatched), bool or 0 and 1 in uint8 or float: before step t the row's state
            becomes zero, or `reset_state` where given; never the carried-in state. It cuts between t-1 and t for both
            directions.
        reset_state: (h, c) shaped as (h0, c0); or [L*D, .], one for all rows, as a parameter that is learned; or
            [L*D, T, B, .] ([L*D, B, T, .] with batch_first), one for each reset: what stands elsewhere is not read.
        cu_seqlens: integers [N+1] from 0 to total: sequence n is x[cu_seqlens[n] : cu_seqlens[n+1]]; a length may be 0. Outputs
            are [total, .], states [L*D, N, .], reset is [total]. A compiled graph breaks here.

    Returns:
        y [T, B, D*R] in the form of x, and (h_n, c_n) in the form of (h0, c0). A cell with more states takes and gives all of
        them, as a named tuple: (h, c, n, m) of `cells.SLSTM`, each [L*D, B, H]. With `cells.FGR`, which feeds back h and three
        gates, h0 and h_n are [L*D, B, 4H]; y is the output alone.

    Raises:
        ShapeError, DtypeError, ArgumentError: where an argument does not fit; the message says what would.
        BackendError: where the named backend cannot run this.

    `isinstance(layer, torch.nn.LSTM)` is False: torch.compile refuses subclasses of torch.nn.LSTM.

    Source: Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000; projection: Sak, Senior & Beaufays 2014; locked
    dropout: Gal & Ghahramani 2016; recurrent dropout: Semeniuta, Severyn & Barth 2016; zoneout: Krueger et al. 2017;
    DropConnect: Merity, Keskar & Socher 2018.

    >>> import torch, openlstm
    >>> lstm = openlstm.LSTM(3, 5)
    >>> y, (h, c) = lstm(torch.zeros(7, 2, 3), lengths=[7, 4])
    >>> y.shape, h.shape, c.shape
    (torch.Size([7, 2, 5]), torch.Size([1, 2, 5]), torch.Size([1, 2, 5]))
    >>> lstm(torch.zeros(11, 3), cu_seqlens=torch.tensor([0, 7, 7, 11]))[0].shape  # rows of 7, 0 and 4 steps
    torch.Size([11, 5])
    >>> y, state = openlstm.LSTM(3, 8, cell=openlstm.cells.SLSTM(heads=2))(torch.zeros(7, 2, 3))
    >>> state.h.shape, state.n.shape
    (torch.Size([1, 2, 8]), torch.Size([1, 2, 8]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        cell: Cell | None = None,
        **options: Unpack[Options],
    ) -> None:
        cell = cells.LSTM() if cell is None else cell
        checks.cell("LSTM", cell, has_cell=True)
        sizes = (input_size, hidden_size, num_layers)
        super().__init__(cell, *sizes, bias, batch_first, dropout, bidirectional, proj_size, device, dtype, **options)

    @classmethod
    def from_torch(cls, layer: nn.LSTM) -> LSTM:
        """The same layer as ours: same arguments, same mode, same Parameter objects.

        Raises:
            DtypeError: for another kind of module.
            ArgumentError: for a subclass, hooks, parametrisations or members of its own, which would be lost.

        >>> import torch, openlstm
        >>> theirs = torch.nn.LSTM(3, 5)
        >>> openlstm.LSTM.from_torch(theirs).weight_ih_l0 is theirs.weight_ih_l0
        True
        """
        expect("LSTM.from_torch", layer, nn.LSTM)
        return convert("LSTM.from_torch", "the layer", layer, LSTM)

    def to_torch(self) -> nn.LSTM:
        """The same layer as torch.nn's: same arguments, same mode, same Parameter objects.

        Raises:
            ArgumentError: for a cell or an option that torch.nn does not have, or where something would be lost.
        """
        _torch_has("LSTM.to_torch", self, cells.LSTM())
        return convert("LSTM.to_torch", "the layer", self, nn.LSTM)


@visible
class GRU(Recurrent):
    """The gated recurrent unit: torch.nn.GRU's arguments, parameters and numbers; and what it has not.

        r, z = sigmoid(..), sigmoid(..)                                   # x W^T + b_ih + h U^T + b_hh
        n = tanh(x W_n^T + b_in + r * (h U_n^T + b_hn))
        h' = (1 - z) * n + z * h

    Args and call as in `LSTM`, but the state is h alone and `cell` is one without a cell state.
        proj_size: keyword; with a projection the unprojected state is carried too, and the state is a pair (h [L*D, B, P],
            c [L*D, B, H]).

    Source: Cho et al. 2014.

    >>> import torch, openlstm
    >>> y, h = openlstm.GRU(3, 5, zoneout_h=0.1)(torch.zeros(7, 2, 3))
    >>> y.shape, h.shape
    (torch.Size([7, 2, 5]), torch.Size([1, 2, 5]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        proj_size: int = 0,
        cell: Cell | None = None,
        **options: Unpack[Options],
    ) -> None:
        cell = cells.GRU() if cell is None else cell
        checks.cell("GRU", cell, has_cell=False)
        if proj_size and isinstance(cell, cells.GRU):
            cell = replace(cell, memory=True)
        sizes = (input_size, hidden_size, num_layers)
        super().__init__(cell, *sizes, bias, batch_first, dropout, bidirectional, proj_size, device, dtype, **options)

    @classmethod
    def from_torch(cls, layer: nn.GRU) -> GRU:
        """As `LSTM.from_torch`."""
        expect("GRU.from_torch", layer, nn.GRU)
        return convert("GRU.from_torch", "the layer", layer, GRU)

    def to_torch(self) -> nn.GRU:
        """As `LSTM.to_torch`."""
        _torch_has("GRU.to_torch", self, cells.GRU())
        return convert("GRU.to_torch", "the layer", self, nn.GRU)


@visible
class RNN(Recurrent):
    """The recurrence without a highway: torch.nn.RNN's arguments, parameters and numbers; and what it has not.

        h' = tanh(z)  or  relu(z),   z = x W_ih^T + b_ih + h W_hh^T + b_hh

    Args and call as in `LSTM`, but the state is h alone and `cell` is one without a cell state, such as `cells.MinGRU()`,
    `cells.MinLSTM()`, which have no weight_hh, `cells.JANET()` or `cells.IndRNN()`.
        nonlinearity: "tanh" or "relu".
        proj_size: keyword; h' <- h' W_hr^T.

    Source: Elman 1990.

    >>> import torch, openlstm
    >>> y, h = openlstm.RNN(3, 5, nonlinearity="relu")(torch.zeros(7, 2, 3))
    >>> y.shape, h.shape
    (torch.Size([7, 2, 5]), torch.Size([1, 2, 5]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        proj_size: int = 0,
        cell: Cell | None = None,
        **options: Unpack[Options],
    ) -> None:
        if cell is None:
            cell = cells.VanillaRNN(nonlinearity)  # type: ignore[arg-type]
        checks.cell("RNN", cell, has_cell=False)
        sizes = (input_size, hidden_size, num_layers)
        super().__init__(cell, *sizes, bias, batch_first, dropout, bidirectional, proj_size, device, dtype, **options)
        self.nonlinearity = getattr(cell, "nonlinearity", nonlinearity)

    @classmethod
    def from_torch(cls, layer: nn.RNN) -> RNN:
        """As `LSTM.from_torch`."""
        expect("RNN.from_torch", layer, nn.RNN)
        return convert("RNN.from_torch", "the layer", layer, RNN)

    def to_torch(self) -> nn.RNN:
        """As `LSTM.to_torch`."""
        _torch_has("RNN.to_torch", self, *VANILLA)
        return convert("RNN.to_torch", "the layer", self, nn.RNN)

    def extra_repr(self) -> str:
        shown = super().extra_repr()
        return (
            shown
            if self.nonlinearity == "tanh" or not isinstance(self.cell, cells.VanillaRNN)
            else f"{shown}, nonlinearity={self.nonlinearity!r}"
        )


def _torch_has(who: str, layer: Recurrent, *known: Cell) -> None:
    """Raise where torch.nn's layer would lack something of ours."""
    hint = "keep the openlstm layer"
    if layer.cell not in known:
        expected = f"cells.{brief(known[0])}"
        what = f"torch.nn has no {brief(layer.cell)}"
        raise ArgumentError.of(who, what, f"cell: {brief(layer.cell)}", expected, hint)
    lost = [f"{name}={getattr(layer, name)!r}" for name, default in DEFAULTS.items() if getattr(layer, name) != default]
    if layer.proj_size and not isinstance(layer, LSTM):
        lost.append(f"proj_size={layer.proj_size}")
    if lost:
        what, hint = "torch.nn's layer has no such option", f"{hint}, or set them to their defaults first"
        raise ArgumentError.of(who, what, ", ".join(lost), "the defaults", hint)
