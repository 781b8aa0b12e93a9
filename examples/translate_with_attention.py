"""A sequence-to-sequence model with attention on packed, ragged input: swap its layers while it trains.

The task is to say a row of digits backwards. Both models see the same data and begin with the same parameters.
"""

import copy
import time

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import openlstm

DIGITS, PAD, START = 10, 10, 11
LONGEST, B, HIDDEN, STEPS = 30, 64, 64, 20


class Translator(nn.Module):
    """Encoder in both directions over packed rows; decoder whose every step looks at all of the encoder's outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(START + 1, HIDDEN, padding_idx=PAD)
        self.encoder = nn.LSTM(HIDDEN, HIDDEN // 2, batch_first=True, bidirectional=True)
        self.decoder = nn.LSTM(HIDDEN, HIDDEN, num_layers=2, batch_first=True)
        self.head = nn.Linear(2 * HIDDEN, DIGITS)

    def forward(self, source: Tensor, lengths: Tensor, given: Tensor) -> Tensor:
        """source and given [B, T] tokens, lengths [B] on CPU -> logits [B, T, DIGITS]."""
        packed = pack_padded_sequence(self.embed(source), lengths, batch_first=True, enforce_sorted=False)
        seen, (h, c) = self.encoder(packed)
        memory, _ = pad_packed_sequence(seen, batch_first=True, total_length=source.shape[1])  # [B, T, H]
        start = tuple(s.transpose(0, 1).reshape(1, len(source), -1).expand(2, -1, -1).contiguous() for s in (h, c))
        y, _ = self.decoder(self.embed(given), start)
        scores = (y @ memory.transpose(1, 2)).masked_fill((source == PAD).unsqueeze(1), -torch.inf)
        return self.head(torch.cat([y, scores.softmax(-1) @ memory], -1))


def batch(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows of random digits, their lengths, what the decoder is given, and what it should say."""
    lengths = torch.randint(1, LONGEST + 1, (B,), generator=generator)
    inside = torch.arange(LONGEST) < lengths.unsqueeze(1)
    source = torch.randint(DIGITS, (B, LONGEST), generator=generator).masked_fill(~inside, PAD)
    back = (lengths.unsqueeze(1) - 1 - torch.arange(LONGEST)).clamp(min=0)
    target = source.gather(1, back).masked_fill(~inside, PAD)
    given = torch.cat([torch.full((B, 1), START), target[:, :-1]], 1)
    return source, lengths, given, target


def train(model: nn.Module) -> tuple[list[float], float]:
    """The losses of the first steps, and target tokens per second."""
    generator, losses, tokens = torch.Generator().manual_seed(1), [], 0
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    start = time.perf_counter()
    for _ in range(STEPS):
        source, lengths, given, target = batch(generator)
        loss = nn.functional.cross_entropy(model(source, lengths, given).flatten(0, 1), target.flatten(), ignore_index=PAD)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
        tokens += int(lengths.sum())
    return losses, tokens / (time.perf_counter() - start)


torch.manual_seed(0)
before = Translator()
after = openlstm.replace(copy.deepcopy(before))
assert isinstance(after.encoder, openlstm.LSTM) and isinstance(after.decoder, openlstm.LSTM)

source, lengths, given, _ = batch(torch.Generator().manual_seed(0))
with torch.no_grad():  # also the first call of both, which is not timed
    difference = float((before(source, lengths, given) - after(source, lengths, given)).abs().max())
print(f"largest difference after the swap: {difference:.0e}")

losses, speed = train(before)
other_losses, other_speed = train(after)
for name, rate, first, last in (
    ("torch.nn.LSTM", speed, losses[0], losses[-1]),
    ("openlstm.LSTM", other_speed, other_losses[0], other_losses[-1]),
):
    print(f"{name}  {rate:8,.0f} tokens per second while training, loss {first:.4f} -> {last:.4f}")
assert difference < 1e-5
assert all(abs(a - b) < 1e-3 for a, b in zip(losses, other_losses, strict=True))
