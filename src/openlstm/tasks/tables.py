"""The tables of an evaluation for the terminal, at most 80 columns wide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from openlstm.data.grid import name_step, show_time
from openlstm.model_file import Header
from openlstm.tasks.scores import BEST, Evaluation, figure, percent, shown_bands
from openlstm.tasks.simulation import Efficiency

NAMES = 19  # letters of a forecaster or series


def score_table(evaluation: Evaluation) -> RenderableType:
    """Every forecaster, the smallest error first; with many series the worst of them; what was left out; the verdict."""
    lines = [f"{BEST} is {evaluation.sources[BEST]}."] if BEST in evaluation.forecasts else []
    lines += [f"{name}: {reason}." for name, reason in evaluation.left_out.items()]
    parts: list[RenderableType] = [
        _over_all(evaluation),
        *(Text(line, style="dim") for line in (*lines, *_counted(evaluation))),
    ]
    if len(evaluation.panel) > 1:
        parts.append(_worst(evaluation))
    return Group(*parts, Text(""), Text(evaluation.verdict(), style="bold"))


def heading(evaluation: Evaluation) -> str:
    """What was held out, in one line."""
    panel, (first, last) = evaluation.panel, evaluation.span()
    origins = int((evaluation.histories >= 0).sum(axis=0).max())
    series = f"{len(panel):,} series, " if len(panel) > 1 else ""
    refitted = ", refitted at each" if evaluation.refitted else ""
    many = f"{origins} origin{'s' * (origins != 1)}{refitted}"
    steps = name_step(panel.step, evaluation.horizon)
    return f"{panel.target}: {series}{steps} ahead, {many}, {show_time(first)} to {show_time(last)}"


def _over_all(evaluation: Evaluation) -> Table:
    shares, scaled = shown_bands(evaluation.levels), evaluation.ranked_by == "mase"
    errors = ("mase", "rmsse") if scaled else ("mae", "rmse")
    table = _table(heading(evaluation), "forecaster", *(e.upper() for e in errors), "sMAPE", "CRPS")
    for share in shares:
        table.add_column(f"in {share}%", justify="right")
    table.add_column("seconds", justify="right")
    for k, s in enumerate(evaluation.scores):
        style = "bold green" if k == 0 else "bold" if s.name == evaluation.model else None
        measured = [figure(getattr(s, e), e) for e in (*errors, "smape", "crps")]
        inside = [percent(s.coverage[share]) for share in shares]
        seconds = "-" if s.seconds is None else "<0.1" if s.seconds < 0.05 else f"{s.seconds:,.1f}"
        table.add_row(_short(s.name), *measured, *inside, seconds, style=style)
    return table


def _worst(evaluation: Evaluation) -> Table:
    worst, metric = evaluation.worst(), evaluation.ranked_by
    head = f"The largest errors of {evaluation.model}" if len(worst) > 1 else f"{evaluation.model}"
    shares = shown_bands(evaluation.levels)[:1]
    table = _table(f"\n{head}", "series", metric.upper(), *(f"in {share}%" for share in shares), "best there", metric.upper())
    names = [name for name in evaluation.forecasts if name != BEST]
    for s in worst:
        errors = np.array([evaluation.by_series[name][metric][s] for name in names])
        first = int(np.nanargmin(errors))
        own = evaluation.by_series[evaluation.model]
        inside = [percent(own[f"coverage_{share}"][s]) for share in shares]
        table.add_row(
            _short(evaluation.panel.name(s)),
            figure(own[metric][s], metric),
            *inside,
            names[first],
            figure(errors[first], metric),
        )
    return table


def _counted(evaluation: Evaluation) -> list[str]:
    """How many series count for nothing, and why."""
    said = []
    for names, why in (
        (evaluation.unscaled, "whose past does not change from season to season count in no MASE and RMSSE"),
        (evaluation.unscored, "have no known value to score"),
    ):
        if names and len(evaluation.panel) > 1:
            more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
            said.append(f"{len(names):,} of {len(evaluation.panel):,} series {why}: {'; '.join(names[:3])}{more}.")
    return said


def _short(name: str) -> str:
    return name if len(name) <= NAMES else f"{name[: NAMES - 1]}…"


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=Text(title, style="bold"), box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="left" if name == "best there" else "right", no_wrap=True)
    return table


def efficiency_table(found: Efficiency) -> RenderableType:
    """NSE, KGE and the share inside the widest band: the median over the series, and the worst of them."""
    shares = list(found.coverage)[:1]
    table = _table(
        f"{found.simulation.panel.target}: {len(found.nse):,} series", "series", "NSE", "KGE", *(f"in {s}%" for s in shares)
    )
    scored = np.flatnonzero(found.steps > 0)
    worst = scored[np.argsort(found.nse[scored], kind="stable")][:5]
    show = lambda v, form: "-" if np.isnan(v) else format(v, form)  # noqa: E731
    over = lambda a: float(np.nanmedian(a[scored])) if (~np.isnan(a[scored])).any() else np.nan  # noqa: E731
    bands_ = [found.coverage[s] for s in shares]
    table.add_row(
        "median",
        show(over(found.nse), ".3f"),
        show(over(found.kge), ".3f"),
        *(show(over(b), ".0%") for b in bands_),
        style="bold",
    )
    for s in worst if len(scored) > 1 else []:
        numbers = (show(found.nse[s], ".3f"), show(found.kge[s], ".3f"), *(show(b[s], ".0%") for b in bands_))
        table.add_row(escape(found.simulation.panel.name(int(s))), *numbers)
    return table


def header_table(header: Header, tensors: dict[str, np.ndarray], path: Path) -> RenderableType:
    """What a model file holds, in words."""
    series, shape, training, decoder = header.series, header.network, header.training, header.decoder
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    cell = f"{shape.num_layers} x {shape.hidden_size} {shape.cell}, {shape.members} member{'s' * (shape.members != 1)}"
    numbers = sum(a.size for name, a in tensors.items() if name.startswith("member."))
    lines = {
        "file": f"{path.name}: version {header.version}, written by openlstm {header.library}",
        "forecasts": f"{series.target}, {name_step(series.step, series.horizon)} ahead, from windows of {series.window}",
        "series": f"{training.series:,} seen, named by {', '.join(series.ids)}" if series.ids else "one",
        "time": series.time + (f", zone {series.zone}" if series.zone else ""),
        "quantiles": ", ".join(f"{q:g}" for q in decoder.quantiles),
        "network": f"{cell}, {numbers:,} numbers; {decoder.kind} decoder",
        "reads": ", ".join([*series.calendar, *(f"{f.name} ({f.role})" for f in series.features)]) or "the target alone",
        "trained on": f"{training.first[:10]} to {training.last[:10]}, seed {training.seed}, {training.init}",
    }
    for name, text in lines.items():
        table.add_row(name, escape(text))
    told = _table("\nValidation", "forecaster", "MASE", "weight in best", "bands")
    for one in header.forecasters:
        error = "-" if one.error is None else f"{one.error:.3f}"
        banded = "-" if not one.enough else "calibrated" if all(one.enough) else "too few windows"
        told.add_row(one.name, error, f"{one.weight:.2f}" if one.weight else "-", banded)
    return Group(table, told)
