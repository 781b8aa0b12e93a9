"""`--engine ray`: predict and evaluate over partitions give the bits of one process, also when a worker is killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.cli.test_cli import Ran

from openlstm import Forecaster, load
from openlstm.data import parquet
from openlstm.runtime.model import Model
from openlstm.tasks import partitions
from openlstm.tasks.evaluation import evaluate
from openlstm.tasks.workers import Engine, Workers, workers

pytest.importorskip("ray", reason="works on partitions in processes of Ray")
pytestmark = pytest.mark.slow

SHOPS = 9


@pytest.fixture(scope="module")
def ray() -> Iterator[Workers]:
    with workers(Engine(partitions=4)) as started:
        yield started


def shops() -> pl.DataFrame:
    """Shops of different lengths with gaps, in an order that mixes them, the price of each known for a week more."""
    rng, parts = np.random.default_rng(0), []
    for s in range(SHOPS):
        count = 60 + 5 * s
        t, price = np.arange(count), rng.choice([1.0, 2.0], count)
        sold = np.where(
            t < count - 7, (1 + s) * (10 + 5 * price + np.sin(2 * np.pi * t / 7)) + rng.normal(0, 0.5, count), np.nan
        )
        day = np.datetime64("2024-01-01", "us") + t * np.timedelta64(1, "D")
        kept = (rng.random(count) < 0.95) | (t >= count - 8)
        parts.append(pl.DataFrame({"shop": f"s{s}", "day": day, "price": price, "sold": sold}).filter(pl.Series(kept)))
    return pl.concat(parts).sample(fraction=1.0, shuffle=True, seed=1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shops")
    shops().write_parquet(folder / "shops.parquet", row_group_size=50)
    columns: dict[str, Any] = {"time": "day", "target": "sold", "series": ("shop",), "future": ("price",)}
    fitted = Forecaster(7, **columns, members=1, hidden_size=4, steps=10, batch_size=16)
    fitted.fit(folder / "shops.parquet", holdout=14, quiet=True).save(folder / "m.safetensors")
    return folder


def command(*words: object, place: Path) -> list[object]:
    verb, *rest = words
    return [verb, place / "m.safetensors", place / "shops.parquet", *rest]


SPREAD = ("--engine", "ray", "--partitions", 4)


@pytest.mark.parametrize(
    "words",
    [
        ("predict",),
        ("predict", "--use", "best"),
        ("evaluate", "--time-limit", "0"),
        ("evaluate", "--time-limit", "0", "--refit", "--origins", "1"),
    ],
    ids=" ".join,
)
def test_four_partitions_have_the_bits_of_one_process(
    words: tuple[str, ...], place: Path, ray: Workers, capsys: pytest.CaptureFixture[str]
) -> None:
    one, four = place / "one.parquet", place / "four.parquet"
    alone = Ran(capsys, *command(*words, "-o", one, "--json", place=place))
    spread = Ran(capsys, *command(*words, "-o", four, "--json", *SPREAD, place=place))
    assert (alone.status, spread.status) == (0, 0), spread.err
    assert one.read_bytes() == four.read_bytes()
    told, of_parts = json.loads(alone.out), json.loads(spread.out)
    if words[0] == "predict":
        assert of_parts["rows"] == len(told["forecast"]) == 7 * SHOPS and of_parts["source"] == told["source"]
        assert "wrote 63 rows to" in spread.err and "note: " in spread.err
        counts = [{n["kind"]: n["count"] for n in notes["notes"]} for notes in (told, of_parts)]
        assert counts[0] == counts[1] and "gaps" in counts[0]
    else:
        assert [s | {"seconds": 0} for s in told["scores"]] == [s | {"seconds": 0} for s in of_parts["scores"]]


def dying(model: Model, mark: Path) -> Model:
    """A model like this one. The first time it has forecast the third shop it kills the process that it is in."""

    class Dying(Model):  # within this function, so that a worker needs no tests to run it
        def predict(self, data: Any, **options: Any) -> Any:
            return perhaps(data, super().predict(data, **options))

        def candidates(self, panel: Any) -> Any:
            return perhaps(panel, super().candidates(panel))

    def perhaps(panel: Any, found: Any) -> Any:
        if ("s2",) in panel.keys and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    return Dying(**vars(model))


def test_a_killed_worker_changes_no_bit_of_a_forecast(place: Path, ray: Workers, tmp_path: Path) -> None:
    model, told = load(place / "m.safetensors"), []
    for name, one in (("alone", model), ("killed", dying(model, tmp_path / "mark"))):
        written = partitions.predict(
            one,
            place / "shops.parquet",
            tmp_path / f"{name}.parquet",
            Engine(partitions=4),
            on_progress=lambda *now: told.append(now),
        )
        assert written.rows == 7 * SHOPS
    assert (tmp_path / "mark").exists()
    assert (tmp_path / "alone.parquet").read_bytes() == (tmp_path / "killed.parquet").read_bytes()
    assert told == [(k, 4) for k in range(5)] * 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alone.parquet", "killed.parquet", "mark"]


def test_a_killed_worker_changes_no_bit_of_an_evaluation(place: Path, ray: Workers, tmp_path: Path) -> None:
    model = load(place / "m.safetensors")
    panel = model.panel(place / "shops.parquet")
    alone = evaluate(model, panel)
    killed = evaluate(dying(model, tmp_path / "mark"), panel, over=partial(partitions.over_series, ray))
    assert (tmp_path / "mark").exists() and alone.forecasts.keys() == killed.forecasts.keys()
    assert all(alone.forecasts[name].tobytes() == killed.forecasts[name].tobytes() for name in alone.forecasts)


def test_no_more_rows_are_read_at_a_time_than_a_part_has(
    place: Path, ray: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few partitions are asked for; the jobs run here, so that what they read can be seen."""
    read: list[int] = []
    rows = parquet.Source.rows

    def seen(self: parquet.Source, *asked: Any) -> parquet.Part:
        part = rows(self, *asked)
        read.append(len(part.frame))
        return part

    monkeypatch.setattr(parquet.Source, "rows", seen)
    monkeypatch.setattr(partitions, "MOST_ROWS", 150)
    monkeypatch.setattr(Workers, "map", lambda self, call, jobs: map(call, jobs))
    written = partitions.predict(
        load(place / "m.safetensors"), place / "shops.parquet", tmp_path / "out.parquet", Engine(partitions=1)
    )
    assert written.rows == 7 * SHOPS and sum(read) == len(shops())
    assert max(read) < 150 + 60 + 5 * SHOPS


