"""Rows cut where their state begins anew: a ragged batch with resets as a batch of pieces that know neither.

A piece runs from a row's begin, or from a reset, to the step before the next reset, or to the row's end. torch's own kernels
take pieces as packed input (`cuda.py`); a state of its own for every reset becomes the state with which a piece begins.

Legend: T time, B batch, N pieces, n steps of all pieces together. The place of step t of row b is t*B + b, its row in x [T*B,
I].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from openlstm.reference import State

_WASTE = 4  # how many times the real steps a padded batch may hold


class Pieces(NamedTuple):
    """The pieces of a batch, the longest first."""

    size: int  # T*B
    stride: int  # from the place of one step to that of the next: B
    row: Tensor  # [N], the row that a piece belongs to
    first: Tensor  # [N], the place of its first step
    lengths: Tensor  # [N], at least 1
    begin: Tensor  # [N], the place of the reset with which it begins; -1 for the carried-in state
    last: Tensor  # [B], the piece at whose end the row's final state stands; -1 for a row without steps

    def starts(self, state: State, fresh: State | None) -> State:
        """The state with which each piece begins [N, .]: of `fresh` [T, B, .] or [B, .] where a reset leads there."""
        return State(*(None if s is None else self._start(s, f) for s, f in zip(state, fresh or (None, None), strict=True)))

    def _start(self, carried: Tensor, fresh: Any) -> Tensor:
        where = (self.begin >= 0)[:, None]
        given = carried.index_select(0, self.row)
        if fresh is None:
            return given.masked_fill(where, 0)
        at = self.begin.clamp(min=0) if fresh.dim() == 3 else self.row
        return torch.where(where, fresh.reshape(-1, fresh.shape[-1]).index_select(0, at), given)

    def ends(self, found: State, state: State) -> State:
        """The final states [B, .] from those of the pieces [N, .]; a row without steps keeps its state."""
        there = (self.last >= 0)[:, None]
        at = self.last.clamp(min=0)

        def end(f: Any, s: Any) -> Any:
            return None if f is None else torch.where(there, f.index_select(0, at), s)

        return State(end(found.h, state.h), end(found.c, state.c))

    def packed(self, reverse: bool) -> tuple[Tensor, Tensor]:
        """The places of all steps in the order of packed input [n], and its batch sizes [T'] on the CPU."""
        lengths = self.lengths.cpu()
        T, N = int(lengths[0]), len(lengths)
        sizes = N - torch.bincount(lengths, minlength=T + 1).cumsum(0)[:T]  # [T'], how many pieces have a step t
        step = torch.repeat_interleave(torch.arange(T), sizes)
        piece = torch.arange(len(step)) - torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
        step, piece = step.to(self.first.device), piece.to(self.first.device)
        if reverse:
            step = self.lengths[piece] - 1 - step
        return self.first[piece] + step * self.stride, sizes

    def groups(self) -> Iterator[tuple[slice, Tensor]]:
        """Batches of pieces, and the places [T', N'] of their steps, -1 for padding; few, and none mostly padding.

        >>> cut(5, 2, None, torch.tensor([[0, 0], [0, 1], [0, 0], [0, 0], [0, 0]]).bool(), False).lengths.tolist()
        [5, 4, 1]
        """
        lengths = self.lengths.tolist()
        n = 0
        while n < len(lengths):
            end, total = n, 0
            while end < len(lengths) and (end + 1 - n) * lengths[n] <= _WASTE * (total + lengths[end]):
                total += lengths[end]
                end += 1
            time = torch.arange(lengths[n], device=self.first.device)[:, None]
            inside = time < self.lengths[n:end]
            yield slice(n, end), torch.where(inside, self.first[n:end] + time * self.stride, -1)
            n = end


def cut(T: int, B: int, lengths: Tensor | None, reset: Tensor | None, reverse: bool, device: Any = None) -> Pieces:
    """Cut the rows of a batch before every step with a reset; a step past a row's length belongs to no piece.

    Args:
        lengths: integers [B], T for every row if None.
        reset: bool [T, B]; it cuts between t-1 and t whichever way the row is run.
        reverse: whether rows are run from their last step to their first, which decides where a carried-in state enters.
    """
    place = torch.arange(T * B, device=device).view(T, B)
    ends = torch.full((B,), T, device=device) if lengths is None else lengths
    begins = place < B  # [T, B]
    if reset is not None:
        begins = begins | reset
    if lengths is not None:
        begins = begins & (torch.arange(T, device=device)[:, None] < lengths)
    row, start = begins.T.nonzero(as_tuple=True)  # row by row, each from its begin to its end
    following = torch.cat([start[1:], start.new_zeros(1)]) if len(start) else start
    same = torch.cat([row[1:] == row[:-1], row.new_zeros(1, dtype=torch.bool)]) if len(row) else row.bool()
    stop = torch.where(same, following, ends[row])
    if reverse:
        begin = torch.where(stop < ends[row], stop * B + row, -1)
        final = start == 0
    else:
        carried = (start == 0) if reset is None else (start == 0) & ~reset[0, row] if T else start == 0
        begin = torch.where(carried, -1, start * B + row)
        final = ~same
    order = torch.argsort(stop - start, descending=True, stable=True)
    last = torch.full((B,), -1, device=device)
    last[row[order][final[order]]] = torch.arange(len(order), device=device)[final[order]]
    return Pieces(T * B, B, row[order], (start * B + row)[order], (stop - start)[order], begin[order], last)


def of_sequences(starts: Tensor, lengths: Tensor, total: int) -> Pieces:
    """Sequences one behind the other in x [total, I], each a piece that begins with its own state; empty ones are none."""
    order = torch.argsort(lengths, descending=True, stable=True)
    order = order[: int((lengths > 0).sum())]
    last = torch.full_like(lengths, -1)
    last[order] = torch.arange(len(order), device=lengths.device)
    return Pieces(total, 1, order, starts[order], lengths[order], torch.full_like(order, -1), last)


class _Move(torch.autograd.Function):
    """Rows of x [m, W] to other places, some left out, with the gradient moved back instead of added up one by one."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, there: Tensor, back: Tensor, fills: tuple[bool, bool]) -> Tensor:
        moved = x.index_select(0, there.clamp(min=0))
        return moved.masked_fill_((there < 0)[:, None], 0) if fills[0] else moved

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _, there, back, ctx.fills = inputs
        ctx.save_for_backward(there, back)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        there, back = ctx.saved_tensors
        return _Move.apply(grads[0], back, there, ctx.fills[::-1]), None, None, None


def move(x: Tensor, there: Tensor, back: Tensor, fills: tuple[bool, bool] = (True, True)) -> Tensor:
    """out[k] = x[there[k]], 0 where there[k] is -1; `back` is the inverse, -1 for what was left out.

    Args:
        fills: False where nobody reads what stands in the place of a -1 of `there`, or of `back` on the way back.
    """
    out: Any = _Move.apply(x, there, back, fills)
    return out


def inverse(there: Tensor, size: int) -> Tensor:
    """Where each of `size` places went: the k with there[k] = place, -1 if nowhere."""
    back = torch.full((size,), -1, device=there.device)
    kept = there >= 0
    back[there[kept]] = torch.arange(len(there), device=there.device)[kept]
    return back
