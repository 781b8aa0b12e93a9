"""Corrected quantiles hold what they promise on new data, whatever the unit; and say where they cannot."""

from __future__ import annotations

import numpy as np
import pytest

from openlstm.runtime.calibrate import TAIL, apply, at_every_level, correct, needed, warning

LEVELS = (0.05, 0.1, 0.5, 0.9, 0.95)
NAN = np.nan


def windows(n: int, steps: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truths, quantiles that are too narrow and too low, and scales of series of any size."""
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-3, 4, n)
    truth = scale[:, None] * (1 + rng.standard_t(4, (n, steps)))
    quantiles = scale[:, None, None] * np.array([-0.3, -0.2, 0.0, 0.1, 0.2]) + np.zeros((n, steps, 1))
    return truth, quantiles, scale


@pytest.mark.parametrize("n", [19, 25, 60, 400])
def test_a_band_holds_its_share_of_new_data(n: int) -> None:
    """Over many draws: at least the share promised; at most that, and what one rank at each end is worth."""
    new = windows(4000, 3, 1)
    shares = []
    for seed in range(2, 32):
        c = correct(*windows(n, 3, seed), LEVELS)
        q = apply(c.shift, new[1], new[2], LEVELS)
        shares.append([((q[..., lo] <= new[0]) & (new[0] <= q[..., hi])).mean() for lo, hi in ((1, 3), (0, 4))])
    for share, promised in zip(np.mean(shares, axis=0), (0.8, 0.9), strict=True):
        assert promised - 0.012 <= share <= promised + 2 / (n + 1) + 0.012


@pytest.mark.parametrize("n", [9, 10, 19, 50])
def test_a_new_error_lies_below_a_quantile_as_often_as_it_says(n: int) -> None:
    """Exactly: leave each of n + 1 errors out in turn, and correct with the rest."""
    errors = np.random.default_rng(n).standard_normal(n + 1)
    below = {q: 0 for q in (0.1, 0.9)}
    for left_out in range(n + 1):
        rest = np.delete(errors, left_out)[:, None]
        shift = correct(rest, np.zeros((n, 1, 2)), np.ones(n), (0.1, 0.9)).shift[0]
        below[0.1] += int(errors[left_out] < shift[0])
        below[0.9] += int(errors[left_out] <= shift[1])
    assert below[0.1] <= 0.1 * (n + 1) < below[0.1] + 1
    assert below[0.9] - 1 < 0.9 * (n + 1) <= below[0.9] + 1e-9


def test_the_ranks_are_those_worked_by_hand() -> None:
    errors = np.arange(1.0, 20.0)[:, None]  # 1 to 19
    got = correct(errors, np.zeros((19, 1, 5)), np.ones(19), LEVELS)
    assert got.shift.tolist() == [[1.0, 2.0, 0.0, 18.0, 19.0]] and got.enough.all()
    got = correct(2 * errors, np.full((19, 1, 5), 1.0), np.full(19, 2.0), LEVELS)
    assert got.shift.tolist() == [[0.5, 1.5, 0.0, 17.5, 18.5]]
    assert [needed(q) for q in LEVELS] == [19, 9, 1, 9, 19]


def test_missing_truths_and_series_without_scale_are_left_out() -> None:
    errors = np.arange(1.0, 20.0)[:, None]
    more = np.concatenate([errors, [[NAN], [500.0], [-500.0]]])
    scale = np.concatenate([np.ones(20), [0.0, NAN]])
    a, b = correct(errors, np.zeros((19, 1, 5)), np.ones(19), LEVELS), correct(more, np.zeros((22, 1, 5)), scale, LEVELS)
    assert (a.shift == b.shift).all() and (b.count == 19).all()
    got = apply(a.shift, np.zeros((3, 1, 5)), np.array([1.0, 0.0, NAN]), LEVELS)
    assert np.isfinite(got).all() and (got[1:] == 0).all() and (got[0] != 0).any()


def test_steps_with_few_windows_take_their_neighbours() -> None:
    truth = np.arange(5.0) + np.zeros((9, 1))  # the error grows with the step
    q = np.zeros((9, 5, 3))
    c = correct(truth, q, np.ones(9), (0.1, 0.5, 0.9))
    assert TAIL * needed(0.9) == 18
    assert c.count[:, 2].tolist() == [18, 27, 27, 27, 18]  # of 9 windows: one step on each side, where there is one
    assert c.shift[:, 2].tolist() == [1.0, 2.0, 3.0, 4.0, 4.0] and c.enough.all()
    many = correct(np.tile(truth, (2, 1)), np.tile(q, (2, 1, 1)), np.ones(18), (0.1, 0.5, 0.9))
    assert many.count[:, 2].tolist() == [18] * 5 and many.shift[:, 2].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_too_few_windows_are_told() -> None:
    c = correct(np.arange(8.0)[:, None], np.zeros((8, 1, 5)), np.ones(8), LEVELS)
    assert c.enough.tolist() == [[False, False, True, False, False]] and c.shift.tolist() == [[0.0, 0.0, 0.0, 7.0, 7.0]]
    assert warning(c, LEVELS) == (
        "too few validation errors for the quantiles 0.05, 0.1, 0.9, 0.95: 8 of at least 19; "
        "the true values may lie beyond them more often"
    )
    one = correct(np.arange(9.0)[:, None], np.zeros((9, 1, 2)), np.ones(9), (0.5, 0.95))
    assert warning(one, (0.5, 0.95)) == (
        "too few validation errors for the quantile 0.95: 9 of at least 19; the true values may lie beyond them more often"
    )
    assert warning(correct(np.zeros((19, 1)), np.zeros((19, 1, 5)), np.ones(19), LEVELS), LEVELS) is None
    for nothing in (np.full((4, 2), NAN), np.zeros((0, 2))):
        c = correct(nothing, np.zeros((*nothing.shape, 5)), np.ones(len(nothing)), LEVELS)
        assert (c.shift == 0).all() and not c.enough.any() and (c.count == 0).all()


@pytest.mark.parametrize("levels", [(0.1, 0.9), (0.5,), (0.2, 0.5, 0.6, 0.7), (0.025, 0.1, 0.5, 0.9, 0.975)])
def test_corrected_quantiles_rise_and_keep_the_median(levels: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    q = np.sort(rng.standard_normal((60, 4, len(levels))), axis=-1)
    c = correct(3 * rng.standard_normal((60, 4)), q, rng.uniform(0.5, 2, 60), levels)
    got = apply(c.shift, q, np.full(60, 3.0), levels)
    assert (np.diff(got) >= 0).all() and np.isfinite(got).all()
    if 0.5 in levels:
        middle = levels.index(0.5)
        assert (got[..., middle] == q[..., middle]).all()


def test_the_unit_of_a_series_changes_no_band() -> None:
    truth, q, scale = windows(50, 4, 0)
    want = correct(truth, q, scale, LEVELS)
    unit = 2.0 ** np.random.default_rng(0).integers(-20, 20, 50)
    got = correct(truth * unit[:, None], q * unit[:, None, None], scale * unit, LEVELS)
    assert (got.shift == want.shift).all()
    moved = apply(got.shift, q * unit[:, None, None], scale * unit, LEVELS)
    assert (moved == apply(want.shift, q, scale, LEVELS) * unit[:, None, None]).all()


def test_bands_around_single_values() -> None:
    errors = np.arange(-9.0, 10.0)[:, None]
    point = np.full((19, 1), 5.0)
    c = correct(5 + 2 * errors, at_every_level(point, LEVELS), np.full(19, 2.0), LEVELS)
    found = apply(c.shift, at_every_level(np.array([[100.0]]), LEVELS), np.array([10.0]), LEVELS)
    assert found.tolist() == [[[10.0, 20.0, 100.0, 180.0, 190.0]]]
