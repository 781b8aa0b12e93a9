"""`replace`: every torch.nn.LSTM, GRU and RNN inside a model swapped for ours, with the very same parameters."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from openlstm._errors import DtypeError, message
from openlstm.nn.convert import convert, wrong_kind
from openlstm.nn.recurrent import GRU, LSTM, RNN

M = TypeVar("M", bound=nn.Module)


def replace(model: M) -> M:
    """Swap every torch.nn.LSTM, GRU and RNN inside a model for ours, in place; Parameter objects, ties and modes stay.

    Args:
        model: any module; if it is a torch.nn.LSTM, GRU or RNN itself, the new layer is returned.

    Returns:
        The model (the same object, unless it is a recurrent layer itself). Optimisers keep working: parameters are the same.

    Raises:
        DtypeError: for something that is not a module.
        ArgumentError: for a subclass, or a layer with hooks, parametrisations or members of its own, which a swap would lose;
            nothing is changed then.

    >>> import torch, openlstm
    >>> model = openlstm.replace(torch.nn.ModuleDict({"rnn": torch.nn.LSTM(3, 5), "head": torch.nn.Linear(5, 1)}))
    >>> type(model["rnn"])
    <class 'openlstm.nn.recurrent.LSTM'>
    """
    if not isinstance(model, nn.Module):
        raise DtypeError(
            message("replace", "not a module", f"model: {type(model).__name__}", "a torch.nn.Module", "pass the model")
        )
    found: dict[nn.Module, str] = {m: name for name, m in model.named_modules() if isinstance(m, tuple(_OURS))}
    ours = {layer: _from_torch("replace", name or "model", layer) for layer, name in found.items()}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # not named_children: it leaves out a layer used twice
            if child in ours:
                setattr(parent, name, ours[child])
    return ours.get(model, model)


def from_torch(layer: nn.Module) -> Any:
    """`LSTM.from_torch`, `GRU.from_torch` or `RNN.from_torch`, whichever fits.

    Raises:
        DtypeError: for another kind of module.
        ArgumentError: where the conversion would lose something.
    """
    return _from_torch("from_torch", type(layer).__name__, layer)


def to_torch(layer: nn.Module) -> Any:
    """`layer.to_torch()`.

    Raises:
        DtypeError: for another kind of module.
        ArgumentError: where the conversion would lose something.
    """
    if isinstance(layer, (LSTM, GRU, RNN)):
        return layer.to_torch()
    raise wrong_kind("to_torch", layer, "openlstm.LSTM, GRU or RNN")


_OURS: dict[type[nn.Module], type] = {nn.LSTM: LSTM, nn.GRU: GRU, nn.RNN: RNN}


def _from_torch(who: str, name: str, layer: Any) -> Any:
    for theirs, ours in _OURS.items():
        if isinstance(layer, theirs):
            return convert(who, name, layer, ours)
    raise wrong_kind(who, layer, "torch.nn.LSTM, GRU or RNN")
