"""What a fitted model reads, as operators of ONNX: how a window is measured and scaled, and what is known beside the target.

It is `runtime.window` written once more; what comes out is compared with it.

Legend: N series, W steps of a window, K steps of the horizon, T steps, P plain inputs, M members, I input size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper

from openlstm._array import Array
from openlstm.exchange.onnx.build import Io, named
from openlstm.exchange.onnx.traced import FREE, Traced, Writer
from openlstm.model_file import Feature
from openlstm.runtime import Model
from openlstm.runtime.window import MOST

F64, F32, I64 = TensorProto.DOUBLE, TensorProto.FLOAT, TensorProto.INT64


OWN = {"values", "calendar", "window", "before", "last", "last_n", "quantiles", "parameters", "anchor", "spread"}
"""The names of what a graph takes and gives beside the columns of a table and the states."""


def column(name: str) -> str:
    """The input that is a column of the table: its name, or one that nothing else has.

    >>> column("price"), column("values")
    ('price', 'column values')
    """
    other = name in OWN or name.startswith(("column ", "member", "season_"))
    return f"column {name}" if other else name


class Inputs:
    """The graph of a model while it is written, and what it reads."""

    def __init__(self, model: Model) -> None:
        self.model, self.header, self.series = model, model.header, model.header.series
        self.writer, self.io = Writer(taken={column(f.name) for f in self.series.features}), Io()
        self.op = self.writer.op

    def given(self, name: str, shape: list[Any], kind: int = F64) -> Array:
        """An input of the graph."""
        self.io.inputs[name] = (kind, shape)
        sizes = tuple(n if isinstance(n, int) else FREE for n in shape)
        return Traced(self.writer, name, sizes, helper.tensor_dtype_to_np_dtype(kind))

    def gives(self, name: str, value: Array, shape: list[Any]) -> None:
        """An output of the graph."""
        self.io.outputs[name] = (helper.np_dtype_to_tensor_dtype(value.dtype), shape)
        named(self.writer, "Identity", value.name, name)

    def at(self, x: Array, index: Any, axis: int = 1) -> Array:
        """Entries of an axis."""
        index = np.asarray(index)
        shape = list(x.shape)
        shape[axis : axis + 1] = index.shape
        return x._new(self.op("Gather", x.name, index, axis=axis), tuple(shape))

    def behind(self, x: Array) -> Array:
        """[..] -> [.., 1]."""
        return x[..., None]

    def together(self, own: list[Array], calendar: list[Array], plain: list[Array], shape: str) -> Array:
        """Inputs [N, T] side by side, float32 [N, T, .], with the calendar behind the first ones; `shape` names [N, T]."""
        columns = [[self.over(a, shape) if a.ndim == 1 else a for a in group] for group in (own, plain)]
        before, behind = ([self.behind(a.astype(np.float32)) for a in group] for group in columns)
        parts = [*before, *calendar, *behind]
        return np.concatenate(parts, -1) if parts else Traced(self.writer, "", (FREE, FREE, 0))

    def coded(self, codes: dict[str, Array], shape: str) -> list[tuple[int, Array]]:
        """The codes of each category [N, T], with its number among the features."""
        of = {name: self.over(code, shape) if code.ndim == 1 else code for name, code in codes.items()}
        return [(k, of[f.name]) for k, f in self.categories()]

    # how values are measured: runtime.window

    def means(self, v: Array) -> tuple[Array, Array]:
        """The mean of the known values [N, 1], and that of their sizes."""
        known = np.invert(np.isnan(v))
        full, count = np.where(known, v, 0.0), self.total(known.astype(np.float64))
        return self.total(full) / count, self.total(np.abs(full)) / count

    def total(self, v: Array) -> Array:
        return v._new(self.op("ReduceSum", v.name, np.array([-1]), keepdims=1), (*v.shape[:-1], 1))

    def last_known(self, known: Array) -> Array:
        """The place of the last known value up to each step, -1 before the first: a running maximum, by doubling, int64 [N, W].

        Args:
            known: bool [N, W]; W is known.
        """
        W = known.shape[1]
        place: Any = np.where(known, np.arange(W).astype(np.float64), -1.0)
        step = 1
        while step < W:
            earlier = self.op("Slice", place.name, np.array([0]), np.array([W - step]), np.array([1]))
            moved = self.op("Pad", earlier, np.array([0, step, 0, 0]), np.array(-1.0))
            place, step = np.maximum(place, place._new(moved, place.shape)), 2 * step
        return place.astype(np.int64)

    def carried(self, v: Array, last: Array) -> Array:
        """Each gap filled with the last known value, before the first one with that."""
        known = np.invert(np.isnan(v)).astype(np.int32)
        first = self.op("ArgMax", known.name, axis=1, keepdims=1)
        negative = self.op("Less", last.name, np.int64(0))
        index = self.op("Where", negative, first, last.name)
        return v._new(self.op("GatherElements", v.name, index, axis=1), v.shape)

    def measure(self, v: Array, filled: Array) -> tuple[Array, Array]:
        """Anchor and spread of a window [N, W], [N, 1] each: `runtime.window.measure`."""
        scale, W = self.series.scale, v.shape[1]
        mean, size = self.means(v)
        if scale.anchor == "zero":
            return mean * 0.0, np.maximum(size, scale.floor)
        last = filled[..., W - 1 :]
        if scale.anchor == "last":
            center = filled - self.total(filled) / W
            return last, np.maximum(np.sqrt(self.total(center * center) / W), scale.floor)
        season = v[..., max(0, W - self.series.period) :]
        some = self.total(np.invert(np.isnan(season)).astype(np.float64)) > 0
        anchor = np.where(some, self.means(season)[0], last)
        off = v - mean
        deviation = np.sqrt(self.means(off * off)[0])
        return anchor, np.maximum(np.maximum(deviation, scale.share * size), scale.floor)

    @staticmethod
    def scaled(v: Array, anchor: Array, spread: Array) -> Array:
        """In spreads, as the network reads it; NaN as 0."""
        gone = np.isnan(v)
        return np.where(gone, 0.0, np.minimum(np.maximum((np.where(gone, anchor, v) - anchor) / spread, -MOST), MOST))

    # what is known beside the target

    def plain(self, steps: dict[str, Any], time: Any) -> tuple[list[Array], list[Array], dict[str, Array]]:
        """What `runtime.window.rows` makes of the columns, each with the steps of its role.

        Returns:
            The calendar [N, T, 2c] as float32, or nothing; the plain inputs behind it, float32 [N, .]; the codes by feature.
        """
        calendar, numbers, marks, codes = list[Array](), list[Array](), list[Array](), dict[str, Array]()
        if self.series.calendar:
            calendar.append(self.given("calendar", ["N", time, 2 * len(self.series.calendar)], F32))
        for feature in self.series.features:
            shape = ["N", *([steps[feature.role]] if feature.role != "static" else [])]
            if feature.categories is None:
                v = self.given(column(feature.name), shape)
                missing = np.isnan(v)
                own = np.minimum(np.maximum((v - feature.mean) / feature.deviation, -MOST), MOST)
                numbers.append(np.where(missing, 0.0, own).astype(np.float32))
                if feature.marked:
                    numbers.append(missing.astype(np.float32))
            else:
                v = self.given(column(feature.name), shape, I64)
                code = v + 1
                codes[feature.name] = code
                if feature.marked:
                    marks.append(np.equal(code, 0).astype(np.float32))
        return calendar, numbers + marks, codes

    def roles(self) -> list[str]:
        """The role of each plain input behind the calendar, in their order."""
        numbers = [f for f in self.series.features if f.categories is None]
        marked = [f for f in self.series.features if f.categories is not None and f.marked]
        return [f.role for f in numbers for _ in range(1 + f.marked)] + [f.role for f in marked]

    def over(self, x: Array, like: str) -> Array:
        """[N] at every step of [N, T], whose shape `like` names."""
        return x._new(self.op("Expand", self.behind(x).name, like), (FREE, FREE))

    def embedded(self, x: Array, member: int, codes: list[tuple[int, Array]]) -> Array:
        """x and behind it, for each category, its row of its table."""
        own, _ = self.model.weights(member)
        rows = [x] if x.shape[-1] else []
        for k, code in codes:
            table = own[f"embed.{k}"]
            rows.append(x._new(self.op("Gather", table, code.name, axis=0), (FREE, FREE, table.shape[1])))
        return np.concatenate(rows, -1)

    def categories(self, role: str | None = None) -> list[tuple[int, Feature]]:
        """Features that are categories, with their numbers among all."""
        named = [(k, f) for k, f in enumerate(self.series.features) if f.categories is not None]
        return [(k, f) for k, f in named if role in (None, f.role)]
