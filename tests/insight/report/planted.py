"""Small planted results of every diagnostic, of any size, for the drawings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

GATES = ("i", "f", "g", "o")


def census(units: int = 5, gates: tuple[str, ...] = GATES) -> Any:
    draw = np.random.default_rng(units)
    low = draw.uniform(0, 1, (len(gates), units))
    return SimpleNamespace(
        name="0",
        gates=gates,
        low=low,
        high=(1 - low) * draw.uniform(0, 1, low.shape),
        mean=low / 2,
        entropy=low,
        histogram=draw.uniform(0, 1, (len(gates), 20)),
        steps=100,
        finding="0: half open.",
    )


def kept(units: int = 5, longest: int = 60) -> Any:
    lags = np.arange(longest + 1)
    f = np.linspace(0, 1, units)  # from a unit that keeps nothing to one that keeps all
    share = f[None] ** lags[:, None]
    with np.errstate(divide="ignore"):
        life = np.where(f == 1, np.inf, np.where(f == 0, 0.0, -np.log(2) / np.log(f)))
    return SimpleNamespace(
        name="0", lags=lags, kept=share, half_life=life, tau_mean=life, tau_log=life, finding="0: from nothing to all."
    )


def reach(lags: int = 60, f: float = 0.5, highway: bool = True) -> Any:
    k = np.arange(lags)
    share = f**k
    share[-1] = 0.0
    return SimpleNamespace(
        name="0", lags=k, share=share, highway=share * 0.5 if highway else None, k10=4, k1000=10, finding="0: it fades."
    )


def stability(n: int = 8) -> Any:
    return SimpleNamespace(name="0", exponents=np.array([*np.linspace(0.1, -2, n - 1), -np.inf]), finding="0: it fades.")


def ledger(lags: int = 60) -> Any:
    share = 0.5 ** np.arange(lags)
    return SimpleNamespace(name="0", lags=np.arange(lags), share=share / share.sum(), first_non_finite=None, finding="0: near.")


def health(units: int = 5, top: int = 3) -> Any:
    mask = np.arange(units) % 2 == 0
    return SimpleNamespace(
        name="0",
        dead=mask,
        closed=~mask,
        pegged=mask & False,
        never_written=mask | True,
        effective_rank=units / 2,
        importance=None,
        top=tuple((u, 0.1 * (u + 1)) for u in range(min(top, units))),
        exact=False,
        finding="0: half dead.",
    )


def ablation(contexts: tuple[int, ...] = (1, 2, 4, 8, 16, 30)) -> Any:
    losses = np.array([1.0 / c for c in contexts])
    return SimpleNamespace(
        mode="cut", contexts=np.array(contexts), losses=losses, full=losses[-1], uses=contexts[-1], better=None, finding="All."
    )


def needed(longest: int = 200, lag: int | None = 49) -> Any:
    errors = np.where(np.arange(longest + 1) > (longest if lag is None else lag), 0.4, 1.0)
    return SimpleNamespace(lag=lag, contexts=np.arange(longest + 1), errors=errors, finding="Lag 49.")


def attribution(steps: int = 30, inputs: int = 3) -> Any:
    values = np.random.default_rng(0).normal(size=(steps, inputs))
    return SimpleNamespace(values=values, features=tuple(f"x{k}" for k in range(inputs)), finding="The last step.")


def tracking(columns: int = 4, place: str = "0") -> Any:
    best = tuple(SimpleNamespace(unit=k, column=f"column {k}", r=0.9 - 0.2 * k, iou=0.1) for k in range(columns))
    return SimpleNamespace(name=place, best=best, finding="0: unit 0 tracks column 0.")


def streaming(steps: int = 100) -> Any:
    return SimpleNamespace(name="0", difference=0.5 ** np.arange(steps), warm_up=7, finding="0: seven steps.")


def ladder() -> Any:
    def rung(name: str, lag: float, beyond: int | None = None) -> Any:
        return SimpleNamespace(name=name, lag=lag, note="a note", beyond=beyond)

    rungs = (rung("needed", 120), rung("window", 200), rung("gradient", 0), rung("flip", np.inf, 199))
    return SimpleNamespace(rungs=rungs, finding="In steps.")


def advice(names: tuple[str, ...] = ("chrono 120", "forget-bias 1", "orthogonal")) -> Any:
    tried = tuple(
        SimpleNamespace(
            name=name,
            flag=name.replace(" ", "="),
            line="layer",
            share=10.0 ** (-12 * k),
            flip=0.0 if k else 0.2,
            verdict="blocked" if k else "not blocked",
        )
        for k, name in enumerate(names)
    )
    return SimpleNamespace(tried=tried, best=tried[0], finding="Take chrono.", notes=())
