"""The header of a model file: everything it says beside its tensors, in a closed and versioned schema.

Legend: I input size, H hidden size, L layers, G gates of a cell.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import fields, replace
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_serializer, model_validator

from openlstm import cells, weights

VERSION = 4
"""The newest version of the header that this library reads and the one it writes.

2 brought cells beside the first three, 3 the way the weights began, 4 several series, covariates, other decoders, calibrated
bands and baselines. `upgrade` turns each older one into the newest.
"""

CONTEXT = 3
"""How many numbers the `direct` decoder reads of the window as a whole, see `runtime.window`."""

COUNTS = "negative binomial"
"""The distribution of counts: their values stay as they are, in spreads of the size of the window."""

MOST = 2**27
"""So many numbers a file holds at most, in all its tensors: 512 MiB."""

MOST_AT_ONCE = 2**25
"""So many numbers the forecast of one series takes at most, of what the network reads or of what it gives."""

MOST_TEXT = 2**19
"""So many characters the part `series` takes at most, whose names and categories are the user's."""


def _a_time(text: str) -> str:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,6})?)?)?", text, re.ASCII):
        raise ValueError("is not an ISO time such as 2001-12-29T00:00:00")
    datetime.fromisoformat(text)
    return text


def _a_size(value: float) -> float:
    if not 1e-200 <= value <= 1e101:
        raise ValueError("is not a size between 1e-200 and 1e101")
    return value


Name = Annotated[str, Field(max_length=1000)]
Key = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,99}$")]  # part of the name of a tensor
Time = Annotated[str, AfterValidator(_a_time)]
Size = Annotated[float, AfterValidator(_a_size)]  # in the unit of the target, whose values are within 1e100
Shape = Annotated[tuple[Annotated[int, Field(ge=1, le=MOST)], ...], Field(max_length=4)]
"""What several parts are made of."""


