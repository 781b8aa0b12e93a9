"""The training loop: AdamW, clipping, early stopping, best weights kept; it takes callbacks and knows no task."""

from openlstm.train.logs import JsonLines as JsonLines
from openlstm.train.logs import TensorBoard as TensorBoard
from openlstm.train.loop import Callback as Callback
from openlstm.train.loop import Epoch as Epoch
from openlstm.train.loop import History as History
from openlstm.train.loop import Options as Options
from openlstm.train.loop import Step as Step
from openlstm.train.loop import StepCallback as StepCallback
from openlstm.train.loop import train as train
from openlstm.train.progress import progress as progress
