"""`trace`: the gates, states and per-step gradients of a layer, or of every layer of a model, as its kernel saved them.

Legend: T time, B batch, H hidden size, R what is fed back (P with a projection, else H), N sequences.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence, pad_sequence
from torch.utils._pytree import tree_map_only

from openlstm.engine.autograd import step_gradients
from openlstm.errors import ArgumentError, DtypeError, describe
from openlstm.nn import checks, models
from openlstm.nn.batch import formed, takes
from openlstm.nn.form import Form, Inputs, enter_sequences
from openlstm.nn.models import Twin
from openlstm.nn.recurrent import Pass, Recurrent
from openlstm.reference import State


class Trace(Mapping[str, Tensor]):
    """What layers did, by name: `0.f` is the forget gate of layer 0, `0_reverse.c` its cell states in the reverse direction.

    In a model the path of the module stands in front, as for `openlstm.edit`: `encoder.lstm.0.f`; of a module that ran more
    than once the number of the call too: `encoder.lstm[0].0.f`. A module in several places goes by the first of its names.

    Every array is [T, B, H] ([B, T, H] with batch_first, [T, H] unbatched; `h` has P units with a projection); past a row's
    length it is 0. Packed sequences are shown padded. A layer of FGR cells, which feeds its gates back, has `di`, `df` and `do`
    beside `dh`.

    Attributes:
        y: the outputs of the layer, or of the model, as it returns them.
        state: the final state of a layer, as it returns it; None for a model.
        loss: the value of the loss, None if none was given.
    """

    def __init__(self, arrays: dict[str, Tensor], y: Any, state: Any, loss: Tensor | None, title: str) -> None:
        self._arrays = arrays
        self.y = y
        self.state = state
        self.loss = loss
        self._title = title

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._arrays:
            raise KeyError(f"{name!r}; this trace has {', '.join(self._arrays)}")
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def layer(self, index: int = 0, *, reverse: bool = False, path: str = "") -> dict[str, Tensor]:
        """The arrays of one layer and direction by their short names: `trace.layer(0)["f"]`, in a model with the path.

        Raises:
            ArgumentError: for a layer or direction that is not there.
        """
        place = f"{path}." * bool(path) + f"{index}" + "_reverse" * reverse
        split = [(*name.rsplit(".", 1), a) for name, a in self._arrays.items()]
        found = {short: a for there, short, a in split if there == place}
        if not found:
            places = ", ".join(dict.fromkeys(there for there, _, _ in split))
            hint = "layers count from 0; reverse=True needs bidirectional; path= names a module of a model"
            raise ArgumentError.of("Trace.layer", f"no layer {place!r}", place, places, hint)
        return found

    def __repr__(self) -> str:
        lines: dict[str, str] = {}
        for name, a in self._arrays.items():
            place, short = name.rsplit(".", 1)
            start = lines.get(place, f"  {place:<10} {list(a.shape)} {str(a.dtype).removeprefix('torch.')} ")
            lines[place] = f"{start} {short}"
        return "\n".join([f"Trace of {self._title}", *lines.values()])


def trace(
    model: nn.Module,
    x: Any,
    hx: Any = None,
    *,
    lengths: Any = None,
    reset: Tensor | None = None,
    reset_state: Any = None,
    loss: Callable[..., Tensor] | None = None,
    differentiable: bool = False,
) -> Trace:
    """Call a layer or a model and keep what the kernels saved: gates, cell states, hidden states, with a loss their gradients.

    Args:
        model: openlstm.LSTM, GRU or RNN, one of torch.nn, or any module that holds some; in its own mode, so that dropout acts
            while it trains.
        x: the input of a layer (a PackedSequence is shown padded); of a model its input, a tuple of inputs, or a dict of
            keywords.
        hx, lengths, reset, reset_state: as in a call of a layer; not for a model, which hands them to its layers itself.
        loss: a scalar of what the call returned: `loss(y, state)` for a layer, `loss(output)` for a model, `loss(a, b)` for
            one that returns a tuple; or, with a target behind the inputs of `x`, in any form that `openlstm.xray` takes. Adds
            `dh` and `dc` = dL/dh_t and dL/dc_t for every step. (h_t, c_t) are independent coordinates of the state after step
            t: dL/dc_t is what flows along the highway, dL/dh_t what flows through outputs and later steps.
        differentiable: arrays carry gradients (through the reference, slower); without it they carry none.

    Returns:
        A `Trace`; no weight changes and no `.grad` is written. Layers that the model did not run are not in it.

    Raises:
        DtypeError: for something that is not a module.
        ArgumentError: for a model without recurrent layers or one that runs none of them, arguments of a layer for a model, a
            loss that is not a scalar, or a subclass of torch.nn's layers with a forward of its own.

    >>> import torch, openlstm
    >>> t = openlstm.trace(openlstm.LSTM(3, 5), torch.zeros(7, 2, 3), loss=lambda y, state: state[1].sum())
    >>> list(t)
    ['0.i', '0.f', '0.g', '0.o', '0.c', '0.h', '0.dh', '0.dc']
    >>> bool((t["0.dc"][-1] == 1).all())
    True
    >>> model = torch.nn.ModuleDict({"rnn": torch.nn.GRU(3, 5)})
    >>> model.forward = lambda x: model["rnn"](x)[0]
    >>> list(openlstm.trace(model, torch.zeros(7, 2, 3)))
    ['rnn.0.r', 'rnn.0.z', 'rnn.0.n', 'rnn.0.m', 'rnn.0.h']
    """
    if not isinstance(model, nn.Module):
        got, hint = f"model: {type(model).__name__}", "pass the model or its recurrent layer"
        raise DtypeError.of("trace", "not a module", got, "a torch.nn.Module", hint)
    model = getattr(model, "_orig_mod", model)  # what torch.compile made of a model is not called, but the model itself
    found = _found(model)
    alone = found[0][0] == ""
    given = _with_target(model, x, loss)
    named: dict[str, Any] = {"hx": hx, "lengths": lengths, "reset": reset, "reset_state": reset_state}
    named = {name: value for name, value in named.items() if value is not None}
    args: tuple[Any, ...] = ()
    if given is not None:
        _expect_alone(model, named)
    elif alone:
        if isinstance(x, PackedSequence):
            checks.no_lengths("trace", lengths)
            x, named["lengths"] = pad_packed_sequence(x, batch_first=found[0][1].batch_first)
        args = (x,)
    else:
        args, named = _inputs(model, x, named)
    with torch.set_grad_enabled(differentiable or loss is not None), _heard(found, loss is not None, differentiable) as heard:
        out, value = (model(*args, **named), None) if given is None else _lost(model, *given)
        if not heard:
            paths = ", ".join(path for path, _ in found)
            hint = "check the inputs: this call of the model reaches none of them"
            raise ArgumentError.of("trace", "no recurrent layer ran", f"no call of {paths}", "a call of one", hint)
        if given is not None:
            value = _scalar(value, "model, *data")
        elif loss is not None:
            value = _scalar(loss(*out) if type(out) is tuple else loss(out), "y, state" if alone else "output")
        arrays = _arrays(heard, value, differentiable)
    if value is not None and not differentiable:
        out, value = tree_map_only(Tensor, Tensor.detach, (out, value))
    y, state = out if alone and out is not None else (out, None)
    return Trace(arrays, y, state, value, repr(model) if alone else type(model).__name__)


class _Heard(NamedTuple):
    """One call of a layer."""

    path: str
    layer: Recurrent
    passes: list[Pass]
    arrange: Callable[[Tensor], Tensor]  # an array [T, B, .] of the kernel as the layer's input lies


class _Recorder:
    """What a layer shows its passes to while a trace is made."""

    def __init__(self, path: str, layer: Recurrent, calls: list[_Heard], gradients: bool, differentiable: bool) -> None:
        self.path, self.layer, self.calls = path, layer, calls
        self.gradients, self.differentiable = gradients, differentiable
        self.arrange: Any = None
        self.back: Any = None

    def given(self, given: Inputs) -> Inputs:
        """What the layer runs on: with gradients a graph, also where every weight is frozen."""
        if self.gradients and torch.is_grad_enabled() and not given.x.requires_grad:
            return given._replace(x=given.x.detach().requires_grad_())
        return given

    def keep(self, y: Tensor, state: State, passes: list[Pass]) -> tuple[Tensor, State, list[Pass]]:
        """Note what ran; the layer goes on with copies, so that whatever writes into them changes nothing here."""
        self.calls.append(_Heard(self.path, self.layer, passes, self.arrange))
        return y.clone(), State(*(None if s is None else s.clone() for s in state)), passes

    def enter(self, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Before a call: note the form of the input; sequences one behind the other become rows."""
        x, *rest = args if args else (named.pop("input", None),)
        self.back = None
        if named.get("cu_seqlens") is not None:
            x, named = self._rows(x, rest, named)
        form = Form(True, self.layer.batch_first) if isinstance(x, PackedSequence) else Form.of(self.layer, x)
        order = x.unsorted_indices if isinstance(x, PackedSequence) else None
        self.arrange = lambda a: form.leave(a if order is None else a.index_select(1, order))
        return (x, *rest), named

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """After a call: rows become sequences one behind the other again."""
        return output if self.back is None else (self.back(output[0]), output[1])

    def _rows(self, x: Any, rest: list[Any], named: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        layer = self.layer
        hx = rest[0] if rest else named.get("hx")
        ends, lengths, reset, fresh = (named.pop(name, None) for name in ("cu_seqlens", "lengths", "reset", "reset_state"))
        given, _, real = enter_sequences(layer, x, hx, lengths, reset, fresh, ends)
        sizes = real.tolist()

        def padded(a: Tensor) -> Tensor:
            rows = pad_sequence(list(a.split(sizes)) or [a])[:, : len(sizes)]
            return rows.transpose(0, 1) if layer.batch_first else rows

        def joined(y: Tensor) -> Tensor:
            rows = y if layer.batch_first else y.transpose(0, 1)
            return torch.cat([row[:size] for row, size in zip(rows, sizes, strict=True)]) if sizes else y.flatten(0, 1)

        self.back = joined
        reset = None if given.reset is None else padded(given.reset)
        return padded(given.x), {**named, "lengths": real, "reset": reset, "reset_state": fresh}


@contextmanager
def _heard(found: list[tuple[str, Any]], gradients: bool, differentiable: bool) -> Iterator[list[_Heard]]:
    """Have every layer keep what its kernels save, until the block ends."""
    calls: list[_Heard] = []
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # a part of the model that is compiled runs as it is written
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for path, module in found:
            layer = module
            if not isinstance(module, Recurrent):
                twin = vars(module).get("forward")  # an edit's
                if not isinstance(twin, Twin):
                    models.expect_plain("trace", path or "model", module)
                    twin = vars(module)["forward"] = Twin(module)
                    stack.callback(vars(module).pop, "forward")
                layer = twin.twin
            recorder = _Recorder(path, layer, calls, gradients, differentiable)
            vars(layer)["_recorder"] = recorder
            stack.callback(vars(layer).pop, "_recorder", None)
            stack.callback(module.register_forward_pre_hook(recorder.enter, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(recorder.leave, prepend=True).remove)
        yield calls


def _found(model: nn.Module) -> list[tuple[str, Any]]:
    """The recurrent layers of a model and their paths."""
    found = models.layers(model)
    if found:
        return found
    kinds = list(dict.fromkeys(type(m).__name__ for m in model.modules()))[1:7]
    got, compiled = f"{type(model).__name__} with {', '.join(kinds) or 'nothing inside'}", models.scripted(model)
    hint = "a cell driven by a loop of your own (LSTMCell) cannot be seen: use the layer instead"
    if compiled:
        got, hint = f"TorchScript: {', '.join(compiled)}", "pass the model as it was before torch.jit.script or torch.jit.trace"
    expected = "LSTM, GRU or RNN of openlstm or torch.nn inside"
    raise ArgumentError.of("trace", "no recurrent layer in the model", got, expected, hint)


def _inputs(model: nn.Module, x: Any, named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments of a call of a model."""
    _expect_alone(model, named)
    if isinstance(x, Mapping):
        return (), dict(x)
    return x if type(x) is tuple else (x,), {}


def _with_target(model: nn.Module, x: Any, loss: Any) -> tuple[tuple[Any, ...], Any] | None:
    """Data and loss as `xray` takes them, where `x` is more than the model takes, or the loss wants more than its output."""
    if loss is None or takes(model, x, loss):
        return None
    data, whole, _ = formed(model, x, loss, "trace")
    return tuple(data), whole


def _lost(model: nn.Module, data: tuple[Any, ...], loss: Any) -> tuple[Any, Any]:
    """What the model gave, and the loss, called with the model and the data."""
    gave: list[Any] = [None]
    handle = model.register_forward_hook(lambda module, args, out: gave.append(out))
    try:
        value = loss(model, *data)
    finally:
        handle.remove()
    return gave[-1], value


def _expect_alone(model: nn.Module, named: Mapping[str, Any]) -> None:
    """A model hands lengths and states to its layers itself."""
    if named:
        got, hint = f"{', '.join(named)} for {type(model).__name__}", "pass what the model takes, several in a tuple or a dict"
        raise ArgumentError.of("trace", "a model has no such argument", got, "the inputs of the model alone", hint)


def _scalar(value: Any, of: str) -> Tensor:
    if isinstance(value, Tensor) and value.dim() == 0 and value.requires_grad:
        return value
    raise ArgumentError.of(
        "trace",
        "the loss is not a scalar that depends on the layer",
        f"loss({of}): {describe(value)}",
        f"a tensor without axes, computed from {of.replace(',', ' or')}",
        "end the loss with .sum() or .mean(), without detach() or item()",
    )


def _arrays(heard: list[_Heard], value: Tensor | None, differentiable: bool) -> dict[str, Tensor]:
    """Everything by name, in the form of each layer's input."""
    gradients = None if value is None else iter(_step_gradients(heard, value, differentiable))
    often = [call.path for call in heard]
    numbers = dict.fromkeys(often, 0)
    out: dict[str, Tensor] = {}
    for call in heard:
        front = f"{call.path}[{numbers[call.path]}]" if often.count(call.path) > 1 else call.path
        numbers[call.path] += 1
        for k, done in enumerate(call.passes):
            layer, reverse = divmod(k, call.layer.num_directions)
            place = f"{front}." * bool(front) + f"{layer}" + "_reverse" * reverse
            group = _named(call.layer, done) | ({} if gradients is None else next(gradients))
            out |= {f"{place}.{name}": call.arrange(a if differentiable else a.detach()) for name, a in group.items()}
    return out


def _named(layer: Recurrent, done: Pass) -> dict[str, Tensor]:
    assert done.run.saved is not None
    arrays = done.run.saved.named(layer.cell)
    if len(layer.cell.feeds_back) > 1:  # behind h are the gates, which are there already
        arrays["h"] = arrays["h"][..., : layer.hidden_size]
    return arrays


def _step_gradients(heard: list[_Heard], value: Tensor, differentiable: bool) -> list[dict[str, Tensor]]:
    """dL/dh_t and dL/dc_t of every layer: autograd down to the outputs of each, then through time by the kernel's backward."""
    every = [(call.layer.cell, done) for call in heard for done in call.passes]
    ends = [t for _, done in every for t in (done.run.y, *done.run.state) if t is not None]
    needed = [t for t in ends if t.requires_grad]
    found = torch.autograd.grad(value, needed, allow_unused=True, create_graph=differentiable, materialize_grads=True)
    by_id = {id(t): g for t, g in zip(needed, found, strict=True)}
    out: list[dict[str, Tensor]] = []
    for cell, (call, run) in every:
        dy, dh, dc = (by_id.get(id(t)) for t in (run.y, *run.state))
        dh_t, dc_t = step_gradients(call, run, dy, State(dh, dc))
        fed_back = dh_t.split(dh_t.shape[-1] // len(cell.feeds_back), -1)
        named = {f"d{block}": g for block, g in zip(cell.feeds_back, fed_back, strict=True)}
        if dc_t is not None:
            named |= {f"d{name}": g for name, g in zip(cell.states, dc_t.chunk(len(cell.states), -1), strict=True)}
        out.append(named)
    return out
