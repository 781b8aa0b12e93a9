"""Recurrent layers in torch's state dicts, modules and saved files, and back into them.

Legend: I input size, H hidden size, P projected size, K columns of weight_hh, G gates of a cell.
"""

from __future__ import annotations

import dataclasses
import io
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from openlstm import cells
from openlstm._array import is_torch
from openlstm.cells import Cell
from openlstm.errors import ArgumentError, DtypeError, OpenLSTMError
from openlstm.exchange.archives import read_archive
from openlstm.exchange.contents import Archive, Lazy, damaged
from openlstm.exchange.layers import Layers, brief_of
from openlstm.exchange.pickles import Record, array_of
from openlstm.exchange.stack import CELL, FLOATS, WIDENED, Stack
from openlstm.exchange.written import stack_of
from openlstm.weights import FIELDS, NORMS, Weights, collect

MOST, DEEPEST = 1_000_000, 64
"""So many containers, and so deep in each other, are looked through."""

PARAMETERS = (*(name for name, _ in FIELDS), *NORMS)
_NAME = re.compile(rf"(?:(.*)\.)?({'|'.join(PARAMETERS)})(?:_l(\d{{1,4}})(_reverse)?)?", re.DOTALL)
_KINDS = {4: "LSTM", 3: "GRU", 1: "RNN"}


class Found(NamedTuple):
    """What lies in a file of torch: arrays by the names of a state dict, and what is said of the modules they stand in."""

    arrays: dict[str, Lazy]
    modules: dict[str, dict[Any, Any]]  # by the path of a module: its attributes, and "class"


def found_in(tree: Any, who: str) -> Found:
    """Every array in containers and records, by the path to it; that of a parameter is its name in a state dict.

    Raises:
        DataError: for more than a million containers, or some too deep in each other.
    """
    arrays: dict[str, Lazy] = {}
    modules: dict[str, dict[Any, Any]] = {}
    left: list[tuple[str, Any, tuple[int, ...]]] = [("", tree, ())]  # with what it lies in
    count = 0
    while left:
        path, value, around = left.pop()
        count += 1
        if len(around) > DEEPEST or count > MOST:
            raise damaged(who, f"containers {len(around)} deep, {count} in all", f"at most {DEEPEST} deep, {MOST} in all")
        if id(value) in around:
            continue  # a module that knows the one it is in
        if isinstance(value, Record) and value.kind == "numpy.ndarray":
            value = array_of(who, value)
        if isinstance(value, Lazy):
            arrays.setdefault(path, value)
            continue
        inside: Any = ()
        if isinstance(value, Record):
            inside = value.state.items()
            modules[path] = {"class": value.kind, **value.state}
            if isinstance(value.state.get("_parameters"), dict):
                parts = [value.state.get(name) for name in ("_parameters", "_buffers", "_modules")]
                inside = [item for part in parts if isinstance(part, dict) for item in part.items()]
        elif isinstance(value, dict):
            inside = value.items()
        elif isinstance(value, (list, tuple)):
            inside = enumerate(value)
        inside = [(key, one) for key, one in inside if isinstance(one, (Lazy, Record, dict, list, tuple)) and key not in _TWICE]
        around = (*around, id(value))
        left += [(f"{path}.{key}" if path else str(key), one, around) for key, one in reversed(inside)]
    return Found(arrays, modules)


_TWICE = ("_flat_weights", "_all_weights", "_flat_weights_names")
"""What torch's recurrent layers hold beside their parameters."""


def layers_in(tree: Any, who: str, notes: tuple[str, ...] = ()) -> Layers:
    """The recurrent layers in what a file of torch holds.

    Raises:
        ArgumentError: if there is none that can be expressed.
    """
    found = found_in(tree, who)
    groups: dict[str, dict[tuple[int, int], dict[str, Lazy]]] = defaultdict(lambda: defaultdict(dict))
    alone: set[str] = set()
    for path, lazy in found.arrays.items():
        match = _NAME.fullmatch(path)
        if match:
            place, name, layer, backwards = match.groups()
            groups[place or ""][int(layer or 0), int(backwards is not None)][name] = lazy
            if layer is None:
                alone.add(place or "")
        elif path.rpartition(".")[2] == "_recurrent_kernel_":
            groups[path.rpartition(".")[0]][0, 0]["slstm"] = lazy
    stacks: list[Stack] = []
    left: dict[str, str] = {}
    for place, group in groups.items():
        try:
            if "slstm" in group[0, 0]:
                stacks.append(_slstm(place, found.arrays))
            elif place in alone and len(group) == 1:
                stacks.append(_stack(place, group, found.modules.get(place, {}), (CELL,)))
            else:
                stacks.append(_stack(place, group, found.modules.get(place, {})))
        except OpenLSTMError as error:
            left[place or who] = brief_of(error)
    for place, module in found.modules.items():
        if re.search(r"quantized.*\.(LSTM|GRU|RNNCell|LSTMCell|GRUCell)$", module["class"]):
            left[place or who] = f"{module['class']} packs its weights; save the model from before it was quantised"
    return Layers(who, stacks, notes, left)


