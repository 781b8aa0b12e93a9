"""Tables and pictures of forecasts: rich for the terminal, altair for files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from openlstm._files import write_whole
from openlstm.data.series import name_step, show_time
from openlstm.errors import missing_extra
from openlstm.tasks.scoring import Evaluation

INK, BLUE, ORANGE, GREY = "#1d2433", "#1f6feb", "#d9730d", "#8b93a1"


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
        import vl_convert as vlc
    except ImportError as e:
        raise missing_extra("draw", e.name or "altair", "report") from None
    data = _long(evaluation, name, others)
    known = [row for row in data if row["value"] is not None]
    seen = {"measured": INK, f"{name} forecast": BLUE, **dict.fromkeys(others, ORANGE)}
    color = alt.Color(
        "who:N",
        scale=alt.Scale(domain=list(seen), range=list(seen.values())),
        legend=alt.Legend(title=None, orient="top-left", symbolType="stroke", symbolSize=400),
    )
    x = alt.X("time:T", title=None, axis=alt.Axis(format="%b %Y", labelAngle=0, tickCount=10))
    y = alt.Y("value:Q", title=evaluation.series.name, scale=alt.Scale(zero=False))
    base = alt.Chart(alt.Data(values=known))
    band_data = alt.Data(values=[row for row in data if row["lower"] is not None])
    band = (
        alt.Chart(band_data)
        .mark_area(opacity=0.18, color=BLUE)
        .encode(x=x, y=alt.Y("lower:Q", scale=alt.Scale(zero=False)), y2="upper:Q", detail="origin:O")
    )
    lines = base.mark_line(strokeWidth=2).encode(
        x=x, y=y, color=color, detail="origin:O", strokeDash=alt.condition("datum.dash", alt.value([4, 3]), alt.value([1, 0]))
    )
    points = base.transform_filter("datum.who == 'measured'").mark_circle(size=16, opacity=0.9).encode(x=x, y=y, color=color)
    rules = (
        alt.Chart(alt.Data(values=[{"time": _iso(evaluation.series.times[o])} for o in evaluation.origins]))
        .mark_rule(color=GREY, strokeDash=[2, 3])
        .encode(x="time:T")
    )
    chart: Any = (
        alt.layer(band, rules, lines, points)
        .properties(width=980, height=420, title=_title(evaluation, name))
        .configure(font="Helvetica, Arial, sans-serif", background="white", padding=18)
        .configure_axis(
            gridColor="#e8ebf0", domainColor=GREY, labelColor=INK, titleColor=INK, labelFontSize=12, titleFontSize=13
        )
        .configure_view(stroke=None)
        .configure_title(anchor="start", color=INK, subtitleColor="#5b6474", fontSize=17, subtitleFontSize=13, offset=14)
        .configure_legend(labelFontSize=13, labelColor=INK, symbolStrokeWidth=4)
    )
    write_whole(path, vlc.vegalite_to_png(chart.to_json(), scale=2))


def _title(evaluation: Evaluation, name: str) -> Any:
    import altair as alt

    s = evaluation.score(name)
    held_out = evaluation.last - evaluation.first
    horizon = evaluation.origins[1] - evaluation.first if len(evaluation.origins) > 1 else held_out
    step = evaluation.series.step
    mase = "" if s.mase is None else f"MASE {s.mase:.2f}; "
    inside = "" if s.coverage is None else f"; {s.coverage:.0%} of the measured values lie in the 80 % band"
    return alt.TitleParams(
        f"{evaluation.series.name}: the last {name_step(step, held_out)}, never seen in training",
        subtitle="Each dotted line is an origin: what lies right of it was not known when the next "
        f"{name_step(step, horizon)} were forecast. {mase}RMSE {s.rmse:.3g}{inside}.",
    )


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
