"""Pictures of forecasts: past, forecast with its bands, truth, and baselines; one series, or small multiples of many.

Legend: S series, K steps of the horizon.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from openlstm._files import writable, write_whole
from openlstm.data.grid import guess_period, name_step, show_time, show_times
from openlstm.data.panel import Panel
from openlstm.errors import missing_extra
from openlstm.runtime.prediction import Prediction, bands
from openlstm.tasks.scores import BEST, Evaluation, figure, percent, shown_bands

try:
    import altair as alt
    import vl_convert

    from openlstm.insight.display import DARK, DASHES, INK, LIGHT, SERIES, SOFT, VARIABLES, Chart, Display
except ModuleNotFoundError as error:
    raise missing_extra("plot", str(error.name), "report") from error

KINDS = (".png", ".svg", ".html")
MOST = 12  # series in one picture
EACH = 3  # series with the smallest, the typical and the largest errors, where there are more
MOST_BANDS = 3
MOST_STEPS = 600  # held-out steps of one series; in a picture of many a third of it
PHONE = 500  # px; below, one series stands below the other
AXIS, GAP = 46, 18  # px: what the numbers beside a drawing take, and what is between two drawings
MEASURED = "measured"


@dataclass
class _Series:
    """What is drawn of one series: rows of lines, rows of bands, and origins, all ready for altair."""

    title: str
    lines: list[dict[str, Any]] = field(default_factory=list)
    bands: list[dict[str, Any]] = field(default_factory=list)
    origins: list[dict[str, Any]] = field(default_factory=list)

    def line(self, who: str, times: np.ndarray, values: np.ndarray, part: int = 0) -> None:
        """A line that is broken where values are missing; a value without a neighbour is a dot."""
        known = np.isfinite(values)
        near = np.concatenate([[False], known, [False]])
        alone = known & ~near[:-2] & ~near[2:]
        run = np.cumsum(~known)
        for k in np.flatnonzero(known):
            at = {"time": _milliseconds(times[k]), "value": float(values[k])}
            self.lines.append({"who": who, "part": f"{part}.{run[k]}", "alone": bool(alone[k]), **at})

    def band(self, share: int, times: np.ndarray, low: np.ndarray, high: np.ndarray, part: int = 0) -> None:
        """A band; one of a single step is a bar."""
        known = np.isfinite(low) & np.isfinite(high)
        for k in np.flatnonzero(known):
            ends = {"time": _milliseconds(times[k]), "lower": float(low[k]), "upper": float(high[k])}
            self.bands.append({"share": share, "part": part, "alone": len(times) == 1, **ends})


class Picture(Display):
    """A picture of forecasts; its legend shows the line of what was measured too."""

    def legend(self) -> list[dict[str, str]]:
        """color (a CSS variable), dash (an SVG pattern) and label of each line."""
        looks = ((who, *_look(k)) for k, who in enumerate(self.series))
        return [{"color": VARIABLES[c], "dash": " ".join(map(str, d)) if d[1] else "none", "label": w} for w, c, d in looks]

    def _coloured(self, theme: Mapping[str, str]) -> Chart:
        legend = {"orient": "top", "labelLimit": 400, "labelColor": theme["ink"], "columnPadding": 18}
        return super()._coloured(theme).configure_legend(symbolType="stroke", symbolSize=700, symbolStrokeWidth=2, **legend)


def plot(
    panel: Panel,
    prediction: Prediction,
    *,
    evaluation: Evaluation | None = None,
    truth: Panel | None = None,
    others: Sequence[Prediction] = (),
) -> Picture:
    """The past of each series and what is forecast behind it.

    Args:
        panel: whose past was forecast from.
        prediction: its series are those of the panel, in their order.
        evaluation: of the same series; with more than `MOST` of them it says which are drawn.
        truth: what came later, as far as it is known.
        others: forecasts drawn as thin dashed lines beside it.

    Raises:
        MissingExtraError: without altair or vl-convert, when this module is imported.
    """
    horizon = prediction.times.shape[1]
    chosen, words = _choose(panel, evaluation)
    later = {} if truth is None else {key: s for s, key in enumerate(truth.keys)}
    drawn = []
    for s in chosen:
        one = _Series(_title(panel, evaluation, s))
        times, past = panel.times(s)[: panel.history[s]], panel.past(s)
        shown = _past_steps(panel, horizon, len(chosen))
        times, past = times[-shown:], past[-shown:]
        ahead = prediction.times[s]
        if truth is not None and panel.keys[s] in later:
            known = later[panel.keys[s]]
            now, one.origins = truth.times(known), [{"time": _milliseconds(ahead[0])}]
            inside = (now >= ahead[0]) & (now <= ahead[-1])
            times = np.concatenate([times, now[inside]])
            past = np.concatenate([past, truth.values[truth.rows(known)][inside]])
        one.line(MEASURED, times, past)
        for share, (low, high) in _few(list(prediction.bands.items())):
            one.band(share, ahead, low[s], high[s])
        for other in others:
            one.line(other.source, ahead, other.median[s])
        one.line(prediction.source, ahead, prediction.median[s])
        drawn.append(one)
    names = (MEASURED, prediction.source, *(other.source for other in others))
    title = f"{panel.target}: the next {name_step(panel.step, horizon).removeprefix('1 ')}"
    if len(panel) == 1 or len(set(panel.history)) == 1 == len(set(panel.starts)):
        title += f" after {show_time(panel.times(chosen[0])[panel.history[chosen[0]] - 1])}"
    return _picture(title, [words, _shaded(prediction.levels)], drawn, names)


def plot_evaluation(evaluation: Evaluation, *, name: str | None = None, others: Sequence[str] | None = None) -> Picture:
    """The held-out steps: what was measured, what was forecast from each origin, and baselines.

    Args:
        name: the forecaster whose bands are drawn; the model that was evaluated if None.
        others: forecasters drawn as thin dashed lines; the best of the baselines if None.

    Raises:
        MissingExtraError: without altair or vl-convert, when this module is imported.
    """
    name = name or evaluation.model
    if others is None:
        others = [s.name for s in evaluation.scores if s.name not in (name, evaluation.model, BEST)][:1]
    panel = evaluation.panel
    chosen, words = _choose(panel, evaluation)
    drawn, cut = [], False
    for s in chosen:
        one = _Series(_title(panel, evaluation, s, name))
        origins = _apart(np.unique(evaluation.rows.origin[evaluation.rows.series == s]), evaluation.horizon)
        most = max(1, MOST_STEPS // (evaluation.horizon * (1 if len(chosen) == 1 else 3)))
        cut |= len(origins) > most
        origins = origins[-most:]
        times = panel.times(s)
        mine = (evaluation.rows.series == s) & np.isin(evaluation.rows.origin, origins)
        first = max(0, int(origins[0]) - _past_steps(panel, evaluation.horizon, len(chosen)))
        last = int(evaluation.rows.at[mine].max()) + 1
        one.line(MEASURED, times[first:last], panel.values[panel.rows(s)][first:last])
        joined = evaluation.horizon == 1 and len(origins) > 1 and bool((np.diff(origins) == 1).all())
        parts = [mine] if joined else [mine & (evaluation.rows.origin == origin) for origin in origins]
        one.origins = [] if joined else [{"time": _milliseconds(times[origin])} for origin in origins]
        for part, rows in enumerate(parts):
            ahead, whole = times[evaluation.rows.at[rows]], evaluation.forecasts[name][rows]
            for share, low, high in _few(bands(evaluation.levels)):
                one.band(share, ahead, whole[:, low], whole[:, high], part)
            for who in (*others, name):
                one.line(who, ahead, evaluation.forecasts[who][rows, evaluation.levels.index(0.5)], part)
        drawn.append(one)
    steps = name_step(panel.step, evaluation.horizon)
    line = "each dotted line" if len(evaluation.histories) > 1 else "the dotted line"
    how = f"At {line} the next {steps} are forecast from what lies to the left."
    if evaluation.horizon == 1:
        how = "Each step is forecast from all before it."
    more = "The last origins are drawn." if cut else ""
    lines = [_measures(evaluation, name), f"{how} {more}", _shaded(evaluation.levels), words]
    return _picture(f"{panel.target}: {steps} ahead, never seen in training", lines, drawn, (MEASURED, name, *others))


def save(display: Display, path: str | Path, evaluation: Evaluation | None = None, *, dark: bool = False) -> None:
    """Write a picture to a .png or .svg file, its words below the title, or as a page that needs nothing but itself.

    Args:
        evaluation: its scores stand in the page.
        dark: the colours of a png or svg; a page takes those of its reader.

    Raises:
        ArgumentError: for another extension, or a place that cannot be written.
    """
    path = Path(path)
    writable(path, KINDS)
    kind = path.suffix.lower()
    if kind == ".html":
        write_whole(path, page(display, evaluation).encode())
        return
    chart = display._coloured(DARK if dark else LIGHT)
    lines = [line for part in display.finding.split("\n") for line in textwrap.wrap(part, 108)]
    ink, soft = ((DARK if dark else LIGHT)[name] for name in ("ink", "soft"))
    chart.title = alt.TitleParams(display.title, subtitle=lines, anchor="start", color=ink, subtitleColor=soft, offset=10)
    text = chart.to_json(validate=False)
    write_whole(
        path, vl_convert.vegalite_to_svg(text).encode() if kind == ".svg" else vl_convert.vegalite_to_png(text, scale=2)
    )


def page(display: Display, evaluation: Evaluation | None = None) -> str:
    """The picture as an HTML page, with the scores of an evaluation below it.

    Raises:
        MissingExtraError: without jinja2.
    """
    from openlstm.insight.report.page import environment, figures, made

    env = environment("openlstm.tasks")
    env.filters.update(figure=figure, percent=percent)
    shares = [] if evaluation is None else shown_bands(evaluation.levels)
    drawn = figures((display,), "forecast")[0]
    return env.get_template("picture.html.jinja").render(picture=drawn, evaluation=evaluation, shares=shares, made=made())


def _picture(title: str, words: Sequence[str], drawn: list[_Series], names: tuple[str, ...]) -> Picture:
    """The picture of all series, and the figures behind it."""
    names = tuple(dict.fromkeys(names))
    rows = [(one.title, row["who"], row["time"], row["value"]) for one in drawn for row in one.lines]
    for one in drawn:
        for row in one.bands:
            rows += [(one.title, f"{end} end of {row['share']} %", row["time"], row[end]) for end in ("lower", "upper")]
    columns = list(zip(*rows, strict=True)) or [()] * 4
    times = show_times(np.array(columns[2], dtype="datetime64[ms]").astype("datetime64[us]")) if rows else []
    data = {"line": columns[1], "time": times, "value": columns[3]}
    data = ({"series": columns[0]} if len(drawn) > 1 else {}) | data
    finding = "\n".join(part.strip() for part in words if part.strip())
    return Picture(title, lambda width: _draw(drawn, names, width), data, finding, names)


def _draw(drawn: list[_Series], names: tuple[str, ...], width: int) -> Chart:
    """One drawing, or many beside each other, each with its own scales."""
    if len(drawn) == 1:
        height = 300 if width >= PHONE else 230
        return _layers(drawn[0], names).properties(width=width - AXIS - 8, height=height)
    across = 1 if width < PHONE else 2 if len(drawn) in (2, 4) else 3
    room = (width - across * AXIS - (across - 1) * GAP) / across
    small = [
        _layers(one, names, small=True).properties(
            width=room,
            height=110 if across > 1 else 120,
            title=alt.TitleParams(
                one.title, fontSize=12, anchor="start", limit=room + AXIS, color=INK, frame="group", offset=6
            ),
        )
        for one in drawn
    ]
    return alt.concat(*small, columns=across, spacing=GAP).resolve_scale(x="independent", y="independent")


def _layers(one: _Series, names: tuple[str, ...], small: bool = False) -> Chart:
    looks, domain = [_look(k) for k in range(len(names))], list(names)
    color = alt.Color("who:N", scale=alt.Scale(domain=domain, range=[c for c, _ in looks]), title=None)
    dash = alt.StrokeDash("who:N", scale=alt.Scale(domain=domain, range=[d for _, d in looks]), title=None)
    ticks = alt.Axis(
        labelAngle=0, tickCount=3 if small else 7, grid=False, labelOverlap=True, labelFontSize=11 if small else 12
    )
    x = alt.X("time:T", title=None, axis=ticks, scale=alt.Scale(type="utc", nice=False))
    low, high = _extent(one)
    size = max(abs(low), abs(high))
    numbers: dict[str, Any] = {"tickCount": 3 if small else 6, "minExtent": AXIS - 10, "labelFontSize": 11 if small else 12}
    if size >= 1e5:
        numbers["labelExpr"] = "replace(format(datum.value, '~s'), 'G', 'B')"
    elif 0 < size < 1e-3:
        numbers["format"] = "~e"
    axis, scale = alt.Axis(**numbers), alt.Scale(domain=[low, high], zero=False, nice=False)
    y, lower = (alt.Y(f"{name}:Q", title=None, scale=scale, axis=axis) for name in ("value", "lower"))
    of = lambda rows: alt.Chart(alt.Data(values=rows))  # noqa: E731
    shaded, bars = ([row for row in one.bands if row["alone"] is alone] for alone in (False, True))
    dots = [row for row in one.lines if row["alone"]]
    layers = []
    if shaded:
        band = of(shaded).mark_area(opacity=0.17, color=SERIES[0])
        layers.append(band.encode(x=x, y=lower, y2="upper:Q", detail=["share:N", "part:N"]))
    if bars:
        layers.append(of(bars).mark_rule(opacity=0.25, color=SERIES[0], strokeWidth=7).encode(x=x, y=lower, y2="upper:Q"))
    if one.origins:
        layers.append(of(one.origins).mark_rule(color=SOFT, strokeDash=[2, 3], opacity=0.8).encode(x=x))
    for thick, who in ((1.3, names[2:]), (1.4 if small else 1.6, names[:1]), (2.0 if small else 2.4, names[1:2])):
        lines = of([row for row in one.lines if row["who"] in who and not row["alone"]])
        layers.append(lines.mark_line(strokeWidth=thick, strokeJoin="round").encode(x, y, color, dash, detail="part:N"))
    if dots:
        layers.append(of(dots).mark_circle(size=30, opacity=1).encode(x=x, y=y, color=color))
    return alt.layer(*layers)


def _extent(one: _Series) -> tuple[float, float]:
    """From where to where the values are drawn: all of them and a little more; not below zero where none is."""
    values = [
        row[key] for rows, keys in ((one.lines, ("value",)), (one.bands, ("lower", "upper"))) for row in rows for key in keys
    ]
    low, high = min(values, default=0.0), max(values, default=1.0)
    more = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    return max(low - more, 0.0) if low >= 0 else low - more, high + more


def _look(number: int) -> tuple[str, list[int]]:
    """Colour and dash of a line: what was measured, the forecast, then the others."""
    if number < 2:
        return (INK, SERIES[0])[number], DASHES[0]
    k = 1 + (number - 2) % (len(SERIES) - 1)
    return SERIES[k], ([5, 3], [2, 2], *DASHES[3:])[min(k - 1, 6)]


def _choose(panel: Panel, evaluation: Evaluation | None) -> tuple[list[int], str]:
    """The series that are drawn, and why these."""
    scored = [int(s) for s in (range(len(panel)) if evaluation is None else np.unique(evaluation.rows.series))]
    if len(panel) <= MOST:
        return scored, ""
    errors = None if evaluation is None or evaluation.panel.keys != panel.keys else _errors(evaluation)
    if errors is None or np.isfinite(errors).sum() < 3 * EACH:
        return scored[:MOST], f"The first {len(scored[:MOST])} of {len(panel):,} series."
    order = np.argsort(errors, kind="stable")[: np.isfinite(errors).sum()]
    middle = (len(order) - EACH) // 2
    chosen = [*order[:EACH], *order[middle : middle + EACH], *order[-EACH:]]
    metric = "" if evaluation is None else evaluation.ranked_by.upper()
    first = f"{3 * EACH} of {len(panel):,} series: first the {EACH} with the smallest {metric}"
    return [int(s) for s in chosen], f"{first}, then {EACH} typical ones, then the {EACH} with the largest."


def _errors(evaluation: Evaluation, name: str | None = None) -> np.ndarray:
    return evaluation.by_series[name or evaluation.model][evaluation.ranked_by]


def _title(panel: Panel, evaluation: Evaluation | None, series: int, name: str | None = None) -> str:
    """The name of a series, and its error where that is known."""
    if evaluation is None or evaluation.panel.keys != panel.keys or len(panel) == 1:
        return panel.name(series)
    error = figure(float(_errors(evaluation, name)[series]), evaluation.ranked_by)
    return f"{panel.name(series)} ({evaluation.ranked_by.upper()} {error})"


def _measures(evaluation: Evaluation, name: str) -> str:
    s = evaluation.score(name)
    error = figure(getattr(s, evaluation.ranked_by), evaluation.ranked_by)
    share = 80 if 80 in s.coverage else next(iter(s.coverage), None)
    inside = [] if share is None else [f"{percent(s.coverage[share])} of what was measured lies in the {share} % band"]
    return "; ".join([f"{name}: {evaluation.ranked_by.upper()} {error}", *inside]) + "."


def _shaded(levels: tuple[float, ...]) -> str:
    shares = [f"{share} %" for share, _, _ in _few(bands(levels))]
    return (
        f"Shaded: the {' and the '.join([', '.join(shares[:-1]), shares[-1]] if shares[1:] else shares)} band."
        if shares
        else ""
    )


def _few(all_bands: list[Any]) -> list[Any]:
    """At most so many of the bands: the widest, the narrowest, and between."""
    if len(all_bands) <= MOST_BANDS:
        return all_bands
    return [all_bands[round(k)] for k in np.linspace(0, len(all_bands) - 1, MOST_BANDS)]


def _past_steps(panel: Panel, horizon: int, drawn: int) -> int:
    """How much of the past is drawn: three horizons (two where many series are drawn) or two seasons."""
    return max((3 if drawn == 1 else 2) * horizon, min(2 * guess_period(panel.step), 10 * horizon), 20)


def _apart(origins: np.ndarray, horizon: int) -> np.ndarray:
    """Origins whose forecasts do not lie over each other, from the last one back."""
    kept: list[int] = []
    for origin in origins[::-1]:
        if not kept or kept[-1] - origin >= horizon:
            kept.append(int(origin))
    return np.array(kept[::-1])


def _milliseconds(time: Any) -> int:
    return int(time.astype("datetime64[ms]").astype(np.int64))
