"""Exponential smoothing of many series at once: the filter, its fit, the choice among forms, and the Theta method.

Legend: S series, R series of one block, T steps, K steps of the horizon, m steps of a season, C candidates, P parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from openlstm.runtime.blocks import Block, blocks, seasonal, seasons, total

LOW = np.array([1e-4, 1e-4, 1e-4, 0.8, -np.inf, -np.inf])
HIGH = np.array([0.9999, 0.9999, 0.9999, 0.98, np.inf, np.inf])
"""Of the parameters: alpha, beta / alpha, gamma / (1 - alpha), phi, and level and slope before the first step, as they differ
from a first guess, in mean steps of the series. Within them every filter is stable (Hyndman et al. 2008, usual region)."""
NUDGE = np.array([1e-3, 1e-3, 1e-3, 1e-3, 1e-2, 1e-3])
DAMPINGS = (1e-3, 1e-1, 1e1, 1e3)
ROUNDS = 3
"""Six take a third longer and lower the one-step errors of the past further, but not those of forecasts (seen on M3)."""
REFINED = 2
"""So many of the forms are refined, the best after the grid."""


class Form(NamedTuple):
    """A kind of exponential smoothing: `product` has errors in percent, and a season that multiplies."""

    trend: bool
    damped: bool
    season: int  # 1 without
    product: bool

    @property
    def free(self) -> list[int]:
        """The parameters it has, as positions in `LOW`."""
        return [0] + [1] * self.trend + [2] * (self.season > 1) + [3] * self.damped + [4] + [5] * self.trend

    @property
    def freedom(self) -> int:
        """How many numbers are fitted: parameters, seasons at the beginning, and the variance."""
        return len(self.free) + self.season

    @property
    def grid(self) -> np.ndarray:
        """Where the search begins, [C, P]."""
        alphas = (0.1, 0.4, 0.8) if self.trend else (0.03, 0.1, 0.3, 0.6, 0.95)
        betas = (0.05, 0.3) if self.trend else (0.0,)
        gammas = (0.02, 0.2) if self.season > 1 else (0.0,)
        return np.array([[a, b, g, 0.93 if self.damped else 1.0, 0.0, 0.0] for a, b, g in product(alphas, betas, gammas)])


def forms(period: int, damped: Sequence[bool] = (False, True)) -> list[Form]:
    """All forms of a period, without trend where `damped` allows it."""
    trends = [(False, False)] * (False in damped) + [(True, d) for d in damped]
    return [Form(*t, m, p) for t in trends for m in sorted({1, period}) for p in (False, True)]


class Start(NamedTuple):
    """The first guess of the state before the first step: level, slope, mean step [R]; seasons [m, R], the last step's last."""

    level: np.ndarray
    slope: np.ndarray
    step: np.ndarray
    season: np.ndarray


class Run(NamedTuple):
    """What a filter leaves.

    products: sums over the known steps of e e' [R, C, C] if asked for, of e^2 [R, C] if not; of the first candidate its errors,
    of the others the difference to these. logs: of product forms the sum of log |forecast| [R, C]. Then the last state.
    """

    products: np.ndarray
    logs: np.ndarray
    level: np.ndarray
    slope: np.ndarray
    season: np.ndarray


