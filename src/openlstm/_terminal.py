"""What every command shares: its usual options, one JSON object on standard output, and all else on standard error."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

LARGEST = 2**62
"""The largest whole number that an option takes."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


def integer(least: int, help: str, *names: str, most: int = LARGEST) -> Any:
    """An option that takes a whole number from `least` on; the help shows the smallest one."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise typer.BadParameter(f"{text!r} is not a whole number") from None
        if value < least:
            raise typer.BadParameter(f"{value} is too small: at least {least}")
        if value > most:
            raise typer.BadParameter(f"{value} is too large: at most {most}")
        return value

    help = f"{help.removesuffix('.')}; at least {least}." if least else help
    return typer.Option(*names, parser=parse, metavar="N", help=help)


def output_option(help: str) -> Any:
    """The option for the file that is written."""
    return typer.Option("--output", "-o", help=help)


def add(app: typer.Typer, command: Callable[..., None], name: str | None = None) -> None:
    """Make a function a command. Its docstring ends with `Example:` and a command line; the help begins with them."""
    text, _, example = inspect.cleandoc(command.__doc__ or "").partition("\n\nExample:\n")
    app.command(name or command.__name__, **described(example, text))(command)


def described(example: str, text: str) -> dict[str, Any]:
    """What a command says of itself: its help, which begins with an example, and one line among the other commands."""
    return {"help": f"\b\nExample:\n{example}\n\n{text}", "short_help": text.split("\n")[0]}


_prints = True


def keep_silent() -> None:
    """From now on print nothing: of the processes that train together the first speaks for all."""
    global _prints
    _prints = False


def prints() -> bool:
    """Whether this process prints."""
    return _prints


def err() -> Console:
    """Standard error."""
    return Console(stderr=True)


def tell(lines: list[str], quiet: bool = False) -> None:
    """Print lines on standard error."""
    for line in [] if quiet or not _prints else lines:
        err().print(line, highlight=False, soft_wrap=True, markup=False)


def say(line: str) -> None:
    """Print a line on standard output."""
    Console().print(line, highlight=False, soft_wrap=True, markup=False)


def print_json(result: Any) -> None:
    """Print the one object of `--json`."""
    print(json.dumps(result, allow_nan=False))


@contextmanager
def status(text: str, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show on standard error what is being done; yields what changes the text."""
    if quiet:
        yield lambda text: None
        return
    with err().status(text) as shown:
        yield lambda text: shown.update(f"{text} ...")


Show = Callable[[float, str], None]
"""Takes the share that is done, 0 to 1, and what to say."""

EVERY = 5.0
"""Seconds between two lines without a terminal; more in a long run."""


@contextmanager
def progress(
    title: str,
    *,
    letters: int,
    quiet: bool = False,
    console: Console | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Show]:
    """Show how far something is, on standard error: a bar on a terminal, else a line every few seconds.

    Args:
        title: what is done.
        letters: what the words may have beside the bar, which is left out where there is no room for both.
        quiet: show nothing.
        console: where; standard error if None.
        clock: seconds.
    """
    console = console or err()
    if quiet:
        yield lambda share, text: None
        return
    if not (console.is_terminal or console.is_jupyter):
        yield _lines(title, console, clock)
        return
    room = words(title, console) - letters - 1
    bar = (BarColumn(min(room, 24)),) if room >= 4 else ()
    columns = (SpinnerColumn(finished_text=" "), TextColumn(title, markup=False), *bar)
    with Progress(*columns, TextColumn("{task.description}", markup=False), console=console) as shown:
        task = shown.add_task("", total=1.0)
        yield lambda share, text: shown.update(task, completed=share, description=text)


def words(title: str, console: Console) -> int:
    """How many letters fit beside the spinner and the title, without a bar."""
    return console.width - len(title) - 3


def _lines(title: str, console: Console, clock: Callable[[], float]) -> Show:
    begin = last = clock()

    def show(share: float, text: str) -> None:
        nonlocal last
        now = clock()
        if now - last >= min(max(EVERY, (now - begin) / 20), 12 * EVERY):
            last = now
            console.print(f"{title}: {text}", highlight=False, soft_wrap=True, markup=False)

    return show
