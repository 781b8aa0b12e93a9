"""Layers in bfloat16 and under autocast: types, gradients, and the same numbers wherever they are asked for."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import openlstm
from openlstm import cells
from openlstm.engine import native
from openlstm.errors import ArgumentError, DtypeError

T, B, I, H = 9, 4, 6, 20
KINDS = pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
NATIVE = native.has_bfloat16(cells.LSTM())
needs_kernels = pytest.mark.skipif(not NATIVE, reason="this processor has no AVX512-BF16")


def layer_of(kind: str, **options: Any) -> Any:
    torch.manual_seed(3)
    return getattr(openlstm, kind)(I, H, num_layers=2, bidirectional=True, **options)


def series(*size: int) -> Tensor:
    return torch.randn(*(size or (T, B, I)), generator=torch.Generator().manual_seed(5))


def narrow() -> Any:
    return torch.autocast("cpu", dtype=torch.bfloat16)


def states(found: Any) -> list[Tensor]:
    return list(found) if isinstance(found, tuple) else [found]


def error(a: Any, b: Any) -> float:
    a, b = a.detach().float(), b.detach().float()
    return float((a - b).norm() / b.norm())


@KINDS
def test_types_under_autocast_are_those_of_torch(kind: str) -> None:
    """As in torch.nn outputs have autocast's type; states stay float32, so that a sequence may be cut."""
    layer = layer_of(kind)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            y, hx = layer(series())
        assert y.dtype == dtype and {s.dtype for s in states(hx)} == {torch.float32}
        y.float().sum().backward()
        assert {p.grad.dtype for p in layer.parameters()} == {torch.float32}
    y, _ = layer.double()(series().double())
    with narrow():
        assert torch.equal(layer(series().double())[0], y)  # autocast leaves float64 alone


@KINDS
def test_a_layer_in_bfloat16_gives_bfloat16(kind: str) -> None:
    layer = layer_of(kind).bfloat16()
    x = series().bfloat16().requires_grad_()
    y, hx = layer(x)
    y.float().sum().backward()
    grads = [p.grad for p in (x, *layer.parameters())]
    assert {a.dtype for a in (y, *states(hx), *grads) if a is not None} == {torch.bfloat16} and all(
        g is not None for g in grads
    )


@KINDS
@pytest.mark.parametrize("where", ["autocast", "dtype"])
def test_outputs_and_gradients_are_near_those_of_float32(kind: str, where: str) -> None:
    wide = layer_of(kind)
    layer = copy.deepcopy(wide) if where == "autocast" else copy.deepcopy(wide).bfloat16()
    x, z = series().requires_grad_(), series().requires_grad_()
    weigh = torch.randn(T, B, 2 * H)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=where == "autocast"):
        y, _ = layer(x if where == "autocast" else x.bfloat16())
    expected, _ = wide(z)
    assert error(y, expected) < 0.02
    (y.float() * weigh).sum().backward()
    (expected * weigh).sum().backward()
    assert error(x.grad, z.grad) < 0.02
    for (name, p), q in zip(layer.named_parameters(), wide.parameters(), strict=True):
        assert error(p.grad, q.grad) < 0.03, name


@needs_kernels
def test_the_kernels_are_those_for_bfloat16() -> None:
    """Where products are exact in bfloat16 and not in float32 the numbers differ from those of float32, and only a little."""
    layer = openlstm.LSTM(I, H)
    with narrow():
        y, _ = layer(series())
        with native.use_isa("avx2"):
            once, _ = layer(series())
    assert torch.equal(once, layer(series())[0].bfloat16())  # float32 throughout, rounded once
    assert not torch.equal(y, once) and error(y, once) < 0.02


@KINDS
def test_the_same_numbers_with_and_without_gradients_and_for_every_cut(kind: str) -> None:
    layer = getattr(openlstm, kind)(I, H)
    with narrow():
        y, hx = layer(series())
        with torch.no_grad():
            z, _ = layer(series())
            first, carried = layer(series()[:4])
            second, last = layer(series()[4:], carried)
    assert torch.equal(y, z) and torch.equal(torch.cat([first, second]), y)
    assert all(torch.equal(a, b) for a, b in zip(states(last), states(hx), strict=True))


