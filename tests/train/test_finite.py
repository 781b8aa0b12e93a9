"""A number that is not finite is found before the weights move, and named by row, layer, step and gate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.train.test_steps import OPTIONS, Net, data, squares
from torch import Tensor, nn

import openlstm
from openlstm.errors import TrainingError
from openlstm.train import Epoch, train
from openlstm.train.finite import origin


def test_an_input_is_named() -> None:
    x, y = data(9)
    x[4, 7, 0] = torch.nan
    assert origin(Net(), squares, [x, y]) == "rnn.0: input 0 is nan at step 7, row 4"


@pytest.mark.parametrize("gate", range(4))
def test_a_weight_is_named_with_its_gate(gate: int) -> None:
    model: Any = Net()
    with torch.no_grad():
        model.rnn.weight_hh_l1[6 * gate + 2, 3] = torch.inf
    name = "ifgo"[gate]
    assert origin(model, squares, data(5)) == f"rnn.1: weight_hh_l1 holds inf at [{6 * gate + 2}, 3], gate {name}"


def test_a_state_is_named_with_its_step_and_row() -> None:
    model: Any = Net()
    model.rnn = openlstm.LSTM(1, 6, bias=False, proj_size=3)
    model.head = nn.Linear(3, 1)
    with torch.no_grad():
        rnn: Any = model.rnn
        for weight in rnn.parameters():
            weight.fill_(1.0)
        rnn.weight_hr_l0.fill_(3e38)
    x, y = data(5)
    x[:] = 0.0
    x[3, 4:] = 2.0
    assert origin(model, squares, [x, y]) == "rnn.0: h is inf at step 4, row 3, unit 0"


def test_a_gradient_is_named() -> None:
    def overflow(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return (torch.sqrt(model(x)[2] * 0).sum() + 1), torch.tensor(1)

    assert origin(Net(), overflow, data(5)) == "rnn.0: dL/dh is nan at step 11, row 2, unit 0"


def test_a_row_of_the_loss_or_a_parameter_is_named_outside_of_recurrent_layers() -> None:
    x, y = data(9)
    y[6] = 1e30
    assert origin(Net(), squares, [x, y]) == "the loss of row 6 is inf, behind the recurrent layers"
    head = nn.Linear(1, 1)
    head.weight.grad = torch.tensor([[torch.nan]])
    x = torch.ones(2, 1)
    assert origin(head, squares, [x, x]) == "the gradient of weight, outside of the recurrent layers"
    assert origin(nn.Linear(1, 1), squares, [x, x]) == "a sum over the batch that is too large"


def test_the_weights_of_the_best_epoch_stay() -> None:
    model, kept, calls = Net(), list[Tensor](), 0

    def note(epoch: Epoch) -> None:
        if epoch.is_best:
            kept[:] = [p.detach().clone() for p in model.parameters()]

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += model.training
        return squares(model, x * torch.nan if calls >= 10 else x, y)

    with pytest.raises(TrainingError, match="at step 9: rnn.0: input 0 is nan at step 0, row 0"):
        train(model, loss, data(), data(20), OPTIONS, [note])
    assert kept and all(bool((p == k).all()) for p, k in zip(model.parameters(), kept, strict=True))


def test_before_the_first_epoch_ends_the_weights_are_those_of_the_step_before() -> None:
    model, before = Net(), list[Tensor]()

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        before[:] = [p.detach().clone() for p in model.parameters()]
        return torch.sqrt(model(x) * 0).sum() + 1, torch.tensor(1)  # its gradient is nan

    with pytest.raises(TrainingError, match="the gradient is not finite in epoch 1"):
        train(model, loss, data(), None, OPTIONS)
    assert all(bool((p == k).all()) for p, k in zip(model.parameters(), before, strict=True))
