"""`lab.run`: repeatable, counted right, its errors pinned; at a lag where it is quick, the lesson is already there."""

import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from openlstm import lab
from openlstm.errors import ArgumentError
from openlstm.lab import experiment
from openlstm.lab.advised import Advised
from openlstm.lab.arms import build
from openlstm.lab.tasks.latch import latch_batch
from openlstm.lab.trial import generator, score, share_by_lag


def quick(task: str = "latch", size: int = 4, **options) -> lab.Result:
    return lab.run(task, size, **{"seeds": 2, "steps": 3, "arms": ["rnn", "lstm-chrono"], **options})


def test_the_same_arguments_give_the_same_numbers() -> None:
    a, b, other = quick(), quick(), quick(seeds=range(1, 3))
    assert a.rows == b.rows
    assert a.rows != other.rows
    assert a["rnn"].scores[1] == other["rnn"].scores[0]


def test_an_arm_does_not_depend_on_the_others() -> None:
    assert quick()["lstm-chrono"] == quick(arms=["lstm-chrono"])["lstm-chrono"]


@pytest.mark.parametrize("task", lab.tasks.TASKS)
def test_every_task_runs(task: str) -> None:
    size = lab.tasks.TASKS[task].least + 3
    result = quick(task, size, seeds=1, arms=["rnn-identity", "lstm-1997", "gru"], hidden=5)
    assert [row.name for row in result.rows] == ["rnn-identity", "lstm-1997", "gru"]
    assert all(0 <= row.mean <= 1 and row.reaches_before >= 0 for row in result.rows)


def test_the_curve_has_a_score_every_20_steps() -> None:
    assert [len(row.curves[0]) for row in quick(steps=45, seeds=1).rows] == [2, 2]


def test_the_advised_arm_does_what_the_advice_says(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Advised(4, "blocked", "chrono=4", "", ({"flag": "chrono=4"}, {"flag": "orthogonal"}), "do it")
    monkeypatch.setattr(experiment, "measure", lambda *_: told)
    result = quick(arms=["lstm-advice", "lstm-chrono"])
    advised, chrono = result.rows
    assert (advised.scores, advised.shares) == (chrono.scores, chrono.shares)
    assert advised.title == "LSTM + advice (chrono=4)"
    assert [one["best"] for one in result.to_dict()["advice"]] == [True, False]


def test_no_advice_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "measure", lambda *_: Advised(4, "not blocked", None, None, (), "nothing"))
    advised, default = quick(arms=["lstm-advice", "lstm"]).rows
    assert advised.scores == default.scores and advised.title == "LSTM + advice (nothing to change)"


@pytest.mark.slow
@pytest.mark.parametrize("lag", [60, 120])
def test_the_advice_for_latch_is_to_set_the_gates_for_the_lag(lag: int) -> None:
    result = lab.run("latch", lag, steps=0, arms=["lstm-advice"])
    assert result.advice is not None and result.advice.verdict == "blocked"
    assert result.advice.flag == f"chrono={lag}"
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert [one["flag"] for one in plain["advice"] if one["best"]] == [f"chrono={lag}"] and len(plain["advice"]) > 4


def test_the_share_is_autograds_own() -> None:
    """dL/dh_t by autograd on an unrolled loop of single steps, for the task's loss."""
    lag = 6
    model = build("rnn", 8, lag, 0)
    x, answer = latch_batch(lag, 16, torch.Generator().manual_seed(0))
    states, h = [], torch.zeros(1, 16, 8)
    for t in range(len(x)):
        h = model.layer(x[t : t + 1], h)[1]
        h.retain_grad()
        states.append(h)
    F.binary_cross_entropy_with_logits(model.read(h), answer).backward()
    norms = np.array([float(s.grad[0].norm(dim=-1).mean()) for s in states])[::-1]
    np.testing.assert_allclose(share_by_lag(model, x, answer), norms / norms[0], rtol=1e-4)


def test_the_share_of_a_task_that_asks_at_every_step_is_that_of_its_last_answer() -> None:
    task = lab.tasks.TASKS["parity"]
    model = build("lstm", 6, 4, 0, task)
    x, odd = task.look(9, 8, torch.Generator().manual_seed(0))
    states, h, c = [], torch.zeros(1, 8, 6), torch.zeros(1, 8, 6)
    for t in range(9):
        _, (h, c) = model.layer(x[t : t + 1], (h, c))
        h.retain_grad()
        c.retain_grad()
        states.append((h, c))
    F.binary_cross_entropy_with_logits(model.answer(h, (h, c)), odd).backward()
    grads = [torch.cat([torch.zeros_like(s) if s.grad is None else s.grad for s in pair], -1) for pair in states]
    norms = np.array([float(g[0].norm(dim=-1).mean()) for g in grads])[::-1]
    np.testing.assert_allclose(share_by_lag(model, x, odd), norms / norms[0], rtol=1e-4)


def test_accuracy_counts_right_answers() -> None:
    model = build("rnn", 4, 3, 0)
    x, _ = latch_batch(3, 50, torch.Generator().manual_seed(0))
    said = (model(x) > 0).float()
    assert model.task.score(model(x), said) == 1.0
    assert model.task.score(model(x), 1 - said) == 0.0


