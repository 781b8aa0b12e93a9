"""`Watch`: what a network remembers while it trains, at steps 0, 10, 25, 50, 100 and then every n.

D1, D2, D3 and D7 of every layer and direction, from the batch of the training step itself: hooks hear the forward pass of a
watched step, and when its gradients are there the recurrent layers alone run once more, in chunks. Nothing of the training
changes: not a bit of its numbers, not its random state. At other steps nothing is done but a norm now and then.

Horizons can collapse in the first ten steps: the share of the gradient that reaches the lag is destroyed before anything was
learnt, and training stays at chance. So the first looks are early, and `finding` names it. After training a short gradient
horizon is no defect (docs/horizon.md), so later ones raise no alarm.

Legend: T time, B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from openlstm.errors import ArgumentError, message
from openlstm.insight.census import Census, Counting
from openlstm.insight.ledger import Booking, Ledger
from openlstm.insight.look import Calls, Looked, Place, look, places_of, recurrent
from openlstm.insight.reach import Following, Reach
from openlstm.insight.retention import Keeping, Kept
from openlstm.insight.words import number, percent, plain

FIRST = (0, 10, 25, 50, 100)
_EARLY = 100  # steps within which a horizon that collapses is an alarm
_BLOCKED = 1e-3
_NORMS = 10  # steps between two norms of the gradient, where nobody hands them over
_ROWS = 16  # of a batch
_STARTS = 4  # windows a row, for retention


@dataclass(frozen=True)
class Glimpse:
    """One place at one step of a training."""

    step: int
    name: str
    census: Census | None
    kept: Kept | None
    reach: Reach
    ledger: Ledger

    @property
    def horizon(self) -> int:
        """The lag at which a thousandth of the gradient is left; the longest lag and one more if it never falls so far."""
        return len(self.reach.share) if self.reach.k1000 is None else self.reach.k1000

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, ready for JSON."""
        return plain(self)


