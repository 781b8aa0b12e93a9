"""`Watch`: what a network remembers while it trains, at steps 0, 10, 25, 50, 100 and then every n.

Gates, retention and the gradients of state and weights of every layer and direction, from the batch of the training step
itself: hooks record the forward pass of a watched step, and when its gradients are there the recurrent layers alone run once
more, in chunks. Nothing of the training changes: not a bit of its numbers, not its random state. At other steps nothing is done
but a norm now and then.

Horizons can collapse in the first ten steps: the share of the gradient that reaches the lag is destroyed before anything was
learnt, and training stays at chance. So the first looks are early, and `finding` names it. After training a short gradient
horizon is no defect (docs/horizon.md), so later ones raise no alarm.

Legend: T time, B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from openlstm.errors import ArgumentError
from openlstm.insight import charts
from openlstm.insight.batches import uncompiled
from openlstm.insight.calls import LayerCalls
from openlstm.insight.capture import capture_layers, recurrent_layers
from openlstm.insight.display import Chart, Display, alt
from openlstm.insight.measure.retention import Retention, RetentionSums
from openlstm.insight.measure.saturation import Saturation, SaturationSums
from openlstm.insight.measure.state_gradient import EnteringGradient, StateGradient, StateGradientSums
from openlstm.insight.measure.weight_gradient import WeightGradient, WeightGradientSums
from openlstm.insight.place import Place
from openlstm.insight.results import Asked, Record, Result, plain
from openlstm.insight.words import number, percent

FIRST = (0, 10, 25, 50, 100)
_EARLY = 100  # steps within which a horizon that collapses is an alarm
_BLOCKED = 1e-3
_NORMS = 10  # steps between two norms of the gradient, where nobody hands them over
_ROWS = 16  # of a batch
_STARTS = 4  # windows a row, for retention


@dataclass(frozen=True)
class Snapshot(Record):
    """One place at one step of a training."""

    step: int
    name: str
    saturation: Saturation | None
    retention: Retention | None
    state_gradient: StateGradient
    weight_gradient: WeightGradient

    @property
    def horizon(self) -> int:
        """The lag at which a thousandth of the gradient is left; the longest lag and one more if it never falls so far."""
        found = self.state_gradient
        return len(found.share) if found.k1000 is None else found.k1000

    def share_at(self, lag: int | None) -> float | None:
        """The share of the gradient at a lag; None where none was asked for, or no row is so long."""
        share = self.state_gradient.share
        return float(share[lag]) if lag is not None and lag < len(share) else None


class Watch(Result):
    """Look at every recurrent layer of a model while it trains.

    Args:
        model: any module that holds recurrent layers.
        every: look at every so many steps.
        first: and at these.
        lag: the lag that matters; then a collapse is judged there.
        layers: as in `capture_layers`.
        clip: the greatest norm that the loop clips to; for the clip rate.

    In a loop of your own:

        watch = Watch(model, every=500, lag=60)
        for step, (x, y) in enumerate(batches):
            with watch.step(step):
                loss_of(model(x), y).backward()
            optimizer.step(); optimizer.zero_grad()
        print(watch.finding)

    The forward pass may also stand before the block, if steps are counted one by one. `watch(step, model, batch, loss)` looks
    by a call of its own instead, which also works for a compiled model. In `openlstm.train.train`: `each_step=[watch.on_step]`.

    Attributes:
        snapshots: what was seen, one for each place and step.
        norms: (step, norm of the gradient before clipping).

    >>> import openlstm
    >>> model = openlstm.LSTM(2, 8)
    >>> watch = Watch(model, every=2, first=())
    >>> for step in range(3):
    ...     with watch.step(step):
    ...         model(torch.ones(20, 4, 2))[0][-1].sum().backward()
    >>> [(g.step, g.name) for g in watch.snapshots]
    [(0, '0'), (2, '0')]
    """

    def __init__(
        self,
        model: nn.Module,
        every: int = 500,
        first: Sequence[int] = FIRST,
        lag: int | None = None,
        *,
        layers: str | Sequence[str] | None = None,
        clip: float | None = None,
    ) -> None:
        if every < 1:
            raise ArgumentError.of("Watch", "every must be at least one step", f"every={every}", ">= 1", "use 500")
        model = uncompiled(model)
        self.every, self.first, self.lag, self.clip = every, tuple(first), lag, clip
        self.snapshots: list[Snapshot] = []
        self.norms: list[tuple[int, float]] = []
        self.bad: str | None = None  # where the first number that is not finite was
        self._layers = layers
        self._modules = recurrent_layers(model, layers)
        self._parameters = list(model.parameters())
        self._calls: LayerCalls | None = None
        self._arm(0)

    def wants(self, step: int) -> bool:
        """Whether this step is looked at."""
        return step in self.first or step % self.every == 0

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """One step of training: the forward pass (here or before) and the backward pass; weights move afterwards.

        Raises:
            ArgumentError: if a watched step ran no recurrent layer, or none with gradients.
        """
        self._arm(step)
        yield
        self.after(step)

    def __call__(self, step: int, model: nn.Module, batch: Any, loss: Callable[..., Tensor]) -> None:
        """Look by a call of `loss(model, *batch)` of its own, in eval mode, if this step is one to look at."""
        self._disarm()
        if self.wants(step):
            self._see(step, capture_layers(model, batch, loss, layers=self._layers, finite=False).places)

    def on_step(self, step: Any) -> None:
        """The callback of a training loop: `step` has `number`, `norm` (of the gradient before clipping) and `clip`."""
        self.clip = step.clip
        self.after(step.number, step.norm)

    def after(self, step: int, norm: float | None = None) -> None:
        """What `step` does at the end of its block: gradients are there, weights have not moved.

        Args:
            norm: of the whole gradient, where the loop knows it.
        """
        if norm is None and (self.wants(step) or step % _NORMS == 0):
            norm = self._norm()
        if norm is not None:
            self.norms.append((step, float(norm)))
            if not np.isfinite(norm) and self.bad is None:
                self.bad = f"the gradient is {float(norm)} at step {step} of the training"
        calls = self._calls if self.wants(step) else None
        if calls is not None:
            self._disarm()
            self._see(step, self._places(step, calls))
        self._arm(step + 1)

    def close(self) -> None:
        """Take all hooks away."""
        self._disarm()

    def of(self, name: str) -> list[Snapshot]:
        """What was seen of one place, by step."""
        return [g for g in self.snapshots if g.name == name]

    @property
    def clip_rate(self) -> float | None:
        """The share of steps whose gradient was clipped, None where that is not known."""
        if self.clip is None or not self.norms:
            return None
        return float(np.mean([norm > self.clip for _, norm in self.norms]))

    @property
    def percentiles(self) -> tuple[float | None, float | None]:
        """The median and the 99th percentile of the norms that are finite; None without any."""
        norms = [norm for _, norm in self.norms if np.isfinite(norm)]
        return tuple(np.percentile(norms, [50, 99]).tolist()) if norms else (None, None)  # type: ignore[return-value]

    @property
    def collapse(self) -> tuple[int, str] | None:
        """(step, place) at which the gradient's horizon collapsed within the first 100 steps; None if it did not."""
        for name in dict.fromkeys(g.name for g in self.snapshots):
            seen = self.of(name)
            start = seen[0]
            for g in seen[1:]:
                if g.step <= _EARLY and self._collapsed(start, g):
                    return g.step, name
        return None

    def _collapsed(self, start: Snapshot, now: Snapshot) -> bool:
        if self.lag is not None:
            before, after = start.share_at(self.lag), now.share_at(self.lag)
            return before is not None and after is not None and before >= _BLOCKED > after
        return now.horizon < start.horizon / 2 and now.state_gradient.k1000 is not None

    @property
    def finding(self) -> str:
        """What happened, in one or two sentences."""
        if not self.snapshots:
            return "Nothing was measured yet."
        parts = []
        if self.bad is not None:
            parts.append(f"First number that is not finite: {self.bad}.")
        fell = self.collapse
        if fell is not None:
            parts.append(f"{fell[1]}: horizon collapsed at step {fell[0]}: warm up, or lower the learning rate.")
        first, last = self.of(self.snapshots[0].name)[0], self.of(self.snapshots[0].name)[-1]
        if fell is None and last is not first:
            parts.append(
                f"{first.name}: a thousandth of the gradient is left after {first.horizon} steps at step {first.step}, "
                f"after {last.horizon} at step {last.step}."
            )
        p50, p99 = self.percentiles
        if p50 is not None and p99 is not None:
            text = f"Norm of the gradient: median {number(p50)}, 99 % below {number(p99)}"
            rate = self.clip_rate
            text += f", clipped at {percent(rate)} of the steps" if rate is not None else ""
            often = rate is not None and rate > 0.5
            parts.append(text + (": learning rate too high or threshold too low." if often else "."))
        return " ".join(parts)

    @classmethod
    def displays(cls, found: Mapping[str, Watch], asked: Asked) -> tuple[Display, ...]:
        """The horizons while it trained, and the norm of the gradient."""
        (watch,) = found.values()
        return _drawn(watch, asked.lag if watch.lag is None else watch.lag)

    def table(self) -> list[dict[str, Any]]:
        """One row for each place and step, plain numbers: what a chart over training draws."""
        return [
            {
                "step": g.step,
                "place": g.name,
                "k10": g.state_gradient.k10,
                "k1000": g.state_gradient.k1000,
                "horizon": g.horizon,
                "share_at_lag": g.share_at(self.lag),
                "half_life": None if g.retention is None else plain(float(np.median(g.retention.half_life))),
                "forget_gate": None if g.saturation is None else g.saturation.mean_of("f", "z"),
                "gradient_within": g.weight_gradient.within(0.9),
            }
            for g in self.snapshots
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, ready for JSON."""
        p50, p99 = self.percentiles
        return {
            "finding": self.finding,
            "collapse": None if self.collapse is None else list(self.collapse),
            "norm": {"p50": p50, "p99": p99, "clip_rate": self.clip_rate},
            "first_non_finite": self.bad,
            "table": self.table(),
        }

    def _arm(self, step: int) -> None:
        """Begin to record calls if this step is one to look at, and none otherwise."""
        if not self.wants(step):
            self._disarm()
        elif self._calls is None:
            self._calls = LayerCalls(self._modules, gradients=True, training=True).__enter__()

    def _disarm(self) -> None:
        if self._calls is not None:
            self._calls.__exit__()
            self._calls = None

    def _places(self, step: int, calls: LayerCalls) -> list[Place]:
        """The places of the calls that were recorded, each layer's longest that a gradient came back to."""
        longest = calls.longest(lambda call: call.arrived)
        if not longest:
            hint = "count steps one by one, or put the forward pass into the block of watch.step(step) too"
            ran = any(calls.of.values())
            what = "no gradient came back to a recurrent layer" if ran else "no recurrent layer ran"
            got = f"step {step}, layers {', '.join(path or 'itself' for path in calls.of)}"
            raise ArgumentError.of("Watch", what, got, "a forward and a backward pass", hint)
        for call in longest.values():
            call.gradients = [t.grad for t in call.outputs]
        return [place for place, _ in calls.places(longest, True)]

    def _see(self, step: int, places: Sequence[Place]) -> None:
        for place in places:
            self.snapshots.append(snapshot(step, place))
            if self.bad is None and self.snapshots[-1].weight_gradient.first_non_finite is not None:
                self.bad = f"{self.snapshots[-1].weight_gradient.first_non_finite} (step {step} of the training)"

    def _norm(self) -> float | None:
        grads = [p.grad for p in self._parameters if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(grads)) if grads else None


def snapshot(step: int, place: Place) -> Snapshot:
    """All that is watched of one place, in two passes over some of its rows."""
    if place.rows > _ROWS:
        place = place.some(torch.linspace(0, place.rows - 1, _ROWS, device=place.x.device).round().long())
    gates = None if place.no_gates else SaturationSums(place)
    kept = None if place.no_highway else RetentionSums(place, _STARTS)
    forward = [sums for sums in (gates, kept) if sums is not None]
    for part in place.forwards() if forward else ():
        for sums in forward:
            sums.add(part)
    enters = EnteringGradient(place, "loss")
    states, weights = StateGradientSums(place, enters), WeightGradientSums(place, enters)
    for part in enters.back():
        states.add(part)
        weights.add(part)
    results = (None if gates is None else gates.result(), None if kept is None else kept.result())
    return Snapshot(step, place.name, *results, states.result(), weights.result())


def _drawn(watch: Watch, lag: int | None) -> tuple[Display, ...]:
    """The horizon over the steps of a training, the share of the gradient at the lag, the norm of the gradient."""

    names = list(dict.fromkeys(g.name for g in watch.snapshots))

    def over_steps(value: Callable[[Snapshot], float]) -> dict[str, tuple[list[int], list[float]]]:
        return {name: ([g.step for g in watch.of(name)], [value(g) for g in watch.of(name)]) for name in names}

    horizon = over_steps(lambda g: float(g.horizon))
    out = [over_training(horizon, "How far the gradient comes back", "steps, to a thousandth", watch.finding)]
    if lag is not None and all(g.share_at(lag) is not None for g in watch.snapshots):
        share = over_steps(lambda g: float(g.state_gradient.share[lag]))
        first, last = (sum(v[k] for _, v in share.values()) / len(share) for k in (0, -1))
        said = f"The share at lag {lag:,} goes from {charts.number(first)} to {charts.number(last)}, as a mean over places."
        out.append(over_training(share, f"The share of the gradient that reaches lag {lag:,}", "share", said))
    if watch.norms:
        steps, norms = zip(*watch.norms, strict=True)
        middle, high = ("not finite" if p is None else charts.number(p) for p in watch.percentiles)
        clipped = "" if watch.clip_rate is None else f" {watch.clip_rate:.0%} of them were clipped."
        said = f"Its median is {middle}, its 99th percentile {high}.{clipped}"
        out.append(over_training({"norm": (steps, norms)}, "The norm of the gradient", "norm", said))
    return tuple(out)


def over_training(record: Mapping[str, tuple[Sequence[int], Sequence[float]]], title: str, y: str, finding: str) -> Display:
    """Curves over the steps of a training: name -> (steps, values)."""

    curves: charts.Curves = {}
    for name, (steps, values) in list(record.items())[: charts.PLACES]:
        thin = charts.evenly(len(steps), 120)
        curves[charts.label(name)] = np.asarray(steps)[thin], np.asarray(values, dtype=float)[thin]
    low, high = charts.span_of(curves)
    rows = [
        {
            "s": n,
            "x": int(x),
            "v": charts.short(charts.within(v, low, high)),
            "d": f"{n}, step {int(x):,}: {charts.number(float(v))}",
        }
        for n, (steps, values) in curves.items()
        for x, v in zip(steps, values, strict=True)
        if not np.isnan(v)
    ]

    def drawn(width: int) -> Chart:
        axis = alt.Axis(grid=False, format=",")
        x = alt.X("x:Q", title="training step", scale=alt.Scale(nice=False), axis=axis)
        chart = charts.lines(rows, x, alt.Y("v:Q", title=y, **charts.log_axis(low, high)), list(curves), 36)
        return chart.properties(width=width - charts.MARGIN, height=210)

    table = {
        "series": [name for name, (steps, _) in record.items() for _ in steps],
        "step": [int(v) for steps, _ in record.values() for v in steps],
        "value": [float(v) for _, values in record.values() for v in values],
    }
    return Display(title, drawn, table, finding, tuple(curves) if len(curves) > 1 else ())
