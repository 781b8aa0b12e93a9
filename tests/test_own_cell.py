"""A cell of one's own: `cells.check` finds each kind of mistake, and wrong traits are named before anything runs."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import NEEDS_NATIVE, ROOT

import openlstm
from openlstm import cells, recur
from openlstm.cells import Cell, State, Step, StepGradients, concat, sigmoid, split, tanh, where
from openlstm.engine import native
from openlstm.errors import ArgumentError, BackendError, OpenLSTMError, ShapeError
from openlstm.reference import Weights


class Own(Cell):
    """Two states: c = f c + (1 - f) g, and k, which counts the f."""

    name, gates, saved, has_cell = "own", ("f", "g"), ("f", "g"), True
    states = ("c", "k")
    candidate = "g"

    def forward(self, z: Any, before: State, mask: Any = None) -> Step:
        z_f, z_g = split(z, 2)
        c, k = split(before.c, 2)
        f, g = sigmoid(z_f), tanh(z_g)
        g = g if mask is None else g * mask
        c = f * c + (1 - f) * g
        return Step((f, g), tanh(c), concat([c, k + f]))


def but(**changed: Any) -> Any:
    """`Own` with other traits or functions."""
    return type("Own", (Own,), {"forward": Own.forward, **changed})()


def caught(cell: Any) -> str:
    with pytest.raises(OpenLSTMError) as error:
        cells.check(cell)
    return str(error.value)


@pytest.mark.parametrize("cell", cells.BY_NAME.values(), ids=list(cells.BY_NAME))
def test_every_cell_of_the_package_passes(cell: Cell) -> None:
    cells.check(cell)


def test_a_right_cell_passes_with_and_without_a_backward() -> None:
    cells.check(Own())

    def backward(self: Any, inputs: Any, dh: Any, dc: Any) -> StepGradients:
        (f, g), (c, _), (dc, dk) = inputs.gates, split(inputs.before.c, 2), split(dc, 2)
        dc = dc + dh * (1 - inputs.h**2)
        slope = 1 if inputs.mask is None else inputs.mask
        plain = g if inputs.mask is None else g / where(inputs.mask == 0, np.ones_like(g), inputs.mask)
        return StepGradients(
            concat([(dc * (c - g) + dk) * f * (1 - f), dc * (1 - f) * slope * (1 - plain**2)]), concat([dc * f, dk])
        )

    cells.check(but(backward=backward))


def forward(change: Any) -> Any:
    """A forward whose gates, h and c are changed by a function of (f, g, h, c, z, before)."""

    def run(self: Any, z: Any, before: State, mask: Any = None) -> Step:
        (f, g), h, c = Own.forward(self, z, before, mask)
        return change(f, g, h, c, z, before)

    return run


@pytest.mark.parametrize(
    ("cell", "error"),
    [
        (
            but(forward=forward(lambda f, g, h, c, z, before: Step((f, g), h - h.sum(0), c))),
            "Own: a row depends on the other rows\n"
            "  got       h' off by 0.66 in another batch\n"
            "  expected  the same numbers in every batch\n"
            "  hint      sum over units alone, .sum(-1), never over axis 0",
        ),
        (
            but(forward=forward(lambda f, g, h, c, z, before: Step((f, g), h / split(before.c, 2)[1], c))),
            "Own: a step from zeros is not finite\n"
            "  got       h' = inf\n"
            "  expected  finite numbers\n"
            "  hint      a state begins with zeros, also after a reset: say what the first step is, where(k == 0, ..)",
        ),
        (
            but(forward=lambda self, z, before, mask=None: Own.forward(self, z, before)),
            "Own: the mask of recurrent dropout does not multiply the candidate\n"
            "  got       g off by 0.6\n"
            "  expected  mask * g\n"
            "  hint      g = g if mask is None else g * mask, and hand it out in `saved`",
        ),
        (
            but(backward=lambda self, inputs, dh, dc: StepGradients(concat([dh, dh]), dc)),
            "Own: backward is not the derivative of forward\n"
            "  got       dz of f off by 2.87 of its norm\n"
            "  expected  at most 1e-06, in float64 beside differences\n"
            "  hint      leave `backward` out, and torch differentiates forward",
        ),
        (
            but(backward=lambda self, inputs, dh, dc: StepGradients(dh, dc)),
            "Own: backward returned a wrong dz\n"
            "  got       dz: float64[5, 3]\n"
            "  expected  float64[5, 6]\n"
            "  hint      dz has a block of H for each gate, dc one for each state",
        ),
        (
            but(backward=lambda self, inputs, dh, dc: (dh, dc)),
            "Own: backward did not return StepGradients\n"
            "  got       tuple of 2\n"
            "  expected  openlstm.cells.StepGradients\n"
            "  hint      return StepGradients(dL/dz, dL/dc)",
        ),
        (
            but(forward=forward(lambda f, g, h, c, z, before: Step((f, g), h, c if hasattr(c, "numpy") else 2 * c))),
            "Own: numpy and torch give different numbers\n"
            "  got       c' off by 0.5\n"
            "  expected  at most 1e-9\n"
            "  hint      use the functions of openlstm.cells, which are the same for both",
        ),
        (
            Own,
            "cells.check: not a cell\n"
            "  got       the class Own\n"
            "  expected  an instance of openlstm.cells.Cell\n"
            "  hint      make one: Own()",
        ),
    ],
)
def test_each_kind_of_mistake_is_found(cell: Any, error: str) -> None:
    assert caught(cell) == error


def test_a_cell_that_writes_into_its_arguments_is_found() -> None:
    def writes(self: Any, z: Any, before: State, mask: Any = None) -> Step:
        z *= 0.5
        return Own.forward(self, z, before, mask)

    assert caught(but(forward=writes)) == (
        "Own: forward writes into its arguments\n"
        "  got       z\n"
        "  expected  arguments that are only read\n"
        "  hint      make a new array: z = z + ..., not z += ..."
    )


def test_a_derivative_that_torch_cannot_see_is_found() -> None:
    """Of a branch that where() does not take: right in forward, NaN in torch's derivative at zeros."""

    def hidden(self: Any, z: Any, before: State, mask: Any = None) -> Step:
        step = Own.forward(self, z, before, mask)
        _, k = split(before.c, 2)
        return step._replace(h=step.h + where(k == 0, 0 * k, split(z, 2)[0] / k))

    assert caught(but(forward=hidden)) == (
        "Own: backward is not the derivative of forward\n"
        "  got       dz of f off by nan of its norm\n"
        "  expected  at most 1e-06, in float64 beside differences\n"
        "  hint      forward hides something from torch (detach, item, numpy), or a branch of where() is not finite"
    )


