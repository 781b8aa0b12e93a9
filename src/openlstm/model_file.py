"""The model file: one `.safetensors` file that holds tensors and a closed, versioned JSON header; no pickle, no code.

The header is one string under the key `openlstm` of the safetensors metadata. Its checksum is the sha256 over the canonical
JSON of the header with an empty checksum, followed by every tensor's name, dtype, shape and bytes in the order of names.

Legend: I input size, H hidden size, L layers, G gates of a cell.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, NamedTuple

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors.numpy import save

from openlstm import cells, weights
from openlstm._files import write_whole
from openlstm.errors import ModelFileError

VERSION = 3
"""The newest version of the header that this library reads and the one it writes.

2 brought cells beside the first three, 3 the way the weights began. A file of version 1 is one of version 2 whose cell has no
options, and one of version 2 is one of version 3 that began as torch does.
"""

KEY = "openlstm"
"""The key of the safetensors metadata under which the header lies."""

MOST = 2**27
"""So many numbers a file holds at most, in all its tensors: 512 MiB."""

INDEX, TEXT = 2**22, 2**18
"""So many bytes the index of the tensors takes at most, and in it our own header: in memory, a list read from JSON takes twenty
times its bytes."""


def _a_time(text: str) -> str:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,6})?)?)?", text, re.ASCII):
        raise ValueError("is not an ISO time such as 2001-12-29T00:00:00")
    datetime.fromisoformat(text)
    return text


def _a_size(value: float) -> float:
    if not 1e-200 <= value <= 1e101:
        raise ValueError("is not a size between 1e-200 and 1e101")
    return value


Name = Annotated[str, Field(max_length=1000)]
Time = Annotated[str, AfterValidator(_a_time)]
Size = Annotated[float, AfterValidator(_a_size)]  # in the unit of the target, whose values are within 1e100
"""What several parts are made of."""


class _Part(BaseModel):
    """A part of the header: closed (unknown keys are refused), strict about types, immutable, finite numbers only."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Step(_Part):
    """The sampling interval of a series: so many calendar months, or so many seconds; at most 1000 years."""

    unit: Literal["month", "second"]
    count: int = Field(ge=1, le=1000 * 366 * 86400)

    @model_validator(mode="after")
    def _possible(self) -> Step:
        if self.years() > 1000:
            raise ValueError("a step is longer than 1000 years")
        return self

    def years(self) -> float:
        """How long it is, in calendar years."""
        return self.count / (12 if self.unit == "month" else 365.2425 * 86400)


class Series(_Part):
    """What the model was trained on, and how its numbers are scaled.

    The values of a window enter as (y - its last known value) / max(its standard deviation, scale / 10), where `scale` is the
    mean standard deviation of the training windows, in the unit of the target.
    """

    time: Name
    target: Name
    step: Step
    period: int = Field(ge=1, le=10**6)  # steps in a season
    window: int = Field(ge=1, le=10**8)  # steps the network reads
    horizon: int = Field(ge=1, le=10**8)  # steps it forecasts
    scale: Size
    seasonal_error: Size | None  # mean |y_t - y_(t-period)| of the rows it has seen: the unit of MASE

    @model_validator(mode="after")
    def _possible(self) -> Series:
        if self.horizon * self.step.years() > 5000:
            raise ValueError("the horizon is longer than 5000 years")
        return self


