"""One step of an LSTM as a header of C beside RTNeural: `python benchmarks/c_header.py FOLDER` with a clone of RTNeural.

RTNeural has its Eigen backend, and sizes known to the compiler (`LSTMLayerT`); both have the same weights and
`-O3 -march=native`, run in one process and one thread, and are timed in turn, in processor time.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import openlstm
from openlstm.exchange.stack import Stack

OURS = """
#include "model.h"
static model state;
void ours_step(const float *x, float *y) { model_step(&state, x, y); }
"""

PEER = """
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <vector>
#define RTNEURAL_USE_EIGEN 1
#define RTNEURAL_DEFAULT_ALIGNMENT 16
#include "RTNeural/RTNeural.h"
extern "C" void ours_step(const float *x, float *y);
constexpr int H = SIZE, steps = 10000, blocks = 41;
static RTNeural::LSTMLayerT<float, 1, H> peer;

static void peer_step(const float *x, float *y) {
  Eigen::Matrix<float, 1, 1> in(x[0]);
  peer.forward(in);
  for (int k = 0; k < H; k++) y[k] = peer.outs(k);
}
static float y[2][steps][H], x[steps];

static double block(void (*step)(const float *, float *), float (*out)[H]) {
  timespec a, b;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
  for (int t = 0; t < steps; t++) step(x + t, out[t]);
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
  return ((b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec)) / steps;
}

int main() {
  std::ifstream file("numbers.bin", std::ios::binary);
  auto rows = [&](int n) {  // [4H, n] as [n][4H]
    std::vector<std::vector<float>> out(n, std::vector<float>(4 * H));
    for (int r = 0; r < 4 * H; r++)
      for (int k = 0; k < n; k++) file.read(reinterpret_cast<char *>(&out[k][r]), sizeof(float));
    return out;
  };
  peer.setWVals(rows(1)), peer.setUVals(rows(H)), peer.setBVals(rows(1)[0]);
  peer.reset();
  file.read(reinterpret_cast<char *>(x), sizeof x);
  double wrong = 0, all = 0;
  std::vector<double> ours, theirs;
  for (int n = 0; n < blocks; n++) {
    ours.push_back(block(ours_step, y[0])), theirs.push_back(block(peer_step, y[1]));
    for (int t = 0; n == 0 && t < steps; t++)
      for (int k = 0; k < H; k++) wrong += std::pow(y[0][t][k] - y[1][t][k], 2), all += std::pow(y[1][t][k], 2);
  }
  std::sort(ours.begin(), ours.end()), std::sort(theirs.begin(), theirs.end());
  std::printf("H = %2d   openlstm %6.1f ns   RTNeural %6.1f ns   difference %.1e\\n", H, ours[blocks / 2], theirs[blocks / 2],
              std::sqrt(wrong / all));
}
"""


def compare(size: int, clone: Path, folder: Path) -> None:
    """Print the medians for an LSTM with one input."""
    torch.manual_seed(0)
    layer = openlstm.LSTM(1, size).eval()
    openlstm.export(layer, "c", folder / "model.h")
    w: Any = Stack.of(layer).weights[0][0]
    x = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    numbers = np.concatenate([w.w_ih.ravel(), w.w_hh.ravel(), w.b_ih + w.b_hh, x])
    (folder / "numbers.bin").write_bytes(numbers.tobytes())
    (folder / "ours.c").write_text(OURS)
    (folder / "peer.cpp").write_text(PEER.replace("SIZE", str(size)))
    flags = ["-O3", "-march=native", "-c"]
    places = [f"-I{clone}", f"-isystem{clone / 'modules/Eigen'}"]
    subprocess.run(["gcc", "-std=c99", *flags, "ours.c"], cwd=folder, check=True)
    subprocess.run(["g++", "-std=c++17", *flags, *places, "peer.cpp"], cwd=folder, check=True)
    subprocess.run(["g++", "ours.o", "peer.o", "-o", "both"], cwd=folder, check=True)
    subprocess.run(["./both"], cwd=folder, check=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        for hidden in (16, 32, 64):
            compare(hidden, Path(sys.argv[1]).resolve(), Path(made))
