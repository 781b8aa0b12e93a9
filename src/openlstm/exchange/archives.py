"""What torch saves, as containers and lazy tensors: zip archives, those of TorchScript, and the files before them."""

from __future__ import annotations

import ast
import io
import re
import struct
from functools import partial
from typing import Any, BinaryIO

from openlstm.errors import DataError
from openlstm.exchange.contents import NUMBERS, Archive, damaged, reading
from openlstm.exchange.pickles import EXPECTED, Global, Record, Storage, load

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files of torch before version 1.6 begin: a pickle of this number."""

PICKLE, CODE = 2**28, 2**22
"""The most bytes of a pickle beside its tensors, and of one file of TorchScript."""

TYPES = {
    "HalfStorage": "float16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "BFloat16Storage": "bfloat16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "BoolStorage": "bool",
}
"""The types of elements by the names of torch's storages."""


def is_archive(archive: Archive) -> bool:
    """Whether a zip file is one of torch's."""
    return _root(archive) is not None


def _root(archive: Archive) -> str | None:
    return next((name.removesuffix("data.pkl") for name in archive.sizes if name.endswith("/data.pkl")), None)


def read_archive(archive: Archive, who: str) -> Any:
    """The object in a zip file that torch saved; a module of TorchScript is a record with its constants beside its tensors."""
    root = _root(archive)
    if root is None:
        raise damaged(who, "no data.pkl", "an archive that torch saved")
    big = f"{root}byteorder" in archive and archive.read(f"{root}byteorder", 16) == b"big"

    def storage(folder: str, given: Any) -> Any:
        kind, key, count = _named(who, given)
        if kind is None:
            return None
        name = f"{root}{folder}/{key}"
        there = archive.sizes.get(name, -1) // NUMBERS[kind].itemsize
        if there < count:
            raise damaged(who, f"{max(there, 0)} numbers of {count} in {name}", "the numbers that are declared")
        return Storage(kind, count, partial(archive.read, name), big)

    found = load(archive.read(f"{root}data.pkl", PICKLE), who, partial(storage, "data"))
    if f"{root}constants.pkl" in archive and isinstance(found, Record):
        _add_constants(found, archive, root)
        constants = load(archive.read(f"{root}constants.pkl", PICKLE), who, partial(storage, "constants"))
        found.state |= _frozen(archive, root, constants if isinstance(constants, tuple) else ())
    return found


def _named(who: str, given: Any) -> tuple[str | None, str, int]:
    """The type, key and count of a storage; the type is None where nothing here reads it."""
    if not isinstance(given, tuple) or len(given) < 5 or given[0] != "storage" or not isinstance(given[1], Global):
        raise damaged(who, "a tensor without a storage", EXPECTED)
    key, count = given[2], given[4]
    if not isinstance(key, (str, int)) or not isinstance(count, int) or count < 0:
        raise damaged(who, "a storage without a size", EXPECTED)
    return TYPES.get(given[1].name.rsplit(".", 1)[-1]), str(key), count


def read_old(file: BinaryIO, who: str) -> Any:
    """The object in a file of torch before version 1.6: a pickle, and behind it the numbers of every storage."""
    size = file.seek(0, 2)
    file.seek(0)
    for _ in range(3):  # the magic number, the version, and what the machine was like
        load(file, who)
    at: dict[str, tuple[int, int]] = {}
    wanted: dict[str, int] = {}

    def storage(given: Any) -> Any:
        if isinstance(given, tuple) and len(given) == 4 and given[0] == "module":
            return given[1]  # a class, and beside it the text of its code
        kind, key, count = _named(who, given)
        if len(given) > 5 and given[5] is not None:
            hint = "open it with torch once and save it again with torch.save"
            raise DataError.of(who, "is of a very old torch", "a storage that is a view", "storages that are whole", hint)
        wanted[key] = NUMBERS[kind].itemsize if kind else 0
        if kind is None:
            return None
        if count * wanted[key] > size:
            raise damaged(who, f"{size} bytes for a storage of {count} numbers", "the numbers that are declared")

        def numbers() -> bytes:
            start, there = at.get(key, (0, 0))
            if there < count:
                raise damaged(who, f"{there} numbers of {count}", "the numbers that are declared")
            file.seek(start)
            return file.read(count * NUMBERS[kind].itemsize)

        return Storage(kind, count, numbers)

    found = load(file, who, storage)
    keys = load(file, who)
    if not isinstance(keys, list):
        raise damaged(who, "no list of storages", EXPECTED)
    position = file.tell()
    for key in map(str, keys):
        with reading(who, "the storages that the file declares", "fetch the file again"):
            file.seek(position)
            (count,) = struct.unpack("<q", file.read(8))
        end = position + 8 + count * wanted.get(key, 0)
        if count < 0 or end > size:
            raise damaged(who, f"a storage that ends at byte {end} of {size}", "the numbers that are declared")
        if not wanted.get(key):
            break  # of a type that is not known here: where the next one begins is not known either
        at[key] = (position + 8, count)
        position = end
    return found


