"""The header of a model file: everything it says beside its tensors, in a closed and versioned schema.

Legend: I input size, H hidden size, L layers, G gates of a cell.
"""

from __future__ import annotations

import math
import re
from dataclasses import fields, replace
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from openlstm import cells, weights

VERSION = 3
"""The newest version of the header that this library reads and the one it writes.

2 brought cells beside the first three, 3 the way the weights began. A file of version 1 is one of version 2 whose cell has no
options, and one of version 2 is one of version 3 that began as torch does.
"""

MOST = 2**27
"""So many numbers a file holds at most, in all its tensors: 512 MiB."""


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
Time = Annotated[str, AfterValidator(_a_time)]
Size = Annotated[float, AfterValidator(_a_size)]  # in the unit of the target, whose values are within 1e100
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


class Series(_Part):
    """What the model was trained on, and how its numbers are scaled.

    The values of a window enter as (y - its last known value) / max(its standard deviation, scale / 10), where `scale` is the
    mean standard deviation of the training windows, in the unit of the target.
    """

    time: Name
    target: Name
    step: Step
    period: int = Field(ge=1, le=10**6)  # steps in a season
    window: int = Field(ge=1, le=10**8)  # steps the network reads
    horizon: int = Field(ge=1, le=10**8)  # steps it forecasts
    scale: Size
    seasonal_error: Size | None  # mean |y_t - y_(t-period)| of the rows it has seen: the unit of MASE

    @model_validator(mode="after")
    def _possible(self) -> Series:
        if self.horizon * self.step.years() > 5000:
            raise ValueError("the horizon is longer than 5000 years")
        return self


class Network(_Part):
    """`members` recurrent networks of equal shape, whose outputs are averaged."""

    cell: str  # a key of cells.BY_NAME
    clip: float | None = Field(default=None, gt=0)  # the cell state is kept within -clip..clip
    cells_per_gate: int = Field(default=1, ge=1, le=2**16)  # so many neighbouring cells share their gates
    input_size: Literal[2]  # the value, and whether it is missing
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
        if self.members * self.num_layers > 1000:
            raise ValueError("more than 1000 layers in all members together")
        return self

    def recurrence(self) -> cells.Cell:
        """The cell with its options."""
        return replace(cells.BY_NAME[self.cell], **self._options())  # type: ignore[type-var]

    def _options(self) -> dict[str, Any]:
        """Those that are not the defaults."""
        options = {"clip": self.clip, "cells_per_gate": self.cells_per_gate}
        return {name: value for name, value in options.items() if value != type(self).model_fields[name].default}


class Head(_Part):
    """A linear map from the last h [H] to horizon x quantiles numbers."""

    quantiles: tuple[float, ...] = Field(min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _ordered(self) -> Head:
        inside = all(0 < q < 1 for q in self.quantiles)
        if not inside or list(self.quantiles) != sorted(set(self.quantiles)) or 0.5 not in self.quantiles:
            raise ValueError("quantiles must rise strictly inside (0, 1) and hold 0.5")
        return self


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


class Header(_Part):
    """Everything a model file says beside its tensors."""

    version: Literal[1, 2, 3] = VERSION
    library: Name
    task: Literal["forecast"]
    series: Series
    network: Network
    head: Head
    training: Training
    checksum: str = Field(default="", max_length=64)

    @model_validator(mode="after")
    def _possible(self) -> Header:
        if sum(math.prod(shape) for shape in self.tensors().values()) > MOST:
            raise ValueError(f"more than {MOST} numbers in all tensors together")
        return self

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every float32 tensor that belongs to this header.

        `member.0.recurrent.weight_ih_l0` [G*H, I], ..., `member.0.head.weight` [horizon*quantiles, H], `member.0.head.bias`.
        """
        net = self.network
        out: dict[str, tuple[int, ...]] = {}
        for member in range(net.members):
            for layer in range(net.num_layers):
                size = net.hidden_size if layer else net.input_size
                for name, shape in weights.shapes(net.recurrence(), size, net.hidden_size).items():
                    out[f"member.{member}.recurrent.{name}{weights.suffix(layer, 0)}"] = shape
            rows = self.series.horizon * len(self.head.quantiles)
            out[f"member.{member}.head.weight"] = (rows, net.hidden_size)
            out[f"member.{member}.head.bias"] = (rows,)
        return out
