"""`LSTMCell` is torch.nn's, and a step of `LSTM` to the last bit."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import pytest
import torch
from tests.nn.twins import BACKENDS, TOLERANCE, far
from torch import nn
from torch.nn.utils import parametrizations

import openlstm
from openlstm.engine import native
from openlstm.errors import BackendError, DtypeError, ShapeError

B, I, H = 3, 4, 6
BOTH = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["float32", "float64"])


def cells(bias: bool = True, dtype: torch.dtype = torch.float64, **more: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    ours = openlstm.LSTMCell(I, H, bias, dtype=dtype, **more)
    theirs = nn.LSTMCell(I, H, bias, dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def results(cell: Any, batched: bool, state: bool) -> dict[str, Any]:
    torch.manual_seed(1)
    cell.zero_grad()
    dtype = cell.weight_ih.dtype
    shape = [[B, n] if batched else [n] for n in (I, H, H)]
    x, h, c = (torch.randn(s, dtype=torch.float64).to(dtype).requires_grad_() for s in shape)
    h1, c1 = cell(x, (h, c) if state else None)
    (h1.sin().sum() + (2 * c1).cos().sum()).backward()
    grads = {name: p.grad for name, p in cell.named_parameters()}
    return {"h": h1.detach(), "c": c1.detach(), "dx": x.grad, **grads, **({"dh": h.grad, "dc": c.grad} if state else {})}


@BOTH
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("state", [True, False])
def test_one_step_is_that_of_torch(state: bool, batched: bool, bias: bool, backend: str, dtype: torch.dtype) -> None:
    ours, theirs = cells(bias, dtype, backend=backend)
    assert far(results(ours, batched, state), results(theirs, batched, state), TOLERANCE[dtype]) == {}
    assert ours.backend_used(torch.zeros(B, I, dtype=dtype)) == backend
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_the_same_seed_gives_the_same_start() -> None:
    torch.manual_seed(3)
    ours = openlstm.LSTMCell(I, H)
    torch.manual_seed(3)
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), nn.LSTMCell(I, H).parameters(), strict=True))


@BOTH
@pytest.mark.skipif(not native.available(), reason="the compiled extension is not built")
def test_step_by_step_is_the_sequence_to_the_last_bit(dtype: torch.dtype) -> None:
    """With and without gradients: the short way to the kernel changes nothing."""
    cell, layer = openlstm.LSTMCell(I, H, dtype=dtype), openlstm.LSTM(I, H, dtype=dtype)
    for name, p in cell.named_parameters():
        setattr(layer, f"{name}_l0", p)
    x = torch.randn(9, B, I, dtype=dtype)
    h, c = torch.randn(2, 1, B, H, dtype=dtype)
    y, _ = layer(x, (h, c))
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            state = (h[0], c[0])
            for t in range(9):
                state = cell(x[t], state)
                assert torch.equal(state[0], y[t])


def test_arrays_of_any_layout_give_the_same_step() -> None:
    cell, theirs = cells()
    x, h, c = (
        torch.randn(I, B, dtype=torch.float64).T,
        torch.randn(B, 2 * H, dtype=torch.float64)[:, ::2],
        torch.zeros(B, H).double(),
    )
    with torch.no_grad():
        cell.weight_hh = nn.Parameter(cell.weight_hh.t().contiguous().t())
        for a, b in zip(cell(x, (h, c)), theirs(x, (h, c)), strict=True):
            assert torch.allclose(a, b, rtol=1e-12)
        assert cell(x[:0], (h[:0], c[:0]))[0].shape == (0, H)
        bits = torch.view_as_complex(torch.randn(B, I, 2, dtype=torch.float64)).conj().imag  # carries a lazy minus
        assert bits.is_neg() and torch.equal(cell(bits, (h, c))[0], cell(bits.clone(), (h, c))[0])


def test_copies_half_types_and_the_repr_of_a_cell() -> None:
    cell, _ = cells()
    x = torch.randn(B, I, dtype=torch.float64)
    for other in (copy.deepcopy(cell), pickle.loads(pickle.dumps(cell))):
        assert torch.equal(other(x)[0], cell(x)[0])
    h, c = cell.to(torch.bfloat16)(x.bfloat16())
    assert h.dtype == c.dtype == torch.bfloat16
    assert torch.allclose(h.double(), cell.double()(x.bfloat16().double())[0], atol=4e-3)
    assert repr(openlstm.LSTMCell(I, H, bias=False)) == "LSTMCell(4, 6, bias=False)"


def test_weights_are_read_where_they_are_now() -> None:
    """By parametrisations, functional_call and assignment, on the short way too."""
    ours, theirs = cells()
    x = torch.randn(B, I, dtype=torch.float64)
    parametrizations.weight_norm(ours, "weight_hh")
    with torch.no_grad():
        ours.parametrizations.weight_hh.original0.mul_(2)
        theirs.weight_hh.mul_(2)
        h = torch.randn(B, H, dtype=torch.float64)
        assert torch.allclose(ours(x, (h, h))[0], theirs(x, (h, h))[0], rtol=1e-11)
        other, _ = cells()
        swapped = {name: p.flip(0) for name, p in theirs.named_parameters()}
        found = torch.func.functional_call(other, swapped, (x, (h, h)))[0]
        theirs.load_state_dict(swapped)
        assert torch.allclose(found, theirs(x, (h, h))[0], rtol=1e-11)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("gradients", [True, False])
def test_a_step_compiles_in_one_graph(gradients: bool) -> None:
    ours, theirs = cells()
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    x, h, c = (torch.randn(B, n, dtype=torch.float64) for n in (I, H, H))
    with torch.set_grad_enabled(gradients):
        assert torch.allclose(compiled(x, (h, c))[1], theirs(x, (h, c))[1], rtol=1e-11)


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("layer", ["LSTMCell", "LSTM"])
def test_a_weight_of_another_shape_or_dtype_never_reaches_the_kernel(layer: str, gradients: bool) -> None:
    for bad in (torch.zeros(4 * H, H - 1), torch.zeros(4 * H - 4, H), torch.zeros(4 * H, H).double()):
        module = getattr(openlstm, layer)(I, H)
        setattr(module, "weight_hh" if layer == "LSTMCell" else "weight_hh_l0", nn.Parameter(bad))
        with torch.set_grad_enabled(gradients), pytest.raises((ShapeError, DtypeError), match="weights.w_hh"):
            module(torch.zeros(B, I), (torch.zeros(B, H), torch.zeros(B, H))) if layer == "LSTMCell" else module(
                torch.zeros(2, B, I), (torch.zeros(1, B, H), torch.zeros(1, B, H))
            )


REFUSALS = [
    pytest.param(
        lambda c: c(torch.zeros(2, 3, I).double()),
        ShapeError,
        "LSTMCell: x has 3 axes\n"
        "  got       x: float64[2, 3, 4]\n"
        "  expected  [B, I], or [I] unbatched\n"
        "  hint      a sequence [T, B, I] goes to openlstm.LSTM",
        id="a-sequence",
    ),
    pytest.param(
        lambda c: c(torch.zeros(I, B).double()),
        ShapeError,
        "LSTMCell: x has 3 features, expected 4\n"
        "  got       x: float64[4, 3]\n"
        "  expected  [B, I] with I = 4\n"
        "  hint      its axes are swapped: use x.T",
        id="swapped",
    ),
    pytest.param(
        lambda c: c(torch.zeros(7).double()),
        ShapeError,
        "LSTMCell: x has 7 features, expected 4\n"
        "  got       x: float64[7]\n"
        "  expected  [I] with I = 4\n"
        "  hint      make the cell with input_size=7, or give x 4 features",
        id="features",
    ),
    pytest.param(
        lambda c: c([1.0, 2.0]),
        DtypeError,
        "LSTMCell: x is not a tensor\n  got       x: list of 2\n  expected  a torch.Tensor\n  hint      use torch.as_tensor",
        id="list",
    ),
    pytest.param(
        lambda c: c(torch.zeros(B, I)),
        DtypeError,
        "LSTMCell: x is float32, the weights are float64\n"
        "  got       x: float32[3, 4]\n"
        "  expected  float64\n"
        "  hint      use x.to(torch.float64), or layer.to(torch.float32)",
        id="dtype",
    ),
    pytest.param(
        lambda c: c(torch.zeros(B, I).double(), torch.zeros(B, H).double()),
        DtypeError,
        "LSTMCell: hx is not a pair (h, c)\n"
        "  got       hx: float64[3, 6]\n"
        "  expected  (h [B, H], c [B, H])\n"
        "  hint      pass both h and c",
        id="h-without-c",
    ),
    pytest.param(
        lambda c: c(torch.zeros(B, I).double(), (torch.zeros(B, H).double(), torch.zeros(1, H).double())),
        ShapeError,
        "LSTMCell: c has shape [1, 6], expected [3, 6]\n"
        "  got       c: float64[1, 6], x: float64[3, 4]\n"
        "  expected  [3, 6] = [B, H]\n"
        "  hint      h and c have the batch of x and hidden_size units",
        id="rows",
    ),
    pytest.param(
        lambda c: c(torch.zeros(B, I).double(), (torch.zeros(B, H), torch.zeros(B, H))),
        DtypeError,
        "LSTMCell: h differs from x in dtype or device\n"
        "  got       h: float32[3, 6] on cpu, x: float64[3, 4] on cpu\n"
        "  expected  float64 on cpu\n"
        "  hint      use h.to(x)",
        id="state-dtype",
    ),
    pytest.param(
        lambda c: openlstm.LSTMCell(I, -1),
        ValueError,
        "LSTMCell: hidden_size is -1\n"
        "  got       hidden_size: int -1\n"
        "  expected  an integer >= 0\n"
        "  hint      use hidden_size=0 or more",
        id="fewer-than-no-units",
    ),
    pytest.param(
        lambda c: openlstm.LSTMCell(I, H, backend="cuda")(torch.zeros(B, I)),
        BackendError,
        "LSTM: backend 'cuda' cannot run this: it runs on cuda, not on cpu\n"
        "  got       x: float32[1, 3, 4], LSTM()\n"
        "  expected  a backend that can\n"
        "  hint      use backend='auto', which chooses one",
        id="backend",
    ),
]


@pytest.mark.parametrize(("call", "kind", "text"), REFUSALS)
def test_a_wrong_step_is_refused_with_this_text(call: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as error:
        call(cells()[0])
    assert str(error.value) == text


# GRUCell and RNNCell


OTHERS: list[tuple[str, dict[str, Any]]] = [("GRUCell", {}), ("RNNCell", {}), ("RNNCell", {"nonlinearity": "relu"})]
OTHER = pytest.mark.parametrize(("kind", "options"), OTHERS, ids=["gru", "tanh", "relu"])


@BOTH
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bias", [True, False])
@OTHER
def test_one_step_of_the_others_is_that_of_torch(
    kind: str, options: dict[str, Any], bias: bool, backend: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(3)
    ours = getattr(openlstm, kind)(I, H, bias, dtype=dtype, backend=backend, **options)
    torch.manual_seed(3)
    theirs = getattr(nn, kind)(I, H, bias, dtype=dtype, **options)
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs = theirs.double()
    for batched in (True, False):
        for given in (True, False):
            found = []
            for cell in (ours, theirs):
                cell.zero_grad()
                torch.manual_seed(1)
                shape = [[B, n] if batched else [n] for n in (I, H)]
                like = cell.weight_ih.dtype
                x, h = (torch.randn(s, dtype=torch.float64).to(like).requires_grad_() for s in shape)
                new = cell(x, h if given else None)
                new.sin().sum().backward()
                grads = {name: p.grad for name, p in cell.named_parameters()}
                found.append({"h": new.detach(), "dx": x.grad, **grads, **({"dh": h.grad} if given else {})})
            assert far(found[0], found[1], TOLERANCE[dtype]) == {}
    with torch.no_grad():
        x = torch.ones(B, I, dtype=dtype)
        assert torch.allclose(ours(x).double(), theirs(x.double()), rtol=1e-5)
    assert ours.backend_used(torch.zeros(B, I, dtype=dtype)) == backend


@OTHER
def test_what_the_others_refuse(kind: str, options: dict[str, Any]) -> None:
    cell = getattr(openlstm, kind)(I, H, **options)
    with pytest.raises(ShapeError) as caught:
        cell(torch.zeros(B, I + 1))
    assert str(caught.value).startswith(f"{kind}: x has 5 features, expected 4\n")
    with pytest.raises(DtypeError, match=f"{kind}: h is not a tensor"):
        cell(torch.zeros(B, I), (torch.zeros(B, H), torch.zeros(B, H)))
    with pytest.raises(ShapeError, match=f"a sequence .T, B, I. goes to openlstm.{kind[:-4]}"):
        cell(torch.zeros(2, B, I))
    shown = ", nonlinearity=relu" if options else ""
    assert repr(cell) == f"{kind}(4, 6{shown})"


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
def test_no_units_and_no_features_are_what_they_are_to_torch(kind: str, backend: str, gradients: bool) -> None:
    for inputs, units in ((I, 0), (0, H), (0, 0)):
        for bias, batched in itertools.product((True, False), repeat=2):
            found = []
            for home, more in ((openlstm, {"backend": backend}), (nn, {})):
                torch.manual_seed(0)
                cell = getattr(home, kind)(inputs, units, bias, dtype=torch.float64, **more)
                x = torch.randn(*[B] * batched, inputs, dtype=torch.float64, requires_grad=gradients)
                with torch.set_grad_enabled(gradients):
                    out = cell(x)
                parts = [out] if isinstance(out, torch.Tensor) else list(out)
                if gradients:
                    loss: Any = sum(part.sum() for part in parts)
                    parts += torch.autograd.grad(loss, [x, *cell.parameters()], allow_unused=True, materialize_grads=True)
                found.append(parts)
            assert [p.shape for p in found[0]] == [p.shape for p in found[1]]
            assert all(torch.allclose(p, q, rtol=1e-11) for p, q in zip(*found, strict=True))
