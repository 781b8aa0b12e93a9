"""The model file: what is written comes back bit for bit; anything else is one error that says what is wrong."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save, save_file

from openlstm import cells, model_file
from openlstm.errors import ModelFileError
from openlstm.model_file import Decoder, Feature, Forecaster, Header, Lag, Network, Scale, Series, Step, Training
from openlstm.runtime.model import build, load

NETWORK = {"cell": "lstm", "hidden_size": 3, "num_layers": 2, "members": 2}
NAMES = [["a"], ['b, "c" [1]']]
"""Of the series: with what has a meaning of its own in JSON."""


def header(**network: Any) -> Header:
    return Header(
        library="0.1.0",
        task="forecast",
        series=Series(
            time="date",
            target="co2",
            ids=("shop",),
            step=Step(unit="second", count=604800),
            period=52,
            window=104,
            horizon=4,
            scale=Scale(floor=2.5),
            calendar=("yearday",),
            lags=(Lag(season=52), Lag(season=52, back=1)),
            features=(
                Feature(name="price", role="future", mean=2.0, deviation=0.5, marked=True),
                Feature(name="region", role="static", categories=("n", "s"), width=2),
            ),
        ),
        network=Network(**{**NETWORK, **network}),
        decoder=Decoder(quantiles=(0.1, 0.5, 0.9), width=5),
        forecasters=(
            Forecaster(name="network", weight=0.75, error=0.8, enough=(True, True, False)),
            Forecaster(name="naive", weight=0.25, error=1.1),
            Forecaster(name="linear_window", arrays=(("weights", (104, 4)), ("bias", (4,)))),
            Forecaster(name="best", enough=(True, True, True)),
        ),
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
            series=2,
            name_bytes=len(json.dumps(NAMES)),
        ),
    )


def tensors(h: Header, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    floats = {name: shape for name, (kind, shape) in h.tensors().items() if kind == "float32"}
    return {**{name: rng.standard_normal(shape).astype(np.float32) for name, shape in floats.items()}, **series()}


def series(names: str | bytes | None = None, last: tuple[int, ...] = (0, 10**15)) -> dict[str, np.ndarray]:
    """The tensors that say which series the model has seen, and until when."""
    text = json.dumps(NAMES) if names is None else names
    text = text.encode() if isinstance(text, str) else text
    return {"series.names": np.frombuffer(text, np.uint8), "series.last": np.array(last, np.int64)}


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
    raw = {**model_file.plain(h), **change}
    if sign:
        raw["checksum"] = model_file.checksum(raw, t)
    path.write_bytes(save(t, {"openlstm": json.dumps(raw)}))


@pytest.mark.parametrize("options", [{}, {"clip": 3.0}, {"cells_per_gate": 3}, {"heads": 3}], ids=str)
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
    assert read.changed(checksum="") == h
    assert back.keys() == t.keys()
    assert all((back[name] == t[name]).all() and back[name].dtype == t[name].dtype for name in t)


def test_heads_are_written_only_where_there_are_some() -> None:
    """So that a reader which does not know them takes every file without."""
    assert "heads" not in model_file.plain(header().network) and model_file.plain(header(heads=3).network)["heads"] == 3


def has_option(cell: str, name: str) -> bool:
    return name in {field.name for field in dataclasses.fields(cells.BY_NAME[cell])}  # type: ignore[arg-type]


def test_a_file_can_name_every_cell_and_each_name_is_one_cell() -> None:
    """The names are part of the format: neither a kernel's name nor the order of the list may change them."""
    assert set(cells.BY_NAME.values()) == set(cells.ALL) and len(cells.BY_NAME) == len(cells.ALL)
    greff = "nig nig_np nfg nfg_np nog nog_np niaf niaf_np noaf noaf_np cifg cifg_np fgr lstm1997"
    today = "slstm mingru minlstm janet indrnn_tanh indrnn_relu"
    assert list(cells.BY_NAME) == ["lstm", "peephole", *greff.split(), "lstm_ln", "gru", "rnn_tanh", "rnn_relu", *today.split()]
    assert cells.BY_NAME["lstm1997"] == cells.LSTM1997() and cells.BY_NAME["nfg_np"] == cells.NFG(peephole=False)
    assert cells.BY_NAME["rnn_relu"] == cells.VanillaRNN("relu")


