"""Saturation, retention, gradients of weights, stability, units and streaming against planted truths and brute force."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tests.insight.places import draw, place_of, planted, seen, switching
from torch import Tensor

import openlstm
from openlstm import cells, reference
from openlstm.call import Call
from openlstm.engine.run import run
from openlstm.errors import ArgumentError
from openlstm.insight.capture import capture_layers
from openlstm.insight.measure.ablation import Ablation
from openlstm.insight.measure.jacobians import products, step_jacobians
from openlstm.insight.measure.retention import gate_retention, half_life, noted_lags, retention
from openlstm.insight.measure.saturation import saturation
from openlstm.insight.measure.stability import stability
from openlstm.insight.measure.state_gradient import state_gradient
from openlstm.insight.measure.streaming import Streaming, steps_to_send, streaming, trend
from openlstm.insight.measure.unit_activity import UnitActivity, unit_activity
from openlstm.insight.measure.weight_gradient import weight_gradient
from openlstm.insight.place import Place
from openlstm.insight.results import Asked
from openlstm.nn import init
from openlstm.noise import Noise
from openlstm.reference import State

pytestmark = pytest.mark.filterwarnings("ignore:openlstm. Own has no kernel")


class Own(cells.LSTM):
    """A cell of somebody's own."""

    def forward(self, *args: Any, **options: Any) -> cells.Step:
        return super().forward(*args, **options)


EVERY = [*cells.ALL, cells.GRU(memory=True), cells.LSTM(clip=0.5), cells.LSTM(cells_per_gate=3), Own()]
CELLS = pytest.mark.parametrize("cell", EVERY, ids=lambda c: f"{type(c).__name__}{c}")
ROWS = [{}, {"lengths": torch.tensor([13, 4, 0])}, {"reset": torch.eye(13, 3).bool(), "reverse": True}]


def saved_of(place: Any) -> Any:
    """All of a pass at once."""
    with torch.no_grad():
        rows = {n: getattr(place, n) for n in ("lengths", "reset", "reset_state", "reverse", "noise")}
        r = run(Call(place.cell, place.x, place.weights, place.state, save=True, backend="reference", **rows))
    return r.saved


@CELLS
@pytest.mark.parametrize("rows", ROWS, ids=["plain", "ragged", "resets"])
def test_everything_runs_on_every_cell(cell: cells.Cell, rows: dict[str, Any]) -> None:
    x, w, state = draw(cell)
    dstate = State(torch.randn_like(state.h), None)
    place = place_of(cell, x, w, state, dstate=dstate, dy=torch.randn(13, *state.h.shape), **rows)
    bare = isinstance(cell, (cells.VanillaRNN, cells.IndRNN))
    assert (saturation(place) is None) == bool(place.no_gates) == bare
    assert (retention(place) is None) == bool(place.no_highway) == bare
    assert (streaming(place) is None) == place.reverse
    every = [
        state_gradient(place),
        stability(place),
        weight_gradient(place),
        unit_activity(place),
        saturation(place),
        retention(place),
        streaming(place),
    ]
    for found in every:
        if found is not None:
            assert found.finding.startswith("0: ") and found.finding.endswith(".")
            assert found.to_dict()["finding"] == found.finding
    assert abs(weight_gradient(place).share.sum() - 1) < 1e-9
    assert every[0].highway is None or np.isfinite(every[0].highway).all()  # type: ignore[union-attr]


class Weighed(Place):
    """A place that weighs what is held while its chunks are looked at."""

    most = 0

    def _weigh(self, parts: Iterator[Any]) -> Iterator[Any]:
        for k, part in enumerate(parts):
            yield part
            if k % 12 == 11:
                Weighed.most = max(Weighed.most, held())

    def forwards(self, chunk: int = 32) -> Any:
        return self._weigh(super().forwards(chunk)) if chunk > 1 else super().forwards(chunk)

    def again(self, chunk: int = 32) -> Any:
        return self._weigh(super().again(chunk))

    def backwards(self, *args: Any, **options: Any) -> Any:
        return self._weigh(super().backwards(*args, **options))


