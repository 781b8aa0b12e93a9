"""The only place where autograd meets a backend: one layer in one direction as a differentiable torch operation.

From the outside in:

    sequence()          what the layers call; half types become float32 here
    Forward, Backward   two autograd Functions; the gradient of Backward (second derivatives) goes through the reference
    openlstm::*         two functional custom operators, so that torch.compile and torch.export can carry them in a graph
    _forward, _backward the call of the backend that `engine.choose` names

Why Functions around operators: `torch.library.register_autograd` makes func.grad, per-sample gradients and jacrev fail and lets
jacfwd return zeros in silence. Why operators at all: a graph cannot hold a call into the kernels. Where nothing watches, the
operator is left out, which saves ten microseconds a call.

Legend: T time, B batch, I input size, H hidden size, P projected size, R what is fed back (P with a projection, else H),
G gates of a cell.
"""

from __future__ import annotations

import inspect
import os
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor  # the vmap of torch.autograd.grad(..., is_grads_batched=True)
from torch.autograd import forward_ad

from openlstm import cells, reference
from openlstm._errors import ArgumentError, BackendError, message
from openlstm.cells import Cell
from openlstm.engine import cpu, cuda
from openlstm.engine.check import check_recur
from openlstm.engine.support import SUPPORT, choose
from openlstm.reference import Gradients, Saved, State, Weights

CELLS: dict[str, Cell] = {cell.kernel: cell for cell in cells.ALL}
"""An operator's argument is a string: every cell by the name of its kernel."""

S = TypeVar("S", Weights, State)


class Result(NamedTuple):
    """What `sequence` returns; what a cell has not, or was not asked to save, is None or empty."""

    y: Tensor  # [T, B, R]
    h_n: Tensor  # [B, R]
    c_n: Any  # [B, H]
    gates: Any  # [T, B, len(cell.saved)*H]
    c: Any  # [T, B, H]


