"""DistributedDataParallel over two processes: the gradients are those of one process with all rows, ours as torch.nn's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.integration.models import EACH, KINDS, Model, same, way
from torch import Tensor

WORKER = Path(__file__).parent / "worker.py"
PROCESSES = 2
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch was built without torch.distributed"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the processes wrote what they saw."""
    folder = tmp_path_factory.mktemp("trained")
    running = [
        subprocess.Popen([sys.executable, WORKER, str(rank), str(PROCESSES), folder, *KINDS], stderr=subprocess.PIPE, text=True)
        for rank in range(PROCESSES)
    ]
    try:
        for process in running:
            _, errors = process.communicate()
            assert process.returncode == 0, errors
    finally:
        for process in running:
            process.kill()
    return folder


@EACH
def test_two_processes_train_as_torchs_layer_does(kind: str, folder: Path) -> None:
    def saw(swap: str, rank: int) -> list[Tensor]:
        return torch.load(folder / f"{kind}.{swap}.{rank}", weights_only=True)

    for rank in range(PROCESSES):
        for swap in ("before", "after"):  # the model may be wrapped after the swap or before it
            same(saw(swap, rank), saw("never", rank))
    torch.manual_seed(0)
    model = Model(kind, num_layers=2, bidirectional=True).double()
    alone, parameters = way(model), len(list(model.parameters()))
    for rank in range(PROCESSES):  # the mean over all rows is the mean of both halves' means
        same(saw("after", rank)[-parameters:], alone[-parameters:], 1e-9)
