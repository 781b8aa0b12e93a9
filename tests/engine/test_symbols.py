"""Code of one instruction set cannot be called by another: kernel objects lend the linker nothing and stay in their namespace.

An inline function that two objects have in common is kept once, whoever compiled it; with AVX-512 inside it would end a program
on a machine without. So kernel files share none: each weak symbol of theirs is in the namespace named by the instruction set.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.support import NEEDS_NATIVE, ROOT

from openlstm.engine import native

FLAGS = {"avx2": ["-mavx2", "-mfma"], "avx512": ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mavx2", "-mfma"]}
FLAGS["avx512bf16"] = [*FLAGS["avx512"], "-mavx512bf16", "-DOPENLSTM_BFLOAT16"]
FLAGS["avx512vnni"] = [*FLAGS["avx512"], "-mavx512vnni"]
FLAGS["amx"] = [*FLAGS["avx512bf16"], "-mamx-tile", "-mamx-bf16", "-DOPENLSTM_TILES"]
NATIVE = ROOT / "native"
X86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="instruction sets of x86")
GPP = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
NM = pytest.mark.skipif(shutil.which("nm") is None or shutil.which("objdump") is None, reason="binutils are not installed")


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@X86
@GPP
@NM
@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "isa"),
    [
        ("vector/rows", "avx512"),
        ("product/product", "avx2"),
        ("product/product", "avx512bf16"),
        ("product/amx", "amx"),
        ("product/int8", "avx2"),
        ("product/int8", "avx512vnni"),
        ("cells/gru", "avx2"),
        ("cells/layer_norm", "avx512"),
    ],
)
def test_kernel_objects_have_no_weak_symbol_outside_their_namespace(file: str, isa: str, tmp_path: Path) -> None:
    """Compiled without optimisation, which keeps every inline function that is not forced inline."""
    source, made = NATIVE / f"{file}.cpp", tmp_path / "kernels.o"
    if not source.exists():
        pytest.skip("installed without its sources")
    defines = [f"-DOPENLSTM_ISA={isa}", f"-I{NATIVE}"]
    output(
        "g++",
        "-std=gnu++20",
        "-O0",
        "-fPIC",
        "-ffp-contract=off",
        "-w",
        *FLAGS[isa],
        *defines,
        "-c",
        str(source),
        "-o",
        str(made),
    )
    lines = [line.split(maxsplit=2) for line in output("nm", "-C", "--defined-only", str(made)).splitlines()]
    shared = [name for _, kind, name in lines if kind in "WVu" and f"openlstm::{isa}::" not in name]
    assert [name for name in shared if not name.startswith("DW.ref.")] == []  # that one is an address, not code
    stem = {"rows": "kernels", "product": "products", "amx": "products", "int8": "products"}.get(source.stem, source.stem)
    by_file = {"rows": [""], "amx": ["_float32", "_int8"], "int8": ["_int8"]}
    types = by_file.get(source.stem, ["_float32"] if isa == "avx512bf16" else ["_float32", "_float64"])
    public = {name for _, kind, name in lines if kind in "TDBRG"}
    assert public == {f"openlstm::{isa}::{stem}{kind}" for kind in types}


@X86
@NM
@NEEDS_NATIVE
def test_wide_registers_are_used_in_their_own_namespace_only() -> None:
    """In the module as built: tiles in amx, 64-byte registers there and in the avx512 ones, 32-byte ones where AVX2 is."""
    wide = {"avx512", "avx512vnni", "avx512bf16", "amx"}
    allowed = {"tmm": {"amx"}, "zmm": wide, "ymm": {*wide, "avx2", "wide", "amxtest"}}
    seen: dict[str, set[str]] = {register: set() for register in allowed}
    wrong = set()
    function, place = "", ""
    for line in output("objdump", "-d", "-C", "--no-show-raw-insn", native.library.__file__).splitlines():
        if line.endswith(">:"):
            function = line[line.index("<") + 1 : -2]
            found = re.search(r"openlstm::(scalar|avx2|wide|avx512bf16|avx512vnni|avx512|amxtest|amx)\b", function)
            place = found[1] if found else ""
            continue
        for register, places in allowed.items():
            if "%" + register in line:
                seen[register].add(place)
                if place not in places:
                    wrong.add((register, function))
    assert wrong == set()
    assert seen == allowed  # and the build has them all


@NM
@NEEDS_NATIVE
def test_the_module_shows_nothing_but_its_entry() -> None:
    """Symbols that other libraries could bind to: the function that Python calls."""
    names = [line.split()[-1] for line in output("nm", "-D", "--defined-only", native.library.__file__).splitlines()]
    assert [name for name in names if "openlstm" in name] == []
    assert "PyInit__native" in names
