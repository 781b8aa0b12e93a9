"""The demo: three parts, three files, one JSON object; small here, as a user runs it in the long test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from openlstm import cli, demo, load
from openlstm.errors import MissingExtraError, source
from openlstm.explain import page

NAMES = {"naive", "seasonal naive", "seasonal naive + drift", "drift", "ETS", "damped ETS", "Theta", "linear window"}


def check(found: dict, folder: Path) -> None:
    assert {s["name"] for s in found["co2"]["scores"]} == NAMES | {"autoregression", "LSTM", "best"}
    assert found["co2"]["held_out"] == {
        "first": "2000-01-08", "last": "2001-12-29", "steps": 104, "known": 104, "origins": 2,
    }  # fmt: skip
    assert found["co2"]["vanilla_rnn"]["mase"] > 0
    assert found["co2"]["notes"][0]["count"] == 59
    assert [arm["name"] for arm in found["latch"]["arms"]] == ["rnn", "lstm", "lstm-chrono"]
    assert (folder / "forecast.png").read_bytes()[:4] == b"\x89PNG"
    assert load(folder / "model.safetensors").horizon == 52
    assert "</html>" in (folder / "explain.html").read_text(encoding="utf-8")
    assert sorted(p.name for p in folder.iterdir()) == ["explain.html", "forecast.png", "model.safetensors"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same demo with hardly any training, and the lecture up to where it trains: tests/explain/ has the whole."""
    for name, value in {"MEMBERS": 1, "FORECAST_STEPS": 2, "LAG": 4, "STEPS": 2}.items():
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr(page, "SECTIONS", page.SECTIONS[:2])


@pytest.mark.slow
def test_a_small_demo_writes_its_files_and_its_object(tmp_path: Path, small: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "-o", str(tmp_path / "a"), "--json"]) == 0
    check(json.loads(capsys.readouterr().out), tmp_path / "a")


@pytest.mark.slow
def test_a_model_that_loses_is_said_to_lose(
    tmp_path: Path, small: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_explain", lambda *_: {})
    assert cli.main(["demo", "-o", str(tmp_path), "--quiet"]) == 0  # two steps cannot beat a linear model
    out, err = capsys.readouterr()
    assert "LSTM LOSES to " in " ".join(out.split())
    assert "with a vanilla RNN in place of the LSTM: MASE" in out
    assert all(name in out for name in ["ETS", "naive", "LSTM", "forecast.png", "model.safetensors", "explain.html"])
    assert err == ""


def test_a_missing_extra_names_its_pip_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == "statsmodels" else object())
    with pytest.raises(MissingExtraError) as e:
        demo.run(tmp_path / "a")
    assert str(e.value) == (
        "openlstm demo: needs the package statsmodels, which is not installed\n  got       no module named statsmodels\n"
        f"  expected  the extra 'demo'\n  hint      pip install '{source()}[demo]'"
    )
    assert not (tmp_path / "a").exists()


@pytest.mark.long
def test_the_whole_demo_reaches_its_numbers(tmp_path: Path) -> None:
    code = "import sys; from openlstm.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "demo", "-o", str(tmp_path / "a"), "--json"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    check(found, tmp_path / "a")
    mase = {s["name"]: s["mase"] for s in found["co2"]["scores"]}
    assert mase["LSTM"] <= 0.30 < mase["seasonal naive"]
    right = {arm["name"]: arm["mean"] for arm in found["latch"]["arms"]}
    assert right["lstm-chrono"] >= 0.95 and max(right["rnn"], right["lstm"]) <= 0.60
