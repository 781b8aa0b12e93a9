"""What one contestant of the benchmark is asked to run, and the numbers it runs on: the same in every process.

Legend: T time, B batch, I input size, H hidden size, G gates of a cell, N networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

Shape = tuple[int, int, int, int]  # T, B, I, H
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1, "MinGRU": 2, "MinLSTM": 3, "JANET": 2, "IndRNN": 1}
HEADS = {"SLSTM": 4}
NETWORKS = 100
RESETS = 0.02  # of all steps


@dataclass(frozen=True)
class Job:
    """One library, one cell, one shape; `how` names what is unusual about the call, see the builders of `who`."""

    who: str  # openlstm, torch, onnxruntime, flax, loop
    mode: str  # forward, train
    shape: Shape
    cell: str = "LSTM"
    how: str = ""
    threads: int | None = None  # other than the run's; openlstm only


class Given(NamedTuple):
    """Inputs and weights in torch's layout, float32."""

    x: np.ndarray  # [T, B, I]
    dy: np.ndarray  # [T, B, H], the gradient that a training step sends back
    w_ih: np.ndarray  # [G*H, I]
    w_hh: np.ndarray  # [G*H, H]
    b_ih: np.ndarray  # [G*H]
    b_hh: np.ndarray  # [G*H]
    lengths: np.ndarray  # int64 [B], uniform over 1..T
    reset: np.ndarray  # bool [T, B]

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """By the names of a state_dict."""
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        return dict(zip(names, (self.w_ih, self.w_hh, self.b_ih, self.b_hh), strict=True))

    def beside(self, y: np.ndarray) -> np.ndarray:
        """y [T, B, .] with exact zeros past each row's length."""
        return np.where((np.arange(len(y))[:, None] < self.lengths)[..., None], y, np.float32(0))


@lru_cache(maxsize=2)
def given(shape: Shape, gates: int) -> Given:
    """Drawn from a fixed seed, so that every process has the same."""
    T, B, I, H = shape
    draw = np.random.default_rng(0)

    def normal(*size: int) -> np.ndarray:
        return draw.standard_normal(size, dtype=np.float32)

    def weight(*size: int) -> np.ndarray:
        return (draw.random(size, dtype=np.float32) * 2 - 1) / np.sqrt(np.float32(H))

    rows = gates * H
    return Given(
        x=normal(T, B, I),
        dy=normal(T, B, H),
        w_ih=weight(rows, I),
        w_hh=weight(rows, H),
        b_ih=weight(rows),
        b_hh=weight(rows),
        lengths=draw.integers(1, T + 1, B),
        reset=draw.random((T, B)) < RESETS,
    )


def inputs(job: Job) -> Given:
    """What `job` runs on; every cell but GRU and RNN is given an LSTM's weights where it can take them."""
    return given(job.shape, GATES.get(job.cell, 4))


def seen(cell: str, H: int) -> int:
    """What a unit sees of h: all of it, its head, itself, or nothing."""
    return {"MinGRU": 0, "MinLSTM": 0, "IndRNN": 1}.get(cell, H // HEADS.get(cell, 1))


def flop(job: Job) -> int:
    """Multiplications and additions of a call: both products of every gate, three times that with all gradients."""
    T, B, I, H = job.shape
    return 2 * T * B * GATES.get(job.cell, 4) * H * (I + seen(job.cell, H)) * (3 if job.mode == "train" else 1)


def real_steps(job: Job) -> int:
    """The steps of all rows that are not padding."""
    T, B, _, _ = job.shape
    return int(inputs(job).lengths.sum()) if job.how in RAGGED else T * B


RAGGED = ("lengths", "packed", "cu_seqlens")
