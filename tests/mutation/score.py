"""How many of the wrong LSTMs three suites find: our checks, the node tests of ONNX, PyTorch's ModuleInfo.

python -m tests.mutation.score            # prints a table; ModuleInfo takes some minutes
python -m tests.mutation.score --quick    # without ModuleInfo
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable

import torch
from tests.conformance import nodes
from tests.conformance.checks import CHECKS, Make
from tests.mutation.wrong import GROUPS, WRONG, Wrong
from tests.support import ROOT
from torch.autograd.gradcheck import GradcheckError

FOUND = (AssertionError, GradcheckError)  # whatever else a check raises is a mistake of the check, or of the wrong LSTM


def finder(make: Make) -> str | None:
    """The first of our checks that this class does not pass."""
    for check in CHECKS:
        try:
            check(make)
        except FOUND:
            return check.__name__
    return None


def by_onnx(make: Make) -> str | None:
    """The first node test of ONNX's LSTM that it does not pass."""
    for case in nodes.cases():
        if nodes.operator(case) == "LSTM":
            try:
                nodes.check(case, make)
            except AssertionError:
                return case.name
    return None


def by_moduleinfo(names: list[str]) -> dict[str, str | None]:
    """By name the first of PyTorch's module tests that each does not pass; one process for all, brief."""
    words = [f"{WRONG[name].__module__}:{WRONG[name].__name__}" for name in names]
    command = [sys.executable, "-W", "ignore", "-m", "tests.conformance.moduleinfo", "--brief", *words]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    results = json.loads(done.stdout)
    return {
        name: next((t for t, error in results[word].items() if error), None) for name, word in zip(names, words, strict=True)
    }


def scores(quick: bool = False) -> dict[str, dict[str, str | None]]:
    """Suite -> wrong LSTM -> what finds it."""
    suites: dict[str, Callable[[Make], str | None]] = {"openlstm": finder, "ONNX": by_onnx}
    assert all(suite(Wrong) is None for suite in suites.values()), "what is not wrong was found to be"
    out = {name: {wrong: suite(cls) for wrong, cls in WRONG.items()} for name, suite in suites.items()}
    return out if quick else {**out, "ModuleInfo": by_moduleinfo(list(WRONG))}


def table(found: dict[str, dict[str, str | None]]) -> str:
    """Found of each group by each suite, as a table in Markdown."""
    lines = [f"| where the mistake is | wrong LSTMs | {' | '.join(found)} |", "|---|---|" + "---|" * len(found)]
    for group, names in [*GROUPS.items(), ("all", list(WRONG))]:
        counts = [sum(of[name] is not None for name in names) for of in found.values()]
        lines.append(f"| {group} | {len(names)} | {' | '.join(str(n) for n in counts)} |")
    return "\n".join(lines)


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found = scores("--quick" in sys.argv)
    if "--each" in sys.argv:
        for name in WRONG:
            print(name, *(f"{suite}: {of[name] or '-'}" for suite, of in found.items()), sep=" | ")
    print(table(found))


if __name__ == "__main__":
    main()
