"""The generator against another way of writing it, its statistics, and what each kind of noise does to a sequence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.support import Case, to_numpy

from openlstm import cells, noise, reference
from openlstm.call import Call
from openlstm.errors import ArgumentError, DtypeError
from openlstm.noise import CANDIDATE, ZONEOUT_C, ZONEOUT_H, Noise
from openlstm.reference import State

KINDS = (ZONEOUT_H, ZONEOUT_C, CANDIDATE)
SEED = (123 << 32) + 456
ALL_KINDS = Noise(0.3, 0.3, 0.3, seed=SEED, stream=5)


def mixed(x: np.ndarray) -> np.ndarray:
    """lowbias32 in 32-bit arithmetic."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def drawn(seed: int, stream: int, kind: int, t: int, rows: int, units: int) -> np.ndarray:
    """The 32-bit numbers of one step, every key written out, [rows, units]."""
    word = lambda n: np.full(1, n & 0xFFFFFFFF, np.uint32)  # noqa: E731
    a = mixed(mixed(word(seed)) ^ word(seed >> 32))
    b = mixed(mixed(a + word(4 * stream + kind)) ^ word(t))
    keys = mixed(b + np.arange(rows, dtype=np.uint32))
    return mixed(keys[:, None] ^ (np.arange(units, dtype=np.uint32) * np.uint32(0x9E3779B9)))


def test_the_mixer_is_a_permutation_that_is_known() -> None:
    """A few values of the published function, and no two words of a range that meet."""
    x = np.concatenate([np.arange(70000), 2**32 - 1 - np.arange(70000)])
    assert (noise.mix(x) == mixed(x.astype(np.uint32))).all() and len(np.unique(noise.mix(x))) == len(x)
    assert noise.mix(0) == 0 and noise.mix(1) == int(mixed(np.ones(1, np.uint32))[0])


@pytest.mark.parametrize("make", [np.zeros, torch.zeros], ids=["numpy", "torch"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1, -1, SEED, 2**64 - 1])
def test_events_are_those_of_32_bit_arithmetic(seed: int, kind: int, make: Any) -> None:
    for stream, t, p in ((0, 0, 0.5), (7, 2**31 + 3, 0.1), (1, 999, 1e-3), (2, 5, 1.0)):
        n = Noise(p, p, p, seed=seed, stream=stream)
        expected = (drawn(seed, stream, kind, t, 37, 65) >> np.uint32(8)) < int(p * 2**24)
        ours = noise.events(n, kind, t, make((37, 65)))
        assert (to_numpy(ours) == expected).all() and ours.shape == (37, 65)
        assert p != 1 or ours.all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("p", [0.0, 0.01, 0.25, 0.5, 0.9])
def test_rates_are_within_four_sigma(kind: int, p: float) -> None:
    """Over all steps, rows and units, and over each of the three axes alone."""
    n, T, B, H = Noise(p, p, p, seed=SEED), 60, 70, 80
    hit = np.stack([noise.events(n, kind, t, np.zeros((B, H))) for t in range(T)]).astype(float)
    sigma = (p * (1 - p)) ** 0.5
    assert abs(hit.mean() - p) <= 4 * sigma / hit.size**0.5
    for axis, size in enumerate(hit.shape):
        rates = hit.mean(tuple({0, 1, 2} - {axis}))
        assert abs(rates - p).max() <= 5 * sigma / (hit.size / size) ** 0.5 + 1e-12


def test_neighbours_are_independent() -> None:
    """Next unit, next row, next step, the other kind, stream and seed: correlations within four sigma of zero."""
    n, size = Noise(0.5, 0.5, 0.5, seed=SEED, stream=2), (200, 200)
    a = noise.events(n, ZONEOUT_H, 9, np.zeros(size)) - 0.5
    others = {
        "kind": noise.events(n, ZONEOUT_C, 9, np.zeros(size)),
        "candidate": noise.events(n, CANDIDATE, 9, np.zeros(size)),
        "stream": noise.events(n._replace(stream=3), ZONEOUT_H, 9, np.zeros(size)),
        "seed": noise.events(n._replace(seed=SEED + 1), ZONEOUT_H, 9, np.zeros(size)),
        "upper half of the seed": noise.events(n._replace(seed=SEED + (1 << 32)), ZONEOUT_H, 9, np.zeros(size)),
        "step": noise.events(n, ZONEOUT_H, 10, np.zeros(size)),
    }
    pairs = {name: (a, b - 0.5) for name, b in others.items()} | {"unit": (a[:, 1:], a[:, :-1]), "row": (a[1:], a[:-1])}
    for name, (u, v) in pairs.items():
        assert abs((u * v).sum()) <= 4 * 0.25 * u.size**0.5, name


