"""A character model that has learnt to remember quotation marks: which unit does it, where in the text, and what without it."""

import random

import torch
from torch import nn

import openlstm
from openlstm.insight import TokenText, attribution, capture_layers

# A text in which some words say by their ending whether they stand in quotation marks, and the others do not tell.
draw = random.Random(0)
parts, quoted = [], False
for _ in range(1500):
    words = (draw.choice(["the", "on", "and", "some", "to", "him"]) for _ in range(draw.randint(3, 14)))
    part = " ".join(
        w if draw.random() < 0.6 else draw.choice(["walk", "sing", "turn"]) + ("ing" if quoted else "ed") for w in words
    )
    parts.append(f'"{part}"' if quoted else f"{part}.")
    quoted = not quoted
text = " ".join(parts)
letters = "".join(sorted(set(text)))
ids = torch.tensor([letters.index(ch) for ch in text])
train, test = ids[:-1600], ids[-1600:].view(8, 200)  # [8, 200] is not trained on


class CharModel(nn.Module):
    """Ids [B, T] -> logits [B, T, V]."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(letters), 16)
        self.lstm = openlstm.LSTM(16, 48, batch_first=True)
        self.head = nn.Linear(48, len(letters))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embedding(x))[0])


torch.manual_seed(0)
model = CharModel()
optimiser = torch.optim.Adam(model.parameters(), 0.01)
for _ in range(800):
    rows = torch.stack([train[k : k + 97] for k in torch.randint(len(train) - 97, (16,)).tolist()])
    loss = nn.functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()

# Which unit tracks what? Detectors are built from the characters; chance is what columns moved in time reach.
reading = TokenText(test, letters)
place = capture_layers(model, test)["lstm.0"]
found = reading.track(place, patterns=["ing"])
for unit in found.best[:5]:
    print(f"unit {unit.unit:2d}  {unit.column:<20} r = {unit.r:5.2f}  overlap {unit.iou:.2f}  by chance {unit.chance:.2f}")
unit = found.of("inside quotes")

# The text in its colours: HTML for a page; a notebook shows it by itself.
page = reading.coloured(place, "c", unit.unit, row=0).to_html()
print(f"{page.count('<span')} characters of text in the colours of lstm.0.c, unit {unit.unit}")

# Does the model use it? Switch it off, run again, compare.
ending = torch.from_numpy(reading.search(r"(?<=walk|sing|turn)[ei]")).T[:, 1:]  # [8, 199], "ed" or "ing"?


def error() -> float:
    """Mean loss where it has to know."""
    with torch.no_grad():
        each = nn.functional.cross_entropy(model(test[:, :-1]).transpose(1, 2), test[:, 1:], reduction="none")
    return each[ending].mean().item()


whole = error()
with openlstm.edit(model, "lstm.0.c", units=unit.unit, ablate=True):
    without = error()
print(f"loss where it has to know: {whole:.2f}; without unit {unit.unit}: {without:.2f}")

# How far back does a single prediction reach?
parts = attribution(model, test)
print(parts.finding)
assert abs(unit.r) > 0.6 and unit.above_chance
assert without > 1.5 * whole and parts.gap < 0.01
assert error() == whole  # nothing of the edit is left