class _Part(BaseModel):
    """A part of the header: closed (unknown keys are refused), strict about types, immutable, finite numbers only."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Step(_Part):
    """The sampling interval of a series: so many calendar months, seconds, or business days; at most 1000 years."""

    unit: Literal["month", "second", "business"]
    count: int = Field(ge=1, le=1000 * 366 * 86400)

    @model_validator(mode="after")
    def _possible(self) -> Step:
        if self.years() > 1000:
            raise ValueError("a step is longer than 1000 years")
        return self

    def years(self) -> float:
        """How long it is, in calendar years."""
        return self.count / {"month": 12, "second": 365.2425 * 86400, "business": 5 / 7 * 365.2425}[self.unit]


class Scale(_Part):
    """How a window of values is measured, see `runtime.window.measure`."""

    anchor: Literal["last", "season", "zero", "all"] = "season"
    share: float = Field(default=0.001, ge=0, le=1)  # of the mean size of a window: its spread is at least that
    floor: Size  # in the unit of the target: no spread is less; with the anchor "all" it is the spread
    center: float = Field(default=0.0, ge=-1e100, le=1e100)  # in the unit of the target, with the anchor "all"


class Lag(_Part):
    """The last known step of the same place in a season, or so many seasons before that."""

    season: int = Field(ge=1, le=10**6)  # in steps
    back: int = Field(default=0, ge=0, le=100)


class Feature(_Part):
    """A covariate the network reads: a number as (value - mean) / deviation, a category as `width` numbers of its own.

    `marked`: a second input says where it is missing; without one a missing value is refused.
    """

    name: Name
    role: Literal["future", "past", "static"]
    mean: float = Field(default=0.0, ge=-1e100, le=1e100)
    deviation: Size = 1.0
    categories: tuple[Name, ...] | None = Field(default=None, min_length=1, max_length=10**4)
    width: int = Field(default=1, ge=1, le=64)  # of the embedding
    marked: bool = False

    @property
    def inputs(self) -> int:
        """How many inputs of the network it is."""
        return self.width + self.marked


class Form(_Part):
    """How the table of the training was written, where that was not found by itself: the options of `data.Format`."""

    time_format: Name | None = None
    zone: Name | None = None
    encoding: Name | None = None
    delimiter: Name | None = None
    decimal: Name | None = None
    every: Name | None = None
    aggregate: Name = "mean"
    wide: bool = False


class Series(_Part):
    """What the model was trained on, and how its numbers are scaled.

    The values of a window enter as (y - anchor) / spread, see `runtime.window`.
    """

    time: Name
    target: Name
    ids: tuple[Name, ...] = Field(default=(), max_length=100)
    step: Step
    zone: Name | None = None
    form: Form = Form()
    period: int = Field(ge=1, le=10**6)  # steps in a season
    window: int = Field(ge=1, le=10**6)  # steps the network reads
    horizon: int = Field(ge=1, le=10**8)  # steps it forecasts
    scale: Scale
    positive: bool = False  # no value of the training was below zero, so no quantile of a forecast is
    calendar: tuple[Literal["hour", "weekday", "yearday", "month"], ...] = Field(default=(), max_length=4)
    lags: tuple[Lag, ...] = Field(default=(), max_length=10)
    features: tuple[Feature, ...] = Field(default=(), max_length=1000)

    @model_validator(mode="after")
    def _possible(self) -> Series:
        if self.horizon * self.step.years() > 5000:
            raise ValueError("the horizon is longer than 5000 years")
        if self.reach * self.step.years() > 100_000:
            raise ValueError("the window and its lags are longer than 100000 years")
        if len({f.name for f in self.features}) < len(self.features):
            raise ValueError("two features of one name")
        if len(set(self.calendar)) < len(self.calendar):
            raise ValueError("the calendar holds something twice")
        if len(json.dumps(self.model_dump(mode="json"))) > MOST_TEXT:
            raise ValueError(f"names and categories take more than {MOST_TEXT} characters")
        return self

    @property
    def reach(self) -> int:
        """How many steps before its origin a window looks at."""
        return self.window + max((lag.season * (lag.back + 1) for lag in self.lags), default=0)

    @property
    def seasons(self) -> tuple[int, ...]:
        """The seasons of the lags, each once: beside each value the network reads the one a season before."""
        return tuple(dict.fromkeys(lag.season for lag in self.lags))

    def of(self, *roles: str) -> tuple[Feature, ...]:
        """The features of some roles, in order."""
        return tuple(f for f in self.features if f.role in roles)


class Network(_Part):
    """`members` recurrent networks of equal shape, whose outputs are averaged."""

    cell: str  # a key of cells.BY_NAME
    clip: float | None = Field(default=None, gt=0)  # the cell state is kept within -clip..clip
    cells_per_gate: int = Field(default=1, ge=1, le=2**16)  # so many neighbouring cells share their gates
    heads: int = Field(default=1, ge=1, le=2**16)  # so many groups of units see the h of their own group alone
    hidden_size: int = Field(ge=1, le=2**16)
    num_layers: int = Field(ge=1, le=1000)
    members: int = Field(ge=1, le=1000)

    @model_validator(mode="after")
    def _possible(self) -> Network:
        if self.cell not in cells.BY_NAME:
            raise ValueError(f"unknown cell {self.cell!r}")
        known = {field.name for field in fields(cells.BY_NAME[self.cell])}  # type: ignore[arg-type]
        for name in self._options():
            if name not in known:
                raise ValueError(f"{self.cell} has no {name}")
        if self.hidden_size % self.cells_per_gate:
            raise ValueError("hidden_size is not a multiple of cells_per_gate")
        if self.hidden_size % (self.heads * self.cells_per_gate):
            raise ValueError("hidden_size is not a multiple of heads * cells_per_gate")
        if self.members * self.num_layers > 1000:
            raise ValueError("more than 1000 layers in all members together")
        return self

    @model_serializer(mode="wrap")
    def _dumped(self, dump: Any) -> dict[str, Any]:
        """Without heads where there are none, as files were before there were any: a reader of that time takes it."""
        return {name: value for name, value in dump(self).items() if name != "heads" or value != 1}

    def recurrence(self) -> cells.Cell:
        """The cell with its options."""
        return replace(cells.BY_NAME[self.cell], **self._options())  # type: ignore[type-var]

    def _options(self) -> dict[str, Any]:
        """Those that are not the defaults."""
        options = {"clip": self.clip, "cells_per_gate": self.cells_per_gate, "heads": self.heads}
        return {name: value for name, value in options.items() if value != type(self).model_fields[name].default}


class Decoder(_Part):
    """How the last h becomes a forecast: `linear` and `direct` give all quantiles of all steps at once, `recursive` one step
    after the other as a distribution, `simulate` the quantiles of the same step; see `runtime.decoder`.
    """

    kind: Literal["linear", "direct", "recursive", "simulate"] = "direct"
    quantiles: tuple[float, ...] = Field(min_length=1, max_length=1000)
    width: int = Field(default=1, ge=1, le=2**12)  # of the hidden layer of `direct`
    distribution: Literal["normal", "student-t", "negative binomial"] | None = None  # of `recursive`
    paths: int | None = Field(default=None, ge=1, le=10**5)  # of `recursive`: so many are drawn for each forecast
    warmup: int | None = Field(default=None, ge=1, le=10**8)  # of `simulate`: steps of a window that were not trained on

    @model_validator(mode="after")
    def _ordered(self) -> Decoder:
        inside = all(0 < q < 1 for q in self.quantiles)
        if not inside or list(self.quantiles) != sorted(set(self.quantiles)) or 0.5 not in self.quantiles:
            raise ValueError("quantiles must rise strictly inside (0, 1) and hold 0.5")
        for name, kind in (("distribution", "recursive"), ("paths", "recursive"), ("warmup", "simulate")):
            if (getattr(self, name) is None) == (self.kind == kind):
                raise ValueError(f"{name} belongs to the {kind} decoder, and to no other")
        return self


class Forecaster(_Part):
    """One of those that can be asked: the network itself, or a baseline that is kept beside it."""

    name: Key  # "network", a key of runtime.baselines.BY_NAME, or "best": the mean by weight of the others
    weight: float = Field(default=0.0, ge=0, le=1)  # in the forecast that won on validation
    error: float | None = None  # MASE on validation
    # for each quantile, whether there were windows enough to calibrate it; () if not calibrated
    enough: tuple[bool, ...] = Field(default=(), max_length=1000)
    arrays: tuple[tuple[Key, Shape], ...] = Field(default=(), max_length=20)


class Training(_Part):
    """How the model was trained: enough to repeat it, and to know which rows it has seen."""

    first: Time  # of the first row it has seen
    last: Time  # of the last row it has seen, validation included
    seed: int = Field(ge=0, lt=2**63)
    epochs: tuple[Annotated[int, Field(ge=0, le=10**9)], ...] = Field(
        max_length=1000
    )  # of each member: that of the kept weights
    validation_loss: tuple[float, ...] = Field(max_length=1000)  # of each member
    learning_rate: float = Field(gt=0)
    batch_size: int = Field(ge=1, le=10**9)
    weight_decay: float = Field(ge=0)
    clip: float = Field(gt=0)
    init: str = Field(default="default", max_length=100)  # as `openlstm.nn.init.apply` takes it
    series: int = Field(default=0, ge=0, le=MOST)  # whose names and last times are kept as tensors
    name_bytes: int = Field(default=0, ge=0, le=MOST)  # of those names


class Header(_Part):
    """Everything a model file says beside its tensors."""

    version: Literal[4] = VERSION
    library: Name
    task: Literal["forecast"]
    series: Series
    network: Network
    decoder: Decoder
    forecasters: tuple[Forecaster, ...] = Field(default=(Forecaster(name="network", weight=1.0),), min_length=1, max_length=20)
    training: Training
    checksum: str = Field(default="", max_length=64)

    @model_validator(mode="after")
    def _possible(self) -> Header:
        embeddings = sum(f.categories is not None for f in self.series.features)
        if self.network.members * (self.network.num_layers + embeddings) > 1000:
            raise ValueError("more than 1000 layers and embeddings in all members together")
        if sum(math.prod(shape) for _, shape in self.tensors().values()) > MOST:
            raise ValueError(f"more than {MOST} numbers in all tensors together")
        series, decoder, anchor = self.series, self.decoder, self.series.scale.anchor
        if (anchor == "all") != (decoder.kind == "simulate") or (anchor == "zero") != (decoder.distribution == COUNTS):
            raise ValueError(f"the anchor {anchor!r} does not belong to this decoder")
        if decoder.kind == "simulate" and (series.of("past") or series.lags or series.horizon != 1):
            raise ValueError("simulate reads no past, no lags, and gives one step at a time")
        if decoder.warmup is not None and decoder.warmup >= series.window:
            raise ValueError("the warm-up is as long as a window")
        if decoder.kind == "recursive" and not all(f.marked for f in series.of("past")):
            raise ValueError("recursive reads columns of the past that are missing from the second step on: they are marked")
        steps, widest = series.horizon, max(self.ahead, len(decoder.quantiles), decoder.paths or 1)
        if max((series.reach + steps) * max(self.inputs, self.network.hidden_size), steps * widest) > MOST_AT_ONCE:
            raise ValueError(f"the forecast of one series takes more than {MOST_AT_ONCE} numbers")
        self._check_forecasters()
        return self

    def _check_forecasters(self) -> None:
        names = [one.name for one in self.forecasters]
        if names[0] != "network" or len(set(names)) < len(names) or "best" in names[:-1]:
            raise ValueError("of the forecasters the network comes first, best last, and none twice")
        if names[-1] == "best" and self.forecasters[-1].weight or not any(one.weight for one in self.forecasters):
            raise ValueError("best has no weight of its own, and the others have some")
        if any(len(one.enough) not in (0, len(self.decoder.quantiles)) for one in self.forecasters):
            raise ValueError("enough says of each quantile whether it is calibrated, or nothing")

    @property
    def of_target(self) -> int:
        """How many inputs of the network are values of the target: the value and its mark, its lags."""
        return 0 if self.decoder.kind == "simulate" else 2 + len(self.series.seasons)

    @property
    def inputs(self) -> int:
        """The input size of the network: those of the target, the calendar, the features."""
        series = self.series
        return self.of_target + 2 * len(series.calendar) + sum(f.inputs for f in series.features)

    @property
    def ahead(self) -> int:
        """How many numbers the `direct` decoder reads of each step of the horizon."""
        series = self.series
        known = sum(f.inputs for f in series.of("future"))
        return 1 + 2 * len(series.lags) + 2 * len(series.calendar) + known

    def tensors(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Type and shape of every tensor that belongs to this header.

        `member.0.recurrent.weight_ih_l0` [G*H, I], ..., `member.0.embed.0` [categories + 1, width], the decoder's
        (`runtime.decoder.shapes`), `calibration.<name>` [K, Q], `baseline.<name>.<array>`, `series.names`, `series.last`.
        """
        net, out = self.network, {}
        for member in range(net.members):
            start = f"member.{member}."
            for layer in range(net.num_layers):
                size = net.hidden_size if layer else self.inputs
                for name, shape in weights.shapes(net.recurrence(), size, net.hidden_size).items():
                    out[f"{start}recurrent.{name}{weights.suffix(layer, 0)}"] = shape
            for k, feature in enumerate(self.series.features):
                if feature.categories is not None:
                    out[f"{start}embed.{k}"] = (len(feature.categories) + 1, feature.width)
            out |= {f"{start}{name}": shape for name, shape in self.decoder_shapes().items()}
        steps = (self.series.horizon, len(self.decoder.quantiles))
        for one in self.forecasters:
            if one.enough:
                out[f"calibration.{one.name}"] = steps
            out |= {f"baseline.{one.name}.{name}": shape for name, shape in one.arrays}
        kinds = {name: ("float32", shape) for name, shape in out.items()}
        if self.training.series:
            kinds["series.names"] = ("uint8", (self.training.name_bytes,))
            kinds["series.last"] = ("int64", (self.training.series,))
        return kinds

    def decoder_shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors of the decoder of one member."""
        K, Q, H, D = self.series.horizon, len(self.decoder.quantiles), self.network.hidden_size, self.decoder.width
        if self.decoder.kind == "direct":
            U = self.ahead
            return {
                "head.weight": (K * D, H + CONTEXT),
                "head.bias": (K * D,),
                "ahead.weight": (D, U),
                "out.weight": (Q, D),
                "out.bias": (Q,),
                "skip.weight": (1, U),
            }
        rows = {"linear": K * Q, "simulate": Q}.get(self.decoder.kind) or (2 if self.decoder.distribution != "student-t" else 3)
        skip = {"skip.weight": (1, self.of_target)} if self.decoder.kind == "recursive" else {}
        return {"head.weight": (rows, H), "head.bias": (rows,)} | skip


def upgrade(raw: dict[str, Any]) -> dict[str, Any]:
    """A header of any older version as one of the newest; what is no header of ours is left for the schema to refuse."""
    version = raw.get("version")
    older = type(version) is int and version in (1, 2, 3)  # True is not 1
    if not older or not all(isinstance(raw.get(part), dict) for part in ("series", "network", "head")):
        return raw
    series, network, head = ({**raw[part]} for part in ("series", "network", "head"))
    series.pop("seasonal_error", None)
    network.pop("input_size", None)
    floor = series.pop("scale", None)
    series["scale"] = {"anchor": "last", "share": 0.0, "floor": floor / 10 if isinstance(floor, float) else floor}
    rest = {name: part for name, part in raw.items() if name != "head"}
    return {**rest, "version": VERSION, "series": series, "network": network, "decoder": {"kind": "linear", **head}}
