"""The classic long-memory experiments, run as their protocol says, with the look before training beside the result.

Names are imported on first use, so that the command line can name the experiments without loading torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names for editors and type checkers
    from openlstm.lab import tasks as tasks
    from openlstm.lab.arms import ARMS as ARMS
    from openlstm.lab.arms import SIDE_BY_SIDE as SIDE_BY_SIDE
    from openlstm.lab.experiment import Progress as Progress
    from openlstm.lab.experiment import Result as Result
    from openlstm.lab.experiment import Row as Row
    from openlstm.lab.experiment import run as run

_HOMES = {"ARMS": "arms", "SIDE_BY_SIDE": "arms"} | dict.fromkeys(["Progress", "Result", "Row", "run"], "experiment")


def __getattr__(name: str) -> Any:
    if name == "tasks":
        return import_module("openlstm.lab.tasks")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"openlstm.lab.{_HOMES[name]}"), name)
