"""A sequence in chunks is the sequence, bit for bit, forwards and back; and no more than a chunk is held."""

from __future__ import annotations

import gc
from functools import partial
from typing import Any

import pytest
import torch
from tests.support import cell_state, pairs
from torch import Tensor

from openlstm import cells, weights
from openlstm.call import Call
from openlstm.engine.autograd import step_gradients
from openlstm.engine.run import run
from openlstm.engine.scan import chunks, chunks_again, chunks_back
from openlstm.errors import ArgumentError
from openlstm.noise import Noise
from openlstm.reference import Run, Saved, State, Weights

pytestmark = pytest.mark.filterwarnings("ignore:openlstm. Own has no kernel")

T, B, I, H = 23, 5, 3, 7


class Own(cells.LSTM):
    """A cell of somebody's own: it runs on the reference."""

    def forward(self, *args: Any, **options: Any) -> cells.Step:
        return super().forward(*args, **options)


EVERY = [*cells.ALL, cells.LSTM(clip=0.5), cells.LSTM(cells_per_gate=7), cells.GRU(memory=True), Own()]


def draw(cell: cells.Cell, dtype: torch.dtype = torch.float32, projected: int = 0) -> tuple[Tensor, Weights, State]:
    torch.manual_seed(0)
    shapes = weights.shapes(cell, I, H, projected)
    w = weights.collect({f"{name}_l0": torch.randn(*shape, dtype=dtype) for name, shape in shapes.items()})
    R = weights.fed_back_size(cell, H, projected)
    state = State(torch.randn(B, R, dtype=dtype), cell_state(cell, partial(torch.randn, dtype=dtype), B, H))
    return torch.randn(T, B, I, dtype=dtype), w, state


def rows(cell: cells.Cell, state: State, kind: str) -> dict[str, Any]:
    """Lengths and resets of one kind."""
    lengths, reset = torch.tensor([T, 0, 1, 9, 16]), torch.rand(T, B) < 0.2
    steps = State(torch.randn(T, *state.h.shape), cell_state(cell, torch.randn, T, B, H))
    return {
        "plain": {},
        "lengths": {"lengths": lengths},
        "resets": {"reset": reset},
        "to a state": {"reset": reset, "reset_state": state, "lengths": lengths},
        "to a state of each step": {"reset": reset, "reset_state": steps, "lengths": lengths},
    }[kind]


KINDS = ["plain", "lengths", "resets", "to a state", "to a state of each step"]
CUTS = pairs(cell=EVERY, chunk=[1, 4, 7, 23, 100], kind=KINDS, reverse=[False, True])


def whole(cell: cells.Cell, x: Tensor, w: Weights, state: State, **options: Any) -> tuple[Saved, State, Run]:
    with torch.no_grad():
        r = run(Call(cell, x, w, state, save=True, **options))
    assert r.saved is not None
    return r.saved, r.state, r


def scan(call: Call, see: Any, chunk: int) -> State:
    """Show every chunk; the state at the end."""
    end = call.state
    for part in chunks(call, chunk):
        see(part.t0, part.saved)
        end = part.end
    return end


def scan_back(call: Call, dy: Any, dstate: State | None, see: Any, chunk: int) -> State:
    """Show every chunk on the way back; the gradient of the first state."""
    first = State(*(None if s is None else torch.zeros_like(s) for s in call.state))
    for part in chunks_back(call, dy, dstate, chunk):
        see(part.t0, part.dh, part.dc, part.saved)
        first = part.dstart
    return first


def same(a: Any, b: Any) -> None:
    assert (a is None) == (b is None)
    if a is not None:
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@CUTS
def test_every_cut_gives_the_same_bits(cell: cells.Cell, chunk: int, kind: str, reverse: bool) -> None:
    x, w, state = draw(cell)
    options = {**rows(cell, state, kind), "reverse": reverse}
    saved, end, _ = whole(cell, x, w, state, **options)
    seen: list[int] = []

    def see(t0: int, part: Saved) -> None:
        seen.append(t0)
        for a, b in zip(part, saved, strict=True):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                torch.testing.assert_close(a, b[t0 : t0 + len(a)], rtol=0, atol=0)
                assert len(a) <= chunk

    found = scan(Call(cell, x, w, state, **options), see, chunk)
    same(found.h, end.h)
    if cell.has_cell:
        same(found.c, end.c)
    assert sorted(seen) == list(range(0, T, chunk)) and seen == sorted(seen, reverse=reverse)