def test_masks_do_not_depend_on_the_size_of_the_batch_or_of_the_layer() -> None:
    whole = noise.events(ALL_KINDS, ZONEOUT_H, 4, np.zeros((9, 33)))
    assert (noise.events(ALL_KINDS, ZONEOUT_H, 4, np.zeros((3, 7))) == whole[:3, :7]).all()
    assert (noise.events(ALL_KINDS._replace(first_row=6), ZONEOUT_H, 4, np.zeros((3, 7))) == whole[6:, :7]).all()


@pytest.mark.parametrize(
    ("row", "kind", "text"),
    [
        (
            -1,
            ArgumentError,
            "first_row: row is -1\n"
            "  got       row: int -1\n"
            "  expected  an integer from 0 to 2^32 - 1\n"
            "  hint      it is the place of the share's first row in the whole batch, 0 for the first",
        ),
        (
            2.0,
            DtypeError,
            "first_row: row is not an integer\n"
            "  got       row: float 2.0\n"
            "  expected  an integer from 0 to 2^32 - 1\n"
            "  hint      use row=int(...)",
        ),
    ],
)
def test_what_is_no_row_is_refused_with_this_text(row: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as caught, noise.first_row(row):
        pass
    assert str(caught.value) == text and noise.current_first_row() == 0


def test_the_row_before_holds_again_also_after_an_error() -> None:
    with noise.first_row(3):
        with pytest.raises(KeyError), noise.first_row(5):
            raise KeyError
        assert noise.current_first_row() == 3
    assert noise.current_first_row() == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make", [np.zeros, torch.zeros], ids=["numpy", "torch"])
def test_a_candidate_that_is_kept_is_scaled_in_its_own_type(make: Any, dtype: str) -> None:
    like = make((50, 60), dtype=getattr(torch if make is torch.zeros else np, dtype))
    mask = to_numpy(noise.candidate_mask(ALL_KINDS, 0, like))
    assert mask.dtype == dtype and np.unique(mask).tolist() == [0, np.asarray(1 / 0.7, dtype).item()]
    assert noise.candidate_mask(ALL_KINDS._replace(training=False), 0, like) is None
    assert noise.candidate_mask(ALL_KINDS._replace(candidate=0.0), 0, like) is noise.candidate_mask(None, 0, like) is None
    assert not to_numpy(noise.candidate_mask(ALL_KINDS._replace(candidate=1.0), 0, like)).any()


@pytest.mark.parametrize("which", [noise.INPUT, noise.HIDDEN])
def test_a_locked_mask_is_drawn_apart_and_by_row(which: int) -> None:
    dropped = (drawn(SEED, 5, 3, which, 37, 65) >> np.uint32(8)) < int(0.3 * 2**24)
    mask = noise.locked_mask(ALL_KINDS._replace(first_row=4), which, 0.3, np.zeros((33, 65)))
    assert (mask == np.where(dropped, 0, 1 / 0.7)[4:]).all()
    assert not noise.locked_mask(ALL_KINDS, which, 1.0, np.zeros((3, 4))).any()


@pytest.mark.parametrize("cell", [c for c in cells.ALL if len(c.feeds_back) == 1], ids=repr)
def test_zoneout_keeps_to_the_bit_or_takes_to_the_bit(cell: cells.Cell) -> None:
    """What the generator says is kept is the old state, the rest is the step without zoneout from the same state."""
    p = Case(cell, T=6, B=4, H=5).problem()
    n = Noise(zoneout_h=0.4, zoneout_c=0.3 if cell.has_cell else 0.0, seed=1)
    state = p.state
    for t in range(6):
        plain, _ = reference.step(cell, p.x[t], state, p.weights)
        new, _ = reference.step(cell, p.x[t], state, p.weights, n, t)
        kinds = (ZONEOUT_H, ZONEOUT_C)[: 1 + cell.has_cell]
        was: Any
        for kind, old, was, now in zip(kinds, state, plain, new, strict=False):
            kept = noise.events(n, kind, t, was[:, :5]) if kind == ZONEOUT_C else noise.events(n, kind, t, was)
            kept = np.tile(kept, was.shape[1] // kept.shape[1])  # of a unit all states or none
            assert (np.where(kept, old, was) == now).all() and 0 < kept.sum() < kept.size
        state = new
    run = reference.forward(Call(cell, p.x, p.weights, p.state, noise=n))
    assert (run.state.h == state.h).all()


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_every_row_is_noised_as_if_it_were_alone_in_front(training: bool) -> None:
    """Rows keep their own draws in a smaller batch, beside shorter ones and whatever comes after a step."""
    p = Case(cells.Peephole(), T=7, B=6, H=5).problem()
    n = ALL_KINDS._replace(training=training)
    whole = reference.forward(Call(p.cell, p.x, p.weights, p.state, noise=n))
    q = p.rows(slice(0, 2)).steps(0, 4)
    part = reference.forward(Call(q.cell, q.x, q.weights, q.state, noise=n))
    np.testing.assert_allclose(part.y, whole.y[:4, :2], rtol=1e-13)
    short = reference.forward(Call(p.cell, p.x, p.weights, p.state, lengths=np.array([7, 4, 0, 1, 2, 3]), noise=n))
    np.testing.assert_allclose(short.y[:4, :2], part.y, rtol=1e-13)
    assert not short.y[:, 2].any() and (short.state.h[2] == p.state.h[2]).all()


def test_steps_are_counted_by_their_place_also_in_reverse() -> None:
    p = Case(cells.LSTM(), T=3, B=2, H=5).problem()
    state = p.state
    for t in (2, 1, 0):
        state, _ = reference.step(p.cell, p.x[t], state, p.weights, ALL_KINDS, t)
    run = reference.forward(Call(p.cell, p.x, p.weights, p.state, reverse=True, noise=ALL_KINDS))
    assert (run.state.h == state.h).all()


def test_zoneout_in_eval_is_the_expectation() -> None:
    """One step: the mean over many seeds in training; h' sees the new c, not the one that is carried."""
    p: Any = Case(cells.LSTM(), T=1, B=2, H=5).problem()
    n = Noise(zoneout_h=0.2, zoneout_c=0.6, training=False)
    plain: Any = reference.step(p.cell, p.x[0], p.state, p.weights)[0]
    still: Any = reference.step(p.cell, p.x[0], p.state, p.weights, n)[0]
    for old, new, p_keep, now in zip(p.state, plain, (0.2, 0.6), still, strict=True):
        np.testing.assert_allclose(now, p_keep * old + (1 - p_keep) * new, rtol=1e-14)
    every: Any = [reference.step(p.cell, p.x[0], p.state, p.weights, n._replace(training=True, seed=s))[0] for s in range(2000)]
    for k, p_keep in enumerate((0.2, 0.6)):
        mean = np.mean([s[k] for s in every], axis=0)
        sigma = abs(p.state[k] - plain[k]) * (p_keep * (1 - p_keep) / 2000) ** 0.5
        assert (abs(mean - still[k]) <= 4 * sigma + 1e-15).all()


@pytest.mark.parametrize("cell", [c for c in cells.ALL if c.candidate], ids=repr)
def test_recurrent_dropout_never_touches_what_is_kept(cell: cells.Cell) -> None:
    """A step in which every candidate is dropped leaves f * c of the cell; in eval nothing is dropped."""
    p = Case(cell, T=4, B=3, H=5).problem()
    state = p.state
    gone: Any
    gone, _ = reference.step(cell, p.x[0], state, p.weights, Noise(candidate=1.0))
    plain, gates = reference.step(cell, p.x[0], state, p.weights)
    named = dict(zip(cell.saved, gates, strict=True))
    kept: Any = 1.0
    if "f" in named:
        kept = named["f"]
    elif isinstance(cell, (cells.CIFG, cells.GRU, cells.MinGRU)):
        kept = named["z"] if "z" in named else 1 - named[cell.gates[0]]
    if cell.has_cell:
        np.testing.assert_allclose(gone.c[:, :5], kept * np.asarray(state.c)[:, :5], rtol=1e-14)
    else:
        np.testing.assert_allclose(gone.h, kept * state.h, rtol=1e-14)
    still, _ = reference.step(cell, p.x[0], state, p.weights, ALL_KINDS._replace(zoneout_h=0.0, zoneout_c=0.0, training=False))
    assert (still.h == plain.h).all()


def test_the_locked_mask_acts_inside_the_sums_alone() -> None:
    """z sees mask * h at every step; what is carried and handed out is h."""
    p = Case(cells.GRU(), T=5, B=3, H=4).problem()
    hidden = np.array([[0.0, 2.0, 0.0, 2.0]] * 3)
    run = reference.forward(Call(p.cell, p.x, p.weights, p.state, noise=Noise(hidden=hidden)))
    w = p.weights._replace(w_hh=p.weights.w_hh * hidden[:1])  # one mask for all rows: columns of W_hh
    same = reference.forward(Call(p.cell, p.x, w, p.state))
    np.testing.assert_allclose(run.y, same.y, rtol=1e-13)
    still = reference.forward(Call(p.cell, p.x, p.weights, p.state, noise=Noise(hidden=hidden, training=False)))
    assert (still.y == reference.forward(Call(p.cell, p.x, p.weights, p.state)).y).all()


def test_zoneout_after_a_reset_keeps_what_the_reset_put_there() -> None:
    p = Case(cells.LSTM(), T=2, B=3, H=4).problem()
    fresh, reset = State(np.full((3, 4), 0.25), np.full((3, 4), 0.5)), np.array([[False] * 3, [True] * 3])
    run = reference.forward(
        Call(p.cell, p.x, p.weights, p.state, reset=reset, reset_state=fresh, noise=Noise(1.0, 1.0), save=True)
    )
    assert (run.y[0] == p.state.h).all() and (run.y[1] == 0.25).all() and run.state.c is not None
    assert (run.state.c == 0.5).all()
