"""Reading and writing a model file: every value is held against the schema, the shapes it names and the checksum.

The header is one string under the key `openlstm` of the safetensors metadata. Its checksum is the sha256 over the canonical
JSON of the header with an empty checksum, followed by every tensor's name, dtype, shape and bytes in the order of names.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
import numpy as np

from openlstm._files import write_whole
from openlstm.errors import ModelFileError
from openlstm.model_file.header import VERSION, Header, upgrade
from openlstm.model_file.part import fault, plain

KEY = "openlstm"
"""The key of the safetensors metadata under which the header lies."""

KINDS = {"F32": "float32", "U8": "uint8", "I64": "int64"}
"""The types of elements that a model file may hold, by their names in safetensors."""

INDEX, TEXT = 2**22, 2**20
"""So many bytes the index of the tensors takes at most, and in it our own header: in memory, a list read from JSON takes twenty
times its bytes."""

FIRST, LAST = (int(np.datetime64(time, "us").astype(np.int64)) for time in ("0001-01-01", "9999-12-31T23:59:59.999999"))
"""The times that a file can name, in microseconds since 1970."""

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
KEYS = rb"\[(?:%s(?:, ?%s){0,99}+)?+\]" % (_STRING, _STRING)
"""The names of one series as they are written in JSON, at most 100."""


def write(path: str | os.PathLike[str], header: Header, tensors: dict[str, np.ndarray]) -> Header:
    """Write a model file so that a reader sees the old file or the whole new one, even after a crash.

    Args:
        path: where; an existing file is replaced and keeps its permissions, a link is followed.
        header: held against the schema, its checksum filled in.
        tensors: exactly those that `header.tensors()` names.

    Returns:
        The header as written, with its checksum.

    Raises:
        ModelFileError: if the header is none that a file can hold, or the tensors are not those it names, or not finite.
        OSError: if the place cannot be written; nothing is left behind.
    """
    from safetensors.numpy import save  # reading does without it

    path = Path(path)
    tensors = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    header = _valid(path, plain(header))
    _check_tensors(path, header, tensors)
    header = header.changed(checksum=checksum(plain(header), tensors))
    write_whole(path, save(tensors, {KEY: _canonical(plain(header))}))
    return header


def read(path: str | os.PathLike[str]) -> tuple[Header, dict[str, np.ndarray]]:
    """Read a model file and hold every value of it against the schema, the shapes it names and the checksum, in this order.

    Nothing is read that was not found to be small, or what the header says: the index of the tensors before the tensors, and
    these piece by piece until the checksum is known to fit.

    Returns:
        The header, and the tensors by name.

    Raises:
        ModelFileError: if the file is missing, truncated, damaged, foreign or from a newer version.
    """
    path = Path(path)
    if not path.is_file():
        got = "nothing" if not path.exists() else "a folder" if path.is_dir() else "no plain file"
        raise _error(path, "there is no such file", got, "a model file", "check the path")
    with open(path, "rb") as file:
        return _read(path, file)


def is_ours(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as a model file does; a file that cannot be opened does not."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            return length <= INDEX and f'"__metadata__":{{"{KEY}"'.encode() in file.read(length)
    except OSError:
        return False


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
            "install a newer openlstm",
        )
    header = _valid(path, upgrade(raw))
    _check_index(path, header, {name: place.kind for name, place in index.items()})
    kinds = {name: (np.dtype(kind), shape) for name, (kind, shape) in header.tensors().items()}
    sizes = {name: dtype.itemsize * math.prod(shape) for name, (dtype, shape) in kinds.items()}
    at = begin
    for name, place in sorted(index.items(), key=lambda item: item[1].begin):
        if (begin + place.begin, place.end - place.begin) != (at, sizes[name]):
            raise _unreadable(path, size, "its tensors overlap, or leave a hole")
        at = begin + place.end
    if at != size:
        raise _unreadable(path, size, "its tensors are cut off, or something stands behind them")
    names = sorted(index)
    pieces = ((name, *kinds[name], _pieces(file, begin + index[name].begin, begin + index[name].end)) for name in names)
    if header.checksum != _digest(raw, pieces):
        raise _damaged(path, "its checksum does not fit its content")
    tensors = {}
    for name in names:
        file.seek(begin + index[name].begin)
        dtype, shape = kinds[name]
        found = np.fromfile(file, dtype.newbyteorder("<"), math.prod(shape))
        tensors[name] = found.astype(dtype, copy=False).reshape(shape)
    _check_content(path, header, tensors)
    return header, tensors


def _valid(path: Path, raw: Any) -> Header:
    try:
        return msgspec.convert(raw, Header)
    except msgspec.ValidationError as e:
        where, what = fault(e)
        raise _error(
            path,
            "its header is not one of openlstm's",
            _short(f"{where or 'header'}: {what}"),
            f"the closed schema of version {VERSION}",
            "the file was made or changed by another program; fit the model again",
        ) from None


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
    kind = KINDS.get(dtype, ascii(dtype)) if isinstance(dtype, str) else ascii(dtype)
    return _Place(f"{kind}{entry.get('shape')}", *(places if whole else (-1, -1)))


def _pieces(file: BinaryIO, begin: int, end: int) -> Iterator[bytes]:
    """The bytes of a file from `begin` to `end`, a few MiB at a time."""
    file.seek(begin)
    for at in range(begin, end, 2**22):
        yield file.read(min(2**22, end - at))


def _check_index(path: Path, header: Header, index: dict[str, str]) -> None:
    expected = {name: f"{kind}{list(shape)}" for name, (kind, shape) in header.tensors().items()}
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
        raw = msgspec.json.decode(text)  # stricter than json: no NaN, nothing infinite, no half characters
        _canonical(raw)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise _damaged(path, "its header is not JSON") from None
    if not isinstance(raw, dict):
        raise _damaged(path, "its header is not a JSON object")
    return raw


def _canonical(raw: Any) -> str:
    return json.dumps(raw, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def checksum(raw: dict[str, Any], tensors: dict[str, np.ndarray]) -> str:
    """The checksum of a header as JSON and its tensors."""
    return _digest(
        raw, ((name, tensors[name].dtype, tensors[name].shape, [tensors[name].tobytes()]) for name in sorted(tensors))
    )


def _digest(raw: dict[str, Any], tensors: Iterable[tuple[str, np.dtype, tuple[int, ...], Iterable[bytes]]]) -> str:
    """The checksum of a header and its tensors, each a name, a type, a shape and bytes one behind the other."""
    digest = hashlib.sha256(_canonical({**raw, "checksum": ""}).encode())
    for name, dtype, shape, pieces in tensors:
        digest.update(_canonical([name, str(dtype), list(shape)]).encode())
        for piece in pieces:
            digest.update(piece)
    return digest.hexdigest()


def _check_tensors(path: Path, header: Header, tensors: dict[str, np.ndarray]) -> None:
    _check_index(path, header, {name: f"{a.dtype}{list(a.shape)}" for name, a in tensors.items()})
    _check_content(path, header, tensors)


def _check_content(path: Path, header: Header, tensors: dict[str, np.ndarray]) -> None:
    _check_finite(path, tensors)
    count = header.training.series
    if not count:
        return
    if not _are_names(names := tensors["series.names"].tobytes(), count):
        what, got = "does not hold the names of its series", f"{len(names)} bytes of something else"
        raise _error(path, what, got, f"a JSON list of {count} lists of texts", "fit the model again")
    if not ((tensors["series.last"] >= FIRST) & (tensors["series.last"] <= LAST)).all():
        what, expected = "tensor series.last holds what is no time", "microseconds since 1970, of the years 1 to 9999"
        raise _error(path, what, f"int64[{count}]", expected, "fit the model again")


def _are_names(text: bytes, count: int) -> bool:
    """Whether a text is JSON: a list of so many lists of texts. It takes no memory before its form is known to be right."""
    if not re.fullmatch(rb"\[%s(?:, ?%s){%d}+\]" % (KEYS, KEYS, count - 1), text, re.DOTALL):
        return False
    try:
        return len(json.loads(text.decode())) == count
    except ValueError:  # a text that is no UTF-8, or a character in it that JSON has not
        return False


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