def test_an_error_in_a_part_is_the_error_of_the_command_and_nothing_is_written(
    place: Path, ray: Workers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pl.read_parquet(place / "shops.parquet").with_row_index()
    row = int(table.filter(pl.col("sold").is_not_null())["index"][-1])
    bad = table.drop("index").with_columns(sold=pl.when(table["index"] == row).then(np.inf).otherwise("sold"))
    bad.write_parquet(tmp_path / "bad.parquet")
    ran = Ran(capsys, "predict", place / "m.safetensors", tmp_path / "bad.parquet", "-o", tmp_path / "x.parquet", *SPREAD)
    assert ran.status == 1 and ran.out == ""
    assert f"error bad.parquet, row {row + 1}, column 'sold': is not a finite number\n  got       inf\n" in ran.err
    assert [p.name for p in tmp_path.iterdir()] == ["bad.parquet"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            (),
            "--engine ray: the forecast of many series goes into a file\n  got       no --output\n"
            "  expected  --output FILE.parquet alone\n  hint      --output forecast.parquet\n",
        ),
        (
            ("-o", "x.csv"),
            "x.csv: has an unknown file extension\n  got       '.csv'\n  expected  .parquet\n"
            "  hint      for example x.parquet\n",
        ),
        (
            ("-o", "x.parquet", "--address", "head"),
            "--address: is no address of a cluster\n  got       'head'\n"
            "  expected  HOST:PORT, ray://HOST:PORT, or auto for the cluster on this machine\n"
            "  hint      start one with `ray start --head`; --address HOST:6379 from one of its machines, "
            "ray://HOST:10001 from any other\n",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_ray_starts(
    words: tuple[str, ...], text: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    ran = Ran(capsys, *command("predict", *words, "--engine", "ray", place=place))
    assert (ran.status, ran.out, ran.err) == (1, "", f"error {text}")


def test_a_csv_is_refused_with_the_repair(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shops().write_csv(tmp_path / "a.csv")
    ran = Ran(
        capsys, "predict", place / "m.safetensors", tmp_path / "a.csv", "-o", tmp_path / "x.parquet", "--engine", "ray", "-q"
    )
    assert ran.status == 1 and ran.err == (
        "error a.csv: holds no table in Parquet, which alone is read part by part\n  got       another kind of file\n"
        "  expected  a .parquet file, or a folder of them\n"
        "  hint      convert the table to Parquet, or leave out --engine ray\n"
    )
