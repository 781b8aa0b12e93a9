"""Jobs over processes: the same numbers for every number of them, and every way in which one can end is said."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from openlstm import lab
from openlstm.errors import TrainingError
from openlstm.lab.jobs import each
from openlstm.lab.trial import Job

ARMS = ["rnn-identity", "gru", "lstm-1997"]


def jobs(*arms: str, steps: int = 3, **options) -> list[Job]:
    return [Job("latch", 4, arm, 0, steps=steps, **options) for arm in arms]


@pytest.mark.slow
def test_the_numbers_do_not_depend_on_the_number_of_jobs() -> None:
    options = {"seeds": 2, "steps": 25, "arms": ARMS, "hidden": 9}
    alone, three = (lab.run("temporal-order", 20, **options, jobs=n) for n in (1, 3))
    assert alone.rows == three.rows


def test_the_numbers_do_not_depend_on_torchs_threads() -> None:
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 3):
            torch.set_num_threads(n)
            results.append(lab.run("adding", 30, seeds=1, steps=21, arms=["lstm"]))
            assert torch.get_num_threads() == n
    finally:
        torch.set_num_threads(threads)
    assert results[0].rows == results[1].rows


@pytest.mark.slow
def test_every_job_reports_and_ends_once() -> None:
    told: list[tuple[str, int]] = []
    done = [job.arm for job, _ in each(jobs(*ARMS, steps=40), 2, lambda job, step, *_: told.append((job.arm, step)))]
    assert sorted(done) == sorted(ARMS)
    assert sorted(told) == sorted((arm, step) for arm in ARMS for step in (0, 20, 40))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_job_that_fails_says_which(processes: int) -> None:
    with pytest.raises(TrainingError) as error:
        list(each(jobs("rnn", "nonsense"), processes, lambda *_: None))
    assert str(error.value) == (
        "lab latch: arm 'nonsense', seed 0 failed\n  got       KeyError('nonsense')\n  expected  a score\n"
        "  hint      openlstm lab latch --arms nonsense --seed 0 --jobs 1 runs it alone"
    )
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_process_that_dies_is_named_by_its_arm() -> None:
    def kill(job: Job, *_: object) -> None:
        for child in multiprocessing.active_children():
            child.kill()

    with pytest.raises(TrainingError, match="arm 'gru', seed 0 failed\n  got       its process died"):
        list(each(jobs("gru", steps=10_000_000), 2, kill))
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_process_that_dies_before_it_hears_of_a_job_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    spawn = multiprocessing.get_context("spawn")

    class Broken:
        def send(self, _: object) -> None:
            raise ConnectionResetError(104, "Connection reset by peer")

    class Context:
        Pipe = staticmethod(lambda: (Broken(), spawn.Pipe()[1]))
        Process = staticmethod(spawn.Process)

    monkeypatch.setattr(multiprocessing, "get_context", lambda _: Context)
    monkeypatch.setattr("openlstm.lab.jobs._work", print)
    with pytest.raises(TrainingError, match="its process died"):
        list(each(jobs("gru"), 2, lambda *_: None))


def test_leaving_in_the_middle_leaves_no_process_behind() -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(each(jobs(*ARMS, steps=10_000_000), 2, stop))
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_ctrl_c_on_a_terminal_ends_everything(tmp_path) -> None:
    """A terminal sends the signal to every process of the group; the command says that it stopped, and nothing goes on."""
    code = "import sys; from openlstm.cli import main; sys.exit(main())"
    command = [
        sys.executable,
        "-c",
        code,
        "lab",
        "latch",
        "--lag",
        "4",
        "--steps",
        "100000000",
        "--arms",
        "rnn,gru",
        "--jobs",
        "2",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=tmp_path
    ) as run:
        group = os.getpgid(run.pid)
        try:
            while run.poll() is None and _busy(group) < 3:  # the parent and two that learn
                time.sleep(0.2)
            time.sleep(1)
            os.killpg(group, signal.SIGINT)
            out, err = run.communicate()
        finally:
            run.kill()  # where the test itself was ended
    assert (run.returncode, out) == (130, "")
    assert "stopped" in err and "Traceback" not in err
    assert _busy(group) == 0


def _busy(group: int) -> int:
    """Processes of a group that have loaded torch."""
    count = 0
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.getpgid(int(name)) == group:
                with open(f"/proc/{name}/maps") as maps:
                    count += "libtorch_cpu" in maps.read()
        except OSError:
            continue
    return count


@pytest.mark.slow
def test_json_is_one_object_with_what_was_promised(capsys: pytest.CaptureFixture[str]) -> None:
    from openlstm.cli import main

    command = "lab recall --lag 5 --steps 20 --seeds 2 --arms rnn-orthogonal,lstm --jobs 2 --json --quiet"
    assert main(command.split()) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert err == "" and [arm["name"] for arm in found["arms"]] == ["rnn-orthogonal", "lstm"]
    assert all(len(arm["scores"]) == 2 and {"reaches_before", "mean"} <= set(arm) for arm in found["arms"])
    assert found["advice"] == []
