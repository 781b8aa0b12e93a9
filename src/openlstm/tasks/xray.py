"""An X-ray of a model file: the network in it, or the same one before its first step, over windows of a series.

Legend: N windows, W steps of a window, K steps of the horizon, I input size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from openlstm._files import writable
from openlstm.data import Series
from openlstm.insight.report import Report
from openlstm.insight.xray import xray
from openlstm.model_file import Header
from openlstm.tasks.examples import windows
from openlstm.tasks.forecast import OPTIONS, Forecaster
from openlstm.tasks.network import network, quantile_loss
from openlstm.tasks.scoring import evaluate
from openlstm.train import Options

EPOCHS = Options().epochs  # at most, where `apply` trains
NOISE = 64  # rows of noise where there are no data


def forecaster(
    header: Header,
    tensors: dict[str, np.ndarray],
    series: Series | None,
    *,
    lag: int | None = None,
    before: bool = False,
    name: str = "forecaster",
) -> Report:
    """X-ray the first member of a forecaster.

    Args:
        header, tensors: of a model file.
        series: what it forecasts; None for noise, which shows what the network can carry but not what it needs or uses.
        lag: as in `openlstm.xray`; without a series the season if None.
        before: the network as it was before its first step of training.
        name: what the report calls it.

    Raises:
        DataError: if the series has no window.
    """
    net = network(header, None if before else tensors)
    notes = []
    if header.network.members > 1:
        notes.append(f"The first of {header.network.members} members is shown; they differ in their seed alone.")
    loss, data = None, None
    if series is None:
        W = header.series.window
        noise = torch.randn(NOISE, W, 1, generator=torch.Generator().manual_seed(0))
        data = torch.cat([noise, torch.zeros_like(noise)], -1)
        lag = lag if lag is not None else min(header.series.period, W - 1)
        notes.append(
            "No data were given: the inputs are noise, so what the data need and what the network uses is not known. "
            f"The lag asked about is {lag}."
        )
    else:
        data, loss = windows(header, series), quantile_loss(header.head.quantiles)
    report = xray(net, data, lag=lag, loss=loss, before=before, features=("value", "missing"), name=name)
    if not before and report.uses is not None:
        W = header.series.window
        notes.append(f"Windows are scaled by all of their {W} values before the network reads them: the model still takes {W}.")
    return report.noted(*notes)


def apply(report: Report, header: Header, series: Series, path: Path, *, quiet: bool = False) -> dict[str, Any] | None:
    """Train again as advised, on the rows the model was trained on, and write the new model beside the old one.

    Returns:
        init, model (the path), and the MASE of both on the rows neither has seen; None where no change is advised.
    """
    best = None if report.advice is None else report.advice.best
    if best is None or not best.flag:
        return None
    from openlstm.runtime import load

    place = path.with_name(f"{path.stem}-{best.flag.replace('=', '-')}{path.suffix}")
    writable(place)
    old = load(path)
    training, shape = header.training, header.network
    holdout = int((series.times > np.datetime64(training.last)).sum())
    again = Forecaster(
        header.series.horizon,
        period=header.series.period,
        window=header.series.window,
        cell=shape.cell,
        hidden_size=shape.hidden_size,
        num_layers=shape.num_layers,
        members=shape.members,
        init=best.flag,
        options=Options(epochs=EPOCHS, **{name: getattr(training, name) for name in OPTIONS}),
    ).fit(series, holdout=holdout, quiet=quiet)
    again.save(place)
    mase: dict[str, float] = {}
    if holdout:
        scores = evaluate({"as it was": old, best.flag: again.model_}, series)
        mase = {n: s.mase for n in ("as it was", best.flag) if (s := scores.score(n)).mase is not None}
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
