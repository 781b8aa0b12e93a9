"""The kernels for bfloat16: products in that type, everything else in float32; and the laws that hold for them too.

Every test runs with each of those that this processor has, the tiles of AMX in plain loops among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import KERNELS, Case, Problem, differing, draw, far, gates_held, num_threads, per_row, take_rows

from openlstm import cells
from openlstm.call import Call
from openlstm.engine import checkpoint, native, recur
from openlstm.engine.backends import cpu
from openlstm.errors import ArgumentError, BackendError
from openlstm.reference import State
from openlstm.weights import expand


@pytest.fixture(autouse=True, params=native.bfloat16s())
def products(request: pytest.FixtureRequest) -> Iterator[str]:
    with native.use_bfloat16(request.param):
        yield request.param


CASES = draw(6 * len(KERNELS), 160, ("", "", "h", "hcg", "mg", "hcE"), KERNELS, dtype="float32")
CASES += draw(2 * len(KERNELS), 166, ("", "hcg", "hcE"), KERNELS, dtype="float32", sums=True)
CASES = [c for c in CASES if not c.cell.norms or c.R > 1]  # the norm of w h does not depend on a single h: its gradient is 0
ROWS = draw(2 * len(KERNELS), 161, ("", "hcE"), KERNELS, dtype="float32", B=13, T=7)
ROWS += draw(8, 165, ("", "hcE"), dtype="float32", B=37, T=3)  # as many as three tiles of AMX hold
SIZES = [
    (3, 600, 5, 9),
    (70, 31, 17, 33),
    (5, 64, 96, 130),
    (9, 33, 1, 65),
    (40, 1, 33, 3 * 87),
    (11, 2, 64, 64),
    (4, 70, 8, 40),
]
SOME = [cells.LSTM(), cells.GRU(), cells.LayerNormLSTM(), cells.Peephole()]
LARGE = [
    replace(case, T=T, B=B, I=n, H=H)
    for case, (T, B, n, H) in zip(draw(len(SIZES), 162, ("",), SOME, dtype="float32", P=0), SIZES, strict=True)
]
"""More tokens than a block has, odd numbers of them, one row on several threads."""


CUT = draw(2 * len(KERNELS), 163, ("", "mg"), KERNELS, dtype="float32", T=20, reverse=False)


def rounded(a: Any) -> Any:
    return a.to(torch.bfloat16).float()


def problem(case: Case) -> Problem:
    """In float32, of numbers that x, dy and the matrices can have in bfloat16; gates of its own for every unit."""
    p = case.problem().tensors()
    w = expand(p.cell, p.weights)
    w = w._replace(
        w_ih=None if w.w_ih is None else rounded(w.w_ih), w_hh=rounded(w.w_hh), w_hr=None if w.w_hr is None else rounded(w.w_hr)
    )
    return replace(p, cell=p.cell.unshared(), x=rounded(p.x), dy=rounded(p.dy), weights=w)


def narrow(p: Problem) -> Problem:
    """The same numbers in bfloat16."""
    return replace(p, x=p.x.bfloat16(), dy=p.dy.bfloat16())


def everything(p: Problem) -> dict[str, np.ndarray]:
    """Outputs, states and every gradient by name, as float32."""
    run: Any = cpu.forward(p.call(save=True))
    grads = cpu.backward(p.call(), run.saved, p.dy, p.dstate, steps=True)
    groups = {"": run.state, "d": grads.weights, "d0": grads.state, "dreset_": grads.reset_state}
    named = {"y": run.y, "c_each": run.saved.c, "dx": grads.x, "dh_steps": grads.h_steps, "dc_steps": grads.c_steps}
    for prefix, group in groups.items():
        named |= {} if group is None else {prefix + name: a for name, a in group._asdict().items()}
    return {name: a.float().numpy() for name, a in named.items() if a is not None}


@pytest.mark.parametrize("case", CASES + LARGE, ids=str)
def test_outputs_and_gradients_are_those_of_float32_but_for_rounding(case: Case) -> None:
    """Every cell, size and option: a number that is off by more than roundings of 2^-9 is a wrong one.

    Where relu or a clip let one pass and stop the other, the derivatives are different ones.
    """
    p = problem(case)
    exact, found = everything(p), everything(narrow(p))
    relu, clip = getattr(p.cell, "nonlinearity", "") == "relu", p.cell.clip
    passes = [all["y"] > 0 if relu else abs(all["c_each"]) < clip if clip else np.array(True) for all in (exact, found)]
    if (passes[0] != passes[1]).any() or (relu and p.noise is not None and not p.noise.training):  # zoneout's mean hides h
        exact, found = ({name: a for name, a in all.items() if name in ("y", "h", "c")} for all in (exact, found))
    assert far(found, exact, 0.04) == {}


def test_outputs_are_bfloat16_and_states_and_weight_gradients_float32() -> None:
    p = narrow(problem(Case(cells.LSTM(), dtype="float32", P=3)))
    run: Any = cpu.forward(Call(p.cell, p.x, p.weights, p.state, save=True))
    grads: Any = cpu.backward(Call(p.cell, p.x, p.weights, p.state), run.saved, p.dy, p.dstate)
    assert run.y.dtype == grads.x.dtype == torch.bfloat16
    numbers = [*run.state, run.saved.gates, run.saved.c, run.saved.m, *grads.weights, *grads.state]
    assert {a.dtype for a in numbers if a is not None} == {torch.float32}


@pytest.mark.parametrize("H", [5, 16, 70])
def test_only_the_factors_of_products_are_rounded(H: int) -> None:
    """A loop in float64 that rounds x, W and h where they are multiplied, and nothing else, gives the same numbers."""
    p = problem(Case(cells.LSTM(), dtype="float32", T=30, B=4, I=7, H=H, seed=5))
    run: Any = cpu.forward(Call(p.cell, p.x.bfloat16(), p.weights, p.state))
    w: Any = p.weights
    bias = (w.b_ih + w.b_hh).double()
    h, c = (s.double() for s in p.state if s is not None)
    for t in range(30):
        z = bias + p.x[t].double() @ w.w_ih.double().T + rounded(h.float()).double() @ w.w_hh.double().T
        i, f, g, o = z.chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    assert torch.allclose(run.state.c.double(), c, rtol=0, atol=2e-3)  # a tie of roundings may fall to the other side
    assert float((run.state.c - c).abs().mean()) < 2e-4
    assert torch.equal(run.y[-1], run.state.h.bfloat16())


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_a_row_does_not_depend_on_the_others_nor_on_threads(case: Case) -> None:
    p = narrow(problem(case))
    whole = everything(p)
    order = np.random.default_rng(case.seed).permutation(case.B)
    assert differing(per_row(everything(p.rows(torch.from_numpy(order)))), take_rows(whole, order)) == []
    assert differing(per_row(everything(p.rows([4]))), take_rows(whole, [4])) == []
    with num_threads(3):
        assert differing(everything(p), whole) == []
    run = cpu.forward(p.call())
    assert np.array_equal(run.y.float().numpy(), whole["y"])  # whether or not anything is kept


def test_units_may_be_shared_instead_of_rows() -> None:
    """With AMX, where the weights are more than a thread's own cache holds."""
    p = narrow(problem(Case(cells.LSTM(), dtype="float32", T=3, B=20, I=330, H=330, lengths=True)))
    with num_threads(1):
        whole = everything(p)
    for threads in (2, 3):
        with num_threads(threads):
            assert differing(everything(p), whole) == []
            assert differing(per_row(everything(p.rows([4]))), take_rows(whole, [4])) == []


