"""`look`: every recurrent layer of a model, as one call of the model ran it.

A `Place` is one direction of one layer with all that it was given: what every diagnostic here runs again, in chunks, without
the model. Hooks listen to one call and are taken away; the model, its modes, its gradients and the random state stay as they
were.

Legend: T time, B batch, I input size, H hidden size, R what is fed back (P with a projection, 4H for FGR, else H), L layers,
D directions, n steps of a chunk.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence, pad_sequence

from openlstm import cells
from openlstm.call import Call
from openlstm.cells import Cell
from openlstm.engine import scan
from openlstm.engine.backends.table import brief
from openlstm.engine.edits import refuse_edits
from openlstm.engine.execute import plain_types
from openlstm.engine.scan import CHUNK, Back, Chunk, Dy
from openlstm.errors import ArgumentError, DtypeError, describe, message
from openlstm.nn.batch import RECURRENT, Loss, called, expect_taken, formed, mapped
from openlstm.nn.form import Form, Inputs
from openlstm.nn.recurrent import Pass, Recurrent
from openlstm.nn.replace import from_torch
from openlstm.noise import Noise
from openlstm.reference import Saved, State, Weights
from openlstm.weights import hidden_size


@dataclass(frozen=True, eq=False)
class Place:
    """One direction of one layer, and the call of it that was seen. Tensors carry no gradient.

    Fields:
        name: "lstm.0", "lstm.0_reverse", "0" in a bare layer; the names of `openlstm.trace` with the path in front.
        path: of the module in the model, "" for a bare layer.
        index, reverse: which layer, which direction.
        x: [T, B, I], what this layer was given.
        lengths, reset, reset_state, noise: as in `reference.forward`.
        dy: dL/dy [T, B, R] of what left this direction; None where the loss does not read it.
        dstate: dL/d(final state); None if there was no loss.
        module: the layer as ours (another object than the model's if that is torch.nn's; the same parameters).
        calls: how often the module ran in the one call of the model; the longest call is shown.
    """

    name: str
    path: str
    index: int
    reverse: bool
    cell: Cell
    weights: Weights
    x: Tensor
    state: State
    lengths: Tensor | None
    reset: Tensor | None
    dy: Tensor | None
    dstate: State | None
    backend: str
    module: Recurrent
    reset_state: State | None = None
    noise: Noise | None = None
    calls: int = 1

    @property
    def steps(self) -> int:
        """T."""
        return self.x.shape[0]

    @property
    def rows(self) -> int:
        """B."""
        return self.x.shape[1]

    @property
    def units(self) -> int:
        """H."""
        return hidden_size(self.cell, self.weights)

    @property
    def title(self) -> str:
        """What it is, for people: "lstm.0 (LSTM, 32 units)"."""
        return f"{self.name} ({brief(self.cell)}, {self.units} units)"

    @property
    def gates(self) -> tuple[str, ...]:
        """The gates with a sigmoid, and the candidate."""
        return tuple(name for name in self.cell.saved if name in self.cell.gates)

    @property
    def no_gates(self) -> str | None:
        """Why there is no gate to look at, None if there is one."""
        return None if self.gates else f"{self.name}: {brief(self.cell)} has no gates"

    @property
    def no_highway(self) -> str | None:
        """Why there is no share of a state that a gate keeps, None if there is one."""
        if self._highway is not None:
            return None
        return f"{self.name}: {brief(self.cell)} has no highway: nothing keeps a state but the weights"

    @property
    def _highway(self) -> str | None:
        saved = self.cell.saved
        if "f" in saved:
            return "f"
        if isinstance(self.cell, cells.GRU):
            return "z"
        if self.cell.has_cell and self.cell.kernel and hasattr(self.cell, "coupled"):
            return "1-i" if self.cell.coupled else "1"  # type: ignore[attr-defined]
        return None

    def kept(self, saved: Saved) -> Tensor | None:
        """The factor with which a step keeps each unit of the highway [n, B, H]: f, 1 - i, z of a GRU, 1; None without one.

        Zoneout keeps the old cell with its probability p: p + (1 - p) f.
        """
        name = self._highway
        if name is None:
            return None
        gates = saved.named(self.cell)
        if name == "1":
            assert saved.c is not None
            f = torch.ones_like(saved.c)
        else:
            f = 1 - gates["i"] if name == "1-i" else gates[name]
        p = 0.0
        if self.noise is not None:
            p = self.noise.zoneout_c if self.cell.has_cell else self.noise.zoneout_h
        return p + (1 - p) * f if p else f

    def forwards(self, chunk: int = CHUNK) -> Iterator[Chunk]:
        """The forward pass in chunks of time (`engine.scan.chunks`)."""
        return scan.chunks(self.call, chunk)

    def again(self, chunk: int = CHUNK) -> Iterator[Chunk]:
        """The same chunks, the last that ran first (`engine.scan.chunks_again`)."""
        return scan.chunks_again(self.call, chunk)

    def backwards(self, dy: Dy, dstate: State | None, chunk: int = CHUNK) -> Iterator[Back]:
        """The way back in chunks of time (`engine.scan.chunks_back`)."""
        return scan.chunks_back(self.call, dy, dstate, chunk)

    @property
    def call(self) -> Call:
        """The call."""
        kept = {name: getattr(self, name) for name in ("lengths", "reset", "reset_state", "reverse", "noise", "backend")}
        return Call(self.cell, self.x, self.weights, self.state, **kept)

    def ends(self) -> Tensor:
        """How many real steps each row has, int64 [B]."""
        if self.lengths is None:
            return torch.full((self.rows,), self.steps, device=self.x.device)
        return self.lengths

    def order(self, t0: int, t1: int) -> Tensor:
        """The number of each step in the order in which its row ran, from 0; -1 past the row's length. int64 [n, B]."""
        t = torch.arange(t0, t1, device=self.x.device)[:, None]
        ends = self.ends()
        return torch.where(t < ends, ends - 1 - t if self.reverse else t, -1)

    def cuts(self, t0: int, t1: int) -> Tensor | None:
        """Where a reset put another state in place before the step, bool [n, B]; None without resets."""
        if self.reset is None:
            return None
        at = torch.arange(t0, t1, device=self.x.device) + self.reverse
        inside = (at < self.steps)[:, None] & (at[:, None] < self.ends())
        return self.reset[at.clamp(max=self.steps - 1)] & inside

    def before(self, t0: int, start: State, saved: Saved) -> State:
        """The state with which every step of a chunk began, h [n, B, R] and c [n, B, H]."""
        n = saved.h.shape[0]
        cut = self.cuts(t0, t0 + n)
        first = None
        if self.reverse and self.lengths is not None:  # a row that has not begun holds its start
            first = (torch.arange(t0 + 1, t0 + n + 1, device=self.x.device)[:, None] >= self.lengths)[..., None]
        found = []
        for k, (begin, values) in enumerate(((start.h, saved.h), (start.c, saved.c))):
            if values is None or begin is None:
                found.append(None)
                continue
            parts = [values[1:], begin[None]] if self.reverse else [begin[None], values[:-1]]
            old = torch.cat(parts)
            if first is not None:
                old = torch.where(first, begin, old)
            if cut is not None:
                fresh = None if self.reset_state is None else self.reset_state[k]
                if fresh is None:
                    old = old.masked_fill(cut[..., None], 0)
                else:
                    at = torch.arange(t0, t0 + n, device=self.x.device) + self.reverse
                    fresh = fresh[at.clamp(max=self.steps - 1)] if fresh.dim() == 3 else fresh
                    old = torch.where(cut[..., None], fresh.to(old.dtype), old)
            found.append(old)
        return State(*found)

    def some(self, rows: Tensor) -> Place:
        """The same place with some of its rows."""

        def pick(a: Any, axis: int) -> Any:
            return None if a is None else a.index_select(axis, rows)

        fresh, noise, flow = self.reset_state, self.noise, self.dstate
        return replace(
            self,
            x=pick(self.x, 1),
            state=State(*(pick(s, 0) for s in self.state)),
            lengths=pick(self.lengths, 0),
            reset=pick(self.reset, 1),
            reset_state=None if fresh is None else State(*(pick(s, -2) for s in fresh)),
            dy=pick(self.dy, 1),
            dstate=None if flow is None else State(*(pick(s, 0) for s in flow)),
            noise=None if noise is None else noise._replace(hidden=pick(noise.hidden, 0)),
        )

    def __repr__(self) -> str:
        T, B, inputs = self.x.shape
        return f"Place({self.title}, T={T}, B={B}, I={inputs})"


