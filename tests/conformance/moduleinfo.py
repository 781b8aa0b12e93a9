"""PyTorch's ModuleInfo of LSTM, GRU, RNN and their cells, the inputs and references of its own module tests, on other classes.

    python -m tests.conformance.moduleinfo openlstm:LSTM torch.nn:LSTM    # prints JSON: class -> test -> "" or the error

A process of its own, since importing `torch.testing._internal` changes how the process tests. The inputs, references and
error cases come from the installed torch; the bodies below do with them what PyTorch's test/test_modules.py, which no wheel
has, does on CPU: forward beside the reference, factory arguments, repr, saving, pickling, non-contiguous inputs,
first and second derivatives, train and eval, the device context, and what it refuses.
"""

from __future__ import annotations

import copy
import importlib
import io
import json
import pickle
import sys
import types
import unittest
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import torch
from torch import Tensor

KINDS = ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell")
STRIDE = 1  # every so many samples have their derivatives checked: 5 in a brief run
SECOND = (
    3  # every so many have their second ones checked, in train from the first, in eval from the second: every two values of
)
# the two-valued options that the samples are made of meet in both; 1 with --whole

Body = Callable[[Any, Any, torch.dtype, bool], None]  # info, torch.testing's assert_close, dtype, training


def infos() -> Any:
    """torch.testing._internal.common_modules; it wants a package for inline expectations that no module test uses."""
    try:
        importlib.import_module("expecttest")
    except ImportError:
        stand_in: Any = types.ModuleType("expecttest")
        stand_in.TestCase = unittest.TestCase
        sys.modules["expecttest"] = stand_in
    return importlib.import_module("torch.testing._internal.common_modules")


def inputs_of(info: Any, dtype: torch.dtype, training: bool, requires_grad: bool = False) -> Iterator[tuple[Any, Any, Any]]:
    """For every sample the module, the arguments of its forward, and the sample."""
    torch.manual_seed(0)
    for sample in info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=requires_grad, training=training):
        if sample.forward_input is None:
            continue
        made = info.module_cls(*sample.constructor_input.args, **sample.constructor_input.kwargs).to("cpu", dtype)
        made.train(training)
        yield made, sample.forward_input, sample


def forward(info: Any, close: Any, dtype: torch.dtype, training: bool) -> None:
    for module, given, sample in inputs_of(info, dtype, training):
        found = module(*given.args, **given.kwargs)
        if sample.reference_fn is not None:
            close(found, sample.reference_fn(module, *given.args, **given.kwargs))


def factory(info: Any, close: Any, dtype: torch.dtype, training: bool) -> None:
    for _, _, sample in inputs_of(info, dtype, training):
        made = info.module_cls(*sample.constructor_input.args, **sample.constructor_input.kwargs, device="cpu", dtype=dtype)
        assert {(p.device.type, p.dtype) for p in made.parameters()} == {("cpu", dtype)}


def device_context(info: Any, close: Any, dtype: torch.dtype, training: bool) -> None:
    for _, _, sample in inputs_of(info, dtype, training):
        with torch.device("meta"):
            made = info.module_cls(*sample.constructor_input.args, **sample.constructor_input.kwargs)
        assert {p.device.type for p in made.parameters()} == {"meta"}
        assert {p.device.type for p in made.to_empty(device="cpu").parameters()} == {"cpu"}


def shown(info: Any, close: Any, dtype: torch.dtype, training: bool) -> None:
    for module, _, _ in inputs_of(info, dtype, training):
        assert type(module).__name__ in str(module)


def kept(info: Any, close: Any, dtype: torch.dtype, training: bool) -> None:
    for module, given, _ in inputs_of(info, dtype, training):
        with torch.random.fork_rng():
            expected = module(*given.args, **given.kwargs)
        buffer = io.BytesIO()
        torch.save(module, buffer)
        buffer.seek(0)
        copies = [torch.load(buffer, weights_only=False), pickle.loads(pickle.dumps(module)), copy.deepcopy(module)]
        for other in copies:
            close(other(*given.args, **given.kwargs), expected)


def scattered(info: Any, close: Any, dtype: torch.dtype, training: bool) -> None:
    """Inputs and outputs' gradients that are not contiguous."""

    def spread(a: Any) -> Any:
        if not isinstance(a, Tensor):
            return tuple(spread(b) for b in a)
        return torch.repeat_interleave(a.detach(), 2, -1)[..., ::2].requires_grad_(a.is_floating_point())

    for module, given, _ in inputs_of(info, dtype, training, requires_grad=True):
        results = []
        for args in (given.args, spread(given.args)):
            outputs, leaves = tensors(module(*args, **given.kwargs)), [*module.parameters(), *tensors(args)]
            loss: Any = sum((o * o.detach().cos()).sum() for o in outputs)
            gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
            results.append([*outputs, *gradients])
        close(results[1], results[0])


