"""A layer as a header of C: the numbers of the engine, one stream beside another, on other compilers, and what is refused."""

from __future__ import annotations

import copy
import ctypes
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.exchange.compiled import CROSS, EMULATOR, FUSED, NEEDS_GCC, STRICT, Compiled, off, run
from tests.support import ROOT

import openlstm
from openlstm import cells
from openlstm.engine.stepper import Stepper
from openlstm.errors import ArgumentError, DtypeError
from openlstm.exchange.export import export

STEPS = 1000


def layer(cell: Any, I: int, H: int, L: int = 1, P: int = 0, bias: bool = True) -> Any:
    torch.manual_seed(H)
    kind = openlstm.LSTM if cell.has_cell else openlstm.GRU if isinstance(cell, cells.GRU) else openlstm.RNN
    return kind(I, H, L, cell=cell, proj_size=P, bias=bias).eval()


def inputs(made: Any, steps: int = STEPS) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((steps, made.input_size)).astype(np.float32)


def stepped(made: Any, x: np.ndarray, weights: str = "float32") -> np.ndarray:
    stepper = Stepper(made, weights=weights)
    width = made.proj_size or made.hidden_size  # FGR carries its gates too
    return np.stack([stepper.step(row.astype(stepper.state.h.dtype))[0, :width].copy() for row in x])


SIZES = [
    (cells.LSTM(), 1, 16),
    (cells.LSTM(), 3, 64),
    (cells.LSTM(clip=0.1), 3, 13, 2, 5, False),
    (cells.LSTM(cells_per_gate=3), 2, 6),
    (cells.LSTM(heads=2), 2, 32),
    (cells.LSTM(heads=3), 2, 15),
    (cells.GRU(heads=2), 2, 16, 2),
    (cells.GRU(), 40, 24, 2, 17),
    (cells.VanillaRNN("relu"), 3, 33),
    (cells.SLSTM(heads=4), 3, 32, 2),
    (cells.JANET(beta=0.25), 2, 7, 1, 0, False),
    (cells.LSTM(clip=1e39), 2, 7),
]
ALL = [(cell, 3, 11, 2) for cell in cells.ALL if not cell.norms] + SIZES


@NEEDS_GCC
@pytest.mark.parametrize("sizes", ALL, ids=lambda s: "-".join(map(str, (s[0].name, *s[1:]))))
def test_every_cell_gives_the_numbers_of_the_engine(sizes: Any, tmp_path: Path) -> None:
    made = layer(*sizes)
    x = inputs(made)
    compiled = Compiled(export(made, "c"), tmp_path)
    assert off(compiled.run(x), stepped(made, x)) < 1e-6
    assert compiled.library.self_test() == 0


@NEEDS_GCC
@pytest.mark.parametrize("H", [16, 13])
def test_layer_normalisation_is_as_exact_as_the_engine(H: int, tmp_path: Path) -> None:
    """It makes small differences large: float32 itself is further than 1e-6 from float64."""
    made = layer(cells.LayerNormLSTM(clip=2.0), 3, H, 2)
    x = inputs(made)
    exact = stepped(copy.deepcopy(made).double(), x)
    compiled = Compiled(export(made, "c"), tmp_path)
    assert off(compiled.run(x), exact) < 4 * off(stepped(made, x), exact) + 1e-6
    assert compiled.library.self_test() == 0


EIGHT = [
    (cells.LSTM(), 1, 16),
    (cells.Peephole(), 3, 13, 2),
    (cells.GRU(), 5, 24, 2, 7),
    (cells.VanillaRNN(), 40, 9),
    (cells.JANET(), 2, 33, 1, 0, False),
]


@NEEDS_GCC
@pytest.mark.parametrize("sizes", EIGHT, ids=lambda s: type(s[0]).__name__)
def test_8_bits_give_the_bits_of_the_engine(sizes: Any, tmp_path: Path) -> None:
    """Without a fused multiply-add an h may be rounded to the number beside, which is 1/127 off."""
    made = layer(*sizes)
    x = inputs(made)
    compiled = Compiled(export(made, "c", weights="int8"), tmp_path, *FUSED)
    y, wanted = compiled.run(x), stepped(made, x, "int8")
    assert np.array_equal(y, wanted) if FUSED else off(y, wanted) < 1e-2
    assert export(openlstm.quantize(made), "c") == export(made, "c", weights="int8")
    assert off(Compiled(export(made, "c", weights="int8"), tmp_path).run(x), wanted) < 1e-2
    assert compiled.library.self_test() == 0


@NEEDS_GCC
@pytest.mark.parametrize("L", [1, 2])
def test_x_may_hold_the_sums(L: int, tmp_path: Path) -> None:
    """As a layer without `input_projection` takes it: by gate, in their order."""
    made = openlstm.GRU(27, 9, L, input_projection=False).eval()
    x = inputs(made)
    assert off(Compiled(export(made, "c"), tmp_path).run(x), stepped(made, x)) < 1e-6


