"""`openlstm fit` that is stopped, resumed, or given what it cannot use: exit statuses, texts, the same file in the end."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.tasks.test_trainings import table

from openlstm import cli
from openlstm.train.progress import Training

OPTIONS = "--time date --target y --series name --horizon 7 --members 1 --hidden-size 4 --steps 40 --window 10 --holdout 0"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    panel, path = table(), tmp_path / "table.csv"
    rows = [
        f"{key[0]},{str(time)[:10]},{value}"
        for s, key in enumerate(panel.keys)
        for time, value in zip(panel.times(s), panel.past(s), strict=True)
    ]
    path.write_text("\n".join(["name,date,y", *rows]) + "\n")
    return path


def fit(data: Path, output: Path, *more: str) -> int:
    return cli.main(["fit", "forecast", str(data), *OPTIONS.split(), "-o", str(output), "--quiet", *more])


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_stopped_fit_says_how_to_go_on_and_ends_with_the_same_file(
    number: int, status: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, output = tmp_path / "whole.safetensors", tmp_path / "model.safetensors"
    assert fit(data, whole) == 0
    step: Callable[..., None] = Training.step
    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", lambda self, s: (step(self, s), s.number == 7 and signal.raise_signal(number)))
        capsys.readouterr()
        assert fit(data, output) == status
    folder = tmp_path / "model.checkpoints"
    said = f"stopped at step 8, saved in {folder}; the same command with --resume goes on\nstopped\n"
    assert capsys.readouterr().err == said
    assert not output.exists() and folder.exists()
    assert fit(data, output) == 1 and "go on with it by --resume" in capsys.readouterr().err
    assert fit(data, output, "--resume") == 0
    assert output.read_bytes() == whole.read_bytes() and not folder.exists()


def test_a_number_that_is_not_finite_is_told_with_its_place(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(data, tmp_path / "model.safetensors", "--learning-rate", "1e25") == 1
    said = capsys.readouterr().err
    assert "the loss is not finite in epoch 1" in said and "recurrent.0: weight_ih_l0 holds" in said and "gate" in said
    assert not list(tmp_path.glob("model*"))


def test_training_on_needs_no_horizon_and_a_new_model_does(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, on = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    assert fit(data, model) == 0
    assert cli.main(["fit", "forecast", str(data), "--continue", str(model), "--steps", "20", "-o", str(on), "-q"]) == 0
    assert on.exists() and f"continue: {model}" in on.with_suffix(".yml").read_text()
    assert cli.main(["fit", "forecast", str(data), "--config", str(on.with_suffix(".yml")), "-o", str(on), "-q"]) == 0
    assert cli.main(["fit", "forecast", str(data), "-o", str(on)]) == 2
    assert "how many steps to forecast is not said" in capsys.readouterr().err
    assert cli.main(["fit", "forecast", str(data), "--continue", str(on), "-o", str(on), "-q"]) == 1
    assert "is the input, which would be overwritten" in capsys.readouterr().err
