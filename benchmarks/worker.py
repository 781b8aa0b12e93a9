"""One library in a process of its own, which builds jobs and runs blocks of calls when it is asked to.

Libraries have their own thread pools, whose threads spin on after a call: in one process they would slow each other down. So
each has a process with the same cores and number of threads, and sleeps while another one is timed.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from job import Job

LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC")  # XLA sizes its pools by NPROC


class Missing(Exception):
    """The library cannot run the job; its place in the table stays empty, and the reason stands below."""


class Failed(RuntimeError):
    """The process of a library died, or raised an error."""


class Built(NamedTuple):
    """A job that is ready to run."""

    call: Callable[[], Any]
    numbers: Callable[[], dict[str, Any]]  # one call: its outputs and gradients as numpy arrays, in torch's layout
    prepare: Callable[[], Any] = lambda: None  # before a block


def cores(threads: int) -> set[int]:
    """The processors that every library is held to: as many as it has threads."""
    return set(sorted(os.sched_getaffinity(0))[:threads])


class Worker:
    """The other end: `ask` sends an order to the process and waits for its answer."""

    def __init__(self, library: str, threads: int) -> None:
        self.library = library
        self._log = tempfile.TemporaryFile()
        own = {name: str(threads) for name in LIMITS}
        own |= {"JAX_PLATFORMS": "cpu", "TORCHINDUCTOR_COMPILE_THREADS": "1", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
        command = [sys.executable, __file__, library, str(threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env={**os.environ, **own}
        )

    def ask(self, order: str, *arguments: Any) -> Any:
        """What the process answers.

        Raises:
            Missing: where the library cannot run the job.
            Failed: for an error there.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            pickle.dump((order, *arguments), self._process.stdin)
            self._process.stdin.flush()
            kind, answer = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError):
            self._log.seek(0)
            tail = self._log.read().decode(errors="replace")[-2000:]
            raise Failed(f"the process of {self.library} ended while it was asked to {order}:\n{tail}") from None
        if kind == "missing":
            raise Missing(answer)
        if kind == "failed":
            raise Failed(f"{self.library} could not {order} {arguments}:\n{answer}")
        return answer

    def close(self) -> None:
        """End the process, which ends when nobody can ask it any more."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._log.close()


class Desk:
    """What the process does with an order."""

    def __init__(self, library: str, threads: int) -> None:
        import peers

        self.build_one = peers.begin(library, threads)
        self.versions = peers.versions(library)
        self.built: dict[str, Built] = {}

    def about(self) -> dict[str, str]:
        """The versions of what is measured here."""
        return self.versions

    def build(self, name: str, job: Job) -> float:
        """Make a job ready; the seconds its first call took, compilation included."""
        built = self.build_one(job)
        built.prepare()
        begin = time.perf_counter()
        built.call()
        self.built[name] = built
        return time.perf_counter() - begin

    def numbers(self, name: str) -> dict[str, Any]:
        """The outputs and gradients of a job."""
        self.built[name].prepare()
        return self.built[name].numbers()

    def block(self, name: str, count: int) -> float:
        """The seconds of `count` calls; where they are short, after one that is not counted and wakes threads and caches."""
        call = self.built[name].call
        self.built[name].prepare()
        if count > 1:
            call()
        begin = time.perf_counter()
        for _ in range(count):
            call()
        return time.perf_counter() - begin

    def clear(self) -> None:
        """Forget every job."""
        self.built.clear()


def serve(library: str, threads: int) -> None:
    """Answer orders until the other end is closed."""
    os.sched_setaffinity(0, cores(threads))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get among the answers
    desk = Desk(library, threads)
    while True:
        try:
            order, *arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = ("done", getattr(desk, order)(*arguments))
        except Missing as why:
            answer = ("missing", str(why))
        except Exception:
            answer = ("failed", traceback.format_exc())
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    from worker import serve as run  # this file as the module of the same name, so that there is one class Missing

    run(sys.argv[1], int(sys.argv[2]))
