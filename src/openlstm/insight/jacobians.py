"""The Jacobian of every step of a recurrence and their product, which is what a gradient is multiplied with on its way back.

Legend: T time, B batch, H hidden size, S size of the state: H for a vanilla RNN (s = h), 2H for an LSTM (s = (h, c) joined).

For a vanilla RNN the Jacobian of a step and the product over k steps are

    J_t = ds_t / ds_{t-1} = diag(1 - h_t^2) W_hh;      ds_T / ds_{T-k} = J_T J_{T-1} ... J_{T-k+1}

For an LSTM the state is (h, c) together. Whoever holds c fixed cannot see the highway, the block dc_t/dc_{t-1} = diag(f_t).

Source: Bengio, Simard & Frasconi 1994; Pascanu, Mikolov & Bengio 2013 (eq. 5-7).
"""

from __future__ import annotations

import numpy as np

from openlstm import _array as A
from openlstm._array import Array
from openlstm._errors import ArgumentError, message
from openlstm.cells import Around, Cell
from openlstm.reference import Saved, State, Weights


def step_jacobians(cell: Cell, saved: Saved, weights: Weights, state: State) -> np.ndarray:
    """d(state after step t) / d(state before step t) for every step, from what a forward pass saved.

    No cell writes its Jacobian down: row j is the cell's own backward step for the j-th unit vector.

    Args:
        cell: the recurrence that ran.
        saved: h [T, B, H], gates and c, from `recur(..., save=True)`; numpy or torch.
        weights: the weights it ran with.
        state: the state it began with, h [B, H] and c [B, H].

    Returns:
        [T, B, S, S] in the dtype of `saved`; rows and columns are h, then c.

    Raises:
        ArgumentError: for a layer with a projection, whose saved h is not the cell's own output.

    >>> from openlstm import reference
    >>> from openlstm.cells import VanillaRNN
    >>> w, begin = Weights(np.ones((1, 1)), np.full((1, 1), 0.5)), State(np.zeros((1, 1)))
    >>> run = reference.forward(VanillaRNN(), np.zeros((3, 1, 1)), w, begin, save=True)
    >>> step_jacobians(VanillaRNN(), run.saved, w, begin).ravel().tolist()  # tanh'(0) W_hh
    [0.5, 0.5, 0.5]
    """
    if weights.w_hr is not None:
        raise ArgumentError(
            message(
                "step_jacobians",
                "a layer with a projection keeps only the projected h",
                f"w_hr: {list(weights.w_hr.shape)}",
                "a layer with proj_size=0",
                "use the gradient per step instead: openlstm.trace(layer, x, loss=...)",
            )
        )
    h, w_hh = _numpy(saved.h), _numpy(weights.w_hh)
    gates = A.split(_numpy(saved.gates), len(cell.saved)) if cell.saved else ()  # each [T, B, H]
    H = h.shape[-1]
    if not cell.has_cell:
        unit = np.eye(H, dtype=h.dtype)[:, None, None, :]  # [S, 1, 1, H], one unit vector per row of the Jacobian
        dz = cell.backward(Around(gates, State(None), None, h), np.broadcast_to(unit, (H, *h.shape)), None).z
        return np.moveaxis(dz @ w_hh, 0, 2)  # [S, T, B, S] -> [T, B, S, S]
    c = _numpy(saved.c)
    before = np.concatenate([_numpy(state.c)[None], c])[:-1]  # [T, B, H]
    unit = np.broadcast_to(np.eye(2 * H, dtype=h.dtype)[:, None, None, :], (2 * H, *h.shape[:2], 2 * H))
    dz, dc = cell.backward(Around(gates, State(None, before), c, h), unit[..., :H], unit[..., H:])[:2]
    assert dc is not None  # a cell with a highway gives its gradient
    rows = np.concatenate([dz @ w_hh, dc], -1)  # [S, T, B, S]
    return np.moveaxis(rows, 0, 2)


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


def _numpy(x: Array) -> np.ndarray:
    return A.as_like(x, np.empty(0))
