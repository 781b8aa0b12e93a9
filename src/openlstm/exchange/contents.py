"""What a reader of foreign files needs: arrays that are read when they are wanted, archives held against their size, errors.

A file may lie: what it declares is held against the bytes that are there before anything is made of it.
"""

from __future__ import annotations

import errno
import math
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from openlstm.errors import DataError, OpenLSTMError, describe, message

NUMBERS = {
    "float16": np.dtype("<f2"),
    "float32": np.dtype("<f4"),
    "float64": np.dtype("<f8"),
    "bfloat16": np.dtype("<u2"),  # widened to float32 when it is read
    "int8": np.dtype("i1"),
    "uint8": np.dtype("u1"),
    "int16": np.dtype("<i2"),
    "int32": np.dtype("<i4"),
    "int64": np.dtype("<i8"),
    "bool": np.dtype("?"),
}
"""The types of elements that are read, as they lie in a file."""

LOOSE, TIGHT = 2**26, 100
"""A compressed archive may expand to so many bytes, or to so many times its size."""


@dataclass(frozen=True)
class Lazy:
    """An array that lies in a file: its type and shape, which fit the bytes there, and how it is read."""

    dtype: str
    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]
    who: str = "the file"

    def read(self) -> np.ndarray:
        """The array; bfloat16, which numpy has not, as the same numbers in float32."""
        with reading(self.who, "the numbers that are declared", "fetch the file again"):
            array = self.load()
            if array.shape != self.shape:
                raise ValueError(f"{describe(array)}, where {list(self.shape)} is declared")
        if self.dtype == "bfloat16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


@contextmanager
def reading(who: str, expected: str, hint: str) -> Iterator[None]:
    """Give whatever is raised on a damaged file our form."""
    try:
        yield
    except (OpenLSTMError, MemoryError):
        raise
    except OSError as e:
        if e.errno not in (None, errno.EINVAL):  # of the disk; a seek to a place that cannot be is of the file
            raise
        raise damaged(who, str(e), expected, hint) from None
    except Exception as e:
        raise damaged(who, str(e).strip() or type(e).__name__, expected, hint) from None


def damaged(who: str, got: str, expected: str, hint: str = "fetch the file again") -> DataError:
    """The error for a file that is not what it says it is."""
    got = re.sub(r"0x[0-9a-f]+", "0x..", got.splitlines()[0])
    return DataError(message(who, "cannot be read", short(got), expected, hint))


def short(text: str, most: int = 120) -> str:
    """The begin of a text from a file, on one line, without what a terminal would obey."""
    text = "".join(c if c.isprintable() else "?" for c in text[: 4 * most])
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def shape_of(who: str, sizes: Any, most: int) -> tuple[int, ...]:
    """`sizes` as a shape of at most `most` numbers."""
    whole = isinstance(sizes, (tuple, list)) and all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in sizes)
    if not whole or len(sizes) > 8:
        raise damaged(who, "a shape that is no shape", "sizes from 0")
    if math.prod(sizes) > most:
        raise damaged(who, f"an array of {' x '.join(map(str, sizes))} numbers where {most} are", "the numbers it declares")
    return tuple(sizes)


class Archive:
    """A zip file whose members, as they declare themselves, fit its size; they are read one by one.

    Raises:
        DataError: if it is damaged, if members overlap, or if it would expand beyond `LOOSE` and `TIGHT`.
    """

    def __init__(self, file: BinaryIO, who: str) -> None:
        self.who = who
        self.file = file
        size = file.seek(0, 2)
        with reading(who, "a zip archive", "fetch the file again"):
            self._zip = zipfile.ZipFile(file)
            self.sizes = {info.filename: info.file_size for info in self._zip.infolist()}
            inside = sum(info.compress_size for info in self._zip.infolist())
            stored = all(info.compress_size == info.file_size for info in self._zip.infolist() if not info.compress_type)
        if inside > size or not stored:
            raise damaged(who, f"members of {inside} bytes in a file of {size}", "members that fit into the file")
        whole = sum(self.sizes.values())
        if whole > max(LOOSE, TIGHT * size):
            got, expected = f"{whole} bytes in a file of {size}", f"at most {TIGHT} times its size"
            hint = "pack it again without compression"
            raise DataError.of(who, "expands too far to be a model", got, expected, hint)

    def __contains__(self, name: str) -> bool:
        return name in self.sizes

    def read(self, name: str, most: int | None = None) -> bytes:
        """One member.

        Raises:
            DataError: if it is larger than `most`, missing or damaged.
        """
        if name not in self.sizes:
            raise damaged(self.who, f"no member {short(name)!r}", "all members of the archive")
        if most is not None and self.sizes[name] > most:
            raise damaged(self.who, f"{short(name)!r} of {self.sizes[name]} bytes", f"at most {most} bytes")
        with reading(f"{self.who}, {short(name)}", "an undamaged member", "fetch the file again"):
            data = self._zip.read(name)
            if len(data) != self.sizes[name]:
                raise ValueError(f"{len(data)} bytes of {self.sizes[name]}")
            return data
