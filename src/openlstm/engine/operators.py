"""The custom operators `openlstm::forward` and `openlstm::backward`: one call of a backend, as a graph can carry it.

They are functional, have an implementation and a fake, and know nothing of autograd; `autograd.py` builds that around them. An
operator takes tensors, numbers and strings: `tensors_of` and `options_of` take a `Call` apart, `call_of` puts it together.

Legend: T time, B batch, I input size, H hidden size, P projected size, R what is fed back (P with a projection, else H for each
of `Cell.feeds_back`), G gates of a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._decomp import register_decomposition

from openlstm import cells
from openlstm.call import Call
from openlstm.cells import Cell
from openlstm.engine import checkpoint, execute
from openlstm.engine.translate import translated
from openlstm.errors import BackendError
from openlstm.noise import Noise, active
from openlstm.reference import Gradients, Run, Saved, State, Weights
from openlstm.weights import cell_size, hidden_size

CELLS: dict[str, Cell] = {**{cell.kernel: cell for cell in cells.ALL}, "gru_memory": cells.GRU(memory=True)}
"""An operator's argument is a string: every cell by the name of its kernel; its options are arguments of their own."""

# The tensors of a call in the order of the operators' arguments:
#   0 x | 1-7 w_ih, w_hh, b_ih, b_hh, w_hr, w_ch, norm | 8-9 h0, c0 | 10-11 lengths, reset | 12-13 reset_h, reset_c
#   14-15 hidden, seed
# and of the way back: 16-19 y, gates, c, m | 20-22 dy, dh, dc
INPUTS = 16
NOT_REAL = (10, 11, 14, 15)

_QUIET = Noise()


def tensors_of(call: Call) -> tuple[Any, ...]:
    """The tensors of a call; None for each that is not there."""
    noise = active(call.noise)
    hidden, seed = (None, None) if noise is None else (noise.hidden, noise.seed)
    if seed is not None and not isinstance(seed, Tensor):
        seed = torch.tensor(seed)
    return (call.x, *call.weights, *call.state, call.lengths, call.reset, *(call.reset_state or (None, None)), hidden, seed)


def options_of(call: Call) -> tuple[Any, ...]:
    """What of a call is not a tensor: kernel, clip, heads, beta, reverse, zoneout of h and c, candidate, stream, first row,
    training, backend, checkpoint, save, check_finite.
    """
    cell, noise = call.cell, active(call.noise) or _QUIET
    kernel = "gru_memory" if cell.kernel == "gru" and cell.has_cell else cell.kernel
    rates = (float(noise.zoneout_h), float(noise.zoneout_c), float(noise.candidate))
    where = (noise.stream, noise.first_row, noise.training)
    of_cell = (kernel, cell.clip, cell.heads, float(getattr(cell, "beta", 0.0)))
    return (*of_cell, call.reverse, *rates, *where, call.backend, call.checkpoint, call.save, call.check_finite)


def cell_of(kernel: str, clip: float | None, heads: int, beta: float) -> Cell:
    """The cell that `options_of` named."""
    cell: Any = CELLS[kernel]
    given = {"clip": clip, "heads": heads, "beta": beta}
    own = {name: value for name, value in given.items() if value != getattr(cell, name, value)}
    return replace(cell, **own) if own else cell


def call_of(tensors: Sequence[Any], options: Sequence[Any]) -> Call:
    """The call of `tensors_of` and `options_of`."""
    x, w_ih, w_hh, b_ih, b_hh, w_hr, w_ch, norm, h0, c0, lengths, reset, reset_h, reset_c, hidden, seed = tensors
    *of_cell, reverse, zoneout_h, zoneout_c, candidate, stream, first_row, training, backend, every, save, finite = options
    noise = None
    if hidden is not None or zoneout_h or zoneout_c or candidate:
        seed = 0 if seed is None else int(seed)
        noise = Noise(zoneout_h, zoneout_c, candidate, seed, stream, training, hidden, first_row)
    return Call(
        cell_of(*of_cell),
        x,
        Weights(w_ih, w_hh, b_ih, b_hh, w_hr, w_ch, norm),
        State(h0, c0),
        lengths,
        reset,
        None if reset_h is None else State(reset_h, reset_c),
        reverse,
        noise,
        None,
        backend,
        save,
        every,
        finite,
    )


def flat(run: Run) -> tuple[Any, ...]:
    """y, h_n, c_n, gates, c, m, as openlstm::forward gives them; None for what there is not."""
    saved = run.saved
    return (run.y, *run.state, *((None, None, None) if saved is None else saved[1:]))


def flat_gradients(g: Gradients) -> tuple[Any, ...]:
    """The gradients in the order of openlstm::backward, None for each that does not exist or is another one's twin."""
    w, s, r = g.weights, g.state, g.reset_state or State(None)
    b_hh = None if w.b_hh is w.b_ih else w.b_hh
    return (g.x, w.w_ih, w.w_hh, w.b_ih, b_hh, w.w_hr, w.w_ch, w.norm, s.h, s.c, r.h, r.c)


