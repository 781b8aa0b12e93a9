"""`recur`, the one door to every backend, on numpy and torch; and memory beyond what 32 bits can count."""

from __future__ import annotations

import mmap
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import (
    BACKENDS,
    KERNELS,
    NEEDS_NATIVE,
    RUNS,
    Case,
    Problem,
    differing,
    draw,
    far,
    name_of,
    pairs,
    projectable,
    run_all,
    to_numpy,
    unequal,
)

from openlstm import cells, recur, reference, weights
from openlstm.call import Call
from openlstm.cells import LSTM, Cell
from openlstm.engine import SUPPORT
from openlstm.engine.backends import cpu
from openlstm.errors import ArgumentError, BackendError, DtypeError, ShapeError
from openlstm.noise import Noise
from openlstm.reference import Run, State, Weights

SIZES = [dict(T=0), dict(B=0), dict(T=0, B=0), dict(I=1, H=1), dict(T=1, B=1, I=1, H=1), dict(I=0), dict(H=0)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("case", draw(2 * len(cells.ALL), 50, ("", "hcgm", "m", "hcE")), ids=str)
def test_recur_is_the_backends_forward(case: Case, kind: str, backend: ModuleType) -> None:
    p = case.problem().tensors() if kind == "torch" else case.problem()
    name = next(name for name, support in SUPPORT.items() if support.module is backend)
    options = {**p.options, "reset_state": p.reset_state and cells.parted(p.cell, p.reset_state)}
    begin = cells.parted(p.cell, p.state)
    ours = recur(p.cell, p.x, p.weights, begin, save=True, backend=name, **options)
    theirs = backend.forward(p.call(save=True))
    assert ours.saved is not None and type(ours.y) is type(p.x)
    assert differing(arrays(ours, p.cell), arrays(theirs, p.cell)) == []
    plain = recur(p.cell, p.x, p.weights, begin, backend=name, **options)
    assert plain.saved is None and differing({"y": to_numpy(plain.y)}, {"y": to_numpy(ours.y)}) == []


def arrays(run: Any, cell: Cell) -> dict[str, Any]:
    state = cells.joined(cell, run.state)
    named = {"y": run.y, **state._asdict(), **{f"saved.{n}": a for n, a in run.saved.named(cell).items()}}
    return {name: to_numpy(a) for name, a in named.items() if a is not None}


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=NEEDS_NATIVE)])
@pytest.mark.parametrize("cell", cells.ALL, ids=name_of)
def test_the_state_is_zero_where_none_is_given(cell: Cell, backend: str) -> None:
    p = Case(cell, P=2 if cell.has_cell and projectable(cell) else 0).problem()
    zero = cells.parted(cell, State(*(None if s is None else np.zeros_like(s) for s in p.state)))
    assert (
        differing(
            arrays(recur(cell, p.x, p.weights, save=True, backend=backend), cell),
            arrays(recur(cell, p.x, p.weights, zero, save=True, backend=backend), cell),
        )
        == []
    )


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=NEEDS_NATIVE)])
@pytest.mark.parametrize("make", [list, tuple, np.int32, np.uint8, np.int64, torch.tensor], ids=lambda f: f.__name__)
def test_lengths_of_any_kind_mean_the_same(make: Any, backend: str) -> None:
    p, lengths = Case(LSTM()).problem(), make([6, 0, 2, 5, 6])
    expected = recur(p.cell, p.x, p.weights, p.state, lengths=np.array([6, 0, 2, 5, 6]), backend=backend)
    for q in (p, p.tensors()):
        run = recur(q.cell, q.x, q.weights, q.state, lengths=lengths, backend=backend)
        assert far_from(to_numpy(run.y), expected.y) < 1e-14


def far_from(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=NEEDS_NATIVE)])
def test_the_parameters_of_a_torch_layer_give_its_outputs(backend: str) -> None:
    """`recur` runs on parameters as they are; who wants gradients takes a layer."""
    layer = torch.nn.LSTM(3, 4, dtype=torch.float64)
    w = weights.collect(dict(layer.named_parameters()))
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        y = recur(LSTM(), x, w, backend=backend).y
        expected = layer(x)[0]
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-14)


