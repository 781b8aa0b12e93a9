"""All of insight is importable from one place, lazily, and editors see the same names."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from openlstm import insight as package

insight: Any = package


@pytest.mark.parametrize("name", sorted(insight._LAZY))
def test_a_name_is_there_and_documented(name: str) -> None:
    value = getattr(insight, name)
    assert name in dir(insight)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert len((inspect.getdoc(value) or "").split()) >= 4


def test_a_type_checker_sees_the_same_names() -> None:
    stub = ast.parse(Path(str(insight.__file__)).with_suffix(".pyi").read_text())
    seen = {a.asname: str(n.module) for n in stub.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert seen == {name: f"openlstm.insight.{home}" for name, home in insight._LAZY.items()}


def test_an_unknown_name_is_told_with_those_that_there_are() -> None:
    with pytest.raises(AttributeError, match="no attribute 'census'; it has Ablation, "):
        insight.census  # noqa: B018


def test_the_package_alone_loads_nothing_heavy() -> None:
    code = "import json, sys, openlstm.insight; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "altair", "vl_convert", "jinja2"} & set(json.loads(done.stdout))
