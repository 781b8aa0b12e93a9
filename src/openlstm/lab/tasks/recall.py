"""`recall`: the control. The sign of the first value, after a lag of small noise: to keep is enough, nothing is overwritten."""

from __future__ import annotations

import torch
from torch import Tensor

from openlstm.lab.tasks.task import Sign

NOISE = 0.3


class Recall(Sign):
    """x_0 ~ N(0, 1), then `lag` steps of 0.3 N(0, 1); the answer is the sign of x_0. x [lag + 1, B, 1].

    A vanilla RNN that begins with orthogonal or identity weights solves it, so that solving it shows little.

    >>> x, sign = Recall().batch(5, 3, torch.Generator().manual_seed(0))
    >>> x.shape, torch.equal(sign, (x[0, :, 0] > 0).float())
    (torch.Size([6, 3, 1]), True)
    """

    name = "recall"
    question = "the sign of the first value, after a lag of small noise"
    source = "our control, after the latching problem of Bengio, Simard & Frasconi 1994"
    inputs = 1

    def draw(self, size: int, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        x = torch.randn(size + 1, batch, 1, generator=generator)
        x[1:] *= NOISE
        return x, (x[0, :, 0] > 0).float()
