"""What every task of the lab is: sequences made from a generator, a loss, a score, and who asked for it first.

Legend: T time, B batch, I inputs, O outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from openlstm.errors import ArgumentError
from openlstm.lab.facts import FACTS


class Published(NamedTuple):
    """What a paper reached, in its own protocol, which is never quite ours."""

    number: str
    protocol: str
    source: str


class Task(ABC):
    """A question that needs memory.

    name: as in `openlstm lab NAME`.
    inputs, outputs: I and O of a network for it.
    where: "last step" (outputs [B, O], read from the last h) or "every step" (outputs [T, B, O]).
    size_name: what the first argument of `batch` counts, "lag" or "length"; `default` and `least` are values of it. These and
        `hidden` and `steps` of the tasks of this package stand in `lab.facts`.
    answer: what the score counts.
    guessing: the score of who knows the question but remembers nothing.
    hidden, steps, rate: units, training steps and rate of Adam in the lab.
    """

    name: ClassVar[str]
    question: ClassVar[str]
    source: ClassVar[str]
    inputs: ClassVar[int]
    outputs: ClassVar[int]
    where: ClassVar[str] = "last step"
    size_name: ClassVar[str] = "lag"
    default: ClassVar[int]
    least: ClassVar[int] = 1
    answer: ClassVar[str] = "right answers"
    guessing: ClassVar[float] = 0.5
    hidden: ClassVar[int] = 32
    steps: ClassVar[int] = 1000
    rate: ClassVar[float] = 3e-3
    published: ClassVar[tuple[Published, ...]] = ()

    def __init_subclass__(cls) -> None:
        """Take over what `lab.facts` says of a task of this name."""
        if (facts := FACTS.get(getattr(cls, "name", ""))) is not None:
            cls.size_name, cls.default, cls.least, cls.hidden, cls.steps = facts[:5]

    def batch(self, size: int, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Fresh sequences: x float32 [T, B, I] and then what `loss` and `score` take beside the outputs.

        Args:
            size: the lag or the length (`size_name`), at least `least`.
            batch: how many sequences.
            generator: the source of all randomness.

        Raises:
            ArgumentError: if the size is below `least`.
        """
        if size < self.least:
            got, want = f"{self.size_name}={size}", f"at least {self.least}"
            hint = f"pass {self.size_name}={self.least} or more"
            raise ArgumentError.of(self.name, f"{self.size_name} is too small", got, want, hint)
        return self.draw(size, batch, generator)

    @abstractmethod
    def draw(self, size: int, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """As `batch`, for a size that is large enough."""

    @abstractmethod
    def loss(self, outputs: Tensor, *target: Tensor) -> Tensor:
        """What training makes small, a scalar."""

    @abstractmethod
    def right(self, outputs: Tensor, *target: Tensor) -> Tensor:
        """Which answers are right, bool [N]; how many there are in a batch depends on the task."""

    def score(self, outputs: Tensor, *target: Tensor) -> float:
        """The share of right answers."""
        right = self.right(outputs, *target)
        return int(right.sum()) / max(1, right.numel())

    def lag(self, size: int) -> int:
        """The steps between what has to be remembered and the answer that needs it."""
        return size

    def look(self, size: int, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """As `batch`, but with the target of the last step alone (a time axis of 1 where the task asks at every step).

        For a look at a network before training: the answer at the last step needs what was seen `lag(size)` steps before it.
        """
        x, *target = self.batch(size, batch, generator)
        return x, *(target if self.where == "last step" else (part[-1:] for part in target))

    def look_loss(self, outputs: Tensor, *target: Tensor) -> Tensor:
        """The loss of the answer at the last step, for the outputs of a network and the target of `look`."""
        return self.loss(outputs if self.where == "last step" else outputs[-1:], *target)


class Sign(Task):
    """A task that asks for one sign: outputs [B, 1] or [B] (logits), target float [B], 1 for positive and 0 for negative."""

    outputs = 1

    def loss(self, outputs: Tensor, *target: Tensor) -> Tensor:
        """Binary cross entropy."""
        return F.binary_cross_entropy_with_logits(outputs.reshape(target[0].shape), target[0])

    def right(self, outputs: Tensor, *target: Tensor) -> Tensor:
        """[B]. A network that diverged to NaN says "negative" everywhere, which is guessing."""
        return (outputs.reshape(target[0].shape) > 0) == (target[0] > 0)


class Grammar(Task):
    """A task that asks for the symbols that may follow: outputs [T, B, O], larger for what is more likely.

    target: next int64 [T, B], the symbol that followed (-1 where there was none: padding), and possible bool [T, B, O], those
    that the grammar allows (none in padding).
    """

    where = "every step"
    size_name = "length"

    def loss(self, outputs: Tensor, *target: Tensor) -> Tensor:
        """Binary cross entropy of every symbol's being possible, over the steps that are not padding."""
        next_, possible = target
        return F.binary_cross_entropy_with_logits(outputs[next_ >= 0], possible[next_ >= 0].to(outputs.dtype))

    def right_steps(self, outputs: Tensor, *target: Tensor) -> Tensor:
        """[T, B]: every possible symbol has a larger output than every impossible one; padding is right."""
        next_, possible = target
        low = outputs.masked_fill(~possible, float("inf")).amin(-1)
        high = outputs.masked_fill(possible, -float("inf")).amax(-1)
        return (low > high) | (next_ < 0)

    def right(self, outputs: Tensor, *target: Tensor) -> Tensor:
        """[B]: strings that are right at every step."""
        return self.right_steps(outputs, *target).all(0)


def one_hot(symbols: Tensor, count: int) -> Tensor:
    """Integers [...] -> float32 [..., count]; zeros where the integer is negative.

    >>> one_hot(torch.tensor([1, -1]), 2).tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """
    return F.one_hot(symbols.clamp(min=0), count).float() * (symbols >= 0)[..., None]
