"""The definition against torch's own layers, torch's automatic derivatives, and cases worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import Case, Problem, differing, draw, far, run_all

from openlstm import reference, weights
from openlstm.call import Call
from openlstm.cells import LSTM, Cell, VanillaRNN
from openlstm.reference import Run, State, Weights

DRAWN = draw(60, seed=1, dtype="float64")
SMALL = [
    replace(c, T=min(c.T, 3), B=min(c.B or 1, 3), I=min(c.I, 3), H=min(c.H, 3), P=min(c.P, 2))
    for c in draw(24, seed=2, dtype="float64")
]


@pytest.mark.parametrize("case", DRAWN, ids=str)
def test_numpy_equals_torch(case: Case) -> None:
    problem = case.problem()
    assert far(run_all(reference, problem), run_all(reference, problem.tensors()), 1e-12) == {}


@pytest.mark.parametrize("case", draw(12, seed=3), ids=str)
def test_numbers_may_lie_anywhere(case: Case) -> None:
    problem = case.problem()
    tolerance = 1e-5 if case.dtype == "float32" else 1e-12
    assert far(run_all(reference, problem.strided()), run_all(reference, problem), tolerance) == {}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("kind", ["lstm", "lstm-projected", "tanh", "relu"])
def test_it_equals_torch_nn_in_outputs_and_gradients(kind: str, reverse: bool, ragged: bool, bias: bool) -> None:
    T, B, I, H = 7, 5, 3, 6
    torch.manual_seed(0)
    common: dict[str, Any] = dict(bias=bias, bidirectional=True, dtype=torch.float64)
    P = 4 if kind == "lstm-projected" else 0
    cell: Cell = LSTM() if kind.startswith("lstm") else VanillaRNN(kind)  # type: ignore[arg-type]
    layer = torch.nn.LSTM(I, H, proj_size=P, **common) if cell.has_cell else torch.nn.RNN(I, H, nonlinearity=kind, **common)
    direction, R = int(reverse), P or H
    lengths = torch.tensor([7, 1, 4, 6, 2]) if ragged else torch.full((B,), T)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    h0 = torch.randn(2, B, R, dtype=torch.float64, requires_grad=True)
    c0 = torch.randn(2, B, H, dtype=torch.float64, requires_grad=True)
    dy = torch.randn(T, B, R, dtype=torch.float64)
    dh, dc = torch.randn(B, R, dtype=torch.float64), torch.randn(B, H, dtype=torch.float64)

    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    out, last = layer(packed, (h0, c0) if cell.has_cell else h0)
    y = torch.nn.utils.rnn.pad_packed_sequence(out, total_length=T)[0][..., direction * R : (direction + 1) * R]
    h_n, c_n = last if cell.has_cell else (last, None)
    loss = (y * dy).sum() + (h_n[direction] * dh).sum() + (0 if c_n is None else (c_n[direction] * dc).sum())
    loss.backward()

    w = weights.collect(dict(layer.named_parameters()), 0, direction)
    state = State(h0[direction], c0[direction] if cell.has_cell else None)
    problem = Problem(
        cell, x, w, state, lengths if ragged else None, None, None, reverse, dy, State(dh, dc if cell.has_cell else None)
    )
    ours = run_all(reference, problem)
    assert x.grad is not None and h0.grad is not None
    theirs = {"y": y, "h": h_n[direction], "dx": x.grad, "d0h": h0.grad[direction]}
    if c_n is not None and c0.grad is not None:
        theirs |= {"c": c_n[direction], "d0c": c0.grad[direction]}
    theirs |= {f"d{field}": p.grad for field, p in w._asdict().items() if p is not None}
    assert far({name: ours[name] for name in theirs}, {name: a.detach().numpy() for name, a in theirs.items()}, 1e-12) == {}


def flat(p: Problem) -> list[torch.Tensor]:
    """Every floating input of a problem, ready for a derivative."""
    groups = [[p.x], p.weights, p.state, p.reset_state or []]
    return [a.detach().clone().requires_grad_() for group in groups for a in group if a is not None]


def filled(p: Problem, tensors: list[torch.Tensor]) -> Problem:
    """`p` with these inputs in place of its own."""
    rest = iter(tensors)
    fill = lambda group: type(group)(*(None if a is None else next(rest) for a in group))  # noqa: E731
    return replace(
        p,
        x=next(rest),
        weights=fill(p.weights),
        state=fill(p.state),
        reset_state=None if p.reset_state is None else fill(p.reset_state),
    )


def loss_of(p: Problem, run: Run) -> torch.Tensor:
    """The scalar whose cotangents a problem names."""
    loss = (run.y * p.dy).sum() + (run.state.h * p.dstate.h).sum()
    return loss if run.state.c is None else loss + (run.state.c * p.dstate.c).sum()


@pytest.mark.parametrize("case", DRAWN, ids=str)
def test_the_backward_derived_by_hand_equals_autograd(case: Case) -> None:
    p = case.problem().tensors()
    inputs = flat(p)
    q = filled(p, inputs)
    loss = loss_of(q, reference.forward(q.call()))
    grads = torch.autograd.grad(loss, inputs, allow_unused=True) if loss.requires_grad else [None] * len(inputs)
    by_autograd = [torch.zeros_like(a) if g is None else g for a, g in zip(inputs, grads, strict=True)]
    by_hand = run_all(reference, p)
    names = ["dx", *(f"d{n}" for n in Weights._fields), "d0h", "d0c", "dreset_h", "dreset_c"]
    names = [name for name in names if name in by_hand]
    assert len(names) == len(inputs)
    assert (
        far({name: by_hand[name] for name in names}, dict(zip(names, (g.numpy() for g in by_autograd), strict=True)), 1e-12)
        == {}
    )


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_the_loop_passes_gradcheck(case: Case) -> None:
    p = case.problem().tensors()

    def outputs(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q = filled(p, list(inputs))
        run = reference.forward(q.call(save=True))
        assert run.saved is not None
        every = (run.y, *run.state, run.saved.gates, run.saved.c)
        return tuple(a for a in every if a is not None and a.requires_grad)

    inputs = flat(p)
    if case.T:
        assert torch.autograd.gradcheck(outputs, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(outputs, inputs, fast_mode=True)
    else:  # nothing happens: the state comes back
        assert [a.tolist() for a in outputs(*inputs)] == [s.tolist() for s in p.state if s is not None]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", [LSTM(), VanillaRNN("tanh"), VanillaRNN("relu")], ids=lambda c: c.kernel)
def test_gradients_of_every_step_are_those_of_independent_coordinates(cell: Cell, reverse: bool) -> None:
    """Move h_t, or c_t, alone: c_t's effect on h_t has already happened."""
    p = Case(cell, T=5, B=3, I=2, H=4, reverse=reverse).problem().tensors()
    nudge_h = torch.zeros(5, 3, 4, dtype=torch.float64, requires_grad=True)
    nudge_c = torch.zeros(5, 3, 4, dtype=torch.float64, requires_grad=True)
    state, loss = p.state, torch.zeros((), dtype=torch.float64)
    for t in reversed(range(5)) if reverse else range(5):
        state, _ = reference.step(cell, p.x[t], state, p.weights)
        state = State(state.h + nudge_h[t], None if state.c is None else state.c + nudge_c[t])
        loss = loss + (state.h * p.dy[t]).sum()
    loss = loss + (state.h * p.dstate.h).sum() + (0 if state.c is None else (state.c * p.dstate.c).sum())
    expected = dict(
        zip(("dh_steps", "dc_steps"), torch.autograd.grad(loss, (nudge_h, nudge_c), allow_unused=True), strict=True)
    )
    ours = run_all(reference, p)
    named = {name: g.numpy() for name, g in expected.items() if g is not None}
    assert named.keys() == ours.keys() & expected.keys()
    assert far({name: ours[name] for name in named}, named, 1e-12) == {}


