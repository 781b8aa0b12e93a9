"""The classic tests of long memory: generators of sequences, each with its loss, score, source and published numbers."""

from openlstm.lab.tasks.adding import Adding as Adding
from openlstm.lab.tasks.anbn import Anbn as Anbn
from openlstm.lab.tasks.copy import Copy as Copy
from openlstm.lab.tasks.latch import Latch as Latch
from openlstm.lab.tasks.parity import Parity as Parity
from openlstm.lab.tasks.reber import ContinualReber as ContinualReber
from openlstm.lab.tasks.reber import Reber as Reber
from openlstm.lab.tasks.recall import Recall as Recall
from openlstm.lab.tasks.task import Grammar as Grammar
from openlstm.lab.tasks.task import Published as Published
from openlstm.lab.tasks.task import Task as Task
from openlstm.lab.tasks.temporal_order import TemporalOrder as TemporalOrder

TASKS: dict[str, Task] = {
    task.name: task
    for task in (Recall(), Latch(), Copy(), Adding(), TemporalOrder(), Reber(), ContinualReber(), Parity(), Anbn())
}
"""Name -> task, the control and the main experiment first."""
