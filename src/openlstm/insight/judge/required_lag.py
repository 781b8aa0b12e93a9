"""How much of the past the data ask for: the smallest context beyond which a held-out linear model stops improving.

Legend: T time, B batch, I input size, D target size, N samples, c context (the last c inputs: lags 0 .. c-1), K longest one.

    w_c        = argmin || y - X_c w ||^2 + a || w ||^2           X_c = the last c inputs of every sample, the latest first
    error(c)   = held-out squared error of w_c / that of the mean of y,   error(0) = 1
    required lag = c - 1 for the smallest c whose error is that of the best context: not more than 1 % or 0.001 above it, or
                   above it by less than two standard errors of the paired difference
    nearer(k)  = (1 - min error(c <= k)) / (1 - min error(c))     the share that lags nearer than k already tell

One Cholesky factor serves every context. With the inputs sorted by lag, L L^T = X^T X + a is built from its leading blocks, so
the forecast of context c is the sum of the first c blocks of (X L^-T) (L^-1 X^T y).

Why not the autocorrelation: a sine of period 100 is most like itself 100 steps ago and needs two steps; a yearly series is most
like last year, and a network that sees a season learns its way there step by step. What such a model cannot see is a lag that
matters only together with another one (parity, an order of two marks): then `lag` is None, and it says so.

The first two thirds of the samples fit, the last third judges, `a` is the best of five on that third for each context alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from openlstm import _array as A
from openlstm._array import Array
from openlstm.errors import ArgumentError, ShapeError, describe
from openlstm.insight import charts
from openlstm.insight.display import FINE, SERIES, Chart, Display, alt
from openlstm.insight.results import Asked, Result

SAMPLES = 3_000  # most samples that are taken, evenly spread
FEATURES = 1_024  # most columns of X
FEWEST = 96  # samples, below which nothing can be told
RIDGES = (1e-6, 1e-4, 1e-2, 1e-1, 1.0)  # times N; the columns of X have unit variance
CLASSES = 256  # most classes of an integer target that are told apart


@dataclass(frozen=True)
class RequiredLag(Result):
    """What a linear model says of the context.

    lag: the furthest lag that is needed; None where the model finds nothing at all.
    contexts, errors: [K+1], context 0 .. K and its held-out error relative to that of the mean.
    doubts: [K+1], the standard error of 1 - error.
    samples: N.
    own: whether there was no target, and y is the next step of x.
    """

    shown: ClassVar[tuple[str, ...]] = ("explained", "finding")

    lag: int | None
    contexts: np.ndarray
    errors: np.ndarray
    doubts: np.ndarray
    samples: int
    own: bool = False

    @property
    def explained(self) -> float:
        """The share of the variance of y that the best context tells, held out."""
        return float(max(0.0, 1 - self.errors.min()))

    def nearer(self, lag: int) -> float:
        """The share of what can be told that is told by lags 0 .. lag-1, 0 to 1; 0 where it may be chance."""
        if self.lag is None:
            return 0.0
        best = int(self.errors[: lag + 1].argmin())
        told = 1 - float(self.errors[best])
        return min(1.0, told / self.explained) if _tells(told, float(self.doubts[best])) else 0.0

    @property
    def finding(self) -> str:
        """One sentence."""
        what = "the next step of the inputs" if self.own else "the target"
        told = "it" if self.own else what
        if self.lag is None:
            return f"No linear model of up to {self.contexts[-1]} steps tells anything of {what}: its lag is not to be seen."
        steps = "the last step" if self.lag == 0 else f"the last {self.lag + 1} steps"
        need = f"To tell the next step of the inputs takes lag {self.lag}" if self.own else f"The data need lag {self.lag}"
        return f"{need}: a linear model of {steps} tells {self.explained:.0%} of {told}, a longer one hardly more."

    @classmethod
    def displays(cls, found: Mapping[str, RequiredLag], asked: Asked) -> tuple[Display, ...]:
        """The held-out error of a linear model by the context it sees: the smallest that is enough is what the data need."""
        return tuple(map(_drawn, found.values()))


def required_lag(x: Array, y: Array | None = None, *, longest: int | None = None, features: int = FEATURES) -> RequiredLag:
    """Find the smallest context beyond which a held-out linear model stops improving.

    Args:
        x: [T, B, I], or one series [T, I] or [T].
        y: [B] or [B, D], a target for the end of each sequence; [T, B] or [T, B, D], one for every step; None for the next step
            of x itself. Integers are classes.
        longest: the longest context K (default: T for a target at the end, half of T for one at every step).
        features: most columns of X; inputs that are too wide for it are reduced to their first principal components.

    Raises:
        ShapeError: if x or y have other shapes.
        ArgumentError: for fewer than 96 samples, or a context outside the sequence.

    >>> noise = np.random.default_rng(0).normal(size=2000)
    >>> x = noise.copy()
    >>> for t in range(2, 2000):
    ...     x[t] += 1.2 * x[t - 1] - 0.5 * x[t - 2]
    >>> required_lag(x, longest=40).lag  # the last two values, whatever the autocorrelation says
    1
    """
    data, target, ends = _read(x, y)
    T, B, width = data.shape
    K = longest if longest is not None else (T if ends else T // 2)
    if not 1 <= K <= T:
        hint = "choose a context within the sequence"
        raise ArgumentError.of("required_lag", "the context is outside the sequence", f"longest={K}", f"1 .. {T}", hint)
    at = np.full(B, T - 1) if ends else np.repeat(np.arange(K - 1, T), B)  # the last step of each sample, in order of time
    row = np.arange(B) if ends else np.tile(np.arange(B), T - K + 1)
    some = np.unique(np.linspace(0, len(at) - 1, min(len(at), SAMPLES)).astype(int))
    at, row = at[some], row[some]
    N = len(at)
    if N < FEWEST:
        hint = "pass more sequences, or a longer one"
        raise ArgumentError.of("required_lag", "too few samples to fit and to judge", f"{N} samples", f">= {FEWEST}", hint)
    fit = 2 * N // 3
    y_all = target[row] if ends else target[at, row]  # [N, D]
    y_all = y_all - y_all[:fit].mean(0)
    data = _reduced(data, max(1, features // K))
    lags = np.arange(K)
    X = data[at[:, None] - lags, row[:, None]].reshape(N, -1)  # [N, K * I], the latest first
    X = X - X[:fit].mean(0)
    losses = _losses(X, y_all, fit, K)  # [K+1, held out]
    return _decide(losses, N, y is None)


def _losses(X: np.ndarray, y: np.ndarray, fit: int, K: int) -> np.ndarray:
    """Squared error of every held-out sample by context, each with its best ridge."""
    P = X.shape[1]
    width = P // K
    gram, to = X[:fit].T @ X[:fit] / fit, X[:fit].T @ y[:fit] / fit
    right = torch.from_numpy(np.concatenate([to, X[fit:].T], 1))  # [P, D + n]
    judged = y[fit:]
    best = np.tile((judged**2).sum(1), (K + 1, 1))  # context 0 for a start: [K+1, n]
    for ridge in RIDGES:
        L = torch.linalg.cholesky(torch.from_numpy(gram + ridge * np.eye(P)))
        both = torch.linalg.solve_triangular(L, right, upper=False).numpy()
        z, Q = both[:, : to.shape[1]], both[:, to.shape[1] :].T  # [P, D], [n, P]
        left = judged.copy()
        for c in range(1, K + 1):
            block = slice((c - 1) * width, c * width)
            left -= Q[:, block] @ z[block]
            own = (left**2).sum(1)
            if own.mean() < best[c].mean():
                best[c] = own
    return best


def _decide(losses: np.ndarray, samples: int, own: bool) -> RequiredLag:
    scale = losses[0].mean()
    losses = losses / (scale if scale > 0 else 1.0)
    errors = losses.mean(1)
    best = int(errors.argmin())

    gains = losses[0] - losses
    doubts = gains.std(1) / np.sqrt(losses.shape[1])

    def above(c: int) -> tuple[float, float]:  # how far above the best context, and the standard error of that
        difference = losses[c] - losses[best]
        return float(difference.mean()), float(difference.std() / np.sqrt(len(difference)))

    lag = None
    if scale > 0 and _tells(1 - float(errors[best]), float(doubts[best])):
        lag = next(c for c in range(best + 1) if _as_good(*above(c), float(errors[best]))) - 1
    return RequiredLag(None if lag is None else max(lag, 0), np.arange(len(errors)), errors, doubts, samples, own)


def _tells(gain: float, doubt: float) -> bool:
    """Whether a model does better than the mean by more than chance: three standard errors, and 1 %."""
    return gain > max(0.01, 3 * doubt)


def _as_good(more: float, doubt: float, best: float) -> bool:
    return more <= max(0.01 * best, 1e-3, 2 * doubt)


def _reduced(data: np.ndarray, width: int) -> np.ndarray:
    """Inputs of unit variance, reduced to their first principal components where they are too wide."""
    flat = data.reshape(-1, data.shape[-1])
    flat = flat - flat.mean(0)
    spread = flat.std(0)
    flat = flat / np.where(spread > 1e-12, spread, 1.0)
    if flat.shape[1] > width:
        _, vectors = np.linalg.eigh(flat.T @ flat)
        flat = flat @ vectors[:, ::-1][:, :width]
    return flat.reshape(*data.shape[:2], -1)


def _read(x: Array, y: Array | None) -> tuple[np.ndarray, np.ndarray, bool]:
    """x [T, B, I] float64, y [B, D] or [T, B, D] float64, and whether y stands at the end only."""
    data = np.asarray(A.as_like(x, np.empty(0)), np.float64)
    data = data[:, None, None] if data.ndim == 1 else data[:, None] if data.ndim == 2 else data
    if data.ndim != 3 or not data.size:
        hint = "time comes first; turn a batch_first array with transpose(0, 1)"
        raise ShapeError.of("required_lag", "x is not a sequence", f"x: {describe(x)}", "x: [T, B, I], [T, I] or [T]", hint)
    if not np.isfinite(data).all():
        raise ArgumentError.of("required_lag", "x is not finite", "NaN or infinity", "numbers", "fill or cut what is missing")
    if y is None:
        return data[:-1], data[1:], False
    target = np.asarray(A.as_like(y, np.empty(0)))
    steps, rows = data.shape[:2]
    if target.shape[:2] == (steps, rows) and target.ndim in (2, 3):
        return data, _columns(target, 2), False
    if rows == 1 and target.shape[:1] == (steps,) and target.ndim in (1, 2):
        return data, _columns(target, 1)[:, None], False
    if target.shape[:1] == (rows,) and target.ndim in (1, 2):
        return data, _columns(target, 1), True
    expected = f"y: [{rows}, D] or [{steps}, {rows}, D]"
    hint = "give one target for each sequence, or one for each step"
    raise ShapeError.of("required_lag", "y does not belong to x", f"y: {describe(y)}, x: {describe(x)}", expected, hint)


def _columns(y: np.ndarray, axes: int) -> np.ndarray:
    """[..., D] float64; integers of not too many classes as indicators."""
    if y.ndim == axes:
        if y.dtype.kind in "iub":
            classes = np.unique(y)
            if len(classes) <= CLASSES:
                return (y[..., None] == classes).astype(np.float64)
        y = y[..., None]
    return y.astype(np.float64)


def _drawn(found: RequiredLag) -> Display:

    edge = {0, *(k for k in ((found.lag or 0), (found.lag or 0) + 1) if k < len(found.contexts))}  # never thinned out
    rows = [
        {
            "x": charts.short(max(k, 0.5)),
            "v": charts.short(error),
            "d": f"the last {int(k):,} steps: error {charts.number(error)}",
        }
        for k, error in (
            (found.contexts[at], float(found.errors[at])) for at in sorted({*charts.thinned(found.contexts, 60), *edge})
        )
        if math.isfinite(error)
    ]

    def drawn(width: int) -> Chart:
        top, low = float(found.contexts.max(initial=2)), float(max(found.contexts.min(initial=1), 0.5))
        x = charts.lag_axis(top, "steps seen by the linear model", low=low)
        y = alt.Y("v:Q", title="held-out error", **charts.plain_axis(zero=False))
        drawn = charts.line(rows, x, y, SERIES[2])
        if found.lag is not None:
            drawn = charts.rule_down(float(found.lag + 1), "enough", FINE, x) + drawn
        return drawn.properties(width=width - charts.MARGIN, height=210)

    table = {"context": found.contexts.tolist(), "error": found.errors.tolist()}
    return Display("What the data need: a linear model's error by context", drawn, table, found.finding)
