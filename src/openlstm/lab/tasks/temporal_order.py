"""`temporal-order`: which two signs came, and in which order, among many letters that say nothing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from openlstm.lab.tasks.task import Published, Task, one_hot

BEGIN, END, X, Y = 0, 1, 2, 3  # then a, b, c, d


class TemporalOrder(Task):
    """X or Y at one step of the second tenth and X or Y at one step of the sixth; else a, b, c, d at random, E first, B last.

    x [length, B, 8], one-hot; target int64 [B]: 0 XX, 1 XY, 2 YX, 3 YY; outputs [B, 4]. At length 100 the signs fall at steps
    10-20 and 50-60, as in the paper, whose lengths vary between 100 and 110.

    >>> x, target = TemporalOrder().batch(100, 5, torch.Generator().manual_seed(0))
    >>> x.shape, x[..., 2:4].sum().item(), x[0, :, 0].sum().item(), x[-1, :, 1].sum().item()
    (torch.Size([100, 5, 8]), 10.0, 5.0, 5.0)
    """

    name = "temporal-order"
    question = "which of XX, XY, YX, YY came"
    source = "Hochreiter & Schmidhuber 1997, experiment 6a"
    inputs, outputs = 8, 4
    guessing = 0.25
    published = (
        Published(
            "1 of 2,560 wrong after 31,390 sequences", "LSTM of 1997, length 100-110", "Hochreiter & Schmidhuber 1997, table 9"
        ),
    )

    def draw(self, size: int, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        said = torch.randint(4, 8, (size, batch), generator=generator)
        said[0], said[-1] = BEGIN, END
        signs = torch.randint(2, (2, batch), generator=generator)
        first = torch.randint(size // 10, 2 * size // 10 + 1, (1, batch), generator=generator)
        second = torch.randint(5 * size // 10, 6 * size // 10 + 1, (1, batch), generator=generator)
        said.scatter_(0, torch.cat([first, second]), signs + X)
        return one_hot(said, self.inputs), 2 * signs[0] + signs[1]

    def loss(self, outputs: Tensor, *target: Tensor) -> Tensor:
        """Cross entropy of the four classes."""
        return F.cross_entropy(outputs, target[0])

    def right(self, outputs: Tensor, *target: Tensor) -> Tensor:
        """[B]: the largest output is that of the class."""
        return outputs.argmax(-1) == target[0]

    def lag(self, size: int) -> int:
        """From the middle of where the first sign may fall to the end."""
        return size - 1 - 3 * size // 20
