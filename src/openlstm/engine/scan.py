"""A sequence run in chunks of time, forwards and back, so that whoever reduces what a pass saves never holds all of it.

Everything runs in the type of x, under torch.autocast too.

A cut changes no bit of the outputs, the saved gates and states or dL/dh_t and dL/dc_t. On the way back the chunks are run again
from the states kept at their borders: twice the forward pass, and instead of all T steps one chunk and T/chunk states are held.

Legend: T time, B batch, I input size, H hidden size, R what is fed back (P with a projection, 4H for FGR, else H), n steps of a
chunk.

Source: recomputation from kept states: Griewank 1992; Chen, Xu, Zhang & Guestrin 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from openlstm.call import Call
from openlstm.engine.autograd import HALF, step_backward
from openlstm.engine.run import run
from openlstm.errors import ArgumentError
from openlstm.noise import active
from openlstm.reference import Gradients, Saved, State
from openlstm.weights import expand

CHUNK = 32
"""Steps of a chunk: long enough that a call costs nothing beside its products, short enough to stay in the cache."""

Dy = Tensor | Callable[[int, int], Tensor] | None
"""dL/dy [T, B, R], or a function of (t0, t1) that gives its part [t1 - t0, B, R]; None for zero."""


class Chunk(NamedTuple):
    """Some steps of a sequence as they ran: those of x[t0 : t0 + n]."""

    t0: int
    start: State  # with which the chunk begins in the order in which it ran, after a reset that lies on its border
    saved: Saved  # h [n, B, R], gates [n, B, .], c and m [n, B, H]
    end: State

    @property
    def t1(self) -> int:
        """The step behind the chunk."""
        return self.t0 + self.saved.h.shape[0]


class Back(NamedTuple):
    """The same steps on the way back."""

    t0: int
    start: State
    saved: Saved
    dh: Tensor  # [n, B, R], dL/dh_t
    dc: Any  # [n, B, H], dL/dc_t along the highway; None for a cell without one
    dstart: State  # the gradient of `start`


def chunks(call: Call, chunk: int = CHUNK) -> Iterator[Chunk]:
    """Run a sequence and show what was saved, chunk by chunk, in the order in which the steps ran.

    Args:
        call: of torch tensors.
        chunk: steps at a time. With noise that is drawn anew at every step all T run at once.

    Raises:
        ArgumentError: for a chunk below one step.

    >>> from openlstm.cells import LSTM
    >>> from openlstm.weights import Weights
    >>> w, begin = Weights(torch.zeros(8, 3), torch.zeros(8, 2)), State(torch.zeros(1, 2), torch.zeros(1, 2))
    >>> [(part.t0, part.t1) for part in chunks(Call(LSTM(), torch.zeros(5, 1, 3), w, begin), chunk=2)]
    [(0, 2), (2, 4), (4, 5)]
    """
    return _Chunks(call, chunk).forwards()


def chunks_again(call: Call, chunk: int = CHUNK) -> Iterator[Chunk]:
    """As `chunks`, from the last chunk that ran to the first; each but the last runs twice, and one is held at a time."""
    return _Chunks(call, chunk).again()


def chunks_back(call: Call, dy: Dy, dstate: State | None, chunk: int = CHUNK) -> Iterator[Back]:
    """Run a sequence, then go back through it with dL/dh_t and dL/dc_t, chunk by chunk, the last that ran first.

    Args:
        dy: dL/dy [T, B, R] or a function of (t0, t1) that gives its part; None for zero.
        dstate: dL/d(final state), members or all of it None for zero.
    """
    return _Chunks(call, chunk).backwards(dy, dstate)


class _Chunks:
    """A call in the types in which it runs, and where it is cut."""

    def __init__(self, call: Call, chunk: int) -> None:
        if chunk < 1:
            raise ArgumentError.of("scan", "a chunk has at least one step", f"chunk={chunk}", "chunk >= 1", "use 32")
        noise = active(call.noise)
        if noise is not None and noise.training and (noise.zoneout_h or noise.zoneout_c or noise.candidate):
            chunk = max(len(call.x), 1)  # masks are drawn by the number of the step within a call
        backend = "reference" if not call.cell.kernel or call.backend == "cuda" else call.backend  # it keeps every step
        call = call._replace(cell=call.cell.unshared(), weights=expand(call.cell, call.weights), noise=noise, backend=backend)
        self.call = call._replace(autocast=False, bfloat16=False, save=True, checkpoint=0, edits=()).each(_detached)
        self.chunk = chunk

    def borders(self) -> list[tuple[int, int]]:
        """(t0, t1) of every chunk in the order in which they run."""
        T = len(self.call.x)
        found = [(t, min(t + self.chunk, T)) for t in range(0, T, self.chunk)]
        return found[::-1] if self.call.reverse else found

    def part(self, t0: int, t1: int, start: State) -> Call:
        """Steps t0 .. t1-1 as a call of their own."""
        call, fresh = self.call, self.call.reset_state
        if fresh is not None and fresh.h.dim() == 3:
            fresh = State(*(None if s is None else s[t0:t1] for s in fresh))
        return call._replace(
            x=call.x[t0:t1],
            state=start,
            lengths=None if call.lengths is None else (call.lengths - t0).clamp(0, t1 - t0),
            reset=None if call.reset is None else call.reset[t0:t1],
            reset_state=fresh,
        )

    def cut(self, t1: int) -> Tensor | None:
        """Where a reset lies on the border at which a reverse chunk begins [B, 1]: between t1-1 and t1, in neither chunk."""
        call = self.call
        if not call.reverse or call.reset is None or t1 >= len(call.x):
            return None
        here = call.reset[t1] if call.lengths is None else call.reset[t1] & (t1 < call.lengths)
        return here[:, None]

    def enter(self, t1: int, state: State) -> State:
        """The state with which the chunk that ends before t1 begins."""
        cut, fresh = self.cut(t1), self.call.reset_state
        if cut is None:
            return state
        if fresh is None:
            return State(*(None if s is None else s.masked_fill(cut, 0) for s in state))
        pairs: Any = zip(state, fresh, strict=True)
        return State(*(None if s is None else torch.where(cut, f[t1] if f.dim() == 3 else f, s) for s, f in pairs))

    def leave(self, t1: int, flow: State) -> State:
        """What of the gradient of that state crosses to the chunk before."""
        cut = self.cut(t1)
        return flow if cut is None else State(*(None if s is None else s.masked_fill(cut, 0) for s in flow))

    def run(self, t0: int, t1: int, start: State, save: bool = True) -> Chunk:
        """Steps t0 .. t1-1."""
        with torch.no_grad():  # autocast would give y in another type than what is saved
            done = run(self.part(t0, t1, start)._replace(save=save))
        return Chunk(t0, start, Saved(done.y) if done.saved is None else done.saved, done.state)

    def forwards(self) -> Iterator[Chunk]:
        state = self.call.state
        for t0, t1 in self.borders():
            part = self.run(t0, t1, self.enter(t1, state))
            yield part
            state = part.end

    def again(self) -> Iterator[Chunk]:
        """The chunks from the last to the first: run through once for the states at their borders, then one by one again."""
        borders, starts, state = self.borders(), [], self.call.state
        last = None
        for k, (t0, t1) in enumerate(borders):
            starts.append(self.enter(t1, state))
            last = self.run(t0, t1, starts[-1], save=k == len(borders) - 1)
            state = last.end
        for k in reversed(range(len(borders))):
            part = self.run(*borders[k], starts[k]) if last is None else last
            last = None
            yield part

    def backwards(self, dy: Dy, dstate: State | None) -> Iterator[Back]:
        flow = State(*(None if s is None else torch.zeros_like(s) for s in self.call.state))
        if dstate is not None:
            flow = State(*(z if d is None or z is None else d.detach().to(z.dtype) for z, d in zip(flow, dstate, strict=True)))
        for part in self.again():
            given = dy(part.t0, part.t1) if callable(dy) else None if dy is None else dy[part.t0 : part.t1]
            g = self.back(part, given, flow)
            assert g.h_steps is not None
            yield Back(part.t0, part.start, part.saved, g.h_steps, g.c_steps, g.state)
            flow = self.leave(part.t1, g.state)

    def back(self, part: Chunk, dy: Tensor | None, flow: State) -> Gradients:
        """The gradients of one chunk, given those of what it hands on."""
        call = self.part(part.t0, part.t1, part.start)
        return step_backward(call, part.saved, None if dy is None else dy.detach().to(call.x.dtype), flow)


def _detached(a: Tensor) -> Tensor:
    """Without its graph, in a type that the engine runs."""
    a = a.detach()
    return a.float() if a.dtype in HALF else a