def test_one_step_worked_by_hand() -> None:
    """One unit, powers of two: every number of this step can be checked with a pocket calculator."""
    w = Weights(
        np.array([[1.0], [2.0], [3.0], [4.0]]), np.array([[0.5], [0.25], [-0.5], [-0.25]]), np.full(4, 0.1), np.full(4, 0.2)
    )
    run = reference.forward(Call(LSTM(), np.array([[[0.5]]]), w, State(np.array([[2.0]]), np.array([[3.0]])), save=True))
    i = 1 / (1 + math.exp(-(0.5 + 1.0 + 0.3)))
    f = 1 / (1 + math.exp(-(1.0 + 0.5 + 0.3)))
    g = math.tanh(1.5 - 1.0 + 0.3)
    o = 1 / (1 + math.exp(-(2.0 - 0.5 + 0.3)))
    c = f * 3 + i * g
    assert run.saved is not None
    named = run.saved.named(LSTM())
    assert list(named) == ["i", "f", "g", "o", "c", "h"]
    assert [named[k].item() for k in named] == pytest.approx([i, f, g, o, c, o * math.tanh(c)], rel=1e-15)
    assert run.state.c is not None
    assert run.y.item() == run.state.h.item() == named["h"].item() and run.state.c.item() == named["c"].item()


