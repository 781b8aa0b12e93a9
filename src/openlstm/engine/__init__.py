"""One function that runs a cell over a sequence, on the backend that can, and the table that says which can."""

from openlstm.engine.backends.table import SUPPORT as SUPPORT
from openlstm.engine.backends.table import choose as choose
from openlstm.engine.recur import recur as recur
from openlstm.engine.stepper import Stepper as Stepper
