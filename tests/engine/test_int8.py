"""Weights in 8 bits: the rounding as numpy does it, the same bits everywhere, the bound of the error, and what is refused.

Legend: T time, B batch, I input size, H hidden size.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import KERNELS, NEEDS_NATIVE, isas, name_of, num_threads, python

import openlstm
from openlstm import cells, doctor
from openlstm.engine import Stepper, config, native
from openlstm.engine.rounded import LONGEST, fitted, has_int8, rounded
from openlstm.errors import ArgumentError, BackendError, DtypeError
from openlstm.nn.quantized import Quantized
from openlstm.weights import Weights

pytestmark = NEEDS_NATIVE

CELLS = [cell for cell in KERNELS if has_int8(cell)]


def layer_of(cell: cells.Cell, inputs: int, hidden: int, **options: Any) -> Any:
    """A layer in eval mode that runs the cell, from a seed of its sizes."""
    torch.manual_seed(hidden)
    if isinstance(cell, cells.VanillaRNN):
        return openlstm.RNN(inputs, hidden, nonlinearity=cell.nonlinearity, **options).eval()
    kind = openlstm.GRU if isinstance(cell, cells.GRU) and not cell.memory else openlstm.LSTM if cell.has_cell else openlstm.RNN
    return kind(inputs, hidden, cell=cell, **options).eval()


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def numbers(found: tuple[Any, Any]) -> list[np.ndarray]:
    """y and the state of a call."""
    y, state = found
    return [a.numpy() for a in (y, *(state if isinstance(state, tuple) else (state,)))]


def equal(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b, strict=True))


@contextmanager
def multiplying(way: tuple[str, str]) -> Iterator[None]:
    """With an instruction set, and what it multiplies with."""
    with native.use_isa(way[0]), native.use_int8(way[1]):
        yield


def ways(cell: cells.Cell) -> list[tuple[str, str]]:
    """Whatever multiplies in 8 bits here."""
    found = []
    for isa in isas(cell):
        with native.use_isa(isa):
            found += [(isa, name) for name in native.int8s() if name != "amxtest"]
    few = "wide" in isas(cell)
    return found + [(native.isa(), "amxtest")] * (few and "amxtest" in native.int8s())


def sums(w: Any, x: np.ndarray, h: np.ndarray) -> np.ndarray:
    """What a step feeds to the cell, z [B, G*H], as relu shows it of these weights and of their negatives."""
    found = []
    for sign in (1, -1):
        layer = openlstm.RNN(x.shape[1], h.shape[1], nonlinearity="relu").eval()
        state = {
            f"{a}_l0": torch.from_numpy(sign * b)
            for a, b in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), w, strict=False)
        }
        layer.load_state_dict(state)
        found.append(openlstm.quantize(layer)(torch.from_numpy(x)[None], torch.from_numpy(h)[None])[0][0].numpy())
    return found[0] - found[1]


def plain_sums(w: Any, x: np.ndarray, h: np.ndarray) -> np.ndarray:
    """The same by numpy: whole numbers, then two multiply-adds, each rounded once (in 80 bits, which is enough for these)."""
    z = (w.b_ih + w.b_hh)[None].repeat(len(x), 0)
    for rows, matrix in ((x, w.w_ih), (h, w.w_hh)):
        (q, s), (q_w, s_w) = rounded(rows), rounded(matrix)
        scaled = (q.astype(np.int32) @ q_w.astype(np.int32).T).astype(np.float32) * s_w
        z = (scaled.astype(np.longdouble) * s[:, None] + z).astype(np.float32)
    return z


def weights_of(I: int, H: int, seed: int = 0) -> Any:  # noqa: E741
    shapes = (H, I), (H, H), (H,), (H,)
    return Weights(*(drawn(*shape, seed=seed + k) / np.float32(3) for k, shape in enumerate(shapes)))


# The numbers ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sizes", [(1, 1, 1), (1, 3, 5), (2, 4, 16), (3, 31, 17), (5, 64, 33), (7, 130, 65), (1, 515, 70)], ids=str
)
def test_the_sums_are_those_of_numpy_bit_for_bit_on_every_instruction_set(sizes: tuple[int, int, int]) -> None:
    B, I, H = sizes
    w, x, h = weights_of(I, H), drawn(B, I) * 3, drawn(B, H)
    x[0] *= 1e-3
    expected = plain_sums(w, x, h)
    for way in ways(cells.VanillaRNN("relu")):
        with multiplying(way):
            assert np.array_equal(sums(w, x, h), expected), way


def test_the_largest_numbers_do_not_leave_their_sums() -> None:
    """Rows and weights of the largest size in every place, of either sign: what saturates in 16 bits would show."""
    K = 4096
    w = Weights(*(np.ones(s, np.float32) for s in ((3, K), (3, 3), (3,), (3,))))
    w.w_ih[1] = -1
    w.w_ih[2, ::2] = -1
    x = np.ones((2, K), np.float32)
    x[1, ::2] = -1
    for way in ways(cells.VanillaRNN("relu")):
        with multiplying(way):
            assert np.array_equal(sums(w, x, np.zeros((2, 3), np.float32)), plain_sums(w, x, np.zeros((2, 3), np.float32))), way


@pytest.mark.parametrize("seed", range(6))
def test_the_error_of_a_sum_stays_within_its_bound(seed: int) -> None:
    """docs/int8.md: the rounding of x, of h and of both matrices, and that of float32."""
    rng = np.random.default_rng(seed)
    B, I, H = 6, int(rng.integers(1, 200)), int(rng.integers(1, 80))
    w = weights_of(I, H, seed)
    x, h = (a * rng.choice([1e-3, 1, 50], (B, 1)) for a in (drawn(B, I, seed=seed), drawn(B, H, seed=seed)))
    x[:, 0] *= rng.choice([1, 1000])  # an outlier that spoils the scale of its row
    x, h = x.astype(np.float32), h.astype(np.float32)
    exact, bound = np.zeros((B, H)), np.zeros((B, H))
    size = (abs(w.b_ih) + abs(w.b_hh)).astype(np.float64)
    exact = exact + w.b_ih.astype(np.float64) + w.b_hh
    for rows, matrix in ((x, w.w_ih), (h, w.w_hh)):
        (q, s), (q_w, s_w) = rounded(rows), rounded(matrix)
        seen, kept = s[:, None].astype(np.float64) * q, s_w[:, None].astype(np.float64) * q_w
        exact = exact + rows.astype(np.float64) @ matrix.T
        bound = bound + s[:, None] * abs(matrix.astype(np.float64)).sum(1) + s_w * abs(seen).sum(1)[:, None]
        size = size + abs(seen @ kept.T)
    bound = (0.5 + 2**-15) * bound + 2**-21 * size
    off = abs(sums(w, x, h) - exact)
    assert (off <= bound).all()
    assert off.max() > 0.01 * bound.max()  # a bound that says something


@pytest.mark.parametrize("cell", CELLS, ids=name_of)
def test_every_cell_has_the_same_bits_on_every_instruction_set_and_thread(cell: cells.Cell) -> None:
    layer, x = layer_of(cell, 9, 37, num_layers=2), torch.from_numpy(drawn(6, 7, 9))
    lengths = [6, 3, 0, 6, 5, 1, 2]
    expected = numbers(openlstm.quantize(layer)(x, lengths=lengths))
    for way in ways(cell):
        with multiplying(way):
            one = openlstm.quantize(layer)
        for threads in (1, 2, 3):
            with num_threads(threads):
                assert equal(numbers(one(x, lengths=lengths)), expected), (way, threads)


@pytest.mark.parametrize("sizes", [(1, 300, 257), (1, 256, 512), (3, 40, 130), (30, 33, 65)], ids=str)
def test_rows_threads_cuts_and_steps_change_no_bit(sizes: tuple[int, int, int]) -> None:
    B, I, H = sizes
    T = 7
    one, x = openlstm.quantize(layer_of(cells.LSTM(), I, H)), torch.from_numpy(drawn(T, B, I))
    with num_threads(1):
        expected = numbers(one(x))
    for threads in (1, 2, 5):
        with num_threads(threads):
            assert equal(numbers(one(x)), expected)
            y, state = one(x[:3])
            rest, end = one(x[3:], state)
            assert equal(numbers((torch.cat([y, rest]), end)), expected)
            stepper = Stepper(one, B, weights="int8")
            steps = np.stack([stepper.step(step).copy() for step in x.numpy()])
            assert equal([steps, np.asarray(stepper.state.h), np.asarray(stepper.state.c)], expected)
    order = torch.arange(B).flip(0)
    assert equal([a[:, ::-1] for a in numbers(one(x[:, order]))], expected)
    assert equal(numbers(one(x[:, :1])), [a[:, :1] for a in expected])


@pytest.mark.parametrize("cell", CELLS, ids=name_of)
def test_a_step_has_the_bits_of_the_quantised_layer(cell: cells.Cell) -> None:
    for batch in (1, 4):
        layer, x = layer_of(cell, 5, 19, num_layers=2), torch.from_numpy(drawn(5, batch, 5))
        stepper = Stepper(layer, batch, weights="int8")
        steps = np.stack([stepper.step(step).copy() for step in x.numpy()])
        state = [np.asarray(a) for a in stepper.state if a is not None]
        assert equal([steps, *state], numbers(openlstm.quantize(layer)(x)))


@pytest.mark.parametrize(
    "options",
    [
        {"proj_size": 11},
        {"bias": False},
        {"bidirectional": True},
        {"bidirectional": True, "proj_size": 5, "num_layers": 2},
        {"cell": cells.LSTM(clip=0.2)},
        {"cell": cells.LSTM(cells_per_gate=4)},
        {"zoneout_h": 0.2, "zoneout_c": 0.1},
        {"batch_first": True},
    ],
    ids=str,
)
def test_options_of_the_layer_hold(options: dict[str, Any]) -> None:
    """Within the error of 8 bits of the layer itself, and a ragged row as if it were alone."""
    torch.manual_seed(3)
    layer = openlstm.LSTM(12, 16, **options).eval()
    one, x = openlstm.quantize(layer), torch.from_numpy(drawn(9, 3, 12))
    x = x.transpose(0, 1).contiguous() if layer.batch_first else x
    reset = torch.zeros(x.shape[:2], dtype=torch.bool)
    reset[(1, 5) if layer.batch_first else (5, 1)] = True
    lengths = [9, 4, 0]
    with torch.no_grad():
        exact, found = (numbers(net(x, lengths=lengths, reset=reset)) for net in (layer, one))
    for a, b in zip(exact, found, strict=True):
        assert a.shape == b.shape
        assert 0 < np.linalg.norm(a - b) < 0.03 * np.linalg.norm(a)
    alone = one(x[1:2, :4] if layer.batch_first else x[:4, 1:2], reset=reset[1:2, :4] if layer.batch_first else reset[:4, 1:2])
    y = numbers(one(x, lengths=lengths))[0]
    assert np.array_equal(alone[0].numpy(), y[1:2, :4] if layer.batch_first else y[:4, 1:2])
    assert equal([a[:, :1] for a in numbers(alone)[1:]], [a[:, 1:2] for a in found[1:]])


def test_every_form_of_x_is_taken() -> None:
    one, x = openlstm.quantize(layer_of(cells.LSTM(), 3, 8)), torch.from_numpy(drawn(6, 2, 3))
    y = one(x, lengths=[6, 4])[0]
    packed = one(torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor([6, 4])))[0]
    assert torch.equal(torch.nn.utils.rnn.pad_packed_sequence(packed)[0], y)
    assert torch.equal(one(torch.cat([x[:, 0], x[:4, 1]]), cu_seqlens=[0, 6, 10])[0], torch.cat([y[:, 0], y[:4, 1]]))
    assert torch.equal(one(x[:, 0])[0], y[:, 0])
    assert one(x[:0])[0].shape == (0, 2, 8)
    assert one(x[:, :0])[0].shape == (6, 0, 8)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@torch.no_grad()
def test_torch_compile_goes_around_it() -> None:
    model = torch.nn.Sequential(openlstm.quantize(layer_of(cells.LSTM(), 3, 8))).eval()
    x = torch.from_numpy(drawn(6, 2, 3))
    assert equal(numbers(torch.compile(model)(x)), numbers(model(x)))


# What is not finite, and what is small --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_has_nan_in_all_of_its_sums_and_no_other_row(bad: float) -> None:
    w, x, h = weights_of(33, 20), drawn(5, 33), drawn(5, 20)
    expected = plain_sums(w, x, h)
    x[1, 32] = bad
    h[3, 0] = bad
    for way in ways(cells.VanillaRNN("relu")):
        with multiplying(way):
            found = sums(w, x, h)
            assert np.isnan(found[[1, 3]]).all()
            assert np.array_equal(found[[0, 2, 4]], expected[[0, 2, 4]])


def test_a_row_of_zeros_leaves_the_bias_and_small_rows_are_within_2_to_the_minus_107() -> None:
    w = weights_of(9, 20)
    x = np.zeros((4, 9), np.float32)
    x[1], x[2] = 1e-38, 1e-42
    x[3, 2] = -1e-45
    found = sums(w, x, np.zeros((4, 20), np.float32))
    assert np.array_equal(found, (w.b_ih + w.b_hh)[None].repeat(4, 0))
    none = Weights(np.zeros((20, 9), np.float32), w.w_hh, w.b_ih, w.b_hh)
    assert np.array_equal(sums(none, drawn(4, 9), np.zeros((4, 20), np.float32)), found)
    unbiased = Weights(w.w_ih, w.w_hh, 0 * w.b_ih, 0 * w.b_hh)
    assert abs(sums(unbiased, x, np.zeros((4, 20), np.float32))).max() <= 9 * 2**-107 * abs(w.w_ih).max()


def test_no_nan_is_made_of_numbers_as_large_as_can_be() -> None:
    w = weights_of(9, 20)
    x = np.full((2, 9), np.finfo(np.float32).max, np.float32)
    x[1] = 3e37
    z = sums(w, x, np.zeros((2, 20), np.float32))
    exact = x.astype(np.float64) @ w.w_ih.T.astype(np.float64)
    assert not np.isnan(z).any()
    assert np.allclose(z[1], exact[1], rtol=0, atol=1e36)
    assert (np.isinf(z) <= (abs(exact) > 3.3e38)).all()


# Rounding, saving -----------------------------------------------------------------------------------------------------------


def test_what_was_rounded_is_rounded_to_the_same_numbers_again() -> None:
    w = drawn(50, 70) * np.float32(10.0) ** np.arange(-25, 25)[:, None].astype(np.float32)
    w[3] = 0
    q, scale = rounded(w)
    assert (abs(q).max(1)[[k for k in range(50) if k != 3]] == 127).all()
    again, other = rounded(scale[:, None] * q)
    assert np.array_equal(again, q) and np.array_equal(other, scale)
    assert (abs(scale[:, None].astype(np.float64) * q - w) <= (0.5 + 2**-15) * scale[:, None]).all()


@pytest.mark.parametrize(
    "options", [{}, {"proj_size": 7, "bidirectional": True, "num_layers": 2}, {"cell": cells.Peephole()}], ids=str
)
def test_a_state_dict_a_pickle_and_a_copy_hold_the_same_numbers(options: dict[str, Any]) -> None:
    torch.manual_seed(1)
    one, x = openlstm.quantize(openlstm.LSTM(9, 21, **options).eval()), torch.from_numpy(drawn(4, 3, 9))
    expected = numbers(one(x))
    saved = one.state_dict()
    assert saved["weight_ih_l0"].dtype == torch.int8 and saved["scale_ih_l0"].shape == (84,)
    torch.manual_seed(2)
    other = openlstm.quantize(openlstm.LSTM(9, 21, **options).eval())
    assert not equal(numbers(other(x)), expected)
    stream = io.BytesIO()
    torch.save(saved, stream)
    stream.seek(0)
    other.load_state_dict(torch.load(stream))
    for again in (other, copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert equal(numbers(again(x)), expected)
        assert all(torch.equal(a, saved[name]) for name, a in again.state_dict().items())
    inside = torch.nn.Sequential(other)
    inside.load_state_dict({f"0.{name}": a for name, a in saved.items()})
    with pytest.raises(RuntimeError, match=r"weight_ih_l0 is float32\[84, 9\], expected int8\[84, 9\]"):
        other.load_state_dict(saved | {"weight_ih_l0": saved["weight_ih_l0"].float()})
    with pytest.raises(RuntimeError, match='Missing key.*"scale_hh_l0"'):
        other.load_state_dict({name: a for name, a in saved.items() if name != "scale_hh_l0"})
    with pytest.raises(RuntimeError, match='Unexpected key.*"scale"'):
        other.load_state_dict(saved | {"scale": torch.zeros(1)})


def test_another_instruction_set_reads_what_one_saved() -> None:
    layer, x = layer_of(cells.LSTM(), 9, 21), torch.from_numpy(drawn(4, 3, 9))
    expected = numbers(openlstm.quantize(layer)(x))
    for way in ways(cells.LSTM()):
        with multiplying(way):
            saved = pickle.dumps(openlstm.quantize(layer))
        assert equal(numbers(pickle.loads(saved)(x)), expected)


def test_the_weights_take_a_quarter_of_the_memory() -> None:
    layer = openlstm.LSTM(256, 512, num_layers=2).eval()
    floats = sum(4 * p.numel() for p in layer.parameters())
    assert 0.25 * floats < openlstm.quantize(layer).nbytes < 0.26 * floats


def test_the_quantised_layer_is_a_copy_and_shows_what_it_multiplies() -> None:
    layer, x = layer_of(cells.LSTM(), 9, 21), torch.from_numpy(drawn(4, 3, 9))
    one = openlstm.quantize(layer)
    expected = numbers(one(x))
    q, scale = rounded(layer.weight_hh_l0.detach().numpy())
    assert np.array_equal(one.weights_of(0).w_hh, scale[:, None] * q)
    with torch.no_grad():
        layer.weight_hh_l0.zero_()
    assert equal(numbers(one(x)), expected)
    assert str(one) == "Quantized(LSTM, 9, 21, cell=LSTM(), weights='int8')"
    assert not one.training and list(one.parameters()) == []


# Fitting --------------------------------------------------------------------------------------------------------------------


def test_fitted_weights_lose_less_on_rows_like_those_seen_and_stay_on_the_grid() -> None:
    rng = np.random.default_rng(1)
    w = drawn(40, 30)
    rows = (rng.standard_normal((500, 8)) @ rng.standard_normal((8, 30))).astype(np.float32)
    out = fitted(w, rows[:250].T.astype(np.float64) @ rows[:250] / 250)
    q, scale = rounded(w)
    again, other = rounded(out)
    assert np.array_equal(other, scale) and np.array_equal(other[:, None] * again, out)
    lost, nearest = (np.linalg.norm(rows[250:] @ (a - w).T) for a in (out, scale[:, None] * q))
    assert lost < 0.4 * nearest
    assert np.array_equal(fitted(w, np.zeros((30, 30))), scale[:, None] * q)
    assert np.array_equal(fitted(w, np.full((30, 30), np.nan)), scale[:, None] * q)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}], ids=str)
@torch.no_grad()
def test_quantize_fits_to_what_comes(options: dict[str, Any]) -> None:
    torch.manual_seed(1)
    layer = openlstm.LSTM(40, 60, **options).eval()
    made = torch.randn(5, 40)
    like, x = (torch.randn(20, 20, 5).relu() @ made for _ in range(2))
    exact = layer(x)[0]
    fits = openlstm.quantize(layer, like, lengths=[20] * 10 + [7] * 10)
    assert (fits(x)[0] - exact).norm() < 0.8 * (openlstm.quantize(layer)(x)[0] - exact).norm()
    stepper = None if options else Stepper(fits, 20, weights="int8")
    assert stepper is None or np.array_equal(stepper.step(x[0]), fits(x[:1])[0][0])


# bfloat16 -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", native.bfloat16s())
@pytest.mark.parametrize("batch", [1, 5])
@torch.no_grad()
def test_a_step_in_bfloat16_is_the_layer_under_autocast(name: str, batch: int) -> None:
    layer, x = layer_of(cells.LSTM(), 9, 33, num_layers=2), torch.from_numpy(drawn(6, batch, 9))
    with native.use_bfloat16(name):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y, (h, c) = layer(x)
        stepper = Stepper(layer, batch, weights="bfloat16")
        steps = np.stack([stepper.step(step).copy() for step in x.numpy()])
    assert torch.equal(torch.from_numpy(steps).bfloat16(), y.bfloat16())
    assert np.array_equal(stepper.state.h, h.float()) and np.array_equal(np.asarray(stepper.state.c), c.float())


# What is refused ------------------------------------------------------------------------------------------------------------

LSTM = openlstm.LSTM(3, 4).eval()
FGR = openlstm.LSTM(3, 4, cell=cells.FGR()).eval()


class Mine(cells.LSTM):
    """A cell of a user's own."""


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (
            lambda: openlstm.quantize(openlstm.LSTM(3, 4)),
            ArgumentError,
            "quantize: the layer is in training mode\n  got       LSTM with training=True\n  expected  a layer in eval mode\n"
            "  hint      call layer.eval() first: weights in 8 bits are for inference alone",
        ),
        (
            lambda: Stepper(openlstm.LSTM(3, 4), weights="int8"),
            ArgumentError,
            "Stepper: the layer is in training mode\n  got       LSTM with training=True\n  expected  a layer in eval mode\n"
            "  hint      call layer.eval() first: weights in 8 bits are for inference alone",
        ),
        (
            lambda: openlstm.quantize(FGR),
            ArgumentError,
            "quantize: FGR() has no kernel in 8 bits\n  got       cell: FGR()\n"
            "  expected  LSTM and its variants without FGR, GRU, RNN or JANET, each with heads=1\n"
            "  hint      keep its weights in float32",
        ),
        (
            lambda: openlstm.quantize(openlstm.LSTM(3, 4, cell=cells.LayerNormLSTM()).eval()),
            ArgumentError,
            "quantize: LayerNormLSTM() has no kernel in 8 bits\n  got       cell: LayerNormLSTM()\n"
            "  expected  LSTM and its variants without FGR, GRU, RNN or JANET, each with heads=1\n"
            "  hint      keep its weights in float32",
        ),
        (
            lambda: Stepper(LSTM, weights="int4"),
            ArgumentError,
            "Stepper: unknown weights='int4'\n  got       weights='int4'\n  expected  float32, bfloat16, int8\n"
            "  hint      'int8' is the smallest and quickest, 'float32' what the layer itself computes",
        ),
        (
            lambda: openlstm.quantize(torch.nn.LSTM(3, 4)),  # type: ignore[arg-type]
            ArgumentError,
            "quantize: cannot quantise this\n  got       layer: LSTM\n  expected  openlstm.LSTM, GRU or RNN\n"
            "  hint      quantise the layers inside a model, one by one; "
            "openlstm.replace(model) first makes torch.nn's layers ours",
        ),
        (
            lambda: openlstm.quantize(openlstm.LSTM(3, 4, dtype=torch.float64).eval()),
            DtypeError,
            "quantize: weights in float64 are not rounded to int8\n  got       w_hh: float64[16, 4]\n  expected  float32\n"
            "  hint      use layer.float()",
        ),
        (
            lambda: Stepper(LSTM, weights="int8", backend="reference"),
            BackendError,
            "Stepper: the backend 'reference' has no weights of this kind\n  got       weights='int8'\n"
            "  expected  the compiled extension\n  hint      use backend='auto' where the extension is built",
        ),
        (
            lambda: Stepper(openlstm.LSTM(3, 4, bidirectional=True).eval(), weights="int8"),
            ArgumentError,
            "Stepper: the other direction begins at the end, which a stream has not\n  got       bidirectional=True\n"
            "  expected  bidirectional=False\n  hint      call the layer itself, one step at a time",
        ),
        (
            lambda: openlstm.quantize(LSTM)(torch.zeros(2, 1, 3, requires_grad=True)),
            ArgumentError,
            "Quantized: no gradient passes weights in 8 bits\n  got       x: float32[2, 1, 3], requires_grad\n"
            "  expected  an x without a gradient\n  hint      call it inside torch.no_grad(), or give it x.detach()",
        ),
    ],
)
def test_what_cannot_be_is_said(make: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as caught:
        make()
    assert str(caught.value) == text


@pytest.mark.filterwarnings("ignore:openlstm. Mine has no kernel")
def test_a_cell_of_ones_own_is_refused_by_name() -> None:
    with pytest.raises(BackendError, match="the backend 'reference' has no weights of this kind"):
        openlstm.quantize(openlstm.LSTM(3, 4, cell=Mine()).eval())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 2e30])