def read_pickle(file: BinaryIO, who: str) -> Any:
    """The object of a plain pickle, in which a tensor's storage is a file of torch within it."""
    size = file.seek(0, 2)
    if size > PICKLE:
        raise damaged(who, f"a pickle of {size} bytes", f"at most {PICKLE}", "save it with torch.save")
    file.seek(0)
    return load(file, who, calls={"torch.storage._load_from_bytes": _from_bytes})


def _from_bytes(who: str, data: Any) -> Any:
    if not isinstance(data, bytes) or not data.startswith(MAGIC):
        raise damaged(who, "a storage that torch did not save", EXPECTED)
    return read_old(io.BytesIO(data), who)


def refuse_tar(who: str) -> DataError:
    """The error for files of torch before version 0.1.10."""
    what, hint = "is a tar archive of a very old torch", "open it with torch once and save it again with torch.save"
    return DataError.of(who, what, "a tar archive", "a zip archive, or a pickle with its storages", hint)


def _add_constants(found: Any, archive: Archive, root: str) -> None:
    """Give the records of a TorchScript archive what their code declares: batch_first, num_layers, mode, ..."""
    known: dict[str, dict[str, Any]] = {}
    left, seen = [found], set()
    while left:
        record = left.pop()
        if not isinstance(record, Record) or id(record) in seen:
            continue
        seen.add(id(record))
        left += record.state.values()
        if record.kind not in known:
            known[record.kind] = _constants(record.kind, archive, root)
        for name, value in known[record.kind].items():
            record.state.setdefault(name, value)


_CALL = re.compile(
    r"torch\.(lstm|gru|rnn_tanh|rnn_relu)\([^\n]*, (\w+|\[[^][\n]*\]), (?:True|False), "
    r"(\d{1,4}), [^,\n]+, \w+, (True|False), (True|False)\)"
)
"""A call in the code of a module: its kind, weights, number of layers, whether it has two directions, batch_first."""


def _calls(code: str) -> list[tuple[str, ...]]:
    """The calls in a code, of lines as torch writes them: one call each, and not so long that a search takes for ever."""
    lines = [line for line in code.splitlines() if len(line) < 10_000 and line.count("torch.") == 1]
    return [call for line in lines for call in _CALL.findall(line)]


def _frozen(archive: Archive, root: str, constants: tuple[Any, ...]) -> dict[str, Record]:
    """The layers of a module that `torch.jit.freeze` left without names: calls in its code whose weights are constants."""
    found: dict[str, Record] = {}
    for path in archive.sizes:
        if not constants or not path.startswith(f"{root}code/") or not path.endswith(".py"):
            continue
        code = archive.read(path, CODE).decode(errors="replace")
        lists = dict(re.findall(r"^ *(\w+) = (\[CONSTANTS[^][\n]*\])$", code, re.MULTILINE))
        for kind, given, layers, both, batch_first in _calls(code):
            at = [int(n) for n in re.findall(r"CONSTANTS\.c(\d{1,9})", lists.get(given, given))]
            arrays = [constants[n] for n in at if n < len(constants)]
            ends = [f"_l{n}{way}" for n in range(int(layers)) for way in ("", "_reverse")[: 1 + (both == "True")]]
            each = len(arrays) // max(len(ends), 1)
            if each not in _PARTS or each * len(ends) != len(arrays):
                continue
            names = [name + end for end in ends for name in _PARTS[each]]
            options = {"mode": kind.upper(), "batch_first": batch_first == "True"}
            parameters = dict(zip(names, arrays, strict=True))
            found[f"{kind}_{len(found)}"] = Record("torch.nn.LSTM", (), {"_parameters": parameters, **options})
    return found


_PARTS = {
    2: ("weight_ih", "weight_hh"),
    3: ("weight_ih", "weight_hh", "weight_hr"),
    4: ("weight_ih", "weight_hh", "bias_ih", "bias_hh"),
    5: ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"),
}
"""The parameters of one layer and direction, by how many there are, in torch's order."""


def _constants(kind: str, archive: Archive, root: str) -> dict[str, Any]:
    """What the code of a class declares as constants; for a traced one, what it calls."""
    module, _, name = kind.rpartition(".")
    for path in (f"{root}code/{module.replace('.', '/')}.py", f"{root}code/{kind.replace('.', '/')}.py"):
        if path in archive:
            break
    else:
        return {}
    code = archive.read(path, CODE).decode(errors="replace")
    start = code.find(f"class {name}(Module):")
    if start < 0:
        return {}
    code = code[start:]
    end = code.find("\nclass ", 1)
    code = code if end < 0 else code[:end]
    found: dict[str, Any] = {}
    for line in code.splitlines():
        constant = re.fullmatch(r"  (\w{1,40}) : Final\[\w+\] = (True|False|\d{1,9}|\"\w{1,20}\")", line)
        if constant:
            found[constant[1]] = ast.literal_eval(constant[2])
    calls = _calls(code)
    if calls and "mode" not in found:
        kind, *_, batch_first = calls[0]
        found |= {"mode": kind.upper(), "batch_first": batch_first == "True"}
    return found
