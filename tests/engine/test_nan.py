"""NaN stays in its row and passes every gate, NaN behind a reset or past a length has no effect, and none is ever born."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from tests.support import (
    BACKENDS,
    RUNS,
    Case,
    Problem,
    draw,
    gates_held,
    name_of,
    pairs,
    projected,
    run_all,
    take_rows,
    unequal,
)

from openlstm import cells
from openlstm.call import Call
from openlstm.cells import GRU, JANET, NIAF, SLSTM, Cell, MinGRU, MinLSTM, VanillaRNN
from openlstm.reference import State, Weights

EVERY_BACKEND = pytest.mark.parametrize("backend", BACKENDS)
EVERY_CELL = pytest.mark.parametrize("cell", cells.ALL, ids=name_of)
ROWWISE = ("", "", "m", "hcE")
EVERY_DTYPE = pytest.mark.parametrize("dtype", ["float32", "float64"])


def poisoned(a: np.ndarray, where: np.ndarray) -> np.ndarray:
    """A copy with NaN where `where` [T, B] or [B] says so."""
    return np.where(where[..., None], a.dtype.type(np.nan), a)


def steps_past_the_end(p: Problem) -> np.ndarray:
    T, B = p.x.shape[:2]
    return np.arange(T)[:, None] >= (np.full(B, T) if p.lengths is None else p.lengths)


@EVERY_BACKEND
@pytest.mark.parametrize("case", draw(2 * len(cells.ALL), 20, ("", "hcgm", "hcE"), lengths=True, B=7), ids=str)
def test_padding_is_never_read(case: Case, backend: ModuleType) -> None:
    p = case.problem()
    beyond = steps_past_the_end(p)
    q = replace(p, x=poisoned(p.x, beyond), dy=poisoned(p.dy, beyond))
    assert not unequal(backend, run_all(backend, q), run_all(backend, p))


@EVERY_BACKEND
@pytest.mark.parametrize("case", draw(2 * len(cells.ALL), 21, ROWWISE, reset=True, lengths=False, B=6, T=9), ids=str)
def test_what_comes_before_a_reset_changes_nothing_after_it(case: Case, backend: ModuleType) -> None:
    """For a loss that looks only behind the last reset (before the first one, in reverse): forward, and every gradient."""
    p = case.problem()
    reset = np.zeros_like(p.reset)
    reset[[4, 6], [1, 1]] = reset[3, 2] = reset[8, 4] = True
    p = replace(p, reset=reset)
    order = np.arange(9)[:, None]
    cut = np.where(reset.any(0), (np.where(reset, order, 99).min(0) if case.reverse else np.where(reset, order, -1).max(0)), -1)
    before = (order >= cut) & (cut >= 0) if case.reverse else order < cut
    rows = cut >= 0
    clean = replace(p, dy=np.where(before[..., None], 0, p.dy).astype(case.dtype))
    dirty = replace(
        clean,
        x=poisoned(p.x, before),
        state=State(*(None if s is None else poisoned(s, rows) for s in p.state)),
    )
    ours, expected = run_all(backend, dirty), run_all(backend, clean)
    for results in (ours, expected):  # before the reset the outputs are NaN, or not: not asked here
        for name in ("y", *(n for n in results if n.startswith("saved."))):
            results[name] = np.where(before[..., None], 0, results[name])
    assert not unequal(backend, ours, expected)
    assert not ours["dx"][before].any() and not ours["d0h"][rows].any()


@EVERY_BACKEND
@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("case", draw(len(cells.ALL), 22, ("", "hcgm"), lengths=True, reset=True, B=6, T=9), ids=str)
def test_a_reset_state_is_read_only_where_a_reset_leads_to_it(case: Case, each: bool, backend: ModuleType) -> None:
    p = replace(case, reset_state=True, each=each).problem()
    leads = p.reset & ~steps_past_the_end(p)  # [T, B]
    if case.reverse:
        leads &= np.arange(9)[:, None] > 0  # before step 0 there is nothing left to run
    unread = ~leads if each else ~leads.any(0)
    assert p.reset_state is not None and (unread.any() or not each)
    q = replace(p, reset_state=State(*(None if s is None else poisoned(s, unread) for s in p.reset_state)))
    assert not unequal(backend, run_all(backend, q), run_all(backend, p))


@pairs(cell=cells.ALL, B=[1, 2, 5, 13], backend=BACKENDS)
def test_nan_stays_in_its_own_row(cell: Cell, B: int, backend: ModuleType) -> None:
    p = Case(cell, B=B, T=5, I=5, H=9).problem()
    row, others = B // 2, [b for b in range(B) if b != B // 2]
    x = p.x.copy()
    x[2, row, 3] = np.nan
    ours, clean = run_all(backend, replace(p, x=x)), run_all(backend, p)
    assert not others or not unequal(backend, take_rows(ours, others), take_rows(clean, others))
    assert not unequal(backend, {"y": ours["y"][:2]}, {"y": clean["y"][:2]})
    of_x = {f"saved.x{gate}" for gate in "ifgo"}  # sums of x alone do not see h
    if cell.recurrence == "none":
        of_x = {f"saved.{gate}" for gate in cell.saved}
    for name in ("y", *(n for n in ours if n.startswith("saved.") and n not in of_x)):
        of_h = {"saved.m"} if isinstance(cell, GRU) else {f"saved.h{gate}" for gate in "ifgo"}
        first = 3 if name in of_h else 2  # sums of h alone do not see x
        assert np.isnan(ours[name][first:, row]).all() and not np.isnan(ours[name][:first, row]).any(), name
    for name in of_x & ours.keys():
        assert np.isnan(ours[name][2, row]).all() and not np.isnan(np.delete(ours[name], 2, 0)).any(), name
    assert np.isnan(ours["h"][row]).all()


@pairs(cell=cells.ALL, H=[1, 3, 8, 17], **RUNS)
def test_nan_passes_every_gate(cell: Cell, H: int, dtype: str, backend: ModuleType) -> None:
    """NaN in the pre-activation of one gate of one unit: in that gate, and in what it touches, at once."""
    p = Case(cell, dtype=dtype, T=1, B=2, I=2, H=H).problem()
    if isinstance(cell, SLSTM):  # where n is 0 nothing depends on what is kept
        np.asarray(p.state.c)[:, H : 2 * H] += 0.5
    for k, gate in enumerate(cell.gates):
        for unit in {0, H // 2, H - 1}:
            assert p.weights.b_ih is not None
            bias = p.weights.b_ih.copy()
            bias[k * H + unit] = np.nan
            results = run_all(backend, replace(p, weights=p.weights._replace(b_ih=bias)))
            hit, seen = np.arange(H) == unit, np.ones(H, bool)  # normalised, c' shows in every unit of h
            found = {name.removeprefix("saved."): a for name, a in results.items() if name.startswith("saved.")}
            found |= dict(zip(cell.feeds_back, np.split(found["h"], len(cell.feeds_back), -1), strict=True))
            for name, a in found.items():
                units = seen if name == "h" and "c" in cell.norms and gate != "o" else hit
                expected = np.broadcast_to(units & (name in touched(cell, gate)), a.shape)
                np.testing.assert_array_equal(np.isnan(a), expected, err_msg=f"{gate} -> {name}")


def touched(cell: Cell, gate: str) -> set[str]:
    """What a gate's pre-activation reaches within its step."""
    if isinstance(cell, GRU):
        return {gate, "h"} | ({"n"} if gate == "r" else set())
    if isinstance(cell, SLSTM):
        return {gate, "h"} | {"i": set("fcnm"), "f": set("scn"), "g": {"c"}, "o": set()}[gate]
    if isinstance(cell, MinLSTM):
        return {gate, "h"} | {"i": set("fp"), "f": set("iq"), "g": set()}[gate]
    if isinstance(cell, JANET):
        return {gate, "h"} | ({"i"} if gate == "f" else set())
    through_cell = {"c", "o"} if "o" in cell.peepholes else {"c"}
    return {gate, "h"} | (through_cell if gate in "ifg" else set())


