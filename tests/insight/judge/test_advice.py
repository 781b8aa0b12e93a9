"""The advice: gates for the lag where it is blocked, nothing where it is not, and what it measured."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

import openlstm
from openlstm.insight.capture import capture_layers
from openlstm.insight.judge.advice import Advice, Trials, advise, flags, readable
from openlstm.lab.arms import ADVISED, build
from openlstm.lab.tasks import TASKS
from openlstm.lab.trial import Job, generator, run
from openlstm.nn import init


def ask(task: str, lag: int, seed: int = 0, **options: Any) -> Advice:
    found = TASKS[task]
    model = build("lstm", 32, lag, seed, found)
    data = found.look(lag, 64, generator(seed, 0))
    return advise(model, data, lag, lambda m, x, *target: found.look_loss(m(x), *target), **options)


@pytest.mark.parametrize("lag", [60, 120])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_of_latch_it_is_chrono_for_the_lag(lag: int, seed: int) -> None:
    found = ask("latch", lag, seed)
    assert found.verdict.word == "blocked" and found.best is not None
    assert found.best.flag == f"chrono={lag}" and found.best.line == f"openlstm.nn.init.chrono(model.layer, {lag})"
    assert found.best.verdict == "not blocked" and found.best in found.tried
    assert found.best.flip_after is not None and found.best.flip_after > found.best.flip / 10  # no collapse
    assert found.best.read > 0.35 > max(c.read for c in found.tried if c is not found.best)
    assert f"--init chrono={lag}" in found.finding and found.best.line in found.finding
    assert json.loads(json.dumps(found.to_dict()))["best"]["flag"] == f"chrono={lag}"


@pytest.mark.long
@pytest.mark.parametrize("lag", [60, 120])
def test_the_advice_cures(lag: int) -> None:
    best = ask("latch", lag).best
    assert best is not None and best.flag is not None
    outcome = run(Job("latch", lag, ADVISED, 0, advice=best.flag))
    assert outcome.score >= 0.95


def test_every_way_to_begin_is_tried_and_the_model_stays() -> None:
    torch.manual_seed(0)
    layer, x = openlstm.LSTM(2, 16), torch.randn(80, 40, 2)
    before = {n: p.clone() for n, p in layer.named_parameters()}
    state = torch.get_rng_state()
    found = advise(layer, x, 70)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, before[n]) for n, p in layer.named_parameters())
    assert [c.flag for c in found.tried] == [f for f in flags(70) if f != "identity"]  # an LSTM cannot begin as an identity
    assert all(c.flip_after is None for c in found.tried)  # no loss, no trial
    best = found.best
    assert best is not None
    assert best.apply(layer) is layer and not torch.equal(layer.bias_ih_l0, before["bias_ih_l0"])  # type: ignore[arg-type]


def test_nothing_is_changed_where_nothing_is_blocked() -> None:
    x = torch.randn(40, 40, 2)
    layer = init.chrono(openlstm.LSTM(2, 16), 30)
    found = advise(layer, x, 30)
    assert found.best is None and found.tried == () and "not blocked" in found.finding
    assert advise(layer, x, 30, trials=Trials(always=True)).tried


def test_a_window_shorter_than_the_lag_is_named() -> None:
    x = torch.randn(130, 40, 2)
    assert any("windows of 121" in note for note in advise(openlstm.LSTM(2, 16), x, 120, window=64).notes)
    assert not any("windows" in note for note in advise(openlstm.LSTM(2, 16), x, 120, window=121).notes)


def test_a_vanilla_rnn_is_told_of_gates() -> None:
    found = advise(nn.RNN(2, 16), torch.randn(130, 40, 2), 120)
    assert found.verdict.word == "no verdict" and any("chrono=120" in note for note in found.notes)


def test_what_can_be_read() -> None:
    """A network that hands its input on is read with r = 1, one that forgets at once with r = 0."""
    x = torch.randn(6, 50, 1)
    rnn = init.identity(openlstm.RNN(1, 3, nonlinearity="relu"), 0.0)
    with torch.no_grad():
        rnn.weight_ih_l0.copy_(torch.tensor([[1.0], [-1.0], [0.5]]))  # type: ignore[operator]
    places = list(capture_layers(rnn, x).places)
    assert readable(places, 0) > 0.999
    assert readable(places, 1) < 0.1


def test_a_collapse_in_the_first_steps_is_told() -> None:
    """A loss that does little but close forget gates: a softer training closes them less."""
    torch.manual_seed(0)
    layer, x = openlstm.LSTM(2, 16), torch.randn(90, 40, 2)

    def loss(model: Any, x: Any) -> Any:
        return model.bias_ih_l0[16:32].sum() + 1e-6 * model(x)[0][-1].square().sum()

    found = advise(layer, (x,), 80, loss, trials=Trials(rate=1.0))
    assert found.best is not None and found.best.flip_after is not None
    assert found.best.flip_after < 0.1 * found.best.flip
    softer = [c for c in found.tried if c.flag is None]
    assert {c.name for c in softer} == {"warm-up of 100 steps", "rate 0.1"}
    assert all((c.flip_after or 0.0) > found.best.flip_after for c in softer)
    assert any("After 20 steps at rate 1 the flip ratio falls" in note for note in found.notes)
