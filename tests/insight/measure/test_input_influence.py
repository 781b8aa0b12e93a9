"""The look that follows the loss: whatever way the input at the lag takes to what the loss reads, it is seen."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from papers.horizon import READERS, TASKS, Plan, Reader, build
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import openlstm
from openlstm.errors import ArgumentError
from openlstm.insight.batches import NotMeasurable
from openlstm.insight.capture import capture_layers
from openlstm.insight.judge.lag_measures import LOSS_THRESHOLDS
from openlstm.insight.judge.verdict import verdict
from openlstm.insight.measure.input_influence import InputInfluence
from openlstm.nn import init

xray: Any = openlstm.xray


def cross_entropy(model: nn.Module, x: Any, y: Any) -> Tensor:
    return F.cross_entropy(model(x), y)


def squares(model: nn.Module, x: Any, y: Any) -> Tensor:
    return (model(x) - y).square().mean()


def batch(task: str, lag: int, rows: int = 64) -> tuple[Any, ...]:
    return TASKS[task].batch(lag, rows, torch.Generator().manual_seed(0))


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def followed(model: nn.Module, data: Any, loss: Any = squares) -> InputInfluence:
    return InputInfluence(model, data, loss, capture_layers(model, data, loss).places)


def tokens(reader: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return Reader(openlstm.LSTM(16, 32, **options), 32, 8, reader, 16, 8)


@pytest.mark.parametrize("beginning", ["lstm", "gru"])
@pytest.mark.parametrize("lag", [60, 120])
@pytest.mark.parametrize("reader", READERS)
def test_what_is_learnt_at_once_is_not_blocked(reader: str, lag: int, beginning: str) -> None:
    """Each of them answers every time after 200 steps of Adam, or after a few hundred (papers/results/horizon.json)."""
    model, data = build(Plan("first", beginning, 32, lag, 1e-2, 0, reader)), batch("first", lag)
    found = verdict(model, data, lag, loss=cross_entropy)
    assert found.word == "not blocked" and found.of == "the loss" and found.share > 0.1 and found.flip > 0.01


@pytest.mark.parametrize("reader", READERS)
def test_the_report_follows_it_too(reader: str) -> None:
    model, data = build(Plan("first", "lstm", 8, 20, 1e-2, 0, reader)), batch("first", 20)
    report = xray(model, data, loss=cross_entropy, lag=20, before=True)
    assert report.word == "not blocked" and report.verdict.of == "the loss"
    assert report.horizons["gradient"].lag == report.horizons["flip"].lag == np.inf
    assert "gradient of the loss" in report.horizons["gradient"].note and "what the loss reads" in report.horizons["flip"].note


@pytest.mark.parametrize("lag", [60, 120])
def test_what_reads_the_last_state_alone_is_blocked(lag: int) -> None:
    for model, task in ((build(Plan("latch", "lstm", 32, lag, 1e-2, 0)), "latch"), (tokens("last"), "first")):
        found = verdict(model, batch(task, lag), lag, loss=cross_entropy)
        assert (found.word, found.of, found.place) == ("blocked", "the loss", "") and found.thresholds == LOSS_THRESHOLDS
        assert "gradient of the loss" in found.reason and "what the loss reads" in found.reason


# the measures, of models whose answer is known


class Sum(nn.Module):
    """y = sum_k w_k x_{T-k} of the steps that a row has, beside a layer that adds nothing; read at the end of each row.

    how: "packed" packs the rows for the layer, "lengths" gives them to it, "picked" picks the output at the end of each.
    """

    def __init__(self, w: Tensor, how: str = "plain", batch_first: bool = False) -> None:
        super().__init__()
        layer = nn.LSTM if how == "packed" else openlstm.LSTM
        self.layer, self.how, self.batch_first = layer(1, 4, batch_first=batch_first), how, batch_first
        self.register_buffer("w", w)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        time = int(self.batch_first)
        steps, rows = x.shape[time], x.shape[1 - time]
        own = torch.full((rows,), steps) if lengths is None else lengths
        if self.how == "packed":
            y = self.layer(pack_padded_sequence(x, own, batch_first=self.batch_first, enforce_sorted=False))[0]
            y = pad_packed_sequence(y, batch_first=self.batch_first)[0]
        else:
            y = self.layer(x, lengths=own)[0] if self.how == "lengths" else self.layer(x)[0]
        x, y = (a.transpose(0, 1) if time else a for a in (x, y))
        lag = own - 1 - torch.arange(steps)[:, None]  # [T, B]
        w = torch.where(lag >= 0, self.w[lag.clamp(min=0)], 0)  # type: ignore[index]
        return (torch.where(lag >= 0, x[..., 0], 0) * w).sum(0) + 1e-30 * y[own - 1, torch.arange(rows), 0]


W = torch.tensor([0.5, 2.0, 0.25, 0.0, 0.01, 3.0, 0.1, 1e-3, 1.0, 0.2, 0.4])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("how", ["plain", "packed", "lengths", "picked"])
@pytest.mark.parametrize("shape", [(11, 7), (11, 11), (11, 40)])
def test_the_measures_are_their_definitions(how: str, shape: tuple[int, int], batch_first: bool) -> None:
    T, B = shape
    lengths = torch.full((B,), T) if how == "plain" else torch.arange(B) % 5 + 7  # 7 .. 11
    lengths[0] = T
    x = torch.where(torch.arange(T)[:, None] < lengths, random(T, B), 99.0)[..., None]
    data = (x.transpose(0, 1) if batch_first else x, lengths, random(B))
    model = Sum(W, how, batch_first)

    def loss(model: nn.Module, x: Tensor, lengths: Tensor, y: Tensor) -> Tensor:
        return (model(x, lengths) - y).square().mean()

    found = followed(model, data, loss)
    assert found.tells and found.ends.tolist() == lengths.tolist() and found.longest == lengths.sort().values[-2] - 1
    y = model(data[0], lengths).detach().double()
    for lag in (0, 1, 4, 6, 7, found.longest):
        kept = (lengths > lag).nonzero()[:, 0]
        at = x[lengths[kept] - 1 - lag, kept, 0].double()
        assert found.share(lag) == pytest.approx(float(W[lag] / W[: int(lengths[kept].max())].max()), rel=1e-5)
        flip = found.flip(lag)
        signal = (W[lag] * 2 * (at - at.mean())).abs().mean()
        assert flip.signal == pytest.approx(float(signal), rel=1e-4)
        assert flip.noise == pytest.approx(float(y[kept].std(correction=0)), rel=1e-4) and flip.changed
    assert found.share(3) < 1e-25 and found.flip(3).ratio < 1e-25
    np.testing.assert_allclose(found.shares(), W[: found.longest + 1] / W.max(), rtol=1e-5, atol=1e-25)


def test_the_share_is_beside_the_step_at_which_most_arrives() -> None:
    found = followed(Sum(10.0 ** torch.arange(11.0)), (random(11, 6, 1), random(6)))
    assert [found.share(k) for k in (0, 5, 10)] == pytest.approx([1e-10, 1e-5, 1.0])


def test_a_row_that_is_shorter_than_the_lag_is_left_out() -> None:
    lengths = torch.tensor([11, 9, 5, 5])
    x = random(11, 4, 1)
    model = Sum(W, "lengths")

    def loss(model: nn.Module, x: Tensor, lengths: Tensor, y: Tensor) -> Tensor:
        return (model(x, lengths) - y).square().mean()

    assert verdict(model, (x, lengths, random(4)), 8, loss=loss).share == pytest.approx(float(W[8] / W.max()))
    with pytest.raises(ArgumentError) as error:
        verdict(model, (x, lengths, random(4)), 9, loss=loss)
    assert str(error.value) == (
        "verdict: the data are shorter than the lag\n  got       lag=9, 1 of 4 rows are longer\n"
        "  expected  two rows longer than the lag\n  hint      pass sequences longer than the lag, or ask for a shorter one"
    )


# what the loss reads


class Steps(nn.Module):
    """An output at every step [T, B, O]."""

    def __init__(self, outputs: int = 3, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = openlstm.LSTM(2, 16, **options)
        self.head = nn.Linear(16 * (1 + bool(options.get("bidirectional"))), outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0])


def every_step(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten())


@pytest.mark.parametrize("root", [False, True])
def test_of_a_loss_at_every_step_the_last_one_is_followed(root: bool) -> None:
    """Each output reads the input of its own step, which says nothing of the lag."""
    x, y = random(90, 12, 2), torch.arange(12) % 3

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        value = every_step(model, x, y)
        return value.sqrt() if root else value  # turns no gradient, however long it makes it

    many, one = (
        followed(Steps(), (x, y.expand(90, 12)), loss),
        followed(Steps(), (x, y), lambda m, x, y: cross_entropy(_Last(m), x, y)),
    )
    for lag in (1, 5, 20):
        assert many.share(lag) == pytest.approx(one.share(lag), rel=1e-3)
        assert many.flip(lag).ratio == pytest.approx(one.flip(lag).ratio, rel=1e-3)
    assert verdict(Steps(), (x, y.expand(90, 12)), 80, loss=loss).word == "blocked"
    assert verdict(Steps(bidirectional=True), (x, y.expand(90, 12)), 80, loss=loss).word == "blocked"


class _Last(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)[-1]


POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda y: y.mean(0),
    "largest": lambda y: y.amax(0),
    "first": lambda y: y[0],
    "both ends": lambda y: y[0] + y[-1],
}


@pytest.mark.parametrize("pool", POOLS)
def test_pooling_inside_the_loss_is_followed_as_a_whole(pool: str) -> None:
    x, y = random(81, 24, 2), torch.arange(24) % 3

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(POOLS[pool](model(x)), y)

    model = Steps(bidirectional=pool == "first")
    assert verdict(model, (x, y), 80 if pool != "first" else 40, loss=loss).word == (
        "not blocked" if pool != "first" else "blocked"
    )


def test_pooling_is_told_from_a_sum_where_rows_hardly_differ() -> None:
    """Nothing but the first of 400 steps is different in two rows."""
    x = torch.zeros(401, 24, 2)
    x[0] = random(24, 2)
    y = x[0, :, 0]

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return (model(x)[..., 0].mean(0) - y).square().mean()

    assert verdict(Steps(), (x, y), 400, loss=loss).share == pytest.approx(1.0, rel=0.1)


def test_parts_of_a_model_that_the_loss_calls_itself() -> None:
    torch.manual_seed(0)
    parts = nn.ModuleDict({"rnn": nn.LSTM(2, 16, batch_first=True), "head": nn.Linear(16, 1)})
    x, y = random(20, 100, 2), random(20, 1)

    def last(m: Any, x: Tensor, y: Tensor) -> Tensor:
        return (m["head"](m["rnn"](x)[1][0][-1]) - y).square().mean()

    def mean(m: Any, x: Tensor, y: Tensor) -> Tensor:
        return (m["head"](m["rnn"](x)[0].mean(1)) - y).square().mean()

    assert verdict(parts, (x, y), 99, loss=last).word == "blocked"
    assert verdict(parts, (x, y), 99, loss=mean).word == "not blocked"
    head = copy.deepcopy(parts).requires_grad_(False)
    assert verdict(head, (x, y), 99, loss=last).word == "blocked"  # weights that are frozen make no difference


def test_a_second_input_that_goes_around_the_layer() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer, self.head = openlstm.LSTM(1, 8), nn.Linear(9, 1)

        def forward(self, x: Tensor, other: Tensor, fixed: Tensor) -> Tensor:
            return self.head(torch.cat([self.layer(x)[1][0][-1], other.mean(0)], 1))[:, 0] + fixed[:, 0]

    def loss(m: nn.Module, x: Tensor, other: Tensor, fixed: Tensor, y: Tensor) -> Tensor:
        return (m(x, other, fixed) - y).square().mean()

    x, other, fixed = random(100, 9, 1), random(100, 9, 1) + 1, random(9, 4)
    assert verdict(Two(), (x, other, fixed, random(9)), 90, loss=loss).word == "not blocked"
    still = torch.ones(100, 9, 1)  # the same in every row: nothing there is to be remembered
    assert verdict(Two(), (x, still, fixed, random(9)), 90, loss=loss).word == "blocked"


# tokens


class Ids(nn.Module):
    """A model of token ids [B, T] that makes floats of them in one way or another."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.table = nn.Embedding(8, 8)
        self.layer, self.head = openlstm.GRU(8, 16, batch_first=True), nn.Linear(16, 8)

    def forward(self, ids: Tensor) -> Tensor:
        mask = (ids >= 0).float()  # no value of a token
        if self.how == "table":
            x = self.table(ids)
        elif self.how == "rows of a table":
            x = self.table.weight[ids.long()]
        elif self.how == "one-hot":
            x = F.one_hot(ids, 8).float()
        else:
            x = torch.stack([ids / (k + 8.0) for k in range(8)], 2)
        y = self.layer(x)[0] * mask[..., None]
        return self.head(y[:, -1])


