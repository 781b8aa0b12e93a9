"""One function a diagnostic: its results, by the name of the place they were measured at, into a `Display`.

Every drawing takes any number of layers and directions, sizes and lags, and leaves nothing out in silence: what is not drawn
(the units beyond the first hundred or so, the places beyond the eighth) is in the figures that can be downloaded, and the
sentence says so. A value that has no place on a logarithmic axis (0, infinity) stands at its edge, and is named there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from openlstm.insight.report.display import (
    ALARM,
    DASHES,
    FINE,
    GRID,
    INK,
    SERIES,
    SHAPES,
    SOFT,
    Chart,
    Display,
    number,
    powers,
)
from openlstm.insight.report.report import told

MARGIN = 66  # px of the width for the labels on the left
UNITS = 240  # at most so many units are drawn of all places together
PLACES = len(SERIES)

RUNGS = {
    "asked": "asked about",
    "needed": "needed by the data",
    "window": "steps that a gradient can go back",
    "gradient": "gradient reaches",
    "flip": "a flipped input is felt",
    "used": "used after training",
}
"""The rungs of the ladder in words."""

Curves = dict[str, tuple[np.ndarray, np.ndarray]]  # name -> lags, values
Results = Mapping[str, Any]  # name of the place -> what was measured there
Row = dict[str, Any]


def ladder(ladder: Any, lag: int | None = None) -> Display:
    """The lags on one axis: what the data need, what the network can reach, what it uses."""
    rungs = list(ladder.rungs)
    known = [float(r.lag) for r in rungs if r.lag is not None and math.isfinite(r.lag) and r.lag > 0]
    longest = max([10.0, *known, float(lag or 1)])

    def drawn(width: int) -> Chart:
        top = longest * (2.0 if width > 500 else 6.0)  # room for the numbers, right of the longest bar
        rows = [_rung(k, r, top) for k, r in enumerate(rungs)]
        scale = alt.Scale(type="log", domain=[1, top], nice=False)
        axis = alt.Axis(values=_decades(1, top, dense=width > 500), format=",", grid=True)
        x = alt.X("v:Q", title="steps", scale=scale, axis=axis)
        y = alt.Y("k:Q", axis=None, scale=alt.Scale(domain=[len(rows) - 0.3, -0.75], nice=False))
        base = alt.Chart(_data(rows))
        name = base.mark_text(align="left", baseline="bottom", dx=1, dy=-9, fontSize=13, color=INK).encode(
            alt.X("from:Q", scale=scale), y, text="name:N"
        )
        bar = base.transform_filter("datum.v !== null").mark_rule(strokeWidth=7, opacity=0.9, strokeCap="round", color=FINE)
        points = base.transform_filter("datum.v !== null").mark_point(filled=True, size=110, opacity=1, color=FINE)
        label = base.mark_text(align="right", baseline="bottom", dx=-2, dy=-9, fontSize=12.5, color=SOFT)
        layers: list[Chart] = []
        if lag is not None:
            one = alt.Chart(_data([{"v": float(lag), "t": f"the lag: {lag:,}"}]))
            layers.append(one.mark_rule(color=ALARM, strokeDash=[5, 3], strokeWidth=1.6).encode(x))
            layers.append(
                one.mark_text(color=ALARM, baseline="bottom", fontSize=12.5, dy=-3).encode(x, alt.YValue(0), text="t:N")
            )
        layers += [
            bar.encode(alt.X("from:Q", scale=scale), y, x2="v:Q"),
            points.encode(x, y, alt.Shape("end:N", scale=_ends(), legend=None), description="d:N"),
            name,
            label.encode(alt.X("to:Q", scale=scale), y, text="label:N"),
        ]
        return alt.layer(*layers).properties(width=width - 24, height=46 * len(rows) + 6)

    table = {
        "rung": [r.name for r in rungs],
        "steps": [_none(r.lag) for r in rungs],
        "note": [str(r.note or "") for r in rungs],
    }
    return Display("The ladder of lags", drawn, table, _finding(ladder))


def candidates(advice: Any, thresholds: Any = None) -> Display:
    """What was tried: the share of the gradient and the input flip of every candidate, against the thresholds."""
    tried = [c for c in advice.tried if np.isfinite(_or_nan(c.share)) or np.isfinite(_or_nan(c.flip))]
    names = [c.name for c in tried]
    measures = {"share": "share of the gradient that reaches the lag", "flip": "input flip: signal to noise"}
    best = getattr(advice.best, "name", None)

    def panel(which: str, width: float, labels: bool) -> Chart:
        values = [_or_nan(getattr(c, which)) for c in tried]
        level = _of(thresholds, which)
        low, high = _decade_span([*values, *([level] if level else [])])
        rows = [
            {
                "name": c.name,
                "v": _within(v, low, high),
                "k": "best" if c.name == best else "tried",
                "d": f"{c.name}: {number(v)}",
            }
            for c, v in zip(tried, values, strict=True)
            if math.isfinite(v)
        ]
        scale, axis = _log_y(low, high, 4)
        point = alt.Chart(_data(rows)).mark_point(filled=True, size=100, opacity=1)
        chart: Chart = point.encode(
            alt.X("v:Q", title=measures[which], scale=scale, axis=axis),
            alt.Y("name:N", sort=names, title=None, axis=alt.Axis(labels=labels, grid=True, labelLimit=170)),
            alt.Color("k:N", scale=alt.Scale(domain=["best", "tried"], range=[ALARM, SOFT]), legend=None),
            alt.Shape("k:N", scale=alt.Scale(domain=["best", "tried"], range=["diamond", "circle"]), legend=None),
            description="d:N",
        )
        if level:
            chart = alt.Chart(_data([{"v": level}])).mark_rule(color=SOFT, strokeDash=[3, 3]).encode(alt.X("v:Q")) + chart
        return chart.properties(width=width, height=24 * len(names))

    def drawn(width: int) -> Chart:
        if width < 500:
            return alt.vconcat(*(panel(w, width - 150, True) for w in measures), spacing=22)
        side = (width - 170) / 2 - 10
        return alt.hconcat(panel("share", side, True), panel("flip", side, False), spacing=18)

    columns = ("name", "flag", "line", "share", "flip", "read", "verdict")
    table = {c: [_cell_of(getattr(t, c, None)) for t in advice.tried] for c in columns}
    return Display("Every candidate by both measures", drawn, table, _opened(advice))


def _opened(advice: Any) -> str:
    """How many of the candidates open the lag."""
    free = [c for c in advice.tried if c.verdict != "blocked"]
    best = "" if advice.best is None else f" {advice.best.name} is the one recommended."
    return f"{len(free)} of {len(advice.tried)} candidates are not blocked.{best}"


def census(results: Results) -> Display:
    """D1: per gate, how often each unit is closed and how often it is open; below, all values of the gate."""
    everywhere = results
    results, left = _first(results)
    gates = list(dict.fromkeys(g for r in results.values() for g in r.gates))
    names = list(results)
    dots: dict[str, list[Row]] = {g: [] for g in gates}
    bins: dict[str, list[Row]] = {g: [] for g in gates}
    table: dict[str, list[Any]] = {c: [] for c in ("place", "gate", "unit", "below_0.1", "above_0.9", "mean", "entropy")}
    hidden = 0
    most = _units(results)
    for name, r in results.items():
        for n, gate in enumerate(r.gates):
            low, high = np.asarray(r.low)[n], np.asarray(r.high)[n]
            chosen = _spread(high - low, most)
            hidden = max(hidden, len(low) - len(chosen))
            for unit in chosen:
                d = f"{name}, unit {unit}: {gate} below 0.1 in {low[unit]:.0%}, above 0.9 in {high[unit]:.0%} of the steps"
                dots[gate].append({"s": name, "x": _r(low[unit]), "y": _r(high[unit]), "d": d})
            share = np.asarray(r.histogram, dtype=float)[n]
            share = share / max(share.sum(), 1e-300)
            edges = np.linspace(0, 1, len(share) + 1)
            for b, v in enumerate(share):
                d = f"{name}: {gate} between {edges[b]:.2f} and {edges[b + 1]:.2f} in {v:.1%} of the steps"
                bins[gate].append({"s": name, "x": _r((edges[b] + edges[b + 1]) / 2), "v": _r(v), "d": d})
    for name, r in everywhere.items():
        for n, gate in enumerate(r.gates):
            for unit in range(np.asarray(r.low).shape[1]):
                figures = (float(np.asarray(a)[n, unit]) for a in (r.low, r.high, r.mean, r.entropy))
                for c, v in zip(table, (name, gate, unit, *figures), strict=True):
                    table[c].append(v)

    def triangle(gate: str, side: float, first: bool) -> Chart:
        edge = alt.Chart(_data([{"x": 0, "y": 1, "x2": 1, "y2": 0}])).mark_rule(color=GRID, strokeWidth=1.5)
        tick: dict[str, Any] = {"values": [0, 0.5, 1], "format": "%"}
        whole = alt.Scale(domain=[0, 1], nice=False)
        points = alt.Chart(_data(dots[gate])).mark_point(filled=True, size=26, opacity=0.65)
        return (
            edge.encode(alt.X("x:Q", scale=whole), alt.Y("y:Q", scale=whole), x2="x2:Q", y2="y2:Q")
            + points.encode(
                alt.X("x:Q", title="below 0.1", scale=whole, axis=alt.Axis(grid=False, **tick)),
                alt.Y("y:Q", title="above 0.9" if first else None, scale=whole, axis=alt.Axis(labels=first, **tick)),
                _color(names),
                _shape(names),
                description="d:N",
            )
        ).properties(width=side, height=side, title=_small(f"gate {gate}" if gate != "g" else "candidate |g|"))

    def histogram(gate: str, side: float, first: bool) -> Chart:
        line = alt.Chart(_data(bins[gate])).mark_line(interpolate="step", strokeWidth=1.6)
        return line.encode(
            alt.X("x:Q", title="value", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(grid=False, values=[0, 0.5, 1])),
            alt.Y("v:Q", title="steps" if first else None, axis=alt.Axis(labels=first, tickCount=3, format="%", grid=False)),
            _color(names),
            strokeDash=_dash(names),
        ).properties(width=side, height=54)

    def drawn(width: int) -> Chart:
        columns = min(len(gates), 4 if width >= 500 else 2)
        side = (width - 62 - 16 * (columns - 1)) / columns
        side = min(side, 190)
        parts = [
            alt.vconcat(triangle(g, side, k % columns == 0), histogram(g, side, k % columns == 0), spacing=12)
            for k, g in enumerate(gates)
        ]
        return alt.concat(*parts, columns=columns, spacing=16)

    told = _told(results) + _rest(left) + (f" {most} units of each place are drawn, spread evenly." if hidden else "")
    return Display("How often each gate is closed, and how often open", drawn, table, told, _series(names))


def half_lives(results: Results, lag: int | None = None) -> Display:
    """D2: the units in order of how long they keep half of their cell."""
    everywhere = {k: r for k, r in results.items() if r is not None}
    results, left = _first(everywhere)
    names = list(results)
    lives = {n: np.sort(np.asarray(r.half_life, dtype=float)) for n, r in results.items()}
    longest = max((int(np.asarray(r.lags)[-1]) for r in results.values()), default=1)
    finite = [v for column in lives.values() for v in column[np.isfinite(column)]]
    top = float(max([longest, lag or 1, *finite, 2])) * 1.6
    low = 10.0 ** math.floor(math.log10(max(min([1.0, *(v for v in finite if v > 0)]), 0.01)))
    rows = []
    for name, column in lives.items():
        for at in _evenly(len(column), _units(results)):
            value = float(column[at])
            said = f"longer than the {longest:,} steps looked at" if math.isinf(value) else f"{number(value)} steps"
            end = "on" if math.isinf(value) else "at"
            share = (at + 0.5) / len(column)
            rows.append({"s": name, "x": _r(share), "v": _r(_within(value, low, top)), "e": end, "d": f"{name}: {said}"})

    def drawn(width: int) -> Chart:
        scale = alt.Scale(type="log", domain=[low, top], nice=False)
        points = alt.Chart(_data(rows)).mark_point(filled=True, size=30, opacity=0.75)
        chart = points.encode(
            alt.X("x:Q", title="units, in order", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%", grid=False)),
            alt.Y("v:Q", title="half-life, steps", scale=scale, axis=_y_axis(values=_decades(low, top), format=",")),
            _color(names),
            alt.Shape("e:N", scale=_ends(), legend=None),
            description="d:N",
        )
        return _with_level(chart, lag, "the lag").properties(width=width - MARGIN, height=230)

    table = {
        "place": [n for n, r in everywhere.items() for _ in r.half_life],
        "unit": [u for r in everywhere.values() for u in range(len(r.half_life))],
        "half_life": [v for r in everywhere.values() for v in np.asarray(r.half_life, dtype=float)],
        "tau_mean": [v for r in everywhere.values() for v in np.asarray(r.tau_mean, dtype=float)],
        "tau_log": [v for r in everywhere.values() for v in np.asarray(r.tau_log, dtype=float)],
    }
    title = "How long each unit keeps half of its cell"
    return Display(title, drawn, table, _told(results) + _rest(left), _series(names))


def _left_at(r: Any, lag: int | None) -> str:
    """How much is left at the lag, or at the longest one looked at."""
    lags, share = np.asarray(r.lags), np.asarray(r.kept, dtype=float)
    at = int(np.argmin(np.abs(lags - (lags[-1] if lag is None else lag))))
    best, middle = number(float(share[at].max())), number(float(np.median(share[at])))
    return f"after {int(lags[at]):,} steps the best unit has kept {best} of its cell, the middle unit {middle}."


def kept(results: Results, lag: int | None = None) -> Display:
    """D2: the share of the cell that is still there after so many steps, of the middle unit and of the best one."""
    everywhere = {k: r for k, r in results.items() if r is not None}
    results, left = _first(everywhere)
    curves: Curves = {}
    for name, r in results.items():
        front = f"{name}, " if len(results) > 1 else ""
        curves[f"{front}best unit"] = np.asarray(r.lags), np.asarray(r.kept, dtype=float).max(1)
        if 2 * len(results) <= PLACES // 2:
            curves[f"{front}middle unit"] = np.asarray(r.lags), np.median(np.asarray(r.kept, dtype=float), 1)
    rows = _curve_rows(curves, "{s}, {x} steps: {v} is left")

    def drawn(width: int) -> Chart:
        y = alt.Y("v:Q", title="share left", scale=alt.Scale(domain=[0, 1]), axis=_y_axis(tickCount=5))
        return _curves(rows, list(curves), y, width, lag)

    table = {
        "place": [n for n, r in everywhere.items() for _ in r.lags],
        "lag": [int(k) for r in everywhere.values() for k in r.lags],
        "best_unit": [float(v) for r in everywhere.values() for v in np.asarray(r.kept, dtype=float).max(1)],
        "middle_unit": [float(v) for r in everywhere.values() for v in np.median(np.asarray(r.kept, dtype=float), 1)],
    }
    said = told({name: _left_at(r, lag) for name, r in results.items()})
    return Display("How much of the cell is left", drawn, table, said + _rest(left), _series(list(curves)))


def reach(results: Results, lag: int | None = None, threshold: float | None = None) -> Display:
    """D3: the share of the gradient that comes back so many steps, and the part of it that stayed on the highway."""
    everywhere = results
    fits = 2 * len(results) <= PLACES // 2
    results, left = _first(results)
    curves: Curves = {}
    for name, r in results.items():
        lags, share = np.asarray(r.lags), np.asarray(r.share, dtype=float)
        curves[name if len(results) > 1 else "all paths"] = lags, share
        if r.highway is not None and fits:
            curves[f"{name}, highway alone" if len(results) > 1 else "highway alone"] = (
                lags,
                share * np.asarray(r.highway, dtype=float),
            )
    low, high = _decade_span([v for _, values in curves.values() for v in values], floor=1e-12)
    # what lies outside of the axis leaves the picture: it would be wrong to let it run along the edge
    rows = _curve_rows(curves, "{s}, {x} steps back: {v} of the gradient", 1e-300, 1e300)

    def drawn(width: int) -> Chart:
        scale, axis = _log_y(low, high)
        y = alt.Y("v:Q", title="share of the gradient", scale=scale, axis=axis)
        return _curves(rows, list(curves), y, width, lag, threshold)

    table = {
        "place": [n for n, r in everywhere.items() for _ in r.lags],
        "lag": [int(k) for r in everywhere.values() for k in r.lags],
        "share": [float(v) for r in everywhere.values() for v in r.share],
        "highway_part_of_it": [
            v
            for r in everywhere.values()
            for v in (r.lags * math.nan if r.highway is None else np.asarray(r.highway, dtype=float))
        ],
    }
    return Display("How much of the gradient comes back", drawn, table, _told(results) + _rest(left), _series(list(curves)))


def stability(results: Results) -> Display:
    """D6: the Lyapunov exponents, the growth of a small difference per step."""
    everywhere = results
    results, left = _first(results)
    names = list(results)
    rows = [
        {"s": n, "x": k + 1, "v": _r(v), "d": f"{n}, exponent {k + 1}: {number(v)} a step, a factor of {number(math.exp(v))}"}
        for n, r in results.items()
        for k, v in enumerate(np.asarray(r.exponents, dtype=float))
        if math.isfinite(v)
    ]

    def drawn(width: int) -> Chart:
        zero = alt.Chart(_data([{"v": 0.0}])).mark_rule(color=SOFT, strokeDash=[3, 3]).encode(alt.Y("v:Q"))
        points = alt.Chart(_data(rows)).mark_point(filled=True, size=70, opacity=0.9)
        x = alt.X("x:O", title="exponent, the largest first", axis=alt.Axis(labelAngle=0, grid=False))
        drawn = points.encode(
            x,
            alt.Y("v:Q", title="growth a step, λ", axis=_y_axis(tickCount=5)),
            _color(names),
            _shape(names),
            description="d:N",
        )
        return (zero + drawn).properties(width=width - MARGIN, height=200)

    table = {
        "place": [n for n, r in everywhere.items() for _ in r.exponents],
        "exponent": [k + 1 for r in everywhere.values() for k in range(len(r.exponents))],
        "growth_per_step": [float(v) for r in everywhere.values() for v in r.exponents],
    }
    return Display("Do small differences grow?", drawn, table, _told(results) + _rest(left), _series(names))


def ledger(results: Results) -> Display:
    """D7: from how far back the learning signal of the weights comes."""
    everywhere = results
    results, left = _first(results)
    curves = {n: (np.asarray(r.lags), np.cumsum(np.asarray(r.share, dtype=float))) for n, r in results.items()}
    rows = _curve_rows(curves, "{s}: {v} of the signal comes from the last {x} steps")

    def drawn(width: int) -> Chart:
        y = alt.Y("v:Q", title="share, summed up", scale=alt.Scale(domain=[0, 1.001], nice=False), axis=_y_axis(tickCount=5))
        return _curves(rows, list(curves), y, width)

    table = {
        "place": [n for n, r in everywhere.items() for _ in r.lags],
        "lag": [int(k) for r in everywhere.values() for k in r.lags],
        "share": [float(v) for r in everywhere.values() for v in r.share],
    }
    title = "From how far back the weights learn"
    return Display(title, drawn, table, _told(results) + _rest(left), _series(list(curves)))


def health(results: Results) -> Display:
    """D8: units that do nothing, and how many independent directions the state has."""
    everywhere = results
    results, left = _first(results)
    kinds = {"dead": "dead", "closed": "output closed", "pegged": "cell pegged", "never_written": "never written"}
    rows, table = [], {c: [] for c in ("place", "what", "units", "of")}
    for name, r in everywhere.items():
        total = len(np.asarray(r.dead))
        counts: dict[str, float] = {label: int(np.sum(_of(r, key))) for key, label in kinds.items()}
        counts["effective rank"] = float(r.effective_rank)
        for what, count in counts.items():
            for c, v in zip(table, (name, what, count, total), strict=True):
                table[c].append(v)
            if _label(name) in results:
                said = f"{number(float(count))} of {total}"
                row = {"s": _label(name), "what": what, "v": _r(count / max(total, 1)), "t": said}
                rows.append({**row, "d": f"{_label(name)}, {what}: {said}"})
    names = list(results)

    def drawn(width: int) -> Chart:
        order = [*kinds.values(), "effective rank"]
        base = alt.Chart(_data(rows))
        axis = alt.Axis(format="%", grid=True, tickCount=5)
        x = alt.X("v:Q", title="share of the units", scale=alt.Scale(domain=[0, 1]), axis=axis)
        y = alt.Y("what:N", sort=order, title=None, axis=alt.Axis(grid=False))
        within = alt.YOffset("s:N", sort=names)
        bars = base.mark_bar(height={"band": 0.75}).encode(x, y, _color(names), yOffset=within, description="d:N")
        words = base.mark_text(align="left", dx=5, color=SOFT, fontSize=11).encode(x, y, yOffset=within, text="t:N")
        return (bars + words).properties(width=width - 150, height=max(26, 15 * len(names)) * 5)

    title = "Units that do nothing, and the effective rank"
    return Display(title, drawn, table, _told(results) + _rest(left), _series(names))


def important(results: Results) -> Display:
    """D8: the units that matter most, by how much the loss rises without them."""
    rows = [
        {"n": f"{name}, unit {unit}", "v": _r(rise), "d": f"{name}, unit {unit}: the loss rises by {number(float(rise))}"}
        for name, r in results.items()
        for unit, rise in r.top[: max(3, 16 // len(results))]
        if math.isfinite(rise)
    ]

    def drawn(width: int) -> Chart:
        y = alt.Y("n:N", sort=[r["n"] for r in rows], title=None, axis=alt.Axis(grid=False, labelLimit=170))
        x = alt.X("v:Q", title="rise of the loss without it", axis=alt.Axis(grid=True, tickCount=4))
        bars = alt.Chart(_data(rows)).mark_bar(color=SERIES[0], height=9)
        return bars.encode(x, y, description="d:N").properties(width=width - 170, height=20 * len(rows))

    table = {
        "place": [n for n, r in results.items() for _ in r.top],
        "unit": [int(u) for r in results.values() for u, _ in r.top],
        "rise_of_loss": [float(v) for r in results.values() for _, v in r.top],
    }
    how = "measured" if all(r.exact for r in results.values()) else "to first order"
    best = max(((v, n, u) for n, r in results.items() for u, v in r.top if v > 0), default=None)
    said = f"Without unit {best[2]} of {best[1]} the loss would rise by {number(float(best[0]))} ({how})." if best else ""
    return Display("The units that matter most", drawn, table, said)


def streaming(results: Results, advice: str = "") -> Display:
    """D11: how far a cold start is from a warm one, step by step; and what to send."""
    results, left = _first(results)
    curves = {n: (np.arange(1, len(r.difference) + 1), np.asarray(r.difference, dtype=float)) for n, r in results.items()}
    low, high = _decade_span([v for _, values in curves.values() for v in values], floor=1e-9)
    rows = _curve_rows(curves, "{s}, {x} steps after a cold start: {v} apart", 1e-300, 1e300)
    level = 0.01

    def drawn(width: int) -> Chart:
        scale, axis = _log_y(low, high)
        y = alt.Y("v:Q", title="apart, of its size", scale=scale, axis=axis)
        return _curves(rows, list(curves), y, width, level=level, title="steps since a cold start", word="1 %")

    table = _curve_table(curves, "difference")
    said = _told(results) + _rest(left)
    said += advice and ("\n" if len(results) > 1 else " ") + advice
    return Display("How long a cold start is felt", drawn, table, said, _series(list(curves)))


def ablation(result: Any, lag: int | None = None) -> Display:
    """D4: the loss when only the last so many steps are seen."""
    contexts, losses = np.asarray(result.contexts, dtype=float), np.asarray(result.losses, dtype=float)
    keep = np.isfinite(losses)
    full = float(result.full)
    shown = np.maximum(contexts, 0.5)
    rows = [
        {"x": _r(shown[k]), "v": _r(losses[k]), "d": f"the last {int(contexts[k]):,} steps: loss {number(losses[k])}"}
        for k in np.flatnonzero(keep)
    ]

    def drawn(width: int) -> Chart:
        x = _lag_x(float(shown.max(initial=2)), "steps seen", low=float(shown.min(initial=1)))
        y = alt.Y("v:Q", title="loss", scale=alt.Scale(zero=False, nice=True), axis=_y_axis(tickCount=5))
        base = alt.Chart(_data(rows))
        whole = alt.Chart(_data([{"v": full}])).mark_rule(color=SOFT, strokeDash=[3, 3]).encode(y)
        drawn = whole + base.mark_line(color=SERIES[0]).encode(x, y)
        drawn += base.mark_point(filled=True, size=48, opacity=1, color=SERIES[0]).encode(x, y, description="d:N")
        for word, k in (("used", result.uses), ("better", result.better)):
            if k is not None:
                drawn = _column(float(k), word, FINE, x) + drawn
        return _with_lag(drawn, lag, x).properties(width=width - MARGIN, height=230)

    table = {"context": [int(k) for k in contexts], "loss": [float(v) for v in losses], "full": [full] * len(losses)}
    return Display("What it uses: the loss by context", drawn, table, _finding(result))


def needed(result: Any) -> Display:
    """The held-out error of a linear model by the context it sees: the smallest that is enough is what the data need."""
    contexts, errors = np.asarray(result.contexts, dtype=float), np.asarray(result.errors, dtype=float)
    always = {0, *(k for k in (result.lag or 0, (result.lag or 0) + 1) if k < len(contexts))}
    shown = sorted({*_thin(contexts, 60), *always})  # the edge itself is never thinned out
    rows = [
        {"x": _r(max(c, 0.5)), "v": _r(e), "d": f"the last {int(c):,} steps: error {number(float(e))}"}
        for c, e in ((contexts[k], errors[k]) for k in shown)
        if math.isfinite(e)
    ]

    def drawn(width: int) -> Chart:
        x = _lag_x(
            float(contexts.max(initial=2)), "steps seen by the linear model", low=float(max(contexts.min(initial=1), 0.5))
        )
        y = alt.Y("v:Q", title="held-out error", scale=alt.Scale(zero=False), axis=_y_axis(tickCount=5))
        base = alt.Chart(_data(rows))
        drawn = base.mark_line(color=SERIES[2]).encode(x, y)
        drawn += base.mark_point(filled=True, size=48, opacity=1, color=SERIES[2]).encode(x, y, description="d:N")
        if result.lag is not None:
            drawn = _column(float(result.lag + 1), "enough", FINE, x) + drawn
        return drawn.properties(width=width - MARGIN, height=210)

    table = {"context": [int(k) for k in contexts], "error": [float(v) for v in errors]}
    return Display("What the data need: a linear model's error by context", drawn, table, _finding(result))


def attribution(result: Any) -> Display:
    """D9: how much each input at each lag moved the output; blue raised it, orange lowered it."""
    values = np.asarray(result.values, dtype=float)  # by lag
    T, I = values.shape
    features = _strongest(values, 12)
    labels = [str(name) for name in result.features]
    edges = _bins(T, 48)
    rows, top = [], 0.0
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        for i in features:
            v = float(values[a:b, i].sum())
            top = max(top, abs(v))
            lags = f"lag {a}" if b - a == 1 else f"lags {a} to {b - 1}"
            rows.append({"a": a - 0.5, "b": b - 0.5, "f": labels[i], "v": v, "d": f"{labels[i]}, {lags}: {number(v)}"})
    for r in rows:
        r["o"] = _r(abs(r["v"]) / top) if top else 0.0
        r["sign"] = "+" if r["v"] >= 0 else "-"
        r["v"] = _r(r["v"])

    def drawn(width: int) -> Chart:
        x = alt.X(
            "a:Q", title="lag, steps before the answer", scale=alt.Scale(domain=[-0.5, T - 0.5], nice=False, reverse=True)
        )
        cells = alt.Chart(_data(rows)).mark_rect()
        return cells.encode(
            x,
            alt.Y("f:N", title=None, sort=[labels[i] for i in features], axis=alt.Axis(grid=False, labelLimit=110)),
            alt.Color("sign:N", scale=alt.Scale(domain=["+", "-"], range=list(SERIES[:2])), legend=None),
            fillOpacity=alt.FillOpacity("o:Q", scale=alt.Scale(domain=[0, 1], range=[0.03, 1]), legend=None),
            x2="b:Q",
            description="d:N",
        ).properties(width=width - 110, height=max(46, 24 * len(features)))

    table = {
        "lag": [k for k in range(T) for _ in range(I)],
        "input": [labels[i] for _ in range(T) for i in range(I)],
        "attribution": [float(v) for v in values.ravel()],
    }
    told = _finding(result) + (f" The {len(features)} strongest of {I} inputs are drawn." if I > len(features) else "")
    return Display("Which input at which lag moved the answer", drawn, table, told)


def tracking(results: Results) -> Display:
    """D10: which unit follows which column, and how closely."""
    best = [(name, u) for name, r in results.items() for u in r.best if math.isfinite(_or_nan(u.r))]
    best.sort(key=lambda pair: -abs(pair[1].r))
    closest: dict[str, tuple[str, Any]] = {}
    for name, u in best:
        closest.setdefault(str(u.column), (name, u))
    rows = []
    for column, (name, u) in list(closest.items())[:24]:
        unit = f"{_label(name)}, unit {u.unit}"
        d = f"{unit} follows {column}: r = {number(float(u.r))}"
        rows.append({"n": column, "v": _r(abs(float(u.r))), "t": unit, "d": d})

    def drawn(width: int) -> Chart:
        labels = 190 if width > 500 else 120
        y = alt.Y("n:N", sort=[r["n"] for r in rows], title=None, axis=alt.Axis(grid=False, labelLimit=labels))
        x = alt.X("v:Q", title="how closely: |r|", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(grid=True, tickCount=5))
        base = alt.Chart(_data(rows))
        bars = base.mark_bar(color=SERIES[0], height=9).encode(x, y, description="d:N")
        words = base.mark_text(align="left", dx=5, color=SOFT, fontSize=11).encode(x, y, text="t:N")
        return (bars + words).properties(width=width - labels - 100, height=22 * len(rows))

    table = {
        "place": [n for n, _ in best],
        "unit": [u.unit for _, u in best],
        "column": [u.column for _, u in best],
        "r": [_or_nan(u.r) for _, u in best],
        "iou": [_or_nan(u.iou) for _, u in best],
    }
    return Display("What the units follow", drawn, table, _told(results))


def watched(
    record: Mapping[str, tuple[Sequence[int], Sequence[float]]], title: str, y_title: str, finding: str, log: bool = True
) -> Display:
    """Curves over the steps of a training: name -> (steps, values)."""
    thin = {n: _evenly(len(c[0]), 120) for n, c in record.items()}
    curves = {
        _label(n): (np.asarray(c[0], dtype=float)[thin[n]], np.asarray(c[1], dtype=float)[thin[n]])
        for n, c in list(record.items())[:PLACES]
    }
    low, high = _decade_span([v for _, c in curves.values() for v in c]) if log else (0.0, 1.0)
    rows = [
        {
            "s": n,
            "x": int(x),
            "v": _r(_within(v, low, high)) if log else _r(v),
            "d": f"{n}, step {int(x):,}: {number(float(v))}",
        }
        for n, (steps, values) in curves.items()
        for x, v in zip(steps, values, strict=True)
        if not math.isnan(v)
    ]

    def drawn(width: int) -> Chart:
        scale, axis = _log_y(low, high) if log else (alt.Scale(zero=True, nice=True), _y_axis(tickCount=5))
        x = alt.X("x:Q", title="training step", scale=alt.Scale(nice=False), axis=alt.Axis(grid=False, format=","))
        y = alt.Y("v:Q", title=y_title, scale=scale, axis=axis)
        base = alt.Chart(_data(rows))
        names = list(curves)
        drawn = base.mark_line(clip=True).encode(x, y, _color(names), strokeDash=_dash(names))
        drawn += base.mark_point(filled=True, size=36, opacity=1).encode(x, y, _color(names), _shape(names), description="d:N")
        return drawn.properties(width=width - MARGIN, height=210)

    table = {
        "series": [n for n, (steps, _) in record.items() for _ in steps],
        "step": [int(v) for steps, _ in record.values() for v in steps],
        "value": [float(v) for _, values in record.values() for v in values],
    }
    return Display(title, drawn, table, finding, _series(list(curves)))


# --- what the drawings share ---------------------------------------------------------------------------------------------


def _curves(
    rows: list[Row],
    names: list[str],
    y: alt.Y,
    width: int,
    lag: int | None = None,
    level: float | None = None,
    title: str = "lag, steps",
    word: str = "",
) -> Chart:
    """Lines over lags, with a point on each figure, the lag asked for, and a threshold."""
    x = _lag_x(max((r["x"] for r in rows), default=2), title)
    base = alt.Chart(_data(rows))
    drawn = base.mark_line(clip=True).encode(x, y, _color(names), strokeDash=_dash(names))
    points = base.mark_point(filled=True, size=20, opacity=0.9, clip=True)
    drawn += points.encode(x, y, _color(names), _shape(names), description="d:N")
    if level is not None:
        rule = alt.Chart(_data([{"v": level, "t": word or f"threshold {number(level)}"}]))
        low = rule.mark_rule(color=SOFT, strokeDash=[3, 3]).encode(alt.Y("v:Q"))
        text = rule.mark_text(color=SOFT, align="left", baseline="bottom", dx=4, dy=-2, fontSize=11.5)
        drawn = low + text.encode(alt.Y("v:Q"), alt.XValue(0), text="t:N") + drawn
    return _with_lag(drawn, lag, x).properties(width=width - MARGIN, height=240)


def _lag_x(top: float, title: str, low: float = 1.0) -> alt.X:
    """Lags on a log axis where there are many, on a plain one where there are few."""
    top = max(top, 2.0)
    if top < 40:
        return alt.X("x:Q", title=title, scale=alt.Scale(domain=[0, top], nice=False), axis=alt.Axis(grid=False, tickMinStep=1))
    scale = alt.Scale(type="log", domain=[min(low, 1.0), top], nice=False)
    return alt.X("x:Q", title=title, scale=scale, axis=alt.Axis(values=_decades(1, top), format=",", grid=False))


def _with_lag(chart: Chart, lag: int | None, x: Any) -> Chart:
    """A line at the lag, where it lies on the axis."""
    if lag is None or lag > x.to_dict()["scale"]["domain"][1]:
        return chart
    return _column(float(lag), "the lag", ALARM, x) + chart


def _column(at: float, word: str, color: str, x: alt.X) -> Chart:
    """A line from top to bottom with a word at its head."""
    base = alt.Chart(_data([{"x": at, "t": f"{word}: {at:,.0f}"}]))
    rule = base.mark_rule(color=color, strokeDash=[5, 3], strokeWidth=1.6).encode(x)
    return rule + base.mark_text(color=color, baseline="bottom", dy=-4, fontSize=11.5).encode(x, alt.YValue(0), text="t:N")


def _with_level(chart: Chart, lag: int | None, word: str) -> Chart:
    """A line from left to right at the lag."""
    if lag is None:
        return chart
    base = alt.Chart(_data([{"v": float(lag), "t": f"{word}: {lag:,}"}]))
    rule = base.mark_rule(color=ALARM, strokeDash=[5, 3], strokeWidth=1.6).encode(alt.Y("v:Q"))
    text = base.mark_text(color=ALARM, align="left", baseline="bottom", dx=4, dy=-3, fontSize=11.5)
    return rule + text.encode(alt.Y("v:Q"), alt.XValue(0), text="t:N") + chart


def _curve_rows(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], words: str, low: float | None = None, high: float | None = None
) -> list[Row]:
    """One row a figure of every curve, from lag 1 on; at most about a hundred of one curve, densest where lags are short."""
    rows = []
    for name, (lags, values) in curves.items():
        for k in _thin(lags, 90 if len(curves) <= 2 else 36):
            v = float(values[k])
            if math.isnan(v):
                continue
            shown = v if low is None or high is None else _within(v, low, high)
            d = words.format(s=name, x=f"{int(lags[k]):,}", v=number(v))
            rows.append({"s": name, "x": int(lags[k]), "v": _r(shown), "d": d})
    return rows


def _curve_table(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], value: str) -> dict[str, list[Any]]:
    return {
        "place": [n for n, (lags, _) in curves.items() for _ in lags],
        "lag": [int(k) for lags, _ in curves.values() for k in lags],
        value: [float(v) for _, values in curves.values() for v in values],
    }


def _thin(lags: np.ndarray, most: int = 90) -> list[int]:
    """Indices of the lags that are drawn: all where they are few, else about evenly on a log axis, the last one always."""
    at = [k for k in range(len(lags)) if lags[k] >= 1]
    if len(at) <= most:
        return at
    wanted = np.geomspace(1, len(at), most)
    return [at[k] for k in sorted({int(round(w)) - 1 for w in wanted})]


def _rung(k: int, rung: Any, top: float) -> Row:
    """A rung of the ladder: how far its bar goes and what stands at its end."""
    lag = rung.lag
    row: Row = {"k": k, "name": RUNGS.get(rung.name, rung.name), "v": None, "end": "at", "from": 1.0, "to": top}
    if lag is None or (isinstance(lag, float) and math.isnan(lag)):
        row["label"] = "not measured"
    elif math.isinf(lag):
        beyond = getattr(rung, "beyond", None)
        row |= {"v": top, "end": "on", "label": "no end seen" if beyond is None else f"more than {beyond:,} steps"}
    else:
        row |= {"v": max(1.0, float(lag)), "label": f"{lag:,.0f} steps" if lag != 1 else "1 step"}
    row["d"] = f"{rung.name}: {row['label']}"
    return row


def _ends() -> alt.Scale:
    return alt.Scale(domain=["at", "on"], range=["circle", "triangle-right"])


def _decades(low: float, high: float, dense: bool = True) -> list[float]:
    """1, 2, 5, 10, ... inside a range; powers of ten alone where that would be too many."""
    many = math.log10(max(high, 1.0) / max(low, 1e-9)) > (3.2 if dense else 2.2)
    steps = (1,) if many else (1, 2, 5)
    span = range(math.floor(math.log10(max(low, 1e-9))), math.ceil(math.log10(max(high, 1e-9))) + 1)
    return [s * 10.0**n for n in span for s in steps if low <= s * 10.0**n <= high]


def _decade_span(values: Sequence[float], floor: float = 1e-9, ceiling: float = 1e12) -> tuple[float, float]:
    """The decades that hold all positive finite values, at least two, within a range that can still be read."""
    good = [float(v) for v in values if math.isfinite(v) and v > 0]
    if not good:
        return 1e-3, 1.0
    low = max(floor, 10.0 ** math.floor(math.log10(min(good))))
    if any(v == 0 for v in values):
        low = max(floor, low / 10)  # room for the zeros below the rest
    high = min(ceiling, 10.0 ** math.ceil(math.log10(max(good))))
    low, high = min(low, ceiling / 100), max(high, floor * 100)
    return (low, high) if high / low >= 99 else (high / 100, high)


def _log_y(low: float, high: float, ticks: int = 6) -> tuple[alt.Scale, alt.Axis]:
    first, last = round(math.log10(low)), round(math.log10(high))
    exponents = range(first, last + 1, max(1, math.ceil((last - first) / ticks)))
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    return scale, _y_axis(values=[10.0**n for n in exponents], labelExpr=powers(exponents))


def _within(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _evenly(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)) if count else np.zeros(0, int)


def _units(results: Results) -> int:
    """How many units of one place are drawn."""
    return UNITS // max(1, len(results))


def _spread(values: np.ndarray, most: int) -> np.ndarray:
    """At most so many units, spread evenly over the order of their values."""
    return np.sort(np.argsort(values, kind="stable")[_evenly(len(values), most)])


def _strongest(values: np.ndarray, most: int) -> list[int]:
    """The columns with the largest sums, in their own order."""
    return sorted(np.argsort(-np.abs(values).sum(0), kind="stable")[:most].tolist())


def _bins(T: int, most: int) -> list[int]:
    """Edges of at most so many runs of lags that cover 0 .. T-1."""
    return np.unique(np.linspace(0, T, min(T, most) + 1).round().astype(int)).tolist()


def _first(results: Results, most: int = PLACES) -> tuple[Results, int]:
    """The places that are drawn, in words, and how many are left out."""
    chosen = {_label(name): r for name, r in list(results.items())[:most]}
    return chosen, max(0, len(results) - most)


def _label(name: str) -> str:
    """A place in words.

    >>> _label("0"), _label("1_reverse"), _label("lstm.0")
    ('layer 0', 'layer 1, backwards', 'lstm.0')
    """
    if name.split("_")[0].isdigit():
        name = f"layer {name}"
    return name.replace("_reverse", ", backwards")


def _rest(left: int) -> str:
    many = f"{left} more places are" if left > 1 else "1 more place is"
    return f" {many} in the figures only." if left else ""


def _told(results: Results) -> str:
    """The sentences of all places, each behind its name where there are several."""
    said = {name: _finding(r).removeprefix(f"{getattr(r, 'name', name)}: ") for name, r in results.items() if r is not None}
    return told(said)


def _finding(result: Any) -> str:
    return str(getattr(result, "finding", "") or "")


def _series(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(names) if len(names) > 1 else ()


def _color(names: Sequence[str]) -> alt.Color:
    return alt.Color("s:N", title=None, scale=alt.Scale(domain=list(names), range=list(SERIES[: len(names)])))


def _dash(names: Sequence[str]) -> alt.StrokeDash:
    return alt.StrokeDash("s:N", title=None, scale=alt.Scale(domain=list(names), range=list(DASHES[: len(names)])))


def _shape(names: Sequence[str]) -> alt.Shape:
    return alt.Shape("s:N", title=None, scale=alt.Scale(domain=list(names), range=list(SHAPES[: len(names)])))


def _y_axis(**more: Any) -> alt.Axis:
    return alt.Axis(grid=True, **more)


def _small(text: str) -> alt.Title:
    return alt.Title(text, fontSize=12.5, fontWeight="normal", offset=6)


def _data(rows: list[Row]) -> alt.Data:
    """Rows as one JSON text, which altair hands on as it is instead of copying and checking every number."""
    return alt.Data(values=json.dumps(rows), format=alt.JsonDataFormat(type="json"))


def _r(value: Any) -> float:
    """Four digits are more than a drawing shows."""
    return float(f"{float(value):.4g}")


def _or_nan(value: Any) -> float:
    return math.nan if value is None else float(value)


def _none(value: Any) -> Any:
    return None if value is None else value


def _of(thing: Any, name: str) -> Any:
    """A field of an object or of a mapping, None if it has none."""
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


def _cell_of(value: Any) -> Any:
    return getattr(value, "word", value)
