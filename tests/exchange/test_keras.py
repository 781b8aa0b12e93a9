"""Keras's files give its layers: the arrays exactly, and the outputs that Keras computes with them."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import openlstm
from openlstm import cells
from openlstm.errors import ArgumentError, DataError, MissingExtraError
from openlstm.exchange.stack import Stack

h5py = pytest.importorskip("h5py", reason="Keras's arrays lie in HDF5 files: pip install 'openlstm[exchange]'")
pytestmark = pytest.mark.filterwarnings(  # the first two are of Keras
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore:openlstm.*has no kernel:RuntimeWarning"
)
os.environ.setdefault("KERAS_BACKEND", "torch")


@pytest.fixture(scope="module")
def keras() -> Any:
    return pytest.importorskip("keras", reason="Keras itself is the oracle: pip install keras")


def drawn(model: Any) -> Any:
    """Weights that are none of Keras's own, so that no bias is zero."""
    rng = np.random.default_rng(7)
    model.set_weights([rng.normal(size=w.shape, scale=0.4).astype(w.dtype) for w in model.get_weights()])
    return model


def models(keras: Any) -> dict[str, list[Any]]:
    L = keras.layers
    whole: dict[str, Any] = {"return_sequences": True}
    return {
        "lstm": [L.LSTM(5, **whole), L.LSTM(4, use_bias=False, **whole)],
        "gru": [L.GRU(5, **whole), L.GRU(4, use_bias=False, **whole)],
        "gru before": [L.GRU(5, reset_after=False, **whole), L.GRU(4, reset_after=False, use_bias=False, **whole)],
        "rnn": [L.SimpleRNN(5, **whole), L.SimpleRNN(4, activation="relu", **whole), L.SimpleRNN(3, activation="elu", **whole)],
        "both": [L.Bidirectional(L.LSTM(5, **whole)), L.Bidirectional(L.GRU(4, **whole))],
        "activations": [
            L.LSTM(5, activation="softsign", recurrent_activation="hard_sigmoid", **whole),
            L.GRU(4, activation="relu", recurrent_activation="hard_sigmoid", **whole),
        ],
        "nested": [
            keras.Sequential([L.Dense(4), L.LSTM(5, **whole)]),
            L.RNN(L.GRUCell(3), **whole),
            L.TimeDistributed(L.Dense(2)),
        ],
        "double": [L.LSTM(5, dtype="float64", **whole)],
    }


NAMES = ["lstm", "gru", "gru before", "rnn", "both", "activations", "nested", "double"]


@pytest.mark.parametrize("ending", [".keras", ".h5", ".weights.h5", ""])
@pytest.mark.parametrize("name", NAMES)
def test_the_layers_of_a_file_compute_what_keras_computes(keras: Any, name: str, ending: str, tmp_path: Path) -> None:
    if ending == ".weights.h5" and name not in ("lstm", "both", "nested", "double"):
        pytest.skip("a file of weights alone does not say all that these need")
    layers = models(keras)[name]
    model = drawn(keras.Sequential([keras.Input((None, 3)), *layers]))
    path = tmp_path / f"model{ending}"
    if ending == ".weights.h5":
        model.save_weights(path)
    elif ending:
        model.save(path)
    found = openlstm.read(path if ending else model)
    recurrent = [layer for one in layers for layer in getattr(one, "layers", [one]) if layer.weights]
    recurrent = [layer for layer in recurrent if not isinstance(layer, (keras.layers.Dense, keras.layers.TimeDistributed))]
    assert sorted(found) == sorted(layer.name for layer in recurrent)
    assert ending == ".weights.h5" or list(found) == [layer.name for layer in recurrent]
    assert not found.left
    for layer in recurrent:
        ours = found[layer.name]
        kind = ours.weight_ih_l0.dtype
        x = torch.randn(2, 7, ours.input_size, dtype=kind)
        wanted = layer(x)
        assert torch.allclose(ours(x)[0], wanted, atol=1e-6 if kind == torch.float32 else 1e-12)


def test_bfloat16_is_read_as_the_same_numbers(tmp_path: Path) -> None:
    kernel, recurrent = torch.randn(3, 20).bfloat16(), torch.randn(5, 20).bfloat16()
    arrays = {"l/l/kernel": kernel, "l/l/recurrent_kernel": recurrent}
    held = {name: a.view(torch.uint16).numpy().view("V2") for name, a in arrays.items()}  # as Keras stores them
    found = openlstm.read(stored(tmp_path / "m.h5", held))
    assert torch.equal(found["l"].weight_ih_l0.T, kernel.float()) and torch.equal(found["l"].weight_hh_l0.T, recurrent.float())
    assert found.stacks["l"].notes[1] == "its numbers are bfloat16; here the same ones are in float32"


