"""How far a training is, on standard error: a bar on a terminal, else lines, so that a log is never silent for long."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import TYPE_CHECKING

from rich.console import Console

from openlstm._terminal import Show, err, words
from openlstm._terminal import progress as shown_on
from openlstm.train.loop import Epoch, Step

if TYPE_CHECKING:
    from openlstm.insight.watch import Watch

LETTERS = 100
"""What a line has at most, in most trainings; a wide terminal keeps them free."""


class Training:
    """What is known of the training of one member after another, and the callbacks that learn it.

    Give the object itself as a callback of each epoch, and `step` as one of each step: without it there is no news within
    an epoch. A new member is known by its first epoch. The first news may come from the middle of a training that is resumed;
    rate and time left follow from what is done since then.

    Attributes:
        watch: what the X-ray sees of the member, if it looks; the line then tells the horizons of the last look.
        best: the smallest validation loss of each member begun so far, infinity where none is known.
    """

    def __init__(self, epochs: int, members: int, show: Show, clock: Callable[[], float], room: float = math.inf) -> None:
        self.epochs, self.members, self.show, self.clock = epochs, members, show, clock
        self.room = room  # letters that the line may have
        self.begin = clock()
        self.best: list[float] = []
        self.runs = False  # whether the last member begun is still trained
        self.finished = 0  # epochs of this member
        self.within = 0.0  # the share of the epoch that is done
        self.run = 0  # epochs of the members before it; fewer than they could have taken, where they stopped early
        self.before = 0.0  # epochs that were done before a resume
        self.examples = 0
        self.loss = self.validation = self.norm = math.nan
        self.watch: Watch | None = None

    def __call__(self, epoch: Epoch) -> None:
        """The news of an epoch."""
        self._member(epoch.number)
        self.examples += epoch.examples if not self.within else 0
        self.finished, self.within = epoch.number, 0.0
        self.loss, self.validation = epoch.train_loss, epoch.validation_loss
        if epoch.is_best:
            self.best[-1] = epoch.validation_loss
        self.show(self.share, self.line())

    def step(self, step: Step) -> None:
        """The news of a step."""
        self._member(step.epoch, step.number % step.steps / step.steps)
        self.within = min(self.within + 1 / step.steps, 1.0)  # counted: a batch without targets is no step
        self.examples += step.examples
        self.loss, self.norm = step.loss, step.norm
        self.show(self.share, self.line())

    def skip(self, epochs: int, best: float = math.inf) -> None:
        """A member that was trained before a resume: so many epochs, and the validation loss of the best, if it is known."""
        self._end_member()
        self._member(epochs + 1)
        self.best[-1] = best
        self._end_member()

    def _member(self, epoch: int, within: float = 0.0) -> None:
        """The next member, if this is its first news; what it has behind it was done before a resume."""
        if self.runs and epoch > self.finished:
            return
        self._end_member()
        self.best.append(math.inf)
        self.runs, self.finished, self.within = True, epoch - 1, within
        self.before += self.finished + within

    def _end_member(self) -> None:
        self.run += self.finished
        self.runs, self.finished, self.within = False, 0, 0.0
        self.validation = self.norm = math.nan

    @property
    def share(self) -> float:
        """Of all epochs of all members, as if none stopped early."""
        return ((len(self.best) - self.runs) * self.epochs + self.finished + self.within) / (self.epochs * self.members)

    @property
    def horizon(self) -> str:
        """The shortest and the longest horizon of the places at the last look; nothing before the first."""
        seen = self.watch.snapshots if self.watch is not None else []
        found = [look.horizon for look in takewhile(lambda look: look.step == seen[-1].step, reversed(seen))]
        return f"horizon {_range(f'{lag:,}' for lag in (min(found), max(found)))}" if found else ""

    def line(self) -> str:
        """All of it in one line; where room is short, without its least important parts."""
        member = f"{len(self.best)}/{self.members}, " if self.members > 1 else ""
        number = min(self.finished + 1, self.epochs) if self.within else self.finished
        seconds = max(self.clock() - self.begin, 1e-9)
        rate = f"{self.examples / seconds:,.0f}"
        numbers = (("loss", self.loss), ("val", self.validation), ("norm", self.norm))
        loss, validation, norm = (f"{name} {value:.3g}" if value == value else "" for name, value in numbers)
        done = self.run + self.finished + self.within - self.before
        left = f"≤{clock_time((1 - self.share) * self.epochs * self.members * seconds / done)} left"
        horizon = self.horizon
        parts = [f"{member}epoch {number}/{self.epochs}", f"{rate} windows/s", loss, validation, norm, horizon, left]
        line = ", ".join(filter(None, parts))
        for least in (" windows", *(f"{part}, " for part in (f"{rate}/s", norm, horizon, validation) if part)):
            if len(line) > self.room:
                line = line.replace(least, "", 1)
        return line

    def end(self) -> str:
        """What it came to."""
        run, known = self.run + self.finished, [loss for loss in self.best if loss < math.inf]  # validated ones
        members = f"{len(self.best)} members, " if len(self.best) > 1 else ""
        here = f", {run - int(self.before)} of them" if self.before else ""
        best = f", best val {_range(f'{loss:.3g}' for loss in (min(known), max(known)))}" if known else ""
        return f"{members}{run} epoch{'s' * (run != 1)}{here} in {clock_time(self.clock() - self.begin)}{best}"


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
    room = math.inf if plain else min(words(title, console), LETTERS)
    with shown_on(title, letters=LETTERS, quiet=quiet, console=console, clock=clock) as show:
        training = Training(epochs, members, show, clock, room)
        if plain:
            each = f"{members} members of " if members > 1 else ""
            _tell(console, f"{title}: training, {each}at most {epochs} epoch{'s' * (epochs != 1)}")
        yield training
        ended = training.run + training.finished
        if ended and plain:
            _tell(console, f"{title}: {training.end()}")
        elif ended:
            show(1.0, training.end())


def clock_time(seconds: float) -> str:
    """A time as on a clock.

    >>> clock_time(75.4), clock_time(3725.0)
    ('1:15', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _range(texts: Iterable[str]) -> str:
    """Two numbers, once where they are the same."""
    return " to ".join(dict.fromkeys(texts))


def _tell(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True, markup=False)
