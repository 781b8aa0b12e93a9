"""What a model keeps beside its network: baselines, bands that hold on validation windows, and the forecast that won there.

Legend: N validation windows, T steps of the past, K steps of the horizon, Q quantiles.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from openlstm.data.panel import Panel
from openlstm.model_file import Forecaster
from openlstm.runtime import calibrate
from openlstm.runtime.baselines import BY_NAME, Baseline, Setting, Unfit
from openlstm.runtime.model import Model
from openlstm.runtime.window import Rows
from openlstm.tasks.examples import Examples

PAST = 1024
"""So many steps of a past are given to a baseline on validation."""

SMALLEST_WEIGHT = 0.02

FEW = 10
"""With fewer validation windows side by side, baselines are also scored on earlier windows, and weights differ less."""


class Choice(NamedTuple):
    """What was kept.

    forecasters: the network first, then baselines, and last `best` if there are any.
    tensors: the corrections, and the arrays of the baselines.
    warnings: where bands may not hold, in words.
    left_out: which baselines could not be used, and why.
    """

    forecasters: tuple[Forecaster, ...]
    tensors: dict[str, np.ndarray]
    warnings: tuple[str, ...]
    left_out: dict[str, str]


def choose(model: Model, examples: Examples, panel: Panel, validation: np.ndarray, *, baselines: bool = True) -> Choice:
    """Score the network and the baselines on the validation windows, calibrate each, and weigh them.

    Args:
        model: a network that has not seen the validation part.
        examples: its windows.
        panel: all that is known.
        validation: int64 [S], how many of the last steps of each series the network has not seen.
    """
    setting, at, of = model.setting, examples.validation, examples.of
    kept, left_out = fit(panel, setting) if baselines else ({}, {})
    early, short = fit(panel.at(panel.history - validation), setting) if baselines and len(at) else (kept, {})
    left_out |= {name: f"without the validation part {why}" for name, why in short.items() if name in kept}
    kept = {name: one for name, one in kept.items() if name in early}
    tensors = {f"baseline.{n}.{name}": a.astype(np.float32) for n, b in kept.items() for name, a in b.arrays().items()}
    arrays = {n: tuple((name, a.shape) for name, a in b.arrays().items()) for n, b in kept.items()}
    if not len(at):
        none = Forecaster(name="network", weight=1.0)
        rest = tuple(Forecaster(name=n, arrays=arrays[n]) for n in kept)
        return Choice((none, *rest), tensors, ("no series is long enough for validation: bands are not calibrated",), left_out)
    truth = examples.rows.values[at[:, None] + np.arange(setting.horizon)]  # [N, K]
    found = {"network": model.run(examples.rows, at)}
    past = pasts(examples.rows, at, of)
    for name in kept:
        found[name] = calibrate.at_every_level(early[name].forecast(past, setting), model.levels)
    scale, middle = examples.spreads(at), model.levels.index(0.5)
    unit = examples.units[of][:, None]
    error = lambda values: float(np.nanmean(np.abs(values[..., middle] - truth) / unit))  # noqa: E731
    order = ["network", *kept]
    apart = int((validation // setting.horizon).sum())  # windows that share no target
    errors = {name: error(found[name]) for name in order}
    if apart < FEW:
        errors = _with_earlier(errors, early, examples, panel.history - validation, setting)
    weights = weigh(errors, 2 if apart < FEW else 6)
    out, warnings = [], []
    for name in order:
        correction = calibrate.correct(truth, found[name], scale, model.levels, windows=apart)
        found[name] = calibrate.apply(correction.shift, found[name], scale, model.levels)
        tensors[f"calibration.{name}"] = correction.shift.astype(np.float32)
        enough = correction.enough_for_all
        kept_arrays = arrays.get(name, ())
        out.append(
            Forecaster(name=name, weight=weights.get(name, 0.0), error=error(found[name]), enough=enough, arrays=kept_arrays)
        )
        if name == "network" and (warning := calibrate.warning(correction, model.levels)):
            warnings.append(warning)
    if len(order) > 1:
        mean = np.asarray(sum(weight * found[name] for name, weight in weights.items()))
        correction = calibrate.correct(truth, mean, scale, model.levels, windows=apart)
        tensors["calibration.best"] = correction.shift.astype(np.float32)
        enough = correction.enough_for_all
        out.append(Forecaster(name="best", error=error(mean), enough=enough))
    return Choice(tuple(out), tensors, tuple(warnings), left_out)


def _with_earlier(
    errors: dict[str, float], fitted: dict[str, Baseline], examples: Examples, cut: np.ndarray, setting: Setting
) -> dict[str, float]:
    """Errors over the validation windows and over earlier ones, from the first third of each series to its `cut` [S].

    The network has been trained on those: its error there is taken to be to the mean of the baselines what it is on validation.
    """
    begins, K = examples.rows.begins, setting.horizon
    at = [b + np.arange(max(c // 3, setting.period + 2), c - K + 1, max(1, K // 2)) for b, c in zip(begins, cut, strict=True)]
    of = np.repeat(np.arange(len(begins)), [len(a) for a in at])
    rows_at = np.concatenate([*at, np.zeros(0, np.int64)]).astype(np.int64)
    names = [name for name in errors if name in fitted]
    if not len(rows_at) or not names:
        return errors
    truth = examples.rows.values[rows_at[:, None] + np.arange(K)]
    unit, past = examples.units[of][:, None], pasts(examples.rows, rows_at, of)
    share = lambda e: float(np.nanmean(np.abs(e - truth) / unit))  # noqa: E731
    early = {name: share(fitted[name].forecast(past, setting)) for name in names}
    mean = lambda e: float(np.exp(np.mean([np.log(max(e[name], 1e-9)) for name in names])))  # noqa: E731
    early["network"] = errors["network"] * mean(early) / mean(errors)
    return {name: (e + early[name]) / 2 for name, e in errors.items() if name in early}


def fit(panel: Panel, setting: Setting) -> tuple[dict[str, Baseline], dict[str, str]]:
    """Every baseline fitted to the pasts of a panel, and why those that are left out are."""
    past, kept, left_out = panel.pasts(), {}, {}
    for name, kind in BY_NAME.items():
        try:
            kept[name] = kind.fit(past, setting)
        except Unfit as e:
            left_out[name] = str(e)
    return kept, left_out


def pasts(rows: Rows, at: np.ndarray, of: np.ndarray) -> np.ndarray:
    """The past before each row `at` [N] of the series `of` [N], the newest step last, float64 [N, T]; NaN before it begins."""
    begins = rows.begins[of]
    most = int(min((at - begins).max(initial=0), PAST))
    place = at[:, None] + np.arange(-most, 0)
    return np.where(place >= begins[:, None], rows.values[np.maximum(place, 0)], np.nan)


def weigh(errors: dict[str, float], power: int) -> dict[str, float]:
    """The weights of the mean that `best` is: error to the power of -`power`, and nothing below two percent.

    One that is far better than the others stands nearly alone; where the errors are close, it is a mean of many, which is the
    safer choice.

    >>> {name: round(w, 2) for name, w in weigh({"network": 1.0, "ets": 1.1, "naive": 3.0}, 6).items()}
    {'network': 0.64, 'ets': 0.36}
    """
    known = {name: max(e, 1e-9) for name, e in errors.items() if np.isfinite(e)} or {next(iter(errors)): 1.0}
    least = min(known.values())
    raw = {name: (e / least) ** -power for name, e in known.items()}
    kept = {name: w for name, w in raw.items() if w / sum(raw.values()) >= SMALLEST_WEIGHT}
    return {name: w / sum(kept.values()) for name, w in kept.items()}
