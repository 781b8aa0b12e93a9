"""An array that writes down what is done to it as nodes of ONNX: numpy's functions on it give a cell's equations as a graph.

`_array` calls numpy for whatever is no tensor of torch, and numpy asks an array of another kind what its functions mean there.
So `reference.full_step` itself, with all that a cell does, is what is exported, and no cell is written down twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from onnx import NodeProto, TensorProto, helper, numpy_helper

from openlstm.errors import ArgumentError

FREE = -1
"""The size of an axis that is known when the model runs: the batch."""


class Writer:
    """The nodes of a graph as they are written, and the constants of the model.

    Args:
        around: of the graph around it, which holds the constants of both.
        taken: names that no tensor of its own may have.
    """

    def __init__(self, around: Writer | None = None, taken: Collection[str] = ()) -> None:
        self.taken: Collection[str] = around.taken if around else taken
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = around.constants if around else {}
        self._count: list[int] = around._count if around else [0]
        self._held: dict[int, tuple[Any, str]] = around._held if around else {}

    def fresh(self, word: str) -> str:
        """A name that no other tensor has."""
        self._count[0] += 1
        name = f"{word}_{self._count[0]}"
        return self.fresh(word) if name in self.taken else name

    def op(self, kind: str, *inputs: Any, count: int = 1, domain: str = "", **attributes: Any) -> Any:
        """Add a node; the name of its output, or several."""
        names = [self.fresh(kind.lower()) for _ in range(count)]
        given = ["" if a is None else a if isinstance(a, str) else self.constant(a) for a in inputs]
        self.nodes.append(helper.make_node(kind, given, names, domain=domain, **attributes))
        return names[0] if count == 1 else names

    def needed(self, outputs: list[str]) -> list[NodeProto]:
        """The nodes without those whose outputs nobody reads."""
        wanted, kept = set(outputs), []
        for node in reversed(self.nodes):
            if wanted & set(node.output):
                kept.append(node)
                wanted |= {*node.input, *(name for a in node.attribute for inner in a.g.node for name in inner.input)}
        return kept[::-1]

    def constant(self, value: Any) -> str:
        """The name of a constant; the same array has one name."""
        key = id(value)
        if key in self._held and self._held[key][0] is value:
            return self._held[key][1]
        array = np.asarray(value)
        name = self.fresh("constant")
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        self._held[key] = (value, name)
        return name


class Traced(NDArrayOperatorsMixin):
    """An array of a graph that is being written: its name, type and shape, `FREE` where the batch stands.

    Raises:
        ArgumentError: for a function of numpy that has no counterpart here.
    """

    def __init__(self, writer: Writer, name: str, shape: tuple[int, ...], dtype: Any = np.float32) -> None:
        self.writer, self.name, self.shape, self.dtype = writer, name, shape, np.dtype(dtype)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def _new(self, name: str, shape: tuple[int, ...], dtype: Any = None) -> Traced:
        return Traced(self.writer, name, shape, self.dtype if dtype is None else dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__" or kwargs or ufunc not in UFUNCS:
            raise _unknown(f"numpy.{ufunc.__name__}")
        given = [a if isinstance(a, Traced) else self._constant(a) for a in inputs]
        return UFUNCS[ufunc](self, *given)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func not in FUNCTIONS:
            raise _unknown(f"numpy.{func.__name__}")
        return FUNCTIONS[func](self, *args, **kwargs)

    def _constant(self, value: Any, kind: Any = None) -> Traced:
        """A number or an array beside it, in its type."""
        if kind is None:
            kind = np.bool_ if np.asarray(value).dtype == bool else np.float32 if self.dtype == bool else self.dtype
        kind = np.dtype(kind)
        array = value if isinstance(value, np.ndarray) and value.dtype == kind else np.asarray(value, kind)
        return self._new(self.writer.constant(array), array.shape, kind)

    def node(self, kind: str, *others: Traced, dtype: Any = None, **attributes: Any) -> Traced:
        """An operator element by element on this and others."""
        name = self.writer.op(kind, self.name, *(a.name for a in others), **attributes)
        return self._new(name, _together(self.shape, *(a.shape for a in others)), dtype)

    def reshape(self, *shape: int) -> Traced:
        known = [n for n in shape if n != FREE]
        return self._new(self.writer.op("Reshape", self.name, np.array(shape)), tuple(shape)) if known else self

    def astype(self, dtype: Any) -> Traced:
        kind = np.dtype(dtype)
        return self if kind == self.dtype else self.node("Cast", to=helper.np_dtype_to_tensor_dtype(kind), dtype=kind)

    def sigmoid(self) -> Traced:
        return self.node("Sigmoid")

    def sum(self, axis: int) -> Traced:
        """The sum along the last axis."""
        return self._new(self.writer.op("ReduceSum", self.name, np.array([axis]), keepdims=0), self.shape[:-1])

    def max(self, axis: int, keepdims: bool, initial: float) -> Traced:
        """The largest along the last axis, and `initial`."""
        found = self._new(self.writer.op("ReduceMax", self.name, axes=[axis], keepdims=1), (*self.shape[:-1], 1))
        return found.node("Max", self._constant(initial))

    def __getitem__(self, key: Any) -> Traced:
        *before, last = key if isinstance(key, tuple) else (key,)
        if any(one is not Ellipsis and one != slice(None) for one in before) or not before:
            raise _unknown("an index that is not along the last axis")
        if last is None:
            return self._new(self.writer.op("Unsqueeze", self.name, np.array([-1])), (*self.shape, 1))
        start, stop, step = last.indices(self.shape[-1])
        shape = (*self.shape[:-1], len(range(start, stop, step)))
        if shape == self.shape:
            return self
        ends = (np.array([n]) for n in (start, stop, -1, step))
        return self._new(self.writer.op("Slice", self.name, *ends), shape)


def _unknown(what: str) -> ArgumentError:
    expected, hint = "the functions of `openlstm.cells`: sigmoid, tanh, exp, where, ..", "write the cell with these"
    return ArgumentError.of("export to 'onnx'", "a cell uses what cannot be written down", what, expected, hint)


def _together(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of several arrays that are spread over each other."""
    ndim = max(map(len, shapes))
    padded = [(1,) * (ndim - len(shape)) + shape for shape in shapes]
    return tuple(next((n for n in sizes if n != 1), 1) for sizes in zip(*padded, strict=True))


