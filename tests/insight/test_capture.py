"""A look: places of every kind of layer in any module, the gradients at their outputs, and nothing changed afterwards."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

import openlstm
from openlstm import cells
from openlstm.call import Call
from openlstm.errors import ArgumentError, DtypeError
from openlstm.insight.capture import capture_layers

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

T, B, I, H = 11, 4, 3, 5


class Model(nn.Module):
    """Two recurrent modules, dropout, a normalisation with a memory of its own, and a head."""

    def __init__(self, first: nn.Module, second: nn.Module, width: int, out: int) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"rnn": first})
        self.norm = nn.BatchNorm1d(width)
        self.drop = nn.Dropout(0.5)
        self.rnn = second
        self.head = nn.Linear(out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.encoder["rnn"](x)
        y = self.drop(self.norm(y.flatten(0, 1)).view_as(y))
        return self.head(self.rnn(y)[0])


def models() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "torch": Model(nn.LSTM(I, H, 2, bidirectional=True, dropout=0.3), nn.GRU(2 * H, H), 2 * H, H),
        "ours": Model(openlstm.LSTM(I, H, 2, bidirectional=True, dropout=0.3), openlstm.GRU(2 * H, H), 2 * H, H),
        "projected": Model(nn.LSTM(I, H, proj_size=2), nn.RNN(2, H, 3, nonlinearity="relu"), 2, H),
        "mixed": Model(openlstm.LSTM(I, H, cell=cells.Peephole()), nn.LSTM(H, 2, batch_first=True), H, 2),
        "FGR": Model(openlstm.LSTM(I, H, 2, cell=cells.FGR()), openlstm.LSTM(H, 2, cell=cells.FGR()), H, 2),
    }


def mean_square(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).square().mean()


@pytest.mark.parametrize("name", models())
def test_names_and_shapes_of_places(name: str) -> None:
    looked = capture_layers(models()[name], torch.randn(T, B, I), mean_square)
    wanted = {
        "torch": ["encoder.rnn.0", "encoder.rnn.0_reverse", "encoder.rnn.1", "encoder.rnn.1_reverse", "rnn.0"],
        "projected": ["encoder.rnn.0", "rnn.0", "rnn.1", "rnn.2"],
        "mixed": ["encoder.rnn.0", "rnn.0"],
        "FGR": ["encoder.rnn.0", "encoder.rnn.1", "rnn.0"],
    }
    assert [p.name for p in looked.places] == wanted.get(name, wanted["torch"])
    for p in looked.places:
        rows = (B, T) if name == "mixed" and p.path == "rnn" else (T, B)
        assert p.x.shape[:2] == rows and not p.x.requires_grad
        assert p.dstate is not None and p.dstate.h.shape == p.state.h.shape
        assert p.dy is not None and p.dy.shape == (*rows, p.state.h.shape[1])
        assert p.module.weights_of(p.index, int(p.reverse)).w_ih.data_ptr() == p.weights.w_ih.data_ptr()
        assert looked[p.name] is p
    assert looked.value is not None and looked.outputs is None


@pytest.mark.parametrize("name", models())
def test_the_gradient_at_a_place_gives_the_gradient_of_its_weights(name: str) -> None:
    """Each place alone, sent back from what is said to arrive there, has the weight gradients of the whole model."""
    model, x = models()[name], torch.randn(T, B, I)
    looked = capture_layers(model, x, mean_square)
    model.eval()
    mean_square(model, x).backward()
    for p in looked.places:
        w = [a.detach().clone().requires_grad_() if a is not None else None for a in p.weights]
        from openlstm.engine.run import run

        r = run(Call(p.cell, p.x, type(p.weights)(*w), p.state, reverse=p.reverse))
        pairs: Any = zip((r.y, *r.state), (p.dy, *(p.dstate or ())), strict=True)
        roots = [(out, g) for out, g in pairs if out is not None and g is not None]
        torch.autograd.backward([o for o, _ in roots], [g for _, g in roots])
        end = f"_l{p.index}{'_reverse' if p.reverse else ''}"
        real: Any = model.get_submodule(p.path)
        for ours, kind in ((w[0], "weight_ih"), (w[1], "weight_hh"), (w[2], "bias_ih")):
            torch.testing.assert_close(ours.grad, getattr(real, kind + end).grad, rtol=1e-4, atol=1e-7)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", models())
@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_left_behind(name: str, training: bool) -> None:
    model, x = models()[name].train(training), torch.randn(T, B, I, requires_grad=True)
    model.drop.train(not training)  # type: ignore[union-attr]
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    state = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.modules()]
    before, keys = torch.get_rng_state(), [sorted(m.__dict__) for m in model.modules()]
    capture_layers(model, x, mean_square)
    capture_layers(model, x)
    assert (torch.get_rng_state() == before).all()
    assert [m.training for m in model.modules()] == modes
    assert all((a == state[k]).all() for k, a in model.state_dict().items())
    assert all((p.grad == 1).all() for p in model.parameters()) and x.grad is None  # type: ignore[union-attr]
    assert [sorted(m.__dict__) for m in model.modules()] == keys
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_after_an_error_too() -> None:
    model = models()["torch"].train()
    with pytest.raises(RuntimeError, match="mine"):
        capture_layers(model, torch.randn(T, B, I), lambda m, x: (_ for _ in ()).throw(RuntimeError("mine")))
    assert all(m.training for m in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_it_works_without_gradients_around_it_and_with_frozen_weights(grad: bool, frozen: bool) -> None:
    model, x = models()["torch"], torch.randn(T, B, I)
    wanted = capture_layers(model, x, mean_square)
    model.requires_grad_(not frozen)
    with torch.set_grad_enabled(grad):
        found = capture_layers(model, x, mean_square)
        assert torch.is_grad_enabled() == grad
    for a, b in zip(found.places, wanted.places, strict=True):
        torch.testing.assert_close(a.dy, b.dy)


def test_h_n_and_y_are_told_apart() -> None:
    """In torch.nn one is an ancestor of the other; a gradient must not count twice."""
    x = torch.randn(T, B, I)
    for layer in (nn.LSTM(I, H), nn.GRU(I, H), nn.RNN(I, H), openlstm.LSTM(I, H)):
        y_only = capture_layers(layer, x, lambda m, x: m(x)[0].sum()).places[0]
        assert y_only.dy is not None and (y_only.dy == 1).all()
        assert y_only.dstate is not None and not y_only.dstate.h.any()

        def ends(m: nn.Module, x: Tensor) -> Tensor:
            h = m(x)[1]
            return (h[0] if isinstance(h, tuple) else h).sum()

        h_only = capture_layers(layer, x, ends).places[0]
        assert h_only.dy is None or not h_only.dy.any()
        assert h_only.dstate is not None and (h_only.dstate.h == 1).all()


def test_forms_of_the_input_of_a_bare_layer() -> None:
    layer = nn.LSTM(I, H, batch_first=True)
    place = capture_layers(layer, torch.zeros(B, T, I)).places[0]
    assert place.name == "0" and place.path == "" and place.x.shape == (T, B, I)
    assert capture_layers(layer, torch.zeros(T, I)).places[0].x.shape == (T, 1, I)
    assert capture_layers(layer, np.zeros((B, T, I), np.float32)).places[0].x.shape == (T, B, I)
    assert capture_layers(layer, (torch.zeros(B, T, I), torch.zeros(B))).places[0].x.shape == (T, B, I)
    found = capture_layers(
        layer, (torch.zeros(B, T, I), torch.zeros(B, H)), lambda m, x, y: (m(x)[0][:, -1] - y).square().sum()
    )
    assert found.value == pytest.approx(float(found.places[0].module(torch.zeros(B, T, I))[0][:, -1].detach().square().sum()))
    assert capture_layers(openlstm.LSTM(I, H), {"input": torch.zeros(T, B, I)}).places[0].x.shape == (T, B, I)


def test_unbatched_gradients() -> None:
    place = capture_layers(nn.LSTM(I, H, 2), torch.randn(T, I), lambda m, x: m(x)[0][-1].sum() + m(x)[1][0].sum()).places[1]
    assert place.calls == 2
    place = capture_layers(nn.LSTM(I, H), torch.randn(T, I), lambda m, x: m(x)[1][1].sum()).places[0]
    assert place.dstate is not None and place.dstate.c is not None and place.dstate.c.shape == (1, H)


@pytest.mark.parametrize("sort", [True, False])
@pytest.mark.parametrize("layer", [nn.LSTM(I, H, 2, bidirectional=True), openlstm.GRU(I, H, 2)], ids=["LSTM", "GRU"])
def test_packed_input_is_a_ragged_batch(sort: bool, layer: Any) -> None:
    lengths = torch.tensor([11, 7, 4, 1] if sort else [4, 11, 1, 7])
    x = torch.randn(T, B, I)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=sort)
    target = torch.randn(T, B, H * (2 if layer.bidirectional else 1))

    def loss(m: Any, p: Any) -> Tensor:
        y, h = m(p)
        y = pad_packed_sequence(y)[0] if not isinstance(y, Tensor) else y
        return (y * target).sum() + (h[0] if isinstance(h, tuple) else h).square().sum()

    found = capture_layers(layer, packed, loss)
    ours = layer if isinstance(layer, openlstm.GRU) else openlstm.LSTM.from_torch(layer)
    padded = capture_layers(Ragged(ours, lengths), x, lambda m, x: loss(m, x))
    for a, b in zip(found.places, padded.places, strict=True):
        assert a.lengths is not None and a.lengths.tolist() == lengths.tolist()
        assert b.dy is not None and a.dy is not None and b.dstate is not None and a.dstate is not None
        real = torch.arange(T)[:, None] < lengths
        torch.testing.assert_close(a.dy[real], b.dy[real], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(a.dstate.h, b.dstate.h, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(a.x[real], b.x[real], rtol=1e-4, atol=1e-6)


class Ragged(nn.Module):
    """A layer called with lengths."""

    def __init__(self, layer: nn.Module, lengths: Tensor) -> None:
        super().__init__()
        self.layer, self.lengths = layer, lengths

    def forward(self, x: Tensor) -> Any:
        return self.layer(x, lengths=self.lengths)


def test_sequences_one_behind_the_other() -> None:
    class Sequences(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = openlstm.LSTM(I, H, 2)

        def forward(self, x: Tensor) -> Any:
            return self.rnn(x, cu_seqlens=torch.tensor([0, 6, 6, 11]))

    model, x = Sequences(), torch.randn(T, I)
    found = capture_layers(model, x, lambda m, x: m(x)[0].square().sum())
    place = found["rnn.1"]
    assert place.lengths is not None and place.lengths.tolist() == [6, 0, 5] and place.x.shape == (6, 3, H)
    with torch.no_grad():
        y = model(x)[0]
    assert place.dy is not None
    torch.testing.assert_close(place.dy[:, 0], 2 * y[:6])
    torch.testing.assert_close(place.dy[:5, 2], 2 * y[6:])


def test_resets_and_states_are_part_of_a_place() -> None:
    layer, reset = openlstm.LSTM(I, H, batch_first=True), torch.rand(B, T) < 0.3
    hx = (torch.randn(1, B, H), torch.randn(1, B, H))

    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = layer

        def forward(self, x: Tensor) -> Any:
            return self.rnn(x, hx, reset=reset)

    place = capture_layers(Called(), torch.randn(B, T, I)).places[0]
    assert place.reset is not None and (place.reset == reset.T).all()
    torch.testing.assert_close(place.state.c, hx[1][0])
    y = torch.cat([part.saved.h for part in place.forwards(4)])
    torch.testing.assert_close(y, layer(place.x.transpose(0, 1), hx, reset=reset)[0].transpose(0, 1).detach(), rtol=0, atol=0)


def test_of_a_module_that_runs_often_the_longest_call_is_shown() -> None:
    class Often(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(I, H)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x[:2])[0].sum() + self.rnn(x)[0].sum() + self.rnn(x[:5])[0].sum()

    place = capture_layers(Often(), torch.randn(T, B, I), lambda m, x: m(x)).places[0]
    assert place.calls == 3 and place.steps == T and place.dy is not None and (place.dy == 1).all()


def test_a_layer_with_hooks_of_its_owner_can_be_seen() -> None:
    layer, heard = nn.LSTM(I, H), []
    layer.register_forward_hook(lambda *a: heard.append(1))
    assert capture_layers(layer, torch.zeros(T, B, I)).places[0].units == H and heard == [1]


def test_half_precision_is_looked_at_in_single() -> None:
    place = capture_layers(openlstm.LSTM(I, H).to(torch.bfloat16), torch.zeros(T, B, I, dtype=torch.bfloat16)).places[0]
    assert place.x.dtype == place.weights.w_ih.dtype == torch.float32


def test_a_compiled_model_is_looked_at_as_it_was_written() -> None:
    model = torch.compile(models()["torch"], backend="eager")
    assert len(capture_layers(model, torch.randn(T, B, I)).places) == 5  # type: ignore[arg-type]


def test_only_the_layers_that_are_asked_for() -> None:
    model, x = models()["torch"], torch.randn(T, B, I)
    assert [p.name for p in capture_layers(model, x, layers="rnn").places] == ["rnn.0"]
    assert [p.name for p in capture_layers(model, x, layers=["encoder.rnn.1", "rnn.0"]).places] == ["encoder.rnn.1", "rnn.0"]


# errors


def raised(kind: type[Exception], *args: Any, **options: Any) -> str:
    with pytest.raises(kind) as error:
        capture_layers(*args, **options)
    return str(error.value)


def test_no_module() -> None:
    assert raised(DtypeError, "model.pt", 0) == (
        "capture_layers: not a module\n  got       model: str\n  expected  a torch.nn.Module\n"
        "  hint      pass the model or the layer"
    )


def test_no_recurrent_layer() -> None:
    assert raised(ArgumentError, nn.Sequential(nn.Linear(1, 1), nn.ReLU()), torch.zeros(1)) == (
        "capture_layers: no recurrent layer in this model\n"
        "  got       Sequential with Linear, ReLU\n"
        "  expected  a module that holds an LSTM, GRU or RNN of openlstm or torch.nn\n"
        "  hint      a cell driven by a loop of your own (LSTMCell) cannot be seen: use the layer instead"
    )


def test_a_layer_that_does_not_run() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.LSTM(I, H), nn.LSTM(I, H)

        def forward(self, x: Tensor) -> Any:
            return self.used(x)

    assert raised(ArgumentError, Idle(), torch.zeros(T, B, I)) == (
        "capture_layers: idle did not run\n"
        "  got       no call of idle\n"
        "  expected  a call of every recurrent layer\n"
        "  hint      name those to look at with layers=..., or check the data: this layer is not reached"
    )
    assert capture_layers(Idle(), torch.zeros(T, B, I), layers="used").places[0].name == "used.0"


def test_an_unknown_layer() -> None:
    assert raised(ArgumentError, models()["projected"], torch.zeros(T, B, I), layers="rnn.7") == (
        "capture_layers: no layer 'rnn.7'\n"
        "  got       layers='rnn.7'\n"
        "  expected  encoder.rnn.0, rnn.0, rnn.1, rnn.2\n"
        "  hint      use one of these names"
    )


def test_a_loss_that_is_none() -> None:
    layer, x = nn.LSTM(I, H), torch.zeros(T, B, I)
    assert "the loss is not a scalar" in raised(ArgumentError, layer, x, lambda m, x: m(x)[0])
    assert "the loss is not a scalar" in raised(ArgumentError, layer, x, lambda m, x: float(m(x)[0].detach().sum()))
    text = raised(ArgumentError, layer, x, lambda m, x: m(x)[0].detach().sum())
    assert text == (
        "capture_layers: the loss does not depend on a recurrent layer\n"
        "  got       loss: float32[]\n"
        "  expected  a loss computed from the model's output\n"
        "  hint      compute it from model(x), without detach(), item() or no_grad()"
    )


def test_numbers_that_are_not_finite() -> None:
    layer: Any = nn.LSTM(I, H)
    x = torch.randn(T, B, I)
    x[7, 2, 1] = float("inf")
    assert raised(ArgumentError, layer, x).startswith("capture_layers: 0: input 1 is inf at step 7, row 2\n")
    with torch.no_grad():
        layer.weight_hh_l0[6, 0] = float("nan")  # unit 1 of f
    assert raised(ArgumentError, layer, x.nan_to_num(0, 0, 0)).startswith(
        "capture_layers: 0: weight_hh_l0 holds nan at [6, 0], gate f\n"
    )
    relu = openlstm.RNN(1, 2, nonlinearity="relu")
    with torch.no_grad():
        for p in relu.parameters():
            p.fill_(10.0)
    text = raised(ArgumentError, relu, torch.ones(60, 1, 1))
    assert text.startswith("capture_layers: 0: h is inf at step 29, row 0, unit 0\n") and "lower the learning rate" in text
    assert not torch.isfinite(
        capture_layers(relu, torch.ones(60, 1, 1), finite=False).places[0].forwards().__next__().end.h
    ).all()


def test_padding_may_hold_anything() -> None:
    x = torch.full((T, B, I), float("nan"))
    x[:3] = 0
    assert capture_layers(Ragged(openlstm.LSTM(I, H), torch.tensor([3, 2, 1, 0])), x).places[0].steps == T


def test_packed_sequences_of_several_lengths() -> None:
    packed = pack_sequence([torch.randn(n, I) for n in (5, 3, 1)])
    assert capture_layers(nn.LSTM(I, H), packed).places[0].ends().tolist() == [5, 3, 1]
