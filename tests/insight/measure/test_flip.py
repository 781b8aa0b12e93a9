"""The input flip against what a linear read-out must give, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from openlstm.errors import ArgumentError, ShapeError
from openlstm.insight.measure.flip import flip


@pytest.mark.parametrize("lag", [0, 3, 8])
def test_of_a_weighted_sum_it_is_the_weight(lag: int) -> None:
    """h = sum_k w_k x_{T-k}: the signal is w_lag mean|2 (m - x)|, the noise the spread of h."""
    x = torch.randn(9, 501, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    w = torch.linspace(1.0, 0.1, 9, dtype=torch.float64)
    found = flip(lambda x: (x[:, :, 0].flip(0) * w[:, None]).sum(0), x, lag)
    at = x[8 - lag, :, 0]
    h = (x[:, :, 0].flip(0) * w[:, None]).sum(0)
    assert found.signal == pytest.approx(float(w[lag] * (2 * (at - at.mean())).abs().mean()), rel=1e-9)
    assert found.noise == pytest.approx(float(h.std(correction=0)), rel=1e-9)
    assert found.ratio == found.signal / found.noise and found.changed


def test_what_no_one_reads_moves_nothing() -> None:
    x = torch.randn(5, 7, 2)
    assert flip(lambda x: x[-1], x, 3).ratio == 0.0
    assert flip(lambda x: x[-1] * 0, x, 0).ratio == 0.0  # no spread either


def test_what_is_the_same_in_every_row_is_not_flipped() -> None:
    x = torch.randn(5, 7, 2)
    x[..., 1] = 1.0
    seen = []
    flip(lambda x: seen.append(x.clone()) or x[-1], x, 2)
    assert torch.allclose(seen[1][..., 1], torch.ones(5, 7))
    assert torch.equal(seen[0], x) and not torch.allclose(seen[1][2, :, 0], x[2, :, 0])
    assert torch.equal(seen[1][[0, 1, 3, 4]], x[[0, 1, 3, 4]])
    x[2] = 0.7
    found = flip(lambda x: x.sum(0), x, 2)
    assert not found.changed and "same in every row" in found.finding


@pytest.mark.parametrize(
    ("shape", "lag", "kind", "text"),
    [
        (
            (5, 1, 2),
            0,
            ShapeError,
            "flip: x needs three axes and two rows\n  got       x: float32[5, 1, 2]\n  expected  x: [T, B >= 2, I]\n"
            "  hint      pass a batch: what a flip moves is compared with how rows differ",
        ),
        (
            (5, 3, 2),
            5,
            ArgumentError,
            "flip: the lag lies outside the sequences\n  got       lag=5, T=5\n  expected  0 <= lag < T\n"
            "  hint      pass sequences longer than the lag, or ask for a shorter one",
        ),
    ],
)
def test_refusals(shape: tuple[int, ...], lag: int, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as error:
        flip(lambda x: x[-1], torch.zeros(shape), lag)
    assert str(error.value) == text


def test_a_run_must_give_a_row_for_each_sequence() -> None:
    with pytest.raises(ShapeError, match="does not return a row for each sequence"):
        flip(lambda x: x.sum(), torch.zeros(3, 4, 1), 1)
