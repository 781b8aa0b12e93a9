"""Tensors of an ONNX file that do not depend on its inputs: initializers, external data, and what a few operators make of them.

A file may lie: sizes are held against the bytes that are there before anything is made of them, and nothing grows.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

DEPTH = 100
"""Nodes in a row between a weight and its initializer."""

LARGEST = 2**28
"""Bytes of what is joined out of other tensors."""

FOLDED = ("Cast", "Concat", "DequantizeLinear", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that are computed where all they read is known; none of them makes more numbers than it is given."""

FIELDS: dict[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
    **dict.fromkeys((TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8, TensorProto.UINT8), "int32_data"),
    **dict.fromkeys((TensorProto.INT16, TensorProto.UINT16, TensorProto.INT32, TensorProto.BOOL), "int32_data"),
}
"""Types of elements that are read, and where their numbers lie when they are not in `raw_data`."""


class Unknown(Exception):
    """A tensor that is not there, is damaged, or depends on the inputs; the text says which."""


class Constants:
    """The constant tensors of a graph, and of those around it.

    Args:
        graph: whose initializers and nodes are looked at.
        opset: its version of the operators.
        folder: where external data lie; None for a model without a file.
        outer: of the graph around it.
    """

    def __init__(self, graph: GraphProto, opset: int, folder: Path | None, outer: Constants | None = None) -> None:
        self.opset, self.folder, self.outer = opset, folder, outer
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output if name}
        self.given = {info.name for info in graph.input} - set(self.tensors)
        self._made: dict[str, np.ndarray] = {}

    def value(self, name: str, depth: int = 0) -> np.ndarray:
        """The numbers of a tensor.

        Raises:
            Unknown: where they are not known, with the reason.
        """
        if name in self._made:
            return self._made[name]
        if name in self.tensors:
            found = array(self.tensors[name], self.folder)
        elif name in self.makers:
            found = self._computed(name, self.makers[name], depth)
        elif name not in self.given and self.outer is not None:
            return self.outer.value(name, depth)
        else:
            raise Unknown(f"{name!r} is an input of the graph" if name in self.given else f"{name!r} is nowhere defined")
        self._made[name] = found
        return found

    def is_known(self, name: str) -> bool:
        """Whether `value` would find it."""
        try:
            self.value(name)
        except Unknown:
            return False
        return True

    def _computed(self, name: str, node: NodeProto, depth: int) -> np.ndarray:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            return _constant(node, self.folder)
        if node.op_type not in FOLDED or node.domain not in ("", "ai.onnx"):
            raise Unknown(f"{name!r} is computed by {node.op_type} {node.name!r} when the model runs")
        if depth >= DEPTH:
            raise Unknown(f"{name!r} is computed by more than {DEPTH} nodes in a row")
        given = {one: self.value(one, depth + 1) for one in node.input if one}
        size = sum(given[one].nbytes for one in node.input if one)
        if size > LARGEST and node.op_type == "Concat":
            raise Unknown(f"{name!r} is joined to {size:,} bytes, at most {LARGEST:,} are read")
        if node.op_type == "DequantizeLinear" and not _fits(node, [given[one] for one in node.input if one]):
            raise Unknown(f"the scales of {name!r} do not fit its numbers")
        try:
            made = _run(node, given, self.opset)
        except Exception as error:
            raise Unknown(f"{node.op_type} {node.name!r} cannot be computed: {str(error).splitlines()[0][:100]}") from None
        self._made.update((out, a) for out, a in zip(node.output, made, strict=False) if out)
        return self._made[name]


def array(tensor: TensorProto, folder: Path | None) -> np.ndarray:
    """The numbers of a tensor, after its sizes were held against the bytes that are there; bfloat16 as the same in float32.

    Raises:
        Unknown: where they are not there.
    """
    name, kind = tensor.name, tensor.data_type
    if kind not in FIELDS:
        known = {int(number): word for word, number in TensorProto.DataType.items()}.get(kind, str(kind))
        raise Unknown(f"{name!r} has elements of type {known}, which no layer has")
    if any(n < 0 for n in tensor.dims):
        raise Unknown(f"{name!r} has the shape {list(tensor.dims)}")
    count, dtype = math.prod(tensor.dims), helper.tensor_dtype_to_np_dtype(kind)
    wanted = count * dtype.itemsize
    if tensor.data_location == TensorProto.EXTERNAL:
        found = np.frombuffer(external(tensor, wanted, folder), dtype).reshape(tuple(tensor.dims))
    else:
        raw = tensor.HasField("raw_data")
        held = len(tensor.raw_data) if raw else len(getattr(tensor, FIELDS[kind])) * dtype.itemsize
        if held != wanted:
            shape = list(tensor.dims)
            raise Unknown(f"{name!r} declares {shape} {dtype.name}, {wanted:,} bytes, and holds {held:,}")
        found = numpy_helper.to_array(tensor)
    return found.astype(np.float32) if kind == TensorProto.BFLOAT16 else found


def external(tensor: TensorProto, wanted: int, folder: Path | None) -> bytes:
    """The bytes of a tensor that lie in a file beside the model.

    Raises:
        Unknown: for a file that is not there, lies outside of the model's folder, or is too short.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise Unknown(f"{tensor.name!r} lies in {location!r} beside a file: read the model by its path")
    place = (folder / location).resolve()
    if not location or not place.is_relative_to(folder.resolve()):
        raise Unknown(f"{tensor.name!r} lies in {location!r}, outside of the model's folder")
    if not place.is_file():
        raise Unknown(f"{tensor.name!r} lies in {location!r}, which is not beside the model: copy it there")
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", wanted))
    except ValueError:
        raise Unknown(f"{tensor.name!r} lies at no place in {location!r}") from None
    held = place.stat().st_size
    if offset < 0 or length != wanted or offset + length > held:
        raise Unknown(f"{tensor.name!r} needs {wanted:,} bytes at {offset:,} in {location!r}, which holds {held:,}")
    with place.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _constant(node: NodeProto, folder: Path | None) -> np.ndarray:
    of = {a.name: a for a in node.attribute}
    if "value" in of:
        return array(of["value"].t, folder)
    for name in ("value_float", "value_floats", "value_int", "value_ints"):
        if name in of:
            return np.asarray(helper.get_attribute_value(of[name]), np.float32 if "float" in name else np.int64)
    raise Unknown(f"the Constant {node.name!r} holds no numbers")


def _fits(node: NodeProto, given: list[np.ndarray]) -> bool:
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    x, *others = given
    sizes = (1, *(x.shape[axis : axis + 1 or None] if -x.ndim <= axis < x.ndim else ()))
    return all(a.size in sizes for a in others)


def _run(node: NodeProto, given: dict[str, np.ndarray], opset: int) -> list[Any]:
    from onnx.reference import ReferenceEvaluator

    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), None) for n, a in given.items()]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = helper.make_graph([node], "one", infos, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return [np.asarray(a) for a in ReferenceEvaluator(model).run(None, given)]
