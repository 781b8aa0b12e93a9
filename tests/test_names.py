"""Every name `openlstm.x.y` that the documents write works in an interpreter that has used nothing else of the package."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAME = re.compile(r"\bopenlstm(?:\.[A-Za-z_]\w*)+")


def names() -> list[str]:
    """But for lines that import: they belong to programs, which other tests run, and to files that a page has one write."""
    texts = [re.sub(r"^\+?from openlstm.*", "", path.read_text(), flags=re.M) for path in DOCUMENTS]
    return sorted({name for text in texts for name in NAME.findall(text)})


def test_the_documents_write_names() -> None:
    assert {"openlstm.engine.Stepper", "openlstm.trace", "openlstm.nn.init.chrono"} <= set(names())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="makes a process for each name with fork")
def test_every_name_works_in_a_fresh_interpreter() -> None:
    """One process has loaded what the package builds on, and nothing of the package; each name begins as a copy of it."""
    code = """
import os, sys
import altair, jinja2, lightning_fabric, msgspec, numpy, polars, rich, safetensors, torch._dynamo, vl_convert
for name in sys.argv[1:]:
    if os.fork():
        if os.wait()[1]:
            print(name)
        continue
    try:
        import openlstm
        value = openlstm
        for part in name.split(".")[1:]:
            value = getattr(value, part)
        assert "openlstm" in sys.modules
    except BaseException as error:
        print(error, file=sys.stderr)
        os._exit(1)
    os._exit(0)
"""
    given = [*names(), "openlstm.no_such_name"]
    run = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, check=True)
    assert run.stdout == "openlstm.no_such_name\n", run.stderr


def test_the_package_is_a_command() -> None:
    run = subprocess.run([sys.executable, "-m", "openlstm", "--version"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "") and re.fullmatch(r"\d+\.\d+\.\d+\n", run.stdout)
    wrong = subprocess.run([sys.executable, "-m", "openlstm", "no-such-verb"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and "openlstm" in wrong.stderr
