"""`replace`, `from_torch`, `to_torch`: the same Parameter objects, ties and modes kept, nothing lost in silence."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import openlstm
from openlstm.errors import ArgumentError, DtypeError
from openlstm.nn import from_torch, to_torch

T, B, I, H = 5, 3, 4, 6


class Tagger(nn.Module):
    """A model as people write them: an encoder used twice, a decoder that shares a weight with it, layers in containers."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(I, H, bidirectional=True, batch_first=True)
        self.again = self.encoder
        self.decoder = nn.LSTM(2 * H, H)
        self.decoder.weight_hh_l0 = self.encoder.weight_hh_l0
        self.more = nn.ModuleList([nn.Sequential(nn.RNN(H, H, nonlinearity="relu", num_layers=2, dropout=0.3))])
        self.last = nn.GRU(H, H)
        self.steps = nn.ModuleList([nn.LSTMCell(H, H), nn.GRUCell(H, H), nn.RNNCell(H, H, nonlinearity="relu")])
        self.head = nn.Linear(H, 2)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.again(x)
        y, _ = self.decoder(y)
        y, _ = self.last(self.more[0](y)[0])
        h, _ = self.steps[0](y[-1])
        return self.head(torch.cat([y, self.steps[2](y[0], self.steps[1](y[1], h))[None]]))


PLACES = "encoder (LSTM), again (LSTM), decoder (LSTM), more.0.0 (RNN), last (GRU), "
PLACES += "steps.0 (LSTMCell), steps.1 (GRUCell), steps.2 (RNNCell)"
OURS = (openlstm.LSTM, openlstm.GRU, openlstm.RNN, openlstm.LSTMCell, openlstm.GRUCell, openlstm.RNNCell)
THEIRS = (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell)


def test_a_model_gives_the_same_numbers_and_trains_the_same_parameters() -> None:
    torch.manual_seed(0)
    model = Tagger().double().eval()
    x = torch.randn(B, T, I, dtype=torch.float64)
    before, names = model(x), [name for name, _ in model.named_parameters()]
    parameters = list(model.parameters())
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    assert openlstm.replace(model) is model
    assert sum(isinstance(m, OURS) for m in model.modules()) == 7
    assert not [m for m in model.modules() if isinstance(m, THEIRS)]
    assert model.again is model.encoder and model.decoder.weight_hh_l0 is model.encoder.weight_hh_l0
    assert [name for name, _ in model.named_parameters()] == names
    assert all(p is q for p, q in zip(model.parameters(), parameters, strict=True))
    assert not any(m.training for m in model.modules())
    assert torch.allclose(model(x), before, rtol=1e-10)
    model(x).sum().backward()
    optimiser.step()
    after = model(x)
    assert not torch.allclose(after, before, rtol=1e-3)
    assert to_torch(model) is model
    assert not [m for m in model.modules() if isinstance(m, OURS)] and sum(isinstance(m, THEIRS) for m in model.modules()) == 7
    assert model.again is model.encoder and all(p is q for p, q in zip(model.parameters(), parameters, strict=True))
    assert torch.allclose(model(x), after, rtol=1e-10)


def test_what_was_swapped_is_named_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    openlstm.replace(Tagger())
    assert capsys.readouterr() == ("", f"openlstm.replace: {PLACES}\n")
    openlstm.replace(nn.GRU(I, H))
    assert capsys.readouterr().err == "openlstm.replace: the model (GRU)\n"
    model = openlstm.replace(Tagger(), quiet=True)
    openlstm.replace(model)  # nothing is left to do, and nothing is said
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))])
def test_a_model_without_anything_to_swap_is_a_warning(model: nn.Module, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning) as caught:
        assert openlstm.replace(model) is model
    got = "Linear with nothing inside" if isinstance(model, nn.Linear) else "Sequential with Linear, ReLU"
    assert [str(w.message) for w in caught] == [
        "replace: found nothing to replace\n"
        f"  got       {got}\n"
        "  expected  LSTM, GRU, RNN, LSTMCell, GRUCell or RNNCell of torch.nn inside\n"
        "  hint      pass the model that holds the recurrent layer"
    ]
    assert caught[0].filename == __file__ and capsys.readouterr().err == ""


