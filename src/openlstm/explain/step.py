"""The lecture's figures on the step as a whole: three gates of one form, one step with numbers, old and new.

One unit with one input, its weights drawn from the seed: small enough to be followed with a pocket calculator.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from openlstm import reference
from openlstm.explain.charts import Panel, number, panels, side_by_side
from openlstm.explain.gates import CELL, GATES, Part, saved_by, start
from openlstm.reference import State, Weights

STEPS = 24


class Run(NamedTuple):
    """One unit over some steps. z, gates: gate -> [T]; before: the cell on entering each step, c and h after it, [T]."""

    z: dict[str, np.ndarray]
    gates: dict[str, np.ndarray]
    before: np.ndarray
    c: np.ndarray
    h: np.ndarray


def same_form(seed: int = 0) -> Part:
    """The three gates of one unit side by side: what the layer sums up, the sigmoid of it, and what it multiplies."""
    run = _run(seed)
    multiplies = {"f": run.before, "i": run.gates["g"], "o": np.tanh(run.c)}
    columns, wrong, shares = {}, 0.0, []
    for gate, before in multiplies.items():
        value = run.gates[gate]
        columns[GATES[gate]] = [
            Panel("sum z", {"sum z of the layer": run.z[gate]}, "line", 64),
            Panel("gate σ(z)", {"gate, σ(z)": value}, "step", 54, (-0.05, 1.05)),
            Panel("multiplied", {"before the multiplication": before, "after it": value * before}, "line", 84),
        ]
        wrong = max(wrong, float(np.abs(value - 1 / (1 + np.exp(-run.z[gate]))).max()))
        shares.append((float(value.min()), float(value.max())))
    after = {"f": run.gates["f"] * run.before, "i": run.gates["i"] * run.gates["g"], "o": run.h}
    larger = max(float((np.abs(after[k]) - np.abs(multiplies[k])).max()) for k in multiplies)
    facts = {"shares": dict(zip(multiplies, shares, strict=True)), "difference": wrong, "larger": larger}
    spans = ", ".join(f"{name} runs from {number(low)} to {number(high)}" for name, (low, high) in facts["shares"].items())
    finding = (
        f"Over these {STEPS} steps {spans}. What they multiply is the old cell on the left, the candidate in the middle, and "
        "tanh of the new cell on the right; being shares, they never make it larger."
    )
    return {"form": side_by_side("The gates of one cell, side by side", finding, columns)}, facts


def one_step(seed: int = 0) -> Part:
    """One step with weights of two digits, so that a pocket calculator can follow."""
    w, u, b = _weights(seed)
    x, h, c = np.random.default_rng([seed, 1]).normal(size=3).round(2)
    weights = Weights(w[:, None], u[:, None], b, np.zeros(4))
    state, gates = reference.step(CELL, np.array([[x]]), State(np.array([[h]]), np.array([[c]])), weights)
    activated = {name: float(a[0, 0]) for name, a in zip(CELL.saved, gates, strict=True)}
    rows = [
        {"gate": name, "w": w[k], "u": u[k], "b": b[k], "z": w[k] * x + u[k] * h + b[k], "value": activated[name]}
        for k, name in sorted(enumerate(CELL.gates), key=lambda at: "figo".index(at[1]))  # as in the six lines
    ]
    assert state.c is not None
    new = {"c_new": float(state.c[0, 0]), "h_new": float(state.h[0, 0])}
    return {}, {"x": x, "h": h, "c": c, "rows": rows, **activated, **new}


def old_and_new(seed: int = 0) -> Part:
    """What stays of the old cell and what enters of the new, step by step: the two add up to the cell."""
    run = _run(seed)
    stays, enters = run.gates["f"] * run.before, run.gates["i"] * run.gates["g"]
    facts: dict[str, Any] = {"difference": float(np.abs(stays + enters - run.c).max())}
    facts["most_kept"], facts["most_new"] = (int(run.gates[k].argmax()) + 1 for k in "fi")
    most, most_new = facts["most_kept"], facts["most_new"]
    f, i = number(run.gates["f"][most - 1]), number(run.gates["i"][most_new - 1])
    old = f"f is largest at step {most}, {f}: most of the old stays."
    new = f"i is largest at step {most_new}, {i}: most of the new enters."
    finding = (
        f"{old} {new} At every step the two bars add up to the cell; they miss it by at most {number(facts['difference'])}."
    )
    old, new = "old that stays, f · c(t−1)", "new that enters, i · g"
    rows = [
        Panel("how much of each: f and i", {old: run.gates["f"], new: run.gates["i"]}, "step", 60, (-0.05, 1.05)),
        Panel("the two parts of c", {old: stays, new: enters}, "stack", 90),
        Panel("cell state c", {"c": run.c}, "bar", 70),
    ]
    return {"parts": panels("How much of the old stays, how much of the new enters", finding, rows)}, facts


def _weights(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the input, of the state, and the bias, for i, f, g, o: [4] each, with two digits."""
    rng = np.random.default_rng(seed)
    w, u = rng.choice([-1, 1], size=(2, 4)) * rng.uniform(0.4, 1.6, size=(2, 4)).round(2)
    return w, u, (0.6 * rng.normal(size=4)).round(2)


def _run(seed: int) -> Run:
    """The unit of `one_step` over random inputs."""
    w, u, b = _weights(seed)
    x = np.random.default_rng([seed, 2]).normal(size=STEPS)
    saved = saved_by(CELL, x[:, None, None], Weights(w[:, None], u[:, None], b, np.zeros(4)), start())
    column = {name: array[:, 0, 0] for name, array in saved.named(CELL).items()}
    h_before, c_before = (np.concatenate([[0.0], column[name][:-1]]) for name in "hc")
    z = {gate: w[k] * x + u[k] * h_before + b[k] for k, gate in enumerate(CELL.gates)}
    return Run(z, {gate: column[gate] for gate in CELL.gates}, c_before, column["c"], column["h"])
