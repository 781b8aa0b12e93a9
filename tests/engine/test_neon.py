"""The laws on 64-bit Arm: the same sources cross-compiled, run under qemu, and the bits compared with those of this machine.

Compiling takes minutes: `make neon` runs these, `make test` does not.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.support import ROOT

NATIVE = ROOT / "native"
COMMON = ["sequence.cpp", "threads.cpp", "workspace.cpp"]
FLAGS = "-std=gnu++20 -O2 -ffp-contract=off -fno-math-errno -fvisibility=hidden -Wall -Wextra -Wno-psabi -pthread".split()
X86 = {"scalar": [], "avx2": ["-mavx2", "-mfma"]}
CROSS, EMULATOR = "aarch64-linux-gnu-g++", shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")

pytestmark = [
    pytest.mark.neon,
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("g++") is None or not NATIVE.exists(), reason="needs g++ and the sources"),
]
ARM = pytest.mark.skipif(
    shutil.which(CROSS) is None or EMULATOR is None,
    reason="needs Debian's g++-aarch64-linux-gnu and qemu-user",
)


def build(compiler: str, isa: str, folder: Path, *flags: str) -> Path:
    """The program of laws for one instruction set."""
    program = folder / f"laws_{isa}"
    sources = [str(NATIVE / name) for name in COMMON] + [str(Path(__file__).with_name("neon_laws.cpp"))]
    define = [f"-DOPENLSTM_ISA={isa}", "-DOPENLSTM_KERNELS", f"-I{NATIVE}"]
    subprocess.run([compiler, *FLAGS, *flags, *define, *sources, "-o", str(program)], check=True)
    return program


def run(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What this machine prints, by scalar code."""
    return run(str(build("g++", "scalar", tmp_path_factory.mktemp("laws"))))


def test_the_program_of_laws_holds_here(here: list[str], tmp_path: Path) -> None:
    assert len(here) == 6 + 2 * 72 and len({line.split()[-1] for line in here}) > 130
    if platform.machine() == "x86_64" and "avx2" in Path("/proc/cpuinfo").read_text():
        assert run(str(build("g++", "avx2", tmp_path, *X86["avx2"]))) == here


@ARM
@pytest.mark.parametrize("isa", ["neon", "scalar"])
def test_the_same_bits_on_arm(isa: str, here: list[str], tmp_path: Path) -> None:
    program = build(CROSS, isa, tmp_path, "-static")
    assert EMULATOR is not None
    assert run(EMULATOR, str(program)) == here
