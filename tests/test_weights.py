"""Names, shapes and gate orders of weights, against torch's own layers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from openlstm import weights
from openlstm._errors import ArgumentError
from openlstm.cells import LSTM, VanillaRNN
from openlstm.reference import Weights


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize("proj_size", [0, 2], ids=["plain", "projected"])
def test_shapes_of_an_lstm_are_those_of_torch(proj_size: int, bias: bool) -> None:
    layer = torch.nn.LSTM(3, 5, proj_size=proj_size, bias=bias)
    expected = [(name.removesuffix("_l0"), tuple(p.shape)) for name, p in layer.named_parameters()]
    assert list(weights.shapes(LSTM(), 3, 5, proj_size, bias).items()) == expected


def test_shapes_of_an_rnn_are_those_of_torch() -> None:
    expected = [(name.removesuffix("_l0"), tuple(p.shape)) for name, p in torch.nn.RNN(3, 5).named_parameters()]
    assert list(weights.shapes(VanillaRNN(), 3, 5).items()) == expected


def test_collect_takes_the_right_ones() -> None:
    layer = torch.nn.LSTM(3, 5, num_layers=2, bidirectional=True, proj_size=2)
    named = dict(layer.named_parameters())
    seen = []
    for index, direction in itertools.product(range(2), range(2)):
        w = weights.collect(named, index, direction)
        end = weights.suffix(index, direction)
        for (name, _), p in zip(weights.FIELDS, w, strict=True):
            assert p is named.get(name + end)
            seen += [name + end] if p is not None else []
    assert sorted(seen) == sorted(named)


def test_collect_leaves_out_what_is_missing() -> None:
    w = weights.collect(dict(torch.nn.LSTM(3, 5, bias=False).named_parameters()))
    assert (w.b_ih, w.b_hh, w.w_hr) == (None, None, None) and w.w_ih is not None


def test_fields_are_those_of_weights() -> None:
    assert tuple(field for _, field in weights.FIELDS) == ("w_ih", "w_hh", "b_ih", "b_hh", "w_hr", "w_ch") == Weights._fields


def test_suffixes() -> None:
    assert [weights.suffix(k, d) for k in (0, 11) for d in (0, 1)] == ["_l0", "_l0_reverse", "_l11", "_l11_reverse"]


def test_every_order_holds_each_gate_once() -> None:
    assert {name: "".join(sorted(order)) for name, order in weights.GATE_ORDERS.items()} == dict.fromkeys(
        weights.GATE_ORDERS, "fgio"
    )


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(weights.GATE_ORDERS, 2)))
def test_reorder_moves_each_block_to_its_place_and_back(source: str, target: str, kind: str) -> None:
    numbers = np.arange(24.0).reshape(12, 2)  # H = 3: rows 3k .. 3k+2 belong to the k-th gate
    array = torch.from_numpy(numbers) if kind == "torch" else numbers
    moved = weights.reorder(array, source, target)
    for gate in "ifgo":
        was, is_now = weights.GATE_ORDERS[source].index(gate), weights.GATE_ORDERS[target].index(gate)
        assert (moved[3 * is_now : 3 * is_now + 3] == array[3 * was : 3 * was + 3]).all()
    back = weights.reorder(moved, target, source)
    assert type(back) is type(array) and back.tolist() == array.tolist()


def test_unknown_order() -> None:
    with pytest.raises(ArgumentError) as caught:
        weights.reorder(np.zeros(4), "openlstm", "caffe")
    assert str(caught.value) == (
        "weights.reorder: unknown gate order 'caffe'\n"
        "  got       'caffe'\n"
        "  expected  coreml, equinox, flax, haiku, haste, keras, onnx, openlstm, openvino, torch\n"
        "  hint      name one of these packages"
    )
