"""Checkpoints: what goes on has the bits of what was never stopped, whatever stopped it, and the one before is always whole."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.train import kills
from tests.train.kills import OPTIONS, Carrying, digest, examples, network, run

from openlstm.errors import ArgumentError, CheckpointError
from openlstm.train import Options, Step, train
from openlstm.train.checkpoint import FORMAT, Checkpoints, expect_same, pack, unpack

ABOUT = {"a": 1, "network": {"hidden_size": 6}}


def learn(checkpoints: Checkpoints | None, each_step: list[Callable[[Step], None]], options: Options = OPTIONS) -> str:
    model, data = network(), examples()
    saved = None if checkpoints is None else (checkpoints, "one")
    train(model, Carrying(), data, [p[:16] for p in data], options, each_step=each_step, checkpoints=saved)
    return digest(model)


def raising(number: int, at: int) -> Callable[[Step], None]:
    return lambda step: signal.raise_signal(number) if step.number == at else None


@pytest.fixture(scope="module")
def undisturbed() -> str:
    return learn(None, [])


@pytest.mark.parametrize(
    ("number", "ends"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (1, SystemExit)]
)
@pytest.mark.parametrize("at", [0, 19, 33])  # the first step, the last of an epoch, one in the middle
def test_a_training_that_a_signal_stops_goes_on_with_the_same_bits(
    number: int, ends: type[BaseException], at: int, tmp_path: Path, undisturbed: str
) -> None:
    told: list[str] = []
    checkpoints = Checkpoints(tmp_path / "saved", ABOUT, say=told.append)
    with pytest.raises(ends) as e:
        learn(checkpoints, [raising(number, at)])
    assert ends is KeyboardInterrupt or e.value.code == 128 + number  # type: ignore[union-attr]
    folder = tmp_path / "saved"
    assert told == [f"stopped at step {at + 1}, saved in {folder}; the same command with --resume goes on"]
    assert len(list(folder.iterdir())) == 1
    checkpoints.close()
    seen: list[int] = []
    again = Checkpoints(folder, ABOUT, resume=True)
    assert learn(again, [lambda step: seen.append(step.number)]) == undisturbed
    assert seen == list(range(at + 1, 60))
    again.finish()
    assert not folder.exists()


def test_a_second_signal_is_obeyed_at_once(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "saved", ABOUT)
    with pytest.raises(KeyboardInterrupt):
        learn(checkpoints, [raising(signal.SIGTERM, 3), raising(signal.SIGINT, 3)])
    assert not list((tmp_path / "saved").iterdir())


def test_handlers_and_random_states_are_what_they_were(tmp_path: Path) -> None:
    before, drawn = signal.getsignal(signal.SIGTERM), (torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"])
    with pytest.raises(KeyboardInterrupt):
        learn(Checkpoints(tmp_path / "saved", ABOUT), [raising(signal.SIGINT, 3)])
    assert signal.getsignal(signal.SIGTERM) is before
    after = (torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"])
    assert (drawn[0] == after[0]).all() and (drawn[1] == after[1]).all()


def test_a_signal_that_a_program_handles_itself_reaches_it_after_the_save(tmp_path: Path) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with pytest.raises(SystemExit) as e:
            learn(Checkpoints(tmp_path / "saved", ABOUT), [raising(signal.SIGTERM, 3)])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM] and e.value.code == 143 and list((tmp_path / "saved").iterdir())


def test_a_signal_in_validation_ends_it_and_it_is_begun_again(tmp_path: Path, undisturbed: str) -> None:
    class Stopping(Carrying):
        def __call__(self, model: Any, x: Any, y: Any) -> Any:
            if not model.training:
                signal.raise_signal(signal.SIGTERM)
            return super().__call__(model, x, y)

    model, data = network(), examples()
    with pytest.raises(SystemExit):
        saved = Checkpoints(tmp_path / "saved", ABOUT)
        train(model, Stopping(), data, [p[:16] for p in data], OPTIONS, checkpoints=(saved, "one"))
    saved.close()
    assert learn(Checkpoints(tmp_path / "saved", ABOUT, resume=True), []) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("times", [5, pytest.param(100, marks=pytest.mark.long)])
def test_a_training_that_is_killed_at_random_instants_ends_with_the_same_bits(
    times: int, tmp_path: Path, undisturbed: str
) -> None:
    command = [sys.executable, kills.__file__, str(tmp_path), str(times), "7"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [undisturbed]
    assert "damaged" not in done.stderr


def test_two_checkpoints_are_kept_and_a_damaged_one_is_passed_over(tmp_path: Path, undisturbed: str) -> None:
    folder, told = tmp_path / "saved", list[str]()
    checkpoints = Checkpoints(folder, ABOUT, every=0.0)
    with pytest.raises(KeyboardInterrupt):
        learn(checkpoints, [raising(signal.SIGINT, 10)])
    checkpoints.close()
    old, new = sorted(folder.iterdir())
    data = bytearray(new.read_bytes())
    data[len(data) // 2] ^= 1
    new.write_bytes(data)
    again, seen = Checkpoints(folder, ABOUT, resume=True, say=told.append), list[int]()
    assert told == [f"warning: {new}: is damaged; taking the one before"]
    assert learn(again, [lambda step: seen.append(step.number)]) == undisturbed and seen[0] == 10
    again.close()
    for file in (old, new):
        file.write_bytes(data)
    with pytest.raises(CheckpointError) as e:
        Checkpoints(folder, ABOUT, resume=True, say=told.append)
    assert str(e.value) == (
        f"{folder}: holds no checkpoint that is whole\n  got       2 damaged files\n  expected  a whole checkpoint\n"
        f"  hint      remove {folder}, and begin again"
    )


def test_every_shorter_file_and_every_flipped_bit_is_damage() -> None:
    whole = pack({"x": torch.arange(5), "y": [1, (2.5, None)], "z": {1: "a"}})
    assert unpack(whole, "it")["y"] == [1, (2.5, None)]
    for n in range(len(whole)):
        with pytest.raises(CheckpointError):
            unpack(whole[:n], "it")
        with pytest.raises(CheckpointError):
            unpack(whole[:n] + bytes([whole[n] ^ 4]) + whole[n + 1 :], "it")


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**130), 2**130) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
)


@given(PLAIN)
def test_what_is_packed_comes_back(value: Any) -> None:
    found = unpack(pack(value), "it")
    assert found == value and type(found) is type(value)


def test_arrays_and_tensors_come_back_with_their_bits() -> None:
    state = {"a": np.arange(6.0).reshape(2, 3).T, "t": torch.tensor(float("nan")), "n": np.random.get_state(legacy=False)}
    found = unpack(pack(state), "it")
    assert found["a"].tobytes() == state["a"].tobytes() and found["t"].isnan() and found["t"].shape == ()
    assert (found["n"]["state"]["key"] == state["n"]["state"]["key"]).all()


def test_a_checkpoint_of_something_else_is_refused_with_this_text(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    checkpoints = Checkpoints(folder, ABOUT)
    with pytest.raises(CheckpointError) as e:
        Checkpoints(folder, ABOUT, resume=True)
    assert str(e.value) == (
        f"{folder}: is used by another training\n  got       a lock of another process\n  expected  a folder of its own\n"
        "  hint      wait until it has ended, or name another output"
    )
    with pytest.raises(KeyboardInterrupt):
        learn(checkpoints, [raising(signal.SIGINT, 3)])
    checkpoints.close()
    with pytest.raises(CheckpointError) as e:
        Checkpoints(folder, ABOUT)
    assert str(e.value) == (
        f"{folder}: holds the checkpoints of a training that was stopped\n  got       1 checkpoint\n"
        f"  expected  an empty folder\n  hint      go on with it by --resume (resume=True), or remove {folder}"
    )
    with pytest.raises(CheckpointError) as e:
        Checkpoints(folder, {"a": 1, "network": {"hidden_size": 7}}, resume=True)
    assert str(e.value) == (
        f"{folder}/000001.checkpoint: is of another training: network.hidden_size differs\n  got       6\n  expected  7\n"
        "  hint      give the same data and options, or remove it and begin again"
    )
    file = folder / "000001.checkpoint"
    file.write_bytes(file.read_bytes().replace(FORMAT, b"openlstm checkpoint 9\n"))
    with pytest.raises(CheckpointError) as e:
        Checkpoints(folder, ABOUT, resume=True, say=lambda text: None)
    assert "holds no checkpoint that is whole" in str(e.value)
    with pytest.raises(CheckpointError) as e:
        unpack(file.read_bytes(), "it")
    assert str(e.value) == (
        "it: is of another version of openlstm\n  got       openlstm checkpoint 9\n  expected  openlstm checkpoint 1\n"
        "  hint      begin again, or go on with the version of openlstm that wrote it"
    )


@given(PLAIN, PLAIN)
def test_what_differs_is_named(a: Any, b: Any) -> None:
    expect_same("it", {"x": a}, {"x": a})
    if a != b and not (isinstance(a, dict) and isinstance(b, dict)):
        with pytest.raises(CheckpointError, match="x differs"):
            expect_same("it", {"x": a}, {"x": b})


def test_resuming_without_a_checkpoint_begins(tmp_path: Path, undisturbed: str) -> None:
    assert run(tmp_path / "saved") == undisturbed


def test_a_disk_that_is_full_stops_nothing_and_the_checkpoint_before_stays(tmp_path: Path, undisturbed: str) -> None:
    folder, told = tmp_path / "saved", list[str]()
    checkpoints = Checkpoints(folder, ABOUT, every=0.0, say=told.append)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step: Step) -> None:  # from step 10 on no file may grow beyond 300 bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (300 if step.number >= 10 else limits[0], limits[1]))

    try:
        assert learn(checkpoints, [fill]) == undisturbed
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert told == [f"warning: no checkpoint could be written ({folder}: File too large); the training goes on"]
    assert [file.name for file in sorted(folder.iterdir())] == ["000009.checkpoint", "000010.checkpoint"]
    checkpoints.close()
    seen: list[int] = []
    assert learn(Checkpoints(folder, ABOUT, resume=True), [lambda step: seen.append(step.number)]) == undisturbed
    assert seen[0] == 10


@pytest.mark.parametrize("signals", [1, 2])
def test_a_signal_inside_a_write_leaves_whole_checkpoints(
    signals: int, tmp_path: Path, undisturbed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, writes = tmp_path / "saved", 0
    synced = os.fsync

    def sync(file: int) -> None:
        nonlocal writes
        writes += 1
        for _ in range(signals if writes == 5 else 0):  # the second one ends the process inside the write
            signal.raise_signal(signal.SIGINT)
        synced(file)

    checkpoints = Checkpoints(folder, ABOUT, every=0.0, say=lambda text: None)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("openlstm._files.os.fsync", sync)  # of the file and of its folder: the third write
        learn(checkpoints, [])
    checkpoints.close()
    assert [file.name for file in sorted(folder.iterdir())] == (
        ["000003.checkpoint", "000004.checkpoint"] if signals == 1 else ["000001.checkpoint", "000002.checkpoint"]
    )
    assert learn(Checkpoints(folder, ABOUT, resume=True), []) == undisturbed


def test_a_folder_that_cannot_be_written_is_refused_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError) as e:
        Checkpoints(tmp_path / "not there" / "saved", ABOUT)
    assert "its folder does not exist" in str(e.value)
    (tmp_path / "file").touch()
    with pytest.raises(ArgumentError):
        Checkpoints(tmp_path / "file", ABOUT)