@pytest.mark.parametrize("how", ["table", "rows of a table", "one-hot", "numbers"])
@pytest.mark.parametrize("rows", [30, 61])
def test_tokens_are_followed_from_the_first_floats_that_come_of_them(how: str, rows: int) -> None:
    model = Ids(how)
    ids = torch.randint(8, (rows, 61), generator=torch.Generator().manual_seed(0))
    found = followed(model, (ids, ids[:, 0]), cross_entropy)
    assert found.steps == 61 and len(found.entries) == (8 if how == "numbers" else 1)
    assert verdict(model, (ids, ids[:, 0]), 60, loss=cross_entropy).word == "blocked"
    assert verdict(init.apply(model, "chrono=60"), (ids, ids[:, 0]), 60, loss=cross_entropy).word == "not blocked"
    model.table.weight.requires_grad_(False)
    assert verdict(model, (ids, ids[:, 0]), 60, loss=cross_entropy).word == "not blocked"


# no verdict, and why


def reason(model: nn.Module, data: Any, lag: int, loss: Any = squares) -> str:
    found = verdict(model, data, lag, loss=loss)
    assert found.word == "no verdict"
    return found.reason


def test_the_report_says_why_there_is_no_verdict() -> None:
    model, data = Made(before=lambda x: x.detach()), (random(20, 9, 2), random(9))
    report = xray(model, data, loss=squares, lag=10, before=True)
    assert report.word == "no verdict" and report.finding == f"Lag 10: no verdict. {reason(model, data, 10)}"
    assert report.to_dict()["verdict"]["word"] == "no verdict" and [r.name for r in report.horizons.lags][-1] == "window"


