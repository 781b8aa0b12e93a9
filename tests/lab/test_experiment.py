"""`lab.latch`: repeatable, counted right, its errors pinned; at a lag where it is quick, the lesson is already there."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from openlstm import lab
from openlstm._errors import ArgumentError
from openlstm.lab.arms import build
from openlstm.lab.experiment import accuracy_of, share_by_lag
from openlstm.lab.sequences import latch_batch


def quick(**options) -> lab.Result:
    return lab.latch(**{"lag": 4, "seeds": 2, "steps": 3, "arms": ["rnn", "lstm-chrono"], **options})


def test_the_same_arguments_give_the_same_numbers() -> None:
    a, b, other = quick(), quick(), quick(seed=1)
    assert a.rows == b.rows
    assert a.rows != other.rows
    assert a["rnn"].accuracy[1] == other["rnn"].accuracy[0]  # repetition k uses seed + k


def test_an_arm_does_not_depend_on_the_others() -> None:
    assert quick()["lstm-chrono"] == quick(arms=["lstm-chrono"])["lstm-chrono"]


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


def test_accuracy_counts_right_answers() -> None:
    model = build("rnn", 4, 3, 0)
    x, _ = latch_batch(3, 50, torch.Generator().manual_seed(0))
    said = (model(x) > 0).float()
    assert accuracy_of(model, x, said) == 1.0
    assert accuracy_of(model, x, 1 - said) == 0.0


def test_progress_comes_every_20_steps_and_at_the_end_of_a_seed() -> None:
    seen: list[lab.Progress] = []
    result = quick(steps=45, on_progress=seen.append)
    assert [(p.seed, p.step) for p in seen] == [(k, s) for k in (0, 1) for s in (0, 20, 40, 45)]
    assert all(set(p.share) == {"rnn", "lstm-chrono"} for p in seen)
    assert seen[-1].rows == {row.arm: row for row in result.rows}
    assert 0 <= seen[1].running["rnn"] <= 1


def test_the_result_is_plain_numbers() -> None:
    plain = quick().to_dict()
    again = json.loads(json.dumps(plain))
    assert again == plain
    row = plain["rows"][1]
    assert row["arm"] == "lstm-chrono" and len(row["per_seed"]["accuracy"]) == 2
    assert row["accuracy"]["min"] <= row["accuracy"]["mean"] <= row["accuracy"]["max"]
    assert plain["protocol"] == {"hidden": 32, "batch": 64, "adam": 3e-3, "clip": 1.0, "fresh_sequences": 2000}


def test_the_markdown_has_a_row_per_arm() -> None:
    lines = quick().to_markdown().splitlines()
    assert len(lines) == 4 and lines[3].startswith("| `lstm-chrono` ")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lag": 0}, "latch: lag is too small\n  got       lag=0\n  expected  at least 1\n  hint      pass lag=1 or more"),
        (
            {"seeds": 0},
            "latch: seeds is too small\n  got       seeds=0\n  expected  at least 1\n  hint      pass seeds=1 or more",
        ),
        (
            {"steps": -1},
            "latch: steps is too small\n  got       steps=-1\n  expected  at least 0\n  hint      pass steps=0 or more",
        ),
        (
            {"seed": -1},
            "latch: seed is too small\n  got       seed=-1\n  expected  at least 0\n  hint      pass seed=0 or more",
        ),
        (
            {"arms": ["gru"]},
            "latch: unknown arm 'gru'\n  got       'gru'\n  expected  rnn, rnn-orthogonal, rnn-identity, lstm-1997, lstm, "
            "lstm-forget-1, lstm-forget-3, lstm-chrono\n  hint      use one of these names",
        ),
        (
            {"arms": ["rnn", "rnn"]},
            "latch: arms must be named once each\n  got       ['rnn', 'rnn']\n  expected  rnn, rnn-orthogonal, rnn-identity, "
            "lstm-1997, lstm, lstm-forget-1, lstm-forget-3, lstm-chrono\n  hint      leave arms out to run all of them",
        ),
    ],
)
def test_bad_arguments(options: dict, text: str) -> None:
    with pytest.raises(ArgumentError) as error:
        quick(**options)
    assert str(error.value) == text


@pytest.mark.slow
def test_at_a_short_lag_gates_set_for_it_learn_and_the_default_does_not() -> None:
    result = lab.latch(lag=30, seeds=1, steps=600, arms=["rnn", "lstm", "lstm-chrono"])
    assert result["lstm-chrono"].accuracy[0] > 0.9
    assert result["rnn"].accuracy[0] < 0.6 and result["lstm"].accuracy[0] < 0.6
    assert result["rnn"].share[0] < 1e-3 and result["lstm"].share[0] < 1e-3 < result["lstm-chrono"].share[0]


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_at_lag_120_only_gates_set_for_the_lag_learn() -> None:
    """The study of docs/lab.md: chrono at least 95 %, every other arm at most 60 %, mean of five seeds."""
    result = lab.latch(lag=120, seeds=5)
    for row in result.rows:
        mean = sum(row.accuracy) / len(row.accuracy)
        assert mean >= 0.95 if row.arm == "lstm-chrono" else mean <= 0.60, row
