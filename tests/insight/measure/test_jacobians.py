"""The Jacobians of a step and their products against automatic differentiation."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.support import cell_state

from openlstm import cells, reference, weights
from openlstm.call import Call
from openlstm.errors import ArgumentError
from openlstm.insight import gradient_share, products, sizes, step_jacobians
from openlstm.reference import Saved, State, Weights

T, B, I, H = 7, 3, 2, 5
EVERY = [*cells.ALL, cells.LSTM(heads=5), cells.LSTM(clip=0.5), cells.LSTM(cells_per_gate=5), cells.GRU(memory=True)]
CELLS = pytest.mark.parametrize("cell", EVERY, ids=repr)


def draw(cell: cells.Cell, seed: int = 0) -> tuple[torch.Tensor, Weights, State]:
    torch.manual_seed(seed)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    w = weights.collect({f"{name}_l0": tensor(*shape) for name, shape in weights.shapes(cell, I, H).items()})
    state = State(tensor(B, weights.fed_back_size(cell, H)), cell_state(cell, tensor, B, H))
    return tensor(T, B, I), w, state


def ran(cell: cells.Cell, x: Any, w: Weights, state: State) -> Saved:
    saved = reference.forward(Call(cell, x, w, state, save=True)).saved
    assert saved is not None
    return saved


def joined(state: State) -> torch.Tensor:
    return state.h if state.c is None else torch.cat([state.h, state.c], -1)


def by_autograd(cell: cells.Cell, x: torch.Tensor, w: Weights, state: State) -> np.ndarray:
    """d(state after all of x) / d(state before), row of the batch by row of the batch."""

    def last(s: torch.Tensor) -> torch.Tensor:
        R = state.h.shape[1]
        begin = State(s[:, :R], s[:, R:] if cell.has_cell else None)
        return joined(reference.forward(Call(cell, x, w, begin)).state)

    whole = torch.autograd.functional.jacobian(last, joined(state))  # [B, S, B, S]
    return np.stack([whole[b, :, b] for b in range(B)])


@CELLS
def test_every_step_equals_autograd(cell: cells.Cell) -> None:
    x, w, state = draw(cell)
    saved = ran(cell, x, w, state)
    got = step_jacobians(cell, saved, w, state)
    for t in range(T):
        before = reference.forward(Call(cell, x[:t], w, state)).state
        np.testing.assert_allclose(got[t], by_autograd(cell, x[t : t + 1], w, before), atol=1e-13)


@CELLS
def test_the_product_over_all_steps_is_the_derivative_of_the_last_state_by_the_first(cell: cells.Cell) -> None:
    x, w, state = draw(cell, 1)
    saved = ran(cell, x, w, state)
    product = products(step_jacobians(cell, saved, w, state))
    assert product.shape[0] == T + 1
    np.testing.assert_allclose(product[T], by_autograd(cell, x, w, state), atol=1e-12)
    np.testing.assert_array_equal(product[0], np.broadcast_to(np.eye(product.shape[-1]), product[0].shape))


@CELLS
def test_numpy_and_torch_give_the_same(cell: cells.Cell) -> None:
    x, w, state = draw(cell, 2)
    saved = ran(cell, x, w, state)
    as_numpy = ran(
        cell,
        x.numpy(),
        Weights(*(None if p is None else p.numpy() for p in w)),
        State(*(None if s is None else s.numpy() for s in state)),
    )
    np.testing.assert_allclose(step_jacobians(cell, saved, w, state), step_jacobians(cell, as_numpy, w, state), atol=1e-13)


@CELLS
def test_the_share_of_the_gradient_follows_from_the_products(cell: cells.Cell) -> None:
    """dL/ds_{T-k} is the row vector dL/ds_T times the product: the X-ray's two roads must meet."""
    x, w, state = draw(cell, 3)
    saved = ran(cell, x, w, state)
    seed = torch.randn_like(state.h)
    zero_c = None if state.c is None else torch.zeros_like(state.c)
    g = reference.backward(Call(cell, x, w, state), saved, None, State(seed, zero_c), steps=True)
    product = products(step_jacobians(cell, saved, w, state))[:-1]  # [T, B, S, S]
    vector = joined(State(seed, zero_c)).numpy()
    flow = np.einsum("bs,kbsr->kbr", vector, product)
    norm = np.linalg.norm(flow, axis=-1).mean(1)
    np.testing.assert_allclose(gradient_share(g.h_steps, g.c_steps), norm / norm[0], rtol=1e-12)


def test_an_open_forget_gate_and_a_closed_input_gate_are_the_identity_for_the_cell() -> None:
    cell = cells.LSTM()
    bias = np.repeat([-1e3, 1e3, 0.0, 0.0], H)  # i = 0, f = 1
    rng = np.random.default_rng(0)
    w = Weights(rng.normal(size=(4 * H, I)), 0.1 * rng.normal(size=(4 * H, H)), bias, 0 * bias)
    begin = State(np.zeros((B, H)), rng.normal(size=(B, H)))
    saved = ran(cell, rng.normal(size=(50, B, I)), w, begin)
    product = products(step_jacobians(cell, saved, w, begin))[-1]
    np.testing.assert_array_equal(product[:, H:, H:], np.broadcast_to(np.eye(H), (B, H, H)))
    np.testing.assert_array_equal(product[:, H:, :H], 0)


def test_sizes_are_largest_singular_values() -> None:
    matrix = np.diag([3.0, -4.0])
    assert sizes(matrix[None]).tolist() == [4.0]


def test_a_projection_is_refused() -> None:
    w = Weights(np.zeros((8, 1)), np.zeros((8, 1)), w_hr=np.zeros((1, 2)))
    with pytest.raises(ArgumentError) as error:
        step_jacobians(cells.LSTM(), reference.Saved(np.zeros((1, 1, 1))), w, State(np.zeros((1, 1))))
    assert str(error.value) == (
        "step_jacobians: a layer with a projection keeps only the projected h\n"
        "  got       w_hr: [1, 2]\n"
        "  expected  a layer with proj_size=0\n"
        "  hint      use the gradient per step instead: openlstm.trace(layer, x, loss=...)"
    )


class Own(cells.LSTM):
    """A cell of somebody's own, without a backward."""

    def forward(self, *args: Any, **options: Any) -> cells.Step:
        return super().forward(*args, **options)


def test_a_cell_without_a_backward_is_refused() -> None:
    x, w, state = draw(Own())
    saved = ran(Own(), x, w, state)
    with pytest.raises(ArgumentError) as error:
        step_jacobians(Own(), saved, w, state)
    assert str(error.value) == (
        "step_jacobians: Own has no backward of its own\n"
        "  got       cell: Own\n"
        "  expected  a cell that writes `backward` down\n"
        "  hint      use the gradient per step instead: openlstm.trace(layer, x, loss=...)"
    )
