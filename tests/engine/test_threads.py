"""Callers at once, forks and workers of a DataLoader get the same bits; idle threads sleep; the interpreter is left free."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support import NEEDS_NATIVE, Case, differing, digest, num_threads, python, run_all

import openlstm
from openlstm.call import Call
from openlstm.cells import FGR, GRU, LSTM, VanillaRNN
from openlstm.engine import native, threads
from openlstm.engine.backends import cpu
from openlstm.errors import ArgumentError, DtypeError

MIXED = [
    Case(LSTM(), "float32", T=30, B=16, I=40, H=65, lengths=True, reset=True),
    Case(LSTM(), "float64", T=7, B=3, I=5, H=9, P=4, reverse=True),
    Case(VanillaRNN("tanh"), "float32", T=20, B=40, I=64, H=64),
    Case(LSTM(), "float32", T=6, B=1, I=256, H=300),
    Case(GRU(), "float32", T=20, B=16, I=40, H=65, lengths=True, noise="hgm"),
    Case(FGR(clip=0.5), "float64", T=10, B=8, I=20, H=33, noise="hcgm"),
]

PREAMBLE = """
import os, sys, threading, time
from openlstm.cells import LSTM
from openlstm.engine import native, threads
from openlstm.engine.backends import cpu
from tests.support import Case, digest, run_all
threads.set_num_threads(4)
problem = Case(LSTM(), "float32", T=30, B=16, I=40, H=65, lengths=True, reset=True).problem()
expected = digest(run_all(cpu, problem))
"""


@NEEDS_NATIVE
def test_several_callers_at_once_get_the_same_bits() -> None:
    problems = [case.problem() for case in MIXED]
    with num_threads(3):
        expected = [run_all(cpu, p) for p in problems]
        wrong: list[Any] = []
        start = threading.Barrier(6)

        def caller(k: int) -> None:
            start.wait()
            for n in range(12):
                which = (k + n) % len(problems)
                if names := differing(run_all(cpu, problems[which]), expected[which]):
                    wrong.append((k, n, names))

        callers = [threading.Thread(target=caller, args=(k,)) for k in range(6)]
        for c in callers:
            c.start()
        for c in callers:
            c.join()
    assert wrong == []


@NEEDS_NATIVE
def test_another_python_thread_runs_meanwhile() -> None:
    """The interpreter's lock is free during a call: the only way for the counter to move."""
    p = Case(LSTM(), "float32", T=1500, B=16, I=64, H=128).problem()
    count, moved, done = 0, 0, threading.Event()

    def counter() -> None:
        nonlocal count
        while not done.is_set():
            count += 1

    other = threading.Thread(target=counter)
    other.start()
    try:
        for _ in range(100):  # on a busy machine the other thread may miss its turn
            before = count
            cpu.forward(Call(p.cell, p.x, p.weights, p.state))
            moved = max(moved, count - before)
            if moved > 1000:
                break
    finally:
        done.set()
        other.join()
    assert moved > 1000


