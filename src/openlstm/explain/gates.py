"""The lecture's figures on the cell and its gates: what the layer is for, each gate opened and closed, kept for ever.

A single LSTM cell with every gate on its own wire: the four inputs are z_i, z_f, z_g, z_o, the input weights are the identity
and the recurrent weights are zero, so that a switch (open, closed or half open) sets each gate at each step. The cell itself is
the one this package trains and ships.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from openlstm import cells, reference
from openlstm.call import Call
from openlstm.engine import choose, recur
from openlstm.explain.charts import Display, Panel, number, panels
from openlstm.reference import Saved, State, Weights

CELL = cells.LSTM()
WIRES = Weights(np.eye(4), np.zeros((4, 1)))
OPEN, CLOSED = 1.0, 0.0
GATES = {"f": "forget gate f", "i": "input gate i", "o": "output gate o"}
WORDS = {"dog": 0.75, "bites": 0.25, "man": -0.5}  # numbers whose sums are exact in any order

Part = tuple[dict[str, Display], dict[str, Any]]
"""What every function of the lecture gives: its figures by name, and the numbers that the page's sentences state."""


def switch(gate: ArrayLike) -> np.ndarray:
    """The pre-activation z that makes sigmoid(z) the wanted value; 1 and 0 exactly, by z = +1000 and -1000."""
    gate = np.asarray(gate, dtype=float)
    with np.errstate(divide="ignore"):
        return np.clip(np.log(gate) - np.log1p(-gate), -1000, 1000)


def wires(i: ArrayLike, f: ArrayLike, signal: ArrayLike, o: ArrayLike) -> np.ndarray:
    """The four inputs [T, 1, 4] that hold the gates at the given values, each a number or [T]."""
    return np.stack(np.broadcast_arrays(switch(i), switch(f), np.asarray(signal, dtype=float), switch(o)), -1)[:, None]


def start(c: float = 0.0) -> State:
    """A state of one unit with h = 0."""
    return State(np.zeros((1, 1)), np.full((1, 1), c))


def on_wires(i: ArrayLike, f: ArrayLike, signal: ArrayLike, o: ArrayLike, c0: float = 0.0) -> dict[str, np.ndarray]:
    """Run the cell with its gates held at the given values. Returns i, f, g, o, c, h, each [T]."""
    saved = saved_by(CELL, wires(i, f, signal, o), WIRES, start(c0))
    return {name: array[:, 0, 0] for name, array in saved.named(CELL).items()}


def saved_by(cell: cells.Cell, x: np.ndarray, weights: Weights, state: State) -> Saved:
    """What a forward pass keeps: gates, cell states and outputs."""
    saved = recur(cell, x, weights, state, save=True).saved
    assert saved is not None  # save=True
    return saved


def pulses(T: int, at: dict[int, float]) -> np.ndarray:
    """A signal that is zero except at some steps, counted from 1."""
    x = np.zeros(T)
    for step, value in at.items():
        x[step - 1] = value
    return x


def dropped_layer(seed: int = 0) -> Part:
    """Three inputs in two orders: the state of a vanilla RNN with one unit, and what is left of it without its layer."""
    texts = ("dog bites man", "man bites dog")
    layer = Weights(np.array([[1.6]]), np.array([[0.9]]))
    with_layer, without = {}, {}
    for text in texts:
        x = np.array([WORDS[word] for word in text.split()])
        h = saved_by(cells.VanillaRNN(), x[:, None, None], layer, State(np.zeros((1, 1)))).h[:, 0, 0]
        with_layer[text] = np.concatenate([[0.0], h])
        without[text] = np.concatenate([[0.0], np.cumsum(x)])
    apart, apart_without = (float(np.ptp([h[-1] for h in both.values()])) for both in (with_layer, without))
    second, second_without = ([float(h[2] - h[1]) for h in both.values()] for both in (with_layer, without))
    facts = {"words": WORDS, "apart": apart, "apart_without": apart_without, "second": second, "second_without": second_without}
    finding = (
        f"The same three inputs in two orders. With the layer the two states end {number(apart)} apart; without it "
        f"{number(apart_without)}. \u201cBites\u201d moves the state by {number(second[0])} after \u201cdog\u201d and by "
        f"{number(second[1])} after \u201cman\u201d; without the layer by {number(second_without[0])} both times, whatever "
        "came before."
    )
    rows = [Panel("state h, with the layer", with_layer), Panel("state h, without it: a mere sum", without)]
    return {"dropped": panels("What is lost without the layer", finding, rows, first_step=0)}, facts


