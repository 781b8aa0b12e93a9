"""PyTorch's ModuleInfo tests on our classes, in a process of their own; torch.nn's pass the same ones."""

from __future__ import annotations

import json

import pytest
from tests.support import python

CLASSES = [f"openlstm:{kind}{cell}" for cell in ("", "Cell") for kind in ("LSTM", "GRU", "RNN")]


def passes(*words: str) -> None:
    code = f"import sys; sys.argv[1:] = {[*words, *CLASSES]}; from tests.conformance import moduleinfo; moduleinfo.main()"
    found = json.loads(python(code))
    assert [name.split(":")[1] for name in found] == [name.split(":")[1] for name in CLASSES]
    assert {len(results) for results in found.values()} == {40}
    assert [(name, test, word) for name, results in found.items() for test, word in results.items() if word] == []


@pytest.mark.slow
def test_every_test_of_pytorchs_module_info_passes() -> None:
    passes()


@pytest.mark.long
def test_every_test_of_pytorchs_module_info_passes_with_all_second_derivatives() -> None:
    passes("--whole")
