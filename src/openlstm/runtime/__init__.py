"""The torch-free side: load a model file, predict, stream; numpy and the engine only."""

from openlstm.runtime.model import Model as Model
from openlstm.runtime.model import load as load
from openlstm.runtime.network import Network as Network
from openlstm.runtime.prediction import Prediction as Prediction
from openlstm.runtime.stream import CarriedStream as CarriedStream
from openlstm.runtime.stream import Stream as Stream
