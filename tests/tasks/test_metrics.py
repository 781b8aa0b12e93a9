"""Measures of a forecast, against numbers worked by hand, and what none of them may depend on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from openlstm.tasks import metrics
from openlstm.tasks.metrics import coverage, crps, kge, mae, mase, nse, over_all, pinball, rmse, rmsse, seasonal_scale, smape

NAN = np.nan
LEVELS = (0.1, 0.5, 0.9)


def quantiles(point: np.ndarray) -> np.ndarray:
    return point[..., None] + np.array([-1.0, 0.0, 1.0]) * np.abs(point[..., None])


MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "mae": mae,
    "rmse": rmse,
    "mase": lambda y, f: mase(y, f, np.full(len(y), 2.0)),
    "rmsse": lambda y, f: rmsse(y, f, np.full(len(y), 2.0)),
    "smape": smape,
    "pinball": lambda y, f: pinball(y, quantiles(f), LEVELS).sum(-1),
    "crps": lambda y, f: crps(y, quantiles(f), LEVELS),
    "coverage": lambda y, f: coverage(y, f - 1, f + 1),
    "nse": nse,
    "kge": kge,
}


def pair(steps: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return 3 + rng.standard_normal((4, steps)), 3 + rng.standard_normal((4, steps))


@pytest.mark.parametrize("name", MEASURES)
def test_a_missing_truth_counts_in_none(name: str) -> None:
    y, f = pair()
    holes = y.copy()
    holes[:, [2, 5]] = NAN
    want = MEASURES[name](np.delete(y, [2, 5], axis=1), np.delete(f, [2, 5], axis=1))
    np.testing.assert_allclose(MEASURES[name](holes, f), want, rtol=1e-12)
    nothing = MEASURES[name](np.full((2, 3), NAN), np.zeros((2, 3)))
    assert np.isnan(nothing).all() and nothing.shape == (2,)


@pytest.mark.parametrize("name", MEASURES)
def test_each_series_has_its_own_number(name: str) -> None:
    y, f = pair()
    np.testing.assert_allclose(MEASURES[name](y, f), [MEASURES[name](y[s : s + 1], f[s : s + 1])[0] for s in range(4)])


@pytest.mark.parametrize("name", ["smape", "nse", "kge"])
def test_what_has_no_unit_does_not_know_it(name: str) -> None:
    y, f = pair()
    for unit in (1e-50, 1e50):
        np.testing.assert_allclose(MEASURES[name](unit * y, unit * f), MEASURES[name](y, f), rtol=1e-9)


def test_the_perfect_forecast() -> None:
    y, _ = pair()
    got = {name: measure(y, y).round(12).tolist() for name, measure in MEASURES.items() if name not in ("pinball", "crps")}
    assert got == {n: [1.0] * 4 if n in ("coverage", "nse", "kge") else [0.0] * 4 for n in got}


def test_the_scale_of_a_series() -> None:
    past = np.array([[NAN, 1.0, 3.0, 2.0, 7.0], [1.0, NAN, NAN, 4.0, NAN], [1.0, 2.0, 1.0, 2.0, 1.0]])
    assert np.array_equal(seasonal_scale(past, 1), [(2 + 1 + 5) / 3, NAN, 1.0], equal_nan=True)
    assert np.array_equal(seasonal_scale(past, 2), [(1 + 4) / 2, NAN, NAN], equal_nan=True)  # the last never changes
    np.testing.assert_allclose(seasonal_scale(past, 1, power=2), [np.sqrt(30 / 3), NAN, 1.0])
    assert np.isnan(seasonal_scale(past, 5)).all() and np.isnan(seasonal_scale(past, 50)).all()


def test_a_series_without_a_scale_is_counted_as_left_out() -> None:
    y, f = pair()
    got = over_all(mase(y, f, np.array([1.0, NAN, 2.0, NAN])))
    assert (got.count, got.left_out) == (2, 2) and np.isfinite(got.value)
    none = over_all(np.array([NAN]))
    assert np.isnan(none.value) and (none.count, none.left_out) == (0, 1)


def test_quantile_losses() -> None:
    y = np.array([[3.0, -1.0]])
    q = np.array([[[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]])
    want = [(0.1 * 3 + 0.9 * 1) / 2, (0.5 * 2 + 0.5 * 2) / 2, (0.9 * 1 + 0.1 * 3) / 2]
    np.testing.assert_allclose(pinball(y, q, LEVELS), [want])
    np.testing.assert_allclose(crps(y, q, LEVELS), [2 * (0.25 * want[0] + 0.4 * want[1] + 0.25 * want[2]) / 0.9])
    np.testing.assert_allclose(crps(y, q[..., 1:2], [0.5]), mae(y, q[..., 1]))  # the median alone


def test_many_quantiles_give_the_score_of_their_distribution() -> None:
    """Of a normal distribution at its mean: (sqrt 2 - 1) / sqrt pi."""
    draws = np.sort(np.random.default_rng(0).standard_normal(200_000))
    levels = np.arange(1, 100) / 100
    q = np.quantile(draws, levels)
    np.testing.assert_allclose(crps(np.zeros((1, 1)), q[None, None], levels.tolist()), (2**0.5 - 1) / np.pi**0.5, rtol=0.02)
    uneven = np.concatenate([levels[:50:7], levels[50:]])  # fewer below: the same score, as each weighs its share
    q = np.quantile(draws, uneven)
    np.testing.assert_allclose(crps(np.zeros((1, 1)), q[None, None], uneven.tolist()), (2**0.5 - 1) / np.pi**0.5, rtol=0.05)


def test_hydrology() -> None:
    y = np.array([[1.0, 2.0, 3.0, 6.0]])
    assert nse(y, np.full((1, 4), 3.0)).tolist() == [0.0]  # the mean
    assert np.isnan(nse(np.ones((1, 4)), y)).all()
    f = np.array([[2.0, 2.0, 4.0, 4.0]])
    r, a, b = np.corrcoef(y[0], f[0])[0, 1], f.std() / y.std(), f.mean() / y.mean()
    np.testing.assert_allclose(kge(y, f), 1 - np.sqrt((r - 1) ** 2 + (a - 1) ** 2 + (b - 1) ** 2))
    for truth, forecast in ((np.ones((1, 4)), f), (y, np.ones((1, 4))), (y - 3, f)):
        assert np.isnan(kge(truth, forecast)).all()


def test_every_measure_is_tried_here() -> None:
    public = {n for n, f in vars(metrics).items() if callable(f) and f.__module__ == metrics.__name__ and not n.startswith("_")}
    assert public == set(MEASURES) | {"Mean", "over_all", "seasonal_scale"}
