"""An X-ray of a model file: the network in it, or the same one before its first step, over windows of a panel.

Legend: N windows, W steps of a window, K steps of the horizon, I input size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from openlstm._files import writable
from openlstm.data.panel import Panel
from openlstm.errors import ArgumentError
from openlstm.insight.report import Report
from openlstm.insight.xray import xray
from openlstm.model_file import Header
from openlstm.model_file.header import COUNTS
from openlstm.runtime.model import load
from openlstm.tasks.evaluation import evaluate
from openlstm.tasks.examples import example_windows
from openlstm.tasks.forecast import like
from openlstm.tasks.network import mean_error, network

NOISE = 64  # series of noise where there are no data


def forecaster(
    header: Header,
    tensors: dict[str, np.ndarray],
    panel: Panel | None,
    *,
    lag: int | None = None,
    before: bool = False,
    name: str = "forecaster",
) -> Report:
    """X-ray the first member of a forecaster.

    Args:
        header, tensors: of a model file.
        panel: what it forecasts; None for noise, which shows what the network can carry but not what it needs or uses.
        lag: as in `openlstm.xray`; without a panel the season if None.
        before: the network as it was before its first step of training.
        name: what the report calls it.

    Raises:
        DataError: if the panel has no window.
    """
    net = network(header, None if before else tensors)
    series, notes = header.series, []
    if header.network.members > 1:
        notes.append(f"The first of {header.network.members} members is shown; they differ in their seed alone.")
    loss = mean_error(header)
    if panel is None:
        if series.features:
            names = ", ".join(f.name for f in series.features)
            what, hint = "the model reads covariates, and noise has none", "openlstm xray MODEL DATA"
            raise ArgumentError.of("xray", what, f"no DATA, and a model that reads {names}", "DATA", hint)
        noise = np.random.default_rng(0).standard_normal((NOISE, series.window + series.horizon))
        noise = np.rint(np.exp(noise)) if header.decoder.distribution == COUNTS else noise
        given = example_windows(header, Panel.of(list(noise), "2001-01-01", series.step), NOISE)
        lag = lag if lag is not None else min(series.period, series.window - 1)
        report = xray(net, given[:-1], lag=lag, before=before, features=inputs(header), name=name)
        notes.append(
            "No data were given: the inputs are noise, so what the data need and what the network uses is not known. "
            f"The lag asked about is {lag}."
        )
        return report.noted(*notes)
    report = xray(net, example_windows(header, panel), lag=lag, loss=loss, before=before, features=inputs(header), name=name)
    if not before and report.uses is not None:
        W = series.window
        notes.append(f"Windows are scaled by all of their {W} values before the network reads them: the model still takes {W}.")
    return report.noted(*notes)


def inputs(header: Header) -> tuple[str, ...]:
    """The names of the inputs of the network, in their order, [I]."""
    series = header.series
    numbers = [f for f in series.features if f.categories is None]
    categories = [f for f in series.features if f.categories is not None]
    names = ["value", "missing", *(f"value {season} steps before" for season in series.seasons)][: header.of_target]
    names += [f"{cycle} ({wave})" for cycle in series.calendar for wave in ("sine", "cosine")]
    names += [name for f in numbers for name in (f.name, f"{f.name} missing")[: 1 + f.marked]]
    names += [f"{f.name} missing" for f in categories if f.marked]
    return (*names, *(f"{f.name} {k + 1}" for f in categories for k in range(f.width)))


def apply(report: Report, header: Header, panel: Panel, path: Path, *, quiet: bool = False) -> dict[str, Any] | None:
    """Train again as advised, on the rows the model was trained on, and write the new model beside the old one.

    Returns:
        init, model (the path), and the MASE of both on the rows neither has seen; None where no change is advised.
    """
    best = None if report.advice is None else report.advice.best
    if best is None or not best.flag:
        return None
    place = path.with_name(f"{path.stem}-{best.flag.replace('=', '-')}{path.suffix}")
    writable(place)
    old = load(path)
    holdout = int((panel.history - old.seen(panel)).max(initial=0))
    again = like(header, init=best.flag).fit(panel, holdout=holdout, quiet=quiet)
    again.save(place)
    mase: dict[str, float] = {}
    if holdout:
        for name, model in (("as it was", old), (best.flag, again.model_)):
            found = evaluate(model, panel).score(model.name).mase
            if found is not None:
                mase[name] = found
    return {"init": best.flag, "model": str(place), "mase": mase}


def table(report: Report) -> Group:
    """The report in a terminal: the verdict, the horizons, the advice, and a line for each section."""
    parts: list[Any] = [Text(report.word.capitalize(), style="bold red" if report.word == "blocked" else "bold")]
    parts.append(Text(report.finding))
    if report.horizons is not None and report.horizons.lags:
        lags = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
        lags.add_column(style="dim")
        lags.add_column(justify="right")
        lags.add_column(overflow="fold")
        for one in report.horizons.lags:
            lags.add_row(one.name, one.in_steps, escape(one.note))
        parts.append(lags)
    if report.advice is not None:
        parts.append(Text(report.advice.finding))
    lines = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    lines.add_column(style="dim", no_wrap=True)
    lines.add_column(overflow="fold")
    for section in report.sections:
        if section.finding and section.finding == report.finding:
            continue  # it is the verdict
        why = f"not computed: {section.error.splitlines()[0]}" if section.error else ""
        lines.add_row(section.title, escape(section.finding or why))
    parts.append(lines)
    parts += [Text(f"note: {note}", style="dim") for note in report.notes]
    return Group(*parts)
