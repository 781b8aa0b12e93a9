"""The backend on CUDA tensors: torch's own kernel where the call is plain, the readable reference on the device elsewhere.

torch's kernel hands out neither gates nor cell states and knows no lengths or resets, so whatever asks for them takes the
reference, step by step. Precision is torch's: `torch.backends.cudnn.allow_tf32` holds here too. Second derivatives and
torch.func take the reference. No promise of equal bits is made on this device.

Legend: T time, B batch, I input size, R what is fed back.
"""

from __future__ import annotations

from typing import Any

from openlstm import _array as A
from openlstm import reference
from openlstm._array import Array
from openlstm.cells import Cell
from openlstm.reference import Gradients, Run, State, Weights


def plain(x: Array, *, lengths: Any, reset: Any, save: bool) -> bool:
    """Whether torch's kernel can run the call: nothing to save, no lengths, no resets, not empty."""
    return lengths is None and reset is None and not save and x.numel() > 0


def fused(cell: Cell, x: Array, weights: Weights, state: State, reverse: bool) -> Run:
    """Run torch's kernel over x [T, B, I]; differentiable by torch."""
    torch = A.namespace(x)
    x = x.flip(0) if reverse else x
    flat, bias = _one_chunk(weights), weights.b_ih is not None
    options = (flat, bias, 1, 0.0, torch.is_grad_enabled(), False, False)  # one layer, no dropout, one direction, time first
    if state.c is not None:
        y, h, c = torch._VF.lstm(x, (state.h[None], state.c[None]), *options)
        new = State(h[0], c[0])
    else:
        y, h = getattr(torch._VF, cell.kernel)(x, state.h[None], *options)  # rnn_tanh or rnn_relu
        new = State(h[0])
    return Run(y.flip(0) if reverse else y, new, None)


def forward(cell: Cell, x: Array, weights: Weights, state: State, **options: Any) -> Run:
    """As `reference.forward`."""
    asked = {name: options.get(name) for name in ("lengths", "reset")}
    if plain(x, **asked, save=options.get("save", False)):
        return fused(cell, x, weights, state, options.get("reverse", False))
    return reference.forward(cell, x, weights, state, **options)


def backward(*args: Any, **options: Any) -> Gradients:
    """As `reference.backward`."""
    return reference.backward(*args, **options)


def _one_chunk(weights: Weights) -> list[Array]:
    """The weights as views of one block, in cuDNN's order: it would copy them there at every call, with a warning."""
    present = [w for w in weights if w is not None]
    block = A.namespace(present[0]).cat([w.reshape(-1) for w in present])
    parts = block.split([w.numel() for w in present])
    return [part.view(w.shape) for part, w in zip(parts, present, strict=True)]
