"""The forecaster: learns, keeps to the order of time, masks what is missing, and serves what won on validation."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import openlstm
from openlstm import Forecaster
from openlstm.data import Covariate, Panel
from openlstm.errors import ArgumentError, DataError
from openlstm.model_file import Header, Step
from openlstm.runtime.stream import CarriedStream
from openlstm.tasks.examples import example_windows
from openlstm.tasks.xray import inputs

DAY = Step(unit="second", count=86400)
SMALL: dict[str, Any] = {"members": 1, "hidden_size": 4, "steps": 20, "batch_size": 16}


def daily(n: int = 300, seed: int = 0, series: int = 1) -> Panel:
    """A week's shape, a trend and some noise, with three values missing."""
    t, rng = np.arange(n), np.random.default_rng(seed)
    made = []
    for s in range(series):
        shape = 5 * np.array([0.0, 1, 3, 2, 1, -2, -3])[(t + s) % 7]
        values = 50 + 10 * s + 0.05 * t + shape + 0.5 * rng.standard_normal(n)
        values[[20, 21, n - 15]] = np.nan
        made.append(values)
    return Panel.of(made, "2001-01-01", DAY, target="y", time="t")


def priced(n: int = 200, series: int = 4, seed: int = 0) -> Panel:
    """Sales that follow a price known ahead, the weather of the day before, and a region; at the end the price alone."""
    rng = np.random.default_rng(seed)
    price = rng.choice([1.0, 2.0], n * series)
    weather = rng.standard_normal(n * series)
    kind = rng.integers(0, 2, n * series).astype(float)
    region = np.arange(series) % 2
    before = np.roll(weather, 1)
    values = 10 + 4 * price + 2 * before + 3 * kind + 5 * np.repeat(region, n) + 0.1 * rng.standard_normal(n * series)
    made = Panel.of(list(values.reshape(series, n)), "2001-01-01", DAY, target="y", time="t")
    covariates = (
        Covariate("price", "future", price),
        Covariate("kind", "future", kind, ("plain", "special")),
        Covariate("weather", "past", weather),
        Covariate("region", "static", region.astype(float), ("north", "south")),
    )
    return replace(made, covariates=covariates).at(np.full(series, n - 14))


@pytest.fixture(scope="module")
def fitted() -> Forecaster:
    return Forecaster(7, members=1, hidden_size=32, steps=400).fit(daily(), holdout=21, quiet=True)


def fails(kind: type[Exception], call: Any, text: str) -> None:
    with pytest.raises(kind) as e:
        call()
    assert str(e.value) == text


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


def test_it_beats_the_naive_forecasts(fitted: Forecaster) -> None:
    evaluation = fitted.evaluate()
    mase = {s.name: s.mase or 0.0 for s in evaluation.scores}
    assert mase["LSTM"] < 0.9 * min(mase["naive"], mase["seasonal naive"])
    assert evaluation.score("LSTM").coverage[80] is not None


def test_what_is_held_out_changes_nothing() -> None:
    panel = daily(200, series=2)
    other = replace(panel, values=np.where(np.arange(400) % 200 < 179, panel.values, -1e3))
    a, b = (Forecaster(7, **SMALL).fit(p, holdout=21, quiet=True) for p in (panel, other))
    assert a.model_.header == b.model_.header
    assert same(a.tensors_, b.tensors_)


@pytest.mark.parametrize("name", ["y", "price", "weather"])
def test_a_future_value_changes_nothing_before_it(name: str) -> None:
    """Readers aside (tests/data), everything: scaling, features, choice of weights, baselines, calibration."""
    panel = priced()
    known = np.arange(len(panel.values)) % 200 < 186
    changed = lambda v: np.where(known, v, v + 7.0 if name == "price" else np.nan)  # noqa: E731
    columns = tuple(replace(c, values=changed(c.values)) if c.name == name else c for c in panel.covariates)
    other = replace(panel, covariates=columns) if name != "y" else replace(panel, values=np.where(known, panel.values, 1e6))
    a, b = (Forecaster(7, **SMALL).fit(p.at(np.full(4, 186)), quiet=True) for p in (panel, other))
    assert same(a.tensors_, b.tensors_)
    assert a.model_.header == b.model_.header
    earlier = [model.predict(panel.at(np.full(4, 150))).values for model in (a.model_, b.model_)]
    assert (earlier[0] == earlier[1]).all()