class Ran(NamedTuple):
    """One layer in one direction: what it was given and what came out."""

    x: Tensor  # [T, B, I]
    weights: Weights
    state: State
    reset_state: State | None
    reverse: bool
    result: Result


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

    float16 and bfloat16 run as float32 and are rounded once, at the end. The numbers of the layer are the same with and without
    gradients, and the same in a compiled graph.

    Raises:
        ArgumentError: for lengths outside 0..T, or non-finite x with `check_finite`.
        BackendError: where the named backend cannot run this, or in forward-mode differentiation.
    """
    transformed = torch._C._are_functorch_transforms_active()
    if x.is_cuda and not transformed and not torch.compiler.is_compiling():
        if cuda.plain(x, lengths=lengths, reset=reset, save=save) and choose(backend, cell, x) == "cuda":
            _check_values(_who(cell), x, lengths, check_finite)
            run = cuda.fused(cell, x, weights, state, reverse)
            return Result(run.y, *run.state, None, None)
    if x.dtype in _HALF:
        fresh = None if reset_state is None else _widen(reset_state)
        more = {"reverse": reverse, "backend": backend, "save": save, "check_finite": check_finite}
        wide = sequence(
            cell, x.float(), _widen(weights), _widen(state), lengths=lengths, reset=reset, reset_state=fresh, **more
        )
        c_n = wide.c_n if wide.c_n is None else wide.c_n.to(x.dtype)
        return wide._replace(y=wide.y.to(x.dtype), h_n=wide.h_n.to(x.dtype), c_n=c_n)
    tensors = (x, *weights[:5], *state, lengths, reset, *(reset_state or (None, None)))
    if forward_ad._current_level >= 0:
        _refuse_forward_mode(tensors)
    if transformed or (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)):
        return Result(*Forward.apply(*tensors, (cell.kernel, reverse, backend, True, check_finite)))
    return Result(*Forward.forward(*tensors, (cell.kernel, reverse, backend, save, check_finite)))


def step(cell: Cell, x: Tensor, weights: Weights, state: State, backend: str = "auto") -> State:
    """One step of x [B, I]: as `sequence` with T = 1; on the native backend without gradients it takes the shortest way."""
    if not torch.is_grad_enabled() and x.dtype not in _HALF and _direct(x):
        watched = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
        # What `choose` would say, without the sentences it prepares: a microsecond of the fifteen that a small step takes.
        plain = backend == "auto" and x.dtype in _NATIVE and cpu.available() and "OPENLSTM_BACKEND" not in os.environ
        if not watched and (plain or choose(backend, cell, x, "LSTMCell") == "cpu"):
            cpu.check_isa()
            new = cpu.step(cell, x, weights, state)
            if new is not None:
                return new
    out = sequence(cell, x.unsqueeze(0), weights, state, backend=backend)
    return State(out.h_n, out.c_n)


def runs_as(x: Tensor) -> Tensor:
    """`x`, or where it will be converted first an empty tensor of the type it will have."""
    return x.new_empty(0, dtype=torch.float32) if x.dtype in _HALF and not x.is_cuda else x


def sequence_by_reference(cell: Cell, x: Tensor, weights: Weights, state: State, **options: Any) -> Result:
    """As `sequence`, in plain torch operations, so that gates and cell states carry gradients too."""
    _check_values(_who(cell), x, options["lengths"], options.get("check_finite", False))
    kept = {name: options[name] for name in ("lengths", "reset", "reset_state", "reverse")}
    run = reference.forward(cell, x, weights, state, save=True, **kept)
    assert run.saved is not None
    end = _cloned(run.state)  # leaves of their own: h_n itself would be an ancestor of y, and a gradient would count twice
    return Result(run.y, end.h, end.c, run.saved.gates, run.saved.c)


def step_gradients(
    cell: Cell,
    ran: Ran,
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
        ran: a call of `sequence(..., save=True)`.
        differentiable: through the reference, as plain torch operations.
    """
    tensors = [ran.x, *ran.weights[:5], *ran.state, lengths, reset, *(ran.reset_state or (None, None))]
    tensors += [ran.result.y, ran.result.gates, ran.result.c, dy, *dstate]
    if not differentiable:
        tensors = [t if t is None else t.detach() for t in tensors]
    if ran.x.dtype in _HALF:
        tensors = [t.float() if t is not None and t.is_floating_point() else t for t in tensors]
    call = _Call.of(tensors[:_INPUTS], cell.kernel, ran.reverse)
    grads = _backward(call, tensors[_INPUTS:], "reference" if differentiable else backend, False, steps=True)
    assert grads.h_steps is not None
    return grads.h_steps, grads.c_steps


class Forward(torch.autograd.Function):
    """(tensors, options) -> `Result`; what is saved carries no gradient."""

    @staticmethod
    def forward(*args: Any) -> tuple[Any, ...]:
        *tensors, options = args
        if _direct(tensors[0]):
            kernel, reverse, *rest = options
            return tuple(_forward(_Call.of(tensors, kernel, reverse), *rest))
        return torch.ops.openlstm.forward(*tensors, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        *tensors, ctx.options = inputs
        y, _, _, gates, c = output
        ctx.save_for_backward(*tensors, y, gates, c)
        ctx.mark_non_differentiable(*[t for t in (gates, c) if t is not None])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, dy: Any, dh: Any, dc: Any, *_: Any) -> tuple[Any, ...]:
        need = ctx.needs_input_grad
        kernel, reverse, backend = ctx.options[:3]
        twice = torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()
        run = Backward.apply if twice else Backward.forward
        grads = run(*ctx.saved_tensors, dy, dh, dc, (kernel, reverse, backend, need[0]))
        dx, dw_ih, dw_hh, db, dw_hr, dh0, dc0, dreset_h, dreset_c = grads
        again = db.clone() if db is not None and need[3] and need[4] else db  # two parameters' gradients share no memory
        out = (dx, dw_ih, dw_hh, db, again, dw_hr, dh0, dc0, None, None, dreset_h, dreset_c)
        return *[g if needed else None for g, needed in zip(out, need[:_INPUTS], strict=True)], None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return _one_by_one(Forward, info.batch_size, in_dims, args)


