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

from openlstm.cells import Cell
from openlstm.engine.op import sequence
from openlstm.engine.operators import INPUTS, Call, How, active, run_backward
from openlstm.errors import ArgumentError, message
from openlstm.noise import Noise
from openlstm.reference import Gradients, Saved, State, Weights
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


def scan(
    cell: Cell,
    x: Tensor,
    weights: Weights,
    state: State,
    see: Callable[[int, Saved], None],
    *,
    chunk: int = CHUNK,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    reset_state: State | None = None,
    reverse: bool = False,
    noise: Noise | None = None,
    backend: str = "auto",
) -> State:
    """Run a sequence and show what was saved, chunk by chunk, in the order in which the steps ran.

    Args:
        x: [T, B, I]; the other arguments as in `reference.forward`, torch tensors.
        see: called with (t0, saved) of x[t0 : t0 + n]; the arrays of `saved` are its own, and are dropped when it returns.
        chunk: steps at a time. With noise that is drawn anew at every step all T run at once.

    Returns:
        The state after each row's last step.

    Raises:
        ArgumentError: for a chunk below one step.

    >>> from openlstm.cells import LSTM
    >>> w, begin = Weights(torch.zeros(8, 3), torch.zeros(8, 2)), State(torch.zeros(1, 2), torch.zeros(1, 2))
    >>> scan(LSTM(), torch.zeros(5, 1, 3), w, begin, lambda t0, saved: print(t0, tuple(saved.h.shape)), chunk=2).c.tolist()
    0 (2, 1, 2)
    2 (2, 1, 2)
    4 (1, 1, 2)
    [[0.0, 0.0]]
    """
    given = _Given.of(cell, x, weights, state, lengths, reset, reset_state, reverse, noise, backend, chunk)
    end = given.state
    for part in given.forwards():
        see(part.t0, part.saved)
        end = part.end
    return end


def scan_back(
    cell: Cell,
    x: Tensor,
    weights: Weights,
    state: State,
    dy: Dy,
    dstate: State | None,
    see: Callable[[int, Tensor, Any, Saved], None],
    *,
    chunk: int = CHUNK,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    reset_state: State | None = None,
    reverse: bool = False,
    noise: Noise | None = None,
    backend: str = "auto",
) -> State:
    """Run a sequence, then go back through it and show dL/dh_t and dL/dc_t chunk by chunk, the last step that ran first.

    Args:
        dy: dL/dy [T, B, R] or a function of (t0, t1) that gives its part; None for zero.
        dstate: dL/d(final state), members or all of it None for zero.
        see: called with (t0, dh [n, B, R], dc [n, B, H] or None, saved) of x[t0 : t0 + n].

    The rest as in `scan`.

    Returns:
        The gradient of the state with which the sequence began.
    """
    given = _Given.of(cell, x, weights, state, lengths, reset, reset_state, reverse, noise, backend, chunk)
    first = State(torch.zeros_like(given.state.h), None if given.state.c is None else torch.zeros_like(given.state.c))
    for part in given.backwards(dy, dstate):
        see(part.t0, part.dh, part.dc, part.saved)
        first = part.dstart
    return first


def chunks(
    cell: Cell, x: Tensor, weights: Weights, state: State, *, chunk: int = CHUNK, backend: str = "auto", **options: Any
) -> Iterator[Chunk]:
    """As `scan`, an iterator over `Chunk`."""
    return _Given.keyed(cell, x, weights, state, backend, chunk, options).forwards()


def chunks_again(
    cell: Cell, x: Tensor, weights: Weights, state: State, *, chunk: int = CHUNK, backend: str = "auto", **options: Any
) -> Iterator[Chunk]:
    """As `chunks`, from the last chunk that ran to the first; each but the last runs twice, and one is held at a time."""
    return _Given.keyed(cell, x, weights, state, backend, chunk, options).again()


def chunks_back(
    cell: Cell,
    x: Tensor,
    weights: Weights,
    state: State,
    dy: Dy,
    dstate: State | None,
    *,
    chunk: int = CHUNK,
    backend: str = "auto",
    **options: Any,
) -> Iterator[Back]:
    """As `scan_back`, an iterator over `Back`."""
    return _Given.keyed(cell, x, weights, state, backend, chunk, options).backwards(dy, dstate)


