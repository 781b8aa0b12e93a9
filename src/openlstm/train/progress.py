"""How far a training is, on standard error: a bar on a terminal, else lines, so that a log is never silent for long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from openlstm._terminal import Show, err
from openlstm._terminal import progress as shown_on
from openlstm.train.loop import Epoch, Step


class Training:
    """What is known of the training of one member after another, and the callbacks that learn it.

    Give the object itself as a callback of each epoch, and `step` as one of each step: without it there is no news within
    an epoch. A new member is known by its first epoch.
    """

    def __init__(self, epochs: int, members: int, show: Show, clock: Callable[[], float]) -> None:
        self.epochs, self.members, self.show, self.clock = epochs, members, show, clock
        self.begin = clock()
        self.best: list[float] = [float("inf")]  # the smallest validation loss of each member
        self.finished = 0  # epochs of this member
        self.run = 0  # epochs of the members before it; fewer than they could have taken, where they stopped early
        self.within = 0.0  # the share of the epoch that is done
        self.examples = 0
        self.loss = self.validation = float("nan")

    def __call__(self, epoch: Epoch) -> None:
        """The news of an epoch."""
        self._member(epoch.number)
        self.examples += epoch.examples if not self.within else 0
        self.finished, self.within = epoch.number, 0.0
        self.loss, self.validation = epoch.train_loss, epoch.validation_loss
        self.best[-1] = min(self.best[-1], epoch.validation_loss)
        self.show(self.share, self.line())

    def step(self, step: Step) -> None:
        """The news of a step."""
        self._member(step.epoch)
        self.within = min(self.within + 1 / step.steps, 1.0)
        self.examples += step.examples
        self.loss = step.loss
        self.show(self.share, self.line())

    def _member(self, epoch: int) -> None:
        if epoch <= self.finished:
            self.best.append(float("inf"))
            self.run, self.finished, self.validation = self.run + self.finished, 0, float("nan")

    @property
    def share(self) -> float:
        """Of all epochs of all members, as if none stopped early."""
        return ((len(self.best) - 1) * self.epochs + self.finished + self.within) / (self.epochs * self.members)

    def line(self) -> str:
        """All of it in one line of at most 68 letters."""
        member = f"{len(self.best)}/{self.members}, " if self.members > 1 else ""
        number = min(self.finished + 1, self.epochs) if self.within else self.finished
        seconds = max(self.clock() - self.begin, 1e-9)
        parts = [f"{member}epoch {number}/{self.epochs}", f"{self.examples / seconds:,.0f} windows/s"]
        parts += [f"{name} {loss:.3g}" for name, loss in (("loss", self.loss), ("val", self.validation)) if loss == loss]
        done = self.run + self.finished + self.within
        left = (1 - self.share) * self.epochs * self.members * seconds / done
        return ", ".join([*parts, f"≤{clock_time(left)} left"])

    def end(self) -> str:
        """What it came to."""
        run, known = self.run + self.finished, [loss for loss in self.best if loss < float("inf")]  # validated ones
        each = " to ".join(dict.fromkeys(f"{loss:.3g}" for loss in (min(known), max(known)))) if known else ""
        members = f"{len(self.best)} members, " if len(self.best) > 1 else ""
        best = f", best val {each}" if each else ""
        return f"{members}{run} epoch{'s' * (run != 1)} in {clock_time(self.clock() - self.begin)}{best}"


@contextmanager
def progress(
    title: str,
    epochs: int,
    *,
    members: int = 1,
    quiet: bool = False,
    console: Console | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Training]:
    """Show a training, of all its members one after the other; yields the callbacks.

    Args:
        title: what is trained.
        epochs: the most epochs that one member can take.
        quiet: show nothing.
        console: where; standard error if None.
        clock: seconds.

    >>> with progress("LSTM", 2, quiet=True) as training:
    ...     training(Epoch(1, 0.5, 0.25, True, 1.0, examples=100))
    >>> training.share
    0.5
    """
    console = console or err()
    plain = not (quiet or console.is_terminal or console.is_jupyter)
    with shown_on(title, quiet=quiet, console=console, clock=clock) as show:
        training = Training(epochs, members, show, clock)
        if plain:
            each = f"{members} members of " if members > 1 else ""
            _tell(console, f"{title}: training, {each}at most {epochs} epoch{'s' * (epochs != 1)}")
        yield training
        if training.finished and plain:
            _tell(console, f"{title}: {training.end()}")
        elif training.finished:
            show(1.0, training.end())


def clock_time(seconds: float) -> str:
    """A time as on a clock.

    >>> clock_time(75.4), clock_time(3725.0)
    ('1:15', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _tell(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True, markup=False)