def held() -> int:
    """Bytes of all tensors that are alive. Those that a compiler left behind have other types, and no memory."""
    gc.collect()
    tensors = (a for a in gc.get_objects() if type(a) in (Tensor, torch.nn.Parameter))
    found = {a.untyped_storage().data_ptr(): a.untyped_storage().nbytes() for a in tensors}
    return sum(found.values())


@pytest.mark.parametrize(
    "measure", [saturation, retention, state_gradient, weight_gradient, stability, unit_activity, streaming]
)
def test_nothing_of_the_size_of_all_steps_is_held(measure: Any) -> None:
    T, B, units = 800, 8, 64
    layer = openlstm.LSTM(2, units)
    place = seen(layer, torch.randn(T, B, 2))
    dstate = State(torch.ones(B, units), None)
    fields = {**place.__dict__, "dstate": dstate}
    Weighed.most, before = 0, held()
    measure(Weighed(**fields))
    assert 0 < Weighed.most - before < 4 * T * B * units, "one array [T, B, H]; a whole pass would be eight"


# saturation


def test_planted_gates_are_counted() -> None:
    found = saturation(seen(planted(i=0.05, f=0.95, o=0.5), torch.zeros(7, 2, 1)))
    assert found is not None and found.gates == ("i", "f", "g", "o") and found.steps == 14
    np.testing.assert_array_equal(found.low[:, 0], [1, 0, 1, 0])  # the candidate is tanh(0)
    np.testing.assert_array_equal(found.high[:, 0], [0, 1, 0, 0])
    np.testing.assert_allclose(found.mean[:, 0], [0.05, 0.95, 0, 0.5], atol=1e-6)
    np.testing.assert_allclose(found.entropy[:, 0], [0.2864, 0.2864, 0, 1], atol=1e-4)
    assert found.histogram[3].tolist() == [0.0] * 10 + [1.0] + [0.0] * 9


@pytest.mark.parametrize("rows", ROWS, ids=["plain", "ragged", "resets"])
def test_saturation_is_the_count_over_real_steps(rows: dict[str, Any]) -> None:
    x, w, state = draw(cells.LSTM())
    place = place_of(cells.LSTM(), 3 * x, w, state, **rows)
    gates, found = saved_of(place).named(place.cell), saturation(place)
    assert found is not None
    real = torch.ones(13, 3, dtype=torch.bool) if place.lengths is None else torch.arange(13)[:, None] < place.lengths
    for k, gate in enumerate(found.gates):
        p = gates[gate][real]
        p = p.abs() if gate == "g" else p
        np.testing.assert_allclose(found.low[k], (p < 0.1).float().mean(0), rtol=1e-6)
        np.testing.assert_allclose(found.high[k], (p > 0.9).float().mean(0), rtol=1e-6)
        np.testing.assert_allclose(found.mean[k], p.mean(0), rtol=1e-5)
        wanted = np.histogram(p.numpy(), 20, (0, 1))[0] / p.numel()
        np.testing.assert_allclose(found.histogram[k], wanted, atol=2 / p.numel())
    assert found.steps == int(real.sum())


def test_saturated_gates_have_advice() -> None:
    found = saturation(seen(planted(i=1.0, f=0.5, o=0.0), torch.zeros(7, 2, 1)))
    assert found is not None
    assert found.finding == (
        "0: on average i = 1.00, f = 0.50, g = 0.00, o = 0.00. Gate i is always open in 100 % of the units: inputs too large, "
        "normalise them. Gate o is always closed in 100 % of the units: they do nothing. Gate f never exceeds 0.9: no long "
        "memory in the gates."
    )
    always_shown = saturation(seen(planted(i=0.5, f=0.95, o=1.0), torch.zeros(7, 2, 1)))
    assert always_shown is not None and always_shown.advice == ""


def test_a_gate_that_saturates_to_exactly_0_or_1_has_no_entropy() -> None:
    found = saturation(seen(planted(i=1.0, f=0.0), torch.zeros(7, 2, 1)))
    assert found is not None and not found.entropy[:3].any()


# retention


@pytest.mark.parametrize(("gate", "steps"), [(0.9, np.log(0.5) / np.log(0.9)), (1.0, np.inf), (0.0, 0.0), (0.99, 68.97)])
def test_planted_half_lives(gate: float, steps: float) -> None:
    found = retention(seen(planted(i=1.0 - gate, f=gate), torch.randn(200, 3, 1)))
    assert found is not None
    np.testing.assert_allclose(found.half_life, steps, rtol=0.001)
    assert found.kept[0].tolist() == [1] * 4


