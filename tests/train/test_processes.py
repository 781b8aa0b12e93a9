"""Several processes: the training is that of one process with the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.train import shared

from openlstm.errors import ArgumentError
from openlstm.train import Options, train
from openlstm.train.processes import Processes, launch, processes

ROOT = Path(__file__).parents[2]


class Fabric:
    """What `Processes` asks of Lightning's."""

    def __init__(self, rank: int, count: int) -> None:
        self.global_rank, self.world_size, self.device = rank, count, torch.device("cpu")


@given(st.integers(0, 300), st.integers(1, 9))
def test_every_row_has_one_process(rows: int, count: int) -> None:
    shares = [Processes(Fabric(rank, count)).share(rows) for rank in range(count)]  # type: ignore[arg-type]
    assert [n for share in shares for n in range(rows)[share]] == list(range(rows))
    sizes = [share.stop - share.start for share in shares]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch was built without torch.distributed")
@pytest.mark.parametrize("launcher", ["fabric", pytest.param("torchrun", marks=pytest.mark.long)])
def test_two_processes_train_as_one_does(launcher: str, tmp_path: Path) -> None:
    starts = [shared.__file__, str(tmp_path), "2"]
    if launcher == "torchrun":
        starts = ["-m", "torch.distributed.run", "--nproc-per-node=2", *starts[:2]]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *starts], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    for size, rows in shared.SIZES.items():
        count, (weights, losses) = torch.load(tmp_path / str(size), weights_only=True)
        expected, own = shared.trained(size, rows, shared.NOISE)
        assert count == 2
        torch.testing.assert_close(losses, own, rtol=1e-6, atol=1e-6)
        for a, b in zip(weights, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_without_a_launch_there_is_one_process() -> None:
    assert (processes().rank, processes().count, launch().count, launch(1).count) == (0, 1, 1, 1)


def test_more_processes_than_rows_are_refused_with_this_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openlstm.train.loop.processes", lambda: Processes(Fabric(0, 9)))  # type: ignore[arg-type]
    x = torch.ones(20, 1)
    with pytest.raises(ArgumentError) as e:
        train(torch.nn.Linear(1, 1), lambda *_: (x.sum(), x.sum()), [x], None, Options(batch_size=8))
    assert str(e.value) == (
        "train: a batch has fewer rows than there are processes\n  got       batch_size=8\n  expected  at least 9\n"
        "  hint      pass a larger batch_size, or fewer processes"
    )
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(ArgumentError) as e:
        launch(2)
    assert str(e.value) == (
        "launch: torchrun has started another number of processes\n  got       --processes 2, 3 by torchrun\n"
        "  expected  3, or no --processes\n  hint      leave --processes out"
    )
