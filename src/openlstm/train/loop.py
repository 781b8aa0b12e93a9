"""The training loop, on one process or many; at the end the model has the weights of its best epoch.

Legend: N examples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import numpy as np

from openlstm.errors import ArgumentError, TrainingError, missing_extra
from openlstm.noise import first_row

try:
    import torch
    from torch import Tensor, nn

    from openlstm.train import randomness, signals
    from openlstm.train.checkpoint import Checkpoints
    from openlstm.train.processes import Processes, processes
    from openlstm.train.source import Source, source_of
except ImportError as e:
    raise missing_extra("openlstm.train", e.name or "torch", "torch") from None

RATES, MAY_BE_ZERO = ("learning_rate", "weight_decay"), ("weight_decay", "seed")
LARGEST_RATE = 1e30  # products with it stay inside float32

Error = tuple[Tensor, Tensor]
"""The sum of the errors, and the number of targets that count; both scalars."""

Loss = Callable[..., Error]
"""loss(model, *batch) -> Error.

One that carries something from step to step, (h, c) say, has `state_dict` and `load_state_dict`, and checkpoints hold it.
"""


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

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name == "shuffle":
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
    data: Sequence[Tensor] | Source,
    validation: Sequence[Tensor] | Source | None,
    options: Options | None = None,
    callbacks: Sequence[Callback] = (),
    each_step: Sequence[StepCallback] = (),
    checkpoints: tuple[Checkpoints, str] | None = None,
) -> History:
    """Train a model in place; afterwards it holds the weights of its best epoch.

    Args:
        model: any module; `loss` calls it.
        loss: see `Loss`.
        data: tensors of equal first size N, a batch being the same rows of each; or a `Source`.
        validation: likewise; after each epoch the loss on all of it is measured, and the weights with the lowest are kept.
            None: those of the last epoch are kept.
        options: defaults if None.
        callbacks: called with each `Epoch`.
        each_step: called with each `Step`, between the backward pass and the step of the optimizer; such is
            `insight.Watch(model).on_step`.
        checkpoints: where the training saves itself, and its name there. One that was resumed goes on where it was, with the
            same bits. With it, Ctrl-C, SIGTERM and SIGHUP end the training behind a step, when it is saved.

    Returns:
        The history. The same seed gives the same weights on the same machine; the random states of torch, numpy and Python are
        left as they were. After `processes.launch` each process has a share of every batch, and the result is that of one.

    Raises:
        ArgumentError: if there is no example to train on or to validate with, or a batch has fewer rows than processes.
        TrainingError: if a loss or a gradient is not finite; it says where the first such number was, and the model has the
            weights of its best epoch, or before the first one those of the step before.

    >>> x = torch.randn(256, 3, generator=torch.Generator().manual_seed(0))
    >>> model = nn.Linear(3, 1)
    >>> squares = lambda model, x, y: (((model(x) - y) ** 2).sum(), torch.tensor(y.numel()))
    >>> history = train(model, squares, [x, x.sum(1, keepdim=True)], [x, x.sum(1, keepdim=True)], Options(learning_rate=0.1))
    >>> history.best.validation_loss < 1e-3
    True
    """
    options = options or Options()
    data = source_of(data)
    validation = None if validation is None else source_of(validation)
    for name, part in (("data", data), ("validation", validation)):
        if part is not None and not len(part):
            what, got = f"{name} holds no example", _shape(part)
            expected, hint = "at least one row", "give a longer table, or a smaller window or horizon"
            raise ArgumentError.of("train", what, got, expected, hint)
    with randomness.kept(options.seed), signals.noted(checkpoints is not None) as signal:
        training = _Training(model, loss, data, validation, options)
        training.callbacks, training.each_step, training.signal = callbacks, each_step, signal
        if checkpoints is not None:
            training.checkpoints, training.name = checkpoints
            found = training.checkpoints.found(training.name)
            if found is not None:
                training.load_state_dict(found)
        while not training.finished:
            training.epoch()
        return training.end()


class _Training:
    """A training at one moment, as a checkpoint holds it, and how it goes on."""

    def __init__(self, model: nn.Module, loss: Loss, data: Source, validation: Source | None, options: Options) -> None:
        self.processes: Processes = processes()
        if options.batch_size < self.processes.count:
            what, got = "a batch has fewer rows than there are processes", f"batch_size={options.batch_size}"
            hint = "pass a larger batch_size, or fewer processes"
            raise ArgumentError.of("train", what, got, f"at least {self.processes.count}", hint)
        self.model, self.loss, self.data, self.validation, self.options = model, loss, data, validation, options
        model.to(self.processes.device)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        batches = math.ceil(len(data) / options.batch_size)
        self.each_epoch = min(max(batches, options.least_batches), options.most_batches)  # steps
        self.optimizer = torch.optim.AdamW(self.parameters, lr=options.learning_rate, weight_decay=options.weight_decay)
        rate = lambda step: _rate(step, self.each_epoch, options.epochs)  # noqa: E731
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, rate)
        self.shuffle, self.draw = torch.Generator().manual_seed(options.seed), np.random.default_rng(options.seed)
        self.callbacks: Sequence[Callback] = ()
        self.each_step: Sequence[StepCallback] = ()
        self.signal = signals.Noted()
        self.checkpoints: Checkpoints | None = None
        self.name = ""
        self.stopping = False  # whether one of several processes was told to stop
        self.steps = 0
        self.epochs: list[Epoch] = []
        self.best: Epoch | None = None
        self.best_weights: dict[str, Tensor] = {}
        self._begin()

    def _begin(self) -> None:
        """The epoch that begins: the order of its rows, how many batches of it are done, their losses, the seconds so far."""
        self.order, self.batches = torch.empty(0, dtype=torch.int64), 0
        self.total = self.counted = self.seconds = 0.0

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the last ones brought nothing."""
        done = len(self.epochs)
        return done >= self.options.epochs or (self.best is not None and done - self.best.number >= self.options.patience)

    def epoch(self) -> None:
        """What is left of an epoch."""
        begin = time.perf_counter() - self.seconds
        if not len(self.order):
            self.order = self._order()
        self.model.train()
        for rows in self.order.split(self.options.batch_size)[self.batches :]:
            self._learn(rows)
            self.batches += 1
            self.seconds = time.perf_counter() - begin
            self._pause()
        number, validation_loss = len(self.epochs) + 1, self._validate()
        is_best = self.best is None or self.validation is None or validation_loss < self.best.validation_loss
        seconds = time.perf_counter() - begin
        epoch = Epoch(number, self.total / max(self.counted, 1.0), validation_loss, is_best, seconds, len(self.order))
        self.epochs.append(epoch)
        if is_best:
            self.best, self.best_weights = epoch, {n: t.clone() for n, t in self.model.state_dict().items()}
        self._begin()
        for callback in self.callbacks:
            callback(epoch)

    def end(self) -> History:
        """The history; the model gets its best weights, and the last checkpoint holds what later trainings need of this one."""
        assert self.best is not None
        self.model.load_state_dict(self.best_weights)
        if self.checkpoints is not None:
            self.checkpoints.put(self.name, self.state_dict())
        return History(tuple(self.epochs), self.best)

    def state_dict(self) -> dict[str, Any]:
        """All of it as plain values and tensors."""
        past = {
            "epochs": [tuple(epoch) for epoch in self.epochs],
            "best": None if self.best is None else self.best.number,
            "best_weights": self.best_weights,
        }
        if self.finished:
            return past
        now = {name: getattr(self, name) for name in _NOW}
        return past | now | {name: of(self) for name, (of, _) in _PARTS.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where it was."""
        self.epochs = [Epoch(*epoch) for epoch in state["epochs"]]
        self.best = None if state["best"] is None else self.epochs[state["best"] - 1]
        self.best_weights = state["best_weights"]
        if self.finished:
            return
        for name in _NOW:
            setattr(self, name, state[name])
        for name, (_, put) in _PARTS.items():
            put(self, state[name])

    def _order(self) -> Tensor:
        count = self.each_epoch * self.options.batch_size
        if self.options.shuffle:
            return _shuffled(len(self.data), count, self.shuffle)
        return torch.arange(max(1, count // len(self.data)) * len(self.data))[:count] % len(self.data)

    def _learn(self, rows: Tensor) -> None:
        """One step down the gradient of the mean loss over the targets of some rows."""
        error, batch = self._error(self.data, rows, self.draw.random(len(rows)))
        total, targets, stop = self._sums(error)
        self.total, self.counted = self.total + total, self.counted + targets
        if not math.isfinite(total):
            self._refuse("loss", f"loss={total}", batch)
        if targets:
            mean = None if error is None else error[0] / targets
            self._step(mean, total / targets, batch, len(rows))
        self.stopping = stop > 0

    def _step(self, mean: Tensor | None, loss: float, batch: Sequence[Tensor], rows: int) -> None:
        clip = self.options.clip
        self.optimizer.zero_grad()
        if mean is not None:
            mean.backward()
        self.processes.add_gradients(self.parameters)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, clip))
        number, rate = len(self.epochs) + 1, self.optimizer.param_groups[0]["lr"]
        step = Step(self.steps, number, loss, norm, clip, rows, self.each_epoch, rate)
        for callback in self.each_step:
            callback(step)
        if not math.isfinite(norm):
            self._refuse("gradient", f"norm={norm}", batch)
        self.optimizer.step()
        self.schedule.step()
        self.steps += 1

    @torch.no_grad()
    def _validate(self) -> float:
        """The mean loss over all targets of the validation; NaN without one."""
        if self.validation is None:
            return math.nan
        self.model.eval()
        total, counted = 0.0, 0.0
        for rows in torch.arange(len(self.validation)).split(self.options.batch_size):
            error, batch = self._error(self.validation, rows, None)
            part, targets, stop = self._sums(error)
            total, counted = total + part, counted + targets
            if not math.isfinite(part):
                self._refuse("loss", f"loss={part}", batch)
            self.stopping = stop > 0
            if self._stops:
                self._pause()  # it is begun again, from the end of the steps
        return total / max(counted, 1.0)

    def _error(self, source: Source, rows: Tensor, draw: np.ndarray | None) -> tuple[Error | None, list[Tensor]]:
        """The loss of this process's share of some rows, None where it has none of them, and the batch."""
        share = self.processes.share(len(rows))
        empty = share.start == share.stop
        if empty:  # run all the same: the random state has to be that of the other processes
            share = slice(0, 1)
        given = source.batch(rows[share], None if draw is None else draw[share])
        batch = [part.to(self.processes.device) for part in given]
        with first_row(share.start):  # noise is that of these rows in the whole batch
            error = self.loss(self.model, *batch)
        return None if empty else error, batch

    def _sums(self, error: Error | None) -> list[float]:
        """The sum of the errors, the number of targets, and whether to stop, over all processes."""
        own = (0.0, 0.0) if error is None else (float(error[0].detach()), float(error[1]))
        return self.processes.sums(*own, float(self.signal.number is not None))

    @property
    def _stops(self) -> bool:
        """Whether to end here: one process as soon as it is told to, several at the step at which all of them know."""
        return self.stopping if self.processes.count > 1 else self.signal.number is not None

    def _pause(self) -> None:
        """Save what is to be saved, and end here if a signal says so."""
        if self.checkpoints is None:
            return
        if self._stops:
            saved = self.checkpoints.put(self.name, self.state_dict(), now=True)
            told = f"stopped at step {self.steps:,}, {'saved in' if saved else 'NOT saved in'} {self.checkpoints.folder}"
            self.checkpoints.say(told + ("; the same command with --resume goes on" if saved else ""))
            self.signal.leave()
        if self.checkpoints.due:
            self.checkpoints.put(self.name, self.state_dict())

    def _refuse(self, kind: str, got: str, batch: Sequence[Tensor]) -> NoReturn:
        """Raise for a number that is not finite, and say where it was; the model gets the last good weights."""
        from openlstm.train.finite import origin

        where = origin(self.model, self.loss, batch)
        if self.best_weights:
            self.model.load_state_dict(self.best_weights)
        what = f"the {kind} is not finite in epoch {len(self.epochs) + 1}"
        hint = "lower the learning rate, or look for huge values in the data"
        raise TrainingError.of("train", what, f"{got} at step {self.steps}: {where}", f"a finite {kind}", hint)


_NOW = ("steps", "order", "batches", "total", "counted", "seconds")

_PARTS: dict[str, tuple[Callable[[_Training], Any], Callable[[_Training, Any], Any]]] = {
    "model": (lambda t: t.model.state_dict(), lambda t, found: t.model.load_state_dict(found)),
    "optimizer": (lambda t: t.optimizer.state_dict(), lambda t, found: t.optimizer.load_state_dict(found)),
    "schedule": (lambda t: t.schedule.state_dict(), lambda t, found: t.schedule.load_state_dict(found)),
    "shuffle": (lambda t: t.shuffle.get_state(), lambda t, found: t.shuffle.set_state(found)),
    "draw": (lambda t: t.draw.bit_generator.state, lambda t, found: setattr(t.draw.bit_generator, "state", found)),
    "random": (lambda t: randomness.state(), lambda t, found: randomness.restore(found)),
    "loss": (
        lambda t: t.loss.state_dict() if hasattr(t.loss, "state_dict") else None,  # type: ignore[attr-defined]
        lambda t, found: None if found is None else t.loss.load_state_dict(found),  # type: ignore[attr-defined]
    ),
}
"""How each part of a training is read and put back."""


def _shape(part: Any) -> str:
    parts = getattr(part, "parts", None)
    return "0 examples" if parts is None else f"0 examples: {', '.join(str(list(p.shape)) for p in parts)}"


def _shuffled(rows: int, count: int, shuffle: torch.Generator) -> Tensor:
    """The rows of one epoch: all of them at random; a part of them, or all of them again, as `count` (whole batches) asks."""
    rounds = max(1, count // rows)
    return torch.cat([torch.randperm(rows, generator=shuffle) for _ in range(rounds)])[:count]


def _rate(step: int, steps: int, epochs: int) -> float:
    """The factor of the learning rate: up over one epoch, then down along a cosine."""
    return min(1.0, (step + 1) / steps) * 0.5 * (1 + math.cos(math.pi * min(step / (steps * epochs), 1.0)))
