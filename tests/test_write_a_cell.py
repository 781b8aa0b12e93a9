"""The page 'Write a cell', word by word: its Python prints what it says, and its kernel, built as it says, keeps the laws."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support import ROOT

PAGE = (ROOT / "docs" / "write-a-cell.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```\n(?:```\n(.*?)^```\n)?", PAGE, re.M | re.S)
"""Of each block its language, its text, and the bare block behind it, which is what it prints."""


def blocks(language: str) -> list[str]:
    return [text for name, text, _ in BLOCKS if name == language]


def test_the_python_prints_what_the_page_says(tmp_path: Path) -> None:
    """One behind the other, in a fresh interpreter: `# ->` is what a line prints, a bare block what the one before it does."""
    pause = "\nprint('<next>')\n"
    code = pause.join(blocks("python"))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = [text.strip() for text in done.stdout.split("<next>\n")]
    promised = [
        "\n".join([*re.findall(r"print\(.*\)\s+# -> (.*)$", text, re.M), *after.strip().splitlines()])
        for name, text, after in BLOCKS
        if name == "python"
    ]
    assert printed == promised
    assert sum(map(bool, promised)) > 5


def copied(folder: Path) -> Path:
    """The sources, without what was built."""
    for name in ("native", "src", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("CMakeLists.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def follow(folder: Path) -> None:
    """Write the files that the page shows and change the lines that it says to change."""
    files = {"native/cells/attention.cpp": blocks("cpp")[0]}
    files["src/openlstm/cells/attention.py"] = next(text for text in blocks("python") if text.startswith('"""'))
    for name, text in files.items():
        assert re.search("`{1}`\\sin\\s`{0}/`".format(*name.rsplit("/", 1)), PAGE)
        (folder / name).write_text(text)
    for name, change in re.findall(r"^--- (.*)\n((?:[ +-](?!-- ).*\n|@@\n)*)", blocks("diff")[0], re.M):
        text = (folder / name).read_text()
        for part in change.split("@@\n"):
            lines = part.splitlines(keepends=True)
            old, new = ("".join(line[1:] for line in lines if line[0] in (" ", sign)) for sign in "-+")
            assert text.count(old) == 1, (name, old)
            text = text.replace(old, new)
        (folder / name).write_text(text)


@pytest.mark.long
def test_the_kernel_of_the_page_keeps_the_laws(tmp_path: Path) -> None:
    """Two minutes of compiling in plain code; then the tests that the page names run on the new cell."""
    folder = copied(tmp_path)
    follow(folder)
    tools = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    tools = {name: value for name, value in tools.items() if not name.startswith("PYTEST_")}
    options = ["-DOPENLSTM_ISAS=scalar", "-DCMAKE_CXX_FLAGS=-DOPENLSTM_FEW_CELLS", "-DOPENLSTM_WERROR=ON"]
    configure = ["cmake", "-S", ".", "-B", "build", "-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}", *options]
    for command in (configure, ["ninja", "-C", "build"]):
        done = subprocess.run(command, cwd=folder, env=tools, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    (module,) = (folder / "build").glob("_native*.so")
    shutil.copy(module, folder / "src" / "openlstm")
    named = re.findall(r"-m pytest (.*?) -k attention", PAGE, re.S)[0].replace("\\\n", "").split()
    command = [sys.executable, "-m", "pytest", *named, "-k", "attention", "-p", "no:cacheprovider", "-p", "no:xdist", "-vv"]
    tools |= {"PYTHONPATH": os.pathsep.join([str(folder / "src"), str(folder)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=tools, capture_output=True, text=True, check=False)
    passed = re.findall(r"(tests/[\w/]+\.py)::(\w+).*attention.* PASSED", done.stdout)
    assert done.returncode == 0, done.stdout[-3000:]
    assert len(passed) > 50 and "test_the_native_engine_computes_the_definition_on_drawn_cases" in {test for _, test in passed}
