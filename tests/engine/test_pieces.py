"""A reset and the end of a row are exactly what running the pieces alone gives; so is any cut of a sequence into calls."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tests.support import BACKENDS, Case, Problem, draw, far, per_row, run_all, take_rows, to_numpy, unequal

from openlstm import cells
from openlstm.reference import State, Weights

CASES = [replace(c, T=c.T + 2) for c in draw(4 * len(cells.ALL), 10, ("", "", "m", "hcE"))]
"""With noise that belongs to a row and to no step of a call: a mask of its own, the expectation of zoneout."""

WEIGHTS = tuple(f"d{name}" for name in Weights._fields)


def cuts_of(row: int, p: Problem) -> list[int]:
    """Where the pieces of a row begin and end: [0, ..., its length]."""
    length = p.x.shape[0] if p.lengths is None else int(p.lengths[row])
    inner = [] if p.reset is None else [t for t in range(1, length) if p.reset[t, row]]
    return [0, *inner, length]


def fresh(p: Problem, row: int, at: int) -> State:
    """The state that a reset of this row between steps at-1 and at leads to."""
    if p.reset_state is None:
        return zero(p.rows([row]).state)
    each = (s[at] if s is not None and s.ndim == 3 else s for s in p.reset_state)
    return State(*(None if s is None else s[row : row + 1] for s in each))


def zero(state: State) -> State:
    return State(*(None if s is None else np.zeros_like(s) for s in state))


def run_in_pieces(backend: ModuleType, p: Problem, row: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """One row by its pieces, each run alone without lengths and resets.

    Returns what `run_all` would give for the row, and what is summed over pieces: the gradients of weights and reset state.
    """
    T = p.x.shape[0]
    alone = replace(p.rows([row]), lengths=None, reset=None, reset_state=None)
    cuts = cuts_of(row, p)
    pieces = [(a, b) for a, b in zip(cuts, cuts[1:], strict=False) if a < b]
    order = pieces[::-1] if p.reverse else pieces
    discards_h0 = bool(order) and not p.reverse and p.reset is not None and bool(p.reset[0, row])
    results: list[dict[str, np.ndarray]] = []
    for n, (a, b) in enumerate(order):
        start = alone.state if n == 0 and not discards_h0 else fresh(p, row, b if p.reverse else a)
        end = alone.dstate if n == len(order) - 1 else zero(alone.dstate)
        results.append(run_all(backend, alone.steps(a, b, start, end)))
    nothing = run_all(backend, alone.steps(0, 0))  # shapes, and what no step leaves as it was
    whole, sums = per_row(nothing), {name: nothing[name].astype(np.float64) for name in WEIGHTS if name in nothing}
    for name in whole:
        if whole[name].ndim == 3:  # [T, 1, .]
            whole[name] = np.zeros((T, *whole[name].shape[1:]), whole[name].dtype)
            for (a, b), result in zip(order, results, strict=True):
                whole[name][a:b] = result[name]
        elif results and name in ("h", "c"):
            whole[name] = results[-1][name]
        elif results:
            whole[name] = np.zeros_like(whole[name]) if discards_h0 else results[0][name]
    for name in sums:
        sums[name] = sum((result[name] for result in results), sums[name])
    if p.reset_state is not None:
        began_fresh = [k for k in range(len(order)) if k or discards_h0]
        for name, given in p.reset_state._asdict().items():
            if given is not None:
                total = np.zeros_like(given[..., :1, :], np.float64)
                for k in began_fresh:
                    at = order[k][1 if p.reverse else 0]
                    total[at if given.ndim == 3 else ...] += results[k][f"d0{name}"]
                sums[f"dreset_{name}"] = total
    return whole, sums


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_lengths_and_resets_are_the_pieces_alone(case: Case, backend: ModuleType) -> None:
    p = case.problem()
    together = run_all(backend, p)
    weights = {name: np.zeros(together[name].shape) for name in WEIGHTS if name in together}
    rounding = 1e-5 if case.dtype == "float32" else 1e-12
    for row in range(case.B):
        expected, sums = run_in_pieces(backend, p, row)
        ours = take_rows(together, [row])
        dreset = {name: ours.pop(name) for name in list(ours) if name.startswith("dreset")}
        assert not unequal(backend, ours, expected)
        assert not dreset or not far(dreset, {name: sums[name] for name in dreset}, rounding)
        for name in weights:
            weights[name] += sums[name]
    assert not far({name: together[name] for name in weights}, weights, rounding)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", [replace(c, reset=c.reset and not c.reverse) for c in CASES], ids=str)
def test_any_cut_into_calls_gives_the_same(case: Case, backend: ModuleType) -> None:
    """The state is handed from call to call, its gradient back; step by step is one of the cuts."""
    p = case.problem()
    expected = per_row(run_all(backend, p))
    rng = np.random.default_rng(case.seed)
    every, some = range(1, case.T), sorted(set(rng.integers(1, case.T, 2).tolist()))
    for inner in (every, some):
        cuts = [0, *inner, case.T]
        pieces = list(zip(cuts, cuts[1:], strict=False))
        ours = in_calls(backend, p, pieces[::-1] if case.reverse else pieces)
        summed = [name for name in ours if name.startswith("dreset")]
        rounding = 1e-5 if case.dtype == "float32" else 1e-12
        assert not summed or not far({n: ours.pop(n) for n in summed}, {n: expected[n] for n in summed}, rounding)
        assert not unequal(backend, ours, {n: expected[n] for n in ours})
        assert expected.keys() - ours.keys() == set(summed)


def in_calls(backend: ModuleType, p: Problem, pieces: list[tuple[int, int]]) -> dict[str, np.ndarray]:
    """Forward over the pieces in order, then backward over them in the opposite order."""
    runs, state = [], p.state
    for a, b in pieces:
        q = p.steps(a, b, state)
        run = backend.forward(q.call(save=True))
        runs.append((q, run))
        state = run.state
    grads, dstate = [], p.dstate
    for q, run in reversed(runs):
        g = backend.backward(q.call(), run.saved, q.dy, dstate, steps=True)
        grads.append(g)
        dstate = g.state
    in_time = lambda arrays: np.concatenate(arrays[::-1] if p.reverse else arrays)  # noqa: E731
    named = {"y": in_time([run.y for _, run in runs]), "dx": in_time([g.x for g in grads[::-1]])}
    for name in runs[0][1].saved.named(p.cell):
        named[f"saved.{name}"] = in_time([run.saved.named(p.cell)[name] for _, run in runs])
    if p.weights.w_hr is not None:
        named["saved.own"] = in_time([run.saved.m for _, run in runs])
    named["dh_steps"] = in_time([g.h_steps for g in grads[::-1]])
    if p.cell.has_cell:
        named["dc_steps"] = in_time([g.c_steps for g in grads[::-1]])
    for name, given in {} if p.reset_state is None else p.reset_state._asdict().items():
        if given is not None:
            each = [getattr(g.reset_state, name) for g in grads[::-1]]
            named[f"dreset_{name}"] = in_time(each) if given.ndim == 3 else np.sum(each, 0)
    for prefix, values in (("", state), ("d0", dstate)):
        named |= {prefix + k: v for k, v in values._asdict().items() if v is not None}
    return {name: to_numpy(a) for name, a in named.items()}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", [replace(c, lengths=True, B=5) for c in CASES[: len(cells.ALL)]], ids=str)
def test_past_its_length_a_row_is_exactly_zero(case: Case, backend: ModuleType) -> None:
    p = replace(case.problem(), lengths=np.array([0, case.T, 1, 0, 2]))
    results = run_all(backend, p)
    for row, length in enumerate(p.lengths):
        for name in ("y", "dx", "dh_steps", *(n for n in results if n.startswith("saved."))):
            assert not results[name][length:, row].any(), name
    for row in (0, 3):
        for name, before in (("h", p.state.h), ("c", p.state.c), ("d0h", p.dstate.h), ("d0c", p.dstate.c)):
            if before is not None:
                assert (results[name][row] == before[row]).all(), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "case", [replace(c, reset=True, lengths=False, reverse=False, B=4) for c in CASES[: len(cells.ALL)]], ids=str
)
def test_a_reset_at_the_first_step_discards_the_carried_in_state(case: Case, backend: ModuleType) -> None:
    p = case.problem()
    reset = np.zeros_like(p.reset)
    reset[0] = True
    p = replace(p, reset=reset)
    other = replace(p, state=State(*(None if s is None else -3 * s for s in p.state)))
    results = run_all(backend, p)
    assert not unequal(backend, results, run_all(backend, other))
    assert not any(results[name].any() for name in ("d0h", "d0c") if name in results)
    start = fresh_rows(p)
    plain = run_all(backend, replace(p, reset=None, state=start, reset_state=None))
    same = ("y", "h", "dx", *(n for n in results if n.startswith("saved.")))
    assert not unequal(backend, {n: results[n] for n in same}, {n: plain[n] for n in same})


def fresh_rows(p: Problem) -> State:
    """What a reset at the first step leads to, in every row."""
    if p.reset_state is None:
        return zero(p.state)
    return State(*(s[0] if s is not None and s.ndim == 3 else s for s in p.reset_state))
