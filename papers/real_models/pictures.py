"""A picture of what each model does inside: what it is given above, gates or cells of its units below, step by step.

Legend: T steps, H hidden size.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import torch
from papers.real_models import inputs, models, race

import openlstm
from openlstm.insight import TokenText, capture_layers, retention, series

WIDTH, UNITS, ROW = 720, 32, 4  # px of a picture at most, units that are shown, px of one
QUOTED = 'TIL the man (a cook) who said "I will be back" never did, and his dog (they say) sat "at the door" for six years.'
LINE = 57  # characters in a line
INK, SECOND = "#1f2933", "#c2410c"


def time_axis(steps: int, title: str | None) -> alt.X:
    """From the first step to the last; only the lowest panel shows numbers."""
    axis = alt.Axis(labels=title is not None, ticks=title is not None, title=title, grid=False)
    return alt.X("t:Q", axis=axis, scale=alt.Scale(domain=[0, steps], nice=False))


def width(steps: int) -> int:
    """px: whole ones for each step."""
    return max(1, WIDTH // steps) * steps


def curves(values: dict[str, np.ndarray], title: str, below: str | None = None, height: int = 60) -> Any:
    """Curves [T] over time, in ink and orange."""
    steps = len(next(iter(values.values())))
    points = [{"t": t + 0.5, "n": n, "v": round(float(v), 4)} for n, a in values.items() for t, v in enumerate(a)]
    legend = alt.Legend(title=None, orient="right") if len(values) > 1 else None
    hue = alt.Color("n:N", scale=alt.Scale(domain=list(values), range=[INK, SECOND]), legend=legend)
    y = alt.Y("v:Q", title=None, axis=alt.Axis(tickCount=3, grid=False))
    drawn = alt.Chart(alt.Data(values=points)).mark_line(strokeWidth=1.2).encode(time_axis(steps, below), y, hue)
    return drawn.properties(width=width(steps), height=height, title=title)


def heat(
    values: np.ndarray, title: str, below: str | None, scheme: str = "blueorange", ends: tuple[float, float] = (-1, 1)
) -> Any:
    """[T, N] as colour, a row for each of N; the first at the bottom."""
    steps, count = values.shape
    cells = [
        {"t": t, "t2": t + 1, "u": u, "u2": u + 1, "v": round(float(values[t, u]), 2)}
        for t in range(steps)
        for u in range(count)
    ]
    hue = alt.Color("v:Q", scale=alt.Scale(scheme=scheme, domain=list(ends)), legend=alt.Legend(title=None, gradientLength=80))  # type: ignore[arg-type]
    y = alt.Y("u:Q", axis=None, scale=alt.Scale(domain=[0, count], nice=False))
    drawn = (
        alt.Chart(alt.Data(values=cells)).mark_rect(strokeWidth=0).encode(time_axis(steps, below), y, hue, x2="t2:Q", y2="u2:Q")
    )
    return drawn.properties(width=width(steps), height=ROW * count, title=title)


def letters(found: str, at: np.ndarray, steps: int, below: str | None) -> Any:
    """Characters at the steps at which they come out."""
    points = [{"t": float(t) + 0.5, "c": c} for t, c in zip(at, found, strict=True)]
    drawn = alt.Chart(alt.Data(values=points)).mark_text(fontSize=13, color=INK).encode(time_axis(steps, below), text="c:N")
    return drawn.properties(width=width(steps), height=18, title="what comes out, at its step")


def together(title: str, *panels: Any) -> Any:
    """Panels under each other."""
    made = alt.vconcat(*panels, spacing=6).resolve_scale(color="independent")
    made = made.properties(title=alt.TitleParams(title, fontSize=14)).configure(background="white")
    return made.configure_title(anchor="start", fontSize=11, fontWeight="normal", color=INK).configure_view(stroke=None)


def longest(gate: np.ndarray) -> np.ndarray:
    """Units [T, H] evenly out of all, by how much their forget gates keep; the most at the end."""
    order = np.argsort(np.log(np.maximum(gate, 1e-6)).mean(0))
    return order[np.linspace(0, len(order) - 1, min(UNITS, len(order))).round().astype(int)]


def half_life(place: Any) -> str:
    """After how many steps the gates have halved a cell, as the X-ray measures it."""
    measured = retention(place)
    assert measured is not None  # an LSTM has a forget gate
    found = measured.half_life
    most = f"in {found.max():.0f}" if np.isfinite(found.max()) else f"not in all {place.steps}"
    return f"the gates halve the cell of the middle unit in {np.median(found):.1f} steps, of the longest {most}"


def vad() -> Any:
    """silero-vad over three sentences."""
    _, _, names = models.VAD.both()
    layer, _, x = race.vad()
    seen = openlstm.trace(layer, x)
    c, f = (seen[name][:, 0].numpy() for name in ("0.c", "0.f"))
    loud = np.abs(names["rows"][:, 0, inputs.CONTEXT :]).max(1)
    units = longest(f)
    what = f"cells tanh(c), above those that keep longest; {half_life(capture_layers(layer, x)['0'])}"
    return together(
        "silero-vad: speech is over, and the slow cells still hold it",
        curves(
            {"loudness": loud},
            "what it hears: three sentences, a second of silence around each" if inputs.speaks() else "chirps",
        ),
        curves({"probability": np.ravel(names["seen"])}, "probability of speech"),
        heat(np.tanh(c[:, units]), what, "step of 32 ms"),
    )


def reading(title: str, image: np.ndarray, layer: Any, x: torch.Tensor, text: str, at: np.ndarray) -> Any:
    """A text on an image, and a layer in both directions over it: x [T, 1, I]."""
    layer.batch_first = False
    seen = openlstm.trace(layer, x)
    steps = len(x)
    gates = {name: seen[f"0{end}.i"][:, 0].numpy() for name, end in (("forwards", ""), ("backwards", "_reverse"))}
    c, f = (seen[f"0.{name}"][:, 0].numpy() for name in "cf")
    each = width(steps) // steps // 2 or 1  # columns of a step, of 2 px or more
    columns = np.linspace(0, image.shape[1] - 1, each * steps).round().astype(int)
    picture = heat(image[::2, columns][::-1].T / 255, "the image", None, "greys", (1, 0)).properties(
        width=width(steps), height=64
    )
    units = longest(f)
    return together(
        title,
        picture,
        letters(text, at, steps, None),
        curves({name: a.mean(1) for name, a in gates.items()}, "input gates, mean of all units"),
        heat(np.tanh(c[:, units]), "cells tanh(c), forwards; above those that keep longest", "step"),
    )


def places(logits: np.ndarray) -> np.ndarray:
    """The steps at which a character comes out, of logits [T, letters]."""
    best = logits.argmax(-1)
    return np.flatnonzero((np.diff(best, prepend=-1) != 0) & (best > 0))


def reader() -> Any:
    """EasyOCR on an image of a text."""
    given = models.READER.given()
    net = given["recognizer"]
    with torch.inference_mode():
        x, logits = net.features(given["image"]).transpose(0, 1), net(given["image"])[0].numpy()
    layer = openlstm.read(models.READER.path)["module.SequenceModeling.0.rnn"]
    image = inputs.of_height(inputs.picture_of(models.TEXT), 64, "BICUBIC")
    text = models.greedy(logits, ["", *models.ENGLISH])
    return reading("EasyOCR: the first of its two layers", image, layer, x.clone(), text, places(logits))


def captcha(model: models.Real = models.CAPTCHAS[0], kind: str = "LSTM", charset: str = "CHARSET_BETA") -> Any:
    """ddddocr on an image of four characters."""
    given = models.captcha_given()
    _, x = race.alone(model.path, kind, {"input1": given["image"]})
    logits = model.original(given)[:, 0]
    layer = next(iter(openlstm.read(model.path).values()))
    image = inputs.of_height(inputs.picture_of(models.CAPTCHA), 64, "LANCZOS")
    text = models.greedy(logits, models.captcha_letters(charset))
    return reading(f"{model.name}: a step is 8 columns of the image", image, layer, torch.from_numpy(x), text, places(logits))


def voice() -> Any:
    """Resemblyzer: how long its three layers keep what they hear, by the X-ray."""
    layer = openlstm.read(models.VOICE.path)["model_state.lstm"]
    layer.batch_first = True
    x = inputs.partials(inputs.sound())
    seen, found = openlstm.trace(layer, x), capture_layers(layer, x)
    panels = []
    for k in range(3):
        f, c = (seen[f"{k}.{name}"].numpy() for name in "fc")  # [B, T, H] as the layer has it
        f, c = (a.swapaxes(0, 1) if a.shape[0] == len(x) else a for a in (f, c))
        units = longest(f[:, 2])
        title = f"layer {k + 1}: cells tanh(c); {half_life(found[str(k)])}"
        panels.append(heat(np.tanh(c[:, 2, units]), title, "step of 10 ms" if k == 2 else None))
    loud = np.log10(x[2].sum(1).numpy() + 1e-8)
    return together(
        "Resemblyzer: what the first two layers let go, the third one holds",
        curves({"energy": loud}, "energy of the sound, log10"),
        *panels,
    )


def writer() -> Any:
    """textgenrnn: the units of its first layer that follow something of a text, and the text in the colours of their cells."""
    layer, strings = openlstm.read(models.WRITER.path)["rnn_1"], models.writer_letters()
    numbers = {text: k for k, text in enumerate(strings)}
    ids = np.array([numbers[c] for c in ("<s>", *QUOTED)])
    x = torch.from_numpy(models.writer_arrays()["embedding/embeddings:0"][ids])[None]
    place = capture_layers(layer, x)["0"]
    best = {unit.column: unit for unit in TokenText(ids[None], ["", "^", *strings[2:]]).track(place).best}
    panels = []
    for unit in (best[name] for name in ("inside brackets", "inside quotes", "position in word", "position in line")):
        values = np.tanh(series(place, "c", [unit.unit])[1:, 0, 0])
        rows = [
            {"t": t % LINE, "t2": t % LINE + 1, "m": t % LINE + 0.5, "y": t // LINE, "c": c, "v": round(float(values[t]), 2)}
            for t, c in enumerate(QUOTED)
        ]
        base = alt.Chart(alt.Data(values=rows)).encode(alt.Y("y:O", axis=None))
        hue = alt.Color("v:Q", scale=alt.Scale(scheme="blueorange", domain=[-1, 1]), legend=None)  # type: ignore[arg-type]
        x_axis = alt.X("t:Q", axis=None, scale=alt.Scale(domain=[0, LINE], nice=False))
        words = base.mark_text(fontSize=12, font="monospace").encode(x="m:Q", text="c:N")
        title = f"unit {unit.unit} follows '{unit.column}': r = {unit.r:.2f}, of chance {unit.chance:.2f}"
        drawn = base.mark_rect(strokeWidth=0).encode(x_axis, hue, x2="t2:Q") + words
        panels.append(drawn.properties(width=12 * LINE, height=40, title=title))
    return together("textgenrnn: a text in the colours of four cells of its first layer", *panels)


def airline() -> Any:
    """neuralforecast: the last 36 months through the first layer that was put into it."""
    _, _, names = models.AIRLINE.both()
    (model,) = names["nf"].models
    reads: list[torch.Tensor] = []
    hook = model.hist_encoder.register_forward_pre_hook(lambda _, given: reads.append(given[0].detach()))
    models.AIRLINE.original(names)
    hook.remove()
    seen = openlstm.trace(model.hist_encoder, reads[0].clone())
    c, f = (seen[f"0.{name}"].numpy() for name in "cf")
    c, f = (a[0] if model.hist_encoder.batch_first else a[:, 0] for a in (c, f))
    units = longest(f)
    return together(
        "neuralforecast: cells of its first layer swing with the year",
        curves({"passengers": reads[0][0, :, 0].numpy()}, "passengers of the last 36 months, as the model scales them"),
        heat(np.tanh(c[:, units]), "cells tanh(c), above those that keep longest", "month"),
    )


PICTURES = {
    "silero-vad": vad,
    "resemblyzer": voice,
    "easyocr": reader,
    "ddddocr": captcha,
    "textgenrnn": writer,
    "neuralforecast": airline,
}


def draw(folder: Path) -> None:
    """Write each picture as a PNG of 128 colours."""
    from PIL import Image

    for name, make in PICTURES.items():
        make().save(drawn := BytesIO(), format="png", scale_factor=2)
        Image.open(drawn).convert("RGB").quantize(128).save(folder / f"{name}.png", optimize=True)
