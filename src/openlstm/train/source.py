"""What gives a training its examples: tensors of equal first size, or anything that makes a batch of the numbers of its rows.

Legend: N rows of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor


class Source(Protocol):
    """Examples by number."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def batch(self, rows: Tensor, draw: np.ndarray | None, /) -> Sequence[Tensor]:
        """Some of them, in the form in which the loss takes them.

        Args:
            rows: int64 [N].
            draw: float64 [N] in [0, 1), a random number for each row: whatever is drawn is to be made of it, so that a training
                that goes on after a stop, or on several processes, draws the same. None in validation.
        """
        ...


class Tensors:
    """Tensors of equal first size; a batch is the same rows of each."""

    def __init__(self, parts: Sequence[Tensor]) -> None:
        self.parts = tuple(parts)

    def __len__(self) -> int:
        return len(self.parts[0])

    def batch(self, rows: Tensor, draw: np.ndarray | None) -> Sequence[Tensor]:
        """See `Source`."""
        return [part[rows] for part in self.parts]


class Computed:
    """So many examples, whose batches a function makes; its arguments are those of `Source.batch`."""

    def __init__(self, count: int, batch: Callable[[Tensor, np.ndarray | None], Sequence[Tensor]]) -> None:
        self.count, self.batch = count, batch

    def __len__(self) -> int:
        return self.count


def source_of(data: Sequence[Tensor] | Source) -> Source:
    """Tensors as a source; a source as it is."""
    return Tensors(data) if isinstance(data, Sequence) else data
