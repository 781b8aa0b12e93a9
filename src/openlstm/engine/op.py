"""The only place where autograd meets a backend: one layer in one direction as a differentiable torch operation.

From the outside in:

    sequence()          what the layers call; half types, and autocast, are settled here
    Forward, Backward   two autograd Functions; the gradient of Backward (second derivatives) goes through the reference
    openlstm::*         two functional custom operators (`operators.py`), so that torch.compile and torch.export can carry them
    run_forward, ...    the call of the backend that `engine.choose` names

A user's own cell goes none of these ways: the reference runs it in plain torch operations.

Why Functions around operators: `torch.library.register_autograd` makes func.grad, per-sample gradients and jacrev fail and lets
jacfwd return zeros in silence. Why operators at all: a graph cannot hold a call into the kernels. Where nothing watches, the
operator is left out, which saves ten microseconds a call.

Legend: T time, B batch, I input size, H hidden size, P projected size, R what is fed back (P with a projection, else H for each
of `Cell.feeds_back`), G gates of a cell.
"""

from __future__ import annotations

import inspect
import os
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor  # the vmap of torch.autograd.grad(..., is_grads_batched=True)
from torch.autograd import forward_ad

from openlstm import reference
from openlstm.cells import Cell
from openlstm.engine import cpu, cuda
from openlstm.engine.operators import (
    CELLS,
    INPUTS,
    NOT_REAL,
    Call,
    How,
    Result,
    active,
    as_given,
    check_values,
    cloned,
    filled,
    flat,
    plain_types,
    run_backward,
    run_forward,
    who,
)
from openlstm.engine.support import choose
from openlstm.errors import BackendError, message
from openlstm.noise import Noise
from openlstm.reference import State, Weights
from openlstm.weights import expand

S = TypeVar("S", Weights, State)


class Ran(NamedTuple):
    """One layer in one direction: what it was given and what came out."""

    x: Tensor  # [T, B, I]
    weights: Weights
    state: State
    reset_state: State | None
    reverse: bool
    result: Result
    noise: Noise | None = None


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
    noise: Noise | None = None,
    checkpoint: int | None = None,
    autocast: bool = True,
) -> Result:
    """Run a cell over one layer of a sequence, differentiably; arguments as in `recur`, all of them torch tensors.

    `noise.seed` may be a tensor. With `checkpoint` the backward pass runs everything again from every so many steps' states
    (`checkpoint.py`); with `save` everything is kept all the same.

    Half types: where a kernel multiplies in bfloat16 (`cpu.has_bfloat16`), it takes x and the matrices of weights in that type
    and keeps everything else in float32; otherwise float16 and bfloat16 run as float32 and are rounded once, at the end. y has
    the type of x, states that of `state`. Under torch.autocast a float32 x counts as one of autocast's type (unless `autocast`
    is False); weights and states stay float32. The numbers of the layer are the same with and without gradients, and the same
    in a compiled graph.

    Raises:
        ArgumentError: for lengths outside 0..T, or non-finite x with `check_finite`.
        BackendError: where the named backend cannot run this, or in forward-mode differentiation.
    """
    every = 0 if checkpoint is None else checkpoint
    if every:
        _check_checkpoint(cell, x, backend)
    if cell.cells_per_gate > 1:
        cell, weights = cell.unshared(), expand(cell, weights)
    noise = None if noise is None else active(noise)
    half = x.dtype if x.dtype in _HALF else autocast_type(x) if autocast else None
    if x.is_cuda or half or not cell.kernel:
        rows: dict[str, Any] = {"lengths": lengths, "reset": reset, "reset_state": reset_state, "reverse": reverse}
        more: dict[str, Any] = {"backend": backend, "save": save, "check_finite": check_finite, "noise": noise}
        transformed = torch._C._are_functorch_transforms_active()
        if x.is_cuda and not every and not transformed and not torch.compiler.is_compiling():
            if choose(backend, cell, x, who(cell), weights.w_hr is not None, noise is not None, save) == "cuda":
                check_values(who(cell), x, lengths, check_finite)
                run = cuda.forward(cell, x, weights, state, **rows)
                return Result(run.y, *cloned(run.state), None, None)
        if half:
            return _half(cell, x, weights, state, half, rows, {**more, "checkpoint": checkpoint})
        if not cell.kernel:
            choose(backend, cell, x, who(cell), False, noise is not None)
            run = sequence_by_reference(cell, x, weights, state, **rows, **more)
            return Result(*run[:3], *(None if t is None or not save else t.detach() for t in run[3:]))
    rest = (lengths, reset, reset_state, reverse, backend, save, check_finite, noise, every)
    return _run(cell, x, weights, state, *rest)