def test_ragged_batches_resets_and_packed_sequences_give_the_same_bits() -> None:
    layer, x = openlstm.LSTM(I, H), series()
    lengths, reset = torch.tensor([9, 4, 1, 6]), torch.rand(T, B, generator=torch.Generator().manual_seed(1)) < 0.3
    with narrow():
        y, (h, c) = layer(x, lengths=lengths, reset=reset)
        for b, n in enumerate(lengths.tolist()):
            alone, (hb, cb) = layer(x[:n, b : b + 1], reset=reset[:n, b : b + 1])
            assert torch.equal(y[:n, b], alone[:, 0]) and not y[n:, b].any()
            assert torch.equal(h[:, b], hb[:, 0]) and torch.equal(c[:, b], cb[:, 0])
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        out, _ = layer(packed)
    assert out.data.dtype == torch.bfloat16
    with narrow():
        assert torch.equal(nn.utils.rnn.pad_packed_sequence(out)[0], layer(x, lengths=lengths)[0])


def test_checkpoints_have_the_same_bits() -> None:
    torch.manual_seed(0)
    whole = openlstm.LSTM(I, H)
    less = openlstm.LSTM(I, H, checkpoint=2)
    less.load_state_dict(whole.state_dict())
    x = torch.randn(60, 100, I)
    for layer in (whole, less):
        with narrow():
            layer(x)[0].float().square().sum().backward()
    for p, q in zip(whole.parameters(), less.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None and torch.equal(p.grad, q.grad)


@KINDS
@pytest.mark.parametrize("where", ["autocast", "dtype"])
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own
def test_a_compiled_graph_gives_the_same_numbers(kind: str, where: str) -> None:
    torch._dynamo.reset()  # it compiles a function eight times in a process
    layer, x = layer_of(kind), series()
    if where == "dtype":
        layer, x = layer.bfloat16(), x.bfloat16()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=where == "autocast"):
        y, z = compiled(x)[0], layer(x)[0]
    assert y.dtype == torch.bfloat16 and torch.equal(y, z)
    if NATIVE:
        with native.use_isa("avx2"), torch.autocast("cpu", dtype=torch.bfloat16, enabled=where == "autocast"):
            assert not torch.equal(y, layer(x)[0])  # the graph holds the products in bfloat16
    found = torch.autograd.grad(y.float().square().sum(), list(layer.parameters()))
    wanted = torch.autograd.grad(z.float().square().sum(), list(layer.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@needs_kernels
@pytest.mark.parametrize("where", ["autocast", "dtype"])
def test_second_derivatives_and_torch_func_work(where: str) -> None:
    wide = openlstm.LSTM(I, H)
    layer = copy.deepcopy(wide) if where == "autocast" else copy.deepcopy(wide).bfloat16()

    def twice(layer: Any, x: Tensor) -> Tensor:
        x = x.requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=layer is not wide and where == "autocast"):
            y, _ = layer(x)
        (g,) = torch.autograd.grad(y.float().square().sum(), x, create_graph=True)
        return torch.autograd.grad(g.float().square().sum(), x)[0]

    x = series() if where == "autocast" else series().bfloat16()
    assert error(twice(layer, x), twice(wide, series())) < 0.05
    if where == "dtype":
        each = torch.func.vmap(lambda v: layer(v)[0])(torch.stack([x.detach(), 2 * x.detach()]))
        assert torch.equal(each[1], layer(2 * x.detach())[0])


def test_a_single_step_under_autocast_stays_float32() -> None:
    """With one row's step nothing is won; h and c are handed from call to call."""
    cell, x = openlstm.LSTMCell(I, H), series(B, I)
    h, c = cell(x)
    with narrow():
        found = cell(x)
        with torch.no_grad():
            quick = cell(x)
    assert torch.equal(found[0], h) and torch.equal(found[1], c) and torch.equal(quick[0], h)


@KINDS
def test_mixed_types_are_refused_with_the_way_out(kind: str) -> None:
    layer, x = getattr(openlstm, kind)(I, H).bfloat16(), series().bfloat16()
    h = torch.zeros(1, B, H)
    with pytest.raises(DtypeError, match=r"hx.*differs.*\n.*float32.*\n.*bfloat16.*\n.*autocast"):
        layer(x, (h, h) if kind == "LSTM" else h)
    with pytest.raises(DtypeError, match="x is float32, the weights are bfloat16"):
        layer(series())
    with pytest.raises(DtypeError, match="x is bfloat16, the weights are float32"):
        getattr(openlstm, kind)(I, H)(x)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex64, torch.int8])
def test_a_type_that_nothing_runs_is_refused_with_those_that_run(dtype: torch.dtype) -> None:
    layer = openlstm.LSTM(I, H)
    for p in layer.parameters():
        p.requires_grad_(False)
        p.data = torch.zeros(p.shape).to(dtype)
    with pytest.raises(DtypeError, match="float32, float64, bfloat16 or float16"):
        layer(torch.zeros(T, B, I).to(dtype))
    with pytest.raises(DtypeError, match="float32, float64, bfloat16 or float16"):
        openlstm.GRU(I, H, dtype=dtype)


