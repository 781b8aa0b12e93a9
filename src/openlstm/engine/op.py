"""The only place where autograd meets a backend: one layer in one direction as a differentiable torch operation.

Four pieces, from the outside in:

    sequence()        what the layers call; half types become float32 here
    Forward, Backward two autograd Functions; the gradient of Backward (second derivatives) goes through the reference
    openlstm::*       two functional custom operators, so that torch.compile and torch.export can carry them in a graph
    _run, _gradients  the call of the backend that `engine.choose` names

Why Functions around operators: `torch.library.register_autograd` makes func.grad, per-sample gradients and jacrev fail and lets
jacfwd return zeros in silence. Why operators at all: a graph cannot hold a call into the kernels.

Legend: T time, B batch, I input size, H hidden size, P projected size, R what is fed back (P with a projection, else H),
G gates of a cell.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from openlstm import cells, reference
from openlstm._errors import ArgumentError, BackendError, message
from openlstm.cells import Cell
from openlstm.engine.support import SUPPORT, choose
from openlstm.reference import Saved, State, Weights

CELLS: dict[str, Cell] = {cell.kernel: cell for cell in cells.ALL}
"""An operator's argument is a string: every cell by the name of its kernel."""


class Options(NamedTuple):
    """What of a call is not a tensor."""

    kernel: str  # a key of CELLS
    reverse: bool = False
    backend: str = "auto"
    save: bool = False
    check_finite: bool = False


class Result(NamedTuple):
    """What `sequence` returns; `gates` and `c` are empty unless `save`, `c_n` and `c` are empty for a cell without a highway."""

    y: Tensor  # [T, B, R]
    h_n: Tensor  # [B, R]
    c_n: Tensor  # [B, H]
    gates: Tensor  # [T, B, len(cell.saved)*H]
    c: Tensor  # [T, B, H]


# The tensors of a call in the order of the operators' arguments:
#   0 x | 1-5 w_ih, w_hh, b_ih, b_hh, w_hr | 6-7 h0, c0 | 8-9 lengths, reset | 10-11 reset_h, reset_c
_INPUTS = 12
_HALF = (torch.float16, torch.bfloat16)


def sequence(
    cell: Cell,
    x: Tensor,
    weights: Weights,
    state: State,
    *,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    reset_state: State | None = None,
    reverse: bool = False,
    backend: str = "auto",
    save: bool = False,
    check_finite: bool = False,
) -> Result:
    """Run a cell over one layer of a sequence, differentiably; arguments as in `recur`, all of them torch tensors.

    float16 and bfloat16 run as float32 and are rounded once, at the end.

    Raises:
        ArgumentError: for lengths outside 0..T, or non-finite x with `check_finite`.
        BackendError: where the named backend cannot run this.
    """
    tensors = (x, *weights, *state, lengths, reset, *(reset_state or (None, None)))
    _refuse_forward_mode(tensors)
    half = x.dtype if x.dtype in _HALF else None
    if half is not None:
        tensors = tuple(t.float() if t is not None and t.is_floating_point() else t for t in tensors)
    transformed = torch._C._are_functorch_transforms_active()
    grad = transformed or (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors))
    options = Options(cell.kernel, reverse, backend, save or grad, check_finite)
    if grad:
        out = Forward.apply(*tensors, options)
    elif _direct(x):
        out = _run(*tensors, *options)
    else:
        out = torch.ops.openlstm.forward(*tensors, *options)
    if half is not None:
        out = (*(t.to(half) for t in out[:3]), *out[3:])
    return Result(*out)


def sequence_by_reference(cell: Cell, x: Tensor, weights: Weights, state: State, **options: Any) -> Result:
    """As `sequence`, in plain torch operations, so that gates and cell states carry gradients too."""
    kept = {name: options[name] for name in ("lengths", "reset", "reset_state", "reverse")}
    run = reference.forward(cell, x, weights, state, save=True, **kept)
    assert run.saved is not None
    none = x.new_empty(0)
    return Result(run.y, run.state.h, *(none if t is None else t for t in (run.state.c, run.saved.gates, run.saved.c)))


