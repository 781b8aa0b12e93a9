"""The trainings of a fit: stopped and resumed with the same bits, logged once, trained on with another model."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import openlstm
from openlstm.data.panel import Panel
from openlstm.errors import ArgumentError, CheckpointError
from openlstm.model_file import Step
from openlstm.tasks.forecast import Forecaster
from openlstm.train import Step as TrainingStep
from openlstm.train.progress import Training

DAY = Step(unit="second", count=86400)
SMALL: dict[str, Any] = {"members": 2, "hidden_size": 4, "steps": 40, "batch_size": 8, "window": 10}


def table(steps: int = 90, series: int = 2, first: int = 0, seed: int = 0) -> Panel:
    t, draw = np.arange(steps), np.random.default_rng(seed)
    values = [np.sin(t / 3 + k) + 0.02 * t + 0.1 * draw.normal(size=steps) for k in range(first, first + series)]
    return Panel.of(values, "2001-01-01", DAY, keys=[(f"s{k}",) for k in range(first, first + series)], ids=("name",))


def fitted(**options: Any) -> Forecaster:
    return Forecaster(7, **SMALL).fit(table(), quiet=True, **options)


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, np.ndarray]:
    return fitted().tensors_


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(a[n].tobytes() == b[n].tobytes() for n in a)


def stopping(monkeypatch: pytest.MonkeyPatch, member: int, at: int) -> None:
    """Ctrl-C at a step of a training."""
    step: Callable[..., None] = Training.step

    def stop(self: Training, news: TrainingStep) -> None:
        step(self, news)
        if len(self.best) == member and news.number == at:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Training, "step", stop)


@pytest.mark.parametrize(("member", "at"), [(1, 0), (1, 39), (2, 17), (3, 39)])
def test_a_fit_that_was_stopped_goes_on_with_the_same_bits_and_logs_each_step_once(
    member: int, at: int, tmp_path: Path, undisturbed: dict[str, np.ndarray]
) -> None:
    keep = {"checkpoints": tmp_path / "saved", "log": tmp_path / "log.jsonl", "watch": True}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopping(patch, member, at)
        fitted(**keep)
    with pytest.raises(CheckpointError, match="go on with it by --resume"):
        fitted(checkpoints=tmp_path / "saved")
    done = fitted(**keep, resume=True)
    assert same(done.tensors_, undisturbed) and (tmp_path / "saved").exists()
    done.save(tmp_path / "model.safetensors")
    assert not (tmp_path / "saved").exists()
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    steps = [(e["training"], e["step"]) for e in events if e["event"] == "step"]
    assert steps == [(name, k) for name in ("validation", "member 1", "member 2") for k in range(40)]
    assert {e["place"] for e in events if e["event"] == "horizon"} == {"recurrent.0"}
    assert list(done.watches_) == ["validation", "member 1", "member 2"] and (done.watches_["member 2"].snapshots or at == 39)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"seed": 1}, "model.training.seed"), ({"steps": 60}, "steps"), ({"hidden_size": 5}, "model.network.hidden_size")],
)
def test_a_fit_of_other_options_is_not_resumed(
    change: dict[str, int], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "saved"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopping(patch, 1, 3)
        fitted(checkpoints=folder)
    with pytest.raises(CheckpointError, match=f"is of another training: {named} differs"):
        Forecaster(7, **{**SMALL, **change}).fit(table(), quiet=True, checkpoints=folder, resume=True)
    with pytest.raises(CheckpointError, match="is of another training: data differs"):
        Forecaster(7, **SMALL).fit(table(seed=1), quiet=True, checkpoints=folder, resume=True)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "old.safetensors"
    fitted(holdout=14).save(path)
    return path


def test_training_on_begins_at_the_weights_of_the_model_and_keeps_its_sizes(old: Path) -> None:
    before = openlstm.load(old)
    on = Forecaster(init_model=old, steps=20, learning_rate=1e-9, weight_decay=0.0).fit(table(), quiet=True)
    assert on.header_.network == before.header.network and on.header_.decoder == before.header.decoder
    assert on.header_.series == before.header.series
    for name, array in before.tensors.items():
        if name.startswith("member."):
            np.testing.assert_allclose(on.tensors_[name], array, atol=1e-6)
    assert on.notes_[0] == f"trains on with {old}, which has not seen 28 of the steps and 0 of the series"


def test_training_on_has_seen_what_both_have_seen(old: Path) -> None:
    on = Forecaster(init_model=old, steps=20).fit(table(first=1, series=2, steps=60), quiet=True)
    assert on.model_.seen(table(first=0, series=4)).tolist() == [76, 76, 60, 0]
    assert (on.header_.training.first[:10], on.header_.training.last[:10]) == ("2001-01-01", "2001-03-17")


def test_training_on_with_nothing_new_keeps_the_bands(old: Path) -> None:
    on = Forecaster(init_model=old, steps=20).fit(table(), holdout=14, quiet=True)
    before = openlstm.load(old)
    assert on.warnings_ == (f"every step was seen by {old}: bands and weights are those of it",)
    assert on.header_.forecasters == before.header.forecasters
    assert all(on.tensors_[n].tobytes() == a.tobytes() for n, a in before.tensors.items() if n.startswith("calibration."))
    assert on.predict().median.shape == (2, 7)


def test_training_on_with_other_sizes_is_refused_with_this_text(old: Path) -> None:
    with pytest.raises(ArgumentError) as e:
        Forecaster(init_model=old, hidden_size=8).fit(table(), quiet=True)
    assert str(e.value) == (
        f"{old}: hidden_size is not that of the model that is trained on with\n  got       hidden_size=8\n  expected  4\n"
        "  hint      leave hidden_size out, or begin a new model without init_model (--continue)"
    )


def test_a_stopped_training_on_is_resumed_with_the_same_bits(old: Path, tmp_path: Path) -> None:
    on = lambda **keep: Forecaster(init_model=old, steps=20).fit(table(), quiet=True, **keep)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopping(patch, 2, 7)
        on(checkpoints=tmp_path / "saved")
    assert same(on(checkpoints=tmp_path / "saved", resume=True).tensors_, on().tensors_)
