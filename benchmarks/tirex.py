"""TiRex-2 as a job, with random weights: its own path, that compiled, and ours in its place by the program of examples/.

A shape is (T, B, I, H): T values of B series, patches of I, H units; with the future that is (T + 320) / I steps of a block.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from job import Job
from worker import Built, Missing

BLOCKS, LONGEST, FUTURE = 12, 2048, 320
COMPILED = ("mLSTMLayer", "sLSTMFlashRNNLayer")  # what its load_model(compile=True) compiles


def build(job: Job, ours: bool) -> Built:
    """`how` says what of it: recurrence (of one sLSTM block, from its sums), forecast, or value (one more of each series).

    Raises:
        Missing: where tirex-2 is not installed.
    """
    if not find_spec("tirex2"):
        raise Missing("tirex-2 is not installed")
    sys.path.append(str(Path(__file__).parent.parent / "examples"))
    import tirex_forecasts as program  # pyright: ignore[reportMissingImports]
    import torch

    T, B, I, H = job.shape
    _, what, *compiled = job.how.split()
    torch.manual_seed(0)
    model = program.untrained(H, BLOCKS, I, LONGEST, FUTURE)
    series = torch.randn(B, T + 1).cumsum(1)
    sums = torch.randn(B, -(-(T + FUTURE) // I), 4, 4, H // 4)  # gates, heads
    if ours:
        program.swap(model)
    run: Callable[[], Any]
    if what == "recurrence" and ours:
        lstm = model.stack[1].time_mixer.fwd_cell.lstm
        run = lambda: lstm(sums.flatten(2).transpose(0, 1))[0].transpose(0, 1)  # noqa: E731
    elif what == "recurrence":
        loop = model.stack[1].time_mixer.fwd_cell.recurrence
        loop = torch.compile(loop, dynamic=False) if compiled else loop
        run = lambda: loop(sums)[0][0].flatten(2)  # noqa: E731
    elif what == "value":
        stream = program.Stream(model, [row[None, :T] for row in series])
        run = lambda: torch.cat(stream.append(series[:, T]))  # noqa: E731
    else:
        for module in model.modules():
            if compiled and type(module).__name__ in COMPILED:
                module.compile()
        x = torch.nn.functional.pad(series[:, :T], (0, FUTURE), value=torch.nan)
        batch = {"x": x, "group_vector": torch.arange(B), "target_mask": torch.ones(B, dtype=torch.bool)}
        run = lambda: model(batch)  # noqa: E731

    @torch.no_grad()
    def call() -> Any:
        return run()

    def numbers() -> dict[str, np.ndarray]:
        return {"y": call().numpy()}

    return Built(call, numbers)
