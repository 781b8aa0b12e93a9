"""Second derivatives, Jacobians and gradients per sample of every cell through the layer: those of the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests import support
from torch.autograd import gradgradcheck
from torch.func import functional_call, grad, jacrev, vmap

from openlstm import cells

T, B, I, H = 3, 2, 2, 3

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),  # torch's own, on its first jvp
    pytest.mark.parametrize("cell", [*cells.ALL, cells.LSTM(heads=3), cells.JANET(beta=0.0)], ids=support.name_of),
]


def layer_of(cell: cells.Cell, **options: Any) -> Any:
    """A float64 layer that runs the cell, the same weights at every call."""
    torch.manual_seed(3)
    options["dtype"] = torch.float64
    return support.layer_of(cell, I, H, **options)


def energy(layer: Any, w: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """A number that depends on every output and the last state."""
    y, state = functional_call(layer, w, (x,))
    end = state if isinstance(state, torch.Tensor) else torch.cat([s.flatten() for s in state])
    return (y**2).sum() + (end**3).sum()


def test_second_derivatives_pass_gradgradcheck(cell: cells.Cell) -> None:
    layer = layer_of(cell)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    w = {name: p.detach().requires_grad_() for name, p in layer.named_parameters()}

    def run(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return energy(layer, dict(zip(w, values, strict=True)), x)

    assert gradgradcheck(run, (x, *w.values()), fast_mode=True)


def test_the_jacobian_is_that_of_the_reference(cell: cells.Cell) -> None:
    x = torch.randn(T, B, I, dtype=torch.float64)
    ours, plain = layer_of(cell), layer_of(cell, backend="reference")
    found, expected = (jacrev(lambda x, layer=layer: layer(x)[0])(x) for layer in (ours, plain))
    assert float(expected.detach().abs().max()) > 0
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)


def test_gradients_per_sample_are_those_of_each_sample_alone(cell: cells.Cell) -> None:
    xs = torch.randn(4, T, 1, I, dtype=torch.float64)
    layer = layer_of(cell)
    w = dict(layer.named_parameters())
    each = vmap(grad(lambda w, x: energy(layer, w, x)), in_dims=(None, 0))(w, xs)
    reference = layer_of(cell, backend="reference")
    own = dict(reference.named_parameters())
    for n, x in enumerate(xs):
        alone = torch.autograd.grad(energy(reference, own, x), list(own.values()))
        for name, wanted in zip(own, alone, strict=True):
            torch.testing.assert_close(each[name][n], wanted, rtol=1e-10, atol=1e-12)
