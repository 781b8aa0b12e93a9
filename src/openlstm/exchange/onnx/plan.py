"""A graph of ONNX cut at its recurrent nodes: they run on our layers, what is between them on ONNX Runtime.

The nodes are put into stages: stage k holds those that read the outputs of k recurrent nodes in a row at most. An `If` or a
`Loop` that holds a recurrent node is run here, its graphs are cut in the same way; of `If` only the branch that is taken runs.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from openlstm.engine.threads import get_num_threads
from openlstm.errors import ArgumentError, DataError, OpenLSTMError, missing_extra
from openlstm.exchange.contents import short
from openlstm.exchange.onnx.constants import Unknown, array
from openlstm.exchange.onnx.nodes import Node, graphs_of

Values = MutableMapping[str, Any]
Runs = Callable[[Node, Any, Any, tuple[Any, ...]], tuple[np.ndarray, ...]]
"""A recurrent node on x, lengths and states: y, h and c as ONNX has them."""

CUT = ("If", "Loop")


class Owner(NamedTuple):
    """What all parts of a model share.

    model: its versions of the operators.
    nodes: the recurrent nodes that our layers take, by their place in the model.
    folder: where external data lie.
    taken: which branch of an `If` ran last, by its place; those within a `Loop` are not there.
    """

    model: ModelProto
    nodes: dict[Any, Node]
    folder: Path | None
    taken: dict[Any, bool]


class Part(NamedTuple):
    """What a plan is made of: steps with their places, the names of what goes in and out, and initializers."""

    steps: list[tuple[Any, Any]]
    inputs: list[str]
    outputs: list[str]
    initializers: dict[str, TensorProto]
    defaults: set[str]  # initializers for which others may be given


def part_of(graph: GraphProto, owner: Owner, around: dict[str, TensorProto], at: Any = ()) -> Part:
    """A graph as it stands; `around` are the initializers of the graphs around it."""
    inputs, own = [info.name for info in graph.input], {tensor.name: tensor for tensor in graph.initializer}
    defaults = set(inputs) & set(own) if owner.model.ir_version >= 4 else set[str]()
    places = [(node, (*at, k)) for k, node in enumerate(graph.node)]
    steps = [(Recurrent(owner.nodes[place]) if place in owner.nodes else node, place) for node, place in places]
    return Part(steps, inputs, [info.name for info in graph.output], {**around, **own}, defaults)


class Plan:
    """How a part of a model is run."""

    def __init__(self, part: Part, owner: Owner) -> None:
        self.inputs, self.outputs, self.initializers, self.defaults = part[1:]
        self.owner = owner
        known = {name: tensor for name, tensor in self.initializers.items() if name not in self.defaults}
        steps: list[Any] = []
        for step, place in part.steps:
            cut = isinstance(step, NodeProto) and step.op_type in CUT and any(own[: len(place)] == place for own in owner.nodes)
            if not cut:
                steps.append(step)
            elif step.op_type == "If":
                steps.append(_Branch(step, place, owner, known))
            else:
                steps.append(_Loop(step, place, owner._replace(taken={}), known))
        needed, kept = set(self.outputs), []
        for step in reversed(steps):
            if needed & {*step.output} - {""}:
                kept.append(step)
                needed |= set(_reads(step))
        self.reads = {name for step in kept for name in _reads(step)} | set(self.outputs)
        levels = self._levels(kept[::-1])
        constants = {step.output[0]: step for step in kept if isinstance(step, NodeProto) and step.op_type == "Constant"}
        shown = {name for step in kept if not isinstance(step, NodeProto) for name in _reads(step)} | set(self.outputs)
        self.order: list[Any] = []
        for level in range(len(levels)):
            nodes = [step for step in levels[level] if isinstance(step, NodeProto)]
            nodes = [node for node in nodes if node.output[0] in shown or node.output[0] not in constants]
            read = {name for node in nodes for name in _reads(node)} - {name for node in nodes for name in node.output}
            plain = [constants[name] for name in constants if name in read] + nodes  # each stage has its own
            later = {name for other in levels[level + 1 :] for step in other for name in _reads(step)} - set(constants)
            cut = [step for step in levels[level] if not isinstance(step, NodeProto)]
            self.order += ([_Stage(plain, later | (shown - set(constants) if level else shown), self)] if plain else []) + cut
        asked = {name for step in kept if not isinstance(step, NodeProto) for name in step.asked}
        self.fixed = (asked | self.defaults & self.reads | set(self.outputs)) & set(self.initializers)
        self._constants: dict[str, np.ndarray] | None = None

    @staticmethod
    def _levels(steps: list[Any]) -> list[list[Any]]:
        """The steps by how many cut nodes in a row lie before them."""
        at: dict[str, int] = {}
        levels: list[list[Any]] = []
        for step in steps:
            level = max((at.get(name, 0) for name in _reads(step)), default=0)
            levels += [[] for _ in range(level + 1 - len(levels))]
            levels[level].append(step)
            at.update(dict.fromkeys(step.output, level + (not isinstance(step, NodeProto))))
        return levels

    def run(self, values: Values, runs: Runs) -> list[Any]:
        """The outputs of the graph; `values` holds its inputs, and takes what is computed."""
        if self._constants is None:
            self._constants = {name: self.constant(name) for name in self.fixed}
        for name, a in self._constants.items():
            values.setdefault(name, a)
        for step in self.order:
            step.run(values, runs)
        return [values[name] for name in self.outputs]

    def constant(self, name: str) -> np.ndarray:
        """The numbers of an initializer."""
        try:
            return array(self.initializers[name], self.owner.folder)
        except Unknown as why:
            raise DataError.of(name, "cannot be read", str(why), "an initializer", "fetch the model again") from None


def _reads(step: Any) -> tuple[str, ...]:
    """The tensors that a step needs."""
    return free(step) if isinstance(step, NodeProto) else step.reads


def free(node: NodeProto) -> tuple[str, ...]:
    """The inputs of a node, and what its graphs read of the graph around them."""
    found = dict.fromkeys(name for name in node.input if name)
    for _, _, graph in graphs_of(node):
        own = {info.name for info in graph.input} | {tensor.name for tensor in graph.initializer}
        own |= {name for inner in graph.node for name in inner.output}
        read = [name for inner in graph.node for name in free(inner)] + [info.name for info in graph.output]
        found |= dict.fromkeys(name for name in read if name not in own)
    return tuple(found)


class Recurrent:
    """A node that a layer takes."""

    def __init__(self, node: Node) -> None:
        self.node, self.output = node, node.outputs
        self.reads = self.asked = tuple(name for name in (node.x, node.lengths, node.h, node.c) if name)

    def run(self, values: Values, runs: Runs) -> None:
        node = self.node
        x, lengths, h, c = (values[name] if name else None for name in (node.x, node.lengths, node.h, node.c))
        found = runs(node, x, lengths, tuple(s for s in (h, c) if s is not None))
        values.update((name, a) for name, a in zip(self.output, found, strict=False) if name)


def plans_of(node: NodeProto, place: Any, owner: Owner, around: dict[str, TensorProto]) -> dict[str, Plan]:
    """The graphs within a node."""
    graphs = graphs_of(node)
    return {name: Plan(part_of(inner, owner, around, (*place, name, j)), owner) for name, j, inner in graphs}


class _Branch:
    """An `If` with a recurrent node in one of its branches."""

    def __init__(self, node: NodeProto, place: Any, owner: Owner, around: dict[str, TensorProto]) -> None:
        self.output, self.reads, self.asked = tuple(node.output), free(node), tuple(node.input)
        self.plans, self.place, self.taken = plans_of(node, place, owner, around), place, owner.taken

    def run(self, values: Values, runs: Runs) -> None:
        which = self.taken[self.place] = bool(np.asarray(values[self.asked[0]]).item())
        plan = self.plans["then_branch" if which else "else_branch"]
        values.update(zip(self.output, plan.run(_Within(values), runs), strict=True))


class _Loop:
    """A `Loop` with a recurrent node in its body."""

    def __init__(self, node: NodeProto, place: Any, owner: Owner, around: dict[str, TensorProto]) -> None:
        self.output, self.reads, self.input = tuple(node.output), free(node), tuple(node.input)
        self.body = plans_of(node, place, owner, around)["body"]
        self.asked = tuple(name for name in node.input if name)

    def run(self, values: Values, runs: Runs) -> None:
        most, goes, *names = self.input
        carried = [values[name] for name in names]
        count = int(np.asarray(values[most]).item()) if most else None
        on = bool(np.asarray(values[goes]).item()) if goes else True
        scanned: list[list[Any]] = [[] for _ in self.output[len(carried) :]]
        k = 0
        while on and (count is None or k < count):
            given = dict(zip(self.body.inputs, [np.int64(k), np.array(on), *carried], strict=True))
            keeps, *found = self.body.run(_Within(values, given), runs)
            on, carried, k = bool(np.asarray(keeps).item()), found[: len(carried)], k + 1
            for rows, a in zip(scanned, found[len(carried) :], strict=True):
                rows.append(a)
        if scanned and not k:
            got, hint = "a Loop of no steps", "give it at least one step"
            raise ArgumentError.of("Loop", "has nothing to put together", got, "at least one step", hint)
        values.update(zip(self.output, [*carried, *(np.stack(rows) for rows in scanned)], strict=True))


class _Within(dict[str, Any]):
    """The values of a graph within another, which sees those around it."""

    def __init__(self, around: Values, own: Any = ()) -> None:
        super().__init__(own)
        self.around = around

    def __missing__(self, name: str) -> Any:
        return self.around[name]


class _Stage:
    """Nodes that ONNX Runtime runs, as a model of their own, which is made when they first run: then types are known."""

    def __init__(self, nodes: list[NodeProto], later: set[str], plan: Plan) -> None:
        made = {name for node in nodes for name in node.output if name}
        read = dict.fromkeys(name for node in nodes for name in free(node) if name not in made)
        self.nodes, self.plan, self.session = nodes, plan, None
        fixed = set(plan.initializers) - plan.defaults
        self.fixed = [name for name in read if name in fixed]
        self.inputs = [name for name in read if name not in fixed]
        self.outputs = [name for name in made if name in later]
        self.reads, self.output = tuple(read), tuple(self.outputs)

    def run(self, values: Values, _: Runs) -> None:
        if not self.outputs:
            return
        feeds = {name: values[name] for name in self.inputs}
        self.session = session = self.session or self._session(feeds)
        try:
            found = session.run(self.outputs, feeds)
        except Exception as error:
            raise _refused("cannot run a part of the graph", error) from error
        values.update(zip(self.outputs, found, strict=True))

    def _session(self, feeds: dict[str, Any]) -> Any:
        plan = self.plan
        infos = [_info(name, value) for name, value in feeds.items()]
        outputs = [helper.make_empty_tensor_value_info(name) for name in self.outputs]
        graph = helper.make_graph(self.nodes, "part", infos, outputs)
        for name in self.fixed:
            tensor = graph.initializer.add()
            tensor.CopyFrom(plan.initializers[name])
            if tensor.external_data:
                found = plan.constant(name)
                tensor.CopyFrom(helper.make_tensor(name, tensor.data_type, found.shape, found.tobytes(), raw=True))
            tensor.name = name
        model = ModelProto(ir_version=plan.owner.model.ir_version, graph=graph)
        model.opset_import.extend(plan.owner.model.opset_import)
        try:
            return session(model.SerializeToString())
        except OpenLSTMError:
            raise
        except Exception as error:
            raise _refused("does not take a part of the graph", error) from error


def session(model: bytes) -> Any:
    """ONNX Runtime on the processor, on as many threads as the engine takes.

    Raises:
        MissingExtraError: without it.
    """
    try:
        import onnxruntime as ort
    except ImportError:
        raise missing_extra("read", "onnxruntime", "exchange") from None
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = get_num_threads(), 1
    options.log_severity_level = 4
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _refused(what: str, error: Exception) -> ArgumentError:
    hint = "run the whole model on ONNX Runtime: it says the same where the model or its inputs are wrong"
    return ArgumentError.of("ONNX Runtime", what, short(str(error), 300), "a model and inputs that it runs", hint)


def _info(name: str, value: Any) -> ValueInfoProto:
    if not isinstance(value, (np.ndarray, np.generic)):
        got, hint = f"{name!r}: {type(value).__name__}", "run the whole model on ONNX Runtime"
        raise ArgumentError.of("the graph", "hands on what is no tensor beside a recurrent node", got, "a tensor", hint)
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), None)
