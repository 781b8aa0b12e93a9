"""The program of laws (laws.cpp): the bits of other machines, under qemu, and no fault that a sanitizer could find.

Compiling takes minutes: `make neon` runs the part for 64-bit Arm and `make long` all, `make test` only reads the program.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.support import ROOT

NATIVE = ROOT / "native"
SOURCES = [path for folder in ("vector", "cells", "loop") for path in sorted((NATIVE / folder).glob("*.cpp"))]
SOURCES += [NATIVE / "runtime" / name for name in ("threads.cpp", "workspace.cpp")]
FLAGS = "-std=gnu++20 -ffp-contract=off -fno-math-errno -fvisibility=hidden -Wall -Wextra -Wno-psabi -pthread".split()
FEW = "-DOPENLSTM_FEW_CELLS=3"
"""One of each way to reach memory: all variants would take a sanitizer a quarter of an hour to compile."""
SANITIZERS = {
    "memory": [FEW, "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    "threads": [FEW, "-fsanitize=thread"],
}
CROSS, EMULATOR = "aarch64-linux-gnu-g++", shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")

pytestmark = [
    pytest.mark.timeout(7200),
    pytest.mark.skipif(shutil.which("g++") is None or not NATIVE.exists(), reason="needs g++ and the sources"),
]
ARM = pytest.mark.skipif(
    shutil.which(CROSS) is None or EMULATOR is None,
    reason="needs Debian's g++-aarch64-linux-gnu and qemu-user",
)


AVX512 = "-mavx512f -mavx512vl -mavx512dq -mavx512bw -mavx512bf16 -mavx2 -mfma -mprefer-vector-width=512 -w".split()
BFLOAT16 = {
    "avx512bf16": ("avx512_bf16", ["-DOPENLSTM_BFLOAT16", *AVX512]),
    "amxtest": ("avx2", "-DOPENLSTM_BFLOAT16 -DOPENLSTM_TILES -DOPENLSTM_EMULATE_TILES -mavx2 -mfma".split()),
}
"""What the processor must have, and flags, for each of the kernels for bfloat16."""


def build(compiler: str, isa: str, folder: Path, *flags: str) -> str:
    """The program of laws for one instruction set."""
    program = str(folder / f"laws_{isa}")
    products = NATIVE / "product" / ("amx.cpp" if isa == "amxtest" else "product.cpp")
    sources = [str(path) for path in (products, *SOURCES, Path(__file__).with_name("laws.cpp"))]
    define = [f"-DOPENLSTM_ISA={isa}", f"-I{NATIVE}"]
    subprocess.run([compiler, *FLAGS, *flags, *define, *sources, "-o", program], check=True)
    return program


def run(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def has(flag: str) -> bool:
    """Whether this is an x86 processor with it, by the name that Linux gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    return platform.machine() == "x86_64" and cpuinfo.exists() and flag in cpuinfo.read_text()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What scalar code prints on this machine."""
    return run(build("g++", "scalar", tmp_path_factory.mktemp("laws"), "-O2"))


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The same of a few cells."""
    return run(build("g++", "scalar", tmp_path_factory.mktemp("few"), "-O2", FEW))


@pytest.mark.parametrize("numbers", [[], ["-DOPENLSTM_BFLOAT16"]], ids=["float", "bfloat16"])
def test_the_program_fits_the_tables_of_the_engine(numbers: list[str]) -> None:
    """Its names are those of kernels.hpp: what the long tests compile, read by the compiler in a second."""
    laws = str(Path(__file__).with_name("laws.cpp"))
    subprocess.run(["g++", *FLAGS, *numbers, "-fsyntax-only", "-DOPENLSTM_ISA=scalar", f"-I{NATIVE}", laws], check=True)


@pytest.mark.long
@pytest.mark.neon
def test_the_program_sees_differences(here: list[str]) -> None:
    """It prints one line for each problem, and hardly two are alike."""
    assert len(here) == 8 + 2 * 216 and len({line.split()[-1] for line in here}) > 380


@ARM
@pytest.mark.long
@pytest.mark.neon
@pytest.mark.parametrize("isa", ["neon", "scalar"])
def test_the_same_bits_on_arm(isa: str, here: list[str], tmp_path: Path) -> None:
    assert EMULATOR is not None
    assert run(EMULATOR, build(CROSS, isa, tmp_path, "-O2", "-static")) == here


@pytest.mark.long
@pytest.mark.skipif(not has("avx2"), reason="this processor has no AVX2")
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_no_sanitizer_finds_a_fault(sanitizer: str, few: list[str], tmp_path: Path) -> None:
    """No byte read or written outside its array, nothing undefined, no two threads at one place."""
    assert run(build("g++", "avx2", tmp_path, "-O1", "-g", "-mavx2", "-mfma", *SANITIZERS[sanitizer])) == few


@pytest.mark.long
@pytest.mark.parametrize("isa", BFLOAT16)
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_no_sanitizer_finds_a_fault_in_bfloat16(isa: str, sanitizer: str, tmp_path: Path) -> None:
    """Two numbers in the place of one: an odd row must not be read beyond its end. The laws are those of the other types."""
    needs, flags = BFLOAT16[isa]
    if not has(needs):
        pytest.skip(f"this processor has no {needs}")
    lines = run(build("g++", isa, tmp_path, "-O1", "-g", *flags, *SANITIZERS[sanitizer]))
    assert len(lines) == 216 and len({line.split()[-1] for line in lines}) > 180
