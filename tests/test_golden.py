"""Model files of every released version load, and forecast what they forecast then."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support import daily

import openlstm
from openlstm import cells, model_file
from openlstm.data.panel import Covariate, Panel

FILES = sorted((Path(__file__).parent / "golden").glob("*.safetensors"))


def known(values: list[float | None]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values])


def panel(then: dict[str, Any], model: openlstm.Model) -> Panel:
    """The panel of a file of version 4."""
    series, K = [known(one) for one in then["series"]], model.horizon
    features = {f.name: f for f in model.header.series.features}
    covariates = tuple(
        Covariate(name, features[name].role, known(values), features[name].categories)
        for name, values in then["covariates"].items()
    )
    made = replace(daily(*series, start=then["start"]), keys=tuple((k,) for k in then["keys"]), covariates=covariates)
    return replace(made, history=made.lengths - K)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_file_of_an_older_version_gives_its_forecast(path: Path) -> None:
    then, model = json.loads(path.with_suffix(".json").read_text()), openlstm.load(path)
    if "values" in then:
        found, wanted = model.predict(known(then["values"])).values[0], then["quantiles"]
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
        return
    assert then["quantiles"].keys() == model.names.keys()
    for use, wanted in then["quantiles"].items():
        np.testing.assert_allclose(model.predict(panel(then, model), use=use).values, wanted, rtol=1e-6)


def test_a_file_of_version_4_holds_more_than_a_network() -> None:
    """A covariate, a category, baselines, calibration, and up to where each series was seen."""
    path = next(p for p in FILES if p.stem == "forecast_direct_v4")
    model, then = openlstm.load(path), json.loads(path.with_suffix(".json").read_text())
    assert [(f.name, f.categories, f.marked) for f in model.header.series.features] == [
        ("price", None, True),
        ("weather", ("sun", "rain", "snow"), False),
    ]
    assert list(model.names) == ["network", "seasonal_naive", "linear_window", "best"]
    assert all(one.enough for one in model.header.forecasters)
    assert model.source("best") == "0.5 LSTM + 0.2 seasonal naive + 0.3 linear window"
    assert model.seen(panel(then, model)).tolist() == [67, 47]
    assert model.seen(replace(panel(then, model), keys=(("b",), ("c",)))).tolist() == [47, 0]


@pytest.mark.parametrize(
    ("stem", "cell"),
    [
        ("forecast_lstm_v1", cells.LSTM()),
        ("forecast_rnn_tanh_v1", cells.VanillaRNN()),
        ("forecast_gru_v2", cells.GRU()),
        ("forecast_lstm1997_v2", cells.LSTM1997(cells_per_gate=2)),
        ("forecast_peephole_v2", cells.Peephole(clip=0.5)),
    ],
)
def test_the_cell_keeps_its_name_and_its_options(stem: str, cell: cells.Cell) -> None:
    model = openlstm.load(next(p for p in FILES if p.stem == stem))
    assert {network.cell for network in model.networks} == {cell}


def test_how_the_weights_began_is_kept_and_older_files_began_as_torch_does() -> None:
    assert {p.stem: model_file.read(p)[0].training.init for p in FILES if "lstm_v" in p.stem} == {
        "forecast_lstm_v1": "default",
        "forecast_lstm_v3": "chrono=14",
    }


def test_there_is_a_file_of_each_version() -> None:
    assert {int(p.stem.rsplit("_v", 1)[1]) for p in FILES} == set(range(1, model_file.VERSION + 1))
