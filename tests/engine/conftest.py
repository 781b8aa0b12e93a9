"""All tests here run on poisoned memory; a cell without a kernel is no case of the native engine's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support import impossible, poisoned_memory


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not impossible(getattr(getattr(item, "callspec", None), "params", {}))]


@pytest.fixture(autouse=True)
def poison() -> Iterator[None]:
    with poisoned_memory():
        yield
