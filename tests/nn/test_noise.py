"""Dropout and zoneout inside the recurrence: what each is, to the letter; when it acts; and that it can be repeated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.nn.twins import BACKENDS, everything, far, states
from torch import Tensor
from torch.nn import functional as F

import openlstm
from openlstm import cells, reference
from openlstm import noise as N
from openlstm.call import Call
from openlstm.cells import Cell
from openlstm.engine import SUPPORT
from openlstm.engine import run as engine
from openlstm.errors import ArgumentError
from openlstm.noise import HIDDEN, INPUT, Noise, locked_mask
from openlstm.reference import State

T, B, I, H = 6, 4, 3, 5
EACH = pytest.mark.parametrize("backend", [b for b in BACKENDS if SUPPORT[b].noise])
KINDS = pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
RATES = {
    "LSTM": {"input_dropout": 0.3, "hidden_dropout": 0.4, "recurrent_dropout": 0.3, "zoneout_h": 0.2, "zoneout_c": 0.4},
    "GRU": {"input_dropout": 0.3, "hidden_dropout": 0.4, "recurrent_dropout": 0.3, "zoneout_h": 0.2},
    "RNN": {"input_dropout": 0.3, "hidden_dropout": 0.4, "zoneout_h": 0.2},
}
ONE_BY_ONE = [(kind, {name: rate}) for kind, rates in RATES.items() for name, rate in rates.items()]
ONE_BY_ONE += [(kind, {"weight_dropout": 0.5}) for kind in RATES]


def layer_of(kind: str, backend: str = "auto", **options: Any) -> Any:
    layer = getattr(openlstm, kind)(I, H, backend=backend, dtype=torch.float64, **options)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in layer.parameters():
            p.uniform_(-0.7, 0.8)
    return layer


def series() -> Tensor:
    torch.manual_seed(3)
    return torch.randn(T, B, I, dtype=torch.float64)


def with_seed(layer: Any, *call: Any, seed: int = 11, **more: Any) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return everything(layer, *call, run=lambda x, hx, **k: layer(x, hx, **k), **more)


@EACH
@pytest.mark.parametrize(("kind", "rates"), ONE_BY_ONE, ids=lambda v: v if isinstance(v, str) else next(iter(v)))
def test_the_same_seed_gives_the_same_masks_and_another_others(kind: str, rates: dict[str, float], backend: str) -> None:
    layer = layer_of(kind, backend, num_layers=2, bidirectional=True, **rates)
    x, hx = series(), states(layer, B)
    first, again = _run(layer, x, hx, 1), _run(layer, x, hx, 1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    other = _run(layer, x, hx, 2)
    assert not torch.allclose(first[0], other[0], rtol=1e-3)


def _run(layer: Any, x: Tensor, hx: Any, seed: int) -> list[Tensor]:
    torch.manual_seed(seed)
    y, state = layer(x, hx)
    return [y, *(state if isinstance(state, tuple) else [state])]


@EACH
@KINDS
def test_no_mask_acts_in_eval(kind: str, backend: str) -> None:
    """Dropout of every sort does nothing there, and nothing is drawn from torch's generator."""
    rates = {name: rate for name, rate in RATES[kind].items() if "dropout" in name}
    layer = layer_of(kind, backend, num_layers=2, bidirectional=True, weight_dropout=0.5, **rates).eval()
    plain = layer_of(kind, backend, num_layers=2, bidirectional=True)
    x, hx = series(), states(layer, B)
    before = torch.get_rng_state()
    y = layer(x, hx)[0]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(y, plain(x, hx)[0])


@EACH
@KINDS
def test_a_layer_without_noise_draws_nothing(kind: str, backend: str) -> None:
    layer, x = layer_of(kind, backend), series()
    before = torch.get_rng_state()
    layer(x)
    assert torch.equal(torch.get_rng_state(), before)


