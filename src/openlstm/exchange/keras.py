"""Recurrent layers in Keras's files, `.keras` and HDF5, and into them.

Keras has kernels [I, G*H] and [H, G*H], which are ours transposed; its GRU has two biases, its LSTM one.
Legend: I input size, H hidden size, G gates of a cell.
"""

from __future__ import annotations

import io
import json
import re
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from openlstm import cells
from openlstm.cells import Cell
from openlstm.errors import ArgumentError, OpenLSTMError, missing_extra
from openlstm.exchange.cells import SIGMOID, TANH, Activation, AnyGRU, AnyLSTM, AnyRNN
from openlstm.exchange.contents import Archive, Lazy, reading
from openlstm.exchange.hdf5 import File, opening
from openlstm.exchange.keras_config import GATES, Config, activation, config_layers, only, usual_options
from openlstm.exchange.layers import Layers, brief_of
from openlstm.exchange.stack import FLOATS, WIDENED, Stack
from openlstm.exchange.written import stack_of
from openlstm.weights import GRU_GATE_ORDERS, Weights, reorder

CONFIG = 2**26
"""The most bytes of a config."""


def read_archive(archive: Archive, who: str) -> Layers:
    """The recurrent layers of a `.keras` file."""
    with reading(who, "the config of a Keras model", "save the model again with model.save"):
        config = json.loads(archive.read("config.json", CONFIG)) if "config.json" in archive else None
        told = json.loads(archive.read("metadata.json", CONFIG)) if "metadata.json" in archive else {}
    version = told.get("keras_version") if isinstance(told, dict) else None
    with opening(io.BytesIO(archive.read("model.weights.h5")), who) as file:
        return _layers(file, config, version if isinstance(version, str) else None, who)


def read_hdf5(file: BinaryIO, path: Path) -> Layers:
    """The recurrent layers of an HDF5 file: a whole model, or its weights alone."""
    who = str(path)
    with opening(file, who) as opened:
        text = opened.text("", "model_config")
        with reading(who, "the config of a Keras model", "save the model again with model.save"):
            config = json.loads(text) if text is not None else None
        inside = "model_weights" if "model_weights" in opened.order else ""
        version = opened.text("", "keras_version") or opened.text(inside, "keras_version")
        return _layers(opened, config, version, who)


def layers_of(source: Any, who: str) -> Layers:
    """The recurrent layers of a Keras model or layer in memory."""
    keras: Any = sys.modules["keras"]
    model = source if isinstance(source, keras.Model) else keras.Sequential([source])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        with open(path, "rb") as file:
            return read_archive(Archive(file, who), who)


def _layers(file: File, config: Any, version: str | None, who: str) -> Layers:
    with reading(who, "the config of a Keras model", "save the model again with model.save"):
        known, unknown = config_layers(config)
    found: dict[str, dict[int, dict[str, Lazy]]] = {}
    short_names: dict[str, str] = {}
    for path, arrays in _triples(file).items():
        place, name, direction = _place(file, path)
        found.setdefault(place, {})[direction] = arrays
        short_names[place] = name
    names = list(short_names.values())
    stacks: list[Stack] = []
    left = dict(unknown)
    for place in sorted(found, key=lambda place: list(known).index(short_names[place]) if short_names[place] in known else 0):
        if short_names[place] in unknown:
            continue
        name = short_names[place] if names.count(short_names[place]) == 1 else place
        try:
            stacks.append(_stack(name, found[place], known.get(short_names[place]), version))
        except OpenLSTMError as error:
            left[name] = brief_of(error)
    return Layers(who, stacks, (), left)


def _triples(file: File) -> dict[str, dict[str, Lazy]]:
    """kernel, recurrent_kernel and bias of every cell, by the path of the group that holds them."""
    groups: dict[str, dict[str, Lazy]] = {}
    for path, lazy in file.arrays.items():
        group, _, name = path.rpartition("/")
        groups.setdefault(group, {})[re.sub(r":\d+$", "", name)] = lazy
    numbered = {"0": "kernel", "1": "recurrent_kernel", "2": "bias"}
    found = {}
    for group, arrays in groups.items():
        if group.endswith("/cell/vars"):
            arrays = {numbered.get(name, name): lazy for name, lazy in arrays.items()}
        if "kernel" in arrays and "recurrent_kernel" in arrays:
            found[group] = arrays
    return found


