"""One process of a data-parallel training, `python worker.py RANK WORLD FOLDER KIND...`; test_distributed.py starts it."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

sys.path[:0] = [str(Path(__file__).parents[2])]

from tests.integration.models import Model, way  # noqa: E402

import openlstm  # noqa: E402


class Share(Model):
    """The model on this process's share of the rows."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.chunk(dist.get_world_size())[dist.get_rank()])


def trained(kind: str, swap: str) -> list[Tensor]:
    """The way of a training; the layer is torch.nn's, or swapped before or after the model was wrapped."""
    torch.manual_seed(dist.get_rank())  # the first process's parameters are the ones that count
    model = Share(kind, num_layers=2, bidirectional=True).double()
    if swap == "before":
        openlstm.replace(model)
    parallel = DistributedDataParallel(model)
    if swap == "after":
        openlstm.replace(parallel)
    assert isinstance(parallel.module.rnn, getattr(torch.nn if swap == "never" else openlstm, kind))
    return way(parallel)


def main(rank: int, world: int, folder: Path, kinds: list[str]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    for kind in kinds:
        for swap in ("never", "before", "after"):
            torch.save(trained(kind, swap), folder / f"{kind}.{swap}.{rank}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