@pytest.mark.parametrize("T", [400, 3000])
def test_a_gate_that_closes_every_20_steps_keeps_for_about_10(T: int) -> None:
    """The shortcuts are wrong by a factor of two and of seven; the curve is not."""
    x = torch.ones(T, 8, 1)
    x[::20] = -1
    found = retention(seen(switching(), x))
    assert found is not None
    exact = half_life(gate_retention((x.numpy() > 0).astype(np.float32), min(T, 60)))[0]
    np.testing.assert_allclose(found.half_life, exact, rtol=0.02)
    assert 9.5 < found.half_life[0] < 11
    assert 19 < found.tau_mean[0] < 20 and found.tau_log[0] == 0
    assert found.at(20).max() == 0


@CELLS
@pytest.mark.parametrize("rows", [{}, {"reverse": True}], ids=["forward", "reverse"])
def test_with_every_start_it_is_the_retention_of_the_gates(cell: cells.Cell, rows: dict[str, Any]) -> None:
    x, w, state = draw(cell)
    place = place_of(cell, x, w, state, **rows)
    found = retention(place, starts=13)
    if found is None:
        return
    f = place.kept(saved_of(place))
    assert f is not None
    np.testing.assert_allclose(found.kept, gate_retention(f), rtol=1e-5, atol=1e-12)
    some = retention(place)
    assert some is not None and abs(some.kept - found.kept).max() < 1e-6  # 32 starts are more than there are steps


def test_a_sample_of_the_starts_is_near_all_of_them() -> None:
    torch.manual_seed(0)
    layer = init.chrono(openlstm.LSTM(3, 16), 100)
    place = seen(layer, torch.randn(300, 16, 3))
    some, every = retention(place, starts=16), retention(place, starts=300)
    assert some is not None and every is not None
    finite = np.isfinite(every.half_life)
    np.testing.assert_allclose(some.half_life[finite], every.half_life[finite], rtol=0.02)


def test_nothing_is_kept_across_a_reset_and_padding_does_not_count() -> None:
    layer, x = planted(0.0, 1.0), torch.randn(10, 1, 1)
    reset = torch.zeros(10, 1, dtype=torch.bool)
    reset[5] = True

    def call(m: Any) -> Any:
        return retention(capture_layers(Wrapped(m, reset=reset), x).places[0], starts=10)

    assert call(layer).kept[:, 0].tolist() == [1] + [
        max(0, (5 - k + 1 + 5 - k)) / (11 - k) if k < 6 else 0 for k in range(1, 11)
    ]
    ragged = retention(capture_layers(Wrapped(layer, lengths=[4]), x).places[0])
    assert ragged is not None and ragged.lags.tolist() == [0, 1, 2, 3, 4]


class Wrapped(torch.nn.Module):
    """A layer called with keywords."""

    def __init__(self, layer: torch.nn.Module, **named: Any) -> None:
        super().__init__()
        self.layer, self.named = layer, named

    def forward(self, x: Tensor) -> Any:
        return self.layer(x, **self.named)


def test_lags_of_a_long_sequence() -> None:
    found = noted_lags(100_000)
    assert found[0] == 0 and found[-1] == 100_000 and (np.diff(found) > 0).all() and len(found) < 1600
    assert found[:512].tolist() == list(range(512))


def test_advice_of_retention() -> None:
    found = retention(seen(planted(0.1, 0.9), torch.randn(50, 1, 1)))
    assert found is not None
    assert found.finding == "0: the gates halve the cell of the middle unit in 6.6 steps, of the longest in 6.6 steps."
    assert found.advice(6) == ""
    assert found.advice(100) == (
        "The longest unit keeps half for 6.6 steps, the lag is 100: a forget bias near 5, or chrono with T_max=200."
    )