@EVERY_BACKEND
@EVERY_DTYPE
@EVERY_CELL
def test_nan_in_the_states_and_cotangents_stays_in_its_row(cell: Cell, dtype: str, backend: ModuleType) -> None:
    p = Case(cell, dtype=dtype, B=6, T=4, I=3, H=7).problem()
    row, others = np.arange(6) == 4, [0, 1, 2, 3, 5]
    clean = run_all(backend, p)
    for changed in (
        replace(p, state=p.state._replace(h=poisoned(p.state.h, row))),
        replace(p, dstate=p.dstate._replace(h=poisoned(p.dstate.h, row))),
        replace(p, dy=poisoned(p.dy, np.broadcast_to(row, (4, 6)))),
    ):
        ours = run_all(backend, changed)
        assert not unequal(backend, take_rows(ours, others), take_rows(clean, others))
        of_h = changed.state is not p.state and cell.recurrence == "none"  # gates that do not see h have their derivatives
        if getattr(cell, "nonlinearity", "") != "relu" and not of_h:  # whose derivative is 0 at a unit that is off
            assert np.isnan(ours["d0h"][4]).all()


@EVERY_BACKEND
@EVERY_DTYPE
@EVERY_CELL
def test_a_row_that_no_loss_depends_on_gives_exact_zeros_even_from_nan(cell: Cell, dtype: str, backend: ModuleType) -> None:
    p = Case(cell, dtype=dtype, B=5, T=6, I=3, H=7).problem()
    row = np.arange(5) == 3
    silent = lambda a: np.where(row[:, None], 0, a).astype(dtype)  # noqa: E731
    clean = replace(p, dy=silent(p.dy), dstate=State(*(None if s is None else silent(s) for s in p.dstate)))
    dirty = replace(clean, x=poisoned(p.x, np.broadcast_to(row, (6, 5))))
    ours, expected = run_all(backend, dirty), run_all(backend, clean)
    gradients = [name for name in ours if name.startswith("d")]
    assert not unequal(backend, {n: ours[n] for n in gradients}, {n: expected[n] for n in gradients})
    for name in ("dx", "d0h", "d0c", "dh_steps", "dc_steps"):
        assert name not in ours or not ours[name][..., 3, :].any(), name


