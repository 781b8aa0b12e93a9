"""`LSTMCell`: one step of an LSTM, for loops that are written by hand.

Legend: B batch, I input size, H hidden size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from openlstm import cells
from openlstm._errors import DtypeError, ShapeError, describe, message
from openlstm.engine.op import runs_as, step
from openlstm.engine.support import choose
from openlstm.nn import checks
from openlstm.reference import State, Weights

_CELL = cells.LSTM()


class LSTMCell(nn.Module):
    """One step of an LSTM: torch.nn.LSTMCell's arguments, parameters and numbers; the same kernel as `openlstm.LSTM`.

        i, f, o = sigmoid(z_i), sigmoid(z_f), sigmoid(z_o);  g = tanh(z_g),   z = x W_ih^T + b_ih + h W_hh^T + b_hh
        c' = f * c + i * g
        h' = o * tanh(c')

    Args:
        input_size, hidden_size: I and H.
        bias: whether there are bias_ih and bias_hh.
        device, dtype: of the parameters.
        backend: "auto", "cpu" or "reference"; a named one is never replaced by another.

    A call `cell(x, (h, c))`: x [B, I], h and c [B, H], or [I] and [H] without a batch; zeros if (h, c) is None.

    Returns:
        (h', c'), shaped as h and c. On CPU the same bits as `openlstm.LSTM` gives at that step of a sequence.

    Raises:
        ShapeError, DtypeError: where an argument does not fit; the message says what would.

    Source: Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000.

    >>> import torch, openlstm
    >>> h, c = openlstm.LSTMCell(3, 5)(torch.zeros(2, 3))
    >>> h.shape, c.shape
    (torch.Size([2, 5]), torch.Size([2, 5]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        checks.sizes("LSTMCell", input_size, hidden_size)
        checks.flags("LSTMCell", bias=bias)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        self.backend = backend
        rows = 4 * hidden_size
        self.weight_ih = nn.Parameter(torch.empty((rows, input_size), device=device, dtype=dtype))
        self.weight_hh = nn.Parameter(torch.empty((rows, hidden_size), device=device, dtype=dtype))
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, nn.Parameter(torch.empty(rows, device=device, dtype=dtype)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter from U(-1/sqrt(H), 1/sqrt(H)), in the order and with the bits of torch.nn."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def backend_used(self, x: Tensor) -> str:
        """The name of the backend that a call with `x` will run on."""
        return choose(self.backend, _CELL, runs_as(x), "LSTMCell")

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Any]:
        """See the class."""
        w = self._weights()
        x, h, c = self._arguments(input, hx, w.w_ih)
        if x.dim() == 1:
            new = step(_CELL, x.unsqueeze(0), w, State(h.unsqueeze(0), c.unsqueeze(0)), self.backend)
            return new.h[0], new.c[0]  # type: ignore[index]
        new = step(_CELL, x, w, State(h, c), self.backend)
        return new.h, new.c

    def _weights(self) -> Weights:
        p = self._parameters
        try:
            return Weights(p["weight_ih"], p["weight_hh"], p["bias_ih"], p["bias_hh"])
        except KeyError:  # a parametrised weight is an attribute and no parameter; attributes cost a microsecond more
            return Weights(self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)

    def _arguments(self, x: Any, hx: Any, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x, h and c, checked; what fits at once is let through at once."""
        if not (isinstance(x, Tensor) and x.dim() == 2 and x.shape[1] == self.input_size):
            _features(x, self.input_size)
        dtype, device = x.dtype, x.device
        if dtype != weight.dtype or device != weight.device:
            x = checks.same_as_weights("LSTMCell", x, weight)
            dtype = x.dtype
        shape = (x.shape[0], self.hidden_size) if x.dim() == 2 else (self.hidden_size,)
        if hx is None:
            return x, x.new_zeros(shape), x.new_zeros(shape)
        if not isinstance(hx, (tuple, list)) or len(hx) != 2 or hx[0] is None or hx[1] is None:
            got, hint = f"hx: {describe(hx)}", "pass both h and c"
            raise DtypeError(message("LSTMCell", "hx is not a pair (h, c)", got, "(h [B, H], c [B, H])", hint))
        h, c = hx
        if not (isinstance(h, Tensor) and h.shape == shape and h.dtype == dtype and h.device == device):
            _state("h", h, shape, x)
        if not (isinstance(c, Tensor) and c.shape == shape and c.dtype == dtype and c.device == device):
            _state("c", c, shape, x)
        return x, h, c

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")


def _features(x: Any, input_size: int) -> None:
    checks.tensor("LSTMCell", "x", x)
    if x.dim() not in (1, 2):
        hint = "a sequence [T, B, I] goes to openlstm.LSTM" if x.dim() == 3 else "flatten the extra axes into B or I"
        raise ShapeError(message("LSTMCell", f"x has {x.dim()} axes", f"x: {describe(x)}", "[B, I], or [I] unbatched", hint))
    if x.shape[-1] != input_size:
        wanted = "[B, I]" if x.dim() == 2 else "[I]"
        swapped = x.dim() == 2 and x.shape[0] == input_size
        hint = (
            "its axes are swapped: use x.T"
            if swapped
            else f"make the cell with input_size={x.shape[-1]}, or give x {input_size} features"
        )
        what = f"x has {x.shape[-1]} features, expected {input_size}"
        raise ShapeError(message("LSTMCell", what, f"x: {describe(x)}", f"{wanted} with I = {input_size}", hint))


def _state(name: str, s: Any, shape: tuple[int, ...], x: Tensor) -> None:
    checks.tensor("LSTMCell", name, s)
    if s.shape != shape:
        letters = "[B, H]" if len(shape) == 2 else "[H]"
        what = f"{name} has shape {list(s.shape)}, expected {list(shape)}"
        hint = "h and c have the batch of x and hidden_size units"
        got = f"{name}: {describe(s)}, x: {describe(x)}"
        raise ShapeError(message("LSTMCell", what, got, f"{list(shape)} = {letters}", hint))
    checks.same_as_x("LSTMCell", name, s, x)