def run(block: Block, start: Start, form: Form, p: np.ndarray, cross: bool = False) -> Run:
    """Filter a block with candidates p [R, C, P]. A missing value changes nothing but time: its error counts as zero."""
    y, steps, m = block.y, len(block.y), form.season
    alpha = p[..., 0]
    beta, gamma, phi = alpha * p[..., 1], (1 - alpha) * p[..., 2], p[..., 3]
    level = start.level[:, None] + start.step[:, None] * p[..., 4]
    slope = start.slope[:, None] + start.step[:, None] * p[..., 5] if form.trend else np.zeros_like(level)
    season = np.repeat(start.season[:, :, None], p.shape[1], axis=2)  # [m, R, C]
    products = np.zeros(p.shape[:2] + p.shape[1:2] * cross)
    logs, size = np.zeros_like(level), np.ones_like(level)
    least = 1e-6 * start.step[:, None]
    for t in range(steps):
        n = block.begun[t]
        if not n:
            continue
        s = season[(t - steps) % m, :n]
        base = level[:n]
        if form.trend:
            move = slope[:n] * phi[:n] if form.damped else slope[:n]
            base = base + move
        now = y[t, :n, None]
        if form.product:
            base = np.maximum(base, least[:n])
            forecast = base * s if m > 1 else base
            d = now - forecast
            gap = np.isnan(now[:, 0])
            d[gap] = 0.0
            size[:n] *= np.where(gap[:, None], 1.0, forecast)
            error, r = d / forecast, d / s if m > 1 else d
            if (steps - t) % 8 == 0:  # a logarithm of 8 factors is one logarithm
                logs += np.log(size)
                size[:] = 1.0
        else:
            d = now - base - s if m > 1 else now - base
            if not block.whole[t]:
                d[np.isnan(now[:, 0])] = 0.0
            error = r = d
        level[:n] = base + alpha[:n] * r
        if form.trend:
            slope[:n] = move + beta[:n] * r
        if m > 1:
            s += gamma[:n] * (d / base if form.product else d)
        if cross:
            error[:, 1:] -= error[:, :1]
            products[:n] += error[:, :, None] * error[:, None, :]
        else:
            products[:n] += error * error
    return Run(products, logs + np.log(size), level, slope, season)


def begin(block: Block, form: Form) -> Start:
    """A first guess from a straight line through the first seasons, the season taken out."""
    y, m = block.y, form.season
    season = seasons(y, m, form.product) if m > 1 else np.full((1, y.shape[1]), 1.0 if form.product else 0.0)
    tiled = season[(np.arange(len(y)) - len(y)) % m]
    y = y / tiled if form.product else y - tiled
    t = np.arange(1, len(y) + 1)[:, None] - block.first
    known = ~np.isnan(y)
    early = known & (t <= max(10, 2 * m))
    count, t = np.maximum(early.sum(0), 1), np.where(early, t, 0).astype(np.float64)
    mean_y, mean_t = total(np.where(early, y, 0.0)) / count, total(t) / count
    dt = np.where(early, t - mean_t, 0.0)
    slope = total(dt * np.where(early, y - mean_y, 0.0)) / np.maximum(total(dt * dt), 1.0)
    pairs = known[1:] & known[:-1]
    step = total(np.where(pairs, np.abs(y[1:] - y[:-1]), 0.0)) / np.maximum(pairs.sum(0), 1) if len(y) > 1 else 0 * mean_y
    step = np.where(step > 1e-9 * np.abs(mean_y), step, np.where(mean_y != 0, 1e-3 * np.abs(mean_y), 1.0))
    if not form.trend:
        return Start(mean_y, np.zeros_like(slope), step, season)
    level = mean_y - slope * mean_t
    return Start(np.maximum(level, 0.1 * mean_y) if form.product else level, slope, step, season)


def cost(block: Block, result: Run, form: Form, start: Start) -> np.ndarray:
    """-2 log likelihood [R, C] but for a constant; errors far below the steps of the series count as rounding."""
    n = (~np.isnan(block.y)).sum(0)[:, None]
    size = np.abs(start.level) + start.step
    least = n * (1e-12 * (1.0 if form.product else size[:, None])) ** 2
    value = n * np.log(np.maximum(result.products, least) / n) + 2 * result.logs * form.product
    return np.where(np.isnan(value), np.inf, value)


