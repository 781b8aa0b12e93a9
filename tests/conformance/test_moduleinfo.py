"""PyTorch's ModuleInfo tests on our classes, in a process of their own; torch.nn's pass the same ones."""

from __future__ import annotations

import json

import pytest
from tests.support import python

CLASSES = [f"openlstm:{kind}{cell}" for cell in ("", "Cell") for kind in ("LSTM", "GRU", "RNN")]


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_every_test_of_pytorchs_module_info_passes(name: str) -> None:
    code = f"import sys; sys.argv[1:] = [{name!r}]; from tests.conformance import moduleinfo; moduleinfo.main()"
    (results,) = json.loads(python(code)).values()
    assert len(results) == 40
    assert {test: word for test, word in results.items() if word} == {}
