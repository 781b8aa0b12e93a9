"""A live progress bar on standard error, so that standard output stays clean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from openlstm.train.loop import Callback, Epoch


@contextmanager
def progress(title: str, epochs: int, *, quiet: bool = False) -> Iterator[Callback]:
    """A bar over the epochs of one training, with the validation loss beside it; yields the callback that moves it.

    Args:
        title: what is trained.
        epochs: the most epochs it can take.
        quiet: show nothing.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(12),  # the whole line fits into 80 columns
        TextColumn("{task.completed:>3}/{task.total} epochs, validation {task.fields[validation]}, best {task.fields[best]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as bar:
        task = bar.add_task(title, total=epochs, validation="   -  ", best="   -  ")
        best = float("inf")

        def show(epoch: Epoch) -> None:
            nonlocal best
            best = min(best, epoch.validation_loss)
            bar.update(task, completed=epoch.number, validation=f"{epoch.validation_loss:.4f}", best=f"{best:.4f}")

        yield show