def test_a_score_in_parts_counts_every_answer_once() -> None:
    model = build("rnn", 4, 3, 0)
    data = generator(0, 2)
    parts = [latch_batch(3, n, data) for n in (500, 500, 234)]
    right = sum(int(((model(x) > 0) == (answer > 0)).sum()) for x, answer in parts)
    assert score(model, 3, generator(0, 2), 1234) == right / 1234


def test_progress_comes_every_20_steps_and_when_a_network_is_done() -> None:
    seen: list[lab.Progress] = []
    result = quick(steps=45, on_progress=seen.append)
    assert [p.done for p in seen] == [n for done in range(4) for n in (done, done, done, done + 1)]
    running = [(now.seed, now.step) for p in seen for now in p.running["rnn"]]
    assert running == [(k, s) for k in (0, 1) for s in (0, 20, 40)]
    assert math.isnan(seen[0].running["rnn"][0].score) and 0 <= seen[1].running["rnn"][0].score <= 1
    assert seen[-1].rows == {row.name: row for row in result.rows} and not any(seen[-1].running.values())


def test_the_result_is_plain_numbers() -> None:
    plain = quick().to_dict()
    again = json.loads(json.dumps(plain, allow_nan=False))
    assert again == plain
    arm = plain["arms"][1]
    assert arm["name"] == "lstm-chrono" and len(arm["scores"]) == 2
    assert arm["mean"] == sum(arm["scores"]) / 2 and 0 < arm["reaches_before"]
    assert plain["advice"] == [] and plain["lag"] == plain["needed_lag"] == 4
    assert plain["protocol"] == {"hidden": 32, "batch": 64, "adam": 3e-3, "clip": 1.0, "fresh_sequences": 2000}
    assert quick("adding", 8, seeds=1).to_dict()["published"][0]["source"].startswith("Hochreiter")


def test_a_share_that_is_not_finite_is_null() -> None:
    row = lab.Row("rnn", "RNN", (0.5,), (float("inf"),))
    assert row.to_dict()["reaches_before"] is None and row.to_dict()["shares"] == [None]


def test_the_markdown_has_a_row_per_arm() -> None:
    lines = quick().to_markdown().splitlines()
    assert len(lines) == 4 and lines[3].startswith("| `lstm-chrono` ")


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ArgumentError) as error:
        lab.run("latsch")
    assert str(error.value) == (
        "lab: unknown task 'latsch'\n  got       'latsch'\n  expected  recall, latch, copy, adding, temporal-order, reber, "
        "continual-reber, parity, anbn\n  hint      use one of these names"
    )


ARMS = ", ".join(lab.ARMS)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"size": 0}, "lag is too small\n  got       lag=0\n  expected  at least 1\n  hint      pass lag=1 or more"),
        ({"seeds": 0}, "seeds is too small\n  got       seeds=0\n  expected  at least 1\n  hint      pass seeds=1 or more"),
        ({"steps": -1}, "steps is too small\n  got       steps=-1\n  expected  at least 0\n  hint      pass steps=0 or more"),
        (
            {"seeds": range(-1, 0)},
            "seed is too small\n  got       seed=-1\n  expected  at least 0\n  hint      pass seed=0 or more",
        ),
        ({"hidden": 0}, "hidden is too small\n  got       hidden=0\n  expected  at least 1\n  hint      pass hidden=1 or more"),
        ({"jobs": 0}, "jobs is too small\n  got       jobs=0\n  expected  at least 1\n  hint      pass jobs=1 or more"),
        (
            {"arms": ["gruu"]},
            f"unknown arm 'gruu'\n  got       'gruu'\n  expected  {ARMS}\n  hint      use one of these names",
        ),
        (
            {"arms": ["rnn", "rnn"]},
            f"arms must be named once each\n  got       ['rnn', 'rnn']\n  expected  {ARMS}\n"
            "  hint      leave arms out to run all of them",
        ),
    ],
)
def test_bad_arguments_are_refused(options: dict, text: str) -> None:
    with pytest.raises(ArgumentError) as error:
        quick(**options)
    assert str(error.value) == f"latch: {text}"


@pytest.mark.slow
def test_at_a_short_lag_gates_set_for_it_learn_and_the_default_does_not() -> None:
    result = lab.run("latch", 30, seeds=1, steps=600, arms=["rnn", "lstm", "lstm-chrono"])
    assert result["lstm-chrono"].mean > 0.9
    assert result["rnn"].mean < 0.6 and result["lstm"].mean < 0.6
    assert result["rnn"].shares[0] < 1e-3 and result["lstm"].shares[0] < 1e-3 < result["lstm-chrono"].shares[0]


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_at_lag_120_only_the_advice_learns() -> None:
    """The study of docs/lab.md: with the advice at least 95 %, every other arm at most 60 %, mean of ten seeds."""
    result = lab.run("latch", 120, seeds=10, jobs=2)
    for row in result.rows:
        assert row.mean >= 0.95 if row.name == "lstm-advice" else row.mean <= 0.60, row
