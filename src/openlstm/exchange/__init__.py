"""Trained recurrent layers from the files of other packages, and into them."""

from openlstm._submodules import on_first_use

__getattr__ = on_first_use("openlstm.exchange", {"Layers": "layers", "Stack": "stack"})