@dataclass(frozen=True, eq=False)
class Looked:
    """What `look` found."""

    places: tuple[Place, ...]
    value: float | None  # of the loss
    outputs: Any  # of the model, without gradients; None if a loss called it

    def __getitem__(self, name: str) -> Place:
        for place in self.places:
            if place.name == name:
                return place
        raise KeyError(f"{name!r}; there is {', '.join(p.name for p in self.places)}")


def look(
    model: nn.Module, data: Any, loss: Any = None, *, layers: str | Sequence[str] | None = None, finite: bool = True
) -> Looked:
    """Call a model once and take out every direction of every recurrent layer as it ran.

    Args:
        model: a recurrent layer of openlstm or torch.nn, or any module that holds some. It runs in eval mode.
        data: its inputs: a tensor, a PackedSequence, a tuple of inputs, a dict of keywords, or a DataLoader, of which the first
            batch is taken; with a loss all that the loss takes, the target last. For a bare layer x in the layer's own layout,
            or (x, what the loss wants).
        loss: `loss(model, *data)` or `loss(output, target)`, a scalar (`nn.batch`); adds its gradient at the outputs of
            every place.
        layers: only these, names of modules ("encoder.lstm") or of places ("encoder.lstm.0").
        finite: raise where a weight, an input or a state is not finite, naming the first.

    Returns:
        `Looked(places, value, outputs)`, places in the order in which modules ran.

    Raises:
        DtypeError: if `model` is no module.
        ArgumentError: if it holds no recurrent layer, one did not run, a name is unknown, the loss is no scalar or does not
            depend on a recurrent layer, or a number is not finite.

    >>> import openlstm
    >>> looked = look(openlstm.LSTM(3, 5, num_layers=2, bidirectional=True), torch.zeros(7, 2, 3))
    >>> [place.name for place in looked.places]
    ['0', '0_reverse', '1', '1_reverse']
    """
    if not isinstance(model, nn.Module):
        got = f"model: {type(model).__name__}"
        raise DtypeError(message("look", "not a module", got, "a torch.nn.Module", "pass the model or the layer"))
    model = getattr(model, "_orig_mod", model)  # a compiled model does not hear hooks that come later
    found = recurrent(model, layers)
    data, loss, _ = formed(model, data, loss, "look")
    if loss is None:
        expect_taken(model, data, "look")
    args, named = _arguments(model, data, loss)
    with _untouched(model), Calls(found, gradients=loss is not None) as heard:
        model.eval()
        value, outputs = None, None
        with torch.set_grad_enabled(loss is not None):
            if loss is None:
                outputs = mapped(model(*args, **named), _detached)
            else:
                value = called(loss, model, args, named, lambda: any(heard.of.values()))
        silent = [path or "the layer" for path in found if not heard.of[path]]
        if silent:
            raise ArgumentError(
                message(
                    "look",
                    f"{silent[0]} did not run",
                    f"no call of {', '.join(silent)}",
                    "a call of the model that runs every recurrent layer",
                    "name those to look at with layers=..., or check the data: this layer is not reached",
                )
            )
        longest = {path: max(calls, key=lambda call: call.length) for path, calls in heard.of.items()}
        if value is not None:
            _differentiate(value, list(longest.values()))
        places: list[Place] = []
        for path, call in sorted(longest.items(), key=lambda item: item[1].number):
            for place, sound in places_of(path, call, len(heard.of[path]), loss is not None):
                if finite:
                    _expect_finite(place, sound)
                places.append(place)
    if layers is not None:
        wanted = [layers] if isinstance(layers, str) else list(layers)
        places = [p for p in places if p.name in wanted or p.path in wanted]
    return Looked(tuple(places), None if value is None else float(value.detach()), outputs)


