"""The promise of the native engine: the same bits for every batch, order, number of threads, cut and instruction set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import (
    KERNELS,
    NEEDS_NATIVE,
    Case,
    Problem,
    differing,
    draw,
    far,
    isas,
    name_of,
    num_threads,
    per_row,
    projected,
    run_all,
    take_rows,
)

from openlstm import reference
from openlstm.cells import FGR, GRU, LSTM, SLSTM, Cell, IndRNN, MinGRU, Peephole, VanillaRNN
from openlstm.engine import native
from openlstm.engine.backends import cpu
from openlstm.reference import State

pytestmark = NEEDS_NATIVE

ROWWISE = ("", "", "m", "hcE")
"""Noise that belongs to a row and to no step of a call: nothing, a mask of its own, the expectation of zoneout."""

DRAWN = draw(8 * len(KERNELS), 40, ROWWISE, KERNELS) + draw(2 * len(KERNELS), 46, ROWWISE, KERNELS, sums=True)
LARGE = [
    Case(LSTM(), "float32", T=40, B=23, I=33, H=65, lengths=True, reset=True, reset_state=True),
    Case(LSTM(), "float64", T=40, B=23, I=33, H=65, lengths=True, reset=True, reverse=True),
    Case(LSTM(), "float32", T=300, B=9, I=3, H=40, lengths=True),  # gradients in several blocks of steps
    Case(LSTM(), "float64", T=300, B=9, I=3, H=40, P=21, reset=True),
    Case(LSTM(), "float32", T=12, B=64, I=20, H=100, P=30, lengths=True, bias=False),
    Case(LSTM(), "float32", T=5, B=1, I=256, H=300),  # one row: threads share its units
    Case(LSTM(), "float64", T=5, B=1, I=256, H=256, reset=True),
    Case(LSTM(), "float32", T=1, B=1, I=300, H=301),
    Case(LSTM(), "float32", T=1, B=3, I=256, H=257, reverse=True),
    Case(LSTM(), "float64", T=1, B=2, I=200, H=256),
    Case(VanillaRNN("tanh"), "float32", T=50, B=31, I=50, H=129, lengths=True, reset=True),
    Case(VanillaRNN("tanh"), "float64", T=4, B=1, I=700, H=700),
    Case(VanillaRNN("relu"), "float32", T=30, B=33, I=129, H=120, reverse=True, reset=True, reset_state=True),
    Case(VanillaRNN("relu"), "float64", T=1, B=1, I=801, H=700),
    Case(
        LSTM(clip=0.5), "float32", T=40, B=23, I=33, H=65, noise="hcgm", lengths=True, reset=True, reset_state=True, each=True
    ),
    Case(LSTM(cells_per_gate=3), "float32", T=9, B=30, I=33, H=96, reset=True),
    Case(GRU(), "float32", T=40, B=23, I=33, H=65, lengths=True, reset=True, reset_state=True, noise="hgm"),
    Case(GRU(), "float64", T=5, B=1, I=256, H=300),
    Case(GRU(memory=True), "float32", T=12, B=40, I=20, H=100, P=30, lengths=True, reset=True),
    Case(Peephole(), "float32", T=40, B=23, I=33, H=65, lengths=True, reset=True, noise="hc"),
    Case(Peephole(), "float64", T=4, B=1, I=256, H=300, reverse=True),
    Case(FGR(), "float32", T=12, B=23, I=33, H=65, lengths=True, reset=True, reset_state=True),
    Case(FGR(clip=0.5), "float64", T=3, B=1, I=64, H=130, noise="hcgm"),
    Case(LSTM(heads=4), "float32", T=12, B=40, I=20, H=4 * 33, lengths=True, reset=True, reset_state=True, noise="hcgm"),
    Case(GRU(heads=5), "float64", T=12, B=23, I=33, H=5 * 17, lengths=True, reset=True),
    Case(SLSTM(heads=4), "float32", T=300, B=9, I=3, H=40, lengths=True, reset_state=True),
    Case(SLSTM(heads=2), "float32", T=5, B=1, I=256, H=300),
    Case(SLSTM(heads=3), "float64", T=1, B=1, I=256, H=3 * 99, sums=True),
    Case(LSTM(heads=4), "float32", T=30, B=1, I=33, H=4 * 20, sums=True, reset=True),
    Case(IndRNN(), "float32", T=5, B=1, I=700, H=701),
    Case(MinGRU(), "float32", T=40, B=23, H=300, sums=True, lengths=True, reset=True),
    *(
        projected(
            Case(cell, ("float32", "float64")[k % 2], T=30, B=19, I=33, H=65, lengths=True, reset=True, seed=k),
            21 * (k % 3 == 0),
        )
        for k, cell in enumerate(KERNELS)
        if cell.kernel not in ("lstm", "rnn_tanh", "rnn_relu", "gru", "peephole", "fgr")
    ),
]
"""Large enough that seven threads are worth waking, in each of the ways in which they share the work."""


def varied(case: Case) -> tuple[str, int, bool]:
    """An instruction set, a number of threads, flush to zero: drawn for each case."""
    rng = np.random.default_rng(case.seed + 1)
    return (
        str(rng.choice(isas(case.cell))),
        int(rng.choice([1, 2, 3, 7])),
        bool(rng.random() < 0.5 and case.cell.cells_per_gate == 1),
    )  # shared rows' gradients are added up by numpy


@contextmanager
def flush_to_zero(on: bool = True) -> Iterator[None]:
    """Subnormal numbers are zero in this thread, as other libraries like to have it."""
    assert torch.set_flush_denormal(on) or not on
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("case", DRAWN, ids=str)
def test_a_row_has_the_same_bits_alone_and_in_any_order(case: Case) -> None:
    """Every row alone, and all rows in another order, while instruction set, threads and flush to zero change too."""
    p = case.problem()
    together = run_all(cpu, p)
    isa, threads, flush = varied(case)
    order = np.random.default_rng(case.seed).permutation(case.B)
    with native.use_isa(isa), num_threads(threads), flush_to_zero(flush):
        shuffled = per_row(run_all(cpu, p.rows(order)))
        again = run_all(cpu, p)
        alone = [per_row(run_all(cpu, p.rows([b]))) for b in range(case.B)]
    assert differing(shuffled, take_rows(together, order)) == []
    assert differing(again, together) == []  # the gradients of the weights as well
    for b in range(case.B):
        assert differing(alone[b], take_rows(together, [b])) == []


@pytest.mark.parametrize("case", DRAWN, ids=str)
def test_any_cut_into_calls_has_the_same_bits(case: Case) -> None:
    """One call against calls on random chunks and step by step, each call on other threads and instruction sets."""
    p = replace(case, T=case.T + 3, reset=case.reset and not case.reverse).problem()
    T = p.x.shape[0]
    whole = cpu.forward(p.call(save=True))
    assert whole.saved is not None
    rng = np.random.default_rng(case.seed)
    for inner in (range(1, T), sorted(set(rng.integers(1, T, 2).tolist()))):
        cuts = [0, *inner, T]
        pieces = list(zip(cuts, cuts[1:], strict=False))
        state, parts = p.state, []
        for a, b in pieces[::-1] if case.reverse else pieces:
            q = p.steps(a, b, state)
            with native.use_isa(str(rng.choice(isas(p.cell)))), num_threads(int(rng.choice([1, 2, 7]))):
                run = cpu.forward(q.call(save=True))
            state = run.state
            assert run.saved is not None
            parts.append(run.saved.named(q.cell))
        in_time = parts[::-1] if case.reverse else parts
        glued = {name: np.concatenate([part[name] for part in in_time]) for name in parts[0]}
        assert differing(glued, whole.saved.named(p.cell)) == []
        assert differing(states(state), states(whole.state)) == []


def states(state: State) -> dict[str, Any]:
    return {name: a for name, a in state._asdict().items() if a is not None}


@pytest.mark.parametrize("case", LARGE, ids=str)
def test_any_number_of_threads_gives_the_same_bits(case: Case) -> None:
    p = case.problem()
    with num_threads(1):
        expected = run_all(cpu, p)
    for threads in (2, 3, 7):
        with num_threads(threads):
            assert differing(run_all(cpu, p), expected) == [], threads


@pytest.mark.parametrize("case", LARGE + draw(3 * len(KERNELS), 42, ("", "hcgm", "hcE"), KERNELS), ids=str)
def test_any_instruction_set_gives_the_same_bits(case: Case) -> None:
    """Scalar code, AVX2, the tile of AVX-512 carried out by AVX2 (`wide`), AVX-512 and NEON, as far as there are."""
    p = replace(case, T=min(case.T, 12)).problem()
    with native.use_isa("scalar"):
        expected = run_all(cpu, p)
    for isa in isas(p.cell):
        with native.use_isa(isa):
            assert differing(run_all(cpu, p), expected) == [], isa


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", KERNELS, ids=name_of)
def test_a_batch_of_one_has_the_bits_of_its_row_among_sixty_four(cell: Cell, dtype: str) -> None:
    p = Case(cell, dtype, T=9, B=64, I=30, H=67, lengths=True, reset=True, reset_state=True).problem()
    together = run_all(cpu, p)
    for b in range(64):
        assert differing(per_row(run_all(cpu, p.rows([b]))), take_rows(together, [b])) == [], b


@pytest.mark.parametrize("case", draw(2 * len(KERNELS), 43, ("hcgm", "g", "h"), KERNELS, B=9), ids=str)
def test_the_noise_of_a_row_depends_on_neither_threads_nor_the_rows_behind_it(case: Case) -> None:
    """A row's draws are a function of its place in the batch: the first rows alone draw what they drew in the batch."""
    p = case.problem()
    together = run_all(cpu, p)
    isa, threads, _ = varied(case)
    with native.use_isa(isa), num_threads(threads):
        assert differing(run_all(cpu, p), together) == []
        for count in (1, 4):
            assert differing(per_row(run_all(cpu, p.rows(range(count)))), take_rows(together, range(count))) == []


