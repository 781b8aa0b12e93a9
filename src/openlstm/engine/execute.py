"""A call carried out: checked, on the backend that `choose` names, in stretches where only some states are kept.

Nothing here is recorded by autograd. Of x in bfloat16 the matrices of weights may have either type and everything else is
float32 (`backends/cpu.py`); gradients have the types of what they belong to.

Legend: T time, B batch, H hidden size, R what is fed back, N stretches.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from openlstm.call import Call
from openlstm.engine import checkpoint, native
from openlstm.engine.backends.table import SUPPORT, choose_for
from openlstm.engine.check import check_call, check_finite
from openlstm.errors import DtypeError, describe
from openlstm.reference import Gradients, Run, Saved, State, Weights


def forward(call: Call) -> Run:
    """The forward pass.

    Where a checkpoint is kept after `call.checkpoint` steps, `saved` holds in `gates` and `c` the states h [N, B, R] and
    c [N, B, H] that are kept.
    """
    cell, x = call.cell, call.x
    rounded = x.dtype != call.state.h.dtype
    if rounded and not native.has_bfloat16(cell):  # a graph that was made where there are such kernels
        run = forward(_wide(call))
        return Run(run.y.to(x.dtype), run.state, run.saved)
    check_call(_stand_ins(call) if rounded else call, call.who)  # a kernel reads addresses
    if call.check_finite:
        check_finite(call)
    module = SUPPORT[choose_for(call, call.who, call.save)].module
    with plain_types(x):
        if call.checkpoint:
            checkpoint.check(call.who, call.checkpoint, x.shape[0])
        if call.checkpoint and call.save:
            return checkpoint.forward(module, call)
        run = module.forward(call)
    state = run.state if x.shape[0] else cloned(run.state)
    if run.saved is None:
        return Run(run.y, state, None)
    m = run.saved.m if call.weights.w_hr is not None else None  # under zoneout a backend finds it again
    return Run(run.y, state, Saved(run.y, run.saved.gates if cell.saved else None, run.saved.c, m))


def backward(
    call: Call, saved: Saved, dy: Tensor | None, dstate: State, *, input_gradient: bool = True, steps: bool = False
) -> Gradients:
    """The backward pass; `saved` is what `forward` gave."""
    x, has_cell, number = call.x, call.cell.has_cell, call.state.h.dtype
    if x.dtype != number and not native.has_bfloat16(call.cell):
        wide = saved._replace(h=saved.h.float())
        grads = backward(
            _wide(call), wide, None if dy is None else dy.float(), dstate, input_gradient=input_gradient, steps=steps
        )
        return as_given(grads, call)
    if any(a is not None and a.dtype != x.dtype for a in (saved.h, dy)) or any(
        a is not None and a.numel() and a.dtype != number for a in (*saved[1:], *dstate)
    ):  # a kernel would read them as something else
        got = ", ".join(describe(a) for a in (*saved, dy, *dstate) if a is not None)
        hint = "give back what forward gave, and gradients of the types of its outputs"
        raise DtypeError.of(call.who, "backward got other types than forward", got, f"{x.dtype} and {number}", hint)
    module = SUPPORT[choose_for(call, call.who, True)].module
    dstate = State(dstate.h, dstate.c if has_cell else None)
    with plain_types(x):
        if call.checkpoint:
            begins = State(saved.gates, saved.c if has_cell else None)
            grads = checkpoint.backward(module, call, begins, dy, dstate, input_gradient)
        else:
            m = saved.m if call.weights.w_hr is not None else None
            kept = Saved(saved.h, saved.gates if call.cell.saved else None, saved.c if has_cell else None, m)
            grads = module.backward(call, kept, dy, dstate, input_gradient=input_gradient, steps=steps)
    grads = as_given(grads, call)
    return grads if call.checkpoint or x.shape[0] else grads._replace(state=cloned(grads.state))


def as_given(grads: Gradients, call: Call) -> Gradients:
    """The gradients of x and of the weights in the types of those."""
    if call.x.dtype == grads.state.h.dtype:
        return grads
    d, w = grads.weights, call.weights
    pairs = {name: (getattr(d, name), getattr(w, name)) for name in ("w_ih", "w_hh", "w_hr")}
    matrices = {name: a if a is None or b is None else a.to(b.dtype) for name, (a, b) in pairs.items()}
    return grads._replace(x=None if grads.x is None else grads.x.to(call.x.dtype), weights=d._replace(**matrices))


def cloned(state: State) -> State:
    """A copy. With T = 0 a state comes back as it went in, and an operator's outputs may not be its inputs."""
    return State(*(None if s is None else s.clone() for s in state))


def plain_types(x: Tensor) -> Any:
    """A block in which nothing is converted by itself: the reference is made of operations that torch.autocast would change."""
    on = x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
    return torch.autocast(x.device.type, enabled=False) if on else nullcontext()


def _wide(call: Call) -> Call:
    return call._replace(x=call.x.float(), weights=Weights(*(None if w is None else w.float() for w in call.weights)))


def _stand_ins(call: Call) -> Call:
    """What is bfloat16, as float32 of the same shapes and no memory, for checks of sizes; a wrong type stays to be seen."""
    x, number = call.x, call.state.h

    def like(a: Any) -> Any:
        return a if a is None or a.dtype != x.dtype else number.new_empty(()).expand(a.shape)

    w = call.weights
    return call._replace(x=like(x), weights=w._replace(w_ih=like(w.w_ih), w_hh=like(w.w_hh), w_hr=like(w.w_hr)))
