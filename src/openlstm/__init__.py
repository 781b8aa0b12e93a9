"""openlstm: an LSTM you can see through, at the speed of the hardware.

    LSTM, GRU, RNN                 drop-ins for torch.nn, with any cell, lengths, resets, noise and the gates open
    LSTMCell, GRUCell, RNNCell     one step of them
    replace                        every such layer and cell of torch.nn inside a model swapped for ours, weights kept
    quantize                       a layer for inference with its weights in 8 bits
    trace, Trace                   gates, states and per-step gradients of a layer, or of all layers of a model, by name
    xray                           what a network remembers, for how long, and what to change, as a report
    edit                           run a model with a gate clamped, frozen, scaled or taken out, and leave nothing behind
    cells, recur                   the definition of every cell; one cell over one sequence, on numpy or torch arrays
    Weights, State, Noise          what `recur` takes beside x
    errors                         every exception raised on purpose, to be caught
    load, Model                    a model file: its forecasts, those of the baselines in it, its stream; without torch
    Forecaster                     fit, predict, evaluate, save: one or many series of a table, with what is known beside them
    read                           the recurrent layers in a file of another package: ONNX, Keras, Flax, torch
    export                         a layer or a model for another runtime: ONNX, C, torch, Keras, Flax
    read_panel, Panel              a file or a frame as series of equal steps, and what there is to say about it
    set_num_threads, ...           the engine's threads and work memory; `show_config()` says what it runs on

Names and submodules are imported on first use: `import openlstm` alone loads neither torch nor a plot library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from openlstm._submodules import submodule

__version__ = "0.1.0"

if TYPE_CHECKING:  # the same names for editors and type checkers
    from openlstm import cells as cells
    from openlstm import errors as errors
    from openlstm import nn as nn
    from openlstm.data import Panel as Panel
    from openlstm.data import read_panel as read_panel
    from openlstm.engine import recur as recur
    from openlstm.engine.config import show_config as show_config
    from openlstm.engine.threads import get_num_threads as get_num_threads
    from openlstm.engine.threads import set_num_threads as set_num_threads
    from openlstm.engine.workspace import set_workspace_limit as set_workspace_limit
    from openlstm.exchange.export import export as export
    from openlstm.exchange.read import read as read
    from openlstm.insight.edit import edit as edit
    from openlstm.insight.xray import xray as xray
    from openlstm.nn import GRU as GRU
    from openlstm.nn import LSTM as LSTM
    from openlstm.nn import RNN as RNN
    from openlstm.nn import GRUCell as GRUCell
    from openlstm.nn import LSTMCell as LSTMCell
    from openlstm.nn import RNNCell as RNNCell
    from openlstm.nn import Trace as Trace
    from openlstm.nn import quantize as quantize
    from openlstm.nn import replace as replace
    from openlstm.nn import trace as trace
    from openlstm.noise import Noise as Noise
    from openlstm.reference import State as State
    from openlstm.reference import Weights as Weights
    from openlstm.runtime import Model as Model
    from openlstm.runtime import load as load
    from openlstm.tasks.forecast import Forecaster as Forecaster

_HOMES = {
    "nn": "LSTM GRU RNN LSTMCell GRUCell RNNCell replace quantize trace Trace",
    "insight.xray": "xray",
    "insight.edit": "edit",
    "": "nn cells errors",
    "engine": "recur",
    "reference": "Weights State",
    "noise": "Noise",
    "runtime": "load Model",
    "tasks.forecast": "Forecaster",
    "exchange.export": "export",
    "exchange.read": "read",
    "data": "Panel read_panel",
    "engine.threads": "set_num_threads get_num_threads",
    "engine.workspace": "set_workspace_limit",
    "engine.config": "show_config",
}
"""Module -> the public names it has; "" for submodules."""

_LAZY = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = list(_LAZY)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import a public name, or a submodule, on first use."""
    home = _LAZY.get(name)
    try:
        value = getattr(import_module(f"openlstm.{home}"), name) if home else submodule("openlstm", name)
    except ImportError as error:
        if error.name != "torch":
            raise
        from openlstm.errors import missing_extra

        raise missing_extra(f"openlstm.{name}", "torch", "torch") from error
    if value is None:
        raise AttributeError(f"module 'openlstm' has no attribute {name!r}; it has {', '.join(__all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