class Made(nn.Module):
    """A layer, and what is made of its input and output."""

    def __init__(self, before: Any = None, after: Any = None, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.before, self.after = openlstm.LSTM(2, 8, **options), before, after

    def forward(self, x: Tensor) -> Any:
        y = self.layer(x if self.before is None else self.before(x))[0]
        return y[-1, :, 0] if self.after is None else self.after(y)


def test_what_cannot_depend_on_the_lag() -> None:
    said = reason(Made(before=lambda x: x[-30:]), (random(90, 9, 2), random(9)), 60)
    assert said.startswith("No floats with 9 rows and 30 steps, as layer.0 sees them, are among the data (float32[90, 9, 2]")
    late = Made(before=lambda x: torch.cat([torch.zeros_like(x[:60]), x[60:]]))
    assert reason(late, (random(90, 9, 2), random(9)), 60) == (
        "By construction what the loss reads does not depend on the input 60 steps back: the model or the loss leaves it out."
    )
    assert verdict(late, (random(90, 9, 2), random(9)), 20, loss=squares).word == "not blocked"


def test_a_model_that_takes_nan_for_missing_is_judged_all_the_same() -> None:
    model = Made(before=lambda x: torch.nan_to_num(x))
    found = followed(model, (random(90, 9, 2), random(9)))
    assert not found.tells and found.ends.tolist() == [90] * 9
    assert verdict(model, (random(90, 9, 2), random(9)), 80, loss=squares).word == "blocked"

    def refuse(x: Tensor) -> Tensor:
        if not bool(x.isfinite().all()):
            raise RuntimeError("not finite")
        return x

    assert verdict(Made(before=refuse), (random(90, 9, 2), random(9)), 80, loss=squares).word == "blocked"


def test_a_gradient_that_is_cut() -> None:
    cut = Made(before=lambda x: x.detach())
    assert reason(cut, (random(40, 9, 2), random(9)), 30) == (
        "No gradient of the loss arrives at the inputs: it is zero, or cut on the way (detach, no_grad)."
    )


def test_numbers_that_are_not_finite() -> None:
    data = (random(40, 9, 2), random(9))
    assert reason(Made(), data, 30, lambda m, x, y: squares(m, x, y) * torch.inf) == "The loss is inf."
    steep = Made(after=lambda y: (y[-1, :, 0] - y[-1, :, 0].detach()).square().sqrt())
    assert reason(steep, data, 30, lambda m, x, y: m(x).sum()) == "The gradient of the loss at the inputs is not finite."
    flat = reason(Made(), data, 30, lambda m, x, y: (m(x) * 0).sqrt().sum())
    assert flat == "The gradient of the loss at what the model gives is not finite."


def test_an_output_without_rows() -> None:
    data = (random(40, 9, 2), random(9))
    one = Made(after=lambda y: y[-1].square().mean())
    said = reason(one, data, 30, lambda m, x, y: m(x))
    assert said.startswith("Float32[], what the model gives, has no axis of its own for the 9 rows: let the model return")
    turned = Made(after=lambda y: y.flatten(0, 2))
    assert "Float32[2880], what the model gives" in reason(turned, data, 30, lambda m, x, y: m(x).square().mean())


@pytest.mark.parametrize("rows", [9, 40, 3])
@pytest.mark.parametrize("batch_first", [False, True])
def test_rows_and_steps_in_one_axis(batch_first: bool, rows: int) -> None:
    """As in many a language model: outputs [T * B, O], or [B * T, O]."""
    x, y = random(40, rows, 2), torch.arange(rows) % 3
    y = y.expand(40, rows)

    class Flat(Steps):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            return (out.transpose(0, 1) if batch_first else out).flatten(0, 1)

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x), (y.T if batch_first else y).flatten())

    flat, axes = followed(Flat(), (x, y), loss), followed(Steps(), (x, y), every_step)
    for lag in (0, 3, 20):
        assert flat.share(lag) == pytest.approx(axes.share(lag), rel=1e-4)
        assert flat.flip(lag).ratio == pytest.approx(axes.flip(lag).ratio, rel=1e-4)