def test_columns_known_ahead_are_used(tmp_path: Path) -> None:
    panel = priced(300)
    with_them = Forecaster(7, members=1, hidden_size=16, steps=300, batch_size=64).fit(panel, quiet=True)
    without = Forecaster(7, members=1, hidden_size=16, steps=300, batch_size=64).fit(replace(panel, covariates=()), quiet=True)
    errors = [f.header_.forecasters[0].error or math.inf for f in (with_them, without)]
    assert errors[0] < 0.7 * errors[1]
    with_them.save(tmp_path / "m.safetensors")
    again = openlstm.load(tmp_path / "m.safetensors").predict(panel)
    assert (again.values == with_them.predict().values).all()
    assert again.median.shape == (4, 7)


def test_a_table_without_rows_of_the_future_can_be_trained_on_and_looked_at() -> None:
    panel = priced()
    ends = np.arange(len(panel.values)) % 200 < 186  # of 200 steps of each series the last 14 are the future
    cut = tuple(c if c.role == "static" else replace(c, values=c.values[ends]) for c in panel.covariates)
    panel = replace(panel, offsets=np.arange(5) * 186, values=panel.values[ends], covariates=cut)
    model = Forecaster(7, **SMALL, baselines=False).fit(panel, quiet=True).model_
    with pytest.raises(DataError, match="'price' is not known far enough ahead"):
        model.predict(panel)
    windows = example_windows(model.header, panel)
    assert windows[0].shape[-1] == len(inputs(model.header)) and {"price", "weather"} <= set(inputs(model.header))


def test_use_takes_the_names_of_the_table(fitted: Forecaster) -> None:
    said = fitted.predict(use="linear window")
    assert said.source == "linear window"
    np.testing.assert_array_equal(said.values, fitted.predict(use="linear_window").values)


def test_the_scale_comes_from_the_training_part_only() -> None:
    panel = priced()
    cut = 186 - Forecaster(7)._recipe(panel).validation[0]
    late = np.arange(len(panel.values)) % 200 >= cut
    columns = tuple(
        replace(c, values=np.where(late, 9 * c.values, c.values)) if c.name in ("price", "weather") else c
        for c in panel.covariates
    )
    a, b = (Forecaster(7, **SMALL).fit(p, quiet=True).header_ for p in (panel, replace(panel, covariates=columns)))
    assert a.series == b.series


def test_the_same_seed_gives_the_same_model_and_another_seed_another() -> None:
    a, b, c = (Forecaster(7, **{**SMALL, "members": 2}, seed=s).fit(daily(200), quiet=True).tensors_ for s in (3, 3, 4))
    assert same(a, b)
    assert (a["member.1.head.weight"] == c["member.0.head.weight"]).all()  # member k takes seed + k
    assert not (a["member.0.head.weight"] == c["member.0.head.weight"]).all()


def test_a_missing_target_is_masked_in_the_loss() -> None:
    """What stands behind the mask cannot matter: it is NaN, and every weight stays finite."""
    panel = daily(200)
    values = panel.values.copy()
    values[30::11] = np.nan
    forecaster = Forecaster(7, **SMALL).fit(replace(panel, values=values), holdout=14, quiet=True)
    assert all(np.isfinite(t).all() for t in forecaster.tensors_.values())


