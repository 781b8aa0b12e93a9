"""The Jacobian of every step of a recurrence and their product, which is what a gradient is multiplied with on its way back.

Legend: T time, B batch, H hidden size, R what is fed back (4H for FGR, else H), S size of the state: R for a cell without a
highway (s = h), R + H for one with (s = (h, c) joined), so H for a vanilla RNN or a GRU and 2H for an LSTM.

For a vanilla RNN the Jacobian of a step and the product over k steps are

    J_t = ds_t / ds_{t-1} = diag(1 - h_t^2) W_hh;      ds_T / ds_{T-k} = J_T J_{T-1} ... J_{T-k+1}

For an LSTM the state is (h, c) together. Whoever holds c fixed cannot see the highway, the block dc_t/dc_{t-1} = diag(f_t).

Source: Bengio, Simard & Frasconi 1994; Pascanu, Mikolov & Bengio 2013 (eq. 5-7).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from openlstm import _array as A
from openlstm._array import Array
from openlstm.cells import Cell, StepGradients, StepInputs
from openlstm.errors import ArgumentError
from openlstm.insight.batches import detached, each, plain_types
from openlstm.insight.place import Place
from openlstm.noise import ZONEOUT_C, ZONEOUT_H, active, hidden_mask, zoneout_backward
from openlstm.reference import Saved, State, Weights, full_step, unshared, unsum
from openlstm.weights import cell_size, unseen


def step_jacobians(cell: Cell, saved: Saved, weights: Weights, state: State) -> np.ndarray:
    """d(state after step t) / d(state before step t) for every step, from what a forward pass saved.

    No cell writes its Jacobian down: row j is the cell's own backward step for the j-th unit vector.

    Args:
        cell: the recurrence that ran.
        saved: h [T, B, R], gates and c, from `recur(..., save=True)` without noise and resets; numpy or torch.
        weights: the weights it ran with.
        state: the state it began with, h [B, R] and c [B, C].

    Returns:
        [T, B, S, S] in the dtype of `saved`; rows and columns are h, then c and what further states there are.

    Raises:
        ArgumentError: for a layer with a projection, whose saved h is not the cell's own output, and for a cell of your own
            without a `backward`, whose derivative cannot be told from its gates.

    >>> from openlstm import reference
    >>> from openlstm.call import Call
    >>> from openlstm.cells import VanillaRNN
    >>> w, begin = Weights(np.ones((1, 1)), np.full((1, 1), 0.5)), State(np.zeros((1, 1)))
    >>> run = reference.forward(Call(VanillaRNN(), np.zeros((3, 1, 1)), w, begin, save=True))
    >>> step_jacobians(VanillaRNN(), run.saved, w, begin).ravel().tolist()  # tanh'(0) W_hh
    [0.5, 0.5, 0.5]
    """
    _check(cell, weights)
    cell, weights, H = unshared(cell, Weights(*(None if w is None else _numpy(w) for w in weights)))
    h = _numpy(saved.h)
    T, B, R = h.shape
    gates = A.split(_numpy(saved.gates), len(cell.saved)) if cell.saved else ()  # each [T, B, H]
    c = _numpy(saved.c) if cell.has_cell else None
    before = State(_earlier(state.h, h), None if c is None else _earlier(state.c, c))
    S = R + cell_size(cell, H)
    unit = np.broadcast_to(np.eye(S, dtype=h.dtype)[:, None, None, :], (S, T, B, S))  # one unit vector per row of the Jacobian
    around = StepInputs(gates, before, c, h, weights.w_ch, norm=weights.norm)
    flow = cell.backward(around, unit[..., :R], unit[..., R:] if cell.has_cell else None)
    to_h = unseen(unsum(cell, flow.z)[1], weights.w_hh, R)  # [S, T, B, R]
    to_h = to_h if flow.h is None else to_h + flow.h
    return np.moveaxis(to_h if flow.c is None else np.concatenate([to_h, flow.c], -1), 0, 2)  # [T, B, S, S]


def products(jacobians: np.ndarray) -> np.ndarray:
    """ds_T / ds_{T-k} for k = 0 .. T: the product of the last k Jacobians, the latest leftmost.

    Args:
        jacobians: [T, B, S, S] of `step_jacobians`.

    Returns:
        [T+1, B, S, S]; the first is the identity.

    >>> products(np.full((3, 1, 1, 1), 0.5)).ravel().tolist()
    [1.0, 0.5, 0.25, 0.125]
    """
    T, B, S, _ = jacobians.shape
    out = np.empty((T + 1, B, S, S), jacobians.dtype)
    out[0] = np.eye(S)
    for k in range(1, T + 1):
        out[k] = out[k - 1] @ jacobians[T - k]
    return out


def sizes(matrices: np.ndarray) -> np.ndarray:
    """The largest singular value of each matrix: the most by which it can stretch a gradient. [..., S, S] -> [...]."""
    return np.linalg.norm(matrices, 2, axis=(-2, -1))


class ChunkSteps(NamedTuple):
    """The steps of a chunk taken apart as one batch of steps, so that gradients can be sent back through each of them alone."""

    cell: Cell
    weights: Weights  # with gates of their own for every unit
    around: StepInputs  # of every step, [n, B, .]
    noise: Any
    t0: int

    @staticmethod
    def of(place: Place, t0: int, start: State, saved: Saved) -> ChunkSteps:
        """The steps of a chunk of `place.forwards()` or `place.again()`.

        What a pass does not keep (the cell's own h' and c' under zoneout, the sums of a cell that derives itself by autograd)
        is computed again from the states between the steps.
        """
        cell, w, _ = unshared(place.cell, detached(place.weights))
        before, noise = place.before(t0, start, saved), active(place.noise)
        gates = A.split(saved.gates, len(cell.saved)) if cell.saved else ()
        c, h, z, mask = saved.c, saved.h if saved.m is None else saved.m, None, None
        if noise is not None or not cell.derives_itself:
            x = place.x[t0 : t0 + saved.h.shape[0]]
            if noise is not None:
                noise = noise._replace(seed=int(noise.seed))
            taken = [full_step(cell, x[k], each(before, lambda s, k=k: s[k]), w, noise, t0 + k) for k in range(len(x))]
            h, z = (A.stack([getattr(step, name) for step in taken]) for name in ("h", "z"))
            c = A.stack([step.c for step in taken]) if cell.has_cell else None
            gates = tuple(A.stack(list(parts)) for parts in zip(*(step.gates for step in taken), strict=True))
            mask = A.stack([step.mask for step in taken]) if taken and taken[0].mask is not None else None
        return ChunkSteps(cell, w, StepInputs(gates, before, c, h, w.w_ch, mask, z, w.norm), noise, t0)

    def step(self, k: int) -> ChunkSteps:
        """One step of it, with the arrays [B, .]."""
        a = self.around
        gates, before, c, h, mask, z = each((a.gates, a.before, a.c, a.h, a.mask, a.z), lambda v: v[k])
        one = StepInputs(gates, before, c, h, a.w_ch, mask, z, a.norm)
        return self._replace(around=one, t0=self.t0 + k)

    def flow(self, dh: Array, dc: Array | None) -> tuple[StepGradients, State]:
        """dL/dh_t and dL/dc_t -> the gradients of what the steps read, and what zoneout hands on to the old state."""
        old = State(0, 0)
        if self.noise is not None:
            new_h, old_h = self._zoned(ZONEOUT_H, dh)
            new_c, old_c = (None, 0) if dc is None else self._zoned(ZONEOUT_C, dc)
            dh, dc, old = new_h, new_c, State(old_h, old_c)
        with plain_types(self.weights.w_hh):
            dm = dh if self.weights.w_hr is None else dh @ self.weights.w_hr
        if self.cell.derives_itself:
            return self.cell.backward(self.around, dm, dc), old
        flat = each((dm, dc), lambda v: v.reshape(-1, v.shape[-1]))
        flow = self.cell.backward(_flat(self.around, dm.shape[:-1]), *flat)
        return each(flow, lambda v: v.reshape(*dm.shape[:-1], v.shape[-1])), old

    def _zoned(self, kind: int, d: Array) -> tuple[Array, Array]:
        def one(t: int, d: Array) -> tuple[Array, Array]:
            new, old = zoneout_backward(self.noise, kind, t, d, len(self.cell.states) if kind == ZONEOUT_C else 1)
            return new, A.namespace(d).zeros_like(d) if old is None else old

        if d.ndim == 2:
            return one(self.t0, d)
        new, old = zip(*(one(self.t0 + k, d[k]) for k in range(len(d))), strict=True)
        return A.stack(list(new)), A.stack(list(old))

    def back(self, dh: Array, dc: Array | None) -> State:
        """dL/d(state after) -> dL/d(state before), of each step alone: the transposed Jacobian times a vector."""
        flow, old = self.flow(dh, dc)
        with plain_types(self.weights.w_hh):
            to_h = unseen(unsum(self.cell, flow.z)[1], self.weights.w_hh, dh.shape[-1])
        mask = hidden_mask(self.noise)
        to_h = to_h if mask is None else mask * to_h
        to_h = (to_h if flow.h is None else to_h + flow.h) + old.h
        return State(to_h, None if flow.c is None else flow.c + old.c)


def _flat(a: StepInputs, axes: Any) -> StepInputs:
    """Its arrays spread over the leading axes and then as one batch."""
    of_steps = (a.gates, a.before, a.c, a.h, a.mask, a.z)
    gates, before, c, h, mask, z = each(of_steps, lambda v: v.expand(*axes, v.shape[-1]).reshape(-1, v.shape[-1]))
    return StepInputs(gates, before, c, h, a.w_ch, mask, z, a.norm)


def _check(cell: Cell, weights: Weights) -> None:
    instead = "use the gradient per step instead: openlstm.trace(layer, x, loss=...)"
    if weights.w_hr is not None:
        what, got = "a layer with a projection keeps only the projected h", f"w_hr: {list(weights.w_hr.shape)}"
        raise ArgumentError.of("step_jacobians", what, got, "a layer with proj_size=0", instead)
    if not cell.derives_itself:
        what, got = f"{type(cell).__name__} has no backward of its own", f"cell: {type(cell).__name__}"
        raise ArgumentError.of("step_jacobians", what, got, "a cell that writes `backward` down", instead)


def _earlier(start: Array, values: np.ndarray) -> np.ndarray:
    """What a step begins with, from what steps end with [T, B, n] and the start [B, n]."""
    return np.concatenate([_numpy(start)[None], values])[:-1]


def _numpy(x: Array) -> np.ndarray:
    return A.as_like(x, np.empty(0))
