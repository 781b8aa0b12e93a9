"""Files that are written: as a whole or not at all, and a place that cannot be written is found before the work."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from openlstm.errors import ArgumentError

try:
    import fcntl
except ImportError:  # Windows, where nobody removes a file that is open
    fcntl = None


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write bytes to a file, all of them or nothing; see `writing`."""
    with writing(path) as file:
        file.write(data)


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write to, under another name. At the end it is synced and renamed, and its folder synced: all of it or nothing.

    A link is followed, and what it leads to is replaced. A file that is replaced hands on its permissions and its owner.

    Raises:
        ArgumentError: if the place is a device or a pipe.
        OSError: if the place cannot be written; nothing is left behind.
    """
    path = _place(Path(path))
    old = path.stat() if path.exists() else None
    part, number = _begin(path.parent, 0o666 if old is None else 0o600)
    file = open(number, "wb")  # noqa: SIM115
    try:
        yield file
        file.flush()
        if old is not None and fcntl is not None:
            with suppress(PermissionError):  # only root gives a file to somebody else
                os.fchown(number, old.st_uid, old.st_gid)
            os.fchmod(number, stat.S_IMODE(old.st_mode))
        os.fsync(number)
        if fcntl is None:
            file.close()  # Windows renames no file that is open
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    finally:
        file.close()  # and with it the lock
    if os.name == "posix":  # the new name itself has to reach the disk
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def folder_beside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """An empty folder for the parts of a file, removed at the end; those that killed processes left there are removed, too."""
    parent = Path(path).absolute().parent
    for left in parent.glob(".openlstm-*.parts"):
        held = list(left.glob(".openlstm-*.part"))
        with suppress(OSError):  # in use, or not ours to remove
            for part in held:
                _remove_left(part)
            if held:
                shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=".openlstm-", suffix=".parts", dir=parent, ignore_cleanup_errors=True) as folder:
        _, number = _begin(Path(folder), 0o600)  # its lock says that the folder is in use
        try:
            yield Path(folder)
        finally:
            os.close(number)


def writable(path: str | os.PathLike[str], kinds: tuple[str, ...] = (), inputs: tuple[Path, ...] = ()) -> None:
    """Check before the work that `write_whole` can write a place, and that it is not one of the inputs.

    Args:
        path: where the file will go.
        kinds: the file extensions that are allowed, in small letters; all if empty.
        inputs: files that are read.

    Raises:
        ArgumentError: if it is a folder or a device, in a folder that does not exist, read-only, one of `inputs`, or of
            another kind.
    """
    try:
        _writable(Path(path), kinds, inputs)
    except OSError as e:
        what, got = "cannot be written", e.strerror or str(e)
        expected, hint = "a place where files can be written", "choose another folder, or have this one made writable"
        raise ArgumentError.of(str(path), what, got, expected, hint) from None


def _writable(path: Path, kinds: tuple[str, ...], inputs: tuple[Path, ...]) -> None:
    for given in inputs:
        if path.exists() and given.exists() and path.samefile(given):
            what, got = "is the input, which would be overwritten", f"{given} as input and as output"
            expected, hint = "another file", f"for example {path.with_name('new-' + path.name).name}"
            raise ArgumentError.of(str(path), what, got, expected, hint)
    place = _place(path)
    folder = place.parent
    if not folder.exists():
        raise ArgumentError.of(str(path), "its folder does not exist", str(folder), "an existing folder", f"mkdir -p {folder}")
    if not folder.is_dir():
        raise ArgumentError.of(str(path), "its folder is a file", str(folder), "an existing folder", "choose another place")
    if place.is_dir():
        raise ArgumentError.of(
            str(path), "is a folder", str(path), "the name of a file", f"for example {path / ('new' + ''.join(kinds[:1]))}"
        )
    if kinds and path.suffix.lower() not in kinds:
        what, got = "has an unknown file extension", repr(path.suffix)
        expected, hint = " or ".join(kinds), f"for example {path.with_suffix(kinds[0]).name}"
        raise ArgumentError.of(str(path), what, got, expected, hint)
    if place.exists():
        os.close(os.open(place, os.O_WRONLY))  # nothing is changed by that
    part, number = _begin(folder, 0o600)  # only an attempt tells what a folder allows
    os.close(number)
    part.unlink(missing_ok=True)  # without its lock, anybody may have removed it


def locked(folder: Path) -> int | None:
    """A folder as an open file that is locked until it is closed or the process ends; None if another process has it."""
    number = os.open(folder if fcntl is not None else os.devnull, os.O_RDONLY)
    try:
        _lock(number, wait=False)
    except BlockingIOError:
        os.close(number)
        return None
    except OSError:  # a file system without locks
        pass
    return number


def _place(path: Path) -> Path:
    """What a link leads to, which need not be there yet; any other path as it is. A device is refused, not replaced."""
    place = Path(os.path.realpath(path)) if path.is_symlink() else path
    if place.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    if place.exists() and not place.is_file() and not place.is_dir():
        raise ArgumentError.of(str(path), "is not a file", "a device or a pipe", "the name of a file", "choose another place")
    return place


def _begin(folder: Path, mode: int) -> tuple[Path, int]:
    """A new file in a folder: its path, and its number, locked until it is closed.

    Files that a killed process left there are removed. The lock tells them from those that are being written: it ends with
    the process that held it.
    """
    for left in folder.glob(".openlstm-*.part"):
        with suppress(OSError):  # being written, or not ours to remove
            _remove_left(left)
    while True:
        part = folder / f".openlstm-{os.urandom(16).hex()}.part"
        number = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with suppress(OSError):  # a file system without locks, where nothing is removed either
            _lock(number)
        if os.fstat(number).st_nlink:
            return part, number
        os.close(number)  # another process took it for a left one, in the moment before the lock


def _remove_left(part: Path) -> None:
    number = os.open(part, os.O_WRONLY)  # NFS locks no other
    try:
        _lock(number, wait=False)
        part.unlink()
    finally:
        os.close(number)


def _lock(number: int, wait: bool = True) -> None:
    if fcntl is not None:
        fcntl.flock(number, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
