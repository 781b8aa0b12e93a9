"""Drawn cases against ONNX Runtime: an implementation by other people, of another operator set, in another gate order.

What ONNX's operators express: LSTM, its peepholes, CIFG (`input_forget`), NIAF and NOAF (activations), NIG, NFG (and with it
the cell of 1997) and NOG (a gate held open by its bias), GRU with `linear_before_reset`, the vanilla RNN; ragged batches,
initial states, both directions. What they do not: FGR, projection, resets, noise, and clipping of the cell (ONNX's `clip`
bounds the sums before the activations, which is another thing). ONNX Runtime computes in float32 alone on CPU, and forward
alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import BACKENDS, Case, draw

import openlstm
from openlstm import cells, reference
from openlstm.cells import Cell
from openlstm.engine import recur
from openlstm.reference import State, Weights
from openlstm.weights import expand, reorder

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

LATER = ("slstm", "mingru", "minlstm", "janet", "indrnn")
"""Cells that ONNX has no operator for."""

EXPRESSED = tuple(cell for cell in cells.ALL if cell.name not in ("fgr", "lstm_ln", *LATER))
TOLERANCE = 1e-5
OPEN = 100.0  # the bias of a gate that is not there: its sigmoid is exactly 1


def by_onnxruntime(cell: Cell, x: np.ndarray, directions: list[Weights], states: list[State], lengths: Any, way: str) -> Any:
    """One node -> y [T, B, D, H], h_n and c_n [D, B, H]; weights and states of each direction; `way` as ONNX names it."""
    H = states[0].h.shape[1]
    given = {name: np.stack(parts) for name, parts in _inputs(cell, directions, H).items()}
    given |= {"X": x, "initial_h": np.stack([s.h for s in states])}
    if cell.has_cell:
        given["initial_c"] = np.stack([np.asarray(s.c) for s in states])
    if lengths is not None:
        given["sequence_lens"] = np.asarray(lengths, np.int32)
    kind = "LSTM" if cell.has_cell else cell.name.upper()
    outputs = ["Y", "Y_h", "Y_c"][: 3 if cell.has_cell else 2]
    session = _session(kind, tuple(given), tuple(outputs), H, way, len(directions), **_attributes(cell, len(directions)))
    y, *end = session.run(outputs, {name: np.ascontiguousarray(a, a.dtype) for name, a in given.items()})
    return y.transpose(0, 2, 1, 3), end


def _attributes(cell: Cell, D: int) -> dict[str, Any]:
    if isinstance(cell, cells.GRU):
        return {"linear_before_reset": 1}
    if isinstance(cell, cells.VanillaRNN):
        return {"activations": [cell.nonlinearity.capitalize()] * D}
    gate, candidate, shown = "Sigmoid", "Tanh", "Tanh"
    if isinstance(cell, (cells.NIAF, cells.NOAF)):  # Affine with these is x itself
        candidate, shown = ("Affine", "Tanh") if isinstance(cell, cells.NIAF) else ("Tanh", "Affine")
        number = {"activation_alpha": [1.0] * D, "activation_beta": [0.0] * D}
        return {"activations": [gate, candidate, shown] * D, **number}
    return {"input_forget": 1} if isinstance(cell, cells.CIFG) else {}


def _inputs(cell: Cell, directions: list[Weights], H: int) -> dict[str, list[np.ndarray]]:
    """W, R, B and P in the order of ONNX, with gates that the cell has not held open."""
    out: dict[str, list[np.ndarray]] = {"W": [], "R": [], "B": []} | ({"P": []} if cell.peepholes else {})
    for w in (expand(cell, w, H) for w in directions):
        w = w._replace(w_hh=_all_columns(w.w_hh, H))
        zero = np.zeros(len(w.w_ih), w.w_ih.dtype)
        biases = [zero if b is None else b for b in (w.b_ih, w.b_hh)]
        if not cell.has_cell:
            turn = _gru_rows if cell.name == "gru" else lambda a: a
            rows = [turn(a) for a in (w.w_ih, w.w_hh, *biases)]
        else:
            rows = [reorder(_all_gates(cell, a, H), "openlstm", "onnx", H) for a in (w.w_ih, w.w_hh, *biases)]
            # CIFG needs nothing: ONNX does not read f there
            for gate in {"i", "f", "o"} - set(cell.gates) - ({"f"} if cell.name == "cifg" else set()):
                at = "iofg".index(gate) * H
                rows[2][at : at + H] = OPEN
        out["W"].append(rows[0])
        out["R"].append(rows[1])
        out["B"].append(np.concatenate(rows[2:]))
        if cell.peepholes:
            p = dict(zip(cell.peepholes, np.split(np.asarray(w.w_ch), len(cell.peepholes)), strict=True))
            out["P"].append(np.concatenate([p.get(gate, np.zeros(H, np.float32)) for gate in "iof"]))
    return out


def _all_columns(w_hh: np.ndarray, H: int) -> np.ndarray:
    """The weights of heads [G*H, H/heads] where they stand among those of all units, [G*H, H]."""
    K = w_hh.shape[1]
    out = np.zeros((len(w_hh), H), w_hh.dtype)
    for row, head in enumerate(w_hh):
        first = row % H // K * K
        out[row, first : first + K] = head
    return out


def _all_gates(cell: Cell, a: np.ndarray, H: int) -> np.ndarray:
    """Rows for i, f, g, o, zeros for gates that the cell has not."""
    of = dict(zip(cell.gates, np.split(a, len(cell.gates)), strict=True))
    return np.concatenate([of.get(gate, np.zeros((H, *a.shape[1:]), a.dtype)) for gate in "ifgo"])


def _gru_rows(a: np.ndarray) -> np.ndarray:
    r, z, n = np.split(a, 3)
    return np.concatenate([z, r, n])


def _session(kind: str, given: tuple[str, ...], outputs: tuple[str, ...], H: int, way: str, D: int, **attributes: Any) -> Any:
    order = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
    last = max(order.index(name) for name in given)
    node = onnx.helper.make_node(
        kind, [n if n in given else "" for n in order[: last + 1]], outputs, hidden_size=H, direction=way, **attributes
    )
    axes = {
        "X": 3,
        "W": 3,
        "R": 3,
        "B": 2,
        "sequence_lens": 1,
        "initial_h": 3,
        "initial_c": 3,
        "P": 2,
        "Y": 4,
        "Y_h": 3,
        "Y_c": 3,
    }
    number = onnx.TensorProto

    def info(name: str) -> Any:
        kind = number.INT32 if name == "sequence_lens" else number.FLOAT
        return onnx.helper.make_tensor_value_info(name, kind, [None] * axes[name])

    graph = onnx.helper.make_graph([node], "one", [info(name) for name in given], [info(name) for name in outputs])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _drawn(n: int, seed: int) -> list[Case]:
    """Cases without what ONNX cannot say; every row has a step at least."""
    cases = draw(n, seed=seed, among=EXPRESSED, dtype="float32", P=0, reset=False, reset_state=False, each=False)
    unclipped = lambda cell: replace(cell, clip=None) if getattr(cell, "clip", None) is not None else cell  # noqa: E731
    return [replace(case, cell=unclipped(case.cell), T=case.T or 4, B=case.B or 3) for case in cases]


def _near(found: Any, expected: np.ndarray) -> None:
    found, expected = np.asarray(found, np.float64), expected.astype(np.float64)
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) <= TOLERANCE * np.linalg.norm(expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", _drawn(3 * len(EXPRESSED), seed=50), ids=str)
def test_a_layer_of_one_direction_gives_the_outputs_of_onnx_runtime(case: Case, backend: Any) -> None:
    p = case.problem()
    lengths = None if p.lengths is None else np.maximum(p.lengths, 1)
    run = recur(
        p.cell,
        p.x,
        p.weights,
        p.state,
        lengths=lengths,
        reverse=p.reverse,
        backend="reference" if backend is reference else "cpu",
    )
    way = "reverse" if p.reverse else "forward"
    y, end = by_onnxruntime(p.cell, p.x, [p.weights], [p.state], lengths, way)
    _near(run.y, y[:, :, 0])
    for ours, theirs in zip(run.state, end, strict=False):
        _near(ours, theirs[0])


@pytest.mark.parametrize("case", _drawn(2 * len(EXPRESSED), seed=51), ids=str)
def test_a_layer_of_both_directions_gives_the_outputs_of_onnx_runtime(case: Case) -> None:
    """Each direction has weights and states of its own."""
    torch.manual_seed(case.seed)
    kind, options = "LSTM", {"cell": case.cell}
    if not case.cell.has_cell:
        kind = "GRU" if case.cell.name == "gru" else "RNN"
        options = {"nonlinearity": case.cell.nonlinearity} if isinstance(case.cell, cells.VanillaRNN) else {}
    layer = getattr(openlstm, kind)(case.I, case.H, bidirectional=True, bias=case.bias, **options)
    p = case.problem()
    lengths = None if p.lengths is None else torch.from_numpy(np.maximum(p.lengths, 1))
    hx = [torch.randn(2, case.B, case.H) for _ in range(1 + case.cell.has_cell)]
    with torch.no_grad():
        y, end = layer(torch.from_numpy(p.x), tuple(hx) if case.cell.has_cell else hx[0], lengths=lengths)
    directions = [Weights(*(None if a is None else a.detach().numpy() for a in layer.weights_of(0, d))) for d in (0, 1)]
    states = [State(*(s[d].numpy() for s in hx)) for d in (0, 1)]
    theirs, ends = by_onnxruntime(case.cell, p.x, directions, states, lengths, "bidirectional")
    _near(y, theirs.reshape(*theirs.shape[:2], -1))
    for ours, expected in zip(end if case.cell.has_cell else [end], ends, strict=True):
        _near(ours, expected)


def test_seven_of_the_eight_variants_are_compared() -> None:
    """Of the LSTMs of Greff et al. 2017 ONNX has all but FGR."""
    assert {cell.name for cell in EXPRESSED} >= {"peephole", "nig", "nfg", "nog", "niaf", "noaf", "cifg", "lstm", "gru", "rnn"}