def step_gradients(
    cell: Cell,
    ran: Any,
    dy: Tensor | None,
    dstate: State,
    *,
    lengths: Tensor | None,
    reset: Tensor | None,
    backend: str = "auto",
    differentiable: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """dL/dh_t [T, B, R] and dL/dc_t [T, B, H] of one layer in one direction, given dL/dy and dL/d(final state).

    Args:
        ran: x, weights, state, reset_state, reverse and the `Result` of `sequence(..., save=True)`.
        differentiable: through the reference, as plain torch operations.
    """
    r = ran.result
    tensors = [ran.x, *ran.weights, *ran.state, lengths, reset, *(ran.reset_state or (None, None))]
    tensors += [r.y, r.gates, r.c, dy, dstate.h, dstate.c]
    if not differentiable:
        tensors = [t if t is None else t.detach() for t in tensors]
    if ran.x.dtype in _HALF:
        tensors = [t.float() if t is not None and t.is_floating_point() else t for t in tensors]
    call = _Call.of(*_ready(tensors[:_INPUTS]), cell.kernel, ran.reverse)
    saved, dy, dstate = _saved(cell, tensors[_INPUTS:])
    module = reference if differentiable else SUPPORT[choose(backend, cell, call.x, _who(cell))].module
    grads = call.backward(module, saved, dy, dstate, steps=True)
    return grads.h_steps, grads.c_steps


def _direct(x: Tensor) -> bool:
    """Whether nothing watches this call, so that the operator (a few microseconds) can be left out."""
    return (
        type(x) is Tensor
        and not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._get_tracing_state() is None
    )


class Forward(torch.autograd.Function):
    """(tensors, options) -> `Result`; what is saved carries no gradient."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        *tensors, options = args
        return torch.ops.openlstm.forward(*tensors, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.options = inputs
        y, _, _, gates, c = output
        ctx.save_for_backward(*tensors, y, gates, c)
        ctx.mark_non_differentiable(gates, c)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, dy: Any, dh: Any, dc: Any, *_: Any) -> tuple[Any, ...]:
        run = Backward.apply if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active() else Backward.forward
        grads = run(*ctx.saved_tensors, dy, dh, dc, ctx.options)
        dx, dw_ih, dw_hh, db, dw_hr, dh0, dc0, dreset_h, dreset_c = grads
        out = (dx, dw_ih, dw_hh, db, db, dw_hr, dh0, dc0, None, None, dreset_h, dreset_c)
        return *(g if need else None for g, need in zip(out, ctx.needs_input_grad[:_INPUTS], strict=True)), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        return _one_by_one(Forward, info.batch_size, in_dims, args)


class Backward(torch.autograd.Function):
    """(tensors, y, gates, c, dy, dh, dc, options) -> the gradients; differentiable itself, through the reference."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        *tensors, options = args
        return torch.ops.openlstm.backward(*tensors, *options[:3])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.options = inputs
        ctx.save_for_backward(*tensors[:_INPUTS], *tensors[_INPUTS + 3 :])

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Any, ...]:
        return _second_derivative(ctx.saved_tensors, ctx.options, cotangents)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        return _one_by_one(Backward, info.batch_size, in_dims, args)


def _second_derivative(tensors: tuple[Any, ...], options: Options, cotangents: tuple[Any, ...]) -> tuple[Any, ...]:
    """The vector-Jacobian product of Backward: forward and backward run again as plain torch operations and are differentiated."""
    inputs, grads = tensors[:_INPUTS], tensors[_INPUTS:]
    places = [k for k, t in enumerate(tensors) if t is not None and k not in (8, 9)]

    def gradients(*primals: Tensor) -> tuple[Tensor, ...]:
        full = list(tensors)
        for k, value in zip(places, primals, strict=True):
            full[k] = value
        call = _Call.of(*full[:_INPUTS], options.kernel, options.reverse)
        saved = call.forward(reference, save=True).saved
        dy, dh, dc = full[_INPUTS:]
        return _flat(call.x, call.backward(reference, saved, dy, State(dh, dc)))

    _, pull = torch.func.vjp(gradients, *(tensors[k] for k in places))
    found = dict(zip(places, pull(tuple(cotangents)), strict=True))
    front = [found.get(k) for k in range(len(inputs))]
    back = [found.get(len(inputs) + k) for k in range(len(grads))]
    return *front, None, None, None, *back, None


