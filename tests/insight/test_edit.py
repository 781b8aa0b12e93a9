"""An edited run equals the same run made by hand, and afterwards nothing is left."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import openlstm
from openlstm import cells
from openlstm.errors import ArgumentError, DtypeError, ShapeError
from openlstm.insight.capture import capture_layers
from openlstm.insight.edit import edit, edits, names

T, B, I, H = 7, 3, 4, 5
EVERY = [*cells.ALL, cells.LSTM(clip=0.3), cells.LSTM(cells_per_gate=5), cells.LSTM1997(cells_per_gate=5)]
CELLS = pytest.mark.parametrize("cell", EVERY, ids=repr)


class Leaky(cells.Cell):
    """A cell of somebody's own: c' = f c + (1 - f) g;  h' = c'."""

    name, gates, saved, has_cell = "leaky", ("f", "g"), ("f", "g"), True

    def forward(self, z: Any, before: cells.State, w_ch: Any = None, mask: Any = None) -> cells.Step:
        z_f, z_g = z.chunk(2, -1)
        f, g = torch.sigmoid(z_f), torch.tanh(z_g)
        old: Any = before.c
        c = f * old + (1 - f) * g
        return cells.Step((f, g), c.clone(), c)


def layer(cell: cells.Cell | None = None, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    options = {"dtype": torch.float64, **options}
    if cell is None or cell.has_cell:
        made: Any = openlstm.LSTM(I, H, cell=cell, **options)
    else:
        made = (openlstm.GRU if isinstance(cell, cells.GRU) else openlstm.RNN)(I, H, cell=cell, **options)
    for p in made.parameters():
        nn.init.normal_(p, std=0.5)
    return made


def data(seed: int = 1, steps: int = T) -> Tensor:
    return torch.randn(steps, B, I, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def begin(made: Any, seed: int = 2) -> Any:
    generator = torch.Generator().manual_seed(seed)
    rows = made.num_layers * made.num_directions
    h = torch.rand(rows, B, made.fed_back_size, dtype=torch.float64, generator=generator)
    others = [torch.rand(rows, B, H, dtype=torch.float64, generator=generator) for _ in made.cell.states]
    return (h, *others) if made.cell.has_cell else h


def flat(result: Any) -> list[Tensor]:
    y, state = result
    return [y.data if hasattr(y, "batch_sizes") else y, *(state if isinstance(state, tuple) else (state,))]


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(p, q) for p, q in zip(flat(a), flat(b), strict=True))


def close(a: Any, b: Any) -> None:
    for p, q in zip(flat(a), flat(b), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


def without_unit(made: Any, x: Tensor, state: Any, unit: int) -> Any:
    """Step by step by the unedited layer, h of one unit zeroed by hand after every step."""
    ys = []
    width = made.proj_size or H
    keep = torch.ones(width, dtype=x.dtype)
    keep[unit] = 0
    for t in range(len(x)):
        y, state = made(x[t : t + 1], state)
        h, *c = state if isinstance(state, tuple) else (state,)
        h = torch.cat([h[..., :width] * keep, h[..., width:]], -1)
        state = (h, *c) if c else h
        ys.append(y * keep)
    return torch.cat(ys), state


@CELLS
def test_an_ablated_unit_is_a_unit_zeroed_in_a_loop_forward_and_backward(cell: cells.Cell) -> None:
    made, x = layer(cell), data()
    wanted = without_unit(made, x, begin(made), 3)
    with edit(made, "0.h", ablate=True, units=3):
        got = made(x, begin(made))
    close(got, wanted)
    weights = list(made.parameters())
    cotangents = [torch.randn_like(a) for a in flat(got)]
    a = torch.autograd.grad(flat(got), weights, cotangents)
    b = torch.autograd.grad(flat(wanted), weights, cotangents)
    for p, q in zip(a, b, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


def test_with_a_projection_h_is_what_is_projected() -> None:
    made, x = layer(proj_size=2), data()
    with edit(made, "0.h", ablate=True, units=[1]):
        close(made(x, begin(made)), without_unit(made, x, begin(made), 1))
    assert names(made)[-1] == "0.h"
    with pytest.raises(ArgumentError, match=r"integers within 0 \.\. 1"):
        edit(made, "0.h", ablate=True, units=[2])


@pytest.mark.parametrize("kind", ["ours", "torch"])
def test_f_open_and_i_closed_keep_the_cell_for_ever(kind: str) -> None:
    made = layer() if kind == "ours" else layer().to_torch()
    x, (h, c) = data(steps=300), begin(layer())
    with edit(made, "0.f", clamp=1.0), edit(made, "0.i", clamp=0.0):
        _, (_, end) = made(x, (h, c))
    assert torch.equal(end, c)
    with edit(made, "0.f", clamp=0), edit(made, "0.i", clamp=1):
        _, (_, end) = made(x, (h, c))
        _, (_, other) = made(x, (h, c + 9))
    assert torch.equal(end, other)  # started afresh


def by_hand(made: Any, x: Tensor, state: Any, change: Any) -> Any:
    """The LSTM's equations written once more, with `change(name, value, t)` behind each."""
    w = made.weights_of(0)
    h, c = state[0][0], state[1][0]
    ys = []
    for t in range(len(x)):
        z = x[t] @ w.w_ih.T + w.b_ih + h @ w.w_hh.T + w.b_hh
        z_i, z_f, z_g, z_o = z.chunk(4, -1)
        i, f = change("i", z_i.sigmoid(), t), change("f", z_f.sigmoid(), t)
        g, o = change("g", z_g.tanh(), t), change("o", z_o.sigmoid(), t)
        c = change("c", f * c + i * g, t)
        h = change("h", o * c.tanh(), t)
        ys.append(h)
    return torch.stack(ys), (h[None], c[None])