@EVERY_BACKEND
@EVERY_CELL
def test_nan_after_the_last_step_that_the_loss_sees_changes_nothing(cell: Cell, backend: ModuleType) -> None:
    """The skip rule inside a row: dL/dh_t and dL/dc_t are exactly zero after step 3."""
    p = Case(cell, B=3, T=7, I=3, H=5).problem()
    late = np.broadcast_to(np.arange(7)[:, None] > 3, (7, 3))
    silent = State(*(None if s is None else np.zeros_like(s) for s in p.dstate))
    clean = replace(p, dy=np.where(late[..., None], 0, p.dy), dstate=silent)
    ours, expected = run_all(backend, replace(clean, x=poisoned(p.x, late))), run_all(backend, clean)
    gradients = [name for name in ours if name.startswith("d")]
    assert not unequal(backend, {n: ours[n] for n in gradients}, {n: expected[n] for n in gradients})


HUGE = {"float32": 1e16, "float64": 1e150}
"""So large that every gate is shut or open, yet sums of products stay finite."""


def bounded(cell: Cell) -> bool:
    """Whether what a step hands on to sums and products cannot grow with its input."""
    return getattr(cell, "nonlinearity", "") != "relu" and not isinstance(cell, (NIAF, MinGRU, MinLSTM))


@pairs(cell=cells.ALL, seed=range(4), **RUNS)
def test_no_nan_is_born(cell: Cell, dtype: str, seed: int, backend: ModuleType) -> None:
    """Huge inputs, weights and states of any sign: finite outputs and gradients."""
    rng = np.random.default_rng(seed)
    huge = HUGE[dtype] if bounded(cell) else 1e3

    def stretch(a: np.ndarray) -> np.ndarray:
        factor = rng.choice([0.0, 1.0, 1e3, huge], size=a.shape)
        return (a * factor).astype(dtype)

    case = Case(cell, dtype=dtype, T=4, B=6, I=5, H=7, seed=seed, lengths=True, reset=True, noise=("", "hcgm")[seed % 2])
    p = projected(case, 3 * (seed == 3)).problem()
    q = replace(
        p,
        x=stretch(p.x),
        weights=p.weights._replace(w_ih=stretch(p.weights.w_ih), b_ih=stretch(np.asarray(p.weights.b_ih))),
        state=State(*(None if s is None else stretch(s) for s in p.state)),
    )
    results = run_all(backend, q)
    assert [name for name, a in results.items() if not np.isfinite(a).all()] == []


