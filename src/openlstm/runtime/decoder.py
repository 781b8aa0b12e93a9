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
    """The product of each row of x [N, A] and a matrix [B, A], [N, B], row by row in float64.

    A product of matrices may round a row differently in another batch, and a product of a large matrix with other threads.
    """
    x, most = x[:, None].astype(np.float64), max(4, TOGETHER // max(x.shape[1], 1) // 4 * 4)
    return np.concatenate([(x @ weight[k : k + most].T)[:, 0] for k in range(0, len(weight), most)], axis=1)


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
    given = each_row(np.concatenate([h, context], axis=1), weights["head.weight"]) + weights["head.bias"]
    z = np.tanh(given.reshape(ahead.shape[0], ahead.shape[1], -1) + ahead @ weights["ahead.weight"].T)
    out = z @ weights["out.weight"].T + weights["out.bias"]  # [N, K, Q]
    return spread_out(out, (ahead @ weights["skip.weight"].T)[..., 0], middle)


def spread_out(out: np.ndarray, base: np.ndarray, middle: int) -> np.ndarray:
    """Quantiles that cannot cross: the median is out[..., middle] + base, each other one a softplus further out.

    >>> spread_out(np.zeros((1, 3)), np.zeros(1), 1).round(3).tolist()
    [[-0.693, 0.0, 0.693]]
    """
    steps = np.logaddexp(0, out)
    median = out[..., middle : middle + 1] + base[..., None]
    above = median + np.cumsum(steps[..., middle + 1 :], axis=-1)
    below = median - np.cumsum(steps[..., :middle][..., ::-1], axis=-1)[..., ::-1]
    return np.concatenate([below, median, above], axis=-1)


def decode(decoder: Decoder, weights: Tensors, h: np.ndarray, context: np.ndarray, ahead: np.ndarray) -> np.ndarray:
    """The quantiles in spreads, float64 [N, K, Q]."""
    h = h.astype(np.float64)
    weights = {name: w.astype(np.float64) for name, w in weights.items()}
    if decoder.kind == "linear":
        return linear(weights, h, ahead.shape[1])
    return direct(weights, h, context.astype(np.float64), ahead.astype(np.float64), decoder.quantiles.index(0.5))
