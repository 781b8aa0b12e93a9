"""Draws docs/images/gates.png, the picture of the README: sequences through an LSTM that learnt to keep a sign."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import torch

import openlstm
from openlstm.lab.arms import Reader, build
from openlstm.lab.tasks.latch import latch_batch
from openlstm.lab.trial import Learner, learn

LAG, HIDDEN, STEPS, SHOWN = 80, 32, 1000, 8
CELL_WIDTH, CELL_HEIGHT = 6, 3  # px of one step of one unit
INK, PLUS, MINUS, MARK = "#1f2933", "#c2410c", "#1d4ed8", "#9aa5b1"


def trained() -> Reader:
    """The arm of the lab whose gates were drawn for the lag, after the lab's own training."""
    model = build("lstm-chrono", HIDDEN, LAG, seed=0)
    learner = Learner(model)
    data = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        learn(learner, model, *latch_batch(LAG, 64, data))
    return model


def time_axis(steps: int, last: bool = False) -> alt.X:
    """Every panel has the same axis; only the lowest one shows its numbers."""
    axis = alt.Axis(labels=last, ticks=last, title="step" if last else None, grid=False)
    return alt.X("t:Q", axis=axis, scale=alt.Scale(domain=[0, steps], nice=False))


def lines(values: np.ndarray, title: str, marks: list[int], colors: list[str], last: bool = False) -> Any:
    """Curves [T, N] over time, with a thin line at every marked step."""
    steps, n = values.shape
    points = [{"t": t + 0.5, "n": k, "v": float(values[t, k])} for t in range(steps) for k in range(n)]
    dashed = alt.Chart(alt.Data(values=[{"t": m + 0.5} for m in marks]))
    rules = dashed.mark_rule(color=MARK, strokeWidth=1.5, strokeDash=[3, 2])
    curves = (
        alt.Chart(alt.Data(values=points))
        .mark_line(strokeWidth=1.4)
        .encode(
            time_axis(steps, last),
            alt.Y("v:Q", title=None, axis=alt.Axis(tickCount=3, grid=False)),
            alt.Color("n:N", scale=alt.Scale(domain=list(range(n)), range=colors), legend=None),
        )
    )
    return alt.layer(rules.encode(time_axis(steps, last)), curves).properties(width=CELL_WIDTH * steps, height=60, title=title)


def heat(values: np.ndarray, title: str, scheme: str) -> alt.Chart:
    """Units over time, values between 0 and 1: one row of colour per unit."""
    steps, units = values.shape
    cells = [{"t": t, "t2": t + 1, "u": u, "u2": u + 1, "v": float(values[t, u])} for t in range(steps) for u in range(units)]
    color = alt.Color("v:Q", scale=alt.Scale(scheme=scheme, domain=[0, 1]), legend=alt.Legend(title=None, gradientLength=80))  # type: ignore[arg-type]
    y = alt.Y("u:Q", axis=None, scale=alt.Scale(domain=[0, units], nice=False))
    picture = alt.Chart(alt.Data(values=cells)).mark_rect(strokeWidth=0)
    picture = picture.encode(time_axis(steps), y, color, x2="t2:Q", y2="u2:Q")
    return picture.properties(width=CELL_WIDTH * steps, height=CELL_HEIGHT * units, title=title)


def draw() -> alt.VConcatChart:
    """The whole picture, from what the kernel saved."""
    model = trained()
    x, answer = latch_batch(LAG, 512, torch.Generator().manual_seed(2))
    logits = model(x)
    right = float(((logits > 0) == (answer > 0)).float().mean())
    seen = openlstm.trace(model.layer, x, loss=lambda y, state: model.read(state).sum())
    i, f, c, dc = (seen[name].numpy() for name in ("0.i", "0.f", "0.c", "0.dc"))  # [T, B, H]
    row = int(answer.argmax())  # the first sequence whose answer is positive
    marks = [t for t in range(len(x)) if x[t, row, 1] > 0]
    order = np.argsort(f[marks, row].mean(0))  # the units that forget most at a mark come first, at the bottom
    keeper = int(np.argmax([abs(np.corrcoef(c[-1, :, k], answer)[0, 1]) for k in range(HIDDEN)]))
    some = range(SHOWN)
    colors = [PLUS if answer[b] > 0 else MINUS for b in some]
    reach = np.abs(dc[:-1, row]).sum(1, keepdims=True)  # at the last step the loss reads h alone
    rows = [
        lines(
            x[:, row, :1].numpy(), "input: noise; dashed: marked steps. The sign at the last mark is the answer", marks, [INK]
        ),
        heat(i[:, row][:, order], "input gates i, a row per unit: they open at a mark", "oranges"),
        heat(f[:, row][:, order], "forget gates f: they close at a mark, then keep", "blues"),
        lines(
            c[:, :SHOWN, keeper],
            f"cell state of unit {keeper} in {SHOWN} sequences: answer positive (orange) or negative (blue)",
            [marks[-1]],
            colors,
        ),
        lines(reach / reach.max(), "gradient dL/dc that arrives at each step, beside its largest", marks, [INK], last=True),
    ]
    title = f"An LSTM of {HIDDEN} units that keeps a sign for {LAG} steps ({right:.0%} right on fresh sequences)"
    picture = alt.vconcat(*rows, spacing=8).resolve_scale(color="independent")
    picture = picture.properties(title=alt.TitleParams(title, fontSize=14)).configure(background="white")
    return picture.configure_title(anchor="start", fontSize=11, fontWeight="normal", color=INK).configure_view(stroke=None)


if __name__ == "__main__":
    draw().save(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("gates.png"), scale_factor=2)
