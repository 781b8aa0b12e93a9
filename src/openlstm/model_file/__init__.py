"""The model file: one `.safetensors` file that holds tensors and a closed, versioned JSON header; no pickle, no code."""

from openlstm.model_file.file import KEY as KEY
from openlstm.model_file.file import checksum as checksum
from openlstm.model_file.file import is_ours as is_ours
from openlstm.model_file.file import read as read
from openlstm.model_file.file import write as write
from openlstm.model_file.header import VERSION as VERSION
from openlstm.model_file.header import Decoder as Decoder
from openlstm.model_file.header import Feature as Feature
from openlstm.model_file.header import Forecaster as Forecaster
from openlstm.model_file.header import Form as Form
from openlstm.model_file.header import Header as Header
from openlstm.model_file.header import Lag as Lag
from openlstm.model_file.header import Network as Network
from openlstm.model_file.header import Scale as Scale
from openlstm.model_file.header import Series as Series
from openlstm.model_file.header import Step as Step
from openlstm.model_file.header import Training as Training
from openlstm.model_file.header import upgrade as upgrade
from openlstm.model_file.part import fault as fault
from openlstm.model_file.part import plain as plain
