"""The readable definition of a sequence: the time loop and its hand-derived backward, over numpy or torch arrays.

This is a full backend (`OPENLSTM_BACKEND=reference`) and the text that every kernel is held against. `forward` is made of
plain array operations, so torch can differentiate it as often as it likes; `backward` is derived by hand.

Legend: T time, B batch, I input size, H hidden size, R what is fed back (P with a projection, 4H for FGR, else H), C the cell
states side by side (H for each of `Cell.states`), K columns of W_hh (`weights.recurrent_size`), G gates of a cell, A of them
with their sums apart.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from openlstm import _array as A
from openlstm import noise as N
from openlstm._array import Array
from openlstm.call import Call
from openlstm.cells import Cell, StepInputs
from openlstm.cells import State as State
from openlstm.noise import Noise
from openlstm.weights import Weights as Weights
from openlstm.weights import collapse, expand, hidden_size, recurrent_gradient, seen, unseen


class Saved(NamedTuple):
    """What a forward pass keeps, and what `trace` shows: the same memory."""

    h: Array  # [T, B, R], the outputs
    gates: Array | None = None  # [T, B, len(cell.saved)*H], in the order of cell.saved
    c: Array | None = None  # [T, B, C], the cell states that were carried, after zoneout
    m: Array | None = None  # [T, B, H], the cell's own output where h is not: before a projection and zoneout

    def named(self, cell: Cell) -> dict[str, Array]:
        """Every gate, the cell states and the hidden states by name, each [T, B, H] (h: [T, B, R])."""
        out: dict[str, Array] = {}
        if self.gates is not None and cell.saved:
            out.update(zip(cell.saved, A.split(self.gates, len(cell.saved)), strict=True))
        if self.c is not None:
            out.update(zip(cell.states, A.split(self.c, len(cell.states)), strict=True))
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
    reset_state: State | None  # of the state that resets lead to, of its shape; None where none was given
    h_steps: Array | None = None  # [T, B, R], dL/dh_t
    c_steps: Array | None = None  # [T, B, C], dL/dc_t along the highway


class FullStep(NamedTuple):
    """One step, taken apart."""

    state: State  # what is carried on
    gates: tuple[Array, ...]
    h: Array  # [B, H], the cell's own output, before projection and zoneout
    c: Array | None  # [B, C], before zoneout
    z: Array  # [B, (G+A)*H]
    mask: Array | None  # [B, H], of the candidate


def step(
    cell: Cell, x: Array, state: State, w: Weights, noise: Noise | None = None, t: int = 0
) -> tuple[State, tuple[Array, ...]]:
    """One step of the recurrence: x [B, I], state -> new state, activated gates.

        z = x W_ih^T + b_ih + h W_hh^T + b_hh;   (h', c') = cell(z, c);   with a projection h' <- h' W_hr^T

    >>> import numpy as np
    >>> from openlstm.cells import LSTM
    >>> w = Weights(np.zeros((4, 1)), np.zeros((4, 1)))
    >>> new, gates = step(LSTM(), np.ones((1, 1)), State(np.zeros((1, 1)), np.ones((1, 1))), w)
    >>> float(new.c[0, 0])  # every gate is one half, the candidate is zero
    0.5
    """
    cell, w, _ = unshared(cell, w)
    full = full_step(cell, x, state, w, noise, t)
    return full.state, full.gates


def full_step(cell: Cell, x: Array, before: State, w: Weights, noise: Noise | None, t: int) -> FullStep:
    """One step of a cell without memory blocks, with everything that came up on the way; the noise is that of step t."""
    z = sums(cell, x, before.h, w, noise)
    mask = None if noise is None else N.candidate_mask(noise, t, z[:, : z.shape[1] // (len(cell.gates) + cell.separate)])
    gates, h, c = cell(z, before, w.w_ch, mask, w.norm)
    new = State(h if w.w_hr is None else h @ w.w_hr.T, c)
    if noise is not None:
        carried = None if c is None else N.zoneout(noise, N.ZONEOUT_C, t, before.c, c, len(cell.states))
        new = State(N.zoneout(noise, N.ZONEOUT_H, t, before.h, new.h), carried)
    return FullStep(new, gates, h, c, z, mask)


def sums(cell: Cell, x: Array, h: Array, w: Weights, noise: Noise | None = None) -> Array:
    """The pre-activations z [B, (G+A)*H]: x and h summed, but for the last A gates one block for x and one for h."""
    mask = N.hidden_mask(noise)
    of_x = x if w.w_ih is None else x @ w.w_ih.T  # [B, G*H]
    of_h = seen(h if mask is None else mask * h, w.w_hh)  # [B, G*H]
    if not cell.separate:
        z = of_x if of_h is None else of_x + of_h
        return z if w.b_ih is None else z + (w.b_ih if w.b_hh is None else w.b_ih + w.b_hh)
    if w.b_ih is not None:
        of_x, of_h = of_x + w.b_ih, of_h + w.b_hh
    n = of_x.shape[1] * (len(cell.gates) - cell.separate) // len(cell.gates)
    return A.concat([of_x[:, :n] + of_h[:, :n], of_x[:, n:], of_h[:, n:]])


def unsum(cell: Cell, dz: Array) -> tuple[Array, Array]:
    """dL/dz -> what of it belongs to x W_ih^T + b_ih and what to h W_hh^T + b_hh, each [..., G*H]."""
    if not cell.separate:
        return dz, dz
    H = dz.shape[-1] // (len(cell.gates) + cell.separate)
    n, m = H * (len(cell.gates) - cell.separate), H * len(cell.gates)
    return dz[..., :m], A.concat([dz[..., :n], dz[..., m:]])


def forward(call: Call, out: Array | None = None) -> Run:
    """Run a cell over a sequence.

    Args:
        call: which cell, over what; with `save` gates and cell states are kept for `backward`.
        out: an array [T, B, R] into which the outputs are also written.

    Returns:
        y [T, B, R], the state after each row's last step, and what was saved.
    """
    x, state, noise = call.x, call.state, call.noise
    B = x.shape[1]
    first, last = call.steps
    T = last - first
    cell, weights, H = unshared(call.cell, call.weights)
    rows = _Rows(call)
    apart = _apart(weights, noise)
    R = state.h.shape[1]
    zero_y, zero_g = A.zeros(x, B, R), A.zeros(x, B, len(cell.saved) * H)
    zero_m = A.zeros(x, B, H * len(cell.feeds_back))
    ys: list[Array] = [zero_y] * T
    gs: list[Array] = [zero_g] * T
    ms: list[Array] = [zero_m] * T
    cs: list[Any] = [state.c] * T
    for t in rows.order(first, last):
        k = t - first
        full = full_step(cell, rows.real(t, x[t]), rows.enter(t, state), weights, noise, t)
        new = full.state
        ys[k] = rows.real(t, new.h)
        if call.save:
            gs[k] = rows.real(t, A.concat(list(full.gates))) if full.gates else zero_g
            ms[k] = rows.real(t, full.h) if apart else zero_m
            cs[k] = rows.real(t, new.c)
        state = rows.keep(t, new, state)
    y = A.stack(ys) if T else A.zeros(x, 0, B, R)
    if out is not None:
        out[...] = y
    if not call.save:
        return Run(y, state, None)
    gates = A.stack(gs) if T else A.zeros(x, 0, *zero_g.shape)
    c = (A.stack(cs) if T else A.zeros(x, 0, *state.c.shape)) if state.c is not None else None
    m = (A.stack(ms) if T else A.zeros(x, 0, *zero_m.shape)) if apart else None
    return Run(y, state, Saved(y, gates, c, m))


def backward(
    call: Call,
    saved: Saved,
    dy: Array | None,
    dstate: State,
    *,
    steps: bool = False,
    input_gradient: bool = True,
    later: Gradients | None = None,
) -> Gradients:
    """The gradient of `forward`, derived by hand (backpropagation through time).

    Args:
        call: the same as in `forward`. With a window `call.state` is the state at its begin and `dstate` belongs to that at its
            end; `saved` and what is returned hold its steps.
        dy: dL/dy [T, B, R] (None for zero); what it holds past a row's length is ignored.
        dstate: dL/d(final state); a member that is None counts as zero.
        steps: also hand out dL/dh_t and dL/dc_t for every step.
        input_gradient: whether dL/dx is wanted; it is None if not.
        later: the gradients of the window that is run after this one; sums over steps go on from there.

    A step of a row whose incoming dL/dh_t and dL/dc_t are all exactly zero contributes exact zeros, so that NaN in data that
    the loss does not depend on stays without effect.
    """
    x, state, noise = call.x, call.state, call.noise
    B = x.shape[1]
    first, last = call.steps
    T = last - first
    hidden = N.hidden_mask(noise)
    cell, w, H = unshared(call.cell, call.weights)
    rows = _Rows(call)
    order = list(rows.order(first, last))
    zoned_c = noise is not None and noise.zoneout_c > 0 and cell.has_cell
    lost = zoned_c or (saved.m is None and _apart(w, noise))  # whether c' or h' was not kept
    again = lost or not cell.derives_itself
    dh = dstate.h if dstate.h is not None else A.zeros(x, *state.h.shape)
    dc = dstate.c if dstate.c is not None or state.c is None else A.zeros(x, *state.c.shape)
    dx: list[Any] = [A.zeros(x, *x.shape[1:])] * T
    h_steps: list[Array] = [A.zeros(x, *state.h.shape)] * T
    c_steps: list[Any] = [None if dc is None else A.zeros(x, *dc.shape)] * T
    dw_hh, db_ih, db_hh = (A.zeros(x, *s) for s in (w.w_hh.shape, w.w_hh.shape[:1], w.w_hh.shape[:1]))
    dw_ih, dw_hr, dw_ch, dnorm = (None if a is None else A.zeros(x, *a.shape) for a in (w.w_ih, w.w_hr, w.w_ch, w.norm))
    dreset = rows.no_flow(x, state)
    if later is not None:
        sums = (dw_ih, dw_hh, db_ih, db_hh, dw_hr, dw_ch, dnorm)
        dw_ih, dw_hh, db_ih, db_hh, dw_hr, dw_ch, dnorm = _going_on(later.weights, sums)
        dreset = dreset if later.reset_state is None else rows.parted(later.reset_state)
    zero = A.zeros(x, B, H)
    for n in reversed(range(T)):
        t = order[n]
        k, p = t - first, order[n - 1] - first  # places of this step and of the one before in what was saved
        before = State(saved.h[p], None if saved.c is None else saved.c[p]) if n else state
        before = rows.keep(order[n - 1], before, state) if n else state  # a row that has not begun still holds its h0
        before = rows.enter(t, before)
        g_h = rows.real(t, dh if dy is None else dh + dy[t])
        g_c = rows.real(t, dc)
        h_steps[k], c_steps[k] = g_h, g_c
        live = _any(g_h != 0) if g_c is None else _any(g_h != 0) | _any(g_c != 0)  # [B, 1]
        x_t, before_h = _only(live, x[t]), _only(live, before.h)

        # what was carried is old or new; what is new is the cell's own, or its projection
        (new_h, old_h), (new_c, old_c) = (g_h, None), (g_c, None)
        if noise is not None:
            new_h, old_h = N.zoneout_backward(noise, N.ZONEOUT_H, t, g_h)
            if g_c is not None:
                new_c, old_c = N.zoneout_backward(noise, N.ZONEOUT_C, t, g_c, len(cell.states))
        gates = A.split(saved.gates[k], len(cell.saved)) if cell.saved and saved.gates is not None else ()
        c = None if saved.c is None else saved.c[k]
        h, z, mask = saved.h[k] if saved.m is None else saved.m[k], None, N.candidate_mask(noise, t, zero)
        if again:
            begin = State(before_h, _only(live, before.c))
            _, gates, h, c, z, mask = full_step(cell, x_t, begin, w, noise, t)
        dm = new_h
        if w.w_hr is not None:
            dm = new_h @ w.w_hr  # [B, H]
            dw_hr = dw_hr + _only(live, new_h).T @ _only(live, h)
        flow = cell.backward(StepInputs(gates, before, c, h, w.w_ch, mask, z, w.norm), dm, new_c)

        dz_x, dz_h = unsum(cell, _only(live, flow.z))  # [B, G*H]
        dx[k] = None if not input_gradient else dz_x if w.w_ih is None else dz_x @ w.w_ih
        dw_ih, db_ih = None if w.w_ih is None else dw_ih + dz_x.T @ x_t, db_ih + dz_x.sum(0)
        dw_hh = dw_hh + recurrent_gradient(dz_h, before_h if hidden is None else hidden * before_h, w.w_hh)
        db_hh = db_hh + dz_h.sum(0) if cell.separate else db_ih
        dw_ch = None if flow.w_ch is None else dw_ch + _only(live, flow.w_ch).sum(0)
        dnorm = None if flow.norm is None else dnorm + _only(live, flow.norm).sum(0)
        to_h = unseen(dz_h, w.w_hh, before_h.shape[1])
        to_h = to_h if hidden is None else hidden * to_h
        back = State(_plus(to_h, live, flow.h, old_h), _plus(_only(live, flow.c), live, old_c))
        dreset = rows.to_reset(t, back, dreset)
        dh, dc = rows.keep(t, rows.leave(t, back), State(dh, dc))
    db = (None if w.b_ih is None else db_ih, None if w.b_hh is None else db_hh)
    return Gradients(
        (A.stack(dx) if T else A.zeros(x, 0, *x.shape[1:])) if input_gradient else None,
        collapse(
            call.cell, Weights(dw_ih, mask_recurrent(cell, dw_hh), *db, dw_hr, dw_ch, dnorm), H, call.weights.b_ih is not None
        ),
        State(dh, dc),
        rows.whole(x, dreset) if call.reset_state is not None else None,
        (A.stack(h_steps) if T else A.zeros(x, 0, *state.h.shape)) if steps else None,
        (A.stack(c_steps) if T else A.zeros(x, 0, *state.c.shape)) if steps and state.c is not None else None,
    )


def _apart(w: Weights, noise: Noise | None) -> bool:
    """Whether what is carried as h is not the cell's own output."""
    return w.w_hr is not None or (noise is not None and noise.zoneout_h > 0)


