"""Every cell on every backend against the definition: outputs, states, what is saved and every gradient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.support import (
    KERNELS,
    NEEDS_NATIVE,
    WIDTHS,
    Case,
    Problem,
    differing,
    draw,
    far,
    name_of,
    num_threads,
    projected,
    run_all,
)

from openlstm import cells, reference
from openlstm.cells import NORM_EPS, Cell
from openlstm.engine import SUPPORT, native
from openlstm.engine.backends import cpu
from openlstm.reference import State

TOLERANCE = {"float32": 1e-5, "float64": 1e-11}
NOISE = ("", "", "hcgm", "h", "c", "g", "m", "hcE", "gmE")


def wide(results: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: a.astype(np.float64) for name, a in results.items()}


def too_far(case: Case, threads: tuple[int, ...] = (1,)) -> dict[str, float]:
    """Where the kernel is off by more than the tolerance and by more than twice what the same numbers allow the reference.

    (A saturated tanh, for one: 1 - h^2 of an h near 1 has few digits in float32.)
    """
    problem, truth, worst = case.problem(), expected(case), {}
    for count in threads:
        with num_threads(count):
            results = run_all(cpu, problem)
        assert {a.dtype for a in results.values()} == {np.dtype(case.dtype)}
        worst |= beyond(case, problem, results, truth)
    return worst


def beyond(case: Case, problem: Problem, results: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> dict[str, float]:
    off = far(wide(results), truth, TOLERANCE[case.dtype])
    off = {
        name: error for name, error in off.items() if not (name in divided(case) and error <= TOLERANCE[case.dtype] / NORM_EPS)
    }
    allowed = far(wide(run_all(reference, problem)), truth, TOLERANCE[case.dtype] / 2) if off else {}
    return {name: error for name, error in off.items() if not error <= 2 * allowed.get(name, 0.0)}  # nor NaN


def divided(case: Case) -> set[str]:
    """Gradients of a single number that normalisation divides by its own size: what is left of them is 1e-5 of the terms."""
    of_x = {"dx"} if "x" in case.cell.norms and case.I == 1 else set()
    return of_x | ({"d0h", "dreset_h", "dh_steps"} if "h" in case.cell.norms and case.R == 1 else set())


def expected(case: Case) -> dict[str, np.ndarray]:
    """The reference in float64 on the numbers of the case."""
    return run_all(reference, case.problem().map(lambda a: a.astype(np.float64)))


@NEEDS_NATIVE
@pytest.mark.parametrize(
    "case", draw(20 * len(KERNELS), 30, NOISE, KERNELS) + draw(4 * len(KERNELS), 39, NOISE, KERNELS, sums=True), ids=str
)
def test_the_native_engine_computes_the_definition_on_drawn_cases(case: Case) -> None:
    assert too_far(case) == {}


@pytest.mark.parametrize("case", draw(4 * len(cells.ALL), 38, NOISE), ids=str)
def test_the_reference_is_what_torch_differentiates(case: Case) -> None:
    """Also a cell of somebody's own: what it hands to the loop over time is the derivative of its forward."""
    p = case.problem()
    q = p.map(lambda a: a.astype(np.float64)).tensors()
    inputs = leaves(q)
    run = reference.forward(q.call())
    ends = zip(run.state, q.dstate, strict=True)
    loss = (run.y * q.dy).sum() + sum((s * d).sum() for s, d in ends if s is not None and d is not None)
    truth = {name: torch.zeros_like(a) for name, a in inputs.items()}
    if loss.requires_grad:
        gradients = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True, materialize_grads=True)
        truth = dict(zip(inputs, gradients, strict=True))
    found = run_all(reference, p, steps=False)
    ours = {name: found[name] for name in truth}
    assert far(wide(ours), {name: a.numpy() for name, a in truth.items()}, 50 * TOLERANCE[case.dtype]) == {}
    assert far(wide({"y": found["y"]}), {"y": run.y.detach().numpy()}, TOLERANCE[case.dtype]) == {}


def leaves(p: Problem) -> dict[str, torch.Tensor]:
    """Every tensor that a loss can be differentiated by, under the name of its gradient."""
    groups = {"d": {"x": p.x, **p.weights._asdict()}, "d0": p.state._asdict()}
    groups |= {} if p.reset_state is None else {"dreset_": p.reset_state._asdict()}
    named = {prefix + name: a for prefix, group in groups.items() for name, a in group.items() if a is not None}
    return {name: a.requires_grad_() for name, a in named.items()}


@NEEDS_NATIVE
@pytest.mark.parametrize("letter", ["T", "B", "I", "H", "P"])
@pytest.mark.parametrize("cell", KERNELS, ids=name_of)
def test_every_size_around_the_vector_width_is_right(cell: Cell, letter: str) -> None:
    """Half of them in float32, half in float64, the other way round for the next letter and cell."""
    turn = "TBIHP".index(letter) + KERNELS.index(cell)
    for k, n in enumerate(n for n in WIDTHS if n or letter in "TBP"):
        dtype = ["float32", "float64"][(turn + k) % 2]
        case = Case(cell, dtype=dtype, T=4, B=3, I=5, H=6, lengths=True, reset=True, reset_state=True, seed=n)
        case = projected(case, n) if letter == "P" else replace(case, **{letter: n})
        assert too_far(case) == {}, str(case)


@NEEDS_NATIVE
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("cell", KERNELS, ids=name_of)
def test_large_sizes_are_right_on_any_number_of_threads(cell: Cell, dtype: str) -> None:
    case = Case(cell, dtype=dtype, T=24, B=37, I=70, H=130, lengths=True, reset=True, reset_state=True, each=dtype == "float32")
    assert too_far(projected(case, 33), threads=(1, 2, 7)) == {}