@pytest.mark.parametrize("how", ["script", "trace"])
@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore::torch.jit.TracerWarning")
def test_what_is_compiled_is_left_and_named(how: str, capsys: pytest.CaptureFixture[str]) -> None:
    model: Any = nn.Sequential(nn.LSTM(I, H))
    compiled: Any = torch.jit.script(model) if how == "script" else torch.jit.trace(model, torch.zeros(T, B, I))
    outer = nn.ModuleDict({"old": compiled, "new": nn.RNN(H, H)})
    with pytest.warns(UserWarning) as caught:
        openlstm.replace(outer)
    assert [str(w.message) for w in caught] == [
        "replace: cannot replace what is compiled: old.0 (LSTM)\n"
        "  got       torch.jit.ScriptModule\n"
        "  expected  layers that are not compiled\n"
        "  hint      replace the layers first, then compile with torch.jit.script or torch.jit.trace"
    ]
    assert isinstance(outer["new"], openlstm.RNN) and capsys.readouterr().err == "openlstm.replace: new (RNN)\n"
    with pytest.warns(UserWarning, match="cannot replace what is compiled: the model .GRU."):
        alone: Any = torch.jit.script(nn.GRU(I, H))
        assert openlstm.replace(alone) is alone


def test_a_model_goes_back_whole_or_not_at_all() -> None:
    model = nn.ModuleDict({"fit": openlstm.LSTM(I, H), "rnn": openlstm.LSTM(I, H, cell=openlstm.cells.Peephole())})
    with pytest.raises(ArgumentError) as error:
        to_torch(model)
    assert str(error.value) == (
        "rnn, LSTM.to_torch: torch.nn has no Peephole()\n"
        "  got       cell: Peephole()\n"
        "  expected  cells.LSTM()\n"
        "  hint      keep the openlstm layer"
    )
    assert type(model["fit"]) is openlstm.LSTM
    with pytest.raises(ArgumentError) as error:
        to_torch(openlstm.GRUCell(I, H, backend="reference"))
    assert str(error.value) == (
        "GRUCell.to_torch: torch.nn's cell has no such option\n"
        "  got       backend='reference'\n"
        "  expected  the defaults\n"
        "  hint      keep the openlstm cell, or set it to its default first"
    )


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
def test_every_argument_of_a_cell_survives_the_way_there_and_back(kind: str) -> None:
    for bias, own in itertools.product((True, False), ({}, {"nonlinearity": "relu"})):
        if own and kind != "RNNCell":
            continue
        theirs = getattr(nn, kind)(I, H, bias, **own, dtype=torch.float64)
        theirs.weight_hh.requires_grad_(False)
        theirs.eval()
        ours = getattr(openlstm, kind).from_torch(theirs)
        back = ours.to_torch()
        assert type(ours) is getattr(openlstm, kind) and type(from_torch(theirs)) is type(ours)
        assert repr(back) == repr(theirs) and not back.training and not ours.training
        for name, p in theirs.named_parameters():
            assert ours.get_parameter(name) is p and back.get_parameter(name) is p
        x = torch.randn(B, I, dtype=torch.float64)
        a, b, c = (out[0] if isinstance(out, tuple) else out for out in (cell(x) for cell in (theirs, ours, back)))
        assert torch.equal(a, c) and torch.allclose(a, b, rtol=1e-11)
    with pytest.raises(DtypeError, match=f"{kind}.from_torch: cannot convert this layer"):
        getattr(openlstm, kind).from_torch(nn.Linear(2, 2))


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_every_argument_survives_the_way_there_and_back(kind: str) -> None:
    own: list[dict[str, Any]] = {"LSTM": [{"proj_size": 2}, {}], "RNN": [{"nonlinearity": "relu"}, {}], "GRU": [{}, {}]}[kind]
    for layers, bias, first, both, k in itertools.product((1, 2), *[(True, False)] * 3, (0, 1)):
        more = own[k]
        options = {"num_layers": layers, "bias": bias, "batch_first": first, "bidirectional": both, **more}
        theirs = getattr(nn, kind)(I, H, **options, dropout=0.25 if layers == 2 else 0.0, dtype=torch.float64)
        theirs.weight_hh_l0.requires_grad_(False)
        theirs.train(both)
        ours = getattr(openlstm, kind).from_torch(theirs)
        back = ours.to_torch()
        assert repr(back) == repr(theirs) and back.training == theirs.training
        for name, p in theirs.named_parameters():
            assert ours.get_parameter(name) is p and back.get_parameter(name) is p
        x = torch.randn((B, T, I) if first else (T, B, I), dtype=torch.float64)
        torch.manual_seed(1)
        a = back(x)[0]
        torch.manual_seed(1)
        assert torch.equal(a, theirs(x)[0])


