"""Mutants made by a rule: every operator of the definition swapped for another, one at a time, and what finds them.

    python -m tests.mutation.generate             # all of them, some minutes; prints the survivors and the score
    python -m tests.mutation.generate reference   # those of one module

Each mutant of `reference.py` or of a file of `cells/` is run on small problems of every cell and option, against `plain.py`,
which shares no code with them. A mutant is found when a number differs, an error is raised, or it does not end.
"""

from __future__ import annotations

import ast
import copy
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from tests.conformance import plain
from tests.support import Case, Problem, far, projectable, run_all, to_numpy

from openlstm import cells as right_cells
from openlstm import reference as right_reference
from openlstm.call import Call
from openlstm.errors import OpenLSTMError
from openlstm.reference import State, Weights
from openlstm.weights import expand

MODULES = ("reference", "cells")
FILES = [f"cells.{name}" for name in ("base", "lstm", "variants", "layer_norm", "gru", "rnn", "slstm", "minimal")] + [
    "cells",
    "reference",
]
"""What they are made of, lowest first."""
PATHS = {file: Path(str(sys.modules[f"openlstm.{file}"].__file__)) for file in FILES}

NOT_HERE = {  # what says no to bad input, or prepares words: tests/test_cells.py holds those
    "_check",
    "check_options",
    "check_traits",
    "check_step",
    "told_apart",
    "_taken",
    "_sizes",
    "__post_init__",
    "__init_subclass__",
}
SECONDS = 20.0

# What the checks do not find, and why that is right: mutants that compute the same. A mutant is named as it prints itself.
_REASONS: dict[str, list[str]] = {
    (
        "The branch it leaves out says what the general one says anyway: without noise `candidate_mask`, "
        "`zoneout` and `zoneout_backward` hand on what they were given, and only cells with a cell state have"
        " zoneout of it."
    ): [
        (
            "reference.full_step: mask = None if noise is None else N.candidate_mask(noise, t, z[:, : z.shape[1] // "
            "(len(cell.gates) + cell.separate)]) [if False]"
        ),
        "reference.full_step: if noise is not None: [if True]",
        (
            "reference.full_step: carried = None if c is None else N.zoneout(noise, N.ZONEOUT_C, t, before.c, c, "
            "len(cell.states)) [if False]"
        ),
        "reference.backward: if noise is not None: [if True]",
        "reference.backward: if g_c is not None: [if True]",
    ],
    ("Without gates whose sums are apart the general way takes the same sums, biases in another order."): [
        "reference.unsum: if not cell.separate: [if False]",
    ],
    ("The array has two axes, so that the last is number 1."): [
        "reference.unsum: H = dz.shape[-1] // (len(cell.gates) + cell.separate) [no USub]",
        "reference._any: return mask.any(-1)[:, None]  # [B, 1] [no USub]",
    ],
    ("It computes something that nobody is handed, or once more what was saved: more work, the same numbers."): [
        "reference.forward: if call.save: [if True]",
        "reference.forward: ms[k] = rows.real(t, full.h) if apart else zero_m [if True]",
        "reference.backward: zoned_c = noise is not None and noise.zoneout_c > 0 and cell.has_cell [Gt -> GtE]",
        (
            "reference.backward: lost = zoned_c or (saved.m is None and _apart(w, noise))  # whether c' or h' was not"
            " kept [And -> Or]"
        ),
        "reference.backward: if again: [if True]",
        "reference.backward: dx[k] = None if not input_gradient else dz_x if w.w_ih is None else dz_x @ w.w_ih [if False]",
    ],
    (
        "What begins a list is replaced at every step, and what is looked up before the first step is "
        "replaced in the next line."
    ): [
        "reference.backward: dx: list[Any] = [A.zeros(x, *x.shape[1:])] * T [1 -> 2]",
        "reference.backward: c_steps: list[Any] = [None if dc is None else A.zeros(x, *dc.shape)] * T [if True]",
        "reference.backward: before = State(saved.h[p], None if saved.c is None else saved.c[p]) if n else state [if True]",
        (
            "reference.backward: before = rows.keep(order[n - 1], before, state) if n else state  # a row that has "
            "not begun still holds its h0 [if True]"
        ),
    ],
    ("Without gates whose sums are apart both biases have one gradient."): [
        "reference.backward: db_hh = db_hh + dz_h.sum(0) if cell.separate else db_ih [if True]",
    ],
    (
        "Only FGR, whose weight_hh is square and larger than 2, has columns that do not exist; for all other "
        "cells the general way keeps every column."
    ): [
        "reference.mask_recurrent: if len(cell.feeds_back) == 1: [if False]",
        "reference.mask_recurrent: if len(cell.feeds_back) == 1: [1 -> 2]",
        ("reference.mask_recurrent: row, column = A.arange(w_hh, w_hh.shape[0]), A.arange(w_hh, w_hh.shape[1]) [0 -> 1]"),
        "reference.mask_recurrent: gate = row * len(cell.gates) // max(len(row), 1)  # [G*H], its number [1 -> 2]",
        (
            "reference.mask_recurrent: block = column * len(cell.feeds_back) // max(len(column), 1)  # [R], 0 for the "
            "output [1 -> 2]"
        ),
        (
            "reference.mask_recurrent: candidate = cell.gates.index(cell.candidate) "
            "if cell.candidate in cell.gates else -1 [1 -> 2]"
        ),
    ],
    ("The look at what a user's cell returned finds nothing in ours."): [
        "cells.Cell.__call__: if self.kernel: [if False]",
    ],
    ("A list of rows adds up like an array of them."): [
        (
            "reference._Rows.parted: return State(*(None if a is None else list(a) for a in total)) if self.each else "
            "total [if True]"
        ),
    ],
    ("Where both branches meet they are one number."): [
        (
            "cells.SLSTM.forward: m = where((n == 0) | ~(z_i < kept), z_i, kept)  # from here on m'; where one of the two is "
            "NaN, it stays NaN [Lt -> LtE]"
        ),
    ],
    ("It spares a warning: what comes of rows that have ended is left out afterwards."): [
        (
            "cells.SLSTM.backward: n_new = where(n_new == 0, A.namespace(n_new).ones_like(n_new), n_new)  "
            "# past a row's end, where all that is saved is 0 [0 -> 1]"
        ),
    ],
    ("A slice that ends behind the last number ends with it."): [
        "cells.LayerNormLSTM._affine: ends = (0, 4, 8, 12, 16, 17, 18) [18 -> 19]",
    ],
}
EQUIVALENT: dict[str, str] = {mutant: reason for reason, names in _REASONS.items() for mutant in names}


