"""docs/lecture.md names real tests and sections, and its Python commands say what the page says."""

import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.explain.lecture import computed

from openlstm.explain import gates, gradients, learning, page, sentences, step

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "lecture.md").read_text(encoding="utf-8")
ROWS = [line.strip("| \n").split(" | ") for line in TABLE.splitlines() if line.startswith("| ")][1:]


def test_every_test_that_is_named_exists() -> None:
    written = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", TABLE))
    assert len(named) > 20
    assert {n for n in named if f"def {n}(" not in written} == set()


def test_no_row_is_open_and_the_sections_are_those_of_the_page() -> None:
    assert len(ROWS) > 20
    statement = 0
    for row in ROWS:
        assert len(row) == 4 and all(cell.strip() for cell in row), row
        assert re.search(r"`|\]\(", row[2]) and re.search(r"test", row[3]), row
        if number := re.match(r"\*\*(\d)\. ", row[0]):
            assert int(number[1]) == statement + 1
            statement += 1
        assert row[1] in (str(statement), "1–8"), row
    assert statement == len(page.SECTIONS) == 8


@pytest.mark.slow
def test_every_python_command_runs() -> None:
    commands = set(re.findall(r"`((?:gates|gradients|learning|sentences|step)\.[^`]+)`", TABLE))
    assert len(commands) == 23
    once = SimpleNamespace(learning=cache(learning.learning), lags=learning.lags)  # train networks: commands share them
    for command in commands:
        names = {"gates": gates, "gradients": gradients, "learning": once, "sentences": sentences, "step": step}
        said = eval(command, names)
        assert isinstance(said, (dict, list)) or re.search(r"\d", said)


@pytest.mark.slow
def test_every_figure_of_the_page_is_in_the_table() -> None:
    named = set(re.findall(r'\[0\]\["([\w-]+)"\]', TABLE))
    assert named == {name for section in computed()[0] for name in section["figures"]}