def test_save_and_load_give_the_same_forecast_of_everyone(fitted: Forecaster, tmp_path: Path) -> None:
    fitted.save(tmp_path / "m.safetensors")
    model = openlstm.load(tmp_path / "m.safetensors")
    for use in model.names:
        here, there = fitted.predict(use=use), model.predict(daily(), use=use)
        assert (here.values == there.values).all() and np.isfinite(here.values).all()
        assert (np.diff(here.values, axis=-1) >= 0).all()
    assert [str(t)[:10] for t in there.times[0, :2]] == ["2001-10-28", "2001-10-29"]
    assert model.header.training.last == "2001-10-06T00:00:00.000000"
    assert model.seen(daily()).tolist() == [279]


def test_best_is_what_won_on_validation(fitted: Forecaster) -> None:
    model = fitted.model_
    found = model.candidates(daily())
    by_name = {one.name: one for one in model.header.forecasters}
    singles = {name: one.error or 0.0 for name, one in by_name.items() if name != "best"}
    assert max(by_name[n].weight for n in singles) == by_name[min(singles, key=lambda n: singles[n])].weight
    assert (by_name["best"].error or 0.0) <= 1.1 * min(singles.values())
    assert sum(one.weight for one in model.header.forecasters) == pytest.approx(1)
    assert found["best"].source == model.predict(daily(), use="best").source
    assert (found["best"].values == model.predict(daily(), use="best").values).all()


def test_a_csv_file_can_be_fitted(tmp_path: Path) -> None:
    panel = daily(100)
    rows = "".join(f"{t},{v}\n" for t, v in zip(panel.times(0), panel.values, strict=True)).replace("nan", "")
    (tmp_path / "a.csv").write_text("t,y\n" + rows)
    forecaster = Forecaster(7, time="t", target="y", **SMALL).fit(tmp_path / "a.csv", quiet=True)
    assert forecaster.predict(tmp_path / "a.csv").median.shape == (1, 7)


def test_frames_go_in_and_come_out_with_their_names() -> None:
    pandas = pytest.importorskip("pandas")
    panel = daily(120, series=2)
    times = np.concatenate([panel.times(0), panel.times(1)])
    frame = pandas.DataFrame({"unique_id": np.repeat(["a", "b"], 120), "ds": times, "y": panel.values})
    forecaster = Forecaster(7, **SMALL).fit(frame, quiet=True)
    out = forecaster.predict(frame).frame(frame)
    assert isinstance(out, pandas.DataFrame)
    assert list(out.columns) == ["unique_id", "ds", "forecast", "lower_80", "upper_80"]
    assert out["unique_id"].tolist() == ["a"] * 7 + ["b"] * 7
    assert str(out["ds"].iloc[0])[:10] == "2001-05-01"


def test_it_follows_the_conventions_of_scikit_learn() -> None:
    forecaster = Forecaster(7, hidden_size=8, seed=2)
    assert Forecaster(**forecaster.get_params()).get_params() == forecaster.get_params()
    assert forecaster.set_params(seed=5).seed == 5
    assert repr(forecaster) == "Forecaster(horizon=7, hidden_size=8, seed=5)"
    with pytest.raises(ArgumentError, match=r"^Forecaster.set_params: has no parameter 'sed'"):
        forecaster.set_params(sed=1)
    before = forecaster.get_params()
    forecaster.set_params(**{**SMALL, "horizon": 3}).fit(daily(60), quiet=True)
    assert forecaster.get_params() == {**before, **SMALL, "horizon": 3}  # fit changes none of them
    sklearn = pytest.importorskip("sklearn.base")
    assert sklearn.clone(forecaster).get_params() == forecaster.get_params()
    assert not hasattr(sklearn.clone(forecaster), "model_")


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh", "rnn_relu", "peephole", "cifg"])
@pytest.mark.parametrize("layers", [1, 2])
def test_any_cell_of_the_family_forecasts(cell: str, layers: int) -> None:
    forecaster = Forecaster(3, cell=cell, num_layers=layers, **SMALL).fit(daily(100), holdout=9, quiet=True)
    assert forecaster.model_.header.network.cell == cell
    assert forecaster.evaluate().score(forecaster.model_.name).mase is not None


