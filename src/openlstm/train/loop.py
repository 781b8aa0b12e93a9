"""The training loop, on Lightning Fabric; at the end the model has the weights of its best epoch.

Legend: N examples.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from openlstm.errors import ArgumentError, TrainingError, missing_extra

try:
    import torch
    from lightning_fabric import Fabric
    from torch import Tensor, nn
except ImportError as e:
    raise missing_extra("openlstm.train", e.name or "torch", "torch") from None

RATES, MAY_BE_ZERO = ("learning_rate", "weight_decay"), ("weight_decay", "seed")
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
        for name, value in vars(self).items():
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


class Epoch(NamedTuple):
    """What a callback is given after each epoch."""

    number: int  # from 1
    train_loss: float
    validation_loss: float  # NaN without validation
    is_best: bool
    seconds: float
    examples: int = 0  # learnt from


Callback = Callable[[Epoch], None]


class Step(NamedTuple):
    """What a callback is given at each step: gradients are there and clipped, the weights have not moved yet."""

    number: int  # from 0, over all epochs
    epoch: int  # from 1
    loss: float  # mean over the targets of the batch
    norm: float  # of the gradient, before clipping
    clip: float  # what it is clipped to
    examples: int = 0  # of the batch
    steps: int = 0  # of an epoch
    learning_rate: float = math.nan


StepCallback = Callable[[Step], None]


class History(NamedTuple):
    """How a training went."""

    epochs: tuple[Epoch, ...]
    best: Epoch  # the one whose weights the model has now


def train(
    model: nn.Module,
    loss: Loss,
    data: Sequence[Tensor],
    validation: Sequence[Tensor] | None,
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
            None: those of the last epoch are kept.
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
        if part is not None and not len(part[0]):
            what, got = f"{name} holds no example", f"{name}[0]: {list(part[0].shape)}"
            expected, hint = "at least one row", "give a longer table, or a smaller window or horizon"
            raise ArgumentError.of("train", what, got, expected, hint)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        return _train(model, loss, data, validation, options, callbacks, each_step)


def _train(
    model: nn.Module,
    loss: Loss,
    data: Sequence[Tensor],
    validation: Sequence[Tensor] | None,
    options: Options,
    callbacks: Sequence[Callback],
    each_step: Sequence[StepCallback],
) -> History:
    steps = min(max(math.ceil(len(data[0]) / options.batch_size), options.least_batches), options.most_batches)  # of an epoch
    training = _Training(model, loss, options, steps, each_step)
    shuffle = torch.Generator().manual_seed(options.seed)
    epochs: list[Epoch] = []
    best: Epoch | None = None
    best_weights: dict[str, Tensor] = {}
    for number in range(1, options.epochs + 1):
        start = time.perf_counter()
        order = _shuffled(len(data[0]), steps * options.batch_size, shuffle)
        train_loss = training.epoch(number, data, order)
        with torch.no_grad():
            validation_loss = math.nan if validation is None else training.epoch(number, validation)
        is_best = best is None or validation is None or validation_loss < best.validation_loss
        epoch = Epoch(number, train_loss, validation_loss, is_best, time.perf_counter() - start, len(order))
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


class _Training:
    """What all epochs of a training share: the model, its optimizer, and the number of steps so far."""

    def __init__(self, model: nn.Module, loss: Loss, options: Options, steps: int, each_step: Sequence[StepCallback]) -> None:
        self.fabric = Fabric(accelerator="cuda" if torch.cuda.is_available() else "cpu", devices=1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
        self.model, self.optimizer = self.fabric.setup(model, optimizer)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: _rate(step, steps, options.epochs))
        self.loss, self.options, self.each_step = loss, options, each_step
        self.steps, self.each_epoch = 0, steps

    def epoch(self, number: int, data: Sequence[Tensor], order: Tensor | None = None) -> float:
        """One pass over `data`: the mean loss over all targets. With an order of its rows, the model learns from them."""
        learn = order is not None
        self.model.train(learn)
        total, counted = 0.0, 0.0
        for rows in (order if learn else torch.arange(len(data[0]))).split(self.options.batch_size):
            error, targets = self.loss(self.model, *(self.fabric.to_device(part[rows]) for part in data))
            total, counted = total + float(error.detach()), counted + float(targets)
            if not math.isfinite(total):
                what, got = f"the loss is not finite in epoch {number}", f"loss={float(error.detach())}"
                hint = "lower the learning rate, or look for huge values in the data"
                raise TrainingError.of("train", what, got, "a finite loss", hint)
            if learn and float(targets):
                self._step(number, error / targets, len(rows))
        return total / max(counted, 1.0)

    def _step(self, epoch: int, loss: Tensor, examples: int) -> None:
        """One step down the gradient of the loss."""
        clip = self.options.clip
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        norm = float(self.fabric.clip_gradients(self.model, self.optimizer, max_norm=clip, error_if_nonfinite=False) or 0.0)
        for callback in self.each_step:
            rate = self.optimizer.param_groups[0]["lr"]
            callback(Step(self.steps, epoch, float(loss.detach()), norm, clip, examples, self.each_epoch, rate))
        if not math.isfinite(norm):
            what, got = f"the gradient is not finite in epoch {epoch}", f"norm={norm} at step {self.steps}"
            hint = "lower the learning rate, or shorten the sequences; openlstm.xray says in which layer, step and gate"
            raise TrainingError.of("train", what, got, "a finite gradient", hint)
        self.optimizer.step()
        self.schedule.step()
        self.steps += 1


def _shuffled(rows: int, count: int, shuffle: torch.Generator) -> Tensor:
    """The rows of one epoch: all of them at random; a part of them, or all of them again, as `count` (whole batches) asks."""
    rounds = max(1, count // rows)
    return torch.cat([torch.randperm(rows, generator=shuffle) for _ in range(rounds)])[:count]


def _rate(step: int, steps: int, epochs: int) -> float:
    """The factor of the learning rate: up over one epoch, then down along a cosine."""
    return min(1.0, (step + 1) / steps) * 0.5 * (1 + math.cos(math.pi * min(step / (steps * epochs), 1.0)))
