"""bfloat16 in training: float32 outside the products, the same losses, and nothing changed where it is not faster."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import NEEDS_NATIVE
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.checkpoint import checkpoint

import openlstm
from openlstm.engine import native
from openlstm.errors import ArgumentError
from openlstm.insight import Watch
from openlstm.train import Options, train
from openlstm.train.precision import autocast, describe

B, T, I, H = 32, 12, 2, 32


class Net(nn.Module):
    def __init__(self, seed: int = 0, **options: Any) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.lstm, self.head = openlstm.LSTM(I, H, batch_first=True, **options), nn.Linear(H, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def squares(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return ((model(x) - y) ** 2).sum(), torch.tensor(len(y))


def waves(seed: int, rows: int = 256) -> list[Tensor]:
    """A sine, some noise, and the value to come."""
    draw = torch.Generator().manual_seed(seed)
    at = torch.rand(rows, 1, generator=draw) * 6 + torch.arange(T + 1) * (0.3 + 0.7 * torch.rand(rows, 1, generator=draw))
    noise = 0.2 * torch.randn(rows, T, generator=draw)
    return [torch.stack([at[:, :T].sin() + noise, noise.roll(1, 1)], -1), at[:, T:].sin()]


def trained(seed: int, precision: str) -> tuple[Net, float]:
    """A network, and its last validation loss, in float32."""
    net, options = Net(seed), Options(epochs=6, batch_size=B, seed=seed, precision=precision)
    history = train(net, squares, waves(1), waves(2), options)
    return net, history.epochs[-1].validation_loss


def test_losses_are_within_the_spread_of_seeds_and_auto_is_float32_to_the_bit_where_it_is_not_faster() -> None:
    wide = [trained(seed, "float32") for seed in range(3)]
    losses = [loss for _, loss in wide]
    spread = max(losses) - min(losses)
    narrow = [trained(seed, "bfloat16") for seed in range(3)]
    assert max(losses) < 0.2 < float(waves(2)[1].var())  # it learns
    assert all(min(losses) - spread < loss < max(losses) + spread for _, loss in narrow)
    state, auto, other = (net.state_dict() for net in (wide[0][0], trained(0, "auto")[0], narrow[0][0]))
    assert all(torch.equal(state[name], auto[name]) for name in state)
    assert not any(torch.equal(state[name], other[name]) for name in state)


def test_all_but_the_products_is_float32() -> None:
    net, (x, y) = Net(), waves(1, B)
    optimizer = torch.optim.AdamW(net.parameters())
    exact = net.lstm(x)[0]
    with autocast(net, "bfloat16", B)():
        (out, state), error = net.lstm(x), squares(net, x, y)[0]
    error.backward()
    optimizer.step()
    kept = [a for group in optimizer.state.values() for a in group.values()]
    numbers = [out, *state, error, *net.parameters(), *(p.grad for p in net.parameters()), *kept]
    assert {a.dtype for a in numbers if a is not None} == {torch.float32} and len(numbers) == 4 + 5 * 6
    assert torch.equal(out, out.bfloat16().float()) and not torch.equal(out, exact)
    other = copy.deepcopy(net).double()
    with autocast(other, "bfloat16", B)():
        assert torch.equal(other.lstm(x.double())[0], copy.deepcopy(net.lstm).double()(x.double())[0])


def test_numbers_are_those_of_autocast_with_and_without_gradients() -> None:
    net, layer, x = Net(num_layers=2), openlstm.LSTM(I, H), waves(1, B)[0]
    for one in (net.lstm, layer):
        with autocast(net, "bfloat16", B)(), autocast(layer, "bfloat16", B)():
            y, _ = one(x)
            with torch.no_grad():
                again, _ = one(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded, _ = one(x)
        assert torch.equal(y, again) and torch.equal(y, rounded.float())


def test_auto_is_bfloat16_to_the_bit_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "faster_in_bfloat16", lambda *_: True)
    monkeypatch.setattr("openlstm.train.precision._kernel", lambda _: True)  # which this machine may not have
    auto, asked = (trained(0, precision)[0].state_dict() for precision in ("auto", "bfloat16"))
    assert all(torch.equal(auto[name], asked[name]) for name in asked)


def test_a_validation_is_float32_and_what_backward_runs_again_is_not() -> None:
    net, seen = Net(), set[tuple[bool, bool]]()

    def loss(model: Net, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        def run(x: Tensor) -> Tensor:
            seen.add((model.training, model.lstm._bfloat16))
            return model(x)

        out: Any = checkpoint(run, x, use_reentrant=False)
        return ((out - y) ** 2).sum(), torch.tensor(len(y))

    train(net, loss, waves(1), waves(2), Options(epochs=1, precision="bfloat16"))
    assert seen == {(True, True), (False, False)} and not net.lstm._bfloat16


def test_another_precision_is_refused_with_this_text() -> None:
    with pytest.raises(ArgumentError) as e:
        Options(precision="half")
    assert str(e.value) == (
        "Options: unknown precision 'half'\n  got       precision='half'\n  expected  float32, bfloat16, auto\n"
        "  hint      leave precision out to train in float32"
    )


def test_packed_rows_and_a_layer_called_twice() -> None:
    layer, packed = openlstm.GRU(I, H), pack_sequence([torch.randn(5, I), torch.randn(3, I)])
    with autocast(nn.ModuleList([layer, nn.Sequential(layer)]), "bfloat16", 2)():
        y, h = layer(input=packed)
        again, _ = layer(packed, h)
    assert isinstance(y, PackedSequence) and y.data.dtype is again.data.dtype is torch.float32


def test_a_layer_is_left_as_it_was() -> None:
    net = Net()
    before = dict(vars(net.lstm))
    with pytest.raises(ZeroDivisionError), autocast(net, "bfloat16", B)():
        raise ZeroDivisionError
    assert vars(net.lstm) == before


def test_a_training_in_it_can_be_watched() -> None:
    net, (x, y) = Net(num_layers=2), waves(1, B)
    shares = []
    for precision in ("float32", "bfloat16"):
        watch = Watch(net, every=1)
        with watch.step(0), autocast(net, precision, B)():
            squares(net, x, y)[0].backward()
        shares.append([g.state_gradient.share for g in watch.snapshots])
    assert len(shares[0]) == 2
    np.testing.assert_allclose(shares[1], shares[0], rtol=0.1, atol=1e-3)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """An engine that says of itself what it is told to."""

    def says(by: str, faster: Callable[..., bool], kernels: bool = True) -> None:
        monkeypatch.delenv("OPENLSTM_BACKEND", raising=False)
        monkeypatch.setattr(native, "bfloat16", lambda: by)
        monkeypatch.setattr(native, "has_bfloat16", lambda _: kernels)
        monkeypatch.setattr(native, "faster_in_bfloat16", faster)

    return says


def narrow(model: nn.Module, layer: Any, precision: str, rows: int) -> bool:
    """Whether a layer is told to multiply in bfloat16; no kernel is called, which this machine may not have."""
    with autocast(model, precision, rows)():
        return layer._bfloat16


@NEEDS_NATIVE
def test_most_of_the_work_decides(engine: Callable[..., None]) -> None:
    """Of a step: products of all layers and directions."""
    model = nn.ModuleList([openlstm.LSTM(8, 64, bidirectional=True), openlstm.GRU(64, 48, num_layers=2), nn.Linear(4096, 64)])
    seen = []
    engine("AMX (asked for)", lambda cell, *sizes: bool(seen.append((cell.name, *sizes))) or sizes[2] == 64)
    assert narrow(model, model[0], "auto", 5)  # 2 * 256 * 72 of 66,816 are in it
    assert seen == [("lstm", 5, 8, 64, 0), ("gru", 5, 64, 48, 0), ("gru", 5, 48, 48, 0)]
    engine("AMX (asked for)", lambda cell, *sizes: sizes[2] == 48)
    assert not narrow(model, model[0], "auto", 5)


AMX, NONE = "AMX (this processor has it)", "float32, rounded once (no AMX in this processor)"


@NEEDS_NATIVE
@pytest.mark.parametrize(
    ("precision", "by", "faster", "kernels", "line"),
    [
        ("float32", AMX, True, True, "float32"),
        ("auto", AMX, True, True, "bfloat16: it is faster at 32 units and 64 rows here (AMX)"),
        ("auto", AMX, False, True, "float32: bfloat16 is not faster at 32 units and 64 rows here (AMX)"),
        ("auto", NONE, False, False, "float32: bfloat16 would be float32 rounded once (no AMX in this processor)"),
        ("auto", AMX, False, False, "float32: bfloat16 would be float32 rounded once (no kernel of AMX runs these layers)"),
        ("bfloat16", AMX, True, True, "bfloat16, as asked: it is faster at 32 units and 64 rows here (AMX)"),
        ("bfloat16", AMX, False, True, "bfloat16, as asked, though not faster at 32 units and 64 rows here (AMX)"),
        (
            "bfloat16",
            NONE,
            False,
            False,
            "bfloat16, as asked, but slower: float32 rounded once (no AMX in this processor)",
        ),
    ],
)
def test_what_is_said_of_it(
    engine: Callable[..., None], precision: str, by: str, faster: bool, kernels: bool, line: str
) -> None:
    engine(by, lambda *_: faster, kernels)
    net = Net()
    assert describe(net, precision, 64) == line
    assert narrow(net, net.lstm, precision, 64) == line.startswith("bfloat16")


def test_layers_that_it_does_not_reach_are_told() -> None:
    for model in (nn.LSTM(I, H), openlstm.LSTM(I, H).double(), openlstm.LSTM(I, H, device="meta")):
        said = "float32: the model has no recurrent layer of openlstm in float32 on the CPU"
        assert describe(model, "bfloat16", 64) == describe(model, "auto", 64) == said
    net = Net(backend="reference")
    assert describe(net, "auto", 4096).startswith("float32: bfloat16 would be float32 rounded once")
