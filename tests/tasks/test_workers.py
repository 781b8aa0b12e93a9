"""Processes of Ray: what is asked of them word by word, jobs in their order, lost workers, addresses, signals."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from openlstm.errors import ArgumentError, BackendError, DataError, MissingExtraError, OpenLSTMError
from openlstm.tasks import workers as place
from openlstm.tasks.workers import Engine, engine_of, workers

CLUSTER = "start one with `ray start --head`; --address HOST:6379 from one of its machines, ray://HOST:10001 from any other"


@contextmanager
def fails(kind: type[OpenLSTMError], text: str) -> Iterator[None]:
    with pytest.raises(kind) as e:
        yield
    assert str(e.value) == text


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            ("spark", None, None),
            "--engine: there is no such engine\n  got       'spark'\n  expected  local or ray\n"
            "  hint      leave it out for one process",
        ),
        (
            (None, "head:6379", None),
            "--address: means something to Ray alone\n  got       --address head:6379\n  expected  --engine ray beside it\n"
            "  hint      add --engine ray, or leave --address out",
        ),
        (
            ("local", None, 4),
            "--partitions: means something to Ray alone\n  got       --partitions 4\n  expected  --engine ray beside it\n"
            "  hint      add --engine ray, or leave --partitions out",
        ),
        (
            ("ray", "http://head", None),
            "--address: is no address of a cluster\n  got       'http://head'\n"
            f"  expected  HOST:PORT, ray://HOST:PORT, or auto for the cluster on this machine\n  hint      {CLUSTER}",
        ),
    ],
)
def test_options_that_mean_nothing_are_refused(given: tuple[Any, Any, Any], text: str) -> None:
    with fails(ArgumentError, text):
        engine_of(*given)
    assert engine_of(None, None, None) is engine_of("local", None, None) is None
    assert engine_of("ray", "ray://[::1]:10001", 3) == Engine("ray://[::1]:10001", 3)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"^--engine ray: needs the package ray(.|\n)*\[ray\]'$"), workers(Engine()):
        pass


def no_ray(address: str, got: str) -> str:
    return (
        f"--address {address}: no Ray answers there\n  got       {got}\n"
        f"  expected  the head of a running cluster\n  hint      {CLUSTER}"
    )


@contextmanager
def server(answer: bytes | None) -> Iterator[str]:
    """The address of one that gives this answer to whatever it is told; that says nothing if None."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def serve() -> None:
            line, _ = listening.accept()
            with closing(line), suppress(ConnectionError):
                line.recv(100)
                if answer is not None:
                    line.sendall(answer)
                line.recv(100)  # until the other end hangs up

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_that_does_not_answer_is_refused_in_its_words(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="asks for a cluster of Ray")
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        nobody = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"
    with fails(ArgumentError, no_ray(nobody, os.strerror(errno.ECONNREFUSED))):
        with workers(Engine(nobody)):
            pass
    with server(b"HTTP/1.0 400 Bad Request\r\n\r\n") as address:
        with fails(ArgumentError, no_ray(scheme + address, "another kind of server")), workers(Engine(scheme + address)):
            pass
    monkeypatch.setattr(place, "PATIENCE", 0.2)
    with server(None) as address:
        with fails(ArgumentError, no_ray(scheme + address, "nothing in 0.2 seconds")), workers(Engine(scheme + address)):
            pass


@pytest.fixture(scope="module")
def ray() -> Iterator[place.Workers]:
    pytest.importorskip("ray", reason="runs jobs in processes of Ray")
    with workers(Engine(partitions=4)) as started:
        yield started


@pytest.mark.slow
def test_results_come_in_the_order_of_the_jobs_however_long_each_takes(ray: place.Workers) -> None:
    taken: list[int] = []

    def jobs() -> Iterator[int]:
        for k in range(30):
            taken.append(k)
            yield k

    def run(k: int) -> tuple[int, str | None]:
        time.sleep(0.02 if k % 3 == 0 else 0.0)
        return k, os.environ.get("OMP_NUM_THREADS")

    found = ray.map(run, jobs())
    assert next(found) == (0, os.environ["OMP_NUM_THREADS"])
    assert len(taken) == place.EACH * ray.processors + 1  # no more than that is handed out ahead
    assert [k for k, _ in found] == list(range(1, 30))


@pytest.mark.slow
def test_an_error_of_a_job_is_the_error_here(ray: place.Workers) -> None:
    def refuse(_: int) -> None:
        raise DataError.of("a.parquet", "cannot be read", "nothing", "rows", "look")

    with fails(DataError, "a.parquet: cannot be read\n  got       nothing\n  expected  rows\n  hint      look"):
        list(ray.map(refuse, [1]))


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_so_many_times(
    ray: place.Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(times: int) -> int:
        lives = len(list(tmp_path.iterdir()))
        (tmp_path / str(lives)).touch()
        if lives < times:
            os.kill(os.getpid(), signal.SIGKILL)
        return lives

    monkeypatch.setattr(place, "AGAIN", 1)
    assert list(ray.map(die, [1])) == [1]
    with pytest.raises(BackendError) as e:
        list(ray.map(die, [9]))
    who, got, expected, hint = str(e.value).splitlines()
    assert who == "--engine ray: the worker of a part died 2 times"
    assert got.startswith("  got       The worker died unexpectedly")
    assert expected == "  expected  a worker that lives to the end of its part"
    assert hint.startswith("  hint      more --partitions need less memory each; the logs of Ray, in /tmp/ray unless")


@pytest.mark.slow
def test_a_cluster_is_reached_by_its_address_and_left_running(ray: place.Workers) -> None:
    """From another process; the cluster is the Ray of these tests."""
    address = ray.ray.get_runtime_context().gcs_address
    code = f"""
from openlstm.tasks.workers import Engine, workers
with workers(Engine({address!r}, 2)) as ray:
    print(list(ray.map(abs, [-1, -2])), ray.ray.get_runtime_context().gcs_address)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"[1, 2] {address}\n"), done.stderr
    assert list(ray.map(abs, [-3])) == [3]


STOPPED = """
import sys, time
from openlstm.tasks.workers import Engine, workers
def work(mark):
    open(mark, "w").close()
    time.sleep(600)
with workers(Engine()) as ray:
    list(ray.map(work, [sys.argv[1]]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes as Linux shows them")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, -2, marks=pytest.mark.long)])
@pytest.mark.parametrize("when", ["at work", pytest.param("at the start", marks=pytest.mark.long)])
def test_a_signal_ends_it_and_no_process_is_left(number: signal.Signals, status: int, when: str, tmp_path: Path) -> None:
    """At the start means as soon as Ray has a process of its own."""
    pytest.importorskip("ray", reason="starts processes of Ray")
    given = [sys.executable, "-c", STOPPED, str(tmp_path / "mark")]
    with subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        known = psutil.Process(run.pid)
        while run.poll() is None and not ((tmp_path / "mark").exists() if when == "at work" else known.children()):
            time.sleep(0.02)
        begun = known.children(recursive=True)
        assert begun
        run.send_signal(number)
        _, told = run.communicate()
    assert run.returncode == status, told
    _, alive = psutil.wait_procs(begun, timeout=15)
    assert alive == []
