"""Kill a training at random instants and resume it until it ends: `python kills.py FOLDER KILLS SEED`; a test starts it.

Every attempt is a forked child, so that torch is loaded once. Prints the digest of the last weights.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import openlstm
from openlstm.train import Options, Step, train
from openlstm.train.checkpoint import Checkpoints

OPTIONS = Options(epochs=3, batch_size=8, least_batches=20, most_batches=20, shuffle=False)


class Carrying:
    """Truncated backpropagation through time: (h, c) of a step are the beginning of the next; they belong to the loss."""

    def __init__(self) -> None:
        self.state: tuple[Tensor, ...] | None = None

    def __call__(self, model: nn.ModuleDict, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if not model.training:
            h, _ = model["rnn"](x)
        else:
            h, state = model["rnn"](x, self.state)
            self.state = tuple(s.detach() for s in state)
        return ((model["head"](torch.nn.functional.dropout(h, 0.2, model.training)) - y) ** 2).sum(), torch.tensor(y.numel())

    def state_dict(self) -> dict[str, tuple[Tensor, ...] | None]:
        return {"state": self.state}

    def load_state_dict(self, state: dict[str, tuple[Tensor, ...] | None]) -> None:
        self.state = state["state"]


def network(**noise: Any) -> nn.ModuleDict:
    """Two layers and a head, with noise of every kind unless told otherwise."""
    torch.manual_seed(0)
    noise = noise or {"dropout": 0.3, "zoneout_c": 0.1}
    rnn = openlstm.LSTM(2, 6, num_layers=2, batch_first=True, **noise)
    return nn.ModuleDict({"rnn": rnn, "head": nn.Linear(6, 1)})


def examples() -> list[Tensor]:
    x = torch.randn(160, 5, 2, generator=torch.Generator().manual_seed(1))
    return [x, x.cumsum(1)[..., :1]]


def digest(model: nn.Module) -> str:
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()


def run(folder: Path | None) -> str:
    """The whole training, or what is left of it."""
    model, data = network(), examples()
    checkpoints = None if folder is None else (Checkpoints(folder, {"a": 1}, resume=True, every=0.0), "one")
    told = os.open(os.devnull if folder is None else folder.parent / "steps", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def tell(step: Step) -> None:
        os.write(told, f"{step.number}\n".encode())

    train(model, Carrying(), data, [part[:16] for part in data], OPTIONS, each_step=[tell], checkpoints=checkpoints)
    return digest(model)


def main(folder: Path, kills: int, seed: int) -> None:
    draw, killed = random.Random(seed), 0
    while True:
        child = os.fork()
        if not child:
            (folder / "digest").write_text(run(folder / "saved"))
            os._exit(0)
        if killed < kills:
            time.sleep(draw.random() * 0.1)
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if status == 0 and killed >= kills:
            break
        assert status in (0, signal.SIGKILL), status
        killed += status != 0
        if status == 0:  # it ended before it was killed: begin again
            for file in (folder / "saved").glob("*"):
                file.unlink()
    steps = [int(line) for line in (folder / "steps").read_text().split()]
    for before, after in zip(steps, steps[1:], strict=False):  # no more is lost than the step that was going on
        assert after - before in (0, 1) or (after == 0 and before == 59), (before, after)
    print((folder / "digest").read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
