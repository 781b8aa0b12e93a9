"""The torch-free model: what it gives does not depend on company, on cuts or on torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import daily

import openlstm
from openlstm import cells, model_file
from openlstm.engine import native
from openlstm.errors import ArgumentError, DataError, ModelFileError, ShapeError
from openlstm.model_file import Decoder, Forecaster, Header, Lag, Scale, Series, Step, Training
from openlstm.model_file import Network as NetworkHeader
from openlstm.runtime import Model, Network, load
from openlstm.runtime.model import build
from openlstm.runtime.prediction import Prediction
from openlstm.runtime.window import carry, measure, rows, windows

BACKENDS = ["reference", pytest.param("cpu", marks=pytest.mark.skipif(not native.available(), reason="no compiled extension"))]


KINDS = ["linear", "direct"]
"""The decoder of older files, whose window lies at its last value, and the newer one, at its last season, with lags."""

DAY = Step(unit="second", count=86400)


def make(cell: str = "lstm", layers: int = 2, members: int = 2, kind: str = "linear", **parts: Any) -> Model:
    """A model of the target alone with drawn weights, its baselines beside it."""
    old = kind == "linear"
    header = Header(
        library="0.1.0",
        task="forecast",
        series=Series(
            time="t",
            target="y",
            step=DAY,
            period=4,
            window=10,
            horizon=3,
            scale=Scale(anchor="last", share=0.0, floor=0.2) if old else Scale(floor=0.02),
            lags=() if old else (Lag(season=4), Lag(season=4, back=1)),
        ),
        network=NetworkHeader(cell=cell, hidden_size=5, num_layers=layers, members=members),
        decoder=Decoder(kind="linear" if old else "direct", quantiles=(0.1, 0.5, 0.9), width=1 if old else 4),
        **{
            "forecasters": (
                Forecaster(name="network", weight=0.75),
                Forecaster(name="drift", weight=0.25, enough=(True, True, True)),
                Forecaster(name="best", enough=(True, True, True)),
            ),
            **parts,
        },
        training=Training(
            first="2000-01-01",
            last="2000-02-01",
            seed=0,
            epochs=(1,),
            validation_loss=(1.0,),
            learning_rate=0.1,
            batch_size=1,
            weight_decay=0.0,
            clip=1.0,
        ),
    )
    rng = np.random.default_rng(0)
    shapes = {name: shape for name, (_, shape) in header.tensors().items()}
    return build(header, {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()})


def changed(model: Model, change: Callable[[str, np.ndarray], np.ndarray], **scale: Any) -> Model:
    """The model with other tensors, and another scale."""
    trained = model.header.series
    series = trained.changed(scale=trained.scale.changed(**scale))
    header = model.header.changed(series=series)
    return build(header, {name: change(name, a.copy()) for name, a in model.tensors.items()})


def level_free(model: Model) -> Model:
    """The model blind to what the level is: neither the least spread nor the context of the window depends on it."""

    def blind(name: str, a: np.ndarray) -> np.ndarray:
        if name.endswith("head.weight"):
            a[:, 5:] = 0
        return a

    return changed(model, blind, share=0.0)


def series(n: int = 30, seed: int = 1) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(n).cumsum() + 100
    values[4::7] = np.nan
    return values


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cell", [*cells.ALL, cells.Peephole(clip=0.3), cells.LSTM(cells_per_gate=2)], ids=repr)
def test_a_network_gives_the_bits_of_the_layer(cell: cells.Cell, backend: str) -> None:
    torch.manual_seed(0)
    kind = openlstm.LSTM if cell.has_cell else openlstm.RNN
    layer = kind(3, 6, 2, cell=cell, backend="cpu" if backend == "cpu" else "reference")
    named = {name: p.detach().numpy() for name, p in layer.state_dict().items()}
    net = Network.collect(cell, named, 2)
    x = torch.randn(20, 4, 3)
    with torch.no_grad():
        y, state = layer(x)
    out, ends = net.run(x.numpy(), backend=backend)
    states = state if cell.has_cell else (state, None)
    if backend == "cpu":
        assert (out == y.numpy()).all()
        for k, end in enumerate(ends):
            assert (end.h == states[0][k].numpy()).all()
            assert states[1] is None or (end.c == states[1][k].numpy()).all()
    np.testing.assert_allclose(out, y.numpy(), atol=2e-5 if cell.norms else 2e-6)  # they round the reference in their own ways


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_cut_of_the_sequence_gives_the_same_bits(backend: str) -> None:
    net = make(layers=2).networks[0]
    x = np.random.default_rng(0).standard_normal((12, 1, 2)).astype(np.float32)
    whole, end = net.run(x, backend=backend)
    for cuts in ([6], [1, 2, 11], list(range(1, 12))):
        states, parts = None, []
        for part in np.split(x, cuts):
            y, states = net.run(part, states, backend=backend)
            parts.append(y)
        assert states is not None
        assert (np.concatenate(parts) == whole).all()
        assert all((a.h == b.h).all() and (a.c == b.c).all() for a, b in zip(states, end, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_the_other_rows(kind: str) -> None:
    model = make(kind=kind)
    together = model.predict(np.stack([series(seed=k) for k in range(33)])).values
    for k in (0, 7, 32):
        (alone,) = model.predict(series(seed=k)).values
        assert (alone == together[k]).all() or not native.available()
        np.testing.assert_allclose(alone, together[k], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_how_many_go_through_the_network_at_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, many = make(kind=kind), np.stack([series(seed=k) for k in range(7)])
    whole = model.predict(many).values
    monkeypatch.setattr("openlstm.runtime.model.BLOCK", 3)
    np.testing.assert_allclose(model.predict(many).values, whole, rtol=0 if native.available() else 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_window_and_its_lags_are_read_and_the_level_is_carried_through(kind: str) -> None:
    model = make(kind=kind)
    values = series()
    seen = model.header.series.reach
    assert seen == {"linear": 10, "direct": 18}[kind]
    whole = model.predict(values).values
    assert (model.predict(values[-seen:]).values == whole).all()
    np.testing.assert_allclose(model.predict(3 * values).values, 3 * whole, rtol=1e-5)
    blind = level_free(model)
    np.testing.assert_allclose(blind.predict(values + 1000.0).values, blind.predict(values).values + 1000.0, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_band_holds_the_median(kind: str) -> None:
    found = make(kind=kind).predict(series())
    ((share, (lower, upper)),) = found.bands.items()
    assert share == 80 and found.median.shape == lower.shape == upper.shape == (1, 3)
    assert (lower <= found.median).all() and (found.median <= upper).all()
    assert make(kind=kind).predict(np.stack([series()] * 2)).median.shape == (2, 3)


def test_members_are_averaged() -> None:
    model = make(members=2)
    alone = []
    for k in (0, 1):
        own = {n.replace(f"member.{k}.", "member.0."): a for n, a in model.tensors.items() if f"member.{1 - k}." not in n}
        network = model.header.network.changed(members=1)
        alone.append(build(model.header.changed(network=network), own).predict(series()).values)
    assert not np.allclose(alone[0], alone[1])

    def constant(name: str, a: np.ndarray) -> np.ndarray:
        """A decoder that gives the number of its member, 0 or 1, for every quantile."""
        return a * 0 + (name.endswith("bias") * int(name[7])) if ".head." in name else a

    anchor, spread = carry(series())[-1], carry(series()[-10:]).std()
    np.testing.assert_allclose(changed(model, constant).predict(series()).values, anchor + spread * 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("anchor", "lies", "spread", "begins"), [("last", 5.0, 1.5, 2.0), ("season", 4.0, 2.0**0.5, 4.0)], ids=["last", "season"]
)
def test_a_missing_value_is_marked_and_the_last_known_one_carried(
    anchor: Any, lies: float, spread: float, begins: float
) -> None:
    """Before the first known value stands that one in older files, the anchor in newer ones."""
    scale = Scale(anchor=anchor, share=0.0, floor=0.2)
    trained = make().header.series.changed(scale=scale, window=6, period=6)
    table = rows(trained, daily([np.nan, 2.0, np.nan, 5.0, 5.0, np.nan]))
    found = windows(trained, table, table.begins + 6)
    assert found.x.dtype == np.float32
    assert (found.anchor.tolist(), found.spread.tolist()) == ([lies], [pytest.approx(spread)])
    np.testing.assert_allclose(found.x[0, :, 0] * spread + lies, [begins, 2.0, 2.0, 5.0, 5.0, 5.0], rtol=1e-6)
    assert found.x[0, :, 1].tolist() == [1.0, 0.0, 1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(("scale", "spread"), [({"anchor": "last", "floor": 0.2}, 0.2), ({"share": 0.1, "floor": 1e-3}, 0.1)])
def test_a_window_that_hardly_moves_is_not_blown_up(scale: dict[str, Any], spread: float) -> None:
    flat = np.array([[1.0, 1.0, 1.0], [1.0, 1.001, 1.0]])
    assert measure(flat, Scale(**scale), 3)[1] == pytest.approx(spread, rel=1e-3)
    trained = make().header.series.changed(scale=Scale(**scale), window=3)
    table = rows(trained, daily(*flat))
    assert np.abs(windows(trained, table, table.begins + 3).x).max() < 0.011


def same(a: Prediction | None, b: Prediction | None) -> bool:
    assert a is not None and b is not None
    return bool((a.values == b.values).all())


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_gives_the_bits_of_predict(kind: str) -> None:
    model, values = make(kind=kind), series()
    stream = model.stream()
    for k, value in enumerate(values):
        forecast = stream.push(value)
        if k < 9:
            assert forecast is None
        else:
            assert same(forecast, model.predict(values[: k + 1]))
    again = model.stream(stream.values)
    assert len(stream.values) == model.header.series.reach
    assert same(again.push(1.0), stream.push(1.0))


def test_a_refused_value_leaves_the_stream_as_it_was() -> None:
    stream = make().stream(series())
    before = stream.values
    with pytest.raises(DataError) as e:
        stream.push(float("inf"))
    assert str(e.value) == (
        "Stream.push: the value is infinite or too large\n  got       inf\n"
        "  expected  numbers of at most 1e+100 in size, NaN where missing\n"
        "  hint      replace it, mark it as NaN, or take another unit"
    )
    np.testing.assert_array_equal(stream.values, before)


TOO_LARGE = (
    "Model.predict: a number in values is infinite or too large\n  got       -1.1e+100\n"
    "  expected  numbers of at most 1e+100 in size, NaN where missing\n"
    "  hint      replace it, mark it as NaN, or take another unit"
)
UNKNOWN = (
    "Model.predict: no known value among the last 10\n  got       series y\n  expected  at least one known value\n"
    "  hint      pass a past that holds a measurement in the window of the model"
)
SHORT = (
    "Model.predict: 9 values are too few\n  got       series y\n"
    "  expected  at least 10, the window of the model\n"
    "  hint      pass more of the past; mark what is unknown as NaN"
)
AXES = (
    "Model.predict: values has the wrong number of axes\n  got       values: float64[1, 1, 10]\n"
    "  expected  [T] or [S, T]\n  hint      pass one series, or one series per row"
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("use", ["network", "drift", "best"])
def test_a_wrong_call_of_predict_is_refused_with_this_text(kind: str, use: str) -> None:
    model = make(kind=kind)
    cases = [
        (np.zeros((1, 1, 10)), ShapeError, AXES),
        (np.full(10, -1.1e100), DataError, TOO_LARGE),
        (np.full(10, np.nan), DataError, UNKNOWN),
        *([(np.zeros(9), DataError, SHORT)] if kind == "linear" else []),
    ]
    for values, error, text in cases:
        with pytest.raises(error) as e:
            model.predict(values, use=use)
        assert str(e.value) == text
    if kind == "direct":  # it was trained on windows that begin before their series
        assert np.isfinite(model.predict(np.arange(3.0), use=use).values).all()


def test_a_series_of_another_interval_is_refused() -> None:
    hourly = replace(daily(series()), step=Step(unit="second", count=3600))
    with pytest.raises(DataError) as e:
        make().predict(hourly)
    assert str(e.value) == (
        "column 'value': has another interval than the model\n  got       1 hour\n  expected  1 day\n"
        "  hint      give data of the model's interval, or fit a model to these"
    )


def test_a_forecaster_that_the_model_does_not_hold_is_refused() -> None:
    with pytest.raises(ArgumentError) as e:
        make().predict(series(), use="ets")
    assert str(e.value) == (
        "predict: the model holds no such forecaster\n  got       use='ets'\n  expected  network or drift or best\n"
        "  hint      fit keeps baselines beside the network unless told otherwise"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_is_the_mean_by_weight_and_a_baseline_stands_beside_the_network(kind: str) -> None:
    """The corrections, in spreads of the window, come on top; the median stays."""

    def uncorrected(name: str, a: np.ndarray) -> np.ndarray:
        return a * (not name.startswith("calibration"))

    model, values = make(kind=kind), series()
    plain = changed(model, uncorrected)
    network, drift, best = (plain.predict(values, use=use) for use in ("network", "drift", "best"))
    np.testing.assert_allclose(best.values, 0.75 * network.values + 0.25 * drift.values)
    assert (network.source, drift.source, best.source) == ("LSTM", "drift", "0.75 LSTM + 0.25 drift")
    line = values[-1] + np.arange(1, 4) * (values[-1] - values[0]) / 29
    np.testing.assert_allclose(drift.values, np.repeat(line[None, :, None], 3, axis=2))

    shift = np.array([-1.0, 0.0, 2.0], np.float32)
    moved = changed(model, lambda name, a: a * 0 + shift if name.startswith("calibration") else a)
    spread = measure(values[None, -10:], model.header.series.scale, 4)[1]
    np.testing.assert_allclose(moved.predict(values, use="drift").values - drift.values, np.ones((1, 3, 1)) * spread * shift)
    both = moved.candidates(daily(values))
    assert list(both) == ["LSTM", "drift", "best"]
    assert all((both[name].values == moved.predict(values, use=use).values).all() for use, name in moved.names.items())


@pytest.mark.parametrize("kind", KINDS)
def test_load_and_predict_need_no_torch(tmp_path: Path, kind: str) -> None:
    model = make(kind=kind)
    model_file.write(tmp_path / "m.safetensors", model.header, model.tensors)
    np.save(tmp_path / "values.npy", series())
    code = (
        "import sys, numpy as np, openlstm\n"
        f"m = openlstm.load({str(tmp_path / 'm.safetensors')!r})\n"
        f"values = np.load({str(tmp_path / 'values.npy')!r})\n"
        f"np.save({str(tmp_path / 'out.npy')!r}, [m.predict(values, use=use).median for use in m.names])\n"
        "heavy = {'torch', 'polars', 'pandas', 'scipy', 'altair', 'lightning_fabric', 'statsmodels'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    loaded = load(tmp_path / "m.safetensors")
    assert (np.load(tmp_path / "out.npy") == [loaded.predict(series(), use=use).median for use in loaded.names]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cell", cells.BY_NAME)
def test_a_forecaster_on_any_cell_forecasts_on_every_backend(cell: str, kind: str) -> None:
    model = make(cell, kind=kind)
    forecasts = [model.predict(series(), backend=backend).values for backend in ("auto", "reference")]
    assert forecasts[0].shape == (1, 3, 3) and np.isfinite(forecasts[0]).all()
    np.testing.assert_allclose(forecasts[0], forecasts[1], rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", [2.0**-300, 2.0**30, 2.0**320])
def test_a_forecast_has_the_precision_of_its_data(unit: float, kind: str) -> None:
    """Between data and forecast stands float64 alone: another unit, and a level far above what moves, lose no digit of it."""
    model, values = make(kind=kind), series(10)
    scaled = changed(model, lambda _, a: a, floor=unit * model.header.series.scale.floor)
    assert (scaled.predict(unit * values).values == unit * model.predict(values).values).all()
    stream = scaled.stream()
    pushed = [stream.push(v) for v in unit * values][-1]
    assert pushed is not None and (pushed.values == unit * model.predict(values).values).all()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_at_a_high_level_differ(kind: str) -> None:
    level, model = 1e9, level_free(make(kind=kind))
    values = np.round(2**20 * series()) / 2**20  # so that adding the level is exact
    low, high = model.predict(values), model.predict(values + level)
    assert len(set(high.median[0].tolist())) == 3
    np.testing.assert_allclose(high.median - level, low.median, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("use", ["network", "best"])
def test_weights_that_are_too_large_give_an_error_and_no_infinity(use: str, kind: str) -> None:
    large = changed(make(kind=kind), lambda _, a: np.full_like(a, 1e35))
    assert np.isfinite(large.predict(1e97 * series(), use=use).values).all()  # float64 has room for that

    def endless(name: str, a: np.ndarray) -> np.ndarray:
        """What is infinite after the first step is subtracted from itself in the second."""
        return np.resize(np.array([3e38, -3e38 if "weight_hh" in name else 3e38], np.float32), a.shape)

    model = changed(make("rnn_relu", kind=kind), endless)
    with np.errstate(all="ignore"), pytest.raises(ModelFileError) as e:
        model.predict(series(), use=use)
    assert str(e.value) == (
        "Model.predict: the forecast is not finite\n  got       weights that are too large for these values\n"
        "  expected  finite numbers\n  hint      fit the model again"
    )


@pytest.mark.parametrize("values", [[1.0, np.inf], [1.0, -1.1e100], [[1.0, 2.0], [3.0, 4.0]]])
def test_a_stream_does_not_begin_with_values_it_could_never_get_rid_of(values: list) -> None:
    with pytest.raises((DataError, ShapeError), match="^Model.stream: values"):
        make().stream(values)
