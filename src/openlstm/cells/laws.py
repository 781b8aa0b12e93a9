"""`check`: does a cell of one's own keep what the engine relies on? One step of it, in float64 and float32, on numpy and torch.

Legend: B rows, H units.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from openlstm._array import split
from openlstm.cells.base import Cell, State, Step, StepGradients, StepInputs, check_step, check_traits
from openlstm.errors import ArgumentError, DtypeError, OpenLSTMError, ShapeError, describe

B, H = 5, 3
STEP = 1e-6  # of a difference
NEAR = 1e-6  # what gradients may be off by, relative to their norm; differences alone are off by about 1e-9


def check(cell: Cell, seed: int = 0) -> None:
    """Raise where a cell breaks a law of the engine; nothing is returned.

    Looked at is one step, from zeros, from states that the cell reaches by itself, and from the same with NaN in one row:

    - it gives what its traits say, in float32 and float64, on numpy and torch, and the same numbers on both;
    - it leaves its arguments alone, and begins with zeros without NaN or infinity;
    - a row does not see the other rows;
    - a mask multiplies the candidate, where the cell names one;
    - `backward`, the cell's own or torch's, is the derivative by differences.

    Lengths, resets, noise and the loop over time are the engine's, and need no check for a cell.

    Args:
        cell: one of your own, or one of `openlstm.cells`.
        seed: of the numbers that are drawn.

    Raises:
        ArgumentError, DtypeError, ShapeError: naming the cell and the law.

    >>> from openlstm import cells
    >>> cells.check(cells.SLSTM())
    >>> class Wrong(cells.LSTM):
    ...     def backward(self, inputs, dh, dc):
    ...         return super().backward(inputs, dh, 0.9 * dc)
    >>> cells.check(Wrong())
    Traceback (most recent call last):
    openlstm.errors.ArgumentError: Wrong: backward is not the derivative of forward
      got       dz of i off by 0.0968 of its norm
      expected  at most 1e-06, in float64 beside differences
      hint      leave `backward` out, and torch differentiates forward
    """
    if not isinstance(cell, Cell):
        got, hint = describe(cell), "subclass openlstm.cells.Cell"
        if isinstance(cell, type):
            got, hint = f"the class {cell.__name__}", f"make one: {cell.__name__}()"
        raise DtypeError.of("cells.check", "not a cell", got, "an instance of openlstm.cells.Cell", hint)
    check_traits(cell)
    cell = cell.unshared()
    rng = np.random.default_rng(seed)
    begin = _drawn(cell, rng)
    _check_begin(cell, begin)
    reached = begin
    for _ in range(3):
        step = _step(cell, reached)
        reached = {**_drawn(cell, rng), "h": step.h} | ({} if step.c is None else {"c": step.c})
    _check_kinds(cell, reached)
    _check_rows(cell, reached)
    _check_mask(cell, reached, rng)
    _check_backward(cell, begin, rng, by=("z", "w_ch", "norm"))  # at zeros a rule for the first step may stand apart
    _check_backward(cell, reached, rng)
    if cell.candidate is not None:
        mask = (rng.random((B, H)) < 0.7) / 0.7
        _check_backward(cell, {**reached, "mask": mask}, rng)


Given = dict[str, Any]  # what a step takes, by name: z, h, and what this cell has of c, w_ch, norm and mask


def _drawn(cell: Cell, rng: np.random.Generator) -> Given:
    """Sums and weights at random, in float64, and a state of zeros."""
    gates = len(cell.gates)
    out = {"z": rng.standard_normal((B, (gates + cell.separate) * H)), "h": np.zeros((B, len(cell.feeds_back) * H))}
    if cell.has_cell:
        out["c"] = np.zeros((B, len(cell.states) * H))
    if cell.peepholes:
        out["w_ch"] = rng.standard_normal(len(cell.peepholes) * H)
    if cell.norms:
        out["norm"] = rng.standard_normal(sum(2 * H * (1 if part == "c" else gates) for part in cell.norms))
    return out


def _step(cell: Cell, given: Given) -> Step:
    """One step, which must leave its arguments alone and fit the traits."""
    before = {name: a.copy() if isinstance(a, np.ndarray) else a.clone() for name, a in given.items()}
    state = State(given["h"], given.get("c"))
    with np.errstate(all="ignore"):  # what comes of it is looked at
        step = cell(given["z"], state, given.get("w_ch"), given.get("mask"), given.get("norm"))
    check_step(cell, step, given["z"])
    changed = [name for name, a in given.items() if not np.array_equal(a, before[name], equal_nan=True)]
    if changed:
        hint = f"make a new array: {changed[0]} = {changed[0]} + ..., not {changed[0]} += ..."
        raise _error(cell, "forward writes into its arguments", ", ".join(changed), "arguments that are only read", hint)
    return step


def _results(cell: Cell, step: Step) -> Given:
    return {**dict(zip(cell.saved, step.gates, strict=True)), "h'": step.h} | ({"c'": step.c} if cell.has_cell else {})


def _check_begin(cell: Cell, given: Given) -> None:
    for name, a in _results(cell, _step(cell, given)).items():
        if not np.isfinite(a).all():
            hint = f"a state begins with zeros, also after a reset: say what the first step is, where({_first(cell)} == 0, ..)"
            raise _error(cell, "a step from zeros is not finite", f"{name} = {a[~np.isfinite(a)][0]}", "finite numbers", hint)


def _first(cell: Cell) -> str:
    return cell.states[-1] if cell.has_cell else "h"


def _check_kinds(cell: Cell, given: Given) -> None:
    """float32, and torch where it is installed."""
    expected = _results(cell, _step(cell, given))
    _step(cell, {name: a.astype(np.float32) for name, a in given.items()})
    try:
        import torch
    except ImportError:
        return
    for name, a in _results(cell, _step(cell, {name: torch.from_numpy(a) for name, a in given.items()})).items():
        off = _off(a.numpy(), expected[name])
        if not off <= 1e-9:
            hint = "use the functions of openlstm.cells, which are the same for both"
            raise _error(cell, "numpy and torch give different numbers", f"{name} off by {off:.2g}", "at most 1e-9", hint)


def _check_rows(cell: Cell, given: Given) -> None:
    """Fewer rows, in another order, beside a row that is NaN."""
    order, whole = [3, 0, 2], _results(cell, _step(cell, given))
    of_rows = {name: name in ("z", "h", "c", "mask") for name in given}
    sick = {name: np.where(np.arange(B)[:, None] == 1, np.nan, a) if of_rows[name] else a for name, a in given.items()}
    fewer = {name: a[order] if of_rows[name] else a for name, a in given.items()}
    for some, rows in ((fewer, slice(None)), (sick, order)):
        for name, a in _results(cell, _step(cell, some)).items():
            off = _off(a[rows], whole[name][order])
            if not off <= 1e-12:
                what, hint = "a row depends on the other rows", "sum over units alone, .sum(-1), never over axis 0"
                raise _error(cell, what, f"{name} off by {off:.2g} in another batch", "the same numbers in every batch", hint)


def _check_mask(cell: Cell, given: Given, rng: np.random.Generator) -> None:
    if cell.candidate is None:
        return
    at, mask = cell.saved.index(cell.candidate), (rng.random((B, H)) < 0.5) / 0.5
    plain, masked = (_step(cell, {**given, **more}).gates[at] for more in ({}, {"mask": mask}))
    off = _off(masked, plain * mask)
    if not off <= 1e-12:
        name = cell.candidate
        got, hint = (
            f"{name} off by {off:.2g}",
            f"{name} = {name} if mask is None else {name} * mask, and hand it out in `saved`",
        )
        raise _error(cell, "the mask of recurrent dropout does not multiply the candidate", got, f"mask * {name}", hint)


def _check_backward(cell: Cell, given: Given, rng: np.random.Generator, by: tuple[str, ...] = ()) -> None:
    step = _step(cell, given)
    dh, dc = rng.standard_normal(step.h.shape), None if step.c is None else rng.standard_normal(step.c.shape)
    before, rest = State(given["h"], given.get("c")), (given.get("w_ch"), given.get("mask"), given["z"], given.get("norm"))
    found = cell.backward(StepInputs(step.gates, before, step.c, step.h, *rest), dh, dc)
    if not isinstance(found, StepGradients):
        hint = "return StepGradients(dL/dz, dL/dc)"
        raise DtypeError.of(
            type(cell).__name__, "backward did not return StepGradients", describe(found), "openlstm.cells.StepGradients", hint
        )
    for name in [name for name in by or ("z", "h", "c", "w_ch", "norm") if name in given]:
        a, size = getattr(found, name), given[name].shape
        shape = (B, *size) if len(size) == 1 else size  # every row's share of the gradient of a weight
        if a is None and name not in ("z", "c"):
            a = np.zeros(shape)
        if a is None or a.shape != shape:
            what, hint = f"backward returned a wrong d{name}", "dz has a block of H for each gate, dc one for each state"
            raise ShapeError.of(type(cell).__name__, what, f"d{name}: {describe(a)}", f"float64{list(shape)}", hint)
        _compare(cell, name, a if shape == size else a.sum(0), _differences(cell, given, name, dh, dc))


def _differences(cell: Cell, given: Given, name: str, dh: Any, dc: Any) -> Any:
    """The gradient of sum(h' dh) + sum(c' dc) by one argument, from two steps for each of its numbers."""

    def loss(a: Any) -> float:
        step = _step(cell, {**given, name: a})
        return float((step.h * dh).sum() + (0 if step.c is None else (step.c * dc).sum()))

    out = np.zeros_like(given[name])
    for at in np.ndindex(out.shape):
        move = np.zeros_like(out)
        move[at] = STEP
        out[at] = (loss(given[name] + move) - loss(given[name] - move)) / (2 * STEP)
    return out


def _compare(cell: Cell, name: str, found: Any, expected: Any) -> None:
    blocks = {"z": cell.gates if not cell.separate else (), "c": cell.states}.get(name, ())
    parts = (
        zip(blocks, split(found, len(blocks)), split(expected, len(blocks)), strict=True) if blocks else [("", found, expected)]
    )
    for part, a, b in parts:
        off = _off(a, b)
        if not off <= NEAR:
            got = f"d{name}{f' of {part}' if part else ''} off by {off:.3g} of its norm"
            hint = "leave `backward` out, and torch differentiates forward"
            if not cell.derives_itself:
                hint = "forward hides something from torch (detach, item, numpy), or a branch of where() is not finite"
            what = "backward is not the derivative of forward"
            raise _error(cell, what, got, f"at most {NEAR:g}, in float64 beside differences", hint)


def _off(a: Any, b: Any) -> float:
    """The distance of a from b relative to the norm of b, or to that of small numbers; NaN where a has one."""
    return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-3))


def _error(cell: Cell, what: str, got: str, expected: str, hint: str) -> OpenLSTMError:
    return ArgumentError.of(type(cell).__name__, what, got, expected, hint)