class Network(_Part):
    """`members` recurrent networks of equal shape, whose outputs are averaged."""

    cell: str  # a key of cells.BY_NAME
    clip: float | None = Field(default=None, gt=0)  # the cell state is kept within -clip..clip
    cells_per_gate: int = Field(default=1, ge=1, le=2**16)  # so many neighbouring cells share their gates
    input_size: Literal[2]  # the value, and whether it is missing
    hidden_size: int = Field(ge=1, le=2**16)
    num_layers: int = Field(ge=1, le=1000)
    members: int = Field(ge=1, le=1000)

    @model_validator(mode="after")
    def _possible(self) -> Network:
        if self.cell not in cells.BY_NAME:
            raise ValueError(f"unknown cell {self.cell!r}")
        known = {field.name for field in fields(cells.BY_NAME[self.cell])}  # type: ignore[arg-type]
        for name in self._options():
            if name not in known:
                raise ValueError(f"{self.cell} has no {name}")
        if self.hidden_size % self.cells_per_gate:
            raise ValueError("hidden_size is not a multiple of cells_per_gate")
        if self.members * self.num_layers > 1000:
            raise ValueError("more than 1000 layers in all members together")
        return self

    def recurrence(self) -> cells.Cell:
        """The cell with its options."""
        return replace(cells.BY_NAME[self.cell], **self._options())  # type: ignore[type-var]

    def _options(self) -> dict[str, Any]:
        """Those that are not the defaults."""
        options = {"clip": self.clip, "cells_per_gate": self.cells_per_gate}
        return {name: value for name, value in options.items() if value != type(self).model_fields[name].default}