def test_zoneout_keeps_too() -> None:
    x, w, state = draw(cells.LSTM())
    noise = Noise(0.0, 0.25, training=False)
    found = retention(place_of(cells.LSTM(), x, w, state, noise=noise), 13)
    f = saved_of(place_of(cells.LSTM(), x, w, state, noise=noise)).gates[..., 6:12]
    assert found is not None
    np.testing.assert_allclose(found.kept[1], (0.25 + 0.75 * f).mean((0, 1)), rtol=1e-5)


# the gradient of the weights


@CELLS
@pytest.mark.parametrize("reverse", [False, True])
def test_it_is_the_norm_of_every_steps_share_of_the_weight_gradient(cell: cells.Cell, reverse: bool) -> None:
    """Brute force: the gradient of the weights of one step alone, by autograd, for every row."""
    x, w, state = draw(cell, dtype=torch.float64)
    g = torch.randn_like(state.h)
    found = weight_gradient(place_of(cell, x, w, state, dstate=State(g, None), reverse=reverse))
    order = x.flip(0) if reverse else x
    wanted = np.zeros(len(x))
    for b in range(x.shape[1]):
        states = [State(*(None if s is None else s[b : b + 1] for s in state))]
        for t in range(len(x)):
            states.append(reference.step(cell, order[t, b : b + 1], states[-1], w)[0])
        flow = [g[b : b + 1], *([torch.zeros(1, 6 * len(cell.states), dtype=torch.float64)] if cell.has_cell else [])]
        for k, t in enumerate(reversed(range(len(x)))):
            begin = [s.detach().clone().requires_grad_() for s in states[t] if s is not None]
            leaf = w._replace(w_ih=w.w_ih.clone().requires_grad_(), w_hh=w.w_hh.clone().requires_grad_())
            end = reference.step(cell, order[t, b : b + 1], State(*begin), leaf)[0]
            got = torch.autograd.grad(
                [s for s in end if s is not None], [leaf.w_ih, leaf.w_hh, *begin], flow, materialize_grads=True
            )
            wanted[k] += float((got[0].square().sum() + got[1].square().sum()).sqrt())
            flow = list(got[2:])
    if cell.cells_per_gate > 1 or len(cell.feeds_back) > 1:
        return  # there the product is that of gates of their own for every unit, of all that is fed back
    np.testing.assert_allclose(found.share, wanted / wanted.sum(), rtol=1e-6)


def test_the_norm_is_that_of_noise_too() -> None:
    x, w, state = draw(cells.LSTM(), dtype=torch.float64)
    noise = Noise(0.3, 0.2, 0.4, seed=3, hidden=torch.rand_like(state.h))
    x.requires_grad_()
    for n in (noise, noise._replace(training=False)):
        place = place_of(cells.LSTM(), x, w, state, dstate=State(torch.ones_like(state.h), None), noise=n)
        r = run(Call(cells.LSTM(), x, w, state, noise=n))
        (dx,) = torch.autograd.grad(r.state.h.sum(), x)
        from openlstm.insight.measure.jacobians import ChunkSteps

        for part in place.backwards(None, place.dstate):
            turn = ChunkSteps.of(place, part.t0, part.start, part.saved)
            torch.testing.assert_close(turn.flow(part.dh, part.dc)[0].z @ w.w_ih, dx[part.t0 : part.t0 + len(part.dh)])


def test_the_first_number_that_is_not_finite_is_named() -> None:
    layer: Any = openlstm.LSTM(2, 3)
    x = torch.randn(50, 4, 2)
    with torch.no_grad():
        layer.weight_ih_l0[9, 1] = float("nan")  # row 9 is unit 0 of o
    bad = capture_layers(layer, x, finite=False).places[0]
    assert weight_gradient(bad).first_non_finite == "0: weight_ih_l0 holds nan at [9, 1], gate o"
    layer = openlstm.LSTM(2, 3)
    x[41, 2, 0] = float("nan")
    bad = capture_layers(layer, x, finite=False).places[0]
    assert weight_gradient(bad).first_non_finite == "0: gate i is nan at step 41, row 2, unit 0"
    assert weight_gradient(bad).finding == "First number that is not finite: 0: gate i is nan at step 41, row 2, unit 0."


