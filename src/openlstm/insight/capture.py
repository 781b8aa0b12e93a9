"""`capture_layers`: every recurrent layer of a model, as one call of the model ran it.

What every diagnostic runs again is a `Place`: one direction of one layer with all that it was given, without the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from openlstm.errors import ArgumentError, describe
from openlstm.insight.batches import arguments, detached, expect_module, uncompiled, untouched
from openlstm.insight.calls import LayerCall, LayerCalls, layer_names
from openlstm.insight.finite import bad_input, bad_weight, first_non_finite
from openlstm.insight.place import Place
from openlstm.nn.batch import RECURRENT, called, expect_taken, formed


@dataclass(frozen=True, eq=False)
class Captured:
    """What `capture_layers` found: the places, the value of the loss, and what the model gave."""

    places: tuple[Place, ...]
    value: float | None  # of the loss
    outputs: Any  # of the model, without gradients; None if a loss called it

    def __getitem__(self, name: str) -> Place:
        for place in self.places:
            if place.name == name:
                return place
        raise KeyError(f"{name!r}; there is {', '.join(p.name for p in self.places)}")


def capture_layers(
    model: nn.Module, data: Any, loss: Any = None, *, layers: str | Sequence[str] | None = None, finite: bool = True
) -> Captured:
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
        `Captured(places, value, outputs)`, places in the order in which modules ran.

    Raises:
        DtypeError: if `model` is no module.
        ArgumentError: if it holds no recurrent layer, one did not run, a name is unknown, the loss is no scalar or does not
            depend on a recurrent layer, or a number is not finite.

    >>> import openlstm
    >>> looked = capture_layers(openlstm.LSTM(3, 5, num_layers=2, bidirectional=True), torch.zeros(7, 2, 3))
    >>> [place.name for place in looked.places]
    ['0', '0_reverse', '1', '1_reverse']
    """
    expect_module(model, "capture_layers", "pass the model or the layer")
    model = uncompiled(model)
    found = recurrent_layers(model, layers)
    data, loss, _ = formed(model, data, loss, "capture_layers")
    if loss is None:
        expect_taken(model, data, "capture_layers")
    args, named = arguments(model, data, loss)
    with untouched(model), LayerCalls(found, gradients=loss is not None) as calls:
        value, outputs = None, None
        with torch.set_grad_enabled(loss is not None):
            if loss is None:
                outputs = detached(model(*args, **named), half=False)
            else:
                value = called(loss, model, args, named, lambda: any(calls.of.values()))
        silent = [path or "the layer" for path in found if not calls.of[path]]
        if silent:
            what, got = f"{silent[0]} did not run", f"no call of {', '.join(silent)}"
            hint = "name those to look at with layers=..., or check the data: this layer is not reached"
            raise ArgumentError.of("capture_layers", what, got, "a call of every recurrent layer", hint)
        longest = calls.longest()
        if value is not None:
            _differentiate(value, list(longest.values()))
        seen = calls.places(longest, loss is not None)
        for place, sound in seen if finite else ():
            _expect_finite(place, sound)
        places = [place for place, _ in seen]
    if layers is not None:
        wanted = [layers] if isinstance(layers, str) else list(layers)
        places = [p for p in places if p.name in wanted or p.path in wanted]
    return Captured(tuple(places), None if value is None else float(value.detach()), outputs)


def recurrent_layers(model: nn.Module, layers: str | Sequence[str] | None = None) -> dict[str, nn.Module]:
    """The recurrent modules of a model by path; only those that `layers` names.

    Raises:
        ArgumentError: if there is none, or a name is unknown.
    """
    found: dict[str, nn.Module] = {path: m for path, m in model.named_modules() if isinstance(m, RECURRENT)}
    if not found:
        kinds = list(dict.fromkeys(type(m).__name__ for m in model.modules()))
        got = f"{type(model).__name__} with {', '.join(kinds[1:6]) or 'nothing inside'}"
        expected = "a module that holds an LSTM, GRU or RNN of openlstm or torch.nn"
        hint = "a cell driven by a loop of your own (LSTMCell) cannot be seen: use the layer instead"
        raise ArgumentError.of("capture_layers", "no recurrent layer in this model", got, expected, hint)
    if layers is None:
        return found
    wanted = [layers] if isinstance(layers, str) else list(layers)
    kept: dict[str, nn.Module] = {}
    for name in wanted:
        paths = [path for path, m in found.items() if name == path or name in layer_names(path, m)]
        if not paths:
            there = [n for path, m in found.items() for n in layer_names(path, m)]
            got, hint = f"layers={layers!r}", "use one of these names"
            raise ArgumentError.of("capture_layers", f"no layer {name!r}", got, ", ".join(there), hint)
        kept.update({path: found[path] for path in paths})
    return kept


def _expect_finite(place: Place, sound: bool) -> None:
    """Raise where something is not finite; the forward pass runs again only to say where.

    Args:
        sound: whether outputs and final states are finite.
    """
    found, got = bad_input(place), "an input that is not finite"
    hint = "fill or mask missing values, or look at what stands in front of this layer"
    if found is None:
        found, got = bad_weight(place) if sound else first_non_finite(place), "the first number that is not finite"
        hint = "a training that diverged: lower the learning rate, clip gradients, and begin again from an earlier checkpoint"
    if found is not None:
        raise ArgumentError.of("capture_layers", found, got, "finite numbers", hint)


def _differentiate(value: Any, calls: list[LayerCall]) -> None:
    """Give every call the gradients of the loss at its outputs."""
    if not isinstance(value, Tensor) or value.dim() != 0:
        got, hint = f"loss: {describe(value)}", "end the loss with .mean() or .sum(); it is called as loss(model, *data)"
        raise ArgumentError.of("capture_layers", "the loss is not a scalar", got, "a tensor without axes", hint)
    inputs = [t for call in calls for t in call.outputs]
    found = [None] * len(inputs)
    if value.requires_grad:
        found = list(torch.autograd.grad(value, inputs, allow_unused=True))
    if all(g is None for g in found):
        what, got = "the loss does not depend on a recurrent layer", f"loss: {describe(value)}"
        hint = "compute it from model(x), without detach(), item() or no_grad()"
        raise ArgumentError.of("capture_layers", what, got, "a loss computed from the model's output", hint)
    for call in calls:
        n = len(call.outputs)
        call.gradients = list(found[:n])
        del found[:n]