@dataclass(frozen=True)
class Mutant:
    """One change in one module."""

    module: str
    file: str
    number: int
    where: str  # the function
    line: str  # what stands there
    change: str

    def __str__(self) -> str:
        return f"{self.module}.{self.where}: {self.line} [{self.change}]"

    def tree(self) -> ast.Module:
        """The changed module."""
        tree = copy.deepcopy(_tree(self.file))
        _points(tree)[self.number][2]()
        return ast.fix_missing_locations(tree)


@cache
def _tree(file: str) -> ast.Module:
    return ast.parse(_source(file))


@cache
def _source(file: str) -> str:
    return PATHS[file].read_text()


def mutants(module: str) -> list[Mutant]:
    """All of a module, in the order of its text."""
    out = []
    for file in FILES:
        if file.split(".")[0] == module:
            lines = _source(file).splitlines()
            for k, (where, node, _, change) in enumerate(_points(copy.deepcopy(_tree(file)))):
                out.append(Mutant(module, file, k, where, lines[node.lineno - 1].strip(), change))
    return out


SWAPS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def _points(tree: ast.Module) -> list[tuple[str, Any, Callable[[], None], str]]:
    """Every place that can be changed: the function it is in, the node, what changes it, in words."""
    out: list[tuple[str, Any, Callable[[], None], str]] = []

    def visit(node: ast.AST, where: str) -> None:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            if node.name in NOT_HERE:
                return
            where = f"{where}.{node.name}".lstrip(".")
        _here(node, where, out)
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "bases", "type_params"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not _is_words(child):
                    visit(child, where)

    visit(tree, "")
    return out


def _is_words(node: ast.AST) -> bool:
    """Docstrings, what a type checker alone reads, and the guard of `zip`."""
    if isinstance(node, ast.keyword) and node.arg == "strict":
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    return isinstance(node, ast.Assert)


