"""`simulate`: the target of every step from the covariates of the same step and those before it, never from its own past.

    h_t = recurrent layers over what is known of the steps 1 .. t of a series, from zeros
    quantiles of y_t = center + deviation * decoder(h_t)

Legend: S series, T steps of one series, N steps of all series together, Q quantiles, H hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from openlstm.data.grid import show_times
from openlstm.data.panel import Panel
from openlstm.runtime.decoder import each_row, spread_out
from openlstm.runtime.prediction import Prediction
from openlstm.runtime.recursive import Member
from openlstm.runtime.window import embedded, rows

NUMBERS = 2**24
"""So many numbers go into the network at once, about."""


@dataclass(frozen=True)
class Simulation:
    """The quantiles of every step of a panel, one series after the other as in it.

    values: float64 [N, Q] in the unit of the target, rising along the last axis; also where the target is missing.
    warmup: so many steps of each series come before the network has read enough: it was not trained to be right there.
    """

    panel: Panel
    levels: tuple[float, ...]
    values: np.ndarray
    source: str
    warmup: int

    @property
    def median(self) -> np.ndarray:
        """float64 [N]."""
        return self.values[:, self.levels.index(0.5)]

    def columns(self) -> dict[str, np.ndarray]:
        """One array [N] for each column: the ids, the time, `forecast`, `lower_80`, `upper_80` and other quantiles."""
        panel = self.panel
        keys = tuple(panel.keys[s] for s in np.repeat(np.arange(len(panel)), panel.lengths))
        times = np.concatenate([panel.times(s) for s in range(len(panel))] or [np.zeros(0, "datetime64[us]")])
        flat = Prediction(
            panel.target, panel.time, panel.ids, keys, times[:, None], self.levels, self.values[:, None], self.source
        )
        return flat.columns()

    def rows(self) -> list[dict[str, Any]]:
        """One plain dict for each step of each series."""
        columns = {name: a.tolist() for name, a in self.columns().items()}
        columns[self.panel.time] = show_times(self.columns()[self.panel.time])
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def simulate(members: list[Member], panel: Panel) -> np.ndarray:
    """The quantiles of every step of a panel in the unit of the target, the mean of the members, float64 [N, Q].

    A series does not depend on the others, nor a step on what comes after it.

    Raises:
        DataError: if a covariate is missing where the model has never seen it missing.
    """
    header = members[0].header
    table = rows(header.series, panel, every=True)
    values = np.zeros((len(panel.values), len(header.decoder.quantiles)))
    longest = np.argsort(-panel.lengths, kind="stable")
    wide = max(header.inputs, header.network.hidden_size)
    while len(longest):
        each = max(1, NUMBERS // (wide * max(int(panel.lengths[longest[0]]), 1)))
        part, longest = longest[:each], longest[each:]
        steps = np.arange(int(panel.lengths[part[0]]))
        inside = steps < panel.lengths[part, None]  # [B, T]; behind its end a series is not read
        place = np.where(inside, table.begins[part, None] + steps, 0)
        found = np.mean([_quantiles(member, table.plain[place], table.codes[place]) for member in members], axis=0)
        values[(panel.offsets[part, None] + steps)[inside]] = found[inside]
    return header.series.scale.center + header.series.scale.floor * values


def _quantiles(member: Member, plain: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The quantiles of one network in spreads, float64 [B, T, Q]."""
    x = embedded(plain, codes, member.tables)
    y, _ = member.network.run(np.ascontiguousarray(x.swapaxes(0, 1)), backend=member.backend)  # [T, B, H]
    h = y.swapaxes(0, 1)
    out = each_row(h.reshape(-1, h.shape[-1]), member.weights["head.weight"]) + member.weights["head.bias"]
    middle = member.header.decoder.quantiles.index(0.5)
    return spread_out(out.reshape(*h.shape[:2], -1), np.zeros(h.shape[:2]), middle)