def run_backward(tensors: Sequence[Any], options: Sequence[Any], input_gradient: bool) -> Gradients:
    """`execute.backward` of what an operator is given: the inputs, then y, gates, c, m, dy, dh, dc."""
    y, gates, c, m, dy, dh, dc = tensors[INPUTS:]
    call = call_of(tensors[:INPUTS], options)
    return execute.backward(call, Saved(y, gates, c, m), dy, State(dh, dc), input_gradient=input_gradient)


def filled(outputs: tuple[Any, ...], like: Tensor) -> tuple[Tensor, ...]:
    """An operator returns tensors only: an empty one for each None."""
    return tuple(like.new_empty(0) if t is None else t for t in outputs)


def _refuse_onnx(options: Sequence[Any]) -> None:
    """Raise where torch.onnx.export runs the operator, which only the exporter of TorchScript does: it cannot translate it.

    Raises:
        BackendError: then.
    """
    if torch.onnx.is_in_onnx_export():
        what, hint = "the exporter of TorchScript has no translation of this layer", "torch.onnx.export(.., dynamo=True)"
        who = Call(CELLS[options[0]], None, Weights(None, None)).who
        hint += ", or export openlstm.nn.to_torch(copy.deepcopy(model)): the same parameters in torch.nn's layers"
        raise BackendError.of(who, what, "torch.onnx.export(dynamo=False)", "dynamo=True", hint)


def _forward(*args: Any) -> tuple[Tensor, ...]:
    _refuse_onnx(args[INPUTS:])
    return filled(flat(execute.forward(call_of(args[:INPUTS], args[INPUTS:]))), args[0])


def _translated(*args: Any) -> tuple[Tensor, ...]:
    call = call_of((*args[: INPUTS - 1], None), args[INPUTS:])  # without the seed: what is drawn from it is refused
    run, shapes = flat(translated(call))[:3], _forward_shapes(*args)
    return filled((*run, *(a.new_zeros(a.shape) for a in shapes[3:])), args[0])


def _backward(*args: Any) -> tuple[Tensor, ...]:
    return filled(flat_gradients(run_backward(args[: INPUTS + 7], args[INPUTS + 7 : -1], args[-1])), args[0])


def _forward_shapes(*args: Any) -> tuple[Tensor, ...]:
    x, w_ih, w_hh, _, _, w_hr, _, _, h0 = args[:9]
    of_cell, (every, save) = args[INPUTS : INPUTS + 4], args[-3:-1]
    cell = cell_of(*of_cell)
    T, B, H, R = x.shape[0], x.shape[1], hidden_size(cell, Weights(w_ih, w_hh)), h0.shape[1]
    C = cell_size(cell, H)
    y, h_n = x.new_empty((T, B, R)), h0.new_empty((B, R))
    c_n = h0.new_empty((B, C) if cell.has_cell else (0,))
    if save and every:
        kept = -(-T // checkpoint.interval(every, B))
        c = h0.new_empty((kept, B, C) if cell.has_cell else (0,))
        return y, h_n, c_n, h0.new_empty((kept, B, R)), c, x.new_empty(0)
    return (
        *(y, h_n, c_n),
        h0.new_empty((T, B, len(cell.saved) * H) if save and cell.saved else (0,)),
        h0.new_empty((T, B, C) if save and cell.has_cell else (0,)),
        h0.new_empty((T, B, H) if save and w_hr is not None else (0,)),
    )


def _backward_shapes(*args: Any) -> tuple[Tensor, ...]:
    x, w_ih, w_hh, b_ih, b_hh, w_hr, w_ch, norm, h0, c0, _, _, reset_h, reset_c = args[: INPUTS - 2]
    twin = b_hh if CELLS[args[INPUTS + 7]].separate else None
    outputs = (x if args[-1] else None, w_ih, w_hh, b_ih, twin, w_hr, w_ch, norm, h0, c0, reset_h, reset_c)
    return filled(tuple(None if t is None else t.new_empty(t.shape) for t in outputs), x)


_TENSORS = (
    "Tensor x, Tensor? w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? w_hr, Tensor? w_ch, Tensor? norm, "
    "Tensor h0, Tensor? c0, Tensor? lengths, Tensor? reset, Tensor? reset_h, Tensor? reset_c, Tensor? hidden, Tensor? seed"
)
_SAVED = "Tensor y, Tensor gates, Tensor c, Tensor m, Tensor? dy, Tensor? dh, Tensor? dc"
_OPTIONS = (
    "str kernel, float? clip, int heads, float beta, bool reverse, float zoneout_h, float zoneout_c, float candidate, "
    "int stream, int first_row, bool training, str backend, int checkpoint, bool save, bool check_finite"
)
_library = torch.library.Library("openlstm", "DEF")
_library.define(f"forward({_TENSORS}, {_OPTIONS}) -> ({', '.join(['Tensor'] * 6)})")
_library.define(f"backward({_TENSORS}, {_SAVED}, {_OPTIONS}, bool input_gradient) -> ({', '.join(['Tensor'] * 12)})")
for _name, _operator, _shapes in (("forward", _forward, _forward_shapes), ("backward", _backward, _backward_shapes)):
    _library.impl(_name, _operator, "CompositeExplicitAutograd")
    torch.library.register_fake(f"openlstm::{_name}", _shapes, lib=_library)
register_decomposition(torch.ops.openlstm.forward.default)(_translated)  # what torch.onnx.export(dynamo=True) asks for
