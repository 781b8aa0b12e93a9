"""`reber` and `continual-reber`: strings of the embedded Reber grammar, one by one, or one behind the other without a reset.

    string = B T inner T E  |  B P inner P E
    inner  = B, then a walk over the graph below, then E

The symbol before the last repeats the second one: that is what has to be kept, over an inner string of any length.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from openlstm.lab.tasks.task import Grammar, Published, one_hot

SYMBOLS = "BTPSXVE"
INNER = {0: "B1", 1: "T2P3", 2: "S2X4", 3: "T3V5", 4: "X3S6", 5: "P4V6", 6: "E7"}
"""The Reber grammar: node -> the one or two pairs of symbol and next node, each as likely as the other; 7 is its end."""

MEAN = 8  # symbols of an inner string, on average
_INNER_SIZE = 8  # nodes 0-6, and 7 which says the second symbol once more
GERS = "Gers, Schmidhuber & Cummins 2000, table 2"


def _machine() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The embedded grammar as tables over (node, coin): next node [N, 2], symbol [N, 2]; and possible symbols bool [N, 7].

    Node 0 is the beginning of a string, 1 the choice of T or P, 2 the E at the end; from 3 on the inner graph after T, then the
    one after P.
    """
    arcs = {0: [("B", 1)], 1: [("T", 3), ("P", 3 + _INNER_SIZE)], 2: [("E", 0)]}
    for copy, again in enumerate("TP"):
        at = 3 + copy * _INNER_SIZE
        for node, pairs in INNER.items():
            arcs[at + node] = [(s, at + int(n)) for s, n in zip(pairs[::2], pairs[1::2], strict=True)]
        arcs[at + 7] = [(again, 2)]
    following, symbol = np.zeros((len(arcs), 2), int), np.zeros((len(arcs), 2), int)
    for node, ways in arcs.items():
        for coin in (0, 1):
            s, following[node, coin] = ways[coin % len(ways)]
            symbol[node, coin] = SYMBOLS.index(s)
    possible = np.zeros((len(arcs), len(SYMBOLS)), bool)
    np.put_along_axis(possible, symbol, True, 1)
    return following, symbol, possible


FOLLOWING, SYMBOL, POSSIBLE = _machine()


