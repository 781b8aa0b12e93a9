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

from openlstm.cells import Cell
from openlstm.engine import cpu
from openlstm.errors import ArgumentError, message
from openlstm.reference import Gradients, State, Weights

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
        raise ArgumentError(message(who, what, f"checkpoint={every}, T={T}", f"1 <= checkpoint <= T = {T}", hint))


def forward(module: Any, cell: Cell, x: Tensor, weights: Weights, state: State, every: int, **options: Any) -> tuple[Any, ...]:
    """Run a sequence and keep the states with which its stretches begin.

    Args:
        module: the backend.
        options: lengths, reset and the like, as of the backend's `forward`.

    Returns:
        y [T, B, R], the final state, and the states kept: h [N, B, R] and c [N, B, H].
    """
    T, B, _ = x.shape
    y = cpu.empty(x, T, B, state.h.shape[1])
    begins: list[State] = []
    for window in stretches(T, B, every, options["reverse"]):
        begins.append(state)
        state = module.forward(cell, x, weights, state, window=window, out=y[window[0] : window[1]], **options).state
    return y, state, _stack(begins)


def backward(
    module: Any,
    cell: Cell,
    x: Tensor,
    weights: Weights,
    begins: State,
    dy: Tensor | None,
    dstate: State,
    every: int,
    *,
    input_gradient: bool,
    **options: Any,
) -> Gradients:
    """The gradients, stretch by stretch from the last, each run again first; `begins` is what `forward` kept."""
    T, B, _ = x.shape
    dx = cpu.empty(x, *x.shape) if input_gradient else None
    later: Gradients | None = None
    for n, (first, last) in reversed(list(enumerate(stretches(T, B, every, options["reverse"])))):
        begin = State(*(None if s is None else s[n] for s in begins))
        more = {"window": (first, last), **options}
        saved = module.forward(cell, x, weights, begin, save=True, **more).saved
        later = module.backward(cell, x, weights, begin, saved, dy, dstate, input_gradient=input_gradient, later=later, **more)
        assert later is not None
        dstate = later.state
        if dx is not None:
            dx[first:last] = later.x
    assert later is not None
    return later._replace(x=dx)


def _stack(states: list[State]) -> State:
    return State(*(None if parts[0] is None else torch.stack(parts) for parts in zip(*states, strict=True)))
