"""The commands that train: `fit forecast` and `fit simulate`. Thin, and light to import."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from openlstm._files import writable
from openlstm._terminal import Json, Quiet, integer, keep_silent, output_option, print_json, say, status, tell
from openlstm.errors import ArgumentError, DataError
from openlstm.tasks.command import PICTURES, Data, FutureData, Plot, draw, draw_evaluation, format_of, print_scores
from openlstm.tasks.options import COLUMNS, FORMAT, TRAINING, Config, Options, split, with_options, write_config


@with_options(columns=COLUMNS, form=FORMAT, training=TRAINING)
def fit_forecast(
    data: Data,
    output: Annotated[Path, output_option("Where the model file goes.")],
    *,
    horizon: Annotated[int | None, integer(1, "How many steps to forecast; needed without --continue.")] = None,
    columns: Options,
    form: Options,
    future_data: FutureData = None,
    holdout: Annotated[
        int | None,
        integer(0, "Steps at the end of each series that are kept for scoring; 0 for none. Without it two horizons, or one."),
    ] = None,
    period: Annotated[
        int | None, integer(1, "Steps in a season. Without it weekly 52, monthly 12, daily 7, hourly 24, otherwise 1.")
    ] = None,
    size: Annotated[str, typer.Option(help="auto: what is not given below is chosen from the amount of data.")] = "auto",
    window: Annotated[int | None, integer(1, "Steps the network reads.")] = None,
    cell: Annotated[str, typer.Option(help="lstm, gru, rnn_tanh, peephole, cifg, ...")] = "lstm",
    hidden_size: Annotated[int | None, integer(1, "Units of each layer.")] = None,
    num_layers: Annotated[int | None, integer(1, "Recurrent layers on top of each other.")] = None,
    members: Annotated[int, integer(1, "Networks whose forecasts are averaged.")] = 3,
    decoder: Annotated[
        str, typer.Option(help="direct (all steps at once) or recursive (one after the other, as a distribution).")
    ] = "direct",
    distribution: Annotated[
        str | None,
        typer.Option(help="Of recursive: normal, student-t, or 'negative binomial' for counts.", show_default=False),
    ] = None,
    quantiles: Annotated[str, typer.Option(help="What is forecast, 0.5 among them.")] = "0.1,0.5,0.9",
    baselines: Annotated[bool, typer.Option(help="Keep the baselines in the model file.")] = True,
    init: Annotated[
        str,
        typer.Option(
            help="How the weights are initialised: default, forget-bias=1, chrono=LAG, orthogonal, identity or slstm."
        ),
    ] = "forget-bias=1",
    steps: Annotated[int | None, integer(1, "Steps of the optimiser for each member.")] = None,
    batch_size: Annotated[int | None, integer(1, "Windows in a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The greatest learning rate.", show_default=False)] = None,
    seed: Annotated[int, integer(0, "The same seed gives the same model.")] = 0,
    training: Options,
    plot: Plot = None,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a forecaster of one or many series, and score it beside simple baselines.

    Example:
      openlstm fit forecast co2.csv --time date --target co2 --horizon 52 \\
          --output model.safetensors
    """
    if horizon is None and training["init_model"] is None:
        raise typer.BadParameter("how many steps to forecast is not said", param_hint="--horizon")
    chosen = {name: value for name, value in locals().items() if name in FITTED}
    chosen |= {"horizon": horizon or 1, "precision": training["precision"]}
    inputs = tuple(p for p in (data, future_data, config, training["init_model"]) if p is not None)
    writable(output, (".safetensors",), inputs)
    beside = output.with_suffix(".yml")
    if config is None or not (beside.exists() and beside.samefile(config)):
        writable(beside, (), inputs)
    if plot is not None:
        writable(plot, PICTURES, inputs)
    first = _launch(training)
    from openlstm.model_file import plain
    from openlstm.tasks.forecast import Forecaster

    place = _place(columns)
    forecaster = Forecaster(**place, **{**chosen, "quantiles": _quantiles(quantiles)}, init_model=training["init_model"])
    panel = forecaster.read(data, form=format_of(form), future_data=future_data)
    steps, longest = forecaster.steps_ahead, int(panel.history.max(initial=0))
    holdout = (2 * steps if longest >= 8 * steps else steps) if holdout is None else holdout
    forecaster.fit(panel, holdout=holdout, quiet=quiet, **_keeping(training, output))
    if not first:
        return
    forecaster.save(output)
    write_config(
        beside,
        {
            **place,
            **chosen,
            **form,
            "horizon": steps,
            "holdout": holdout,
            "continue": training["init_model"] and str(training["init_model"]),
        },
    )
    with status("scoring ...", quiet):
        try:
            evaluation = forecaster.evaluate() if holdout else None
        except DataError as error:  # the model is made and saved: only its score is missing
            evaluation = None
            tell([f"warning: no score: {error}"])
    if plot is not None:
        _draw(plot, forecaster, panel, evaluation)
    for warning in forecaster.warnings_:
        tell([f"warning: {warning}"])
    if as_json:
        result = {
            "model": str(output),
            "config": str(beside),
            "plot": None if plot is None else str(plot),
            "notes": forecaster.notes_,
            "warnings": list(forecaster.warnings_),
            "header": {k: v for k, v in plain(forecaster.model_.header).items() if k != "checksum"},
            "evaluation": evaluation.to_dict() if evaluation else None,
        }
        return print_json(result)
    if evaluation:
        print_scores(evaluation)
    else:
        say("Nothing was held out, so there is no score: fit once with --holdout to get one.")
    ahead = f" --future-data {future_data or 'FILE'}" if forecaster.model_.header.series.of("future") else ""
    say(f"Saved {output}, and its options in {beside}. Next: openlstm predict {output} {data}{ahead}")


