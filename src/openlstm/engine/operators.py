"""The custom operators `openlstm::forward` and `openlstm::backward`: one call of a backend, as a graph can carry it.

They are functional, have an implementation and a fake, and know nothing of autograd; `op.py` builds that around them.

With x in bfloat16 the matrices of weights may have either type and everything else is float32 (`cpu.py`); gradients have the
types of what they belong to.

Legend: T time, B batch, I input size, H hidden size, P projected size, R what is fed back (P with a projection, else H for each
of `Cell.feeds_back`), G gates of a cell.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from openlstm import cells
from openlstm.cells import Cell
from openlstm.engine import checkpoint, cpu
from openlstm.engine.check import check_recur
from openlstm.engine.support import SUPPORT, choose
from openlstm.errors import ArgumentError, BackendError, DtypeError, describe, message
from openlstm.noise import Noise
from openlstm.reference import Gradients, Saved, State, Weights
from openlstm.weights import hidden_size

CELLS: dict[str, Cell] = {**{cell.kernel: cell for cell in cells.ALL}, "gru_memory": cells.GRU(memory=True)}
"""An operator's argument is a string: every cell by the name of its kernel; what clips, clips at another argument."""

# The tensors of a call in the order of the operators' arguments:
#   0 x | 1-7 w_ih, w_hh, b_ih, b_hh, w_hr, w_ch, norm | 8-9 h0, c0 | 10-11 lengths, reset | 12-13 reset_h, reset_c
#   14-15 hidden, seed
# and of the way back: 16-19 y, gates, c, m | 20-22 dy, dh, dc
INPUTS = 16
NOT_REAL = (10, 11, 14, 15)


class Result(NamedTuple):
    """What `sequence` returns; what a cell has not, or was not asked to save, is None or empty."""

    y: Tensor  # [T, B, R]
    h_n: Tensor  # [B, R]
    c_n: Any  # [B, H]
    gates: Any  # [T, B, len(cell.saved)*H]
    c: Any  # [T, B, H]
    m: Any = None  # [T, B, H], the cell's own output, where a projection of it is fed back


class How(NamedTuple):
    """What of a call is not a tensor: the same for both operators."""

    kernel: str
    clip: float | None
    reverse: bool
    zoneout_h: float
    zoneout_c: float
    candidate: float
    stream: int
    training: bool
    backend: str
    checkpoint: int = 0  # steps between two states that are kept; 0 keeps everything

    @staticmethod
    def of(cell: Cell, reverse: bool, noise: Noise | None, backend: str, checkpoint: int = 0) -> How:
        kernel = "gru_memory" if cell.kernel == "gru" and cell.has_cell else cell.kernel
        n = noise or _QUIET
        rates = (float(n.zoneout_h), float(n.zoneout_c), float(n.candidate))
        return How(kernel, cell.clip, reverse, *rates, n.stream, n.training, backend, checkpoint)

    @property
    def cell(self) -> Cell:
        cell = CELLS[self.kernel]
        return cell if self.clip is None else replace(cell, clip=self.clip)  # type: ignore[type-var]


_QUIET = Noise()
_LAYERS = {"rnn": "RNN", "gru": "GRU"}


def active(noise: Noise | None) -> Noise | None:
    """The noise that acts: in eval zoneout alone; None for none."""
    if noise is None:
        return None
    if not noise.training:
        noise = noise._replace(candidate=0.0, hidden=None)
    return noise if noise.zoneout_h or noise.zoneout_c or noise.candidate or noise.hidden is not None else None


class Call(NamedTuple):
    """The arguments of a backend."""

    cell: Cell
    x: Tensor
    weights: Weights
    state: State
    options: dict[str, Any]

    @staticmethod
    def of(tensors: Any, how: How, cell: Cell | None = None) -> Call:
        x, *weights, h0, c0, lengths, reset, reset_h, reset_c, hidden, seed = tensors
        reset_state = None if reset_h is None else State(reset_h, reset_c)
        options = {"lengths": lengths, "reset": reset, "reset_state": reset_state, "reverse": how.reverse}
        if hidden is not None or how.zoneout_h or how.zoneout_c or how.candidate:
            drawn = 0 if seed is None else int(seed)
            rates = (how.zoneout_h, how.zoneout_c, how.candidate)
            options["noise"] = Noise(*rates, drawn, how.stream, how.training, hidden)
        return Call(cell or how.cell, x, Weights(*weights), State(h0, c0), options)

    def module(self, backend: str, save: bool) -> Any:
        projection, noise = self.weights.w_hr is not None, "noise" in self.options
        x = self.x if self.x.dtype == self.state.h.dtype else self.state.h
        return SUPPORT[choose(backend, self.cell, x, who(self.cell), projection, noise, save)].module

    @property
    def keeps_m(self) -> bool:
        """Whether the cell's own output is kept: where it is projected; under zoneout a backend finds it again."""
        return self.weights.w_hr is not None


