"""`latch`, the main experiment: a sign is overwritten by later ones, and the last is kept through a lag of distractors."""

from __future__ import annotations

import torch
from torch import Tensor

from openlstm.lab.tasks.task import Sign

EARLY = 20  # steps in which the marks that do not count may fall
MARKS = 3  # how many of them there are


def latch_batch(lag: int, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sequences in which a sign has to be overwritten, and then kept through `lag` steps of distractors.

    Channel 0 is N(0, 1) at every step and channel 1 is a marker. Three marks fall at random among steps 0-19, one at step 20,
    and `lag` more steps follow. The answer is the sign of channel 0 at the last mark. A network that cannot forget mixes the
    four marked values, one that cannot keep loses all of them.

    Args:
        lag: steps after the last mark.
        batch: how many sequences.
        generator: the source of all randomness.

    Returns:
        x float32 [T, B, 2] with T = 21 + lag, and the answers float32 [B]: 1 for a positive sign, 0 for a negative one.

    >>> x, answer = latch_batch(5, 3, torch.Generator().manual_seed(0))
    >>> x.shape, int(x[..., 1].sum())
    (torch.Size([26, 3, 2]), 12)
    """
    x = torch.zeros(EARLY + 1 + lag, batch, 2)
    x[..., 0] = torch.randn(x.shape[:2], generator=generator)
    early = torch.rand(EARLY, batch, generator=generator).argsort(0)[:MARKS]  # [3, B], all different
    x[:EARLY, :, 1].scatter_(0, early, 1.0)
    x[EARLY, :, 1] = 1.0
    return x, (x[EARLY, :, 0] > 0).float()


class Latch(Sign):
    """Overwrite (f = 0, i = 1), then keep (f = 1, i = 0): see `latch_batch`.

    >>> Latch().batch(120, 64, torch.Generator())[0].shape
    torch.Size([141, 64, 2])
    """

    name = "latch"
    question = "the sign at the last of four marks, after a lag of full-size distractors"
    source = "ours, after the latching problem of Bengio, Simard & Frasconi 1994"
    inputs = 2

    def draw(self, size: int, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        return latch_batch(size, batch, generator)
