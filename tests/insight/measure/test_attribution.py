"""Integrated gradients add up to what they explain, on every kind of model, and leave no trace."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.insight import char_model
from torch import Tensor, nn

import openlstm
from openlstm import cells
from openlstm.errors import ArgumentError, DtypeError, ShapeError
from openlstm.insight.measure.attribution import NODES, attribution

T, B, I, H = 13, 3, 2, 9


class Last(nn.Module):
    """A recurrent layer, batch first, and a head on its last output."""

    def __init__(self, layer: nn.Module, outputs: int = 1) -> None:
        super().__init__()
        self.recurrent = layer
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(H, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.recurrent(x)[0][:, -1]))


class Tokens(nn.Module):
    """Ids [B, T] -> logits [B, T, V], with an embedding of positions that is the same for every row."""

    def __init__(self, V: int = 11) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, 6)
        self.position = nn.Embedding(T, 6)
        self.lstm = openlstm.LSTM(6, H, batch_first=True)
        self.head = nn.Linear(H, V)

    def forward(self, ids: Tensor) -> Tensor:
        e = self.embedding(ids) + self.position(torch.arange(ids.shape[1]))
        return self.head(self.lstm(e)[0])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def net(kind: str, factor: float = 1.0, seed: int = 0) -> Last:
    torch.manual_seed(seed)
    made = {
        "lstm": lambda: openlstm.LSTM(I, H, batch_first=True),
        "gru": lambda: openlstm.GRU(I, H, batch_first=True),
        "relu": lambda: openlstm.RNN(I, H, nonlinearity="relu", batch_first=True),
        "peephole": lambda: openlstm.LSTM(I, H, cell=cells.Peephole(), batch_first=True),
        "torch": lambda: nn.LSTM(I, H, num_layers=2, batch_first=True),
        "both ways": lambda: openlstm.LSTM(I, H, bidirectional=True, proj_size=0, batch_first=True),
    }[kind]()
    model = Last(made)
    if kind == "both ways":
        model.head = nn.Linear(2 * H, 1)
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(factor)
    return model


@pytest.mark.parametrize("factor", [1.0, 4.0, 8.0], ids=["as drawn", "steep", "saturated"])
@pytest.mark.parametrize("kind", ["lstm", "gru", "relu", "peephole", "torch", "both ways"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_parts_add_up_to_what_the_inputs_change(kind: str, factor: float, seed: int) -> None:
    model, x = net(kind, factor**0.5 if kind == "relu" else factor, seed), 2 * draw(B, T, I, seed=seed)
    found = attribution(model, x)
    model.eval()
    with torch.no_grad():
        change = (model(x) - model(0 * x))[:, 0].double().numpy()
    total = found.per_row.sum((1, 2))
    assert found.gap < 0.01
    assert np.linalg.norm(total - change) < 0.01 * np.linalg.norm(change)
    np.testing.assert_allclose(found.output - found.baseline, change, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.gap, np.linalg.norm(total - change) / np.linalg.norm(change), atol=1e-5)


def test_a_trained_network_with_closed_gates_keeps_the_promise() -> None:
    """The sign of the first step after 30 steps of noise: a network that has learnt to keep."""
    torch.manual_seed(0)
    layer = openlstm.nn.init.chrono(openlstm.LSTM(2, 16, batch_first=True), 30)
    model = nn.ModuleDict({"lstm": layer, "head": nn.Linear(16, 1)})

    class Keep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = model

        def forward(self, x: Tensor) -> Tensor:
            return self.parts["head"](self.parts["lstm"](x)[0][:, -1])

    keep = Keep()
    optimiser = torch.optim.Adam(keep.parameters(), 0.01)
    generator = torch.Generator().manual_seed(0)

    def batch(rows: int) -> tuple[Tensor, Tensor]:
        x = torch.zeros(rows, 30, 2)
        x[..., 0] = 0.3 * torch.randn(rows, 30, generator=generator)
        sign = torch.randint(0, 2, (rows,), generator=generator) * 2.0 - 1
        x[:, 0, 1] = sign
        return x, sign

    for _ in range(150):
        x, sign = batch(32)
        loss = ((keep(x)[:, 0] - sign) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1
    found = attribution(keep, batch(16)[0], features=("noise", "sign"))
    assert found.gap < 0.01
    assert found.by_feature[1] > 0.5 and found.by_lag[29] > 0.5  # it reads the sign, 29 steps before the last
    assert "sign has the largest part" in found.finding


def test_halving_is_needed_and_says_so_where_it_may_not() -> None:
    model, x = net("lstm", 12.0), 2 * draw(B, T, I)
    short, long = attribution(model, x, steps=NODES), attribution(model, x)
    assert short.evaluations == NODES and short.gap > 0.01 > long.gap and long.evaluations > NODES
    assert "too large to rely on it: try baseline='shifted' or more steps" in short.finding
    assert "too large" not in long.finding


def test_a_linear_model_is_exact() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("w", draw(T, I, seed=4))

        def forward(self, x: Tensor) -> Tensor:
            return (x * self.w).sum((1, 2))  # type: ignore[operator]

    model, x = Sum(), draw(B, T, I)
    found = attribution(model, x, baseline=draw(I, seed=9))
    wanted = ((x - draw(I, seed=9)) * model.w).numpy()  # type: ignore[operator]
    np.testing.assert_allclose(found.per_row, wanted, atol=1e-5)
    np.testing.assert_allclose(found.values, wanted.mean(0)[::-1], atol=1e-5)
    np.testing.assert_allclose(found.size, np.abs(wanted).mean(0)[::-1], atol=1e-5)
    assert found.evaluations == NODES and found.gap < 1e-5


def test_it_is_the_integral_of_gradients_along_the_line() -> None:
    model, x = net("lstm", 3.0).double().eval(), draw(B, T, I).double()
    n, total = 400, torch.zeros_like(x)
    for k in range(n):
        at = (x * (k + 0.5) / n).requires_grad_()
        total += torch.autograd.grad(model(at).sum(), at)[0] / n
    np.testing.assert_allclose(attribution(model, x).per_row, (x * total).numpy(), atol=1e-2 * float((x * total).abs().max()))


@pytest.mark.parametrize("lag", [0, 3, T - 1])
def test_rows_of_values_count_back_from_the_last_step(lag: int) -> None:
    class Reads(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, T - 1 - lag, 1]

    found = attribution(Reads(), draw(B, T, I))
    assert found.by_lag[lag] == 1 and found.lag80 == lag and found.by_feature.tolist() == [0, 1]
    carry = "the last step alone carries" if lag == 0 else f"the last {lag + 1} steps carry"
    assert carry in found.finding and "x0 less than 1 %: try without" in found.finding


def test_of_many_inputs_with_small_parts_only_those_that_are_small_together_are_named() -> None:
    """Two hundred with half a percent each: none of them can go."""

    class Even(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, -1, 3:].sum(-1)

    found = attribution(Even(), torch.ones(2, 4, 203)).finding  # each of the others is half a percent, and one more would do
    assert "and x0, x1, x2 and 1 more together less than 1 %: try without" in found


@pytest.mark.parametrize("form", ["batch first", "time first", "unbatched"])
@pytest.mark.parametrize("source", ["ours", "torch"])
def test_a_bare_layer_in_all_its_forms(form: str, source: str) -> None:
    torch.manual_seed(0)
    layer: Any = openlstm.LSTM(I, H, batch_first=form == "batch first")
    layer = layer.to_torch() if source == "torch" else layer
    x = draw(T, B, I)
    given = {"batch first": x.transpose(0, 1), "time first": x, "unbatched": x[:, 0]}[form]
    found = attribution(layer, given, target=4)
    last = layer(given)[0].detach()[..., 4]
    last = last[:, -1] if form == "batch first" else last[-1:].reshape(-1)
    np.testing.assert_allclose(found.output, last.numpy(), rtol=1e-6)
    assert found.per_row.shape == (1 if form == "unbatched" else B, T, I) and found.gap < 0.01


def test_the_default_target_is_the_sum_of_the_last_outputs_and_a_function_may_take_any() -> None:
    torch.manual_seed(0)
    layer, x = openlstm.LSTM(I, H), draw(T, B, I)
    y, (_, c) = layer(x)
    np.testing.assert_allclose(attribution(layer, x).output, y[-1].sum(-1).detach(), rtol=1e-5)
    found = attribution(layer, x, lambda out: out[1][1][0, :, 2])
    np.testing.assert_allclose(found.output, c[0, :, 2].detach(), rtol=1e-5)
    assert found.gap < 0.01


def test_tokens_get_the_sum_over_their_embedding_and_begin_at_zero_if_asked_to() -> None:
    torch.manual_seed(0)
    model, ids = Tokens().eval(), torch.randint(0, 11, (B, T))
    found = attribution(model, ids, baseline=0.0)
    logits = model(ids)[:, -1].detach()
    np.testing.assert_allclose(found.output, logits.max(1).values, rtol=1e-5)
    assert found.features == ("token",) and found.per_row.shape == (B, T, 1) and found.gap < 0.01
    e = model.embedding.weight.detach().clone()
    with torch.no_grad():
        model.embedding.weight.zero_()
        start = model(ids)[:, -1].gather(1, logits.argmax(1, keepdim=True))[:, 0]
        model.embedding.weight.copy_(e)
    np.testing.assert_allclose(found.baseline, start, rtol=1e-5)
    np.testing.assert_allclose(found.per_row.sum((1, 2)), found.output - found.baseline, rtol=0.02, atol=1e-3)
    other = attribution(model, ids, target=7)
    np.testing.assert_allclose(other.output, logits[:, 7], rtol=1e-5)


def test_tokens_begin_as_other_tokens_of_their_row() -> None:
    torch.manual_seed(0)
    model, ids = Tokens().eval(), torch.randint(0, 11, (B, T))
    found = attribution(model, ids)
    choice = model(ids)[:, -1].argmax(1, keepdim=True)
    start = model(ids.roll(5, 1))[:, -1].gather(1, choice)[:, 0].detach()  # 0.382 * 13
    np.testing.assert_allclose(found.baseline, start, rtol=1e-5)
    assert found.gap < 0.01
    same = (ids == ids.roll(5, 1)).numpy()
    assert same.any() and not found.per_row[same].any()


def test_floats_may_begin_as_the_row_itself_too() -> None:
    model, x = net("lstm"), draw(B, T, I)
    found = attribution(model, x, baseline="shifted")
    with torch.no_grad():
        np.testing.assert_allclose(found.baseline, model.eval()(x.roll(5, 1))[:, 0], rtol=1e-5)
    assert found.gap < 0.01


class Latch(nn.Module):
    """x of each row adds up over the steps; the output jumps from 0 to 1 where the sum passes 0.3, steeper than floats are."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(1e6 * (x.sum((1, 2)) - 0.3))


