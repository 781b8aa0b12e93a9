"""Jobs in processes of their own: as many at a time as asked for, each with one thread, with reports of their progress.

Processes are spawned, never forked, because torch's threads do not survive a fork. Each holds one end of a pipe; a process that
dies closes its end, so its job is known, and a process whose parent is gone stops at its next report.
"""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from openlstm.errors import OpenLSTMError, TrainingError
from openlstm.lab.trial import Job, Outcome, run

Tell = Callable[[Job, int, float, float], None]  # (job, step, score, share before training)


def each(jobs: Iterable[Job], processes: int, tell: Tell) -> Iterator[tuple[Job, Outcome]]:
    """Do every job and yield it with its outcome, in the order in which they end.

    Args:
        jobs: taken one by one, when there is a process for the next; so it may compute something in between.
        processes: how many at a time; 1 works in this process, with the same outcome.
        tell: called in this process with every report of progress.

    Raises:
        TrainingError: if a job fails or its process dies; the others are stopped.
    """
    if processes > 1:
        yield from _spread(iter(jobs), processes, tell)
        return
    for job in jobs:
        try:
            outcome = run(job, lambda step, score, share, job=job: tell(job, step, score, share))
        except Exception as error:
            raise _failed(job, repr(error)) from error
        yield job, outcome


def _spread(jobs: Iterator[Job], processes: int, tell: Tell) -> Iterator[tuple[Job, Outcome]]:
    context = multiprocessing.get_context("spawn")
    workers: list[Any] = []
    idle: list[Connection] = []
    busy: dict[Connection, Job] = {}
    try:
        for _ in range(processes):
            ours, theirs = context.Pipe()
            worker = context.Process(target=_work, args=(theirs,), daemon=True)
            with _without_interrupts():
                worker.start()
            theirs.close()  # so that ours closes when the process dies
            workers.append(worker)
            idle.append(ours)
        more = True
        while True:
            while more and idle:
                job = next(jobs, None)
                if job is None:
                    more = False
                    break
                connection = idle.pop()
                busy[connection] = job
                with _alive(job):
                    connection.send(job)
            if not busy:
                return
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                job = busy[connection]
                with _alive(job):
                    kind, found = connection.recv()
                if kind == "told":
                    tell(job, *found)
                elif kind == "failed":
                    error = _failed(job, found[0])
                    error.add_note(found[1])  # where it was, there
                    raise error
                else:
                    del busy[connection]
                    idle.append(connection)
                    yield job, found
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()


@contextmanager
def _alive(job: Job) -> Iterator[None]:
    """For sending to a process and receiving from it: a pipe that breaks is a process that died."""
    try:
        yield
    except (EOFError, OSError):
        raise _failed(job, "its process died") from None


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Inside, Ctrl-C waits, and a process that is started never receives it: a terminal sends it to all of them, but the parent
    ends the others. To ignore it in the process itself would come too late: it may arrive while that still imports torch.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # it is started by the first process otherwise, and takes the mask away
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(connection: Connection) -> None:
    """What a process does: one job after another, until there is nobody to tell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where there is no mask to inherit
    import torch

    from openlstm.engine.threads import set_num_threads

    torch.set_num_threads(1)
    set_num_threads(1)
    try:
        while True:
            job = connection.recv()
            try:
                answer = ("done", run(job, lambda *found: connection.send(("told", found))))
            except (EOFError, BrokenPipeError):
                return
            except Exception as error:
                answer = ("failed", (repr(error), traceback.format_exc()))
            connection.send(answer)
    except (EOFError, OSError):
        return


def _failed(job: Job, why: str) -> OpenLSTMError:
    what = f"arm {job.arm!r}, seed {job.seed} failed"
    hint = f"openlstm lab {job.task} --arms {job.arm} --seed {job.seed} --jobs 1 runs it alone"
    return TrainingError.of(f"lab {job.task}", what, why, "a score", hint)
