"""Every bad input of a layer: one error, its text to the letter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.nn.twins import BACKENDS
from torch import zeros

import openlstm
from openlstm import GRU, LSTM, RNN, cells
from openlstm.errors import ArgumentError, DtypeError, ShapeError

T, B, I, H = 6, 3, 4, 5
X = zeros(T, B, I)
HC = (zeros(1, B, H), zeros(1, B, H))


def lstm(**options: Any) -> LSTM:
    return LSTM(I, H, **options)


CASES: dict[str, tuple[Any, type[Exception], str]] = {
    "features": (
        lambda: lstm()(zeros(T, B, 7)),
        ShapeError,
        "LSTM: x has 7 features, expected 4\n"
        "  got       x: float32[6, 3, 7]  (batch_first=False: [T, B, I])\n"
        "  expected  [T, B, 4]\n"
        "  hint      make the layer with input_size=7, or give x 4 features",
    ),
    "features-swapped": (
        lambda: LSTM(40, H, batch_first=True)(zeros(16, 40, 100)),
        ShapeError,
        "LSTM: x has 100 features, expected 40\n"
        "  got       x: float32[16, 40, 100]  (batch_first=True: [B, T, I])\n"
        "  expected  [B, T, 40]\n"
        "  hint      the second axis is 40: swap the last two axes, or check batch_first",
    ),
    "features-unbatched": (
        lambda: RNN(I, H)(zeros(I, T)),
        ShapeError,
        "RNN: x has 6 features, expected 4\n"
        "  got       x: float32[4, 6]  (batch_first=False: [T, I])\n"
        "  expected  [T, 4]\n"
        "  hint      the first axis is 4: swap the last two axes, or check batch_first",
    ),
    "features-packed": (
        lambda: lstm()(torch.nn.utils.rnn.pack_sequence([zeros(3, 7), zeros(2, 7)])),
        ShapeError,
        "LSTM: x has 7 features, expected 4\n"
        "  got       x: float32[3, 2, 7]  (batch_first=False: [T, B, I])\n"
        "  expected  [T, B, 4]\n"
        "  hint      make the layer with input_size=7, or give x 4 features",
    ),
    "one-axis": (
        lambda: lstm()(zeros(T)),
        ShapeError,
        "LSTM: x has 1 axis\n"
        "  got       x: float32[6]\n"
        "  expected  [T, B, I], or [T, I] unbatched\n"
        "  hint      use x[..., None] for one feature a step",
    ),
    "four-axes": (
        lambda: lstm(batch_first=True)(zeros(2, T, B, I)),
        ShapeError,
        "LSTM: x has 4 axes\n"
        "  got       x: float32[2, 6, 3, 4]\n"
        "  expected  [B, T, I], or [T, I] unbatched\n"
        "  hint      flatten the extra axes into B or I",
    ),
    "a-list": (
        lambda: lstm()([1.0, 2.0]),
        DtypeError,
        "LSTM: x is not a tensor\n  got       x: list of 2\n  expected  a torch.Tensor\n  hint      use torch.as_tensor",
    ),
    "an-array": (
        lambda: lstm()(np.zeros((T, B, I))),
        DtypeError,
        "LSTM: x is not a tensor\n  got       x: float64[6, 3, 4]\n  expected  a torch.Tensor\n  hint      use torch.as_tensor",
    ),
    "integers": (
        lambda: lstm()(X.long()),
        DtypeError,
        "LSTM: x is int64, the weights are float32\n"
        "  got       x: int64[6, 3, 4]\n"
        "  expected  float32\n"
        "  hint      use x.to(torch.float32), or an embedding or one_hot where x holds tokens",
    ),
    "dtype": (
        lambda: lstm()(X.double()),
        DtypeError,
        "LSTM: x is float64, the weights are float32\n"
        "  got       x: float64[6, 3, 4]\n"
        "  expected  float32\n"
        "  hint      use x.to(torch.float32), or layer.to(torch.float64)",
    ),
    "device": (
        lambda: lstm()(X.to("meta")),
        ArgumentError,
        "LSTM: x and the weights are on different devices\n"
        "  got       x: float32[6, 3, 4] on meta\n"
        "  expected  cpu\n"
        "  hint      use x.to('cpu'), or layer.to('meta')",
    ),
    "nan": (
        lambda: lstm(check_finite=True)(torch.where(torch.arange(T * B * I).view(T, B, I) == 31, torch.nan, X)),
        ArgumentError,
        "LSTM: x holds nan at step 2, row 1, feature 3\n"
        "  got       a value that is not finite\n"
        "  expected  finite values (check_finite=True)\n"
        "  hint      fill or mask missing values before the layer, or pass check_finite=False to let them through",
    ),
    "h-without-c": (
        lambda: lstm()(X, zeros(1, B, H)),
        DtypeError,
        "LSTM: hx is not a pair (h, c)\n"
        "  got       hx: float32[1, 3, 5]\n"
        "  expected  (h [L*D, B, R], c [L*D, B, H])\n"
        "  hint      pass both; torch.zeros(L*D, B, H) where the cell begins empty",
    ),
    "h-and-none": (
        lambda: lstm()(X, (zeros(1, B, H), None)),
        DtypeError,
        "LSTM: hx is not a pair (h, c)\n"
        "  got       hx: tuple of 2\n"
        "  expected  (h [L*D, B, R], c [L*D, B, H])\n"
        "  hint      pass both; torch.zeros(L*D, B, H) where the cell begins empty",
    ),
    "a-pair-for-rnn": (
        lambda: RNN(I, H)(X, HC),
        DtypeError,
        "RNN: hx is not a tensor\n"
        "  got       hx: tuple of 2\n"
        "  expected  a torch.Tensor\n"
        "  hint      RNN has no cell state: pass h alone, a tensor",
    ),
    "state-is-a-list": (
        lambda: lstm()(X, ([0.0], zeros(1, B, H))),
        DtypeError,
        "LSTM: hx[0], h, is not a tensor\n"
        "  got       hx[0]: list of 1\n"
        "  expected  a torch.Tensor\n"
        "  hint      use torch.as_tensor",
    ),
    "state-of-other-layers": (
        lambda: lstm(num_layers=2, bidirectional=True)(X, HC),
        ShapeError,
        "LSTM: hx[0], h, has 1 on its first axis, expected 4\n"
        "  got       hx[0]: float32[1, 3, 5], x: float32[6, 3, 4]  (batch_first=False: [T, B, I])\n"
        "  expected  [4, 3, 5] = [L*D, B, R]\n"
        "  hint      give one state to each layer and direction: L*D is num_layers, twice that if bidirectional",
    ),
    "state-batch-first": (
        lambda: lstm(batch_first=True)(zeros(B, T, I), (zeros(B, 1, H), zeros(B, 1, H))),
        ShapeError,
        "LSTM: hx[0], h, has 3 on its first axis, expected 1\n"
        "  got       hx[0]: float32[3, 1, 5], x: float32[3, 6, 4]  (batch_first=True: [B, T, I])\n"
        "  expected  [1, 3, 5] = [L*D, B, R]\n"
        "  hint      its first two axes are swapped, use transpose(0, 1): states are [L*D, B, .] also with batch_first",
    ),
    "state-shows-swapped-x": (
        lambda: lstm()(zeros(B, T, I), HC),
        ShapeError,
        "LSTM: hx[0], h, has 3 rows, x has 6\n"
        "  got       hx[0]: float32[1, 3, 5], x: float32[3, 6, 4]  (batch_first=False: [T, B, I])\n"
        "  expected  [1, 6, 5] = [L*D, B, R]\n"
        "  hint      batch and time are swapped: 3 is x's time axis; use batch_first=True, or x.transpose(0, 1)",
    ),
    "state-shows-swapped-x-batch-first": (
        lambda: lstm(batch_first=True)(X, HC),
        ShapeError,
        "LSTM: hx[0], h, has 3 rows, x has 6\n"
        "  got       hx[0]: float32[1, 3, 5], x: float32[6, 3, 4]  (batch_first=True: [B, T, I])\n"
        "  expected  [1, 6, 5] = [L*D, B, R]\n"
        "  hint      batch and time are swapped: 3 is x's time axis; use batch_first=False, or x.transpose(0, 1)",
    ),
    "state-rows": (
        lambda: RNN(I, H)(X, zeros(1, 2, H)),
        ShapeError,
        "RNN: hx has 2 rows, x has 3\n"
        "  got       hx: float32[1, 2, 5], x: float32[6, 3, 4]  (batch_first=False: [T, B, I])\n"
        "  expected  [1, 3, 5] = [L*D, B, R]\n"
        "  hint      give one state to each row of x",
    ),
    "state-units": (
        lambda: lstm(proj_size=2)(X, HC),
        ShapeError,
        "LSTM: hx[0], h, has 5 units, expected 2\n"
        "  got       hx[0]: float32[1, 3, 5], x: float32[6, 3, 4]  (batch_first=False: [T, B, I])\n"
        "  expected  [1, 3, 2] = [L*D, B, R]\n"
        "  hint      h has proj_size units where there is a projection, c always has hidden_size",
    ),
    "cell-units": (
        lambda: lstm(proj_size=2)(X, (zeros(1, B, 2), zeros(1, B, 2))),
        ShapeError,
        "LSTM: hx[1], c, has 2 units, expected 5\n"
        "  got       hx[1]: float32[1, 3, 2], x: float32[6, 3, 4]  (batch_first=False: [T, B, I])\n"
        "  expected  [1, 3, 5] = [L*D, B, H]\n"
        "  hint      h has proj_size units where there is a projection, c always has hidden_size",
    ),
    "state-without-layers": (
        lambda: lstm()(X, (zeros(B, H), zeros(B, H))),
        ShapeError,
        "LSTM: hx[0], h, has 2 axes, expected 3\n"
        "  got       hx[0]: float32[3, 5], x: float32[6, 3, 4]  (batch_first=False: [T, B, I])\n"
        "  expected  [1, 3, 5] = [L*D, B, R]\n"
        "  hint      states keep the axis of layers: unsqueeze(0) adds it",
    ),
    "batched-state-unbatched-x": (
        lambda: lstm()(zeros(T, I), HC),
        ShapeError,
        "LSTM: hx[0], h, has 3 axes, expected 2\n"
        "  got       hx[0]: float32[1, 3, 5], x: float32[6, 4]  (batch_first=False: [T, I])\n"
        "  expected  [1, 5] = [L*D, R]\n"
        "  hint      unbatched x takes states without a batch axis",
    ),
    "state-dtype": (
        lambda: lstm()(X, (zeros(1, B, H).double(), zeros(1, B, H))),
        DtypeError,
        "LSTM: hx[0], h, differs from x in dtype or device\n"
        "  got       hx[0]: float64[1, 3, 5] on cpu, x: float32[6, 3, 4] on cpu\n"
        "  expected  float32 on cpu\n"
        "  hint      use hx[0].to(x)",
    ),
    "lengths-of-words": (
        lambda: lstm()(X, lengths=["a", "b", "c"]),
        DtypeError,
        "LSTM: lengths are not integers\n"
        "  got       lengths: list of 3\n"
        "  expected  int64 [B]\n"
        "  hint      pass a list of integers or a tensor",
    ),
    "lengths-of-floats": (
        lambda: lstm()(X, lengths=zeros(B)),
        DtypeError,
        "LSTM: lengths are not integers\n"
        "  got       lengths: float32[3]\n"
        "  expected  int64 [B]\n"
        "  hint      use lengths.long()",
    ),
    "lengths-shape": (
        lambda: lstm()(X, lengths=[1, 2]),
        ShapeError,
        "LSTM: lengths has shape [2], x has 3 rows\n"
        "  got       lengths: int64[2], x: float32[6, 3, 4]  (batch_first=False: [T, B, I])\n"
        "  expected  [3] = [B]\n"
        "  hint      give one length to each row of x",
    ),
    "lengths-show-swapped-x": (
        lambda: lstm()(zeros(B, T, I), lengths=[1, 2, 3]),
        ShapeError,
        "LSTM: lengths has shape [3], x has 6 rows\n"
        "  got       lengths: int64[3], x: float32[3, 6, 4]  (batch_first=False: [T, B, I])\n"
        "  expected  [6] = [B]\n"
        "  hint      batch and time are swapped: 3 is x's time axis; use batch_first=True, or x.transpose(0, 1)",
    ),
    "lengths-unbatched": (
        lambda: lstm()(zeros(T, I), lengths=[3]),
        ShapeError,
        "LSTM: lengths has shape [1], x has 1 rows\n"
        "  got       lengths: int64[1], x: float32[6, 4]  (batch_first=False: [T, I])\n"
        "  expected  []\n"
        "  hint      unbatched x takes one number",
    ),
    "lengths-too-long": (
        lambda: RNN(I, H)(X, lengths=[1, 7, 6]),
        ArgumentError,
        "RNN: lengths[1] is 7, but x has 6 steps\n"
        "  got       lengths[1] = 7  (x: float32[6, 3, 4], [T, B, I])\n"
        "  expected  0 <= lengths <= 6\n"
        "  hint      cut lengths at T, or pad x to the longest row",
    ),
    "lengths-negative": (
        lambda: lstm()(zeros(T, 9, I), lengths=[1, 2, -1, 4, 5, 6, 1, 2, 3]),
        ArgumentError,
        "LSTM: lengths[2] is -1, but x has 6 steps\n"
        "  got       lengths[2] = -1  (x: float32[6, 9, 4], [T, B, I])\n"
        "  expected  0 <= lengths <= 6\n"
        "  hint      a row without a step has length 0",
    ),
    "lengths-and-packed": (
        lambda: lstm()(torch.nn.utils.rnn.pack_sequence([zeros(3, I), zeros(2, I)]), lengths=[3, 2]),
        ArgumentError,
        "LSTM: lengths with a PackedSequence\n"
        "  got       lengths: list of 2\n"
        "  expected  one of the two\n"
        "  hint      leave lengths out, or pass the padded tensor",
    ),
    "reset-is-a-list": (
        lambda: lstm()(X, reset=[True] * T),
        DtypeError,
        "LSTM: reset is not a tensor\n"
        "  got       reset: list of 6\n"
        "  expected  a torch.Tensor\n"
        "  hint      use torch.as_tensor",
    ),
    "reset-dtype": (
        lambda: lstm()(X, reset=zeros(T, B).long()),
        DtypeError,
        "LSTM: reset is not a mask\n"
        "  got       reset: int64[6, 3]\n"
        "  expected  bool, or 0 and 1 in uint8 or float; 1 where a new sequence begins\n"
        "  hint      use reset.bool()",
    ),
    "reset-swapped": (
        lambda: lstm(batch_first=True)(zeros(B, T, I), reset=zeros(T, B).bool()),
        ShapeError,
        "LSTM: reset has shape [6, 3], expected [3, 6]\n"
        "  got       reset: bool[6, 3], x: float32[3, 6, 4]  (batch_first=True: [B, T, I])\n"
        "  expected  [3, 6] = [B, T]\n"
        "  hint      batch and time are swapped: use reset.T, or check batch_first; reset is [B, T] like x",
    ),
    "reset-shape": (
        lambda: lstm()(X, reset=zeros(T).bool()),
        ShapeError,
        "LSTM: reset has shape [6], expected [6, 3]\n"
        "  got       reset: bool[6], x: float32[6, 3, 4]  (batch_first=False: [T, B, I])\n"
        "  expected  [6, 3] = [T, B]\n"
        "  hint      give one value to each step of each row: the axes of x without the last",
    ),
    "reset-state-alone": (
        lambda: lstm()(X, reset_state=HC),
        ArgumentError,
        "LSTM: reset_state without reset\n"
        "  got       reset: None\n"
        "  expected  both, or neither\n"
        "  hint      pass reset=, a bool tensor that is true where a state begins anew",
    ),
    "reset-state-shape": (
        lambda: RNN(I, H)(X, reset=zeros(T, B).bool(), reset_state=zeros(1, B, 2)),
        ShapeError,
        "RNN: reset_state has 2 units, expected 5\n"
        "  got       reset_state: float32[1, 3, 2], x: float32[6, 3, 4]  (batch_first=False: [T, B, I])\n"
        "  expected  [1, 3, 5] = [L*D, B, R]\n"
        "  hint      h has proj_size units where there is a projection, c always has hidden_size",
    ),
    "reset-numbers": (
        lambda: lstm()(X, reset=zeros(T, B) + 0.5),
        ArgumentError,
        "LSTM: reset holds more than 0 and 1\n"
        "  got       reset: float32[6, 3]\n"
        "  expected  0 and 1, or bool\n"
        "  hint      compare first: reset > 0.5",
    ),
    "reset-state-for-every-step": (
        lambda: lstm()(X, reset=zeros(T, B).bool(), reset_state=(zeros(1, T, 2, H), zeros(1, T, B, H))),
        ShapeError,
        "LSTM: reset_state[0], h, has shape [1, 6, 2, 5], expected [1, 6, 3, 5]\n"
        "  got       reset_state[0]: float32[1, 6, 2, 5], x: float32[6, 3, 4]  (batch_first=False: [T, B, I])\n"
        "  expected  [1, 6, 3, 5] = [L*D, T, B, R]\n"
        "  hint      a state for every step has the axes of x between those of layers and units",
    ),
    "learned-state-of-the-wrong-size": (
        lambda: lstm()(X, reset=zeros(T, B).bool(), reset_state=(zeros(1, 2), zeros(1, H))),
        ShapeError,
        "LSTM: reset_state[0], h, has 2 units, expected 5\n"
        "  got       reset_state[0]: float32[1, 3, 2], x: float32[6, 3, 4]  (batch_first=False: [T, B, I])\n"
        "  expected  [1, 3, 5] = [L*D, B, R]\n"
        "  hint      h has proj_size units where there is a projection, c always has hidden_size",
    ),
    "lengths-device": (
        lambda: lstm()(X, lengths=torch.tensor([1, 2, 3], device="meta")),
        ArgumentError,
        "LSTM: lengths are on another device\n"
        "  got       lengths on meta, x on cpu\n"
        "  expected  cpu\n"
        "  hint      use lengths.to(x.device), or keep them on the CPU",
    ),
    "cu-seqlens-fall": (
        lambda: lstm()(X[:, 0], cu_seqlens=[0, 4, 2, 6]),
        ArgumentError,
        "LSTM: cu_seqlens fall from 4 to 2 at 2\n"
        "  got       cu_seqlens: int64[4], x: float32[6, 4]\n"
        "  expected  numbers that never fall\n"
        "  hint      torch.nn.functional.pad(lengths.cumsum(0), (1, 0)) makes them from lengths",
    ),
    "cu-seqlens-end": (
        lambda: lstm()(X[:, 0], cu_seqlens=torch.tensor([0, 4])),
        ArgumentError,
        "LSTM: cu_seqlens go from 0 to 4, x has 6 steps\n"
        "  got       cu_seqlens: int64[2], x: float32[6, 4]\n"
        "  expected  from 0 to 6\n"
        "  hint      torch.nn.functional.pad(lengths.cumsum(0), (1, 0)) makes them from lengths",
    ),
    "cu-seqlens-shape": (
        lambda: lstm()(X[:, 0], cu_seqlens=torch.tensor(6)),
        ShapeError,
        "LSTM: cu_seqlens has shape []\n"
        "  got       cu_seqlens: int64[], x: float32[6, 4]\n"
        "  expected  [N+1]\n"
        "  hint      0, then where each sequence ends: N+1 numbers",
    ),
    "cu-seqlens-of-floats": (
        lambda: lstm()(X[:, 0], cu_seqlens=torch.tensor([0.0, 6.0])),
        DtypeError,
        "LSTM: cu_seqlens are not integers\n"
        "  got       cu_seqlens: float32[2], x: float32[6, 4]\n"
        "  expected  int64 [N+1]\n"
        "  hint      use cu_seqlens.long()",
    ),
    "cu-seqlens-of-words": (
        lambda: lstm()(X[:, 0], cu_seqlens=["a"]),
        DtypeError,
        "LSTM: cu_seqlens are not integers\n"
        "  got       cu_seqlens: list of 1\n"
        "  expected  int64 [N+1]\n"
        "  hint      pass a list of integers or a tensor",
    ),
    "cu-seqlens-device": (
        lambda: lstm()(X[:, 0], cu_seqlens=torch.tensor([0, 6], device="meta")),
        ArgumentError,
        "LSTM: cu_seqlens are on another device\n"
        "  got       cu_seqlens on meta, x on cpu\n"
        "  expected  cpu\n"
        "  hint      use cu_seqlens.to(x.device), or keep them on the CPU",
    ),
    "cu-seqlens-of-a-padded-batch": (
        lambda: lstm()(X, cu_seqlens=[0, 6]),
        ShapeError,
        "LSTM: x has 3 axes\n"
        "  got       x: float32[6, 3, 4]\n"
        "  expected  [total, I] with cu_seqlens\n"
        "  hint      put the sequences one behind the other: torch.cat(sequences)",
    ),
    "cu-seqlens-and-lengths": (
        lambda: lstm()(X[:, 0], cu_seqlens=[0, 6], lengths=[6]),
        ArgumentError,
        "LSTM: lengths with cu_seqlens\n"
        "  got       lengths: list of 1\n"
        "  expected  one of the two\n"
        "  hint      leave lengths out: cu_seqlens says how long each sequence is",
    ),
    "cu-seqlens-and-packed": (
        lambda: lstm()(torch.nn.utils.rnn.pack_sequence([zeros(3, I), zeros(2, I)]), cu_seqlens=[0, 3, 5]),
        ArgumentError,
        "LSTM: cu_seqlens with a PackedSequence\n"
        "  got       cu_seqlens: list of 3\n"
        "  expected  one of the two\n"
        "  hint      leave cu_seqlens out, or pass the packed tensor",
    ),
    "cu-seqlens-state": (
        lambda: lstm()(X[:, 0], HC, cu_seqlens=[0, 6]),
        ShapeError,
        "LSTM: hx[0], h, has 3 rows, there are 1\n"
        "  got       hx[0]: float32[1, 3, 5], cu_seqlens: 1 sequence\n"
        "  expected  [1, 1, 5] = [L*D, N, R]\n"
        "  hint      give one state to each sequence",
    ),
    "cu-seqlens-reset": (
        lambda: lstm()(X[:, 0], cu_seqlens=[0, 6], reset=zeros(3).bool()),
        ShapeError,
        "LSTM: reset has shape [3], expected [6]\n"
        "  got       reset: bool[3], x: float32[6, 4]\n"
        "  expected  [6] = [total]\n"
        "  hint      give one value to each step of x [total, I]",
    ),
    "cu-seqlens-states-for-every-step": (
        lambda: RNN(I, H)(X[:, 0], cu_seqlens=[0, 6], reset=zeros(6).bool(), reset_state=zeros(1, 6, 1, H)),
        ArgumentError,
        "RNN: reset_state for every step with cu_seqlens\n"
        "  got       reset_state: float32[1, 6, 1, 5]\n"
        "  expected  [L*D, N, .] or [L*D, .]\n"
        "  hint      pad x and pass lengths to give every reset a state of its own",
    ),
    "full-gate-state": (
        lambda: LSTM(I, H, cell=cells.FGR())(X, HC),
        ShapeError,
        "LSTM: hx[0], h, has 5 units, expected 20\n"
        "  got       hx[0]: float32[1, 3, 5], x: float32[6, 3, 4]  (batch_first=False: [T, B, I])\n"
        "  expected  [1, 3, 20] = [L*D, B, R]\n"
        "  hint      FGR feeds its gates back: h is (h, i, f, o), 4 * hidden_size units; zeros begin with closed gates",
    ),
    "projection-of-gates": (
        lambda: LSTM(I, H, proj_size=2, cell=cells.FGR()),
        ArgumentError,
        "FGR: cannot be projected: it feeds its gates back\n"
        "  got       proj_size=2\n"
        "  expected  proj_size=0\n"
        "  hint      take proj_size=0, or cells.Peephole(), which feeds back its output alone",
    ),
    "memory-blocks": (
        lambda: LSTM(I, H, cell=cells.LSTM(cells_per_gate=2)),
        ArgumentError,
        "LSTM: hidden_size 5 is not made of blocks of 2\n"
        "  got       hidden_size=5\n"
        "  expected  a multiple of cells_per_gate=2\n"
        "  hint      take hidden_size=4, or another cells_per_gate",
    ),
    "zoneout-of-no-cell": (
        lambda: GRU(I, H, zoneout_c=0.1),
        ArgumentError,
        "GRU: zoneout_c without a cell state\n"
        "  got       zoneout_c: 0.1, cell: GRU()\n"
        "  expected  zoneout_c=0\n"
        "  hint      use zoneout_h, which acts on the state that it has",
    ),
    "recurrent-dropout-of-no-candidate": (
        lambda: RNN(I, H, recurrent_dropout=0.1),
        ArgumentError,
        "RNN: recurrent_dropout without a candidate\n"
        "  got       recurrent_dropout: 0.1, cell: VanillaRNN()\n"
        "  expected  recurrent_dropout=0\n"
        "  hint      use hidden_dropout, which acts on what is fed back",
    ),
    "rate-of-zoneout": (
        lambda: lstm(zoneout_h=-0.1),
        ArgumentError,
        "LSTM: zoneout_h is -0.1\n"
        "  got       zoneout_h: float -0.1\n"
        "  expected  a number from 0 to 1\n"
        "  hint      it is the share of units that keep their old value: 0.2 for one in five",
    ),
    "rate-of-dropped-weights": (
        lambda: lstm(weight_dropout="half"),
        ArgumentError,
        "LSTM: weight_dropout is 'half'\n"
        "  got       weight_dropout: str 'half'\n"
        "  expected  a number from 0 to 1\n"
        "  hint      it is the share of weights that is set to zero: 0.2 for one in five",
    ),
    "class-of-a-cell": (
        lambda: LSTM(I, H, cell=cells.Peephole),  # type: ignore[arg-type]
        DtypeError,
        "LSTM: cell is not a cell\n"
        "  got       cell: the class Peephole\n"
        "  expected  a cell with a cell state\n"
        "  hint      make one: Peephole()",
    ),
    "no-cell": (
        lambda: RNN(I, H, cell="gru"),  # type: ignore[arg-type]
        DtypeError,
        "RNN: cell is not a cell\n"
        "  got       cell: str 'gru'\n"
        "  expected  a cell without a cell state\n"
        "  hint      use one of openlstm.cells, or a subclass of openlstm.cells.Cell",
    ),
    "cell-of-another-layer": (
        lambda: GRU(I, H, cell=cells.CIFG(peephole=False)),
        ArgumentError,
        "GRU: cannot run this cell\n"
        "  got       cell: CIFG(peephole=False)\n"
        "  expected  a cell without a cell state\n"
        "  hint      openlstm.LSTM runs the cells with one",
    ),
    "input-size": (
        lambda: LSTM(2.5, H),  # type: ignore[arg-type]
        DtypeError,
        "LSTM: input_size is not an integer\n"
        "  got       input_size: float 2.5\n"
        "  expected  an integer >= 1\n"
        "  hint      use input_size=int(...)",
    ),
    "no-layers": (
        lambda: RNN(I, H, num_layers=0),
        ArgumentError,
        "RNN: num_layers is 0\n"
        "  got       num_layers: int 0\n"
        "  expected  an integer >= 1\n"
        "  hint      use num_layers=1 or more",
    ),
    "projection": (
        lambda: LSTM(I, H, proj_size=H),
        ArgumentError,
        "LSTM: proj_size is 5, hidden_size is 5\n"
        "  got       proj_size: 5\n"
        "  expected  proj_size < hidden_size\n"
        "  hint      use proj_size=0 for no projection",
    ),
    "bias": (
        lambda: LSTM(I, H, bias=1),  # type: ignore[arg-type]
        DtypeError,
        "LSTM: bias is not a bool\n  got       bias: int 1\n  expected  True or False\n  hint      use bias=bool(...)",
    ),
    "dropout": (
        lambda: LSTM(I, H, dropout=20),
        ArgumentError,
        "LSTM: dropout is 20\n"
        "  got       dropout: int 20\n"
        "  expected  a number from 0 to 1\n"
        "  hint      it is the share of outputs that is set to zero: 0.2 for one in five",
    ),
    "cell": (
        lambda: LSTM(I, H, cell=openlstm.cells.VanillaRNN()),
        ArgumentError,
        "LSTM: cannot run this cell\n"
        "  got       cell: VanillaRNN()\n"
        "  expected  a cell with a cell state\n"
        "  hint      openlstm.RNN runs the cells without a cell state",
    ),
    "nonlinearity": (
        lambda: RNN(I, H, nonlinearity="sigmoid"),
        ArgumentError,
        "VanillaRNN: unknown nonlinearity 'sigmoid'\n"
        "  got       'sigmoid'\n"
        "  expected  'tanh' or 'relu'\n"
        "  hint      pass nonlinearity='tanh'",
    ),
}


@pytest.mark.parametrize("name", list(CASES))
def test_the_error_says_who_what_got_expected_and_the_fix(name: str) -> None:
    call, kind, text = CASES[name]
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == text
    assert isinstance(error.value, openlstm.errors.OpenLSTMError)


@pytest.mark.parametrize("backend", BACKENDS)
def test_not_finite_is_refused_only_where_it_is_read(backend: str) -> None:
    layer, x = LSTM(I, H, check_finite=True, backend=backend), X.clone()
    x[3:, 1] = float("inf")
    assert layer(x, lengths=[6, 3, 6])[0].isfinite().all()
    with pytest.raises(ArgumentError, match="x holds inf at step 3, row 1, feature 0"):
        layer(x)
    with torch.no_grad(), pytest.raises(ArgumentError, match="x holds inf at step 3, row 1, feature 0"):
        layer(x)
    free = LSTM(I, H, backend=backend)
    assert free(x)[0][:, [0, 2]].isfinite().all()  # rows are independent


def zero(kind: str, *shape: int, dtype: Any = None) -> Any:
    """A state of zeros in the form of a kind of layer or cell."""
    s = zeros(*shape, dtype=dtype)
    return (s, s) if kind.startswith("LSTM") else s


LAYER_MISTAKES: dict[str, Callable[[Any, str], Any]] = {  # (the layer of torch.nn or ours, its kind)
    "features": lambda make, _: make(I, H)(zeros(T, B, 7)),
    "one axis": lambda make, _: make(I, H)(zeros(I)),
    "four axes": lambda make, _: make(I, H)(zeros(1, T, B, I)),
    "float64": lambda make, _: make(I, H)(X.double()),
    "tokens": lambda make, _: make(I, H)(X.long()),
    "another device": lambda make, _: make(I, H)(X.to("meta")),
    "rows of the state": lambda make, kind: make(I, H)(X, zero(kind, 1, B + 1, H)),
    "layers of the state": lambda make, kind: make(I, H)(X, zero(kind, 2, B, H)),
    "units of the state": lambda make, kind: make(I, H)(X, zero(kind, 1, B, H + 1)),
    "axes of the state": lambda make, kind: make(I, H)(X, zero(kind, B, H)),
    "a batch axis too many": lambda make, kind: make(I, H)(X[:, 0], zero(kind, 1, 1, H)),
    "state in float64": lambda make, kind: make(I, H)(X, zero(kind, 1, B, H, dtype=torch.float64)),
    "no units": lambda make, _: make(I, 0),
    "fewer than no units": lambda make, _: make(I, -1),
    "half a unit": lambda make, _: make(I, 5.0),
    "no layers": lambda make, _: make(I, H, 0),
    "no features": lambda make, _: make(0, H),
    "dropout of 2": lambda make, _: make(I, H, 2, dropout=2),
    "dropout of True": lambda make, _: make(I, H, 2, dropout=True),
    "a wide projection": lambda make, _: make(I, H, proj_size=H),
    "bias of 1": lambda make, _: make(I, H, bias=1),
    "an unknown argument": lambda make, _: make(I, H, what=1),
    "weights of another size": lambda make, _: make(I, H).load_state_dict(make(I, H + 1).state_dict()),
}
CELL_MISTAKES: dict[str, Callable[[Any, str], Any]] = {
    "features": lambda make, _: make(I, H)(zeros(B, 7)),
    "three axes": lambda make, _: make(I, H)(X),
    "float64": lambda make, _: make(I, H)(zeros(B, I).double()),
    "rows of the state": lambda make, kind: make(I, H)(zeros(B, I), zero(kind, B + 1, H)),
    "one row for all": lambda make, kind: make(I, H)(zeros(B, I), zero(kind, 1, H)),
    "units of the state": lambda make, kind: make(I, H)(zeros(B, I), zero(kind, B, H + 1)),
    "state in float64": lambda make, kind: make(I, H)(zeros(B, I), zero(kind, B, H, dtype=torch.float64)),
    "fewer than no units": lambda make, _: make(I, -1),
    "half a unit": lambda make, _: make(I, 5.0),
}
MISTAKES = [(kind, name, call) for kind in ("LSTM", "GRU", "RNN") for name, call in LAYER_MISTAKES.items()]
MISTAKES += [(kind, name, call) for kind in ("LSTMCell", "GRUCell", "RNNCell") for name, call in CELL_MISTAKES.items()]
MISTAKES += [("RNN", "nonlinearity", lambda make, _: make(I, H, nonlinearity="sigmoid"))]
MISTAKES += [("RNNCell", "nonlinearity", lambda make, _: make(I, H, nonlinearity="sigmoid")(zeros(B, I)))]


@pytest.mark.parametrize(("kind", "name", "call"), MISTAKES, ids=[f"{kind}-{name}" for kind, name, _ in MISTAKES])
def test_what_catches_the_error_of_torch_catches_ours(kind: str, name: str, call: Callable[[Any, str], Any]) -> None:
    with pytest.raises(Exception) as theirs:
        call(getattr(torch.nn, kind), kind)
    assert theirs.type in (RuntimeError, ValueError, TypeError)
    with pytest.raises(theirs.type):
        call(getattr(openlstm, kind), kind)
