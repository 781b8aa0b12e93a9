"""`LSTM`, `GRU` and `RNN`: torch.nn's layers with the gates open, any cell, ragged batches, resets and noise in the recurrence.

Legend: T time, B batch, I input size, H hidden size, P projected size, R what is fed back (P with a projection, 4H for FGR,
else H), L layers, D directions (1 or 2), G gates of a cell.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace as changed
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from openlstm import cells, weights
from openlstm.cells import Cell
from openlstm.engine import pieces
from openlstm.engine.op import Ran, Result, autocast_type, quick, runs_as, sequence
from openlstm.engine.support import brief, choose
from openlstm.errors import ArgumentError, message
from openlstm.nn import checks
from openlstm.nn.convert import convert, expect
from openlstm.nn.form import Arguments, Form, enter_sequences
from openlstm.noise import Noise
from openlstm.reference import State, Weights


class Options(TypedDict, total=False):
    """What all layers take beside torch.nn's arguments, as keywords; `LSTM` says what each means."""

    input_dropout: float
    hidden_dropout: float
    recurrent_dropout: float
    zoneout_h: float
    zoneout_c: float
    weight_dropout: float
    backend: str
    check_finite: bool
    checkpoint: int | None


DEFAULTS: dict[str, Any] = {
    "input_dropout": 0.0,
    "hidden_dropout": 0.0,
    "recurrent_dropout": 0.0,
    "zoneout_h": 0.0,
    "zoneout_c": 0.0,
    "weight_dropout": 0.0,
    "backend": "auto",
    "check_finite": False,
    "checkpoint": None,
}
"""The keywords that torch.nn's layers do not have."""


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
        device: Any = None,
        dtype: Any = None,
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
        checks.flags(who, **flags, check_finite=own["check_finite"])
        checks.rate(who, "dropout", dropout)
        checks.noise(who, cell, own)
        checks.checkpoint(who, own["checkpoint"])
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
            width = input_size if layer == 0 else (proj_size or hidden_size) * self.num_directions
            for direction in range(self.num_directions):
                end = weights.suffix(layer, direction)
                for name, shape in weights.shapes(cell, width, hidden_size, proj_size, bias).items():
                    setattr(self, name + end, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
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
    def all_weights(self) -> list[list[nn.Parameter]]:
        """The parameters of each layer and direction, in torch.nn's order."""
        names = weights.shapes(self.cell, 1, self.hidden_size, self.proj_size, self.bias)
        return [
            [getattr(self, name + weights.suffix(layer, direction)) for name in names]
            for layer in range(self.num_layers)
            for direction in range(self.num_directions)
        ]

    @property
    def _flat_weights(self) -> list[Tensor]:
        """`all_weights` as one list, which code that prunes or normalises torch.nn's layers looks at."""
        return [weight for group in self.all_weights for weight in group]

    def weights_of(self, layer: int, direction: int = 0) -> Weights:
        """The parameters of one layer in one direction, read by attribute, so that parametrisations and tying hold."""
        end = weights.suffix(layer, direction)
        return Weights(
            getattr(self, "weight_ih" + end),
            getattr(self, "weight_hh" + end),
            getattr(self, "bias_ih" + end) if self.bias else None,
            getattr(self, "bias_hh" + end) if self.bias else None,
            getattr(self, "weight_hr" + end) if self.proj_size else None,
            getattr(self, "weight_ch" + end) if self.cell.peepholes else None,
            torch.cat([getattr(self, name + end) for name in weights.NORMS]) if self.cell.norms else None,
        )

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
        input: Any,
        hx: Any = None,
        *,
        lengths: Any = None,
        reset: Tensor | None = None,
        reset_state: Any = None,
        cu_seqlens: Any = None,
    ) -> tuple[Any, Any]:
        """See the class."""
        if lengths is None and reset is None and reset_state is None and cu_seqlens is None and not torch.is_grad_enabled():
            found = self._quick(input, hx)
            if found is not None:
                return found
        if isinstance(input, PackedSequence):
            checks.no_lengths(type(self).__name__, lengths, cu_seqlens)
            y, state = self._packed(input, hx, reset, reset_state)
        elif cu_seqlens is not None:
            y, state = self._sequences(input, hx, lengths, reset, reset_state, cu_seqlens)
        else:
            form = Form.of(self, input)
            y, state, _ = self.layers(form.enter(self, input, hx, lengths, reset, reset_state))
            y, state = form.leave(y), form.leave_state(state)
        return y, ((state.h, state.c) if self.cell.has_cell else state.h)

    def extra_repr(self) -> str:
        shown = {"proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        shown |= DEFAULTS
        parts = [f"{name}={getattr(self, name)!r}" for name, default in shown.items() if getattr(self, name) != default]
        if self.cell not in (cells.LSTM(), cells.GRU(), cells.GRU(memory=True), *_VANILLA):
            parts.append(f"cell={brief(self.cell)}")
        return ", ".join([str(self.input_size), str(self.hidden_size), *parts])

    def _quick(self, x: Any, hx: Any) -> Any:
        """One dense layer in one direction without noise, gradient or anything unusual, by the shortest way.

        The same kernel and the same bits as the long way, which runs, or refuses, what this leaves to it (None).
        """
        kind = type(self)
        if (
            type(x) is not Tensor
            or x.dim() != 3
            or self.num_layers != 1
            or self.bidirectional
            or self.batch_first
            or self.proj_size
            or self.training
            and (self.input_dropout or self.hidden_dropout or self.recurrent_dropout or self.weight_dropout)
            or self.zoneout_h
            or self.zoneout_c
            or self.checkpoint
            or self.check_finite
            or "layers" in self.__dict__  # an edit stands in for them
            or kind.layers is not Recurrent.layers
            or kind.weights_of is not Recurrent.weights_of
            or torch.compiler.is_compiling()
        ):
            return None
        w = self._parameters
        w_ih, w_hh = w.get("weight_ih_l0"), w.get("weight_hh_l0")  # not there where a parametrisation works them out
        if w_ih is None or w_hh is None or self.cell.peepholes or self.cell.norms or x.shape[2] != self.input_size:
            return None
        state = None
        if hx is not None:
            shape = (1, x.shape[1], self.hidden_size)
            pair = hx if isinstance(hx, tuple) else (hx,)
            if len(pair) != 1 + self.cell.has_cell or any(type(s) is not Tensor or s.shape != shape for s in pair):
                return None
            state = State(*pair) if self.cell.has_cell else State(pair[0], None)
        weights = Weights(w_ih, w_hh, w.get("bias_ih_l0"), w.get("bias_hh_l0"))
        if self.bias and (weights.b_ih is None or weights.b_hh is None):
            return None
        found = quick(self.cell, x, weights, state, self.backend, type(self).__name__)
        if found is None:
            return None
        y, h, c = found
        return y, ((h, c) if self.cell.has_cell else h)

    def _noisy(self) -> bool:  # no property: what one of these lacks would be said of the property's own name
        """Whether noise acts inside the recurrence, in the mode in which the layer is."""
        drops = self.training and (self.hidden_dropout > 0 or self.recurrent_dropout > 0)
        return drops or self.zoneout_h > 0 or self.zoneout_c > 0

    def _packed(self, x: PackedSequence, hx: Any, reset: Any, reset_state: Any) -> tuple[Any, State]:
        rows = x.sorted_indices  # rows run in the order in which they are packed
        padded, real = pad_packed_sequence(PackedSequence(x.data, x.batch_sizes))  # [T, B, I], [B]
        given = Form(batched=True, batch_first=False).enter(self, padded, hx, real, reset, reset_state)
        if rows is not None:
            given = given._replace(
                hx=given.hx and _rows(given.hx, rows),
                reset=None if given.reset is None else given.reset[:, rows],
                reset_state=given.reset_state and _rows(given.reset_state, rows),
            )
        y, state, _ = self.layers(given, packed=real)
        out = PackedSequence(pack_padded_sequence(y, real).data, x.batch_sizes, rows, x.unsorted_indices)
        return out, state if x.unsorted_indices is None else _rows(state, x.unsorted_indices)

    def _sequences(self, x: Any, hx: Any, lengths: Any, reset: Any, reset_state: Any, cu_seqlens: Any) -> tuple[Tensor, State]:
        """x [total, I], one sequence behind the other. Those of one length are a batch where they lie; others are padded."""
        given, starts, real = enter_sequences(self, x, hx, lengths, reset, reset_state, cu_seqlens)
        total, N = len(given.x), len(real)
        T = total // N if N else 0
        if N and bool((real == T).all()):
            together = [None if a is None else a.view(N, T, *a.shape[1:]).transpose(0, 1) for a in (given.x, given.reset)]
            y, state, _ = self.layers(given._replace(x=together[0], reset=together[1]))
            return y.transpose(0, 1).reshape(total, y.shape[-1]), state
        parts = pieces.of_sequences(starts, real, total)
        hx = self._zero_states(given.x, N) if given.hx is None else given.hx
        ys, states, order = [], [], []
        for group, places in parts.groups():
            there, rows = places.reshape(-1), parts.row[group]
            back = pieces.inverse(there, total)
            padded = pieces.move(given.x, there, back, (False, True)).view(*places.shape, -1)  # padding is never read
            y, state, _ = self.layers(
                Arguments(
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
            return given.x.new_zeros(total, self.num_directions * (self.proj_size or self.hidden_size), dtype=dtype), hx
        there = torch.cat(order)
        some, last = (parts.last >= 0)[:, None], parts.last.clamp(min=0)

        def ends(found: list[Any], begin: Any) -> Any:
            return begin if begin is None else torch.where(some, torch.cat(found, 1)[:, last], begin)

        state = State(ends([s.h for s in states], hx.h), ends([s.c for s in states], hx.c))
        y = ys[0] if len(ys) == 1 else torch.cat(ys)
        return pieces.move(y, pieces.inverse(there, total), there, (False, False)), state  # no step is left out

    def layers(
        self,
        given: Arguments,
        *,
        save: bool = False,
        packed: Tensor | None = None,
        run: Callable[..., Result] = sequence,
    ) -> tuple[Tensor, State, list[Ran]]:
        """Run every layer and direction: y [T, B, D*R], states [L*D, B, .], one `Ran` for each; `packed` are lengths on CPU."""
        ran: list[Ran] = []
        D = 2 if self.bidirectional else 1
        x = given.x
        noisy = self._noisy()
        seed = self._seed() if noisy else 0
        begin = self._zero_states(x, x.shape[1]) if given.hx is None else given.hx
        for layer in range(self.num_layers):
            if layer and self.dropout and self.training:
                x = self._drop(x, packed)
            if self.input_dropout and self.training:
                x = x * F.dropout(x.new_ones(x.shape[1:]), self.input_dropout)  # one mask [B, I] for all steps
            for direction in range(D):
                k = layer * D + direction
                w = self.weights_of(layer, direction)
                if self.weight_dropout and self.training:
                    w = w._replace(w_hh=F.dropout(w.w_hh, self.weight_dropout))
                noise = self._noise(x, seed, 2 * layer + direction) if noisy else None
                state = _of(begin, k)
                fresh = None if given.reset_state is None else _of(given.reset_state, k)
                result = run(
                    self.cell,
                    x,
                    w,
                    state,
                    lengths=given.lengths,
                    reset=given.reset,
                    reset_state=fresh,
                    reverse=bool(direction),
                    backend=self.backend,
                    save=save,
                    check_finite=self.check_finite and layer == 0,
                    noise=noise,
                    checkpoint=self.checkpoint,
                )
                ran.append(Ran(x, w, state, fresh, bool(direction), result, noise))
            ys = [r.result.y for r in ran[-D:]]
            if len(self.cell.feeds_back) > 1:
                ys = [y[..., : self.hidden_size] for y in ys]  # FGR feeds its gates back behind its output
            x = ys[0] if D == 1 else torch.cat(ys, -1)  # [T, B, D*R]
        h = _join([r.result.h_n for r in ran])  # [L*D, B, R]
        c = _join([r.result.c_n for r in ran]) if self.cell.has_cell else None
        return x, State(h, c), ran

    def _drop(self, x: Tensor, packed: Tensor | None) -> Tensor:
        """Dropout between layers; on packed input torch.nn draws one mask per real step, so that is what is done."""
        if packed is None:
            return F.dropout(x, self.dropout, True)
        steps = pack_padded_sequence(x, packed)
        data = F.dropout(steps.data, self.dropout, True)
        return pad_packed_sequence(PackedSequence(data, steps.batch_sizes))[0]

    def _seed(self) -> Any:
        """What the masks of one call are drawn from: a number of torch's own generator, which so repeats them."""
        if not (self.training and (self.recurrent_dropout or self.zoneout_h or self.zoneout_c)):
            return 0
        return torch.randint(2**63 - 1, (), dtype=torch.int64, device="cpu")

    def _noise(self, x: Tensor, seed: Any, stream: int) -> Noise:
        hidden = None
        if self.hidden_dropout and self.training:
            dtype = torch.float32 if x.dtype.itemsize == 2 else x.dtype  # 1/(1-p) is not rounded with the numbers it scales
            hidden = F.dropout(x.new_ones(x.shape[1], self.fed_back_size, dtype=dtype), self.hidden_dropout)
        return Noise(self.zoneout_h, self.zoneout_c, self.recurrent_dropout, seed, stream, self.training, hidden)

    def _zero_states(self, x: Tensor, B: int) -> State:
        rows = self.num_layers * self.num_directions
        h = x.new_zeros(rows, B, self.fed_back_size)
        return State(h, x.new_zeros(rows, B, self.hidden_size) if self.cell.has_cell else None)


_VANILLA = (cells.VanillaRNN("tanh"), cells.VanillaRNN("relu"))


def _of(state: State, k: int) -> State:
    return State(state.h[k], None if state.c is None else state.c[k])


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0].unsqueeze(0) if len(parts) == 1 else torch.stack(parts)


def _rows(state: State, order: Tensor) -> State:
    """The state [L*D, B, .] or [L*D, T, B, .] with its rows in another order."""
    return State(*(None if s is None else s.index_select(-2, order) for s in state))


class LSTM(Recurrent):
    """Long short-term memory over a sequence: torch.nn.LSTM's arguments, parameters, numbers; and what it has not.

        i, f, o = sigmoid(z_i), sigmoid(z_f), sigmoid(z_o);  g = tanh(z_g),   z = x W_ih^T + b_ih + h W_hh^T + b_hh
        c' = f * c + i * g
        h' = o * tanh(c')            with a projection: h' <- h' W_hr^T

    Args:
        input_size, hidden_size: I and H.
        num_layers: layers on top of each other.
        bias: whether there are b_ih and b_hh.
        batch_first: x and outputs are [B, T, .] instead of [T, B, .]; states are not.
        dropout: rate between layers while training.
        bidirectional: a second pass from the last step to the first; outputs side by side.
        proj_size: P, the width h is projected to; 0 for none.
        device, dtype: of the parameters.
        cell: the recurrence, `openlstm.cells.LSTM()` if None; any with a cell state, your own too (on the reference, slower).
        input_dropout: rate on the input of every layer, one mask [B, I] for all steps of a call (locked dropout).
        hidden_dropout: rate on what is fed back, one mask [B, R] for all steps, inside the sums alone: z = .. + (m*h) W_hh^T.
        recurrent_dropout: rate on the candidate g, drawn at every step; what the cell holds is never dropped.
        zoneout_h, zoneout_c: the probability with which a unit keeps its old h or c at a step.
        weight_dropout: rate on the entries of W_hh, one mask for a call (DropConnect).
        backend: "auto", "cpu", "cuda" or "reference"; a named one is never replaced by another.
        check_finite: refuse NaN and infinity in x.
        checkpoint: keep for the backward pass only the state at every so many steps (rounded up to whole blocks of 512 // B),
            1 .. T, and run the steps between again: one more forward pass, the same bits, memory for T/checkpoint states
            instead of T (G + 1) H B numbers.

    Dropout acts while training and scales what it keeps by 1/(1-p); zoneout takes its expectation in eval. All masks follow
    torch.manual_seed.

    A call `lstm(x, (h0, c0), lengths=..., reset=..., reset_state=..., cu_seqlens=...)`:
        x: [T, B, I], [B, T, I] with batch_first, [T, I] unbatched, a PackedSequence, or [total, I] with cu_seqlens.
        (h0, c0): [L*D, B, R] and [L*D, B, H] ([L*D, R], [L*D, H] unbatched); zeros if None.
        lengths: integers [B], list or tensor: a ragged batch without packing. Outputs past a row's length are exactly 0,
            x there is never read, h_n and c_n are those at the row's last real step.
        reset: [T, B] ([B, T] with batch_first, [T] unbatched), bool or 0 and 1 in uint8 or float: before step t the row's state
            becomes zero, or `reset_state` where given; never the carried-in state. It cuts between t-1 and t for both
            directions.
        reset_state: (h, c) shaped as (h0, c0); or [L*D, .], one for all rows, as a parameter that is learned; or
            [L*D, T, B, .] ([L*D, B, T, .] with batch_first), one for each reset: what stands elsewhere is not read.
        cu_seqlens: integers [N+1] from 0 to total: sequence n is x[cu_seqlens[n] : cu_seqlens[n+1]]; a length may be 0. Outputs
            are [total, .], states [L*D, N, .], reset is [total]. A compiled graph breaks here.

    Returns:
        y [T, B, D*R] in the form of x, and (h_n, c_n) in the form of (h0, c0). With `cells.FGR`, which feeds back h and three
        gates, h0 and h_n are [L*D, B, 4H]; y is the output alone.

    Raises:
        ShapeError, DtypeError, ArgumentError: where an argument does not fit; the message says what would.
        BackendError: where the named backend cannot run this.

    `isinstance(layer, torch.nn.LSTM)` is False: torch.compile refuses subclasses of torch.nn.LSTM.

    Source: Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000; projection: Sak, Senior & Beaufays 2014; locked
    dropout: Gal & Ghahramani 2016; recurrent dropout: Semeniuta, Severyn & Barth 2016; zoneout: Krueger et al. 2017;
    DropConnect: Merity, Keskar & Socher 2018.

    >>> import torch, openlstm
    >>> lstm = openlstm.LSTM(3, 5)
    >>> y, (h, c) = lstm(torch.zeros(7, 2, 3), lengths=[7, 4])
    >>> y.shape, h.shape, c.shape
    (torch.Size([7, 2, 5]), torch.Size([1, 2, 5]), torch.Size([1, 2, 5]))
    >>> lstm(torch.zeros(11, 3), cu_seqlens=torch.tensor([0, 7, 7, 11]))[0].shape  # rows of 7, 0 and 4 steps
    torch.Size([11, 5])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        *,
        cell: Cell | None = None,
        **options: Unpack[Options],
    ) -> None:
        cell = cells.LSTM() if cell is None else cell
        checks.cell("LSTM", cell, has_cell=True)
        sizes = (input_size, hidden_size, num_layers)
        super().__init__(cell, *sizes, bias, batch_first, dropout, bidirectional, proj_size, device, dtype, **options)

    @classmethod
    def from_torch(cls, layer: nn.LSTM) -> LSTM:
        """The same layer as ours: same arguments, same mode, same Parameter objects.

        Raises:
            DtypeError: for another kind of module.
            ArgumentError: for a subclass, hooks, parametrisations or members of its own, which would be lost.

        >>> import torch, openlstm
        >>> theirs = torch.nn.LSTM(3, 5)
        >>> openlstm.LSTM.from_torch(theirs).weight_ih_l0 is theirs.weight_ih_l0
        True
        """
        expect("LSTM.from_torch", layer, nn.LSTM)
        return convert("LSTM.from_torch", "the layer", layer, LSTM)

    def to_torch(self) -> nn.LSTM:
        """The same layer as torch.nn's: same arguments, same mode, same Parameter objects.

        Raises:
            ArgumentError: for a cell or an option that torch.nn does not have, or where something would be lost.
        """
        _torch_has("LSTM.to_torch", self, cells.LSTM())
        return convert("LSTM.to_torch", "the layer", self, nn.LSTM)


class GRU(Recurrent):
    """The gated recurrent unit: torch.nn.GRU's arguments, parameters and numbers; and what it has not.

        r, z = sigmoid(..), sigmoid(..)                                   # x W^T + b_ih + h U^T + b_hh
        n = tanh(x W_n^T + b_in + r * (h U_n^T + b_hn))
        h' = (1 - z) * n + z * h

    Args and call as in `LSTM`, but the state is h alone and `cell` is one without a cell state.
        proj_size: keyword; with a projection the unprojected state is carried too, and the state is a pair (h [L*D, B, P],
            c [L*D, B, H]).

    Source: Cho et al. 2014.

    >>> import torch, openlstm
    >>> y, h = openlstm.GRU(3, 5, zoneout_h=0.1)(torch.zeros(7, 2, 3))
    >>> y.shape, h.shape
    (torch.Size([7, 2, 5]), torch.Size([1, 2, 5]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        proj_size: int = 0,
        cell: Cell | None = None,
        **options: Unpack[Options],
    ) -> None:
        cell = cells.GRU() if cell is None else cell
        checks.cell("GRU", cell, has_cell=False)
        if proj_size and isinstance(cell, cells.GRU):
            cell = changed(cell, memory=True)
        sizes = (input_size, hidden_size, num_layers)
        super().__init__(cell, *sizes, bias, batch_first, dropout, bidirectional, proj_size, device, dtype, **options)

    @classmethod
    def from_torch(cls, layer: nn.GRU) -> GRU:
        """As `LSTM.from_torch`."""
        expect("GRU.from_torch", layer, nn.GRU)
        return convert("GRU.from_torch", "the layer", layer, GRU)

    def to_torch(self) -> nn.GRU:
        """As `LSTM.to_torch`."""
        _torch_has("GRU.to_torch", self, cells.GRU())
        return convert("GRU.to_torch", "the layer", self, nn.GRU)


class RNN(Recurrent):
    """The recurrence without a highway: torch.nn.RNN's arguments, parameters and numbers; and what it has not.

        h' = tanh(z)  or  relu(z),   z = x W_ih^T + b_ih + h W_hh^T + b_hh

    Args and call as in `LSTM`, but the state is h alone and `cell` is one without a cell state.
        nonlinearity: "tanh" or "relu".
        proj_size: keyword; h' <- h' W_hr^T.

    Source: Elman 1990.

    >>> import torch, openlstm
    >>> y, h = openlstm.RNN(3, 5, nonlinearity="relu")(torch.zeros(7, 2, 3))
    >>> y.shape, h.shape
    (torch.Size([7, 2, 5]), torch.Size([1, 2, 5]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        proj_size: int = 0,
        cell: Cell | None = None,
        **options: Unpack[Options],
    ) -> None:
        if cell is None:
            cell = cells.VanillaRNN(nonlinearity)  # type: ignore[arg-type]
        checks.cell("RNN", cell, has_cell=False)
        sizes = (input_size, hidden_size, num_layers)
        super().__init__(cell, *sizes, bias, batch_first, dropout, bidirectional, proj_size, device, dtype, **options)
        self.nonlinearity = getattr(cell, "nonlinearity", nonlinearity)

    @classmethod
    def from_torch(cls, layer: nn.RNN) -> RNN:
        """As `LSTM.from_torch`."""
        expect("RNN.from_torch", layer, nn.RNN)
        return convert("RNN.from_torch", "the layer", layer, RNN)

    def to_torch(self) -> nn.RNN:
        """As `LSTM.to_torch`."""
        _torch_has("RNN.to_torch", self, *_VANILLA)
        return convert("RNN.to_torch", "the layer", self, nn.RNN)

    def extra_repr(self) -> str:
        shown = super().extra_repr()
        return shown if self.nonlinearity == "tanh" else f"{shown}, nonlinearity={self.nonlinearity!r}"


def _torch_has(who: str, layer: Recurrent, *known: Cell) -> None:
    """Raise where torch.nn's layer would lack something of ours."""
    hint = "keep the openlstm layer"
    if layer.cell not in known:
        expected = f"cells.{brief(known[0])}"
        what = f"torch.nn has no {brief(layer.cell)}"
        raise ArgumentError(message(who, what, f"cell: {brief(layer.cell)}", expected, hint))
    lost = [f"{name}={getattr(layer, name)!r}" for name, default in DEFAULTS.items() if getattr(layer, name) != default]
    if layer.proj_size and not isinstance(layer, LSTM):
        lost.append(f"proj_size={layer.proj_size}")
    if lost:
        what, hint = "torch.nn's layer has no such option", f"{hint}, or set them to their defaults first"
        raise ArgumentError(message(who, what, ", ".join(lost), "the defaults", hint))
