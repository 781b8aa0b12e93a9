"""The two measures of a lag: the share of the gradient that reaches it, and how far a flipped input moves what is read.

With a loss, or a whole model, the way from the inputs to what the loss reads is measured, wherever it leads
(`InputInfluence`). A bare layer without a loss, or a `Place`, is asked what of an input is left in its last state:

    share = mean_b || dL/ds_{T-lag} || / mean_b || dL/ds_T ||       L = sum_b v_b . h_T,  v_b a random unit vector
    flip  = mean_b || h_T' - h_T || / rms_b || h_T - mean h_T ||    the input at T-lag mirrored (`flip`)

s_T is the state after the last step, and h_T and c_T are independent coordinates of it (`state_gradient`). Of several layers
the one that does best speaks, since any of them may carry the lag. Of a last state at most 64 rows and the last 2 lag + 33
steps are looked at; a single long sequence is cut into rows. The lag is counted from the end of each row.

Legend: T time, B batch, I input size, R what is fed back, s the state (h, c) joined, or h for a cell without a highway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from openlstm.errors import ArgumentError, message
from openlstm.insight.batches import NotMeasurable, each, uncompiled
from openlstm.insight.calls import last_state
from openlstm.insight.capture import capture_layers
from openlstm.insight.measure.flip import Flip, flip
from openlstm.insight.measure.input_influence import InputInfluence
from openlstm.insight.measure.state_gradient import state_gradient
from openlstm.insight.place import Place
from openlstm.nn.batch import RECURRENT, Loss, formed, mapped
from openlstm.reference import State

ROWS = 64  # most sequences of a look


class Thresholds(NamedTuple):
    """Below both of them a lag is blocked."""

    share: float
    flip: float


THRESHOLDS = Thresholds(share=5e-6, flip=1e-5)
"""Of the last state: a tenth of the smallest value of any network with gates that learnt `recall`; no other task was asked
(papers/horizon.py)."""

LOSS_THRESHOLDS = Thresholds(share=7e-6, flip=1e-5)
"""Of the loss, drawn in the same way from the same networks before any other was judged."""


class Subject(NamedTuple):
    """What is looked at, whose gradient is followed, what a flip moves, and the thresholds."""

    name: str
    gradient: str
    read: str
    thresholds: Thresholds


LOSS = Subject("the loss", "gradient of the loss", "what the loss reads", LOSS_THRESHOLDS)
OUTPUT = Subject("the output", "gradient of a random probe of the output", "the output", LOSS_THRESHOLDS)
LAST_OUTPUT = Subject("the last output", "gradient of a random probe of the last output", "the last output", LOSS_THRESHOLDS)
LAST_STATE = Subject("the last state", "gradient", "the last state", THRESHOLDS)


class LagMeasures(NamedTuple):
    """The two measures.

    place: the layer that does best. gated: whether any layer has gates. of: what was looked at.
    depends: whether what is read depends on the input at the lag at all. rows: that reach back to the lag, and all.
    """

    share: float
    flip: Flip
    place: str
    gated: bool
    of: Subject = LAST_STATE
    depends: bool = True
    rows: tuple[int, int] = (0, 0)

    @property
    def low(self) -> bool:
        """Below both thresholds."""
        return self.share < self.of.thresholds.share and self.flip.ratio < self.of.thresholds.flip


def measure_lag(model: nn.Module | Place, data: Any, lag: int, *, loss: Any = None) -> LagMeasures:
    """The two measures alone.

    Raises:
        ArgumentError: for a lag outside the sequences, or fewer than two rows.
        NotMeasurable: where they cannot be taken.
    """
    if isinstance(model, Place):
        return LastState([model]).measured(lag)
    data, loss, _ = formed(model, data, loss, "measure_lag")
    return lag_measures(model, data, loss, capture_layers(model, data, loss).places, lag).measured(lag)


def lag_measures(
    model: nn.Module | Place, data: Any, loss: Loss | None, places: Sequence[Place], lag: int | None = None
) -> LastState | WholeModel:
    """What takes the measures: of the last state of a bare layer without a loss, else of the whole model.

    Args:
        data, loss: as `nn.batch.formed` gives them.
        places: of `capture_layers`.
        lag: that will be asked for, by which a single long sequence is cut into rows.

    Raises:
        ArgumentError: for a single sequence that is too short for it.
        NotMeasurable: where they cannot be taken.
    """
    if isinstance(model, nn.Module) and (loss is not None or not isinstance(model, RECURRENT)):
        whole = uncompiled(model)
        if places[0].rows == 1:
            data = _in_rows(data, places[0].steps, places[0].steps // 4 if lag is None else lag)
            places = capture_layers(whole, data, loss).places
        if places[0].rows == 1:
            raise ArgumentError(_no_spread(places[0].steps, lag or 0))
        return WholeModel(whole, data, loss, places)
    if any(p.reverse for p in places):
        raise NotMeasurable("the layer runs in two directions, and which of its outputs are read is not known: pass the loss")
    return LastState(places)


def _in_rows(data: Any, steps: int, lag: int) -> Any:
    """A single long sequence [T, 1, ..] or [1, T, ..], and the targets of its steps, as rows that follow each other."""
    _expect_lag(lag, steps)
    window = max(lag + 1, min(2 * lag + 33, steps // 2))
    rows = min(steps // window, ROWS)

    def cut(a: Any) -> Any:
        if not isinstance(a, Tensor):
            return a
        if rows < 2 or tuple(a.shape[:2]) not in ((steps, 1), (1, steps)):
            raise ArgumentError(_no_spread(steps, lag))
        first = a.shape[0] == steps
        some = (a[:, 0] if first else a[0])[-rows * window :].unflatten(0, (rows, window))
        return some.transpose(0, 1) if first else some

    return mapped(data, cut)


def _no_spread(steps: int, lag: int) -> str:
    got, hint = f"1 row of {steps} steps", f"pass a batch, or a sequence of {2 * (lag + 1)} steps or more"
    return message("verdict", "one sequence shows no spread", got, "two rows or more", hint)


class WholeModel(InputInfluence):
    """The measures of `InputInfluence`."""

    @property
    def of(self) -> Subject:
        """What is looked at."""
        if self.loss is not None:
            return LOSS
        return OUTPUT if all(read.steps is None for read in self.reads) else LAST_OUTPUT

    def measured(self, lag: int) -> LagMeasures:
        """The two measures."""
        self._expect(lag)
        found = LagMeasures(self.share(lag), self.flip(lag), "", any(p.gates for p in self.places), self.of)
        found = found._replace(rows=(int((self.ends > lag).sum()), self.rows))
        return found._replace(depends=self.depends(lag)) if found.low else found

    def _expect(self, lag: int) -> None:
        _expect_lag(lag, self.steps)
        if lag > self.longest:
            got = f"lag={lag}, {int((self.ends > lag).sum())} of {self.rows} rows are longer"
            raise ArgumentError(_short(got))


class LastState:
    """The measures of the last state of layers: the best share of any place, the best flip of any module."""

    of = LAST_STATE

    def __init__(self, places: Sequence[Place]) -> None:
        first = places[0]
        self.places = [p for p in places if not p.reverse and p.steps == first.steps and p.rows == first.rows]

    @property
    def longest(self) -> int:
        """The longest lag that can be looked at."""
        first = self.places[0]
        return (first.steps // 2 if first.rows == 1 else int(first.ends().sort(descending=True).values[1])) - 1

    def measured(self, lag: int) -> LagMeasures:
        """The two measures."""
        shares = {place.name: state_gradient(rows_of([place], lag)[0], "random").at(lag) for place in self.places}
        best = max(shares, key=shares.__getitem__)
        first = self.places[0]
        rows = (int((first.ends() > lag).sum()), first.rows)
        return LagMeasures(shares[best], self.flip(lag), best, any(place.gates for place in self.places), rows=rows)

    def shares(self) -> np.ndarray:
        """The share of every lag, of the place that reaches furthest."""
        found = [state_gradient(p, "random").share for p in self.places]
        return max(found, key=lambda share: int((share >= THRESHOLDS.share).sum()))

    def flip(self, lag: int) -> Flip:
        """The input flip at a lag."""
        flips = []
        for path in dict.fromkeys(place.path for place in self.places):
            module = rows_of([p for p in self.places if p.path == path], lag)
            flips.append(flip(lambda x, module=module: final_state(module, x), module[0].x, lag))
        return max(flips, key=lambda f: f.ratio)


def _expect_lag(lag: int, steps: int) -> None:
    if not 0 <= lag < steps:
        raise ArgumentError(_short(f"lag={lag}, T={steps}", "0 <= lag < T"))


def _short(got: str, expected: str = "two rows longer than the lag") -> str:
    hint = "pass sequences longer than the lag, or ask for a shorter one"
    return message("verdict", "the data are shorter than the lag", got, expected, hint)


def rows_of(places: Sequence[Place], lag: int) -> list[Place]:
    """The last steps of some rows of the layers of one module, each up to its own end; a single long sequence as rows."""
    first = places[0]
    _expect_lag(lag, first.steps)
    ends = first.ends()
    kept = (ends > lag).nonzero()[:ROWS, 0]
    if first.rows == 1:
        window = lag + 1
        kept = kept.new_zeros(min(int(ends[0]) // window, ROWS))
        last = ends[0] - window * torch.arange(len(kept), device=ends.device).flip(0)  # [rows], where each row ends
    else:
        last = ends[kept]
        window = min(int(last.min()), 2 * lag + 33) if len(kept) else 0
    if len(kept) < 2:
        if first.rows == 1:
            raise ArgumentError(_no_spread(first.steps, lag))
        raise ArgumentError(_short(f"lag={lag}, {len(kept)} of {first.rows} rows are longer"))
    at = last - window + torch.arange(window, device=ends.device)[:, None]  # [window, rows]

    def cut(p: Place) -> Place:  # of rows that are cut the state is not known
        state = each(p.state, lambda s: torch.where((at[0] == 0)[:, None], s[kept], 0))
        alone = p.taking(lambda a: a[at, kept], lambda a: a[kept]).calling(state=state, lengths=None, noise=None)
        return replace(alone, dy=None, dstate=None)

    return [cut(p) for p in places]


def final_state(places: Sequence[Place], x: Tensor) -> Tensor:
    """h_T [B, R] of the last forward layer of a module, for other inputs."""
    module = places[0].module
    own = next(module.parameters()).dtype  # of a module in half precision too, whose places are kept in float32

    def begin(k: int) -> Any:  # h or c of every layer and direction, zero where a place is not among these
        states: dict[Any, Any] = {(p.index, p.reverse): p.state[k] for p in places}
        empty: Any = places[0].state[k]
        if empty is None:
            return None
        every = [(layer, bool(way)) for layer in range(len(places)) for way in range(module.num_directions)]
        return torch.stack([states.get(one, torch.zeros_like(empty)) for one in every]).to(own)

    return last_state(module, x.to(own), State(begin(0), begin(1)), places[0].reset).to(x.dtype)
