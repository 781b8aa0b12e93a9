"""Model files that somebody made to harm, their checksum right: a typed error, in little memory, and never anything else."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openlstm import model_file
from openlstm.data.grid import add_steps, show_time
from openlstm.errors import ModelFileError, OpenLSTMError
from openlstm.model_file import Header
from openlstm.runtime.model import build

RAW: dict[str, Any] = {
    "version": 3,
    "library": "0.1.0",
    "task": "forecast",
    "series": {
        "time": "date",
        "target": "co2",
        "step": {"unit": "second", "count": 604800},
        "period": 5,
        "window": 7,
        "horizon": 2,
        "scale": 2.5,
        "seasonal_error": 1.3,
    },
    "network": {
        "cell": "lstm",
        "clip": None,
        "cells_per_gate": 1,
        "input_size": 2,
        "hidden_size": 3,
        "num_layers": 1,
        "members": 2,
    },
    "head": {"quantiles": [0.1, 0.5, 0.9]},
    "training": {
        "first": "2000-01-01T00:00:00.000000",
        "last": "2001-01-01T00:00:00.000000",
        "seed": 0,
        "epochs": [3, 4],
        "validation_loss": [0.1, 0.2],
        "learning_rate": 0.003,
        "batch_size": 64,
        "weight_decay": 0.01,
        "clip": 1.0,
        "init": "default",
    },
    "checksum": "",
}


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = Header.model_validate_json(json.dumps(RAW)).tensors()
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in sorted(shapes.items())}


def changed(**values: Any) -> dict[str, Any]:
    """RAW with values put in; `series__scale=1` is series.scale."""
    raw = copy.deepcopy(RAW)
    for name, value in values.items():
        *parts, last = name.split("__")
        place = raw
        for part in parts:
            place = place[part]
        place[last] = value
    return raw


def index_of(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The index of a safetensors file."""
    out, at = {}, 0
    for name, a in arrays.items():
        out[name] = {"dtype": "F32", "shape": list(a.shape), "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
    return out


def whole(raw: Any, index: dict[str, Any] | None = None, data: bytes | None = None, text: str | None = None) -> bytes:
    """A file with the right checksum, whatever its header says."""
    arrays = tensors()
    with suppress(ValueError):  # NaN and infinity have no canonical form
        raw = {**raw, "checksum": model_file.checksum(raw, arrays)} if isinstance(raw, dict) else raw
    own = {"__metadata__": {"openlstm": json.dumps(raw) if text is None else text}}
    found = json.dumps({**own, **(index_of(arrays) if index is None else index)}).encode()
    data = b"".join(a.tobytes() for a in arrays.values()) if data is None else data
    return len(found).to_bytes(8, "little") + found + data


def odd(dtype: str, size: float) -> dict[str, Any]:
    """The index with a first tensor of another type, one of `size` bytes a number."""
    index = index_of(tensors())
    first = next(iter(index))
    numbers = math.prod(index[first]["shape"])
    end = int(numbers * size)
    return {first: {**index[first], "dtype": dtype, "data_offsets": [0, end]}}


HOSTILE: dict[str, bytes] = {
    "members": whole(changed(network__members=10**9)),
    "layers": whole(changed(network__num_layers=10**9)),
    "members-and-layers": whole(changed(network__num_layers=1000, network__members=1000)),
    "units": whole(changed(network__hidden_size=10**9)),
    "blocks": whole(changed(network__hidden_size=2**16, network__cells_per_gate=2**16)),
    "numbers": whole(changed(network__hidden_size=2**16)),
    "quantiles": whole(changed(head__quantiles=sorted({0.5, *np.linspace(0.001, 0.999, 9999).round(6).tolist()}))),
    "float8": whole(RAW, odd("F8_E4M3", 1), bytes(24)),
    "float8-scales": whole(RAW, odd("F8_E8M0", 1), bytes(24)),
    "float4": whole(RAW, odd("F4", 0.5), bytes(12)),
    "bfloat16": whole(RAW, odd("BF16", 2), bytes(48)),
    "no-type": whole(RAW, odd("float32", 4), bytes(96)),
    "step": whole(changed(series__step__count=10**30)),
    "step-as-a-float": whole(changed(series__step__count=1e30)),
    "step-of-months": whole(changed(series__step={"unit": "month", "count": 10**10})),
    "far": whole(changed(series__horizon=10**8)),
    "last": whole(changed(training__last="yesterday")),
    "last-no-time": whole(changed(training__last="NaT")),
    "last-13th-month": whole(changed(training__last="2001-13-01T00:00:00")),
    "first": whole(changed(training__first="2001-02-30")),
    "seed": whole(changed(training__seed=2**64)),
    "epochs": whole(changed(training__epochs=[10**30])),
    "batch": whole(changed(training__batch_size=10**30)),
    "scale": whole(changed(series__scale=1e308)),
    "scale-0": whole(changed(series__scale=5e-324)),
    "error": whole(changed(series__seasonal_error=5e-324)),
    "digits": whole(None, text=json.dumps(RAW).replace('"seed": 0', '"seed": ' + "9" * 5000)),
    "name": whole(changed(library="\x1b[2J" * 50_000)),
    "newer": whole(changed(version=10**4000, library=["\x1b[2J"] * 10_000)),
    "keys": whole({**RAW, **{f"k{n}": 0 for n in range(12_000)}}),
    "more-keys": whole({**RAW, **{f"k{n}": 0 for n in range(300_000)}}),
    "deep": whole(None, text="[" * 200_000),
    "deep-index": len(deep := b"[" * 10**6).to_bytes(8, "little") + deep,
    "half-a-character": whole(None, text=json.dumps(RAW).replace("co2", "\ud800")),
    "half-a-character-escaped": whole(None, text=json.dumps(RAW).replace("co2", "\\ud800")),
    "lists": whole(None, text="[" + "[]," * 60_000 + "[]]"),
    "lists-in-the-index": len(lists := b"[" + b"[]," * 1_300_000 + b"[]]").to_bytes(8, "little") + lists,
    "empty-tensors": whole(RAW, {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(300_000)}, b""),
    "some-empty-tensors": whole(RAW, {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(50_000)}),
    "index-length": (2**63).to_bytes(8, "little") + b"{}",
    "shape": whole(RAW, {"member.0.head.bias": {"dtype": "F32", "shape": [2**63, 2**63], "data_offsets": [0, 0]}}),
    "shape-of-words": whole(RAW, {"member.0.head.bias": {"dtype": "F32", "shape": ["\x1b[2J"] * 9999, "data_offsets": [0, 0]}}),
    "no-entry": whole(RAW, {"member.0.head.bias": None}),
    "offsets": whole(RAW, {n: {**e, "data_offsets": [0, e["data_offsets"][1]]} for n, e in index_of(tensors()).items()}),
    "no-offsets": whole(RAW, {n: {"dtype": "F32", "shape": e["shape"]} for n, e in index_of(tensors()).items()}),
    "metadata": len(odd_own := b'{"__metadata__": {"openlstm": 3}}').to_bytes(8, "little") + odd_own,
}
GIB = 2**30


def sparse(folder: Path) -> dict[str, Path]:
    """Large files that take no room, all zeros behind what their names say."""
    extra = {"x": {"dtype": "F32", "shape": [GIB // 4], "data_offsets": [0, GIB]}}
    begins = {
        "a-tensor-too-many": (whole(RAW, extra, b""), GIB),
        "no-index": (b"", GIB),
        "numbers-too-many": right(changed(network__hidden_size=5800, network__members=1)),  # 4 * 5800^2 > 2^27
        "a-wrong-checksum": right(changed(network__hidden_size=4000, network__members=1)),
    }
    for name, (begin, size) in begins.items():
        (folder / name).write_bytes(begin)
        os.truncate(folder / name, len(begin) + size)
    return {name: folder / name for name in begins}


def right(raw: dict[str, Any]) -> tuple[bytes, int]:
    """The index that fits the header, and the bytes of the tensors in it."""
    small = Header.model_validate_json(json.dumps(changed(network__members=1)))
    H, shapes = raw["network"]["hidden_size"], small.tensors()
    wide = {n: [H if k == 3 else 4 * H if k == 12 else k for k in shape] for n, shape in shapes.items()}
    index, at = {}, 0
    for name, shape in wide.items():
        index[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + 4 * math.prod(shape)]}
        at += 4 * math.prod(shape)
    return whole(raw, index, b""), at


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_an_error_of_ours(name: str, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(HOSTILE[name])
    with pytest.raises(ModelFileError) as caught:
        model_file.read(tmp_path / "m")
    text = str(caught.value)
    assert len(text) < 1000 and len(text.splitlines()) == 4 and all(line.isprintable() for line in text.splitlines())


def test_the_files_are_hostile_for_one_reason_each(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(whole(RAW))
    header, arrays = model_file.read(tmp_path / "m")
    assert arrays.keys() == header.tensors().keys()
    assert build(header, arrays).predict(np.arange(9.0)).median.shape == (2,)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads how much memory was used from /proc")
def test_hostile_files_take_little_memory(tmp_path: Path) -> None:
    """All of them, and 1 GiB of zeros behind an index, in one process that is told by the system how much it used at most."""
    for name, content in HOSTILE.items():
        (tmp_path / name).write_bytes(content)
    count = len(HOSTILE) + len(sparse(tmp_path))
    code = """
import sys, pathlib
from openlstm import model_file
from openlstm.errors import ModelFileError
refused = 0
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        model_file.read(path)
    except ModelFileError:
        refused += 1
used = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(refused, int(used.split()[1]) // 1024)
"""
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    refused, used = map(int, run.stdout.split())
    assert refused == count
    assert used < 200  # MiB


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a-tensor-too-many", "tensor member.0.head.bias does not fit the header"),
        ("no-index", "cannot be read: truncated, damaged, or not a safetensors file"),
        ("numbers-too-many", "more than 134217728 numbers in all tensors together"),
    ],
)
def test_what_a_large_file_says_is_read_before_its_numbers(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openlstm.model_file.file._pieces", None)
    monkeypatch.setattr(np, "fromfile", None)
    with pytest.raises(ModelFileError, match=text):
        model_file.read(sparse(tmp_path)[name])


def test_a_large_file_is_read_in_pieces_until_its_checksum_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Hash:
        def __init__(self, text: bytes) -> None:
            self.update(text)

        def update(self, piece: bytes) -> None:
            sizes.append(len(piece))

        def hexdigest(self) -> str:
            return "another"

    path = sparse(tmp_path)["a-wrong-checksum"]
    monkeypatch.setattr("hashlib.sha256", Hash)
    with pytest.raises(ModelFileError, match="its checksum does not fit its content"):
        model_file.read(path)
    assert sum(sizes) > 4 * 4 * 4000**2 and max(sizes) <= 2**22


def test_a_file_at_the_limits_is_read(tmp_path: Path) -> None:
    """What the schema allows in names and layers stays below what a reader accepts as an index and as a header."""
    shape = {"cell": "lstm_ln", "clip": 1.0, "cells_per_gate": 1, "input_size": 2}
    network = {**shape, "hidden_size": 1, "num_layers": 1, "members": 1000}
    many = {"epochs": [10**9] * 1000, "validation_loss": [0.12345678901234567] * 1000}
    raw = changed(network=network, series__time="\u00e9" * 1000, series__target="\u00e9" * 1000, library="x" * 1000)
    raw["training"] |= many
    raw["head"]["quantiles"] = [(k + 1) / 1000 for k in range(999)]
    header = Header.model_validate_json(json.dumps(raw))
    arrays = {name: np.zeros(size, np.float32) for name, size in header.tensors().items()}
    written = model_file.write(tmp_path / "m", header, arrays)
    read, back = model_file.read(tmp_path / "m")
    assert read == written and len(back) == 12_000


# --- drawn changes ----------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.integers(),
    st.sampled_from([0, -1, 1, 2, 3, 2**31, 2**63 - 1, 2**63, 2**64, 10**9, 10**30, -(10**30)]),
    st.floats(allow_nan=True),
    st.sampled_from([0.0, 1e30, 1e308, 5e-324, -1e308, 0.5, math.inf]),
)
WORDS = st.one_of(
    st.text(st.characters(), max_size=8), st.sampled_from(["lstm", "gru", "month", "second", "NaT", "0001-01-01", "F8_E5M2"])
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of a JSON value, as the keys that lead there."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for key, value in inside for place in places(value, (*path, key)))]


def put(node: Any, path: tuple[Any, ...], how: str, value: Any) -> Any:
    """A copy of a JSON value with one of its places replaced, left out, or beside a new one."""
    if not path:
        return value
    node = copy.deepcopy(node)
    place = node
    for key in path[:-1]:
        place = place[key]
    if how == "replace":
        place[path[-1]] = value
    elif how == "leave out":
        del place[path[-1]]
    elif isinstance(place, dict):
        place[f"{path[-1]}x"] = value
    else:
        place.append(value)
    return node


@st.composite
def changes(draw: Any, node: Any) -> Any:
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(node)))
        node = put(node, path, draw(st.sampled_from(["replace", "replace", "leave out", "add"])), draw(VALUES))
    return node


def outcome(content: bytes) -> None:
    """Reading, and what a user then does: a forecast and its dates. Anything but an error of ours fails the test."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m"
        path.write_bytes(content)
        try:
            header, arrays = model_file.read(path)
        except ModelFileError:
            return
    series = header.series
    try:
        with np.errstate(all="raise"):
            forecast = build(header, arrays).predict(np.arange(min(series.window, 10**4), dtype=float) * 1e3)
    except OpenLSTMError:
        return
    assert np.isfinite(forecast.median).all()
    first = np.datetime64(header.training.last, "us")
    (end,) = add_steps(first, series.step, np.array([series.horizon]))
    assert end > first and show_time(end)


@given(changes(RAW))
def test_any_header_that_is_changed_is_read_or_refused(raw: Any) -> None:
    outcome(whole(raw))


@given(changes(index_of(tensors())), st.sampled_from([b"", None]))
def test_any_index_that_is_changed_is_read_or_refused(index: Any, data: bytes | None) -> None:
    outcome(whole(RAW, index if isinstance(index, dict) else {"x": index}, data))


@given(st.data())
def test_any_bytes_that_are_changed_are_read_or_refused(data: st.DataObject) -> None:
    content = bytearray(whole(RAW))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        kind = data.draw(st.sampled_from(["replace", "insert", "cut", "end"]))
        new = data.draw(st.binary(min_size=1, max_size=9))
        content[at : at + (len(new) if kind == "replace" else 9 if kind == "cut" else 0)] = new if kind != "cut" else b""
        content = content[:at] if kind == "end" else content
    outcome(bytes(content))