def _here(node: Any, where: str, out: list[Any]) -> None:
    def add(words: str, change: Callable[[], None]) -> None:
        out.append((where, node, change, words))

    def name(op: Any) -> str:
        return (op if isinstance(op, type) else type(op)).__name__

    if isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in SWAPS:
        other = SWAPS[type(node.op)]
        add(f"{name(node.op)} -> {name(other)}", lambda: setattr(node, "op", other()))
    elif isinstance(node, ast.Compare):
        for k, op in enumerate(node.ops):
            if type(op) in SWAPS:
                add(f"{name(op)} -> {name(SWAPS[type(op)])}", lambda k=k, op=op: node.ops.__setitem__(k, SWAPS[type(op)]()))
    elif isinstance(node, ast.UnaryOp):
        # an identity in place of the operator
        add(f"no {name(node.op)}", lambda: _become(node, node.operand))
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        add(f"{node.value} -> {not node.value}", lambda: setattr(node, "value", not node.value))
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        more: Any = node.value + 1
        add(f"{node.value} -> {more}", lambda: setattr(node, "value", more))
    elif isinstance(node, (ast.If, ast.IfExp)):
        for value in (True, False):
            add(f"if {value}", lambda value=value: setattr(node, "test", ast.Constant(value)))


def _become(node: Any, other: Any) -> None:
    node.__class__ = other.__class__
    node.__dict__.clear()
    node.__dict__.update(other.__dict__)


# Running one


@contextmanager
def installed(mutant: Mutant | None) -> Iterator[tuple[ModuleType, ModuleType]]:
    """`reference` and `cells` made anew, one of them mutated; the rest of the package keeps its own."""
    before = {name: sys.modules[f"openlstm.{name}"] for name in FILES}
    made: dict[str, ModuleType] = {}
    try:
        for name in FILES:
            module = made[name] = ModuleType(f"openlstm.{name}")
            module.__file__ = f"<{name}, mutated>"
            sys.modules[f"openlstm.{name}"] = module
            tree = mutant.tree() if mutant is not None and mutant.file == name else _tree(name)
            exec(compile(tree, module.__file__, "exec"), module.__dict__)
        yield made["reference"], made["cells"]
    finally:
        for name, module in before.items():
            sys.modules[f"openlstm.{name}"] = module


def found(mutant: Mutant) -> str:
    """By what the mutant is found, "" if it is not."""

    def too_long(*_: Any) -> None:
        raise TimeoutError("it does not end")

    old = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"), installed(mutant) as (reference, cells):
            warnings.simplefilter("ignore")
            check(reference, cells)
    except Exception as error:  # noqa: BLE001 - an error of any kind gives the mutant away
        return f"{type(error).__name__}: {error}"[:120] or "an error"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    return ""


def check(reference: Any, cells: Any) -> None:
    """Raise where this pair of modules differs from `plain.py`."""
    for case, problem, expected in problems():
        p = replace(problem, cell=twin(cells, problem.cell))
        assert p.cell.kernel == problem.cell.kernel and p.cell.has_cell == problem.cell.has_cell, str(case)
        _compare(case, run_all(reference, p), expected)
        if case.seed % 3 == 0:
            _compare(case, run_all(reference, p.tensors()), expected)
        if case.cell.clip is not None:
            _by_autograd(case, reference, p.tensors(), expected)
        if case.seed % 3 == 1:
            _options(reference, p, expected)
            _windows(reference, p, expected)
    _step(reference, cells)
    _defaults(reference, cells)
    _skipped(reference, cells)
    _own(reference, cells)
    _kinks(cells)
    _traits(reference, cells)
    assert {(type(c).__name__, repr(c)) for c in cells.ALL} == {(type(c).__name__, repr(c)) for c in right_cells.ALL}


def _compare(case: Any, results: dict[str, Any], expected: dict[str, Any]) -> None:
    names = {name for name in results if name in expected and name != "saved.m"}  # two things are called so
    assert {n for n in results if n.startswith("d")} == {n for n in expected if n.startswith("d")}, str(case)
    if case.T and case.B:
        assert {n for n in results if n.startswith("saved.")} - {"saved.m"} >= _kept(case, expected), str(case)
    assert all(results[name].dtype == np.float64 for name in names)
    off = far({n: results[n] for n in names}, {n: expected[n] for n in names}, 1e-9)
    assert off == {}, f"{case}: {off}"


