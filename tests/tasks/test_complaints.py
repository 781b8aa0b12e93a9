"""What users of other forecasting packages complained of, each under the name of its report: none of it happens here.

NF neuralforecast, GT gluonts, PTF pytorch-forecasting, DA darts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from openlstm import Forecaster
from openlstm.data import Covariate, Panel
from openlstm.errors import DataError
from openlstm.model_file import Step

DAY = Step(unit="second", count=86400)
SMALL: dict[str, Any] = {"members": 1, "hidden_size": 4, "steps": 20, "batch_size": 16, "baselines": False}
LEARNED: dict[str, Any] = {"members": 1, "hidden_size": 24, "steps": 400, "learning_rate": 0.01, "baselines": False}


def panel(*series: Any) -> Panel:
    return Panel.of([np.asarray(s, float) for s in series], "2001-01-01", DAY, target="y")


@pytest.fixture(scope="module")
def pulses() -> tuple[Panel, Forecaster]:
    """A pulse every seventh day, and a forecaster that has learned it."""
    values = np.where(np.arange(210) % 7 == 3, 10.0, 0.0) + 0.1 * np.random.default_rng(0).standard_normal(210)
    return panel(values), Forecaster(7, **LEARNED).fit(panel(values), quiet=True)


def test_nf_727_a_forecast_is_not_shifted_in_time(pulses: tuple[Panel, Forecaster]) -> None:
    """The pulse stands on its day, at every origin of a week."""
    known, forecaster = pulses
    for history in range(190, 197):
        found = forecaster.model_.predict(known.at(np.array([history])))
        day = int(np.argmax(found.median[0]))
        assert (history + day) % 7 == 3
        assert found.times[0, day] == known.times(0)[0] + np.timedelta64(history + day, "D")


def test_nf_1285_the_latest_value_is_read(pulses: tuple[Panel, Forecaster]) -> None:
    """Another last known value gives another forecast; another value behind the origin does not."""
    known, forecaster = pulses
    for step, differs in ((199, True), (200, False)):
        values = known.values.copy()
        values[step] += 5
        here, there = (forecaster.model_.predict(p.at(np.array([200]))).median for p in (known, replace(known, values=values)))
        assert bool((here != there).any()) == differs


def test_nf_1326_a_window_may_be_shorter_than_the_horizon() -> None:
    forecaster = Forecaster(12, window=5, **SMALL).fit(panel(np.arange(90.0)), quiet=True)
    assert forecaster.model_.window == 5 and forecaster.predict().median.shape == (1, 12)


def test_nf_531_an_evaluation_gives_what_predict_gives_at_each_origin(pulses: tuple[Panel, Forecaster]) -> None:
    known, _ = pulses
    forecaster = Forecaster(7, **SMALL).fit(known, holdout=21, quiet=True)
    evaluation = forecaster.evaluate()
    alone = [forecaster.model_.predict(known.at(np.array([h]))).values[0] for h in evaluation.histories[:, 0]]
    assert (evaluation.forecasts["LSTM"] == np.concatenate(alone)).all()


def test_nf_1264_gaps_in_a_covariate_are_marked_and_not_bridged() -> None:
    rng = np.random.default_rng(0)
    price = rng.random(120)
    price[[30, 31, 70]] = np.nan
    with_gaps = replace(panel(rng.random(120)), covariates=(Covariate("price", "past", price),))
    forecaster = Forecaster(7, **SMALL).fit(with_gaps, quiet=True)
    assert forecaster.header_.series.features[0].marked
    assert np.isfinite(forecaster.predict().values).all()


def test_nf_685_a_series_of_which_nothing_is_known_is_named_and_no_forecast_is_nan() -> None:
    known = panel(np.arange(60.0), np.arange(60.0) ** 2)
    forecaster = Forecaster(5, **SMALL).fit(known, quiet=True)
    empty = replace(known, values=np.where(np.arange(120) < 60, known.values, np.nan))
    with pytest.raises(DataError, match=r"no known value among the last \d+\n  got       series series=1"):
        forecaster.predict(empty)


def test_gt_1354_missing_values_after_loading_end_in_a_forecast(tmp_path: Any) -> None:
    values = np.random.default_rng(0).random(90)
    values[80:] = np.nan
    forecaster = Forecaster(5, **SMALL).fit(panel(values), quiet=True)
    forecaster.save(tmp_path / "m.safetensors")
    from openlstm import load

    assert np.isfinite(load(tmp_path / "m.safetensors").predict(panel(values)).values).all()


def test_gt_1737_a_horizon_of_hundreds_of_steps_is_forecast_at_once() -> None:
    t = np.arange(900)
    forecaster = Forecaster(250, **SMALL).fit(panel(np.sin(2 * np.pi * t / 7)), quiet=True)
    found = forecaster.predict().values
    assert found.shape == (1, 250, 3) and np.isfinite(found).all()


def test_gt_2551_no_static_column_is_needed_and_one_category_alone_will_do() -> None:
    one = Covariate("kind", "static", np.zeros(2), ("only",))
    for covariates in ((), (one,)):
        known = replace(panel(np.arange(60.0), np.arange(60.0)), covariates=covariates)
        assert np.isfinite(Forecaster(5, **SMALL).fit(known, quiet=True).predict().values).all()


def test_da_1461_an_evaluation_with_refits_begins_anew_at_each_origin() -> None:
    """Refitted models know nothing of each other: the second equals one that is fitted to its past alone."""
    known = panel(np.sin(np.arange(90.0)))
    forecaster = Forecaster(5, **SMALL).fit(known, holdout=10, quiet=True)
    before = {name: t.copy() for name, t in forecaster.tensors_.items()}
    found = forecaster.evaluate(refit=lambda past: Forecaster(5, **SMALL).fit(past, quiet=True).model_)
    alone = Forecaster(5, **SMALL).fit(known.at(np.array([85])), quiet=True).predict().values[0]
    np.testing.assert_array_equal(found.forecasts["LSTM"][5:], alone)
    assert all((forecaster.tensors_[name] == t).all() for name, t in before.items())


def test_da_518_a_straight_line_goes_on() -> None:
    """1, 2, 3, 4, ... is continued, far above all that was seen."""
    forecaster = Forecaster(5, **{**LEARNED, "baselines": True}).fit(panel(np.arange(1.0, 121.0)), quiet=True)
    np.testing.assert_allclose(forecaster.predict(use="best").median[0], np.arange(121.0, 126.0), atol=0.5)
    np.testing.assert_allclose(forecaster.predict().median[0], np.arange(121.0, 126.0), atol=2.0)


def test_a_forecast_is_no_lagged_copy_of_its_input(pulses: tuple[Panel, Forecaster]) -> None:
    """The most common failure of all: what comes out is what went in, one step later."""
    known, forecaster = pulses
    ahead = np.array([forecaster.model_.predict(known.at(np.array([h]))).median[0, 0] for h in range(180, 209)])
    truth, before = known.values[180:209], known.values[179:208]
    assert np.abs(ahead - truth).mean() < 0.3 * np.abs(ahead - before).mean()
