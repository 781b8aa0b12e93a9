"""A batch and a loss in whatever form they come, brought to one: a tuple with the target last, `loss(model, *data)`.

    data    a tensor, a PackedSequence, a tuple (.., target), a dict of keywords, a DataLoader or another iterable of these
    loss    loss(model, *data), loss(model, **data), loss(model, data), or loss(output, target), as torch's own are

A loss is one of outputs if it is torch's own, or if it takes two arguments where the data are two or more and the first of them
is not called a model. Then the model is called with all but the last of the data, or of a dict with what its `forward` takes.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DataLoader, Dataset

from openlstm.errors import ArgumentError, DtypeError, OpenLSTMError, describe
from openlstm.nn.recurrent import Recurrent

RECURRENT = (Recurrent, nn.LSTM, nn.GRU, nn.RNN)

Loss = Callable[..., Tensor]
"""loss(model, *data) -> scalar."""

MODELS = ("model", "net", "network", "module", "m")
"""How the first argument of a loss is called that takes the model itself."""

FORMS = "loss(model, *data), or loss(output, target) with the target last in the data"


def formed(model: nn.Module, data: Any, loss: Any, who: str) -> tuple[Any, Any, tuple[str, ...]]:
    """Data and loss in the one form, and notes on what was taken of them.

    What is in that form already stays as it is; arrays become tensors.

    Args:
        who: is named in errors.

    Raises:
        DtypeError: for data that are no batch, a loss that cannot be called.
        ArgumentError: for a loss that cannot be called with these data, an iterable that is empty.

    >>> x, y = torch.zeros(5, 3, 2), torch.zeros(5, 3, 2)
    >>> _, loss, _ = formed(nn.Identity(), (x, y), nn.MSELoss(), "me")
    >>> float(loss(nn.Identity(), x, y + 2))
    4.0
    """
    if not isinstance(model, nn.Module):
        return data, loss, ()
    data, notes = _one_batch(data, who)
    if loss is not None and not callable(loss):
        got = f"loss: {describe(loss)}"
        raise DtypeError.of(who, "the loss cannot be called", got, FORMS, "pass a function, or torch.nn.CrossEntropyLoss()")
    if isinstance(loss, type):
        got, hint = f"loss: class {loss.__name__}", f"make one of it: loss={loss.__name__}()"
        raise DtypeError.of(who, "the loss is a class", got, FORMS, hint)
    _expect_arrays(data, who)
    data = mapped(data, lambda a: torch.from_numpy(np.ascontiguousarray(a)) if isinstance(a, np.ndarray) else a)
    if loss is None:
        return _inputs(model, data, bool(notes)), None, notes
    if isinstance(data, Mapping):
        return (*_named(model, data, loss, who), notes)
    parts = tuple(data) if isinstance(data, (tuple, list)) and not isinstance(data, PackedSequence) else (data,)
    kind = _kind(loss, len(parts))
    if kind == "outputs":
        if len(parts) < 2:
            hint = "pass (x, target), or write the loss as loss(model, x)"
            got = f"data: {describe(data)}"
            raise ArgumentError.of(
                who, "a loss of outputs and targets, and no target in the data", got, "(x, .., target)", hint
            )
        return parts, _Outputs(loss), notes
    if kind == "batch":
        return parts, _Whole(loss, type(data)), notes
    if not _binds(loss, (model, *parts)):
        got = f"loss{_signature(loss)}, {len(parts)} {'part' if len(parts) == 1 else 'parts'} of data"
        raise ArgumentError.of(
            who, "the loss cannot be called with these data", got, FORMS, "give it as many arguments as the data have parts"
        )
    return data, loss, notes


def mapped(value: Any, f: Callable[[Any], Any]) -> Any:
    """Tuples, lists and dicts of any depth with `f` of what they hold; a PackedSequence is held as a whole."""
    if isinstance(value, PackedSequence):
        return f(value)
    if isinstance(value, (tuple, list)):
        parts = [mapped(v, f) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, MutableMapping):
        own = copy.copy(value)
        for k in list(own):
            own[k] = mapped(own[k], f)
        return own
    return f(value)


def leaves(data: Any) -> list[Any]:
    """What a batch holds, however deep."""
    found: list[Any] = []
    mapped(data, lambda a: found.append(a) or a)
    return found


class _Outputs:
    """A loss of outputs and targets as one of the model and the data."""

    def __init__(self, loss: Callable[..., Any], names: tuple[str, ...] = ()) -> None:
        self.loss, self.names = loss, names

    def __call__(self, model: nn.Module, *data: Any) -> Any:
        *inputs, target = data
        if self.names:
            return self.of(model(**dict(zip(self.names, inputs, strict=True))), target)
        if len(inputs) == 1 and isinstance(inputs[0], Mapping):
            return self.of(model(**inputs[0]), target)
        if len(inputs) == 1 and isinstance(inputs[0], (tuple, list)) and not isinstance(inputs[0], PackedSequence):
            inputs = list(inputs[0])
        return self.of(model(*inputs), target)

    def of(self, output: Any, target: Any) -> Any:
        """The loss itself.

        Raises:
            ArgumentError: where it fails.
        """
        try:
            return self.loss(output, target)
        except Exception as error:
            name = getattr(self.loss, "__name__", type(self.loss).__name__)
            got = f"output {describe(output)}, target {describe(target)}: {_brief(error)}"
            expected = f"a target that fits the output: {name}(output, target)"
            hint = "change the last of the data, or write the loss as loss(model, *data)"
            what = "it cannot be computed of the output and the target"
            raise ArgumentError.of("loss", what, got, expected, hint) from error


class _Whole:
    """A loss of the model and the batch as a whole."""

    def __init__(self, loss: Callable[..., Any], kind: type) -> None:
        self.loss, self.kind = loss, kind

    def __call__(self, model: nn.Module, *data: Any) -> Any:
        return self.loss(model, self.kind(*data) if hasattr(self.kind, "_fields") else self.kind(data))


class _Named:
    """A loss of the model and a dict."""

    def __init__(self, loss: Callable[..., Any], names: tuple[str, ...], whole: bool) -> None:
        self.loss, self.names, self.whole = loss, names, whole

    def __call__(self, model: nn.Module, *data: Any) -> Any:
        named = dict(zip(self.names, data, strict=True))
        return self.loss(model, named) if self.whole else self.loss(model, **named)


def _one_batch(data: Any, who: str) -> tuple[Any, tuple[str, ...]]:
    """The data themselves, or the first batch of a loader."""
    if isinstance(data, (Tensor, np.ndarray, PackedSequence, tuple, list, Mapping)):
        return data, ()
    if isinstance(data, Dataset) or isinstance(data, Iterator) or not isinstance(data, Iterable):
        hint = "next(iter(loader)) is one batch; a data set: DataLoader(data_set, batch_size=64)"
        expected = "a tensor, a tuple of tensors, a dict of them, a PackedSequence, or a DataLoader"
        raise DtypeError.of(who, "the data are no batch", f"data: {type(data).__name__}", expected, hint)
    with torch.random.fork_rng(devices=[]):  # a loader that shuffles draws
        first = next(iter(data), None)
    if first is None:
        got, hint = f"data: {type(data).__name__} without a batch", "look at its data set, and at drop_last"
        raise ArgumentError.of(who, "the data are empty", got, "at least one batch", hint)
    first = tuple(first) if isinstance(first, list) else first
    kind = "DataLoader" if isinstance(data, DataLoader) else type(data).__name__
    return first, (f"The first batch of the {kind} was looked at.",)


def _expect_arrays(data: Any, who: str) -> None:
    found: list[Any] = []
    mapped(dict(data) if isinstance(data, Mapping) else data, lambda a: found.append(a) or a)
    if not any(isinstance(a, (Tensor, np.ndarray, PackedSequence)) for a in found):
        got, hint = f"data: {describe(data) if found else type(data).__name__}", "turn the numbers into tensors first"
        raise DtypeError.of(who, "no tensor in the data", got, "a batch of tensors", hint)


def _inputs(model: nn.Module, data: Any, loader: bool) -> Any:
    """What the model takes of a batch: of a dict its own keywords, of a loader's batch not the target."""
    takes = _parameters(model.forward)
    if takes is None:
        return data
    if isinstance(data, Mapping):
        every = any(p.kind is p.VAR_KEYWORD for p in takes.values())
        return {k: v for k, v in data.items() if every or k in takes}
    if loader and isinstance(data, tuple) and not isinstance(data, PackedSequence):
        least = 1 if isinstance(model, RECURRENT) else max(1, _required(takes))
        return data[: max(least, 1)] if len(data) > least else data
    return data