@pytest.mark.parametrize("level", [1e-30, 1e-5, 7.0, 1e9])
def test_a_constant_series_is_forecast_in_any_unit(level: float) -> None:
    panel = Panel.of([np.full(60, level)], "2001-01-01", DAY)
    forecaster = Forecaster(3, **SMALL).fit(panel, holdout=6, quiet=True)
    np.testing.assert_allclose(forecaster.predict().median, level, rtol=0.01)
    assert forecaster.evaluate().score("LSTM").mase is None


@pytest.mark.parametrize("unit", [2.0**-200, 2.0**200])
def test_a_unit_changes_no_digit_of_a_model(unit: float) -> None:
    """Values of 1e-60 and of 1e60: the same weights, and forecasts in that unit."""
    a, b = (
        Forecaster(7, **SMALL).fit(replace(daily(200), values=k * daily(200).values), holdout=21, quiet=True)
        for k in (1.0, unit)
    )
    members = lambda f: {n: t for n, t in f.tensors_.items() if n.startswith("member")}  # noqa: E731
    assert same(members(a), members(b))
    np.testing.assert_allclose(b.predict().values, unit * a.predict().values, rtol=1e-12)
    for x, y in zip(a.evaluate().scores, b.evaluate().scores, strict=True):
        assert (x.name, y.mase) == (y.name, pytest.approx(x.mase, rel=1e-6))


def test_values_that_differ_by_too_little_are_refused() -> None:
    for unit in (1e-110, 1e-170, 1e-250):
        with pytest.raises(DataError, match=r"^fit: the values differ by too little to compute with\n"):
            Forecaster(7).fit(replace(daily(200), values=unit * daily(200).values), quiet=True)


def test_series_of_very_different_lengths_are_trained_together() -> None:
    rng = np.random.default_rng(0)
    panel = Panel.of([rng.random(n) for n in (400, 30, 9, 4)], "2001-01-01", DAY)
    forecaster = Forecaster(3, **SMALL).fit(panel, quiet=True)
    assert np.isfinite(forecaster.predict().values).all()
    assert forecaster.recipe_.validation[0] > 0 and forecaster.recipe_.validation[3] == 0


def test_another_interval_is_refused(fitted: Forecaster) -> None:
    weekly = Panel.of([daily().values], "2001-01-01", Step(unit="second", count=7 * 86400), target="y", time="t")
    for call in (fitted.predict, fitted.evaluate):
        fails(
            DataError,
            lambda call=call: call(weekly),
            "column 'y': has another interval than the model\n  got       1 week\n  expected  1 day\n"
            "  hint      give data of the model's interval, or fit a model to these",
        )


def test_a_column_of_the_model_that_is_not_given_is_named() -> None:
    panel = priced()
    model = Forecaster(7, **SMALL).fit(panel, quiet=True).model_
    fails(
        DataError,
        lambda: model.predict(replace(panel, covariates=panel.covariates[1:])),
        "predict: the model reads a column 'price', which was not given\n  got       columns kind, weather, region\n"
        "  expected  'price' as one of the future columns\n"
        "  hint      give the table the model was trained on, with all its columns",
    )
    with pytest.raises(DataError, match=r"^series series=0: 'price' is not known far enough ahead\n") as e:
        model.predict(panel.at(np.full(4, 195)))
    assert "append rows with price for the steps to forecast" in str(e.value)


