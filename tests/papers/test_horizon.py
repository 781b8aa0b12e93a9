"""The study of the horizon: its tasks and its draw, and that what is saved holds what docs/horizon.md claims."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from papers.horizon import FROZEN_ON, RESULTS, TASKS, Network, Plan

from openlstm.insight.verdict import THRESHOLDS, verdict
from papers import horizon


@pytest.mark.parametrize("name", list(TASKS))
def test_the_answer_lies_at_the_lag(name: str) -> None:
    task = TASKS[name]
    x, answer = task.batch(13, 400, torch.Generator().manual_seed(0))
    assert x.shape[1:] == (400, task.inputs) and x.dtype == torch.float32
    assert answer.dtype == torch.int64 and set(answer.tolist()) == set(range(task.classes))
    at = x[-14]  # 13 steps before the last
    known = at[:, :4].argmax(1) if name == "symbol" else (at[:, 0] > 0).long()
    assert torch.equal(known, answer)


@pytest.mark.parametrize("name", list(TASKS))
def test_nearer_lags_carry_nothing(name: str) -> None:
    """So that 'blocked' is what `verdict` says there, and not 'no verdict'."""
    task = TASKS[name]
    torch.manual_seed(0)
    layer = horizon.BEGINNINGS["lstm"](task.inputs, 16, 120)
    x, answer = task.batch(120, 400, torch.Generator().manual_seed(0))
    assert verdict(layer, x, 120, target=answer).word == verdict(layer, x[:, :64], 120).word == "blocked"


def test_the_draw() -> None:
    plans = horizon.plans()
    assert len(set(plans)) == len(plans) and len({p.seed for p in plans}) == len(plans)
    others = [p for p in plans if p.task != FROZEN_ON]
    assert len(others) >= 120 and len({p.task for p in others}) >= 2
    assert {p.hidden for p in others} == {16, 32, 64, 128} and {p.rate for p in others} == set(horizon.RATES)
    assert min(p.lag for p in others) == 20 and max(p.lag for p in others) == 500
    assert {p.beginning for p in others} == set(horizon.BEGINNINGS)


def network(**changed: Any) -> Network:
    plain = Network(
        "recall", "lstm", 16, 20, 1e-3, 0, share=1.0, loss_share=1.0, flip=1.0, reached=100, accuracy=0.9, seconds=1
    )
    return replace(plain, **changed)


def test_thresholds_come_from_trained_networks_with_gates() -> None:
    some = [
        network(share=4.2e-3, flip=0.07),
        network(share=0.3, flip=5.1e-3),
        network(share=1e-9, flip=1e-9, reached=None),
        network(share=1e-9, flip=1e-9, beginning="rnn"),
    ]
    assert horizon.freeze(some) == (4e-4, 5e-4)


def test_the_table_counts() -> None:
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
    return Plan(n.task, n.beginning, n.hidden, n.lag, n.rate, n.seed)


def test_what_is_saved_holds_what_is_claimed() -> None:
    saved = horizon.load(RESULTS)
    own, others = ([n for n in saved if (n.task == FROZEN_ON) == frozen] for frozen in (True, False))
    assert horizon.freeze(own) == THRESHOLDS
    assert len(others) >= 120
    blocked = [n for n in others if n.blocked(THRESHOLDS)]
    trained = [n for n in others if n.trained]
    assert sum(not n.trained for n in blocked) >= 0.95 * len(blocked) and len(blocked) >= 20
    assert sum(n.blocked(THRESHOLDS) for n in trained) <= 0.05 * len(trained) and len(trained) >= 20
