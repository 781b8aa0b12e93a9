"""The tables of an evaluation and of a model file fit into a terminal and show what was found."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from tests.tasks.fake import Fake, carried, months, zero

from openlstm.model_file import Decoder, Feature, Forecaster, Header, Lag, Network, Scale, Series, Step, Training
from openlstm.tasks.evaluation import Evaluation, evaluate
from openlstm.tasks.tables import header_table, score_table


def text(evaluation: Evaluation, width: int = 80) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(score_table(evaluation))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_one_series() -> None:
    found = evaluate(Fake({"LSTM": carried, "zero": zero}, 6, best="LSTM"), months([1, 2, 1, 2, 1, 2, 3, 3, 3, 4]))
    assert text(found) == [
        "value: 3 months ahead, 2 origins, 2001-07-01 to 2001-10-01",
        "",
        " forecaster   MASE  RMSSE   sMAPE    CRPS  in 80%  in 95%  seconds",
        " ──────────────────────────────────────────────────────────────────",
        " LSTM        1.000  1.000   37.14  0.5179   100 %   100 %      0.5",
        " best        1.000  1.000   37.14  0.5179   100 %   100 %      0.5",
        " zero        3.250  3.279  200.00   2.665     0 %     0 %      0.5",
        "",
        "best is LSTM.",
        "",
        "LSTM has a smaller error than every baseline: MASE 1.000, 69% smaller than zero,",
        "the best of them.",
    ]


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e6, 1e30])
def test_it_fits_into_80_columns(size: float) -> None:
    rules = {"LSTM": carried, "zero": zero, "a name that is much too long for a table": carried}
    walks = [size * np.random.default_rng(k).standard_normal(9).cumsum() for k in range(12)]
    lines = text(evaluate(Fake(rules, 6, best="zero"), months(*walks, [5.0] * 8)), 200)
    tables = lines[: lines.index("", 8)]
    assert max(map(len, tables)) <= 80 and not any("…" in line for line in tables if "a name that" not in line)


def test_many_series_name_the_worst_and_what_does_not_count() -> None:
    found = evaluate(Fake({"LSTM": carried, "zero": zero}, 4), months([0, 1, 0, 1, 3], [5, 5, 5, 5, 6], [0, 2, 0, 2, np.nan]))
    lines = text(found)
    assert "1 of 3 series whose past does not change from season to season count in no MASE and RMSSE: series=1." in " ".join(
        lines
    )
    assert "1 of 3 series have no known value to score: series=2." in lines
    assert [line.split() for line in lines if "series=" in line[:9]] == [["series=0", "2.000", "0", "%", "LSTM", "2.000"]]


def test_what_a_model_file_holds_is_told_in_80_columns() -> None:
    series = {"time": "date", "target": "sales", "ids": ("store",), "step": Step(unit="second", count=86400), "period": 7}
    series |= {"window": 14, "horizon": 7, "scale": Scale(floor=0.1), "lags": (Lag(season=7), Lag(season=7, back=1))}
    price = Feature(name="price", role="future", mean=5.0)
    training = {"first": "2022-01-01", "last": "2023-11-05T00:00:00", "seed": 3, "epochs": (1,), "validation_loss": ()}
    training |= {"learning_rate": 0.01, "batch_size": 8, "weight_decay": 0.0, "clip": 1.0, "series": 20, "name_bytes": 5}
    header = Header(
        library="0.1.0",
        task="forecast",
        series=Series(**series, features=(price,)),
        network=Network(cell="lstm", hidden_size=8, num_layers=1, members=1),
        decoder=Decoder(quantiles=(0.1, 0.5, 0.9)),
        forecasters=(
            Forecaster(name="network", weight=0.75, error=0.5, enough=(True, True, True)),
            Forecaster(name="ets", weight=0.25, error=0.625, enough=(False, True, False)),
            Forecaster(name="best", error=0.4),
        ),
        training=Training(**training),
    )
    out = io.StringIO()
    Console(file=out, width=80).print(header_table(header, {"a": np.zeros((2, 3))}, Path("folder/m.safetensors")))
    assert [line.rstrip() for line in out.getvalue().splitlines()] == [
        "m.safetensors",
        "forecasts   sales, 7 days ahead",
        "series      20, named by store",
        "time        date",
        "future      price",
        "window      14 days; season 7",
        "lags        7, 14 steps before",
        "network     1 x lstm, 1 x 8 units, decoder direct",
        "quantiles   0.1, 0.5, 0.9",
        "trained on  2022-01-01 to 2023-11-05, seed 3, init default",
        "numbers     6 in 1 tensors",
        "written by  openlstm 0.1.0, header version 4",
        "",
        "Who can be asked",
        "",
        " --use    weight in best  validation MASE  bands calibrated",
        " ───────────────────────────────────────────────────────────",
        " network            0.75            0.500               yes",
        " ets                0.25            0.625   too few windows",
        " best                  -            0.400                 -",
        "",
    ]
