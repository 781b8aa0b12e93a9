"""`trace`: the gates, states and per-step gradients of a layer, from the tensors that the kernel saved.

Legend: T time, B batch, H hidden size, R what is fed back (P with a projection, else H).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from openlstm._errors import ArgumentError, DtypeError, describe, message
from openlstm.engine.op import Ran, sequence, sequence_by_reference, step_gradients
from openlstm.nn import checks
from openlstm.nn.form import Arguments, Form
from openlstm.nn.recurrent import Recurrent
from openlstm.nn.replace import from_torch
from openlstm.reference import Saved, State


class Trace(Mapping[str, Tensor]):
    """What a layer did, by name: `0.f` is the forget gate of layer 0, `0_reverse.c` its cell states in the reverse direction.

    Every array is [T, B, H] ([B, T, H] with batch_first, [T, H] unbatched; `h` has P units with a projection); past a row's
    length it is 0. A layer of FGR cells, which feeds its gates back, has `di`, `df` and `do` beside `dh`.

    Attributes:
        y: the outputs of the last layer, as the layer returns them.
        state: the final state, as the layer returns it.
        loss: the value of the loss, None if none was given.
    """

    def __init__(self, arrays: dict[str, Tensor], y: Tensor, state: Any, loss: Tensor | None, title: str) -> None:
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

    def layer(self, index: int = 0, *, reverse: bool = False) -> dict[str, Tensor]:
        """The arrays of one layer and direction by their short names: `trace.layer(0)["f"]`.

        Raises:
            ArgumentError: for a layer or direction that is not there.
        """
        place = f"{index}_reverse" if reverse else f"{index}"
        found = {name.split(".")[1]: a for name, a in self._arrays.items() if name.split(".")[0] == place}
        if not found:
            places = ", ".join(dict.fromkeys(name.split(".")[0] for name in self._arrays))
            raise ArgumentError(
                message(
                    "Trace.layer", f"no layer {place!r}", place, places, "layers count from 0; reverse=True needs bidirectional"
                )
            )
        return found

    def __repr__(self) -> str:
        lines: dict[str, str] = {}
        for name, a in self._arrays.items():
            place, short = name.split(".")
            start = lines.get(place, f"  {place:<10} {list(a.shape)} {str(a.dtype).removeprefix('torch.')} ")
            lines[place] = f"{start} {short}"
        return "\n".join([f"Trace of {self._title}", *lines.values()])


def trace(
    layer: nn.Module,
    x: Any,
    hx: Any = None,
    *,
    lengths: Any = None,
    reset: Tensor | None = None,
    reset_state: Any = None,
    loss: Callable[[Tensor, Any], Tensor] | None = None,
    differentiable: bool = False,
) -> Trace:
    """Run a layer and keep what its kernel saved: gates, cell states, hidden states, and with a loss their gradients.

    Args:
        layer: openlstm.LSTM, GRU or RNN, or a plain one of torch.nn; in its own mode, so that dropout acts while it trains.
        x, hx, lengths, reset, reset_state: as in a call of the layer; a PackedSequence is shown padded.
        loss: `loss(y, state) -> scalar`; adds `dh` and `dc` = dL/dh_t and dL/dc_t for every step. (h_t, c_t) are independent
            coordinates of the state after step t: dL/dc_t is what flows along the highway, dL/dh_t what flows through outputs
            and later steps.
        differentiable: arrays carry gradients (through the reference, slower); without it they carry none.

    Returns:
        A `Trace`; nothing in the layer changes and no `.grad` is written.

    Raises:
        DtypeError: for another kind of layer.
        ArgumentError: for a loss that is not a scalar.

    >>> import torch, openlstm
    >>> t = openlstm.trace(openlstm.LSTM(3, 5), torch.zeros(7, 2, 3), loss=lambda y, state: state[1].sum())
    >>> list(t)
    ['0.i', '0.f', '0.g', '0.o', '0.c', '0.h', '0.dh', '0.dc']
    >>> bool((t["0.dc"][-1] == 1).all())
    True
    """
    layer = _recurrent(layer)
    if isinstance(x, PackedSequence):
        checks.no_lengths("trace", lengths)
        x, lengths = pad_packed_sequence(x, batch_first=layer.batch_first)
    form = Form.of(layer, x)
    with torch.set_grad_enabled(differentiable or loss is not None):
        given = form.enter(layer, x, hx, lengths, reset, reset_state)
        if not differentiable:  # a graph of its own, which is there even where every weight is frozen
            given = given._replace(x=given.x.detach().requires_grad_(loss is not None))
        run = sequence_by_reference if differentiable else sequence
        y, state, ran = layer.layers(given, save=True, run=run)
        y, state = form.leave(y), form.leave_state(state)
        out = (state.h, state.c) if layer.cell.has_cell else state.h
        value = None if loss is None else _scalar(loss(y, out))
        named = [_named(layer, r) for r in ran]
        if value is not None:
            gradients = _step_gradients(layer, ran, value, given, differentiable)
            named = [{**arrays, **more} for arrays, more in zip(named, gradients, strict=True)]
    finish = (lambda a: a) if differentiable else torch.Tensor.detach
    places = [f"{k // layer.num_directions}" + ("_reverse" if k % layer.num_directions else "") for k in range(len(ran))]
    arrays = {
        f"{place}.{name}": finish(form.leave(a))
        for place, group in zip(places, named, strict=True)
        for name, a in group.items()
    }
    state = (finish(state.h), finish(state.c)) if state.c is not None else finish(state.h)
    return Trace(arrays, finish(y), state, None if value is None else finish(value), repr(layer))


def _recurrent(layer: Any) -> Recurrent:
    if isinstance(layer, Recurrent):
        return layer
    if isinstance(layer, (nn.LSTM, nn.GRU, nn.RNN)):
        return from_torch(layer)
    raise DtypeError(
        message(
            "trace",
            "cannot look into this layer",
            f"layer: {type(layer).__name__}",
            "LSTM, GRU or RNN of openlstm or torch.nn",
            "pass the recurrent layer inside the model",
        )
    )


def _scalar(value: Any) -> Tensor:
    if isinstance(value, Tensor) and value.dim() == 0 and value.requires_grad:
        return value
    raise ArgumentError(
        message(
            "trace",
            "the loss is not a scalar that depends on the layer",
            f"loss(y, state): {describe(value)}",
            "a tensor without axes, computed from y or state",
            "end the loss with .sum() or .mean(), without detach() or item()",
        )
    )


def _named(layer: Recurrent, ran: Ran) -> dict[str, Tensor]:
    r = ran.result
    saved = Saved(r.y, r.gates if layer.cell.saved else None, r.c if layer.cell.has_cell else None)
    arrays = saved.named(layer.cell)
    if len(layer.cell.feeds_back) > 1:  # behind h are the gates, which are there already
        arrays["h"] = arrays["h"][..., : layer.hidden_size]
    return arrays


def _step_gradients(
    layer: Recurrent, ran: list[Ran], value: Tensor, given: Arguments, differentiable: bool
) -> list[dict[str, Tensor]]:
    """dL/dh_t and dL/dc_t of every layer: autograd down to the outputs of each, then through time by the kernel's backward."""
    ends = [t for r in ran for t in r.result[:3] if t is not None]  # c_n is None for a cell without a highway
    needed = [t for t in ends if t.requires_grad]
    found = torch.autograd.grad(value, needed, allow_unused=True, create_graph=differentiable, materialize_grads=True)
    by_id = {id(t): g for t, g in zip(needed, found, strict=True)}
    out: list[dict[str, Tensor]] = []
    for r in ran:
        dy, dh, dc = (by_id.get(id(t)) for t in r.result[:3])
        options = {"lengths": given.lengths, "reset": given.reset, "backend": layer.backend, "differentiable": differentiable}
        steps = step_gradients(layer.cell, r, dy, State(dh, dc), **options)
        fed_back = steps[0].split(steps[0].shape[-1] // len(layer.cell.feeds_back), -1)
        named = {f"d{block}": g for block, g in zip(layer.cell.feeds_back, fed_back, strict=True)}
        out.append(named if steps[1] is None else {**named, "dc": steps[1]})
    return out
