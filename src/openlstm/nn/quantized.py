"""`quantize`: a layer for inference whose matrices are kept in 8 bits.

Legend: T time, B batch, I input size, H hidden size, R what is fed back (P with a projection, else H), L layers, D directions,
G gates of a cell, N sequences.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from openlstm.call import Call
from openlstm.engine.backends.table import brief, choose
from openlstm.engine.rounded import MATRICES, Rounded, check_rounded, fitted, rounded
from openlstm.errors import ArgumentError, describe
from openlstm.nn import checks, packed
from openlstm.nn.form import Form, Inputs
from openlstm.nn.recurrent import Recurrent
from openlstm.noise import Noise
from openlstm.reference import State, Weights, unshared
from openlstm.weights import FIELDS, suffix

WHO = "quantize"


_PACKED = Weights(None, None)  # in a call whose weights are elsewhere


class Quantized(nn.Module):
    """A layer in eval mode with matrices in 8 bits, made by `openlstm.quantize`: on the CPU, in float32, without a gradient.

    A call is one of the layer: `quantized(x, hx, lengths=..., reset=..., reset_state=..., cu_seqlens=...)` -> y, state.
    It keeps the layer's options: cell, biases, layers, directions, projection, batch_first, zoneout (in eval), check_finite.

    Attributes:
        nbytes: of all packed weights.

    `state_dict` holds q int8 and scales float32 of every matrix (`weight_ih_l0` [G*H, I] and `scale_ih_l0` [G*H], and so on),
    biases and peepholes in float32; it is loaded by what `quantize` made of a layer of the same sizes. `torch.save`, `pickle`
    and `copy.deepcopy` keep the same numbers.
    """

    first_weight = torch.empty(0)  # what x is compared with: the type and place of every float here

    def __init__(self, layer: Recurrent, seen: list[tuple[np.ndarray, np.ndarray]] | None = None) -> None:
        super().__init__()
        self.name = type(layer).__name__
        self.cell = layer.cell
        self.input_size, self.hidden_size, self.proj_size = layer.input_size, layer.hidden_size, layer.proj_size
        self.fed_back_size, self.num_directions = layer.fed_back_size, layer.num_directions
        self.num_layers, self.bidirectional, self.batch_first = layer.num_layers, layer.bidirectional, layer.batch_first
        self.zoneout_h, self.zoneout_c, self.check_finite = layer.zoneout_h, layer.zoneout_c, layer.check_finite
        self._ends = [suffix(n, direction) for n in range(self.num_layers) for direction in range(self.num_directions)]
        given = [layer.weights_of(n, direction) for n in range(self.num_layers) for direction in range(self.num_directions)]
        stack = [Weights(*(None if a is None else _numpy(a) for a in unshared(self.cell, w)[1])) for w in given]
        self._run = self.cell.unshared()
        probe = np.empty((1, 1, self.input_size), stack[0].w_ih.dtype)
        check_rounded(WHO, "int8", layer, self._run, stack, choose(layer.backend, self._run, probe, WHO, bool(self.proj_size)))
        if seen is not None:
            fits = zip(stack, seen, strict=True)
            stack = [w._replace(w_ih=fitted(w.w_ih, of_x), w_hh=fitted(w.w_hh, of_h)) for w, (of_x, of_h) in fits]
        self._rounded = [Rounded(self._run, w) for w in stack]
        self.eval()

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights, with scales and biases: a quarter of those in float32, and some padding."""
        return sum(one.nbytes for one in self._rounded)

    def weights_of(self, layer: int, direction: int = 0) -> Weights:
        """The weights of one layer in one direction as they are multiplied: scale * q in float32."""
        w = self._rounded[layer * self.num_directions + direction].unpacked()
        return Weights(*(None if a is None else torch.from_numpy(a) for a in w))

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | tuple[Tensor, Tensor] | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        reset_state: Tensor | tuple[Tensor, Tensor] | None = None,
        cu_seqlens: Tensor | Sequence[int] | None = None,
    ) -> tuple[Any, Any]:
        """See `openlstm.LSTM`.

        Raises:
            ArgumentError: for an x whose gradient is wanted; as the layer does.
        """
        data = input.data if isinstance(input, PackedSequence) else input
        if torch.is_grad_enabled() and isinstance(data, Tensor) and data.requires_grad:
            what, hint = "no gradient passes weights in 8 bits", "call it inside torch.no_grad(), or give it x.detach()"
            raise ArgumentError.of(
                type(self).__name__, what, f"x: {describe(data)}, requires_grad", "an x without a gradient", hint
            )
        with torch.no_grad():
            given = (input, hx, lengths, reset, reset_state)
            if isinstance(input, PackedSequence):
                checks.no_lengths(type(self).__name__, lengths, cu_seqlens)
                y, state = packed.run_packed(self, input, hx, reset, reset_state)
            elif cu_seqlens is not None:
                y, state = packed.run_sequences(self, *given, cu_seqlens)
            else:
                form = Form.of(self, input)
                y, state, _ = self.run_layers(form.enter(self, *given))
                y, state = form.leave(y), form.leave_state(state)
        return y, ((state.h, state.c) if self.cell.has_cell else state.h)

    def run_layers(self, given: Inputs, packed: Tensor | None = None) -> tuple[Tensor, State, list[Any]]:
        """Run every layer and direction: y [T, B, D*R], states [L*D, B, .], and nothing of what lies between."""
        x, D = given.x, self.num_directions
        begin = self.zero_states(x, x.shape[1]) if given.hx is None else given.hx
        noise = Noise(self.zoneout_h, self.zoneout_c, training=False) if self.zoneout_h or self.zoneout_c else None
        ends: list[State] = []
        for n in range(self.num_layers):
            ys = []
            for k in range(n * D, (n + 1) * D):
                fresh = given.reset_state and _of(given.reset_state, k)
                call = Call(self._run, x, _PACKED, _of(begin, k), given.lengths, given.reset, fresh, bool(k % D), noise)
                if self.check_finite and n == 0:
                    call = call._replace(check_finite=True)
                one: Any = self._rounded[k].forward
                if "torch._dynamo" in sys.modules:  # a graph breaks here
                    one = torch.compiler.disable(one)
                y, end = one(call)
                ys.append(y)
                ends.append(end)
            x = ys[0] if D == 1 else torch.cat(ys, -1)  # [T, B, D*R]
        c = [s.c for s in ends if s.c is not None]
        return x, State(torch.stack([s.h for s in ends]), torch.stack(c) if c else None), []

    def zero_states(self, x: Tensor, B: int) -> State:
        rows = self.num_layers * self.num_directions
        c = x.new_zeros(rows, B, self.hidden_size) if self.cell.has_cell else None
        return State(x.new_zeros(rows, B, self.fed_back_size), c)

    def extra_repr(self) -> str:
        layers = f", num_layers={self.num_layers}" if self.num_layers > 1 else ""
        both = ", bidirectional=True" if self.bidirectional else ""
        return f"{self.name}, {self.input_size}, {self.hidden_size}{layers}{both}, cell={brief(self.cell)}, weights='int8'"

    # Saving: q and scales of what is packed, which are packed again to the same numbers.

    def _arrays(self) -> dict[str, Tensor]:
        """By the names of a state_dict."""
        out = {}
        for end, one in zip(self._ends, self._rounded, strict=True):
            w = one.unpacked()
            for name, field in FIELDS:
                a = getattr(w, field)
                if a is not None and field in MATRICES:
                    a, out[name.replace("weight", "scale") + end] = (torch.from_numpy(part) for part in rounded(a))
                if a is not None:
                    out[name + end] = torch.as_tensor(a).clone()
        return out

    def _pack(self, arrays: dict[str, Tensor]) -> None:
        stack = []
        for end in self._ends:
            w = {field: arrays[name + end].numpy() for name, field in FIELDS if name + end in arrays}
            for name, field in FIELDS:
                if field in MATRICES and field in w:
                    w[field] = arrays[name.replace("weight", "scale") + end].numpy()[:, None] * w[field]
            stack.append(Weights(**{field: None if a is None else np.ascontiguousarray(a) for field, a in w.items()}))
        self._rounded = [Rounded(self._run, w) for w in stack]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination.update({prefix + name: a for name, a in self._arrays().items()})

    def _load_from_state_dict(  # what nn.Module.load_state_dict calls
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        mine, found = self._arrays(), {}
        for name, own in mine.items():
            a = state_dict.get(prefix + name)
            if a is None:
                missing_keys.append(prefix + name)
            elif a.shape != own.shape or a.dtype != own.dtype:
                error_msgs.append(f"{prefix + name} is {describe(a)}, expected {describe(own)}")
            else:
                found[name] = a.detach().cpu()
        unexpected_keys += [key for key in state_dict if key.startswith(prefix) and key[len(prefix) :] not in mine]
        self._pack(mine | found)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_rounded": self._arrays()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._pack(state["_rounded"])


def quantize(layer: Recurrent, like: Tensor | None = None, *, lengths: Any = None) -> Quantized:
    """A layer for inference with its matrices in 8 bits: a quarter of the memory, and faster where memory is what limits.

        z = s_x s_w (q_x . q_w) + s_h s_w' (q_h . q_w') + b_ih + b_hh,      q from -127 to 127, s = max |.| / 127 of a row

    Every row of W_ih, W_hh and a projection has a scale, rounded once; each row of x and h has one of its own at each step.
    Products are summed exactly; sums, states and gates are float32. Rows do not see each other, and bits depend neither on
    threads nor on the instruction set. A row with NaN or infinity in x or h gives NaN in all of its sums. docs/int8.md bounds
    the error.

    Args:
        layer: openlstm.LSTM, GRU or RNN in eval mode, in float32 (half types are converted). It is left as it is, and the copy
            does not follow it.
        like: an x of the kind that will come, in a form that the layer takes. The roundings of W_ih and W_hh are then chosen so
            that what they lose cancels on such an x and on the h that it leads to; the error about halves. Without it every
            weight goes to the nearest.
        lengths: of its rows.

    Returns:
        A module that is called like the layer and holds its options; `state_dict`, `torch.save` and `copy.deepcopy` work.

    Raises:
        ArgumentError: for something else, a layer in training mode, a cell without a kernel in 8 bits (FGR, LayerNormLSTM, a
            user's own), weights that are not finite.
        DtypeError: for a layer in float64.
        BackendError: where the compiled extension is missing, or another backend was named.

    >>> import torch, openlstm
    >>> layer = openlstm.LSTM(8, 16).eval()
    >>> quantized = openlstm.quantize(layer)
    >>> x = torch.randn(5, 3, 8)
    >>> y, (h, c) = quantized(x, lengths=[5, 2, 4])
    >>> bool((y - layer(x, lengths=[5, 2, 4])[0]).norm() < 0.03 * y.norm())
    True
    """
    if not isinstance(layer, Recurrent):
        hint = "quantise the layers inside a model, one by one; openlstm.replace(model) first makes torch.nn's layers ours"
        got = f"layer: {type(layer).__name__}"
        raise ArgumentError.of(WHO, "cannot quantise this", got, "openlstm.LSTM, GRU or RNN", hint)
    if like is None:
        return Quantized(layer)
    form = Form.of(layer, like)
    with torch.no_grad():
        _, _, passes = layer.run_layers(form.enter(layer, like, None, lengths, None, None))
    return Quantized(layer, [(_seen(p.call, p.call.x), _seen(p.call, p.run.y)) for p in passes])


def _seen(call: Call, rows: Tensor) -> np.ndarray:
    """The mean of r^T r over the real steps of rows r [T, B, K]."""
    if call.lengths is not None:
        rows = rows[torch.arange(len(rows), device=rows.device)[:, None] < call.lengths]
    rows = rows.reshape(-1, rows.shape[-1]).double()
    return (rows.T @ rows / max(len(rows), 1)).cpu().numpy()


def _numpy(a: Tensor) -> np.ndarray:
    """As a contiguous array; half types as float32."""
    return np.asarray((a.float() if a.dtype.itemsize == 2 else a).detach().cpu().numpy(), order="C")


def _of(state: State, k: int) -> State:
    return State(state.h[k], None if state.c is None else state.c[k])
