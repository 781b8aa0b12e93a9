"""`run`: what a layer calls. Settled here is what a backend need not know: half types, autocast, memory blocks, users' cells.

    run()               -> a plain call without gradients goes straight to the kernel
        autograd.py     -> derivatives, and what torch.compile sees
        execute.py      -> checks, choice of the backend, checkpoints
        backends/       -> arrays become addresses

A user's own cell, an edited one, and whatever has gates with gradients goes none of these ways: the reference runs it in plain
torch operations; with `checkpoint` torch runs stretches of them again.

Legend: T time, B batch, I input size, H hidden size, R what is fed back (P with a projection, else H for each of
`Cell.feeds_back`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint as recompute

from openlstm import reference
from openlstm.call import Call
from openlstm.cells import Cell
from openlstm.engine import checkpoint, edits, native
from openlstm.engine.autograd import HALF, differentiable, unwatched
from openlstm.engine.backends import cpu, cuda
from openlstm.engine.backends.table import choose, choose_for, takes_kernel
from openlstm.engine.check import check_finite, check_lengths_in_range
from openlstm.engine.execute import cloned, plain_types
from openlstm.engine.operators import CELLS, tensors_of
from openlstm.errors import BackendError
from openlstm.noise import active
from openlstm.reference import Run, Saved, State, Weights
from openlstm.weights import expand


def run(call: Call) -> Run:
    """Run a call, differentiably; its arrays are torch tensors, and `noise.seed` may be one.

    With `checkpoint` the backward pass runs everything again from every so many steps' states (`checkpoint.py`); with `save`
    everything is kept all the same.

    Half types: where a kernel multiplies in bfloat16 (`native.has_bfloat16`), it takes x and the matrices of weights in that
    type and keeps everything else in float32; otherwise float16 and bfloat16 run as float32 and are rounded once, at the end. y
    has the type of x, states that of `state`. Under torch.autocast a float32 x counts as one of autocast's type (unless
    `call.autocast` is False); weights and states stay float32. The numbers of the layer are the same with and without
    gradients, and the same in a compiled graph.

    Raises:
        ArgumentError: for lengths outside 0..T, or non-finite x with `check_finite`.
        BackendError: where the named backend cannot run this, or in forward-mode differentiation.
    """
    if call.edits and torch.compiler.is_compiling():  # a graph cannot count operations: it breaks here
        eager: Any = torch.compiler.disable(run)
        return eager(call)
    found = straight(call)
    if found is not None:
        return found
    cell, x = call.cell, call.x
    if call.checkpoint:
        _check_checkpoint(call)
    if cell.cells_per_gate > 1:
        call = call._replace(cell=cell.unshared(), weights=expand(cell, call.weights))
    call = call._replace(noise=active(call.noise))
    half = x.dtype if x.dtype in HALF else autocast_type(x) if call.autocast else None
    opened = call.differentiable or bool(call.edits) or not cell.kernel
    if x.is_cuda and not (opened or call.checkpoint or torch.compiler.is_compiling()):
        transformed = torch._C._are_functorch_transforms_active()
        if not transformed and choose_for(call, call.who, call.save) == "cuda":
            _check_values(call)
            done = cuda.forward(call)
            return Run(done.y, cloned(done.state), None)
    if half:
        return _half(call, half, opened)
    return _opened(call) if opened else _closed(call)


def straight(call: Call) -> Run | None:
    """A call that is `Call.simple` and needs no gradient, by the shortest way; None where there is more to it.

    The same kernel and the same bits as the long way, which runs, or refuses, what this leaves to it. The state may be None,
    for zeros, or have an axis of layers in front; x may be a single step [B, I] (`cpu.forward_simple`).
    """
    if torch.is_grad_enabled() or not call.simple:
        return None
    x = call.x
    if (
        x.dtype not in _FLOATS
        or not x.is_cpu
        or not unwatched(x)
        or (call.autocast and torch.is_autocast_enabled("cpu"))
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or not takes_kernel(call)
    ):
        return None
    return cpu.forward_simple(call)


def autocast_type(x: Tensor) -> torch.dtype | None:
    """The half type of torch.autocast on the CPU, where it is on and x would be converted."""
    if x.dtype == torch.float32 and x.is_cpu and torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return None


def runs_as(x: Tensor) -> Tensor:
    """`x`, or for a half type an empty tensor of the type that a backend is chosen by."""
    return x.new_empty(0, dtype=torch.float32) if x.dtype in HALF and not x.is_cuda else x


_FLOATS = (torch.float32, torch.float64)


def _closed(call: Call) -> Run:
    """A call in types that a backend runs."""
    if forward_ad._current_level >= 0:
        _refuse_forward_mode(call)
    return differentiable(call)


def _opened(call: Call) -> Run:
    """A call by the reference in plain torch operations, so that gates and cell states carry gradients too."""
    if not call.cell.kernel and not call.edits:
        choose(call.backend, call.cell, call.x, call.who, False, call.noise is not None)
    if call.noise is not None:
        call = call._replace(noise=call.noise._replace(seed=int(call.noise.seed)))
    _check_values(call)
    kept = call.save or call.edits or call.differentiable or torch._C._are_functorch_transforms_active()
    call = edits.edited(call) if call.edits else call
    with plain_types(call.x):
        done = reference.forward(call) if kept or not call.checkpoint else _in_stretches(call)
    saved = None
    if done.saved is not None:
        _, gates, c, m = (a if a is None or call.differentiable else a.detach() for a in done.saved)
        saved = Saved(done.y, gates if call.cell.saved else None, c, m)
    # the state itself would be an ancestor of y, and a gradient would count twice
    return Run(done.y, cloned(done.state), saved)


def _in_stretches(call: Call) -> Run:
    """The reference in plain operations, of which only the states between stretches are kept: torch runs each again."""
    T, B, _ = call.x.shape
    checkpoint.check(call.who, call.checkpoint, T)
    ys, state = [], call.state
    for window in checkpoint.stretches(T, B, call.checkpoint, call.reverse):
        part = call._replace(state=state, window=window, checkpoint=0)
        y, state = recompute(lambda part=part: reference.forward(part)[:2], use_reentrant=False)
        ys.append(y)
    return Run(torch.cat(ys[::-1] if call.reverse else ys), state, None)


def _half(call: Call, half: torch.dtype, opened: bool) -> Run:
    """A call whose y has a half type: products in bfloat16 where a kernel has them, else as float32 and rounded once."""
    state = call.state
    if call.check_finite:  # before anything is rounded to infinity
        check_finite(call)
    x, weights = call.x, call.weights
    call = call._replace(check_finite=False, autocast=False)
    if half is torch.bfloat16 and x.is_cpu and not opened and _multiplies_bfloat16(call):
        rest = call._replace(x=state.h, weights=Weights(None, None)).each(Tensor.float)
        matrices = Weights(*(w if w is None or w.dim() == 2 else w.float() for w in weights))  # as they are
        done = _closed(rest._replace(x=x.to(half), weights=matrices))
    else:
        call = call.each(Tensor.float)
        done = _opened(call) if opened else _closed(call)
    end = State(*(None if s is None else s.to(state.h.dtype) for s in done.state))
    y = done.y.to(half)
    return Run(y, end, None if done.saved is None else done.saved._replace(h=y))


def _multiplies_bfloat16(call: Call) -> bool:
    return _has_bfloat16(call.cell.kernel, call.backend, call.weights.w_hr is not None)


def _has_bfloat16(kernel: str, backend: str, projection: bool) -> bool:
    """Whether the backend that runs a cell has kernels for bfloat16."""
    cell: Cell | None = CELLS.get(kernel)
    if cell is None or not native.has_bfloat16(cell):
        return False
    return choose(backend, cell, torch.empty(0), "openlstm", projection) == "cpu"


# what torch.compiler.assume_constant_result does; it would import torch._dynamo, which takes a second, before anybody compiles
_has_bfloat16._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _check_values(call: Call) -> None:
    if call.lengths is not None:
        check_lengths_in_range(call.who, call.lengths, call.x.shape[0])
    if call.check_finite:
        check_finite(call)


def _check_checkpoint(call: Call) -> None:
    """What keeps less than everything: the kernels and the reference."""
    if call.x.is_cuda and call.backend == "cuda":
        got, expected = f"{call.who}(checkpoint=..., backend='cuda')", "backend 'cpu' or 'reference'"
        raise BackendError.of(call.who, "the cuda backend keeps every step", got, expected, "leave checkpoint out")


def _refuse_forward_mode(call: Call) -> None:
    """Raise where a tensor carries a tangent: a kernel would drop it, and zeros would come out in silence."""
    if any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors_of(call)):
        raise BackendError.of(
            "openlstm",
            "forward-mode differentiation is not available",
            "jvp, jacfwd or a dual tensor",
            "reverse mode",
            "use torch.func.jacrev, vjp or backward()",
        )
