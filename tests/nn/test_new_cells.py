"""Cells with several states, heads, an elementwise recurrence or none, and sums that are given: through layers, and refused."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from tests.nn.twins import BACKENDS
from torch import Tensor

import openlstm
from openlstm import cells, weights
from openlstm.cells import (
    GRU,
    JANET,
    LSTM,
    SLSTM,
    Cell,
    IndRNN,
    MinGRU,
    MinLSTM,
    State,
    Step,
    concat,
    exp,
    sigmoid,
    split,
    tanh,
)
from openlstm.engine import Stepper
from openlstm.errors import ArgumentError, DtypeError, OpenLSTMError, ShapeError

T, B, I, H = 6, 4, 3, 6
pytestmark = [pytest.mark.filterwarnings("ignore:.*has no kernel:RuntimeWarning")]


class Counted(Cell):
    """c' = f c + (1 - f) g;  k' = f k + 1;  h' = tanh(c') / k': a cell of one's own with two states, in two heads."""

    name, gates, saved, has_cell = "counted", ("f", "g"), ("f", "g"), True
    states, candidate, heads = ("c", "k"), "g", 2

    def forward(self, z: Any, before: Any, w_ch: Any = None, mask: Any = None) -> Step:
        z_f, z_g = split(z, 2)
        c, k = split(before.c, 2)
        f, g = sigmoid(z_f), tanh(z_g)
        g = g if mask is None else g * mask
        c, k = f * c + (1 - f) * g, f * k + 1
        return Step((f, g), tanh(c) / k, concat([c, k]))


class Blind(Cell):
    """h' = exp(-z_d^2) h + tanh(z_g), where no gate sees h; written with torch's own functions."""

    name, gates, saved, has_cell, recurrence, reads_h = "blind", ("d", "g"), (), False, "none", True

    def forward(self, z: Any, before: Any, w_ch: Any = None, mask: Any = None) -> Step:
        z_d, z_g = split(z, 2)
        return Step((), exp(-z_d * z_d) * before.h + torch.tanh(z_g), None)


class Alone(Cell):
    """h' = tanh(z), every unit by itself."""

    name, gates, saved, has_cell, recurrence = "alone", ("h",), (), False, "elementwise"

    def forward(self, z: Any, before: Any, w_ch: Any = None, mask: Any = None) -> Step:
        return Step((), tanh(z), None)


OWN = [Counted(), Blind(), Alone()]
NEW = [SLSTM(heads=2), LSTM(heads=3), GRU(heads=2), MinGRU(), MinLSTM(), JANET(heads=2), IndRNN("relu"), *OWN]
EVERY = pytest.mark.parametrize("cell", NEW, ids=lambda cell: cell.name)


def layer_of(cell: Cell, *sizes: int, step: bool = False, **options: Any) -> Any:
    kind = "LSTM" if cell.has_cell else "GRU" if isinstance(cell, GRU) else "RNN"
    torch.manual_seed(0)
    made = getattr(openlstm, kind + "Cell" * step)(*(sizes or (I, H)), cell=cell, dtype=torch.float64, **options)
    with torch.no_grad():
        for p in made.parameters():
            p.uniform_(-0.7, 0.8)
    return made


def series(*shape: int) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(*(shape or (T, B, I)), dtype=torch.float64)


def parts(state: Any) -> list[Tensor]:
    return list(state) if isinstance(state, tuple) else [state]


@EVERY
def test_a_step_of_the_cell_is_a_step_of_the_layer(cell: Cell) -> None:
    layer, step, x = layer_of(cell), layer_of(cell, step=True), series()
    assert {f"{name}_l0" for name in step.state_dict()} == set(layer.state_dict())
    y, end = layer(x)
    state = None
    for t in range(T):
        state = step(x[t], state)
        assert torch.allclose(parts(state)[0], y[t], rtol=1e-13, atol=1e-15)
    assert type(state) is type(end)
    one = step(x[0, 0])  # without a batch
    assert all(a.shape == (H,) for a in parts(one))


@EVERY
def test_a_stepper_goes_the_way_of_the_layer(cell: Cell) -> None:
    layer, x = layer_of(cell, I, H, 2), series()
    with torch.no_grad():
        y, end = layer(x)
    stepper = Stepper(layer, B)
    for t in range(T):
        out = stepper.step(x[t])
    np.testing.assert_allclose(out, y[-1].numpy(), rtol=1e-13)
    kept = stepper.state
    for mine, theirs in zip([s for s in kept if s is not None], parts(end), strict=True):
        np.testing.assert_allclose(mine, theirs.numpy(), rtol=1e-13)
    again = stepper.step(x[0]).copy()
    stepper.state = end
    assert np.allclose(stepper.step(x[0]), again, rtol=1e-13)