def _place(file: File, path: str) -> tuple[str, str, int]:
    """Where a layer stands, its name, and the direction of these weights in it."""
    parts = path.split("/")
    if path.endswith("/cell/vars"):  # Keras 3: layers/bidirectional/forward_layer/cell/vars
        parts = parts[:-2]
        direction = int(parts[-1] == "backward_layer")
        if parts[-1] in ("forward_layer", "backward_layer"):
            parts = parts[:-1]
        group = "/".join([*parts, "vars"])
        return "/".join(parts), (file.text(group, "name") if group in file.order else None) or parts[-1], direction
    if len(parts) > 1 and re.search(r"_cell(_\d+)?$", parts[-1]):
        parts = parts[:-1]
    direction = int(parts[-1].startswith("backward_"))
    if len(parts) > 1 and parts[-1].startswith(("forward_", "backward_")):
        parts = parts[:-1]
    return "/".join(parts), parts[-1], direction


def _stack(name: str, found: dict[int, dict[str, Lazy]], config: Config | None, version: str | None) -> Stack:
    """One Keras layer."""
    if 0 not in found:
        raise ArgumentError.of(name, "has one direction", "the backward layer alone", "both", "save the whole model")
    kernels, recurrent = found[0]["kernel"].shape, found[0]["recurrent_kernel"].shape
    got = f"kernel {list(kernels)}, recurrent_kernel {list(recurrent)}"
    if (
        len(recurrent) != 2
        or not recurrent[0]
        or recurrent[1] % recurrent[0]
        or len(kernels) != 2
        or kernels[1] != recurrent[1]
    ):
        raise ArgumentError.of(name, "is no recurrent layer", got, "[I, G*H] and [H, G*H]", "keep it in Keras")
    H, G = recurrent[0], recurrent[1] // recurrent[0]
    kind = config.kind if config else {4: "LSTM", 3: "GRU", 1: "SimpleRNN"}.get(G)
    if kind is None or GATES[kind] != G:
        expected, hint = "1, 3 or 4 blocks of units", "keep it in Keras"
        raise ArgumentError.of(name, f"has {G} blocks of {H} units", got, expected, hint)
    bias = found[0]["bias"].shape if "bias" in found[0] else None
    cudnn = kind.startswith("CuDNN") or (bias == (2 * G * H,) and G > 1)
    options = dict(config.options) if config else {}
    notes: list[str] = []
    before = G == 3 and not cudnn and len(bias or ()) == 1
    if G == 3 and config and not cudnn:
        before = not options.get("reset_after", False)
    if cudnn:
        options = {"activation": "tanh", "recurrent_activation": "sigmoid", **only(options, "go_backwards", "stateful")}
        notes.append("in the layout of CuDNN, with two biases")
    elif config is None:
        options = usual_options(name, G, bias, version)
        notes.append(
            "the file holds no config of it: Keras's own activations were taken" + ", tanh" * (G == 1) + _after(before, G)
        )
    if config is None and G == 3 and bias is None:
        hint = "save the whole model: the file does not say whether the reset acts before the product"
        raise ArgumentError.of(name, "is a GRU without biases and without a config", got, "a config", hint)
    activations = [activation(name, options, key, version) for key in ("recurrent_activation", "activation")[G == 1 :]]
    cell = _cell(G, activations, H if before else 0)
    if not cell.kernel:
        notes.append("no kernel has this cell, so it runs on the reference, slower")
    directions = tuple(_weights(name, found[d], G, H, cudnn, before) for d in sorted(found))
    reverse = options.get("go_backwards") is True
    if config and config.merge not in ("", "concat"):
        notes.append(f"Keras merges its directions with {config.merge!r}; here they stand side by side")
    if len(directions) == 2 and reverse:
        hint = "set go_backwards=False in the wrapped layer"
        raise ArgumentError.of(name, "its forward layer runs backwards", "go_backwards=True", "False", hint)
    if reverse:
        notes.append("Keras hands out its outputs last step first; here each stands at its step")
    if any(lazy.dtype == "bfloat16" for lazy in found[0].values()):
        notes.append(WIDENED)
    if options.get("stateful") is True:
        notes.append("stateful: hand the state on from call to call")
    return Stack(name, cell, (directions,), True, reverse, tuple(notes))


