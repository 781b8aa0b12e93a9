"""The lag that data need, on data whose lag is known; the one Cholesky factor against a fit of every context alone."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import openlstm
from openlstm.errors import ArgumentError, ShapeError
from openlstm.insight.judge import required_lag as module
from openlstm.insight.judge.required_lag import required_lag
from openlstm.insight.judge.verdict import verdict
from openlstm.lab.tasks import TASKS

DATA = Path(os.environ.get("OPENLSTM_DATA", "../shared/data"))


def ar(n: int = 3000) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=n)
    for t in range(2, n):
        x[t] += 1.2 * x[t - 1] - 0.5 * x[t - 2]
    return x


def sine(n: int = 3000) -> np.ndarray:
    return np.sin(2 * np.pi * np.arange(n) / 100)


def co2() -> np.ndarray:
    path = DATA / "co2_weekly.csv"
    if not path.exists():
        pytest.skip(f"no {path.name}: set OPENLSTM_DATA")
    values = np.array([float(row.split(",")[1] or "nan") for row in path.read_text().split()[1:]])
    known = ~np.isnan(values)
    at = np.arange(len(values))
    return np.interp(at, at[known], values[known])


def windows(series: np.ndarray, T: int, horizon: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Every window of a standardised series: x [T, B, 1] and what follows it [B, horizon]."""
    s = (series - series.mean()) / series.std()
    cut = np.lib.stride_tricks.sliding_window_view(s, T + horizon)
    return torch.tensor(cut[:, :T].T[..., None].copy()).float(), torch.tensor(cut[:, T:].copy()).float()


@pytest.mark.parametrize("lag", [7, 60])
@pytest.mark.parametrize("task", ["recall", "latch"])
def test_a_lag_that_was_put_in_is_found(task: str, lag: int) -> None:
    x, answer = TASKS[task].batch(lag, 1500, torch.Generator().manual_seed(0))
    found = required_lag(x, answer)
    assert found.lag == lag and found.nearer(lag) < 0.05 and found.nearer(lag + 1) > 0.95
    assert found.explained > 0.4 and str(lag) in found.finding


def test_not_the_autocorrelation() -> None:
    """A sine of period 100 needs two steps, an AR(2) series two."""
    assert required_lag(sine()).lag == 1
    assert required_lag(ar()).lag == 1


def test_noise_needs_nothing_that_can_be_seen() -> None:
    x = np.random.default_rng(1).normal(size=(40, 400, 2))
    found = required_lag(x, x[0, ::-1, 0].copy())
    assert found.lag is None and found.nearer(20) == 0.0 and "not to be seen" in found.finding


def test_errors_are_those_of_a_fit_of_each_context() -> None:
    x, answer = TASKS["recall"].batch(5, 300, torch.Generator().manual_seed(3))
    found = required_lag(x, answer)
    X = x.numpy()[::-1, :, 0].T.astype(np.float64)
    X = (X - x.numpy().mean()) / x.numpy().std()
    X, y = X - X[:200].mean(0), answer.numpy().astype(np.float64)
    y = y - y[:200].mean()
    for c in range(1, 7):
        errors = []
        for ridge in module.RIDGES:
            A = X[:200, :c]
            w = np.linalg.solve(A.T @ A / 200 + ridge * np.eye(c), A.T @ y[:200] / 200)
            errors.append(((y[200:] - X[200:, :c] @ w) ** 2).mean() / (y[200:] ** 2).mean())
        assert found.errors[c] == pytest.approx(min(*errors, 1.0), rel=1e-6)
    assert found.errors[0] == 1.0


def test_a_target_at_every_step_is_one_for_each_window() -> None:
    x = np.random.default_rng(0).normal(size=(400, 5, 3))
    y = np.zeros((400, 5))
    y[4:] = x[:-4, :, 1]
    assert required_lag(x, y, longest=12).lag == 4
    assert required_lag(x, (y > 0).astype(int), longest=12).lag == 4  # classes


@pytest.mark.parametrize("series", [sine, ar, co2])
@pytest.mark.parametrize("targets", [True, False])
def test_smooth_series_raise_no_alarm(series, targets: bool) -> None:
    x, y = windows(series(), 104, 52)
    torch.manual_seed(0)
    for layer in (openlstm.LSTM(1, 64), openlstm.GRU(1, 64)):
        found = verdict(layer, x, 52, target=y) if targets else verdict(layer, x[:, :64], 52)
        assert found.word == "no verdict" and found.required is not None and found.required.nearer(52) > 0.99
        assert "nearer lags" in found.reason


@pytest.mark.parametrize("targets", [True, False])
def test_text_raises_no_alarm(targets: bool) -> None:
    path = DATA / "tinyshakespeare.txt"
    if not path.exists():
        pytest.skip(f"no {path.name}: set OPENLSTM_DATA")
    text = path.read_text()[:6401]
    letters = sorted(set(text))
    ids = torch.tensor([letters.index(c) for c in text])
    x = F.one_hot(ids[:-1].view(32, 200).T, len(letters)).float()
    target = ids[1:].view(32, 200).T if targets else None
    torch.manual_seed(0)
    assert verdict(openlstm.LSTM(len(letters), 64), x, 60, target=target).word == "no verdict"


def test_refusals() -> None:
    with pytest.raises(ArgumentError) as error:
        required_lag(np.zeros((9, 50, 1)), np.zeros(50))
    assert str(error.value) == (
        "required_lag: too few samples to fit and to judge\n  got       50 samples\n  expected  >= 96\n"
        "  hint      pass more sequences, or a longer one"
    )
    with pytest.raises(ShapeError, match="y does not belong to x"):
        required_lag(np.zeros((9, 50, 1)), np.zeros(49))
    with pytest.raises(ArgumentError, match="x is not finite"):
        required_lag(np.full(300, np.nan))
    with pytest.raises(ArgumentError, match=r"longest=10"):
        required_lag(np.zeros((9, 500, 1)), np.zeros(500), longest=10)
