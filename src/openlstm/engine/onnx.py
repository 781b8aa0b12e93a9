"""A cell as an operator of ONNX: which operator it is, its attributes, and weights in its order; over numpy or torch arrays.

Legend: I input size, H hidden size, D directions, G gates of the operator (4 for LSTM, 3 for GRU, 1 for RNN).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from openlstm import _array as A
from openlstm import cells
from openlstm._array import Array
from openlstm.cells import Cell
from openlstm.weights import GATE_ORDERS, GRU_GATE_ORDERS, Weights, expand, reorder

OPEN = 100.0
"""The bias of a gate that a cell has not: its sigmoid is exactly 1."""

MEMORIES = (cells.LSTM, cells.LSTM1997, cells.Peephole, *(cells.NIG, cells.NFG, cells.NOG, cells.NIAF, cells.NOAF, cells.CIFG))


class Operator(NamedTuple):
    """A recurrent operator of ONNX."""

    name: str  # LSTM, GRU or RNN
    attributes: dict[str, Any]  # of one direction; "activations" and their numbers are repeated for a second one

    def of(self, directions: int) -> dict[str, Any]:
        """The attributes of so many directions."""
        return {name: value * directions if isinstance(value, list) else value for name, value in self.attributes.items()}


def operator(cell: Cell, w: Weights) -> Operator | None:
    """The operator that computes what a cell does, or None where there is none.

    Clipping is another thing in ONNX, which clips sums; a projection, several states and given sums W_ih x are unknown there.

    >>> operator(cells.CIFG(), Weights(1, 1))
    Operator(name='LSTM', attributes={'input_forget': 1})
    >>> operator(cells.SLSTM(), Weights(1, 1)) is None
    True
    """
    if w.w_hr is not None or w.w_ih is None or getattr(cell, "clip", None) is not None:
        return None
    if type(cell) is cells.GRU and not cell.memory:
        return Operator("GRU", {"linear_before_reset": 1})
    if type(cell) is cells.VanillaRNN:
        return Operator("RNN", {"activations": [cell.nonlinearity.capitalize()]})
    if type(cell) not in MEMORIES:
        return None
    attributes: dict[str, Any] = {"input_forget": 1} if type(cell) is cells.CIFG else {}
    if type(cell) in (cells.NIAF, cells.NOAF):
        names = ["Sigmoid", "Affine", "Tanh"] if type(cell) is cells.NIAF else ["Sigmoid", "Tanh", "Affine"]
        attributes |= {"activations": names, "activation_alpha": [1.0], "activation_beta": [0.0]}  # 1 x + 0
    return Operator("LSTM", attributes)


def inputs(cell: Cell, w: Weights, H: int) -> dict[str, Array]:
    """W [G*H, I], R [G*H, H], B [2*G*H] and with peepholes P [3*H] of one direction, as `operator(cell)` reads them.

    A gate that the cell has not is held open by its bias; heads are blocks of R, with zeros beside them.
    """
    w = expand(cell, w, H)
    own: list[Array] = [w.w_ih, all_columns(w.w_hh, H)]
    zeros = A.zeros(w.w_hh, w.w_hh.shape[0])
    biases = [zeros if w.b_ih is None else w.b_ih, zeros if w.b_hh is None else w.b_hh]
    if cell.name == "gru":
        W, R, *biases = (reorder(a, "openlstm", "onnx", H, GRU_GATE_ORDERS) for a in (*own, *biases))
    elif cell.name == "rnn":
        W, R = own
    else:
        held = {g for g in "ifo" if g not in cell.gates} - ({"f"} if isinstance(cell, cells.CIFG) else set())
        W, R, *biases = (_all_gates(cell, a, H, held if k == 2 else set()) for k, a in enumerate((*own, *biases)))
    found = {"W": W, "R": R, "B": A.concat(biases)}
    if cell.peepholes:
        of = dict(zip(cell.peepholes, A.split(w.w_ch, len(cell.peepholes)), strict=True))
        found["P"] = A.concat([of.get(gate, zeros[:H]) for gate in GATE_ORDERS["onnx"][:3]])
    return found


def _all_gates(cell: Cell, a: Array, H: int, held: set[str]) -> Array:
    """The rows of the gates i, o, f, g; of one that the cell has not zeros, or what holds it open."""
    of = {gate: a[k * H : (k + 1) * H] for k, gate in enumerate(cell.gates)}
    missing = A.zeros(a, H, *a.shape[1:])
    rows = [of[gate] if gate in of else missing + OPEN if gate in held else missing for gate in GATE_ORDERS["onnx"]]
    return _joined(rows)


def all_columns(w_hh: Array, H: int) -> Array:
    """The weights of heads [G*H, K] where they stand among those of all units, [G*H, H]; others as they are."""
    K = w_hh.shape[1]
    if K in (0, H):
        return w_hh
    blocks = w_hh.reshape(-1, H // K, K, K)  # gate, head, unit of the head, column
    zeros = A.zeros(w_hh, blocks.shape[0], K, K)
    heads = range(H // K)
    return _joined([A.concat([blocks[:, head] if head == at else zeros for at in heads]) for head in heads], 1).reshape(-1, H)


def _joined(arrays: list[Array], axis: int = 0) -> Array:
    xp = A.namespace(arrays[0])
    return xp.cat(arrays, axis) if A.is_torch(arrays[0]) else xp.concatenate(arrays, axis)
