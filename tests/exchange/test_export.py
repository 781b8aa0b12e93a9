"""`export`: what it takes as a source, and what it refuses, with C as the target."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.support import ROOT

import openlstm
from openlstm import model_file
from openlstm.errors import ArgumentError, MissingExtraError, source
from openlstm.exchange.export import TARGETS, Target, export
from openlstm.exchange.layers import Layers
from openlstm.exchange.stack import Stack


def test_every_kind_of_source_gives_the_same_header(tmp_path: Path) -> None:
    theirs = torch.nn.LSTM(2, 3).eval()
    ours = openlstm.LSTM.from_torch(theirs)
    stack = Stack.of(ours, "a")
    wanted = export(ours, "c", tmp_path / "m.h", name="m")
    assert (tmp_path / "m.h").read_text() == wanted
    for given in (theirs, stack, Layers("x", [stack])):
        assert export(given, "c", name="m") == wanted
    several = torch.nn.ModuleDict({"a": theirs, "b": ours, "c": torch.nn.Linear(1, 1)})
    assert export(several, "c", name="m", layer="a") == export(several, "c", name="m", layer="b") == wanted
    torch.save(theirs.state_dict(), tmp_path / "x.pt")
    assert export(tmp_path / "x.pt", "c", name="m") == wanted


def test_a_model_file_is_told_from_other_files(tmp_path: Path) -> None:
    files = sorted((ROOT / "tests/golden").glob("*.safetensors"))
    assert files and all(map(model_file.is_ours, files))
    (tmp_path / "x").write_bytes(b"\xff" * 100)
    assert not model_file.is_ours(tmp_path / "x") and not model_file.is_ours(tmp_path / "y")


def refused(*given: object, **options: object) -> str:
    with pytest.raises(ArgumentError) as caught:
        export(*given, **options)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize("to", ["c", "torch", "keras", "flax"])
def test_zoneout_is_not_lost_in_silence(to: str) -> None:
    text = refused(openlstm.LSTM(2, 3, zoneout_c=0.1), to)
    assert text.partition(": ")[2] == (
        "zoneout would be lost, which acts in eval mode too\n"
        "  got       zoneout_c=0.1\n"
        "  expected  zoneout_c=0\n"
        "  hint      take to='onnx', which has it, or set layer.zoneout_c = 0 if it is to run without"
    )


def test_what_cannot_be_chosen_is_told() -> None:
    lstm = openlstm.LSTM(2, 3).eval()
    assert refused(lstm, "rust") == (
        "export: unknown target\n"
        "  got       to='rust'\n"
        "  expected  onnx or c or torch or keras or flax\n"
        "  hint      to='onnx' for ONNX Runtime, 'c' for a header without dependencies"
    )
    assert refused(lstm, "c", opset=17) == (
        "export: unknown option\n"
        "  got       opset=17\n"
        "  expected  the options of 'c': name, weights\n"
        "  hint      leave opset out"
    )
    layers = Layers("x", [Stack.of(lstm, "a"), Stack.of(lstm, "b")])
    assert refused(layers, "c") == (
        "export: several layers, and one is written\n"
        "  got       no layer named\n"
        "  expected  one of 'a', 'b'\n"
        "  hint      layer='a', or --layer a"
    )
    assert refused(layers, "c", layer="z") == (
        "export: no such layer\n  got       layer='z'\n  expected  one of 'a', 'b'\n  hint      layer='a', or --layer a"
    )


def test_a_member_of_a_model_file_is_named() -> None:
    path = ROOT / "tests/golden/forecast_direct_v4.safetensors"
    assert "one of 'member.0', 'member.1'" in refused(path, "c", layer="z")
    text = export(path, "c", layer="member.1", name="m")
    assert text == export(openlstm.read(path)["member.1"], "c", name="m")
    assert refused(openlstm.load(path), "c", layer="z") == (
        "export: holds no layers by name\n"
        "  got       layer='z'\n"
        "  expected  a module or a file with layers\n"
        "  hint      leave layer out"
    )


def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TARGETS, "x", Target("no_such_package", (".x",), "exchange"))
    with pytest.raises(MissingExtraError) as caught:
        export(openlstm.LSTM(1, 1), "x")
    assert str(caught.value) == (
        "export to 'x': needs the package no_such_package, which is not installed\n"
        "  got       no module named no_such_package\n"
        "  expected  the extra 'exchange'\n"
        f"  hint      pip install '{source()}[exchange]'"
    )
