"""docs/lecture.md names real tests, and its Python commands say what the page says."""

import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

from openlstm.explain import gates, gradients, learning, page

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "lecture.md").read_text(encoding="utf-8")


def test_every_test_that_is_named_exists() -> None:
    written = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", TABLE))
    assert len(named) > 12
    assert {n for n in named if f"def {n}(" not in written} == set()


def test_every_section_of_the_page_has_its_rows() -> None:
    assert [int(n) for n in re.findall(r"\| \*\*(\d)\. ", TABLE)] == list(range(1, len(page.SECTIONS) + 1))


@pytest.mark.slow
def test_every_python_command_runs() -> None:
    commands = set(re.findall(r"`((?:gates|gradients|learning)\.[^`]+)`", TABLE))
    assert len(commands) == 13
    once = SimpleNamespace(learning=cache(learning.learning))  # trains networks: the two commands share them
    for command in commands:
        said = eval(command, {"gates": gates, "gradients": gradients, "learning": once})
        assert isinstance(said, dict) or re.search(r"\d", said)
