"""Train on several processes, `python shared.py FOLDER PROCESSES` or by torchrun; the first writes the weights."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tests.train.kills import Carrying, network
from torch import Tensor, nn

from openlstm.train import Options, train
from openlstm.train.processes import launch, processes

SIZES = {37: 8, 33: 8, 5: 3}
"""Examples, and rows of a batch: the last batch is ragged, or of one row, which a process has not."""

NOISE = {"dropout": 0.0, "zoneout_c": 0.1, "zoneout_h": 0.2}


class Plain(Carrying):
    """The loss without what is carried: a state of a batch is no state of another one; and without torch's dropout."""

    def __call__(self, model: nn.ModuleDict, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return ((model["head"](model["rnn"](x)[0]) - y) ** 2).sum(), torch.tensor(y.numel())


def trained(count: int, rows: int, noise: dict[str, float]) -> tuple[list[Tensor], list[float]]:
    """The weights after ten steps, and the losses."""
    model = network(**noise)
    x = torch.randn(count, 5, 2, generator=torch.Generator().manual_seed(count))
    data = [x, x.cumsum(1)[..., :1]]
    options = Options(epochs=2, batch_size=rows, least_batches=5, most_batches=5)
    history = train(model, Plain(), data, [part[:7] for part in data], options)
    losses = [loss for e in history.epochs for loss in (e.train_loss, e.validation_loss)]
    return [p.detach() for p in model.parameters()], losses


def main(folder: Path, count: int | None) -> None:
    first = launch(count).rank == 0
    for size, rows in SIZES.items():
        found = trained(size, rows, NOISE)
        if first:
            torch.save((processes().count, found), folder / str(size))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
