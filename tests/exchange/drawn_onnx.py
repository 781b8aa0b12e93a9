"""Drawn models of ONNX with one recurrent node, whose input is computed in the graph and whose weights lie where they may.

Legend: T time, B batch, I input size, H hidden size, D directions, G gates of the operator.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper, numpy_helper

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
USUAL = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
OTHERS = ["Relu", "Affine", "HardSigmoid", "Softsign", "Softplus", "Elu", "LeakyRelu", "ThresholdedRelu", "ScaledTanh"]
BOUNDED = ["HardSigmoid", "Softsign", "ScaledTanh", "Tanh"]
"""For gates: with others a state grows without bound, and so does what was rounded."""
ALPHA, BETA = (
    {"Affine", "HardSigmoid", "Elu", "LeakyRelu", "ThresholdedRelu", "ScaledTanh"},
    {"Affine", "HardSigmoid", "ScaledTanh"},
)
WEIGHTS = ("initializer", "constant", "folded", "branch")


class Drawn(NamedTuple):
    """A model, and what its inputs look like."""

    model: ModelProto
    kind: str
    input_size: int
    hidden_size: int
    directions: int
    lengths: bool
    states: bool
    arrays: dict[str, np.ndarray]

    def feeds(self, rng: np.random.Generator, T: int, B: int) -> dict[str, np.ndarray]:
        found: dict[str, Any] = {"x": rng.standard_normal((T, B, self.input_size)).astype(np.float32)}
        if self.lengths:
            found["lengths"] = rng.integers(1, T + 1, B).astype(np.int32)  # of a row of no steps ONNX does not say the state
            found["lengths"][0] = T
        if self.states:
            for name in ("h0", "c0")[: 1 + (self.kind == "LSTM")]:
                found[name] = rng.standard_normal((self.directions, B, self.hidden_size)).astype(np.float32)
        return found


def draw(seed: int) -> Drawn:
    """A model: operator, opset, directions, options, where its weights lie, and what is around it, all by chance."""
    rng = np.random.default_rng([19, seed])

    def odds(p: float = 0.5) -> bool:
        return bool(rng.random() < p)

    kind, opset = str(rng.choice(list(GATES))), int(rng.integers(7, 23))
    direction = str(rng.choice(["forward", "reverse", "bidirectional"]))
    D, G, I, H = 1 + (direction == "bidirectional"), GATES[kind], int(rng.integers(1, 6)), int(rng.integers(1, 8))
    attributes: dict[str, Any] = {"hidden_size": H, "direction": direction}
    arrays = {"W": rng.standard_normal((D, G * H, I)), "R": rng.standard_normal((D, G * H, H)) / 2}
    if odds(0.8):
        arrays["B"] = rng.standard_normal((D, 2 * G * H))
    if kind == "LSTM" and odds(0.4):
        arrays["P"] = rng.standard_normal((D, 3 * H))
    arrays = {name: a.astype(np.float32) for name, a in arrays.items()}
    if kind == "LSTM" and odds(0.25):
        attributes["input_forget"] = 1
    if kind == "GRU":
        attributes["linear_before_reset"] = int(odds(0.7))
    if odds(0.2):
        attributes["clip"] = float(rng.uniform(0.3, 3))
    if odds(0.25):
        names = [str(rng.choice(BOUNDED if name == "Sigmoid" else OTHERS)) if odds() else name for name in USUAL[kind]]
        attributes["activations"] = names * D
        for key, some in (("activation_alpha", ALPHA), ("activation_beta", BETA)):
            numbers = [float(rng.uniform(0.1, 0.6)) for n in names if n in some]
            attributes |= {key: numbers * D} if numbers else {}
    lengths, states = odds(0.4), odds(0.6)
    place = str(rng.choice(WEIGHTS))
    inputs = {"x": (TensorProto.FLOAT, 3)}
    if lengths:
        inputs["lengths"] = (TensorProto.INT32, 1)
    if states:
        inputs |= dict.fromkeys(("h0", "c0")[: 1 + (kind == "LSTM")], (TensorProto.FLOAT, 3))
    outputs = {"Y": 4, "Y_h": 3, "Y_c": 3} if kind == "LSTM" else {"Y": 4, "Y_h": 3}
    nodes, kept = [helper.make_node("Tanh", ["x"], ["seen"], name="before")], []
    named = _placed(arrays, "constant" if place == "constant" else place, opset, nodes, kept)
    order = [
        "seen",
        *(named.get(n, "") for n in "WRB"),
        "lengths" * lengths,
        *("h0" * states, "c0" * states),
        named.get("P", ""),
    ]
    order = order if kind == "LSTM" else order[:6]
    while not order[-1]:
        order.pop()
    recurrent = helper.make_node(kind, order, [f"{n}_raw" for n in outputs], name="recurrent", **attributes)
    behind = [helper.make_node("Identity", [f"{n}_raw"], [n]) for n in outputs]
    if place == "branch":
        recurrent = _branched(recurrent, list(outputs), nodes, kept)
    graph = helper.make_graph(
        [*nodes, recurrent, *behind],
        "drawn",
        [helper.make_tensor_value_info(n, t, [None] * axes) for n, (t, axes) in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * axes) for n, axes in outputs.items()],
        kept,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return Drawn(model, kind, I, H, D, lengths, states, arrays)


def _placed(arrays: dict[str, np.ndarray], place: str, opset: int, nodes: list[Any], kept: list[Any]) -> dict[str, str]:
    """Put weights where `place` says; their names."""
    for name, a in arrays.items():
        if place == "constant":
            nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(a, name)))
        elif place == "folded":  # two halves that are joined, turned, and widened from float16's neighbours
            parts = np.split(np.swapaxes(a, -1, -2) if a.ndim == 3 else a, [1], axis=-1)
            kept += [numpy_helper.from_array(np.ascontiguousarray(p), f"{name}_{k}") for k, p in enumerate(parts)]
            joined = f"{name}_joined" if a.ndim == 3 else name
            nodes.append(helper.make_node("Concat", [f"{name}_0", f"{name}_1"], [joined], axis=a.ndim - 1))
            if a.ndim == 3:
                nodes.append(helper.make_node("Transpose", [joined], [f"{name}_turned"], perm=[0, 2, 1]))
                nodes.append(helper.make_node("Cast", [f"{name}_turned"], [name], to=TensorProto.FLOAT))
        else:
            kept.append(numpy_helper.from_array(a, name))
    return {name: name for name in arrays}


def _branched(recurrent: Any, outputs: list[str], nodes: list[Any], kept: list[Any]) -> Any:
    """The node in the branch of an `If` that is taken where x has more than one step; the other one has its inputs twice."""
    kept += [numpy_helper.from_array(np.array(0), "zero"), numpy_helper.from_array(np.array(1, np.float32), "none")]
    nodes += [
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "zero"], ["steps"], axis=0),
        helper.make_node("Cast", ["steps"], ["count"], to=TensorProto.FLOAT),  # of which opset 7 has an order
        helper.make_node("Greater", ["count", "none"], ["some"]),
    ]
    infos = [helper.make_tensor_value_info(f"{n}_raw", TensorProto.FLOAT, None) for n in outputs]
    branches = []
    for sign in ("then", "else"):
        own = type(recurrent)()
        own.CopyFrom(recurrent)
        own.name = f"recurrent_{sign}"
        del own.output[:]
        own.output.extend(f"{n}_{sign}" for n in outputs)
        infos = [helper.make_tensor_value_info(f"{n}_{sign}", TensorProto.FLOAT, None) for n in outputs]
        branches.append(helper.make_graph([own], sign, [], infos))
    out = [f"{n}_raw" for n in outputs]
    return helper.make_node("If", ["some"], out, name="if", then_branch=branches[0], else_branch=branches[1])


def session(model: ModelProto) -> Any:
    """ONNX Runtime on one thread, which says nothing."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def error(a: Any, b: Any) -> float:
    """norm(a - b) / norm(b)."""
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)) if b.size else 0.0
