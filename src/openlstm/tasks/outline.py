"""The header of a model before its training: what the data hold, the sizes, the decoder, the units of values and errors.

Legend: S series.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pydantic import ValidationError

import openlstm
from openlstm import model_file
from openlstm.data.panel import Panel
from openlstm.errors import ArgumentError, DataError
from openlstm.model_file import Decoder, Feature, Form, Header, Network, Scale, Training
from openlstm.model_file.header import COUNTS
from openlstm.runtime.window import SMALLEST
from openlstm.tasks.metrics import seasonal_scale
from openlstm.tasks.recipe import Recipe
from openlstm.train import Options

LONGEST_WIDTH = 16  # of the embedding of a category

LEAST_COUNT = 0.1
"""The spread of counts is the mean size of a window, at least this: a window of zeros still has a unit."""

DECODERS, DISTRIBUTIONS = ("direct", "recursive", "simulate"), ("normal", "student-t", COUNTS)


def check_decoder(asked: Any) -> None:
    """Refuse a decoder that is not there, and options of another one."""
    kind = asked.decoder
    if kind not in DECODERS:
        hint = "use decoder='direct'"
        raise ArgumentError.of("Forecaster", f"unknown decoder {kind!r}", repr(kind), ", ".join(DECODERS), hint)
    if asked.distribution is not None and (kind != "recursive" or asked.distribution not in DISTRIBUTIONS):
        got, expected = f"distribution={asked.distribution!r}, decoder={kind!r}", ", ".join(DISTRIBUTIONS)
        what, hint = "has no such distribution", "decoder='recursive', distribution='student-t'"
        raise ArgumentError.of("Forecaster", what, got, f"{expected}, of the decoder 'recursive'", hint)
    if asked.warmup is not None and kind != "simulate":
        what, got = "has no warm-up", f"warmup={asked.warmup!r}, decoder={kind!r}"
        raise ArgumentError.of("Forecaster", what, got, "decoder='simulate'", "leave warmup out")
    if kind == "simulate" and asked.horizon != 1:
        what, hint = "tells every step of a table, it has no horizon", "leave horizon out, and call simulate"
        raise ArgumentError.of("Forecaster", what, f"horizon={asked.horizon}", "horizon=1", hint)


def header(asked: Any, known: Panel, made: Recipe) -> Header:
    """All that is known before the training; how it went is filled in afterwards."""
    trained = known.at(np.maximum(known.history - made.validation, 0))
    features = _features(known, trained, asked.decoder)
    series = {
        "time": known.time,
        "target": known.target,
        "ids": known.ids,
        "step": known.step,
        "zone": known.zone,
        "form": Form(**vars(asked.form_), wide=asked.wide),
        "period": made.period,
        "window": made.window,
        "horizon": asked.horizon,
        "scale": _scale(asked, known, trained),
        "positive": bool(np.nanmin(known.values, initial=np.inf) >= 0) and asked.decoder != "simulate",
        "calendar": made.calendar,
        "lags": made.lags,
        "features": features,
    }
    training = {
        "first": str(known.starts.min()),
        "last": str(last_times(known).max().astype("datetime64[us]")),
        "epochs": (1,) * asked.members,
        "validation_loss": (),
        "init": "default" if "rnn" in asked.cell else asked.init,
        "seed": asked.seed,
        "learning_rate": made.learning_rate,
        "batch_size": made.batch_size,
        "weight_decay": asked.weight_decay,
        "clip": Options.clip,
    }
    shape = {"hidden_size": made.hidden_size, "num_layers": made.num_layers, "members": asked.members}
    return valid(
        {
            "library": openlstm.__version__,
            "task": "forecast",
            "series": series,
            "network": {"cell": asked.cell, **shape},
            "decoder": {"kind": asked.decoder, "quantiles": tuple(asked.quantiles), **_decoder(asked, made)},
            "training": training,
        }
    )


def _decoder(asked: Any, made: Recipe) -> dict[str, Any]:
    if asked.decoder == "recursive":
        return {"distribution": asked.distribution or "normal", "paths": asked.paths}
    if asked.decoder == "direct":
        return {"width": made.width}
    if asked.warmup is not None and asked.warmup >= made.window:
        what, got = "the warm-up is as long as the window, so nothing is trained on", f"warmup={asked.warmup}"
        hint = "pass a smaller warmup, or a larger window"
        raise ArgumentError.of("Forecaster", what, got, f"less than the window, {made.window}", hint)
    if made.window == 1:
        what, hint = "a window of one step has no room for a warm-up", "pass a larger window, or give longer series"
        raise ArgumentError.of("Forecaster", what, "window=1", "at least 2", hint)
    return {"warmup": asked.warmup or made.window // 2}


def _scale(asked: Any, known: Panel, trained: Panel) -> Scale:
    """How values are measured; what `simulate` takes off and divides by is that of the training part of all series."""
    pasts = [past for s in range(len(known)) if not np.isnan(past := known.past(s)).all()]
    widest = max((float(np.nanmax(past) - np.nanmin(past)) for past in pasts), default=0.0)
    if 0 < widest < SMALLEST:
        what, got = "the values differ by too little to compute with", f"all within {widest:.3g}"
        raise DataError.of("fit", what, got, f"at least {SMALLEST:g}", "take another unit")
    if asked.distribution == COUNTS:
        return Scale(anchor="zero", floor=LEAST_COUNT)
    sizes = [size for past in pasts if (size := float(np.nanmean(np.abs(past)))) > 0]
    if asked.decoder == "simulate":
        values = trained.values[~np.isnan(trained.values)]
        mean, deviation = (float(values.mean()), float(values.std())) if len(values) else (0.0, 0.0)
        return Scale(anchor="all", center=mean, floor=deviation if deviation >= SMALLEST else min(sizes, default=1.0))
    return Scale(floor=1e-3 * min(sizes, default=1.0))


def valid(parts: dict[str, Any]) -> Header:
    """A header of its parts.

    Raises:
        ArgumentError: if a model file cannot hold it.
    """
    kinds = {"series": model_file.Series, "network": Network, "training": Training, "decoder": Decoder}
    try:
        made = {name: kind.model_validate(parts[name]) for name, kind in kinds.items() if isinstance(parts[name], dict)}
        return Header(**parts | made)
    except ValidationError as e:
        first = e.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        what, got, expected = f"{name} is not what a model file can hold", f"{name}={first['input']!r}", first["msg"]
        if not name:  # what is wrong is not one number alone
            what, got, expected = "the model is not what a file can hold", first["msg"], "a smaller model"
        hint = f"pass another {name}" if name else "pass a smaller hidden_size, num_layers, members or horizon"
        raise ArgumentError.of("Forecaster", what, got, expected, hint) from None


def last_times(known: Panel) -> np.ndarray:
    """The time of the last known step of each series, int64 [S] in microseconds since 1970; before its start without a past."""
    last = [known.times(s)[n - 1] if n else known.starts[s] - np.timedelta64(1, "us") for s, n in enumerate(known.history)]
    return np.array(last, dtype="datetime64[us]").astype(np.int64)


def units(header: Header, known: Panel) -> np.ndarray:
    """The unit of the errors of each series, float64 [S]: its mean seasonal change, where there is none, or of what is
    simulated, its deviation.
    """
    past = known.pasts(4096)
    deviation = np.array([np.nanstd(p) if (~np.isnan(p)).any() else np.nan for p in past])
    changes = [seasonal_scale(past, period) for period in (header.series.period, 1)] if header.decoder.warmup is None else []
    unit = np.full(len(known), np.nan)
    for other in (*changes, deviation):
        unit = np.where(np.isfinite(unit) & (unit > 0), unit, other)
    typical = np.nanmedian(unit[unit > 0]) if (unit > 0).any() else 1.0
    return np.where(np.isfinite(unit) & (unit > 0), unit, typical)


def _features(known: Panel, panel: Panel, decoder: str) -> tuple[Feature, ...]:
    """The covariates as the network reads them: scaled by the training part `panel`, marked if missing in what is known."""
    out = []
    for c in panel.covariates:
        values = c.values
        if c.role == "past" and decoder == "simulate":
            what, got = "simulate reads the columns of the same step", f"{c.name!r} as a column of the past"
            hint = f"give {c.name} as one of the future columns"
            raise ArgumentError.of("Forecaster", what, got, "future and static columns", hint)
        if c.role != "static":
            steps = np.arange(len(panel.values)) - np.repeat(panel.offsets[:-1], panel.lengths)
            seen = known.covariate(c.name).values[steps < np.repeat(known.history, panel.lengths)]
            values = values[steps < np.repeat(panel.history, panel.lengths)]
        else:
            seen = values
        marked = bool(np.isnan(seen).any()) or (c.role == "past" and decoder == "recursive")  # it is unknown ahead
        if c.categories is not None:
            width = min(LONGEST_WIDTH, math.ceil(len(c.categories) ** 0.5) + 1)
            out.append(Feature(name=c.name, role=c.role, categories=c.categories, width=width, marked=marked))
            continue
        there = values[~np.isnan(values)]
        mean, deviation = (float(there.mean()), float(there.std())) if len(there) else (0.0, 1.0)
        out.append(Feature(name=c.name, role=c.role, mean=mean, deviation=deviation or 1.0, marked=marked))
    if not out and decoder == "simulate":
        what, hint = "simulate has nothing to tell the target from", "Forecaster(decoder='simulate', future=('rain',))"
        raise ArgumentError.of("Forecaster", what, "no future columns", "at least one", hint)
    return tuple(out)
