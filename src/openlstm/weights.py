"""Parameter names and shapes of a layer, and the gate orders of other packages, which stand only here.

Legend: I input size, H hidden size, P projected size, G gates of a cell, m cells that share their gates,
R what is fed back (P with a projection, else H for each of `Cell.feeds_back`), K columns of weight_hh.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from openlstm import _array as A
from openlstm._array import Array
from openlstm.cells import Cell
from openlstm.errors import ArgumentError, ShapeError, describe

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

GRU_GATE_ORDERS: dict[str, str] = {
    "openlstm": "rzn",
    "torch": "rzn",
    "keras": "zrn",  # documented as z, r, h
    "flax": "rzn",
    "onnx": "zrn",  # documented as z, r, h
}
"""The order of the GRU's three blocks in other packages' weights; n is the candidate, which some call h."""

FIELDS: tuple[tuple[str, str], ...] = (
    ("weight_ih", "w_ih"),
    ("weight_hh", "w_hh"),
    ("bias_ih", "b_ih"),
    ("bias_hh", "b_hh"),
    ("weight_hr", "w_hr"),
    ("weight_ch", "w_ch"),
)
"""Names in a state_dict beside the fields of `Weights`, in the order in which torch creates them."""

RECURRENCES = ("dense", "elementwise", "none")
"""What `Cell.recurrence` may be."""

NORMS = tuple(f"norm_{part}_{kind}" for part in "xhc" for kind in ("weight", "bias"))
"""The names of the parts of `Weights.norm`, in their order."""


class Weights(NamedTuple):
    """The parameters of one layer in one direction; a missing one is None.

    With memory blocks (`Cell.cells_per_gate` = m) every gate but the candidate has H/m rows instead of H.
    """

    w_ih: Any  # [G*H, I]; None where x [T, B, G*H] already are the sums of W_ih x, in the order of `Cell.gates`
    w_hh: Array  # [G*H, K], K as `recurrent_size` says
    b_ih: Array | None = None  # [G*H]
    b_hh: Array | None = None  # [G*H]
    w_hr: Array | None = None  # [P, H], the projection
    w_ch: Array | None = None  # [len(cell.peepholes)*H], the peepholes
    norm: Array | None = None  # weight and bias of each of cell.norms, one behind the other: see `norm_sizes`


def suffix(layer: int, direction: int) -> str:
    """The end of a parameter's name: `_l0`, `_l1_reverse`."""
    return f"_l{layer}" + ("_reverse" if direction else "")


def gate_rows(cell: Cell, hidden_size: int) -> tuple[int, ...]:
    """The rows of each gate in `weight_ih`: H, or H/m for the gates that m cells share.

    >>> from openlstm.cells import LSTM
    >>> gate_rows(LSTM(cells_per_gate=3), 6)
    (2, 2, 6, 2)
    """
    shared = hidden_size // cell.cells_per_gate
    return tuple(hidden_size if gate == cell.candidate else shared for gate in cell.gates)


def hidden_size(cell: Cell, weights: Weights) -> int:
    """H, from the rows of `w_hh`.

    >>> import numpy as np
    >>> from openlstm.cells import LSTM
    >>> hidden_size(LSTM(cells_per_gate=3), Weights(np.zeros((12, 1)), np.zeros((12, 6))))
    6
    """
    m = cell.cells_per_gate
    unit = sum(gate_rows(cell, m))  # the rows of m cells
    return weights.w_hh.shape[-2] * m // unit


def fed_back_size(cell: Cell, hidden_size: int, proj_size: int = 0) -> int:
    """R, the width of what is fed back and carried as h."""
    return proj_size or len(cell.feeds_back) * hidden_size


def recurrent_size(cell: Cell, fed_back: int) -> int:
    """K, the columns of `weight_hh`: R, R / heads, 1 where a unit sees itself alone, 0 where nothing is fed back into the sums.

    >>> from openlstm.cells import LSTM, IndRNN, MinGRU
    >>> recurrent_size(LSTM(heads=2), 6), recurrent_size(IndRNN(), 6), recurrent_size(MinGRU(), 6)
    (3, 1, 0)
    """
    return fed_back // cell.heads if cell.recurrence == "dense" else int(cell.recurrence == "elementwise")


