"""One process or many, by Lightning Fabric: who has which rows of a batch, and sums over all of them.

Legend: N rows of a batch, P processes.
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from openlstm.engine.threads import get_num_threads, set_num_threads
from openlstm.errors import ArgumentError, TrainingError


class Processes:
    """The processes of a training, of which this is one; all have the whole model and the same random states.

    rank: the number of this one, from 0; the first writes and prints.
    count: P.
    device: where this one computes.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.rank, self.count, self.device = fabric.global_rank, fabric.world_size, fabric.device

    def share(self, rows: int) -> slice:
        """The rows of a batch of N that this process has; it may be none."""
        return slice(rows * self.rank // self.count, rows * (self.rank + 1) // self.count)

    def sums(self, *values: float) -> list[float]:
        """The sums of numbers over all processes."""
        if self.count == 1:
            return list(values)
        return self._sum(torch.tensor(values, dtype=torch.float64, device=self.device)).tolist()

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Make every gradient the sum over all processes; one that is missing counts as zero."""
        if self.count == 1:
            return
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        total = self._sum(torch.cat([g.flatten() for g in grads]))
        for p, part in zip(parameters, total.split([p.numel() for p in parameters]), strict=True):
            p.grad = part.view_as(p)

    def _sum(self, x: Tensor) -> Tensor:
        with _together():
            found = self.fabric.all_reduce(x, reduce_op="sum")
        assert isinstance(found, Tensor)
        return found


_current: Processes | None = None


def processes() -> Processes:
    """Those of `launch`; before it, this process alone."""
    global _current
    if _current is None:
        _current = Processes(Fabric(accelerator=_accelerator(), devices=1))
    return _current


def launch(count: int | None = None) -> Processes:
    """Begin to train on several processes, once at the start of a program; each of them runs the whole program.

    Under `torchrun` the others are there already, on one machine or many. Otherwise Fabric starts the program `count` - 1
    times more, with the same arguments. The threads of the engine are shared among the processes of a machine.

    Args:
        count: processes on this machine; None for those that there are.

    Raises:
        ArgumentError: if torchrun started another number of processes, or there were fewer devices.
    """
    global _current
    started = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))  # by torchrun
    if started and count not in (None, started):
        what, got = "torchrun has started another number of processes", f"--processes {count}, {started} by torchrun"
        raise ArgumentError.of("launch", what, got, f"{started}, or no --processes", "leave --processes out")
    count = started or count or 1
    world = int(os.environ["WORLD_SIZE"]) if started else count  # others than torchrun set that for programs of their own
    if world == 1:
        return processes()
    if _accelerator() == "cuda" and count > torch.cuda.device_count():
        got, expected = f"{count} processes, {torch.cuda.device_count()} GPUs", "at most one process for each GPU"
        raise ArgumentError.of("launch", "there are fewer GPUs than processes", got, expected, "pass a smaller --processes")
    for name in ("lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # a banner for each process
    fabric = Fabric(accelerator=_accelerator(), devices=count, num_nodes=world // count, strategy="ddp")
    with _together():
        fabric.launch()
    atexit.register(torch.distributed.destroy_process_group)  # its threads would abort an interpreter that ends before them
    set_num_threads(max(1, get_num_threads() // count))
    torch.set_num_threads(max(1, torch.get_num_threads() // count))
    _current = Processes(fabric)
    return _current


@contextmanager
def _together() -> Iterator[None]:
    """Inside, it is said in words when another process is gone."""
    try:
        yield
    except RuntimeError as e:  # of torch.distributed; gloo raises no class of its own
        first = str(e).splitlines()[0].split(". ")[0]
        if not isinstance(e, torch.distributed.DistError) and "onnection" not in first:
            raise
        hint = "look at what that one printed; where checkpoints were kept, --resume goes on"
        raise TrainingError.of("train", "another process of this training has ended", first, "all of them", hint) from None


def _accelerator() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
