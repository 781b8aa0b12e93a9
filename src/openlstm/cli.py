"""The command line: verbs first, the model file knows its task; results go to standard output, all else to standard error."""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from openlstm import __version__
from openlstm._files import writable
from openlstm._terminal import (
    Json,
    Quiet,
    add,
    described,
    err,
    integer,
    output_option,
    print_json,
    prints,
    say,
    status,
    tell,
)
from openlstm.doctor import extra_of
from openlstm.errors import OpenLSTMError, message, missing_extra
from openlstm.exchange.command import export
from openlstm.lab.command import app as lab_app
from openlstm.tasks import command, fit_command

PLAIN: dict[str, Any] = {"no_args_is_help": True, "rich_markup_mode": None}
app = typer.Typer(
    **described("  openlstm demo", "An LSTM you can see through: train it, ask it, score it, look inside."),
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    **PLAIN,
)
FIT = "  openlstm fit forecast co2.csv --time date --target co2 --horizon 52 -o co2.safetensors"
fit_app = typer.Typer(**described(FIT, "Train a model on a table and save it."), **PLAIN)
app.add_typer(fit_app, name="fit")
app.add_typer(lab_app, name="lab")
add(fit_app, fit_command.fit_forecast, "forecast")
add(fit_app, fit_command.fit_simulate, "simulate")
for _command in (command.check, command.predict, command.evaluate, command.inspect, command.xray, export):
    add(app, _command)

STOPPED = (129, 130, 143)  # the exit statuses that shells give to SIGHUP, Ctrl-C and SIGTERM


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 only on success, 2 for wrong usage, 128 + n after signal n, else 1."""
    with warnings.catch_warnings(), _ends_by_signals():
        warnings.showwarning = lambda text, *_, **__: tell([f"note: {text}"])
        try:
            app(args=None if argv is None else list(argv), prog_name="openlstm", standalone_mode=True)
        except SystemExit as e:
            if e.code in STOPPED and prints():
                err().print("stopped")
            return int(e.code or 0)
        except (OpenLSTMError, OSError, ImportError, MemoryError, RuntimeError) as e:
            told = _in_form(e)
            if told is None:
                raise  # a fault of ours
            if prints():
                err().print(f"[bold red]error[/] {escape(told)}", highlight=False, soft_wrap=True)
            return 1
    return 0


@contextmanager
def _ends_by_signals() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP end the process as errors do, so that what was begun is put away."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        before = {n: handler for n in numbers if (handler := signal.getsignal(n)) is signal.SIG_DFL}
    for number in before:
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@app.callback(invoke_without_command=True)
def _version(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit()


def demo(
    output: Annotated[Path, output_option("The folder for picture, model and page.")] = Path("openlstm-demo"),
    seed: Annotated[int, integer(0, "The same seed gives the same numbers.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Forecast CO2 over Mauna Loa beside simple baselines, run one experiment on long memory, write the page on the LSTM.

    Example:
      openlstm demo
    """
    from openlstm import demo as demo_

    result = demo_.run(output, seed=seed, quiet=quiet, out=None if as_json else Console())
    if as_json:
        print_json(result)


def explain(
    output: Annotated[Path, output_option("Where the page goes.")] = Path("explain.html"),
    seed: Annotated[int, integer(0, "The same seed gives the same figures.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the lecture on the LSTM as one self-contained page, every figure computed now.

    Example:
      openlstm explain --output lstm.html
    """
    writable(output, (".html", ".htm"))
    from openlstm import explain as explain_

    with status("computing the figures ...", quiet) as show:
        explain_.write(output, seed=seed, on_progress=lambda what, *_: show(what))
    if as_json:
        return print_json({"page": str(output), "bytes": output.stat().st_size})
    say(f"Wrote {output}: open it in a browser.")


def doctor(as_json: Json = False) -> None:
    """Versions, instruction set in use, threads, and what is missing with the command that installs it.

    Example:
      openlstm doctor
    """
    from openlstm import doctor as doctor_

    found = doctor_.examine()
    if as_json:
        print_json(found)
    else:
        doctor_.show(found, Console())
    if found["wrong"]:
        raise typer.Exit(1)


for _command in (demo, explain, doctor):
    add(app, _command)


def _in_form(error: Exception) -> str | None:
    """What a user is told of an error; None for a fault of this package, which shows its traceback."""
    if isinstance(error, OpenLSTMError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and (extra := extra_of(error.name)) is not None:
        return str(missing_extra("openlstm", str(error.name), extra))
    if isinstance(error, OSError):
        who, why = str(error.filename or "openlstm"), error.strerror or str(error)
        hint = "check the path, the rights to it, and the space that is left"
        return message(who, "cannot be read or written", why, "a place that can be read and written", hint)
    first = (str(error) or "no memory left").splitlines()[0]
    if isinstance(error, MemoryError) or "allocate memory" in first or "out of memory" in first:  # torch raises RuntimeError
        expected, hint = "room for the table and the network", "a smaller window, network or table"
        return message("openlstm", "the memory does not suffice", first, expected, hint)
    return None