def _stack(
    place: str, group: dict[tuple[int, int], dict[str, Lazy]], module: dict[Any, Any], notes: tuple[str, ...] = ()
) -> Stack:
    """The layers of one group of parameters."""
    L, D = (1 + max(key[n] for key in group) for n in (0, 1))
    own = module.get("cell")
    own = _own_cell(own) if isinstance(own, Record) else None
    fed = own is None or own.recurrence != "none"
    for n in range(L):
        for d in range(D):
            there = {"weight_ih": n > 0 or module.get("input_projection") is not False, "weight_hh": fed}
            for name in (name for name, needed in there.items() if needed and name not in group.get((n, d), {})):
                full, held = name + f"_l{n}" + "_reverse" * d, ", ".join(group.get((n, d), {})) or "nothing"
                hint = "save plain weights, without parametrisations, dropped or normalised copies"
                raise ArgumentError.of(place, f"there is no {full}", f"{held} beside it", "all weights of every layer", hint)
    first = group[0, 0]
    more: tuple[str, ...]
    cell, more = (own, ()) if own is not None else _cell(place, first, module)
    arrays = [[{name: _floats(place, lazy) for name, lazy in group[n, d].items()} for d in range(D)] for n in range(L)]
    if any(lazy.dtype == "bfloat16" for lazy in first.values()):
        more = (*more, WIDENED)
    weights = tuple(tuple(collect({f"{k}_l0": a for k, a in one.items()}) for one in layer) for layer in arrays)
    kind = module.get("class")
    if isinstance(kind, str) and kind.rpartition(".")[2] not in ("", *_CLASSES) and not kind.startswith("__torch__"):
        more = (*more, f"of the class {kind}, whose own code is not looked at")
    return Stack(place, cell, weights, module.get("batch_first") is True, False, (*notes, *more))


_CLASSES = ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell", "ParameterDict", "OrderedDict")


def _floats(place: str, lazy: Lazy) -> np.ndarray:
    if lazy.dtype not in (*FLOATS, "bfloat16"):
        hint = "save the model from before it was quantised"
        raise ArgumentError.of(place, "cannot be the weights of a layer", lazy.dtype, ", ".join(FLOATS), hint)
    return lazy.read()


def _cell(place: str, first: dict[str, Lazy], module: dict[Any, Any]) -> tuple[Cell, tuple[str, ...]]:
    """The cell that these parameters belong to: rows for each column of weight_hh tell LSTM, GRU and RNN apart."""
    rows, K = (*first["weight_hh"].shape, 0, 0)[:2]
    hr = first.get("weight_hr")
    H = K if hr is None else (*hr.shape, 0, 0)[1]
    gates = rows // H if H and rows % H == 0 else 0
    peepholes = first.get("weight_ch")
    mode = next((m.lower() for m in (module.get("mode"), module.get("nonlinearity")) if isinstance(m, str)), "")
    got = f"weight_hh {list(first['weight_hh'].shape)}" + ("" if hr is None else f", weight_hr {list(hr.shape)}")
    if gates not in _KINDS or (mode in ("lstm", "gru") and mode != _KINDS[gates].lower()):
        expected = "4, 3 or 1 rows for each unit, an LSTM, a GRU, an RNN"
        raise ArgumentError.of(place, "an unknown cell", got, expected, "keep it in the package it comes from")
    if any(name in first for name in NORMS):
        return cells.LayerNormLSTM(), ()
    if peepholes is not None:
        if gates != 4 or peepholes.shape != (3 * H,):
            got = f"{got}, weight_ch {list(peepholes.shape)}"
            hint = "save the module of openlstm itself, which names its cell"
            raise ArgumentError.of(place, "peepholes of an unknown cell", got, "3H of an LSTM", hint)
        return cells.Peephole(), ()
    if gates != 1:
        return (cells.LSTM() if gates == 4 else cells.GRU(memory=hr is not None)), ()
    if mode.removeprefix("rnn_") in ("tanh", "relu"):
        return cells.VanillaRNN(mode.removeprefix("rnn_")), ()  # type: ignore[arg-type]
    note = "the file does not say whether it is of tanh or relu: tanh, which is torch's default, was taken"
    return cells.VanillaRNN("tanh"), (note,)


_OWN = {type(cell).__name__: type(cell) for cell in cells.ALL}


def _own_cell(record: Record) -> Cell | None:
    """One of our cells, from its record in a pickled layer of ours."""
    kind = _OWN.get(record.kind.rpartition(".")[2])
    if kind is None or not record.kind.startswith("openlstm.cells."):
        return None
    known = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    options = {k: v for k, v in record.state.items() if k in known and (v is None or isinstance(v, (bool, int, float, str)))}
    return kind(**options)


