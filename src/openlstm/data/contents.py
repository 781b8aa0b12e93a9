"""What lies in files: the files of one table, their bytes unpacked, a text as UTF-8."""

from __future__ import annotations

import glob
import gzip
from pathlib import Path

from openlstm.data.panel import Note
from openlstm.errors import ArgumentError, DataError, missing_extra

KINDS = {
    **dict.fromkeys((".csv", ".tsv", ".txt"), "CSV"),
    **dict.fromkeys((".parquet", ".pq"), "Parquet"),
    **dict.fromkeys((".arrow", ".feather", ".ipc"), "Arrow"),
    ".xlsx": "Excel",
}
"""What a file holds, by the end of its name; `.gz` and `.zst` may follow."""

SHOWN = 100  # characters of a cell in an error


def short(text: str) -> str:
    """A text cut to what an error shows of it."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"


def parquet_files(path: Path) -> list[Path]:
    """The Parquet files of a table: the file itself, those in a folder, or those that fit a pattern (`sales/*.parquet`)."""
    found = path.iterdir() if path.is_dir() else [path] if path.exists() else map(Path, glob.glob(str(path)))
    return sorted(p for p in found if KINDS.get(p.suffix.lower()) == "Parquet" and p.is_file())


def unpacked(path: Path, packed: str | None) -> bytes:
    """The bytes of a file whose name ends in what is `packed`: ".gz", ".zst" or None."""
    content = path.read_bytes()
    if packed == ".gz":
        return gzip.decompress(content)
    if packed == ".zst":
        try:
            import zstandard
        except ImportError:
            raise missing_extra(f"reading {path.name}", "zstandard", "data") from None
        whole = []
        while content:  # a file may hold several frames
            part = zstandard.ZstdDecompressor().decompressobj()
            whole.append(part.decompress(content))
            if not part.eof:
                raise EOFError("the compressed file ended before its end was reached")
            content = part.unused_data
        return b"".join(whole)
    return content


def as_utf8(name: str, content: bytes, encoding: str | None, notes: list[Note]) -> tuple[bytes, str]:
    """The bytes of a text in UTF-8, and in which encoding they were: as told, else UTF-8, UTF-16, at last cp1252."""
    if encoding is not None:
        try:
            return content.decode(encoding).removeprefix("\ufeff").encode(), encoding
        except LookupError:
            expected, hint = "an encoding such as utf-8, utf-16, cp1252, latin-1", "correct --encoding"
            raise ArgumentError.of(name, "there is no such encoding", repr(encoding), expected, hint) from None
        except UnicodeError as e:
            hint = "leave out --encoding, or name another one"
            raise DataError.of(name, "is not written in this encoding", short(str(e)), encoding, hint) from None
    if content.startswith(b"\xef\xbb\xbf"):
        return content[3:], "utf-8"
    zeros, marked = content[:1000].count(0), content.startswith((b"\xff\xfe", b"\xfe\xff"))
    if marked or zeros:
        found = "utf-16" if marked else "utf-16-le" if content[1:2] == b"\0" else "utf-16-be"
        found = found if marked or zeros * 4 > len(content[:1000]) else "none"  # every other byte of Western text
        try:
            return content.decode(found).encode(), found
        except (UnicodeError, LookupError):
            got, expected = f"{zeros} zero bytes in the first {len(content[:1000])}", "text"
            raise DataError.of(name, "is not a text file", got, expected, "export it again as CSV in UTF-8") from None
    try:
        content.decode()
        return content, "utf-8"
    except UnicodeDecodeError as e:
        line = content.count(b"\n", 0, e.start) + 1
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError:
        what, got = "is written in an encoding that was not found", f"bytes in line {line} that are no UTF-8"
        raise DataError.of(name, what, got, "UTF-8, UTF-16 or cp1252", "name it: --encoding latin-1, for example") from None
    notes.append(Note("encoding", 1, f"line {line} is not UTF-8; the file was read as cp1252 (--encoding names another one)"))
    return text.encode(), "cp1252"
