"""The model file: what is written comes back bit for bit; anything else is one error that says what is wrong."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save, save_file

from openlstm import cells, model_file
from openlstm.errors import ModelFileError
from openlstm.model_file import Head, Header, Network, Series, Step, Training

NETWORK = {"cell": "lstm", "input_size": 2, "hidden_size": 3, "num_layers": 2, "members": 2}


def header(**network: Any) -> Header:
    return Header(
        library="0.1.0",
        task="forecast",
        series=Series(
            time="date",
            target="co2",
            step=Step(unit="second", count=604800),
            period=52,
            window=104,
            horizon=4,
            scale=2.5,
            seasonal_error=1.3,
        ),
        network=Network(**{**NETWORK, **network}),
        head=Head(quantiles=(0.1, 0.5, 0.9)),
        training=Training(
            first="2000-01-01T00:00:00.000000",
            last="2001-01-01T00:00:00.000000",
            seed=0,
            epochs=(3, 4),
            validation_loss=(0.1, 0.2),
            learning_rate=3e-3,
            batch_size=64,
            weight_decay=0.01,
            clip=1.0,
        ),
    )


def tensors(h: Header, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in h.tensors().items()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    model_file.write(tmp_path / "m.safetensors", header(), tensors(header()))
    return tmp_path / "m.safetensors"


def text_of(path: Path) -> str:
    with safe_open(path, framework="numpy") as file:
        return file.metadata()["openlstm"]


def rewrite(path: Path, change: dict[str, Any], *, sign: bool = True) -> None:
    """Write the file again with another header, its checksum right unless `sign` is False."""
    h, t = model_file.read(path)
    raw = {**json.loads(h.model_dump_json()), **change}
    if sign:
        raw["checksum"] = model_file.checksum(raw, t)
    path.write_bytes(save(t, {"openlstm": json.dumps(raw)}))


@pytest.mark.parametrize("options", [{}, {"clip": 3.0}, {"cells_per_gate": 3}], ids=str)
@pytest.mark.parametrize("cell", cells.BY_NAME)
def test_what_is_written_comes_back(tmp_path: Path, cell: str, options: dict[str, Any]) -> None:
    if not all(has_option(cell, name) for name in options):
        pytest.skip("not an option of this cell")
    h = header(cell=cell, **options)
    assert h.network.recurrence() == dataclasses.replace(cells.BY_NAME[cell], **options)  # type: ignore[type-var]
    t = tensors(h)
    written = model_file.write(tmp_path / "m.safetensors", h, t)
    read, back = model_file.read(tmp_path / "m.safetensors")
    assert read == written
    assert read.model_copy(update={"checksum": ""}) == h
    assert back.keys() == t.keys()
    assert all((back[name] == t[name]).all() and back[name].dtype == np.float32 for name in t)


def has_option(cell: str, name: str) -> bool:
    return name in {field.name for field in dataclasses.fields(cells.BY_NAME[cell])}  # type: ignore[arg-type]


def test_a_file_can_name_every_cell_and_each_name_is_one_cell() -> None:
    """The names are part of the format: neither a kernel's name nor the order of the list may change them."""
    assert set(cells.BY_NAME.values()) == set(cells.ALL) and len(cells.BY_NAME) == len(cells.ALL)
    greff = "nig nig_np nfg nfg_np nog nog_np niaf niaf_np noaf noaf_np cifg cifg_np fgr lstm1997"
    assert list(cells.BY_NAME) == ["lstm", "peephole", *greff.split(), "lstm_ln", "gru", "rnn_tanh", "rnn_relu"]
    assert cells.BY_NAME["lstm1997"] == cells.LSTM1997() and cells.BY_NAME["nfg_np"] == cells.NFG(peephole=False)
    assert cells.BY_NAME["rnn_relu"] == cells.VanillaRNN("relu")


def test_a_header_that_was_read_is_written_in_the_newest_version(tmp_path: Path) -> None:
    old, t = model_file.read(Path(__file__).parent / "golden" / "forecast_lstm_v1.safetensors")
    new = model_file.write(tmp_path / "m.safetensors", old, t)
    assert (old.version, new.version) == (1, model_file.VERSION)
    again, back = model_file.read(tmp_path / "m.safetensors")
    assert again == new and again.network == old.network and back.keys() == t.keys()


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        model_file.write(
            tmp_path / name, header(), dict(reversed(tensors(header()).items())) if name == "b" else tensors(header())
        )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_header_names_every_tensor_and_its_shape() -> None:
    h = header(num_layers=1, members=1)
    assert h.tensors() == {
        "member.0.recurrent.weight_ih_l0": (12, 2),
        "member.0.recurrent.weight_hh_l0": (12, 3),
        "member.0.recurrent.bias_ih_l0": (12,),
        "member.0.recurrent.bias_hh_l0": (12,),
        "member.0.head.weight": (12, 3),
        "member.0.head.bias": (12,),
    }


