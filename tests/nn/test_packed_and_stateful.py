"""Sequences one behind the other, states that resets lead to, masks of any type, and training in chunks with carried state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.nn.twins import BACKENDS, everything, far, is_pair, states, twins
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import openlstm
from openlstm import cells
from openlstm.reference import State

B, T, I, H = 4, 7, 3, 5
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated:DeprecationWarning"
)  # torch's own, in torch.compile
EACH = pytest.mark.parametrize("backend", BACKENDS)
KINDS = pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
LENGTHS = [7, 0, 3, 5]


def series(*shape: int, seed: int = 3) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64)


def resets(seed: int = 4) -> Tensor:
    return torch.rand(T, B, generator=torch.Generator().manual_seed(seed)) < 0.35


def starts(lengths: list[int]) -> Tensor:
    return torch.nn.functional.pad(torch.tensor(lengths, dtype=torch.int64).cumsum(0), (1, 0))


def packed(padded: Tensor, lengths: list[int]) -> Tensor:
    """[T, N, ...] -> [total, ...], one sequence behind the other."""
    return torch.cat([padded[:n, b] for b, n in enumerate(lengths)])


# Packed input


@EACH
@pytest.mark.parametrize("with_resets", [False, True])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=["plain", "deep"])
@KINDS
def test_packed_input_is_the_padded_batch(kind: str, options: dict[str, Any], with_resets: bool, backend: str) -> None:
    layer, _ = twins(kind, I, H, backend=backend, **options)
    x, hx, fresh = series(T, B, I), states(layer, B), states(layer, B, seed=9)
    call: dict[str, Any] = {"reset": resets(), "reset_state": fresh} if with_resets else {}

    def by_cu_seqlens(x: Tensor, hx: Any) -> Any:
        more = {**call, "reset": packed(call["reset"], LENGTHS)} if call else {}
        y, state = layer(packed(x, LENGTHS), hx, cu_seqlens=starts(LENGTHS), **more)
        assert y.shape == (15, layer.num_directions * H)
        parts = y.split(LENGTHS)
        return torch.stack([torch.cat([p, p.new_zeros(T - len(p), p.shape[1])]) for p in parts], 1), state

    assert far(everything(layer, x, hx, run=by_cu_seqlens), everything(layer, x, hx, lengths=LENGTHS, **call), 1e-11) == {}


@EACH
@KINDS
def test_packed_input_is_each_sequence_alone(kind: str, backend: str) -> None:
    """One long among many short, which are run apart from it."""
    layer, _ = twins(kind, I, H, backend=backend, bidirectional=True)
    lengths = [60, *[1 + n % 3 for n in range(40)], 0]
    x = series(sum(lengths), I)
    y, state = layer(x, cu_seqlens=starts(lengths).tolist())
    for n, (piece, found) in enumerate(zip(x.split(lengths), y.split(lengths), strict=True)):
        alone, end = layer(piece)
        assert torch.allclose(found, alone, rtol=1e-12, atol=1e-14)
        for a, b in zip(state if is_pair(layer) else [state], end if is_pair(layer) else [end], strict=True):
            assert torch.allclose(a[:, n], b, rtol=1e-12, atol=1e-14)


def test_packed_input_of_one_length_is_a_batch_where_it_lies() -> None:
    layer, _ = twins("LSTM", I, H, num_layers=2)
    x, hx = series(B * T, I), states(layer, B)
    y, (h, c) = layer(x, hx, cu_seqlens=torch.arange(0, B * T + 1, T, dtype=torch.int32))
    z, (g, d) = layer(x.view(B, T, I).transpose(0, 1), hx)
    assert torch.equal(y.view(B, T, H).transpose(0, 1), z) and torch.equal(h, g) and torch.equal(c, d)


@KINDS
def test_packed_input_without_a_step_or_a_sequence_keeps_shapes_and_states(kind: str) -> None:
    layer, _ = twins(kind, I, H, bidirectional=True)
    hx = states(layer, 3)
    for cu, start in (([0, 0, 0, 0], hx), ([0, 0, 0, 0], None)):
        y, state = layer(torch.zeros(0, I).double(), start, cu_seqlens=cu)
        assert y.shape == (0, 2 * H)
        for a, b in zip(state if is_pair(layer) else [state], (hx if is_pair(layer) else [hx]), strict=True):
            assert torch.equal(a, b if start is not None else torch.zeros_like(b))
    y, state = layer(torch.zeros(0, I).double(), cu_seqlens=[0])
    assert y.shape == (0, 2 * H) and (state[0] if is_pair(layer) else state).shape == (2, 0, H)


def test_packed_input_is_not_mixed_up_with_its_neighbours() -> None:
    """What stands in one sequence, NaN too, changes nothing in another, forward or backward."""
    layer, _ = twins("LSTM", I, H, bidirectional=True)
    lengths = [4, 0, 2, 5]
    x = series(11, I).requires_grad_()
    bad = x.detach().clone()
    bad[4:6] = torch.nan
    bad.requires_grad_()
    (y, _), (z, _) = (layer(a, cu_seqlens=starts(lengths)) for a in (x, bad))
    keep = torch.tensor([*range(4), *range(6, 11)])
    assert torch.equal(y[keep], z[keep]) and z[4:6].isnan().all()
    y[keep].sum().backward()
    z[keep].sum().backward()
    assert x.grad is not None and bad.grad is not None and torch.equal(x.grad[keep], bad.grad[keep])


# States that resets lead to


@EACH
@pytest.mark.parametrize("form", ["batch", "batch first", "single", "packed"])
@KINDS
def test_a_learned_state_is_used_for_all_rows_and_gets_its_gradient(kind: str, form: str, backend: str) -> None:
    """[L*D, R], one parameter for the layer: as the same state for every row, and its gradient is the sum over rows."""
    layer, _ = twins(kind, I, H, 2, backend=backend, bidirectional=True, batch_first=form == "batch first")
    x, reset, call = series(T, B, I), resets(), {}
    given: Any = x
    if form == "batch first":
        given, reset = x.transpose(0, 1), reset.T
    elif form == "single":
        given, reset = x[:, 0], reset[:, 0]
    elif form == "packed":
        given = pack_padded_sequence(x, torch.tensor([3, 7, 5, 1]), enforce_sorted=False)
    learned = [s.requires_grad_() for s in _parts(layer, states(layer, None))]
    rows = None if form == "single" else B
    spread = [s.detach() if rows is None else s.detach().unsqueeze(1).repeat(1, B, 1) for s in learned]
    spread = [s.requires_grad_() for s in spread]
    outs = []
    for fresh in (learned, spread):
        y, _ = layer(given, reset=reset, reset_state=_as(layer, fresh), **call)
        y = y.data if form == "packed" else y
        y.square().sum().backward()
        outs.append(y)
    assert torch.equal(*outs)
    for a, b in zip(learned, spread, strict=True):
        assert a.grad is not None and b.grad is not None and float(a.grad.norm()) > 0
        assert torch.allclose(a.grad, b.grad if rows is None else b.grad.sum(1), rtol=1e-11)


def _parts(layer: Any, state: Any) -> list[Tensor]:
    return list(state) if is_pair(layer) else [state]


def _as(layer: Any, parts: Any) -> Any:
    return tuple(parts) if is_pair(layer) else parts[0]


def stepwise(layer: Any, seed: int = 8) -> list[Tensor]:
    """A state for every layer, direction, step and row."""
    torch.manual_seed(seed)
    rows = layer.num_layers * layer.num_directions
    return [torch.randn(rows, T, B, H, dtype=torch.float64) for _ in range(1 + is_pair(layer))]


def by_hand(layer: Any, x: Tensor, hx: list[Tensor], reset: Tensor, fresh: list[Tensor], lengths: Any = None) -> Tensor:
    """Every step alone: before step t the state of a row is what `fresh` holds there, if it is reset there."""
    for k in range(layer.num_layers):
        sides = []
        for d in range(layer.num_directions):
            n = layer.num_directions * k + d
            columns = []
            for b in range(B):
                end = T if lengths is None else lengths[b]
                state = State(*(s[n, b : b + 1] for s in hx))
                ys = [torch.zeros(1, H, dtype=x.dtype)] * T
                for t in reversed(range(end)) if d else range(end):
                    at = t + d
                    if at < end and bool(reset[at, b]):
                        state = State(*(s[n, at, b : b + 1] for s in fresh))
                    state, _ = openlstm.cells and _step(layer, x[t, b : b + 1], state, k, d)
                    ys[t] = state.h
                columns.append(torch.cat(ys))
            sides.append(torch.stack(columns, 1))
        x = torch.cat(sides, -1)
    return x


def _step(layer: Any, x: Tensor, state: State, k: int, d: int) -> Any:
    from openlstm import reference

    return reference.step(layer.cell, x, state, layer.weights_of(k, d))


@EACH
@pytest.mark.parametrize("lengths", [None, LENGTHS])
@KINDS
def test_every_reset_may_have_a_state_of_its_own(kind: str, lengths: Any, backend: str) -> None:
    layer, _ = twins(kind, I, H, 2, backend=backend, bidirectional=True)
    x, hx, fresh = series(T, B, I), _parts(layer, states(layer, B)), stepwise(layer)
    results = []
    for run in (by_hand, _by_layer):
        leaves = [t.detach().clone().requires_grad_() for t in (x, *hx, *fresh)]
        n = len(hx)
        layer.zero_grad()
        y = run(layer, leaves[0], leaves[1 : 1 + n], resets(), leaves[1 + n :], lengths)
        torch.manual_seed(6)
        y.backward(torch.randn(y.shape, dtype=y.dtype))
        named = {f"leaf{k}": leaf.grad for k, leaf in enumerate(leaves)} | {m: p.grad for m, p in layer.named_parameters()}
        results.append({"y": y.detach(), **named})
    assert far(results[1], results[0], 1e-11) == {}
    unread = ~resets()[None, ..., None].expand_as(fresh[0])
    assert not results[1]["leaf3" if is_pair(layer) else "leaf2"][
        unread
    ].any()  # what stands where nothing is reset is not read


def _by_layer(layer: Any, x: Tensor, hx: Any, reset: Tensor, fresh: Any, lengths: Any) -> Tensor:
    return layer(x, _as(layer, hx), lengths=lengths, reset=reset, reset_state=_as(layer, fresh))[0]


@pytest.mark.parametrize("form", ["batch first", "packed", "single"])
def test_a_state_for_every_reset_follows_the_form_of_x(form: str) -> None:
    layer, _ = twins("LSTM", I, H, bidirectional=True, batch_first=form == "batch first")
    plain, _ = twins("LSTM", I, H, bidirectional=True)
    x, reset, fresh = series(T, B, I), resets(), stepwise(layer)
    if form == "single":
        y, _ = layer(x[:, 1], reset=reset[:, 1], reset_state=tuple(s[:, :, 1] for s in fresh))
        assert torch.allclose(y, plain(x, reset=reset, reset_state=tuple(fresh))[0][:, 1], rtol=1e-12)
    elif form == "batch first":
        turned = tuple(s.transpose(1, 2) for s in fresh)
        y, _ = layer(x.transpose(0, 1), reset=reset.T, reset_state=turned)
        assert torch.equal(y.transpose(0, 1), plain(x, reset=reset, reset_state=tuple(fresh))[0])
    else:
        lengths = [3, 7, 5, 1]
        there = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
        y, _ = layer(there, reset=reset, reset_state=tuple(fresh))
        z, _ = plain(x, lengths=lengths, reset=reset, reset_state=tuple(fresh))
        assert torch.allclose(pad_packed_sequence(y)[0], z, rtol=1e-12)


def test_a_state_for_every_reset_compiles_in_one_graph() -> None:
    layer, _ = twins("GRU", I, H, 2, bidirectional=True)
    x, reset, (fresh,) = series(T, B, I), resets(), stepwise(layer)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, hx: layer(x, hx, reset=reset, reset_state=fresh), fullgraph=True, backend="aot_eager")
    plain = everything(layer, x, states(layer, B), reset=reset, reset_state=fresh)
    assert far(everything(layer, x, states(layer, B), run=compiled), plain, 1e-13) == {}


@EACH
def test_derivatives_of_a_state_for_every_reset_are_right(backend: str) -> None:
    layer, _ = twins("LSTM", 2, 2, backend=backend)
    x, reset = series(3, 2, 2), torch.tensor([[False, True], [True, False], [False, True]])

    def run(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        y, state = layer(x, lengths=[3, 2], reset=reset, reset_state=(h, c))
        return y, *state

    values = [x, series(1, 3, 2, 2, seed=5), series(1, 3, 2, 2, seed=6)]
    assert gradcheck(run, [v.requires_grad_() for v in values])
    assert torch.autograd.gradgradcheck(run, values)


def test_a_trace_takes_a_state_for_every_reset() -> None:
    layer, _ = twins("LSTM", I, H, bidirectional=True)
    x, fresh = series(T, B, I), stepwise(layer)
    call: Any = {"lengths": LENGTHS, "reset": resets(), "reset_state": tuple(fresh)}
    plain, graph = (
        openlstm.trace(layer, x, loss=lambda y, s: y.square().sum(), differentiable=d, **call) for d in (False, True)
    )
    assert far(dict(plain), {name: a.detach() for name, a in graph.items()}, 1e-11) == {}
    at = int(torch.nonzero(resets()[1:7, 0])[0]) + 1  # the first reset of row 0, which runs to the end
    f, i, g = (plain[f"0.{name}"][at, 0] for name in "fig")
    assert torch.allclose(plain["0.c"][at, 0], f * fresh[1][0, at, 0] + i * g, rtol=1e-12)


# Masks


@pytest.mark.parametrize("make", [Tensor.bool, lambda m: m.to(torch.uint8), Tensor.float, Tensor.double, Tensor.half])
@KINDS
def test_a_mask_of_any_type_means_the_same(kind: str, make: Any) -> None:
    layer, _ = twins(kind, I, H, bidirectional=True)
    x, reset = series(T, B, I), resets()
    assert torch.equal(layer(x, reset=make(reset))[0], layer(x, reset=reset)[0])
    assert torch.equal(
        layer(packed(x, LENGTHS), reset=make(packed(reset, LENGTHS)), cu_seqlens=starts(LENGTHS))[0],
        layer(packed(x, LENGTHS), reset=packed(reset, LENGTHS), cu_seqlens=starts(LENGTHS))[0],
    )


# Truncated backpropagation through time


@EACH
@pytest.mark.parametrize("cell", [cells.LSTM(), cells.Peephole(), cells.GRU()], ids=lambda c: c.name)
def test_training_in_chunks_carries_the_state(cell: cells.Cell, backend: str) -> None:
    """The state goes on, the gradient ends at the chunk: as a loop that detaches by hand between the same steps."""
    kind: Any = openlstm.LSTM if cell.has_cell else openlstm.GRU
    torch.manual_seed(0)
    ours = kind(I, H, 2, cell=cell, backend=backend, dtype=torch.float64)
    torch.manual_seed(0)
    manual = kind(I, H, 2, cell=cell, backend="reference", dtype=torch.float64)
    long, target = series(20, B, I), series(20, B, H, seed=5)
    grads = []
    for layer, step_by_step in ((ours, False), (manual, True)):
        state: Any = None
        optimiser = torch.optim.SGD(layer.parameters(), 0.05)
        seen = []
        for x, wanted in zip(long.split(6), target.split(6), strict=True):
            state = None if state is None else tuple(s.detach() for s in _parts(layer, state))
            state = state if state is None or is_pair(layer) else state[0]
            if step_by_step:
                ys = []
                for x_t in x:
                    y, state = layer(x_t.unsqueeze(0), state)
                    ys.append(y)
                y = torch.cat(ys)
            else:
                y, state = layer(x, state)
            optimiser.zero_grad()
            (y - wanted).square().mean().backward()
            optimiser.step()
            seen.append(torch.cat([p.grad.reshape(-1) for p in layer.parameters()]))
        grads.append(torch.stack(seen))
    assert torch.allclose(grads[0], grads[1], rtol=1e-9, atol=1e-12)
    for p, q in zip(ours.parameters(), manual.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-9, atol=1e-12)