def cell_size(cell: Cell, hidden_size: int) -> int:
    """C, the width of `State.c`: H for each of `Cell.states`, 0 for a cell without one."""
    return len(cell.states) * hidden_size if cell.has_cell else 0


def check_recurrence(cell: Cell, hidden_size: int, proj_size: int = 0) -> None:
    """Raise where the traits of a cell contradict each other, or H or a projection does not fit them.

    Raises:
        ArgumentError: naming the cell.
    """
    if cell.recurrence == "dense" and cell.heads == 1 and cell.states == ("c",) and not (proj_size and cell.reads_h):
        return
    who, heads, m = type(cell).__name__, cell.heads, cell.cells_per_gate
    if cell.recurrence not in RECURRENCES:
        got, expected = f"recurrence={cell.recurrence!r}", " or ".join(map(repr, RECURRENCES))
        raise ArgumentError.of(who, "unknown recurrence", got, expected, "'dense' is that of the LSTM")
    if proj_size and cell.reads_h:
        got, hint = f"proj_size={proj_size}", "take proj_size=0, or a cell with a cell state beside h"
        raise ArgumentError.of(who, "cannot be projected: a step reads what each unit put out", got, "proj_size=0", hint)
    if cell.recurrence == "dense" and heads == 1:
        return
    named = f"heads={heads}" if heads > 1 else f"recurrence={cell.recurrence!r}"
    if heads > 1 and cell.recurrence != "dense":
        got = f"heads={heads}, recurrence={cell.recurrence!r}"
        raise ArgumentError.of(who, "heads divide a dense recurrence", got, "recurrence='dense'", "take heads=1")
    if hidden_size % heads:
        what, got = f"hidden_size {hidden_size} is not made of {heads} heads", f"hidden_size={hidden_size}"
        hint = f"take hidden_size={hidden_size - hidden_size % heads or heads}, or other heads"
        raise ArgumentError.of(who, what, got, f"a multiple of heads={heads}", hint)
    if hidden_size // heads % m:
        what = f"a head of {hidden_size // heads} units is not made of blocks of {m}"
        got, hint = f"hidden_size={hidden_size}, heads={heads}", f"take hidden_size={heads * m}, or another cells_per_gate"
        raise ArgumentError.of(who, what, got, f"a multiple of heads * cells_per_gate = {heads * m}", hint)
    if proj_size:
        got, hint = f"proj_size={proj_size}, {named}", "take proj_size=0, or a cell that sees all of h"
        raise ArgumentError.of(who, "cannot be projected: a unit does not see all of h", got, "proj_size=0", hint)
    if len(cell.feeds_back) > 1:
        got, hint = f"feeds_back={cell.feeds_back!r}, {named}", "take recurrence='dense' and heads=1"
        raise ArgumentError.of(who, "feeds its gates back, which every unit sees", got, "a dense recurrence", hint)
    if cell.separate and cell.recurrence == "none":
        got, hint = f"separate={cell.separate}, {named}", "take separate=0"
        raise ArgumentError.of(who, "has no sums of h that could be apart", got, "separate=0", hint)


def norm_sizes(cell: Cell, hidden_size: int) -> dict[str, int]:
    """The vectors that make up `Weights.norm`, by the names of a state_dict without their suffix, in their order.

    >>> from openlstm.cells import LayerNormLSTM
    >>> norm_sizes(LayerNormLSTM(), 2)
    {'norm_x_weight': 8, 'norm_x_bias': 8, 'norm_h_weight': 8, 'norm_h_bias': 8, 'norm_c_weight': 2, 'norm_c_bias': 2}
    """
    sums = len(cell.gates) * hidden_size
    return {name: hidden_size if name[5] == "c" else sums for name in NORMS if name[5] in cell.norms}