def takes(model: nn.Module, x: Any, loss: Any) -> bool:
    """Whether the model alone is called with `x`, and the loss with what it gives: no target stands behind the inputs."""
    asked = list(_parameters(loss) or ())
    if isinstance(loss, type) or len(asked) > 1 and asked[0] in MODELS:
        return False
    if isinstance(x, Mapping):
        own = _parameters(model.forward)
        return own is None or any(p.kind is p.VAR_KEYWORD for p in own.values()) or set(x) <= set(own)
    if not isinstance(x, (tuple, list)):
        return isinstance(x, (Tensor, PackedSequence)) or not isinstance(x, Iterable)
    if not _binds(model.forward, tuple(x)):
        return False
    return not (_of_torch(loss) and len(x) > 1 and _binds(model.forward, tuple(x[:-1])))


def _of_torch(loss: Any) -> bool:
    return isinstance(loss, nn.Module) or str(getattr(loss, "__module__", "")).split(".")[0] == "torch"


def called(loss: Loss, model: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any], ran: Callable[[], bool]) -> Any:
    """The loss of a model and its data.

    Args:
        ran: whether a layer of the model has run; what goes wrong later is not a matter of arguments.

    Raises:
        ArgumentError: where it fails before the model runs.
    """
    try:
        return loss(model, *args, **named)
    except OpenLSTMError:
        raise
    except Exception as error:
        if ran() or isinstance(loss, _Outputs):  # of these the model itself failed
            raise
        own = getattr(loss, "loss", loss)
        got = f"loss{_signature(own) if _parameters(own) is not None else ''}: {_brief(error)}"
        hint = f"take the model first: its arguments are {', '.join([type(model).__name__, *map(describe, args)])}"
        raise ArgumentError.of("capture_layers", "the loss failed before it called the model", got, FORMS, hint) from error


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def expect_taken(model: nn.Module, data: Any, who: str) -> None:
    """Without a loss all of the data are inputs: a target among them is one too many.

    Raises:
        ArgumentError: where the model takes another number of them.
    """
    if isinstance(model, RECURRENT) or isinstance(data, (PackedSequence, Mapping)) or not isinstance(data, (tuple, list)):
        return
    if not _binds(model.forward, tuple(data)):
        got = f"{len(data)} parts of data, {type(model).__name__}.forward{_signature(model.forward)}"
        expected = "what the model takes, with a loss followed by the target"
        hint = "pass loss=..., such as torch.nn.CrossEntropyLoss(), or the inputs alone"
        raise ArgumentError.of(who, "the model does not take these data", got, expected, hint)


