"""The house form of an error, and what its classes are to Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openlstm import errors
from openlstm.errors import OpenLSTMError, describe, finite, message, missing_extra, source


def test_a_message_has_four_lines() -> None:
    assert message("LSTM", "x has 100 features, expected 40", "x: float32[16, 100]", "[T, 40]", "swap the axes") == (
        "LSTM: x has 100 features, expected 40\n  got       x: float32[16, 100]\n  expected  [T, 40]\n  hint      swap the axes"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.zeros((16, 40)), "float64[16, 40]"),
        (torch.zeros(2, dtype=torch.bfloat16), "bfloat16[2]"),
        (np.zeros(()), "float64[]"),
        ([1, 2, 3], "list of 3"),
        ((), "tuple of 0"),
        ("abc", "str 'abc'"),
        (None, "NoneType None"),
    ],
)
def test_a_value_is_described_by_type_and_shape(value: object, text: str) -> None:
    assert describe(value) == text


def test_errors_are_also_what_python_users_catch() -> None:
    also: dict[str, tuple[type[Exception], ...]] = {
        "ShapeError": (ValueError, RuntimeError),
        "DtypeError": (TypeError, ValueError, RuntimeError),
        "ArgumentError": (ValueError, RuntimeError),
        "DataError": (ValueError,),
        "ModelFileError": (ValueError,),
        "BackendError": (RuntimeError,),
        "BusyError": (RuntimeError,),
        "MissingExtraError": (ImportError,),
        "TrainingError": (RuntimeError,),
        "CheckpointError": (ValueError,),
    }
    classes = {name: c for name, c in vars(errors).items() if isinstance(c, type) and issubclass(c, OpenLSTMError)}
    assert classes.keys() == {*also, "OpenLSTMError"}
    assert [(name, base) for name, bases in also.items() for base in bases if not issubclass(classes[name], base)] == []


def test_a_missing_extra_names_its_command() -> None:
    assert str(missing_extra("openlstm.LSTM", "torch", "torch")) == (
        "openlstm.LSTM: needs the package torch, which is not installed\n"
        "  got       no module named torch\n"
        "  expected  the extra 'torch'\n"
        f"  hint      pip install '{source()}[torch]'"
    )


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_nan_and_infinity_are_not_finite(make: object) -> None:
    assert finite(make([1.0, -1e38])) and finite(make([]))  # type: ignore[operator]
    assert not finite(make([1.0, np.nan])) and not finite(make([np.inf]))  # type: ignore[operator]
