"""Every program in examples/ runs to its end, as a reader would start it; each one checks its own claim with `assert`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
NEEDS = {
    "sb3_recurrent_ppo": ("sb3_contrib", "the dev extra brings it"),
    "tirex_forecasts": ("tirex2", "pip install tirex-2"),
}
"""What an example imports beside the package and its extras, and where it is from."""
RECIPES = ["recurrent_agent", "sb3_recurrent_ppo", "translate_with_attention"]
"""Other people's code with the layer swapped; each prints how fast it was before and after."""


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_runs_and_says_something(path: Path, tmp_path: Path) -> None:
    needed, source = NEEDS.get(path.stem, ("", ""))
    if needed and not find_spec(needed):
        pytest.skip(f"{needed} is not installed: {source}")
    done = subprocess.run(
        [sys.executable, path],
        cwd=tmp_path,
        env=os.environ | {"PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    if path.stem in RECIPES:
        speeds = re.findall(r"([\d,]+)(?: (?:steps|tokens) per second|, [\d.]+ times as many)", done.stdout)
        assert len(speeds) >= 2 and all(int(speed.replace(",", "")) > 0 for speed in speeds)


def test_every_recipe_is_there() -> None:
    assert set(RECIPES) | set(NEEDS) <= {path.stem for path in EXAMPLES}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_checks_what_it_claims(path: Path) -> None:
    assert re.search("^ *assert ", path.read_text(), re.MULTILINE)


@pytest.mark.long
def test_the_picture_of_the_readme_can_be_drawn_again(tmp_path: Path) -> None:
    script = EXAMPLES[0].parent.parent / "docs" / "images" / "gates.py"
    subprocess.run([sys.executable, script, tmp_path / "gates.png"], check=True, capture_output=True)
    assert (tmp_path / "gates.png").read_bytes().startswith(b"\x89PNG")
