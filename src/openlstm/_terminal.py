"""What every command shares: its usual options, one JSON object on standard output, and all else on standard error."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console

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


def err() -> Console:
    """Standard error."""
    return Console(stderr=True)


def tell(lines: list[str], quiet: bool = False) -> None:
    """Print lines on standard error."""
    for line in [] if quiet else lines:
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
