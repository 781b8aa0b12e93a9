"""A `Stack` and our layers hold the same numbers, both ways, for every cell, direction and option."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import openlstm
from openlstm import cells
from openlstm.errors import ArgumentError, DtypeError, ShapeError
from openlstm.exchange.backwards import Backwards
from openlstm.exchange.stack import Stack
from openlstm.weights import Weights


def layer_of(cell: cells.Cell, **options: Any) -> Any:
    kind = openlstm.LSTM if cell.has_cell else openlstm.GRU if isinstance(cell, cells.GRU) else openlstm.RNN
    return kind(3, 6, cell=cell, **options).eval()


def same(a: Any, b: Any) -> None:
    assert repr(a) == repr(b)
    mine, theirs = a.state_dict(), b.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[name], theirs[name]) and mine[name].dtype == theirs[name].dtype for name in mine)


@pytest.mark.parametrize("cell", cells.ALL, ids=list(cells.BY_NAME))
def test_a_layer_goes_into_arrays_and_comes_back_as_it_was(cell: cells.Cell) -> None:
    for options in ({}, {"num_layers": 2, "bidirectional": len(cell.feeds_back) == 1, "batch_first": True}, {"bias": False}):
        layer = layer_of(cell, **options)
        stack = Stack.of(layer, "net")
        same(stack.layer(), layer)
        assert stack.name == "net" and stack.parameters == sum(p.numel() for p in layer.parameters())
        assert not stack.layer().training


@pytest.mark.parametrize(
    "layer",
    [
        openlstm.LSTM(3, 6, 2, proj_size=2, bidirectional=True),
        openlstm.GRU(3, 6, proj_size=2),
        openlstm.LSTM(12, 6, cell=cells.LSTM1997(cells_per_gate=3), dtype=torch.float64),
        openlstm.LSTM(24, 6, input_projection=False),
        openlstm.LSTM(3, 6, dtype=torch.float16),
    ],
    ids=["projected", "projected gru", "blocks", "sums", "half"],
)
def test_sizes_and_options_stay(layer: Any) -> None:
    stack = Stack.of(layer)
    same(stack.layer(), layer)
    assert (stack.input_size, stack.hidden_size, stack.proj_size) == (layer.input_size, layer.hidden_size, layer.proj_size)
    assert (stack.layers, stack.directions, stack.bias) == (layer.num_layers, layer.num_directions, layer.bias)


def test_layers_of_torch_are_taken_too() -> None:
    theirs = torch.nn.GRU(3, 5, 2, bidirectional=True)
    same(Stack.of(theirs).layer(), openlstm.GRU.from_torch(theirs))
    with pytest.raises(DtypeError, match="Linear"):
        Stack.of(torch.nn.Linear(3, 5))


def test_bfloat16_becomes_the_same_numbers_in_float32() -> None:
    layer = openlstm.LSTM(3, 6, dtype=torch.bfloat16)
    stack = Stack.of(layer)
    assert stack.notes == ("its numbers are bfloat16; here the same ones are in float32",)
    same(stack.layer(), layer.float())


def test_a_quantised_layer_gives_its_rounded_numbers() -> None:
    quantised = openlstm.quantize(openlstm.LSTM(3, 6).eval())
    stack = Stack.of(quantised)
    assert stack.notes == ("its matrices are in 8 bits; here they are scale * q in float32",)
    assert torch.equal(stack.layer().weight_ih_l0, quantised.weights_of(0).w_ih)


def test_a_bias_that_is_missing_is_zero_where_others_are() -> None:
    w = Weights(np.ones((6, 3)), np.ones((6, 2)), b_hh=np.arange(6.0))
    stack = Stack("n", cells.GRU(), ((w, w._replace(b_hh=None)),))
    layer = stack.layer()
    assert layer.bias_ih_l0.tolist() == [0] * 6 and layer.bias_hh_l0.tolist() == [*range(6)]
    assert layer.bias_hh_l0_reverse.tolist() == [0] * 6


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_reversed_layer_runs_each_row_from_its_last_step(batch_first: bool) -> None:
    both = openlstm.LSTM(3, 5, bidirectional=True, batch_first=batch_first).eval()
    alone = Stack.of(both).weights[0][1]
    stack = Stack("b", cells.LSTM(), ((alone,),), batch_first, reverse=True)
    layer = stack.layer()
    assert isinstance(layer, Backwards) and not layer.training
    x = torch.randn(4, 7, 3) if batch_first else torch.randn(7, 4, 3)
    for lengths in (None, [7, 4, 0, 2]):
        (y, (h, c)), (wanted, (h_n, c_n)) = layer(x, lengths=lengths), both(x, lengths=lengths)
        assert torch.equal(y, wanted[..., 5:]) and torch.equal(h[0], h_n[1]) and torch.equal(c[0], c_n[1])
    x = x[0] if batch_first else x[:, 0]
    for lengths in (None, torch.tensor(3)):
        assert torch.equal(layer(x, lengths=lengths)[0], both(x, lengths=lengths)[0][..., 5:])
    with pytest.raises(ArgumentError, match="8"):
        layer(x, lengths=torch.tensor(8))
    with pytest.raises(ShapeError, match="lengths has shape"):
        layer(x, lengths=[3])
    again = Stack.of(layer, "b")
    assert again.reverse and all((a == b).all() for a, b in zip(again.weights[0][0], alone, strict=True) if a is not None)


def test_a_layer_made_in_inference_mode_can_be_trained_afterwards() -> None:
    with torch.inference_mode():
        layer = Stack.of(torch.nn.LSTM(3, 5)).layer()
    y, _ = layer(torch.randn(4, 2, 3))
    y.sum().backward()
    assert layer.weight_hh_l0.grad.abs().max() > 0


def test_arrays_that_do_not_fit_are_refused() -> None:
    w = Weights(np.zeros((8, 3)), np.zeros((8, 2)))
    with pytest.raises(ShapeError) as caught:
        Stack("encoder", cells.LSTM(), ((w,), (w,)))
    assert str(caught.value) == (
        "encoder: the arrays do not make one layer\n"
        "  got       weight_ih_l1 [8, 3], weight_hh_l1 [8, 2]\n"
        "  expected  weight_ih_l1 [8, 2], weight_hh_l1 [8, 2]\n"
        "  hint      all layers have the same cell, hidden size, directions and biases"
    )
    with pytest.raises(DtypeError) as wrong:
        Stack("encoder", cells.LSTM(), ((w._replace(w_ih=np.zeros((8, 3), np.int8)),),))
    assert str(wrong.value) == (
        "encoder: cannot be the weights of a layer\n"
        "  got       float64, int8\n"
        "  expected  one of float16, float32, float64\n"
        "  hint      convert all arrays to float32"
    )
