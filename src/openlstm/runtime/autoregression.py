"""Autoregressions of many series at once: the order of each by AICc, and forecasts that cannot explode.

Legend: S series, R series of one block, T steps, K steps of the horizon, m steps of a season, L lags.
"""

from __future__ import annotations

import numpy as np

from openlstm.runtime.blocks import Block, blocks, seasonal, seasons, total

MOST_LAGS = 26
"""The largest order."""

TOGETHER = 128
"""Steps whose products are summed in one product of matrices."""


def autoregression(past: np.ndarray, horizon: int, period: int) -> np.ndarray:
    """Forecasts [S, K] of the autoregression that explains each past best by AICc.

    It is one of the values themselves, a season that is not by chance taken out, of their steps, or of their changes from one
    season to the next. Missing values before the end are predicted first. A forecast goes no further beyond what was seen than
    the range of it, for each length of the past.

    >>> autoregression(np.arange(20.0)[None] % 3 + 1, 4, 1).round(3).tolist()
    [[3.0, 1.0, 2.0, 3.0]]
    """
    out = np.full((len(past), horizon), np.nan)
    for rows, unit, block in blocks(past, period, MOST_LAGS * min(past.shape[1], 1000)):
        most = min(MOST_LAGS, period + 2 if period > 9 else 10)
        caps = np.minimum((~np.isnan(block.y)).sum(0) // 4, most)
        for cap in np.unique(caps):
            at = np.flatnonzero(caps == cap)
            out[rows[at]] = (_block(block.only(at), horizon, period, int(cap)) * unit[at]).T
    return out


def _block(block: Block, horizon: int, period: int, most: int) -> np.ndarray:
    """The forecasts [K, R] of orders up to `most`."""
    steps, width = block.y.shape
    known = ~np.isnan(block.y)
    n = known.sum(0)
    centre = total(np.where(known, block.y, 0.0)) / n
    y = block.y - centre
    season = np.zeros((period, width))
    at = np.flatnonzero(seasonal(block, period))
    if len(at):
        season[:, at] = seasons(y[:, at], period, False)
    place = (np.arange(steps + horizon) - steps) % period
    best, lags = np.full(width, np.inf), most + period
    weights, constant, taken = np.zeros((width, lags)), np.full(width, np.nan), np.zeros((period, width))
    for gap in (0, 1, period) if 1 < period < steps else (0, 1):
        out = season if gap < 2 else np.zeros_like(season)
        x = y - out[place[:steps]]
        aicc, phi, mean = _fit(x[gap:] - x[: steps - gap] if gap else x, n, (out != 0).sum(0) + (gap > 0), most)
        full = np.zeros((width, lags))
        full[:, : phi.shape[1]] = phi
        if gap:  # (1 - phi(B)) (1 - B^gap)
            full[:, gap - 1] += 1
            full[:, gap : gap + phi.shape[1]] -= phi
        better = aicc < best
        best[better], weights[better], taken[:, better] = aicc[better], full[better], out[:, better]
        constant[better] = (mean * (1 - phi.sum(1)))[better]
    x = y - taken[place[:steps]]
    low, high = np.nanmin(x, axis=0), np.nanmax(x, axis=0)
    t = np.arange(-lags, steps + horizon)
    x = np.concatenate([np.full((lags, width), np.nan), x, np.full((horizon, width), np.nan)])
    x = np.where(t[:, None] < block.first, x[lags + block.first, np.arange(width)], x)
    for i in np.flatnonzero(np.isnan(x).any(1)):
        reach = (high - low) * (1 + max(t[i] - steps, 0) / n)
        guess = constant + (weights * x[i - lags : i][::-1].T).sum(1)  # the newest first, as the weights
        x[i] = np.where(np.isnan(x[i]), np.clip(guess, low - reach, high + reach), x[i])
    return x[lags + steps :] + centre + taken[place[steps:]]


def _fit(z: np.ndarray, n: np.ndarray, extra: np.ndarray, most: int) -> tuple[np.ndarray, ...]:
    """AICc [R], weights [R, L] and mean [R] of the best order for z [T, R]."""
    known = ~np.isnan(z)
    width = z.shape[1]
    most = max(min(most, len(z) - 1), 0)
    mean = total(np.where(known, z, 0.0)) / np.maximum(known.sum(0), 1)
    z = np.where(known, z - mean, 0.0)
    stack = np.stack([z[most - i : len(z) - i] for i in range(most + 1)], axis=-1)  # [T', R, L + 1]
    whole = np.all([known[most - i : len(z) - i] for i in range(most + 1)], axis=0)
    moments, count = _moments(stack * whole[..., None]), whole.sum(0)
    best, phi = np.full(width, np.inf), np.zeros((width, most))
    power = np.maximum(moments[:, 0, 0], 1e-20 * np.maximum(count, 1))
    for order in range(most + 1):
        right, left = moments[:, 1 : order + 1, 0], moments[:, 1 : order + 1, 1 : order + 1]
        ridge = 1e-8 * np.trace(left, axis1=1, axis2=2) + 1e-30
        w = np.linalg.solve(left + ridge[:, None, None] * np.eye(order), right[:, :, None])[:, :, 0]
        rest = moments[:, 0, 0] - 2 * (w * right).sum(1) + (w[:, :, None] * w[:, None, :] * left).sum((1, 2))
        k = order + 2 + extra
        spare = np.minimum(count, n) - k - 1
        aicc = (
            n * np.log(np.maximum(rest, 1e-12 * power) / np.maximum(count, 1)) + 2 * k + 2 * k * (k + 1) / np.maximum(spare, 1)
        )
        better = (aicc < best) & (spare > 0)
        best[better] = aicc[better]
        phi[better] = 0.0
        phi[better, :order] = w[better]
    return best, phi, mean


def _moments(stack: np.ndarray) -> np.ndarray:
    """The sums over time of the products of any two columns, [R, L, L], of a stack [T, R, L].

    They are added from the newest step on, `TOGETHER` steps in one product, so that zeros in front change nothing, to the bit.
    """
    if stack.shape[2] == 1:  # a product of vectors rounds by how they lie in memory
        return total(stack * stack)[..., None]
    stack = np.concatenate([np.zeros((-len(stack) % TOGETHER, *stack.shape[1:])), stack])
    out = np.zeros((stack.shape[1], stack.shape[2], stack.shape[2]))
    for end in range(len(stack), 0, -TOGETHER):
        part = stack[end - TOGETHER : end].transpose(1, 2, 0)  # [R, L, TOGETHER]
        out += part @ part.transpose(0, 2, 1)
    return out