def _after(before: bool, G: int) -> str:
    return "" if G != 3 else ", the reset before the product" if before else ", the reset behind the product"


def _cell(G: int, activations: list[Activation], before: int) -> Cell:
    if G == 1:
        known = activations[0].name in ("tanh", "relu")
        return cells.VanillaRNN(activations[0].name) if known else AnyRNN((activations[0],))  # type: ignore[arg-type]
    s, k = activations
    usual = (s, k) == (SIGMOID, TANH)
    if G == 4:
        return cells.LSTM() if usual else AnyLSTM((s, k, k))
    return cells.GRU() if usual and not before else AnyGRU((s, k), None, before)


def _weights(name: str, found: dict[str, Lazy], G: int, H: int, cudnn: bool, before: bool) -> Weights:
    """One direction, transposed and in our order of gates."""
    for key, lazy in found.items():
        if key in ("kernel", "recurrent_kernel", "bias") and lazy.dtype not in (*FLOATS, "bfloat16"):
            hint = "save the model from before it was quantised"
            raise ArgumentError.of(name, f"its {key} holds no floats", lazy.dtype, ", ".join(FLOATS), hint)
    kernel, recurrent = found["kernel"].read(), found["recurrent_kernel"].read()
    bias = found["bias"].read() if "bias" in found else None
    got = f"kernel {list(kernel.shape)}, recurrent_kernel {list(recurrent.shape)}"
    got += "" if bias is None else f", bias {list(bias.shape)}"
    if kernel.ndim != 2 or recurrent.shape != (H, G * H) or kernel.shape[1] != G * H:
        raise ArgumentError.of(name, "its directions differ", got, f"[I, {G * H}], [{H}, {G * H}]", "keep it in Keras")
    if bias is not None and bias.size not in (G * H, 2 * G * H):
        raise ArgumentError.of(name, "its biases do not fit", got, f"bias [{G * H}] or [2, {G * H}]", "save the model again")
    if cudnn:  # of every gate W^T lies there as one run of numbers; the other kernel is U^T
        w_ih = np.concatenate([block.reshape(H, -1) for block in np.split(kernel, G, 1)])
        w_hh = np.concatenate(np.split(recurrent, G, 1))
    else:
        w_ih, w_hh = kernel.T, recurrent.T

    def ordered(a: np.ndarray) -> np.ndarray:
        if G == 1:
            return np.ascontiguousarray(a)
        return reorder(a, "keras", "openlstm", H) if G == 4 else reorder(a, "keras", "openlstm", H, GRU_GATE_ORDERS)

    b_ih = b_hh = None
    if bias is not None:
        two = bias.size == 2 * G * H
        b_ih, b_hh = (ordered(b) for b in bias.reshape(2, -1)) if two else (ordered(bias.reshape(-1)), None)
    w_ih, w_hh, w_ch = ordered(w_ih), ordered(w_hh), None
    if before:
        w_ch = w_hh[2 * H :].reshape(-1).copy()
        w_hh = np.concatenate([w_hh[: 2 * H], np.zeros_like(w_hh[2 * H :])])
    return Weights(w_ih, w_hh, b_ih, b_hh, None, w_ch)


@dataclass(frozen=True)
class Written:
    """A `keras.Sequential` of the layers: its config, and the arrays that `set_weights` takes, in their order."""

    config: dict[str, Any]
    weights: list[np.ndarray]
    paths: list[str]  # of each array in `model.weights.h5`


