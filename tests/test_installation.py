"""The base install works alone, on five small packages; what needs more names the command that installs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.support import daily

from openlstm.errors import source

EXTRAS = ["torch", "lightning_fabric", "polars", "altair", "vl_convert", "jinja2", "statsmodels", "pandas", "scipy", "ray"]
EXTRAS += ["h5py", "msgpack", "onnx", "onnxruntime"]


def base(code: str, *without: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter in which the extras, or what else is named, cannot be imported."""
    hide = f"import sys\nfor name in {list(without or EXTRAS)}: sys.modules[name] = None\n"
    environment = {k: v for k, v in os.environ.items() if k != "OPENLSTM_BACKEND"}
    return subprocess.run(
        [sys.executable, "-c", hide + code], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def cli(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return base(f"from openlstm.cli import main\nsys.argv = ['openlstm', *{list(arguments)}]\nsys.exit(main())", cwd=cwd)


def test_recur_runs_on_numpy() -> None:
    code = """
import numpy as np, openlstm
from openlstm.reference import Weights
w = Weights(np.ones((8, 3), np.float32), np.ones((8, 2), np.float32))
print(openlstm.recur(openlstm.cells.LSTM(), np.ones((5, 1, 3), np.float32), w).y.shape)
"""
    done = base(code)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "(5, 1, 2)", "")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small forecaster, fitted here with everything installed."""
    from openlstm import Forecaster

    t = np.arange(120)
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    made = Forecaster(7, members=1, hidden_size=8, steps=20).fit(daily(np.sin(2 * np.pi * t / 7) + 0.1 * t), quiet=True)
    made.save(path)
    return path


def test_a_model_predicts_and_streams_without_any_extra(model: Path) -> None:
    code = f"""
import numpy as np, openlstm
model = openlstm.load({str(model)!r})
values = np.arange(80.0)
stream = model.stream(values[:-1], start="2001-01-01")
found = {{use: model.predict(values, use=use, start="2001-01-01").median for use in model.names}}
same = (stream.push(values[-1]).median == found["network"]).all()
print(len(found) > 5, bool(same), bool(np.isfinite([*found.values()]).all()))
"""
    done = base(code)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "True True True", "")


NEED_TORCH = ["LSTM", "RNN", "LSTMCell", "replace", "trace", "Trace", "nn", "Forecaster"]


def test_every_name_that_needs_torch_says_how_to_get_it() -> None:
    code = f"""
import openlstm
for name in {NEED_TORCH}:
    try:
        getattr(openlstm, name)
    except openlstm.errors.MissingExtraError as error:
        print(error)
"""
    done = base(code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "".join(
        f"openlstm.{name}: needs the package torch, which is not installed\n"
        "  got       no module named torch\n"
        "  expected  the extra 'torch'\n"
        f"  hint      pip install '{source()}[torch]'\n"
        for name in NEED_TORCH
    )


def test_doctor_runs_and_lists_what_is_missing_with_its_command() -> None:
    done = cli("doctor", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["engine"]["threads"] >= 1


@pytest.mark.parametrize(
    "arguments, extra",
    [
        (["fit", "forecast", "a.csv", "--time", "t", "--target", "y", "--horizon", "3", "-o", "m.safetensors"], "(torch|data)"),
        (["lab", "latch", "--lag", "3"], "torch"),
        (["explain", "-o", "e.html"], "(torch|report)"),
        (["demo", "-o", "out"], "demo"),
    ],
    ids=lambda a: a[0] if isinstance(a, list) else "",
)
def test_a_command_that_needs_an_extra_says_so_in_one_error(arguments: list[str], extra: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("t,y\n2001-01-01,1\n2001-01-02,2\n")
    done = cli(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert re.search(rf"pip install '{re.escape(source())}\[{extra}\]'", done.stderr), done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_partitions_without_polars_or_ray_say_so_and_leave_nothing(model: Path, tmp_path: Path) -> None:
    days = np.datetime64("2001-01-01", "us") + np.arange(80) * np.timedelta64(1, "D")
    pl.DataFrame({"time": days, "value": np.arange(80.0)}).write_parquet(tmp_path / "a.parquet")
    asked = ["predict", str(model), "a.parquet", "--target", "value", "--engine", "ray", "-o", "b.parquet"]
    code = f"from openlstm.cli import main\nmain({asked})"
    for package, extra in (("polars", "data"), ("ray", "ray")):
        done = base(code, package, cwd=tmp_path)
        assert done.stderr.endswith(f"  hint      pip install '{source()}[{extra}]'\n"), done.stderr
        assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


def test_without_the_compiled_module_the_reference_runs_and_says_so_once() -> None:
    code = """
import numpy as np, openlstm
from openlstm.reference import Weights
w = Weights(np.ones((8, 3), np.float32), np.ones((8, 2), np.float32))
for _ in range(3): y = openlstm.recur(openlstm.cells.LSTM(), np.ones((5, 1, 3), np.float32), w).y
print(y.shape)
"""
    done = base(code, "openlstm._native")
    assert (done.returncode, done.stdout.strip()) == (0, "(5, 1, 2)")
    assert done.stderr.count("the compiled extension is missing") == 1
    assert "Reinstall openlstm to build it" in done.stderr
