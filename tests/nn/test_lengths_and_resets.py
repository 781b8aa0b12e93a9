"""Ragged batches and resets in the layers: the same bits as running the pieces alone, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.nn.twins import BACKENDS, everything, far, states, twins
from torch import Tensor

import openlstm
from openlstm.engine import native

T, B, I, H = 7, 3, 4, 6
EACH = pytest.mark.parametrize("backend", BACKENDS)
KINDS = pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
LENGTHS = [3, 7, 0]
RESET = torch.zeros(T, B, dtype=torch.bool)
RESET[2, 0] = RESET[4, 0] = RESET[0, 1] = RESET[6, 2] = RESET[3, 2] = True


def series(dtype: torch.dtype = torch.float64) -> Tensor:
    torch.manual_seed(2)
    return torch.randn(T, B, I, dtype=dtype)


def close(backend: str, a: Tensor, b: Tensor) -> bool:
    """To the last bit on the native backend, to rounding on the reference, whose sums belong to BLAS."""
    if backend == "cpu":
        return torch.equal(a, b)
    return torch.allclose(
        a, b, rtol=1e-5 if a.dtype == torch.float32 else 1e-12, atol=1e-6 if a.dtype == torch.float32 else 1e-14
    )


def pick(hx: Any, row: int) -> Any:
    """One row of a state, still with a batch axis."""
    return hx[:, row : row + 1] if isinstance(hx, Tensor) else tuple(s[:, row : row + 1] for s in hx)


@DTYPES
@KINDS
@EACH
def test_a_row_of_a_ragged_batch_is_the_row_alone(kind: str, backend: str, dtype: torch.dtype) -> None:
    layer, _ = twins(kind, I, H, num_layers=2, bidirectional=True, dtype=dtype, backend=backend)
    x, hx = series(dtype), states(layer, B, dtype=dtype)
    x[3:, 0] = float("nan")  # padding is never read
    x[:, 2] = float("nan")
    y, state = layer(x, hx, lengths=LENGTHS)
    for row, n in enumerate(LENGTHS):
        alone, end = layer(x[:n, row : row + 1], pick(hx, row))
        assert close(backend, y[:n, row : row + 1], alone)
        assert not y[n:, row].any()
        for s, e in zip(state if kind == "LSTM" else [state], end if kind == "LSTM" else [end], strict=True):
            assert close(backend, s[:, row : row + 1], e)


@KINDS
@EACH
def test_gradients_of_a_ragged_batch_are_those_of_its_rows(kind: str, backend: str) -> None:
    layer, _ = twins(kind, I, H, num_layers=2, bidirectional=True, backend=backend)
    x, hx = series(), states(layer, B)
    x[3:, 0] = float("nan")
    x[:, 2] = float("nan")
    cotangent = torch.randn(T, B, 2 * H, dtype=torch.float64)
    ragged = everything(layer, x, hx, run=lambda x, hx: _weighed(layer, x, hx, cotangent, lengths=LENGTHS))
    total = {name: torch.zeros_like(a) for name, a in ragged.items() if name.startswith(("dw", "db"))}
    for row, n in enumerate(LENGTHS):
        piece = cotangent[:n, row : row + 1]
        alone = everything(
            layer, x[:n, row : row + 1], pick(hx, row), run=lambda x, hx, piece=piece: _weighed(layer, x, hx, piece)
        )
        assert close(backend, ragged["dx"][:n, row : row + 1], alone["dx"])
        assert not ragged["dx"][n:, row].any()
        for name in ("dh0", "dc0")[: 2 if kind == "LSTM" else 1]:
            assert close(backend, ragged[name][:, row : row + 1], alone[name])
        for name in total:
            total[name] += alone[name]
    assert far({name: ragged[name] for name in total}, total, 1e-12) == {}


def _weighed(layer: Any, x: Tensor, hx: Any, cotangent: Tensor, **call: Any) -> tuple[Tensor, Any]:
    """The layer with its outputs weighed, so that `everything` sends the same cotangents to a row and to the whole."""
    y, state = layer(x, hx, **call)
    total = (y * cotangent).sum()
    flat = [state] if isinstance(state, Tensor) else list(state)
    weight = torch.arange(1, 1 + flat[0].shape[0], dtype=torch.float64)[:, None, None]
    ends = sum((s * weight).sum() for s in flat)
    return (total + ends)[None], flat[0] * 0 if isinstance(state, Tensor) else tuple(s * 0 for s in flat)


@DTYPES
@KINDS
@EACH
@pytest.mark.parametrize("given", [False, True], ids=["to-zero", "to-a-state"])
def test_resets_give_the_pieces_run_alone(kind: str, backend: str, given: bool, dtype: torch.dtype) -> None:
    """One layer in both directions: each piece between two resets begins at its own boundary, forwards and backwards."""
    layer, _ = twins(kind, I, H, bidirectional=True, dtype=dtype, backend=backend)
    x, hx, fresh = series(dtype), states(layer, B, dtype=dtype), states(layer, B, seed=8, dtype=dtype)
    y, state = layer(x, hx, reset=RESET, reset_state=fresh if given else None)
    for row in range(B):
        cuts = [0, *[t for t in range(1, T) if RESET[t, row]], T]
        for first, last in zip(cuts, cuts[1:], strict=False):
            begin = _mixed(
                kind,
                pick(hx, row) if first == 0 and not RESET[0, row] else _fresh(pick(fresh, row), given),
                pick(hx, row) if last == T else _fresh(pick(fresh, row), given),
            )
            alone, end = layer(x[first:last, row : row + 1], begin)
            assert close(backend, y[first:last, row : row + 1], alone)
        for d, piece in ((0, -1), (1, 0)):  # the last piece forwards is the final state, the first one backwards
            first, last = cuts[:-1][piece], cuts[1:][piece]
            begin = _mixed(
                kind,
                pick(hx, row) if first == 0 and not RESET[0, row] else _fresh(pick(fresh, row), given),
                pick(hx, row) if last == T else _fresh(pick(fresh, row), given),
            )
            _, end = layer(x[first:last, row : row + 1], begin)
            for s, e in zip(state if kind == "LSTM" else [state], end if kind == "LSTM" else [end], strict=True):
                if not (d == 1 and RESET[0, row]):
                    assert close(backend, s[d, row], e[d, 0])


def _fresh(state: Any, given: bool) -> Any:
    if given:
        return state
    return state * 0 if isinstance(state, Tensor) else tuple(s * 0 for s in state)


def _mixed(kind: str, forwards: Any, backwards: Any) -> Any:
    """The forward direction's state from one, the backward direction's from the other."""
    if kind != "LSTM":
        return torch.stack([forwards[0], backwards[1]])
    return tuple(torch.stack([f[0], b[1]]) for f, b in zip(forwards, backwards, strict=True))


@KINDS
@EACH
def test_no_gradient_crosses_a_reset(kind: str, backend: str) -> None:
    layer, _ = twins(kind, I, H, bidirectional=True, backend=backend)
    x, hx = series().requires_grad_(), states(layer, B)
    leaves = [s.requires_grad_() for s in ([hx] if kind != "LSTM" else hx)]
    y, _ = layer(x, leaves[0] if kind != "LSTM" else tuple(leaves), reset=RESET)
    y[2:4, 0].sum().backward()  # the middle piece of row 0
    assert x.grad is not None and x.grad[2:4, 0].all()
    assert not x.grad[:2].any() and not x.grad[4:].any() and not x.grad[:, 1:].any()
    assert all(s.grad is not None and not s.grad.any() for s in leaves)


@EACH
def test_a_reset_at_the_first_step_drops_the_carried_in_state(backend: str) -> None:
    layer, _ = twins("LSTM", I, H, backend=backend)
    x, hx = series(), states(layer, B)
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[0] = True
    found, none = everything(layer, x, hx, reset=reset), everything(layer, x)
    assert close(backend, found["y"], none["y"]) and close(backend, found["c"], none["c"])
    assert not found["dh0"].any() and not found["dc0"].any()


@EACH
def test_nan_before_a_reset_and_in_the_padding_changes_nothing(backend: str) -> None:
    layer, _ = twins("LSTM", I, H, backend=backend)
    x = series()
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[3] = True
    lengths = [5, 7, 4]
    found = []
    for value in (0.0, float("nan")):
        layer.zero_grad()
        data = x.clone()
        data[:3] = value
        data[5:, 0] = data[4:, 2] = value
        data.requires_grad_()
        y, (h, c) = layer(data, reset=reset, lengths=lengths)
        (y[3:].sum() + h.sum() + c.sum()).backward()
        assert data.grad is not None
        found.append([y[3:], h, c, data.grad, *(p.grad for p in layer.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_batch_first_and_single_sequences_take_them_in_their_own_form() -> None:
    layer, _ = twins("LSTM", I, H, bidirectional=True)
    other, _ = twins("LSTM", I, H, bidirectional=True, batch_first=True)
    x, hx, fresh = series(), states(layer, B), states(layer, B, seed=8)
    y, (h, _) = layer(x, hx, lengths=[3, 7, 5], reset=RESET, reset_state=fresh)
    z, (g, _) = other(x.transpose(0, 1), hx, lengths=[3, 7, 5], reset=RESET.T, reset_state=fresh)
    assert torch.equal(y.transpose(0, 1), z) and torch.equal(h, g)
    for each in (layer, other):
        one, (h1, _) = each(
            x[:, 0],
            tuple(s[:, 0] for s in hx),
            lengths=3,
            reset=RESET[:, 0],
            reset_state=tuple(s[:, 0] for s in fresh),
        )
        assert torch.equal(one, y[:, 0]) and torch.equal(h1, h[:, 0])


def test_resets_in_a_packed_sequence_follow_the_rows_as_they_were_given() -> None:
    layer, _ = twins("LSTM", I, H, num_layers=2, bidirectional=True)
    x, hx, fresh, lengths = series(), states(layer, B), states(layer, B, seed=8), [3, 7, 5]
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    y, (h, c) = layer(x, hx, lengths=lengths, reset=RESET, reset_state=fresh)
    z, (g, d) = layer(packed, hx, reset=RESET, reset_state=fresh)
    assert torch.equal(torch.nn.utils.rnn.pad_packed_sequence(z)[0], y)
    assert torch.equal(h, g) and torch.equal(c, d)


@pytest.mark.skipif(not native.available(), reason="the compiled extension is not built")
def test_cut_into_calls_and_step_by_step_give_the_same_bits() -> None:
    layer, _ = twins("LSTM", I, H, num_layers=2)
    x, hx = series(), states(layer, B)
    whole, end = layer(x, hx)
    for cuts in ([3, 4], [1] * T, [5, 1, 1]):
        state, parts = hx, []
        for piece in x.split(cuts):
            y, state = layer(piece, state)
            parts.append(y)
        assert torch.equal(torch.cat(parts), whole) and torch.equal(state[0], end[0]) and torch.equal(state[1], end[1])


def test_the_numbers_do_not_depend_on_whether_gradients_are_wanted() -> None:
    for backend in BACKENDS:
        layer, _ = twins("LSTM", I, H, bidirectional=True, backend=backend)
        y, (h, c) = layer(series())
        with torch.no_grad():
            z, (g, d) = layer(series())
        with torch.inference_mode():
            w = layer(series())[0]
        assert torch.equal(y, z) and torch.equal(h, g) and torch.equal(c, d) and torch.equal(y, w)
        assert not openlstm.LSTM(I, H)(series(torch.float32).detach())[0].is_leaf