def _run(
    cell: Cell,
    x: Tensor,
    weights: Weights,
    state: State,
    lengths: Tensor | None,
    reset: Tensor | None,
    reset_state: State | None,
    reverse: bool,
    backend: str,
    save: bool,
    check_finite: bool,
    noise: Noise | None,
    every: int,
) -> Result:
    """`sequence` in the types in which a backend runs it."""
    transformed = torch._C._are_functorch_transforms_active()
    hidden, seed = (None, None) if noise is None else (noise.hidden, _as_tensor(noise.seed))
    tensors = (x, *weights, *state, lengths, reset, *(reset_state or (None, None)), hidden, seed)
    if forward_ad._current_level >= 0:
        _refuse_forward_mode(tensors)
    how = How.of(cell, reverse, noise, backend, 0 if save else every)
    if transformed or (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)):
        return Result(*Forward.apply(*tensors, (*how, True, check_finite)))
    asked = lengths is not None or reset is not None or noise is not None or save or check_finite or reverse or every
    if not asked and x.dtype in _NATIVE and _direct(x) and _short(cell, x, weights, backend, who(cell)):
        found = cpu.plain(cell, x, weights, state)
        if found is not None:
            return Result(*found, None, None)
    return Result(*Forward.forward(*tensors, (*how, save, check_finite)))


def _half(
    cell: Cell, x: Tensor, weights: Weights, state: State, half: torch.dtype, rows: dict[str, Any], more: dict[str, Any]
) -> Result:
    """A call whose y has a half type: products in bfloat16 where a kernel has them, else as float32 and rounded once."""
    fresh, noise, begin = rows["reset_state"], more["noise"], _widen(state)
    if more["check_finite"]:  # before anything is rounded to infinity
        check_values(who(cell), x, rows["lengths"], True)
        more["check_finite"] = False
    rows["reset_state"] = None if fresh is None else _widen(fresh)
    if noise is not None and noise.hidden is not None:
        more["noise"] = noise._replace(hidden=noise.hidden.float())
    if half is torch.bfloat16 and x.is_cpu and _multiplies_bfloat16(cell.kernel, more["backend"], weights.w_hr is not None):
        every = more.pop("checkpoint") or 0
        w = Weights(*(t if t is None or t.dim() == 2 else t.float() for t in weights))  # matrices as they are
        run = _run(cell, x.to(half), w, begin, **rows, **more, every=every)
    else:
        run = sequence(cell, x.float(), _widen(weights), begin, **rows, **more, autocast=False)
    c_n = run.c_n if run.c_n is None else run.c_n.to(state.h.dtype)
    return run._replace(y=run.y.to(half), h_n=run.h_n.to(state.h.dtype), c_n=c_n)


@torch.compiler.assume_constant_result
def _multiplies_bfloat16(kernel: str, backend: str, projection: bool) -> bool:
    """Whether the backend that runs a cell has kernels for bfloat16."""
    cell = CELLS.get(kernel)
    if cell is None or not cpu.has_bfloat16(cell):
        return False
    return choose(backend, cell, torch.empty(0), who(cell), projection) == "cpu"


def autocast_type(x: Tensor) -> torch.dtype | None:
    """The half type of torch.autocast on the CPU, where it is on and x would be converted."""
    if x.dtype == torch.float32 and x.is_cpu and torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return None


def quick(
    cell: Cell, x: Tensor, weights: Weights, state: State | None, backend: str, name: str
) -> tuple[Tensor, Any, Any] | None:
    """(y, h_n, c_n) of a dense batch that needs no gradient, by the shortest way; None where there is more to check.

    `state` as in `cpu.plain`.
    """
    if torch.is_grad_enabled() or x.dtype not in _NATIVE or not x.is_cpu or not cell.kernel or not _direct(x):
        return None
    if torch.is_autocast_enabled("cpu"):
        return None
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return None
    return cpu.plain(cell, x, weights, state) if _short(cell, x, weights, backend, name) else None


