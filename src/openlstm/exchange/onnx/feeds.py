"""What the graph of a fitted model takes, made of data as `Model.predict` takes them; and the check of such a graph.

Legend: S series, N rows of a panel, W steps of a window, K steps of the horizon, T steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from onnx import ModelProto

from openlstm import weights
from openlstm.data.panel import Covariate, Panel
from openlstm.exchange.onnx.build import agree
from openlstm.exchange.onnx.plan import session
from openlstm.exchange.onnx.scaling import column
from openlstm.model_file.header import COUNTS
from openlstm.runtime import Model
from openlstm.runtime.recursive import sequence
from openlstm.runtime.window import rows


def feeds(model: Model, data: Any, *, steps: slice | None = None) -> dict[str, np.ndarray]:
    """The inputs of `export(model, to="onnx")` for data, states and `last` at their begin.

    Args:
        model: which was exported.
        data: as `model.predict` and `model.simulate` take them; series that simulate have to have one length.
        steps: of a recursive model those of the series that are read, counted from the begin of their last window: its warm-up,
            slice(0, W + 1), if None.

    Returns:
        Arrays by the names of the inputs: numbers as they are, NaN where missing; categories as their places in the model's
        list, -1 where missing; the calendar as sines and cosines.
    """
    panel, header, series = model.panel(data), model.header, model.header.series
    S, W, K = len(panel), series.window, series.horizon
    origin = panel.history
    found: dict[str, np.ndarray] = {}
    if header.decoder.kind == "simulate":
        begin, count = np.zeros(S, np.int64), int(panel.lengths.max(initial=0))
    elif header.decoder.kind == "recursive":
        steps = steps or slice(0, W + 1)
        begin, count = origin - W + steps.start, steps.stop - steps.start
        found["window"] = _cut(panel, panel.values, origin - W, W)
        found["before"] = _cut(panel, panel.values, begin - 1, count)
        if not steps.start:
            found["before"][:, 0] = np.nan
        found |= {f"season_{n}": _cut(panel, panel.values, begin - n, count) for n in series.seasons}
        found["last"] = np.zeros(S)
    else:
        begin, count = origin - W, W + K
        found["values"] = _cut(panel, panel.values, origin - series.reach, series.reach)
    table = rows(series, panel, every=header.decoder.kind == "simulate")  # which also says what is missing
    if series.calendar:
        place = table.begins[:, None] + begin[:, None] + np.arange(count)
        found["calendar"] = table.plain[np.minimum(place, len(table.plain) - 1), : 2 * len(series.calendar)]
    for feature in series.features:
        given = next(c.values for c in panel.covariates if c.name == feature.name)
        if feature.role == "static":
            own = given.astype(np.float64)
        elif feature.role == "past" and header.decoder.kind == "recursive":  # a step reads those of the step before it
            own = _cut(panel, given, begin - 1, count)
            own[:, np.arange(begin[0] - origin[0], begin[0] - origin[0] + count) <= -W] = np.nan
        else:
            own = _cut(panel, given, begin, W if feature.role == "past" else count)
        found[column(feature.name)] = own if feature.categories is None else np.where(np.isnan(own), -1, own).astype(np.int64)
    if header.decoder.kind in ("simulate", "recursive"):
        found |= zero_states(model, S)
    return found


def zero_states(model: Model, series: int) -> dict[str, np.ndarray]:
    """The states of all members at the begin of a sequence."""
    found = {}
    for member, net in enumerate(model.networks):
        H = weights.hidden_size(net.cell, net.layers[0])
        names = {"h": weights.fed_back_size(net.cell, H), **(dict.fromkeys(net.cell.states, H) if net.cell.has_cell else {})}
        found |= {f"member{member}_{s}0": np.zeros((len(net.layers), series, n), np.float32) for s, n in names.items()}
    return found


def _cut(panel: Panel, values: np.ndarray, first: np.ndarray, count: int) -> np.ndarray:
    """Of an array [N] the steps of each series from `first` [S] on, float64 [S, count], NaN outside of it."""
    step = first[:, None] + np.arange(count)
    inside = (step >= 0) & (step < panel.lengths[:, None])
    place = np.where(inside, panel.offsets[:-1, None] + step, 0)
    return np.where(inside, values[place] if len(values) else np.nan, np.nan)


def example(model: Model, extra: int = 3) -> Panel:
    """Two series of noise that the model can read, with gaps."""
    header, series = model.header, model.header.series
    rng = np.random.default_rng(0)
    size = series.reach + extra + series.horizon
    drawn = rng.standard_normal((2, size)) * series.scale.floor * 10 + series.scale.center
    drawn = np.rint(np.exp(rng.standard_normal((2, size)))) if header.decoder.distribution == COUNTS else drawn
    drawn[:, : size - 1 - series.horizon][rng.random((2, size - 1 - series.horizon)) < 0.1] = np.nan
    drawn[:, size - series.horizon :] = np.nan
    panel = Panel.of(list(drawn), np.datetime64("2001-01-01", "us"), series.step, target=series.target, time=series.time)

    def drawn_column(feature: Any) -> Covariate:
        values = feature.mean + feature.deviation * rng.standard_normal(2 if feature.role == "static" else 2 * size)
        if feature.categories is not None:
            values = rng.integers(0, len(feature.categories), len(values)).astype(np.float64)
        if feature.marked:
            values[rng.random(len(values)) < 0.1] = np.nan
        return Covariate(feature.name, feature.role, values, feature.categories)

    history = np.full(2, size - series.horizon, np.int64)
    return replace(panel, history=history, covariates=tuple(map(drawn_column, series.features)))


def check(model: Model, made: ModelProto) -> None:
    """Run the graph beside the model.

    Raises:
        BackendError: where they disagree.
    """
    panel, kind = example(model), model.header.decoder.kind
    run = session(made.SerializeToString())
    given = feeds(model, panel)
    if kind == "simulate":
        ours = model.simulate(panel).values.reshape(len(panel), -1, len(model.levels))
        return agree(run.run(["quantiles"], given), [ours], ["quantiles"])
    if kind == "recursive":
        ours = np.stack([member.step(*_seen(model, panel)).given for member in model.members()])
        return agree(run.run(["parameters"], given), [ours], ["parameters"])
    return agree(run.run(["quantiles"], given), [model.quantiles(panel)], ["quantiles"])


def _seen(model: Model, panel: Panel) -> tuple[Any, Any, Any]:
    table = rows(model.header.series, panel)
    seen = sequence(model.header.series, table, table.begins + panel.history, 1)
    return seen.x, seen.codes, seen.spread