@pytest.mark.parametrize(
    ("options", "name"),
    [({"period": 2_000_000, "window": 10}, "period"), ({"hidden_size": 2**17}, "hidden_size")],
)
def test_what_no_model_file_can_hold_is_told_before_the_training(
    options: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openlstm.tasks.trainings.train", lambda *_: pytest.fail("trained"))
    with pytest.raises(ArgumentError, match=rf"^Forecaster: {name} is not what a model file can hold\n  got       {name}="):
        Forecaster(7, **options).fit(daily(), quiet=True)


def test_a_model_that_is_too_large_as_a_whole_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    class Limited(Header, frozen=True):
        def __post_init__(self) -> None:
            raise ValueError("more than 9 numbers")

    monkeypatch.setattr("openlstm.tasks.outline.Header", Limited)
    monkeypatch.setattr("openlstm.tasks.trainings.train", lambda *_: pytest.fail("trained"))
    fails(
        ArgumentError,
        lambda: Forecaster(7, **SMALL).fit(daily(), quiet=True),
        "Forecaster: the model is not what a file can hold\n  got       more than 9 numbers\n"
        "  expected  a smaller model\n  hint      pass a smaller hidden_size, num_layers, members or horizon",
    )


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: Forecaster(0).fit(daily()),
            "Forecaster: horizon must be a whole number of at least 1\n  got       horizon=0\n"
            "  expected  1, 2, 3, ...\n  hint      pass a horizon above zero",
        ),
        (
            lambda: Forecaster(1).predict(),
            "Forecaster: is not fitted yet\n  got       no model\n  expected  a call of fit first\n"
            "  hint      forecaster.fit(data), then this",
        ),
        (
            lambda: Forecaster(1, size="huge").fit(daily()),
            "Forecaster: size is chosen from the data, or part by part\n  got       size='huge'\n  expected  'auto'\n"
            "  hint      size='auto', or hidden_size, window, steps, ...",
        ),
        (
            lambda: Forecaster(3).fit(daily(100), holdout=100, quiet=True),
            "fit: every step of every series is held out\n  got       100 steps, holdout=100\n  expected  steps to train on\n"
            "  hint      give longer series, or a smaller --holdout or --horizon",
        ),
        (
            lambda: Forecaster(40).fit(daily(30), quiet=True),
            "fit: no window holds a known value and a known target\n  got       30 known steps at most\n"
            "  expected  a series of at least 49 known steps behind which 0 remain to validate\n"
            "  hint      give longer series, or a smaller horizon",
        ),
    ],
)
def test_a_wrong_forecaster_is_refused_with_this_text(call: Any, text: str) -> None:
    fails(ArgumentError if text.startswith("Forecaster") else DataError, call, text)


def test_an_unknown_cell_names_those_there_are() -> None:
    with pytest.raises(ArgumentError, match=r"^Forecaster: unknown cell 'lstn'\n  got       'lstn'\n  expected  lstm, "):
        Forecaster(1, cell="lstn").fit(daily())


def test_everything_an_evaluation_says_is_json(fitted: Forecaster) -> None:
    json.dumps(fitted.evaluate().to_dict(), allow_nan=False)


def test_a_target_that_was_never_below_zero_is_not_forecast_below_it() -> None:
    rng = np.random.default_rng(0)
    sold = np.maximum(rng.normal(1, 2, 200), 0)
    for shift, least in ((0.0, 0.0), (-1.0, -np.inf)):
        forecaster = Forecaster(7, **SMALL).fit(Panel.of([sold + shift], "2001-01-01", DAY), quiet=True)
        for use in forecaster.model_.names:
            lowest = forecaster.predict(use=use).values.min()
            assert lowest >= least
        assert forecaster.header_.series.positive == (shift == 0)
    assert lowest < -1  # where it was, it may be


