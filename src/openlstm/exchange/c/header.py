"""`write`: one header of C99 from a layer or a model. All of it is `static inline`: it is included where it is used, needs no
second file and no macro, and what is not called leaves no code. Who steps from several files puts it into one of them.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from openlstm import __version__
from openlstm.engine.backends.table import brief
from openlstm.engine.rounded import check_rounded
from openlstm.engine.stepper import Stepper
from openlstm.errors import ArgumentError, DtypeError, describe
from openlstm.exchange.c import code
from openlstm.exchange.c.cells import step
from openlstm.exchange.c.models import of_model
from openlstm.exchange.c.net import Net, Program, array, plain
from openlstm.exchange.stack import Stack
from openlstm.reference import Weights, unshared
from openlstm.runtime.model import Model

WHO = "export to 'c'"
WEIGHTS = ("float32", "int8")
STEPS = 24
"""Steps of the self-test."""

RESERVED = set(
    "alignas alignof and asm auto bool break case catch char class const continue default delete do double else enum explicit "
    "export extern false float for friend goto if inline int long mutable namespace new not operator or private protected "
    "public register restrict return short signed sizeof static struct switch template this throw true try typedef typename "
    "union unsigned using virtual void volatile while xor".split()
)


def write(model: Any, *, name: str = "model", weights: str = "float32") -> str:
    """The text of a header.

    Args:
        model: openlstm.LSTM, GRU or RNN in one direction, or what `openlstm.quantize` made of one; a `runtime.Model`.
        name: what the type is called, and its functions begin with.
        weights: "float32", or "int8" as `Stepper(layer, weights="int8")` steps.

    Raises:
        DtypeError: for a layer in float64.
        ArgumentError: for a name that C does not allow, a layer in both directions, a cell that has no C or no weights in 8
            bits, or a module that is no layer.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or name in RESERVED:
        what, expected = "the name is none that C allows", "letters, digits and _, with a letter first, and no word of C or C++"
        fit = re.sub("[^A-Za-z0-9_]", "_", name).lstrip("_0123456789") or "model"
        hint = f"name={fit + '_net' if fit in RESERVED else fit!r}"
        raise ArgumentError.of(WHO, what, f"name={name!r}", expected, hint)
    if weights not in WEIGHTS:
        hint = "'int8' is a quarter of the size"
        raise ArgumentError.of(WHO, "unknown weights", f"weights={weights!r}", " or ".join(WEIGHTS), hint)
    return _text((of_model if isinstance(model, Model) else of_layer)(model, weights), name)


def encode(text: str) -> bytes:
    """The bytes of a header's file."""
    return text.encode("ascii")


def of_layer(layer: Any, weights: str) -> Program:
    """A layer that steps."""
    from openlstm.nn.quantized import Quantized
    from openlstm.nn.recurrent import Recurrent

    stack = _stack(layer)
    if stack.directions == 2 or stack.reverse:
        what, got = "the other direction begins at the end, which a stream has not", "bidirectional=True"
        hint = "train a layer in one direction, or take to='onnx', which reads whole sequences"
        raise ArgumentError.of(WHO, what, got, "a layer in one direction", hint)
    for option in ("zoneout_h", "zoneout_c"):
        if getattr(layer, option, 0):
            got, hint = f"{option}={getattr(layer, option)!r}", f"set layer.{option} = 0 if it is to step without"
            raise ArgumentError.of(WHO, "a step in C has no zoneout", got, f"{option}=0", hint)
    if stack.dtype == np.float64:
        what, hint = "the numbers of a header are float32", "export(layer.float(), to='c')"
        raise DtypeError.of(WHO, what, "weights in float64", "float32", hint)
    step(stack.cell.unshared(), WHO)
    whole = stack.cell.unshared() if isinstance(layer, Quantized) else stack.cell
    own = [unshared(whole, one[0])[1] for one in stack.weights]
    layers = tuple(Weights(*(None if a is None else np.asarray(a, np.float32) for a in w)) for w in own)
    for n, w in enumerate(layers):
        for field, a in w._asdict().items():
            if a is not None and not np.isfinite(a).all():
                what, hint = f"layers[{n}].{field} holds NaN or infinity", "mend the layer: C has no such number"
                raise ArgumentError.of(WHO, what, f"layers[{n}].{field}: {describe(a)}", "finite numbers", hint)
    net = Net(stack.cell.unshared(), layers, WHO, weights == "int8" or isinstance(layer, Quantized))
    if net.int8 and isinstance(layer, Recurrent):
        check_rounded(WHO, "int8", layer, net.cell, list(layers), "cpu")
    stepper = Stepper(net, weights="int8" if net.int8 else "float32")
    x = np.random.default_rng(0).standard_normal((STEPS, net.inputs)).astype(np.float32)
    y = np.stack([stepper.step(row)[0, : net.outputs].copy() for row in x])
    about = f"{brief(net.cell)}, {net.inputs} -> {net.outputs}, {net.depth} layer{'s' * (net.depth > 1)}"
    step_ = f"""\
static inline void @step(@ *self, const float *x, float *y) {{
  memcpy(y, @net(self, x), {net.outputs} * sizeof *y);
}}
"""
    return Program(net, (about,), "", "", step_, x, y)


