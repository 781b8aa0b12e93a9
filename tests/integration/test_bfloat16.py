"""A small language model learns as well in bfloat16 as in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import openlstm

TEXT = "\n".join(p.read_text() for p in sorted((Path(__file__).parents[2] / "docs").glob("*.md")))
T, B, H, WINDOW = 64, 32, 256, 20


class Model(nn.Module):
    """Letters in, the next letter out."""

    def __init__(self, letters: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(letters, 64)
        self.lstm = openlstm.LSTM(64, H)
        self.head = nn.Linear(H, letters)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embedding(tokens))[0])


def curve(seed: int, narrow: bool, steps: int) -> torch.Tensor:
    """The loss in nats a letter, averaged over windows of 20 steps: the same weights and batches for both types."""
    torch.manual_seed(seed)
    letters = sorted(set(TEXT))
    data = torch.tensor([letters.index(c) for c in TEXT])
    model = Model(len(letters))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    draw = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(steps):
        starts = torch.randint(len(data) - T - 1, (B,), generator=draw)
        tokens = torch.stack([data[s : s + T + 1] for s in starts.tolist()], 1)  # [T + 1, B]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
            logits = model(tokens[:-1])
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    return torch.tensor(losses).view(-1, WINDOW).mean(1)


@pytest.mark.long
def test_the_loss_of_a_language_model_falls_as_in_float32() -> None:
    """Within noise: nearer to float32's curve of the same seed than the curves of two seeds are to each other."""
    seeds, steps = range(3), 300
    wide = torch.stack([curve(seed, False, steps) for seed in seeds])
    narrow = torch.stack([curve(seed, True, steps) for seed in seeds])
    off = (narrow - wide).abs()
    noise = torch.stack([(wide[a] - wide[b]).abs() for a in seeds for b in seeds if a < b])
    print(f"float32 {wide.mean(0).tolist()}\nbfloat16 {narrow.mean(0).tolist()}")
    print(f"apart {off.mean():.4f} (at most {off.max():.4f}), seeds {noise.mean():.4f} (at most {noise.max():.4f})")
    assert wide[:, -1].max() < 0.8 * wide[:, 0].min()  # it learns
    assert off.mean() < 0.5 * noise.mean() and off.max() < noise.max()
