"""The readable definition of a sequence: the time loop and its hand-derived backward, over numpy or torch arrays.

This is a full backend (`OPENLSTM_BACKEND=reference`) and the text that every kernel is held against. `forward` is made of
plain array operations, so torch can differentiate it as often as it likes; `backward` is derived by hand.

Legend: T time, B batch, I input size, H hidden size, R what is fed back (P with a projection, else H), G gates of a cell.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from openlstm import _array as A
from openlstm._array import Array
from openlstm.cells import Cell


class Weights(NamedTuple):
    """The parameters of one layer in one direction; a missing one is None."""

    w_ih: Array  # [G*H, I]
    w_hh: Array  # [G*H, R]
    b_ih: Array | None = None  # [G*H]
    b_hh: Array | None = None  # [G*H]
    w_hr: Array | None = None  # [P, H], the projection


class State(NamedTuple):
    """What a row carries from step to step; `c` is None for a cell without a highway."""

    h: Array  # [B, R]
    c: Array | None = None  # [B, H]


class Saved(NamedTuple):
    """What a forward pass keeps, and what `trace` shows: the same memory."""

    h: Array  # [T, B, R], the outputs
    gates: Array | None = None  # [T, B, len(cell.saved)*H], in the order of cell.saved
    c: Array | None = None  # [T, B, H]

    def named(self, cell: Cell) -> dict[str, Array]:
        """Every gate, the cell states and the hidden states by name, each [T, B, H] (h: [T, B, R])."""
        out: dict[str, Array] = {}
        if self.gates is not None and cell.saved:
            out.update(zip(cell.saved, A.split(self.gates, len(cell.saved)), strict=True))
        if self.c is not None:
            out["c"] = self.c
        return {**out, "h": self.h}


class Run(NamedTuple):
    """The result of `forward`."""

    y: Array  # [T, B, R], exactly 0 past a row's length
    state: State  # at each row's last real step
    saved: Saved | None


class Gradients(NamedTuple):
    """The result of `backward`."""

    x: Array | None  # [T, B, I], None where it was not wanted
    weights: Weights
    state: State  # of the initial state
    reset_state: State | None  # of the state that resets lead to, None where none was given
    h_steps: Array | None = None  # [T, B, R], dL/dh_t
    c_steps: Array | None = None  # [T, B, H], dL/dc_t along the highway


def step(cell: Cell, x: Array, state: State, w: Weights) -> tuple[State, tuple[Array, ...]]:
    """One step of the recurrence: x [B, I], state -> new state, activated gates.

        z = x W_ih^T + b_ih + h W_hh^T + b_hh;   (h', c') = cell(z, c);   with a projection h' <- h' W_hr^T

    >>> import numpy as np
    >>> from openlstm.cells import LSTM
    >>> w = Weights(np.zeros((4, 1)), np.zeros((4, 1)))
    >>> new, gates = step(LSTM(), np.ones((1, 1)), State(np.zeros((1, 1)), np.ones((1, 1))), w)
    >>> float(new.c[0, 0])  # every gate is one half, the candidate is zero
    0.5
    """
    z = x @ w.w_ih.T + state.h @ w.w_hh.T  # [B, G*H]
    if w.b_ih is not None:
        z = z + (w.b_ih + w.b_hh)
    gates, h, c = cell.forward(z, state.c)
    return State(h if w.w_hr is None else h @ w.w_hr.T, c), gates


def forward(
    cell: Cell,
    x: Array,
    weights: Weights,
    state: State,
    *,
    lengths: Array | None = None,
    reset: Array | None = None,
    reset_state: State | None = None,
    reverse: bool = False,
    save: bool = False,
    out: Array | None = None,
) -> Run:
    """Run a cell over a sequence.

    Args:
        cell: the recurrence.
        x: [T, B, I].
        weights: one layer in one direction.
        state: the carried-in state, h [B, R] and c [B, H].
        lengths: integers [B]; a row ends after that many steps. Its outputs beyond are 0 and its x there is never read.
        reset: bool [T, B]; where true the row's state becomes `reset_state` (zero if None) between t-1 and t.
        reset_state: h [B, R] and c [B, H].
        reverse: run from each row's last real step to its first.
        save: keep gates and cell states for `backward`.
        out: an array [T, B, R] into which the outputs are also written.

    Returns:
        y [T, B, R], the state after each row's last step, and what was saved.
    """
    T, B, _ = x.shape
    rows = _Rows(x, lengths, reset, reset_state, reverse)
    zero_y = A.zeros(x, B, weights.w_hh.shape[1])
    zero_g = A.zeros(x, B, len(cell.saved) * _hidden(cell, weights))
    ys: list[Array] = [zero_y] * T
    gs: list[Array] = [zero_g] * T
    cs: list[Any] = [state.c] * T
    for t in rows.order(T):
        new, gates = step(cell, rows.real(t, x[t]), rows.enter(t, state), weights)
        ys[t] = rows.real(t, new.h)
        if save:
            gs[t] = rows.real(t, A.concat(list(gates))) if gates else zero_g
            cs[t] = rows.real(t, new.c) if cell.has_cell else None
        state = rows.keep(t, new, state)
    y = A.stack(ys) if T else A.zeros(x, 0, B, weights.w_hh.shape[1])
    if out is not None:
        out[...] = y
    if not save:
        return Run(y, state, None)
    gates = A.stack(gs) if T else A.zeros(x, 0, *zero_g.shape)
    c = (A.stack(cs) if T else A.zeros(x, 0, *state.c.shape)) if state.c is not None else None
    return Run(y, state, Saved(y, gates, c))


def backward(
    cell: Cell,
    x: Array,
    weights: Weights,
    state: State,
    saved: Saved,
    dy: Array | None,
    dstate: State,
    *,
    lengths: Array | None = None,
    reset: Array | None = None,
    reset_state: State | None = None,
    reverse: bool = False,
    steps: bool = False,
    input_gradient: bool = True,
) -> Gradients:
    """The gradient of `forward`, derived by hand (backpropagation through time).

    Args:
        dy: dL/dy [T, B, R] (None for zero); what it holds past a row's length is ignored.
        dstate: dL/d(final state); a member that is None counts as zero.
        steps: also hand out dL/dh_t and dL/dc_t for every step.
        input_gradient: whether dL/dx is wanted; it is None if not.

    The rest as in `forward`. A step of a row whose incoming dL/dh_t and dL/dc_t are all exactly zero contributes exact zeros,
    so that NaN in data that the loss does not depend on stays without effect.
    """
    T, B, _ = x.shape
    w = weights
    rows = _Rows(x, lengths, reset, reset_state, reverse)
    order = list(rows.order(T))
    dh = dstate.h if dstate.h is not None else A.zeros(x, *state.h.shape)
    dc = dstate.c if dstate.c is not None or state.c is None else A.zeros(x, *state.c.shape)
    dx: list[Any] = [A.zeros(x, *x.shape[1:])] * T
    h_steps: list[Array] = [A.zeros(x, *state.h.shape)] * T
    c_steps: list[Any] = [None if dc is None else A.zeros(x, *dc.shape)] * T
    sums = [A.zeros(x, *shape) for shape in (w.w_ih.shape, w.w_hh.shape, w.w_ih.shape[:1])]
    dw_hr = None if w.w_hr is None else A.zeros(x, *w.w_hr.shape)
    dreset = State(A.zeros(x, *state.h.shape), None if state.c is None else A.zeros(x, *state.c.shape))
    for n in reversed(range(T)):
        t = order[n]
        before = State(saved.h[order[n - 1]], None if saved.c is None else saved.c[order[n - 1]]) if n else state
        before = rows.keep(order[n - 1], before, state) if n else state  # a row that has not begun still holds its h0
        before = rows.enter(t, before)
        g_h = rows.real(t, dh if dy is None else dh + dy[t])
        g_c = None if dc is None else rows.real(t, dc)
        h_steps[t], c_steps[t] = g_h, g_c
        live = _any(g_h != 0) if g_c is None else _any(g_h != 0) | _any(g_c != 0)  # [B, 1]
        gates = A.split(saved.gates[t], len(cell.saved)) if cell.saved and saved.gates is not None else ()
        c = None if saved.c is None else saved.c[t]
        dm, h = g_h, saved.h[t]
        if w.w_hr is not None:  # the cell's own output is m and h = m W_hr^T; m is not kept, so it is run again
            dm = g_h @ w.w_hr  # [B, H]
            h = step(cell, x[t], before, w._replace(w_hr=None))[0].h
            dw_hr = dw_hr + _only(live, g_h).T @ _only(live, h)
        dz, dc_prev = cell.backward(gates, before.c, c, h, dm, g_c)
        dz = _only(live, dz)  # [B, G*H]
        dx[t] = dz @ w.w_ih if input_gradient else None
        sums = [
            sums[0] + dz.T @ _only(live, x[t]),
            sums[1] + dz.T @ _only(live, before.h),
            sums[2] + dz.sum(0),
        ]
        flow = State(dz @ w.w_hh, None if dc_prev is None else _only(live, dc_prev))
        dreset = rows.to_reset(t, flow, dreset)
        dh, dc = rows.keep(t, rows.leave(t, flow), State(dh, dc))
    bias = None if w.b_ih is None else sums[2]
    return Gradients(
        (A.stack(dx) if T else A.zeros(x, *x.shape)) if input_gradient else None,
        Weights(sums[0], sums[1], bias, bias, dw_hr),
        State(dh, dc),
        dreset if reset_state is not None else None,
        (A.stack(h_steps) if T else A.zeros(x, 0, *state.h.shape)) if steps else None,
        (A.stack(c_steps) if T else A.zeros(x, 0, *state.c.shape)) if steps and state.c is not None else None,
    )


class _Rows:
    """Which rows take part in a step, and what a reset puts in place of their state."""

    def __init__(self, x: Array, lengths: Any, reset: Any, reset_state: State | None, reverse: bool) -> None:
        self.lengths = None if lengths is None else A.as_like(lengths, x)[:, None]  # [B, 1]
        self.reset = None if reset is None else A.as_like(reset, x)[:, :, None]  # [T, B, 1]
        self.reset_state = reset_state
        self.reverse = reverse

    def order(self, T: int) -> range:
        return range(T - 1, -1, -1) if self.reverse else range(T)

    def alive(self, t: int) -> Array | None:
        return None if self.lengths is None else t < self.lengths  # [B, 1]

    def cut(self, t: int) -> Array | None:
        """Where the state is replaced before step t; reset[t] lies between t-1 and t in both directions."""
        if self.reset is None:
            return None
        at = t + 1 if self.reverse else t
        if at >= self.reset.shape[0]:
            return None
        alive = self.alive(at)
        return self.reset[at] if alive is None else self.reset[at] & alive

    def real(self, t: int, value: Array) -> Array:
        """`value` where the row has not ended, 0 beyond (whatever stood there)."""
        return _only(self.alive(t), value)

    def keep(self, t: int, new: State, old: State) -> State:
        """`new` for rows that take part in step t, `old` for the others."""
        alive = self.alive(t)
        return new if alive is None else _choose(alive, new, old)

    def enter(self, t: int, state: State) -> State:
        """The state with which step t begins."""
        cut = self.cut(t)
        if cut is None:
            return state
        fresh = self.reset_state
        if fresh is None:
            fresh = State(*(None if s is None else A.zeros(s, *s.shape) for s in state))
        return _choose(cut, fresh, state)

    def leave(self, t: int, flow: State) -> State:
        """What of a gradient at the begin of step t crosses to the step before: nothing where the state was replaced."""
        cut = self.cut(t)
        return flow if cut is None else State(*(None if s is None else _only(~cut, s) for s in flow))

    def to_reset(self, t: int, flow: State, total: State) -> State:
        """Add to the gradient of the reset state what `leave` cut off."""
        cut = self.cut(t)
        if cut is None:
            return total
        return State(*(None if s is None else a + _only(cut, s) for a, s in zip(total, flow, strict=True)))


def _only(mask: Array | None, value: Array) -> Array:
    """`value` where mask, exact 0 elsewhere; never multiplied, since 0 * NaN is NaN."""
    return value if mask is None else A.where(mask, value, A.namespace(value).zeros_like(value))


def _choose(mask: Array, a: State, b: State) -> State:
    return State(*(None if p is None else A.where(mask, p, q) for p, q in zip(a, b, strict=True)))


def _any(mask: Array) -> Array:
    return mask.any(-1)[:, None]  # [B, 1]


def _hidden(cell: Cell, w: Weights) -> int:
    return w.w_ih.shape[0] // len(cell.gates)