def _stack(layer: Any) -> Stack:
    """The arrays of a layer."""
    from openlstm.exchange.backwards import Backwards
    from openlstm.nn.quantized import Quantized
    from openlstm.nn.recurrent import Recurrent

    if not isinstance(layer, (Recurrent, Quantized, Backwards)):
        parts = layer.named_modules() if hasattr(layer, "named_modules") else ()
        inside = [n for n, part in parts if n and isinstance(part, (Recurrent, Quantized))]
        expected = "openlstm.LSTM, GRU or RNN, or a model of openlstm.Forecaster"
        hint = f"name the layer: layer={inside[0]!r}" if inside else "openlstm.replace(model) for layers of torch.nn"
        raise ArgumentError.of(WHO, "is not a layer that steps", type(layer).__name__, expected, hint)
    return Stack.of(layer)


def _text(program: Program, name: str) -> str:
    net, x = program.net, program.x
    first = int(np.isnan(program.y).any(1).sum())  # steps before a model answers
    y = program.y[first:]
    bound = "3e-3f" if net.int8 else "1e-4f"
    functions = f"""\
{net.functions()}
static inline void @init(@ *self) {{ memset(self, 0, sizeof *self); }}
static inline void @reset(@ *self) {{ @init(self); }}

{program.functions}"""
    upper = name.upper()
    about = "\n   ".join(plain(line) for line in program.about)
    text = f"""\
/* Written by openlstm {__version__}: {about}; weights in {"8 bits" if net.int8 else "float32"}.

     static @ state;           one for each stream; nothing is allocated
     @init(&state);            begins with zeros, as @reset does
     @step(&state, x, y);      float x[@inputs], y[@outputs]

   With {upper}_SELF_TEST defined before it is included, @self_test() is 0 if the numbers are those that were recorded. */
#ifndef {upper}_OPENLSTM_H
#define {upper}_OPENLSTM_H
#include <stdint.h>
#include <string.h>

{code.FMA}
#ifdef __cplusplus
extern "C" {{
#endif

enum {{ @inputs = {x.shape[1]}, @outputs = {y.shape[1]}, @hidden = {net.hidden}, @stride = {net.stride} }};

typedef struct @ {{
{net.struct()}{program.state}}} @;

{net.arrays()}
{program.arrays}
{code.used(functions, net.int8)}
{functions}
#ifdef {upper}_SELF_TEST
{array("@test_x", x)}
{array("@test_y", y)}
/* 0, or the first step (from 1) until which the numbers are further off than {bound[:-1]} of them. */
static inline int @self_test(void) {{
  @ self;
  float y[@outputs], wrong = 0.f, all = 0.f;
  @init(&self);
  for (int t = 0; t < {len(x)}; t++) {{
    @step(&self, @test_x + t * @inputs, y);
    for (int k = 0; {f"t >= {first} && " if first else ""}k < @outputs; k++) {{
      const float right = @test_y[{f"(t - {first})" if first else "t"} * @outputs + k];
      wrong += (y[k] - right) * (y[k] - right), all += right * right;
    }}
    if (!(wrong <= {bound} * {bound} * all)) return t + 1;
  }}
  return 0;
}}
#endif

#ifdef __cplusplus
}}
#endif
#endif
"""
    return re.sub(r"@(?![a-z])", name, text).replace("@", f"{name}_")