def write(model: Any) -> Written:
    """A layer of ours as a `keras.Sequential`, batch first, with one Keras layer for each of its layers.

    Keras's LSTM and SimpleRNN have one bias, the sum of both; its GRU has both.

    Raises:
        ArgumentError: for what Keras has not: other cells, projections, several layers that run backwards.

    >>> import openlstm
    >>> [a.shape for a in write(openlstm.GRU(3, 5)).weights]
    [(3, 15), (5, 15), (2, 15)]
    """
    who = "export to keras"
    stack = stack_of(model, "keras")
    kind = {cells.LSTM(): "LSTM", cells.GRU(): "GRU"}.get(stack.cell)
    activation = getattr(stack.cell, "nonlinearity", "tanh")
    if isinstance(stack.cell, cells.VanillaRNN) and stack.cell.heads == 1:
        kind = "SimpleRNN"
    if kind is None or stack.proj_size or not stack.input_projection or (stack.reverse and stack.layers > 1):
        hint = "to='onnx' has peepholes and other cells; or keep the openlstm layer"
        raise ArgumentError.of(who, "Keras has no such layer", str(stack), "LSTM, GRU or RNN, without a projection", hint)
    H, policy = stack.hidden_size, stack.dtype.name
    usual = {"units": H, "activation": activation, "use_bias": stack.bias, "return_sequences": True, "dtype": policy}
    usual |= {} if kind == "SimpleRNN" else {"recurrent_activation": "sigmoid"}
    usual |= {"reset_after": True} if kind == "GRU" else {}
    snake = {"LSTM": "lstm", "GRU": "gru", "SimpleRNN": "simple_rnn"}[kind]
    width = stack.input_size
    layers: list[dict[str, Any]] = [_object("InputLayer", batch_shape=[None, None, width], dtype=policy, name="x")]
    arrays: list[np.ndarray] = []
    paths: list[str] = []
    for n, layer in enumerate(stack.weights):
        own, both = (f"{base}_{n}" if n else base for base in (snake, "bidirectional"))
        made = _object(kind, **usual, name=own, go_backwards=stack.reverse)
        groups = [f"layers/{own}"]
        if len(layer) == 2:
            parts = [{**usual, "name": f"{way}_{own}", "go_backwards": way == "backward"} for way in ("forward", "backward")]
            inner = [_object(kind, **part) for part in parts]
            made = _object(
                "Bidirectional", name=both, merge_mode="concat", layer=inner[0], backward_layer=inner[1], dtype=policy
            )
            groups = [f"layers/{both}/{way}_layer" for way in ("forward", "backward")]
        made["build_config"] = {"input_shape": [None, None, width]}
        layers.append(made)
        width = H * len(layer)
        for group, w in zip(groups, layer, strict=True):
            held = _kernels(kind, w, H)
            arrays += held
            paths += [f"{group}/cell/vars/{k}" for k in range(len(held))]
    return Written(_object("Sequential", name="sequential", trainable=True, layers=layers, dtype=policy), arrays, paths)


def _object(kind: str, **config: Any) -> dict[str, Any]:
    """What Keras writes of an object."""
    module = "keras" if kind == "Sequential" else "keras.layers"
    return {"module": module, "class_name": kind, "config": config, "registered_name": None}


def _kernels(kind: str, w: Weights, H: int) -> list[np.ndarray]:
    """kernel, recurrent_kernel and bias of one direction."""

    def ordered(a: np.ndarray) -> np.ndarray:
        if kind == "SimpleRNN":
            return a
        return reorder(a, "openlstm", "keras", H) if kind == "LSTM" else reorder(a, "openlstm", "keras", H, GRU_GATE_ORDERS)

    found = [np.ascontiguousarray(ordered(a).T) for a in (w.w_ih, w.w_hh)]
    if w.b_ih is None or w.b_hh is None:
        return found
    both = ordered(w.b_ih), ordered(w.b_hh)
    return [*found, np.stack(both) if kind == "GRU" else both[0] + both[1]]


def encode(made: Written) -> bytes:
    """The bytes of a `.keras` file, which `keras.saving.load_model` opens.

    Raises:
        MissingExtraError: without h5py.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise missing_extra("export to keras", "h5py", "exchange") from error
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        for path, array in zip(made.paths, made.weights, strict=True):
            file[path] = array
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("config.json", json.dumps(made.config))
        archive.writestr("model.weights.h5", weights.getvalue())
    return buffer.getvalue()