def _by_autograd(case: Case, reference: Any, p: Problem, expected: dict[str, Any]) -> None:
    """Forward is made of operations that torch differentiates, to the same gradient."""
    x, w_hh = p.x.clone().requires_grad_(), p.weights.w_hh.clone().requires_grad_()
    run = reference.forward(Call(p.cell, x, p.weights._replace(w_hh=w_hh), p.state, **p.options))
    loss = (run.y * p.dy.nan_to_num()).sum() + (run.state.h * p.dstate.h).sum() + (run.state.c * p.dstate.c).sum()
    dx, dw_hh = torch.autograd.grad(loss, (x, w_hh))
    off = far({"dw_hh": to_numpy(dw_hh)}, {"dw_hh": expected["dw_hh"]}, 1e-9) if not p.x.isnan().any() else {}
    off |= far({"dx": to_numpy(dx)}, {"dx": expected["dx"]}, 1e-9) if not p.x.isnan().any() else {}
    assert off == {}, f"{case}: {off}"


def _kept(case: Case, expected: dict[str, Any]) -> set[str]:
    """What has to be saved of what came up: the gates that the cell names, h and c."""
    return {f"saved.{name}" for name in (*case.cell.saved, "h", *(["c"] if case.cell.has_cell else []))} - {"saved.m"}


def _options(reference: Any, p: Problem, expected: dict[str, Any]) -> None:
    """Nothing saved, outputs elsewhere, gradients that nobody wants, cotangents that are missing."""
    out = np.full(p.dy.shape, np.nan)
    run = reference.forward(p.call(), out=out)
    assert run.saved is None and far({"y": out}, {"y": expected["y"]}, 1e-9) == {}
    saved = reference.forward(p.call(save=True)).saved
    T, B, H = *p.x.shape[:2], p.dy.shape[2] // len(p.cell.feeds_back) if p.weights.w_hr is None else p.weights.w_hr.shape[1]
    apart = p.weights.w_hr is not None or (p.noise is not None and p.noise.zoneout_h > 0)
    assert saved.gates.shape == (T, B, len(p.cell.saved) * H)
    assert (saved.c is None) == (not p.cell.has_cell) and (saved.m is None) == (not apart)
    assert saved.c is None or saved.c.shape == (T, B, len(p.cell.states) * H)
    assert saved.m is None or saved.m.shape == (T, B, H * len(p.cell.feeds_back))
    named = saved.named(p.cell)
    assert list(named) == [*p.cell.saved, *(p.cell.states if p.cell.has_cell else ()), "h"]
    if T and B:
        assert far(named, {name: expected[f"saved.{name}"] for name in named}, 1e-9) == {}
    assert list(saved._replace(gates=None).named(p.cell)) == list(named)[len(p.cell.saved) :]
    again = saved._replace(m=None)  # as a backend hands it on that did not keep it
    g = reference.backward(p.call(), again, p.dy, p.dstate)
    assert far({"dx": g.x, "dw_hh": g.weights.w_hh}, {n: expected[n] for n in ("dx", "dw_hh")}, 1e-9) == {}
    none = State(None, None)
    g = reference.backward(p.call(), saved, None, none, input_gradient=False)
    assert g.x is None and g.h_steps is None and g.c_steps is None
    assert not any(np.any(a) for a in [*g.weights, *g.state] if a is not None)
    assert (g.reset_state is None) == (p.reset_state is None)


