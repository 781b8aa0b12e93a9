"""What every cell says about itself, its equations against numbers and its derivative against automatic differentiation."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import Case, to_numpy

from openlstm import cells, reference, weights
from openlstm.call import Call
from openlstm.cells import (
    FGR,
    GRU,
    JANET,
    LSTM,
    LSTM1997,
    NIAF,
    NOAF,
    SLSTM,
    Cell,
    LayerNormLSTM,
    Peephole,
    State,
    Step,
    StepInputs,
    VanillaRNN,
)
from openlstm.errors import ArgumentError, DtypeError, ShapeError
from openlstm.noise import Noise

OPTIONS = [
    LSTM(clip=0.3),
    Peephole(clip=0.3),
    NIAF(clip=0.5),
    NOAF(clip=0.5),
    FGR(clip=0.4),
    LSTM1997(clip=0.3),
    GRU(memory=True),
    LayerNormLSTM(clip=0.5),
    LSTM(heads=2),
    GRU(heads=4),
    SLSTM(heads=2),
    JANET(beta=0.0),
]
EVERY = pytest.mark.parametrize("cell", [*cells.ALL, *OPTIONS], ids=repr)
MASKED = pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
B, H = 3, 4


def given(cell: Cell, seed: int = 0, masked: bool = False) -> dict[str, torch.Tensor]:
    """What `forward` takes, by name: z, h, and what this cell has of c, w_ch and a mask with a zero in it."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    out = {"z": 2 * normal(B, (len(cell.gates) + cell.separate) * H), "h": normal(B, len(cell.feeds_back) * H)}
    out |= {"c": normal(B, len(cell.states) * H)} if cell.has_cell else {}
    if "n" in cell.states:  # a sum of weights is above 0, or 0 where a unit begins
        c, n, m = out["c"].chunk(3, -1)
        begins = normal(B, H) > 0.5
        out["c"] = torch.cat([torch.where(begins, 0, s) for s in (c, n.abs() + 0.1, m)], -1)
    out |= {"w_ch": normal(len(cell.peepholes) * H)} if cell.peepholes else {}
    out |= {"norm": normal(sum(weights.norm_sizes(cell, H).values()))} if cell.norms else {}
    return out | ({"mask": (normal(B, H) > 0) / 0.7} if masked and cell.candidate else {})


def run(cell: Cell, a: dict[str, Any]) -> Step:
    return cell(a["z"], State(a["h"], a.get("c")), a.get("w_ch"), a.get("mask"), a.get("norm"))


def test_every_cell_is_listed_once() -> None:
    mine = (c for c in vars(cells).values() if isinstance(c, type) and issubclass(c, Cell) and not c.__name__.startswith("_"))
    assert {type(c) for c in cells.ALL} == {*mine} - {Cell}
    assert len({(type(c), c.kernel) for c in cells.ALL}) == len(cells.ALL) == len(set(cells.ALL))


def test_kernels_are_named_once_each_and_options_do_not_hide() -> None:
    """A name stands for one set of equations; the 1997 cell is NFG without peepholes."""
    names = [c.kernel for c in cells.ALL if c != cells.LSTM1997()]
    greff = "nig nig_np nfg nfg_np nog nog_np niaf niaf_np noaf noaf_np cifg cifg_np"
    later = "slstm mingru minlstm janet indrnn_tanh indrnn_relu"
    assert names == ["lstm", "peephole", *greff.split(), "fgr", "lstm_ln", "gru", "rnn_tanh", "rnn_relu", *later.split()]
    assert cells.LSTM1997().kernel == "nfg_np"
    assert cells.LSTM(clip=1.0, cells_per_gate=2).kernel == "lstm" and cells.GRU(memory=True).kernel == "gru"


@EVERY
@MASKED
def test_traits_fit_what_a_step_gives(cell: Cell, masked: bool) -> None:
    gates, h, c = run(cell, given(cell, masked=masked))
    assert len(gates) == len(cell.saved) and all(gate.shape == (B, H) for gate in gates)
    assert h.shape == (B, len(cell.feeds_back) * H)
    assert (c is not None) == cell.has_cell and (c is None or c.shape == (B, len(cell.states) * H))
    assert cell.candidate is None or cell.candidate in cell.gates
    assert set(cell.peepholes) <= set(cell.gates)


@EVERY
def test_gates_are_ordered_i_f_g_o(cell: Cell) -> None:
    for names in (cell.gates, cell.peepholes):
        letters = [gate for gate in names if gate in "ifgo"]
        assert letters == sorted(letters, key="ifgo".index)


