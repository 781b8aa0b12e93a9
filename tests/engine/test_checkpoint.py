"""Checkpointing gives the bits of a run that keeps everything, for every cell, option, direction and interval."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from tests.support import BACKENDS, Case, Problem, differing, draw, far, to_numpy

from openlstm import cells, reference
from openlstm.engine import checkpoint
from openlstm.engine.backends import cpu
from openlstm.errors import ArgumentError
from openlstm.reference import State
from openlstm.weights import expand

SIZES = ((29, 37), (31, 64), (9, 130), (12, 600), (1, 5), (300, 3))
"""(T, B): stretches of 13, 8, 3 and 1 steps or multiples of them, and one longer than the sequence."""

CASES = [
    replace(case, T=T, B=B)
    for k, case in enumerate(draw(2 * len(cells.ALL), 50, ("", "h", "hcg", "mg", "hcE")))
    for T, B in [SIZES[k % len(SIZES)]]
]


def named(y: Any, state: Any, grads: Any) -> dict[str, Any]:
    """Every output and gradient by name."""
    groups = {"": state, "d": grads.weights, "d0": grads.state, "dreset_": grads.reset_state or ()}
    flat = {"y": y, "dx": grads.x}
    for prefix, group in groups.items():
        flat.update({prefix + name: a for name, a in zip(getattr(group, "_fields", ()), group, strict=True)})
    return {name: to_numpy(a) for name, a in flat.items() if a is not None}


def whole(backend: ModuleType, p: Problem) -> dict[str, Any]:
    run = backend.forward(p.call(save=True))
    return named(run.y, run.state, backend.backward(p.call(), run.saved, p.dy, p.dstate))


def in_stretches(backend: ModuleType, p: Problem, every: int) -> dict[str, Any]:
    call = p.call(checkpoint=every)
    run = checkpoint.forward(backend, call)
    assert run.saved is not None
    begins = State(run.saved.gates, run.saved.c)
    return named(run.y, run.state, checkpoint.backward(backend, call, begins, p.dy, p.dstate, True))


def problem(case: Case) -> Problem:
    """In torch, with gates of its own for every unit, as `engine.run` hands it on."""
    p = case.problem().tensors()
    return replace(p, cell=p.cell.unshared(), weights=expand(p.cell, p.weights))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_run_in_stretches_has_the_bits_of_a_whole_one(case: Case, backend: ModuleType) -> None:
    case = replace(case, T=min(case.T, 29)) if backend is reference else case  # its loop is slow and has no blocks
    p = problem(case)
    expected = whole(backend, p)
    for every in {1, case.T // 3 + 1, case.T}:
        found = in_stretches(backend, p, every)
        if backend is cpu:
            assert differing(found, expected) == []
        else:  # the libraries under the reference sum in an order that depends on where an array lies
            assert far(found, expected, {"float32": 1e-5, "float64": 1e-11}[case.dtype]) == {}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
def test_stretches_cover_every_step_once_and_end_where_blocks_end(sizes: tuple[int, int], reverse: bool) -> None:
    T, B = sizes
    for every in (1, 2, T):
        windows = checkpoint.stretches(T, B, every, reverse)
        steps = [t for first, last in windows for t in (range(last - 1, first - 1, -1) if reverse else range(first, last))]
        assert steps == (list(range(T))[::-1] if reverse else list(range(T)))
        lengths = [last - first for first, last in windows]
        assert set(lengths[1:]) <= {checkpoint.interval(every, B)} and lengths[0] <= checkpoint.interval(every, B)
        assert checkpoint.interval(every, B) % max(checkpoint.BLOCK // B, 1) == 0


def test_what_is_kept_is_a_state_for_each_stretch() -> None:
    p = problem(Case(cells.LSTM(), T=100, B=64, H=6))
    saved: Any = checkpoint.forward(cpu, p.call(checkpoint=16)).saved
    assert saved.gates.shape == saved.c.shape == (7, 64, 6)


@pytest.mark.parametrize("every", [0, -1, 8])
def test_an_interval_outside_the_sequence_is_an_error(every: int) -> None:
    with pytest.raises(ArgumentError) as caught:
        checkpoint.check("LSTM", every, 7)
    assert str(caught.value) == (
        f"LSTM: checkpoint={every} is outside 1..T\n"
        f"  got       checkpoint={every}, T=7\n"
        "  expected  1 <= checkpoint <= T = 7\n"
        "  hint      choose a number of steps within the sequence (about sqrt(T) keeps least), or leave checkpoint out"
    )


def test_memory_between_forward_and_backward_is_that_of_the_kept_states() -> None:
    import openlstm

    x = torch.randn(512, 16, 4, requires_grad=True)

    def kept(**options: Any) -> int:
        """Bytes that the graph holds beside x, y and the parameters."""
        layer = openlstm.LSTM(4, 32, **options)
        seen: dict[int, int] = {}
        own = {p.data_ptr() for p in layer.parameters()} | {x.data_ptr()}

        def pack(t: torch.Tensor) -> torch.Tensor:
            seen[t.data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y, _ = layer(x)
        return sum(size for at, size in seen.items() if at not in own and at != y.data_ptr())

    assert kept(checkpoint=64) < 0.2 * kept()