def test_a_layer_alone_is_returned_anew() -> None:
    theirs = nn.LSTM(I, H)
    ours = openlstm.replace(theirs)
    assert isinstance(ours, openlstm.LSTM) and ours.weight_hh_l0 is theirs.weight_hh_l0
    assert isinstance(from_torch(nn.RNN(I, H)), openlstm.RNN)
    assert isinstance(from_torch(nn.GRU(I, H)), openlstm.GRU)
    assert isinstance(to_torch(openlstm.RNN(I, H)), nn.RNN)


class Own(nn.LSTM):
    """A subclass with something of its own."""


def _hooked() -> nn.Module:
    layer = nn.LSTM(I, H)
    layer.register_forward_hook(lambda *_: None)
    return layer


def _with_a_buffer() -> nn.Module:
    layer = nn.RNN(I, H)
    layer.register_buffer("scale", torch.ones(1))
    return layer


REFUSALS = {
    "parametrised": (
        lambda: openlstm.replace(nn.ModuleDict({"rnn": parametrizations.weight_norm(nn.LSTM(I, H), "weight_hh_l0")})),
        ArgumentError,
        "replace: rnn has parametrisations\n"
        "  got       a parametrised layer\n"
        "  expected  plain parameters\n"
        "  hint      remove them with torch.nn.utils.parametrize.remove_parametrizations, convert, and add them again",
    ),
    "hooked": (
        lambda: openlstm.replace(nn.Sequential(nn.LSTM(I, H), _hooked())),
        ArgumentError,
        "replace: 1 has hooks\n"
        "  got       forward_hooks\n"
        "  expected  a layer without hooks\n"
        "  hint      remove the hooks, convert, and add them again",
    ),
    "subclass": (
        lambda: openlstm.LSTM.from_torch(Own(I, H)),
        ArgumentError,
        "LSTM.from_torch: the layer is a subclass\n"
        "  got       Own\n"
        "  expected  the layer itself\n"
        "  hint      convert it by hand: what the subclass adds would be lost",
    ),
    "members": (
        lambda: openlstm.RNN.from_torch(_with_a_buffer()),  # type: ignore[arg-type]
        ArgumentError,
        "RNN.from_torch: the layer has members of its own\n"
        "  got       scale\n"
        "  expected  weights and biases alone\n"
        "  hint      keep them beside the layer, in the module around it",
    ),
    "another-kind": (
        lambda: openlstm.LSTM.from_torch(nn.RNN(I, H)),  # type: ignore[arg-type]
        DtypeError,
        "LSTM.from_torch: cannot convert this layer\n"
        "  got       layer: RNN\n"
        "  expected  torch.nn.LSTM\n"
        "  hint      pass the recurrent layer inside the model",
    ),
    "another-kind-of-ours": (
        lambda: to_torch(nn.Linear(2, 2)),
        DtypeError,
        "to_torch: cannot convert this layer\n"
        "  got       layer: Linear\n"
        "  expected  LSTM, GRU, RNN, LSTMCell, GRUCell or RNNCell of openlstm, or a model that holds some\n"
        "  hint      pass the recurrent layer inside the model",
    ),
    "no-module": (
        lambda: openlstm.replace([nn.LSTM(I, H)]),  # type: ignore[arg-type]
        DtypeError,
        "replace: not a module\n  got       model: list\n  expected  a torch.nn.Module\n  hint      pass the model",
    ),
}


@pytest.mark.parametrize("name", list(REFUSALS))
def test_what_a_swap_would_lose_is_refused(name: str) -> None:
    call, kind, text = REFUSALS[name]
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == text


def test_a_refused_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.LSTM(I, H), _hooked())
    with pytest.raises(ArgumentError):
        openlstm.replace(model)
    assert [type(m) for m in model] == [nn.LSTM, nn.LSTM]
