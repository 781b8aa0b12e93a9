"""`openlstm.xray` on every kind of model: right numbers in their places, bad input told, the model left as it was."""

from __future__ import annotations

import copy
import dataclasses
import os
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import pairs
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import openlstm
from openlstm.errors import ArgumentError, DtypeError, source
from openlstm.insight import xray as module
from openlstm.insight.batches import NotMeasurable
from openlstm.insight.capture import capture_layers
from openlstm.insight.measure.state_gradient import state_gradient

xray: Any = openlstm.xray


class Net(nn.Module):
    """Torch's own layers in a model of somebody's own."""

    def __init__(self, layer: type[nn.Module] = nn.LSTM, **options: Any) -> None:
        super().__init__()
        self.core = layer(2, 6, batch_first=True, **options)
        self.head = nn.Linear(12 if options.get("bidirectional") else 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.core(x)[0][:, -1])[:, 0]


def squares(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return (model(x) - y).square().mean()


def data(rows: int = 12, steps: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    x = torch.randn(rows, steps, 2, generator=torch.Generator().manual_seed(seed))
    return x, x[:, -1, 0].clone()


def failures(report: Any) -> dict[str, str]:
    return {s.name: s.error for s in report.sections if s.error}


def test_before_training_the_verdict_is_what_can_be_learnt() -> None:
    torch.manual_seed(0)
    x = torch.randn(150, 32, 1)
    layer = openlstm.LSTM(1, 24)
    report = xray(layer, x, lag=120, before=True)
    assert report.word == "blocked" and report.stage == "before" and report.lag == 120
    assert report.advice.best is not None and "--init" in report.advice.finding
    names = ["state_gradient", "retention", "gates", "stability", "weight_gradient", "units", "attribution", "streaming"]
    assert [s.name for s in report.sections] == names and failures(report) == {}
    assert xray(openlstm.nn.init.apply(layer, report.advice.best.flag), x, lag=120).word == "not blocked"


def test_after_training_the_verdict_is_what_is_used() -> None:
    torch.manual_seed(0)
    net, (x, y) = Net(), data(256, 24)
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(150):
        optimiser.zero_grad()
        squares(net, x, y).backward()
        optimiser.step()
    report = xray(net, (x, y), loss=squares)
    assert report.stage == "after" and report.word == f"uses {report.uses} steps" and report.advice is None
    assert report.uses is not None and report.uses < 20  # it is asked for the last step alone
    assert report.sections[0].name == "ablation" and failures(report) == {}
    assert xray(net, (x, y), loss=squares, before=True).stage == "before"


def spoken(report: Any) -> str:
    """All that a reader sees, in one line."""
    return " ".join(f"{report!r} {report.to_html()}".split())


def trained(layers: int = 1) -> tuple[Net, tuple[Tensor, Tensor]]:
    """A network that has learnt to add its last two inputs."""
    torch.manual_seed(0)
    net, (x, _) = Net(num_layers=layers), data(256, 24)
    y = x[:, -1, 0] + x[:, -2, 0]
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(100):
        optimiser.zero_grad()
        squares(net, x, y).backward()
        optimiser.step()
    return net, (x, y)


def test_whether_it_has_been_trained_is_said_to_be_not_known_where_nobody_said_it() -> None:
    net, (x, y) = trained()
    for report in (xray(net, x, lag=20), xray(Net(), (x, y), loss=squares, lag=20)):
        assert report.stage == "unknown" and report.word in ("blocked", "not blocked", "no verdict")
        assert "looked at before training" not in spoken(report) and "looked at after training" not in spoken(report)
        assert "whether it has been trained is not known" in spoken(report)
        assert "Pass before=True or before=False where you know whether it has been trained" in spoken(report)
    by_loss = xray(net, (x, y), loss=squares)
    assert by_loss.stage == "after" and "with the last one alone: it is looked at as a trained network" in by_loss.notes[0]
    assert xray(net, x, lag=20, before=False).stage == "after"


def test_a_trained_network_for_which_more_context_hurts_is_taken_for_a_trained_one() -> None:
    """Its loss with all it is given is worse than with the last step alone, and best with a part."""

    class Hurt(Net):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, -2:, 0].sum(1) + 0 * super().forward(x) + (3.0 if x.shape[1] > 12 else 0.0)

    x = data(64, 40)[0]
    report = xray(Hurt(), (x, x[:, -2:, 0].sum(1) + 0.1), loss=squares)
    assert report.stage == "after" and report.uses == 13
    advice = report["streaming"].asked.advice
    (used,) = report["ablation"].results.values()
    assert used.better is not None and 2 <= used.better < 12
    assert f"A window of {used.better} steps is better than all of it" in report.finding
    assert f"a window of {used.better} steps, started empty for each answer" in advice and advice in spoken(report)


@pytest.mark.parametrize("layers", [1, 2])
def test_what_is_used_and_what_is_to_be_sent_to_a_stream_are_one_answer(layers: int) -> None:
    net, d = trained(layers)
    report = xray(net, d, loss=squares)
    assert report.uses is not None and 1 < report.uses < 24
    assert f"A window of {report.uses} steps is enough" in report["ablation"].finding
    assert f"Send {report.uses} steps before trusting a stream that starts empty" in report["streaming"].finding
    assert set(re.findall(r"Send (\d+) step", spoken(report))) == {str(report.uses)}
    states = xray(net, d[0], lag=5)["streaming"]
    slowest = max(s.warm_up for s in states.results.values())
    assert f"Send {slowest} steps before trusting" in states.finding


@pytest.mark.parametrize("packed", [True, False])
def test_what_is_used_of_rows_that_end_where_they_end(packed: bool) -> None:
    """Packed rows and a loss of outputs and targets: the first three minutes of a PyTorch user."""

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core, self.head = nn.LSTM(2, 6, batch_first=True), nn.Linear(6, 1)

        def forward(self, x: Any, lengths: Tensor | None = None) -> Tensor:
            x = x if lengths is None else pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            return self.head(self.core(x)[1][0][-1])[:, 0]

    torch.manual_seed(0)
    x, lengths = data(64, 40)[0], torch.randint(8, 41, (64,))
    lengths[0] = 40
    y = x[torch.arange(64), lengths - 1, 0] + x[torch.arange(64), lengths - 2, 1]
    net: Any = Rows()
    rows = (pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False),) if packed else (x, lengths)
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(80):
        optimiser.zero_grad()
        nn.functional.mse_loss(net(*rows), y).backward()
        optimiser.step()
    report = xray(net, (*rows, y), loss=nn.MSELoss())
    assert report.stage == "after" and report.uses is not None and 1 < report.uses < 40
    assert report["ablation"].error is None


