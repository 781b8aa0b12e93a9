"""What every cell says about itself, its equations against numbers and its derivative against automatic differentiation."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import to_numpy

from openlstm import cells
from openlstm._errors import ArgumentError
from openlstm.cells import FGR, GRU, LSTM, LSTM1997, NIAF, NOAF, Around, Cell, Peephole, State, Step, VanillaRNN

OPTIONS = [
    LSTM(clip=0.3),
    Peephole(clip=0.3),
    NIAF(clip=0.5),
    NOAF(clip=0.5),
    FGR(clip=0.4),
    LSTM1997(clip=0.3),
    GRU(memory=True),
]
EVERY = pytest.mark.parametrize("cell", [*cells.FAMILY, *OPTIONS], ids=repr)
MASKED = pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
B, H = 3, 4


def given(cell: Cell, seed: int = 0, masked: bool = False) -> dict[str, torch.Tensor]:
    """What `forward` takes, by name: z, h, and what this cell has of c, w_ch and a mask with a zero in it."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    out = {"z": 2 * normal(B, (len(cell.gates) + cell.apart) * H), "h": normal(B, len(cell.feeds_back) * H)}
    out |= {"c": normal(B, H)} if cell.has_cell else {}
    out |= {"w_ch": normal(len(cell.peepholes) * H)} if cell.peepholes else {}
    return out | ({"mask": (normal(B, H) > 0) / 0.7} if masked and cell.candidate else {})


def run(cell: Cell, a: dict[str, Any]) -> Step:
    return cell(a["z"], State(a["h"], a.get("c")), a.get("w_ch"), a.get("mask"))


def test_every_cell_is_listed_once() -> None:
    mine = (c for c in vars(cells).values() if isinstance(c, type) and issubclass(c, Cell) and not c.__name__.startswith("_"))
    assert {type(c) for c in cells.FAMILY} == {*mine} - {Cell}
    assert len({(type(c), c.kernel) for c in cells.FAMILY}) == len(cells.FAMILY) == len(set(cells.FAMILY))
    assert set(cells.ALL) <= set(cells.FAMILY)


def test_kernels_are_named_once_each_and_options_do_not_hide() -> None:
    """A name stands for one set of equations; the 1997 cell is NFG without peepholes."""
    names = [c.kernel for c in cells.FAMILY if c != cells.LSTM1997()]
    greff = "nig nig_np nfg nfg_np nog nog_np niaf niaf_np noaf noaf_np cifg cifg_np"
    assert names == ["lstm", "peephole", *greff.split(), "fgr", "gru", "rnn_tanh", "rnn_relu"]
    assert cells.LSTM1997().kernel == "nfg_np"
    assert cells.LSTM(clip=1.0, cells_per_gate=2).kernel == "lstm" and cells.GRU(memory=True).kernel == "gru"


@EVERY
@MASKED
def test_traits_fit_what_a_step_gives(cell: Cell, masked: bool) -> None:
    gates, h, c = run(cell, given(cell, masked=masked))
    assert len(gates) == len(cell.saved) and all(gate.shape == (B, H) for gate in gates)
    assert h.shape == (B, len(cell.feeds_back) * H)
    assert (c is not None) == cell.has_cell and (c is None or c.shape == (B, H))
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
    others = [c for c in [*cells.FAMILY, *OPTIONS] if c is not cell]
    assert len(others) == len(cells.FAMILY) + len(OPTIONS) - 1 and cell not in others


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
    dc = None if step.c is None else torch.randn(B, H, dtype=torch.float64)
    loss = (step.h * dh).sum() + (0 if step.c is None else (step.c * dc).sum())
    found = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True)
    expected = dict(zip(inputs, found, strict=True))

    to = (lambda t: None if t is None else t.detach().numpy()) if kind == "numpy" else (lambda t: t)
    around = Around(
        tuple(to(g) for g in step.gates), State(to(a["h"]), to(a.get("c"))), to(step.c), to(step.h), to(a.get("w_ch"))
    )
    flow = cell.backward(around._replace(mask=to(a.get("mask"))), to(dh), to(dc))
    ours = {"z": flow.z, "c": flow.c, "h": flow.h, "w_ch": None if flow.w_ch is None else flow.w_ch.sum(0)}
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


def test_gates_open_and_close() -> None:
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


def test_unknown_nonlinearity() -> None:
    with pytest.raises(ArgumentError) as caught:
        VanillaRNN("sigmoid")  # type: ignore[arg-type]
    assert str(caught.value) == (
        "VanillaRNN: unknown nonlinearity 'sigmoid'\n"
        "  got       'sigmoid'\n"
        "  expected  'tanh' or 'relu'\n"
        "  hint      pass nonlinearity='tanh'"
    )


def test_every_cell_names_its_source() -> None:
    assert [type(c).__name__ for c in cells.FAMILY if "Source:" not in (type(c).__doc__ or "")] == []
