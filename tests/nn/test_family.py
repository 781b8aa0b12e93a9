"""Every cell in a layer: trained, stacked, both ways, ragged, reset, looked into, compiled, copied; and a cell of your own."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from tests.nn.twins import BACKENDS, everything, far, states
from tests.support import projectable
from torch import Tensor
from torch.autograd import gradcheck
from torch.func import functional_call

import openlstm
from openlstm import cells, reference
from openlstm.cells import Cell
from openlstm.engine import SUPPORT
from openlstm.errors import BackendError, ShapeError
from openlstm.nn import Trace
from openlstm.reference import State

T, B, I, H = 6, 4, 3, 5
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),  # torch's own, in torch.compile
]


class Leaky(Cell):
    """c' = f c + (1 - f) g;  h' = tanh(c'): a cell as a user would write it, with nothing but its forward."""

    name, gates, saved, has_cell = "leaky", ("f", "g"), ("f", "g"), True
    candidate = "g"

    def forward(self, z: Any, before: Any, w_ch: Any = None, mask: Any = None) -> cells.Step:
        z_f, z_g = cells.split(z, 2)
        f, g = cells.sigmoid(z_f), cells.tanh(z_g)
        g = g if mask is None else g * mask
        c = f * before.c + (1 - f) * g
        return cells.Step((f, g), cells.tanh(c), c)


class Elman(Cell):
    """h' = tanh(z), once more by hand: a user's cell without a cell state."""

    name, gates, saved, has_cell = "elman", ("h",), (), False

    def forward(self, z: Any, before: Any, w_ch: Any = None, mask: Any = None) -> cells.Step:
        return cells.Step((), cells.tanh(z), None)


OPTIONS = [cells.LSTM(clip=0.4), cells.LSTM(cells_per_gate=5), cells.LSTM1997(cells_per_gate=5), cells.Peephole(clip=0.3)]
OPTIONS += [cells.LSTM(heads=5), cells.JANET(beta=0.0)]
EVERY = [*cells.ALL, *OPTIONS, Leaky(), Elman()]


def name_of(cell: Cell) -> str:
    return "-".join([cell.name, *(str(v) for v in vars(cell).values() if v is not None)])


def kind_of(cell: Cell) -> Any:
    return openlstm.LSTM if cell.has_cell else openlstm.GRU if cell.name == "gru" else openlstm.RNN


def runs(backend: str, cell: Cell) -> bool:
    kernels = SUPPORT[backend].kernels
    return kernels is None or cell.kernel in kernels


CASES = [pytest.param(cell, b, id=f"{name_of(cell)}-{b}") for cell in EVERY for b in BACKENDS if runs(b, cell)]
EACH = pytest.mark.parametrize(("cell", "backend"), CASES)
SHIPPED = pytest.mark.parametrize("cell", [*cells.ALL, *OPTIONS], ids=name_of)


def layer_of(cell: Cell, backend: str = "auto", seed: int = 0, **options: Any) -> Any:
    """A layer in float64 whose parameters are asymmetric and not small."""
    layer = kind_of(cell)(I, H, cell=cell, backend=backend, dtype=torch.float64, **options)
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.uniform_(-0.7, 0.8)
    return layer


def series(rows: int = B, seed: int = 3) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(T, rows, I, dtype=torch.float64)


def _engine(cell: Cell, state: tuple[Tensor, ...]) -> State:
    """A state as a step takes it."""
    return State(*state) if len(state) < 3 else cells.joined(cell, state)


def by_hand(layer: Any, x: Tensor, hx: Any) -> tuple[Tensor, list[Tensor]]:
    """Two layers in two directions, step by step, from the definition of the step alone."""
    final: list[State] = []
    for k in range(layer.num_layers):
        ys = []
        for d in range(2):
            n = 2 * k + d
            state: Any = tuple(s[n] for s in (hx if isinstance(hx, tuple) else (hx,)))
            state = state if len(state) > 2 else State(*state)
            out: list[Any] = [None] * T
            for t in reversed(range(T)) if d else range(T):
                state, _ = reference.step(layer.cell, x[t], cells.joined(layer.cell, state), layer.weights_of(k, d))
                state = cells.parted(layer.cell, state)
                out[t] = state.h[:, : layer.proj_size or H]
            ys.append(torch.stack(out))
            final.append(state)
        x = torch.cat(ys, -1)
    return x, [torch.stack(parts) for parts in zip(*final, strict=True) if parts[0] is not None]


PROJECTED = [
    pytest.param(cell, b, P, id=f"{name_of(cell)}-{b}-P{P}")
    for cell in EVERY
    for b in BACKENDS
    for P in (0, 2)
    if runs(b, cell) and (not P or projectable(cell))
]


@pytest.mark.parametrize(("cell", "backend", "P"), PROJECTED)
def test_stacked_in_both_directions_with_states_and_every_gradient(cell: Cell, backend: str, P: int) -> None:
    layer = layer_of(cell, backend, num_layers=2, bidirectional=True, proj_size=P)
    x, hx = series(), states(layer, B)

    def defined(x: Tensor, hx: Any) -> tuple[Tensor, Any]:
        y, final = by_hand(layer, x, hx)
        return y, tuple(final) if layer.cell.has_cell else final[0]

    assert far(everything(layer, x, hx), everything(layer, x, hx, run=defined), 1e-11) == {}
    assert everything(layer, x, hx)["y"].shape == (T, B, 2 * (P or H))


@EACH
def test_a_ragged_batch_is_its_rows(cell: Cell, backend: str) -> None:
    layer = layer_of(cell, backend, num_layers=2, bidirectional=True)
    x, hx, lengths = series(), states(layer, B), [6, 0, 2, 5]
    pair = layer.cell.has_cell
    y, state = layer(x, hx, lengths=lengths)
    for b, n in enumerate(lengths):
        own = tuple(s[:, b : b + 1] for s in hx) if pair else hx[:, b : b + 1]
        one, end = layer(x[:n, b : b + 1], own)
        assert torch.allclose(y[:n, b : b + 1], one, rtol=1e-12, atol=1e-14) and not y[n:, b].any()
        for s, e in zip(state if pair else [state], end if pair else [end], strict=True):
            assert torch.allclose(s[:, b : b + 1], e, rtol=1e-12, atol=1e-14)


@EACH
def test_a_reset_is_a_cut(cell: Cell, backend: str) -> None:
    """Outputs and the gradient of x are those of the pieces; nothing crosses."""
    layer = layer_of(cell, backend, bidirectional=True)
    x, hx = series().requires_grad_(), states(layer, B)
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[4] = True
    y, _ = layer(x, hx, reset=reset)
    pair = layer.cell.has_cell
    zero = tuple(torch.zeros_like(s) for s in hx) if pair else torch.zeros_like(hx)

    def mixed(forward_from: Any, backward_from: Any) -> Any:
        """The state of the forward direction from one, that of the reverse direction from the other."""
        f, b = (forward_from, backward_from) if pair else ((forward_from,), (backward_from,))
        out = tuple(torch.stack([p[0], q[1]]) for p, q in zip(f, b, strict=True))
        return out if pair else out[0]

    first, _ = layer(x[:4], mixed(hx, zero))
    second, _ = layer(x[4:], mixed(zero, hx))
    pieces = torch.cat([first, second])
    assert torch.allclose(y, pieces, rtol=1e-12, atol=1e-14)
    torch.manual_seed(2)
    v = torch.randn_like(y)
    (a,), (b,) = torch.autograd.grad(y, x, v), torch.autograd.grad(pieces, x, v)
    assert torch.allclose(a, b, rtol=1e-11, atol=1e-13)


@EACH
def test_the_trace_has_the_gates_of_the_cell(cell: Cell, backend: str) -> None:
    layer = layer_of(cell, backend, num_layers=2)
    x = series()
    for differentiable in (False, True):
        found: Trace = openlstm.trace(layer, x, loss=lambda y, s: y.square().sum(), differentiable=differentiable)
        state = cell.states if cell.has_cell else ()
        gradients = tuple(f"d{block}" for block in (*cell.feeds_back, *state))
        assert tuple(found.layer(1)) == (*cell.saved, *state, "h", *gradients)
        assert all(a.shape == (T, B, H) for a in found.values())
    assert torch.equal(found["1.h"], found.y) or torch.allclose(found["1.h"], found.y, rtol=1e-12)
    _, gates = reference.step(cell, x[0], _engine(cell, tuple(s[0] for s in _zeros(layer))), layer.weights_of(0))
    for name, gate in zip(cell.saved, gates, strict=True):
        assert torch.allclose(found[f"0.{name}"][0], gate, rtol=1e-12, atol=1e-14), name
    assert torch.allclose(found["1.dh"][-1], 2 * found.y[-1], rtol=1e-12)


def _zeros(layer: Any) -> tuple[Tensor, ...]:
    zero = states(layer, B)
    return tuple(torch.zeros_like(s) for s in (zero if layer.cell.has_cell else (zero,)))


@EACH
def test_derivatives_are_those_of_finite_differences(cell: Cell, backend: str) -> None:
    layer = layer_of(cell, backend)
    names = [name for name, _ in layer.named_parameters()]
    lengths, reset = [3, 2], torch.tensor([[False, False], [False, True], [True, False]])
    hx = states(layer, 2)
    hx = list(hx) if layer.cell.has_cell else [hx]

    def run(x: Tensor, *rest: Tensor) -> Any:
        given, start = dict(zip(names, rest[len(hx) :], strict=True)), rest[: len(hx)]
        call = {"lengths": lengths, "reset": reset}
        y, state = functional_call(layer, given, (x, tuple(start) if layer.cell.has_cell else start[0]), call)
        return y, *(state if layer.cell.has_cell else [state])

    torch.manual_seed(0)
    values = [torch.randn(3, 2, I, dtype=torch.float64), *hx, *(p.detach() for p in layer.parameters())]
    assert gradcheck(run, [v.clone().requires_grad_() for v in values], fast_mode=True)


@pytest.mark.parametrize("cell", [cells.Peephole(), cells.GRU(), cells.FGR(), cells.LSTM(clip=0.4)], ids=name_of)
def test_second_derivatives_are_those_of_the_step(cell: Cell) -> None:
    layer = layer_of(cell)
    x = series(2)[:3].requires_grad_()

    def gradient(x: Tensor) -> Tensor:
        return torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)[0]

    other = copy.deepcopy(layer)
    other.backend = "reference"

    def by_torch(x: Tensor) -> Tensor:
        y = torch.stack(_steps(other, x))
        return torch.autograd.grad(y.square().sum(), x, create_graph=True)[0]

    a = torch.autograd.grad(gradient(x).square().sum(), x)[0]
    b = torch.autograd.grad(by_torch(x).square().sum(), x)[0]
    assert torch.allclose(a, b, rtol=1e-9, atol=1e-11)


