"""Drawn headers, weights and panels of every kind of forecaster, for laws of `runtime` and `tasks.network`.

Legend: S series, T steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from openlstm.data.panel import Covariate, Panel
from openlstm.model_file import Decoder, Feature, Header, Lag, Network, Scale, Series, Step, Training
from openlstm.runtime.model import Model, build

DAY = Step(unit="second", count=86400)
LEVELS = (0.1, 0.4, 0.5, 0.9)
COLORS = ("red", "green")
DISTRIBUTIONS = ("normal", "student-t", "negative binomial")

KINDS: dict[str, dict[str, Any]] = {
    "direct": {"kind": "direct", "width": 5},
    **{name: {"kind": "recursive", "distribution": name, "paths": 12} for name in DISTRIBUTIONS},
    "simulate": {"kind": "simulate", "warmup": 3},
}
ANCHORS = {"direct": "season", "negative binomial": "zero", "simulate": "all"}

FEATURES = (
    Feature(name="price", role="future", mean=2.0, deviation=3.0),
    Feature(name="rain", role="past", marked=True),
    Feature(name="color", role="future", categories=COLORS, width=2, marked=True),
    Feature(name="sky", role="past", categories=COLORS, width=3, marked=True),
    Feature(name="area", role="static", mean=5.0),
    Feature(name="kind", role="static", categories=COLORS, width=2),
)


def header(kind: str, *, features: bool = True, window: int = 10, horizon: int = 7, **network: Any) -> Header:
    """A header of one of `KINDS`, with every sort of input: lags shorter than the horizon, marks, categories, the calendar."""
    simulates = kind == "simulate"
    own = tuple(f for f in FEATURES if not (simulates and f.role == "past")) if features else ()
    return Header(
        library="0.1.0",
        task="forecast",
        series=Series(
            time="t",
            target="y",
            step=DAY,
            period=4,
            window=window,
            horizon=1 if simulates else horizon,
            scale=Scale(anchor=ANCHORS.get(kind, "season"), floor=0.5, center=2.0 if simulates else 0.0),  # type: ignore[arg-type]
            calendar=("weekday", "yearday"),
            lags=() if simulates else (Lag(season=4), Lag(season=4, back=1), Lag(season=5)),
            features=own,
        ),
        network=Network(**{"cell": "lstm", "hidden_size": 6, "num_layers": 2, "members": 2, **network}),
        decoder=Decoder(quantiles=LEVELS, **KINDS[kind]),
        training=Training(
            first="2000-01-01",
            last="2000-02-01",
            seed=0,
            epochs=(1,),
            validation_loss=(1.0,),
            learning_rate=0.1,
            batch_size=1,
            weight_decay=0.0,
            clip=1.0,
        ),
    )


def model(head: Header, seed: int = 0) -> Model:
    """A model of random weights."""
    rng = np.random.default_rng(seed)
    return build(head, {n: 0.4 * rng.standard_normal(shape).astype(np.float32) for n, (_, shape) in head.tensors().items()})


def panel(head: Header, lengths: tuple[int, ...] = (40, 25, 12, 5), seed: int = 1, missing: float = 0.2) -> Panel:
    """Series of counts that begin on different days, with gaps, and covariates known as far as the model needs them."""
    rng = np.random.default_rng(seed)
    ahead = head.series.horizon
    sizes = [n + ahead for n in lengths]
    values = [np.append(rng.poisson(6, n).astype(float), np.full(ahead, np.nan)) for n in lengths]
    for one in values:
        one[: -ahead - 1][rng.random(len(one) - ahead - 1) < missing] = np.nan
    starts = np.datetime64("2001-01-01", "us") + np.arange(len(lengths)) * np.timedelta64(3, "D")
    whole = Panel.of(values, starts, DAY, keys=[(f"s{s}",) for s in range(len(lengths))], ids=("name",), target="y", time="t")

    def column(feature: Feature) -> Covariate:
        size = len(lengths) if feature.role == "static" else sum(sizes)
        own = rng.integers(0, 2, size).astype(float) if feature.categories else rng.standard_normal(size) + feature.mean
        if feature.marked:
            own[rng.random(size) < missing] = np.nan
        return Covariate(feature.name, feature.role, own, feature.categories)

    held = tuple(column(f) for f in head.series.features)
    return replace(whole, covariates=held).at(np.array(lengths))
