"""The recurrent layers of a header: their weights as arrays of C, laid out for `code.SUMS`, and the step over all layers.

Legend: I input size, H hidden size, P projected size, R what is fed back, G gates, S stride of rows of z, U units of a block.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from openlstm.cells import Cell
from openlstm.engine.rounded import rounded
from openlstm.exchange.c import code
from openlstm.exchange.c.cells import more, row, step
from openlstm.reference import Weights
from openlstm.weights import cell_size, fed_back_size, hidden_size

UNIT = 16
"""Units whose gates are summed together: the sums of four gates fill the registers of a processor."""


@dataclass(frozen=True)
class Net:
    """Layers of one cell in one direction, as `reference.unshared` gives them, in float32.

    layers: those of the first member, of the second, and so on; members are networks side by side.
    int8: the matrices are rounded to 8 bits, x and h at every step.
    """

    cell: Cell
    layers: tuple[Weights, ...]
    who: str
    int8: bool = False
    members: int = 1

    @property
    def depth(self) -> int:
        """Layers of one member."""
        return len(self.layers) // self.members

    @property
    def call(self) -> str:
        """C that steps over `in`."""
        return "@net(self, in, member)" if self.members > 1 else "@net(self, in)"

    @property
    def inputs(self) -> int:
        """I; the rows of all gates where x holds the sums of W_ih x."""
        first = self.layers[0]
        return first.w_hh.shape[0] if first.w_ih is None else first.w_ih.shape[1]

    @cached_property
    def hidden(self) -> int:
        """H."""
        return hidden_size(self.cell, self.layers[0])

    @property
    def projected(self) -> int:
        """P, 0 without a projection."""
        return 0 if self.layers[0].w_hr is None else self.layers[0].w_hr.shape[0]

    @property
    def outputs(self) -> int:
        """The width of what a layer puts out."""
        return self.projected or self.hidden

    @property
    def fed_back(self) -> int:
        """R."""
        return fed_back_size(self.cell, self.hidden, self.projected)

    @property
    def cells(self) -> int:
        """The width of the state beside h, 0 where there is none."""
        return cell_size(self.cell, self.hidden)

    @cached_property
    def unit(self) -> int:
        """U."""
        head = self.hidden // self.cell.heads
        whole = next((u for u in (UNIT, 8) if head % u == 0), 0)
        return whole or (UNIT if self.hidden > 8 else 8)

    @property
    def heads(self) -> int:
        """Groups of units that see the h of their own group alone; 1 where a block would reach into two of them."""
        return self.cell.heads if (self.hidden // self.cell.heads) % self.unit == 0 else 1

    @property
    def stride(self) -> int:
        """S."""
        return -(-self.hidden // self.unit) * self.unit

    @property
    def rows(self) -> int:
        """Rows of z: gates, and those whose sums of h are wanted apart."""
        return len(self.cell.gates) + self.cell.separate

    @property
    def dense(self) -> bool:
        """Whether there is a product with h."""
        return self.cell.recurrence == "dense"

    def arrays(self) -> str:
        """The weights of all layers, and a table of them."""
        kind = "int8_t" if self.int8 else "float"
        fields = [f"{kind} *x", "float *b", "float *p"] + [f"{kind} *h"] * self.dense
        fields += ["float *scale_x"] * self.int8 + ["float *scale_h"] * (self.int8 and self.dense)
        fields += [f"{kind} *r"] * bool(self.projected) + ["float *scale_r"] * (self.int8 and bool(self.projected))
        out, table = [], []
        for n, w in enumerate(self.layers):
            found = self._layer(w)
            names = {}
            for name, a in found.items():
                names[name] = f"@{name}{n}" if a.size else "0"
                if a.size:
                    out.append(array(names[name], a))
            listed = ", ".join(names[f.split("*")[1]] for f in fields)
            table.append(f"{{{self.inputs if w.w_ih is None else w.w_ih.shape[1]}, {listed}}}")
        struct = "".join(f"  const {field};\n" for field in fields)
        rows = "".join(f"  {line},\n" for line in table)
        out.append(f"static const struct @layer {{\n  int inputs;\n{struct}}} @layers[{len(table)}] = {{\n{rows}}};\n")
        return "\n".join(out)

    def _layer(self, w: Weights) -> dict[str, np.ndarray]:
        """The arrays of one layer by the names of the table."""
        H, gates, k = self.hidden, self.cell.gates, self.cell.separate
        order_x = sorted(gates, key=lambda gate: row(self.cell, gate))
        order_h = (*gates[: len(gates) - k], *gates[len(gates) - k :])
        rows_of = lambda a, order: np.stack([a[gates.index(g) * H : (gates.index(g) + 1) * H] for g in order])  # noqa: E731
        zeros = np.zeros(len(gates) * H, np.float32)
        b = np.zeros((self.rows, self.stride), np.float32)
        b[: len(gates), :H] = rows_of(zeros if w.b_ih is None else w.b_ih, order_x)
        b[k:, :H] += rows_of(zeros if w.b_hh is None else w.b_hh, order_h)
        found = {"b": b, "p": more(self.cell, w), "x": np.zeros(0, np.float32)}
        matrices = {} if w.w_ih is None else {"x": rows_of(w.w_ih, order_x)}  # [G, H, I]
        if self.dense:
            matrices["h"] = rows_of(self._recurrent(w.w_hh), order_h)
        if self.projected:
            matrices["r"] = w.w_hr[None]  # type: ignore[index]
        for name, a in matrices.items():
            if self.int8:
                q, scale = rounded(a.reshape(-1, a.shape[-1]))
                a, scale = q.reshape(a.shape), scale.reshape(a.shape[:2])
                found[f"scale_{name}"] = _padded(scale, UNIT if name == "r" else self.unit)
            found[name] = blocks(a, UNIT if name == "r" else self.unit)
        return found

    def _recurrent(self, w_hh: np.ndarray) -> np.ndarray:
        """W_hh, with zeros between heads where these are not taken one by one."""
        if self.heads == self.cell.heads:
            return w_hh
        H, K = self.hidden, w_hh.shape[1]
        head = np.arange(len(w_hh)) % H // K
        out = np.zeros((len(w_hh), H), w_hh.dtype)
        for n in range(self.cell.heads):
            out[head == n, n * K : (n + 1) * K] = w_hh[head == n]
        return out

    def struct(self) -> str:
        """The fields of a state."""
        c = f"  float c[{len(self.layers)}][{self.cells}]; /* {self._states()} */\n" if self.cells else ""
        return f"  float h[{len(self.layers)}][{self.fed_back}]; /* by layer */\n{c}"

    def _states(self) -> str:
        names = self.cell.states
        return "by layer" if len(names) == 1 else f"by layer: {', '.join(names)}, {self.hidden} numbers each"

    def functions(self) -> str:
        """`sums`, and `@net`: one step of all layers, from x to the h of the last one, which it returns."""
        sizes = {"unit": self.unit, "gates": len(self.cell.gates), "stride": self.stride}
        template = code.SUMS_INT8 if self.int8 else code.SUMS
        out = [template.format(name="sums", **sizes)]
        if self.projected:
            out.append(template.format(name="matrix", unit=UNIT, gates=1, stride=0))
        return "\n".join([*out, self._cell(), self._net()])

    def _cell(self) -> str:
        one = step(self.cell, self.who)
        reads = "\n".join(f"    {line}" for line in one.lines)
        begin = "" if more(self.cell, self.layers[0]).size else "  (void)p;\n"
        begin += "" if self.cells else "  (void)c;\n"
        return f"""\
