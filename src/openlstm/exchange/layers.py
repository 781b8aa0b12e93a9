"""`Layers`: what was read from a file, as layers of ours by name, with what could not be expressed and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from openlstm.errors import ArgumentError, message
from openlstm.exchange.stack import Stack


class Layers(Mapping[str, Any]):
    """The recurrent layers of a file or an object by name, in its order: each is a layer of ours in eval mode.

    Args:
        source: what errors and the table call it.
        stacks: the layers as arrays; names are unique.
        notes: what concerns the whole file.
        left: what is recurrent and could not be expressed, by name, with the reason and what would work.

    Raises:
        ArgumentError: if there is no layer at all, naming what could not be expressed.

    >>> import torch
    >>> layers = Layers("model.pt", [Stack.of(torch.nn.LSTM(3, 5), "encoder")])
    >>> layers["encoder"]
    LSTM(3, 5)
    >>> layers
    name     layer                 parameters
    encoder  LSTM 3 -> 5, float32         200
    """

    def __init__(
        self, source: str, stacks: Iterable[Stack], notes: Iterable[str] = (), left: Mapping[str, str] | None = None
    ) -> None:
        self.source = source
        self.stacks = {stack.name: stack for stack in stacks}
        self.notes = tuple(notes)
        self.left = dict(left or {})
        self._made: dict[str, Any] = {}
        if not self.stacks:
            what, got = "holds no recurrent layer", "nothing recurrent"
            hint = "name the file that holds the weights of an LSTM, a GRU or an RNN"
            if self.left:
                what = "holds no recurrent layer that can be expressed"
                got = "\n            ".join(f"{name}: {why}" for name, why in self.left.items())
                hint = "each line says what would work instead"
            raise ArgumentError(message(source, what, got, "an LSTM, a GRU or an RNN", hint))

    def __getitem__(self, name: str) -> Any:
        if name not in self.stacks:
            got, hint = repr(name), "name one of these"
            if name in self.left:
                raise KeyError(message(self.source, f"{name!r} could not be expressed", self.left[name], "a layer", hint))
            raise KeyError(message(self.source, f"has no layer {name!r}", got, ", ".join(map(repr, self.stacks)), hint))
        if name not in self._made:
            self._made[name] = self.stacks[name].layer()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.stacks)

    def __len__(self) -> int:
        return len(self.stacks)

    def __contains__(self, name: object) -> bool:
        return name in self.stacks

    def rows(self) -> list[dict[str, Any]]:
        """The table as `openlstm inspect --json` prints it."""
        return [
            {
                "name": name,
                "layer": type(s.cell).__name__,
                "input_size": s.input_size,
                "hidden_size": s.hidden_size,
                "proj_size": s.proj_size,
                "num_layers": s.layers,
                "directions": s.directions,
                "reverse": s.reverse,
                "bias": s.bias,
                "batch_first": s.batch_first,
                "dtype": s.dtype.name,
                "parameters": s.parameters,
                "notes": list(s.notes),
            }
            for name, s in self.stacks.items()
        ]

    def __repr__(self) -> str:
        shown = [("name", "layer", "parameters")]
        shown += [(name or "(the file itself)", str(s), f"{s.parameters:,}") for name, s in self.stacks.items()]
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        lines = [f"{a:{widths[0]}}  {b:{widths[1]}}  {c:>{widths[2]}}" for a, b, c in shown]
        lines += [f"note: {name or self.source}: {note}" for name, s in self.stacks.items() for note in s.notes]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"not expressed: {name}: {why}" for name, why in self.left.items()]
        return "\n".join(lines)


def brief_of(error: Exception) -> str:
    """Why something was left, on one line.

    >>> brief_of(ArgumentError.of("rnn", "an unknown cell", "weight_hh [10, 5]", "4, 3 or 1 rows for each unit", "keep it"))
    'an unknown cell (weight_hh [10, 5]), expected 4, 3 or 1 rows for each unit: keep it'
    """
    first, *lines = str(error).splitlines()
    if len(lines) != 3:
        return " ".join(str(error).split())
    got, expected, hint = (line.strip().partition(" ")[2].strip() for line in lines)
    return f"{first.partition(': ')[2]} ({got}), expected {expected}: {hint}"
