"""Retention and the gradient's share against planted truths and brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openlstm.errors import ArgumentError, ShapeError
from openlstm.insight import first_below, gate_retention, gradient_share, half_life


@given(st.integers(1, 12), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_retention_is_the_mean_product_over_every_window(T: int, B: int, H: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    f = rng.choice([0.0, 1.0, 1e-30, rng.random(), rng.random()], size=(T, B, H))
    got = gate_retention(f)
    for k in range(T + 1):
        windows = [f[t : t + k].prod(0) for t in range(T + 1 - k)]
        np.testing.assert_allclose(got[k], np.mean(windows, axis=(0, 1)), rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize(("gate", "steps"), [(0.9, np.log(0.5) / np.log(0.9)), (1.0, np.inf), (0.0, 0.0)])
def test_half_life_of_a_constant_gate(gate: float, steps: float) -> None:
    got = half_life(gate_retention(np.full((30, 2, 4), gate)))
    np.testing.assert_allclose(got, steps, rtol=1e-12)


def test_a_gate_that_closes_every_20_steps_keeps_for_about_10_whatever_its_mean_says() -> None:
    f = np.ones((2000, 1, 1))
    f[::20] = 0
    assert 9.5 < half_life(gate_retention(f, 100))[0] < 11
    assert gate_retention(f, 20)[20, 0] == 0  # no window of 20 steps is without a closing


def test_float32_gates_are_summed_in_float64() -> None:
    f = np.full((50_000, 1, 1), 1 - 2**-20, np.float32)
    kept = gate_retention(f, 49_999)[-1, 0]
    np.testing.assert_allclose(kept, (1 - 2.0**-20) ** 49_999, rtol=1e-9)


def test_share_joins_h_and_c() -> None:
    dh = np.array([3.0, 1.0]).reshape(2, 1, 1)
    dc = np.array([4.0, 0.0]).reshape(2, 1, 1)
    assert gradient_share(dh, dc).tolist() == [1.0, 5.0]  # it may grow


def test_share_of_no_gradient_is_zero_not_nan() -> None:
    assert gradient_share(np.zeros((3, 2, 2))).tolist() == [0, 0, 0]


def test_first_below() -> None:
    assert first_below(np.array([1.0, 0.1, 0.01]), 0.05) == 2
    assert first_below(np.array([1.0, 0.1, 0.01]), 0.001) is None


def test_retention_of_the_wrong_shape() -> None:
    with pytest.raises(ShapeError) as error:
        gate_retention(np.zeros((3, 2)))
    assert str(error.value) == (
        "gate_retention: f needs three axes\n"
        "  got       f: float64[3, 2]\n"
        "  expected  f: [T, B, H]\n"
        "  hint      pass one gate of one layer, as in openlstm.trace(layer, x)['0.f']"
    )


@pytest.mark.parametrize("lag", [-1, 4])
def test_retention_beyond_the_sequence(lag: int) -> None:
    with pytest.raises(ArgumentError) as error:
        gate_retention(np.zeros((3, 2, 1)), lag)
    assert str(error.value) == (
        "gate_retention: max_lag is outside the sequence\n"
        f"  got       max_lag={lag}\n"
        "  expected  0 .. 3\n"
        "  hint      choose a lag within the sequence, or pass a longer one"
    )
