"""Where a number that is not finite comes from: the row, the layer, the step and the gate of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from openlstm.errors import OpenLSTMError
from openlstm.insight import capture_layers, weight_gradient
from openlstm.insight.finite import bad_input, bad_weight, first_non_finite
from openlstm.insight.place import Place
from openlstm.nn.batch import RECURRENT


def origin(model: nn.Module, loss: Callable[..., Any], batch: Sequence[Tensor]) -> str:
    """The first NaN or infinity of a step, in words; the model runs once more, without dropout.

    >>> import openlstm
    >>> x = torch.zeros(7, 2, 3)
    >>> x[4, 1, 2] = float("nan")
    >>> origin(openlstm.LSTM(3, 5), lambda model, x: (model(x)[0].sum(), torch.tensor(1)), [x])
    'input 2 is nan at step 4, row 1'
    """
    places: Sequence[Place] = ()
    if any(isinstance(m, RECURRENT) for m in model.modules()):
        with suppress(OpenLSTMError):  # of a loss that cannot be looked into
            places = capture_layers(model, tuple(batch), lambda model, *b: loss(model, *b)[0], finite=False).places
    for look in (bad_input, bad_weight, first_non_finite, lambda place: weight_gradient(place).first_non_finite):
        for place in places:
            if where := look(place):
                return where.removeprefix("0: ")
    return _outside(model, loss, batch)


def _outside(model: nn.Module, loss: Callable[..., Any], batch: Sequence[Tensor]) -> str:
    """Where every recurrent layer is finite: the row whose loss is not, or the parameter whose gradient is not."""
    rows = len(batch[0])
    with torch.no_grad():
        whole = float(loss(model, *batch)[0])
        if whole - whole != 0 and all(len(part) == rows for part in batch):
            for row in range(rows):
                alone = float(loss(model, *(part[row : row + 1] for part in batch))[0])
                if alone - alone != 0:
                    return f"the loss of row {row} is {alone}, behind the recurrent layers"
    for name, p in model.named_parameters():
        if p.grad is not None and not bool(p.grad.isfinite().all()):
            return f"the gradient of {name}, outside of the recurrent layers"
    return "a sum over the batch that is too large"
