"""`Graph`: an ONNX model whose recurrent nodes are layers of ours, and the rest of it on ONNX Runtime.

Legend: T time, B batch, I input size, H hidden size, D directions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from openlstm.errors import ArgumentError, describe
from openlstm.exchange.layers import Layers
from openlstm.exchange.onnx.flat import Flat
from openlstm.exchange.onnx.nodes import Integers, Node
from openlstm.exchange.onnx.plan import Owner, Plan, part_of
from openlstm.exchange.onnx.steps import Steps

Feeds = Mapping[str, Any]


class Graph(Layers):
    """The recurrent layers of an ONNX model by name, and the graph that they stand in.

    Args:
        source: what errors and the table call it.
        model: what was read.
        nodes: the recurrent nodes by name.
        left: those that could not be expressed; `run` leaves them to ONNX Runtime.
        folder: where external data lie.

    Attributes:
        integers: the weights in 8 bits of nodes DynamicQuantizeLSTM, by name.
        inputs, outputs: the names of what `run` takes and gives.
    """

    def __init__(
        self, source: str, model: ModelProto, nodes: dict[str, Node], left: dict[str, str], folder: Path | None = None
    ) -> None:
        super().__init__(source, [node.stack for node in nodes.values()], (), left)
        self.integers: dict[str, Integers] = {n: node.integers for n, node in nodes.items() if node.integers is not None}
        fixed = {tensor.name for tensor in model.graph.initializer}
        self.inputs = tuple(info.name for info in model.graph.input if info.name not in fixed)
        tensors = {info.name: info.type.tensor_type for info in model.graph.input}
        self._given = {name: len(t.shape.dim) if t.HasField("shape") else None for name, t in tensors.items()}
        self._owner = Owner(model, {node.at: node for node in nodes.values()}, folder, {})
        self._plan = Plan(part_of(model.graph, self._owner, {}), self._owner)
        self._flat: Flat | None = None
        self._steps = Steps()
        self.outputs = tuple(self._plan.outputs)
        self._seen: list[tuple[str, Any, Any, Any, Any]] | None = None

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """The outputs of the model by name, as ONNX Runtime gives them: recurrent nodes run on our layers.

        Args:
            feeds: an array for each of `inputs`.

        Raises:
            ArgumentError: for an input that is missing or unknown, or what ONNX Runtime refuses.
            MissingExtraError: without ONNX Runtime, where there is more than recurrent nodes.
        """
        missing = [name for name in self.inputs if name not in feeds]
        unknown = [
            name for name in feeds if name not in self._given or name not in self.inputs and name not in self._plan.reads
        ]
        if missing or unknown:
            what = f"has no input {unknown[0]!r}" if unknown else f"needs {missing[0]!r}"
            got, hint = ", ".join(map(repr, feeds)) or "nothing", "run({name: array, ..})"
            raise ArgumentError.of(self.source, what, got, ", ".join(map(repr, self.inputs)), hint)
        given = {name: np.asarray(a) for name, a in feeds.items()}
        return dict(zip(self.outputs, self._outputs(given), strict=True))

    def _outputs(self, given: dict[str, np.ndarray]) -> list[Any]:
        """Run with the branches of the call before in place; where others are right, as the graph stands."""
        if self._flat is not None and self._seen is None:
            with contextlib.suppress(
                Exception
            ):  # of what does not fit the wrong branch; if it does not fit the right one, see below
                found = self._flat.run(dict(given), self._run)
                if found is not None:
                    return found
        self._owner.taken.clear()
        found = self._plan.run(dict(given), self._run)
        self._flat = Flat(self._owner, dict(self._owner.taken)) if self._owner.taken else None
        return found

    def xray(self, feeds: Feeds | Iterable[Feeds], *, carry: Mapping[str, str] | None = None, **options: Any) -> dict[str, Any]:
        """What the layers remember, of the inputs that they really get: a `Report` for each that ran, by its name.

        Args:
            feeds: as for `run`; or several, one call after the other; or arrays with one axis more, in front, for the calls.
            carry: which output is the input of the next call, such as {"stateN": "state"}. The steps of calls in which every
                layer goes on where it ended are one sequence; where it does not, its first call is looked at, and a note of the
                report says so.
            options: those of `openlstm.xray`, such as `lag`; `before` is False, since weights in a file have been trained.

        Raises:
            ArgumentError: if no layer ran, or `carry` names what is not there.
        """
        from openlstm.insight.xray import xray

        options = {"before": False, **options}
        for out, name in (carry or {}).items():
            if out not in self.outputs or name not in self._given:
                got, hint = f"{out}={name}", f"outputs are {', '.join(self.outputs)}; inputs {', '.join(self.inputs)}"
                raise ArgumentError.of(self.source, "cannot carry this", got, "an output and an input", hint)
        self._seen = []
        found: dict[str, np.ndarray] = {}
        try:
            several: Iterable[Any] = self.calls(feeds) if isinstance(feeds, Mapping) else feeds  # type: ignore[arg-type]
            for one in several:
                handed = {name: found[out] for out, name in (carry or {}).items() if found}
                found = self.run({**one, **handed})
            seen = self._seen
        finally:
            self._seen = None
        if not seen:
            got, hint = "a branch without one", "give feeds with which one of them runs"
            raise ArgumentError.of(self.source, "no recurrent layer ran", got, ", ".join(self), hint)
        reports: dict[str, Any] = {}
        for name in dict.fromkeys(name for name, *_ in seen):
            given, note = self._joined([s[1:] for s in seen if s[0] == name], name)
            reports[name] = xray(self[name], given, name=name, **options).noted(*note)
        return reports

    def calls(self, feeds: Feeds) -> list[Feeds]:
        """The feeds of one call, or of several: arrays that have an axis more than their inputs hold one call after another.

        Raises:
            ArgumentError: where they hold different numbers of calls.
        """
        shapes = {name: np.shape(a) for name, a in feeds.items()}
        longer = {name for name, shape in shapes.items() if self._given.get(name) == len(shape) - 1}
        counts = {name: shapes[name][0] for name in longer}
        if len(set(counts.values())) > 1:
            got = ", ".join(f"{name} {list(shapes[name])}" for name in sorted(longer))
            hint = "give all of them the same first axis"
            raise ArgumentError.of(self.source, "the arrays hold different numbers of calls", got, "one number", hint)
        count = next(iter(counts.values()), 1)
        return [{name: a[k] if name in longer else a for name, a in feeds.items()} for k in range(count)]

    def _joined(self, calls: list[tuple[Any, Any, Any, Any]], name: str) -> tuple[dict[str, Any], list[str]]:
        """The inputs of a layer in its calls, as one sequence where each begins with the state in which the last one ended.

        Otherwise those of the first, and a note that says so.
        """
        import torch

        x, lengths, begin, _ = calls[0]
        time = int(self.stacks[name].batch_first)
        goes_on = all(
            now[2] is not None and now[1] is None and all(map(torch.equal, _all(now[2]), _all(before[3])))
            for before, now in zip(calls, calls[1:], strict=False)
        )
        note = []
        if len(calls) > 1 and lengths is None and goes_on:
            x = torch.cat([call[0] for call in calls], time)
        elif len(calls) > 1:
            why = "the later ones do not begin with the state in which the one before ended; carry, OUTPUT=INPUT, hands it on"
            why = why if lengths is None else "calls with lengths are not put together"
            note = [f"Only the first of {len(calls):,} calls is looked at: {why}."]
        given = {"input": x, "hx": begin, "lengths": lengths}
        return {key: value for key, value in given.items() if value is not None}, note

    def _run(self, node: Node, x: np.ndarray, lengths: Any, states: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """A recurrent node: y, h and c as ONNX lays them out."""
        import torch

        stack, layer = node.stack, self[node.stack.name]
        if x.ndim != 3:
            got, hint = f"X {describe(x)}", "run the whole model on ONNX Runtime: it says the same"
            raise ArgumentError.of(stack.name, "X has the wrong number of axes", got, "3 axes", hint)
        if lengths is None and self._seen is None:
            stepped = self._steps.run(node, layer, x, states)
            if stepped is not None:
                return stepped
        first, D, H = stack.batch_first, stack.directions, stack.hidden_size
        kind, own = x.dtype, stack.dtype

        def tensor(a: np.ndarray) -> Any:
            a = np.ascontiguousarray(a, own)
            return torch.from_numpy(a if a.flags.writeable else a.copy())

        given = [tensor(s).transpose(0, 1) if first else tensor(s) for s in states]
        if len(given) == 1 and stack.cell.has_cell:
            given = self._both(node, given[0])
        hx: Any = None if not given else tuple(given) if stack.cell.has_cell else given[0]
        ends = None if lengths is None else torch.from_numpy(np.asarray(lengths, np.int64))
        with torch.inference_mode():
            read = tensor(x)
            y, state = layer(read, hx, lengths=ends)
            if self._seen is not None:
                self._seen.append((stack.name, read, ends, hx, state))
            y = y.reshape(*y.shape[:2], D, H)  # with batch_first as ONNX has it
            found = [y if first else y.transpose(1, 2), *(s.transpose(0, 1) if first else s for s in _all(state))]
            return tuple(a.numpy().astype(kind, copy=False) for a in found)

    def _both(self, node: Node, one: Any) -> list[Any]:
        """h and c where the node is given one of them alone."""
        import torch

        return [one, torch.zeros_like(one)] if node.h else [torch.zeros_like(one), one]


def _all(state: Any) -> tuple[Any, ...]:
    return tuple(state) if isinstance(state, tuple) else (state,)
