"""`Call`: one run of a cell over a sequence: which cell, over which arrays, and how.

It is made once, where a layer or `recur` is entered, checked once (`engine/check.py`), and handed down whole: the reference,
every backend, the derivatives, what runs in chunks and what records all take it.

Legend: T time, B batch, I input size, H hidden size, P projected size, R what is fed back (P with a projection, 4H for FGR,
else H), C the cell states side by side (H for each of `Cell.states`), G gates of a cell.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from openlstm.cells import Cell, State
from openlstm.noise import Noise, active
from openlstm.weights import Weights

_LAYERS = {"gru": "GRU"}


class Call(NamedTuple):
    """One layer in one direction.

    Over what:
        x: [T, B, I]; [T, B, G*H], the sums of W_ih x, where there is no w_ih.
        weights: those of the cell.
        state: the carried-in state, h [B, R] and c [B, C].
        lengths: integers [B]; a row ends after that many steps. Its outputs beyond are 0 and its x there is never read.
        reset: bool [T, B]; where true the row's state becomes `reset_state` (zero if None) between t-1 and t.
        reset_state: h [B, R] and c [B, C], or one for every step, h [T, B, R] and c [T, B, C].
        reverse: run from each row's last real step to its first.
        noise: zoneout, recurrent and locked dropout; what a reset put there is what zoneout keeps.
        window: (first, last): the steps first <= t < last alone, from `state`; results hold these.

    How:
        backend: "auto" or a key of `engine.SUPPORT`.
        save: keep gates and cell states.
        checkpoint: steps between two states that are kept for the backward pass; 0 keeps everything.
        check_finite: refuse NaN and infinity in x.
        autocast: whether torch.autocast acts on it.
        bfloat16: make the products of a float32 x in bfloat16; y is float32 all the same.
        differentiable: what is saved carries gradients too, by plain torch operations.
        edits: changes of gates or states (`engine/edits.py`).

    >>> import numpy as np
    >>> from openlstm.cells import LSTM
    >>> call = Call(LSTM(), np.zeros((5, 1, 3)), Weights(np.zeros((8, 3)), np.zeros((8, 2))))
    >>> call.simple, call._replace(reverse=True).simple
    (True, False)
    """

    cell: Cell
    x: Any
    weights: Weights
    state: Any = None  # a State; None only on the way in, for zeros
    lengths: Any = None
    reset: Any = None
    reset_state: State | None = None
    reverse: bool = False
    noise: Noise | None = None
    window: tuple[int, int] | None = None
    backend: str = "auto"
    save: bool = False
    checkpoint: int = 0
    check_finite: bool = False
    autocast: bool = True
    bfloat16: bool = False
    differentiable: bool = False
    edits: tuple[Any, ...] = ()

    @property
    def simple(self) -> bool:
        """Whether nothing unusual is asked for: a dense batch, forwards, through a kernel that knows it without more.

        This is the one list of what is unusual; whoever adds a field to a call adds it here.
        """
        cell, _, w, _, lengths, reset, _, reverse, noise, window = self[:10]
        _, save, checkpoint, finite, _, narrow, differentiable, edits = self[10:]
        return (
            not (reverse or save or checkpoint or finite or narrow or differentiable or edits)
            and lengths is reset is noise is window is w[4] is w[5] is w[6] is None  # w_hr, w_ch, norm
            and cell.cells_per_gate == 1
            and len(cell.feeds_back) == 1
            and cell.kernel != ""
        )

    @property
    def who(self) -> str:
        """The layer that an error speaks of."""
        return _LAYERS.get(self.cell.name, "LSTM" if self.cell.has_cell else "RNN")

    @property
    def noisy(self) -> bool:
        """Whether something of `noise` acts."""
        return active(self.noise) is not None

    @property
    def steps(self) -> tuple[int, int]:
        """The first step, and one past the last."""
        return self.window or (0, self.x.shape[0])

    def each(self, change: Any) -> Call:
        """The same call with `change(array)` for x, every weight, every state and the mask of what is fed back.

        Lengths and resets stay: they are no numbers.
        """

        def group(g: Any) -> Any:
            return None if g is None else type(g)(*[None if a is None else change(a) for a in g])

        noise = self.noise
        if noise is not None and noise.hidden is not None:
            noise = noise._replace(hidden=change(noise.hidden))
        return self._replace(
            x=change(self.x),
            weights=group(self.weights),
            state=group(self.state),
            reset_state=group(self.reset_state),
            noise=noise,
        )
