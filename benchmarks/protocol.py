"""How a speed is measured here: interleaved blocks on a quiet machine, medians, the multiply-add peak in a process of its own.

Ratios move by a factor of two with the way they are measured, so there is one way (docs/design/design.md, section 7).
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import psutil

BLOCK_SECONDS = 0.2
BLOCKS = 20
REST_SECONDS = 0.02
OTHERS_LIMIT = 0.05
PEAK_SPREAD = 0.10


class Refused(RuntimeError):
    """The machine or the state of the repository does not allow a figure that could be claimed."""


@dataclass(frozen=True)
class Timing:
    """Seconds per call: the median over blocks, and the blocks themselves."""

    blocks: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.blocks)


Block = Callable[[int], float]
"""Runs so many calls and returns the seconds that they took."""


def calls_per_block(block: Block, seconds: float) -> int:
    """How many calls fill a block; the calls made to find out also warm up."""
    count = 1
    while True:
        spent = block(count)
        if spent >= seconds / 4:
            return max(1, round(count * seconds / spent))
        count *= 2


def interleave(
    contestants: Mapping[str, Block],
    blocks: int = BLOCKS,
    seconds: float = BLOCK_SECONDS,
    rest: Callable[[float], object] = time.sleep,
) -> dict[str, Timing]:
    """Time contestants block by block in turn, so that a drift of the machine meets all of them alike.

    Before each block there is a rest, so that the threads of the one before are asleep.
    """
    counts = {name: calls_per_block(block, seconds) for name, block in contestants.items()}
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(blocks):
        for name, block in contestants.items():
            rest(REST_SECONDS)
            taken[name].append(block(counts[name]) / counts[name])
    return {name: Timing(tuple(times)) for name, times in taken.items()}


def speedup(slow: Timing, fast: Timing) -> float:
    """How many times as fast: the median over neighbouring blocks, which saw the same machine."""
    return statistics.median(a / b for a, b in zip(slow.blocks, fast.blocks, strict=True))


class Others:
    """The share of the machine's processors that went to anything but this process and its children since it was asked last.

    Time that the host gave to its other guests counts too.
    """

    def __init__(self) -> None:
        self._last = self._read()

    @staticmethod
    def _read() -> tuple[float, float, float]:
        system, me = psutil.cpu_times(), psutil.Process()
        idle = system.idle + getattr(system, "iowait", 0.0)
        guests = getattr(system, "guest", 0.0) + getattr(system, "guest_nice", 0.0)  # counted in user as well
        own = [p.cpu_times() for p in (me, *me.children(recursive=True))]
        return sum(system) - guests - idle, sum(system) - guests, sum(t.user + t.system for t in own)

    def share(self) -> float:
        """Between 0 and 1."""
        now = self._read()
        busy, total, own = (b - a for a, b in zip(self._last, now, strict=True))
        self._last = now
        return max(0.0, busy - own) / total if total > 0 else 0.0


def wait_for_quiet(patience: float = 60.0, look: float = 2.0, others: Others | None = None) -> None:
    """Return once the others leave the machine alone; refuse when they do not within `patience` seconds."""
    others = others or Others()
    end = time.monotonic() + patience
    while True:
        time.sleep(look)
        share = others.share()
        if share <= OTHERS_LIMIT:
            return
        if time.monotonic() >= end:
            raise Refused(f"others use {share:.0%} of the machine, more than {OTHERS_LIMIT:.0%}: close them and start again")


def peak(threads: int, runs: int = 5, seconds: float = 0.15, tries: int = 3, strict: bool = True) -> float:
    """The multiply-add peak in GFLOP/s (float32): the best of the runs of a loop that stays in registers.

    In a fresh process, since an OpenMP runtime that was loaded keeps threads awake. Refused when the readings keep varying,
    unless `strict` is off.
    """
    code = f"from openlstm.engine import native\nfor _ in range({runs}): print(native.peak({threads}, {seconds}) / 1e9)"
    readings: list[float] = []
    for _ in range(tries):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        readings = [float(line) for line in done.stdout.split()]
        if steady(readings) or not strict:
            return max(readings)
    raise Refused(f"the peak varies from {min(readings):.0f} to {max(readings):.0f} GFLOP/s: the machine is not quiet")


def steady(readings: Iterable[float]) -> bool:
    """Whether readings of the peak lie within a tenth of the best."""
    values = list(readings)
    return max(values) - min(values) <= PEAK_SPREAD * max(values)


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine() -> str:
    """The processor, and how many of its cores this process may use."""
    return f"{processor()}, {len(os.sched_getaffinity(0))} cores"
