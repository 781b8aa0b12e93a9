"""`recur`: run one cell over one layer of a sequence, on numpy or torch arrays; many networks at once."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any

from openlstm import _array as A
from openlstm._array import Array
from openlstm.cells import Cell
from openlstm.engine.check import check_recur
from openlstm.engine.support import SUPPORT, choose
from openlstm.errors import ShapeError, describe, message
from openlstm.noise import Noise
from openlstm.reference import Run, Saved, State, Weights
from openlstm.weights import expand, fed_back_size, hidden_size


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
        weights: w_ih [G*H, I], w_hh [G*H, R], b_ih and b_hh [G*H] or None, w_hr [P, H] or None, w_ch [len(cell.peepholes)*H]
            for a cell with peepholes, norm for a cell that normalises (`openlstm.weights.collect` makes it).
        state: h [B, R] and c [B, H] (None for a cell without one); zeros if None.
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
    options: dict[str, Any] = {"reverse": reverse, "save": save, "backend": backend}
    with sys.modules["torch"].no_grad() if A.is_torch(x) else nullcontext():
        if getattr(x, "ndim", 3) != 4 or not isinstance(weights, Weights):
            return _one(cell, x, weights, state, lengths, reset, reset_state, noise, **options)
        each = _networks(x, weights, state, lengths, reset, reset_state, noise)
        return _together([_one(cell, *arguments, **options) for arguments in each])


def zero_state(cell: Cell, x: Array, weights: Weights) -> State:
    """The state with which a sequence begins when none is given."""
    hidden = hidden_size(cell, weights)
    h = A.zeros(x, x.shape[1], fed_back_size(cell, hidden, 0 if weights.w_hr is None else weights.w_hr.shape[0]))
    return State(h, A.zeros(x, x.shape[1], hidden) if cell.has_cell else None)


def _one(
    cell: Cell,
    x: Array,
    weights: Weights,
    state: State | None,
    lengths: Any,
    reset: Any,
    reset_state: State | None,
    noise: Noise | None,
    *,
    backend: str,
    reverse: bool,
    save: bool,
) -> Run:
    check_recur(cell, x, weights, state, lengths, reset, reset_state, noise)
    begin = zero_state(cell, x, weights) if state is None else state
    if reset is not None and "bool" not in str(reset.dtype):
        reset = reset != 0
    if noise is not None and not (noise.zoneout_h or noise.zoneout_c or noise.candidate or noise.hidden is not None):
        noise = None
    more = {} if noise is None else {"noise": noise}
    asked: dict[str, Any] = {"projection": weights.w_hr is not None, "noise": bool(more), "save": save}
    run = SUPPORT[choose(backend, cell, x, **asked)].module.forward
    rows = {"lengths": lengths, "reset": reset, "reset_state": reset_state, "reverse": reverse}
    out = run(cell.unshared(), x, expand(cell, weights), begin, save=save, **rows, **more)
    if x.shape[0]:
        return out
    return out._replace(state=State(*(None if s is None else _copy(s) for s in out.state)))  # not the caller's own arrays


def _networks(
    x: Array, weights: Weights, state: Any, lengths: Any, reset: Any, reset_state: Any, noise: Any
) -> list[tuple[Any, ...]]:
    """The arguments of each network."""
    N = x.shape[0]
    groups: dict[str, Any] = {"weights": weights, "state": state, "reset_state": reset_state}
    for name, group in groups.items():
        for field, a in {} if group is None else group._asdict().items():
            if a is not None and (not getattr(a, "ndim", 0) or a.shape[0] != N):
                raise _no_axis(f"{name}.{field}", a, x)
    axes = {"lengths": (lengths, 2), "reset": (reset, 3), "noise.hidden": (None if noise is None else noise.hidden, 3)}
    for name, (a, full) in axes.items():
        if getattr(a, "ndim", 0) == full and a.shape[0] != N:
            raise _no_axis(name, a, x)

    def of(a: Any, n: int, full: int | None = None) -> Any:
        return a if a is None or (full is not None and getattr(a, "ndim", 0) != full) else a[n]

    out = []
    for n in range(N):
        own = [None if g is None else type(g)(*(of(a, n) for a in g)) for g in groups.values()]
        drawn = None if noise is None else noise._replace(seed=noise.seed + n, hidden=of(noise.hidden, n, 3))
        out.append((x[n], own[0], own[1], of(lengths, n, 2), of(reset, n, 3), own[2], drawn))
    return out


def _together(runs: list[Run]) -> Run:
    """The results of all networks, each with a leading axis."""

    def stack(parts: list[Any]) -> Any:
        return None if parts[0] is None else A.stack(parts)

    saved = None
    if runs[0].saved is not None:
        saved = Saved(*(stack(list(parts)) for parts in zip(*(run.saved for run in runs if run.saved), strict=True)))
    states = zip(*(run.state for run in runs), strict=True)
    return Run(A.stack([run.y for run in runs]), State(*(stack(list(parts)) for parts in states)), saved)


def _copy(a: Array) -> Array:
    return a.clone() if A.is_torch(a) else a.copy()


def _no_axis(name: str, a: Any, x: Array) -> ShapeError:
    N = x.shape[0]
    got = f"{name}: {describe(a)}, x: {describe(x)}, [N, T, B, I]"
    hint = "stack the arrays of the networks: numpy.stack or torch.stack; x [T, B, I] is one network"
    return ShapeError(message("recur", f"{name} has not one entry for each of {N} networks", got, f"[{N}, ...]", hint))