@pytest.mark.parametrize("case", draw(4 * len(KERNELS), 45, ("hcgm", "hc", "g", "h"), KERNELS, B=13), ids=str)
def test_shares_of_a_batch_draw_what_the_whole_batch_draws(case: Case) -> None:
    """To the bit by the kernels; by the reference but for the order of sums, and so are the gradients of the weights."""
    p = case.problem()
    assert p.noise is not None
    cuts = [0, *sorted(np.random.default_rng(case.seed).choice(np.arange(1, 13), 2, replace=False).tolist()), 13]
    rows = [range(a, b) for a, b in zip(cuts, cuts[1:], strict=False)]
    shares = [replace(q, noise=q.noise._replace(first_row=r.start)) for r in rows if (q := p.rows(r)).noise is not None]
    for backend in (cpu, reference) if case.dtype == "float64" else (cpu,):
        whole, parts = run_all(backend, p), [run_all(backend, share) for share in shares]
        for r, part in zip(rows, parts, strict=True):
            if backend is cpu:
                assert differing(per_row(part), take_rows(whole, r)) == []
            else:
                assert far(per_row(part), take_rows(whole, r), 1e-12) == {}
        sums = {name: sum(part[name] for part in parts) for name in whole.keys() - per_row(whole).keys()}
        assert far(sums, {name: whole[name] for name in sums}, 1e-5) == {}


