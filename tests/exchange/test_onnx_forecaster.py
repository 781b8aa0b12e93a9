"""Whole models of `fit` as ONNX: the window and what is known go in, the forecast comes out; streamed for 10,000 steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests.exchange.drawn_onnx import error, session  # noqa: E402
from tests.tasks import drawn  # noqa: E402

import openlstm  # noqa: E402
from openlstm.data.panel import Panel  # noqa: E402
from openlstm.exchange.onnx.feeds import example, feeds, zero_states  # noqa: E402
from openlstm.exchange.onnx.write import write  # noqa: E402
from openlstm.model_file import Forecaster  # noqa: E402
from openlstm.model_file.header import COUNTS  # noqa: E402

GOLDEN = sorted((Path(__file__).parent.parent / "golden").glob("*.safetensors"))


def calibrated(kind: str, **more: Any) -> Any:
    """A drawn model whose quantiles are moved, and none below zero."""
    head = drawn.header(kind, **more)
    own = Forecaster(name="network", weight=1.0, enough=(True,) * len(head.decoder.quantiles))
    return drawn.model(replace_header(head, forecasters=(own,), series=replace_header(head.series, positive=True)))


def replace_header(part: Any, **changes: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(part, **changes)


@pytest.mark.parametrize("more", [{}, {"features": False}, {"cell": "slstm", "members": 1}, {"cell": "gru", "num_layers": 1}])
@pytest.mark.parametrize("kind", [k for k in drawn.KINDS if k not in drawn.DISTRIBUTIONS])
def test_a_model_forecasts_the_same_numbers(kind: str, more: dict[str, Any]) -> None:
    """Over data with gaps, categories, marks, lags and a calendar, that are none of those it was checked on."""
    model = calibrated(kind, **more)
    run = session(write(model))
    if kind == "simulate":
        panel = drawn.panel(model.header, (25, 25, 25))
        ours = model.simulate(panel).values.reshape(3, -1, 4)
    else:
        panel = drawn.panel(model.header)
        ours = model.predict(panel).values
    found = run.run(["quantiles"], feeds(model, panel))[0]
    assert found.shape == ours.shape and error(found, ours) <= 1e-5


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_model_file_of_any_version_is_written(path: Path, tmp_path: Path) -> None:
    made = openlstm.export(path, "onnx", tmp_path / "m.onnx")
    model = openlstm.load(path)
    panel = example(model, extra=1)
    assert error(session(made).run(["quantiles"], feeds(model, panel))[0], model.predict(panel).values) <= 1e-5


@pytest.mark.slow
def test_ten_thousand_windows_of_a_stream() -> None:
    """`direct` reads its window again with each value: 10,000 of them in one call, and the stream's own forecasts of some."""
    model = drawn.model(drawn.header("direct", features=False, window=10))
    model = drawn.model(replace_header(model.header, series=replace_header(model.header.series, calendar=())))
    reach = model.header.series.reach
    rng = np.random.default_rng(0)
    values = np.cumsum(rng.standard_normal(10_000 + reach)) + 50
    windows = np.lib.stride_tricks.sliding_window_view(values, reach)[:10_000]
    found = session(write(model)).run(["quantiles"], {"values": np.ascontiguousarray(windows)})[0]
    ours = model.predict(windows).values
    assert np.abs(found - ours).max() <= 1e-4
    stream = model.stream(windows[0])
    for k in range(1, 200):
        pushed = stream.push(float(windows[k, -1]))
        assert pushed is not None and np.abs(found[k] - pushed.values[0]).max() <= 1e-4


@pytest.mark.slow
def test_ten_thousand_steps_of_a_simulation_one_by_one() -> None:
    model = drawn.model(drawn.header("simulate"))
    run = session(write(model))
    panel = drawn.panel(model.header, (10_000 - 1,))
    ours = model.simulate(panel).values
    given = feeds(model, panel)
    states = {n: a for n, a in given.items() if n.startswith("member")}
    steps = {n: a for n, a in given.items() if n not in states}
    found = []
    for t in range(len(ours)):
        now = {n: a if a.ndim == 1 else a[:, t : t + 1] for n, a in steps.items()}
        out = dict(zip([o.name for o in run.get_outputs()], run.run(None, {**now, **states}), strict=True))
        found.append(out["quantiles"][0, 0])
        states = {n: out[f"{n[:-1]}_n"] for n in states}
    assert len(ours) >= 10_000 and np.abs(np.array(found) - ours).max() <= 1e-4


@pytest.mark.parametrize("steps", [200, pytest.param(10_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", drawn.DISTRIBUTIONS)
def test_a_recursive_stream(kind: str, steps: int) -> None:
    """The distribution of the next value after each, beside `model.stream`, whose states are carried as well."""
    model = drawn.model(drawn.header(kind, features=False))
    model = drawn.model(replace_header(model.header, series=replace_header(model.header.series, calendar=())))
    header = model.header
    run = session(write(model))
    rng = np.random.default_rng(1)
    reach = header.series.reach
    values = (
        rng.poisson(6, steps + reach).astype(float)
        if header.decoder.distribution == COUNTS
        else rng.normal(50, 5, steps + reach)
    )
    values[rng.random(len(values)) < 0.05] = np.nan
    values[reach - 1] = 5.0
    stream: Any = model.stream(values[:reach])
    given = feeds(model, Panel.of([values[:reach]], "2001-01-01", header.series.step))
    found = dict(zip([o.name for o in run.get_outputs()], run.run(None, given), strict=True))
    worst = 0.0
    for t in range(reach, reach + steps):
        ours = np.array(stream.distributions)  # [M, R]
        worst = max(worst, float(np.abs(found["parameters"][:, 0] - ours).max()))
        states = {n: found[f"{n[:-1]}_n"] for n in zero_states(model, 1)}
        now = {"window": given["window"], "before": values[None, t : t + 1], "last": found["last_n"]}
        now |= {f"season_{n}": values[None, t + 1 - n : t + 2 - n] for n in header.series.seasons}
        found = dict(zip(found, run.run(list(found), {**now, **states}), strict=True))
        stream._keep(np.append(stream._values, values[t]))  # noqa: SLF001, a push without the forecast, which draws paths
        stream._step(float(values[t]))  # noqa: SLF001
    assert worst <= 1e-4


def test_a_column_may_have_the_name_of_anything() -> None:
    head = drawn.header("direct")
    names = dict(
        zip(
            (f.name for f in head.series.features),
            ("values", "shape_3", "anchor", "member0_h0", "add_20", "season_4"),
            strict=True,
        )
    )
    features = tuple(replace_header(f, name=names[f.name]) for f in head.series.features)
    model = drawn.model(replace_header(head, series=replace_header(head.series, features=features)))
    inputs = [i.name for i in write(model).graph.input]
    assert inputs[2:] == ["column values", "shape_3", "column anchor", "column member0_h0", "add_20", "column season_4"]


def test_the_check_reads_what_the_model_reads() -> None:
    """Its example has gaps, all categories and their marks."""
    model = drawn.model(drawn.header("direct"))
    panel = example(model)
    assert np.isnan(panel.values[: panel.history[0]]).any()
    assert {c.name for c in panel.covariates} == {f.name for f in model.header.series.features}
