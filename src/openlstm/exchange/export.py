"""`export`: a layer or a model for another runtime, and the table of those that can be written."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from openlstm import model_file
from openlstm._files import writable, write_whole
from openlstm.errors import ArgumentError, missing_extra
from openlstm.exchange.layers import Layers
from openlstm.exchange.stack import Stack

WHO = "export"


class Target(NamedTuple):
    """What can be written.

    home: the module whose `write(model, **options)` makes it (its object in Python), and whose `encode(object)` gives the bytes
        of its file. `model` is a layer of ours, a `runtime.Model`, or a module that holds layers.
    endings: of its files, the usual one first.
    extra: of this package, which brings what `home` imports.
    """

    home: str
    endings: tuple[str, ...]
    extra: str = "torch"


TARGETS: dict[str, Target] = {
    "onnx": Target("openlstm.exchange.onnx.write", (".onnx",), "exchange"),
    "c": Target("openlstm.exchange.c.header", (".h",)),
    "torch": Target("openlstm.exchange.checkpoints", (".pt", ".pth")),
    "keras": Target("openlstm.exchange.keras", (".keras",), "exchange"),
    "flax": Target("openlstm.exchange.flax", (".msgpack",), "exchange"),
}
"""By the names that `to` takes."""


def export(
    source: Any, to: str, path: str | os.PathLike[str] | None = None, *, layer: str | None = None, **options: Any
) -> Any:
    """Write a layer or a model for another runtime.

    Args:
        source: openlstm.LSTM, GRU or RNN; a fitted `Forecaster` or `Model`; or a file of any kind that `openlstm.read` reads,
            our model files among them. A module around layers goes to ONNX by `torch.onnx.export(module, .., dynamo=True)`.
        to: "onnx", "c", "torch", "keras" or "flax".
        path: the file to write; none if None.
        layer: the name of one of the layers, where `source` holds several.
        options: of the target; of "c": `name` (what its functions and type begin with) and `weights` ("float32" or "int8"); of
            "onnx": `lengths` (whether a layer takes those of its rows) and `opset`.

    Returns:
        What was made: the text of a header, a `ModelProto`, a state dict, ...

    Raises:
        ArgumentError: for an unknown target or option, or a layer or model that the target cannot express; it names what can.
        MissingExtraError: where the target needs a package that is not installed.

    >>> import openlstm
    >>> text = export(openlstm.LSTM(1, 4).eval(), to="c", name="tiny")
    >>> "static inline void tiny_step(tiny *self, const float *x, float *y)" in text
    True
    """
    target = TARGETS.get(to)
    if target is None:
        hint = "to='onnx' for ONNX Runtime, 'c' for a header without dependencies"
        raise ArgumentError.of(WHO, "unknown target", f"to={to!r}", " or ".join(TARGETS), hint)
    if path is not None:
        inputs = (Path(source),) if isinstance(source, (str, os.PathLike)) else ()
        writable(path, target.endings, inputs)
    try:
        home = import_module(target.home)
        known = [name for name, p in inspect.signature(home.write).parameters.items() if p.kind is p.KEYWORD_ONLY]
        for name in options:
            if name not in known:
                expected = f"the options of {to!r}: {', '.join(known) or 'none'}"
                raise ArgumentError.of(WHO, "unknown option", f"{name}={options[name]!r}", expected, f"leave {name} out")
        made = home.write(opened(source, layer), **options)
        if path is not None:
            write_whole(path, home.encode(made))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "openlstm":
            raise
        raise missing_extra(f"export to {to!r}", error.name, target.extra) from error
    return made


def opened(source: Any, layer: str | None = None) -> Any:
    """What is written of a source: a layer of ours, a `runtime.Model`, or the module itself.

    Raises:
        ArgumentError: where a source holds several layers and none, or an unknown one, is named.
    """
    if isinstance(source, (str, os.PathLike)):
        source = _read(source, whole=layer is None)
    source = getattr(source, "model_", source)  # of a fitted Forecaster
    if isinstance(source, Layers):
        source = _one(source, layer)
    elif layer is not None:
        parts = source.named_modules() if hasattr(source, "named_modules") else ()
        source = _one({name: part for name, part in parts if _kind(part) or hasattr(part, "weights_of")}, layer)
    if isinstance(source, Stack):
        return source.layer()
    if kind := _kind(source):
        from openlstm import nn

        return getattr(nn, kind).from_torch(source)
    return source


def _kind(part: Any) -> str:
    """LSTM, GRU or RNN for a layer of torch.nn."""
    kind = type(part)
    return kind.__name__ if kind.__module__ == "torch.nn.modules.rnn" and kind.__name__ in ("LSTM", "GRU", "RNN") else ""


def _read(path: str | os.PathLike[str], whole: bool) -> Any:
    """A whole model of ours; else, and of other files, whatever layers a file holds."""
    if whole and model_file.is_ours(path):
        from openlstm.runtime import load

        return load(path)
    from openlstm.exchange.read import read

    return read(path)


def _one(layers: Mapping[str, Any], name: str | None) -> Any:
    if name is None and len(layers) == 1:
        return next(iter(layers.values()))
    if name is None or name not in layers:
        what = "several layers, and one is written" if name is None else "no such layer"
        got = "no layer named" if name is None else f"layer={name!r}"
        if not layers:
            raise ArgumentError.of(WHO, "holds no layers by name", got, "a module or a file with layers", "leave layer out")
        expected, hint = (
            f"one of {', '.join(map(repr, layers))}",
            f"layer={next(iter(layers))!r}, or --layer {next(iter(layers))}",
        )
        raise ArgumentError.of(WHO, what, got, expected, hint)
    return layers[name]