@NEEDS_NATIVE
def test_a_forked_child_computes_and_so_does_its_parent() -> None:
    printed = python(
        PREAMBLE
        + """
for turn in range(3):
    sys.stdout.flush()
    child = os.fork()
    same = digest(run_all(cpu, problem)) == expected
    if child == 0:
        os._exit(0 if same else 3)
    print(same, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    )
    assert printed == "True 0\n" * 3


@NEEDS_NATIVE
def test_a_fork_while_another_thread_is_computing() -> None:
    printed = python(
        PREAMBLE
        + """
stop = threading.Event()
def busy():
    while not stop.is_set():
        run_all(cpu, problem)
thread = threading.Thread(target=busy)
thread.start()
codes = []
for turn in range(8):
    child = os.fork()
    if child == 0:
        os._exit(0 if digest(run_all(cpu, problem)) == expected else 3)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stop.set()
thread.join()
print(codes)
"""
    )
    assert printed == f"{[0] * 8}\n"


@NEEDS_NATIVE
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_of_multiprocessing_get_the_same_bits(method: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        PREAMBLE
        + f"""
import multiprocessing
def work(_):
    return digest(run_all(cpu, problem))
if __name__ == "__main__":
    with multiprocessing.get_context({method!r}).Pool(2) as pool:
        print(set(pool.map(work, range(6))) == {{expected}})
"""
    )
    assert python(f"import subprocess, sys; subprocess.run([sys.executable, {str(script)!r}], check=True)") == "True\n"


class Encoded(torch.utils.data.Dataset):
    """Items made by a layer inside the worker."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.layer = openlstm.LSTM(8, 16, batch_first=True)
        self.x = torch.randn(12, 20, 8)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with torch.no_grad():
            return self.layer(self.x[index : index + 1])[0][0], threads.get_num_threads()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_layers_in_the_workers_of_a_dataloader(method: str) -> None:
    data = Encoded()
    expected = torch.stack([data[k][0] for k in range(len(data))])  # the parent's threads exist before the fork
    loader = torch.utils.data.DataLoader(data, batch_size=3, num_workers=2, multiprocessing_context=method)
    batches = list(loader)
    encoded, counts = torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])
    assert torch.equal(encoded, expected)
    assert counts.tolist() == [1] * len(data)  # a worker uses one thread


class _Count(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, k: int) -> int:
        return openlstm.get_num_threads()


def test_a_forked_worker_of_a_data_loader_uses_one_thread_whatever_was_set() -> None:
    with num_threads(2):
        loader = torch.utils.data.DataLoader(_Count(), num_workers=2, multiprocessing_context="fork")
        assert torch.cat(list(loader)).tolist() == [1] * 4
        assert openlstm.get_num_threads() == 2


@NEEDS_NATIVE
def test_idle_threads_sleep() -> None:
    printed = python(
        PREAMBLE
        + """
time.sleep(0.05)
before = time.process_time()
time.sleep(1.0)
print(time.process_time() - before)
"""
    )
    assert float(printed) < 0.3  # of the processor in a second; one that spins takes all of it


BORROWED = """
import os, sys
import torch
import openlstm
from openlstm.cells import LSTM
from tests.support import Case, digest, run_all
from openlstm.engine import native
from openlstm.engine.backends import cpu
torch.set_num_threads(2)
openlstm.set_num_threads(2)
big = torch.randn(700, 700)
big @ big  # torch has its threads now
(big.exp() + 1).sum()
before = len(os.listdir("/proc/self/task"))
case = Case(LSTM(), "float32", T=30, B=16, I=40, H=65, lengths=True, reset=True)
here = digest(run_all(cpu, case.problem()))
more = len(os.listdir("/proc/self/task")) - before
child = os.fork()
if child == 0:
    os._exit(0 if digest(run_all(cpu, case.problem())) == here else 1)
print(here, more, os.waitpid(child, 0)[1])
"""


@NEEDS_NATIVE
@pytest.mark.skipif("libgomp" not in Path("/proc/self/maps").read_text(), reason="torch's OpenMP is another one here")
def test_beside_torch_the_engine_runs_on_the_threads_of_its_openmp() -> None:
    """No thread of its own, the same bits, and a forked child that computes."""
    borrowed, none_of_its_own, fine = python(BORROWED, OMP_NUM_THREADS="2").split()
    own, its_own, _ = python(BORROWED, OMP_NUM_THREADS="2", OPENLSTM_OWN_THREADS="1").split()
    assert borrowed == own
    assert (int(none_of_its_own), int(its_own), int(fine)) == (0, 1, 0)