@pytest.mark.parametrize("case", CUT, ids=str)
def test_a_sequence_may_be_cut_anywhere(case: Case) -> None:
    """States are float32, so a part begins where the one before it ended, to the last bit."""
    p = narrow(problem(replace(case, reset=False, reset_state=False, each=False)))
    y, state = [], p.state
    for first, last in ((0, 1), (1, 8), (8, 20)):
        run = cpu.forward(Call(p.cell, p.x, p.weights, state, window=(first, last), **p.options))
        state = run.state
        y.append(run.y)
    whole: Any = cpu.forward(p.call())
    assert torch.equal(torch.cat(y), whole.y)
    assert all(a is None or torch.equal(a, b) for a, b in zip(state, whole.state, strict=True))


@pytest.mark.parametrize("case", draw(len(KERNELS), 164, ("", "hcg"), KERNELS, dtype="float32", T=29, B=37), ids=str)
def test_checkpointed_stretches_have_the_bits_of_a_whole_run(case: Case) -> None:
    p = narrow(problem(case))
    call = p.call(checkpoint=1)
    found: Any = checkpoint.forward(cpu, call)
    grads: Any = checkpoint.backward(cpu, call, State(found.saved.gates, found.saved.c), p.dy, p.dstate, True)
    whole = everything(p)
    assert np.array_equal(found.y.float().numpy(), whole["y"])
    assert np.array_equal(grads.x.float().numpy(), whole["dx"])
    for name, a in grads.weights._asdict().items():
        assert a is None or np.array_equal(a.numpy(), whole["d" + name]), name