def _going_on(later: Weights, zeros: tuple[Any, ...]) -> tuple[Any, ...]:
    """The sums over the steps of a later window, zeros where it had none (in the order of `Weights`)."""
    return tuple(zero if a is None else a for a, zero in zip(later, zeros, strict=True))


def unshared(cell: Cell, w: Weights) -> tuple[Cell, Weights, int]:
    """The cell and the weights that the loop runs on, gates of their own for every unit, and H."""
    H = hidden_size(cell, w)
    w = expand(cell, w, H)
    return cell.unshared(), w._replace(w_hh=mask_recurrent(cell, w.w_hh)), H


def mask_recurrent(cell: Cell, w_hh: Array) -> Array:
    """W_hh with zeros where it does not exist: where gates are fed back, the candidate sees the output alone."""
    if len(cell.feeds_back) == 1:
        return w_hh
    row, column = A.arange(w_hh, w_hh.shape[0]), A.arange(w_hh, w_hh.shape[1])
    gate = row * len(cell.gates) // max(len(row), 1)  # [G*H], its number
    block = column * len(cell.feeds_back) // max(len(column), 1)  # [R], 0 for the output
    candidate = cell.gates.index(cell.candidate) if cell.candidate in cell.gates else -1
    return _only((gate[:, None] != candidate) | (block == 0), w_hh)


