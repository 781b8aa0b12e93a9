"""`Place`: one direction of one recurrent layer with all that it was given in one call, to be run again in chunks.

Every use of the engine by `insight` goes through here: forwards, the same chunks from the last on, and the way back.

Legend: T time, B batch, I input size, H hidden size, R what is fed back (P with a projection, 4H for FGR, else H), n steps of a
chunk, m steps of a chunk that rows have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from openlstm import cells
from openlstm.call import Call
from openlstm.engine import scan
from openlstm.engine.backends.table import brief
from openlstm.engine.scan import CHUNK, Dy
from openlstm.engine.scan import Back as Back
from openlstm.engine.scan import Chunk as Chunk
from openlstm.insight.batches import each
from openlstm.nn.recurrent import Recurrent
from openlstm.reference import Saved, State
from openlstm.weights import hidden_size


@dataclass(frozen=True, eq=False)
class Place:
    """One direction of one layer, and the call of it that was seen. Tensors carry no gradient.

    Fields:
        name: "lstm.0", "lstm.0_reverse", "0" in a bare layer; the names of `openlstm.trace` with the path in front.
        path: of the module in the model, "" for a bare layer.
        index: which layer.
        call: the call of the engine, with x [T, B, I], what this layer was given; `place.x`, `place.weights`, `place.cell` and
            the rest are its.
        dy: dL/dy [T, B, R] of what left this direction; None where the loss does not read it.
        dstate: dL/d(final state); None if there was no loss.
        module: the layer as ours (another object than the model's if that is torch.nn's; the same parameters).
        calls: how often the module ran in the one call of the model; the longest call is shown.
    """

    name: str
    path: str
    index: int
    call: Call
    dy: Tensor | None
    dstate: State | None
    module: Recurrent
    calls: int = 1

    cell = property(lambda self: self.call.cell)
    x = property(lambda self: self.call.x)
    weights = property(lambda self: self.call.weights)
    state = property(lambda self: self.call.state)
    lengths = property(lambda self: self.call.lengths)
    reset = property(lambda self: self.call.reset)
    reset_state = property(lambda self: self.call.reset_state)
    reverse = property(lambda self: self.call.reverse)
    noise = property(lambda self: self.call.noise)

    @property
    def steps(self) -> int:
        """T."""
        return self.x.shape[0]

    @property
    def rows(self) -> int:
        """B."""
        return self.x.shape[1]

    @property
    def units(self) -> int:
        """H."""
        return hidden_size(self.cell, self.weights)

    @property
    def title(self) -> str:
        """What it is, for people: "lstm.0 (LSTM, 32 units)"."""
        return f"{self.name} ({brief(self.cell)}, {self.units} units)"

    @property
    def gates(self) -> tuple[str, ...]:
        """The gates with a sigmoid, and the candidate."""
        return tuple(name for name in self.cell.saved if name in self.cell.gates)

    @property
    def no_gates(self) -> str | None:
        """Why there is no gate to look at, None if there is one."""
        return None if self.gates else f"{self.name}: {brief(self.cell)} has no gates"

    @property
    def no_highway(self) -> str | None:
        """Why there is no share of a state that a gate keeps, None if there is one."""
        if self._highway is not None:
            return None
        return f"{self.name}: {brief(self.cell)} has no highway: nothing keeps a state but the weights"

    @property
    def no_stability(self) -> str | None:
        """Why small differences of its state do not tell whether it is stable, None if they do."""
        if not isinstance(self.cell, cells.SLSTM):
            return None
        return (
            f"{self.name}: c, n and m of {brief(self.cell)} say one thing in several ways: of m + a, c/e^a and n/e^a for any a"
        )

    @property
    def no_stream(self) -> str | None:
        """Why it cannot run as a stream, None if it can."""
        end = f"{self.name}: a backward direction needs the end of the data before it can begin"
        return end if self.reverse else None

    @property
    def _highway(self) -> str | None:
        saved = self.cell.saved
        if "f" in saved:
            return "f"
        if isinstance(self.cell, cells.GRU):
            return "z"
        if isinstance(self.cell, cells.MinGRU):
            return "1-u"
        if self.cell.has_cell and self.cell.kernel and hasattr(self.cell, "coupled"):
            return "1-i" if self.cell.coupled else "1"  # type: ignore[attr-defined]
        return None

    def kept(self, saved: Saved) -> Tensor | None:
        """The factor with which a step keeps each unit of the highway [n, B, H]: f, 1 - i, z of a GRU, 1; None without one.

        That of c alone, while further states of the cell are held: of an sLSTM dc'/dc = f, whatever n and m do.
        Zoneout keeps the old cell with its probability p: p + (1 - p) f.
        """
        name = self._highway
        if name is None:
            return None
        gates = saved.named(self.cell)
        if name == "1":
            assert saved.c is not None
            f = torch.ones_like(saved.c)
        else:
            f = 1 - gates[name[2:]] if name.startswith("1-") else gates[name]
        p = 0.0
        if self.noise is not None:
            p = self.noise.zoneout_c if self.cell.has_cell else self.noise.zoneout_h
        return p + (1 - p) * f if p else f

    def forwards(self, chunk: int = CHUNK) -> Iterator[Chunk]:
        """The forward pass in chunks of time (`engine.scan.chunks`)."""
        return scan.chunks(self.call, chunk)

    def again(self, chunk: int = CHUNK) -> Iterator[Chunk]:
        """The same chunks, the last that ran first (`engine.scan.chunks_again`)."""
        return scan.chunks_again(self.call, chunk)

    def backwards(self, dy: Dy, dstate: State | None, chunk: int = CHUNK) -> Iterator[Back]:
        """The way back in chunks of time (`engine.scan.chunks_back`)."""
        return scan.chunks_back(self.call, dy, dstate, chunk)

    def ran(self, n: int) -> Sequence[int]:
        """The steps of a chunk of n in the order in which they ran; reversed they are the way back."""
        return range(n)[::-1] if self.reverse else range(n)

    def ends(self) -> Tensor:
        """How many real steps each row has, int64 [B]."""
        if self.lengths is None:
            return torch.full((self.rows,), self.steps, device=self.x.device)
        return self.lengths

    def order(self, t0: int, t1: int) -> Tensor:
        """The number of each step in the order in which its row ran, from 0; -1 past the row's length. int64 [n, B]."""
        t = torch.arange(t0, t1, device=self.x.device)[:, None]
        ends = self.ends()
        return torch.where(t < ends, ends - 1 - t if self.reverse else t, -1)

    def cuts(self, t0: int, t1: int) -> Tensor | None:
        """Where a reset put another state in place before the step, bool [n, B]; None without resets."""
        if self.reset is None:
            return None
        at = torch.arange(t0, t1, device=self.x.device) + self.reverse
        inside = (at < self.steps)[:, None] & (at[:, None] < self.ends())
        return self.reset[at.clamp(max=self.steps - 1)] & inside

    def before(self, t0: int, start: State, saved: Saved) -> State:
        """The state with which every step of a chunk began, h [n, B, R] and c [n, B, C]."""
        n = saved.h.shape[0]
        cut = self.cuts(t0, t0 + n)
        first = None
        if self.reverse and self.lengths is not None:  # a row that has not begun holds its start
            first = (torch.arange(t0 + 1, t0 + n + 1, device=self.x.device)[:, None] >= self.lengths)[..., None]
        found = []
        for k, (begin, values) in enumerate(((start.h, saved.h), (start.c, saved.c))):
            if values is None or begin is None:
                found.append(None)
                continue
            parts = [values[1:], begin[None]] if self.reverse else [begin[None], values[:-1]]
            old = torch.cat(parts)
            if first is not None:
                old = torch.where(first, begin, old)
            if cut is not None:
                fresh = None if self.reset_state is None else self.reset_state[k]
                if fresh is None:
                    old = old.masked_fill(cut[..., None], 0)
                else:
                    at = torch.arange(t0, t0 + n, device=self.x.device) + self.reverse
                    fresh = fresh[at.clamp(max=self.steps - 1)] if fresh.dim() == 3 else fresh
                    old = torch.where(cut[..., None], fresh.to(old.dtype), old)
            found.append(old)
        return State(*found)

    def real(self, t0: int, a: Tensor) -> Tensor:
        """What an array of a chunk [n, B, ..] holds at steps that rows have: [m, ..]."""
        return a.flatten(0, 1) if self.lengths is None else a[self.order(t0, t0 + len(a)) >= 0]

    def taking(self, steps: Callable[[Tensor], Tensor], rows: Callable[[Tensor], Tensor]) -> Place:
        """The same place with other steps and rows.

        Args:
            steps: [T, B, ..] -> the steps and rows that are taken.
            rows: [B, ..] -> the rows that are taken.
        """
        call, noise = self.call, self.call.noise
        fresh = call.reset_state
        taken = call._replace(
            x=steps(call.x),
            state=each(call.state, rows),
            lengths=each(call.lengths, rows),
            reset=each(call.reset, steps),
            reset_state=each(fresh, steps if fresh is not None and fresh.h.dim() == 3 else rows),
            noise=None if noise is None else noise._replace(hidden=each(noise.hidden, rows)),
        )
        return replace(self, call=taken, dy=each(self.dy, steps), dstate=each(self.dstate, rows))

    def calling(self, **changed: Any) -> Place:
        """The same place with other fields of its call."""
        return replace(self, call=self.call._replace(**changed))

    def some(self, rows: Tensor) -> Place:
        """The same place with some of its rows."""
        return self.taking(lambda a: a[:, rows], lambda a: a[rows])

    def __repr__(self) -> str:
        T, B, inputs = self.x.shape
        return f"Place({self.title}, T={T}, B={B}, I={inputs})"
