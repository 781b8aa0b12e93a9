"""The pairs that the tests are made of: every two values meet, and the cases are few."""

from __future__ import annotations

import itertools
import math

import pytest
from tests.support import covering, pairs


@pytest.mark.parametrize(
    "sizes", [(3,), (2, 2), (20, 2, 2), (20, 2, 4, 2), (5, 2, 2, 2, 2, 2, 2), (4, 1, 3), (40, 2, 3, 5)], ids=str
)
def test_every_two_values_of_two_axes_meet_in_few_rows(sizes: tuple[int, ...]) -> None:
    rows = covering(sizes)
    for i, j in itertools.combinations(range(len(sizes)), 2):
        assert {(row[i], row[j]) for row in rows} == set(itertools.product(range(sizes[i]), range(sizes[j])))
    assert {row[0] for row in rows} == set(range(sizes[0])) and len(set(rows)) == len(rows)
    fewest = math.prod(sorted(sizes)[-2:])  # no fewer rows hold the pairs of the two largest axes
    assert len(rows) <= max(1.3 * fewest, fewest + 6)


def test_what_may_not_be_is_left_out_and_all_else_still_meets() -> None:
    rows = covering((3, 2, 2), lambda row: (row.get(0), row.get(1)) != (2, 0))
    assert {row[:2] for row in rows} == {(0, 0), (0, 1), (1, 0), (1, 1), (2, 1)}
    assert {row[::2] for row in rows} == set(itertools.product(range(3), range(2)))


def test_the_same_rows_every_time_and_values_as_evenly_as_may_be() -> None:
    assert covering((6, 5, 4)) == covering((6, 5, 4))
    for column in zip(*covering((20, 2, 4, 2)), strict=True):
        counts = [column.count(v) for v in set(column)]
        assert max(counts) <= 1.5 * min(counts)


def test_a_case_carries_the_names_and_marks_of_its_values() -> None:
    made = pairs(a=[1, pytest.param(2, id="two", marks=pytest.mark.slow)], b=["x", "y"]).mark
    assert made.args[0] == "a,b"
    assert sorted((p.id, p.values, [m.name for m in p.marks]) for p in made.args[1]) == [
        ("1-x", (1, "x"), []),
        ("1-y", (1, "y"), []),
        ("two-x", (2, "x"), ["slow"]),
        ("two-y", (2, "y"), ["slow"]),
    ]


def test_two_names_may_be_one_axis() -> None:
    made = pairs(a=[1, 2], **{"b,c": itertools.product("xy", (True, False))}).mark
    assert made.args[0] == "a,b,c" and {p.values for p in made.args[1]} == set(itertools.product((1, 2), "xy", (True, False)))
    assert made.args[1][0].id == "1-x-True"
