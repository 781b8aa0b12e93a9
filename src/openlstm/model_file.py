"""The model file: one `.safetensors` file that holds tensors and a closed, versioned JSON header; no pickle, no code.

The header is one string under the key `openlstm` of the safetensors metadata. Its checksum is the sha256 over the canonical
JSON of the header with an empty checksum, followed by every tensor's name, dtype, shape and bytes in the order of names.

Legend: I input size, H hidden size, L layers, G gates of a cell.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from openlstm import cells, weights
from openlstm._errors import ModelFileError, message
from openlstm._files import write_whole

VERSION = 3
"""The newest version of the header that this library reads and the one it writes.

2 brought cells beside the first three, 3 the way the weights began. A file of version 1 is one of version 2 whose cell has no
options, and one of version 2 is one of version 3 that began as torch does.
"""

KEY = "openlstm"
"""The key of the safetensors metadata under which the header lies."""

CELLS: dict[str, cells.Cell] = {
    "lstm": cells.LSTM(),
    "peephole": cells.Peephole(),
    "nig": cells.NIG(),
    "nig_np": cells.NIG(peephole=False),
    "nfg": cells.NFG(),
    "nfg_np": cells.NFG(peephole=False),
    "nog": cells.NOG(),
    "nog_np": cells.NOG(peephole=False),
    "niaf": cells.NIAF(),
    "niaf_np": cells.NIAF(peephole=False),
    "noaf": cells.NOAF(),
    "noaf_np": cells.NOAF(peephole=False),
    "cifg": cells.CIFG(),
    "cifg_np": cells.CIFG(peephole=False),
    "fgr": cells.FGR(),
    "lstm1997": cells.LSTM1997(),
    "lstm_ln": cells.LayerNormLSTM(),
    "gru": cells.GRU(),
    "rnn_tanh": cells.VanillaRNN("tanh"),
    "rnn_relu": cells.VanillaRNN("relu"),
}
"""The cells that a model file can name. A name in a file stays for ever: kernels may be renamed, these may not."""


class _Part(BaseModel):
    """A part of the header: closed (unknown keys are refused), strict about types, immutable, finite numbers only."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Step(_Part):
    """The sampling interval of a series: so many calendar months, or so many seconds."""

    unit: Literal["month", "second"]
    count: int = Field(ge=1)


class Series(_Part):
    """What the model was trained on, and how its numbers are scaled.

    The values of a window enter as (y - its last known value) / max(its standard deviation, scale / 10), where `scale` is the
    mean standard deviation of the training windows, in the unit of the target.
    """

    time: str
    target: str
    step: Step
    period: int = Field(ge=1, le=10**6)  # steps in a season
    window: int = Field(ge=1, le=10**8)  # steps the network reads
    horizon: int = Field(ge=1, le=10**8)  # steps it forecasts
    scale: float = Field(gt=0)
    seasonal_error: float | None = Field(gt=0)  # mean |y_t - y_(t-period)| of the rows it has seen: the unit of MASE


class Network(_Part):
    """`members` recurrent networks of equal shape, whose outputs are averaged."""

    cell: str  # a key of CELLS
    clip: float | None = Field(default=None, gt=0)  # the cell state is kept within -clip..clip
    cells_per_gate: int = Field(default=1, ge=1)  # so many neighbouring cells share their gates
    input_size: Literal[2]  # the value, and whether it is missing
    hidden_size: int = Field(ge=1)
    num_layers: int = Field(ge=1)
    members: int = Field(ge=1)

    @model_validator(mode="after")
    def _possible(self) -> Network:
        if self.cell not in CELLS:
            raise ValueError(f"unknown cell {self.cell!r}")
        known = {field.name for field in fields(CELLS[self.cell])}  # type: ignore[arg-type]
        for name in self._options():
            if name not in known:
                raise ValueError(f"{self.cell} has no {name}")
        if self.hidden_size % self.cells_per_gate:
            raise ValueError("hidden_size is not a multiple of cells_per_gate")
        return self

    def recurrence(self) -> cells.Cell:
        """The cell with its options."""
        return replace(CELLS[self.cell], **self._options())  # type: ignore[type-var]

    def _options(self) -> dict[str, Any]:
        """Those that are not the defaults."""
        options = {"clip": self.clip, "cells_per_gate": self.cells_per_gate}
        return {name: value for name, value in options.items() if value != type(self).model_fields[name].default}


