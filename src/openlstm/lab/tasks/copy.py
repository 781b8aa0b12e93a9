"""`copy`: ten symbols, a long silence, and then the ten symbols again, in order."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from openlstm.lab.tasks.task import Published, Task, one_hot

LETTERS, SYMBOLS = 10, 8  # how many have to be kept, and of how many kinds
BLANK, GO = 8, 9
BAI = "Bai, Kolter & Koltun 2018, table 1"


class Copy(Task):
    """Ten letters out of eight kinds, lag - 1 blanks, a sign to begin, ten blanks; the answer is blank until the sign.

    x [lag + 20, B, 10], one-hot: letters 0-7, blank 8, sign 9. target int64 [lag + 20, B]: 8 at the first lag + 10 steps, then
    the ten letters. Who remembers nothing has the loss 10 ln 8 / (lag + 20): 0.0204 at lag 1,000.

    >>> x, target = Copy().batch(3, 2, torch.Generator().manual_seed(0))
    >>> x.shape, torch.equal(x[:10].argmax(-1), target[-10:]), target[:13].unique().tolist()
    (torch.Size([23, 2, 10]), True, [8])
    """

    name = "copy"
    question = "ten symbols again, in order, after a silence"
    source = "Hochreiter & Schmidhuber 1997 (noise-free sequences); in this form Arjovsky, Shah & Bengio 2016"
    inputs, outputs = 10, 9
    where = "every step"
    answer = "right symbols"
    guessing = 1 / SYMBOLS
    rate = 1e-2
    published = (
        Published("loss .0204 (memoryless .0204)", "LSTM, lag 1,000", BAI),
        Published("loss .0197", "GRU, lag 1,000", BAI),
        Published("loss 3.5e-5", "temporal convolutions, lag 1,000", BAI),
    )

    def draw(self, size: int, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        letters = torch.randint(SYMBOLS, (LETTERS, batch), generator=generator)
        said = torch.full((size + 2 * LETTERS, batch), BLANK)
        target = said.clone()
        said[:LETTERS], said[LETTERS + size - 1], target[-LETTERS:] = letters, GO, letters
        return one_hot(said, self.inputs), target

    def loss(self, outputs: Tensor, *target: Tensor) -> Tensor:
        """Cross entropy over all steps, blanks too, as in the papers."""
        return F.cross_entropy(outputs.flatten(0, -2), target[0].flatten())

    def right(self, outputs: Tensor, *target: Tensor) -> Tensor:
        """[10 B]: the ten letters; blanks do not count."""
        return (outputs[-LETTERS:].argmax(-1) == target[0][-LETTERS:]).flatten()

    def lag(self, size: int) -> int:
        """Every letter comes back size + 10 steps after it was said."""
        return size + LETTERS