def recurrent(model: nn.Module, layers: str | Sequence[str] | None = None) -> dict[str, nn.Module]:
    """The recurrent modules of a model by path; only those that `layers` names.

    Raises:
        ArgumentError: if there is none, or a name is unknown.
    """
    found: dict[str, nn.Module] = {path: m for path, m in model.named_modules() if isinstance(m, RECURRENT)}
    if not found:
        kinds = list(dict.fromkeys(type(m).__name__ for m in model.modules()))
        raise ArgumentError(
            message(
                "look",
                "no recurrent layer in this model",
                f"{type(model).__name__} with {', '.join(kinds[1:6]) or 'nothing inside'}",
                "a module that holds an LSTM, GRU or RNN of openlstm or torch.nn",
                "a cell driven by a loop of your own (LSTMCell) cannot be seen: use the layer instead",
            )
        )
    if layers is None:
        return found
    wanted = [layers] if isinstance(layers, str) else list(layers)
    kept: dict[str, nn.Module] = {}
    for name in wanted:
        paths = [path for path, m in found.items() if name == path or name in _names(path, m)]
        if not paths:
            there = [n for path, m in found.items() for n in _names(path, m)]
            raise ArgumentError(
                message("look", f"no layer {name!r}", f"layers={layers!r}", ", ".join(there), "use one of these names")
            )
        kept.update({path: found[path] for path in paths})
    return kept