def test_arrays_are_exact_and_both_biases_of_a_gru_stay(keras: Any, tmp_path: Path) -> None:
    layers = [keras.layers.LSTM(5, return_sequences=True), keras.layers.GRU(4)]
    model = drawn(keras.Sequential([keras.Input((None, 3)), *layers]))
    model.save(tmp_path / "m.keras")
    lstm, gru = openlstm.read(tmp_path / "m.keras").values()
    kernel, recurrent, bias = layers[0].get_weights()
    assert (lstm.weight_ih_l0.numpy(force=True) == kernel.T).all() and (
        lstm.weight_hh_l0.numpy(force=True) == recurrent.T
    ).all()
    assert (lstm.bias_ih_l0.numpy(force=True) == bias).all() and not lstm.bias_hh_l0.any()
    bias = layers[1].get_weights()[2].reshape(2, 3, 4)[:, [1, 0, 2]].reshape(2, 12)  # z, r, h -> r, z, n
    assert (gru.bias_ih_l0.numpy(force=True) == bias[0]).all() and (gru.bias_hh_l0.numpy(force=True) == bias[1]).all()


def test_a_layer_that_runs_backwards_and_what_keras_merges_are_said(keras: Any, tmp_path: Path) -> None:
    L = keras.layers
    layers = [L.LSTM(5, go_backwards=True, return_sequences=True), L.Bidirectional(L.GRU(4, return_sequences=True), "sum")]
    model = drawn(keras.Sequential([keras.Input((None, 3)), *layers]))
    model.save(tmp_path / "m.keras")
    found = openlstm.read(tmp_path / "m.keras")
    x = torch.randn(2, 7, 3)
    back, both = found.values()
    y = layers[0](x)
    assert torch.allclose(back(x)[0].flip(1), y, atol=1e-6)
    a, b = both(y)[0].chunk(2, -1)
    assert torch.allclose(a + b, layers[1](y), atol=1e-6)
    assert [s.notes for s in found.stacks.values()] == [
        ("Keras hands out its outputs last step first; here each stands at its step",),
        ("Keras merges its directions with 'sum'; here they stand side by side",),
    ]