def test_a_model_that_keeps_a_state() -> None:
    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer, self.state = openlstm.LSTM(2, 8), None

        def forward(self, x: Tensor) -> Tensor:
            y, state = self.layer(x, self.state)
            self.state = tuple(s.detach() for s in state)
            return y[:, :, 0].mean(0)

    found = verdict(Stateful(), (random(6, 9, 2), random(9)), 4, loss=squares)
    assert found.word == "no verdict"
    assert found.reason == "Two calls with the same inputs give different outputs: the model keeps a state, or draws at random."


def test_inputs_that_have_no_steps() -> None:
    class Conv(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.layer = nn.Conv1d(1, 4, 3, stride=2), openlstm.LSTM(4, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.conv(x).movedim(2, 0))[1][0][-1, :, 0]

    said = reason(Conv(), (random(9, 1, 81), random(9)), 30)
    assert said == (
        "No floats with 9 rows and 40 steps, as layer.0 sees them, are among the data (float32[9, 1, 81], float32[9]) "
        "or come of tokens in them."
    )


def test_rows_and_steps_that_cannot_be_told_apart() -> None:
    mixed = Made(before=lambda x: x + x.mean((0, 1)))
    said = reason(mixed, (random(9, 9, 2), random(9)), 5)
    assert said == "Which axis of float32[9, 9, 2] is time cannot be told: there are as many rows as steps."


# without a loss


def test_without_a_loss_the_output_is_probed() -> None:
    x = batch("first", 60)[0]
    assert verdict(tokens("last"), x, 60).word == "blocked"
    for reader in READERS:
        found = verdict(build(Plan("first", "lstm", 32, 60, 1e-2, 0, reader)), x, 60)
        assert found.word == "not blocked" and found.of == "the output" and "random probe of the output" in found.reason


def test_without_a_loss_an_output_at_every_step_is_asked_at_its_last() -> None:
    x = random(90, 12, 2)
    found = verdict(Steps(), x, 80)
    assert found.word == "blocked" and found.of == "the last output"
    assert found.reason.endswith(
        "training that reads the last output alone gets no signal from it. Where more is read, pass the loss."
    )
    assert verdict(init.apply(Steps(), "chrono=80"), x, 80).word == "not blocked"
    bare = verdict(openlstm.LSTM(2, 8), x, 80)
    assert bare.word == "blocked" and "training that reads the last state alone gets no signal from it." in bare.reason
    assert "alone" not in verdict(Steps(), (x, random(90, 12, 3)), 80, loss=squares).reason


def test_what_reads_two_directions_is_not_known_without_a_loss() -> None:
    x = random(90, 12, 2)
    found = verdict(Steps(bidirectional=True), x, 80)
    assert found.word == "no verdict" and np.isnan(found.share) and found.to_dict()["share"] is None
    assert found.reason == (
        "The model has two directions and gives float32[90, 12, 3], an output at every step: which of them are read is not "
        "known without the loss."
    )
    for layer in (openlstm.LSTM(2, 8, bidirectional=True), nn.GRU(2, 8, bidirectional=True)):
        bare = verdict(layer, x, 80)
        assert bare.word == "no verdict"
        assert bare.reason == "The layer runs in two directions, and which of its outputs are read is not known: pass the loss."
    report = xray(openlstm.LSTM(2, 8, bidirectional=True), x, lag=80)
    assert report.word == "no verdict" and report.finding == bare.finding and report["state_gradient"].error is None
    assert "No verdict" in report.to_html()

    def ends(m: nn.Module, x: Tensor) -> Tensor:
        h = m(x)[1]
        return (h[0] if isinstance(h, tuple) else h).square().sum()

    assert verdict(openlstm.LSTM(2, 8, bidirectional=True), x, 80, loss=ends).word == "not blocked"


def test_an_output_without_rows_and_no_loss() -> None:
    found = verdict(Made(after=lambda y: y[-1].sum()), random(40, 9, 2), 30)
    assert found.word == "no verdict" and found.reason == "What the model gives has no row for each sequence: pass the loss."


# the rest


def test_packed_rows_are_judged_at_their_own_last_steps() -> None:
    """What stands at the lag of each row is what is looked at, wherever the row ends."""
    torch.manual_seed(0)
    layer = init.forget_bias(openlstm.LSTM(1, 16), 1.0)
    same = [random(25, 1) * (k + 1) for k in range(8)]
    longer = [torch.cat([torch.zeros(k, 1), row]) for k, row in enumerate(same)]  # rows of 25 .. 32 steps

    def loss(m: nn.Module, packed: Any, y: Tensor) -> Tensor:
        return (m(packed)[1][0][-1, :, 0] - y).square().mean()

    plain = verdict(layer, torch.stack(same, 1), 20)
    for lag in (0, 7, 20):
        rows = [verdict(layer, nn.utils.rnn.pack_sequence(s, enforce_sorted=False), lag) for s in (same, longer)]
        assert rows[0].share == pytest.approx(rows[1].share, rel=0.2) and rows[0].flip == pytest.approx(rows[1].flip, rel=0.2)
        data = [(nn.utils.rnn.pack_sequence(s, enforce_sorted=False), random(8)) for s in (same, longer)]
        a, b = (verdict(layer, d, lag, loss=loss) for d in data)
        assert a.share == pytest.approx(b.share, rel=0.2) and a.flip == pytest.approx(b.flip, rel=0.2)
    assert verdict(layer, nn.utils.rnn.pack_sequence(same), 20).share == pytest.approx(plain.share)


def test_a_single_long_sequence_is_cut_into_rows() -> None:
    x = random(2000, 1, 2)
    y = x[..., 0].roll(1, 0)[..., None]
    assert verdict(Steps(1), (x, y), 100, loss=squares).word == "blocked"
    assert verdict(init.apply(Steps(1), "chrono=100"), (x, y), 100, loss=squares).word == "not blocked"
    with pytest.raises(ArgumentError) as error:
        verdict(Steps(1), (x[:150], y[:150]), 100, loss=squares)
    assert str(error.value) == (
        "verdict: one sequence shows no spread\n  got       1 row of 150 steps\n  expected  two rows or more\n"
        "  hint      pass a batch, or a sequence of 202 steps or more"
    )
    with pytest.raises(ArgumentError, match="one sequence shows no spread\n  got       1 row of 90 steps"):
        verdict(nn.LSTM(2, 4), (nn.utils.rnn.pack_sequence([random(90, 2)]),), 20, loss=lambda m, x: m(x)[1][0].square().sum())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_is_judged_as_in_float32(dtype: torch.dtype) -> None:
    """Where a share of 1e-5 would be no number at all."""
    data = batch("symbol", 20)
    wide = verdict(build(Plan("symbol", "lstm", 16, 20, 1e-2, 0)), data, 20, loss=cross_entropy)
    half = build(Plan("symbol", "lstm", 16, 20, 1e-2, 0)).to(dtype)
    found = verdict(half, (data[0].to(dtype), data[1]), 20, loss=cross_entropy)
    assert found.word == wide.word and found.share == pytest.approx(wide.share, rel=0.05)
    assert next(half.parameters()).dtype == dtype


def test_the_model_and_its_data_are_left_as_they_were() -> None:
    model, (x, y) = build(Plan("first", "lstm", 16, 20, 1e-2, 0, "stack")), batch("first", 20, 8)
    model.train()
    cross_entropy(model, x, y).backward()
    before = copy.deepcopy(model.state_dict())
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    state, ids = torch.get_rng_state(), x.clone()
    with torch.no_grad():
        assert verdict(model, (x, y), 20, loss=cross_entropy).word == "not blocked"
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and torch.equal(x, ids)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True) if p.grad is not None)
    assert torch.equal(torch.get_rng_state(), state) and model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    floats, target = batch("marked", 20, 8)
    floats.requires_grad_()
    assert verdict(build(Plan("marked", "gru", 16, 20, 1e-2, 0)), (floats, target), 20, loss=cross_entropy).share > 0
    assert floats.grad is None


def test_unknown_is_what_is_raised() -> None:
    with pytest.raises(NotMeasurable, match="cut on the way"):
        followed(Made(before=lambda x: x.detach()), (random(40, 9, 2), random(9)))