@EVERY
def test_cells_are_values(cell: Cell) -> None:
    assert cell == dataclasses.replace(cell) and hash(cell) == hash(dataclasses.replace(cell))  # type: ignore[type-var]
    assert eval(repr(cell), dict(vars(cells))) == cell
    with pytest.raises(dataclasses.FrozenInstanceError):
        cell.nonlinearity = "relu"  # type: ignore[attr-defined]
    others = [c for c in [*cells.ALL, *OPTIONS] if c is not cell]
    assert len(others) == len(cells.ALL) + len(OPTIONS) - 1 and cell not in others


@EVERY
@MASKED
def test_numpy_equals_torch(cell: Cell, masked: bool) -> None:
    a = given(cell, masked=masked)
    ours, theirs = run(cell, {name: t.numpy() for name, t in a.items()}), run(cell, a)
    for p, q in zip([*ours.gates, ours.h, ours.c], [*theirs.gates, theirs.h, theirs.c], strict=True):
        assert (p is None) == (q is None)
        if p is not None:
            np.testing.assert_allclose(p, np.asarray(q), rtol=1e-13, atol=1e-15)


@EVERY
@MASKED
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_backward_equals_autograd(cell: Cell, masked: bool, kind: str) -> None:
    a = given(cell, masked=masked)
    inputs = {name: t.requires_grad_() for name, t in a.items() if name != "mask"}
    step = run(cell, a)
    dh = torch.randn(step.h.shape, dtype=torch.float64)
    dc = None if step.c is None else torch.randn(step.c.shape, dtype=torch.float64)
    loss = (step.h * dh).sum() + (0 if step.c is None else (step.c * dc).sum())
    found = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True)
    expected = dict(zip(inputs, found, strict=True))

    to = (lambda t: None if t is None else t.detach().numpy()) if kind == "numpy" else (lambda t: t)
    around = StepInputs(
        tuple(to(g) for g in step.gates), State(to(a["h"]), to(a.get("c"))), to(step.c), to(step.h), to(a.get("w_ch"))
    )
    flow = cell.backward(around._replace(mask=to(a.get("mask")), norm=to(a.get("norm"))), to(dh), to(dc))
    ours = {"z": flow.z, "c": flow.c, "h": flow.h}
    ours |= {name: None if (share := getattr(flow, name)) is None else share.sum(0) for name in ("w_ch", "norm")}
    for name in inputs:
        if expected[name] is None:
            assert ours[name] is None, name
        else:
            np.testing.assert_allclose(to_numpy(ours[name]), expected[name].numpy(), rtol=1e-12, atol=1e-14, err_msg=name)


def test_lstm_worked_by_hand() -> None:
    """sigmoid(0) = 1/2 and tanh(0) = 0 for three gates; the fourth by the exponential."""
    c = np.array([[0.75]])
    for open_gate, (c_new, h_new) in {
        "i": (0.375, 0.5 * math.tanh(0.375)),
        "f": (0.75 / (1 + math.exp(-1.0)), 0.5 * math.tanh(0.75 / (1 + math.exp(-1.0)))),
        "g": (0.375 + 0.5 * math.tanh(1.0), 0.5 * math.tanh(0.375 + 0.5 * math.tanh(1.0))),
        "o": (0.375, math.tanh(0.375) / (1 + math.exp(-1.0))),
    }.items():
        z = np.array([[float(gate == open_gate) for gate in "ifgo"]])
        step = LSTM().forward(z, State(c, c))
        assert step.c is not None
        assert (step.c.item(), step.h.item()) == pytest.approx((c_new, h_new), rel=1e-15), open_gate