def _steps(layer: Any, x: Tensor) -> list[Tensor]:
    state = _engine(layer.cell, tuple(torch.zeros_like(s[0, : x.shape[1]]) for s in _zeros(layer)))
    out = []
    for x_t in x:
        state, _ = reference.step(layer.cell, x_t, state, layer.weights_of(0))
        out.append(state.h[:, :H])
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@EACH
def test_a_few_steps_of_descent_make_the_error_smaller(cell: Cell, backend: str, dtype: torch.dtype) -> None:
    """A few steps of descent make the error smaller, in single precision and in half by conversion."""
    torch.manual_seed(0)
    layer = kind_of(cell)(I, H, 2, cell=cell, backend=backend, dtype=dtype)
    if dtype is torch.bfloat16 and backend == "cpu":
        layer.backend = "auto"
    x = torch.randn(T, 16, I, dtype=dtype)
    target = x[..., :1].float().cumsum(0).tanh()
    optimiser = torch.optim.Adam(layer.parameters(), 0.02)
    errors = []
    for _ in range(15):
        loss = (layer(x)[0][..., :1].float() - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.9 * errors[0]


@pytest.mark.parametrize(
    "cell", [cells.Peephole(), cells.GRU(), cells.FGR(), cells.LSTM(clip=0.4), cells.LSTM(cells_per_gate=5)], ids=name_of
)
def test_a_compiled_layer_gives_the_same_numbers_in_one_graph(cell: Cell) -> None:
    options: dict[str, Any] = {"zoneout_h": 0.2, "hidden_dropout": 0.3, "input_dropout": 0.1, "weight_dropout": 0.2}
    layer = layer_of(cell, num_layers=2, bidirectional=True, **options).eval()
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x, hx = series(), states(layer, B)
    assert far(everything(layer, x, hx, run=compiled), everything(layer, x, hx), 1e-12) == {}
    layer.train()
    torch.manual_seed(5)
    plain = everything(layer, x, hx)
    torch.manual_seed(5)
    assert far(everything(layer, x, hx, run=compiled), plain, 1e-12) == {}


@EACH
def test_copies_and_pickles_are_the_layer(cell: Cell, backend: str) -> None:
    layer = layer_of(cell, backend, num_layers=2, zoneout_h=0.1)
    layer.eval()
    x = series()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x)[0], layer(x)[0]) and repr(twin) == repr(layer)
        assert type(twin.cell) is type(cell) and (twin.cell == cell or not cell.kernel)  # a cell of one's own need not compare
    twin = layer_of(cell, backend, num_layers=2, seed=9, zoneout_h=0.1).eval()
    assert not torch.equal(twin(x)[0], layer(x)[0])
    twin.load_state_dict(layer.state_dict(), strict=True)
    assert torch.equal(twin(x)[0], layer(x)[0]) and "zoneout_h=0.1" in repr(layer)


