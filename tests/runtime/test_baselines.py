"""The baselines, against cases worked by hand, against series they describe exactly, and for what they must not depend on."""

from __future__ import annotations

import numpy as np
import pytest

from openlstm.runtime import baselines
from openlstm.runtime.baselines import BY_NAME, LinearWindow, Setting, Unfit, restore

NAN = np.nan
SETTING = Setting(horizon=6, period=6, window=12)
NAMES = list(BY_NAME)


def wave(n: int, period: int = 6, slope: float = 0.25) -> np.ndarray:
    t = np.arange(n)
    return 10 + slope * t + 3 * np.sin(2 * np.pi * t / period)


def panel(positive: bool = True) -> np.ndarray:
    """Nine series of many kinds, of different lengths, some with gaps: [9, 90]."""
    rng = np.random.default_rng(0)
    t = np.arange(90)
    y = np.stack([wave(90, slope=s) + c * rng.standard_normal(90).cumsum() for s in (0, 0.1, 0.3) for c in (0.1, 0.5, 1.0)])
    y[4] = np.exp(0.02 * t) * (2 + np.sin(np.pi * t / 3)) + 0.1 * rng.random(90)
    for s, begin in enumerate((0, 10, 0, 50, 3, 70, 85, 89, 20)):
        y[s, :begin] = NAN
    y[2, [20, 21, 50, 89]] = NAN
    y[8, 40:47] = NAN
    return y - np.nanmin(y, axis=1, keepdims=True) + (1 if positive else -5)


def ask(name: str, past: np.ndarray, setting: Setting = SETTING) -> np.ndarray:
    return BY_NAME[name].fit(past, setting).forecast(past, setting)


def one(name: str, past: list[float], horizon: int, period: int) -> list[float]:
    setting = Setting(horizon, period, 1)
    return BY_NAME[name]().forecast(np.array([past]), setting)[0].tolist()


def test_the_naive_forecasts_are_those_worked_by_hand() -> None:
    assert one("naive", [1.0, 2.0, NAN], 3, 1) == [2.0, 2.0, 2.0]
    past = [1.0, 2.0, 3.0, 11.0, NAN, 13.0]
    assert one("seasonal_naive", past, 5, 3) == [11.0, 2.0, 13.0, 11.0, 2.0]
    assert one("seasonal_naive", [NAN, 5.0, 6.0], 3, 3) == [6.0, 5.0, 6.0]  # a season never known: the last value
    assert one("seasonal_naive", [5.0, 6.0], 4, 3) == [6.0, 5.0, 6.0, 6.0]  # a past shorter than a season
    # growth: 11-1 and 13-3 per season of 3 steps
    assert one("seasonal_drift", past, 5, 3) == [21.0, 12.0, 23.0, 31.0, 22.0]
    assert one("drift", [NAN, 1.0, 9.0, 5.0, NAN], 2, 1) == [9.0, 11.0]  # from 1 to 5 in two steps


@pytest.mark.parametrize("holes", [False, True])
def test_all_that_know_trend_and_season_find_them(holes: bool) -> None:
    series = wave(96)
    past = series[:90].copy()
    if holes:
        past[[3, 30, 31, 70]] = NAN
    exact = {"seasonal_drift": 1e-9, "ets": 1e-2, "damped_ets": 0.5, "autoregression": 0.05, "linear_window": 0.2}
    for name, most in exact.items():
        np.testing.assert_allclose(ask(name, past[None])[0], series[90:], atol=most, err_msg=name)
    line = np.arange(30.0)[None]
    for name in ("ets", "drift", "autoregression"):
        np.testing.assert_allclose(ask(name, line, Setting(3, 1, 5)), [[30, 31, 32]], atol=1e-3, err_msg=name)


def test_a_season_that_multiplies_is_found() -> None:
    t = np.arange(78)
    series = np.round((100 + 2 * t) * (1 + 0.3 * np.sin(np.pi * t / 3)), 6)
    for name, most in {"ets": 0.01, "theta": 0.05}.items():
        np.testing.assert_allclose(ask(name, series[None, :72])[0], series[72:], rtol=most, err_msg=name)


def test_simple_smoothing_is_the_exponential_mean() -> None:
    """Noise around a level: the best constant of smoothing is small, and the forecast the mean."""
    past = 5 + np.random.default_rng(1).standard_normal((1, 200))
    for name in ("ets", "theta"):
        got = ask(name, past, Setting(3, 1, 5))
        np.testing.assert_allclose(got, past.mean(), atol=0.25, err_msg=name)