class Watch:
    """Look at every recurrent layer of a model while it trains.

    Args:
        model: any module that holds recurrent layers.
        every: look at every so many steps.
        first: and at these.
        lag: the lag that matters; then a collapse is judged there.
        layers: as in `look`.
        clip: the greatest norm that the loop clips to; for the clip rate.

    In a loop of your own:

        watch = Watch(model, every=500, lag=60)
        for step, (x, y) in enumerate(batches):
            with watch.step(step):
                loss_of(model(x), y).backward()
            optimizer.step(); optimizer.zero_grad()
        print(watch.finding)

    The forward pass may also stand before the block, if steps are counted one by one. `watch(step, model, batch, loss)` looks
    by a call of its own instead, which also works for a compiled model. With `openlstm.train.train`: `each_step=[watch.hear]`.

    Attributes:
        glimpses: what was seen, one for each place and step.
        norms: (step, norm of the gradient before clipping).

    >>> import openlstm
    >>> model = openlstm.LSTM(2, 8)
    >>> watch = Watch(model, every=2, first=())
    >>> for step in range(3):
    ...     with watch.step(step):
    ...         model(torch.ones(20, 4, 2))[0][-1].sum().backward()
    >>> [(g.step, g.name) for g in watch.glimpses]
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
            raise ArgumentError(message("Watch", "every must be at least one step", f"every={every}", ">= 1", "use 500"))
        model = getattr(model, "_orig_mod", model)
        self.every, self.first, self.lag, self.clip = every, tuple(first), lag, clip
        self.glimpses: list[Glimpse] = []
        self.norms: list[tuple[int, float]] = []
        self.bad: str | None = None  # where the first number that is not finite was
        self._layers = layers
        self._modules = recurrent(model, layers)
        self._parameters = list(model.parameters())
        self._calls: Calls | None = None
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
            self._see(step, look(model, batch, loss, layers=self._layers, finite=False))

    def hear(self, step: Any) -> None:
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
            self._see(step, self._looked(step, calls))
        self._arm(step + 1)

    def close(self) -> None:
        """Take all hooks away."""
        self._disarm()

    def of(self, name: str) -> list[Glimpse]:
        """What was seen of one place, by step."""
        return [g for g in self.glimpses if g.name == name]

    @property
    def clip_rate(self) -> float | None:
        """The share of steps whose gradient was clipped, None where that is not known."""
        if self.clip is None or not self.norms:
            return None
        return float(np.mean([norm > self.clip for _, norm in self.norms]))

    @property
    def collapse(self) -> tuple[int, str] | None:
        """(step, place) at which the gradient's horizon collapsed within the first 100 steps; None if it did not."""
        for name in dict.fromkeys(g.name for g in self.glimpses):
            seen = self.of(name)
            start = seen[0]
            for g in seen[1:]:
                if g.step <= _EARLY and self._collapsed(start, g):
                    return g.step, name
        return None

    def _collapsed(self, start: Glimpse, now: Glimpse) -> bool:
        if self.lag is not None:
            K = min(len(start.reach.share), len(now.reach.share))
            if self.lag >= K:
                return False
            return start.reach.share[self.lag] >= _BLOCKED > now.reach.share[self.lag]
        return now.horizon < start.horizon / 2 and now.reach.k1000 is not None

    @property
    def finding(self) -> str:
        """What happened, in one or two sentences."""
        if not self.glimpses:
            return "Nothing was seen yet."
        parts = []
        if self.bad is not None:
            parts.append(f"First number that is not finite: {self.bad}.")
        fell = self.collapse
        if fell is not None:
            parts.append(f"{fell[1]}: horizon collapsed at step {fell[0]}: warm up, or lower the learning rate.")
        first, last = self.of(self.glimpses[0].name)[0], self.of(self.glimpses[0].name)[-1]
        if fell is None and last is not first:
            parts.append(
                f"{first.name}: a thousandth of the gradient is left after {first.horizon} steps at step {first.step}, "
                f"after {last.horizon} at step {last.step}."
            )
        norms = [norm for _, norm in self.norms if np.isfinite(norm)]
        if norms:
            p50, p99 = np.percentile(norms, [50, 99])
            text = f"Norm of the gradient: median {number(p50)}, 99 % below {number(p99)}"
            rate = self.clip_rate
            text += f", clipped at {percent(rate)} of the steps" if rate is not None else ""
            often = rate is not None and rate > 0.5
            parts.append(text + (": learning rate too high or threshold too low." if often else "."))
        return " ".join(parts)

    def table(self) -> list[dict[str, Any]]:
        """One row for each place and step, plain numbers: what a chart over training draws."""
        rows = []
        for g in self.glimpses:
            f = [name for name in ("f", "z") if g.census is not None and name in g.census.gates]
            share = g.reach.share
            rows.append(
                {
                    "step": g.step,
                    "place": g.name,
                    "k10": g.reach.k10,
                    "k1000": g.reach.k1000,
                    "horizon": g.horizon,
                    "share_at_lag": float(share[self.lag]) if self.lag is not None and self.lag < len(share) else None,
                    "half_life": plain(float(np.median(g.kept.half_life))) if g.kept is not None else None,
                    "forget_gate": float(g.census.mean[g.census.gates.index(f[0])].mean()) if f and g.census else None,
                    "signal_within": g.ledger.within(0.9),
                }
            )
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, ready for JSON."""
        norms = [norm for _, norm in self.norms if np.isfinite(norm)]
        p50, p99 = np.percentile(norms, [50, 99]).tolist() if norms else (None, None)
        return {
            "finding": self.finding,
            "collapse": None if self.collapse is None else list(self.collapse),
            "norm": {"p50": p50, "p99": p99, "clip_rate": self.clip_rate},
            "first_non_finite": self.bad,
            "table": self.table(),
        }

    def _arm(self, step: int) -> None:
        """Begin to listen if this step is one to look at, and hear nothing of it otherwise."""
        if not self.wants(step):
            self._disarm()
        elif self._calls is None:
            self._calls = Calls(self._modules, gradients=True, training=True).__enter__()

    def _disarm(self) -> None:
        if self._calls is not None:
            self._calls.__exit__()
            self._calls = None

    def _looked(self, step: int, calls: Calls) -> Looked:
        """The places of the calls that were heard, each layer's longest that a gradient came back to."""
        places: list[tuple[int, list[Place]]] = []
        for path, heard in calls.of.items():
            with_gradient = [call for call in heard if call.arrived]
            if not with_gradient:
                continue
            call = max(with_gradient, key=lambda call: call.length)
            call.gradients = [*(t.grad for t in call.outputs), None, None][:3]
            places.append((call.number, [place for place, _ in places_of(path, call, len(heard), True)]))
        if not places:
            hint = "count steps one by one, or put the forward pass into the block of watch.step(step) too"
            heard = any(calls.of.values())
            what = "no gradient came back to a recurrent layer" if heard else "no recurrent layer was heard"
            got = f"step {step}, layers {', '.join(path or 'itself' for path in calls.of)}"
            raise ArgumentError(message("Watch", what, got, "a forward and a backward pass", hint))
        return Looked(tuple(p for _, found in sorted(places, key=lambda item: item[0]) for p in found), None, None)

    def _see(self, step: int, looked: Looked) -> None:
        for place in looked.places:
            self.glimpses.append(glimpse(step, place))
            if self.bad is None and self.glimpses[-1].ledger.first_non_finite is not None:
                self.bad = f"{self.glimpses[-1].ledger.first_non_finite} (step {step} of the training)"

    def _norm(self) -> float | None:
        grads = [p.grad for p in self._parameters if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(grads)) if grads else None


def glimpse(step: int, place: Place) -> Glimpse:
    """D1, D2, D3 and D7 of one place in two passes over some of its rows."""
    if place.rows > _ROWS:
        place = place.some(torch.linspace(0, place.rows - 1, _ROWS, device=place.x.device).round().long())
    counting = None if place.no_gates else Counting(place)
    keeping = None if place.no_highway else Keeping(place, _STARTS)
    if counting or keeping:
        for part in place.forwards():
            for see in (counting, keeping):
                if see is not None:
                    see.see(part)
    following = Following(place)
    booking = Booking(place, enters=following.enters)
    for part in following.back():
        following.see(part)
        booking.see(part)
    return Glimpse(
        step,
        place.name,
        None if counting is None else counting.result(),
        None if keeping is None else keeping.result(),
        following.result(),
        booking.result(),
    )
