"""The repository keeps its word: links resolve, the README runs, versions are pinned, every file says what it is for."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import openlstm

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def tracked() -> list[Path]:
    """Every file that a clone holds; of an unpacked archive, which has no history, every file of the source folders."""
    done = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return [ROOT / line for line in done.stdout.splitlines() if (ROOT / line).is_file()]
    folders = ("src", "tests", "native", "docs", "examples", "benchmarks", "papers", "notebooks")
    return [p for folder in folders for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts]


FILES = tracked()
TEXTS = [p for p in FILES if p.suffix not in {".png", ".safetensors", ".parquet", ".npz", ".gz"}]
PAGES = [p for p in FILES if p.suffix == ".md"]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(text: str) -> set[str]:
    """The fragments under which a page's headings are reached."""
    heads = re.findall(r"^#+ +(.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in heads}


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.M | re.S)


def is_broken(page: Path, target: str) -> bool:
    """Whether a link of a page leads to no file, or to no heading of it."""
    file, _, fragment = target.partition("#")
    there = (page.parent / file).resolve() if file else page
    return not there.exists() or bool(fragment) and fragment not in anchors(there.read_text())


def test_every_link_of_a_page_resolves() -> None:
    links = r"!?\[[^\]]*\]\(([^)\s]+)[^)]*\)"
    targets = [(page, target) for page in PAGES for target in re.findall(links, without_code(page.read_text()))]
    inside = [(page, target) for page, target in targets if not re.match(r"https?:|mailto:", target)]
    assert len(inside) > 50
    assert [(name(page), target) for page, target in inside if is_broken(page, target)] == []


def is_there(word: str) -> bool:
    """Whether a file exists, and in it the test behind `::`."""
    file, *inside = word.split("::")
    return (ROOT / file).exists() and all(part.split("[")[0] in (ROOT / file).read_text() for part in inside)


