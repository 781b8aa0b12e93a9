"""The commands on a table and a model: check, `fit forecast`, predict, evaluate, inspect, xray. Thin, and light to import."""

from __future__ import annotations

import csv
import io
import sys
from contextlib import nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from openlstm._files import writable, write_whole
from openlstm._terminal import Json, Quiet, integer, output_option, print_json, progress, say, status, tell
from openlstm.errors import ArgumentError
from openlstm.tasks.options import COLUMNS, ENGINE, FORMAT, NAMES, Options, split, with_options

TABLE = "A CSV, Parquet, Arrow or Excel file."
Data = Annotated[Path, typer.Argument(metavar="DATA", help=TABLE, show_default=False)]
ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="A model file that `openlstm fit` wrote.", show_default=False)]
FutureData = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A table of the columns known ahead, for the steps to forecast.", show_default=False),
]
Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="A picture: .png, .svg or .html.", show_default=False)
]
Use = Annotated[str, typer.Option(help="network, best (what won on validation), or a baseline, e.g. ets.")]
Output = Annotated[Path | None, output_option("A .csv or .parquet file instead of standard output.")]
PICTURES = (".png", ".svg", ".html")


@with_options(columns=COLUMNS, form=FORMAT)
def check(
    data: Data,
    columns: Options,
    form: Options,
    horizon: Annotated[int | None, integer(1, "How many steps will be forecast.")] = None,
    as_json: Json = False,
) -> None:
    """Say what a table holds, what `fit` would make of it, and what is wrong, before anything is trained.

    Example:
      openlstm check sales.csv
    """
    from openlstm import data as tables

    report = tables.check(data, _columns(columns), format_of(form), horizon=horizon)
    if as_json:
        print_json(report.to_dict())
    else:
        Console().print(report)
    if report.errors:
        raise typer.Exit(1)


