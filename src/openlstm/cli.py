"""The command line: verbs first, the model file knows its task; results go to standard output, all else to standard error."""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from openlstm import __version__
from openlstm._files import writable, write_whole
from openlstm.doctor import extra_of
from openlstm.engine.threads import torch_aside
from openlstm.errors import ArgumentError, OpenLSTMError, message, missing_extra
from openlstm.lab.command import app as lab_app

app = typer.Typer(
    help="An LSTM you can see through: train it, ask it, score it, look inside.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
fit_app = typer.Typer(help="Train a model on a table and save it.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(fit_app, name="fit")
app.add_typer(lab_app, name="lab")

INTERRUPTED = 130  # the exit status that shells give to Ctrl-C

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Data = Annotated[Path, typer.Argument(metavar="DATA", help="A CSV or Parquet file.", show_default=False)]
ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="A model file that `openlstm fit` wrote.", show_default=False)]
TimeFormat = Annotated[
    str | None, typer.Option(help="How dates are written, as in strftime, e.g. '%d/%m/%Y'.", show_default=False)
]
TimeColumn = Annotated[
    str | None, typer.Option("--time", help="The column of dates, if not the one the model was trained on.", show_default=False)
]
TargetColumn = Annotated[
    str | None,
    typer.Option("--target", help="The column of numbers, if not the one the model was trained on.", show_default=False),
]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 only on success, 2 for wrong usage, 130 when interrupted, else 1."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            app(args=None if argv is None else list(argv), prog_name="openlstm", standalone_mode=True)
        except SystemExit as e:
            if e.code == INTERRUPTED:
                _err().print("stopped")
            return int(e.code or 0)
        except (OpenLSTMError, OSError, ImportError, MemoryError, RuntimeError) as e:
            told = _in_form(e)
            if told is None:
                raise  # a fault of ours
            _err().print(f"[bold red]error[/] {escape(told)}", highlight=False, soft_wrap=True)
            return 1
    return 0