def step(cell: Cell, x: Tensor, weights: Weights, state: State, backend: str = "auto", name: str = "LSTMCell") -> State:
    """One step of x [B, I]: as `sequence` with T = 1, in the type that x has; without gradients it takes the shortest way."""
    if not torch.is_grad_enabled() and x.dtype not in _HALF and _direct(x):
        watched = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
        if not watched and _short(cell, x, weights, backend, name):
            new = cpu.step(cell, x, weights, state)
            if new is not None:
                return new
    out = sequence(cell, x.unsqueeze(0), weights, state, backend=backend, autocast=False)
    return State(out.h_n, out.c_n)


def _short(cell: Cell, x: Tensor, weights: Weights, backend: str, name: str) -> bool:
    """Whether the native backend runs it: what `choose` says, without the microsecond that its sentences cost."""
    usual = backend == "auto" and cell.name == "lstm" and x.dtype in _NATIVE and x.is_cpu and cpu.available()
    if not (usual and "OPENLSTM_BACKEND" not in os.environ):
        return choose(backend, cell, x, name, weights.w_hr is not None) == "cpu"
    cpu.check_isa()
    return True


def _check_checkpoint(cell: Cell, x: Tensor, backend: str) -> None:
    """What keeps less than everything: the kernels, and the reference with a derivative of its own."""
    if cell.kernel and not (x.is_cuda and backend == "cuda"):
        return
    why = "the cuda backend" if cell.kernel else f"{type(cell).__name__}, a cell without a kernel"
    got, expected = f"{who(cell)}(checkpoint=..., backend={backend!r})", "a cell of openlstm.cells on 'cpu' or 'reference'"
    raise BackendError(message(who(cell), f"{why} keeps every step", got, expected, "leave checkpoint out"))


def runs_as(x: Tensor) -> Tensor:
    """`x`, or for a half type an empty tensor of the type that a backend is chosen by."""
    return x.new_empty(0, dtype=torch.float32) if x.dtype in _HALF and not x.is_cuda else x


def sequence_by_reference(cell: Cell, x: Tensor, weights: Weights, state: State, **options: Any) -> Result:
    """As `sequence`, in plain torch operations, so that gates and cell states carry gradients too."""
    noise = active(options.get("noise"))
    if noise is not None:
        noise = noise._replace(seed=int(noise.seed))
    check_values(who(cell), x, options["lengths"], options.get("check_finite", False))
    kept = {name: options[name] for name in ("lengths", "reset", "reset_state", "reverse")}
    with plain_types(x):
        run = reference.forward(cell, x, weights, state, save=True, noise=noise, **kept)
    assert run.saved is not None
    end = cloned(run.state)  # leaves of their own: h_n itself would be an ancestor of y, and a gradient would count twice
    return Result(run.y, end.h, end.c, run.saved.gates, run.saved.c, run.saved.m)


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
    weights, fresh = expand(cell, ran.weights), ran.reset_state
    if (
        fresh is not None and fresh.h.dim() == 3
    ):  # nothing flows across a reset, so no step's gradient depends on what it led to
        fresh = None
    noise = active(ran.noise)
    hidden, seed = (None, None) if noise is None else (noise.hidden, _as_tensor(noise.seed))
    tensors = [ran.x, *weights, *ran.state, lengths, reset, *(ran.reset_state or (None, None)), hidden, seed]
    tensors += [ran.result.y, ran.result.gates, ran.result.c, ran.result.m, dy, *dstate]
    if not differentiable:
        tensors = [t if t is None else t.detach() for t in tensors]
    if any(t is not None and t.dtype in _HALF for t in tensors):  # under autocast y has another type than x
        tensors = [t.float() if t is not None and t.is_floating_point() else t for t in tensors]
    cell = cell.unshared()
    backend = "reference" if differentiable or not cell.kernel else backend
    call = Call.of(tensors[:INPUTS], How.of(cell, ran.reverse, noise, backend), cell)
    grads = run_backward(call, tensors[INPUTS:], backend, False, steps=True)
    assert grads.h_steps is not None
    return grads.h_steps, grads.c_steps


