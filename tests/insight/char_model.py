"""A small character model, trained in seconds on a made-up text with quotations and lines, for whoever looks inside one.

Now and then a word says by its ending whether it stands within quotation marks, and most of the text between does
not tell, so that a model has to remember it; lines end after about 36 characters.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

import openlstm

STEMS = ("walk", "sing", "talk", "hold", "turn", "hear", "sail", "look", "call", "rest")
OUTSIDE, INSIDE = "ed", "ing"
BETWEEN = ("the", "on", "and", "some", "to", "him", "all", "for")
WIDTH = 36


def text(length: int, seed: int = 0) -> str:
    """So many characters of the made-up text."""
    draw = np.random.default_rng(seed)
    words: list[str] = []
    size, quoted = 0, False
    while size < length + 200:
        ending = INSIDE if quoted else OUTSIDE
        part = " ".join(
            str(draw.choice(STEMS)) + ending if draw.random() < 0.4 else str(draw.choice(BETWEEN))
            for _ in range(draw.integers(3, 15))
        )
        part = f'"{part}"' if quoted else part + "."
        words += part.split(" ")
        size += len(part) + 1
        quoted = not quoted
    lines, line = [], ""
    for word in words:
        if len(line) + len(word) > WIDTH:
            lines.append(line.rstrip())
            line = ""
        line += word + " "
    return "\n".join(lines)[:length]


class CharModel(nn.Module):
    """Ids [B, T] -> logits [B, T, V]."""

    def __init__(self, strings: str, hidden: int = 48) -> None:
        super().__init__()
        self.strings = strings
        self.embedding = nn.Embedding(len(strings), 16)
        self.lstm = openlstm.LSTM(16, hidden, batch_first=True)
        self.head = nn.Linear(hidden, len(strings))

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(ids))[0])

    def encode(self, text: str) -> Tensor:
        """The ids of a text, [len(text)]."""
        return torch.tensor([self.strings.index(ch) for ch in text])


def untrained(seed: int = 0, hidden: int = 48) -> CharModel:
    """The model as it is drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CharModel("".join(sorted(set(text(5000)))), hidden)


@cache
def trained(steps: int = 1000, seed: int = 0, hidden: int = 48) -> CharModel:
    """The model after some steps of training on batches of 16 rows of 96 characters."""
    model = untrained(seed, hidden)
    ids = model.encode(text(60_000))
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        starts = torch.randint(0, len(ids) - 97, (16,), generator=generator)
        rows = torch.stack([ids[k : k + 97] for k in starts.tolist()])
        loss = nn.functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return model.eval()


def held_out(model: CharModel, rows: int = 8, length: int = 256, seed: int = 1) -> Tensor:
    """Ids [rows, length] of a text that the model was not trained on."""
    return model.encode(text(rows * length, seed)).view(rows, length)


if __name__ == "__main__":
    found = trained()
    rows = held_out(found)
    with torch.no_grad():
        loss = nn.functional.cross_entropy(found(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
    print(f"{loss.item():.3f} nats a character on text it has not seen")
