"""Names, shapes and gate orders of weights, against torch's own layers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import projectable

from openlstm import cells, weights
from openlstm.cells import FGR, GRU, LSTM, LSTM1997, Cell, LayerNormLSTM, VanillaRNN
from openlstm.errors import ArgumentError, ShapeError
from openlstm.weights import Weights

BLOCKS = [LSTM(cells_per_gate=3), LSTM1997(cells_per_gate=2), LSTM(cells_per_gate=6)]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize("proj_size", [0, 2], ids=["plain", "projected"])
def test_shapes_of_an_lstm_are_those_of_torch(proj_size: int, bias: bool) -> None:
    layer = torch.nn.LSTM(3, 5, proj_size=proj_size, bias=bias)
    expected = [(name.removesuffix("_l0"), tuple(p.shape)) for name, p in layer.named_parameters()]
    assert list(weights.shapes(LSTM(), 3, 5, proj_size, bias).items()) == expected


def test_shapes_of_an_rnn_are_those_of_torch() -> None:
    expected = [(name.removesuffix("_l0"), tuple(p.shape)) for name, p in torch.nn.RNN(3, 5).named_parameters()]
    assert list(weights.shapes(VanillaRNN(), 3, 5).items()) == expected


def test_shapes_of_a_gru_are_those_of_torch() -> None:
    expected = [(name.removesuffix("_l0"), tuple(p.shape)) for name, p in torch.nn.GRU(3, 5).named_parameters()]
    assert list(weights.shapes(GRU(), 3, 5).items()) == list(weights.shapes(GRU(memory=True), 3, 5).items()) == expected


EVERY = [*cells.ALL, GRU(memory=True), *BLOCKS, LSTM(heads=3), LSTM(heads=2, cells_per_gate=3), cells.SLSTM(heads=6)]


@pytest.mark.parametrize(("cell", "proj_size"), [(c, P) for c in EVERY for P in (0, 2) if not P or projectable(c)], ids=repr)
def test_shapes_fit_the_traits_and_tell_the_hidden_size(cell: Cell, proj_size: int) -> None:
    I, H = 3, 6
    named = weights.shapes(cell, I, H, proj_size)
    rows = sum(weights.gate_rows(cell, H))
    shared = len(cell.gates) - (cell.candidate is not None)
    assert rows == len(cell.gates) * H - shared * (H - H // cell.cells_per_gate)
    R = weights.fed_back_size(cell, H, proj_size)
    assert R == (proj_size or (4 * H if cell == FGR() else H))
    K = {"dense": R // cell.heads, "elementwise": 1, "none": 0}[cell.recurrence]
    assert weights.recurrent_size(cell, R) == K
    expected: dict[str, tuple[int, ...]] = {"weight_ih": (rows, I), **({"weight_hh": (rows, K)} if K else {})}
    expected |= {"bias_ih": (rows,), **({"bias_hh": (rows,)} if K else {}), **({"weight_hr": (2, H)} if proj_size else {})}
    expected |= {"weight_ch": (len(cell.peepholes) * H,)} if cell.peepholes else {}
    if cell == LayerNormLSTM():
        sizes = {"x": 4 * H, "h": 4 * H, "c": H}
        expected |= {f"norm_{part}_{kind}": (n,) for part, n in sizes.items() for kind in ("weight", "bias")}
    assert list(named.items()) == list(expected.items())
    w = weights.collect({f"{name}_l0": np.zeros(shape) for name, shape in named.items()})
    assert weights.hidden_size(cell, w) == H
    networks = Weights(*(None if a is None else np.zeros((7, *a.shape)) for a in w))
    assert weights.hidden_size(cell, networks) == H  # whatever stands in front


@pytest.mark.parametrize("networks", [(), (3,)], ids=["one", "several"])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("cell", BLOCKS, ids=repr)
def test_expand_repeats_each_row_of_a_gate_and_collapse_adds_up(cell: Cell, kind: str, networks: tuple[int, ...]) -> None:
    rng, m, H = np.random.default_rng(0), cell.cells_per_gate, 6
    named = {f"{name}_l0": rng.standard_normal((*networks, *shape)) for name, shape in weights.shapes(cell, 2, H).items()}
    w = weights.collect(named)
    w = Weights(*(None if a is None else torch.from_numpy(a) for a in w)) if kind == "torch" else w
    wide = weights.expand(cell, w)
    assert type(wide.w_ih) is type(w.w_ih) and weights.hidden_size(cell.unshared(), wide) == H
    for name, axis in (("w_ih", -2), ("w_hh", -2), ("b_ih", -1), ("b_hh", -1)):
        small, large = np.asarray(getattr(w, name)), np.asarray(getattr(wide, name))
        start = 0
        for k, gate in enumerate(cell.gates):
            own = H if gate == "g" else H // m
            for u in range(H):
                row = start + (u if gate == "g" else u // m)
                assert (large.take(k * H + u, axis) == small.take(row, axis)).all()
            start += own
    other = Weights(*(None if a is None else a + 1 for a in wide))
    back = weights.collapse(cell, other, H)
    for name in ("w_ih", "w_hh", "b_ih", "b_hh"):  # the transpose of expand: <expand(w), other> = <w, collapse(other)>
        a = (np.asarray(getattr(wide, name)) * np.asarray(getattr(other, name))).sum()
        b = (np.asarray(getattr(w, name)) * np.asarray(getattr(back, name))).sum()
        assert a == pytest.approx(b, rel=1e-12)
    assert weights.expand(LSTM(), w) is w and weights.collapse(LSTM(), w, H) is w


def test_a_hidden_size_that_is_not_made_of_blocks_is_refused() -> None:
    with pytest.raises(ArgumentError) as caught:
        weights.shapes(LSTM(cells_per_gate=4), 3, 10)
    assert str(caught.value) == (
        "LSTM: hidden_size 10 is not made of blocks of 4\n"
        "  got       hidden_size=10\n"
        "  expected  a multiple of cells_per_gate=4\n"
        "  hint      take hidden_size=8, or another cells_per_gate"
    )


def test_a_projection_of_a_cell_that_feeds_its_gates_back_is_refused() -> None:
    with pytest.raises(ArgumentError) as caught:
        weights.shapes(FGR(), 3, 5, 2)
    assert str(caught.value) == (
        "FGR: cannot be projected: it feeds its gates back\n"
        "  got       proj_size=2\n"
        "  expected  proj_size=0\n"
        "  hint      take proj_size=0, or cells.Peephole(), which feeds back its output alone"
    )


def test_collect_takes_the_right_ones() -> None:
    layer = torch.nn.LSTM(3, 5, num_layers=2, bidirectional=True, proj_size=2)
    named = dict(layer.named_parameters())
    seen = []
    for index, direction in itertools.product(range(2), range(2)):
        w = weights.collect(named, index, direction)
        end = weights.suffix(index, direction)
        assert w.norm is None
        for name, field in weights.FIELDS:
            p = getattr(w, field)
            assert p is named.get(name + end)
            seen += [name + end] if p is not None else []
    assert sorted(seen) == sorted(named)


def test_collect_leaves_out_what_is_missing() -> None:
    w = weights.collect(dict(torch.nn.LSTM(3, 5, bias=False).named_parameters()))
    assert (w.b_ih, w.b_hh, w.w_hr) == (None, None, None) and w.w_ih is not None


def test_fields_are_those_of_weights() -> None:
    own = tuple(field for _, field in weights.FIELDS)
    assert own == ("w_ih", "w_hh", "b_ih", "b_hh", "w_hr", "w_ch") and (*own, "norm") == Weights._fields


@pytest.mark.parametrize("networks", [(), (3,)], ids=["one", "several"])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_the_parts_of_norm_lie_in_order_and_take_up_the_biases(kind: str, networks: tuple[int, ...]) -> None:
    cell, H, rng = LayerNormLSTM(), 2, np.random.default_rng(0)
    named: Any = {f"{n}_l0": rng.standard_normal((*networks, *shape)) for n, shape in weights.shapes(cell, 3, H).items()}
    named = {name: torch.from_numpy(a) for name, a in named.items()} if kind == "torch" else named
    w = weights.collect(named)
    order = [f"norm_{part}_{what}_l0" for part in "xhc" for what in ("weight", "bias")]
    assert (np.asarray(w.norm) == np.concatenate([np.asarray(named[name]) for name in order], -1)).all()
    wide: Any = weights.expand(cell, w)
    assert wide.b_ih is None and wide.b_hh is None and weights.expand(cell, wide) is wide
    more: Any = {"norm_x_bias_l0": named["bias_ih_l0"], "norm_h_bias_l0": named["bias_hh_l0"]}
    assert (np.asarray(wide.norm) == np.concatenate([np.asarray(named[n] + more.get(n, 0)) for n in order], -1)).all()
    back: Any = weights.collapse(cell, wide, H)
    assert (np.asarray(back.b_ih) == np.asarray(wide.norm)[..., 8:16]).all()
    assert (np.asarray(back.b_hh) == np.asarray(wide.norm)[..., 24:32]).all()
    assert weights.collapse(cell, wide, H, bias=False).b_ih is None
    assert not np.shares_memory(np.asarray(back.b_ih), np.asarray(wide.norm))


def test_the_suffix_of_a_parameter_names_its_layer_and_direction() -> None:
    assert [weights.suffix(k, d) for k in (0, 11) for d in (0, 1)] == ["_l0", "_l0_reverse", "_l11", "_l11_reverse"]


def test_every_order_holds_each_gate_once() -> None:
    assert {name: "".join(sorted(order)) for name, order in weights.GATE_ORDERS.items()} == dict.fromkeys(
        weights.GATE_ORDERS, "fgio"
    )


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_reorder_moves_each_block_to_its_place_and_back(kind: str) -> None:
    numbers = np.arange(24.0).reshape(12, 2)  # H = 3: rows 3k .. 3k+2 belong to the k-th gate
    array = torch.from_numpy(numbers) if kind == "torch" else numbers
    for source, target in itertools.permutations(weights.GATE_ORDERS, 2):
        moved = weights.reorder(array, source, target, 3)
        for gate in "ifgo":
            was, is_now = weights.GATE_ORDERS[source].index(gate), weights.GATE_ORDERS[target].index(gate)
            assert (moved[3 * is_now : 3 * is_now + 3] == array[3 * was : 3 * was + 3]).all(), (source, target)
        back = weights.reorder(moved, target, source, 3)
        assert type(back) is type(array) and back.tolist() == array.tolist(), (source, target)


def test_reorder_knows_the_three_gates_of_a_gru() -> None:
    array = np.arange(6)[:, None]
    assert weights.reorder(array, "keras", "openlstm", 2, weights.GRU_GATE_ORDERS).ravel().tolist() == [2, 3, 0, 1, 4, 5]
    with pytest.raises(ShapeError) as caught:
        weights.reorder(np.zeros(8), "keras", "openlstm", 2, weights.GRU_GATE_ORDERS)
    assert str(caught.value) == (
        "weights.reorder: 8 rows are not the three gates of a GRU\n"
        "  got       array: float64[8], hidden_size=2\n"
        "  expected  [6, ...] = [3*H, ...]\n"
        "  hint      pass weight_ih, weight_hh or a bias of a GRU; the gates of an LSTM are others"
    )


def test_an_unknown_gate_order_is_refused() -> None:
    with pytest.raises(ArgumentError) as caught:
        weights.reorder(np.zeros(4), "openlstm", "caffe")
    assert str(caught.value) == (
        "weights.reorder: unknown gate order 'caffe'\n"
        "  got       'caffe'\n"
        "  expected  coreml, equinox, flax, haiku, haste, keras, onnx, openlstm, openvino, torch\n"
        "  hint      name one of these packages"
    )


@pytest.mark.parametrize("kind", [np.zeros, torch.zeros], ids=["numpy", "torch"])
def test_reorder_takes_nothing_but_four_gates(kind: Any) -> None:
    """Rows that would be dropped, or mixed, in silence: a GRU has three blocks, and 12 rows may be either."""
    for n in range(1, 40):
        whole = n % 4 == 0 and n % 3 != 0
        for shape in ((n,), (n, 5)):
            if whole:
                assert weights.reorder(kind(shape), "torch", "onnx").shape == shape
            else:
                with pytest.raises(ShapeError):
                    weights.reorder(kind(shape), "torch", "onnx")
        for H in range(12):
            if H and n == 4 * H:
                assert weights.reorder(kind((n, 5)), "torch", "onnx", H).shape == (n, 5)
            else:
                with pytest.raises(ShapeError):
                    weights.reorder(kind((n, 5)), "torch", "onnx", H)
    with pytest.raises(ShapeError):
        weights.reorder(kind(()), "torch", "onnx")


@pytest.mark.parametrize(
    ("shape", "hidden", "text"),
    [
        (
            (9,),
            None,
            "weights.reorder: 9 rows are not the four gates of an LSTM\n"
            "  got       array: float64[9]\n"
            "  expected  [4*H, ...]\n"
            "  hint      pass weight_ih, weight_hh or a bias of an LSTM; the gates of a GRU are others",
        ),
        (
            (12, 4),
            4,
            "weights.reorder: 12 rows are not the four gates of an LSTM\n"
            "  got       array: float64[12, 4], hidden_size=4\n"
            "  expected  [16, ...] = [4*H, ...]\n"
            "  hint      pass weight_ih, weight_hh or a bias of an LSTM; the gates of a GRU are others",
        ),
        (
            (12, 4),
            None,
            "weights.reorder: 12 rows are an LSTM of 3 units or a GRU of 4\n"
            "  got       array: float64[12, 4]\n"
            "  expected  [4*H, ...], and H\n"
            "  hint      pass hidden_size=3 if they are an LSTM's",
        ),
    ],
)
def test_reorder_refuses_what_are_not_four_gates_with_this_text(shape: tuple[int, ...], hidden: int | None, text: str) -> None:
    with pytest.raises(ShapeError) as caught:
        weights.reorder(np.zeros(shape), "openlstm", "onnx", hidden)
    assert str(caught.value) == text
