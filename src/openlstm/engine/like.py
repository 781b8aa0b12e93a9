"""What the arrays of one call have in common, and the errors of an array that is of another kind or shape."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from openlstm import _array as A
from openlstm._array import Array
from openlstm.cells import Cell
from openlstm.errors import ArgumentError, DtypeError, OpenLSTMError, ShapeError, describe, message


class Like(NamedTuple):
    """What all arrays of one call have in common, and the array that decides it."""

    who: str
    name: str
    first: Array
    letters: str
    kind: type
    dtype: Any
    device: Any

    def __str__(self) -> str:
        return f"{self.name}: {describe(self.first)}, {self.letters}"

    def error(self, kind: type[OpenLSTMError], what: str, got: str, expected: str, hint: str) -> OpenLSTMError:
        return kind(message(self.who, what, got, expected, hint))


def check_first(who: str, name: str, a: Any, letters: str) -> Like:
    """The array that decides: numpy or torch, and floating."""
    tensor = A.is_torch(a)
    if not tensor and not isinstance(a, np.ndarray):
        expected = f"a numpy array or a torch tensor {letters}"
        hint = f"convert it: numpy.asarray({name}, dtype=numpy.float32) or torch.tensor({name})"
        raise DtypeError.of(who, f"{name} is not an array", f"{name}: {describe(a)}", expected, hint)
    if not (str(a.dtype) in _TENSORS if tensor else a.dtype.kind == "f"):
        hint = f"convert it: {name}.float()" if tensor else f"convert it: {name}.astype(numpy.float32)"
        got, expected = f"{name}: {describe(a)}", f"float32 or float64 {letters}"
        raise DtypeError.of(who, f"{name} is not floating", got, expected, hint)
    kind = A.namespace(a).Tensor if tensor else np.ndarray
    return Like(who, name, a, letters, kind, a.dtype, getattr(a, "device", None))


_TENSORS = frozenset({"torch.float32", "torch.float64", "torch.bfloat16", "torch.float16"})


def check_kind(owner: str, field: str, a: Any, like: Like) -> None:
    """The array `owner.field` is of the kind, dtype and device of the first one."""
    if isinstance(a, like.kind) and a.dtype == like.dtype and getattr(a, "device", None) == like.device:
        return
    name = f"{owner}.{field}"
    if not isinstance(a, like.kind):
        raise wrong_kind(name, a, like)
    if a.dtype != like.dtype:
        dtype = str(like.dtype).removeprefix("torch.")
        how = f"{name}.to({like.dtype})" if A.is_torch(a) else f"{name}.astype(numpy.{dtype})"
        hint = f"all arrays of one call have one dtype; convert it: {how}"
        raise like.error(DtypeError, f"{name} is not {dtype}", f"{name}: {describe(a)}  ({like})", dtype, hint)
    hint = f"move it: {name}.to({str(like.device)!r})"
    got = f"{name}: {describe(a)} on {a.device}"
    raise like.error(ArgumentError, f"{name} is on {a.device}", got, f"on {like.device}, as {like.name}", hint)


def wrong_kind(name: str, a: Any, like: Like) -> OpenLSTMError:
    """Numpy among torch, torch among numpy, or no array."""
    tensor = like.kind is not np.ndarray
    article = "a torch tensor" if tensor else "a numpy array"
    hint = f"convert it: torch.as_tensor({name})" if tensor else f"convert it: numpy.asarray({name})"
    if a is None:
        hint = f"pass {name}"
    got = f"{name}: {name_of(a)}  ({like})"
    return like.error(DtypeError, f"{name} is not {article}, as {like.name} is", got, article, hint)


def wrong_shape(name: str, a: Array, letters: str, expected: tuple[int, ...], like: Like, hint: str) -> OpenLSTMError:
    """A wrong size, with the right one in letters and in numbers."""
    what = f"{name} has shape {list(a.shape)}, expected {list(expected)}"
    return like.error(ShapeError, what, f"{name}: {describe(a)}  ({like})", f"{letters} = {list(expected)}", hint)


def rows_of(cell: Cell) -> str:
    """The rows of the weights of all gates, in letters."""
    blocks, m = len(cell.gates), cell.cells_per_gate
    return f"{blocks - 1}*H/{m} + H" if m > 1 else "H" if blocks == 1 else f"{blocks}*H"


def axes(n: int) -> str:
    """1 axis, 3 axes."""
    return "1 axis" if n == 1 else f"{n} axes"


def count(n: int, noun: str) -> str:
    """1 unit, 3 units."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def name_of(a: Any) -> str:
    """What was passed instead of an array."""
    if isinstance(a, type):
        return f"the class {a.__name__}"
    return "None" if a is None else describe(a)
