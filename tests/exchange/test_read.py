"""`read` takes a file for what it holds; every file that cannot be read is one error that says what it is and what to do."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import openlstm
from openlstm import cli
from openlstm.errors import DataError, DtypeError, ModelFileError
from openlstm.exchange import checkpoints, pickles

KINDS = "an ONNX, Keras, Flax, torch, pickle or safetensors file with recurrent layers"
OURS = Path(__file__).parents[1] / "golden" / "forecast_lstm_v3.safetensors"


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("_", "."), data)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return buffer.getvalue()


OTHERS: dict[str, tuple[str, bytes, str]] = {
    "empty": ("m.pt", b"", f"is empty\n  got       0 bytes\n  expected  {KINDS}\n  hint      fetch the file again"),
    "page": (
        "m.keras",
        b"<!DOCTYPE html>",
        "is of a kind that is not read\n"
        "  got       a page of HTML or XML, perhaps an error that was saved in place of the file\n"
        f"  expected  {KINDS}\n"
        "  hint      fetch the file again",
    ),
    "packed": (
        "m.onnx",
        gzip.compress(b"x"),
        f"is of a kind that is not read\n  got       compressed with gzip\n  expected  {KINDS}\n  hint      unpack it first",
    ),
    "pointer": (
        "m.safetensors",
        b"version https://git-lfs.github.com/spec/v1\n",
        "is of a kind that is not read\n"
        "  got       a pointer to a file that Git LFS keeps elsewhere\n"
        f"  expected  {KINDS}\n"
        "  hint      run `git lfs pull`",
    ),
    "lite": (
        "m.tflite",
        b"\x1c\0\0\0TFL3\0\0\0\0",
        "is of a kind that is not read\n"
        "  got       a model of TensorFlow Lite\n"
        f"  expected  {KINDS}\n"
        "  hint      export the model to ONNX, or save it as .keras",
    ),
    "unknown": (
        "m.h5",
        b"hello world",
        "is of a kind that is not read\n"
        "  got       a file that begins with 68 65 6c 6c 6f 20 77 6f\n"
        f"  expected  {KINDS}\n"
        "  hint      check that this is the file with the weights",
    ),
    "arrays": (
        "m.pt",
        zipped(a_npy=b"x"),
        "cannot be read\n"
        "  got       a zip archive of a.npy\n"
        "  expected  one that torch or Keras saved\n"
        "  hint      unpack it first",
    ),
    "tar": (
        "m.pt",
        tarred(),
        "is a tar archive of a very old torch\n"
        "  got       a tar archive\n"
        "  expected  a zip archive, or a pickle with its storages\n"
        "  hint      open it with torch once and save it again with torch.save",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_another_kind_is_told_from_its_content(name: str, tmp_path: Path) -> None:
    file, data, text = OTHERS[name]
    (tmp_path / file).write_bytes(data)
    with pytest.raises(DataError) as caught:
        openlstm.read(tmp_path / file)
    assert str(caught.value) == f"{tmp_path / file}: {text}"


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        openlstm.read(str(tmp_path / "m.pt"))
    assert str(caught.value) == (
        f"{tmp_path / 'm.pt'}: is not there\n  got       no such file\n  expected  {KINDS}\n  hint      check the path"
    )
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(DataError) as caught:
        openlstm.read(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: is a folder\n"
        "  got       a folder with model.safetensors\n"
        f"  expected  {KINDS}\n"
        "  hint      name the file with the weights, for example model.safetensors"
    )


def test_the_content_counts_and_a_wrong_ending_is_said(tmp_path: Path) -> None:
    torch.save(nn.GRU(2, 3).state_dict(), tmp_path / "m.onnx")
    found = openlstm.read(tmp_path / "m.onnx")
    assert found.notes == ("the ending .onnx says ONNX, the content torch",)
    torch.save(nn.GRU(2, 3).state_dict(), tmp_path / "m.bin")
    assert openlstm.read(tmp_path / "m.bin").notes == ()


def test_an_object_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(DtypeError) as caught:
        openlstm.read(3)
    assert str(caught.value) == (
        "read: cannot read this\n"
        "  got       int\n"
        "  expected  a path, an onnx.ModelProto, a torch module or state dict, a Keras model, a tree of Flax parameters\n"
        "  hint      save the model and pass the path of its file"
    )


def test_a_model_of_ours_gives_its_recurrent_layers() -> None:
    found, model = openlstm.read(OURS), openlstm.load(OURS)
    assert len(found) == len(model.networks)
    for layer, network in zip(found.values(), model.networks, strict=True):
        x = torch.randn(5, 2, layer.input_size)
        assert np.array_equal(layer(x)[0].detach().numpy(), network.run(x.numpy())[0])


def laughs(depth: int) -> Any:
    """Dicts of which each holds the one below it twice."""
    tree: dict[str, Any] = {}
    for _ in range(depth):
        tree = {"a": tree, "b": tree}
    return tree


EVIL: dict[str, bytes] = {
    "many": pickle.dumps(laughs(40)),
    "deep": b"\x80\x02" + b"}X\x01\0\0\0a" * 1000 + b"N" + b"s" * 1000 + b".",
    "hash": b"\x80\x02}" + b")" + b"\x32\x86" * 60 + b"Ns.",  # a tuple of a tuple of ..., each twice, as a key
    "memo": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "text": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fx.",
    "stack": b"\x80\x02s.",
    "end": b"\x80\x02}",
    "digits": b"\x80\x02L" + b"9" * 10_000 + b"L\n.",
}


@pytest.mark.parametrize("name", EVIL)
def test_pickles_that_would_take_for_ever_are_refused_at_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "MOST", 10_000)
    (tmp_path / "m.pkl").write_bytes(EVIL[name])
    with pytest.raises((DataError, openlstm.errors.ArgumentError), match=r"m.pkl: (cannot be read|holds no recurrent layer)"):
        openlstm.read(tmp_path / "m.pkl")


def test_a_pickle_has_no_more_opcodes_than_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MOST", 1000)
    (tmp_path / "m.pkl").write_bytes(b"\x80\x02" + b"N0" * 600 + b".")
    with pytest.raises(DataError) as caught:
        openlstm.read(tmp_path / "m.pkl")
    assert str(caught.value) == (
        f"{tmp_path / 'm.pkl'}: cannot be read\n"
        "  got       more than 1000 opcodes\n"
        "  expected  a checkpoint of some MB beside its tensors\n"
        "  hint      fetch the file again"
    )


def test_a_zip_archive_that_expands_too_far_or_overlaps_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", bytes(2**27))
    with pytest.raises(DataError, match="expands too far to be a model"):
        openlstm.read(tmp_path / "m.pt")
    with zipfile.ZipFile(tmp_path / "n.pt", "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02}." * 1000)
        for name in ("a", "b", "c"):  # the same bytes under three more names
            info = archive.getinfo("m/data.pkl")
            other = zipfile.ZipInfo(f"m/data/{name}")
            for field in ("compress_size", "file_size", "CRC", "header_offset"):
                setattr(other, field, getattr(info, field))
            archive.filelist.append(other)
            archive.NameToInfo[other.filename] = other
        archive._didModify = True  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"members of \d+ bytes in a file of \d+"):
        openlstm.read(tmp_path / "n.pt")


def test_a_safetensors_file_that_declares_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"weight_ih_l0": {"dtype": "F32", "shape": [4000, 10**9], "data_offsets": [0, 16 * 10**12]}}).encode()
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(DataError, match="m.safetensors: cannot be read"):
        openlstm.read(tmp_path / "m.safetensors")


def test_inspect_prints_the_layers_of_any_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.pt"
    torch.save(nn.Sequential(nn.Linear(2, 3), nn.LSTM(3, 5, batch_first=True)), path)
    assert cli.main(["inspect", str(path)]) == 0
    assert capsys.readouterr().out == (
        "name  layer                              parameters\n1     LSTM 3 -> 5, batch first, float32         200\n"
    )
    assert cli.main(["inspect", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["file"] == str(path) and told["notes"] == [] and told["not_expressed"] == {}
    assert told["layers"][0]["name"] == "1" and told["layers"][0]["hidden_size"] == 5
    assert cli.main(["inspect", str(tmp_path / "none.pt")]) == 1
    assert "is not there" in capsys.readouterr().err
    assert cli.main(["inspect", str(OURS), "--json"]) == 0
    assert "task" in json.loads(capsys.readouterr().out)


def test_a_damaged_model_of_ours_is_still_refused_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.safetensors").write_bytes(OURS.read_bytes()[:-4])
    with pytest.raises(ModelFileError):
        openlstm.read(tmp_path / "m.safetensors")
    assert cli.main(["inspect", str(tmp_path / "m.safetensors")]) == 1