def test_one_step_of_the_vanilla_rnn_worked_by_hand() -> None:
    w = Weights(np.array([[2.0]]), np.array([[0.5]]))
    for cell, expected in ((VanillaRNN("tanh"), math.tanh(2.0 - 3.0)), (VanillaRNN("relu"), 0.0)):
        run = reference.forward(Call(cell, np.array([[[1.0]]]), w, State(np.array([[-6.0]])), save=True))
        assert run.y.item() == pytest.approx(expected, rel=1e-15)
        assert run.saved is not None and list(run.saved.named(VanillaRNN())) == ["h"]


@pytest.mark.parametrize("case", [replace(c, cell=LSTM()) for c in DRAWN if c.T], ids=str)
def test_saved_gates_make_the_states(case: Case) -> None:
    """c_t = f_t c_{t-1} + i_t g_t and h_t = o_t tanh(c_t), from what is handed out alone."""
    p = replace(case, lengths=False, reset=False).problem()
    saved = reference.forward(p.call(save=True)).saved
    assert saved is not None
    named = saved.named(p.cell)
    assert list(named) == ["i", "f", "g", "o", "c", "h"]
    c = p.state.c
    for t in range(case.T)[::-1] if case.reverse else range(case.T):
        c = named["f"][t] * c + named["i"][t] * named["g"][t]
        np.testing.assert_allclose(named["c"][t], c, rtol=1e-13, atol=1e-14)
        m = named["o"][t] * np.tanh(c)
        h = m if p.weights.w_hr is None else m @ p.weights.w_hr.T
        np.testing.assert_allclose(named["h"][t], h, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("case", draw(12, seed=4), ids=str)
def test_saving_and_writing_elsewhere_change_nothing(case: Case) -> None:
    p = case.problem()
    out = np.full_like(p.dy, np.nan)
    plain = reference.forward(p.call())
    full = reference.forward(p.call(save=True), out=out)
    assert plain.saved is None
    assert differing({"y": plain.y, "h": plain.state.h}, {"y": full.y, "h": full.state.h}) == []
    assert differing({"y": out}, {"y": full.y}) == []


@pytest.mark.parametrize("case", draw(12, seed=5, dtype="float64"), ids=str)
def test_missing_cotangents_count_as_zero(case: Case) -> None:
    p = case.problem()
    none = replace(p, dy=None, dstate=State(None, None))
    zero = replace(p, dy=np.zeros_like(p.dy), dstate=State(*(None if s is None else np.zeros_like(s) for s in p.dstate)))
    results = run_all(reference, none)
    assert differing(results, run_all(reference, zero)) == []
    assert not any(results[name].any() for name in results if name.startswith("d"))


def test_the_dtype_of_the_caller_is_kept() -> None:
    for dtype in ("float16", "float32", "float64", "longdouble"):
        p = Case(LSTM(), dtype=dtype, lengths=True, reset=True, reset_state=True).problem()
        assert {a.dtype for a in run_all(reference, p).values()} == {np.dtype(dtype)}
