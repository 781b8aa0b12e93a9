"""The backend on CUDA tensors: torch's own kernels (cuDNN) for the plain LSTM, RNN and GRU.

Ragged and reset batches are cut at the boundaries into pieces and run as one packed call. torch's kernels hand out neither
gates nor cell states and know no clipping and no noise: `SUPPORT` sends whatever asks for them to the reference, step by step
on the device. So do torch.func, and a compiled graph that wants gradients. Precision is torch's:
`torch.backends.cudnn.allow_tf32` holds here too, and a second derivative is the error that torch raises (backend="reference"
has it). No promise of equal bits is made here.

Legend: T time, B batch, I input size, R what is fed back, N pieces.
"""

from __future__ import annotations

from typing import Any

from openlstm import _array as A
from openlstm._array import Array
from openlstm.call import Call
from openlstm.cells import Cell
from openlstm.reference import Run, State, Weights


def forward(call: Call) -> Run:
    """As `reference.forward`, differentiable by torch; nothing can be saved. Runs on the CPU too, for tests."""
    cell, x, weights, state = call[:4]
    assert not call.save, "SUPPORT says that gates are not handed out"
    torch = A.namespace(x)
    T, B, _ = x.shape
    if T == 0 or B == 0:
        return Run(x.new_zeros(T, B, weights.w_hh.shape[1]), state, None)
    if call.lengths is None and call.reset is None:
        y, new = _call(cell, x.flip(0) if call.reverse else x, None, weights, state)
        return Run(y.flip(0) if call.reverse else y, new, None)
    from openlstm.engine import pieces

    lengths, reset = (None if a is None else torch.as_tensor(a, device=x.device) for a in (call.lengths, call.reset))
    parts = pieces.cut(T, B, lengths, reset, call.reverse, x.device)
    if not len(parts.row):
        return Run(x.new_zeros(T, B, weights.w_hh.shape[1]), state, None)
    places, sizes = parts.packed(call.reverse)
    back = pieces.inverse(places, parts.size)
    data = pieces.move(x.reshape(T * B, -1), places, back, (False, True))  # [n, I]
    y, new = _call(cell, data, sizes, weights, parts.starts(state, call.reset_state))
    return Run(pieces.move(y, back, places, (True, False)).view(T, B, -1), parts.ends(new, state), None)


def _call(cell: Cell, x: Array, sizes: Any, weights: Weights, state: State) -> tuple[Array, State]:
    """torch's kernel over x [T, B, I], or over packed x [n, I] with its batch sizes on the CPU."""
    torch = A.namespace(x)
    flat, bias = _one_chunk(weights), weights.b_ih is not None
    options = (flat, bias, 1, 0.0, torch.is_grad_enabled(), False)  # one layer, no dropout, one direction
    name = "lstm" if state.c is not None else cell.kernel  # else gru, rnn_tanh or rnn_relu
    begin = state.h[None] if state.c is None else (state.h[None], state.c[None])
    arguments = (x, begin, *options, False) if sizes is None else (x, sizes, begin, *options)  # False: time comes first
    y, h, *c = getattr(torch._VF, name)(*arguments)
    return y, State(h[0], c[0][0] if c else None)


def _one_chunk(weights: Weights) -> list[Array]:
    """The weights as views of one block, in cuDNN's order: it would copy them there at every call, with a warning."""
    present = [w for w in weights if w is not None]
    block = A.namespace(present[0]).cat([w.reshape(-1) for w in present])
    parts = block.split([w.numel() for w in present])
    return [part.view(w.shape) for part, w in zip(parts, present, strict=True)]