@pytest.mark.parametrize("narrowed", ["weight_ih_l0", "weight_hh_l0", "weight_hr_l0", "weight_ih_l0 weight_hr_l0"])
def test_matrices_may_have_either_type(narrowed: str) -> None:
    """A parametrisation that multiplies gives autocast's type for one of them."""
    torch.manual_seed(0)
    layer = openlstm.LSTM(I, H, proj_size=7)
    wide = copy.deepcopy(layer)

    class Narrow(nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return w.bfloat16() if torch.is_autocast_enabled("cpu") else w

    for name in narrowed.split():
        nn.utils.parametrize.register_parametrization(layer, name, Narrow())
    with narrow():
        y, _ = layer(series())
    assert error(y, wide(series())[0]) < 0.02
    y.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@KINDS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_trace_under_autocast(kind: str, dtype: torch.dtype) -> None:
    layer = layer_of(kind)

    def loss(y: Tensor, state: Any) -> Tensor:
        return y.float().square().sum()

    wide = openlstm.trace(layer, series(), loss=loss)
    with torch.autocast("cpu", dtype=dtype):
        found = openlstm.trace(layer, series(), loss=loss)
    for name in wide:
        assert error(found[name], wide[name]) < 0.03, name


@KINDS
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_backward_pass_may_run_inside_the_block(kind: str, backend: str) -> None:
    """As torch advises against, and many do."""
    layer, weigh = getattr(openlstm, kind)(I, H, backend=backend), torch.randn(T, B, H)
    grads = []
    for inside in (True, False):
        x = series().requires_grad_()
        with narrow():
            total = (layer(x)[0] * weigh).sum()
            found = torch.autograd.grad(total, [x, *layer.parameters()]) if inside else None
        grads.append(found or torch.autograd.grad(total, [x, *layer.parameters()]))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_step_of_the_reference_stays_float32_too(backend: str) -> None:
    cell, x = openlstm.GRUCell(I, H, backend=backend), series(B, I)
    with narrow():
        found = cell(x)
    assert torch.equal(found, cell(x))


@needs_kernels
def test_an_exported_graph_runs_where_there_are_no_such_kernels() -> None:
    layer, x = openlstm.LSTM(I, H).bfloat16(), series().bfloat16()
    with torch.no_grad():
        program = torch.export.export(layer, (x,)).module()
        y, (h, c) = program(x)
        assert torch.equal(y, layer(x)[0])
        with native.use_isa("avx2"):
            y, (h, c) = program(x)
            assert error(y, layer(x)[0]) < 0.01 and {a.dtype for a in (y, h, c)} == {torch.bfloat16}


@needs_kernels
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own
def test_a_compiled_training_step_runs_where_there_are_no_such_kernels() -> None:
    torch._dynamo.reset()
    layer, x = openlstm.LSTM(I, H), series()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    grads = []
    for isa in ("avx512", "avx2"):
        with native.use_isa(isa), narrow():
            y = compiled(x)[0]
            grads.append(torch.autograd.grad(y.float().square().sum(), list(layer.parameters())))
    assert all(error(a, b) < 0.03 and a.dtype == torch.float32 for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("rows", [2, 600])
def test_outputs_may_be_written_to_in_place(rows: int) -> None:
    """Small and large ones: memory of the engine's own is no view to autograd."""
    layer, factor = openlstm.LSTM(I, H), nn.Parameter(torch.ones(H))
    with torch.no_grad(), narrow():
        y, _ = layer(series(T, rows, I))
    assert not y._is_view()
    y.mul_(factor)
    assert y.requires_grad


def test_no_sequence_at_all_has_the_type_of_some() -> None:
    layer = openlstm.LSTM(I, H)
    with narrow():
        assert layer(torch.zeros(0, I), cu_seqlens=torch.tensor([0]))[0].dtype == torch.bfloat16


def test_a_locked_mask_scales_by_what_it_says() -> None:
    """1/(1-p) in bfloat16 is off by 2^-9; the mask multiplies states, which are float32."""
    layer = openlstm.LSTM(I, H, hidden_dropout=0.1).bfloat16()
    hidden: Any = layer._noise(series().bfloat16(), 0, 0).hidden
    assert hidden.dtype == torch.float32 and float(hidden.max()) == float(torch.tensor(1 / 0.9))


def test_check_finite_looks_at_what_was_given() -> None:
    layer, x = openlstm.LSTM(I, H, check_finite=True), series()
    x[3, 1, 2] = 3.4e38  # infinity in bfloat16
    with narrow():
        layer(x)
    x[3, 1, 2] = float("inf")
    with narrow(), pytest.raises(ArgumentError, match="x holds inf at step 3, row 1, feature 2"):
        layer(x)
