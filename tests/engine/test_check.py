"""Every argument that `recur` refuses, with the exact text of its error; and that it refuses nothing else."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from openlstm.call import Call
from openlstm.cells import LSTM, VanillaRNN
from openlstm.engine import recur
from openlstm.engine.check import check_call
from openlstm.errors import ArgumentError, DtypeError, ShapeError
from openlstm.reference import State, Weights

T, B, I, H, P = 5, 4, 3, 2, 1
z = np.zeros


def good(**changes: Any) -> dict[str, Any]:
    """Arguments that fit, float64 in numpy, with some exchanged."""
    arguments: dict[str, Any] = dict(
        cell=LSTM(),
        x=z((T, B, I)),
        weights=Weights(z((4 * H, I)), z((4 * H, H)), z(4 * H), z(4 * H)),
        state=State(z((B, H)), z((B, H))),
        lengths=np.array([5, 0, 1, 3]),
        reset=z((T, B), bool),
        reset_state=State(z((B, H)), z((B, H))),
    )
    return {**arguments, **changes}


def weights(**changes: Any) -> Weights:
    return good()["weights"]._replace(**changes)


def tensors(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same arguments as torch tensors."""

    def tensor(a: Any) -> Any:
        if isinstance(a, (Weights, State)):
            return type(a)(*map(tensor, a))
        return torch.from_numpy(a) if isinstance(a, np.ndarray) else a

    return {name: tensor(a) for name, a in arguments.items()}


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "cell is a class": (
        good(cell=LSTM),
        DtypeError,
        (
            "recur: cell is not a cell\n"
            "  got       cell: the class LSTM\n"
            "  expected  one of openlstm.cells\n"
            "  hint      make one: cells.LSTM()"
        ),
    ),
    "cell is a name": (
        good(cell="lstm"),
        DtypeError,
        (
            "recur: cell is not a cell\n"
            "  got       cell: str 'lstm'\n"
            "  expected  one of openlstm.cells\n"
            "  hint      cell=openlstm.cells.LSTM()"
        ),
    ),
    "x is a list": (
        good(x=[[[0.0]]]),
        DtypeError,
        (
            "recur: x is not an array\n"
            "  got       x: list of 1\n"
            "  expected  a numpy array or a torch tensor [T, B, I]\n"
            "  hint      convert it: numpy.asarray(x, dtype=numpy.float32) or torch.tensor(x)"
        ),
    ),
    "x is integer": (
        good(x=z((T, B, I), np.int64)),
        DtypeError,
        (
            "recur: x is not floating\n"
            "  got       x: int64[5, 4, 3]\n"
            "  expected  float32 or float64 [T, B, I]\n"
            "  hint      convert it: x.astype(numpy.float32)"
        ),
    ),
    "x is an integer tensor": (
        tensors(good(x=z((T, B, I), np.int32))),
        DtypeError,
        (
            "recur: x is not floating\n"
            "  got       x: int32[5, 4, 3]\n"
            "  expected  float32 or float64 [T, B, I]\n"
            "  hint      convert it: x.float()"
        ),
    ),
    "x has two axes": (
        good(x=z((T, I))),
        ShapeError,
        (
            "recur: x has 2 axes, expected 3\n"
            "  got       x: float64[5, 3]\n"
            "  expected  [T, B, I]\n"
            "  hint      add the batch axis: x[:, None, :]"
        ),
    ),
    "x has four axes": (
        good(x=z((1, T, B, I))),
        ShapeError,
        (
            "recur: x has 4 axes, expected 3\n"
            "  got       x: float64[1, 5, 4, 3]\n"
            "  expected  [T, B, I]\n"
            "  hint      bring x to three axes: time, batch, features"
        ),
    ),
    "x has one axis": (
        good(x=z(I)),
        ShapeError,
        (
            "recur: x has 1 axis, expected 3\n"
            "  got       x: float64[3]\n"
            "  expected  [T, B, I]\n"
            "  hint      bring x to three axes: time, batch, features"
        ),
    ),
    "weights are a tuple": (
        good(weights=(z((8, 3)), z((8, 2)))),
        DtypeError,
        (
            "recur: weights is not Weights\n"
            "  got       weights: tuple of 2\n"
            "  expected  openlstm.Weights\n"
            "  hint      openlstm.weights.collect(state_dict) or Weights(w_ih, w_hh, b_ih, b_hh)"
        ),
    ),
    "no w_ih": (
        good(weights=weights(w_ih=None)),
        ShapeError,
        (
            "recur: without w_ih x is the sums of 4 gates, 8 numbers, and has 3\n"
            "  got       x: float64[5, 4, 3], [T, B, 4*H]\n"
            "  expected  [T, B, 8]\n"
            "  hint      pass w_ih, or the sums of W x of the gates i, f, g, o, one gate after the other"
        ),
    ),
    "w_ih of another cell": (
        good(weights=weights(w_ih=z((3 * H, I)))),
        ShapeError,
        (
            "recur: weights.w_ih does not fit LSTM\n"
            "  got       weights.w_ih: float64[6, 3]\n"
            "  expected  [4*H, I]\n"
            "  hint      LSTM has 4 blocks of H rows (i, f, g, o); is this the weight of another cell?"
        ),
    ),
    "w_ih of an rnn with one axis": (
        good(cell=VanillaRNN(), weights=weights(w_ih=z(H)), state=None, reset_state=None),
        ShapeError,
        (
            "recur: weights.w_ih does not fit VanillaRNN\n"
            "  got       weights.w_ih: float64[2]\n"
            "  expected  [H, I]\n"
            "  hint      VanillaRNN has 1 block of H rows (h); is this the weight of another cell?"
        ),
    ),
    "x of the wrong width": (
        good(x=z((T, B, 7))),
        ShapeError,
        (
            "recur: x has 7 features, expected 3\n"
            "  got       x: float64[5, 4, 7], [T, B, I]\n"
            "  expected  [T, B, 3]\n"
            "  hint      weights.w_ih takes 3 features: pass x with as many, or weights for 7"
        ),
    ),
    "x with its last axes swapped": (
        good(x=z((T, I, B))),
        ShapeError,
        (
            "recur: x has 4 features, expected 3\n"
            "  got       x: float64[5, 3, 4], [T, B, I]\n"
            "  expected  [T, B, 3]\n"
            "  hint      the second axis is 3: swap the last two axes"
        ),
    ),
    "x with its features first": (
        good(x=z((I, B, T))),
        ShapeError,
        (
            "recur: x has 5 features, expected 3\n"
            "  got       x: float64[3, 4, 5], [T, B, I]\n"
            "  expected  [T, B, 3]\n"
            "  hint      the first axis is 3: bring it to the end"
        ),
    ),
    "w_hr of the wrong width": (
        good(weights=weights(w_hr=z((P, 5)))),
        ShapeError,
        (
            "recur: weights.w_hr has shape [1, 5], expected [1, 2]\n"
            "  got       weights.w_hr: float64[1, 5]  (x: float64[5, 4, 3], [T, B, I])\n"
            "  expected  [P, H] = [1, 2]\n"
            "  hint      w_hr maps h' of the cell, H wide, to what is fed back"
        ),
    ),
    "w_hh of the wrong size": (
        good(weights=weights(w_hh=z((4 * H, 3)))),
        ShapeError,
        (
            "recur: weights.w_hh has shape [8, 3], expected [8, 2]\n"
            "  got       weights.w_hh: float64[8, 3]  (x: float64[5, 4, 3], [T, B, I])\n"
            "  expected  [4*H, H] = [8, 2]\n"
            "  hint      w_ih has 4 * 2 rows, so H is 2; take w_hh from the same layer"
        ),
    ),
    "w_hh without the projection": (
        good(weights=weights(w_hr=z((P, H)))),
        ShapeError,
        (
            "recur: weights.w_hh has shape [8, 2], expected [8, 1]\n"
            "  got       weights.w_hh: float64[8, 2]  (x: float64[5, 4, 3], [T, B, I])\n"
            "  expected  [4*H, P] = [8, 1]\n"
            "  hint      with w_hr [P, H] what is fed back is P wide, here 1; take w_hh from the same layer"
        ),
    ),
    "one bias": (
        good(weights=weights(b_hh=None)),
        ArgumentError,
        (
            "recur: weights.b_ih comes without b_hh\n"
            "  got       b_hh=None\n"
            "  expected  both biases or none\n"
            "  hint      pass zeros for b_hh, or leave out b_ih"
        ),
    ),
    "the other bias": (
        good(weights=weights(b_ih=None)),
        ArgumentError,
        (
            "recur: weights.b_hh comes without b_ih\n"
            "  got       b_ih=None\n"
            "  expected  both biases or none\n"
            "  hint      pass zeros for b_ih, or leave out b_hh"
        ),
    ),
    "bias of the wrong size": (
        good(weights=weights(b_hh=z(4))),
        ShapeError,
        (
            "recur: weights.b_hh has shape [4], expected [8]\n"
            "  got       weights.b_hh: float64[4]  (x: float64[5, 4, 3], [T, B, I])\n"
            "  expected  [4*H] = [8]\n"
            "  hint      take the bias from the same layer as w_ih"
        ),
    ),
    "weights of another dtype": (
        good(weights=weights(w_hh=z((4 * H, H), np.float32))),
        DtypeError,
        (
            "recur: weights.w_hh is not float64\n"
            "  got       weights.w_hh: float32[8, 2]  (x: float64[5, 4, 3], [T, B, I])\n"
            "  expected  float64\n"
            "  hint      all arrays of one call have one dtype; convert it: weights.w_hh.astype(numpy.float64)"
        ),
    ),
    "tensor of another dtype": (
        tensors(good(weights=weights(w_hh=z((4 * H, H), np.float32)))),
        DtypeError,
        (
            "recur: weights.w_hh is not float64\n"
            "  got       weights.w_hh: float32[8, 2]  (x: float64[5, 4, 3], [T, B, I])\n"
            "  expected  float64\n"
            "  hint      all arrays of one call have one dtype; convert it: weights.w_hh.to(torch.float64)"
        ),
    ),
    "numpy and torch mixed": (
        good(weights=weights(w_hh=torch.zeros(4 * H, H))),
        DtypeError,
        (
            "recur: weights.w_hh is not a numpy array, as x is\n"
            "  got       weights.w_hh: float32[8, 2]  (x: float64[5, 4, 3], [T, B, I])\n"
            "  expected  a numpy array\n"
            "  hint      convert it: numpy.asarray(weights.w_hh)"
        ),
    ),
    "torch and numpy mixed": (
        {**tensors(good()), "state": good()["state"]},
        DtypeError,
        (
            "recur: state.h is not a torch tensor, as x is\n"
            "  got       state.h: float64[4, 2]  (x: float64[5, 4, 3], [T, B, I])\n"
            "  expected  a torch tensor\n"
            "  hint      convert it: torch.as_tensor(state.h)"
        ),
    ),
    "another device": (
        tensors(good()) | {"state": State(torch.zeros(B, H, dtype=torch.float64, device="meta"), torch.zeros(B, H))},
        ArgumentError,
        (
            "recur: state.h is on meta\n"
            "  got       state.h: float64[4, 2] on meta\n"
            "  expected  on cpu, as x\n"
            "  hint      move it: state.h.to('cpu')"
        ),
    ),
    "state is a tuple": (
        good(state=(z((B, H)), z((B, H)))),
        DtypeError,
        (
            "recur: state is not a State\n"
            "  got       state: tuple of 2\n"
            "  expected  openlstm.reference.State\n"
            "  hint      state=State(h, c)"
        ),
    ),
    "state is an array": (
        good(cell=VanillaRNN(), weights=Weights(z((H, I)), z((H, H))), state=z((B, H)), reset_state=None),
        DtypeError,
        (
            "recur: state is not a State\n"
            "  got       state: float64[4, 2]\n"
            "  expected  openlstm.reference.State\n"
            "  hint      state=State(h)"
        ),
    ),
    "state has no c": (
        good(state=State(z((B, H)))),
        ArgumentError,
        ("recur: state has no c\n  got       c=None\n  expected  h and c, the state of LSTM\n  hint      state=State(h, c)"),
    ),
    "state has a c too many": (
        good(cell=VanillaRNN(), weights=Weights(z((H, I)), z((H, H))), reset_state=None),
        ArgumentError,
        (
            "recur: state has a c\n"
            "  got       state.c: float64[4, 2]\n"
            "  expected  h alone, the state of VanillaRNN\n"
            "  hint      state=State(h)"
        ),
    ),
    "state of the wrong batch": (
        good(state=State(z((3, H)), z((B, H)))),
        ShapeError,
        (
            "recur: state.h has shape [3, 2], expected [4, 2]\n"
            "  got       state.h: float64[3, 2]  (x: float64[5, 4, 3], [T, B, I])\n"
            "  expected  [B, H] = [4, 2]\n"
            "  hint      one row for each of the 4 rows of x, 2 wide"
        ),
    ),
    "state of the wrong width": (
        good(state=State(z((B, H)), z((B, 7)))),
        ShapeError,
        (
            "recur: state.c has shape [4, 7], expected [4, 2]\n"
            "  got       state.c: float64[4, 7]  (x: float64[5, 4, 3], [T, B, I])\n"
            "  expected  [B, H] = [4, 2]\n"
            "  hint      one row for each of the 4 rows of x, 2 wide"
        ),
    ),
    "state of all layers": (
        good(state=State(z((1, B, H)), z((1, B, H)))),
        ShapeError,
        (
            "recur: state.h has shape [1, 4, 2], expected [4, 2]\n"
            "  got       state.h: float64[1, 4, 2]  (x: float64[5, 4, 3], [T, B, I])\n"
            "  expected  [B, H] = [4, 2]\n"
            "  hint      drop the axis of layers: state.h[0]"
        ),
    ),
    "state of a batch-first x": (
        good(x=z((B, T, I))),
        ShapeError,
        (
            "recur: state.h has shape [4, 2], expected [5, 2]\n"
            "  got       state.h: float64[4, 2]  (x: float64[4, 5, 3], [T, B, I])\n"
            "  expected  [B, H] = [5, 2]\n"
            "  hint      x is [T, B, I], time first: if yours is [B, T, I], swap its first two axes"
        ),
    ),
    "state without the projection": (
        good(weights=weights(w_hh=z((4 * H, P)), w_hr=z((P, H)))),
        ShapeError,
        (
            "recur: state.h has shape [4, 2], expected [4, 1]\n"
            "  got       state.h: float64[4, 2]  (x: float64[5, 4, 3], [T, B, I])\n"
            "  expected  [B, P] = [4, 1]\n"
            "  hint      one row for each of the 4 rows of x, 1 wide"
        ),
    ),
    "reset_state of the wrong batch": (
        good(reset_state=State(z((1, H)), z((1, H)))),
        ShapeError,
        (
            "recur: reset_state.h has shape [1, 2], expected [4, 2]\n"
            "  got       reset_state.h: float64[1, 2]  (x: float64[5, 4, 3], [T, B, I])\n"
            "  expected  [B, H] = [4, 2]\n"
            "  hint      one row for each of the 4 rows of x, 2 wide"
        ),
    ),
    "lengths of the wrong number": (
        good(lengths=[5, 5]),
        ShapeError,
        (
            "recur: lengths has shape [2], expected [4]\n"
            "  got       lengths: int64[2]  (x: float64[5, 4, 3], [T, B, I])\n"
            "  expected  [B] = [4]\n"
            "  hint      one length for each of the 4 rows of x"
        ),
    ),
    "lengths of a batch-first x": (
        good(x=z((B, T, I)), state=None, reset_state=None),
        ShapeError,
        (
            "recur: lengths has shape [4], expected [5]\n"
            "  got       lengths: int64[4]  (x: float64[4, 5, 3], [T, B, I])\n"
            "  expected  [B] = [5]\n"
            "  hint      x is [T, B, I], time first: if yours is [B, T, I], swap its first two axes"
        ),
    ),
    "lengths are floats": (
        good(lengths=z(B)),
        DtypeError,
        (
            "recur: lengths are not integers\n"
            "  got       lengths: float64[4]\n"
            "  expected  integers [B] = [4]\n"
            "  hint      lengths count steps: pass integers, one for each row"
        ),
    ),
    "lengths are a mask": (
        good(lengths=np.ones(B, bool)),
        DtypeError,
        (
            "recur: lengths are not integers\n"
            "  got       lengths: bool[4]\n"
            "  expected  integers [B] = [4]\n"
            "  hint      lengths count steps: pass integers, one for each row"
        ),
    ),
    "lengths are words": (
        good(lengths=list("abcd")),
        DtypeError,
        (
            "recur: lengths are not integers\n"
            "  got       lengths: list of 4\n"
            "  expected  integers [B] = [4]\n"
            "  hint      lengths count steps: pass integers, one for each row"
        ),
    ),
    "a length beyond T": (
        good(lengths=np.array([5, 6, 1, 2])),
        ArgumentError,
        (
            "recur: lengths[1] is 6, but x has 5 steps\n"
            "  got       lengths[1] = 6  (x: float64[5, 4, 3], [T, B, I])\n"
            "  expected  0 <= lengths <= 5\n"
            "  hint      cut lengths at T, or pad x to the longest row"
        ),
    ),
    "a negative length": (
        good(lengths=[5, 4, 1, -1]),
        ArgumentError,
        (
            "recur: lengths[3] is -1, but x has 5 steps\n"
            "  got       lengths[3] = -1  (x: float64[5, 4, 3], [T, B, I])\n"
            "  expected  0 <= lengths <= 5\n"
            "  hint      a row without a step has length 0"
        ),
    ),
    "reset is a list": (
        good(reset=[[False]]),
        DtypeError,
        (
            "recur: reset is not a numpy array, as x is\n"
            "  got       reset: list of 1  (x: float64[5, 4, 3], [T, B, I])\n"
            "  expected  a numpy array\n"
            "  hint      convert it: numpy.asarray(reset)"
        ),
    ),
    "reset is of the other kind": (
        good(reset=torch.zeros(T, B, dtype=torch.bool)),
        DtypeError,
        (
            "recur: reset is not a numpy array, as x is\n"
            "  got       reset: bool[5, 4]  (x: float64[5, 4, 3], [T, B, I])\n"
            "  expected  a numpy array\n"
            "  hint      convert it: numpy.asarray(reset)"
        ),
    ),
    "reset is not a mask": (
        good(reset=z((T, B), int)),
        DtypeError,
        (
            "recur: reset is not a mask\n"
            "  got       reset: int64[5, 4]\n"
            "  expected  bool [T, B] = [5, 4]\n"
            "  hint      compare first: reset != 0"
        ),
    ),
    "reset of the wrong size": (
        good(reset=z((T, 3), bool)),
        ShapeError,
        (
            "recur: reset has shape [5, 3], expected [5, 4]\n"
            "  got       reset: bool[5, 3]  (x: float64[5, 4, 3], [T, B, I])\n"
            "  expected  [T, B] = [5, 4]\n"
            "  hint      one flag for each step of each row"
        ),
    ),
    "reset of a batch-first x": (
        good(reset=z((B, T), bool)),
        ShapeError,
        (
            "recur: reset has shape [4, 5], expected [5, 4]\n"
            "  got       reset: bool[4, 5]  (x: float64[5, 4, 3], [T, B, I])\n"
            "  expected  [T, B] = [5, 4]\n"
            "  hint      x is [T, B, I], time first: if yours is [B, T, I], swap its first two axes; reset is [T, B] too"
        ),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_call_is_refused_with_this_text(name: str) -> None:
    arguments, kind, text = BAD[name]
    with pytest.raises(kind) as caught:
        check_call(Call(**arguments))
    assert str(caught.value) == text


def test_recur_checks_its_arguments_before_it_runs() -> None:
    with pytest.raises(ShapeError, match="x has 7 features, expected 3"):
        recur(**good(x=z((T, B, 7))), backend="reference")


@pytest.mark.parametrize("arguments", [good(), tensors(good())], ids=["numpy", "torch"])
@pytest.mark.parametrize("lengths", [[5, 0, 1, 3], (1, 2, 3, 4), np.array([5, 5, 5, 5], np.int32), torch.tensor([0, 0, 0, 0])])
def test_lengths_of_any_kind_are_taken(arguments: dict[str, Any], lengths: Any) -> None:
    run = recur(**{**arguments, "lengths": lengths}, backend="reference")
    assert tuple(run.y.shape) == (T, B, H)


def test_optional_arguments_may_be_left_out() -> None:
    left_out = good(state=None, lengths=None, reset=None, reset_state=None, weights=weights(b_ih=None, b_hh=None))
    assert recur(**left_out, backend="reference").y.shape == (T, B, H)


@pytest.mark.parametrize(("steps", "rows"), [(0, B), (T, 0), (0, 0)])
def test_no_steps_and_no_rows_are_taken(steps: int, rows: int) -> None:
    state = State(z((rows, H)), z((rows, H)))
    run = recur(
        LSTM(),
        z((steps, rows, I)),
        good()["weights"],
        state,
        lengths=[steps] * rows,
        reset=z((steps, rows), bool),
        reset_state=state,
        backend="reference",
        save=True,
    )
    assert run.y.shape == (steps, rows, H) and run.saved is not None
    assert run.saved.gates is not None and run.saved.gates.shape == (steps, rows, 4 * H)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_any_floating_type_is_kept(dtype: Any) -> None:
    w = Weights(z((4 * H, I), dtype), z((4 * H, H), dtype))
    assert recur(LSTM(), z((T, B, I), dtype), w, backend="reference").y.dtype == dtype


def test_parameters_of_a_layer_are_taken_without_a_warning() -> None:
    layer = torch.nn.LSTM(I, H)
    w = Weights(layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert recur(LSTM(), torch.zeros(T, B, I), w, backend="reference").y.shape == (T, B, H)
