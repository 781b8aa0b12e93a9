"""The lecture, computed once for all tests of a process: it trains networks."""

from functools import cache
from typing import Any

from openlstm import explain


@cache
def computed() -> tuple[list[dict[str, Any]], list[str]]:
    """The sections of seed 0, and what was said while they were computed."""
    said: list[str] = []
    return explain.compute(on_progress=said.append), said


def facts(section: str, part: str) -> dict[str, Any]:
    """The numbers that a function of a section gave."""
    return next(s for s in computed()[0] if s["name"] == section)["facts"][part]


def figure(name: str) -> Any:
    """The figure of a name."""
    return next(s["figures"][name] for s in computed()[0] if name in s["figures"])
