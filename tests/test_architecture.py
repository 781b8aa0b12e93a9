"""Imports go down the floors only, `import openlstm` is light, and no submodule takes the place of a public name."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import openlstm

PACKAGE = Path(openlstm.__file__).parent

FLOORS: list[list[str]] = [
    ["errors", "_files", "_array", "_submodules", "_terminal", "cells", "reference", "weights", "noise", "call"],
    ["engine", "model_file"],
    ["data"],
    ["nn", "runtime"],
    ["insight"],
    ["train", "exchange"],
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


def may_import(own: str, other: str) -> bool:
    """Whether a place may know another: below it, itself, or both at the bottom; the engine alone knows the native module."""
    if other == "_native":
        return own in ("engine", "doctor")
    return HEIGHT[other] < HEIGHT[own] or other == own or HEIGHT[other] == HEIGHT[own] == 0


def test_imports_go_down_only() -> None:
    edges = [(path, other) for path in files() for other in imported(ast.parse(path.read_text()))]
    assert len(edges) > 300
    assert [(str(p.relative_to(PACKAGE)), other) for p, other in edges if not may_import(of_file(p), other)] == []


def module_of(path: Path) -> str:
    """`.../engine/run.py` -> `openlstm.engine.run`; a package is its `__init__`."""
    return ".".join(["openlstm", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")


def test_no_imports_go_round_in_a_circle() -> None:
    """Also within a folder, and for imports inside functions: a file can be understood from what lies below it."""
    trees = {module_of(p): ast.parse(p.read_text()) for p in files()}
    below: dict[str, set[str]] = {}
    for name, tree in trees.items():
        found: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                found |= {m for a in node.names for m in (f"{node.module}.{a.name}", str(node.module)) if m in trees}
            elif isinstance(node, ast.Import):
                found |= {a.name for a in node.names if a.name in trees}
        below[name] = found - {name, *(p for p in trees if name.startswith(f"{p}."))}  # a package may gather its files
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"a circle: {' -> '.join([*way[way.index(name) :], name])}"
        if name not in done:
            for other in sorted(below[name]):
                visit(other, (*way, name))
            done.add(name)

    for name in sorted(trees):
        visit(name, ())


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


LIGHT = ["openlstm", "openlstm.engine", "openlstm.runtime", "openlstm.cells", "openlstm.cli"]


def test_a_light_import_stays_light() -> None:
    """One process for all: each module is looked at after those before it, the heavy ones are none of them."""
    code = f"""
import importlib, sys
for module in {LIGHT}:
    importlib.import_module(module)
    print(module, sorted(set({HEAVY}) & set(sys.modules)))
"""
    assert run(code).splitlines() == [f"{module} []" for module in LIGHT]


def test_no_submodule_takes_the_place_of_a_public_name_in_whatever_order_modules_come() -> None:
    """A package of the name of a public function would overwrite it when it is imported.

    Once the names are asked for before any submodule is imported, once after all of them; each process begins as a copy of one
    that has loaded what the package builds on, and nothing of the package.
    """
    code = f"""
import importlib, os, pkgutil, sys
import {", ".join(name for name in HEAVY if name not in ("pandas", "matplotlib"))}, torch._dynamo, typer

def modules():
    for found in pkgutil.walk_packages(openlstm.__path__, "openlstm."):
        importlib.import_module(found.name)

for names_first in (True, False):
    if os.fork():
        assert os.wait()[1] == 0
        continue
    import openlstm
    before = {{name: getattr(openlstm, name) for name in openlstm.__all__}} if names_first else {{}}
    modules()
    for name, home in openlstm._LAZY.items():
        where = importlib.import_module(f"openlstm.{{home}}" if home else f"openlstm.{{name}}")
        wanted = getattr(where, name) if home else where
        assert getattr(openlstm, name) is wanted is before.get(name, wanted), name
    print(len(openlstm._LAZY), flush=True)
    os._exit(0)
"""
    assert run(code).split() == [str(len(openlstm._LAZY))] * 2


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


INCLUDES = [(path, name) for path in SOURCES for name in included(path)]


def test_only_the_binding_knows_python() -> None:
    foreign = [(path, name) for path, name in INCLUDES if re.match(r"Python\.h|nanobind|pybind11|torch|ATen|c10|omp", name)]
    assert foreign and {folder_of(path) for path, _ in foreign} == {"bind"}


def may_include(path: Path, name: str) -> bool:
    """Whether a header of ours lies below a file, beside it in its folder, or among what that file may look at."""
    own, other = folder_of(path), folder_of(NATIVE / name)
    down = NATIVE_FLOORS[other] < NATIVE_FLOORS[own]
    return (down or other == own or other in SIDEWAYS.get(path.name, ())) and (own != "loop" or other not in KERNELS)


def test_includes_lead_downwards() -> None:
    """Loops know no cell and no vector, products know no cell, cells know no product."""
    ours = [(path, name) for path, name in INCLUDES if (NATIVE / name).exists()]
    assert len(ours) > 50
    assert [(path.name, name) for path, name in ours if not may_include(path, name)] == []


def test_kernels_use_nothing_of_the_standard_library_that_has_code() -> None:
    """What they inline is compiled once per instruction set, and the linker may keep any of the copies."""
    theirs = [(path, name) for path, name in INCLUDES if not (NATIVE / name).exists() and folder_of(path) in ("", *KERNELS)]
    allowed = {"cstddef", "cstdint", "cstring", "immintrin.h", "arm_neon.h"}
    assert theirs and [(path.name, name) for path, name in theirs if name not in allowed] == []


def test_the_stub_of_the_engine_has_its_names() -> None:
    from openlstm import _native

    stub = ast.parse((PACKAGE / "_native.pyi").read_text()).body
    declared = {node.name for node in stub if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert declared == {name for name in dir(_native) if not name.startswith("_")}
