"""One call of a recurrent module as it was recorded, and the places in it: every direction of every layer as it ran.

Hooks listen to calls and are taken away; the module, its modes, its gradients and the random state stay as they were.

Legend: T time, B batch, N rows of a packed input, L layers, D directions.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence, pad_sequence
from torch.utils.hooks import RemovableHandle

from openlstm.engine.edits import refuse_edits
from openlstm.insight.batches import HALF, detached, plain_types
from openlstm.insight.place import Place
from openlstm.nn.batch import mapped
from openlstm.nn.form import Form, Inputs
from openlstm.nn.recurrent import Pass, Recurrent
from openlstm.nn.replace import from_torch
from openlstm.reference import State


class LayerCall:
    """One call of a recurrent module: what it was given, what it gave, and once it is known what the loss makes of that."""

    def __init__(self, module: nn.Module, number: int, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.module = module
        self.number = number  # in the order in which calls began
        given: dict[str, Any] = dict(inspect.signature(type(module).forward).bind(module, *args, **named).arguments)
        given.pop("self", None)
        self.given = given
        self.random = torch.get_rng_state() if module.training else None
        self.outputs: list[Any] = []  # y (or the data of a packed one), h_n, c_n
        self.gradients: list[Any] = []  # at each output, None for none

    @property
    def arrived(self) -> bool:
        """Whether a backward pass brought a gradient to an output."""
        return any(t.grad is not None for t in self.outputs)

    @property
    def length(self) -> int:
        """How many steps it was given, at least."""
        x = self.given["input"]
        if isinstance(x, PackedSequence):
            return len(x.batch_sizes)
        return x.shape[0] if x.dim() == 2 or not getattr(self.module, "batch_first", False) else x.shape[1]

    def note(self, output: Any, gradients: bool) -> Any:
        """Note the output; with gradients its tensors become siblings: h_n must not be an ancestor of y, or the gradient of
        one would hold that of the other too. Returns what takes the place of the output.
        """
        y, state = output
        tensors = [y.data if isinstance(y, PackedSequence) else y, *(state if isinstance(state, tuple) else (state,))]
        if not gradients:
            self.outputs = [t.detach() for t in tensors]
            return None
        own = [t.clone() for t in tensors]
        for t in own:
            if not t.requires_grad:
                t.requires_grad_()  # every weight below may be frozen
            t.retain_grad()
        self.outputs = own
        y = y._replace(data=own[0]) if isinstance(y, PackedSequence) else own[0]
        if not isinstance(state, tuple):
            return y, own[1]
        make: Any = getattr(state, "_make", tuple)  # of the named states of a cell with several
        return y, make(own[1:])

    def flows(self) -> tuple[Any, Any, Any]:
        """The gradients at y, at h and at c, which holds the further states of a cell side by side; None for none."""
        dy, dh, *others = [*self.gradients, None, None, None][: max(len(self.outputs), 3)]
        if len(others) == 1 or all(g is None for g in others):
            return dy, dh, others[0]
        parts = zip(others, self.outputs[2:], strict=True)
        return dy, dh, torch.cat([torch.zeros_like(out) if g is None else g for g, out in parts], -1)


class NoHook:
    """What a hook of ours is in a copy of a model, and in one that is saved."""

    def __call__(self, *_: Any) -> None:
        return None


class Hook:
    """Called before and after a module runs; the output is there after it."""

    def on(self, module: nn.Module) -> list[RemovableHandle]:
        """Listen to a module until the handles are removed."""
        before = module.register_forward_pre_hook(self, with_kwargs=True)  # type: ignore[arg-type]
        return [before, module.register_forward_hook(self, with_kwargs=True)]  # type: ignore[arg-type]

    def __call__(self, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], *output: Any) -> Any:
        raise NotImplementedError

    def __reduce__(self) -> Any:
        return NoHook, ()


class LayerCalls:
    """Hooks on recurrent modules that record every call of them until the block ends.

    Args:
        modules: by path.
        gradients: note outputs that gradients can be taken of.
        training: record only calls that gradients are wanted of, not those of a validation in between.
    """

    def __init__(self, modules: Mapping[str, nn.Module], *, gradients: bool, training: bool = False) -> None:
        self.of: dict[str, list[LayerCall]] = {path: [] for path in modules}
        self.gradients = gradients
        self.training = training
        self.number = 0
        self._modules = modules
        self._handles: list[Any] = []

    def longest(self, wanted: Callable[[LayerCall], bool] = lambda call: True) -> dict[str, LayerCall]:
        """Of every module that ran the longest of the calls that are wanted."""
        found = {path: [call for call in calls if wanted(call)] for path, calls in self.of.items()}
        return {path: max(calls, key=lambda call: call.length) for path, calls in found.items() if calls}

    def places(self, chosen: Mapping[str, LayerCall], with_loss: bool) -> list[tuple[Place, bool]]:
        """The places of these calls in the order in which they ran, and whether what each gave is finite."""
        ordered = sorted(chosen.items(), key=lambda item: item[1].number)
        return [found for path, call in ordered for found in places_of(path, call, len(self.of[path]), with_loss)]

    def __enter__(self) -> LayerCalls:
        for path, module in self._modules.items():
            self._handles += _LayerHook(self, path).on(module)
        return self

    def __exit__(self, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


class _LayerHook(Hook):
    """Records the calls of one module."""

    def __init__(self, calls: LayerCalls, path: str) -> None:
        self.calls = calls
        self.path = path
        self.open: list[Any] = []

    def __call__(self, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], *output: Any) -> Any:
        calls, wanted = self.calls, torch.is_grad_enabled()
        if not output:
            calls.number += 1
            recorded = not calls.training or wanted
            self.open.append(LayerCall(module, calls.number, args, named) if recorded else None)
            return None
        call = self.open.pop()
        if call is None:
            return None
        calls.of[self.path].append(call)
        return call.note(output[0], calls.gradients and wanted)


def places_of(path: str, call: LayerCall, calls: int, with_loss: bool) -> list[tuple[Place, bool]]:
    """Every direction of every layer of one call, and whether what it gave is finite.

    The module runs again with what it was given, and with a loss goes back from the gradients at its outputs to those of its
    inner layers. What torch.autocast rounded on the way there is as it was; here nothing is rounded any more.
    """
    layer = ours(call.module)
    own = layer.first_weight
    floats = {name: _in_type(call.given.get(name), own.dtype) for name in ("input", "hx", "reset_state")}
    given, spread, spread_state = _enter(layer, {**call.given, **floats})
    inner = layer.num_layers * layer.num_directions > 1 and with_loss
    with torch.random.fork_rng(devices=[]), torch.set_grad_enabled(inner), plain_types(own):
        if call.random is not None:
            torch.set_rng_state(call.random)
        given = given._replace(x=given.x.detach().requires_grad_(inner))
        y, state, passes = layer.run_layers(given)
    flows: list[tuple[Any, Any, Any]] = [(None, None, None)] * len(passes)
    if with_loss:
        spreads = zip(call.flows(), (spread, spread_state, spread_state), strict=True)
        dy, dh, dc = (None if g is None else f(g) for g, f in spreads)
        if inner:
            flows = _inner(passes, [(y, dy), (state.h, dh), (state.c, dc)])
        else:
            flows = [(dy, None if dh is None else dh[0], None if dc is None else dc[0])]
            if dy is not None and dy.shape[-1] != passes[0].run.y.shape[-1]:  # FGR: y is the first of what is fed back
                flows[0] = (nn.functional.pad(dy, (0, passes[0].run.y.shape[-1] - dy.shape[-1])), *flows[0][1:])
    places = []
    for k, (r, (dy, dh, dc)) in enumerate(zip(passes, flows, strict=True)):
        refuse_edits(r.call)
        ends = r.run.state
        dstate = State(
            *(torch.zeros_like(s) if g is None and s is not None else g for s, g in zip(ends, (dh, dc), strict=True))
        )
        place = Place(
            name=layer_names(path, layer)[k],
            path=path,
            index=k // layer.num_directions,
            call=r.call.each(detached)._replace(checkpoint=0, check_finite=False),
            dy=detached(dy),
            dstate=detached(dstate) if with_loss else None,
            module=layer,
            calls=calls,
        )
        places.append(place)
    sound = [all(bool(t.isfinite().all()) for t in (r.run.y, *r.run.state) if t is not None) for r in passes]
    return list(zip(places, sound, strict=True))


def last_state(layer: Recurrent, x: Tensor, begin: State, reset: Tensor | None) -> Tensor:
    """h_T [B, R] of the last forward layer of a module, for inputs and states that it has not seen, in its own precision."""
    with torch.no_grad(), plain_types(x):  # a flip of 1e-5 is less than bfloat16 can tell
        return layer.run_layers(Inputs(x, begin, None, reset, None))[1].h[-layer.num_directions]


def _in_type(given: Any, dtype: torch.dtype) -> Any:
    """What a layer of float32 was given in a half type, under autocast, as float32."""

    def own(a: Any) -> Any:
        if isinstance(a, PackedSequence):
            return a._replace(data=own(a.data))
        return a.to(dtype) if isinstance(a, Tensor) and a.dtype in HALF else a

    return mapped(given, own)


def ours(module: nn.Module) -> Recurrent:
    """A recurrent module as ours, with the very same parameters; hooks of the original stay there."""
    if isinstance(module, Recurrent):
        return module
    bare = copy.copy(module)
    for name in list(bare.__dict__):
        if name.endswith("_hooks") and isinstance(bare.__dict__[name], dict):
            bare.__dict__[name] = type(bare.__dict__[name])()
    return from_torch(bare)


def layer_names(path: str, module: Any) -> list[str]:
    """The names of the places of a module, layer by layer."""
    front = f"{path}." if path else ""
    ends = ("", "_reverse") if module.bidirectional else ("",)
    return [f"{front}{k}{end}" for k in range(module.num_layers) for end in ends]


def _inner(passes: list[Pass], outer: list[tuple[Any, Any]]) -> list[tuple[Any, Any, Any]]:
    """The gradients at what every layer and direction handed on, from those at the outputs of the module."""
    ends = [t for r in passes for t in (r.run.y, *r.run.state) if t is not None]
    roots = [(out, g.to(out.dtype)) for out, g in outer if out is not None and g is not None and out.requires_grad]
    if not roots:
        return [(None, None, None)] * len(passes)
    needed = [t for t in ends if t.requires_grad]
    found = torch.autograd.grad([out for out, _ in roots], needed, [g for _, g in roots], allow_unused=True)
    by_id = {id(t): g for t, g in zip(needed, found, strict=True)}
    return [tuple(None if t is None else by_id.get(id(t)) for t in (r.run.y, *r.run.state)) for r in passes]  # type: ignore[misc]


def _enter(layer: Recurrent, given: dict[str, Any]) -> tuple[Inputs, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """The arguments of a call in the one form, and what brings a gradient of y and of a state into it."""
    x, hx = given["input"], given.get("hx")
    lengths, reset, fresh = (given.get(name) for name in ("lengths", "reset", "reset_state"))
    if isinstance(x, PackedSequence):
        packed = x
        padded, lengths = pad_packed_sequence(packed)
        rest = Form(batched=True, batch_first=False).enter(layer, padded, hx, lengths.to(padded.device), reset, fresh)
        return rest, lambda g: pad_packed_sequence(packed._replace(data=g))[0], lambda g: g
    if given.get("cu_seqlens") is not None:
        sizes = torch.as_tensor(given["cu_seqlens"]).diff()
        parts = sizes.tolist()

        def padded_by_row(a: Tensor) -> Tensor:
            return pad_sequence(list(a.split(parts)))  # [T, N, .]

        reset = None if reset is None else padded_by_row(reset)
        rest = Form(batched=True, batch_first=False).enter(layer, padded_by_row(x), hx, sizes.to(x.device), reset, fresh)
        return rest, padded_by_row, lambda g: g
    form = Form.of(layer, x)
    rest = form.enter(layer, x, hx, lengths, reset, fresh)

    def to_steps(g: Tensor) -> Tensor:
        return g.unsqueeze(1) if not form.batched else g.transpose(0, 1) if form.batch_first else g

    return rest, to_steps, lambda g: g if form.batched else g.unsqueeze(1)
