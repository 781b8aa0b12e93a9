"""What is asked for by name runs, or says why not: OPENLSTM_ISA, OPENLSTM_BACKEND, backend=; and life without the extension."""

from __future__ import annotations

import numpy as np
import pytest
from tests.support import NEEDS_NATIVE, Case, digest, python, run_all

import openlstm
from openlstm import cells
from openlstm.cells import FGR, LSTM, Cell, VanillaRNN
from openlstm.engine import choose, native
from openlstm.engine.backends import cpu
from openlstm.errors import ArgumentError, BackendError
from openlstm.reference import Weights

RUN = """
import os
import numpy, pytest, torch  # and nothing of the package, which each child imports for the first time
for isa in ISAS:
    if os.fork() == 0:
        os.environ["OPENLSTM_ISA"] = isa.strip("-")
        from openlstm.cells import LSTM
        from openlstm.engine import native
        from openlstm.engine.backends import cpu
        from tests.support import Case, digest, run_all
        case = Case(LSTM(), "float32", T=9, B=7, I=19, H=33, lengths=True, reset=True)
        print(isa, native.isa(), digest(run_all(cpu, case.problem())), flush=True)
        os._exit(0)
    os.wait()
"""
CASE = Case(LSTM(), "float32", T=9, B=7, I=19, H=33, lengths=True, reset=True)

HIDE = """
import sys, warnings
sys.modules["openlstm._native"] = None  # importing it now fails, as where it was never built
import numpy as np
from openlstm.cells import LSTM
from openlstm.reference import Weights
w = Weights(np.zeros((8, 3), np.float32), np.ones((8, 2), np.float32))
x = np.ones((5, 1, 3), np.float32)
"""


@NEEDS_NATIVE
def test_every_instruction_set_can_be_forced_and_gives_the_same_bits_and_the_best_is_taken_by_itself() -> None:
    code, expected = RUN.replace("ISAS", str([*native.isas(), "-"])), digest(run_all(cpu, CASE.problem()))
    found = [line.split() for line in python(code).splitlines()]
    assert found == [[isa, isa, expected] for isa in native.isas()] + [["-", native.isas()[-1], expected]]


NOT_HERE = """
import numpy as np
from openlstm import recur
from openlstm.errors import BackendError
from openlstm.cells import LSTM
from openlstm.engine import native
from openlstm.engine.backends import cpu
from openlstm.reference import Weights
w = Weights(np.zeros((8, 3), np.float32), np.zeros((8, 2), np.float32))
x = np.ones((5, 1, 3), np.float32)
from openlstm.call import Call
from openlstm.reference import State
state = State(np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32))
errors = []
for call in (lambda: recur(LSTM(), x, w), lambda: cpu.forward(Call(LSTM(), x, w, state)), native.isa):
    try:
        call()
    except BackendError as error:
        errors.append(str(error))
print(len(errors), *sorted(set(errors)), sep="\\n")
assert recur(LSTM(), x, w, backend="reference").y.shape == (5, 1, 2)
"""


@NEEDS_NATIVE
def test_an_unknown_instruction_set_is_an_error_at_the_first_use() -> None:
    assert python(NOT_HERE, OPENLSTM_ISA="mmx") == (
        "3\n"
        "OPENLSTM_ISA: the instruction set 'mmx' is not available: this build does not have it\n"
        "  got       OPENLSTM_ISA=mmx\n"
        f"  expected  {', '.join(native.isas())}\n"
        "  hint      unset OPENLSTM_ISA, which takes the best one\n"
    )


@NEEDS_NATIVE
def test_use_isa_refuses_what_is_not_there_and_restores_what_was() -> None:
    before = native.isa()
    with pytest.raises(BackendError) as caught, native.use_isa("mmx"):
        pass
    assert str(caught.value) == (
        "use_isa: the instruction set 'mmx' is not available: this build does not have it\n"
        "  got       'mmx'\n"
        f"  expected  {', '.join(native.isas())}\n"
        "  hint      name one of these"
    )
    with pytest.raises(ZeroDivisionError), native.use_isa("scalar"):
        assert native.isa() == "scalar"
        raise ZeroDivisionError
    assert native.isa() == before


@NEEDS_NATIVE
def test_an_instruction_set_that_the_processor_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Older:
        """A processor without the one that this build has."""

        compiled_isas = staticmethod(lambda: ["scalar", "avx512"])
        isas = staticmethod(lambda: ["scalar"])
        isa = staticmethod(lambda: "scalar")
        use_isa = staticmethod(lambda name: name == "scalar")

    monkeypatch.setattr(native, "library", Older)
    with pytest.raises(BackendError) as caught, native.use_isa("avx512"):
        pass
    assert str(caught.value) == (
        "use_isa: the instruction set 'avx512' is not available: this processor does not run it\n"
        "  got       'avx512'\n"
        "  expected  scalar\n"
        "  hint      name one of these"
    )


def numbers() -> tuple[np.ndarray, Weights]:
    return np.ones((5, 1, 3), np.float32), Weights(np.zeros((8, 3), np.float32), np.zeros((8, 2), np.float32))


def test_an_unknown_backend_is_refused() -> None:
    x, w = numbers()
    with pytest.raises(ArgumentError) as caught:
        openlstm.recur(LSTM(), x, w, backend="tpu")
    first, got, expected, hint = str(caught.value).splitlines()
    assert (first, got) == ("recur: unknown backend 'tpu'", "  got       'tpu'")
    assert expected.startswith("  expected  auto, ") and {"cpu", "reference"} <= set(expected[12:].split(", "))
    assert hint == "  hint      use backend='auto', or one of these"