def test_gates_open_and_close_at_large_sums() -> None:
    """f=1, i=0 keeps; f=0, i=1 starts afresh; o=0 shows nothing."""
    c = np.array([[0.7, -1e-30, 0.0]])

    def cell_state(i: float, f: float, o: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        step = LSTM().forward(np.repeat([[i, f, 0.9, o]], 3, axis=1), State(c, c))
        assert step.c is not None
        return step.c, step.h

    kept, _ = cell_state(i=-1000.0, f=1000.0)
    assert (kept == c).all()
    fresh, _ = cell_state(i=1000.0, f=-1000.0)
    assert (fresh == np.tanh(0.9)).all()
    _, shown = cell_state(i=0.0, f=0.0, o=-1000.0)
    assert (shown == 0).all()


def test_relu_lets_nan_through() -> None:
    h = VanillaRNN("relu").forward(np.array([[-1.0, 0.0, 2.0, np.nan]]), State(np.zeros((1, 4)))).h
    np.testing.assert_array_equal(h, [[0.0, 0.0, 2.0, np.nan]])


def test_an_unknown_nonlinearity_is_refused() -> None:
    with pytest.raises(ArgumentError) as caught:
        VanillaRNN("sigmoid")  # type: ignore[arg-type]
    assert str(caught.value) == (
        "VanillaRNN: unknown nonlinearity 'sigmoid'\n"
        "  got       'sigmoid'\n"
        "  expected  'tanh' or 'relu'\n"
        "  hint      pass nonlinearity='tanh'"
    )


def test_every_cell_names_its_source() -> None:
    assert [type(c).__name__ for c in cells.ALL if "Source:" not in (type(c).__doc__ or "")] == []


@pytest.mark.parametrize("bad", [0, -1.0, math.inf, math.nan, True, "1"], ids=repr)
def test_a_clip_that_is_no_positive_number_is_refused(bad: Any) -> None:
    with pytest.raises(ArgumentError) as caught:
        Peephole(clip=bad)
    assert str(caught.value) == (
        f"Peephole: cannot clip the cell at {bad!r}\n"
        f"  got       clip={bad!r}\n"
        "  expected  a number above 0\n"
        "  hint      the cell is kept within -clip..clip: pass clip=3.0, or None for no bound"
    )


@pytest.mark.parametrize("bad", [0, -2, 1.5, True, None], ids=repr)
def test_cells_per_gate_that_are_no_number_of_cells_are_refused(bad: Any) -> None:
    with pytest.raises(ArgumentError) as caught:
        LSTM1997(cells_per_gate=bad)
    assert str(caught.value) == (
        f"LSTM1997: no memory block has {bad!r} cells\n"
        f"  got       cells_per_gate={bad!r}\n"
        "  expected  an integer from 1\n"
        "  hint      so many cells share their gates: 1 for none"
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_clipping_bounds_the_cell_stops_its_gradient_and_lets_nan_through(kind: str, dtype: str) -> None:
    z = np.array([[1000.0] * 6 + [1000.0] * 6 + [0.0] * 6 + [1000.0] * 6], dtype)  # i = f = o = 1, g = 0: c' = c
    bound = np.dtype(dtype).type(0.3)
    c = np.array([[-5.0, -bound, -0.1, bound, 1e30, np.nan]], dtype)
    to = torch.from_numpy if kind == "torch" else np.asarray
    cell = LSTM(clip=0.3)
    step = cell(to(z), State(to(c), to(c)))
    assert step.c is not None and step.c.dtype == to(c).dtype and step.h.dtype == to(c).dtype
    np.testing.assert_array_equal(np.asarray(step.c), np.clip(c, -bound, bound))
    np.testing.assert_allclose(np.asarray(step.h), np.tanh(np.clip(c, -bound, bound)), rtol=1e-6)
    one = to(np.ones_like(c))
    flow = cell.backward(StepInputs(step.gates, State(to(c), to(c)), step.c, step.h), one, one)
    assert flow.c is not None
    passed = np.asarray(flow.c)[0]
    assert (passed[[0, 1, 3, 4]] == 0).all() and passed[2] > 1 and np.isnan(passed[5])


@dataclasses.dataclass(frozen=True)
class Mine(Cell):
    """A cell with everything: two gates, a peephole, a candidate, a direct path from h, sums apart."""

    name = "mine"
    gates = ("f", "g")
    saved = ("f", "g")
    has_cell = True
    separate = 1
    peepholes = ("f",)
    candidate = "g"
    scale: float = 1.0

    def forward(self, z: Any, before: State, w_ch: Any = None, mask: Any = None) -> Step:
        z_f, x, m = cells.split(z, 3)
        f, g = cells.sigmoid(z_f + w_ch * before.c), cells.tanh(x * (1 + m))
        g = g if mask is None else g * mask
        c = f * before.c + self.scale * (1 - f) * g
        return Step((f, g), c + 0.5 * before.h, c)


class Same(Cell):
    """GRU's equations, as a user would write them."""

    name, gates, saved, has_cell, separate, candidate = "same", ("r", "z", "n"), ("r", "z", "n", "m"), False, 1, "n"

    def forward(self, z: Any, before: State, w_ch: Any = None, mask: Any = None) -> Step:
        return GRU().forward(z, before, w_ch, mask)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("noisy", [False, True], ids=["quiet", "noisy"])
@pytest.mark.parametrize("seed", range(6))
def test_a_cell_of_ones_own_runs_and_trains_without_a_backward(seed: int, noisy: bool, kind: str) -> None:
    rng = np.random.default_rng(seed)
    flags: dict[str, Any] = {name: bool(rng.random() < 0.6) for name in ("lengths", "reset", "reset_state", "reverse", "bias")}
    p = Case(Mine(0.8), T=5, B=4, I=3, H=3, seed=seed, **flags).problem()
    noise = Noise(0.3, 0.4, 0.3, seed=seed) if noisy else None
    assert Mine().kernel == "" and not Mine().derives_itself
    q = p.tensors()
    leaves = [a.requires_grad_() for a in (q.x, *q.weights, *q.state, *(q.reset_state or ())) if a is not None]
    run: Any = reference.forward(q.call(noise=noise))
    loss = (run.y * q.dy).sum() + (run.state.h * q.dstate.h).sum() + (run.state.c * q.dstate.c).sum()
    expected = [g.numpy() for g in torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)]
    p = p if kind == "numpy" else p.tensors()
    done: Any = reference.forward(p.call(save=True, noise=noise))
    g = reference.backward(p.call(noise=noise), done.saved, p.dy, p.dstate)
    ours = [to_numpy(a) for a in (g.x, *g.weights, *g.state, *(g.reset_state or ())) if a is not None]
    for a, b in zip(ours, expected, strict=True):
        assert np.linalg.norm(a - b) <= 1e-11 * np.linalg.norm(b)


def test_a_users_cell_equals_ours_and_can_be_differentiated_twice() -> None:
    p, q = (Case(cell, T=4, B=3, H=2).problem().tensors() for cell in (GRU(), Same()))
    found = []
    for a in (p, q):
        x = a.x.clone().requires_grad_()
        run: Any = reference.forward(Call(a.cell, x, a.weights, a.state, save=True))
        g: Any = reference.backward(Call(a.cell, x, a.weights, a.state), run.saved, a.dy, a.dstate)
        found.append((run.y, g.x, *g.weights[:4], *torch.autograd.grad((g.x * g.x).sum(), x)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_a_cell_derived_from_ours_has_neither_its_kernel_nor_its_backward() -> None:
    class Doubled(LSTM):
        def forward(self, z: Any, before: State, w_ch: Any = None, mask: Any = None) -> Step:
            step = super().forward(z, before, w_ch, mask)
            return step._replace(h=2 * step.h)

    class Renamed(LSTM):
        pass

    class Elsewhere(LSTM):
        """As if a class of ours stood in another file."""

        kernel = "lstm"

    assert Doubled().kernel == Renamed().kernel == "" and LSTM().kernel == Elsewhere().kernel == "lstm"
    assert not Doubled().derives_itself and Renamed().derives_itself and LSTM().derives_itself


def wrong(what: Any) -> Cell:
    """A cell with the gates f and g that returns `what(f, g, c)`."""

    class Wrong(Cell):
        name, gates, saved, has_cell = "wrong", ("f", "g"), ("f", "g"), True

        def forward(self, z: Any, before: State, w_ch: Any = None, mask: Any = None) -> Step:
            f, g = cells.split(z, 2)
            return what(f, g, before.c)

    return Wrong()


@pytest.mark.parametrize(
    ("what", "problem", "got", "expected", "hint"),
    [
        (
            lambda f, g, c: Step((f, g), c[:, :1], c),
            "forward returned a wrong h",
            "h: float32[2, 1]",
            "[B, H] = float32[2, 3]",
            "z: float32[2, 6] has 2 blocks of H = 3; keep its kind and dtype",
        ),
        (
            lambda f, g, c: Step((f, g.astype(np.float64)), c, c),
            "forward returned a wrong gates[1] (g)",
            "gates[1] (g): float64[2, 3]",
            "[B, H] = float32[2, 3]",
            "z: float32[2, 6] has 2 blocks of H = 3; keep its kind and dtype",
        ),
        (
            lambda f, g, c: Step((f, g), c, c.tolist()),
            "forward returned a wrong c",
            "c: list of 2",
            "[B, H] = float32[2, 3]",
            "z: float32[2, 6] has 2 blocks of H = 3; keep its kind and dtype",
        ),
        (
            lambda f, g, c: Step((f,), c, c),
            "forward returned another number of gates than `saved` names",
            "1 gates",
            "2: f, g",
            "return one array for each name in `saved`",
        ),
        (
            lambda f, g, c: Step((f, g), c, None),
            "forward returned no c",
            "c: NoneType None",
            "c: [B, H] = [2, 3]",
            "the trait has_cell is True",
        ),
        (
            lambda f, g, c: (f, g, c),
            "forward did not return a Step",
            "tuple of 3",
            "openlstm.cells.Step",
            "return Step((gates named by `saved`), h, c)",
        ),
    ],
)
def test_a_cell_that_returns_wrong_shapes_is_named(what: Any, problem: str, got: str, expected: str, hint: str) -> None:
    w = reference.Weights(np.zeros((6, 1), np.float32), np.zeros((6, 3), np.float32))
    state = State(np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32))
    with pytest.raises((ShapeError, DtypeError)) as caught:
        reference.forward(Call(wrong(what), np.zeros((1, 2, 1), np.float32), w, state))
    assert str(caught.value) == f"Wrong: {problem}\n  got       {got}\n  expected  {expected}\n  hint      {hint}"
