"""`edit`: a model run with a gate, a cell state or an output held, scaled or switched off; afterwards nothing is left behind.

For a value s of one step, by name and by unit:

    clamp=v     s' = v
    scale=v     s' = v s
    ablate      s' = 0
    freeze      s' = s at the first step of the row's sequence: that of the call, and anew after every reset

What is changed is what the step goes on with: a clamped forget gate keeps, an ablated c is neither shown nor carried. `h` is
what a layer puts out and feeds back, after a projection. A state that is carried in is left as it came, and zoneout acts after
an edit.

The layer runs on the readable reference meanwhile, and the change is put between the operations of the cell's own `forward`
(`engine/edits.py`), so that no equation is written twice and a cell of your own can be edited too. The edits are an attribute
of the layer, which puts them into its calls; it is taken away at the end. Layers of torch.nn run as ours, on their own
parameters.

Source: the idea of run, edit and run again by flat names is that of TransformerLens and nnsight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from torch import nn

from openlstm.engine.edits import Edit
from openlstm.errors import ArgumentError, DtypeError
from openlstm.nn import models
from openlstm.nn.models import Twin
from openlstm.nn.recurrent import Recurrent

M = TypeVar("M", bound=nn.Module)


def edit(
    model: M,
    name: str,
    *,
    clamp: float | None = None,
    scale: float | None = None,
    freeze: bool = False,
    ablate: bool = False,
    units: int | Sequence[int] | None = None,
) -> AbstractContextManager[M]:
    """Inside `with edit(...)` the model runs with one of its gates or states changed, forward and backward.

    Args:
        model: any module with layers of openlstm (with any cell) or torch.nn's LSTM, GRU and RNN inside, or such a layer.
        name: the path of the layer, then the name in its trace: "lstm.0.f", "encoder.rnn.1_reverse.c"; of a bare layer "0.f".
        clamp, scale, freeze, ablate: one of them, as the module says.
        units: the units to change, all if None.

    Edits nest; those of one name act in the order in which they were entered. A trace inside shows what was changed.

    Returns:
        A context manager that gives the model.

    Raises:
        DtypeError: for something that is not a module.
        ArgumentError: for a name that is not there (all that are, are listed), a module without recurrent layers, none or
            several changes, a value that is not finite, a unit that is not there, or a subclass of torch.nn's layers.

    >>> import torch, openlstm
    >>> lstm, x, held = openlstm.LSTM(3, 2), torch.ones(7, 1, 3), torch.tensor([[[0.5, -2.0]]])
    >>> with edit(lstm, "0.f", clamp=1.0), edit(lstm, "0.i", clamp=0.0):
    ...     _, (h, c) = lstm(x, (held * 0, held))
    >>> bool((c == held).all())  # the cell is kept for ever
    True
    """
    _module(model)
    layer, place, array, size = _find(model, name)
    change = Edit(name, place, array, *_operation(name, clamp, scale, freeze, ablate), _units(name, units, size))
    if _layer(layer) is None:
        models.expect_plain("edit", name, layer)
    return _changed(model, layer, change)


def names(model: nn.Module) -> tuple[str, ...]:
    """Every name that `edit` knows in a model.

    >>> import torch
    >>> names(torch.nn.Sequential(torch.nn.GRU(3, 5)))
    ('0.0.r', '0.0.z', '0.0.n', '0.0.m', '0.0.h')
    """
    _module(model)
    found = models.layers(model, every_path=True)
    return tuple(f"{path}.{short}" if path else short for path, layer in found for short in models.names(layer))


def edits(model: nn.Module) -> tuple[str, ...]:
    """The names that are changed now, in the order in which they were entered; () outside every `edit`."""
    found = [_layer(layer) for _, layer in models.layers(model)]
    return tuple(e.name for e in dict.fromkeys(edit for layer in found if layer is not None for edit in layer._edits))


@contextmanager
def _changed(model: M, layer: nn.Module, change: Edit) -> Iterator[M]:
    ours = _layer(layer)
    if ours is None:
        twin = vars(layer)["forward"] = Twin(layer)
        layer._buffers[_MARK] = None
        ours = twin.twin
    vars(ours)["_edits"] = (*ours._edits, change)
    try:
        yield model
    finally:
        left = tuple(edit for edit in ours._edits if edit is not change)
        vars(ours)["_edits"] = left
        if not left:
            del vars(ours)["_edits"]
            if ours is not layer:
                vars(layer).pop("forward", None)
                layer._buffers.pop(_MARK, None)


def _layer(layer: nn.Module) -> Any:
    """The layer that runs: one of torch.nn as ours, while it is edited; None where there is none yet."""
    if isinstance(layer, Recurrent):
        return layer
    found = vars(layer).get("forward")
    return found.twin if isinstance(found, Twin) else None


_MARK = "edited"
"""An empty buffer, which no state_dict holds: whoever would convert a layer of torch.nn refuses it while it is edited."""


def _find(model: nn.Module, name: Any) -> tuple[Any, int, str, int]:
    """The layer, the number of its layer and direction, the short name, and how many units there are."""
    found = models.layers(model, every_path=True)
    if not found:
        got, hint = f"model: {type(model).__name__}", "pass the model that holds the recurrent layer, or the layer itself"
        raise ArgumentError.of("edit", "no recurrent layer in the model", got, "LSTM, GRU or RNN inside", hint)
    for path, layer in found:
        for short in models.names(layer):
            if name == (f"{path}.{short}" if path else short):
                place, array = short.split(".")
                index, end = int(place.removesuffix("_reverse")), place.endswith("_reverse")
                size = getattr(layer, "proj_size", 0) or layer.hidden_size if array == "h" else layer.hidden_size
                return layer, index * (2 if layer.bidirectional else 1) + end, array, size
    hint = "the path of the layer, its number, and a gate, c or h: the names of openlstm.trace"
    raise ArgumentError.of("edit", f"there is no {name!r} in the model", repr(name), ", ".join(names(model)), hint)


def _operation(name: str, clamp: Any, scale: Any, freeze: Any, ablate: Any) -> tuple[str, float]:
    """What to do and with which number."""
    given = {"clamp": clamp, "scale": scale, "freeze": freeze or None, "ablate": ablate or None}
    asked = {key: value for key, value in given.items() if value is not None}
    if len(asked) != 1:
        got = ", ".join(f"{key}={value!r}" for key, value in asked.items()) or "none"
        what = f"{name} with {'no change' if not asked else 'several changes'}"
        hint = "several edits nest: with edit(...), edit(...):" if asked else "clamp=1.0, say"
        raise ArgumentError.of("edit", what, got, "one of clamp=, scale=, freeze=True, ablate=True", hint)
    ((kind, value),) = asked.items()
    if kind in ("freeze", "ablate"):
        if value is not True:
            hint = f"{kind}=True; clamp=v sets a value"
            raise ArgumentError.of("edit", f"{kind} is a switch", f"{kind}={value!r}", "True or False", hint)
        return ("clamp", 0.0) if kind == "ablate" else ("freeze", 0.0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        hint = f"a gate is within 0 .. 1, a candidate and h within -1 .. 1: {kind}=0.5, say"
        raise ArgumentError.of("edit", f"cannot {kind} {name} by this", f"{kind}={value!r}", "a finite number", hint)
    return kind, float(value)


def _units(name: str, units: Any, size: int) -> tuple[int, ...] | None:
    if units is None:
        return None
    chosen: list[Any] = list(units) if isinstance(units, (Sequence, range)) and not isinstance(units, str) else [units]
    wrong = [unit for unit in chosen if isinstance(unit, bool) or not isinstance(unit, int) or not 0 <= unit < size]
    if wrong or not chosen:
        got, hint = f"units={units!r}", "units count from 0; leave units out for all"
        what = f"{name} has no unit {wrong[0]!r}" if wrong else "no unit is named"
        raise ArgumentError.of("edit", what, got, f"integers within 0 .. {size - 1}", hint)
    return tuple(chosen)


def _module(model: Any) -> None:
    if not isinstance(model, nn.Module):
        got = f"model: {type(model).__name__}"
        raise DtypeError.of("edit", "not a module", got, "a torch.nn.Module", "pass the model or its recurrent layer")