class Backward(torch.autograd.Function):
    """(tensors, y, gates, c, dy, dh, dc, options) -> the gradients; differentiable itself, through the reference."""

    @staticmethod
    def forward(*args: Any) -> tuple[Any, ...]:
        *tensors, options = args
        if _direct(tensors[0]) and not any(t is not None and is_legacy_batchedtensor(t) for t in tensors[-3:]):
            kernel, reverse, *rest = options
            return _flat(_backward(_Call.of(tensors[:_INPUTS], kernel, reverse), tensors[_INPUTS:], *rest))
        return torch.ops.openlstm.backward(*tensors, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        *tensors, ctx.options = inputs
        ctx.save_for_backward(*tensors[:_INPUTS], *tensors[_INPUTS + 3 :])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Any, ...]:
        return _second_derivative(ctx.saved_tensors, ctx.options, cotangents)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return _one_by_one(Backward, info.batch_size, in_dims, args)


for _function in (Forward, Backward):  # `apply` asks for the signature at every call: kept, the answer costs 10 us less
    _function.forward.__signature__ = inspect.signature(_function.forward)  # type: ignore[attr-defined]

# The tensors of a call in the order of the operators' arguments:
#   0 x | 1-5 w_ih, w_hh, b_ih, b_hh, w_hr | 6-7 h0, c0 | 8-9 lengths, reset | 10-11 reset_h, reset_c
# and of the way back: 12-14 y, gates, c | 15-17 dy, dh, dc
_INPUTS = 12
_NOT_REAL = (8, 9)
_HALF = (torch.float16, torch.bfloat16)
_NATIVE = (torch.float32, torch.float64)


class _Call(NamedTuple):
    """The arguments of a backend."""

    cell: Cell
    x: Tensor
    weights: Weights
    state: State
    options: dict[str, Any]

    @staticmethod
    def of(tensors: Any, kernel: str, reverse: bool) -> _Call:
        x, w_ih, w_hh, b_ih, b_hh, w_hr, h0, c0, lengths, reset, reset_h, reset_c = tensors
        reset_state = None if reset_h is None else State(reset_h, reset_c)
        options = {"lengths": lengths, "reset": reset, "reset_state": reset_state, "reverse": reverse}
        return _Call(CELLS[kernel], x, Weights(w_ih, w_hh, b_ih, b_hh, w_hr), State(h0, c0), options)

    def module(self, backend: str) -> Any:
        return SUPPORT[choose(backend, self.cell, self.x, _who(self.cell), self.weights.w_hr is not None)].module


def _forward(call: _Call, backend: str, save: bool, check_finite: bool) -> Result:
    lengths, reset, reset_state = (call.options[name] for name in ("lengths", "reset", "reset_state"))
    check_recur(call.cell, call.x, call.weights, call.state, None, reset, reset_state)  # a kernel reads addresses
    _check_values(_who(call.cell), call.x, lengths, check_finite)
    run = call.module(backend).forward(call.cell, call.x, call.weights, call.state, save=save, **call.options)
    state = run.state if call.x.shape[0] else _cloned(run.state)
    gates, c = (None, None) if run.saved is None else (run.saved.gates if call.cell.saved else None, run.saved.c)
    return Result(run.y, state.h, state.c, gates, c)


def _backward(call: _Call, tensors: Any, backend: str, input_gradient: bool, steps: bool = False) -> Gradients:
    y, gates, c, dy, dh, dc = tensors
    saved = Saved(y, gates if call.cell.saved else None, c if call.cell.has_cell else None)
    dstate = State(dh, dc if call.cell.has_cell else None)
    more = {"steps": steps, "input_gradient": input_gradient}
    run = call.module(backend).backward
    grads = run(call.cell, call.x, call.weights, call.state, saved, dy, dstate, **call.options, **more)
    return grads if call.x.shape[0] else grads._replace(state=_cloned(grads.state))


