"""A layer that takes a single step, from weights packed once: what a model that is called at each step of a stream wants."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from openlstm.engine import Stepper
from openlstm.exchange.onnx.nodes import Node

MOST = 16
"""Rows that a stepper takes: with more the layer itself is as fast."""


class Steps:
    """The steppers of a graph, one for each layer and number of rows, in each thread its own."""

    def __init__(self) -> None:
        self._own = threading.local()

    def run(self, node: Node, layer: Any, x: np.ndarray, states: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...] | None:
        """y, h and c of one step as ONNX lays them out; None where the layer itself has to run: it may be edited or watched."""
        stack = node.stack
        first = stack.batch_first
        B = x.shape[0 if first else 1]
        plain = stack.directions == 1 and not stack.reverse and bool(stack.cell.kernel) and stack.dtype.name != "float16"
        if not plain or x.shape[int(first)] != 1 or not 0 < B <= MOST or len(states) not in (0, 1 + stack.cell.has_cell):
            return None
        watched = layer._recorder is not None or layer._forward_hooks or layer._forward_pre_hooks
        if layer._edits or watched or "parametrizations" in layer._modules:
            return None
        stepper = self._stepper(stack.name, layer, B)
        held = [a for a in (stepper._h, stepper._c) if a is not None]  # in this thread nobody else is at work
        given = [s.swapaxes(0, 1) if first else s for s in states]
        if any(mine.shape != its.shape for mine, its in zip(held, given, strict=False)):
            return None
        for k, mine in enumerate(held):
            mine[...] = given[k] if given else 0
        y = stepper.step(np.ascontiguousarray(x[:, 0] if first else x[0], stack.dtype))
        shape = (B, 1, 1, -1) if first else (1, 1, B, -1)
        ends = (np.array(a.swapaxes(0, 1) if first else a, x.dtype) for a in held)
        return np.array(y, x.dtype).reshape(shape), *ends

    def _stepper(self, name: str, layer: Any, B: int) -> Stepper:
        """One made of the weights as they are now; what changes them past torch's own count, through `.data`, is not seen."""
        held = self._own.__dict__.setdefault("held", {})
        versions = [(p._version, p.data_ptr()) for p in layer._parameters.values()]
        if (name, B) not in held or held[name, B][0] != versions:
            held[name, B] = versions, Stepper(layer, B)
        return held[name, B][1]
