"""Sequences that lie packed: torch's PackedSequence, and rows one behind the other with `cu_seqlens`.

Legend: T time, B batch, I input size, R what is fed back, L layers, D directions, N sequences.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from openlstm.engine import pieces
from openlstm.engine.run import autocast_type
from openlstm.nn.form import Form, Inputs, enter_sequences
from openlstm.reference import State


def run_packed(layer: Any, x: PackedSequence, hx: Any, reset: Any, reset_state: Any) -> tuple[PackedSequence, State]:
    """A PackedSequence through a layer: its output, packed alike, and its state."""
    rows = x.sorted_indices  # rows run in the order in which they are packed
    padded, real = pad_packed_sequence(PackedSequence(x.data, x.batch_sizes))  # [T, B, I], [B]
    given = Form(batched=True, batch_first=False).enter(layer, padded, hx, real, reset, reset_state)
    if rows is not None:
        given = given._replace(
            hx=given.hx and _rows(given.hx, rows),
            reset=None if given.reset is None else given.reset[:, rows],
            reset_state=given.reset_state and _rows(given.reset_state, rows),
        )
    y, state, _ = layer.run_layers(given, real)
    out = PackedSequence(pack_padded_sequence(y, real).data, x.batch_sizes, rows, x.unsorted_indices)
    return out, state if x.unsorted_indices is None else _rows(state, x.unsorted_indices)


def run_sequences(
    layer: Any, x: Any, hx: Any, lengths: Any, reset: Any, reset_state: Any, cu_seqlens: Any
) -> tuple[Tensor, State]:
    """x [total, I], one sequence behind the other. Those of one length are a batch where they lie; others are padded."""
    given, starts, real = enter_sequences(layer, x, hx, lengths, reset, reset_state, cu_seqlens)
    total, N = len(given.x), len(real)
    T = total // N if N else 0
    if N and bool((real == T).all()):
        together = [None if a is None else a.view(N, T, *a.shape[1:]).transpose(0, 1) for a in (given.x, given.reset)]
        y, state, _ = layer.run_layers(given._replace(x=together[0], reset=together[1]))
        return y.transpose(0, 1).reshape(total, y.shape[-1]), state
    parts = pieces.of_sequences(starts, real, total)
    hx = layer.zero_states(given.x, N) if given.hx is None else given.hx
    ys, states, order = [], [], []
    for group, places in parts.groups():
        there, rows = places.reshape(-1), parts.row[group]
        back = pieces.inverse(there, total)
        padded = pieces.move(given.x, there, back, (False, True)).view(*places.shape, -1)  # padding is never read
        y, state, _ = layer.run_layers(
            Inputs(
                padded,
                _rows(hx, rows),
                parts.lengths[group],
                None if given.reset is None else given.reset[places.clamp(min=0)],
                given.reset_state and _rows(given.reset_state, rows),
            )
        )
        ys.append(y.reshape(len(there), -1))
        states.append(state)
        order.append(there)
    if not ys:
        dtype = autocast_type(given.x) or given.x.dtype
        return given.x.new_zeros(total, layer.num_directions * (layer.proj_size or layer.hidden_size), dtype=dtype), hx
    there = torch.cat(order)
    some, last = (parts.last >= 0)[:, None], parts.last.clamp(min=0)

    def ends(found: list[Any], begin: Any) -> Any:
        return begin if begin is None else torch.where(some, torch.cat(found, 1)[:, last], begin)

    state = State(ends([s.h for s in states], hx.h), ends([s.c for s in states], hx.c))
    y = ys[0] if len(ys) == 1 else torch.cat(ys)
    return pieces.move(y, pieces.inverse(there, total), there, (False, False)), state  # no step is left out


def _rows(state: State, order: Tensor) -> State:
    """The state [L*D, B, .] or [L*D, T, B, .] with its rows in another order."""
    return State(*(None if s is None else s.index_select(-2, order) for s in state))