@NEEDS_NATIVE
@pytest.mark.parametrize("case", draw(40, 31, NOISE, KERNELS), ids=str)
def test_numpy_and_torch_give_the_same_bits(case: Case) -> None:
    problem = case.problem()
    assert differing(run_all(cpu, problem), run_all(cpu, problem.tensors())) == []


@NEEDS_NATIVE
@pytest.mark.parametrize("case", draw(40, 32, NOISE, KERNELS), ids=str)
def test_it_does_not_matter_where_numbers_lie(case: Case) -> None:
    problem = case.problem()
    assert differing(run_all(cpu, problem), run_all(cpu, problem.strided())) == []
    assert differing(run_all(cpu, problem), run_all(cpu, problem.strided().tensors())) == []


@NEEDS_NATIVE
@pytest.mark.parametrize("case", draw(20, 33, NOISE, KERNELS), ids=str)
def test_expanded_broadcast_and_unaligned_arrays_give_the_same_bits(case: Case) -> None:
    """One row or one step repeated with stride 0, and arrays that begin at an odd byte."""
    p = case.problem()
    first = p.x[:1, :1] if p.x.size else np.zeros((1, 1, case.I), case.dtype)
    repeated = replace(p, x=np.broadcast_to(first, p.x.shape), dy=np.broadcast_to(first[..., :1], p.dy.shape))
    copied = replace(repeated, x=repeated.x.copy(), dy=repeated.dy.copy())
    assert differing(run_all(cpu, repeated), run_all(cpu, copied)) == []
    assert differing(run_all(cpu, repeated.map(off_by_a_byte)), run_all(cpu, copied)) == []


def off_by_a_byte(a: np.ndarray) -> np.ndarray:
    raw = np.zeros(a.nbytes + 1, np.uint8)
    out = raw[1:].view(a.dtype).reshape(a.shape)
    out[...] = a
    return out


@NEEDS_NATIVE
@pytest.mark.parametrize("case", draw(20, 34, NOISE, KERNELS), ids=str)
def test_saving_and_writing_elsewhere_change_nothing(case: Case) -> None:
    p = case.problem()
    wide_out = np.full((*p.dy.shape[:2], p.dy.shape[2] + 3), np.nan, case.dtype)
    out = wide_out[..., 1:-2]
    plain = cpu.forward(p.call())
    into = cpu.forward(p.call(save=True), out=out)
    assert plain.saved is None
    for run in (into, into._replace(y=out)):
        named = {"y": run.y, "h": run.state.h, **({} if run.state.c is None else {"c": run.state.c})}
        assert (
            differing(named, {"y": plain.y, "h": plain.state.h, **({} if plain.state.c is None else {"c": plain.state.c})})
            == []
        )
    assert np.isnan(wide_out[..., 0]).all() and np.isnan(wide_out[..., -2:]).all()


@NEEDS_NATIVE
@pytest.mark.parametrize("case", draw(20, 35, NOISE, KERNELS), ids=str)
def test_arguments_are_only_read(case: Case) -> None:
    p, q = case.problem(), case.problem()
    run_all(cpu, p)
    for a, b in (
        (p.x, q.x),
        (p.dy, q.dy),
        *zip([*p.weights, *p.state, *p.dstate], [*q.weights, *q.state, *q.dstate], strict=True),
    ):
        assert (a is None and b is None) or (a == b).all()


@NEEDS_NATIVE
@pytest.mark.parametrize("case", draw(20, 36, NOISE, KERNELS), ids=str)
def test_missing_cotangents_count_as_zero(case: Case) -> None:
    p = case.problem()
    none = replace(p, dy=None, dstate=State(None, None))
    zero = replace(p, dy=np.zeros_like(p.dy), dstate=State(*(None if s is None else np.zeros_like(s) for s in p.dstate)))
    results = run_all(cpu, none)
    assert differing(results, run_all(cpu, zero)) == []
    assert not any(results[name].any() for name in results if name.startswith("d"))


@NEEDS_NATIVE
@pytest.mark.parametrize("case", draw(20, 37, NOISE, KERNELS), ids=str)
def test_results_share_no_memory(case: Case) -> None:
    """Neither with the arguments nor with each other, but for `saved.h`, which is y."""
    p = replace(case, T=case.T or 1, B=case.B or 1).problem()
    run = cpu.forward(p.call(save=True))
    assert run.saved is not None
    g = cpu.backward(p.call(), run.saved, p.dy, p.dstate, steps=True)
    given = [p.x, *p.weights, *p.state, p.dy, *p.dstate, *(p.reset_state or ())]
    made = [
        run.y,
        *run.state,
        run.saved.gates,
        run.saved.c,
        g.x,
        *g.weights[:3],
        g.weights.w_hr,
        *g.state,
        *(g.reset_state or ()),
    ]
    arrays = [a for a in [*given, *made, g.h_steps, g.c_steps] if a is not None and a.size]
    assert [(i, j) for j in range(len(arrays)) for i in range(j) if np.shares_memory(arrays[i], arrays[j])] == []


@NEEDS_NATIVE
def test_the_support_table_says_what_is_there() -> None:
    """Tested both ways: every kernel it lists runs, and every cell that has none is refused."""
    listed = SUPPORT["cpu"].kernels
    assert listed is not None and listed == {c.kernel for c in KERNELS} == set(native.KERNELS)
    for cell in cells.ALL:
        refusal = SUPPORT["cpu"].refusal(cell, torch.zeros(1))
        assert (refusal is None) == (cell.kernel in listed)