@app.callback(invoke_without_command=True)
def _version(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit()


@fit_app.command("forecast")
def fit_forecast(
    data: Data,
    time: Annotated[str, typer.Option(help="The column of dates.", show_default=False)],
    target: Annotated[str, typer.Option(help="The column of numbers to forecast.", show_default=False)],
    horizon: Annotated[int, typer.Option(min=1, help="How many steps to forecast.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the model file goes.", show_default=False)],
    period: Annotated[
        int | None,
        typer.Option(min=1, help="Steps in a season; guessed: weekly 52, monthly 12, daily 7, hourly 24.", show_default=False),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(min=1, help="Steps the network reads; two seasons, the horizon, or 96, the longest.", show_default=False),
    ] = None,
    holdout: Annotated[
        int | None,
        typer.Option(
            min=0, help="Steps at the end to hold out for scoring; two horizons. 0 trains on everything.", show_default=False
        ),
    ] = None,
    cell: Annotated[str, typer.Option(help="lstm, rnn_tanh or rnn_relu.")] = "lstm",
    hidden_size: Annotated[int, typer.Option(min=1, help="Units of each layer.")] = 64,
    num_layers: Annotated[int, typer.Option(min=1, help="Recurrent layers on top of each other.")] = 1,
    members: Annotated[int, typer.Option(min=1, help="Networks whose forecasts are averaged.")] = 3,
    init: Annotated[
        str, typer.Option(help="How the weights begin: default, forget-bias=1, chrono=LAG, orthogonal or identity.")
    ] = "default",
    epochs: Annotated[int, typer.Option(min=1, help="At most so many passes over the data.")] = 40,
    learning_rate: Annotated[float, typer.Option(help="The greatest learning rate.")] = 5e-3,
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="The same seed gives the same model.")] = 0,
    time_format: TimeFormat = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a forecaster of one column and score it beside honest baselines."""
    writable(output, (".safetensors",), (data,))
    from openlstm.data import read_series
    from openlstm.tasks.forecast import Forecaster
    from openlstm.train import Options

    series = read_series(data, time, target, time_format=time_format)
    _tell(_describe(data, series), quiet)
    options = Options(epochs=epochs, learning_rate=learning_rate, seed=seed)
    forecaster = Forecaster(
        horizon,
        period=period,
        window=window,
        cell=cell,
        hidden_size=hidden_size,
        num_layers=num_layers,
        members=members,
        init=init,
        options=options,
    )
    holdout = 2 * horizon if holdout is None else holdout
    forecaster.fit(series, holdout=holdout, quiet=quiet)
    forecaster.save(output)
    evaluation = forecaster.evaluate() if holdout else None
    header = forecaster.model_.header
    if as_json:
        result = {
            "model": str(output),
            "notes": [note._asdict() for note in series.notes],
            "split": vars(forecaster.split_),
            "header": json.loads(header.model_dump_json(exclude={"checksum"})),
            "evaluation": evaluation.to_dict() if evaluation else None,
        }
        return _print_json(result)
    out = Console()
    if evaluation:
        _print_scores(out, evaluation)
    else:
        out.print("Nothing was held out, so there is no honest score: fit once with --holdout to get one.")
    out.print(f"Saved {output}. Next: openlstm predict {output} {data}", highlight=False, soft_wrap=True, markup=False)


@app.command()
def predict(
    model: ModelPath,
    data: Data,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A .csv or .parquet file instead of standard output.", show_default=False),
    ] = None,
    time: TimeColumn = None,
    target: TargetColumn = None,
    time_format: TimeFormat = None,
    as_json: Json = False,
) -> None:
    """Forecast the steps that follow the last row of a table: date, forecast, and the band for 80 % of the values."""
    from openlstm.runtime import load
    from openlstm.tasks import scoring

    if output is not None:
        writable(output, (".csv", ".parquet"), (data, model))
    loaded = load(model)
    series = _series_for(loaded.header.series, data, time, target, time_format)
    prediction = scoring.predict(loaded, series)
    rows = prediction.rows()
    if output is not None:
        write_whole(output, _as_csv(rows).encode() if output.suffix.lower() == ".csv" else _as_parquet(prediction))
        _tell([f"wrote {len(rows)} rows to {output}"])
    if as_json:
        return _print_json(
            {"model": str(model), "target": series.name, "notes": [n._asdict() for n in series.notes], "forecast": rows}
        )
    if output is None:
        print(_as_csv(rows), end="")


@app.command()
def evaluate(
    model: ModelPath,
    data: Data,
    time: TimeColumn = None,
    target: TargetColumn = None,
    time_format: TimeFormat = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a model on the rows it has not seen, beside naive, seasonal naive, drift, ETS and a linear window model."""
    from openlstm.runtime import load
    from openlstm.tasks import scoring

    loaded = load(model)
    series = _series_for(loaded.header.series, data, time, target, time_format, quiet)
    name = "LSTM" if loaded.header.network.cell == "lstm" else "vanilla RNN"
    with _err().status("scoring ...") if not quiet else _Nothing() as status:
        evaluation = scoring.evaluate(
            {name: loaded}, series, lambda who: status.update(f"scoring {who} ...") if status else None
        )
    if as_json:
        return _print_json({"model": str(model), "notes": [n._asdict() for n in series.notes], **evaluation.to_dict()})
    _print_scores(Console(), evaluation)


@app.command()
def xray(
    model: ModelPath,
    data: Annotated[
        Path | None, typer.Argument(metavar="[DATA]", help="A CSV or Parquet file; noise if left out.", show_default=False)
    ] = None,
    lag: Annotated[
        int | None,
        typer.Option(min=1, help="Steps between what has to be remembered and the answer; found in DATA.", show_default=False),
    ] = None,
    before: Annotated[
        bool, typer.Option("--before", help="Look at the network as it was before training: what can it learn?")
    ] = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="Where a lag is blocked, train again as advised and write a new model file.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where the report goes; xray.html.", show_default=False)
    ] = None,
    time: TimeColumn = None,
    target: TargetColumn = None,
    time_format: TimeFormat = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """What a network remembers, for how long, and what to change, as one self-contained page."""
    page = output or (None if as_json else Path("xray.html"))
    if page is not None:
        writable(page, (".html", ".htm"), tuple(p for p in (model, data) if p is not None))
    if apply and data is None:
        raise ArgumentError.of(
            "xray", "--apply trains, so it needs the data", "no DATA", "DATA", f"openlstm xray {model} DATA --apply"
        )
    from openlstm import model_file
    from openlstm.tasks import look

    header, tensors = model_file.read(model)
    series = None if data is None else _series_for(header.series, data, time, target, time_format, quiet)
    with _err().status("looking ...") if not quiet else _Nothing(), torch_aside():
        report = look.forecaster(header, tensors, series, lag=lag, before=before or apply, name=model.name)
        if page is not None:
            report.to_html(page)
    advised = look.apply(report, header, series, model, quiet=quiet) if apply and series is not None else None
    if as_json:
        return _print_json(
            {"model": str(model), "page": None if page is None else str(page), "advised": advised, **report.to_dict()}
        )
    out = Console()
    out.print(look.table(report))
    if advised is not None:
        out.print(f"Trained again with --init {advised['init']}: {advised['model']}", highlight=False, markup=False)
        for name, mase in advised["mase"].items():
            out.print(f"  MASE {mase:.3f}  {name}", highlight=False, markup=False)
    elif apply:
        out.print("Nothing was trained: no change is advised.", highlight=False)
    if page is not None:
        out.print(f"Wrote {page}: open it in a browser.", highlight=False, soft_wrap=True, markup=False)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for picture, model and page.")] = Path(
        "openlstm-demo"
    ),
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="The same seed gives the same numbers.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Mauna Loa CO2 beside honest baselines, one long-memory experiment, and the page that explains the LSTM."""
    from openlstm import demo as demo_

    result = demo_.run(output, seed=seed, quiet=quiet, out=None if as_json else Console())
    if as_json:
        _print_json(result)