def refine(block: Block, form: Form, start: Start, p: np.ndarray, rounds: int = ROUNDS) -> tuple[np.ndarray, np.ndarray]:
    """Better parameters [R, P] near p, and their cost [R]: Levenberg-Marquardt steps on the one-step errors, within the bounds.

    A product form minimises (sum e^2) g^2, g the geometric mean of its forecasts: the errors e g are those of least squares.
    """
    free = np.array(form.free)
    rows, d = np.arange(len(p)), len(free)
    n = (~np.isnan(block.y)).sum(0)
    best = cost(block, run(block, start, form, p[:, None]), form, start)[:, 0]
    for _ in range(rounds):
        h = np.where(p[:, free] + NUDGE[free] > HIGH[free], -NUDGE[free], NUDGE[free])  # [R, d]
        nudged = np.repeat(p[:, None], d + 1, axis=1)
        nudged[:, 1 + np.arange(d), free] += h
        out = run(block, start, form, nudged, cross=True)
        z = out.products  # [R, d + 1, d + 1]
        if form.product:
            w = np.exp((out.logs[:, 1:] - out.logs[:, :1]) / n[:, None])
            mix = np.zeros_like(z)
            mix[:, 0, 0] = 1.0
            mix[:, 1:, 0] = w - 1
            mix[:, 1 + np.arange(d), 1 + np.arange(d)] = w
            z = mix @ z @ mix.transpose(0, 2, 1)
        gradient = z[:, 1:, 0] / h
        hessian = z[:, 1:, 1:] / (h[:, :, None] * h[:, None, :])
        stuck = ((p[:, free] <= LOW[free]) & (gradient > 0)) | ((p[:, free] >= HIGH[free]) & (gradient < 0))
        stuck |= ~(np.isfinite(gradient) & np.isfinite(hessian).all(2))
        gradient = np.where(stuck, 0.0, gradient)
        hessian = np.where(stuck[:, :, None] | stuck[:, None, :], 0.0, hessian)
        diagonal = hessian[:, np.arange(d), np.arange(d)]
        diagonal = np.where(diagonal > 0, diagonal, 1.0)
        trial = np.repeat(p[:, None], len(DAMPINGS), axis=1)  # [R, C, P]
        for c, damping in enumerate(DAMPINGS):
            damped = hessian + (damping * diagonal)[:, :, None] * np.eye(d)
            trial[:, c, free] -= np.linalg.solve(damped, gradient[:, :, None])[:, :, 0]
        trial = np.clip(trial, LOW, np.where(np.isin(np.arange(len(HIGH)), free), HIGH, np.inf))
        costs = cost(block, run(block, start, form, trial), form, start)
        c = np.argmin(costs, axis=1)
        better = costs[rows, c] < best
        p = np.where(better[:, None], trial[rows, c], p)
        best = np.where(better, costs[rows, c], best)
    return p, best


def fit_form(block: Block, form: Form) -> tuple[Start, np.ndarray, np.ndarray]:
    """The best of the grid: the start, parameters [R, P], cost [R]."""
    start = begin(block, form)
    grid = np.repeat(form.grid[None], block.y.shape[1], axis=0)
    costs = cost(block, run(block, start, form, grid), form, start)
    c = np.argmin(costs, axis=1)
    return start, grid[np.arange(len(c)), c], costs[np.arange(len(c)), c]


def ahead(state: Run, phi: np.ndarray, form: Form, horizon: int) -> np.ndarray:
    """The forecasts [K, R] from the state of the only candidate."""
    k = np.arange(1, horizon + 1)[:, None]
    moves = np.cumsum(phi**k, axis=0) if form.damped else k
    base = state.level[:, 0] + moves * state.slope[:, 0]
    season = state.season[(k[:, 0] - 1) % form.season, :, 0]
    return base * season if form.product else base + season


def smooth(past: np.ndarray, horizon: int, kinds: Sequence[Form]) -> np.ndarray:
    """Forecasts [S, K] of the form that explains each past best by AICc; the last known value where none can be fitted.

    Source: Hyndman, Koehler, Ord & Snyder 2008, chapters 2, 5 and 7; its errors are Gaussian, in the unit or in percent.

    >>> smooth(np.arange(20.0)[None] % 2 + 5, 3, forms(2)).round(3).tolist()
    [[5.0, 6.0, 5.0]]
    """
    period = max(form.season for form in kinds)
    out = np.full((len(past), horizon), np.nan)
    for rows, unit, block in blocks(past, period, 12 * period):
        with np.errstate(all="ignore"):  # what is not finite costs infinitely much
            out[rows] = (_smooth(block, horizon, kinds) * unit).T
    return out