class _Given(NamedTuple):
    """One layer in one direction with everything that it runs on, and where it is cut."""

    cell: Cell
    x: Tensor
    weights: Weights
    state: State
    lengths: Tensor | None
    reset: Tensor | None
    reset_state: State | None
    reverse: bool
    noise: Noise | None
    backend: str
    chunk: int

    @staticmethod
    def of(
        cell: Cell,
        x: Tensor,
        weights: Weights,
        state: State,
        lengths: Tensor | None,
        reset: Tensor | None,
        reset_state: State | None,
        reverse: bool,
        noise: Noise | None,
        backend: str,
        chunk: int,
    ) -> _Given:
        if chunk < 1:
            raise ArgumentError(message("scan", "a chunk has at least one step", f"chunk={chunk}", "chunk >= 1", "use 32"))
        noise = active(noise)
        if noise is not None and noise.training and (noise.zoneout_h or noise.zoneout_c or noise.candidate):
            chunk = max(len(x), 1)  # masks are drawn by the number of the step within a call
        if noise is not None and noise.hidden is not None:
            noise = noise._replace(hidden=_plain(noise.hidden))
        weights = Weights(*(_plain(w) for w in expand(cell, weights)))
        state = State(*(_plain(s) for s in state))
        reset_state = None if reset_state is None else State(*(_plain(s) for s in reset_state))
        backend = "reference" if not cell.kernel or backend == "cuda" else backend  # whoever opens the box
        return _Given(cell.unshared(), _plain(x), weights, state, lengths, reset, reset_state, reverse, noise, backend, chunk)

    @staticmethod
    def keyed(
        cell: Cell, x: Tensor, weights: Weights, state: State, backend: str, chunk: int, options: dict[str, Any]
    ) -> _Given:
        rest: dict[str, Any] = {"lengths": None, "reset": None, "reset_state": None, "reverse": False, "noise": None}
        return _Given.of(cell, x, weights, state, **{**rest, **options}, backend=backend, chunk=chunk)

    def borders(self) -> list[tuple[int, int]]:
        """(t0, t1) of every chunk in the order in which they run."""
        T = len(self.x)
        found = [(t, min(t + self.chunk, T)) for t in range(0, T, self.chunk)]
        return found[::-1] if self.reverse else found

    def options(self, t0: int, t1: int) -> dict[str, Any]:
        """Lengths, resets and the rest as steps t0 .. t1-1 alone see them."""
        fresh = self.reset_state
        if fresh is not None and fresh.h.dim() == 3:
            fresh = State(*(None if s is None else s[t0:t1] for s in fresh))
        return {
            "lengths": None if self.lengths is None else (self.lengths - t0).clamp(0, t1 - t0),
            "reset": None if self.reset is None else self.reset[t0:t1],
            "reset_state": fresh,
            "reverse": self.reverse,
        }

    def cut(self, t1: int) -> Tensor | None:
        """Where a reset lies on the border at which a reverse chunk begins [B, 1]: between t1-1 and t1, in neither chunk."""
        if not self.reverse or self.reset is None or t1 >= len(self.x):
            return None
        here = self.reset[t1] if self.lengths is None else self.reset[t1] & (t1 < self.lengths)
        return here[:, None]

    def enter(self, t1: int, state: State) -> State:
        """The state with which the chunk that ends before t1 begins."""
        cut, fresh = self.cut(t1), self.reset_state
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
        options = {"backend": self.backend, "save": save, "noise": self.noise, **self.options(t0, t1)}
        with torch.no_grad():  # autocast would give y in another type than what is saved
            r = sequence(self.cell, self.x[t0:t1], self.weights, start, autocast=False, **options)
        saved = Saved(r.y, r.gates if self.cell.saved else None, r.c if self.cell.has_cell else None, r.m)
        return Chunk(t0, start, saved, State(r.h_n, r.c_n if self.cell.has_cell else None))

    def forwards(self) -> Iterator[Chunk]:
        state = self.state
        for t0, t1 in self.borders():
            part = self.run(t0, t1, self.enter(t1, state))
            yield part
            state = part.end

    def again(self) -> Iterator[Chunk]:
        """The chunks from the last to the first: run through once for the states at their borders, then one by one again."""
        borders, starts, state = self.borders(), [], self.state
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
        flow = State(*(None if s is None else torch.zeros_like(s) for s in self.state))
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
        noise = self.noise
        hidden, seed = (None, None) if noise is None else (noise.hidden, torch.as_tensor(noise.seed))
        options = self.options(part.t0, part.t1)
        fresh = options["reset_state"]
        if fresh is not None and fresh.h.dim() == 3:  # nothing flows across a reset, whatever it led to
            fresh = None
        tensors: list[Any] = [self.x[part.t0 : part.t1], *self.weights, *part.start, options["lengths"], options["reset"]]
        tensors += [*(fresh or (None, None)), hidden, seed]
        tensors += [part.saved.h, part.saved.gates, part.saved.c, part.saved.m]
        tensors += [None if dy is None else dy.detach().to(self.x.dtype), *flow]
        call = Call.of(tensors[:INPUTS], How.of(self.cell, self.reverse, noise, self.backend), self.cell)
        with torch.no_grad():
            return run_backward(call, tensors[INPUTS:], self.backend, False, steps=True)


def _plain(a: Any) -> Any:
    """A tensor without its graph, in a type that the engine runs."""
    if a is None:
        return None
    a = a.detach()
    return a.float() if a.dtype in (torch.float16, torch.bfloat16) else a
