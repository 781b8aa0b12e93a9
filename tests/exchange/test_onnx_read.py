"""Models of ONNX read, run with their recurrent nodes on our layers, and written again, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import helper, numpy_helper  # noqa: E402
from tests.conformance import nodes  # noqa: E402
from tests.exchange import drawn_onnx as drawn  # noqa: E402

from openlstm.exchange.onnx.read import read  # noqa: E402
from openlstm.exchange.onnx.write import write  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*has no kernel; running it on the readable reference")
TOLERANCE = 1e-5


@pytest.mark.parametrize("seed", [pytest.param(s, marks=[] if s < 60 else pytest.mark.slow) for s in range(200)])
def test_a_drawn_model_gives_the_outputs_of_onnx_runtime(seed: int) -> None:
    """Over batches and lengths that change, with the state carried from call to call; and again after it was written."""
    case = drawn.draw(seed)
    theirs, graph = drawn.session(case.model), read(case.model)
    rng = np.random.default_rng(seed)
    handed: dict[str, Any] = {}
    calls: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for T, B in ((5, 3), (2, 3), (1, 1)):
        feeds = case.feeds(rng, T, B)
        feeds |= {name: a for name, a in handed.items() if name in feeds and a.shape == feeds[name].shape}
        expected = dict(zip([o.name for o in theirs.get_outputs()], theirs.run(None, feeds), strict=True))
        found = graph.run(feeds)
        assert list(found) == list(expected)
        assert all(found[n].shape == expected[n].shape for n in expected)
        calls.append((found, expected))
        handed = {"h0": found["Y_h"], **({"c0": found["Y_c"]} if "Y_c" in found else {})}
    for n in calls[0][0]:
        ours, expected = (np.concatenate([call[k][n].ravel() for call in calls]) for k in (0, 1))
        assert drawn.error(ours, expected) <= TOLERANCE, n
    name, stack = next(iter(graph.stacks.items()))
    again = write(stack, lengths=case.lengths)
    if any(node.op_type in drawn.GATES for node in again.graph.node):
        back = next(iter(read(again).stacks.values()))
        for a, b in zip(stack.weights[0], back.weights[0], strict=True):
            assert (np.asarray(a.w_hh) == np.asarray(b.w_hh)).all() or stack.cell != back.cell
    feeds = case.feeds(rng, 4, 2)
    given = {"x": np.tanh(feeds["x"])} | ({"lengths": feeds["lengths"].astype(np.int64)} if case.lengths else {})
    run = drawn.session(again)
    zeros = np.zeros((case.directions, 2, case.hidden_size), np.float32)
    given |= {i.name: feeds.get(i.name, zeros) for i in run.get_inputs() if i.name.endswith("0")}
    y = theirs.run(["Y"], feeds)[0]
    assert drawn.error(run.run(["y"], given)[0], y.transpose(0, 2, 1, 3).reshape(4, 2, -1)) <= TOLERANCE
    assert graph[name] is graph[name]


def test_a_layout_with_the_batch_first_is_that_of_opset_14() -> None:
    """ONNX Runtime refuses it, so the same node with its axes turned says what is right."""
    seed = next(s for s in range(200) if _plain(drawn.draw(s)))
    case = drawn.draw(seed)
    turned = type(case.model)()
    turned.CopyFrom(case.model)
    del turned.opset_import[:]
    turned.opset_import.append(helper.make_opsetid("", 14))
    node = next(n for n in turned.graph.node if n.op_type in drawn.GATES)
    node.attribute.append(helper.make_attribute("layout", 1))
    feeds = case.feeds(np.random.default_rng(0), 5, 3)
    expected = dict(zip(("Y", "Y_h", "Y_c"), drawn.session(case.model).run(None, feeds), strict=False))
    swapped = {n: a if n == "lengths" else np.ascontiguousarray(a.swapaxes(0, 1)) for n, a in feeds.items()}
    found = read(turned).run(swapped)
    assert drawn.error(found["Y"], expected["Y"].transpose(2, 0, 1, 3)) <= TOLERANCE
    for name in ("Y_h", "Y_c")[: len(found) - 1]:
        assert drawn.error(found[name], expected[name].swapaxes(0, 1)) <= TOLERANCE


def _plain(case: drawn.Drawn) -> bool:
    ops = {n.op_type for n in case.model.graph.node}
    return case.states and case.lengths and case.directions == 2 and "If" not in ops


@pytest.mark.parametrize("case", nodes.cases(), ids=lambda case: case.name)
def test_the_nodes_that_onnx_ships_give_its_outputs(case: Any) -> None:
    """Those with the batch in front too, and with the reset before the product; their weights are inputs, here initializers."""
    model = type(case.model)()
    model.CopyFrom(case.model)
    node = model.graph.node[0]
    (inputs, outputs), names = case.data_sets[0], [n for n in node.input if n]
    fixed = {node.input[k] for k in (1, 2, 3, 7) if k < len(node.input) and node.input[k]}
    feeds = {}
    for name, a in zip(names, inputs, strict=True):
        if name in fixed:
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(a), name))
        else:
            feeds[name] = np.asarray(a)
    del model.graph.input[:]
    model.graph.input.extend(i for i in case.model.graph.input if i.name not in fixed)
    found = read(model).run(feeds)
    for name, b in zip([o for o in node.output if o], outputs, strict=True):
        np.testing.assert_allclose(found[name], b, rtol=case.rtol, atol=case.atol)
