"""The word before training: what is blocked, what is not, and what cannot be said."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import openlstm
from openlstm.errors import ArgumentError
from openlstm.insight.capture import capture_layers
from openlstm.insight.judge.lag_measures import THRESHOLDS, measure_lag, rows_of
from openlstm.insight.judge.verdict import decide, verdict
from openlstm.insight.measure.state_gradient import state_gradient
from openlstm.lab.tasks import TASKS
from openlstm.nn import init


def batch(task: str, lag: int, rows: int = 64) -> tuple[Any, ...]:
    return TASKS[task].batch(lag, rows, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("home", [openlstm, nn])
@pytest.mark.parametrize("task", ["recall", "latch"])
def test_the_default_is_blocked_and_gates_for_the_lag_are_not(home: Any, task: str) -> None:
    x, answer = batch(task, 120, 200)
    torch.manual_seed(0)
    layer = home.LSTM(x.shape[-1], 32)
    found = verdict(layer, x, 120, target=answer)
    assert found.word == "blocked" and found.share < 1e-15 and found.flip < THRESHOLDS.flip
    assert found.thresholds == THRESHOLDS and "blocked" in found.finding and found.to_dict()["word"] == "blocked"
    opened = verdict(init.chrono(layer, 120), x, 120, target=answer)
    assert opened.word == "not blocked" and opened.share > 0.01 and opened.flip > 0.01
    gru = home.GRU(x.shape[-1], 32)
    assert verdict(gru, x, 120).word == "blocked"
    assert verdict(init.chrono(gru, 120), x, 120).word == "not blocked"


def test_both_measures_must_be_low() -> None:
    x, _ = batch("recall", 20)
    found = measure_lag(openlstm.LSTM(1, 8), x, 20)
    low, high = found.flip, found.flip.__class__(20, 1.0, 1.0, 1.0, True)
    assert decide(found._replace(share=0.0, flip=high), 20).word == "not blocked"
    assert decide(found._replace(share=1.0, flip=low), 20).word == "not blocked"
    assert decide(found._replace(share=0.0, flip=low.__class__(20, 0.0, 1.0, 0.0, True)), 20).word == "blocked"


def test_of_a_vanilla_rnn_nothing_is_said() -> None:
    """Small shares do not keep it from learning: papers/results/horizon.json has those that did."""
    x, _ = batch("recall", 120)
    found = verdict(openlstm.RNN(1, 32), x, 120)
    assert found.word == "no verdict" and found.share < 1e-10 and "gates" in found.reason
    assert verdict(init.identity(openlstm.RNN(1, 32, nonlinearity="relu")), x, 120).word == "not blocked"


def test_the_share_is_that_of_reach() -> None:
    x, _ = batch("latch", 17, 32)
    layer = openlstm.LSTM(2, 9)
    place = capture_layers(layer, x).places[0]
    assert measure_lag(layer, x, 17).share == state_gradient(place, "random").at(17)
    assert verdict(place, lag=17).share == measure_lag(layer, x, 17).share


def test_of_several_layers_the_best_one_speaks() -> None:
    x, _ = batch("latch", 60)
    torch.manual_seed(0)
    two = openlstm.LSTM(2, 16, num_layers=2)
    assert verdict(two, x, 60).word == "blocked"
    with torch.no_grad():
        one = init.chrono(openlstm.LSTM(16, 16), 60)
        for name in ("bias_ih", "bias_hh"):
            getattr(two, f"{name}_l1").copy_(getattr(one, f"{name}_l0"))
    found = verdict(two, x, 60)
    assert found.word == "not blocked" and found.place == "1"


class Model(nn.Module):
    """Tokens, two recurrent modules in a row, dropout and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 5)
        self.first = nn.LSTM(5, 12, batch_first=True, bidirectional=True)
        self.drop = nn.Dropout(0.5)
        self.second = openlstm.GRU(24, 8, batch_first=True)
        self.head = nn.Linear(8, 11)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.drop(self.first(self.table(ids))[0]))[0][:, -1])


def test_a_model_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    model = Model()
    ids = torch.randint(11, (40, 90))
    before = {n: p.clone() for n, p in model.named_parameters()}
    state = torch.get_rng_state()
    assert verdict(model, ids, 80).word == "blocked"
    assert torch.equal(torch.get_rng_state(), state) and model.training and model.drop.training
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in model.named_parameters())
    init.apply(model, "chrono=80")
    assert verdict(model, ids, 80).word == "not blocked"