def test_a_header_that_was_read_is_written_in_the_newest_version(tmp_path: Path) -> None:
    golden = Path(__file__).parent / "golden" / "forecast_lstm_v1.safetensors"
    old, t = model_file.read(golden)
    new = model_file.write(tmp_path / "m.safetensors", old, t)
    assert (json.loads(text_of(golden))["version"], json.loads(text_of(tmp_path / "m.safetensors"))["version"]) == (1, 4)
    assert (old.version, new.version) == (model_file.VERSION, model_file.VERSION)
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
    inputs = 3 + 2 + 2 + 2  # value, mark, season before; sine and cosine; price and mark; region
    ahead = 1 + 2 * 2 + 2 + 2  # place, two lags and marks; sine and cosine; price and mark
    assert h.tensors() == {
        "member.0.recurrent.weight_ih_l0": ("float32", (12, inputs)),
        "member.0.recurrent.weight_hh_l0": ("float32", (12, 3)),
        "member.0.recurrent.bias_ih_l0": ("float32", (12,)),
        "member.0.recurrent.bias_hh_l0": ("float32", (12,)),
        "member.0.embed.1": ("float32", (3, 2)),
        "member.0.head.weight": ("float32", (4 * 5, 3 + 3)),
        "member.0.head.bias": ("float32", (4 * 5,)),
        "member.0.ahead.weight": ("float32", (5, ahead)),
        "member.0.out.weight": ("float32", (3, 5)),
        "member.0.out.bias": ("float32", (3,)),
        "member.0.skip.weight": ("float32", (1, ahead)),
        "calibration.network": ("float32", (4, 3)),
        "calibration.best": ("float32", (4, 3)),
        "baseline.linear_window.weights": ("float32", (104, 4)),
        "baseline.linear_window.bias": ("float32", (4,)),
        "series.names": ("uint8", (len(json.dumps(NAMES)),)),
        "series.last": ("int64", (2,)),
    }


