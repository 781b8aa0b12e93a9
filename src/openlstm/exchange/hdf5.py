"""The arrays and attributes of an HDF5 file: only what lies in the file itself, each array held against its size."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

from openlstm.errors import DataError, missing_extra
from openlstm.exchange.contents import LOOSE, TIGHT, Lazy, damaged, reading

DEEPEST, MOST = 24, 100_000
"""So deep and so many are the groups and arrays that are looked through."""

EXPECTED = "an undamaged HDF5 file"


class File:
    """An open HDF5 file: `arrays` by their paths, and texts of attributes."""

    def __init__(self, opened: Any, size: int, who: str) -> None:
        self.who = who
        self.opened = opened
        self.size = size
        self.left = LOOSE + TIGHT * size  # bytes that arrays may have, all together
        self.arrays: dict[str, Lazy] = {}
        self.order: list[str] = []  # groups, in the order in which `layer_names` names them
        with reading(who, EXPECTED, "fetch the file again"):
            self._walk("", opened, 0)

    def text(self, place: str, name: str) -> str | None:
        """An attribute that is a text, None if there is none."""
        with reading(self.who, EXPECTED, "fetch the file again"):
            attributes = self.opened[place].attrs if place else self.opened.attrs
            if name not in attributes:
                return None
            found = attributes.get_id(name)
            if found.shape != () or found.get_storage_size() > self.size:
                return None
            value = attributes[name]
            return value.decode() if isinstance(value, bytes) else value if isinstance(value, str) else None

    def names(self, place: str, name: str) -> list[str]:
        """An attribute that is a list of texts, empty if there is none."""
        with reading(self.who, EXPECTED, "fetch the file again"):
            attributes = self.opened[place].attrs if place else self.opened.attrs
            if name not in attributes or attributes.get_id(name).get_storage_size() > self.size:
                return []
            return [n.decode() if isinstance(n, bytes) else str(n) for n in np.ravel(attributes[name])]

    def _walk(self, path: str, group: Any, depth: int) -> None:
        import h5py

        for name in self._sorted(group):
            place = f"{path}/{name}" if path else name
            if depth > DEEPEST or len(self.order) > MOST:
                raise damaged(
                    self.who, f"groups {depth} deep, {len(self.order)} in all", f"at most {DEEPEST} deep, {MOST} in all"
                )
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                hint = "save the model as one file, with its weights inside"
                got = f"{place} leads to {getattr(link, 'filename', 'another place')}"
                raise DataError.of(self.who, "has links, which could lead to other files", got, "arrays that lie in it", hint)
            found = group[name]
            self.order.append(place)
            if isinstance(found, h5py.Group):
                self._walk(place, found, depth + 1)
            elif isinstance(found, h5py.Dataset):
                self.arrays[place] = self._lazy(place, found)

    def _sorted(self, group: Any) -> list[str]:
        """The members of a group, those first that an attribute of Keras puts first."""
        members = list(group)
        first = {name: n for n, name in enumerate(self.names(group.name.strip("/"), "layer_names"))} if members else {}
        return sorted(members, key=lambda name: first.get(name, len(first)))

    def _lazy(self, place: str, found: Any) -> Lazy:
        import h5py

        outside = found.external or found.is_virtual
        if outside:
            hint = "save the model as one file, with its weights inside"
            raise DataError.of(self.who, "has an array that lies in another file", place, "arrays that lie in it", hint)
        shape, kind = found.shape, found.dtype
        if shape is None or kind.hasobject or len(shape) > 8:
            return Lazy("text", (), lambda: np.zeros(()))
        count = int(np.prod(np.array(shape, dtype=object)))  # numbers without a bound
        size = count * kind.itemsize
        where = found.id.get_offset()
        contiguous = found.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS
        self.left -= size
        if self.left < 0 or (contiguous and size and (where is None or where + size > self.size)):
            got = f"{place} of {' x '.join(map(str, shape))} numbers in a file of {self.size} bytes"
            raise damaged(self.who, got, "the numbers that are declared")
        name = "bfloat16" if kind.kind == "V" and kind.itemsize == 2 else kind.newbyteorder("=").name

        def array() -> np.ndarray:
            numbers = np.asarray(found[()])
            return numbers.view(np.uint16) if name == "bfloat16" else numbers

        return Lazy(name, shape, array, f"{self.who}, {place}")


HEAP, PIECE = b"GCOL\1\0\0\0", 2**22
"""How a heap of texts begins, and how much of a file is searched at a time."""


def _check_heaps(file: BinaryIO, size: int, who: str) -> None:
    """Refuse a heap whose parts do not lie one behind the other: HDF5 2.0 walks through one for ever where a size is 0."""
    file.seek(0)
    begin = file.read(24)
    lengths = begin[14:15] if begin[8:9] in (b"\0", b"\1") else begin[10:11]
    if lengths != b"\x08":
        raise damaged(who, f"sizes of {lengths.hex()} bytes", "sizes of 8 bytes")
    at, inside = 0, 0
    while at < size:
        file.seek(at)
        piece = file.read(PIECE + len(HEAP) - 1)
        for match in re.finditer(re.escape(HEAP), piece):
            file.seek(at + match.end())
            whole = int.from_bytes(file.read(8), "little")
            inside += whole
            if inside > 2 * size or not _fits(file.read(max(whole - 16, 0))):
                raise damaged(who, f"a heap of {whole} bytes whose parts do not fit", EXPECTED)
        at += PIECE


def _fits(parts: bytes) -> bool:
    """Whether the parts of a heap end where it ends."""
    at = 0
    while len(parts) - at >= 16:
        number, length = struct.unpack_from("<H6xQ", parts, at)
        step = 16 + -(-length // 8) * 8 if number else length  # number 0 is what is free, with its own 16 bytes
        if step < 16:
            return False
        at += step
    return at <= len(parts)


@contextmanager
def opening(file: BinaryIO, who: str) -> Iterator[File]:
    """An HDF5 file, open.

    Raises:
        DataError: if it is damaged, has links to other places, or arrays that are not there.
        MissingExtraError: without h5py.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise missing_extra("reading an HDF5 file", "h5py", "exchange") from error
    size = file.seek(0, 2)
    with reading(who, EXPECTED, "fetch the file again"):
        _check_heaps(file, size, who)
        opened = h5py.File(file, "r")
    with opened:
        yield File(opened, size, who)
