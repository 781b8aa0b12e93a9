"""Networks that others trained, and one trained here, do as well with their weights in 8 bits."""

from __future__ import annotations

import importlib.util
import io
import shutil
import subprocess
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import NEEDS_NATIVE, ROOT
from torch import Tensor, nn
from torch.nn import functional as F

import openlstm

pytestmark = NEEDS_NATIVE

RATE, CHUNK, CONTEXT = 16000, 512, 64  # samples a second; of a step of the network; before it
TEXT = " ".join(" ".join(p.read_text() for p in sorted((ROOT / "docs").glob("*.md"))).split())


def vowels(seconds: int) -> np.ndarray:
    """Syllables of vowels between pauses, by three resonances over the harmonics of a voice; silero-vad takes it for speech."""
    rng, t = np.random.default_rng(1), np.arange(seconds * RATE) / RATE
    spoken = np.array([[730, 1090, 2440], [270, 2290, 3010], [300, 870, 2240], [530, 1840, 2480], [570, 840, 2410]])
    path = spoken[rng.integers(len(spoken), size=6 * seconds + 1)]
    resonances = [np.interp(6 * t, np.arange(len(path)), path[:, k]) for k in range(3)]
    pitch = 120 + 25 * np.sin(2.5 * t) + 10 * np.sin(8 * t)
    phase, voice = 2 * np.pi * np.cumsum(pitch) / RATE, np.zeros(len(t))
    for k in range(1, 30):
        loud = sum(1 / (1 + ((k * pitch - at) / width) ** 2) for at, width in zip(resonances, (80, 100, 150), strict=True))
        voice += np.sin(k * phase) / k * loud
    voice *= np.clip(2 * np.sin(19 * t) + 1, 0, 1) * (np.sin(1.9 * t) > -0.4)
    return 0.3 * voice / abs(voice).max() + 0.002 * rng.standard_normal(len(t))


def speech() -> Tensor:
    """Half a minute of English at 16 kHz by espeak-ng; without it, vowels."""
    program = shutil.which("espeak-ng")
    if program is not None:
        told = """A recurrent network reads one value after another, and what it keeps of them is its state. The farmer took the
        old horse down to the river before sunrise. Seven ships left the harbour; only five of them came home again in autumn.
        Would you mind closing the window? It is getting rather cold in here. She multiplied the numbers twice, and found that
        both results were wrong. Nobody knows why the bridge was built so far away from the village."""
        command = [program, "--stdout", told]
        with wave.open(io.BytesIO(subprocess.run(command, check=True, capture_output=True).stdout)) as sound:
            rate, samples = sound.getframerate(), np.frombuffer(sound.readframes(1 << 26), "<i2") / 32768
    else:
        rate, samples = RATE, vowels(20)
    at = np.arange(0, len(samples), rate / RATE)
    return torch.from_numpy(np.interp(at, np.arange(len(samples)), samples)).float()


@torch.no_grad()
def test_silero_vad_finds_speech_with_its_lstm_in_8_bits() -> None:
    """The LSTM of the voice detector, 128 to 128 units, on what its own convolutions make of speech."""
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("silero-vad is not installed")
    from safetensors.torch import load_file

    w = load_file(Path(spec.submodule_search_locations[0]) / "data" / "silero_vad_16k.safetensors")
    sound = speech()
    sound = F.pad(sound, (CONTEXT, -len(sound) % CHUNK))
    x = F.pad(sound.unfold(0, CONTEXT + CHUNK, CHUNK), (0, 64), "reflect").unsqueeze(1)
    x = F.conv1d(x, w["stft_conv.weight"], stride=128)
    x = (x[:, :129] ** 2 + x[:, 129:] ** 2).sqrt()
    for k, stride in ((1, 1), (2, 2), (3, 2), (4, 1)):
        x = F.conv1d(x, w[f"conv{k}.weight"], w[f"conv{k}.bias"], stride=stride, padding=1).relu()
    layer = openlstm.LSTM(128, 128).eval()
    layer.load_state_dict({f"{name}_l0": w[f"lstm_cell.{name}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")})
    x = x.squeeze(-1).unsqueeze(1)  # [T, 1, 128]
    half = len(x) // 2  # one to choose the roundings, the other to see what they are worth
    quantized = openlstm.quantize(layer, x[:half])
    state = layer(x[:half])[1]
    x = x[half:]
    y, rounded, plain = (one(x, state)[0] for one in (layer, quantized, openlstm.quantize(layer)))
    spoken, found = (
        F.conv1d(a.relu().mT, w["final_conv.weight"], w["final_conv.bias"]).sigmoid().flatten() for a in (y, rounded)
    )
    error, nearest = (float((other - y).norm() / y.norm()) for other in (rounded, plain))
    apart = float((spoken - found).abs().max())
    print(f"silero-vad, {len(x)} steps: {error:.5f} of y's norm ({nearest:.5f} without like=); probabilities {apart:.4f} apart")
    assert 0.2 < float((spoken > 0.5).float().mean()) < 1  # it hears speech, and pauses
    assert error <= 1e-2 and nearest <= 2e-2
    assert bool(((spoken > 0.5) == (found > 0.5)).float().mean() > 0.99)


class Letters(nn.Module):
    """Letters in, the next letter out."""

    def __init__(self, letters: int, units: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(letters, 32)
        self.lstm: nn.Module = openlstm.LSTM(32, units, num_layers=2)
        self.head = nn.Linear(units, letters)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(tokens))[0])


@pytest.mark.slow
def test_the_loss_of_a_language_model_in_8_bits_is_that_of_float32() -> None:
    """Of a model of letters, in nats a letter, on text that it was not trained on."""
    torch.manual_seed(1)
    letters = sorted(set(TEXT))
    data = torch.tensor([letters.index(c) for c in TEXT])
    held = data[-16 * 513 :].view(16, 513).T
    data = data[: -16 * 513]
    model = Letters(len(letters), 128)
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    first = loss = torch.tensor(0.0)
    for _ in range(150):
        starts = torch.randint(len(data) - 65, (32,))
        tokens = torch.stack([data[s : s + 65] for s in starts.tolist()], 1)
        loss = F.cross_entropy(model(tokens[:-1]).flatten(0, 1), tokens[1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first = first or loss.detach()
    assert loss < 0.75 * first  # it learns
    model.eval()
    losses: list[float] = []
    layer: Any = model.lstm
    for lstm in (layer, openlstm.quantize(layer)):
        model.lstm = lstm
        with torch.no_grad():
            losses.append(float(F.cross_entropy(model(held[:-1]).flatten(0, 1), held[1:].flatten())))
    print(f"nats a letter: float32 {losses[0]:.5f}, 8 bits {losses[1]:.5f}")
    assert abs(losses[1] - losses[0]) <= 0.005