def test_an_unknown_backend_from_the_environment_is_refused() -> None:
    code = """
    import numpy as np, openlstm
    from openlstm.errors import ArgumentError
    from openlstm.cells import LSTM
    try:
        openlstm.engine.choose("auto", LSTM(), np.zeros(1, np.float32))
    except ArgumentError as error:
        print(str(error).splitlines()[0])
    print(openlstm.engine.choose("reference", LSTM(), np.zeros(1, np.float32)))
    """
    code = code.replace("import numpy as np, openlstm", "import numpy as np, openlstm.engine")
    assert python(code, OPENLSTM_BACKEND="tpu") == "recur: unknown backend 'tpu'\nreference\n"


def test_the_backend_from_the_environment_stands_in_for_auto() -> None:
    code = """
    import numpy as np
    from openlstm.cells import LSTM
    from openlstm.engine import choose
    print(choose("auto", LSTM(), np.zeros(1, np.float32)))
    """
    assert python(code, OPENLSTM_BACKEND="reference") == "reference\n"


@NEEDS_NATIVE
def test_auto_takes_the_native_engine_where_it_can_and_the_reference_elsewhere() -> None:
    x = np.zeros((1, 1, 1), np.float32)
    assert choose("auto", LSTM(), x) == "cpu"
    assert choose("auto", LSTM(), x.astype(np.float16)) == "reference"
    assert choose("auto", LSTM(), x.astype(np.longdouble)) == "reference"
    assert choose("auto", VanillaRNN(), x, projection=True) == "cpu"
    assert {choose("auto", cell, x, noise=True) for cell in cells.ALL} == {"cpu"}
    with pytest.warns(RuntimeWarning, match="Own has no kernel; running it on the readable reference, which is slower"):
        assert choose("auto", Own(), x) == "reference"


class Own(LSTM):
    """A cell of somebody's own."""


@NEEDS_NATIVE
@pytest.mark.parametrize(
    ("cell", "dtype", "projection", "why", "got"),
    [
        (LSTM(), "float16", False, "it runs float32 and float64, not float16", "x: float16[1, 1, 1], LSTM()"),
        (
            FGR(clip=0.5),
            "float32",
            True,
            "it has no projection for FGR(clip=0.5)",
            "x: float32[1, 1, 1], FGR(clip=0.5)",
        ),
        (
            Own(),
            "float32",
            False,
            f"it has no kernel for Own(); it has {', '.join(sorted(native.KERNELS))}",
            "x: float32[1, 1, 1], Own()",
        ),
    ],
    ids=["float16", "projected gates", "a cell of one's own"],
)
def test_a_named_backend_is_never_replaced(cell: Cell, dtype: str, projection: bool, why: str, got: str) -> None:
    with pytest.raises(BackendError) as caught:
        choose("cpu", cell, np.zeros((1, 1, 1), dtype), projection=projection)
    assert str(caught.value) == (
        f"recur: backend 'cpu' cannot run this: {why}\n"
        f"  got       {got}\n"
        "  expected  a backend that can\n"
        "  hint      use backend='auto', which chooses one"
    )


def test_without_the_extension_it_runs_on_the_reference_and_says_so_once() -> None:
    printed = python(
        HIDE
        + """
from openlstm import recur
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    a, b = recur(LSTM(), x, w), recur(LSTM(), x, w)
print(a.y.shape, (a.y == b.y).all(), [w.category.__name__ for w in seen])
print(seen[0].message)
from openlstm.engine import native
from openlstm.engine.backends import cpu
print(native.available(), native.isas())
"""
    )
    lines = printed.splitlines()
    assert lines[0] == "(5, 1, 2) True ['RuntimeWarning']"
    assert lines[1].startswith("openlstm: the compiled extension is missing (") and lines[1].endswith(
        "); running the readable reference, which is slower. Reinstall openlstm to build it."
    )
    assert lines[2] == "False []"


def test_without_the_extension_layers_train_and_settings_are_taken() -> None:
    printed = python(
        HIDE
        + """
warnings.simplefilter("ignore")
import torch, openlstm
openlstm.set_num_threads(2)
openlstm.set_workspace_limit(0)
layer = openlstm.LSTM(3, 4)
y, _ = layer(torch.randn(5, 2, 3), lengths=[5, 2])
y.sum().backward()
print(layer.backend_used(torch.randn(5, 2, 3)), all(torch.isfinite(p.grad).all() for p in layer.parameters()))
openlstm.show_config()
"""
    )
    assert printed.splitlines()[0] == "reference True"
    assert "extension         missing (" in printed


def test_without_the_extension_asking_for_it_is_an_error() -> None:
    printed = python(
        HIDE
        + """
from openlstm import recur
from openlstm.errors import BackendError
try:
    recur(LSTM(), x, w, backend="cpu")
except BackendError as error:
    print(error)
"""
    )
    lines = printed.splitlines()
    assert lines[0].startswith("recur: backend 'cpu' cannot run this: the compiled extension is missing (")
    assert lines[1:] == [
        "  got       x: float32[5, 1, 3], LSTM()",
        "  expected  a backend that can",
        "  hint      use backend='auto', which chooses one",
    ]
