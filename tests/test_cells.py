"""What every cell says about itself, its equations against numbers and its derivative against automatic differentiation."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from openlstm import cells
from openlstm._errors import ArgumentError
from openlstm.cells import LSTM, Cell, VanillaRNN

EVERY = pytest.mark.parametrize("cell", cells.ALL, ids=lambda c: c.kernel)


def z_and_c(cell: Cell, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor | None]:
    g = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(3, len(cell.gates) * 4, generator=g, dtype=torch.float64)
    return z, torch.randn(3, 4, generator=g, dtype=torch.float64) if cell.has_cell else None


def test_every_cell_is_listed_once() -> None:
    concrete = {c for c in vars(cells).values() if isinstance(c, type) and issubclass(c, Cell) and c is not Cell}
    assert {type(c) for c in cells.ALL} == concrete
    assert len({c.kernel for c in cells.ALL}) == len(cells.ALL) == len(set(cells.ALL))


@EVERY
def test_traits_fit_what_a_step_gives(cell: Cell) -> None:
    z, c = z_and_c(cell)
    gates, h, c_new = cell.forward(z, c)
    assert len(gates) == len(cell.saved) and all(gate.shape == (3, 4) for gate in gates)
    assert h.shape == (3, 4)
    assert (c_new is not None) == cell.has_cell


@EVERY
def test_gates_are_ordered_i_f_g_o(cell: Cell) -> None:
    letters = [gate for gate in cell.gates if gate in "ifgo"]
    assert letters == sorted(letters, key="ifgo".index)


@EVERY
def test_cells_are_values(cell: Cell) -> None:
    assert cell == dataclasses.replace(cell) and hash(cell) == hash(dataclasses.replace(cell))  # type: ignore[type-var]
    assert eval(repr(cell), dict(vars(cells))) == cell
    with pytest.raises(dataclasses.FrozenInstanceError):
        cell.nonlinearity = "relu"  # type: ignore[attr-defined]


@EVERY
def test_numpy_equals_torch(cell: Cell) -> None:
    z, c = z_and_c(cell)
    ours = cell.forward(z.numpy(), None if c is None else c.numpy())
    theirs = cell.forward(z, c)
    for a, b in zip([*ours.gates, ours.h, ours.c], [*theirs.gates, theirs.h, theirs.c], strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(a, np.asarray(b), rtol=1e-14)


@EVERY
def test_backward_equals_autograd(cell: Cell) -> None:
    z, c = z_and_c(cell)
    z.requires_grad_()
    inputs = [z] if c is None else [z, c.requires_grad_()]
    gates, h, c_new = cell.forward(z, c)
    dh = torch.randn(3, 4, dtype=torch.float64)
    dc = None if c is None else torch.randn(3, 4, dtype=torch.float64)
    loss = (h * dh).sum() + (0 if c_new is None or dc is None else (c_new * dc).sum())
    expected = torch.autograd.grad(loss, inputs)
    ours = [g for g in cell.backward(gates, c, c_new, h, dh, dc) if g is not None]
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)


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
        step = LSTM().forward(z, c)
        assert step.c is not None
        assert (step.c.item(), step.h.item()) == pytest.approx((c_new, h_new), rel=1e-15), open_gate


def test_gates_open_and_close() -> None:
    """f=1, i=0 keeps; f=0, i=1 starts afresh; o=0 shows nothing."""
    c = np.array([[0.7, -1e-30, 0.0]])

    def cell_state(i: float, f: float, o: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        step = LSTM().forward(np.repeat([[i, f, 0.9, o]], 3, axis=1), c)
        assert step.c is not None
        return step.c, step.h

    kept, _ = cell_state(i=-1000.0, f=1000.0)
    assert (kept == c).all()
    fresh, _ = cell_state(i=1000.0, f=-1000.0)
    assert (fresh == np.tanh(0.9)).all()
    _, shown = cell_state(i=0.0, f=0.0, o=-1000.0)
    assert (shown == 0).all()


def test_relu_lets_nan_through() -> None:
    h = VanillaRNN("relu").forward(np.array([[-1.0, 0.0, 2.0, np.nan]]), None).h
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
    assert [type(c).__name__ for c in cells.ALL if "Source:" not in (type(c).__doc__ or "")] == []
