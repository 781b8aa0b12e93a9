"""Options that several commands share, written once: which column is what, how a table is written, and a file of options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from openlstm._terminal import integer
from openlstm.errors import ArgumentError

Options = dict[str, Any]


def _names(help: str, *flags: str) -> Any:
    return Annotated[list[str] | None, typer.Option(*flags, metavar="COLUMN", help=help, show_default=False)]


def _text(help: str, *flags: str, metavar: str = "TEXT") -> Any:
    return Annotated[str | None, typer.Option(*flags, metavar=metavar, help=help, show_default=False)]


COLUMNS: dict[str, Any] = {
    "time": _text("The column of dates. Without it `ds`, or the only one.", "--time", metavar="COLUMN"),
    "target": _text("The column of numbers to forecast. Without it `y`, or the only one.", "--target", metavar="COLUMN"),
    "series": _names("The columns that name a series, e.g. --series store,item.", "--series"),
    "future": _names("Columns known ahead, e.g. --future price,holiday.", "--future"),
    "past": _names("Columns known up to now.", "--past"),
    "static": _names("Columns with one value for each series.", "--static"),
    "wide": Annotated[bool, typer.Option("--wide", help="Every column but the dates is a series of its own.")],
}
NAMES = {
    "time": _text("The column of dates, if not the one of the training.", "--time", metavar="COLUMN"),
    "target": _text("The column of numbers, if not the one of the training.", "--target", metavar="COLUMN"),
}
FORMAT: dict[str, Any] = {
    "time_format": _text("How dates are written, as in strftime, e.g. '%d/%m/%Y'."),
    "zone": _text("The time zone of local times, e.g. Europe/Berlin."),
    "encoding": _text("Of a text file, e.g. cp1252. Without it, found by itself."),
    "delimiter": _text("Between the columns of a text file. Without it, found by itself."),
    "decimal": _text("The decimal mark, . or , where the column leaves it open."),
    "every": _text("Resample to this interval, e.g. 15m, 1h, 1d, 1w, 1mo, 1b (business days)."),
    "aggregate": _text("With --every: mean, sum, last, first, min, max, median or count."),
}
TRAINING: dict[str, Any] = {
    "init_model": Annotated[
        Path | None,
        typer.Option(
            "--continue", metavar="MODEL", help="Train on with a model file: sizes and columns are its.", show_default=False
        ),
    ],
    "resume": Annotated[bool, typer.Option("--resume", help="Go on with a training that was stopped, where it was; or begin.")],
    "checkpoint_every": Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Seconds from one checkpoint to the next; 0 for every step.")
    ],
    "log": Annotated[
        Path | None, typer.Option("--log", metavar="FILE", help="Every step and epoch, as lines of JSON.", show_default=False)
    ],
    "tensorboard": Annotated[
        Path | None,
        typer.Option("--tensorboard", metavar="FOLDER", help="Curves of them for TensorBoard.", show_default=False),
    ],
    "watch": Annotated[
        bool, typer.Option("--watch", help="Look at the networks while they train: how far the gradient reaches.")
    ],
    "processes": Annotated[
        int | None, integer(1, "Processes that train together. torchrun needs no such option.", "--processes")
    ],
}
"""How a training is begun, saved and spread."""

DEFAULTS: Options = {"wide": False, "resume": False, "checkpoint_every": 30.0, "watch": False}
"""Of the options above; None of all others."""


def with_options(**groups: dict[str, Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of each group, where its parameter of that name stands; it gets them as one dict.

    >>> @with_options(form=FORMAT)
    ... def show(path: str, form: Options) -> None:
    ...     print(path, form["zone"])
    >>> show(path="a.csv", zone="UTC")
    a.csv UTC
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(*args: Any, **given: Any) -> None:
            parts = {
                group: {name: given.pop(name, DEFAULTS.get(name)) for name in options} for group, options in groups.items()
            }
            command(*args, **given, **parts)

        signature = inspect.signature(command, eval_str=True)
        keyword = inspect.Parameter.KEYWORD_ONLY
        found: list[inspect.Parameter] = []
        for p in signature.parameters.values():
            own = {p.name: (p.annotation, p.default)} if p.name not in groups else {}
            shared = {name: (kind, DEFAULTS.get(name)) for name, kind in groups.get(p.name, {}).items()}
            found += [inspect.Parameter(n, keyword, annotation=a, default=d) for n, (a, d) in (own | shared).items()]
        run.__signature__ = signature.replace(parameters=found)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in found}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


def split(names: list[str] | None) -> tuple[str, ...]:
    """Names given one after the other, or with commas.

    >>> split(["store,item", "size"])
    ('store', 'item', 'size')
    """
    return tuple(name.strip() for text in names or () for name in text.split(",") if name.strip())


def _read_config(context: typer.Context, _: typer.CallbackParam, path: Path | None) -> Path | None:
    """Take the options of a YAML file as the defaults of a command; what is given on the command line counts."""
    if path is None:
        return None
    try:
        import yaml
    except ImportError:
        from openlstm.errors import missing_extra

        raise missing_extra("--config", "PyYAML", "data") from None
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        reason = str(e).strip().splitlines()[0]
        what, expected = "cannot be read", "a YAML file of options, one `name: value` a line"
        raise ArgumentError.of(str(path), what, reason, expected, "correct the file") from None
    if not isinstance(found, dict):
        what, expected = "holds no options", "one `name: value` a line, as `horizon: 12`"
        raise ArgumentError.of(str(path), what, type(found).__name__, expected, "see the .yml file that fit writes")
    flags = [p for p in context.command.params if p.name != "config" and p.param_type_name == "option"]
    options = {max(p.opts, key=len).removeprefix("--").replace("-", "_"): p for p in flags}
    taken: Options = {}
    for key, value in found.items():
        name = str(key).replace("-", "_")
        if name not in options:
            what, hint = f"holds an option that {context.info_name} does not have", "remove it, or correct its name"
            raise ArgumentError.of(str(path), what, repr(key), "one of " + ", ".join(sorted(map(str, options))), hint)
        if options[name].multiple and not isinstance(value, list):
            value = [] if value is None else [str(value)]
        taken[str(options[name].name)] = value
    context.default_map = {**(context.default_map or {}), **{name: value for name, value in taken.items() if value is not None}}
    return path


Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        callback=_read_config,
        is_eager=True,
        metavar="FILE",
        help="A YAML file of these options.",
        show_default=False,
    ),
]


def write_config(path: Path, options: Options) -> None:
    """Write options as the YAML file that `--config` reads; those that are None or empty are left out."""
    import yaml

    from openlstm._files import write_whole

    held = {
        name.replace("_", "-"): value for name, value in options.items() if value is not None and value != () and value != []
    }
    text = yaml.safe_dump(
        {n: list(v) if isinstance(v, tuple) else v for n, v in held.items()}, sort_keys=False, allow_unicode=True
    )
    write_whole(path, f"# openlstm fit forecast DATA --config {path.name}\n{text}".encode())