def _op(kind: str, dtype: Any = None) -> Callable[..., Traced]:
    return lambda like, *given: given[0].node(kind, *given[1:], dtype=dtype)


def _log1p(like: Traced, x: Traced) -> Traced:
    """log(1 + x) to full precision: where 1 + x is rounded, log(1 + x) x / ((1 + x) - 1) takes it back (Kahan)."""
    one = x + 1
    rest = one - 1
    safe = _where(like, rest == 0, rest * 0 + 1, rest)
    return _where(like, rest == 0, x, np.log(one) * x / safe)


def _matmul(like: Traced, a: Traced, b: Traced) -> Traced:
    return a._new(a.writer.op("MatMul", a.name, b.name), (*a.shape[:-1], b.shape[-1]))


def _where(like: Traced, condition: Any, a: Any, b: Any) -> Traced:
    kind = next((x.dtype for x in (a, b) if isinstance(x, (Traced, np.ndarray))), None)
    condition, a, b = (x if isinstance(x, Traced) else like._constant(x, kind) for x in (condition, a, b))
    return condition.node("Where", a, b, dtype=a.dtype)


def _concatenate(like: Traced, arrays: Any, axis: int) -> Traced:
    parts = [a if isinstance(a, Traced) else like._constant(a) for a in arrays]
    shape = (*like.shape[:-1], sum(a.shape[-1] for a in parts))
    return like._new(like.writer.op("Concat", *(a.name for a in parts), axis=axis), shape)


def _full(value: float) -> Callable[..., Traced]:
    """Instead of many equal numbers a single one, which operators spread by themselves."""
    return lambda like, x: x._constant(value)


def _einsum(like: Traced, how: str, *arrays: Any) -> Traced:
    parts = [a if isinstance(a, Traced) else like._constant(a) for a in arrays]
    inputs, output = how.replace("...", "Z").split("->")
    sizes: dict[str, int] = {}
    for letters, a in zip(inputs.split(","), parts, strict=True):
        letters = letters if a.ndim == len(letters) else letters.replace("Z", "")
        sizes.update(zip(letters, a.shape, strict=True))
    shape = tuple(sizes[letter] for letter in output)
    return like._new(like.writer.op("Einsum", *(a.name for a in parts), equation=f"{inputs}->{output}"), shape)


UFUNCS: dict[Any, Callable[..., Any]] = {
    np.add: _op("Add"),
    np.subtract: _op("Sub"),
    np.multiply: _op("Mul"),
    np.true_divide: _op("Div"),
    np.negative: _op("Neg"),
    np.absolute: _op("Abs"),
    np.exp: _op("Exp"),
    np.log: _op("Log"),
    np.isnan: _op("IsNaN", np.bool_),
    np.sqrt: _op("Sqrt"),
    np.tanh: _op("Tanh"),
    np.maximum: _op("Max"),
    np.minimum: _op("Min"),
    np.less: _op("Less", np.bool_),
    np.less_equal: _op("LessOrEqual", np.bool_),
    np.greater: _op("Greater", np.bool_),
    np.greater_equal: _op("GreaterOrEqual", np.bool_),
    np.equal: _op("Equal", np.bool_),
    np.bitwise_or: _op("Or"),
    np.bitwise_and: _op("And"),
    np.invert: _op("Not"),
    np.log1p: _log1p,
    np.matmul: _matmul,
}
"""numpy's functions element by element, and the operator of each."""

FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.where: _where,
    np.concatenate: _concatenate,
    np.zeros_like: _full(0.0),
    np.ones_like: _full(1.0),
    np.einsum: _einsum,
}
"""numpy's other functions."""
