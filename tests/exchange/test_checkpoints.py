"""torch's files give the layers that were saved, bit for bit, and nothing in them is run."""

from __future__ import annotations

import collections
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import openlstm
from openlstm import cells
from openlstm.errors import ArgumentError, DataError
from openlstm.exchange.stack import Stack

THEIRS = [
    nn.LSTM(3, 5, 2, bidirectional=True, batch_first=True),
    nn.LSTM(3, 5, proj_size=2, bias=False),
    nn.GRU(3, 4, 2),
    nn.GRU(7, 7, bidirectional=True, dtype=torch.float64),
    nn.RNN(3, 5, nonlinearity="relu", batch_first=True),
    nn.LSTM(3, 5, dtype=torch.float16),
]
IDS = ["lstm", "projected", "gru", "wide", "relu", "half"]


class Net(nn.Module):
    """A model around a recurrent layer, whose class a reader of its pickle has not."""

    def __init__(self, rnn: Any) -> None:
        super().__init__()
        self.embed = nn.Linear(2, rnn.input_size)
        self.rnn = rnn
        self.again = nn.ModuleList([rnn])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(x)[0]


def same(found: Any, theirs: Any, batch_first: bool | None = None) -> None:
    ours = type(found).from_torch(theirs) if not isinstance(theirs, (openlstm.LSTM, openlstm.GRU, openlstm.RNN)) else theirs
    if batch_first is not None:
        assert found.batch_first is batch_first
        found.batch_first = ours.batch_first
    assert repr(found) == repr(ours)
    a, b = found.state_dict(), ours.state_dict()
    assert list(a) == list(b) and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def saved(tmp_path: Path, what: Any, name: str = "model.pt", **options: Any) -> Path:
    torch.save(what, tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("rnn", THEIRS, ids=IDS)
def test_a_pickled_module_gives_its_layers_with_all_options(rnn: Any, old: bool, tmp_path: Path) -> None:
    layers = openlstm.read(saved(tmp_path, {"epoch": 3, "model": Net(rnn)}, _use_new_zipfile_serialization=not old))
    assert list(layers) == ["model.rnn", "model.again.0"] and not layers["model.rnn"].training
    for layer in layers.values():
        same(layer, rnn)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("rnn", THEIRS, ids=IDS)
def test_a_state_dict_gives_its_layers(rnn: Any, old: bool, tmp_path: Path) -> None:
    optimizer = torch.optim.Adam(rnn.parameters())
    whole = {"state_dict": Net(rnn).state_dict(), "optimizer": optimizer.state_dict()}
    layers = openlstm.read(saved(tmp_path, whole, "model.ckpt", _use_new_zipfile_serialization=not old))
    assert list(layers) == ["state_dict.rnn", "state_dict.again.0"]
    if rnn.mode != "RNN_RELU":
        same(layers["state_dict.rnn"], rnn, batch_first=False)
        return
    note = "the file does not say whether it is of tanh or relu: tanh, which is torch's default, was taken"
    assert layers.stacks["state_dict.rnn"].notes == (note,)


@pytest.mark.parametrize("rnn", THEIRS[:-1], ids=IDS[:-1])
@pytest.mark.parametrize("how", ["script", "trace"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore:LSTM with proj")
def test_torchscript_gives_its_layers_with_what_its_code_declares(rnn: Any, how: str, tmp_path: Path) -> None:
    rnn = rnn.eval()
    net = nn.Sequential(rnn)
    x = torch.zeros(2, 3, rnn.input_size, dtype=rnn.weight_ih_l0.dtype)
    made: Any = torch.jit.script(net) if how == "script" else torch.jit.trace(net, x)
    torch.jit.save(made, tmp_path / "net.pt")
    layers = openlstm.read(tmp_path / "net.pt")
    assert list(layers) == ["0"] and list(openlstm.read(made)) == ["0"]
    same(layers["0"], rnn)


@pytest.mark.parametrize("rnn", THEIRS[:-1], ids=IDS[:-1])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_frozen_torchscript_gives_its_layers_by_their_calls(rnn: Any, tmp_path: Path) -> None:
    frozen = torch.jit.freeze(torch.jit.script(nn.Sequential(rnn).eval()))
    torch.jit.save(frozen, tmp_path / "net.pt")
    layers = openlstm.read(tmp_path / "net.pt")
    assert list(layers) == [f"{rnn.mode.lower()}_0"]
    same(next(iter(layers.values())), rnn)


@pytest.mark.parametrize("rnn", THEIRS, ids=IDS)
def test_safetensors_modules_and_dicts_in_memory_give_their_layers(rnn: Any, tmp_path: Path) -> None:
    save_file(Net(rnn).rnn.state_dict(), tmp_path / "net.safetensors")
    found = openlstm.read(tmp_path / "net.safetensors")
    assert list(found) == [""]
    tree = openlstm.read({"net": Net(rnn).state_dict()})
    assert list(tree) == ["net.rnn", "net.again.0"]
    if rnn.mode != "RNN_RELU":
        same(found[""], rnn, batch_first=False)
        same(tree["net.rnn"], rnn, batch_first=False)
    same(openlstm.read(Net(rnn))["rnn"], rnn.eval())


def test_bfloat16_is_read_as_the_same_numbers(tmp_path: Path) -> None:
    rnn = nn.LSTM(3, 5, dtype=torch.bfloat16)
    save_file(rnn.state_dict(), tmp_path / "net.safetensors")
    for found in (openlstm.read(saved(tmp_path, rnn)), openlstm.read(tmp_path / "net.safetensors"), openlstm.read(rnn)):
        assert found.stacks[""].notes == ("its numbers are bfloat16; here the same ones are in float32",)
        same(found[""], rnn.float())
        rnn = rnn.bfloat16()


@pytest.mark.parametrize("cell", cells.ALL, ids=list(cells.BY_NAME))
def test_a_pickled_layer_of_ours_names_its_cell(cell: cells.Cell, tmp_path: Path) -> None:
    kind = openlstm.LSTM if cell.has_cell else openlstm.GRU if isinstance(cell, cells.GRU) else openlstm.RNN
    layer = kind(3, 6, cell=cell).eval()
    same(openlstm.read(saved(tmp_path, nn.Sequential(layer)))["0"], layer)


def test_a_layer_of_ours_that_is_given_its_sums_and_a_module_that_knows_its_parent_are_read(tmp_path: Path) -> None:
    net = nn.Sequential(openlstm.LSTM(24, 6, input_projection=False))
    net[0].__dict__["parent"] = net
    same(openlstm.read(saved(tmp_path, {"net": net, "hook": net[0]}))["net.0"], net[0].eval())


def test_views_and_shared_storages_are_read_where_they_lie(tmp_path: Path) -> None:
    rnn = nn.LSTM(3, 5)
    flat = torch.cat([p.detach().reshape(-1) for p in rnn.parameters()])
    flat, state = torch.cat([torch.randn(7), flat]), {}
    at = 7
    for name, p in rnn.named_parameters():
        state[name] = flat[at : at + p.numel()].view(p.shape)
        at += p.numel()
    state["weight_ih_l0"] = state["weight_ih_l0"].T.contiguous().T
    for old in (False, True):
        found = openlstm.read(saved(tmp_path, state, _use_new_zipfile_serialization=not old))
        same(found[""], rnn)


def test_arrays_of_numpy_in_a_plain_pickle_are_read(tmp_path: Path) -> None:
    rnn = nn.GRU(3, 5)
    state = {name: p.detach().numpy() for name, p in rnn.named_parameters()}
    state["weight_ih_l0"] = np.asfortranarray(state["weight_ih_l0"])
    state["weight_hh_l0"] = state["weight_hh_l0"].astype(">f4")
    for protocol in (2, 4, 5):
        (tmp_path / "net.pkl").write_bytes(pickle.dumps({"params": state, "name": "x"}, protocol))
        same(openlstm.read(tmp_path / "net.pkl")["params"], rnn)
    same(openlstm.read({"params": state})["params"], rnn)


@pytest.mark.parametrize("rnn", THEIRS, ids=IDS)
def test_a_module_in_a_plain_pickle_is_read(rnn: Any, tmp_path: Path) -> None:
    (tmp_path / "net.pkl").write_bytes(pickle.dumps(Net(rnn)))
    found = openlstm.read(tmp_path / "net.pkl")
    assert list(found) == ["rnn", "again.0"]
    same(found["rnn"], rnn)


def test_cells_of_one_step_become_layers(tmp_path: Path) -> None:
    for theirs in (nn.LSTMCell(3, 5), nn.GRUCell(3, 5), nn.RNNCell(3, 5, nonlinearity="relu")):
        found = openlstm.read(saved(tmp_path, nn.Sequential(theirs)))
        assert found.stacks["0"].notes == ("one step (a cell); here it runs over sequences",)
        x = torch.randn(1, 2, 3)
        y = theirs(x[0])
        assert torch.allclose(found["0"](x)[0][0], y[0] if isinstance(y, tuple) else y, atol=1e-6)
        again = openlstm.read(nn.Sequential(theirs))
        assert again.stacks["0"].notes == found.stacks["0"].notes
        same(again["0"], found["0"])


@pytest.mark.parametrize("layout", ["whole", "cuda", "torch"])
def test_the_slstm_of_xlstm_is_read_in_all_its_layouts(layout: str, tmp_path: Path) -> None:
    heads, D = 3, 2
    R, b = torch.randn(heads, D, 4, D), torch.randn(heads, 4, D)  # [head, before, gate, unit], [head, gate, unit]
    kernel, bias = {
        "whole": (R, b),
        "cuda": (R.reshape(heads, D, 4 * D), b.reshape(-1)),
        "torch": (R.permute(0, 2, 3, 1).reshape(heads, 4 * D, D), b.transpose(0, 1).reshape(-1)),
    }[layout]
    found = openlstm.read(saved(tmp_path, {"slstm_cell": {"_recurrent_kernel_": kernel, "_bias_": bias}}))
    layer = found["slstm_cell"]
    assert layer.cell == cells.SLSTM(heads) and not layer.input_projection and layer.batch_first
    x, h0 = torch.randn(1, 1, 4 * heads * D), torch.randn(1, 1, heads * D)
    zeros = torch.zeros(1, 1, heads * D)
    y, _ = layer(x, (h0, zeros, zeros, zeros))
    sums = torch.einsum("np,npgd->gnd", h0.view(heads, D), R) + b.transpose(0, 1) + x.view(4, heads, D)
    assert torch.allclose(y.view(heads, D), sums[3].sigmoid() * sums[2].tanh(), atol=1e-6)  # i = n = 1 at the first step
    with pytest.raises(ArgumentError, match="expected .heads, 4 . D, D., .heads, D, 4 . D. or .heads, D, 4, D."):
        openlstm.read({"_recurrent_kernel_": torch.zeros(3, 2, 5)})


def test_what_cannot_be_expressed_is_left_and_named(tmp_path: Path) -> None:
    good = {f"good.{k}": v for k, v in nn.LSTM(3, 5).state_dict().items()}
    normed = {"normed.weight_ih_l0": torch.zeros(20, 3), "normed.weight_hh_l0_g": torch.zeros(20, 1)}
    odd = {"odd.weight_ih_l0": torch.zeros(10, 3), "odd.weight_hh_l0": torch.zeros(10, 5)}
    whole = {"whole.weight_ih_l0": torch.zeros(20, 3).int(), "whole.weight_hh_l0": torch.zeros(20, 5).int()}
    uneven = {"uneven.weight_ih_l0": torch.zeros(20, 3), "uneven.weight_hh_l0": torch.zeros(20, 5)}
    uneven |= {"uneven.weight_ih_l1": torch.zeros(16, 5), "uneven.weight_hh_l1": torch.zeros(16, 4)}
    found = openlstm.read(saved(tmp_path, good | normed | odd | whole | uneven))
    assert list(found) == ["good"]
    assert found.left == {
        "normed": (
            "there is no weight_hh_l0 (weight_ih beside it), expected all weights of every layer: "
            "save plain weights, without parametrisations, dropped or normalised copies"
        ),
        "odd": (
            "an unknown cell (weight_hh [10, 5]), expected 4, 3 or 1 rows for each unit, an LSTM, a GRU, an RNN: "
            "keep it in the package it comes from"
        ),
        "whole": (
            "cannot be the weights of a layer (int32), expected float16, float32, float64: "
            "save the model from before it was quantised"
        ),
        "uneven": (
            "the arrays do not make one layer (weight_ih_l1 [16, 5], weight_hh_l1 [16, 4]), "
            "expected weight_ih_l1 [20, 5], weight_hh_l1 [20, 5]: "
            "all layers have the same cell, hidden size, directions and biases"
        ),
    }
    with pytest.raises(ArgumentError, match="holds no recurrent layer that can be expressed"):
        openlstm.read(saved(tmp_path, odd))


@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "weight_hr_l0"])
@pytest.mark.parametrize("shape", [(), (0,), (21,), (0, 0), (1, 20, 3), (7, 5)], ids=str)
def test_an_array_of_any_shape_is_an_error_of_ours(name: str, shape: tuple[int, ...]) -> None:
    state = {**nn.LSTM(3, 5, proj_size=2).state_dict(), name: torch.zeros(shape)}
    with pytest.raises(ArgumentError, match="holds no recurrent layer that can be expressed"):
        openlstm.read(state)


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch evil",)


@pytest.mark.parametrize("where", ["zip", "old", "pickle", "class"])
def test_code_in_a_pickle_is_refused_and_not_run(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state: dict[str, Any] = {"rnn": nn.LSTM(3, 5).state_dict(), "hook": Evil()}
    name = "posix.system"
    if where == "class":
        Path("m.pkl").write_bytes(b"\x80\x02csubprocess\nPopen\n)R.")
        name = "subprocess.Popen"
    elif where == "pickle":
        Path("m.pkl").write_bytes(pickle.dumps({"hook": Evil()}))
    else:
        torch.save(state, "m.pkl", _use_new_zipfile_serialization=where == "zip")
    with pytest.raises(DataError) as caught:
        openlstm.read("m.pkl")
    assert str(caught.value) == (
        "m.pkl: holds code, which is never run\n"
        f"  got       a call of {name}\n"
        "  expected  a pickle of tensors, arrays, containers and modules\n"
        "  hint      open it where you trust it, and save its state_dict or safetensors"
    )
    assert not Path("evil").exists()


def test_an_object_whose_class_is_evil_is_never_made(tmp_path: Path) -> None:
    state = collections.OrderedDict(nn.LSTM(3, 5).state_dict())
    torch.save({"state": state, "x": Evil}, tmp_path / "m.pt")  # a class alone, which is not called
    assert list(openlstm.read(tmp_path / "m.pt")) == ["state"]


@pytest.mark.parametrize("rnn", THEIRS[:3], ids=IDS[:3])
def test_torch_takes_what_is_written(rnn: Any, tmp_path: Path) -> None:
    ours = Stack.of(rnn).layer()
    made = openlstm.export(ours, to="torch", path=tmp_path / "net.pt")
    assert list(made) == list(rnn.state_dict())
    loaded = torch.load(tmp_path / "net.pt", weights_only=True)
    assert all(torch.equal(loaded[name], value) for name, value in rnn.state_dict().items())
    same(openlstm.read(tmp_path / "net.pt")[""], rnn, batch_first=False)


def test_a_module_that_runs_backwards_is_one_layer() -> None:
    stack = Stack.of(nn.GRU(3, 5))
    layer = Stack("b", stack.cell, stack.weights, reverse=True).layer()
    for model, name in ((layer, ""), (nn.Sequential(layer), "0")):
        found = openlstm.read(model)
        assert list(found) == [name] and found.stacks[name].reverse


def test_torch_has_neither_our_cells_nor_a_layer_that_runs_backwards() -> None:
    with pytest.raises(ArgumentError, match="torch.nn has no Peephole"):
        openlstm.export(openlstm.LSTM(3, 5, cell=cells.Peephole()), to="torch")
    stack = Stack.of(openlstm.LSTM(3, 5))
    with pytest.raises(ArgumentError) as caught:
        openlstm.export(Stack("b", stack.cell, stack.weights, reverse=True).layer(), to="torch")
    assert str(caught.value) == (
        "export to torch: torch.nn has no layer that only runs backwards\n"
        "  got       backwards\n"
        "  expected  forwards\n"
        "  hint      keep the openlstm layer, or flip x and y around torch.nn's"
    )


def edited(path: Path, **members: bytes | None) -> Path:
    """An archive with other members; None leaves one out."""
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(held)).split("/")[0]
    for name, data in members.items():
        held[f"{root}/{name.replace('_', '/')}"] = data  # type: ignore[assignment]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in held.items():
            if data is not None:
                archive.writestr(name, data)
    path.write_bytes(buffer.getvalue())
    return path


def test_numbers_that_are_declared_and_not_there_are_refused(tmp_path: Path) -> None:
    path = edited(saved(tmp_path, nn.LSTM(3, 5).state_dict()), data_1=b"1234")
    with pytest.raises(DataError) as caught:
        openlstm.read(path)
    assert str(caught.value) == (
        f"{path}: cannot be read\n"
        "  got       1 numbers of 100 in model/data/1\n"
        "  expected  the numbers that are declared\n"
        "  hint      fetch the file again"
    )
    with pytest.raises(DataError, match="0 numbers of 100 in model/data/1"):
        openlstm.read(edited(path, data_1=None))
    old = saved(tmp_path, nn.LSTM(3, 5).state_dict(), "old.pt", _use_new_zipfile_serialization=False)
    old.write_bytes(old.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"a storage that ends at byte \d+ of \d+"):
        openlstm.read(old)
