"""`openlstm lab NAME`: one command per task, mounted by the command line. Light to import: torch comes when a command runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from openlstm._terminal import Json, Quiet, add, described, integer, output_option, print_json
from openlstm.lab.facts import FACTS, Facts

ABOUT = """The classic experiments on long memory.

In each, nine networks learn one task. With one seed that takes under a minute on two processors, and `copy`, with 5,000 steps,
about ten."""

app = typer.Typer(**described("  openlstm lab latch --lag 120", ABOUT), no_args_is_help=True, rich_markup_mode=None)
SIZE_HELP = {
    "lag": "Steps between what has to be remembered and the answer.",
    "length": "Steps of a sequence (of anbn: the largest n).",
}
Output = Annotated[Path | None, output_option("Where a picture (.svg, .png) or a page (.html) goes.")]


def _command(name: str, facts: Facts) -> Callable[..., None]:
    def command(
        size: Annotated[
            int, integer(facts.least, SIZE_HELP[facts.size_name], f"--{facts.size_name}", most=2**31)
        ] = facts.default,
        seeds: Annotated[int, integer(1, "Repetitions with seeds of their own.")] = 1,
        steps: Annotated[int, integer(0, "Training steps of each network.")] = facts.steps,
        arms: Annotated[
            str | None,
            typer.Option(
                help="Names with commas between them, of: rnn, rnn-orthogonal, rnn-identity, lstm-1997, gru, lstm, "
                "lstm-forget-1, lstm-forget-3, lstm-advice, lstm-chrono. All but the last if left out.",
                show_default=False,
            ),
        ] = None,
        hidden: Annotated[int, integer(1, "Units of each network.")] = facts.hidden,
        seed: Annotated[int, integer(0, "The first seed.")] = 0,
        jobs: Annotated[int | None, integer(1, "Networks that learn at a time; as many as processors if left out.")] = None,
        output: Output = None,
        as_json: Json = False,
        quiet: Quiet = False,
    ) -> None:
        from openlstm.engine.threads import get_num_threads

        options: dict[str, Any] = {"jobs": jobs or get_num_threads()}  # before torch is loaded, which counts them its own way
        from openlstm import lab
        from openlstm.lab.show import progress_table, result_table

        save = _saver(output) if output else lambda result: None
        options |= {"seeds": range(seed, seed + seeds), "steps": steps, "hidden": hidden}
        options["arms"] = tuple(part.strip() for part in arms.split(",")) if arms else lab.SIDE_BY_SIDE
        if quiet:
            result = lab.run(name, size, **options)
        else:
            with Live("starting ...", console=Console(stderr=True), refresh_per_second=4, transient=True) as live:
                result = lab.run(name, size, **options, on_progress=Throttled(lambda p: live.update(progress_table(p))))
        save(result)
        if as_json:
            return print_json(result.to_dict())
        Console().print(result_table(result))

    command.__doc__ = f"{facts.help}\n\nExample:\n  openlstm lab {name} --{facts.size_name} {facts.default}\n"
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


for _name, _facts in FACTS.items():
    add(app, _command(_name, _facts), _name)
