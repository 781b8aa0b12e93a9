"""`LSTM` and `RNN`: torch.nn's layers with the gates open, ragged batches and resets.

Legend: T time, B batch, I input size, H hidden size, P projected size, R what is fed back (P with a projection, else H),
L layers, D directions (1 or 2), G gates of a cell.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from openlstm import cells, weights
from openlstm._errors import ArgumentError, message
from openlstm.cells import Cell
from openlstm.engine.op import Ran, Result, runs_as, sequence
from openlstm.engine.support import choose
from openlstm.nn import checks
from openlstm.nn.convert import convert, expect
from openlstm.nn.form import Arguments, Form
from openlstm.reference import State, Weights


class Recurrent(nn.Module):
    """What LSTM and RNN share: parameters named as in torch.nn, layers and directions, input forms, lengths and resets."""

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        backend: str = "auto",
        check_finite: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        who = type(self).__name__
        checks.sizes(who, input_size, hidden_size, num_layers, proj_size)
        checks.flags(who, bias=bias, batch_first=batch_first, bidirectional=bidirectional, check_finite=check_finite)
        checks.rate(who, dropout)
        if dropout > 0 and num_layers == 1:
            warnings.warn(f"{who}: dropout={dropout} has no effect with num_layers=1; it acts between layers", stacklevel=3)
        self.cell = cell
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self.backend = backend
        self.check_finite = check_finite
        for layer in range(num_layers):
            width = input_size if layer == 0 else (proj_size or hidden_size) * self.num_directions
            for direction in range(self.num_directions):
                end = weights.suffix(layer, direction)
                for name, shape in weights.shapes(cell, width, hidden_size, proj_size, bias).items():
                    setattr(self, name + end, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()

    @property
    def num_directions(self) -> int:
        """2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def all_weights(self) -> list[list[nn.Parameter]]:
        """The parameters of each layer and direction, in torch.nn's order."""
        return [
            [w for w in self.weights_of(layer, direction) if w is not None]
            for layer in range(self.num_layers)
            for direction in range(self.num_directions)
        ]

    def weights_of(self, layer: int, direction: int = 0) -> Weights:
        """The parameters of one layer in one direction, read by attribute, so that parametrisations and tying hold."""
        end = weights.suffix(layer, direction)
        return Weights(
            getattr(self, "weight_ih" + end),
            getattr(self, "weight_hh" + end),
            getattr(self, "bias_ih" + end) if self.bias else None,
            getattr(self, "bias_hh" + end) if self.bias else None,
            getattr(self, "weight_hr" + end) if self.proj_size else None,
        )

    def reset_parameters(self) -> None:
        """Draw every parameter from U(-1/sqrt(H), 1/sqrt(H)), in the order and with the bits of torch.nn."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def flatten_parameters(self) -> None:
        """Does nothing: there is no packed copy that could go stale (kept for code written for torch.nn)."""

    def backend_used(self, x: Any) -> str:
        """The name of the backend that a call with `x` will run on."""
        data = x.data if isinstance(x, PackedSequence) else x
        return choose(self.backend, self.cell, runs_as(data), type(self).__name__, bool(self.proj_size))

    def extra_repr(self) -> str:
        shown = {"proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        shown |= {"backend": "auto", "check_finite": False}
        parts = [f"{name}={getattr(self, name)!r}" for name, default in shown.items() if getattr(self, name) != default]
        return ", ".join([str(self.input_size), str(self.hidden_size), *parts])

    def _call(self, x: Any, hx: Any, lengths: Any, reset: Any, reset_state: Any) -> tuple[Any, State]:
        """Bring every input form to [T, B, I], run, and bring the outputs back."""
        if isinstance(x, PackedSequence):
            return self._packed(x, hx, lengths, reset, reset_state)
        form = Form.of(self, x)
        y, state, _ = self.layers(form.enter(self, x, hx, lengths, reset, reset_state))
        return form.leave(y), form.leave_state(state)

    def _packed(self, x: PackedSequence, hx: Any, lengths: Any, reset: Any, reset_state: Any) -> tuple[Any, State]:
        checks.no_lengths(type(self).__name__, lengths)
        rows = x.sorted_indices  # rows run in the order in which they are packed
        padded, real = pad_packed_sequence(PackedSequence(x.data, x.batch_sizes))  # [T, B, I], [B]
        given = Form(batched=True, batch_first=False).enter(self, padded, hx, real, reset, reset_state)
        if rows is not None:
            given = given._replace(
                hx=given.hx and _rows(given.hx, rows),
                reset=None if given.reset is None else given.reset[:, rows],
                reset_state=given.reset_state and _rows(given.reset_state, rows),
            )
        y, state, _ = self.layers(given, packed=real)
        out = PackedSequence(pack_padded_sequence(y, real).data, x.batch_sizes, rows, x.unsorted_indices)
        return out, state if x.unsorted_indices is None else _rows(state, x.unsorted_indices)

    def layers(
        self,
        given: Arguments,
        *,
        save: bool = False,
        packed: Tensor | None = None,
        run: Callable[..., Result] = sequence,
    ) -> tuple[Tensor, State, list[Ran]]:
        """Run every layer and direction: y [T, B, D*R], states [L*D, B, .], one `Ran` for each; `packed` are lengths on CPU."""
        ran: list[Ran] = []
        D = self.num_directions
        x = given.x
        for layer in range(self.num_layers):
            if layer and self.dropout and self.training:
                x = self._drop(x, packed)
            for direction in range(D):
                k = layer * D + direction
                w = self.weights_of(layer, direction)
                state = self._zero_state(x, w) if given.hx is None else _of(given.hx, k)
                fresh = None if given.reset_state is None else _of(given.reset_state, k)
                result = run(
                    self.cell,
                    x,
                    w,
                    state,
                    lengths=given.lengths,
                    reset=given.reset,
                    reset_state=fresh,
                    reverse=bool(direction),
                    backend=self.backend,
                    save=save,
                    check_finite=self.check_finite and layer == 0,
                )
                ran.append(Ran(x, w, state, fresh, bool(direction), result))
            x = ran[-1].result.y if D == 1 else torch.cat([r.result.y for r in ran[-D:]], -1)  # [T, B, D*R]
        h = _join([r.result.h_n for r in ran])  # [L*D, B, R]
        c = _join([r.result.c_n for r in ran]) if self.cell.has_cell else None
        return x, State(h, c), ran

    def _drop(self, x: Tensor, packed: Tensor | None) -> Tensor:
        """Dropout between layers; on packed input torch.nn draws one mask per real step, so that is what is done."""
        if packed is None:
            return nn.functional.dropout(x, self.dropout, True)
        steps = pack_padded_sequence(x, packed)
        data = nn.functional.dropout(steps.data, self.dropout, True)
        return pad_packed_sequence(PackedSequence(data, steps.batch_sizes))[0]

    def _zero_state(self, x: Tensor, w: Weights) -> State:
        B = x.shape[1]
        return State(x.new_zeros(B, w.w_hh.shape[1]), x.new_zeros(B, self.hidden_size) if self.cell.has_cell else None)


def _of(state: State, k: int) -> State:
    return State(state.h[k], None if state.c is None else state.c[k])


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0].unsqueeze(0) if len(parts) == 1 else torch.stack(parts)


def _rows(state: State, order: Tensor) -> State:
    """The state [L*D, B, .] with its rows in another order."""
    return State(*(None if s is None else s.index_select(1, order) for s in state))


class LSTM(Recurrent):
    """Long short-term memory over a sequence: torch.nn.LSTM's arguments, parameters, numbers; ragged batches and resets.

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
        cell: the recurrence, `openlstm.cells.LSTM()` if None.
        backend: "auto", "cpu", "cuda" or "reference"; a named one is never replaced by another.
        check_finite: refuse NaN and infinity in x.

    A call `lstm(x, (h0, c0), lengths=..., reset=..., reset_state=...)`:
        x: [T, B, I], [B, T, I] with batch_first, [T, I] unbatched, or a PackedSequence.
        (h0, c0): [L*D, B, R] and [L*D, B, H] ([L*D, R], [L*D, H] unbatched); zeros if None.
        lengths: integers [B], list or tensor: a ragged batch without packing. Outputs past a row's length are exactly 0,
            x there is never read, h_n and c_n are those at the row's last real step.
        reset: bool [T, B] ([B, T] with batch_first, [T] unbatched): before step t the row's state becomes zero, or
            `reset_state` where given; never the carried-in state. It cuts between t-1 and t for both directions.
        reset_state: (h, c) shaped as (h0, c0).

    Returns:
        y [T, B, D*R] in the form of x, and (h_n, c_n) in the form of (h0, c0).

    Raises:
        ShapeError, DtypeError, ArgumentError: where an argument does not fit; the message says what would.
        BackendError: where the named backend cannot run this.

    `isinstance(layer, torch.nn.LSTM)` is False: torch.compile refuses subclasses of torch.nn.LSTM.

    Source: Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000; projection: Sak, Senior & Beaufays 2014.

    >>> import torch, openlstm
    >>> lstm = openlstm.LSTM(3, 5)
    >>> y, (h, c) = lstm(torch.zeros(7, 2, 3), lengths=[7, 4])
    >>> y.shape, h.shape, c.shape
    (torch.Size([7, 2, 5]), torch.Size([1, 2, 5]), torch.Size([1, 2, 5]))
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
        device: Any = None,
        dtype: Any = None,
        *,
        cell: Cell | None = None,
        backend: str = "auto",
        check_finite: bool = False,
    ) -> None:
        cell = cells.LSTM() if cell is None else cell
        checks.cell("LSTM", cell)
        super().__init__(
            cell,
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            backend=backend,
            check_finite=check_finite,
            device=device,
            dtype=dtype,
        )

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
        return convert("LSTM.from_torch", "the layer", layer, LSTM, "proj_size")

    def to_torch(self) -> nn.LSTM:
        """The same layer as torch.nn's: same arguments, same mode, same Parameter objects.

        Raises:
            ArgumentError: for a cell that torch.nn does not have, or where something would be lost.
        """
        if self.cell != cells.LSTM():
            what, hint = f"torch.nn has no {self.cell!r}", "keep the openlstm layer"
            raise ArgumentError(message("LSTM.to_torch", what, f"cell: {self.cell!r}", "cells.LSTM()", hint))
        return convert("LSTM.to_torch", "the layer", self, nn.LSTM, "proj_size")

    def forward(
        self,
        input: Any,
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        lengths: Any = None,
        reset: Tensor | None = None,
        reset_state: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Any, tuple[Tensor, Tensor]]:
        """See the class."""
        y, state = self._call(input, hx, lengths, reset, reset_state)
        assert state.c is not None
        return y, (state.h, state.c)


