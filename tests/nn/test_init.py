"""Ways to begin: what each function writes, what it leaves alone, and what the gates make of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import openlstm
from openlstm._errors import ArgumentError
from openlstm.nn import init

I, H = 3, 64
LSTM: Any = openlstm.LSTM
RNN: Any = openlstm.RNN


def layers() -> Any:
    torch.manual_seed(0)
    return LSTM(I, H, num_layers=2, bidirectional=True)


def test_forget_bias_is_the_bias_of_every_forget_gate_and_of_nothing_else() -> None:
    layer, before = layers(), layers()
    assert init.forget_bias(layer, 3.0) is layer
    for name, p in layer.named_parameters():
        old = before.get_parameter(name)
        if name.startswith("bias_hh"):
            assert not p.any()
        elif name.startswith("bias_ih"):
            assert (p[H : 2 * H] == 3.0).all()
            assert torch.equal(p[:H], old[:H]) and torch.equal(p[2 * H :], old[2 * H :])
        else:
            assert torch.equal(p, old)
    shown = openlstm.trace(init.forget_bias(LSTM(I, H), 3.0), torch.zeros(1, 1, I))["0.f"]
    assert torch.allclose(shown, torch.sigmoid(torch.tensor(3.0)))


def test_chrono_spreads_memory_over_the_lag() -> None:
    """b_f = ln u with u uniform in 1 .. 2 lag - 1: a unit keeps 1/e of its cell for about 1 + u steps."""
    lag = 120
    layer = init.chrono(LSTM(I, 4096), lag, generator=torch.Generator().manual_seed(1))
    b_i, b_f, _, _ = layer.bias_ih_l0.detach().chunk(4)
    assert torch.equal(b_i, -b_f) and not layer.bias_hh_l0.any()
    u = b_f.double().exp()
    assert 1 <= u.min() and u.max() <= 2 * lag - 1
    assert abs(float(u.mean()) - lag) < 4 and abs(float(u.std()) - (2 * lag - 2) / 12**0.5) < 2
    f = torch.sigmoid(b_f.double())
    assert torch.allclose(1 / (1 - f), 1 + u, rtol=1e-4)
    same = init.chrono(LSTM(I, 4096), lag, generator=torch.Generator().manual_seed(1))
    assert torch.equal(same.bias_ih_l0.chunk(4)[1], b_f)
    assert not init.chrono(LSTM(I, H), 1).bias_ih_l0[: 2 * H].any()  # the shortest lag: u = 1
    deep = init.chrono(layers(), lag)
    assert not torch.equal(deep.bias_ih_l0, deep.bias_ih_l1_reverse)


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_orthogonal_keeps_lengths(kind: str) -> None:
    layer = init.orthogonal(getattr(openlstm, kind)(I, H, num_layers=2), 1.5)
    for w in (layer.weight_hh_l0, layer.weight_hh_l1):
        for block in w.detach().split(H):
            assert torch.allclose(block @ block.T, 2.25 * torch.eye(H), atol=1e-4)
    thin = init.orthogonal(LSTM(I, H, proj_size=8)).weight_hh_l0[:H].detach()
    assert torch.allclose(thin.T @ thin, torch.eye(8), atol=1e-4)


def test_identity_hands_the_state_on() -> None:
    layer = init.identity(RNN(I, H, nonlinearity="relu"))
    with torch.no_grad():
        layer.weight_ih_l0.zero_()
    h = torch.rand(1, 2, H)
    assert torch.equal(layer(torch.randn(50, 2, I), h)[1], h)
    half = init.identity(RNN(I, H, nonlinearity="relu", bias=False), 0.5)
    assert torch.equal(half.weight_hh_l0, 0.5 * torch.eye(H))


REFUSALS = {
    "forget-bias-of-an-rnn": (
        lambda: init.forget_bias(RNN(I, H), 1.0),
        "forget_bias: the cell has no gate that forgets\n"
        "  got       VanillaRNN()\n"
        "  expected  a cell with f or z\n"
        "  hint      use a layer of LSTM, CIFG or GRU cells",
    ),
    "chrono-without-biases": (
        lambda: init.chrono(LSTM(I, H, bias=False), 5),
        "chrono: the layer has no biases\n"
        "  got       bias: False\n"
        "  expected  bias: True\n"
        "  hint      make the layer with bias=True",
    ),
    "no-lag": (
        lambda: init.chrono(LSTM(I, H), 0),
        "chrono: lag is 0\n  got       lag: 0\n  expected  lag >= 1\n  hint      count the steps to be bridged",
    ),
    "identity-of-an-lstm": (
        lambda: init.identity(LSTM(I, H)),
        "identity: the layer has gates\n"
        "  got       LSTM()\n"
        "  expected  a vanilla RNN\n"
        "  hint      use chrono or forget_bias, which let the state itself be kept",
    ),
}


@pytest.mark.parametrize("name", list(REFUSALS))
def test_refusals(name: str) -> None:
    call, text = REFUSALS[name]
    with pytest.raises(ArgumentError) as error:
        call()
    assert str(error.value) == text
