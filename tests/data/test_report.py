"""`check`: what a table holds, what would be done, and everything that is wrong with it at once."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from openlstm.data import Columns, Format, Panel, Report, check, read_panel
from openlstm.errors import OpenLSTMError
from openlstm.model_file import Step


def shown(report: Report) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(report)
    console.file.close()
    return console.export_text()


def look(path: Path, text: str, *told: Any, **options: Any) -> Report:
    path.write_text(text)
    report = check(path, *told, **options)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False)) == report.to_dict()
    assert all(line.split("\n")[0] in shown(report) for line in (*report.plan, *report.warnings, *report.errors))
    return report


def shop(days: int = 60) -> str:
    rows = [f"{s};{d};{k},5;{k};{'yes' if k % 2 else 'no'};note\n"
            for s in ("north", "south") for k, d in enumerate(np.datetime64("2024-01-01") + np.arange(days))]  # fmt: skip
    return "store;day;sales;price;open;remark\n" + "".join(rows)


SHOP = Columns("day", "sales", ("store",), future=("price", "open"))


def test_what_was_found_and_would_be_done_is_said(tmp_path: Path) -> None:
    report = look(tmp_path / "shop.csv", shop(), SHOP, horizon=7)
    assert {k: v for k, v in report.found.items() if k != "columns"} == {
        "file": "CSV, utf-8",
        "delimiter": "';'",
        "rows": "120",
        "series": "2: store=north, store=south",
        "steps": "60 each, 120 values known",
        "span": "2024-01-01 to 2024-02-29",
        "step": "1 day",
        "zone": None,
    }
    assert {name: (c["kind"], c["role"]) for name, c in report.found["columns"].items()} == {
        "store": ("texts", "series"),
        "day": ("dates", "time"),
        "sales": ("numbers", "target"),
        "price": ("numbers", "future"),
        "open": ("texts", "future"),
        "remark": ("texts", "not read"),
    }
    assert report.plan == [
        "The season is 7 days.",
        "sales was read with a decimal comma.",
        "open is read as one of 2 categories.",
    ]
    assert report.warnings == [
        "This column has no part, unless named with --future, --past, --static or --series: remark",
    ]
    assert report.errors == []


def test_the_command_it_proposes_names_what_was_found(tmp_path: Path) -> None:
    report = look(tmp_path / "a shop.csv", shop(), Columns(target="sales", ids=("store",)), Format(every="1w", aggregate="sum"))
    assert report.command is not None and shlex.split(report.command) == [
        *("openlstm", "fit", "forecast", str(tmp_path / "a shop.csv"), "--time", "day", "--target", "sales"),
        *("--series", "store", "--every", "1w", "--aggregate", "sum", "--horizon", "HORIZON", "--output", "model.safetensors"),
    ]
    wide = check(pl.DataFrame({"t": ["2001", "2002", "2003"], "a": [1, 2, 3], "b": [1, 2, 4]}), Columns(wide=True))
    assert wide.command == "openlstm fit forecast DATA --time t --wide --horizon HORIZON --output model.safetensors"


def test_every_error_is_told_and_not_just_the_first(tmp_path: Path) -> None:
    text = shop(8).replace("2024-01-03;2,5", "2024-01-33;2,5").replace("south;2024-01-05;4,5;4;", "south;2024-01-05;x;free;")
    report = look(tmp_path / "a.csv", text, Columns("day", "sales", ("shop",), future=("price",)))
    assert [e.split("\n")[0] for e in report.errors] == [
        "a.csv: there is no column 'shop'",
        "a.csv, row 3 (line 4), column 'day': is not a date that can be read",
        "a.csv, row 13 (line 14), column 'sales': is not a finite number",
        "a.csv, row 13 (line 14), column 'price': is not a finite number",
    ]
    assert report.command is None


def test_times_that_come_twice_do_not_hide_those_off_the_grid(tmp_path: Path) -> None:
    days = [*range(1, 8), 3, 8, 9]
    rows = [f"2024-01-{d:02},{d}\n" for d in days] + ["2024-01-10 05:00,1\n"]
    report = look(tmp_path / "a.csv", "t,y\n" + "".join(rows))
    assert [e.split("\n")[0] for e in report.errors] == [
        "a.csv, row 8 (line 9), column 't': the same time comes twice",
        "a.csv, row 11 (line 12), column 't': lies off the grid of 1 day",
    ]


def frame(values: Any, **columns: Any) -> pl.DataFrame:
    days = np.datetime64("2001-01-01", "us") + np.arange(len(values)) * np.timedelta64(1, "D")
    return pl.DataFrame({"ds": days, "y": values, **columns})


@pytest.mark.parametrize(
    ("values", "horizon", "warning"),
    [
        ([5.0] * 60, None, "y never changes"),
        (
            np.arange(10.0),
            None,
            "10 of 10 steps are known in the shortest series; at least 30 are better: a network learns little from fewer",
        ),
        (np.arange(60.0), 20, "60 of 60 steps are known in the shortest series; at least 80 are better: four horizons"),
        ([float(k) if k % 3 else None for k in range(120)], None, "33% of all steps are missing"),
    ],
)
def test_what_should_be_looked_at_is_said(values: Any, horizon: int | None, warning: str) -> None:
    report = check(frame(values), horizon=horizon)
    assert warning in report.warnings and report.errors == []


def test_a_horizon_longer_than_the_history_is_an_error() -> None:
    assert check(frame(np.arange(40.0)), horizon=39).errors == []
    assert check(frame(np.arange(40.0)), horizon=40).errors == [
        "the frame: has a history shorter than the horizon\n  got       40 days\n  expected  more than the horizon of 40\n"
        "  hint      give a longer table, or a smaller --horizon"
    ]


def test_a_covariate_that_is_missing_ahead_is_said() -> None:
    price = [1.0] * 40 + [2.0] * 4 + [None] * 2
    report = check(frame([*np.arange(40.0), *[None] * 6], price=price), Columns(future=("price",)))
    assert "price is to be known ahead, and is missing in 2 steps" in report.warnings


@pytest.mark.parametrize("data", ["no.csv", frame([None, None, None]), pl.DataFrame({"a": ["x"]}), 3])
def test_what_cannot_be_read_is_a_report_and_no_error(data: Any) -> None:
    report = check(data)
    assert len(report.errors) == 1 or isinstance(data, pl.DataFrame)
    with pytest.raises(OpenLSTMError) as e:
        read_panel(data)
    assert str(e.value) in report.errors


def test_a_panel_can_be_looked_at_too() -> None:
    panel = Panel.of([np.arange(300.0), np.arange(50.0)], "2001-01-01", Step(unit="month", count=1))
    report = check(panel)
    assert report.found["steps"] == "50 to 300 each, 350 values known" and report.command is None
