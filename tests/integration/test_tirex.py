"""TiRex-2 with its sLSTM swapped for ours, by the program that examples/ has for it; random weights of a small size."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("tirex2", reason="tirex2 is not installed: pip install tirex-2")

SIZES = {"width": 32, "blocks": 4, "patch": 4, "context": 96, "future": 16}
PLAIN = {"pad_context": False, "tta_diff": False}


def _program() -> Any:
    path = Path(__file__).parent.parent.parent / "examples" / "tirex_forecasts.py"
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(module := module_from_spec(spec))
    return module


tirex = _program()


@pytest.fixture(autouse=True)
def eager() -> Iterator[None]:
    """Its patch embedding is compiled otherwise."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture
def pair() -> tuple[Any, Any]:
    """(theirs, swapped): the same model."""
    torch.manual_seed(0)
    theirs = tirex.untrained(**SIZES)
    swapped = copy.deepcopy(theirs)
    tirex.swap(swapped)
    return theirs, swapped


def _distance(a: Any, b: Any) -> float:
    return float(((a - b).norm() / b.norm()).detach())


def _forecast(model: Any, horizon: int, target: Tensor, past: Any = None, future: Any = None, **options: Any) -> Tensor:
    from tirex2 import TimeseriesType  # pyright: ignore[reportMissingImports]

    return model.predict([TimeseriesType(target, past, future)], horizon, **{**PLAIN, **options})[0]


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_layer_gives_its_numbers_and_gradients(pair: tuple[Any, Any], backend: str) -> None:
    """Weights are copied: kernel [heads, K, 4, K] and bias [heads, 4, K] against rows of gates."""
    theirs, ours = (model.stack[1].time_mixer.fwd_cell for model in pair)
    ours.lstm.backend = backend
    x = torch.randn(3, 11, SIZES["width"])
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [layer(each) for layer, each in zip((theirs, ours), inputs, strict=True)]
    assert _distance(outputs[1], outputs[0]) < 1e-5
    dy = torch.randn_like(x)
    for y in outputs:
        y.backward(dy)
    kernel = theirs._recurrent_kernel_.grad.permute(2, 0, 3, 1).reshape(4 * SIZES["width"], -1)
    assert float(kernel.norm()) > 0
    assert _distance(ours.lstm.weight_hh_l0.grad, kernel) < 1e-5
    assert _distance(ours.lstm.bias_ih_l0.grad, theirs._bias_.grad.transpose(0, 1).flatten()) < 1e-5
    assert _distance(inputs[1].grad, inputs[0].grad) < 1e-5
    for name, gate in zip(("fgate", "igate", "zgate", "ogate"), ours.sums, strict=True):
        assert _distance(gate.weight.grad, getattr(theirs, name).weight.grad) < 1e-5


def test_what_is_called_fgate_feeds_the_input_gate(pair: tuple[Any, Any]) -> None:
    """Taken by their names the two gates would be exchanged, and the numbers others."""
    theirs, ours = (model.stack[1].time_mixer.fwd_cell for model in pair)
    assert ours.sums[0] is not theirs.fgate and torch.equal(ours.sums[0].weight, theirs.fgate.weight)
    x = torch.randn(2, 9, SIZES["width"])
    ours.sums[0], ours.sums[1] = ours.sums[1], ours.sums[0]
    with torch.no_grad():
        assert _distance(ours(x), theirs(x)) > 0.01


@pytest.mark.parametrize("known", [False, True], ids=["targets", "covariates"])
def test_forecasts_are_the_same(pair: tuple[Any, Any], known: bool) -> None:
    """Two targets of one series, differenced or not; a covariate that is known ahead is read in both directions."""
    theirs, ours = pair
    for mixer in (block.time_mixer for block in ours.stack[1::2]):
        assert isinstance(mixer.fwd_cell, tirex.Recurrence) and mixer.rev_cell is mixer.fwd_cell
    target = torch.randn(2, 50).cumsum(1)
    past, future = (torch.randn(1, 50), torch.randn(2, 60)) if known else (None, None)
    for options in ({}, {"tta_diff": True, "tta_sign_flip": True}, {"pad_context": True}):
        found = [_forecast(model, 10, target, past, future, **options) for model in (ours, theirs)]
        assert _distance(*found) < 1e-5


@pytest.mark.parametrize("begin", [3, 4, 30])
def test_a_stream_is_the_whole_context_again(pair: tuple[Any, Any], begin: int) -> None:
    """Value by value, two variates together beside one alone, from before a patch is full, three patches far."""
    theirs, ours = pair
    series = torch.randn(3, 45).cumsum(1)
    groups = [series[:2], series[2:]]
    stream = tirex.Stream(ours, [each[:, :begin] for each in groups])
    for t in range(begin, 45):
        found = stream.append(series[:, t], horizon=10)
        if t - begin in (0, 1, 5, 14):
            for group, ahead in zip(groups, found, strict=True):
                fixed = copy.copy(theirs)
                fixed.scaler = tirex.Frozen(theirs.scaler, group[:, :begin])
                assert _distance(ahead, _forecast(fixed, 10, group[:, : t + 1])) < 1e-5


def test_streams_do_not_meet(pair: tuple[Any, Any]) -> None:
    """Two streams and a plain forecast in turn, on one model."""
    _, ours = pair
    series = torch.randn(2, 40)
    plain = _forecast(ours, 4, series)
    alone = []
    for row in series:
        stream = tirex.Stream(ours, [row[None, :20]])
        alone.append([stream.append(value[None])[0] for value in row[20:]])
    streams = [tirex.Stream(ours, [row[None, :20]]) for row in series]
    for t in range(20):
        for k, stream in enumerate(streams):
            assert torch.equal(stream.append(series[k, 20 + t, None])[0], alone[k][t])
        assert torch.equal(_forecast(ours, 4, series), plain)
