"""Work memory: a training loop touches no fresh pages after its second step, and the pool stays within its limit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.support import NEEDS_NATIVE, Case, differing, python, run_all

from openlstm.cells import LSTM
from openlstm.engine import native, workspace
from openlstm.engine.backends import cpu
from openlstm.errors import ArgumentError

pytestmark = NEEDS_NATIVE

CASE = Case(LSTM(), "float32", T=100, B=16, I=8, H=64)  # gates alone are 1.6 MB, 400 pages


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    before = workspace.get_workspace_limit()
    yield
    workspace.set_workspace_limit(before)


def faults(code: str, **environment: str) -> list[int]:
    """Pages touched for the first time in each of ten steps; `step()` is what the code defines."""
    return [
        int(n)
        for n in python(
            code
            + """
import gc, resource
gc.disable()
counts = []
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(*counts)
""",
            **environment,
        ).split()
    ]


ENGINE = """
from openlstm.cells import LSTM
from openlstm.engine import native, threads, workspace
from openlstm.engine.backends import cpu
from tests.support import Case
threads.set_num_threads(2)
p = Case(LSTM(), "float32", T=100, B=16, I=8, H=64).problem()
def step():
    run = cpu.forward(p.call(save=True))
    cpu.backward(p.call(), run.saved, p.dy, p.dstate)
"""

LAYER = """
import torch, openlstm
openlstm.set_num_threads(2)
layer = openlstm.LSTM(8, 64)
optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
x = torch.randn(100, 16, 8)
def step():
    optimizer.zero_grad()
    y, _ = layer(x)
    y[-1].sum().backward()
    optimizer.step()
"""


@pytest.mark.parametrize("code", [ENGINE, LAYER], ids=["engine", "layer"])
def test_a_training_loop_touches_no_fresh_pages_after_its_second_step(code: str) -> None:
    counts = faults(code)
    assert counts[0] > 300  # the first step does
    assert sum(counts[2:]) < 8 * 120  # torch's own copy of dL/dy is 100, and it may fetch that anew; a step of ours has 900


def test_without_a_pool_a_training_loop_touches_fresh_pages() -> None:
    """The law above can fail: with a limit of 0, and blocks that go back to the system, each step begins on fresh pages."""
    none = ENGINE + "workspace.set_workspace_limit(0)\n"
    assert sum(faults(none, MALLOC_MMAP_THRESHOLD_="65536")[2:]) > 8 * 300


def test_the_pool_stays_within_its_limit_and_changes_no_result() -> None:
    p = CASE.problem()
    workspace.set_workspace_limit(1 << 30)
    expected = run_all(cpu, p)
    assert native.library.workspace_bytes() > 0
    for limit in (0, 1 << 16, 1 << 20, 1 << 30):
        workspace.set_workspace_limit(limit)
        assert workspace.get_workspace_limit() == limit
        assert native.library.workspace_bytes() <= limit
        assert differing(run_all(cpu, p), expected) == []
        assert native.library.workspace_bytes() <= limit


def test_memory_of_a_result_is_not_used_again_while_somebody_holds_it() -> None:
    p = CASE.problem()
    first = run_all(cpu, p)
    kept = {name: a.copy() for name, a in first.items()}
    view = first["saved.i"][3:5, 2]
    for _ in range(3):
        run_all(cpu, CASE.problem().map(lambda a: -a))
    assert differing(first, kept) == []
    expected = view.copy()
    del first
    for _ in range(3):
        run_all(cpu, CASE.problem().map(lambda a: -a))
    assert (view == expected).all()


@pytest.mark.parametrize("value", [-1, 1.5, True, None], ids=str)
def test_a_limit_that_is_no_number_of_bytes_is_refused(value: Any) -> None:
    with pytest.raises(ArgumentError) as caught:
        workspace.set_workspace_limit(value)
    assert str(caught.value) == (
        "set_workspace_limit: not a number of bytes\n"
        f"  got       {value!r}\n"
        "  expected  an integer from 0\n"
        "  hint      1 << 30 is 1 GiB"
    )