@NEEDS_GCC
def test_x_and_y_may_be_one_array(tmp_path: Path) -> None:
    made = layer(cells.LSTM(), 9, 9, 2)
    compiled, x = Compiled(export(made, "c"), tmp_path), inputs(made, 1)
    wanted, state, place = compiled.run(x), compiled.stream(), ctypes.c_void_p(x.ctypes.data)
    compiled.library.run(state, place, place, 1)
    assert np.array_equal(x, wanted)


def test_weights_stand_there_to_the_bit() -> None:
    made = layer(cells.LSTM(), 3, 16)
    text = export(made, "c")
    for name, weight in {"x": made.weight_ih_l0, "h": made.weight_hh_l0}.items():
        found = re.search(rf"model_{name}0\[\d+\] model_aligned = \{{\n(.*?)\}};", text, re.DOTALL)
        assert found
        numbers = np.array(re.findall(r"[^,\s]+(?=f,)", found[1])).astype(np.float32)
        assert np.array_equal(np.sort(numbers), np.sort(weight.detach().numpy().ravel()))


@NEEDS_GCC
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_streams_do_not_disturb_each_other_and_begin_anew(weights: str, tmp_path: Path) -> None:
    made = layer(cells.LSTM(), 3, 16, 2)
    compiled = Compiled(export(made, "c", weights=weights), tmp_path)
    x = inputs(made, 40)
    whole = compiled.run(x)
    a, b = compiled.stream(), compiled.stream()
    parts = []
    for k in range(0, 40, 10):
        parts.append(compiled.run(x[k : k + 10], a))
        compiled.run(-3 * x[:7], b)
    assert np.array_equal(np.concatenate(parts), whole)
    compiled.library.reset(a)
    assert np.array_equal(compiled.run(x, a), whole)


@NEEDS_GCC
@pytest.mark.parametrize("cell", [cells.LSTM(), cells.GRU(), cells.SLSTM()], ids=lambda c: c.name)
def test_what_is_not_a_number_stays_so(cell: Any, tmp_path: Path) -> None:
    made = layer(cell, 2, 9)
    x = inputs(made, 6)
    x[3, 1] = np.nan
    compiled = Compiled(export(made, "c"), tmp_path)
    assert np.array_equal(np.isnan(compiled.run(x)), np.isnan(stepped(made, x)))
    if cell.name != "slstm":
        eight = Compiled(export(made, "c", weights="int8"), tmp_path).run(x)
        assert np.array_equal(np.isnan(eight), np.isnan(stepped(made, x, "int8")))


@NEEDS_GCC
@pytest.mark.parametrize("cell", [cells.LSTM(), cells.GRU(), cells.MinGRU()], ids=lambda c: c.name)
def test_far_values_close_and_open_gates(cell: Any, tmp_path: Path) -> None:
    made = layer(cell, 2, 9)
    x = inputs(made, 50) * 1e4
    assert off(Compiled(export(made, "c"), tmp_path).run(x), stepped(made, x)) < 1e-6


@NEEDS_GCC
def test_the_self_test_sees_a_changed_weight(tmp_path: Path) -> None:
    for weights in ("float32", "int8"):
        text = export(layer(cells.LSTM(), 3, 8), "c", weights=weights)
        first = r"(model_h0\[\d+\] model_aligned = \{\n)([^,]+),"
        changed = re.sub(first, lambda found: f"{found[1]}{'-' * (found[2][0] != '-')}100,", text)
        assert changed != text and Compiled(changed, tmp_path).library.self_test() > 0
        assert Compiled(text, tmp_path).library.self_test() == 0


@NEEDS_GCC
@pytest.mark.parametrize("options", [{"weights": "float32"}, {"weights": "int8"}], ids=lambda o: o["weights"])
def test_the_code_is_small(options: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "model.h").write_text(export(layer(cells.LSTM(), 4, 64, 2, 20), "c", **options))
    (tmp_path / "one.c").write_text('#include "model.h"\nvoid f(model *s, float *x, float *y) { model_step(s, x, y); }\n')
    run("gcc", *STRICT, *FUSED, "-c", "-o", str(tmp_path / "one.o"), str(tmp_path / "one.c"))
    sections = dict(line.split()[:2] for line in run("size", "-A", str(tmp_path / "one.o")).splitlines() if line.count(" ") > 1)
    code = sum(int(size) for name, size in sections.items() if name.startswith(".text"))
    assert 500 < code < 20_000


TWO = """
#define FIRST_SELF_TEST
#define SECOND_SELF_TEST
#include "first.h"
#include "first.h"
#include "second.h"
#include <stdio.h>
int main(void) { printf("%d %d\\n", first_self_test(), second_self_test()); return 0; }
"""