def test_every_file_and_test_that_a_page_names_exists() -> None:
    """`src/...`, `tests/...` and the like in backticks, with or without a test's name behind `::`."""
    folders = "src|tests|native|docs|examples|benchmarks|papers|notebooks"
    words = [(page, word) for page in PAGES for word in re.findall(rf"`((?:{folders})/[^`\s]*)`", page.read_text())]
    plain = [(page, word) for page, word in words if not any(c in word.split("::")[0] for c in "*<{[")]
    assert len(plain) > 50
    assert [(name(page), word) for page, word in plain if not is_there(word)] == []


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", pytest.param("docs/forecast.md", marks=pytest.mark.slow), "docs/training.md"]
)
def test_the_python_of_a_page_runs_and_prints_what_the_page_says(page: str, tmp_path: Path) -> None:
    """All blocks of a page together, as a reader would paste them, in a fresh interpreter.

    What stands behind `# ->` at the end of a line with print() is what that line of the first block prints.
    """
    blocks = python_blocks(ROOT / page)
    done = subprocess.run([sys.executable, "-c", "\n".join(blocks)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    promised = re.findall(r"print\(.*\)\s+# -> (.*)$", blocks[0] if blocks else "", re.M)
    assert done.stdout.splitlines()[: len(promised)] == promised and (promised or page == "CONTRIBUTING.md")


def test_the_readme_shows_ten_lines_of_python() -> None:
    lines = [line for line in python_blocks(ROOT / "README.md")[0].splitlines() if line.strip()]
    assert len(lines) <= 10


PINS = {
    canonicalize_name(line.split("==")[0]): line.split("==")[1].strip()
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
}


def declared() -> list[Requirement]:
    """Every dependency that pyproject.toml names, of the build, the package and its extras."""
    extras = PROJECT["project"]["optional-dependencies"].values()
    lines = PROJECT["build-system"]["requires"] + PROJECT["project"]["dependencies"] + [r for e in extras for r in e]
    return [r for r in map(Requirement, lines) if r.name != "openlstm"]


def needed() -> set[str]:
    """The declared packages and all that they need in turn, on this interpreter."""
    todo, seen = [(r.name, tuple(r.extras)) for r in declared()], set()
    while todo:
        package, extras = todo.pop()
        if (package, extras) in seen:
            continue
        seen.add((package, extras))
        try:
            lines = requires(package) or []
        except PackageNotFoundError:  # a build tool of another machine
            continue
        for r in map(Requirement, lines):
            if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in ("", *extras)):
                todo.append((r.name, tuple(r.extras)))
    return {canonicalize_name(package) for package, _ in seen}


def test_the_constraints_pin_every_dependency_and_what_it_needs() -> None:
    assert needed() - set(PINS) <= {"setuptools"}, "refresh constraints.txt"  # torch names setuptools without needing it


DISTRIBUTIONS = cache(packages_distributions)


def imported(folder: str) -> set[str]:
    """The distributions that the Python files of a folder import, the standard library and this repository left out."""
    modules: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {a.name.split(".")[0] for a in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.split(".")[0])
    found = DISTRIBUTIONS()
    return {canonicalize_name(found[m][0]) for m in modules - set(sys.stdlib_module_names) if m in found}


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks", "examples", "papers", "docs"])
def test_what_is_imported_is_declared(folder: str) -> None:
    names = {canonicalize_name(r.name) for r in declared()} | {"openlstm"}
    assert imported(folder) - names <= {"markupsafe", "packaging", "tirex-2"}  # of jinja2; of pytest; by hand


def test_every_pin_lies_in_the_declared_range() -> None:
    assert [str(r) for r in declared() if not r.specifier.contains(PINS[canonicalize_name(r.name)])] == []


def test_the_pinned_torch_is_the_tested_one() -> None:
    assert PINS[canonicalize_name("torch")] == "2.13.0"


def test_the_version_is_the_same_everywhere() -> None:
    version = PROJECT["project"]["version"]
    assert openlstm.__version__ == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


PLACES = [r"/work/", r"/tmp/w\b", r"/root/", r"/home/[a-z]", r"/opt/", r"pypi\.", r"pythonhosted", r"download\.pytorch"]


def test_no_file_names_a_place_of_one_machine_or_a_registry() -> None:
    read = [path for path in TEXTS if path != Path(__file__).resolve()]
    assert [(name(path), found) for path in read for found in re.findall("|".join(PLACES), path.read_text())] == []


def first_sentence(path: Path) -> str:
    """The opening words of a file, without the marks of a comment."""
    text = path.read_text().removeprefix("#!/usr/bin/env python3\n").removeprefix("#!/usr/bin/env bash\n")
    text = text.removeprefix("<!doctype html>\n").lstrip()
    return re.sub(r'^(?:[rR]?"""|#+|//+|<!--|\{#-?|/\*)\s*', "", text)[:200]


SPEAKING = {".py", ".cpp", ".hpp", ".md", ".toml", ".sh", ".jinja"}
NAMED = {"Makefile", "CMakeLists.txt", "constraints.txt", "run"}


def begins_with_its_sentence(path: Path) -> bool:
    """One sentence that says what the file is for; a page may open with its title."""
    opening = path.read_text().lstrip()
    marks = {".py": '"""', ".cpp": "//", ".hpp": "//", ".md": "# ", ".jinja": ("{#", "<!")}
    if opening.startswith("#!"):
        opening = opening.split("\n", 1)[1]
    enough = len(first_sentence(path).split()) >= (1 if path.suffix == ".md" else 4)
    return opening.startswith(marks.get(path.suffix, "# ")) and enough


def test_every_file_begins_with_its_sentence() -> None:
    speaking = [p for p in TEXTS if (p.suffix in SPEAKING or p.name in NAMED) and p.stat().st_size > 0]
    assert [name(path) for path in speaking if not begins_with_its_sentence(path)] == []


def test_every_file_ends_with_one_line_end_and_no_line_with_a_space() -> None:
    for path in TEXTS:
        text = path.read_text()
        if path.suffix in {".py", ".cpp", ".hpp", ".md", ".toml"} and text:
            assert text.endswith("\n") and not text.endswith("\n\n"), name(path)
            assert not re.search(r"[ \t]$", text, re.M), name(path)


def test_continuous_integration_runs_what_a_contributor_runs() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "exec make check test"
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    assert {"demo", "test", "check", "bench"} <= set(targets)


def test_the_error_shown_in_the_design_is_the_one_that_is_raised() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError) as caught:
        openlstm.LSTM(40, 8, batch_first=True)(torch.zeros(16, 40, 100))
    page = (ROOT / "docs" / "design" / "design.md").read_text()
    assert "\n".join("    " + line for line in str(caught.value).splitlines()) in page