def test_one_long_sequence_is_cut_into_rows() -> None:
    torch.manual_seed(0)
    x = torch.randn(4000, 1, 2)
    layer = openlstm.LSTM(2, 16)
    assert verdict(layer, x, 100).word == "blocked"
    assert verdict(layer, x[:, 0], 100).word == "blocked"  # unbatched
    assert verdict(init.chrono(layer, 100), x, 100).word == "not blocked"


def test_where_there_is_nothing_to_remember() -> None:
    x = torch.randn(101, 20, 2)
    x[0] = 1.0
    found = verdict(openlstm.LSTM(2, 16), x, 100)
    assert found.word == "no verdict" and "same in every sequence" in found.reason


def test_without_a_lag_it_is_that_of_the_data() -> None:
    x, answer = batch("recall", 50, 800)
    assert verdict(openlstm.LSTM(1, 16), x, target=answer).lag == 50
    with pytest.raises(ArgumentError) as error:
        verdict(openlstm.LSTM(1, 16), torch.randn(60, 300, 1))
    assert str(error.value) == (
        "verdict: the data do not show which lag they need\n  got       lag=None\n  expected  a lag\n"
        "  hint      say which lag matters: lag=120"
    )


def test_refusals() -> None:
    x = torch.randn(30, 4, 1)
    with pytest.raises(ArgumentError) as error:
        verdict(openlstm.LSTM(1, 4), x, 30)
    assert str(error.value) == (
        "verdict: the data are shorter than the lag\n  got       lag=30, T=30\n  expected  0 <= lag < T\n"
        "  hint      pass sequences longer than the lag, or ask for a shorter one"
    )
    with pytest.raises(ArgumentError, match="one sequence shows no spread"):
        verdict(openlstm.LSTM(1, 4), x[:, :1], 20)
    packed = nn.utils.rnn.pack_sequence([torch.randn(30, 1), torch.randn(20, 1)])
    with pytest.raises(
        ArgumentError, match="got       lag=20, 1 of 2 rows are longer\n  expected  two rows longer than the lag"
    ):
        verdict(openlstm.LSTM(1, 4), packed, 20)


def test_rows_of_different_lengths_are_cut_at_their_own_ends() -> None:
    """What one row holds does not hang on how long the others are."""
    torch.manual_seed(0)
    layer, cell = init.forget_bias(openlstm.LSTM(3, 8, num_layers=2), 1.0), torch.randn(2, 5, 8)
    rows = [torch.randn(n, 3) for n in (40, 9, 33, 25, 38)]
    places = capture_layers(layer, (nn.utils.rnn.pack_sequence(rows, enforce_sorted=False), (cell, cell))).places
    cut = rows_of(places[:1], 24)
    assert cut[0].x.shape == (25, 4, 3) and cut[0].lengths is None
    for k, row in enumerate(rows[:1] + rows[2:]):
        assert torch.equal(cut[0].x[:, k], row[-25:])
    assert not cut[0].state.h[:2].any() and not cut[0].state.h[3].any()  # of rows that are cut the state is not known
    assert torch.equal(cut[0].state.h[2], places[0].state.h[3])
    alone = verdict(layer, torch.stack([row[-25:] for row in rows if len(row) > 24], 1), 24)
    found = verdict(layer, nn.utils.rnn.pack_sequence([r for r in rows if len(r) > 24], enforce_sorted=False), 24)
    assert (found.flip, found.word) == (alone.flip, alone.word)


def test_what_the_data_need_is_told_of_rows_that_end_together() -> None:
    torch.manual_seed(0)
    rows = [torch.randn(20 + k % 9, 1) for k in range(400)]
    target = torch.stack([row[-13, 0] for row in rows])
    packed = nn.utils.rnn.pack_sequence(rows, enforce_sorted=False)
    assert verdict(openlstm.LSTM(1, 4), packed, target=target).lag == 12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_in_half_precision_is_judged_as_in_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x = openlstm.LSTM(6, 16), torch.randn(40, 8, 6)
    wide = verdict(layer, x, lag=20)
    half = verdict(layer.to(dtype), x.to(dtype), lag=20)
    assert half.word == wide.word != "no verdict"
