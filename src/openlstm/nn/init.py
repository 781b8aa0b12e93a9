"""Ways to begin: biases of gates and recurrent matrices that decide before training how long a layer can remember.

Each function writes into a layer that is already there, in every layer and direction of it, and returns that layer. A bias is
written into `bias_ih` and the whole of `bias_hh` becomes zero, so that their sum is what was asked for.

Legend: H hidden size, R what is fed back, G gates of a cell.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from openlstm._errors import ArgumentError, message
from openlstm.nn.recurrent import Recurrent
from openlstm.reference import Weights

L = TypeVar("L", bound=Recurrent)


@torch.no_grad()
def forget_bias(layer: L, value: float) -> L:
    """Set the bias of every forget gate, so that it begins at sigmoid(value): 1 gives 0.73, 3 gives 0.95.

    Source: Gers, Schmidhuber & Cummins 2000; Jozefowicz, Zaremba & Sutskever 2015.

    Raises:
        ArgumentError: for a layer without a forget gate or without biases.

    >>> import openlstm
    >>> layer = openlstm.nn.init.forget_bias(openlstm.LSTM(3, 2), 1.0)
    >>> layer.bias_ih_l0[2:4].tolist(), layer.bias_hh_l0.abs().max().item()
    ([1.0, 1.0], 0.0)
    """
    for w in _biased("forget_bias", layer, "f"):
        _write(layer, w, "f", value)
    return layer


@torch.no_grad()
def chrono(layer: L, lag: int, *, generator: torch.Generator | None = None) -> L:
    """Set the gates for a lag: forget gates that hold for between one and 2*lag steps, input gates that open as rarely.

        b_f = ln u,  u ~ U(1, 2 lag - 1);   b_i = -b_f

    A unit with f = sigmoid(b_f) keeps its cell for about 1/(1 - f) = 1 + u steps. The T_max of the paper is 2*lag here: half of
    the units then hold for longer than the lag itself, which is what was measured to learn it.

    Args:
        lag: steps over which something has to be kept, >= 1.
        generator: for the draw; the global one if None.

    Source: Tallec & Ollivier 2018, section 3.

    Raises:
        ArgumentError: for a lag below 1, or a layer without input and forget gates or without biases.

    >>> import openlstm
    >>> layer = openlstm.nn.init.chrono(openlstm.LSTM(3, 8), lag=120)
    >>> bool((layer.bias_ih_l0[8:16] <= 5.5).all()), bool((layer.bias_ih_l0[:8] == -layer.bias_ih_l0[8:16]).all())
    (True, True)
    """
    if lag < 1:
        raise ArgumentError(message("chrono", f"lag is {lag}", f"lag: {lag}", "lag >= 1", "count the steps to be bridged"))
    for w in _biased("chrono", layer, "if"):
        b_f = w.w_ih.new_empty(layer.hidden_size).uniform_(1, 2 * lag - 1, generator=generator).log_()  # [H]
        _write(layer, w, "f", b_f)
        _write(layer, w, "i", -b_f)
    return layer


@torch.no_grad()
def orthogonal(layer: L, gain: float = 1.0, *, generator: torch.Generator | None = None) -> L:
    """Make the recurrent matrix of every gate orthogonal (times `gain`), so that it neither shrinks nor stretches what passes.

    Source: Saxe, McClelland & Ganguli 2014; for recurrence Henaff, Szlam & LeCun 2016.

    >>> import torch, openlstm
    >>> w = openlstm.nn.init.orthogonal(openlstm.RNN(3, 4)).weight_hh_l0
    >>> torch.allclose(w @ w.T, torch.eye(4), atol=1e-5)
    True
    """
    for w in _weights(layer):
        for gate in layer.cell.gates:
            nn.init.orthogonal_(_block(layer, w.w_hh, gate), gain, generator=generator)  # [H, R]
    return layer


@torch.no_grad()
def identity(layer: L, scale: float = 1.0) -> L:
    """Begin a vanilla RNN as a copy of its own state: W_hh = scale * identity, biases 0; with relu the IRNN.

    Source: Le, Jaitly & Hinton 2015, section 3.

    Raises:
        ArgumentError: for a layer with gates.

    >>> import openlstm
    >>> openlstm.nn.init.identity(openlstm.RNN(3, 2, nonlinearity="relu")).weight_hh_l0.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if layer.cell.has_cell:
        hint = "use chrono or forget_bias, which let the cell state itself be kept"
        raise ArgumentError(message("identity", "the layer has gates", repr(layer.cell), "a vanilla RNN", hint))
    for w in _weights(layer):
        nn.init.eye_(w.w_hh).mul_(scale)
        for bias in (w.b_ih, w.b_hh):
            if bias is not None:
                bias.zero_()
    return layer


def _weights(layer: Recurrent) -> Iterator[Weights]:
    for k in range(layer.num_layers):
        for direction in range(layer.num_directions):
            yield layer.weights_of(k, direction)


def _biased(who: str, layer: Recurrent, gates: str) -> Iterator[Weights]:
    missing = [gate for gate in gates if gate not in layer.cell.gates]
    if missing:
        names = " and ".join(missing)
        hint = "use a layer of LSTM cells"
        raise ArgumentError(
            message(who, f"the cell has no gate {names}", repr(layer.cell), f"a cell with {', '.join(gates)}", hint)
        )
    if not layer.bias:
        raise ArgumentError(
            message(who, "the layer has no biases", "bias: False", "bias: True", "make the layer with bias=True")
        )
    return _weights(layer)


def _block(layer: Recurrent, array: Tensor, gate: str) -> Tensor:
    """The H rows of one gate, as a view."""
    n = layer.cell.gates.index(gate)
    return array[n * layer.hidden_size : (n + 1) * layer.hidden_size]


def _write(layer: Recurrent, w: Weights, gate: str, values: Tensor | float) -> None:
    assert w.b_ih is not None and w.b_hh is not None
    _block(layer, w.b_ih, gate)[:] = values
    w.b_hh.zero_()