class Head(_Part):
    """A linear map from the last h [H] to horizon x quantiles numbers."""

    quantiles: tuple[float, ...] = Field(min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _ordered(self) -> Head:
        inside = all(0 < q < 1 for q in self.quantiles)
        if not inside or list(self.quantiles) != sorted(set(self.quantiles)) or 0.5 not in self.quantiles:
            raise ValueError("quantiles must rise strictly inside (0, 1) and hold 0.5")
        return self


class Training(_Part):
    """How the model was trained: enough to repeat it, and to know which rows it has seen."""

    first: Time  # of the first row it has seen
    last: Time  # of the last row it has seen, validation included
    seed: int = Field(ge=0, lt=2**63)
    epochs: tuple[Annotated[int, Field(ge=0, le=10**9)], ...] = Field(
        max_length=1000
    )  # of each member: that of the kept weights
    validation_loss: tuple[float, ...] = Field(max_length=1000)  # of each member
    learning_rate: float = Field(gt=0)
    batch_size: int = Field(ge=1, le=10**9)
    weight_decay: float = Field(ge=0)
    clip: float = Field(gt=0)
    init: str = Field(default="default", max_length=100)  # as `openlstm.nn.init.apply` takes it


class Header(_Part):
    """Everything a model file says beside its tensors."""

    version: Literal[1, 2, 3] = VERSION
    library: Name
    task: Literal["forecast"]
    series: Series
    network: Network
    head: Head
    training: Training
    checksum: str = Field(default="", max_length=64)

    @model_validator(mode="after")
    def _possible(self) -> Header:
        if sum(math.prod(shape) for shape in self.tensors().values()) > MOST:
            raise ValueError(f"more than {MOST} numbers in all tensors together")
        return self

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every float32 tensor that belongs to this header.

        `member.0.recurrent.weight_ih_l0` [G*H, I], ..., `member.0.head.weight` [horizon*quantiles, H], `member.0.head.bias`.
        """
        net = self.network
        out: dict[str, tuple[int, ...]] = {}
        for member in range(net.members):
            for layer in range(net.num_layers):
                size = net.hidden_size if layer else net.input_size
                for name, shape in weights.shapes(net.recurrence(), size, net.hidden_size).items():
                    out[f"member.{member}.recurrent.{name}{weights.suffix(layer, 0)}"] = shape
            rows = self.series.horizon * len(self.head.quantiles)
            out[f"member.{member}.head.weight"] = (rows, net.hidden_size)
            out[f"member.{member}.head.bias"] = (rows,)
        return out


def write(path: str | os.PathLike[str], header: Header, tensors: dict[str, np.ndarray]) -> Header:
    """Write a model file so that a reader sees the old file or the whole new one, even after a crash.

    Args:
        path: where; an existing file is replaced and keeps its permissions, a link is followed.
        header: its version and checksum are filled in.
        tensors: float32 arrays, exactly those that `header.tensors()` names.

    Returns:
        The header as written, with its checksum.

    Raises:
        ModelFileError: if the tensors are not those the header names, or hold a value that is not finite.
        OSError: if the place cannot be written; nothing is left behind.
    """
    path = Path(path)
    tensors = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    _check_tensors(path, header, tensors)
    header = header.model_copy(update={"version": VERSION})  # one that was read may be older
    raw = json.loads(header.model_dump_json())
    header = header.model_copy(update={"checksum": _checksum(raw, tensors)})
    write_whole(path, save(tensors, {KEY: _canonical(json.loads(header.model_dump_json()))}))
    return header


def read(path: str | os.PathLike[str]) -> tuple[Header, dict[str, np.ndarray]]:
    """Read a model file and hold every value of it against the schema, the shapes it names and the checksum, in this order.

    Nothing is read that was not found to be small, or what the header says: the index of the tensors before the tensors, and
    these piece by piece until the checksum is known to fit.

    Returns:
        The header, and the tensors (float32) by name.

    Raises:
        ModelFileError: if the file is missing, truncated, damaged, foreign or from a newer version.
    """
    path = Path(path)
    if not path.is_file():
        got = "nothing" if not path.exists() else "a folder" if path.is_dir() else "no plain file"
        raise _error(path, "there is no such file", got, "a model file", "check the path")
    with open(path, "rb") as file:
        return _read(path, file)


def _read(path: Path, file: BinaryIO) -> tuple[Header, dict[str, np.ndarray]]:
    text, index = _read_index(path, file)
    begin, size = file.tell(), os.fstat(file.fileno()).st_size
    raw = _parse(path, text)
    version = raw.get("version")
    if isinstance(version, int) and not isinstance(version, bool) and version > VERSION:
        raise _error(
            path,
            f"was written by a newer openlstm ({_short(raw.get('library'))})",
            f"header version {_short(version)}",
            f"header version {VERSION} or older",
            "pip install --upgrade openlstm",
        )
    try:
        header = Header.model_validate_json(text)
    except ValidationError as e:
        first = e.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "header"
        raise _error(
            path,
            "its header is not one of openlstm's",
            _short(f"{where}: {first['msg']}"),
            f"the closed schema of version {VERSION}",
            "the file was made or changed by another program; fit the model again",
        ) from None
    _check_index(path, header, {name: place.kind for name, place in index.items()})
    shapes = header.tensors()
    at = begin
    for name, place in sorted(index.items(), key=lambda item: item[1].begin):
        if (begin + place.begin, place.end - place.begin) != (at, 4 * math.prod(shapes[name])):
            raise _unreadable(path, size, "its tensors overlap, or leave a hole")
        at = begin + place.end
    if at != size:
        raise _unreadable(path, size, "its tensors are cut off, or something stands behind them")
    names = sorted(index)
    pieces = ((name, shapes[name], _pieces(file, begin + index[name].begin, begin + index[name].end)) for name in names)
    if header.checksum != _digest(raw, pieces):
        raise _damaged(path, "its checksum does not fit its content")
    tensors = {}
    for name in names:
        file.seek(begin + index[name].begin)
        found = np.fromfile(file, "<f4", math.prod(shapes[name]))
        tensors[name] = found.astype(np.float32, copy=False).reshape(shapes[name])
    _check_finite(path, tensors)
    return header, tensors


class _Place(NamedTuple):
    """What the index says of a tensor."""

    kind: str  # element type and shape, as numpy calls them: float32[12, 3]
    begin: int  # in bytes from the end of the index
    end: int


def _read_index(path: Path, file: BinaryIO) -> tuple[str, dict[str, _Place]]:
    """Our header, and where the tensors lie. The library's own reader takes time and memory for whatever an index says."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > size - 8:
        raise _unreadable(path, size, "the index of its tensors is cut off")
    if length > INDEX:
        raise _foreign(path, f"a file with an index of {length} bytes")
    try:
        index = json.loads(file.read(length))
    except (ValueError, RecursionError):
        raise _unreadable(path, size, "the index of its tensors is not JSON") from None
    own = index.pop("__metadata__", None) if isinstance(index, dict) else None
    text = own.get(KEY) if isinstance(own, dict) else None
    if not isinstance(text, str):
        raise _foreign(path, "a safetensors file without an openlstm header")
    if len(text) > TEXT:
        raise _foreign(path, f"a header of {len(text)} characters")
    return text, {name: _place(entry) for name, entry in index.items()}


def _place(entry: Any) -> _Place:
    entry = entry if isinstance(entry, dict) else {}
    dtype, places = entry.get("dtype"), entry.get("data_offsets")
    whole = isinstance(places, list) and len(places) == 2 and all(type(n) is int for n in places)
    return _Place(f"{'float32' if dtype == 'F32' else ascii(dtype)}{entry.get('shape')}", *(places if whole else (-1, -1)))


def _pieces(file: BinaryIO, begin: int, end: int) -> Iterator[bytes]:
    """The bytes of a file from `begin` to `end`, a few MiB at a time."""
    file.seek(begin)
    for at in range(begin, end, 2**22):
        yield file.read(min(2**22, end - at))


def _check_index(path: Path, header: Header, index: dict[str, str]) -> None:
    expected = {name: f"float32{list(shape)}" for name, shape in header.tensors().items()}
    for name in sorted(expected.keys() | index.keys()):
        got, want = (kinds.get(name, "no such tensor") for kinds in (index, expected))
        if got != want:
            raise _error(path, f"tensor {_short(name)} does not fit the header", _short(got), want, "fit the model again")


def _short(value: Any) -> str:
    """What a file says, cut and without control characters."""
    text = value if isinstance(value, str) and value.isprintable() else ascii(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        raw = json.loads(text)
        _canonical(raw)
    except (ValueError, RecursionError):
        raise _damaged(path, "its header is not JSON") from None
    if not isinstance(raw, dict):
        raise _damaged(path, "its header is not a JSON object")
    return raw


def _canonical(raw: Any) -> str:
    return json.dumps(raw, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _checksum(raw: dict[str, Any], tensors: dict[str, np.ndarray]) -> str:
    return _digest(raw, ((name, tensors[name].shape, [tensors[name].tobytes()]) for name in sorted(tensors)))


def _digest(raw: dict[str, Any], tensors: Iterable[tuple[str, tuple[int, ...], Iterable[bytes]]]) -> str:
    """The checksum of a header and its float32 tensors, each a name, a shape and bytes one behind the other."""
    digest = hashlib.sha256(_canonical({**raw, "checksum": ""}).encode())
    for name, shape, pieces in tensors:
        digest.update(_canonical([name, "float32", list(shape)]).encode())
        for piece in pieces:
            digest.update(piece)
    return digest.hexdigest()


def _check_tensors(path: Path, header: Header, tensors: dict[str, np.ndarray]) -> None:
    _check_index(path, header, {name: f"{a.dtype}{list(a.shape)}" for name, a in tensors.items()})
    _check_finite(path, tensors)


def _check_finite(path: Path, tensors: dict[str, np.ndarray]) -> None:
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            got = f"{array.dtype}{list(array.shape)}"
            raise _error(path, f"tensor {name} holds a value that is not finite", got, "finite numbers", "fit the model again")


def _damaged(path: Path, why: str) -> ModelFileError:
    return _error(path, "is damaged", why, "the file as it was written", "copy the file again, or fit the model again")


def _unreadable(path: Path, size: int, why: str) -> ModelFileError:
    what = "cannot be read: truncated, damaged, or not a safetensors file"
    hint = "copy the file again, or fit the model again"
    return _error(path, what, f"{size} bytes ({_short(why)})", "a whole safetensors file", hint)


def _foreign(path: Path, got: str) -> ModelFileError:
    expected = "a file written by `openlstm fit` or `Forecaster.save`"
    hint = "for bare weights of torch use openlstm.LSTM(...).load_state_dict"
    return _error(path, "is not a model file of openlstm", got, expected, hint)


def _error(path: Path, what: str, got: str, expected: str, hint: str) -> ModelFileError:
    return ModelFileError.of(path.name, what, got, expected, hint)
