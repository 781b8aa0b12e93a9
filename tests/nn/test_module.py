"""The layers as torch modules: copies, files, dtypes, parametrisations, tying, modes, words."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from typing import Any

import pytest
import torch
from tests.nn.twins import BACKENDS, everything, far, states, twins
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

import openlstm
from openlstm import cells
from openlstm.engine import native

T, B, I, H = 5, 3, 4, 6
KINDS = pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])


def series(dtype: torch.dtype = torch.float64) -> Tensor:
    torch.manual_seed(2)
    return torch.randn(T, B, I, dtype=torch.float64).to(dtype)


@KINDS
def test_copies_and_files_of_a_layer_give_its_numbers(kind: str) -> None:
    layer, _ = twins(kind, I, H, num_layers=2, bidirectional=True)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(file, weights_only=False)]
    before = everything(layer, series())
    with torch.no_grad():
        layer.weight_hh_l0.add_(1.0)
    for other in copies:
        assert far(everything(other, series()), before, 0.0) == {}
        assert repr(other) == repr(layer)


@KINDS
def test_weights_are_read_at_every_call(kind: str) -> None:
    """There is no packed copy that goes stale: not after p.data, not after load_state_dict, not after an optimiser's step."""
    layer, theirs = twins(kind, I, H)
    layer(series())
    for change in (
        lambda p: p.data.add_(0.1),
        lambda p: p.data.copy_(p.data.flip(0)),
        lambda p: setattr(p, "data", p.data * 2),
    ):
        for each in (layer, theirs):
            for p in each.parameters():
                change(p)
        assert torch.allclose(layer(series())[0], theirs(series())[0], rtol=1e-11)
    layer.flatten_parameters()
    assert torch.allclose(layer(series())[0], theirs(series())[0], rtol=1e-11)


@KINDS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_run_as_float32_and_round_once(kind: str, dtype: torch.dtype) -> None:
    """float16 always, bfloat16 where no kernel multiplies in it (`test_bfloat16.py` where one does)."""
    if dtype is torch.bfloat16 and native.has_bfloat16(cells.LSTM()):
        with native.use_isa("avx2"):
            half_rounds_once(kind, dtype)
    else:
        half_rounds_once(kind, dtype)


def half_rounds_once(kind: str, dtype: torch.dtype) -> None:
    layer, _ = twins(kind, I, H, num_layers=1, bidirectional=True)
    layer = layer.to(dtype)
    assert layer.backend_used(series(dtype)) == BACKENDS[0]
    wide = copy.deepcopy(layer).float()
    hx = states(layer, B, dtype=dtype)
    found = everything(layer, series(dtype), hx)
    wanted = everything(wide, series(dtype).float(), hx.float() if kind != "LSTM" else tuple(s.float() for s in hx))
    for name in ("y", "h", "c")[: 3 if kind == "LSTM" else 2]:
        assert found[name].dtype == dtype and torch.equal(found[name], wanted[name].to(dtype))
    for name in found:
        assert found[name].dtype == dtype
        assert torch.allclose(found[name].float(), wanted[name], rtol=0.05, atol=0.05), name


@KINDS
def test_under_autocast_a_half_input_meets_full_weights(kind: str) -> None:
    layer = getattr(openlstm, kind)(I, H)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = layer(series(torch.bfloat16))
        z, _ = layer(series(torch.bfloat16).float())
    assert y.dtype == torch.bfloat16 and torch.equal(y, z)
    assert torch.allclose(y.float(), layer(series(torch.bfloat16).float())[0], atol=0.01)


@KINDS
def test_the_constructor_takes_devices_and_dtypes(kind: str) -> None:
    layer = getattr(openlstm, kind)(I, H, device="meta", dtype=torch.float64)
    assert {p.device.type for p in layer.parameters()} == {"meta"}
    assert layer(torch.empty(T, B, I, device="meta", dtype=torch.float64))[0].shape == (T, B, H)
    layer = layer.to_empty(device="cpu")
    layer.reset_parameters()
    assert all(p.abs().max() <= H**-0.5 for p in layer.parameters())
    assert layer.to(torch.float32)(series(torch.float32))[0].dtype == torch.float32


@KINDS
def test_a_parametrised_weight_is_used_and_trained(kind: str) -> None:
    layer, theirs = twins(kind, I, H)
    parametrizations.weight_norm(layer, "weight_hh_l0")
    parametrizations.orthogonal(layer, "weight_ih_l0", use_trivialization=False)
    with torch.no_grad():
        theirs.weight_hh_l0.copy_(layer.weight_hh_l0)
        theirs.weight_ih_l0.copy_(layer.weight_ih_l0)
    y = layer(series())[0]
    assert torch.allclose(y, theirs(series())[0], rtol=1e-11)
    y.sum().backward()
    assert layer.parametrizations.weight_hh_l0.original0.grad.abs().sum() > 0
    parametrize.remove_parametrizations(layer, "weight_hh_l0")
    assert torch.allclose(layer(series())[0], y, rtol=1e-11)


