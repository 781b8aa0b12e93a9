"""A new cell in a file of its own is picked up by the laws by itself, and a wrong one is caught."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tests.support import ROOT

CELL = '''
from dataclasses import dataclass

from openlstm import cells
from openlstm.cells import Cell, StepGradients, State, Step, sigmoid, split, tanh


@dataclass(frozen=True)
class Leaky(Cell):
    """c' = f c + (1 - f) g;  h' = c'."""

    name, gates, saved, has_cell, candidate = "leaky", ("f", "g"), ("f", "g"), True, "g"

    def forward(self, z, before, w_ch=None, mask=None):
        z_f, z_g = split(z, 2)
        f, g = sigmoid(z_f), tanh(z_g)
        g = g if mask is None else g * mask
        c = f * before.c + (1 - f) * g
        return Step((f, g), c, c)
{backward}

cells.ALL = (*cells.ALL, Leaky())
'''

WRONG = """
    def backward(self, around, dh, dc):
        (f, g), d = around.gates, dh if dc is None else dh + dc
        return StepGradients(cells.concat([d * (around.before.c + g) * f * (1 - f), d * (1 - f) * (1 - g * g)]), d * f)
"""

SUITES = ["tests/conformance/test_conformance.py", "tests/engine/test_pieces.py", "tests/engine/test_nan.py"]


def laws(folder: Path, backward: str = "") -> tuple[int, str]:
    """The exit status and the last lines of the laws run for the new cell alone."""
    folder.joinpath("newcell.py").write_text(CELL.replace("{backward}", backward))
    command = [sys.executable, "-m", "pytest", "-p", "newcell", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += [*SUITES, "-k", "leaky", "-vv", "--no-header", "--tb=line", "-W", "ignore"]
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    environment = {name: value for name, value in environment.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_new_cell_is_picked_up_by_itself(tmp_path: Path) -> None:
    """One class and its name in the list: cases of it appear in every suite, with noise, ragged, reset, projected; all pass."""
    status, printed = laws(tmp_path)
    assert status == 0, textwrap.shorten(printed[-3000:], 3000)
    passed = re.findall(r"(tests/[\w/]+\.py)::(\w+)\[(.*leaky.*)\] PASSED", printed)
    assert {file for file, _, _ in passed} == set(SUITES)
    cases = " ".join(case for _, _, case in passed)
    assert len(passed) > 30 and all(word in cases for word in ("lengths", "reset", "reverse", "-P", "float32", "float64"))
    assert "test_the_reference_is_what_torch_differentiates" in {test for _, test, _ in passed}
    assert not re.search("FAILED|ERROR|SKIPPED", printed)


@pytest.mark.slow
def test_a_new_cell_whose_derivative_is_wrong_is_caught(tmp_path: Path) -> None:
    status, printed = laws(tmp_path, WRONG)
    failed = re.findall(r"::(\w+)\[.*leaky.*\] FAILED", printed)
    assert status == 1 and "test_the_reference_is_what_torch_differentiates" in failed, printed[-3000:]