def streams(steps: int, rows: int, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Strings one behind the other: symbols [steps, rows], and the node [steps + 1, rows] before each and after the last.

    >>> symbols, _ = streams(30, 1, torch.Generator().manual_seed(0))
    >>> "".join(SYMBOLS[s] for s in symbols[:, 0])
    'BPBTXSEPEBPBTXXTTTTVPSEPEBPBPT'
    """
    coins = torch.randint(2, (steps, rows), generator=generator).numpy()
    node = np.zeros((steps + 1, rows), int)
    for t in range(steps):
        node[t + 1] = FOLLOWING[node[t], coins[t]]
    return SYMBOL[node[:-1], coins], node


class _Embedded(Grammar):
    """What both tasks share."""

    inputs = outputs = len(SYMBOLS)
    answer = "strings right at every step"

    def look(self, size: int, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Strings whose inner string has the mean length, up to the step that has to know the second symbol. x [10, B, 7]."""
        shown = MEAN + 2  # B, T or P, the inner string
        found, have = [], 0
        while have < batch:
            symbols, node = streams(shown + 1, 8 * batch, generator)
            here = np.isin(node[shown], [3 + 7, 3 + _INNER_SIZE + 7])  # the inner string has ended with the last input
            found.append(symbols[:, here])
            have += int(here.sum())
        symbols = torch.from_numpy(np.concatenate(found, 1)[:, :batch])
        following = symbols[-1:]
        return one_hot(symbols[:-1], self.inputs), following, one_hot(following, self.outputs).bool()

    def lag(self, size: int) -> int:
        """8: an inner string, of 8 symbols on average, lies between the second symbol and the step that has to know it."""
        return MEAN


class Reber(_Embedded):
    """One string a row, of at most length + 1 symbols; at each the question is which symbols may follow.

    x [length, B, 7], one-hot, zeros behind a string's last but one symbol. Right is a string in which at every step all
    possible symbols have larger outputs than all others. Who forgets the second symbol is right in half of the strings.

    >>> x, following, possible = Reber().batch(12, 4, torch.Generator().manual_seed(1))
    >>> x.shape, possible[1].sum(-1).tolist()
    (torch.Size([12, 4, 7]), [1, 1, 1, 1])
    """

    name = "reber"
    question = "the symbols that may follow in an embedded Reber string"
    source = "Cleeremans, Servan-Schreiber & McClelland 1989; embedded: Hochreiter & Schmidhuber 1997, experiment 1"
    published = (
        Published("100 % of the networks, after 8,440 strings", "LSTM of 1997", "Hochreiter & Schmidhuber 1997, table 1"),
    )

    def draw(self, size: int, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        kept_symbols, kept_nodes, have = [], [], 0
        while have < batch:  # longer strings are drawn again
            symbols, node = streams(size + 1, batch, generator)
            ends = (node[1:] == 0).any(0)
            kept_symbols.append(symbols[:, ends])
            kept_nodes.append(node[:, ends])
            have += int(ends.sum())
        symbols, node = (np.concatenate(parts, 1)[:, :batch] for parts in (kept_symbols, kept_nodes))
        over = np.cumsum(node[1:] == 0, 0) > 0  # [size + 1, B]: the string has ended with this symbol, or before
        real = torch.from_numpy(~over[:-1])  # inputs: all symbols but the last
        said, following = torch.from_numpy(symbols[:-1]), torch.from_numpy(symbols[1:])
        possible = torch.from_numpy(POSSIBLE[node[1:-1]])
        return one_hot(torch.where(real, said, -1), self.inputs), torch.where(real, following, -1), possible & real[..., None]


class ContinualReber(_Embedded):
    """An endless stream of strings, of which length + 1 symbols are shown; nothing says where one ends but its E.

    x [length, B, 7], no padding. Right is a string in which every step is; the one cut off at the end counts with what is
    shown of it. A cell that can never be emptied is full after a few strings: here the forget gate was born.

    >>> x, following, possible = ContinualReber().batch(50, 4, torch.Generator().manual_seed(1))
    >>> x.sum().item(), torch.equal(x[1:].argmax(-1), following[:-1])
    (200.0, True)
    """

    name = "continual-reber"
    question = "the symbols that may follow in a stream of embedded Reber strings"
    source = "Gers, Schmidhuber & Cummins 2000"
    published = (
        Published("0 % perfect networks", "LSTM of 1997", GERS),
        Published("18 % perfect networks", "LSTM with forget gates", GERS),
        Published("62 % perfect networks", "LSTM with forget gates, falling learning rate", GERS),
    )

    def draw(self, size: int, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        symbols, node = streams(size + 1, batch, generator)
        said, following = torch.from_numpy(symbols[:-1]), torch.from_numpy(symbols[1:])
        return one_hot(said, self.inputs), following, torch.from_numpy(POSSIBLE[node[1:-1]])

    def right(self, outputs: Tensor, *target: Tensor) -> Tensor:
        """[strings of all rows]: those without a wrong step."""
        right = self.right_steps(outputs, *target)  # [T, B]
        ends = target[0] == SYMBOLS.index("E")
        # a string ends with the second E: the first is that of its inner string
        string = ends.cumsum(0).sub(ends.long()).div(2, rounding_mode="floor")  # [T, B], counted from 0
        rows = torch.arange(right.shape[1]).expand_as(string)
        most = int(string.max()) + 1
        place = (rows * most + string).flatten()
        shown = torch.zeros(right.shape[1] * most, dtype=torch.bool).index_fill(0, place.unique(), True)
        wrong = torch.zeros_like(shown).index_fill(0, place[~right.flatten()], True)
        return ~wrong[shown]