def test_no_sentence_is_cut_and_stacked_layers_have_a_line_each() -> None:
    net, d = trained(2)
    report = xray(net, d, loss=squares, lag=20)
    said = " ".join(repr(report).split())
    for section in report.sections:
        for line in section.finding.splitlines():
            assert " ".join(line.split()) in said
    assert "..." not in said and max(map(len, repr(report).splitlines())) < 140
    for name in ("state_gradient", "gates", "units", "stability"):
        assert [line.split(":")[0] for line in report[name].finding.splitlines()] == ["core.0", "core.1"]


def test_the_lag_that_was_asked_for_is_not_said_to_be_needed() -> None:
    x, y = data(200)
    report = xray(Net(), (x, y), loss=squares, lag=33, before=True)
    assert (report.horizons["asked"].lag, report.horizons["required"].lag) == (33, 0)
    assert "Lag 33 is asked about; a linear model finds that the data need lag 0" in spoken(report)
    alone = xray(Net(), data(steps=200)[0], lag=33, before=True)  # without a target nobody knows what the data need
    assert [r.name for r in alone.horizons.lags if r.name in ("asked", "required")] == ["asked"]


def test_the_numbers_are_those_of_the_diagnostics() -> None:
    net, d = Net(num_layers=2), data()
    report = xray(net, d, loss=squares, lag=20)
    places = capture_layers(net, d, squares).places
    assert list(report["state_gradient"].results) == [p.name for p in places] == ["core.0", "core.1"]
    for place in places:
        np.testing.assert_array_equal(report["state_gradient"].results[place.name].share, state_gradient(place).share)


@pairs(kind=["LSTM", "GRU", "RNN"], home=[nn, openlstm], bidirectional=[False, True])
def test_any_recurrent_layer_inside_a_model(kind: str, home: Any, bidirectional: bool) -> None:
    report = xray(Net(getattr(home, kind), bidirectional=bidirectional), data(), loss=squares, lag=20)
    wanted = {"core.0", "core.0_reverse"} if bidirectional else {"core.0"}
    assert set(report["state_gradient"].results) == set(report["stability"].results) == wanted
    plain = kind == "RNN"
    assert ("gates" in failures(report)) == ("retention" in failures(report)) == plain
    assert set(failures(report)) <= {"gates", "retention", "streaming"}
    assert "<svg" in report.to_html()


