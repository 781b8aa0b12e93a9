"""A forecaster like one that was saved, and what it takes to train on with its weights.

Legend: S series.
"""

from __future__ import annotations

import copy
import inspect
import json
import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from openlstm.data import Format
from openlstm.data.panel import Panel
from openlstm.errors import ArgumentError
from openlstm.model_file import Header
from openlstm.runtime.model import Model, load
from openlstm.tasks.choice import Choice
from openlstm.tasks.outline import last_times
from openlstm.tasks.recipe import Recipe

FREE = ("steps", "batch_size", "learning_rate", "weight_decay", "seed", "baselines", "init")
"""What may differ from the model that is trained on with."""


def arguments(header: Header) -> dict[str, Any]:
    """The arguments of `Forecaster` that made a model, but for the columns."""
    series, shape, training = header.series, header.network, header.training
    return {
        "horizon": series.horizon,
        "period": series.period,
        "window": series.window,
        "cell": shape.cell,
        "hidden_size": shape.hidden_size,
        "num_layers": shape.num_layers,
        "members": shape.members,
        "decoder": "direct" if header.decoder.kind == "linear" else header.decoder.kind,
        "distribution": header.decoder.distribution,
        "paths": header.decoder.paths or 200,
        "warmup": header.decoder.warmup,
        "quantiles": header.decoder.quantiles,
        "baselines": len(header.forecasters) > 1,
        "init": training.init,
        "batch_size": training.batch_size,
        "learning_rate": training.learning_rate,
        "weight_decay": training.weight_decay,
        "seed": training.seed,
    }


@dataclass(frozen=True)
class Start:
    """The model that is trained on with, and its path."""

    path: str
    model: Model

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Start:
        """Read it."""
        return cls(str(path), load(path))

    def asked(self, forecaster: Any) -> Any:
        """The forecaster with the sizes of the model.

        Raises:
            ArgumentError: if it was given others.
        """
        out = copy.copy(forecaster)
        defaults = inspect.signature(type(forecaster)).parameters
        for name, value in arguments(self.model.header).items():
            given = getattr(forecaster, name)
            if name not in FREE and given not in (defaults[name].default, value):
                what, got = f"{name} is not that of the model that is trained on with", f"{name}={given!r}"
                hint = f"leave {name} out, or begin a new model without init_model (--continue)"
                raise ArgumentError.of(self.path, what, got, f"{value!r}", hint)
            if name not in FREE or (name in ("batch_size", "learning_rate") and given is None):
                setattr(out, name, value)
        return out

    def read(self, data: Any, form: Format, future_data: Any, time: str | None, target: str | None) -> Panel:
        """A table as the model reads it, where it is written in another way as `form` says."""
        if isinstance(data, Panel):
            return data
        told = {name: value for name, value in vars(form).items() if value is not None}
        return self.model.panel(data, future_data=future_data, options={**told, "time": time, "target": target})

    def header(self, made: Header) -> Header:
        """The header of the new model: columns, scales, network and decoder of the old one."""
        old = self.model.header
        first = min(old.training.first, made.training.first)
        training = made.training.changed(first=first, last=max(old.training.last, made.training.last))
        positive = old.series.positive and made.series.positive
        series = old.series.changed(positive=positive)
        return made.changed(series=series, network=old.network, decoder=old.decoder, training=training)

    def unseen(self, known: Panel, made: Recipe) -> Recipe:
        """The recipe with no more validation than the model has not seen."""
        new = known.history - self.model.seen(known)
        return replace(made, validation=np.where(new >= self.model.horizon, np.minimum(made.validation, new), 0))

    def tell(self, known: Panel) -> str:
        """What is new, in words."""
        seen = self.model.seen(known)
        new, unknown = int((known.history - seen).sum()), int((seen == 0).sum())
        return f"trains on with {self.path}, which has not seen {new:,} of the steps and {unknown:,} of the series"

    def choice(self) -> Choice:
        """Baselines, bands and weights of the model, for data of which it has seen every step."""
        kept = {n: a for n, a in self.model.tensors.items() if n.startswith(("calibration.", "baseline."))}
        text = f"every step was seen by {self.path}: bands and weights are those of it"
        return Choice(self.model.header.forecasters, kept, (text,), {})


def seen_tensors(known: Panel, start: Start | None) -> dict[str, np.ndarray]:
    """The names of the series that were trained on, and the last step of each: `series.names` and `series.last`."""
    last = dict(zip(known.keys, last_times(known).tolist(), strict=True))
    if start is not None and start.model.header.training.series:
        names = [tuple(key) for key in json.loads(start.model.tensors["series.names"].tobytes())]
        for key, time in zip(names, start.model.tensors["series.last"].tolist(), strict=True):
            last[key] = max(last.get(key, time), time)
    names_ = json.dumps(list(last), ensure_ascii=False).encode()
    return {"series.names": np.frombuffer(names_, np.uint8), "series.last": np.array(list(last.values()), dtype=np.int64)}