def test_any_flipped_byte_is_found(path: Path) -> None:
    data = path.read_bytes()
    original = model_file.read(path)
    rng = np.random.default_rng(0)
    for at in [*range(0, 8), *rng.integers(8, len(data), 300)]:
        broken = bytearray(data)
        broken[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        try:
            read, back = model_file.read(path)
        except ModelFileError:
            continue
        # the one harmless place: white space around safetensors' own header
        assert read == original[0] and all((back[k] == v).all() for k, v in original[1].items()), at


def test_any_truncation_is_found(path: Path) -> None:
    data = path.read_bytes()
    for size in [0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(
            ModelFileError, match="m.safetensors: cannot be read: truncated, damaged, or not a safetensors file"
        ):
            model_file.read(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError) as e:
        model_file.read(tmp_path / "no.safetensors")
    assert str(e.value) == (
        "no.safetensors: there is no such file\n  got       nothing\n  expected  a model file\n  hint      check the path"
    )


def test_a_truncated_file_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
    size = path.stat().st_size
    with pytest.raises(ModelFileError) as e:
        model_file.read(path)
    assert str(e.value).startswith(
        f"m.safetensors: cannot be read: truncated, damaged, or not a safetensors file\n  got       {size} bytes ("
    )
    assert str(e.value).endswith(
        "\n  expected  a whole safetensors file\n  hint      copy the file again, or fit the model again"
    )


def test_a_damaged_file_is_refused(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelFileError) as e:
        model_file.read(path)
    assert str(e.value) == (
        "m.safetensors: is damaged\n  got       its checksum does not fit its content\n"
        "  expected  the file as it was written\n  hint      copy the file again, or fit the model again"
    )


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": NaN}', ""])
def test_a_header_that_is_no_json_object(path: Path, text: str) -> None:
    path.write_bytes(save(model_file.read(path)[1], {"openlstm": text}))
    with pytest.raises(
        ModelFileError, match=r"m.safetensors: is damaged\n  got       its header is not (JSON|a JSON object)\n"
    ):
        model_file.read(path)


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "torch.safetensors")
    with pytest.raises(ModelFileError) as e:
        model_file.read(tmp_path / "torch.safetensors")
    assert str(e.value) == (
        "torch.safetensors: is not a model file of openlstm\n  got       a safetensors file without an openlstm header\n"
        "  expected  a file written by `openlstm fit` or `Forecaster.save`\n"
        "  hint      for bare weights of torch use openlstm.LSTM(...).load_state_dict"
    )


def test_a_file_of_a_newer_version_is_refused(path: Path) -> None:
    rewrite(path, {"version": 4, "library": "7.0", "new": {}})
    with pytest.raises(ModelFileError) as e:
        model_file.read(path)
    assert str(e.value) == (
        "m.safetensors: was written by a newer openlstm (7.0)\n  got       header version 4\n"
        "  expected  header version 3 or older\n  hint      install a newer openlstm"
    )


@pytest.mark.parametrize(
    ("change", "got"),
    [
        ({"extra": 1}, "extra: Extra inputs are not permitted"),
        ({"task": "label"}, "task: Input should be 'forecast'"),
        ({"version": 0}, "version: Input should be 1, 2 or 3"),
        ({"library": 1}, "library: Input should be a valid string"),
        ({"head": {"quantiles": [0.9, 0.5]}}, "head: Value error, quantiles must rise strictly inside (0, 1) and hold 0.5"),
        ({"network": {**NETWORK, "cell": "nas"}}, "network: Value error, unknown cell 'nas'"),
        ({"network": {**NETWORK, "cell": 3}}, "network.cell: Input should be a valid string"),
        ({"network": {**NETWORK, "cell": "gru", "clip": 1.0}}, "network: Value error, gru has no clip"),
        ({"network": {**NETWORK, "cell": "nfg", "cells_per_gate": 3}}, "network: Value error, nfg has no cells_per_gate"),
        ({"network": {**NETWORK, "clip": 0.0}}, "network.clip: Input should be greater than 0"),
        (
            {"network": {**NETWORK, "cells_per_gate": 2}},
            "network: Value error, hidden_size is not a multiple of cells_per_gate",
        ),
        ({"head": {"quantiles": [0.1, 0.9]}}, "head: Value error, quantiles must rise strictly inside (0, 1) and hold 0.5"),
    ],
)
def test_every_value_is_held_against_the_schema(path: Path, change: dict[str, Any], got: str) -> None:
    rewrite(path, change)
    with pytest.raises(ModelFileError) as e:
        model_file.read(path)
    assert str(e.value) == (
        f"m.safetensors: its header is not one of openlstm's\n  got       {got}\n  expected  the closed schema of version 3\n"
        "  hint      the file was made or changed by another program; fit the model again"
    )


def test_a_header_cannot_be_changed_without_its_checksum(path: Path) -> None:
    rewrite(path, {"library": "0.1.1"}, sign=False)
    with pytest.raises(ModelFileError, match="its checksum does not fit its content"):
        model_file.read(path)


def test_tensors_must_be_those_the_header_names(tmp_path: Path) -> None:
    h, good = header(), tensors(header())
    name = "member.1.head.bias"
    bad: list[tuple[dict[str, np.ndarray], str, str]] = [
        ({k: v for k, v in good.items() if k != name}, "no such tensor", "float32[12]"),
        ({**good, "zzz": np.zeros(1, np.float32)}, "float32[1]", "no such tensor"),
        ({**good, name: good[name][:5]}, "float32[5]", "float32[12]"),
        ({**good, name: good[name].astype(np.float64)}, "float64[12]", "float32[12]"),
    ]
    for content, got, expected in bad:
        with pytest.raises(ModelFileError) as e:
            model_file.write(tmp_path / "m", h, content)
        assert f"does not fit the header\n  got       {got}\n  expected  {expected}\n  hint" in str(e.value)
    with pytest.raises(ModelFileError, match=f"tensor {name} holds a value that is not finite"):
        model_file.write(tmp_path / "m", h, {**good, name: np.full(12, np.nan, np.float32)})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        model_file.write(path, header(), tensors(header(), seed=1))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_file_is_synced_before_it_gets_its_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("sync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), replace(a, b)))
    model_file.write(path, header(), tensors(header()))
    assert calls == ["sync", "rename", "sync"]  # the content, the name, the folder
