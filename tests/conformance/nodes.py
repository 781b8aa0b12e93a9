"""The node tests that ONNX ships for LSTM, GRU and RNN, run on layers of ours: a suite that nobody here wrote.

Legend: T time, B batch, I input size, H hidden size, D directions, G gates of a cell.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

import openlstm
from openlstm import cells
from openlstm.weights import reorder

LAYERS: dict[str, Callable[..., Any]] = {
    "LSTM": openlstm.LSTM,
    "GRU": openlstm.GRU,
    "RNN": openlstm.RNN,
}


@cache
def cases() -> list[Any]:
    """The cases of `onnx.backend.test` whose node is an LSTM, a GRU or an RNN."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():  # other operators' cases divide by zero
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    nodes = [(case, case.model.graph.node[0].op_type) for case in found if case.model and case.model.graph.node]
    return [case for case, op_type in nodes if op_type in LAYERS]


def operator(case: Any) -> str:
    """LSTM, GRU or RNN."""
    return case.model.graph.node[0].op_type


def check(case: Any, make: Callable[..., Any] | None = None) -> None:
    """Raise AssertionError where a layer made by `make` differs from what the case expects, at its own tolerances."""
    node = case.model.graph.node[0]
    attributes = {a.name: a.s.decode() if a.s else a.i for a in node.attribute}
    for inputs, outputs in case.data_sets:
        given = {name: np.asarray(a) for name, a in zip([i for i in node.input if i], inputs, strict=True)}
        expected = {name: np.asarray(a) for name, a in zip([o for o in node.output if o], outputs, strict=True)}
        found = run(make or LAYERS[node.op_type], node.op_type, given, **attributes)
        for name, b in expected.items():
            np.testing.assert_allclose(found[name], b, rtol=case.rtol, atol=case.atol, err_msg=f"{case.name}: {name}")


def run(
    make: Callable[..., Any],
    op_type: str,
    given: dict[str, np.ndarray],
    hidden_size: int,
    direction: str = "forward",
    layout: int = 0,
    linear_before_reset: int = 0,
) -> dict[str, np.ndarray]:
    """The operator of ONNX out of layers: X, W, R, B, sequence_lens, initial_h, initial_c, P -> Y, Y_h, Y_c.

    What ONNX has and the layers have not is brought about outside: a single way back is a layer of two directions of which
    the second counts. A GRU's R-bias of the candidate must be zero unless linear_before_reset, since only that order is ours;
    with h' = 0 before the first step both agree.
    """
    x = torch.from_numpy(given["X"])
    x = x.transpose(0, 1) if layout else x  # [T, B, I]
    B, D = x.shape[1], len(given["W"])
    back = direction == "reverse"
    options = {"cell": cells.Peephole()} if "P" in given else {}
    layer = make(x.shape[-1], hidden_size, bidirectional=D == 2 or back, dtype=x.dtype, **options)
    names = {"weight_ih": given["W"], "weight_hh": given["R"]}
    bias = given.get("B", np.zeros((D, 2 * given["W"].shape[1]), x.numpy().dtype))
    names["bias_ih"], names["bias_hh"] = np.split(bias, 2, 1)
    with torch.no_grad():
        for p in layer.parameters():
            p.zero_()
        for d in range(D):
            end = "_l0_reverse" if d or back else "_l0"
            for name, a in names.items():
                getattr(layer, name + end).copy_(torch.from_numpy(_rows(op_type, a[d], hidden_size)))
            if "P" in given:
                i, o, f = np.split(given["P"][d], 3)
                getattr(layer, "weight_ch" + end).copy_(torch.from_numpy(np.concatenate([i, f, o])))
    lengths = given.get("sequence_lens")
    hx = [torch.from_numpy(given[name]) for name in ("initial_h", "initial_c") if name in given]
    hx = [s.transpose(0, 1) if layout else s for s in hx]
    if back:
        hx = [torch.cat([torch.zeros_like(s), s]) for s in hx]
    state = None if not hx else (hx[0], hx[1]) if op_type == "LSTM" else hx[0]
    with torch.no_grad():
        y, end = layer(x, state, lengths=None if lengths is None else torch.from_numpy(lengths))
    y = y.unflatten(-1, (-1, hidden_size)).transpose(1, 2)  # [T, D, B, H]
    ends = list(end) if op_type == "LSTM" else [end]
    if back:
        y, ends = y[:, 1:], [s[1:] for s in ends]
    if layout:
        y, ends = y.permute(2, 0, 1, 3), [s.transpose(0, 1) for s in ends]
    assert y.shape[2 if not layout else 0] == B
    return {name: _numpy(a) for name, a in zip(("Y", "Y_h", "Y_c"), [y, *ends], strict=False)}


def _rows(op_type: str, a: np.ndarray, hidden_size: int) -> np.ndarray:
    """Rows in the order of ONNX -> in ours: its LSTM has i, o, f, c, its GRU z, r, h."""
    if op_type == "LSTM":
        return reorder(a, "onnx", "openlstm", hidden_size)
    if op_type == "GRU":
        z, r, n = np.split(a, 3)
        return np.concatenate([r, z, n])
    return a


def _numpy(a: Tensor) -> np.ndarray:
    return a.numpy()