static inline void @cell(float *@restrict z, float *@restrict h, float *@restrict c, const float *@restrict p) {{
{begin}{one.before}  for (int j = 0; j < @hidden; j++) {{
{reads}
  }}
{one.after}}}
"""

    def _product(self, name: str, z: str, v: str, n: int | str) -> str:
        """C that adds the product of a matrix and v [n] to z, block by block; in 8 bits v is rounded first."""
        function, unit, gates, rows = "sums", self.unit, len(self.cell.gates), self.stride
        if name == "r":
            function, unit, gates, rows = "matrix", UNIT, 1, -(-self.projected // UNIT) * UNIT
        begin, w = "", f"at->{name} + b * {gates * unit} * {n}"
        if self.int8:
            begin = f"    const float s_{name} = @round({v}, {n}, q);\n"
            v = f"at->scale_{name} + b * {unit}, q, s_{name}"
        elif name == "h" and self.heads > 1:
            v = f"h + b * {unit} / {n} * {n}"
        return f"{begin}    for (int b = 0; b < {rows // unit}; b++)\n      @{function}({z} + b * {unit}, {w}, {v}, {n});\n"

    def _net(self) -> str:
        """All layers, one after the other."""
        R, H = self.fed_back, self.hidden
        text = ""
        if self.int8:
            widest = -(-max(self.inputs, R, H) // 64) * 64  # gcc warns of short vectors that it would fill itself
            text += f"    int8_t q[{widest}];\n"
        text += "    memcpy(z, at->b, sizeof z);\n"
        of_x = self._product("x", "z", "x", "at->inputs")
        if self.layers[0].w_ih is None:
            sums = [f"z[{row(self.cell, gate)} * @stride + j] += x[{k * H} + j];" for k, gate in enumerate(self.cell.gates)]
            given = f"    for (int j = 0; j < {H}; j++) {{\n" + "".join(f"      {line}\n" for line in sums) + "    }\n"
            of_x = given if self.depth == 1 else f"    if (l == 0) {{\n{given}    }} else {{\n{of_x}    }}\n"
        text += of_x
        if self.dense:
            text += self._product("h", f"z + {self.cell.separate} * @stride", "h", R // self.heads)
        c = "self->c[l]" if self.cells else "0"
        if self.projected:
            wide = -(-self.projected // UNIT) * UNIT
            text += f"    float whole[{H}], part[{wide}] = {{0}};\n    @cell(z, whole, {c}, at->p);\n"
            text += self._product("r", "part", "whole", H) + f"    memcpy(h, part, {self.projected} * sizeof *h);\n"
        else:
            text += f"    @cell(z, h, {c}, at->p);\n"
        several = self.members > 1  # a compiler that reads 0 here knows the sizes before it inlines, and is a fifth faster
        return f"""\
