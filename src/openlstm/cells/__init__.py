"""The one definition of every cell: its equations, its gates, its paper. One file a family.

Legend: T time, B batch, I input size, H hidden size, P projected size, R what is fed back (P with a projection, 4H for FGR,
else H), G gates of a cell. `z` is a pre-activation, `i f g o` are activated gates, `h c` is the state, `p` are peepholes, `dX`
is the gradient of the loss with respect to X. The order of gates is i, f, g, o everywhere.

A cell owns only what is different about it: the map from (z, c) to (h', c') and its derivative. The sums

    z = x W_ih^T + b_ih + h W_hh^T + b_hh                                                       # [B, G*H]

(in which a unit sees all of h, its own head, itself, or nothing of it: `Cell.recurrence`), the loop over time, lengths, resets,
noise and projection belong to `reference.py` and to the engine, which read the traits below.

A cell of your own needs four lines of traits and `forward`; it runs wherever a cell does, slower, on the reference:

>>> class Leaky(Cell):
...     \"\"\"c' = f c + (1 - f) g;  h' = c'.\"\"\"
...     name, gates, saved, has_cell = "leaky", ("f", "g"), ("f", "g"), True
...     def forward(self, z, before, w_ch=None, mask=None):
...         z_f, z_g = split(z, 2)
...         f, g = sigmoid(z_f), tanh(z_g)
...         c = f * before.c + (1 - f) * g
...         return Step((f, g), c, c)
>>> import numpy as np
>>> Leaky()(np.zeros((1, 2)), State(np.zeros((1, 1)), np.ones((1, 1)))).h.tolist()
[[0.5]]

It may carry more states than c: `states` names them, and `State.c` holds them side by side:

>>> class Mean(Cell):
...     \"\"\"c' = c + g;  n' = n + 1;  h' = c' / n': the mean of what came in, without a product with h.\"\"\"
...     name, gates, saved, has_cell = "mean", ("g",), ("g",), True
...     states, recurrence = ("c", "n"), "none"
...     def forward(self, z, before, w_ch=None, mask=None):
...         c, n = split(before.c, 2)
...         c, n = c + tanh(z), n + 1
...         return Step((tanh(z),), c / n, concat([c, n]))
>>> Mean()(np.ones((1, 1)), State(np.zeros((1, 1)), np.array([[0.0, 3.0]]))).c.round(2).tolist()
[[0.76, 4.0]]
"""

from __future__ import annotations

from openlstm._array import concat as concat
from openlstm._array import exp as exp
from openlstm._array import log as log
from openlstm._array import logsigmoid as logsigmoid
from openlstm._array import maximum as maximum
from openlstm._array import minimum as minimum
from openlstm._array import relu as relu
from openlstm._array import sigmoid as sigmoid
from openlstm._array import softplus as softplus
from openlstm._array import split as split
from openlstm._array import tanh as tanh
from openlstm._array import where as where
from openlstm.cells.base import Cell as Cell
from openlstm.cells.base import State as State
from openlstm.cells.base import Step as Step
from openlstm.cells.base import StepGradients as StepGradients
from openlstm.cells.base import StepInputs as StepInputs
from openlstm.cells.base import clamp as clamp
from openlstm.cells.base import joined as joined
from openlstm.cells.base import named_states as named_states
from openlstm.cells.base import parted as parted
from openlstm.cells.gru import GRU
from openlstm.cells.layer_norm import NORM_EPS as NORM_EPS
from openlstm.cells.layer_norm import LayerNormLSTM
from openlstm.cells.lstm import LSTM, LSTM1997, Peephole
from openlstm.cells.minimal import JANET, MinGRU, MinLSTM
from openlstm.cells.rnn import IndRNN, VanillaRNN
from openlstm.cells.slstm import SLSTM
from openlstm.cells.variants import CIFG, FGR, NFG, NIAF, NIG, NOAF, NOG

BY_NAME: dict[str, Cell] = {
    "lstm": LSTM(),
    "peephole": Peephole(),
    "nig": NIG(),
    "nig_np": NIG(peephole=False),
    "nfg": NFG(),
    "nfg_np": NFG(peephole=False),
    "nog": NOG(),
    "nog_np": NOG(peephole=False),
    "niaf": NIAF(),
    "niaf_np": NIAF(peephole=False),
    "noaf": NOAF(),
    "noaf_np": NOAF(peephole=False),
    "cifg": CIFG(),
    "cifg_np": CIFG(peephole=False),
    "fgr": FGR(),
    "lstm1997": LSTM1997(),
    "lstm_ln": LayerNormLSTM(),
    "gru": GRU(),
    "rnn_tanh": VanillaRNN("tanh"),
    "rnn_relu": VanillaRNN("relu"),
    "slstm": SLSTM(),
    "mingru": MinGRU(),
    "minlstm": MinLSTM(),
    "janet": JANET(),
    "indrnn_tanh": IndRNN("tanh"),
    "indrnn_relu": IndRNN("relu"),
}
"""Every cell of this package under the name by which a model file calls it. Such a name stays for ever: the name of a kernel or
the order may change, these may not."""

ALL: tuple[Cell, ...] = tuple(BY_NAME.values())
"""The same, once each: the conformance suite runs over this list."""
