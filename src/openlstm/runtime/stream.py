"""One value at a time: the window of a forecaster, and the forecast after each new value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from openlstm._array import Array
from openlstm.errors import DataError, ShapeError, describe
from openlstm.runtime.window import LARGEST

if TYPE_CHECKING:
    from openlstm.runtime.model import Forecast, Model


class Stream:
    """The past of one series, as far as the model reads it.

    The inputs of a forecaster are measured from the last known value, so every new value changes all of them: the window is
    run again, and `push` gives the same bits as `Model.predict` on the same values. (`Network.run` carries a state from step
    to step, for models whose inputs stay as they are.)

    Nothing else is kept: `values` is the whole state, and `model.stream(stream.values)` takes it up again.
    """

    def __init__(self, model: Model, values: Array | None = None) -> None:
        self._model = model
        seen = np.asarray([] if values is None else values, dtype=np.float64)
        if seen.ndim != 1:
            what, got = "values has the wrong number of axes", f"values: {describe(seen)}"
            expected, hint = "[T]", "one stream per series"
            raise ShapeError.of("Model.stream", what, got, expected, hint)
        if (beyond := np.flatnonzero(np.abs(seen) > LARGEST)).size:
            raise _beyond("Model.stream", f"values[{beyond[0]}]", float(seen[beyond[0]]))
        self._values = seen[-model.window :].copy()

    @property
    def values(self) -> np.ndarray:
        """The values seen so far, at most `window` of them, float64 [<= W], NaN where missing."""
        return self._values.copy()

    def push(self, value: float) -> Forecast | None:
        """Take the next value (NaN if it is missing) and forecast what follows; None until the window is full.

        Raises:
            DataError: if the value is beyond 1e100, or no value of the window is known; the stream stays as it was.
        """
        if abs(value) > LARGEST:
            raise _beyond("Stream.push", "the value", float(value))
        values = np.append(self._values, float(value))[-self._model.window :]
        forecast = self._model.predict(values) if len(values) == self._model.window else None
        self._values = values
        return forecast


def _beyond(who: str, what: str, value: float) -> DataError:
    return DataError.of(
        who,
        f"{what} is infinite or too large",
        repr(value),
        f"a number of at most {LARGEST:g} in size, NaN where missing",
        "replace it, pass NaN, or take another unit",
    )