@NEEDS_NATIVE
def test_the_process_ends_while_a_daemon_thread_is_inside() -> None:
    python(
        """
import sys, threading, time
from openlstm.cells import LSTM
from openlstm.engine import native
from openlstm.engine.backends import cpu
from tests.support import Case
p = Case(LSTM(), "float32", T=40_000, B=4, I=64, H=64).problem()
threading.Thread(target=cpu.forward, args=(p.cell, p.x, p.weights, p.state), daemon=True).start()
time.sleep(0.1)
sys.exit(0)
"""
    )


def test_the_number_of_threads_can_be_set_and_unset() -> None:
    before = threads._chosen
    try:
        openlstm.set_num_threads(7)
        assert openlstm.get_num_threads() == 7
        openlstm.set_num_threads(None)
        assert 1 <= openlstm.get_num_threads() <= len(os.sched_getaffinity(0))
    finally:
        threads.set_num_threads(before)


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (
            0,
            ArgumentError,
            "set_num_threads: cannot use 0 threads\n  got       0\n  expected  1 to 1024\n  hint      None takes the default",
        ),
        (
            2.0,
            DtypeError,
            "set_num_threads: not an integer\n  got       2.0\n  expected  an integer from 1\n  hint      set_num_threads(2)",
        ),
        (
            True,
            DtypeError,
            "set_num_threads: not an integer\n  got       True\n  expected  an integer from 1\n  hint      set_num_threads(2)",
        ),
    ],
    ids=str,
)
def test_a_number_of_threads_that_is_none_is_refused(value: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as caught:
        threads.set_num_threads(value)
    assert str(caught.value) == text


def test_the_default_is_what_this_process_may_use() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import openlstm; print(openlstm.get_num_threads())"
    )
    assert python(code) == "1\n"


def test_the_default_follows_torch_downwards() -> None:
    code = """
    import torch
    from openlstm.engine import threads
    threads._found = 6
    torch.set_num_threads(2)
    first = threads.get_num_threads()
    torch.set_num_threads(12)
    print(first, threads.get_num_threads())
    """
    assert python(code) == "2 6\n"


def test_the_number_of_threads_from_the_environment() -> None:
    code = "import openlstm; print(openlstm.get_num_threads())"
    assert python(code, OPENLSTM_NUM_THREADS="5") == "5\n"


def test_a_wrong_number_in_the_environment() -> None:
    code = """
    import openlstm
    try:
        openlstm.get_num_threads()
    except openlstm.errors.ArgumentError as error:
        print(error)
    """
    assert python(code.replace("import openlstm\n", "import openlstm, openlstm.errors\n"), OPENLSTM_NUM_THREADS="many") == (
        "OPENLSTM_NUM_THREADS: not a number of threads\n"
        "  got       'many'\n"
        "  expected  an integer from 1 to 1024\n"
        "  hint      unset it, or set it to 2\n"
    )


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 1 << 20),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1 << 20),
        ({"cpu.max": "nonsense"}, 1 << 20),
        ({}, 1 << 20),
    ],
    ids=["1.5 processors", "one", "half", "v2 none", "v1 four", "v1 none", "unreadable", "no files"],
)
def test_quotas_of_control_groups_are_read(files: dict[str, str], expected: int, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert threads._quota(tmp_path) == expected


@NEEDS_NATIVE
def test_where_threads_cannot_be_started_fewer_give_the_same_bits() -> None:
    """A process that may not start threads computes alone."""
    printed = python(
        PREAMBLE.replace("threads.set_num_threads(4)", "threads.set_num_threads(1)")
        + """
import resource
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
threads.set_num_threads(64)
print(digest(run_all(cpu, problem)) == expected)
"""
    )
    assert printed == "True\n"


def test_hash_of_a_result_sees_every_bit() -> None:
    results = run_all(cpu if native.available() else openlstm.reference, MIXED[1].problem())  # type: ignore[attr-defined]
    before = digest(results)
    results["y"].view("uint64")[0, 0, 0] ^= 1
    assert digest(results) != before and re.fullmatch("[0-9a-f]{64}", before)