def squashed(seed: int = 0) -> Part:
    """tanh(c): the cell counts up and down without bound, what is shown of it stays between -1 and 1."""
    up, rest, down = 10, 6, 16
    signal = np.concatenate([np.full(up, 0.8), np.zeros(rest), np.full(down, -0.8), np.zeros(rest)])
    run = on_wires(OPEN, OPEN, signal, OPEN)
    c, h = run["c"], run["h"]
    slope = 1 - h**2
    facts = {"c": float(c.max()), "h": float(np.abs(h).max()), "slope": float(slope.min())}
    finding = (
        f"The cell climbs to {number(facts['c'])}; tanh of it never leaves \u22121\u20261. Where the cell is that full, tanh "
        f"is nearly flat: its slope is {number(facts['slope'])} there, and 1 where the cell is empty."
    )
    rows = [
        Panel("input to the cell", {"input": signal}, "bar", 44),
        Panel("the cell, and what is shown of it", {"cell state c": c, "tanh(c)": h}, "line", 110),
    ]
    return {"squashed": panels("A sum has no bounds, its tanh has", finding, rows)}, facts


def forget_gate(seed: int = 0) -> Part:
    """Closed for one step, half closed for ever, and open."""
    T, closed_at = 30, 16
    signal = pulses(T, {4: 1.0, 9: 0.6, 22: -0.8})
    once = np.ones(T)
    once[closed_at - 1] = CLOSED
    runs = {
        "open (f = 1)": on_wires(OPEN, OPEN, signal, OPEN),
        f"closed once, at step {closed_at}": on_wires(OPEN, once, signal, OPEN),
        "a little closed (f = 0.9)": on_wires(OPEN, 0.9, signal, OPEN),
    }
    kept, wiped, leaky = runs.values()
    before, after = wiped["c"][closed_at - 2], wiped["c"][closed_at - 1]
    facts = {
        "at": closed_at,
        "before": before,
        "after": after,
        "kept": kept["c"][closed_at - 1],
        "leaky": leaky["c"][closed_at - 1],
        "h_before": wiped["h"][closed_at - 2],
        "h_after": wiped["h"][closed_at - 1],
    }
    finding = (
        f"Open, the cell still holds {number(facts['kept'])} at step {closed_at}. Closing the gate for this one step takes c "
        f"from {number(before)} to {number(after)}, and h from {number(facts['h_before'])} to {number(facts['h_after'])}. "
        f"With f = 0.9 at every step, {number(facts['leaky'])} is left of it."
    )
    return {"forget": _stack("The forget gate decides what stays", runs, signal, "f", finding, [closed_at])}, facts


def running_sum(seed: int = 0) -> Part:
    """c is the sum of what came in: with f = 1, the bars of i g up to a step add up to the cell at that step."""
    T = 30
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=T)
    gate = rng.choice([CLOSED, 0.5, OPEN], size=T)
    run = on_wires(gate, OPEN, signal, OPEN)
    entered = run["i"] * run["g"]
    summed = np.cumsum(entered)
    facts = {"difference": float(np.abs(summed - run["c"]).max()), "last": float(run["c"][-1]), "bars": T}
    finding = (
        f"The {T} bars add up to {number(facts['last'])}, and that is what the cell holds in the end. At every step, the sum "
        f"of the bars so far and the cell differ by {number(facts['difference'])}."
    )
    rows = [
        Panel("what enters, i · g", {"i · g": entered}, "bar", 70),
        Panel("cell state c", {"cell state c": run["c"], "sum of the bars so far": summed}, "line", 110),
    ]
    return {"sum": panels("The cell is a running sum", finding, rows)}, facts


def input_gate(seed: int = 0) -> Part:
    """Open all the time, and open for three steps only."""
    T, first, last = 30, 8, 10
    steps = np.arange(1, T + 1)
    signal = 0.35 * np.sin(0.9 * steps) + pulses(T, {9: 0.9})
    gate = ((steps >= first) & (steps <= last)).astype(float)
    runs = {
        "always open (i = 1)": on_wires(OPEN, OPEN, signal, OPEN),
        f"open at steps {first} to {last} only": on_wires(gate, OPEN, signal, OPEN),
    }
    always, chosen = runs.values()
    facts = {
        "first": first,
        "last": last,
        "written": chosen["c"][last - 1],
        "end": chosen["c"][-1],
        "moved_closed": float(np.abs(chosen["c"][last:] - chosen["c"][last - 1]).max()),
        "moved_open": float(np.ptp(always["c"][last:])),
    }
    finding = (
        f"While the gate is closed, nothing enters: after step {last} the signal goes on and c moves by "
        f"{number(facts['moved_closed'])}; it stays at {number(facts['end'])}. With the gate open all the time, c "
        f"wanders over a range of {number(facts['moved_open'])}."
    )
    return {"input": _stack("The input gate decides what enters", runs, signal, "i", finding, [first, last])}, facts


