"""The classroom notebook: the lecture's order, no stored outputs, and every cell runs."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from openlstm.explain import page

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "lecture.ipynb"


def cells() -> list[dict[str, Any]]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_the_sections_are_those_of_the_page_in_its_order() -> None:
    lines = [line.strip() for cell in cells() if cell["cell_type"] == "markdown" for line in cell["source"]]
    assert [line[3:] for line in lines if line.startswith("## ")] == [title for _, title, _ in page.SECTIONS]


def test_no_output_is_stored() -> None:
    assert all(not c["outputs"] and c["execution_count"] is None for c in cells() if c["cell_type"] == "code")


@pytest.mark.slow
def test_every_cell_runs_and_every_figure_can_be_drawn() -> None:
    names: dict[str, Any] = {}
    drawn = 0
    for k, cell in enumerate(cells()):
        if cell["cell_type"] != "code":
            continue
        body = ast.parse("".join(cell["source"]))
        last = body.body[-1]
        shown = last if isinstance(last, ast.Expr) else None
        body.body = body.body[:-1] if shown else body.body
        exec(compile(body, f"cell {k}", "exec"), names)
        if shown is not None:
            value = eval(compile(ast.Expression(shown.value), f"cell {k}", "eval"), names)
            if value is not None:  # what a notebook shows below the cell: here always a chart
                assert value.to_dict()["$schema"].startswith("https://vega.github.io/schema/vega-lite/")
                drawn += 1
    assert drawn == 12