@pytest.mark.parametrize("n", [6, 32])
@pytest.mark.parametrize("odd", ["a column cut off", "batch first", "an odd address"])
def test_x_may_lie_anywhere(odd: str, n: int) -> None:
    """In the order of their lengths its rows are at no constant distance."""
    exact = problem(Case(cells.LSTM(), dtype="float32", T=9, B=5, I=n, H=20, lengths=True))
    p = narrow(exact)
    assert len(set(p.lengths.argsort(descending=True, stable=True).diff().tolist())) > 1
    wide = torch.full((9, 5, n + 3), float("nan"), dtype=torch.bfloat16)
    wide[..., 1 : n + 1] = p.x
    x = wide[..., 1 : n + 1]
    if odd == "batch first":
        x = p.x.transpose(0, 1).contiguous().transpose(0, 1)
    elif odd == "an odd address":
        x = torch.cat([torch.zeros(1).bfloat16(), p.x.flatten()])[1:].view(p.x.shape)
        assert x.data_ptr() % 4 == 2
    whole = everything(p)
    assert differing(everything(replace(p, x=x)), whole) == []
    assert far(whole, everything(exact), 0.04) == {}


def test_padding_is_never_read_and_nan_stays_in_its_row() -> None:
    p = narrow(problem(Case(cells.LSTM(), dtype="float32", T=9, B=6, I=5, H=20, lengths=True, seed=3)))
    clean = everything(p)
    bad = p.x.clone()
    for b, n in enumerate(p.lengths.tolist()):
        bad[n:, b] = float("nan")
    assert differing(everything(replace(p, x=bad)), clean) == []
    assert (p.lengths < 9).any() and (p.lengths[2:] > 0).any()
    bad = p.x.clone()
    bad[0, 1] = float("nan")
    rest = [0, 2, 3, 4, 5]
    assert differing(take_rows(everything(replace(p, x=bad)), rest), take_rows(clean, rest)) == []


@pytest.mark.parametrize("cell", [cells.LSTM(), cells.GRU(memory=True)], ids=["lstm", "gru"])
def test_a_held_cell_is_held_for_ever(cell: cells.Cell) -> None:
    """f = 1 keeps c to the last bit, over as many steps as one likes; a closed gate is 2^-100 at most."""
    c0 = np.array([[0.3, -7.1, 1e-20, 1e20]], np.float32)
    p = gates_held("float32", i=-200, f=200, c0=c0, steps=10_000, cell=cell).tensors()
    run: Any = cpu.forward(Call(cell, p.x.bfloat16(), p.weights, p.state))
    assert torch.equal(run.state.c, torch.from_numpy(c0))