@pytest.mark.parametrize(
    ("traits", "error"),
    [
        (
            {"gates": "fg"},
            "gates is not a tuple of different names\n"
            "  got       gates='fg'\n"
            '  expected  gates=("f", "g")\n'
            '  hint      one name alone is ("f",)',
        ),
        (
            {"saved": ["f", "g"]},
            "saved is not a tuple of different names\n"
            "  got       saved=['f', 'g']\n"
            '  expected  saved=("f", "g")\n'
            '  hint      one name alone is ("f",)',
        ),
        (
            {"gates": (), "candidate": None},
            "there is no gate\n"
            "  got       gates=()\n"
            "  expected  at least one block of sums\n"
            '  hint      a cell without gates has one: gates = ("z",)',
        ),
        (
            {"states": ("c", "h")},
            "the states cannot be told apart\n"
            "  got       states=('c', 'h')\n"
            "  expected  different names, none of them 'h'\n"
            "  hint      states = ('c',) for one",
        ),
        (
            {"saved": ("f", "g", "k")},
            "a gate has the name of a state\n"
            "  got       saved=('f', 'g', 'k')\n"
            "  expected  other names than h, c, k\n"
            "  hint      rename one of them",
        ),
        (
            {"candidate": "i"},
            "the candidate is not a gate that is saved\n"
            "  got       candidate='i'\n"
            "  expected  one of gates and of saved: f, g\n"
            "  hint      candidate = None for a cell without one",
        ),
        (
            {"peepholes": ("f",)},
            "forward does not take w_ch\n"
            "  got       forward(self, z, before, mask)\n"
            "  expected  forward(self, z, before, ..., w_ch=None)\n"
            "  hint      the traits name peepholes",
        ),
    ],
)
def test_wrong_traits_are_named_before_anything_runs(traits: dict[str, Any], error: str) -> None:
    cell, x = but(**traits), np.zeros((1, 1, 1))
    for use in (
        lambda: openlstm.LSTM(2, 3, cell=cell),
        lambda: openlstm.LSTMCell(2, 3, cell=cell),
        lambda: recur(cell, x, Weights(np.zeros((2, 1)), np.zeros((2, 1)))),
        lambda: cells.check(cell),
    ):
        with pytest.raises(ArgumentError) as caught:
            use()
        assert str(caught.value) == f"Own: {error}"


def test_a_missing_trait_is_named() -> None:
    class Bare(Cell):
        def forward(self, z: Any, before: State) -> Step:
            return Step((), z, None)

    with pytest.raises(ArgumentError) as caught:
        openlstm.RNN(2, 3, cell=Bare())
    assert str(caught.value) == (
        "Bare: a trait is missing\n"
        "  got       no name, no gates, no saved, no has_cell\n"
        "  expected  name, gates, saved, has_cell\n"
        '  hint      in the class: name, gates, saved, has_cell = "mine", ("f", "g"), ("f", "g"), True'
    )


