"""Layers whose gates are planted, and places of every kind of cell."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from tests.support import cell_state
from torch import Tensor, nn

import openlstm
from openlstm import cells, weights
from openlstm.call import Call
from openlstm.insight.capture import capture_layers
from openlstm.insight.place import Place
from openlstm.reference import State, Weights


def logit(p: float) -> float:
    """The bias at which a gate is p; so large where p is 0 or 1 that the gate is exactly that."""
    return {0.0: -1e4, 1.0: 1e4}.get(p) or float(torch.logit(torch.tensor(p, dtype=torch.float64)))


def planted(i: float = 0.0, f: float = 1.0, o: float = 0.5, units: int = 4) -> Any:
    """An LSTM with constant gates, of one input."""
    layer: Any = openlstm.LSTM(1, units)
    with torch.no_grad():
        for p in layer.parameters():
            p.zero_()
        for k, gate in enumerate((i, f, 0.5, o)):
            layer.bias_ih_l0[k * units : (k + 1) * units] = logit(gate)
    return layer


def switching(units: int = 3) -> Any:
    """An LSTM whose forget gate follows its one input: closed where x is negative, open elsewhere."""
    layer = planted(0.0, 1.0, 0.5, units)
    with torch.no_grad():
        layer.bias_ih_l0[units : 2 * units] = 0
        layer.weight_ih_l0[units : 2 * units] = 1e5
    return layer


def seen(layer: nn.Module, x: Any, loss: Any = None) -> Place:
    """The first place."""
    return capture_layers(layer, x, loss).places[0]


def draw(cell: cells.Cell, T: int = 13, B: int = 3, I: int = 2, H: int = 6, dtype: Any = torch.float32) -> tuple[Any, ...]:  # noqa: E741
    """Random weights, input and state of a cell."""
    torch.manual_seed(1)
    shapes = weights.shapes(cell, I, H)
    w = weights.collect({f"{name}_l0": 0.6 * torch.randn(*s, dtype=dtype) for name, s in shapes.items()})
    R = weights.fed_back_size(cell, H)
    state = State(torch.randn(B, R, dtype=dtype), cell_state(cell, partial(torch.randn, dtype=dtype), B, H))
    return torch.randn(T, B, I, dtype=dtype), w, state


def place_of(cell: cells.Cell, x: Tensor, w: Weights, state: State, **options: Any) -> Place:
    """A place without a model around it."""
    own = {name: options.pop(name) for name in ("name", "path", "index", "dy", "dstate", "module", "calls") if name in options}
    given: dict[str, Any] = {"name": "0", "path": "", "index": 0, "dy": None, "dstate": None, "module": None, **own}
    return Place(call=Call(cell, x, w, state, **options), **given)
