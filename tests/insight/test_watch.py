"""Watching a training: the same numbers as a look, at the steps asked for, for any loop, and nothing changed."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import openlstm
from openlstm.errors import ArgumentError
from openlstm.insight.calls import places_of
from openlstm.insight.capture import capture_layers
from openlstm.insight.measure.state_gradient import state_gradient
from openlstm.insight.watch import Watch, snapshot
from openlstm.nn import init
from openlstm.nn.form import Inputs

T, B, I, H = 20, 4, 3, 5


class Net(nn.Module):
    def __init__(self, rnn: Any) -> None:
        super().__init__()
        self.rnn, self.head = rnn, nn.Linear(H, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][-1])


def square(model: Any, x: Tensor) -> Tensor:
    return model(x).square().mean()


LAYERS = [nn.LSTM(I, H, 2), openlstm.LSTM(I, H, 2), nn.GRU(I, H), openlstm.RNN(I, H)]


@pytest.mark.parametrize("rnn", LAYERS, ids=repr)
@pytest.mark.parametrize("before", [True, False])
def test_it_sees_what_a_look_sees(rnn: Any, before: bool) -> None:
    model, x = Net(rnn), torch.randn(T, B, I)
    watch = Watch(model, every=3, first=())
    for step in range(7):
        model.zero_grad()
        if before:
            loss = square(model, x)
            with watch.step(step):
                loss.backward()
        else:
            with watch.step(step):
                square(model, x).backward()
    found = capture_layers(model, x, square).places
    assert [g.step for g in watch.snapshots] == [s for s in (0, 3, 6) for _ in found]
    for g, place in zip(watch.snapshots, found, strict=False):
        assert g.name == place.name
        wanted = state_gradient(place)
        np.testing.assert_allclose(g.state_gradient.share, wanted.share, rtol=1e-4)
        assert (g.saturation is None) == bool(place.no_gates) and (g.retention is None) == bool(place.no_highway)
        assert abs(g.weight_gradient.share.sum() - 1) < 1e-6


def run(steps: int, watched: bool, rnn: Any) -> list[Tensor]:
    torch.manual_seed(5)
    model = Net(rnn())
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    watch = Watch(model, every=2) if watched else None
    for step in range(steps):
        x = torch.randn(T, B, I)
        optimizer.zero_grad()
        if watch is None:
            square(model, x).backward()
        else:
            with watch.step(step):
                square(model, x).backward()
        optimizer.step()
    return [*(p.detach() for p in model.parameters()), torch.randn(3)]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, openlstm.LSTM])
def test_not_a_bit_of_the_training_changes(kind: Any) -> None:
    """Neither weights nor random numbers, with dropout between the layers."""

    def rnn() -> Any:
        return kind(I, H, 2, dropout=0.4)

    for a, b in zip(run(6, False, rnn), run(6, True, rnn), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_the_masks_of_the_step_are_those_that_are_looked_at() -> None:
    torch.manual_seed(0)
    model, x = Net(nn.LSTM(I, H, 2, dropout=0.5)), torch.randn(T, B, I)
    watch = Watch(model, every=1)
    heard: Any = watch._calls
    random = torch.get_rng_state()
    with watch.step(0):
        square(model, x).backward()
    below, above = (place for place, _ in places_of("rnn", heard.of["rnn"][0], 1, True))
    watch.close()
    torch.set_rng_state(random)
    ours = openlstm.replace(model)
    y, _, ran = ours.rnn.run_layers(Inputs(x, None, None, None, None))
    torch.testing.assert_close(above.x, ran[1].call.x.detach(), rtol=0, atol=0)
    (g,) = torch.autograd.grad(ours.head(y[-1]).square().mean(), [ran[0].run.y])
    assert below.dy is not None
    torch.testing.assert_close(below.dy, g)


def test_noise_in_the_recurrence_is_that_of_the_step() -> None:
    model, x = Net(openlstm.LSTM(I, H, recurrent_dropout=0.3, zoneout_c=0.2, hidden_dropout=0.2)), torch.randn(T, B, I)
    watch = Watch(model, every=1)
    h: list[Tensor] = []
    handle = model.rnn.register_forward_hook(lambda m, a, o: h.append(o[0].detach()))
    heard: Any = watch._calls
    with watch.step(0):
        square(model, x).backward()
    handle.remove()
    call = heard.of["rnn"][0]
    (place, _), *_ = places_of("rnn", call, 1, True)
    y = torch.cat([part.saved.h for part in place.forwards()])
    torch.testing.assert_close(y, h[0], rtol=0, atol=0)


def test_packed_input_and_gradients_that_are_collected_over_several_calls() -> None:
    model = Net(nn.LSTM(I, H))
    watch = Watch(model, every=1)
    with watch.step(0):
        for n in (3, 9, 5):
            packed = pack_sequence([torch.randn(n, I), torch.randn(n - 1, I)])
            model.rnn(packed)[1][0].sum().backward()
    assert len(watch.of("rnn.0")[0].state_gradient.lags) == 9


@pytest.mark.parametrize("kind", [nn.LSTM, openlstm.LSTM])
@pytest.mark.parametrize("around", [True, False])
def test_a_training_under_autocast(kind: Any, around: bool) -> None:
    """With the backward pass outside of it, as torch says, and inside."""
    model, x = Net(kind(I, H, 2)), torch.randn(T, B, I)
    watch = Watch(model, every=1)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=around), watch.step(0):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = square(model, x)
        loss.backward()
    found = capture_layers(model, x, square).places
    for g, place in zip(watch.snapshots, found, strict=True):
        np.testing.assert_allclose(g.state_gradient.share, state_gradient(place).share, rtol=0.1, atol=1e-3)


def test_a_validation_in_between_is_not_heard() -> None:
    model = Net(nn.LSTM(I, H))
    watch = Watch(model, every=1)
    with torch.no_grad():
        model(torch.randn(50, B, I))
    with watch.step(0):
        square(model, torch.randn(T, B, I)).backward()
    assert len(watch.snapshots[0].state_gradient.lags) == T


def test_by_a_call_of_its_own() -> None:
    model, x = Net(openlstm.LSTM(I, H)).train(), torch.randn(T, B, I)
    watch = Watch(model, every=10, first=(1,))
    compiled = torch.compile(model, backend="eager")
    for step in range(11):
        watch(step, compiled, x, square)  # type: ignore[arg-type]
    assert [g.step for g in watch.snapshots] == [0, 1, 10]
    assert model.training and all(p.grad is None for p in model.parameters())
    assert not model.rnn._forward_hooks


def test_a_model_that_listens_can_be_copied_and_saved() -> None:
    model = Net(openlstm.LSTM(I, H))
    watch = Watch(model)
    assert model.rnn._forward_hooks
    x = torch.randn(T, B, I)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(twin(x), model(x).detach(), rtol=0, atol=0, check_stride=False)
    watch.close()
    assert not model.rnn._forward_hooks and not model.rnn._forward_pre_hooks


def test_a_collapse_is_named() -> None:
    """A forget bias of 3 that the first steps destroy."""
    torch.manual_seed(0)
    model, x = Net(init.forget_bias(openlstm.LSTM(I, H), 4.0)), torch.randn(100, B, I)
    watch = Watch(model, first=(0, 10), lag=90)
    for step in range(11):
        if step == 7:
            init.forget_bias(model.rnn, -4.0)
        with watch.step(step):
            square(model, x).backward()
    assert watch.collapse == (10, "rnn.0")
    assert watch.finding.startswith("rnn.0: horizon collapsed at step 10: warm up, or lower the learning rate. Norm of the")
    free = Watch(model, first=(0, 10))
    free.snapshots = watch.snapshots
    assert free.collapse == (10, "rnn.0")
    late = Watch(model, lag=90)
    late.snapshots = [watch.snapshots[0], snapshot(500, capture_layers(model, x, square).places[0])]
    assert late.collapse is None  # after training a short horizon is no defect
    assert "left after 101 steps at step 0" in late.finding or "steps at step 0, after" in late.finding


def test_what_it_hands_to_a_report() -> None:
    model, x = Net(openlstm.LSTM(I, H)), torch.randn(T, B, I)
    watch = Watch(model, every=1, lag=10, clip=1e-6)
    for step in range(3):
        with watch.step(step):
            square(model, x).backward()
    found = watch.to_dict()
    assert [row["step"] for row in found["table"]] == [0, 1, 2]
    assert found["norm"]["clip_rate"] == 1 and found["norm"]["p50"] <= found["norm"]["p99"]
    assert 0 < found["table"][0]["share_at_lag"] < 1 and found["table"][0]["forget_gate"] == pytest.approx(0.5, abs=0.2)
    import json

    json.dumps(found)


def test_the_first_number_that_is_not_finite_is_kept() -> None:
    model: Any = Net(openlstm.LSTM(I, H))
    watch = Watch(model, every=1)
    x = torch.randn(T, B, I)
    for step in range(3):
        if step == 1:
            with torch.no_grad():
                model.rnn.weight_ih_l0[H, 0] = float("nan")
        with watch.step(step):
            square(model, x).backward()
    assert watch.bad == "the gradient is nan at step 1 of the training"
    assert watch.snapshots[1].weight_gradient.first_non_finite == "rnn.0: weight_ih_l0 holds nan at [5, 0], gate f"


def test_a_loop_in_which_nothing_is_heard() -> None:
    model = Net(openlstm.LSTM(I, H))
    watch = Watch(model, every=5, first=())
    with pytest.raises(ArgumentError) as error, watch.step(0):
        pass
    assert str(error.value) == (
        "Watch: no recurrent layer ran\n"
        "  got       step 0, layers rnn\n"
        "  expected  a forward and a backward pass\n"
        "  hint      count steps one by one, or put the forward pass into the block of watch.step(step) too"
    )
    with pytest.raises(ArgumentError, match="no gradient came back"), watch.step(5):
        model(torch.randn(T, B, I))
    with pytest.raises(ArgumentError, match="every must be at least one step"):
        Watch(model, every=0)
    assert Watch(model).finding == "Nothing was measured yet."
