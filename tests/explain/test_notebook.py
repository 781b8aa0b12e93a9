"""The classroom notebook: the lecture's order, every cell runs, and what is stored is what it shows."""

import json
import re
from typing import Any
from xml.etree import ElementTree

import pytest
from notebooks import store

from openlstm.explain import page

NOTEBOOK: dict[str, Any] = json.loads(store.NOTEBOOK.read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
LOOSE = ("learning.", "lab.", "exploding")  # what grows in a training or an explosion differs between processors
ROUNDING = re.compile(r"\S+\xa0×\xa010⁻¹[4-9]")


def kinds(outputs: list[store.Output]) -> list[list[str]]:
    return [[output["output_type"], *output.get("data", ())] for output in outputs]


def pictures(outputs: list[store.Output]) -> list[str]:
    return ["".join(o["data"]["image/svg+xml"]) for o in outputs if "image/svg+xml" in o.get("data", {})]


def test_the_sections_are_those_of_the_page_in_its_order() -> None:
    lines = [line.strip() for cell in NOTEBOOK["cells"] if cell["cell_type"] == "markdown" for line in cell["source"]]
    assert [line[3:] for line in lines if line.startswith("## ")] == [title for _, title, _ in page.SECTIONS]


def test_every_cell_but_the_imports_has_stored_what_it_shows() -> None:
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    assert all(cell["outputs"] for cell in CODE[1:])


def test_every_figure_of_the_page_and_every_diagram_is_a_stored_picture() -> None:
    shown = [picture for cell in CODE for picture in pictures(cell["outputs"])]
    wirings = [picture for picture in shown if 'class="wiring"' in picture]
    assert len(wirings) == 8 and len(shown) - len(wirings) == 20
    for picture in shown:
        ElementTree.fromstring(picture)  # it is whole
        assert "#0505" not in picture and "#0101" not in picture  # no stand-in for a colour


@pytest.mark.slow
def test_every_cell_runs_and_shows_what_is_stored() -> None:
    for cell, outputs in store.run(json.loads(json.dumps(NOTEBOOK))):
        source = "".join(cell["source"])
        assert kinds(outputs) == kinds(cell["outputs"]), source
        if not any(word in source for word in LOOSE):
            said, stored = (["".join(o["text"]) for o in side if "text" in o] for side in (outputs, cell["outputs"]))
            assert [ROUNDING.sub("", t) for t in said] == [ROUNDING.sub("", t) for t in stored], source
