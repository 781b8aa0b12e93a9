"""The forecaster: learns, keeps to the order of time, masks what is missing, and its memory carries the forecast."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import model_validator
from rich.console import Console

import openlstm
from openlstm import Forecaster
from openlstm.data import Series, from_arrays, read_series
from openlstm.errors import ArgumentError, DataError
from openlstm.model_file import Header
from openlstm.runtime import Model
from openlstm.runtime.model import Forecast
from openlstm.tasks.scoring import Evaluation, Score, evaluate, predict, score, seasonal_error
from openlstm.tasks.show import draw, score_table
from openlstm.train import Options

FAST = {"members": 1, "hidden_size": 32, "options": Options(epochs=12, learning_rate=0.01)}


def daily(n: int = 300, seed: int = 0) -> Series:
    """A week's shape, a trend and some noise."""
    t = np.arange(n)
    rng = np.random.default_rng(seed)
    values = 50 + 0.05 * t + 5 * np.array([0.0, 1, 3, 2, 1, -2, -3])[t % 7] + 0.5 * rng.standard_normal(n)
    values[[20, 21, 95]] = np.nan
    return from_arrays(np.datetime64("2001-01-01") + t, values, name="y", time_name="t")


@pytest.fixture(scope="module")
def fitted() -> Forecaster:
    return Forecaster(7, **FAST).fit(daily(), holdout=21, quiet=True)


def zeroed(model: Model) -> Model:
    """The same model with h replaced by 0 before the head: W 0 + b = 0 h + b."""
    return replace(model, heads=tuple((w * 0, b) for w, b in model.heads))


def test_it_beats_the_naive_forecasts_and_its_memory_does_it(fitted: Forecaster) -> None:
    evaluation = evaluate({"LSTM": fitted.model_, "h = 0": zeroed(fitted.model_)}, daily())
    mase = {s.name: s.mase or 0.0 for s in evaluation.scores}
    assert mase["LSTM"] < min(mase["naive"], mase["seasonal naive"])
    assert mase["LSTM"] < 0.5 * mase["h = 0"]


def test_what_comes_after_the_cut_changes_nothing() -> None:
    series = daily(200)
    other = replace(series, values=np.where(np.arange(200) < 179, series.values, -1e3))
    a, b = (
        Forecaster(7, members=1, hidden_size=4, options=Options(epochs=2)).fit(s, holdout=21, quiet=True)
        for s in (series, other)
    )
    assert a.model_.header == b.model_.header
    assert all((a.tensors_[name] == b.tensors_[name]).all() for name in a.tensors_)


def test_the_scale_comes_from_the_training_part_only() -> None:
    series = daily(200)
    validation = replace(
        series, values=np.where(np.arange(200) < 165, series.values, 9 * series.values)
    )  # 165 = start of validation
    a, b = (
        Forecaster(7, members=1, hidden_size=4, options=Options(epochs=1)).fit(s, holdout=21, quiet=True)
        for s in (series, validation)
    )
    assert a.split_.train == 165
    assert a.model_.header.series.scale == b.model_.header.series.scale


def test_the_same_seed_gives_the_same_model_and_another_seed_another() -> None:
    a, b, c = (
        Forecaster(7, members=2, hidden_size=4, options=Options(epochs=2, seed=s)).fit(daily(200), quiet=True).tensors_
        for s in (3, 3, 4)
    )
    assert all((a[k] == b[k]).all() for k in a)
    assert (a["member.1.head.weight"] == c["member.0.head.weight"]).all()  # member k takes seed + k
    assert not (a["member.0.head.weight"] == c["member.0.head.weight"]).all()


def test_a_missing_target_is_masked_in_the_loss() -> None:
    """What stands behind the mask cannot matter: it is NaN, and every weight stays finite."""
    series = daily(200)
    holes = series.values.copy()
    holes[30::11] = np.nan
    forecaster = Forecaster(7, members=1, hidden_size=4, options=Options(epochs=2)).fit(
        replace(series, values=holes), holdout=14, quiet=True
    )
    assert all(np.isfinite(t).all() for t in forecaster.tensors_.values())


