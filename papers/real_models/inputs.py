"""What the real models are given: speech of espeak-ng, images of texts, each prepared as the model's own package does it.

Legend: S samples, F frames.
"""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from importlib.metadata import files
from pathlib import Path

import numpy as np
import torch
from scipy.signal import chirp, resample_poly

RATE = 16_000
SENTENCES = ("The cell keeps what it was told.", "A gate may forget it,", "or let it through, a hundred steps later.")
FRAME, CONTEXT = 512, 64
"""Samples of a step of silero-vad, and of the step before that come with them."""
MELS, WINDOW, HOP, PARTIAL = 40, 400, 160, 160
"""Resemblyzer: bands, samples of a window and between two of them, frames of a partial utterance."""


def file_of(package: str, name: str) -> Path:
    """A file of an installed package, found without importing it.

    Raises:
        PackageNotFoundError: if the package is not installed.
        FileNotFoundError: if it holds no such file.
    """
    found = next((Path(str(each.locate())) for each in files(package) or () if each.name == name), None)
    if found is None:
        raise FileNotFoundError(f"{package} holds no {name}")
    return found


def speaks() -> bool:
    """Whether espeak-ng is installed (tools/espeak.sh)."""
    return shutil.which("espeak-ng") is not None


@cache
def sound(voice: str = "en") -> np.ndarray:
    """[S] at 16 kHz: three sentences with a second of faint noise around each; without espeak-ng three chirps instead."""
    noise = np.random.default_rng(0)
    parts = [np.zeros(RATE)]
    for sentence in SENTENCES:
        parts += [said(sentence, voice) if speaks() else 0.3 * sweep(2.0), np.zeros(RATE)]
    whole = np.concatenate(parts)
    return (whole + noise.normal(0, 1e-3, whole.shape)).astype(np.float32)


def said(sentence: str, voice: str) -> np.ndarray:
    """What espeak-ng makes of a sentence."""
    command = ["espeak-ng", "-v", voice, "--stdout", sentence]
    wave = subprocess.run(command, capture_output=True, check=True).stdout
    rate = int.from_bytes(wave[24:28], "little")  # of a header of 44 bytes, whose length of the data is left open
    samples = np.frombuffer(wave[44:], "<i2") / 32768
    common = np.gcd(rate, RATE)
    return resample_poly(samples, RATE // common, rate // common)


def sweep(seconds: float) -> np.ndarray:
    """A chirp from 100 to 4,000 Hz that swells four times a second, as syllables do."""
    t = np.arange(int(seconds * RATE)) / RATE
    return chirp(t, 100, seconds, 4000) * np.sin(4 * np.pi * t) ** 2


def steps_of(wave: np.ndarray) -> np.ndarray:
    """[F, 576]: the steps of silero-vad, each with the last samples of the one before in front."""
    steps = wave[: len(wave) // FRAME * FRAME].reshape(-1, FRAME)
    before = np.concatenate([np.zeros((1, CONTEXT), wave.dtype), steps[:-1, -CONTEXT:]])
    return np.concatenate([before, steps], 1)


def mel_bands() -> torch.Tensor:
    """[201, 40]: triangles between points that are even on Slaney's scale, each of area 1."""
    step = np.log(6.4) / 27
    top = 15 + np.log(RATE / 2 / 1000) / step
    marks = np.linspace(0, top, MELS + 2)  # linear to 1 kHz, then logarithmic
    edges = np.where(marks < 15, marks * 200 / 3, 1000 * np.exp(step * (marks - 15)))
    f = np.linspace(0, RATE / 2, WINDOW // 2 + 1)[:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    up, down = (f - low) / (middle - low), (high - f) / (high - middle)
    return torch.from_numpy(np.maximum(0, np.minimum(up, down)) * 2 / (high - low)).float()


def mel(wave: np.ndarray) -> torch.Tensor:
    """[F, 40]: energies by band, as Resemblyzer has librosa compute them, of a sound brought to -30 dB of full scale."""
    scaled = wave * max(1.0, 10 ** (-30 / 20) / np.sqrt(np.mean(wave**2)))
    window = torch.hann_window(WINDOW)
    spectrum = torch.stft(
        torch.from_numpy(scaled).float(), WINDOW, HOP, window=window, pad_mode="constant", return_complex=True
    )
    return (spectrum.abs() ** 2).T @ mel_bands()


def partials(wave: np.ndarray) -> torch.Tensor:
    """[B, 160, 40]: the partial utterances of 1.6 s that Resemblyzer cuts a spectrogram into, 1.3 a second."""
    step = round(RATE / 1.3 / HOP)
    return mel(wave).unfold(0, PARTIAL, step).transpose(1, 2).contiguous()


def picture_of(text: str, size: int = 48) -> np.ndarray:
    """[height, width], 0 to 255: a text in black on white."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size)
    left, top, right, bottom = (round(v) for v in font.getbbox(text))
    image = Image.new("L", (right - left + size, bottom - top + size // 2), 255)
    ImageDraw.Draw(image).text((size // 2 - left, size // 4 - top), text, 0, font)
    return np.asarray(image)


def of_height(image: np.ndarray, height: int, filter: str) -> np.ndarray:
    """An image made so high by a filter of Pillow, its proportions kept."""
    from PIL import Image

    width = int(image.shape[1] * height / image.shape[0])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling[filter]))
