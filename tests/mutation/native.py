"""Mutants of the cells: operators, gates and states swapped in the text of a file of `native/cells/`, compiled, and run.

    python -m tests.mutation.native        # all of them, one compilation each; prints the survivors and the score
    python -m tests.mutation.native 24     # so many, drawn with a fixed seed

The changed file alone is compiled, for one instruction set, without optimisation; everything else once.
A mutant is found when the kernels differ from the reference on drawn cases, crash, or do not end.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
NATIVE = ROOT / "native"

RULES = [
    (r" \* ", " + "),
    (r" \+ ", " - "),
    (r" - ", " + "),
    (r"fma\(-", "fma("),
    (r">= at\.limit", "< at.limit"),
    (r"> T\(0\)", "< T(0)"),
    (r"< T\(0\)", "> T(0)"),
    (r"\[I\](?=[\[)])", "[G]"),
    (r"\[F\](?=[\[)])", "[G]"),
    (r"\[G\](?=[\[)])", "[O]"),
    (r"\[O\](?=[\[)])", "[G]"),
    (r"\[R\](?=[\[)])", "[U]"),
    (r"\[U\](?=[\[)])", "[R]"),
    (r"\[X\](?=[\[)])", "[H]"),
    (r"\[H\](?=[\[)])", "[X]"),
    (r"at\.c\[", "at.c_before["),
    (r"at\.c_before\[", "at.c["),
    (r"at\.dh\[", "at.dc["),
    (r"at\.dc\[", "at.dh["),
    (r"sigmoid<T>", "tanh<T>"),
    (r"tanh<T>", "sigmoid<T>"),
    (r"splat\(T\(1\)\)", "splat(T(2))"),
    (r"V\{\}", "splat(T(1))"),
    (r"dfed\[0\]", "dfed[1]"),
    (r"dfed\[1\]", "dfed[2]"),
    (r"dfed\[2\]", "dfed[0]"),
    (r"peephole\[0\]", "peephole[peepholes - 1]"),
    (r"peephole\[has_i\]", "peephole[0]"),
    (r"peephole\[last_peephole\]", "peephole[0]"),
    (r"early = peepholes - has_o", "early = peepholes"),
    (r"\{I, F, O\}", "{F, I, O}"),
]

# What the checks do not find, and why that is right. The key is what `Mutant` prints.
EQUIVALENT: dict[str, str] = {}

RUN = """
import importlib.util, signal, sys
signal.alarm(120)
import openlstm
spec = importlib.util.spec_from_file_location("openlstm._native", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.modules["openlstm._native"] = openlstm._native = module
from tests.mutation.native import check
check()
"""


@dataclass(frozen=True)
class Mutant:
    """One change in a file of cells."""

    file: str
    at: int  # in the text
    end: int
    line: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.file}: {self.line} [{self.old.strip()} -> {self.new.strip()}, place {self.column}]"

    @property
    def column(self) -> int:
        """Which of the equal places in its line this is."""
        text = source(self.file)
        return text.count(self.old, text.rfind("\n", 0, self.at) + 1, self.at) + 1

    def text(self) -> str:
        """The changed file."""
        text = source(self.file)
        return text[: self.at] + self.new + text[self.end :]


def files() -> list[str]:
    """The files of cells."""
    return sorted(path.name for path in (NATIVE / "cells").glob("*.cpp"))


def source(file: str) -> str:
    """The text of one of them."""
    return (NATIVE / "cells" / file).read_text()


def mutants() -> list[Mutant]:
    """All of every file, in its order; traits and comments are left alone, but for the order of fed-back gates."""
    out = []
    for file in files():
        start = 0
        for line in source(file).splitlines(keepends=True):
            code = line.split("//")[0]
            trait = "static constexpr" in code or code.startswith("template") or "static OPENLSTM_INLINE" in code
            for pattern, new in RULES:
                if trait and not pattern.startswith(r"\{I"):
                    continue
                for match in re.finditer(pattern, code):
                    out.append(Mutant(file, start + match.start(), start + match.end(), line.strip(), match.group(), new))
            start += len(line)
    return sorted(out, key=lambda m: (m.file, m.at, m.new))


def drawn(n: int, seed: int = 2) -> list[Mutant]:
    """n of them, the same for one seed."""
    every = mutants()
    return every if n >= len(every) else random.Random(seed).sample(every, n)


class Workshop:
    """A folder in which everything is compiled once."""

    def __init__(self, folder: Path) -> None:
        import nanobind

        self.folder = folder
        avx2 = "avx2" in Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else False
        self.isa = "avx2" if avx2 else "scalar"
        nb = Path(nanobind.include_dir())
        include = [NATIVE, nb, nb.parent / "ext" / "robin_map" / "include", sysconfig.get_paths()["include"]]
        self.flags = ["-std=gnu++20", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-w", "-pthread"]
        self.flags += [f"-I{path}" for path in include]
        self.kernel_flags = [f"-DOPENLSTM_ISA={self.isa}", *(["-mavx2", "-mfma"] if avx2 else [])]
        self.objects = {}
        common = [path for part in ("bind", "loop", "runtime") for path in sorted((NATIVE / part).glob("*.cpp"))]
        for path in [*common, nb.parent / "src" / "nb_combined.cpp"]:
            nanobind_itself = ["-fno-strict-aliasing", "-DNDEBUG"]
            flags = nanobind_itself if path.stem == "nb_combined" else [f"-DOPENLSTM_HAVE_{self.isa}=1"]
            self.objects[path.stem] = self._compile(path, "-O1", *flags)
        for path in [NATIVE / "product" / "product.cpp", NATIVE / "vector" / "rows.cpp"]:
            self.objects[path.stem] = self._compile(path, "-O1", *self.kernel_flags)
        for file in files():
            self.objects[Path(file).stem] = self._compile(NATIVE / "cells" / file, "-O0", *self.kernel_flags)

    def build(self, file: str, text: str) -> Path:
        """The extension with this text for a file of cells.

        Raises:
            subprocess.CalledProcessError: where it does not compile.
        """
        changed = self.folder / f"changed_{file}"
        changed.write_text(text)
        objects = self.objects | {Path(file).stem: self._compile(changed, "-O0", *self.kernel_flags)}
        library = self.folder / "_native.so"
        self._run(["g++", "-shared", "-pthread", "-o", str(library), *objects.values()])
        return library

    def found(self, file: str, text: str) -> str:
        """By what this text for a file of cells is found to be wrong, "" if it is not."""
        try:
            library = self.build(file, text)
        except subprocess.CalledProcessError as error:
            return f"does not compile: {error.stderr.decode()[:80]}"
        try:
            command = [sys.executable, "-W", "ignore", "-c", RUN, str(library)]
            done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, timeout=300)
        except subprocess.TimeoutExpired:
            return "does not end"
        words = done.stderr.decode().strip().splitlines()
        return "" if done.returncode == 0 else (words[-1][:120] if words else f"exit status {done.returncode}")

    def _compile(self, path: Path, *flags: str) -> str:
        target = str(self.folder / f"{path.stem}.o")
        self._run(["g++", *self.flags, *flags, "-c", str(path), "-o", target])
        return target

    @staticmethod
    def _run(command: list[str]) -> None:
        subprocess.run(command, check=True, capture_output=True)


def check() -> None:
    """Raise where the native engine differs from the reference on drawn cases of every cell."""
    from tests.support import draw, far, run_all

    from openlstm import reference
    from openlstm.engine.backends import cpu

    for case in draw(72, seed=70, noise=("", "", "hcg", "hcgmE", "gm"), dtype="float64"):
        problem = case.problem()
        off = far(run_all(cpu, problem), run_all(reference, problem), 1e-9)
        assert off == {}, f"{case}: {off}"


def survivors(chosen: list[Mutant], say: Callable[[str], None] = lambda _: None) -> list[Mutant]:
    """Those that no check finds; the unchanged text must pass."""
    out = []
    with tempfile.TemporaryDirectory() as folder:
        shop = Workshop(Path(folder))
        right = shop.found(files()[0], source(files()[0]))
        assert right == "", f"the kernels as they are: {right}"
        for k, mutant in enumerate(chosen):
            word = shop.found(mutant.file, mutant.text())
            if not word:
                out.append(mutant)
            say(f"{k + 1}/{len(chosen)} {mutant} -> {word or 'SURVIVES'}")
    return out


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def main() -> None:
    chosen = drawn(int(sys.argv[1]) if len(sys.argv) > 1 else sys.maxsize)
    left = survivors(chosen, lambda line: print(line, flush=True))
    known = [m for m in left if str(m) in EQUIVALENT]
    print(f"{len(chosen)} of {len(mutants())} mutants, {len(left)} not found, {len(known)} of these explained")


if __name__ == "__main__":
    main()
