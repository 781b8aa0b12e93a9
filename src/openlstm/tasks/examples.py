"""The windows of a panel as examples to train on, to validate with and to look at.

Legend: S series, N windows, W steps of a window, K steps of the horizon.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from openlstm.data.panel import Panel
from openlstm.errors import DataError
from openlstm.model_file import Header
from openlstm.model_file.header import COUNTS
from openlstm.runtime.recursive import Sequence, check_counts, sequence
from openlstm.runtime.window import Rows, measure, rows, windows
from openlstm.tasks.network import arguments
from openlstm.train.source import Computed, Source

MOST_VALIDATION = 2048
"""So many validation windows are looked at after each epoch, evenly thinned out."""


class Examples:
    """Windows of a panel of which the last `validation` [S] known steps of each series are not trained on.

    A batch holds series in equal shares, of each a window that ends anywhere in its training part; so a long series does not
    drown the short ones. Each window counts by the root of its spread over the mean seasonal change of its series: MASE would
    count it by the whole of that, and then a few series decide.

    train: int64, the numbers of the series that can be trained on. validation: int64 [N], rows of the first target; where the
        targets are those of the window (`simulate`), the rows behind it.
    """

    def __init__(self, header: Header, panel: Panel, validation: np.ndarray, units: np.ndarray) -> None:
        self.header, self.rows, self.units = header, table_of(header, panel), units
        series, known = header.series, _known(self.rows.values)
        begins, ends = self.rows.begins, self.rows.begins + panel.history
        self.cut = cut = ends - validation
        self.origins = [
            _origins(known, begin, stop, least(panel.history[s], header), header)
            for s, (begin, stop) in enumerate(zip(begins, cut, strict=True))
        ]
        targets = 0 if header.decoder.warmup is None else series.window - header.decoder.warmup  # of a window itself
        late = [
            _origins(known, begin, end, stop - begin + targets, header)
            for begin, stop, end in zip(begins, cut, ends, strict=True)
            if stop < end
        ]
        at = np.concatenate([*late, np.zeros(0, np.int64)])
        self.of = np.searchsorted(begins, at, side="right") - 1  # the series of each validation window
        most = MOST_VALIDATION // (1 if header.decoder.kind == "direct" else 8)  # the others cost more
        chosen = np.unique(np.linspace(0, len(at) - 1, min(len(at), most)).round().astype(int)) if len(at) else at
        self.validation, self.of = at[chosen], self.of[chosen]
        self.train = np.array([s for s, found in enumerate(self.origins) if len(found)], dtype=np.int64)
        if not len(self.train):
            need = (header.decoder.warmup or least(0, header)) + series.horizon
            what, got = (
                "no window holds a known value and a known target",
                f"{int(panel.history.max(initial=0))} known steps at most",
            )
            expected = (
                f"a series of at least {need} known steps behind which {int(validation.max(initial=0))} remain to validate"
            )
            smaller = "horizon" if header.decoder.warmup is None else "warmup"
            raise DataError.of("fit", what, got, expected, f"give longer series, or a smaller {smaller}")

    def learning(self) -> Source:
        """The series that can be trained on; a batch takes of each a window that ends anywhere in its training part."""

        def batch(rows: Tensor, draw: np.ndarray | None) -> list[Tensor]:
            assert draw is not None
            of = self.train[rows.numpy()]
            own = [self.origins[s] for s in of]
            return self._batch(np.array([o[int(u * len(o))] for o, u in zip(own, draw, strict=True)]), of, None)

        return Computed(len(self.train), batch)

    def validating(self) -> Source:
        """The validation windows."""

        def batch(rows: Tensor, draw: np.ndarray | None) -> list[Tensor]:
            at, of = self.validation[rows.numpy()], self.of[rows.numpy()]
            return self._batch(at, of, at - self.cut[of])

        return Computed(len(self.validation), batch)

    def _batch(self, at: np.ndarray, of: np.ndarray, new: np.ndarray | None) -> list[Tensor]:
        """What `network.weighted_error` takes of the windows before the rows `at` [N] of the series `of` [N]."""
        given, y, spread = batch(self.header, self.rows, at, new)
        return [*given, y, torch.from_numpy(np.sqrt((spread / self.units[of]).clip(0.02, 20))).float()[:, None]]

    def spreads(self, at: np.ndarray) -> np.ndarray:
        """The spread of the window before each of the rows `at` [N], float64 [N]."""
        series = self.header.series
        return measure(self.rows.values[at[:, None] + np.arange(-series.window, 0)], series.scale, series.period)[1]


def table_of(header: Header, panel: Panel) -> Rows:
    """The rows of a panel as its decoder reads them."""
    if header.decoder.distribution == COUNTS:
        check_counts(panel)
    return rows(header.series, panel, every=header.decoder.kind == "simulate", ahead=False)


def least(history: int, header: Header) -> int:
    """How many steps of a series a window has to hold at least: a season and two, or a whole window of an old model."""
    series = header.series
    return series.window if series.scale.anchor == "last" else max(min(series.period, series.window) + 2, 3)


def batch(
    header: Header, table: Rows, at: np.ndarray, new: np.ndarray | None = None
) -> tuple[tuple[Tensor, ...], Tensor, np.ndarray]:
    """Windows before the rows `at` [N]: the network's arguments, its targets, and the spreads [N].

    The targets are NaN where they do not count: those of the horizon [N, K] in spreads; of the recursive decoder those of the
    window and the horizon [N, W + K], in counts where it is one of counts, of which the second half of the window counts
    where it learns; of the simulating one those of the window [N, W] behind the warm-up.

    Args:
        new: int64 [N], for validation: so many of the last steps of each window were not trained on. None where it learns.
    """
    series, decoder = header.series, header.decoder
    if decoder.kind == "recursive":
        steps = sequence(series, table, at, series.horizon)
        truth = table.values[at[:, None] + np.arange(-series.window, series.horizon)]
        y = truth if decoder.distribution == COUNTS else (truth - steps.anchor[:, None]) / steps.spread[:, None]
        y[:, : series.window // 2 if new is None else series.window] = np.nan
        return arguments(header, steps), torch.from_numpy(y).float(), steps.spread
    if decoder.kind == "simulate":
        place = at[:, None] + np.arange(-series.window, 0)
        center, spread = np.full(len(at), series.scale.center), np.full(len(at), series.scale.floor)
        y = (table.values[place] - series.scale.center) / series.scale.floor
        y[:, : decoder.warmup] = np.nan
        if new is not None:
            y[np.arange(-series.window, 0) < -new[:, None]] = np.nan
        given = arguments(header, Sequence(table.plain[place], table.codes[place], center, spread))
        return given, torch.from_numpy(y).float(), spread
    seen = windows(series, table, at)
    truth = table.values[at[:, None] + np.arange(series.horizon)]
    y = torch.from_numpy((truth - seen.anchor[:, None]) / seen.spread[:, None]).float()
    return arguments(header, seen), y, seen.spread


def example_windows(header: Header, panel: Panel, most: int = 256) -> tuple[Tensor, ...]:
    """Windows of a panel as the network sees them, and targets [N, K] as its loss does, NaN where missing.

    At most `most` of them, spread evenly over the series.

    Raises:
        DataError: if there is no window that holds a known value and a known target.
    """
    table = table_of(header, panel)
    known = _known(table.values)
    ends = table.begins + panel.history
    at = np.concatenate(
        [_origins(known, b, e, least(0, header), header) for b, e in zip(table.begins, ends, strict=True)] or [np.zeros(0, int)]
    )
    if not len(at):
        what, got = (
            "no window holds a known value and a known target",
            f"{int(panel.history.max(initial=0))} known steps at most",
        )
        expected = f"at least {least(0, header) + header.series.horizon}"
        raise DataError.of(f"column {panel.target!r}", what, got, expected, "give longer series")
    at = at[np.unique(np.linspace(0, len(at) - 1, min(len(at), most)).round().astype(int))]
    given, y, _ = batch(header, table, at)
    return *given, y


def _known(values: np.ndarray) -> np.ndarray:
    """How many values are known before each row, int64 [M + 1]."""
    return np.concatenate([[0], np.cumsum(~np.isnan(values))])


def _origins(known: np.ndarray, begin: int, end: int, least: int, header: Header) -> np.ndarray:
    """Every row that is the first target of a window: so many steps of the series before it, all targets before `end`, and a
    known value on either side.

    A series too short for that gives the last origin it has, with as many steps before it as there are.
    """
    K, W = header.series.horizon, header.series.window
    if header.decoder.warmup is not None:  # the row behind the last step of a window, all of which is inside the series
        at = np.arange(min(begin + max(W, least), end), end + 1)
        return at[known[at] > known[np.maximum(at - W + header.decoder.warmup, begin)]]
    at = np.arange(begin + least, end - K + 1)
    at = at if len(at) or header.series.scale.anchor == "last" else np.arange(max(begin + 2, end - K), end - K + 1)
    return at[(known[at] > known[np.maximum(at - W, begin)]) & (known[at + K] > known[at])]
