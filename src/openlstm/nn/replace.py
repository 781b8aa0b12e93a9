"""`replace`: every recurrent layer and cell of torch.nn inside a model swapped for ours, with the very same parameters."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from openlstm.errors import ArgumentError, DtypeError, message
from openlstm.nn.cell import GRUCell, LSTMCell, RNNCell
from openlstm.nn.convert import convert, wrong_kind
from openlstm.nn.models import KINDS, scripted

M = TypeVar("M", bound=nn.Module)


def replace(model: M, *, quiet: bool = False) -> M:
    """Swap every LSTM, GRU, RNN, LSTMCell, GRUCell and RNNCell of torch.nn inside a model for ours, in place.

    Parameter objects, ties and modes stay. What was swapped is named on standard error. A layer that is compiled to TorchScript
    stays what it is: that is a warning, and so is a model without anything to swap.

    Args:
        model: any module; if it is such a layer or cell itself, the new one is returned.
        quiet: name nothing on standard error.

    Returns:
        The model (the same object, unless it is a recurrent layer itself). Optimisers keep working: parameters are the same.

    Raises:
        DtypeError: for something that is not a module.
        ArgumentError: for a subclass, or a layer with hooks, parametrisations or members of its own, which a swap would lose;
            nothing is changed then.

    >>> import torch, openlstm
    >>> model = openlstm.replace(torch.nn.ModuleDict({"rnn": torch.nn.LSTM(3, 5), "head": torch.nn.Linear(5, 1)}))
    >>> type(model["rnn"])
    <class 'openlstm.nn.layers.LSTM'>
    """
    if not isinstance(model, nn.Module):
        raise DtypeError.of("replace", "not a module", f"model: {type(model).__name__}", "a torch.nn.Module", "pass the model")
    there, left = _inside(model, tuple(_OURS)), scripted(model)
    swapped = _swap(model, tuple(_OURS), lambda name, layer: _from_torch("replace", name or "model", layer))
    if left:
        hint = "replace the layers first, then compile with torch.jit.script or torch.jit.trace"
        what, expected = f"cannot replace what is compiled: {', '.join(left)}", "layers that are not compiled"
        warnings.warn(message("replace", what, "torch.jit.ScriptModule", expected, hint), stacklevel=2)
    elif not there and not _inside(model, tuple(_OURS.values())):
        kinds = ", ".join(list(dict.fromkeys(type(m).__name__ for m in model.modules()))[1:7])
        got, hint = f"{type(model).__name__} with {kinds or 'nothing inside'}", "pass the model that holds the recurrent layer"
        expected = f"{_NAMES} of torch.nn inside"
        warnings.warn(message("replace", "found nothing to replace", got, expected, hint), stacklevel=2)
    if there and not quiet:
        print(f"openlstm.replace: {', '.join(there)}", file=sys.stderr)
    return swapped


def from_torch(layer: nn.Module) -> Any:
    """`LSTM.from_torch`, `GRUCell.from_torch`, ..., whichever fits.

    Raises:
        DtypeError: for another kind of module.
        ArgumentError: where the conversion would lose something.
    """
    return _from_torch("from_torch", type(layer).__name__, layer)


def to_torch(model: nn.Module) -> Any:
    """The way back of `replace`: every layer and cell of ours inside a model becomes torch.nn's, in place.

    Args:
        model: any module that holds some; if it is a layer or cell itself, the new one is returned.

    Returns:
        The model (the same object, unless it is a recurrent layer itself), ready for whatever knows torch.nn's classes alone:
        `torch.jit.script`, quantisation. `to_torch(copy.deepcopy(model))` leaves the model as it is.

    Raises:
        DtypeError: if there is none.
        ArgumentError: for a cell or an option that torch.nn does not have, or where something would be lost; nothing is
            changed then.

    >>> import torch, openlstm
    >>> to_torch(torch.nn.Sequential(openlstm.GRU(3, 5)))
    Sequential(
      (0): GRU(3, 5)
    )
    """
    kinds = tuple(_OURS.values())
    if not isinstance(model, nn.Module) or not _inside(model, kinds):
        raise wrong_kind("to_torch", model, f"{_NAMES} of openlstm, or a model that holds some")
    return _swap(model, kinds, _to_torch)


_OURS: dict[type[nn.Module], type] = {**KINDS, nn.LSTMCell: LSTMCell, nn.GRUCell: GRUCell, nn.RNNCell: RNNCell}
_NAMES = "LSTM, GRU, RNN, LSTMCell, GRUCell or RNNCell"


def _inside(model: nn.Module, kinds: tuple[type, ...]) -> list[str]:
    """Every place of such a module, for people: "encoder.rnn (LSTM)"."""
    found = [(name, m) for name, m in model.named_modules(remove_duplicate=False) if isinstance(m, kinds)]
    return [f"{name or 'the model'} ({type(m).__name__})" for name, m in found]


def _swap(model: Any, kinds: tuple[type, ...], make: Callable[[str, Any], Any]) -> Any:
    """Put make(path, module) in the place of every module of these kinds; all are made before one is moved."""
    new = {m: make(name, m) for name, m in model.named_modules() if isinstance(m, kinds)}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # not named_children: it leaves out a layer used twice
            if child in new:
                setattr(parent, name, new[child])
    return new.get(model, model)


def _from_torch(who: str, name: str, layer: Any) -> Any:
    for theirs, ours in _OURS.items():
        if isinstance(layer, theirs):
            return convert(who, name, layer, ours)
    raise wrong_kind(who, layer, f"{_NAMES} of torch.nn")


def _to_torch(name: str, layer: Any) -> Any:
    try:
        return layer.to_torch()
    except ArgumentError as error:
        raise ArgumentError(f"{name}, {error}" if name else str(error)) from None
