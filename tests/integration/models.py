"""Small models of every recurrent kind, with torch.nn's layer and with ours, and the way a training takes, for this folder."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import openlstm

KINDS = [kind for kind in ("LSTM", "RNN", "GRU") if hasattr(openlstm, kind)]
EACH = pytest.mark.parametrize("kind", KINDS)
GATES = {"LSTM": 4, "RNN": 1, "GRU": 3}

Change = Callable[[Any], Any]


class Model(nn.Module):
    """Tokens or features -> recurrent layers -> logits: the shape of most models with such a layer inside."""

    def __init__(self, kind: str, inputs: int = 6, hidden: int = 6, tokens: int = 0, **options: Any) -> None:
        super().__init__()
        self.first = nn.Embedding(tokens, inputs) if tokens else nn.Linear(5, inputs)
        self.rnn = getattr(nn, kind)(inputs, hidden, batch_first=True, **options)
        self.head = nn.Linear(hidden * (2 if options.get("bidirectional") else 1), tokens or 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.first(x))[0])


def pair(kind: str, before: Change | None = None, after: Change | None = None, **options: Any) -> tuple[Any, Any]:
    """(theirs, ours): the same model in float64, its layer swapped in the second; `before` and `after` change both."""
    torch.manual_seed(0)
    theirs = Model(kind, **options).double()
    if before is not None:
        before(theirs)
    ours = openlstm.replace(copy.deepcopy(theirs))
    assert isinstance(ours.rnn, getattr(openlstm, kind))
    for model in (theirs, ours):
        torch.manual_seed(1)  # some changes draw random numbers
        if after is not None:
            after(model)
    return theirs, ours


def given(model: Any, rows: int = 4, steps: int = 7, seed: int = 2) -> Tensor:
    """An input for a model: features, or tokens where it begins with an embedding."""
    generator = torch.Generator().manual_seed(seed)
    first = getattr(model, "module", model).first
    if isinstance(first, nn.Embedding):
        return torch.randint(first.num_embeddings, (rows, steps), generator=generator)
    return torch.randn(rows, steps, 5, generator=generator, dtype=torch.float64).to(first.weight.dtype)


def way(model: Any, steps: int = 3, optimiser: Callable[..., Any] | None = None, clip: float | None = None) -> list[Tensor]:
    """Outputs, gradients and losses of some steps of training, and the parameters at its end."""
    chosen = (optimiser or (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)))(model.parameters())
    seen: list[Tensor] = []

    def loss_of(n: int) -> Tensor:
        chosen.zero_grad()
        with parametrize.cached():  # a parametrised weight is computed once a step, however often it is read
            y = model(given(model, seed=n))
        loss = y.square().mean() + y.sin().mean()
        loss.backward()
        seen.extend([y.detach(), loss.detach()])
        return loss

    for n in range(steps):
        if isinstance(chosen, torch.optim.LBFGS):
            chosen.step(partial(loss_of, n))
            continue
        loss_of(n)
        if clip is not None:
            seen.append(torch.as_tensor(nn.utils.clip_grad_norm_(model.parameters(), clip)))
        seen += [p.grad.clone() for p in model.parameters() if p.grad is not None]
        chosen.step()
    return seen + [p.detach() for p in model.parameters()]


def same(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-10) -> None:
    """Every tensor of one way beside its twin of the other."""
    assert len(ours) == len(theirs) > 0
    for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a.shape == b.shape, k
        a, b = a.detach().double(), b.detach().double()
        assert float((a - b).norm()) <= tolerance * float(b.norm()) + 1e-14, k
