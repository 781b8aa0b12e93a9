"""A call without gradients takes a shorter way: the same bits, and never where it would leave something out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.utils import parametrize

import openlstm
from openlstm import cells
from openlstm.errors import OpenLSTMError

T, B, I, H = 5, 3, 4, 6


def long_way(layer: Any, *arguments: Any) -> list[torch.Tensor]:
    """The same call with a keyword that the short way does not know."""
    x = arguments[0]
    return flat(layer(*arguments, lengths=torch.full((x.shape[1],), x.shape[0])))


def flat(out: Any) -> list[torch.Tensor]:
    y, state = out
    return [y, *(state if isinstance(state, tuple) else (state,))]


def layers() -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "lstm": openlstm.LSTM(I, H),
        "no bias": openlstm.LSTM(I, H, bias=False),
        "double": openlstm.LSTM(I, H, dtype=torch.float64),
        "clip": openlstm.LSTM(I, H, cell=cells.LSTM(clip=0.1)),
        "cifg": openlstm.LSTM(I, H, cell=cells.CIFG(peephole=False)),
        "fgr": openlstm.LSTM(I, H, cell=cells.FGR()),
        "peephole": openlstm.LSTM(I, H, cell=cells.Peephole()),
        "norm": openlstm.LSTM(I, H, cell=cells.LayerNormLSTM()),
        "blocks": openlstm.LSTM(I, H, cell=cells.LSTM(cells_per_gate=2)),
        "gru": openlstm.GRU(I, H),
        "rnn": openlstm.RNN(I, H),
        "relu": openlstm.RNN(I, H, nonlinearity="relu"),
        "projection": openlstm.LSTM(I, H, proj_size=2),
        "stacked": openlstm.LSTM(I, H, num_layers=2),
        "both ways": openlstm.GRU(I, H, bidirectional=True),
        "reference": openlstm.LSTM(I, H, backend="reference"),
        "zoneout": openlstm.LSTM(I, H, zoneout_c=0.3).eval(),
        "dropout in eval": openlstm.LSTM(I, H, hidden_dropout=0.3).eval(),
    }


@pytest.mark.parametrize("name", layers())
@torch.no_grad()
def test_a_call_without_gradients_has_the_bits_of_one_with_them(name: str) -> None:
    layer = layers()[name]
    for steps in (0, 1, T):
        given = torch.randn(steps, B, I, dtype=layer.weight_ih_l0.dtype)
        for x in (given, given.transpose(0, 1).contiguous().transpose(0, 1)):
            assert all(torch.equal(a, b) for a, b in zip(flat(layer(x)), long_way(layer, x), strict=True))
            hx = layer(torch.randn(2, B, I, dtype=x.dtype))[1]
            got = flat(layer(x, hx))
            assert all(torch.equal(a, b) for a, b in zip(got, long_way(layer, x, hx), strict=True))
            with torch.enable_grad():
                assert all(torch.equal(a, b.detach()) for a, b in zip(got, flat(layer(x, hx)), strict=True))


@torch.no_grad()
def test_an_output_shares_no_memory_with_the_layer_or_its_arguments() -> None:
    layer, hx = openlstm.LSTM(I, H), (torch.randn(1, B, H), torch.randn(1, B, H))
    before = [s.clone() for s in hx]
    for steps in (0, 1, 3):
        out = flat(layer(torch.randn(steps, B, I), hx))
        for a in out:
            a.add_(1.0)
        assert all(torch.equal(a, b) for a, b in zip(hx, before, strict=True))
        assert not torch.equal(out[1], layer(torch.randn(steps, B, I), hx)[1][0])


@torch.no_grad()
def test_edits_and_parametrisations_act_in_a_call_without_gradients() -> None:
    class Twice(torch.nn.Module):
        def forward(self, w: torch.Tensor) -> torch.Tensor:
            return 2 * w

    layer, x = openlstm.LSTM(I, H), torch.randn(T, B, I)
    plain = layer(x)[0]
    with openlstm.edit(layer, "0.f", clamp=1.0):
        assert not torch.equal(layer(x)[0], plain)
    assert torch.equal(layer(x)[0], plain)
    parametrize.register_parametrization(layer, "weight_hh_l0", Twice())
    doubled = layer(x)[0]
    assert not torch.equal(doubled, plain)
    assert all(torch.equal(a, b) for a, b in zip(flat(layer(x)), long_way(layer, x), strict=True))


def test_the_overrides_of_a_subclass_act_in_a_call_without_gradients() -> None:
    class Mine(openlstm.LSTM):
        def run_layers(self, *arguments: Any, **options: Any) -> Any:
            y, state, ran = super().run_layers(*arguments, **options)
            return y + 1, state, ran

    torch.manual_seed(0)
    mine, x = Mine(I, H), torch.randn(T, B, I)
    with torch.no_grad():
        assert torch.equal(mine(x)[0], long_way(mine, x)[0])


def test_dropout_acts_while_training() -> None:
    layer, x = openlstm.LSTM(I, H, hidden_dropout=0.5), torch.randn(T, B, I)
    with torch.no_grad():
        assert not torch.equal(layer(x)[0], layer(x)[0])


@pytest.mark.parametrize(
    "call",
    [
        lambda layer: layer(torch.randn(T, B, I + 1)),
        lambda layer: layer(torch.randn(T, B, I).double()),
        lambda layer: layer(torch.randn(T, B, I), torch.zeros(1, B, H)),
        lambda layer: layer(torch.randn(T, B, I), (torch.zeros(1, B, H), torch.zeros(B, 1, H))),
        lambda layer: layer(torch.randn(T, B, I), (torch.zeros(1, B, H), torch.zeros(1, B, H).double())),
        lambda layer: layer(torch.randn(T, B, I), (torch.zeros(1, B + 1, H), torch.zeros(1, B + 1, H))),
    ],
)
def test_a_call_without_gradients_refuses_in_the_same_words(call: Any) -> None:
    layer, said = openlstm.LSTM(I, H), []
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients), pytest.raises(OpenLSTMError) as caught:
            call(layer)
        said.append(str(caught.value))
    assert said[0] == said[1]
