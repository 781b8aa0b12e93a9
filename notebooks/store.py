"""Runs every cell of the lecture's notebook and stores what it shows, so that it can be read without being run.

python notebooks/store.py
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).with_name("lecture.ipynb")

Output = dict[str, Any]  # as a notebook stores it


def run(notebook: dict[str, Any]) -> Iterator[tuple[dict[str, Any], list[Output]]]:
    """Every code cell with its outputs; the cells share their names, as in a notebook."""
    names: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            yield cell, list(_outputs("".join(cell["source"]), names, count))


def _outputs(source: str, names: dict[str, Any], count: int) -> Iterator[Output]:
    """What a cell prints, and the value of its last line."""
    body = ast.parse(source)
    last = body.body[-1]
    shown = ast.Expression(body.body.pop().value) if isinstance(last, ast.Expr) else None  # type: ignore[attr-defined]
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(body, f"cell {count}", "exec"), names)
        if shown is not None:
            value = eval(compile(shown, f"cell {count}", "eval"), names)
    if printed.getvalue():
        yield {"name": "stdout", "output_type": "stream", "text": _lines(printed.getvalue())}
    if value is not None:
        data = {kind: _lines(text) for kind, text in _bundle(value).items()}
        yield {"data": data, "execution_count": count, "metadata": {}, "output_type": "execute_result"}


def _bundle(value: Any) -> dict[str, str]:
    """A value in the forms in which a notebook can show it."""
    if hasattr(value, "_repr_mimebundle_"):
        data = value._repr_mimebundle_(None, None)
        return data[0] if isinstance(data, tuple) else data
    if hasattr(value, "_repr_svg_"):
        return {"image/svg+xml": value._repr_svg_()}
    return {"text/plain": repr(value)}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


if __name__ == "__main__":
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    for count, (cell, outputs) in enumerate(run(notebook), 1):
        cell["outputs"], cell["execution_count"] = outputs, count
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
