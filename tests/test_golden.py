"""Model files of every released version load, and forecast what they forecast then."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import openlstm
from openlstm import cells, model_file

FILES = sorted((Path(__file__).parent / "golden").glob("*.safetensors"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_file_of_an_older_version_gives_its_forecast(path: Path) -> None:
    then = json.loads(path.with_suffix(".json").read_text())
    values = np.array([np.nan if v is None else v for v in then["values"]])
    np.testing.assert_allclose(openlstm.load(path).predict(values).values[0], then["quantiles"], rtol=1e-6)


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
