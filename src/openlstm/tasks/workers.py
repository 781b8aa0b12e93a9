"""Processes of Ray, on this machine or a cluster: started or found, given jobs, ended; a job whose worker died is run again."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

from openlstm import __version__
from openlstm.engine.threads import set_num_threads
from openlstm.errors import ArgumentError, BackendError, OpenLSTMError, missing_extra

EACH = 4
"""Partitions for each processor, so that none waits long for the last."""

AGAIN = 3
"""So many times a part is run again whose worker died."""

PATIENCE = 10.0
"""Seconds in which the address of a cluster has to answer."""

SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0"}
IMPATIENT = {
    "RAY_NUM_REDIS_GET_RETRIES": "10",
    "RAY_CLIENT_INITIAL_CONNECTION_TIMEOUT_S": "3",
    "RAY_CLIENT_MAX_CONNECTION_TIMEOUT_S": "4",
}
"""Of Ray, where the environment says nothing else; the second with an address, at which Ray tries for two minutes otherwise."""

ADDRESS = r"auto|(?:ray://)?([^/:\[\]]+|\[[0-9a-fA-F:]+\]):(\d{1,5})"
CLUSTER = "start one with `ray start --head`; --address HOST:6379 from one of its machines, ray://HOST:10001 from any other"

Job = TypeVar("Job")
Result = TypeVar("Result")


class Engine(NamedTuple):
    """Where partitions are worked on: the address of a cluster, None for this machine; how many there are, None for as fits."""

    address: str | None = None
    partitions: int | None = None


def engine_of(engine: str | None, address: str | None, partitions: int | None) -> Engine | None:
    """What the options --engine, --address and --partitions ask for; None for this process.

    Raises:
        ArgumentError: for another engine, an address or a number of partitions without Ray, or an address that is none.

    >>> engine_of("ray", None, 8)
    Engine(address=None, partitions=8)
    """
    if engine not in (None, "local", "ray"):
        expected, hint = "local or ray", "leave it out for one process"
        raise ArgumentError.of("--engine", "there is no such engine", repr(engine), expected, hint)
    for option, value in (("--address", address), ("--partitions", partitions)):
        if value is not None and engine != "ray":
            hint = f"add --engine ray, or leave {option} out"
            raise ArgumentError.of(option, "means something to Ray alone", f"{option} {value}", "--engine ray beside it", hint)
    if address is not None and re.fullmatch(ADDRESS, address) is None:
        expected = "HOST:PORT, ray://HOST:PORT, or auto for the cluster on this machine"
        raise ArgumentError.of("--address", "is no address of a cluster", repr(address), expected, CLUSTER)
    return Engine(address, partitions) if engine == "ray" else None


class Workers:
    """Processes of Ray, on so many processors; `partitions` as asked for, or as many as suit them."""

    def __init__(self, ray: Any, engine: Engine) -> None:
        self.ray, self.processors = ray, max(int(ray.cluster_resources().get("CPU", 1)), 1)
        self.partitions = engine.partitions or EACH * self.processors

    def map(self, call: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """The results of the jobs in their order; a few jobs for each processor are taken and given out ahead.

        Raises:
            OpenLSTMError: what `call` raises, as it is; a `BackendError` if a worker dies again and again.
        """
        run = self.ray.remote(num_cpus=1, max_retries=AGAIN)(_run)
        shared, waiting = self.ray.put(call), deque()
        try:
            for job in jobs:
                waiting.append(run.remote(shared, job))
                if len(waiting) > EACH * self.processors:
                    yield self._wait(waiting.popleft())
            while waiting:
                yield self._wait(waiting.popleft())
        finally:
            for left in waiting:
                with suppress(self.ray.exceptions.RayError, ConnectionError):
                    self.ray.cancel(left, force=True)

    def _wait(self, task: Any) -> Any:
        errors = self.ray.exceptions
        try:
            return self.ray.get(task)
        except errors.RayTaskError as e:
            if isinstance(e.cause, (OpenLSTMError, OSError, ImportError, MemoryError)):
                raise e.cause from None
            raise
        except errors.RayError as e:
            what, expected = f"the worker of a part died {AGAIN + 1} times", "a worker that lives to the end of its part"
            hint = "more --partitions need less memory each; the logs of Ray, in /tmp/ray unless told otherwise, say more"
            raise BackendError.of("--engine ray", what, _first_line(e), expected, hint) from None


def _run(call: Callable[[Job], Result], job: Job) -> Result:
    """One job in a worker, which shares the processors with others."""
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    set_num_threads(1)
    return call(job)


@contextmanager
def workers(engine: Engine) -> Iterator[Workers]:
    """Processes of Ray: of a cluster, or of this machine, where they end with the block. A Ray that runs here already is used.

    Raises:
        MissingExtraError: without Ray.
        ArgumentError: if no Ray answers at the address, or one with another openlstm.
        BackendError: if Ray does not start.
    """
    for name, value in (SETTINGS | (IMPATIENT if engine.address else {})).items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise missing_extra("--engine ray", "ray", "ray") from None
    if ray.is_initialized():
        yield Workers(ray, engine)
        return
    told: list[int] = []

    def leave(number: int, _: Any) -> None:
        told.append(number)
        raise KeyboardInterrupt  # Ray makes another exit status of a SystemExit

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, leave) if main else None
    try:
        with _undisturbed(wait=engine.address is None):
            _start(ray, engine.address)
        yield Workers(ray, engine)
    except KeyboardInterrupt:
        if told:
            sys.exit(128 + told[0])
        raise
    finally:
        with _undisturbed():
            ray.shutdown()
        if main:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _undisturbed(wait: bool = True) -> Iterator[None]:
    """While Ray starts or ends. It takes no signal for itself, and Ctrl-C and SIGTERM wait: processes would be left behind.

    Args:
        wait: whether signals wait, too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    noted: list[int] = []
    change, numbers = signal.signal, (signal.SIGINT, signal.SIGTERM) if wait else ()
    before = {number: change(number, lambda number, _: noted.append(number)) for number in numbers}
    signal.signal = lambda number, _: signal.getsignal(number)  # Ray asks for nothing before it takes SIGTERM
    try:
        yield
    finally:
        signal.signal = change
        for number, handler in before.items():
            change(number, handler)
    if noted:
        signal.raise_signal(noted[0])


