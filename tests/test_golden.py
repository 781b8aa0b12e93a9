"""Model files of every released version load, and forecast what they forecast then."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import openlstm

FILES = sorted((Path(__file__).parent / "golden").glob("*.safetensors"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_file_of_an_older_version_gives_its_forecast(path: Path) -> None:
    then = json.loads(path.with_suffix(".json").read_text())
    values = np.array([np.nan if v is None else v for v in then["values"]])
    np.testing.assert_allclose(openlstm.load(path).quantiles(values), then["quantiles"], rtol=1e-6)


def test_there_is_a_file_of_each_version() -> None:
    assert {int(p.stem.rsplit("_v", 1)[1]) for p in FILES} == {1}