def test_the_model_is_left_as_it_was() -> None:
    net, d = Net(), data()
    net.train()
    net.head.eval()
    squares(net, *d).backward()
    before = copy.deepcopy(net.state_dict())
    gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    random, numpy_random = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    xray(net, d, loss=squares, lag=20)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())
    assert all(torch.equal(a, p.grad) for a, p in zip(gradients, net.parameters(), strict=True) if p.grad is not None)
    assert net.training and net.core.training and not net.head.training
    assert torch.equal(random, torch.get_rng_state()) and (numpy_random == np.random.get_state()[1]).all()  # type: ignore[index]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


class Mixed(Net):
    """A model that turns autocast on by itself; between its layers numbers are in bfloat16."""

    def __init__(self, layer: type[nn.Module], **options: Any) -> None:
        super().__init__(layer, **options)
        self.first = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(self.first(x)).float()


@pairs(kind=["LSTM", "GRU", "RNN"], home=[nn, openlstm], options=[{}, {"num_layers": 2}, {"bidirectional": True}])
def test_under_autocast_the_numbers_are_those_of_single_precision(kind: str, home: Any, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net, (x, y) = Net(getattr(home, kind), **options), data()
    wanted, was = xray(net, (x, y), loss=squares, lag=20, before=True), xray(net, x, lag=20, before=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, now = xray(net, (x, y), loss=squares, lag=20, before=True), xray(net, x, lag=20, before=True)
        assert set(failures(xray(net, (x, y), loss=squares, lag=20, before=False))) <= set(failures(wanted))
    for a, b in ((found, wanted), (now, was)):
        assert failures(a) == failures(b) and a.word == b.word
        np.testing.assert_allclose([a.verdict.share, a.verdict.flip], [b.verdict.share, b.verdict.flip], rtol=1e-3, atol=1e-9)
        for name in a["state_gradient"].results:
            np.testing.assert_allclose(
                a["stability"].results[name].exponents, b["stability"].results[name].exponents, rtol=1e-4
            )
    assert all("<svg" in r.to_html() for r in (found, now))


@pytest.mark.parametrize("layer", [nn.LSTM, openlstm.GRU])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}], ids=str)
def test_autocast_inside_a_model_is_no_obstacle(layer: type[nn.Module], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net, d = Mixed(layer, **options), data()
    report = xray(net, d, loss=squares, lag=20)
    assert failures(report) == {} and report.verdict.share > 0
    assert all(p.x.dtype == torch.float32 for p in capture_layers(net, d, squares).places)


def test_frozen_weights_and_no_grad_make_no_difference() -> None:
    net, d = Net(), data()
    with torch.no_grad():
        a = xray(net, d, loss=squares, lag=20)
    for p in net.parameters():
        p.requires_grad_(False)
    b = xray(net, d, loss=squares, lag=20)
    np.testing.assert_array_equal(a["state_gradient"].results["core.0"].share, b["state_gradient"].results["core.0"].share)


def test_a_large_batch_is_thinned_out_and_the_report_says_so() -> None:
    x, y = data(2000, 16)
    report = xray(Net(), (x, y), loss=squares, lag=8)
    assert report.notes[0] == "256 of 2,000 rows were looked at, spread evenly." and report.model.data == "16 steps × 256 rows"
    bare = xray(openlstm.LSTM(2, 4), x.transpose(0, 1), lag=8)
    assert bare.model.data == "16 steps × 256 rows"
    columns = {"first": x[..., 0]}
    assert "tracking" not in failures(xray(Net(), (x, y), loss=squares, lag=8, columns=columns))


def test_columns_of_a_table_beside_the_units() -> None:
    x, y = data(16, 60)
    report = xray(Net(), (x, y), loss=squares, lag=8, columns={"input": x[..., 0], "constant": torch.ones(16, 60)})
    best = report["tracking"].results["core.0"].best
    assert "input" in best[0].column and "constant" not in [u.column for u in best]
    assert report["tracking"].display is not None


def test_the_target_among_the_columns_is_called_by_its_name() -> None:
    x = data(32, 60)[0]
    y = x[..., 0].cumsum(1)

    class Every(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.core(x)[0])[..., 0]

    net: Any = Every()
    with torch.no_grad():  # a unit that adds up the first input
        for p in net.core.parameters():
            p.zero_()
        net.core.weight_ih_l0[12, 0] = 0.01
        net.core.bias_ih_l0[:24:6] = torch.tensor([50.0, 50, 0, 50])
    report = xray(net, (x, y), loss=squares, columns={"sum": y}, before=False)
    assert "tracks sum" in report["tracking"].finding
    assert report["tracking"].finding.endswith("; sum is the target, what the network is trained to give.")


def test_what_a_watch_saw_during_training() -> None:
    from openlstm.insight.watch import Watch

    net, d = Net(), data()
    watch = Watch(net, every=2, first=(), lag=5)
    with pytest.raises(AssertionError):
        assert xray(net, d, loss=squares, lag=5, watch=watch)["training"].error is None
    for step in range(5):
        with watch.step(step):
            squares(net, *d).backward()
    section = xray(net, d, loss=squares, lag=5, watch=watch)["training"]
    assert section.error is None and [x.title for x in section.displays][:2] == [
        "How far the gradient comes back",
        "The share of the gradient that reaches lag 5",
    ]
    assert section.displays[0].data["step"] == [0, 2, 4]


@pytest.mark.parametrize("lag", [0, -1, 2.0, True, "x"])
def test_a_lag_that_is_none(lag: Any) -> None:
    with pytest.raises(ArgumentError) as caught:
        xray(Net(), data(), lag=lag)
    assert str(caught.value) == (
        f"xray: the lag is no whole number of steps\n  got       lag={lag!r}\n  expected  lag >= 1\n"
        "  hint      count the steps between what has to be remembered and the answer"
    )


def test_data_shorter_than_the_lag_make_a_report_that_says_so() -> None:
    report = xray(Net(), data(steps=30), loss=squares, lag=50)
    assert report.word == "no verdict" and "lag=50, T=30" in report.reason
    assert report["state_gradient"].error is None and "No verdict" in report.to_html()


def test_a_model_without_a_recurrent_layer() -> None:
    with pytest.raises(ArgumentError, match="no recurrent layer in this model"):
        xray(nn.Linear(2, 1), data())


def test_a_layer_that_never_runs_is_named() -> None:
    class Idle(Net):
        def __init__(self) -> None:
            super().__init__()
            self.spare = nn.GRU(2, 3)

    with pytest.raises(ArgumentError, match="spare did not run"):
        xray(Idle(), data()[0])
    assert xray(Idle(), data()[0], lag=5, layers="core").word in ("blocked", "not blocked")


@pytest.mark.parametrize("thing", [None, "model.safetensors", 3])
def test_something_that_is_no_module(thing: Any) -> None:
    with pytest.raises(DtypeError, match="not a module"):
        xray(thing, data())


@pytest.mark.parametrize("shape", [(0, 4, 2), (4, 0, 2)])
def test_empty_data(shape: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match="the data are empty"):
        xray(Net(), torch.zeros(shape))


def test_a_weight_that_is_not_finite_is_named_with_its_gate() -> None:
    net = Net()
    with torch.no_grad():
        net.core.weight_hh_l0[7, 2] = float("nan")  # type: ignore[union-attr, index]
    report = xray(net, data(), loss=squares, lag=5)
    assert report.word == "no verdict"
    assert "core.0: weight_hh_l0 holds nan at [7, 2], gate f" in report.finding
    assert all(s.error and "core.0" in s.error for s in report.sections)
    assert "weight_hh_l0 holds nan" in report.to_html()


def test_an_activation_that_is_not_finite_is_named_with_layer_and_step() -> None:
    x = data()[0]
    x[3, 17, 1] = float("inf")
    report = xray(Net(), x, lag=5)
    assert "core.0: input 1 is inf at step 17, row 3" in report.finding


def test_constant_columns_are_no_obstacle() -> None:
    x, y = data(60)
    x[..., 1] = 3.0
    assert failures(xray(Net(), (x, y), loss=squares, lag=10)) == {}
    still = xray(Net(), (torch.ones(60, 30, 2), torch.ones(60)), loss=squares, lag=10, before=True)
    assert still.word in ("no verdict", "not blocked") and "<svg" in still.to_html()


def test_one_unit_one_input_two_steps_two_rows() -> None:
    report = xray(openlstm.LSTM(1, 1), torch.randn(2, 2, 1), lag=1)
    assert report.word in ("blocked", "not blocked") and "<svg" in report.to_html()
    assert "NaN" not in report.to_html()


def test_a_diagnostic_that_cannot_be_taken_does_not_take_the_others_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(place: Any) -> Any:
        raise NotMeasurable("out of order")

    monkeypatch.setitem(module._OF_PLACES, "gates", refused)
    report = xray(Net(), data(), loss=squares, lag=10)
    assert failures(report) == {"gates": "core.0: out of order"}
    assert "out of order" in report.to_html()


def test_a_fault_of_ours_is_no_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(place: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setitem(module._OF_PLACES, "gates", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        xray(Net(), data(), loss=squares, lag=10)


class Fixed(Net):
    """A model that takes forty steps and no other number."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 40:
            raise RuntimeError("forty steps, please")
        return super().forward(x)


def test_a_model_that_takes_no_shorter_sequence_has_a_report_without_what_it_uses() -> None:
    report = xray(Fixed(), data(), loss=squares, lag=10, before=False)
    assert failures(report) == {
        "ablation": "the model or its loss fails with a shorter context: RuntimeError: forty steps, please"
    }
    assert report.word == "no verdict" and "forty steps, please" in report.to_html()


def test_numbers_alone_need_no_plot_library() -> None:
    code = """
import sys
for name in ("altair", "vl_convert", "jinja2"): sys.modules[name] = None
import torch, openlstm
report = openlstm.xray(openlstm.LSTM(1, 4), torch.randn(120, 4, 1), lag=100)
print(report.to_dict()["word"], repr(report).count("not computed"))
try: report.to_html()
except ImportError as e: print(e)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "blocked 0",
        "xray: needs the package altair, which is not installed",
        "  got       no module named altair",
        "  expected  the extra 'report'",
        f"  hint      pip install '{source()}[report]'",
    ]


COST = """
import resource, time, torch, openlstm
torch.manual_seed(0)
layer, x = openlstm.LSTM(16, 512), torch.randn(512, 32, 16)
loss = lambda m, x, y: (m(x)[0][-1, :, 0] - y).square().mean()
begin = time.perf_counter()
report = openlstm.xray(layer, (x, x[256, :, 0]), loss=loss, lag=255)
page = report.to_html()
print(time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, len(page))
print(report)
"""


@pytest.mark.long
def test_the_cost_of_a_full_report() -> None:
    """H = 512, T = 512, B = 32: under two gigabytes, page and all; the seconds are printed (13.6 on two quiet cores)."""
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "OPENLSTM_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", COST], capture_output=True, text=True, check=True, env=environment)
    print(done.stdout)
    _, gigabytes, size = map(float, done.stdout.split("\n")[0].split())
    assert gigabytes < 2 and size < 2e6
    assert "not computed" not in done.stdout


