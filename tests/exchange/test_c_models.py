"""A model of `fit` as a header of C: raw numbers in, the quantiles of the model out, step by step."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.exchange.compiled import CROSS, EMULATOR, FUSED, NEEDS_GCC, STRICT, Compiled, off, run
from tests.exchange.test_c import refused
from tests.support import ROOT
from tests.tasks import drawn

import openlstm
from openlstm import cli
from openlstm.exchange.c import recorded
from openlstm.exchange.export import export
from openlstm.model_file import Forecaster

GOLDEN = ROOT / "tests/golden"


def calibrated(model: Any) -> Any:
    """The model with bands that move, of a series that is never below zero."""
    Q, K = len(model.levels), model.horizon
    shift = np.random.default_rng(2).normal(0, 0.5, (K, Q)).astype(np.float32)
    head = model.header.changed(
        forecasters=(Forecaster(name="network", weight=1.0, enough=(True,) * Q),),
        series=model.header.series.changed(positive=True),
    )
    return replace(model, header=head, tensors={**model.tensors, "calibration.network": shift})


MODELS = {
    "simulate": lambda: drawn.model(drawn.header("simulate")),
    "simulate, calibrated": lambda: calibrated(drawn.model(drawn.header("simulate", cell="slstm", heads=2))),
    "direct": lambda: drawn.model(drawn.header("direct")),
    "direct, calibrated": lambda: calibrated(drawn.model(drawn.header("direct", cell="gru", members=1, hidden_size=9))),
    "direct, of the target alone": lambda: drawn.model(drawn.header("direct", features=False, window=4, horizon=3)),
    "linear": lambda: openlstm.load(GOLDEN / "forecast_peephole_v2.safetensors"),
    "of a file": lambda: openlstm.load(GOLDEN / "forecast_direct_v4.safetensors"),
}


def panel(model: Any) -> Any:
    """One series with gaps, so long that a window has been left behind."""
    steps = model.window + 30
    made = recorded.drawn(model, steps)
    rng = np.random.default_rng(3)
    values = made.values - 40
    values[:-1][rng.random(len(values) - 1) < 0.2] = np.nan
    marked = {f.name for f in model.header.series.features if f.marked}
    gaps = lambda c: np.where(rng.random(len(c.values)) < 0.2 * (c.name in marked), np.nan, c.values)  # noqa: E731
    held = [replace(c, values=gaps(c)) for c in made.covariates]
    values[steps:] = np.nan
    return replace(made, values=values.astype(np.float32).astype(np.float64), covariates=tuple(held))


@NEEDS_GCC
@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_a_header_gives_what_the_model_gives(name: str, weights: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    if weights == "int8" and "calibrated" in name:
        return  # its networks are those of the others, or have no weights in 8 bits
    compiled = Compiled(export(model, "c", weights=weights), tmp_path, *FUSED)
    assert compiled.library.self_test() == 0
    if weights == "int8":
        model = replace(model, networks=tuple(recorded.Eight(n.cell, n.layers) for n in model.networks))
    given = panel(model)
    y, wanted = compiled.run(recorded.inputs(model, given)), recorded.answers(model, given)
    known = np.isfinite(wanted).all(1)
    assert known.sum() >= 30 and np.isnan(y[~known]).all()
    assert off(y[known], wanted[known]) < (1e-6 if weights == "float32" else 1e-3)


@NEEDS_GCC
def test_a_stream_of_raw_numbers(tmp_path: Path) -> None:
    """Value by value as `Model.stream` takes them, from outside: x is the target alone."""
    head = drawn.header("direct", features=False)
    model = drawn.model(head.changed(series=head.series.changed(calendar=())))
    compiled, stream = Compiled(export(model, "c"), tmp_path), model.stream()
    values = np.random.default_rng(0).normal(20, 5, 40).astype(np.float32)
    y = compiled.run(values[:, None])
    for value, found in zip(values, y, strict=True):
        wanted = stream.push(float(value))
        assert np.isnan(found).all() if wanted is None else off(found.reshape(model.horizon, -1), wanted.values[0]) < 1e-6


@NEEDS_GCC
@pytest.mark.parametrize(
    ("column", "value"), [("price", np.nan), ("kind", np.nan), ("kind", 2.0), ("color", 0.5), ("color", -1)]
)
def test_what_predict_refuses_makes_y_not_a_number(column: str, value: float, tmp_path: Path) -> None:
    """Until the stream is reset; a missing color is one that training has seen."""
    model = MODELS["simulate"]()
    compiled, given = Compiled(export(model, "c"), tmp_path), recorded.drawn(model, 8)
    x = recorded.inputs(model, given)
    at = 4 + [f.name for f in model.header.series.features].index(column)
    state, wrong = compiled.stream(), x.copy()
    wrong[5, at] = value
    assert np.isnan(compiled.run(wrong, state)).any(1).tolist() == [False] * 5 + [True] * 3
    compiled.library.reset(state)
    assert np.array_equal(compiled.run(x, state), compiled.run(x))
    x[5, 5] = np.nan  # color
    assert np.isfinite(compiled.run(x)).all()


def test_the_header_says_what_x_is() -> None:
    text = export(drawn.model(drawn.header("direct")), "c")
    said = text[text.index("the model of") : text.index("; weights in")]
    assert said == (
        "the model of y, 7 steps ahead\n"
        "   x: y; sine of the weekday; cosine of the weekday; sine of the yearday; cosine of the yearday; price; rain; "
        "color (0 red, 1 green); sky (0 red, 1 green); area; kind (0 red, 1 green)\n"
        "      and then, of each of the 7 steps ahead: sine of the weekday; cosine of the weekday; sine of the yearday; "
        "cosine of the yearday; price; color\n"
        "   y: of each step ahead the quantiles 0.1, 0.4, 0.5, 0.9; NaN until there were 10 steps"
    )


def test_names_cannot_end_the_comment() -> None:
    head = drawn.header("simulate")
    first = head.series.features[0].changed(name="a*/\n#error \u00e9")
    text = export(drawn.model(head.changed(series=head.series.changed(features=(first, *head.series.features[1:])))), "c")
    assert "a* / #error \\xe9" in text and text.index("*/") > text.index("; weights in")


@pytest.mark.parametrize("name", ["g++", pytest.param("64-bit Arm", marks=pytest.mark.neon)])
def test_a_model_on_other_compilers(name: str, tmp_path: Path) -> None:
    cross = "Arm" in name
    command = [CROSS, "-static", *STRICT] if cross else ["g++", "-x", "c++", *STRICT[1:]]
    if shutil.which(command[0]) is None or (cross and EMULATOR is None):
        pytest.skip(f"needs {command[0]} and, for Arm, qemu-user")
    (tmp_path / "model.h").write_text(export(MODELS["of a file"](), "c"))
    (tmp_path / "main.c").write_text(
        '#define MODEL_SELF_TEST\n#include "model.h"\nint main(void) { return model_self_test(); }\n'
    )
    run(*command, "-o", str(tmp_path / "main"), str(tmp_path / "main.c"))
    run(*([EMULATOR] if cross and EMULATOR else []), str(tmp_path / "main"))


def test_the_command_writes_a_header(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source, made = GOLDEN / "forecast_direct_v4.safetensors", Path("forecast_direct_v4.h")
    assert cli.main(["export", str(source), "--to", "c", "--name", "sales", "--weights", "int8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"source": str(source), "to": "c", "output": str(made), "bytes": made.stat().st_size}
    assert "static inline void sales_step(sales *self" in made.read_text()
    assert cli.main(["export", str(source), "--to", "c", "-o", "x.c"]) == 1
    assert "x.c: has an unknown file extension" in capsys.readouterr().err
    assert cli.main(["export", str(source), "--to", "rust"]) == 1
    assert capsys.readouterr().err == (
        "error export: unknown target\n"
        "  got       to='rust'\n"
        "  expected  onnx or c or torch or keras or flax\n"
        "  hint      to='onnx' for ONNX Runtime, 'c' for a header without dependencies\n"
    )


def test_a_model_that_draws_is_refused() -> None:
    assert refused(drawn.model(drawn.header("normal"))) == (
        "export to 'c': draws its forecasts, and C has no random numbers here\n"
        "  got       a recursive model\n"
        "  expected  a model of the decoder direct or simulate\n"
        "  hint      fit with decoder='direct'"
    )
