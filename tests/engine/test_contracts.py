"""The table of promises names tests that are there."""

from __future__ import annotations

import re

from tests.support import ROOT


def test_every_test_in_the_table_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", (ROOT / "docs" / "design" / "contracts.md").read_text())
    assert len(named) > 30
    assert [f"{file}::{test}" for file, test in named if f"def {test}(" not in (ROOT / file).read_text()] == []