def stored(path: Path, arrays: dict[str, np.ndarray], **attributes: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
        file.attrs.update(attributes)
    return path


def cudnn(w: np.ndarray, gates: int) -> np.ndarray:
    """An input kernel in the layout of CuDNNLSTM, as Keras 2 converted it."""
    return np.hstack([block.T.reshape(block.shape, order="C") for block in np.hsplit(w, gates)])


@pytest.mark.parametrize("gates", [4, 3])
def test_the_layout_of_cudnn_is_put_in_order(gates: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    kernel, recurrent = rng.normal(size=(3, gates * 5)), rng.normal(size=(5, gates * 5))
    bias = rng.normal(size=(2, gates * 5))
    plain = (
        openlstm.read(stored(tmp_path / "a.h5", {"r/k/kernel:0": kernel, "r/k/recurrent_kernel:0": recurrent}))["k"]
        if gates == 4
        else None
    )
    turned = np.hstack([block.T for block in np.hsplit(recurrent, gates)])
    arrays = {"r/r/kernel:0": cudnn(kernel, gates), "r/r/recurrent_kernel:0": turned, "r/r/bias:0": bias.ravel()}
    found = openlstm.read(stored(tmp_path / "b.h5", arrays, keras_version=np.bytes_("2.1.5")))
    assert found.stacks["r"].notes[0] == "in the layout of CuDNN, with two biases"
    layer = found["r"]
    order = [0, 1, 2, 3] if gates == 4 else [1, 0, 2]

    def ours(a: np.ndarray) -> np.ndarray:
        return a.T.reshape(gates, 5, -1)[order].reshape(gates * 5, -1)

    assert (layer.weight_ih_l0.numpy(force=True) == ours(kernel)).all()
    assert (layer.weight_hh_l0.numpy(force=True) == ours(recurrent)).all()
    assert (layer.bias_ih_l0.numpy(force=True) == ours(bias[0]).ravel()).all()
    assert (layer.bias_hh_l0.numpy(force=True) == ours(bias[1]).ravel()).all()
    if plain is not None:
        assert torch.equal(plain.weight_ih_l0, layer.weight_ih_l0) and torch.equal(plain.weight_hh_l0, layer.weight_hh_l0)


def test_weights_of_keras_before_2_3_are_not_guessed_at(tmp_path: Path) -> None:
    arrays = {"l/l/kernel:0": np.zeros((3, 20)), "l/l/recurrent_kernel:0": np.zeros((5, 20)), "l/l/bias:0": np.zeros(20)}
    with pytest.raises(ArgumentError) as caught:
        openlstm.read(stored(tmp_path / "m.h5", arrays, keras_version="2.2.4"))
    assert str(caught.value).splitlines()[1] == (
        "  got       l: may have hard_sigmoid or sigmoid gates (weights of Keras 2.2.4 without a config), expected a config: "
        "save the whole model, or pass the file through Keras of today"
    )
    assert list(openlstm.read(stored(tmp_path / "m.h5", arrays, keras_version="2.2.4-tf"))) == ["l"]


@pytest.mark.parametrize(("version", "slope"), [("2.4.0", 0.2), ("3.1.0", 1 / 6)])
def test_hard_sigmoid_is_that_of_the_version(version: str, slope: float, tmp_path: Path) -> None:
    options = {"name": "l", "units": 5, "activation": "tanh", "recurrent_activation": "hard_sigmoid", "use_bias": False}
    config = {"class_name": "Sequential", "config": [{"class_name": "LSTM", "config": options}]}
    arrays = {"l/l/kernel:0": np.ones((3, 20)), "l/l/recurrent_kernel:0": np.ones((5, 20))}
    found = openlstm.read(stored(tmp_path / "m.h5", arrays, keras_version=version, model_config=json.dumps(config)))
    cell: Any = found.stacks["l"].cell
    assert cell.activations[0].name == "hardsigmoid" and cell.activations[0].numbers == (slope, 0.5)


def test_a_class_that_is_none_of_keras_and_two_directions_of_different_kinds_are_left(keras: Any, tmp_path: Path) -> None:
    L = keras.layers

    class MyLSTM(L.LSTM):
        pass

    both = L.Bidirectional(L.GRU(4), backward_layer=L.GRU(4, go_backwards=True, activation="relu"), name="both")
    keras.Sequential(
        [keras.Input((None, 3)), L.LSTM(2, return_sequences=True), MyLSTM(4, return_sequences=True, name="m"), both]
    ).save(tmp_path / "m.keras")
    found = openlstm.read(tmp_path / "m.keras")
    assert len(found) == 1
    assert found.left == {
        "m": "MyLSTM is none of LSTM, GRU and SimpleRNN; keep it in Keras",
        "both": "its two directions are of different kinds; take them for two layers in Keras",
    }


def test_what_keras_has_and_ours_has_not_is_named(keras: Any, tmp_path: Path) -> None:
    L = keras.layers
    layers = [L.LSTM(5, return_sequences=True, name="a"), L.LSTM(4, activation="gelu", name="b")]
    keras.Sequential([keras.Input((None, 3)), *layers]).save(tmp_path / "m.keras")
    found = openlstm.read(tmp_path / "m.keras")
    assert list(found) == ["a"]
    known = "tanh, sigmoid, relu, linear, softsign, softplus, elu, leaky_relu"
    assert found.left == {"b": f"an activation that is not known here (activation='gelu'), expected {known}: keep it in Keras"}


WRITTEN = [
    openlstm.LSTM(3, 5, 2),
    openlstm.LSTM(3, 5, bidirectional=True, bias=False),
    openlstm.GRU(3, 5, 2, bidirectional=True, batch_first=True),
    openlstm.RNN(3, 5, nonlinearity="relu"),
    openlstm.LSTM(3, 5, dtype=torch.float64),
    Stack("", cells.GRU(), Stack.of(openlstm.GRU(3, 5)).weights, reverse=True).layer(),
]
WRITTEN_IDS = ["lstm", "both", "gru", "rnn", "double", "backwards"]


@pytest.mark.parametrize("layer", WRITTEN, ids=WRITTEN_IDS)
def test_keras_opens_what_is_written_and_computes_the_same(keras: Any, layer: Any, tmp_path: Path) -> None:
    layer = layer.eval()
    made = openlstm.export(layer, to="keras", path=tmp_path / "m.keras")
    model = keras.saving.load_model(tmp_path / "m.keras")
    assert all((a == b).all() for a, b in zip(model.get_weights(), made.weights, strict=True))
    inner = getattr(layer, "layer", layer)
    x = torch.randn(2, 7, 3, dtype=inner.weight_ih_l0.dtype)
    y = layer(x)[0] if inner.batch_first else layer(x.transpose(0, 1))[0].transpose(0, 1)
    theirs = model(x)
    assert torch.allclose(theirs if inner is layer else theirs.flip(1), y, atol=1e-6)


@pytest.mark.parametrize("layer", WRITTEN, ids=WRITTEN_IDS)
def test_what_is_written_comes_back_with_its_matrices_and_the_sum_of_its_biases(layer: Any, tmp_path: Path) -> None:
    openlstm.export(layer, to="keras", path=tmp_path / "m.keras")
    found = list(openlstm.read(tmp_path / "m.keras").stacks.values())
    stack = Stack.of(layer)
    assert len(found) == stack.layers
    for back, given in zip(found, stack.weights, strict=True):
        assert back.cell == stack.cell and back.reverse == stack.reverse and back.batch_first
        pairs: Any = zip(back.weights[0], given, strict=True)
        for a, b in pairs:
            assert (a.w_ih == b.w_ih).all() and (a.w_hh == b.w_hh).all() and (a.b_ih is None) == (b.b_ih is None)
            if isinstance(stack.cell, cells.GRU):
                assert (a.b_ih == b.b_ih).all() and (a.b_hh == b.b_hh).all()
            elif a.b_ih is not None:
                assert (a.b_ih == b.b_ih + b.b_hh).all() and not a.b_hh.any()


def test_what_keras_has_not_is_not_written() -> None:
    with pytest.raises(ArgumentError) as caught:
        openlstm.export(openlstm.LSTM(3, 5, cell=cells.Peephole()), to="keras")
    assert str(caught.value) == (
        "export to keras: Keras has no such layer\n"
        "  got       Peephole 3 -> 5, float32\n"
        "  expected  LSTM, GRU or RNN, without a projection\n"
        "  hint      to='onnx' has peepholes and other cells; or keep the openlstm layer"
    )


def test_a_file_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["l/kernel"] = h5py.ExternalLink("/etc/passwd", "x")
    with pytest.raises(DataError) as caught:
        openlstm.read(tmp_path / "m.h5")
    assert str(caught.value) == (
        f"{tmp_path / 'm.h5'}: has links, which could lead to other files\n"
        "  got       l/kernel leads to /etc/passwd\n"
        "  expected  arrays that lie in it\n"
        "  hint      save the model as one file, with its weights inside"
    )
    with h5py.File(tmp_path / "n.h5", "w") as file:
        file.create_dataset("l/kernel", (3, 4), "f4", external=[("other.bin", 0, 48)])
    with pytest.raises(DataError, match="has an array that lies in another file"):
        openlstm.read(tmp_path / "n.h5")


def test_groups_that_hold_each_other_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_group("a")["a"] = file["/"]
    with pytest.raises(DataError, match="groups 25 deep, 25 in all"):
        openlstm.read(tmp_path / "m.h5")


def test_arrays_that_are_declared_and_not_there_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_dataset("l/kernel", (10**7, 20), "f4")
        file.create_dataset("l/recurrent_kernel", (5, 20), "f4")
    with pytest.raises(DataError, match=r"l/kernel of 10000000 x 20 numbers in a file of \d+ bytes"):
        openlstm.read(tmp_path / "m.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("l/kernel", (10**6, 20 * 10), "f4", compression="gzip", chunks=(1, 200))
    with pytest.raises(DataError, match=r"l/kernel of 1000000 x 200 numbers in a file of \d+ bytes"):
        openlstm.read(tmp_path / "b.h5")


def test_an_archive_that_expands_too_far_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", json.dumps({}))
        archive.writestr("model.weights.h5", bytes(2**27))
    with pytest.raises(DataError) as caught:
        openlstm.read(tmp_path / "m.keras")
    size = (tmp_path / "m.keras").stat().st_size
    assert str(caught.value) == (
        f"{tmp_path / 'm.keras'}: expands too far to be a model\n"
        f"  got       134217730 bytes in a file of {size}\n"
        "  expected  at most 100 times its size\n"
        "  hint      pack it again without compression"
    )


def test_without_h5py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    stored(tmp_path / "m.h5", {})
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match="needs the package h5py") as caught:
        openlstm.read(tmp_path / "m.h5")
    assert "extra 'exchange'" in str(caught.value)
    with pytest.raises(MissingExtraError, match="h5py"):
        openlstm.export(openlstm.LSTM(3, 5), to="keras", path=tmp_path / "m.keras")


def test_a_config_that_is_no_config_is_an_error(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    stored(tmp_path / "w.h5", {})
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("config.json", "{" * 9)
        archive.writestr("model.weights.h5", (tmp_path / "w.h5").read_bytes())
    (tmp_path / "m.keras").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="the config of a Keras model"):
        openlstm.read(tmp_path / "m.keras")
