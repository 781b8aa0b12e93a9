"""`Stack`: recurrent layers on top of each other as plain arrays, which stands between every format and our layers.

Legend: I input size, H hidden size, P projected size, R what is fed back, G gates of a cell, L layers, D directions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from openlstm import weights as layout
from openlstm.cells import GRU, Cell
from openlstm.engine.backends.table import brief
from openlstm.errors import DtypeError, ShapeError, describe
from openlstm.weights import Weights

if TYPE_CHECKING:
    from torch import nn

FLOATS = ("float16", "float32", "float64")
"""The types of numbers that a layer holds; a reader turns bfloat16, which numpy has not, into float32."""


CELL = "one step (a cell); here it runs over sequences"
WIDENED = "its numbers are bfloat16; here the same ones are in float32"
"""Notes of a layer that was a cell, and of one whose numbers numpy has no type for."""


@dataclass(frozen=True)
class Stack:
    """L recurrent layers of one cell in one or two directions, in numpy arrays and in our order of gates.

    Args:
        name: where it stands in its file: a node's name, the prefix of a state dict.
        cell: the recurrence.
        weights: [layer][direction]; all layers have biases, or none has. `w_ih` of the first layer is None where x holds the
            sums of W_ih x.
        batch_first: x is [B, T, I] instead of [T, B, I].
        reverse: the one direction there is goes from the last step to the first.
        notes: what a reader of the layer wants to know.

    Raises:
        DtypeError: for numbers that are no floats, or floats of different widths.
        ShapeError: for an array that does not fit the others.

    >>> import numpy as np
    >>> from openlstm.cells import LSTM
    >>> stack = Stack("encoder", LSTM(), ((Weights(np.zeros((8, 3), np.float32), np.zeros((8, 2), np.float32)),),))
    >>> stack.input_size, stack.hidden_size, stack.layers, stack.bias
    (3, 2, 1, False)
    >>> stack.layer()
    LSTM(3, 2, bias=False)
    """

    name: str
    cell: Cell
    weights: tuple[tuple[Weights, ...], ...]
    batch_first: bool = False
    reverse: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        who = self.name or type(self.cell).__name__
        flat = [describe(a) for w in self._all for a in (w.w_ih, w.w_hh, w.w_hr) if a is not None and a.ndim != 2]
        if flat:
            hint = "a matrix has a row for every unit of every gate"
            raise ShapeError.of(who, "the arrays do not make one layer", ", ".join(flat), "matrices", hint)
        object.__setattr__(self, "weights", _with_biases(self.weights))
        kinds = {str(a.dtype) for w in self._all for a in w if a is not None}
        if len(kinds) != 1 or not kinds <= set(FLOATS):
            expected, hint = f"one of {', '.join(FLOATS)}", "convert all arrays to float32"
            raise DtypeError.of(who, "cannot be the weights of a layer", ", ".join(sorted(kinds)), expected, hint)
        D = self.directions
        for n, layer in enumerate(self.weights):
            width = (self.input_size if n == 0 else (self.proj_size or self.hidden_size) * D) or 0
            wanted = layout.shapes(self.cell, width, self.hidden_size, self.proj_size, self.bias)
            if n == 0 and not self.input_projection:
                del wanted["weight_ih"]
            wanted = {name + layout.suffix(n, d): shape for d in range(D) for name, shape in wanted.items()}
            named = [(name, a.shape) for d, w in enumerate(layer) for name, a in layout.spread(self.cell, w, n, d).items()]
            if dict(named) != wanted or len(layer) != D:
                got = ", ".join(f"{name} {list(shape)}" for name, shape in named)
                expected = ", ".join(f"{name} {list(shape)}" for name, shape in wanted.items())
                hint = "all layers have the same cell, hidden size, directions and biases"
                raise ShapeError.of(who, "the arrays do not make one layer", got, expected, hint)

    @property
    def _all(self) -> list[Weights]:
        return [w for layer in self.weights for w in layer]

    @property
    def layers(self) -> int:
        """L."""
        return len(self.weights)

    @property
    def directions(self) -> int:
        """D, 1 or 2."""
        return len(self.weights[0])

    @property
    def input_projection(self) -> bool:
        """False where x holds the sums of W_ih x of the first layer."""
        return self.weights[0][0].w_ih is not None

    @property
    def input_size(self) -> int:
        """I; the rows of all gates where x holds the sums."""
        first = self.weights[0][0]
        return first.w_hh.shape[0] if first.w_ih is None else first.w_ih.shape[1]

    @property
    def hidden_size(self) -> int:
        """H."""
        return layout.hidden_size(self.cell, self.weights[0][0])

    @property
    def proj_size(self) -> int:
        """P, 0 without a projection."""
        w_hr = self.weights[0][0].w_hr
        return 0 if w_hr is None else w_hr.shape[0]

    @property
    def bias(self) -> bool:
        """Whether there are biases."""
        return self.weights[0][0].b_ih is not None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of all arrays."""
        return self.weights[0][0].w_hh.dtype

    @property
    def parameters(self) -> int:
        """How many numbers the arrays hold."""
        return sum(a.size for w in self._all for a in w if a is not None)

    def __str__(self) -> str:
        shown = f"{brief(self.cell).removesuffix('()')} {self.input_size} -> {self.hidden_size}"
        options = [f"projected to {self.proj_size}"] if self.proj_size else []
        options += [f"{self.layers} layers"] if self.layers > 1 else []
        options += ["both directions"] if self.directions == 2 else []
        more = {"backwards": self.reverse, "batch first": self.batch_first, "no biases": not self.bias}
        options += [text for text, is_so in {**more, "x is the sums": not self.input_projection}.items() if is_so]
        return ", ".join([shown, *options, self.dtype.name])

    def named(self) -> dict[str, np.ndarray]:
        """The arrays by the names of a state_dict: `weight_ih_l0`, ..."""
        return {
            name: a
            for n, layer in enumerate(self.weights)
            for d, w in enumerate(layer)
            for name, a in layout.spread(self.cell, w, n, d).items()
        }

    def layer(self) -> Any:
        """Our LSTM, GRU or RNN with these very numbers, in eval mode; a `Backwards` around it with `reverse`.

        Raises:
            MissingExtraError: without torch.
        """
        import torch

        from openlstm import nn as ours

        cell = self.cell
        kind: Any = ours.RNN
        if isinstance(cell, GRU):
            kind, cell = ours.GRU, replace(cell, memory=False)
        elif cell.has_cell:
            kind = ours.LSTM
        sizes = {"input_size": self.input_size, "hidden_size": self.hidden_size, "num_layers": self.layers}
        form = {"bias": self.bias, "batch_first": self.batch_first, "bidirectional": self.directions == 2}
        more = {"proj_size": self.proj_size, "cell": cell, "input_projection": self.input_projection}
        with torch.inference_mode(False):  # what is made inside of it cannot be trained afterwards
            made = kind(**sizes, **form, **more, dtype=getattr(torch, self.dtype.name))
            made.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in self.named().items()})
        if self.reverse:
            from openlstm.exchange.backwards import Backwards

            made = Backwards(made)
        return made.eval()

    @classmethod
    def of(cls, layer: nn.Module, name: str = "") -> Stack:
        """The way back: from a layer or cell of ours or of torch.nn, or a `Backwards`. The arrays are copies.

        Raises:
            DtypeError: for another kind of module.

        >>> import torch
        >>> Stack.of(torch.nn.GRU(3, 5)).cell
        GRU(memory=False, heads=1)
        """
        import torch

        from openlstm.exchange.backwards import Backwards
        from openlstm.nn import from_torch
        from openlstm.nn.cell import OneStep
        from openlstm.nn.quantized import Quantized
        from openlstm.nn.recurrent import Recurrent

        reverse = isinstance(layer, Backwards)
        inner: Any = layer.layer if isinstance(layer, Backwards) else layer
        notes: tuple[str, ...] = ()
        if isinstance(inner, Quantized):
            notes = ("its matrices are in 8 bits; here they are scale * q in float32",)
        elif not isinstance(inner, (Recurrent, OneStep)):
            inner = from_torch(inner)
        if next(inner.parameters(), torch.empty(0)).dtype == torch.bfloat16:
            notes = (WIDENED,)

        def array(a: Any) -> np.ndarray | None:
            if a is None:
                return None
            a = a.detach().cpu()
            return (a.float() if a.dtype == torch.bfloat16 else a).numpy().copy()

        if isinstance(inner, OneStep):
            weights = ((Weights(*map(array, inner._weights())),),)
            return cls(name, inner.cell, weights, notes=(CELL, *notes))
        found = [
            tuple(Weights(*map(array, inner.weights_of(n, d))) for d in range(inner.num_directions))
            for n in range(inner.num_layers)
        ]
        return cls(name, inner.cell, tuple(found), inner.batch_first, reverse, notes)


def _with_biases(given: tuple[tuple[Weights, ...], ...]) -> tuple[tuple[Weights, ...], ...]:
    """Zeros for a bias that is not there where others are."""
    if not any(b is not None for layer in given for w in layer for b in (w.b_ih, w.b_hh)):
        return given

    def filled(w: Weights) -> Weights:
        zeros = np.zeros(w.w_hh.shape[0], w.w_hh.dtype)
        b_ih = zeros if w.b_ih is None else w.b_ih
        b_hh = None if w.w_hh.shape[1] == 0 else zeros if w.b_hh is None else w.b_hh
        return w._replace(b_ih=b_ih, b_hh=b_hh)

    return tuple(tuple(filled(w) for w in layer) for layer in given)
