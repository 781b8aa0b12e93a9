"""Drawn problems over every cell, size and option, and what a backend makes of them, for the laws of the engine.

Legend: T time, B batch, I input size, H hidden size, P projected size, R what is fed back (P with a projection, 4H for FGR,
else H).
"""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import openlstm
from openlstm import _array as A
from openlstm import cells, reference, weights
from openlstm.call import Call
from openlstm.cells import GRU, LSTM, Cell, VanillaRNN
from openlstm.data.panel import Panel
from openlstm.engine import native, threads
from openlstm.engine.backends import cpu
from openlstm.model_file import Step
from openlstm.noise import Noise
from openlstm.reference import State, Weights

ROOT = Path(__file__).parent.parent

WIDTHS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65)
"""Sizes around the widths of the vectors: 2 to 16 numbers, and tiles of four of them."""


@dataclass(frozen=True)
class Case:
    """What is drawn: a cell, sizes and options; `problem()` makes the numbers."""

    cell: Cell
    dtype: str = "float64"
    T: int = 6
    B: int = 5
    I: int = 3  # noqa: E741
    H: int = 4
    P: int = 0
    bias: bool = True
    lengths: bool = False
    reset: bool = False
    reset_state: bool = False
    each: bool = False  # every step has a reset state of its own
    reverse: bool = False
    sums: bool = False  # x is the sums of W x, I = G*H
    noise: str = ""  # what acts: h, c zoneout, g recurrent dropout, m a locked mask of what is fed back; a capital E for eval
    seed: int = 0

    def __str__(self) -> str:
        """A readable id: `lstm-float32-T6-B5-I3-H4-lengths`."""
        sizes = [f"{letter}{getattr(self, letter)}" for letter in "TBIH"] + ([f"P{self.P}"] if self.P else [])
        flags = [name for name in ("lengths", "reset", "reset_state", "each", "reverse", "sums") if getattr(self, name)]
        flags += [*([] if self.bias else ["nobias"]), *([self.noise] if self.noise else [])]
        return "-".join([name_of(self.cell), self.dtype, *sizes, *flags, str(self.seed)])

    @property
    def R(self) -> int:
        return weights.fed_back_size(self.cell, self.H, self.P)

    def problem(self) -> Problem:
        """Asymmetric random numbers: non-zero states, uneven lengths, a cotangent for every output."""
        rng = np.random.default_rng([self.seed, self.T, self.B, self.I, self.H])

        def normal(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(self.dtype)

        def state(*steps: int, real: bool = True) -> State:
            """Of one that is carried n, a sum of weights, is above 0, or 0 where a unit begins anew, as all of it then is."""
            h = normal(*steps, self.B, self.R)
            if not self.cell.has_cell:
                return State(h)
            parts = [normal(*steps, self.B, self.H) for _ in self.cell.states]
            if real and "n" in self.cell.states:
                n = self.cell.states.index("n")
                parts[n] = np.abs(parts[n]) + 0.1
                begins = rng.random(parts[n].shape) < 0.2
                parts = [np.where(begins, 0, part).astype(self.dtype) for part in parts]
            return State(h, np.concatenate(parts, -1))

        scale = 1.2 / np.sqrt(self.H or 1)
        named = {
            name: (scale * rng.uniform(-1, 1, shape)).astype(self.dtype)
            for name, shape in weights.shapes(self.cell, self.I, self.H, self.P, self.bias).items()
        }
        made = weights.collect({f"{name}_l0": w for name, w in named.items()})
        return Problem(
            self.cell,
            normal(self.T, self.B, len(self.cell.gates) * self.H if self.sums else self.I),
            made._replace(w_ih=None) if self.sums else made,
            state(),
            rng.integers(0, self.T + 1, self.B) if self.lengths else None,
            rng.random((self.T, self.B)) < 0.3 if self.reset else None,
            state(*([self.T] if self.each else [])) if self.reset_state else None,
            self.reverse,
            normal(self.T, self.B, self.R),
            state(real=False),
            self._noise(),
        )

    def _noise(self) -> Noise | None:
        """Every kind with a probability of its own; what the cell has not is left out."""
        if not self.noise:
            return None
        rng = np.random.default_rng([self.seed, self.B, self.R])
        return Noise(
            zoneout_h=0.3 * ("h" in self.noise),
            zoneout_c=0.4 * ("c" in self.noise and self.cell.has_cell),
            candidate=0.25 * ("g" in self.noise and self.cell.candidate is not None),
            seed=(self.seed << 32) + 12345 * self.seed + 7,
            stream=self.seed % 5,
            training="E" not in self.noise,
            hidden=((rng.random((self.B, self.R)) < 0.7) / 0.7).astype(self.dtype) if "m" in self.noise else None,
        )


@dataclass(frozen=True)
class Problem:
    """The arguments of `forward` and `backward`; arrays are numpy unless `tensors()` was asked for."""

    cell: Cell
    x: Any  # [T, B, I]
    weights: Weights
    state: State
    lengths: Any  # [B]
    reset: Any  # [T, B]
    reset_state: State | None
    reverse: bool
    dy: Any  # [T, B, R]
    dstate: State
    noise: Noise | None = None

    def call(self, **more: Any) -> Call:
        """The problem as a call."""
        return Call(self.cell, self.x, self.weights, self.state, **{**self.options, **more})

    @property
    def options(self) -> dict[str, Any]:
        noise = {} if self.noise is None else {"noise": self.noise}
        return dict(lengths=self.lengths, reset=self.reset, reset_state=self.reset_state, reverse=self.reverse, **noise)

    def rows(self, which: Any) -> Problem:
        """The same rows in another order, or some of them."""
        take = lambda a: None if a is None else a[which]  # noqa: E731
        along = lambda a: None if a is None else a[:, which]  # noqa: E731
        noise = self.noise
        return replace(
            self,
            x=along(self.x),
            state=_each(self.state, take),
            lengths=take(self.lengths),
            reset=along(self.reset),
            reset_state=_each(self.reset_state, lambda a: a[..., which, :]),
            dy=along(self.dy),
            dstate=_each(self.dstate, take),
            noise=None if noise is None else noise._replace(hidden=take(noise.hidden)),
        )

    def steps(self, first: int, last: int, state: State | None = None, dstate: State | None = None) -> Problem:
        """Steps first..last-1, from `state`; without given ones, from the same states."""
        lengths = self.lengths
        return replace(
            self,
            x=self.x[first:last],
            state=self.state if state is None else state,
            lengths=None if lengths is None else np.clip(lengths - first, 0, last - first),
            reset=None if self.reset is None else self.reset[first:last],
            reset_state=_each(self.reset_state, lambda a: a[first:last] if a.ndim == 3 else a),
            dy=self.dy[first:last],
            dstate=self.dstate if dstate is None else dstate,
        )

    def map(self, f: Any) -> Problem:
        """Apply f to every floating array."""
        return replace(
            self,
            x=f(self.x),
            weights=Weights(*(None if w is None else f(w) for w in self.weights)),
            state=_each(self.state, f),
            reset_state=_each(self.reset_state, f),
            dy=f(self.dy),
            dstate=_each(self.dstate, f),
            noise=None if (n := self.noise) is None else n._replace(hidden=None if n.hidden is None else f(n.hidden)),
        )

    def tensors(self) -> Problem:
        """The same numbers in torch."""
        p = self.map(torch.from_numpy)
        other = lambda a: None if a is None else torch.from_numpy(a)  # noqa: E731
        return replace(p, lengths=other(p.lengths), reset=other(p.reset))

    def strided(self) -> Problem:
        """The same numbers in arrays that are not contiguous: every second element of larger ones, or transposed."""

        def spread(a: np.ndarray) -> np.ndarray:
            wide = np.full((*(2 * n for n in a.shape[:-1]), 3 * a.shape[-1]), np.nan, a.dtype)
            view = wide[(*(slice(None, None, 2) for _ in a.shape[:-1]), slice(None, None, 3))]
            view[...] = a
            return view

        def turned(a: np.ndarray) -> np.ndarray:
            return np.ascontiguousarray(a.T).T

        p = self.map(spread)
        return replace(p, weights=Weights(*(None if w is None else turned(w) for w in self.weights)))


def run_all(backend: ModuleType, problem: Problem, steps: bool = True) -> dict[str, np.ndarray]:
    """Outputs, states, everything saved and every gradient by name, as numpy arrays."""
    p = problem
    run = backend.forward(p.call(save=True))
    grads = backend.backward(p.call(), run.saved, p.dy, p.dstate, steps=steps)
    named = {
        "y": run.y,
        **_fields("", run.state),
        **{f"saved.{name}": a for name, a in run.saved.named(p.cell).items()},
        "saved.own": run.saved.m if p.weights.w_hr is not None else None,  # under zoneout the engine does not keep it
        "dx": grads.x,
        **_fields("d", grads.weights),
        **_fields("d0", grads.state),
        **_fields("dreset_", grads.reset_state),
        "dh_steps": grads.h_steps,
        "dc_steps": grads.c_steps,
    }
    return {name: to_numpy(a) for name, a in named.items() if a is not None}


def per_row(results: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What belongs to rows: everything but the gradients of the weights."""
    return {name: a for name, a in results.items() if not name.startswith(("dw_", "db_", "dnorm"))}


def take_rows(results: dict[str, np.ndarray], which: Any) -> dict[str, np.ndarray]:
    """Some rows of what `run_all` gave: the batch is the axis before the last."""
    return {name: a[..., which, :] for name, a in per_row(results).items()}


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal shape, type and bits; one NaN is as good as another."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    integer = {4: np.uint32, 8: np.uint64}[a.dtype.itemsize]
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    return bool(((a.view(integer) == b.view(integer)) | (np.isnan(a) & np.isnan(b))).all())


def digest(results: dict[str, Any]) -> str:
    """A word for all bits of a result, to be compared between processes."""
    total = hashlib.sha256()
    for name in sorted(results):
        total.update(name.encode() + np.ascontiguousarray(results[name]).tobytes())
    return total.hexdigest()


def differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """The names under which two results differ in a bit (or that only one has)."""
    assert a, "nothing to compare"
    return sorted(name for name in a.keys() | b.keys() if name not in a or name not in b or not same_bits(a[name], b[name]))


def far(a: dict[str, Any], b: dict[str, Any], tolerance: float) -> dict[str, float]:
    """Where norm(a - b) > tolerance * norm(b): the name and the relative error."""
    assert a.keys() == b.keys() and a
    out = {}
    for name in a:
        assert a[name].shape == b[name].shape, name
        off = float(np.linalg.norm(a[name].astype(np.float64) - b[name]))
        size = float(np.linalg.norm(b[name].astype(np.float64)))
        if not off <= tolerance * size:
            out[name] = off / size if size else off
    return out


def draw(n: int, seed: int, noise: tuple[str, ...] = ("",), among: Any = None, **fixed: Any) -> list[Case]:
    """n cases over cells and their options, dtypes, sizes (0, 1, odd, around the vector width), options and directions.

    Args:
        noise: kinds of noise to choose from, as in `Case.noise`.
        among: the cells, all that ship if None.
    """
    among = cells.ALL if among is None else among
    rng = np.random.default_rng(seed)
    out = []
    for k in range(n):
        cell = among[k % len(among)]
        case = Case(
            cell,
            dtype=str(rng.choice(["float32", "float64"])),
            T=int(rng.choice([0, 1, 2, 3, 7, 20], p=[0.05, 0.15, 0.2, 0.2, 0.2, 0.2])),
            B=int(rng.choice([0, 1, 2, 3, 5, 7, 13], p=[0.05, 0.2, 0.15, 0.15, 0.15, 0.15, 0.15])),
            I=int(rng.choice(WIDTHS[1:])),
            H=int(rng.choice(WIDTHS[1:])),
            P=int(rng.choice([0, 1, 3, 8, 19], p=[0.6, 0.1, 0.1, 0.1, 0.1])),
            bias=bool(rng.random() < 0.8),
            lengths=bool(rng.random() < 0.5),
            reset=bool(rng.random() < 0.5),
            reset_state=bool(rng.random() < 0.5),
            each=bool(rng.random() < 0.3),
            reverse=bool(rng.random() < 0.4),
            noise=str(rng.choice(noise)),
            seed=k,
        )
        clip, blocks = rng.random() < 0.25, int(rng.choice([2, 3]) if rng.random() < 0.2 else 1)
        heads = 2 + k % 3 if k // len(among) % 4 == 1 else 1
        case = replace(case, **fixed)
        case = replace(case, each=case.each and case.reset_state, cell=_with(case.cell, clip=0.4 if clip else None))
        if blocks > 1 and "cells_per_gate" in _options(cell) and not case.sums:
            case = replace(case, H=case.H * blocks, cell=_with(case.cell, cells_per_gate=blocks))
        if heads > 1 and "heads" in _options(cell):
            case = replace(case, H=case.H * heads, cell=_with(case.cell, heads=heads))
        out.append(projected(case, case.P))
    return out


def projected(case: Case, P: int) -> Case:
    """The case with a projection of P, as far as its cell can have one; GRU needs its memory."""
    if not projectable(case.cell):
        return replace(case, P=0)
    return replace(case, P=P, cell=_with(case.cell, memory=True) if P else case.cell)


def projectable(cell: Cell) -> bool:
    """Whether a projection may follow: every unit sees all of h, which is the output alone, and is read by the sums alone."""
    return len(cell.feeds_back) == cell.heads == 1 and cell.recurrence == "dense" and not cell.reads_h


def cell_state(cell: Cell, draw: Callable[..., Any], *shape: int) -> Any:
    """c [.., C] of drawn numbers, where `shape` ends with H: those of n, a sum of weights, are above 0; None without a c."""
    if not cell.has_cell:
        return None
    parts = [draw(*shape) for _ in cell.states]
    return A.concat([abs(part) + 0.1 if name == "n" else part for name, part in zip(cell.states, parts, strict=True)])


def layer_of(cell: Cell, *sizes: Any, **options: Any) -> Any:
    """A layer that runs the cell."""
    if isinstance(cell, VanillaRNN):
        return openlstm.RNN(*sizes, nonlinearity=cell.nonlinearity, **options)
    if isinstance(cell, GRU):
        return openlstm.GRU(*sizes, **options)
    return (openlstm.LSTM if cell.has_cell else openlstm.RNN)(*sizes, cell=cell, **options)


def name_of(cell: Cell) -> str:
    """What a case is called by: the cell and the options that are not its defaults."""
    if not is_dataclass(cell):
        return cell.name
    options = {f.name: getattr(cell, f.name) for f in fields(cell) if getattr(cell, f.name) != f.default}
    return "-".join([cell.name, *(f"{name}{value}".replace("peepholeFalse", "np") for name, value in options.items())])


def _options(cell: Cell) -> set[str]:
    return {f.name for f in fields(cell)} if is_dataclass(cell) else set()


def _with(cell: Cell, **options: Any) -> Cell:
    """The cell with those of these options that it knows."""
    known = {name: value for name, value in options.items() if name in _options(cell)}
    return replace(cell, **known) if known else cell  # type: ignore[type-var]


KERNELS = [cell for cell in cells.ALL if cell.kernel in native.KERNELS or not native.available()]
"""The cells that the native engine runs: all that ship, not one of somebody's own."""


def pairs(**axes: Iterable[Any]) -> pytest.MarkDecorator:
    """Parameters in which every two values of two axes meet at least once: `@pairs(cell=cells.ALL, dtype=["float32", ...])`.

    A mistake that one value makes, or two together, is found as by all combinations, in a fraction of the cases. Where values
    of three axes must all meet, two are one axis: `**{"dtype,backend": itertools.product(...)}`. A value may be a
    `pytest.param` with marks; what is `impossible` is left out.
    """
    names = [axis.split(",") for axis in axes]
    values = [
        [v if hasattr(v, "marks") else pytest.param(*(v if len(own) > 1 else (v,))) for v in axis]
        for own, axis in zip(names, axes.values(), strict=True)
    ]

    def fits(row: dict[int, int]) -> bool:
        return not impossible({name: v for i, a in row.items() for name, v in zip(names[i], values[i][a].values, strict=True)})

    rows = [[values[i][a] for i, a in enumerate(row)] for row in covering([len(axis) for axis in values], fits)]
    words = ["-".join(str(v.id or "-".join(map(_word, v.values))) for v in row) for row in rows]
    made = [
        pytest.param(*(value for v in row for value in v.values), marks=[m for v in row for m in v.marks], id=word)
        for row, word in zip(rows, words, strict=True)
    ]
    return pytest.mark.parametrize(",".join(axes), made)


def covering(sizes: Sequence[int], fits: Callable[[dict[int, int]], bool] = lambda row: True) -> list[tuple[int, ...]]:
    """Rows with one index below each size, in which every two indices of two columns meet; few rows, the same every time.

    Args:
        sizes: how many values each column has.
        fits: whether a row, or a part of it, column -> index, may be.
    """
    columns = range(len(sizes))
    rows: list[tuple[int, ...]] = []
    places = [[(i, a) for a in range(sizes[i])] for i in columns]
    couples = (couple for one, other in itertools.combinations(places, 2) for couple in itertools.product(one, other))
    missing = {couple for couple in couples if fits(dict(couple))} if len(sizes) > 1 else {(place,) for place in places[0]}
    while missing:
        row = dict(min(missing))
        for i in columns:
            if i not in row:
                gain = {a: sum(tuple(sorted([(i, a), other])) in missing for other in row.items()) for _, a in places[i]}
                used = {a: sum(past[i] == a for past in rows) for a in gain}
                row[i] = min((a for a in gain if fits({**row, i: a})), key=lambda a: (-gain[a], used[a]))  # noqa: B023
        rows.append(tuple(row[i] for i in columns))
        missing -= set(itertools.combinations(sorted(row.items()), min(2, len(sizes))))
    return rows


def _word(value: Any) -> str:
    """What a value is called in the name of a case."""
    return name_of(value) if isinstance(value, Cell) else getattr(value, "__name__", None) or str(value)


def impossible(params: dict[str, Any]) -> bool:
    """Whether a test is asked to run a cell on a backend, or in bfloat16 on products, that have no kernel for it."""
    backend, case = params.get("backend"), params.get("case")
    cell = params.get("cell", getattr(case, "cell", None))
    if not isinstance(cell, Cell):
        return False
    if "products" in params:
        with native.use_bfloat16(params["products"]):
            return not native.has_bfloat16(cell)
    return not cell.kernel and (backend is cpu or backend == "cpu")


def isas(cell: Cell) -> list[str]:
    """The instruction sets that run this cell; `wide` is built with the first four kernels alone."""
    few = cell.kernel in ("lstm", "rnn_tanh", "rnn_relu", "gru")
    return [isa for isa in native.isas() if few or isa != "wide"]


def gates_held(dtype: str, i: float, f: float, c0: np.ndarray, steps: int = 5, cell: Cell | None = None) -> Problem:
    """A cell whose input and forget gates are held by their biases, with a live input to g and o = 1/2 at first.

    A cell that has only one of the two gates holds that one; a GRU's update gate (z = 1 keeps all) counts as f, and so does
    that of minGRU, closed. An sLSTM begins with n = 1 and m = 0.
    """
    cell = LSTM() if cell is None else cell
    H = c0.shape[1]
    p = Case(cell, dtype=dtype, T=steps, B=c0.shape[0], I=2, H=H).problem()
    held = {"i": i, "f": f, **({"z": f} if isinstance(cell, GRU) else {}), **({"u": -f} if "u" in cell.gates else {})}
    shut = np.repeat([gate in {*held, "o"} for gate in cell.gates], H)
    bias = np.repeat(np.array([held.get(gate, 0.0) for gate in cell.gates], dtype), H)
    peepholes = np.repeat([gate == "o" for gate in cell.peepholes], H)  # of the held gates: none
    w = p.weights._replace(
        w_ih=np.where(shut[:, None], 0, p.weights.w_ih).astype(dtype),
        w_hh=np.where(shut[:, None], 0, p.weights.w_hh).astype(dtype),
        b_ih=bias,
        b_hh=None if cell.recurrence == "none" else np.zeros_like(bias),
        w_ch=None if p.weights.w_ch is None else np.where(peepholes, p.weights.w_ch, 0).astype(dtype),
    )
    c0 = c0.astype(dtype)
    if len(cell.states) > 1:
        c0 = np.concatenate([c0, np.ones_like(c0), np.zeros_like(c0)], -1)
    return replace(p, weights=w, state=State(p.state.h, c0) if cell.has_cell else State(c0))


@contextmanager
def num_threads(n: int) -> Iterator[None]:
    """The native engine on n threads, restored afterwards."""
    before = threads._chosen
    threads.set_num_threads(n)
    try:
        yield
    finally:
        threads.set_num_threads(before)


def python(code: str, **environment: str) -> str:
    """What a fresh process prints that runs this code; it must end by itself and well."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def daily(*series: Any, start: str = "2001-01-01") -> Panel:
    """A panel of daily series, NaN where missing."""
    return Panel.of(list(series), start, Step(unit="second", count=86400))


def to_numpy(a: Any) -> np.ndarray:
    """A numpy array of the same numbers."""
    return a.detach().numpy() if A.is_torch(a) else a


def _each(state: State | None, f: Any) -> Any:
    return None if state is None else State(*(None if s is None else f(s) for s in state))


def _fields(prefix: str, values: Any) -> dict[str, Any]:
    return {} if values is None else {prefix + name: a for name, a in values._asdict().items()}


NEEDS_NATIVE = pytest.mark.skipif(not native.available(), reason="the compiled extension is not built")
BACKENDS = [pytest.param(reference, id="reference"), pytest.param(cpu, id="cpu", marks=NEEDS_NATIVE)]
"""For laws of every backend: to the last bit on the native one, to rounding on the reference, whose sums belong to BLAS."""

RUNS = {
    "dtype,backend": [
        pytest.param(dtype, *backend.values, id=f"{dtype}-{backend.id}", marks=backend.marks)
        for dtype, backend in itertools.product(("float32", "float64"), BACKENDS)
    ]
}
"""An axis for `pairs`: every type on every backend, since the engine has a kernel of its own for each."""


def unequal(backend: ModuleType, a: dict[str, Any], b: dict[str, Any]) -> Any:
    """What differs: in any bit on the native backend, by more than rounding on the reference."""
    if backend is reference:
        return far(a, b, 1e-12 if all(v.dtype == np.float64 for v in a.values()) else 1e-4)
    return differing(a, b)


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Every block of work memory and every output begins as NaN, so that nothing unwritten can pass for a number."""
    if not native.available():
        yield
        return
    empty = A.empty

    def nan(like: Any, *shape: int) -> Any:
        out = empty(like, *shape)
        out[...] = float("nan")
        return out

    native.library.set_poison(True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(A, "empty", nan)
        yield
    native.library.set_poison(False)
