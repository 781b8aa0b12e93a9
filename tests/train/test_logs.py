"""Logs: what is written is what happened, each step once however often it was done, and nothing is lost in silence."""

from __future__ import annotations

import json
import math
import resource
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

import openlstm
from openlstm.errors import ArgumentError, MissingExtraError, source
from openlstm.insight import Watch
from openlstm.train import Epoch, Options, Step, train
from openlstm.train.logs import EVENTS, JsonLines, Log, TensorBoard

LOGS = pytest.mark.parametrize("log", [JsonLines, TensorBoard])
Kind = type[JsonLines] | type[TensorBoard]
News = Sequence[tuple[str, Step | Epoch]]


def news(members: int = 2, epochs: int = 2, steps: int = 3) -> News:
    """Trainings, each with a step of another length and loss, and an epoch after so many."""
    found: list[tuple[str, Step | Epoch]] = []
    for member in range(members):
        for k in range(steps * epochs):
            step = Step(k, k // steps + 1, 1 / (k + 1 + member), 2.0 + k, 1.0, 64, steps, 0.1 / (k + 1))
            found.append((f"member {member}", step))
            if k % steps == steps - 1:
                found.append((f"member {member}", Epoch(step.epoch, 0.3, 0.7 / (k + 1), True, 0.125, 192)))
    return found


def hear(log: Log, news: News) -> None:
    for log.training, what in news:
        (log.step if isinstance(what, Step) else log)(what)  # type: ignore[operator]


def lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file without what a clock said."""
    said = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in said]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """`member 0/loss` -> (step, value), as TensorBoard reads it."""
    found = {}
    for run in sorted(folder.iterdir()):
        read = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
        found |= {f"{run.name}/{tag}": [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    return found


def expected(news: News, every: int = 1) -> tuple[Any, Any]:
    """What the two logs must hold: lines, and curves."""
    said, drawn, at = [], defaultdict(list), 0
    for name, what in news:
        if isinstance(what, Step):
            at = what.number
            if at % every:
                continue
            kept = ("epoch", "loss", "norm", "learning_rate", "examples")
            said.append({"event": "step", "training": name, "step": at} | {key: getattr(what, key) for key in kept})
            points = {key: getattr(what, key) for key in ("loss", "norm", "learning_rate")}
        else:
            line = {"event": "epoch", "training": name, "epoch": what.number, "train_loss": what.train_loss}
            points = {"validation_loss": what.validation_loss}
            said.append(line | points | {"best": what.is_best, "examples": what.examples})
        for key, value in points.items():
            drawn[f"{name}/{key}"].append((at, float(np.float32(value))))
    return said, dict(drawn)


def read(log: Log) -> Any:
    return lines(log.path) if isinstance(log, JsonLines) else curves(log.path)


@LOGS
def test_a_log_holds_what_happened_in_its_order_as_soon_as_it_happened(log: Kind, tmp_path: Path) -> None:
    with log(tmp_path / "log") as made:
        for k, one in enumerate(news()):
            hear(made, [one])
            assert read(made) == expected(news()[: k + 1])[log is TensorBoard]


@LOGS
@pytest.mark.parametrize("every", [1, 2])
def test_a_training_that_is_killed_again_and_again_has_each_step_once(log: Kind, every: int, tmp_path: Path) -> None:
    """Each process goes on from the checkpoint of the one before, takes another a step later, and is killed inside a write."""
    states: list[str] = []
    for kept in range(len(news()) + 1):
        with log(tmp_path / "log", resumed=kept > 0, every=every) as made:
            if states:
                made.load_state_dict(json.loads(states[-1]))
            hear(made, news()[max(kept - 1, 0) : kept])
            states.append(json.dumps(made.state_dict()))
            hear(made, news()[kept : kept + 5])
        for path in [made.path] if made.path.is_file() else made.path.glob(f"*/{EVENTS}*"):
            with path.open("ab") as file:
                file.write(b'{"event": "st')
    with log(tmp_path / "log", resumed=True) as made:
        made.load_state_dict(json.loads(states[-1]))
    assert read(made) == expected(news(), every)[log is TensorBoard]


def test_the_horizons_that_the_x_ray_sees_are_logged(tmp_path: Path) -> None:
    def squares(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return ((model(x)[0][-1, :, 0] - y) ** 2).sum(), torch.tensor(y.numel())

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = openlstm.LSTM(1, 4, num_layers=2)

        def forward(self, x: Tensor) -> Any:
            return self.lstm(x.transpose(0, 1))

    model, x = Rows(), torch.randn(8, 20, 1, generator=torch.Generator().manual_seed(0))
    watch = Watch(model, every=3, first=())
    steps: list[Step] = []
    with JsonLines(tmp_path / "log.jsonl") as one, TensorBoard(tmp_path / "curves") as other:
        for log in (one, other):
            log.training, log.watch = "fit", watch
        options = Options(epochs=2, batch_size=4, least_batches=1)
        each_step = [watch.on_step, steps.append, one.step, other.step]
        train(model, squares, [x, x[:, 0, 0]], None, options, [one, other], each_step)
    said, drawn = lines(one.path), curves(other.path)
    watched = [line for line in said if line["event"] == "horizon"]
    assert watched == [{"event": "horizon", "training": "fit", **row} for row in watch.table()] and len(watched) == 4
    assert [line["event"] for line in said] == ["step", "horizon", "horizon", "step", "epoch"] + [
        "step", "step", "horizon", "horizon", "epoch"
    ]  # fmt: skip
    assert [line["norm"] for line in said if line["event"] == "step"] == [step.norm for step in steps]
    for place in {row["place"] for row in watch.table()}:
        assert drawn[f"fit/horizon/{place}"] == [(r["step"], r["horizon"]) for r in watch.table() if r["place"] == place]
    assert "fit/validation_loss" not in drawn and said[-1]["validation_loss"] is None


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    with JsonLines(tmp_path / "log.jsonl") as log:
        log.step(Step(0, 1, math.nan, math.inf, 1.0))
    (line,) = lines(log.path)
    assert (line["loss"], line["norm"], line["learning_rate"]) == (None, None, None)


def test_seconds_are_those_since_the_step_or_epoch_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 100.0, 101.0, 103.0, 106.0, 110.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    with JsonLines(tmp_path / "log.jsonl") as log:
        log.training = "fit"
        for what in (log.step, log.step, log, log.step):
            what(Epoch(1, 0.5, 0.5, True, 9.0) if what is log else Step(0, 1, 0.5, 1.0, 1.0))  # type: ignore[arg-type]
    assert [json.loads(line)["seconds"] for line in log.path.read_text().splitlines()] == [1.0, 2.0, 9.0, 4.0]


@LOGS
def test_a_log_of_another_training_is_refused(log: Kind, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with log(path) as made:
        hear(made, news(1))
    before = read(made)
    with pytest.raises(ArgumentError) as e:
        log(path)
    got, other = (f"{path.stat().st_size:,} bytes", "file") if log is JsonLines else ("1 file of curves", "folder")
    assert str(e.value) == (
        f"{path}: holds the log of another training\n"
        f"  got       {got}\n"
        f"  expected  a new {other}\n"
        "  hint      give another name, move the old one away, or go on with that training by --resume"
    )
    assert read(made) == before


@pytest.mark.parametrize("changed", ["short", "not the same lines"])
def test_a_log_that_was_changed_is_kept_and_that_is_said(
    changed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.jsonl"
    with JsonLines(path) as log:
        hear(log, news(1))
        state = log.state_dict()
    known = state["bytes"]
    text = changed if changed == "short" else path.read_text().replace('"step"', '"a step"')
    path.write_text(text)
    with JsonLines(path, resumed=True) as log:
        size = path.stat().st_size
        log.load_state_dict(state)
        hear(log, news(1)[:1])
    assert capsys.readouterr().err == (
        f"warning: {path}: is not the log that the checkpoint knows ({known:,} bytes then, {size:,} now); "
        "new lines are appended, steps may be missing or there twice\n"
    )
    now = path.read_text()
    assert now.startswith(text) and [json.loads(now.splitlines()[-1])[key] for key in ("event", "step")] == ["step", 0]


@LOGS
def test_a_full_disk_leaves_whole_lines_and_stops_no_training(
    log: Kind, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with log(tmp_path / "log") as made:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
        try:
            hear(made, news(1, 6))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        hear(made, news(1, 6)[-1:])
    said, wanted = read(made), expected(news(1, 6))[log is TensorBoard]
    if log is TensorBoard:
        said, wanted = said["member 0/validation_loss"], wanted["member 0/validation_loss"]
    assert said[-1] == wanted[-1] and said[:-1] == wanted[: len(said) - 1] and 1 < len(said) < len(wanted)
    warning = f"warning: {made.path}: File too large; the training goes on, its log has gaps\n"
    assert capsys.readouterr().err == warning


@LOGS
def test_every_must_be_a_step(log: Kind, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError) as e:
        log(tmp_path, every=0)
    assert str(e.value) == (
        f"{tmp_path}: every must be at least one step\n  got       every=0\n  expected  >= 1\n  hint      use 1"
    )


def test_a_place_for_curves_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArgumentError) as e:
        TensorBoard(tmp_path / "file")
    assert str(e.value) == (
        f"{tmp_path}/file: cannot be made a folder\n"
        "  got       File exists\n"
        "  expected  the name of a folder\n"
        "  hint      choose another place, or have this one made writable"
    )


def test_without_tensorboard_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    with pytest.raises(MissingExtraError) as e:
        TensorBoard(tmp_path)
    assert str(e.value) == (
        "--tensorboard: needs the package tensorboard, which is not installed\n"
        "  got       no module named tensorboard\n"
        "  expected  the extra 'tensorboard'\n"
        f"  hint      pip install '{source()}[tensorboard]'"
    )
