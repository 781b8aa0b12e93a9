"""Prints the tables of docs/real-models.md, or draws its pictures.

python -m papers.real_models [--seconds 3] [--pictures FOLDER]
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path

import torch
from papers.real_models import inputs, race
from papers.real_models.models import MODELS, error
from papers.real_models.race import Times

import openlstm

SMALL = 1e-3
RUNNERS = ("openlstm", "ONNX Runtime", "torch")


def main() -> None:
    """Run what was asked for on one thread."""
    told = argparse.ArgumentParser(prog="python -m papers.real_models", description=__doc__)
    told.add_argument("--seconds", type=float, default=3.0, help="for each race")
    told.add_argument("--pictures", type=Path, help="draw them into this folder, and race nobody")
    given = told.parse_args()
    torch.set_num_threads(1)
    openlstm.set_num_threads(1)
    if given.pictures:
        from papers.real_models.pictures import draw

        return draw(given.pictures)
    print("The sound is", "speech of espeak-ng." if inputs.speaks() else "chirps: espeak-ng is not installed.", "\n")
    print("| model | version | what is compared | lines | norm(a - b) / norm(b) |\n|---|---|---|---|---|")
    for model in MODELS:
        wanted, found, _ = model.both()
        lines = len(model.lines.splitlines())
        print(f"| {model.name} | {version(model.package)} | {model.what} | {lines} | {error(found, wanted):.1e} |", flush=True)
    print("\nOne stream\n")
    show(race.one_stream, given.seconds)
    print(
        "\n| one row, least us | "
        + " | ".join(f"{who}: a call | a step" for who in RUNNERS)
        + " |\n|---|---|---|---|---|---|---|"
    )
    for name, found in race.by_length(given.seconds):
        print(f"| {name} | " + " | ".join(f"{found[who][0] * 1e6:.0f} | {found[who][1] * 1e6:.1f}" for who in RUNNERS) + " |")
    print(f"\n{race.STREAMS:,} streams of silero-vad in one call\n")
    show(race.many_streams, given.seconds)
    each = race.one_call_each()
    print(f"\nONNX Runtime, a step of {race.STREAMS:,} streams in a call each: {took(each)}")
    return None


def show(races: race.Races, seconds: float) -> None:
    """A line for each runner that is ours; ratios above 1 are faster than the other, of medians and of the least."""
    print("| | shape | runs | time | torch | ONNX Runtime | x torch | x ONNX Runtime |\n|---|---|---|---|---|---|---|---|")
    for one in races():
        times = race.timed(one, seconds)
        theirs = [times["torch"], times["ONNX Runtime"]]
        for name, own in times.items():
            if name not in ("torch", "ONNX Runtime"):
                ratios = [f"{each.middle / own.middle:.2f} ({each.least / own.least:.2f})" for each in theirs]
                print("| " + " | ".join([one.name, one.shape, name, took(own), *map(took, theirs), *ratios]) + " |", flush=True)


def took(times: Times) -> str:
    """The median, and the least."""
    scale, unit = (1e6, "us") if times.middle < SMALL else (1e3, "ms")
    return f"{times.middle * scale:.3g} ({times.least * scale:.3g}) {unit}"


if __name__ == "__main__":
    main()