@pairs(cell=cells.ALL, sizes=SIZES, **RUNS)
def test_empty_and_smallest_sizes_give_the_numbers_of_the_reference(
    sizes: dict[str, int], cell: Cell, dtype: str, backend: ModuleType
) -> None:
    case = Case(cell, dtype=dtype, lengths=True, reset=True, reset_state=True, each=dtype == "float32", noise="hcgm")
    case = replace(case, **sizes)  # type: ignore[arg-type]
    p = case.problem()
    ours, expected = run_all(backend, p), run_all(reference, p)
    assert {n: a.shape for n, a in ours.items()} == {n: a.shape for n, a in expected.items()}
    assert not far(ours, expected, 1e-4 if dtype == "float32" else 1e-11)
    if not case.T or not case.B:  # nothing happens: states and their gradients pass through, weights get zeros
        assert not unequal(cpu, {"h": ours["h"], "d0h": ours["d0h"]}, {"h": p.state.h, "d0h": p.dstate.h})
        assert not any(ours[name].any() for name in ours if name.startswith(("dw_", "db_", "dreset")))


@NEEDS_NATIVE
@pytest.mark.parametrize(
    "case",
    draw(2 * len(KERNELS), 51, among=KERNELS, T=1, P=0, lengths=False, reset=False, reset_state=False, reverse=False),
    ids=str,
)
def test_one_step_has_the_bits_of_a_sequence_of_one(case: Case) -> None:
    """What `LSTMCell` runs on; it declines what is not contiguous, and the unusual cells."""
    p = case.problem()
    expected = cpu.forward(Call(p.cell, p.x, p.weights, p.state)).state
    plain, spread = p.tensors(), p.strided().tensors()
    ours = _straight(Call(plain.cell, plain.x[0], plain.weights, plain.state))
    assert (ours is not None) == usual(case.cell)
    for run in (ours, _straight(Call(spread.cell, spread.x[0], spread.weights, spread.state))):
        if run is not None:
            _same_bits(run.state._asdict(), expected._asdict())


@NEEDS_NATIVE
@pytest.mark.parametrize("sums", [False, True], ids=["x", "sums"])
@pytest.mark.parametrize("cell", [*cells.ALL, cells.SLSTM(heads=3), cells.GRU(heads=3)], ids=repr)
def test_the_short_way_has_the_bits_of_the_long_one(cell: Cell, sums: bool) -> None:
    """What a layer runs on where nothing watches: no lengths, no resets, no noise, nothing saved."""
    p = Case(cell, T=7, B=3, I=5, H=18).problem().tensors()
    if sums:
        p = replace(p, x=p.x @ p.weights.w_ih.T, weights=p.weights._replace(w_ih=None))
    expected = cpu.forward(Call(p.cell, p.x, p.weights, p.state))
    short = _straight(Call(p.cell, p.x, p.weights, p.state))
    assert (short is not None) == usual(cell)
    if short is not None:
        wanted = {"y": expected.y, "h": expected.state.h, "c": expected.state.c}
        _same_bits({"y": short.y, "h": short.state.h, "c": short.state.c}, wanted)
    zeros = State(*(None if a is None else torch.zeros_like(a) for a in p.state))
    given, none = (_straight(Call(p.cell, p.x, p.weights, begin)) for begin in (zeros, None))
    assert (none is None) == (short is None)
    if given is not None and none is not None:
        assert [a.shape for a in none.state if a is not None] == [(1, *a.shape) for a in zeros if a is not None]
        left = {name: None if a is None else a[0] for name, a in none.state._asdict().items()}
        _same_bits({"y": none.y, **left}, {"y": given.y, **given.state._asdict()})


