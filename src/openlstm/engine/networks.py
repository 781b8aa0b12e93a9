"""Many networks in one call of `recur`: every array has a leading axis [N], and each network runs by itself."""

from __future__ import annotations

from typing import Any

from openlstm import _array as A
from openlstm._array import Array
from openlstm.call import Call
from openlstm.errors import ShapeError, describe
from openlstm.reference import Run, Saved, State


def apart(call: Call) -> list[Call]:
    """The call of each network; network n draws its noise with seed + n.

    Raises:
        ShapeError: for an array that has not one entry for each.
    """
    N, noise = call.x.shape[0], call.noise
    groups: dict[str, Any] = {"weights": call.weights, "state": call.state, "reset_state": call.reset_state}
    for name, group in groups.items():
        for field, a in {} if group is None else group._asdict().items():
            if a is not None and (not getattr(a, "ndim", 0) or a.shape[0] != N):
                raise _no_axis(f"{name}.{field}", a, call.x)
    axes = {
        "lengths": (call.lengths, 2),
        "reset": (call.reset, 3),
        "noise.hidden": (None if noise is None else noise.hidden, 3),
    }
    for name, (a, full) in axes.items():
        if getattr(a, "ndim", 0) == full and a.shape[0] != N:
            raise _no_axis(name, a, call.x)

    def of(a: Any, n: int, full: int | None = None) -> Any:
        return a if a is None or (full is not None and getattr(a, "ndim", 0) != full) else a[n]

    out = []
    for n in range(N):
        own = {name: None if g is None else type(g)(*(of(a, n) for a in g)) for name, g in groups.items()}
        drawn = None if noise is None else noise._replace(seed=noise.seed + n, hidden=of(noise.hidden, n, 3))
        lengths, reset = of(call.lengths, n, 2), of(call.reset, n, 3)
        out.append(call._replace(x=call.x[n], lengths=lengths, reset=reset, noise=drawn, **own))
    return out


def together(runs: list[Run]) -> Run:
    """The results of all networks, each with a leading axis."""

    def stack(parts: list[Any]) -> Any:
        return None if parts[0] is None else A.stack(parts)

    saved = None
    if runs[0].saved is not None:
        saved = Saved(*(stack(list(parts)) for parts in zip(*(run.saved for run in runs if run.saved), strict=True)))
    states = zip(*(run.state for run in runs), strict=True)
    return Run(A.stack([run.y for run in runs]), State(*(stack(list(parts)) for parts in states)), saved)


def _no_axis(name: str, a: Any, x: Array) -> ShapeError:
    N = x.shape[0]
    got = f"{name}: {describe(a)}, x: {describe(x)}, [N, T, B, I]"
    hint = "stack the arrays of the networks: numpy.stack or torch.stack; x [T, B, I] is one network"
    return ShapeError.of("recur", f"{name} has not one entry for each of {N} networks", got, f"[{N}, ...]", hint)