class Head(_Part):
    """A linear map from the last h [H] to horizon x quantiles numbers."""

    quantiles: tuple[float, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _ordered(self) -> Head:
        inside = all(0 < q < 1 for q in self.quantiles)
        if not inside or list(self.quantiles) != sorted(set(self.quantiles)) or 0.5 not in self.quantiles:
            raise ValueError("quantiles must rise strictly inside (0, 1) and hold 0.5")
        return self


class Training(_Part):
    """How the model was trained: enough to repeat it, and to know which rows it has seen."""

    first: str  # ISO time of the first row it has seen
    last: str  # ISO time of the last row it has seen, validation included
    seed: int = Field(ge=0)
    epochs: tuple[int, ...]  # of each member: the epoch whose weights were kept
    validation_loss: tuple[float, ...]  # of each member
    learning_rate: float = Field(gt=0)
    batch_size: int = Field(ge=1)
    weight_decay: float = Field(ge=0)
    clip: float = Field(gt=0)
    init: str = Field(default="default", max_length=100)  # as `openlstm.nn.init.apply` takes it


class Header(_Part):
    """Everything a model file says beside its tensors."""

    version: Literal[1, 2, 3] = VERSION
    library: str
    task: Literal["forecast"]
    series: Series
    network: Network
    head: Head
    training: Training
    checksum: str = ""

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
    """Read a model file and hold every value of it against the schema, the checksum and the shapes it names.

    Returns:
        The header, and the tensors (float32) by name.

    Raises:
        ModelFileError: if the file is missing, truncated, damaged, foreign or from a newer version.
    """
    path = Path(path)
    text, tensors = _read_safetensors(path)
    raw = _parse(path, text)
    version = raw.get("version")
    if isinstance(version, int) and not isinstance(version, bool) and version > VERSION:
        raise _error(
            path,
            f"was written by a newer openlstm ({raw.get('library')})",
            f"header version {version}",
            f"header version {VERSION} or older",
            "pip install --upgrade openlstm",
        )
    if raw.get("checksum") != _checksum(raw, tensors):
        raise _damaged(path, "its checksum does not fit its content")
    try:
        header = Header.model_validate_json(text)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "header"
        raise _error(
            path,
            "its header is not one of openlstm's",
            f"{where}: {first['msg']}",
            f"the closed schema of version {VERSION}",
            "the file was made or changed by another program; fit the model again",
        ) from None
    _check_tensors(path, header, tensors)
    return header, tensors


def _read_safetensors(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    if not path.is_file():
        raise _error(
            path, "there is no such file", "nothing" if not path.exists() else "a folder", "a model file", "check the path"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(KEY)
            if text is None:
                raise _error(
                    path,
                    "is not a model file of openlstm",
                    "a safetensors file without an openlstm header",
                    "a file written by `openlstm fit` or `Forecaster.save`",
                    "for bare weights of torch use openlstm.LSTM(...).load_state_dict",
                )
            return text, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except TypeError as e:  # an element type that numpy does not have
        raise _error(
            path, "holds a tensor of an unknown type", str(e), "float32 tensors", "pip install --upgrade openlstm"
        ) from None
    except SafetensorError as e:
        size = path.stat().st_size
        raise _error(
            path,
            "cannot be read: truncated, damaged, or not a safetensors file",
            f"{size} bytes ({str(e).strip()})",
            "a whole safetensors file",
            "copy the file again, or fit the model again",
        ) from None


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
    digest = hashlib.sha256(_canonical({**raw, "checksum": ""}).encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(_canonical([name, str(array.dtype), list(array.shape)]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _check_tensors(path: Path, header: Header, tensors: dict[str, np.ndarray]) -> None:
    expected = header.tensors()
    for name in sorted(expected.keys() | tensors.keys()):
        array = tensors.get(name)
        want = f"float32{list(expected[name])}" if name in expected else "no such tensor"
        got = f"{array.dtype}{list(array.shape)}" if array is not None else "no such tensor"
        if got != want:
            raise _error(path, f"tensor {name} does not fit the header", got, want, "fit the model again")
        if array is not None and not np.isfinite(array).all():
            raise _error(path, f"tensor {name} holds a value that is not finite", got, "finite numbers", "fit the model again")


def _damaged(path: Path, why: str) -> ModelFileError:
    return _error(path, "is damaged", why, "the file as it was written", "copy the file again, or fit the model again")


def _error(path: Path, what: str, got: str, expected: str, hint: str) -> ModelFileError:
    return ModelFileError(message(path.name, what, got, expected, hint))
