"""Checkpoints: the last two states of one or several trainings in a folder, each written whole or not at all.

A file is a line that names the format, the sha256 of all that follows, and safetensors: the tensors, and in the metadata
everything else as JSON. docs/design/training.md says what is in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from openlstm._files import locked, writable, write_whole
from openlstm._terminal import tell
from openlstm.errors import ArgumentError, CheckpointError

FORMAT = b"openlstm checkpoint 1\n"
SUFFIX = ".checkpoint"
KEPT = 2
EVERY = 30.0
"""Seconds from one checkpoint to the next."""


class Stateful(Protocol):
    """What has a state beside the weights: a log, a loss that carries (h, c) from step to step."""

    def state_dict(self) -> dict[str, Any]:
        """The state, of plain values and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Take it back."""
        ...


class Checkpoints:
    """A folder in which trainings save themselves, one after the other, and from which they go on.

    Args:
        folder: made if need be; its parent has to be there. It is gone again when `finish` is called.
        about: what the trainings belong to, as plain values: data, sizes, options, versions. What goes on has to say the same.
        resume: go on from the newest checkpoint whose checksum fits; without one, begin.
        every: seconds from one checkpoint to the next; 0 for one after each step.
        keep: what else is saved and taken back, by name.
        writes: whether this process writes; of several, the first does.
        say: what is told is given to this.

    Raises:
        CheckpointError: if there are checkpoints already and `resume` is False; if all of them are damaged, or of another
            training; if another process has the folder.
        ArgumentError: if the folder cannot be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        about: Mapping[str, Any],
        *,
        resume: bool = False,
        every: float = EVERY,
        keep: Mapping[str, Stateful] | None = None,
        writes: bool = True,
        say: Callable[[str], None] = lambda text: tell([text]),
    ) -> None:
        self.folder, self.about, self.every, self.say = Path(folder), json.loads(json.dumps(dict(about))), every, say
        self.keep, self.writes = dict(keep or {}), writes
        self.trainings: dict[str, Any] = {}  # the state of each, by its name
        self.failed = False
        self.number = 0
        if writes:
            if not self.folder.is_dir():
                if self.folder.exists():
                    what, hint = "is a file", "choose another place for the checkpoints"
                    raise ArgumentError.of(str(self.folder), what, str(self.folder), "a folder, or nothing there", hint)
                writable(self.folder)
                self.folder.mkdir()
            writable(self._path(1))
        self._lock = self._locked() if writes else None
        try:
            self._open(resume)
        except BaseException:
            self.close()
            raise
        self.written = time.monotonic()

    def _open(self, resume: bool) -> None:
        there = self._there()
        if there and not resume:
            what, got = (
                "holds the checkpoints of a training that was stopped",
                f"{len(there)} checkpoint{'s' * (len(there) > 1)}",
            )
            hint = f"go on with it by --resume (resume=True), or remove {self.folder}"
            raise CheckpointError.of(str(self.folder), what, got, "an empty folder", hint)
        self.number = int(there[-1].stem) if there else 0
        if there:
            self._resume(there)
        elif self.keep and self.writes:
            self._write()  # so that a log that was begun is known

    def found(self, name: str) -> dict[str, Any] | None:
        """The state of a training, as `put` was given it; None of one that had not begun."""
        return self.trainings.get(name)

    @property
    def due(self) -> bool:
        """Whether the last checkpoint is old enough for another one."""
        return self.writes and time.monotonic() - self.written >= self.every

    def put(self, name: str, state: dict[str, Any], *, now: bool = False) -> bool:
        """Take the state of a training, and write a checkpoint if one is due; False if it could not be written.

        That is said once, and the checkpoints before stay as they are.

        Args:
            now: write it, due or not.
        """
        self.trainings[name] = state
        if not self.writes or not (now or self.due):
            return True
        self.written = time.monotonic()
        try:
            self._write()
        except OSError as e:
            if not self.failed:
                why = e.strerror or str(e)
                self.say(f"warning: no checkpoint could be written ({self.folder}: {why}); the training goes on")
            self.failed = True
            return False
        self.failed = False
        return True

    def _write(self) -> None:
        kept = {name: one.state_dict() for name, one in self.keep.items()}
        self.folder.mkdir(exist_ok=True)
        write_whole(self._path(self.number + 1), pack({"about": self.about, "trainings": self.trainings, "keep": kept}))
        self.number += 1
        for old in self._there()[:-KEPT]:
            old.unlink(missing_ok=True)

    def finish(self) -> None:
        """Remove the checkpoints: all that was trained is kept elsewhere."""
        for file in self._there() if self.writes else ():
            file.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let another process have the folder; an empty one goes."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if self.writes:
            with suppress(OSError):  # something lies in it, or it is gone
                self.folder.rmdir()

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06}{SUFFIX}"

    def _there(self) -> list[Path]:
        return sorted((p for p in self.folder.glob(f"*{SUFFIX}") if p.stem.isdecimal()), key=lambda p: int(p.stem))

    def _locked(self) -> int:
        lock = locked(self.folder)
        if lock is None:
            what, hint = "is used by another training", "wait until it has ended, or name another output"
            raise CheckpointError.of(str(self.folder), what, "a lock of another process", "a folder of its own", hint)
        return lock

    def _resume(self, there: list[Path]) -> None:
        for file in reversed(there):
            try:
                state = unpack(file.read_bytes(), str(file))
            except CheckpointError as e:
                before = "taking the one before" if file is not there[0] else "there is none before it"
                self.say(f"warning: {str(e).splitlines()[0]}; {before}")
                continue
            expect_same(str(file), state["about"], self.about)
            self.trainings = state["trainings"]
            for name, one in self.keep.items():
                if name in state["keep"]:
                    one.load_state_dict(state["keep"][name])
            return
        what, hint = "holds no checkpoint that is whole", f"remove {self.folder}, and begin again"
        got = f"{len(there)} damaged file{'s' * (len(there) > 1)}"
        raise CheckpointError.of(str(self.folder), what, got, "a whole checkpoint", hint)