# where nothing was measured


class Returning(nn.Module):
    """Gives its loss, so that rows cannot be compared."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = openlstm.LSTM(2, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0][-1].square().mean()


def test_where_nothing_was_measured_the_report_says_so_and_why() -> None:
    report = xray(Returning(), torch.randn(30, 8, 2), loss=lambda model, x: model(x), lag=20, before=True)
    assert report.word == "no verdict" and report.verdict.of == "nothing"
    assert report.change.startswith("Nothing was measured of lag 20, so that nothing can be advised: ")
    assert report.verdict.reason[1:] in report.change and report.advice.finding == report.change
    assert "is blocked at this lag" not in report.to_html() and "has to" not in report.advice.finding
    failed = dataclasses.replace(report, verdict=None, reason="RuntimeError: it broke", advice=None)
    assert failed.change == "Nothing was measured of lag 20, so that nothing can be advised: RuntimeError: it broke."
    after = xray(openlstm.LSTM(2, 8), torch.randn(30, 8, 2), lag=20, before=False)
    assert after.word == "no verdict" and after.change.startswith("Nothing was measured, so that nothing can be advised: ")


def test_the_advice_is_a_line_for_this_model() -> None:
    report = xray(Net(), data(steps=200)[0], lag=150, before=True)
    line = report.advice.best.line
    assert (
        re.fullmatch(r"openlstm\.nn\.init\.\w+\(model\.core, \d+\)", line) and line in repr(report) and line in report.to_html()
    )
    two = nn.Sequential(openlstm.LSTM(2, 6, batch_first=True), First(), openlstm.LSTM(6, 6, batch_first=True))
    line = xray(two, data(steps=200)[0], lag=150, before=True).advice.best.line
    assert re.fullmatch(r"openlstm\.nn\.init\.apply\(model, '[-\w]+=\d+'\)", line)
    one = nn.Sequential(openlstm.LSTM(2, 6, batch_first=True))
    assert "(model.get_submodule('0'), " in xray(one, data(steps=200)[0], lag=150, before=True).advice.best.line


class First(nn.Module):
    def forward(self, out: Any) -> Tensor:
        return out[0]