@NEEDS_NATIVE
@pytest.mark.parametrize("heads", [1, 3])
def test_the_short_way_leaves_what_does_not_fit_to_the_long_one(heads: int) -> None:
    """Which says what is wrong; a kernel would read beyond memory."""
    p = Case(cells.SLSTM(heads), T=2, B=3, I=5, H=18).problem().tensors()
    w, h, c = p.weights, p.state.h, p.state.c
    assert c is not None
    sums = p.x.new_zeros(2, 3, 72)
    for weights_, x in ((w._replace(w_hh=w.w_hh[:, :5].contiguous()), p.x), (w._replace(w_ih=None), p.x)):
        assert _straight(Call(p.cell, x, weights_, p.state)) is None
    assert _straight(Call(p.cell, sums, w._replace(w_ih=None), p.state)) is not None
    assert _straight(Call(p.cell, p.x, w, State(h, c[:, :18].contiguous()))) is None
    assert _straight(Call(cells.SLSTM(4), p.x, w, p.state)) is None  # 18 units are not four heads


def usual(cell: Cell) -> bool:
    """Whether the shortest way to the kernel knows the cell."""
    return not cell.peepholes and not cell.norms and cell.cells_per_gate == len(cell.feeds_back) == 1


def _straight(call: Call) -> Any:
    """What `engine.run.straight` does with a call that it is asked about."""
    return cpu.forward_simple(call) if call.simple else None


def _same_bits(ours: dict[str, Any], expected: dict[str, Any]) -> None:
    assert [name for name, a in ours.items() if a is None] == [name for name, a in expected.items() if a is None]
    assert differing(*({name: to_numpy(a) for name, a in side.items() if a is not None} for side in (ours, expected))) == []


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=NEEDS_NATIVE)])
def test_outputs_carry_no_graph(backend: str) -> None:
    """Parameters may go in as they are; what comes out is cut off on every backend alike."""
    layer = torch.nn.LSTM(3, 4, dtype=torch.float64)
    w = weights.collect(dict(layer.named_parameters()))
    run = recur(LSTM(), torch.randn(5, 2, 3).double(), w, save=True, backend=backend)
    assert run.saved is not None
    given = [a for a in (run.y, *run.state, run.saved.gates, run.saved.c) if a is not None]
    assert len(given) == 5 and not any(a.requires_grad for a in given)


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=NEEDS_NATIVE)])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_without_a_step_the_state_is_a_copy(kind: str, backend: str) -> None:
    p = Case(LSTM(), T=0).problem()
    p = p.tensors() if kind == "torch" else p
    run = recur(p.cell, p.x, p.weights, p.state, backend=backend)
    run.state.h[...] = 7
    assert run.state.c is not None and p.state.c is not None
    run.state.c[...] = 7
    assert not (to_numpy(p.state.h) == 7).any() and not (to_numpy(p.state.c) == 7).any()


@pytest.mark.parametrize("dtype", ["bool", "uint8", "float32", "float64"])
@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=NEEDS_NATIVE)])
def test_a_reset_of_any_type_means_the_same(backend: str, dtype: str) -> None:
    p = Case(cells.GRU(), reset=True, reset_state=True).problem()
    options = {**p.options, "backend": backend}
    expected = recur(p.cell, p.x, p.weights, p.state, **options)
    for q in (p, p.tensors()):
        options["reset_state"] = q.reset_state
        options["reset"] = p.reset.astype(dtype) if q is p else torch.from_numpy(p.reset.astype(dtype))
        ours = recur(q.cell, q.x, q.weights, q.state, **options)
        assert far_from(to_numpy(ours.y), expected.y) < 1e-14


