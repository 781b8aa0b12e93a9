"""A graph with the branches of its `If` nodes that ran last in their place: fewer cuts, so fewer calls of ONNX Runtime.

Whether the same branches are right again is looked at when it has run; if not, the graph is run as it stands.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto

from openlstm.exchange.onnx.nodes import Node, graphs_of
from openlstm.exchange.onnx.plan import Owner, Part, Plan, Recurrent, Runs, Values, part_of


class Flat:
    """The plan of a whole model in which some branches are in place.

    Args:
        owner: its model and what was read of it.
        choices: which branch stands for each `If`, by its place.
    """

    def __init__(self, owner: Owner, choices: dict[Any, bool]) -> None:
        whole = part_of(owner.model.graph, owner, {})
        self.choices, self.owner = choices, owner._replace(nodes=dict(owner.nodes))
        self.steps: list[tuple[Any, Any]] = []
        self.initializers: dict[str, TensorProto] = dict(whole.initializers)
        self.asked: dict[str, bool] = {}
        self.count = 0
        names: dict[str, str] = {}
        self._put(owner.model.graph, (), names)
        self.outputs = [names.get(name, name) for name in whole.outputs]
        outputs = list(dict.fromkeys([*self.outputs, *self.asked]))
        self.plan = Plan(Part(self.steps, whole.inputs, outputs, self.initializers, whole.defaults), self.owner)

    def run(self, values: Values, runs: Runs) -> list[Any] | None:
        """The outputs, or None where other branches should have run."""
        found = dict(zip(self.plan.outputs, self.plan.run(values, runs), strict=True))
        right = all(bool(np.asarray(found[name]).item()) is which for name, which in self.asked.items())
        return [found[name] for name in self.outputs] if right else None

    def _put(self, graph: GraphProto, at: Any, names: dict[str, str]) -> None:
        """Add the steps of a graph; `names` are those that its tensors have here."""
        for k, node in enumerate(graph.node):
            place = (*at, k)
            if place in self.choices:
                self._put_branch(node, place, names)
                continue
            for at_node, own in self.owner.nodes.items():
                if at_node[: len(place)] == place:  # itself, or within a loop
                    self.owner.nodes[at_node] = _renamed_node(own, names)
            here = self.owner.nodes.get(place)
            self.steps.append((renamed(node, names) if here is None else Recurrent(here), place))

    def _put_branch(self, node: NodeProto, place: Any, names: dict[str, str]) -> None:
        which = self.choices[place]
        word, j, inner = next(one for one in graphs_of(node) if one[0] == ("then_branch" if which else "else_branch"))
        own = [name for other in inner.node for name in other.output] + [tensor.name for tensor in inner.initializer]
        self.count += 1
        mine = {name: f"{name}@{self.count}" for name in own if name}
        self.asked[names.get(node.input[0], node.input[0])] = which
        self.initializers |= {mine[tensor.name]: tensor for tensor in inner.initializer}
        within = {**names, **mine}
        self._put(inner, (*place, word, j), within)
        names.update((out, within.get(info.name, info.name)) for out, info in zip(node.output, inner.output, strict=True))


def _renamed_node(node: Node, names: dict[str, str]) -> Node:
    now = {word: names.get(name, name) for word in ("x", "lengths", "h", "c") if (name := getattr(node, word))}
    return replace(node, outputs=tuple(names.get(name, name) for name in node.outputs), **now)


def renamed(node: NodeProto, names: dict[str, str]) -> NodeProto:
    """A node that reads and writes tensors by other names, in the graphs within it too."""
    if not names:
        return node
    made = NodeProto()
    made.CopyFrom(node)
    _rename(made, names)
    return made


def _rename(node: NodeProto, names: dict[str, str]) -> None:
    for group in (node.input, node.output):
        group[:] = [names.get(name, name) for name in group]
    for _, _, graph in graphs_of(node):
        own = {info.name for info in graph.input} | {tensor.name for tensor in graph.initializer}
        own |= {name for inner in graph.node for name in inner.output}
        outer = {name: new for name, new in names.items() if name not in own}
        for inner in graph.node:
            _rename(inner, outer)
        for info in graph.output:
            info.name = outer.get(info.name, info.name)