@with_options(names=NAMES, form=FORMAT, engine=ENGINE)
def predict(
    model: ModelPath,
    data: Data,
    names: Options,
    form: Options,
    engine: Options,
    future_data: FutureData = None,
    use: Use = "network",
    output: Output = None,
    plot: Plot = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Forecast the steps that follow each series of a table: date, forecast, and the bands around it.

    Example:
      openlstm predict model.safetensors co2.csv
    """
    from openlstm.runtime import load
    from openlstm.tasks import partitions
    from openlstm.tasks.workers import engine_of

    spread = engine_of(**engine)
    inputs = tuple(p for p in (data, model, future_data) if p is not None)
    for place, kinds in ((output, (".csv", ".parquet")[spread is not None :]), (plot, PICTURES)):
        if place is not None:
            writable(place, kinds, inputs)
    if spread is not None and (output is None or plot is not None):
        what, got = "the forecast of many series goes into a file", "--plot" if output else "no --output"
        raise ArgumentError.of("--engine ray", what, got, "--output FILE.parquet alone", "--output forecast.parquet")
    loaded = load(model)
    _no_simulation(loaded, model, {"--plot": plot})
    if spread is not None and output is not None:
        with progress("predict", letters=30, quiet=quiet) as show, redirect_stdout(sys.stderr):  # Ray prints there
            show(0.0, "starting Ray")
            count = lambda done, total: show(done / total, f"{done} of {total} partitions")  # noqa: E731
            more = {"future_data": future_data, "use": use, "options": names | form, "on_progress": count}
            written = partitions.predict(loaded, data, output, spread, **more)
        tell([*(f"note: {n.text}" for n in written.notes), f"forecast of: {written.source}"], quiet)
        tell([f"wrote {written.rows:,} rows to {output}"], quiet)
        if as_json:
            notes = [n._asdict() for n in written.notes]
            told = {"source": written.source, "notes": notes, "rows": written.rows, "output": str(output)}
            print_json({"model": str(model), "target": names["target"] or loaded.header.series.target, **told})
        return
    panel = loaded.panel(data, future_data=future_data, options=names | form)
    tell([f"note: {note.text}" for note in panel.notes], quiet)
    prediction = partitions.ask(loaded, panel, use)
    tell([f"forecast of: {prediction.source}"], quiet)
    if plot is not None:
        draw(plot, panel, prediction)
    rows = prediction.rows()
    if output is not None:
        write_whole(output, _as_csv(rows).encode() if output.suffix.lower() == ".csv" else _as_parquet(prediction))
        tell([f"wrote {len(rows)} rows to {output}"], quiet)
    if as_json:
        notes = [n._asdict() for n in panel.notes]
        result = {"model": str(model), "target": panel.target, "source": prediction.source, "notes": notes, "forecast": rows}
        return print_json(result)
    if output is None:
        print(_as_csv(rows), end="")


@with_options(names=NAMES, form=FORMAT, engine=ENGINE)
def evaluate(
    model: ModelPath,
    data: Data,
    names: Options,
    form: Options,
    engine: Options,
    origins: Annotated[
        int | None, integer(1, "So many forecasts of each series, one horizon apart. Without it all unseen.")
    ] = None,
    refit: Annotated[
        bool, typer.Option("--refit", help="Train anew at each origin, on nothing but what lies before it.")
    ] = False,
    time_limit: Annotated[
        float | None,
        typer.Option(
            help="Seconds for AutoARIMA and gradient boosting each, where installed; 0 for neither.", show_default=False
        ),
    ] = 60.0,
    output: Output = None,
    plot: Plot = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a model on the rows it has not seen, beside the baselines in its file, per series and over all.

    Example:
      openlstm evaluate model.safetensors co2.csv
    """
    from openlstm.runtime import load
    from openlstm.tasks import evaluation as scoring
    from openlstm.tasks.partitions import over_series
    from openlstm.tasks.workers import engine_of, workers

    spread = engine_of(**engine)
    for place, kinds in ((output, (".csv", ".parquet")), (plot, PICTURES)):
        if place is not None:
            writable(place, kinds, (data, model))
    loaded = load(model)
    given = {"--plot": plot, "--output": output, "--origins": origins, "--refit": refit or None, "--engine": spread and "ray"}
    _no_simulation(loaded, model, given)
    panel = loaded.panel(data, options=names | form)
    tell([f"note: {note.text}" for note in panel.notes], quiet)
    if loaded.header.decoder.kind == "simulate":
        from openlstm.tasks import simulation, tables

        told = simulation.evaluate(loaded, panel)
        return (
            print_json({"model": str(model), **told.to_dict()}) if as_json else Console().print(tables.efficiency_table(told))
        )
    again = _again(loaded) if refit else None
    beside = (nullcontext(), nullcontext()) if spread is None else (redirect_stdout(sys.stderr), workers(spread))
    with status("scoring ...", quiet) as show, beside[0], beside[1] as ray:
        found = scoring.evaluate(
            loaded,
            panel,
            origins=origins,
            refit=again,
            time_limit=time_limit or None,
            on_progress=lambda p: show(f"{p.doing}, {p.done + 1} of {p.total}"),
            over=map if ray is None else ray.map if refit else partial(over_series, ray),
        )
    if plot is not None:
        draw_evaluation(plot, found)
    if output is not None:
        write_whole(output, _frame_bytes(found.columns(), output))
    if as_json:
        return print_json({"model": str(model), "notes": [n._asdict() for n in panel.notes], **found.to_dict()})
    print_scores(found)


def inspect(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A model file that `openlstm fit` wrote, or a trained model of another package: ONNX, Keras, Flax, torch.",
            show_default=False,
        ),
    ],
    as_json: Json = False,
) -> None:
    """What a model file holds: what it forecasts, from which columns, its network, its baselines, how it was trained.

    Of a file of another package: its recurrent layers, as `openlstm.read` gives them.

    Example:
      openlstm inspect model.safetensors
    """
    from openlstm import model_file
    from openlstm.tasks.tables import header_table

    if not model_file.is_ours(model):
        from openlstm.exchange.read import read

        found = read(model)
        if as_json:
            told = {"layers": found.rows(), "notes": list(found.notes), "not_expressed": found.left}
            return print_json({"file": str(model), **told})
        return print(found)
    header, tensors = model_file.read(model)
    if as_json:
        return print_json({"model": str(model), **model_file.plain(header)})
    Console().print(header_table(header, tensors, model))


