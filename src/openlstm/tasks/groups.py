"""Which series are held out as a whole, so that a model can be scored on series it has never seen.

Legend: S series.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from openlstm.data.panel import Panel
from openlstm.errors import ArgumentError

SHARE = 5
"""Of so many groups one is held out."""


def held_out(panel: Panel, groups: str | Sequence[bool] | None, seed: int) -> np.ndarray:
    """Whether each series is held out, bool [S].

    Args:
        groups: a column that names a group of series, one of the ids or of the static columns: one in five of its groups, drawn
            with the seed, is held out, with all its series; or for each series whether it is; None for none.

    Raises:
        ArgumentError: if there is no such column, or none or all of the series would be held out.

    >>> from openlstm.model_file import Step
    >>> panel = Panel.of([[1.0]] * 3, "2001-01-01", Step(unit="month", count=1), ids=("basin",))
    >>> held_out(panel, "basin", 0).tolist()
    [False, False, True]
    """
    if groups is None:
        return np.zeros(len(panel), bool)
    if isinstance(groups, str):
        names = _names(panel, groups)
        each = np.unique(names)
        drawn = np.random.default_rng(seed).permutation(len(each))[: max(1, round(len(each) / SHARE))]
        held = np.isin(names, each[drawn])
        got = f"{len(each)} group{'s' * (len(each) != 1)} in the column {groups!r}"
    else:
        held = np.asarray(groups, bool)
        got = f"{int(held.sum())} of {len(held)} series"
        if held.shape != (len(panel),):
            what, hint = "groups does not fit the series", "give one bool for each series, or the name of a column"
            raise ArgumentError.of("fit", what, f"{held.size} values", f"{len(panel)}, one for each series", hint)
    if held.all() or not held.any():
        what, hint = "there is nothing to hold out and to train on", "give a column of at least two groups"
        raise ArgumentError.of("fit", what, got, "at least one series on either side", hint)
    return held


def _names(panel: Panel, column: str) -> np.ndarray:
    """The group of each series."""
    static = {c.name: c for c in panel.covariates if c.role == "static"}
    if column in panel.ids:
        return np.array([key[panel.ids.index(column)] for key in panel.keys])
    if column in static:
        return static[column].values
    expected = ", ".join((*panel.ids, *static)) or "a column of the ids, or a static one"
    raise ArgumentError.of("fit", "has no such column of groups", repr(column), expected, "name it under series or static")
