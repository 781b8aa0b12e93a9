"""Ways to begin: what each function writes, what it leaves alone, and what the gates make of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import openlstm
from openlstm import cells
from openlstm.errors import ArgumentError, DtypeError
from openlstm.nn import init

I, H = 3, 64
LSTM: Any = openlstm.LSTM
RNN: Any = openlstm.RNN


def layers() -> Any:
    torch.manual_seed(0)
    return LSTM(I, H, num_layers=2, bidirectional=True)


def test_forget_bias_is_the_bias_of_every_forget_gate_and_of_nothing_else() -> None:
    layer, before = layers(), layers()
    assert init.forget_bias(layer, 3.0) is layer
    for name, p in layer.named_parameters():
        old = before.get_parameter(name)
        if name.startswith("bias_hh"):
            assert not p.any()
        elif name.startswith("bias_ih"):
            assert (p[H : 2 * H] == 3.0).all()
            assert torch.equal(p[:H], old[:H]) and torch.equal(p[2 * H :], old[2 * H :])
        else:
            assert torch.equal(p, old)
    shown = openlstm.trace(init.forget_bias(LSTM(I, H), 3.0), torch.zeros(1, 1, I))["0.f"]
    assert torch.allclose(shown, torch.sigmoid(torch.tensor(3.0)))


@pytest.mark.parametrize("bias", [True, False])
def test_one_of_the_biases_that_norms_add_carries_the_value(bias: bool) -> None:
    layer = LSTM(I, H, bias=bias, cell=cells.LayerNormLSTM())
    for part in "xhc":
        for kind, value in (("weight", 1.0), ("bias", 0.0)):
            assert (layer.get_parameter(f"norm_{part}_{kind}_l0") == value).all()
    with torch.no_grad():
        layer.norm_h_bias_l0.fill_(7.0)
    first = init.forget_bias(layer, 3.0).get_parameter("bias_ih_l0" if bias else "norm_x_bias_l0")
    assert (first[H : 2 * H] == 3.0).all() and not layer.norm_h_bias_l0.any()
    assert not bias or (not layer.bias_hh_l0.any() and not layer.norm_x_bias_l0.any())
    assert (init.chrono(layer, 100).get_parameter("bias_ih_l0" if bias else "norm_x_bias_l0")[H : 2 * H] >= 0).all()


def test_chrono_spreads_memory_over_the_lag() -> None:
    """b_f = ln u with u uniform in 1 .. 2 lag - 1: a unit keeps 1/e of its cell for about 1 + u steps."""
    lag = 120
    layer = init.chrono(LSTM(I, 4096), lag, generator=torch.Generator().manual_seed(1))
    b_i, b_f, _, _ = layer.bias_ih_l0.detach().chunk(4)
    assert torch.equal(b_i, -b_f) and not layer.bias_hh_l0.any()
    u = b_f.double().exp()
    assert 1 <= u.min() and u.max() <= 2 * lag - 1
    assert abs(float(u.mean()) - lag) < 4 and abs(float(u.std()) - (2 * lag - 2) / 12**0.5) < 2
    f = torch.sigmoid(b_f.double())
    assert torch.allclose(1 / (1 - f), 1 + u, rtol=1e-4)
    same = init.chrono(LSTM(I, 4096), lag, generator=torch.Generator().manual_seed(1))
    assert torch.equal(same.bias_ih_l0.chunk(4)[1], b_f)
    assert not init.chrono(LSTM(I, H), 1).bias_ih_l0[: 2 * H].any()  # the shortest lag: u = 1
    deep = init.chrono(layers(), lag)
    assert not torch.equal(deep.bias_ih_l0, deep.bias_ih_l1_reverse)


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_orthogonal_keeps_lengths(kind: str) -> None:
    layer = init.orthogonal(getattr(openlstm, kind)(I, H, num_layers=2), 1.5)
    for w in (layer.weight_hh_l0, layer.weight_hh_l1):
        for block in w.detach().split(H):
            assert torch.allclose(block @ block.T, 2.25 * torch.eye(H), atol=1e-4)
    thin = init.orthogonal(LSTM(I, H, proj_size=8)).weight_hh_l0[:H].detach()
    assert torch.allclose(thin.T @ thin, torch.eye(8), atol=1e-4)


def test_identity_hands_the_state_on() -> None:
    layer = init.identity(RNN(I, H, nonlinearity="relu"))
    with torch.no_grad():
        layer.weight_ih_l0.zero_()
    h = torch.rand(1, 2, H)
    assert torch.equal(layer(torch.randn(50, 2, I), h)[1], h)
    half = init.identity(RNN(I, H, nonlinearity="relu", bias=False), 0.5)
    assert torch.equal(half.weight_hh_l0, 0.5 * torch.eye(H))


# Any recurrent module


def anything(gated: bool = False) -> dict[str, Any]:
    """Modules of ours and of torch's, layers and single steps, by name."""
    made: dict[str, Any] = {}
    for home in (openlstm, nn):
        name = home.__name__
        for kind in ("LSTM", "GRU") if gated else ("LSTM", "GRU", "RNN"):
            made[f"{name}.{kind}"] = getattr(home, kind)(I, H, num_layers=2, bidirectional=True)
            made[f"{name}.{kind}Cell"] = getattr(home, f"{kind}Cell")(I, H)
    return made