def run_forward(call: Call, backend: str, save: bool, check_finite: bool, every: int = 0) -> Result:
    """The forward pass of a backend, its arguments checked.

    Where a checkpoint is kept after `every` steps, `gates` and `c` are the states h [N, B, R] and c [N, B, H] that are kept.
    """
    cell, x, weights, state, options = call
    lengths = options["lengths"]
    # a kernel reads addresses
    if x.dtype != state.h.dtype and not cpu.has_bfloat16(cell):  # a graph that was made where there are such kernels
        wide = call._replace(x=x.float(), weights=_wide(weights))
        run = run_forward(wide, backend, save, check_finite, every)
        return run._replace(y=run.y.to(x.dtype))
    shown = (x, weights) if x.dtype == state.h.dtype else _stand_ins(x, weights, state)
    check_recur(cell, *shown, state, None, options["reset"], options["reset_state"], options.get("noise"))
    if lengths is not None or check_finite:
        check_values(who(cell), x, lengths, check_finite)
    module = call.module(backend, save)
    if every:
        checkpoint.check(who(cell), every, x.shape[0])
        if save:
            with plain_types(x):
                y, state, begins = checkpoint.forward(module, cell, x, weights, state, every, **options)
            return Result(y, state.h, state.c, *begins)
    with plain_types(x):
        run = module.forward(cell, x, weights, state, save=save, **options)
    state = run.state if x.shape[0] else cloned(run.state)
    if run.saved is None:
        return Result(run.y, state.h, state.c, None, None)
    m = run.saved.m if call.keeps_m else None
    return Result(run.y, state.h, state.c, run.saved.gates if cell.saved else None, run.saved.c, m)


def run_backward(
    call: Call, tensors: Any, backend: str, input_gradient: bool, steps: bool = False, every: int = 0
) -> Gradients:
    """The backward pass of a backend; `tensors` are y, gates, c, m, dy, dh, dc, as `run_forward` gave them."""
    y, gates, c, m, dy, dh, dc = tensors
    x, has_cell, number = call.x, call.cell.has_cell, call.state.h.dtype
    if x.dtype != number and not cpu.has_bfloat16(call.cell):
        wide = call._replace(x=x.float(), weights=_wide(call.weights))
        more = (y.float(), gates, c, m, None if dy is None else dy.float(), dh, dc)
        return as_given(run_backward(wide, more, backend, input_gradient, steps, every), (x, *call.weights))
    if any(a is not None and a.dtype != x.dtype for a in (y, dy)) or any(
        a is not None and a.numel() and a.dtype != number for a in (gates, c, m, dh, dc)
    ):  # a kernel would read them as something else
        got = ", ".join(describe(a) for a in tensors if a is not None)
        hint = "give back what forward gave, and gradients of the types of its outputs"
        raise DtypeError(message(who(call.cell), "backward got other types than forward", got, f"{x.dtype} and {number}", hint))
    module = call.module(backend, True)
    if every:
        begins, dstate = State(gates, c if has_cell else None), State(dh, dc if has_cell else None)
        options = {**call.options, "input_gradient": input_gradient}
        with plain_types(x):
            grads = checkpoint.backward(module, call.cell, x, call.weights, begins, dy, dstate, every, **options)
        return as_given(grads, (call.x, *call.weights))
    saved = Saved(y, gates if call.cell.saved else None, c if has_cell else None, m if call.keeps_m else None)
    dstate = State(dh, dc if has_cell else None)
    more = {"steps": steps, "input_gradient": input_gradient}
    with plain_types(x):
        grads = module.backward(call.cell, x, call.weights, call.state, saved, dy, dstate, **call.options, **more)
    grads = as_given(grads, (call.x, *call.weights))
    return grads if call.x.shape[0] else grads._replace(state=cloned(grads.state))