def test_a_jump_goes_where_the_gradient_points_and_is_named() -> None:
    x = draw(B, T, I).abs() / T
    found = attribution(Latch(), x)
    assert found.gap < 0.01 and found.jumps > 0.99
    np.testing.assert_allclose(found.per_row, (x / x.sum((1, 2), keepdim=True)).numpy(), rtol=1e-2)  # all inputs count alike
    assert "100% of the change are jumps on the way" in found.finding
    assert attribution(net("lstm"), draw(B, T, I)).jumps == 0


@pytest.mark.slow
def test_a_character_model_trained_and_untrained() -> None:
    ids = char_model.held_out(char_model.trained())
    for model in (char_model.untrained(), char_model.trained(300), char_model.trained()):
        found = attribution(model, ids)
        assert found.gap < 0.01 and found.jumps < 0.05 and found.lag80 < 60


class Static(nn.Module):
    """A series, what is known of the row as a whole, and the same for all rows."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = openlstm.LSTM(I, H, batch_first=True)
        self.row = nn.Linear(4, H)

    def forward(self, x: Tensor, row: Tensor, scale: Tensor) -> Tensor:
        return (scale * torch.tanh(self.lstm(x)[0][:, -1] * 3 + self.row(row))).sum(-1)


def test_inputs_without_steps_are_counted_apart_and_what_has_no_rows_is_held() -> None:
    torch.manual_seed(0)
    model, x, row, scale = Static(), draw(B, T, I), draw(B, 4), torch.tensor([1.5, *[0.5] * (H - 1)])
    found = attribution(model, (x, row, scale))
    assert found.gap < 0.01 and bool((np.abs(found.rest) > 0).all())
    np.testing.assert_allclose(
        found.per_row.sum((1, 2)) + found.rest, found.output - found.baseline, atol=0.01 * np.abs(found.output).max()
    )
    again = attribution(model, {"x": x.numpy(), "row": row, "scale": scale})
    np.testing.assert_array_equal(again.per_row, found.per_row)
    with torch.no_grad():
        np.testing.assert_allclose(found.baseline, model(0 * x, 0 * row, scale), rtol=1e-5)


def test_what_the_output_does_not_depend_on_is_zero_and_no_gap() -> None:
    class Deaf(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ones(len(x)) + 0 * x.sum((1, 2)).detach()

    found = attribution(Deaf(), draw(B, T, I))
    assert found.gap == 0 and not found.values.any() and found.lag80 == T - 1
    assert found.finding == "No input of these 13 steps changes the output at all: the network does not read its input."


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_the_model_changes(fails: bool) -> None:
    torch.manual_seed(0)
    model = Tokens()
    model.train()
    model.lstm.eval()
    model(torch.zeros(B, T, dtype=torch.long)).sum().backward()
    modes = [m.training for m in model.modules()]
    weights = [p.detach().clone() for p in model.parameters()]
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    random = torch.get_rng_state()
    with torch.no_grad():
        if fails:
            with pytest.raises(ZeroDivisionError):
                attribution(model, torch.zeros(B, T, dtype=torch.long), lambda out: out[1 // 0])
        else:
            attribution(model, torch.zeros(B, T, dtype=torch.long))
    assert modes == [m.training for m in model.modules()]
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert all(torch.equal(a, p.grad) for a, p in zip(grads, model.parameters(), strict=True) if p.grad is not None)
    assert torch.equal(random, torch.get_rng_state())
    assert not any(m._forward_hooks for m in model.modules())


def test_dropout_does_not_act() -> None:
    model, x = net("torch"), draw(B, T, I)
    model.train()
    a, b = attribution(model, x), attribution(model, x)
    np.testing.assert_array_equal(a.per_row, b.per_row)
    assert a.gap < 0.01


def test_figures_can_be_written_as_json() -> None:
    found = attribution(net("lstm"), draw(B, T, I), features=["wind", "rain"])
    text = json.loads(json.dumps(found.to_dict()))
    assert text["features"] == ["wind", "rain"] and len(text["values"]) == T and text["gap"] < 0.01
    assert math.isclose(sum(text["by_lag"]), 1, rel_tol=1e-6)
    assert math.isclose(sum(text["by_feature"]), 1, rel_tol=1e-6)


def refused(kind: type[Exception], *args: Any, **options: Any) -> str:
    with pytest.raises(kind) as error:
        attribution(*args, **options)
    return str(error.value)


def test_an_output_that_is_not_finite() -> None:
    assert refused(ArgumentError, net("lstm"), torch.full((B, T, I), torch.nan)) == (
        "attribution: the output is not finite\n  got       NaN or infinity\n  expected  finite numbers\n"
        "  hint      look at the model and its inputs first: openlstm.insight.capture_layers names the first of them"
    )


def test_what_cannot_be_explained_is_said() -> None:
    model, x = net("lstm"), draw(B, T, I)
    assert refused(DtypeError, "model", x) == (
        "attribution: not a module\n  got       model: str\n  expected  a torch.nn.Module\n"
        "  hint      pass the model or its layer"
    )
    assert refused(ArgumentError, model, x, steps=3) == (
        "attribution: too few steps\n  got       steps=3\n  expected  steps >= 4\n"
        "  hint      one interval of the path takes so many gradients"
    )
    assert refused(ArgumentError, model, x, baseline="mean") == (
        "attribution: no such baseline\n  got       baseline='mean'\n  expected  a number, a tensor or 'shifted'\n"
        "  hint      0.0 for zero, 'shifted' for the row itself at other steps"
    )
    assert refused(ArgumentError, model, x, target=1) == (
        "attribution: no output 1\n  got       target=1\n  expected  0 .. 0\n"
        "  hint      an index on the last axis of the output, or a function of the output"
    )
    assert refused(ShapeError, model, x, lambda out: out.sum()) == (
        "attribution: the target is not one number for each row\n  got       target(output): float32[]\n"
        "  expected  [3] = [B]\n  hint      lambda output: output[:, -1, 3], say"
    )
    assert refused(ShapeError, model, x, baseline=torch.zeros(5)) == (
        "attribution: the baseline does not fit\n  got       baseline: float32[5], x: float32[3, 13, 2]\n"
        "  expected  what broadcasts to x\n  hint      a number, or one value for each feature: [I]"
    )
    assert refused(ArgumentError, model, x, features=["one"]) == (
        "attribution: another number of names than inputs\n  got       features: 1 names\n  expected  2 names\n"
        "  hint      one name for each feature of x, then one for each embedding"
    )
    assert refused(ShapeError, model, x[None]) == (
        "attribution: x has no axes of rows and steps\n  got       x: float32[1, 3, 13, 2]\n"
        "  expected  [B, T, I], [B, T] or [T]\n  hint      give every step an axis of its own"
    )
    assert refused(DtypeError, openlstm.LSTM(I, H, batch_first=True), "text").startswith(
        "attribution: no tensor among the inputs"
    )


class OneHot(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.one_hot(ids, 5).float()


class Whole(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum()


def test_a_model_without_a_place_to_scale_and_one_without_rows() -> None:
    assert refused(DtypeError, OneHot(), torch.zeros(B, T, dtype=torch.long)) == (
        "attribution: no input that can be scaled\n  got       int64[3, 13]\n"
        "  expected  floats, or ids that go to an embedding\n"
        "  hint      pass floats, or ids to a model that uses nn.Embedding"
    )
    assert refused(ShapeError, Whole(), draw(B, T, I)) == (
        "attribution: no number for each row in the output\n  got       output: float32[]\n  expected  [3, ..] = [B, ..]\n"
        "  hint      pass target=, a function of the output that gives [B]"
    )
