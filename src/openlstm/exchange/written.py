"""What is written of a model: its recurrent layers as one `Stack`, or an error that says what the target has not."""

from __future__ import annotations

from typing import Any

from openlstm.errors import ArgumentError, DtypeError
from openlstm.exchange.stack import Stack


def stack_of(model: Any, target: str) -> Stack:
    """The recurrent layers of a layer of ours or of a `runtime.Model`.

    Raises:
        ArgumentError: for a model of several networks, or a module that is no recurrent layer.
    """
    from openlstm.runtime import Model

    who = f"export to {target}"
    if isinstance(model, Model):
        if len(model.networks) > 1:
            got, hint = f"{len(model.networks)} networks", "openlstm.read(path)[name] is one of them; export that"
            raise ArgumentError.of(who, "the model is an ensemble", got, "one network", hint)
        network = next(iter(model.networks))
        return Stack("recurrent", network.cell, tuple((w,) for w in network.layers))
    try:
        stack = Stack.of(model)
    except DtypeError:
        got, hint = (
            type(model).__name__,
            f"name a layer inside it, or use to='onnx', which takes whole modules; {target} takes one",
        )
        raise ArgumentError.of(who, "no recurrent layer", got, "an LSTM, GRU or RNN of openlstm", hint) from None
    refuse_zoneout(model, who)
    return stack


def refuse_zoneout(layer: Any, who: str) -> None:
    """Zoneout acts in eval mode too, as its expectation.

    Raises:
        ArgumentError: for a layer with some.
    """
    inner = getattr(layer, "layer", layer)  # of a `Backwards`
    for option in ("zoneout_h", "zoneout_c"):
        if getattr(inner, option, 0):
            got = f"{option}={getattr(inner, option)!r}"
            hint = f"take to='onnx', which has it, or set layer.{option} = 0 if it is to run without"
            raise ArgumentError.of(who, "zoneout would be lost, which acts in eval mode too", got, f"{option}=0", hint)
