"""Where the first NaN or infinity is: in a weight, an input, a gate, a state or a gradient, by layer, step, row and unit.

Legend: T time, B batch, n steps of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from openlstm.insight.place import Place
from openlstm.reference import Saved


def first_non_finite(place: Place) -> str | None:
    """Where the first NaN or infinity of a forward pass is: "lstm.0: gate o is nan at step 413, row 3, unit 7"; None if all
    is finite. A weight is named as such.
    """
    found = bad_weight(place)
    chunks = iter(place.forwards())
    while found is None and (part := next(chunks, None)) is not None:
        found = bad_chunk(place, part.t0, part.saved)
    return found


def bad_chunk(place: Place, t0: int, saved: Saved) -> str | None:
    """The first NaN or infinity of what a chunk saved, in the order in which it ran."""
    if all(bool(a.isfinite().all()) for a in (saved.gates, saved.c, saved.h) if a is not None):
        return None
    named = {f"gate {name}" if name in place.gates else name: a for name, a in saved.named(place.cell).items()}
    return bad_step(place, t0, named, place.ran(len(saved.h)))


def bad_step(place: Place, t0: int, named: Mapping[str, Any], order: Iterable[int]) -> str | None:
    """The first NaN or infinity of arrays of a chunk [n, B, ..], by name (None is none), in an order of steps."""
    bad = {name: ~a.isfinite().flatten(1).all(1) for name, a in named.items() if a is not None}  # [n] each
    for t in order:
        for name in (name for name, b in bad.items() if b[t]):
            row, unit = (~named[name][t].isfinite()).nonzero()[0].tolist()
            return f"{place.name}: {name} is {float(named[name][t, row, unit])} at step {t0 + t}, row {row}, unit {unit}"
    return None


def bad_weight(place: Place) -> str | None:
    """The first entry of a weight that is not finite, and of which gate it is."""
    for name, w in place.weights._asdict().items():
        if w is None or bool(w.isfinite().all()):
            continue
        at = (~w.isfinite()).nonzero()[0].tolist()
        gates = place.cell.peepholes if name == "w_ch" else () if name == "w_hr" else place.cell.gates
        if place.cell.cells_per_gate > 1:
            gates = ()  # blocks of other sizes
        gate = f", gate {gates[at[0] * len(gates) // w.shape[0]]}" if gates else ""
        own = name.replace("w_", "weight_").replace("b_", "bias_") + f"_l{place.index}{'_reverse' if place.reverse else ''}"
        return f"{place.name}: {own} holds {float(w[tuple(at)])} at {at}{gate}"
    return None


def bad_input(place: Place) -> str | None:
    """The first input of a step that is not finite; padding may hold anything."""
    bad = ~place.x.isfinite()
    if place.lengths is not None:
        bad &= (torch.arange(place.steps, device=bad.device)[:, None] < place.lengths)[..., None]
    if not bool(bad.any()):
        return None
    t, b, n = bad.nonzero()[0].tolist()
    return f"{place.name}: input {n} is {float(place.x[t, b, n])} at step {t}, row {b}"
