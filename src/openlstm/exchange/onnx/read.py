"""The recurrent nodes of an ONNX model, wherever in it they stand, as layers of ours; what cannot be expressed is named."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from onnx import GraphProto, ModelProto, inliner

from openlstm.errors import ArgumentError, DataError
from openlstm.exchange.contents import reading, short
from openlstm.exchange.onnx.constants import Constants, Unknown
from openlstm.exchange.onnx.graph import Graph
from openlstm.exchange.onnx.nodes import Node, graphs_of, is_recurrent, read_node
from openlstm.exchange.onnx.plan import CUT

OLDEST = 7
KIND = "a model as onnx.save writes it"
DEEPEST = 3 * 50
"""Graphs within graphs: each adds three parts to a place."""

OTHERS = {
    "AttnLSTM": "it has attention inside the recurrence, which no cell here has: export the model without it",
    "Scan": "a Scan holds any arithmetic, and no weights by name: read the file it was exported from",
}


class Place(NamedTuple):
    """Where a graph stands: the names of the nodes around it, their numbers, and the first of them that cannot be cut open."""

    name: str
    at: tuple[Any, ...]
    closed: str = ""


def read(source: str | os.PathLike[str] | bytes | ModelProto) -> Graph:
    """The recurrent layers of an ONNX model by the names of their nodes, and the graph around them.

    Args:
        source: a path, the bytes of a file, or a model. External data have to lie in the folder of the path.

    Returns:
        A `Graph`: its layers by the names of their nodes, `run` and `xray`. Where several nodes have one name, it has those of
        the nodes around it in front, `If_0/then_branch/lstm`. What could not be expressed is in `left`.

    Raises:
        DataError: for a file that is not ONNX, or of an opset that is not known.
        ArgumentError: if there is no recurrent node that can be expressed.
    """
    path = Path(source) if isinstance(source, (str, os.PathLike)) else None
    who = "the model" if path is None else str(path)
    with reading(who, KIND, "fetch the file again"):  # a text in a damaged file may be none
        model = source if isinstance(source, ModelProto) else _parsed(path.read_bytes() if path else source, who)  # type: ignore[arg-type]
        return _read(model, who, None if path is None else path.resolve().parent)


def _read(model: ModelProto, who: str, folder: Path | None) -> Graph:
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST <= opset <= newest:
        expected, hint = f"{OLDEST} to {newest}", "onnx.version_converter.convert_version(model, 17)"
        raise DataError.of(who, "has an opset that is not known", f"opset {opset}", expected, hint)
    if model.functions:
        with reading(who, "functions that can be put in place", "export the model without functions of its own"):
            model = inliner.inline_local_functions(model)
    found = list(_walk(model.graph, Constants(model.graph, opset, folder), Place("", ())))
    count = Counter(own for own, *_ in found)
    nodes: dict[str, Node] = {}
    left: dict[str, str] = {}
    for own, whole, what in found:
        name = _unique(short(own if own and count[own] == 1 else whole, 300), nodes, left)
        if isinstance(what, Node):
            nodes[name] = replace(what, stack=replace(what.stack, name=name))
        else:
            left[name] = what
    if not found:
        seen = sorted({node.op_type for node in model.graph.node})
        got = short(f"nodes {', '.join(seen)}" if seen else "no node")
        hint = "a recurrence that was unrolled into single steps has no such node: export it with the operator"
        raise ArgumentError.of(who, "the graph has no recurrent node", got, "a node LSTM, GRU or RNN", hint)
    return Graph(who, model, nodes, left, folder)


def _parsed(data: bytes, who: str) -> ModelProto:
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:
        model.Clear()
    if not model.HasField("graph") or not model.opset_import:
        got = f"{len(data):,} bytes that are none" if data else "an empty file"
        raise DataError.of(who, "is not an ONNX model", got, KIND, "fetch the file again")
    return model


def _walk(graph: GraphProto, known: Constants, place: Place) -> Iterator[tuple[str, str, Node | str]]:
    """The recurrent nodes of a graph and of those within it: the name, that with the nodes around it, the node or why not."""
    for k, node in enumerate(graph.node):
        whole, at = place.name + (node.name or f"{node.op_type}_{k}"), (*place.at, k)
        if is_recurrent(node):
            try:
                found = read_node(node, whole, at, known)
                note = f"within a {place.closed}, where `run` leaves it to ONNX Runtime"
                notes = (*found.stack.notes, note) if place.closed else found.stack.notes
                yield node.name, whole, replace(found, stack=replace(found.stack, notes=notes))
            except Unknown as why:
                yield node.name, whole, f"{node.op_type}: {short(str(why), 300)}"
        inside = []
        for word, j, inner in graphs_of(node):
            if len(at) < DEEPEST:
                closed = place.closed or ("" if node.op_type in CUT else node.op_type)
                within = Place(f"{whole}/{word}/", (*at, word, j), closed)
                inside += _walk(inner, Constants(inner, known.opset, known.folder, known), within)
        yield from inside
        if node.op_type in OTHERS and not inside:
            yield node.name, whole, OTHERS[node.op_type]


def _unique(name: str, *taken: Any) -> str:
    """The name, or one with a number behind it."""
    names = itertools.chain([name], (f"{name}#{k}" for k in itertools.count(2)))
    return next(one for one in names if not any(one in group for group in taken))
