"""Autoregressions of many series at once: the order of each by AICc, and forecasts that cannot explode.

Legend: S series, R series of one block, T steps, K steps of the horizon, m steps of a season, L lags.
"""

from __future__ import annotations

import numpy as np

from openlstm.runtime.blocks import Block, blocks, seasonal, seasons, total

MOST_LAGS = 26
"""The largest order."""


def autoregression(past: np.ndarray, horizon: int, period: int) -> np.ndarray:
    """Forecasts [S, K] of the autoregression that explains each past best by AICc.

    It is one of the values themselves, a season that is not by chance taken out, of their steps, or of their changes from one
    season to the next. Missing values before the end are predicted first. A forecast goes no further beyond what was seen than
    the range of it, for each length of the past.
    """
    out = np.full((len(past), horizon), np.nan)
    for rows, unit, block in blocks(past, period, MOST_LAGS * min(past.shape[1], 1000)):
        out[rows] = (_block(block, horizon, period) * unit).T
    return out


def _block(block: Block, horizon: int, period: int) -> np.ndarray:
    y, (steps, width) = block.y, block.y.shape
    known = ~np.isnan(y)
    n = known.sum(0)
    low, high = np.nanmin(y, axis=0), np.nanmax(y, axis=0)
    season = np.zeros((period, width))
    at = np.flatnonzero(seasonal(block, period))
    if len(at):
        season[:, at] = seasons(y[:, at], period, False)
    centre = total(np.where(known, y, 0.0)) / n
    place = (np.arange(steps + horizon) - steps) % period
    plain, flat = y - centre, y - centre - season[place[:steps]]
    best = np.full(width, np.inf)
    lags = MOST_LAGS + max(period, 1)
    weights, constant, out_season = np.zeros((width, lags)), np.zeros(width), np.zeros((period, width))
    for x, gap in ((flat, 0), (flat, 1)) + (((plain, period),) if 1 < period < steps else ()):
        extra = (period - 1) * (season != 0).any(0) if gap < 2 else np.zeros(width, int)
        aicc, phi, mean = _fit(x[gap:] - x[: steps - gap] if gap else x, block.first, n, extra + (gap > 0), period)
        better = aicc < best
        best[better] = aicc[better]
        full = np.zeros((width, lags))
        full[:, : phi.shape[1]] = phi
        if gap:  # (1 - phi(B)) (1 - B^gap)
            full[:, gap - 1] += 1
            full[:, gap : gap + phi.shape[1]] -= phi
        weights[better] = full[better]
        constant[better] = (mean * (1 - phi.sum(1)))[better]
        out_season[:, better] = season[:, better] if gap < 2 else 0.0
    x = y - centre - out_season[place[:steps]]
    start = x[block.first, np.arange(width)]
    series = np.concatenate([np.tile(start, (lags, 1)), x, np.full((horizon, width), np.nan)])
    unknown = np.isnan(series)
    series[: -horizon or None][unknown[: -horizon or None] & (np.arange(lags + steps)[:, None] < lags + block.first)] = 0.0
    early = np.arange(len(series))[:, None] < lags + block.first
    series = np.where(early, start, series)
    reach = (high - low) * (1 + np.arange(1, horizon + 1)[:, None] / n)
    for t in np.flatnonzero(unknown.any(1)):
        # newest first, as the weights
        guess = constant + (weights * series[t - lags : t][::-1].T).sum(1)
        guess = np.clip(guess, low - centre - 2 * (high - low), high - centre + 2 * (high - low)) if t < lags + steps else guess
        series[t] = np.where(unknown[t] & ~early[t], guess, series[t])
    ahead = series[lags + steps :] + centre + out_season[place[steps:]]
    return np.clip(ahead, low - reach, high + reach)


def _fit(z: np.ndarray, first: np.ndarray, n: np.ndarray, extra: np.ndarray, period: int) -> tuple[np.ndarray, ...]:
    """AICc [R], weights [R, L] and mean [R] of the best order for z [T, R]."""
    known = ~np.isnan(z)
    width = z.shape[1]
    most = max(0, min(MOST_LAGS, len(z) // 4, period + 2 if period > 9 else 10))
    mean = total(np.where(known, z, 0.0)) / np.maximum(known.sum(0), 1)
    z = np.where(known, z - mean, 0.0)
    stack = np.stack([z[most - i : len(z) - i] for i in range(most + 1)], axis=-1)  # [T', R, L + 1]
    whole = np.all([known[most - i : len(z) - i] for i in range(most + 1)], axis=0)
    stack = (stack * whole[..., None]).transpose(1, 2, 0)  # [R, L + 1, T']
    moments = stack @ stack.transpose(0, 2, 1)
    count = whole.sum(0)
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
