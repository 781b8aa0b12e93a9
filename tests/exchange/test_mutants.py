"""Damaged files are read or refused in our form: no crash, no hang, no more than 2 GB."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from tests.exchange import mutants

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are those of Linux")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_some_damaged_files_of_every_kind(tmp_path: Path) -> None:
    assert mutants.survivors(tmp_path, 5, 0) == []


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ten_thousand_damaged_files(tmp_path: Path) -> None:
    given = mutants.originals()
    assert mutants.survivors(tmp_path, -(-10_000 // len(given)), 1) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_damage_is_real_and_the_undamaged_are_read(tmp_path: Path) -> None:
    import openlstm

    rng = np.random.default_rng(0)
    for name, data in mutants.originals().items():
        (tmp_path / name).write_bytes(data)
        assert len(openlstm.read(tmp_path / name)) >= 1
        assert any(mutants.mutated(data, rng, data) != data for _ in range(3))
