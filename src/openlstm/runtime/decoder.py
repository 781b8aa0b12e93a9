"""From the last h of the recurrent layers to the quantiles of the horizon, in numpy; `tasks.network` is the same in torch.

Legend: N windows, H hidden size, K steps of the horizon, Q quantiles, D width, U numbers known of a step ahead.
"""

from __future__ import annotations

import numpy as np

from openlstm.model_file import Decoder

Tensors = dict[str, np.ndarray]

TOGETHER = 100_000
"""Numbers of a matrix that a row is multiplied with in one call: too few for a library to spread them over threads."""


def linear(weights: Tensors, h: np.ndarray, steps: int) -> np.ndarray:
    """All quantiles of all steps from h [N, H] alone: W h + b, [N, K, Q] in spreads."""
    return (each_row(h, weights["head.weight"]) + weights["head.bias"]).reshape(len(h), steps, -1)


def each_row(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The product of each row of x [N, A] and a matrix [B, A], [N, B], row by row in the matrix' type.

    A product of matrices may round a row differently in another batch, and a product of a large matrix with other threads.
    """
    out, most = np.empty((len(x), len(weight)), weight.dtype), max(4, TOGETHER // max(x.shape[1], 1) // 4 * 4)
    for k in range(0, len(weight), most):
        np.matmul(x[:, None], weight[k : k + most].T, out=out[:, None, k : k + most])
    return out


def direct(weights: Tensors, h: np.ndarray, context: np.ndarray, ahead: np.ndarray, middle: int) -> np.ndarray:
    """All quantiles of all steps, from h and from what is known of each step ahead.

        z = tanh(W_g [h, context] + b_g + W_u u)          # [K, D], one row for each step
        o = W_o z + b_o                                   # [K, Q]
        median = o_mid + w_s u;   the quantiles beside it: each one softplus(o) further out than the one before

    Args:
        h: [N, H]. context: [N, 3]. ahead: u, [N, K, U]; see `runtime.window.Window`.
        middle: which of the quantiles is the median.

    Returns:
        [N, K, Q] in spreads, rising along the last axis.
    """
    # a row times a matrix that lies so takes two thirds of the time
    head, own = np.asfortranarray(weights["head.weight"]), np.asfortranarray(weights["ahead.weight"])
    z = each_row(np.concatenate([h, context], axis=1), head)
    z += weights["head.bias"]
    z = z.reshape(ahead.shape[0], ahead.shape[1], -1)
    z += ahead @ own.T
    out = np.tanh(z, out=z) @ weights["out.weight"].T + weights["out.bias"]  # [N, K, Q]
    return spread_out(out, (ahead @ weights["skip.weight"].T)[..., 0], middle)


def spread_out(out: np.ndarray, base: np.ndarray, middle: int) -> np.ndarray:
    """Quantiles that cannot cross: the median is out[..., middle] + base, each other one a softplus further out.

    >>> spread_out(np.zeros((1, 3)), np.zeros(1), 1).round(3).tolist()
    [[-0.693, 0.0, 0.693]]
    """
    found = np.maximum(out, 0) + np.log1p(np.exp(-np.abs(out)))  # softplus
    found[..., middle] = out[..., middle] + base
    for q in range(middle + 1, out.shape[-1]):
        found[..., q] += found[..., q - 1]
    for q in reversed(range(middle)):
        found[..., q] = found[..., q + 1] - found[..., q]
    return found


def decode(decoder: Decoder, weights: Tensors, h: np.ndarray, context: np.ndarray, ahead: np.ndarray) -> np.ndarray:
    """The quantiles in spreads, [N, K, Q]: of the direct decoder in float32, as the network is, of the linear in float64."""
    if decoder.kind == "linear":
        return linear({name: w.astype(np.float64) for name, w in weights.items()}, h, ahead.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):  # whether a forecast is finite is looked at in the end
        return direct(weights, h, context, ahead, decoder.quantiles.index(0.5))
