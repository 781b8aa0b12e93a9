"""The lecture as a program: one page that explains the LSTM with figures computed when it is made."""

from openlstm.explain.page import compute as compute
from openlstm.explain.page import write as write