@EVERY_BACKEND
@EVERY_DTYPE
def test_an_slstm_of_any_finite_numbers_is_finite(dtype: str, backend: ModuleType) -> None:
    """Sums of both ends and in between; n may be 0 or tiny, but not so tiny that the derivative by c is no number any more."""
    ends = np.array([-1e30, -1e4, -80, -1, 0, 1, 80, 1e4, 1e30], dtype)
    z = np.stack(np.meshgrid(ends, ends, ends[2:7:2], ends[1:8:2], indexing="ij"), -1).reshape(-1, 4)
    smallest, B = np.finfo(dtype).smallest_subnormal, len(z)
    for n in (np.array([0, 1e-30, 1, 1e3, 1e30], dtype), np.array([smallest], dtype)):
        H = len(n)
        m = np.resize(np.array([-1e4, 0, 1e4], dtype), H)
        begin = np.broadcast_to(np.concatenate([n / 2, n, m]), (B, 3 * H)).copy()  # |c| <= n, as it comes about
        w = Weights(np.repeat(np.eye(4, dtype=dtype), H, 0), np.zeros((4 * H, H), dtype))
        call = Call(SLSTM(), np.stack([z, z[::-1]]), w, State(np.zeros((B, H), dtype), begin), save=True)
        run = backend.forward(call)
        assert np.isfinite(run.state.c).all() and (np.abs(run.y) <= 1 + 1e-5).all()
        if n[0] != smallest:
            grads = backend.backward(
                call._replace(save=False), run.saved, np.ones_like(run.y), State(None, np.ones_like(begin))
            )
            assert np.isfinite(grads.x).all() and np.isfinite(grads.state.c).all()


@EVERY_BACKEND
@EVERY_DTYPE
def test_the_cell_holds_the_largest_number(dtype: str, backend: ModuleType) -> None:
    """With f=1 and i=0 even the largest finite number and infinity are kept, and shown as o."""
    big = np.finfo(dtype).max
    c0 = np.array([[big, -big, np.inf, -np.inf]], dtype)
    p = gates_held(dtype, i=-1000.0, f=1000.0, c0=c0)
    run = backend.forward(Call(p.cell, p.x, p.weights, p.state, save=True))
    np.testing.assert_array_equal(run.saved.c, np.broadcast_to(c0, (5, 1, 4)))
    np.testing.assert_array_equal(np.abs(run.y), np.full((5, 1, 4), 0.5, dtype))


@EVERY_BACKEND
@EVERY_DTYPE
def test_a_true_explosion_is_infinity(dtype: str, backend: ModuleType) -> None:
    """relu with weight 10: 10, 100, ... overflows to infinity and stays there, never NaN."""
    w = Weights(np.zeros((1, 1), dtype), np.full((1, 1), 10, dtype))
    with np.errstate(over="ignore"):
        run = backend.forward(Call(VanillaRNN("relu"), np.zeros((400, 1, 1), dtype), w, State(np.ones((1, 1), dtype))))
        y = run.y[:, 0, 0]
        first = int(np.isinf(y).argmax())
        assert first > 0 and y[first - 1] * y.dtype.type(10) == np.inf
    assert np.isfinite(y[:first]).all() and np.isposinf(y[first:]).all()


@EVERY_BACKEND
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("z_f", [-2000.0, 2000.0])
def test_a_gate_at_its_end_takes_no_gradient_even_where_the_product_beside_it_overflows(
    dtype: str, z_f: float, backend: ModuleType
) -> None:
    """dL/dz_f = dL/dc' c f (1 - f): with f (1 - f) = 0 it is 0, also where dL/dc' c is beyond the largest number."""
    huge = np.finfo(dtype).max / 4
    w = Weights(np.zeros((4, 1), dtype), np.zeros((4, 1), dtype), np.array([0, z_f, 0, 0], dtype), np.zeros(4, dtype))
    x, state = np.ones((1, 1, 1), dtype), State(np.zeros((1, 1), dtype), np.full((1, 1), huge, dtype))
    run = backend.forward(Call(cells.LSTM(), x, w, state, save=True))
    g = backend.backward(Call(cells.LSTM(), x, w, state), run.saved, None, State(None, np.full((1, 1), 100, dtype)))
    assert g.weights.b_ih[1] == 0
