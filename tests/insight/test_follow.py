"""The look that follows the loss: whatever way the input at the lag takes to what the loss reads, it is seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from papers.horizon import READERS, TASKS, Plan, build
from torch import nn
from torch.nn import functional as F

import openlstm


def cross_entropy(model: nn.Module, x: Any, y: Any) -> Any:
    return F.cross_entropy(model(x), y)


def batch(task: str, lag: int, rows: int = 64) -> tuple[Any, ...]:
    return TASKS[task].batch(lag, rows, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("beginning", ["lstm", "gru"])
@pytest.mark.parametrize("lag", [60, 120])
@pytest.mark.parametrize("reader", READERS)
def test_what_is_learnt_at_once_is_not_blocked(reader: str, lag: int, beginning: str) -> None:
    """Each of them answers every time after 200 steps of Adam, or after a few hundred (papers/results/horizon.json)."""
    plan = Plan("first", beginning, 32, lag, 1e-2, 0, reader)
    report = openlstm.xray(build(plan), batch("first", lag), loss=cross_entropy, lag=lag, before=True)
    assert report.word == "not blocked" and report.verdict.of == "the loss"
    assert report.verdict.share > 0.1 and report.verdict.flip > 0.01


@pytest.mark.parametrize("task", ["first", "latch"])
@pytest.mark.parametrize("lag", [60, 120])
def test_what_reads_the_last_state_alone_is_blocked(task: str, lag: int) -> None:
    model = build(Plan("latch", "lstm", 32, lag, 1e-2, 0)) if task == "latch" else tokens("last")
    report = openlstm.xray(model, batch(task, lag), loss=cross_entropy, lag=lag, before=True)
    assert report.word == "blocked" and report.verdict.of == "the loss"


def tokens(reader: str) -> nn.Module:
    from papers.horizon import Reader

    torch.manual_seed(0)
    return Reader(openlstm.LSTM(16, 32), 32, 8, reader, 16, 8)
