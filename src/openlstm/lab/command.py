"""`openlstm lab NAME`: one command per task, mounted by the command line. Light to import: torch comes when a command runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.live import Live

app = typer.Typer(help="The classic long-memory experiments.", no_args_is_help=True, rich_markup_mode=None)


class Entry(NamedTuple):
    """What the help has to know of a task before it is loaded; a test holds it to `lab.tasks.TASKS`."""

    size_name: str
    default: int
    least: int
    hidden: int
    steps: int
    help: str


COMMANDS: dict[str, Entry] = {
    "recall": Entry("lag", 60, 1, 32, 1000, "The control: a sign through LAG steps of small noise."),
    "latch": Entry("lag", 120, 1, 32, 1000, "Overwrite a sign, then keep it through LAG distractors."),
    "copy": Entry("lag", 20, 1, 64, 5000, "Ten symbols again, after LAG silent steps."),
    "adding": Entry("length", 100, 2, 32, 1000, "The sum of two marked values among LENGTH values."),
    "temporal-order": Entry("length", 100, 10, 32, 1000, "Which two signs came, in which order."),
    "reber": Entry("length", 40, 8, 32, 1000, "What may follow in a string of the Reber grammar."),
    "continual-reber": Entry("length", 100, 1, 32, 1000, "The same in a stream of strings that nothing resets."),
    "parity": Entry("length", 40, 1, 32, 1000, "Whether the number of ones so far is odd."),
    "anbn": Entry("length", 10, 1, 32, 1000, "When n times a and n times b are over."),
}
SIZE_HELP = {
    "lag": "Steps between what has to be remembered and the answer.",
    "length": "Steps of a sequence (of anbn: the largest n).",
}


def _command(name: str, entry: Entry) -> Callable[..., None]:
    def command(
        size: Annotated[
            int, typer.Option(f"--{entry.size_name}", min=entry.least, max=2**31, help=SIZE_HELP[entry.size_name])
        ] = entry.default,
        seeds: Annotated[int, typer.Option(min=1, help="Repetitions with seeds of their own.")] = 1,
        steps: Annotated[int, typer.Option(min=0, max=2**62, help="Training steps of each network.")] = entry.steps,
        arms: Annotated[
            str | None,
            typer.Option(
                help="Names with commas between them, of: rnn, rnn-orthogonal, rnn-identity, lstm-1997, gru, lstm, "
                "lstm-forget-1, lstm-forget-3, lstm-advice, lstm-chrono. All but the last if left out.",
                show_default=False,
            ),
        ] = None,
        hidden: Annotated[int, typer.Option(min=1, help="Units of each network.")] = entry.hidden,
        seed: Annotated[int, typer.Option(min=0, max=2**62, help="The first seed.")] = 0,
        jobs: Annotated[
            int | None, typer.Option(min=1, help="Networks that learn at a time; as many as processors if left out.")
        ] = None,
        output: Annotated[
            Path | None,
            typer.Option("--output", "-o", help="Where a picture (.svg, .png) or a page (.html) goes.", show_default=False),
        ] = None,
        as_json: Annotated[
            bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else there.")
        ] = False,
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    ) -> None:
        from openlstm.engine.threads import get_num_threads

        at_a_time = jobs or get_num_threads()  # before torch is loaded, which counts processors its own way
        from openlstm import lab
        from openlstm.lab.show import progress_table, result_table

        save = _saver(output) if output else lambda result: None
        names = tuple(part.strip() for part in arms.split(",")) if arms else lab.SIDE_BY_SIDE
        options: dict[str, Any] = {"seeds": seeds, "steps": steps, "arms": names, "hidden": hidden, "seed": seed}
        if quiet:
            result = lab.run(name, size, **options, jobs=at_a_time)
        else:
            with Live("starting ...", console=Console(stderr=True), refresh_per_second=4, transient=True) as live:
                show = Throttled(lambda p: live.update(progress_table(p)))
                result = lab.run(name, size, **options, jobs=at_a_time, on_progress=show)
        save(result)
        if as_json:
            print(json.dumps(result.to_dict(), allow_nan=False))
            return
        Console().print(result_table(result))

    command.__doc__ = entry.help
    return command


def _saver(path: Path) -> Callable[[Any], None]:
    """What writes the picture; a place that cannot be written is refused before the work is done."""
    from openlstm._files import writable
    from openlstm.lab import picture

    writable(path, picture.KINDS)
    return lambda result: picture.save(result, path)


class Throttled:
    """Hands on at most four calls a second: a table costs more than the report that it shows."""

    def __init__(self, show: Callable[[Any], None], every: float = 0.25) -> None:
        self.show, self.every, self.last = show, every, -1.0

    def __call__(self, progress: Any) -> None:
        if progress.seconds - self.last >= self.every:
            self.last = progress.seconds
            self.show(progress)


for _name, _entry in COMMANDS.items():
    app.command(_name)(_command(_name, _entry))
