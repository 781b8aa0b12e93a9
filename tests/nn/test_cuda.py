"""The CUDA backend: its arithmetic on any device, and the layers on a GPU where there is one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.nn.twins import everything, far, states, twins

from openlstm import cells, reference
from openlstm.cells import Cell
from openlstm.engine import cuda
from openlstm.reference import State, Weights

T, B, I, H = 5, 3, 4, 6
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def problem(cell: Cell, P: int, bias: bool) -> tuple[Any, Weights, State]:
    torch.manual_seed(0)
    rows, R = len(cell.gates) * H, P or H
    shapes = [(rows, I), (rows, R), (rows,) if bias else None, (rows,) if bias else None, (P, H) if P else None]
    weights = Weights(*(None if s is None else torch.randn(s, dtype=torch.float64) / 2 for s in shapes))
    c = torch.randn(B, H, dtype=torch.float64) if cell.has_cell else None
    return torch.randn(T, B, I, dtype=torch.float64), weights, State(torch.randn(B, R, dtype=torch.float64), c)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("P", [0, 2])
@pytest.mark.parametrize("cell", cells.ALL, ids=lambda c: c.kernel)
def test_the_fused_call_is_the_reference(cell: Cell, P: int, bias: bool, reverse: bool) -> None:
    """torch's kernel on the CPU takes the same arguments as the one on a GPU."""
    if P and not cell.has_cell:
        P = 0
    x, weights, state = problem(cell, P, bias)
    a, b = (module.forward(cell, x, weights, state, reverse=reverse) for module in (cuda, reference))
    assert torch.allclose(a.y, b.y, rtol=1e-11) and torch.allclose(a.state.h, b.state.h, rtol=1e-11)
    if cell.has_cell:
        assert torch.allclose(torch.as_tensor(a.state.c), torch.as_tensor(b.state.c), rtol=1e-11)


def test_what_the_fused_call_cannot_do_takes_the_reference() -> None:
    cell = cells.LSTM()
    x, weights, state = problem(cell, 0, True)
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[2] = True
    for options in ({"lengths": torch.tensor([5, 2, 0])}, {"reset": reset}, {"save": True}):
        a, b = (module.forward(cell, x, weights, state, **options) for module in (cuda, reference))
        assert torch.equal(a.y, b.y) and (a.saved is None) == (b.saved is None)
    assert cuda.forward(cell, x[:0], weights, state).y.shape == (0, B, H)


@GPU
@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_layers_on_a_gpu(kind: str) -> None:
    ours, theirs = twins(kind, I, H, num_layers=2, bidirectional=True)
    ours, theirs = ours.cuda(), theirs.cuda()
    x, hx = torch.randn(T, B, I, dtype=torch.float64).cuda(), states(ours, B)
    there = hx.cuda() if kind == "RNN" else tuple(s.cuda() for s in hx)
    assert ours.backend_used(x) == "cuda"
    assert far(_cpu(everything(ours, x, there)), _cpu(everything(theirs, x, there)), 1e-11) == {}
    ragged = everything(ours, x, there, lengths=[5, 2, 0])
    on_cpu = everything(ours.cpu(), x.cpu(), hx, lengths=[5, 2, 0])
    assert far(_cpu(ragged), on_cpu, 1e-10) == {}


def _cpu(results: dict[str, Any]) -> dict[str, Any]:
    return {name: a.cpu() for name, a in results.items()}
