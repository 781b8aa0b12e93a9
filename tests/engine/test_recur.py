"""`recur`, the one door to every backend, on numpy and torch; and memory beyond what 32 bits can count."""

from __future__ import annotations

import mmap
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import BACKENDS, NEEDS_NATIVE, Case, differing, draw, run_all, to_numpy, unequal

from openlstm import cells, recur, reference, weights
from openlstm._errors import ArgumentError
from openlstm.cells import LSTM, Cell
from openlstm.engine import SUPPORT, cpu
from openlstm.reference import State

SIZES = [dict(T=0), dict(B=0), dict(T=0, B=0), dict(I=1, H=1), dict(T=1, B=1, I=1, H=1), dict(I=0), dict(H=0)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("case", draw(24, seed=50), ids=str)
def test_recur_is_the_backends_forward(case: Case, kind: str, backend: ModuleType) -> None:
    p = case.problem().tensors() if kind == "torch" else case.problem()
    name = next(name for name, support in SUPPORT.items() if support.module is backend)
    ours = recur(p.cell, p.x, p.weights, p.state, save=True, backend=name, **p.options)
    theirs = backend.forward(p.cell, p.x, p.weights, p.state, save=True, **p.options)
    assert ours.saved is not None and type(ours.y) is type(p.x)
    assert differing(arrays(ours, p.cell), arrays(theirs, p.cell)) == []
    plain = recur(p.cell, p.x, p.weights, p.state, backend=name, **p.options)
    assert plain.saved is None and differing({"y": to_numpy(plain.y)}, {"y": to_numpy(ours.y)}) == []


def arrays(run: Any, cell: Cell) -> dict[str, Any]:
    named = {"y": run.y, **run.state._asdict(), **{f"saved.{n}": a for n, a in run.saved.named(cell).items()}}
    return {name: to_numpy(a) for name, a in named.items() if a is not None}


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=NEEDS_NATIVE)])
@pytest.mark.parametrize("cell", cells.ALL, ids=lambda c: c.kernel)
def test_the_state_is_zero_where_none_is_given(cell: Cell, backend: str) -> None:
    p = Case(cell, P=2 if cell.has_cell else 0).problem()
    zero = State(*(None if s is None else np.zeros_like(s) for s in p.state))
    assert (
        differing(
            arrays(recur(cell, p.x, p.weights, save=True, backend=backend), cell),
            arrays(recur(cell, p.x, p.weights, zero, save=True, backend=backend), cell),
        )
        == []
    )


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=NEEDS_NATIVE)])
@pytest.mark.parametrize("make", [list, tuple, np.int32, np.uint8, np.int64, torch.tensor], ids=lambda f: f.__name__)
def test_lengths_of_any_kind_mean_the_same(make: Any, backend: str) -> None:
    p, lengths = Case(LSTM()).problem(), make([6, 0, 2, 5, 6])
    expected = recur(p.cell, p.x, p.weights, p.state, lengths=np.array([6, 0, 2, 5, 6]), backend=backend)
    for q in (p, p.tensors()):
        run = recur(q.cell, q.x, q.weights, q.state, lengths=lengths, backend=backend)
        assert far_from(to_numpy(run.y), expected.y) < 1e-14


def far_from(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=NEEDS_NATIVE)])
def test_outputs_carry_no_gradient_of_their_own_on_the_engine(backend: str) -> None:
    """`recur` runs on parameters as they are; who wants gradients takes a layer."""
    layer = torch.nn.LSTM(3, 4, dtype=torch.float64)
    w = weights.collect(dict(layer.named_parameters()))
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        y = recur(LSTM(), x, w, backend=backend).y
        expected = layer(x)[0]
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", cells.ALL, ids=lambda c: c.kernel)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_empty_and_smallest_sizes(sizes: dict[str, int], cell: Cell, dtype: str, backend: ModuleType) -> None:
    case = replace(Case(cell, dtype=dtype, lengths=True, reset=True, reset_state=True), **sizes)  # type: ignore[arg-type]
    p = case.problem()
    ours, expected = run_all(backend, p), run_all(reference, p)
    assert {n: a.shape for n, a in ours.items()} == {n: a.shape for n, a in expected.items()}
    if not case.T or not case.B:  # nothing happens: states and their gradients pass through, weights get zeros
        assert not unequal(cpu, {"h": ours["h"], "d0h": ours["d0h"]}, {"h": p.state.h, "d0h": p.dstate.h})
        assert not any(ours[name].any() for name in ours if name.startswith(("dw_", "db_", "dreset")))


