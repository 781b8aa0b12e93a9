"""Logs of a training: a file of JSON lines, and curves for TensorBoard; a training that is resumed has each step once."""

from __future__ import annotations

import io
import json
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from openlstm._files import writable
from openlstm._terminal import tell
from openlstm.errors import ArgumentError, missing_extra
from openlstm.train.loop import Epoch, Step

if TYPE_CHECKING:
    from openlstm.insight.watch import Watch

CURVES = {"step": ("loss", "norm", "learning_rate"), "epoch": ("validation_loss",), "horizon": ("horizon",)}
"""What TensorBoard draws of each event."""
EVENTS = "events.out.tfevents."


class Log(ABC):
    """What both logs share. The object itself is a callback of each epoch, `step` one of each step.

    Whatever is logged is in the file at once. Where it cannot be written (a full disk), this is said, and training goes on.

    Attributes:
        training: the name of the training, such as "member 1"; set it before each one.
        watch: what the X-ray sees of it, if it looks; its `on_step` must stand before `step` among the callbacks.
    """

    def __init__(self, path: str | os.PathLike[str], every: int) -> None:
        if every < 1:
            raise ArgumentError.of(str(path), "every must be at least one step", f"every={every}", ">= 1", "use 1")
        self.path, self.every = Path(path), every
        self.watch: Watch | None = None
        self._file: io.FileIO | None = None
        self._training, self._at = "", 0  # _at: the number of the last step
        self._news, self._failed = time.perf_counter(), False

    @property
    def training(self) -> str:
        return self._training

    @training.setter
    def training(self, name: str) -> None:
        if name != self._training:
            self._begin()
        self._training, self._news = name, time.perf_counter()

    def step(self, step: Step) -> None:
        """Log a step, if it is one of every so many, and the horizons if the X-ray has looked at it."""
        self._at, seconds = step.number, self._seconds()
        if step.number % self.every == 0:
            values = {"step": step.number, "epoch": step.epoch, "loss": step.loss, "norm": step.norm}
            values |= {"learning_rate": step.learning_rate, "examples": step.examples, "seconds": seconds}
            self._try(self._write, "step", values)
        if self.watch is not None and self.watch.snapshots and self.watch.snapshots[-1].step == step.number:
            for row in self.watch.table():
                if row["step"] == step.number:
                    self._try(self._write, "horizon", row)

    def __call__(self, epoch: Epoch) -> None:
        """Log an epoch."""
        self._seconds()
        values = {"epoch": epoch.number, "train_loss": epoch.train_loss, "validation_loss": epoch.validation_loss}
        values |= {"best": epoch.is_best, "seconds": round(epoch.seconds, 6), "examples": epoch.examples}
        self._try(self._write, "epoch", values)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, ready for JSON; all that was logged is on the disk."""
        if self._file is not None:
            self._try(os.fsync, self._file.fileno())
        return self._state()

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint: what was logged after it is taken back, since those steps are done again."""

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self) -> None:
        """Another training."""
        self._at = 0

    @abstractmethod
    def _write(self, event: str, values: dict[str, Any]) -> None: ...

    @abstractmethod
    def _state(self) -> dict[str, Any]: ...

    def _append(self, data: bytes) -> None:
        """Write all of it or nothing."""
        assert self._file is not None
        begin = self._file.seek(0, os.SEEK_END)
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError:
            self._file.truncate(begin)
            raise

    def _try(self, do: Callable[..., object], *arguments: object) -> None:
        try:
            do(*arguments)
        except OSError as e:
            if not self._failed:
                tell([f"warning: {self.path}: {e.strerror or e}; the training goes on, its log has gaps"])
            self._failed = True

    def _seconds(self) -> float:
        """Since the last step or epoch, or the beginning of the training."""
        before, self._news = self._news, time.perf_counter()
        return round(self._news - before, 6)


