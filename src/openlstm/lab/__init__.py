"""The classic long-memory experiments, run as their protocol says, with the look before training beside the result."""

from openlstm.lab import tasks as tasks
from openlstm.lab.arms import ARMS as ARMS
from openlstm.lab.experiment import Progress as Progress
from openlstm.lab.experiment import Result as Result
from openlstm.lab.experiment import Row as Row
from openlstm.lab.experiment import latch as latch
