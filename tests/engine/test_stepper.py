"""`Stepper`: the bits of the layer, one step at a time, from a packed copy of its weights; nothing allocated, nothing held."""

from __future__ import annotations

import gc
import threading
import tracemalloc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from tests import support
from tests.support import NEEDS_NATIVE, name_of, python

import openlstm
from openlstm import cells, runtime
from openlstm.engine import Stepper, native, recur
from openlstm.errors import ArgumentError, BusyError, DtypeError, OpenLSTMError, ShapeError
from openlstm.reference import State, Weights

T = 5


def layer_of(cell: cells.Cell, inputs: int, hidden: int, **options: Any) -> Any:
    """A layer that runs the cell."""
    torch.manual_seed(hidden)
    return support.layer_of(cell, inputs, hidden, **options)


def whole(layer: Any, x: torch.Tensor) -> tuple[np.ndarray, Any]:
    with torch.no_grad():
        y, state = layer(x)
    found = [s.numpy() for s in (state if isinstance(state, tuple) else (state,))]
    return y.numpy(), State(*found) if len(found) < 3 else type(state)(*found)


def same(a: Any, b: Any) -> bool:
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in zip(a, b, strict=True))


def check(layer: Any, x: torch.Tensor, **options: Any) -> None:
    y, end = whole(layer, x)
    stepper = Stepper(layer, batch=x.shape[1], **options)
    found = np.stack([stepper.step(step).copy() for step in x.numpy()])[..., : y.shape[-1]]
    assert np.array_equal(found, y)
    assert type(stepper.state) is type(end)
    for mine, theirs in zip(stepper.state, end, strict=True):
        assert (mine is None) == (theirs is None) and (mine is None or np.array_equal(mine, theirs))


@pytest.mark.parametrize("cell", [*cells.ALL, cells.SLSTM(heads=2), cells.LSTM(heads=4), cells.GRU(heads=2)], ids=name_of)
@pytest.mark.parametrize("sizes", [(1, 3, 5), (4, 1, 17), (7, 33, 16)], ids=str)
def test_a_step_has_the_bits_of_the_layer(cell: cells.Cell, sizes: tuple[int, int, int]) -> None:
    B, I, H = sizes
    H *= cell.heads
    for dtype in (torch.float32, torch.float64):
        check(layer_of(cell, I, H, num_layers=2, dtype=dtype), torch.randn(T, B, I, dtype=dtype))


@pytest.mark.parametrize(
    "options", [{"proj_size": 3}, {"bias": False}, {"cell": cells.LSTM(clip=0.2)}, {"cell": cells.LSTM(cells_per_gate=4)}]
)
def test_options_of_the_layer_hold(options: dict[str, Any]) -> None:
    check(openlstm.LSTM(4, 8, num_layers=2, **options), torch.randn(T, 3, 4))


def test_a_step_on_the_reference_is_the_layer_within_rounding() -> None:
    layer, x = openlstm.LSTM(4, 8, num_layers=2, dtype=torch.float64), torch.randn(T, 3, 4, dtype=torch.float64)
    stepper = Stepper(layer, 3, backend="reference")
    assert stepper.backend == "reference"
    found = np.stack([stepper.step(step).copy() for step in x])
    np.testing.assert_allclose(found, whole(layer, x)[0], rtol=1e-12)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_do_not_change_a_bit(threads: int) -> None:
    layer, x = openlstm.LSTM(300, 257), torch.randn(T, 1, 300)
    y, _ = whole(layer, x)
    before = openlstm.get_num_threads()
    try:
        openlstm.set_num_threads(threads)
        stepper = Stepper(layer)
    finally:
        openlstm.set_num_threads(before)
    assert np.array_equal(np.stack([stepper.step(step).copy() for step in x.numpy()]), y)


def test_every_way_of_giving_x_gives_the_same_bits() -> None:
    layer = openlstm.LSTM(3, 5)
    x = np.asarray([0.5, -1.0, 2.0], np.float32)
    wide = np.zeros((3, 2), np.float32)
    wide[:, 0] = x
    ways = [x, x[None], torch.from_numpy(x), x.tolist(), wide[:, 0], torch.from_numpy(x).requires_grad_()]
    first = Stepper(layer).step(x).copy()
    for way in ways:
        assert np.array_equal(Stepper(layer).step(way), first)