def networks(cell: Cell, N: int = 3, **options: Any) -> tuple[list[Problem], Problem]:
    """N problems, and the one in which they are stacked."""
    each = [Case(cell, seed=n, **options).problem() for n in range(N)]

    def stack(group: Any) -> Any:
        fields = zip(*group, strict=True)
        return type(group[0])(*(None if f[0] is None else np.stack(f) for f in fields))

    first = each[0]
    whole = replace(
        first,
        x=np.stack([p.x for p in each]),
        weights=stack([p.weights for p in each]),
        state=stack([p.state for p in each]),
        lengths=None if first.lengths is None else np.stack([p.lengths for p in each]),
        reset=None if first.reset is None else np.stack([p.reset for p in each]),
        reset_state=None if first.reset_state is None else stack([p.reset_state for p in each]),
    )
    return each, whole


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=NEEDS_NATIVE)])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("cell", [LSTM(), cells.Peephole(), cells.GRU(), cells.VanillaRNN()], ids=name_of)
def test_many_networks_are_each_alone(cell: Cell, kind: str, backend: str) -> None:
    each, whole = networks(cell, lengths=True, reset=True, reset_state=True)
    options = {"noise": Noise(zoneout_h=0.3, seed=9), "save": True, "backend": backend}
    given = whole.tensors() if kind == "torch" else whole
    run = recur(cell, given.x, given.weights, given.state, **given.options, **options)
    assert run.saved is not None and run.y.shape == (3, 6, 5, 4)
    for n, p in enumerate(each):
        options["noise"] = Noise(zoneout_h=0.3, seed=9 + n)
        alone = arrays(recur(cell, p.x, p.weights, p.state, **p.options, **options), cell)
        together = Run(run.y[n], _entry(run.state, n), _entry(run.saved, n))
        assert far(arrays(together, cell), alone, 1e-12) == {}
    shared = recur(
        cell, given.x, given.weights, lengths=[6, 1, 0, 5, 6], reset=given.reset[0], backend=backend
    )  # for all of them
    p = each[2]
    alone = recur(cell, p.x, p.weights, lengths=[6, 1, 0, 5, 6], reset=each[0].reset, backend=backend)
    assert far_from(to_numpy(shared.y[2]), alone.y) < 1e-13


def _entry(group: Any, n: int) -> Any:
    return type(group)(*(None if a is None else a[n] for a in group))


def test_many_networks_need_as_many_of_everything() -> None:
    _, p = networks(LSTM())
    with pytest.raises(ShapeError) as caught:
        recur(LSTM(), p.x, p.weights._replace(w_hh=p.weights.w_hh[:2]), p.state)
    assert str(caught.value) == (
        "recur: weights.w_hh has not one entry for each of 3 networks\n"
        "  got       weights.w_hh: float64[2, 16, 4], x: float64[3, 6, 5, 3], [N, T, B, I]\n"
        "  expected  [3, ...]\n"
        "  hint      stack the arrays of the networks: numpy.stack or torch.stack; x [T, B, I] is one network"
    )


