"""Memory that runs out, wherever that is: MemoryError, and the next call gives the same bits as ever."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import NEEDS_NATIVE, Case, differing, num_threads, python, run_all

import openlstm
from openlstm.cells import FGR, GRU, LSTM, LayerNormLSTM, Peephole, VanillaRNN
from openlstm.engine import Stepper, native, threads
from openlstm.engine.backends import cpu
from openlstm.reference import State

pytestmark = NEEDS_NATIVE

CASES = [
    Case(LSTM(), "float32", T=12, B=13, I=40, H=33, lengths=True, reset=True, reset_state=True),
    Case(LSTM(clip=0.5), "float64", T=9, B=7, I=33, H=40, P=20, reverse=True, noise="hcgm"),
    Case(Peephole(), "float32", T=6, B=40, I=17, H=33, noise="c"),
    Case(LSTM(), "float32", T=4, B=1, I=256, H=300),  # one row: its units are shared out
    Case(GRU(), "float32", T=8, B=16, I=40, H=65, noise="hgm"),
    Case(GRU(memory=True), "float32", T=8, B=16, I=40, H=65, P=9),
    Case(VanillaRNN("relu"), "float64", T=20, B=9, I=64, H=64, lengths=True),
    Case(FGR(), "float32", T=6, B=8, I=20, H=33, noise="h"),
    Case(LayerNormLSTM(), "float32", T=8, B=12, I=20, H=33, lengths=True),
]


@contextmanager
def own_threads() -> Iterator[None]:
    """The engine's threads, not those of torch's OpenMP."""
    threads.current()  # looks for it once
    native.library.borrow_openmp(0, 0, 0)
    yield
    threads._borrow_from_torch()


def refused_everywhere(run: Callable[[], dict[str, np.ndarray]], expected: dict[str, np.ndarray]) -> int:
    """Of every block of work memory that `run` asks for, one is refused, and then none; gives their number."""
    for n in itertools.count(1):
        native.library.refuse_block(n)
        try:
            found = run()
        except MemoryError as error:
            assert str(error).startswith("openlstm: memory has run out\n  got       no room for ")
        else:
            native.library.refuse_block(0)
            assert differing(found, expected) == []
            return n - 1
        assert differing(run(), expected) == []
    raise AssertionError


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_block_may_be_refused_and_the_next_call_has_the_same_bits(case: Case, count: int) -> None:
    """On the caller's thread or on another, before a barrier that the others wait at or behind it."""
    p = case.problem()
    with num_threads(count), own_threads():
        expected = run_all(cpu, p)
        assert refused_everywhere(lambda: run_all(cpu, p), expected) > 0


@pytest.mark.skipif("libgomp" not in Path("/proc/self/maps").read_text(), reason="torch's OpenMP is another one here")
@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_any_block_may_be_refused_on_the_threads_of_torch(case: Case) -> None:
    p = case.problem()
    with num_threads(3):
        expected = run_all(cpu, p)
        assert refused_everywhere(lambda: run_all(cpu, p), expected) > 0


def test_any_block_of_a_training_step_may_be_refused() -> None:
    torch.manual_seed(0)
    layer, x = openlstm.LSTM(40, 65), torch.randn(12, 9, 40, requires_grad=True)

    def step() -> dict[str, np.ndarray]:
        layer.zero_grad()
        x.grad = None
        y, _ = layer(x)
        torch.autograd.backward(y, torch.ones_like(y))
        grads: dict[str, Any] = {name: p.grad for name, p in (("x", x), *layer.named_parameters())}
        return {"y": y.detach().numpy(), **{name: grad.numpy().copy() for name, grad in grads.items()}}

    with num_threads(3), own_threads():
        assert refused_everywhere(step, step()) > 0


MADE = {
    "lstm": lambda: openlstm.LSTM(40, 65, 3),
    "gru": lambda: openlstm.GRU(40, 65, 3),
    "fgr": lambda: openlstm.LSTM(40, 65, 3, cell=FGR()),
    "lstm_ln": lambda: openlstm.LSTM(40, 65, 3, cell=LayerNormLSTM()),
}


@pytest.mark.parametrize("name", MADE)
def test_a_step_that_fails_leaves_the_state_as_it_was(name: str) -> None:
    def numbers(state: State) -> dict[str, Any]:
        return {name: a for name, a in state._asdict().items() if a is not None}

    layer = MADE[name]()
    xs = np.random.default_rng(0).standard_normal((2, 64, 40)).astype(np.float32)
    with num_threads(3):
        stepper = Stepper(layer, 64)
        stepper.step(xs[0])
        begin = stepper.state

        def step() -> dict[str, Any]:
            before = stepper.state
            try:
                y = stepper.step(xs[1]).copy()
            except MemoryError:
                assert differing(numbers(stepper.state), numbers(before)) == []
                raise
            after, stepper.state = stepper.state, begin
            return {"y": y, **numbers(after)}

        assert refused_everywhere(step, step()) > 0


def test_a_stepper_that_cannot_be_made_raises_and_can_be_made_later() -> None:
    layer, x = openlstm.LSTM(40, 65, 2, cell=LayerNormLSTM()), np.ones((1, 40), np.float32)
    assert refused_everywhere(lambda: {"y": Stepper(layer).step(x)}, {"y": Stepper(layer).step(x)}) > 0


LIMITED = """
import itertools, resource
from openlstm.cells import LSTM, LayerNormLSTM
from openlstm.call import Call
from openlstm.engine import native, threads, workspace
from openlstm.engine.backends import cpu
from tests.support import Case

def run():
    cell, x, weights, state = problem
    return cpu.forward(Call(cell, x, weights, state)).y

def limited(more):
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, hard))
    try:
        return bool((run() == expected).all())
    except MemoryError:
        return None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

threads.set_num_threads(3)
workspace.set_workspace_limit(0)
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
for case in (Case(LSTM(), "float32", T=4, B=400, I=40, H=256), Case(LayerNormLSTM(), "float32", T=2, B=3000, I=40, H=64)):
    p = case.problem()
    problem = p.cell, p.x, p.weights, p.state
    expected = run()
    ran_out = 0
    for more in itertools.count(0, 3 << 18):
        found = limited(more)
        assert bool((run() == expected).all())
        if found is not None:
            break
        ran_out += 1
    print(found, ran_out > 8)
"""


@pytest.mark.parametrize("own", [{"OPENLSTM_OWN_THREADS": "1"}, {}], ids=["own threads", "torch's threads"])
def test_an_address_limit_near_the_need_raises_or_gives_the_same_bits(own: dict[str, str]) -> None:
    """From no memory at all to enough, by small steps; most of it is needed inside the parallel part."""
    at_once = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}  # what is freed goes back to the system
    assert python(LIMITED, **own, **at_once) == "True True\n" * 2


def test_what_is_kept_for_later_gives_way() -> None:
    """Freed blocks that are kept do not stand in the way of another that is asked for."""
    code = """
    import resource
    import numpy as np
    from openlstm.engine import native, workspace
    from openlstm.engine.backends import cpu
    workspace.set_workspace_limit(1 << 30)
    block = cpu.empty(np.zeros(1, np.float32), 20 << 18)
    del block
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (20 << 20), -1))
    before = workspace.workspace_bytes()
    cpu.empty(np.zeros(1, np.float32), 35 << 18)
    print(before > 20 << 20)
    """
    assert python(code) == "True\n"