def test_an_explosion_of_the_gradient_is_named() -> None:
    layer: Any = openlstm.RNN(1, 2, nonlinearity="relu")
    with torch.no_grad():
        for p in layer.parameters():
            p.fill_(0.1)
        layer.weight_hh_l0.copy_(torch.eye(2) * 100)
        layer.weight_ih_l0.zero_()
        layer.bias_ih_l0.zero_()
        layer.bias_hh_l0.zero_()
    state = (torch.ones(1, 1, 2) * 1e-37,)
    found = weight_gradient(
        capture_layers(WithState(layer, state[0]), torch.zeros(30, 1, 1), lambda m, x: m(x)[0][-1].sum(), finite=False).places[
            0
        ]
    )
    assert found.first_non_finite is not None and "inf at step" in found.first_non_finite


class WithState(torch.nn.Module):
    """A layer that begins with a state."""

    def __init__(self, layer: torch.nn.Module, state: Any) -> None:
        super().__init__()
        self.layer, self.state = layer, state

    def forward(self, x: Tensor) -> Any:
        return self.layer(x, self.state)


# stability


def test_exponents_of_planted_dynamics() -> None:
    place = seen(planted(i=0.0, f=0.9, units=3), torch.randn(120, 2, 1))
    np.testing.assert_allclose(stability(place, 3).exponents, np.log(0.9), rtol=1e-4)
    assert stability(place, 6).exponents[3:].max() < -5  # h is written anew at every step
    relu: Any = openlstm.RNN(1, 3, nonlinearity="relu")
    with torch.no_grad():
        relu.weight_hh_l0.copy_(torch.diag(torch.tensor([1.02, 0.9, 0.5])))
        relu.weight_ih_l0.zero_()
        relu.bias_ih_l0.fill_(1.0)
    np.testing.assert_allclose(stability(seen(relu, torch.zeros(150, 2, 1))).exponents, np.log([1.02, 0.9, 0.5]), atol=1e-4)
    forever = stability(seen(planted(i=0.0, f=1.0), torch.randn(60, 2, 1)))
    assert abs(forever.largest) < 1e-6
    assert forever.finding == "0: largest exponent 0: differences neither grow nor shrink, as on a perfect highway."


@CELLS
def test_they_are_those_of_the_product_of_jacobians(cell: cells.Cell) -> None:
    if not cell.derives_itself or cell.cells_per_gate > 1:
        return
    x, w, state = draw(cell, T=60, B=2, dtype=torch.float64)
    w = w._replace(w_hh=0.5 * w.w_hh)
    place = place_of(cell, x, w, state)
    product = products(step_jacobians(cell, saved_of(place), w, state))[-1]
    wanted = np.log(np.linalg.norm(product, 2, axis=(1, 2))).mean() / 60
    np.testing.assert_allclose(stability(place, 1).largest, wanted, rtol=0.25, atol=0.02)