@pytest.mark.parametrize("name", list(anything(gated=True)))
def test_the_gate_that_keeps_is_set_in_any_module(name: str) -> None:
    module = anything(gated=True)[name]
    before = {n: p.clone() for n, p in module.named_parameters()}
    assert init.forget_bias(module, 2.0) is module
    for n, p in module.named_parameters():
        if n.startswith("bias_hh"):
            assert not p.any()
        elif n.startswith("bias_ih"):
            assert (p[H : 2 * H] == 2.0).all()  # f is the second gate of i, f, g, o, and z the second of r, z, n
            assert torch.equal(p[:H], before[n][:H]) and torch.equal(p[2 * H :], before[n][2 * H :])
        else:
            assert torch.equal(p, before[n])


@pytest.mark.parametrize("name", list(anything(gated=True)))
def test_chrono_sets_the_layers_of_any_module(name: str) -> None:
    module = init.chrono(anything(gated=True)[name], 50)
    for n, p in module.named_parameters():
        if n.startswith("bias_ih"):
            kept = p.detach()[H : 2 * H].exp()
            assert 1 <= kept.min() and kept.max() <= 99 * (1 + 1e-5) and kept.std() > 10
            assert torch.equal(p[:H], -p[H : 2 * H]) == ("LSTM" in name)  # a GRU has no input gate apart
        elif n.startswith("bias_hh"):
            assert not p.any()


@pytest.mark.parametrize("name", list(anything()))
def test_orthogonal_sets_the_layers_of_any_module(name: str) -> None:
    module = init.orthogonal(anything()[name])
    for n, p in module.named_parameters():
        if n.startswith("weight_hh"):
            for block in p.detach().split(H):
                assert torch.allclose(block @ block.T, torch.eye(H), atol=1e-5)


@pytest.mark.parametrize("module", [nn.RNN(I, H, 2), nn.RNNCell(I, H), openlstm.RNNCell(I, H, nonlinearity="relu")])
def test_identity_sets_the_layers_of_any_module(module: Any) -> None:
    init.identity(module, 0.9)
    for n, p in module.named_parameters():
        if n.startswith("weight_hh"):
            assert torch.equal(p, 0.9 * torch.eye(H))
        assert not n.startswith("bias") or not p.any()


def test_a_gru_that_keeps_is_a_gru_that_remembers() -> None:
    """With the update gate at sigmoid(b), what is in the state decays by just that factor a step."""
    gru = init.forget_bias(openlstm.GRU(I, H), 3.0)
    with torch.no_grad():
        for name, p in gru.named_parameters():
            p[0 if name.startswith("weight") else 2 * H :].zero_()
    z = torch.sigmoid(torch.tensor(3.0))
    h = torch.rand(1, 2, H)
    assert torch.allclose(gru(torch.zeros(10, 2, I), h)[1], z**10 * h, rtol=1e-4)


