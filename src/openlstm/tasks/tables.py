"""The tables of an evaluation and of a model file for the terminal, at most 80 columns wide."""

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


def header_table(header: Header, tensors: dict[str, np.ndarray], path: Path) -> RenderableType:
    """What a model file holds: what it forecasts, from which columns, its network, who else can be asked."""
    series, net, decoder, training = header.series, header.network, header.decoder, header.training
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    columns = {role: ", ".join(f.name for f in series.of(role)) for role in ("future", "past", "static")}
    ahead = "from other columns" if decoder.kind == "simulate" else f"{name_step(series.step, series.horizon)} ahead"
    lags = [f"{lag.season * (lag.back + 1)}" for lag in series.lags]
    first, last = (show_time(np.datetime64(time)) for time in (training.first, training.last))
    told = {
        "forecasts": f"{series.target}, {ahead}",
        "series": f"{training.series:,}" + (f", named by {', '.join(series.ids)}" if series.ids else ""),
        "time": series.time + (f", in {series.zone}" if series.zone else ""),
        **columns,
        "calendar": ", ".join(series.calendar),
        "window": f"{name_step(series.step, series.window)}; season {series.period}",
        "lags": f"{', '.join(lags)} steps before" if lags else "",
        "network": f"{net.members} x {net.cell}, {net.num_layers} x {net.hidden_size} units, decoder {decoder.kind}",
        "quantiles": ", ".join(f"{q:g}" for q in decoder.quantiles),
        "trained on": f"{first} to {last}, seed {training.seed}, init {training.init}",
        "numbers": f"{sum(a.size for a in tensors.values()):,} in {len(tensors):,} tensors",
        "written by": f"openlstm {header.library}, header version {header.version}",
    }
    for name, value in told.items():
        if value:
            facts.add_row(name, Text(value))
    asked = _table("\nWho can be asked", "--use", "weight in best", "validation MASE", "bands calibrated")
    for one in header.forecasters:
        calibrated = "-" if not one.enough else "yes" if all(one.enough) else "too few windows"
        weight = f"{one.weight:.2f}" if one.weight else "-"
        asked.add_row(_short(one.name), weight, figure(one.error, "mase"), calibrated)
    return Group(Text(path.name, style="bold"), facts, asked)


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
