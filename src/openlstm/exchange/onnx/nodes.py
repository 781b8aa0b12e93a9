"""A recurrent node of ONNX as a `Stack`: LSTM, GRU and RNN of opsets 7 on, and DynamicQuantizeLSTM of ONNX Runtime.

Legend: T time, B batch, I input size, H hidden size, D directions, G gates of the operator (4, 3 or 1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, helper

from openlstm import cells
from openlstm.cells import Cell
from openlstm.exchange.cells import ACTIVATIONS, Activation, AnyGRU, AnyLSTM, AnyRNN
from openlstm.exchange.onnx.constants import Constants, Unknown
from openlstm.exchange.stack import Stack
from openlstm.weights import GRU_GATE_ORDERS, Weights, reorder

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
USUAL = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh"), "RNN": ("tanh",)}
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
ATTRIBUTES = {
    "activation_alpha": AttributeProto.FLOATS,
    "activation_beta": AttributeProto.FLOATS,
    "activations": AttributeProto.STRINGS,
    "clip": AttributeProto.FLOAT,
    "direction": AttributeProto.STRING,
    **dict.fromkeys(("hidden_size", "input_forget", "layout", "linear_before_reset"), AttributeProto.INT),
}
"""What the operators have, and of what type."""
QUANTIZED = "DynamicQuantizeLSTM"


class Integers(NamedTuple):
    """The weights of a DynamicQuantizeLSTM as they lie in the file: W = (q - zero point) * scale, and so R."""

    W: np.ndarray  # int8 or uint8 [D, I, 4*H], gates in the order i, o, f, g
    R: np.ndarray  # [D, H, 4*H]
    W_scale: np.ndarray  # float32 [D], or [D, 4*H] with a scale for every row
    W_zero_point: np.ndarray  # as W, in the shape of its scale
    R_scale: np.ndarray
    R_zero_point: np.ndarray


@dataclass(frozen=True)
class Node:
    """A recurrent node that has been read.

    Args:
        at: its number in its graph, behind those of the nodes and graphs around it.
        outputs: the names of y, h and c at the end, "" for one that nobody reads.
        x: the name of its input.
        stack: the layer.
        lengths, h, c: the names of the tensors that it is given beside x, "" where there are none.
        integers: the weights in 8 bits that the layer's stand for.
    """

    at: tuple[Any, ...]
    outputs: tuple[str, ...]
    x: str
    stack: Stack
    lengths: str = ""
    h: str = ""
    c: str = ""
    integers: Integers | None = None


def is_recurrent(node: NodeProto) -> bool:
    """Whether it is one of the operators that are read here."""
    return (node.domain in ("", "ai.onnx") and node.op_type in GATES) or (
        node.domain == "com.microsoft" and node.op_type == QUANTIZED
    )


def graphs_of(node: NodeProto) -> list[tuple[str, int, GraphProto]]:
    """The graphs within a node: the name of the attribute, the number in it, the graph."""
    lists = [(a.name, [a.g] if a.type == a.GRAPH else a.graphs) for a in node.attribute if a.type in (a.GRAPH, a.GRAPHS)]
    return [(name, j, graph) for name, graphs in lists for j, graph in enumerate(graphs)]


def read_node(node: NodeProto, name: str, at: tuple[Any, ...], known: Constants) -> Node:
    """The node as a layer.

    Raises:
        Unknown: where it cannot be expressed, with the reason.
    """
    given = dict(enumerate(node.input))
    of = _attributes(node)
    kind = "LSTM" if node.op_type == QUANTIZED else node.op_type
    if not given.get(0) or not node.output:
        raise Unknown("it has no input, or no output")
    direction = of.get("direction", "forward")
    if direction not in DIRECTIONS:
        raise Unknown(f"its direction is {direction!r}")
    D = DIRECTIONS[direction]
    integers = None
    if node.op_type == QUANTIZED:
        integers = _integers(given, known, D)
        W, R = (_floats(q, s, z) for q, s, z in ((integers.W, *integers[2:4]), (integers.R, *integers[4:])))
    else:
        W, R = (_weights(name, given.get(k), known) for k, name in ((1, "W"), (2, "R")))
    B = _weights("B", given[3], known) if given.get(3) else None
    P = _weights("P", given[7], known) if given.get(7) and kind == "LSTM" else None
    G, H = GATES[kind], R.shape[-1] if R.ndim == 3 else 0
    wanted = {"W": (D, G * H, W.shape[-1]), "R": (D, G * H, H), "B": (D, 2 * G * H), "P": (D, 3 * H)}
    for key, a in {"W": W, "R": R, "B": B, "P": P}.items():
        if a is not None and (a.shape != wanted[key] or not a.size and key != "W"):
            raise Unknown(f"{key} has the shape {list(a.shape)}, expected {list(wanted[key])} with H = {H}")
    if of.get("hidden_size", H) != H:
        raise Unknown(f"hidden_size is {of['hidden_size']}, and R is {list(R.shape)}")
    stack, notes = _stack(kind, (W, R, B, P), of, D)
    own = (given.get(4, ""), given.get(5, ""), given.get(6, "") if kind == "LSTM" else "")
    if any(name and known.is_known(name) and known.value(name).any() for name in own[1:]):
        notes.append("in its graph it begins with a constant state; alone with the one it is given, zeros if none")
    if integers is not None:
        notes.append("its matrices are in 8 bits; here they are scale * (q - zero point) in float32")
    form = {"batch_first": bool(of.get("layout", 0)), "reverse": direction == "reverse"}
    return Node(at, tuple(node.output), given[0], replace(stack, name=name, notes=tuple(notes), **form), *own, integers)


def _attributes(node: NodeProto) -> dict[str, Any]:
    """The attributes of a node by name, texts as such."""
    found: dict[str, Any] = {}
    for a in node.attribute:
        if ATTRIBUTES.get(a.name) != a.type:
            raise Unknown(f"its attribute {a.name!r} is not known, or of another type")
        value: Any = helper.get_attribute_value(a)
        texts = [v.decode("utf-8", "replace") for v in value] if a.type == a.STRINGS else value
        found[a.name] = value.decode("utf-8", "replace") if a.type == a.STRING else texts
    return found


def _weights(what: str, name: str | None, known: Constants) -> np.ndarray:
    if not name:
        raise Unknown(f"it has no {what}")
    try:
        found = known.value(name)
    except Unknown as why:
        raise Unknown(f"{what} is not known: {why}") from None
    if found.dtype.name not in ("float16", "float32", "float64"):
        raise Unknown(f"{what} is {found.dtype.name}, expected floats")
    return found


def _integers(given: dict[int, str], known: Constants, D: int) -> Integers:
    """W, R and their scales and zero points."""
    names = dict(zip(Integers._fields, (1, 2, 8, 9, 10, 11), strict=True))
    found: dict[str, np.ndarray] = {}
    for what, k in names.items():
        if not given.get(k):
            raise Unknown(f"it has no {what}")
        try:
            found[what] = known.value(given[k])
        except Unknown as why:
            raise Unknown(f"{what} is not known: {why}") from None
    for what in "WR":
        q, scale, zero = found[what], found[f"{what}_scale"], found[f"{what}_zero_point"]
        if q.dtype.name not in ("int8", "uint8") or q.ndim != 3 or zero.dtype != q.dtype:
            raise Unknown(f"{what} is {q.dtype.name}{list(q.shape)} with a zero point in {zero.dtype.name}, expected 8 bits")
        if scale.shape != zero.shape or scale.shape not in ((D,), (D, q.shape[2])):
            raise Unknown(f"{what}_scale has the shape {list(scale.shape)}, expected [{D}] or [{D}, {q.shape[2]}]")
    return Integers(**found)


def _floats(q: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """(q - zero point) * scale, [D, ., 4*H] -> [D, 4*H, .]."""
    D = len(q)
    made = (q.astype(np.int32) - zero.astype(np.int32).reshape(D, 1, -1)) * scale.astype(np.float32).reshape(D, 1, -1)
    return np.ascontiguousarray(made.swapaxes(1, 2), np.float32)


def _stack(kind: str, arrays: Any, of: dict[str, Any], D: int) -> tuple[Stack, list[str]]:
    W, R, B, P = arrays
    H = R.shape[-1]
    functions = _activations(kind, of, D)
    clip = of.get("clip") or None
    if clip is not None and not 0 < clip < np.inf:
        raise Unknown(f"clip is {clip}")
    coupled = bool(of.get("input_forget", 0))
    first = kind == "GRU" and not of.get("linear_before_reset", 0)
    cell, notes = _cell(kind, functions, clip, coupled, P is not None), list[str]()
    if first:
        cell = AnyGRU(tuple(functions), clip, H)  # type: ignore[arg-type]
    if not cell.kernel:
        notes.append("no kernel has this cell, so it runs on the reference, slower")
    dtypes = {a.dtype for a in (W, R, B, P) if a is not None}
    if len(dtypes) > 1:
        raise Unknown(f"its weights are {', '.join(sorted(d.name for d in dtypes))}, expected one type")
    order = _ordered(kind, H)
    directions = []
    for d in range(D):
        w_ih, w_hh = order(W[d]), order(R[d])
        b_ih, b_hh = (None, None) if B is None else map(order, np.split(B[d], 2))
        w_ch = None
        if first:
            w_ch = np.ascontiguousarray(w_hh[2 * H :]).reshape(-1)
            w_hh = np.concatenate([w_hh[: 2 * H], np.zeros_like(w_hh[2 * H :])])
        elif P is not None:
            i, o, f = np.split(P[d], 3)
            w_ch = np.concatenate([{"i": i, "f": f, "o": o}[gate] for gate in cell.peepholes])
        if isinstance(cell, cells.CIFG):  # it has no rows for f, which ONNX does not read
            w_ih, w_hh, b_ih, b_hh = (
                None if a is None else np.delete(a, np.s_[H : 2 * H], 0) for a in (w_ih, w_hh, b_ih, b_hh)
            )
        directions.append(Weights(w_ih, w_hh, b_ih, b_hh, None, w_ch))
    return Stack("", cell, (tuple(directions),)), notes


def _ordered(kind: str, H: int) -> Any:
    """Rows in the order of ONNX -> in ours."""
    if kind == "LSTM":
        return lambda a: reorder(a, "onnx", "openlstm", H)
    return (lambda a: reorder(a, "onnx", "openlstm", H, GRU_GATE_ORDERS)) if kind == "GRU" else np.array


def _cell(kind: str, functions: list[Activation], clip: float | None, coupled: bool, peephole: bool) -> Cell:
    """The cell of a kernel that computes it, else one of `exchange.cells`."""
    names = tuple(f.name for f in functions)
    plain = tuple("x" if f == Activation("affine", (1.0, 0.0)) else f.name for f in functions)
    if kind == "GRU":
        return cells.GRU() if names == USUAL[kind] and not clip else AnyGRU(tuple(functions), clip)  # type: ignore[arg-type]
    if kind == "RNN":
        known = names[0] in ("tanh", "relu") and not clip
        return cells.VanillaRNN(names[0]) if known else AnyRNN(tuple(functions), clip)  # type: ignore[arg-type]
    if clip is None and plain == USUAL[kind]:
        if coupled:
            return cells.CIFG(peephole=peephole)
        return cells.Peephole() if peephole else cells.LSTM()
    if clip is None and not coupled and plain == ("sigmoid", "x", "tanh"):
        return cells.NIAF(peephole=peephole)
    if clip is None and not coupled and plain == ("sigmoid", "tanh", "x"):
        return cells.NOAF(peephole=peephole)
    return AnyLSTM(tuple(functions), clip, coupled, peephole)  # type: ignore[arg-type]


def _activations(kind: str, of: dict[str, Any], D: int) -> list[Activation]:
    """Those of one direction; numbers are handed out in the order of the activations that take some."""
    usual = USUAL[kind]
    names = [name.lower() for name in of.get("activations", [])] or list(usual) * D
    if len(names) != len(usual) * D:
        raise Unknown(f"it names {len(names)} activations, expected {len(usual)} for each of {D} directions")
    alphas, betas = list(of.get("activation_alpha", [])), list(of.get("activation_beta", []))
    found = []
    for name in names:
        if name not in ACTIVATIONS:
            raise Unknown(f"its activation {name!r} is not known; known are {', '.join(ACTIVATIONS)}")
        default = ACTIVATIONS[name]
        numbers = [(given.pop(0) if given else usual) for given, usual in zip((alphas, betas), default, strict=False)]
        found.append(Activation(name, tuple(map(float, numbers))))
    if found[: len(usual)] * D != found:
        raise Unknown("its directions have different activations: split it into two nodes of one direction")
    return found[: len(usual)]