def _slstm(place: str, arrays: dict[str, Lazy]) -> Stack:
    """The sLSTM of the package xlstm, as its torch code, its CUDA code or its own format lays it out.

    x holds the four input sums, gate by gate, which the layers around the cell make.
    """
    kernel = _floats(place, arrays[f"{place}._recurrent_kernel_".lstrip(".")])
    name = f"{place}._bias_".lstrip(".")
    bias = _floats(place, arrays[name]) if name in arrays else None
    got = f"_recurrent_kernel_ {list(kernel.shape)}" + ("" if bias is None else f", _bias_ {list(bias.shape)}")
    NH = kernel.shape[0] if kernel.ndim and kernel.size else 1
    D = math.isqrt(kernel.size // (4 * NH))
    whole, flat, by_torch = (NH, D, 4, D), kernel.ndim == 3, kernel.shape == (NH, 4 * D, D)
    if not kernel.size or (not by_torch and kernel.shape not in (whole, (NH, D, 4 * D))):
        expected, hint = "[heads, 4 * D, D], [heads, D, 4 * D] or [heads, D, 4, D]", "save it with the package xlstm"
        raise ArgumentError.of(place, "an unknown layout of an sLSTM", got, expected, hint)
    if by_torch:
        kernel = kernel.reshape(NH, 4, D, D).swapaxes(0, 1)  # [gate, head, unit, unit before]
    else:
        kernel = kernel.reshape(whole).transpose(2, 0, 3, 1)
    if bias is not None:
        if bias.shape != (NH, 4, D) and (bias.shape != (4 * NH * D,) or not flat):
            expected, hint = "[heads, 4, D], or [4 * heads * D] beside a kernel of three axes", "save it with the package xlstm"
            raise ArgumentError.of(place, "an unknown layout of its biases", got, expected, hint)
        if bias.ndim == 3 or not by_torch:  # head by head
            bias = bias.reshape(NH, 4, D).swapaxes(0, 1).reshape(-1)
    w_hh = np.ascontiguousarray(kernel).reshape(4 * NH * D, D)
    note = "x is the sums of its gates i, f, g, o; in the layer around it `fgate` makes those of i, `igate` those of f"
    return Stack(place, cells.SLSTM(NH), ((Weights(None, w_hh, bias),),), True, False, (note,))


_SHORT = {"F16": "float16", "F32": "float32", "F64": "float64", "BF16": "bfloat16"}


def lazy_tensor(dtype: str, shape: tuple[int, ...], load: Callable[[], Any]) -> Lazy:
    """A tensor of torch, whose type torch or safetensors names, as the array it is."""

    def array() -> np.ndarray:
        import torch

        numbers = load().detach().cpu()
        return (numbers.view(torch.uint16) if numbers.dtype == torch.bfloat16 else numbers).contiguous().numpy().copy()

    return Lazy(_SHORT.get(dtype, dtype.removeprefix("torch.")), shape, array)


def layers_of(source: Any, who: str) -> Layers:
    """The recurrent layers of a torch module, a ScriptModule, or a state dict of tensors or arrays in memory."""

    def tree(value: Any) -> Any:
        if is_torch(value):
            return lazy_tensor(str(value.dtype), tuple(value.shape), lambda: value)
        if isinstance(value, np.ndarray):
            return Lazy(value.dtype.newbyteorder("=").name, value.shape, lambda: value)
        if isinstance(value, Mapping):
            return {key: tree(one) for key, one in value.items()}
        return [tree(one) for one in value] if isinstance(value, (list, tuple)) else value

    if isinstance(source, Mapping):
        return layers_in(tree(source), who)
    import torch

    if isinstance(source, torch.jit.ScriptModule):
        buffer = io.BytesIO()
        torch.jit.save(source, buffer)
        return layers_in(read_archive(Archive(buffer, who), who), who)
    from openlstm.exchange.backwards import Backwards

    stacks, left = [], {}
    inside = {id(module.layer) for module in source.modules() if isinstance(module, Backwards)}
    for name, module in source.named_modules():
        try:
            stacks += [Stack.of(module, name)] if id(module) not in inside else []
        except ArgumentError as error:
            left[name or who] = brief_of(error)
        except DtypeError:
            continue  # no recurrent layer
    return Layers(who, stacks, (), left)


def write(model: Any) -> dict[str, Any]:
    """A layer of ours as the state dict of torch.nn's layer: `torch.nn.LSTM(...).load_state_dict(...)` takes it.

    Raises:
        ArgumentError: for a cell or a direction that torch.nn has not.

    >>> import openlstm
    >>> list(write(openlstm.GRU(3, 5, bias=False)))
    ['weight_ih_l0', 'weight_hh_l0']
    """
    stack = stack_of(model, "torch")
    if stack.reverse:
        hint = "keep the openlstm layer, or flip x and y around torch.nn's"
        raise ArgumentError.of(
            "export to torch", "torch.nn has no layer that only runs backwards", "backwards", "forwards", hint
        )
    return dict(stack.layer().to_torch().state_dict())


def encode(made: dict[str, Any]) -> bytes:
    """The bytes of a file that `torch.load(path, weights_only=True)` reads."""
    import torch

    buffer = io.BytesIO()
    torch.save(made, buffer)
    return buffer.getvalue()