def _cloned(state: State) -> State:
    """A copy. With T = 0 a state comes back as it went in, and an operator's outputs may not be its inputs."""
    return State(*(None if s is None else s.clone() for s in state))


def _flat(g: Gradients) -> tuple[Any, ...]:
    """The nine gradients in the order of openlstm::backward, None for each that does not exist."""
    w, s, r = g.weights, g.state, g.reset_state or State(None)
    return (g.x, w.w_ih, w.w_hh, w.b_ih, w.w_hr, s.h, s.c, r.h, r.c)


def _second_derivative(tensors: tuple[Any, ...], options: tuple[Any, ...], cotangents: tuple[Any, ...]) -> tuple[Any, ...]:
    """The vector-Jacobian product of Backward: both passes run again as plain torch operations, and are differentiated."""
    kernel, reverse, _, input_gradient = options
    places = [k for k, t in enumerate(tensors) if t is not None and k not in _NOT_REAL]

    def gradients(*primals: Tensor) -> tuple[Tensor, ...]:
        full = list(tensors)
        for k, value in zip(places, primals, strict=True):
            full[k] = value
        call = _Call.of(full[:_INPUTS], kernel, reverse)
        y, _, _, gates, c = _forward(call, "reference", True, False)
        return _filled(_flat(_backward(call, (y, gates, c, *full[_INPUTS:]), "reference", input_gradient)), call.x)

    outputs, pull = torch.func.vjp(gradients, *(tensors[k] for k in places))[:2]
    found = pull(tuple(torch.zeros_like(o) if g is None else g for o, g in zip(outputs, cotangents, strict=True)))
    by_place = dict(zip(places, found, strict=True))
    every = [by_place.get(k) for k in range(len(tensors))]
    return *every[:_INPUTS], None, None, None, *every[_INPUTS:], None


def _one_by_one(function: Any, size: int, in_dims: tuple[Any, ...], args: tuple[Any, ...]) -> tuple[Any, Any]:
    """Map as a loop: weights and their gradients may differ from one element to the next, so they cannot share a batch."""
    *tensors, options = args
    runs = [
        function.apply(*(t if d is None else t.select(d, n) for t, d in zip(tensors, in_dims, strict=False)), options)
        for n in range(size)
    ]
    stacked = tuple(None if parts[0] is None else torch.stack(parts) for parts in zip(*runs, strict=True))
    return stacked, tuple(None if s is None else 0 for s in stacked)


def _direct(x: Tensor) -> bool:
    """Whether nothing watches this call, so that the operator can be left out."""
    return (
        not torch.compiler.is_compiling()
        and type(x) in (Tensor, torch.nn.Parameter)
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._get_tracing_state() is None
    )


def _refuse_forward_mode(tensors: tuple[Any, ...]) -> None:
    """Raise where a tensor carries a tangent: a kernel would drop it, and zeros would come out in silence."""
    if any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        raise BackendError(
            message(
                "openlstm",
                "forward-mode differentiation is not available",
                "jvp, jacfwd or a dual tensor",
                "reverse mode",
                "use torch.func.jacrev, vjp or backward()",
            )
        )


def _widen(group: S) -> S:
    return type(group)(*(None if t is None else t.float() for t in group))


def _who(cell: Cell) -> str:
    return "RNN" if cell.name == "rnn" else "LSTM"


