"""`parity`: is the number of ones so far odd? One bit of memory, which every input may turn over."""

from __future__ import annotations

import torch
from torch import Tensor

from openlstm.lab.tasks.task import Published, Sign

CHOMSKY = "Delétang et al. 2023, table 1"


class Parity(Sign):
    """Bits, written as 1 and -1, and after each the question whether the number of ones so far is odd.

    x [length, B, 1], target float [length, B], outputs [length, B, 1] or [length, B]. A batch of length 40 so holds questions
    of all lengths from 1 to 40. The score counts the last step alone.

    >>> x, odd = Parity().batch(4, 1, torch.Generator().manual_seed(0))
    >>> x[:, 0, 0].tolist(), odd[:, 0].tolist()
    ([-1.0, 1.0, 1.0, -1.0], [0.0, 1.0, 0.0, 0.0])
    """

    name = "parity"
    question = "whether the number of ones so far is odd"
    source = "Hochreiter & Schmidhuber 1996; lengths 1-40 and the longer test: Delétang et al. 2023"
    inputs = 1
    where = "every step"
    published = (Published("100 % right at lengths 41-500", "RNN and LSTM, trained on lengths 1-40", CHOMSKY),)

    def draw(self, size: int, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        bits = torch.randint(2, (size, batch), generator=generator)
        return (2.0 * bits - 1.0)[..., None], (bits.cumsum(0) % 2).float()

    def right(self, outputs: Tensor, *target: Tensor) -> Tensor:
        """[B]: the last step."""
        return super().right(outputs.reshape(target[0].shape)[-1], target[0][-1])

    def lag(self, size: int) -> int:
        """The first bit counts as much as the last."""
        return size - 1