@pytest.mark.parametrize("array", ["i", "f", "g", "o", "c", "h"])
@pytest.mark.parametrize("kind", ["clamp", "scale", "freeze"])
def test_every_value_of_an_lstm_can_be_changed_and_all_that_follows_sees_it(array: str, kind: str) -> None:
    made, x, units = layer(), data(), [0, 4]
    held: dict[str, Tensor] = {}

    def change(name: str, value: Tensor, t: int) -> Tensor:
        if name != array:
            return value
        first = held.setdefault(name, value)
        new = {"clamp": torch.full_like(value, 0.7), "scale": value * 1.5, "freeze": first}[kind]
        on = torch.tensor([k in units for k in range(H)])
        return torch.where(on, new, value)

    options: dict[str, Any] = {"clamp": {"clamp": 0.7}, "scale": {"scale": 1.5}, "freeze": {"freeze": True}}[kind]
    with edit(made, f"0.{array}", units=units, **options):
        got = made(x, begin(made))
        seen = openlstm.trace(made, x, begin(made))
    wanted = by_hand(made, x, begin(made), change)
    close(got, wanted)
    torch.testing.assert_close(seen.y, wanted[0])
    a = torch.autograd.grad(got[0].sum() + got[1][1].sum(), list(made.parameters()))
    b = torch.autograd.grad(wanted[0].sum() + wanted[1][1].sum(), list(made.parameters()))
    for p, q in zip(a, b, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


@CELLS
def test_every_name_of_every_cell_is_one_of_its_trace_and_shows_the_edit_there(cell: cells.Cell) -> None:
    made, x = layer(cell), data()
    found = names(made)
    assert found == tuple(openlstm.trace(made, x))
    plain = made(x, begin(made))
    for name in found:
        with edit(made, name, scale=1.0):
            close(made(x, begin(made)), plain)
        with edit(made, name, clamp=0.25, units=[1, 3]):
            got = openlstm.trace(made, x, begin(made))[name]
        assert bool((got[..., [1, 3]] == 0.25).all())
        assert not bool((got[..., [0, 2, 4]] == 0.25).any())


def test_a_cell_of_your_own_can_be_edited() -> None:
    with pytest.warns(RuntimeWarning, match="no kernel"):
        made = layer(Leaky())
        made(data())
    x, (h, c) = data(), begin(made)
    with edit(made, "0.f", clamp=1.0):
        assert torch.equal(made(x, (h, c))[1][1], c)
    with edit(made, "0.c", ablate=True, units=0):
        y, (_, end) = made(x, (h, c))
    assert bool((end[..., 0] == 0).all()) and bool((y[..., 0] == 0).all())


def test_a_gate_that_is_not_made_by_an_operation_is_refused() -> None:
    class Hidden(Leaky):
        def forward(self, z: Any, before: cells.State, w_ch: Any = None, mask: Any = None) -> cells.Step:
            step = super().forward(z, before)
            return step._replace(gates=(z.data[:, :H], step.gates[1])) if z.shape[0] == 0 else step._replace(c=before.c)

    made = openlstm.LSTM(I, H, cell=Hidden())
    with edit(made, "0.c", ablate=True), pytest.raises(ArgumentError) as error:
        made(torch.zeros(T, B, I))
    assert str(error.value) == (
        "edit: cannot change c of Hidden(): no operation of its forward has c as its result\n"
        "  got       cell: Hidden\n"
        "  expected  gates that forward makes and hands out\n"
        "  hint      edit h, or write the gate as one tensor operation"
    )


def test_freeze_holds_what_a_row_had_at_its_first_step_and_a_reset_begins_anew() -> None:
    made, x = layer(bidirectional=True), data()
    lengths = [7, 4, 1]
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[3, 0] = reset[2, 1] = True
    with edit(made, "0.f", freeze=True), edit(made, "0_reverse.f", freeze=True):
        seen = openlstm.trace(made, x, lengths=lengths, reset=reset)
    plain = openlstm.trace(made, x, lengths=lengths, reset=reset)

    def held(f: Tensor, row: int, begin: int, end: int, first: int) -> None:
        assert bool((f[begin:end, row] == f[first, row]).all())

    for name, firsts in (("0.f", (0, 3, 0, 2)), ("0_reverse.f", (2, 6, 1, 3))):
        f = seen[name]
        held(f, 0, 0, 3, firsts[0])
        held(f, 0, 3, 7, firsts[1])
        held(f, 1, 0, 2, firsts[2])
        held(f, 1, 2, 4, firsts[3])
        assert not torch.equal(f[0, 0], f[3, 0])
        assert bool((f[4:, 1] == 0).all())  # past the length
        start = max(firsts[:2]) if name == "0_reverse.f" else 0
        torch.testing.assert_close(f[start, 0], plain[name][start, 0])  # nothing is changed before there is something to hold


@pytest.mark.parametrize("name", ["0.f", "0_reverse.o", "1.h", "1_reverse.c"])
def test_one_direction_of_one_layer_is_edited_and_no_other(name: str) -> None:
    made, x = layer(num_layers=2, bidirectional=True), data()
    place = name.split(".")[0]
    with edit(made, name, clamp=0.5):
        got = openlstm.trace(made, x)
    plain = openlstm.trace(made, x)
    before = ["0", "0_reverse"] if place.startswith("1") else []
    for key in got:
        if key.split(".")[0] in before:
            assert torch.equal(got[key], plain[key])
    assert bool((got[name] == 0.5).all()) and not torch.equal(got.y, plain.y)


class Model(nn.Module):
    """Two recurrent layers of torch.nn and one of ours, and something around them."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Linear(I, I)
        self.encoder = nn.ModuleDict({"lstm": nn.LSTM(I, H, num_layers=2, bidirectional=True, batch_first=True, dropout=0.3)})
        self.gru = nn.GRU(2 * H, H, batch_first=True)
        self.ours = openlstm.LSTM(H, H, batch_first=True, cell=cells.Peephole())
        self.head = nn.Linear(H, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.encoder["lstm"](self.front(x))[0]
        return self.head(self.ours(self.gru(y)[0])[0])


def model(seed: int = 3) -> tuple[Model, Tensor]:
    torch.manual_seed(seed)
    return Model().double(), torch.randn(B, T, I, dtype=torch.float64)


def everything(module: nn.Module) -> dict[str, Any]:
    """All that a module is made of, down to what hangs on its instances."""
    return {
        path: {
            key: (list(value.items()) if isinstance(value, dict) else list(value) if isinstance(value, set) else value)
            for key, value in vars(m).items()
        }
        for path, m in module.named_modules()
    }


def alike(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for path in a:
        assert a[path].keys() == b[path].keys(), path
        for key in a[path]:
            one, two = a[path][key], b[path][key]
            if isinstance(one, list):
                assert len(one) == len(two), (path, key)
                for p, q in zip(one, two, strict=True):
                    p, q = (p, q) if isinstance(p, tuple) else ((p,), (q,))
                    assert all(u is v or (not isinstance(u, Tensor) and u == v) for u, v in zip(p, q, strict=True)), (path, key)
            else:
                assert one is two or one == two, (path, key)


EDITS = ["encoder.lstm.0.f", "encoder.lstm.1_reverse.c", "gru.0.z", "ours.0.o", "ours.0.h"]


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("training", [False, True])
def test_nothing_is_left_behind(name: str, training: bool) -> None:
    net, x = model()
    net.train(training)
    net.gru.eval()
    torch.manual_seed(5)
    wanted, before = net(x), everything(net)
    with pytest.raises(ZeroDivisionError), edit(net, name, clamp=0.1) as given:
        assert given is net and edits(net) == (name,)
        assert not torch.equal(net(x), wanted)
        _ = 1 / 0
    alike(everything(net), before)
    assert edits(net) == ()
    torch.manual_seed(5)
    assert torch.equal(net(x), wanted)


def test_an_exception_inside_the_model_leaves_nothing_either() -> None:
    net, x = model()
    before = everything(net)
    with pytest.raises(ShapeError, match="LSTM: x has 1 axis"), edit(net, "ours.0.f", clamp=1.0):
        with edit(net, "encoder.lstm.0.f", ablate=True):
            net(x[0, 0])
    alike(everything(net), before)


def test_edits_nest_and_end_in_any_order() -> None:
    net, x = model()
    net.eval()
    plain = net(x)
    first, second = edit(net, "ours.0.f", clamp=0.5), edit(net, "ours.0.f", scale=0.5, units=[0])
    first.__enter__()
    once = net(x)
    second.__enter__()
    assert edits(net) == ("ours.0.f", "ours.0.f")
    both = net(x)
    f = openlstm.trace(net.ours, torch.zeros(1, 1, H, dtype=torch.float64))["0.f"]
    assert f.ravel().tolist() == [0.25, *[0.5] * (H - 1)]  # in the order in which they were entered
    first.__exit__(None, None, None)
    alone = net(x)
    second.__exit__(None, None, None)
    assert torch.equal(net(x), plain)
    assert len({a.sum().item() for a in (plain, once, both, alone)}) == 4


def test_a_layer_of_torch_runs_as_ours_does() -> None:
    ours = layer(num_layers=2, bidirectional=True, batch_first=True, proj_size=3, dropout=0.4)
    theirs = ours.to_torch()
    x = data().transpose(0, 1)
    packed = pack_padded_sequence(x, torch.tensor([7, 5, 2]), batch_first=True)
    for training in (False, True):
        ours.train(training)
        theirs.train(training)
        for given in (x, packed, x[0]):
            for name in ("0.f", "1_reverse.h"):
                torch.manual_seed(0)
                with edit(ours, name, clamp=0.3):
                    wanted = ours(given)
                torch.manual_seed(0)
                with edit(theirs, name, clamp=0.3):
                    got = theirs(given)
                assert same(got, wanted)
                torch.testing.assert_close(flat(theirs(given))[0].shape, flat(got)[0].shape)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_an_edit_that_changes_nothing_gives_the_numbers_of_torch(kind: str) -> None:
    torch.manual_seed(0)
    theirs = getattr(nn, kind)(I, H, num_layers=2, dtype=torch.float64, **({"nonlinearity": "relu"} if kind == "RNN" else {}))
    with edit(theirs, "1.h", scale=1.0):
        got = theirs(data())
    close(got, theirs(data()))
    assert [name.split(".")[1] for name in names(theirs)[: len(names(theirs)) // 2]] == {
        "LSTM": list("ifgoch"),
        "GRU": list("rznmh"),
        "RNN": ["h"],
    }[kind]


@pytest.mark.parametrize("options", [{"clamp": 0.3}, {"scale": 1.2, "units": [1]}, {"freeze": True}], ids=str)
def test_derivatives_of_an_edited_layer_are_right_twice_and_by_sample(options: dict[str, Any]) -> None:
    made, x = layer(cells.Peephole()), data(steps=4).requires_grad_()
    with edit(made, "0.f", **options):
        assert torch.autograd.gradcheck(lambda x: made(x)[0], x)
        assert torch.autograd.gradgradcheck(lambda x: made(x)[0], x)
        weights = {name: p.detach() for name, p in made.named_parameters()}

        def total(p: dict[str, Tensor], row: Tensor) -> Tensor:
            return torch.func.functional_call(made, p, (row,))[0].sum()

        each = torch.func.vmap(torch.func.grad(total), in_dims=(None, 1))(weights, x.detach())
        wanted = torch.autograd.grad(made(x)[0].sum(), list(made.parameters()))
    for a, b in zip(each.values(), wanted, strict=True):
        torch.testing.assert_close(a.sum(0), b)


@pytest.mark.parametrize("shape", [(0, B), (T, 0)], ids=["no steps", "no rows"])
def test_an_empty_batch(shape: tuple[int, int]) -> None:
    made = layer(bidirectional=True)
    for options in ({"clamp": 0.5}, {"freeze": True}):
        with edit(made, "0_reverse.c", **options):  # type: ignore[arg-type]
            assert made(torch.zeros(*shape, I, dtype=torch.float64))[0].shape == (*shape, 2 * H)


def test_training_goes_through_an_edit_and_its_steps_are_seen_inside_and_after() -> None:
    net, x = model()
    torch.manual_seed(0)
    target = torch.randn(B, T, 1, dtype=torch.float64)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
    net.eval()
    untrained = net(x)
    with edit(net, "encoder.lstm.0.o", clamp=1.0), edit(net, "ours.0.h", ablate=True, units=[2]):
        losses = []
        for _ in range(60):
            optimiser.zero_grad()
            loss = ((net(x) - target) ** 2).mean()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        rows: Any = net.encoder["lstm"].weight_ih_l0.grad
        assert bool((rows[3 * H :] == 0).all()) and bool((rows[: 3 * H] != 0).any())  # a clamped gate learns nothing
        assert bool((net.head.weight.grad[:, 2] == 0).all())  # type: ignore[index]
    assert losses[-1] < 0.7 * losses[0]
    assert not torch.equal(net(x), untrained)


def test_a_run_in_chunks_is_the_run_as_a_whole() -> None:
    made, x = layer(num_layers=2), data()
    with edit(made, "0.f", clamp=0.9), edit(made, "1.c", scale=0.5, units=[1]), edit(made, "1.h", ablate=True, units=[0]):
        whole = made(x, begin(made))
        state, ys = begin(made), []
        for part in x.split(3):
            y, state = made(part, state)
            ys.append(y)
    close((torch.cat(ys), state), whole)


def test_ragged_rows_and_resets_hold_inside_an_edit() -> None:
    made, x = layer(), data()
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[4, 0] = True
    with edit(made, "0.f", clamp=0.9), edit(made, "0.c", scale=0.5, units=[1]):
        y, _ = made(x, begin(made), lengths=[7, 4, 0], reset=reset)
        assert bool((y[4:, 1] == 0).all()) and bool((y[:, 2] == 0).all())
        torch.testing.assert_close(y[4:, :1], made(x[4:, :1])[0])
        torch.testing.assert_close(y[:4, 1:2], made(x[:4, 1:2], tuple(s[:, 1:2] for s in begin(made)))[0])
        total = torch.tensor([0, 7, 7, 11])
        y, _ = made(torch.cat([x[:, 0], x[:4, 1]]), cu_seqlens=total)
        torch.testing.assert_close(y[:7], made(x[:, :1])[0][:, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_types(dtype: torch.dtype) -> None:
    made = layer(dtype=dtype)
    x = data().to(dtype)
    with edit(made, "0.f", scale=1.0):
        got = made(x)
    assert all(a.dtype == dtype for a in flat(got))
    apart = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 2e-2}[dtype]  # an edit multiplies in float32
    for a, b in zip(flat(got), flat(made(x)), strict=True):
        torch.testing.assert_close(a, b, rtol=apart, atol=apart / 10)


def test_autocast_gives_an_edit_the_types_it_gives_the_layer() -> None:
    made, x = layer(dtype=torch.float32), data().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with edit(made, "0.f", scale=1.0):
            got = made(x)
        assert [a.dtype for a in flat(got)] == [a.dtype for a in flat(made(x))]


def test_noise_acts_in_an_edit_as_outside() -> None:
    made, x = layer(zoneout_h=0.2, zoneout_c=0.3, recurrent_dropout=0.2, hidden_dropout=0.3), data()
    for training in (True, False):
        made.train(training)
        torch.manual_seed(0)
        with edit(made, "0.f", scale=1.0):
            got = made(x)
        torch.manual_seed(0)
        close(got, made(x))


def test_a_copy_made_inside_an_edit_is_edited_on_its_own_weights() -> None:
    for made in (layer(), layer().to_torch()):
        x = data()
        with edit(made, "0.f", clamp=0.5):
            twin = copy.deepcopy(made)
            again = pickle.loads(pickle.dumps(made))
            wanted = made(x)[0]
        with torch.no_grad():
            made.weight_ih_l0.add_(1)
        assert torch.equal(twin(x)[0], wanted) and torch.equal(again(x)[0], wanted)
        assert edits(twin) == ("0.f",) and edits(made) == ()
        assert made.state_dict().keys() == twin.state_dict().keys()


def test_nobody_takes_an_edited_layer_for_what_its_weights_say() -> None:
    made, x = layer(), data()
    with edit(made, "0.f", clamp=1.0):
        with pytest.raises(ArgumentError, match="edit: an edited layer does not do what its weights say"):
            openlstm.trace(made, x, loss=lambda y, state: y.sum())
        with pytest.raises(ArgumentError, match="an edited layer does not do"):
            capture_layers(made, x)
    theirs = made.to_torch()
    with edit(theirs, "0.f", clamp=1.0):
        assert bool((openlstm.trace(theirs, x)["0.f"] == 1).all())
        with pytest.raises(ArgumentError, match="an edited layer does not do"):
            openlstm.trace(theirs, x, loss=lambda y, state: y.sum())
        with pytest.raises(ArgumentError, match="edited"):
            capture_layers(theirs, x)
    openlstm.trace(theirs, x)


def test_a_parametrised_and_a_shared_layer_of_torch() -> None:
    shared = nn.LSTM(I, I)
    net = nn.ModuleList([shared, shared])
    assert names(net)[:1] == ("0.0.i",) and "1.0.i" in names(net)
    nn.utils.parametrizations.weight_norm(shared, "weight_hh_l0")
    x = torch.randn(T, B, I)
    plain = shared(x)
    with edit(net, "1.0.g", scale=1.0):
        got = shared(x)
        assert edits(net) == ("1.0.g",)
    for a, b in zip(flat(got), flat(plain), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["ours", "torch"])
def test_a_compiled_model_sees_an_edit_and_forgets_it(kind: str) -> None:
    net = nn.ModuleDict({"lstm": openlstm.LSTM(I, H) if kind == "ours" else nn.LSTM(I, H)})
    run = torch.compile(lambda x: net["lstm"](x)[0] * 2, backend="eager")
    x = torch.randn(T, B, I)
    with torch.no_grad():
        plain = run(x)
        with edit(net, "lstm.0.f", clamp=0.1):
            torch.testing.assert_close(run(x), net["lstm"](x)[0] * 2)
            assert not torch.equal(run(x), plain)
        assert torch.equal(run(x), plain)


def refused(kind: type[Exception], *args: Any, **options: Any) -> str:
    with pytest.raises(kind) as error:
        edit(*args, **options)
    return str(error.value)


def test_an_unknown_name_lists_what_there_is() -> None:
    net = nn.ModuleDict({"lstm": nn.LSTM(I, H), "gru": openlstm.GRU(I, H)})
    assert refused(ArgumentError, net, "lstm.0.r", clamp=1.0) == (
        "edit: there is no 'lstm.0.r' in the model\n"
        "  got       'lstm.0.r'\n"
        "  expected  lstm.0.i, lstm.0.f, lstm.0.g, lstm.0.o, lstm.0.c, lstm.0.h, gru.0.r, gru.0.z, gru.0.n, gru.0.m, gru.0.h\n"
        "  hint      the path of the layer, its number, and a gate, c or h: the names of openlstm.trace"
    )
    assert "there is no 3 in the model" in refused(ArgumentError, net, 3, clamp=1.0)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {},
            "edit: 0.f with no change\n  got       none\n  expected  one of clamp=, scale=, freeze=True, ablate=True\n"
            "  hint      clamp=1.0, say",
        ),
        (
            {"clamp": 1.0, "ablate": True},
            "edit: 0.f with several changes\n  got       clamp=1.0, ablate=True\n"
            "  expected  one of clamp=, scale=, freeze=True, ablate=True\n"
            "  hint      several edits nest: with edit(...), edit(...):",
        ),
        (
            {"clamp": float("nan")},
            "edit: cannot clamp 0.f by this\n  got       clamp=nan\n  expected  a finite number\n"
            "  hint      a gate is within 0 .. 1, a candidate and h within -1 .. 1: clamp=0.5, say",
        ),
        (
            {"scale": "2"},
            "edit: cannot scale 0.f by this\n  got       scale='2'\n  expected  a finite number\n"
            "  hint      a gate is within 0 .. 1, a candidate and h within -1 .. 1: scale=0.5, say",
        ),
        (
            {"freeze": 0.5},
            "edit: freeze is a switch\n  got       freeze=0.5\n  expected  True or False\n"
            "  hint      freeze=True; clamp=v sets a value",
        ),
        (
            {"ablate": True, "units": [0, H]},
            "edit: 0.f has no unit 5\n  got       units=[0, 5]\n  expected  integers within 0 .. 4\n"
            "  hint      units count from 0; leave units out for all",
        ),
        (
            {"ablate": True, "units": []},
            "edit: no unit is named\n  got       units=[]\n  expected  integers within 0 .. 4\n"
            "  hint      units count from 0; leave units out for all",
        ),
    ],
    ids=["nothing", "two", "nan", "text", "freeze", "unit", "none"],
)
def test_what_cannot_be_is_said(options: dict[str, Any], text: str) -> None:
    assert refused(ArgumentError, openlstm.LSTM(I, H), "0.f", **options) == text


def test_a_model_without_memory_no_module_and_a_subclass() -> None:
    assert refused(ArgumentError, nn.Linear(1, 1), "0.f", clamp=1.0) == (
        "edit: no recurrent layer in the model\n"
        "  got       model: Linear\n"
        "  expected  LSTM, GRU or RNN inside\n"
        "  hint      pass the model that holds the recurrent layer, or the layer itself"
    )
    assert refused(DtypeError, "lstm", "0.f", clamp=1.0) == (
        "edit: not a module\n"
        "  got       model: str\n"
        "  expected  a torch.nn.Module\n"
        "  hint      pass the model or its recurrent layer"
    )

    class Own(nn.LSTM):
        def forward(self, *args: Any) -> Any:
            return super().forward(*args)

    assert refused(ArgumentError, Own(I, H), "0.f", clamp=1.0) == (
        "edit: the layer has a forward of its own\n"
        "  got       0.f: Own\n"
        "  expected  torch.nn.LSTM\n"
        "  hint      use a plain layer: what a subclass computes is not known here"
    )
