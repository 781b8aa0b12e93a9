"""Parameter names and shapes of a layer, and everyone else's gate orders (the only place that knows them).

Legend: I input size, H hidden size, P projected size, R what is fed back (P with a projection, else H), G gates of a cell.
"""

from __future__ import annotations

from openlstm import _array as A
from openlstm._array import Array
from openlstm._errors import ArgumentError, message
from openlstm.cells import Cell
from openlstm.reference import Weights

GATE_ORDERS: dict[str, str] = {
    "openlstm": "ifgo",
    "torch": "ifgo",
    "keras": "ifgo",  # documented as i, f, c, o
    "flax": "ifgo",
    "equinox": "ifgo",
    "haiku": "igfo",  # adds 1 to the forget gate in the step
    "haste": "igfo",
    "onnx": "iofg",  # documented as i, o, f, c
    "openvino": "figo",  # documented as f, i, c, o
    "coreml": "ifog",  # documented as i, f, o, z
}
"""The order of the LSTM's four blocks in other packages' weights; g is the candidate, which some call c or z."""

FIELDS: tuple[tuple[str, str], ...] = (
    ("weight_ih", "w_ih"),
    ("weight_hh", "w_hh"),
    ("bias_ih", "b_ih"),
    ("bias_hh", "b_hh"),
    ("weight_hr", "w_hr"),
)
"""Names in a state_dict beside the fields of `Weights`, in the order in which torch creates them."""


def suffix(layer: int, direction: int) -> str:
    """The end of a parameter's name: `_l0`, `_l1_reverse`."""
    return f"_l{layer}" + ("_reverse" if direction else "")


def shapes(cell: Cell, input_size: int, hidden_size: int, proj_size: int = 0, bias: bool = True) -> dict[str, tuple[int, ...]]:
    """The parameters of one layer in one direction, by the names of a state_dict without their suffix, in torch's order.

    >>> from openlstm.cells import LSTM
    >>> shapes(LSTM(), 3, 5, bias=False)
    {'weight_ih': (20, 3), 'weight_hh': (20, 5)}
    """
    rows = len(cell.gates) * hidden_size
    out: dict[str, tuple[int, ...]] = {"weight_ih": (rows, input_size), "weight_hh": (rows, proj_size or hidden_size)}
    if bias:
        out.update(bias_ih=(rows,), bias_hh=(rows,))
    if proj_size:
        out["weight_hr"] = (proj_size, hidden_size)
    return out


def collect(named: dict[str, Array], layer: int = 0, direction: int = 0) -> Weights:
    """The `Weights` of one layer and direction from a state_dict-like mapping of names to arrays."""
    end = suffix(layer, direction)
    return Weights(**{field: named.get(name + end) for name, field in FIELDS})  # type: ignore[arg-type]


def reorder(array: Array, source: str, target: str) -> Array:
    """Rows of LSTM weights [4*H, ...] or biases [4*H] from one package's gate order to another's.

    Args:
        array: the blocks of H rows in the order of `source`.
        source, target: names in `GATE_ORDERS`.

    Raises:
        ArgumentError: for a name that is not there.

    >>> import numpy as np
    >>> reorder(np.array([1, 2, 3, 4]), "openlstm", "onnx").tolist()
    [1, 4, 2, 3]
    """
    for name in (source, target):
        if name not in GATE_ORDERS:
            known = ", ".join(sorted(GATE_ORDERS))
            raise ArgumentError(
                message("weights.reorder", f"unknown gate order {name!r}", repr(name), known, "name one of these packages")
            )
    n = array.shape[0] // 4
    blocks = {gate: array[k * n : (k + 1) * n] for k, gate in enumerate(GATE_ORDERS[source])}
    ordered = [blocks[gate] for gate in GATE_ORDERS[target]]
    xp = A.namespace(array)
    return xp.cat(ordered, 0) if A.is_torch(array) else xp.concatenate(ordered, 0)
