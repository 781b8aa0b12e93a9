"""The mutation gate: the checks of conformance find every LSTM that is wrong on purpose, and let the right one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from tests.conformance.checks import CHECKS, Make
from tests.mutation.score import FOUND, by_onnx, finder
from tests.mutation.wrong import GROUPS, WRONG, Wrong
from tests.support import NEEDS_NATIVE

import openlstm


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=NEEDS_NATIVE)])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_layer_passes_every_check(check: Callable[[Make], None], backend: str) -> None:
    check(partial(openlstm.LSTM, backend=backend))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_what_the_wrong_ones_are_made_of_is_right(check: Callable[[Make], None]) -> None:
    """The class they are derived from, without a mistake: what finds them is their mistake."""
    check(Wrong)


@pytest.mark.parametrize("name", WRONG)
def test_every_wrong_lstm_is_found(name: str) -> None:
    assert finder(WRONG[name]) is not None, name


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_check_finds_something(check: Callable[[Make], None]) -> None:
    """A check that no wrong LSTM fails would prove nothing."""
    found: Any = (n for n in WRONG if _fails(check, WRONG[n]))
    assert next(found, None) is not None


def test_the_mistakes_are_of_many_kinds() -> None:
    """At most ten permutations of gates, at least ten in backward alone, at least six in lengths and resets."""
    assert len(WRONG) >= 40 and sum(len(names) for names in GROUPS.values()) == len(WRONG)
    assert len(GROUPS["rows"]) <= 10 and len(GROUPS["backward"]) >= 10 and len(GROUPS["ragged"]) >= 6


@pytest.mark.parametrize("name", [*GROUPS["backward"]])
def test_a_mistake_of_backward_leaves_forward_alone(name: str) -> None:
    torch.manual_seed(0)
    right = openlstm.LSTM(3, 5, 2, bidirectional=True, dtype=torch.float64)
    wrong = WRONG[name](3, 5, 2, bidirectional=True, dtype=torch.float64)
    wrong.load_state_dict(right.state_dict())
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(wrong(x), right(x), rtol=1e-12, atol=1e-14)


def test_other_suites_find_less() -> None:
    """The node tests of ONNX, on the same wrong LSTMs; `python -m tests.mutation.score` has the whole table."""
    pytest.importorskip("onnx")
    assert by_onnx(Wrong) is None
    assert 0 < sum(by_onnx(cls) is not None for cls in WRONG.values()) < len(WRONG) / 2


def _fails(check: Callable[[Make], None], make: Make) -> bool:
    try:
        check(make)
    except FOUND:
        return True
    except Exception:  # noqa: BLE001 - `test_every_wrong_lstm_is_found` holds the first check that speaks
        return False
    return False
