"""How to train: `Options`, and the errors for what they cannot be."""

from __future__ import annotations

from dataclasses import dataclass

from openlstm.errors import ArgumentError

RATES, MAY_BE_ZERO = ("learning_rate", "weight_decay"), ("weight_decay", "seed")
LARGEST_RATE = 1e30  # products with it stay inside float32

PRECISIONS = ("float32", "bfloat16", "auto")
"""In which type a training multiplies; see `train.precision.autocast`."""


def check_precision(who: str, precision: object) -> None:
    """Raise for what is none of `PRECISIONS`."""
    if precision not in PRECISIONS:
        what, hint = f"unknown precision {precision!r}", "leave precision out to train in float32"
        raise ArgumentError.of(who, what, f"precision={precision!r}", ", ".join(PRECISIONS), hint)


@dataclass(frozen=True)
class Options:
    """How to train.

    The learning rate rises over the first epoch and then falls to zero along a cosine over all `epochs`; training stops when
    the validation loss has not fallen for `patience` epochs.
    """

    epochs: int = 40
    batch_size: int = 64  # of all processes together
    learning_rate: float = 5e-3
    weight_decay: float = 0.01
    clip: float = 1.0  # the greatest norm of the gradient of a step
    patience: int = 10
    seed: int = 0
    least_batches: int = 30  # of an epoch; a short table is gone through several times
    most_batches: int = 200  # of an epoch; a longer table gives each epoch another random part of it
    shuffle: bool = True  # False: in the order of the data, as truncated backpropagation through time wants it
    precision: str = "float32"  # of the products in recurrent layers, or "bfloat16", or "auto": what is faster here

    def __post_init__(self) -> None:
        check_precision("Options", self.precision)
        for name, value in vars(self).items():
            if name in ("shuffle", "precision"):
                continue
            if name in MAY_BE_ZERO and not value >= 0:
                what, expected = "must not be negative", "a number >= 0"
            elif name not in MAY_BE_ZERO and not value > 0:
                what, expected = "must be above zero", "a number > 0"
            elif name in RATES and value > LARGEST_RATE:
                what, expected = "is too large", f"at most {LARGEST_RATE:g}, usually below 1"
            else:
                continue
            hint = f"leave {name} out to take its default"
            raise ArgumentError.of("Options", f"{name} {what}", f"{name}={value!r}", expected, hint)
