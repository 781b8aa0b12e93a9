"""Recurrent layers for torch: drop-ins for torch.nn, the trace that looks into them, ways to begin."""

from openlstm.errors import missing_extra

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise missing_extra("openlstm.nn", "torch", "torch") from error

from openlstm.nn import init as init
from openlstm.nn.cell import GRUCell as GRUCell
from openlstm.nn.cell import LSTMCell as LSTMCell
from openlstm.nn.cell import RNNCell as RNNCell
from openlstm.nn.layers import GRU as GRU
from openlstm.nn.layers import LSTM as LSTM
from openlstm.nn.layers import RNN as RNN
from openlstm.nn.quantized import quantize as quantize
from openlstm.nn.replace import from_torch as from_torch
from openlstm.nn.replace import replace as replace
from openlstm.nn.replace import to_torch as to_torch
from openlstm.nn.trace import Trace as Trace
from openlstm.nn.trace import trace as trace