class Forward(torch.autograd.Function):
    """(tensors, options) -> `Result`; what is saved carries no gradient."""

    @staticmethod
    def forward(*args: Any) -> tuple[Any, ...]:
        *tensors, options = args
        if _direct(tensors[0]):
            *how, save, check_finite = options
            how = How(*how)
            return tuple(run_forward(Call.of(tensors, how), how.backend, save, check_finite, how.checkpoint))
        return torch.ops.openlstm.forward(*tensors, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        *tensors, options = inputs
        ctx.how = How(*options[:-2])
        y, _, _, gates, c, m = output
        ctx.save_for_backward(*tensors, y, gates, c, m)
        ctx.mark_non_differentiable(*[t for t in (gates, c, m) if t is not None])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, dy: Any, dh: Any, dc: Any, *_: Any) -> tuple[Any, ...]:
        need, how = ctx.needs_input_grad, ctx.how
        twice = torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()
        run = Backward.apply if twice else Backward.forward
        grads = run(*ctx.saved_tensors, dy, dh, dc, (*how, need[0]))
        dx, dw_ih, dw_hh, db, db_hh, dw_hr, dw_ch, dnorm, dh0, dc0, dreset_h, dreset_c = grads
        if not CELLS[how.kernel].separate:  # one gradient for both; two parameters' gradients share no memory
            db_hh = db.clone() if db is not None and need[3] and need[4] else db
        out = (dx, dw_ih, dw_hh, db, db_hh, dw_hr, dw_ch, dnorm, dh0, dc0, None, None, dreset_h, dreset_c, None, None)
        return *[g if needed else None for g, needed in zip(out, need[:INPUTS], strict=True)], None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return _one_by_one(Forward, info.batch_size, in_dims, args)


class Backward(torch.autograd.Function):
    """(tensors, y, gates, c, m, dy, dh, dc, options) -> the gradients; differentiable itself, through the reference."""

    @staticmethod
    def forward(*args: Any) -> tuple[Any, ...]:
        *tensors, options = args
        if _direct(tensors[0]) and not any(t is not None and is_legacy_batchedtensor(t) for t in tensors[-3:]):
            *how, input_gradient = options
            how = How(*how)
            call = Call.of(tensors[:INPUTS], how)
            return flat(run_backward(call, tensors[INPUTS:], how.backend, input_gradient, every=how.checkpoint))
        saved = [t if t is not None else tensors[0].new_empty(0) for t in tensors[INPUTS : INPUTS + 4]]
        return torch.ops.openlstm.backward(*tensors[:INPUTS], *saved, *tensors[INPUTS + 4 :], *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        *tensors, ctx.options = inputs
        ctx.save_for_backward(*tensors[:INPUTS], *tensors[INPUTS + 4 :])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Any, ...]:
        return _second_derivative(ctx.saved_tensors, ctx.options, cotangents)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return _one_by_one(Backward, info.batch_size, in_dims, args)


for _function in (Forward, Backward):  # `apply` asks for the signature at every call: kept, the answer costs 10 us less
    _function.forward.__signature__ = inspect.signature(_function.forward)  # type: ignore[attr-defined]

_HALF = (torch.float16, torch.bfloat16)
_NATIVE = (torch.float32, torch.float64)


def _second_derivative(tensors: tuple[Any, ...], options: tuple[Any, ...], cotangents: tuple[Any, ...]) -> tuple[Any, ...]:
    """The vector-Jacobian product of Backward: both passes run again as plain torch operations, and are differentiated."""
    *how, input_gradient = options
    how = How(*how)
    places = [k for k, t in enumerate(tensors) if t is not None and k not in NOT_REAL]

    def gradients(*primals: Tensor) -> tuple[Tensor, ...]:
        full = list(tensors)
        for k, value in zip(places, primals, strict=True):
            full[k] = value.float() if value.dtype in _HALF else value
        call = Call.of(full[:INPUTS], how)
        y, _, _, gates, c, m = run_forward(call, "reference", True, False)
        grads = run_backward(call, (y, gates, c, m, *full[INPUTS:]), "reference", input_gradient)
        return filled(flat(as_given(grads, tensors)), call.x)

    with plain_types(tensors[0]):
        outputs, pull = torch.func.vjp(gradients, *(tensors[k] for k in places))[:2]
        found = pull(tuple(torch.zeros_like(o) if g is None else g for o, g in zip(outputs, cotangents, strict=True)))
    by_place = dict(zip(places, found, strict=True))
    every = [by_place.get(k) for k in range(len(tensors))]
    return *every[:INPUTS], None, None, None, None, *every[INPUTS:], None


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


def _as_tensor(seed: Any) -> Tensor:
    return seed if isinstance(seed, Tensor) else torch.tensor(seed)
