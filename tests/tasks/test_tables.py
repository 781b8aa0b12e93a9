"""The tables of an evaluation fit into a terminal and show what was found."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console
from tests.tasks.fake import Fake, carried, months, zero

from openlstm.tasks.evaluation import Evaluation, evaluate
from openlstm.tasks.tables import score_table


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