def test_tied_weights_collect_both_gradients() -> None:
    layer, theirs = twins("LSTM", I, I, num_layers=2)
    for each in (layer, theirs):
        each.weight_hh_l1 = each.weight_hh_l0
    assert len(list(layer.parameters())) == 7
    assert torch.allclose(layer(series())[0], theirs(series())[0], rtol=1e-11)
    layer(series())[0].sum().backward()
    tied = layer.weight_hh_l0.grad.clone()
    layer.zero_grad()
    layer.weight_hh_l1 = nn.Parameter(layer.weight_hh_l0.detach().clone())
    layer(series())[0].sum().backward()
    assert torch.allclose(layer.weight_hh_l0.grad + layer.weight_hh_l1.grad, tied, rtol=1e-11)


def test_activation_checkpointing_gives_the_same_bits() -> None:
    layer, _ = twins("LSTM", I, H)
    x = series().requires_grad_()
    layer(x)[0].square().sum().backward()
    assert x.grad is not None
    direct = x.grad.clone()
    x.grad = None
    checkpoint(lambda x: layer(x)[0], x, use_reentrant=False).square().sum().backward()
    assert torch.equal(torch.as_tensor(x.grad), direct)


def test_writing_into_the_output_before_backward_is_found_out() -> None:
    layer, _ = twins("LSTM", I, H)
    y, _ = layer(series())
    y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_nothing_is_kept_between_calls() -> None:
    layer, _ = twins("LSTM", I, H, num_layers=2, dropout=0.5)
    layer.eval()
    before = set(vars(layer))
    first = layer(series())[0]
    layer(series() * 100, states(layer, B))
    assert torch.equal(layer(series())[0], first) and set(vars(layer)) == before


def test_dropout_with_one_layer_is_said_to_do_nothing() -> None:
    with pytest.warns(UserWarning, match="^LSTM: dropout=0.2 has no effect with num_layers=1; it acts between layers$") as told:
        openlstm.LSTM(I, H, dropout=0.2)
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        openlstm.LSTM(I, H, num_layers=2, dropout=0.2)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (lambda: openlstm.LSTM(3, 5), "LSTM(3, 5)"),
        (
            lambda: openlstm.LSTM(3, 5, 2, False, True, 0.5, True, 2),
            "LSTM(3, 5, proj_size=2, num_layers=2, bias=False, batch_first=True, dropout=0.5, bidirectional=True)",
        ),
        (lambda: openlstm.RNN(3, 5, 1, "relu"), "RNN(3, 5, nonlinearity='relu')"),
        (lambda: openlstm.LSTM(3, 5, backend="reference"), "LSTM(3, 5, backend='reference')"),
    ],
)
def test_the_repr_is_the_call_that_makes_the_layer(layer: Any, text: str) -> None:
    assert repr(layer()) == text


def test_a_cell_is_an_argument() -> None:
    layer = openlstm.LSTM(I, H, cell=openlstm.cells.LSTM())
    assert layer.cell == openlstm.LSTM(I, H).cell
    assert not isinstance(layer, nn.LSTM)  # documented: torch.compile refuses subclasses of it


def test_the_named_backend_runs_or_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert openlstm.LSTM(I, H, backend="reference").backend_used(series()) == "reference"
    monkeypatch.setenv("OPENLSTM_BACKEND", "reference")
    layer = openlstm.LSTM(I, H).double()
    assert layer.backend_used(series()) == "reference"
    packed = nn.utils.rnn.pack_padded_sequence(series(), torch.tensor([5, 3, 2]))
    assert layer.backend_used(packed) == "reference"
    with pytest.raises(openlstm.errors.BackendError, match="backend 'cuda' cannot run this: it runs on cuda, not on cpu"):
        openlstm.LSTM(I, H, backend="cuda").double()(series())
    with pytest.raises(openlstm.errors.ArgumentError, match="LSTM: unknown backend 'gpu'"):
        openlstm.LSTM(I, H, backend="gpu").double()(series())


@pytest.mark.parametrize("name", ["training", "hidden_dropout", "recurrent_dropout", "zoneout_h", "zoneout_c"])
def test_a_deleted_attribute_is_missed_under_its_own_name(name: str) -> None:
    for call in (lambda layer: layer(series()), lambda layer: layer.backend_used(series())):
        layer = openlstm.LSTM(I, H, dtype=torch.float64)
        delattr(layer, name)
        with pytest.raises(AttributeError, match=f"'LSTM' object has no attribute '{name}'"):
            call(layer)
