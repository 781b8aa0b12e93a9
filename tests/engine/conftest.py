"""All tests here run on poisoned memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support import poisoned_memory


@pytest.fixture(autouse=True)
def poison() -> Iterator[None]:
    with poisoned_memory():
        yield