def _windows(reference: Any, p: Problem, expected: dict[str, Any]) -> None:
    """A sequence run in two windows, and back through them, is the sequence."""
    if p.cell.cells_per_gate > 1:
        return  # an engine expands the weights before it cuts
    p = replace(p, weights=expand(p.cell, p.weights))
    cut = p.x.shape[0] // 2
    windows = [(0, cut), (cut, p.x.shape[0])]
    state, kept, y = p.state, [], np.full(p.dy.shape, np.nan)
    for window in windows[::-1] if p.reverse else windows:
        call = p.call(save=True)._replace(state=state, window=window)
        run = reference.forward(call)
        kept.append((call, run.saved))
        y[slice(*window)], state = run.y, run.state
    later, dstate, dx = None, p.dstate, np.full(p.x.shape, np.nan)
    for call, saved in reversed(kept):
        later = reference.backward(call, saved, p.dy, dstate, later=later)
        dx[slice(*call.window)], dstate = later.x, later.state
    assert later is not None
    groups = {"d": later.weights, "d0": later.state, "dreset_": later.reset_state or ()}
    found = {f"{front}{name}": a for front, g in groups.items() for name, a in zip(getattr(g, "_fields", ()), g, strict=True)}
    found = {name: a for name, a in found.items() if a is not None}
    off = far({"y": y, "dx": dx, **found}, {n: expected[n] for n in ("y", "dx", *found)}, 1e-9)
    assert off == {}, off


def _step(reference: Any, cells: Any) -> None:
    case, problem, expected = problems()[0]
    p = replace(problem, cell=twin(cells, problem.cell))
    t = case.T - 1 if case.reverse else 0
    state, _ = reference.step(p.cell, p.x[t], p.state, p.weights)
    begun = np.ones(case.B, bool) if p.lengths is None else t < p.lengths
    begun &= True if p.reset is None else ~p.reset[t]
    assert begun.any() and far({"y": state.h[begun]}, {"y": expected["y"][t][begun]}, 1e-9) == {}


def _defaults(reference: Any, cells: Any) -> None:
    """What is not said: forward in time, nothing saved, the first step."""
    case = Case(right_cells.LSTM(), T=3, B=2, I=2, H=3)
    p, expected = _with_expectation(case.problem())
    p = replace(p, cell=twin(cells, p.cell))
    run = reference.forward(Call(p.cell, p.x, p.weights, p.state))
    assert run.saved is None and far({"y": run.y}, {"y": expected["y"]}, 1e-9) == {}
    saved = reference.forward(Call(p.cell, p.x, p.weights, p.state, save=True)).saved
    g = reference.backward(Call(p.cell, p.x, p.weights, p.state), saved, p.dy, p.dstate)
    assert g.h_steps is None and g.c_steps is None and far({"dx": g.x}, {"dx": expected["dx"]}, 1e-9) == {}
    empty = Call(
        p.cell, p.x[:0], p.weights, p.state, reset=np.zeros((0, 2), bool), reset_state=State(p.dy[:0], p.dy[:0]), save=True
    )
    fresh = reference.backward(empty, reference.forward(empty).saved, None, p.dstate).reset_state
    assert fresh.h.shape == fresh.c.shape == (0, 2, 3)
    noisy = replace(case, noise="hcg").problem().noise
    first = reference.forward(Call(p.cell, p.x[:1], p.weights, p.state, noise=noise_of(noisy))).state
    one = reference.step(p.cell, p.x[0], p.state, p.weights, noise_of(noisy))[0]
    assert far({"h": one.h, "c": one.c}, {"h": first.h, "c": first.c}, 1e-12) == {}


def noise_of(noise: Any) -> Any:
    """Strong enough that another step draws something else."""
    return noise._replace(zoneout_h=0.5, zoneout_c=0.5, candidate=0.5)


