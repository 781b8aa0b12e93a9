"""`recur`: run one cell over one layer of a sequence, on numpy or torch arrays; many networks at once."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any

from openlstm import _array as A
from openlstm._array import Array
from openlstm.call import Call
from openlstm.cells import Cell, joined, parted
from openlstm.engine.backends.table import SUPPORT, choose_for
from openlstm.engine.check import check_call
from openlstm.errors import ArgumentError, describe
from openlstm.noise import Noise
from openlstm.reference import Run, State, Weights
from openlstm.weights import cell_size, expand, fed_back_size, hidden_size


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
    noise: Noise | None = None,
) -> Run:
    """Run a cell over a sequence; outputs carry no gradient on any backend (`openlstm.LSTM` and the other layers do).

    Args:
        cell: the recurrence, one of `openlstm.cells` or your own.
        x: [T, B, I], float32 or float64 (any float type on the reference backend).
        weights: w_ih [G*H, I] (None where x [T, B, G*H] is the sums of W_ih x, gate by gate), w_hh [G*H, R] ([G*H, R/heads]
            with heads, [G*H, 1] for an elementwise recurrence, [G*H, 0] without one), b_ih and b_hh [G*H] or None, w_hr [P, H]
            or None, w_ch [len(cell.peepholes)*H] for a cell with peepholes, norm for a cell that normalises
            (`openlstm.weights.collect` makes it).
        state: h [B, R] and c [B, H] (None for a cell without one); of a cell with more states (h, c, n, m), as `recur` gives
            it; zeros if None.
        lengths: integers [B]; x beyond a row's length is never read, y there is exactly 0.
        reset: [T, B], bool or 0 and 1; before step t the row's state becomes `reset_state`, never the carried-in state.
        reset_state: h [B, R] and c [B, H], or one for every step, [T, B, R] and [T, B, H]; zeros if None.
        reverse: run from each row's last real step to its first.
        save: also hand out gates and cell states.
        backend: "auto" or a key of `SUPPORT`; a named backend is never replaced by another.
        noise: zoneout, recurrent and locked dropout, `openlstm.noise.Noise`.

    N networks at once, each with its own weights: x [N, T, B, I], every weight and state with a leading N. lengths [N, B] or
    [B] and reset [N, T, B] or [T, B]; outputs have a leading N. Network n draws its noise with seed + n.

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
    if isinstance(cell, Cell):
        state, reset_state = (_joined(name, cell, s) for name, s in (("state", state), ("reset_state", reset_state)))
    call = Call(cell, x, weights, state, lengths, reset, reset_state, reverse, noise, None, backend, save)
    with sys.modules["torch"].no_grad() if A.is_torch(x) else nullcontext():
        if getattr(x, "ndim", 3) != 4 or not isinstance(weights, Weights):
            done = one(call)
        else:
            from openlstm.engine import networks

            done = networks.together([one(each) for each in networks.apart(call)])
    return done._replace(state=parted(cell, done.state))


def _joined(name: str, cell: Cell, state: Any) -> Any:
    """A state as the engine carries it; of a cell with several states beside h it comes as (h, c, n, m)."""
    if state is None or len(cell.states) == 1 or not cell.has_cell:
        return state
    if not isinstance(state, tuple) or len(state) != 1 + len(cell.states):
        names = ", ".join(("h", *cell.states))
        expected = f"({names}): h [B, R], the others [B, H]"
        hint = "give what `recur` gave, or zeros where the row begins"
        raise ArgumentError.of("recur", f"{name} is not ({names})", f"{name}: {describe(state)}", expected, hint)
    return joined(cell, state)


def zero_state(cell: Cell, x: Array, weights: Weights) -> State:
    """The state with which a sequence begins when none is given."""
    hidden = hidden_size(cell, weights)
    h = A.zeros(x, x.shape[1], fed_back_size(cell, hidden, 0 if weights.w_hr is None else weights.w_hr.shape[0]))
    return State(h, A.zeros(x, x.shape[1], cell_size(cell, hidden)) if cell.has_cell else None)


def one(call: Call) -> Run:
    """One network, checked."""
    check_call(call)
    cell, x, weights, state, _, reset = call[:6]
    if state is None:
        state = zero_state(cell, x, weights)
    if reset is not None and "bool" not in str(reset.dtype):
        reset = reset != 0
    noise = call.noise if call.noisy else None
    module = SUPPORT[choose_for(call, "recur", call.save)].module
    weights = expand(cell, weights)
    out = module.forward(call._replace(cell=cell.unshared(), weights=weights, state=state, reset=reset, noise=noise))
    if x.shape[0]:
        return out
    return out._replace(state=State(*(None if s is None else A.copy(s) for s in out.state)))  # not the caller's own arrays
