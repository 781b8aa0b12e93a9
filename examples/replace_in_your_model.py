"""Take a model with torch.nn.LSTM inside, swap the layer, get the same numbers, and look through its gates."""

import torch
from torch import nn

import openlstm


class Tagger(nn.Module):
    """A model as many have written it: embedding, LSTM, linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 16)
        self.lstm = nn.LSTM(16, 32, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embed(tokens))[0])


torch.manual_seed(0)
model, tokens = Tagger().eval(), torch.randint(100, (4, 20))
with torch.no_grad():
    before = model(tokens)
    model = openlstm.replace(model)  # every nn.LSTM and nn.RNN inside, the very same parameters
    after = model(tokens)
print(f"largest difference after the swap: {(before - after).abs().max():.1e}")
assert torch.allclose(before, after, atol=1e-5)

seen = openlstm.trace(model.lstm, model.embed(tokens))
print(seen)
for name in ("0.f", "0_reverse.f", "1.f", "1_reverse.f"):
    print(f"{name:<12} forget gate between {seen[name].min():.2f} and {seen[name].max():.2f}")