def _traits(reference: Any, cells: Any) -> None:
    """What cells say of themselves, and parts that only a user's cell comes to."""
    names = {type(cell).__name__ for cell in right_cells.ALL}
    assert {repr(getattr(cells, name)()) for name in names} == {repr(getattr(right_cells, name)()) for name in names}
    assert cells.LSTM(cells_per_gate=2, clip=1.0).unshared() == cells.LSTM(clip=1.0)
    for trait in ("states", "recurrence", "heads", "reads_h", "separate", "feeds_back", "cells_per_gate"):
        assert getattr(cells.Cell, trait) == getattr(right_cells.Cell, trait), trait
    for cell in (cells.LSTM(), cells.SLSTM(), cells.GRU()):
        c = np.arange(3.0 * len(cell.states)) if cell.has_cell else None
        parts = cells.parted(cell, cells.State(np.ones(3), c))
        assert [list(a) for a in parts[1:] if a is not None] == ([] if c is None else c.reshape(-1, 3).tolist())
        whole = cells.joined(cell, parts)
        assert type(whole) is cells.State and (whole.h == 1).all() and (c is None or (whole.c == c).all())
        assert cells.joined(cell, whole) is whole and cells.joined(cell, None) is None
    assert cells.named_states(("c", "n")) is cells.named_states(("c", "n"))
    assert [cell.reads_h for cell in cells.ALL] == [cell.reads_h for cell in right_cells.ALL]
    for right in (right_cells.LayerNormLSTM(), right_cells.SLSTM(), right_cells.LSTM()):
        p = Case(right, T=1, B=2, I=2, H=3).problem()
        inner, norm = twin(cells, right), p.weights.norm
        z = reference.sums(inner, p.x[0], p.state.h, p.weights)
        gates, h, c = inner(z, p.state, norm=norm)
        inputs = cells.StepInputs(gates, p.state, c, h, norm=norm)
        none, zero = inner.backward(inputs, p.dy[0], None), inner.backward(inputs, p.dy[0], np.zeros_like(c))
        assert far({"z": none.z, "c": none.c}, {"z": zero.z, "c": zero.c}, 1e-15) == {}
    simple = type(
        "Simple", (cells.Cell,), {"forward": lambda self, z, before: inner.forward(z, before), "__module__": "somewhere"}
    )()
    simple.name, simple.gates, simple.saved, simple.has_cell = "simple", inner.gates, inner.saved, True
    assert far({"h": simple(z, p.state).h}, {"h": h}, 1e-15) == {}
    wide = type("Wide", (), {"gates": ("i", "f", "g", "o"), "feeds_back": ("h", "i", "f", "o"), "candidate": None})()
    w = np.arange(144.0).reshape(12, 12)
    assert (reference.mask_recurrent(wide, w) == w).all()
    bound = torch.tensor([-0.5, 0.5, 0.2], requires_grad=True)
    (slope,) = torch.autograd.grad(cells.clamp(bound, 0.5).sum(), bound)
    assert slope.tolist() == [0, 0, 1]  # none where the bound is reached, also exactly
    # the gradient is linear in what flows in: what comes from c_n alone is the difference
    q = replace(Case(right_cells.Peephole(), T=3, B=2, I=2, H=3).problem(), dy=None)
    q = replace(q, cell=twin(cells, q.cell))
    saved = reference.forward(Call(q.cell, q.x, q.weights, q.state, save=True)).saved
    found = [
        reference.backward(Call(q.cell, q.x, q.weights, q.state), saved, None, d).x
        for d in (q.dstate, State(q.dstate.h, None), State(None, q.dstate.c))
    ]
    assert far({"dx": found[2]}, {"dx": found[0] - found[1]}, 1e-9) == {}


def _skipped(reference: Any, cells: Any) -> None:
    """NaN before a boundary that nothing flows across leaves the gradients after it alone, the weights' too."""
    for cell in (right_cells.Peephole(), right_cells.GRU(memory=True), right_cells.VanillaRNN("tanh"), right_cells.FGR()):
        case = Case(cell, T=5, B=2, I=2, H=3, P=2 if cell.name == "gru" else 0, reset=True)
        p = case.problem()
        p = replace(
            p, cell=twin(cells, cell), reset=np.arange(5)[:, None].repeat(2, 1) == 2, noise=replace(case, noise="hc")._noise()
        )
        p.dy[:2] = 0
        results = []
        for bad in (1.0, np.nan):
            x, state = p.x.copy(), State(*(None if s is None else s * bad for s in p.state))
            x[:2] *= bad
            results.append(run_all(reference, replace(p, x=x, state=state)))
        names = [name for name in results[0] if name.startswith(("dw", "db", "dx", "d0"))]
        good, found = ({n: r[n] for n in names} for r in results)
        assert far(found, good, 1e-12) == {}