def test_a_picture_is_drawn_and_written(fitted: Forecaster, tmp_path: Path) -> None:
    pytest.importorskip("altair")
    drawn = fitted.plot(path=tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text().startswith("<svg") and drawn.title


@pytest.mark.parametrize("n", range(34, 50, 3))
def test_a_short_series_is_trained_saved_and_loaded(n: int, tmp_path: Path) -> None:
    """Some baselines fit all of it, and not what is left without the validation part."""
    forecaster = Forecaster(7, **SMALL).fit(Panel.of([np.random.default_rng(n).random(n)], "2001-01-01", DAY), quiet=True)
    forecaster.save(tmp_path / "m.safetensors")
    assert openlstm.load(tmp_path / "m.safetensors").predict(forecaster.panel_).median.shape == (1, 7)
    gone = {"linear_window"} - set(forecaster.model_.names)
    assert gone <= forecaster.left_out_.keys()


def test_a_series_that_falls_below_zero_is_forecast_below_it() -> None:
    """At the end of the training, or another one at predict."""
    falling = Panel.of([np.linspace(40, -10, 200)], "2001-01-01", DAY)
    assert Forecaster(7, **SMALL).fit(falling, quiet=True).predict(use="naive").median[0, 0] < -9
    above = Forecaster(7, **SMALL).fit(Panel.of([np.linspace(10, 20, 100)], "2001-01-01", DAY), quiet=True)
    assert above.predict(Panel.of([np.linspace(-20, -10, 100)], "2001-01-01", DAY), use="naive").median[0, 0] == -10


def test_a_series_of_which_nothing_is_known_at_an_origin_is_left_out_there() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(120), rng.random(120)
    b[60:106] = np.nan
    c = np.concatenate([[np.nan], rng.random(8)])
    panel = Panel.of([a, b, c], "2001-01-01", DAY)
    forecaster = Forecaster(7, **SMALL).fit(panel, holdout=14, quiet=True)
    assert forecaster.model_.seen(panel).tolist() == [106, 106, 0]
    histories = forecaster.evaluate().histories
    assert (histories[:, 0] >= 0).all() and histories[0, 1] == -1


def test_a_column_that_is_missing_only_at_the_end_is_marked() -> None:
    rng = np.random.default_rng(0)
    price = rng.random(300)
    price[290] = np.nan
    panel = replace(Panel.of([rng.random(300)], "2001-01-01", DAY), covariates=(Covariate("price", "future", price),))
    forecaster = Forecaster(7, **SMALL).fit(panel.at(np.array([293])), quiet=True)
    assert forecaster.header_.series.features[0].marked


def test_rows_behind_the_past_are_no_origins() -> None:
    panel = Panel.of([np.random.default_rng(0).random(127)], "2001-01-01", DAY)
    panel = replace(panel, covariates=(Covariate("price", "future", np.ones(127)),)).at(np.array([120]))
    forecaster = Forecaster(7, **SMALL).fit(panel, holdout=14, quiet=True)
    assert forecaster.evaluate().histories[:, 0].tolist() == [106, 113]


def test_a_stream_of_a_recursive_model_keeps_to_the_bounds_of_predict() -> None:
    sold = np.maximum(np.random.default_rng(0).normal(0.3, 1, 150), 0)
    forecaster = Forecaster(7, decoder="recursive", paths=50, **SMALL).fit(Panel.of([sold], "2001-01-01", DAY), quiet=True)
    stream = forecaster.model_.stream(sold[:-1], start="2001-01-01")
    assert isinstance(stream, CarriedStream)
    found = stream.push(sold[-1], 7)
    assert found is not None and found.values.min() >= 0


def test_columns_may_be_named_by_one_text() -> None:
    polars = pytest.importorskip("polars")
    t = np.arange(60)
    frame = polars.DataFrame({"shop": ["a"] * 60, "ds": np.datetime64("2001-01-01", "D") + t, "y": np.sin(t)})
    assert Forecaster(3, series="shop", **SMALL).fit(frame, quiet=True).panel_.ids == ("shop",)


def test_rows_of_different_lengths_are_told_how_to_be_one_array(fitted: Forecaster) -> None:
    with pytest.raises(openlstm.errors.ShapeError, match=r"^Model.predict: the values are no array of numbers\n"):
        fitted.model_.predict([[1.0, 2.0, 3.0], [1.0, 2.0]], start="2001-01-01")
