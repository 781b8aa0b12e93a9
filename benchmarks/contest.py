"""One contest: several jobs timed beside each other after their numbers were compared, and what is read out of the times."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

import protocol
from job import Job, Shape, flop
from worker import Missing, Worker

TOLERANCE = 1e-4  # norm(a - b) <= TOLERANCE * norm(b), tensor by tensor


class Bar(NamedTuple):
    """A figure and what it should be: at least `aim`, or at most; without one it is only told."""

    name: str
    value: float
    aim: float | None = None
    at_most: bool = False

    @property
    def good(self) -> bool:
        """Whether it is reached."""
        return self.aim is None or (self.value <= self.aim if self.at_most else self.value >= self.aim)

    @property
    def words(self) -> str:
        """The figure, with a star where it misses its aim."""
        return (f"{self.value:.0%}" if self.name == "peak" else f"{self.value:.2f}x") + ("" if self.good else " *")


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    label: str
    mode: str
    shape: Shape
    seconds: dict[str, float]  # per call, the median over blocks
    bars: tuple[Bar, ...] = ()
    gflops: float | None = None  # of openlstm
    notes: tuple[str, ...] = ()
    others: float = 0.0  # the share of the machine that went elsewhere meanwhile

    @property
    def good(self) -> bool:
        """Whether every aim is reached."""
        return all(bar.good for bar in self.bars)


@dataclass(frozen=True)
class Measured:
    """What came out of a contest."""

    jobs: Mapping[str, Job]
    times: Mapping[str, protocol.Timing]
    first: Mapping[str, float] = field(default_factory=dict)  # seconds of the first call
    missing: Mapping[str, str] = field(default_factory=dict)
    peak: float = 0.0  # GFLOP/s
    others: float = 0.0

    def seconds(self) -> dict[str, float]:
        """The medians."""
        return {name: t.median for name, t in self.times.items()}

    def speed(self, name: str, beside: str) -> float:
        """How many times as fast as `beside`: the median over neighbouring blocks."""
        return protocol.speedup(self.times[beside], self.times[name])

    def gflops(self, name: str) -> float:
        """Billions of multiplications and additions in a second."""
        return flop(self.jobs[name]) / self.times[name].median / 1e9


@dataclass(frozen=True)
class Contest:
    """Jobs by the names of their columns; those in `alike` must compute the same as the first of them."""

    jobs: Mapping[str, Job]
    rows: Callable[[Measured], list[Row]]
    alike: tuple[str, ...] = ()
    tolerance: float = TOLERANCE

    @property
    def title(self) -> str:
        """For progress and errors."""
        job = next(iter(self.jobs.values()))
        return f"{job.mode} {','.join(map(str, job.shape))}"


class Budget(NamedTuple):
    """How long a contest is measured, and whether a busy machine is refused."""

    blocks: int = protocol.BLOCKS
    seconds: float = protocol.BLOCK_SECONDS
    strict: bool = True


class Arena:
    """The processes of the libraries, begun when they are first needed."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._workers: dict[str, Worker] = {}

    def worker(self, library: str) -> Worker:
        """The process of a library."""
        if library not in self._workers:
            self._workers[library] = Worker(library, self.threads)
        return self._workers[library]

    def versions(self) -> dict[str, str]:
        """Of every library that has run."""
        found: dict[str, str] = {}
        for worker in self._workers.values():
            found |= worker.ask("about")
        return found

    def close(self) -> None:
        """End every process."""
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()

    def run(self, contest: Contest, peak: float, budget: Budget) -> Measured:
        """Build the jobs, compare their numbers, time them; once more when others worked meanwhile.

        Raises:
            Refused: where numbers differ, or others keep working.
        """
        first: dict[str, float] = {}
        missing: dict[str, str] = {}
        for name, job in contest.jobs.items():
            try:
                first[name] = self.worker(job.who).ask("build", name, job)
            except Missing as why:
                missing[name] = str(why)
        try:
            self._compare(contest, [name for name in contest.alike if name in first])
            blocks = {name: self._block(contest.jobs[name].who, name) for name in first}
            for _ in range(4 if budget.strict else 1):
                others = protocol.Others()
                times = protocol.interleave(blocks, budget.blocks, budget.seconds)
                share = others.share()
                if not budget.strict or share <= protocol.OTHERS_LIMIT:
                    return Measured(contest.jobs, times, first, missing, peak, share)
                protocol.wait_for_quiet()
            raise protocol.Refused(f"{contest.title}: others used {share:.0%} of the machine while it was measured")
        finally:
            for worker in self._workers.values():
                worker.ask("clear")

    def _block(self, library: str, name: str) -> protocol.Block:
        worker = self.worker(library)
        return lambda count: worker.ask("block", name, count)

    def _compare(self, contest: Contest, names: list[str]) -> None:
        wanted: dict[str, Any] = {}
        for name in names:
            numbers = self.worker(contest.jobs[name].who).ask("numbers", name)
            wanted = wanted or numbers
            for what, error in differences(numbers, wanted).items():
                if not error <= contest.tolerance:
                    raise protocol.Refused(f"{contest.title}: {what} of {name} differs from that of {names[0]} by {error:.1e}")


def differences(numbers: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> dict[str, float]:
    """norm(a - b) / norm(b) of every tensor that both have; the norm alone where b is zero; infinite for another shape."""
    found: dict[str, float] = {}
    for name in numbers.keys() & wanted.keys():
        a, b = numbers[name], wanted[name]
        if a.shape != b.shape:
            found[name] = float("inf")
            continue
        size = float(np.linalg.norm(b.astype(np.float64)))
        found[name] = float(np.linalg.norm(a.astype(np.float64) - b)) / (size or 1.0)
    return found