def _kinks(cells: Any) -> None:
    """Sums that are 0, and states that begin anew, in cells whose equations have two branches: against autograd."""
    rng = np.random.default_rng(67)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape)).requires_grad_()

    for right in (right_cells.SLSTM(), right_cells.MinGRU(), right_cells.MinLSTM()):
        cell = twin(cells, right)
        z, h, c = numbers(40, 2 * len(cell.gates)), numbers(40, 2), numbers(40, 6) if cell.has_cell else None
        z.data[:9] = 0
        if c is not None:
            c.data[:, 2:4] = c.data[:, 2:4].abs() * (torch.arange(40) % 2)[:, None]  # n, 0 in every second row
        dh, before = torch.from_numpy(rng.standard_normal((40, 2))), cells.State(h, c)
        step = cell.forward(z, before)
        dc = None if c is None else torch.from_numpy(rng.standard_normal((40, 6)))
        ends, flows = ([step.h], [dh]) if dc is None else ([step.h, step.c], [dh, dc])
        expected = torch.autograd.grad(ends, [z, h if c is None else c], flows)
        with torch.no_grad():
            flow = cell.backward(cells.StepInputs(step.gates, before, step.c, step.h), dh, dc)
        found = {"dz": flow.z, "before": flow.h if c is None else flow.c}
        found = {name: a.numpy() for name, a in found.items()}
        assert far(found, {"dz": expected[0].numpy(), "before": expected[1].numpy()}, 1e-10) == {}, right


def _own(reference: Any, cells: Any) -> None:
    """A cell that somebody wrote, without a backward: the same as ours, on numpy and torch."""
    for case, problem, expected in problems():
        if case.cell.name not in ("lstm", "peephole", "gru") or case.cell.cells_per_gate > 1:
            continue
        inner = twin(cells, problem.cell)
        own = _Own.of(cells)(inner)
        assert own.kernel == "" and not own.derives_itself and inner.derives_itself
        for p in (replace(problem, cell=own), replace(problem, cell=own).tensors()):
            _compare(case, run_all(reference, p), expected)
    narrow = {"forward": lambda self, z, before: cells.Step((), z[:, :1], None), "__module__": "somewhere"}
    wrong = type("Wrong", (cells.Cell,), {"name": "wrong", "gates": ("g",), "saved": (), "has_cell": False, **narrow})()
    try:
        wrong(np.ones((2, 3)), cells.State(np.ones((2, 3))))
    except OpenLSTMError:
        return
    raise AssertionError("what a wrong cell gives was not looked at")


class _Own:
    """Somebody's cell around one of ours."""

    @staticmethod
    def of(cells: Any) -> Any:
        def init(self: Any, inner: Any) -> None:
            self.inner = inner
            for trait in ("name", "gates", "saved", "has_cell", "separate", "peepholes", "candidate", "clip"):
                setattr(self, trait, getattr(inner, trait))

        def forward(self: Any, z: Any, before: Any, w_ch: Any = None, mask: Any = None) -> Any:
            return self.inner.forward(z, before, w_ch, mask)

        return type("Own", (cells.Cell,), {"__init__": init, "forward": forward, "__module__": "somewhere"})


def twin(cells: Any, cell: Any) -> Any:
    """The same cell out of another copy of the module."""
    options = {f.name: getattr(cell, f.name) for f in fields(cell)} if is_dataclass(cell) else {}
    return getattr(cells, type(cell).__name__)(**options)


