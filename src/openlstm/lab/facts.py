"""What the command line has to know of every task before torch is loaded. The tasks take it from here."""

from __future__ import annotations

from typing import NamedTuple


class Facts(NamedTuple):
    """Of one task.

    size_name: what its size counts, "lag" or "length".
    default, least: sizes.
    hidden, steps: units and training steps of its networks.
    help: the task in a line.
    """

    size_name: str
    default: int
    least: int
    hidden: int
    steps: int
    help: str


FACTS: dict[str, Facts] = {
    "recall": Facts("lag", 60, 1, 32, 1000, "The control: a sign through LAG steps of small noise."),
    "latch": Facts("lag", 120, 1, 32, 1000, "Overwrite a sign, then keep it through LAG distractors."),
    "copy": Facts("lag", 20, 1, 64, 5000, "Ten symbols again, after LAG silent steps."),
    "adding": Facts("length", 100, 2, 32, 1000, "The sum of two marked values among LENGTH values."),
    "temporal-order": Facts("length", 100, 10, 32, 1000, "Which two signs came, in which order."),
    "reber": Facts("length", 40, 8, 32, 1000, "What may follow in a string of the Reber grammar."),
    "continual-reber": Facts("length", 100, 1, 32, 1000, "The same in a stream of strings that nothing resets."),
    "parity": Facts("length", 40, 1, 32, 1000, "Whether the number of ones so far is odd."),
    "anbn": Facts("length", 10, 1, 32, 1000, "When n times a and n times b are over."),
}
"""Name -> facts, the control and the main experiment first."""