@pytest.mark.parametrize("cell", OWN, ids=lambda cell: cell.name)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_cell_of_ones_own_has_every_option(cell: Cell, bidirectional: bool) -> None:
    """Lengths, resets, zoneout, dropout and checkpoint=, forwards and back."""
    noise: dict[str, Any] = {
        "zoneout_h": 0.2,
        "zoneout_c": 0.3 * cell.has_cell,
        "recurrent_dropout": 0.2 * bool(cell.candidate),
    }
    layer, found = layer_of(cell, I, H, bidirectional=bidirectional, **noise), []
    x, reset = series(600, 2, I), torch.rand(600, 2, generator=torch.Generator().manual_seed(2)) < 0.02
    for every in (None, 256):
        layer.checkpoint = every
        layer.zero_grad()
        torch.manual_seed(3)
        y, end = layer(x, lengths=[600, 431], reset=reset)
        (y.sum() + sum((k + 1) * s.square().sum() for k, s in enumerate(parts(end)))).backward()
        found.append([y.detach(), *[p.grad.clone() for p in layer.parameters()]])
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-13)
    assert not found[0][0][431:, 1].any()


@EVERY
def test_everything_is_seen_by_its_name(cell: Cell) -> None:
    layer, x = layer_of(cell), series()
    found = openlstm.trace(layer, x, loss=lambda y, state: y.square().sum() + sum(s.sum() for s in parts(state)))
    states = cell.states if cell.has_cell else ()
    assert list(found) == [f"0.{name}" for name in (*cell.saved, *states, "h", "dh", *(f"d{name}" for name in states))]
    for name, s in zip(("h", *states), parts(found.state), strict=True):
        assert torch.equal(found[f"0.{name}"][-1], s[0])
    for name in states:
        assert bool((found[f"0.d{name}"][-1] == 1).all())


