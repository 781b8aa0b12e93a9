"""Horizons, from planted layers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import openlstm
from openlstm.insight.capture import capture_layers
from openlstm.insight.judge.horizons import Horizons, flip_horizon, gradient_horizon, horizons
from openlstm.insight.judge.lag_measures import THRESHOLDS, LastState, final_state
from openlstm.insight.judge.required_lag import required_lag
from openlstm.insight.measure.ablation import Ablation
from openlstm.insight.measure.flip import flip
from openlstm.insight.measure.state_gradient import state_gradient
from openlstm.nn import init


def test_rungs_stand_for_what_was_given() -> None:
    torch.manual_seed(0)
    layer, x = openlstm.LSTM(1, 16), torch.randn(90, 20, 1)
    seen = LastState(capture_layers(layer, x).places)
    used = Ablation("cut", np.array([1, 24, 90]), np.array([1.0, 0.1, 0.1]), 0.1, 24)
    found = horizons(lag=80, window=64, gradient=gradient_horizon(seen), flip=flip_horizon(seen), used=used)
    assert [r.name for r in found.lags] == ["asked", "window", "gradient", "flip", "used"]
    assert found["used"].lag == 24 and found["window"].lag == 64 and found["asked"].lag == 80
    assert "used 24" in found.finding
    assert len(json.loads(json.dumps(found.to_dict()))["lags"]) == 5
    with pytest.raises(KeyError, match="there is asked"):
        found["half-life"]
    assert Horizons(()).finding == "No lag is known."


def test_a_lag_that_was_asked_for_and_another_one_that_the_data_need_are_told_apart() -> None:
    noise = np.random.default_rng(0).normal(size=2000)
    x = noise.copy()
    for t in range(7, 2000):
        x[t] += 0.9 * x[t - 7]
    data = required_lag(x[:-1], x[1:], longest=40)
    found = horizons(lag=33, required=data)
    assert [(r.name, r.lag) for r in found.lags] == [("asked", 33), ("required", 6)]
    assert found["required"].note == data.finding
    assert found.finding == (
        "In steps: asked 33, required 6. Lag 33 is asked about; a linear model finds that the data need lag 6, "
        "and cannot see a lag that matters only together with another."
    )
    assert horizons(required=data).finding == "In steps: required 6."


def test_the_gradient_rung_is_the_longest_lag_above_the_threshold() -> None:
    seen = LastState(capture_layers(openlstm.LSTM(1, 16), torch.randn(90, 20, 1)).places)
    found, horizon = state_gradient(seen.places[0], "random"), gradient_horizon(seen)
    assert found.at(int(horizon.lag)) >= THRESHOLDS.share > found.at(int(horizon.lag) + 1)
    open_ = gradient_horizon(LastState(capture_layers(init.chrono(openlstm.LSTM(1, 16), 90), torch.randn(90, 20, 1)).places))
    assert math.isinf(open_.lag) and open_.beyond == 89 and open_.to_dict()["lag"] is None


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_the_flip_rung_lies_where_the_ratio_crosses(bias: float) -> None:
    torch.manual_seed(0)
    layer, x = init.forget_bias(openlstm.LSTM(1, 16), bias), torch.randn(120, 20, 1)
    seen = LastState(capture_layers(layer, x).places)
    horizon = flip_horizon(seen)

    def ratio(lag: int) -> float:
        return flip(lambda x: final_state(seen.places, x), x, lag).ratio

    assert ratio(int(horizon.lag)) >= THRESHOLDS.flip > ratio(int(horizon.lag) + 1)


def test_a_flip_that_always_moves_lies_beyond() -> None:
    x = torch.randn(60, 20, 1)
    horizon = flip_horizon(LastState(capture_layers(init.chrono(openlstm.LSTM(1, 16), 60), x).places))
    assert math.isinf(horizon.lag) and horizon.beyond == 59
