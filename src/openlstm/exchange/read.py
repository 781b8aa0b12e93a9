"""`read`: the recurrent layers in a file or an object of another package; what a file is, is seen in its content."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from openlstm import model_file
from openlstm.errors import DataError, DtypeError, missing_extra
from openlstm.exchange import archives, checkpoints
from openlstm.exchange.contents import Archive, damaged, reading
from openlstm.exchange.layers import Layers
from openlstm.exchange.stack import Stack

KINDS = "an ONNX, Keras, Flax, torch, pickle or safetensors file with recurrent layers"
HDF5 = b"\x89HDF\r\n\x1a\n"
OTHERS = {
    b"GGUF": ("a GGUF file", "export the model to ONNX or safetensors"),
    b"\x1f\x8b": ("compressed with gzip", "unpack it first"),
    b"7z": ("a 7z archive", "unpack it first"),
    b"%PDF": ("a PDF", "name the file with the weights"),
    b"<": ("a page of HTML or XML, perhaps an error that was saved in place of the file", "fetch the file again"),
    b"\x93NUMPY": ("one array of numpy", "save all arrays of the layer, by name, as safetensors"),
    b"version https://git-lfs": ("a pointer to a file that Git LFS keeps elsewhere", "run `git lfs pull`"),
}
"""What other files begin with: what they are, and what to do."""

ENDINGS = {
    ".onnx": "ONNX",
    ".keras": "Keras",
    ".h5": "HDF5",
    ".hdf5": "HDF5",
    ".msgpack": "Flax",
    ".safetensors": "safetensors",
    ".pt": "torch",
    ".pth": "torch",
    ".ckpt": "torch",
    ".pkl": "pickle",
    ".pickle": "pickle",
}
"""What a file is said to be by its ending."""


def read(source: Any) -> Layers:
    """The recurrent layers of a trained model of another package, as layers of ours.

    Args:
        source: a path: ONNX; Keras (`.keras`, `.h5`); Flax (msgpack); torch (`torch.save`, TorchScript, pickles), of which no
            code is run; safetensors; our model files. Or an object: an `onnx.ModelProto`, a torch module or state dict, a
            Keras model, a tree of Flax parameters.

    Returns:
        `Layers`: a mapping from names to layers in eval mode. Printed it is a table; what could not be expressed is in `left`.

    Raises:
        DataError: for a file that is missing, damaged, of an unknown kind, that holds code to be called, or that declares more
            than is there.
        ArgumentError: if it holds no recurrent layer that can be expressed, naming each that cannot.
        DtypeError: for an object of an unknown kind.
        MissingExtraError: where the package that opens it is not installed.

    >>> import torch
    >>> layers = read({"rnn.weight_ih_l0": torch.zeros(20, 3), "rnn.weight_hh_l0": torch.zeros(20, 5)})
    >>> layers["rnn"]
    LSTM(3, 5, bias=False)
    """
    if isinstance(source, (str, os.PathLike)):
        return _of_file(Path(source))
    who, kind = f"read({type(source).__name__})", type(source)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(source, torch.nn.Module) and not _of_keras(source):
        return checkpoints.layers_of(source, who)
    if kind.__module__.split(".")[0] == "onnx":
        from openlstm.exchange.onnx.read import read as read_onnx

        return read_onnx(source)
    if _of_keras(source):
        from openlstm.exchange import keras

        return keras.layers_of(source, who)
    if isinstance(source, Mapping):
        if not _of_flax(source):
            return checkpoints.layers_of(source, who)
        from openlstm.exchange import flax

        return flax.layers_of(source, who)
    expected = "a path, an onnx.ModelProto, a torch module or state dict, a Keras model, a tree of Flax parameters"
    hint = "save the model and pass the path of its file"
    raise DtypeError.of("read", "cannot read this", kind.__name__, expected, hint)


def _of_keras(source: Any) -> bool:
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(source, getattr(keras, "Layer", ()))


def _of_flax(tree: Any, depth: int = 0) -> bool:
    """Whether a tree of arrays has kernels, as Flax calls them, which no state dict of torch has."""
    if not isinstance(tree, Mapping) or depth > checkpoints.DEEPEST:
        return False
    return "kernel" in tree or any(_of_flax(value, depth + 1) for value in tree.values())


def _of_file(path: Path) -> Layers:
    who = str(path)
    if path.is_dir():
        names = sorted(p.name for p in path.iterdir() if p.suffix in ENDINGS)[:5]
        hint = "name the file with the weights" + (f", for example {names[0]}" if names else "")
        raise DataError.of(who, "is a folder", f"a folder with {', '.join(names) or 'no such file'}", KINDS, hint)
    try:
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError:
        raise DataError.of(who, "is not there", "no such file", KINDS, "check the path") from None
    with file:
        begin = file.read(32)
        kind, reader = _reader(path, file, begin)
        file.seek(0)
        found = reader(file, path)
    said = ENDINGS.get(path.suffix.lower())
    if said not in (None, kind) and not {said, kind} <= {"torch", "pickle"}:
        found.notes += (f"the ending {path.suffix} says {said}, the content {kind}",)
    return found


def _reader(path: Path, file: BinaryIO, begin: bytes) -> tuple[str, Callable[[BinaryIO, Path], Layers]]:
    """What kind of file this is by its content, and what reads it."""
    who = str(path)
    if not begin:
        raise DataError.of(who, "is empty", "0 bytes", KINDS, "fetch the file again")
    if begin.startswith(b"PK"):
        archive = Archive(file, who)
        if archives.is_archive(archive):
            return "torch", lambda file, path: checkpoints.layers_in(archives.read_archive(archive, who), who)
        if "config.json" in archive or "model.weights.h5" in archive:
            from openlstm.exchange import keras

            return "Keras", lambda file, path: keras.read_archive(archive, who)
        names = ", ".join(list(archive.sizes)[:5])
        raise damaged(who, f"a zip archive of {names or 'nothing'}", "one that torch or Keras saved", "unpack it first")
    if begin.startswith(HDF5):
        from openlstm.exchange import keras

        return "HDF5", keras.read_hdf5
    if begin.startswith(archives.MAGIC):
        return "torch", lambda file, path: checkpoints.layers_in(archives.read_old(file, who), who)
    file.seek(257)
    if file.read(5) == b"ustar":
        raise archives.refuse_tar(who)
    if model_file.is_ours(path):
        return "safetensors", _model_file
    if begin[8:9] == b"{" and int.from_bytes(begin[:8], "little") < 2**32:
        return "safetensors", _safetensors
    for start, (what, hint) in OTHERS.items():
        if begin.startswith(start):
            raise DataError.of(who, "is of a kind that is not read", what, KINDS, hint)
    said = ENDINGS.get(path.suffix.lower())
    if (
        begin[0] == 0x80
        and begin[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
        or (said in ("pickle", "torch") and begin[:1] in b"(]}\x80")
    ):
        return "pickle", _pickle
    if said == "Flax" or (said is None and (0x81 <= begin[0] <= 0x8F or begin[0] in (0xDE, 0xDF))):
        from openlstm.exchange import flax

        return "Flax", flax.read_file
    if said == "ONNX" or begin[0] == 0x08:
        return "ONNX", _onnx
    if begin[4:8] == b"TFL3":
        got, hint = "a model of TensorFlow Lite", "export the model to ONNX, or save it as .keras"
        raise DataError.of(who, "is of a kind that is not read", got, KINDS, hint)
    got = f"a file that begins with {begin[:8].hex(' ')}"
    raise DataError.of(who, "is of a kind that is not read", got, KINDS, "check that this is the file with the weights")


def _pickle(file: BinaryIO, path: Path) -> Layers:
    who = str(path)
    tree = archives.read_pickle(file, who)
    arrays = checkpoints.found_in(tree, who).arrays
    if not any(name.endswith(".kernel") for name in arrays):
        return checkpoints.layers_in(tree, who)
    from openlstm.exchange import flax

    return flax.layers_of(flax.nested(arrays), who)


def _onnx(file: BinaryIO, path: Path) -> Layers:
    try:
        from openlstm.exchange.onnx.read import read as read_onnx
    except ModuleNotFoundError as error:
        raise missing_extra("read", "onnx", "exchange") from error
    return read_onnx(path)


def _safetensors(file: BinaryIO, path: Path) -> Layers:
    """safetensors holds a state dict; its own reader checks what the header declares."""
    from safetensors import safe_open

    try:
        import torch  # noqa: F401, which has bfloat16
    except ModuleNotFoundError as error:
        raise missing_extra("read", "torch", "torch") from error
    with reading(str(path), "a safetensors file", "fetch the file again"), safe_open(path, "pt") as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
        arrays = {
            name: checkpoints.lazy_tensor(s.get_dtype(), tuple(s.get_shape()), lambda name=name: opened.get_tensor(name))
            for name, s in slices.items()
        }
        return checkpoints.layers_in(arrays, str(path))


def _model_file(file: BinaryIO, path: Path) -> Layers:
    """The recurrent layers of a model file of ours."""
    from openlstm.runtime import load as load_model

    model = load_model(path)
    many = len(model.networks) > 1
    names = [f"member.{n}" if many else "recurrent" for n in range(len(model.networks))]
    stacks = [Stack(name, net.cell, tuple((w,) for w in net.layers)) for name, net in zip(names, model.networks, strict=True)]
    note = "a model of ours also scales what goes in and comes out: `openlstm.load` opens all of it"
    return Layers(str(path), stacks, (note,))
