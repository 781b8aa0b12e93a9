"""The constant error carousel: with f=1 and i=0 the cell and its gradient are kept for ever, with f=0 and i=1 all is new.

Every cell with a highway can be held so (a GRU, whose highway is h, by its update gate) but NIG, where something always enters.
"""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from tests.support import BACKENDS, differing, gates_held, name_of, run_all

from openlstm import cells, reference
from openlstm.call import Call
from openlstm.cells import GRU, NIG, NOAF, SLSTM, Cell
from openlstm.reference import State

EVERY_BACKEND = pytest.mark.parametrize("backend", BACKENDS)
EVERY_DTYPE = pytest.mark.parametrize("dtype", ["float32", "float64"])
HIGHWAYS = [cell for cell in [*cells.ALL, GRU(memory=True)] if cell.candidate and not isinstance(cell, NIG)]
EVERY_HIGHWAY = pytest.mark.parametrize("cell", HIGHWAYS, ids=name_of)
KEPT = np.array([[0.7, -1.3, 1e-3, 2.0], [0.0, 0.0, 0.0, 0.0], [1e-30, -1e-30, 1e30, -1e30], [1e-39, -1e-44, 5e-324, 1e-310]])
"""Ordinary cell states, zeros, tiny and large ones, and numbers below the normal range."""


def steps_of(backend: ModuleType) -> int:
    """A million on the engine; the readable loop needs as long for a few thousand."""
    return 2_000 if backend is reference else 1_000_000


@EVERY_BACKEND
@EVERY_DTYPE
def test_what_is_in_the_cell_is_kept_to_the_last_bit(dtype: str, backend: ModuleType) -> None:
    p = gates_held(dtype, i=-1000.0, f=1000.0, c0=KEPT.astype(dtype), steps=1000)
    probe = run_all(backend, p)
    assert (np.abs(probe["saved.g"]) > 0).all() and not probe["saved.i"].any() and (probe["saved.f"] == 1).all()
    state = p.state
    for _ in range(steps_of(backend) // 1000):
        state = backend.forward(Call(p.cell, p.x, p.weights, state)).state
    assert differing({"c": state.c}, {"c": p.state.c}) == []


def highway(state: State) -> np.ndarray:
    """The state that a gate keeps: c, and h where there is no c."""
    return state.h if state.c is None else state.c


@EVERY_BACKEND
@EVERY_DTYPE
@EVERY_HIGHWAY
def test_every_cell_keeps_what_it_holds_and_its_gradient(cell: Cell, dtype: str, backend: ModuleType) -> None:
    """The same in every cell: 300 steps of live candidates, forward and backward, to the last bit."""
    kept = KEPT[:3] if isinstance(cell, (NOAF, SLSTM)) else KEPT  # whose h = c / 2 at first: 1e30 would show in the sums
    p = gates_held(dtype, i=-1000.0, f=1000.0, c0=kept.astype(dtype), steps=300, cell=cell)
    run = backend.forward(Call(p.cell, p.x, p.weights, p.state, save=True))
    saved = run.saved.named(cell)
    assert (np.abs(saved[cell.candidate or ""]) > 0).all()
    assert differing({"": highway(run.state)}, {"": highway(p.state)}) == []
    flow = State(np.zeros_like(p.dstate.h), p.dstate.c) if cell.has_cell else p.dstate
    if isinstance(cell, SLSTM):  # what arrives at m takes no share in what is kept
        np.asarray(flow.c)[:, 2 * kept.shape[1] :] = 0
    back = backend.backward(Call(p.cell, p.x, p.weights, p.state), run.saved, None, flow).state
    assert differing({"": highway(back)}, {"": highway(flow)}) == []


@EVERY_BACKEND
@EVERY_DTYPE
def test_a_million_steps_in_one_call(dtype: str, backend: ModuleType) -> None:
    steps = steps_of(backend)
    p = gates_held(dtype, i=-1000.0, f=1000.0, c0=KEPT[:2].astype(dtype), steps=1)
    x = np.resize(np.random.default_rng(0).standard_normal(2 * 2 * 1000), (steps, 2, 2)).astype(dtype)
    state = backend.forward(Call(p.cell, x, p.weights, p.state)).state
    assert differing({"c": state.c}, {"c": p.state.c}) == []


@EVERY_BACKEND
@EVERY_DTYPE
def test_its_gradient_is_kept_to_the_last_bit(dtype: str, backend: ModuleType) -> None:
    """For a loss on c_T alone dL/dc_0 = dL/dc_T; chunk after chunk, backwards."""
    p = gates_held(dtype, i=-1000.0, f=1000.0, c0=KEPT.astype(dtype), steps=1000)
    saved = backend.forward(Call(p.cell, p.x, p.weights, p.state, save=True)).saved
    flow = State(np.zeros_like(p.dstate.h), p.dstate.c)
    for _ in range(steps_of(backend) // 1000):
        flow = backend.backward(Call(p.cell, p.x, p.weights, p.state), saved, None, flow).state
    assert differing({"c": flow.c}, {"c": p.dstate.c}) == []
    assert not flow.h.any()


@EVERY_BACKEND
@EVERY_DTYPE
def test_nothing_of_the_old_cell_is_left_when_it_starts_afresh(dtype: str, backend: ModuleType) -> None:
    """f=0, i=1: the same bits whatever c_0 was, and no gradient reaches it."""
    first = run_all(backend, gates_held(dtype, i=1000.0, f=-1000.0, c0=np.zeros((4, 4))))
    for factor in (1.0, -1e7):
        p = gates_held(dtype, i=1000.0, f=-1000.0, c0=factor * KEPT)
        again = run_all(backend, p)
        assert differing({n: first[n] for n in ("y", "h", "c", "dx")}, {n: again[n] for n in ("y", "h", "c", "dx")}) == []
        assert not again["d0c"].any()
        np.testing.assert_array_equal(again["saved.c"], again["saved.g"])


@EVERY_BACKEND
@EVERY_DTYPE
def test_a_gate_a_little_below_one_forgets(dtype: str, backend: ModuleType) -> None:
    """The law is not true by accident: with f = sigmoid(8) the cell and its gradient shrink as f^T."""
    p = gates_held(dtype, i=-1000.0, f=8.0, c0=KEPT[:1].astype(dtype), steps=1000)
    q = replace(p, dy=None, dstate=State(np.zeros_like(p.dstate.h), p.dstate.c))
    results = run_all(backend, q)
    f = 1 / (1 + np.exp(-8.0))
    np.testing.assert_allclose(results["c"], f**1000 * p.state.c, rtol=1e-3)
    np.testing.assert_allclose(results["d0c"], f**1000 * p.dstate.c, rtol=1e-3)