def as_given(grads: Gradients, tensors: Any) -> Gradients:
    """The gradients of x and of the weights in the types of those, with which `tensors` begins."""
    x, w_ih, w_hh, _, _, w_hr = tensors[:6]
    if x.dtype == grads.state.h.dtype:
        return grads
    pairs = zip((grads.weights.w_ih, grads.weights.w_hh, grads.weights.w_hr), (w_ih, w_hh, w_hr), strict=True)
    d_ih, d_hh, d_hr = (d if d is None or w is None else d.to(w.dtype) for d, w in pairs)
    dx = None if grads.x is None else grads.x.to(x.dtype)
    return grads._replace(x=dx, weights=grads.weights._replace(w_ih=d_ih, w_hh=d_hh, w_hr=d_hr))


def flat(g: Gradients) -> tuple[Any, ...]:
    """The gradients in the order of openlstm::backward, None for each that does not exist or is another one's twin."""
    w, s, r = g.weights, g.state, g.reset_state or State(None)
    b_hh = None if w.b_hh is w.b_ih else w.b_hh
    return (g.x, w.w_ih, w.w_hh, w.b_ih, b_hh, w.w_hr, w.w_ch, w.norm, s.h, s.c, r.h, r.c)


def filled(outputs: tuple[Any, ...], like: Tensor) -> tuple[Tensor, ...]:
    """An operator returns tensors only: an empty one for each None."""
    return tuple(like.new_empty(0) if t is None else t for t in outputs)


def cloned(state: State) -> State:
    """A copy. With T = 0 a state comes back as it went in, and an operator's outputs may not be its inputs."""
    return State(*(None if s is None else s.clone() for s in state))


def _stand_ins(x: Tensor, weights: Weights, state: State) -> tuple[Tensor, Weights]:
    """What is bfloat16, as float32 of the same shapes and no memory, for checks of sizes; a wrong type stays to be seen."""

    def like(a: Any) -> Any:
        return a if a is None or a.dtype != x.dtype else state.h.new_empty(()).expand(a.shape)

    return like(x), weights._replace(w_ih=like(weights.w_ih), w_hh=like(weights.w_hh), w_hr=like(weights.w_hr))


def _wide(weights: Weights) -> Weights:
    return Weights(*(None if w is None else w.float() for w in weights))


def plain_types(x: Tensor) -> Any:
    """A block in which nothing is converted by itself: the reference is made of operations that torch.autocast would change."""
    on = x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
    return torch.autocast(x.device.type, enabled=False) if on else nullcontext()


def who(cell: Cell) -> str:
    """The layer that a message speaks of."""
    return _LAYERS.get(cell.name, "LSTM")


def check_values(who: str, x: Tensor, lengths: Tensor | None, check_finite: bool) -> None:
    """Checks that read values: here they do not break a compiled graph."""
    T = x.shape[0]
    if lengths is not None and lengths.numel() and (int(lengths.min()) < 0 or int(lengths.max()) > T):
        row = int(torch.nonzero((lengths < 0) | (lengths > T))[0])
        shown = ", ".join(str(int(n)) for n in lengths[:8]) + (", ..." if len(lengths) > 8 else "")
        hint = "lengths count the real steps of each row; x must be as long as the longest"
        what = f"lengths[{row}] is {int(lengths[row])}, outside 0..{T}"
        raise ArgumentError(message(who, what, f"lengths: [{shown}]", f"0 <= lengths <= T = {T}", hint))
    if not check_finite:
        return
    bad = ~x.isfinite()  # [T, B, I]
    if lengths is not None:  # padding is never read
        bad &= (torch.arange(T, device=x.device)[:, None] < lengths)[..., None]
    if bool(bad.any()):
        t, b, n = torch.nonzero(bad)[0].tolist()
        hint = "fill or mask missing values before the layer, or pass check_finite=False to let them through"
        what = f"x holds {float(x[t, b, n])} at step {t}, row {b}, feature {n}"
        raise ArgumentError(message(who, what, "a value that is not finite", "finite values (check_finite=True)", hint))


