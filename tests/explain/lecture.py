"""The lecture, computed once for all tests of a process: it trains networks, here up to lag 40 and not to 100."""

from functools import cache
from typing import Any

import pytest

from openlstm import explain
from openlstm.explain import learning


@cache
def computed() -> tuple[list[dict[str, Any]], list[str]]:
    """The sections of seed 0, and what was said while they were computed."""
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "LAGS", learning.LAGS[:-1])
        return explain.compute(on_progress=said.append), said


def facts(section: str, part: str) -> dict[str, Any]:
    """The numbers that a function of a section gave."""
    return next(s for s in computed()[0] if s["name"] == section)["facts"][part]


def figure(name: str) -> Any:
    """The figure of a name."""
    return next(s["figures"][name] for s in computed()[0] if name in s["figures"])
