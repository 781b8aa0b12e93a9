"""Noise inside the recurrence: zoneout, recurrent dropout, locked dropout; and the generator that draws it.

The generator has no state. Every number is a function of what it is for: the seed, the stream (layer and direction), the kind
of noise, the step, the row, the unit. So a mask depends neither on threads nor on the size of the batch, and numpy, torch and
the kernels draw the same one. Where a process has a part of the rows, `first_row` says which.

Legend: T time, B batch, H hidden size, R what is fed back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from openlstm import _array as A
from openlstm._array import Array
from openlstm.errors import ArgumentError, DtypeError, describe

ZONEOUT_H, ZONEOUT_C, CANDIDATE, LOCKED = range(4)
"""Kinds of noise: each has draws of its own."""

INPUT, HIDDEN = range(2)
"""The masks that are the same at every step, of x and of what is fed back: drawn as those of step 0 and step 1 of `LOCKED`."""

_WORD = 0xFFFFFFFF


class Noise(NamedTuple):
    """What one layer in one direction is disturbed with; probabilities of 0 mean nothing.

        zoneout      s = keep ? s_prev : s_new, kept with probability p, h and c apart; in eval p s_prev + (1-p) s_new
        candidate    g = drop ? 0 : g / (1-p): what is about to enter the cell, never what it holds; nothing in eval
        hidden       z = x W_ih^T + (hidden * h) W_hh^T, one mask for all steps; nothing in eval

    Fields:
        zoneout_h: probability for what is fed back (after a projection).
        zoneout_c: probability for the cell state; h' still sees the new one.
        candidate: probability for `Cell.candidate`.
        seed: 64 bits.
        stream: 2 * layer + direction.
        training: False leaves zoneout alone, as its expectation.
        hidden: [B, R], already scaled by 1/(1-p), or None.
        first_row: where row 0 stands in the whole batch, of which these rows are a part.

    Source: Krueger et al. 2017 (zoneout), Semeniuta, Severyn & Barth 2016 (candidate), Gal & Ghahramani 2016 (locked masks).

    >>> import numpy as np
    >>> zoneout(Noise(zoneout_h=0.25, training=False), ZONEOUT_H, 0, np.zeros((1, 1)), np.ones((1, 1))).tolist()
    [[0.75]]
    >>> whole = events(Noise(zoneout_h=0.5, seed=7), ZONEOUT_H, 3, np.zeros((5, 4)))
    >>> part = events(Noise(zoneout_h=0.5, seed=7, first_row=2), ZONEOUT_H, 3, np.zeros((3, 4)))
    >>> bool((part == whole[2:]).all())
    True
    """

    zoneout_h: float = 0.0
    zoneout_c: float = 0.0
    candidate: float = 0.0
    seed: int = 0
    stream: int = 0
    training: bool = True
    hidden: Array | None = None
    first_row: int = 0


_first_row = 0  # no ContextVar: a graph can watch a number, and what is run again in a thread of autograd needs it too


@contextmanager
def first_row(row: int) -> Iterator[None]:
    """Inside, layers draw their noise as for rows row, row + 1, ... of a larger batch; it holds for all threads.

    So processes that each have a share of a batch, and the same state of torch's generator, draw what one process with all
    rows would draw: zoneout, recurrent dropout and the locked masks of x and h (weight dropout knows no rows). What is
    counted is rows as they are run: sorted in a PackedSequence, by length with `cu_seqlens`. Dropout between layers is
    torch's own and follows no row.

    Raises:
        DtypeError, ArgumentError: unless row is an integer from 0 to 2^32 - 1.

    >>> import torch, openlstm
    >>> layer, x = openlstm.LSTM(3, 8, zoneout_h=0.3, hidden_dropout=0.2), torch.ones(5, 4, 3)
    >>> _ = torch.manual_seed(0)
    >>> whole, _ = layer(x)
    >>> _ = torch.manual_seed(0)
    >>> with first_row(3):
    ...     last, _ = layer(x[:, 3:])
    >>> torch.equal(last, whole[:, 3:])
    True
    """
    global _first_row
    got, expected = f"row: {describe(row)}", "an integer from 0 to 2^32 - 1"
    if not isinstance(row, int) or isinstance(row, bool):
        raise DtypeError.of("first_row", "row is not an integer", got, expected, "use row=int(...)")
    if not 0 <= row <= _WORD:
        hint = "it is the place of the share's first row in the whole batch, 0 for the first"
        raise ArgumentError.of("first_row", f"row is {row}", got, expected, hint)
    before, _first_row = _first_row, row
    try:
        yield
    finally:
        _first_row = before


def current_first_row() -> int:
    """What `first_row` says at the moment; 0 without it."""
    return _first_row


def active(noise: Noise | None) -> Noise | None:
    """The noise that acts: in eval zoneout alone; None for none."""
    if noise is None:
        return None
    if not noise.training:
        noise = noise._replace(candidate=0.0, hidden=None)
    return noise if noise.zoneout_h or noise.zoneout_c or noise.candidate or noise.hidden is not None else None


def mix(x: Any) -> Any:
    """One 32-bit word, or an int64 array of them, scrambled so that every bit depends on every bit.

    Source: "lowbias32" of C. Wellons' hash prospector.

    >>> hex(mix(1))
    '0x688990c0'
    """
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _WORD
    x = x ^ (x >> 15)
    x = (x * (0x846CA68B - (1 << 32))) & _WORD  # the same modulo 2^32, and no product leaves 64 bits
    return x ^ (x >> 16)


def key(seed: int, stream: int, kind: int, t: int, row: Any) -> Any:
    """The word from which all units of one row draw at step t; `row` may be an int64 array."""
    word = mix(mix(seed & _WORD) ^ ((seed >> 32) & _WORD))
    word = mix((word + stream * 4 + kind) & _WORD)
    word = mix(word ^ (t & _WORD))
    return mix((word + row) & _WORD)


def events(noise: Noise, kind: int, t: int, like: Array) -> Array:
    """Where it happens at step t: bool [B, n] of the shape of `like`, true with the probability of its kind.

    >>> import numpy as np
    >>> events(Noise(zoneout_h=0.5, seed=7), ZONEOUT_H, 3, np.zeros((2, 5))).astype(int).tolist()
    [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]
    """
    return _events(noise, kind, t, like, _probability(noise, kind))


def _events(noise: Noise, kind: int, t: int, like: Array, p: float) -> Array:
    B, n = like.shape
    rows = key(noise.seed, noise.stream, kind, t, noise.first_row + A.arange(like, B))[:, None]  # [B, 1]
    units = (A.arange(like, n) * 0x9E3779B9) & _WORD  # [n]
    return (mix(rows ^ units) >> 8) < int(p * (1 << 24))


def zoneout(noise: Noise | None, kind: int, t: int, old: Array, new: Array) -> Array:
    """What is carried: for every unit the old or the new value, or their expectation in eval. [B, n]."""
    if noise is None or not (p := _probability(noise, kind)):
        return new
    return A.where(events(noise, kind, t, new), old, new) if noise.training else p * old + (1 - p) * new


def zoneout_backward(noise: Noise | None, kind: int, t: int, d: Array) -> tuple[Array, Array | None]:
    """dL/d(what is carried) -> dL/d(new), dL/d(old); None for zero."""
    if noise is None or not (p := _probability(noise, kind)):
        return d, None
    if not noise.training:
        return (1 - p) * d, p * d
    kept, zero = events(noise, kind, t, d), A.namespace(d).zeros_like(d)
    return A.where(kept, zero, d), A.where(kept, d, zero)


def candidate_mask(noise: Noise | None, t: int, like: Array) -> Array | None:
    """What the candidate is multiplied with at step t: 0 or 1/(1-p), [B, H] as `like`; None in eval and without noise."""
    if noise is None or not noise.training or not (p := noise.candidate):
        return None
    return _mask(noise, CANDIDATE, t, like, p)


def locked_mask(noise: Noise, which: int, p: float, like: Array) -> Array:
    """One mask for all steps, of `INPUT` or `HIDDEN`: 0 with probability p, else 1/(1-p); [B, n] as `like`."""
    return _mask(noise, LOCKED, which, like, p)


def _mask(noise: Noise, kind: int, t: int, like: Array, p: float) -> Array:
    zero = A.namespace(like).zeros_like(like)
    return A.where(_events(noise, kind, t, like, p), zero, zero + (1 / (1 - p) if p < 1 else 1))


def hidden_mask(noise: Noise | None) -> Array | None:
    """The locked mask of what is fed back, None in eval and without noise."""
    return noise.hidden if noise is not None and noise.training else None


def _probability(noise: Noise, kind: int) -> float:
    return (noise.zoneout_h, noise.zoneout_c, noise.candidate)[kind]