@CUTS
def test_every_cut_gives_the_same_bits_on_the_way_back(cell: cells.Cell, chunk: int, kind: str, reverse: bool) -> None:
    x, w, state = draw(cell)
    options = {**rows(cell, state, kind), "reverse": reverse}
    saved, _, result = whole(cell, x, w, state, **options)
    dy = torch.randn(T, *state.h.shape)
    dstate = State(torch.randn_like(state.h), None if state.c is None else torch.randn_like(state.c))
    call = Call(cell, x, w, state, **options)
    wanted = step_gradients(call, result, dy, dstate)
    dh, dc = torch.full_like(saved.h, 9.0), torch.full((T, B, weights.cell_size(cell, H)), 9.0)

    def see(t0: int, a: Tensor, b: Any, part: Saved) -> None:
        dh[t0 : t0 + len(a)] = a
        same(part.h, saved.h[t0 : t0 + len(a)])
        if b is not None:
            dc[t0 : t0 + len(a)] = b

    begin = scan_back(call, dy, dstate, see, chunk)
    same(dh, wanted[0])
    if cell.has_cell:
        same(dc, wanted[1])
    parts = scan_back(call, lambda t0, t1: dy[t0:t1], dstate, lambda *_: None, chunk)
    same(begin.h, parts.h)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_the_gradient_of_the_first_state_is_that_of_autograd(kind: str, reverse: bool) -> None:
    cell = cells.LSTM()
    x, w, state = draw(cell, torch.float64)
    options = {**rows(cell, state, kind), "reverse": reverse}
    if "reset_state" in options:
        options["reset_state"] = State(*(s.double() for s in options["reset_state"]))
    h, c = (s.clone().requires_grad_() for s in (state.h, state.c) if s is not None)
    r = run(Call(cell, x, w, State(h, c), **options))
    dy = torch.randn_like(r.y)
    wanted = torch.autograd.grad((r.y * dy).sum() + sum(s.sum() for s in r.state[1:] if s is not None), [h, c])
    got = scan_back(Call(cell, x, w, state, **options), dy, State(None, torch.ones(B, H)), lambda *_: None, 4)
    torch.testing.assert_close(got.h, wanted[0])
    torch.testing.assert_close(got.c, wanted[1])


def test_a_projection_in_float64_is_scanned_to_the_same_bits() -> None:
    cell = cells.LSTM()
    x, w, state = draw(cell, torch.float64, projected=3)
    saved, end, _ = whole(cell, x, w, state)
    found = scan(Call(cell, x, w, state), lambda t0, part: same(part.m, saved.m[t0 : t0 + len(part.h)]), 5)  # type: ignore[index]
    same(found.h, end.h)


@pytest.mark.parametrize(
    "noise",
    [Noise(0.3, 0.2, 0.4, seed=3), Noise(0.3, 0.2, training=False), Noise(candidate=0.5, seed=1, hidden=torch.ones(B, H))],
)
def test_noise_is_that_of_the_whole_run(noise: Noise) -> None:
    cell = cells.LSTM()
    x, w, state = draw(cell)
    saved, _, _ = whole(cell, x, w, state, noise=noise)
    scan(Call(cell, x, w, state, noise=noise), lambda t0, part: same(part.c, saved.c[t0 : t0 + len(part.h)]), 4)  # type: ignore[index]


def test_half_precision_runs_as_single() -> None:
    cell = cells.GRU()
    x, w, state = draw(cell)
    halves = x.half(), Weights(*(None if a is None else a.half() for a in w)), State(state.h.half())
    for part in chunks(Call(cell, *halves)):
        assert part.saved.h.dtype == torch.float32


def test_no_steps_give_no_chunks() -> None:
    cell = cells.LSTM()
    x, w, state = draw(cell)
    call = Call(cell, x[:0], w, state)
    assert list(chunks(call)) == [] and list(chunks_again(call)) == [] and list(chunks_back(call, None, None)) == []


def test_a_chunk_of_no_steps_is_refused() -> None:
    x, w, state = draw(cells.LSTM())
    with pytest.raises(ArgumentError) as error:
        chunks(Call(cells.LSTM(), x, w, state), chunk=0)
    assert str(error.value) == (
        "scan: a chunk has at least one step\n  got       chunk=0\n  expected  chunk >= 1\n  hint      use 32"
    )


def held() -> int:
    """Bytes of all tensors that are alive and have memory: those of a compiler, which other tests leave behind, have none."""
    gc.collect()
    plain = [a for a in gc.get_objects() if type(a) in (Tensor, torch.nn.Parameter) and not torch._is_functional_tensor(a)]  # type: ignore[attr-defined]
    found = {a.untyped_storage().data_ptr(): a.untyped_storage().nbytes() for a in plain}
    return sum(found.values())


def test_no_more_than_a_chunk_and_the_states_at_the_borders_are_held() -> None:
    cell, n, units = cells.LSTM(), 640, 32
    shapes = weights.shapes(cell, I, units)
    w = weights.collect({f"{name}_l0": 0.1 * torch.randn(*shape) for name, shape in shapes.items()})
    x, state = torch.randn(n, B, I), State(torch.zeros(B, units), torch.zeros(B, units))
    before, most = held(), 0
    for k, _ in enumerate(chunks_back(Call(cell, x, w, state), None, State(torch.ones(B, units), None))):
        most = max(most, held() - before) if k % 5 == 0 else most  # looking takes long
    whole = 4 * n * B * units * 8  # bytes of i, f, g, o, c, h and of the gradients of c and h
    assert most < whole / 6
