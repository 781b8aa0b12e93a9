"""What LSTM, GRU and RNN share: parameters, layers and directions, and the way from a call of a layer to calls of the engine.

Legend: T time, B batch, I input size, H hidden size, P projected size, R what is fed back (P with a projection, 4H for FGR,
else H), L layers, D directions (1 or 2).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from openlstm import cells, weights
from openlstm.call import Call
from openlstm.cells import Cell
from openlstm.engine.autograd import unwatched
from openlstm.engine.backends.table import brief, choose
from openlstm.engine.edits import Edit
from openlstm.engine.run import run, runs_as, straight
from openlstm.nn import checks, packed
from openlstm.nn.form import Form, Inputs
from openlstm.nn.options import DEFAULTS, Options
from openlstm.noise import HIDDEN, INPUT, Noise, current_first_row, locked_mask
from openlstm.reference import Run, State, Weights


class Pass(NamedTuple):
    """One layer in one direction: what it was called with, and what came out."""

    call: Call
    run: Run


class Recurrent(nn.Module):
    """What LSTM, GRU and RNN share: parameters named as in torch.nn, layers and directions, input forms, lengths and resets."""

    input_dropout: float
    hidden_dropout: float
    recurrent_dropout: float
    zoneout_h: float
    zoneout_c: float
    weight_dropout: float
    backend: str
    check_finite: bool
    checkpoint: int | None
    input_projection: bool
    _edits: tuple[Edit, ...] = ()  # what `openlstm.edit` changes at the moment; a part of every call
    _bfloat16: bool = False  # whether a training has it multiply in bfloat16 at the moment (`train/precision.py`)
    _recorder: Any = None  # what keeps the passes of a call while `openlstm.trace` runs it

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__()
        who = type(self).__name__
        unknown = [name for name in options if name not in DEFAULTS]
        if unknown:
            raise TypeError(f"{who}() got an unexpected keyword argument {unknown[0]!r}")
        own = {**DEFAULTS, **options}
        checks.sizes(who, input_size, hidden_size, num_layers, proj_size)
        flags = {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}
        checks.flags(who, **flags, check_finite=own["check_finite"], input_projection=own["input_projection"])
        checks.rate(who, "dropout", dropout)
        checks.noise(who, cell, own)
        checks.checkpoint(who, own["checkpoint"])
        if not own["input_projection"]:
            checks.sums(who, cell, input_size, hidden_size)
        if dtype is not None:
            checks.dtype(who, dtype, f"dtype={dtype}")
        if dropout > 0 and num_layers == 1:
            warnings.warn(f"{who}: dropout={dropout} has no effect with num_layers=1; it acts between layers", stacklevel=3)
        self.cell = cell
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        for name, value in own.items():
            setattr(self, name, float(value) if isinstance(DEFAULTS[name], float) else value)
        for layer in range(num_layers):
            for direction in range(self.num_directions):
                end = weights.suffix(layer, direction)
                for name, shape in self._shapes(layer).items():
                    setattr(self, name + end, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        if cell.recurrence == "none":  # what stands for the matrix that is not there; it has the type and device of the others
            nothing = torch.empty(sum(weights.gate_rows(cell, hidden_size)), 0, device=device, dtype=dtype)
            self.register_buffer("_no_weight_hh", nothing, persistent=False)
        self.reset_parameters()

    @property
    def num_directions(self) -> int:
        """2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def fed_back_size(self) -> int:
        """R, the width of h: P with a projection, 4H for FGR, else H."""
        return weights.fed_back_size(self.cell, self.hidden_size, self.proj_size)

    @property
    def first_weight(self) -> Tensor:
        """A weight that says which type and device the layer has."""
        w = self.weights_of(0)
        return w.w_hh if w.w_ih is None else w.w_ih

    def _shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        """The parameters of a layer in one direction, by their names without a suffix."""
        width = self.input_size if layer == 0 else (self.proj_size or self.hidden_size) * self.num_directions
        made = weights.shapes(self.cell, width, self.hidden_size, self.proj_size, self.bias)
        if layer == 0 and not self.input_projection:
            del made["weight_ih"]
        return made

    @property
    def all_weights(self) -> list[list[nn.Parameter]]:
        """The parameters of each layer and direction, in torch.nn's order."""
        return [
            [getattr(self, name + weights.suffix(layer, direction)) for name in self._shapes(layer)]
            for layer in range(self.num_layers)
            for direction in range(self.num_directions)
        ]

    @property
    def _flat_weights(self) -> list[Tensor]:
        """`all_weights` as one list, which code that prunes or normalises torch.nn's layers looks at."""
        return [weight for group in self.all_weights for weight in group]

    def weights_of(self, layer: int, direction: int = 0) -> Weights:
        """The parameters of one layer in one direction, whatever stands in their place: parametrisations and tying hold."""
        names, here, bias = _names(layer, direction), self._parameters, self.bias
        if self.cell.recurrence == "none" or not (self.input_projection or layer):
            return self._weights_without(layer, names)
        try:  # of an attribute a module asks its parameters last
            w_ih, w_hh = here[names[0]], here[names[1]]
            b_ih, b_hh = (here[names[2]], here[names[3]]) if bias else (None, None)
        except KeyError:
            w_ih, w_hh, b_ih, b_hh = (getattr(self, name) if bias or k < 2 else None for k, name in enumerate(names[:4]))
        return self._all_of(Weights(w_ih, w_hh, b_ih, b_hh), names)

    def _weights_without(self, layer: int, names: tuple[str, ...]) -> Weights:
        """`weights_of` where there is no weight_hh, or no weight_ih because x is the sums."""
        fed, bias = self.cell.recurrence != "none", self.bias
        there = (layer > 0 or self.input_projection, fed, bias, bias and fed)
        w = Weights(*(getattr(self, name) if is_there else None for name, is_there in zip(names, there, strict=False)))
        return self._all_of(w if fed else w._replace(w_hh=self._no_weight_hh), names)

    def _all_of(self, w: Weights, names: tuple[str, ...]) -> Weights:
        """With what only some cells and layers have."""
        cell = self.cell
        if not (self.proj_size or cell.peepholes or cell.norms):
            return w
        w_hr = getattr(self, names[4]) if self.proj_size else None
        w_ch = getattr(self, names[5]) if cell.peepholes else None
        norm = torch.cat([getattr(self, name) for name in names[6:]]) if cell.norms else None
        return w._replace(w_hr=w_hr, w_ch=w_ch, norm=norm)

    def reset_parameters(self) -> None:
        """Draw every parameter from U(-1/sqrt(H), 1/sqrt(H)), in the order and with the bits of torch.nn.

        Norms (`cells.LayerNormLSTM`) begin with weight 1 and bias 0.
        """
        bound = 1.0 / math.sqrt(self.hidden_size)
        for name, parameter in self.named_parameters():
            if "norm_" in name:
                nn.init.constant_(parameter, float("_weight_" in name))
            else:
                nn.init.uniform_(parameter, -bound, bound)

    def flatten_parameters(self) -> None:
        """Does nothing: there is no packed copy that could go stale (kept for code written for torch.nn)."""

    def backend_used(self, x: Any) -> str:
        """The name of the backend that a call with `x` will run on."""
        data = x.data if isinstance(x, PackedSequence) else x
        return choose(self.backend, self.cell, runs_as(data), type(self).__name__, bool(self.proj_size), self._noisy())

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
        """See the class."""
        done = None if cu_seqlens is not None else self._straight(input, hx, lengths, reset, reset_state)
        given = (input, hx, lengths, reset, reset_state)
        if done is not None:
            y, state, _ = done
        elif isinstance(input, PackedSequence):
            checks.no_lengths(type(self).__name__, lengths, cu_seqlens)
            y, state = self._packed(input, hx, reset, reset_state)
        elif cu_seqlens is not None:
            y, state = self._sequences(*given, cu_seqlens)
        else:
            form = Form.of(self, input)
            y, state, _ = self.run_layers(form.enter(self, *given))
            y, state = form.leave(y), form.leave_state(state)
        if len(self.cell.states) > 1 and self.cell.has_cell:
            return y, cells.parted(self.cell, state)
        return y, ((state.h, state.c) if self.cell.has_cell else state.h)

    _packed = packed.run_packed
    _sequences = packed.run_sequences

    def _straight(self, x: Any, hx: Any, lengths: Any, reset: Any, reset_state: Any) -> Run | None:
        """One layer in one direction over [T, B, I], where that is one plain call without a gradient; else None.

        The state keeps its axis of layers, and there is none where it begins with zeros: what `engine.run.straight` knows.
        """
        kind = type(self)
        if (
            type(x) is not Tensor
            or x.dim() != 3
            or x.shape[2] != self.input_size
            or self.num_layers > 1
            or self.bidirectional
            or self.batch_first
            or self._recorder is not None
            or self._bfloat16
            or kind.run_layers is not Recurrent.run_layers
            or kind._pass is not Recurrent._pass
            or (self.training and (self.input_dropout or self.weight_dropout))
            or torch.is_grad_enabled()
        ):
            return None
        state = None
        if hx is not None:
            given, shape = hx if isinstance(hx, tuple) else (hx,), (1, x.shape[1], self.hidden_size)
            n = 1 + len(self.cell.states) * self.cell.has_cell
            if len(given) != n or any(type(s) is not Tensor or s.shape != shape for s in given):
                return None
            state = State(*given) if n <= 2 else cells.joined(self.cell, given)
        noise = Noise(self.zoneout_h) if self._noisy() else None  # that there is some is enough to know here
        call = Call(self.cell, x, self.weights_of(0), state, lengths, reset, reset_state, False, noise, None, self.backend)
        if self.checkpoint or self.check_finite or self._edits:
            call = call._replace(checkpoint=self.checkpoint or 0, check_finite=self.check_finite, edits=self._edits)
        return straight(call)

    def extra_repr(self) -> str:
        shown = {"proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        shown |= DEFAULTS
        parts = [f"{name}={getattr(self, name)!r}" for name, default in shown.items() if getattr(self, name) != default]
        if self.cell not in (cells.LSTM(), cells.GRU(), cells.GRU(memory=True), *VANILLA):
            parts.append(f"cell={brief(self.cell)}")
        return ", ".join([str(self.input_size), str(self.hidden_size), *parts])

    def _noisy(self) -> bool:  # no property: what one of these lacks would be said of the property's own name
        """Whether noise acts inside the recurrence, in the mode in which the layer is."""
        drops = self.training and (self.hidden_dropout > 0 or self.recurrent_dropout > 0)
        return drops or self.zoneout_h > 0 or self.zoneout_c > 0

    def run_layers(
        self, given: Inputs, packed: Tensor | None = None, *, save: bool = False
    ) -> tuple[Tensor, State, list[Pass]]:
        """Run every layer and direction: y [T, B, D*R], states [L*D, B, .], one `Pass` for each; `packed` are lengths on CPU.

        With `save` gates and cell states are kept.
        """
        recorder = self._recorder
        if recorder is not None:
            given = recorder.given(given)
        passes: list[Pass] = []
        D = self.num_directions
        x = given.x
        noisy = self._noisy()
        seed = self._seed(x)
        begin = self.zero_states(x, x.shape[1]) if given.hx is None else given.hx
        for layer in range(self.num_layers):
            if layer and self.dropout and self.training:
                x = self._drop(x, packed)
            if self.input_dropout and self.training:
                drawn = Noise(seed=seed, stream=2 * layer, first_row=current_first_row())
                x = x * locked_mask(drawn, INPUT, self.input_dropout, x.new_zeros(x.shape[1:]))  # [B, I]
            for direction in range(D):
                k = layer * D + direction
                w = self.weights_of(layer, direction)
                if self.weight_dropout and self.training:
                    w = w._replace(w_hh=F.dropout(w.w_hh, self.weight_dropout))
                call = Call(
                    self.cell,
                    x,
                    w,
                    _of(begin, k),
                    given.lengths,
                    given.reset,
                    None if given.reset_state is None else _of(given.reset_state, k),
                    bool(direction),
                    self._noise(x, seed, 2 * layer + direction) if noisy else None,
                    None,
                    self.backend,
                    save or recorder is not None,
                    self.checkpoint or 0,
                    self.check_finite and layer == 0,
                    bfloat16=self._bfloat16,
                    differentiable=recorder is not None and recorder.differentiable,
                    edits=tuple(edit for edit in self._edits if edit.place == k),
                )
                passes.append(Pass(call, self._pass(k, call)))
            ys = [p.run.y for p in passes[-D:]]
            if len(self.cell.feeds_back) > 1:
                ys = [y[..., : self.hidden_size] for y in ys]  # FGR feeds its gates back behind its output
            x = ys[0] if D == 1 else torch.cat(ys, -1)  # [T, B, D*R]
        h = _join([p.run.state.h for p in passes])  # [L*D, B, R]
        c = _join([p.run.state.c for p in passes if p.run.state.c is not None]) if self.cell.has_cell else None
        done = (x, State(h, c), passes)
        return done if recorder is None else recorder.keep(*done)

    def _pass(self, k: int, call: Call) -> Run:
        """Run pass k, of k = layer * D + direction."""
        return run(call)

    def _drop(self, x: Tensor, packed: Tensor | None) -> Tensor:
        """Dropout between layers; on packed input torch.nn draws one mask per real step, so that is what is done."""
        if packed is None:
            return F.dropout(x, self.dropout, True)
        steps = pack_padded_sequence(x, packed)
        data = F.dropout(steps.data, self.dropout, True)
        return pad_packed_sequence(PackedSequence(data, steps.batch_sizes))[0]

    def _seed(self, x: Tensor) -> Any:
        """What the masks of one call are drawn from: a number of torch's own generator, which so repeats them."""
        noisy = self._noisy()
        if not (self.training and (noisy or self.input_dropout)):
            return 0
        device = "cpu" if noisy else x.device  # a mask of x alone can stay in a CUDA graph
        seed = torch.randint(2**63 - 1, (), dtype=torch.int64, device=device)
        locked = self.input_dropout or self.hidden_dropout  # drawn here: a number is mixed faster without tensors
        known = locked and seed.is_cpu and unwatched(x) and not torch._C._are_functorch_transforms_active()
        return int(seed) if known else seed

    def _noise(self, x: Tensor, seed: Any, stream: int) -> Noise:
        rates = (self.zoneout_h, self.zoneout_c, self.recurrent_dropout)
        noise = Noise(*rates, seed, stream, self.training, None, current_first_row())
        if not (self.hidden_dropout and self.training):
            return noise
        dtype = torch.float32 if x.dtype.itemsize == 2 else x.dtype  # 1/(1-p) is not rounded with the numbers it scales
        like = x.new_zeros(x.shape[1], self.fed_back_size, dtype=dtype)
        return noise._replace(hidden=locked_mask(noise, HIDDEN, self.hidden_dropout, like), seed=seed if any(rates) else 0)

    def zero_states(self, x: Tensor, B: int) -> State:
        rows = self.num_layers * self.num_directions
        h = x.new_zeros(rows, B, self.fed_back_size)
        C = weights.cell_size(self.cell, self.hidden_size)
        return State(h, x.new_zeros(rows, B, C) if self.cell.has_cell else None)


VANILLA = (cells.VanillaRNN("tanh"), cells.VanillaRNN("relu"))


def _names(layer: int, direction: int) -> tuple[str, ...]:
    """The parameters of one layer in one direction in the order of `Weights`, those of the norms last."""
    if layer == 0:
        return _LOWEST[direction]  # a step of one layer takes as long as making them
    return tuple(name + weights.suffix(layer, direction) for name in _PARAMETERS)


_PARAMETERS = (*(name for name, _ in weights.FIELDS), *weights.NORMS)
_LOWEST = [tuple(name + weights.suffix(0, direction) for name in _PARAMETERS) for direction in (0, 1)]


def _of(state: State, k: int) -> State:
    return State(state.h[k], None if state.c is None else state.c[k])


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0].unsqueeze(0) if len(parts) == 1 else torch.stack(parts)
