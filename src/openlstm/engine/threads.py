"""How many threads the engine uses: the one setting that is global, because processors are."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from openlstm.errors import ArgumentError, DtypeError

Item = TypeVar("Item")
Result = TypeVar("Result")

_chosen: int | None = None
_looked = False  # for an OpenMP runtime
_found: int | None = None
_here = threading.local()  # in a thread that is one of several at work: `alone`


def set_num_threads(threads: int | None) -> None:
    """Use this many threads from now on; results do not depend on it, bit for bit.

    Args:
        threads: at least 1, also more than there are processors; None goes back to the default: the smaller of the
            processors this process may use and its cgroup's quota, or torch's number of threads where that was lowered.

    Raises:
        DtypeError: if it is not an integer.
        ArgumentError: if it is less than 1 or more than 1024.

    >>> set_num_threads(2); get_num_threads()
    2
    >>> set_num_threads(None)
    """
    global _chosen
    if threads is not None:
        if isinstance(threads, bool) or not isinstance(threads, int):
            raise DtypeError.of("set_num_threads", "not an integer", repr(threads), "an integer from 1", "set_num_threads(2)")
        if not 1 <= threads <= 1024:
            raise ArgumentError.of(
                "set_num_threads", f"cannot use {threads} threads", str(threads), "1 to 1024", "None takes the default"
            )
    _chosen = threads


def get_num_threads() -> int:
    """The number of threads that the next call uses at most."""
    return current()


def current() -> int:
    """As `get_num_threads`; called once per run of the engine."""
    if getattr(_here, "alone", False):
        return 1
    if not _looked and "torch" in sys.modules:
        _borrow_from_torch()
    if _chosen is not None:
        return 1 if _in_data_loader() else _chosen
    default = _found if _found is not None else _find()
    if default == 1:
        return 1
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):  # a DataLoader's worker lowers it to 1, and people do
        lowered = torch.get_num_threads()
        if lowered < default:
            return lowered
    return default


@contextmanager
def torch_aside(threads: int | None = None) -> Iterator[None]:
    """Inside, torch computes with one thread and the engine with `threads`, as many as before if None.

    For training small networks: torch's small operations gain nothing from a second thread, and the threads of its OpenMP
    spin on the very processors that the engine needs (7 times the processor time in a training of 64 units on 2 busy cores).
    """
    global _chosen
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    engine, chosen, theirs = threads or current(), _chosen, torch.get_num_threads()
    _chosen = engine
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(theirs)
        _chosen = chosen


def side_by_side(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`work` of each item, in as many threads as the engine may use; what it runs of the engine uses one each.

    >>> side_by_side(abs, [-1, 2])
    [1, 2]
    """
    count = min(current(), len(items))
    if count < 2:
        return [work(item) for item in items]
    from concurrent.futures import ThreadPoolExecutor  # it takes its time to import

    with ThreadPoolExecutor(count, initializer=lambda: setattr(_here, "alone", True)) as pool:
        return list(pool.map(work, items))


def _borrow_from_torch() -> None:
    """Let the engine run on the threads of torch's OpenMP runtime instead of its own, where that is GNU's.

    Those threads go on spinning for milliseconds after each of torch's operations, on the processors that the engine's own
    would need: a model that mixes both ran at half its speed on two processors. Bits do not depend on whose threads they are.
    """
    global _looked
    _looked = True
    try:
        from openlstm import _native

        maps = Path("/proc/self/maps").read_text().split()
    except (ImportError, OSError):
        return
    found = [path for path in dict.fromkeys(maps) if "libgomp" in path.rsplit("/", 1)[-1] and "torch" in path]
    if found and os.environ.get("OPENLSTM_OWN_THREADS") is None:
        runtime = ctypes.CDLL(found[0])  # it is there already
        names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
        _native.borrow_openmp(*(ctypes.cast(getattr(runtime, name), ctypes.c_void_p).value or 0 for name in names))


def _in_data_loader() -> bool:
    """Whether this process is a worker of a torch DataLoader: there are as many of those as processors already."""
    worker = sys.modules.get("torch.utils.data._utils.worker")
    return worker is not None and worker._worker_info is not None


def _find() -> int:
    global _found
    _found = _from_environment() or max(1, min(_allowed(), _quota()))
    return _found


def _from_environment() -> int | None:
    value = os.environ.get("OPENLSTM_NUM_THREADS")
    if value is None:
        return None
    if not value.isdecimal() or not 1 <= int(value) <= 1024:
        raise ArgumentError.of(
            "OPENLSTM_NUM_THREADS",
            "not a number of threads",
            repr(value),
            "an integer from 1 to 1024",
            "unset it, or set it to 2",
        )
    return int(value)


def _allowed() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quota(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Processors' worth of time that the control group grants, rounded up; a large number where none is set."""
    for quota, period in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = (root / quota).read_text().split()
            if period is not None:
                words.append((root / period).read_text().strip())
            if words[0] not in ("max", "-1"):
                return max(1, -(-int(words[0]) // int(words[1])))
        except (OSError, ValueError, IndexError):
            continue
    return 1 << 20


def _forget() -> None:
    """A forked child may have been given other processors."""
    global _found
    _found = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