@pytest.mark.parametrize(
    ("decoder", "shapes"),
    [
        ({"kind": "linear"}, {"head.weight": (12, 3), "head.bias": (12,)}),
        (
            {"kind": "recursive", "distribution": "student-t", "paths": 50},
            {"head.weight": (3, 3), "head.bias": (3,), "skip.weight": (1, 3)},
        ),
        (
            {"kind": "recursive", "distribution": "normal", "paths": 50},
            {"head.weight": (2, 3), "head.bias": (2,), "skip.weight": (1, 3)},
        ),
        ({"kind": "simulate", "warmup": 7}, {"head.weight": (3, 3), "head.bias": (3,)}),
    ],
    ids=lambda d: "-".join(map(str, d.values())) if "kind" in d else "",
)
def test_each_decoder_has_tensors_of_its_own(decoder: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    raw = model_file.plain(header(members=1))
    raw["decoder"] = {"quantiles": [0.1, 0.5, 0.9], **decoder}
    if decoder["kind"] == "simulate":
        raw["series"] |= {"horizon": 1, "lags": [], "scale": {"anchor": "all", "floor": 2.5}}
    own = msgspec.convert(raw, Header).tensors()
    start = "member.0."
    found = {name.removeprefix(start): shape for name, (_, shape) in own.items() if name.startswith(start)}
    assert {name: shape for name, shape in found.items() if not name.startswith(("recurrent", "embed"))} == shapes


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


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": NaN}', '{"a": 1e999}', '{"a": -Infinity}', r'{"a": "\ud800 "}', ""])
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
    rewrite(path, {"version": 5, "library": "7.0", "new": {}})
    with pytest.raises(ModelFileError) as e:
        model_file.read(path)
    assert str(e.value) == (
        "m.safetensors: was written by a newer openlstm (7.0)\n  got       header version 5\n"
        "  expected  header version 4 or older\n  hint      install a newer openlstm"
    )


SERIES = model_file.plain(header().series)
FORECASTERS = [model_file.plain(one) for one in header().forecasters]
TRAINED = model_file.plain(header().training)
QUANTILES = "decoder: quantiles must rise strictly inside (0, 1) and hold 0.5"
ORDER = "header: of the forecasters the network comes first, best last, and none twice"
WEIGHTS = "header: best has no weight of its own, and the others have some"
FINITE = "Expected `float` >= -1.7976931348623157e+308"
KEY = r"Expected `str` matching regex '^[a-z][a-z0-9_]{0,99}\\Z'"


def features(**changed: Any) -> dict[str, Any]:
    return {"series": {**SERIES, "features": [{**SERIES["features"][0], **changed}, *SERIES["features"][1:]]}}


def forecasters(number: int, **changed: Any) -> dict[str, Any]:
    return {"forecasters": [{**one, **changed} if k == number else one for k, one in enumerate(FORECASTERS)]}


@pytest.mark.parametrize(
    ("change", "got"),
    [
        ({"extra": 1}, "header: Object contains unknown field `extra`"),
        ({"task": "label"}, "task: Invalid enum value 'label'"),
        ({"version": 0}, "version: Invalid enum value 0"),
        ({"version": True}, "version: Expected `int`, got `bool`"),
        ({"library": 1}, "library: Expected `str`, got `int`"),
        ({"decoder": {"quantiles": [0.9, 0.5]}}, QUANTILES),
        ({"decoder": {"quantiles": [0.1, 0.9]}}, QUANTILES),
        (
            {"decoder": {"quantiles": [0.5], "kind": "nearest"}},
            "decoder.kind: Invalid enum value 'nearest'",
        ),
        (
            {"decoder": {"quantiles": [0.5], "paths": 9}},
            "decoder: paths belongs to the recursive decoder, and to no other",
        ),
        (
            {"decoder": {"quantiles": [0.5], "kind": "simulate", "warmup": 3}},
            "header: the anchor 'season' does not belong to this decoder",
        ),
        ({"network": {**NETWORK, "cell": "nas"}}, "network: unknown cell 'nas'"),
        ({"network": {**NETWORK, "cell": 3}}, "network.cell: Expected `str`, got `int`"),
        ({"network": {**NETWORK, "cell": "gru", "clip": 1.0}}, "network: gru has no clip"),
        ({"network": {**NETWORK, "cell": "nfg", "cells_per_gate": 3}}, "network: nfg has no cells_per_gate"),
        ({"network": {**NETWORK, "clip": 0.0}}, "network.clip: Expected `float` > 0.0"),
        (
            {"network": {**NETWORK, "cells_per_gate": 2}},
            "network: hidden_size is not a multiple of cells_per_gate",
        ),
        ({"network": {**NETWORK, "heads": 2}}, "network: hidden_size is not a multiple of heads * cells_per_gate"),
        ({"network": {**NETWORK, "cell": "mingru", "heads": 3}}, "network: mingru has no heads"),
        ({"network": {**NETWORK, "input_size": 2}}, "network: Object contains unknown field `input_size`"),
        ({"series": {**SERIES, "calendar": ["hour", "hour"]}}, "series: the calendar holds something twice"),
        ({"series": {**SERIES, "features": 2 * SERIES["features"]}}, "series: two features of one name"),
        (features(role="now"), "series.features[0].role: Invalid enum value 'now'"),
        (
            features(deviation=0.0),
            "series.features[0].deviation: Expected `float` >= 1e-200",
        ),
        (features(mean="1"), "series.features[0].mean: Expected `float`, got `str`"),
        ({"forecasters": []}, "forecasters: Expected `array` of length >= 1"),
        ({"forecasters": FORECASTERS[1:]}, ORDER),
        ({"forecasters": FORECASTERS[::-1]}, ORDER),
        ({"forecasters": [*FORECASTERS[:2], *FORECASTERS[1:]]}, ORDER),
        ({"forecasters": [FORECASTERS[0], FORECASTERS[3], FORECASTERS[1]]}, ORDER),
        (forecasters(3, weight=0.5), WEIGHTS),
        ({"forecasters": [{**one, "weight": 0.0} for one in FORECASTERS]}, WEIGHTS),
        (forecasters(0, weight=-0.5), "forecasters[0].weight: Expected `float` >= 0.0"),
        (
            forecasters(0, enough=[True]),
            "header: enough says of each quantile whether it is calibrated, or nothing",
        ),
        (forecasters(1, name="naive.of"), f"forecasters[1].name: {KEY}"),
        (forecasters(2, arrays=[["weights.bias", [4]]]), f"forecasters[2].arrays[0][0]: {KEY}"),
        (forecasters(2, arrays=[["bias", [0]]]), "forecasters[2].arrays[0][1][0]: Expected `int` >= 1"),
        (
            forecasters(2, arrays=[["bias", [1] * 5]]),
            "forecasters[2].arrays[0][1]: Expected `array` of length <= 4",
        ),
        ({"training": {**TRAINED, "series": -1}}, "training.series: Expected `int` >= 0"),
        (
            {"training": {**TRAINED, "last": "2001-02-30"}},
            "training: last is no time of the calendar: day is out of range for month",
        ),
    ],
)
def test_every_value_is_held_against_the_schema(path: Path, change: dict[str, Any], got: str) -> None:
    rewrite(path, change)
    with pytest.raises(ModelFileError) as e:
        model_file.read(path)
    assert str(e.value) == (
        f"m.safetensors: its header is not one of openlstm's\n  got       {got}\n  expected  the closed schema of version 4\n"
        "  hint      the file was made or changed by another program; fit the model again"
    )


@pytest.mark.parametrize(
    ("changed", "got"),
    [
        ({"library": "half \ud800"}, r"library: Expected `str` matching regex '^[^\\ud800-\\udfff]*\\Z'"),
        ({"forecasters": (Forecaster(name="network", weight=1.0, error=math.nan),)}, f"forecasters[0].error: {FINITE}"),
        ({"training": header().training.changed(seed=True)}, "training.seed: Expected `int`, got `bool`"),
        ({"training": header().training.changed(seed=np.int64(3))}, "training.seed: Expected `int`, got `numpy.int64`"),
    ],
)
def test_what_was_made_in_python_is_held_against_the_schema(tmp_path: Path, changed: dict[str, Any], got: str) -> None:
    h = header().changed(**changed)
    with pytest.raises(ModelFileError) as e:
        model_file.write(tmp_path / "m", h, tensors(header()))
    assert f"m: its header is not one of openlstm's\n  got       {got}\n" in str(e.value) and not list(tmp_path.iterdir())


def test_numbers_of_other_types_are_written_as_the_schema_has_them(path: Path, tmp_path: Path) -> None:
    h = header()
    h = h.changed(decoder=h.decoder.changed(quantiles=tuple(np.array([0.1, 0.5, 0.9]))), training=h.training.changed(clip=1))
    model_file.write(tmp_path / "other", h, tensors(h))
    assert (tmp_path / "other").read_bytes() == path.read_bytes()


def test_a_header_cannot_be_changed_without_its_checksum(path: Path) -> None:
    rewrite(path, {"library": "0.1.1"}, sign=False)
    with pytest.raises(ModelFileError, match="its checksum does not fit its content"):
        model_file.read(path)


def test_tensors_must_be_those_the_header_names(tmp_path: Path) -> None:
    h, good = header(), tensors(header())
    name = "member.1.head.bias"
    size = len(good[name])
    bad: list[tuple[dict[str, np.ndarray], str, str]] = [
        ({k: v for k, v in good.items() if k != name}, "no such tensor", f"float32[{size}]"),
        ({**good, "zzz": np.zeros(1, np.float32)}, "float32[1]", "no such tensor"),
        ({**good, name: good[name][:5]}, "float32[5]", f"float32[{size}]"),
        ({**good, name: good[name].astype(np.float64)}, f"float64[{size}]", f"float32[{size}]"),
        ({**good, "calibration.best": np.zeros((3, 4), np.float32)}, "float32[3, 4]", "float32[4, 3]"),
        ({**good, "series.last": np.zeros(3, np.int64)}, "int64[3]", "int64[2]"),
        ({**good, "series.last": np.zeros(2, np.uint8)}, "uint8[2]", "int64[2]"),
    ]
    for content, got, expected in bad:
        with pytest.raises(ModelFileError) as e:
            model_file.write(tmp_path / "m", h, content)
        assert f"does not fit the header\n  got       {got}\n  expected  {expected}\n  hint" in str(e.value)
    for broken in (name, "calibration.network", "baseline.linear_window.weights"):
        for value in (np.nan, np.inf):
            with pytest.raises(ModelFileError, match=f"tensor {broken} holds a value that is not finite"):
                model_file.write(tmp_path / "m", h, {**good, broken: np.full_like(good[broken], value)})
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


NOT_NAMES = [
    '{"a": [["a"], ["b"]]}',
    "[[1], [2]]",
    "[[null], [NaN]]",
    '"[[], []]"',
    '[["a"]]',
    '[["a"], ["b"], ["c"]]',
    "[]",
    "",
    "[[" + '"a", ' * 100 + '"a"], []]',
    '["a", "b"]',
    '["a", [], []]',
    '[[["a"]], ["b"]]',
    '[["a"], ["b"]',
    '[["a"] ["b"]]',
    '[["a"], ["b",]]',
    '[["a", "b], [c"',
    '[["a], ["b"]]',
    '[["\\x"], ["b"]]',
    '[["\n"], ["b"]]',
    b'[["\xff"], ["b"]]',
    '[["a"], ["b"]]'.encode("utf-16"),
]


@pytest.mark.parametrize("names", NOT_NAMES, ids=range(len(NOT_NAMES)))
def test_the_names_of_the_series_are_a_list_of_lists_of_texts(path: Path, names: str | bytes) -> None:
    h, good = model_file.read(path)
    t = {**good, **series(names)}
    size = len(t["series.names"])
    h = h.changed(training=h.training.changed(name_bytes=size))
    raw = model_file.plain(h)
    raw["checksum"] = model_file.checksum(raw, t)
    path.write_bytes(save(t, {"openlstm": json.dumps(raw)}))
    with pytest.raises(ModelFileError) as e:
        model_file.read(path)
    assert str(e.value) == (
        f"m.safetensors: does not hold the names of its series\n  got       {size} bytes of something else\n"
        "  expected  a JSON list of 2 lists of texts\n  hint      fit the model again"
    )
    with pytest.raises(ModelFileError, match="does not hold the names of its series"):  # nor is it written
        model_file.write(path, h, t)


@pytest.mark.parametrize("last", [-(2**63), -(10**17), 10**18])
def test_a_series_was_seen_until_a_time_of_the_calendar(path: Path, last: int) -> None:
    with pytest.raises(ModelFileError) as e:
        model_file.write(path, header(), {**tensors(header()), **series(last=(0, last))})
    assert str(e.value) == (
        "m.safetensors: tensor series.last holds what is no time\n  got       int64[2]\n"
        "  expected  microseconds since 1970, of the years 1 to 9999\n  hint      fit the model again"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            forecasters(1, name="oracle"),
            "m.safetensors: holds a forecaster that is not known\n  got       oracle\n  expected  network, naive, ",
        ),
        (
            forecasters(1, arrays=[["bias", [4]]]),
            "m.safetensors: the arrays of naive are others\n  got       bias[4]\n  expected  no array\n",
        ),
        (forecasters(0, arrays=[["bias", [4]]]), "m.safetensors: the arrays of network are others\n  got       bias[4]\n"),
        (forecasters(3, arrays=[["bias", [4]]]), "m.safetensors: the arrays of best are others\n  got       bias[4]\n"),
        (
            forecasters(2, arrays=[["bias", [4]], ["weights", [104, 3]]]),
            "m.safetensors: the arrays of linear_window are others\n  got       bias[4], weights[104, 3]\n"
            "  expected  weights[104, 4], bias[4]\n",
        ),
        (forecasters(2, arrays=[]), "m.safetensors: the arrays of linear_window are others\n  got       no array\n"),
        (
            forecasters(2, arrays=[["bias", [4]], ["bias", [4]], ["weights", [104, 4]]]),
            "m.safetensors: the arrays of linear_window are others\n  got       bias[4], bias[4], weights[104, 4]\n",
        ),
    ],
)
def test_a_baseline_is_one_that_is_known_with_the_arrays_it_has(path: Path, change: dict[str, Any], words: str) -> None:
    """When the file is loaded, not when the baseline is asked."""
    raw = {**model_file.plain(header()), **change}
    h = msgspec.convert(raw, Header)
    model_file.write(path, h, tensors(h))
    with pytest.raises(ModelFileError) as e:
        load(path)
    assert str(e.value).startswith(words)
    with pytest.raises(ModelFileError, match="^model: "):
        build(h, tensors(h))


def test_a_limit_of_the_schema_is_a_limit_of_the_reader(path: Path) -> None:
    """What the schema takes in names, the reader takes as a header: nothing is written that cannot be read."""
    most = [f"{'n' * 990}{k}" for k in range(600)]
    raw = model_file.plain(header())
    raw["series"]["features"][1]["categories"] = most
    with pytest.raises(msgspec.ValidationError, match="names and categories take more than 524288 characters"):
        msgspec.convert(raw, Header)
    raw["series"]["features"][1]["categories"] = most[:520]
    h = msgspec.convert(raw, Header)
    assert model_file.write(path, h, tensors(h)) == model_file.read(path)[0]
