"""LSTMs that are wrong on purpose, one mistake each: what a conformance suite is worth is how many of them it finds.

Each is a class with the arguments of `openlstm.LSTM`. Most change what goes into or comes out of one call of the recurrence
(`Wrong.recurrence`, once for each layer and direction); those of a step bend its equations; those of the derivative leave
forward alone.

Legend: T time, B batch, H hidden size, L layers, D directions.
"""

# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOperatorIssue=false
# (an LSTM has a cell state; `State.c` is None only for cells without one)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import openlstm
from openlstm import reference
from openlstm.call import Call
from openlstm.cells import Cell, Step, StepGradients, StepInputs
from openlstm.noise import Noise, active
from openlstm.reference import Gradients, Run, State, Weights

Class = type["Wrong"]

WRONG: dict[str, Class] = {}
"""Every wrong LSTM by what is wrong with it."""

GROUPS: dict[str, list[str]] = {
    "rows": [],
    "step": [],
    "state": [],
    "directions": [],
    "ragged": [],
    "noise": [],
    "backward": [],
}
"""Their names by the place of the mistake; `rows` are gate permutations, `ragged` are lengths and resets."""


class ByHand(torch.autograd.Function):
    """The recurrence with a backward of its own: derive(cell, x, weights, state, dy, dstate, options) -> Gradients.

    Backward runs forward again out of plain operations, so that it can be differentiated once more.
    """

    @staticmethod
    def forward(ctx: Any, derive: Any, cell: Any, options: dict[str, Any], *tensors: Any) -> Any:
        ctx.derive, ctx.cell, ctx.options = derive, cell, options
        ctx.save_for_backward(*tensors)
        x, w, state, fresh = _unpacked(tensors)
        run = reference.forward(Call(cell, x, w, state, **_given(options, fresh)))
        return run.y.clone(), run.state.h.clone(), None if run.state.c is None else run.state.c.clone()

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dh: Tensor, dc: Tensor) -> Any:  # type: ignore[override]
        x, w, state, fresh = _unpacked(ctx.saved_tensors)
        grads = ctx.derive(ctx.cell, x, w, state, dy, State(dh, dc), _given(ctx.options, fresh))
        resets = grads.reset_state or State(None, None)
        out = (grads.x, *grads.weights, *grads.state, *resets)
        return None, None, None, *(g if need else None for g, need in zip(out, ctx.needs_input_grad[3:], strict=True))


def _unpacked(tensors: Any) -> tuple[Tensor, Weights, State, State | None]:
    x, *rest = tensors
    return x, Weights(*rest[:7]), State(*rest[7:9]), None if rest[9] is None else State(*rest[9:11])


def _given(options: dict[str, Any], fresh: State | None) -> dict[str, Any]:
    return {**options, "reset_state": fresh}


def exact(
    cell: Any, x: Tensor, w: Weights, state: State, dy: Any, dstate: State, options: dict[str, Any], /, **changed: Any
) -> Gradients:
    """The right gradient; `changed` is what backward sees and forward did not."""
    saved: Any = reference.forward(Call(cell, x, w, state, save=True, **options)).saved
    return reference.backward(
        Call(changed.pop("cell", cell), x, changed.pop("w", w), state, **{**options, **changed}), saved, dy, dstate
    )


