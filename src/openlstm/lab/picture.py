"""The one picture of an experiment: what the look before training saw, beside what came of the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openlstm._errors import missing_extra
from openlstm._files import writable, write_whole
from openlstm.lab.arms import ADVISED
from openlstm.lab.experiment import Result, Row

try:
    import altair as alt
    import vl_convert
except ModuleNotFoundError as error:
    raise missing_extra("openlstm lab -o", str(error.name), "report") from error

KINDS = (".svg", ".png", ".html")
FLOOR = 1e-12  # of the log axis; smaller shares stand at it
REACHES = 1e-3  # a share below this was hardly ever learnt from
WIDTH, ROW = 230, 26  # px
FAMILIES = {"RNN": "#b45309", "GRU": "#6d28d9", "LSTM": "#1d4ed8", "LSTM + advice": "#15803d"}
INK, SOFT, GRID = "#1f2933", "#52606d", "#d9dee4"


def draw(result: Result) -> alt.HConcatChart:
    """Left the share of the gradient that reached the lag before training, right the score after it: a dot a seed, a tick the
    mean (the median on the left), a dotted line where guessing or too little lies.
    """
    points = [point for row in result.rows for point in _points(row)]
    means = [_mean(row) for row in result.rows]
    order = [row.title for row in result.rows]
    task = result.task
    left = _panel(
        points,
        means,
        order,
        "share",
        alt.Scale(type="log", domain=[FLOOR, max(10.0, *(p["share"] for p in points))], nice=False),
        alt.Axis(values=[10.0**n for n in range(-12, 1, 3)], format="~e", grid=True),
        f"share of the gradient that reaches lag {result.lag}, before training",
        REACHES,
        labels=True,
    )
    right = _panel(
        points,
        means,
        order,
        "score",
        alt.Scale(domain=[0, 1], nice=False),
        alt.Axis(format=".0%", tickCount=5, grid=True),
        f"{task.answer}, after {result.steps:,} steps",
        task.guessing,
        labels=False,
    )
    seeds = f"{result.seeds} seeds, one dot each" if result.seeds > 1 else "one seed"
    title = alt.TitleParams(
        f"{task.name}: {task.question}",
        subtitle=f"{task.size_name} {result.size}, H = {result.hidden}, {seeds}; dotted: guessing, and too little gradient",
        color=INK,
        subtitleColor=SOFT,
        anchor="start",
    )
    picture = alt.hconcat(left, right, spacing=24).properties(title=title)
    return (
        picture.configure(background="white", padding=8).configure_view(stroke=None).configure_axis(domain=False, ticks=False)
    )


def save(result: Result, path: Path) -> None:
    """Write the picture as SVG, PNG or HTML (which needs no network), by the ending of the path.

    Raises:
        ArgumentError: for another ending, or a place that cannot be written.
    """
    writable(path, KINDS)
    text = draw(result).to_json()
    kind = path.suffix.lower()
    if kind == ".svg":
        data = vl_convert.vegalite_to_svg(text).encode()
    elif kind == ".png":
        data = vl_convert.vegalite_to_png(text, scale=2)
    else:
        data = vl_convert.vegalite_to_html(text, bundle=True).encode()
    write_whole(path, data)


def _panel(
    points: list[dict[str, Any]],
    means: list[dict[str, Any]],
    order: list[str],
    value: str,
    scale: alt.Scale,
    axis: alt.Axis,
    title: str,
    level: float,
    labels: bool,
) -> alt.LayerChart | alt.FacetChart:
    axis.gridColor, axis.labelColor, axis.titleColor, axis.titleFontWeight = GRID, SOFT, INK, "normal"  # type: ignore[assignment]
    x = alt.X(f"{value}:Q", title=title, scale=scale, axis=axis)
    names = alt.Axis(labels=labels, labelLimit=300, labelColor=INK, labelFontSize=12, labelPadding=8)
    y = alt.Y("arm:N", title=None, sort=order, axis=names)
    color = alt.Color("family:N", scale=alt.Scale(domain=list(FAMILIES), range=list(FAMILIES.values())), legend=None)
    tip = [
        alt.Tooltip("arm:N"),
        alt.Tooltip("seed:Q"),
        alt.Tooltip("share:Q", format=".2e"),
        alt.Tooltip("score:Q", format=".1%"),
    ]
    dots = alt.Chart(alt.Data(values=points)).mark_circle(size=46, opacity=0.55).encode(x, y, color, tooltip=tip)
    ticks = alt.Chart(alt.Data(values=means)).mark_tick(thickness=3, size=17).encode(x, y, color)
    rule = alt.Chart(alt.Data(values=[{value: level}])).mark_rule(color=SOFT, strokeDash=[2, 3]).encode(alt.X(f"{value}:Q"))
    return alt.layer(rule, dots, ticks).properties(width=WIDTH, height=ROW * len(order))


def _points(row: Row) -> list[dict[str, Any]]:
    both = enumerate(zip(row.scores, row.shares, strict=True))
    return [{**_who(row), "seed": k, "score": score, "share": _shown(share)} for k, (score, share) in both]


def _mean(row: Row) -> dict[str, Any]:
    return {**_who(row), "score": row.mean, "share": _shown(row.reaches_before)}


def _who(row: Row) -> dict[str, str]:
    family = "LSTM + advice" if row.name == ADVISED else row.name.split("-")[0].upper()
    return {"arm": row.title, "family": family}


def _shown(share: float) -> float:
    """Where a share stands on the log axis: zero, infinity and NaN have no place there of their own."""
    return min(max(share, FLOOR), 1e12) if share == share else FLOOR
