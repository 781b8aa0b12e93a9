"""exp, sigmoid, tanh and log sigmoid of the engine over all exponents, against extended precision, on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest
from tests.support import NEEDS_NATIVE, same_bits

from openlstm.engine import native

pytestmark = NEEDS_NATIVE

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
ISAS = pytest.mark.parametrize("isa", native.isas() if native.available() else ["none"])
LONG = np.longdouble
NAMES = ["exp", "sigmoid", "tanh", "logsigmoid"]


def every_exponent(dtype: str, each: int) -> np.ndarray:
    """`each` random mantissas of both signs for every exponent, subnormal numbers and zeros included, no infinity or NaN."""
    info = np.finfo(dtype)
    rng = np.random.default_rng(7)
    unsigned = {"float32": np.uint32, "float64": np.uint64}[dtype]
    exponents = np.arange(2**info.iexp - 1, dtype=unsigned)[:, None] << unsigned(info.nmant)
    mantissas = rng.integers(0, 2**info.nmant, (exponents.size, each), dtype=unsigned)
    mantissas[:, 0], mantissas[:, 1] = 0, 2**info.nmant - 1
    x = (exponents | mantissas).view(dtype).ravel()
    return np.concatenate([x, -x])


def where_it_bends(dtype: str) -> np.ndarray:
    """Densely over the range in which the functions move."""
    end = 120 if dtype == "float32" else 760
    return np.linspace(-end, end, 400_001).astype(dtype)


def ulps(got: np.ndarray, exact: np.ndarray) -> float:
    """The largest error in units of the last place of the exact result."""
    dtype = got.dtype
    with np.errstate(over="ignore"):
        rounded = exact.astype(dtype)
        assert (np.isinf(got) == np.isinf(rounded)).all()
        finite = np.isfinite(rounded)
        size = np.minimum(np.abs(rounded[finite]), np.finfo(dtype).max / 2)  # the largest number has no next one
        unit = np.spacing(size).astype(LONG)
    return float((np.abs(got[finite] - exact[finite]) / unit).max(initial=0))


def exact(name: str, x: np.ndarray, precision: type = LONG) -> np.ndarray:
    wide = x.astype(precision)
    with np.errstate(over="ignore", under="ignore"):
        if name == "sigmoid":
            e = np.exp(-np.abs(wide))
            return np.where(wide < 0, e, 1) / (1 + e)
        if name == "logsigmoid":
            return np.minimum(wide, 0) - np.log1p(np.exp(-np.abs(wide)))
        return np.tanh(wide) if name == "tanh" else np.exp(wide)


@DTYPES
@pytest.mark.parametrize("name", NAMES)
def test_the_functions_are_within_two_units_of_the_last_place(name: str, dtype: str) -> None:
    x = np.concatenate([every_exponent(dtype, 600 if dtype == "float32" else 80), where_it_bends(dtype)])
    assert ulps(native.apply(name, x), exact(name, x)) <= 2


@DTYPES
@ISAS
@pytest.mark.parametrize("name", NAMES)
def test_the_functions_have_the_same_bits_on_every_instruction_set(name: str, isa: str, dtype: str) -> None:
    x = np.concatenate([every_exponent(dtype, 40), [np.inf, -np.inf, np.nan]]).astype(dtype)
    with native.use_isa("scalar"):
        expected = native.apply(name, x)
    with native.use_isa(isa):
        assert native.isa() == isa
        assert same_bits(native.apply(name, x), expected)


@DTYPES
@ISAS
def test_a_number_gives_the_same_bits_wherever_it_stands_in_the_vector(isa: str, dtype: str) -> None:
    """Lengths 1 to 40 from every offset: the tail is the same function."""
    x = np.random.default_rng(1).normal(0, 3, 64).astype(dtype)
    with native.use_isa(isa):
        for name in NAMES:
            whole = native.apply(name, x)
            for first in (0, 1, 5, 16):
                for n in range(41):
                    assert same_bits(native.apply(name, x[first : first + n].copy()), whole[first : first + n])


@DTYPES
def test_tanh_is_odd(dtype: str) -> None:
    x = every_exponent(dtype, 100)
    assert same_bits(native.apply("tanh", -x), -native.apply("tanh", x))


@DTYPES
def test_the_ends_are_exact(dtype: str) -> None:
    """0 and 1 where nothing between them is nearer; also exactly at infinity, and never before."""
    low, high = (-104.0, 16.7) if dtype == "float32" else (-746.0, 36.8)
    beyond = np.array([1.0, 1.04, 1.5, 10.0, 1e4, 1e30, np.inf], dtype)
    assert (native.apply("sigmoid", beyond * np.array(low, dtype)) == 0).all()
    assert (native.apply("sigmoid", beyond * np.array(high, dtype)) == 1).all()
    inside = np.array([low + 1.5, high - 1.5], dtype)
    assert ((native.apply("sigmoid", inside) > 0) & (native.apply("sigmoid", inside) < 1)).all()
    assert (native.apply("tanh", beyond * 40) == 1).all() and (native.apply("tanh", -beyond * 40) == -1).all()
    zeros = np.array([0.0, -0.0], dtype)
    assert same_bits(native.apply("tanh", zeros), zeros)
    np.testing.assert_array_equal(native.apply("exp", np.array([0.0, -np.inf, np.inf], dtype)), [1, 0, np.inf])
    np.testing.assert_array_equal(native.apply("sigmoid", np.array([0.0], dtype)), [0.5])
    far = np.array([-np.inf, -1e30, 1e30, np.inf], dtype)
    np.testing.assert_array_equal(native.apply("logsigmoid", far), np.minimum(far, 0))


@DTYPES
@pytest.mark.parametrize("name", NAMES)
def test_nan_comes_out_where_it_went_in(name: str, dtype: str) -> None:
    x = np.zeros(37, dtype)
    x[[0, 5, 36]] = np.nan
    assert np.flatnonzero(np.isnan(native.apply(name, x))).tolist() == [0, 5, 36]


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", NAMES)
def test_the_functions_are_right_for_every_float32_there_is(name: str) -> None:
    """All 2^32 of them in blocks; double precision is exact enough to judge them."""
    worst = 0.0
    for block in range(0, 2**32, 2**24):
        x = np.arange(block, block + 2**24, dtype=np.uint64).astype(np.uint32).view(np.float32)
        x = x[np.isfinite(x)]
        if x.size:
            worst = max(worst, ulps(native.apply(name, x), exact(name, x, np.float64)))
    assert worst <= 2
