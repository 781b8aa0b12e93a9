"""`show_config` says what the engine runs on, and nothing that is not so."""

from __future__ import annotations

import pytest
from tests.support import NEEDS_NATIVE, num_threads, python

import openlstm
from openlstm.engine import SUPPORT, config, native, threads, workspace


def test_the_configuration_is_that_of_the_engine() -> None:
    said = config.config()
    assert said["openlstm"] == openlstm.__version__
    assert said["threads"] == threads.get_num_threads()
    assert said["workspace_limit"] == workspace.get_workspace_limit()
    assert set(said["backends"]) <= set(SUPPORT) and "reference" in said["backends"]


@NEEDS_NATIVE
def test_the_instruction_set_is_the_one_in_use() -> None:
    assert "wide" not in config.config()["instruction_sets"]
    for isa in native.isas():
        with native.use_isa(isa):
            assert config.config()["instruction_set"] == isa


def test_show_config_prints_one_line_for_each_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with num_threads(3):
        openlstm.show_config()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(config.config())
    assert "threads           3" in lines
    assert lines[0] == f"openlstm          {openlstm.__version__}"


def test_show_config_does_not_load_torch() -> None:
    assert "torch             not loaded" in python("import openlstm; openlstm.show_config()")


def test_show_config_names_the_backend_that_was_asked_for() -> None:
    code = "import openlstm; openlstm.show_config()"
    assert "backend           reference" in python(code, OPENLSTM_BACKEND="reference")
