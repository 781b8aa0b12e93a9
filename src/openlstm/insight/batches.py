"""What is done to a batch, whatever its form: rows picked, packed rows laid out and packed again, precision, a model called.

Legend: T time, B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from openlstm.engine.autograd import HALF as HALF
from openlstm.engine.execute import plain_types as plain_types
from openlstm.errors import DtypeError, OpenLSTMError
from openlstm.nn.batch import RECURRENT, Loss, mapped


class NotMeasurable(OpenLSTMError):
    """Nothing can be measured here, and why: a sentence without its full stop."""


class Layout(NamedTuple):
    """Where rows and steps are: in the inputs of a model, and so in whatever has their axes."""

    rows: int
    steps: int
    time: int  # the axis of steps, 0 or 1

    @property
    def shape(self) -> tuple[int, int]:
        """The first two axes."""
        return (self.rows, self.steps) if self.time else (self.steps, self.rows)

    def timed(self, a: Any) -> bool:
        """Whether it has both axes."""
        return isinstance(a, Tensor) and tuple(a.shape[:2]) == self.shape

    def row_axis(self, a: Tensor) -> int | None:
        """The axis of rows, None where there is none."""
        return 1 - self.time if self.timed(a) else next((k for k in (0, 1) if k < a.dim() and a.shape[k] == self.rows), None)

    def pick(self, a: Any, rows: Sequence[int] | np.ndarray | Tensor) -> Any:
        """Some rows of what has rows."""
        chosen = torch.as_tensor(rows)
        if isinstance(a, PackedSequence):
            padded, lengths = pad_packed_sequence(a)
            return pack_padded_sequence(padded[:, chosen.to(padded.device)], lengths[chosen], enforce_sorted=False)
        axis = self.row_axis(a) if isinstance(a, Tensor) else None
        return a if axis is None else a.index_select(axis, chosen.to(a.device))


def expect_module(model: Any, who: str, hint: str) -> None:
    """Raise for what is no module.

    Raises:
        DtypeError: as said.
    """
    if not isinstance(model, nn.Module):
        raise DtypeError.of(who, "not a module", f"model: {type(model).__name__}", "a torch.nn.Module", hint)


def uncompiled(model: nn.Module) -> nn.Module:
    """The model itself of a compiled one, which does not hear hooks that come later."""
    return getattr(model, "_orig_mod", model)


def batch_first(model: nn.Module, otherwise: bool = False) -> bool:
    """Whether rows come first: what the first recurrent layer of a model says, or another part of it that says so."""
    say = [m for m in model.modules() if hasattr(m, "batch_first")]
    first = next((m for m in say if isinstance(m, RECURRENT)), say[0] if say else None)
    return otherwise if first is None else bool(first.batch_first)


def parts_of(data: Any) -> tuple[Any, ...]:
    """A batch as a tuple: a tensor, a packed sequence or a dict is its only part."""
    return tuple(data) if isinstance(data, (tuple, list)) and not isinstance(data, PackedSequence) else (data,)


def arguments(model: nn.Module, data: Any, loss: Loss | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments of a call of the model, or of the loss; of a bare layer without a loss x alone."""
    if isinstance(data, Mapping):
        return (), dict(data)
    parts = parts_of(data)
    return parts[:1] if isinstance(model, RECURRENT) and loss is None else parts, {}


def repacked(packed: PackedSequence, padded: Tensor) -> PackedSequence:
    """Padded steps [T, B, ..], rows in their own order, in the place of those of a packed sequence."""
    order = torch.arange(len(packed.data), device=packed.data.device)
    at, lengths = pad_packed_sequence(packed._replace(data=order))  # [T, B], the place of each step in the data
    real = (torch.arange(at.shape[0])[:, None] < lengths).to(at.device)
    index = torch.empty_like(order)
    index[at[real]] = torch.arange(at.numel(), device=at.device).view_as(at)[real]
    return packed._replace(data=padded.flatten(0, 1)[index])


def each(value: Any, f: Callable[[Any], Any]) -> Any:
    """What `f` makes of every array of a tuple or of one array; None stays."""
    return mapped(value, lambda a: None if a is None else f(a))


def detached(a: Any, half: bool = True) -> Any:
    """Tensors of any arrangement without their graph; those of a half type as float32, unless `half` keeps them."""

    def free(t: Any) -> Any:
        if isinstance(t, PackedSequence):
            return t._replace(data=free(t.data))
        if not isinstance(t, Tensor):
            return t
        t = t.detach()
        return t.float() if half and t.dtype in HALF else t

    return mapped(a, free)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """A model in eval mode, and afterwards modes and random states as they were; cuDNN, which goes back in training mode only,
    is left out meanwhile.
    """
    modes = [(m, m.training) for m in model.modules()]
    with torch.random.fork_rng(), torch.backends.cudnn.flags(enabled=False):
        model.eval()
        try:
            yield
        finally:
            for m, mode in modes:
                m.training = mode


@contextmanager
def calling(what: str) -> Iterator[None]:
    """Around a call of the user's model or loss with data it was not given by the user: its own errors say that this cannot
    be measured, and are no fault of ours.
    """
    try:
        yield
    except OpenLSTMError:
        raise
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        raise NotMeasurable(f"the model or its loss fails {what}: {type(error).__name__}: {first}") from error
