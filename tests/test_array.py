"""The few array functions over numpy and torch: the same numbers from both, dtype kept, and exact ends."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from openlstm import _array as A

KINDS = pytest.mark.parametrize("make", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
ENDS = np.array([-np.inf, -1e4, -745.0, -104.0, -1.0, -1e-30, 0.0, 1e-30, 1.0, 104.0, 745.0, 1e4, np.inf])


def numpy(a: Any) -> np.ndarray:
    return a.numpy() if A.is_torch(a) else a


@DTYPES
@KINDS
def test_sigmoid_and_tanh_are_right_to_their_last_places(make: Any, dtype: str) -> None:
    x = np.concatenate([ENDS, np.linspace(-30, 30, 201)]).astype(dtype)
    eps = float(np.finfo(dtype).eps)
    wide = np.maximum(x.astype(np.longdouble), -11000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        s, t = numpy(A.sigmoid(make(x))), numpy(A.tanh(make(x)))
    assert s.dtype == t.dtype == dtype
    exact = 1 / (1 + np.exp(-wide))
    normal = exact > np.finfo(dtype).tiny
    np.testing.assert_allclose(s[normal], exact[normal].astype(dtype), rtol=4 * eps)
    assert (s[~normal] <= np.finfo(dtype).tiny).all()
    np.testing.assert_allclose(t, np.tanh(x.astype(np.longdouble)).astype(dtype), rtol=4 * eps)


@KINDS
def test_ends_are_exact_and_nan_stays(make: Any) -> None:
    x = make(np.array([-1e4, 1e4, -np.inf, np.inf, np.nan], np.float32))
    np.testing.assert_array_equal(numpy(A.sigmoid(x)), [0, 1, 0, 1, np.nan])
    np.testing.assert_array_equal(numpy(A.tanh(x)), [-1, 1, -1, 1, np.nan])
    np.testing.assert_array_equal(numpy(A.relu(x)), [0, 1e4, 0, np.inf, np.nan])


@KINDS
def test_split_concat_and_stack_undo_each_other(make: Any) -> None:
    x = make(np.arange(24.0).reshape(2, 12))
    parts = A.split(x, 3)
    assert [tuple(p.shape) for p in parts] == [(2, 4)] * 3
    assert (A.concat(list(parts)) == x).all()
    stacked = A.stack(list(parts))
    assert tuple(stacked.shape) == (3, 2, 4) and (stacked[1] == parts[1]).all()


@DTYPES
@KINDS
def test_zeros_and_empty_are_like_their_model(make: Any, dtype: str) -> None:
    like = make(np.ones(1, dtype))
    for a in (A.zeros(like, 2, 0), A.empty(like, 2, 0), A.zeros(like, 3)):
        assert type(a) is type(like) and a.dtype == like.dtype
    assert not A.zeros(like, 3).any()


@KINDS
def test_where_takes_no_part_in_what_is_not_chosen(make: Any) -> None:
    a, b = make(np.array([1.0, np.nan])), make(np.array([np.nan, 2.0]))
    assert numpy(A.where(make(np.array([True, False])), a, b)).tolist() == [1.0, 2.0]


@KINDS
def test_arange_take_and_swap_keep_kind_and_type(make: Any) -> None:
    x = make(np.arange(12.0, dtype=np.float32).reshape(2, 3, 2))
    count = A.arange(x, 3)
    assert type(count) is type(x) and str(count.dtype).endswith("int64") and count.tolist() == [0, 1, 2]
    taken = A.take(x, [2, 0, 0], -2)
    assert taken.dtype == x.dtype and (taken == x[:, [2, 0, 0]]).all()
    assert tuple(A.swap(x).shape) == (2, 2, 3) and (A.swap(x)[..., 1, :] == x[..., 1]).all()


def test_as_like_crosses_between_kinds_and_keeps_the_dtype() -> None:
    there, here = torch.zeros(1, dtype=torch.float32), np.zeros(1)
    for value in ([1, 2], np.array([1, 2]), torch.tensor([1, 2])):
        tensor, array = A.as_like(value, there), A.as_like(value, here)
        assert A.is_torch(tensor) and not tensor.is_floating_point() and tensor.tolist() == [1, 2]
        assert isinstance(array, np.ndarray) and array.dtype.kind == "i" and array.tolist() == [1, 2]


def test_arrays_of_torch_are_told_from_those_of_numpy() -> None:
    assert A.is_torch(torch.zeros(1)) and A.is_torch(torch.nn.Parameter(torch.zeros(1)))
    assert not A.is_torch(np.zeros(1)) and not A.is_torch([0.0]) and not A.is_torch(None)
    assert A.namespace(torch.zeros(1)) is torch and A.namespace(np.zeros(1)) is np


def test_numpy_alone_does_not_load_torch() -> None:
    code = (
        "import sys, numpy as np\n"
        "from openlstm import _array as A, cells, reference, weights\nfrom openlstm.call import Call\n"
        "w = reference.Weights(np.zeros((4, 1)), np.zeros((4, 1)))\n"
        "s = reference.State(np.zeros((1, 1)), np.zeros((1, 1)))\n"
        "reference.forward(Call(cells.LSTM(), np.zeros((2, 1, 1)), w, s))\n"
        "assert not A.is_torch(np.zeros(1))\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