class RNN(Recurrent):
    """The recurrence without a highway: torch.nn.RNN's arguments, parameters and numbers; ragged batches and resets.

        h' = tanh(z)  or  relu(z),   z = x W_ih^T + b_ih + h W_hh^T + b_hh

    Args and call as in `LSTM`, but the state is h alone, there is no projection, and
        nonlinearity: "tanh" or "relu".

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
        device: Any = None,
        dtype: Any = None,
        *,
        backend: str = "auto",
        check_finite: bool = False,
    ) -> None:
        super().__init__(
            cells.VanillaRNN(nonlinearity),  # type: ignore[arg-type]
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            backend=backend,
            check_finite=check_finite,
            device=device,
            dtype=dtype,
        )
        self.nonlinearity = nonlinearity

    @classmethod
    def from_torch(cls, layer: nn.RNN) -> RNN:
        """As `LSTM.from_torch`."""
        expect("RNN.from_torch", layer, nn.RNN)
        return convert("RNN.from_torch", "the layer", layer, RNN, "nonlinearity")

    def to_torch(self) -> nn.RNN:
        """As `LSTM.to_torch`."""
        return convert("RNN.to_torch", "the layer", self, nn.RNN, "nonlinearity")

    def forward(
        self,
        input: Any,
        hx: Tensor | None = None,
        *,
        lengths: Any = None,
        reset: Tensor | None = None,
        reset_state: Tensor | None = None,
    ) -> tuple[Any, Tensor]:
        """See the class."""
        y, state = self._call(input, hx, lengths, reset, reset_state)
        return y, state.h

    def extra_repr(self) -> str:
        shown = super().extra_repr()
        return shown if self.nonlinearity == "tanh" else f"{shown}, nonlinearity={self.nonlinearity!r}"