/* One step of all layers{" of a member" * several}; returns the h of the last one. */
static inline const float *@net(@ *self, const float *x{", int member" * several}) {{
  for (int n = 0; n < {self.depth}; n++) {{
    const int l = {f"member * {self.depth} + " * several}n;
    const struct @layer *at = &@layers[l];
    float *h = self->h[l], z[{self.rows} * @stride];
{text}    x = h;
  }}
  return x;
}}
"""


class Program(NamedTuple):
    """What a header holds beside the code of every one.

    about: lines for the comment at its top. state: fields of the state beside those of the layers. arrays, functions: C.
    x, y: what the self-test steps over, and what comes out, float32 [T, I] and [T, O].
    """

    net: Net
    about: tuple[str, ...]
    state: str
    arrays: str
    functions: str
    x: np.ndarray
    y: np.ndarray


def blocks(a: np.ndarray, unit: int) -> np.ndarray:
    """[G, N, K] as [N/unit, K, G, unit], N filled up with zeros: what `code.SUMS` reads from the first to the last."""
    G, _, K = a.shape
    filled = _padded(a, unit)
    return np.ascontiguousarray(filled.reshape(G, -1, unit, K).transpose(1, 3, 0, 2))


def _padded(a: np.ndarray, unit: int) -> np.ndarray:
    """[G, N, ...] with zeros behind N."""
    return np.pad(a, [(0, 0), (0, -a.shape[1] % unit), *[(0, 0)] * (a.ndim - 2)])


def array(name: str, a: np.ndarray) -> str:
    """An array of C."""
    kind = "int8_t" if a.dtype == np.int8 else "float"
    words = a.ravel().astype("U")
    words = words if a.dtype == np.int8 else np.char.add(words, "f")
    return f"static const {kind} {name}[{a.size}] @aligned = {{\n{lines(words)}}};"


def lines(words: Iterable[str], width: int = 120) -> str:
    """Words with commas in lines."""
    out, line = [], ""
    for word in words:
        if len(line) + len(word) > width:
            out.append(line)
            line = ""
        line += f"{word},"
    return "\n".join([*out, line]) + "\n"


def plain(text: str) -> str:
    """A text for a comment of C."""
    return text.encode("ascii", "backslashreplace").decode().replace("*/", "* /").replace("\n", " ")
