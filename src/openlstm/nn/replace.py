"""`replace`, `from_torch`, `to_torch`: torch.nn's layers for ours and back, with the very same parameters."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from openlstm._errors import DtypeError, message
from openlstm.nn.recurrent import LSTM, RNN


def from_torch(layer: nn.Module) -> LSTM | RNN:
    """The openlstm layer with the same arguments and the same Parameter objects as a torch.nn.LSTM or RNN.

    >>> import torch, openlstm
    >>> theirs = torch.nn.LSTM(3, 5)
    >>> ours = openlstm.nn.from_torch(theirs)
    >>> ours.weight_ih_l0 is theirs.weight_ih_l0
    True
    """
    _usable("from_torch", layer)
    common: dict[str, Any] = {
        name: getattr(layer, name) for name in ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional")
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about dropout with one layer, which was said when `layer` was made
        if isinstance(layer, nn.LSTM):
            ours = LSTM(**common, dropout=layer.dropout, proj_size=layer.proj_size, device="meta")
        else:
            ours = RNN(**common, dropout=layer.dropout, nonlinearity=layer.nonlinearity, device="meta")
    return _hand_over(layer, ours)


def _hand_over(source: nn.Module, target: Any) -> Any:
    """Give `target` the parameters and the mode of `source`."""
    for name, parameter in source.named_parameters(remove_duplicate=False):
        setattr(target, name, parameter)
    target.training = source.training
    return target


def _usable(who: str, layer: Any) -> None:
    """Refuse what a swap would lose in silence."""
    if not isinstance(layer, (nn.LSTM, nn.RNN)):
        raise DtypeError(
            message(who, "cannot convert this layer", f"layer: {type(layer).__name__}", "torch.nn.LSTM or RNN", "pass the recurrent layer inside the model")
        )
