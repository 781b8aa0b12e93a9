"""Small planted results of every diagnostic, of any size, for the drawings."""

from __future__ import annotations

import numpy as np

from openlstm.insight import (
    Ablation,
    Advice,
    Attribution,
    Candidate,
    Horizon,
    Horizons,
    RequiredLag,
    Retention,
    Saturation,
    Stability,
    StateGradient,
    Streaming,
    Thresholds,
    Tracking,
    Unit,
    UnitActivity,
    Verdict,
    WeightGradient,
)

GATES = ("i", "f", "g", "o")


def saturation(units: int = 5, gates: tuple[str, ...] = GATES) -> Saturation:
    draw = np.random.default_rng(units)
    low = draw.uniform(0, 1, (len(gates), units))
    high, histogram = (1 - low) * draw.uniform(0, 1, low.shape), draw.uniform(0, 1, (len(gates), 20))
    return Saturation("0", gates, low, high, low / 2, low, histogram, 100)


def retention(units: int = 5, longest: int = 60) -> Retention:
    lags = np.arange(longest + 1)
    f = np.linspace(0, 1, units)  # from a unit that keeps nothing to one that keeps all
    with np.errstate(divide="ignore"):
        life = np.where(f == 1, np.inf, np.where(f == 0, 0.0, -np.log(2) / np.log(f)))
    return Retention("0", lags, f[None] ** lags[:, None], life, life, life)


def state_gradient(lags: int = 60, f: float = 0.5, highway: bool = True) -> StateGradient:
    share = f ** np.arange(lags)
    share[-1] = 0.0
    return StateGradient("0", np.arange(lags), share, share * 0.5 if highway else None, 4, 10, "random")


def stability(n: int = 8) -> Stability:
    return Stability("0", np.array([*np.linspace(0.1, -2, n - 1), -np.inf]), 60.0)


def weight_gradient(lags: int = 60) -> WeightGradient:
    share = 0.5 ** np.arange(lags)
    return WeightGradient("0", np.arange(lags), share / share.sum(), None)


def unit_activity(units: int = 5, top: int = 3) -> UnitActivity:
    mask = np.arange(units) % 2 == 0
    largest = tuple((u, 0.1 * (u + 1)) for u in range(min(top, units)))
    return UnitActivity("0", mask, ~mask, mask & False, mask | True, units / 2, None, largest, False)


def ablation(contexts: tuple[int, ...] = (1, 2, 4, 8, 16, 30)) -> Ablation:
    losses = np.array([1.0 / c for c in contexts])
    return Ablation("cut", np.array(contexts), losses, float(losses[-1]), contexts[-1])


def required_lag(longest: int = 200, lag: int | None = 49) -> RequiredLag:
    errors = np.where(np.arange(longest + 1) > (longest if lag is None else lag), 0.4, 1.0)
    return RequiredLag(lag, np.arange(longest + 1), errors, 0 * errors, 300)


def attribution(steps: int = 30, inputs: int = 3, features: tuple[str, ...] = ()) -> Attribution:
    values, rows = np.random.default_rng(0).normal(size=(steps, inputs)), np.zeros(1)
    names = features or tuple(f"x{k}" for k in range(inputs))
    return Attribution(values, np.abs(values), values[None], rows, 0.0, rows, 0.0, rows, rows, 4, names)


def tracking(columns: int = 4, place: str = "0") -> Tracking:
    names = tuple(f"column {k}" for k in range(columns))
    best = tuple(Unit(k, name, 0.9 - 0.2 * k, 0.1, 0.1, 0.2) for k, name in enumerate(names))
    return Tracking(place, "c", names, names, np.zeros((columns, columns)), best, (), (), ())


def streaming(steps: int = 100) -> Streaming:
    return Streaming("0", 0.0, 7, 0.5 ** np.arange(steps), 0.0)


def horizons() -> Horizons:
    lags = (("required", 120, None), ("window", 200, None), ("gradient", 0, None), ("flip", np.inf, 199))
    return Horizons(tuple(Horizon(name, lag, "a note", beyond) for name, lag, beyond in lags))


def verdict() -> Verdict:
    return Verdict("blocked", 40, 1e-12, 0.0, Thresholds(1e-3, 7e-3), "Nothing arrives.")


def advice(names: tuple[str, ...] = ("chrono 120", "forget-bias 1", "orthogonal")) -> Advice:
    tried = tuple(
        Candidate(
            name, name.replace(" ", "="), "layer", 10.0 ** (-12 * k), 0.0 if k else 0.2, "blocked" if k else "not blocked"
        )
        for k, name in enumerate(names)
    )
    return Advice(verdict(), tried, tried[0])