LAYERS: dict[str, Any] = {
    "default": lambda: openlstm.LSTM(2, 32),
    "forget bias 1": lambda: init.forget_bias(openlstm.LSTM(2, 32), 1.0),
    "forget bias 3": lambda: init.forget_bias(openlstm.LSTM(2, 32), 3.0),
    "chrono": lambda: init.chrono(openlstm.LSTM(2, 32), 60),
    "GRU": lambda: openlstm.GRU(2, 32),
    "RNN": lambda: openlstm.RNN(2, 32),
    "orthogonal": lambda: init.orthogonal(openlstm.RNN(2, 32)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_largest_exponent_is_the_slope_of_the_tail_of_the_gradient(name: str) -> None:
    torch.manual_seed(0)
    place = seen(LAYERS[name](), 0.5 * torch.randn(300, 8, 2))
    share = state_gradient(place, "random").share
    tail = share[60:300]
    alive = tail > 1e-35
    slope = np.polyfit(np.arange(len(tail))[alive], np.log(tail[alive]), 1)[0]
    np.testing.assert_allclose(stability(place).largest, slope, rtol=0.25, atol=2e-3)


def test_no_exponent_at_all_is_refused() -> None:
    with pytest.raises(ArgumentError, match="at least one exponent"):
        stability(seen(openlstm.LSTM(1, 2), torch.zeros(3, 1, 1)), 0)


# units


def test_planted_idle_units() -> None:
    layer: Any = openlstm.LSTM(2, 6)
    with torch.no_grad():
        layer.bias_ih_l0[0] = -50  # unit 0 is never written, and so dead
        layer.bias_ih_l0[18 + 1] = -50  # unit 1 is never shown
        layer.bias_ih_l0[2] = layer.bias_ih_l0[6 + 2] = layer.bias_ih_l0[12 + 2] = 20  # unit 2 counts up
    found = unit_activity(seen(layer, torch.randn(100, 4, 2)))
    assert found.never_written is not None and found.never_shown is not None and found.saturated is not None
    assert found.never_written.tolist() == [True] + [False] * 5
    assert found.dead.tolist() == [True] + [False] * 5
    assert found.never_shown.tolist() == [False, True] + [False] * 4
    assert found.saturated.tolist() == [False, False, True, False, False, False]
    assert "1 of 6 units dead, 1 of 6 units never shown, 1 of 6 units saturated, 1 of 6 units never written" in found.finding


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (openlstm.LSTM(2, 6), "every unit moves, is shown, is not saturated, is written"),
        (openlstm.LSTM(2, 6, cell=openlstm.cells.SLSTM(heads=2)), "every unit moves, is shown, is written"),
        (openlstm.GRU(2, 6), "every unit moves, is written"),
        (openlstm.RNN(2, 6), "every unit moves"),
    ],
    ids=["lstm", "slstm", "gru", "rnn"],
)
def test_units_are_said_to_do_only_what_the_cell_lets_one_measure(layer: Any, says: str) -> None:
    torch.manual_seed(1)
    layer.reset_parameters()
    found = unit_activity(seen(layer, torch.randn(100, 4, 2)))
    assert f"; {says}." in found.finding
    masks = {"is shown": found.never_shown, "is not saturated": found.saturated, "is written": found.never_written}
    assert [words for words, mask in masks.items() if mask is not None] == says.split(", ")[1:]


def test_effective_rank_is_the_participation_ratio() -> None:
    place = seen(openlstm.LSTM(2, 8), torch.randn(50, 4, 2))
    h = saved_of(place).h.flatten(0, 1).double().numpy()
    values = np.linalg.eigvalsh(np.cov(h.T, bias=True))
    np.testing.assert_allclose(unit_activity(place).effective_rank, values.sum() ** 2 / (values**2).sum(), rtol=1e-6)


def test_importance_is_exact_for_a_loss_that_is_linear_in_the_outputs() -> None:
    layer, x, v = openlstm.LSTM(2, 5), torch.randn(20, 3, 2), torch.randn(20, 3, 5)

    def loss(m: Any, x: Tensor) -> Tensor:
        y, (h, _) = m(x)
        return (y * v).sum() + h[0, :, 0].sum()

    place = seen(layer, x, loss)
    with torch.no_grad():
        y, (h, _) = layer(x)
    wanted = -((y * v).sum((0, 1)) + torch.tensor([float(h[0, :, 0].sum()), 0, 0, 0, 0]))
    found = unit_activity(place)
    assert found.importance is not None
    np.testing.assert_allclose(found.importance, wanted.numpy(), rtol=1e-4)
    assert [j for j, _ in found.top] == list(np.argsort(-found.importance)) and not found.exact
    assert f"without unit {found.top[0][0]} the loss would rise most" in found.finding
    said = UnitActivity.displays({"0": found}, Asked())[1].finding  # the picture says the same
    assert f"Without unit {found.top[0][0]} of 0 the loss would rise" in said
    assert "without unit" not in dataclasses.replace(found, top=((3, -0.5),)).finding


def test_the_top_units_are_measured_where_that_is_possible() -> None:
    place = seen(openlstm.LSTM(2, 3), torch.randn(5, 1, 2))
    found = unit_activity(place, lambda unit: [1.0, 5.0, 2.0, 1.5][unit])  # the last is that of -1
    assert found.top == ((1, 3.5), (2, 0.5), (0, -0.5)) and found.exact


# streaming


