"""ONNX: recurrent nodes of any model as layers of ours and the rest of it on ONNX Runtime; layers and models as ONNX."""

from openlstm._submodules import on_first_use

__getattr__ = on_first_use("openlstm.exchange.onnx", {"Graph": "graph"})
