"""Noise inside the recurrence: zoneout, recurrent dropout, locked dropout; and the generator that draws it.

The generator has no state. Every number is a function of what it is for: the seed, the stream (layer and direction), the kind
of noise, the step, the row, the unit. So a mask depends neither on threads nor on the size of the batch, and numpy, torch and
the kernels draw the same one.

Legend: T time, B batch, H hidden size, R what is fed back.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from openlstm import _array as A
from openlstm._array import Array

ZONEOUT_H, ZONEOUT_C, CANDIDATE = range(3)
"""Kinds of noise: each has draws of its own."""

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

    Source: Krueger et al. 2017 (zoneout), Semeniuta, Severyn & Barth 2016 (candidate), Gal & Ghahramani 2016 (locked masks).

    >>> import numpy as np
    >>> zoneout(Noise(zoneout_h=0.25, training=False), ZONEOUT_H, 0, np.zeros((1, 1)), np.ones((1, 1))).tolist()
    [[0.75]]
    """

    zoneout_h: float = 0.0
    zoneout_c: float = 0.0
    candidate: float = 0.0
    seed: int = 0
    stream: int = 0
    training: bool = True
    hidden: Array | None = None


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
    B, n = like.shape
    rows = key(noise.seed, noise.stream, kind, t, A.arange(like, B))[:, None]  # [B, 1]
    units = (A.arange(like, n) * 0x9E3779B9) & _WORD  # [n]
    return (mix(rows ^ units) >> 8) < int(_probability(noise, kind) * (1 << 24))


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
    zero = A.namespace(like).zeros_like(like)
    return A.where(events(noise, CANDIDATE, t, like), zero, zero + (1 / (1 - p) if p < 1 else 1))


def hidden_mask(noise: Noise | None) -> Array | None:
    """The locked mask of what is fed back, None in eval and without noise."""
    return noise.hidden if noise is not None and noise.training else None


def _probability(noise: Noise, kind: int) -> float:
    return (noise.zoneout_h, noise.zoneout_c, noise.candidate)[kind]