def test_gates_are_finite_wherever_their_sums_are() -> None:
    p = problem(Case(cells.LSTM(), dtype="float32", T=3, B=4, I=5, H=20))
    for scale in (1e4, 1e-4, 1e-30, 1e30):
        x = (p.x * scale).bfloat16()
        run: Any = cpu.forward(Call(p.cell, x, p.weights, p.state, save=True))
        assert run.y.isfinite().all() and run.saved.gates.isfinite().all() and run.saved.c.isfinite().all()
        gates = run.saved.gates.view(3, 4, 4, 20)
        assert ((gates[:, :, [0, 1, 3]] >= 0) & (gates[:, :, [0, 1, 3]] <= 1)).all() and (gates[:, :, 2].abs() <= 1).all()


def test_the_gates_functions_are_within_four_millionths() -> None:
    """Read off the saved gates of a cell whose sums are its biases."""
    z = torch.cat([torch.linspace(-30, 30, 4001), torch.logspace(-8, 1, 500), -torch.logspace(-8, 1, 500)])
    H = len(z)
    w = Case(cells.LSTM(), dtype="float32", I=1, H=1).problem().tensors().weights
    w = w._replace(w_ih=torch.zeros(4 * H, 1), w_hh=torch.zeros(4 * H, H), b_ih=z.repeat(4), b_hh=torch.zeros(4 * H), w_hr=None)
    state = State(torch.zeros(1, H), torch.zeros(1, H))
    saved: Any = cpu.forward(Call(cells.LSTM(), torch.zeros(1, 1, 1).bfloat16(), w, state, save=True)).saved
    i, _, g, _ = saved.gates[0, 0].double().chunk(4)
    s, t = z.double().sigmoid(), z.double().tanh()
    assert float(((i - s).abs() / s).max()) < 4e-6
    assert float(((g - t).abs() / t.abs().clamp(min=1e-30)).max()) < 4e-6


def links(a: np.ndarray, b: np.ndarray, start: np.ndarray) -> np.ndarray:
    """start + a . b as Intel's manual has it of TDPBF16PS: for every 32 numbers two chains, then their sum onto what there is.

    In float64, which is exact for the few bits that these numbers have, rounded to float32 after each operation.
    """
    total = start.astype(np.float32)
    for k in range(0, a.shape[1], 32):
        chain = [np.zeros(total.shape, np.float32)] * 2
        for j in range(k, min(k + 32, a.shape[1])):
            product = a[:, j, None].astype(np.float64) * b[None, :, j]
            chain[j % 2] = (chain[j % 2] + product).astype(np.float32)
        total = total + (chain[0] + chain[1])
    return total


@pytest.mark.parametrize(("B", "inputs", "H"), [(1, 1, 1), (16, 32, 64), (17, 33, 65), (40, 100, 20), (3, 64, 130)])
def test_a_tile_sums_in_the_order_of_the_manual(products: str, B: int, inputs: int, H: int) -> None:
    """h = max(0, z) shows the sums of one step to the last bit."""
    if products != "amxtest":
        pytest.skip("of the tiles in plain loops alone")
    p = problem(Case(cells.VanillaRNN("relu"), dtype="float32", T=1, B=B, I=inputs, H=H))
    w: Any = p.weights
    run: Any = cpu.forward(Call(p.cell, p.x.bfloat16(), w, p.state))
    z = links(p.x[0].numpy(), w.w_ih.numpy(), (w.b_ih + w.b_hh).expand(B, H).numpy())
    z = links(rounded(p.state.h).numpy(), w.w_hh.numpy(), z)
    assert np.array_equal(run.state.h.numpy(), np.maximum(z, 0))


def test_recur_runs_bfloat16_arrays_on_the_reference() -> None:
    """The function for arrays of one type: every array is bfloat16 there, and named backends are not replaced."""
    p = problem(Case(cells.LSTM(), dtype="float32")).map(lambda a: a.bfloat16())
    run: Any = recur(p.cell, p.x, p.weights, p.state)
    assert run.y.dtype == run.state.c.dtype == torch.bfloat16
    with pytest.raises((BackendError, ArgumentError), match="bfloat16"):
        recur(p.cell, p.x, p.weights, p.state, backend="cpu")
