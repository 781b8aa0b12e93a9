"""A layer of ours, or a fitted model, as a model of ONNX, which is run beside ours before it is handed out.

Legend: T time, B batch, I input size, H hidden size, R what is fed back, L layers, D directions.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from onnx import ModelProto

from openlstm.errors import ArgumentError
from openlstm.exchange.onnx import feeds, forecaster
from openlstm.exchange.onnx.build import Layers, agree
from openlstm.exchange.onnx.plan import session
from openlstm.exchange.stack import Stack
from openlstm.noise import Noise, active
from openlstm.runtime import Model

OPSETS = (13, 22)


def write(model: Any, *, lengths: bool = False, opset: int = 17) -> ModelProto:
    """A layer, or a fitted model, as ONNX.

    A layer takes x [T, B, I] ([B, T, I] with batch_first) and the state it begins with, h0 [L*D, B, R] and c0 [L*D, B, H] (a
    cell with other states has them by their names), and gives y, h_n and c_n; T and B are free. Its numbers are float32, since
    ONNX Runtime has no other LSTM. What an operator of ONNX computes is one; any other cell is a `Scan` over its equations.

    Args:
        model: a layer of ours, a `Stack`, or a `runtime.Model`.
        lengths: whether a layer takes the lengths of its rows, int64 [B], too.
        opset: 13 to 22.

    Raises:
        ArgumentError: for a model that cannot be written, or another opset.
        BackendError: where ONNX Runtime does not compute what ours does.
    """
    low, high = OPSETS
    if isinstance(opset, bool) or not isinstance(opset, int) or not low <= opset <= high:
        hint = "opset=17 runs on every ONNX Runtime since 1.12"
        raise ArgumentError.of("export to 'onnx'", "unknown opset", f"opset={opset!r}", f"{low} to {high}", hint)
    if isinstance(model, Model):
        made = forecaster.write(model, opset)
        feeds.check(model, made)
        return made
    stack = model if isinstance(model, Stack) else _stack(model)
    made = Layers(stack, lengths, noise=_noise(model)).model(opset)
    _check(copy.deepcopy(model) if stack is not model else stack.layer(), stack, made, lengths)
    return made


def encode(model: ModelProto) -> bytes:
    """The bytes of a file."""
    return model.SerializeToString()


def _stack(layer: Any) -> Stack:
    from openlstm.exchange.backwards import Backwards
    from openlstm.nn.batch import RECURRENT

    if isinstance(layer, (Backwards, *RECURRENT)):
        return Stack.of(layer)
    got, expected = type(layer).__name__, "a layer of ours, or a fitted model"
    if got == "Quantized":
        what, hint = "a layer in 8 bits has no operator of ONNX", "export the layer that was quantised"
        raise ArgumentError.of("export to 'onnx'", what, got, expected, hint)
    hint = "torch.onnx.export(model, example, dynamo=True), which knows our layers"
    raise ArgumentError.of("export to 'onnx'", "what a module computes is not known here", got, expected, hint)


def _noise(layer: Any) -> Noise | None:
    """Zoneout, which acts in eval mode too, as its expectation."""
    inner = getattr(layer, "layer", layer)
    return active(Noise(getattr(inner, "zoneout_h", 0.0), getattr(inner, "zoneout_c", 0.0), training=False))


def _check(layer: Any, stack: Stack, model: ModelProto, lengths: bool) -> None:
    """Run the model beside the layer, which may be changed, at two sizes, from a state.

    Raises:
        BackendError: where they disagree.
    """
    import torch

    layer, run = layer.float().eval(), session(model.SerializeToString())
    rng = np.random.default_rng(0)
    for T, B in ((5, 3), (1, 2)):
        sizes: dict[Any, Any] = {"T": T, "B": B}
        shapes = {i.name: [sizes.get(n, n) for n in i.shape] for i in run.get_inputs() if i.name != "lengths"}
        feeds: dict[str, Any] = {name: rng.standard_normal(shape).astype(np.float32) / 2 for name, shape in shapes.items()}
        if "n0" in feeds:  # a normaliser is a sum of weights
            feeds["n0"] = np.abs(feeds["n0"]) + 1
        state = tuple(torch.from_numpy(a) for name, a in feeds.items() if name != "x")
        if lengths:
            feeds["lengths"] = rng.integers(1, T + 1, B)
        ends = torch.from_numpy(feeds["lengths"]) if lengths else None
        with torch.inference_mode():
            y, found = layer(torch.from_numpy(feeds["x"]), state if stack.cell.has_cell else state[0], lengths=ends)
        ours = [y, *(found if isinstance(found, tuple) else (found,))]
        agree(run.run(None, feeds), [a.numpy() for a in ours], [o.name for o in run.get_outputs()])