def test_the_filter_is_the_one_of_the_textbook() -> None:
    """Holt-Winters, one series, written as in Hyndman et al. 2008, table 2.2 and 2.3."""
    from openlstm.runtime.blocks import Block
    from openlstm.runtime.smoothing import Form, Start, run

    rng = np.random.default_rng(2)
    y, m = 20 + rng.standard_normal(17), 4
    y[7] = NAN
    alpha, beta, gamma, phi = 0.3, 0.1, 0.2, 0.9
    p = np.array([[[alpha, beta / alpha, gamma / (1 - alpha), phi, 0.0, 0.0]]])
    for product in (False, True):
        season = np.array([1.1, 0.9, 1.05, 0.95]) if product else np.array([1.0, -1.0, 0.5, -0.5])
        l, b, s, square = 19.0, 0.2, np.roll(season, len(y) % m).tolist(), 0.0
        start = Start(np.array([l]), np.array([b]), np.ones(1), season[:, None])
        for value in y:
            now = s.pop(0)
            mean = (l + phi * b) * now if product else l + phi * b + now
            e = 0.0 if np.isnan(value) else (value - mean) / (mean if product else 1)
            unit = l + phi * b if product else 1.0
            l, b = l + phi * b + alpha * e * unit, phi * b + beta * e * unit
            s.append(now * (1 + gamma * e) if product else now + gamma * e)
            square += e * e
        out = run(Block(y[:, None], np.zeros(1, int)), start, Form(True, True, m, product), p)
        got = [out.level[0, 0], out.slope[0, 0], *out.season[:, 0, 0], out.products[0, 0]]
        np.testing.assert_allclose(got, [l, b, *s, square], rtol=1e-12)


def test_theta_is_smoothing_plus_half_the_slope() -> None:
    """Hyndman & Billah 2003: it grows by half the slope of the straight line through the past."""
    t = np.arange(40.0)
    past = (5 + 0.6 * t + np.random.default_rng(0).standard_normal(40))[None]
    steps = np.diff(ask("theta", past, Setting(5, 1, 5)))
    np.testing.assert_allclose(steps, np.polyfit(t, past[0], 1)[0] / 2, rtol=1e-9)


def test_an_autoregression_swings_back_and_never_explodes() -> None:
    rng = np.random.default_rng(3)
    x = np.zeros((1, 300))
    for t in range(2, 300):
        x[0, t] = 1.6 * x[0, t - 1] - 0.9 * x[0, t - 2] + rng.standard_normal()
    want = [x[0, -2], x[0, -1]]
    for _ in range(4):
        want.append(1.6 * want[-1] - 0.9 * want[-2])
    got = ask("autoregression", x, Setting(4, 1, 5))
    np.testing.assert_allclose(got[0], want[2:], atol=0.15 * np.ptp(x))
    wild = 1.3 ** np.arange(40.0)[None]
    assert ask("autoregression", wild, Setting(40, 1, 5)).max() <= wild.max() + 2 * np.ptp(wild)


@pytest.mark.parametrize("holes", [False, True])
def test_a_linear_window_is_exact_where_the_future_is_linear_in_the_window(holes: bool) -> None:
    series = wave(200)
    known = series[None, :180].copy()
    if holes:
        known[0, [20, 70]] = NAN
    model = LinearWindow.fit(known, SETTING)
    np.testing.assert_allclose(model.forecast(series[None, :180], SETTING)[0], series[180:186], atol=0.1)


def test_a_linear_window_sees_all_series_and_nothing_after_what_it_is_given() -> None:
    series = np.random.default_rng(0).standard_normal((3, 200)).cumsum(1)
    other = series.copy()
    other[:, 150:] += 100
    a, b = (LinearWindow.fit(s[:, :150], SETTING) for s in (series, other))
    assert (a.weights == b.weights).all()
    assert (LinearWindow.fit(series[:2, :150], SETTING).weights != a.weights).any()


@pytest.mark.parametrize("name", NAMES)
def test_no_baseline_knows_the_unit(name: str) -> None:
    """A power of two changes no bit; a penalty in squares of the unit would favour metres over millimetres."""
    past = panel()
    want = ask(name, past)
    for unit in (2.0**-60, 2.0**60):
        assert (ask(name, unit * past) / unit == want).all(), unit
    for unit in (1e-90, 1e6):
        np.testing.assert_allclose(ask(name, unit * past) / unit, want, rtol=1e-6, err_msg=str(unit))


@pytest.mark.parametrize("name", NAMES)
def test_no_baseline_knows_the_level(name: str) -> None:
    """But for the forms that multiply, which are asked for positive series alone: here all reach below zero."""
    past = panel(positive=False)
    np.testing.assert_allclose(ask(name, past - 64.0) + 64.0, ask(name, past), atol=1e-6 * 64)