def test_the_repr_names_the_cell_and_its_options() -> None:
    assert repr(openlstm.LSTM(3, 4)) == "LSTM(3, 4)" and repr(openlstm.GRU(3, 4, proj_size=2)) == "GRU(3, 4, proj_size=2)"
    assert repr(openlstm.LSTM(3, 4, cell=cells.NIG(clip=2.0))) == "LSTM(3, 4, cell=NIG(clip=2.0))"
    assert repr(openlstm.LSTM(3, 4, cell=cells.LSTM(clip=2.0))) == "LSTM(3, 4, cell=LSTM(clip=2.0))"
    assert repr(openlstm.RNN(3, 4, nonlinearity="relu")) == "RNN(3, 4, nonlinearity='relu')"
    assert repr(openlstm.RNN(3, 4, cell=cells.VanillaRNN("relu"))) == "RNN(3, 4, nonlinearity='relu')"


@SHIPPED
def test_the_parameters_have_the_names_of_the_cells_parts(cell: Cell) -> None:
    layer = kind_of(cell)(I, H, 2, cell=cell)
    peepholes = [f"weight_ch_l{k}" for k in range(2) if cell.peepholes]
    base = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    base = base if cell.recurrence != "none" else base[::2]
    norms = [f"norm_{part}_{kind}" for part in cell.norms for kind in ("weight", "bias")]
    assert set(layer.state_dict()) == {f"{n}_l{k}" for n in base + norms for k in range(2)} | set(peepholes)
    assert [len(ws) for ws in layer.all_weights] == [len(base) + bool(cell.peepholes) + len(norms)] * 2


