"""Every error a user can meet: who, what, got, expected, and a hint that is the fix (docs/design/design.md, section 8)."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

__all__ = [
    "OpenLSTMError",
    "ShapeError",
    "DtypeError",
    "ArgumentError",
    "DataError",
    "ModelFileError",
    "BackendError",
    "BusyError",
    "TrainingError",
    "CheckpointError",
    "MissingExtraError",
]


class OpenLSTMError(Exception):
    """The root of all errors raised on purpose by this package."""

    @classmethod
    def of(cls, who: str, what: str, got: str, expected: str, hint: str) -> Self:
        """The error in the house form, see `message`."""
        return cls(message(who, what, got, expected, hint))


# torch raises a RuntimeError here and a ValueError there for what is one kind of mistake: those below are both, so that
# whatever was caught around a layer of torch.nn is caught around ours.


class ShapeError(OpenLSTMError, ValueError, RuntimeError):
    """An array has the wrong number of axes or the wrong size."""


class DtypeError(OpenLSTMError, TypeError, ValueError, RuntimeError):
    """An argument has the wrong type or the wrong element type."""


class ArgumentError(OpenLSTMError, ValueError, RuntimeError):
    """An argument has a value outside what is allowed."""


class DataError(OpenLSTMError, ValueError):
    """A table or a text that cannot be used; names file, row and column."""


class ModelFileError(OpenLSTMError, ValueError):
    """A model file that is damaged, foreign or from a newer version."""


class BackendError(OpenLSTMError, RuntimeError):
    """The backend that was asked for cannot run this; another is never taken in silence."""


class BusyError(OpenLSTMError, RuntimeError):
    """Something that serves one call at a time is serving another one."""


class TrainingError(OpenLSTMError, RuntimeError):
    """Training went wrong in a way that no further step can mend."""


class CheckpointError(OpenLSTMError, ValueError):
    """A checkpoint that is damaged, or of another training than the one that is to go on."""


class MissingExtraError(OpenLSTMError, ImportError):
    """An optional dependency is not installed; the message holds the pip command."""


def describe(x: Any) -> str:
    """Dtype and shape in one word: `float32[16, 40, 100]`; `list of 3` or `str 'abc'` for anything else."""
    if hasattr(x, "dtype") and hasattr(x, "shape"):
        return f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)}"
    if isinstance(x, (list, tuple)):
        return f"{type(x).__name__} of {len(x)}"
    return f"{type(x).__name__} {x!r}"


def message(who: str, what: str, got: str, expected: str, hint: str) -> str:
    """Put an error into the house form, one line for each of who/what, got, expected, hint."""
    return f"{who}: {what}\n  got       {got}\n  expected  {expected}\n  hint      {hint}"


def source() -> str:
    """What pip installs this package from: the clone it was installed from, else its name."""
    import json
    from importlib.metadata import PackageNotFoundError, distribution
    from urllib.parse import unquote

    try:
        found = distribution("openlstm").read_text("direct_url.json")
    except PackageNotFoundError:
        found = None
    url = json.loads(found or "{}").get("url", "")
    return unquote(url.removeprefix("file://")) if url.startswith("file://") else "openlstm"


def missing_extra(who: str, package: str, extra: str) -> MissingExtraError:
    """The error for an optional dependency that is not there."""
    return MissingExtraError(
        message(
            who,
            f"needs the package {package}, which is not installed",
            f"no module named {package}",
            f"the extra '{extra}'",
            f"pip install '{source()}[{extra}]'",
        ),
        name=package,
    )


def finite(x: Any) -> bool:
    """Whether every element of a numpy array or torch tensor is finite."""
    if isinstance(x, np.ndarray):
        return bool(np.isfinite(x).all())
    return bool(x.isfinite().all())
