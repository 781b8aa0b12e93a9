"""A fitted model as one graph of ONNX: how a window is measured and scaled, the networks, the decoder, the calibration.

It is `runtime.window` and the decoders of `runtime` written once more, in operators; what comes out is compared with them.

Legend: N series, W steps of a window, K steps of the horizon, T steps, P plain inputs, Q quantiles, M members, I input size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, helper

from openlstm._array import Array
from openlstm.exchange.onnx.build import Layers, assemble, named
from openlstm.exchange.onnx.scaling import F32, F64, Inputs
from openlstm.exchange.onnx.traced import FREE, Traced, Writer
from openlstm.exchange.stack import Stack
from openlstm.model_file.header import COUNTS
from openlstm.runtime import Model
from openlstm.runtime.recursive import LEAST, TINY
from openlstm.runtime.window import MOST


class Forecast(Inputs):
    """The networks of a model and its decoder."""

    def network(self, member: int, x: Array, begin: dict[str, str] | None) -> tuple[str, dict[str, list[str]]]:
        """A member over x [N, T, I] -> y [T, N, H] and the ends of its states; from zeros where no `begin` is named."""
        net = self.model.networks[member]
        layers = Layers(Stack("", net.cell, tuple((w,) for w in net.layers)), False, self.writer)
        steps_first = self.op("Transpose", x.name, perm=[1, 0, 2])
        if begin is None:
            batch = self.op("Slice", self.op("Shape", x.name), np.array([0]), np.array([1]))
            begin = {}
            for name, width in layers.widths().items():
                shape = self.op("Concat", np.array([len(net.layers)]), batch, np.array([width]), axis=0)
                begin[name] = self.op("Expand", np.zeros((1, 1, 1), np.float32), shape)
        return layers.run(steps_first, begin)

    def carried_states(self, member: int) -> tuple[dict[str, str], Any]:
        """The states of a member as inputs, and what names those it ends with as outputs."""
        net = self.model.networks[member]
        widths = Layers(Stack("", net.cell, tuple((w,) for w in net.layers)), False, self.writer).widths()
        begin = {}
        for name, width in widths.items():
            begin[name] = self.given(f"member{member}_{name}0", [len(net.layers), "N", width], F32).name

        def end(parts: dict[str, list[str]]) -> None:
            for name, pieces in parts.items():
                out = f"member{member}_{name}_n"
                self.io.outputs[out] = (F32, [len(net.layers), "N", widths[name]])
                named(self.writer, "Concat", pieces, out, axis=0)

        return begin, end

    # the decoders

    def head(self, x: Array, weights: dict[str, np.ndarray], name: str, dtype: Any) -> Array:
        """x W^T + b of one of the decoder's matrices, in its type."""
        out = np.matmul(x.astype(dtype), weights[f"{name}.weight"].T.astype(dtype))
        return out + weights[f"{name}.bias"].astype(dtype) if f"{name}.bias" in weights else out

    def spread_out(self, out: Array, base: Array) -> Array:
        """Quantiles that cannot cross: `runtime.decoder.spread_out`."""
        middle, Q = self.header.decoder.quantiles.index(0.5), len(self.header.decoder.quantiles)
        soft = np.maximum(out, 0.0) + np.log1p(np.exp(-np.abs(out)))
        parts: list[Any] = [None] * Q
        parts[middle] = out[..., middle : middle + 1] + base
        for q in (*range(middle + 1, Q), *reversed(range(middle))):
            step = soft[..., q : q + 1]
            parts[q] = parts[q - 1] + step if q > middle else parts[q + 1] - step
        return np.concatenate(parts, -1)

    def calibrated(self, values: Array, spread: Array) -> Array:
        """The correction that validation found: `runtime.calibrate.apply`, [N, ., Q]; spread [N, 1, 1]."""
        if not self.header.forecasters[0].enough:
            return values
        levels = self.header.decoder.quantiles
        moved = values + self.model.tensors["calibration.network"].astype(np.float64) * spread
        parts = [moved[..., q : q + 1] for q in range(len(levels))]
        middle = int(np.argmin(np.abs(np.asarray(levels) - 0.5)))
        for q in (*reversed(range(middle)), *range(middle + 1, len(levels))):
            parts[q] = np.minimum(parts[q], parts[q + 1]) if q < middle else np.maximum(parts[q], parts[q - 1])
        return np.concatenate(parts, -1)

    def bounded(self, quantiles: Array, values: Array) -> Array:
        """None below zero where neither the past nor the training is."""
        if self.header.decoder.distribution == COUNTS:
            return np.maximum(quantiles, 0.0)
        if not self.series.positive:
            return quantiles
        below = self.behind(self.total((values < 0.0).astype(np.float64)))  # NaN is not below
        return np.where(below > 0.0, quantiles, np.maximum(quantiles, 0.0))

    def window_model(self) -> None:
        """`linear` and `direct`: the past of each series -> all quantiles of all steps."""
        series, decoder, header = self.series, self.header.decoder, self.header
        W, K, Q, reach = series.window, series.horizon, len(decoder.quantiles), series.reach
        past = self.given("values", ["N", reach])
        v = self.at(past, np.arange(reach - W, reach))
        known = np.invert(np.isnan(v))
        last = self.last_known(known)
        filled = self.carried(v, last)
        anchor, spread = self.measure(v, filled)
        value = self.scaled(filled, anchor, spread)
        if series.scale.anchor == "season":
            value = np.where(last < 0, 0.0, value)
        own = [value, np.isnan(v)]
        for season in series.seasons:
            own.append(self.scaled(self.at(past, np.arange(reach - W, reach) - season), anchor, spread))
        calendar, plain, codes = self.plain({"future": W + K, "past": W}, W + K)
        shape = self.op("Shape", v.name)
        roles = self.roles()
        inside = [a if r == "static" else a[..., :W] for a, r in zip(plain, roles, strict=True)]
        x = self.together(own, [self.at(a, np.arange(W)) for a in calendar], inside, shape)
        behind = [a[..., W:] for a, r in zip(plain, roles, strict=True) if r == "future"]
        ahead = self.ahead(past, anchor, spread, behind, calendar)
        mean, size = self.means(v)
        missing = self.total(np.isnan(v).astype(np.float64)) / W
        off = np.minimum(np.maximum((mean - anchor) / spread, -MOST), MOST)
        level = np.log(spread / np.maximum(size, series.scale.floor))
        context = np.concatenate([a.astype(np.float32) for a in (level, 1 - missing, off)], -1)
        total: Any = None
        for member in range(header.network.members):
            own_weights, _ = self.model.weights(member)
            inner = {name: code if code.ndim == 1 else code[..., :W] for name, code in codes.items()}
            y, _ = self.network(member, self.embedded(x, member, self.coded(inner, shape)), None)
            H = header.network.hidden_size
            h = x._new(self.op("Squeeze", self.op("Slice", y, np.array([W - 1]), np.array([W])), np.array([0])), (FREE, H))
            if decoder.kind == "linear":
                found = self.head(h, own_weights, "head", np.float64).reshape(-1, K, Q)
            else:
                behind = [(k, codes[f.name][..., W:]) for k, f in self.categories("future")]
                u = self.embedded(ahead, member, behind)
                z = self.head(np.concatenate([h, context], -1), own_weights, "head", np.float32)
                z = np.tanh(z.reshape(-1, K, decoder.width) + self.head(u, own_weights, "ahead", np.float32))
                base = self.head(u, own_weights, "skip", np.float32)
                found = self.spread_out(self.head(z, own_weights, "out", np.float32), base).astype(np.float64)
            total = found if total is None else total + found
        wide = self.behind(spread)
        out = self.behind(anchor) + wide * (total / header.network.members)
        if decoder.kind == "linear":
            out = out._new(self.op("TopK", out.name, np.array([Q]), count=2, largest=0, axis=-1)[0], out.shape)
        self.gives("quantiles", self.bounded(self.calibrated(out, wide), past), ["N", K, Q])
        self.units(anchor, spread)

    def units(self, anchor: Array, spread: Array) -> None:
        """Anchor and spread as outputs: what a number of the network is in the unit of the target."""
        for name, a in (("anchor", anchor), ("spread", spread)):
            self.gives(name, a._new(self.op("Squeeze", a.name, np.array([1])), (FREE,)), ["N"])

    def ahead(self, past: Array, anchor: Array, spread: Array, known: list[Array], calendar: list[Array]) -> Array:
        """What is known of each step of the horizon, float32 [N, K, U]: `runtime.window.windows`."""
        series = self.series
        step, K = np.arange(series.horizon), series.horizon
        place = np.broadcast_to(((step + 1) / K).astype(np.float32), (1, K))
        first = self.at(past, np.zeros(K, np.int64))
        parts: list[Array] = [np.where(np.isnan(first), 0.0, first * 0.0).astype(np.float32) + place]
        lags: dict[Any, Array] = {}
        for lag in series.lags:
            value = self.at(past, series.reach + step - lag.season * (step // lag.season + 1 + lag.back))
            absent = np.isnan(value)
            nearer = next((lags[near] for near in reversed(lags) if near.season == lag.season), next(iter(lags.values()), None))
            found = self.scaled(value, anchor, spread)
            lags[lag] = np.where(absent, found * 0.0 if nearer is None else nearer, found)
            parts += [lags[lag], absent]
        ends = [self.at(a, np.arange(series.window, series.window + K)) for a in calendar]
        return self.together(parts, ends, known, "")

    def simulating_model(self) -> None:
        """`simulate`: covariates of every step -> its quantiles; the states go in and out."""
        header, decoder, scale = self.header, self.header.decoder, self.series.scale
        calendar, plain, codes = self.plain({"future": "T"}, "T")
        shape = self.steps_of(calendar, plain, codes)
        x, coded = self.together([], calendar, plain, shape), self.coded(codes, shape)
        total: Any = None
        for member in range(header.network.members):
            own, _ = self.model.weights(member)
            begin, end = self.carried_states(member)
            y, ends = self.network(member, self.embedded(x, member, coded), begin)
            end(ends)
            h = Traced(self.writer, y, (FREE, FREE, header.network.hidden_size))  # [T, N, H]
            out = self.head(h, own, "head", np.float64)
            found = self.spread_out(out, out[..., :1] * 0.0)
            total = found if total is None else total + found
        values = scale.center + scale.floor * (total / header.network.members)
        values = self.calibrated(values, values[..., :1] * 0.0 + scale.floor)
        values = values._new(self.op("Transpose", values.name, perm=[1, 0, 2]), values.shape)
        self.gives("quantiles", values, ["N", "T", len(decoder.quantiles)])

    def steps_of(self, calendar: list[Array], plain: list[Array], codes: dict[str, Array]) -> str:
        """The name of the shape [N, T], from an input that has it."""
        if calendar:
            return self.op("Slice", self.op("Shape", calendar[0].name), np.array([0]), np.array([2]))
        every = [a for a, r in zip(plain, self.roles(), strict=True) if r != "static"]
        every += [codes[f.name] for _, f in self.categories() if f.role != "static"]
        return self.op("Shape", every[0].name)

    def stepping_model(self) -> None:
        """`recursive`: the steps of a series, one after the other -> the distribution of the next value; states in and out.

        The first window stays the unit of what follows, see `runtime.stream.CarriedStream`.
        """
        series, header, decoder = self.series, self.header, self.header.decoder
        v = self.given("window", ["N", series.window])
        anchor, spread = self.measure(v, self.carried(v, self.last_known(np.invert(np.isnan(v)))))
        before, last = self.given("before", ["N", "T"]), self.given("last", ["N"])
        value = self.filled(before, last, anchor, spread)
        own = [value, np.isnan(before)]
        for season in series.seasons:
            lag = self.given(f"season_{season}", ["N", "T"])
            own.append(np.where(np.isnan(lag), value, self.scaled(lag, anchor, spread)))
        calendar, plain, codes = self.plain({"future": "T", "past": "T"}, "T")
        shape = self.op("Shape", before.name)
        x, coded = self.together(own, calendar, plain, shape), self.coded(codes, shape)
        found = []
        for member in range(header.network.members):
            weights, _ = self.model.weights(member)
            begin, end = self.carried_states(member)
            y, ends = self.network(member, self.embedded(x, member, coded), begin)
            end(ends)
            H = header.network.hidden_size
            h = x._new(self.op("Gather", y, np.array(-1), axis=0), (FREE, H))
            newest = x._new(self.op("Gather", x.name, np.array(-1), axis=1), (FREE, x.shape[-1]))
            o = self.head(h, weights, "head", np.float64)
            mean = o[..., :1] + self.head(newest[..., : weights["skip.weight"].shape[1]], weights, "skip", np.float64)

            def soft(a: Array) -> Array:
                return np.maximum(a, 0.0) + np.log1p(np.exp(-np.abs(a)))

            rest = soft(o[..., 1:]) + np.array([LEAST, 2.0][: o.shape[-1] - 1])
            mean = spread * (soft(mean) + TINY) if decoder.distribution == COUNTS else mean
            own_parameters: Any = np.concatenate([mean, rest], -1)
            found.append(self.op("Unsqueeze", own_parameters.name, np.array([0])))
        R = weights["head.bias"].shape[0]
        self.io.outputs["parameters"] = (F64, [header.network.members, "N", R])
        named(self.writer, "Concat", found, "parameters", axis=0)
        newest = value._new(self.op("Gather", value.name, np.array(-1), axis=1), (FREE,))
        self.gives("last_n", newest, ["N"])
        self.units(anchor, spread)

    def filled(self, before: Array, last: Array, anchor: Array, spread: Array) -> Array:
        """Values in spreads, each gap filled with the one before it, at first with `last`: a `Scan` over the steps."""
        body = Writer(self.writer)
        held, now = body.fresh("held"), body.fresh("now")
        new = body.op("Where", body.op("IsNaN", now), held, now)
        outputs = [body.op("Identity", new) for _ in range(2)]
        infos: Any = [[helper.make_empty_tensor_value_info(n) for n in names] for names in ((held, now), outputs)]
        graph = helper.make_graph(body.nodes, "fill", *infos)
        gone = np.isnan(before)
        value: Any = np.where(gone, np.float64("nan"), self.scaled(before, anchor, spread))
        axes: Any = {"scan_input_axes": [1], "scan_output_axes": [1]}
        _, filled = self.op("Scan", last.name, value.name, count=2, body=graph, num_scan_inputs=1, **axes)
        return before._new(filled, before.shape)


def write(model: Model, opset: int) -> ModelProto:
    """The graph of a model; see `docs/exchange.md` for what it takes."""
    made = Forecast(model)
    kind = model.header.decoder.kind
    {"simulate": made.simulating_model, "recursive": made.stepping_model}.get(kind, made.window_model)()
    return assemble(made.writer, made.io, opset, kind)