@pytest.mark.parametrize("name", NAMES)
def test_a_series_alone_is_forecast_as_among_others(name: str) -> None:
    """To the bit: otherwise a forecast would depend on how the series are divided among processes."""
    past = np.concatenate([np.full((9, 400), NAN), panel()], axis=1)
    walk = np.random.default_rng(1).standard_normal(490).cumsum()
    past[:5, :-20] = [
        np.where(np.arange(470) < begin, NAN, c * walk[:470] + 60) for c, begin in enumerate((0, 3, 91, 250, 333))
    ]
    model = BY_NAME[name].fit(past, SETTING)
    together = model.forecast(past, SETTING)
    for s in range(len(past)):
        begin = int(np.argmax(~np.isnan(past[s])))  # what comes before a series begins is nothing
        assert (model.forecast(past[s : s + 1, begin:], SETTING)[0] == together[s]).all(), s
    assert (model.forecast(past[::-1], SETTING) == together[::-1]).all()


@pytest.mark.parametrize("name", NAMES)
def test_blocks_change_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    past = panel()
    want = ask(name, past)
    monkeypatch.setattr("openlstm.runtime.blocks.BLOCK", 2)
    assert (ask(name, past) == want).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("period", [1, 4, 7, 50])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 15, 31])
def test_every_series_with_a_known_value_has_a_forecast(name: str, period: int, steps: int) -> None:
    rng = np.random.default_rng(steps)
    past = rng.standard_normal((7, steps)).cumsum(1)
    past[1] = 3.0  # never moves
    past[2] = 0.0
    past[3, :-1] = NAN  # one value
    past[4, steps // 2 + 1 :] = NAN  # nothing at the end
    past[5] = NAN  # nothing at all
    past[6] = 1e6 + np.arange(steps)
    setting = Setting(9, period, 3)
    model = restore(name, {"weights": rng.standard_normal((3, 9)), "bias": np.zeros(9)} if name == "linear_window" else {})
    got = model.forecast(past, setting)
    assert got.shape == (7, 9) and got.dtype == np.float64
    assert np.isfinite(got[[0, 1, 2, 3, 4, 6]]).all() and np.isnan(got[5]).all()
    past, got = past[[0, 4, 6, 1, 2, 3]], got[[0, 4, 6, 1, 2, 3]]
    low, high = np.nanmin(past, axis=1, keepdims=True), np.nanmax(past, axis=1, keepdims=True)
    np.testing.assert_allclose(got[3:], np.repeat(high[3:], 9, axis=1), atol=1e-9)  # what never moves stays
    reach = 20 * (high - low) + 1e-9
    assert (got > low - reach).all() and (got < high + reach).all()


@pytest.mark.parametrize("name", NAMES)
def test_no_step_at_all_gives_no_forecast(name: str) -> None:
    model = restore(name, {"weights": np.zeros((3, 6)), "bias": np.zeros(6)} if name == "linear_window" else {})
    for past in (np.zeros((2, 0)), np.full((2, 5), NAN), np.zeros((0, 5))):
        got = model.forecast(past, SETTING)
        assert got.shape == (len(past), 6) and np.isnan(got).all()


@pytest.mark.parametrize("name", NAMES)
def test_its_arrays_are_all_that_a_baseline_needs(name: str) -> None:
    past = panel()
    model = BY_NAME[name].fit(past, SETTING)
    again = restore(name, model.arrays())
    assert type(again) is type(model) and all(a.dtype == np.float64 for a in again.arrays().values())
    np.testing.assert_array_equal(again.forecast(past, SETTING), model.forecast(past, SETTING))


def reasons(past: np.ndarray, setting: Setting) -> dict[str, str]:
    out = {}
    for name, cls in BY_NAME.items():
        try:
            cls.fit(past, setting)
        except Unfit as e:
            out[name] = str(e)
    return out


def test_what_cannot_be_asked_says_why() -> None:
    assert reasons(panel(), SETTING) == {}
    sparse = np.where(np.arange(120) % 7 == 0, wave(120), NAN)[None]
    assert reasons(sparse, SETTING) == {
        "seasonal_drift": "needs two known values one season apart",
        "linear_window": "too few stretches without a missing value",
    }
    assert reasons(wave(9000)[None], Setting(6, 1, 2001)) == {
        "seasonal_naive": "needs a season of two steps or more",
        "seasonal_drift": "needs a season of two steps or more",
        "linear_window": "would take too long: window 2001 (at most 2000)",
    }
    assert reasons(np.array([[NAN, 1.0]]), SETTING) == {
        "drift": "needs a series with 2 known values",
        "seasonal_drift": "needs two known values one season apart",
        "ets": "needs a series with 5 known values",
        "damped_ets": "needs a series with 5 known values",
        "theta": "needs a series with 4 known values",
        "autoregression": "needs a series with 10 known values",
        "linear_window": "needs a series with 2 known values",
    }
    assert reasons(np.full((2, 5), NAN), SETTING)["naive"] == "no value is known"


def test_the_names_of_model_files_stay() -> None:
    assert NAMES == [
        "naive",
        "seasonal_naive",
        "drift",
        "seasonal_drift",
        "ets",
        "damped_ets",
        "theta",
        "autoregression",
        "linear_window",
    ]
    assert baselines.BY_NAME["ets"] is baselines.ETS
