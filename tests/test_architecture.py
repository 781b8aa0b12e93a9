"""Imports go down the floors only, `import openlstm` is light, and no submodule takes the place of a public name."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import openlstm

PACKAGE = Path(openlstm.__file__).parent

FLOORS: list[list[str]] = [
    ["errors", "_files", "_array", "_submodules", "cells", "reference", "weights", "noise"],
    ["engine", "model_file"],
    ["nn", "runtime"],
    ["data"],
    ["insight"],
    ["train"],
    ["tasks"],
    ["lab"],
    ["explain"],
    ["demo", "doctor"],
    ["cli"],
    ["__main__"],
]
"""docs/design/design.md, section 2, lowest first. Places on one line do not know each other, but for the lowest."""

HEIGHT = {place: floor for floor, places in enumerate(FLOORS) for place in places}


def files() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def place(module: str) -> str:
    """`openlstm.engine.op` -> `engine`."""
    return module.split(".")[1]


def of_file(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def home(name: str) -> str:
    """The place of what `openlstm.<name>` is: a submodule, or where a public name comes from."""
    if name == "_native" or name in HEIGHT or (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists():
        return name
    return (openlstm._LAZY[name] or name).split(".")[0]


def imported(tree: ast.AST) -> Iterator[str]:
    """The places that a file's imports lead to, wherever in the file they stand."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (place(a.name) for a in node.names if a.name.startswith("openlstm."))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the floor"
            if node.module == "openlstm":
                yield from (home(a.name) for a in node.names if a.name != "__version__")
            elif (node.module or "").startswith("openlstm."):
                yield place(str(node.module))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "openlstm":
            if node.attr != "__version__":
                yield home(node.attr)


def test_every_file_has_a_floor() -> None:
    assert {of_file(p) for p in files()} <= set(HEIGHT)


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    own = of_file(path)
    for other in imported(ast.parse(path.read_text())):
        if other == "_native":
            assert own in ("engine", "doctor"), f"{own} must reach the native engine through openlstm.engine"
            continue
        down = HEIGHT[other] < HEIGHT[own]
        assert down or other == own or HEIGHT[other] == HEIGHT[own] == 0, f"{own} (floor {HEIGHT[own]}) imports {other}"


INSIGHT: list[list[str]] = [
    ["words", "results", "display", "charts", "batches", "edited", "edit"],
    ["place", "finite", "calls", "capture"],
    ["measure"],
    ["judge"],
    ["report"],
    ["watch", "xray_inputs", "xray"],
]
"""The floors inside `insight`, lowest first: capture < measure < judge < report < xray and watch."""


def modules_of(path: Path) -> Iterator[str]:
    """The modules of the package that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{a.name}" for a in node.names)


def test_imports_inside_insight_go_down_and_make_no_circle() -> None:
    home = PACKAGE / "insight"
    height = {place: floor for floor, places in enumerate(INSIGHT) for place in places}
    paths = {p.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", "."): p for p in home.rglob("*.py")}
    graph = {name: set(modules_of(path)) & set(paths) - {name} for name, path in paths.items() if path.name != "__init__.py"}
    for name, others in graph.items():
        for other in (o for o in others if not paths[o].samefile(home / "__init__.py")):
            own, below = (m.split(".")[2] for m in (name, other))
            assert height[below] <= height[own], f"{name} imports {other}"
    assert len(graph) > 30 and tuple(TopologicalSorter(graph).static_order())


def test_the_rule_sees_every_kind_of_import() -> None:
    text = "import openlstm.nn.trace\nfrom openlstm.train import x\nfrom openlstm import cells, LSTM\nopenlstm.recur(1)"
    assert list(imported(ast.parse(text))) == ["nn", "train", "cells", "nn", "engine"]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


HEAVY = ["torch", "lightning_fabric", "polars", "pandas", "altair", "vl_convert", "jinja2", "statsmodels", "matplotlib"]


@pytest.mark.parametrize("module", ["openlstm", "openlstm.engine", "openlstm.runtime", "openlstm.cells", "openlstm.cli"])
def test_a_light_import_stays_light(module: str) -> None:
    loaded = json.loads(run(f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"))
    assert not set(HEAVY) & set(loaded)


def test_no_submodule_takes_the_place_of_a_public_name() -> None:
    """A package of the name of a public function would overwrite it when it is imported."""
    code = """
import importlib, pkgutil, openlstm
before = {name: getattr(openlstm, name) for name in openlstm.__all__}
for found in pkgutil.walk_packages(openlstm.__path__, "openlstm."):
    importlib.import_module(found.name)
print([name for name, value in before.items() if getattr(openlstm, name) is not value])
"""
    assert run(code).strip() == "[]"


def test_a_public_name_is_the_same_in_whatever_order_modules_come() -> None:
    """Even where every submodule is imported before the name is asked for the first time."""
    code = """
import importlib, pkgutil, openlstm
for found in pkgutil.walk_packages(openlstm.__path__, "openlstm."):
    importlib.import_module(found.name)
for name, home in openlstm._LAZY.items():
    where = importlib.import_module(f"openlstm.{home}" if home else f"openlstm.{name}")
    wanted = getattr(where, name) if home else where
    assert getattr(openlstm, name) is wanted, name
"""
    run(code)


NATIVE = Path(__file__).parent.parent / "native"
SOURCES = sorted(path for path in NATIVE.rglob("*.[ch]pp"))
NATIVE_FLOORS = {"": 0, "vector": 1, "product": 2, "cells": 2, "runtime": 1, "loop": 3, "bind": 4}
"""The folders of native/; includes lead downwards."""
SIDEWAYS = {"rows.cpp": ("product", "cells"), "row.hpp": ("product",)}
"""What may look at its own floor: the table of all, and the steps of a single row, products and cell in one piece."""

KERNELS = ("vector", "product", "cells")
"""Compiled once for each instruction set."""


def included(path: Path) -> list[str]:
    return re.findall(r'#include\s*[<"]([^>"]+)[>"]', path.read_text())


def folder_of(path: Path) -> str:
    return path.relative_to(NATIVE).parts[0] if path.parent != NATIVE else ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_only_the_binding_knows_python(path: Path) -> None:
    foreign = [name for name in included(path) if re.match(r"Python\.h|nanobind|pybind11|torch|ATen|c10|omp", name)]
    assert folder_of(path) == "bind" or not foreign


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_includes_lead_downwards(path: Path) -> None:
    """Loops know no cell and no vector, products know no cell, cells know no product."""
    own = folder_of(path)
    for name in included(path):
        if (NATIVE / name).exists():
            other = folder_of(NATIVE / name)
            down = NATIVE_FLOORS[other] < NATIVE_FLOORS[own]
            assert down or other == own or other in SIDEWAYS.get(path.name, ()), f"{path.name} includes {name}"
            assert own != "loop" or other not in KERNELS, f"{path.name} includes {name}"


@pytest.mark.parametrize("path", [p for p in SOURCES if folder_of(p) in ("", *KERNELS)], ids=lambda p: p.name)
def test_kernels_use_nothing_of_the_standard_library_that_has_code(path: Path) -> None:
    """What they inline is compiled once per instruction set, and the linker may keep any of the copies."""
    standard = {name for name in included(path) if not (NATIVE / name).exists()}
    assert standard <= {"cstddef", "cstdint", "cstring", "immintrin.h", "arm_neon.h"}


def test_the_stub_of_the_engine_has_its_names() -> None:
    from openlstm import _native

    stub = ast.parse((PACKAGE / "_native.pyi").read_text()).body
    declared = {node.name for node in stub if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert declared == {name for name in dir(_native) if not name.startswith("_")}
