"""The study of the horizon: its tasks and its draw, and that what is saved holds what docs/horizon.md claims."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from papers import horizon
from papers.horizon import FROZEN_ON, RESULTS, TASKS, Network, Plan
from torch.nn import functional as F

import openlstm
from openlstm.insight.judge.lag_measures import LOSS_THRESHOLDS, THRESHOLDS
from openlstm.insight.judge.verdict import verdict


@pytest.mark.parametrize("name", list(TASKS))
def test_the_answer_lies_at_the_lag(name: str) -> None:
    task = TASKS[name]
    x, answer = task.batch(13, 400, torch.Generator().manual_seed(0))
    assert x.shape[1:] == ((400,) if task.tokens else (400, task.inputs))
    assert x.dtype == (torch.int64 if task.tokens else torch.float32)
    assert answer.dtype == torch.int64 and set(answer.tolist()) == set(range(task.classes))
    at = x[-14]  # 13 steps before the last
    known = at if task.tokens else at[:, :4].argmax(1) if name == "symbol" else (at[:, 0] > 0).long()
    assert torch.equal(known, answer)


@pytest.mark.parametrize("name", list(TASKS))
def test_nearer_lags_carry_nothing(name: str) -> None:
    """So that 'blocked' is what `verdict` says there, and not 'no verdict'."""
    task = TASKS[name]
    torch.manual_seed(0)
    sizes = (horizon.EMBEDDED, task.inputs) if task.tokens else (task.inputs, 0)
    model = horizon.Reader(openlstm.LSTM(sizes[0], 16), 16, task.classes, "last", *sizes)
    x, answer = task.batch(120, 400, torch.Generator().manual_seed(0))
    assert verdict(model, (x, answer), 120, loss=F.cross_entropy, target=answer).word == "blocked"
    if not task.tokens:
        assert verdict(model.layer, x, 120, target=answer).word == verdict(model.layer, x[:, :64], 120).word == "blocked"


def test_the_draw_covers_tasks_sizes_rates_and_lags() -> None:
    plans = horizon.plans()
    assert len(set(plans)) == len(plans) and len({p.seed for p in plans}) == len(plans)
    others = [p for p in plans if p.task != FROZEN_ON and p.reader == "last"]
    assert len(others) >= 120 and len({p.task for p in others}) >= 2
    assert {p.hidden for p in others} == {16, 32, 64, 128} and {p.rate for p in others} == set(horizon.RATES)
    assert min(p.lag for p in others) == 20 and max(p.lag for p in others) == 500
    assert {p.beginning for p in others} == set(horizon.BEGINNINGS)


def test_the_draw_of_readers_covers_every_reader() -> None:
    plans = [p for p in horizon.plans() if p.reader != "last" and p.task != "middle"]
    assert {p.reader for p in plans} == set(horizon.READERS) and {p.task for p in plans} == set(horizon.READERS_TASKS)
    assert {p.beginning for p in plans} == {"lstm", "gru"} and len(plans) >= 390
    assert {p.hidden for p in plans} == {16, 32, 64} and {p.lag for p in plans} == {20, 60, 120, 200}


@pytest.mark.parametrize("reader", horizon.READERS)
@pytest.mark.parametrize("task", horizon.READERS_TASKS)
def test_a_reader_reads_more_than_the_last_state(reader: str, task: str) -> None:
    """What stands at the lag reaches the answer though the layer forgets it."""
    plan = Plan(task, "lstm", 16, 120, 1e-2, 1, reader)
    found = horizon.looks(plan, horizon.build(plan))
    assert found["share"] < THRESHOLDS.share and found["flip"] < THRESHOLDS.flip
    assert found["loss_share"] > 0.1 and found["loss_flip"] > 0.01


def network(**changed: Any) -> Network:
    measures: dict[str, Any] = {name: 1.0 for name in ("share", "flip", "loss_share", "loss_flip", "seconds")}
    plain = Network("recall", "lstm", 16, 20, 1e-3, 0, **measures, reached=100, accuracy=0.9)
    return replace(plain, **changed)


def test_thresholds_come_from_trained_networks_with_gates() -> None:
    some = [
        network(share=4.2e-3, flip=0.07),
        network(share=0.3, flip=5.1e-3),
        network(share=1e-9, flip=1e-9, reached=None),
        network(share=1e-9, flip=1e-9, beginning="rnn"),
    ]
    assert horizon.freeze(some) == (4e-4, 5e-4)


def test_the_table_counts_networks_by_what_was_said_and_learnt() -> None:
    some = [
        network(task="latch", share=1e-9, flip=1e-9, reached=None),
        network(task="latch", share=1e-9, flip=1e-9),
        network(task="latch"),
        network(task="latch", beginning="rnn", share=1e-9, flip=1e-9),
    ]
    line = next(line for line in horizon.table(some, THRESHOLDS).splitlines() if line.startswith("| all others: 4"))
    assert line == "| all others: 4 | 2 | 1 of 2 (50.0%) | 3 | 1 of 3 (33.3%) | 2 | 2 of 2 (100.0%) |"


def test_a_network_is_looked_at_and_trained(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "recall", TASKS["recall"]._replace(budget=100))
    found = horizon.study(Plan("recall", "lstm chrono", 16, 5, 1e-2, 3))
    assert (
        found.trained
        and found.in_budget
        and found.share > 0.01
        and replace(horizon.study(found_plan(found)), seconds=found.seconds) == found
    )
    horizon.save(tmp_path / "x.json", [found])
    assert horizon.load(tmp_path / "x.json") == [found]


def found_plan(n: Network) -> Plan:
    return Plan(n.task, n.beginning, n.hidden, n.lag, n.rate, n.seed, n.reader)


def test_a_reader_is_looked_at_and_trained() -> None:
    found = horizon.study(Plan("first", "gru", 16, 12, 1e-2, 3, "skip"))
    assert (
        found.trained and found.loss_share > 0.1 and replace(horizon.study(found_plan(found)), seconds=found.seconds) == found
    )


def test_the_table_of_readers_counts_networks_by_what_was_said_and_learnt() -> None:
    low = {"loss_share": 1e-9, "loss_flip": 1e-9}
    some = [
        network(task="first", reader="skip", share=1e-9, flip=1e-9),
        network(task="first", reader="skip", **low),
        network(task="first", reader="skip", reached=None, **low),
    ]
    line = next(line for line in horizon.readers(some).splitlines() if line.startswith("| all: 3"))
    assert line == "| all: 3 | 2 | 1 of 2 (50.0%) | 1 of 2 (50.0%) | 1.0e-09, 1.0e-09 |"
    failed = [network(task="latch", share=1e-9, flip=1e-9, reached=None, **more) for more in ({}, low)]
    assert horizon.kept([*failed, network(task="latch", share=1e-9, flip=1e-9)]) == (1, 2)


def test_what_is_saved_holds_what_is_claimed() -> None:
    saved = [n for n in horizon.load(RESULTS) if n.reader == "last"]
    for seen, limits in ((saved, THRESHOLDS), ([n.by_loss for n in saved], LOSS_THRESHOLDS)):
        own, others = ([n for n in seen if (n.task == FROZEN_ON) == frozen] for frozen in (True, False))
        assert horizon.freeze(own) == limits
        assert len(others) >= 120
        blocked = [n for n in others if n.blocked(limits)]
        trained = [n for n in others if n.trained]
        assert sum(not n.trained for n in blocked) >= 0.95 * len(blocked) and len(blocked) >= 20
        assert sum(n.blocked(limits) for n in trained) <= 0.05 * len(trained) and len(trained) >= 20
    still, of = horizon.kept(saved)
    assert still >= 0.85 * of and of >= 20


def test_of_readers_that_learnt_hardly_one_is_called_blocked() -> None:
    learnt = [n for n in horizon.load(RESULTS) if n.reader != "last" and n.task != "middle" and n.trained]
    assert len(learnt) >= 300 and {n.reader for n in learnt} == set(horizon.READERS)
    assert sum(n.by_loss.blocked(LOSS_THRESHOLDS) for n in learnt) <= 0.01 * len(learnt)


def test_what_readers_do_not_read_is_called_blocked() -> None:
    far = [n.by_loss for n in horizon.load(RESULTS) if n.task == "middle"]
    blocked = [n for n in far if n.blocked(LOSS_THRESHOLDS)]
    assert len(far) >= 20 and len(blocked) >= 0.9 * len(far)
    assert sum(not n.trained for n in blocked) >= 0.95 * len(blocked)


@pytest.mark.parametrize("k", range(0, 600, 37))
def test_what_is_saved_of_a_look_is_what_it_says_today(k: int) -> None:
    """The networks are drawn again by their seeds. Flips near rounding differ between processors."""
    saved = horizon.load(RESULTS)
    n = saved[k % len(saved)]
    found = horizon.looks(n, horizon.build(n))
    for name in ("share", "loss_share"):
        assert found[name] == pytest.approx(getattr(n, name), rel=0.01, abs=1e-30)
    for name in ("flip", "loss_flip"):
        assert found[name] == pytest.approx(getattr(n, name), rel=0.01, abs=2e-6)