NOISES: dict[str, tuple[Any, type[Exception], str]] = {
    "not noise": (
        {"noise": 0.3},
        DtypeError,
        "recur: noise is not Noise\n"
        "  got       noise: float 0.3\n"
        "  expected  openlstm.noise.Noise\n"
        "  hint      Noise(zoneout_h=0.1, seed=1)",
    ),
    "row": (
        {"noise": Noise(zoneout_h=0.1, first_row=-1)},
        ArgumentError,
        "recur: noise.first_row is -1\n"
        "  got       noise.first_row=-1\n"
        "  expected  an integer from 0 to 2^32 - 1\n"
        "  hint      0 where the rows are the whole batch",
    ),
    "rate": (
        {"noise": Noise(zoneout_h=1.5)},
        ArgumentError,
        "recur: noise.zoneout_h is 1.5\n"
        "  got       noise.zoneout_h=1.5\n"
        "  expected  a probability from 0 to 1\n"
        "  hint      zoneout_h=0.1 for one in ten",
    ),
    "zoneout of a cell that is not there": (
        {"cell": cells.GRU(), "noise": Noise(zoneout_c=0.1)},
        ArgumentError,
        "recur: GRU has no cell state\n"
        "  got       noise.zoneout_c=0.1\n"
        "  expected  zoneout_c=0\n"
        "  hint      zoneout_h acts on the state that it has",
    ),
    "a candidate that is not there": (
        {"cell": cells.VanillaRNN(), "noise": Noise(candidate=0.1)},
        ArgumentError,
        "recur: VanillaRNN has no candidate\n"
        "  got       noise.candidate=0.1\n"
        "  expected  candidate=0\n"
        "  hint      noise.hidden masks what is fed back",
    ),
    "hidden mask": (
        {"noise": Noise(hidden=np.ones((5, 3)))},
        ShapeError,
        "recur: noise.hidden has shape [5, 3], expected [5, 4]\n"
        "  got       noise.hidden: float64[5, 3]  (x: float64[6, 5, 3], [T, B, I])\n"
        "  expected  [B, R] = [5, 4]\n"
        "  hint      one mask for each row, of the width of h",
    ),
    "no peepholes": (
        {"cell": cells.Peephole(), "weights": lambda w: w._replace(w_ch=None)},
        ArgumentError,
        "recur: Peephole has peepholes, weights.w_ch is missing\n"
        "  got       w_ch=None\n"
        "  expected  w_ch [3*H] = [12]\n"
        "  hint      one weight for each unit of the gates i, f, o, one gate after the other",
    ),
    "peepholes of another size": (
        {"cell": cells.CIFG(), "weights": lambda w: w._replace(w_ch=np.zeros(12))},
        ShapeError,
        "recur: weights.w_ch has shape [12], expected [8]\n"
        "  got       weights.w_ch: float64[12]  (x: float64[6, 5, 3], [T, B, I])\n"
        "  expected  [2*H] = [8]\n"
        "  hint      one weight for each unit of the gates i, o, one gate after the other",
    ),
    "peepholes too many": (
        {"weights": lambda w: w._replace(w_ch=np.zeros(12))},
        ArgumentError,
        "recur: LSTM has no peepholes\n"
        "  got       weights.w_ch: float64[12]\n"
        "  expected  w_ch=None\n"
        "  hint      leave w_ch out, or take a cell with peepholes",
    ),
    "no norm": (
        {"cell": cells.LayerNormLSTM(), "weights": lambda w: w._replace(norm=None)},
        ArgumentError,
        "recur: LayerNormLSTM normalises, weights.norm is missing\n"
        "  got       norm=None\n"
        "  expected  norm [18*H] = [72]\n"
        "  hint      one behind the other: norm_x_weight, norm_x_bias, norm_h_weight, norm_h_bias, norm_c_weight, norm_c_bias; "
        "openlstm.weights.collect(state_dict) does it",
    ),
    "norm of another size": (
        {"cell": cells.LayerNormLSTM(), "weights": lambda w: w._replace(norm=w.norm[:-1])},
        ShapeError,
        "recur: weights.norm has shape [71], expected [72]\n"
        "  got       weights.norm: float64[71]  (x: float64[6, 5, 3], [T, B, I])\n"
        "  expected  [18*H] = [72]\n"
        "  hint      one behind the other: norm_x_weight, norm_x_bias, norm_h_weight, norm_h_bias, norm_c_weight, norm_c_bias; "
        "openlstm.weights.collect(state_dict) does it",
    ),
    "norm for a cell without": (
        {"weights": lambda w: w._replace(norm=np.zeros(72))},
        ArgumentError,
        "recur: LSTM normalises nothing\n"
        "  got       weights.norm: float64[72]\n"
        "  expected  norm=None\n"
        "  hint      leave norm out, or take cells.LayerNormLSTM()",
    ),
    "projection of gates": (
        {"cell": cells.FGR(), "weights": lambda w: w._replace(w_hr=np.zeros((2, 4)))},
        ArgumentError,
        "recur: FGR feeds its gates back and cannot be projected\n"
        "  got       weights.w_hr: float64[2, 4]\n"
        "  expected  w_hr=None\n"
        "  hint      leave w_hr out, or take cells.Peephole(), which feeds back its output alone",
    ),
    "projection of a GRU": (
        {"cell": cells.GRU(), "weights": lambda w: w._replace(w_hr=np.zeros((2, 4)))},
        ArgumentError,
        "recur: a projected GRU needs its state as a cell\n"
        "  got       weights.w_hr: float64[2, 4], GRU()\n"
        "  expected  GRU(memory=True)\n"
        "  hint      cells.GRU(memory=True) carries the state that the update gate keeps beside its projection",
    ),
    "memory blocks": (
        {"cell": cells.LSTM(cells_per_gate=3), "H": 6, "weights": lambda w: Weights(np.zeros((10, 3)), np.zeros((10, 4)))},
        ShapeError,
        "recur: weights.w_ih does not fit LSTM\n"
        "  got       weights.w_ih: float64[10, 3]\n"
        "  expected  [3*H/3 + H, I]\n"
        "  hint      every 3 cells share their gates, which have H/3 rows each, g has H (i, f, g, o); is H a multiple of 3?",
    ),
    "reset of numbers": (
        {"reset": np.full((6, 5), 0.5)},
        ArgumentError,
        "recur: reset holds more than 0 and 1\n"
        "  got       reset: float64[6, 5]\n"
        "  expected  0 and 1, or bool\n"
        "  hint      compare first: reset > 0.5",
    ),
}