def output_gate(seed: int = 0) -> Part:
    """Open all the time, and open for four steps only."""
    T, first, last = 30, 19, 22
    steps = np.arange(1, T + 1)
    signal = pulses(T, {4: 1.0, 13: -0.4})
    gate = ((steps >= first) & (steps <= last)).astype(float)
    runs = {
        "always open (o = 1)": on_wires(OPEN, OPEN, signal, OPEN),
        f"open at steps {first} to {last} only": on_wires(OPEN, OPEN, signal, gate),
    }
    always, shown = runs.values()
    facts = {
        "first": first,
        "last": last,
        "c": shown["c"][first - 1],
        "h_open": shown["h"][first - 1],
        "h_closed": float(np.abs(np.delete(shown["h"], np.arange(first - 1, last))).max()),
        "c_difference": float(np.abs(always["c"] - shown["c"]).max()),
    }
    finding = (
        f"Closed, the gate shows nothing: h is {number(facts['h_closed'])}, although c holds {number(facts['c'])}. Opened at "
        f"step {first}, it shows h = tanh(c) = {number(facts['h_open'])}. The cell does not notice: the two c curves differ by "
        f"{number(facts['c_difference'])}."
    )
    return {"output": _stack("The output gate decides what is shown", runs, signal, "o", finding, [first, last])}, facts


def for_ever(seed: int = 0) -> Part:
    """f = 1, i = 0 keeps every bit; f = 0, i = 1 forgets every bit, both under a live input."""
    starts = (0.9, 0.0, -0.6)
    T = 40
    signal = np.random.default_rng(seed).normal(size=T)
    keep = {f"begins at {number(c0)}": on_wires(CLOSED, OPEN, signal, OPEN, c0)["c"] for c0 in starts}
    fresh = {f"begins at {number(c0)}": on_wires(OPEN, CLOSED, signal, OPEN, c0)["c"] for c0 in starts}
    kept_steps, same = _keeps_for(seed, starts)
    gradient = _gradient_through(signal, starts[0])
    bits = "exactly the bits" if same else "other bits than"
    after_one = [column[0] for column in fresh.values()]
    facts = {
        "steps": kept_steps,
        "same": same,
        "gradient": gradient,
        "first": after_one[0],
        "apart": float(np.ptp(list(fresh.values()), axis=0).max()),
    }
    kept = (
        f"After {kept_steps:,} steps of live input every cell holds {bits} it began with. "
        f"A gradient comes back through {T} steps multiplied by {number(gradient)}."
    )
    afresh = (
        f"One step is enough: wherever the cell began, it now holds tanh of the input, {number(facts['first'])}. "
        f"From there on the three curves differ by {number(facts['apart'])}."
    )
    figures = {
        "kept": _with_start("f = 1, i = 0: kept for ever", kept, keep, starts, signal),
        "afresh": _with_start("f = 0, i = 1: forgotten completely", afresh, fresh, starts, signal),
    }
    return figures, facts


def _stack(title: str, runs: dict[str, dict], signal: np.ndarray, gate: str, finding: str, marks: Sequence[int]) -> Display:
    def of(name: str) -> dict[str, np.ndarray]:
        return {key: run[name] for key, run in runs.items()}

    rows = [
        Panel("signal into the candidate g", {"signal": signal}, "bar", 54),
        Panel(f"{GATES[gate]} (0 closed, 1 open)", of(gate), "step", 54, (-0.08, 1.08)),
        Panel("cell state c", of("c")),
        Panel("output h", of("h")),
    ]
    return panels(title, finding, rows, marks=marks)


def _with_start(
    title: str, finding: str, cells_over_time: dict[str, np.ndarray], starts: Sequence[float], signal: np.ndarray
) -> Display:
    lines = {name: np.concatenate([[c0], c]) for (name, c), c0 in zip(cells_over_time.items(), starts, strict=True)}
    rows = [
        Panel("signal into the candidate g", {"signal": np.concatenate([[0.0], signal])}, "bar", 54),
        Panel("cell state c", lines, "line", 110),
    ]
    return panels(title, finding, rows, first_step=0)


def _keeps_for(seed: int, starts: Sequence[float]) -> tuple[int, bool]:
    """How many steps were run with f = 1, i = 0, and whether every bit was still there: a million where the engine is fast."""
    x = np.zeros((10_000, len(starts), 4), np.float32)
    calls = 100 if choose("auto", CELL, x) == "cpu" else 1
    x[...] = switch([CLOSED, OPEN, 0.5, OPEN])
    x[..., 2] = np.random.default_rng(seed).normal(size=x.shape[:2])
    weights = Weights(WIRES.w_ih.astype(np.float32), WIRES.w_hh.astype(np.float32))
    c0 = np.array(starts, np.float32)[:, None]
    state = State(np.zeros_like(c0), c0)
    for _ in range(calls):
        state = recur(CELL, x, weights, state).state
    return calls * len(x), state.c is not None and state.c.tobytes() == c0.tobytes()


def _gradient_through(signal: np.ndarray, c0: float) -> float:
    """dL/dc_0 for L = c_T, with f = 1 and i = 0."""
    z, state = wires(CLOSED, OPEN, signal, OPEN), start(c0)
    saved = saved_by(CELL, z, WIRES, state)
    end = State(np.zeros((1, 1)), np.ones((1, 1)))
    gradients = reference.backward(Call(CELL, z, WIRES, state), saved, None, end)
    assert gradients.state.c is not None
    return float(gradients.state.c[0, 0])
