"""Recurrent layers for torch, and the trace that looks into them."""

from openlstm.nn.recurrent import LSTM as LSTM
from openlstm.nn.recurrent import RNN as RNN
from openlstm.nn.replace import from_torch as from_torch
from openlstm.nn.trace import Trace as Trace
from openlstm.nn.trace import trace as trace