def shapes(cell: Cell, input_size: int, hidden_size: int, proj_size: int = 0, bias: bool = True) -> dict[str, tuple[int, ...]]:
    """The parameters of one layer in one direction, by the names of a state_dict without their suffix, in torch's order.

    Raises:
        ArgumentError: for a hidden size that memory blocks or heads do not divide, a projection of a cell that feeds its gates
            back or whose units do not see all of h, or traits that contradict each other.

    >>> from openlstm.cells import LSTM, MinGRU, Peephole
    >>> shapes(LSTM(), 3, 5, bias=False)
    {'weight_ih': (20, 3), 'weight_hh': (20, 5)}
    >>> shapes(Peephole(), 3, 5, bias=False)["weight_ch"]
    (15,)
    >>> shapes(MinGRU(), 3, 5)
    {'weight_ih': (10, 3), 'bias_ih': (10,)}
    """
    who, m = type(cell).__name__, cell.cells_per_gate
    if hidden_size % m:
        what = f"hidden_size {hidden_size} is not made of blocks of {m}"
        hint = f"take hidden_size={hidden_size - hidden_size % m or m}, or another cells_per_gate"
        raise ArgumentError.of(who, what, f"hidden_size={hidden_size}", f"a multiple of cells_per_gate={m}", hint)
    if proj_size and len(cell.feeds_back) > 1:
        hint = "take proj_size=0, or cells.Peephole(), which feeds back its output alone"
        got = f"proj_size={proj_size}"
        raise ArgumentError.of(who, "cannot be projected: it feeds its gates back", got, "proj_size=0", hint)
    check_recurrence(cell, hidden_size, proj_size)
    rows = sum(gate_rows(cell, hidden_size))
    columns = recurrent_size(cell, fed_back_size(cell, hidden_size, proj_size))
    out: dict[str, tuple[int, ...]] = {"weight_ih": (rows, input_size)}
    if cell.recurrence != "none":
        out["weight_hh"] = (rows, columns)
    if bias:
        out["bias_ih"] = (rows,)
    if bias and cell.recurrence != "none":
        out["bias_hh"] = (rows,)
    if proj_size:
        out["weight_hr"] = (proj_size, hidden_size)
    if cell.peepholes:
        out["weight_ch"] = (len(cell.peepholes) * hidden_size,)
    out.update((name, (size,)) for name, size in norm_sizes(cell, hidden_size).items())
    return out


def collect(named: dict[str, Array], layer: int = 0, direction: int = 0) -> Weights:
    """The `Weights` of one layer and direction from a state_dict-like mapping of names to arrays.

    Without `weight_ih` x is the sums; without `weight_hh`, for a cell without a recurrence, `w_hh` is empty, [G*H, 0].
    """
    end = suffix(layer, direction)
    if f"weight_hh{end}" not in named:
        named = {**named, f"weight_hh{end}": named[f"weight_ih{end}"][:, :0]}
    norms = [named[name + end] for name in NORMS if name + end in named]
    return Weights(**{field: named.get(name + end) for name, field in FIELDS}, norm=A.concat(norms) if norms else None)  # type: ignore[arg-type]


def spread(cell: Cell, weights: Weights, layer: int = 0, direction: int = 0) -> dict[str, Array]:
    """The way back of `collect`: the arrays that are there, by the names of a state_dict."""
    found = {name: getattr(weights, field) for name, field in FIELDS}
    if cell.recurrence == "none":
        found["weight_hh"] = None
    if weights.norm is not None:
        found |= {name: weights.norm[..., s] for name, s in _norm_slices(cell, hidden_size(cell, weights)).items()}
    return {name + suffix(layer, direction): a for name, a in found.items() if a is not None}


def expand(cell: Cell, weights: Weights, hidden: int | None = None) -> Weights:
    """The weights of `cell.unshared()` that does the same: each row of a gate once for every cell that shares it.

    Biases of sums that are normalised go into the biases of `norm`, since all of them add up. Plain array operations, so that
    torch sums the gradients of the copies by itself; unchanged where nothing is shared.

    Args:
        weights: of `cell`; leading axes are allowed.
        hidden: H, from the weights if None.

    >>> import numpy as np
    >>> from openlstm.cells import LSTM
    >>> rows = np.arange(5.0)[:, None]  # i, f, the two cells' g, o
    >>> expand(LSTM(cells_per_gate=2), Weights(rows, rows)).w_ih.ravel().tolist()
    [0.0, 0.0, 1.0, 1.0, 2.0, 3.0, 4.0, 4.0]
    """
    if cell.norms and weights.b_ih is not None:
        weights = _folded(cell, weights, hidden_size(cell, weights) if hidden is None else hidden)
    if cell.cells_per_gate == 1:
        return weights
    index = _copies(cell, hidden_size(cell, weights) if hidden is None else hidden)
    return _each(weights, lambda a, axis: A.take(a, index, axis))