class _Rows:
    """Which rows take part in a step, and what a reset puts in place of their state."""

    def __init__(self, call: Call) -> None:
        self.lengths = None if call.lengths is None else A.as_like(call.lengths, call.x)[:, None]  # [B, 1]
        self.reset = None if call.reset is None else A.as_like(call.reset, call.x)[:, :, None]  # [T, B, 1]
        self.reset_state = fresh = call.reset_state
        self.each = fresh is not None and len(fresh.h.shape) == 3  # a state of its own for every step
        self.reverse = call.reverse

    def order(self, first: int, last: int) -> range:
        return range(last - 1, first - 1, -1) if self.reverse else range(first, last)

    def alive(self, t: int) -> Array | None:
        return None if self.lengths is None else t < self.lengths  # [B, 1]

    def at(self, t: int) -> int:
        """The place in `reset` of what stands before step t."""
        return t + 1 if self.reverse else t

    def cut(self, t: int) -> Array | None:
        """Where the state is replaced before step t; reset[t] lies between t-1 and t in both directions."""
        at = self.at(t)
        if self.reset is None or at >= self.reset.shape[0]:
            return None
        alive = self.alive(at)
        return self.reset[at] if alive is None else self.reset[at] & alive

    def real(self, t: int, value: Any) -> Any:
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
        elif self.each:
            fresh = State(*(None if s is None else s[self.at(t)] for s in fresh))
        return _choose(cut, fresh, state)

    def leave(self, t: int, flow: State) -> State:
        """What of a gradient at the begin of step t crosses to the step before: nothing where the state was replaced."""
        cut = self.cut(t)
        return flow if cut is None else State(*(_only(~cut, s) for s in flow))

    def no_flow(self, x: Array, state: State) -> State:
        """The gradient of the reset state before any is added: zeros, one array for each step where each has its state."""

        def zero(s: Any) -> Any:
            return [A.zeros(x, *s.shape)] * x.shape[0] if self.each else A.zeros(x, *s.shape)

        return State(*(None if s is None else zero(s) for s in state))

    def to_reset(self, t: int, flow: State, total: State) -> State:
        """Add to the gradient of the reset state what `leave` cut off."""
        cut = self.cut(t)
        if cut is None:
            return total
        if not self.each:
            return State(*(None if s is None else a + _only(cut, s) for a, s in zip(total, flow, strict=True)))
        for a, s in zip(total, flow, strict=True):
            if a is not None:
                a[self.at(t)] = _only(cut, s)
        return total

    def parted(self, total: State) -> Any:
        """The other way round than `whole`."""
        return State(*(None if a is None else list(a) for a in total)) if self.each else total

    def whole(self, x: Array, total: State) -> State:
        """The gradient of the reset state in the shape of the reset state."""
        fresh: Any = self.reset_state
        if not self.each:
            return total
        pairs = zip(total, fresh, strict=True)
        return State(*(None if a is None else A.stack(a) if a else A.zeros(x, *s.shape) for a, s in pairs))


def _only(mask: Array | None, value: Any) -> Any:
    """`value` where mask, exact 0 elsewhere; never multiplied, since 0 * NaN is NaN. None stays None."""
    return value if mask is None or value is None else A.where(mask, value, A.namespace(value).zeros_like(value))


def _choose(mask: Array, a: State, b: State) -> State:
    return State(*(None if p is None else A.where(mask, p, q) for p, q in zip(a, b, strict=True)))


def _any(mask: Array) -> Array:
    return mask.any(-1)[:, None]  # [B, 1]


def _plus(value: Any, live: Array, *more: Array | None) -> Any:
    """The sum of what there is; of `more` in live rows only."""
    for m in more:
        value = value if m is None else value + _only(live, m)
    return value
