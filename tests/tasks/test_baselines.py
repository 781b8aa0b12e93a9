"""The baselines, against cases worked by hand and against what they must do on series they describe exactly."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from openlstm.errors import DataError, MissingExtraError
from openlstm.tasks.baselines import Ridge, baselines, ets, naive, seasonal_drift, seasonal_naive

NAN = np.nan


def seasonal(n: int, period: int = 6, slope: float = 0.25) -> np.ndarray:
    t = np.arange(n)
    return 10 + slope * t + 3 * np.sin(2 * np.pi * t / period)


def test_the_naive_forecasts_are_those_worked_by_hand() -> None:
    assert naive(np.array([1.0, 2.0, NAN]), 3).tolist() == [2.0, 2.0, 2.0]
    past = np.array([1.0, 2.0, 3.0, 11.0, NAN, 13.0])
    assert seasonal_naive(past, 5, 3).tolist() == [11.0, 2.0, 13.0, 11.0, 2.0]
    assert seasonal_naive(np.array([NAN, 5.0, 6.0]), 3, 3).tolist() == [6.0, 5.0, 6.0]  # a season never known: the last value
    assert seasonal_naive(np.array([5.0, 6.0]), 4, 3).tolist() == [6.0, 5.0, 6.0, 6.0]  # a past shorter than a season
    # growth: 11-1 and 13-3 per season of 3 steps
    assert seasonal_drift(past, 5, 3).tolist() == [21.0, 12.0, 23.0, 31.0, 22.0]


@pytest.mark.parametrize("holes", [False, True])
def test_seasonal_naive_with_drift_is_exact_on_trend_and_season(holes: bool) -> None:
    series = seasonal(60)
    past = series[:48].copy()
    if holes:
        past[[3, 9, 20]] = NAN
    np.testing.assert_allclose(seasonal_drift(past, 12, 6), series[48:], atol=1e-9)


def test_ets_finds_trend_and_season() -> None:
    series = seasonal(90)
    past = series[:78].copy()
    past[[30, 31]] = NAN
    np.testing.assert_allclose(ets(past, 12, 6), series[78:], atol=0.2)
    np.testing.assert_allclose(ets(np.arange(30.0), 3, 1), [30, 31, 32], atol=1e-3)


@pytest.mark.parametrize("holes", [False, True])
def test_ridge_is_exact_where_the_future_is_linear_in_the_window(holes: bool) -> None:
    series = seasonal(200)
    known = series[:180].copy()
    if holes:
        known[[20, 70]] = NAN
    np.testing.assert_allclose(Ridge.fit(known, 12, 6).predict(series[:180]), series[180:186], atol=0.1 if holes else 0.02)


def test_ridge_sees_nothing_after_what_it_is_given() -> None:
    series = np.random.default_rng(0).standard_normal(200).cumsum()
    other = series.copy()
    other[150:] += 100
    a, b = Ridge.fit(series[:150], 12, 6), Ridge.fit(other[:150], 12, 6)
    assert (a.weights == b.weights).all()


@pytest.mark.parametrize("unit", [1e-90, 1e-20, 1e-3, 1e6, 1e90])
def test_no_baseline_knows_the_unit(unit: float) -> None:
    """A penalty in squares of the unit would favour metres over millimetres; large ones would make a matrix singular."""
    known = seasonal(120) + np.random.default_rng(0).standard_normal(120)
    small, _ = baselines(known, 6, 12, 6, 2)
    large, _ = baselines(unit * known, 6, 12, 6, 2)
    for name in ("naive", "seasonal naive", "seasonal naive + drift", "ridge window"):
        np.testing.assert_allclose(np.asarray(large[name](unit * known)) / unit, small[name](known), rtol=1e-9, err_msg=name)
    np.testing.assert_allclose(np.asarray(large["ETS"](unit * known)) / unit, small["ETS"](known), rtol=0.02)


def test_ets_takes_the_shortest_past_it_is_asked_for() -> None:
    for period in range(1, 8):
        for n in range(2 * period + 2, 2 * period + 8):
            assert np.isfinite(ets(seasonal(n, max(period, 2)), 3, period)).all()


def test_what_cannot_be_asked_is_left_out_with_its_reason() -> None:
    sparse = np.where(np.arange(120) % 7 == 0, seasonal(120), NAN)
    rivals, left_out = baselines(sparse, 6, 12, 6, 2)
    assert list(rivals) == ["naive", "seasonal naive", "ETS"]
    assert left_out == {
        "seasonal naive + drift": "needs two known values one season apart",
        "ridge window": "too few stretches without a missing value",
    }
    assert list(baselines(seasonal(20), 30, 5, 2, 2)[0]) == ["naive", "seasonal naive", "ridge window"]
    _, left_out = baselines(seasonal(9000), 6, 4001, 6, 2)
    assert left_out == {"ridge window": "would take too long: window 4001 (at most 4000)"}


def test_which_baselines_can_be_asked() -> None:
    known = seasonal(120)
    rivals, left_out = baselines(known, 6, 12, 6, 2)
    assert list(rivals) == ["naive", "seasonal naive", "seasonal naive + drift", "ETS", "ridge window"] and not left_out
    assert all(np.asarray(f(known)).shape == (6,) for f in rivals.values())
    assert list(baselines(known, 1, 12, 6, 2)[0]) == ["naive", "ETS", "ridge window"]
    assert baselines(known[:20], 12, 12, 6, 2)[1] == {
        "ETS": "needs two seasons of the past",
        "ridge window": "too few stretches without a missing value",
    }
    assert baselines(known, 6, 12, 6, 51)[1] == {"ETS": "would take too long: season 6 (at most 400), origins 51 (at most 50)"}


def test_ets_without_statsmodels_names_the_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "statsmodels.tsa.holtwinters", None)
    with pytest.raises(MissingExtraError, match=r"ets: needs the package statsmodels, which is not installed"):
        ets(seasonal(60), 6, 6)


def test_a_past_that_is_too_short_is_refused_with_this_text() -> None:
    with pytest.raises(DataError) as e:
        seasonal_drift(np.arange(5.0), 3, 6)
    assert str(e.value) == (
        "seasonal_drift: the past holds no two values one season apart\n  got       5 values\n"
        "  expected  more than 6\n  hint      give a longer past"
    )
    with pytest.raises(DataError) as e:
        Ridge.fit(seasonal(30), 20, 6)
    assert str(e.value) == (
        "Ridge.fit: too few stretches without a missing target\n  got       30 values, window 20, horizon 6\n"
        "  expected  at least 2 to fit and 2 to choose alpha\n  hint      give a longer past, or a smaller window"
    )
