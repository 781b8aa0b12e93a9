"""`recur`: run one cell over one layer of a sequence, on numpy or torch arrays."""

from __future__ import annotations

from openlstm import _array as A
from openlstm._array import Array
from openlstm.cells import Cell
from openlstm.engine.check import check_recur
from openlstm.engine.support import SUPPORT, choose
from openlstm.reference import Run, State, Weights


def recur(
    cell: Cell,
    x: Array,
    weights: Weights,
    state: State | None = None,
    *,
    lengths: Array | None = None,
    reset: Array | None = None,
    reset_state: State | None = None,
    reverse: bool = False,
    save: bool = False,
    backend: str = "auto",
) -> Run:
    """Run a cell over a sequence; outputs carry no gradient (`openlstm.LSTM` and the other layers do).

    Args:
        cell: the recurrence, one of `openlstm.cells`.
        x: [T, B, I], float32 or float64 (any float type on the reference backend).
        weights: w_ih [G*H, I], w_hh [G*H, R], b_ih and b_hh [G*H] or None, w_hr [P, H] or None.
        state: h [B, R] and c [B, H] (None for a cell without one); zeros if None.
        lengths: integers [B]; x beyond a row's length is never read, y there is exactly 0.
        reset: bool [T, B]; before step t the row's state becomes `reset_state`, never the carried-in state.
        reset_state: h [B, R] and c [B, H]; zeros if None.
        reverse: run from each row's last real step to its first.
        save: also hand out gates and cell states.
        backend: "auto", "cpu" or "reference"; a named backend is never replaced by another.

    Returns:
        `Run(y [T, B, R], state, saved)`.

    Raises:
        ShapeError, DtypeError, ArgumentError: where an argument does not fit the others.
        BackendError: where the named backend cannot run this.

    >>> import numpy as np
    >>> from openlstm.cells import LSTM
    >>> w = Weights(np.zeros((8, 3), np.float32), np.zeros((8, 2), np.float32))
    >>> recur(LSTM(), np.ones((5, 1, 3), np.float32), w).y.shape
    (5, 1, 2)
    """
    check_recur(cell, x, weights, state, lengths, reset, reset_state)
    if state is None:
        state = zero_state(cell, x, weights)
    run = SUPPORT[choose(backend, cell, x, projection=weights.w_hr is not None)].module.forward
    return run(cell, x, weights, state, lengths=lengths, reset=reset, reset_state=reset_state, reverse=reverse, save=save)


def zero_state(cell: Cell, x: Array, weights: Weights) -> State:
    """The state with which a sequence begins when none is given."""
    hidden = weights.w_ih.shape[0] // len(cell.gates)
    h = A.zeros(x, x.shape[1], weights.w_hh.shape[1])
    return State(h, A.zeros(x, x.shape[1], hidden) if cell.has_cell else None)
