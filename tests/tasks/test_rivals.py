"""Forecasters of other packages: put in place of what is not installed, stopped in time, and never the end of an evaluation."""

from __future__ import annotations

import sys
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.tasks.fake import Fake, carried, months, zero

from openlstm.tasks import rivals as module
from openlstm.tasks.evaluation import evaluate
from openlstm.tasks.rivals import Boosting, Late


class Stub:
    """AutoARIMA of statsforecast as far as it is used: carries the last value."""

    def __init__(self, season_length: int) -> None:
        self.season_length = season_length

    def fit(self, y: np.ndarray) -> Stub:
        assert not np.isnan(y).any()
        time.sleep(0.01)
        return self

    def forward(self, y: np.ndarray, h: int, level: list[float]) -> dict[str, np.ndarray]:
        out = {"mean": np.full(h, y[-1])}
        return out | {f"{side}-{share}": np.full(h, y[-1] + sign) for share in level for side, sign in (("lo", -1), ("hi", 1))}


class Tree:
    """A regressor that learns the mean."""

    def __init__(self, **options: Any) -> None:
        self.mean = 0.0

    def fit(self, x: np.ndarray, y: np.ndarray) -> Tree:
        assert np.isfinite(y).all() and len(x) == len(y)
        self.mean = float(y.mean())
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        return np.full(len(x), self.mean)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, contents in (
        ("statsforecast.models", {"AutoARIMA": Stub}),
        ("sklearn.ensemble", {"HistGradientBoostingRegressor": Tree}),
    ):
        made = ModuleType(name)
        vars(made).update(contents)
        monkeypatch.setitem(sys.modules, name.split(".")[0], ModuleType(name.split(".")[0]))
        monkeypatch.setitem(sys.modules, name, made)
    monkeypatch.setattr(module, "find_spec", lambda name: SimpleNamespace())


def model(period: int = 1) -> Fake:
    return Fake({"LSTM": zero, "naive": carried}, 60, period=period)


def walk(length: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(length).cumsum() + 10


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert evaluate(model(), months(walk(70, 0)), time_limit=1.0).left_out == {
        "AutoARIMA": "not installed: pip install statsforecast",
        "gradient boosting": "not installed: pip install scikit-learn",
    }
    assert evaluate(model(), months(walk(70, 0))).left_out == {}


@pytest.mark.usefixtures("installed")
def test_they_stand_beside_the_model_and_are_not_in_its_file() -> None:
    gaps = walk(70, 1)
    gaps[[5, 6, 59]] = np.nan
    found = evaluate(model(), months(walk(70, 0), gaps), time_limit=60.0)
    assert set(found.forecasts) == {"LSTM", "naive", "AutoARIMA", "gradient boosting"}
    assert (found.forecasts["AutoARIMA"][:, 2] == found.forecasts["naive"][:, 2]).all()
    assert (np.diff(found.forecasts["AutoARIMA"], axis=1) >= 0).all()
    assert (found.score("AutoARIMA").seconds or 0) > 0
    assert "in the model file" in found.verdict() or "--use naive" in found.verdict()


@pytest.mark.usefixtures("installed")
def test_one_that_takes_too_long_is_left_out_with_the_reason() -> None:
    found = evaluate(model(), months(*(walk(70, k) for k in range(30))), time_limit=0.05)
    assert found.left_out["AutoARIMA"].startswith("stopped after 0.05 s: ")
    assert found.left_out["AutoARIMA"].endswith(" of 30 series done")
    assert "AutoARIMA" not in found.forecasts


@pytest.mark.usefixtures("installed")
def test_one_that_fails_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(self: Stub, y: np.ndarray) -> Stub:
        raise ZeroDivisionError("no season")

    monkeypatch.setattr(Stub, "fit", fit)
    found = evaluate(model(), months(walk(70, 0)), time_limit=60.0)
    assert found.left_out == {"AutoARIMA": "it failed: ZeroDivisionError: no season"}
    assert evaluate(model(61), months(walk(70, 0)), time_limit=60.0).left_out == {
        "AutoARIMA": "would take too long: season of 61 steps (at most 60)"
    }


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("period", [1, 4])
def test_boosting_learns_from_the_past_what_it_then_forecasts(period: int) -> None:
    """Of a series that grows by one a step, the mean of what is above the seasonal naive is known; so are the features."""
    panel = months(np.arange(50.0), np.arange(50.0)[7:])
    rival = Boosting(model(period), 60.0)
    x, y = rival._examples(panel)
    ahead, season = x[:, -2], x[:, -1]
    assert (y == period * (1 + (ahead - 1) // period)).all()
    assert (season == season % period).all()
    assert (x[:, rival.lags - 1] == 0).all()  # the last known value, measured from itself
    lags = x[:, : rival.lags]
    assert (np.diff(lags, axis=1)[~np.isnan(np.diff(lags, axis=1))] == 1).all()
    assert (x[:, rival.lags] + y == ahead).all()  # base and target
    with pytest.raises(Late, match="the series are too short: 0 examples"):
        Boosting(model(), 60.0)(months([1.0, 2.0]))