def collapse(cell: Cell, gradients: Weights, hidden: int, bias: bool = True) -> Weights:
    """The way back of `expand` for gradients: those of the copies are added up.

    Args:
        bias: whether `expand` was given biases.
    """
    if bias and cell.norms and gradients.norm is not None:
        at = _norm_slices(cell, hidden)
        b_ih, b_hh = (A.copy(gradients.norm[..., at[f"norm_{part}_bias"]]) for part in "xh")
        gradients = gradients._replace(b_ih=b_ih, b_hh=b_hh)
    if cell.cells_per_gate == 1:
        return gradients
    m = cell.cells_per_gate

    def summed(a: Array, axis: int) -> Array:
        a = a if axis == -1 else A.swap(a)  # the rows come last
        blocks = dict(zip(cell.gates, A.split(a, len(cell.gates)), strict=True))
        own = [b if gate == cell.candidate else b.reshape(*b.shape[:-1], hidden // m, m).sum(-1) for gate, b in blocks.items()]
        return A.concat(own) if axis == -1 else A.swap(A.concat(own))

    return _each(gradients, summed)


def _norm_slices(cell: Cell, hidden: int) -> dict[str, slice]:
    """Where the parts of `Weights.norm` lie."""
    out, start = {}, 0
    for name, size in norm_sizes(cell, hidden).items():
        out[name] = slice(start, start + size)
        start += size
    return out


def _folded(cell: Cell, w: Weights, hidden: int) -> Weights:
    """b_ih and b_hh in the biases of the norms of W x and W h."""
    norm: Any = w.norm
    more = {"norm_x_bias": w.b_ih, "norm_h_bias": w.b_hh}
    parts = [norm[..., s] + more[name] if name in more else norm[..., s] for name, s in _norm_slices(cell, hidden).items()]
    return w._replace(b_ih=None, b_hh=None, norm=A.concat(parts))


def _copies(cell: Cell, hidden: int) -> list[int]:
    """For every row of the expanded weights the row it comes from."""
    index, start = [], 0
    for rows in gate_rows(cell, hidden):
        index += [start + unit * rows // hidden for unit in range(hidden)]
        start += rows
    return index


def _each(weights: Weights, f: Any) -> Weights:
    """f(array, axis of its rows) for everything that has a row per gate."""
    at = {"w_ih": -2, "w_hh": -2, "b_ih": -1, "b_hh": -1}
    named = {name: getattr(weights, name) for name in at}
    return weights._replace(**{name: None if a is None else f(a, at[name]) for name, a in named.items()})


def seen(h: Array, w_hh: Array) -> Any:
    """What the sums see of h [..., R]: h W_hh^T [..., G*H], where units see all of h, their own head, or themselves alone.

    `w_hh` [G*H, K] says which: R / K heads, of which every unit is one where K = 1; None without such a product (K = 0).
    """
    blocks = _blocks(h.shape[-1], w_hh)
    if blocks is None:
        return h @ w_hh.T if w_hh.shape[1] == h.shape[-1] else None
    found = _einsum("...nk,gnuk->...gnu", h.reshape(*h.shape[:-1], *blocks.shape[1::2]), blocks)
    return found.reshape(*h.shape[:-1], w_hh.shape[0])


def unseen(dz: Array, w_hh: Array, R: int) -> Array:
    """The way back of `seen`: dL/d(h W_hh^T) [..., G*H] -> dL/dh [..., R]."""
    if not w_hh.shape[1] or not R:
        return A.zeros(dz, *dz.shape[:-1], R)
    blocks = _blocks(R, w_hh)
    if blocks is None:
        return dz @ w_hh
    return _einsum("...gnu,gnuk->...nk", dz.reshape(*dz.shape[:-1], *blocks.shape[:3]), blocks).reshape(*dz.shape[:-1], R)


def recurrent_gradient(dz: Array, h: Array, w_hh: Array) -> Array:
    """The way back of `seen`: dL/d(h W_hh^T) [B, G*H] and h [B, R] -> dL/dW_hh [G*H, K]."""
    blocks = _blocks(h.shape[-1], w_hh)
    if blocks is None:
        return dz.T @ h if w_hh.shape[1] == h.shape[-1] else A.zeros(dz, *w_hh.shape)
    dz, h = dz.reshape(dz.shape[0], *blocks.shape[:3]), h.reshape(h.shape[0], *blocks.shape[1::2])
    return _einsum("bgnu,bnk->gnuk", dz, h).reshape(w_hh.shape)


def _blocks(R: int, w_hh: Array) -> Any:
    """W_hh by gate, head, unit within the head and column, [G, R/K, K, K]; None where it is one block, or none."""
    K = w_hh.shape[1]
    return None if K in (0, R) or not R else w_hh.reshape(w_hh.shape[0] // R, R // K, K, K)


def _einsum(how: str, a: Array, b: Array) -> Array:
    return A.namespace(a).einsum(how, a, b)


def reorder(
    array: Array, source: str, target: str, hidden_size: int | None = None, orders: dict[str, str] = GATE_ORDERS
) -> Array:
    """Rows of LSTM weights [4*H, ...] or biases [4*H] from one package's gate order to another's; of a GRU's, [3*H, ...].

    Args:
        array: the blocks of H rows in the order of `source`.
        source, target: names in `orders`.
        hidden_size: H; None for a quarter of the rows, where that is the only reading (12 rows are an LSTM of 3 units or a
            GRU of 4).
        orders: `GATE_ORDERS` for an LSTM, `GRU_GATE_ORDERS` for a GRU.

    Raises:
        ArgumentError: for a name that is not there.
        ShapeError: for rows that are not, or need not be, the gates of H units.

    >>> import numpy as np
    >>> reorder(np.array([1, 2, 3, 4]), "openlstm", "onnx").tolist()
    [1, 4, 2, 3]
    >>> reorder(np.array([1, 2, 3]), "openlstm", "keras", 1, GRU_GATE_ORDERS).tolist()
    [2, 1, 3]
    """
    who = "weights.reorder"
    for name in (source, target):
        if name not in orders:
            known = ", ".join(sorted(orders))
            raise ArgumentError.of(who, f"unknown gate order {name!r}", repr(name), known, "name one of these packages")
    gates = len(orders[source])
    rows = array.shape[0] if len(array.shape) else 0
    H = rows // gates if hidden_size is None else hidden_size
    got = f"array: {describe(array)}" + ("" if hidden_size is None else f", hidden_size={H}")
    if H < 1 or rows != gates * H:
        mine, count, other = ("an LSTM", "four", "a GRU") if gates == 4 else ("a GRU", "three", "an LSTM")
        expected = f"[{gates}*H, ...]" if hidden_size is None else f"[{gates * H}, ...] = [{gates}*H, ...]"
        hint = f"pass weight_ih, weight_hh or a bias of {mine}; the gates of {other} are others"
        raise ShapeError.of(who, f"{rows} rows are not the {count} gates of {mine}", got, expected, hint)
    if hidden_size is None and rows % 12 == 0:
        what = f"{rows} rows are an LSTM of {rows // 4} units or a GRU of {rows // 3}"
        hint = f"pass hidden_size={H} if they are {'an LSTM' if gates == 4 else 'a GRU'}'s"
        raise ShapeError.of(who, what, got, f"[{gates}*H, ...], and H", hint)
    ordered = [array[k * H : (k + 1) * H] for k in map(orders[source].index, orders[target])]
    xp = A.namespace(array)
    return xp.cat(ordered, 0) if A.is_torch(array) else xp.concatenate(ordered, 0)