@pytest.mark.filterwarnings("ignore:openlstm. Own has no kernel")
def test_an_error_in_a_step_says_what_the_step_was_given() -> None:
    def three(self: Any, z: Any, before: State, mask: Any = None) -> Step:
        split(before.c, 3)
        raise AssertionError

    layer = openlstm.LSTM(2, 4, cell=but(forward=three))
    with pytest.raises(ShapeError) as caught:
        layer(torch.zeros(5, 3, 2))
    assert str(caught.value) == (
        "split: 8 numbers are not 3 equal parts\n"
        "  got       x: float32[3, 8]\n"
        "  expected  a multiple of 3\n"
        "  hint      one part for each gate of z, or for each state of c"
    )
    assert caught.value.__notes__ == [
        "Own.forward was given, with H = 4: z float32[3, 8]: f, g side by side; before.h float32[3, 4]; "
        "before.c float32[3, 8]: c, k side by side"
    ]


def test_a_state_of_another_width_than_the_others_is_named() -> None:
    w = Weights(np.zeros((8, 2)), np.zeros((8, 4)))
    state: Any = (np.zeros((3, 4)), np.zeros((3, 4)), np.zeros((3, 5)))
    with pytest.raises(ShapeError) as caught:
        recur(Own(), np.zeros((1, 3, 2)), w, state)
    assert str(caught.value) == (
        "recur: state.k and state.c have different shapes\n"
        "  got       state.k: float64[3, 5], state.c: float64[3, 4]\n"
        "  expected  [B, H] each\n"
        "  hint      each state has H units a row"
    )


def test_a_cell_whose_kernel_was_not_compiled_runs_on_the_reference_and_says_so() -> None:
    cell = type("Hoped", (Own,), {"forward": Own.forward, "kernel": "hoped"})()
    layer = openlstm.LSTM(2, 3, cell=cell)
    with pytest.warns(RuntimeWarning, match="Hoped has no kernel; running it on the readable reference, which is slower"):
        y, state = layer(torch.ones(2, 1, 2))
    assert layer.backend_used(y) == "reference" and state._fields == ("h", "c", "k")
    y.sum().backward()


def test_the_page_of_cells_has_each_with_its_states_and_kernels() -> None:
    page = (ROOT / "docs" / "cells.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for cell in cells.ALL:
        (row,) = (row.split("|") for row in rows if f"`{type(cell).__name__}`" in row.split("|")[1])
        states = ", ".join(["h", *(cell.states if cell.has_cell else ())])
        assert row[3].strip() in (states, "(h, i, f, o), c"), row
        assert {"none": "-", "elementwise": "each unit itself"}.get(cell.recurrence, "W_hh") in row[4]
        assert f"`{cell.kernel}`" in row[5], row


@NEEDS_NATIVE
def test_a_class_and_a_struct_that_differ_are_named() -> None:
    """Where they did not say the same a kernel would read what is not there."""
    assert all(native.check_kernel(cell) is None for cell in cells.ALL)
    with pytest.raises(BackendError) as caught:
        native.check_kernel(but(kernel="slstm"))
    assert str(caught.value) == (
        "Own: gates of the class and of the struct of kernel 'slstm' differ\n"
        "  got       gates=('f', 'g')\n"
        "  expected  4, as in native/cells/\n"
        "  hint      change one of them and compile again: `make build`"
    )


@pytest.mark.filterwarnings("ignore:openlstm. Own has no kernel", "ignore:.*should not be instantiated:DeprecationWarning")
def test_everything_that_the_page_lists_works_in_a_layer() -> None:
    torch.manual_seed(0)
    layer, x = openlstm.LSTM(2, 3, cell=Own(), dtype=torch.float64), torch.randn(4, 2, 2, dtype=torch.float64)
    y = layer(x)[0]
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x)[0], y)
    torch.testing.assert_close(compiled(torch.cat([x, x], 1))[0][:, :2], y)  # compiled anew for batches of any size
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert torch.equal(other(x)[0], y)
    assert torch.equal(layer(x.flatten(0, 1), cu_seqlens=[0, 8])[0], layer(x.reshape(8, 1, 2))[0].flatten(0, 1))
    assert torch.autograd.gradgradcheck(lambda x: layer(x, lengths=[4, 2])[0], x.clone().requires_grad_(), fast_mode=True)
    slope = torch.func.grad(lambda x: layer(x)[0].sum())(x)
    (expected,) = torch.autograd.grad(layer(leaf := x.clone().requires_grad_())[0].sum(), leaf)
    torch.testing.assert_close(slope, expected)
    torch.testing.assert_close(torch.func.vmap(lambda x: layer(x)[0])(torch.stack([x, 2 * x]))[0], y)
    half = copy.deepcopy(layer).to(torch.bfloat16)(x.bfloat16())[0]
    assert half.dtype == torch.bfloat16 and torch.allclose(half.double(), y, atol=0.05)