class JsonLines(Log):
    r"""One JSON object a line: events "step", "epoch" and "horizon" (a row of `Watch.table`); null for what is not finite.

    "seconds" of a step are those since the step or epoch before.

    Args:
        path: the file.
        resumed: whether the training goes on from a checkpoint; else there must be no log yet.
        every: log the steps whose number is a multiple.

    Raises:
        ArgumentError: if there is a log and the training is not resumed, or if the file cannot be written.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder, JsonLines(f"{folder}/log.jsonl") as log:
    ...     log.training = "member 1"
    ...     log(Epoch(1, 0.5, math.nan, True, 2.0))
    ...     print(log.path.read_text()[:106])
    {"event": "epoch", "training": "member 1", "epoch": 1, "train_loss": 0.5, "validation_loss": null, "best":
    """

    def __init__(self, path: str | os.PathLike[str], *, resumed: bool = False, every: int = 1) -> None:
        super().__init__(path, every)
        writable(self.path)
        size = self.path.stat().st_size if self.path.exists() else 0
        if size and not resumed:
            raise _taken(self.path, f"{size:,} bytes", "a new file")
        self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115
        if not self._whole(size):  # killed inside a line
            self._try(self._append, b"\n")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Cut the file back to the length it had; one that somebody changed is kept as it is, and this is said."""
        assert self._file is not None
        size, known = self._file.seek(0, os.SEEK_END), state["bytes"]
        if size >= known and self._whole(known):
            self._file.truncate(known)
        else:
            changed = f"is not the log that the checkpoint knows ({known:,} bytes then, {size:,} now)"
            tell([f"warning: {self.path}: {changed}; new lines are appended, steps may be missing or there twice"])

    def _whole(self, size: int) -> bool:
        """Whether so many bytes of the file end with a line."""
        assert self._file is not None
        self._file.seek(max(size - 1, 0))
        return not size or self._file.read(1) == b"\n"

    def _write(self, event: str, values: dict[str, Any]) -> None:
        values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        self._append(json.dumps({"event": event, "training": self.training, **values}, allow_nan=False).encode() + b"\n")

    def _state(self) -> dict[str, Any]:
        assert self._file is not None
        return {"bytes": self._file.seek(0, os.SEEK_END)}


class TensorBoard(Log):
    """Curves for TensorBoard, a run for each training: `tensorboard --logdir FOLDER` lays them over each other.

    Curves are loss, norm, learning_rate, validation_loss and horizon/PLACE, over the number of the step, in float32. What is
    NaN is left out.

    Args:
        folder: where each training has a folder of its name.
        resumed, every: as of `JsonLines`.

    Raises:
        ArgumentError: if there are curves and the training is not resumed, or if the folder cannot be written.
        MissingExtraError: without the package tensorboard.
    """

    def __init__(self, folder: str | os.PathLike[str], *, resumed: bool = False, every: int = 1) -> None:
        super().__init__(folder, every)
        try:  # not torch's SummaryWriter: its thread takes more of a step's time, and dies of a full disk with a traceback
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            raise missing_extra("--tensorboard", "tensorboard", "tensorboard") from None
        self._events, self._summaries, self._records = event_pb2, summary_pb2, RecordWriter
        self._curves: dict[str, tuple[int, float]] = {}  # the last point of each
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            what, hint = "cannot be made a folder", "choose another place, or have this one made writable"
            raise ArgumentError.of(str(folder), what, e.strerror or str(e), "the name of a folder", hint) from None
        writable(self.path / "events")
        found = len(list(self.path.glob(f"*/{EVENTS}*")))
        if found and not resumed:
            raise _taken(self.path, f"{found} file{'s' * (found > 1)} of curves", "a new folder")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begin another file, which takes back all points from the last step of the checkpoint on, and draw that step again."""
        self._begin()
        self._training, self._at = state["training"], state["step"]
        if self.training:
            self._try(self._start, self._at, state["curves"])

    def _begin(self) -> None:
        super()._begin()
        self.close()
        self._file, self._curves = None, {}

    def _start(self, step: int, curves: Mapping[str, float]) -> None:
        """A file of this training; TensorBoard forgets what others of its folder say of this step and later ones."""
        folder = self.path / self.training
        folder.mkdir(exist_ok=True)
        self._file = open(folder / f"{EVENTS}{time.time_ns()}", "ab", buffering=0)  # noqa: SIM115
        self._record(step, file_version="brain.Event:2")
        self._record(step, session_log=self._events.SessionLog(status=self._events.SessionLog.START))
        self._draw(step, curves)

    def _write(self, event: str, values: dict[str, Any]) -> None:
        if self._file is None:
            self._start(0, {})
        where = f"/{values['place']}" if event == "horizon" else ""
        self._draw(self._at, {name + where: values[name] for name in CURVES[event] if values[name] == values[name]})

    def _draw(self, step: int, curves: Mapping[str, float]) -> None:
        if not curves:
            return
        self._curves |= {name: (step, value) for name, value in curves.items()}
        points = [self._summaries.Summary.Value(tag=name, simple_value=value) for name, value in curves.items()]
        self._record(step, summary=self._summaries.Summary(value=points))

    def _record(self, step: int, **values: Any) -> None:
        framed = io.BytesIO()
        event = self._events.Event(wall_time=time.time(), step=step, **values)
        self._records(framed).write(event.SerializeToString())
        self._append(framed.getvalue())

    def _state(self) -> dict[str, Any]:
        now = {name: value for name, (step, value) in self._curves.items() if step == self._at}
        return {"training": self.training, "step": self._at, "curves": now}


def _taken(path: Path, got: str, expected: str) -> ArgumentError:
    hint = "give another name, move the old one away, or go on with that training by --resume"
    return ArgumentError.of(str(path), "holds the log of another training", got, expected, hint)
