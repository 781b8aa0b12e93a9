"""The commands on a table and a model: `fit forecast`, `predict`, `evaluate`, `xray`. Light to import."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from openlstm._files import writable, write_whole
from openlstm._terminal import Json, Quiet, integer, output_option, print_json, say, status, tell
from openlstm.errors import ArgumentError

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
Output = Annotated[Path | None, output_option("A .csv or .parquet file instead of standard output.")]


def fit_forecast(
    data: Data,
    time: Annotated[str, typer.Option(help="The column of dates.", show_default=False)],
    target: Annotated[str, typer.Option(help="The column of numbers to forecast.", show_default=False)],
    horizon: Annotated[int, integer(1, "How many steps to forecast.")],
    output: Annotated[Path, output_option("Where the model file goes.")],
    period: Annotated[
        int | None, integer(1, "Steps in a season. Without it weekly 52, monthly 12, daily 7, hourly 24, otherwise 1.")
    ] = None,
    window: Annotated[
        int | None, integer(1, "Steps the network reads. Without it the largest of two seasons, the horizon and 96.")
    ] = None,
    holdout: Annotated[
        int | None, integer(0, "Steps at the end that are kept for scoring; 0 for none. Without it two horizons.")
    ] = None,
    cell: Annotated[str, typer.Option(help="lstm, rnn_tanh or rnn_relu.")] = "lstm",
    hidden_size: Annotated[int, integer(1, "Units of each layer.")] = 64,
    num_layers: Annotated[int, integer(1, "Recurrent layers on top of each other.")] = 1,
    members: Annotated[int, integer(1, "Networks whose forecasts are averaged.")] = 3,
    init: Annotated[
        str, typer.Option(help="How the weights are initialised: default, forget-bias=1, chrono=LAG, orthogonal or identity.")
    ] = "default",
    epochs: Annotated[int, integer(1, "The most passes over the data.")] = 40,
    learning_rate: Annotated[float, typer.Option(help="The greatest learning rate.")] = 5e-3,
    seed: Annotated[int, integer(0, "The same seed gives the same model.")] = 0,
    time_format: TimeFormat = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a forecaster of one column and score it beside simple baselines.

    Example:
      openlstm fit forecast co2.csv --time date --target co2 --horizon 52 \\
          --output model.safetensors
    """
    writable(output, (".safetensors",), (data,))
    from openlstm.data import read_series
    from openlstm.tasks.forecast import Forecaster
    from openlstm.train import Options

    series = read_series(data, time, target, time_format=time_format)
    tell(_describe(data, series), quiet)
    forecaster = Forecaster(
        horizon,
        period=period,
        window=window,
        cell=cell,
        hidden_size=hidden_size,
        num_layers=num_layers,
        members=members,
        init=init,
        options=Options(epochs=epochs, learning_rate=learning_rate, seed=seed),
    )
    holdout = 2 * horizon if holdout is None else holdout
    forecaster.fit(series, holdout=holdout, quiet=quiet)
    forecaster.save(output)
    evaluation = forecaster.evaluate() if holdout else None
    if as_json:
        result = {
            "model": str(output),
            "notes": [note._asdict() for note in series.notes],
            "split": vars(forecaster.split_),
            "header": json.loads(forecaster.model_.header.model_dump_json(exclude={"checksum"})),
            "evaluation": evaluation.to_dict() if evaluation else None,
        }
        return print_json(result)
    if evaluation:
        _print_scores(evaluation)
    else:
        say("Nothing was held out, so there is no score: fit once with --holdout to get one.")
    say(f"Saved {output}. Next: openlstm predict {output} {data}")


def predict(
    model: ModelPath,
    data: Data,
    output: Output = None,
    time: TimeColumn = None,
    target: TargetColumn = None,
    time_format: TimeFormat = None,
    as_json: Json = False,
) -> None:
    """Forecast the steps that follow the last row of a table: date, forecast, and the band for 80 % of the values.

    Example:
      openlstm predict model.safetensors co2.csv
    """
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
        tell([f"wrote {len(rows)} rows to {output}"])
    if as_json:
        notes = [n._asdict() for n in series.notes]
        return print_json({"model": str(model), "target": series.name, "notes": notes, "forecast": rows})
    if output is None:
        print(_as_csv(rows), end="")


def evaluate(
    model: ModelPath,
    data: Data,
    time: TimeColumn = None,
    target: TargetColumn = None,
    time_format: TimeFormat = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a model on the rows it has not seen, beside naive, seasonal naive, drift, ETS and a linear window model.

    Example:
      openlstm evaluate model.safetensors co2.csv
    """
    from openlstm.runtime import load
    from openlstm.tasks import scoring

    loaded = load(model)
    series = _series_for(loaded.header.series, data, time, target, time_format, quiet)
    name = scoring.title(loaded.header.network.cell)
    with status("scoring ...", quiet) as show:
        evaluation = scoring.evaluate({name: loaded}, series, lambda who: show(f"scoring {who}"))
    if as_json:
        return print_json({"model": str(model), "notes": [n._asdict() for n in series.notes], **evaluation.to_dict()})
    _print_scores(evaluation)


def xray(
    model: ModelPath,
    data: Annotated[
        Path | None, typer.Argument(metavar="[DATA]", help="A CSV or Parquet file; noise if left out.", show_default=False)
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
    output: Annotated[Path | None, output_option("Where the report goes. Without it xray.html.")] = None,
    time: TimeColumn = None,
    target: TargetColumn = None,
    time_format: TimeFormat = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """What a network remembers, for how long, and what to change, as one self-contained page.

    Example:
      openlstm xray model.safetensors co2.csv --output xray.html
    """
    page = output or (None if as_json else Path("xray.html"))
    if page is not None:
        writable(page, (".html", ".htm"), tuple(p for p in (model, data) if p is not None))
    if apply and data is None:
        example = f"openlstm xray {model} DATA --apply"
        raise ArgumentError.of("xray", "--apply trains, so it needs the data", "no DATA", "DATA", example)
    from openlstm import model_file
    from openlstm.engine.threads import torch_aside
    from openlstm.tasks import xray as look

    header, tensors = model_file.read(model)
    series = None if data is None else _series_for(header.series, data, time, target, time_format, quiet)
    with status("looking ...", quiet), torch_aside():
        report = look.forecaster(header, tensors, series, lag=lag, before=before or apply, name=model.name)
        if page is not None:
            report.to_html(page)
    advised = look.apply(report, header, series, model, quiet=quiet) if apply and series is not None else None
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


def _print_scores(evaluation: Any) -> None:
    from openlstm.tasks.show import score_table

    Console().print(score_table(evaluation))
    for name in evaluation.models:
        Console().print(evaluation.verdict(name), highlight=False, markup=False)


def _series_for(
    trained: Any, data: Path, time: str | None, target: str | None, time_format: str | None, quiet: bool = False
) -> Any:
    from openlstm.data import read_series

    series = read_series(data, time or trained.time, target or trained.target, time_format=time_format, step=trained.step)
    tell([f"note: {note.text}" for note in series.notes], quiet)
    return series


def _describe(data: Path, series: Any) -> list[str]:
    from openlstm.data.grid import name_step, show_time

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