def test_save_and_load_give_the_same_forecast(fitted: Forecaster, tmp_path: Path) -> None:
    fitted.save(tmp_path / "m.safetensors")
    model = openlstm.load(tmp_path / "m.safetensors")
    here, there = fitted.predict(), predict(model, daily())
    assert all((a == b).all() for a, b in zip(here.forecast, there.forecast, strict=True))
    assert [str(t)[:10] for t in here.times[:2]] == ["2001-10-28", "2001-10-29"]
    assert model.header.training.last == "2001-10-06T00:00:00.000000"
    assert model.header.training.epochs == tuple(h.best.number for h in fitted.histories_)


def test_a_csv_file_can_be_fitted(tmp_path: Path) -> None:
    rows = "".join(f"{t},{v}\n" for t, v in zip(daily(100).times, daily(100).values, strict=True)).replace("nan", "")
    (tmp_path / "a.csv").write_text("t,y\n" + rows)
    forecaster = Forecaster(7, members=1, hidden_size=4, options=Options(epochs=1)).fit(
        tmp_path / "a.csv", "t", "y", quiet=True
    )
    assert len(forecaster.predict(tmp_path / "a.csv").times) == 7


def test_the_vanilla_rnn_and_a_deeper_lstm_forecast_too(fitted: Forecaster) -> None:
    for cell, layers, name in (("rnn_tanh", 1, "vanilla RNN"), ("rnn_relu", 1, "vanilla RNN"), ("lstm", 2, "LSTM")):
        forecaster = Forecaster(3, cell=cell, num_layers=layers, members=1, hidden_size=4, options=Options(epochs=1))
        assert forecaster.fit(daily(100), holdout=9, quiet=True).evaluate().score(name).rmse > 0
        assert forecaster.model_.header.network.cell == cell


@pytest.mark.parametrize(
    ("steps", "horizon", "options", "window"),
    [(300, 7, {}, 64), (1000, 7, {}, 96), (300, 7, {"period": 40}, 80), (400, 70, {}, 70), (300, 7, {"window": 9}, 9)],
)
def test_the_window_fits_the_series_and_the_horizon(steps: int, horizon: int, options: dict[str, Any], window: int) -> None:
    forecaster = Forecaster(horizon, members=1, hidden_size=2, options=Options(epochs=1, least_batches=1), **options)
    assert forecaster.fit(daily(steps), holdout=21, quiet=True).model_.window == window


def test_a_constant_series_is_forecast_as_it_is() -> None:
    series = from_arrays(np.datetime64("2001-01-01") + np.arange(120), np.full(120, 7.0))
    forecaster = Forecaster(7, **FAST).fit(series, holdout=14, quiet=True)
    assert forecaster.model_.header.series.seasonal_error is None
    np.testing.assert_allclose(forecaster.predict().forecast.median, 7.0, atol=0.2)
    assert forecaster.evaluate().scores[-1].mase is None


@pytest.mark.parametrize("level", [1e-30, 1e-5, 1e9])
def test_a_constant_series_is_forecast_in_any_unit(level: float) -> None:
    series = from_arrays(np.datetime64("2001-01-01") + np.arange(60), np.full(60, level))
    forecaster = Forecaster(3, members=1, hidden_size=2, options=Options(epochs=1)).fit(series, quiet=True)
    np.testing.assert_allclose(forecaster.predict().forecast.median, level, rtol=1e-6)


