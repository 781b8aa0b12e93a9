"""In which type a training multiplies: the recurrent layers in bfloat16 where that is faster, everything else in float32.

Weights, their gradients, states, the optimizer and what the layers hand on stay float32. The rest of a model is left alone:
torch.autocast around all of it would round a head's outputs, which moves the loss more and saves no time. A layer is told by a
value that its calls hold (`Call.bfloat16`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
from torch import nn

from openlstm.engine import native
from openlstm.nn.recurrent import Recurrent


def autocast(model: nn.Module, precision: str, rows: int) -> Callable[[], AbstractContextManager[None]]:
    """What makes the block to put around each `loss(model, *batch)` and its backward pass; a validation stays outside.

    Inside, layers of openlstm with float32 weights on the CPU multiply in bfloat16; what they return is float32.

    Args:
        model: where it is trained: on its device, in its type.
        precision: one of `train.options.PRECISIONS`; "auto" is bfloat16 where most multiply-adds of the recurrent layers are
            in layers for which `native.faster_in_bfloat16` holds, else float32, to the bit.
        rows: of the batch that this process trains on.

    >>> import openlstm
    >>> model = openlstm.LSTM(3, 8)
    >>> with autocast(model, "bfloat16", rows=64)():
    ...     y, _ = model(torch.zeros(5, 64, 3))
    >>> y.dtype
    torch.float32
    """
    layers = _layers(model)
    narrow = precision == "bfloat16" or (precision == "auto" and _faster(layers, rows))
    return partial(_bfloat16, layers if narrow else [])


def describe(model: nn.Module, precision: str, rows: int) -> str:
    """One line on what `autocast` does, and why; the arguments are the same.

    >>> import openlstm
    >>> describe(nn.Linear(3, 8), "auto", rows=64)
    'float32: the model has no recurrent layer of openlstm in float32 on the CPU'
    """
    layers = _layers(model)
    if precision == "float32":
        return "float32"
    if not layers:
        return "float32: the model has no recurrent layer of openlstm in float32 on the CPU"
    asked = precision == "bfloat16"
    by, _, why = (native.bfloat16() if native.available() else "float32 (no compiled extension)").partition(" (")
    if not any(map(_kernel, layers)):
        why = why[:-1] if by.startswith("float32") else f"no kernel of {by} runs these layers"
        return f"{'bfloat16, as asked, but slower:' if asked else 'float32: bfloat16 would be'} float32 rounded once ({why})"
    size = f"at {max(layer.hidden_size for layer in layers)} units and {rows} rows here ({by})"
    if _faster(layers, rows):
        return f"bfloat16{', as asked' if asked else ''}: it is faster {size}"
    return f"bfloat16, as asked, though not faster {size}" if asked else f"float32: bfloat16 is not faster {size}"


def _layers(model: nn.Module) -> list[Recurrent]:
    """The layers that can be told to."""
    found = [m for m in model.modules() if isinstance(m, Recurrent)]
    return [m for m in found if m.weight_ih_l0.dtype is torch.float32 and m.weight_ih_l0.device.type == "cpu"]


def _kernel(layer: Recurrent) -> bool:
    """Whether its products can be made in bfloat16."""
    return native.has_bfloat16(layer.cell) and layer.backend_used(layer.weight_ih_l0) == "cpu"


def _faster(layers: Sequence[Recurrent], rows: int) -> bool:
    """Whether most multiply-adds of a step are in layers that bfloat16 makes faster."""
    balance = 0
    for layer in layers:
        for k in range(layer.num_layers):
            w = layer.weights_of(k)
            sizes = (w.w_ih.shape[1], layer.hidden_size, layer.proj_size)
            faster = _kernel(layer) and native.faster_in_bfloat16(layer.cell, rows, *sizes)
            products = layer.num_directions * sum(a.numel() for a in w if a is not None and a.dim() == 2)
            balance += products if faster else -products
    return balance > 0


@contextmanager
def _bfloat16(layers: Sequence[Recurrent]) -> Iterator[None]:
    """Inside, every call of these layers says so."""
    try:
        for layer in layers:
            vars(layer)["_bfloat16"] = True
        yield
    finally:
        for layer in layers:
            vars(layer).pop("_bfloat16", None)
