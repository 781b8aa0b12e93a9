"""The torch-free model: what it gives does not depend on company, on cuts or on torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import openlstm
from openlstm import cells, model_file
from openlstm.engine import native
from openlstm.errors import DataError, ModelFileError, ShapeError
from openlstm.model_file import Head, Header, Series, Step, Training
from openlstm.model_file import Network as NetworkHeader
from openlstm.runtime import Model, Network, load
from openlstm.runtime.model import build
from openlstm.runtime.window import carry, inputs

BACKENDS = ["reference", pytest.param("cpu", marks=pytest.mark.skipif(not native.available(), reason="no compiled extension"))]


def make(cell: str = "lstm", layers: int = 2, members: int = 2) -> Model:
    header = Header(
        library="0.1.0",
        task="forecast",
        series=Series(
            time="t",
            target="y",
            step=Step(unit="second", count=60),
            period=4,
            window=10,
            horizon=3,
            scale=2.0,
            seasonal_error=None,
        ),
        network=NetworkHeader(cell=cell, input_size=2, hidden_size=5, num_layers=layers, members=members),
        head=Head(quantiles=(0.1, 0.5, 0.9)),
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
    return build(header, {name: rng.standard_normal(shape).astype(np.float32) for name, shape in header.tensors().items()})


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


def test_a_row_does_not_depend_on_the_other_rows() -> None:
    model = make()
    rows = np.stack([series(seed=k) for k in range(33)])
    together = model.quantiles(rows)
    for k in (0, 7, 32):
        assert (model.quantiles(rows[k]) == together[k]).all() or not native.available()
        np.testing.assert_allclose(model.quantiles(rows[k]), together[k], rtol=1e-6)


def test_only_the_window_is_read_and_the_level_is_carried_through() -> None:
    model = make()
    values = series()
    assert (model.quantiles(values) == model.quantiles(values[-10:])).all()
    raised = model.quantiles(values + 1000.0)
    np.testing.assert_allclose(raised, model.quantiles(values) + 1000.0, atol=1e-4)
    np.testing.assert_allclose(model.quantiles(3 * values), 3 * model.quantiles(values), rtol=1e-5)


def test_the_band_holds_the_median() -> None:
    median, lower, upper = make().predict(series())
    assert median.shape == lower.shape == upper.shape == (3,)
    assert (lower <= median).all() and (median <= upper).all()
    assert make().predict(np.stack([series()] * 2)).median.shape == (2, 3)


def test_members_are_averaged() -> None:
    model = make(members=2)
    alone = [replace(model, networks=(model.networks[k],), heads=(model.heads[k],)).quantiles(series()) for k in (0, 1)]
    # each is sorted after averaging, so compare with the quantiles of one constant head
    level = replace(model, heads=tuple((w * 0, b * 0 + k) for k, (w, b) in enumerate(model.heads)))
    np.testing.assert_allclose(level.quantiles(series()) - level.quantiles(series())[0, 0], 0, atol=1e-6)
    anchor = carry(series())[-1]
    spread = carry(series()[-10:]).std()
    np.testing.assert_allclose(level.quantiles(series()), anchor + spread * 0.5, rtol=1e-6)
    assert not np.allclose(alone[0], alone[1])


def test_a_missing_value_is_marked_and_the_last_known_one_carried() -> None:
    x, anchor, spread = inputs(np.array([[np.nan, 2.0, np.nan, 5.0, 5.0, np.nan]]), 2.0)
    assert x.dtype == np.float32
    assert x[0].T.tolist() == [[-2.0, -2.0, -2.0, 0.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0, 0.0, 1.0]]
    assert (anchor.tolist(), spread.tolist()) == ([5.0], [1.5])


def test_a_window_that_hardly_moves_is_not_blown_up() -> None:
    x, _, spread = inputs(np.array([[1.0, 1.0, 1.0], [1.0, 1.001, 1.0]]), 2.0)
    assert spread.tolist() == [0.2, 0.2]
    assert np.abs(x).max() < 0.01


def test_a_stream_gives_the_bits_of_predict() -> None:
    model, values = make(), series()
    stream = model.stream()
    for k, value in enumerate(values):
        forecast = stream.push(value)
        if k < 9:
            assert forecast is None
        else:
            assert forecast is not None
            assert all((a == b).all() for a, b in zip(forecast, model.predict(values[: k + 1]), strict=True))
    again = model.stream(stream.values)
    assert all((a == b).all() for a, b in zip(again.push(1.0) or (), stream.push(1.0) or (), strict=True))


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


def test_a_wrong_call_of_predict_is_refused_with_this_text() -> None:
    model = make()
    cases = [
        (
            np.zeros((1, 1, 10)),
            ShapeError,
            "values has the wrong number of axes\n  got       values: float64[1, 1, 10]\n"
            "  expected  [T] or [N, T]\n  hint      pass one series, or one series per row",
        ),
        (
            np.zeros(9),
            DataError,
            "9 values are too few\n  got       values: float64[9]\n"
            "  expected  at least 10, the window of the model\n"
            "  hint      pass more of the past; mark what is unknown as NaN",
        ),
        (
            np.full(10, -1.1e100),
            DataError,
            "a number in values is infinite or too large\n  got       -1.1e+100\n"
            "  expected  numbers of at most 1e+100 in size, NaN where missing\n"
            "  hint      replace it, mark it as NaN, or take another unit",
        ),
        (
            np.full(10, np.nan),
            DataError,
            "no known value among the last 10\n  got       NaN only\n  expected  at least one known value\n"
            "  hint      pass a window that holds a measurement",
        ),
    ]
    for values, kind, text in cases:
        with pytest.raises(kind) as e:
            model.predict(values)
        assert str(e.value) == f"Model.predict: {text}"


def test_load_and_predict_need_no_torch(tmp_path: Path) -> None:
    model = make()
    named = {}
    for k, (net, (w, b)) in enumerate(zip(model.networks, model.heads, strict=True)):
        for layer, weights in enumerate(net.layers):
            for name, value in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), weights[:4], strict=True):
                named[f"member.{k}.recurrent.{name}_l{layer}"] = value
        named |= {f"member.{k}.head.weight": w, f"member.{k}.head.bias": b}
    model_file.write(tmp_path / "m.safetensors", model.header, named)
    np.save(tmp_path / "values.npy", series())
    code = (
        "import sys, numpy as np, openlstm\n"
        f"m = openlstm.load({str(tmp_path / 'm.safetensors')!r})\n"
        f"np.save({str(tmp_path / 'out.npy')!r}, m.predict(np.load({str(tmp_path / 'values.npy')!r})).median)\n"
        "heavy = {'torch', 'polars', 'altair', 'lightning_fabric', 'statsmodels'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    assert (np.load(tmp_path / "out.npy") == load(tmp_path / "m.safetensors").predict(series()).median).all()


@pytest.mark.parametrize("cell", cells.BY_NAME)
def test_a_forecaster_on_any_cell_forecasts_on_every_backend(cell: str) -> None:
    model = make(cell)
    forecasts = [model.quantiles(series(), backend=backend) for backend in ("auto", "reference")]
    assert forecasts[0].shape == (3, 3) and np.isfinite(forecasts[0]).all()
    np.testing.assert_allclose(forecasts[0], forecasts[1], rtol=1e-5)


@pytest.mark.parametrize("unit", [2.0**-300, 2.0**30, 2.0**320])
def test_a_forecast_has_the_precision_of_its_data(unit: float) -> None:
    """Between data and forecast stands float64 alone: another unit, and a level far above what moves, lose no digit of it."""
    model, values = make(), series(10)
    scaled = replace(model, header=model.header.model_copy(update={"series": rescaled(model.header.series, unit)}))
    assert (scaled.quantiles(unit * values) == unit * model.quantiles(values)).all()
    stream = scaled.stream()
    pushed = [stream.push(v) for v in unit * values][-1]
    assert pushed is not None and all((a == unit * b).all() for a, b in zip(pushed, model.predict(values), strict=True))


def rescaled(trained: Series, unit: float) -> Series:
    return trained.model_copy(update={"scale": unit * trained.scale})


def test_rows_at_a_high_level_differ() -> None:
    level = 1e9
    values = np.round(2**20 * series()) / 2**20  # so that adding the level is exact
    low, high = make().predict(values), make().predict(values + level)
    assert len(set(high.median.tolist())) == len(high.median)
    np.testing.assert_allclose(high.median - level, low.median, atol=1e-6)


def test_weights_that_are_too_large_give_an_error_and_no_infinity() -> None:
    model = make()
    huge = replace(model, heads=tuple((np.full_like(w, 3e38), b) for w, b in model.heads))
    with pytest.warns(RuntimeWarning), pytest.raises(ModelFileError, match=r"^Model.predict: the forecast is not finite\n"):
        huge.predict(series())


@pytest.mark.parametrize("values", [[1.0, np.inf], [1.0, -1.1e100], [[1.0, 2.0], [3.0, 4.0]]])
def test_a_stream_does_not_begin_with_values_it_could_never_get_rid_of(values: list) -> None:
    with pytest.raises((DataError, ShapeError), match="^Model.stream: values"):
        make().stream(values)