@pytest.mark.parametrize("unit", [2.0**-300, 2.0**300])
def test_a_unit_changes_no_digit_of_a_model(unit: float) -> None:
    """Values of 1e-89 and of 1e91: the same weights, and forecasts in that unit."""
    a, b = (
        Forecaster(7, members=1, hidden_size=4, options=Options(epochs=2)).fit(
            replace(daily(200), values=k * daily(200).values), holdout=21, quiet=True
        )
        for k in (1.0, unit)
    )
    assert all((a.tensors_[name] == b.tensors_[name]).all() for name in a.tensors_)
    assert (b.predict().forecast.median == unit * a.predict().forecast.median).all()
    here, there = a.evaluate().scores, b.evaluate().scores
    assert [s.name for s in here] == [s.name for s in there]
    for x, y in zip(here, there, strict=True):
        assert y.mase == pytest.approx(x.mase, rel=0.02 if x.name == "ETS" else 1e-9)
        assert y.rmse == pytest.approx(unit * x.rmse, rel=0.02 if x.name == "ETS" else 1e-9)


def test_values_that_differ_by_too_little_are_refused() -> None:
    for unit in (1e-110, 1e-170, 1e-250, 1e-320):
        with pytest.raises(DataError, match=r"^Forecaster.fit: the values differ by too little to compute with\n"):
            Forecaster(7).fit(replace(daily(200), values=unit * daily(200).values), quiet=True)