def test_weights_are_a_copy_and_a_network_of_numpy_will_do() -> None:
    layer = openlstm.LSTM(3, 5)
    x = np.ones((1, 3), np.float32)
    expected = Stepper(layer).step(x).copy()
    stepper = Stepper(layer)
    with torch.no_grad():
        for p in layer.parameters():
            p.zero_()
    assert np.array_equal(stepper.step(x), expected)

    class Net:
        cell = cells.LSTM()
        layers = (Weights(np.ones((20, 3), np.float32), np.ones((20, 5), np.float32)),)

    assert np.array_equal(Stepper(Net()).step(x), recur(Net.cell, x[None], Net.layers[0]).y[0])


def test_states_are_taken_and_given_as_copies() -> None:
    layer, x = openlstm.LSTM(3, 5, num_layers=2), np.ones((2, 3), np.float32)
    a, b = Stepper(layer, 2), Stepper(layer, 2)
    a.step(x)
    held = a.state
    b.state = held
    expected = a.step(x).copy()
    assert np.array_equal(b.step(x), expected)
    a.reset()
    assert not a.state.h.any() and not np.asarray(a.state.c).any()
    b.state = tuple(torch.from_numpy(s) for s in held)
    assert np.array_equal(b.step(x), expected)


def test_a_step_allocates_nothing_and_returns_the_same_array() -> None:
    stepper, x = Stepper(openlstm.LSTM(8, 16)), np.ones((1, 8), np.float32)
    first = stepper.step(x)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(1000):
        assert stepper.step(x) is first
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 500


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(("batch", "hidden"), [(1, 100), (5, 33)])
def test_what_it_gave_may_go_in_again(batch: int, hidden: int, backend: str) -> None:
    """Its own array, which the step writes to."""
    layer = openlstm.LSTM(hidden, hidden)
    fed, copied = (Stepper(layer, batch, backend=backend) for _ in range(2))
    y = x = np.ones((batch, hidden), np.float32)
    for _ in range(T):
        y, x = fed.step(y), copied.step(x.copy())
        assert np.array_equal(y, x)


