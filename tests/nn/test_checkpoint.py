"""The `checkpoint` keyword of the layers: the numbers of a layer without it, compiled, differentiated twice, traced."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import openlstm
from openlstm import cells
from openlstm.errors import ArgumentError

T, B, I, H = 41, 33, 3, 5


def pair(kind: Any = openlstm.LSTM, **options: Any) -> tuple[Any, Any]:
    """A layer that keeps everything and one that does not, with the same parameters."""
    torch.manual_seed(0)
    whole, less = kind(I, H, **options), kind(I, H, checkpoint=10, **options)
    less.load_state_dict(whole.state_dict())
    return whole, less


def gradients(layer: Any, x: torch.Tensor, **arguments: Any) -> list[torch.Tensor]:
    """Outputs, final states and every gradient."""
    torch.manual_seed(1)  # the masks of noise
    x = x.clone().requires_grad_()
    y, state = layer(x, **arguments)
    state = state if isinstance(state, tuple) else (state,)
    loss = (y**2).sum() + sum((s * s.detach().cos()).sum() for s in state)
    return [y, *state, *torch.autograd.grad(loss, [x, *layer.parameters()])]


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stacked-both-ways": {"num_layers": 2, "bidirectional": True},
    "projection": {"proj_size": 2},
    "noise": {"zoneout_h": 0.2, "zoneout_c": 0.1, "recurrent_dropout": 0.3, "hidden_dropout": 0.2},
    "blocks": {"cell": cells.LSTM(cells_per_gate=5)},
    "peepholes": {"cell": cells.Peephole(clip=0.3)},
    "reference": {"backend": "reference"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_layer_with_checkpoints_has_the_bits_of_one_without(name: str) -> None:
    whole, less = pair(**OPTIONS[name])
    x = torch.randn(T, B, I)
    rows = {"lengths": torch.randint(0, T + 1, (B,)), "reset": torch.rand(T, B) < 0.1}
    for arguments in ({}, rows):
        for ours, theirs in zip(gradients(less, x, **arguments), gradients(whole, x, **arguments), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", [openlstm.GRU, openlstm.RNN])
def test_gru_and_rnn_take_checkpoints_too(kind: Any) -> None:
    whole, less = pair(kind, bidirectional=True)
    x = torch.randn(T, B, I)
    assert all(torch.equal(a, b) for a, b in zip(gradients(less, x), gradients(whole, x), strict=True))


def test_half_precision_rounds_once_at_the_end() -> None:
    whole, less = (layer.bfloat16() for layer in pair())
    x = torch.randn(T, B, I).bfloat16()
    assert all(torch.equal(a, b) for a, b in zip(gradients(less, x), gradients(whole, x), strict=True))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own
def test_a_compiled_graph_carries_checkpoints() -> None:
    whole, less = pair()
    x = torch.randn(T, B, I)
    compiled = torch.compile(less, fullgraph=True, dynamic=True, backend="aot_eager")
    assert all(torch.equal(a, b) for a, b in zip(gradients(compiled, x), gradients(whole, x), strict=True))
    x = torch.randn(T + 7, B, I)
    assert all(torch.equal(a, b) for a, b in zip(gradients(compiled, x), gradients(whole, x), strict=True))


def test_second_derivatives_are_those_of_the_reference() -> None:
    torch.manual_seed(0)
    layer = openlstm.LSTM(2, 3, checkpoint=2, dtype=torch.float64)
    x = torch.randn(5, 300, 2, dtype=torch.float64, requires_grad=True)

    def energy(x: torch.Tensor) -> torch.Tensor:
        return (layer(x)[0][:, :2] ** 2).sum()

    (g,) = torch.autograd.grad(energy(x), x, create_graph=True)
    (found,) = torch.autograd.grad((g[:, 0] ** 2).sum(), x)
    layer.checkpoint = None
    (g,) = torch.autograd.grad(energy(x), x, create_graph=True)
    (expected,) = torch.autograd.grad((g[:, 0] ** 2).sum(), x)
    assert float(expected.abs().max()) > 0
    assert torch.allclose(found, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own
def test_per_sample_gradients_go_through_checkpoints() -> None:
    _, layer = pair()
    x = torch.randn(2, T, B, I)

    def loss(w: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return (torch.func.functional_call(layer, w, (x,))[0] ** 2).sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(dict(layer.named_parameters()), x)
    for n in range(2):
        alone = torch.autograd.grad(loss(dict(layer.named_parameters()), x[n]), list(layer.parameters()))
        assert all(
            torch.allclose(each[name][n], a, rtol=1e-4, atol=1e-5)
            for (name, _), a in zip(layer.named_parameters(), alone, strict=True)
        )


def test_a_trace_shows_every_step_all_the_same() -> None:
    whole, less = pair()
    x = torch.randn(T, B, I)
    a, b = (openlstm.trace(layer, x, loss=lambda y, state: y.sum()) for layer in (less, whole))
    assert list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_no_gradient_no_stretches_but_the_same_refusal() -> None:
    layer = openlstm.LSTM(I, H, checkpoint=T + 1)
    for x in (torch.randn(T, B, I), torch.randn(T, B, I, requires_grad=True)):
        with pytest.raises(ArgumentError, match="checkpoint=42 is outside 1..T"):
            layer(x)
        with torch.no_grad(), pytest.raises(ArgumentError, match="checkpoint=42 is outside 1..T"):
            layer(x)


@pytest.mark.parametrize("value", [0, -3, 2.5, True, "64"])
def test_what_is_not_a_number_of_steps_is_refused_at_once(value: Any) -> None:
    with pytest.raises(ArgumentError) as caught:
        openlstm.LSTM(I, H, checkpoint=value)
    assert str(caught.value) == (
        f"LSTM: checkpoint={value!r} is not a number of steps\n"
        f"  got       checkpoint={value!r}\n"
        "  expected  None, or a whole number from 1 to T\n"
        "  hint      about sqrt(T) keeps least; leave it out to keep every step"
    )


@pytest.mark.filterwarnings("ignore:.*has no kernel:RuntimeWarning")
def test_a_cell_of_ones_own_keeps_some_states_too() -> None:
    class Mine(cells.LSTM):
        """Counts how often its step runs."""

        runs = 0

        def forward(self, *args: Any, **options: Any) -> cells.Step:
            Mine.runs += 1
            return super().forward(*args, **options)

    layer = openlstm.LSTM(I, H, cell=Mine(), checkpoint=10)
    y, _ = layer(torch.randn(T, B, I))
    assert Mine.runs == T
    y.sum().backward()
    assert Mine.runs == 2 * T
    with pytest.raises(ArgumentError, match="checkpoint=10 is outside 1..T"):
        layer(torch.randn(9, B, I))


def test_the_interval_is_in_the_repr() -> None:
    assert "checkpoint=10" in repr(openlstm.LSTM(I, H, checkpoint=10))
    assert "checkpoint" not in repr(openlstm.LSTM(I, H))