def test_every_cell_has_its_gates_where_they_are() -> None:
    for cell, gate, sign in (
        (cells.Peephole(), "f", 1),
        (cells.NIG(), "f", 1),
        (cells.NOG(), "f", 1),
        (cells.FGR(), "f", 1),
        (cells.LSTM(cells_per_gate=4), "f", 1),
        (cells.CIFG(), "i", -1),
    ):
        layer = init.forget_bias(openlstm.LSTM(I, H, cell=cell), 3.0)
        found = openlstm.trace(layer, torch.zeros(1, 1, I))[f"0.{gate}"]
        assert torch.allclose(found, torch.sigmoid(torch.tensor(3.0 * sign))), cell
    b: Any = init.chrono(openlstm.LSTM(I, H, cell=cells.LSTM(cells_per_gate=4)), 20).bias_ih_l0
    assert torch.equal(b[: H // 4], -b[H // 4 : H // 2])
    init.orthogonal(openlstm.LSTM(I, H, cell=cells.LSTM(cells_per_gate=4)))


REFUSALS: dict[str, Any] = {
    "chrono-of-the-1997-cell": (
        lambda: init.chrono(openlstm.LSTM(I, H, cell=cells.LSTM1997()), 5),
        ArgumentError,
        "chrono: the cell has no gate that forgets\n"
        "  got       LSTM1997()\n"
        "  expected  a cell with f or z\n"
        "  hint      use a layer of LSTM, CIFG or GRU cells",
    ),
    "a-module-without-recurrence": (
        lambda: init.orthogonal(nn.Linear(2, 2)),
        DtypeError,
        "orthogonal: not a recurrent module\n"
        "  got       Linear\n"
        "  expected  LSTM, GRU, RNN or one of their cells\n"
        "  hint      pass the recurrent layer inside the model",
    ),
    "parametrised": (
        lambda: init.orthogonal(parametrizations.weight_norm(nn.LSTM(I, H), "weight_hh_l0")),
        ArgumentError,
        "orthogonal: weight_hh_l0 is parametrised\n"
        "  got       a computed weight\n"
        "  expected  a plain parameter\n"
        "  hint      initialise first, then add the parametrisation",
    ),
    "forget-bias-of-an-rnn": (
        lambda: init.forget_bias(RNN(I, H), 1.0),
        ArgumentError,
        "forget_bias: the cell has no gate that forgets\n"
        "  got       VanillaRNN()\n"
        "  expected  a cell with f or z\n"
        "  hint      use a layer of LSTM, CIFG or GRU cells",
    ),
    "chrono-without-biases": (
        lambda: init.chrono(LSTM(I, H, bias=False), 5),
        ArgumentError,
        "chrono: the layer has no biases\n"
        "  got       bias: False\n"
        "  expected  bias: True\n"
        "  hint      make the layer with bias=True",
    ),
    "no-lag": (
        lambda: init.chrono(LSTM(I, H), 0),
        ArgumentError,
        "chrono: lag is 0\n  got       lag: 0\n  expected  lag >= 1\n  hint      count the steps to be bridged",
    ),
    "identity-of-an-lstm": (
        lambda: init.identity(LSTM(I, H)),
        ArgumentError,
        "identity: the layer has gates\n"
        "  got       LSTM()\n"
        "  expected  a vanilla RNN\n"
        "  hint      use chrono or forget_bias, which let the state itself be kept",
    ),
}


@pytest.mark.parametrize("name", list(REFUSALS))
def test_a_wrong_call_of_an_initialisation_is_refused_with_this_text(name: str) -> None:
    call, kind, text = REFUSALS[name]
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == text


# Ways to begin as text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("default", "layer.reset_parameters()"),
        ("forget-bias=1", "openlstm.nn.init.forget_bias(layer, 1)"),
        ("forget-bias=-0.5", "openlstm.nn.init.forget_bias(layer, -0.5)"),
        ("chrono=120", "openlstm.nn.init.chrono(layer, 120)"),
        ("chrono=1234567", "openlstm.nn.init.chrono(layer, 1234567)"),
        ("orthogonal", "openlstm.nn.init.orthogonal(layer)"),
        ("identity", "openlstm.nn.init.identity(layer)"),
    ],
)
def test_the_text_of_an_initialisation_does_what_its_line_of_python_does(text: str, line: str) -> None:
    choice = init.parse(text)
    assert str(choice) == text and choice.line == line
    made = []
    for how in range(2):
        torch.manual_seed(0)
        layer: Any = RNN(I, 8) if text == "identity" else LSTM(I, 8, num_layers=2)
        torch.manual_seed(1)
        if how:
            assert init.apply(layer, text) is layer
        else:
            eval(line, {"openlstm": openlstm, "layer": layer})
        made.append(dict(layer.named_parameters()))
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


def test_apply_reaches_every_recurrent_layer_of_a_model_and_nothing_else() -> None:
    model: Any = nn.ModuleDict(
        {"a": nn.LSTM(2, 3), "b": nn.ModuleList([LSTM(3, 4), nn.LSTMCell(4, 2)]), "head": nn.Linear(2, 1)}
    )
    head = model["head"].weight.clone()
    assert init.apply(model, "forget-bias=2") is model
    for name, p in model.named_parameters():
        if "bias_ih" in name:
            n = len(p) // 4
            assert (p[n : 2 * n] == 2).all()
    assert torch.equal(model["head"].weight, head)


def test_apply_leaves_layers_alone_that_have_not_what_it_sets() -> None:
    model: Any = nn.ModuleDict({"lstm": LSTM(2, 3), "rnn": nn.RNN(3, 4)})
    before = {name: p.clone() for name, p in model.named_parameters()}
    init.apply(model, "chrono=20")
    changed = {name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"lstm"}
    init.apply(model, "identity")
    assert torch.equal(model["rnn"].weight_hh_l0, torch.eye(4))
    with pytest.raises(ArgumentError, match="no gate that forgets"):
        init.apply(model["rnn"], "chrono=20")
    model["slstm"] = LSTM(4, 4, cell=openlstm.cells.SLSTM(heads=2))
    init.apply(model, "slstm")
    assert torch.equal(model["slstm"].bias_ih_l0[4:8], torch.tensor([5.0, -7.0, 5.0, -7.0]))
    with pytest.raises(ArgumentError, match="the cell is no sLSTM"):
        init.apply(model["rnn"], "slstm")


@pytest.mark.parametrize(
    "text", ["", "chrono", "orthogonal=1", "chrono=0", "chrono=1.5", "forget-bias=x", "forget-bias=inf", "x=1"]
)
def test_an_unknown_initialisation_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError):
        init.parse(text)


def test_an_unknown_initialisation_is_refused_with_this_text() -> None:
    with pytest.raises(ArgumentError) as error:
        init.apply(LSTM(I, H), "chron=3")
    assert str(error.value) == (
        "init: no such way to begin: 'chron=3'\n  got       'chron=3'\n"
        "  expected  default, forget-bias=1, chrono=120, orthogonal, identity or slstm\n  hint      write it as one of these"
    )
    with pytest.raises(ArgumentError, match="no recurrent layer in this module"):
        init.apply(nn.Linear(2, 2), "orthogonal")