@cache
def problems() -> list[tuple[Case, Problem, dict[str, np.ndarray]]]:
    """Small problems of every cell and option, with what `plain.py` makes of them; padding is NaN."""
    rng = np.random.default_rng(61)
    every = [*right_cells.ALL, right_cells.LSTM(clip=0.4), right_cells.Peephole(clip=0.4), right_cells.FGR(clip=0.4)]
    every += [right_cells.CIFG(clip=0.3), right_cells.LSTM(cells_per_gate=2), right_cells.LSTM1997(cells_per_gate=3, clip=0.5)]
    every += [right_cells.GRU(memory=True), right_cells.SLSTM(heads=2), right_cells.GRU(heads=2)]
    out = []
    for k, cell in enumerate(every * 3):
        flags: dict[str, Any] = {n: bool(rng.random() < 0.55) for n in ("lengths", "reset", "reset_state", "each", "reverse")}
        flags["reset_state"] |= flags["each"]
        flags["reset"] |= flags["each"]
        noise = ("", "hcgm", "hcgmE", "hm", "cg", "", "g")[(k + 3 * (k // len(every))) % 7]
        sums = k % 4 == 2 and cell.cells_per_gate == 1
        projected = projectable(cell) and (cell.name != "gru" or cell.has_cell) and rng.random() < 0.4
        H = cell.cells_per_gate * cell.heads * int(rng.integers(2, 4))
        bias = k % 5 > 0
        T, B = {7: (0, 2), 29: (3, 0), 40: (0, 1), 53: (0, 2), 64: (1, 1)}.get(k, (4, 3))
        noise = "hcgm" if T == 0 else noise
        case = Case(cell, T=T, B=B, I=2, H=H, P=2 if projected else 0, bias=bias, sums=sums, noise=noise, seed=k, **flags)
        p = case.problem()
        if p.lengths is not None and (T, B) == (4, 3):
            p = replace(p, lengths=np.array([2, 4, 0])[rng.permutation(3)])
        if p.lengths is not None and (T, B) == (1, 1):
            p = replace(p, lengths=np.array([1]))
        out.append((case, *_with_expectation(p)))
    return out


def _with_expectation(p: Problem) -> tuple[Problem, dict[str, np.ndarray]]:
    leaves: dict[str, Any] = {"dx": p.x, **{f"d{n}": a for n, a in p.weights._asdict().items()}}
    leaves |= {f"d0{n}": a for n, a in p.state._asdict().items()}
    leaves |= {} if p.reset_state is None else {f"dreset_{n}": a for n, a in p.reset_state._asdict().items()}
    T, B = p.x.shape[:2]
    leaves |= {"dh_steps": np.zeros_like(p.dy)}
    leaves |= {"dc_steps": np.zeros((T, *p.state.c.shape))} if p.state.c is not None else {}
    leaves = {name: torch.from_numpy(np.array(a)).requires_grad_() for name, a in leaves.items() if a is not None}
    w = Weights(*(leaves.get(f"d{n}") for n in Weights._fields))
    noise = p.noise
    if noise is not None and noise.hidden is not None:
        noise = noise._replace(hidden=torch.from_numpy(noise.hidden))
    end = plain.run(
        p.cell,
        leaves["dx"],
        w,
        leaves["d0h"],
        leaves.get("d0c"),
        lengths=p.lengths,
        reset=p.reset,
        fresh=None if p.reset_state is None else (leaves["dreset_h"], leaves.get("dreset_c")),
        reverse=p.reverse,
        noise=noise,
        nudge=plain.Nudge(leaves["dh_steps"], leaves.get("dc_steps")),
    )
    loss = (end.y * torch.from_numpy(p.dy)).sum() + (end.h * torch.from_numpy(p.dstate.h)).sum()
    loss = loss if end.c is None else loss + (end.c * torch.from_numpy(p.dstate.c)).sum()
    options: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
    grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()), **options), strict=True))
    values = {"y": end.y, "h": end.h, **({} if end.c is None else {"c": end.c}), "saved.h": end.y}
    values |= {f"saved.{name}": a for name, a in end.seen.items()} | grads
    if p.lengths is not None:
        beyond = np.arange(T)[:, None] >= p.lengths  # [T, B]
        p.x[beyond] = p.dy[beyond] = np.nan
    return p, {name: to_numpy(a) for name, a in values.items()}


def survivors(chosen: list[Mutant], say: Callable[[str], None] = lambda _: None) -> list[Mutant]:
    """Those that no check finds."""
    out = []
    for k, mutant in enumerate(chosen):
        word = found(mutant)
        if not word:
            out.append(mutant)
        say(f"{k + 1}/{len(chosen)} {mutant} -> {word or 'SURVIVES'}")
    return out


def main() -> None:
    torch.set_num_threads(1)
    with installed(None) as pair:
        check(*pair)
    assert right_reference is sys.modules["openlstm.reference"]
    for module in sys.argv[1:] or MODULES:
        chosen = mutants(module)
        left = survivors(chosen, lambda line: print(line, flush=True) if line.endswith("SURVIVES") else None)
        known = sum(str(m) in EQUIVALENT for m in left)
        print(f"{module}: {len(chosen)} mutants, {len(chosen) - len(left)} found, {len(left)} not, {known} of these explained")


if __name__ == "__main__":
    main()
