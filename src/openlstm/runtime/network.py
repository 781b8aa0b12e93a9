"""A stack of recurrent layers on numpy and the engine: state in, state out, nothing kept in between.

Legend: T time, B batch, I input size, H hidden size, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openlstm import weights
from openlstm.cells import Cell
from openlstm.engine import recur
from openlstm.reference import State, Weights


@dataclass(frozen=True)
class Network:
    """Layers of one cell, in one direction.

    Fed step by step, in chunks or in one call, it gives the same bits: the state is all that a row carries.

    >>> from openlstm.cells import LSTM
    >>> layer = Weights(np.ones((8, 3), np.float32), np.zeros((8, 2), np.float32))
    >>> net = Network(LSTM(), (layer,))
    >>> x = np.ones((5, 1, 3), np.float32)
    >>> whole, _ = net.run(x)
    >>> first, states = net.run(x[:2])
    >>> rest, _ = net.run(x[2:], states)
    >>> bool((np.concatenate([first, rest]) == whole).all())
    True
    """

    cell: Cell
    layers: tuple[Weights, ...]

    @classmethod
    def collect(cls, cell: Cell, named: dict[str, np.ndarray], num_layers: int) -> Network:
        """Build it from arrays named as in a state_dict: `weight_ih_l0`, `weight_hh_l0`, ..."""
        return cls(cell, tuple(weights.collect(named, layer) for layer in range(num_layers)))

    def run(
        self, x: np.ndarray, states: tuple[State, ...] | None = None, *, backend: str = "auto"
    ) -> tuple[np.ndarray, tuple[State, ...]]:
        """Run over a sequence.

        Args:
            x: [T, B, I].
            states: what the call before gave; None for a fresh start (zeros).
            backend: "auto", "cpu" or "reference".

        Returns:
            The last layer's outputs [T, B, H], and one state per layer.
        """
        ends: list[State] = []
        for number, layer in enumerate(self.layers):
            run = recur(self.cell, x, layer, None if states is None else states[number], backend=backend)
            ends.append(run.state)
            blocks = len(self.cell.feeds_back)  # only the first, the output, goes on to the next layer
            x = run.y if blocks == 1 else run.y[..., : run.y.shape[-1] // blocks]  # [T, B, H]
        return x, tuple(ends)
