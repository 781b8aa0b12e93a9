"""The commands on tables of several series: check, a file of options, pictures, simulate, inspect."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.cli.test_cli import Ran

from openlstm import cli, load

SMALL = ["--members", "1", "--hidden-size", "4", "--steps", "20", "--batch-size", "16", "-q"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shops of 90 days with a price known for a week more, and a model of them that was fitted with options."""
    folder = tmp_path_factory.mktemp("tables")
    t, rng = np.arange(97), np.random.default_rng(0)
    parts = []
    for s in range(3):
        price = rng.choice([1.0, 2.0], 97)
        sold = 10 + 5 * price + np.sin(2 * np.pi * t / 7) + rng.normal(0, 0.1, 97)
        days = np.datetime64("2024-01-01", "D") + t
        known = pl.Series(sold.round(3)).set(pl.Series(t >= 90), None)
        region = "north" if s else "south"
        parts.append(pl.DataFrame({"shop": f"s{s}", "region": region, "day": days, "price": price, "sold": known}))
    pl.concat(parts).write_csv(folder / "shops.csv")
    (folder / "fit.yml").write_text("series: shop\nfuture: [price]\nstatic: region\ntarget: sold\nhorizon: 7\nseed: 3\n")
    command = ["fit", "forecast", folder / "shops.csv", "--config", folder / "fit.yml", *SMALL, "-o", folder / "m.safetensors"]
    assert cli.main([str(part) for part in command]) == 0
    return folder


def test_options_of_a_file_count_where_none_is_given(place: Path) -> None:
    header = load(place / "m.safetensors").header
    assert (header.series.ids, header.series.horizon, header.training.seed) == (("shop",), 7, 3)
    assert [(f.name, f.role) for f in header.series.features] == [("price", "future"), ("region", "static")]


def test_the_options_that_fit_writes_make_the_same_model_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("fit", "forecast", place / "shops.csv", "--config", place / "m.yml", "-q", "-o", place / "again.safetensors")
    assert Ran(capsys, *command).status == 0
    assert (place / "again.safetensors").read_bytes() == (place / "m.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("horizont: 7\n", "holds an option that forecast does not have\n  got       'horizont'"),
        ("- 7\n", "holds no options\n  got       list"),
        ("a: b: c\n", "cannot be read\n  got       mapping values are not allowed here"),
    ],
)
def test_a_wrong_file_of_options_is_one_error(text: str, error: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "bad.yml").write_text(text)
    command = (
        "fit",
        "forecast",
        place / "shops.csv",
        "--config",
        place / "bad.yml",
        "--horizon",
        7,
        "-o",
        place / "x.safetensors",
    )
    ran = Ran(capsys, *command)
    assert ran.status == 1 and ran.err.startswith(f"error {place / 'bad.yml'}: {error}") and "hint" in ran.err


def test_predict_gives_the_steps_of_every_series_with_their_price(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for use in ("network", "best", "seasonal_naive"):
        ran = Ran(capsys, "predict", place / "m.safetensors", place / "shops.csv", "--use", use, "--json", "-q")
        found = json.loads(ran.out)
        assert [row["shop"] for row in found["forecast"]] == [f"s{s}" for s in range(3) for _ in range(7)]
        assert found["forecast"][0]["day"] == "2024-03-31" and found["source"]
    ran = Ran(capsys, "predict", place / "m.safetensors", place / "shops.csv", "--use", "oracle")
    assert ran.status == 1 and "the model holds no such forecaster\n  got       use='oracle'" in ran.err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["png", "svg", "html"])
def test_pictures_are_written(kind: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("predict", "evaluate"):
        out = place / f"{command}.{kind}"
        ran = Ran(capsys, command, place / "m.safetensors", place / "shops.csv", "--plot", out, "-q")
        assert ran.status == 0, ran.err
        begin = {"png": b"\x89PNG", "svg": b"<svg", "html": b"<!doctype html>"}[kind]
        assert out.read_bytes()[: len(begin)].lower() == begin.lower()


def test_check_says_what_would_be_done_and_fails_where_something_is_wrong(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = Ran(capsys, "check", place / "shops.csv", "--series", "shop", "--target", "sold", "--future", "price", "--json")
    assert ran.status == 0 and not json.loads(ran.out)["errors"]
    ran = Ran(capsys, "check", place / "shops.csv", "--target", "sold")
    assert ran.status == 1 and "--series shop" in " ".join(ran.out.split())


def test_inspect_says_what_a_file_holds(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = Ran(capsys, "inspect", place / "m.safetensors").out
    assert all(text in out for text in ("sold, 7 days ahead", "price", "region", "seasonal_naive", "best"))
    assert json.loads(Ran(capsys, "inspect", place / "m.safetensors", "--json").out)["task"] == "forecast"


@pytest.mark.slow
def test_simulate_is_fitted_told_and_scored(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = place / "s.safetensors"
    small = ("--members", 1, "--hidden-size", 8, "--steps", 40, "--window", 20, "--warmup", 5, "-q")
    columns = ("--series", "shop", "--target", "sold", "--future", "price")
    ran = Ran(capsys, "fit", "simulate", place / "shops.csv", *columns, *small, "--holdout", 20, "-o", model, "--json")
    assert ran.status == 0, ran.err
    assert len(json.loads(ran.out)["evaluation"]["series"]) == 3
    rows = json.loads(Ran(capsys, "predict", model, place / "shops.csv", "--json", "-q").out)["forecast"]
    assert len(rows) == 3 * 97  # of every step, those without a measurement too
    ran = Ran(capsys, "evaluate", model, place / "shops.csv", "-q")
    assert ran.status == 0 and "NSE" in ran.out and "KGE" in ran.out


def test_what_a_simulating_model_has_no_use_for_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = place / "sim.safetensors", place / "f.csv"
    columns = ("--series", "shop", "--target", "sold", "--future", "price")
    small = ("--members", 1, "--hidden-size", 4, "--steps", 20, "--window", 20, "-q")
    assert Ran(capsys, "fit", "simulate", place / "shops.csv", *columns, *small, "-o", model).status == 0
    ran = Ran(capsys, "predict", model, place / "shops.csv", "-o", out, "--plot", place / "p.svg")
    assert ran.status == 1 and "simulates, and has no such picture" in ran.err and "leave --plot out" in ran.err
    ran = Ran(capsys, "evaluate", model, place / "shops.csv", "-o", out, "--origins", 3)
    assert ran.status == 1 and "leave --output and --origins out" in ran.err
    assert not out.exists()
