"""The gradient by lag against automatic differentiation, and what the highway carries of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.insight.places import draw, place_of, planted, seen, switching
from torch import Tensor

import openlstm
from openlstm import cells, reference
from openlstm.call import Call
from openlstm.errors import ArgumentError
from openlstm.insight.capture import capture_layers
from openlstm.insight.measure.state_gradient import state_gradient
from openlstm.reference import State, Weights

CELLS = pytest.mark.parametrize("cell", [*cells.ALL, cells.GRU(memory=True)], ids=repr)


def by_autograd(cell: cells.Cell, x: Tensor, w: Weights, state: State, loss: Any) -> np.ndarray:
    """||dL/ds_{T-k}||, mean over rows, s = (h, c) as independent coordinates: one step of the reference after the other."""
    states, s = [], state
    for t in range(len(x)):
        s = reference.step(cell, x[t], s, w)[0]
        s = State(*(None if a is None else a.detach().requires_grad_() for a in s))
        states.append(s)
    # the graph is cut between steps; the gradients are handed back step by step
    flow = torch.autograd.grad(loss(states[-1]), [a for a in states[-1] if a is not None], materialize_grads=True)
    norms = [sum(g.double().square().sum(1) for g in flow).sqrt().mean()]  # type: ignore[union-attr]
    for t in reversed(range(1, len(x))):
        new = reference.step(cell, x[t], states[t - 1], w)[0]
        ends, begins = [a for a in new if a is not None], [a for a in states[t - 1] if a is not None]
        flow = torch.autograd.grad(ends, begins, flow, materialize_grads=True)
        norms.append(sum(g.double().square().sum(1) for g in flow).sqrt().mean())  # type: ignore[union-attr]
    return torch.stack(norms).double().numpy()  # type: ignore[arg-type]


@CELLS
@pytest.mark.parametrize("reverse", [False, True])
def test_it_equals_autograd(cell: cells.Cell, reverse: bool) -> None:
    x, w, state = draw(cell)
    target = torch.randn_like(state.h)

    def loss(s: State) -> Tensor:
        return (s.h - target).square().sum() + (0 if s.c is None else s.c.sum())

    order = x.flip(0) if reverse else x
    wanted = by_autograd(cell, order, w, state, loss)
    end = reference.forward(Call(cell, order, w, state)).state
    leaf = State(*(None if s is None else s.clone().requires_grad_() for s in end))
    dstate = State(*torch.autograd.grad(loss(leaf), [s for s in leaf if s is not None]))
    found = state_gradient(place_of(cell, x, w, state, dstate=dstate, reverse=reverse))
    np.testing.assert_allclose(found.share, wanted / wanted[0], rtol=1e-5)
    assert found.lags.tolist() == list(range(len(x)))


@pytest.mark.parametrize("cell", [cells.LSTM(), cells.GRU(), cells.VanillaRNN(), cells.Peephole()], ids=repr)
def test_it_equals_autograd_where_hardly_anything_is_left(cell: cells.Cell) -> None:
    """150 steps in float32: shares down to 1e-30 and less, and the tail to one part in 1e5."""
    x, w, state = draw(cell, T=150)
    w = w._replace(w_hh=0.5 * w.w_hh)
    wanted = by_autograd(cell, x, w, state, lambda s: s.h.sum())
    found = state_gradient(place_of(cell, x, w, state, dstate=State(torch.ones_like(state.h), None)))
    np.testing.assert_allclose(found.share, wanted / wanted[0], rtol=1e-5, atol=1e-40)  # float32 ends at 1e-38
    assert found.share[-1] < 1e-3


def test_a_loss_at_the_last_output_is_a_loss_at_the_last_state() -> None:
    x, w, state = draw(cells.LSTM())
    dh = torch.randn_like(state.h)
    dy = torch.zeros(len(x), *state.h.shape)
    dy[-1] = dh
    zero = State(torch.zeros_like(dh), torch.zeros_like(dh))
    a = state_gradient(place_of(cells.LSTM(), x, w, state, dy=dy, dstate=zero))
    b = state_gradient(place_of(cells.LSTM(), x, w, state, dstate=State(dh, None)))
    np.testing.assert_array_equal(a.share, b.share)


def test_of_a_loss_at_every_step_the_last_is_followed() -> None:
    layer, x = openlstm.LSTM(2, 5), torch.randn(17, 3, 2)
    every = state_gradient(seen(layer, x, lambda m, x: m(x)[0].square().sum()))
    last = state_gradient(seen(layer, x, lambda m, x: m(x)[0][-1].square().sum()))
    np.testing.assert_array_equal(every.share, last.share)


def test_lags_count_from_where_the_loss_reads_each_row() -> None:
    layer, x = openlstm.LSTM(2, 5), torch.randn(20, 2, 2)
    found = state_gradient(seen(layer, x, lambda m, x: m(x)[0][9].sum()))
    alone = state_gradient(seen(layer, x[:10], lambda m, x: m(x)[0][9].sum()))
    np.testing.assert_array_equal(found.share, alone.share)


@pytest.mark.parametrize("reverse", [False, True])
def test_rows_of_different_lengths_count_where_they_are(reverse: bool) -> None:
    cell = cells.LSTM()
    x, w, state = draw(cell)
    dh = torch.randn_like(state.h)
    lengths = torch.tensor([13, 4, 0])
    together = state_gradient(place_of(cell, x, w, state, dstate=State(dh, None), lengths=lengths, reverse=reverse))
    sums, first = np.zeros(13), np.zeros(13)
    for b, n in enumerate(lengths.tolist()[:2]):
        row = State(*(s[b : b + 1] for s in state))
        one = place_of(cell, x[:n, b : b + 1], w, row, dstate=State(dh[b : b + 1], None), reverse=reverse)
        base = float(dh[b].norm())
        sums[:n] += state_gradient(one).share * base
        first[:n] += base
    np.testing.assert_allclose(together.share, sums / first, rtol=1e-6)


def test_the_highway_of_planted_gates() -> None:
    x = torch.randn(30, 2, 1)
    kept = state_gradient(seen(planted(i=0.0, f=0.9), x, lambda m, x: m(x)[1][1].sum()))
    np.testing.assert_allclose(kept.share, 0.9 ** np.arange(30), rtol=1e-5)
    np.testing.assert_allclose(kept.highway, 1, rtol=1e-5)  # type: ignore[arg-type]
    forever = state_gradient(seen(planted(i=0.0, f=1.0), x, lambda m, x: m(x)[1][1].sum()))
    assert (forever.share == 1).all() and forever.k10 is None
    afresh = state_gradient(seen(planted(i=1.0, f=0.0), x, lambda m, x: m(x)[1][1].sum()))
    assert afresh.share.tolist() == [1] + [0] * 29 and (afresh.k10, afresh.k1000) == (1, 1)
    assert afresh.highway is not None and np.isfinite(afresh.highway).all()


def test_a_closed_gate_stops_the_gradient() -> None:
    x = torch.ones(12, 1, 1)
    x[7] = -1
    found = state_gradient(seen(switching(), x, lambda m, x: m(x)[1][1].sum()))
    assert found.share.tolist() == [1.0] * 5 + [0.0] * 7  # c_11 .. c_7 hold it, c_6 is erased


def test_the_highway_is_the_whole_way_only_without_the_weights() -> None:
    """With W_hh = 0 the gates are the only way; with it there are others."""
    torch.manual_seed(0)
    layer: Any = openlstm.LSTM(2, 8)
    x = torch.randn(20, 4, 2)

    def loss(m: Any, x: Tensor) -> Tensor:
        return m(x)[0][-1].square().sum()

    part = state_gradient(seen(layer, x, loss)).highway
    with torch.no_grad():
        layer.weight_hh_l0.zero_()
    alone = state_gradient(seen(layer, x, loss)).highway
    assert part is not None and alone is not None
    np.testing.assert_allclose(alone[1:], 1, rtol=1e-5)
    assert alone[0] == 0  # dL/dc_T of a loss that reads h_T alone
    assert (np.abs(part[2:] - 1) > 1e-3).all()


def test_a_gru_has_its_state_as_highway_and_an_rnn_none() -> None:
    x = torch.randn(9, 2, 3)
    gru = openlstm.GRU(3, 4)
    with torch.no_grad():
        for p in gru.parameters():
            p.zero_()
    found = state_gradient(seen(gru, x))
    np.testing.assert_allclose(found.highway, 1, rtol=1e-5)  # type: ignore[arg-type]
    np.testing.assert_allclose(found.share, 0.5 ** np.arange(9), rtol=1e-5)
    assert state_gradient(seen(openlstm.RNN(3, 4), x)).highway is None


def test_a_probe_at_random_is_the_same_each_time_and_leaves_the_random_state_alone() -> None:
    place = seen(openlstm.LSTM(3, 4), torch.randn(9, 2, 3))
    before = torch.get_rng_state()
    a, b = state_gradient(place, "random"), state_gradient(place)
    assert a.probe == b.probe == "random"
    np.testing.assert_array_equal(a.share, b.share)
    assert (torch.get_rng_state() == before).all()
    assert a.share[0] == 1


def test_a_place_that_the_loss_does_not_read() -> None:
    layer = openlstm.LSTM(2, 3, bidirectional=True)
    found = [
        state_gradient(p) for p in capture_layers(layer, torch.randn(8, 2, 2), lambda m, x: m(x)[0][-1, :, :3].sum()).places
    ]
    assert found[0].share[0] == 1
    assert len(found[1].share) == 0
    assert found[1].finding == "0_reverse: no gradient of the loss arrives here."


def test_what_the_last_output_of_the_reverse_direction_has_seen_is_one_step() -> None:
    layer = openlstm.LSTM(2, 3, bidirectional=True)
    found = state_gradient(capture_layers(layer, torch.randn(8, 2, 2), lambda m, x: m(x)[0][-1].sum()).places[1])
    assert found.share.tolist() == [1]


def test_a_long_way_does_not_underflow() -> None:
    """1e-30 squared is no float32."""
    found = state_gradient(seen(planted(i=0.0, f=0.01), torch.zeros(18, 1, 1), lambda m, x: m(x)[1][1].sum()))
    np.testing.assert_allclose(found.share[15], 1e-30, rtol=1e-4)


def test_a_lag_that_no_row_has() -> None:
    found = state_gradient(seen(openlstm.LSTM(2, 3), torch.zeros(5, 1, 2)))
    with pytest.raises(ArgumentError) as error:
        found.at(5)
    assert str(error.value) == (
        "StateGradient.at: no row has 5 steps before its last\n"
        "  got       lag=5\n"
        "  expected  0 .. 4\n"
        "  hint      give longer sequences, or ask for a shorter lag"
    )


def test_an_unknown_probe() -> None:
    with pytest.raises(ArgumentError, match="unknown probe"):
        state_gradient(seen(openlstm.LSTM(2, 3), torch.zeros(5, 1, 2)), "grad")  # type: ignore[arg-type]


def test_findings() -> None:
    x = torch.randn(40, 2, 1)

    def cell(m: Any, x: Tensor) -> Tensor:
        return m(x)[1][1].sum()

    assert state_gradient(seen(planted(0.0, 0.5), x, cell)).finding == (
        "0: a tenth of the gradient is left after 4 steps, a thousandth after 10 steps, 1.8e-12 of it after 39 steps."
    )
    assert (
        state_gradient(seen(planted(0.0, 1.0), x, cell)).finding
        == "0: the gradient reaches all 39 steps back; 1 of it is left there."
    )
