"""The lecture's figures on gradients: why a vanilla RNN's vanish, the highway, and that nothing is guaranteed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from openlstm import cells, reference
from openlstm.call import Call
from openlstm.explain.charts import curves, matrices, number
from openlstm.explain.gates import CELL, WIRES, Part, saved_by, start, wires
from openlstm.insight import first_below, gate_retention, half_life, products, sizes, step_jacobians
from openlstm.lab.arms import Reader
from openlstm.lab.tasks.latch import latch_batch
from openlstm.lab.trial import share_by_lag
from openlstm.nn import LSTM, RNN, init
from openlstm.reference import State, Weights

BLOCKED = 1e-3  # below this share of the gradient a lag was hardly ever learnt
FACTORS = (1, 4, 8, 12)  # by which recurrent weights are multiplied until a gradient explodes


def vanishing(seed: int = 0) -> Part:
    """The product of the Jacobians of a vanilla RNN as torch begins it, step by step."""
    T, H = 40, 8
    default, orthogonal = (_rnn(H, seed, make) for make in (None, init.orthogonal))
    x = np.random.default_rng(seed).normal(size=(T, 1, 1))
    J, P, h = _run_rnn(default, x)
    size_of_step, size = sizes(J)[:, 0], sizes(P)[:, 0]
    _, P_orthogonal, _ = _run_rnn(orthogonal, x)
    shown = (1, 3, 6, 12)
    back = [
        {"k": k, "slope": float((1 - h[T - k] ** 2).mean()), "step": size_of_step[T - k], "product": size[k]}
        for k in range(1, 7)
    ]
    facts = {
        "rows": back,
        "H": H,
        "T": T,
        "at20": size[20],
        "per_step": (size[T] / size[10]) ** (1 / (T - 10)),
        "orthogonal20": sizes(P_orthogonal)[20, 0],
        "difference": _against_backward(default, x, P),
        "w_size": float(np.linalg.norm(default.w_hh, 2)),
        "w_radius": float(np.abs(np.linalg.eigvals(default.w_hh)).max()),
    }
    product = matrices(
        "The product of the Jacobians fades",
        f"The largest entry shrinks from {number(np.abs(P[1]).max())} after one step to {number(np.abs(P[shown[-1]]).max())} "
        f"after {shown[-1]}. Backpropagation through the same network gives the same numbers; they differ by at most "
        f"{number(facts['difference'])}.",
        {"1 step back" if k == 1 else f"{k} steps back": P[k, 0] for k in shown},
    )
    lags = {"recurrent weights as torch draws them": size, "orthogonal recurrent weights": sizes(P_orthogonal)[:, 0]}
    curve = curves(
        "How much of a gradient can come back",
        f"After 20 steps at most {number(facts['at20'])} of a gradient is left. Far back, each further step multiplies it by "
        f"about {number(facts['per_step'])}. Orthogonal weights shrink nothing by themselves, yet tanh does: "
        f"{number(facts['orthogonal20'])} after 20 steps.",
        lags,
        "steps back, k",
        "size of the product",
        log=(1e-12, 10.0),
    )
    return {"jacobians": product, "vanishing": curve}, facts


def highway(seed: int = 0) -> Part:
    """What comes back along the cell state alone with its forget gate at 1, beside the vanilla RNN."""
    T = 100
    signal = np.random.default_rng(seed).normal(size=T)
    lines = {"along the highway": _along_the_highway(1.0, signal, 1.0)}
    lines["through the layer of the vanilla RNN"] = _vanilla(seed, signal)
    road, layer = (float(line[T]) for line in lines.values())
    facts = {"T": T, "road": road, "rnn": layer}
    finding = f"Of a gradient of size 1 the highway brings back {number(road)} over {T} steps, the layer {number(layer)}."
    title, x, y = "The highway beside the layer", "steps back, k", "what comes back"
    return {"highway": curves(title, finding, lines, x, y, log=(1e-12, 10.0), height=220)}, facts


def leaking(seed: int = 0) -> Part:
    """What comes back along the cell state alone, for forget gates held at four values, beside the vanilla RNN."""
    T = 100
    held = (1.0, 0.99, 0.9, 0.5)
    signal = np.random.default_rng(seed).normal(size=T)
    lines = {f"LSTM, f = {f:g}": _along_the_highway(f, signal) for f in held}
    half = {f: float(half_life(gate_retention(np.full((T, 1, 1), f)))[0]) for f in held}
    lines["vanilla RNN"] = _vanilla(seed, signal)
    at_end = {f: lines[f"LSTM, f = {f:g}"][T] for f in held}
    facts = {"half": half, "at_end": at_end, "rnn": lines["vanilla RNN"][T], "T": T}
    finding = (
        f"After {T} steps the highway brings back {number(at_end[1.0])} with f = 1, {number(at_end[0.99])} with f = 0.99 and "
        f"{number(at_end[0.9])} with f = 0.9; the vanilla RNN {number(facts['rnn'])}. Half is lost after {number(half[0.99])}, "
        f"{number(half[0.9])} and {number(half[0.5])} steps with f = 0.99, 0.9 and 0.5, and never with f = 1."
    )
    title = "How far back the highway reaches, for four openings of the gate"
    return {"leaking": curves(title, finding, lines, "steps back, k", "what comes back", log=(1e-12, 10.0))}, facts


def no_guarantee(seed: int = 0) -> Part:
    """Where gradients of LSTMs still vanish and where they explode, before any training, on the inputs of `latch`."""
    H, lag = 32, 150
    data = latch_batch(lag, 32, torch.Generator().manual_seed(seed))
    starts = {
        "as torch begins it": "default",
        "forget bias 1": "forget-bias=1",
        "forget bias 3": "forget-bias=3",
        f"gates set for a lag of {lag} (chrono)": f"chrono={lag}",
    }
    vanish = {name: _share(H, how, 1, data, seed)[: lag + 1] for name, how in starts.items()}
    explode = {f"recurrent weights × {k}": _share(H, "forget-bias=1", k, data, seed)[: lag + 1] for k in FACTORS}
    reach = {name: first_below(share, BLOCKED) for name, share in vanish.items()}
    blocked = [f"{name} after {k} steps" for name, k in reach.items() if k is not None]
    open_ = [name for name, k in reach.items() if k is None]
    largest = dict(zip(FACTORS, (float(share.max()) for share in explode.values()), strict=True))
    facts = {
        "lag": lag,
        "H": H,
        "reach": reach,
        "vanish": {n: float(s[lag]) for n, s in vanish.items()},
        "explode": largest,
        "bias": 1.0,
    }
    x, y = "lag k, in steps", "gradient k steps back, beside its size at the end"
    finding = (
        f"Below a thousandth of the gradient (dotted): {'; '.join(blocked) or 'none'}. "
        f"Not within {lag} steps: {'; '.join(open_) or 'none'}."
    )
    title = "Where an LSTM’s gradient still vanishes"
    first = curves(title, finding, vanish, x, y, log=(1e-12, 100.0), rule=BLOCKED)
    each = "; ".join(f"{number(value)} with {name}" for name, value in zip(explode, largest.values(), strict=True))
    finding = f"At its largest within {lag} steps, the gradient is so many times as large as where it began: {each}."
    second = curves("Where an LSTM’s gradient explodes", finding, explode, x, y, log=(1e-6, 1e14), rule=1.0)
    return {"still-vanishing": first, "exploding": second}, facts


def _rnn(hidden: int, seed: int, make: Any) -> Weights:
    """The weights of a vanilla RNN with one input, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = RNN(1, hidden, dtype=torch.float64)
        if make:
            make(layer)
    return Weights(*(None if p is None else p.detach().numpy() for p in layer.weights_of(0)))


