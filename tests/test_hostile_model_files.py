"""Model files that somebody made to harm, their checksum right: a typed error, in little memory, and never anything else."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openlstm import model_file
from openlstm.data.grid import add_steps, show_time, show_times
from openlstm.data.panel import Covariate, Panel
from openlstm.errors import ModelFileError, OpenLSTMError
from openlstm.model_file import Header
from openlstm.runtime.model import Model, load

TRAINING = {
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
}
NETWORK = {"cell": "lstm", "clip": None, "cells_per_gate": 1, "hidden_size": 3, "num_layers": 1, "members": 2}
SERIES = {"time": "date", "target": "co2", "step": {"unit": "second", "count": 604800}, "period": 5, "window": 7, "horizon": 2}
NAMES = json.dumps([["a"], ["b"]]).encode()
BAND = [True, True, True]
RAW: dict[str, Any] = {
    "version": 4,
    "library": "0.1.0",
    "task": "forecast",
    "series": {
        **SERIES,
        "ids": ["shop"],
        "zone": None,
        "form": {"time_format": None, "zone": None, "aggregate": "mean", "wide": False},
        "scale": {"anchor": "season", "share": 0.001, "floor": 0.25, "center": 0.0},
        "calendar": ["yearday"],
        "lags": [{"season": 5, "back": 0}, {"season": 5, "back": 1}],
        "features": [
            {"name": "price", "role": "future", "mean": 2.0, "deviation": 0.5, "marked": True},
            {"name": "region", "role": "static", "categories": ["n", "s"], "width": 2, "marked": True},
        ],
    },
    "network": NETWORK,
    "decoder": {"kind": "direct", "quantiles": [0.1, 0.5, 0.9], "width": 4},
    "forecasters": [
        {"name": "network", "weight": 0.5, "error": 0.9, "enough": BAND, "arrays": []},
        {"name": "seasonal_naive", "weight": 0.3, "error": 1.0, "enough": BAND, "arrays": []},
        {"name": "linear_window", "weight": 0.2, "arrays": [["weights", [7, 2]], ["bias", [2]]]},
        {"name": "best", "enough": BAND},
    ],
    "training": {**TRAINING, "series": 2, "name_bytes": len(NAMES)},
    "checksum": "",
}
OLD: dict[str, Any] = {
    "version": 3,
    "library": "0.1.0",
    "task": "forecast",
    "series": {**SERIES, "scale": 2.5, "seasonal_error": 1.3},
    "network": {**NETWORK, "input_size": 2},
    "head": {"quantiles": [0.1, 0.5, 0.9]},
    "training": TRAINING,
    "checksum": "",
}


def tensors(raw: dict[str, Any] = RAW) -> dict[str, np.ndarray]:
    """Those that a header names."""
    rng = np.random.default_rng(0)
    kinds = msgspec.convert(model_file.upgrade(raw), Header).tensors()
    floats = {name: rng.standard_normal(shape).astype(kind) for name, (kind, shape) in sorted(kinds.items())}
    own = {name: a for name, a in seen().items() if name in floats and floats[name].shape == a.shape}
    return {**floats, **own}


def seen() -> dict[str, np.ndarray]:
    """The tensors that say which series the model has seen, and until when."""
    return {"series.names": np.frombuffer(NAMES, np.uint8), "series.last": np.array([0, 10**15])}


def changed(**values: Any) -> dict[str, Any]:
    """RAW with values put in; `series__scale__floor=1` is series.scale.floor, `forecasters__0__name` of the first of them."""
    raw = copy.deepcopy(RAW)
    for name, value in values.items():
        *parts, last = name.split("__")
        place: Any = raw
        for part in parts:
            place = place[int(part) if part.isdigit() else part]
        place[last] = value
    return raw


def index_of(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The index of a safetensors file."""
    out, at = {}, 0
    kinds = {"float32": "F32", "uint8": "U8", "int64": "I64"}
    for name, a in arrays.items():
        out[name] = {"dtype": kinds[a.dtype.name], "shape": list(a.shape), "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
    return out


def whole(
    raw: Any,
    index: dict[str, Any] | None = None,
    data: bytes | None = None,
    text: str | None = None,
    arrays: dict[str, np.ndarray] | None = None,
) -> bytes:
    """A file with the right checksum, whatever its header says."""
    arrays = tensors() if arrays is None else arrays
    with suppress(ValueError):  # NaN and infinity have no canonical form
        raw = {**raw, "checksum": model_file.checksum(raw, arrays)} if isinstance(raw, dict) else raw
    own = {"__metadata__": {"openlstm": json.dumps(raw) if text is None else text}}
    found = json.dumps({**own, **(index_of(arrays) if index is None else index)}).encode()
    data = b"".join(a.tobytes() for a in arrays.values()) if data is None else data
    return len(found).to_bytes(8, "little") + found + data


def named(names: bytes, count: int = 2) -> bytes:
    """A file whose series have other names."""
    raw = changed(training__series=count, training__name_bytes=len(names))
    own = {"series.names": np.frombuffer(names, np.uint8), "series.last": np.zeros(count, np.int64)}
    return whole(raw, arrays={**tensors(), **own})


def odd_values(name: str, value: float) -> bytes:
    """A file that has a tensor full of a value."""
    arrays = tensors()
    return whole(RAW, arrays={**arrays, name: np.full_like(arrays[name], value)})


def category(count: int, length: int = 0) -> dict[str, Any]:
    """A column of so many categories, the names of so many characters."""
    return {"name": f"c{count}", "role": "static", "categories": [f"{k}".ljust(length, "x") for k in range(count)]}


def renamed(name: str) -> dict[str, np.ndarray]:
    """The tensors, the second forecaster under another name."""
    return {n.replace("seasonal_naive", name): a for n, a in tensors().items()}


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
    "layers-and-embeddings": whole(changed(network__members=500, series__features=[category(k + 1) for k in range(3)])),
    "blocks": whole(changed(network__hidden_size=2**16, network__cells_per_gate=2**16)),
    "numbers": whole(changed(network__hidden_size=2**16)),
    "quantiles": whole(changed(decoder__quantiles=sorted({0.5, *np.linspace(0.001, 0.999, 9999).round(6).tolist()}))),
    "float8": whole(RAW, odd("F8_E4M3", 1), bytes(2)),
    "float8-scales": whole(RAW, odd("F8_E8M0", 1), bytes(2)),
    "float4": whole(RAW, odd("F4", 0.5), bytes(1)),
    "bfloat16": whole(RAW, odd("BF16", 2), bytes(4)),
    "bytes": whole(RAW, odd("U8", 1), bytes(2)),
    "no-type": whole(RAW, odd("float32", 4), bytes(8)),
    "step": whole(changed(series__step__count=10**30)),
    "step-as-a-float": whole(changed(series__step__count=1e30)),
    "step-of-business-days": whole(changed(series__step={"unit": "business", "count": 10**10})),
    "step-of-months": whole(changed(series__step={"unit": "month", "count": 10**10})),
    "far": whole(changed(series__horizon=10**8)),
    "window": whole(changed(series__window=10**9)),
    "window-and-units": whole(changed(series__window=10**6, network__hidden_size=1000)),
    "window-of-years": whole(changed(series__window=10**5, series__step={"unit": "month", "count": 1200})),
    "lags": whole(changed(series__lags=[{"season": 10**6, "back": 100}], series__step={"unit": "second", "count": 1})),
    "lags-of-years": whole(changed(series__lags=[{"season": 10**6, "back": 100}])),
    "more-lags": whole(changed(series__lags=[{"season": 1, "back": 0}] * 10_000)),
    "calendar": whole(changed(series__calendar=["hour"] * 10_000)),
    "period": whole(changed(series__period=10**9)),
    "width": whole(changed(decoder__width=10**9)),
    "paths": whole(
        changed(
            decoder={"kind": "recursive", "quantiles": [0.5], "distribution": "normal", "paths": 10**5},
            series__horizon=10**4,
        )
    ),
    "features": whole(changed(series__features=[category(k + 1) for k in range(1001)])),
    "one-feature-twice": whole(changed(series__features=[category(2), category(2)])),
    "embedding": whole(changed(series__features__1__width=10**9)),
    "categories": whole(changed(series__features=[category(10**4 + 1)])),
    "names-of-categories": whole(changed(series__features=[category(700, 990)])),
    "deviation": whole(changed(series__features__0__deviation=5e-324)),
    "mean": whole(changed(series__features__0__mean=1e308)),
    "forecasters": whole(changed(forecasters=RAW["forecasters"][:1] + 10_000 * RAW["forecasters"][1:2])),
    "one-forecaster-twice": whole(changed(forecasters=RAW["forecasters"][:2] + RAW["forecasters"][1:])),
    "no-network": whole(changed(forecasters=RAW["forecasters"][1:])),
    "oracle": whole(changed(forecasters__1__name="oracle"), arrays=renamed("oracle")),
    "long-name": whole(changed(forecasters__1__name="o" * 100), arrays=renamed("o" * 100)),
    "name-of-a-name": whole(changed(forecasters__1__name="\x1b[2J"), arrays=renamed("\x1b[2J")),
    "no-weight": whole(changed(forecasters=[{**one, "weight": 0.0} for one in RAW["forecasters"]])),
    "best-of-best": whole(changed(forecasters__3__weight=1.0)),
    "weight": whole(changed(forecasters__0__weight=1e300)),
    "enough": whole(changed(forecasters__0__enough=[True] * 30_000)),
    "enough-of-two": whole(changed(forecasters__0__enough=[True] * 2)),
    "arrays": whole(changed(forecasters__2__arrays=[["weights", [2**27, 2**27]], ["bias", [2]]])),
    "arrays-too-large": whole(changed(forecasters__2__arrays=[["weights", [2**62]], ["bias", [2]]])),
    "arrays-of-nothing": whole(changed(forecasters__2__arrays=[["weights", [0, 2**27, 2**27, 2**27]], ["bias", [2]]])),
    "arrays-of-100-axes": whole(changed(forecasters__2__arrays=[["weights", [1] * 100], ["bias", [2]]])),
    "arrays-of-another-shape": whole(
        changed(forecasters__2__arrays=[["weights", [2, 7]], ["bias", [2]]]),
        arrays={**tensors(), "baseline.linear_window.weights": np.zeros((2, 7), np.float32)},
    ),
    "calibration": whole(RAW, arrays={**tensors(), "calibration.best": np.zeros((3, 2), np.float32)}),
    "calibration-not-finite": odd_values("calibration.best", math.nan),
    "baseline-not-finite": odd_values("baseline.linear_window.bias", math.inf),
    "series": whole(changed(training__series=10**30)),
    "series-too-many": whole(changed(training__series=2**27)),
    "names": whole(changed(training__name_bytes=10**30)),
    "names-too-long": whole(changed(training__name_bytes=2**27)),
    "names-of-another-type": whole(RAW, arrays={**tensors(), "series.names": np.zeros(len(NAMES), np.float32)}),
    "names-not-json": named(b'[["a"],["b"]'),
    "names-of-more": named(NAMES, 1),
    "names-of-less": named(NAMES, 3),
    "names-no-lists": named(b'["a", "b"]'),
    "names-no-texts": named(b"[[1], [2]]"),
    "names-deep": named(b"[" * 10**6 + b"]" * 10**6),
    "names-deep-and-many": named(b"[" * 10**5 + b"]" * 10**5, 10**5 - 1),
    "names-of-lists": named(b"[" + b"[]," * 2_600_000 + b"[]]"),
    "names-of-objects": named(b"[" + b"{}," * 2_600_000 + b"{}]"),
    "names-of-numbers": named(b"[[" + b".5," * 2_600_000 + b".5]]"),
    "names-of-texts": named(b"[[" + b'"",' * 2_600_000 + b'""], []]'),
    "names-of-quotes": named(b'"' * (2**23 + 1)),
    "names-half-a-character": named(b'[["\xff"], ["b"]]'),
    "last-times": odd_values("series.last", -(2**63)),
    "last": whole(changed(training__last="yesterday")),
    "last-no-time": whole(changed(training__last="NaT")),
    "last-13th-month": whole(changed(training__last="2001-13-01T00:00:00")),
    "first": whole(changed(training__first="2001-02-30")),
    "seed": whole(changed(training__seed=2**64)),
    "epochs": whole(changed(training__epochs=[10**30])),
    "batch": whole(changed(training__batch_size=10**30)),
    "scale": whole(changed(series__scale__floor=1e308)),
    "scale-0": whole(changed(series__scale__floor=5e-324)),
    "center": whole(changed(series__scale__center=1e308)),
    "old-scale": whole({**OLD, "series": {**OLD["series"], "scale": 1e308}}),
    "old-scale-0": whole({**OLD, "series": {**OLD["series"], "scale": 5e-324}}),
    "old-scale-of-words": whole({**OLD, "series": {**OLD["series"], "scale": "large"}}),
    "old-parts": whole({**OLD, "series": [], "network": 3, "head": None}),
    "true-version": whole({**OLD, "version": True}),
    "digits": whole(None, text=json.dumps(RAW).replace('"seed": 0', '"seed": ' + "9" * 5000)),
    "name": whole(changed(library="\x1b[2J" * 50_000)),
    "newer": whole(changed(version=10**4000, library=["\x1b[2J"] * 10_000)),
    "keys": whole({**RAW, **{f"k{n}": 0 for n in range(60_000)}}),
    "more-keys": whole({**RAW, **{f"k{n}": 0 for n in range(300_000)}}),
    "deep": whole(None, text="[" * 10**6),
    "deep-index": len(deep := b"[" * 10**6).to_bytes(8, "little") + deep,
    "half-a-character": whole(None, text=json.dumps(RAW).replace("co2", "\ud800")),
    "half-a-character-escaped": whole(None, text=json.dumps(RAW).replace("co2", "\\ud800")),
    "lists": whole(None, text="[" + "[]," * 300_000 + "[]]"),
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
    """The index that fits the header, and the bytes of the tensors in it; a side of a tensor grows evenly with the units."""
    H = raw["network"]["hidden_size"]
    small, more = (tensors(changed(network__members=1, network__hidden_size=h)) for h in (4, 5))
    index, at = {}, 0
    for name, a in small.items():
        shape = [k + (H - 4) * (other - k) for k, other in zip(a.shape, more[name].shape, strict=True)]
        end = at + a.itemsize * math.prod(shape)
        index[name] = {**index_of(small)[name], "shape": shape, "data_offsets": [at, end]}
        at = end
    return whole(raw, index, b""), at


PAST = {"name": "price", "role": "past", "mean": 2.0, "deviation": 0.5, "marked": True}
RECURSIVE = changed(
    decoder={"kind": "recursive", "quantiles": [0.1, 0.5, 0.9], "distribution": "student-t", "paths": 5},
    series__features=[PAST, RAW["series"]["features"][1]],
)
SIMULATE = changed(
    decoder={"kind": "simulate", "quantiles": [0.1, 0.5, 0.9], "warmup": 3},
    series__horizon=1,
    series__lags=[],
    series__scale={"anchor": "all", "floor": 2.0, "center": 5.0},
    forecasters=RAW["forecasters"][:1],
)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_an_error_of_ours(name: str, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(HOSTILE[name])
    with pytest.raises(ModelFileError) as caught:
        load(tmp_path / "m")
    text = str(caught.value)
    assert len(text) < 1000 and len(text.splitlines()) == 4 and all(line.isprintable() for line in text.splitlines())


def test_the_files_are_hostile_for_one_reason_each(tmp_path: Path) -> None:
    for raw in (RAW, RECURSIVE, OLD):
        (tmp_path / "m").write_bytes(whole(raw, arrays=tensors(raw)))
        header, arrays = model_file.read(tmp_path / "m")
        assert arrays.keys() == header.tensors().keys()
        model = load(tmp_path / "m")
        for use in model.names:
            assert model.predict(panel(model), use=use).median.shape == (2, 2)
    (tmp_path / "m").write_bytes(whole(SIMULATE, arrays=tensors(SIMULATE)))
    model = load(tmp_path / "m")
    assert model.simulate(panel(model)).median.shape == (7 + 1 + 8 + 1,)
    (tmp_path / "m").write_bytes(named(NAMES))
    assert load(tmp_path / "m").seen(panel(model)).tolist() == [0, 0]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads how much memory was used from /proc")
def test_hostile_files_take_little_memory(tmp_path: Path) -> None:
    """All of them, and 1 GiB of zeros behind an index, in one process that is told by the system how much it used at most."""
    for name, content in HOSTILE.items():
        (tmp_path / name).write_bytes(content)
    count = len(HOSTILE) + len(sparse(tmp_path))
    code = """
import sys, pathlib
from openlstm.errors import ModelFileError
from openlstm.runtime import load
refused = 0
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        load(path)
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
        ("a-tensor-too-many", "tensor baseline.linear_window.bias does not fit the header"),
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
    network = {"cell": "lstm_ln", "clip": 1.0, "cells_per_gate": 1, "hidden_size": 1, "num_layers": 1, "members": 1000}
    raw = changed(network=network, series__time="\u00e9" * 1000, series__target="\u00e9" * 1000, library="x" * 1000)
    raw["training"] |= {"epochs": [10**9] * 1000, "validation_loss": [0.12345678901234567] * 1000}
    raw["series"]["features"] = [{"name": "price", "role": "past"}]
    raw["series"]["ids"] = ["\u00e9" * 840] * 100
    quantiles = [(k + 1) / 1000 for k in range(999)]
    raw["decoder"] = {"kind": "direct", "quantiles": quantiles, "width": 1}
    many = [[f"{'a' * 98}{k}", [1, 1, 1, 1]] for k in range(10, 20)]
    kept = [(f"{'b' * 98}{k}", 0.0) for k in range(10, 29)]
    raw["forecasters"] = [
        {"name": name, "weight": weight, "error": 0.12345678901234567, "enough": [False] * 999, "arrays": many}
        for name, weight in [("network", 1.0), *kept]
    ]
    header = msgspec.convert(raw, Header)
    arrays = {name: np.zeros(shape, kind) for name, (kind, shape) in header.tensors().items()} | seen()
    written = model_file.write(tmp_path / "m", header, arrays)
    read, back = model_file.read(tmp_path / "m")
    assert read == written and len(back) == 16_000 + 20 * 11 + 2


# --- drawn changes ----------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.integers(),
    st.sampled_from([0, -1, 1, 2, 3, 2**31, 2**63 - 1, 2**63, 2**64, 10**9, 10**30, -(10**30)]),
    st.floats(allow_nan=True),
    st.sampled_from([0.0, 1e30, 1e308, 5e-324, -1e308, 0.5, math.inf]),
)
KNOWN = [
    *("lstm", "gru", "month", "second", "business", "NaT", "0001-01-01", "F8_E5M2", "future", "past", "static", "hour"),
    *("linear", "direct", "recursive", "simulate", "normal", "negative binomial", "last", "season", "zero", "all"),
    *("network", "best", "naive", "drift", "ets", "theta", "autoregression", "linear_window", "Europe/Berlin"),
]
WORDS = st.one_of(st.text(st.characters(), max_size=8), st.sampled_from(KNOWN))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of a JSON value, as the keys that lead there."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for key, value in inside for place in places(value, (*path, key)))]


def at(node: Any, path: tuple[Any, ...]) -> Any:
    """What stands at a place."""
    for key in path:
        node = node[key]
    return node


def alike(value: Any) -> st.SearchStrategy[Any]:
    """Values of the same type, many of which may stand there as well."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int):
        return st.one_of(st.integers(0, 20), st.integers(0, 10**6))
    if isinstance(value, float):
        return st.one_of(st.floats(0, 1), st.floats(allow_nan=False), st.sampled_from([1e-200, 1e-100, 1e100, -1e100]))
    if isinstance(value, str):
        return st.sampled_from(KNOWN)
    return st.permutations(value) if isinstance(value, list) else VALUES


def put(node: Any, path: tuple[Any, ...], how: str, value: Any) -> Any:
    """A copy of a JSON value with one of its places replaced, left out, or beside a new one."""
    if not path:
        return value
    node = copy.deepcopy(node)
    place = node
    for key in path[:-1]:
        place = place[key]
    if how in ("replace", "alike"):
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
        how = draw(st.sampled_from(["alike", "alike", "alike", "replace", "leave out", "add"]))
        node = put(node, path, how, draw(alike(at(node, path)) if how == "alike" else VALUES))
    return node


def panel(model: Model) -> Panel:
    """Two series for a model, with the columns of `RAW`, whatever the model says of them."""
    series = model.header.series
    known, ahead = min(series.window, 10**4), min(series.horizon, 10)
    values = [np.arange(n + ahead) * 1e3 for n in (known, known + 1)]
    for one in values:
        one[-ahead:] = np.nan
    made = Panel.of(list(values), "2001-01-01", series.step, keys=[("a",), ("c",)], ids=("shop",))
    price = Covariate("price", "future", np.arange(len(made.values)) % 3.0)
    region = Covariate("region", "static", np.array([0.0, np.nan]), ("n", "s"))
    return dataclasses.replace(made, history=made.lengths - ahead, covariates=(price, region))


def outcome(content: bytes) -> None:
    """Loading, and what a user then does: forecasts and their dates. Anything but an error of ours fails the test."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m"
        path.write_bytes(content)
        try:
            model = load(path)
        except ModelFileError:
            return
    header, data = model.header, panel(model)
    series = header.series
    for use in model.names:
        with suppress(OpenLSTMError), np.errstate(all="raise", under="ignore"):
            forecast = model.predict(data, use=use)
            assert np.isfinite(forecast.values).all() and forecast.source.isprintable()
            assert (np.diff(forecast.times.astype(np.int64), axis=1) > 0).all() and show_times(forecast.times.ravel())
    with suppress(OpenLSTMError), np.errstate(all="raise", under="ignore"):
        assert np.isfinite(model.simulate(data).values).all()
    with suppress(OpenLSTMError):
        model.stream(np.arange(9.0)).push(9.0)
    assert model.seen(data).shape == (2,)
    first = np.datetime64(header.training.last, "us")
    (end,) = add_steps(first, series.step, np.array([series.horizon]))
    assert end > first and show_time(end)


def fitting(raw: Any) -> dict[str, np.ndarray] | None:
    """The tensors of a header that may be one, as long as they are few."""
    try:
        header = msgspec.convert(model_file.upgrade(raw), Header)
    except (msgspec.ValidationError, ValueError, TypeError, AttributeError):
        return None
    return tensors(raw) if sum(math.prod(shape) for _, shape in header.tensors().values()) < 10**5 else None


@given(changes(RAW))
def test_any_header_that_is_changed_is_read_or_refused(raw: Any) -> None:
    outcome(whole(raw))


@pytest.mark.parametrize("base", [RAW, RECURSIVE, SIMULATE, OLD], ids=["direct", "recursive", "simulate", "old"])
def test_any_header_that_is_changed_with_its_tensors_is_read_or_refused(base: Any) -> None:
    assert fitting(base) is not None

    @given(changes(base))
    def read_or_refused(raw: Any) -> None:
        outcome(whole(raw, arrays=fitting(raw)))

    read_or_refused()


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
