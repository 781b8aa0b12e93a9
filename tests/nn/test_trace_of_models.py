"""`trace` of a whole model: what every layer inside did, as the model ran it, under the names of `edit`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import openlstm
from openlstm.errors import ArgumentError, DtypeError
from openlstm.insight.edit import edit, names

T, B, I, H = 6, 3, 4, 5
LENGTHS = torch.tensor([2, 6, 4])


class Translator(nn.Module):
    """Encoder and decoder that share a state, with something before, between and after."""

    def __init__(self, home: Any = nn) -> None:
        super().__init__()
        self.front = nn.Linear(I, I)
        self.coding = nn.ModuleDict({"encoder": home.LSTM(I, H, num_layers=2, bidirectional=True, dropout=0.3)})
        self.bridge = nn.Linear(2 * H, H)
        self.decoder = home.GRU(H, H, batch_first=True)
        self.head = nn.Linear(H, 2)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        y, (h, c) = self.coding["encoder"](self.front(x))
        return self.tail(y, (h, c))

    def tail(self, y: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
        z = self.bridge(y)
        out, last = self.decoder(z.transpose(0, 1), state[1][:1] + state[0][1:2])
        return self.head(out) + last.mean()


def series() -> Tensor:
    torch.manual_seed(4)
    return torch.randn(T, B, I, dtype=torch.float64)


def made(kind: type[nn.Module] = Translator, *args: Any) -> Any:
    torch.manual_seed(0)
    return kind(*args)


def error_of(out: Tensor) -> Tensor:
    return (out.sin() * torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape)).sum()


def clean(model: nn.Module) -> bool:
    """Whether nothing of a trace is left behind."""
    layers = [m for m in model.modules() if type(m).__name__ in ("LSTM", "GRU", "RNN")]
    hooks = [h for m in layers for h in (m._forward_hooks, m._forward_pre_hooks)]
    return not any(hooks) and not any({"layers", "forward"} & set(vars(m)) for m in layers)


BOTH = pytest.mark.parametrize("home", [nn, openlstm], ids=["torch", "ours"])


@BOTH
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_every_array_and_gradient_is_that_of_the_layer_alone_in_its_place(home: Any, train: bool) -> None:
    model, x = made(Translator, home).train(train), series()
    torch.manual_seed(9)
    seen = openlstm.trace(model, x, loss=error_of)
    torch.manual_seed(9)
    assert torch.allclose(seen.y, model(x), rtol=1e-11) and seen.state is None and not seen.y.requires_grad
    after = torch.rand(1)
    assert seen.loss is not None and torch.allclose(seen.loss, error_of(seen.y))

    encoder, decoder = model.coding["encoder"], model.decoder
    torch.manual_seed(9)
    alone = openlstm.trace(encoder, model.front(x).detach(), loss=lambda y, state: error_of(model.tail(y, state)))
    assert torch.rand(1) == after  # the same numbers were drawn
    y, state = alone.y, alone.state
    z, begin = model.bridge(y).transpose(0, 1).detach(), (state[1][:1] + state[0][1:2]).detach()
    inner = openlstm.trace(decoder, z, begin, loss=lambda y, last: error_of(model.head(y) + last.mean()))
    wanted = {f"coding.encoder.{name}": a for name, a in alone.items()} | {f"decoder.{name}": a for name, a in inner.items()}
    assert list(seen) == list(wanted)
    assert tuple(name for name in seen if ".d" not in name) == names(model)
    for name, a in wanted.items():
        assert seen[name].shape == a.shape and not seen[name].requires_grad
        assert torch.allclose(seen[name], a, rtol=1e-9, atol=1e-13), name
    assert seen["decoder.0.h"].shape == (B, T, H) and seen["coding.encoder.1_reverse.dc"].shape == (T, B, H)
    assert seen.layer(1, reverse=True, path="coding.encoder")["f"] is seen["coding.encoder.1_reverse.f"]
    assert repr(seen).splitlines()[0] == "Trace of Translator" and "  decoder.0  [3, 6, 5] float64  r z n m h dh" in repr(seen)
    assert clean(model) and all(p.grad is None for p in model.parameters())


@BOTH
def test_the_layers_run_as_they_do_without_a_trace(home: Any) -> None:
    """To the bit, for ours; the trace's layers are ours also where the model's are torch.nn's."""
    model, x = made(Translator, home), series()
    ours = made(Translator, openlstm)
    ours.load_state_dict(model.state_dict())
    for train in (True, False):
        torch.manual_seed(2)
        seen = openlstm.trace(model.train(train), x)
        torch.manual_seed(2)
        assert torch.equal(seen.y, ours.train(train)(x))


