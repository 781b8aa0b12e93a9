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

import openlstm
from openlstm import cells
from openlstm._errors import ArgumentError, DtypeError, ShapeError
from openlstm.engine import Stepper, cpu, recur
from openlstm.reference import State, Weights

T = 5


def layer_of(cell: cells.Cell, inputs: int, hidden: int, **options: Any) -> Any:
    """A layer that runs the cell."""
    torch.manual_seed(hidden)
    if isinstance(cell, cells.VanillaRNN):
        return openlstm.RNN(inputs, hidden, nonlinearity=cell.nonlinearity, **options)
    if isinstance(cell, cells.GRU):
        return openlstm.GRU(inputs, hidden, **options)
    return openlstm.LSTM(inputs, hidden, cell=cell, **options)


def whole(layer: Any, x: torch.Tensor) -> tuple[np.ndarray, State]:
    with torch.no_grad():
        y, state = layer(x)
    h, c = state if isinstance(state, tuple) else (state, None)
    return y.numpy(), State(h.numpy(), None if c is None else c.numpy())


def check(layer: Any, x: torch.Tensor, **options: Any) -> None:
    y, end = whole(layer, x)
    stepper = Stepper(layer, batch=x.shape[1], **options)
    found = np.stack([stepper.step(step).copy() for step in x.numpy()])[..., : y.shape[-1]]
    assert np.array_equal(found, y)
    assert np.array_equal(stepper.state.h, end.h)
    if end.c is not None:
        assert np.array_equal(np.asarray(stepper.state.c), end.c)


@pytest.mark.parametrize("cell", cells.ALL, ids=lambda cell: cell.kernel)
@pytest.mark.parametrize("sizes", [(1, 3, 5), (4, 1, 17), (7, 33, 16)], ids=str)
def test_it_has_the_bits_of_the_layer(cell: cells.Cell, sizes: tuple[int, int, int]) -> None:
    B, I, H = sizes
    for dtype in (torch.float32, torch.float64):
        check(layer_of(cell, I, H, num_layers=2, dtype=dtype), torch.randn(T, B, I, dtype=dtype))


@pytest.mark.parametrize(
    "options", [{"proj_size": 3}, {"bias": False}, {"cell": cells.LSTM(clip=0.2)}, {"cell": cells.LSTM(cells_per_gate=4)}]
)
def test_options_of_the_layer_hold(options: dict[str, Any]) -> None:
    check(openlstm.LSTM(4, 8, num_layers=2, **options), torch.randn(T, 3, 4))


def test_on_the_reference_within_rounding() -> None:
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


def test_every_way_of_giving_x() -> None:
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


def test_it_is_let_go_when_nobody_wants_it() -> None:
    stepper = Stepper(openlstm.LSTM(3, 5))
    stepper.step(np.ones(3, np.float32))
    gone = weakref.ref(stepper)
    del stepper
    gc.collect()
    assert gone() is None


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


@pytest.mark.parametrize("isa", [name for name in cpu.isas() if name != "wide"])
def test_every_instruction_set_has_its_own_packing(isa: str) -> None:
    layer, x = openlstm.LSTM(9, 33), torch.randn(T, 1, 9)
    y, _ = whole(layer, x)
    with cpu.use_isa(isa):
        stepper = Stepper(layer)
    assert np.array_equal(np.stack([stepper.step(step).copy() for step in x.numpy()]), y)  # run while another is in use


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_layer_in_a_half_type_is_stepped_in_float32(dtype: torch.dtype) -> None:
    layer, x = openlstm.LSTM(9, 33).to(dtype), torch.randn(T, 1, 9)
    stepper = Stepper(layer)
    y, _ = whole(layer.float(), x)
    assert np.array_equal(np.stack([stepper.step(step).copy() for step in x.numpy()]), y)