def _check_values(who: str, x: Tensor, lengths: Tensor | None, check_finite: bool) -> None:
    """Checks that read values: here they do not break a compiled graph."""
    T = x.shape[0]
    if lengths is not None and lengths.numel() and (int(lengths.min()) < 0 or int(lengths.max()) > T):
        row = int(torch.nonzero((lengths < 0) | (lengths > T))[0])
        shown = ", ".join(str(int(n)) for n in lengths[:8]) + (", ..." if len(lengths) > 8 else "")
        hint = "lengths count the real steps of each row; x must be as long as the longest"
        what = f"lengths[{row}] is {int(lengths[row])}, outside 0..{T}"
        raise ArgumentError(message(who, what, f"lengths: [{shown}]", f"0 <= lengths <= T = {T}", hint))
    if not check_finite:
        return
    bad = ~x.isfinite()  # [T, B, I]
    if lengths is not None:  # padding is never read
        bad &= (torch.arange(T, device=x.device)[:, None] < lengths)[..., None]
    if bool(bad.any()):
        t, b, n = torch.nonzero(bad)[0].tolist()
        hint = "fill or mask missing values before the layer, or pass check_finite=False to let them through"
        what = f"x holds {float(x[t, b, n])} at step {t}, row {b}, feature {n}"
        raise ArgumentError(message(who, what, "a value that is not finite", "finite values (check_finite=True)", hint))


def _filled(outputs: tuple[Any, ...], like: Tensor) -> tuple[Tensor, ...]:
    """An operator returns tensors only: an empty one for each None."""
    return tuple(like.new_empty(0) if t is None else t for t in outputs)


def _forward_operator(*args: Any) -> tuple[Tensor, ...]:
    *tensors, kernel, reverse, backend, save, check_finite = args
    return _filled(tuple(_forward(_Call.of(tensors, kernel, reverse), backend, save, check_finite)), tensors[0])


def _backward_operator(*args: Any) -> tuple[Tensor, ...]:
    *tensors, kernel, reverse, backend, input_gradient = args
    call = _Call.of(tensors[:_INPUTS], kernel, reverse)
    return _filled(_flat(_backward(call, tensors[_INPUTS:], backend, input_gradient)), call.x)


def _forward_shapes(*args: Any) -> tuple[Tensor, ...]:
    x, w_ih, w_hh = args[:3]
    kernel, _, _, save, _ = args[_INPUTS:]
    cell = CELLS[kernel]
    T, B, H, R = x.shape[0], x.shape[1], w_ih.shape[0] // len(cell.gates), w_hh.shape[1]
    return (
        x.new_empty((T, B, R)),
        x.new_empty((B, R)),
        x.new_empty((B, H) if cell.has_cell else (0,)),
        x.new_empty((T, B, len(cell.saved) * H) if save and cell.saved else (0,)),
        x.new_empty((T, B, H) if save and cell.has_cell else (0,)),
    )


def _backward_shapes(*args: Any) -> tuple[Tensor, ...]:
    x, w_ih, w_hh, b_ih, _, w_hr, h0, c0, _, _, reset_h, reset_c = args[:_INPUTS]
    outputs = (x if args[-1] else None, w_ih, w_hh, b_ih, w_hr, h0, c0, reset_h, reset_c)
    return _filled(tuple(None if t is None else x.new_empty(t.shape) for t in outputs), x)


_TENSORS = (
    "Tensor x, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? w_hr, Tensor h0, Tensor? c0, "
    "Tensor? lengths, Tensor? reset, Tensor? reset_h, Tensor? reset_c"
)
_SAVED = "Tensor y, Tensor gates, Tensor c, Tensor? dy, Tensor? dh, Tensor? dc"
_library = torch.library.Library("openlstm", "DEF")
_library.define(
    f"forward({_TENSORS}, str kernel, bool reverse, str backend, bool save, bool check_finite)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    f"backward({_TENSORS}, {_SAVED}, str kernel, bool reverse, str backend, bool input_gradient)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
for _name, _operator, _shapes in (
    ("forward", _forward_operator, _forward_shapes),
    ("backward", _backward_operator, _backward_shapes),
):
    _library.impl(_name, _operator, "CompositeExplicitAutograd")
    torch.library.register_fake(f"openlstm::{_name}", _shapes, lib=_library)