COMPILERS = {
    "gcc": (["gcc", *STRICT], []),
    "gcc without optimisation": (["gcc", *STRICT[:-1], "-O0", "-pedantic"], []),
    "gcc with fast math": (["gcc", *STRICT, "-ffast-math"], []),
    "gcc of C11 with its extensions": (["gcc", "-std=gnu11", *STRICT[1:]], []),
    "g++": (["g++", "-x", "c++", *STRICT[1:]], []),
    "clang": (["clang", *STRICT], []),
    "64-bit Arm": ([CROSS, "-static", *STRICT], [EMULATOR]),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.neon] if "Arm" in n else []) for n in COMPILERS],
    ids=lambda n: n.replace(" ", "-"),
)
def test_two_headers_in_one_program_on_every_compiler(name: str, tmp_path: Path) -> None:
    command, emulator = COMPILERS[name]
    if missing := [tool for tool in (command[0], *emulator) if tool is None or shutil.which(tool) is None]:
        pytest.skip(f"needs {missing[0] or 'qemu-user'}")
    (tmp_path / "first.h").write_text(export(layer(cells.LSTM(), 3, 13, 2), "c", name="first"))
    (tmp_path / "second.h").write_text(export(layer(cells.GRU(), 2, 16), "c", name="second", weights="int8"))
    (tmp_path / "main.c").write_text(TWO)
    run(*command, "-o", str(tmp_path / "main"), str(tmp_path / "main.c"))
    assert run(*emulator, str(tmp_path / "main")) == "0 0\n"


@NEEDS_GCC
def test_the_program_of_the_docs_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Python, C and the command line stand there as they are typed."""
    text = (ROOT / "docs/exchange-c.md").read_text()
    python, program, command, printed = (re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL) for kind in KINDS)
    assert python and program and command and printed
    monkeypatch.chdir(tmp_path)
    exec(python[1], {})
    (tmp_path / "main.c").write_text(program[1])
    run("sh", "-c", command[1])
    assert run("./main") == printed[1]


KINDS = ("python", "c", "sh", "text")


def refused(source: Any, **options: Any) -> str:
    with pytest.raises(ArgumentError) as caught:
        export(source, "c", **options)
    return str(caught.value)


def test_what_has_no_c_is_refused_with_the_repair() -> None:
    class Own(cells.LSTM):
        pass

    lstm = openlstm.LSTM(2, 3).eval()
    assert refused(openlstm.LSTM(2, 3, bidirectional=True)) == (
        "export to 'c': the other direction begins at the end, which a stream has not\n"
        "  got       bidirectional=True\n"
        "  expected  a layer in one direction\n"
        "  hint      train a layer in one direction, or take to='onnx', which reads whole sequences"
    )
    assert refused(openlstm.LSTM(2, 3, cell=Own())) == (
        "export to 'c': Own() has no C\n"
        "  got       cell: Own()\n"
        "  expected  a cell of openlstm.cells itself: LSTM and its variants, GRU, RNN, SLSTM, JANET, MinGRU, MinLSTM, IndRNN\n"
        "  hint      train one of these; a cell of your own runs where this package does"
    )
    assert refused(lstm, name="my-net") == (
        "export to 'c': the name is none that C allows\n"
        "  got       name='my-net'\n"
        "  expected  letters, digits and _, with a letter first, and no word of C or C++\n"
        "  hint      name='my_net'"
    )
    for name, hint in {"": "model", "float": "float_net", "2x": "x", "_x": "x"}.items():
        assert refused(lstm, name=name).endswith(f"hint      name={hint!r}")
    assert refused(openlstm.RNN(2, 3, cell=cells.MinGRU()).eval(), weights="int8") == (
        "export to 'c': MinGRU() has no kernel in 8 bits\n"
        "  got       cell: MinGRU()\n"
        "  expected  LSTM and its variants without FGR, GRU, RNN or JANET, each with heads=1\n"
        "  hint      keep its weights in float32"
    )
    assert refused(openlstm.LSTM(2, 3), weights="int8").endswith(
        "call layer.eval() first: weights in 8 bits are for inference alone"
    )
    assert refused(lstm, weights="bfloat16") == (
        "export to 'c': unknown weights\n"
        "  got       weights='bfloat16'\n"
        "  expected  float32 or int8\n"
        "  hint      'int8' is a quarter of the size"
    )
    assert refused(openlstm.LSTM(2, 3, zoneout_h=0.1)) == (
        "export to 'c': a step in C has no zoneout\n"
        "  got       zoneout_h=0.1\n"
        "  expected  zoneout_h=0\n"
        "  hint      set layer.zoneout_h = 0 if it is to step without"
    )
    assert refused(torch.nn.Sequential(lstm)) == (
        "export to 'c': is not a layer that steps\n"
        "  got       Sequential\n"
        "  expected  openlstm.LSTM, GRU or RNN, or a model of openlstm.Forecaster\n"
        "  hint      name the layer: layer='0'"
    )
    with pytest.raises(DtypeError) as caught:
        export(openlstm.LSTM(2, 3).double(), "c")
    assert str(caught.value) == (
        "export to 'c': the numbers of a header are float32\n"
        "  got       weights in float64\n"
        "  expected  float32\n"
        "  hint      export(layer.float(), to='c')"
    )
    broken = openlstm.LSTM(2, 3)
    with torch.no_grad():
        broken.get_parameter("bias_ih_l0")[1] = torch.inf
    assert refused(broken) == (
        "export to 'c': layers[0].b_ih holds NaN or infinity\n"
        "  got       layers[0].b_ih: float32[12]\n"
        "  expected  finite numbers\n"
        "  hint      mend the layer: C has no such number"
    )