def _run_rnn(w: Weights, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Jacobians [T, 1, H, H], their products [T+1, 1, H, H] and the states h [T, H]."""
    begin = State(np.zeros((1, w.w_hh.shape[1])))
    saved = saved_by(cells.VanillaRNN(), x, w, begin)
    J = step_jacobians(cells.VanillaRNN(), saved, w, begin)
    return J, products(J), saved.h[:, 0]


def _against_backward(w: Weights, x: np.ndarray, P: np.ndarray) -> float:
    """The largest difference between dL/dh_t by the products and by backpropagation through time, for L = sum of h_T."""
    cell, begin = cells.VanillaRNN(), State(np.zeros((1, w.w_hh.shape[1])))
    saved = saved_by(cell, x, w, begin)
    steps = reference.backward(Call(cell, x, w, begin), saved, None, State(np.ones_like(begin.h)), steps=True).h_steps
    assert steps is not None
    return float(np.abs(steps[::-1, 0] - P[:-1, 0].sum(1)).max())


def _vanilla(seed: int, signal: np.ndarray) -> np.ndarray:
    """The size of ds_T/ds_{T-k} of a vanilla RNN with eight units: [T+1]."""
    return sizes(_run_rnn(_rnn(8, seed, None), signal[:, None, None])[1])[:, 0]


def _along_the_highway(f: float, signal: np.ndarray, i: float = 0.5) -> np.ndarray:
    """dc_T/dc_{T-k} of the cell on wires, with its forget and input gate held at f and i: [T+1]."""
    z, begin = wires(i, f, signal, 1.0), start()
    saved = saved_by(CELL, z, WIRES, begin)
    return products(step_jacobians(CELL, saved, WIRES, begin))[:, 0, 1, 1]


@torch.no_grad()
def _layer(hidden: int, how: str, factor: float) -> LSTM:
    """An LSTM on the inputs of `latch`, initialised as told, its recurrent weights multiplied."""
    layer = LSTM(2, hidden)
    if how != "default":  # which would draw them a second time
        init.apply(layer, how)
    layer.weights_of(0).w_hh.mul_(factor)
    return layer


def _share(hidden: int, how: str, factor: float, data: tuple[torch.Tensor, torch.Tensor], seed: int) -> np.ndarray:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return share_by_lag(Reader(_layer(hidden, how, factor)), *data)
