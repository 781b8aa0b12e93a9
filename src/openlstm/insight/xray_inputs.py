"""What `xray` is given, before anything is measured: checked, thinned out, and what is known of it.

Legend: T time, B batch, D size of a target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from openlstm.errors import ArgumentError, DtypeError, describe
from openlstm.insight.batches import Layout, expect_module, parts_of
from openlstm.insight.place import Place
from openlstm.insight.report import ModelFacts
from openlstm.nn.batch import RECURRENT, Loss, leaves, mapped

ROWS = 256  # most rows of the data that are looked at
STEPS = 1 << 18  # most steps of all rows together

Columns = Mapping[str, Any]


def check(model: Any, data: Any, lag: Any) -> None:
    """Raise for what cannot be looked at.

    Raises:
        DtypeError: if `model` is no module.
        ArgumentError: for a lag that is no whole number of steps, or empty data.
    """
    expect_module(model, "xray", "pass the model or the layer; a model file: `openlstm xray FILE`")
    if lag is not None and (isinstance(lag, bool) or not isinstance(lag, int) or lag < 1):
        hint = "count the steps between what has to be remembered and the answer"
        raise ArgumentError.of("xray", "the lag is no whole number of steps", f"lag={lag!r}", "lag >= 1", hint)
    parts = leaves(data)
    if not parts or any(isinstance(a, Tensor) and 0 in a.shape for a in parts):
        got = ", ".join(str(list(a.shape)) for a in parts if hasattr(a, "shape")) or "nothing"
        raise ArgumentError.of("xray", "the data are empty", got, "at least one row and one step", "pass a batch")


def thinned(model: nn.Module, data: Any, columns: Columns | None) -> tuple[Any, Columns | None, list[int] | None, str]:
    """A batch of at most ROWS rows, spread evenly, where it is plain which axis the rows are on: data, columns, which rows were
    taken (None for all), and a note that says so.
    """
    columns = None if columns is None else {name: _as_tensor(name, a) for name, a in columns.items()}
    parts = leaves(data)
    firsts = {bool(m.batch_first) for m in model.modules() if isinstance(m, RECURRENT)}
    x = parts[0]
    alone = not isinstance(x, Tensor) or x.dim() < 2 or (x.dim() == 2 and isinstance(model, RECURRENT))
    if alone or not all(isinstance(a, Tensor) for a in parts) or len(firsts) != 1:
        return data, columns, None, ""
    time = 1 if firsts.pop() else 0
    layout = Layout(x.shape[1 - time], x.shape[time], time)
    most = max(2, min(ROWS, STEPS // max(layout.steps, 1)))
    if layout.rows <= most:
        return data, columns, None, ""
    kept = np.unique(np.linspace(0, layout.rows - 1, most).round().astype(np.int64)).tolist()
    fewer = None if columns is None else {name: layout.pick(a, kept) for name, a in columns.items()}
    note = f"{len(kept):,} of {layout.rows:,} rows were looked at, spread evenly."
    return mapped(data, lambda a: layout.pick(a, kept)), fewer, kept, note


def _as_tensor(name: str, column: Any) -> Tensor:
    try:
        return torch.as_tensor(np.asarray(column))
    except (TypeError, ValueError):
        got, hint = f"{name}: {describe(column)}", "turn words into numbers first"
        raise DtypeError.of("xray", f"column {name!r} holds no numbers", got, "numbers [T, B]", hint) from None


def facts(model: nn.Module, name: str | None, places: Sequence[Place]) -> ModelFacts:
    """What was looked at, for the head of the report."""
    count = sum(p.numel() for p in model.parameters())
    shapes = dict.fromkeys(f"{p.steps:,} steps × {p.rows:,} rows" for p in places)
    layers = ", ".join(p.title.replace("()", "") for p in places)
    return ModelFacts(name or type(model).__name__, layers, f"{count:,}", "; ".join(shapes))


def target_of(data: Any, loss: Loss | None, place: Place) -> Tensor | None:
    """What is to be learnt, [B, D] or [T, B, ..]: the last of the data, where it has a row for each sequence and no gaps."""
    parts = parts_of(data)
    if loss is None or len(parts) < 2 or not isinstance(parts[-1], Tensor):
        return None
    y, (T, B) = parts[-1], (place.steps, place.rows)
    if y.is_floating_point() and not bool(y.isfinite().all()):
        return None
    if y.shape[:2] == (B, T) and T != B:
        return y.transpose(0, 1)
    if y.shape[:1] == (B,) or y.shape[:2] == (T, B):
        return y if y.dim() <= 2 or y.shape[:2] == (T, B) else y.flatten(1)
    return None


def feeds_back(data: Any, loss: Loss | None, outputs: Any) -> bool:
    """Whether what the model gives, or is to give, has the form of its input at every step."""
    parts: Any = parts_of(data)
    given = parts[-1] if loss is not None and len(parts) > 1 else outputs[0] if isinstance(outputs, tuple) else outputs
    x = parts[0]
    return isinstance(x, Tensor) and isinstance(given, Tensor) and x.dim() > 1 and x.shape == given.shape


def first_rows(parts: tuple[Any, ...], place: Place, rows: int) -> tuple[Any, ...]:
    """A few rows of the inputs, where it is plain which axis rows are on."""
    found = leaves(parts)
    if place.rows <= rows or not all(isinstance(a, (Tensor, PackedSequence)) for a in found):
        return parts
    time = next((k for k in (0, 1) if any(Layout(place.rows, place.steps, k).timed(a) for a in found)), 0)
    return mapped(parts, lambda a: Layout(place.rows, place.steps, time).pick(a, range(rows)))


def row_ends(x: tuple[Any, ...], place: Place) -> Tensor | None:
    """Where the rows of the inputs end, as far as the layer was told: its steps have to be theirs."""
    if place.lengths is None:
        return None
    given = [a for a in leaves(x) if isinstance(a, Tensor)]
    told = any(a.shape == place.lengths.shape and bool((a == place.lengths.to(a.device)).all()) for a in given)
    return place.lengths if told or any(place.steps in a.shape[:2] for a in given) else None


def steps_first(place: Place, columns: Columns) -> dict[str, Tensor]:
    """Columns as a place has its steps: [T, B]."""
    turned = place.module.batch_first
    shape = (place.rows, place.steps)
    return {name: a.transpose(0, 1) if turned and tuple(a.shape[:2]) == shape else a for name, a in columns.items()}
