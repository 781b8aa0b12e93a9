"""Rolling origins: a model, its baselines and its rivals, scored on steps that the model has not seen; no torch.

Legend: S series, R forecast steps of all series and origins together, O origins, K steps of the horizon, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

import numpy as np

from openlstm.data.grid import name_step, show_time
from openlstm.data.panel import Panel
from openlstm.errors import ArgumentError, DataError
from openlstm.runtime.prediction import Prediction, bands
from openlstm.tasks import metrics
from openlstm.tasks.rivals import Late, rivals
from openlstm.tasks.scores import Evaluation as Evaluation
from openlstm.tasks.scores import Rows


class Forecasts(Protocol):
    """What can be evaluated: a model, with the baselines that stand in its file."""

    @property
    def name(self) -> str:
        """The candidate that is judged: "LSTM"."""
        ...

    @property
    def horizon(self) -> int:
        """K, the steps of one forecast."""
        ...

    @property
    def period(self) -> int:
        """The steps of a season; 1 without one."""
        ...

    @property
    def window(self) -> int:
        """The steps that it reads."""
        ...

    @property
    def levels(self) -> tuple[float, ...]:
        """The quantiles that it forecasts, rising, 0.5 among them."""
        ...

    def seen(self, panel: Panel) -> np.ndarray:
        """How many steps of each series it has seen in training, int64 [S]; 0 for a series that it does not know."""
        ...

    def candidates(self, panel: Panel) -> Mapping[str, Prediction]:
        """What every forecaster in it says follows the past of each series; `name` and perhaps "best" among them."""
        ...


class Progress(NamedTuple):
    """How far an evaluation is."""

    done: int  # forecasts, of which there is one for each origin
    total: int
    doing: str  # "LSTM and baselines", "AutoARIMA", ...


Ask = Callable[[Panel], Mapping[str, Prediction]]
"""What every forecaster says follows the past of each series of a panel."""
Over = Callable[[Ask, Iterator[Panel]], Iterable[Mapping[str, Prediction]]]


class Options(NamedTuple):
    """What is asked for, see `evaluate`."""

    origins: int | None
    spacing: int
    refit: Callable[[Panel], Forecasts] | None


def evaluate(
    model: Forecasts,
    panel: Panel,
    *,
    origins: int | None = None,
    spacing: int | None = None,
    refit: Callable[[Panel], Forecasts] | None = None,
    time_limit: float | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    over: Over = map,
) -> Evaluation:
    """Score a model, the baselines in its file, and rivals on every step that the model has not seen.

    Each forecast gets `panel.at(origin)`, in which what came later is NaN. A missing value counts in no score. The last
    forecast of a series may reach beyond its end; the steps there are left out. Where the panel has covariates known
    ahead, only origins are used for which they are given over the whole horizon.

    Args:
        panel: with the training steps in front; the scale of MASE is taken from what comes before the first origin.
        origins: so many of each series, the last ones, the last forecast ending with the series; all if None.
        spacing: steps from one origin to the next; the horizon if None.
        refit: fits a model anew at each origin, to nothing but the past there. With it and `origins`, origins may lie
            in what `model` has seen.
        time_limit: seconds for each rival: AutoARIMA (statsforecast) and gradient boosting (scikit-learn), where
            installed; None leaves them out.
        on_progress: called before each forecast.
        over: gives what a function makes of each panel, in their order, as `map` does; `tasks.partitions` has others, that
            ask the model and the baselines in other processes.

    Raises:
        ArgumentError: if a number is not above zero, or there are fewer origins than asked for.
        DataError: if the model has seen every step, or none of the others holds a known value.
    """
    for name, value in (("origins", origins), ("spacing", spacing), ("time_limit", time_limit)):
        if value is not None and not value > 0:
            hint = f"leave {name} out to take its default"
            raise ArgumentError.of("evaluate", f"{name} must be above zero", f"{name}={value!r}", "a number > 0", hint)
    histories = _histories(model, panel, Options(origins, spacing or model.horizon, refit))
    collected = _Collected(panel, histories, model.horizon)
    outside, missing = rivals(model, time_limit) if time_limit else ({}, {})
    collected.left_out |= missing
    total, done = len(histories) * (1 + len(outside)), 0

    def tell(doing: str) -> None:
        nonlocal done
        if on_progress:
            on_progress(Progress(done, total, doing))
        done += 1

    def panels() -> Iterator[Panel]:
        for number in range(len(histories)):
            tell(f"{model.name} and baselines")
            yield collected.known(number)

    def ask(known: Panel) -> Mapping[str, Prediction]:
        return (refit(known) if refit else model).candidates(known)

    for number, found in enumerate(over(ask, panels())):
        for name, prediction in found.items():
            collected.add(number, name, prediction)
    for name, rival in outside.items():
        for number in range(len(histories)):
            tell(name)
            try:
                collected.add(number, name, rival(collected.known(number)))
            except Late as late:
                collected.left_out[name] = str(late)
                break
    return collected.evaluation(model, tuple(outside), refit is not None)


class _Collected:
    """The forecasts as they come in, origin by origin."""

    def __init__(self, panel: Panel, histories: np.ndarray, horizon: int) -> None:
        self.panel, self.histories, self.horizon = panel, histories, horizon
        self.values: dict[str, list[np.ndarray]] = {}
        self.sources: dict[str, list[str]] = {}
        self.seconds: dict[str, float | None] = {}
        self.left_out: dict[str, str] = {}
        parts = [self._rows(number) for number in range(len(histories))]
        rows = Rows(*(np.concatenate(part) for part in zip(*parts, strict=True)))
        self.order = np.lexsort((rows.at, rows.origin, rows.series))
        self.rows = Rows(*(part[self.order] for part in rows))

    def _active(self, number: int) -> np.ndarray:
        return np.flatnonzero(self.histories[number] >= 0)

    def known(self, number: int) -> Panel:
        """What is known at an origin, of the series that have it."""
        active = self._active(number)
        return self.panel.only(active).at(self.histories[number, active])

    def _inside(self, number: int) -> np.ndarray:
        """Which steps of the forecasts lie inside their series, bool [S', K]."""
        active = self._active(number)
        room = self.panel.history[active] - self.histories[number, active]
        return np.arange(self.horizon) < room[:, None]

    def _rows(self, number: int) -> Rows:
        active, inside = self._active(number), self._inside(number)
        series, step = np.nonzero(inside)
        origin = self.histories[number, active][series]
        return Rows(active[series], origin + step, origin)

    def add(self, number: int, name: str, prediction: Prediction) -> None:
        """The forecasts of one forecaster at one origin."""
        self.values.setdefault(name, []).append(prediction.values[:, : self.horizon][self._inside(number)])
        self.sources.setdefault(name, []).append(prediction.source)
        before = self.seconds.get(name, 0.0)
        self.seconds[name] = None if before is None or prediction.seconds is None else before + prediction.seconds

    def evaluation(self, model: Forecasts, outside: tuple[str, ...], refitted: bool) -> Evaluation:
        """The scores of what has come in."""
        panel, rows, levels = self.panel, self.rows, tuple(model.levels)
        truth = panel.values[panel.offsets[rows.series] + rows.at]
        middle = levels.index(0.5)
        forecasts: dict[str, np.ndarray] = {}
        for name, parts in self.values.items():
            whole = np.concatenate(parts)
            if len(parts) < len(self.histories):
                self.left_out.setdefault(name, "it has no forecast at some of the origins")
            elif not np.isfinite(whole[:, middle]).all():
                self.left_out[name] = "its forecast is not finite"
            else:
                forecasts[name] = whole[self.order]
        firsts = np.where(self.histories >= 0, self.histories, panel.lengths).min(axis=0)
        pasts = panel.at(firsts).pasts()
        scales = metrics.seasonal_scale(pasts, model.period), metrics.seasonal_scale(pasts, model.period, power=2)
        known = np.bincount(rows.series[~np.isnan(truth)], minlength=len(panel)) > 0
        if model.name not in forecasts:
            reason = self.left_out.get(model.name, "it gave none")
            what, hint = f"{model.name} has no forecast to score: {reason}", "look for huge values in the data, or fit it again"
            raise DataError.of("evaluate", what, f"{len(rows.at)} steps", "a finite forecast of each", hint)
        by_series = {name: _by_series(rows.series, truth, f, levels, scales) for name, f in forecasts.items()}
        return Evaluation(
            panel,
            model.name,
            levels,
            self.horizon,
            self.histories,
            rows,
            truth,
            forecasts,
            by_series,
            {name: _source(self.sources[name]) for name in forecasts},
            {name: self.seconds[name] for name in forecasts},
            outside,
            self.left_out,
            tuple(panel.name(int(s)) for s in np.flatnonzero(known & ~np.isfinite(scales[0]))),
            tuple(panel.name(int(s)) for s in np.flatnonzero(~known)),
            refitted,
        )


def _source(said: list[str]) -> str:
    """Whose forecasts these are; a refitted "best" may be another one at each origin."""
    different = list(dict.fromkeys(said))
    return " / ".join(different) if len(different) < 3 else f"{len(different)} different ones"


def _by_series(
    series: np.ndarray, truth: np.ndarray, values: np.ndarray, levels: tuple[float, ...], scales: tuple[np.ndarray, np.ndarray]
) -> dict[str, np.ndarray]:
    """Every metric of one forecaster, float64 [S]: its rows side by side, NaN behind those of a shorter series."""
    count = len(scales[0])
    column = np.arange(len(series)) - np.searchsorted(series, series)
    wide = np.full((count, int(column.max()) + 1, len(levels) + 1), np.nan)
    wide[series, column] = np.column_stack([truth, values])
    y, quantiles = wide[..., 0], wide[..., 1:]
    median = quantiles[..., levels.index(0.5)]
    out = {
        "mase": metrics.mase(y, median, scales[0]),
        "rmsse": metrics.rmsse(y, median, scales[1]),
        "smape": metrics.smape(y, median),
        "crps": metrics.crps(y, quantiles, levels),
        "mae": metrics.mae(y, median),
        "rmse": metrics.rmse(y, median),
    }
    for share, low, high in bands(levels):
        out[f"coverage_{share}"] = metrics.coverage(y, quantiles[..., low], quantiles[..., high])
    return out


def _histories(model: Forecasts, panel: Panel, asked: Options) -> np.ndarray:
    """How much of each series each origin sees, int64 [O, S], -1 where a series has none; the last origins are in one row."""
    end, horizon = panel.history, model.horizon
    seen = np.asarray(model.seen(panel), dtype=np.int64)
    room = np.maximum(end - horizon, 1)  # a series that was not in training needs a past to be forecast from
    first = np.where(seen > 0, seen, np.minimum(model.window, room))
    if asked.refit is not None and asked.origins is not None:
        first = np.ones_like(first)
    ahead = any(c.role == "future" for c in panel.covariates)
    last = np.minimum(panel.lengths - horizon, end - 1) if ahead else end - 1
    if asked.origins is None:
        count = np.maximum((last - first) // asked.spacing + 1, 0)
    else:
        whole = (end - horizon - first) // asked.spacing + 1
        count = np.minimum(np.where(whole > 0, whole, first <= last), asked.origins)
        first = np.where(whole > 0, end - horizon - (count - 1) * asked.spacing, first)
    rounds = int(count.max(initial=0))
    if not rounds:
        raise _nothing_unseen(panel, seen, horizon)
    if asked.origins is not None and rounds < asked.origins:
        apart = name_step(panel.step, asked.spacing)
        got = f"{rounds} in what the model has not seen, {apart} apart"
        hint = f"take --origins {rounds}, fit with a longer --holdout, or fit anew at each origin with --refit"
        raise ArgumentError.of("evaluate", "there are fewer origins than asked for", got, f"{asked.origins}", hint)
    number = np.arange(rounds)[:, None] - (rounds - count)
    histories = np.where(number >= 0, first + number * asked.spacing, -1)
    histories = _with_known_window(panel, histories, model.window)
    begin = np.where(count > 0, first, end)
    if all(np.isnan(panel.past(s)[begin[s] :]).all() for s in range(len(panel))):
        steps = name_step(panel.step, int((end - begin).max()))
        what, got = "none of the held-out values is known", f"{steps} of missing values"
        hint = "give a table that goes further, or hold out more"
        raise DataError.of(f"column {panel.target!r}", what, got, "at least one value to compare a forecast with", hint)
    return histories


def _with_known_window(panel: Panel, histories: np.ndarray, window: int) -> np.ndarray:
    """Without the origins, -1, at which no value of a series is known in the window before: nothing can be forecast there."""
    known = np.concatenate([[0], np.cumsum(~np.isnan(panel.values))])
    end = panel.offsets[:-1] + np.maximum(histories, 0)
    some = known[end] > known[np.maximum(end - window, panel.offsets[:-1])]
    kept = np.where(some, histories, -1)
    return kept[(kept >= 0).any(axis=1)] if (kept >= 0).any() else histories


def _nothing_unseen(panel: Panel, seen: np.ndarray, horizon: int) -> DataError:
    who = f"column {panel.target!r}"
    newest = int(np.argmax([panel.times(s)[n - 1] if n else np.datetime64(0, "us") for s, n in enumerate(panel.history)]))
    last = show_time(panel.times(newest)[panel.history[newest] - 1])
    if (seen < panel.history).any():
        what = "the covariates known ahead do not reach over one forecast of what the model has not seen"
        got, expected = f"rows up to {last}", f"{name_step(panel.step, horizon)} behind what the model has seen"
        return DataError.of(who, what, got, expected, "give a table that goes further, or hold out more")
    what, got = "there is nothing to evaluate on: the model has seen every row", f"rows up to {last}"
    return DataError.of(who, what, got, "rows after that", "fit with --holdout, or evaluate on a table that goes further")
