"""The training loop, on Lightning Fabric: one readable order of things, the best weights at the end.

Legend: N examples.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from openlstm.errors import ArgumentError, TrainingError, message, missing_extra

try:
    import torch
    from lightning_fabric import Fabric
    from torch import Tensor, nn
except ImportError as e:
    raise missing_extra("openlstm.train", e.name or "torch", "torch") from None

LARGEST_RATE = 1e30  # products with it stay inside float32

Loss = Callable[..., tuple[Tensor, Tensor]]
"""loss(model, *batch) -> (sum of the errors, number of targets that count); both scalars."""


@dataclass(frozen=True)
class Options:
    """How to train.

    The learning rate rises over the first epoch and then falls to zero along a cosine over all `epochs`; training stops when
    the validation loss has not fallen for `patience` epochs.
    """

    epochs: int = 40
    batch_size: int = 64
    learning_rate: float = 5e-3
    weight_decay: float = 0.01
    clip: float = 1.0  # the greatest norm of the gradient of a step
    patience: int = 10
    seed: int = 0
    least_batches: int = 30  # of an epoch; a short table is gone through several times
    most_batches: int = 200  # of an epoch; a longer table gives each epoch another random part of it

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "clip", "patience", "least_batches", "most_batches"):
            if not getattr(self, name) > 0:
                raise ArgumentError(
                    message(
                        "Options",
                        f"{name} must be above zero",
                        f"{name}={getattr(self, name)!r}",
                        "a number > 0",
                        f"leave {name} out to take its default",
                    )
                )
        for name in ("weight_decay", "seed"):
            if not getattr(self, name) >= 0:
                raise ArgumentError(
                    message(
                        "Options",
                        f"{name} must not be negative",
                        f"{name}={getattr(self, name)!r}",
                        "a number >= 0",
                        f"leave {name} out to take its default",
                    )
                )
        for name in ("learning_rate", "weight_decay"):
            if getattr(self, name) > LARGEST_RATE:
                raise ArgumentError(
                    message(
                        "Options",
                        f"{name} is too large",
                        f"{name}={getattr(self, name)!r}",
                        f"at most {LARGEST_RATE:g}, usually below 1",
                        f"leave {name} out to take its default",
                    )
                )


class Epoch(NamedTuple):
    """What a callback hears after each epoch."""

    number: int  # from 1
    train_loss: float
    validation_loss: float
    is_best: bool
    seconds: float


Callback = Callable[[Epoch], None]


class Step(NamedTuple):
    """What a callback hears at each step: gradients are there and clipped, the weights have not moved yet."""

    number: int  # from 0, over all epochs
    epoch: int  # from 1
    loss: float  # mean over the targets of the batch
    norm: float  # of the gradient, before clipping
    clip: float  # what it is clipped to


StepCallback = Callable[[Step], None]


class History(NamedTuple):
    """How a training went."""

    epochs: tuple[Epoch, ...]
    best: Epoch  # the one whose weights the model has now


def train(
    model: nn.Module,
    loss: Loss,
    data: Sequence[Tensor],
    validation: Sequence[Tensor],
    options: Options | None = None,
    callbacks: Sequence[Callback] = (),
    each_step: Sequence[StepCallback] = (),
) -> History:
    """Train a model in place; afterwards it holds the weights of its best epoch.

    Args:
        model: any module; `loss` calls it.
        loss: see `Loss`.
        data: tensors of equal first size N; a batch is the same rows of each.
        validation: likewise; after each epoch the loss on all of it is measured, and the weights with the lowest are kept.
        options: defaults if None.
        callbacks: called with each `Epoch`.
        each_step: called with each `Step`, between the backward pass and the step of the optimizer; such is
            `insight.Watch(model).on_step`.

    Returns:
        The history. The same seed gives the same weights on the same machine; torch's global random state is left as it was.

    Raises:
        ArgumentError: if there is no example to train on or to validate with.
        TrainingError: if a loss or a gradient is not finite.

    >>> x = torch.randn(256, 3, generator=torch.Generator().manual_seed(0))
    >>> model = nn.Linear(3, 1)
    >>> squares = lambda model, x, y: (((model(x) - y) ** 2).sum(), torch.tensor(y.numel()))
    >>> history = train(model, squares, [x, x.sum(1, keepdim=True)], [x, x.sum(1, keepdim=True)], Options(learning_rate=0.1))
    >>> history.best.validation_loss < 1e-3
    True
    """
    options = options or Options()
    for name, part in (("data", data), ("validation", validation)):
        if not len(part[0]):
            raise ArgumentError(
                message(
                    "train",
                    f"{name} holds no example",
                    f"{name}[0]: {list(part[0].shape)}",
                    "at least one row",
                    "give a longer table, or a smaller window or horizon",
                )
            )
    with _seeded(options.seed):
        return _train(model, loss, data, validation, options, callbacks, each_step)


def _train(
    model: nn.Module,
    loss: Loss,
    data: Sequence[Tensor],
    validation: Sequence[Tensor],
    options: Options,
    callbacks: Sequence[Callback],
    each_step: Sequence[StepCallback],
) -> History:
    fabric = Fabric(accelerator="cuda" if torch.cuda.is_available() else "cpu", devices=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    wrapped, optimizer = fabric.setup(model, optimizer)
    steps = min(max(math.ceil(len(data[0]) / options.batch_size), options.least_batches), options.most_batches)  # of an epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, options.epochs))
    shuffle = torch.Generator().manual_seed(options.seed)
    epochs: list[Epoch] = []
    best: Epoch | None = None
    best_weights: dict[str, Tensor] = {}
    count = itertools.count()
    for number in range(1, options.epochs + 1):
        start = time.perf_counter()
        order = _shuffled(len(data[0]), steps * options.batch_size, shuffle)
        train_loss = _run_epoch(fabric, wrapped, loss, data, order, options, number, optimizer, schedule, each_step, count)
        with torch.no_grad():
            validation_loss = _run_epoch(fabric, wrapped, loss, validation, torch.arange(len(validation[0])), options, number)
        is_best = best is None or validation_loss < best.validation_loss
        epoch = Epoch(number, train_loss, validation_loss, is_best, time.perf_counter() - start)
        epochs.append(epoch)
        if is_best:
            best, best_weights = epoch, copy.deepcopy(model.state_dict())
        for callback in callbacks:
            callback(epoch)
        assert best is not None
        if number - best.number >= options.patience:
            break
    assert best is not None
    model.load_state_dict(best_weights)
    return History(tuple(epochs), best)


def _run_epoch(
    fabric: Fabric,
    model: nn.Module,
    loss: Loss,
    data: Sequence[Tensor],
    order: Tensor,
    options: Options,
    number: int,
    optimizer: torch.optim.Optimizer | None = None,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    each_step: Sequence[StepCallback] = (),
    count: Iterator[int] | None = None,
) -> float:
    """One pass over `data`, with steps of the optimizer if there is one; the mean loss over all targets."""
    model.train(optimizer is not None)
    total, counted = 0.0, 0.0
    for rows in order.split(options.batch_size):
        batch = [fabric.to_device(part[rows]) for part in data]
        error, targets = loss(model, *batch)
        total, counted = total + float(error.detach()), counted + float(targets)
        if not math.isfinite(total):
            raise TrainingError(
                message(
                    "train",
                    f"the loss is not finite in epoch {number}",
                    f"loss={float(error.detach())}",
                    "a finite loss",
                    "lower the learning rate, or look for huge values in the data",
                )
            )
        if optimizer is None or not float(targets):
            continue
        optimizer.zero_grad()
        fabric.backward(error / targets)
        step = next(count) if count is not None else 0
        norm = float(fabric.clip_gradients(model, optimizer, max_norm=options.clip, error_if_nonfinite=False) or 0.0)
        for callback in each_step:
            callback(Step(step, number, float(error.detach()) / float(targets), norm, options.clip))
        if not math.isfinite(norm):
            raise TrainingError(
                message(
                    "train",
                    f"the gradient is not finite in epoch {number}",
                    f"norm={norm} at step {step}",
                    "a finite gradient",
                    "lower the learning rate, or shorten the sequences; openlstm.xray says in which layer, step and gate",
                )
            )
        optimizer.step()
        if schedule is not None:
            schedule.step()
    return total / max(counted, 1.0)


def _shuffled(rows: int, count: int, shuffle: torch.Generator) -> Tensor:
    """The rows of one epoch: all of them at random; a part of them, or all of them again, as `count` (whole batches) asks."""
    rounds = max(1, count // rows)
    return torch.cat([torch.randperm(rows, generator=shuffle) for _ in range(rounds)])[:count]


def _rate(step: int, steps: int, epochs: int) -> float:
    """The factor of the learning rate: up over one epoch, then down along a cosine."""
    return min(1.0, (step + 1) / steps) * 0.5 * (1 + math.cos(math.pi * min(step / (steps * epochs), 1.0)))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's random state from `seed` on, and as it was afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
