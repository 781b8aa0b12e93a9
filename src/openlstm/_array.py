"""The handful of array functions that numpy and torch spell differently, so that the definitions are written once."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from openlstm.errors import ShapeError, describe

Array = Any  # a numpy.ndarray or a torch.Tensor; both kinds never meet in one call


def is_torch(x: Any) -> bool:
    """True for a torch tensor, without importing torch: by what only tensors have, which is asked sixty times in a step."""
    return hasattr(x, "data_ptr")


def namespace(x: Array) -> Any:
    """The module whose functions work on `x`: torch or numpy."""
    return sys.modules["torch"] if is_torch(x) else np


def tanh(x: Array) -> Array:
    """Hyperbolic tangent."""
    return namespace(x).tanh(x)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), exactly 0 and 1 at the ends, without overflow."""
    if hasattr(x, "sigmoid"):  # of torch, and of what writes down an export
        return x.sigmoid()
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, np.ones_like(e)) / (1 + e)


def exp(x: Array) -> Array:
    """e^x."""
    return namespace(x).exp(x)


def log(x: Array) -> Array:
    """The natural logarithm."""
    return namespace(x).log(x)


def logsigmoid(x: Array) -> Array:
    """log(1 / (1 + exp(-x))), near x far below 0 and near 0 far above, without overflow."""
    if is_torch(x):
        return sys.modules["torch"].nn.functional.logsigmoid(x)
    return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))


def softplus(x: Array) -> Array:
    """log(1 + exp(x)), without overflow."""
    return -logsigmoid(-x)


def maximum(a: Array, b: Array) -> Array:
    """The larger of two arrays, element by element; NaN stays NaN."""
    return namespace(a).maximum(a, b)


def minimum(a: Array, b: Array) -> Array:
    """The smaller of two arrays, element by element; NaN stays NaN."""
    return namespace(a).minimum(a, b)


def relu(x: Array) -> Array:
    """max(x, 0); NaN stays NaN."""
    return namespace(x).where(x < 0, namespace(x).zeros_like(x), x)


def where(condition: Array, a: Array, b: Array) -> Array:
    """Elementwise choice, dtype kept."""
    return namespace(a).where(condition, a, b)


def split(x: Array, parts: int) -> tuple[Array, ...]:
    """Cut the last axis into equal parts.

    Raises:
        ShapeError: where it has no such parts.
    """
    n = x.shape[-1] // parts
    if n * parts != x.shape[-1]:
        got, hint = f"x: {describe(x)}", "one part for each gate of z, or for each state of c"
        raise ShapeError.of("split", f"{x.shape[-1]} numbers are not {parts} equal parts", got, f"a multiple of {parts}", hint)
    return tuple(x[..., k * n : (k + 1) * n] for k in range(parts))


def concat(arrays: list[Array]) -> Array:
    """Join along the last axis."""
    xp = namespace(arrays[0])
    return xp.cat(arrays, -1) if is_torch(arrays[0]) else xp.concatenate(arrays, -1)


def stack(arrays: list[Array]) -> Array:
    """Stack along a new first axis."""
    return namespace(arrays[0]).stack(arrays)


def zeros(like: Array, *shape: int) -> Array:
    """Zeros of a shape with the dtype (and device) of `like`."""
    return like.new_zeros(shape) if is_torch(like) else np.zeros(shape, like.dtype)


def empty(like: Array, *shape: int) -> Array:
    """Uninitialised memory of a shape with the dtype (and device) of `like`."""
    return like.new_empty(*shape) if is_torch(like) else np.empty(shape, like.dtype)  # faster without a tuple


def arange(like: Array, n: int) -> Array:
    """0 .. n-1 as int64, of the kind and on the device of `like`."""
    return namespace(like).arange(n, device=like.device) if is_torch(like) else np.arange(n, dtype=np.int64)


def take(x: Array, index: list[int], axis: int) -> Array:
    """The entries of an axis that `index` names, in this order."""
    if not is_torch(x):
        return np.take(x, index, axis)
    return x.index_select(axis, sys.modules["torch"].tensor(index, device=x.device))


def mean(x: Array) -> Array:
    """The mean along the last axis [..., 1]; 0 of nothing."""
    return x.sum(-1)[..., None] / max(x.shape[-1], 1)


def largest(x: Array) -> Array:
    """The largest absolute value along the last axis, at least 1, as a constant: [..., 1]."""
    if is_torch(x):
        return x.detach().abs().amax(-1, keepdim=True).clamp(min=1) if x.shape[-1] else x.sum(-1, keepdim=True) + 1
    return np.abs(x).max(-1, keepdims=True, initial=1)


def copy(x: Array) -> Array:
    """The same numbers in memory of their own."""
    return x.clone() if is_torch(x) else x.copy()


def swap(x: Array) -> Array:
    """The last two axes exchanged."""
    return x.swapaxes(-1, -2)


def as_like(value: Any, like: Array) -> Array:
    """`value` (array, tensor or list) as an array of the kind of `like`, on its device, keeping its own dtype."""
    if not is_torch(like):
        return value.detach().cpu().numpy() if is_torch(value) else np.asarray(value)
    torch = sys.modules["torch"]
    return torch.as_tensor(value, device=like.device)