def derivatives(info: Any, close: Any, dtype: torch.dtype, training: bool, twice: bool = False) -> None:
    if dtype != torch.float64:
        return
    step = SECOND if twice and STRIDE == 1 else STRIDE
    first = 0 if training or step != SECOND else min(1, SECOND - 1)
    for module, given, _ in islice(inputs_of(info, dtype, training, requires_grad=True), first, None, step):
        names, values = zip(*module.named_parameters(), strict=True)
        leaves = tensors(given.args)

        def call(*flat: Tensor, module: Any = module, given: Any = given, names: Any = names, n: int = len(leaves)) -> Any:
            args, rest = filled(given.args, list(flat[:n]))
            assert not rest
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return tuple(
                    tensors(torch.func.functional_call(module, dict(zip(names, flat[n:], strict=True)), args, given.kwargs))
                )

        flat = (*leaves, *values)
        torch.autograd.gradcheck(call, flat, fast_mode=True) if not twice else torch.autograd.gradgradcheck(
            call, flat, fast_mode=True
        )


def second_derivatives(info: Any, close: Any, dtype: torch.dtype, training: bool) -> None:
    derivatives(info, close, dtype, training, twice=True)


def train_and_eval(info: Any, close: Any, dtype: torch.dtype, training: bool) -> None:
    for module, given, _ in inputs_of(info, dtype, training):
        first = module(*given.args, **given.kwargs)
        close(module.train(not training)(*given.args, **given.kwargs), first)  # no sample has dropout


def refusals(info: Any, close: Any, dtype: torch.dtype, training: bool) -> None:
    """What torch refuses raises an error of torch's type, though in words of our own."""
    torch.manual_seed(0)
    for case in info.module_error_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=training):
        sample = case.module_error_input
        try:
            made = info.module_cls(*sample.constructor_input.args, **sample.constructor_input.kwargs)
            made.to("cpu", dtype)(*sample.forward_input.args, **sample.forward_input.kwargs)
        except case.error_type:
            continue
        raise AssertionError(f"no {case.error_type.__name__} where torch says {case.error_regex!r}")


BODIES: tuple[Body, ...] = (
    forward,
    factory,
    device_context,
    shown,
    kept,
    scattered,
    train_and_eval,
    derivatives,
    second_derivatives,
    refusals,
)


def tensors(a: Any) -> list[Tensor]:
    """The tensors in nested tuples, in order."""
    return [a] if isinstance(a, Tensor) else [t for b in a for t in tensors(b)] if isinstance(a, (tuple, list)) else []


def filled(a: Any, flat: list[Tensor]) -> tuple[Any, list[Tensor]]:
    """`a` with its tensors replaced, and what is left over."""
    if isinstance(a, Tensor):
        return flat[0], flat[1:]
    out = []
    for b in a:
        new, flat = filled(b, flat)
        out.append(new)
    return tuple(out), flat


def run(classes: list[type], brief: bool = False) -> dict[str, dict[str, str]]:
    """Every class through every body, dtype and mode.

    Args:
        brief: in training alone, with fewer derivatives, to the first failure, and without refusals.
    """
    global STRIDE
    STRIDE = 5 if brief else 1
    common = infos()
    found: dict[str, dict[str, str]] = {}
    for cls in classes:
        kind = next(k for k in KINDS if any(k == base.__name__ for base in cls.__mro__))
        known = next(info for info in common.module_db if info.module_cls is getattr(torch.nn, kind))
        functions = {name: getattr(known, name) for name in ("module_inputs_func", "module_error_inputs_func")}
        info = common.ModuleInfo(cls, **functions)
        results = found[f"{cls.__module__}:{cls.__name__}"] = {}
        for body in BODIES[:-1] if brief else BODIES:
            for dtype in (torch.float32, torch.float64):
                for training in (True,) if brief else (True, False):
                    word = ""
                    try:
                        body(info, close, dtype, training)
                    except Exception as error:  # noqa: BLE001 - any failure is a result
                        word = f"{type(error).__name__}: {error}"[:500]
                    results[f"{body.__name__}-{str(dtype)[6:]}-{'train' if training else 'eval'}"] = word
                    if word and brief:
                        break
            if brief and any(results.values()):
                break
    return found


def close(a: Any, b: Any) -> None:
    """PyTorch's own tolerances for module tests, 1e-5."""
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def main() -> None:
    torch.set_num_threads(1)
    global SECOND
    brief = "--brief" in sys.argv
    SECOND = 1 if "--whole" in sys.argv else SECOND
    classes = []
    for word in [w for w in sys.argv[1:] if w[:2] != "--"]:
        module, name = word.split(":")
        classes.append(getattr(importlib.import_module(module), name))
    with suppress(BrokenPipeError):
        print(json.dumps(run(classes, brief)))


if __name__ == "__main__":
    main()
