"""Recurrent cells in trees of Flax's linen parameters, in memory or as msgpack, and into them.

Flax has one kernel [I, H] or [H, H] for each gate: `ii`, `if`, `ig`, `io` of x and `hi`, ... of h. Its LSTM has one bias, at h.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from openlstm import cells
from openlstm.cells import Cell
from openlstm.errors import ArgumentError, OpenLSTMError, missing_extra
from openlstm.exchange.checkpoints import DEEPEST, MOST
from openlstm.exchange.contents import NUMBERS, Lazy, damaged, reading, shape_of
from openlstm.exchange.layers import Layers, brief_of
from openlstm.exchange.stack import FLOATS, WIDENED, Stack
from openlstm.exchange.written import stack_of
from openlstm.weights import Weights

EXPECTED = "a msgpack file of Flax"
NOTE = "a tree does not name activations: those that Flax takes by itself were taken"


class Kind(NamedTuple):
    """A cell of Flax: its gates as Flax calls them, in our order, and which of its parts have a bias."""

    cell: Cell
    gates: tuple[str, ...]
    biased: tuple[str, ...]


KINDS = {
    "LSTM": Kind(cells.LSTM(), ("i", "f", "g", "o"), ("hi", "hf", "hg", "ho")),
    "GRU": Kind(cells.GRU(), ("r", "z", "n"), ("ir", "iz", "in", "hn")),
    "RNN": Kind(cells.VanillaRNN("tanh"), ("",), ("i",)),
}
"""OptimizedLSTMCell and LSTMCell, GRUCell, SimpleCell."""

OTHERS = {frozenset(("if", "in", "hf", "hn")): "an MGUCell", frozenset(("ih", "hh")): "a ConvLSTMCell"}


def layers_of(tree: Mapping[str, Any], who: str) -> Layers:
    """The recurrent cells of a tree of parameters: nested mappings of arrays.

    Raises:
        ArgumentError: if there is none that can be expressed.
    """
    found: dict[str, Stack] = {}
    left: dict[str, str] = {}
    waiting: list[tuple[str, Any, int]] = [("", tree, 0)]
    count = 0
    while waiting:
        place, node, depth = waiting.pop()
        count += 1
        if depth > DEEPEST or count > MOST:
            raise damaged(who, f"mappings {depth} deep, {count} in all", f"at most {DEEPEST} deep, {MOST} in all")
        parts = {str(key): value for key, value in node.items() if isinstance(value, Mapping)}
        names = frozenset(name for name, part in parts.items() if "kernel" in part)
        kind = next((k for k in KINDS.values() if names == {way + gate for way in "ih" for gate in k.gates}), None)
        if kind is not None:
            try:
                found[place] = _stack(place, kind, parts)
            except OpenLSTMError as error:
                left[place or who] = brief_of(error)
        elif names in OTHERS:
            left[place or who] = f"it is {OTHERS[names]}, which no cell here is; keep it in Flax"
        else:
            inside = [(f"{place}.{key}" if place else key, value, depth + 1) for key, value in parts.items()]
            waiting += reversed(inside)
    return Layers(who, _paired(found), (NOTE,), left)


def nested(arrays: Mapping[str, Lazy]) -> dict[str, Any]:
    """Arrays by the paths to them, "params.cell.ii.kernel", as the tree that they are from."""
    tree: dict[str, Any] = {}
    for path, lazy in arrays.items():
        *places, name = path.split(".")
        node = tree
        for place in places:
            inside = node.setdefault(place, {})
            node = inside if isinstance(inside, dict) else {}
        node[name] = lazy
    return tree


def _paired(found: dict[str, Stack]) -> list[Stack]:
    """The two directions of a `Bidirectional` as one."""
    made = dict(found)
    for place, stack in found.items():
        start, way, end = place.rpartition("forward_rnn")
        other = f"{start}backward_rnn{end}"
        if way and other in found and stack.cell == found[other].cell:
            try:
                pair = (*stack.weights[0], *found[other].weights[0])
                both = Stack(start.rstrip("."), stack.cell, (pair,), True, False, stack.notes)
            except OpenLSTMError:
                continue  # of different sizes: two layers
            del made[other]
            made[place] = both
    return list(made.values())


def _stack(place: str, kind: Kind, parts: dict[str, Any]) -> Stack:
    """One cell."""
    notes: tuple[str, ...] = ()

    def read(name: str, key: str) -> Any:
        nonlocal notes
        value = parts[name].get(key)
        if value is None:
            return None
        lazy = value if isinstance(value, Lazy) else _lazy(value)
        if lazy.dtype not in (*FLOATS, "bfloat16"):
            got, expected = f"{name}/{key} of {lazy.dtype}", ", ".join(FLOATS)
            raise ArgumentError.of(place, "cannot be the weights of a layer", got, expected, "convert it to float32")
        if lazy.dtype == "bfloat16":
            notes = (WIDENED,)
        if len(lazy.shape) != (2 if key == "kernel" else 1):
            got, hint = f"{name}/{key} {list(lazy.shape)}", "keep it in Flax"
            raise ArgumentError.of(place, "is no recurrent layer", got, "kernels [I, H] and [H, H], biases [H]", hint)
        return lazy.read()

    halves: list[Any] = []
    for way in "ih":
        kernels = [read(way + gate, "kernel") for gate in kind.gates]
        biases = [read(way + gate, "bias") for gate in kind.gates]
        if len({k.shape for k in kernels}) > 1:
            got = ", ".join(f"{way}{g} {list(k.shape)}" for g, k in zip(kind.gates, kernels, strict=True))
            raise ArgumentError.of(place, "its gates differ", got, "kernels of one shape", "keep it in Flax")
        zeros = np.zeros(kernels[0].shape[1], kernels[0].dtype)
        halves.append(np.concatenate([k.T for k in kernels]))
        there = any(b is not None for b in biases)
        halves.append(np.concatenate([zeros if b is None else b for b in biases]) if there else None)
    w_ih, b_ih, w_hh, b_hh = halves
    return Stack(place, kind.cell, ((Weights(w_ih, w_hh, b_ih, b_hh),),), True, False, notes)


def _lazy(value: Any) -> Lazy:
    array = np.asarray(value)
    if array.dtype.name == "bfloat16":
        return Lazy("bfloat16", array.shape, lambda: array.view(np.uint16))
    return Lazy(array.dtype.name, array.shape, lambda: array)


def read_file(file: BinaryIO, path: Path) -> Layers:
    """The recurrent cells of a msgpack file, as `flax.serialization.to_bytes` writes it."""
    msgpack = _msgpack("reading a file of Flax")
    who = str(path)
    count = 0

    def counted(value: Any) -> Any:
        nonlocal count
        count += 1
        if count > MOST:
            raise ValueError(f"more than {MOST} containers")
        return value

    def extension(code: int, data: bytes) -> Any:
        if code != 1:
            return None  # a scalar
        sizes, name, numbers = msgpack.unpackb(data, use_list=False)
        if name not in NUMBERS:
            return Lazy(str(name), (), lambda: np.zeros(()))
        kind = NUMBERS[name]
        shape = shape_of(who, sizes, len(numbers) // kind.itemsize)
        size = int(np.prod(shape))
        return Lazy(name, shape, lambda: np.frombuffer(numbers, kind)[:size].reshape(shape))

    with reading(who, EXPECTED, "fetch the file again"):
        options = {"ext_hook": extension, "object_hook": counted, "list_hook": counted, "strict_map_key": False}
        tree = msgpack.unpackb(file.read(), **options)
        if not isinstance(tree, dict):
            raise ValueError(f"a {type(tree).__name__}, where a tree of parameters is a map")
        return layers_of(_whole(tree, 0), who)


def _whole(tree: dict[Any, Any], depth: int) -> Any:
    """A tree in which arrays that were written in pieces are one again."""
    if depth > DEEPEST:
        raise ValueError("a tree that is too deep")
    if "__msgpack_chunked_array__" in tree:
        shape = tuple(tree["shape"][str(n)] for n in range(len(tree["shape"])))
        parts = [tree["chunks"][str(n)] for n in range(len(tree["chunks"]))]
        shape = shape_of("a chunked array", shape, sum(int(np.prod(p.shape)) for p in parts))
        return Lazy(parts[0].dtype, shape, lambda: np.concatenate([p.load().ravel() for p in parts]).reshape(shape))
    return {key: _whole(value, depth + 1) if isinstance(value, dict) else value for key, value in tree.items()}


def _msgpack(who: str) -> Any:
    try:
        import msgpack
    except ModuleNotFoundError as error:
        raise missing_extra(who, "msgpack", "exchange") from error
    return msgpack


def write(model: Any) -> dict[str, Any]:
    """A layer of ours as a tree of Flax's parameters.

    It is that of `nn.RNN(nn.OptimizedLSTMCell(H))`, with several layers of a `nn.Sequential` of such, with two directions of
    `nn.Bidirectional`. Flax's LSTM and SimpleCell have one bias, the sum of both; its GRU has both for n and the sum for r, z.

    Raises:
        ArgumentError: for what Flax has not.

    >>> import openlstm
    >>> tree = write(openlstm.GRU(3, 5))
    >>> sorted(tree["params"]["cell"]), tree["params"]["cell"]["ir"]["kernel"].shape
    (['hn', 'hr', 'hz', 'in', 'ir', 'iz'], (3, 5))
    """
    stack = stack_of(model, "flax")
    kind = next((kind for kind in KINDS.values() if kind.cell == stack.cell), None)
    if kind is None or stack.proj_size or not stack.input_projection or stack.reverse:
        hint = "to='onnx' has peepholes, other cells and directions; or keep the openlstm layer"
        expected = "LSTM, GRU or RNN of tanh, without a projection, not backwards alone"
        raise ArgumentError.of("export to flax", "Flax has no such layer", str(stack), expected, hint)
    made = []
    for layer in stack.weights:
        one = [{"cell": _tree(kind, w)} for w in layer]
        made.append(one[0] if len(one) == 1 else {"forward_rnn": one[0], "backward_rnn": one[1]})
    return {"params": made[0] if len(made) == 1 else {f"layers_{n}": one for n, one in enumerate(made)}}


def _tree(kind: Kind, w: Weights) -> dict[str, dict[str, np.ndarray]]:
    G = len(kind.gates)
    tree: dict[str, dict[str, np.ndarray]] = {}
    zeros = np.zeros(w.w_hh.shape[0], w.w_hh.dtype)
    b_ih, b_hh = (np.split(zeros if b is None else b, G) for b in (w.b_ih, w.b_hh))
    for n, gate in enumerate(kind.gates):
        both = f"i{gate}" in kind.biased and f"h{gate}" in kind.biased
        for way, matrix, bias in (("i", w.w_ih, b_ih), ("h", w.w_hh, b_hh)):
            tree[way + gate] = {"kernel": np.ascontiguousarray(np.split(matrix, G)[n].T)}
            if way + gate in kind.biased:
                tree[way + gate]["bias"] = bias[n] if both else b_ih[n] + b_hh[n]
    return tree


def encode(made: dict[str, Any]) -> bytes:
    """The bytes that `flax.serialization.msgpack_restore` reads.

    Raises:
        MissingExtraError: without msgpack.
    """
    msgpack = _msgpack("export to flax")

    def array(value: Any) -> Any:
        return msgpack.ExtType(1, msgpack.packb((value.shape, value.dtype.name, value.tobytes())))

    return msgpack.packb(made, default=array, strict_types=True)
