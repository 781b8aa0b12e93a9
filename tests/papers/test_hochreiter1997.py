"""Sequences as the paper describes them, the paper's network, and two batches of training."""

import pytest
import torch
from papers import hochreiter1997 as paper
from papers.study import generator


def test_adding_is_that_of_the_paper() -> None:
    x, lengths, target = paper.adding(500, generator(0))
    assert x.abs().max() <= 1 and set(lengths.tolist()) == set(range(100, 111))
    for b, n in enumerate(lengths.tolist()):
        marks = torch.nonzero(x[:, b, 1] == 1)[:, 0].tolist()
        assert x[n - 1, b, 1] == -1 and x[n:, b, 1].abs().sum() == 0
        assert max(marks) < 49 and 1 <= len(marks) <= 2
        if len(marks) == 2:
            assert x[0, b, 1] == -1 and min(marks) < 10
        else:
            assert x[0, b, 0] == 0  # the first step was drawn: its value is 0 and its marker stays
        torch.testing.assert_close(target[b, 0], 0.5 + x[marks, b, 0].sum() / 4)
    both = (x[..., 1] == 1).sum(0) == 2
    assert 0.84 < both.float().mean() < 0.94  # the first step is drawn once in ten times, or as the other mark


def test_temporal_order_is_that_of_the_paper() -> None:
    x, lengths, target = paper.temporal_order(500, generator(0))
    said = x.argmax(-1)
    for b, n in enumerate(lengths.tolist()):
        at = torch.nonzero(said[:n, b] >= 6)[:, 0].tolist()
        assert said[0, b] == 0 and said[n - 1, b] == 1 and 100 <= n <= 110
        assert len(at) == 2 and 10 <= at[0] <= 20 and 50 <= at[1] <= 60
        first, second = (int(said[t, b]) - 6 for t in at)
        assert target[b].argmax() == 2 * first + second
        assert ((said[1 : n - 1, b] >= 2) & (said[1 : n - 1, b] <= 7)).all()


@pytest.mark.parametrize(("key", "gates"), [("adding", [-3.0, -6.0]), ("temporal-order", [-2.0, -4.0])])
def test_the_network_has_two_blocks_of_two_cells(key: str, gates: list[float]) -> None:
    net = paper.network(paper.TASKS[key], 0)
    assert net.state_dict()["layer.bias_ih_l0"][:2].tolist() == gates
    assert net.layer.weight_hh_l0.shape == (2 + 4 + 2, 4)
    assert max(float(p.detach().abs().max()) for name, p in net.named_parameters() if "bias_ih" not in name) <= 0.1


@pytest.mark.parametrize("key", ["adding", "temporal-order"])
def test_two_batches_of_training_solve_nothing(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = 1 if paper.TASKS[key].online else paper.BATCH
    monkeypatch.setitem(paper.TASKS, key, paper.TASKS[key]._replace(published=batch))
    trial = paper.train(key, 5)
    assert trial.sequences == 2 * batch and not trial.solved and trial.look["word"] == "not blocked"
    assert 0 < trial.more["wrong_of_2560"] <= 2560


def test_a_network_is_solved_only_by_2000_right_ones_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    task = paper.TASKS["adding"]._replace(published=2000, recent=2000, bound=10.0, mean_error=10.0)  # whatever it says is right
    monkeypatch.setitem(paper.TASKS, "adding", task)
    trial = paper.train("adding", 5)
    assert trial.solved and trial.sequences == 2000 and trial.more["wrong_of_2560"] == 0
