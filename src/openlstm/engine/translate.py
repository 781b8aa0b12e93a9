"""A call of a layer in terms that `torch.onnx.export` knows: an operator of ONNX, or torch's scan over the cell's equations.

`operators.py` registers it as the decomposition of `openlstm::forward`; nothing but an export asks for it.

Legend: T time, B batch, I input size, H hidden size, R what is fed back, C the cell states side by side.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from openlstm import reference
from openlstm.call import Call
from openlstm.engine import onnx
from openlstm.errors import BackendError
from openlstm.noise import active
from openlstm.reference import Run, State, Weights
from openlstm.weights import hidden_size


def translated(call: Call) -> Run:
    """`execute.forward` for a graph of ONNX; what backward needs is not kept.

    Raises:
        BackendError: for noise that is drawn.
    """
    call = call._replace(noise=active(call.noise))
    if call.noise is not None and call.noise.training:
        got, expected = "zoneout or dropout while training", "a model in eval mode, where zoneout is its expectation"
        raise BackendError.of(call.who, "ONNX has no noise inside the recurrence", got, expected, "model.eval() first")
    found = None if call.reset is not None or call.noise is not None else onnx.operator(call.cell, call.weights)
    return _scanned(call) if found is None else _operator(call, found)


def _operator(call: Call, found: onnx.Operator) -> Run:
    x, B, H = call.x, call.x.shape[1], hidden_size(call.cell, call.weights)
    given = {name: a.unsqueeze(0) for name, a in onnx.inputs(call.cell, call.weights, H).items()}
    lengths = None if call.lengths is None else call.lengths.to(torch.int32)
    h, c = (None if s is None else s.unsqueeze(0) for s in call.state)
    order = [x, given["W"], given["R"], given["B"], lengths, h, c, given.get("P")]
    shapes = [(x.shape[0], 1, B, H), (1, B, H), *([(1, B, H)] if call.cell.has_cell else [])]
    direction = "reverse" if call.reverse else "forward"
    attributes = {**found.of(1), "hidden_size": H, "direction": direction}
    order = order if call.cell.has_cell else order[:6]
    types = [x.dtype] * len(shapes)
    y, *ends = torch.onnx.ops.symbolic_multi_out(found.name, order, attributes, dtypes=types, shapes=shapes)
    state = [end.squeeze(0) for end in ends]
    return Run(y.squeeze(1), State(*state), None)


def _scanned(call: Call) -> Run:
    """The loop of `reference.forward`, of which a graph holds one step."""
    from torch._higher_order_ops.scan import scan_op

    cell, w, _ = reference.unshared(call.cell, call.weights)
    w = w._replace(w_hh=onnx.all_columns(w.w_hh, call.state.h.shape[1]))  # torch's scan makes nothing of blocks
    T = call.x.shape[0]
    steps = torch.arange(T, device=call.x.device)
    given: dict[str, Any] = {"x": call.x, "t": steps}
    if call.reset is not None:
        given["cut"] = _cuts(call, steps)
    fresh = call.reset_state
    each = fresh is not None and fresh.h.dim() == 3
    if fresh is not None and each:
        of_step = {"h": fresh.h, "c": fresh.c}
        given |= {f"fresh_{name}": _shifted(s, call.reverse) for name, s in of_step.items() if s is not None}
    xs = {name: a.flip(0) if call.reverse else a for name, a in given.items()}
    fixed = {**w._asdict(), "lengths": call.lengths, **({} if fresh is None or each else {"h": fresh.h, "c": fresh.c})}
    fixed = {name: a for name, a in fixed.items() if a is not None}
    carried = [s for s in call.state if s is not None]

    def step(*flat: Tensor) -> list[Tensor]:
        old: Any = State(*flat[: len(carried)])
        now = dict(zip(xs, flat[len(carried) :], strict=False))
        own = dict(zip(fixed, flat[len(carried) + len(xs) :], strict=True))
        begin = old
        if "cut" in now:
            source = {name.removeprefix("fresh_"): a for name, a in now.items() if name.startswith("fresh_")} or own
            begin = State(*(_reset(now["cut"], source.get(name), s) for name, s in old._asdict().items()))
        weights = Weights(**{"w_ih": None, **{name: own[name] for name in Weights._fields if name in own}})
        new: Any = reference.full_step(cell, now["x"], begin, weights, call.noise, 0).state
        y = new.h
        if "lengths" in own:
            alive: Any = (now["t"] < own["lengths"])[:, None]
            y = torch.where(alive, y, torch.zeros_like(y))
            new = State(*(None if n is None else torch.where(alive, n, s) for n, s in zip(new, old, strict=True)))
        return [*(s.clone() for s in new if s is not None), y.clone()]

    *ends, y = scan_op(step, carried, list(xs.values()), tuple(fixed.values()))
    return Run(y.flip(0) if call.reverse else y, State(*ends), None)


def _cuts(call: Call, steps: Tensor) -> Tensor:
    """Where the state is replaced before a step, bool [T, B], as `reference` reads `reset`."""
    reset = call.reset if call.lengths is None else call.reset & (steps[:, None] < call.lengths)
    return _shifted(reset, call.reverse)


def _shifted(a: Tensor, reverse: bool) -> Tensor:
    """What stands before a step on the way: that of t + 1 on the way back, and nothing before the first."""
    return torch.cat([a[1:], torch.zeros_like(a[:1])]) if reverse else a


def _reset(cut: Tensor, fresh: Any, state: Any) -> Any:
    return None if state is None else torch.where(cut[:, None], torch.zeros_like(state) if fresh is None else fresh, state)