def test_a_locked_mask_of_ones_and_probabilities_of_zero_are_no_noise() -> None:
    for case in draw(len(KERNELS), 44, ("m",), KERNELS, B=3):
        p = case.problem()
        assert p.noise is not None and p.noise.hidden is not None
        ones = replace(p, noise=p.noise._replace(hidden=np.ones_like(p.noise.hidden)))
        assert differing(run_all(cpu, ones), run_all(cpu, replace(p, noise=None))) == []


def tiny(p: Problem) -> Problem:
    """Numbers whose products are subnormal, and inputs that are so themselves."""
    scale = {4: 1e-20, 8: 1e-155}[p.x.dtype.itemsize]
    small = p.map(lambda a: (a * scale).astype(a.dtype))
    dtype = p.x.dtype.type
    return replace(small, x=np.where(np.abs(p.x) < 0.5, p.x * dtype(scale) * dtype(scale), small.x))


@pytest.mark.parametrize(
    "case",
    [c for c in LARGE[:1] + draw(3 * len(KERNELS), 41, ("", "hcgm"), KERNELS, T=5, B=4) if c.cell.cells_per_gate == 1],
    ids=str,
)
def test_flush_to_zero_set_by_others_changes_nothing(case: Case) -> None:
    """(Where cells share their gates, the gradients of shared rows are added up by numpy or torch, which do flush.)"""
    p = tiny(case.problem())
    q = replace(p, weights=p.weights._replace(w_hh=case.problem().weights.w_hh))
    for problem in (p, q):
        expected = run_all(cpu, problem)
        with flush_to_zero():
            subnormal = np.full(1, np.finfo(case.dtype).tiny, case.dtype) * np.array(0.25, case.dtype)
            flushed = run_all(cpu, problem)
            still_on = np.full(1, np.finfo(case.dtype).tiny, case.dtype) * np.array(0.25, case.dtype)
        assert subnormal[0] == 0 and still_on[0] == 0  # it was on, and the engine left it on
        assert differing(flushed, expected) == []


def test_the_tiny_problem_has_subnormal_results() -> None:
    """Otherwise the law above says nothing."""
    for dtype in ("float32", "float64"):
        results = run_all(cpu, tiny(Case(LSTM(), dtype, T=5, B=4, I=7, H=9).problem()))
        small = np.concatenate([np.abs(a).ravel() for a in results.values()])
        assert ((small > 0) & (small < np.finfo(dtype).tiny)).any()


def test_the_same_call_twice_gives_the_same_bits() -> None:
    for case in LARGE:
        p = case.problem()
        assert differing(run_all(cpu, p), run_all(cpu, p)) == []


def test_a_difference_would_be_seen() -> None:
    """One bit of one weight changes the outcome: the comparison above can fail."""
    p = Case(LSTM(), "float32", B=4).problem()
    w = p.weights.w_hh.copy()
    w.view(np.uint32)[3, 2] ^= 1 << 8
    changed = differing(run_all(cpu, replace(p, weights=p.weights._replace(w_hh=w))), run_all(cpu, p))
    assert {"y", "dx", "dw_ih", "saved.i"} <= set(changed)
