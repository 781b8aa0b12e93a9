"""The public names, in the order of the docs; each one is there, is documented, and is found by editors."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import openlstm

PUBLIC = [
    "LSTM",
    "GRU",
    "RNN",
    "LSTMCell",
    "GRUCell",
    "RNNCell",
    "replace",
    "quantize",
    "trace",
    "Trace",
    "xray",
    "edit",
    "nn",
    "cells",
    "errors",
    "recur",
    "Weights",
    "State",
    "Noise",
    "load",
    "Model",
    "Forecaster",
    "export",
    "read",
    "Panel",
    "read_panel",
    "set_num_threads",
    "get_num_threads",
    "set_workspace_limit",
    "show_config",
]


def test_the_list_of_public_names() -> None:
    """A name that is added or lost is a decision: change this list and the changelog with it."""
    assert openlstm.__all__ == PUBLIC
    assert set(openlstm._LAZY) == set(PUBLIC)
    assert [name for name in dir(openlstm) if not name.startswith("_")] == sorted(PUBLIC)


def test_every_public_name_is_documented() -> None:
    documented = [name for name in PUBLIC if len((inspect.getdoc(getattr(openlstm, name)) or "").split()) >= 5]
    assert documented == PUBLIC


def test_every_public_function_is_annotated() -> None:
    functions = [thing for name in PUBLIC if inspect.isfunction(thing := getattr(openlstm, name))]
    assert len(functions) >= 5
    for function in functions:
        signature = inspect.signature(function)
        annotations = [signature.return_annotation, *(p.annotation for p in signature.parameters.values())]
        assert inspect.Signature.empty not in annotations, function


def test_a_type_checker_sees_the_same_names() -> None:
    """The names imported under TYPE_CHECKING are those that are fetched on first use."""
    tree = ast.parse(Path(openlstm.__file__).read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    seen = {a.asname: n.module for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names}
    homes = {name: f"openlstm.{home}".rstrip(".") for name, home in openlstm._LAZY.items()}
    assert seen == homes


def test_an_unknown_name_is_an_attribute_error_that_lists_the_known_ones() -> None:
    with pytest.raises(AttributeError) as caught:
        openlstm.GRUU  # noqa: B018
    assert str(caught.value) == f"module 'openlstm' has no attribute 'GRUU'; it has {', '.join(PUBLIC)}"


CELLS = [
    "LSTM",
    "Peephole",
    "NIG",
    "NFG",
    "NOG",
    "NIAF",
    "NOAF",
    "CIFG",
    "FGR",
    "LSTM1997",
    "LayerNormLSTM",
    "GRU",
    "VanillaRNN",
    "SLSTM",
    "MinGRU",
    "MinLSTM",
    "JANET",
    "IndRNN",
]


def test_every_cell_is_in_the_list_that_the_conformance_suite_runs() -> None:
    concrete = [
        n
        for n, c in vars(openlstm.cells).items()
        if inspect.isclass(c) and issubclass(c, openlstm.cells.Cell) and n[0] != "_" and n != "Cell"
    ]
    assert sorted(concrete) == sorted(CELLS)
    assert {type(c).__name__ for c in openlstm.cells.ALL} == set(CELLS)