def test_full_gate_recurrence_carries_its_gates() -> None:
    layer = layer_of(cells.FGR(), num_layers=2)
    y, (h, c) = layer(series())
    assert y.shape == (T, B, H) and h.shape == (2, B, 4 * H) and c.shape == (2, B, H)
    assert torch.equal(h[1, :, :H], y[-1])
    found = openlstm.trace(layer, series())
    for k, gate in enumerate(("i", "f", "o"), 1):
        assert torch.allclose(h[1, :, k * H : (k + 1) * H], found[f"1.{gate}"][-1], rtol=1e-12)
    x, cut = series(), 2  # carried on in a second call
    first, state = layer(x[:cut])
    assert torch.allclose(torch.cat([first, layer(x[cut:], state)[0]]), y, rtol=1e-12)


def test_memory_blocks_share_their_gates() -> None:
    """Two cells that share gates have one row of each gate between them."""
    layer = openlstm.LSTM(I, 6, cell=cells.LSTM(cells_per_gate=3), dtype=torch.float64)
    assert layer.weight_ih_l0.shape == (2 + 2 + 6 + 2, I)
    found = openlstm.trace(layer, series())
    for gate in "ifo":
        blocks = found[f"0.{gate}"].reshape(T, B, 2, 3)
        assert torch.equal(blocks, blocks[..., :1].expand_as(blocks))
    assert not torch.equal(found["0.g"][..., 0], found["0.g"][..., 1])