def by_hand(derive: Callable[..., Gradients]) -> Callable[..., Run]:
    """The honest recurrence with this way back."""

    def run(k: int, cell: Any, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
        fresh = o.pop("reset_state", None)
        o["noise"] = noise = active(o.get("noise"))
        if noise is not None:
            o["noise"] = noise._replace(seed=int(noise.seed))
        y, h, c = ByHand.apply(derive, cell, o, x, *w, *state, *(fresh or (None, None)))  # type: ignore[misc]
        return Run(y, State(h, c), None)

    return run


honest = by_hand(exact)
"""The recurrence as it should be: f(k, cell, x, weights, state, **options), number k of the layer's."""


class Wrong(openlstm.LSTM):
    """An LSTM with one mistake; without one it is right, which a test shows."""

    recurrence: Callable[..., Run] = staticmethod(honest)

    def _pass(self, k: int, call: Call) -> Run:
        names = ("lengths", "reset", "reset_state", "reverse", "noise")
        options = {name: getattr(call, name) for name in names}
        return self.recurrence(k, call.cell, call.x, call.weights, call.state, **options)


def _add(group: str, name: str, **members: Any) -> None:
    GROUPS[group].append(name)
    identifier = "".join(c if c.isalnum() else "_" for c in name)
    WRONG[name] = type(identifier, (Wrong,), {"__module__": __name__, **members})
    globals()[identifier] = WRONG[name]  # where pickle looks for it


# A call of the recurrence


def recurrence(group: str, name: str) -> Callable[[Callable[..., Run]], None]:
    """Register f(k, cell, x, w, state, **options) -> Run."""
    return lambda f: _add(group, name, recurrence=staticmethod(f))


def weights(group: str, name: str) -> Callable[[Callable[[Weights], Weights]], None]:
    """Register a change of the weights."""

    def register(f: Callable[[Weights], Weights]) -> None:
        _add(group, name, recurrence=staticmethod(lambda k, cell, x, w, state, **o: honest(k, cell, x, f(w), state, **o)))

    return register


def _permuted(order: str) -> Callable[[Weights], Weights]:
    """The rows that belong to i, f, g, o, taken for those of other gates."""
    at = ["ifgo".index(gate) for gate in order]

    def turn(a: Any) -> Any:
        return a if a is None else a.view(4, -1, *a.shape[1:])[at].reshape(a.shape)

    return lambda w: Weights(turn(w.w_ih), turn(w.w_hh), turn(w.b_ih), turn(w.b_hh), w.w_hr, w.w_ch, w.norm)


for _order in ("figo", "igfo", "ifog", "oifg", "gfio", "iofg", "ogfi", "fogi"):
    weights("rows", f"gates in the order {', '.join(_order)}")(_permuted(_order))


def _blocks(a: Tensor) -> Tensor:
    return a.view(4, -1, a.shape[-1])


weights("step", "no recurrence")(lambda w: w._replace(w_hh=0 * w.w_hh))
weights("step", "half of the units are fed back")(
    lambda w: w._replace(w_hh=w.w_hh * (torch.arange(w.w_hh.shape[1]) < (w.w_hh.shape[1] + 1) // 2))
)
weights("step", "the recurrence counts half")(lambda w: w._replace(w_hh=w.w_hh / 2))
weights("step", "W_hh of the candidate is left out")(
    lambda w: w._replace(w_hh=torch.cat([*w.w_hh.chunk(4)[:2], 0 * w.w_hh.chunk(4)[2], w.w_hh.chunk(4)[3]]))
)
weights("step", "W_hh transposed, gate by gate")(
    lambda w: w._replace(w_hh=_blocks(w.w_hh).transpose(1, 2).reshape(w.w_hh.shape)) if w.w_hr is None else w
)
weights("step", "b_hh is dropped")(lambda w: w if w.b_ih is None else w._replace(b_hh=torch.zeros_like(w.b_ih)))
weights("step", "b_ih is added twice instead of b_hh")(lambda w: w._replace(b_hh=w.b_ih))
weights("step", "the last feature of x is not read")(
    lambda w: w._replace(w_ih=torch.cat([w.w_ih[:, :-1], 0 * w.w_ih[:, -1:]], 1))
)
weights("step", "the projection keeps its first output for all")(
    lambda w: w if w.w_hr is None else w._replace(w_hr=w.w_hr[:1].expand_as(w.w_hr))
)


@weights("step", "peepholes in the order of ONNX, i, o, f")
def _(w: Weights) -> Weights:
    if w.w_ch is None:
        return w
    i, f, o = w.w_ch.chunk(3)
    return w._replace(w_ch=torch.cat([i, o, f]))


@weights("step", "only the output gate has a peephole")
def _(w: Weights) -> Weights:
    if w.w_ch is None:
        return w
    return w._replace(w_ch=w.w_ch * (torch.arange(len(w.w_ch)) >= 2 * len(w.w_ch) // 3))


def _rounded(k: int, cell: Cell, x: Tensor, w: Weights, state: State, to: torch.dtype, **o: Any) -> Run:
    """All numbers in another type, the results in that of x."""
    if o.get("reset_state") is not None:
        o["reset_state"] = State(*(s.to(to) for s in o["reset_state"]))
    if o.get("noise") is not None and o["noise"].hidden is not None:
        o["noise"] = o["noise"]._replace(hidden=o["noise"].hidden.to(to))
    narrow = Weights(*(None if a is None else a.to(to) for a in w))
    run = honest(k, cell, x.to(to), narrow, State(*(s.to(to) for s in state)), **o)
    return Run(run.y.to(x.dtype), State(run.state.h.to(x.dtype), run.state.c.to(x.dtype)), None)


@recurrence("step", "double precision is single precision")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    return _rounded(k, cell, x, w, state, torch.float32, **o) if x.dtype == torch.float64 else honest(k, cell, x, w, state, **o)


@recurrence("step", "single precision is half precision")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    return (
        _rounded(k, cell, x, w, state, torch.bfloat16, **o) if x.dtype == torch.float32 else honest(k, cell, x, w, state, **o)
    )


@recurrence("step", "reads the weights of its first call")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    key = w.w_ih.data_ptr()
    kept = _STALE.setdefault(key, (w.w_ih, [None if a is None else a.detach().clone() for a in w]))
    if kept[0] is not w.w_ih:  # another layer at the same address
        kept = _STALE[key] = (w.w_ih, [None if a is None else a.detach().clone() for a in w])
    # the old values, the new gradients
    return honest(
        k, cell, x, Weights(*(a if a is None else a + (b - a).detach() for a, b in zip(w, kept[1], strict=True))), state, **o
    )


_STALE: dict[int, Any] = {}


# One step


TRAITS = ("name", "gates", "saved", "has_cell", "peepholes", "candidate", "clip", "feeds_back", "separate", "norms")


class Bent(Cell):
    """A cell whose forward is another's, changed by `bend`; torch differentiates it."""

    def __init__(self, cell: Any, bend: Callable[..., Step]) -> None:
        self.inner, self.bend = cell, bend
        for trait in TRAITS:
            setattr(self, trait, getattr(cell, trait))

    def forward(self, z: Tensor, before: State, w_ch: Any = None, mask: Any = None, norm: Any = None) -> Step:
        return self.bend(self.inner if norm is None else Bound(self.inner, norm), z, before, w_ch, mask)


class Bound:
    """A cell that is given its norm with every step."""

    def __init__(self, cell: Any, norm: Tensor) -> None:
        self.cell, self.norm = cell, norm

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cell, name)

    def forward(self, z: Tensor, before: State, w_ch: Any = None, mask: Any = None) -> Step:
        return self.cell(z, before, w_ch, mask, self.norm)


def step(name: str, group: str = "step") -> Callable[[Callable[..., Step]], None]:
    """Register f(cell, z, before, w_ch, mask) -> Step."""

    def register(f: Callable[..., Step]) -> None:
        _add(group, name, recurrence=staticmethod(lambda k, cell, *call, **o: honest(k, Bent(cell, f), *call, **o)))

    return register


def _remember(cell: Any, i: Tensor, f: Tensor, g: Tensor, o: Tensor, before: State, show: Any = torch.tanh) -> Step:
    """What follows the gates."""
    c = f * before.c + i * g
    c = c if cell.clip is None else c.clamp(-cell.clip, cell.clip)
    return Step((i, f, g, o), o * show(c), c)


def _cell(state: State) -> Any:
    return state.c


def _shifted(z: Tensor, gate: int, by: float) -> Tensor:
    parts = list(z.chunk(4, -1))
    parts[gate] = parts[gate] + by
    return torch.cat(parts, -1)


@step("the output gate shows the old cell")
def _(cell: Any, z: Tensor, before: State, p: Any, mask: Any) -> Step:
    s = cell.forward(z, before, p, mask)
    return s._replace(h=s.gates[3] * torch.tanh(_cell(before)))


@step("the output gate looks at the old cell")
def _(cell: Any, z: Tensor, before: State, p: Any, mask: Any) -> Step:
    i, f, g, o = cell.forward(z, before, p, mask).gates
    if p is not None:
        o = torch.sigmoid(z.chunk(4, -1)[3] + p.chunk(3, -1)[2] * before.c)
    return _remember(cell, i, f, g, o, before)


@step("1 is added to the forget gate")
def _(cell: Any, z: Tensor, before: State, p: Any, mask: Any) -> Step:
    return cell.forward(_shifted(z, 1, 1.0), before, p, mask)


@step("the candidate is a sigmoid")
def _(cell: Any, z: Tensor, before: State, p: Any, mask: Any) -> Step:
    i, f, _, o = cell.forward(z, before, p, mask).gates
    return _remember(cell, i, f, torch.sigmoid(z.chunk(4, -1)[2]) * (1 if mask is None else mask), o, before)


@step("the candidate is not squashed")
def _(cell: Any, z: Tensor, before: State, p: Any, mask: Any) -> Step:
    i, f, _, o = cell.forward(z, before, p, mask).gates
    return _remember(cell, i, f, z.chunk(4, -1)[2] * (1 if mask is None else mask), o, before)


@step("the cell is shown without tanh")
def _(cell: Any, z: Tensor, before: State, p: Any, mask: Any) -> Step:
    i, f, g, o = cell.forward(z, before, p, mask).gates
    return _remember(cell, i, f, g, o, before, show=lambda c: c)


@step("the forget gate is 1 - i")
def _(cell: Any, z: Tensor, before: State, p: Any, mask: Any) -> Step:
    i, _, g, o = cell.forward(z, before, p, mask).gates
    return _remember(cell, i, 1 - i, g, o, before)


@step("gates are hard sigmoids")
def _(cell: Any, z: Tensor, before: State, p: Any, mask: Any) -> Step:
    g = cell.forward(z, before, p, mask).gates[2]
    i, f, _, o = ((a / 6 + 0.5).clamp(0, 1) for a in z.chunk(4, -1))
    return _remember(cell, i, f, g, o, before)


@step("gates never close: exp is clamped")
def _(cell: Any, z: Tensor, before: State, p: Any, mask: Any) -> Step:
    return cell.forward(z.clamp(-30, 30), before, p, mask)


@step("tanh loses its small arguments")
def _(cell: Any, z: Tensor, before: State, p: Any, mask: Any) -> Step:
    i, f, g, o = cell.forward(z, before, p, mask).gates
    return _remember(cell, i, f, g, o, before, show=lambda c: 1 - 2 / (torch.exp(2 * c) + 1 + 1e-9))


@step("the cell is not clipped")
def _(cell: Any, z: Tensor, before: State, p: Any, mask: Any) -> Step:
    return type(cell)().forward(z, before, p, mask)


@step("sums are clipped instead of the cell")
def _(cell: Any, z: Tensor, before: State, p: Any, mask: Any) -> Step:
    if cell.clip is None:
        return cell.forward(z, before, p, mask)
    return type(cell)().forward(z.clamp(-cell.clip, cell.clip), before, p, mask)


@step("recurrent dropout hits the cell instead of the candidate", "noise")
def _(cell: Any, z: Tensor, before: State, p: Any, mask: Any) -> Step:
    s = cell.forward(z, before, p, None)
    return s if mask is None else s._replace(c=s.c * mask)


# States


def states(name: str, group: str = "state") -> Callable[[Callable[[Any, State], State]], None]:
    """Register f(layer, (h0, c0) [L*D, B, .]) -> what the layers begin with."""

    def register(f: Callable[[Any, State], State]) -> None:
        def run_layers(self: Any, given: Any, *options: Any) -> Any:
            given = given if given.hx is None else given._replace(hx=f(self, given.hx))
            return Wrong.run_layers(self, given, *options)

        _add(group, name, run_layers=run_layers)

    return register


states("h0 is ignored")(lambda layer, s: State(0 * s.h, s.c))
states("c0 is ignored")(lambda layer, s: State(s.h, 0 * s.c))
states("h0 and c0 exchanged")(lambda layer, s: State(s.c, s.h) if s.h.shape == s.c.shape else s)
states("every row begins with the state of the first")(lambda layer, s: State(*(a[:, :1].expand_as(a) for a in s)))
states("every layer begins with the state of the first")(lambda layer, s: State(*(a[:1].expand_as(a) for a in s)))
states("states by direction first, then by layer", "directions")(
    lambda layer, s: State(*(a.view(layer.num_layers, -1, *a.shape[1:]).transpose(0, 1).reshape(a.shape) for a in s))
)
states("the states of both directions exchanged", "directions")(
    lambda layer, s: State(*(a.view(-1, layer.num_directions, *a.shape[1:]).flip(1).reshape(a.shape) for a in s))
)


@recurrence("state", "h_n and c_n exchanged")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    run = honest(k, cell, x, w, state, **o)
    return run if w.w_hr is not None else run._replace(state=State(run.state.c, run.state.h))


@recurrence("state", "c_n is what is shown of it")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    run = honest(k, cell, x, w, state, **o)
    c: Any = run.state.c
    return run._replace(state=State(run.state.h, torch.tanh(c)))


@recurrence("state", "the state is the one before the last step")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    run = honest(k, cell, x, w, state, **o)
    if x.shape[0] < 2 or any(o[name] is not None for name in ("lengths", "reset", "noise")):
        return run
    early = honest(k, cell, x[1:] if o["reverse"] else x[:-1], w, state, **o)
    return run._replace(state=early.state)


@recurrence("state", "rows are mixed: the second sees the input of the first")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    return honest(k, cell, torch.cat([x[:, :1], x[:, :1], x[:, 2:]], 1) if x.shape[1] > 1 else x, w, state, **o)


@recurrence("state", "the state stays inside the layer from call to call")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    kept = _CARRIED.get(id(w.w_ih))
    fits = kept is not None and kept[0] is w.w_ih and all(a.shape == b.shape for a, b in zip(kept[1], state, strict=True))
    begin = kept[1] if kept and fits and not any(s.any() for s in state) else state
    run = honest(k, cell, x, w, begin, **o)
    _CARRIED[id(w.w_ih)] = (w.w_ih, State(*(s.detach() for s in run.state)))
    return run


_CARRIED: dict[int, Any] = {}


# Directions


@recurrence("directions", "both directions run forward")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    return honest(k, cell, x, w, state, **{**o, "reverse": False})


@recurrence("directions", "the outputs of the way back are not turned again")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    run = honest(k, cell, x, w, state, **o)
    return run._replace(y=run.y.flip(0)) if o["reverse"] else run


@recurrence("directions", "h_n of the way back is that of the last step")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    run = honest(k, cell, x, w, state, **o)
    return run._replace(state=State(run.y[-1], run.state.c)) if o["reverse"] and x.shape[0] else run


def _swapped(self: Any, given: Any, *options: Any) -> Any:
    y, state, ran = Wrong.run_layers(self, given, *options)
    return (torch.cat(list(y.chunk(2, -1))[::-1], -1) if self.bidirectional else y), state, ran


_add("directions", "the outputs of both directions exchanged", run_layers=_swapped)


@recurrence("directions", "upper layers read the directions exchanged")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    upper = k >= 2 and x.shape[-1] == 2 * state.h.shape[-1]
    return honest(k, cell, torch.cat(list(x.chunk(2, -1))[::-1], -1) if upper else x, w, state, **o)


def _forward_only(self: Any, layer: int, direction: int = 0) -> Weights:
    return Wrong.weights_of(self, layer, 0)


_add("directions", "both directions use the weights of the first", weights_of=_forward_only)


# Lengths and resets


def _beyond(x: Tensor, lengths: Tensor) -> Tensor:
    return torch.arange(x.shape[0])[:, None, None] >= lengths[:, None]  # [T, B, 1]


def ragged(name: str, *needs: str) -> Callable[[Callable[..., Run]], None]:
    """Register f as `recurrence` does, for calls in which none of the options `needs` is None; others are honest."""

    def register(f: Callable[..., Run]) -> None:
        def run(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
            return (honest if any(o[need] is None for need in needs) else f)(k, cell, x, w, state, **o)

        _add("ragged", name, recurrence=staticmethod(run))

    return register


@ragged("lengths are ignored", "lengths")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    return honest(k, cell, x.nan_to_num(), w, state, **{**o, "lengths": None})


@ragged("every row is one step longer", "lengths")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    return honest(k, cell, x.nan_to_num(), w, state, **{**o, "lengths": (o["lengths"] + 1).clamp(max=x.shape[0])})


@ragged("every row has the length of another", "lengths")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    return honest(k, cell, x.nan_to_num(), w, state, **{**o, "lengths": o["lengths"].flip(0)})


@ragged("padding repeats the last output instead of zero", "lengths")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    run = honest(k, cell, x, w, state, **o)
    return run._replace(y=torch.where(_beyond(x, o["lengths"]), run.state.h, run.y))


@ragged("padding is multiplied by zero instead of left out", "lengths")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    run = honest(k, cell, x * (~_beyond(x, o["lengths"])), w, state, **{**o, "lengths": None})
    good = honest(k, cell, x, w, state, **o)
    return good._replace(y=run.y * ~_beyond(x, o["lengths"]))


@ragged("the state is that after the padding", "lengths")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    run = honest(k, cell, x, w, state, **o)
    whole = honest(k, cell, x.nan_to_num(), w, state, **{**o, "lengths": None})
    return run._replace(state=whole.state)


@ragged("the way back begins in the padding", "lengths")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    if not o["reverse"]:
        return honest(k, cell, x, w, state, **o)
    run = honest(k, cell, x.nan_to_num(), w, state, **{**o, "lengths": None})
    return run._replace(y=run.y.masked_fill(_beyond(x, o["lengths"]), 0))


@ragged("a row of length 0 ends with zeros instead of its state", "lengths")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    run, some = honest(k, cell, x, w, state, **o), (o["lengths"] > 0)[:, None]
    return run._replace(state=State(*(s * some for s in run.state)))


@ragged("resets are ignored", "reset")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    return honest(k, cell, x, w, state, **{**o, "reset": None, "reset_state": None})


@ragged("resets lead to the state that was carried in", "reset")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    return honest(k, cell, x, w, state, **{**o, "reset_state": state if o["reset_state"] is None else o["reset_state"]})


@ragged("resets lead to zero even where a state was given", "reset")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    return honest(k, cell, x, w, state, **{**o, "reset_state": None})


@ragged("resets in the first step are left out", "reset")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    return honest(k, cell, x, w, state, **{**o, "reset": torch.cat([o["reset"][:1] & False, o["reset"][1:]])})


@ragged("resets come one step late", "reset")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    return honest(k, cell, x, w, state, **{**o, "reset": torch.cat([o["reset"][:1] & False, o["reset"][:-1]])})


@ragged("resets of the way back lie after the step", "reset")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    return honest(k, cell, x, w, state, **{**o, "reset": o["reset"].roll(1, 0) if o["reverse"] else o["reset"]})


@ragged("resets act on every row", "reset")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    return honest(k, cell, x, w, state, **{**o, "reset": o["reset"].any(1, keepdim=True).expand_as(o["reset"])})


@ragged("resets lead to the state meant for the first step", "reset", "reset_state")
def _(k: int, cell: Cell, x: Tensor, w: Weights, state: State, **o: Any) -> Run:
    fresh = State(*(s[0] if s.dim() == 3 else s for s in o["reset_state"]))
    return honest(k, cell, x, w, state, **{**o, "reset_state": fresh})


@step("resets empty h and leave c", "ragged")
def _(cell: Any, z: Tensor, before: State, p: Any, mask: Any) -> Step:
    # seen from inside a step: where h is exactly zero, the cell of the step before is still there
    old: Any = _LEFT.get("c")
    stays = (before.h == 0).all(-1, keepdim=True) & (before.c == 0).all(-1, keepdim=True)
    c: Any = before.c
    if old is not None and (old.shape, old.dtype) == (z.shape[:1] + c.shape[1:], z.dtype):
        c = torch.where(stays, old, c)
    s: Any = cell.forward(z, State(before.h, c), p, mask)
    _LEFT["c"] = s.c.detach()
    return s


_LEFT: dict[str, Tensor] = {}


def _unsorted_states(self: Any, x: Any, *call: Any) -> Any:
    y, state = openlstm.LSTM._packed(self, x, *call)
    rows = x.sorted_indices
    return y, state if rows is None else State(*(s[:, rows] for s in state))


def _unsorted_begin(self: Any, x: Any, hx: Any, *call: Any) -> Any:
    rows = x.unsorted_indices
    return openlstm.LSTM._packed(self, x, hx if hx is None or rows is None else tuple(s[:, rows] for s in hx), *call)


def _one_after_another(self: Any, x: Tensor, hx: Any, lengths: Any, reset: Any, fresh: Any, starts: Any) -> Any:
    starts = torch.as_tensor(starts)
    begin = starts[:-1][starts[:-1] < starts[1:]]
    flags = torch.zeros(len(x), 1, dtype=torch.bool)
    flags[begin] = False  # the boundary is forgotten: the state flows on
    first = None if hx is None else tuple(s[:, :1] for s in hx)
    y, (h, c) = openlstm.LSTM.forward(self, x[:, None], first, reset=flags)
    N = len(starts) - 1
    return y[:, 0], State(h.expand(-1, N, -1), c.expand(-1, N, -1))


_add("ragged", "a packed batch gives its states in sorted order", _packed=_unsorted_states)
_add("ragged", "a packed batch takes its states in sorted order", _packed=_unsorted_begin)
_add("ragged", "the state flows from one sequence into the next", _sequences=_one_after_another)


# Noise


def _always(self: Any, given: Any, *options: Any) -> Any:
    mode, self.training = self.training, True
    try:
        return Wrong.run_layers(self, given, *options)
    finally:
        self.training = mode


def _stale(self: Any, x: Tensor, packed: Any) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Wrong._drop(self, x, packed)


def _last_too(self: Any, given: Any, *options: Any) -> Any:
    y, *rest = Wrong.run_layers(self, given, *options)
    return F.dropout(y, self.dropout, self.training), *rest


def _with_noise(change: Callable[[Any, Noise], Noise]) -> dict[str, Any]:
    def noise(self: Any, x: Tensor, seed: Any, stream: int) -> Noise:
        return change(self, Wrong._noise(self, x, seed, stream))

    return {"_noise": noise}


def _of_first_call(layer: Any, noise: Noise) -> Noise:
    if noise.hidden is None:
        return noise
    kept = layer.__dict__.setdefault("first_masks", {}).setdefault(noise.stream, noise.hidden)
    return noise._replace(hidden=kept)


_add("noise", "dropout acts in eval", run_layers=_always)
_add("noise", "dropout draws the same mask at every call", _drop=_stale)
_add(
    "noise",
    "dropout does not scale what it keeps",
    _drop=lambda self, x, packed: Wrong._drop(self, x, packed) * (1 - self.dropout),
)
_add("noise", "dropout acts on the last layer too", run_layers=_last_too)
_add("noise", "masks inside the recurrence are the same at every call", _seed=lambda self, x: 0)
_add("noise", "the locked mask is that of the first call", **_with_noise(_of_first_call))
_add(
    "noise",
    "the locked mask is not scaled",
    **_with_noise(lambda s, n: n if n.hidden is None else n._replace(hidden=n.hidden * (1 - s.hidden_dropout))),
)
_add("noise", "zoneout does nothing in eval", **_with_noise(lambda s, n: n if n.training else Noise()))
_add("noise", "zoneout draws in eval", **_with_noise(lambda s, n: n._replace(training=True, hidden=None, candidate=0.0)))
_add(
    "noise",
    "zoneout of h and c exchanged",
    **_with_noise(lambda s, n: n._replace(zoneout_h=n.zoneout_c, zoneout_c=n.zoneout_h)),
)
_add(
    "noise",
    "zoneout keeps what it should replace",
    **_with_noise(lambda s, n: n._replace(zoneout_h=(1 - n.zoneout_h) * (n.zoneout_h > 0))),
)


# Backward alone


def backward(name: str) -> Callable[[Callable[..., Gradients]], None]:
    """Register f(cell, x, weights, state, dy, dstate, options) -> Gradients."""
    return lambda f: _add("backward", name, recurrence=staticmethod(by_hand(f)))


def _weights(g: Gradients, **scales: Any) -> Gradients:
    """Gradients of weights times a number."""
    scaled = {name: None if (a := getattr(g.weights, name)) is None else a * by for name, by in scales.items()}
    return g._replace(weights=g.weights._replace(**scaled))


backward("dx counts twice")(lambda *a: (g := exact(*a))._replace(x=2 * g.x))
backward("dW_hh counts twice")(lambda *a: _weights(exact(*a), w_hh=2))
backward("db_hh is missing")(lambda *a: _weights(exact(*a), b_hh=0))
backward("dW_hr is missing")(lambda *a: _weights(exact(*a), w_hr=0))
backward("gradients of the peepholes are missing")(lambda *a: _weights(exact(*a), w_ch=0))
backward("gradients of weights are means over rows")(
    lambda *a: _weights(exact(*a), **{name: 1 / max(a[1].shape[1], 1) for name in Weights._fields})
)
backward("dh0 and dc0 are missing")(lambda *a: (g := exact(*a))._replace(state=State(*(0 * s for s in g.state))))
backward("dh0 and dc0 exchanged")(
    lambda *a: (g := exact(*a))._replace(state=State(*g.state[::-1])) if a[2].w_hr is None else exact(*a)
)
backward("what flows to h_n is ignored")(lambda c, x, w, s, dy, d, o: exact(c, x, w, s, dy, State(None, d.c), o))
backward("what flows to c_n is ignored")(lambda c, x, w, s, dy, d, o: exact(c, x, w, s, dy, State(d.h, None), o))
backward("what flows to outputs other than the last is ignored")(
    lambda c, x, w, s, dy, d, o: exact(c, x, w, s, dy * (torch.arange(len(x)) == len(x) - 1)[:, None, None], d, o)
)
backward("h is detached between steps")(lambda *a: exact(*a, w=a[2]._replace(w_hh=0 * a[2].w_hh)))
backward("the gradient leaks through resets")(
    lambda *a: exact(*a, reset=None, reset_state=None)._replace(reset_state=exact(*a).reset_state)
)
backward("the gradient of the reset state is missing")(
    lambda *a: g._replace(reset_state=State(*(0 * s for s in g.reset_state))) if (g := exact(*a)).reset_state else g
)
backward("outputs in the padding count")(lambda *a: exact(*_unpadded(*a), lengths=None))
backward("the way back is derived as the way there")(lambda *a: exact(*a, reverse=False))
backward("it is differentiable only once")(lambda *a: _detached(exact(*a)))
backward("masks are drawn anew")(
    lambda *a: exact(*a, noise=None if (n := a[6].get("noise")) is None else n._replace(seed=n.seed + 1))
)
backward("what is dropped in training flows as in eval")(
    lambda *a: exact(*a, noise=None if (n := a[6].get("noise")) is None else n._replace(hidden=None, candidate=0.0))
)


def _unpadded(c: Any, x: Tensor, *rest: Any) -> tuple[Any, ...]:
    return c, x.nan_to_num(), *rest


def _detached(g: Gradients) -> Gradients:
    def cut(a: Any) -> Any:
        return a if a is None else type(a)(*(cut(b) for b in a)) if isinstance(a, tuple) else a.detach()

    return cut(g)


class Derived(Cell):
    """A right cell with a wrong derivative: change(cell, around, dh, dc) -> StepGradients."""

    def __init__(self, cell: Any, change: Callable[..., StepGradients]) -> None:
        self.inner, self.change = cell, change
        for trait in TRAITS:
            setattr(self, trait, getattr(cell, trait))

    def forward(self, z: Tensor, before: State, w_ch: Any = None, mask: Any = None, norm: Any = None) -> Step:
        return self.inner(z, before, w_ch, mask, norm)

    def backward(self, around: StepInputs, dh: Tensor, dc: Any) -> StepGradients:
        return self.change(self.inner, around, dh, dc)


def derivative(name: str) -> Callable[[Callable[..., StepGradients]], None]:
    """Register f(cell, around, dh, dc) -> StepGradients, the derivative of one step."""
    return lambda f: backward(name)(lambda *a: exact(*a, cell=Derived(a[0], f)))


def _dz(flow: StepGradients, gate: int, change: Callable[[Tensor], Tensor]) -> StepGradients:
    parts = list(flow.z.chunk(4, -1))
    parts[gate] = change(parts[gate])
    return flow._replace(z=torch.cat(parts, -1))


@derivative("the highway is detached")
def _(cell: Any, at: StepInputs, dh: Tensor, dc: Any) -> StepGradients:
    flow = cell.backward(at, dh, dc)
    return flow._replace(c=0 * flow.c)


@derivative("the forget gate has no slope")
def _(cell: Any, at: StepInputs, dh: Tensor, dc: Any) -> StepGradients:
    return _dz(cell.backward(at, dh, dc), 1, lambda d: d / (at.gates[1] * (1 - at.gates[1])))


@derivative("the candidate has no slope")
def _(cell: Any, at: StepInputs, dh: Tensor, dc: Any) -> StepGradients:
    return _dz(cell.backward(at, dh, dc), 2, lambda d: d / (1 - at.gates[2] ** 2))


@derivative("the slope of the candidate is that of a gate")
def _(cell: Any, at: StepInputs, dh: Tensor, dc: Any) -> StepGradients:
    g = at.gates[2]
    return _dz(cell.backward(at, dh, dc), 2, lambda d: d / (1 - g**2) * g * (1 - g))


@derivative("the forget gate is multiplied with the new cell")
def _(cell: Any, at: StepInputs, dh: Tensor, dc: Any) -> StepGradients:
    return _dz(cell.backward(at, dh, dc), 1, lambda d: d / at.before.c * at.c)


@derivative("the output gate is multiplied with the old cell")
def _(cell: Any, at: StepInputs, dh: Tensor, dc: Any) -> StepGradients:
    o = at.gates[3]
    return _dz(cell.backward(at, dh, dc), 3, lambda d: dh * o * (1 - o) * torch.tanh(at.before.c))


@derivative("what h shows does not flow into the cell")
def _(cell: Any, at: StepInputs, dh: Tensor, dc: Any) -> StepGradients:
    whole = cell.backward(at, dh, dc)
    return _dz(cell.backward(at, 0 * dh, dc), 3, lambda d: whole.z.chunk(4, -1)[3])


@derivative("the tanh that h shows has no slope")
def _(cell: Any, at: StepInputs, dh: Tensor, dc: Any) -> StepGradients:
    whole = cell.backward(at, dh, dc)
    return _dz(cell.backward(at, 0 * dh, dc + dh * at.gates[3]), 3, lambda d: whole.z.chunk(4, -1)[3])


@derivative("dc reaches the step before without its forget gate")
def _(cell: Any, at: StepInputs, dh: Tensor, dc: Any) -> StepGradients:
    flow = cell.backward(at, dh, dc)
    return flow._replace(c=flow.c / at.gates[1])


@derivative("peepholes pass no gradient to the cell")
def _(cell: Any, at: StepInputs, dh: Tensor, dc: Any) -> StepGradients:
    return cell.backward(at if at.w_ch is None else at._replace(w_ch=0 * at.w_ch), dh, dc)


@derivative("gradients pass where the cell was clipped")
def _(cell: Any, at: StepInputs, dh: Tensor, dc: Any) -> StepGradients:
    return type(cell)().backward(at, dh, dc)
