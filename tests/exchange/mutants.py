"""Files that were damaged at random, and a process of its own that reads them within limits of memory and time.

Run as a script it reads every file of a folder and writes one line for each: what became of it.
"""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

MEMORY, SECONDS = 2**31, 20
"""What reading one file may take: bytes beside what the process had, and seconds."""

NUMBERS = [np.array([n], "<u8").tobytes()[:size] for n in (0, 1, 2**7, 2**31, 2**63, 2**64 - 1) for size in (1, 2, 4, 8)]


def originals() -> dict[str, bytes]:
    """A good file of every kind that can be made here, by its name."""
    import torch
    from safetensors.torch import save
    from torch import nn

    import openlstm

    found: dict[str, bytes] = {}
    rnn = nn.LSTM(3, 4, 2, bidirectional=True)
    net = nn.Sequential(nn.Linear(2, 3), rnn, nn.GRU(8, 3, batch_first=True), nn.RNNCell(3, 2))

    def saved(what: Any, **options: Any) -> bytes:
        buffer = io.BytesIO()
        torch.save(what, buffer, **options)
        return buffer.getvalue()

    found["state.pt"] = saved({"epoch": 1, "state": net.state_dict(), "slstm": {"_recurrent_kernel_": torch.zeros(2, 3, 4, 3)}})
    found["module.pt"] = saved(net)
    found["old.pt"] = saved(net, _use_new_zipfile_serialization=False)
    script = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Sequential(rnn)), script)
    found["script.pt"] = script.getvalue()
    found["arrays.pkl"] = pickle.dumps({name: a.numpy() for name, a in net.state_dict().items()}, 4)
    found["net.safetensors"] = save(net.state_dict())
    from openlstm.exchange import flax, keras

    layer = openlstm.GRU(3, 4, 2, bidirectional=True)
    found["net.msgpack"] = flax.encode(flax.write(layer))
    try:
        import h5py
    except ImportError:
        pass
    else:
        found["net.keras"] = keras.encode(keras.write(layer))
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            for name, array in (("kernel", (3, 16)), ("recurrent_kernel", (4, 16)), ("bias", (16,))):
                compression = "gzip" if name == "kernel" else None
                file.create_dataset(f"lstm/lstm/{name}:0", data=np.ones(array, np.float32), compression=compression)
            file.attrs["keras_version"] = "2.4.0"
            file.attrs["layer_names"] = ["lstm"]
        found["net.h5"] = buffer.getvalue()
    try:
        import onnx
        from onnx import helper, numpy_helper
    except ImportError:
        pass
    else:
        arrays = {"W": np.ones((2, 16, 3), np.float32), "R": np.ones((2, 16, 4), np.float32), "B": np.ones((2, 32), np.float32)}
        given = [numpy_helper.from_array(a, name) for name, a in arrays.items()]
        node = helper.make_node("LSTM", ["x", "W", "R", "B"], ["y"], "lstm", hidden_size=4, direction="bidirectional")
        shapes = [
            helper.make_tensor_value_info("x", 1, ["T", "B", 3]),
            helper.make_tensor_value_info("y", 1, ["T", 2, "B", 4]),
        ]
        graph = helper.make_graph([node], "g", shapes[:1], shapes[1:], given)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        found["net.onnx"] = model.SerializeToString()
    return found


def mutated(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    """A copy with some damage; of an archive as often in what its members hold, so that checksums fit."""
    if data.startswith(b"PK") and rng.random() < 0.6:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = str(rng.choice([n for n in members if members[n]]))
        members[name] = _damaged(members[name], rng, other)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if rng.random() < 0.3 else zipfile.ZIP_STORED) as archive:
            for name, held in members.items():
                archive.writestr(name, held)
        return buffer.getvalue()
    return _damaged(data, rng, other)


def _damaged(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    out = bytearray(data)
    near = min(len(out), 2048) if rng.random() < 0.5 else len(out)  # where headers stand
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(0, max(near, 1)))
        how = rng.integers(0, 7)
        if how < 2 and out:
            out[at % len(out)] ^= 1 << int(rng.integers(0, 8))
        elif how == 2:
            number = NUMBERS[rng.integers(0, len(NUMBERS))]
            out[at : at + len(number)] = number
        elif how == 3:
            del out[at : at + int(rng.integers(1, 64))]
        elif how == 4:
            start, size = int(rng.integers(0, len(out) + 1)), int(rng.integers(1, 64))
            out[at:at] = out[start : start + size]
        elif how == 5:
            start, size = int(rng.integers(0, len(other))), int(rng.integers(1, 256))
            out[at : at + size] = other[start : start + size]
        elif rng.random() < 0.3:
            del out[at:]
    return bytes(out)


def survivors(folder: Path, count: int, seed: int) -> list[str]:
    """Read `count` damaged files of every kind; what was neither read nor refused in our form, empty if all is well."""
    rng = np.random.default_rng(seed)
    given = originals()
    names = []
    for kind, data in given.items():
        for n in range(count):
            other = given[list(given)[rng.integers(0, len(given))]]
            names.append(f"{n:05}-{kind}")
            (folder / names[-1]).write_bytes(mutated(data, rng, other))
    wrong: list[str] = []
    left = sorted(names)
    while left:
        ran = subprocess.run(
            [sys.executable, __file__, str(folder), left[0]], capture_output=True, text=True, timeout=3600, check=False
        )
        told = [line.split(" ", 1) for line in ran.stdout.splitlines()]
        wrong += [" ".join(line) for line in told if line[1] not in ("read", "refused")]
        done = {line[0] for line in told}
        left = [name for name in left if name not in done]
        if left:  # the process ended at the first of these
            wrong.append(f"{left.pop(0)} ended the process with {ran.returncode}: {ran.stderr[-300:]}")
    return wrong


def main(folder: Path, first: str) -> None:
    """Read every file from `first` on."""
    import faulthandler
    import resource
    import warnings

    import torch

    import openlstm
    from openlstm.errors import OpenLSTMError

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for name in ("onnx", "onnxruntime", "h5py", "msgpack"):
        try:
            __import__(name)
        except ImportError:
            pass
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for path in sorted(folder.iterdir()):
        if path.name < first:
            continue
        faulthandler.dump_traceback_later(SECONDS, exit=True)  # a hang ends the process
        try:
            found = openlstm.read(path)
            for name in found:
                found[name]
            told = "read"
        except OpenLSTMError:
            told = "refused"
        except BaseException as error:  # noqa: BLE001
            told = f"{type(error).__name__}: {str(error)[:200]!r}"
        print(path.name, told, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
