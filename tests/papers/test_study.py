"""Studies of papers: trials are kept and not repeated, and the table does not hide what was not reached."""

import doctest
import json
from pathlib import Path

import pytest
import torch
from papers import study
from papers.study import Claim, Trial, before, generator, run

from openlstm import LSTM

NOT_BLOCKED = {"word": "not blocked", "share": 0.5, "flip": 0.1}
BLOCKED = {"word": "blocked", "share": 1e-9, "flip": 1e-5}


def claim(key: str, met: bool) -> Claim:
    shown = lambda trials: f"{len(trials)} done"  # noqa: E731
    return Claim(key, f"task {key}", "7", "at least 7", 2, "score", 30, lambda trials: met, shown, "smaller.")


def test_trials_are_kept_and_not_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []

    def train(key: str, seed: int) -> Trial:
        asked.append((key, seed))
        return Trial(seed, 2.0 * seed, True, 10, 0.0, NOT_BLOCKED, {"note": [1]})

    claims = [claim("a", True), claim("b", True)]
    first = run("p", "A paper", claims, train, tmp_path, ["--save", "--claims", "a", "--seeds", "1"])
    again = run("p", "A paper", claims, train, tmp_path, ["--save"])
    assert asked == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert first["claims"]["a"]["trials"][0] == again["claims"]["a"]["trials"][0]
    kept = json.loads((tmp_path / "p.json").read_text())["claims"]
    assert kept == again["claims"]
    assert kept["a"]["mean"] == 1.0 and kept["a"]["min"] == 0.0 and kept["a"]["max"] == 2.0
    assert "seed 1" in capsys.readouterr().err


def test_nothing_is_written_unless_asked(tmp_path: Path) -> None:
    run("p", "A paper", [claim("a", True)], lambda key, seed: Trial(seed, 1.0, True, 1, 0.0, NOT_BLOCKED), tmp_path / "new", [])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("look", [BLOCKED, NOT_BLOCKED], ids=["blocked", "not blocked"])
def test_what_is_not_reached_is_said_with_a_reason(look: dict, tmp_path: Path, capsys) -> None:
    run("p", "A paper", [claim("a", False)], lambda key, seed: Trial(seed, 1.0, False, 1, 0.0, look), tmp_path, [])
    out = capsys.readouterr().out
    assert "**not reached**" in out and f"'{look['word']}' of 2 at lag 30" in out and f"{look['share']:.1e}" in out
    assert "- task a: smaller." in out


def test_the_look_is_that_of_the_lag() -> None:
    layer, x = LSTM(1, 4), torch.randn(40, 32, 1, generator=generator(0))
    near, far = before(layer, x, 1), before(layer, x, 39)
    assert (near["word"], far["word"]) == ("not blocked", "blocked") and near["share"] > far["share"] > 0


def test_the_examples_of_the_study_hold() -> None:
    assert doctest.testmod(study).failed == 0
