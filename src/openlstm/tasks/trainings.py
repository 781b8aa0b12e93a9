"""The trainings of one `fit`, one after the other: how long each is, how it is saved, logged, watched and shown.

Legend: S series.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

import openlstm
from openlstm.data.panel import Panel
from openlstm.engine.threads import torch_aside
from openlstm.insight import Watch
from openlstm.model_file import Header, plain
from openlstm.tasks.examples import Examples
from openlstm.tasks.network import Net, make, weighted_error
from openlstm.tasks.recipe import Recipe
from openlstm.train import History, Options, progress, train
from openlstm.train.checkpoint import EVERY, Checkpoints
from openlstm.train.logs import JsonLines, Log, TensorBoard
from openlstm.train.precision import describe
from openlstm.train.processes import processes
from openlstm.train.progress import Training as Progress

EPOCHS = 20
"""A training is told and validated in so many parts."""

WORSE = 1.1
"""A validation loss is clearly worse from this multiple of the best on."""

LOOKS = 10
"""So often a watched network is looked at, beside the first steps."""


@dataclass(frozen=True)
class Keeping:
    """How a fit is saved, logged, watched and shown; see `Forecaster.fit`."""

    checkpoints: str | os.PathLike[str] | None = None
    resume: bool = False
    every: float = EVERY
    log: str | os.PathLike[str] | None = None
    tensorboard: str | os.PathLike[str] | None = None
    watch: bool = False
    quiet: bool = False


class Trainings:
    """What the trainings of a fit share; made by `trainings`."""

    def __init__(self, bar: Progress, checkpoints: Checkpoints | None, logs: Sequence[Log], watch: bool) -> None:
        self.bar, self.checkpoints, self.logs, self.watch = bar, checkpoints, logs, watch
        self.watches: dict[str, Watch] = {}

    def train(self, name: str, net: Net, examples: Examples, way: Options) -> tuple[Net, History]:
        """Train a network, or go on with the training of this name; a name is used once."""
        validation = examples.validating() if len(examples.validation) else None
        saved = None if self.checkpoints is None else (self.checkpoints, name)
        known = saved is not None and saved[0].found(name) is not None
        watch = Watch(net, every=max(1, way.epochs * way.most_batches // LOOKS)) if self.watch else None
        self.bar.watch = watch
        for log in self.logs:
            log.training, log.watch = name, watch
        each_epoch = [self.bar, *self.logs]
        each_step = [*([] if watch is None else [watch.on_step]), self.bar.step, *(log.step for log in self.logs)]
        seen = self.bar.examples
        loss = weighted_error(examples.header)
        history = train(net, loss, examples.learning(), validation, way, each_epoch, each_step, saved)
        if known and self.bar.examples == seen:  # it was done already
            self.bar.skip(len(history.epochs), history.best.validation_loss)
        if watch is not None:
            watch.close()
            self.watches[name] = watch
        return net.eval(), history


@contextmanager
def trainings(keeping: Keeping, about: Mapping[str, Any], members: int) -> Iterator[Trainings]:
    """All that the trainings of a fit share, opened; closed at the end, whatever ends it. The first process writes and looks.

    Args:
        about: what they belong to, see `Checkpoints`.
        members: how many trainings there will be.
    """
    first = processes().rank == 0
    logs: list[Log] = []
    with ExitStack() as stack:
        if keeping.log is not None and first:
            logs.append(stack.enter_context(JsonLines(keeping.log, resumed=keeping.resume)))
        if keeping.tensorboard is not None and first:
            logs.append(stack.enter_context(TensorBoard(keeping.tensorboard, resumed=keeping.resume)))
        checkpoints = None
        if keeping.checkpoints is not None:
            kept = {type(log).__name__: log for log in logs}
            options = {"resume": keeping.resume, "every": keeping.every, "keep": kept, "writes": first}
            checkpoints = Checkpoints(keeping.checkpoints, about, **options)
            stack.callback(checkpoints.close)
        bar = stack.enter_context(progress("fit", EPOCHS, members=members, quiet=keeping.quiet or not first))
        stack.enter_context(torch_aside())
        yield Trainings(bar, checkpoints, logs, keeping.watch and first)


def about(header: Header, known: Panel, made: Recipe, start: Mapping[str, np.ndarray] | None) -> dict[str, Any]:
    """What a checkpoint of these trainings belongs to: versions, processes, data, sizes and options.

    Args:
        start: the tensors of the model that is trained on with, if there is one.
    """
    left_out = ("checksum", "forecasters", "library")
    return {
        "openlstm": openlstm.__version__,
        "torch": torch.__version__,
        "processes": processes().count,
        "data": _digest(known.values, known.offsets, known.history, *(c.values for c in known.covariates)),
        "model": {name: part for name, part in plain(header).items() if name not in left_out},
        "steps": made.steps,
        "precision": made.precision,
        "validation": _digest(made.validation),
        "start": None if start is None else _digest(*(start[name] for name in sorted(start))),
    }


def _digest(*arrays: np.ndarray) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(repr(array.tolist()).encode() if array.dtype == object else np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def options(made: Recipe, seed: int, *, weight_decay: float, parts: int = EPOCHS) -> Options:
    """How one network is trained: `made.steps` steps in `EPOCHS` parts, of which the first `parts` are made."""
    batches = max(1, made.steps // EPOCHS)
    return Options(
        epochs=parts,
        batch_size=made.batch_size,
        learning_rate=made.learning_rate,
        weight_decay=weight_decay,
        patience=parts,
        seed=seed,
        least_batches=batches,
        most_batches=batches,
        precision=made.precision,
    )


def seconds(header: Header, examples: Examples, way: Options) -> float:
    """About how long a step takes, from three steps of a network that is thrown away."""
    once = replace(way, epochs=1, patience=1, least_batches=1, most_batches=1)
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        with torch_aside():
            train(make(header, 0), weighted_error(header), examples.learning(), None, once)
        times.append(time.perf_counter() - begin)
    return min(times)


def note(header: Header, made: Recipe) -> list[str]:
    """In which type the recurrent layers multiply, and why; nothing where it is float32 without more."""
    if made.precision == "float32":
        return []
    net, here = make(header, 0), processes()
    return [f"multiplies in {describe(net.to(here.device), made.precision, made.batch_size // here.count)}"]


def length(history: History) -> int:
    """How many epochs to train: all of them, unless the last ones made the validation loss clearly worse."""
    losses = [e.validation_loss for e in history.epochs]
    if np.mean(losses[-3:]) <= WORSE * history.best.validation_loss:
        return len(losses)
    return max(history.best.number, math.ceil(len(losses) / 4))


def tensors(nets: list[Net]) -> dict[str, np.ndarray]:
    """The weights of the members by their names in a model file."""
    return {
        f"member.{k}.{name}": value.detach().cpu().numpy().copy()
        for k, net in enumerate(nets)
        for name, value in net.state_dict().items()
    }
