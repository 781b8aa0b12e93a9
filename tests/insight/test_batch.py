"""Batches and losses in every form in which they come, and an error that says what is wanted of any other."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence
from torch.utils.data import DataLoader, Dataset, TensorDataset

import openlstm
from openlstm.errors import ArgumentError, DtypeError, ShapeError
from openlstm.insight.capture import capture_layers
from openlstm.insight.judge.verdict import verdict
from openlstm.insight.measure.attribution import attribution
from openlstm.nn.batch import formed

xray: Any = openlstm.xray


B, T, LAG = 24, 31, 30


class Net(nn.Module):
    """One input, [B, T, 2] -> [B, 3]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = nn.LSTM(2, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


class Two(Net):
    """Two inputs."""

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x) * scale[:, None]


class Packed(Net):
    """A PackedSequence."""

    def forward(self, x: Any) -> Tensor:
        y, lengths = pad_packed_sequence(self.layer(x)[0], batch_first=True)
        return self.head(y[torch.arange(len(y)), lengths - 1])


X = torch.randn(B, T, 2, generator=torch.Generator().manual_seed(0))
Y = torch.arange(B) % 3
SCALE = torch.linspace(0.5, 1.5, B)


def standard(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y)


def word(model: nn.Module, data: Any, loss: Any) -> tuple[str, float, float]:
    """The verdict, of the loss that is wanted."""
    found = verdict(model, data, LAG, loss=loss)
    own = (X, SCALE) if isinstance(model, Two) else (pack_sequence(list(X)),) if isinstance(model, Packed) else (X,)
    assert capture_layers(model, data, loss).value == pytest.approx(float(F.cross_entropy(model(*own), Y).detach()))
    return found.word, found.share, found.flip


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


