"""Splits by time: what is trained on, what chooses the weights, what is held out; never the other way round."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openlstm.data.series import Series, name_step
from openlstm.errors import DataError


@dataclass(frozen=True)
class Split:
    """Steps [0, train) are trained on, [train, known) choose the weights, [known, total) are held out."""

    train: int
    known: int
    total: int


def training_steps(known: int, horizon: int) -> int:
    """How many of the known steps are trained on: all but the last twelfth, or the last two horizons if that is more.

    >>> training_steps(1200, 10), training_steps(100, 10)
    (1100, 80)
    """
    return known - max(2 * horizon, known // 12)


def split_by_time(series: Series, *, window: int, horizon: int, holdout: int) -> Split:
    """Cut a series into training, validation and held-out parts, in the order of time.

    The validation part is the last twelfth of what is known, at least two horizons. Targets never reach over a cut.

    Raises:
        DataError: if the training part has no room for one window and one horizon, or no held-out value is known.
    """
    known = len(series) - holdout
    train = training_steps(known, horizon)
    if train < window + horizon or holdout < 0:
        need = holdout + max(2 * horizon, (window + horizon) // 11 + 1) + window + horizon
        raise DataError.of(
            f"column {series.name!r}",
            "the series is too short for this horizon",
            f"{name_step(series.step, len(series))}, {holdout} of them held out",
            f"at least {need}: window {window} + horizon {horizon} to train, {2 * horizon} to validate, {holdout} held out",
            "give a longer table, or a smaller --horizon, --window or --holdout",
        )
    if holdout and np.isnan(series.values[known:]).all():
        raise no_known_value(series, holdout)
    return Split(train, known, len(series))


def no_known_value(series: Series, steps: int) -> DataError:
    """The error for held-out steps that nothing can be scored on."""
    what, got = "no held-out value is known", f"{steps} steps, all missing"
    expected, hint = "at least one known value to score with", "give a table whose last rows hold measurements"
    return DataError.of(f"column {series.name!r}", what, got, expected, hint)
