"""What a network uses, on models whose context is known."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.insight import char_model
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import openlstm
from openlstm.errors import ArgumentError, ShapeError
from openlstm.insight.measure.ablation import Ablation, ablation
from openlstm.insight.measure.context_loss import AblationOptions
from openlstm.insight.words import number


class Last(nn.Module):
    """The sum of the last `n` steps; of every step with every=True. [T, B, I] -> [B, I] or [T, B, I]."""

    def __init__(self, n: int, every: bool = False) -> None:
        super().__init__()
        self.n, self.every = n, every

    def forward(self, x: Tensor) -> Tensor:
        total = x.cumsum(0)
        if x.shape[0] > self.n:
            total = torch.cat([total[: self.n], total[self.n :] - total[: -self.n]])
        return total if self.every else total[-1]


def error(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return (model(x) - y).square().mean()


def data(T: int = 50, I: int = 2) -> Tensor:  # noqa: E741
    return torch.randn(T, 64, I, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("n", [1, 2, 13, 32, 49])
def test_the_context_of_a_model_is_found_to_the_step(n: int) -> None:
    x = data()
    y = Last(n)(x) + 0.1 * torch.randn(64, 2, generator=torch.Generator().manual_seed(1))
    found = ablation(Last(n), (x, y), error)
    assert found.uses == n and found.full == found.losses[-1] and found.contexts[-1] == 50
    assert found.losses[found.contexts == n] == pytest.approx(found.full, rel=1e-4)
    assert f"{n} step" in found.finding or n == 1
    assert found.to_dict()["uses"] == n


def test_a_target_for_every_step_is_asked_at_many_ends() -> None:
    x = data()
    y = Last(9, every=True)(x)
    assert ablation(Last(9, every=True), (x, y), error).uses == 9
    first = ablation(Last(9, every=True), (x, y), error, contexts=[9, 25]).losses
    np.testing.assert_allclose(first, 0, atol=1e-10)


def test_other_inputs_of_every_step_are_cut_with_x() -> None:
    x, other = data(), data().flip(0)
    model = Last(9)
    y = model(x + other)
    assert ablation(model, (x, other, y), lambda m, x, other, y: (m(x + other) - y).square().mean()).uses == 9


def test_batch_first_is_that_of_the_layer() -> None:
    torch.manual_seed(0)
    layer: Any = nn.LSTM(2, 8, batch_first=True)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = layer

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x)[0][:, -1]

    x = data().transpose(0, 1)
    y = Model()(x).detach()
    found = ablation(Model(), (x, y), error)
    assert 3 < found.uses < 40  # a default LSTM forgets: its own answer of 50 steps needs a few
    time_first = ablation(
        nn.Sequential(Flip(), Model()), (x.transpose(0, 1), y), error, options=AblationOptions(batch_first=False)
    )
    assert time_first.uses == found.uses


class Flip(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1)


def test_order_that_does_not_matter_is_not_minded() -> None:
    x = data()
    mean = Last(50)
    assert ablation(mean, (x, mean(x)), error, mode="shuffle", contexts=[1, 10, 50]).uses == 1
    near = Last(20)
    assert ablation(near, (x, near(x)), error, mode="shuffle").uses == 20


def test_a_column() -> None:
    class One(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[-6:, :, 0].sum(0) + x[-1, :, 1]

    x = data()
    y = One()(x)
    assert ablation(One(), (x, y), error, mode="feature", options=AblationOptions(feature=0)).uses == 6
    assert ablation(One(), (x, y), error, mode="feature", options=AblationOptions(feature=1)).uses == 1


class Curve(nn.Module):
    """The last step, and so much beside it as makes the squared error a function of the context. [T, B, I] -> [B, I]."""

    def __init__(self, loss: Callable[[int], float]) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, x: Tensor) -> Tensor:
        return x[-1] + self.loss(len(x)) ** 0.5


def of_curve(loss: Callable[[int], float], T: int = 50, **options: Any) -> Ablation:
    """What is said of a network whose loss with the last k steps is loss(k)."""
    x = data(T)
    return ablation(Curve(loss), (x, x[-1]), error, **options)


def test_the_tail_must_hold() -> None:
    """A context at which the loss is right by accident is not the one that is used."""
    for accident in (3, 5, 8, 16):  # on the grid of the search and off it
        found = of_curve(lambda k, a=accident: 0.1 if k >= 23 or k == a else 1.0)
        assert found.uses == 23, accident
    assert of_curve(lambda k: 0.1 if k >= 8 or k == 3 else 1.0, contexts=[1, 2, 3, 7, 8, 20, 50]).uses == 8


@pytest.mark.parametrize("bad", [9, 17, 33])
def test_a_context_beside_which_a_longer_one_is_wrong_is_not_recommended(bad: int) -> None:
    """Right at every power of two, and wrong at the step behind one of them."""
    found = of_curve(lambda k: 0.5 if k == bad or k < 3 else 0.1)
    assert found.uses > bad and all(
        abs(loss - found.full) <= 0.01 * found.full
        for k, loss in zip(found.contexts, found.losses, strict=True)
        if k >= found.uses
    )


def test_a_curve_that_is_never_at_rest_is_searched_in_few_steps() -> None:
    """Right at even contexts, wrong at odd ones: nothing but all of it will do, and that is seen without asking all."""
    found = of_curve(lambda k: 0.1 if k % 2 == 0 else 0.3, T=400)
    assert found.uses == 400 and len(found.contexts) < 50


class Weighted(nn.Module):
    """10 x[-2] + w x[-20], nothing of what is not there. [T, B, I] -> [B, I]."""

    def __init__(self, far: float = 0.6) -> None:
        super().__init__()
        self.far = far

    def forward(self, x: Tensor) -> Tensor:
        near = 10 * x[-2] if len(x) > 1 else 0 * x[-1]
        return near + self.far * x[-20] if len(x) > 19 else near


@pytest.mark.parametrize("noise", [0.0, 0.8])
@pytest.mark.parametrize("far", [0.6, 0.1, 0.02])
def test_a_small_part_that_lies_far_back_is_used_too(far: float, noise: float) -> None:
    """Beside a large near part it is little, and yet the loss without it is another one: at full losses near zero, too."""
    x = data(50, 1)
    y = Weighted(far)(x) + noise * torch.randn(64, 1, generator=torch.Generator().manual_seed(1))
    found = ablation(Weighted(far), (x, y), error)
    without = found.losses[found.contexts == 4].item()
    if abs(without - found.full) > 0.01 * found.full:
        assert found.uses == 20 and "with 20 steps its loss is" in found.finding
    else:
        assert found.uses == 2 and noise and far == 0.02
    if noise == 0:
        assert found.uses == 20


@pytest.mark.parametrize("kind", ["square", "absolute"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_what_is_learnt_exactly_is_told_apart_from_rounding(kind: str, scale: float) -> None:
    """The full loss is zero, or what float32 leaves of it: rounding is no use of a longer context."""
    x = scale * data()

    def loss(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return (m(x) - y).square().mean() if kind == "square" else (m(x) - y).abs().mean()

    assert ablation(Last(7), (x, x.double()[-7:].sum(0).float()), loss).uses == 7


def test_more_context_that_hurts_is_said_with_both_losses() -> None:
    found = of_curve(lambda k: {True: 0.28, False: 0.404}[12 <= k <= 19] if k >= 8 else 1.0, T=64)
    assert found.better is not None and 12 <= found.better < 19  # 19: the step behind it is wrong
    assert found.uses == 20  # from there on the loss is the one of all 64
    assert found.finding == (
        f"The network uses the last 20 steps, and does better with less: with {found.better} steps its loss is 0.28, "
        f"with 64 it is 0.404. A window of {found.better} steps is better than all of it."
    )
    assert found.serving == (
        f"It does better with a window of {found.better} steps, started empty for each answer, than in a stream that goes on: "
        "its loss is 0.28 with these, 0.404 with 64."
    )
    assert found.to_dict()["better"] == found.better


def test_the_best_context_is_found_to_the_step_where_the_curve_has_one_valley() -> None:
    found = of_curve(lambda k: 0.2 + 0.001 * (k - 11) ** 2 if k < 30 else 0.6, T=100)
    assert found.better == 11


def test_a_context_that_is_better_by_accident_is_not_named() -> None:
    found = of_curve(lambda k: 0.1 if k == 16 else 0.5 if k >= 4 else 1.0)
    assert found.better is None and found.uses == 17


class Short(nn.Module):
    """The last step, and with no more than 20 steps a tenth more. [T, B, I] -> [B, I]."""

    def forward(self, x: Tensor) -> Tensor:
        return x[-1] + (0.1 if len(x) <= 20 else 0.0)


def test_a_context_that_is_better_by_chance_is_not_named() -> None:
    """One row of 64 is hard, and with it the mean; with less context all the others are worse."""
    x = data(40, 1)
    hard = torch.zeros(64, 1)
    hard[5] = 10.0
    by_chance = ablation(Short(), (x, x[-1] + hard), error)
    assert by_chance.losses[0] < 0.99 * by_chance.full and by_chance.better is None and by_chance.uses == 21
    assert ablation(Short(), (x, x[-1] + 1.0), error).better is not None


@pytest.mark.parametrize("whole", [True, False])
def test_where_rows_cannot_be_taken_apart_nothing_is_said_of_less(whole: bool) -> None:
    """One row alone, and a model that takes none but the whole batch."""

    class Fixed(Short):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.zeros(64 if whole else 1, 1)

    x = data(40, 1) if whole else data(40, 1)[:, :1]
    found = ablation(Fixed(), (x, x[-1] + 1.0), error)
    assert found.losses[0] < 0.99 * found.full and found.better is None and found.uses == 21


def test_a_loss_below_zero_is_measured_by_its_size() -> None:
    x = data()

    def loss(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return error(m, x, y) - 3.0

    y = Last(13)(x)
    found = ablation(Last(13), (x, y), loss)
    assert found.uses == 13 and found.full == pytest.approx(-3)


def test_what_is_left_with_much_less_is_told() -> None:
    """The user may take a shorter window; that it is not the same loss stands there in numbers."""
    x = data(50, 1)
    y = Weighted()(x) + 0.8 * torch.randn(64, 1, generator=torch.Generator().manual_seed(1))
    found = ablation(Weighted(), (x, y), error)
    near, first = (found.losses[found.contexts == k].item() for k in (2, 1))
    assert found.finding == (
        f"The network uses the last 20 steps: with 20 steps its loss is {number(found.full, 3)}, "
        f"with 50 it is {number(found.full, 3)}. A window of 20 steps is enough. "
        f"Almost all that the past tells comes from the last 2 steps: its loss is {number(near, 3)} with these, "
        f"{number(first, 3)} with 1."
    )


def test_a_character_model_is_not_given_a_window_that_costs_it_something() -> None:
    model = char_model.trained(150)
    rows = char_model.held_out(model, rows=8, length=201)

    def loss(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(m(x).flatten(0, 1), y.flatten())

    found = ablation(model, (rows[:, :-1], rows[:, 1:]), loss)
    again = ablation(model, (rows[:, :-1], rows[:, 1:]), loss, contexts=range(found.uses, 101))  # every one of them
    assert (np.abs(again.losses - found.full) <= 0.0101 * found.full).all()


class Ends(nn.Module):
    """The sum of the last `n` steps before the end of every row. x [T, B, I] and lengths [B], or packed -> [B, I]."""

    def __init__(self, n: int, batch_first: bool = False) -> None:
        super().__init__()
        self.n, self.batch_first = n, batch_first

    def forward(self, x: Any, lengths: Tensor | None = None) -> Tensor:
        if isinstance(x, PackedSequence):
            x, lengths = pad_packed_sequence(x, batch_first=self.batch_first)
        x = x.transpose(0, 1) if self.batch_first else x
        assert lengths is not None
        back = lengths - 1 - torch.arange(len(x))[:, None]  # [T, B]
        return torch.where(((back >= 0) & (back < self.n))[..., None], x, 0).sum(0)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("n", [1, 6, 13])
def test_rows_of_different_lengths_are_cut_before_their_own_ends(n: int, packed: bool, batch_first: bool) -> None:
    lengths = torch.randint(5, 41, (64,), generator=torch.Generator().manual_seed(2))
    lengths[3] = 40
    x = data(40)
    y = Ends(n)(x, lengths)
    x = x.transpose(0, 1) if batch_first else x
    rows: tuple[Any, ...] = (x, lengths)
    if packed:
        rows = (pack_padded_sequence(x, lengths, batch_first=batch_first, enforce_sorted=False),)
    model = Ends(n, batch_first)

    def loss(m: nn.Module, *parts: Any) -> Tensor:
        return (m(*parts[:-1]) - parts[-1]).square().mean()

    found = ablation(model, (*rows, y), loss, options=AblationOptions(lengths=None if packed else lengths))
    assert found.uses == n and found.contexts[-1] == 40
    half = ablation(model, (*rows, y + 1), loss, options=AblationOptions(lengths=None if packed else lengths))
    assert half.full == pytest.approx(1, rel=1e-5)
    if n == 13:  # rows that are shorter have all they ever had
        some = (lengths[None] - 1 - torch.arange(40)[:, None] >= 4)[..., None]
        x = data(40)
        lost = torch.where(some, x, 0).sum(0) - torch.where(
            (lengths - 14 - torch.arange(40)[:, None] >= 0)[..., None], x, 0
        ).sum(0)
        assert found.losses[found.contexts == 4].item() == pytest.approx(lost.square().mean().item(), rel=1e-4)


def test_rows_of_different_lengths_may_be_grouped() -> None:
    lengths = torch.arange(20, 52)
    x = data(51)[:, :32]

    class Hurt(Ends):
        def forward(self, x: Any, lengths: Tensor | None = None) -> Tensor:
            long = x.batch_sizes.numel() if isinstance(x, PackedSequence) else len(x)
            return super().forward(x, lengths) + (0.0 if long < 20 else 0.5)

    y = Ends(5)(x, lengths)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    for rows in ((x, lengths), (packed,)):
        found = ablation(
            Hurt(5), (*rows, y), lambda m, *a: (m(*a[:-1]) - a[-1]).square().mean(), options=AblationOptions(lengths=lengths)
        )
        assert found.better is not None and 5 <= found.better < 20


def test_other_forms_of_data_and_losses() -> None:
    x = data()
    y = Last(9)(x)
    assert ablation(Last(9), (x, y), nn.MSELoss()).uses == 9
    assert ablation(Last(9), {"x": x, "target": y}, nn.functional.mse_loss).uses == 9

    class Two(nn.Module):
        def forward(self, x: Tensor, z: Tensor) -> Tensor:
            return Last(4)(x) + Last(11)(z)

    both = (x, data().flip(0))
    assert ablation(Two(), (both, Two()(*both)), nn.MSELoss()).uses == 11


def test_a_target_of_as_many_columns_as_there_are_steps_is_one_for_each_row() -> None:
    """A forecast of 50 steps from 50: [B, 50], and no output for every step."""
    x = data(50, 1)[..., 0].T  # [B, T]

    class Ahead(nn.Module):
        batch_first = True

        def forward(self, x: Tensor) -> Tensor:
            return x[:, -8:].sum(1, keepdim=True).expand(-1, 50)

    assert ablation(Ahead(), (x, Ahead()(x)), nn.MSELoss()).uses == 8


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(Last(3), nn.Dropout(0.5))
    model.train()
    model[1].eval()
    state = torch.get_rng_state()
    ablation(model, (data(), Last(3)(data())), error)
    assert model.training and not model[1].training and torch.equal(torch.get_rng_state(), state)


def test_refusals() -> None:
    x = data(5)
    with pytest.raises(ArgumentError) as told:
        ablation(Last(2), (x, x[-1]), error, contexts=[0])
    assert str(told.value) == (
        "ablation: a context outside the sequences\n  got       [0]\n  expected  1 .. 5\n"
        "  hint      name contexts within the sequences"
    )
    with pytest.raises(ShapeError, match="hold no target"):
        ablation(Last(2), (x,), error)
    with pytest.raises(ArgumentError, match="unknown mode"):
        ablation(Last(2), (x, x[-1]), error, mode="drop")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="which column"):
        ablation(Last(2), (x, x[-1]), error, mode="feature")
    with pytest.raises(ArgumentError, match="no such column"):
        ablation(Last(2), (x, x[-1]), error, mode="feature", options=AblationOptions(feature=2))
    with pytest.raises(ArgumentError, match="loss is not finite"):
        ablation(Last(2), (x, x[-1]), lambda m, x, y: m(x).sum() * float("nan"))


def test_refusals_of_lengths() -> None:
    x, lengths = data(20), torch.arange(64) % 19 + 2
    with pytest.raises(ArgumentError) as told:
        ablation(Last(2), (x, x[-1]), error, options=AblationOptions(lengths=lengths))
    assert str(told.value) == (
        "ablation: rows of different lengths\n"
        "  got       lengths [2, 3, 4, 5, 6], x: float32[20, 64, 2]\n"
        "  expected  the lengths among the data\n"
        "  hint      hand the lengths to the model as an input, or pass a PackedSequence"
    )

    def loss(m: Any, x: Tensor, lengths: Tensor, y: Tensor) -> Tensor:
        return (m(x, lengths) - y).square().mean()

    with pytest.raises(ArgumentError, match="rows with lengths in mode 'shuffle'"):
        ablation(Ends(2), (x, lengths, x[-1]), loss, mode="shuffle", options=AblationOptions(lengths=lengths))

    class Every(nn.Module):
        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            return x.cumsum(0)

    with pytest.raises(ArgumentError, match="a target for every step of rows that have lengths"):
        ablation(Every(), (x, lengths, x), loss, options=AblationOptions(lengths=lengths))
    assert (
        ablation(Last(2), (x, x[-1]), error, options=AblationOptions(lengths=torch.full((64,), 20))).uses >= 1
    )  # all of them whole


def test_a_recurrent_layer_uses_what_it_latched() -> None:
    """An LSTM with f = 1 that writes the first step alone uses all of it, whatever its gradient says."""
    layer = openlstm.LSTM(2, 1)
    with torch.no_grad():
        for p in layer.parameters():
            p.zero_()
        layer.weight_ih_l0.copy_(torch.tensor([[0.0, 200.0], [0.0, 0.0], [3.0, 0.0], [0.0, 0.0]]))  # type: ignore[operator]
        layer.bias_ih_l0.copy_(torch.tensor([-100.0, 100.0, 0.0, 100.0]))  # type: ignore[operator]
    x = data(30)
    x[..., 1] = 0.0
    x[4, :, 1] = 1.0

    def loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
        return (model(x)[0][-1] - y).square().mean()

    y = layer(x)[0][-1].detach()
    assert ablation(layer, (x, y), loss).uses == 26


def test_a_lag_that_is_asked_about_is_answered_in_one_sentence() -> None:
    class Last(nn.Module):
        def __init__(self, steps: int) -> None:
            super().__init__()
            self.steps = steps

        def forward(self, x: Tensor) -> Tensor:
            return x[-self.steps :].sum(0)

    x = torch.randn(40, 64, 1, generator=torch.Generator().manual_seed(0))
    data = (x, x[-21:].sum(0))
    found = {lag: ablation(Last(21), data, nn.MSELoss(), lag=lag).finding for lag in (20, 21, 40)}
    assert re.search(
        r"It uses what lies 20 steps back or farther: its loss is 1\.\d+ without that, 0 with all of it\.$", found[20]
    )
    assert found[21].endswith(
        "It does not use what lies 21 steps back or farther: its loss is 0 without that, 0 with all of it."
    )
    assert found[40].endswith("Whether it uses what lies 40 steps back was not measured: the longest context is 40.")
    harmed = ablation(Last(40), data, nn.MSELoss(), lag=21)
    assert harmed.finding.endswith(
        f"It uses what lies 21 steps back or farther, to its harm: its loss is 0 without that, "
        f"{harmed.full:.3g} with all of it."
    )
    assert "back or farther" not in ablation(Last(21), data, nn.MSELoss()).finding