class Smooth(nn.Module):
    def forward(self, output: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return F.cross_entropy(output, target, weight)


def of_outputs(output: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    return F.cross_entropy(output, target, weight)


def of_a_batch(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def of_a_dict(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["labels"])


def named(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(x), labels)


PAIRS = TensorDataset(X, Y)
DICT = {"labels": Y, "x": X}


class Dicts(Dataset[Any]):
    def __len__(self) -> int:
        return B

    def __getitem__(self, k: int) -> dict[str, Tensor]:
        return {"x": X[k], "labels": Y[k]}


class Loader:
    """No class of torch's, but a loader all the same."""

    def __iter__(self) -> Any:
        return iter([(X, Y), (X[:3], Y[:3])])


FORMS: dict[str, tuple[Any, Any]] = {
    "a tuple": ((X, Y), standard),
    "a list": ([X, Y], standard),
    "arrays": ((X.numpy(), Y.numpy()), standard),
    "any number of arguments": ((X, Y), lambda model, *data: standard(model, *data)),
    "a module of torch": ((X, Y), nn.CrossEntropyLoss()),
    "a function of torch": ((X, Y), F.cross_entropy),
    "part of a function": ((X, Y), partial(F.cross_entropy, reduction="mean")),
    "a module": ((X, Y), Smooth()),
    "outputs and target": ((X, Y), of_outputs),
    "a lambda": ((X, Y), lambda out, y: F.cross_entropy(out, y)),
    "a named tuple": (Pair(X, Y), lambda model, batch: F.cross_entropy(model(batch.x), batch.y)),
    "the batch as a whole": ((X, Y), of_a_batch),
    "inputs in a tuple of their own": (((X,), Y), nn.CrossEntropyLoss()),
    "inputs in a dict of their own": (({"x": X}, Y), nn.CrossEntropyLoss()),
    "a dict by names": (DICT, named),
    "a dict by any names": (DICT, lambda model, **batch: named(model, **batch)),
    "a dict as a whole": (DICT, of_a_dict),
    "a dict, outputs and target": (DICT, nn.CrossEntropyLoss()),
    "a loader": (DataLoader(PAIRS, batch_size=B), nn.CrossEntropyLoss()),
    "a loader, the model": (DataLoader(PAIRS, batch_size=B), standard),
    "a loader of dicts": (DataLoader(Dicts(), batch_size=B), nn.CrossEntropyLoss()),
    "a loader of another make": (Loader(), standard),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same(form: str) -> None:
    assert word(Net(), *FORMS[form]) == word(Net(), *FORMS["a tuple"])


@pytest.mark.parametrize("form", ["arrays", "a module of torch", "a named tuple", "a dict by names", "a loader of dicts"])
def test_the_report_and_the_advice_take_what_the_verdict_takes(form: str) -> None:
    data, loss = FORMS[form]
    found = verdict(Net(), data, LAG, loss=loss)
    report = xray(Net(), data, loss=loss, lag=LAG, before=True)
    assert report.word == found.word == "blocked" and report.verdict.share == found.share
    assert report.advice.best.share_after is not None  # a trial trains with the loss


@pytest.mark.parametrize(
    ("data", "loss"),
    [
        ((X, SCALE, Y), lambda model, x, scale, y: F.cross_entropy(model(x, scale), y)),
        ((X, SCALE, Y), nn.CrossEntropyLoss()),
        (((X, SCALE), Y), nn.CrossEntropyLoss()),
        (((X, SCALE), Y), lambda model, inputs, y: F.cross_entropy(model(*inputs), y)),
        (({"x": X, "scale": SCALE}, Y), nn.CrossEntropyLoss()),
        ({"scale": SCALE, "x": X, "target": Y}, of_outputs),
        (DataLoader(TensorDataset(X, SCALE, Y), batch_size=B), of_outputs),
    ],
)
def test_models_with_several_inputs(data: Any, loss: Any) -> None:
    assert word(Two(), data, loss)[0] == "blocked"


def test_packed_rows_beside_their_targets() -> None:
    for loss in (nn.CrossEntropyLoss(), standard):
        packed = word(Packed(), (pack_sequence(list(X)), Y), loss)
        plain = word(Net(), (X, Y), loss)
        assert packed[0] == plain[0] and packed[1] == pytest.approx(plain[1], rel=1e-3)
    loader = DataLoader(
        PAIRS, batch_size=B, collate_fn=lambda rows: (pack_sequence([x for x, _ in rows]), torch.stack([y for _, y in rows]))
    )
    assert word(Packed(), loader, nn.CrossEntropyLoss())[0] == "blocked"


def test_a_model_that_packs_by_itself() -> None:
    class Packing(Net):
        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            return self.head(self.layer(packed)[1][0][-1])

    lengths = torch.arange(B) % 7 + T - 6
    found = verdict(Packing(), (X, lengths, Y), 20, loss=nn.CrossEntropyLoss())
    assert found.word == "not blocked"
    report = xray(Packing(), DataLoader(TensorDataset(X, lengths, Y), batch_size=B), loss=nn.CrossEntropyLoss(), lag=20)
    assert report.verdict.share == found.share


def test_without_a_loss_a_batch_is_cut_to_what_the_model_takes() -> None:
    plain = verdict(Net(), X, LAG)
    for data in (DICT, DataLoader(PAIRS, batch_size=B), DataLoader(Dicts(), batch_size=B), (X,)):
        assert verdict(Net(), data, LAG).share == plain.share
        assert xray(Net(), data, lag=LAG, before=True).word == plain.word
    assert verdict(Two(), (X, SCALE), LAG).word == "blocked"
    layer = nn.LSTM(2, 8, batch_first=True)
    assert verdict(layer, DataLoader(PAIRS, batch_size=B), LAG).share == verdict(layer, X, LAG).share


def test_the_first_batch_of_a_loader_is_looked_at_and_the_report_says_so() -> None:
    model, loader = Net(), DataLoader(PAIRS, batch_size=8, shuffle=True)
    state = torch.get_rng_state()
    report = xray(model, loader, loss=nn.CrossEntropyLoss(), lag=LAG, before=True)
    assert report.notes[0] == "The first batch of the DataLoader was looked at." and report.model.data == "31 steps × 8 rows"
    assert torch.equal(torch.get_rng_state(), state)
    large = {"x": torch.randn(700, 12, 2), "labels": torch.arange(700) % 3}
    report = xray(Net(), large, loss=nn.CrossEntropyLoss(), lag=6, before=True)
    assert "256 of 700 rows were looked at, spread evenly." in report.notes and report.model.data == "12 steps × 256 rows"


def test_a_report_after_training_works_with_every_form() -> None:
    for form in ("a loader", "a dict, outputs and target", "inputs in a tuple of their own"):
        report = xray(Net(), FORMS[form][0], loss=FORMS[form][1], lag=20, before=False)
        assert set(report["state_gradient"].results) == {"layer.0"}
        assert report.uses is not None and report["attribution"].error is None


def test_a_heavy_model_is_tried_on_a_few_rows_of_every_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openlstm.insight.xray.HEAVY", 0.0)
    for data in ((X, SCALE, Y), ((X, SCALE), Y)):
        report = xray(Two(), data, loss=nn.CrossEntropyLoss(), lag=LAG, before=True)
        assert report.advice.best.flag == f"chrono={LAG}" and not any("No advice" in note for note in report.notes)


def test_what_has_the_form_is_given_back_as_it_is() -> None:
    data = (X, Y)
    assert formed(Net(), data, standard, "me") == (data, standard, ())
    _, loss, _ = formed(Net(), data, nn.CrossEntropyLoss(), "me")
    again = formed(Net(), data, loss, "me")
    assert again[1] is loss


# ragged rows


class Tokens(nn.Module):
    """Ids of rows of several lengths, packed already or packed here."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.layer, self.head = nn.Embedding(8, 6), nn.LSTM(6, 8), nn.Linear(8, 8)

    def forward(self, tokens: Any, lengths: Tensor | None = None) -> Tensor:
        if lengths is None:
            packed = tokens._replace(data=self.embedding(tokens.data))
        else:
            packed = pack_padded_sequence(self.embedding(tokens), lengths, enforce_sorted=False)
        return self.head(self.layer(packed)[1][0][-1])


class Unpacking(Tokens):
    """Packed ids that the model lays out itself."""

    def forward(self, tokens: Any, lengths: Tensor | None = None) -> Tensor:
        return super().forward(*pad_packed_sequence(tokens))


class Floats(Tokens):
    """The codes of the ids through a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(8, 6)  # type: ignore[assignment]


LENGTHS = torch.arange(B) % 7 + T - 8  # the longest is shorter than the padding
IDS = torch.randint(8, (T, B), generator=torch.Generator().manual_seed(1))
LONGEST = int(LENGTHS.max())
FIRST = IDS[0].clone()
CODES = F.one_hot(IDS, 8).float()


def packed(a: Tensor) -> Any:
    return pack_padded_sequence(a, LENGTHS, enforce_sorted=False)


RAGGED: dict[str, tuple[Any, Any]] = {
    "packed ids": (Tokens, (packed(IDS), FIRST)),
    "packed ids, laid out": (Unpacking, (packed(IDS), FIRST)),
    "padded ids": (Tokens, (IDS, LENGTHS, FIRST)),
    "packed floats": (Floats, (packed(CODES), FIRST)),
    "padded floats": (Floats, (CODES, LENGTHS, FIRST)),
}


@pytest.mark.parametrize("form", RAGGED)
def test_rows_of_several_lengths_are_judged_at_their_own_ends(form: str) -> None:
    make, data = RAGGED[form]
    model, loss = make(), nn.CrossEntropyLoss()
    tight = model if make is not Unpacking else Tokens()
    own = (CODES if make is Floats else IDS)[:LONGEST]
    for lag in (5, 20):
        found, wanted = (verdict(m, d, lag, loss=loss) for m, d in ((model, data), (tight, (own, LENGTHS, FIRST))))
        assert found.word == wanted.word != "no verdict", found.reason
        assert found.share == pytest.approx(wanted.share, rel=1e-3) and found.flip == pytest.approx(wanted.flip, rel=1e-3)


def test_how_many_rows_reach_back_to_the_lag_is_said() -> None:
    make, data = RAGGED["packed floats"]
    loss = nn.CrossEntropyLoss()
    few = verdict(make(), data, 25, loss=loss)
    assert few.reason.endswith(f" {int((LENGTHS > 25).sum())} of 24 rows reach so far back.")
    assert "reach so far back" not in verdict(make(), data, 20, loss=loss).reason
    assert verdict(nn.LSTM(8, 5), packed(CODES), 25).reason.endswith(" 12 of 24 rows reach so far back.")
    report = xray(make(), data, loss=loss, lag=100, before=True)
    assert report.finding == (
        "The data are shorter than the lag (got lag=100, T=29, expected 0 <= lag < T): pass sequences longer than the lag, or "
        "ask for a shorter one."
    )
    assert repr(report).splitlines()[1].startswith("  verdict         The data are shorter")


@pytest.mark.parametrize("form", ["packed ids", "padded ids"])
def test_a_report_of_ragged_ids_before_and_after_training(form: str) -> None:
    make, data = RAGGED[form]
    model, loss = make(), nn.CrossEntropyLoss()
    report = xray(model, data, loss=loss, lag=20, before=True)
    assert report.word in ("blocked", "not blocked")
    assert {r.name for r in report.horizons.lags} >= {"gradient", "flip"}
    report = xray(model, data, loss=loss, lag=20, before=False)
    assert report["ablation"].results["model"].contexts[-1] == LONGEST


@pytest.mark.parametrize("form", RAGGED)
def test_the_attribution_of_ragged_rows_counts_lags_from_their_own_ends(form: str) -> None:
    make, data = RAGGED[form]
    model, inputs = make(), data[:-1]
    found = attribution(model, inputs, 3, baseline="shifted", lengths=LENGTHS)
    alone = [IDS[: int(n), b : b + 1] if make is not Floats else CODES[: int(n), b : b + 1] for b, n in enumerate(LENGTHS)]
    plain = model if make is not Unpacking else Tokens()
    wanted = [attribution(plain, (x, torch.tensor([len(x)])), 3, baseline="shifted") for x in alone]
    assert found.gap < 0.01 and found.values.shape[0] == LONGEST
    for b, one in enumerate(wanted):
        assert found.per_row[b, : len(one.values)] == pytest.approx(one.per_row[0], abs=1e-6)
        assert not found.per_row[b, len(one.values) :].any()
    assert found.values[0] == pytest.approx(np.mean([one.values[0] for one in wanted], 0), abs=1e-6)
    report = xray(model, data, loss=nn.CrossEntropyLoss(), lag=20, before=False)
    assert report["attribution"].error is None
    assert len(report["attribution"].results["model"].output) == 8  # of the 24 rows
    assert report["attribution"].results["model"].by_lag[:8].sum() > 0.9


def test_the_attribution_of_a_bare_layer_with_packed_rows() -> None:
    layer = nn.LSTM(8, 5)
    found = attribution(layer, packed(CODES))
    last = attribution(layer, CODES[: int(LENGTHS[3]), 3:4])
    assert found.gap < 0.01 and found.per_row[3, : int(LENGTHS[3])] == pytest.approx(last.per_row[0], abs=1e-5)


def test_lengths_that_are_none_of_the_rows() -> None:
    with pytest.raises(ShapeError) as error:
        attribution(Floats(), (CODES, LENGTHS), lengths=LENGTHS[:5])
    assert str(error.value) == (
        "attribution: the lengths are not those of the rows\n  got       lengths: int64[5], x: float32[31, 24, 8]\n"
        "  expected  [24] = [B], whole numbers from 1 to 31\n  hint      give one length for each row"
    )


def test_a_loader_of_dicts_of_padded_ids() -> None:
    class First(Tokens):
        def forward(self, tokens: Any, lengths: Tensor | None = None) -> Tensor:
            return super().forward(tokens.T, lengths)

    rows = [{"tokens": IDS[:, k], "lengths": LENGTHS[k], "labels": FIRST[k]} for k in range(B)]
    found = verdict(First(), DataLoader(rows, batch_size=B), 20, loss=nn.CrossEntropyLoss())  # type: ignore[arg-type]
    wanted = verdict(Tokens(), (IDS, LENGTHS, FIRST), 20, loss=nn.CrossEntropyLoss())
    assert found.word == wanted.word != "no verdict" and found.share == pytest.approx(wanted.share, rel=1e-3)


def test_steps_of_the_input_that_are_none_of_the_layer_have_no_verdict() -> None:
    class Strided(Tokens):
        def forward(self, tokens: Any, lengths: Tensor | None = None) -> Tensor:
            every_other = self.embedding(tokens)[::2]
            return self.head(self.layer(pack_padded_sequence(every_other, lengths // 2, enforce_sorted=False))[1][0][-1])  # type: ignore[operator]

    found = verdict(Strided(), (IDS, LENGTHS, FIRST), 5, loss=nn.CrossEntropyLoss())
    assert found.word == "no verdict" and found.reason.startswith("The rows of the data end elsewhere than those of layer.0")


# errors


def raised(kind: type[Exception], data: Any, loss: Any = None) -> str:
    with pytest.raises(kind) as error:
        xray(Net(), data, loss=loss, lag=LAG)
    return str(error.value)


def test_a_loss_without_a_target() -> None:
    assert raised(ArgumentError, X, nn.CrossEntropyLoss()) == (
        "xray: a loss of outputs and targets, and no target in the data\n  got       data: float32[24, 31, 2]\n"
        "  expected  (x, .., target)\n  hint      pass (x, target), or write the loss as loss(model, x)"
    )


def test_a_loss_that_takes_something_else() -> None:
    assert raised(ArgumentError, (X, Y), lambda model, x, y, z: 0) == (
        "xray: the loss cannot be called with these data\n  got       loss(model, x, y, z), 2 parts of data\n"
        "  expected  loss(model, *data), or loss(output, target) with the target last in the data\n"
        "  hint      give it as many arguments as the data have parts"
    )
    assert raised(ArgumentError, DICT, lambda model, x, y: 0) == (
        "xray: the loss cannot be called with these data\n  got       loss(model, x, y), keys 'labels', 'x'\n"
        "  expected  loss(model, **data), loss(model, data), or loss(output, target)\n"
        "  hint      name the arguments of the loss as the keys of the data"
    )
    assert raised(DtypeError, (X, Y), "cross_entropy") == (
        "xray: the loss cannot be called\n  got       loss: str 'cross_entropy'\n"
        "  expected  loss(model, *data), or loss(output, target) with the target last in the data\n"
        "  hint      pass a function, or torch.nn.CrossEntropyLoss()"
    )


def test_a_dict_whose_target_is_not_plain() -> None:
    assert raised(ArgumentError, {"x": X, "a": Y, "b": Y}, nn.CrossEntropyLoss()) == (
        "xray: which of the data is the target?\n  got       keys 'x', 'a', 'b'; forward takes x\n"
        "  expected  one key that forward does not take\n"
        "  hint      name all inputs as forward does, or pass a tuple (x, .., target)"
    )


@pytest.mark.parametrize("data", [PAIRS, iter([(X, Y)]), 3, None], ids=["a data set", "an iterator", "a number", "nothing"])
def test_data_that_are_no_batch(data: Any) -> None:
    assert raised(DtypeError, data, nn.CrossEntropyLoss()) == (
        f"xray: the data are no batch\n  got       data: {type(data).__name__}\n"
        "  expected  a tensor, a tuple of tensors, a dict of them, a PackedSequence, or a DataLoader\n"
        "  hint      next(iter(loader)) is one batch; a data set: DataLoader(data_set, batch_size=64)"
    )


def test_data_without_a_tensor() -> None:
    assert raised(DtypeError, ([1.0, 2.0], [0.0]), nn.MSELoss()) == (
        "xray: no tensor in the data\n  got       data: tuple of 2\n  expected  a batch of tensors\n"
        "  hint      turn the numbers into tensors first"
    )
    assert raised(ArgumentError, DataLoader(TensorDataset(X[:0], Y[:0])), nn.MSELoss()) == (
        "xray: the data are empty\n  got       data: DataLoader without a batch\n  expected  at least one batch\n"
        "  hint      look at its data set, and at drop_last"
    )


def test_arrays_inside_of_a_dict_are_taken() -> None:
    data = {"x": X.numpy(), "labels": np.asarray(Y)}
    assert verdict(Net(), data, LAG, loss=nn.CrossEntropyLoss()).share == verdict(Net(), (X, Y), LAG, loss=standard).share


def test_a_target_without_a_loss() -> None:
    assert raised(ArgumentError, (X, Y)) == (
        "capture_layers: the model does not take these data\n  got       2 parts of data, Net.forward(x)\n"
        "  expected  what the model takes, with a loss followed by the target\n"
        "  hint      pass loss=..., such as torch.nn.CrossEntropyLoss(), or the inputs alone"
    )


def test_a_loss_that_is_a_class() -> None:
    assert raised(DtypeError, (X, Y), nn.CrossEntropyLoss) == (
        "xray: the loss is a class\n  got       loss: class CrossEntropyLoss\n"
        "  expected  loss(model, *data), or loss(output, target) with the target last in the data\n"
        "  hint      make one of it: loss=CrossEntropyLoss()"
    )


def test_a_loss_that_does_not_fit_the_target() -> None:
    text = raised(ArgumentError, (X, Y[:5]), nn.CrossEntropyLoss())
    first, got, expected, hint = text.split("\n")
    assert first == "loss: it cannot be computed of the output and the target"
    assert got.startswith("  got       output float32[24, 3], target int64[5]: ValueError: Expected input batch_size (24)")
    assert expected == "  expected  a target that fits the output: CrossEntropyLoss(output, target)"
    assert hint == "  hint      change the last of the data, or write the loss as loss(model, *data)"
    assert raised(ArgumentError, (X, Y[:5]), F.cross_entropy).splitlines()[2].endswith(": cross_entropy(output, target)")


def test_a_loss_that_fails_before_it_calls_the_model() -> None:
    assert raised(ArgumentError, (X, Y), lambda a, b, c: a.sum()) == (
        "capture_layers: the loss failed before it called the model\n"
        "  got       loss(a, b, c): AttributeError: 'Net' object has no attribute 'sum'\n"
        "  expected  loss(model, *data), or loss(output, target) with the target last in the data\n"
        "  hint      take the model first: its arguments are Net, float32[24, 31, 2], int64[24]"
    )
    with pytest.raises(ZeroDivisionError):  # what goes wrong later is the loss's own, and its traceback says where
        xray(Net(), (X, Y), loss=lambda model, x, y: model(x).sum() * (1 // 0), lag=LAG)