@pytest.mark.parametrize("name", list(NOISES))
def test_what_cannot_be_combined_is_refused_with_this_text(name: str) -> None:
    call, kind, text = NOISES[name]
    call = dict(call)
    p = Case(call.pop("cell", LSTM()), H=call.pop("H", 4)).problem()
    given = call.pop("weights", lambda w: w)(p.weights)
    with pytest.raises(kind) as caught:
        recur(p.cell, p.x, given, p.state, **call)
    assert str(caught.value) == text


def far_apart(a: np.ndarray) -> np.ndarray:
    """The same two steps, 2^33 bytes apart, in memory of which only the pages in use exist."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    memory = mmap.mmap(-1, (1 << 33) + (1 << 20), flags=flags)
    out = np.lib.stride_tricks.as_strided(
        np.frombuffer(memory, a.dtype, 1), a.shape, (1 << 33, 4 * a.shape[2], 4), writeable=True
    )
    out[...] = a
    return out


@NEEDS_NATIVE
@pytest.mark.parametrize("reverse", [False, True])
def test_steps_may_lie_further_apart_than_32_bits_can_count(reverse: bool) -> None:
    p = Case(LSTM(), "float32", T=2, B=3, I=5, H=9, reverse=reverse).problem()
    x, dy, y = far_apart(p.x), far_apart(p.dy), far_apart(np.zeros_like(p.dy))
    near = cpu.forward(Call(p.cell, p.x, p.weights, p.state, save=True, reverse=reverse))
    far = cpu.forward(Call(p.cell, x, p.weights, p.state, save=True, reverse=reverse), out=y)
    assert near.saved is not None and far.saved is not None and far.saved.h is y
    expected = cpu.backward(Call(p.cell, p.x, p.weights, p.state, reverse=reverse), near.saved, p.dy, p.dstate)
    ours = cpu.backward(Call(p.cell, x, p.weights, p.state, reverse=reverse), far.saved, dy, p.dstate)
    assert differing({"y": y, "dx": ours.x, **fields(ours)}, {"y": near.y, "dx": expected.x, **fields(expected)}) == []


def fields(grads: Any) -> dict[str, Any]:
    return {name: a for name, a in [*grads.weights._asdict().items(), *grads.state._asdict().items()] if a is not None}


@NEEDS_NATIVE
@pytest.mark.parametrize(("lengths", "row"), [([1, 2, 7, 0, 0], 2), ([0, -1, 0, 0, 0], 1)], ids=["beyond T", "negative"])
def test_the_kernel_never_sees_lengths_that_lead_outside(lengths: list[int], row: int) -> None:
    """Also where nobody checked before: it would read and write beyond its arrays."""
    p = Case(LSTM()).problem()
    with pytest.raises(ArgumentError) as caught:
        cpu.forward(Call(p.cell, p.x, p.weights, p.state, lengths=np.array(lengths)))
    said = f"cpu: lengths[{row}] is {lengths[row]}, but x has 6 steps\n  got       lengths[{row}] = {lengths[row]}  (T = 6)\n"
    assert str(caught.value).startswith(said)


def test_an_unknown_backend_in_the_environment_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENLSTM_BACKEND", "tpu")
    p = Case(LSTM()).problem()
    with pytest.raises(ArgumentError) as caught:
        recur(p.cell, p.x, p.weights, p.state)
    assert str(caught.value) == (
        "recur: unknown backend 'tpu'\n"
        "  got       OPENLSTM_BACKEND=tpu\n"
        "  expected  auto, cpu, cuda, reference\n"
        "  hint      unset OPENLSTM_BACKEND, or name one of these"
    )
    monkeypatch.setenv("OPENLSTM_BACKEND", "cuda")
    with pytest.raises(
        BackendError, match="backend 'cuda', named by OPENLSTM_BACKEND, cannot run this: it runs on cuda, not on"
    ):
        recur(p.cell, p.x, p.weights, p.state)