@NEEDS_NATIVE
@pytest.mark.parametrize(
    "case", draw(30, seed=51, T=1, P=0, lengths=False, reset=False, reset_state=False, reverse=False), ids=str
)
def test_one_step_has_the_bits_of_a_sequence_of_one(case: Case) -> None:
    """What `LSTMCell` runs on; it declines what is not contiguous, and cells without a highway."""
    p = case.problem()
    expected = cpu.forward(p.cell, p.x, p.weights, p.state).state
    plain, spread = p.tensors(), p.strided().tensors()
    ours = cpu.step(plain.cell, plain.x[0], plain.weights, plain.state)
    assert (ours is not None) == case.cell.has_cell
    for state in (ours, cpu.step(spread.cell, spread.x[0], spread.weights, spread.state)):
        if state is not None:
            assert differing({"h": to_numpy(state.h), "c": to_numpy(state.c)}, {"h": expected.h, "c": expected.c}) == []


def far_apart(a: np.ndarray) -> np.ndarray:
    """The same two steps, 2^33 bytes apart, in memory of which only the pages in use exist."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    memory = mmap.mmap(-1, (1 << 33) + (1 << 20), flags=flags)
    out = np.lib.stride_tricks.as_strided(
        np.frombuffer(memory, a.dtype, 1), a.shape, (1 << 33, 4 * a.shape[2], 4), writeable=True
    )
    out[...] = a
    return out


@NEEDS_NATIVE
@pytest.mark.parametrize("reverse", [False, True])
def test_steps_may_lie_further_apart_than_32_bits_can_count(reverse: bool) -> None:
    p = Case(LSTM(), "float32", T=2, B=3, I=5, H=9, reverse=reverse).problem()
    x, dy, y = far_apart(p.x), far_apart(p.dy), far_apart(np.zeros_like(p.dy))
    near = cpu.forward(p.cell, p.x, p.weights, p.state, save=True, reverse=reverse)
    far = cpu.forward(p.cell, x, p.weights, p.state, out=y, save=True, reverse=reverse)
    assert near.saved is not None and far.saved is not None and far.saved.h is y
    expected = cpu.backward(p.cell, p.x, p.weights, p.state, near.saved, p.dy, p.dstate, reverse=reverse)
    ours = cpu.backward(p.cell, x, p.weights, p.state, far.saved, dy, p.dstate, reverse=reverse)
    assert differing({"y": y, "dx": ours.x, **fields(ours)}, {"y": near.y, "dx": expected.x, **fields(expected)}) == []


def fields(grads: Any) -> dict[str, Any]:
    return {name: a for name, a in [*grads.weights._asdict().items(), *grads.state._asdict().items()] if a is not None}


@NEEDS_NATIVE
@pytest.mark.parametrize("lengths", [[1, 2, 7, 0, 0], [0, -1, 0, 0, 0]], ids=["beyond T", "negative"])
def test_the_kernel_never_sees_lengths_that_lead_outside(lengths: list[int]) -> None:
    """Also where nobody checked before: it would read and write beyond its arrays."""
    p = Case(LSTM()).problem()
    with pytest.raises(ArgumentError) as caught:
        cpu.forward(p.cell, p.x, p.weights, p.state, lengths=np.array(lengths))
    assert str(caught.value) == (
        f"cpu: lengths outside 0..T\n  got       {lengths}\n  expected  0 <= lengths <= 6\n  hint      cut lengths at T"
    )