def _start(ray: Any, address: str | None) -> None:
    """Start Ray on this machine, or connect to a cluster."""
    if address is not None and address != "auto":
        _call(address)
    # linear algebra in a training rounds by its number of threads: as many as in this process
    processors = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(processors)}
    try:
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": environment},
        )
    except Exception as e:  # of any kind, as it comes
        if address is None:
            expected, hint = "processes of Ray on this machine", "leave out --engine ray; /tmp/ray holds the logs"
            raise BackendError.of("--engine ray", "Ray does not start", _first_line(e), expected, hint) from None
        hint = f"{CLUSTER}; RAY_AUTH_MODE=token where it asks for a token"
        raise ArgumentError.of(
            f"--address {address}", "no cluster takes us in", _first_line(e), "a running one", hint
        ) from None
    if address is not None:
        _refuse_other(ray, address)


def _call(address: str) -> None:
    """Refuse an address at which nothing speaks HTTP/2, as Ray does; Ray itself would try for minutes."""
    host, port = re.fullmatch(ADDRESS, address).groups()  # type: ignore[union-attr]
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE) as line:
            line.settimeout(PATIENCE)
            line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))  # and no settings
            answer = "" if os.environ.get("RAY_USE_TLS", "0") != "0" or line.recv(9)[3:4] == b"\4" else "another kind of server"
    except TimeoutError:
        answer = f"nothing in {PATIENCE:g} seconds"
    except OSError as e:
        answer = e.strerror or str(e)
    if answer:
        raise ArgumentError.of(f"--address {address}", "no Ray answers there", answer, "the head of a running cluster", CLUSTER)


def _refuse_other(ray: Any, address: str) -> None:
    """Refuse a cluster whose workers have another openlstm, or none."""

    def look() -> str | None:  # within this function, so that a worker needs no openlstm to run it
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("openlstm")
        except PackageNotFoundError:
            return None

    found = ray.get(ray.remote(look).remote())
    if found != __version__:
        what, got = "the workers of the cluster have another openlstm", f"openlstm {found}" if found else "none"
        hint = f"pip install openlstm=={__version__} on its machines"
        raise ArgumentError.of(f"--address {address}", what, got, f"openlstm {__version__}, as here", hint)


def _first_line(error: BaseException) -> str:
    """What an error of Ray says, without the pages that follow."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