@BOTH
def test_an_edit_shows_inside_a_trace(home: Any) -> None:
    model, x = made(Translator, home).eval(), series()
    with edit(model, "coding.encoder.1.f", clamp=0.25), edit(model, "decoder.0.h", scale=0.5, units=2):
        seen, wanted = openlstm.trace(model, x), model(x)
        with pytest.raises(ArgumentError, match="edit: an edited layer does not do what its weights say"):
            openlstm.trace(model, x, loss=error_of)
        assert torch.allclose(model(x), wanted, rtol=1e-12)  # and the edit goes on after it
    assert torch.allclose(seen.y, wanted, rtol=1e-12) and bool((seen["coding.encoder.1.f"] == 0.25).all())
    plain = openlstm.trace(model, x)
    assert not torch.equal(plain.y, seen.y) and not bool((plain["coding.encoder.1.f"] == 0.25).any()) and clean(model)


class Wrapped(nn.Module):
    """A model around one layer and a way to call it."""

    def __init__(self, layer: nn.Module, call: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.rnn = layer
        self.call = call

    def forward(self, x: Any) -> Any:
        return self.call(self.rnn, x)


def packed_way(rnn: Any, x: Tensor) -> Tensor:
    first = rnn.batch_first
    packed = pack_padded_sequence(x.transpose(0, 1) if first else x, LENGTHS, batch_first=first, enforce_sorted=False)
    y, _ = rnn(packed)
    assert isinstance(y, PackedSequence)
    return pad_packed_sequence(y, batch_first=first)[0]


def joined_way(rnn: Any, x: Tensor) -> Tensor:
    flat = torch.cat([x[:n, b] for b, n in enumerate(LENGTHS.tolist())])
    ends = torch.nn.functional.pad(LENGTHS.cumsum(0), (1, 0))
    y, _ = rnn(flat, cu_seqlens=ends)
    assert y.shape == (len(flat), 2 * H)
    rows = nn.utils.rnn.pad_sequence(list(y.split(LENGTHS.tolist())))
    return rows.transpose(0, 1) if rnn.batch_first else rows


@pytest.mark.parametrize("first", [False, True], ids=["time-first", "batch-first"])
@pytest.mark.parametrize(
    ("home", "way"),
    [(nn, packed_way), (openlstm, packed_way), (openlstm, joined_way)],
    ids=["torch-packed", "packed", "cu_seqlens"],
)
def test_rows_of_different_lengths_are_shown_padded(home: Any, way: Any, first: bool) -> None:
    torch.manual_seed(0)
    layer, x = home.LSTM(I, H, bidirectional=True, batch_first=first, dtype=torch.float64), series()
    model = Wrapped(layer, way)
    seen = openlstm.trace(model, x, loss=error_of)
    alone = openlstm.trace(layer, x.transpose(0, 1) if first else x, lengths=LENGTHS, loss=lambda y, _: error_of(y))
    assert torch.allclose(seen.y, model(x), rtol=1e-11) and torch.allclose(seen.y, alone.y, rtol=1e-11)
    assert list(seen) == [f"rnn.{name}" for name in alone]
    for name, a in alone.items():
        assert torch.allclose(seen[f"rnn.{name}"], a, rtol=1e-9, atol=1e-13), name
    assert clean(model)


def test_sequences_one_behind_the_other_with_resets_and_states_of_their_own() -> None:
    torch.manual_seed(0)
    layer = openlstm.LSTM(I, H, dtype=torch.float64)
    for sizes in ([2, 0, 4], [0, 0], [], [3, 3]):
        total, N = sum(sizes), len(sizes)
        ends = torch.nn.functional.pad(torch.tensor(sizes, dtype=torch.int64).cumsum(0), (1, 0))
        x, reset = torch.randn(total, I, dtype=torch.float64), torch.arange(total) % 3 == 1
        hx, fresh = (tuple(torch.randn(2, 1, N, H, dtype=torch.float64)) for _ in range(2))
        call = {"cu_seqlens": ends, "reset": reset, "reset_state": fresh}
        model = Wrapped(layer, lambda rnn, x, hx=hx, call=call: rnn(x, hx=hx, **call))
        seen, wanted = openlstm.trace(model, x), layer(x, hx, **call)
        assert torch.equal(seen.y[0], wanted[0]) and torch.equal(seen.y[1][1], wanted[1][1])
        assert seen["rnn.0.f"].shape == (max(sizes, default=0), N, H)
    with pytest.raises(ArgumentError, match="LSTM: cu_seqlens fall from 3 to 1 at 2"):
        wrong = torch.tensor([0, 3, 1, 5])
        openlstm.trace(Wrapped(layer, lambda rnn, x: rnn(x, cu_seqlens=wrong)), torch.zeros(5, I).double())
    assert clean(layer)


@BOTH
def test_a_layer_that_runs_often_is_shown_once_for_each_call(home: Any) -> None:
    torch.manual_seed(0)
    layer = home.LSTM(I, H, dtype=torch.float64)

    def steps(rnn: Any, x: Tensor) -> Tensor:
        state, ys = None, []
        for step in x.split(1):
            y, state = rnn(step, state)
            ys.append(y)
        return torch.cat(ys)

    seen = openlstm.trace(Wrapped(layer, steps), series(), loss=error_of)
    whole = openlstm.trace(layer, series(), loss=lambda y, _: error_of(y))
    assert list(seen)[:2] == ["rnn[0].0.i", "rnn[0].0.f"] and len(seen) == T * len(whole)
    for name, a in whole.items():
        joined = torch.cat([seen[f"rnn[{t}].{name}"] for t in range(T)])
        assert torch.allclose(joined, a, rtol=1e-9, atol=1e-13), name
    assert torch.equal(seen.layer(0, path="rnn[3]")["c"], seen["rnn[3].0.c"])
    with pytest.raises(KeyError, match="this trace has rnn.0..0.i"):
        seen["rnn.0.f"]


def test_inputs_by_position_by_name_and_outputs_of_every_kind() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.GRU(I, H).double(), nn.RNN(I, H).double()

        def forward(self, x: Tensor, other: Tensor, *, as_dict: bool = False) -> Any:
            ys = self.a(x)[0], self.b(other)[0]
            return {"a": ys[0], "b": [ys[1]]} if as_dict else ys

    model, x = made(Two), series()
    a = openlstm.trace(model, (x, x + 1), loss=lambda a, b: (a * b).sum())
    b = openlstm.trace(model, {"x": x, "other": x + 1, "as_dict": True}, loss=lambda out: (out["a"] * out["b"][0]).sum())
    assert all(torch.equal(a[name], b[name]) for name in a) and list(a) == list(b)
    assert torch.equal(b.y["b"][0], a.y[1]) and not b.y["a"].requires_grad and a.loss == b.loss


def test_what_the_model_writes_into_an_output_is_not_what_the_layer_did() -> None:
    layer = nn.LSTM(I, H, dtype=torch.float64)
    model = Wrapped(layer, lambda rnn, x: rnn(x)[0].mul_(0))
    seen = openlstm.trace(model, series())
    assert not seen.y.any() and torch.equal(seen["rnn.0.h"], openlstm.trace(layer, series())["0.h"])
    gone = openlstm.trace(model, series(), loss=lambda y: y.sum())
    assert not gone["rnn.0.dh"].any() and torch.equal(gone["rnn.0.h"], seen["rnn.0.h"])


def test_frozen_weights_and_a_part_without_gradients() -> None:
    model, x = made(Translator, nn).requires_grad_(False), series()
    free = made(Translator, nn)
    free.load_state_dict(model.state_dict())
    a, b = (openlstm.trace(m.eval(), x, loss=error_of) for m in (model, free))
    assert all(torch.equal(a[name], b[name]) for name in b)

    class Cut(Translator):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                y, state = self.coding["encoder"](self.front(x))
            return self.tail(y, state)

    cut = made(Cut).eval()
    cut.load_state_dict(model.state_dict())
    seen = openlstm.trace(cut, x, loss=error_of)
    assert not seen["coding.encoder.1.dh"].any() and not seen["coding.encoder.0.dc"].any()
    assert torch.equal(seen["decoder.0.dh"], b["decoder.0.dh"])


def test_a_differentiable_trace_reaches_through_the_model() -> None:
    model, x = made(Translator, openlstm).eval(), series()
    plain, seen = openlstm.trace(model, x, loss=error_of), openlstm.trace(model, x, loss=error_of, differentiable=True)
    assert all(torch.allclose(seen[name], plain[name], rtol=1e-8, atol=1e-12) for name in plain)
    (g,) = torch.autograd.grad(seen["decoder.0.z"].mean(), model.front.weight, retain_graph=True)
    leaf, size = model.front.weight, 1e-6
    sums = []
    for sign in (1, -1):
        with torch.no_grad():
            leaf[1, 2] += sign * size
        sums.append(openlstm.trace(model, x)["decoder.0.z"].mean())
        with torch.no_grad():
            leaf[1, 2] -= sign * size
    assert torch.allclose(g[1, 2], (sums[0] - sums[1]) / (2 * size), rtol=1e-5)
    assert torch.autograd.grad(seen["coding.encoder.0.dc"].square().sum(), model.head.weight)[0].any()


def test_hooks_parametrisations_and_a_layer_in_two_places() -> None:
    """What a swap would refuse is no obstacle: the layer stays where it is."""
    layer = nn.utils.parametrizations.weight_norm(nn.LSTM(I, I), "weight_hh_l0")
    heard: list[Any] = []
    layer.register_forward_hook(lambda m, args, out: heard.append(out[0].shape))
    model = nn.ModuleDict({"a": layer, "b": layer})
    model.forward = lambda x: model["b"](model["a"](x)[0])[0]  # type: ignore[method-assign]
    x = series().float()
    seen = openlstm.trace(model, x)
    assert torch.allclose(seen.y, model(x), rtol=1e-5, atol=1e-6) and len(heard) == 4
    assert [name for name in seen if name.endswith(".f")] == ["a[0].0.f", "a[1].0.f"]


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_compiled_model_is_run_as_it_is_written() -> None:
    compilations: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compilations.append(graph)
        return graph.forward

    torch._dynamo.reset()
    model, x = made(Translator, openlstm).eval(), series()
    wanted = openlstm.trace(model, x)
    whole: Any = torch.compile(model, backend=backend)
    inner = copy.deepcopy(model)
    inner.decoder = torch.compile(inner.decoder, backend=backend)
    for compiled in (whole, inner):
        with torch.no_grad():
            y, before = compiled(x), len(compilations)
            seen = openlstm.trace(compiled, x)
            assert len(compilations) == before > 0
            assert torch.allclose(seen.y, y, rtol=1e-11) and torch.allclose(compiled(x), y, rtol=1e-12)
        assert all(torch.allclose(a, b, rtol=1e-11) for a, b in zip(seen.values(), wanted.values(), strict=True))
    assert list(openlstm.trace(whole, x)) == list(wanted)


def test_nothing_is_left_behind_by_a_call_that_fails() -> None:
    for home in (nn, openlstm):
        model = made(Translator, home)
        with pytest.raises(RuntimeError):
            openlstm.trace(model, torch.zeros(T, B, I + 1, dtype=torch.float64))
        with pytest.raises(ZeroDivisionError):
            openlstm.trace(model, series(), loss=lambda out: out.sum() * (1 / 0))
        assert clean(model) and model(series()).shape == (B, T, 2)


class Own(nn.LSTM):
    """A subclass with a forward of its own."""

    def forward(self, *args: Any) -> Any:
        return super().forward(*args)


REFUSALS: dict[str, tuple[Any, type[Exception], str]] = {
    "no module": (
        lambda: openlstm.trace([nn.LSTM(I, H)], series()),  # type: ignore[arg-type]
        DtypeError,
        "trace: not a module\n"
        "  got       model: list\n"
        "  expected  a torch.nn.Module\n"
        "  hint      pass the model or its recurrent layer",
    ),
    "TorchScript": (
        lambda: openlstm.trace(torch.jit.script(nn.Sequential(nn.LSTM(I, H))), series()),  # type: ignore[arg-type]
        ArgumentError,
        "trace: no recurrent layer in the model\n"
        "  got       TorchScript: 0 (LSTM)\n"
        "  expected  LSTM, GRU or RNN of openlstm or torch.nn inside\n"
        "  hint      pass the model as it was before torch.jit.script or torch.jit.trace",
    ),
    "arguments of a layer": (
        lambda: openlstm.trace(made(), series(), lengths=[T] * B, reset=torch.zeros(T, B)),
        ArgumentError,
        "trace: a model has no such argument\n"
        "  got       lengths, reset for Translator\n"
        "  expected  the inputs of the model alone\n"
        "  hint      pass what the model takes, several in a tuple or a dict",
    ),
    "no layer ran": (
        lambda: openlstm.trace(Wrapped(nn.LSTM(I, H), lambda rnn, x: x), series()),
        ArgumentError,
        "trace: no recurrent layer ran\n"
        "  got       no call of rnn\n"
        "  expected  a call of one\n"
        "  hint      check the inputs: this call of the model reaches none of them",
    ),
    "no scalar": (
        lambda: openlstm.trace(made(), series(), loss=lambda out: out),
        ArgumentError,
        "trace: the loss is not a scalar that depends on the layer\n"
        "  got       loss(output): float64[3, 6, 2]\n"
        "  expected  a tensor without axes, computed from output\n"
        "  hint      end the loss with .sum() or .mean(), without detach() or item()",
    ),
    "a forward of its own": (
        lambda: openlstm.trace(nn.Sequential(Own(I, H)), series().float()),
        ArgumentError,
        "trace: the layer has a forward of its own\n"
        "  got       0: Own\n"
        "  expected  torch.nn.LSTM\n"
        "  hint      use a plain layer: what a subclass computes is not known here",
    ),
}


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("name", REFUSALS)
def test_a_wrong_trace_of_a_model_is_refused_with_this_text(name: str) -> None:
    call, kind, text = REFUSALS[name]
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == text


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = openlstm.LSTM(I, H), nn.Linear(H, 3)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return self.head(self.layer(x)[0][-1]) * scale


@pytest.mark.parametrize(
    ("data", "loss"),
    [
        (lambda x, y: (x, y), nn.CrossEntropyLoss()),
        (lambda x, y: (x, y), nn.functional.cross_entropy),
        (lambda x, y: (x, y), lambda model, x, y: nn.functional.cross_entropy(model(x), y)),
        (lambda x, y: (x, 1.0, y), lambda out, y: nn.functional.cross_entropy(out, y)),
        (lambda x, y: {"x": x, "target": y}, nn.CrossEntropyLoss()),
    ],
)
def test_the_losses_of_the_xray_are_taken(data: Any, loss: Any) -> None:
    model, x, y = Reader(), torch.randn(T, B, I), torch.arange(B) % 3
    wanted = openlstm.trace(model, x, loss=lambda out: nn.functional.cross_entropy(out, y))
    parts = data(x, y)
    found = openlstm.trace(model, parts, loss=loss)
    assert list(found) == list(wanted) and torch.equal(found["layer.0.dc"], wanted["layer.0.dc"])
    assert found.loss == wanted.loss and torch.equal(found.y, wanted.y)


def test_a_loss_that_is_no_loss_is_told_apart() -> None:
    model, x, y = Reader(), torch.randn(T, B, I), torch.arange(B) % 3
    with pytest.raises(DtypeError, match="trace: the loss is a class"):
        openlstm.trace(model, (x, y), loss=nn.CrossEntropyLoss)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="it cannot be computed of the output and the target"):
        openlstm.trace(model, (x, y[:1]), loss=nn.CrossEntropyLoss())