def _smooth(block: Block, horizon: int, kinds: Sequence[Form]) -> np.ndarray:
    known = ~np.isnan(block.y)
    n, width = known.sum(0), block.y.shape[1]
    positive = np.where(known, block.y, 1.0).min(0) > 0
    aicc = np.full((len(kinds), width), np.inf)
    found: list[tuple[np.ndarray, Block, Start, np.ndarray]] = []
    for i, form in enumerate(kinds):
        k, span = form.freedom, len(block.y) - block.first
        able = (n > k + 1) & (positive | (not form.product)) & ((form.season == 1) | (span >= 2 * form.season))
        rows = np.flatnonzero(able)
        some = block.only(rows)
        start, p, costs = fit_form(some, form)
        aicc[i, rows] = costs + 2 * k + 2 * k * (k + 1) / (n[rows] - k - 1)
        found.append((rows, some, start, p))
    first = np.argsort(aicc, axis=0, kind="stable")[:REFINED]
    chosen = np.zeros_like(aicc, dtype=bool)
    np.put_along_axis(chosen, first, True, axis=0)
    best = np.full(width, np.inf)
    last = block.y[np.maximum(len(block.y) - 1 - np.argmax(known[::-1], axis=0), 0), np.arange(width)]
    out = np.tile(last, (horizon, 1))
    for i, (form, (rows, some, start, p)) in enumerate(zip(kinds, found, strict=True)):
        at = np.flatnonzero(chosen[i, rows])
        if not len(at):
            continue
        some, start, rows = some.only(at), Start(*(a[..., at] for a in start)), rows[at]
        p, costs = refine(some, form, start, p[at])
        k = form.freedom
        costs = costs + 2 * k + 2 * k * (k + 1) / (n[rows] - k - 1)
        new = ahead(run(some, start, form, p[:, None]), p[:, 3], form, horizon)
        better = (costs < best[rows]) & np.isfinite(new).all(0)
        best[rows[better]] = costs[better]
        out[:, rows[better]] = new[:, better]
    return out


def theta(past: np.ndarray, horizon: int, period: int) -> np.ndarray:
    """Forecasts [S, K] of the Theta method: simple exponential smoothing, plus half the slope of a straight line.

    A season that is not by chance is taken out first, as ratios where all values are positive.

    Source: Assimakopoulos & Nikolopoulos 2000; Hyndman & Billah 2003, eq. 8.

    >>> np.diff(theta(np.arange(20.0)[None], 3, 1)).round(3).tolist()  # half of the slope 1
    [[0.5, 0.5]]
    """
    out = np.full((len(past), horizon), np.nan)
    form = Form(False, False, 1, False)
    k = np.arange(1, horizon + 1)[:, None]
    for rows, unit, block in blocks(past, period, 24):
        y = block.y
        known = ~np.isnan(y)
        found, positive = seasonal(block, period), np.where(known, y, 1.0).min(0) > 0
        plus, times = np.zeros((period, len(rows))), np.ones((period, len(rows)))
        if found.any():
            at = np.flatnonzero(found & positive)
            times[:, at] = seasons(y[:, at], period, True)
            at = np.flatnonzero(found & ~positive)
            plus[:, at] = seasons(y[:, at], period, False)
        season = (np.arange(len(y)) - len(y)) % period
        y = (y - plus[season]) / times[season]
        n, t = known.sum(0), np.where(known, np.arange(len(y))[:, None] - block.first, 0.0)
        dt = np.where(known, t - total(t) / n, 0.0)
        middle = total(np.where(known, y, 0.0)) / n
        slope = total(dt * np.where(known, y - middle, 0.0)) / np.maximum(total(dt * dt), 1.0)
        adjusted = Block(y, block.first)
        with np.errstate(all="ignore"):
            start, p, _ = fit_form(adjusted, form)
            p, _ = refine(adjusted, form, start, p)
            level = run(adjusted, start, form, p[:, None]).level[:, 0]
        alpha, span = p[:, 0], len(y) - block.first
        line = level + slope / 2 * (k - 1 + (1 - (1 - alpha) ** span) / alpha)
        season = (k[:, 0] - 1) % period
        out[rows] = ((line * times[season] + plus[season]) * unit).T
    return out
