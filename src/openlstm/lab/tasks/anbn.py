"""`anbn`: n times a, then n times b. To say when the string is over is to count."""

from __future__ import annotations

import torch
from torch import Tensor

from openlstm.lab.tasks.task import Grammar, Published, one_hot

SYMBOLS = "abT"  # T ends a string; the inputs are S (which begins it), a, b


class Anbn(Grammar):
    """S a..a b..b with 1 <= n <= length, drawn evenly; at each symbol the question is which may follow: a, b or the end T.

    x [2 length + 1, B, 3], one-hot S, a, b, zeros behind the string. After S only a may follow, after an a both a and b, and
    after a b another b until there are n of them, then T. Right is a string that is right at every step.

    >>> x, following, possible = Anbn().batch(4, 2, torch.Generator().manual_seed(0))
    >>> n = x[..., 1].sum(0)
    >>> x.shape, torch.equal(n, x[..., 2].sum(0)), torch.equal((following >= 0).sum(0), 2 * n.long() + 1)
    (torch.Size([9, 2, 3]), True, True)
    """

    name = "anbn"
    question = "when n times a and n times b are over"
    source = "Gers & Schmidhuber 2001"
    inputs, outputs = 3, 3
    answer = "strings right at every step"
    guessing = 0.1
    published = (
        Published("n = 1-1,000 by the best network", "LSTM with peepholes, trained on n = 1-10", "Gers & Schmidhuber 2001"),
    )

    def draw(self, size: int, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        return self.strings(size, torch.randint(1, size + 1, (batch,), generator=generator))

    def strings(self, size: int, n: Tensor) -> tuple[Tensor, ...]:
        """The strings of the numbers n [B], none larger than `size`."""
        t = torch.arange(2 * size + 1)[:, None]  # [T, 1]
        said = torch.where(t == 0, 0, torch.where(t <= n, 1, 2))
        following = torch.where(t < n, 0, torch.where(t < 2 * n, 1, 2))
        real = t <= 2 * n
        possible = one_hot(following, 3).bool()
        possible[..., 1] |= (t > 0) & (t < n)  # after an a, a b may always come
        possible[..., 0] |= t == n  # and another a
        said, following = torch.where(real, said, -1), torch.where(real, following, -1)
        return one_hot(said, 3), following, possible & real[..., None]

    def look(self, size: int, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The longest string, and the question at its last b: is it over?"""
        n = torch.full((batch,), size)
        x, following, possible = self.strings(size, n)
        return x, following[-1:], possible[-1:]

    def lag(self, size: int) -> int:
        """From the last S to the end of the longest string."""
        return 2 * size