@app.command()
def explain(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the page goes.")] = Path("explain.html"),
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="The same seed gives the same figures.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the lecture on the LSTM as one self-contained page, every figure computed now."""
    writable(output, (".html", ".htm"))
    from openlstm import explain as explain_

    with _err().status("computing the figures ...") if not quiet else _Nothing() as status:
        explain_.write(output, seed=seed, on_progress=lambda what, *_: status.update(f"{what} ...") if status else None)
    if as_json:
        return _print_json({"page": str(output), "bytes": output.stat().st_size})
    Console().print(f"Wrote {output}: open it in a browser.", highlight=False, soft_wrap=True, markup=False)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Versions, instruction set in use, threads, and what is missing with the command that installs it."""
    from openlstm import doctor as doctor_

    found = doctor_.examine()
    if as_json:
        _print_json(found)
    else:
        doctor_.show(found, Console())
    if found["wrong"]:
        raise typer.Exit(1)


def _print_scores(out: Console, evaluation: Any) -> None:
    from openlstm.tasks.show import score_table

    out.print(score_table(evaluation))
    for name in evaluation.models:
        out.print(evaluation.verdict(name), highlight=False, markup=False)


def _series_for(
    trained: Any, data: Path, time: str | None, target: str | None, time_format: str | None, quiet: bool = False
) -> Any:
    from openlstm.data import read_series

    series = read_series(data, time or trained.time, target or trained.target, time_format=time_format, step=trained.step)
    _tell([f"note: {note.text}" for note in series.notes], quiet)
    return series


def _describe(data: Path, series: Any) -> list[str]:
    from openlstm.data.series import name_step, show_time

    span = f"{show_time(series.times[0])} to {show_time(series.times[-1])}"
    head = f"{series.name} in {data.name}: {name_step(series.step, len(series))}, {span}"
    return [head, *(f"note: {note.text}" for note in series.notes)]


def _as_csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)  # numbers as Python writes them, so that they are read back the same
    return text.getvalue()


def _as_parquet(prediction: Any) -> bytes:
    import polars as pl

    buffer = io.BytesIO()
    pl.DataFrame(prediction.rows()).with_columns(pl.Series("date", prediction.times)).write_parquet(buffer)
    return buffer.getvalue()


def _print_json(result: Any) -> None:
    print(json.dumps(result, allow_nan=False))


def _err() -> Console:
    return Console(stderr=True)


def _tell(lines: list[str], quiet: bool = False) -> None:
    for line in [] if quiet else lines:
        _err().print(line, highlight=False, soft_wrap=True, markup=False)


def _in_form(error: Exception) -> str | None:
    """What a user is told of an error that is none of ours; None where nobody but us can do something about it."""
    if isinstance(error, OpenLSTMError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and (extra := extra_of(error.name)) is not None:
        return str(missing_extra("openlstm", str(error.name), extra))
    if isinstance(error, OSError):
        return message(
            str(error.filename or "openlstm"),
            "cannot be read or written",
            error.strerror or str(error),
            "a place that can be read and written",
            "check the path, the rights to it, and the space that is left",
        )
    first = (str(error) or "no memory left").splitlines()[0]
    if isinstance(error, MemoryError) or "allocate memory" in first or "out of memory" in first:  # torch raises RuntimeError
        return message(
            "openlstm",
            "the memory does not suffice",
            first,
            "room for the table and the network",
            "a smaller window, network or table",
        )
    return None


def _show_warning(text: Any, category: Any, filename: str, lineno: int, file: Any = None, line: str | None = None) -> None:
    _err().print(f"note: {text}", highlight=False, soft_wrap=True, markup=False)


class _Nothing:
    """A context that does nothing and gives None."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: Any) -> None:
        return None