def test_another_interval_is_refused_everywhere(fitted: Forecaster, tmp_path: Path) -> None:
    from openlstm.tasks.examples import windows

    weekly = from_arrays(np.datetime64("2001-01-01") + 7 * np.arange(300), daily().values, name="y", time_name="t")
    text = (
        "column 'y': has another interval than the model\n  got       1 week\n  expected  1 day\n"
        "  hint      give data of the model's interval, or fit a model to these"
    )
    for call in (fitted.predict, fitted.evaluate, lambda s: windows(fitted.model_.header, s)):
        fails(DataError, lambda call=call: call(weekly), text)
    rows = "".join(f"{t},1.5\n" for t in weekly.times)
    (tmp_path / "a.csv").write_text("t,y\n" + rows)
    with pytest.raises(DataError, match=r"a.csv, column 't': has a longer interval than 1 day"):
        fitted.predict(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("options", "name"),
    [({"period": 2_000_000, "window": 10}, "period"), ({"options": Options(learning_rate=1e-3, clip=float("inf"))}, "clip")],
)
def test_what_no_model_file_can_hold_is_told_before_the_training(
    options: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openlstm.tasks.forecast.train", lambda *_: pytest.fail("trained"))
    with pytest.raises(ArgumentError, match=rf"^Forecaster: {name} is not what a model file can hold\n  got       {name}="):
        Forecaster(7, **options).fit(daily(), quiet=True)


def test_a_model_that_is_too_large_as_a_whole_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(Header):
        @model_validator(mode="after")
        def _possible(self) -> Small:
            raise ValueError("more than 9 numbers")

    monkeypatch.setattr("openlstm.tasks.forecast.Header", Small)
    monkeypatch.setattr("openlstm.tasks.forecast.train", lambda *_: pytest.fail("trained"))
    fails(
        ArgumentError,
        lambda: Forecaster(7, **FAST).fit(daily(), quiet=True),
        "Forecaster: the model is not what a file can hold\n  got       Value error, more than 9 numbers\n"
        "  expected  a smaller model\n  hint      pass a smaller hidden_size, num_layers, members or horizon",
    )


def test_that_nothing_can_be_scored_is_told_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openlstm.tasks.forecast.train", lambda *_: pytest.fail("trained"))
    unknown = replace(daily(), values=np.where(np.arange(300) < 279, daily().values, np.nan))
    with pytest.raises(DataError, match="no held-out value is known\n  got       21 steps, all missing"):
        Forecaster(7, **FAST).fit(unknown, holdout=21, quiet=True)


def test_a_baseline_whose_forecast_is_not_finite_is_left_out(fitted: Forecaster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openlstm.tasks.baselines.ets", lambda past, horizon, period: np.full(horizon, np.nan))
    evaluation = fitted.evaluate()
    assert evaluation.left_out["ETS"] == "its forecast is not finite" and "ETS" not in evaluation.forecasts
    json.dumps(evaluation.to_dict(), allow_nan=False)


def test_every_held_out_step_is_scored_once(fitted: Forecaster) -> None:
    series = daily(300)
    for holdout_end in (300, 297):  # the last origin's horizon reaches beyond the data
        evaluation = evaluate({"LSTM": fitted.model_}, series.slice(0, holdout_end))
        assert evaluation.origins == (279, 286, 293)
        assert (evaluation.first, evaluation.last) == (279, holdout_end)
        forecast = evaluation.forecasts["LSTM"].median
        for origin in evaluation.origins:
            alone = fitted.model_.predict(series.values[:origin]).median[: holdout_end - origin]
            assert (forecast[origin - 279 : origin - 279 + 7] == alone).all()


def test_scores_are_those_worked_by_hand() -> None:
    truth = np.array([1.0, np.nan, 5.0, 2.0])
    forecast = Forecast(np.array([1.0, 9.0, 3.0, 4.0]), np.array([0.0, 0.0, 4.0, 2.0]), np.array([2.0, 9.0, 6.0, 3.0]))
    assert score("x", truth, forecast, 2.0)[1:] == pytest.approx((2 / 3, np.sqrt(8 / 3), 4 / 3, 1.0))
    nothing = np.full(4, np.nan)
    assert score("x", truth, Forecast(forecast.median, nothing, nothing), None)[1::3] == (None, None)
    assert seasonal_error(np.array([1.0, 2.0, 4.0, 7.0]), 2) == 4.0
    assert seasonal_error(np.ones(5), 2) is None and seasonal_error(np.ones(2), 2) is None


def verdict_of(own: float) -> str:
    scores = (
        Score("naive", 1.0, 1.0, 1.0, None),
        Score("ridge window", 0.5, 0.5, 0.5, None),
        Score("LSTM", own, own, own, 0.8),
    )
    return Evaluation(daily(100), (5,), scores, {}, {}, ("LSTM",)).verdict("LSTM")


def test_the_verdict_is_in_plain_words() -> None:
    assert verdict_of(0.4) == ("LSTM has a smaller error than every baseline: 20% smaller than ridge window, the best of them.")
    assert verdict_of(0.8) == "LSTM LOSES to ridge window: the error of ridge window is 38% smaller. Use ridge window here."
    assert verdict_of(1.0).startswith("LSTM LOSES to ridge window, naive: ")


def test_table_picture_and_json_hold_the_scores(fitted: Forecaster, tmp_path: Path) -> None:
    evaluation = fitted.evaluate()
    console = Console(width=100, record=True, file=StringIO())
    console.print(score_table(evaluation))
    text = console.export_text()
    assert "y: 2001-10-07 to 2001-10-27, 21 days held out, 3 origins" in text
    assert all(s.name in text and f"{s.rmse:.4g}" in text for s in evaluation.scores)
    found = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert found["held_out"] == {
        "first": "2001-10-07",
        "last": "2001-10-27",
        "steps": 21,
        "known": 21,
        "origins": ["2001-10-07", "2001-10-14", "2001-10-21"],
    }
    assert [s["name"] for s in found["scores"]][-1] == "LSTM"
    draw(evaluation, "LSTM", tmp_path / "f.png", others=("seasonal naive",))
    assert (tmp_path / "f.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [p.name for p in tmp_path.iterdir()] == ["f.png"]


def fails(kind: type[Exception], call, text: str) -> None:  # noqa: ANN001
    with pytest.raises(kind) as e:
        call()
    assert str(e.value) == text


def test_a_wrong_forecaster_is_refused_with_this_text(fitted: Forecaster) -> None:
    fails(
        ArgumentError,
        lambda: Forecaster(0),
        "Forecaster: horizon must be a whole number of at least 1\n  got       horizon=0\n"
        "  expected  1, 2, 3, ...\n  hint      pass a horizon above zero",
    )
    fails(
        ArgumentError,
        lambda: Forecaster(1, cell="gru"),
        "Forecaster: unknown cell 'gru'\n  got       'gru'\n  expected  lstm, rnn_tanh, rnn_relu\n  hint      use cell='lstm'",
    )
    fails(
        ArgumentError,
        lambda: Forecaster(1).predict(),
        "Forecaster: is not fitted yet\n  got       no model\n  expected  a call of fit first\n"
        "  hint      forecaster.fit(series), then this",
    )
    fails(
        ArgumentError,
        lambda: Forecaster(1).fit("a.csv"),
        "Forecaster: a file needs the names of two columns\n  got       time=None, target=None\n"
        "  expected  time and target\n  hint      fit('data.csv', time='date', target='co2')",
    )
    with pytest.raises(DataError, match="the series is too short for this horizon"):
        Forecaster(100).fit(daily(), quiet=True)
    seen = daily().slice(0, 279)
    fails(
        DataError,
        lambda: fitted.evaluate(seen),
        "column 'y': there is nothing to evaluate on: the model has seen every row\n"
        "  got       rows up to 2001-10-06; the model has seen those up to 2001-10-06\n"
        "  expected  rows after that\n"
        "  hint      fit with --holdout, or evaluate on a table that goes further",
    )
    fails(
        DataError,
        lambda: fitted.predict(seen.slice(270, 279)),
        "column 'y': the series is too short for this model\n  got       9 days up to 2001-10-06\n"
        "  expected  at least 64 before the forecast, the window of the model\n"
        "  hint      give a table that goes further back",
    )
    unknown = replace(daily(), values=np.where(np.arange(300) < 279, daily().values, np.nan))
    fails(
        DataError,
        lambda: fitted.evaluate(unknown),
        "column 'y': no held-out value is known\n  got       21 steps, all missing\n"
        "  expected  at least one known value to score with\n"
        "  hint      give a table whose last rows hold measurements",
    )
    gap = replace(daily(), values=np.where(np.arange(300) < 250, daily().values, np.nan))
    fails(
        DataError,
        lambda: Forecaster(7).fit(gap, quiet=True),
        "Forecaster.fit: no validation window holds a known value and a known target\n"
        "  got       missing values only\n  expected  measurements in every part of the series\n"
        "  hint      give a table with fewer gaps",
    )


@pytest.mark.slow
def test_co2_with_honest_training() -> None:
    """Weekly CO2, last 104 weeks held out, two origins of 52 weeks: what the demo shows, and what h = 0 leaves of it.

    One network and half the epochs do; `tests/test_demo.py::test_the_whole_demo_reaches_its_numbers` trains all of them.
    """
    series = read_series(str(files("statsmodels.datasets.co2") / "co2.csv"), "date", "co2")
    forecaster = Forecaster(52, members=1, options=Options(epochs=20)).fit(series, holdout=104, quiet=True)
    evaluation = evaluate({"LSTM": forecaster.model_, "h = 0": zeroed(forecaster.model_)}, series)
    assert len(evaluation.origins) == 2 and evaluation.last - evaluation.first == 104
    mase = {s.name: s.mase or 0.0 for s in evaluation.scores}
    assert mase["LSTM"] <= 0.30
    assert mase["LSTM"] < min(mase["seasonal naive"], mase["seasonal naive + drift"], mase["ETS"])
    assert mase["h = 0"] > 4 * mase["LSTM"]
    assert mase["naive"] == pytest.approx(1.302, abs=1e-3)  # figures of the table in the documentation
    assert mase["seasonal naive"] == pytest.approx(0.983, abs=1e-3)
    assert mase["seasonal naive + drift"] == pytest.approx(0.333, abs=1e-3)
