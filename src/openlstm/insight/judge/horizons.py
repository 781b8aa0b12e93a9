"""Horizons: the lags that matter, on one axis, each with what it means.

    asked       the lag that is asked about
    required    the lag that the data ask for, as far as a linear model can tell
    window      how far a gradient goes back: the length of the sequences, or that of truncated backpropagation
    gradient    the longest lag at which the share of the gradient is not below the threshold of `verdict`
    flip        the longest lag at which the input flip is not below it
    used        the context that a trained network uses (`ablation`)

None of them is the verdict and the shortest is not 'the bottleneck': a cell half-life is left out on purpose, since in 69 of
109 networks that learnt it was shorter than the lag that they had learnt (the recurrence writes the cell again); after training
the gradient says nothing, since a bit that saturated units hold has a vanishing gradient.

Source: docs/horizon.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from openlstm.insight import charts
from openlstm.insight.display import ALARM, FINE, INK, SOFT, Chart, Display, alt
from openlstm.insight.judge.lag_measures import LastState, WholeModel
from openlstm.insight.judge.required_lag import RequiredLag
from openlstm.insight.measure.ablation import Ablation
from openlstm.insight.results import Record

WORDS = {
    "asked": "asked about",
    "required": "required by the data",
    "window": "steps that a gradient can go back",
    "gradient": "gradient reaches",
    "flip": "a flipped input changes the result",
    "used": "used after training",
}
"""The lags in words."""


@dataclass(frozen=True)
class Horizon(Record):
    """One lag, inf where it lies beyond what was looked at; `beyond` then says where the look ended."""

    name: str
    lag: float
    note: str
    beyond: int | None = None

    @property
    def in_steps(self) -> str:
        """The lag in words.

        >>> Horizon("window", 64, "").in_steps, Horizon("flip", math.inf, "", beyond=1999).in_steps
        ('64 steps', 'more than 1,999 steps')
        """
        if math.isinf(self.lag):
            return "no end seen" if self.beyond is None else f"more than {self.beyond:,} steps"
        return f"{self.lag:,.0f} step{'s' * (self.lag != 1)}"


@dataclass(frozen=True)
class Horizons(Record):
    """The lags that are known, in the order above."""

    shown: ClassVar[tuple[str, ...]] = ("finding",)

    lags: tuple[Horizon, ...]

    def __getitem__(self, name: str) -> Horizon:
        for one in self.lags:
            if one.name == name:
                return one
        raise KeyError(f"{name!r}; there is {', '.join(one.name for one in self.lags)}")

    @property
    def finding(self) -> str:
        """One sentence."""
        said = {h.name: f"more than {h.beyond}" if math.isinf(h.lag) else f"{h.lag:g}" for h in self.lags}
        if not said:
            return "No lag is known."
        text = f"In steps: {', '.join(f'{name} {lag}' for name, lag in said.items())}."
        if "asked" in said and "required" in said:
            text += f" Lag {said['asked']} is asked about; a linear model finds that the data need lag {said['required']}, "
            text += "and cannot see a lag that matters only together with another."
        return text

    def display(self, lag: int | None = None) -> Display:
        """All of them on one axis, with a line at the lag asked about."""
        return _drawn(self, lag)


def horizons(
    *,
    lag: int | None = None,
    required: RequiredLag | None = None,
    window: int | None = None,
    gradient: Horizon | None = None,
    flip: Horizon | None = None,
    used: Ablation | None = None,
) -> Horizons:
    """Put together what is known; what is None is left out.

    Args:
        lag: that is asked about.
        required, used: of the functions `required_lag` and `ablation`.
        window: steps of the sequences, or of truncated backpropagation.
        gradient, flip: of `gradient_horizon` and `flip_horizon`.

    >>> horizons(lag=120, window=64).finding
    'In steps: asked 120, window 64.'
    """
    found: list[Horizon] = []
    if lag is not None:
        found.append(Horizon("asked", lag, "the lag that is asked about"))
    if required is not None and required.lag is not None and (lag is None or not required.own):
        found.append(Horizon("required", required.lag, required.finding))
    if window is not None:
        found.append(Horizon("window", window, f"a gradient goes back {window} steps at most"))
    found += [one for one in (gradient, flip) if one is not None]
    if used is not None:
        found.append(Horizon("used", used.uses, f"from {used.uses} steps on the loss is the one with {used.contexts[-1]}"))
    return Horizons(tuple(found))


def gradient_horizon(seen: LastState | WholeModel) -> Horizon:
    """The longest lag that at least the threshold's share of the gradient reaches.

    Args:
        seen: of `lag_measures`.
    """
    limit = seen.of.thresholds.share
    shares = seen.shares()
    kept = np.flatnonzero(shares >= limit)
    longest = int(kept[-1]) if kept.size else 0
    end = len(shares) - 1
    note = f"at least {limit:g} of the {seen.of.gradient} reaches lag {longest}"
    if longest == end:
        return Horizon("gradient", math.inf, f"{note}, the longest looked at", end)
    return Horizon("gradient", longest, note)


def flip_horizon(seen: LastState | WholeModel) -> Horizon:
    """The longest lag at which a flipped input still moves what is read, found by doubling and halving.

    Args:
        seen: of `lag_measures`.
    """
    limit, end = seen.of.thresholds.flip, seen.longest

    def moves(lag: int) -> bool:
        return seen.flip(lag).ratio >= limit

    if moves(end):
        return Horizon("flip", math.inf, f"an input moves {seen.of.read} over {end} steps, the longest looked at", end)
    low, high = 0, 1
    while high < end and moves(high):
        low, high = high, 2 * high
    high = min(high, end)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if moves(middle) else (low, middle)
    return Horizon("flip", low, f"an input moves {seen.of.read} by at least {limit:g} of its spread over {low} steps")


def _drawn(found: Horizons, lag: int | None) -> Display:

    longest = max([10.0, *(float(h.lag) for h in found.lags if math.isfinite(h.lag)), float(lag or 1)])

    def row(k: int, h: Horizon, top: float) -> dict[str, Any]:
        value, end = (top, "on") if math.isinf(h.lag) else (max(1.0, float(h.lag)), "at")
        said = {"name": WORDS.get(h.name, h.name), "label": h.in_steps, "d": f"{h.name}: {h.in_steps}"}
        return {"k": k, "v": value, "end": end, "from": 1.0, "to": top, **said}

    def drawn(width: int) -> Chart:
        top = longest * (2.0 if width > 500 else 6.0)  # room for the numbers, right of the longest bar
        rows = [row(k, h, top) for k, h in enumerate(found.lags)]
        scale = alt.Scale(type="log", domain=[1, top], nice=False)
        axis = alt.Axis(values=charts.decades(1, top, dense=width > 500), format=",", grid=True)
        x = alt.X("v:Q", title="steps", scale=scale, axis=axis)
        left, right = alt.X("from:Q", scale=scale), alt.X("to:Q", scale=scale)
        y = alt.Y("k:Q", axis=None, scale=alt.Scale(domain=[len(rows) - 0.3, -0.75], nice=False))
        base = alt.Chart(charts.data(rows))
        name = base.mark_text(align="left", baseline="bottom", dx=1, dy=-9, fontSize=13, color=INK)
        label = base.mark_text(align="right", baseline="bottom", dx=-2, dy=-9, fontSize=12.5, color=SOFT)
        bar = base.mark_rule(strokeWidth=7, opacity=0.9, strokeCap="round", color=FINE)
        point = base.mark_point(filled=True, size=110, opacity=1, color=FINE)
        layers: list[Chart] = [
            bar.encode(left, y, x2="v:Q"),
            point.encode(x, y, alt.Shape("end:N", scale=charts.ends(), legend=None), description="d:N"),
            name.encode(left, y, text="name:N"),
            label.encode(right, y, text="label:N"),
        ]
        if lag is not None:
            one = alt.Chart(charts.data([{"v": float(lag), "t": f"the lag: {lag:,}"}]))
            head = one.mark_text(color=ALARM, baseline="bottom", fontSize=12.5, dy=-3).encode(x, alt.YValue(0), text="t:N")
            layers = [one.mark_rule(color=ALARM, strokeDash=[5, 3], strokeWidth=1.6).encode(x), head, *layers]
        return alt.layer(*layers).properties(width=width - 24, height=46 * len(rows) + 6)

    table = {"lag": [h.name for h in found.lags], "steps": [h.lag for h in found.lags], "note": [h.note for h in found.lags]}
    return Display("Horizons: the lags that matter", drawn, table, found.finding)
