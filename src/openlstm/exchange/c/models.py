"""A model of `fit` in C, with its scaling and head: from raw numbers to quantiles in the unit of the target.

Legend: Q quantiles, H hidden size.
"""

from __future__ import annotations

from openlstm.errors import ArgumentError
from openlstm.exchange.c.net import UNIT, Net, Program
from openlstm.exchange.c.parts import WHO, Parts
from openlstm.exchange.c.windows import Forecasting
from openlstm.runtime.model import Model


def of_model(model: Model, weights: str) -> Program:
    """A model that steps.

    Raises:
        ArgumentError: for a recursive model, whose forecast is drawn, or a cell that has no weights in 8 bits.
    """
    kind = model.header.decoder.kind
    if kind == "recursive":
        what, hint = "draws its forecasts, and C has no random numbers here", "fit with decoder='direct'"
        raise ArgumentError.of(WHO, what, "a recursive model", "a model of the decoder direct or simulate", hint)
    return (Simulating if kind == "simulate" else Forecasting)(model, weights == "int8").program()


class Simulating(Parts):
    """A model of the decoder simulate: a step gives the quantiles of the same step."""

    @property
    def warmup(self) -> int:
        """The first step has an answer."""
        return 0

    def about(self) -> tuple[str, ...]:
        """What x and y are."""
        return (
            f"the model of {self.series.target}, simulated from what is known of each step",
            f"x: {'; '.join(self.columns())}",
            f"y: {self.levels()} of the same step",
        )

    def state(self) -> str:
        """Nothing."""
        return ""

    def arrays(self) -> list[str]:
        """The head."""
        return self.dense("head", self.tensor("head.weight"), self.tensor("head.bias"))

    def functions(self, net: Net) -> str:
        """C of a step."""
        scale, Q = self.series.scale, len(self.model.levels)
        wide, H = -(-Q // UNIT) * UNIT, net.outputs
        return f"""\
{self.reads()}{self.spread_out()}static inline void @step(@ *self, const float *x, float *y) {{
  double v[{Q}] = {{0.}};
  for (int member = 0; member < {net.members}; member++) {{
    float in[{net.inputs}], out[{wide}];
{self.reading(self.series.features, "x", "in", 0, 4)}\
    const float *h = {net.call};
    @dense(out, @head_w + member * {wide * H}, @head_b + member * {wide}, h, {H}, {wide // UNIT});
    @spread_out(out, 0.f);
    for (int q = 0; q < {Q}; q++) v[q] += (double)out[q];
  }}
  for (int q = 0; q < {Q}; q++) v[q] = {scale.center!r} + {scale.floor!r} * v[q] / {net.members}.;
{self.calibrated("@shift", repr(scale.floor))}\
  for (int q = 0; q < {Q}; q++) y[q] = (float)v[q];
}}
"""