class Heard:
    """One call of a recurrent module: what it was given, what it gave, and once it is known what the loss makes of that."""

    def __init__(self, module: nn.Module, number: int, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.module = module
        self.number = number  # in the order in which calls began
        given: dict[str, Any] = dict(inspect.signature(type(module).forward).bind(module, *args, **named).arguments)
        given.pop("self", None)
        self.given = given
        self.random = torch.get_rng_state() if module.training else None
        self.outputs: list[Any] = []  # y (or the data of a packed one), h_n, c_n
        self.gradients: list[Any] = [None, None, None]

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

    def hear(self, output: Any, gradients: bool) -> Any:
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
        return y, tuple(own[1:]) if isinstance(state, tuple) else own[1]


class Calls:
    """Hooks on recurrent modules that hear every call of them until the block ends.

    Args:
        modules: by path.
        gradients: note outputs that gradients can be taken of.
        training: hear only calls that gradients are wanted of, not those of a validation in between.
    """

    def __init__(self, modules: Mapping[str, nn.Module], *, gradients: bool, training: bool = False) -> None:
        self.of: dict[str, list[Heard]] = {path: [] for path in modules}
        self.gradients = gradients
        self.training = training
        self.number = 0
        self._modules = modules
        self._handles: list[Any] = []

    def __enter__(self) -> Calls:
        for path, module in self._modules.items():
            ear = _Ear(self, path)
            self._handles.append(module.register_forward_pre_hook(ear, with_kwargs=True))
            self._handles.append(module.register_forward_hook(ear, with_kwargs=True))
        return self

    def __exit__(self, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


class _Ear:
    """Both hooks of one module. A copy of a model, or one that is saved, hears nothing."""

    def __init__(self, calls: Calls, path: str) -> None:
        self.calls = calls
        self.path = path
        self.open: list[Any] = []

    def __call__(self, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], *output: Any) -> Any:
        calls, wanted = self.calls, torch.is_grad_enabled()
        if not output:
            calls.number += 1
            heard = not calls.training or wanted
            self.open.append(Heard(module, calls.number, args, named) if heard else None)
            return None
        call = self.open.pop()
        if call is None:
            return None
        calls.of[self.path].append(call)
        return call.hear(output[0], calls.gradients and wanted)

    def __reduce__(self) -> Any:
        return _Deaf, ()


class _Deaf:
    def __call__(self, *_: Any) -> None:
        return None


def places_of(path: str, call: Heard, calls: int, with_loss: bool) -> list[tuple[Place, bool]]:
    """Every direction of every layer of one call, and whether what it gave is finite.

    The module runs again with what it was given, and with a loss goes back from the gradients at its outputs to those of its
    inner layers. What torch.autocast rounded on the way there is as it was; here nothing is rounded any more.
    """
    layer = ours(call.module)
    own: Any = layer.weight_ih_l0
    floats = {name: _widened(call.given.get(name), own.dtype) for name in ("input", "hx", "reset_state")}
    given, spread, spread_state = _enter(layer, {**call.given, **floats})
    inner = layer.num_layers * layer.num_directions > 1 and with_loss
    with torch.random.fork_rng(devices=[]), torch.set_grad_enabled(inner), plain_types(own):
        if call.random is not None:
            torch.set_rng_state(call.random)
        given = given._replace(x=given.x.detach().requires_grad_(inner))
        y, state, ran = layer.run_layers(given)
    flows: list[tuple[Any, Any, Any]] = [(None, None, None)] * len(ran)
    if with_loss:
        dy, dh, dc = (
            None if g is None else f(g) for g, f in zip(call.gradients, (spread, spread_state, spread_state), strict=True)
        )
        if inner:
            flows = _inner(ran, [(y, dy), (state.h, dh), (state.c, dc)])
        else:
            flows = [(dy, None if dh is None else dh[0], None if dc is None else dc[0])]
            if dy is not None and dy.shape[-1] != ran[0].run.y.shape[-1]:  # FGR: y is the first of what is fed back
                flows[0] = (nn.functional.pad(dy, (0, ran[0].run.y.shape[-1] - dy.shape[-1])), *flows[0][1:])
    places = [
        _place(path, k, r, flow, layer, given, calls, with_loss) for k, (r, flow) in enumerate(zip(ran, flows, strict=True))
    ]
    sound = [all(bool(t.isfinite().all()) for t in (r.run.y, *r.run.state) if t is not None) for r in ran]
    return list(zip(places, sound, strict=True))


def _widened(a: Any, dtype: torch.dtype) -> Any:
    """What a layer of float32 was given in a half type, under autocast, as float32."""
    if isinstance(a, (tuple, list)) and not isinstance(a, PackedSequence):
        return tuple(_widened(one, dtype) for one in a)
    if isinstance(a, PackedSequence):
        return a._replace(data=_widened(a.data, dtype))
    half = isinstance(a, Tensor) and a.dtype in (torch.float16, torch.bfloat16)
    return a.to(dtype) if half else a


def ours(module: nn.Module) -> Recurrent:
    """A recurrent module as ours, with the very same parameters; hooks of the original stay there."""
    if isinstance(module, Recurrent):
        return module
    bare = copy.copy(module)
    for name in list(bare.__dict__):
        if name.endswith("_hooks") and isinstance(bare.__dict__[name], dict):
            bare.__dict__[name] = type(bare.__dict__[name])()
    return from_torch(bare)


def first_non_finite(place: Place) -> str | None:
    """Where the first NaN or infinity of a forward pass is: "lstm.0: gate o is nan at step 413, row 3, unit 7"; None if all
    is finite. A weight is named as such.
    """
    found = bad_weight(place)
    if found is not None:
        return found
    for part in place.forwards():
        found = first_bad(place, part.t0, part.saved)
        if found is not None:
            return found
    return None


def first_bad(place: Place, t0: int, saved: Saved) -> str | None:
    """The first NaN or infinity of one chunk, in the order in which it ran."""
    if all(bool(a.isfinite().all()) for a in (saved.gates, saved.c, saved.h) if a is not None):
        return None
    named = {f"gate {name}" if name in place.gates else name: a for name, a in saved.named(place.cell).items()}
    n = saved.h.shape[0]
    bad = {name: ~a.isfinite().flatten(1).all(1) for name, a in named.items()}  # [n] each
    steps = [t for t in (reversed(range(n)) if place.reverse else range(n)) if any(bool(b[t]) for b in bad.values())]
    if not steps:
        return None
    t = steps[0]
    name = next(name for name, b in bad.items() if b[t])
    b, unit = (~named[name][t].isfinite()).nonzero()[0].tolist()
    return f"{place.name}: {name} is {float(named[name][t, b, unit])} at step {t0 + t}, row {b}, unit {unit}"


def bad_weight(place: Place) -> str | None:
    """The first entry of a weight that is not finite, and of which gate it is."""
    for name, w in place.weights._asdict().items():
        if w is None or bool(w.isfinite().all()):
            continue
        at = (~w.isfinite()).nonzero()[0].tolist()
        gates = place.cell.peepholes if name == "w_ch" else () if name == "w_hr" else place.cell.gates
        if place.cell.cells_per_gate > 1:
            gates = ()  # blocks of other sizes
        gate = f", gate {gates[at[0] * len(gates) // w.shape[0]]}" if gates else ""
        own = name.replace("w_", "weight_").replace("b_", "bias_") + f"_l{place.index}{'_reverse' if place.reverse else ''}"
        return f"{place.name}: {own} holds {float(w[tuple(at)])} at {at}{gate}"
    return None


def _expect_finite(place: Place, sound: bool) -> None:
    """Raise where something is not finite; the forward pass runs again only to say where.

    Args:
        sound: whether outputs and final states are finite.
    """
    x = place.x
    if place.lengths is not None:
        real = torch.arange(place.steps, device=x.device)[:, None] < place.lengths
        x = torch.where(real[..., None], x, 0)
    if not bool(x.isfinite().all()):
        t, b, n = (~x.isfinite()).nonzero()[0].tolist()
        where = f"{place.name}: x holds {float(x[t, b, n])} at step {t}, row {b}, feature {n}"
        hint = "fill or mask missing values, or look at what stands in front of this layer"
        raise ArgumentError(message("look", where, "an input that is not finite", "finite numbers", hint))
    found = bad_weight(place) if sound else first_non_finite(place)
    if found is not None:
        hint = "a training that diverged: lower the learning rate, clip gradients, and begin again from an earlier checkpoint"
        raise ArgumentError(message("look", found, "the first number that is not finite", "finite numbers", hint))


def _names(path: str, module: Any) -> list[str]:
    front = f"{path}." if path else ""
    ends = ("", "_reverse") if module.bidirectional else ("",)
    return [f"{front}{k}{end}" for k in range(module.num_layers) for end in ends]


def _place(
    path: str, k: int, r: Pass, flow: tuple[Any, Any, Any], layer: Recurrent, given: Inputs, calls: int, with_loss: bool
) -> Place:
    index, reverse = divmod(k, layer.num_directions)
    call, end = r.call, r.run.state
    refuse_edits(call)
    dy, dh, dc = flow
    dstate = None
    if with_loss:
        dstate = State(
            torch.zeros_like(end.h).detach() if dh is None else dh.detach(),
            None if end.c is None else torch.zeros_like(end.c).detach() if dc is None else dc.detach(),
        )
    return Place(
        name=_names(path, layer)[k],
        path=path,
        index=index,
        reverse=bool(reverse),
        cell=layer.cell,
        weights=Weights(*(_free(w) for w in call.weights)),
        x=_free(call.x),
        state=State(*(_free(s) for s in call.state)),
        lengths=given.lengths,
        reset=given.reset,
        dy=None if dy is None else _free(dy),
        dstate=None if dstate is None else State(*(_free(s) for s in dstate)),
        backend=layer.backend,
        module=layer,
        reset_state=None if call.reset_state is None else State(*(_free(s) for s in call.reset_state)),
        noise=call.noise,
        calls=calls,
    )


def _free(a: Any) -> Any:
    """Without a graph, and where it is in half precision in single."""
    if a is None:
        return None
    a = a.detach()
    return a.float() if a.dtype in (torch.float16, torch.bfloat16) else a


def _inner(ran: list[Pass], outer: list[tuple[Any, Any]]) -> list[tuple[Any, Any, Any]]:
    """The gradients at what every layer and direction handed on, from those at the outputs of the module."""
    ends = [t for r in ran for t in (r.run.y, *r.run.state) if t is not None]
    roots = [(out, g.to(out.dtype)) for out, g in outer if out is not None and g is not None and out.requires_grad]
    if not roots:
        return [(None, None, None)] * len(ran)
    needed = [t for t in ends if t.requires_grad]
    found = torch.autograd.grad([out for out, _ in roots], needed, [g for _, g in roots], allow_unused=True)
    by_id = {id(t): g for t, g in zip(needed, found, strict=True)}
    return [tuple(None if t is None else by_id.get(id(t)) for t in (r.run.y, *r.run.state)) for r in ran]  # type: ignore[misc]


def _differentiate(value: Any, calls: list[Heard]) -> None:
    """Give every call the gradients of the loss at its outputs."""
    if not isinstance(value, Tensor) or value.dim() != 0:
        hint = "end the loss with .mean() or .sum(); it is called as loss(model, *data)"
        raise ArgumentError(
            message("look", "the loss is not a scalar", f"loss: {describe(value)}", "a tensor without axes", hint)
        )
    inputs = [t for call in calls for t in call.outputs]
    found = [None] * len(inputs)
    if value.requires_grad:
        found = list(torch.autograd.grad(value, inputs, allow_unused=True))
    if all(g is None for g in found):
        hint = "compute it from model(x), without detach(), item() or no_grad()"
        what = "the loss does not depend on a recurrent layer"
        raise ArgumentError(message("look", what, f"loss: {describe(value)}", "a loss computed from the model's output", hint))
    for call in calls:
        n = len(call.outputs)
        call.gradients = [*found[:n], *[None] * (3 - n)]
        del found[:n]


def _arguments(model: nn.Module, data: Any, loss: Loss | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments of the call."""
    if isinstance(data, Mapping):
        return (), dict(data)
    if isinstance(data, PackedSequence) or not isinstance(data, (tuple, list)):
        return (data,), {}
    return tuple(data[:1] if isinstance(model, RECURRENT) and loss is None else data), {}


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


def _detached(a: Any) -> Any:
    if isinstance(a, PackedSequence):
        return a._replace(data=a.data.detach())
    return a.detach() if isinstance(a, Tensor) else a


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Leave modes and random states as they are; cuDNN, which goes back in training mode only, is left out."""
    modes = [(m, m.training) for m in model.modules()]
    with torch.random.fork_rng(), torch.backends.cudnn.flags(enabled=False):
        try:
            yield
        finally:
            for m, mode in modes:
                m.training = mode
