"""Layers written into a graph of ONNX: an operator where there is one for the cell, else a `Scan` over its equations.

Legend: T time, B batch, I input size, H hidden size, R what is fed back, L layers, D directions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

from openlstm import __version__, reference
from openlstm.cells import Cell, State
from openlstm.engine import onnx as operators
from openlstm.errors import BackendError
from openlstm.exchange.onnx.traced import FREE, Traced, Writer
from openlstm.exchange.stack import Stack
from openlstm.noise import Noise
from openlstm.weights import Weights, fed_back_size

TOLERANCE = 1e-4
"""How far ONNX Runtime may be from ours, norm(a - b) / norm(b): beyond what rounding makes, which stays below 1e-5."""


@dataclass
class Io:
    """What a graph takes and gives: name -> (type of its elements, sizes and names of its axes)."""

    inputs: dict[str, tuple[int, list[Any]]] = field(default_factory=dict)
    outputs: dict[str, tuple[int, list[Any]]] = field(default_factory=dict)


def assemble(writer: Writer, io: Io, opset: int, name: str) -> ModelProto:
    """The model of what was written; every output has its name already."""
    infos = [[helper.make_tensor_value_info(n, kind, axes) for n, (kind, axes) in g.items()] for g in (io.inputs, io.outputs)]
    nodes = writer.needed(list(io.outputs))
    used = {n for node in nodes for n in (*node.input, *(m for a in node.attribute for inner in a.g.node for m in inner.input))}
    constants = [tensor for n, tensor in writer.constants.items() if n in used]
    graph = helper.make_graph(nodes, name, infos[0], infos[1], constants)
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="openlstm", producer_version=__version__)
    onnx.checker.check_model(model)
    return model


def named(writer: Writer, kind: str, inputs: Any, output: str, **attributes: Any) -> None:
    """A node whose output has a name of its own."""
    given = [inputs] if isinstance(inputs, str) else list(inputs)
    writer.nodes.append(helper.make_node(kind, given, [output], **attributes))


class Layers:
    """Layers on top of each other, written into a graph."""

    def __init__(self, stack: Stack, lengths: bool, writer: Writer | None = None, noise: Noise | None = None) -> None:
        self.stack, self.cell = stack, stack.cell
        self.writer = writer or Writer()
        self.op = self.writer.op
        self.lengths = "lengths" if lengths else None
        self.noise = noise  # zoneout, of which eval takes the expectation
        self.units = stack.hidden_size
        self.R = fed_back_size(stack.cell, self.units, stack.proj_size)
        self.states = ("h", *(stack.cell.states if stack.cell.has_cell else ()))

    def model(self, opset: int) -> ModelProto:
        stack, float32 = self.stack, TensorProto.FLOAT
        rows = stack.layers * stack.directions
        time = ["B", "T"] if stack.batch_first else ["T", "B"]
        width = (stack.proj_size or self.units) * stack.directions
        io = Io({"x": (float32, [*time, stack.input_size])}, {"y": (float32, [*time, width])})
        if self.lengths:
            io.inputs["lengths"] = (TensorProto.INT64, ["B"])
        for name in self.states:
            shape = [rows, "B", self.widths()[name]]
            io.inputs[f"{name}0"], io.outputs[f"{name}_n"] = (float32, shape), (float32, shape)
        turned: dict[str, Any] = {"perm": [1, 0, 2]} if stack.batch_first else {}
        y, ends = self.run(self.op("Transpose", "x", **turned) if turned else "x", {name: f"{name}0" for name in self.states})
        named(self.writer, "Transpose" if turned else "Identity", y, "y", **turned)
        for name, parts in ends.items():
            named(self.writer, "Concat", parts, f"{name}_n", axis=0)
        return assemble(self.writer, io, opset, type(self.cell).__name__)

    def widths(self) -> dict[str, int]:
        """The width of each state."""
        return {name: self.R if name == "h" else self.units for name in self.states}

    def run(self, x: str, begin: dict[str, str]) -> tuple[str, dict[str, list[str]]]:
        """Layers over x [T, B, I] from states [L*D, B, .]: y [T, B, D*R], and of each state its parts [., B, .]."""
        ends: dict[str, list[str]] = {name: [] for name in self.states}
        D = self.stack.directions
        zero = np.array([0])
        for n, layer in enumerate(self.stack.weights):
            w32 = tuple(Weights(*(None if a is None else np.ascontiguousarray(a, np.float32) for a in w)) for w in layer)
            first, last = np.array([n * D]), np.array([(n + 1) * D])
            cut = self.stack.layers > 1
            own = {s: self.op("Slice", begin[s], first, last, np.array([0])) if cut else begin[s] for s in self.states}
            found = None if self.noise else operators.operator(self.cell, w32[0])
            if found is not None:
                x, state = self._operator(found, x, w32, own)
            else:
                ys, parts = [], []
                for d, w in enumerate(w32):
                    place = np.array([d])
                    of = {s: self.op("Squeeze", self.op("Slice", a, place, place + 1, zero), zero) for s, a in own.items()}
                    y, end = self._scan(x, w, of, bool(d) or self.stack.reverse)
                    ys.append(y)
                    parts.append({s: self.op("Unsqueeze", a, np.array([0])) for s, a in end.items()})
                x = ys[0] if D == 1 else self.op("Concat", *ys, axis=2)
                state = {s: [part[s] for part in parts] for s in self.states}
            for name, pieces in state.items():
                ends[name] += pieces
        return x, ends

    def _operator(
        self, found: operators.Operator, x: str, layer: tuple[Weights, ...], begin: dict[str, str]
    ) -> tuple[str, dict[str, list[str]]]:
        """One LSTM, GRU or RNN of ONNX."""
        D, H = len(layer), self.units
        directions = [operators.inputs(self.cell, w, H) for w in layer]
        given = {name: np.stack([d[name] for d in directions]) for name in directions[0]}
        ends = self.op("Cast", self.lengths, to=TensorProto.INT32) if self.lengths else None
        inputs = [x, given["W"], given["R"], given["B"], ends, begin["h"], begin.get("c"), given.get("P")]
        while inputs[-1] is None:
            inputs.pop()
        way = "bidirectional" if D == 2 else "reverse" if self.stack.reverse else "forward"
        attributes = {**found.of(D), "hidden_size": H, "direction": way}
        y, *state = self.op(found.name, *inputs, count=1 + len(self.states), **attributes)
        if D == 1:
            y = self.op("Squeeze", y, np.array([1]))
        else:
            y = self.op("Reshape", self.op("Transpose", y, perm=[0, 2, 1, 3]), np.array([0, 0, D * H]))
        return y, {name: [end] for name, end in zip(self.states, state, strict=True)}

    def _scan(self, x: str, w: Weights, begin: dict[str, str], reverse: bool) -> tuple[str, dict[str, str]]:
        """One direction as a `Scan` over `reference.full_step`; W_ih x of all steps is one product in front of it."""
        cell, w, H = reference.unshared(self.cell, w)
        if w.w_ih is not None:
            x = self.op("MatMul", x, np.ascontiguousarray(w.w_ih.T))
        body = Writer(self.writer)
        names = {name: body.fresh(name) for name in self.states}
        of_x, step = body.fresh("x"), body.fresh("t")
        rows = len(cell.gates) * H
        old: dict[str, Any] = {name: Traced(body, names[name], (FREE, self.R if name == "h" else H)) for name in self.states}
        new, y = _step(cell, Traced(body, of_x, (FREE, rows)), old, w._replace(w_ih=None), self.noise)
        scanned = {of_x: x}
        if self.lengths:
            steps = self.op("Range", np.int64(0), self.op("Gather", self.op("Shape", x), np.int64(0)), np.int64(1))
            column = self.op("Unsqueeze", self.lengths, np.array([1]))
            alive: Any = Traced(body, body.op("Less", step, column), (FREE, 1), np.bool_)
            new = {name: np.where(alive, a, old[name]) for name, a in new.items()}
            y = np.where(alive, y, np.zeros_like(y))
            scanned[step] = steps
        outputs = [body.op("Identity", a.name) for a in (*new.values(), y)]
        graph = helper.make_graph(
            body.needed(outputs),
            "step",
            [helper.make_empty_tensor_value_info(name) for name in (*names.values(), *scanned)],
            [helper.make_empty_tensor_value_info(name) for name in outputs],
        )
        directions = [int(reverse)] * len(scanned)
        found = self.op(
            "Scan",
            *begin.values(),
            *scanned.values(),
            count=len(outputs),
            body=graph,
            num_scan_inputs=len(scanned),
            scan_input_directions=directions,
            scan_output_directions=[int(reverse)],
        )
        return found[-1], dict(zip(self.states, found, strict=False))


def _step(cell: Cell, x: Traced, old: dict[str, Any], w: Weights, noise: Noise | None) -> tuple[dict[str, Any], Any]:
    """One step of a cell: the new states by name, and what goes on to the next layer."""
    h, *others = old.values()
    c = None if not others else others[0] if len(others) == 1 else np.concatenate(others, -1)
    state = reference.full_step(cell, x, State(h, c), w, noise, 0).state
    units = x.shape[-1] // len(cell.gates)
    parts: list[Any] = [] if state.c is None else [state.c[..., k * units : (k + 1) * units] for k in range(len(others))]
    y = state.h if len(cell.feeds_back) == 1 else state.h[..., :units]
    return dict(zip(old, (state.h, *parts), strict=True)), y


def agree(theirs: list[Any], ours: list[Any], names: list[str]) -> None:
    """Raise where ONNX Runtime's numbers are not ours.

    Raises:
        BackendError: naming the output.
    """
    for name, a, b in zip(names, theirs, ours, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        error = np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30) if a.shape == b.shape and a.size else 0.0
        if a.shape != b.shape or not error <= TOLERANCE:
            what, got = f"ONNX Runtime computes another {name}", f"{list(a.shape)}, off by {error:.1e}"
            hint = "weights beyond what float32 resolves? look at them with openlstm inspect"
            expected = f"{list(b.shape)}, off by {TOLERANCE:g} at most"
            raise BackendError.of("export to 'onnx'", what, got, expected, hint)
