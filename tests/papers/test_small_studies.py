"""parity, adding600 and copy1000: a short run of each gives the numbers it is asked for, and the same ones again."""

import math

import pytest
import torch
from papers import adding600, copy1000, parity
from papers.study import generator


def test_parity_is_asked_at_the_end_of_each_row() -> None:
    x, lengths, odd = parity.batch(300, generator(0))
    assert set(lengths.tolist()) == set(range(1, 41))
    ones = [int((x[:n, b] > 0).sum()) % 2 for b, n in enumerate(lengths.tolist())]
    assert ones == odd.int().tolist()


def test_two_steps_of_parity_give_the_same_twice_and_solve_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "STEPS", 2)
    monkeypatch.setattr(parity, "LONGER", range(41, 45))
    a, b = parity.train("parity", 1), parity.train("parity", 1)
    assert a == b and 0.3 < a.value < 0.7 and not a.solved and a.sequences == 2 * parity.BATCH


def test_two_steps_of_adding600_solve_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adding600, "STEPS", 2)
    monkeypatch.setattr(adding600, "T", 20)
    monkeypatch.setattr(adding600, "FRESH", 1000)
    a, b = adding600.train("adding600", 1), adding600.train("adding600", 1)
    assert a == b and 0.1 < a.value < 0.5 and not a.solved and a.sequences == 2 * adding600.BATCH


def test_two_steps_of_copy1000_solve_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy1000, "STEPS", 2)
    monkeypatch.setattr(copy1000, "T", 20)
    monkeypatch.setattr(copy1000, "FRESH", 100)
    a, b = copy1000.train("copy1000", 1), copy1000.train("copy1000", 1)
    assert a == b and math.isfinite(a.value) and a.more["silence"] == 1 and a.sequences == 2 * copy1000.BATCH


@pytest.mark.parametrize("make", [adding600.network, copy1000.network], ids=["adding600", "copy1000"])
def test_networks_leave_the_global_generator_alone(make) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    a, b = make(0), make(0)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