def test_a_weight_without_a_scale_is_refused(bad: float) -> None:
    layer: Any = openlstm.LSTM(3, 4).eval()
    with torch.no_grad():
        layer.weight_hh_l0[2, 1] = bad
    with pytest.raises(ArgumentError) as caught:
        openlstm.quantize(layer)
    assert str(caught.value) == (
        f"quantize: layers[0].w_hh holds {np.float32(bad)}\n  got       layers[0].w_hh: float32[16, 4]\n"
        "  expected  numbers within 1e30\n  hint      mend the layer: such a weight has no scale of 8 bits"
    )


def test_a_sum_that_could_leave_its_32_bits_is_refused() -> None:
    assert LONGEST * 127**2 < 2**31 <= (LONGEST + 1) * 127**2
    with pytest.raises(ArgumentError) as caught:
        openlstm.quantize(openlstm.RNN(LONGEST + 1, 1).eval())
    assert str(caught.value) == (
        "quantize: a sum of 133145 products in 8 bits can leave 32 bits\n  got       layers[0].w_ih: float32[1, 133145]\n"
        "  expected  at most 133144 columns\n  hint      keep its weights in float32"
    )


def test_bfloat16_where_nothing_multiplies_it_says_so() -> None:
    with native.use_isa("scalar"), pytest.raises(BackendError) as caught:
        Stepper(LSTM, weights="bfloat16")
    assert str(caught.value).startswith(
        "cpu: no kernel multiplies in bfloat16 here (instruction set scalar)\n  got       weights='bfloat16'"
    )