def _named(model: nn.Module, data: Mapping[str, Any], loss: Any, who: str) -> tuple[tuple[Any, ...], Loss]:
    """A dict as a tuple, what the model takes first and the target last."""
    takes = _parameters(model.forward) or {}
    names = (*(k for k in data if k in takes), *(k for k in data if k not in takes))
    values = tuple(data[k] for k in names)
    kind = _kind(loss, len(data))
    if kind == "batch":
        return values, _Named(loss, names, whole=True)
    if kind == "outputs":
        own = [k for k in names if k in takes]
        if len(own) != len(names) - 1 or not own:
            got = f"keys {', '.join(map(repr, data))}; forward takes {', '.join(takes) or 'nothing'}"
            hint = "name all inputs as forward does, or pass a tuple (x, .., target)"
            raise ArgumentError.of(who, "which of the data is the target?", got, "one key that forward does not take", hint)
        return values, _Outputs(loss, tuple(own))
    asked = _parameters(loss)
    if asked is not None and not any(p.kind is p.VAR_KEYWORD for p in asked.values()):
        first, *rest = asked or [""]
        lacking = [k for k in data if k not in rest] + [k for k in rest if k not in data and asked[k].default is asked[k].empty]
        if lacking:
            got = f"loss{_signature(loss)}, keys {', '.join(map(repr, data))}"
            expected = "loss(model, **data), loss(model, data), or loss(output, target)"
            hint = "name the arguments of the loss as the keys of the data"
            raise ArgumentError.of(who, "the loss cannot be called with these data", got, expected, hint)
    return values, _Named(loss, names, whole=False)


def _kind(loss: Any, parts: int) -> str:
    """ "model", "batch" or "outputs": what a loss takes."""
    if isinstance(loss, (_Outputs, _Whole, _Named)):
        return "model"
    if _of_torch(loss):
        return "outputs"
    takes = _parameters(loss)
    if takes is None or any(p.kind is p.VAR_POSITIONAL for p in takes.values()) or _required(takes) != 2 or parts < 2:
        return "model"
    return "batch" if next(iter(takes)) in MODELS else "outputs"


def _parameters(f: Any) -> Mapping[str, inspect.Parameter] | None:
    try:
        return inspect.signature(f).parameters
    except (TypeError, ValueError):
        return None


def _required(takes: Mapping[str, inspect.Parameter]) -> int:
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in takes.values())


def _binds(loss: Any, args: tuple[Any, ...]) -> bool:
    try:
        inspect.signature(loss).bind(*args)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def _signature(loss: Any) -> str:
    own = inspect.signature(loss)
    bare = [p.replace(annotation=p.empty) for p in own.parameters.values()]
    return str(own.replace(parameters=bare, return_annotation=own.empty))