@EVERY
@pytest.mark.parametrize("backend", BACKENDS)
def test_given_sums_are_what_the_weights_would_make(cell: Cell, backend: str) -> None:
    if backend == "cpu" and not cell.kernel:
        pytest.skip("a cell without a kernel")
    layer = layer_of(cell, I, H, bidirectional=True, backend=backend)
    G = len(cell.gates)
    bare = layer_of(cell, G * H, H, bidirectional=True, backend=backend, input_projection=False)
    assert not any(name.startswith("weight_ih") for name in bare.state_dict())
    with torch.no_grad():
        for name, p in bare.named_parameters():
            p.copy_(getattr(layer, name))
        layer.weight_ih_l0_reverse.copy_(layer.weight_ih_l0)
    x = series().requires_grad_()
    sums = x @ layer.weight_ih_l0.T
    (y, end), (theirs, other) = bare(sums), layer(x)
    for a, b in zip([y, *parts(end)], [theirs, *parts(other)], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    v = torch.randn_like(y)
    (a,), (b,) = torch.autograd.grad(y, x, v), torch.autograd.grad(theirs, x, v)
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_states_have_names_and_can_be_kept() -> None:
    layer = layer_of(SLSTM(2), batch_first=True)
    y, end = layer(series(B, T, I))
    assert end._fields == ("h", "c", "n", "m") and all(s.shape == (1, B, H) for s in end) and bool((end.n > 0).all())
    kept = pickle.loads(pickle.dumps(copy.deepcopy(type(end)(*(s.detach() for s in end)))))
    assert type(kept) is type(end) and torch.equal(layer(series(B, T, I), kept)[0], layer(series(B, T, I), tuple(end))[0])
    fresh = tuple(s[:, 0].detach() for s in end)  # one for all rows
    reset = torch.zeros(B, T, dtype=torch.bool)
    reset[:, 3] = True
    seen, _ = layer(series(B, T, I), reset=reset, reset_state=fresh)
    alone, _ = layer(series(B, T, I)[:, 3:], tuple(s[:, :1].expand(-1, B, -1) for s in end))
    assert torch.allclose(seen[:, 3:], alone, rtol=1e-13)
    run: Any = openlstm.recur(SLSTM(2), series(), layer.weights_of(0), save=True)
    assert run.state._fields == ("h", "c", "n", "m")
    again = openlstm.recur(SLSTM(2), series(), layer.weights_of(0), run.state)
    layer.batch_first = False
    assert torch.equal(again.y, layer(series(), tuple(s[None] for s in run.state))[0])


def test_zoneout_keeps_all_states_of_a_unit_together() -> None:
    layer = layer_of(SLSTM(), zoneout_c=0.5)
    torch.manual_seed(4)
    found = openlstm.trace(layer, series())
    kept = [(found[f"0.{name}"][1:] == found[f"0.{name}"][:-1]) for name in "cnm"]
    assert torch.equal(kept[0], kept[1]) and torch.equal(kept[0], kept[2]) and 0.2 < float(kept[0].double().mean()) < 0.8


def test_an_edit_of_a_state_changes_it_alone() -> None:
    layer, x = layer_of(SLSTM(2)), series()
    for name in "cnm":
        with openlstm.edit(layer, f"0.{name}", clamp=0.5):
            seen = openlstm.trace(layer, x)
        assert bool((seen[f"0.{name}"] == 0.5).all())
        assert not any(bool((seen[f"0.{other}"] == 0.5).any()) for other in set("cnm") - {name})


def test_a_unit_begins_anew_where_n_is_0_whatever_c_and_m_are() -> None:
    """Then m' is z_i, and a forget gate that would be above 1 is 1, without a slope: in the kernel as in the equations."""
    torch.manual_seed(3)
    runs = []
    for backend in BACKENDS:
        layer = openlstm.LSTM(3, 18, dtype=torch.float64, cell=cells.SLSTM(), backend=backend)
        draws = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for w in layer.parameters():
                w.normal_(generator=draws)
        x, c, n, m, dy = (torch.randn(k, 18, dtype=torch.float64, generator=draws) for k in (7, 7, 7, 7, 7))
        n = n.abs() * (torch.arange(18) % 2)
        leaves = [a[None].requires_grad_() for a in (torch.zeros_like(c), c, n, 3 * m)]
        y, state = layer(x[None, :, :3], tuple(leaves))
        loss = (y[0] * dy).sum() + (state.c[0] * dy.flip(1)).sum()
        runs.append([y, *state, *torch.autograd.grad(loss, [*leaves, *layer.parameters()])])
    kept = torch.nn.functional.logsigmoid(torch.zeros(1)) + 3 * m
    assert bool((kept[:, ::2] > 0).any()) and all(torch.isfinite(a).all() for a in runs[0])
    for run in runs[1:]:
        for a, b in zip(run, runs[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_slstm_begins_as_its_authors_do() -> None:
    layer = openlstm.nn.init.slstm(openlstm.LSTM(I, H, 2, cell=SLSTM(2), bidirectional=True))
    k = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    for n in (0, 1):
        wanted = (5 - 12 * k ** (0.3 + 1.3 * n)).repeat(2)
        for end in ("", "_reverse"):
            biases = getattr(layer, f"bias_ih_l{n}{end}").double()
            torch.testing.assert_close(biases[H : 2 * H], wanted, rtol=1e-6, atol=1e-6)
            assert not biases[:H].any() and not biases[2 * H :].any() and not getattr(layer, f"weight_hh_l{n}{end}").any()


@pytest.mark.parametrize("cell", [LSTM(heads=2), IndRNN("relu")], ids=repr)
def test_every_head_begins_orthogonal(cell: Cell) -> None:
    layer = openlstm.nn.init.orthogonal(layer_of(cell), 0.5)
    heads = H if cell.recurrence == "elementwise" else cell.heads
    for w in layer.weight_hh_l0.view(len(cell.gates) * heads, H // heads, H // heads):
        torch.testing.assert_close(w @ w.T, 0.25 * torch.eye(H // heads, dtype=torch.float64))
    if isinstance(cell, IndRNN):
        assert bool((openlstm.nn.init.identity(layer).weight_hh_l0 == 1).all())


class Short(Counted):
    """Returns c alone."""

    def forward(self, z: Any, before: Any, w_ch: Any = None, mask: Any = None) -> Step:
        step = super().forward(z, before, w_ch, mask)
        return step._replace(c=split(step.c, 2)[0])


class Twice(Counted):
    states = ("c", "c")


class Unknown(Alone):
    recurrence = "block"


REFUSED: dict[str, tuple[Any, type[OpenLSTMError], str]] = {
    "heads that do not divide": (
        lambda: openlstm.LSTM(3, 6, cell=SLSTM(heads=4)),
        ArgumentError,
        "SLSTM: hidden_size 6 is not made of 4 heads\n"
        "  got       hidden_size=6\n"
        "  expected  a multiple of heads=4\n"
        "  hint      take hidden_size=4, or other heads",
    ),
    "heads and blocks": (
        lambda: openlstm.LSTM(3, 6, cell=LSTM(heads=2, cells_per_gate=2)),
        ArgumentError,
        "LSTM: a head of 3 units is not made of blocks of 2\n"
        "  got       hidden_size=6, heads=2\n"
        "  expected  a multiple of heads * cells_per_gate = 4\n"
        "  hint      take hidden_size=4, or another cells_per_gate",
    ),
    "heads that are none": (
        lambda: SLSTM(heads=0),
        ArgumentError,
        "SLSTM: the units cannot be in 0 heads\n"
        "  got       heads=0\n"
        "  expected  an integer from 1\n"
        "  hint      a unit sees the h of its own head alone: 1 for all of h",
    ),
    "heads with a projection": (
        lambda: openlstm.LSTM(3, 6, cell=LSTM(heads=2), proj_size=2),
        ArgumentError,
        "LSTM: cannot be projected: a unit does not see all of h\n"
        "  got       proj_size=2, heads=2\n"
        "  expected  proj_size=0\n"
        "  hint      take proj_size=0, or a cell that sees all of h",
    ),
    "a projection of what a step reads": (
        lambda: openlstm.RNN(3, 6, cell=JANET(), proj_size=2),
        ArgumentError,
        "JANET: cannot be projected: a step reads what each unit put out\n"
        "  got       proj_size=2\n"
        "  expected  proj_size=0\n"
        "  hint      take proj_size=0, or a cell with a cell state beside h",
    ),
    "an unknown recurrence": (
        lambda: openlstm.RNN(3, 6, cell=Unknown()),
        ArgumentError,
        "Unknown: unknown recurrence\n"
        "  got       recurrence='block'\n"
        "  expected  'dense' or 'elementwise' or 'none'\n"
        "  hint      'dense' is that of the LSTM",
    ),
    "states of one name": (
        lambda: openlstm.LSTM(3, 6, cell=Twice()),
        ArgumentError,
        "Twice: the states cannot be told apart\n"
        "  got       states=('c', 'c')\n"
        "  expected  different names, none of them 'h'\n"
        "  hint      states = ('c',) for one",
    ),
    "a state too few from a cell": (
        lambda: layer_of(Short())(series()),
        ShapeError,
        "Short: forward returned a wrong c\n"
        "  got       c: float64[4, 6]\n"
        "  expected  [B, 2*H] = float64[4, 12]\n"
        "  hint      put the states c, k side by side: concat([c, k])",
    ),
    "a state too few for a layer": (
        lambda: layer_of(SLSTM())(series(), (torch.zeros(1, B, H), torch.zeros(1, B, H))),
        DtypeError,
        "LSTM: hx is not (h, c, n, m)\n"
        "  got       hx: tuple of 2\n"
        "  expected  (h [L*D, B, R], c [L*D, B, H], n [L*D, B, H], m [L*D, B, H])\n"
        "  hint      pass all; torch.zeros(L*D, B, H) where the cell begins empty",
    ),
    "a state of another width": (
        lambda: layer_of(SLSTM())(series(), tuple(torch.zeros(1, B, n, dtype=torch.float64) for n in (6, 6, 5, 6))),
        ShapeError,
        "LSTM: hx[2], n, has 5 units, expected 6\n"
        "  got       hx[2]: float64[1, 4, 5], x: float64[6, 4, 3]  (batch_first=False: [T, B, I])\n"
        "  expected  [1, 4, 6] = [L*D, B, H]\n"
        "  hint      h has proj_size units where there is a projection, c always has hidden_size",
    ),
    "a state too few for a cell": (
        lambda: layer_of(SLSTM(), step=True)(series()[0], (series(B, H), series(B, H))),
        DtypeError,
        "LSTMCell: hx is not (h, c, n, m)\n"
        "  got       hx: tuple of 2\n"
        "  expected  (h [B, H], c [B, H], n [B, H], m [B, H])\n"
        "  hint      pass h, c, n, m",
    ),
    "a state too few for recur": (
        lambda: openlstm.recur(SLSTM(), series(), layer_of(SLSTM()).weights_of(0), State(series(B, H), series(B, H))),
        ArgumentError,
        "recur: state is not (h, c, n, m)\n"
        "  got       state: State of 2\n"
        "  expected  (h, c, n, m): h [B, R], the others [B, H]\n"
        "  hint      give what `recur` gave, or zeros where the row begins",
    ),
    "sums of another size": (
        lambda: openlstm.LSTM(3, 6, cell=SLSTM(), input_projection=False),
        ArgumentError,
        "LSTM: input_projection=False needs the sums of 4 gates of 6 units, input_size is 3\n"
        "  got       input_size=3\n"
        "  expected  input_size=24: gates * hidden_size\n"
        "  hint      x holds what W_ih x would be, gate by gate in the order i, f, g, o",
    ),
    "sums of another size for recur": (
        lambda: openlstm.recur(MinGRU(), series(), layer_of(MinGRU()).weights_of(0)._replace(w_ih=None)),
        ShapeError,
        "recur: without w_ih x is the sums of 2 gates, 12 numbers, and has 3\n"
        "  got       x: float64[6, 4, 3], [T, B, 2*H]\n"
        "  expected  [T, B, 12]\n"
        "  hint      pass w_ih, or the sums of W x of the gates u, g, one gate after the other",
    ),
    "sums of shared gates": (
        lambda: openlstm.LSTM(24, 6, cell=LSTM(cells_per_gate=2), input_projection=False),
        ArgumentError,
        "LSTM: input_projection=False with gates that cells share\n"
        "  got       cell: LSTM(cells_per_gate=2)\n"
        "  expected  cells_per_gate=1\n"
        "  hint      take cells_per_gate=1, or give every gate the sums of its own",
    ),
    "dropout of what is not fed back": (
        lambda: openlstm.RNN(3, 6, cell=MinGRU(), hidden_dropout=0.1),
        ArgumentError,
        "RNN: hidden_dropout without a product with h\n"
        "  got       hidden_dropout: 0.1, cell: MinGRU()\n"
        "  expected  hidden_dropout=0\n"
        "  hint      use input_dropout, or recurrent_dropout on the candidate",
    ),
    "torch.nn's layer": (
        lambda: layer_of(LSTM(heads=2)).to_torch(),
        ArgumentError,
        "LSTM.to_torch: torch.nn has no LSTM(heads=2)\n"
        "  got       cell: LSTM(heads=2)\n"
        "  expected  cells.LSTM()\n"
        "  hint      keep the openlstm layer",
    ),
    "torch.nn's cell": (
        lambda: layer_of(MinGRU(), step=True).to_torch(),
        ArgumentError,
        "RNNCell.to_torch: torch.nn has no MinGRU()\n"
        "  got       cell: MinGRU()\n"
        "  expected  cells.VanillaRNN()\n"
        "  hint      keep the openlstm cell",
    ),
    "a beta that is no number": (
        lambda: JANET(beta=float("inf")),
        ArgumentError,
        "JANET: beta is not a finite number\n"
        "  got       beta=inf\n"
        "  expected  a finite number\n"
        "  hint      the paper takes beta=1.0; 0.0 makes i = 1 - f",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_with_this_text(name: str) -> None:
    wrong, kind, text = REFUSED[name]
    with pytest.raises(kind) as caught:
        wrong()
    assert str(caught.value) == text


def test_functions_are_those_of_numpy_and_torch() -> None:
    x = np.array([-800.0, -30.0, -1.0, 0.0, 0.5, 40.0, 800.0])
    for name in ("logsigmoid", "softplus"):
        ours, theirs = getattr(cells, name)(x), getattr(cells, name)(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(ours, theirs, rtol=1e-14)
    assert cells.logsigmoid(x)[0] == -800 and cells.softplus(x)[-1] == 800
    a, b = np.array([1.0, np.nan, 3.0]), np.array([2.0, 0.0, 1.0])
    for name in ("maximum", "minimum", "exp", "log"):
        given = (a, b) if name.endswith("imum") else (b + 1,)
        np.testing.assert_allclose(getattr(cells, name)(*given), getattr(cells, name)(*map(torch.from_numpy, given)).numpy())
    assert weights.recurrent_size(SLSTM(4), 8) == 2