@pytest.mark.parametrize("layer", [openlstm.LSTM(2, 6), openlstm.GRU(2, 6), openlstm.RNN(2, 6)], ids=repr)
def test_a_stream_gives_the_same_bits_and_warms_up(layer: Any) -> None:
    x = torch.randn(150, 3, 2)
    found = streaming(seen(layer, x))
    assert found is not None and found.max_difference == 0
    with torch.no_grad():
        whole, late = layer(x)[0][75:], layer(x[75:])[0]
    difference = ((whole - late).double().flatten(1).norm(dim=1) / whole.double().flatten(1).norm(dim=1)).numpy()
    np.testing.assert_allclose(found.difference, difference, rtol=1e-4, atol=1e-7)
    assert found.warm_up is not None
    assert (difference[found.warm_up :] <= 0.01).all() and difference[found.warm_up - 1] > 0.01


def test_a_cell_that_keeps_never_warms_up_and_one_that_counts_drifts() -> None:
    x = torch.ones(100, 2, 1)
    layer = planted(i=0.5, f=1.0)
    with torch.no_grad():
        layer.bias_ih_l0[8:12] = 1e4  # g = 1: half a unit a step
    found = streaming(seen(layer, x))
    assert found is not None
    np.testing.assert_allclose(found.drift_per_1000, 500, rtol=1e-4)
    assert "the cell still grows at the end of the data, by 500 in 1000 steps: look at longer data, or reset" in found.finding
    with torch.no_grad():
        layer.bias_ih_l0[0:4] = -1e4
        layer.weight_ih_l0.zero_()
    state = (torch.ones(1, 2, 4), torch.ones(1, 2, 4))
    kept = streaming(capture_layers(WithState(layer, state), x).places[0])
    assert kept is not None and kept.warm_up is None and "has not caught up after 50 steps" in kept.finding


@pytest.mark.parametrize(
    ("level", "rise", "noise", "grows"),
    [
        (0.5, 0.0095, 0.0, False),  # 0.19 in 1000 steps, seen over 50 of them
        (0.5, 0.19, 0.0, False),  # and over 1000
        (0.5, 0.9, 0.01, True),
        (0.0, 25.0, 0.0, True),  # a counter
        (0.01, 0.05, 0.2, False),  # a line through noise
        (2.0, -1.5, 0.0, False),  # what falls comes to an end by itself
        (0.0, 0.0, 0.0, False),
    ],
)
@pytest.mark.parametrize("steps", [3, 50, 1001])
def test_a_drift_is_a_reason_to_reset_only_beside_the_size_of_the_cell(
    level: float, rise: float, noise: float, grows: bool, steps: int
) -> None:
    y = level + rise * np.arange(steps) / steps + noise * np.random.default_rng(0).standard_normal(steps)
    slope, found = trend(y)
    assert found == grows or steps == 3 and noise
    assert noise or slope == pytest.approx(rise / steps)


def test_what_to_send_is_what_the_loss_says_and_else_what_the_slowest_state_says() -> None:
    slow, fast = (Streaming(name, 0.0, n, np.zeros(50), 0.0) for name, n in (("0", 34), ("1", 5)))
    never = Streaming("2", 0.0, None, np.zeros(50), 0.0)
    used = Ablation("cut", np.array([1, 8, 50]), np.array([1.0, 0.1, 0.1]), 0.1, 8)
    assert steps_to_send([slow, fast]).startswith("Send 34 steps")
    assert steps_to_send([slow, never]) == (
        "Started from an empty state not every layer catches up within these data: keep the states, or send more first."
    )
    assert steps_to_send([slow, never], used) == used.serving and used.serving.startswith("Send 8 steps")
    assert steps_to_send([]) == ""


def test_a_free_run_is_spoken_of_where_outputs_can_be_inputs() -> None:
    wild = openlstm.RNN(2, 2, nonlinearity="relu")
    with torch.no_grad():
        wild.weight_hh_l0.copy_(2 * torch.eye(2))  # type: ignore[operator]
    x = torch.rand(20, 4, 2)
    fed, other = (openlstm.xray(wild, data, lag=5, before=True)["stability"].finding for data in (x, (x, x[-1])))
    assert fed.endswith("clip gradients or lower the learning rate, or expect a free run to diverge.")
    loss = openlstm.xray(wild, (x, x[-1]), lag=5, before=True, loss=lambda model, x, y: (model(x)[0][-1] - y).square().mean())
    assert loss["stability"].finding.endswith("clip gradients or lower the learning rate.") and other == fed