# A cell of your own


def test_a_cell_of_your_own_is_said_to_be_slower_once() -> None:
    class Mine(Leaky):
        """Another class, not yet told of."""

    layer = openlstm.LSTM(I, H, cell=Mine())
    with pytest.warns(RuntimeWarning, match="Mine has no kernel; running it on the readable reference, which is slower"):
        assert layer.backend_used(torch.zeros(T, B, I)) == "reference"
    layer(torch.zeros(T, B, I))  # and once only: a second warning would be an error here


def test_a_cell_of_your_own_on_a_named_backend_is_refused() -> None:
    with pytest.raises(BackendError, match=r"backend 'cpu' cannot run this: it has no kernel for Leaky\(\)"):
        openlstm.LSTM(I, H, cell=Leaky(), backend="cpu")(torch.zeros(T, B, I))


def test_a_cell_of_your_own_that_returns_something_else_is_named() -> None:
    class Narrow(Leaky):
        """Forgets a unit."""

        def forward(self, z: Any, before: Any, w_ch: Any = None, mask: Any = None) -> cells.Step:
            step = super().forward(z, before, w_ch, mask)
            return step._replace(h=step.h[:, 1:])

    with pytest.raises(ShapeError) as caught:
        openlstm.LSTM(I, H, cell=Narrow(), backend="reference")(torch.zeros(T, B, I))
    assert str(caught.value).startswith("Narrow: forward returned a wrong h\n  got       h: float32[4, 4]\n")


def test_a_cell_of_your_own_is_ours_where_the_equations_are() -> None:
    mine = layer_of(Elman(), backend="reference", num_layers=2, bidirectional=True)
    ours = openlstm.RNN(I, H, 2, bidirectional=True, dtype=torch.float64)
    ours.load_state_dict(mine.state_dict())
    x, hx = series(), states(mine, B)
    call = {"lengths": [6, 0, 3, 5], "reset": torch.rand(T, B) < 0.3}
    assert far(everything(mine, x, hx, **call), everything(ours, x, hx, **call), 1e-11) == {}


def test_a_cell_of_your_own_over_numpy() -> None:
    rng = np.random.default_rng(0)
    w = reference.Weights(rng.normal(size=(2 * H, I)), rng.normal(size=(2 * H, H)))
    run = openlstm.recur(Leaky(), rng.normal(size=(T, B, I)), w, backend="reference", save=True)
    assert run.y.shape == (T, B, H) and run.saved is not None and set(run.saved.named(Leaky())) == {"f", "g", "c", "h"}
