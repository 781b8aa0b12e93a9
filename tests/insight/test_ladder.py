"""The rungs of the ladder, from planted layers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import openlstm
from openlstm.insight.ablation import Ablation
from openlstm.insight.flip import flip
from openlstm.insight.ladder import Ladder, flip_rung, gradient_rung, ladder
from openlstm.insight.look import look
from openlstm.insight.needed import needed
from openlstm.insight.reach import reach
from openlstm.insight.verdict import THRESHOLDS, LastState, final_state
from openlstm.nn import init


def test_rungs_stand_for_what_was_given() -> None:
    torch.manual_seed(0)
    layer, x = openlstm.LSTM(1, 16), torch.randn(90, 20, 1)
    seen = LastState(look(layer, x).places)
    used = Ablation("cut", np.array([1, 24, 90]), np.array([1.0, 0.1, 0.1]), 0.1, 24)
    found = ladder(lag=80, window=64, gradient=gradient_rung(seen), flip_lag=flip_rung(seen), used=used)
    assert [r.name for r in found.rungs] == ["asked", "window", "gradient", "flip", "used"]
    assert found["used"].lag == 24 and found["window"].lag == 64 and found["asked"].lag == 80
    assert "used 24" in found.finding
    assert len(json.loads(json.dumps(found.to_dict()))["rungs"]) == 5
    with pytest.raises(KeyError, match="there is asked"):
        found["half-life"]
    assert Ladder(()).finding == "No lag is known."


def test_a_lag_that_was_asked_for_and_another_one_that_the_data_need_are_told_apart() -> None:
    noise = np.random.default_rng(0).normal(size=2000)
    x = noise.copy()
    for t in range(7, 2000):
        x[t] += 0.9 * x[t - 7]
    data = needed(x[:-1], x[1:], longest=40)
    found = ladder(lag=33, needed=data)
    assert [(r.name, r.lag) for r in found.rungs] == [("asked", 33), ("needed", 6)]
    assert found["needed"].note == data.finding
    assert found.finding == (
        "In steps: asked 33, needed 6. Lag 33 is asked about; a linear model finds that the data need lag 6, "
        "and cannot see a lag that matters only together with another."
    )
    assert ladder(needed=data).finding == "In steps: needed 6."


def test_the_gradient_rung_is_the_longest_lag_above_the_threshold() -> None:
    seen = LastState(look(openlstm.LSTM(1, 16), torch.randn(90, 20, 1)).places)
    found, rung = reach(seen.places[0], "random"), gradient_rung(seen)
    assert found.at(int(rung.lag)) >= THRESHOLDS.share > found.at(int(rung.lag) + 1)
    open_ = gradient_rung(LastState(look(init.chrono(openlstm.LSTM(1, 16), 90), torch.randn(90, 20, 1)).places))
    assert math.isinf(open_.lag) and open_.beyond == 89 and open_.to_dict()["lag"] is None


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_the_flip_rung_lies_where_the_ratio_crosses(bias: float) -> None:
    torch.manual_seed(0)
    layer, x = init.forget_bias(openlstm.LSTM(1, 16), bias), torch.randn(120, 20, 1)
    seen = LastState(look(layer, x).places)
    rung = flip_rung(seen)

    def ratio(lag: int) -> float:
        return flip(lambda x: final_state(seen.places, x), x, lag).ratio

    assert ratio(int(rung.lag)) >= THRESHOLDS.flip > ratio(int(rung.lag) + 1)


def test_a_flip_that_always_moves_lies_beyond() -> None:
    x = torch.randn(60, 20, 1)
    rung = flip_rung(LastState(look(init.chrono(openlstm.LSTM(1, 16), 60), x).places))
    assert math.isinf(rung.lag) and rung.beyond == 59
