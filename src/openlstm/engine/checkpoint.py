"""Checkpointing: only the state at every k-th step is kept, and a stretch is run again when its gradient is wanted.

    kept between forward and backward, beside x and y:   T/k (R + H) B   numbers instead of   T (G + 1) H B
    time: one more forward pass

The gradients have the bits of a run without: stretches are cut from the last step, between two of the blocks in which kernels
sum over steps.

Legend: T time, B batch, I input size, H hidden size, R what is fed back, G gates of a cell, N stretches.
Source: Chen, Xu, Zhang & Guestrin 2016; for recurrence Gruslys et al. 2016.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from openlstm.call import Call
from openlstm.engine.backends import cpu
from openlstm.errors import ArgumentError
from openlstm.reference import Gradients, Run, Saved, State

BLOCK = 512
"""The tokens of a block, `Tokens` in native/loop/backward.cpp."""


def interval(every: int, batch: int) -> int:
    """The number of steps between two states that are kept: `every`, rounded up to whole blocks of 512 // B steps.

    >>> interval(100, 32), interval(100, 1000)
    (112, 100)
    """
    block = max(BLOCK // max(batch, 1), 1)
    return -(-every // block) * block


def stretches(T: int, B: int, every: int, reverse: bool) -> list[tuple[int, int]]:
    """The windows (first step, one past the last) in the order in which they are run.

    >>> stretches(10, 512, 4, False), stretches(10, 512, 4, True)
    ([(0, 2), (2, 6), (6, 10)], [(8, 10), (4, 8), (0, 4)])
    """
    k = interval(every, B)
    cuts = [0, *range((T - 1) % k + 1, T + 1, k)]
    if reverse:
        return [(T - b, T - a) for a, b in zip(cuts, cuts[1:], strict=False)]
    return list(zip(cuts, cuts[1:], strict=False))


def check(who: str, every: int, T: int) -> None:
    """`every` must be 1 .. T.

    Raises:
        ArgumentError: if it is not.
    """
    if not 1 <= every <= T:
        hint = "choose a number of steps within the sequence (about sqrt(T) keeps least), or leave checkpoint out"
        what = f"checkpoint={every} is outside 1..T"
        raise ArgumentError.of(who, what, f"checkpoint={every}, T={T}", f"1 <= checkpoint <= T = {T}", hint)


def forward(module: Any, call: Call) -> Run:
    """Run a sequence and keep the states with which its stretches begin.

    Args:
        module: the backend.
        call: with `checkpoint` steps between two states.

    Returns:
        y [T, B, R], the final state, and in `saved` the states kept: h [N, B, R] as `gates` and c [N, B, C].
    """
    T, B, _ = call.x.shape
    y = cpu.empty(call.x, T, B, call.state.h.shape[1])
    begins: list[State] = []
    state = call.state
    for first, last in stretches(T, B, call.checkpoint, call.reverse):
        begins.append(state)
        part = call._replace(state=state, window=(first, last), save=False)
        state = module.forward(part, out=y[first:last]).state
    kept = State(*(None if parts[0] is None else torch.stack(parts) for parts in zip(*begins, strict=True)))
    return Run(y, state, Saved(y, kept.h, kept.c))


def backward(module: Any, call: Call, begins: State, dy: Tensor | None, dstate: State, input_gradient: bool) -> Gradients:
    """The gradients, stretch by stretch from the last, each run again first; `begins` is what `forward` kept."""
    x = call.x
    T, B, _ = x.shape
    dx = cpu.empty(x, *x.shape) if input_gradient else None
    later: Gradients | None = None
    for n, (first, last) in reversed(list(enumerate(stretches(T, B, call.checkpoint, call.reverse)))):
        begin = State(*(None if s is None else s[n] for s in begins))
        part = call._replace(state=begin, window=(first, last), save=True)
        saved = module.forward(part).saved
        later = module.backward(part, saved, dy, dstate, input_gradient=input_gradient, later=later)
        assert later is not None
        dstate = later.state
        if dx is not None:
            dx[first:last] = later.x
    assert later is not None
    return later._replace(x=dx)