def test_without_the_extension_it_says_so() -> None:
    said = python(
        """
        import sys
        sys.modules["openlstm._native"] = None  # as if it were not built
        import warnings, openlstm
        warnings.simplefilter("ignore")
        try:
            openlstm.quantize(openlstm.LSTM(3, 4).eval())
        except openlstm.errors.BackendError as error:
            print(error)
        """
    )
    assert said.startswith("quantize: the backend 'reference' has no weights of this kind\n  got       weights='int8'\n")
    assert "  expected  the compiled extension (" in said


def test_what_multiplies_is_said_and_another_way_that_is_not_here_is_refused() -> None:
    for name in native.int8s():
        with native.use_int8(name):
            assert native.library.int8() == name
            assert doctor.examine()["engine"]["8 bits"] == config.config()["int8"] == native.int8()
    with pytest.raises(BackendError) as caught, native.use_int8("tpu"):
        pass
    assert str(caught.value) == (
        "use_int8: 'tpu' does not multiply in 8 bits here\n  got       'tpu'\n"
        f"  expected  {', '.join(native.int8s())}\n  hint      name one of these"
    )


def test_errors_of_a_call_are_those_of_the_layer() -> None:
    one = openlstm.quantize(LSTM)
    assert isinstance(one, Quantized)
    for call in (lambda n: n(torch.zeros(2, 1, 5)), lambda n: n(torch.zeros(2, 1, 3), lengths=[3])):
        said = []
        for net in (LSTM, one):
            with pytest.raises(ArgumentError.__mro__[1]) as caught:  # any error of the package
                call(net)
            said.append(str(caught.value).replace("Quantized", "LSTM").replace("cpu: ", "LSTM: "))
        assert said[0] == said[1]
    with pytest.raises(ArgumentError, match="x holds nan at step 1, row 0, feature 2"):
        x = torch.zeros(2, 1, 3)
        x[1, 0, 2] = float("nan")
        openlstm.quantize(openlstm.LSTM(3, 4, check_finite=True).eval())(x)
