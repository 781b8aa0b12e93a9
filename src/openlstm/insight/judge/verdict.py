"""Before training: is a lag blocked? Two measures (`lag_measures`), two thresholds, one word.

    blocked       share and flip below the thresholds of the measure
    no verdict    it would be blocked, but nearer lags carry the information, the input at the lag never differs, what is read
                  does not depend on it by construction, or no layer has a gate: training moves the few weights of a vanilla RNN
                  to where gradients pass, and of those with a share of 1e-12 and less some learnt `recall`;
                  or the measures cannot be taken (`NotMeasurable`), as of a bare layer of two directions without a loss
    not blocked   otherwise

'Blocked' is a law with exceptions that are counted (docs/horizon.md); 'not blocked' promises nothing: it means that these two
measures saw no obstacle. Neither is asked of a trained network, where a bit that saturated units hold has a vanishing gradient:
there `ablation`.

Legend: T time, B batch, I input size, D size of a target.

Source: Bengio, Simard & Frasconi 1994; thresholds and their limits: papers/horizon.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from openlstm.errors import ArgumentError
from openlstm.insight.batches import NotMeasurable
from openlstm.insight.capture import capture_layers
from openlstm.insight.judge.lag_measures import LOSS, LOSS_THRESHOLDS, LagMeasures, Thresholds, lag_measures
from openlstm.insight.judge.required_lag import RequiredLag, required_lag
from openlstm.insight.place import Place
from openlstm.insight.results import Record
from openlstm.nn.batch import formed

NEARER = 0.1  # of what a linear model can tell, told by nearer lags: from here on there is no verdict
OWN = 32  # longest context by which the inputs are asked whether they tell of themselves
ENOUGH = 100  # sequences with targets that a linear model needs


@dataclass(frozen=True)
class Verdict(Record):
    """The word for one lag, and the numbers behind it.

    word: "blocked", "not blocked" or "no verdict".
    share, flip: as defined above; NaN where they could not be taken.
    of: what was looked at: "the loss"; "the output" or, of one at every step, "the last output"; "the last state"; "nothing".
    place: the layer whose last state does best; "" where the whole model was followed.
    required: what a linear model says of the data; None where there was too little of them.
    """

    shown: ClassVar[tuple[str, ...]] = ("finding",)

    word: str
    lag: int
    share: float
    flip: float
    thresholds: Thresholds
    reason: str
    place: str = "0"
    required: RequiredLag | None = None
    of: str = "the last state"

    @property
    def finding(self) -> str:
        """One sentence."""
        return f"Lag {self.lag}: {self.word}. {self.reason}"


def verdict(
    model: nn.Module | Place,
    data: Any = None,
    lag: int | None = None,
    *,
    loss: Any = None,
    target: Any = None,
    required: RequiredLag | None = None,
    layers: str | Sequence[str] | None = None,
) -> Verdict:
    """Say of an untrained network whether a lag is blocked.

    Args:
        model: a recurrent layer, a module that holds some, or a `Place` that `capture_layers` found (then `data` is not read).
        data, loss: as in `openlstm.xray`. With a loss it is followed; without one the output of a model, the last state of a
            layer.
        lag: steps between what has to be remembered and the last step of a row; None for the lag that the data need.
        target: what is to be learnt, [B] or [B, D] for the end of the sequences or [T, B, D]; with 100 sequences or more a
            linear model says what nearer lags tell of it. Without it the inputs are asked what they tell of themselves.
        required: an answer of `required_lag` that is there already.
        layers: only these, as in `capture_layers`.

    Raises:
        ArgumentError: for a lag outside the sequences, fewer than two rows, or no lag in sight.

    >>> import openlstm
    >>> _ = torch.manual_seed(0)
    >>> layer, x = openlstm.LSTM(1, 32), torch.randn(121, 32, 1)
    >>> verdict(layer, x, lag=120).word, verdict(openlstm.nn.init.chrono(layer, 120), x, lag=120).word
    ('blocked', 'not blocked')
    """
    if isinstance(model, Place):
        places = (model,)
    else:
        data, loss, _ = formed(model, data, loss, "verdict")
        places = capture_layers(model, data, loss, layers=layers).places
    if required is None:
        required = _required(places, target, lag)
    if lag is None:
        if required is None or required.lag is None:
            got, hint = "lag=None", "say which lag matters: lag=120"
            raise ArgumentError.of("verdict", "the data do not show which lag they need", got, "a lag", hint)
        lag = required.lag
    try:
        found = lag_measures(model, data, loss, places, lag).measured(lag)
    except NotMeasurable as why:
        reason = f"{str(why)[0].upper()}{str(why)[1:]}."
        return Verdict("no verdict", lag, math.nan, math.nan, LOSS_THRESHOLDS, reason, "", required, "nothing")
    return decide(found, lag, required)


def decide(found: LagMeasures, lag: int, required: RequiredLag | None = None) -> Verdict:
    """The word for two measures."""
    _, gradient, read, limits = found.of
    numbers = (
        f"the share of the {gradient} that reaches it is {found.share:.1e} (blocked below {limits.share:g}), "
        f"a flipped input moves {read} by {found.flip.ratio:.1e} of its spread (below {limits.flip:g})"
    )
    if not found.low:
        word, reason = "not blocked", f"{numbers[0].upper()}{numbers[1:]}: nothing here rules out that it is learnt."
    elif not found.flip.changed:
        word, reason = "no verdict", f"The input {lag} steps back is the same in every sequence: there is nothing to remember."
    elif not found.depends:
        word = "no verdict"
        reason = f"By construction {read} does not depend on the input {lag} steps back: the model or the loss leaves it out."
    elif not found.gated:
        word = "no verdict"
        reason = f"{numbers[0].upper()}{numbers[1:]}; of a vanilla RNN such numbers do not tell, take a layer with gates."
    elif required is not None and required.nearer(lag) >= NEARER:
        told = f"a linear model of nearer lags already tells {required.nearer(lag):.0%} of what one of all lags tells"
        word = "no verdict"
        reason = f"{told}, so that a network can learn its way back step by step; {numbers}."
        reason = reason[0].upper() + reason[1:]
    else:
        who = "training" if found.of is LOSS else f"training that reads {read} alone"
        more = "" if found.of is LOSS else " Where more is read, pass the loss."
        word, reason = "blocked", f"{numbers[0].upper()}{numbers[1:]}: {who} gets no signal from it.{more}"
    reach, every = found.rows
    if reach < every:
        reason += f" {reach} of {every} rows reach so far back."
    return Verdict(word, lag, found.share, found.flip.ratio, limits, reason, found.place, required, found.of.name)


def _required(places: Sequence[Place], target: Any, lag: int | None) -> RequiredLag | None:
    """What a linear model says, of the target where there are enough rows with one, else of the inputs themselves."""
    x, target = aligned(places[0], target, lag)
    T, B = x.shape[:2]
    every = getattr(target, "shape", ())[:2] == (T, B)
    if target is not None and (B if not every else B * (T // 2)) >= ENOUGH:
        return required_lag(x, target)
    longest = min(OWN if lag is None else min(lag, OWN), (T - 1) // 2)
    if longest < 1 or B * (T - longest) < 2 * ENOUGH or target is not None and lag is None:
        return None
    found = required_lag(x, longest=longest, features=128)
    return None if found.lag is None else found


def aligned(place: Place, target: Any = None, lag: int | None = None) -> tuple[Tensor, Any]:
    """The inputs [T', B', I] of a place, and the targets, of rows that end together.

    Rows of different lengths are cut to the last steps that those longer than the lag have (without one the longer half).
    """
    ends = place.ends()
    if bool((ends == place.steps).all()):
        return place.x, target
    rows = (ends > (int(ends.median()) - 1 if lag is None else lag)).nonzero()[:, 0]
    if not len(rows):
        return place.x[:0], None
    at = ends[rows] - int(ends[rows].min()) + torch.arange(int(ends[rows].min()), device=ends.device)[:, None]
    shape = getattr(target, "shape", ())
    if shape[:2] == (place.steps, place.rows):
        target = target[at, rows]
    elif shape[:1] == (place.rows,):
        target = target[rows]
    return place.x[at, rows], target