def expect_same(who: str, found: Any, expected: Any, path: str = "") -> None:
    """Compare what a checkpoint belongs to with what is to go on.

    Raises:
        CheckpointError: naming the first thing that differs.
    """
    if isinstance(found, dict) and isinstance(expected, dict):
        for name in dict.fromkeys((*expected, *found)):
            expect_same(who, found.get(name), expected.get(name), f"{path}.{name}" if path else str(name))
    elif found != expected:
        what, hint = (
            f"is of another training: {path} differs",
            "give the same data and options, or remove it and begin again",
        )
        raise CheckpointError.of(who, what, _short(found), _short(expected), hint)


def pack(state: Any) -> bytes:
    """A state of plain values, tensors and arrays as the bytes of a file.

    >>> unpack(pack({"a": (1, 2.5), 3: torch.ones(2)}), "a file")
    {'a': (1, 2.5), 3: tensor([1., 1.])}
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_plain(state, tensors))
    body = save(tensors, {"openlstm": text})
    return FORMAT + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def unpack(data: bytes, who: str) -> Any:
    """What `pack` was given.

    Raises:
        CheckpointError: if it is damaged, or of another format.
    """
    head = len(FORMAT) + 65
    if not data.startswith(FORMAT):
        expected, hint = FORMAT.decode().strip(), "begin again, or go on with the version of openlstm that wrote it"
        if data.startswith(FORMAT.rsplit(b" ", 1)[0]):
            got = data[: len(FORMAT) + 8].split(b"\n")[0].decode(errors="replace")
            raise CheckpointError.of(who, "is of another version of openlstm", got, expected, hint)
        raise CheckpointError.of(who, "is damaged", "something else", expected, "take another checkpoint, or begin again")
    body = memoryview(data)[head:]
    if hashlib.sha256(body).hexdigest().encode() + b"\n" != data[len(FORMAT) : head]:
        what, got = "is damaged", "a checksum that does not fit"
        raise CheckpointError.of(who, what, got, "the bytes that were written", "take another checkpoint, or begin again")
    body = bytes(body)
    size = int.from_bytes(body[:8], "little")
    return _back(json.loads(json.loads(body[8 : 8 + size])["__metadata__"]["openlstm"]), load(body))


_ARRAY, _TENSOR, _TUPLE, _ITEMS = "#array", "#tensor", "#tuple", "#items"


def _plain(x: Any, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON has it; tensors are put aside under a number."""
    if isinstance(x, (Tensor, np.ndarray)):
        name = str(len(tensors))
        tensors[name] = torch.from_numpy(x.copy()) if isinstance(x, np.ndarray) else x.detach().cpu().contiguous().clone()
        return {_TENSOR if isinstance(x, Tensor) else _ARRAY: name}
    if isinstance(x, Mapping):
        if all(isinstance(key, str) for key in x):
            return {key: _plain(value, tensors) for key, value in x.items()}
        return {_ITEMS: [[key, _plain(value, tensors)] for key, value in x.items()]}
    if isinstance(x, tuple):
        return {_TUPLE: [_plain(value, tensors) for value in x]}
    return [_plain(value, tensors) for value in x] if isinstance(x, list) else x


def _back(x: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(x, list):
        return [_back(value, tensors) for value in x]
    if not isinstance(x, dict):
        return x
    kind: str
    inside: Any
    kind, inside = next(iter(x.items())) if len(x) == 1 else ("", None)
    if kind == _TENSOR:
        return tensors[inside]
    if kind == _ARRAY:
        return tensors[inside].numpy()
    if kind == _TUPLE:
        return tuple(_back(value, tensors) for value in inside)
    if kind == _ITEMS:
        return {key: _back(value, tensors) for key, value in inside}
    return {key: _back(value, tensors) for key, value in x.items()}


def _short(x: Any) -> str:
    text = "nothing" if x is None else str(x)
    return text if len(text) <= 80 else f"{text[:79]}…"
