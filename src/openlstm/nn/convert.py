"""A recurrent layer or cell as another kind of it, with the very same parameters: torch.nn's as ours and back."""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils import parametrize

from openlstm.errors import ArgumentError, DtypeError

K = TypeVar("K")

_LAYER = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
_CELL = ("input_size", "hidden_size", "bias")
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "LSTM": (*_LAYER, "proj_size"),
    "GRU": _LAYER,
    "RNN": (*_LAYER, "nonlinearity"),
    "LSTMCell": _CELL,
    "GRUCell": _CELL,
    "RNNCell": (*_CELL, "nonlinearity"),
}
"""What torch.nn's layers and cells are made with, but for device and dtype."""

_HOMES = ("torch.nn.modules.rnn", "openlstm.nn.layers", "openlstm.nn.cell")
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def convert(who: str, name: str, source: Any, kind: type[K]) -> K:
    """A layer of `kind` with the arguments, the Parameter objects and the mode of `source`.

    Args:
        who, name: for errors: the caller, and where `source` was found.

    Raises:
        ArgumentError: where the conversion would lose something in silence.
    """
    _nothing_lost(who, name, source)
    arguments = {key: getattr(source, key) for key in ARGUMENTS[kind.__name__]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about dropout with one layer, which was said when `source` was made
        make: Any = kind
        target = make(**arguments, device="meta")
    for key, parameter in source.named_parameters(remove_duplicate=False):
        setattr(target, key, parameter)
    target.training = source.training
    return target


def expect(who: str, layer: Any, kind: type) -> None:
    """`layer` must be a `kind`."""
    if not isinstance(layer, kind):
        raise wrong_kind(who, layer, f"{'torch.nn' if kind.__module__.startswith('torch') else 'openlstm'}.{kind.__name__}")


def wrong_kind(who: str, layer: Any, expected: str) -> DtypeError:
    """The error for a module that cannot be converted."""
    hint = "pass the recurrent layer inside the model"
    return DtypeError.of(who, "cannot convert this layer", f"layer: {type(layer).__name__}", expected, hint)


def _nothing_lost(who: str, name: str, layer: nn.Module) -> None:
    if parametrize.is_parametrized(layer):
        hint = "remove them with torch.nn.utils.parametrize.remove_parametrizations, convert, and add them again"
        raise ArgumentError.of(who, f"{name} has parametrisations", "a parametrised layer", "plain parameters", hint)
    hooks = [hook.strip("_") for hook in _HOOKS if getattr(layer, hook)]
    if hooks:
        hint = "remove the hooks, convert, and add them again"
        raise ArgumentError.of(who, f"{name} has hooks", ", ".join(hooks), "a layer without hooks", hint)
    kind = type(layer)
    if kind.__name__ not in ARGUMENTS or kind.__module__ not in _HOMES:
        hint = "convert it by hand: what the subclass adds would be lost"
        raise ArgumentError.of(who, f"{name} is a subclass", kind.__name__, "the layer itself", hint)
    extra = [key for key in (*layer._parameters, *layer._buffers, *layer._modules) if not key.startswith(("weight_", "bias_"))]
    if extra:
        hint = "keep them beside the layer, in the module around it"
        raise ArgumentError.of(who, f"{name} has members of its own", ", ".join(extra), "weights and biases alone", hint)
