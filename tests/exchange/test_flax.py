"""Trees of Flax's parameters give its cells and compute what Flax computes; what is written Flax runs."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, cast

import flax.linen as nn
import jax
import msgpack
import numpy as np
import pytest
import torch
from flax import serialization

import openlstm
from openlstm import cells
from openlstm.errors import ArgumentError, DataError, MissingExtraError
from openlstm.exchange.stack import Stack

MODELS = {
    "lstm": nn.RNN(nn.OptimizedLSTMCell(5)),
    "plain lstm": nn.RNN(nn.LSTMCell(5)),
    "gru": nn.RNN(nn.GRUCell(5)),
    "rnn": nn.RNN(nn.SimpleCell(5)),
    "both": nn.Bidirectional(nn.RNN(nn.GRUCell(5)), nn.RNN(nn.GRUCell(5))),
    "several": nn.Sequential([nn.RNN(nn.OptimizedLSTMCell(5)), nn.RNN(nn.OptimizedLSTMCell(5))]),
}
NAMES = {"both": ["params"], "several": ["params.layers_0.cell", "params.layers_1.cell"]}


def drawn(model: Any) -> Any:
    """Parameters with biases that are not zero."""
    params = model.init(jax.random.PRNGKey(0), np.zeros((1, 2, 3), np.float32))
    rng = np.random.default_rng(5)
    return jax.tree.map(lambda a: rng.normal(size=a.shape, scale=0.4).astype(np.float32), params)


@pytest.mark.parametrize("stored", ["", ".msgpack", ".pkl"], ids=["tree", "msgpack", "pickle"])
@pytest.mark.parametrize("name", MODELS)
def test_layers_compute_what_flax_computes(name: str, stored: str, tmp_path: Path) -> None:
    model, x = MODELS[name], torch.randn(2, 7, 3)
    params = drawn(model)
    path = tmp_path / f"params{stored}"
    if stored:
        held = jax.tree.map(jax.numpy.asarray, params)
        path.write_bytes(serialization.to_bytes(held) if stored == ".msgpack" else pickle.dumps(held))
    found = openlstm.read(path if stored else params)
    assert list(found) == NAMES.get(name, ["params.cell"]) and not found.left
    y = x
    for layer in found.values():
        y = layer(y)[0]
    assert torch.allclose(y, torch.from_numpy(np.array(model.apply(params, x.numpy()))), atol=1e-6)


WRITTEN = [
    openlstm.LSTM(3, 5),
    openlstm.LSTM(3, 5, 2, bias=False),
    openlstm.GRU(3, 5, batch_first=True),
    openlstm.GRU(3, 5, bidirectional=True),
    openlstm.RNN(3, 5),
]
THEIRS = ["lstm", "several", "gru", "both", "rnn"]


@pytest.mark.parametrize(("layer", "name"), list(zip(WRITTEN, THEIRS, strict=True)), ids=THEIRS)
def test_flax_runs_what_is_written_and_it_comes_back_exactly(layer: Any, name: str, tmp_path: Path) -> None:
    layer = layer.eval()
    made = openlstm.export(layer, to="flax", path=tmp_path / "m.msgpack")
    restored = serialization.msgpack_restore((tmp_path / "m.msgpack").read_bytes())
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all() and a.dtype == b.dtype, made, restored))
    x = torch.randn(2, 7, 3)
    y = layer(x)[0] if layer.batch_first else layer(x.transpose(0, 1))[0].transpose(0, 1)
    assert torch.allclose(torch.from_numpy(np.array(MODELS[name].apply(restored, x.numpy()))), y, atol=1e-6)
    stacks = cast(Any, openlstm.read(tmp_path / "m.msgpack").stacks.values())
    given = cast(Any, Stack.of(layer))
    for back, weights in zip(stacks, given.weights, strict=True):
        for a, b in zip(back.weights[0], weights, strict=True):
            assert (a.w_ih == b.w_ih).all() and (a.w_hh == b.w_hh).all()
            ours = sum((bias for bias in (b.b_ih, b.b_hh) if bias is not None), np.zeros(len(b.w_hh), np.float32))
            if name in ("gru", "both"):
                assert (a.b_ih[10:] == b.b_ih[10:]).all() and (a.b_hh[10:] == b.b_hh[10:]).all()
                assert (a.b_ih[:10] == ours[:10]).all() and not a.b_hh[:10].any()
            else:
                assert (a.b_ih + a.b_hh == ours).all()


def test_bfloat16_and_chunked_arrays_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = drawn(MODELS["lstm"])
    half = jax.tree.map(lambda a: jax.numpy.asarray(a, jax.numpy.bfloat16), params)
    (tmp_path / "m.msgpack").write_bytes(serialization.to_bytes(half))
    layer = openlstm.read(tmp_path / "m.msgpack")["params.cell"]
    assert torch.equal(layer.weight_hh_l0[:5], torch.from_numpy(np.float32(half["params"]["cell"]["hi"]["kernel"]).T))
    assert torch.equal(openlstm.read(half)["params.cell"].weight_ih_l0, layer.weight_ih_l0)
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 16)
    (tmp_path / "c.msgpack").write_bytes(serialization.to_bytes(params))
    found = openlstm.read(tmp_path / "c.msgpack")["params.cell"]
    assert torch.equal(found.weight_hh_l0, openlstm.read(params)["params.cell"].weight_hh_l0)


def test_what_cannot_be_expressed_is_named() -> None:
    tree = {"mgu": drawn(nn.RNN(nn.MGUCell(5)))["params"]["cell"], "lstm": drawn(MODELS["lstm"])["params"]["cell"]}
    tree["whole"] = jax.tree.map(lambda a: a.astype(int), tree["lstm"])
    found = openlstm.read(tree)
    assert list(found) == ["lstm"]
    assert found.left == {
        "mgu": "it is an MGUCell, which no cell here is; keep it in Flax",
        "whole": (
            "cannot be the weights of a layer (ii/kernel of int64), expected float16, float32, float64: convert it to float32"
        ),
    }
    with pytest.raises(ArgumentError) as caught:
        openlstm.export(openlstm.RNN(3, 5, nonlinearity="relu"), to="flax")
    assert str(caught.value) == (
        "export to flax: Flax has no such layer\n"
        "  got       VanillaRNN(nonlinearity='relu') 3 -> 5, float32\n"
        "  expected  LSTM, GRU or RNN of tanh, without a projection, not backwards alone\n"
        "  hint      to='onnx' has peepholes, other cells and directions; or keep the openlstm layer"
    )
    assert cells.LSTM() == found.stacks["lstm"].cell


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(((10**6, 10**6), "float32", b"1234")))}), "1000000 x 1000000"),
        (b"\x81\xa1a\xdd\xff\xff\xff\xff", "exceeds max_array_len"),
        (b"\xdf\xff\xff\xff\xff", "exceeds max_map_len"),
        (b"\x81\xa1a", "Unpack failed"),
        (b"\x92\x01\x02", "a list, where a tree of parameters is a map"),
        (b"\x81\xa1a" * 300 + b"\x80", "a tree that is too deep"),
        (b"\x81\xa1a" * 2000 + b"\x80", "StackError"),
    ],
)
def test_sizes_that_are_declared_and_not_there_are_refused(data: bytes, got: str, tmp_path: Path) -> None:
    (tmp_path / "m.msgpack").write_bytes(data)
    with pytest.raises(DataError, match="m.msgpack: cannot be read") as caught:
        openlstm.read(tmp_path / "m.msgpack")
    assert got in str(caught.value)


def test_without_msgpack_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "msgpack", None)
    (tmp_path / "m.msgpack").write_bytes(b"\x80")
    with pytest.raises(MissingExtraError, match="reading a file of Flax: needs the package msgpack"):
        openlstm.read(tmp_path / "m.msgpack")
    with pytest.raises(MissingExtraError, match="export to flax: needs the package msgpack"):
        openlstm.export(openlstm.GRU(3, 5), to="flax", path=tmp_path / "n.msgpack")
