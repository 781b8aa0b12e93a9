"""The graph around recurrent nodes: branches, loops, functions, external data; and files that are not what they say."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import ModelProto, TensorProto, external_data_helper, helper, numpy_helper  # noqa: E402
from tests.cli.test_cli import Ran  # noqa: E402
from tests.exchange import drawn_onnx as drawn  # noqa: E402

import openlstm  # noqa: E402
from openlstm.errors import ArgumentError, DataError, MissingExtraError  # noqa: E402
from openlstm.exchange.onnx.read import read  # noqa: E402

H, I = 4, 3
RNG = np.random.default_rng(0)
WEIGHTS = {
    "W": RNG.standard_normal((1, 4 * H, I)).astype(np.float32),
    "W2": RNG.standard_normal((1, 4 * H, H)).astype(np.float32),
    "R": RNG.standard_normal((1, 4 * H, H)).astype(np.float32) / 2,
    "zero": np.array(0),
    "one": np.array([1]),
    "axis": np.array([1]),
}
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
Nodes = list[Any]


def lstm(x: str, y: str, name: str, W: str = "W", **more: Any) -> Any:
    outputs = more.pop("outputs", [y])
    return helper.make_node("LSTM", [x, W, "R", *more.pop("inputs", [])], outputs, name, hidden_size=H, **more)


def model_of(
    nodes: Nodes,
    inputs: dict[str, int],
    outputs: tuple[str, ...] = ("y",),
    functions: Any = (),
    opset: int = 17,
    **weights: Any,
) -> ModelProto:
    given = {**WEIGHTS, **weights}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, kind, None) for n, kind in inputs.items()],
        [helper.make_tensor_value_info(n, FLOAT, None) for n in outputs],
        [numpy_helper.from_array(a, n) for n, a in given.items()],
    )
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid("local", 1)] if functions else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=list(functions))


def same(model: ModelProto, feeds: dict[str, Any], graph: Any = None) -> None:
    expected = drawn.session(model).run(None, feeds)
    found = (graph or read(model)).run(feeds)
    assert all(drawn.error(a, b) <= 1e-5 for a, b in zip(found.values(), expected, strict=True))


def x_of(T: int = 5, B: int = 2, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((T, B, I)).astype(np.float32)


def test_nodes_behind_each_other_and_beside_each_other_with_work_between() -> None:
    nodes = [
        helper.make_node("Tanh", ["x"], ["a"]),
        lstm("a", "b", "first"),
        helper.make_node("Squeeze", ["b", "axis"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        lstm("d", "e", "second", "W2"),
        lstm("x", "f", "beside", direction="reverse"),
        helper.make_node("Add", ["e", "f"], ["y"]),
        helper.make_node("Neg", ["x"], ["unused"]),
    ]
    model = model_of(nodes, {"x": FLOAT}, ("y", "d"))
    graph = read(model)
    assert list(graph) == ["first", "second", "beside"]
    for T, B in ((5, 2), (1, 1), (7, 3)):
        same(model, {"x": x_of(T, B)}, graph)


def test_a_constant_is_read_before_a_node_by_it_behind_it_and_given_out() -> None:
    """Each part that ONNX Runtime runs has its own: none is handed from one to the next."""
    constants = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.full(shape, v, np.float32)))
        for name, shape, v in (("half", (1,), 0.5), ("state", (1, 2, H), 0.25))
    ]
    nodes = [
        *constants,
        helper.make_node("Mul", ["x", "half"], ["a"]),
        lstm("a", "b", "rnn", inputs=["", "", "state", "state"]),
        helper.make_node("Squeeze", ["b", "axis"], ["c"]),
        helper.make_node("Add", ["c", "half"], ["d"]),
        helper.make_node("Add", ["d", "state"], ["y"]),
    ]
    model = model_of(nodes, {"x": FLOAT}, ("y", "half"))
    graph = read(model)
    same(model, {"x": x_of()}, graph)
    assert [sorted(step.outputs) for step in graph._plan.order[::2]] == [["a", "half", "state"], ["y"]]


def test_the_branch_that_is_taken_runs_whichever_it_is() -> None:
    branches = []
    for sign, W in (("then", "W"), ("else", "W3")):
        inner = [helper.make_node("Neg", ["x"], [f"n_{sign}"]), lstm(f"n_{sign}", f"y_{sign}", f"in_{sign}", W)]
        out = helper.make_tensor_value_info(f"y_{sign}", FLOAT, None)
        branches.append(helper.make_graph(inner, sign, [], [out]))
    node = helper.make_node("If", ["which"], ["b"], "if", then_branch=branches[0], else_branch=branches[1])
    model = model_of([node, helper.make_node("Exp", ["b"], ["y"])], {"x": FLOAT, "which": BOOL}, W3=2 * WEIGHTS["W"])
    graph = read(model)
    assert list(graph) == ["in_else", "in_then"]
    for which in (True, False, True):
        same(model, {"x": x_of(), "which": np.array(which)}, graph)


def test_branches_of_one_condition_with_tensors_of_one_name_and_a_loop_within() -> None:
    """What is put in place keeps apart what had the same name."""

    def branches(x: str, out: str) -> dict[str, Any]:
        made = {}
        for sign, kind in (("then", "Neg"), ("else", "Exp")):
            seen = helper.make_node(kind, [x], ["seen"])
            body = helper.make_graph(
                [
                    lstm("seen", "z", f"{out} {sign}", outputs=["z", "h_out"], inputs=["", "", "h_in", "c"]),
                    helper.make_node("Identity", ["go_in"], ["go_out"]),
                ],
                "body",
                [
                    helper.make_tensor_value_info(n, k, s)
                    for n, k, s in (("k", INT64, []), ("go_in", BOOL, []), ("h_in", FLOAT, None))
                ],
                [helper.make_tensor_value_info(n, k, None) for n, k in (("go_out", BOOL), ("h_out", FLOAT), ("z", FLOAT))],
            )
            nodes = [
                seen,
                helper.make_node("Loop", ["times", "", "h"], ["h_n", "many"], "loop", body=body),
                lstm("seen", "alone", f"{out} {sign} alone"),
                helper.make_node("Add", ["many", "alone"], ["sum"]),
            ]
            made[f"{sign}_branch"] = helper.make_graph(nodes, sign, [], [helper.make_tensor_value_info("sum", FLOAT, None)])
        return made

    nodes = [
        helper.make_node("If", ["which"], ["a"], "if", **branches("x", "first")),
        helper.make_node("ReduceMax", ["a"], ["b"], axes=[0, 2], keepdims=0),
        helper.make_node("Concat", ["b", "b"], ["c2"], axis=-1),
        helper.make_node("Slice", ["c2", "zeros", "three", "last"], ["x2"]),
        helper.make_node("If", ["which"], ["d"], "if2", **branches("x2", "second")),
        helper.make_node("Tanh", ["d"], ["y"]),
    ]
    more = {
        "zeros": np.array([0]),
        "three": np.array([I]),
        "last": np.array([-1]),
        "times": np.array(2),
        "h": np.zeros((1, 2, H), np.float32),
        "c": np.ones((1, 2, H), np.float32),
    }
    model = model_of(nodes, {"x": FLOAT, "which": BOOL}, **more)
    graph = read(model)
    assert len(graph) == 8
    for which in (True, True, False, False, True):
        same(model, {"x": x_of(), "which": np.array(which)}, graph)
    given = {"x": x_of(), "which": np.array(True)}
    flat: Any = graph._flat  # noqa: SLF001, with the branches of the last call in place
    found = flat.run(dict(given), graph._run)  # noqa: SLF001
    assert drawn.error(found[0], drawn.session(model).run(None, given)[0]) <= 1e-5
    assert flat.run({**given, "which": np.array(False)}, graph._run) is None  # noqa: SLF001


def test_the_body_of_a_loop_runs_as_often_as_it_should() -> None:
    """Its states go from one pass to the next, and its outputs are put together."""
    body = helper.make_graph(
        [
            lstm("x", "z", "within", outputs=["z", "h_out", "c_out"], inputs=["", "", "h_in", "c_in"]),
            helper.make_node("Identity", ["go_in"], ["go_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info(n, k, s)
            for n, k, s in (("k", INT64, []), ("go_in", BOOL, []), ("h_in", FLOAT, None), ("c_in", FLOAT, None))
        ],
        [
            helper.make_tensor_value_info(n, k, None)
            for n, k in (("go_out", BOOL), ("h_out", FLOAT), ("c_out", FLOAT), ("z", FLOAT))
        ],
    )
    node = helper.make_node("Loop", ["times", "", "h", "c"], ["h_n", "c_n", "y"], "loop", body=body)
    model = model_of([node], {"x": FLOAT, "times": INT64, "h": FLOAT, "c": FLOAT}, ("h_n", "c_n", "y"))
    zeros = np.zeros((1, 2, H), np.float32)
    graph = read(model)
    for times in (1, 3):
        same(model, {"x": x_of(), "times": np.array(times), "h": zeros, "c": zeros}, graph)


def test_a_node_in_the_body_of_a_scan_is_read_and_left_to_onnx_runtime() -> None:
    """The layer is there for whoever wants it; a note says that `run` does not take it."""
    inner = [lstm("one", "z", "within")]
    body = helper.make_graph(
        inner, "body", [helper.make_tensor_value_info("one", FLOAT, None)], [helper.make_tensor_value_info("z", FLOAT, None)]
    )
    node = helper.make_node("Scan", ["x"], ["many"], "scan", body=body, num_scan_inputs=1)
    nodes = [node, helper.make_node("ReduceSum", ["many", "zeros"], ["y"], keepdims=0)]
    model = model_of(nodes, {"x": FLOAT}, zeros=np.array([0, 2]))
    graph = read(model)
    assert graph.stacks["within"].notes == ("within a Scan, where `run` leaves it to ONNX Runtime",)
    same(model, {"x": np.stack([x_of(), x_of(seed=2)])}, graph)


def test_a_node_inside_a_function_of_the_model_is_found() -> None:
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function(
        "local", "Twice", ["a", "W", "R"], ["c"], [lstm("a", "b", "inner"), helper.make_node("Add", ["b", "b"], ["c"])], opsets
    )
    node = helper.make_node("Twice", ["x", "W", "R"], ["y"], "call", domain="local")
    model = model_of([node], {"x": FLOAT}, functions=[function])
    graph = read(model)
    assert len(graph) == 1
    same(model, {"x": x_of()}, graph)


def test_a_node_that_is_not_expressed_is_left_to_onnx_runtime() -> None:
    nodes = [
        helper.make_node("Mul", ["W", "scale"], ["made"]),
        lstm("x", "b", "made when it runs", "made"),
        helper.make_node("Squeeze", ["b", "axis"], ["c"]),
        lstm("c", "y", "known", "W2"),
    ]
    model = model_of(nodes, {"x": FLOAT, "scale": FLOAT})
    graph = read(model)
    assert list(graph) == ["known"]
    assert graph.left == {"made when it runs": "LSTM: W is not known: 'made' is computed by Mul '' when the model runs"}
    same(model, {"x": x_of(), "scale": np.array(2, np.float32)}, graph)


def test_nodes_of_one_name_have_the_graphs_around_them_in_front() -> None:
    inner = helper.make_graph([lstm("x", "z", "rnn")], "t", [], [helper.make_tensor_value_info("z", FLOAT, None)])
    other = helper.make_graph([lstm("x", "v", "rnn")], "e", [], [helper.make_tensor_value_info("v", FLOAT, None)])
    node = helper.make_node("If", ["which"], ["y"], "if", then_branch=inner, else_branch=other)
    assert list(read(model_of([node], {"x": FLOAT, "which": BOOL}))) == ["if/else_branch/rnn", "if/then_branch/rnn"]


def outside(folder: Path) -> Path:
    """A model whose weights lie beside it."""
    model = model_of([lstm("x", "y", "rnn")], {"x": FLOAT})
    for tensor in model.graph.initializer:
        if tensor.name in ("W", "R"):
            external_data_helper.set_external_data(tensor, "weights.bin")
    (folder / "weights.bin").unlink(missing_ok=True)  # onnx would append to it
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


def test_weights_in_another_file_are_read(tmp_path: Path) -> None:
    graph = openlstm.read(outside(tmp_path))
    whole = model_of([lstm("x", "y", "rnn")], {"x": FLOAT})
    same(whole, {"x": x_of()}, graph)


def changed(path: Path, change: Any) -> str:
    """What reading says of a model after a change."""
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArgumentError) as caught:
        read(path)
    return str(caught.value)


def entry(name: str, key: str, value: str) -> Any:
    def change(model: ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == name)
        kept = {e.key: e.value for e in tensor.external_data} | {key: value}
        del tensor.external_data[:]
        for k, v in kept.items():
            tensor.external_data.add(key=k, value=v)

    return change


def test_external_data_that_is_missing_is_named(tmp_path: Path) -> None:
    path = outside(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ArgumentError) as caught:
        read(path)
    assert str(caught.value) == (
        f"{tmp_path / 'm.onnx'}: holds no recurrent layer that can be expressed\n"
        "  got       rnn: LSTM: W is not known: 'W' lies in 'weights.bin', which is not beside the model: copy it there\n"
        "  expected  an LSTM, a GRU or an RNN\n"
        "  hint      each line says what would work instead"
    )


def test_external_data_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "'W' lies in '../w.bin', outside of the model's folder" in changed(
        outside(tmp_path), entry("W", "location", "../w.bin")
    )
    told = changed(outside(tmp_path), entry("W", "length", "999999"))
    assert "'W' needs 192 bytes at 0 in 'weights.bin', which holds 448" in told
    assert "'W' needs 192 bytes at 400" in changed(outside(tmp_path), entry("W", "offset", "400"))
    model = onnx.load(outside(tmp_path), load_external_data=False)
    with pytest.raises(ArgumentError, match="read the model by its path"):
        read(model)


def refused(model: ModelProto) -> str:
    with pytest.raises(ArgumentError) as caught:
        read(model)
    return str(caught.value).splitlines()[1].partition("got")[2].strip()


def attribute(**attributes: Any) -> ModelProto:
    return model_of([lstm("x", "y", "rnn", **attributes)], {"x": FLOAT})


def test_what_cannot_be_expressed_is_named_with_node_and_reason() -> None:
    known = "sigmoid, tanh, relu, softsign, softplus, affine, leakyrelu, thresholdedrelu, scaledtanh, hardsigmoid, elu"
    assert (
        refused(attribute(activations=["Sigmoid", "Sine", "Tanh"]))
        == f"rnn: LSTM: its activation 'sine' is not known; known are {known}"
    )
    assert (
        refused(attribute(activations=["Sigmoid"])) == "rnn: LSTM: it names 1 activations, expected 3 for each of 1 directions"
    )
    assert refused(attribute(direction="sideways")) == "rnn: LSTM: its direction is 'sideways'"
    assert refused(attribute(colour=3)) == "rnn: LSTM: its attribute 'colour' is not known, or of another type"
    assert refused(attribute(clip=-1.0)) == "rnn: LSTM: clip is -1.0"
    short = model_of([lstm("x", "y", "rnn")], {"x": FLOAT}, W=WEIGHTS["W"][:, 1:])
    assert refused(short) == "rnn: LSTM: W has the shape [1, 15, 3], expected [1, 16, 3] with H = 4"
    two = lstm(
        "x", "y", "rnn", "W4", direction="bidirectional", activations=["Sigmoid", "Tanh", "Tanh", "Tanh", "Tanh", "Tanh"]
    )
    two.input[2] = "R4"
    both: dict[str, Any] = {"W4": np.repeat(WEIGHTS["W"], 2, 0), "R4": np.repeat(WEIGHTS["R"], 2, 0)}
    told = "rnn: LSTM: its directions have different activations: split it into two nodes of one direction"
    assert refused(model_of([two], {"x": FLOAT}, **both)) == told
    assert (
        refused(model_of([lstm("x", "y", "rnn", "W5")], {"x": FLOAT})) == "rnn: LSTM: W is not known: 'W5' is nowhere defined"
    )
    given = model_of([lstm("x", "y", "rnn", "V")], {"x": FLOAT, "V": FLOAT})
    assert refused(given) == "rnn: LSTM: W is not known: 'V' is an input of the graph"


def test_sizes_that_are_declared_and_not_there_are_named() -> None:
    model = model_of([lstm("x", "y", "rnn")], {"x": FLOAT})
    next(t for t in model.graph.initializer if t.name == "W").dims[1] = 2**40
    told = "rnn: LSTM: W is not known: 'W' declares [1, 1099511627776, 3] float32, 13,194,139,533,312 bytes, and holds 192"
    assert refused(model) == told


def test_a_tensor_that_is_doubled_again_and_again_is_not_made() -> None:
    nodes = [helper.make_node("Concat", [f"d{k}"] * 2, [f"d{k + 1}"], axis=1) for k in range(40)]
    nodes[0].input[:] = ["W", "W"]
    told = refused(model_of([*nodes, lstm("x", "y", "rnn", "d40")], {"x": FLOAT}))
    assert told.startswith("rnn: LSTM: W is not known: 'd") and told.endswith("at most 268,435,456 are read")


def test_a_chain_without_an_end_is_not_followed() -> None:
    nodes = [helper.make_node("Identity", ["b"], ["a"]), helper.make_node("Identity", ["a"], ["b"])]
    assert refused(model_of([*nodes, lstm("x", "y", "rnn", "a")], {"x": FLOAT})).endswith("by more than 100 nodes in a row")


def test_a_file_of_another_kind_an_unknown_opset_and_a_graph_without_recurrence(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08 not a model at all")
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value) == (
        f"{path}: is not an ONNX model\n"
        "  got       20 bytes that are none\n"
        "  expected  a model as onnx.save writes it\n"
        "  hint      fetch the file again"
    )
    for opset in (6, 999):
        with pytest.raises(DataError) as caught:
            read(model_of([lstm("x", "y", "rnn")], {"x": FLOAT}, opset=opset))
        newest = onnx.defs.onnx_opset_version()
        assert str(caught.value) == (
            "the model: has an opset that is not known\n"
            f"  got       opset {opset}\n"
            f"  expected  7 to {newest}\n"
            "  hint      onnx.version_converter.convert_version(model, 17)"
        )
    with pytest.raises(ArgumentError) as caught:
        read(model_of([helper.make_node("Tanh", ["x"], ["y"])], {"x": FLOAT}))
    assert str(caught.value) == (
        "the model: the graph has no recurrent node\n"
        "  got       nodes Tanh\n"
        "  expected  a node LSTM, GRU or RNN\n"
        "  hint      a recurrence that was unrolled into single steps has no such node: export it with the operator"
    )


def test_single_steps_follow_a_layer_that_is_changed_or_edited() -> None:
    """A stream's steps come from weights packed once, for as long as these are the layer's."""
    nodes = [lstm("x", "y", "rnn", outputs=["y", "h_n", "c_n"], inputs=["", "", "h", "c"])]
    model = model_of(nodes, {"x": FLOAT, "h": FLOAT, "c": FLOAT}, ("y", "h_n", "c_n"))
    graph, layer = read(model), read(model)["rnn"]
    given = {"x": x_of(1), "h": np.ones((1, 2, H), np.float32), "c": np.ones((1, 2, H), np.float32)}

    def check() -> None:
        with torch.no_grad():
            y, _ = layer(torch.from_numpy(given["x"]), tuple(torch.from_numpy(given[n]) for n in "hc"))
        assert np.array_equal(graph.run(given)["y"][:, 0], y.numpy())

    check()
    for changed in (layer, graph["rnn"]):
        with torch.no_grad():
            changed.weight_hh_l0.mul_(2)
    check()
    with openlstm.edit(graph["rnn"], "0.f", clamp=0.0), openlstm.edit(layer, "0.f", clamp=0.0):
        check()
    check()
    whole = graph.run({**given, "x": x_of(5)})
    h, c = given["h"], given["c"]
    for t in range(5):
        found = graph.run({"x": x_of(5)[t : t + 1], "h": h, "c": c})
        h, c = found["h_n"], found["c_n"]
        assert np.array_equal(found["y"], whole["y"][t : t + 1])


def test_feeds_that_are_not_those_of_the_model_are_named() -> None:
    graph = read(model_of([lstm("x", "y", "rnn")], {"x": FLOAT}))
    for feeds, what, got in (({}, "needs 'x'", "nothing"), ({"x": x_of(), "z": 1}, "has no input 'z'", "'x', 'z'")):
        with pytest.raises(ArgumentError) as caught:
            graph.run(feeds)
        assert str(caught.value) == (
            f"the model: {what}\n  got       {got}\n  expected  'x'\n  hint      run({{name: array, ..}})"
        )


def test_what_onnx_runtime_refuses_is_said_in_its_words() -> None:
    nodes = [helper.make_node("MatMul", ["x", "eye"], ["a"]), lstm("a", "y", "rnn")]
    graph = read(model_of(nodes, {"x": FLOAT}, eye=np.eye(I + 1, dtype=np.float32)))
    with pytest.raises(ArgumentError, match="ONNX Runtime: cannot run a part of the graph"):
        graph.run({"x": x_of()})


ROOT = Path(__file__).parent.parent.parent


def detector() -> ModelProto:
    """As a detector of voices ships: one state [2, B, H] in and out, and a rate that chooses the branch."""
    branches = []
    for sign in ("then", "else"):
        inner = [
            lstm(
                "a",
                f"y_{sign}",
                "/decoder/rnn/LSTM" if sign == "then" else "/decoder/rnn_1/LSTM",
                outputs=[f"{n}_{sign}" for n in "yhc"],
                inputs=["", "", "h", "c"],
            ),
            helper.make_node("Concat", [f"h_{sign}", f"c_{sign}"], [f"state_{sign}"], axis=0),
        ]
        infos = [helper.make_tensor_value_info(f"{n}_{sign}", FLOAT, None) for n in ("y", "state")]
        branches.append(helper.make_graph(inner, sign, [], infos))
    nodes = [
        helper.make_node("Equal", ["sr", "rate"], ["fast"]),
        helper.make_node("Tanh", ["input"], ["a"]),
        helper.make_node("Split", ["state"], ["h", "c"], axis=0),
        helper.make_node("If", ["fast"], ["y", "stateN"], "if", then_branch=branches[0], else_branch=branches[1]),
    ]
    model = model_of(nodes, {"sr": INT64}, ("y", "stateN"), rate=np.array(16000))
    model.graph.input.extend(helper.make_tensor_value_info(n, FLOAT, [None] * 3) for n in ("input", "state"))
    return model


def calls_of(count: int) -> dict[str, np.ndarray]:
    x = np.random.default_rng(3).standard_normal((count, 1, 2, I)).astype(np.float32)
    return {"input": x, "state": np.zeros((2, 2, H), np.float32), "sr": np.array(16000)}


def test_the_lines_of_the_docs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(detector(), "vad.onnx")
    first, second, _ = re.findall(r"```python\n(.*?)```", (ROOT / "docs/exchange-onnx.md").read_text(), re.DOTALL)
    calls = calls_of(12)
    given = {"x": calls["input"][0], "state": calls["state"], "rate": calls["sr"], "calls": calls}
    exec(first, given)
    assert list(given["reports"]) == ["/decoder/rnn/LSTM"] and "rnn_1" in capsys.readouterr().out
    same(detector(), {"input": given["x"], "state": given["state"], "sr": given["rate"]}, given["graph"])
    exec(second, given)
    assert Path("slstm.onnx").is_file()


def test_the_command_looks_inside_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(detector(), "vad.onnx")
    np.savez("calls.npz", **calls_of(12))  # type: ignore[arg-type]
    ran = Ran(capsys, "xray", "vad.onnx", "--feeds", "calls.npz", "--carry", "stateN=state", "-o", "vad.html", "-q")
    assert ran.status == 0 and Path("vad.html").is_file() and "/decoder/rnn/LSTM: " in ran.out
    ran = Ran(capsys, "xray", "vad.onnx", "--feeds", "calls.npz", "--carry", "stateN=state", "--json", "-q")
    assert json.loads(ran.out)["layers"]["/decoder/rnn/LSTM"]["page"] is None
    np.save("one.npy", np.zeros(3))
    for arguments, said in (
        (("--feeds", "none.npz"), "error none.npz: is not there"),
        (("--feeds", "one.npy"), "error one.npy: cannot be read\n  got       another kind of file"),
        (("--feeds", "calls.npz", "--carry", "stateN"), "error xray: --carry names no two tensors\n  got       stateN"),
    ):
        ran = Ran(capsys, "xray", "vad.onnx", *arguments)
        assert ran.status != 0 and said in ran.err, ran.err


def test_the_command_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(detector(), "vad.onnx")
    torch.save(torch.nn.LSTM(3, 5).state_dict(), "net.pt")
    np.savez("x.npz", x=np.zeros(3))
    assert Ran(capsys, "xray", "vad.onnx", "-q").err == (
        "error xray: a model of ONNX is looked at while it runs\n"
        "  got       no --feeds\n"
        "  expected  an .npz file with its inputs by name\n"
        "  hint      openlstm xray vad.onnx --feeds x.npz\n"
    )
    assert Ran(capsys, "xray", "net.pt", "--feeds", "x.npz", "-q").err == (
        "error net.pt: has no graph that could run on FEEDS\n"
        "  got       weights alone\n"
        "  expected  a model of ONNX\n"
        "  hint      openlstm.xray(openlstm.read('net.pt')[''], x) in Python\n"
    )


def test_an_xray_looks_at_the_inputs_that_a_layer_really_gets() -> None:
    nodes = [
        helper.make_node("Tanh", ["x"], ["a"]),
        lstm("a", "y", "rnn", outputs=["y", "h_n", "c_n"], inputs=["", "", "h", "c"]),
    ]
    model = model_of(nodes, {}, ("y", "h_n", "c_n"))
    model.graph.input.extend(helper.make_tensor_value_info(n, FLOAT, [None] * 3) for n in ("x", "h", "c"))
    graph, zeros = read(model), np.zeros((1, 2, H), np.float32)
    whole = graph.xray({"x": x_of(30), "h": zeros, "c": zeros})["rnn"]
    single = np.stack([x_of(30)[t : t + 1] for t in range(30)])  # thirty calls of one step
    steps = graph.xray({"x": single, "h": zeros, "c": zeros}, carry={"h_n": "h", "c_n": "c"})["rnn"]
    for word in ("gates", "retention"):
        assert whole[word].finding == steps[word].finding
    left = "Only the first of 30 calls is looked at: the later ones do not begin with the state in which the one before ended;"
    loose = graph.xray({"x": single, "h": zeros, "c": zeros})["rnn"]
    assert f"{left} carry, OUTPUT=INPUT, hands it on." in loose.notes
    assert not [note for report in (whole, steps) for note in report.notes if note.startswith("Only")]
    alone = openlstm.xray(graph["rnn"], {"input": torch.from_numpy(x_of(30)).tanh()}, before=False)
    assert alone["gates"].finding == whole["gates"].finding
    with pytest.raises(ArgumentError) as caught:
        graph.xray({"x": single}, carry={"h_n": "state"})
    assert str(caught.value) == (
        "the model: cannot carry this\n"
        "  got       h_n=state\n"
        "  expected  an output and an input\n"
        "  hint      outputs are y, h_n, c_n; inputs x, h, c"
    )


def test_without_onnx_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = outside(tmp_path)
    for name in [n for n in sys.modules if n.startswith("openlstm.exchange.onnx")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match="read: needs the package onnx, which is not installed"):
        openlstm.read(path)