def _refuse_onnx(how: How) -> None:
    """Raise while torch.onnx.export looks at the operator: it would fail on it, in words that name no way out.

    Raises:
        BackendError: then.
    """
    if torch.onnx.is_in_onnx_export():
        hint = "export openlstm.nn.to_torch(copy.deepcopy(model)): the same parameters in torch.nn's layers"
        what = "ONNX has no operator for this layer"
        raise BackendError(message(who(how.cell), what, "torch.onnx.export", "a model with layers of torch.nn", hint))


def _forward(*args: Any) -> tuple[Tensor, ...]:
    how = How(*args[INPUTS:-2])
    _refuse_onnx(how)
    save, check_finite = args[-2:]
    run = run_forward(Call.of(args[:INPUTS], how), how.backend, save, check_finite, how.checkpoint)
    return filled(tuple(run), args[0])


def _backward(*args: Any) -> tuple[Tensor, ...]:
    how = How(*args[INPUTS + 7 : -1])
    call = Call.of(args[:INPUTS], how)
    grads = run_backward(call, args[INPUTS : INPUTS + 7], how.backend, args[-1], every=how.checkpoint)
    return filled(flat(grads), call.x)


def _forward_shapes(*args: Any) -> tuple[Tensor, ...]:
    x, w_ih, w_hh, _, _, w_hr, _, _, h0 = args[:9]
    how, save = How(*args[INPUTS:-2]), args[-2]
    _refuse_onnx(how)
    cell = how.cell
    T, B, H, R = x.shape[0], x.shape[1], hidden_size(cell, Weights(w_ih, w_hh)), w_hh.shape[1]
    y, h_n = x.new_empty((T, B, R)), h0.new_empty((B, R))
    c_n = h0.new_empty((B, H) if cell.has_cell else (0,))
    if save and how.checkpoint:
        kept = -(-T // checkpoint.interval(how.checkpoint, B))
        c = h0.new_empty((kept, B, H) if cell.has_cell else (0,))
        return y, h_n, c_n, h0.new_empty((kept, B, R)), c, x.new_empty(0)
    return (
        *(y, h_n, c_n),
        h0.new_empty((T, B, len(cell.saved) * H) if save and cell.saved else (0,)),
        h0.new_empty((T, B, H) if save and cell.has_cell else (0,)),
        h0.new_empty((T, B, H) if save and w_hr is not None else (0,)),
    )


def _backward_shapes(*args: Any) -> tuple[Tensor, ...]:
    x, w_ih, w_hh, b_ih, b_hh, w_hr, w_ch, norm, h0, c0, _, _, reset_h, reset_c = args[: INPUTS - 2]
    twin = None if not How(*args[INPUTS + 7 : -1]).cell.separate else b_hh
    outputs = (x if args[-1] else None, w_ih, w_hh, b_ih, twin, w_hr, w_ch, norm, h0, c0, reset_h, reset_c)
    return filled(tuple(None if t is None else t.new_empty(t.shape) for t in outputs), x)


_TENSORS = (
    "Tensor x, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? w_hr, Tensor? w_ch, Tensor? norm, "
    "Tensor h0, Tensor? c0, Tensor? lengths, Tensor? reset, Tensor? reset_h, Tensor? reset_c, Tensor? hidden, Tensor? seed"
)
_SAVED = "Tensor y, Tensor gates, Tensor c, Tensor m, Tensor? dy, Tensor? dh, Tensor? dc"
_HOW = (
    "str kernel, float? clip, bool reverse, float zoneout_h, float zoneout_c, float candidate, int stream, "
    "bool training, str backend, int checkpoint"
)
_library = torch.library.Library("openlstm", "DEF")
_library.define(f"forward({_TENSORS}, {_HOW}, bool save, bool check_finite) -> ({', '.join(['Tensor'] * 6)})")
_library.define(f"backward({_TENSORS}, {_SAVED}, {_HOW}, bool input_gradient) -> ({', '.join(['Tensor'] * 12)})")
for _name, _operator, _shapes in (("forward", _forward, _forward_shapes), ("backward", _backward, _backward_shapes)):
    _library.impl(_name, _operator, "CompositeExplicitAutograd")
    torch.library.register_fake(f"openlstm::{_name}", _shapes, lib=_library)
