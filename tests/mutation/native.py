"""Mutants of the kernels: operators, gates and states swapped in the text of `native/cells.hpp`, compiled, and run.

    python -m tests.mutation.native        # all of them, one compilation each; prints the survivors and the score
    python -m tests.mutation.native 24     # so many, drawn with a fixed seed

Every cell is compiled, in double precision alone, for one instruction set, without optimisation: half the time.
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

KERNELS = """
#include "backward.hpp"
#include "forward.hpp"

namespace openlstm::OPENLSTM_ISA {

template <class C>
constexpr CellKernels<double> of = {forward<C, double>, backward<C, double>};
template <Variant v, bool peephole>
constexpr CellKernels<double> variant = of<Lstm<double, v, peephole>>;

static const CellKernels<double> main_kernels[main_cells] = {
    of<Lstm<double>>, of<Rnn<double, false>>, of<Rnn<double, true>>, of<Gru<double>>};
static const CellKernels<double> variants[variant_cells] = {
    variant<Variant::none, true>,
    variant<Variant::nig, true>, variant<Variant::nig, false>,
    variant<Variant::nfg, true>, variant<Variant::nfg, false>,
    variant<Variant::nog, true>, variant<Variant::nog, false>,
    variant<Variant::niaf, true>, variant<Variant::niaf, false>,
    variant<Variant::noaf, true>, variant<Variant::noaf, false>,
    variant<Variant::cifg, true>, variant<Variant::cifg, false>,
    variant<Variant::fgr, true>};
static const CellKernels<double> normed[normed_cells] = {of<LayerNormLstm<double>>};

static const CellKernels<float> none[cells] = {};

extern const Kernels kernels;
const Kernels kernels = {ISA_NAME,
                         {none, none, none, nullptr, nullptr, nullptr, nullptr},
                         {main_kernels, variants, normed, nullptr, nullptr, nullptr, nullptr}};

}
"""

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
    """One change in cells.hpp."""

    at: int  # in the text
    end: int
    line: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.line} [{self.old.strip()} -> {self.new.strip()}, place {self.column}]"

    @property
    def column(self) -> int:
        """Which of the equal places in its line this is."""
        text = source()
        return text.count(self.old, text.rfind("\n", 0, self.at) + 1, self.at) + 1

    def text(self) -> str:
        """The changed file."""
        text = source()
        return text[: self.at] + self.new + text[self.end :]


def source() -> str:
    """native/cells.hpp."""
    return (NATIVE / "cells.hpp").read_text()


def mutants() -> list[Mutant]:
    """All of the file, in its order; traits and comments are left alone, but for the order of fed-back gates."""
    out, start = [], 0
    for line in source().splitlines(keepends=True):
        code = line.split("//")[0]
        trait = "static constexpr" in code or code.startswith("template") or "static OPENLSTM_INLINE" in code
        for pattern, new in RULES:
            if trait and not pattern.startswith(r"\{I"):
                continue
            for match in re.finditer(pattern, code):
                out.append(Mutant(start + match.start(), start + match.end(), line.strip(), match.group(), new))
        start += len(line)
    return sorted(out, key=lambda m: (m.at, m.new))


def drawn(n: int, seed: int = 2) -> list[Mutant]:
    """n of them, the same for one seed."""
    every = mutants()
    return every if n >= len(every) else random.Random(seed).sample(every, n)


class Workshop:
    """A folder in which everything but the cells is compiled once."""

    def __init__(self, folder: Path) -> None:
        import nanobind

        self.folder = folder
        avx2 = "avx2" in Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else False
        self.isa = "avx2" if avx2 else "scalar"
        nb = Path(nanobind.include_dir())
        includes = [f"-I{NATIVE}", f"-I{nb}", f"-I{nb.parent}/ext/robin_map/include", f"-I{sysconfig.get_paths()['include']}"]
        self.flags = ["-std=gnu++20", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-w", "-pthread"]
        self.objects = []
        for path in [
            *(NATIVE / f"{n}.cpp" for n in ("bind", "dispatch", "threads", "workspace")),
            nb.parent / "src" / "nb_combined.cpp",
        ]:
            flags = ["-fno-strict-aliasing", "-DNDEBUG"] if path.stem == "nb_combined" else [f"-DOPENLSTM_HAVE_{self.isa}=1"]
            target = folder / f"{path.stem}.o"
            self._run([*self._compiler, "-O1", *self.flags, *includes, *flags, "-c", str(path), "-o", str(target)])
            self.objects.append(str(target))
        (folder / "kernels.cpp").write_text(KERNELS)

    _compiler = ["g++"]

    def build(self, cells: str) -> Path:
        """The extension with this text for cells.hpp.

        Raises:
            subprocess.CalledProcessError: where it does not compile.
        """
        copy = self.folder / "native"
        copy.mkdir(exist_ok=True)
        for header in NATIVE.glob("*.hpp"):  # beside each other, so that a header finds the changed one
            (copy / header.name).write_text(cells if header.name == "cells.hpp" else header.read_text())
        isa = ["-mavx2", "-mfma"] if self.isa == "avx2" else []
        defines = [f"-DOPENLSTM_ISA={self.isa}", f'-DISA_NAME="{self.isa}"', "-DOPENLSTM_KERNELS"]
        target, library = self.folder / "kernels.o", self.folder / "_native.so"
        self._run(
            [
                *self._compiler,
                "-O0",
                *self.flags,
                *isa,
                *defines,
                f"-I{copy}",
                "-c",
                str(self.folder / "kernels.cpp"),
                "-o",
                str(target),
            ]
        )
        self._run([*self._compiler, "-shared", "-pthread", "-o", str(library), *self.objects, str(target)])
        return library

    def found(self, cells: str) -> str:
        """By what this text for cells.hpp is found to be wrong, "" if it is not."""
        try:
            library = self.build(cells)
        except subprocess.CalledProcessError as error:
            return f"does not compile: {error.stderr.decode()[:80]}"
        try:
            command = [sys.executable, "-W", "ignore", "-c", RUN, str(library)]
            done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, timeout=300)
        except subprocess.TimeoutExpired:
            return "does not end"
        words = done.stderr.decode().strip().splitlines()
        return "" if done.returncode == 0 else (words[-1][:120] if words else f"exit status {done.returncode}")

    @staticmethod
    def _run(command: list[str]) -> None:
        subprocess.run(command, check=True, capture_output=True)


def check() -> None:
    """Raise where the native engine differs from the reference on drawn cases of every cell."""
    from tests.support import draw, far, run_all

    from openlstm import reference
    from openlstm.engine import cpu

    for case in draw(72, seed=70, noise=("", "", "hcg", "hcgmE", "gm"), dtype="float64"):
        problem = case.problem()
        off = far(run_all(cpu, problem), run_all(reference, problem), 1e-9)
        assert off == {}, f"{case}: {off}"


def survivors(chosen: list[Mutant], say: Callable[[str], None] = lambda _: None) -> list[Mutant]:
    """Those that no check finds; the unchanged text must pass."""
    out = []
    with tempfile.TemporaryDirectory() as folder:
        shop = Workshop(Path(folder))
        right = shop.found(source())
        assert right == "", f"the kernels as they are: {right}"
        for k, mutant in enumerate(chosen):
            word = shop.found(mutant.text())
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
