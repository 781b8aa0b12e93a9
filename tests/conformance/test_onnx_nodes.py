"""The node tests of ONNX for LSTM, GRU and RNN, run on our layers."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("onnx")

from tests.conformance import nodes  # noqa: E402

OTHER_ORDER = "test_gru_seq_length"  # linear_before_reset=0 over two steps: r * h before the product, which is not torch's GRU


@pytest.mark.parametrize("case", nodes.cases(), ids=lambda case: case.name)
def test_a_node_of_onnx_gives_the_outputs_that_onnx_ships(case: Any, request: pytest.FixtureRequest) -> None:
    if case.name == OTHER_ORDER:
        reason = "ONNX's other GRU: the reset gate acts before the product"
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    nodes.check(case)


def test_there_are_as_many_as_there_were() -> None:
    """Six of each operator; more would be welcome, fewer would be a test lost in silence."""
    count = {op: sum(nodes.operator(case) == op for case in nodes.cases()) for op in nodes.LAYERS}
    assert all(n >= 6 for n in count.values()), count
    assert OTHER_ORDER in {case.name for case in nodes.cases()}
