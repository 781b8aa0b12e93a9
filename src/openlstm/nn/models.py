"""The recurrent layers inside a model: where they are, the names of their arrays, and torch.nn's as ours while one looks."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from openlstm import cells
from openlstm.cells import Cell
from openlstm.errors import ArgumentError
from openlstm.nn.convert import ARGUMENTS
from openlstm.nn.layers import GRU, LSTM, RNN
from openlstm.nn.recurrent import Recurrent

KINDS: dict[type[nn.Module], type[Recurrent]] = {nn.LSTM: LSTM, nn.GRU: GRU, nn.RNN: RNN}
"""The layers of torch.nn beside ours."""


def layers(model: nn.Module, *, every_path: bool = False) -> list[tuple[str, Any]]:
    """The recurrent layers of a model, of openlstm or torch.nn, and their paths.

    Args:
        every_path: name a layer that stands in several places once for each of them.

    >>> [path for path, _ in layers(nn.ModuleDict({"head": nn.Linear(5, 1), "rnn": nn.GRU(3, 5)}))]
    ['rnn']
    """
    known = (Recurrent, *KINDS)
    return [(path, m) for path, m in model.named_modules(remove_duplicate=not every_path) if isinstance(m, known)]


def names(layer: Any) -> tuple[str, ...]:
    """The arrays of a layer as a trace calls them, without the path in front: "0.f", "1_reverse.c"."""
    cell = _cell(layer)
    arrays = (*cell.saved, *(cell.states if cell.has_cell else ()), "h")
    ends = ("", "_reverse") if layer.bidirectional else ("",)
    return tuple(f"{k}{end}.{array}" for k in range(layer.num_layers) for end in ends for array in arrays)


def scripted(model: nn.Module) -> list[str]:
    """The recurrent layers and cells of torch.nn that are compiled to TorchScript, which nobody can look into or change."""
    known = {kind.__name__ for kind in (*KINDS, nn.LSTMCell, nn.GRUCell, nn.RNNCell)}
    found = [(path, m) for path, m in model.named_modules() if isinstance(m, torch.jit.ScriptModule)]
    return [f"{path or 'the model'} ({m.original_name})" for path, m in found if m.original_name in known]


def expect_plain(who: str, name: str, layer: nn.Module) -> None:
    """A layer of torch.nn whose forward is somebody's own, which nobody here knows, is refused.

    Raises:
        ArgumentError: if it is.
    """
    kind = next(theirs for theirs in KINDS if isinstance(layer, theirs))
    if type(layer).forward is not kind.forward or "forward" in vars(layer):
        got, hint = f"{name}: {type(layer).__name__}", "use a plain layer: what a subclass computes is not known here"
        raise ArgumentError.of(who, "the layer has a forward of its own", got, f"torch.nn.{kind.__name__}", hint)


class Twin:
    """What stands in for `forward` of a layer of torch.nn: the same layer as ours, with the weights and mode it has now."""

    def __init__(self, layer: nn.Module) -> None:
        kind: Any = next(ours for theirs, ours in KINDS.items() if isinstance(layer, theirs))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about dropout with one layer, which was said when the layer was made
            self.twin: Any = kind(**{key: getattr(layer, key) for key in ARGUMENTS[kind.__name__]}, device="meta")
        self.layer = layer
        self.weights = tuple(self.twin._parameters)
        self.twin._parameters.clear()

    def __call__(self, input: Any, hx: Any = None, **more: Any) -> tuple[Any, Any]:
        vars(self.twin).update({name: getattr(self.layer, name) for name in self.weights})  # parametrisations, ties, moves hold
        self.twin.training = self.layer.training
        return self.twin.forward(input, hx, **more)


def _cell(layer: Any) -> Cell:
    if isinstance(layer, Recurrent):
        return layer.cell
    if isinstance(layer, nn.RNN):
        return cells.VanillaRNN(layer.nonlinearity)  # type: ignore[arg-type]
    return cells.GRU() if isinstance(layer, nn.GRU) else cells.LSTM()
