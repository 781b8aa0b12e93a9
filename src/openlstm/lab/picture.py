"""The picture of an experiment: what was measured before training beside the scores after it, as a file or as a page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from openlstm._files import writable, write_whole
from openlstm.errors import missing_extra
from openlstm.lab import show
from openlstm.lab.arms import ADVISED
from openlstm.lab.experiment import Result

try:
    import altair as alt

    from openlstm.insight.display import INK, SERIES, SOFT, Chart, Display, powers
    from openlstm.insight.report.page import environment, figures, made
    from openlstm.tasks.pictures import save as save_picture
except ModuleNotFoundError as error:
    raise missing_extra("openlstm lab -o", str(error.name), "report") from error

KINDS = (".svg", ".png", ".html")
FLOOR = 1e-12  # of the log axis; smaller shares stand at it
REACHES = 1e-3  # a share below this was hardly ever learnt from
NAMES, ROW, GAP, EDGE = 205, 26, 24, 20  # px: what the names of the networks take, a row, between the panels, at the right
PHONE = 500  # px; below, the panels stand below each other
FAMILIES = dict(zip(("RNN", "GRU", "LSTM", "LSTM + advice"), (SERIES[1], SERIES[3], SERIES[0], SERIES[2]), strict=True))


def display(result: Result) -> Display:
    """The share of the gradient that reached the lag before training, and the score after it: a dot a seed, a tick the mean
    (the median of the shares), a dotted line where guessing or too little lies.
    """
    task = result.task
    rows = [(r.title, k, *both) for r in result.rows for k, both in enumerate(zip(r.shares, r.scores, strict=True))]
    columns = ("network", "seed", "share of the gradient before", f"{task.answer} after")
    data = {name: [row[k] for row in rows] for k, name in enumerate(columns)}
    seeds = "a dot a seed, a tick their mean" if len(result.seeds) > 1 else "one seed"
    note = f"{seeds[0].upper()}{seeds[1:]}; dotted: too little gradient, and guessing."
    if any(share < FLOOR for row in result.rows for share in row.shares):
        note += " Shares below 10⁻¹² stand at the left edge."
    return Display(f"{task.name}: {task.question}", lambda width: draw(result, width), data, note)


class Panel(NamedTuple):
    """A number of every network along an axis, with a dotted line where it says little."""

    key: str  # of the number
    title: list[str]
    scale: alt.Scale
    axis: alt.Axis
    line: float


def draw(result: Result, width: int) -> Chart:
    """Both panels side by side, or one below the other where there is too little room."""
    beside = width >= PHONE
    left = NAMES if beside else 0.86 * NAMES
    room = (width - left - GAP - EDGE) / 2 if beside else width - left - EDGE
    narrow = room < 180
    highest = max(10.0, *(_shown(share) for row in result.rows for share in row.shares))
    exponents = range(-12, 13, 6 if narrow else 3)
    powers_of_ten = [10.0**n for n in exponents if 10.0**n <= highest]
    share = Panel(
        "share",
        ["share of the gradient", f"at lag {result.lag}, before training"],
        alt.Scale(type="log", domain=[FLOOR, highest], nice=False),
        alt.Axis(values=powers_of_ten, labelExpr=powers(exponents), labelFlush=False),
        REACHES,
    )
    score = Panel(
        "score",
        [f"{result.task.answer},", f"after {result.steps:,} steps"],
        alt.Scale(domain=[0, 1], nice=False),
        alt.Axis(format=".0%", tickCount=3 if narrow else 5, labelFlush=False),
        result.task.guessing,
    )
    drawn = (_draw(result, share, left, room), _draw(result, score, 0 if beside else left, room))
    return alt.hconcat(*drawn, spacing=GAP) if beside else alt.vconcat(*drawn, spacing=GAP)


def page(result: Result) -> str:
    """The whole experiment as one HTML page that needs nothing but itself."""
    return (
        environment("openlstm.lab")
        .get_template("page.html.jinja")
        .render(
            result=result, picture=figures((display(result),), "picture")[0], show=show, command=_command(result), made=made()
        )
    )


def save(result: Result, path: Path) -> None:
    """Write the picture as SVG or PNG, or the page as HTML, by the extension of the path.

    Raises:
        ArgumentError: for another extension, or a place that cannot be written.
    """
    writable(path, KINDS)
    if path.suffix.lower() == ".html":
        write_whole(path, page(result).encode())
        return
    shown = display(result)
    many = f"{len(result.seeds)} seeds" if len(result.seeds) > 1 else "one seed"
    below = f"{result.task.size_name} {result.size}, H = {result.hidden}, {many}. {shown.finding}"
    save_picture(replace(shown, finding=below), path)


def _draw(result: Result, panel: Panel, names: float, width: float) -> Chart:
    """A panel, with the names of the networks beside it on so many pixels."""
    points, means = [], []
    for row in result.rows:
        family = "LSTM + advice" if row.name == ADVISED else row.name.split("-")[0].upper()
        who = {"arm": row.title, "family": family}
        means.append({**who, "score": row.mean, "share": _shown(row.reaches_before)})
        for k, (score, share) in enumerate(zip(row.scores, row.shares, strict=True)):
            points.append({**who, "seed": k, "score": score, "share": _shown(share)})
    x = alt.X(f"{panel.key}:Q", title=panel.title, scale=panel.scale, axis=panel.axis)
    # room for the names is taken here, because a browser's letters may be wider than those this is laid out with
    left = alt.Axis(labels=names > 0, minExtent=names, labelFontSize=12 * (names or NAMES) / NAMES, labelColor=INK, grid=False)
    y = alt.Y("arm:N", title=None, sort=[row.title for row in result.rows], axis=left)
    color = alt.Color("family:N", scale=alt.Scale(domain=list(FAMILIES), range=list(FAMILIES.values())), legend=None)
    says = [alt.Tooltip("arm:N"), alt.Tooltip("seed:Q"), alt.Tooltip("share:Q", format=".2e")]
    says.append(alt.Tooltip("score:Q", format=".1%"))
    dots = alt.Chart(alt.Data(values=points)).mark_circle(size=46, opacity=0.55).encode(x, y, color, tooltip=says)
    ticks = alt.Chart(alt.Data(values=means)).mark_tick(thickness=3, size=17).encode(x, y, color)
    rule = alt.Chart(alt.Data(values=[{panel.key: panel.line}])).mark_rule(color=SOFT, strokeDash=[2, 3]).encode(x)
    return alt.layer(rule, dots, ticks).properties(width=width, height=ROW * len(result.rows))


def _shown(share: float) -> float:
    """Where a share stands on the log axis: zero, infinity and NaN have no place there of their own."""
    return min(max(share, FLOOR), 1e12) if share == share else FLOOR


def _command(result: Result) -> str:
    """What makes this page again."""
    task = result.task
    numbers = {task.size_name: result.size, "seeds": len(result.seeds), "steps": result.steps, "hidden": result.hidden}
    options = "".join(f" --{name} {value}" for name, value in (numbers | {"seed": result.seeds.start}).items())
    return f"openlstm lab {task.name}{options} --arms {','.join(row.name for row in result.rows)} -o {task.name}.html"
