"""Tables and pictures of forecasts: rich for the terminal, altair for files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from openlstm._files import write_whole
from openlstm.data.grid import name_step, show_time
from openlstm.errors import missing_extra
from openlstm.tasks.scoring import Evaluation

if TYPE_CHECKING:
    from openlstm.insight.display import Display


def score_table(evaluation: Evaluation) -> Table:
    """MASE, RMSE and coverage of every forecaster, the best error first to see, the models at the end."""
    steps = slice(evaluation.first, evaluation.last)
    times = evaluation.series.times[steps]
    count, origins = name_step(evaluation.series.step, len(times)), len(evaluation.origins)
    table = Table(
        title=f"{escape(evaluation.series.name)}: {show_time(times[0])} to {show_time(times[-1])}, {count} held out, "
        f"{origins} origin{'s' * (origins != 1)}",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
    )
    table.add_column("forecaster")
    for name in ("MASE", "RMSE", "inside the 80 % band"):
        table.add_column(name, justify="right")
    best = min(s.mae for s in evaluation.scores)
    for s in evaluation.scores:
        style = "bold green" if s.mae == best else ("bold" if s.name in evaluation.models else None)
        mase = "-" if s.mase is None else f"{s.mase:.3f}"
        coverage = "-" if s.coverage is None else f"{s.coverage:.0%}"
        table.add_row(s.name, mase, f"{s.rmse:.4g}", coverage, style=style)
    for name, reason in evaluation.left_out.items():
        table.add_row(name, "-", "-", escape(reason), style="dim")
    return table


def draw(evaluation: Evaluation, name: str, path: Path, *, others: tuple[str, ...] = ()) -> None:
    """A picture of the held-out steps: what was measured, the forecast with its band, and baselines beside it.

    Args:
        name: the forecaster whose band is drawn.
        path: where the .png goes; an existing file is replaced.
        others: baselines to draw beside it.

    Raises:
        MissingExtraError: without altair or vl-convert.
    """
    try:
        import altair as alt

        from openlstm.insight.display import INK, SERIES, SOFT, Display
    except ImportError as e:
        raise missing_extra("draw", e.name or "altair", "report") from None
    data = _long(evaluation, name, others)
    seen = {"measured": INK, f"{name} forecast": SERIES[0], **dict.fromkeys(others, SERIES[1])}
    scale, legend = alt.Scale(domain=list(seen), range=list(seen.values())), alt.Legend(title=None, symbolType="stroke")
    color = alt.Color("who:N", scale=scale, legend=legend)
    x = alt.X("time:T", title=None, axis=alt.Axis(labelAngle=0, tickCount=8, grid=False))
    y = alt.Y("value:Q", title=evaluation.series.name, scale=alt.Scale(zero=False))
    low = alt.Y("lower:Q", title=evaluation.series.name, scale=alt.Scale(zero=False))
    dash = alt.condition("datum.dash", alt.value([4, 3]), alt.value([1, 0]))

    def of(rows: list[dict[str, Any]]) -> Any:
        return alt.Chart(alt.Data(values=rows))

    def drawing(width: int) -> Any:
        known, banded = ([row for row in data if row[key] is not None] for key in ("value", "lower"))
        band = of(banded).mark_area(opacity=0.18, color=SERIES[0]).encode(x=x, y=low, y2="upper:Q", detail="origin:O")
        rules = of([{"time": _iso(evaluation.series.times[o])} for o in evaluation.origins])
        lines = of(known).mark_line(strokeWidth=2).encode(x=x, y=y, color=color, detail="origin:O", strokeDash=dash)
        points = of([row for row in known if row["who"] == "measured"]).mark_circle(size=14).encode(x=x, y=y, color=color)
        origins = rules.mark_rule(color=SOFT, strokeDash=[2, 3]).encode(x=x)
        return alt.layer(band, origins, lines, points).properties(width=width, height=320)

    title, below = _words(evaluation, name)
    columns = {key: [row[key] for row in data] for key in ("who", "time", "value", "lower", "upper")}
    save(Display(title, drawing, columns, " ".join(below), tuple(seen)), below, path)


def save(display: Display, below: str | list[str], path: Path) -> None:
    """Write a picture to a .png or .svg file, its words below the title."""
    import altair as alt
    import vl_convert

    chart = display.chart
    chart.title = alt.TitleParams(display.title, subtitle=below, anchor="start")
    text = chart.to_json(validate=False)
    svg = path.suffix.lower() == ".svg"
    write_whole(path, vl_convert.vegalite_to_svg(text).encode() if svg else vl_convert.vegalite_to_png(text, scale=2))


def _words(evaluation: Evaluation, name: str) -> tuple[str, list[str]]:
    """The title of the picture, and the lines below it."""
    s = evaluation.score(name)
    held_out = evaluation.last - evaluation.first
    horizon = evaluation.origins[1] - evaluation.first if len(evaluation.origins) > 1 else held_out
    step = evaluation.series.step
    mase = "" if s.mase is None else f"MASE {s.mase:.2f}; "
    inside = "" if s.coverage is None else f"; {s.coverage:.0%} of the measured values lie in the 80 % band"
    first = f"At each dotted line the next {name_step(step, horizon)} are forecast from what lies to the left of it."
    title = f"{evaluation.series.name}: the last {name_step(step, held_out)}, never seen in training"
    return title, [first, f"{mase}RMSE {s.rmse:.3g}{inside}."]


def _long(evaluation: Evaluation, name: str, others: tuple[str, ...]) -> list[dict[str, Any]]:
    """One dict per point; a season and a half of the past stands before the first origin."""
    series, held_out = evaluation.series, evaluation.last - evaluation.first
    start = max(0, evaluation.first - int(1.5 * held_out))
    rows: list[dict[str, Any]] = []

    def add(
        who: str, at: int, value: float, origin: int, lower: float = np.nan, upper: float = np.nan, dash: bool = False
    ) -> None:
        numbers = {"value": value, "lower": lower, "upper": upper}
        clean = {key: None if np.isnan(v) else float(v) for key, v in numbers.items()}
        rows.append({"who": who, "time": _iso(series.times[at]), "origin": origin, "dash": dash, **clean})

    run = 0  # a line is not drawn across a gap
    for at in range(start, evaluation.last):
        run += bool(np.isnan(series.values[at]))
        add("measured", at, series.values[at], -run - 1)
    for who in (*others, name):
        forecast = evaluation.forecasts[who]
        for k in range(held_out):
            origin = max(o for o in evaluation.origins if o <= evaluation.first + k)
            label = f"{name} forecast" if who == name else who
            add(label, evaluation.first + k, forecast.median[k], origin, forecast.lower[k], forecast.upper[k], who != name)
    return rows


def _iso(time: np.datetime64) -> str:
    return str(time.astype("datetime64[s]"))
