"""`adding`: the sum of the two marked values among many that are not."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from openlstm.lab.tasks.task import Published, Task

CLOSE = 0.04  # of the range of the sum: what counts as right in Hochreiter & Schmidhuber 1997
HS97 = "Hochreiter & Schmidhuber 1997, table 7"
BAI = "Bai, Kolter & Koltun 2018, table 1"


class Adding(Task):
    """Channel 0 is U(0, 1) at every step; channel 1 marks one step of each half; the answer is the sum of the marked values.

    x [length, B, 2], target float [B] in 0 .. 2, outputs [B, 1] or [B]. Always saying 1 has the squared error 1/6 = 0.1667.
    In the paper of 1997 values lie in -1 .. 1, the first mark among the first ten steps, the second in the first half, lengths
    vary by a tenth, and the target is 0.5 + (a + b) / 4; the form here is that of Le, Jaitly & Hinton 2015.

    >>> x, total = Adding().batch(6, 3, torch.Generator().manual_seed(0))
    >>> x.shape, x[..., 1].sum(0).tolist(), torch.allclose((x[..., 0] * x[..., 1]).sum(0), total)
    (torch.Size([6, 3, 2]), [2.0, 2.0, 2.0], True)
    """

    name = "adding"
    question = "the sum of the two marked values"
    source = "Hochreiter & Schmidhuber 1997, experiment 4; in this form Le, Jaitly & Hinton 2015"
    inputs, outputs = 2, 1
    answer = "sums within 4 % of the range"
    guessing = 2 * (2 * CLOSE) - (2 * CLOSE) ** 2  # who always says 1: the sum of two uniforms is a triangle
    published = (
        Published("1 of 2,560 wrong after 74,000 sequences", "LSTM of 1997, length 100-110", HS97),
        Published("squared error .164 (constant .1667)", "LSTM, length 600", BAI),
        Published("squared error 5.3e-5", "GRU, length 600", BAI),
    )

    def draw(self, size: int, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        x = torch.zeros(size, batch, 2)
        x[..., 0] = torch.rand(size, batch, generator=generator)
        half = size // 2
        first = torch.randint(half, (1, batch), generator=generator)
        second = torch.randint(half, size, (1, batch), generator=generator)
        x[..., 1].scatter_(0, torch.cat([first, second]), 1.0)
        return x, (x[..., 0] * x[..., 1]).sum(0)

    def loss(self, outputs: Tensor, *target: Tensor) -> Tensor:
        """Squared error."""
        return F.mse_loss(outputs.reshape(target[0].shape), target[0])

    def right(self, outputs: Tensor, *target: Tensor) -> Tensor:
        """[B]: within 0.04 of the range, which is 2 here."""
        return (outputs.reshape(target[0].shape) - target[0]).abs() < 2 * CLOSE

    def lag(self, size: int) -> int:
        """From the middle of where the first mark may fall to the end."""
        return size - 1 - size // 4