def test_a_stepper_is_freed_when_nothing_refers_to_it() -> None:
    stepper = Stepper(openlstm.LSTM(3, 5))
    stepper.step(np.ones(3, np.float32))
    gone = weakref.ref(stepper)
    del stepper
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("cell", [cells.LSTM(), cells.GRU()], ids=lambda cell: cell.kernel)
def test_step_goes_on_when_its_stepper_is_gone(cell: cells.Cell, backend: str) -> None:
    """It owns what it writes to: other arrays of the same size, made meanwhile, keep their numbers."""
    layer, xs = layer_of(cell, 3, 40, num_layers=2), torch.randn(T, 50, 3).numpy()
    kept, step = Stepper(layer, 50, backend=backend), Stepper(layer, 50, backend=backend).step
    gc.collect()
    others = [np.full(shape, n, np.float32) for n in range(50) for shape in ((50, 40), (2, 50, 40))]
    for x in xs:
        assert np.array_equal(step(x), kept.step(x))
    assert all(np.unique(a).tolist() == [n // 2] for n, a in enumerate(others))


def test_step_goes_on_where_its_arrays_would_have_left_the_process() -> None:
    code = """
    import numpy as np, openlstm
    from openlstm.engine import Stepper
    step = Stepper(openlstm.LSTM(3, 64), batch=4000).step
    print([step(np.zeros((4000, 3), "f")).shape for _ in range(3)])
    """
    assert python(code) == f"{[(4000, 64)] * 3}\n"


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_two_threads_at_once_are_refused_and_change_nothing(backend: str) -> None:
    """The steps that were not refused are those of one thread alone, to the bit."""
    layer, x = openlstm.LSTM(64, 512), torch.randn(256, 64).numpy()
    stepper = Stepper(layer, 256, backend=backend)
    begin, made, errors = threading.Barrier(3), [0, 0, 0], list[Exception]()

    def run(n: int) -> None:
        begin.wait()
        while not errors or not made[n]:
            try:
                stepper.step(x)
                made[n] += 1
            except BusyError as error:
                errors.append(error)

    workers = [threading.Thread(target=run, args=(n,)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert str(errors[0]) == (
        "Stepper: used by two calls at once\n  got       a call while another one is at work\n  expected  one call at a time\n"
        "  hint      one stepper for each stream, or a lock around the calls that share one"
    )
    alone = Stepper(layer, 256, backend=backend)
    for _ in range(sum(made)):
        alone.step(x)
    assert same(stepper.state, alone.state)


@NEEDS_NATIVE
@pytest.mark.parametrize(
    "use",
    [lambda s, other: s.state, lambda s, other: setattr(s, "state", other), lambda s, other: s.reset()],
    ids=["read", "assign", "reset"],
)
def test_the_state_is_left_alone_during_a_step(use: Any) -> None:
    layer, x, done = openlstm.LSTM(64, 512), torch.randn(256, 64).numpy(), threading.Event()
    stepper = Stepper(layer, 256)
    other = stepper.state

    def run() -> None:
        while not done.is_set():
            try:
                stepper.step(x)
            except BusyError:  # the other one was just at it
                continue

    worker = threading.Thread(target=run)
    worker.start()
    try:
        with pytest.raises(BusyError, match="used by two calls at once"):
            while True:
                use(stepper, other)
    finally:
        done.set()
        worker.join()
    use(stepper, other)


def test_steppers_of_two_threads_do_not_meet() -> None:
    layer = openlstm.LSTM(64, 200)
    xs = np.random.default_rng(0).standard_normal((40, 1, 64)).astype(np.float32)
    results: dict[int, np.ndarray] = {}

    def run(n: int) -> None:
        stepper = Stepper(layer)
        results[n] = np.stack([stepper.step(x).copy() for x in xs])

    workers = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(np.array_equal(results[n], whole(layer, torch.from_numpy(xs))[0]) for n in range(4))


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "a time axis": (
        lambda s: s.step(np.ones((7, 1, 3), np.float32)),
        ShapeError,
        "Stepper: x does not fit\n  got       x: float32[7, 1, 3]\n  expected  [1, 3] or [3] = [B, I]\n"
        "  hint      one step at a time: x has no time axis",
    ),
    "features": (
        lambda s: s.step(np.ones(4, np.float32)),
        ShapeError,
        "Stepper: x does not fit\n  got       x: float32[4]\n  expected  [1, 3] or [3] = [B, I]\n"
        "  hint      give every row's features of one step",
    ),
    "three numbers in a column": (
        lambda s: s.step(np.ones((3, 1), np.float32)),
        ShapeError,
        "Stepper: x does not fit\n  got       x: float32[3, 1]\n  expected  [1, 3] or [3] = [B, I]\n"
        "  hint      give every row's features of one step",
    ),
    "type": (
        lambda s: s.step(np.ones(3)),
        DtypeError,
        "Stepper: x has another type than the weights\n  got       x: float64[3]\n  expected  float32\n"
        "  hint      use x.astype(np.float32)",
    ),
    "state": (
        lambda s: setattr(s, "state", (np.ones((1, 5)), np.ones((1, 1, 5)))),
        ShapeError,
        "Stepper: state.h does not fit\n  got       h: float64[1, 5]\n  expected  float32[1, 1, 5] = [L, B, .]\n"
        "  hint      assign what another stepper's `state`, or the layer, gave",
    ),
    "both directions": (
        lambda s: Stepper(openlstm.LSTM(3, 5, bidirectional=True)),
        ArgumentError,
        "Stepper: the other direction begins at the end, which a stream has not\n  got       bidirectional=True\n"
        "  expected  bidirectional=False\n  hint      call the layer itself, one step at a time",
    ),
    "zoneout": (
        lambda s: Stepper(openlstm.LSTM(3, 5, zoneout_c=0.1)),
        ArgumentError,
        "Stepper: a packed step has no zoneout\n  got       zoneout_c=0.1\n  expected  zoneout_c=0\n"
        "  hint      call the layer itself, one step at a time",
    ),
    "torch": (
        lambda s: Stepper(torch.nn.LSTM(3, 5)),
        ArgumentError,
        "Stepper: cannot step through this\n  got       layer: LSTM\n  expected  openlstm.LSTM, GRU or RNN\n"
        "  hint      use openlstm.replace(model) for layers of torch.nn",
    ),
    "no rows": (
        lambda s: Stepper(openlstm.LSTM(3, 5), 0),
        ArgumentError,
        "Stepper: batch is not a number of rows\n  got       batch=0\n  expected  a whole number >= 1\n"
        "  hint      batch=1 for a single stream",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_named(name: str) -> None:
    call, kind, text = REFUSED[name]
    stepper = Stepper(openlstm.LSTM(3, 5))
    stepper.step(np.ones(3, np.float32))
    before = stepper.state
    with pytest.raises(kind) as caught:
        call(stepper)
    assert str(caught.value) == text
    assert np.array_equal(stepper.state.h, before.h)


def zeros(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


FITS = Weights(zeros(20, 3), zeros(20, 5), zeros(20), zeros(20))
ON_TOP = Weights(zeros(20, 5), zeros(20, 5))
BESIDE = "  (layers[0].w_ih: float32[20, 3], [4*H, I])"
UNFIT: dict[str, tuple[cells.Cell, tuple[Any, ...], type[OpenLSTMError], str]] = {
    "no layer": (
        cells.LSTM(),
        (),
        ArgumentError,
        "Stepper: there is no layer\n  got       layers: list of 0\n  expected  at least one\n"
        "  hint      one `Weights` for each layer, the lowest first",
    ),
    "a tuple": (
        cells.LSTM(),
        (FITS, (zeros(20, 5), zeros(20, 5))),
        DtypeError,
        "Stepper: layers[1] is not Weights\n  got       layers[1]: tuple of 2\n  expected  openlstm.Weights\n"
        "  hint      openlstm.weights.collect(state_dict) or Weights(w_ih, w_hh, b_ih, b_hh)",
    ),
    "rows": (
        cells.LSTM(),
        (FITS._replace(w_ih=zeros(22, 3)),),
        ShapeError,
        "Stepper: layers[0].w_ih does not fit LSTM\n  got       layers[0].w_ih: float32[22, 3]\n  expected  [4*H, I]\n"
        "  hint      LSTM has 4 blocks of H rows (i, f, g, o); is this the weight of another cell?",
    ),
    "recurrent": (
        cells.LSTM(),
        (FITS._replace(w_hh=zeros(20, 4)),),
        ShapeError,
        "Stepper: layers[0].w_hh has shape [20, 4], expected [20, 5]\n"
        f"  got       layers[0].w_hh: float32[20, 4]{BESIDE}\n"
        "  expected  [4*H, H] = [20, 5]\n  hint      w_ih has 4 * 5 rows, so H is 5; take w_hh from the same layer",
    ),
    "one bias": (
        cells.LSTM(),
        (FITS._replace(b_hh=None),),
        ArgumentError,
        "Stepper: layers[0].b_ih comes without b_hh\n  got       b_hh=None\n  expected  both biases or none\n"
        "  hint      pass zeros for b_hh, or leave out b_ih",
    ),
    "a short bias": (
        cells.LSTM(),
        (FITS._replace(b_hh=zeros(5)),),
        ShapeError,
        "Stepper: layers[0].b_hh has shape [5], expected [20]\n"
        f"  got       layers[0].b_hh: float32[5]{BESIDE}\n  expected  [4*H] = [20]\n"
        "  hint      take the bias from the same layer as w_ih",
    ),
    "types": (
        cells.LSTM(),
        (FITS, ON_TOP._replace(w_hh=zeros(20, 5, dtype=np.float64))),
        DtypeError,
        "Stepper: layers[1].w_hh is not float32\n"
        f"  got       layers[1].w_hh: float64[20, 5]{BESIDE}\n  expected  float32\n"
        "  hint      all arrays of one call have one dtype; convert it: layers[1].w_hh.astype(numpy.float32)",
    ),
    "kinds": (
        cells.LSTM(),
        (FITS._replace(b_ih=torch.zeros(20)),),
        DtypeError,
        "Stepper: layers[0].b_ih is not a numpy array, as layers[0].w_ih is\n"
        f"  got       layers[0].b_ih: float32[20]{BESIDE}\n  expected  a numpy array\n"
        "  hint      convert it: numpy.asarray(layers[0].b_ih)",
    ),
    "integers": (
        cells.LSTM(),
        (Weights(zeros(20, 3, dtype=int), zeros(20, 5, dtype=int)),),
        DtypeError,
        "Stepper: layers[0].w_ih is not floating\n  got       layers[0].w_ih: int64[20, 3]\n"
        "  expected  float32 or float64 [4*H, I]\n  hint      convert it: layers[0].w_ih.astype(numpy.float32)",
    ),
    "the layer below": (
        cells.LSTM(),
        (FITS, ON_TOP._replace(w_ih=zeros(20, 9))),
        ShapeError,
        "Stepper: layers[1].w_ih has shape [20, 9], expected [20, 5]\n"
        f"  got       layers[1].w_ih: float32[20, 9]{BESIDE}\n  expected  [4*H, 5] = [20, 5]\n"
        "  hint      the layer below puts out 5 numbers a row",
    ),
    "the gates below": (
        cells.FGR(),
        (Weights(zeros(20, 3), zeros(20, 20), w_ch=zeros(15)), Weights(zeros(20, 20), zeros(20, 20), w_ch=zeros(15))),
        ShapeError,
        "Stepper: layers[1].w_ih has shape [20, 20], expected [20, 5]\n"
        f"  got       layers[1].w_ih: float32[20, 20]{BESIDE}\n  expected  [4*H, 5] = [20, 5]\n"
        "  hint      the layer below puts out 5 numbers a row",
    ),
    "no peepholes": (
        cells.Peephole(),
        (FITS,),
        ArgumentError,
        "Stepper: Peephole has peepholes, layers[0].w_ch is missing\n  got       w_ch=None\n  expected  w_ch [3*H] = [15]\n"
        "  hint      one weight for each unit of the gates i, f, o, one gate after the other",
    ),
    "no norm": (
        cells.LayerNormLSTM(),
        (FITS,),
        ArgumentError,
        "Stepper: LayerNormLSTM normalises, layers[0].norm is missing\n  got       norm=None\n  expected  norm [18*H] = [90]\n"
        "  hint      one behind the other: norm_x_weight, norm_x_bias, norm_h_weight, norm_h_bias, norm_c_weight, norm_c_bias; "
        "openlstm.weights.collect(state_dict) does it",
    ),
    "gates fed back, projected": (
        cells.FGR(),
        (Weights(zeros(20, 3), zeros(20, 2), w_hr=zeros(2, 5), w_ch=zeros(15)),),
        ArgumentError,
        "Stepper: FGR feeds its gates back and cannot be projected\n  got       layers[0].w_hr: float32[2, 5]\n"
        "  expected  w_hr=None\n  hint      leave w_hr out, or take cells.Peephole(), which feeds back its output alone",
    ),
    "a projected GRU": (
        cells.GRU(),
        (Weights(zeros(15, 3), zeros(15, 2), w_hr=zeros(2, 5)),),
        ArgumentError,
        "Stepper: a projected GRU needs its state as a cell\n  got       layers[0].w_hr: float32[2, 5], GRU()\n"
        "  expected  GRU(memory=True)\n"
        "  hint      cells.GRU(memory=True) carries the state that the update gate keeps beside its projection",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_weights_that_do_not_fit_are_named(name: str) -> None:
    cell, layers, kind, text = UNFIT[name]
    with pytest.raises(kind) as caught:
        Stepper(runtime.Network(cell, layers))
    assert str(caught.value) == text


def test_a_layer_whose_parameters_were_given_other_types_is_refused() -> None:
    layer: Any = openlstm.LSTM(3, 5)
    layer.weight_hh_l0.data = layer.weight_hh_l0.data.double()
    with pytest.raises(DtypeError, match=r"Stepper: layers\[0\].w_hh is not float32"):
        Stepper(layer)


def test_a_state_is_assigned_whole_or_not_at_all() -> None:
    stepper = Stepper(openlstm.LSTM(3, 5))
    stepper.step(np.ones(3, np.float32))
    before = stepper.state
    with pytest.raises(ShapeError, match="state.c does not fit"):
        stepper.state = (zeros(1, 1, 5), zeros(1, 1, 4))
    with pytest.raises(DtypeError) as caught:
        stepper.state = (zeros(1, 1, 5), zeros(1, 1, 5, dtype=np.float64))
    assert str(caught.value) == (
        "Stepper: state.c has another type than the weights\n  got       c: float64[1, 1, 5]\n  expected  float32\n"
        "  hint      convert it to float32"
    )
    assert same(stepper.state, before)
    half = torch.full((1, 1, 5), 0.5, dtype=torch.bfloat16, requires_grad=True)
    stepper.state = (half, np.asarray(before.c).tolist())
    assert same(stepper.state, State(np.full((1, 1, 5), 0.5), before.c))


@pytest.mark.parametrize("isa", [name for name in native.isas() if name != "wide"])
def test_every_instruction_set_has_its_own_packing(isa: str) -> None:
    layer, x = openlstm.LSTM(9, 33), torch.randn(T, 1, 9)
    y, _ = whole(layer, x)
    with native.use_isa(isa):
        stepper = Stepper(layer)
    assert np.array_equal(np.stack([stepper.step(step).copy() for step in x.numpy()]), y)  # run while another is in use


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_layer_in_a_half_type_is_stepped_in_float32(dtype: torch.dtype) -> None:
    layer, x = openlstm.LSTM(9, 33).to(dtype), torch.randn(T, 1, 9)
    stepper = Stepper(layer)
    y, _ = whole(layer.float(), x)
    assert np.array_equal(np.stack([stepper.step(step).copy() for step in x.numpy()]), y)


def test_half_weights_of_numpy_are_stepped_in_float32() -> None:
    w = Weights(np.full((20, 3), 0.5, np.float16), np.full((20, 5), 0.25, np.float16))
    wide = Weights(w.w_ih.astype(np.float32), w.w_hh.astype(np.float32))
    x = np.ones(3, np.float32)
    found, expected = (Stepper(runtime.Network(cells.LSTM(), (each,))).step(x) for each in (w, wide))
    assert np.array_equal(found, expected)