def _one_by_one(
    function: Any, size: int, in_dims: tuple[Any, ...], args: tuple[Any, ...]
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """vmap as a loop: weights and their gradients may differ from one element to the next, so they cannot share a batch."""
    runs = [
        function.apply(*(a if d is None else a.select(d, n) for a, d in zip(args[:-1], in_dims[:-1], strict=True)), args[-1])
        for n in range(size)
    ]
    stacked = tuple(torch.stack(parts) for parts in zip(*runs, strict=True))
    return stacked, (0,) * len(stacked)


def _refuse_forward_mode(tensors: tuple[Any, ...]) -> None:
    """Raise where a tensor carries a tangent: a kernel would drop it, and zeros would come out in silence."""
    level = forward_ad._current_level
    if level >= 0 and any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        raise BackendError(
            message(
                "openlstm",
                "forward-mode differentiation is not available",
                "jvp, jacfwd or a dual tensor",
                "reverse mode",
                "use torch.func.jacrev, vjp or backward()",
            )
        )


class _Call(NamedTuple):
    """The arguments of a backend."""

    cell: Cell
    x: Tensor
    weights: Weights
    state: State
    options: dict[str, Any]

    @staticmethod
    def of(
        x: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Any,
        b_hh: Any,
        w_hr: Any,
        h0: Tensor,
        c0: Any,
        lengths: Any,
        reset: Any,
        reset_h: Any,
        reset_c: Any,
        kernel: str,
        reverse: bool,
    ) -> _Call:
        reset_state = None if reset_h is None else State(reset_h, reset_c)
        options = {"lengths": lengths, "reset": reset, "reset_state": reset_state, "reverse": reverse}
        return _Call(CELLS[kernel], x, Weights(w_ih, w_hh, b_ih, b_hh, w_hr), State(h0, c0), options)

    def forward(self, module: Any, save: bool) -> reference.Run:
        return module.forward(self.cell, self.x, self.weights, self.state, save=save, **self.options)

    def backward(self, module: Any, saved: Any, dy: Any, dstate: State, **steps: bool) -> reference.Gradients:
        return module.backward(self.cell, self.x, self.weights, self.state, saved, dy, dstate, **self.options, **steps)


def _run(*args: Any) -> tuple[Tensor, ...]:
    """The implementation of openlstm::forward."""
    *inputs, kernel, reverse, backend, save, check_finite = args
    call = _Call.of(*_ready(inputs), kernel, reverse)
    _check_values(call, check_finite)
    module = SUPPORT[choose(backend, call.cell, call.x, _who(call.cell))].module
    run = call.forward(module, save)
    state = run.state if call.x.shape[0] else State(*(None if s is None else s.clone() for s in run.state))
    none = call.x.new_empty(0)
    gates, c = (run.saved.gates, run.saved.c) if run.saved is not None else (None, None)
    return run.y, state.h, *(none.clone() if t is None else t for t in (state.c, gates, c))


def _gradients(*args: Any) -> tuple[Tensor, ...]:
    """The implementation of openlstm::backward."""
    *tensors, kernel, reverse, backend = args
    call = _Call.of(*_ready(tensors[:_INPUTS]), kernel, reverse)
    saved, dy, dstate = _saved(call.cell, tensors[_INPUTS:])
    module = SUPPORT[choose(backend, call.cell, call.x, _who(call.cell))].module
    grads = call.backward(module, saved, dy, dstate)
    if not call.x.shape[0]:
        grads = grads._replace(state=State(*(None if s is None else s.clone() for s in grads.state)))
    return _flat(call.x, grads)


def _saved(cell: Cell, tensors: Any) -> tuple[Saved, Any, State]:
    y, gates, c, dy, dh, dc = (_last_stride_one(t) for t in tensors)
    return Saved(y, gates if cell.saved else None, c if cell.has_cell else None), dy, State(dh, dc if cell.has_cell else None)


def _flat(x: Tensor, g: reference.Gradients) -> tuple[Tensor, ...]:
    """The nine gradients in the order of openlstm::backward, an empty tensor for each that does not exist."""
    w, s, r = g.weights, g.state, g.reset_state or State(None)
    return tuple(x.new_empty(0) if t is None else t for t in (g.x, w.w_ih, w.w_hh, w.b_ih, w.w_hr, s.h, s.c, r.h, r.c))


def _ready(inputs: Any) -> list[Any]:
    """Tensors as backends take them: last stride 1; lengths and reset contiguous on the device of x."""
    ready = [_last_stride_one(t) for t in inputs]
    for k, dtype in ((8, torch.int64), (9, torch.bool)):
        if ready[k] is not None:
            ready[k] = ready[k].to(inputs[0].device, dtype).contiguous()
    return ready


def _last_stride_one(t: Tensor | None) -> Tensor | None:
    return t if t is None or t.dim() == 0 or t.stride(-1) == 1 else t.contiguous()


def _who(cell: Cell) -> str:
    return "RNN" if cell.name == "rnn" else "LSTM"


def _check_values(call: _Call, check_finite: bool) -> None:
    """Checks that read values live in the operator, where they do not break a compiled graph."""
    who, T, lengths = _who(call.cell), call.x.shape[0], call.options["lengths"]
    if lengths is not None and lengths.numel() and (int(lengths.min()) < 0 or int(lengths.max()) > T):
        row = int(torch.nonzero((lengths < 0) | (lengths > T))[0])
        raise ArgumentError(
            message(
                who,
                f"lengths[{row}] is {int(lengths[row])}, outside 0..{T}",
                f"lengths: {[int(n) for n in lengths[:8]]}{' ...' if len(lengths) > 8 else ''}",
                f"0 <= lengths <= T = {T}",
                "lengths count the real steps of each row; T is the longest",
            )
        )
    if check_finite and not bool(call.x.isfinite().all()):
        where = torch.nonzero(~call.x.isfinite())[0].tolist()
        raise ArgumentError(
            message(
                who,
                f"x holds {float(call.x[tuple(where)])} at step {where[0]}, row {where[1]}, feature {where[2]}",
                "a value that is not finite",
                "finite values",
                "mask or fill missing values before the layer, or pass check_finite=False to let them through",
            )
        )


def _run_fake(*args: Any) -> tuple[Tensor, ...]:
    """Shapes of openlstm::forward, for a compiler."""
    x, w_ih, w_hh = args[:3]
    cell, save = CELLS[args[_INPUTS]], args[_INPUTS + 3]
    T, B, H = x.shape[0], x.shape[1], w_ih.shape[0] // len(cell.gates)
    R, none = w_hh.shape[1], (0,)
    return (
        x.new_empty((T, B, R)),
        x.new_empty((B, R)),
        x.new_empty((B, H) if cell.has_cell else none),
        x.new_empty((T, B, len(cell.saved) * H) if save and cell.saved else none),
        x.new_empty((T, B, H) if save and cell.has_cell else none),
    )


def _gradients_fake(*args: Any) -> tuple[Tensor, ...]:
    """Shapes of openlstm::backward, for a compiler."""
    inputs = args[:_INPUTS]
    order = (inputs[0], *inputs[1:4], *inputs[5:8], *inputs[10:12])
    none = inputs[0].new_empty
    return tuple(none(0) if t is None else none(t.shape) for t in order)


_TENSORS = (
    "Tensor x, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? w_hr, Tensor h0, Tensor? c0, "
    "Tensor? lengths, Tensor? reset, Tensor? reset_h, Tensor? reset_c"
)
_library = torch.library.Library("openlstm", "DEF")
_library.define(
    f"forward({_TENSORS}, str kernel, bool reverse, str backend, bool save, bool check_finite) -> ({', '.join(['Tensor'] * 5)})"
)
_library.define(
    f"backward({_TENSORS}, Tensor y, Tensor gates, Tensor c, Tensor? dy, Tensor? dh, Tensor? dc, "
    f"str kernel, bool reverse, str backend) -> ({', '.join(['Tensor'] * 9)})"
)
_library.impl("forward", _run, "CompositeExplicitAutograd")
_library.impl("backward", _gradients, "CompositeExplicitAutograd")
torch.library.register_fake("openlstm::forward", _run_fake, lib=_library)
torch.library.register_fake("openlstm::backward", _gradients_fake, lib=_library)