@with_options(columns=COLUMNS, form=FORMAT, training=TRAINING)
def fit_simulate(
    data: Data,
    output: Annotated[Path, output_option("Where the model file goes.")],
    *,
    columns: Options,
    form: Options,
    holdout: Annotated[int, integer(0, "Steps at the end of each series that are kept for scoring.")] = 0,
    split_by: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Hold out one in five groups of series by this column.", show_default=False),
    ] = None,
    window: Annotated[int | None, integer(1, "Steps the network reads.")] = None,
    warmup: Annotated[int | None, integer(1, "Steps at the beginning of a window that are not trained on.")] = None,
    cell: Annotated[str, typer.Option(help="lstm, gru, rnn_tanh, peephole, cifg, ...")] = "lstm",
    hidden_size: Annotated[int | None, integer(1, "Units of each layer.")] = None,
    members: Annotated[int, integer(1, "Networks whose results are averaged.")] = 3,
    steps: Annotated[int | None, integer(1, "Steps of the optimiser for each member.")] = None,
    seed: Annotated[int, integer(0, "The same seed gives the same model.")] = 0,
    training: Options,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a network that tells a target from other columns of the same step, never from its own past.

    Example:
      openlstm fit simulate basins.csv --series basin --target flow --future rain,temp \\
          --static area --split-by basin --output model.safetensors
    """
    writable(output, (".safetensors",), tuple(p for p in (data, training["init_model"]) if p is not None))
    first = _launch(training)
    from openlstm.tasks.forecast import Forecaster
    from openlstm.tasks.tables import efficiency_table

    place = _place(columns) | {name: training[name] for name in ("init_model", "precision")}
    sizes = {"window": window, "warmup": warmup, "hidden_size": hidden_size, "members": members, "steps": steps}
    forecaster = Forecaster(decoder="simulate", cell=cell, seed=seed, **place, **sizes)
    forecaster.fit(data, holdout=holdout, groups=split_by, form=format_of(form), quiet=quiet, **_keeping(training, output))
    if not first:
        return
    forecaster.save(output)
    for warning in forecaster.warnings_:
        tell([f"warning: {warning}"])
    scores = forecaster.efficiency() if holdout or split_by else None
    if as_json:
        found = None if scores is None else scores.to_dict()
        return print_json({"model": str(output), "notes": forecaster.notes_, "evaluation": found})
    if scores is None:
        say("Nothing was held out, so there is no score: fit once with --holdout or --split-by to get one.")
    else:
        Console().print(efficiency_table(scores))
    say(f"Saved {output}. Next: openlstm predict {output} {data}")


def _place(columns: Options) -> Options:
    """Which column is what, as `Forecaster` takes it."""
    names = {n: split(columns[n]) for n in ("series", "future", "past", "static")}
    return {"time": columns["time"], "target": columns["target"], "wide": bool(columns["wide"]), **names}


def _launch(training: Options) -> bool:
    """Start the processes that train together, and say whether this is the first: the others neither write nor print."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # warnings of sockets, when another process ends
    from openlstm.train.processes import launch

    first = launch(training["processes"]).rank == 0
    if not first:
        keep_silent()
    return first


def _keeping(training: Options, output: Path) -> Options:
    """What `Forecaster.fit` is told of saving and watching; the checkpoints lie beside the model."""
    kept = {name: training[name] for name in ("resume", "checkpoint_every", "log", "tensorboard", "watch")}
    return {**kept, "checkpoints": output.with_suffix(".checkpoints")}


FITTED = (
    "horizon",
    "period",
    "size",
    "window",
    "cell",
    "hidden_size",
    "num_layers",
    "members",
    "decoder",
    "distribution",
    "quantiles",
    "baselines",
    "init",
    "steps",
    "batch_size",
    "learning_rate",
    "seed",
)
"""The options of `fit forecast` that the constructor of `Forecaster` takes under the same names."""


def _quantiles(text: str) -> tuple[float, ...]:
    try:
        return tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        raise ArgumentError.of("--quantiles", "are not numbers", repr(text), "numbers between 0 and 1", "0.1,0.5,0.9") from None


def _draw(path: Path, forecaster: Any, panel: Any, evaluation: Any) -> None:
    """A picture of what was held out; of the forecast where nothing was."""
    if evaluation is not None:
        return draw_evaluation(path, evaluation)
    try:
        draw(path, panel, forecaster.predict(panel))
    except DataError as error:  # columns known ahead that end with the past: the model is made, and there is nothing to draw
        tell([f"warning: no picture: {error}"])
