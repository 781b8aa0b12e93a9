"""The data of `latch` under the name it had before there were other tasks."""

from openlstm.lab.tasks.latch import EARLY as EARLY
from openlstm.lab.tasks.latch import MARKS as MARKS
from openlstm.lab.tasks.latch import latch_batch as latch_batch
