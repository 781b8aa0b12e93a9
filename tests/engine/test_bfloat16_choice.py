"""Which kernels multiply bfloat16, and what is said of it."""

from __future__ import annotations

import errno
from typing import Any

import pytest
import torch
from tests.support import NEEDS_NATIVE, Case

import openlstm
from openlstm import cells, doctor
from openlstm.call import Call
from openlstm.engine import config, native
from openlstm.engine.backends import cpu
from openlstm.errors import BackendError

pytestmark = NEEDS_NATIVE


def chosen(**other: Any) -> tuple[str, str]:
    """On a processor with all of it whose maker is not Intel, but for what is said."""
    facts = {"isa": "avx512", "amx": True, "avx512bf16": True, "intel": False, "refused": 0}
    return native.library.choose_bfloat16(**{**facts, "amx_built": True, "avx512bf16_built": True, **other})


@pytest.mark.parametrize(
    ("other", "name", "why"),
    [
        ({}, "amx", "this processor has it"),
        ({"intel": True}, "amx", "this processor has it"),
        ({"amx": False}, "avx512bf16", "no AMX in this processor"),
        ({"amx_built": False}, "avx512bf16", "no AMX in this build"),
        ({"refused": errno.EPERM}, "avx512bf16", "AMX refused by Linux: Operation not permitted"),
        ({"refused": errno.ENOSPC}, "avx512bf16", "AMX refused by Linux: a thread's stack for signals is too small"),
        ({"amx": False, "intel": True}, "", "no AMX in this processor; AVX512-BF16 slower than float32 on Intel's"),
        (
            {"refused": errno.EINVAL, "intel": True},
            "",
            "AMX refused by Linux: Invalid argument; AVX512-BF16 slower than float32 on Intel's",
        ),
        ({"amx": False, "avx512bf16": False}, "", "no AMX in this processor; no AVX512-BF16 in this processor"),
        ({"avx512bf16": False}, "", "AMX without AVX512-BF16 in this processor; no AVX512-BF16 in this processor"),
        ({"amx": False, "avx512bf16_built": False}, "", "no AMX in this processor; no AVX512-BF16 in this build"),
        ({"isa": "avx2"}, "", "it goes with the instruction set avx512, and avx2 is in use"),
    ],
    ids=str,
)
def test_the_kernel_for_bfloat16_is_chosen_by_what_the_processor_has(other: dict[str, Any], name: str, why: str) -> None:
    assert chosen(**other) == (name, why)


@pytest.mark.parametrize("name", native.bfloat16s())
def test_what_was_asked_for_runs_until_the_block_ends(name: str) -> None:
    before = native.bfloat16()
    with native.use_bfloat16(name):
        assert native.bfloat16().endswith(" (asked for)") and native.has_bfloat16(cells.LSTM())
        with pytest.raises(ZeroDivisionError), native.use_bfloat16(native.bfloat16s()[0]):
            raise ZeroDivisionError
        assert native.library.bfloat16()[0] == name
        assert native.peak(1, 0.001, "bfloat16") > 0
    assert native.bfloat16() == before


def test_use_bfloat16_refuses_what_is_not_there() -> None:
    before = native.bfloat16()
    with pytest.raises(BackendError) as caught, native.use_bfloat16("tpu"):
        pass
    assert str(caught.value) == (
        "use_bfloat16: the kernels for bfloat16 'tpu' are not available\n"
        "  got       'tpu'\n"
        f"  expected  {', '.join(native.bfloat16s()) or 'none'}\n"
        f"  hint      {'name one of these' if native.bfloat16s() else 'bfloat16 runs as float32 here'}"
    )
    assert native.bfloat16() == before


def test_an_instruction_set_without_it_says_so() -> None:
    p = Case(cells.LSTM(), dtype="float32").problem().tensors()
    other = next(name for name in native.isas() if name != "avx512")
    with native.use_isa(other):
        assert not native.has_bfloat16(cells.LSTM())
        with pytest.raises(BackendError, match="bfloat16"):
            cpu.forward(Call(p.cell, p.x.bfloat16(), p.weights, p.state))
        with pytest.raises(BackendError, match="bfloat16"):
            native.peak(1, 0.001, "bfloat16")


def test_doctor_and_show_config_say_it() -> None:
    assert config.config()["bfloat16"] == doctor.examine()["engine"]["bfloat16"] == native.bfloat16()
    with native.use_isa("scalar"):
        said = "float32, rounded once (it goes with the instruction set avx512, and scalar is in use)"
        assert config.config()["bfloat16"] == doctor.examine()["engine"]["bfloat16"] == said


@torch.no_grad()
def test_kinds_of_bfloat16_differ_by_roundings_alone() -> None:
    layer = openlstm.LSTM(40, 70).bfloat16()
    x = torch.randn(5, 20, 40, generator=torch.Generator().manual_seed(1)).bfloat16()
    exact = layer.float()(x.float())[0]
    layer.bfloat16()
    for name in native.bfloat16s():
        with native.use_bfloat16(name):
            y = layer(x)[0].float()
        assert 0 < float((y - exact).norm() / exact.norm()) < 0.02


class OwnCell(cells.LSTM):
    """A user's, which has no kernel."""


@pytest.mark.parametrize(
    ("name", "cell", "sizes", "expected"),
    [
        ("avx512bf16", cells.LSTM(), (64, 8, 64), True),
        ("avx512bf16", cells.LSTM(), (56, 8, 64), False),  # below 2^20 multiply-adds a step
        ("avx512bf16", cells.LSTM(), (1, 512, 512), True),
        ("avx512bf16", cells.LSTM(), (4096, 8, 24), False),  # few units, however much there is to multiply
        ("avx512bf16", cells.GRU(), (64, 8, 64), False),
        ("avx512bf16", cells.LSTM(), (256, 8, 32), True),
        ("avx512bf16", cells.LSTM(), (256, 8, 32, 16), False),  # a projection makes W_hh smaller
        ("avx512bf16", OwnCell(), (256, 256, 256), False),
        ("amx", cells.LSTM(), (32, 128, 128), True),
        ("amx", cells.LSTM(), (31, 128, 128), False),
        ("amx", cells.LSTM(), (15, 512, 512), False),  # less than a tile
        ("amx", cells.LSTM(), (4096, 8, 64), False),
        ("amxtest", cells.LSTM(), (256, 256, 256), False),
        ("", cells.LSTM(), (256, 256, 256), False),
    ],
)
def test_from_which_sizes_it_is_faster(
    monkeypatch: pytest.MonkeyPatch, name: str, cell: cells.Cell, sizes: tuple[int, ...], expected: bool
) -> None:
    monkeypatch.setattr(native.library, "bfloat16", lambda: (name, ""))
    monkeypatch.setattr(native.library, "has_bfloat16", lambda _: bool(name))
    assert native.faster_in_bfloat16(cell, *sizes) is expected


def test_it_is_never_faster_where_nothing_multiplies_it() -> None:
    for name in native.isas():
        with native.use_isa(name):
            faster = native.faster_in_bfloat16(cells.LSTM(), 256, 256, 256)
            assert faster == (native.library.bfloat16()[0] in ("avx512bf16", "amx"))
            assert not faster or name == "avx512"
