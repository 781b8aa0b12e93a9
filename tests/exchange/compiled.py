"""A header of C as a library: compiled by the system's compiler, and called from Python."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

STRICT = "-std=c99 -Wall -Wextra -Werror -O3".split()
CROSS, EMULATOR = "aarch64-linux-gnu-gcc", shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
NEEDS_GCC = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
CPU = Path("/proc/cpuinfo")
FUSED = ["-mfma"] if CPU.exists() and " fma " in CPU.read_text() else []
"""What makes gcc use the processor's multiply-add, as the engine does."""

DRIVER = """
#define MODEL_SELF_TEST
#include "{header}"
int self_test(void) { return model_self_test(); }
int size(void) { return (int)sizeof(model); }
int inputs(void) { return model_inputs; }
int outputs(void) { return model_outputs; }
void init(model *self) { model_init(self); }
void reset(model *self) { model_reset(self); }
void run(model *self, const float *x, float *y, int n) {
  for (int t = 0; t < n; t++) model_step(self, x + t * model_inputs, y + t * model_outputs);
}
"""


class Compiled:
    """One header, named "model"; several streams of it."""

    def __init__(self, text: str, folder: Path, *flags: str) -> None:
        name = f"model{len(list(folder.glob('model*.h')))}"
        (folder / f"{name}.h").write_text(text)
        (folder / f"{name}.c").write_text(DRIVER.replace("{header}", f"{name}.h"))
        built = str(folder / f"{name}.so")
        run("gcc", *STRICT, *flags, "-shared", "-fPIC", "-o", built, str(folder / f"{name}.c"))
        self.library = ctypes.CDLL(built)

    def stream(self) -> ctypes.Array[Any]:
        """A new stream."""
        state = ctypes.create_string_buffer(b"\xff" * self.library.size())
        self.library.init(state)
        return state

    def run(self, x: np.ndarray, state: Any = None) -> np.ndarray:
        """Step over x [T, I]: y [T, O]."""
        x = np.ascontiguousarray(x, np.float32)
        y = np.empty((len(x), self.library.outputs()), np.float32)
        assert x.shape[1] == self.library.inputs()
        self.library.run(self.stream() if state is None else state, _pointer(x), _pointer(y), len(x))
        return y


def _pointer(a: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(a.ctypes.data)


def run(*command: str) -> str:
    """What a command prints; it has to succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def off(a: np.ndarray, b: np.ndarray) -> float:
    """norm(a - b) / norm(b), in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
