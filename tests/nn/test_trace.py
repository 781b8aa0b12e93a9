"""`trace` shows what ran: gates and states against a loop written by hand, per-step gradients against autograd on it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.nn.twins import BACKENDS, states, twins
from torch import Tensor, nn

import openlstm
from openlstm.errors import ArgumentError

T, B, I, H = 6, 3, 4, 5
EACH = pytest.mark.parametrize("backend", BACKENDS)
LENGTHS = [6, 2, 4]
RESET = torch.zeros(T, B, dtype=torch.bool)
RESET[3, 0] = RESET[1, 1] = RESET[2, 2] = True


def series() -> Tensor:
    torch.manual_seed(4)
    return torch.randn(T, B, I, dtype=torch.float64)


def by_hand(layer: Any, x: Tensor, hx: Any, reverse: bool, lengths: list[int], reset: Tensor) -> dict[str, list[list[Any]]]:
    """One layer in one direction as a loop over rows and steps; every h_t and c_t is a tensor of its own, for autograd.

    out[name][row][t]; None past the row's end.
    """
    w_ih, w_hh, b_ih, b_hh = layer.weights_of(0, int(reverse))[:4]
    names = ("i", "f", "g", "o", "c", "h") if layer.cell.has_cell else ("h",)
    out: dict[str, list[list[Any]]] = {name: [[None] * T for _ in range(B)] for name in names}
    for b in range(B):
        h = (hx[0] if layer.cell.has_cell else hx)[int(reverse), b]
        c = hx[1][int(reverse), b] if layer.cell.has_cell else None
        steps = range(lengths[b])
        for t in reversed(steps) if reverse else steps:
            at = t + 1 if reverse else t  # a reset lies between t-1 and t
            if at < lengths[b] and bool(reset[at, b]):
                h, c = torch.zeros_like(h), None if c is None else torch.zeros_like(c)
            z = w_ih @ x[t, b] + b_ih + w_hh @ h + b_hh
            if c is None:
                h = torch.tanh(z)
                values = (h,)
            else:
                i, f, g, o = z.chunk(4)
                i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
                c = f * c + i * g
                h = o * c.tanh()
                values = (i, f, g, o, c, h)
            for name, value in zip(names, values, strict=True):
                out[name][b][t] = value
    return out


def weighed(y: Tensor, state: Any) -> Tensor:
    """A loss that looks at every output and at both final states, each with its own weight."""
    flat = [y, *([state] if isinstance(state, Tensor) else state)]
    return sum((a * torch.linspace(-1, 2, a.numel(), dtype=a.dtype).view(a.shape)).sin().sum() for a in flat)  # type: ignore[return-value]


@EACH
@pytest.mark.parametrize("ragged", [False, True], ids=["plain", "ragged-with-resets"])
@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_gates_states_and_gradients_are_those_of_a_loop(kind: str, ragged: bool, backend: str) -> None:
    layer, _ = twins(kind, I, H, bidirectional=True, backend=backend)
    x, hx = series(), states(layer, B)
    call: dict[str, Any] = {"lengths": LENGTHS, "reset": RESET} if ragged else {}
    trace = openlstm.trace(layer, x, hx, **call, loss=weighed)

    lengths, reset = (LENGTHS, RESET) if ragged else ([T] * B, torch.zeros(T, B, dtype=torch.bool))
    loops = [by_hand(layer, x, hx, reverse, lengths, reset) for reverse in (False, True)]
    zero = torch.zeros(H, dtype=torch.float64)
    y = torch.stack(
        [torch.stack([torch.cat([_or(loop["h"][b][t], zero) for loop in loops]) for b in range(B)]) for t in range(T)]
    )
    ends = [
        torch.stack([torch.stack([loops[d][n][b][(lengths[b] - 1) * (1 - d)] for b in range(B)]) for d in (0, 1)])
        for n in (("h", "c") if kind == "LSTM" else ("h",))
    ]
    loss = weighed(y, tuple(ends) if kind == "LSTM" else ends[0])
    assert torch.allclose(trace.y, y, rtol=1e-11)
    assert trace.loss is not None and torch.allclose(trace.loss, loss, rtol=1e-11)
    for place, loop in zip(("0", "0_reverse"), loops, strict=True):
        for name in loop:
            shown = trace[f"{place}.{name}"]
            assert shown.shape == (T, B, H) and not shown.requires_grad
            for b in range(B):
                for t in range(T):
                    assert torch.allclose(shown[t, b], _or(loop[name][b][t], zero), rtol=1e-11, atol=1e-13), (name, t, b)
    for place, loop, reverse in (("0", loops[0], False), ("0_reverse", loops[1], True)):
        _check_gradients(trace, place, layer, x, hx, loop, loss, reverse, lengths, reset)


def _check_gradients(
    trace: Any, place: str, layer: Any, x: Tensor, hx: Any, loop: Any, loss: Tensor, reverse: bool, lengths: Any, reset: Any
) -> None:
    """dL/dh_t is autograd's; dL/dc_t is what flows along the highway: autograd's without the path through h_t itself."""
    for b in range(B):
        for t in range(lengths[b]):
            h = loop["h"][b][t]
            (dh,) = torch.autograd.grad(loss, h, retain_graph=True)
            assert torch.allclose(trace[f"{place}.dh"][t, b], dh, rtol=1e-9, atol=1e-12), (place, t, b)
            if "c" not in loop:
                continue
            c, o = loop["c"][b][t], loop["o"][b][t]
            (whole,) = torch.autograd.grad(loss, c, retain_graph=True)
            highway = whole - dh * o * (1 - c.tanh() ** 2)
            assert torch.allclose(trace[f"{place}.dc"][t, b], highway, rtol=1e-9, atol=1e-12), (place, t, b)
        assert not trace[f"{place}.dh"][lengths[b] :, b].any()


def _or(value: Any, zero: Tensor) -> Tensor:
    return zero if value is None else value


@EACH
def test_gradients_reach_the_lower_layer_through_the_upper_one(backend: str) -> None:
    """dL/dh_t of layer 0 includes what layer 1 makes of it: against a run where h of layer 0 is a leaf."""
    layer, _ = twins("LSTM", I, H, num_layers=2, backend=backend)
    x = series()
    trace = openlstm.trace(layer, x, loss=weighed)
    upper = openlstm.LSTM(H, H, dtype=torch.float64)
    for name, p in layer.named_parameters():
        if name.endswith("_l1"):
            setattr(upper, name.replace("_l1", "_l0"), p)
    h = trace["0.h"].clone().requires_grad_()
    y, (hn, cn) = upper(h)
    ends = torch.stack([trace.state[0][0], hn[0]]), torch.stack([trace.state[1][0], cn[0]])
    (down,) = torch.autograd.grad(weighed(y, ends), h)
    # what flows into h_t from later steps of layer 0 comes on top; at the last step only the final state does
    weight = torch.autograd.functional.jacobian(lambda s: weighed(trace.y, (s, trace.state[1])), trace.state[0])
    assert torch.allclose(trace["0.dh"][-1], down[-1] + weight[0], rtol=1e-9)
    weight = torch.autograd.functional.jacobian(lambda s: weighed(trace.y, (trace.state[0], s)), trace.state[1])
    assert torch.allclose(trace["0.dc"][-1], weight[0], rtol=1e-9)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_layer_of_torch_is_traced_as_it_is(kind: str, frozen: bool) -> None:
    ours, theirs = twins(kind, I, H, num_layers=2, bidirectional=True, batch_first=True)
    theirs.requires_grad_(not frozen)
    x = series().transpose(0, 1)
    a, b = openlstm.trace(ours, x, loss=weighed), openlstm.trace(theirs, x, loss=weighed)
    assert list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)
    assert torch.allclose(b.y, theirs(x)[0], rtol=1e-11)
    assert all(p.grad is None for p in theirs.parameters())
    assert a["1_reverse.h"].shape == (B, T, H)
    assert torch.equal(torch.cat([a["1.h"], a["1_reverse.h"]], -1), a.y)


def test_a_trace_has_names_shapes_and_a_repr() -> None:
    layer = openlstm.LSTM(I, H, num_layers=2, proj_size=2, dtype=torch.float64)
    x = series()
    trace = openlstm.trace(layer, x)
    assert list(trace) == [f"{k}.{name}" for k in (0, 1) for name in "ifgoch"]
    assert trace["0.c"].shape == (T, B, H) and trace["0.h"].shape == (T, B, 2) and len(trace) == 12
    assert trace.loss is None and trace.state[0].shape == (2, B, 2)
    assert torch.equal(trace.layer(1)["h"], trace.y)
    assert list(openlstm.trace(openlstm.RNN(I, H), x.float()[:, 0])) == ["0.h"]
    assert openlstm.trace(layer, x[:, 0])["1.f"].shape == (T, H)
    assert repr(openlstm.trace(openlstm.LSTM(I, H), x.float(), loss=lambda y, s: y.sum())) == (
        "Trace of LSTM(4, 5)\n  0          [6, 3, 5] float32  i f g o c h dh dc"
    )


def test_a_trace_of_a_packed_sequence_is_shown_padded() -> None:
    layer, _ = twins("LSTM", I, H)
    packed = nn.utils.rnn.pack_padded_sequence(series(), torch.tensor(LENGTHS), enforce_sorted=False)
    a, b = openlstm.trace(layer, packed), openlstm.trace(layer, series(), lengths=LENGTHS)
    assert all(torch.equal(a[name], b[name]) for name in b)


def test_a_differentiable_trace_has_the_same_numbers_and_gradients() -> None:
    """A loss on gates, and on per-step gradients."""
    layer, _ = twins("LSTM", I, H)
    x = series()
    plain, open_ = openlstm.trace(layer, x, loss=weighed), openlstm.trace(layer, x, loss=weighed, differentiable=True)
    assert all(torch.allclose(plain[name], open_[name], rtol=1e-10, atol=1e-13) for name in plain)
    (g,) = torch.autograd.grad(open_["0.f"].mean(), layer.weight_ih_l0, retain_graph=True)
    loop = by_hand(layer, x, torch.zeros(2, 1, B, H, dtype=torch.float64), False, [T] * B, torch.zeros(T, B))
    (wanted,) = torch.autograd.grad(torch.stack([f for row in loop["f"] for f in row]).mean(), layer.weight_ih_l0)
    assert torch.allclose(g, wanted, rtol=1e-9, atol=1e-13)
    size = layer.weight_hh_l0.new_tensor(1e-6)
    (g,) = torch.autograd.grad(open_["0.dc"][0].square().sum(), layer.weight_hh_l0)
    for at in ((0, 0), (7, 3)):
        sums = []
        for sign in (1, -1):
            with torch.no_grad():
                layer.weight_hh_l0[at] += sign * size
            sums.append(openlstm.trace(layer, x, loss=weighed)["0.dc"][0].square().sum())
            with torch.no_grad():
                layer.weight_hh_l0[at] -= sign * size
        assert torch.allclose(g[at], (sums[0] - sums[1]) / (2 * size), rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_trace_of_half_types_holds_what_the_kernel_kept(dtype: torch.dtype) -> None:
    layer = openlstm.LSTM(I, H).to(dtype)
    trace = openlstm.trace(layer, series().to(dtype), loss=lambda y, s: y.float().sum())
    assert trace["0.f"].dtype == torch.float32 and trace.y.dtype == dtype
    assert torch.allclose(trace["0.h"].float(), trace["0.o"] * trace["0.c"].tanh(), atol=4e-3)


REFUSALS = [
    pytest.param(
        lambda: openlstm.trace(nn.Sequential(nn.Linear(2, 2), nn.LSTMCell(2, 2)), series()),
        ArgumentError,
        "trace: no recurrent layer in the model\n"
        "  got       Sequential with Linear, LSTMCell\n"
        "  expected  LSTM, GRU or RNN of openlstm or torch.nn inside\n"
        "  hint      a cell driven by a loop of your own (LSTMCell) cannot be seen: use the layer instead",
        id="another-layer",
    ),
    pytest.param(
        lambda: openlstm.trace(openlstm.LSTM(I, H).double(), series(), loss=lambda y, s: y),
        ArgumentError,
        "trace: the loss is not a scalar that depends on the layer\n"
        "  got       loss(y, state): float64[6, 3, 5]\n"
        "  expected  a tensor without axes, computed from y or state\n"
        "  hint      end the loss with .sum() or .mean(), without detach() or item()",
        id="no-scalar",
    ),
    pytest.param(
        lambda: openlstm.trace(openlstm.LSTM(I, H).double(), series()).layer(2, reverse=True),
        ArgumentError,
        "Trace.layer: no layer '2_reverse'\n"
        "  got       2_reverse\n"
        "  expected  0\n"
        "  hint      layers count from 0; reverse=True needs bidirectional; path= names a module of a model",
        id="no-such-layer",
    ),
    pytest.param(
        lambda: openlstm.trace(openlstm.LSTM(I, H).double(), series())["0.q"],
        KeyError,
        "\"'0.q'; this trace has 0.i, 0.f, 0.g, 0.o, 0.c, 0.h\"",
        id="no-such-name",
    ),
]


@pytest.mark.parametrize(("call", "kind", "text"), REFUSALS)
def test_a_wrong_trace_is_refused_with_this_text(call: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == text
