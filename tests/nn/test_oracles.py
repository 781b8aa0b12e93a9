"""The cells that others have too, against their code: torchrecurrent, and the sLSTM that NX-AI wrote in plain torch.

Where a package is not installed its tests are left out. `pip install '.[dev]'` installs torchrecurrent; of xlstm one file is
read, and `pip install --no-deps xlstm==2.0.6` is enough for that.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.nn.twins import BACKENDS
from torch import Tensor

import openlstm
from openlstm import cells

T, B, I, H = 7, 3, 4, 6

BACKEND = pytest.mark.parametrize("backend", BACKENDS)


def drawn(layer: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.uniform_(-0.8, 0.9)
    return layer


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)


def slopes(out: Tensor, of: list[Tensor]) -> list[Tensor]:
    """The gradients of a fixed combination of `out`."""
    torch.manual_seed(5)
    return list(torch.autograd.grad((out * torch.randn_like(out)).sum(), of))


@BACKEND
@pytest.mark.parametrize("name", ["JANET", "IndRNN-tanh", "IndRNN-relu"])
def test_cells_of_torchrecurrent(name: str, backend: str) -> None:
    theirs_of = pytest.importorskip("torchrecurrent", reason="torchrecurrent is not installed")
    short, _, act = name.partition("-")
    if short == "JANET":
        theirs, cell = theirs_of.JANETCell(I, H, beta=0.7, dtype=torch.float64), cells.JANET(beta=float(torch.tensor(0.7)))
    else:
        kind = {"tanh": torch.tanh, "relu": torch.relu}[act]
        theirs, cell = theirs_of.IndRNNCell(I, H, nonlinearity=kind, dtype=torch.float64), cells.IndRNN(act)  # type: ignore[arg-type]
    ours = drawn(openlstm.RNN(I, H, cell=cell, backend=backend, dtype=torch.float64))
    names = {"weight_ih": "weight_ih_l0", "weight_hh": "weight_hh_l0", "bias_ih": "bias_ih_l0", "bias_hh": "bias_hh_l0"}
    names |= {} if short == "JANET" else {"vector_u": "weight_hh_l0"}
    with torch.no_grad():
        for own, p in theirs.named_parameters():
            if own in names:
                p.copy_(getattr(ours, names[own]).reshape(p.shape))
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    state: Any = torch.randn(B, H, dtype=torch.float64)
    y, end = ours(x, state[None])
    expected, state = [], (state, state) if short == "JANET" else state
    for step in x:
        state = theirs(step, state)
        expected.append(state[0] if short == "JANET" else state)
    close(y, torch.stack(expected))
    close(end[0], expected[-1])
    own = [p for n, p in theirs.named_parameters() if n in names]
    mine = [getattr(ours, names[n]) for n, _ in theirs.named_parameters() if n in names]
    for a, b in zip(slopes(y, [x, *mine]), slopes(torch.stack(expected), [x, *own]), strict=True):
        close(a, b.reshape(a.shape))


def vanilla() -> Any:
    """NX-AI's loop alone: their package itself imports its CUDA code and more."""
    try:
        found = importlib.metadata.distribution("xlstm")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("xlstm is not installed: pip install --no-deps xlstm==2.0.6")
    path = Path(str(found.locate_file("xlstm/blocks/slstm/src/vanilla/__init__.py")))
    spec = importlib.util.spec_from_file_location("xlstm_vanilla", path, submodule_search_locations=[str(path.parent)])
    assert spec is not None and spec.loader is not None
    module = sys.modules["xlstm_vanilla"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def theirs(code: Any, sums: Tensor, begin: Tensor, w_hh: Tensor, bias: Tensor, heads: int) -> Tensor:
    """h, c, n and m of every step, [4, T+1, B, H]; their weights are [heads, 4 * DH, DH], by head and then by gate."""
    DH = w_hh.shape[1]
    R = w_hh.view(4, heads, DH, DH).transpose(0, 1).reshape(heads, 4 * DH, DH)
    return code.slstm_forward(sums, begin, R, bias, code.slstm_forward_pointwise_slstm)[0]


@BACKEND
@pytest.mark.parametrize("heads", [1, 2, 6])
def test_the_slstm_of_its_authors(heads: int, backend: str) -> None:
    code = vanilla()
    layer = drawn(openlstm.LSTM(I, H, cell=cells.SLSTM(heads), backend=backend, dtype=torch.float64), heads)
    w = layer.weights_of(0)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    zeros = torch.zeros(4, B, H, dtype=torch.float64)
    bias = w.b_ih + w.b_hh
    states = theirs(code, x @ w.w_ih.T, zeros, w.w_hh, bias, heads)
    y, end = layer(x)
    close(y, states[0, 1:])
    for mine, other in zip(end, states[:, -1], strict=True):
        close(mine[0], other)
    wanted = [x, w.w_ih, w.w_hh, w.b_ih]
    for a, b in zip(slopes(y, wanted), slopes(states[0, 1:], wanted), strict=True):
        close(a, b)
    rest, _ = layer(x[3:], layer(x[:3])[1])  # carried on, where nothing is zero any more
    close(rest, states[0, 4:])


@BACKEND
def test_a_reset_row_begins_as_it_would_alone(backend: str) -> None:
    """Their loop asks whether n is zero in the whole batch; the rule acts on each unit of each row."""
    code = vanilla()
    layer = drawn(openlstm.LSTM(I, H, cell=cells.SLSTM(2), backend=backend, dtype=torch.float64), 9)
    w = layer.weights_of(0)
    with torch.no_grad():
        layer.bias_ih_l0[:H] -= 5  # z_i far below m, so that another begin would show
        x = torch.randn(T, B, I, dtype=torch.float64)
        reset = torch.zeros(T, B, dtype=torch.bool)
        reset[3, 1] = True
        y, _ = layer(x, reset=reset)
        alone = theirs(code, x[3:, 1:2] @ w.w_ih.T, torch.zeros(4, 1, H, dtype=torch.float64), w.w_hh, w.b_ih + w.b_hh, 2)
    close(y[3:, 1:2], alone[0, 1:])
