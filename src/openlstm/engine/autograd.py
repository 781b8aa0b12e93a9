"""The only place where autograd meets a backend: one call as a differentiable torch operation.

    differentiable()    a call whose outputs carry gradients
    Forward, Backward   two autograd Functions; the gradient of Backward (second derivatives) goes through the reference
    openlstm::*         two functional custom operators (`operators.py`), so that torch.compile and torch.export can carry them
    execute.forward     the call of the backend that `choose` names

Why Functions around operators: `torch.library.register_autograd` makes func.grad, per-sample gradients and jacrev fail and lets
jacfwd return zeros in silence. Why operators at all: a graph cannot hold a call into the kernels. Where nothing watches, the
operator is left out, which saves ten microseconds a call.

Legend: T time, B batch, H hidden size, R what is fed back (P with a projection, else H for each of `Cell.feeds_back`).
"""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor  # the vmap of torch.autograd.grad(..., is_grads_batched=True)

from openlstm.call import Call
from openlstm.engine import execute
from openlstm.engine.edits import refuse_edits
from openlstm.engine.execute import plain_types
from openlstm.engine.operators import (
    CELLS,
    INPUTS,
    NOT_REAL,
    call_of,
    filled,
    flat,
    flat_gradients,
    options_of,
    run_backward,
    tensors_of,
)
from openlstm.noise import active
from openlstm.reference import Gradients, Run, Saved, State
from openlstm.weights import expand

HALF = (torch.float16, torch.bfloat16)


def differentiable(call: Call) -> Run:
    """The call, its outputs carrying gradients where a tensor of it wants one; what is saved carries none."""
    tensors = tensors_of(call)
    every = 0 if call.save else call.checkpoint
    transformed = torch._C._are_functorch_transforms_active()
    if transformed or (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)):
        found = Forward.apply(*tensors, options_of(call._replace(save=True, checkpoint=every)))
    else:
        found = Forward.forward(*tensors, options_of(call._replace(checkpoint=every)))
    y, h, c, gates, cs, m = found
    cell = call.cell
    end = State(h, c if cell.has_cell else None)
    if not call.save:
        return Run(y, end, None)
    kept = (gates if cell.saved else None, cs if cell.has_cell else None, m if call.weights.w_hr is not None else None)
    return Run(y, end, Saved(y, *kept))


def step_gradients(call: Call, run: Run, dy: Tensor | None, dstate: State) -> tuple[Tensor, Tensor | None]:
    """dL/dh_t [T, B, R] and dL/dc_t [T, B, H] of a call that was saved, given dL/dy and dL/d(final state).

    With `call.differentiable` through the reference, as plain torch operations.

    Raises:
        ArgumentError: for a call with edits.
    """
    refuse_edits(call)
    assert run.saved is not None
    call = call._replace(cell=call.cell.unshared(), weights=expand(call.cell, call.weights), noise=active(call.noise))
    call = call._replace(backend="reference" if call.differentiable or not call.cell.kernel else call.backend)
    half = any(a is not None and a.dtype in HALF for a in (call.x, *call.weights, *call.state, *run.saved, dy, *dstate))

    def change(a: Tensor) -> Tensor:
        """Under autocast y has another type than x."""
        a = a if call.differentiable else a.detach()
        return a.float() if half else a

    saved, (dy, *ends) = ([None if a is None else change(a) for a in group] for group in (run.saved, (dy, *dstate)))
    grads = step_backward(call.each(change), Saved(*saved), dy, State(*ends))
    assert grads.h_steps is not None
    return grads.h_steps, grads.c_steps


def step_backward(call: Call, saved: Saved, dy: Tensor | None, dstate: State) -> Gradients:
    """The gradients of a call with those of every step, but for x; its memory blocks are expanded."""
    fresh, noise = call.reset_state, call.noise
    if fresh is not None and fresh.h.dim() == 3:  # nothing flows across a reset, so no gradient depends on what it led to
        fresh = None
    if noise is not None:
        noise = noise._replace(seed=int(noise.seed))
    call = call._replace(reset_state=fresh, noise=noise, checkpoint=0)
    with nullcontext() if call.differentiable else torch.no_grad():
        return execute.backward(call, saved, dy, dstate, input_gradient=False, steps=True)


class Forward(torch.autograd.Function):
    """(tensors, options) -> `Result`; what is saved carries no gradient."""

    @staticmethod
    def forward(*args: Any) -> tuple[Any, ...]:
        *tensors, options = args
        if unwatched(tensors[0]):
            return flat(execute.forward(call_of(tensors, options)))
        return torch.ops.openlstm.forward(*tensors, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        *tensors, ctx.options = inputs
        y, _, _, gates, c, m = output
        ctx.save_for_backward(*tensors, y, gates, c, m)
        ctx.mark_non_differentiable(*[t for t in (gates, c, m) if t is not None])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, dy: Any, dh: Any, dc: Any, *_: Any) -> tuple[Any, ...]:
        need, options = ctx.needs_input_grad, ctx.options
        twice = torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()
        run = Backward.apply if twice else Backward.forward
        grads = run(*ctx.saved_tensors, dy, dh, dc, (*options, need[0]))
        dx, dw_ih, dw_hh, db, db_hh, dw_hr, dw_ch, dnorm, dh0, dc0, dreset_h, dreset_c = grads
        if not CELLS[options[0]].separate:  # one gradient for both; two parameters' gradients share no memory
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
        if unwatched(tensors[0]) and not any(t is not None and is_legacy_batchedtensor(t) for t in tensors[-3:]):
            return flat_gradients(run_backward(tensors, options[:-1], options[-1]))
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


def _second_derivative(tensors: tuple[Any, ...], options: tuple[Any, ...], cotangents: tuple[Any, ...]) -> tuple[Any, ...]:
    """The vector-Jacobian product of Backward: both passes run again as plain torch operations, and are differentiated."""
    input_gradient, options = options[-1], options[:-1]
    places = [k for k, t in enumerate(tensors) if t is not None and k not in NOT_REAL]

    def gradients(*primals: Tensor) -> tuple[Tensor, ...]:
        full = list(tensors)
        for k, value in zip(places, primals, strict=True):
            full[k] = value.float() if value.dtype in HALF else value
        call = call_of(full[:INPUTS], options)._replace(backend="reference", save=True, checkpoint=0, check_finite=False)
        saved, (dy, dh, dc) = execute.forward(call).saved, full[INPUTS:]
        assert saved is not None
        grads = execute.backward(call, saved, dy, State(dh, dc), input_gradient=input_gradient)
        return filled(flat_gradients(execute.as_given(grads, given)), call.x)

    given = call_of(tensors[:INPUTS], options)
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


def unwatched(x: Tensor) -> bool:
    """Whether nothing watches this call, so that the operator can be left out."""
    return (
        not torch.compiler.is_compiling()
        and type(x) in (Tensor, torch.nn.Parameter)
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._get_tracing_state() is None
    )
