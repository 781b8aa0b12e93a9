"""Two layers with the same numbers, ours and torch's, and everything that comes out of them, for the tests of this folder."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

import openlstm
from openlstm.engine import native

BACKENDS = ["cpu", "reference"] if native.available() else ["reference"]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}


def twins(kind: str, *sizes: int, seed: int = 0, dtype: torch.dtype = torch.float64, **options: Any) -> tuple[Any, Any]:
    """(ours, theirs) with the same parameters, asymmetric and not small; theirs always in float64."""
    ours_only = {name: options.pop(name) for name in ("backend", "check_finite", "cell") if name in options}
    torch.manual_seed(seed)
    theirs = getattr(nn, kind)(*sizes, **options, dtype=dtype)
    with torch.no_grad():
        for p in theirs.parameters():
            p.uniform_(-0.7, 0.8)
    ours = getattr(openlstm, kind)(*sizes, **options, **ours_only, dtype=dtype)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, copy.deepcopy(theirs).double()


def states(layer: Any, batch: int | None, seed: int = 1, dtype: torch.dtype = torch.float64) -> Any:
    """A non-zero state for a layer: (h, c), or h alone; without a batch axis if batch is None."""
    torch.manual_seed(seed)
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    middle = [] if batch is None else [batch]
    width = getattr(layer, "fed_back_size", layer.proj_size or layer.hidden_size)
    h = torch.randn(rows, *middle, width, dtype=dtype)
    if not is_pair(layer):
        return h
    names = _states(layer)
    others = {name: torch.randn(rows, *middle, layer.hidden_size, dtype=dtype) for name in names}
    if "n" in others:  # a sum of weights
        others["n"] = others["n"].abs() + 0.1
    return (h, *others.values())


def _states(layer: Any) -> tuple[str, ...]:
    return layer.cell.states if hasattr(layer, "cell") else ("c",)


def is_pair(layer: Any) -> bool:
    """Whether a layer's state is (h, c), or more."""
    return layer.cell.has_cell if hasattr(layer, "cell") else isinstance(layer, nn.LSTM)


def everything(layer: Any, x: Any, hx: Any = None, run: Any = None, **call: Any) -> dict[str, Tensor]:
    """Outputs, states and every gradient of a layer, for random cotangents on outputs and final states, by name.

    `run(x, hx)` stands in for the call of the layer.
    """
    layer.zero_grad()
    dtype = next(layer.parameters()).dtype
    packed = isinstance(x, PackedSequence)
    data = _leaf(x.data if packed else x, dtype)
    given = PackedSequence(data, *x[1:]) if packed else data
    pair = is_pair(layer)
    start = None if hx is None else tuple(_leaf(s, dtype) for s in (hx if pair else [hx]))
    y, state = (layer if run is None else run)(given, None if start is None else start if pair else start[0], **call)
    ends = [y.data if packed else y, *(state if pair else [state])]
    torch.manual_seed(7)
    torch.autograd.backward(ends, [torch.randn(end.shape, dtype=torch.float64).to(dtype) for end in ends])
    names = ("h", *_states(layer))
    out = dict(zip(("y", *names), ends, strict=False), dx=data.grad)
    out.update(zip((f"d{name}0" for name in names), [] if start is None else [s.grad for s in start], strict=False))
    out.update({f"d{name}": p.grad for name, p in layer.named_parameters()})
    return {name: a.detach() for name, a in out.items() if a is not None}


def far(ours: dict[str, Any], theirs: dict[str, Any], tolerance: float) -> dict[str, float]:
    """Where norm(ours - theirs) > tolerance * norm(theirs)."""
    assert ours.keys() == theirs.keys() and ours
    off: dict[str, float] = {}
    for name, a in ours.items():
        b = theirs[name].double()
        assert a.shape == b.shape, (name, a.shape, b.shape)
        error, size = float((a.double() - b).norm()), float(b.norm())
        if not error <= tolerance * size:
            off[name] = error / size if size else error
    return off


def _leaf(t: Tensor, dtype: torch.dtype) -> Tensor:
    return t.detach().to(dtype).clone().requires_grad_()
