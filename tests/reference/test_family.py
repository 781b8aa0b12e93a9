"""Every cell of the family over a sequence: its derivative against torch's, its equations against a loop from the paper.

Legend: T time, B batch, I input size, H hidden size, P projected size, R what is fed back (P with a projection, 4H for FGR,
else H).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import Case, Problem, far, projectable, to_numpy

from openlstm import cells, reference, weights
from openlstm.call import Call
from openlstm.cells import FGR, GRU, LSTM, LSTM1997, Cell, Peephole, VanillaRNN
from openlstm.cells.lstm import Memory
from openlstm.noise import Noise
from openlstm.reference import Run, State, Weights

OPTIONS = [LSTM(clip=0.4), Peephole(clip=0.4), FGR(clip=0.3), LSTM(cells_per_gate=3), LSTM1997(clip=0.5, cells_per_gate=2)]
OPTIONS += [GRU(memory=True), GRU(heads=2), cells.LSTM(heads=2), cells.SLSTM(heads=3), cells.LSTM(heads=2, cells_per_gate=2)]
EVERY = pytest.mark.parametrize("cell", [*cells.ALL, *OPTIONS], ids=repr)
TRAIN = Noise(0.3, 0.4, 0.3, seed=(5 << 32) + 11, stream=3)


def drawn(cell: Cell, seed: int, **fixed: Any) -> tuple[Problem, Noise | None]:
    """Sizes, options and noise of one problem, in torch, float64."""
    rng = np.random.default_rng(seed)

    def often() -> bool:
        return bool(rng.random() < 0.6)

    H = cell.heads * cell.cells_per_gate * int(rng.integers(1, 5))
    P = int(rng.integers(1, 4)) if often() and projectable(cell) else 0
    flags = {name: often() for name in ("bias", "lengths", "reset", "reset_state", "reverse")}
    sizes = {"T": int(rng.integers(0, 8)), "B": int(rng.integers(1, 6)), "I": int(rng.integers(1, 4)), "H": H, "P": P}
    case = Case(cell, seed=seed, **{**sizes, **flags, **fixed})
    case = replace(case, cell=GRU(memory=True)) if case.P and cell == GRU() else case
    cell = case.cell
    p = case.problem().tensors()
    noise = TRAIN._replace(
        zoneout_h=TRAIN.zoneout_h * often(),
        zoneout_c=TRAIN.zoneout_c * often() * cell.has_cell,
        candidate=TRAIN.candidate * often() * (cell.candidate is not None),
        training=often(),
        hidden=torch.from_numpy((rng.random((case.B, case.R)) < 0.7) / 0.7) if often() else None,
    )
    return p, noise if seed % 4 else None


def named(p: Problem) -> dict[str, torch.Tensor]:
    """Every floating input by the name of its gradient."""
    groups = {"": {"x": p.x}, "w": p.weights._asdict(), "0": p.state._asdict()}
    groups["reset_"] = {} if p.reset_state is None else p.reset_state._asdict()
    prefix = {"": "d", "w": "d", "0": "d0", "reset_": "dreset_"}
    return {prefix[key] + name: a for key, group in groups.items() for name, a in group.items() if a is not None}


def filled(p: Problem, a: dict[str, torch.Tensor]) -> Problem:
    """`p` with these inputs in place of its own."""
    state = State(a["d0h"], a.get("d0c"))
    fresh = None if p.reset_state is None else State(a["dreset_h"], a.get("dreset_c"))
    return replace(p, x=a["dx"], weights=Weights(*(a.get(f"d{n}") for n in Weights._fields)), state=state, reset_state=fresh)


def loss_of(p: Problem, run: Run) -> torch.Tensor:
    loss = (run.y * p.dy).sum() + (run.state.h * p.dstate.h).sum()
    return loss if run.state.c is None else loss + (run.state.c * p.dstate.c).sum()


def forward(p: Problem, noise: Noise | None, save: bool = False) -> Run:
    return reference.forward(p.call(save=save, noise=noise))


def by_hand(p: Problem, noise: Noise | None) -> dict[str, Any]:
    run: Any = forward(p, noise, save=True)
    g = reference.backward(p.call(noise=noise), run.saved, p.dy, p.dstate, steps=True)
    out = {"dx": g.x, **{f"d{n}": a for n, a in g.weights._asdict().items()}, "d0h": g.state.h, "d0c": g.state.c}
    if g.reset_state is not None:
        out |= {"dreset_h": g.reset_state.h, "dreset_c": g.reset_state.c}
    return {name: a for name, a in out.items() if a is not None}


def by_autograd(p: Problem, noise: Noise | None, create_graph: bool = False) -> dict[str, torch.Tensor]:
    inputs = named(p)
    inputs = inputs if create_graph else {name: a.detach().requires_grad_() for name, a in inputs.items()}
    q = filled(p, inputs)
    loss = loss_of(q, forward(q, noise))
    options: dict[str, Any] = {"allow_unused": True, "materialize_grads": True, "create_graph": create_graph}
    if not loss.requires_grad:
        return {name: torch.zeros_like(a) for name, a in inputs.items()}
    return dict(zip(inputs, torch.autograd.grad(loss, list(inputs.values()), **options), strict=True))


def numbers(a: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: to_numpy(t) for name, t in a.items()}


@EVERY
@pytest.mark.parametrize("seed", range(16))
def test_the_backward_derived_by_hand_equals_autograd(cell: Cell, seed: int) -> None:
    p, noise = drawn(cell, seed)
    assert far(numbers(by_hand(p, noise)), numbers(by_autograd(p, noise)), 1e-11) == {}


@EVERY
@pytest.mark.parametrize("seed", range(8))
def test_numpy_equals_torch(cell: Cell, seed: int) -> None:
    p, noise = drawn(cell, seed)
    q = p.map(to_numpy)
    q = replace(q, **{name: None if (a := getattr(p, name)) is None else a.numpy() for name in ("lengths", "reset")})
    quiet = noise if noise is None or noise.hidden is None else noise._replace(hidden=noise.hidden.numpy())
    ours, theirs = by_hand(q, quiet), by_hand(p, noise)
    assert not any(isinstance(a, torch.Tensor) for a in ours.values())
    assert far(ours, numbers(theirs), 1e-10 if cell.norms else 1e-12) == {}
    a, b = forward(q, quiet, save=True), forward(p, noise, save=True)
    assert a.saved is not None and b.saved is not None
    theirs: Any
    for ours, theirs in zip([a.y, *a.state, *a.saved], [b.y, *b.state, *b.saved], strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or far({"": ours}, {"": theirs.numpy()}, 1e-12) == {}


@EVERY
@pytest.mark.parametrize("noisy", [False, True], ids=["quiet", "noisy"])
def test_every_cell_passes_gradcheck_and_gradgradcheck(cell: Cell, noisy: bool) -> None:
    """Also of what is saved, and twice. (The candidate's mask and clipping have kinks only where a number is exactly there.)"""
    p, _ = drawn(
        cell,
        1,
        T=3,
        B=2,
        I=2,
        H=cell.heads * cell.cells_per_gate * 2,
        P=0,
        reset=True,
        reset_state=True,
        lengths=True,
        reverse=False,
    )
    noise = TRAIN._replace(zoneout_c=0.4 * cell.has_cell, candidate=0.3 * (cell.candidate is not None)) if noisy else None
    inputs = {name: a.detach().requires_grad_() for name, a in named(p).items()}

    def outputs(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        run = forward(filled(p, dict(zip(inputs, values, strict=True))), noise, save=True)
        assert run.saved is not None
        return tuple(a for a in (run.y, *run.state, *run.saved) if a is not None and a.requires_grad)

    assert torch.autograd.gradcheck(outputs, tuple(inputs.values()), fast_mode=True)
    assert torch.autograd.gradgradcheck(outputs, tuple(inputs.values()), fast_mode=True)


@EVERY
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_the_backward_derived_by_hand_has_the_right_derivative(cell: Cell, seed: int) -> None:
    """Second derivatives go through it."""
    p, noise = drawn(cell, seed, T=4)
    inputs = {name: a.detach().requires_grad_() for name, a in named(p).items()}
    found = {}
    for name, gradient in (("hand", by_hand), ("autograd", lambda p, noise: by_autograd(p, noise, create_graph=True))):
        g = gradient(filled(p, inputs), noise)
        total = sum((a * torch.sin(torch.arange(a.numel(), dtype=a.dtype)).reshape(a.shape)).sum() for a in g.values())
        second = torch.autograd.grad(total, list(inputs.values()), allow_unused=True, materialize_grads=True)  # type: ignore[arg-type]
        found[name] = dict(zip(inputs, (a.numpy() for a in second), strict=True))
    assert far(found["hand"], found["autograd"], 1e-10) == {}


@EVERY
@pytest.mark.parametrize("noisy", [False, True], ids=["quiet", "noisy"])
def test_gradients_of_every_step_are_those_of_the_carried_state(cell: Cell, noisy: bool) -> None:
    p, _ = drawn(cell, 2, T=5, B=3, P=0, lengths=False, reset=False, reset_state=False, reverse=False)
    noise = TRAIN._replace(zoneout_c=0.4 * cell.has_cell, candidate=0.3 * (cell.candidate is not None)) if noisy else None
    state, loss, nudges = p.state, torch.zeros((), dtype=torch.float64), []
    for t in range(5):
        state, _ = reference.step(cell, p.x[t], state, p.weights, noise, t)
        nudges.append([None if s is None else torch.zeros_like(s, requires_grad=True) for s in state])
        state = State(*(None if s is None else s + n for s, n in zip(state, nudges[-1], strict=True)))
        loss = loss + (state.h * p.dy[t]).sum()
    loss = loss + sum((s * d).sum() for s, d in zip(state, p.dstate, strict=True) if s is not None)
    run: Any = forward(p, noise, save=True)
    g = reference.backward(Call(cell, p.x, p.weights, p.state, noise=noise, **p.options), run.saved, p.dy, p.dstate, steps=True)
    for k, ours in enumerate([g.h_steps, g.c_steps][: 1 + cell.has_cell]):
        expected = torch.stack(torch.autograd.grad(loss, [n[k] for n in nudges], retain_graph=True))
        assert far({"": to_numpy(ours)}, {"": expected.numpy()}, 1e-12) == {}


@EVERY
@pytest.mark.parametrize("noisy", [False, True], ids=["quiet", "noisy"])
def test_steps_that_the_loss_does_not_see_are_without_effect(cell: Cell, noisy: bool) -> None:
    """NaN before a reset and past a row's end: every gradient is as if zeros stood there, to the last bit."""
    p, _ = drawn(cell, 3, T=5, B=3, P=0, lengths=False, reset=False, reset_state=True, reverse=False)
    noise = TRAIN._replace(zoneout_c=0.4 * cell.has_cell, candidate=0.3 * (cell.candidate is not None)) if noisy else None
    reset = torch.zeros(5, 3, dtype=torch.bool)
    reset[3, 0] = True
    p.dy[:3, 0] = 0  # the loss does not see row 0 before its reset
    p = replace(p, reset=reset, lengths=torch.tensor([5, 2, 5]))
    found = []
    for bad in (0.0, float("nan")):
        x = p.x.clone()
        x[:3, 0] = x[2:, 1] = bad
        q = replace(p, x=x)
        found.append(numbers(by_hand(q, noise)) | {"y": forward(q, noise).y[3:].numpy()})
    for name, a in found[0].items():
        assert np.array_equal(a, found[1][name]), name
    assert not found[1]["dx"][:3, 0].any() and not found[1]["dx"][2:, 1].any()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("memory", [False, True])
def test_the_gru_equals_torch(memory: bool, bias: bool, reverse: bool) -> None:
    T, B, I, H = 6, 4, 3, 5
    torch.manual_seed(0)
    layer = torch.nn.GRU(I, H, bias=bias, bidirectional=True, dtype=torch.float64)
    x, h0 = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True), torch.randn(2, B, H, dtype=torch.float64)
    h0.requires_grad_()
    y, h_n = layer(x, h0)
    d = int(reverse)
    dy, dh = torch.randn(T, B, H, dtype=torch.float64), torch.randn(B, H, dtype=torch.float64)
    ((y[..., d * H : (d + 1) * H] * dy).sum() + (h_n[d] * dh).sum()).backward()
    w = Weights(*(None if a is None else a.detach() for a in weights.collect(dict(layer.named_parameters()), 0, d)))
    state = State(h0[d].detach(), h0[d].detach() if memory else None)
    dstate = State(dh, torch.zeros_like(dh) if memory else None)
    p = Problem(GRU(memory), x.detach(), w, state, None, None, None, reverse, dy, dstate)
    run, g = forward(p, None), by_hand(p, None)
    assert far({"": run.y.numpy()}, {"": y[..., d * H : (d + 1) * H].detach().numpy()}, 1e-12) == {}
    assert x.grad is not None and h0.grad is not None
    expected = {
        "dx": x.grad,
        **{
            f"d{n}": a.grad for n, a in weights.collect(dict(layer.named_parameters()), 0, d)._asdict().items() if a is not None
        },
    }
    assert far(numbers({name: g[name] for name in expected}), numbers(expected), 1e-12) == {}
    start = g["d0h"] + (g["d0c"] if memory else 0)  # with a memory the direct path begins in c
    assert far({"": start.numpy()}, {"": h0.grad[d].numpy()}, 1e-12) == {}


def paper(cell: Cell, p: Problem) -> tuple[Any, Any]:
    """y [T, B, H] and the last c by a loop written from Greff et al. 2017, where z is the candidate and y the output."""
    name, sig, tanh = type(cell).__name__, torch.sigmoid, torch.tanh
    w: Any = p.weights
    c: Any = p.state.c
    H = w.w_ih.shape[0] // len(cell.gates)
    bias = torch.zeros(len(w.w_ih)) if w.b_ih is None else w.b_ih + w.b_hh

    def by(a: Any, gates: Any = cell.gates) -> dict[str, Any]:
        return dict(zip(gates, a.split(H), strict=True))

    W, R, b = by(w.w_ih), by(w.w_hh), by(bias)
    peep = {} if w.w_ch is None else by(w.w_ch, [k for k in "ifo" if k in W])
    y, ys = p.state.h[:, :H], []
    back = {k: a.T for k, a in by(p.state.h[:, H:].T, "ifo").items()} if name == "FGR" else {}
    for t in range(len(p.x)):
        s = {k: p.x[t] @ W[k].T + y @ R[k][:, :H].T + b[k] for k in W}
        for k in "ifo":
            for n, other in enumerate(back):
                s[k] = s[k] + back[other] @ R[k][:, (n + 1) * H : (n + 2) * H].T
        see = lambda k, c: sig(s[k] + peep[k] * c if peep else s[k])  # noqa: B023, E731
        one = torch.ones_like(y)
        z = s["g"] if name == "NIAF" else tanh(s["g"])
        i = one if name == "NIG" else see("i", c)
        f = one if name in ("NFG", "LSTM1997") else 1 - i if name == "CIFG" else see("f", c)
        c = z * i + c * f
        c = c if cell.clip is None else c.clamp(-cell.clip, cell.clip)
        o = one if name == "NOG" else see("o", c)
        y = (c if name == "NOAF" else tanh(c)) * o
        ys.append(y)
        back = {"i": i, "f": f, "o": o} if back else {}
    return torch.stack(ys), c


@pytest.mark.parametrize("cell", [c for c in [*cells.ALL, LSTM(clip=0.1), FGR(clip=0.1)] if isinstance(c, Memory)], ids=repr)
@pytest.mark.parametrize("bias", [False, True])
def test_variants_equal_a_loop_written_from_the_paper(cell: Cell, bias: bool) -> None:
    p, _ = drawn(cell, 5, T=6, P=0, H=3, bias=bias, lengths=False, reset=False, reset_state=False, reverse=False)
    y, c = paper(cell, p)
    run = forward(p, None)
    assert far({"y": run.y[..., :3].numpy(), "c": to_numpy(run.state.c)}, {"y": y.numpy(), "c": c.numpy()}, 1e-12) == {}
    assert cell.clip is None or (abs(c) == cell.clip).any(), "the bound was never reached"


def test_the_candidate_of_fgr_does_not_see_the_gates() -> None:
    p, _ = drawn(FGR(), 1, T=4, H=3, reset_state=False)
    other = p.weights.w_hh.clone()
    other[6:9, 3:] = 7.0
    q = replace(p, weights=p.weights._replace(w_hh=other))
    assert torch.equal(forward(p, None).y, forward(q, None).y)
    g, h = by_hand(p, None), by_hand(q, None)
    assert all(torch.equal(g[name], h[name]) for name in g) and not g["dw_hh"][6:9, 3:].any() and g["dw_hh"][:6, 3:].all()


@pytest.mark.parametrize(
    "cell", [LSTM(cells_per_gate=3), LSTM1997(cells_per_gate=2), LSTM(clip=0.4, cells_per_gate=2)], ids=repr
)
@pytest.mark.parametrize("seed", range(4))
def test_memory_blocks_are_rows_shared(cell: Cell, seed: int) -> None:
    """Unit by unit: every gate of unit u is that of block u // m; gradients of the copies are added up."""
    p, noise = drawn(cell, seed, T=5, H=6)
    m = cell.cells_per_gate
    index, start = [], 0
    for gate in cell.gates:
        rows = 6 if gate == "g" else 6 // m
        index += [start + (u if gate == "g" else u // m) for u in range(6)]
        start += rows
    copied = {name: getattr(p.weights, name) for name in ("w_ih", "w_hh", "b_ih", "b_hh")}
    assert start == copied["w_ih"].shape[0]
    wide = replace(
        p, cell=cell.unshared(), weights=p.weights._replace(**{n: None if a is None else a[index] for n, a in copied.items()})
    )
    run, plain = forward(p, noise, save=True), forward(wide, noise, save=True)
    assert torch.equal(run.y, plain.y) and run.saved is not None and plain.saved is not None
    assert torch.equal(run.saved.gates, plain.saved.gates)  # type: ignore[arg-type]
    ours, theirs = by_hand(p, noise), by_hand(wide, noise)
    for name in ("dw_ih", "dw_hh", "db_ih", "db_hh"):
        if name in theirs:
            theirs[name] = torch.zeros_like(ours[name]).index_add(0, torch.tensor(index), theirs[name])
    assert far(numbers(ours), numbers(theirs), 1e-13) == {}


@EVERY
def test_chunks_make_the_whole(cell: Cell) -> None:
    """Without noise a sequence cut in two, with the state carried, is the sequence."""
    p, _ = drawn(cell, 6, T=6, P=0, lengths=True, reset=True, reset_state=True, reverse=False)
    p = replace(p, lengths=p.lengths.numpy())
    whole = forward(p, None)
    first = forward(p.steps(0, 4), None)
    second = forward(p.steps(4, 6, state=first.state), None)
    assert torch.equal(torch.cat([first.y, second.y]), whole.y) and torch.equal(second.state.h, whole.state.h)


@EVERY
def test_saved_names_every_gate(cell: Cell) -> None:
    p, _ = drawn(cell, 7, T=3, P=0)
    saved = forward(p, None, save=True).saved
    assert saved is not None
    assert list(saved.named(cell)) == [*cell.saved, *(cell.states if cell.has_cell else []), "h"] and saved.m is None


def test_what_is_saved_beside_a_projection_and_under_zoneout() -> None:
    p, _ = drawn(Peephole(), 8, T=4, H=3, P=2, lengths=False, reset=False)
    saved = forward(p, None, save=True).saved
    assert saved is not None and saved.m is not None and saved.m.shape == (4, p.x.shape[1], 3)
    assert p.weights.w_hr is not None and torch.allclose(saved.m @ p.weights.w_hr.T, saved.h, rtol=1e-14)
    p, _ = drawn(LSTM(), 8, T=4, H=3, P=0, lengths=False, reset=False)
    noisy = forward(p, Noise(zoneout_h=0.5, zoneout_c=0.5), save=True).saved
    assert noisy is not None and noisy.m is not None and (noisy.m != noisy.h).any() and (noisy.m == noisy.h).any()


@pytest.mark.parametrize("cell", [VanillaRNN(), VanillaRNN("relu"), Peephole(), GRU(memory=True)], ids=repr)
@pytest.mark.parametrize(("projected", "zoned"), [(True, False), (False, True), (True, True)])
def test_backward_runs_a_step_again_where_the_output_was_not_kept(cell: Cell, projected: bool, zoned: bool) -> None:
    p, _ = drawn(cell, 9, T=4, H=3, P=2 * projected)
    noise = TRAIN._replace(zoneout_h=0.4 * zoned, zoneout_c=0.0, candidate=0.0)
    saved: Any = forward(p, noise, save=True).saved
    found = []
    for kept in (saved, saved._replace(m=None)):
        g = reference.backward(p.call(noise=noise), kept, p.dy, p.dstate)
        found.append(
            {
                "x": to_numpy(g.x),
                "h": to_numpy(g.state.h),
                **numbers({k: a for k, a in g.weights._asdict().items() if a is not None}),
            }
        )
    assert saved.m is not None and far(found[0], found[1], 1e-13) == {}


@EVERY
def test_no_step_at_all_keeps_every_shape(cell: Cell) -> None:
    p, _ = drawn(cell, 4, T=0, B=3, P=0)
    H, R = weights.hidden_size(cell, p.weights), p.state.h.shape[1]
    run: Any = forward(p, Noise(zoneout_h=0.5), save=True)
    g: Any = reference.backward(p.call(), run.saved, p.dy, p.dstate, steps=True)
    assert run.y.shape == run.saved.h.shape == run.saved.m.shape == g.h_steps.shape == (0, 3, R)
    assert run.saved.gates.shape == (0, 3, len(cell.saved) * H)
    for a in (run.saved.c, g.c_steps):
        assert (a is None) == (not cell.has_cell)
        assert a is None or a.shape == (0, 3, len(cell.states) * H)
    assert torch.equal(run.state.h, p.state.h) and torch.equal(g.state.h, p.dstate.h) and not g.weights.w_hh.any()