@EACH
@pytest.mark.parametrize("p", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_zoneout_in_eval_is_its_expectation(kind: str, p: float, backend: str) -> None:
    """s <- p s_prev + (1-p) s_new, for h and for c, and the new c shows itself in h before that."""
    options = {"zoneout_h": p, "zoneout_c": p / 2} if kind == "LSTM" else {"zoneout_h": p}
    layer = layer_of(kind, backend, **options).eval()
    x, hx = series(), states(layer, B)
    state: Any = State(*(s[0] for s in (hx if isinstance(hx, tuple) else (hx,))))
    ys = []
    for x_t in x:
        new, _ = reference.step(layer.cell, x_t, state, layer.weights_of(0))
        c = None if new.c is None else p / 2 * state.c + (1 - p / 2) * new.c
        state = State(p * state.h + (1 - p) * new.h, c)
        ys.append(state.h)
    y, end = layer(x, hx)
    assert torch.allclose(y, torch.stack(ys), rtol=1e-11, atol=1e-13)
    for a, b in zip(end if isinstance(end, tuple) else (end,), state, strict=False):
        assert b is not None and torch.allclose(a[0], b, rtol=1e-11, atol=1e-13)


@EACH
def test_zoneout_in_training_keeps_units_as_they_were(backend: str) -> None:
    """Every unit is its old value, to the bit, or its new one; and about p of them are old, h and c apart."""
    p_h, p_c, size = 0.3, 0.15, 128
    layer = openlstm.LSTM(I, size, backend=backend, zoneout_h=p_h, zoneout_c=p_c, dtype=torch.float64)
    torch.manual_seed(2)
    x, hx = torch.randn(30, 8, I, dtype=torch.float64), (torch.randn(1, 8, size).double(), torch.randn(1, 8, size).double())
    found = openlstm.trace(layer, x, hx)
    h, c = torch.cat([hx[0], found["0.h"]]), torch.cat([hx[1], found["0.c"]])
    kept_h, kept_c = (h[1:] == h[:-1]).double(), (c[1:] == c[:-1]).double()
    for kept, p in ((kept_h, p_h), (kept_c, p_c)):
        assert abs(float(kept.mean()) - p) < 4 * (p * (1 - p) / kept.numel()) ** 0.5
    new_c = found["0.f"] * c[:-1] + found["0.i"] * found["0.g"]
    new_h = found["0.o"] * new_c.tanh()  # the cell as it would be shows itself, kept or not
    assert torch.allclose(torch.where(kept_c.bool(), c[:-1], new_c), found["0.c"], rtol=1e-11)
    assert torch.allclose(torch.where(kept_h.bool(), h[:-1], new_h), found["0.h"], rtol=1e-11)
    together = float((kept_h * kept_c).mean())
    assert abs(together - p_h * p_c) < 0.01  # drawn apart


@EACH
def test_recurrent_dropout_acts_on_the_candidate_alone(backend: str) -> None:
    p, size = 0.4, 64
    layer = openlstm.LSTM(I, size, backend=backend, recurrent_dropout=p, dtype=torch.float64)
    torch.manual_seed(2)
    x = torch.randn(20, 8, I, dtype=torch.float64)
    found = openlstm.trace(layer, x)
    dropped = found["0.g"] == 0
    assert abs(float(dropped.double().mean()) - p) < 4 * (p * (1 - p) / dropped.numel()) ** 0.5
    c = torch.cat([torch.zeros(1, 8, size).double(), found["0.c"]])
    assert torch.allclose(found["0.c"][dropped], (found["0.f"] * c[:-1])[dropped], rtol=1e-12)  # what is held is never dropped
    w = layer.weights_of(0)
    h = torch.cat([torch.zeros(1, 8, size).double(), found["0.h"]])[:-1]
    z = x @ w.w_ih.T + w.b_ih + h @ w.w_hh.T + w.b_hh
    g = z[..., 2 * size : 3 * size].tanh() / (1 - p)
    assert torch.allclose(found["0.g"][~dropped], g[~dropped], rtol=1e-11)


@EACH
@KINDS
def test_locked_dropout_is_one_mask_for_all_steps(kind: str, backend: str) -> None:
    """The masks of x and of what is fed back, drawn by row from one seed; that of W_hh, drawn by torch's dropout."""
    rates = {"input_dropout": 0.3, "hidden_dropout": 0.4, "weight_dropout": 0.5}
    layer = layer_of(kind, backend, **rates)
    x, hx = series(), states(layer, B)
    torch.manual_seed(21)
    y, _ = layer(x, hx)
    torch.manual_seed(21)
    drawn = Noise(seed=int(torch.randint(2**63 - 1, ())))
    x_mask = locked_mask(drawn, INPUT, 0.3, torch.ones(B, I, dtype=torch.float64))
    w = layer.weights_of(0)
    w = w._replace(w_hh=F.dropout(w.w_hh, 0.5))
    h_mask = locked_mask(drawn, HIDDEN, 0.4, torch.ones(B, H, dtype=torch.float64))
    state = State(*(s[0] for s in (hx if isinstance(hx, tuple) else (hx,))))
    run = reference.forward(Call(layer.cell, x * x_mask, w, state, noise=Noise(hidden=h_mask)))
    assert torch.allclose(y, run.y, rtol=1e-11, atol=1e-13)
    by_hand: list[Tensor] = []
    h: Tensor = state.h
    rest: Any = state.c
    for x_t in x:  # the mask acts inside the sums alone: what is carried is whole
        z_h = (h * h_mask) @ w.w_hh.T + w.b_hh
        if kind == "GRU":
            zx = x_t * x_mask @ w.w_ih.T + w.b_ih
            r, u = (zx + z_h)[:, :H].sigmoid(), (zx + z_h)[:, H : 2 * H].sigmoid()
            n = (zx[:, 2 * H :] + r * z_h[:, 2 * H :]).tanh()
            h = (1 - u) * n + u * h
        else:
            step = layer.cell(x_t * x_mask @ w.w_ih.T + w.b_ih + z_h, State(h, rest))
            h, rest = step.h, step.c
        by_hand.append(h)
    assert torch.allclose(y, torch.stack(by_hand), rtol=1e-11, atol=1e-13)


@EACH
def test_every_layer_and_direction_has_masks_of_its_own(backend: str) -> None:
    layer = openlstm.LSTM(64, 64, 2, bidirectional=True, backend=backend, zoneout_h=0.5, dtype=torch.float64)
    found = openlstm.trace(layer, torch.randn(2, 1, 64, dtype=torch.float64))
    kept = []
    for place, step in (("0", 1), ("0_reverse", 0), ("1", 1), ("1_reverse", 0)):
        h = found[f"{place}.h"]
        kept.append(h[step] == h[1 - step])
    for a in range(4):
        for b in range(a):
            assert 0.2 < float((kept[a] == kept[b]).double().mean()) < 0.8


@EACH
@KINDS
def test_gradients_with_noise_are_those_of_the_equations(kind: str, backend: str) -> None:
    """The masks drawn for one seed are constants: torch differentiates the reference with them, lengths and resets too."""
    for training in (True, False):
        options = {**RATES[kind], "weight_dropout": 0.3}
        layer = layer_of(kind, backend, num_layers=2, bidirectional=True, **options).train(training)
        x, hx = series(), states(layer, B)
        call = {"lengths": [6, 2, 0, 5], "reset": torch.rand(T, B, generator=torch.Generator().manual_seed(1)) < 0.3}
        ours = with_seed(layer, x, hx, **call)
        torch.manual_seed(11)
        wanted = everything(layer, x, hx, run=_plain(layer), **call)
        assert far(ours, wanted, 1e-11) == {}


def _plain(layer: Any) -> Any:
    """The layer in plain torch operations."""

    def run(x: Tensor, hx: Any, lengths: Any, reset: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(layer), "_pass", lambda self, k, call: engine.run(call._replace(differentiable=True)))
            return layer(x, hx, lengths=lengths, reset=reset)

    return run


@EACH
def test_noise_does_not_depend_on_what_runs_beside_a_row(backend: str) -> None:
    """The masks of a row are its own: the first rows of a batch are the batch of the first rows."""
    layer = layer_of("LSTM", backend)
    w = layer.weights_of(0)
    noise = Noise(zoneout_h=0.3, zoneout_c=0.2, candidate=0.4, seed=123456789012345, stream=3)
    x, ones = series(), torch.ones(B, H).double()
    begin, first = State(ones, ones), State(ones[:2], ones[:2])
    whole = engine.run(Call(layer.cell, x, w, begin, noise=noise, backend=backend)).y
    part = engine.run(Call(layer.cell, x[:, :2], w, first, noise=noise, backend=backend)).y
    assert torch.allclose(whole[:, :2], part, rtol=1e-13)
    kept = N.events(noise, N.ZONEOUT_H, 0, torch.zeros(B, H))
    h = engine.run(Call(layer.cell, x[:1], w, begin, noise=noise, backend=backend)).y[0]
    assert torch.equal(h == 1, kept)


DISTURBED = [
    (cell, b) for cell in cells.ALL for b in BACKENDS if (kernels := SUPPORT[b].kernels) is None or cell.kernel in kernels
]
ROWS = ((0, 4), (4, 7), (7, 12))


def disturbed(cell: Cell, **options: Any) -> Any:
    """A layer with every kind of noise that its cell has."""
    rates = {"zoneout_c": 0.3 * cell.has_cell, "recurrent_dropout": 0.2 * (cell.candidate is not None)}
    fed_back = ("hidden_dropout", "weight_dropout") if cell.recurrence != "none" else ()
    rates |= dict.fromkeys(("input_dropout", "zoneout_h", *fed_back), 0.3)
    kind = openlstm.LSTM if cell.has_cell else openlstm.GRU if cell.name == "gru" else openlstm.RNN
    torch.manual_seed(5)
    return kind(I, H, 2, bidirectional=True, cell=cell, **rates, **options)


def share(layer: Any, x: Tensor, first: int, last: int, row: int, run: Any = None) -> list[Tensor]:
    """y and dL/dx of some rows of x, whose place in the whole batch is said to be `row`, and dL/d(parameters)."""
    part = x[:, first:last].clone().requires_grad_()
    torch.manual_seed(9)
    with N.first_row(row):
        y, _ = (layer if run is None else run)(part, lengths=[1 + b % T for b in range(first, last)])
    layer.zero_grad()
    (y * y).sum().backward()
    return [y.detach(), part.grad, *(p.grad.clone() for p in layer.parameters())]  # type: ignore[list-item]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("cell", "backend"), DISTURBED, ids=str)
def test_shares_of_a_batch_are_noised_as_the_whole_batch(cell: Cell, backend: str, dtype: torch.dtype) -> None:
    for more in ({}, {"checkpoint": 2}):
        layer, x = disturbed(cell, backend=backend, dtype=dtype, **more), torch.randn(T, 12, I, dtype=dtype)
        whole = share(layer, x, 0, 12, 0)
        parts = [share(layer, x, a, b, a) for a, b in ROWS]
        for k in (0, 1):
            together = torch.cat([part[k] for part in parts], 1)
            assert torch.equal(together, whole[k]) if backend == "cpu" else torch.allclose(together, whole[k], 1e-4, 1e-6)
        for of_all, *of_each in zip(whole[2:], *(part[2:] for part in parts), strict=True):
            assert (sum(of_each) - of_all).norm() <= 1e-5 * of_all.norm()
    assert not torch.allclose(share(layer, x, 4, 7, 0)[0], whole[0][:, 4:7], 1e-2)  # as if they were the first rows


@EACH
@pytest.mark.parametrize("name", ["input_dropout", "hidden_dropout", "zoneout_h", "zoneout_c", "recurrent_dropout"])
def test_every_kind_of_noise_alone_belongs_to_its_row(name: str, backend: str) -> None:
    layer, x = layer_of("LSTM", backend, **{name: 0.4}), torch.ones(T, 12, I, dtype=torch.float64)
    whole = share(layer, x, 0, 12, 0)[0]
    assert torch.allclose(share(layer, x, 5, 12, 5)[0], whole[:, 5:], 1e-12)
    assert not torch.allclose(share(layer, x, 5, 12, 0)[0], whole[:, 5:], 1e-2)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, in torch.compile
def test_a_compiled_layer_knows_its_rows() -> None:
    torch._dynamo.reset()  # it compiles a function eight times in a process
    layer, x = layer_of("LSTM", "auto", **RATES["LSTM"]), torch.randn(T, 12, I, dtype=torch.float64)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for a, b in ROWS[:2]:
        plain, in_graph = share(layer, x, a, b, a), share(layer, x, a, b, a, compiled)
        assert all(torch.equal(p, q) for p, q in zip(plain, in_graph, strict=True))


def test_half_types_take_the_masks_of_single_precision() -> None:
    layer = layer_of("LSTM", zoneout_h=0.3, hidden_dropout=0.3, recurrent_dropout=0.3).to(torch.bfloat16)
    twin = layer_of("LSTM", zoneout_h=0.3, hidden_dropout=0.3, recurrent_dropout=0.3)
    twin.load_state_dict({name: p.double() for name, p in layer.state_dict().items()})
    x = series().to(torch.bfloat16)
    torch.manual_seed(1)
    y = layer(x)[0]
    torch.manual_seed(1)
    z = twin.float()(x.float())[0]
    assert y.dtype is torch.bfloat16 and torch.allclose(y.float(), z, atol=0.05)


def test_a_users_cell_takes_noise() -> None:
    from tests.nn.test_family import Leaky

    layer = openlstm.LSTM(I, H, cell=Leaky(), backend="reference", zoneout_h=0.3, recurrent_dropout=0.2, hidden_dropout=0.1)
    torch.manual_seed(4)
    y = layer(torch.ones(T, B, I))[0]
    torch.manual_seed(4)
    assert torch.equal(layer(torch.ones(T, B, I))[0], y)
    assert not torch.allclose(layer(torch.ones(T, B, I))[0], y)


def test_a_packed_batch_takes_noise() -> None:
    layer = layer_of("GRU", zoneout_h=0.3, hidden_dropout=0.3, input_dropout=0.2)
    x = series()
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor([6, 4, 4, 1]))
    torch.manual_seed(1)
    y, _ = layer(packed)
    torch.manual_seed(1)
    z, _ = layer(x, lengths=[6, 4, 4, 1])
    assert torch.equal(torch.nn.utils.rnn.pad_packed_sequence(y)[0], z)


def test_torch_nn_has_no_such_option() -> None:
    """`to_torch` would lose it."""
    layer = openlstm.LSTM(I, H, zoneout_h=0.1, check_finite=True, backend="reference")
    with pytest.raises(ArgumentError) as caught:
        layer.to_torch()
    assert str(caught.value) == (
        "LSTM.to_torch: torch.nn's layer has no such option\n"
        "  got       zoneout_h=0.1, backend='reference', check_finite=True\n"
        "  expected  the defaults\n"
        "  hint      keep the openlstm layer, or set them to their defaults first"
    )
    for odd in (openlstm.GRU(I, H, proj_size=2), openlstm.RNN(I, H, proj_size=2), openlstm.LSTM(I, H, cell=cells.NIG())):
        with pytest.raises(ArgumentError, match="torch.nn('s layer)? has no"):
            odd.to_torch()
    assert isinstance(openlstm.GRU(I, H).to_torch(), torch.nn.GRU)