@with_options(names=NAMES, form=FORMAT)
def xray(
    model: ModelPath,
    names: Options,
    form: Options,
    data: Annotated[
        Path | None, typer.Argument(metavar="[DATA]", help=f"{TABLE} Noise if left out.", show_default=False)
    ] = None,
    lag: Annotated[
        int | None, integer(1, "Steps between what has to be remembered and the answer. Without it, found in DATA.")
    ] = None,
    before: Annotated[
        bool, typer.Option("--before", help="Look at the network as it was before training: what can it learn?")
    ] = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="Where a lag is blocked, train again as advised and write a new model file.")
    ] = False,
    feeds: Annotated[
        Path | None, typer.Option(help="Of a model of ONNX: an .npz file with its inputs by name.", show_default=False)
    ] = None,
    carry: Annotated[
        list[str] | None, typer.Option(help="OUTPUT=INPUT of the next call, where FEEDS holds several.", show_default=False)
    ] = None,
    output: Annotated[Path | None, output_option("Where the report goes. Without it xray.html.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """What a network remembers, for how long, and what to change, as one self-contained page.

    Of a model of ONNX: its recurrent layers, one page for each, on the inputs that they get while the model runs on FEEDS.

    Example:
      openlstm xray model.safetensors co2.csv --output xray.html
    """
    page = output or (None if as_json else Path("xray.html"))
    if page is not None:
        writable(page, (".html", ".htm"), tuple(p for p in (model, data, feeds) if p is not None))
    if feeds is not None:
        from openlstm.exchange.onnx.command import look as look_inside

        return look_inside(model, feeds, carry or [], page, {"lag": lag, "before": before}, as_json, quiet)
    if model.suffix.lower() == ".onnx":
        what, hint = "a model of ONNX is looked at while it runs", f"openlstm xray {model} --feeds x.npz"
        raise ArgumentError.of("xray", what, "no --feeds", "an .npz file with its inputs by name", hint)
    if apply and data is None:
        example = f"openlstm xray {model} DATA --apply"
        raise ArgumentError.of("xray", "--apply trains, so it needs the data", "no DATA", "DATA", example)
    from openlstm.engine.threads import torch_aside
    from openlstm.runtime import load
    from openlstm.tasks import xray as look

    loaded = load(model)
    panel = None if data is None else loaded.panel(data, options=names | form)
    if panel is not None:
        tell([f"note: {note.text}" for note in panel.notes], quiet)
    with status("looking ...", quiet), torch_aside():
        report = look.forecaster(loaded.header, loaded.tensors, panel, lag=lag, before=before or apply, name=model.name)
        if page is not None:
            report.to_html(page)
    advised = look.apply(report, loaded.header, panel, model, quiet=quiet) if apply and panel is not None else None
    if as_json:
        where = None if page is None else str(page)
        return print_json({"model": str(model), "page": where, "advised": advised, **report.to_dict()})
    Console().print(look.table(report))
    if advised is not None:
        say(f"Trained again with --init {advised['init']}: {advised['model']}")
        for name, mase in advised["mase"].items():
            say(f"  MASE {mase:.3f}  {name}")
    elif apply:
        say("Nothing was trained: no change is advised.")
    if page is not None:
        say(f"Wrote {page}: open it in a browser.")


def _columns(given: Options) -> Any:
    from openlstm.data import Columns

    ids, future, past, static = (split(given[n]) for n in ("series", "future", "past", "static"))
    return Columns(given["time"], given["target"], ids, future, past, static, bool(given["wide"]))


def _no_simulation(loaded: Any, model: Path, options: Options) -> None:
    """Refuse options that a simulating model has no use for."""
    given = [name for name, value in options.items() if value is not None]
    if given and loaded.header.decoder.kind == "simulate":
        what, expected = "simulates, and has no such picture, file, origins or engine", "a model that forecasts"
        raise ArgumentError.of(str(model), what, " ".join(given), expected, f"leave {' and '.join(given)} out")


def format_of(given: Options) -> Any:
    """The options of how a table is written as a `data.Format`."""
    from openlstm.data import Format

    return Format(**{name: value for name, value in given.items() if value is not None})


def _again(model: Any) -> Any:
    """What trains a model like a given one anew, for `evaluate --refit`."""
    from openlstm.tasks.forecast import like

    return lambda known: like(model.header).fit(known, quiet=True).model_


def print_scores(evaluation: Any) -> None:
    """Print the table of an evaluation."""
    from openlstm.tasks.tables import score_table

    Console().print(score_table(evaluation))


def draw(path: Path, panel: Any, prediction: Any) -> None:
    """Write a picture of a forecast."""
    from openlstm.tasks.pictures import plot, save

    save(plot(panel, prediction), path)


def draw_evaluation(path: Path, evaluation: Any) -> None:
    """Write a picture of what was held out, and of the forecasts of it."""
    from openlstm.tasks.pictures import plot_evaluation, save

    save(plot_evaluation(evaluation), path, evaluation)


def _as_csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)  # numbers as Python writes them, so that they are read back the same
    return text.getvalue()


def _as_parquet(prediction: Any) -> bytes:
    return _frame_bytes(prediction.columns(), Path("x.parquet"))


def _frame_bytes(columns: dict[str, Any], path: Path) -> bytes:
    import polars as pl

    buffer, frame = io.BytesIO(), pl.DataFrame({n: a.tolist() if a.dtype == object else a for n, a in columns.items()})
    (frame.write_csv if path.suffix.lower() == ".csv" else frame.write_parquet)(buffer)
    return buffer.getvalue()
