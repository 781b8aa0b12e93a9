"""DynamicQuantizeLSTM of ONNX Runtime: its integers are kept, and our float32 is as near to it as its rounding allows.

Legend: T time, B batch, I input size, H hidden size, D directions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from tests.exchange.drawn_onnx import session  # noqa: E402

from openlstm.exchange.onnx.nodes import Integers  # noqa: E402
from openlstm.exchange.onnx.read import read  # noqa: E402
from openlstm.weights import reorder  # noqa: E402

T, B, I, H = 6, 3, 5, 7


def drawn(seed: int, kind: Any, per_row: bool, direction: str, peephole: bool = False) -> tuple[Any, Integers]:
    """A model with one such node, and its integers."""
    rng, D = np.random.default_rng(seed), 1 + (direction == "bidirectional")
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    shape = (D, 4 * H) if per_row else (D,)

    def matrix(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        zero = np.full(shape, (low + high + 1) // 2, kind)
        return (
            rng.integers(low, high + 1, (D, rows, 4 * H)).astype(kind),
            rng.uniform(0.001, 0.003, shape).astype(np.float32),
            zero,
        )

    (W, W_scale, W_zero), (R, R_scale, R_zero) = matrix(I), matrix(H)
    integers = Integers(W, R, W_scale, W_zero, R_scale, R_zero)
    bias = (rng.standard_normal((D, 8 * H)) / 2).astype(np.float32)
    arrays = {**integers._asdict(), "B": bias}
    if peephole:
        arrays["P"] = (rng.standard_normal((D, 3 * H)) / 2).astype(np.float32)
    inputs = ["x", "W", "R", "B", "", "", "", "P" if peephole else "", *Integers._fields[2:]]
    node = helper.make_node(
        "DynamicQuantizeLSTM",
        inputs,
        ["Y", "Y_h", "Y_c"],
        "quantised",
        domain="com.microsoft",
        hidden_size=H,
        direction=direction,
    )
    graph = helper.make_graph(
        [node],
        "quantised",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None, I])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("Y", "Y_h", "Y_c")],
        [numpy_helper.from_array(a, n) for n, a in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 14), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8), integers


CASES = [
    (kind, per_row, direction)
    for kind in (np.uint8, np.int8)
    for per_row in (False, True)
    for direction in ("forward", "reverse", "bidirectional")
]


@pytest.mark.parametrize(("kind", "per_row", "direction"), CASES)
def test_integers_are_kept_and_the_layer_has_the_numbers_they_stand_for(kind: Any, per_row: bool, direction: str) -> None:
    model, integers = drawn(0, kind, per_row, direction)
    graph = read(model)
    kept, stack = graph.integers["quantised"], graph.stacks["quantised"]
    assert all((a == b).all() and a.dtype == b.dtype for a, b in zip(kept, integers, strict=True))
    for d, w in enumerate(stack.weights[0]):
        for q, scale, zero, floats in (
            (integers.W, integers.W_scale, integers.W_zero_point, w.w_ih),
            (integers.R, integers.R_scale, integers.R_zero_point, w.w_hh),
        ):
            back = reorder(np.asarray(floats, np.float64), "openlstm", "onnx", H).T / scale[d] + zero[d].astype(np.float64)
            assert (np.rint(back) == q[d]).all() and np.abs(back - np.rint(back)).max() < 1e-4
    assert "8 bits" in repr(graph)


@pytest.mark.parametrize("peephole", [False, True])
@pytest.mark.parametrize(("kind", "per_row", "direction"), CASES)
def test_the_outputs_are_as_far_apart_as_the_rounding_of_x_and_h(
    kind: Any, per_row: bool, direction: str, peephole: bool
) -> None:
    """ONNX Runtime rounds x and h to 8 bits before each product: a step of the grid for each, and what the cell makes of it."""
    for seed in range(3):
        model, _ = drawn(seed, kind, per_row, direction, peephole)
        x = np.random.default_rng(seed).standard_normal((T, B, I)).astype(np.float32)
        theirs, ours = session(model).run(None, {"x": x}), read(model).run({"x": x})
        allowed = bounds(read(model).stacks["quantised"], x)
        off = np.abs(theirs[0] - ours["Y"])
        assert (off <= allowed + 1e-5).all() and off.max() > 1e-4  # it does round
        assert allowed.min(0).max() < 0.05  # in the first step of a direction: the bound says something


def bounds(stack: Any, x: np.ndarray) -> np.ndarray:
    """How far y may be off, [T, D, B, H], from the definition of the cell, step by step, with E_a for the error of a:

    E_z = |W| s_x + |R| (s_h + E_h) + |p| E_c        s_x, s_h one step of the grid of 255 between the least and the largest
    E_i <= E_z / 4,  E_g <= E_z                      the slopes of sigmoid and tanh
    E_c' = f E_c + |c| E_f + i E_g + |g| E_i,  E_h' = o E_c' + |tanh c'| E_o,   f, i, o at most 1
    """
    step = (max(x.max(), 0) - min(x.min(), 0)) / 255
    out = np.zeros((T, stack.directions, B, H))
    for d, w in enumerate(stack.weights[0]):
        w_ih, w_hh = (np.asarray(a, np.float64) for a in (w.w_ih, w.w_hh))
        p = np.split(np.asarray(w.w_ch, np.float64), 3) if w.w_ch is not None else [np.zeros(H)] * 3
        h = c = e_h = e_c = np.zeros((B, H))
        for t in range(T)[::-1] if d or stack.reverse else range(T):
            z_i, z_f, z_g, z_o = np.split(x[t] @ w_ih.T + h @ w_hh.T + w.b_ih + w.b_hh, 4, -1)
            e_z = np.abs(w_ih).sum(1) * step + (2 / 255 + e_h) @ np.abs(w_hh).T
            e_i, e_f, e_g, e_o = np.split(e_z, 4, -1)
            i, f, g = _sigmoid(z_i + p[0] * c), _sigmoid(z_f + p[1] * c), np.tanh(z_g)
            e_i, e_f = (np.minimum((e + np.abs(q) * e_c) / 4, 1) for e, q in ((e_i, p[0]), (e_f, p[1])))
            e_g = np.minimum(e_g, 2)
            e_c = np.minimum(f + e_f, 1) * e_c + np.abs(c) * e_f + np.minimum(i + e_i, 1) * e_g + np.abs(g) * e_i
            c = f * c + i * g
            o = _sigmoid(z_o + p[2] * c)
            e_o = np.minimum((e_o + np.abs(p[2]) * e_c) / 4, 1)
            e_h = np.minimum(o + e_o, 1) * np.minimum(e_c, 2) + np.abs(np.tanh(c)) * e_o
            h = o * np.tanh(c)
            out[t, d] = e_h
    return out


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))
